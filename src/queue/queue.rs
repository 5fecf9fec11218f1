//! One queue: its order, as three ranges.
//!
//! ```text
//!   head (memory)  │  middle (store only)  │  tail (memory)
//!   oldest ────────┼───────────────────────┼────────── newest
//! ```
//!
//! A queue that fits in memory is all head. When memory is short the stored end of the head is spilled and a middle appears;
//! from then on puts go to the tail. Gets take from the head; loads refill it from the middle.
//!
//! Invariants: ids rise through head, middle and tail; the tail is empty when the middle is; everything in the middle is
//! in the store; `head.len() + middle + tail.len() == counters.present()`; `bytes` is the sum of the bodies of all three.
//!
//! Does not know where bytes are kept ([`super::memory`]) and asks nobody to load: it says when its head is not in memory.

use super::counters::Counters;
use super::memory::Place;
use crate::ids::{MessageId, QueueId};
use std::collections::VecDeque;

/// A message that is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its id.
    pub message: MessageId,
    /// Its bytes.
    pub place: Place,
}

/// What a get finds at the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// This message.
    Ready(Entry),
    /// A message that must be loaded first.
    Stored,
    /// Nothing.
    Empty,
}

/// A queue's life.
pub struct Queue {
    /// Its id.
    pub id: QueueId,
    /// Its name.
    pub name: Box<[u8]>,
    /// What has happened to its messages.
    pub counters: Counters,
    head: VecDeque<Entry>,
    middle: u64,
    tail: VecDeque<Entry>,
    bytes: u64,
    /// No message at or below this id is in the middle or the tail.
    head_end: MessageId,
    /// A load was asked for, to go on after this id, and has not been answered.
    loading: Option<MessageId>,
    /// How many messages the last load brought, for deciding when to ask for the next.
    loaded_len: usize,
}

impl Queue {
    /// A queue that was never used.
    pub fn new(id: QueueId, name: &[u8]) -> Self {
        Self::stored(id, name, Counters::default(), 0)
    }

    /// A queue as the store knows it: all of it in the middle. `bytes`: of its bodies.
    pub fn stored(id: QueueId, name: &[u8], counters: Counters, bytes: u64) -> Self {
        Queue {
            id,
            name: name.into(),
            counters,
            head: VecDeque::new(),
            middle: counters.present(),
            tail: VecDeque::new(),
            // Damage can hide from the store how large messages were that left.
            bytes: if counters.present() > 0 { bytes } else { 0 },
            head_end: MessageId(0),
            loading: None,
            loaded_len: 0,
        }
    }

