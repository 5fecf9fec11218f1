//! Readers: what a queue's groups have passed, what came back from whom, what is on its way elsewhere; and what a start finds.
//!
//! Where a queue has groups, its messages are removed when it is said that all have passed them (`Free`, `Sweep`); what each reader has
//! passed is a low mark in its row and, of what is above, rows in `passed`.
//!
//! Invariant: what is in `passed` is at or above its reader's low mark, and the message is stored; what is in `returned` is stored and not
//! passed.

use std::ops::Bound;

use heed::{RoTxn, RwTxn};

use super::super::layout::{self, Row, message_key, message_of_key};
use super::super::{Accepted, Error, QueueRow, Recovered};
use super::apply::{Apply, OPERATION, Place, count, touch};
use super::{Database, Databases, Lmdb, failure};
use crate::ids::{MessageId, QueueId, ShardId};
use crate::mutation::{Mutation, Why};

/// The messages of a reader in `passed` or `returned`, from one on and below another.
fn messages_between(
    txn: &RoTxn<'_>,
    database: Database,
    reader: QueueId,
    from: MessageId,
    below: MessageId,
) -> Result<Vec<MessageId>, heed::Error> {
    if from >= below {
        return Ok(Vec::new());
    }
    let (from, below) = (message_key(reader, from), message_key(reader, below));
    let range = (Bound::Included(&from[..]), Bound::Excluded(&below[..]));
    let rows = database.range(txn, &range)?;
    rows.filter_map(|entry| entry.map(|(key, _)| message_of_key(reader, key)).transpose()).collect()
}

fn delete_between(
    txn: &mut RwTxn<'_>,
    database: Database,
    reader: QueueId,
    from: MessageId,
    below: MessageId,
) -> Result<(), heed::Error> {
    for message in messages_between(txn, database, reader, from, below)? {
        database.delete(txn, &message_key(reader, message))?;
    }
    Ok(())
}

