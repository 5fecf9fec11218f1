//! The queues of this shard: where they stand, by name and by id.
//!
//! Invariant: every shelf that is taken is listed under its queue's name and its id, and nothing else is.

use super::{Engine, Meter, Shelf};
use crate::queue::Queue;
use std::collections::VecDeque;
use std::hash::BuildHasher;

impl Engine {
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        let shelves = &self.shelves;
        let named = |i: &u32| &*shelves[*i as usize].as_ref().expect("listed").queue.name == name;
        self.names.find(self.hasher.hash_one(name), named).copied()
    }

    pub(super) fn shelf(&mut self, index: u32) -> &mut Shelf {
        self.shelves[index as usize].as_mut().expect("an index comes from the tables")
    }

    pub(super) fn shelve(&mut self, queue: Queue) -> u32 {
        let hash = self.hasher.hash_one(&*queue.name);
        let id = queue.id;
        let line = self.line_of(&queue.name);
        let meter = Meter::new(self.now.mono_ms, &queue.counters);
        let settings = self.settings_of(&queue.name);
        let has_messages = queue.counters.present() > 0;
        let mut shelf = Shelf {
            queue,
            waiters: VecDeque::new(),
            line,
            passed: 0,
            meter,
            settings,
            fan: None,
            of: None,
            asked_ms: self.now.mono_ms,
            ends_ms: 0,
            refused: 0,
            counted_bytes: 0,
            counted_unconfirmed: 0,
            may_expire: false,
            is_listed: false,
        };
        shelf.may_expire = shelf.bounds_stay();
        let shelf = Some(shelf);
        let index = match self.free_shelves.pop() {
            Some(index) => {
                self.shelves[index as usize] = shelf;
                index
            }
            None => {
                self.shelves.push(shelf);
                u32::try_from(self.shelves.len() - 1).expect("fewer than 2^32 queues")
            }
        };
        let (shelves, hasher) = (&self.shelves, &self.hasher);
        let rehash = |i: &u32| hasher.hash_one(&*shelves[*i as usize].as_ref().expect("listed").queue.name);
        self.names.insert_unique(hash, index, rehash);
        self.by_id.insert(id, index);
        self.stats.queues += 1;
        self.count_unconfirmed(index);
        if has_messages {
            // After a start, and for a new group: what there is may expire.
            self.enlist(index);
        }
        index
    }

    pub(super) fn unshelve(&mut self, index: u32) -> Shelf {
        let shelf = self.shelves[index as usize].take().expect("an index comes from the tables");
        let hash = self.hasher.hash_one(&*shelf.queue.name);
        let entry = self.names.find_entry(hash, |i| *i == index);
        entry.expect("every shelf is listed").remove();
        self.by_id.remove(&shelf.queue.id);
        self.free_shelves.push(index);
        self.stats.queues -= 1;
        self.stats.unconfirmed -= shelf.counted_unconfirmed;
        shelf
    }
}
