//! Applying batches: a slice of a checkpoint, one transaction.
//!
//! The mutations are read once, in order: they count at once, and what they put and remove is collected by queue. Then
//! each queue's messages are brought up to date in order of their ids ([`super::removal`], [`super::writing`]), and its row is
//! written. What is kept apart from the messages, because it is rare ([`super::readers`], [`super::moves`]), is written at once. Mutations that cannot be read, or cannot be true, are found on the way and abort the transaction.
//!
//! Invariant: the counters of a queue, its messages, their bytes and the positions of the journals change in the same transaction. A
//! take counts whether or not its message is stored, since messages that left before their checkpoint never are; but no more
//! messages leave a queue than came.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use heed::{MdbError, PutFlags, RwTxn};

use super::super::chain::{Chain, Chains};
use super::super::checkpoint::malformed;
use super::super::layout::{self, MessageKey, Role, Row, message_key};
use super::super::run::{Index, RUN_SIZE_MAX};
use super::super::{Batch, Error, JournalRow, Taken};
use super::{Database, Databases, Lmdb, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::{Decoder, Mutation, Put};

pub(super) const OPERATION: &str = "committing messages";

/// Values that a buffer may keep for the next call: a slice is smaller, what a start replays need not be.
const KEPT_LEN_MAX: usize = 32 << 10;

impl Lmdb {
    pub(super) fn try_apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.collect(batches, taken, &mut scratch).and_then(Apply::commit);
        scratch.clear();
        self.scratch = scratch;
        self.follow(result?);
        Ok(())
    }

    /// Reads the batches: what they change is known, and nothing is written but what they set aside or purge.
    pub(super) fn collect<'a>(
        &'a self,
        batches: &'a [Batch],
        taken: &'a Taken,
        scratch: &'a mut Scratch,
    ) -> Result<Apply<'a>, Error> {
        let mut journals = self.journals.clone();
        for batch in batches {
            layout::advance(&mut journals, batch)?;
        }
        let Databases { holes, late, passed, returned, moves, .. } = self.databases;
        let txn = self.env.write_txn().map_err(failure(OPERATION))?;
        let has_rows = |database: Database| Ok(!database.is_empty(&txn).map_err(failure(OPERATION))?);
        let (has_holes, has_late) = (has_rows(holes)?, has_rows(late)?);
        let (has_passed, has_returned) = (has_rows(passed.rows())?, has_rows(returned.rows())?);
        let has_moves = has_rows(moves.rows())?;
        let touched = HashMap::default();
        let (ids_end, last_key) = (self.ids_end, None);
        let mut apply = Apply {
            store: self,
            txn,
            batches,
            taken,
            touched,
            ids_end,
            journals,
            has_holes,
            has_late,
            has_passed,
            has_returned,
            has_moves,
            last_key,
            scratch,
        };
        for (batch, at) in batches.iter().zip(0..) {
            let mut decoder = Decoder::new(&batch.mutations);
            loop {
                let place = Place { batch: at, offset: decoder.offset() as u32 };
                let Some(mutation) = decoder.next() else { break };
                apply.mutate(mutation.map_err(|e| malformed(batch, e))?, place)?;
            }
        }
        Ok(apply)
    }

    /// Brings what is kept in memory to where the committed transaction is.
    pub(super) fn follow(&mut self, changes: Changes) {
        self.ids_end = changes.ids_end;
        self.journals = changes.journals;
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

/// What calls reuse: buffers that are empty between them.
#[derive(Default)]
pub(super) struct Scratch {
    puts: Chains<Pending>,
    removals: Chains<MessageId>,
    /// One queue's puts and removals while it is brought up to date.
    group: Vec<Pending>,
    gone: Vec<MessageId>,
    /// A run's holes, as stored and as they become.
    pub(super) stored_holes: Vec<u32>,
    pub(super) holes: Vec<u32>,
    pub(super) index: Index,
    pub(super) value: Vec<u8>,
}

impl Scratch {
    pub(super) fn clear(&mut self) {
        self.puts.clear(KEPT_LEN_MAX);
        self.removals.clear(KEPT_LEN_MAX);
        self.group.clear();
        self.group.shrink_to(KEPT_LEN_MAX);
        self.gone.clear();
        self.gone.shrink_to(KEPT_LEN_MAX);
        self.value.clear();
        self.value.shrink_to(RUN_SIZE_MAX);
    }
}

/// Where a mutation stands among those of the call; places sort in the order of the mutations.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    batch: u32,
    offset: u32,
}