impl Apply<'_> {
    /// Whose messages a queue or a group has.
    pub(super) fn owner(&mut self, queue: QueueId) -> Result<QueueId, Error> {
        let of = touch(&mut self.touched, self.store, queue)?.row.of;
        Ok(if of.0 == 0 { queue } else { of })
    }

    /// Whether messages leave it by being passed: it is a group, or has some.
    pub(super) fn is_reader(&self, queue: QueueId) -> bool {
        let is_group = |row: &Row| row.of.0 != 0;
        let row = self.touched.get(&queue).map(|touched| &touched.row).or_else(|| self.store.rows.get(&queue));
        row.is_some_and(is_group) || self.groups.get(&queue).is_some_and(|groups| !groups.is_empty())
    }

    /// A message was put into a queue: its groups are offered it too.
    pub(super) fn count_in_groups(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let Some(groups) = self.groups.get(&queue) else { return Ok(()) };
        groups.iter().try_for_each(|group| count(&mut self.touched, self.store, *group, mutation).map(|_| ()))
    }

    fn readers(&self, queue: QueueId) -> Vec<QueueId> {
        let groups = self.groups.get(&queue).map_or(&[][..], |groups| groups);
        std::iter::once(queue).chain(groups.iter().copied()).collect()
    }

    pub(super) fn begin_group(&mut self, group: QueueId, of: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let is_first = !self.is_reader(of);
        let row = &mut touch(&mut self.touched, self.store, of)?.row;
        if is_first {
            (row.low, row.freed) = (MessageId(0), row.counters.puts - row.counters.present());
        }
        let row = &mut touch(&mut self.touched, self.store, group)?.row;
        row.of = of;
        row.counters.apply(mutation);
        self.groups.entry(of).or_default().push(group);
        Ok(())
    }

    /// A reader is done with a message, and with all below `low`.
    pub(super) fn pass(&mut self, reader: QueueId, message: MessageId, low: MessageId) -> Result<(), heed::Error> {
        let passed = self.store.databases.passed;
        let row = &mut self.touched.get_mut(&reader).expect("it was counted").row;
        let before = row.low;
        row.low = before.max(low);
        let low = row.low;
        if self.has_passed {
            delete_between(&mut self.txn, passed, reader, before, low)?;
        }
        if message >= low {
            passed.put(&mut self.txn, &message_key(reader, message), &[])?;
            self.has_passed = true;
        }
        self.forget_returned_by(reader, message)
    }

    /// A reader is done with all messages below.
    pub(super) fn pass_all(&mut self, reader: QueueId, below: MessageId) -> Result<(), heed::Error> {
        let row = &mut self.touched.get_mut(&reader).expect("it was counted").row;
        let before = row.low;
        row.low = before.max(below);
        let low = row.low;
        delete_between(&mut self.txn, self.store.databases.passed, reader, before, low)
    }

    /// All readers of a queue have passed the message: it goes.
    pub(super) fn free(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        let touched = touch(&mut self.touched, self.store, queue)?;
        touched.row.freed += 1;
        if !self.taken.contains(message) {
            self.scratch.removals.push(&mut touched.removals, message);
        }
        if self.has_passed {
            let passed = self.store.databases.passed;
            for reader in self.readers(queue) {
                passed.delete(&mut self.txn, &message_key(reader, message)).map_err(failure(OPERATION))?;
            }
        }
        self.forget_returned(queue, message).map_err(failure(OPERATION))
    }

    /// Removes what all readers of a queue have passed.
    pub(super) fn sweep(&mut self, queue: QueueId, place: Place, freed: u64) -> Result<(), Error> {
        let readers = self.readers(queue);
        let mut low = MessageId(u64::MAX);
        for reader in &readers {
            low = low.min(touch(&mut self.touched, self.store, *reader)?.row.low);
        }
        self.purge(queue, place, low)?;
        let doomed = self.passed_by_all(&readers, low).map_err(failure(OPERATION))?;
        let touched = touch(&mut self.touched, self.store, queue)?;
        touched.row.freed += freed;
        for message in &doomed {
            if !self.taken.contains(*message) {
                self.scratch.removals.push(&mut touched.removals, *message);
            }
        }
        let is_over = readers.len() == 1;
        if is_over {
            (touched.row.low, touched.row.freed) = (MessageId(0), 0);
        }
        let passed = self.store.databases.passed;
        for reader in readers {
            for message in &doomed {
                passed.delete(&mut self.txn, &message_key(reader, *message)).map_err(failure(OPERATION))?;
            }
        }
        if is_over {
            let all = MessageId(u64::MAX);
            delete_between(&mut self.txn, passed, queue, MessageId(0), all).map_err(failure(OPERATION))?;
        }
        Ok(())
    }

    /// Messages from `low` on, the least of the readers' marks, that all of them have passed.
    fn passed_by_all(&mut self, readers: &[QueueId], low: MessageId) -> Result<Vec<MessageId>, heed::Error> {
        let lowest = |reader: &&QueueId| self.touched[*reader].row.low == low;
        let slowest = *readers.iter().find(lowest).expect("one of them has the least");
        let passed = self.store.databases.passed;
        let mut all = Vec::new();
        for message in messages_between(&self.txn, passed, slowest, low, MessageId(u64::MAX))? {
            let mut by_all = true;
            for reader in readers {
                by_all = by_all
                    && (message < self.touched[reader].row.low
                        || passed.get(&self.txn, &message_key(*reader, message))?.is_some());
            }
            if by_all {
                all.push(message);
            }
        }
        Ok(all)
    }

    // --- deliveries ---

    pub(super) fn note_returned(
        &mut self,
        reader: QueueId,
        message: MessageId,
        deliveries: u32,
    ) -> Result<(), heed::Error> {
        if self.taken.contains(message) {
            return Ok(());
        }
        self.has_returned = true;
        let returned = self.store.databases.returned;
        returned.put(&mut self.txn, &message_key(reader, message), &deliveries.to_le_bytes())
    }

    /// A message is gone, for all readers of its queue.
    pub(super) fn forget_returned(&mut self, queue: QueueId, message: MessageId) -> Result<(), heed::Error> {
        if self.has_returned {
            self.readers(queue).into_iter().try_for_each(|reader| self.forget_returned_by(reader, message))?;
        }
        Ok(())
    }

    fn forget_returned_by(&mut self, reader: QueueId, message: MessageId) -> Result<(), heed::Error> {
        if self.has_returned {
            self.store.databases.returned.delete(&mut self.txn, &message_key(reader, message))?;
        }
        Ok(())
    }

    pub(super) fn purge_returned(&mut self, reader: QueueId, below: MessageId) -> Result<(), heed::Error> {
        if !self.has_returned {
            return Ok(());
        }
        delete_between(&mut self.txn, self.store.databases.returned, reader, MessageId(0), below)
    }

    pub(super) fn configure(&mut self, name: &[u8], settings: &[u8]) -> Result<(), heed::Error> {
        let database = self.store.databases.settings;
        if settings.is_empty() {
            return database.delete(&mut self.txn, name).map(|_| ());
        }
        database.put(&mut self.txn, name, settings)
    }
}

