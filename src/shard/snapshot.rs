//! What a shard says of itself when the main thread asks: for the log, for systemd's watchdog, after a reload.
//!
//! It is made between two turns, so its numbers belong together.

use crate::engine::QueueSummary;
use crate::stats::ShardStats;

/// What is asked. The number comes back with the answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inquiry {
    /// Which inquiry this is.
    pub number: u64,
    /// How many of the shard's queues are wanted, those with the most messages.
    pub queues: usize,
    /// Whether the shard is to ask the store thread, too, if it is alive.
    pub asks_store: bool,
}

/// One shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What it counts and holds.
    pub stats: ShardStats,
    /// Mutations that no record has, bytes.
    pub unsealed_size: usize,
    /// Mutations that the store has not confirmed, bytes.
    pub unstored_size: usize,
    /// How much waits for the store, bytes, and what puts wait at.
    pub pressure: (usize, usize),
    /// Its queues with the most messages, the largest first.
    pub largest: Vec<QueueSummary>,
}
