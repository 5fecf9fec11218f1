//! The store in memory, for tests of what stands above it: no file, no waiting, and failures on demand.
//!
//! Invariant: as [`super::Store`] demands, a call to apply changes everything or nothing.
//!
//! A [`MemoryStore`] is a handle: clones share the messages, so a test keeps one while the store thread has another, and
//! what outlives the thread is what a restart would find. A [`MemoryStore::fork`] shares nothing: it is the copy that a
//! simulated crash goes on with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::checkpoint::mutations;
use super::layout::{self, Role};
use super::{Accepted, Batch, Error, JournalRow, Load, Loaded, QueueRow, Recovered, Store, Taken};
use crate::ids::{MessageId, QueueId, Salt};
use crate::mutation::{Mutation, Put, Why};

mod readers;

/// A store whose messages are gone with its last handle.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone)]
struct Inner {
    /// Their bytes are added up when someone asks.
    queues: BTreeMap<QueueId, QueueRow>,
    /// Those that have groups, or had and were not swept since.
    grouped: BTreeSet<QueueId>,
    messages: BTreeMap<Key, Record>,
    /// How often messages were delivered that came back, by reader.
    returned: BTreeMap<Key, u32>,
    /// By reader and number.
    moves: BTreeMap<(QueueId, u64), Move>,
    accepted: BTreeMap<(QueueId, Vec<u8>), u64>,
    settings: BTreeMap<Vec<u8>, Vec<u8>>,
    ids_end: u64,
    journals: Vec<JournalRow>,
    /// How to take back what the running call did, newest last.
    undo: Vec<Undo>,
    applies: Vec<usize>,
    fails_next: bool,
    /// How many more writes find no room.
    full: usize,
    free_size: u64,
}

type Key = (QueueId, MessageId);

#[derive(Clone)]
struct Record {
    put_ms: u64,
    flags: u32,
    expires_ms: u64,
    crc32c: u32,
    body: Vec<u8>,
}

/// A message on its way to a queue of another shard.
#[derive(Clone)]
struct Move {
    message: MessageId,
    why: Why,
    target: Vec<u8>,
}

#[derive(Clone)]
enum Undo {
    Queue(QueueId, Option<QueueRow>),
    Grouped(QueueId, bool),
    Message(Key, Option<Record>),
    Returned(Key, Option<u32>),
    Move((QueueId, u64), Option<Move>),
    Accepted((QueueId, Vec<u8>), Option<u64>),
    Settings(Vec<u8>, Option<Vec<u8>>),
    IdsEnd(u64),
    Journals(Vec<JournalRow>),
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            queues: BTreeMap::new(),
            grouped: BTreeSet::new(),
            messages: BTreeMap::new(),
            returned: BTreeMap::new(),
            moves: BTreeMap::new(),
            accepted: BTreeMap::new(),
            settings: BTreeMap::new(),
            ids_end: 0,
            journals: Vec::new(),
            undo: Vec::new(),
            applies: Vec::new(),
            fails_next: false,
            full: 0,
            free_size: u64::MAX,
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A store of its own with what the last successful write left, and with the same switches set.
    pub fn fork(&self) -> MemoryStore {
        MemoryStore { inner: Arc::new(Mutex::new(self.inner().clone())) }
    }

    /// Makes the next apply fail as a device would, changing nothing.
    pub fn fail_next_apply(&self) {
        self.inner().fails_next = true;
    }

    /// Makes the next `writes` calls of apply or begin_journals fail as on a full file system, changing nothing. 0 ends it.
    pub fn fill(&self, writes: usize) {
        self.inner().full = writes;
    }

    /// How many of the writes that [`MemoryStore::fill`] asked to fail are still to come.
    pub fn writes_to_fail(&self) -> usize {
        self.inner().full
    }

    /// Changes a stored message behind its checksum's back. Panics when it is not stored.
    pub fn corrupt(&self, queue: QueueId, message: MessageId) {
        let mut inner = self.inner();
        inner.messages.get_mut(&(queue, message)).expect("the message is stored").put_ms ^= 1;
    }

