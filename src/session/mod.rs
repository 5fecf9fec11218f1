//! A session: what the protocol knows of one connection. Bytes become requests in [`frame`]; replies wait for their turn
//! and for durability in [`replies`]. Pure.
//!
//! Step 2 and step 8 of a message's path.

pub mod frame;
pub mod reads;
pub mod replies;
pub mod timing;

use crate::ids::{MessageId, QueueId, Seq};
use crate::limits::UDP_REPLY_MARGIN;
use crate::proto::Dialect;
use reads::Reads;
use replies::Replies;
use std::collections::VecDeque;

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Requests are served.
    Open,
    /// The client sends no more (or the server is stopping): what was received is served, then the connection closes.
    Draining,
    /// No more requests are served: replies are sent, then the connection closes.
    Finishing,
    /// All was said and the sending side is shut; input is thrown away until the client closes or its time is up.
    Lingering,
    /// The ring was asked to close; nothing more happens here.
    Closed,
}

/// Why a session's next request has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// For replies of its own that are not in yet, or not sent.
    Replies,
    /// For memory, until a checkpoint frees some.
    Memory,
    /// For room on the way to another shard.
    Forward,
    /// For room in the body budget.
    Body,
    /// For the message, or the timeout, of the get whose reply has this slot.
    Message(u64),
}

/// One connection's protocol state. Idle, it owns no heap memory.
pub struct Session {
    /// Which life of the connection's slot.
    pub generation: u32,
    /// Where it stands.
    pub phase: Phase,
    /// What it speaks.
    pub dialect: Dialect,
    /// Bytes received and not yet served.
    pub input: Vec<u8>,
    /// How many bytes `input` must hold before the request at its front can be complete.
    pub need: usize,
    /// Bytes still to be thrown away: the rest of a refused body.
    pub skip: u64,
    /// Reserved of the body budget, bytes.
    pub reserved: usize,
    /// When the newest bytes of `input` came, monotonic µs.
    pub received_us: u64,
    /// Replies in order.
    pub replies: Replies,
    /// Why the request at the front of `input` waits.
    pub wait: Option<Wait>,
    /// The place of its waiting get in the engine's lines.
    pub waiting: Option<u32>,
    /// In the engine's list of sessions to go on with.
    pub runnable: bool,
    /// In the engine's list of sessions with something to send.
    pub sendable: bool,
    /// The ring is sending for this connection.
    pub sending: bool,
    /// Bytes of replies that the ring was given, since the start of the connection.
    pub taken: u64,
    /// Of these, bytes that the kernel has taken. Less than `taken` only while the ring is sending.
    pub sent: u64,
    /// Messages handed over to this client that the kernel has not taken, oldest first.
    pub passing: VecDeque<Handed>,
    /// The ring was asked to pause receiving.
    pub paused: bool,
    /// Nothing was received yet.
    pub fresh: bool,
    /// The client has shut its sending side, and all it sent has come.
    pub eof: bool,
    /// The client has shut its sending side, and receiving is paused: there may be more to come of what it sent.
    pub end_ahead: bool,
    /// The batch for which this session already waits in the engine's list.
    pub awaits: Seq,
    /// When to give up on this connection, monotonic ms; 0: never.
    pub deadline_ms: u64,
    /// The deadline is in the engine's heap.
    pub timed: bool,
    /// When the client last sent something, or was sent something, monotonic ms.
    pub active_ms: u64,
    /// A listing under way.
    pub listing: Option<Listing>,
    /// A multi-get under way, the request at the front of the input. Seldom, so an idle session does not have room for it.
    pub multi_get: Option<Box<MultiGet>>,
    /// What it has read and not confirmed. Few connections ever do.
    pub reads: Option<Box<Reads>>,
    /// A datagram's session: how large all its replies together may be, bytes.
    pub reply_size_max: Option<Box<usize>>,
}

/// A message that is on its way from its putter to this client, without the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handed {
    /// Its reply is sent when so many bytes are, since the start of the connection.
    pub end: u64,
    /// Which message.
    pub message: MessageId,
    /// Its queue.
    pub queue: QueueId,
}

/// How far a multi-get has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiGet {
    /// Its reply.
    pub slot: u64,
    /// Keys that were dealt with.
    pub keys_done: usize,
}

/// What a listing lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Listed {
    /// `stats queue`: every queue.
    Queues,
    /// `stats conns`: every connection.
    Connections,
    /// `stats` of Kestrel's: every queue, in its words.
    KestrelStats,
    /// `dump_stats` of Kestrel's.
    KestrelDump,
}

/// How far a listing has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Of what.
    pub what: Listed,
    /// The shard whose queues are being listed.
    pub shard: u16,
    /// Where it goes on; only that shard knows what it means.
    pub cursor: u32,
    /// An answer of another shard is awaited.
    pub asked: bool,
}

impl Listed {
    /// All of them, each at the place of its number.
    pub const ALL: [Listed; 4] = [Listed::Queues, Listed::Connections, Listed::KestrelStats, Listed::KestrelDump];
}

impl Session {
    /// A new connection.
    pub fn new(generation: u32, now_ms: u64) -> Self {
        Session {
            generation,
            phase: Phase::Open,
            dialect: Dialect::MemcacheQ,
            input: Vec::new(),
            need: 0,
            skip: 0,
            reserved: 0,
            received_us: 0,
            replies: Replies::default(),
            wait: None,
            waiting: None,
            runnable: false,
            sendable: false,
            sending: false,
            taken: 0,
            sent: 0,
            passing: VecDeque::new(),
            paused: false,
            fresh: true,
            eof: false,
            end_ahead: false,
            awaits: Seq(0),
            deadline_ms: 0,
            timed: false,
            active_ms: now_ms,
            listing: None,
            multi_get: None,
            reads: None,
            reply_size_max: None,
        }
    }

    /// Whether the server owes the client nothing, and waits for no body of its.
    pub fn is_idle(&self) -> bool {
        let owes = !self.replies.is_empty() || self.sending || self.listing.is_some() || self.multi_get.is_some();
        let is_held = self.runnable || self.wait.is_some() || self.reserved > 0;
        self.phase == Phase::Open && !owes && !is_held
    }

    /// Whether requests in the input may still be served.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Draining)
    }

    /// Whether the client has shut its sending side.
    pub fn sends_no_more(&self) -> bool {
        self.eof || self.end_ahead
    }

    /// How much more may be said to the client besides its margin, bytes; `held` are bytes of an answer that is being put together.
    pub fn reply_room(&self, held: usize) -> usize {
        let Some(bound) = self.reply_size_max.as_deref() else { return usize::MAX };
        let said = usize::try_from(self.replies.end()).expect("what a datagram is told is small");
        bound.saturating_sub(said + held + UDP_REPLY_MARGIN)
    }
}
