//! The store in memory, for tests of what stands above it: no file, no waiting, and failures on demand.
//!
//! Invariant: as [`super::Store`] demands, a call to apply changes everything or nothing.
//!
//! A [`MemoryStore`] is a handle: clones share the messages, so a test keeps one while the store thread has another, and
//! what outlives the thread is what a restart would find. A [`MemoryStore::fork`] shares nothing: it is the copy that a
//! simulated crash goes on with.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::checkpoint::mutations;
use super::{Batch, Error, JournalRow, Load, Loaded, QueueRow, Recovered, Store, Taken, layout};
use crate::ids::{MessageId, QueueId, Salt};
use crate::mutation::{Mutation, PUT_HEADER_SIZE, Put};
use crate::queue::Counters;

/// A store whose messages are gone with its last handle.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone)]
struct Inner {
    /// Their bytes are added up when someone asks.
    queues: BTreeMap<QueueId, QueueRow>,
    messages: BTreeMap<Key, Record>,
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
    crc32c: u32,
    body: Vec<u8>,
}

#[derive(Clone)]
enum Undo {
    Queue(QueueId, Option<QueueRow>),
    Message(Key, Option<Record>),
    IdsEnd(u64),
    Journals(Vec<JournalRow>),
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            queues: BTreeMap::new(),
            messages: BTreeMap::new(),
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

    fn load(&mut self, load: &Load) -> Result<Loaded, Error> {
        let inner = self.inner();
        let mut loaded = Loaded { reached: load.after, ..Loaded::default() };
        let first = MessageId(load.after.0.saturating_add(1));
        if first >= load.below {
            return Ok(loaded);
        }
        let mut size = 0;
        for (&(queue, message), record) in inner.messages.range((load.queue, first)..(load.queue, load.below)) {
            size += PUT_HEADER_SIZE + record.body.len();
            if size > load.size_max && loaded.reached != load.after {
                break;
            }
            let put = record.put(queue, message);
            if put.is_intact() {
                Mutation::Put(put).encode(&mut loaded.messages);
            } else {
                loaded.corrupt.push((message, record.body.len() as u64));
            }
            loaded.reached = message;
        }
        Ok(loaded)
    }

    fn recover(&mut self) -> Result<Recovered, Error> {
        let inner = self.inner();
        let queues = inner.queues.values().map(|row| QueueRow { bytes: inner.size(row.queue), ..row.clone() });
        Ok(Recovered {
            queues: queues.collect(),
            ids_end: inner.ids_end,
            journals: inner.journals.clone(),
            ..Recovered::default()
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
        let Record { put_ms, flags, crc32c, ref body } = *self;
        Put { queue, message, put_ms, flags, expires_ms: 0, crc32c, body }
    }
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
            Mutation::Put(put) => {
                self.count(put.queue, &mutation)?;
                if taken.contains(put.message) {
                    return Ok(());
                }
                let Put { queue, message, put_ms, flags, crc32c, body, .. } = put;
                match self.set_message((queue, message), Some(Record { put_ms, flags, crc32c, body: body.to_vec() })) {
                    false => Ok(()),
                    true => Err(damaged(queue, &format!("message {message} was put twice"))),
                }
            }
            Mutation::Take { queue, message } | Mutation::Corrupt { queue, message } => {
                self.count(queue, &mutation)?;
                let was_there = self.set_message((queue, message), None);
                // What another store would not look for must not be there to be found.
                assert!(!was_there || !taken.contains(message), "message {message} was put before the checkpoint");
                Ok(())
            }
            Mutation::Purge { queue, below, count: _ } => {
                self.count(queue, &mutation)?;
                self.remove_below(queue, below);
                Ok(())
            }
            Mutation::Unsent { queue } if !self.queues.contains_key(&queue) => Ok(()),
            Mutation::Unsent { queue } | Mutation::Passed { queue, .. } => self.count(queue, &mutation),
            Mutation::Delete { queue } => {
                if !self.set_queue(queue, None) {
                    return Err(damaged(queue, "it is not there to be deleted"));
                }
                self.remove_below(queue, MessageId(u64::MAX));
                Ok(())
            }
            Mutation::Ids { end } => {
                self.undo.push(Undo::IdsEnd(self.ids_end));
                self.ids_end = self.ids_end.max(end);
                Ok(())
            }
            _ => unimplemented!(),
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

    fn count(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let row = self.queues.get(&queue).ok_or_else(|| damaged(queue, "it is not there to be changed"))?;
        let mut row = row.clone();
        layout::count(&mut row.counters, queue, mutation)?;
        self.set_queue(queue, Some(row));
        Ok(())
    }

    fn remove_below(&mut self, queue: QueueId, below: MessageId) {
        let doomed: Vec<Key> =
            self.messages.range((queue, MessageId(0))..(queue, below)).map(|(key, _)| *key).collect();
        for key in &doomed {
            self.set_message(*key, None);
        }
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

    fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Queue(queue, row) => drop(replace(&mut self.queues, queue, row)),
                Undo::Message(key, record) => drop(replace(&mut self.messages, key, record)),
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
