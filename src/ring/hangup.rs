//! Looking for the end of connections that are not received from: a receive would tell, but it is paused.
//!
//! Invariant: while a connection is paused a poll is in flight, or about to be, that tells when its peer is gone; an idle connection that
//! is received from has none.

use super::connection::Connection;
use super::token::{Kind, Token};
use super::{Event, Ring};
use crate::ids::ConnId;
use io_uring::{opcode, types};
use rustix::io::Errno;

impl Connection {
    /// Whether somebody has to look for the peer's end, since receiving does not.
    fn wants_hangup(&self) -> bool {
        self.paused && !self.lost && !self.closing
    }
}

impl Ring {
    /// Begins or ends looking, as is wanted now.
    pub(super) fn settle_hangup(&mut self, conn: ConnId) {
        let slot = self.connections.at(conn);
        if slot.wants_hangup() {
            if slot.hangup.is_idle() {
                slot.hangup.started();
                // Errors and ends are told whatever is asked for; more than once, since a peer that has finished sending may break yet.
                let poll = opcode::PollAdd::new(types::Fd(slot.fd()), 0).multi(true);
                let token = Token::new(Kind::Hangup, conn.index, conn.generation);
                self.push(poll.build().user_data(token.pack()));
            }
        } else if slot.hangup.is_cancellable() {
            slot.hangup.cancel_asked();
            self.push_cancel(Kind::CancelHangup, Kind::Hangup, conn.index, conn.generation);
        }
    }

    /// Only an error means that nobody can be told anything: a peer that has finished sending may still listen.
    pub(super) fn on_hangup(&mut self, token: Token, result: Result<u32, Errno>, more: bool) -> Option<Event<'static>> {
        let (conn, slot) = self.connections.of(token);
        if !more {
            slot.hangup.finished();
        }
        let seen = result.unwrap_or(0);
        let has = |flag: i16| seen & u32::from(flag.cast_unsigned()) != 0;
        let event = if !slot.wants_hangup() || seen == 0 {
            None
        } else if has(libc::POLLERR) {
            (slot.ended, slot.lost) = (true, true);
            Some(Event::Ended { conn, error: Some(Errno::CONNRESET.into()) })
        } else {
            Some(Event::EndAhead { conn, is_gone: has(libc::POLLHUP) })
        };
        self.settle(conn);
        event
    }
}