    /// What [`Store::free_size`] says from now on, in bytes.
    pub fn set_free_size(&self, size: u64) {
        self.inner().free_size = size;
    }

    /// How many batches each successful apply was given, oldest first.
    pub fn applies(&self) -> Vec<usize> {
        self.inner().applies.clone()
    }

    /// Ids of the queue's stored messages, in order.
    pub fn message_ids(&self, queue: QueueId) -> Vec<MessageId> {
        let range = (queue, MessageId(0))..=(queue, MessageId(u64::MAX));
        self.inner().messages.range(range).map(|(key, _)| key.1).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Store for MemoryStore {
    fn apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error> {
        let mut inner = self.inner();
        inner.check_switches()?;
        let result = batches.iter().try_for_each(|batch| inner.apply_batch(batch, taken));
        if result.is_err() {
            inner.roll_back();
            return result;
        }
        inner.undo.clear();
        inner.applies.push(batches.len());
        Ok(())
    }

    fn begin_journals(&mut self, salts: &[Salt]) -> Result<(), Error> {
        let mut inner = self.inner();
        inner.check_switches()?;
        inner.journals = layout::first_rows(salts);
        Ok(())
    }

    fn settle_moves(&mut self) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.moves.is_empty() && inner.accepted.is_empty() {
            return Ok(());
        }
        inner.check_switches()?;
        let result = inner.settle_moves();
        match result {
            Ok(()) => inner.undo.clear(),
            Err(_) => inner.roll_back(),
        }
        result
    }

    fn load(&mut self, load: &Load) -> Result<Loaded, Error> {
        let inner = self.inner();
        let mut loaded = Loaded { reached: load.after, ..Loaded::default() };
        let first = MessageId(load.after.0.saturating_add(1));
        if first >= load.below {
            return Ok(loaded);
        }
        let reader = inner.queues.get(&load.queue);
        let owner = match reader {
            Some(reader) => owner(reader),
            None if inner.queues.contains_key(&load.of) => load.of,
            None => return Ok(loaded),
        };
        let mut size = 0;
        for (&(queue, message), record) in inner.messages.range((owner, first)..(owner, load.below)) {
            if reader.is_some_and(|reader| has_passed(reader, message)) {
                continue;
            }
            let put = record.put(queue, message);
            size += put.encoded_size();
            if size > load.size_max && loaded.reached != load.after {
                break;
            }
            if put.is_intact() {
                Mutation::Put(put).encode(&mut loaded.messages);
                let deliveries = inner.returned.get(&(load.queue, message));
                loaded.deliveries.extend(deliveries.map(|deliveries| (message, *deliveries)));
            } else {
                loaded.corrupt.push((message, record.body.len() as u64));
            }
            loaded.reached = message;
        }
        Ok(loaded)
    }

    fn recover(&mut self) -> Result<Recovered, Error> {
        let inner = self.inner();
        let queues = inner.queues.values().map(|row| QueueRow { bytes: inner.size(owner(row)), ..row.clone() });
        let accepted = inner.accepted.iter().map(|((source, target), number)| {
            let (source, target, number) = (*source, target.clone(), *number);
            Accepted { source, target, number }
        });
        Ok(Recovered {
            queues: queues.collect(),
            ids_end: inner.ids_end,
            journals: inner.journals.clone(),
            settings: inner.settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            accepted: accepted.collect(),
        })
    }

    fn tidy(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn free_size(&self) -> u64 {
        self.inner().free_size
    }
}

impl Record {
    fn put(&self, queue: QueueId, message: MessageId) -> Put<'_> {
        let Record { put_ms, flags, expires_ms, crc32c, ref body } = *self;
        Put { queue, message, put_ms, flags, expires_ms, crc32c, body }
    }
}

/// The queue whose messages it reads.
fn owner(row: &QueueRow) -> QueueId {
    if row.of.0 == 0 { row.queue } else { row.of }
}

/// Whether a reader of a queue with groups has passed a message; others pass nothing.
fn has_passed(row: &QueueRow, message: MessageId) -> bool {
    message < row.low || row.passed.contains(message)
}

impl Inner {
    fn check_switches(&mut self) -> Result<(), Error> {
        let failure = |source| Err(Error::Io { operation: "committing messages", source });
        if std::mem::take(&mut self.fails_next) {
            return failure(io::Error::other("a test asked for it"));
        }
        if self.full > 0 {
            self.full -= 1;
            return failure(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// The bodies of a queue's messages, bytes.
    fn size(&self, queue: QueueId) -> u64 {
        let messages = self.messages.range((queue, MessageId(0))..=(queue, MessageId(u64::MAX)));
        messages.map(|(_, record)| record.body.len() as u64).sum()
    }

    fn apply_batch(&mut self, batch: &Batch, taken: &Taken) -> Result<(), Error> {
        self.undo.push(Undo::Journals(self.journals.clone()));
        layout::advance(&mut self.journals, batch)?;
        mutations(std::slice::from_ref(batch)).try_for_each(|mutation| self.mutate(mutation?, taken))
    }

    fn mutate(&mut self, mutation: Mutation<'_>, taken: &Taken) -> Result<(), Error> {
        match mutation {
            Mutation::Create { queue, created_ms, name } => self.create(queue, created_ms, name),
            Mutation::Put(put) => self.put(put, &mutation, taken),
            Mutation::Take { queue, message } | Mutation::Leave { queue, message, .. } => {
                self.count(queue, &mutation)?;
                self.remove(queue, message, taken)?;
                Ok(())
            }
            Mutation::Corrupt { queue, message } => {
                self.count(queue, &mutation)?;
                match self.role(queue) {
                    Role::Plain => self.remove(queue, message, taken)?,
                    _ => self.pass(queue, message, MessageId(0), taken),
                }
                Ok(())
            }
            Mutation::Purge { queue, below, count: _ } => {
                self.count(queue, &mutation)?;
                self.forget_below(queue, below);
                match self.role(queue) {
                    Role::Plain => drop(self.remove_below(queue, below)),
                    _ => self.raise_low(queue, below),
                }
                Ok(())
            }
            Mutation::Unsent { queue } if !self.queues.contains_key(&queue) => Ok(()),
            Mutation::Unsent { queue } | Mutation::Passed { queue, .. } => self.count(queue, &mutation),
            Mutation::Delete { queue } => self.delete(queue),
            Mutation::Ids { end } => {
                self.undo.push(Undo::IdsEnd(self.ids_end));
                self.ids_end = self.ids_end.max(end);
                Ok(())
            }
            Mutation::Return { queue, message, deliveries } => {
                self.row(queue)?;
                if !taken.contains(message) {
                    self.set_returned((queue, message), Some(deliveries));
                }
                Ok(())
            }
            Mutation::Group { queue, of, created_ms, name, .. } => {
                self.begin_group(of, &mutation)?;
                self.create(queue, created_ms, name)?;
                self.count(queue, &mutation)?;
                self.change(queue, |row| row.of = of)
            }
            Mutation::Pass { queue, message, low, .. } => {
                self.count(queue, &mutation)?;
                self.pass(queue, message, low, taken);
                Ok(())
            }
            Mutation::Free { queue, message } => self.free(queue, message, taken),
            Mutation::Sweep { queue, freed } => self.sweep(queue, freed),
            Mutation::Configure { name, settings } => {
                let value = (!settings.is_empty()).then(|| settings.to_vec());
                let before = replace(&mut self.settings, name.to_vec(), value);
                self.undo.push(Undo::Settings(name.to_vec(), before));
                Ok(())
            }
            Mutation::Move { queue, message, number, why, target } => {
                self.row(queue)?;
                if !taken.contains(message) {
                    self.set_move((queue, number), Some(Move { message, why, target: target.to_vec() }));
                }
                Ok(())
            }
            Mutation::Moved { queue, number } => {
                self.row(queue)?;
                self.set_move((queue, number), None);
                Ok(())
            }
            Mutation::Accept { source, number, target } => {
                let key = (source, target.to_vec());
                let highest = self.accepted.get(&key).map_or(number, |before| number.max(*before));
                self.set_accepted(key, Some(highest));
                Ok(())
            }
        }
    }

    fn create(&mut self, queue: QueueId, created_ms: u64, name: &[u8]) -> Result<(), Error> {
        if self.queues.values().any(|row| row.name == name) {
            return Err(damaged(queue, "there is another of its name"));
        }
        let row = QueueRow { name: name.to_vec(), queue, created_ms, ..QueueRow::default() };
        match self.set_queue(queue, Some(row)) {
            false => Ok(()),
            true => Err(damaged(queue, "it was created twice")),
        }
    }

    fn put(&mut self, put: Put<'_>, mutation: &Mutation<'_>, taken: &Taken) -> Result<(), Error> {
        self.count(put.queue, mutation)?;
        self.groups(put.queue).into_iter().try_for_each(|group| self.count(group, mutation))?;
        if taken.contains(put.message) {
            return Ok(());
        }
        let Put { queue, message, put_ms, flags, expires_ms, crc32c, body } = put;
        let record = Record { put_ms, flags, expires_ms, crc32c, body: body.to_vec() };
        match self.set_message((queue, message), Some(record)) {
            false => Ok(()),
            true => Err(damaged(queue, &format!("message {message} was put twice"))),
        }
    }

    /// Removes a message for all readers, if it is there.
    fn remove(&mut self, queue: QueueId, message: MessageId, taken: &Taken) -> Result<(), Error> {
        let was_there = self.set_message((queue, message), None);
        // What another store would not look for must not be there to be found.
        if was_there && taken.contains(message) {
            return Err(damaged(queue, &format!("message {message} was put before the checkpoint")));
        }
        self.set_returned((queue, message), None);
        Ok(())
    }

    fn delete(&mut self, queue: QueueId) -> Result<(), Error> {
        if !self.groups(queue).is_empty() {
            return Err(damaged(queue, "it was deleted before its groups"));
        }
        if !self.set_queue(queue, None) {
            return Err(damaged(queue, "it is not there to be deleted"));
        }
        self.set_grouped(queue, false);
        self.forget_below(queue, MessageId(u64::MAX));
        self.remove_below(queue, MessageId(u64::MAX));
        Ok(())
    }

    fn row(&self, queue: QueueId) -> Result<&QueueRow, Error> {
        self.queues.get(&queue).ok_or_else(|| damaged(queue, "it is not there to be changed"))
    }

    fn role(&self, queue: QueueId) -> Role {
        let of = self.queues.get(&queue).map_or(QueueId(0), |row| row.of);
        Role::of(of, self.grouped.contains(&queue))
    }

    fn change(&mut self, queue: QueueId, change: impl FnOnce(&mut QueueRow)) -> Result<(), Error> {
        let mut row = self.row(queue)?.clone();
        change(&mut row);
        self.set_queue(queue, Some(row));
        Ok(())
    }

    fn count(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let (mut row, role) = (self.row(queue)?.clone(), self.role(queue));
        layout::count(&mut row.counters, queue, role, mutation)?;
        self.set_queue(queue, Some(row));
        Ok(())
    }

    /// Says how many there were.
    fn remove_below(&mut self, queue: QueueId, below: MessageId) -> u64 {
        let doomed: Vec<Key> =
            self.messages.range((queue, MessageId(0))..(queue, below)).map(|(key, _)| *key).collect();
        for key in &doomed {
            self.set_message(*key, None);
        }
        doomed.len() as u64
    }

    /// Whether there was one before.
    fn set_queue(&mut self, queue: QueueId, row: Option<QueueRow>) -> bool {
        let before = replace(&mut self.queues, queue, row);
        let was_there = before.is_some();
        self.undo.push(Undo::Queue(queue, before));
        was_there
    }

    /// Whether there was one before.
    fn set_message(&mut self, key: Key, record: Option<Record>) -> bool {
        let before = replace(&mut self.messages, key, record);
        let was_there = before.is_some();
        self.undo.push(Undo::Message(key, before));
        was_there
    }

    fn set_grouped(&mut self, queue: QueueId, is_grouped: bool) {
        let was_grouped = if is_grouped { !self.grouped.insert(queue) } else { self.grouped.remove(&queue) };
        self.undo.push(Undo::Grouped(queue, was_grouped));
    }

    fn set_returned(&mut self, key: Key, deliveries: Option<u32>) {
        let before = replace(&mut self.returned, key, deliveries);
        self.undo.push(Undo::Returned(key, before));
    }

    fn set_move(&mut self, key: (QueueId, u64), value: Option<Move>) {
        let before = replace(&mut self.moves, key, value);
        self.undo.push(Undo::Move(key, before));
    }

    fn set_accepted(&mut self, key: (QueueId, Vec<u8>), number: Option<u64>) {
        let before = replace(&mut self.accepted, key.clone(), number);
        self.undo.push(Undo::Accepted(key, before));
    }

    fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Queue(queue, row) => drop(replace(&mut self.queues, queue, row)),
                Undo::Grouped(queue, true) => drop(self.grouped.insert(queue)),
                Undo::Grouped(queue, false) => drop(self.grouped.remove(&queue)),
                Undo::Message(key, record) => drop(replace(&mut self.messages, key, record)),
                Undo::Returned(key, deliveries) => drop(replace(&mut self.returned, key, deliveries)),
                Undo::Move(key, value) => drop(replace(&mut self.moves, key, value)),
                Undo::Accepted(key, number) => drop(replace(&mut self.accepted, key, number)),
                Undo::Settings(name, value) => drop(replace(&mut self.settings, name, value)),
                Undo::IdsEnd(end) => self.ids_end = end,
                Undo::Journals(rows) => self.journals = rows,
            }
        }
    }
}

/// Puts or removes; what was there before.
fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

fn damaged(queue: QueueId, what: &str) -> Error {
    Error::Damaged(format!("queue {queue}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Position, Seq, ShardId};

    const QUEUE: QueueId = QueueId(1);

    fn batch(seq: u64, mutations: &[Mutation<'_>]) -> Batch {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        let end = Position { seq: Seq(seq + 1), segment: 0, offset: 0 };
        Batch { shard: ShardId(0), seq: Seq(seq), mutations: bytes, end }
    }

    fn take(seq: u64) -> Batch {
        batch(seq, &[Mutation::Take { queue: QUEUE, message: MessageId(1) }])
    }

    fn with_two_messages() -> MemoryStore {
        let mut store = MemoryStore::new();
        store.begin_journals(&[Salt::default()]).unwrap();
        let put = |message| {
            let message = MessageId(message);
            Mutation::Put(
                Put { queue: QUEUE, message, put_ms: 1, flags: 2, expires_ms: 0, crc32c: 0, body: b"x" }.sealed(),
            )
        };
        let create = Mutation::Create { queue: QUEUE, created_ms: 1, name: b"q" };
        store.apply(&[batch(1, &[create, put(1), put(2)])], &Taken::none()).unwrap();
        store
    }

    #[test]
    fn the_switches_reach_a_store_that_another_handle_has() {
        let handle = with_two_messages();
        let mut store = handle.clone();
        handle.set_free_size(5);
        assert_eq!(store.free_size(), 5);
        handle.fail_next_apply();
        handle.fill(2);
        assert!(!store.apply(&[take(2)], &Taken::none()).unwrap_err().is_storage_full());
        assert!(store.apply(&[take(2)], &Taken::none()).unwrap_err().is_storage_full());
        assert!(store.begin_journals(&[]).unwrap_err().is_storage_full());
        assert_eq!(handle.message_ids(QUEUE), [1, 2].map(MessageId));
        store.apply(&[take(2), batch(3, &[])], &Taken::none()).unwrap();
        assert_eq!(handle.message_ids(QUEUE), [MessageId(2)]);
        assert_eq!(handle.applies(), [1, 2]);
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut store = with_two_messages();
        let mut fork = store.fork();
        assert_eq!(fork.recover().unwrap(), store.recover().unwrap());
        fork.apply(&[take(2)], &Taken::none()).unwrap();
        assert_eq!(store.message_ids(QUEUE), [1, 2].map(MessageId));
        store.apply(&[take(2), take(3)], &Taken::none()).unwrap();
        assert_eq!(fork.recover().unwrap().queues[0].counters.gets, 1);
    }
}
