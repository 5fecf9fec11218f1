//! Taken: which messages a checkpoint need not write, because it puts them and takes them away again.
//!
//! Ids of a shard's messages come from one counter, so the puts of a job lie close together: a bit for each id from the
//! first to the last is smaller than the messages by far, and is asked without hashing. Where ids lie far apart (a shard
//! goes on to another range once in 2^32 messages, or a start replays several journals) there is a set for the others.
//!
//! Invariant: a message is in it only if one of the batches puts it and one removes it for all who read its queue, or deletes that. One
//! that a reader passed or found damaged may be there for others.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::checkpoint::mutations;
use super::{Batch, Error};
use crate::ids::{MessageId, QueueId};
use crate::mutation::Mutation;

/// Ids that the bits may span: 128 KiB of them. A job of the largest share of memory has a few million messages at most, and
/// usually some ten thousand.
const SPAN_MAX: u64 = 1 << 20;

/// Messages that neither have to be written nor looked for.
#[derive(Default, Debug)]
pub struct Taken {
    /// The id of the first bit, a multiple of 64.
    base: u64,
    /// Both put and removed.
    bits: Vec<u64>,
    /// Those outside the span.
    others: HashSet<MessageId, RandomState>,
    scratch: Scratch,
}

/// What is needed while it is found out, kept for its memory.
#[derive(Default, Debug)]
struct Scratch {
    removed: Vec<u64>,
    removed_others: HashSet<MessageId, RandomState>,
    deleted: HashSet<QueueId, RandomState>,
}

impl Taken {
    /// Of nothing: every put is written.
    pub fn none() -> Taken {
        Taken::default()
    }

    /// Of these batches taken together.
    ///
    /// # Errors
    /// [`Error::Damaged`] when one cannot be read.
    pub fn of(batches: &[Batch]) -> Result<Taken, Error> {
        let mut taken = Taken::none();
        taken.refill(batches)?;
        Ok(taken)
    }

