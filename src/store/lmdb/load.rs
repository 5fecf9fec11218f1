//! Loads: the stored messages that a reader has not passed, in order of their ids, from runs and from those that came late.
//!
//! Invariant: what is returned was checked, and is followed by no message that should have come before it: where a run or its
//! holes cannot be trusted, a load ends, or says so when it begins there.

use std::ops::Bound;

use super::super::layout::{self, message_key, message_of_key};
use super::super::run::{self, Run};
use super::super::{Error, Load, Loaded};
use super::sealed::Sealed;
use super::{Database, Databases, Lmdb, failure};
use crate::ids::{MessageId, QueueId};
use crate::mutation::Mutation;

const OPERATION: &str = "reading messages";

/// An answer while it grows.
struct Answer<'t> {
    queue: QueueId,
    after: MessageId,
    size: usize,
    size_max: usize,
    loaded: Loaded,
    /// What the reader has passed of what comes.
    passed: Marks<'t>,
    /// What was delivered to it before of what comes.
    returned: Marks<'t>,
}

/// Rows of a reader in order of their messages, which are asked for in that order.
struct Marks<'t> {
    rows: Box<dyn Iterator<Item = Row<'t>> + 't>,
    next: Option<(MessageId, &'t [u8])>,
}

impl<'t> Marks<'t> {
    fn new(rows: impl Iterator<Item = Row<'t>> + 't) -> Result<Self, Error> {
        let mut rows = Box::new(rows);
        let next = rows.next().transpose()?;
        Ok(Marks { rows, next })
    }

    fn of(&mut self, message: MessageId) -> Result<Option<&'t [u8]>, Error> {
        while self.next.is_some_and(|(marked, _)| marked < message) {
            self.next = self.rows.next().transpose()?;
        }
        Ok(self.next.filter(|(marked, _)| *marked == message).map(|(_, value)| value))
    }
}

impl Answer<'_> {
    fn is_empty(&self) -> bool {
        self.loaded.reached == self.after
    }

    /// Takes a message in, unless it was passed. `false`: it has no room.
    fn push(&mut self, message: MessageId, record: &[u8]) -> Result<bool, Error> {
        if self.passed.of(message)?.is_some() {
            return Ok(true);
        }
        // Damaged records count too: a load must stay bounded when there are many of them.
        self.size += layout::encoded_size(record);
        if self.size > self.size_max && !self.is_empty() {
            return Ok(false);
        }
        match layout::decode_record(self.queue, message, record).filter(|put| put.is_intact()) {
            Some(put) => {
                Mutation::Put(put).encode(&mut self.loaded.messages);
                if let Some(deliveries) = self.returned.of(message)?.and_then(|value| value.try_into().ok()) {
                    self.loaded.deliveries.push((message, u32::from_le_bytes(deliveries)));
                }
            }
            None => self.loaded.corrupt.push((message, layout::body_size(record))),
        }
        self.loaded.reached = message;
        Ok(true)
    }

    /// Takes in messages of a run, and those that came late before each of them. `false`: there is no room for the next.
    fn push_run<'t>(
        &mut self,
        run: &Run<'t>,
        [start, below]: [MessageId; 2],
        holes: &[u32],
        late: &mut Late<'t, impl Iterator<Item = Row<'t>>>,
    ) -> Result<bool, Error> {
        let mut holes = holes.iter().peekable();
        for at in run.position(start)..run.position(below) {
            let (id, delta) = (run.id(at), run.delta(at));
            while holes.next_if(|hole| **hole < delta).is_some() {}
            if holes.next_if_eq(&&delta).is_none() && !(late.push_below(id, self)? && self.push(id, run.record(at))?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A run that cannot be trusted ends the answer.
    fn end(self, first: MessageId, what: &str) -> Result<Loaded, Error> {
        match self.is_empty() {
            true => Err(Error::Damaged(format!(
                "queue {}: {what} of the run from message {first} on cannot be read",
                self.queue
            ))),
            false => Ok(self.loaded),
        }
    }
}

type Row<'t> = Result<(MessageId, &'t [u8]), Error>;

/// Messages that came late, on their way to their places between those of runs.
struct Late<'t, I> {
    rows: I,
    next: Option<(MessageId, &'t [u8])>,
}

impl<'t, I: Iterator<Item = Row<'t>>> Late<'t, I> {
    fn new(mut rows: I) -> Result<Self, Error> {
        let next = rows.next().transpose()?;
        Ok(Late { rows, next })
    }

    /// Moves those below an id into the answer. `false`: it has no room for the next.
    fn push_below(&mut self, id: MessageId, answer: &mut Answer<'_>) -> Result<bool, Error> {
        while let Some((message, record)) = self.next.filter(|(message, _)| *message < id) {
            if !answer.push(message, record)? {
                return Ok(false);
            }
            self.next = self.rows.next().transpose()?;
        }
        Ok(true)
    }
}

