//! A shard's journal and what waits for the store, as [`crate::world`] drives them: what the durability of the daemon is to its shard.
//!
//! Invariant: what was handed to the store was in the journal before, and batches go there in order.

use ringq::ids::{Salt, Seq, ShardId};
use ringq::journal::{BLOCK_SIZE, Write, Writer, WriterConfig};
use ringq::store::{Batch, Taken};
use std::collections::VecDeque;

/// One shard's way to durability in this life of the server.
pub struct Lane {
    pub writer: Writer,
    /// Writes that the disk has not completed, oldest first.
    pub under_way: Vec<Write>,
    /// Not handed to the store, oldest first.
    pub kept: VecDeque<Batch>,
    /// Handed to the store and not applied whole.
    pub jobs: VecDeque<Job>,
    /// The newest batch whose replies the engine may have released.
    pub durable: Seq,
    /// The newest batch that holds anything.
    pub last_content: Seq,
    /// What the newest record says is durable.
    pub covered: Seq,
}

/// What a checkpoint brings into the store.
pub struct Job {
    pub batches: Vec<Batch>,
    pub taken: Taken,
    pub applied: usize,
}

impl Lane {
    pub fn new(config: WriterConfig) -> Lane {
        Lane {
            writer: Writer::new(config),
            under_way: Vec::new(),
            kept: VecDeque::new(),
            jobs: VecDeque::new(),
            durable: Seq(0),
            last_content: Seq(0),
            covered: Seq(0),
        }
    }

    /// A batch goes on its way to the disk.
    pub fn take(&mut self, shard: ShardId, seq: Seq, mutations: Vec<u8>) {
        let write = self.writer.append(seq, self.durable, &mutations);
        assert!(write.offset.is_multiple_of(BLOCK_SIZE), "records begin at blocks");
        self.covered = self.durable;
        if !mutations.is_empty() {
            self.last_content = seq;
        }
        self.kept.push_back(Batch { shard, seq, mutations, end: write.end });
        self.under_way.push(write);
    }
}

/// Equal for none of the starts and shards of a test.
pub fn salt(start: u64, shard: u16) -> Salt {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..10].copy_from_slice(&shard.to_le_bytes());
    Salt(bytes)
}
