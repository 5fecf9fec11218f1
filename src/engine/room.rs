//! The bounds: memory for messages, and for bodies on their way in.
//!
//! A shard's share of `-m` is spent on messages that the store has not confirmed, which cannot be given back early, and on
//! messages kept in memory so that gets need not load them, which can. The first kind may use half the share (each such message
//! exists twice: here, and in the batch on its way to the store); puts wait beyond that. When both together pass half the
//! share, stored messages are spilled, those needed last first.
//!
//! Invariant: bytes of both kinds stay below the share plus the largest message.

use super::Engine;
use crate::ids::{ConnId, MessageId};
use crate::limits::BATCH_SIZE;
use crate::session::Wait;

impl Engine {
    /// Bytes the store may have unconfirmed before puts wait.
    pub(super) fn unstored_size_max(&self) -> usize {
        self.config.memory_share / 2
    }

    /// Whether a put may be accepted now.
    pub(super) fn has_room_for(&self, size: usize) -> bool {
        let unstored = self.unstored_size + self.batch.len();
        !self.puts_wait && !self.is_batch_full() && (unstored == 0 || unstored + size <= self.unstored_size_max())
    }

    /// Whether the batch must be handed on before anybody is served: it has to fit one record.
    pub(super) fn is_batch_full(&self) -> bool {
        !self.has_room_in_batch() || self.due.is_returning()
    }

    /// Whether the batch takes more.
    pub(super) fn has_room_in_batch(&self) -> bool {
        self.batch.len() < BATCH_SIZE
    }

    /// How much one load brings, bytes: a sixteenth of the share, so that several queues can be drained at once.
    pub(super) fn load_size(&self) -> usize {
        (self.config.memory_share / 16).clamp(64 << 10, 1 << 20)
    }

    /// Spills stored messages until memory is within its bound.
    pub(super) fn relieve_memory(&mut self) {
        let bound = self.config.memory_share / 2;
        while self.memory.used() > bound {
            let newest = self.memory.newest_appended(self.stored_below);
            // The newest load is kept: someone waits for it.
            let Some(segment) = newest.or_else(|| self.memory.oldest_loaded(1)) else {
                return;
            };
            self.spill(segment);
        }
    }

    /// Empties one segment. Whatever of the same queues is newer and stored leaves memory with it, since a queue's middle
    /// is one range.
    fn spill(&mut self, segment: u32) {
        for (queue, message) in self.memory.messages_of(segment) {
            if self.memory.is_free(segment) {
                return;
            }
            if let Some(&index) = self.by_id.get(&queue) {
                for reader in self.readers_of(index) {
                    self.spill_reader(reader, message);
                }
            }
        }
        assert!(self.memory.is_free(segment), "every live message is in its queue");
    }

    /// Of one reader of a queue, everything from this message on that is stored leaves memory.
    fn spill_reader(&mut self, index: u32, message: MessageId) {
        let shelf = self.shelves[index as usize].as_mut().expect("listed");
        // What is open, or has come back, is in no range.
        match shelf.queue.evict(message) {
            Some(place) => self.memory.release(place),
            None => shelf.queue.spill(message, self.stored_below, |entry| self.memory.release(entry.place)),
        }
    }

    // --- bodies ---

    /// Sets room aside for a body that is being received. `false`: there is none now.
    pub(super) fn reserve_body(&mut self, conn: ConnId, size: usize) -> bool {
        let budget = self.config.body_size_max.max(self.config.memory_share / 4);
        if self.bodies_reserved > 0 && self.bodies_reserved + size > budget {
            return false;
        }
        let session = self.session(conn).expect("it is being served");
        assert_eq!(session.reserved, 0, "a session receives one body at a time");
        session.reserved = size;
        self.bodies_reserved += size;
        true
    }

    /// The body has become a message, or its connection is gone.
    pub(super) fn free_body(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        let reserved = std::mem::take(&mut session.reserved);
        if reserved == 0 {
            return;
        }
        session.deadline_ms = 0;
        self.bodies_reserved -= reserved;
        // Those that waited look again in their order; whoever finds no room goes to the end of the line.
        for _ in 0..self.body_waiters.len() {
            let conn = self.body_waiters.pop_front().expect("counted");
            self.go_on(conn, Wait::Body);
        }
    }
}
