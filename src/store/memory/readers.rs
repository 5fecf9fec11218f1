//! Readers of a queue with groups, and transfers between queues, in memory.
//!
//! Invariant: `passed` of a reader has no id below its `low`, and no message that is not there; neither has `returned`.

use super::super::layout::{self, Role};
use super::super::{Error, Taken};
use super::{Inner, Move, damaged, has_passed, owner};
use crate::ids::{MessageId, QueueId};
use crate::mutation::Mutation;

impl Inner {
    pub(super) fn groups(&self, queue: QueueId) -> Vec<QueueId> {
        if !self.grouped.contains(&queue) {
            return Vec::new();
        }
        self.queues.values().filter(|row| row.of == queue).map(|row| row.queue).collect()
    }

    fn readers(&self, queue: QueueId) -> Vec<QueueId> {
        std::iter::once(queue).chain(self.groups(queue)).collect()
    }

    /// Makes room for a group beside the other readers of a queue.
    pub(super) fn begin_group(&mut self, of: QueueId, mutation: &Mutation<'_>) -> Result<(), Error> {
        let Mutation::Group { offered, .. } = *mutation else { unreachable!("the caller has one") };
        self.row(of)?;
        match self.role(of) {
            Role::Plain => {
                self.change(of, |row| row.freed = row.counters.puts - row.counters.present())?;
                self.set_grouped(of, true);
            }
            Role::Grouped => {}
            Role::Group => return Err(damaged(of, "a group has no groups")),
        }
        let row = self.row(of)?;
        match offered == row.counters.puts - row.freed {
            true => Ok(()),
            false => Err(damaged(of, "a group begins with other messages than are there")),
        }
    }

    /// A reader has passed a message, which is counted already, and everything below `low`.
    pub(super) fn pass(&mut self, reader: QueueId, message: MessageId, low: MessageId, taken: &Taken) {
        self.raise_low(reader, low);
        self.set_returned((reader, message), None);
        if !taken.contains(message) && message >= self.queues[&reader].low {
            self.change(reader, |row| row.passed.insert(message)).expect("it was counted");
        }
    }

    /// A reader has passed all messages below an id.
    pub(super) fn raise_low(&mut self, reader: QueueId, low: MessageId) {
        let raise = |row: &mut super::QueueRow| {
            row.low = row.low.max(low);
            row.passed.remove_below(low);
        };
        self.change(reader, raise).expect("it was counted");
    }

    /// A reader has dropped all messages below an id: none of them was returned to it or is on its way elsewhere.
    pub(super) fn forget_below(&mut self, reader: QueueId, below: MessageId) {
        let returned: Vec<_> =
            self.returned.range((reader, MessageId(0))..(reader, below)).map(|(key, _)| *key).collect();
        returned.into_iter().for_each(|key| self.set_returned(key, None));
        let moves = self.moves.range((reader, 0)..=(reader, u64::MAX));
        let moves: Vec<_> = moves.filter(|(_, it)| it.message < below).map(|(key, _)| *key).collect();
        moves.into_iter().for_each(|key| self.set_move(key, None));
    }

    pub(super) fn free(&mut self, queue: QueueId, message: MessageId, taken: &Taken) -> Result<(), Error> {
        self.count_freed(queue, 1)?;
        self.remove(queue, message, taken)?;
        self.forget_message(queue, message);
        Ok(())
    }

    fn count_freed(&mut self, queue: QueueId, count: u64) -> Result<(), Error> {
        let (mut row, role) = (self.row(queue)?.clone(), self.role(queue));
        layout::free(&mut row.freed, queue, role, &row.counters, count)?;
        self.set_queue(queue, Some(row));
        Ok(())
    }

    /// A message is gone for all readers.
    fn forget_message(&mut self, queue: QueueId, message: MessageId) {
        for reader in self.readers(queue) {
            self.set_returned((reader, message), None);
            self.change(reader, |row| row.passed.remove(message)).expect("a listed reader is there");
        }
    }

    fn have_all_passed(&self, queue: QueueId, message: MessageId) -> bool {
        self.readers(queue).iter().all(|reader| has_passed(&self.queues[reader], message))
    }

    /// Removes what all readers have passed.
    pub(super) fn sweep(&mut self, queue: QueueId, freed: u64) -> Result<(), Error> {
        self.count_freed(queue, freed)?;
        let all = self.messages.range((queue, MessageId(0))..=(queue, MessageId(u64::MAX)));
        let doomed: Vec<MessageId> =
            all.map(|(key, _)| key.1).filter(|message| self.have_all_passed(queue, *message)).collect();
        // There may be fewer: what goes with its queue later in the job was never written.
        if doomed.len() as u64 > freed {
            return Err(damaged(queue, &format!("{} messages were passed by all, not {freed}", doomed.len())));
        }
        for message in doomed {
            self.set_message((queue, message), None);
            self.forget_message(queue, message);
        }
        if !self.groups(queue).is_empty() {
            return Ok(());
        }
        let row = self.row(queue)?;
        if row.counters.left() != Some(row.freed) {
            return Err(damaged(queue, "other messages are there than its readers left"));
        }
        if !row.passed.is_empty() {
            return Err(damaged(queue, "a message was passed that was never stored"));
        }
        self.set_grouped(queue, false);
        self.change(queue, |row| (row.low, row.freed) = (MessageId(0), 0))
    }

    /// Counts and removes what was accepted, and forgets all transfers.
    pub(super) fn settle_moves(&mut self) -> Result<(), Error> {
        let none = Taken::none();
        for ((reader, number), Move { message, why, target }) in self.moves.clone() {
            self.set_move((reader, number), None);
            let is_accepted = self.accepted.get(&(reader, target)).is_some_and(|accepted| number <= *accepted);
            let Some(row) = self.queues.get(&reader).filter(|_| is_accepted) else { continue };
            let (owner, low) = (owner(row), row.low);
            // The transfer of a message that is gone is no one's any more.
            if has_passed(row, message) || !self.messages.contains_key(&(owner, message)) {
                continue;
            }
            if self.role(reader) == Role::Plain {
                self.mutate(Mutation::Leave { queue: reader, message, why }, &none)?;
                continue;
            }
            self.mutate(Mutation::Pass { queue: reader, message, low, why }, &none)?;
            if self.have_all_passed(owner, message) {
                self.mutate(Mutation::Free { queue: owner, message }, &none)?;
            }
        }
        let sources: Vec<_> = self.accepted.keys().cloned().collect();
        for key in sources.into_iter().filter(|(source, _)| !self.queues.contains_key(source)).collect::<Vec<_>>() {
            self.set_accepted(key, None);
        }
        Ok(())
    }
}
