//! How connections end: their last replies, what they leave behind, and those that are given up.
//!
//! Invariant: a session that is closed owes nobody anything: what it waited for is cancelled, what it had taken and was not sent is counted,
//! what it had open is back in its place.

use super::{Engine, Notice};
use crate::ids::ConnId;
use crate::limits::LINGER_MS_MAX;
use crate::session::Phase;
use std::cmp::Reverse;

impl Engine {
    /// The client of a connection that is not received from sends no more; what it sent before may still come. `is_gone`: it hears
    /// nothing any more either.
    pub fn on_end_ahead(&mut self, conn: ConnId, is_gone: bool) {
        let Some(session) = self.session(conn) else {
            return;
        };
        // The first reply that is sent ends the connection. Until then it would take messages that go to nobody.
        if is_gone && (session.multi_get.is_some() || session.replies.awaited() > 0) {
            return self.close(conn);
        }
        session.end_ahead = true;
        self.end_wait_of(conn);
    }

    /// No more requests are served; the connection closes when its replies are sent.
    pub(super) fn finish(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        session.phase = Phase::Finishing;
        session.input = Vec::new();
        self.free_body(conn);
        self.make_runnable(conn);
    }

    /// Moves a session on that has nothing left to do but end.
    pub(super) fn finish_if_done(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn) else {
            return;
        };
        let said_all = session.replies.is_empty() && !session.sending && session.listing.is_none();
        let idle = said_all && !session.runnable && session.wait.is_none();
        match session.phase {
            Phase::Draining if idle => {
                self.count_incomplete(conn);
                self.close(conn);
            }
            Phase::Finishing if said_all => {
                session.phase = Phase::Lingering;
                // It can confirm nothing any more, however long its client takes to go.
                self.return_reads_of(conn);
                let session = self.session(conn).expect("just seen");
                let at_once = session.eof;
                if at_once || self.stopping {
                    self.close(conn);
                } else {
                    self.effects.shutdowns.push(conn);
                    self.set_deadline(conn, LINGER_MS_MAX);
                }
            }
            _ => {}
        }
    }

    /// Ends the session and asks the ring to close the connection.
    pub(super) fn close(&mut self, conn: ConnId) {
        self.free_body(conn);
        let session = self.session(conn).expect("the caller has it");
        session.phase = Phase::Closed;
        session.input = Vec::new();
        let waiting = session.waiting.take();
        let mut replies = std::mem::take(&mut session.replies);
        let waited = replies.waiting() > 0 || session.listing.is_some();
        let mut lost = Vec::new();
        replies.abandon(&mut self.timings, |queue, hits| lost.push((queue, hits)));
        for (queue, hits) in lost {
            (0..hits).for_each(|_| self.unsent(queue));
        }
        self.gathers.remove(&conn.index);
        self.monitors.remove(&conn.index);
        if let Some(place) = waiting {
            self.leave_line(place);
        }
        self.cancels_due |= waited;
        self.return_reads_of(conn);
        self.give_back_unsent(conn);
        self.effects.closes.push(conn);
    }

    // --- time ---

    pub(super) fn set_deadline(&mut self, conn: ConnId, after_ms: u64) {
        let at = self.now.mono_ms + after_ms;
        let session = self.session(conn).expect("the caller has it");
        session.deadline_ms = at;
        if !session.timed {
            session.timed = true;
            self.deadlines.push(Reverse((at, conn.index, conn.generation)));
        }
    }

    /// Deadlines move without touching the heap: an entry that comes up early is entered again.
    pub(super) fn expire_deadlines(&mut self) {
        let now = self.now.mono_ms;
        while let Some(Reverse((at, index, generation))) = self.deadlines.peek().copied()
            && at <= now
        {
            self.deadlines.pop();
            let conn = ConnId { index, generation };
            let Some(session) = self.session(conn) else {
                continue;
            };
            session.timed = false;
            match session.deadline_ms {
                0 => {}
                due if due > now => self.set_deadline(conn, due - now),
                _ => self.give_up(conn),
            }
        }
    }

    fn give_up(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        match session.phase {
            Phase::Lingering => self.close(conn),
            Phase::Open | Phase::Draining if session.reserved > 0 && session.wait.is_none() => {
                self.effects.notices.push(Notice::BodyStalled(conn));
                self.close(conn);
            }
            _ => session.deadline_ms = 0,
        }
    }
}