    /// Becomes that of these batches, in the memory it has, so that checkpoint after checkpoint touches no fresh pages.
    ///
    /// # Errors
    /// As [`Taken::of`].
    pub(super) fn refill(&mut self, batches: &[Batch]) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.refill_with(batches, &mut scratch);
        self.scratch = scratch;
        result
    }

    fn refill_with(&mut self, batches: &[Batch], scratch: &mut Scratch) -> Result<(), Error> {
        self.bits.clear();
        self.others.clear();
        scratch.removed.clear();
        scratch.removed_others.clear();
        scratch.deleted.clear();
        let (mut has_puts, mut has_removals) = (false, false);
        for mutation in mutations(batches) {
            match mutation? {
                Mutation::Put(put) if !has_puts => {
                    has_puts = true;
                    self.base = put.message.0 & !63;
                }
                // What is removed before anything was put, was put by an earlier checkpoint.
                _ if !has_puts => {}
                Mutation::Take { message, .. } | Mutation::Leave { message, .. } | Mutation::Free { message, .. } => {
                    has_removals = true;
                    match self.bit(message) {
                        Some(bit) => set(&mut scratch.removed, bit),
                        None => _ = scratch.removed_others.insert(message),
                    }
                }
                Mutation::Delete { queue } => {
                    has_removals = true;
                    scratch.deleted.insert(queue);
                }
                _ => {}
            }
        }
        if !has_removals {
            return Ok(());
        }
        // The second reading leaves out messages of earlier checkpoints: their rows have to be looked for.
        for mutation in mutations(batches) {
            let Mutation::Put(put) = mutation? else { continue };
            let is_deleted = !scratch.deleted.is_empty() && scratch.deleted.contains(&put.queue);
            match self.bit(put.message) {
                Some(bit) if is_deleted || is_set(&scratch.removed, bit) => set(&mut self.bits, bit),
                None if is_deleted || scratch.removed_others.contains(&put.message) => {
                    self.others.insert(put.message);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the message is neither to be written nor to be looked for.
    pub fn contains(&self, message: MessageId) -> bool {
        match self.bit(message) {
            Some(bit) => is_set(&self.bits, bit),
            None => self.others.contains(&message),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bits.iter().map(|word| word.count_ones() as usize).sum::<usize>() + self.others.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bit(&self, message: MessageId) -> Option<usize> {
        let bit = message.0.checked_sub(self.base)?;
        (bit < SPAN_MAX).then_some(bit as usize)
    }
}

fn set(bits: &mut Vec<u64>, bit: usize) {
    if bits.len() <= bit / 64 {
        bits.resize(bit / 64 + 1, 0);
    }
    bits[bit / 64] |= 1 << (bit % 64);
}

fn is_set(bits: &[u64], bit: usize) -> bool {
    bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Position, Seq, ShardId};
    use crate::mutation::{Put, Why};

    const QUEUE: QueueId = QueueId(1);
    const OTHER: QueueId = QueueId(2);

    fn put(queue: QueueId, message: u64) -> Mutation<'static> {
        let (message, body) = (MessageId(message), &b""[..]);
        Mutation::Put(Put { queue, message, put_ms: 1, flags: 0, expires_ms: 0, crc32c: 0, body }.sealed())
    }

    fn take(message: u64) -> Mutation<'static> {
        Mutation::Take { queue: QUEUE, message: MessageId(message) }
    }

    fn batch(mutations: &[Mutation<'_>]) -> Batch {
        let mut bytes = Vec::new();
        mutations.iter().for_each(|mutation| mutation.encode(&mut bytes));
        Batch { shard: ShardId(0), seq: Seq(1), mutations: bytes, end: Position::default() }
    }

    /// Which of these ids are in it.
    fn of(taken: &Taken, ids: &[u64]) -> Vec<u64> {
        ids.iter().copied().filter(|id| taken.contains(MessageId(*id))).collect()
    }

    #[test]
    fn taken_is_what_the_batches_both_put_and_take() {
        let batches = [
            batch(&[1001, 1002, 1003, 1005, 1006].map(|message| put(QUEUE, message))),
            batch(&[put(OTHER, 1004), take(1001), take(1100), take(7)]),
            batch(&[Mutation::Leave { queue: QUEUE, message: MessageId(1002), why: Why::Expired }]),
            batch(&[Mutation::Free { queue: QUEUE, message: MessageId(1005) }]),
            batch(&[Mutation::Delete { queue: OTHER }]),
        ];
        let taken = Taken::of(&batches).unwrap();
        let ids = [7, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1100];
        let expected = [1001, 1002, 1004, 1005];
        assert_eq!(of(&taken, &ids), expected, "1100 and 7 are in the store and have to be looked for there");
        assert_eq!(taken.len(), 4);
        assert!(Taken::of(&batches[..1]).unwrap().is_empty());
        let mut cut = batch(&[put(QUEUE, 1)]);
        cut.mutations.pop();
        assert!(matches!(Taken::of(&[cut]), Err(Error::Damaged(_))));
    }

    #[test]
    fn what_one_reader_is_done_with_is_not_taken() {
        let message = MessageId(1);
        let pass = Mutation::Pass { queue: OTHER, message, low: MessageId(2), why: Why::Got };
        let corrupt = Mutation::Corrupt { queue: QUEUE, message };
        let returned = Mutation::Return { queue: QUEUE, message, deliveries: 1 };
        assert!(Taken::of(&[batch(&[put(QUEUE, 1), pass, corrupt, returned])]).unwrap().is_empty());
    }

    #[test]
    fn ids_far_apart_and_below_the_first_are_found_too() {
        let far = 1 << 32;
        let puts = [put(QUEUE, 5000), put(QUEUE, 3), put(QUEUE, far), put(QUEUE, far + 1), put(OTHER, 4)];
        let batches = [batch(&puts), batch(&[take(5000), take(3), take(far), Mutation::Delete { queue: OTHER }])];
        let taken = Taken::of(&batches).unwrap();
        assert_eq!(of(&taken, &[3, 4, 5000, far, far + 1]), [3, 4, 5000, far]);
        assert_eq!(taken.len(), 4);
    }

    #[test]
    fn a_refill_forgets_what_was_before() {
        let mut taken = Taken::of(&[batch(&[put(QUEUE, 1), put(QUEUE, 2), take(1), take(2)])]).unwrap();
        taken.refill(&[batch(&[put(QUEUE, 64), take(64), put(QUEUE, 65)])]).unwrap();
        assert_eq!(of(&taken, &[1, 2, 64, 65]), [64]);
        taken.refill(&[batch(&[put(QUEUE, 64)])]).unwrap();
        assert!(taken.is_empty());
        taken.refill(&[batch(&[take(64)])]).unwrap();
        assert!(taken.is_empty(), "nothing was put");
    }
}
