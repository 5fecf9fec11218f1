//! Applying batches: many shards' mutations, one transaction.
//!
//! Two passes. The first reads every mutation, so that malformed bytes change nothing, and notes what later mutations take
//! away, so that the second need not write it. The second changes rows in the order of the mutations and writes each
//! queue's counters once, at the end.
//!
//! Invariant: the counters of a queue and the rows of its messages change in the same transaction, and nothing is believed
//! that the store can see to be wrong: a take of a message that is not there is an error, not a number that drifts.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::Write;

use foldhash::fast::RandomState;
use heed::types::DecodeIgnore;
use heed::{MdbError, PutFlags, RwTxn};

use super::super::layout::{self, MessageKey, Row, message_key};
use super::super::{Batch, Error};
use super::{Databases, Lmdb, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::{Decoder, Mutation, Put};
use crate::queue::Counters;

const OPERATION: &str = "committing messages";

impl Lmdb {
    pub(super) fn try_apply(&mut self, batches: &[Batch]) -> Result<(), Error> {
        let plan = Plan::read(batches)?;
        let txn = self.env.write_txn().map_err(failure(OPERATION))?;
        let mut apply =
            Apply { store: self, txn, plan, touched: HashMap::default(), ids_end: self.ids_end, last_key: None };
        for mutation in mutations(batches) {
            apply.mutate(mutation?)?;
        }
        let changes = apply.commit()?;
        self.follow(changes);
        Ok(())
    }

    /// Brings what is kept in memory to where the committed transaction is.
    fn follow(&mut self, changes: Changes) {
        self.ids_end = changes.ids_end;
        for (queue, touched) in changes.touched {
            if !touched.is_deleted {
                if touched.row.purged_below.0 > 0 {
                    self.purged.insert(queue);
                }
                self.rows.insert(queue, touched.row);
            } else if touched.is_stored {
                self.rows.remove(&queue);
                self.purged.remove(&queue);
                self.dropped.insert(queue);
            }
        }
    }
}

/// All mutations of the batches, in order.
fn mutations(batches: &[Batch]) -> impl Iterator<Item = Result<Mutation<'_>, Error>> {
    batches.iter().flat_map(|batch| {
        Decoder::new(&batch.mutations).map(|mutation| {
            mutation.map_err(|e| Error::Damaged(format!("batch {} of shard {}: {e}", batch.seq, batch.shard)))
        })
    })
}

/// What the batches take away again.
struct Plan {
    takes: HashMap<(QueueId, MessageId), TakenRow, RandomState>,
    deletes: HashSet<QueueId, RandomState>,
}

/// Where the row of a message to be taken is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakenRow {
    /// In the database, from an earlier call.
    Stored,
    /// Nowhere: its put is in the same call and was counted, not written.
    Unwritten,
}

impl Plan {
    fn read(batches: &[Batch]) -> Result<Plan, Error> {
        let mut plan = Plan { takes: HashMap::default(), deletes: HashSet::default() };
        for mutation in mutations(batches) {
            let is_first = match mutation? {
                Mutation::Take { queue, message } => plan.takes.insert((queue, message), TakenRow::Stored).is_none(),
                Mutation::Delete { queue } => plan.deletes.insert(queue),
                _ => true,
            };
            if !is_first {
                return Err(Error::Damaged("a message was taken, or a queue deleted, twice".to_owned()));
            }
        }
        Ok(plan)
    }
}

/// A queue that the batches change.
struct Touched {
    row: Row,
    /// Whether the database has a row of it from before.
    is_stored: bool,
    is_deleted: bool,
}

/// What a committed call leaves to be brought into memory.
struct Changes {
    touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
}

/// One call's transaction while it is being filled.
struct Apply<'a> {
    store: &'a Lmdb,
    txn: RwTxn<'a>,
    plan: Plan,
    touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
    /// No key in `messages` is above it; read when the first message is written.
    last_key: Option<MessageKey>,
}

