//! Sessions of datagrams: all requests are there from the start, and the replies have a bound.
//!
//! The answer to a datagram goes to whatever address the datagram claims to come from, so it must not be large; and a message that does
//! not fit into the answer must not be taken. So before a message is taken it is known how much else is said: the requests
//! of a datagram are served one after the other, each when the replies to all before it are there, and every get is told
//! how large a message it may take, wherever the queue is and whether or not it must be loaded.
//!
//! Invariant: the replies of such a session are together at most its bound; no message is taken that they have no room for; it
//! waits for no message, and so is never handed one.
//!
//! Does not know how a datagram looks: that is `udp`.

use super::groups::Start;
use super::reads::Reader;
use super::{Engine, Shelf};
use crate::ids::{ConnId, MessageId, Seq};
use crate::limits::UDP_REPLY_MARGIN;
use crate::proto::Dialect;
use crate::proto::kestrel;
use crate::proto::reply::{self, VALUE_OVERHEAD_MAX};
use crate::queue::Entry;
use crate::session::Wait;

const _: () = assert!(
    reply::PUT_TO_READER.len() + reply::REPLY_TOO_LARGE.len() <= UDP_REPLY_MARGIN,
    "the longest fixed text, and the words behind it"
);

/// How a get wants its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form {
    /// With its id.
    pub cas: bool,
    /// The message stays where it is.
    pub peek: bool,
    /// The message is opened for this reader, not taken.
    pub open: Option<Reader>,
    /// Only if its `VALUE` block has at most this size, bytes.
    pub size_max: u32,
    /// In whose words.
    pub dialect: Dialect,
}

impl Form {
    /// Larger than any message.
    pub const ANY_SIZE: u32 = u32::MAX;

    /// Appends the `VALUE` block of a message of a queue, for a get whose key had these options.
    pub fn show(self, out: &mut Vec<u8>, of: &Shelf, options: &[u8], flags: u32, message: MessageId, body: &[u8]) {
        let cas = self.cas.then_some(message);
        match self.dialect {
            Dialect::MemcacheQ => reply::value(out, of.client_name(), options, flags, cas, body),
            Dialect::Kestrel => reply::value(out, &kestrel::shown_name(&of.queue.name), b"", 0, cas, body),
        }
    }

    /// Where a group begins that this get names first.
    pub fn start(self) -> Start {
        match self.dialect {
            Dialect::MemcacheQ => Start::Oldest,
            Dialect::Kestrel => Start::Newest,
        }
    }

    /// Whether the client is a datagram's.
    pub fn is_bounded(self) -> bool {
        self.size_max != Self::ANY_SIZE
    }
}

impl Engine {
    /// A datagram with these requests has come. All its replies together have at most `reply_size_max` bytes; `conn` is open for
    /// them alone.
    pub fn on_datagram(&mut self, conn: ConnId, requests: &[u8], reply_size_max: usize) {
        self.open(conn, Some(reply_size_max));
        self.on_eof(conn);
        self.on_bytes(conn, requests);
    }

    /// A datagram was dropped for lack of room.
    pub fn on_datagram_dropped(&mut self) {
        self.stats.udp_dropped += 1;
    }

    /// Whether a connection, until it is closed, is for the replies to a datagram.
    pub fn is_datagram(&mut self, conn: ConnId) -> bool {
        self.session_to_the_end(conn).is_some_and(|session| session.reply_size_max.is_some())
    }

    /// Whether the next request of a datagram may be served. `Err`: never, there is no room for replies any more, and so it was said.
    pub(super) fn admit_request(&mut self, conn: ConnId) -> Result<Option<Wait>, ()> {
        let session = self.session(conn).expect("it is being served");
        // What a multi-get under way takes is for it to count.
        if session.reply_size_max.is_none() || session.multi_get.is_some() {
            return Ok(None);
        }
        if session.replies.waiting() > 0 {
            return Ok(Some(Wait::Replies));
        }
        if self.reply_room(conn, 0) > 0 {
            return Ok(None);
        }
        self.say(conn, Seq(0), reply::REPLY_TOO_LARGE);
        self.finish(conn);
        Err(())
    }

    /// How much more may be said to a client besides its margin, bytes; `held` are bytes of an answer that is being put together.
    pub(super) fn reply_room(&mut self, conn: ConnId, held: usize) -> usize {
        self.session(conn).map_or(0, |session| session.reply_room(held))
    }

    /// How the message for a get may look that has put together `held` bytes.
    pub(super) fn form(&mut self, conn: ConnId, cas: bool, held: usize) -> Form {
        let session = self.session(conn);
        let (room, dialect) =
            session.map_or((0, Dialect::MemcacheQ), |session| (session.reply_room(held), session.dialect));
        Form { cas, peek: false, open: None, size_max: u32::try_from(room).unwrap_or(Form::ANY_SIZE), dialect }
    }

    /// What to say if the head of a queue, which is `entry`, may not be given to a get of this form, asked for with a key of `key_size` bytes.
    pub(super) fn refusal(&self, index: u32, entry: Entry, key_size: usize, form: Form) -> Option<&'static [u8]> {
        if !self.may_open_head(index, form) {
            return Some(reply::TOO_MANY_OPEN_READS);
        }
        let has_room = !form.is_bounded()
            || key_size + self.memory.message(entry.place).body.len() + VALUE_OVERHEAD_MAX <= form.size_max as usize;
        (!has_room).then_some(reply::TOO_LARGE_FOR_UDP)
    }

    /// Adds a reply that takes nothing, if it has room.
    pub(super) fn reply_if_it_fits(&mut self, conn: ConnId, write: impl FnOnce(&mut Vec<u8>)) {
        let room = self.reply_room(conn, 0);
        self.reply(conn, Seq(0), &[], |out| {
            let start = out.len();
            write(out);
            if out.len() - start > room {
                out.truncate(start);
                out.extend_from_slice(reply::REPLY_TOO_LARGE);
            }
        });
    }

    /// A datagram's session is over: what is left in its input was no whole request.
    pub(super) fn count_incomplete(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        let is_incomplete = session.reply_size_max.is_some() && !session.input.is_empty();
        self.stats.udp_dropped += u64::from(is_incomplete);
    }
}
