//! The counters of one queue, and the law that holds them together.
//!
//! Invariant, at every moment and after every crash: [`Counters::present`] is what the other numbers leave over. The
//! store applies mutations to a row of counters in the transaction that stores the messages, with [`Counters::apply`];
//! the engine keeps its own copy with the same function, so the two cannot drift apart.
//!
//! What is present is ready, in an open read, or on its way to another queue. Only the engine knows which: a crash makes all of it ready.

use crate::mutation::{Mutation, Why};

/// What has happened to a queue's messages since its life began. All are counts of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages accepted.
    pub puts: u64,
    /// Messages taken for good.
    pub gets: u64,
    /// Of `gets`, those whose client was gone before it could be sent the message.
    pub gets_unsent: u64,
    /// Messages dropped by `flush` and `flush_all`.
    pub deleted: u64,
    /// Messages set aside because their checksum failed.
    pub corrupt: u64,
    /// Messages whose time was over.
    pub expired: u64,
    /// Messages that made room for younger ones, or were delivered too often.
    pub discarded: u64,
    /// Messages that were delivered too often and went to another queue.
    pub dead_lettered: u64,
    /// Messages that were for groups only.
    pub skipped: u64,
}

impl Counters {
    /// Bytes of [`Counters::encode`].
    pub const SIZE: usize = 9 * 8;

    /// Messages that are there: the law of conservation, solved for them.
    pub fn present(&self) -> u64 {
        self.puts - self.left().expect("no more messages leave a queue than come")
    }

    /// Messages that are there no more. `None`: more than any queue can have had.
    pub fn left(&self) -> Option<u64> {
        let ways =
            [self.gets, self.deleted, self.corrupt, self.expired, self.discarded, self.dead_lettered, self.skipped];
        ways.into_iter().try_fold(0, u64::checked_add)
    }

    /// Counts what the mutation did to this queue. Mutations that do not count anything change nothing.
    pub fn apply(&mut self, mutation: &Mutation<'_>) {
        match mutation {
            Mutation::Put(_) => self.puts += 1,
            Mutation::Take { .. } => self.gets += 1,
            Mutation::Unsent { .. } => self.gets_unsent += 1,
            Mutation::Purge { count, .. } => self.deleted += count,
            Mutation::Corrupt { .. } => self.corrupt += 1,
            Mutation::Passed { count, .. } => {
                self.puts += count;
                self.gets += count;
            }
            Mutation::Leave { why, .. } | Mutation::Pass { why, .. } => match why {
                Why::Got => self.gets += 1,
                Why::Expired => self.expired += 1,
                Why::Discarded => self.discarded += 1,
                Why::DeadLettered => self.dead_lettered += 1,
                Why::Skipped => self.skipped += 1,
            },
            Mutation::Group { offered, .. } => self.puts = *offered,
            Mutation::Create { .. }
            | Mutation::Delete { .. }
            | Mutation::Ids { .. }
            | Mutation::Return { .. }
            | Mutation::Configure { .. }
            | Mutation::Free { .. }
            | Mutation::Sweep { .. }
            | Mutation::Move { .. }
            | Mutation::Moved { .. }
            | Mutation::Accept { .. } => {}
        }
    }

    /// Little-endian u64s in the order of the fields.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = [
            self.puts,
            self.gets,
            self.gets_unsent,
            self.deleted,
            self.corrupt,
            self.expired,
            self.discarded,
            self.dead_lettered,
            self.skipped,
        ];
        for (chunk, field) in bytes.chunks_exact_mut(8).zip(fields) {
            chunk.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Counters::encode`].
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Counters {
        let field = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        Counters {
            puts: field(0),
            gets: field(1),
            gets_unsent: field(2),
            deleted: field(3),
            corrupt: field(4),
            expired: field(5),
            discarded: field(6),
            dead_lettered: field(7),
            skipped: field(8),
        }
    }
}
