//! Writing messages: the puts of a call become runs of their queue; those that are older than its runs become rows of their own.
//!
//! Invariant: the ids of a queue's runs rise from run to run, and no run begins below one that was there before. A message
//! that comes late, because it was handed out and came back, is therefore kept apart in `late`, where neither the
//! queue's head nor a purge from before hides it.

use std::io::Write;

use heed::types::DecodeIgnore;
use heed::{MdbError, PutFlags};

use super::super::layout::{self, message_key};
use super::super::{Error, run};
use super::apply::{Apply, OPERATION, Pending, put_twice};
use super::failure;
use crate::ids::{MessageId, QueueId};

impl Apply<'_> {
    /// Writes puts in order of their ids, all above those that runs of the queue have or had.
    pub(super) fn write_runs(&mut self, queue: QueueId, puts: &[Pending]) -> Result<(), Error> {
        let messages = self.store.databases.messages.remap_data_type::<DecodeIgnore>();
        let mut rest = puts;
        while let Some(first) = rest.first().map(|put| put.message) {
            let flags = self.flags_for(queue, first).map_err(failure(OPERATION))?;
            let index = &mut self.scratch.index;
            index.begin(first);
            let len = rest.iter().take_while(|put| index.push(put.message, put.size())).count();
            let (run, after) = rest.split_at(len);
            let (size, head, batches) = (index.size(), index.seal(queue), self.batches);
            let existing = messages
                .get_or_put_reserved_with_flags(&mut self.txn, flags, &message_key(queue, first), size, |value| {
                    value.write_all(head)?;
                    for put in run {
                        let put = put.read(batches);
                        value.write_all(layout::record_header(&put).as_ref())?;
                        value.write_all(put.body)?;
                    }
                    Ok(())
                })
                .map_err(failure(OPERATION))?;
            if existing.is_some() {
                return Err(Error::Damaged(format!("queue {queue}: it has a run beyond its newest message {first}")));
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes puts that are older than what runs of the queue have or had.
    pub(super) fn write_late(&mut self, queue: QueueId, puts: &[Pending], gone_below: MessageId) -> Result<(), Error> {
        for pending in puts {
            let put = pending.read(self.batches);
            if self.is_in_run(queue, put.message, gone_below, false).map_err(failure(OPERATION))? {
                return Err(put_twice(queue, put.message));
            }
            let value = &mut self.scratch.value;
            value.clear();
            value.extend_from_slice(layout::record_header(&put).as_ref());
            value.extend_from_slice(put.body);
            let key = message_key(queue, put.message);
            let late = self.store.databases.late;
            match late.put_with_flags(&mut self.txn, PutFlags::NO_OVERWRITE, &key, value) {
                Err(heed::Error::Mdb(MdbError::KeyExist)) => return Err(put_twice(queue, put.message)),
                result => result.map_err(failure(OPERATION))?,
            }
        }
        Ok(())
    }

    /// Whether a run has the message and it was not removed. `unknown`: what is said of one that cannot be read.
    pub(super) fn is_in_run(
        &mut self,
        queue: QueueId,
        message: MessageId,
        gone_below: MessageId,
        unknown: bool,
    ) -> Result<bool, heed::Error> {
        let Some((first, value)) = self.store.run_at(&self.txn, queue, message)? else { return Ok(false) };
        if message < gone_below {
            return Ok(false);
        }
        match run::Run::decode(queue, first, value) {
            Some(run) if run.find(message).is_none() => return Ok(false),
            Some(_) => {}
            None => return Ok(unknown),
        }
        let holes = self.store.databases.holes.get(&self.txn, &message_key(queue, first))?;
        let known = &mut self.scratch.stored_holes;
        let is_hole = holes.is_some_and(|value| {
            let delta = u32::try_from(message.0 - first.0).expect("a run's ids are that close");
            run::decode_holes(queue, first, value, known) && known.binary_search(&delta).is_ok()
        });
        Ok(!is_hole)
    }
}
