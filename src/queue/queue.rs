//! One queue: its order, as ranges; and what was read from it and not yet confirmed.
//!
//! ```text
//!   returned │ head (memory)  │  middle (store only)  │  tail (memory)
//!            │ oldest ────────┼───────────────────────┼────────── newest
//! ```
//!
//! A queue that fits in memory is all head. When memory is short the stored end of the head is spilled and a middle appears;
//! from then on puts go to the tail. Gets take from the head; loads refill it from the middle. A message that is read without being
//! taken is *open*. If it comes back it is among the returned, which keep their places: whichever is older, the first of them or the head, is
//! next. A message that is to go to another queue is *moving*: nobody gets it until it has left or is back among the returned. What is open,
//! returned or moving may have left memory, if the store has it.
//!
//! Invariants: ids rise through head, middle and tail; the tail is empty when the middle is; everything in the middle, and what
//! is open, returned or moving without a place in memory, is in the store; no message that ever was in the head is in the middle again once a younger one
//! was taken or opened; `len() + open_len() + moving_len() == counters.present()`; `bytes` is the sum of the bodies of all.
//!
//! Does not know where bytes are kept ([`super::memory`]) and asks nobody to load: it says when its head is not in memory. Does not
//! know who has read what: that is the engine's. What a queue has of messages that several readers share is in [`shared`].

mod shared;

use super::counters::Counters;
use super::memory::Place;
use crate::ids::{ConnId, MessageId, QueueId, ShardId};
use crate::message_set::MessageSet;
use hashbrown::HashMap;
use shared::Ahead;
use std::collections::{BTreeMap, VecDeque};

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

/// A message that was read and is neither confirmed nor given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    /// Which reading of it: a later one of the same message has another number.
    pub read: u64,
    /// Whose.
    pub shard: ShardId,
    /// Of that shard.
    pub conn: ConnId,
    /// It does not end with its connection.
    pub is_detached: bool,
    /// When it returns, monotonic ms; 0: never.
    pub deadline_ms: u64,
    /// Its bytes, unless they are only in the store.
    pub place: Option<Place>,
    /// Bytes of its body.
    pub size: u64,
}

/// A message that came back, or is moving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Apart {
    /// Its bytes, unless they are only in the store.
    pub place: Option<Place>,
    /// Bytes of its body.
    pub size: u64,
}

/// A load that was asked for and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loading {
    /// Of the middle, to go on after this id.
    Middle(MessageId),
    /// Of returned messages, from this one on.
    Returned(MessageId),
}

/// Returned messages that one load is asked for at most.
const RETURNED_LOAD_LEN_MAX: usize = 1024;

/// Tables up to this capacity are kept as they are.
const KEPT_CAPACITY: usize = 1024;

/// The capacity that a table of a queue is to have instead, if it is much too large: one that was full once does not keep for good what
/// other queues need, and one that is filled again and again is seldom copied.
fn smaller_capacity(len: usize, capacity: usize) -> Option<usize> {
    (capacity > KEPT_CAPACITY && len < capacity / 4).then_some(KEPT_CAPACITY.max(2 * len))
}

fn fit(entries: &mut VecDeque<Entry>) {
    if let Some(capacity) = smaller_capacity(entries.len(), entries.capacity()) {
        entries.shrink_to(capacity);
    }
}

/// How often a message was delivered is not known any more.
fn forget(deliveries: &mut HashMap<MessageId, u32>, message: MessageId) {
    if !deliveries.is_empty()
        && deliveries.remove(&message).is_some()
        && let Some(capacity) = smaller_capacity(deliveries.len(), deliveries.capacity())
    {
        deliveries.shrink_to(capacity);
    }
}