impl Lmdb {
    pub(super) fn try_load(&self, load: &Load) -> Result<Loaded, Error> {
        let Load { queue: reader, of, after, below, size_max, .. } = *load;
        let loaded = Loaded { reached: after, ..Loaded::default() };
        let (queue, low) = match self.rows.get(&reader) {
            Some(row) => (row.owner(), row.low),
            // A group that has begun since.
            None if self.rows.contains_key(&of) => (of, MessageId(0)),
            // A deleted queue's runs may still lie there.
            None => return Ok(loaded),
        };
        let next = MessageId(after.0.saturating_add(1)).max(low);
        if next >= below {
            return Ok(loaded);
        }
        let Databases { messages, holes, late, passed, returned, .. } = self.databases;
        let txn = self.env.read_txn().map_err(failure(OPERATION))?;
        let is_empty = |database: Database| database.is_empty(&txn).map_err(failure(OPERATION));
        let rows_of = |queue: QueueId, database: Database, sealed: Option<Sealed>, from: MessageId| {
            let (from, to) = (message_key(queue, from), message_key(queue, below));
            let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            let rows = database.range(&txn, &range).map_err(failure(OPERATION))?;
            Ok::<_, Error>(rows.map(move |entry| {
                let row = entry.map_err(failure(OPERATION))?;
                let (key, value) = sealed.map_or(Ok(row), |sealed| sealed.open(row)).map_err(failure(OPERATION))?;
                let id = message_of_key(queue, key);
                Ok((id.ok_or_else(|| Error::Damaged(format!("queue {queue}: a key has another size")))?, value))
            }))
        };
        let rows_from = |database: Database, from: MessageId| rows_of(queue, database, None, from);
        let mut answer = Answer {
            queue,
            after,
            size: 0,
            size_max,
            loaded,
            passed: Marks::new(rows_of(reader, passed.rows(), Some(passed), next)?)?,
            returned: Marks::new(rows_of(reader, returned.rows(), Some(returned), next)?)?,
        };
        let late = if is_empty(late)? { None } else { Some(rows_from(late, next)?) };
        let mut late = Late::new(late.into_iter().flatten())?;
        let (has_holes, mut deltas) = (!is_empty(holes)?, Vec::new());
        let start = next.max(self.rows[&queue].gone_below());
        let begun = self.run_at(&txn, queue, start).map_err(failure(OPERATION))?;
        for run in rows_from(messages, begun.map_or(start, |(first, _)| first))?.take_while(|_| start < below) {
            let (first, value) = run?;
            if !late.push_below(first, &mut answer)? {
                return Ok(answer.loaded);
            }
            let Some(run) = Run::decode(queue, first, value) else { return answer.end(first, "the index") };
            deltas.clear();
            if has_holes
                && let Some(value) = holes.get(&txn, &message_key(queue, first)).map_err(failure(OPERATION))?
                && !run::decode_holes(queue, first, value, &mut deltas)
            {
                return answer.end(first, "the holes");
            }
            if !answer.push_run(&run, [start, below], &deltas, &mut late)? {
                return Ok(answer.loaded);
            }
        }
        // Without room for the next one the answer is as good as with it.
        late.push_below(below, &mut answer)?;
        Ok(answer.loaded)
    }
}
