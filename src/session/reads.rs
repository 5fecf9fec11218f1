//! What a connection has read and neither confirmed nor given back: by queue, oldest first.
//!
//! Invariant: what is listed here was open when it came; the shard that has the queue decides whether it still is. Where an open
//! read ended by itself its entry stays, until a close or an abort reaches it and is told so.

use crate::ids::{MessageId, QueueId, ShardId};
use crate::session::replies::SlotId;
use std::collections::VecDeque;

/// A message that a get has opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its queue.
    pub queue: QueueId,
    /// Which message.
    pub message: MessageId,
    /// Which reading of it.
    pub read: u64,
    /// It does not end with its connection.
    pub is_detached: bool,
}

/// The open reads of one connection.
#[derive(Default)]
pub struct Reads {
    queues: Vec<OfQueue>,
    len: usize,
    /// Gets that may open a message and are not answered yet.
    opening: Vec<(SlotId, Box<[u8]>)>,
    /// Readings that were confirmed from elsewhere before the answer came that tells of them.
    forgotten: Vec<(MessageId, u64)>,
}

struct OfQueue {
    name: Box<[u8]>,
    opened: VecDeque<(ShardId, Opened)>,
}

/// Queues without open reads that a connection remembers, so that it does not allocate for each read.
const UNUSED_LEN_MAX: usize = 4;

impl Reads {
    /// How many there are, those that may come included.
    pub fn len(&self) -> usize {
        self.len + self.opening.len()
    }

    /// How many there are.
    pub fn open_len(&self) -> usize {
        self.len
    }

    /// Whether there are none, and none may come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are of a queue.
    pub fn len_of(&self, name: &[u8]) -> usize {
        self.queues.iter().find(|of| &*of.name == name).map_or(0, |of| of.opened.len())
    }

    /// A get whose answer comes later may open a message of this queue.
    pub fn begin(&mut self, at: SlotId, name: &[u8]) {
        self.opening.push((at, name.into()));
    }

    /// Whether a get of this queue is not answered yet.
    pub fn is_opening(&self, name: &[u8]) -> bool {
        self.opening.iter().any(|(_, of)| &**of == name)
    }

    /// The answer to such a get has come, from this shard.
    pub fn end(&mut self, at: SlotId, shard: ShardId, opened: Option<Opened>) {
        let Some(index) = self.opening.iter().position(|(slot, _)| *slot == at) else { return };
        let (_, name) = self.opening.swap_remove(index);
        if let Some(opened) = opened
            && !self.forgotten.contains(&(opened.message, opened.read))
        {
            self.add(&name, shard, opened);
        }
        if self.opening.is_empty() {
            self.forgotten.clear();
        }
    }

    /// A message was opened.
    pub fn add(&mut self, name: &[u8], shard: ShardId, opened: Opened) {
        self.len += 1;
        if let Some(of) = self.queues.iter_mut().find(|of| &*of.name == name) {
            return of.opened.push_back((shard, opened));
        }
        if self.queues.len() >= UNUSED_LEN_MAX {
            self.queues.retain(|of| !of.opened.is_empty());
        }
        self.queues.push(OfQueue { name: name.into(), opened: VecDeque::from([(shard, opened)]) });
    }

    /// The oldest of a queue, which is listed no more.
    pub fn pop_oldest(&mut self, name: &[u8]) -> Option<(ShardId, Opened)> {
        let oldest = self.queues.iter_mut().find(|of| &*of.name == name)?.opened.pop_front()?;
        self.len -= 1;
        Some(oldest)
    }

    /// It was confirmed from elsewhere.
    pub fn forget(&mut self, message: MessageId, read: u64) {
        for of in &mut self.queues {
            if let Some(at) = of.opened.iter().position(|(_, it)| it.message == message && it.read == read) {
                of.opened.remove(at);
                self.len -= 1;
                return;
            }
        }
        if !self.opening.is_empty() {
            self.forgotten.push((message, read));
        }
    }

    /// All that are open, by queue, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = (ShardId, Opened)> {
        self.len = 0;
        std::mem::take(&mut self.queues).into_iter().flat_map(|of| of.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn opened(message: u64) -> Opened {
        Opened { queue: QueueId(1), message: MessageId(message), read: message, is_detached: false }
    }

    #[test]
    fn the_oldest_of_a_queue_comes_first() {
        let mut reads = Reads::default();
        for (name, message) in [(b"a", 1), (b"b", 2), (b"a", 3)] {
            reads.add(name, SHARD, opened(message));
        }
        assert_eq!((reads.len(), reads.len_of(b"a"), reads.len_of(b"c")), (3, 2, 0));
        assert_eq!(reads.pop_oldest(b"a").unwrap().1.message, MessageId(1));
        reads.forget(MessageId(3), 2);
        assert_eq!(reads.len_of(b"a"), 1, "that was another reading");
        reads.forget(MessageId(3), 3);
        assert_eq!(reads.pop_oldest(b"a"), None);
        assert_eq!(reads.drain().map(|(_, it)| it.message.0).collect::<Vec<_>>(), [2]);
        assert!(reads.is_empty());
    }

    #[test]
    fn what_may_come_counts() {
        let mut reads = Reads::default();
        let at = SlotId { slot: 7, part: 0 };
        reads.begin(at, b"q");
        assert!(reads.is_opening(b"q") && !reads.is_opening(b"r") && reads.len() == 1);
        reads.end(SlotId { slot: 8, part: 0 }, SHARD, Some(opened(1)));
        assert!(reads.is_opening(b"q"), "that was another get");
        reads.end(at, SHARD, Some(opened(2)));
        assert!(!reads.is_opening(b"q") && reads.len_of(b"q") == 1);
        reads.begin(at, b"q");
        reads.end(at, SHARD, None);
        assert_eq!(reads.len(), 1);
    }

    #[test]
    fn what_was_confirmed_before_it_is_known_does_not_come() {
        let mut reads = Reads::default();
        let at = SlotId { slot: 7, part: 0 };
        reads.begin(at, b"q");
        reads.forget(MessageId(1), 1);
        reads.end(at, SHARD, Some(opened(1)));
        assert!(reads.is_empty());
        reads.begin(at, b"q");
        reads.end(at, SHARD, Some(opened(1)));
        assert_eq!(reads.len_of(b"q"), 1, "that is forgotten, too");
    }

    #[test]
    fn queues_without_open_reads_are_forgotten_when_there_are_many() {
        let mut reads = Reads::default();
        for i in 0..100u8 {
            reads.add(&[i], SHARD, opened(u64::from(i)));
            reads.pop_oldest(&[i]);
        }
        assert!(reads.queues.len() <= UNUSED_LEN_MAX);
    }
}
