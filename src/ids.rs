//! Identifiers. Every one is a newtype, so that a sequence cannot pass for a message id.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A shard: one thread, one ring, one engine. Numbered from 0.
    ShardId(u16)
);
id!(
    /// A queue's life, from its first put to its `delete`. Never reused; 0 is no queue.
    QueueId(u64)
);
id!(
    /// A message: its place in its queue's order and its cas value on the wire. Never reused; 0 is before every message.
    MessageId(u64)
);
id!(
    /// A batch of mutations of one shard, numbered from 1 at each start. 0 is durable from the beginning.
    Seq(u64)
);

/// A connection of one shard. The index is reused; the generation tells the lives of an index apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    /// Slot in the shard's table of connections.
    pub index: u32,
    /// Which life of the slot.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// A place in a shard's journal: which record is expected there, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Number of the record.
    pub seq: Seq,
    /// Segment it is in.
    pub segment: u32,
    /// Byte offset in the segment, a multiple of 4096.
    pub offset: u64,
}

/// What tells the records of one start from the bytes of all others: random, and mixed into every checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Salt(pub [u8; 16]);

/// A reserved run of ids, `next..end`, that no other shard and no later start will use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    /// First id not yet used.
    pub next: u64,
    /// First id past the range.
    pub end: u64,
}
