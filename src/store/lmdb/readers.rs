//! Readers of a queue with groups: what each has passed, and what goes because all have; and how often a message was delivered to one.
//!
//! Invariant: a reader has passed a message of its queue if the id is below its `low`, or in `passed`. `passed` has no id below `low`, and
//! none of a message that is gone; neither has `returned`. Messages that the job puts and takes ([`super::Taken`]) are in neither.

use std::ops::Bound;

use super::super::Error;
use super::super::layout::{self, Role, message_key, message_of_key};
use super::apply::{Apply, OPERATION, Place, count, touch};
use super::sealed::Sealed;
use super::{Databases, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::Mutation;

impl Apply<'_> {
    /// Makes room for a group beside the other readers of a queue; its own row is made by the caller.
    pub(super) fn begin_group(&mut self, of: QueueId, group: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let Mutation::Group { offered, .. } = *mutation else { unreachable!("the caller has one") };
        let row = &mut touch(&mut self.touched, self.store, of)?.row;
        let damaged = |what: &str| Error::Damaged(format!("queue {of}: {what}"));
        match row.role() {
            Role::Plain => {
                (row.is_grouped, row.low) = (true, MessageId(0));
                row.freed = row.counters.puts - row.counters.present();
            }
            Role::Grouped => {}
            Role::Group => return Err(damaged("a group has no groups")),
        }
        if offered != row.counters.puts - row.freed {
            return Err(damaged("a group begins with other messages than are there"));
        }
        row.groups.push(group);
        Ok(())
    }

    /// Counts for the groups of a queue what was counted for the queue.
    pub(super) fn count_for_groups(&mut self, queue: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let touched = touch(&mut self.touched, self.store, queue)?;
        let groups = std::mem::take(&mut touched.row.groups);
        for group in &groups {
            count(&mut self.touched, self.store, *group, mutation)?;
        }
        touch(&mut self.touched, self.store, queue)?.row.groups = groups;
        Ok(())
    }

    /// A reader has passed a message, and everything below `low`.
    pub(super) fn pass(
        &mut self,
        reader: QueueId,
        message: MessageId,
        low: MessageId,
        mutation: &Mutation<'_>,
    ) -> Result<(), Error> {
        count(&mut self.touched, self.store, reader, mutation)?;
        self.raise_low(reader, low)?;
        if self.taken.contains(message) {
            return Ok(());
        }
        self.forget_returned(reader, message).map_err(failure(OPERATION))?;
        if message >= self.touched[&reader].row.low {
            let passed = self.store.databases.passed;
            passed.put(&mut self.txn, &message_key(reader, message), &[]).map_err(failure(OPERATION))?;
            self.has_passed = true;
        }
        Ok(())
    }

    /// A reader has passed all messages below an id. What it has returned there the caller knows of.
    pub(super) fn raise_low(&mut self, reader: QueueId, low: MessageId) -> Result<(), Error> {
        let row = &mut touch(&mut self.touched, self.store, reader)?.row;
        if low <= row.low {
            return Ok(());
        }
        row.low = low;
        match self.has_passed {
            true => self.delete_below(self.store.databases.passed, reader, low).map_err(failure(OPERATION)),
            false => Ok(()),
        }
    }

    /// Removes a message that all readers have passed.
    pub(super) fn free(&mut self, queue: QueueId, message: MessageId) -> Result<(), Error> {
        self.count_freed(queue, 1)?;
        self.remove_passed(queue, message)?;
        let readers = self.readers(queue);
        self.forget_message(&readers, message).map_err(failure(OPERATION))
    }

    /// Removes all messages that all readers have passed. A queue that has no groups any more is an ordinary one again.
    pub(super) fn sweep(&mut self, queue: QueueId, freed: u64, place: Place) -> Result<(), Error> {
        self.count_freed(queue, freed)?;
        let readers = self.readers(queue);
        let low = readers.iter().map(|(_, low)| *low).min().expect("there is the queue itself");
        if low.0 > 0 {
            self.purge(queue, place, low)?;
        }
        let mut next = low;
        while let Some(message) = self.first_passed_by_all(&readers, next).map_err(failure(OPERATION))? {
            self.remove_passed(queue, message)?;
            self.forget_message(&readers, message).map_err(failure(OPERATION))?;
            next = MessageId(message.0 + 1);
        }
        let row = &mut self.touched.get_mut(&queue).expect("it was counted").row;
        if !row.groups.is_empty() {
            return Ok(());
        }
        if row.counters.left() != Some(row.freed) {
            return Err(Error::Damaged(format!("queue {queue}: other messages are there than its readers left")));
        }
        (row.is_grouped, row.low, row.freed) = (false, MessageId(0), 0);
        Ok(())
    }

    fn count_freed(&mut self, queue: QueueId, count: u64) -> Result<(), Error> {
        let row = &mut touch(&mut self.touched, self.store, queue)?.row;
        let role = row.role();
        layout::free(&mut row.freed, queue, role, &row.counters, count)
    }

    /// All readers of a queue, and below where each has passed all.
    pub(super) fn readers(&self, queue: QueueId) -> Vec<(QueueId, MessageId)> {
        let row = |queue: QueueId| match self.touched.get(&queue) {
            Some(touched) => &touched.row,
            None => &self.store.rows[&queue],
        };
        let groups = row(queue).groups.iter().map(|group| (*group, row(*group).low));
        std::iter::once((queue, row(queue).low)).chain(groups).collect()
    }

    /// The first message from an id on that all readers have passed. That id must be one that some reader has not passed by its `low`, so
    /// that the rows of `passed` tell. Leaps from one reader's next to the other's, so it takes as long as the shortest list.
    pub(super) fn first_passed_by_all(
        &self,
        readers: &[(QueueId, MessageId)],
        from: MessageId,
    ) -> Result<Option<MessageId>, heed::Error> {
        let mut candidate = from;
        'candidates: loop {
            for (reader, low) in readers {
                if candidate < *low {
                    continue;
                }
                match self.first_passed(*reader, candidate)? {
                    None => return Ok(None),
                    Some(next) if next == candidate => {}
                    Some(next) => {
                        candidate = next;
                        continue 'candidates;
                    }
                }
            }
            return Ok(Some(candidate));
        }
    }

    /// The first row of `passed` that a reader has from an id on.
    fn first_passed(&self, reader: QueueId, from: MessageId) -> Result<Option<MessageId>, heed::Error> {
        if !self.has_passed {
            return Ok(None);
        }
        let found = self.store.databases.passed.first_from(&self.txn, &message_key(reader, from))?;
        Ok(found.and_then(|(key, _)| message_of_key(reader, key)))
    }

    /// Whether a reader has passed a message.
    pub(super) fn has_passed_message(
        &self,
        (reader, low): (QueueId, MessageId),
        message: MessageId,
    ) -> Result<bool, heed::Error> {
        Ok(message < low || self.first_passed(reader, message)? == Some(message))
    }

    // --- deliveries ---

    /// A message came back from an open read.
    pub(super) fn give_back(&mut self, reader: QueueId, message: MessageId, deliveries: u32) -> Result<(), Error> {
        touch(&mut self.touched, self.store, reader)?;
        if self.taken.contains(message) {
            return Ok(());
        }
        let (key, value) = (message_key(reader, message), deliveries.to_le_bytes());
        self.store.databases.returned.put(&mut self.txn, &key, &value).map_err(failure(OPERATION))?;
        self.has_returned = true;
        Ok(())
    }

    pub(super) fn forget_returned(&mut self, reader: QueueId, message: MessageId) -> Result<(), heed::Error> {
        if self.has_returned {
            self.store.databases.returned.delete(&mut self.txn, &message_key(reader, message))?;
        }
        Ok(())
    }

    /// A message is gone for all readers.
    fn forget_message(&mut self, readers: &[(QueueId, MessageId)], message: MessageId) -> Result<(), heed::Error> {
        let passed = self.store.databases.passed;
        for (reader, low) in readers {
            if self.has_passed && message >= *low {
                passed.delete(&mut self.txn, &message_key(*reader, message))?;
            }
            self.forget_returned(*reader, message)?;
        }
        Ok(())
    }

    /// A reader has dropped all messages below an id: it has none of them that was returned or is on its way elsewhere.
    pub(super) fn forget_below(&mut self, reader: QueueId, below: MessageId) -> Result<(), heed::Error> {
        if self.has_returned {
            self.delete_below(self.store.databases.returned, reader, below)?;
        }
        self.forget_moves_below(reader, below)
    }

    /// A reader that the database has no row of is gone.
    pub(super) fn forget_reader(&mut self, reader: QueueId) -> Result<(), heed::Error> {
        let Databases { passed, returned, moves, .. } = self.store.databases;
        let is_used = [(passed, self.has_passed), (returned, self.has_returned), (moves, self.has_moves)];
        for (database, _) in is_used.into_iter().filter(|(_, is_used)| *is_used) {
            self.delete_below(database, reader, MessageId(u64::MAX))?;
        }
        Ok(())
    }

    fn delete_below(&mut self, database: Sealed, reader: QueueId, below: MessageId) -> Result<(), heed::Error> {
        let (from, below) = (message_key(reader, MessageId(0)), message_key(reader, below));
        database
            .rows()
            .delete_range(&mut self.txn, &(Bound::Included(&from[..]), Bound::Excluded(&below[..])))
            .map(|_| ())
    }
}
