//! Kept: what a shard's journal has and the store was not given yet.
//!
//! Records are small when few requests come at once, and a checkpoint hands over thousands of them. So consecutive ones are
//! collected into batches of [`KEPT_BATCH_SIZE`], in buffers that the store gives back: keeping a record neither allocates nor
//! touches fresh memory in the steady state.
//!
//! Invariant: batches leave in the order in which their records came, each record once, and a batch leaves only when all its
//! records are in the journal. Does not know when a checkpoint is due.
//!
//! Step 6 of a message's path.

use crate::ids::{Position, Seq, ShardId};
use crate::limits::{KEPT_BATCH_SIZE, KEPT_SPARE_MAX};
use crate::store::Batch;
use std::collections::VecDeque;

/// Batches waiting for a checkpoint, oldest first.
pub struct Kept {
    shard: ShardId,
    batches: VecDeque<Batch>,
    /// The last batch takes more records.
    is_open: bool,
    size: usize,
    spare: Vec<Vec<u8>>,
}

impl Kept {
    /// Nothing is kept.
    pub fn new(shard: ShardId) -> Kept {
        Kept { shard, batches: VecDeque::new(), is_open: false, size: 0, spare: Vec::new() }
    }

    /// Keeps a record's mutations; `end` is where the journal goes on behind it.
    pub fn push(&mut self, seq: Seq, mutations: &[u8], end: Position) {
        let fits = |batch: &Batch| batch.mutations.len() + mutations.len() <= KEPT_BATCH_SIZE;
        if !self.is_open || !self.batches.back().is_some_and(fits) {
            self.begin_batch(mutations.len());
        }
        let batch = self.batches.back_mut().expect("one is open");
        assert!(seq > batch.seq, "records come in order");
        batch.mutations.extend_from_slice(mutations);
        batch.seq = seq;
        batch.end = end;
        self.size += mutations.len();
    }

    fn begin_batch(&mut self, size: usize) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.reserve_exact(size.max(KEPT_BATCH_SIZE));
        self.size += size_of::<Batch>();
        let batch = Batch { shard: self.shard, seq: Seq(0), mutations: buffer, end: Position::default() };
        self.batches.push_back(batch);
        self.is_open = true;
    }

    /// What comes next begins a batch of its own, so that what is here can leave although more is coming.
    pub fn close(&mut self) {
        self.is_open = false;
    }

    /// Whether there is a batch whose records are all in the journal, which has everything up to `durable`.
    pub fn has_through(&self, durable: Seq) -> bool {
        self.batches.front().is_some_and(|batch| batch.seq <= durable)
    }

    /// The batches whose records are all in the journal.
    pub fn take_through(&mut self, durable: Seq) -> Vec<Batch> {
        let len = self.batches.partition_point(|batch| batch.seq <= durable);
        let taken: Vec<Batch> = self.batches.drain(..len).collect();
        self.size -= taken.iter().map(|batch| batch.mutations.len() + size_of::<Batch>()).sum::<usize>();
        self.is_open &= !self.batches.is_empty();
        taken
    }

    /// Takes buffers back that the store is done with.
    pub fn recycle(&mut self, spent: Vec<Vec<u8>>) {
        for mut buffer in spent {
            if self.spare.len() < KEPT_SPARE_MAX && (KEPT_BATCH_SIZE..=2 * KEPT_BATCH_SIZE).contains(&buffer.capacity())
            {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
    }

    /// What is kept, bytes, its bookkeeping included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(seq: u64) -> Position {
        Position { seq: Seq(seq + 1), segment: 0, offset: seq * 4096 }
    }

    fn push(kept: &mut Kept, seq: u64, mutations: &[u8]) {
        kept.push(Seq(seq), mutations, end(seq));
    }

    fn taken(kept: &mut Kept, durable: u64) -> Vec<(u64, usize)> {
        kept.take_through(Seq(durable)).iter().map(|batch| (batch.seq.0, batch.mutations.len())).collect()
    }

    #[test]
    fn small_records_share_a_batch_that_ends_where_the_last_one_ends() {
        let mut kept = Kept::new(ShardId(3));
        push(&mut kept, 1, b"ab");
        push(&mut kept, 2, b"");
        push(&mut kept, 3, b"c");
        assert!(!kept.has_through(Seq(2)), "the batch is not whole in the journal");
        assert_eq!(taken(&mut kept, 2), []);
        let batches = kept.take_through(Seq(3));
        assert_eq!(batches.len(), 1);
        assert_eq!((batches[0].shard, batches[0].seq, &*batches[0].mutations), (ShardId(3), Seq(3), &b"abc"[..]));
        assert_eq!(batches[0].end, end(3));
        assert_eq!((kept.size(), kept.is_empty()), (0, true));
    }

    #[test]
    fn a_full_batch_and_a_closed_one_take_no_more() {
        let mut kept = Kept::new(ShardId(0));
        push(&mut kept, 1, &[0; KEPT_BATCH_SIZE - 1]);
        push(&mut kept, 2, b"x");
        push(&mut kept, 3, b"y");
        kept.close();
        push(&mut kept, 4, b"z");
        push(&mut kept, 5, &[0; 2 * KEPT_BATCH_SIZE]);
        assert_eq!(taken(&mut kept, 3), [(2, KEPT_BATCH_SIZE), (3, 1)]);
        assert_eq!(taken(&mut kept, 5), [(4, 1), (5, 2 * KEPT_BATCH_SIZE)]);
        push(&mut kept, 6, b"w");
        assert_eq!(taken(&mut kept, 6), [(6, 1)], "a batch that has left takes no more");
    }

    #[test]
    fn buffers_of_the_usual_size_come_back_and_others_do_not() {
        let mut kept = Kept::new(ShardId(0));
        push(&mut kept, 1, b"a");
        push(&mut kept, 2, &[0; 3 * KEPT_BATCH_SIZE]);
        let spent: Vec<Vec<u8>> = kept.take_through(Seq(2)).into_iter().map(|batch| batch.mutations).collect();
        let place = spent[0].as_ptr();
        kept.recycle(spent);
        assert_eq!(kept.spare.len(), 1);
        push(&mut kept, 3, b"b");
        let batches = kept.take_through(Seq(3));
        assert_eq!((batches[0].mutations.as_ptr(), &*batches[0].mutations), (place, &b"b"[..]));
    }
}