    /// Messages that a get can take.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.middle + self.tail.len() as u64
    }

    /// The bodies of these messages, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a message, newer than all others, with a body of `size` bytes.
    pub fn push(&mut self, entry: Entry, size: usize) {
        self.bytes += size as u64;
        if self.middle > 0 {
            self.tail.push_back(entry);
        } else {
            assert!(entry.message > self.head_end, "ids rise through a queue");
            self.head_end = entry.message;
            self.head.push_back(entry);
        }
    }

    /// Puts a message that left without being taken back to its place. It is in memory, and newer than what the store ends with.
    /// Its body has `size` bytes.
    pub fn put_back(&mut self, entry: Entry, size: usize) {
        self.bytes += size as u64;
        let range = if self.middle > 0 {
            assert!(entry.message > self.head_end, "what is in the store only is older");
            &mut self.tail
        } else {
            self.head_end = self.head_end.max(entry.message);
            &mut self.head
        };
        let at = range.partition_point(|e| e.message < entry.message);
        range.insert(at, entry);
    }

    /// Looks at the head.
    pub fn head(&self) -> Head {
        match self.head.front() {
            Some(entry) => Head::Ready(*entry),
            None if self.middle > 0 => Head::Stored,
            None => Head::Empty,
        }
    }

    /// Removes the head, which [`Queue::head`] said is ready, with its body of `size` bytes.
    pub fn pop(&mut self, size: usize) -> Entry {
        self.lose(size as u64);
        self.head.pop_front().expect("the caller saw a ready head")
    }

    /// Whether it is time to load more of the middle: the head runs low.
    pub fn wants_load(&self) -> bool {
        self.middle > 0 && self.loading.is_none() && self.head.len() <= self.loaded_len
    }

    /// Begins a load and returns what it must cover: ids above the first and below the second. `stored_below` is where the
    /// store ends.
    pub fn begin_load(&mut self, stored_below: MessageId) -> (MessageId, MessageId) {
        let below = self.tail.front().map_or(stored_below, |e| e.message.min(stored_below));
        self.loading = Some(self.head_end);
        (self.head_end, below)
    }

    /// Ends a load. `false`: messages were spilled or dropped meanwhile, and what it brought has no place any more.
    #[must_use]
    pub fn end_load(&mut self) -> bool {
        self.loading.take() == Some(self.head_end)
    }

    /// Puts loaded messages at the end of the head. `corrupt` messages, and the bytes of their bodies, were set aside and leave the
    /// middle too. Returns `false`, changing nothing, when the middle never had that many.
    #[must_use]
    pub fn append_loaded(&mut self, entries: &[Entry], corrupt: (u64, u64), reached: MessageId) -> bool {
        let len = entries.len() as u64 + corrupt.0;
        if len > self.middle {
            return false;
        }
        self.middle -= len;
        self.lose(corrupt.1);
        self.head.extend(entries);
        self.head_end = self.head_end.max(reached);
        self.loaded_len = entries.len();
        if self.middle == 0 {
            if let Some(last) = self.tail.back() {
                self.head_end = last.message;
            }
            self.head.append(&mut self.tail);
            self.tail.shrink_to(1024);
        }
        true
    }

    /// Moves what the store has (ids below `stored_below`) out of memory: of the head everything from `from` on, and the
    /// stored part of the tail. Calls `each` for what left memory.
    pub fn spill(&mut self, from: MessageId, stored_below: MessageId, mut each: impl FnMut(Entry)) {
        if self.middle == 0 {
            let stored = self.head.partition_point(|e| e.message < stored_below);
            self.tail = self.head.split_off(stored);
        }
        while self.tail.front().is_some_and(|e| e.message < stored_below) && self.middle > 0 {
            each(self.tail.pop_front().expect("just seen"));
            self.middle += 1;
        }
        while let Some(entry) = self.head.back().copied().filter(|e| e.message >= from) {
            self.head.pop_back();
            self.middle += 1;
            self.head_end = MessageId(entry.message.0 - 1);
            each(entry);
        }
        if self.middle == 0 {
            self.head.append(&mut self.tail);
        }
    }

    /// Drops every message, calling `each` for those in memory. Returns how many there were.
    pub fn clear(&mut self, newest: MessageId, mut each: impl FnMut(Entry)) -> u64 {
        let len = self.len();
        self.head.drain(..).chain(self.tail.drain(..)).for_each(&mut each);
        self.middle = 0;
        self.bytes = 0;
        self.head_end = newest;
        len
    }

    fn lose(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.bytes, "no more bytes leave a queue than came");
        // A wrong number would be bad; an end of the server for it, or one near 2^64, would be worse.
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The bookkeeping of the three ranges holds. `size` says how large a body in memory is, bytes.
    pub fn assert_consistent(&self, size: impl Fn(Place) -> usize) {
        assert!(self.middle > 0 || self.tail.is_empty(), "the tail is empty when the middle is");
        assert_eq!(self.len(), self.counters.present(), "the law of conservation");
        let in_memory: u64 = self.head.iter().chain(&self.tail).map(|e| size(e.place) as u64).sum();
        assert!(in_memory == self.bytes || self.middle > 0 && in_memory < self.bytes, "the bytes of all bodies");
        let ids: Vec<MessageId> = self.head.iter().chain(&self.tail).map(|e| e.message).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "ids rise");
        assert!(self.head.back().is_none_or(|e| e.message <= self.head_end));
        assert!(self.tail.front().is_none_or(|e| e.message > self.head_end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry { message: MessageId(n), place: Place { segment: 0, offset: n as u32 } }
    }

    /// A message has as many bytes as its number says.
    fn check(queue: &Queue) {
        queue.assert_consistent(|place| place.offset as usize);
    }

    fn queue(len: u64) -> Queue {
        let mut queue = Queue::new(QueueId(1), b"q");
        for n in 1..=len {
            queue.push(entry(n), n as usize);
            queue.counters.puts += 1;
        }
        check(&queue);
        queue
    }

    fn take(queue: &mut Queue) -> u64 {
        let Head::Ready(seen) = queue.head() else { panic!("{:?}", queue.head()) };
        assert_eq!(queue.pop(seen.place.offset as usize), seen);
        queue.counters.gets += 1;
        check(queue);
        seen.message.0
    }

    #[test]
    fn first_in_is_first_out() {
        let mut queue = queue(3);
        assert_eq!([take(&mut queue), take(&mut queue), take(&mut queue)], [1, 2, 3]);
        assert_eq!(queue.head(), Head::Empty);
    }

    #[test]
    fn spilled_messages_come_back_in_their_place() {
        let mut queue = queue(6);
        let mut gone = Vec::new();
        // 1 to 4 are stored; the newest stored ones, from 3 on, leave memory.
        queue.spill(MessageId(3), MessageId(5), |e| gone.push(e.message.0));
        check(&queue);
        assert_eq!(gone, [4, 3]);
        queue.push(entry(7), 7);
        queue.counters.puts += 1;
        assert_eq!([take(&mut queue), take(&mut queue)], [1, 2]);
        assert_eq!(queue.head(), Head::Stored);
        assert!(queue.wants_load());
        assert_eq!(queue.begin_load(MessageId(8)), (MessageId(2), MessageId(5)));
        assert!(queue.end_load());
        assert!(queue.append_loaded(&[entry(3), entry(4)], (0, 0), MessageId(4)));
        assert_eq!([0; 5].map(|_| take(&mut queue)), [3, 4, 5, 6, 7]);
        queue.push(entry(8), 8);
        queue.counters.puts += 1;
        assert_eq!(take(&mut queue), 8);
    }

    #[test]
    fn the_stored_part_of_the_tail_joins_an_existing_middle() {
        let mut queue = queue(6);
        queue.spill(MessageId(2), MessageId(4), |_| {});
        let mut gone = Vec::new();
        queue.spill(MessageId(4), MessageId(6), |e| gone.push(e.message.0));
        check(&queue);
        assert_eq!(gone, [4, 5]);
        assert_eq!(queue.begin_load(MessageId(6)), (MessageId(1), MessageId(6)));
    }

    #[test]
    fn spilling_nothing_changes_nothing() {
        let mut queue = queue(3);
        queue.spill(MessageId(4), MessageId(2), |_| panic!());
        check(&queue);
        assert_eq!([0; 3].map(|_| take(&mut queue)), [1, 2, 3]);
    }

    #[test]
    fn a_load_of_more_than_the_middle_is_refused() {
        let mut queue = Queue::stored(QueueId(1), b"q", Counters { puts: 2, gets: 1, ..Counters::default() }, 2);
        assert_eq!(queue.head(), Head::Stored);
        assert!(!queue.append_loaded(&[entry(1), entry(2)], (0, 0), MessageId(2)));
        assert!(queue.append_loaded(&[entry(2)], (0, 0), MessageId(2)));
        assert_eq!(take(&mut queue), 2);
    }

    #[test]
    fn a_load_overtaken_by_a_spill_has_no_place() {
        let mut queue = queue(6);
        queue.spill(MessageId(4), MessageId(6), |_| {});
        assert_eq!(queue.begin_load(MessageId(6)).0, MessageId(3));
        queue.spill(MessageId(2), MessageId(6), |_| {});
        assert!(!queue.end_load());
        assert_eq!(queue.begin_load(MessageId(6)).0, MessageId(1));
        assert!(queue.end_load());
    }

    #[test]
    fn a_message_that_comes_back_is_in_its_place() {
        let mut queue = Queue::new(QueueId(1), b"q");
        for n in [7, 3, 5, 4] {
            queue.put_back(entry(n), n as usize);
            queue.counters.puts += 1;
            check(&queue);
        }
        queue.push(entry(8), 8);
        queue.counters.puts += 1;
        // 3 and 4 are stored and leave memory; 6 comes back behind them, before 7.
        queue.spill(MessageId(3), MessageId(5), |_| {});
        queue.put_back(entry(6), 6);
        queue.counters.puts += 1;
        check(&queue);
        assert_eq!(queue.head(), Head::Stored);
        assert_eq!(queue.begin_load(MessageId(5)), (MessageId(2), MessageId(5)));
        assert!(queue.end_load());
        assert!(queue.append_loaded(&[entry(3), entry(4)], (0, 0), MessageId(4)));
        assert_eq!([0; 6].map(|_| take(&mut queue)), [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn clearing_counts_what_was_there() {
        let mut queue = queue(5);
        queue.spill(MessageId(2), MessageId(4), |_| {});
        let mut in_memory = 0;
        assert_eq!(queue.clear(MessageId(5), |_| in_memory += 1), 5);
        assert_eq!(in_memory, 3);
        queue.counters.deleted += 5;
        check(&queue);
    }
}
