//! The counters of one queue, and the law that holds them together.
//!
//! Invariant, at every moment and after every crash: [`Counters::ready`] is what the other numbers leave over. The
//! store applies mutations to a row of counters in the transaction that stores the messages, with [`Counters::apply`];
//! the engine keeps its own copy with the same function, so the two cannot drift apart.

use crate::mutation::Mutation;

/// What has happened to a queue's messages since its life began. All are counts of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages accepted.
    pub puts: u64,
    /// Messages taken for good.
    pub gets: u64,
    /// Of `gets`, those whose client was gone before it could be sent the message.
    pub gets_unsent: u64,
    /// Messages dropped by `flush_all`.
    pub deleted: u64,
    /// Messages set aside because their checksum failed.
    pub corrupt: u64,
}

impl Counters {
    /// Bytes of [`Counters::encode`].
    pub const SIZE: usize = 5 * 8;

    /// Messages that a get can take: the law of conservation, solved for `ready`.
    pub fn ready(&self) -> u64 {
        self.puts - self.gets - self.deleted - self.corrupt
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
            Mutation::Create { .. } | Mutation::Delete { .. } | Mutation::Ids { .. } => {}
        }
    }

    /// Little-endian u64s in the order of the fields.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = [self.puts, self.gets, self.gets_unsent, self.deleted, self.corrupt];
        for (chunk, field) in bytes.chunks_exact_mut(8).zip(fields) {
            chunk.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Counters::encode`].
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Counters {
        let field = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        Counters { puts: field(0), gets: field(1), gets_unsent: field(2), deleted: field(3), corrupt: field(4) }
    }
}