/// A put that is to be written.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub(super) message: MessageId,
    place: Place,
    header_size: u32,
    body_size: u32,
}

impl Pending {
    /// Bytes of its record.
    pub(super) fn size(&self) -> usize {
        (self.header_size + self.body_size) as usize
    }

    /// The put itself.
    pub(super) fn read<'a>(&self, batches: &'a [Batch]) -> Put<'a> {
        let bytes = &batches[self.place.batch as usize].mutations[self.place.offset as usize..];
        match Decoder::new(bytes).next() {
            Some(Ok(Mutation::Put(put))) => put,
            _ => unreachable!("it was a put when it was collected"),
        }
    }
}

/// A queue that the batches change.
pub(super) struct Touched {
    pub(super) row: Row,
    /// Whether the database has a row of it from before.
    is_stored: bool,
    is_deleted: bool,
    puts: Chain,
    removals: Chain,
    /// What this call purged, and when: a message may come back later, below what was purged. Seldom more than one.
    purges: Vec<(Place, MessageId)>,
}

impl Touched {
    fn new(row: Row, is_stored: bool) -> Touched {
        let (puts, removals, purges) = (Chain::default(), Chain::default(), Vec::new());
        Touched { row, is_stored, is_deleted: false, puts, removals, purges }
    }

    fn purge(&mut self, place: Place, below: MessageId) {
        self.row.purged_below = self.row.purged_below.max(below);
        self.purges.retain(|(_, other)| *other > below);
        self.purges.push((place, below));
    }

    fn has_purged(&self, put: &Pending) -> bool {
        self.purges.iter().any(|(place, below)| put.place < *place && put.message < *below)
    }
}

/// What a committed call leaves to be brought into memory.
pub(super) struct Changes {
    touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
    journals: Vec<JournalRow>,
}

/// One call's transaction while it is being filled.
pub(super) struct Apply<'a> {
    pub(super) store: &'a Lmdb,
    pub(super) txn: RwTxn<'a>,
    pub(super) batches: &'a [Batch],
    pub(super) taken: &'a Taken,
    pub(super) touched: HashMap<QueueId, Touched, RandomState>,
    ids_end: u64,
    journals: Vec<JournalRow>,
    /// Whether there were rows of `holes`, and of `late`, when the call began.
    pub(super) has_holes: bool,
    pub(super) has_late: bool,
    /// Whether there are, or may be, rows of `passed`, of `returned`, and of `moves`.
    pub(super) has_passed: bool,
    pub(super) has_returned: bool,
    pub(super) has_moves: bool,
    /// No key in `messages` is above it; read when the first run is written.
    pub(super) last_key: Option<MessageKey>,
    pub(super) scratch: &'a mut Scratch,
}