/// A queue's life.
pub struct Queue {
    /// Its id.
    pub id: QueueId,
    /// Its name.
    pub name: Box<[u8]>,
    /// What has happened to its messages.
    pub counters: Counters,
    returned: BTreeMap<MessageId, Apart>,
    head: VecDeque<Entry>,
    middle: u64,
    tail: VecDeque<Entry>,
    open: BTreeMap<MessageId, Open>,
    moving: BTreeMap<MessageId, Apart>,
    /// How often messages were delivered that came back. Those that never did are not in it.
    deliveries: HashMap<MessageId, u32>,
    bytes: u64,
    /// `bytes` is not too much. It may be for a reader of a queue with groups after a start, until it has no messages.
    knows_bytes: bool,
    /// What was passed although older messages were not, if there is any. None of it stays when it is loaded.
    ahead: Option<Box<Ahead>>,
    /// No message at or below this id is in the middle or the tail.
    head_end: MessageId,
    /// Messages below were dropped all at once.
    cleared_below: MessageId,
    loading: Option<Loading>,
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
            returned: BTreeMap::new(),
            head: VecDeque::new(),
            middle: counters.present(),
            tail: VecDeque::new(),
            open: BTreeMap::new(),
            moving: BTreeMap::new(),
            deliveries: HashMap::new(),
            // Damage can hide from the store how large messages were that left.
            bytes: if counters.present() > 0 { bytes } else { 0 },
            knows_bytes: true,
            ahead: None,
            head_end: MessageId(0),
            cleared_below: MessageId(0),
            loading: None,
            loaded_len: 0,
        }
    }

    /// A reader of a queue with groups as the store knows it: it has passed what is below `low`, and of what is above `passed_ahead`. `bytes`:
    /// at least those of what it has not passed.
    pub fn reader(
        id: QueueId,
        name: &[u8],
        counters: Counters,
        bytes: u64,
        low: MessageId,
        passed_ahead: MessageSet,
    ) -> Self {
        let head_end = MessageId(low.0.saturating_sub(1));
        let knows_bytes = counters.present() == 0;
        let ahead = Ahead::of(passed_ahead, BTreeMap::new());
        Queue { head_end, knows_bytes, ahead, ..Self::stored(id, name, counters, bytes) }
    }

    /// Messages that a get can take.
    pub fn len(&self) -> u64 {
        self.returned.len() as u64 + self.head.len() as u64 + self.middle + self.tail.len() as u64
    }

    /// Messages that were read and are neither confirmed nor given back.
    pub fn open_len(&self) -> u64 {
        self.open.len() as u64
    }

    /// Messages that are open or have come back: what costs memory apart from the ranges until it has left the queue.
    pub fn unconfirmed_len(&self) -> u64 {
        self.open_len() + self.returned.len() as u64
    }

    /// Whether the head is a message that has come back.
    pub fn has_returned_head(&self) -> bool {
        self.first_returned().is_some()
    }

    /// Messages that are on their way to another queue.
    pub fn moving_len(&self) -> u64 {
        self.moving.len() as u64
    }

    /// The bodies of all its messages, open and moving ones too, bytes.
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

    /// Puts a message that left without being taken, or was never among the others, to its place. It is in memory. Its body has `size`
    /// bytes.
    pub fn put_back(&mut self, entry: Entry, size: usize) {
        self.bytes += size as u64;
        let returned = Apart { place: Some(entry.place), size: size as u64 };
        assert!(self.returned.insert(entry.message, returned).is_none(), "what comes back was gone");
        // What is in the ranges came later. A message that was never among them is apart from them now like any other that has returned.
        self.head_end = self.head_end.max(entry.message);
    }

    /// Looks at the head.
    pub fn head(&self) -> Head {
        if let Some((message, returned)) = self.first_returned() {
            return returned.place.map_or(Head::Stored, |place| Head::Ready(Entry { message, place }));
        }
        match self.head.front() {
            Some(entry) => Head::Ready(*entry),
            None if self.middle > 0 => Head::Stored,
            None => Head::Empty,
        }
    }

    /// The first returned message, if it is older than all in the ranges.
    fn first_returned(&self) -> Option<(MessageId, Apart)> {
        if self.returned.is_empty() {
            return None;
        }
        let (&message, &returned) = self.returned.first_key_value()?;
        let is_first = match self.head.front() {
            Some(entry) => message < entry.message,
            None => self.middle == 0 || message <= self.head_end,
        };
        is_first.then_some((message, returned))
    }

    /// Removes the head, which [`Queue::head`] said is ready, for good. Its body has `size` bytes.
    pub fn pop(&mut self, size: usize) -> Entry {
        let entry = self.pop_ready();
        self.count_out(entry.message, size as u64);
        entry
    }

    /// A message has left for good.
    fn count_out(&mut self, message: MessageId, size: u64) {
        self.lose(size);
        self.forget(message);
        self.know_bytes_when_empty();
    }

    fn know_bytes_when_empty(&mut self) {
        if !self.knows_bytes && self.len() + self.open_len() + self.moving_len() == 0 {
            (self.bytes, self.knows_bytes) = (0, true);
        }
    }

    fn pop_ready(&mut self) -> Entry {
        if let Some((message, returned)) = self.first_returned() {
            self.returned.remove(&message);
            return Entry { message, place: returned.place.expect("the caller saw a ready head") };
        }
        let entry = self.head.pop_front().expect("the caller saw a ready head");
        fit(&mut self.head);
        if self.ahead.is_some() {
            self.forget_ahead();
        }
        entry
    }

    // --- open reads ---

    /// Opens the head, which [`Queue::head`] said is ready.
    pub fn open(&mut self, mut open: Open) -> MessageId {
        let entry = self.pop_ready();
        open.place = Some(entry.place);
        self.open.insert(entry.message, open);
        entry.message
    }

    /// The open read of a message, if there is one.
    pub fn opened(&mut self, message: MessageId) -> Option<&mut Open> {
        self.open.get_mut(&message)
    }

    /// Ends an open read whose message leaves for good. It holds its place in memory no more.
    pub fn confirm(&mut self, message: MessageId) -> Open {
        let open = self.open.remove(&message).expect("the caller saw that it is open");
        self.count_out(message, open.size);
        open
    }

    /// Ends an open read: its message is ready again, in its place. Returns how often it was delivered by now.
    pub fn give_back(&mut self, message: MessageId) -> u32 {
        let Open { place, size, .. } = self.open.remove(&message).expect("the caller saw that it is open");
        self.returned.insert(message, Apart { place, size });
        let deliveries = self.deliveries.entry(message).or_insert(0);
        *deliveries = deliveries.saturating_add(1);
        *deliveries
    }

    /// How often a message was delivered and came back.
    pub fn deliveries(&self, message: MessageId) -> u32 {
        self.deliveries.get(&message).copied().unwrap_or(0)
    }

    /// The store says how often a message was delivered and came back. What is known here already is newer: the store is behind with
    /// what the last checkpoint did not bring.
    pub fn learn_deliveries(&mut self, message: MessageId, deliveries: u32) {
        self.deliveries.entry(message).or_insert(deliveries);
    }

    /// Whether a message was dropped together with all others that were there.
    pub fn was_cleared(&self, message: MessageId) -> bool {
        message < self.cleared_below
    }

    /// All open reads, oldest message first.
    pub fn opens(&self) -> impl Iterator<Item = (MessageId, &Open)> {
        self.open.iter().map(|(message, open)| (*message, open))
    }

    /// A message that is open, moving or has returned leaves memory: the store has it. Returns where it was, if it was there.
    pub fn evict(&mut self, message: MessageId) -> Option<Place> {
        if let Some(open) = self.open.get_mut(&message) {
            return open.place.take();
        }
        let apart = self.returned.get_mut(&message).or_else(|| self.moving.get_mut(&message));
        apart?.place.take()
    }

    fn forget(&mut self, message: MessageId) {
        forget(&mut self.deliveries, message);
    }

    // --- moves to other queues ---

    /// The head, which [`Queue::head`] said is ready, is to go to another queue. Its body has `size` bytes.
    pub fn begin_move(&mut self, size: usize) -> MessageId {
        let Entry { message, place } = self.pop_ready();
        self.moving.insert(message, Apart { place: Some(place), size: size as u64 });
        message
    }

    /// A moving message. `None`: it has left, or was dropped meanwhile.
    pub fn moving(&self, message: MessageId) -> Option<Apart> {
        self.moving.get(&message).copied()
    }

    /// A moving message is ready again, in its place.
    pub fn cancel_move(&mut self, message: MessageId) {
        let apart = self.moving.remove(&message).expect("the caller saw that it is moving");
        self.returned.insert(message, apart);
    }

    /// A moving message has left for good. It holds its place in memory no more.
    pub fn end_move(&mut self, message: MessageId) -> Apart {
        let apart = self.moving.remove(&message).expect("the caller saw that it is moving");
        self.count_out(message, apart.size);
        apart
    }

    // --- loads ---

    /// Whether it is time to load more: the head runs low, or is a returned message that is not in memory.
    pub fn wants_load(&self) -> bool {
        if self.loading.is_some() {
            return false;
        }
        let is_low = self.middle > 0 && self.head.len() <= self.loaded_len;
        is_low || self.first_returned().is_some_and(|(_, returned)| returned.place.is_none())
    }

    /// Begins a load and returns what it must cover: ids above the first and below the second. `stored_below` is where the
    /// store ends.
    pub fn begin_load(&mut self, stored_below: MessageId) -> (MessageId, MessageId) {
        if let Some((first, returned)) = self.first_returned()
            && returned.place.is_none()
        {
            self.loading = Some(Loading::Returned(first));
            let absent = self.returned.iter().take(RETURNED_LOAD_LEN_MAX).take_while(|(_, it)| it.place.is_none());
            let last = absent.last().map_or(first, |(message, _)| *message);
            return (MessageId(first.0 - 1), MessageId(last.0 + 1));
        }
        let below = self.tail.front().map_or(stored_below, |e| e.message.min(stored_below));
        self.loading = Some(Loading::Middle(self.head_end));
        (self.head_end, below)
    }

    /// Ends a load. `false`: messages were spilled or dropped meanwhile, and what it brought has no place any more.
    #[must_use]
    pub fn end_load(&mut self) -> bool {
        match self.loading {
            Some(Loading::Middle(after)) if after == self.head_end => true,
            // Emptied meanwhile, it has forgotten that it ever asked.
            Some(Loading::Returned(_)) => true,
            _ => {
                self.loading = None;
                false
            }
        }
    }

    /// Takes in what a load brought: messages of the middle go to the end of the head, returned ones to their places. `corrupt` ones,
    /// each with the bytes of its body, were set aside and leave the queue; `reached` is the last id that was looked at. Calls `unwanted` for
    /// what has no place here. Returns the corrupt ones that were this queue's, with their bytes; `None`, changing nothing, when that
    /// cannot be what the store has of it.
    #[must_use]
    pub fn take_loaded(
        &mut self,
        entries: &[Entry],
        corrupt: &[(MessageId, u64)],
        reached: MessageId,
        unwanted: impl FnMut(Entry),
    ) -> Option<Vec<(MessageId, u64)>> {
        match self.loading.take() {
            Some(Loading::Returned(first)) => self.fill_returned(first, entries, corrupt, unwanted),
            _ => self.append_loaded(entries, corrupt, reached, unwanted),
        }
    }

    /// A load brought nothing that could be used.
    pub fn fail_load(&mut self) {
        self.loading = None;
    }

    fn fill_returned(
        &mut self,
        first: MessageId,
        entries: &[Entry],
        corrupt: &[(MessageId, u64)],
        mut unwanted: impl FnMut(Entry),
    ) -> Option<Vec<(MessageId, u64)>> {
        let is_there = entries.iter().any(|e| e.message == first) || corrupt.iter().any(|(id, _)| *id == first);
        if !is_there {
            return None;
        }
        for entry in entries {
            match self.returned.get_mut(&entry.message).filter(|it| it.place.is_none()) {
                Some(it) => it.place = Some(entry.place),
                None => unwanted(*entry),
            }
        }
        let mut lost = Vec::new();
        for (message, _) in corrupt {
            if let Some(it) = self.returned.remove(message) {
                self.lose(it.size);
                self.forget(*message);
                lost.push((*message, it.size));
            }
        }
        Some(lost)
    }

    fn append_loaded(
        &mut self,
        entries: &[Entry],
        corrupt: &[(MessageId, u64)],
        reached: MessageId,
        unwanted: impl FnMut(Entry),
    ) -> Option<Vec<(MessageId, u64)>> {
        if entries.is_empty() && corrupt.is_empty() {
            return None;
        }
        // For a group that it does not know yet the store may still bring what all others had passed before.
        let (passed, wanted): (Vec<Entry>, Vec<Entry>) =
            entries.iter().partition(|entry| self.is_passed_ahead(entry.message));
        let corrupt: Vec<_> = corrupt.iter().filter(|(message, _)| !self.is_passed_ahead(*message)).copied().collect();
        let len = (wanted.len() + corrupt.len()) as u64;
        if len > self.middle {
            return None;
        }
        passed.into_iter().for_each(unwanted);
        self.middle -= len;
        for (message, size) in &corrupt {
            self.lose(*size);
            self.forget(*message);
        }
        self.head.extend(&wanted);
        self.head_end = self.head_end.max(reached);
        if !corrupt.is_empty() {
            self.ahead.get_or_insert_default().damaged.extend(corrupt.iter().copied());
        }
        self.forget_ahead();
        self.loaded_len = wanted.len();
        if self.middle == 0 {
            if let Some(last) = self.tail.back() {
                self.head_end = last.message;
            }
            self.head.append(&mut self.tail);
            fit(&mut self.tail);
        }
        Some(corrupt)
    }

    /// Moves what the store has (ids below `stored_below`) out of memory: of the head everything from `from` on, and the
    /// stored part of the tail. Calls `each` for what left memory.
    pub fn spill(&mut self, from: MessageId, stored_below: MessageId, mut each: impl FnMut(Entry)) {
        let Queue { head, tail, middle, head_end, deliveries, .. } = self;
        // How often these were delivered came from the store with them, and comes again.
        let mut leave = |entry: Entry| {
            forget(deliveries, entry.message);
            each(entry);
        };
        if *middle == 0 {
            *tail = head.split_off(head.partition_point(|e| e.message < stored_below));
        }
        while tail.front().is_some_and(|e| e.message < stored_below) && *middle > 0 {
            leave(tail.pop_front().expect("just seen"));
            *middle += 1;
        }
        while let Some(entry) = head.back().copied().filter(|e| e.message >= from) {
            head.pop_back();
            *middle += 1;
            *head_end = MessageId(entry.message.0 - 1);
            leave(entry);
        }
        if *middle == 0 {
            head.append(tail);
        }
        fit(head);
        fit(tail);
    }

    /// Drops every message, open and moving ones too, calling `each` for those in memory. `newest` is the newest id there is. Returns how
    /// many there were, and how many of them were open.
    pub fn clear(&mut self, newest: MessageId, mut each: impl FnMut(Place)) -> (u64, u64) {
        let counts = (self.len() + self.open_len() + self.moving_len(), self.open_len());
        let ranges =
            [&mut self.head, &mut self.tail].map(std::mem::take).into_iter().flatten().map(|entry| entry.place);
        let returned = std::mem::take(&mut self.returned).into_values().filter_map(|it| it.place);
        let open = std::mem::take(&mut self.open).into_values().filter_map(|open| open.place);
        let moving = std::mem::take(&mut self.moving).into_values().filter_map(|it| it.place);
        ranges.chain(returned).chain(open).chain(moving).for_each(&mut each);
        self.deliveries = HashMap::new();
        self.ahead = None;
        self.knows_bytes = true;
        self.middle = 0;
        self.bytes = 0;
        self.head_end = newest;
        self.cleared_below = MessageId(newest.0 + 1);
        if matches!(self.loading, Some(Loading::Returned(_))) {
            // What it brings finds nobody who waits for it.
            self.loading = Some(Loading::Middle(MessageId(0)));
        }
        counts
    }

    fn lose(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.bytes, "no more bytes leave a queue than came");
        // A wrong number would be bad; an end of the server for it, or one near 2^64, would be worse.
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The bookkeeping of the ranges holds. `size` says how large a body in memory is, bytes.
    pub fn assert_consistent(&self, size: impl Fn(Place) -> usize) {
        assert!(self.middle > 0 || self.tail.is_empty(), "the tail is empty when the middle is");
        let present = self.len() + self.open_len() + self.moving_len();
        assert_eq!(present, self.counters.present(), "the law of conservation");
        let ranges = self.head.iter().chain(&self.tail);
        let in_memory: u64 = ranges.clone().map(|e| size(e.place) as u64).sum();
        let apart = self.returned.values().chain(self.moving.values()).map(|it| (it.place, it.size));
        let apart = apart.chain(self.open.values().map(|it| (it.place, it.size)));
        for (place, bytes) in apart.clone() {
            assert!(place.is_none_or(|place| size(place) as u64 == bytes), "what is apart knows its size");
        }
        let known = in_memory + apart.map(|(_, bytes)| bytes).sum::<u64>();
        let is_bound = self.middle > 0 || !self.knows_bytes;
        assert!(known == self.bytes || is_bound && known <= self.bytes, "the bytes of all bodies");
        let ids: Vec<MessageId> = ranges.map(|e| e.message).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "ids rise");
        assert!(self.head.back().is_none_or(|e| e.message <= self.head_end));
        assert!(self.tail.front().is_none_or(|e| e.message > self.head_end));
        let mut apart: Vec<&MessageId> =
            self.returned.keys().chain(self.open.keys()).chain(self.moving.keys()).collect();
        assert!(apart.iter().all(|id| ids.binary_search(id).is_err()), "what is apart is not in a range");
        apart.sort_unstable();
        assert!(apart.is_sorted_by(|a, b| a < b), "nothing is apart in two ways");
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
