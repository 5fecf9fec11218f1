//! Applying batches: a slice of a checkpoint, one transaction.
//!
//! Rows change in the order of the mutations; each queue's counters and each journal's position are written once, at the
//! end. Mutations that cannot be read, or cannot be true, are found on the way and abort the transaction.
//!
//! Invariant: the counters of a queue, the rows of its messages and the positions of the journals change in the same
//! transaction. A take counts whether or not its message has a row, since messages that left before their checkpoint never
//! get one; but no more messages leave a queue than came.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;

use foldhash::fast::RandomState;
use heed::types::DecodeIgnore;
use heed::{MdbError, PutFlags, RwTxn};

use super::super::checkpoint::mutations;
use super::super::layout::{self, MessageKey, Row, message_key};
use super::super::{Batch, Error, JournalRow, Taken};
use super::{Databases, Lmdb, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::{Mutation, Put};
use crate::queue::Counters;

const OPERATION: &str = "committing messages";

impl Lmdb {
    pub(super) fn try_apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error> {
        let mut journals = self.journals.clone();
        for batch in batches {
            layout::advance(&mut journals, batch)?;
        }
        let txn = self.env.write_txn().map_err(failure(OPERATION))?;
        let touched = HashMap::default();
        let mut apply = Apply { store: self, txn, taken, touched, ids_end: self.ids_end, journals, last_key: None };
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
        self.journals = changes.journals;
        for (queue, touched) in changes.touched {
            if !touched.is_deleted {
                if touched.row.purged_below.0 > 0 {
                    self.purged.insert(queue);
                }
                self.rows.insert(queue, touched.row);
            } else if touched.may_leave_rows() {
                self.rows.remove(&queue);
                self.purged.remove(&queue);
                self.dropped.insert(queue);
            }
        }
    }
}

/// A queue that the batches change.
struct Touched {
    row: Row,
    /// Whether the database has a row of it from before.
    is_stored: bool,
    /// Whether the call wrote messages of it.
    has_written: bool,
    is_deleted: bool,
}

impl Touched {
    /// Whether there may be messages to remove when it is deleted.
    fn may_leave_rows(&self) -> bool {
        self.is_stored || self.has_written
    }
}

/// What a committed call leaves to be brought into memory.
struct Changes {
    touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
    journals: Vec<JournalRow>,
}

/// One call's transaction while it is being filled.
struct Apply<'a> {
    store: &'a Lmdb,
    txn: RwTxn<'a>,
    taken: &'a Taken,
    touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
    journals: Vec<JournalRow>,
    /// No key in `messages` is above it; read when the first message is written.
    last_key: Option<MessageKey>,
}

