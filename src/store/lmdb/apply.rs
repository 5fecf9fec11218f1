//! Applying batches: a slice of a checkpoint, one transaction.
//!
//! The mutations are read once, in order: they count at once, and what they put and remove is collected by queue. Then
//! each queue's messages are brought up to date in order of their ids ([`super::removal`], [`super::writing`]), and its row is
//! written. Mutations that cannot be read, or cannot be true, are found on the way and abort the transaction.
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
use super::super::layout::{self, MessageKey, Row, message_key};
use super::super::run::{Index, RUN_SIZE_MAX};
use super::super::{Batch, Error, JournalRow, Taken};
use super::{Databases, Groups, Lmdb, failure};
use crate::ids::{MessageId, Position, QueueId, Seq, ShardId};
use crate::mutation::{Decoder, Mutation, Put};

pub(super) const OPERATION: &str = "committing messages";

/// Values that a buffer may keep for the next call: a slice is smaller, what a start replays need not be.
const KEPT_LEN_MAX: usize = 32 << 10;

impl Lmdb {
    /// Applies mutations that come from no journal.
    pub(super) fn apply_own(&mut self, shard: ShardId, mutations: Vec<u8>) -> Result<(), Error> {
        let batch = Batch { shard, seq: Seq(0), mutations, end: Position::default() };
        self.try_apply(&[batch], &Taken::none())
    }

