//! Transfers from queue to queue, and the settings of queues: rows that messages do not depend on.
//!
//! A message that goes to a queue of another shard is journalled there and then removed here. `moves` has those of which only the first
//! is not known, `accepted` how far each way has come. A start compares the two when it has replayed all journals.
//!
//! Invariant: a row of `moves` is of a message that is stored and that its reader has not passed; after [`Lmdb::try_settle_moves`] there
//! are none.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::super::layout::{self, MessageKey, Role, message_key, message_of_key};
use super::super::{Accepted, Error, Taken};
use super::apply::{Apply, OPERATION, Place, touch};
use super::{Lmdb, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::{Mutation, Why};

/// A row of `moves`.
struct Move {
    reader: QueueId,
    number: u64,
    message: MessageId,
    why: Why,
    target: Vec<u8>,
}

impl Apply<'_> {
    pub(super) fn configure(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let settings = self.store.databases.settings;
        match value.is_empty() {
            true => settings.delete(&mut self.txn, name).map(|_| ()),
            false => settings.put(&mut self.txn, name, value),
        }
        .map_err(failure(OPERATION))
    }

    pub(super) fn begin_move(
        &mut self,
        reader: QueueId,
        message: MessageId,
        number: u64,
        why: Why,
        target: &[u8],
    ) -> Result<(), Error> {
        touch(&mut self.touched, self.store, reader)?;
        if self.taken.contains(message) {
            return Ok(());
        }
        let (key, value) = (message_key(reader, MessageId(number)), layout::encode_move(message, why, target));
        self.store.databases.moves.put(&mut self.txn, &key, &value).map_err(failure(OPERATION))?;
        self.has_moves = true;
        Ok(())
    }

    /// There is no row when the message was put and left within the job.
    pub(super) fn end_move(&mut self, reader: QueueId, number: u64) -> Result<(), Error> {
        touch(&mut self.touched, self.store, reader)?;
        let key = message_key(reader, MessageId(number));
        self.store.databases.moves.delete(&mut self.txn, &key).map_err(failure(OPERATION))?;
        Ok(())
    }

    pub(super) fn accept(&mut self, source: QueueId, number: u64, target: &[u8]) -> Result<(), Error> {
        let accepted = self.store.databases.accepted;
        let key = layout::accepted_key(source, target);
        let before = accepted.get(&self.txn, &key).map_err(failure(OPERATION))?;
        let before = before.and_then(|value| layout::decode_accepted(&key, value)).map_or(0, |row| row.number);
        let value = number.max(before).to_le_bytes();
        accepted.put(&mut self.txn, &key, &value).map_err(failure(OPERATION))
    }

    pub(super) fn forget_moves_below(&mut self, reader: QueueId, below: MessageId) -> Result<(), heed::Error> {
        if !self.has_moves {
            return Ok(());
        }
        let moves = self.store.databases.moves;
        let mut doomed: Vec<MessageKey> = Vec::new();
        for entry in moves.prefix_iter(&self.txn, &reader.0.to_be_bytes())? {
            let (key, value) = entry?;
            if layout::decode_move(value).is_some_and(|(message, ..)| message < below) {
                doomed.extend(MessageKey::try_from(key));
            }
        }
        for key in doomed {
            moves.delete(&mut self.txn, &key)?;
        }
        Ok(())
    }

    /// Counts and removes what was accepted, and forgets all transfers.
    fn settle_moves(&mut self) -> Result<(), Error> {
        let mut left: HashSet<(QueueId, MessageId), RandomState> = HashSet::default();
        for Move { reader, number, message, why, target } in self.moves()? {
            let moves = self.store.databases.moves;
            moves.delete(&mut self.txn, &message_key(reader, MessageId(number))).map_err(failure(OPERATION))?;
            let key = layout::accepted_key(reader, &target);
            let accepted = self.store.databases.accepted.get(&self.txn, &key).map_err(failure(OPERATION))?;
            let accepted = accepted.and_then(|value| layout::decode_accepted(&key, value));
            let is_accepted = accepted.is_some_and(|accepted| number <= accepted.number);
            // The transfer of a message that is gone, or of a queue that is, is no one's any more.
            if is_accepted && self.has(reader, message)? && left.insert((reader, message)) {
                self.move_out(reader, message, why)?;
            }
        }
        let accepted = self.store.databases.accepted;
        for row in self.store.accepted(&self.txn)? {
            if !self.store.rows.contains_key(&row.source) {
                let key = layout::accepted_key(row.source, &row.target);
                accepted.delete(&mut self.txn, &key).map_err(failure(OPERATION))?;
            }
        }
        Ok(())
    }

    /// The transfers under way, in the order of their queues and numbers.
    fn moves(&self) -> Result<Vec<Move>, Error> {
        let mut moves = Vec::new();
        for entry in self.store.databases.moves.iter(&self.txn).map_err(failure(OPERATION))? {
            let (key, value) = entry.map_err(failure(OPERATION))?;
            let read = || {
                let reader = QueueId(u64::from_be_bytes(*key.first_chunk()?));
                let MessageId(number) = message_of_key(reader, key)?;
                let (message, why, target) = layout::decode_move(value)?;
                Some(Move { reader, number, message, why, target: target.to_vec() })
            };
            moves.push(read().ok_or_else(|| Error::Damaged("a transfer between queues cannot be read".into()))?);
        }
        Ok(moves)
    }

    /// Whether a reader has a message, as far as can be known: one of a run that cannot be read is taken to be there.
    fn has(&mut self, reader: QueueId, message: MessageId) -> Result<bool, Error> {
        let Ok(touched) = touch(&mut self.touched, self.store, reader) else { return Ok(false) };
        let (owner, role, low) = (touched.row.owner(), touched.row.role(), touched.row.low);
        let has_passed = match role {
            Role::Plain => false,
            _ => self.has_passed_message((reader, low), message).map_err(failure(OPERATION))?,
        };
        Ok(!has_passed && self.is_stored(owner, message).map_err(failure(OPERATION))?)
    }

    fn is_stored(&mut self, queue: QueueId, message: MessageId) -> Result<bool, heed::Error> {
        let late = self.store.databases.late;
        let is_late = late.get(&self.txn, &message_key(queue, message))?.is_some();
        let gone_below = self.store.rows[&queue].gone_below();
        Ok(is_late || self.is_in_run(queue, message, gone_below, true)?)
    }

    /// What the source would have recorded, had it heard that the message was accepted.
    fn move_out(&mut self, reader: QueueId, message: MessageId, why: Why) -> Result<(), Error> {
        let place = Place::default();
        let row = &touch(&mut self.touched, self.store, reader)?.row;
        let (owner, role, low) = (row.owner(), row.role(), row.low);
        if role == Role::Plain {
            return self.mutate(Mutation::Leave { queue: reader, message, why }, place);
        }
        self.mutate(Mutation::Pass { queue: reader, message, low, why }, place)?;
        for reader in self.readers(owner) {
            if !self.has_passed_message(reader, message).map_err(failure(OPERATION))? {
                return Ok(());
            }
        }
        self.mutate(Mutation::Free { queue: owner, message }, place)
    }
}

impl Lmdb {
    /// How far each way between queues has come.
    pub(super) fn accepted(&self, txn: &heed::RoTxn<'_>) -> Result<Vec<Accepted>, Error> {
        let damaged = || Error::Damaged("how far transfers between queues have come cannot be read".into());
        let rows = self.databases.accepted.iter(txn).map_err(failure(OPERATION))?;
        rows.map(|entry| {
            let (key, value) = entry.map_err(failure(OPERATION))?;
            layout::decode_accepted(key, value).ok_or_else(damaged)
        })
        .collect()
    }

    pub(super) fn try_settle_moves(&mut self) -> Result<(), Error> {
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let is_known = |row: &Accepted| self.rows.contains_key(&row.source);
        if self.databases.moves.rows().is_empty(&txn).map_err(failure(OPERATION))?
            && self.accepted(&txn)?.iter().all(is_known)
        {
            return Ok(());
        }
        drop(txn);
        let taken = Taken::none();
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.collect(&[], &taken, &mut scratch).and_then(|mut apply| {
            apply.settle_moves()?;
            apply.commit()
        });
        scratch.clear();
        self.scratch = scratch;
        self.follow(result?);
        Ok(())
    }
}
