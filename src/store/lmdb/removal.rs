//! Removing messages: in order, which moves the queue's head and drops whole runs, or out of order, which leaves holes.
//!
//! A run is visited once for all that a call removes from it. It goes when nothing in it is left, and is written anew without
//! its holes when they are half of it. A run whose index is damaged keeps its place: what is removed from it is
//! noted, since that needs the ids only, and it goes with its queue, or by a purge.
//!
//! Invariant: a message of a run is gone if its id is below the head or purged, or among the run's holes; the head never
//! passes a message that is not gone, nor any of a damaged run.

use std::ops::Bound;

use super::super::layout::{body_size, message_key, message_of_key};
use super::super::run::{Run, decode_holes, encode_holes};
use super::Databases;
use super::apply::Apply;
use crate::ids::{MessageId, QueueId};

/// What removing does to a run.
struct Visit {
    /// Whether anything of it goes that was there.
    is_changed: bool,
    /// The first message that is left.
    first_left: Option<MessageId>,
    /// Bytes of the holes before that message, and behind it.
    hole_sizes: [usize; 2],
    /// Bytes of the bodies that go and were there.
    removed: u64,
}

/// What removing messages from a queue's runs did.
#[derive(Default)]
pub(super) struct Removed {
    /// Where its head is now, if it moved.
    pub(super) head: Option<MessageId>,
    /// Bytes of the bodies that were there. Of a damaged run that is not known, and they do not count.
    pub(super) bytes: u64,
}

/// Finds out what is left of a run's messages from `gone_below` on without the stored holes and `gone`, both rising, and
/// leaves what becomes its holes in `holes`.
fn visit(run: &Run<'_>, gone_below: MessageId, stored: &[u32], gone: &[MessageId], holes: &mut Vec<u32>) -> Visit {
    holes.clear();
    let mut visit = Visit { is_changed: false, first_left: None, hole_sizes: [0; 2], removed: 0 };
    let (mut stored, mut gone) = (stored.iter().peekable(), gone.iter().peekable());
    for at in run.position(gone_below)..run.len() {
        if visit.first_left.is_some() && stored.peek().is_none() && gone.peek().is_none() {
            break;
        }
        let (id, delta) = (run.id(at), run.delta(at));
        while stored.next_if(|hole| **hole < delta).is_some() {}
        while gone.next_if(|message| **message < id).is_some() {}
        let was_hole = stored.next_if_eq(&&delta).is_some();
        let is_gone = gone.next_if_eq(&&id).is_some();
        if was_hole || is_gone {
            let record = run.record(at);
            if !was_hole {
                visit.is_changed = true;
                visit.removed += body_size(record);
            }
            visit.hole_sizes[usize::from(visit.first_left.is_some())] += record.len();
            holes.push(delta);
        } else if visit.first_left.is_none() {
            visit.first_left = Some(id);
        }
    }
    visit
}

