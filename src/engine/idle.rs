//! Silent connections: with `--idle-timeout`, those that have been silent for so long are closed.
//!
//! A session notes when it was last active, and a request costs nothing else: no session has a timer. The table of sessions is
//! looked through when the first of them may be due, a part of it in each turn. So one is closed a little after its
//! time, a sixteenth of the timeout at most unless that is very short.
//!
//! Invariant: who is owed something, waits for a message, or is in the middle of a body is not closed here.

use super::{Engine, Notice};
use crate::ids::ConnId;
use crate::limits::{IDLE_LOOK_LEN, IDLE_LOOK_MS_MIN};

/// The look through all sessions.
pub(super) struct Look {
    /// When the next one begins, or this one began, monotonic ms; `None`: never.
    begin_ms: Option<u64>,
    /// The first session it has not come to; 0: it has not begun.
    at: usize,
    /// When the first of those it has seen will be due, monotonic ms.
    due_ms: u64,
}

impl Look {
    /// `timeout_ms` is 0 when nobody is ever silent for too long.
    pub fn new(timeout_ms: u64) -> Look {
        Look { begin_ms: Some(timeout_ms).filter(|timeout| *timeout > 0), at: 0, due_ms: 0 }
    }

    /// When it begins, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.begin_ms
    }

    /// Whether it has begun and is not at its end.
    pub fn is_under_way(&self) -> bool {
        self.at > 0
    }
}

impl Engine {
    /// Closes sessions that have been silent for too long, among those that are this turn's to be looked at.
    pub(super) fn close_idle(&mut self) {
        let (now, timeout) = (self.now.mono_ms, self.config.tunables.idle_ms_max);
        if self.idle.begin_ms.is_none_or(|begin| now < begin) {
            return;
        }
        let begin = self.idle.at;
        // Who becomes active or comes from now on is due no earlier.
        let mut due_ms = if begin == 0 { now + timeout } else { self.idle.due_ms };
        let end = self.sessions.len().min(begin + IDLE_LOOK_LEN);
        for index in begin..end {
            let Some(conn) = self.conn_at(index) else {
                continue;
            };
            let session = self.session(conn).expect("just seen");
            let due = session.active_ms + timeout;
            if due > now {
                due_ms = due_ms.min(due);
            } else if session.is_idle() {
                self.kick(conn);
            }
        }
        self.idle.due_ms = due_ms;
        if end < self.sessions.len() {
            self.idle.at = end;
        } else {
            let earliest = now + (timeout / 16).max(IDLE_LOOK_MS_MIN);
            self.idle.at = 0;
            self.idle.begin_ms = Some(due_ms.max(earliest));
        }
    }

    fn kick(&mut self, conn: ConnId) {
        self.stats.idle_kicks += 1;
        self.effects.notices.push(Notice::Idle(conn));
        self.close(conn);
    }
}