/// What a reader has passed, asked message by message.
pub(super) struct Passed<'t> {
    txn: &'t RoTxn<'t>,
    reader: QueueId,
    /// Nothing to look for, where there is nothing.
    passed: Option<Database>,
    returned: Option<Database>,
}

impl Passed<'_> {
    pub(super) fn contains(&self, message: MessageId) -> Result<bool, Error> {
        let Some(passed) = self.passed else { return Ok(false) };
        let key = message_key(self.reader, message);
        Ok(passed.get(self.txn, &key).map_err(failure("reading messages"))?.is_some())
    }

    /// How often a message was delivered and came back; 0: never.
    pub(super) fn deliveries(&self, message: MessageId) -> Result<u32, Error> {
        let Some(returned) = self.returned else { return Ok(0) };
        let value = returned.get(self.txn, &message_key(self.reader, message)).map_err(failure("reading messages"))?;
        Ok(value.and_then(|value| value.try_into().ok()).map_or(0, u32::from_le_bytes))
    }
}

impl Lmdb {
    /// What a reader has passed above its low mark.
    pub(super) fn passed_of<'t>(&self, txn: &'t RoTxn<'t>, reader: QueueId) -> Result<Passed<'t>, heed::Error> {
        let Databases { passed, returned, .. } = self.databases;
        let passed = if passed.is_empty(txn)? { None } else { Some(passed) };
        let returned = if returned.is_empty(txn)? { None } else { Some(returned) };
        Ok(Passed { txn, reader, passed, returned })
    }

    pub(super) fn try_recover(&self) -> Result<Recovered, Error> {
        const OPERATION: &str = "reading the database's queues";
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let Databases { passed, settings, accepted, .. } = self.databases;
        let mut queues = Vec::with_capacity(self.rows.len());
        for row in self.rows.values() {
            let owner = if row.of.0 == 0 { row } else { self.rows.get(&row.of).ok_or_else(|| orphan(row))? };
            let all = MessageId(u64::MAX);
            let ahead = match self.groups.contains_key(&owner.queue) {
                true => messages_between(&txn, passed, row.queue, row.low, all).map_err(failure(OPERATION))?,
                false => Vec::new(),
            };
            queues.push(QueueRow {
                name: row.name.clone(),
                queue: row.queue,
                created_ms: row.created_ms,
                counters: row.counters,
                bytes: owner.bytes,
                of: row.of,
                low: row.low,
                passed: ahead,
                freed: row.freed,
            });
        }
        queues.sort_unstable_by_key(|row| row.queue);
        let mut recovered =
            Recovered { queues, ids_end: self.ids_end, journals: self.journals.clone(), ..Recovered::default() };
        for entry in settings.iter(&txn).map_err(failure(OPERATION))? {
            let (name, settings) = entry.map_err(failure(OPERATION))?;
            recovered.settings.push((name.to_vec(), settings.to_vec()));
        }
        for entry in accepted.iter(&txn).map_err(failure(OPERATION))? {
            let (key, number) = entry.map_err(failure(OPERATION))?;
            let read = layout::decode_accepted_key(key).zip(number.try_into().ok().map(u64::from_le_bytes));
            let ((source, target), number) =
                read.ok_or_else(|| Error::Damaged("a transfer that was accepted cannot be read".into()))?;
            recovered.accepted.push(Accepted { source, target: target.to_vec(), number });
        }
        Ok(recovered)
    }