impl Apply<'_> {
    pub(super) fn mutate(&mut self, mutation: Mutation<'_>, place: Place) -> Result<(), Error> {
        match mutation {
            Mutation::Create { queue, created_ms, name } => self.create(queue, created_ms, name),
            Mutation::Put(put) => {
                let touched = count(&mut self.touched, self.store, put.queue, &mutation)?;
                if !self.taken.contains(put.message) {
                    // A decoded length is 32 bits.
                    let (header_size, body_size) = (layout::record_header_size(&put) as u32, put.body.len() as u32);
                    let pending = Pending { message: put.message, place, header_size, body_size };
                    self.scratch.puts.push(&mut touched.puts, pending);
                }
                match touched.row.groups.is_empty() {
                    true => Ok(()),
                    false => self.count_for_groups(put.queue, &mutation),
                }
            }
            Mutation::Take { queue, message } | Mutation::Leave { queue, message, .. } => {
                self.remove(queue, message, &mutation)
            }
            Mutation::Corrupt { queue, message } => {
                let row = &touch(&mut self.touched, self.store, queue)?.row;
                let (owner, role) = (row.owner(), row.role());
                self.keep_corrupt(owner, message).map_err(failure(OPERATION))?;
                match role {
                    Role::Plain => self.remove(queue, message, &mutation),
                    _ => self.pass(queue, message, MessageId(0), &mutation),
                }
            }
            Mutation::Purge { queue, below, count: _ } => {
                let role = count(&mut self.touched, self.store, queue, &mutation)?.row.role();
                self.forget_below(queue, below).map_err(failure(OPERATION))?;
                match role {
                    Role::Plain => self.purge(queue, place, below),
                    _ => self.raise_low(queue, below),
                }
            }
            // A reply may outlive its queue: by the time its client is found to be gone, so may be the queue.
            Mutation::Unsent { queue } => match touch(&mut self.touched, self.store, queue) {
                Ok(touched) => {
                    let role = touched.row.role();
                    layout::count(&mut touched.row.counters, queue, role, &mutation)
                }
                Err(_) => Ok(()),
            },
            Mutation::Passed { queue, .. } => count(&mut self.touched, self.store, queue, &mutation).map(|_| ()),
            Mutation::Delete { queue } => self.delete(queue),
            Mutation::Ids { end } => {
                self.ids_end = self.ids_end.max(end);
                Ok(())
            }
            Mutation::Return { queue, message, deliveries } => self.give_back(queue, message, deliveries),
            Mutation::Group { queue, of, created_ms, name, .. } => {
                self.begin_group(of, queue, &mutation)?;
                self.create(queue, created_ms, name)?;
                let touched = count(&mut self.touched, self.store, queue, &mutation)?;
                touched.row.of = of;
                Ok(())
            }
            Mutation::Pass { queue, message, low, .. } => self.pass(queue, message, low, &mutation),
            Mutation::Free { queue, message } => self.free(queue, message),
            Mutation::Sweep { queue, freed } => self.sweep(queue, freed, place),
            Mutation::Configure { name, settings } => self.configure(name, settings),
            Mutation::Move { queue, message, number, why, target } => {
                self.begin_move(queue, message, number, why, target)
            }
            Mutation::Moved { queue, number } => self.end_move(queue, number),
            Mutation::Accept { source, number, target } => self.accept(source, number, target),
        }
    }

    fn create(&mut self, queue: QueueId, created_ms: u64, name: &[u8]) -> Result<(), Error> {
        let is_used = self.store.rows.contains_key(&queue) || self.store.dropped.contains(&queue);
        if is_used || self.touched.contains_key(&queue) {
            return Err(Error::Damaged(format!("queue {queue} was created twice")));
        }
        self.touched.insert(queue, Touched::new(Row::new(name, queue, created_ms), false));
        Ok(())
    }

    fn delete(&mut self, queue: QueueId) -> Result<(), Error> {
        let touched = touch(&mut self.touched, self.store, queue)?;
        if !touched.row.groups.is_empty() {
            return Err(Error::Damaged(format!("queue {queue} was deleted before its groups")));
        }
        touched.is_deleted = true;
        let (of, is_stored) = (touched.row.of, touched.is_stored);
        if of.0 != 0 {
            touch(&mut self.touched, self.store, of)?.row.groups.retain(|group| *group != queue);
        }
        // Of others what lies there is removed when there is time.
        match is_stored {
            true => Ok(()),
            false => self.forget_reader(queue).map_err(failure(OPERATION)),
        }
    }

    fn remove(&mut self, queue: QueueId, message: MessageId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let touched = count(&mut self.touched, self.store, queue, mutation)?;
        if !self.taken.contains(message) {
            self.scratch.removals.push(&mut touched.removals, message);
            self.forget_returned(queue, message).map_err(failure(OPERATION))?;
        }
        Ok(())
    }

    /// Removes a message that left all readers of the queue.
    pub(super) fn remove_passed(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        if !self.taken.contains(message) {
            let touched = touch(&mut self.touched, self.store, queue)?;
            self.scratch.removals.push(&mut touched.removals, message);
        }
        Ok(())
    }

    /// Purges what earlier calls stored. What this call puts is left out when it would be written.
    pub(super) fn purge(&mut self, queue: QueueId, place: Place, below: MessageId) -> Result<(), Error> {
        let row = &self.touched[&queue].row;
        let (newest, gone_below) = (row.newest, row.gone_below());
        let late = self.purge_late(queue, below).map_err(failure(OPERATION))?;
        // A flush takes all runs, however many there are, readable or not.
        let takes_all_runs = below > newest;
        let size = match takes_all_runs {
            true => self.size_late(queue),
            false => self.size_in_runs(queue, gone_below, below),
        };
        let size = size.map_err(failure(OPERATION))?;
        let touched = self.touched.get_mut(&queue).expect("looked up above");
        match takes_all_runs {
            true => touched.row.bytes = size,
            false => touched.row.lose(late + size),
        }
        touched.purge(place, below);
        Ok(())
    }

    pub(super) fn commit(mut self) -> Result<Changes, Error> {
        let changes = |touched: &Touched| !touched.puts.is_empty() || !touched.removals.is_empty();
        let touched = self.touched.iter().filter(|(_, touched)| !touched.is_deleted && changes(touched));
        let mut queues: Vec<QueueId> = touched.map(|(queue, _)| *queue).collect();
        queues.sort_unstable();
        queues.into_iter().try_for_each(|queue| self.bring(queue))?;
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

    /// Removes and writes one queue's messages.
    fn bring(&mut self, queue: QueueId) -> Result<(), Error> {
        let touched = &self.touched[&queue];
        let Row { mut head, mut newest, .. } = touched.row;
        let gone_below = touched.row.gone_below();
        let mut group = std::mem::take(&mut self.scratch.group);
        let mut gone = std::mem::take(&mut self.scratch.gone);
        self.scratch.puts.collect(touched.puts, &mut group);
        self.scratch.removals.collect(touched.removals, &mut gone);
        if !touched.purges.is_empty() {
            group.retain(|put| !touched.has_purged(put));
        }
        // The standard sort finds out at once that nothing is to be done, which is so but for messages that came back late.
        group.sort_unstable_by_key(|put| put.message);
        gone.sort_unstable();
        gone.dedup();
        if group.first().is_some_and(|put| gone.last().is_some_and(|last| put.message <= *last)) {
            group.retain(|put| gone.binary_search(&put.message).is_err());
        }
        if let Some(twice) = group.windows(2).find(|pair| pair[0].message == pair[1].message) {
            return Err(put_twice(queue, twice[0].message));
        }
        let removed_late = self.remove_late(queue, &gone).map_err(failure(OPERATION))?;
        let in_runs = gone.partition_point(|message| *message <= newest);
        let removed = self.remove_from_runs(queue, &gone[..in_runs], gone_below).map_err(failure(OPERATION))?;
        head = removed.head.unwrap_or(head);
        let (late, younger) =
            group.split_at(group.partition_point(|put| put.message <= newest || put.message < gone_below));
        self.write_late(queue, late, gone_below)?;
        self.write_runs(queue, younger)?;
        newest = younger.last().map_or(newest, |put| put.message);
        let written: u64 = group.iter().map(|put| u64::from(put.body_size)).sum();
        (self.scratch.group, self.scratch.gone) = (group, gone);
        let row = &mut self.touched.get_mut(&queue).expect("looked up above").row;
        (row.head, row.newest) = (head, newest);
        row.lose(removed.bytes + removed_late);
        row.bytes += written;
        Ok(())
    }

    fn write_queues(&mut self) -> Result<(), Error> {
        let Databases { meta, queues, .. } = self.store.databases;
        // A name may pass from a deleted queue to a new one in the same call.
        for touched in self.touched.values().filter(|touched| touched.is_deleted && touched.is_stored) {
            queues.delete(&mut self.txn, &touched.row.name).map_err(failure(OPERATION))?;
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

    /// Appending spares a search of the tree and leaves full pages behind, but is right only past the last key.
    pub(super) fn flags_for(&mut self, queue: QueueId, first: MessageId) -> Result<PutFlags, heed::Error> {
        let key = message_key(queue, first);
        let last = match self.last_key {
            Some(last) => last,
            None => {
                let last = self.store.databases.messages.last(&self.txn)?;
                last.and_then(|(key, _)| key.try_into().ok()).unwrap_or_default()
            }
        };
        self.last_key = Some(last.max(key));
        Ok(if key > last { PutFlags::APPEND } else { PutFlags::empty() })
    }
}

pub(super) fn put_twice(queue: QueueId, message: MessageId) -> Error {
    Error::Damaged(format!("queue {queue}: message {message} was put twice"))
}

/// The queue as the mutations so far left it. Not a method, so that what else the call has can be used meanwhile.
pub(super) fn touch<'t>(
    touched: &'t mut HashMap<QueueId, Touched, RandomState>,
    store: &Lmdb,
    queue: QueueId,
) -> Result<&'t mut Touched, Error> {
    let unknown = || Error::Damaged(format!("queue {queue} is not there to be changed"));
    let touched = match touched.entry(queue) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(Touched::new(store.rows.get(&queue).ok_or_else(unknown)?.clone(), true)),
    };
    if touched.is_deleted { Err(unknown()) } else { Ok(touched) }
}

pub(super) fn count<'t>(
    touched: &'t mut HashMap<QueueId, Touched, RandomState>,
    store: &Lmdb,
    queue: QueueId,
    mutation: &Mutation<'_>,
) -> Result<&'t mut Touched, Error> {
    let touched = touch(touched, store, queue)?;
    let role = touched.row.role();
    layout::count(&mut touched.row.counters, queue, role, mutation)?;
    Ok(touched)
}
