//! The durable store: the values that cross its boundary, and who stands behind them.
//!
//! Shards and the store speak in owned values over queues; no transaction, cursor or borrowed byte of the map ever
//! leaves this module. LMDB ([`lmdb`]) serves the daemon, a map in memory ([`memory`]) serves tests of what stands above;
//! one conformance suite runs against both. Neither knows the ring or the engine.
//!
//! Invariant: a batch is applied whole or not at all, and batches of one shard are applied in order.
//!
//! Step 10 of a message's path: the journal has made it durable before it comes here.

use std::io;

use crate::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use crate::message_set::MessageSet;
use crate::queue::Counters;

pub mod ballast;
mod chain;
pub mod checkpoint;
#[doc(hidden)]
pub mod codec;
#[cfg(test)]
mod conformance;
pub mod directory;
mod layout;
pub mod lmdb;
pub mod memory;
mod run;
pub mod taken;
pub mod thread;

pub use taken::Taken;

/// What a shard asks of the store thread.
#[derive(Debug)]
pub enum Request {
    /// Bring these batches, which the journal already holds, into the store. They are all of one shard, in order, and go on
    /// where its last checkpoint ended. Answered by one [`Reply::Checkpointed`] for each transaction it took.
    Checkpoint {
        /// What to bring; empty to hurry what was sent before.
        batches: Vec<Batch>,
        /// Without pauses between transactions, and so for everything that waits already, of every shard.
        urgent: bool,
    },
    /// Read stored messages of a queue's middle. Answered by [`Reply::Loaded`].
    Load(Load),
    /// Is anybody there? Answered by [`Reply::Alive`] with the same number.
    Ping {
        /// Who asks.
        shard: ShardId,
        /// For the answer.
        number: u64,
    },
    /// From now on this many bytes of free space are the floor below which shards are told [`Reply::Full`]; 0: none.
    FreeFloor(u64),
}

/// The mutations of some turns of one shard, one after the other.
#[derive(Debug)]
pub struct Batch {
    /// Whose.
    pub shard: ShardId,
    /// The number of the last of them; rises from batch to batch.
    pub seq: Seq,
    /// Mutations, encoded as in [`crate::mutation`].
    pub mutations: Vec<u8>,
    /// Where the shard's journal goes on after this batch.
    pub end: Position,
}

/// Which messages to read: ids above `after` and below `below`, in order, until `size_max` bytes are encoded (at least
/// one message, however large).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Who asks.
    pub shard: ShardId,
    /// For which reader: a queue, or a group. What it has passed is left out.
    pub queue: QueueId,
    /// Of which queue. A group that the store does not know yet has passed none of its messages.
    pub of: QueueId,
    /// Last id not wanted.
    pub after: MessageId,
    /// First id not wanted.
    pub below: MessageId,
    /// Bound on the bytes of the answer.
    pub size_max: usize,
}

/// What the store thread answers to the shard that asked.
#[derive(Debug)]
pub enum Reply {
    /// All batches of the shard up to and including `seq` are durable.
    Checkpointed {
        /// The newest of them.
        seq: Seq,
        /// How many batches the transaction brought.
        len: usize,
        /// What their mutations were in, for its memory.
        spent: Vec<Vec<u8>>,
        /// How long the transaction took, µs.
        took_us: u64,
    },
    /// The answer to a [`Load`].
    Loaded {
        /// Which queue was read.
        queue: QueueId,
        /// What was found, or why nothing could be read.
        result: Result<Loaded, Error>,
    },
    /// Whether puts must be refused: the file system's free space is below the operator's floor, a write met a full file
    /// system, or the ballast is not whole. Sent when it changes.
    Full(bool),
    /// The answer to [`Request::Ping`].
    Alive(u64),
}

/// Stored messages, verified.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Intact messages in order of id, each encoded as [`crate::mutation::Mutation::Put`].
    pub messages: Vec<u8>,
    /// Ids whose checksum failed, with the sizes of their bodies in bytes. The bodies were not returned.
    pub corrupt: Vec<(MessageId, u64)>,
    /// Those of the messages that were delivered and returned before, and how often.
    pub deliveries: Vec<(MessageId, u32)>,
    /// The last id that was looked at; the next load goes on after it.
    pub reached: MessageId,
}

