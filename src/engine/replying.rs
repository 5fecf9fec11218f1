//! Replies on their way out: added to their sessions, filled in from elsewhere, released when they are durable, taken to be sent.
//!
//! Invariant: a session with something released is listed for sending, or is being sent; one whose newest reply waits for a batch is listed
//! for that batch.
//!
//! Step 8 of a message's path.

use super::{Awaiting, Engine, Origin, alive};
use crate::ids::{ConnId, QueueId, Seq};
use crate::limits;
use crate::session::Wait;
use crate::session::replies::{Answer, Piece, SlotId};
use crate::session::timing::Began;

impl Engine {
    /// Adds a complete reply to a connection.
    pub(super) fn reply(&mut self, conn: ConnId, seq: Seq, hits: &[QueueId], write: impl FnOnce(&mut Vec<u8>)) {
        self.push_reply(conn, seq, hits, Some(self.began), write);
    }

    /// The same, of a reply that is this text.
    pub(super) fn say(&mut self, conn: ConnId, seq: Seq, text: &[u8]) {
        self.reply(conn, seq, &[], |out| out.extend_from_slice(text));
    }

    /// Says this, if it is anything, and serves no more requests.
    pub(super) fn say_and_close(&mut self, conn: ConnId, text: &[u8]) {
        if !text.is_empty() {
            self.say(conn, Seq(0), text);
        }
        self.finish(conn);
    }

    /// Adds a complete reply, measured as a request that began at another time, or not at all.
    pub(super) fn push_reply(
        &mut self,
        conn: ConnId,
        seq: Seq,
        hits: &[QueueId],
        began: Option<Began>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let durable = self.durable;
        if let Some(session) = alive(&mut self.sessions, conn) {
            session.replies.push(&mut self.timings, durable, seq, hits, began, write);
            self.note_reply(conn, seq);
        }
    }

    /// Answers one request, wherever it came from.
    pub(super) fn answer(&mut self, origin: Origin, answer: Answer) {
        match origin {
            Origin::Local { conn, at } => {
                let durable = self.durable;
                if self.session(conn).is_none() {
                    return self.undo_answer(&answer);
                }
                self.note_opened(conn, at, self.config.shard, answer.opened);
                let session = alive(&mut self.sessions, conn).expect("just seen");
                let seq = session.replies.fill(&mut self.timings, durable, at, answer);
                self.note_answer(conn, at, seq);
            }
            Origin::Remote { shard, token } => self.answer_remote(shard, token, answer.piece()),
        }
    }

    /// Answers a request of a session that is there, with what another shard said.
    pub(super) fn answer_part(&mut self, conn: ConnId, at: SlotId, piece: Piece<'_>) {
        let durable = self.durable;
        let replies = &mut alive(&mut self.sessions, conn).expect("the caller has it").replies;
        let timings = &mut self.timings;
        let next = replies.fill_next(timings, durable, at, piece);
        let seq = next.unwrap_or_else(|| replies.fill(timings, durable, at, piece.to_answer()));
        self.note_answer(conn, at, seq);
    }

    /// An answer was filled in: the next request may wait for it, or for any that leaves.
    pub(super) fn note_answer(&mut self, conn: ConnId, at: SlotId, seq: Seq) {
        let own = Wait::Message(at.slot);
        let session = self.session(conn).expect("the caller has it");
        let wait = if session.wait == Some(own) { own } else { Wait::Replies };
        self.note_reply(conn, seq);
        self.go_on(conn, wait);
    }

    /// Gives back what was in [`Engine::scratch`].
    pub(super) fn keep_scratch(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        bytes.shrink_to(limits::POOLED_BUFFER_SIZE_MAX);
        self.scratch = bytes;
    }

    /// A reply was added: it is either to be sent or to be released later.
    pub(super) fn note_reply(&mut self, conn: ConnId, seq: Seq) {
        let durable = self.durable;
        let session = self.session(conn).expect("the caller has it");
        if session.replies.has_released() {
            self.mark_sendable(conn);
        }
        let session = self.session(conn).expect("the caller has it");
        if seq > durable && session.awaits < seq {
            session.awaits = seq;
            self.awaiting.push_back((seq, Awaiting::Conn(conn)));
        }
    }

    pub(super) fn release(&mut self, conn: ConnId) {
        let durable = self.durable;
        if let Some(session) = self.session(conn)
            && session.replies.release(durable)
        {
            self.mark_sendable(conn);
        }
    }

    pub(super) fn mark_sendable(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        if !session.sendable && !session.sending {
            session.sendable = true;
            self.effects.sends.push(conn);
        }
    }

    /// What is to be sent to a connection of [`Effects::sends`](super::Effects::sends); `spare` is an empty buffer. `Err` gives it back when the
    /// connection has nothing to send any more. `now_us`: monotonic µs, for what is measured.
    pub fn take_output(&mut self, conn: ConnId, spare: Vec<u8>, now_us: u64) -> Result<Vec<u8>, Vec<u8>> {
        let Some(session) = alive(&mut self.sessions, conn) else {
            return Err(spare);
        };
        session.sendable = false;
        if !session.replies.has_released() {
            return Err(spare);
        }
        session.sending = true;
        let bytes = session.replies.take_released(spare);
        let latency = &mut self.latency;
        session.replies.settle(&mut self.timings, |began, count| {
            latency.record(began.metric, now_us.saturating_sub(began.at_us), count);
        });
        session.taken += bytes.len() as u64;
        self.stats.bytes_written += bytes.len() as u64;
        if self.trace {
            self.trace_replies(conn, &bytes);
        }
        Ok(bytes)
    }

    /// The ring has sent what [`Engine::take_output`] gave.
    pub fn on_sent(&mut self, conn: ConnId) {
        let now_ms = self.now.mono_ms;
        if let Some(session) = self.session_to_the_end(conn) {
            session.sent = session.taken;
            if !session.passing.is_empty() {
                self.settle_sent(conn);
            }
        }
        let Some(session) = self.session(conn) else {
            return;
        };
        session.sending = false;
        session.active_ms = now_ms;
        if session.replies.has_released() {
            self.mark_sendable(conn);
        }
        self.go_on(conn, Wait::Replies);
    }

    /// Counts messages taken for a client that is gone.
    pub(super) fn count_unsent(&mut self, answer: &Answer) {
        for queue in &answer.hits {
            self.unsent(*queue);
        }
    }
}