impl Apply<'_> {
    fn mutate(&mut self, mutation: Mutation<'_>) -> Result<(), Error> {
        match mutation {
            Mutation::Create { queue, created_ms, name } => self.create(queue, created_ms, name),
            Mutation::Put(put) => {
                let is_written = !self.taken.contains(put.message);
                self.count(put.queue, &mutation)?.has_written |= is_written;
                if is_written { self.put(&put) } else { Ok(()) }
            }
            Mutation::Take { queue, message } => {
                self.count(queue, &mutation)?;
                self.take(queue, message)
            }
            Mutation::Corrupt { queue, message } => {
                self.count(queue, &mutation)?;
                self.set_aside(queue, message)
            }
            Mutation::Purge { queue, below, count: _ } => {
                let row = &mut self.count(queue, &mutation)?.row;
                row.purged_below = row.purged_below.max(below);
                Ok(())
            }
            // A reply may outlive its queue: by the time its client is found to be gone, so may be the queue.
            Mutation::Unsent { queue } => match self.touch(queue) {
                Ok(_) => self.count(queue, &mutation).map(|_| ()),
                Err(_) => Ok(()),
            },
            Mutation::Passed { queue, .. } => self.count(queue, &mutation).map(|_| ()),
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
                entry.insert(Touched { row, is_stored: true, has_written: false, is_deleted: false })
            }
        };
        if touched.is_deleted { Err(unknown()) } else { Ok(touched) }
    }

    fn count(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<&mut Touched, Error> {
        let touched = self.touch(queue)?;
        layout::count(&mut touched.row.counters, queue, mutation)?;
        Ok(touched)
    }

    fn create(&mut self, queue: QueueId, created_ms: u64, name: &[u8]) -> Result<(), Error> {
        let is_used = self.store.rows.contains_key(&queue) || self.store.dropped.contains(&queue);
        if is_used || self.touched.contains_key(&queue) {
            return Err(Error::Damaged(format!("queue {queue} was created twice")));
        }
        let (counters, purged_below) = (Counters::default(), MessageId(0));
        let row = Row { name: name.to_vec(), queue, created_ms, purged_below, counters };
        self.touched.insert(queue, Touched { row, is_stored: false, has_written: false, is_deleted: false });
        Ok(())
    }

    fn put(&mut self, put: &Put<'_>) -> Result<(), Error> {
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
            Some(()) => Err(Error::Damaged(format!("queue {}: message {} was put twice", put.queue, put.message))),
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
        if !self.taken.contains(message) {
            let messages = &self.store.databases.messages;
            messages.delete(&mut self.txn, &message_key(queue, message)).map_err(failure(OPERATION))?;
        }
        Ok(())
    }

    /// Moves a record that failed its checksum out of its queue's way, byte for byte.
    fn set_aside(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        let key = message_key(queue, message);
        let Databases { messages, corrupt, .. } = self.store.databases;
        let record = messages.get(&self.txn, &key).map_err(failure(OPERATION))?;
        if let Some(record) = record.map(<[u8]>::to_vec) {
            corrupt.put(&mut self.txn, &key, &record).map_err(failure(OPERATION))?;
            messages.delete(&mut self.txn, &key).map_err(failure(OPERATION))?;
        }
        Ok(())
    }

    fn commit(mut self) -> Result<Changes, Error> {
        self.write_queues()?;
        let meta = self.store.databases.meta;
        if self.ids_end != self.store.ids_end {
            let end = self.ids_end.to_le_bytes();
            meta.put(&mut self.txn, layout::IDS_KEY, &end).map_err(failure(OPERATION))?;
        }
        for (row, before) in self.journals.iter().zip(&self.store.journals) {
            if row != before {
                let value = layout::encode_journal(row);
                meta.put(&mut self.txn, &layout::journal_key(row.shard), &value).map_err(failure(OPERATION))?;
            }
        }
        self.txn.commit().map_err(failure(OPERATION))?;
        Ok(Changes { touched: self.touched, ids_end: self.ids_end, journals: self.journals })
    }

    fn write_queues(&mut self) -> Result<(), Error> {
        let Databases { meta, queues, .. } = self.store.databases;
        // A name may pass from a deleted queue to a new one in the same call.
        for touched in self.touched.values().filter(|touched| touched.is_deleted && touched.may_leave_rows()) {
            if touched.is_stored {
                queues.delete(&mut self.txn, &touched.row.name).map_err(failure(OPERATION))?;
            }
            meta.put(&mut self.txn, &layout::drop_key(touched.row.queue), &[]).map_err(failure(OPERATION))?;
        }
        for touched in self.touched.values().filter(|touched| !touched.is_deleted) {
            let flags = if touched.is_stored { PutFlags::empty() } else { PutFlags::NO_OVERWRITE };
            let Row { name, .. } = &touched.row;
            match queues.put_with_flags(&mut self.txn, flags, name, &touched.row.encode()) {
                Err(heed::Error::Mdb(MdbError::KeyExist)) => {
                    return Err(Error::Damaged(format!("there are two queues {}", name.escape_ascii())));
                }
                result => result.map_err(failure(OPERATION))?,
            }
        }
        Ok(())
    }
}