/// What a start finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every queue.
    pub queues: Vec<QueueRow>,
    /// Ids below this were reserved by some shard of some earlier start.
    pub ids_end: u64,
    /// The journals that belong to this store, by shard, and how far they are in it.
    pub journals: Vec<JournalRow>,
    /// Settings by name, as [`crate::queue::Settings`] encodes them.
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// The newest transfers that were accepted. What was under way at the last end was either accepted, and has left its source, or is there
    /// as if it had never gone.
    pub accepted: Vec<Accepted>,
}

/// A shard's journal as the store knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalRow {
    /// Whose.
    pub shard: ShardId,
    /// The salt of its records.
    pub salt: Salt,
    /// The first record that is not in the store.
    pub position: Position,
}

/// A queue as the store knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRow {
    /// Its name, 1 to 250 bytes.
    pub name: Vec<u8>,
    /// Its id.
    pub queue: QueueId,
    /// When its life began: wall clock, milliseconds since the epoch.
    pub created_ms: u64,
    /// Its counters; `counters.present()` messages are stored.
    pub counters: Counters,
    /// The bodies of its stored messages, bytes. Too much only where damage hides how large the removed messages of a run were.
    pub bytes: u64,
    /// The queue it is a group of; 0: it is none.
    pub of: QueueId,
    /// Of a group, and of a queue with groups: all messages below are passed, and of those above `passed`.
    pub low: MessageId,
    /// Of a group, and of a queue with groups: messages from `low` on that it has passed, too.
    pub passed: MessageSet,
    /// Of a queue with groups: messages that all have passed, and that are gone.
    pub freed: u64,
}

/// A transfer that a queue has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The queue or group that it came from.
    pub source: QueueId,
    /// The name of the queue that it went to.
    pub target: Vec<u8>,
    /// The highest number that came so.
    pub number: u64,
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used; says what to do.
    #[error("{0}")]
    Unusable(String),
    /// The device or file system failed, or is full.
    #[error("{operation} failed: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database's own structure is damaged.
    #[error("the database is damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// Whether a write found no room, in the file system or in a quota. The only failed write that may be tried again.
    pub fn is_storage_full(&self) -> bool {
        let Error::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What the store thread drives: LMDB in the daemon, a map in tests.
pub trait Store {
    /// Makes the batches durable, all in one transaction, in order, together with the journal position that each shard's last
    /// one ends at. `taken` is of these batches, or of more that go on after them: its messages are counted, never written.
    /// A take whose message is not there is no error: a crash may have come between the transactions of a checkpoint, and
    /// then its put was counted by the one before.
    ///
    /// # Errors
    /// One that [`Error::is_storage_full`] left everything as it was: the call may be repeated, other calls made. After any
    /// other the store must not be written to again; nothing of the call is durable, unless it was the last sync that failed,
    /// when a restart may find all of it. [`Error::Damaged`] when the batches contradict the store: a shard without a
    /// journal, a journal that goes back, a message put twice, more messages gone than came.
    fn apply(&mut self, batches: &[Batch], taken: &Taken) -> Result<(), Error>;

    /// Begins a generation of journals, one for each shard from 0 on, and forgets all older ones: their records must have
    /// been applied. Durable when it returns.
    ///
    /// # Errors
    /// As [`Store::apply`].
    fn begin_journals(&mut self, salts: &[Salt]) -> Result<(), Error>;

    /// Settles the transfers between queues that were under way when the server ended, all in one transaction: what was accepted leaves
    /// its source and is counted there; the rest is as if it had never gone. To be called when the journals are in the store and before
    /// anything else is journalled. Does nothing when there is nothing to settle.
    ///
    /// # Errors
    /// As [`Store::apply`].
    fn settle_moves(&mut self) -> Result<(), Error>;

    /// Reads messages, checking each one's checksum. Of a group: those of its queue that it has not passed.
    ///
    /// # Errors
    /// When the database cannot be read, or the first wanted messages are among those of which it is not known any more which they
    /// are. A message with a wrong checksum is no error: see [`Loaded::corrupt`].
    fn load(&mut self, load: &Load) -> Result<Loaded, Error>;

    /// Every queue and the ids in use. Takes time in the number of queues and of what their groups have passed out of order, not of
    /// messages.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn recover(&mut self) -> Result<Recovered, Error>;

    /// Does a bounded piece of work that no one waits for (removing rows of deleted queues). Returns whether there is more.
    ///
    /// # Errors
    /// As [`Store::apply`].
    fn tidy(&mut self) -> Result<bool, Error>;

    /// Bytes free to ordinary users on the file system that holds the store; `u64::MAX` where that has no meaning.
    fn free_size(&self) -> u64;
}