    pub(super) fn try_apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.collect(batches, taken, &mut scratch).and_then(Apply::commit);
        scratch.clear();
        self.scratch = scratch;
        self.follow(result?);
        Ok(())
    }

    /// Reads the batches: what they change is known, and nothing is written but what they set aside or purge.
    fn collect<'a>(
        &'a self,
        batches: &'a [Batch],
        taken: &'a Taken,
        scratch: &'a mut Scratch,
    ) -> Result<Apply<'a>, Error> {
        let mut journals = self.journals.clone();
        // What the store does by itself is in no journal.
        for batch in batches.iter().filter(|batch| batch.seq.0 > 0) {
            layout::advance(&mut journals, batch)?;
        }
        let Databases { holes, late, passed, returned, .. } = self.databases;
        let txn = self.env.write_txn().map_err(failure(OPERATION))?;
        let has_holes = !holes.is_empty(&txn).map_err(failure(OPERATION))?;
        let has_late = !late.is_empty(&txn).map_err(failure(OPERATION))?;
        let has_passed = !passed.is_empty(&txn).map_err(failure(OPERATION))?;
        let has_returned = !returned.is_empty(&txn).map_err(failure(OPERATION))?;
        let (touched, groups) = (HashMap::default(), self.groups.clone());
        let (ids_end, last_key) = (self.ids_end, None);
        let mut apply = Apply {
            store: self,
            txn,
            batches,
            taken,
            touched,
            groups,
            ids_end,
            journals,
            has_passed,
            has_returned,
            has_holes,
            has_late,
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
    fn follow(&mut self, changes: Changes) {
        self.ids_end = changes.ids_end;
        self.journals = changes.journals;
        self.groups = changes.groups;
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
    pub(super) removals: Chains<MessageId>,
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
    fn clear(&mut self) {
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    batch: u32,
    offset: u32,
}

/// A put that is to be written.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub(super) message: MessageId,
    place: Place,
    body_size: u32,
    record_size: u32,
}

impl Pending {
    /// Bytes of its record.
    pub(super) fn size(&self) -> usize {
        self.record_size as usize
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
    pub(super) removals: Chain,
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
struct Changes {
    touched: HashMap<QueueId, Touched, RandomState>,
    groups: Groups,
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
    /// Groups as the mutations so far left them.
    pub(super) groups: Groups,
    ids_end: u64,
    journals: Vec<JournalRow>,
    /// Whether there is anything in `passed`, and in `returned`.
    pub(super) has_passed: bool,
    pub(super) has_returned: bool,
    /// Whether there were rows of `holes`, and of `late`, when the call began.
    pub(super) has_holes: bool,
    pub(super) has_late: bool,
    /// No key in `messages` is above it; read when the first run is written.
    pub(super) last_key: Option<MessageKey>,
    pub(super) scratch: &'a mut Scratch,
}

impl Apply<'_> {
    fn mutate(&mut self, mutation: Mutation<'_>, place: Place) -> Result<(), Error> {
        match mutation {
            Mutation::Create { queue, created_ms, name } => self.create(queue, created_ms, name),
            Mutation::Put(put) => {
                let touched = count(&mut self.touched, self.store, put.queue, &mutation)?;
                if !self.taken.contains(put.message) {
                    // A decoded length is 32 bits.
                    let (body_size, record_size) = (put.body.len() as u32, layout::record_size(&put) as u32);
                    let pending = Pending { message: put.message, place, body_size, record_size };
                    self.scratch.puts.push(&mut touched.puts, pending);
                }
                self.count_in_groups(put.queue, &mutation)
            }
            Mutation::Take { queue, message } | Mutation::Leave { queue, message, .. } => {
                self.remove(queue, message, &mutation)
            }
            Mutation::Corrupt { queue, message } => {
                let owner = self.owner(queue)?;
                if !self.taken.contains(message) {
                    self.keep_corrupt(owner, message).map_err(failure(OPERATION))?;
                }
                if !self.is_reader(queue) {
                    return self.remove(queue, message, &mutation);
                }
                count(&mut self.touched, self.store, queue, &mutation)?;
                self.pass(queue, message, MessageId(0)).map_err(failure(OPERATION))
            }
            Mutation::Purge { queue, below, count: _ } => {
                count(&mut self.touched, self.store, queue, &mutation)?;
                self.purge_returned(queue, below).map_err(failure(OPERATION))?;
                if self.is_reader(queue) {
                    return self.pass_all(queue, below).map_err(failure(OPERATION));
                }
                self.purge(queue, place, below)
            }
            Mutation::Return { queue, message, deliveries } => {
                self.note_returned(queue, message, deliveries).map_err(failure(OPERATION))
            }
            Mutation::Pass { queue, message, low, .. } => {
                count(&mut self.touched, self.store, queue, &mutation)?;
                self.pass(queue, message, low).map_err(failure(OPERATION))
            }
            Mutation::Free { queue, message } => self.free(queue, message),
            Mutation::Sweep { queue, freed } => self.sweep(queue, place, freed),
            Mutation::Group { queue, of, created_ms, name, .. } => {
                self.create(queue, created_ms, name)?;
                self.begin_group(queue, of, &mutation)
            }
            Mutation::Configure { name, settings } => self.configure(name, settings).map_err(failure(OPERATION)),
            Mutation::Move { queue, message, number, why, target } => {
                let (key, value) = (layout::move_key(queue, number), layout::encode_move(message, why, target));
                self.store.databases.moves.put(&mut self.txn, &key, &value).map_err(failure(OPERATION))
            }
            Mutation::Moved { queue, number } => {
                let key = layout::move_key(queue, number);
                self.store.databases.moves.delete(&mut self.txn, &key).map_err(failure(OPERATION))?;
                Ok(())
            }
            Mutation::Accept { source, number, target } => {
                let key = layout::accepted_key(source, target);
                let accepted = self.store.databases.accepted;
                accepted.put(&mut self.txn, &key, &number.to_le_bytes()).map_err(failure(OPERATION))
            }
            // A reply may outlive its queue: by the time its client is found to be gone, so may be the queue.
            Mutation::Unsent { queue } => match touch(&mut self.touched, self.store, queue) {
                Ok(touched) => layout::count(&mut touched.row.counters, queue, &mutation),
                Err(_) => Ok(()),
            },
            Mutation::Passed { queue, .. } => count(&mut self.touched, self.store, queue, &mutation).map(|_| ()),
            Mutation::Delete { queue } => {
                let touched = touch(&mut self.touched, self.store, queue)?;
                touched.is_deleted = true;
                if let Some(groups) = self.groups.get_mut(&touched.row.of) {
                    groups.retain(|group| *group != queue);
                }
                Ok(())
            }
            Mutation::Ids { end } => {
                self.ids_end = self.ids_end.max(end);
                Ok(())
            }
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

    fn remove(&mut self, queue: QueueId, message: MessageId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let touched = count(&mut self.touched, self.store, queue, mutation)?;
        if !self.taken.contains(message) {
            self.scratch.removals.push(&mut touched.removals, message);
        }
        self.forget_returned(queue, message).map_err(failure(OPERATION))
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
            false => touched.row.lose(late + size)?,
        }
        touched.purge(place, below);
        Ok(())
    }

    fn commit(mut self) -> Result<Changes, Error> {
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
        self.groups.retain(|_, groups| !groups.is_empty());
        Ok(Changes { touched: self.touched, groups: self.groups, ids_end: self.ids_end, journals: self.journals })
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
        row.lose(removed.bytes + removed_late)?;
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
    layout::count(&mut touched.row.counters, queue, mutation)?;
    Ok(touched)
}
