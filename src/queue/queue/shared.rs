//! What a queue knows of messages that it shares with other readers, each a queue of its own: which of them it has passed.
//!
//! Ranges hold what is still to come, so whatever is below them is passed, unless it is open, moving or has returned. What was passed out of order
//! before a start, or set aside as damaged, stands in `passed_ahead` until the ranges begin behind it.
//!
//! Invariant: [`Queue::has_passed`] is true exactly for the stored messages that are neither ready, open nor moving here.

use super::super::memory::Place;
use super::{Apart, Queue};
use crate::ids::MessageId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;

impl Queue {
    /// Whether this reader has neither ready nor open, nor still before it, a message that is stored.
    pub fn has_passed(&self, message: MessageId) -> bool {
        let is_apart = self.open.contains_key(&message) || self.returned.contains_key(&message);
        let is_apart = is_apart || self.moving.contains_key(&message);
        !is_apart && (message < self.passed_below() || self.passed_ahead.contains_key(&message))
    }

    /// All messages below are passed, but those that are open, moving or have returned.
    pub fn passed_below(&self) -> MessageId {
        self.head.front().map_or(MessageId(self.head_end.0 + 1), |entry| entry.message)
    }

    /// The head of a queue that is not empty has at least this id.
    pub fn head_from(&self) -> MessageId {
        self.first_returned().map_or(self.passed_below(), |(message, _)| message)
    }

    /// All messages below are passed.
    pub fn low(&self) -> MessageId {
        let first = |apart: &BTreeMap<MessageId, Apart>| apart.first_key_value().map(|(id, _)| *id);
        let open = self.open.first_key_value().map(|(id, _)| *id);
        [open, first(&self.returned), first(&self.moving)]
            .into_iter()
            .flatten()
            .fold(self.passed_below(), MessageId::min)
    }

    /// What is open, moving or has returned, where it is in memory if it is, and the bytes of its body.
    pub fn apart(&self) -> impl Iterator<Item = (MessageId, Option<Place>, u64)> {
        let open = self.open.iter().map(|(message, open)| (*message, open.place, open.size));
        let others = self.returned.iter().chain(&self.moving);
        open.chain(others.map(|(message, it)| (*message, it.place, it.size)))
    }

    /// What this reader has passed although it has not come there yet, and the bytes of the bodies where they are known.
    pub fn passed_ahead(&self) -> impl Iterator<Item = (MessageId, Option<u64>)> {
        self.passed_ahead.range(self.passed_below()..).map(|(message, size)| (*message, *size))
    }

    /// Gets the ranges of another reader; this one is new. What that has passed ahead is still for this one if `is_stored` says so; that is in
    /// the store, so this one's middle begins there, and it is not known how large it is: at most `stored_bytes`. `stored_below` is where the
    /// store ends. Calls `each` for every entry, which is now in two of them.
    pub fn copy_ranges(
        &mut self,
        from: &Queue,
        is_stored: impl Fn(MessageId) -> bool,
        stored_bytes: u64,
        stored_below: MessageId,
        mut each: impl FnMut(Place),
    ) {
        self.head.clone_from(&from.head);
        self.tail.clone_from(&from.tail);
        (self.middle, self.head_end) = (from.middle, from.head_end);
        let (ahead, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            from.passed_ahead().partition(|(message, _)| is_stored(*message));
        if let Some((&first, _)) = ahead.first_key_value().filter(|(first, _)| **first <= self.head_end) {
            if self.middle == 0 {
                self.tail = self.head.split_off(self.head.partition_point(|e| e.message < stored_below));
            }
            let again = self.head.split_off(self.head.partition_point(|e| e.message < first));
            self.middle += again.len() as u64;
            self.head_end = MessageId(first.0 - 1);
        }
        self.middle += ahead.len() as u64;
        self.passed_ahead = gone;
        let apart: u64 = from.apart().map(|(_, _, size)| size).sum();
        self.bytes = if ahead.is_empty() { from.bytes.saturating_sub(apart) } else { stored_bytes };
        self.knows_bytes = from.knows_bytes && ahead.is_empty();
        self.head.iter().chain(&self.tail).for_each(|entry| each(entry.place));
    }

    /// Adds a message that another reader has open or returned. `false`: it is there, and stays where it is in memory.
    pub fn add_returned(&mut self, message: MessageId, place: Option<Place>, size: u64) -> bool {
        let Vacant(vacant) = self.returned.entry(message) else { return false };
        vacant.insert(Apart { place, size });
        self.bytes += size;
        true
    }

    /// Whether [`Queue::bytes`] is exact, and what was passed ahead has a size.
    pub fn knows_bytes(&self) -> bool {
        self.knows_bytes && self.passed_ahead().all(|(_, size)| size.is_some())
    }
}
