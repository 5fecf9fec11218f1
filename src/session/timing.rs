//! When the requests began whose replies are not handed to the kernel yet.
//!
//! All sessions of a shard share one table, in which each has a list in the order of its replies: so an idle session owns
//! nothing of it, and a busy one allocates nothing. Requests of one kind that began in the same turn share an entry.
//!
//! Invariant: the ends in a list rise, and every entry is in one list or free.

use crate::latency;
use crate::latency::Metric;

/// The start of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Began {
    /// The turn that received its last byte, monotonic µs.
    pub at_us: u64,
    /// What it is measured as.
    pub metric: Metric,
}

/// A session's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    first: u32,
    last: u32,
}

const NONE: u32 = u32::MAX;

impl Default for Due {
    fn default() -> Self {
        Due { first: NONE, last: NONE }
    }
}

struct Entry {
    began: Began,
    /// Where the newest of their replies ends, in bytes since the start of the connection.
    end: u64,
    count: u32,
    next: u32,
}

/// The table.
pub struct Timings {
    entries: Vec<Entry>,
    /// The first free entry.
    free: u32,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { entries: Vec::new(), free: NONE }
    }
}

impl Timings {
    /// A reply was written that ends at `end`.
    pub fn add(&mut self, due: &mut Due, began: Began, end: u64) {
        if !latency::ENABLED {
            return;
        }
        if let Some(last) = self.entries.get_mut(due.last as usize)
            && last.began == began
        {
            last.count += 1;
            last.end = end;
            return;
        }
        let entry = Entry { began, end, count: 1, next: NONE };
        let index = match self.entries.get_mut(self.free as usize) {
            Some(free) => std::mem::replace(&mut self.free, std::mem::replace(free, entry).next),
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 replies")
            }
        };
        match self.entries.get_mut(due.last as usize) {
            Some(last) => last.next = index,
            None => due.first = index,
        }
        due.last = index;
    }

    /// Everything up to `end` was handed over: calls `each` with what that were, and how many.
    pub fn settle(&mut self, due: &mut Due, end: u64, mut each: impl FnMut(Began, u32)) {
        while let Some(first) = self.entries.get(due.first as usize)
            && first.end <= end
        {
            each(first.began, first.count);
            self.pop(due);
        }
    }

    /// The session is gone.
    pub fn forget(&mut self, due: &mut Due) {
        while due.first != NONE {
            self.pop(due);
        }
    }

    fn pop(&mut self, due: &mut Due) {
        let index = due.first;
        let entry = &mut self.entries[index as usize];
        due.first = std::mem::replace(&mut entry.next, self.free);
        self.free = index;
        if due.first == NONE {
            due.last = NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(at_us: u64, metric: Metric) -> Began {
        Began { at_us, metric }
    }

    fn settled(timings: &mut Timings, due: &mut Due, end: u64) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        timings.settle(due, end, |began, count| all.push((began.at_us, count)));
        all
    }

    #[test]
    fn replies_are_settled_in_order_as_far_as_they_were_handed_over() {
        let (mut timings, mut due, mut other) = (Timings::default(), Due::default(), Due::default());
        timings.add(&mut due, began(1, Metric::Put), 8);
        timings.add(&mut due, began(1, Metric::Put), 16);
        timings.add(&mut other, began(1, Metric::Put), 5);
        timings.add(&mut due, began(1, Metric::GetHit), 30);
        timings.add(&mut due, began(2, Metric::GetHit), 44);
        assert_eq!(settled(&mut timings, &mut due, 8), [], "the two puts share an entry");
        assert_eq!(settled(&mut timings, &mut due, 30), [(1, 2), (1, 1)]);
        timings.add(&mut due, began(3, Metric::GetHit), 58);
        assert_eq!(settled(&mut timings, &mut due, 100), [(2, 1), (3, 1)]);
        assert_eq!(settled(&mut timings, &mut other, 5), [(1, 1)]);
        assert_eq!((due, other), (Due::default(), Due::default()));
    }

    #[test]
    fn entries_are_used_again() {
        let mut timings = Timings::default();
        for round in 0..100 {
            let mut due = [Due::default(); 3];
            for at_us in 0..4 {
                due.iter_mut().for_each(|due| timings.add(due, began(at_us, Metric::Put), at_us + 1));
            }
            assert_eq!(settled(&mut timings, &mut due[0], 4).len(), 4);
            assert_eq!(settled(&mut timings, &mut due[1], round % 4).len(), (round % 4) as usize);
            due.iter_mut().for_each(|due| timings.forget(due));
        }
        assert_eq!(timings.entries.len(), 12);
    }
}