impl Apply<'_> {
    /// Removes messages, their ids rising and none twice, from the queue's runs.
    pub(super) fn remove_from_runs(
        &mut self,
        queue: QueueId,
        gone: &[MessageId],
        gone_below: MessageId,
    ) -> Result<Removed, heed::Error> {
        let mut removed = Removed::default();
        let mut rest = &gone[gone.partition_point(|message| *message < gone_below)..];
        while let Some(&next) = rest.first() {
            let reach = match self.store.run_at(&self.txn, queue, next)? {
                Some((first, value)) => match Run::decode(queue, first, value).map(|run| run.last()) {
                    Some(last) => {
                        let reach = rest.partition_point(|message| *message <= last);
                        if reach > 0 {
                            let of_run = self.remove_from_run(queue, first, &rest[..reach], gone_below)?;
                            removed.head = of_run.head.or(removed.head);
                            removed.bytes += of_run.bytes;
                        }
                        reach
                    }
                    None => {
                        let reach = self.reach_of_gap(queue, rest)?;
                        self.note_removed(queue, first, &rest[..reach])?;
                        reach
                    }
                },
                None => 0,
            };
            let reach = if reach > 0 { reach } else { self.reach_of_gap(queue, rest)? };
            rest = &rest[reach..];
        }
        Ok(removed)
    }

    /// How many of these, at least one, come before the run that follows the first of them.
    fn reach_of_gap(&self, queue: QueueId, rest: &[MessageId]) -> Result<usize, heed::Error> {
        let after = self.store.databases.messages.get_greater_than(&self.txn, &message_key(queue, rest[0]))?;
        Ok(match after.and_then(|(key, _)| message_of_key(queue, key)) {
            Some(first) => rest.partition_point(|message| *message < first),
            None => rest.len(),
        })
    }

    fn remove_from_run(
        &mut self,
        queue: QueueId,
        first: MessageId,
        gone: &[MessageId],
        gone_below: MessageId,
    ) -> Result<Removed, heed::Error> {
        let Databases { messages, holes, .. } = self.store.databases;
        let key = message_key(queue, first);
        if !self.read_holes(queue, first)? {
            return Ok(Removed::default());
        }
        let scratch = &mut *self.scratch;
        let value = messages.get(&self.txn, &key)?;
        let Some(run) = value.and_then(|value| Run::decode(queue, first, value)) else {
            return Ok(Removed::default());
        };
        let visit = visit(&run, gone_below, &scratch.stored_holes, gone, &mut scratch.holes);
        if !visit.is_changed {
            return Ok(Removed::default());
        }
        let mut removed = Removed { head: None, bytes: visit.removed };
        let Some(first_left) = visit.first_left else {
            messages.delete(&mut self.txn, &key)?;
            if self.has_holes {
                holes.delete(&mut self.txn, &key)?;
            }
            return Ok(removed);
        };
        let [before, behind] = visit.hole_sizes;
        if before > 0 && self.store.run_before(&self.txn, queue, first)?.is_none() {
            removed.head = Some(first_left);
            let passed = scratch.holes.partition_point(|delta| first.0 + u64::from(*delta) < first_left.0);
            scratch.holes.drain(..passed);
        }
        let hole_size = if removed.head.is_some() { behind } else { before + behind };
        if 2 * hole_size >= run.size() {
            self.write_without_holes(queue, first, first_left)?;
        } else {
            self.write_holes(queue, first)?;
        }
        Ok(removed)
    }

    /// Writes a run anew with what is left of it: from `first_left` on what is not among the holes.
    fn write_without_holes(
        &mut self,
        queue: QueueId,
        first: MessageId,
        first_left: MessageId,
    ) -> Result<(), heed::Error> {
        let Databases { messages, holes, .. } = self.store.databases;
        let key = message_key(queue, first);
        let scratch = &mut *self.scratch;
        let value = messages.get(&self.txn, &key)?;
        let run = value.and_then(|value| Run::decode(queue, first, value)).expect("it was read by this transaction");
        let left = || {
            let holes = &scratch.holes;
            (run.position(first_left)..run.len()).filter(|at| holes.binary_search(&run.delta(*at)).is_err())
        };
        scratch.index.begin(first_left);
        for at in left() {
            assert!(scratch.index.push(run.id(at), run.record(at).len()), "a part of a run fits into a run");
        }
        scratch.value.clear();
        scratch.value.extend_from_slice(scratch.index.seal(queue));
        for at in left() {
            scratch.value.extend_from_slice(run.record(at));
        }
        messages.delete(&mut self.txn, &key)?;
        if self.has_holes {
            holes.delete(&mut self.txn, &key)?;
        }
        let key = message_key(queue, first_left);
        self.last_key = self.last_key.map(|last| last.max(key));
        messages.put(&mut self.txn, &key, &scratch.value)
    }

    /// Notes what is removed from a run that cannot be read, as far as its holes can.
    fn note_removed(&mut self, queue: QueueId, first: MessageId, gone: &[MessageId]) -> Result<(), heed::Error> {
        if !self.read_holes(queue, first)? {
            return Ok(());
        }
        let scratch = &mut *self.scratch;
        let deltas = gone.iter().filter_map(|message| u32::try_from(message.0 - first.0).ok());
        scratch.holes.clear();
        scratch.holes.extend(scratch.stored_holes.iter().copied().chain(deltas));
        scratch.holes.sort_unstable();
        scratch.holes.dedup();
        self.write_holes(queue, first)
    }

    /// Reads a run's stored holes. `false`: they are damaged, and stay as they are.
    fn read_holes(&mut self, queue: QueueId, first: MessageId) -> Result<bool, heed::Error> {
        let stored = &mut self.scratch.stored_holes;
        stored.clear();
        if !self.has_holes {
            return Ok(true);
        }
        let value = self.store.databases.holes.get(&self.txn, &message_key(queue, first))?;
        Ok(value.is_none_or(|value| decode_holes(queue, first, value, stored)))
    }

    /// Stores a run's holes, if they are others than those stored.
    fn write_holes(&mut self, queue: QueueId, first: MessageId) -> Result<(), heed::Error> {
        let (holes, scratch) = (self.store.databases.holes, &mut *self.scratch);
        let key = message_key(queue, first);
        if scratch.holes.is_empty() {
            if !scratch.stored_holes.is_empty() {
                holes.delete(&mut self.txn, &key)?;
            }
        } else if scratch.holes != scratch.stored_holes {
            encode_holes(queue, first, &scratch.holes, &mut scratch.value);
            holes.put(&mut self.txn, &key, &scratch.value)?;
        }
        Ok(())
    }

    /// Bytes of the bodies that messages of runs have, from one id on and below another. Of what is damaged that is not known, and it
    /// does not count.
    pub(super) fn size_in_runs(
        &mut self,
        queue: QueueId,
        from: MessageId,
        below: MessageId,
    ) -> Result<u64, heed::Error> {
        if from >= below {
            return Ok(0);
        }
        let Databases { messages, holes, .. } = self.store.databases;
        let begun = self.store.run_at(&self.txn, queue, from)?.map_or(from, |(first, _)| first);
        let (begin, end) = (message_key(queue, begun), message_key(queue, below));
        let stored = &mut self.scratch.stored_holes;
        let mut size = 0;
        for entry in messages.range(&self.txn, &(Bound::Included(&begin[..]), Bound::Excluded(&end[..])))? {
            let (key, value) = entry?;
            let Some(first) = message_of_key(queue, key) else { continue };
            let Some(run) = Run::decode(queue, first, value) else { continue };
            stored.clear();
            let value = if self.has_holes { holes.get(&self.txn, key)? } else { None };
            if value.is_none_or(|value| decode_holes(queue, first, value, stored)) {
                let left = (run.position(from)..run.position(below))
                    .filter(|at| stored.binary_search(&run.delta(*at)).is_err());
                size += left.map(|at| body_size(run.record(at))).sum::<u64>();
            }
        }
        Ok(size)
    }

    /// Bytes of the bodies of messages that came late in earlier calls.
    pub(super) fn size_late(&self, queue: QueueId) -> Result<u64, heed::Error> {
        if !self.has_late {
            return Ok(0);
        }
        let (from, to) = (message_key(queue, MessageId(0)), message_key(queue, MessageId(u64::MAX)));
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        self.store.databases.late.range(&self.txn, &range)?.map(|entry| Ok(body_size(entry?.1))).sum()
    }

    /// Removes those of the messages, their ids rising, that came late. Says how many bytes their bodies had.
    pub(super) fn remove_late(&mut self, queue: QueueId, gone: &[MessageId]) -> Result<u64, heed::Error> {
        let (true, Some(first), Some(last)) = (self.has_late, gone.first(), gone.last()) else { return Ok(0) };
        let keys = (Bound::Included(*first), Bound::Included(*last));
        self.delete_late(queue, keys, |message| gone.binary_search(&message).is_ok())
    }

    /// Removes the messages below an id that came late in earlier calls. Those of this call are not written yet. Says how many
    /// bytes their bodies had.
    pub(super) fn purge_late(&mut self, queue: QueueId, below: MessageId) -> Result<u64, heed::Error> {
        if !self.has_late {
            return Ok(0);
        }
        self.delete_late(queue, (Bound::Included(MessageId(0)), Bound::Excluded(below)), |_| true)
    }

    fn delete_late(
        &mut self,
        queue: QueueId,
        (from, to): (Bound<MessageId>, Bound<MessageId>),
        is_doomed: impl Fn(MessageId) -> bool,
    ) -> Result<u64, heed::Error> {
        let late = self.store.databases.late;
        let (from, to) = (from.map(|id| message_key(queue, id)), to.map(|id| message_key(queue, id)));
        let range = (from.as_ref().map(|key| &key[..]), to.as_ref().map(|key| &key[..]));
        let (mut doomed, mut size) = (Vec::new(), 0);
        for entry in late.range(&self.txn, &range)? {
            let (key, record) = entry?;
            if let Some(message) = message_of_key(queue, key).filter(|message| is_doomed(*message)) {
                doomed.push(message);
                size += body_size(record);
            }
        }
        for message in doomed {
            late.delete(&mut self.txn, &message_key(queue, message))?;
        }
        Ok(size)
    }

    /// Keeps a damaged message's record, byte for byte, where it is in nobody's way.
    pub(super) fn keep_corrupt(&mut self, queue: QueueId, message: MessageId) -> Result<(), heed::Error> {
        let Databases { late, corrupt, .. } = self.store.databases;
        let key = message_key(queue, message);
        let mut record = if self.has_late { late.get(&self.txn, &key)? } else { None };
        if record.is_none() {
            let run = self.store.run_at(&self.txn, queue, message)?;
            let run = run.and_then(|(first, value)| Run::decode(queue, first, value));
            record = run.and_then(|run| run.find(message));
        }
        if let Some(record) = record.map(<[u8]>::to_vec) {
            corrupt.put(&mut self.txn, &key, &record)?;
        }
        Ok(())
    }
}