impl Apply<'_> {
    fn mutate(&mut self, mutation: Mutation<'_>) -> Result<(), Error> {
        match mutation {
            Mutation::Create { queue, created_ms, name } => self.create(queue, created_ms, name),
            Mutation::Put(put) => {
                self.count(put.queue, &mutation)?;
                self.put(&put)
            }
            Mutation::Take { queue, message } => {
                let row = self.count(queue, &mutation)?;
                if message < row.purged_below {
                    return Err(missing(queue, message));
                }
                self.take(queue, message)
            }
            Mutation::Corrupt { queue, message } => {
                let row = self.count(queue, &mutation)?;
                if message < row.purged_below {
                    return Err(missing(queue, message));
                }
                self.set_aside(queue, message)
            }
            Mutation::Purge { queue, below, count: _ } => {
                let row = self.count(queue, &mutation)?;
                row.purged_below = row.purged_below.max(below);
                Ok(())
            }
            // A reply may outlive its queue: by the time its client is found to be gone, so may be the queue.
            Mutation::Unsent { queue } => match self.touch(queue) {
                Ok(_) => self.count(queue, &mutation).map(|_| ()),
                Err(_) => Ok(()),
            },
            Mutation::Delete { queue } => {
                self.touch(queue)?.is_deleted = true;
                Ok(())
            }
            Mutation::Ids { end } => {
                self.ids_end = self.ids_end.max(end);
                Ok(())
            }
        }
    }

    /// The queue as the mutations so far left it.
    fn touch(&mut self, queue: QueueId) -> Result<&mut Touched, Error> {
        let unknown = || Error::Damaged(format!("queue {queue} is not there to be changed"));
        let touched = match self.touched.entry(queue) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let row = self.store.rows.get(&queue).ok_or_else(unknown)?.clone();
                entry.insert(Touched { row, is_stored: true, is_deleted: false })
            }
        };
        if touched.is_deleted { Err(unknown()) } else { Ok(touched) }
    }

    fn count(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<&mut Row, Error> {
        let row = &mut self.touch(queue)?.row;
        layout::count(&mut row.counters, queue, mutation)?;
        Ok(row)
    }

    fn create(&mut self, queue: QueueId, created_ms: u64, name: &[u8]) -> Result<(), Error> {
        let is_used = self.store.rows.contains_key(&queue) || self.store.dropped.contains(&queue);
        if is_used || self.touched.contains_key(&queue) {
            return Err(Error::Damaged(format!("queue {queue} was created twice")));
        }
        let (counters, purged_below) = (Counters::default(), MessageId(0));
        let row = Row { name: name.to_vec(), queue, created_ms, purged_below, counters };
        self.touched.insert(queue, Touched { row, is_stored: false, is_deleted: false });
        Ok(())
    }

    fn put(&mut self, put: &Put<'_>) -> Result<(), Error> {
        if let Some(taken) = self.plan.takes.get_mut(&(put.queue, put.message)) {
            return match std::mem::replace(taken, TakenRow::Unwritten) {
                TakenRow::Stored => Ok(()),
                TakenRow::Unwritten => Err(twice(put)),
            };
        }
        if self.plan.deletes.contains(&put.queue) {
            return Ok(());
        }
        let key = message_key(put.queue, put.message);
        let flags = self.flags_for(&key)?;
        let messages = self.store.databases.messages.remap_data_type::<DecodeIgnore>();
        let size = layout::RECORD_HEADER_SIZE + put.body.len();
        let existing = messages
            .get_or_put_reserved_with_flags(&mut self.txn, flags, &key, size, |record| {
                record.write_all(&layout::record_header(put))?;
                record.write_all(put.body)
            })
            .map_err(failure(OPERATION))?;
        match existing {
            None => Ok(()),
            Some(()) => Err(twice(put)),
        }
    }

    /// Appending spares a search of the tree and leaves full pages behind, but is right only past the last key.
    fn flags_for(&mut self, key: &MessageKey) -> Result<PutFlags, Error> {
        let last = match self.last_key {
            Some(last) => last,
            None => {
                let last = self.store.databases.messages.last(&self.txn).map_err(failure(OPERATION))?;
                last.and_then(|(key, _)| key.try_into().ok()).unwrap_or_default()
            }
        };
        self.last_key = Some(last.max(*key));
        Ok(if *key > last { PutFlags::APPEND } else { PutFlags::empty() })
    }

    fn take(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        if self.plan.takes.get(&(queue, message)) == Some(&TakenRow::Unwritten) || self.plan.deletes.contains(&queue) {
            return Ok(());
        }
        let messages = &self.store.databases.messages;
        match messages.delete(&mut self.txn, &message_key(queue, message)).map_err(failure(OPERATION))? {
            true => Ok(()),
            false => Err(missing(queue, message)),
        }
    }

    /// Moves a record that failed its checksum out of its queue's way, byte for byte.
    fn set_aside(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        if self.plan.deletes.contains(&queue) {
            return Ok(());
        }
        let key = message_key(queue, message);
        let Databases { messages, corrupt, .. } = self.store.databases;
        let record = messages.get(&self.txn, &key).map_err(failure(OPERATION))?;
        let record = record.ok_or_else(|| missing(queue, message))?.to_vec();
        corrupt.put(&mut self.txn, &key, &record).map_err(failure(OPERATION))?;
        messages.delete(&mut self.txn, &key).map_err(failure(OPERATION))?;
        Ok(())
    }

    fn commit(mut self) -> Result<Changes, Error> {
        // A name may pass from a deleted queue to a new one in the same call.
        for touched in self.touched.values().filter(|touched| touched.is_deleted && touched.is_stored) {
            let Databases { meta, queues, .. } = self.store.databases;
            queues.delete(&mut self.txn, &touched.row.name).map_err(failure(OPERATION))?;
            meta.put(&mut self.txn, &layout::drop_key(touched.row.queue), &[]).map_err(failure(OPERATION))?;
        }
        for touched in self.touched.values().filter(|touched| !touched.is_deleted) {
            let flags = if touched.is_stored { PutFlags::empty() } else { PutFlags::NO_OVERWRITE };
            let Row { name, .. } = &touched.row;
            let queues = &self.store.databases.queues;
            match queues.put_with_flags(&mut self.txn, flags, name, &touched.row.encode()) {
                Err(heed::Error::Mdb(MdbError::KeyExist)) => {
                    return Err(Error::Damaged(format!("there are two queues {}", name.escape_ascii())));
                }
                result => result.map_err(failure(OPERATION))?,
            }
        }
        if self.ids_end != self.store.ids_end {
            let end = self.ids_end.to_le_bytes();
            self.store.databases.meta.put(&mut self.txn, layout::IDS_KEY, &end).map_err(failure(OPERATION))?;
        }
        self.txn.commit().map_err(failure(OPERATION))?;
        Ok(Changes { touched: self.touched, ids_end: self.ids_end })
    }
}

fn missing(queue: QueueId, message: MessageId) -> Error {
    Error::Damaged(format!("queue {queue}: message {message} is not there to be taken"))
}

fn twice(put: &Put<'_>) -> Error {
    Error::Damaged(format!("queue {}: message {} was put twice", put.queue, put.message))
}
