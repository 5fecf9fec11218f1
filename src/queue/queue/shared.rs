//! What a queue knows of messages that it shares with other readers, each a queue of its own: which of them it has passed.
//!
//! Ranges hold what is still to come, so whatever is below them is passed, unless it is open, moving or has returned. What was passed out of order
//! before a start, or set aside as damaged, is [`Ahead`] until the ranges begin behind it.
//!
//! Invariant: [`Queue::has_passed`] is true exactly for the stored messages that are neither ready, open nor moving here.

use super::super::memory::Place;
use super::{Apart, Queue};
use crate::ids::MessageId;
use crate::message_set::MessageSet;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;

/// What a reader has passed although it has not come there yet.
#[derive(Default)]
pub(super) struct Ahead {
    /// Before the start, or before there was this reader.
    pub passed: MessageSet,
    /// What was set aside as damaged, with the bytes of the bodies.
    pub damaged: BTreeMap<MessageId, u64>,
}

impl Ahead {
    /// Nothing for nothing: a queue that has none pays a pointer for it.
    pub fn of(passed: MessageSet, damaged: BTreeMap<MessageId, u64>) -> Option<Box<Ahead>> {
        Some(Box::new(Ahead { passed, damaged })).filter(|ahead| !ahead.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.damaged.is_empty()
    }

    fn contains(&self, message: MessageId) -> bool {
        self.passed.contains(message) || self.damaged.contains_key(&message)
    }

    fn remove_below(&mut self, below: MessageId) {
        if self.passed.first().is_some_and(|first| first < below) {
            self.passed.remove_below(below);
        }
        if self.damaged.first_key_value().is_some_and(|(first, _)| *first < below) {
            self.damaged = self.damaged.split_off(&below);
        }
    }
}

impl Queue {
    /// Whether this reader has neither ready nor open, nor still before it, a message that is stored.
    pub fn has_passed(&self, message: MessageId) -> bool {
        let is_apart = self.open.contains_key(&message) || self.returned.contains_key(&message);
        let is_apart = is_apart || self.moving.contains_key(&message);
        !is_apart && (message < self.passed_below() || self.is_passed_ahead(message))
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

    /// Whether this reader has passed a message otherwise than by coming there.
    pub(super) fn is_passed_ahead(&self, message: MessageId) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.contains(message))
    }

    /// What this reader has passed although it has not come there yet.
    pub fn passed_ahead(&self) -> MessageSet {
        let Some(ahead) = &self.ahead else { return MessageSet::default() };
        let mut all = ahead.passed.clone();
        all.extend(ahead.damaged.keys().copied());
        all.remove_below(self.passed_below());
        all
    }

    /// Those of it that were set aside as damaged, and the bytes of their bodies.
    pub fn damaged_ahead(&self) -> impl Iterator<Item = (MessageId, u64)> {
        let damaged = self.ahead.iter().flat_map(|ahead| ahead.damaged.range(self.passed_below()..));
        damaged.map(|(message, size)| (*message, *size))
    }

    /// Those of `messages` for which [`Queue::has_passed`] is true.
    pub fn passed_of(&self, messages: &MessageSet) -> MessageSet {
        let mut passed = messages.below_or_in(self.passed_below(), &self.passed_ahead());
        self.apart().for_each(|(message, ..)| passed.remove(message));
        passed
    }

    /// What the ranges begin behind needs no place ahead of them. Not for the usual queue, which has nothing ahead.
    #[cold]
    pub(super) fn forget_ahead(&mut self) {
        let below = self.passed_below();
        self.ahead.take_if(|ahead| {
            ahead.remove_below(below);
            ahead.is_empty()
        });
    }

    /// Gets the ranges of another reader; this one is new. What that has passed ahead is still for this one unless it is `gone`: it is in
    /// the store, so this one's middle begins there, and it is not known how large it is: at most `stored_bytes`. `stored_below` is where the
    /// store ends. Calls `each` for every entry, which is now in two of them.
    pub fn copy_ranges(
        &mut self,
        from: &Queue,
        gone: &MessageSet,
        stored_bytes: u64,
        stored_below: MessageId,
        mut each: impl FnMut(Place),
    ) {
        self.head.clone_from(&from.head);
        self.tail.clone_from(&from.tail);
        (self.middle, self.head_end) = (from.middle, from.head_end);
        let ahead = from.passed_ahead().without(gone);
        if let Some(first) = ahead.first().filter(|first| *first <= self.head_end) {
            if self.middle == 0 {
                self.tail = self.head.split_off(self.head.partition_point(|e| e.message < stored_below));
            }
            let again = self.head.split_off(self.head.partition_point(|e| e.message < first));
            self.middle += again.len() as u64;
            self.head_end = MessageId(first.0 - 1);
        }
        self.middle += ahead.len();
        let damaged: BTreeMap<_, _> = from.damaged_ahead().filter(|(message, _)| gone.contains(*message)).collect();
        self.ahead = Ahead::of(gone.without(&damaged.keys().copied().collect()), damaged);
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
        let last = self.ahead.as_ref().and_then(|ahead| ahead.passed.last());
        self.knows_bytes && last.is_none_or(|last| last < self.passed_below())
    }
}