    /// Decides every transfer that is in `moves`, one transaction each: there are as many as were under way.
    pub(super) fn try_settle_moves(&mut self) -> Result<(), Error> {
        const OPERATION: &str = "reading what was on its way to other queues";
        let Databases { moves, accepted, .. } = self.databases;
        let mut found = Vec::new();
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        for entry in moves.iter(&txn).map_err(failure(OPERATION))? {
            let (key, value) = entry.map_err(failure(OPERATION))?;
            let read = key.split_first_chunk().map(|(queue, _)| QueueId(u64::from_be_bytes(*queue)));
            let read = read.and_then(|queue| Some((queue, message_of_key(queue, key)?.0, layout::decode_move(value)?)));
            let (queue, number, (message, why, target)) =
                read.ok_or_else(|| Error::Damaged("a message on its way to another queue cannot be read".into()))?;
            let newest = accepted.get(&txn, &layout::accepted_key(queue, target)).map_err(failure(OPERATION))?;
            let newest = newest.and_then(|number| number.try_into().ok()).map_or(0, u64::from_le_bytes);
            found.push((queue, number, message, why, number <= newest));
        }
        let mut gone = Vec::new();
        for entry in accepted.iter(&txn).map_err(failure(OPERATION))? {
            let (key, _) = entry.map_err(failure(OPERATION))?;
            gone.extend(
                layout::decode_accepted_key(key)
                    .filter(|(source, _)| !self.rows.contains_key(source))
                    .map(|_| key.to_vec()),
            );
        }
        drop(txn);
        for (queue, number, message, why, was_accepted) in found {
            self.settle_move(queue, number, message, why, was_accepted)?;
        }
        if gone.is_empty() {
            return Ok(());
        }
        let mut txn = self.env.write_txn().map_err(failure(OPERATION))?;
        for key in gone {
            accepted.delete(&mut txn, &key).map_err(failure(OPERATION))?;
        }
        txn.commit().map_err(failure(OPERATION))
    }

    fn settle_move(
        &mut self,
        queue: QueueId,
        number: u64,
        message: MessageId,
        why: Why,
        was_accepted: bool,
    ) -> Result<(), Error> {
        let mut mutations = Vec::new();
        Mutation::Moved { queue, number }.encode(&mut mutations);
        if let Some(row) = self.rows.get(&queue).filter(|_| was_accepted) {
            let owner = if row.of.0 == 0 { queue } else { row.of };
            match self.groups.get(&owner) {
                None => Mutation::Leave { queue, message, why }.encode(&mut mutations),
                Some(groups) => {
                    Mutation::Pass { queue, message, low: MessageId(0), why }.encode(&mut mutations);
                    let mut others = std::iter::once(&owner).chain(groups).filter(|other| **other != queue);
                    if others.try_fold(true, |all, other| Ok::<_, Error>(all && self.has_passed(*other, message)?))? {
                        Mutation::Free { queue: owner, message }.encode(&mut mutations);
                    }
                }
            }
        }
        self.apply_own(ShardId(0), mutations)
    }

    fn has_passed(&self, reader: QueueId, message: MessageId) -> Result<bool, Error> {
        if message < self.rows[&reader].low {
            return Ok(true);
        }
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        self.passed_of(&txn, reader).map_err(failure(OPERATION))?.contains(message)
    }
}

fn orphan(row: &Row) -> Error {
    Error::Damaged(format!("{}: the queue of this group is not there", row.name.escape_ascii()))
}
