//! Direct hand-over: a put that meets a waiting get of this shard gives it the message without the journal.
//!
//! The get's reply must be the next that its connection sends; then `VALUE` leaves at once. When the kernel has taken all of it
//! the hand-over is *settled* and the putter is answered: a consumer has the message. When the connection goes before that, the
//! message goes back to its place and is journalled like any put; when the consumer is slow, it is journalled as put and
//! taken. docs/decisions/0015 says why.
//!
//! ```text
//!   put ─▶ handed over ─▶ sent whole ──────▶ settled: counted in the next record (Passed)
//!              ├────────▶ connection gone ─▶ returned: Put, before younger messages
//!              └────────▶ slow, or the queue's life or the server's is about to end ─▶ spent: Put and Take, or the Delete
//! ```
//!
//! Invariant: an unsettled message is in memory, in no queue, in no batch and in no counter; its queue lives; its consumer's
//! session has it in `passing`; and the store is not taken to have all messages up to it. Together they have a bounded size.
//!
//! Does not decide who is served: that is [`super::waiting`].

use super::{Engine, Fate, Origin, Waiter};
use crate::ids::{ConnId, MessageId, QueueId, Seq};
use crate::limits::{PASSED_MS_MAX, PASSED_QUEUES_MAX, PASSING_BODY_SIZE_MAX, PASSING_MS_MAX, PASSING_SIZE_MAX};
use crate::mutation::{Mutation, PASSED_SIZE, PUT_HEADER_SIZE, TAKE_SIZE};
use crate::proto::reply;
use crate::queue::Entry;
use crate::queue::memory::Place;
use crate::session::replies::Answer;
use crate::session::{Handed, Phase};
use std::collections::BTreeMap;

/// What is between putters and waiting clients.
#[derive(Default)]
pub(super) struct Passing {
    /// Handed over and not settled.
    unsettled: BTreeMap<MessageId, HandOver>,
    /// What these would take in a batch, bytes.
    size: usize,
    /// Returned to their queues, each with the batch of its put, which is not in the store.
    returned: BTreeMap<MessageId, Seq>,
    /// Queues with settled hand-overs that no batch counts.
    uncounted: Vec<QueueId>,
    /// When they are counted at the latest, monotonic ms.
    uncounted_until_ms: Option<u64>,
}

/// A message that its client may or may not get.
struct HandOver {
    queue: QueueId,
    place: Place,
    /// What it would take in a batch, bytes.
    size: usize,
    /// Who is to be told; nobody after a put with `noreply`.
    putter: Option<Origin>,
    /// When it is journalled after all, monotonic ms.
    deadline_ms: u64,
}

impl Passing {
    /// When something has to be done about slow clients or old counts, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        // They were handed over in the order of their ids, and all have the same time.
        let oldest = self.unsettled.first_key_value().map(|(_, it)| it.deadline_ms);
        oldest.into_iter().chain(self.uncounted_until_ms).min()
    }

    /// What was handed over and is not settled, of one queue.
    fn of(&self, queue: QueueId) -> Vec<MessageId> {
        let of_queue = self.unsettled.iter().filter(|(_, it)| it.queue == queue);
        of_queue.map(|(message, _)| *message).collect()
    }

    fn take(&mut self, message: MessageId) -> Option<HandOver> {
        let it = self.unsettled.remove(&message)?;
        self.size -= it.size;
        Some(it)
    }
}

impl Engine {
    // --- handing over ---

    /// Gives a body to the first of the line of a queue, if that client can be sent it at once.
    pub(super) fn hand_over(&mut self, index: u32, flags: u32, body: &[u8]) -> Option<MessageId> {
        let size = PUT_HEADER_SIZE + body.len() + TAKE_SIZE;
        if body.len() > PASSING_BODY_SIZE_MAX || self.passing.size + size > PASSING_SIZE_MAX || !self.has_durable_id() {
            return None;
        }
        let (consumer, waiter) = self.step_forward(index)?;
        let put = self.new_put(index, flags, 0, body);
        let place = self.memory.append(&put);
        let mut answer = Answer::default();
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        waiter.form.show(&mut answer.bytes, shelf, waiter.options(), flags, put.message, body);
        let deadline_ms = self.now.mono_ms + PASSING_MS_MAX;
        let it = HandOver { queue: put.queue, place, size, putter: None, deadline_ms };
        self.passing.unsettled.insert(put.message, it);
        self.passing.size += size;
        self.sizes.count(body.len());
        self.answer(waiter.origin, answer);
        let session = self.session(consumer).expect("it was there a moment ago");
        let end = session.replies.end();
        session.passing.push_back(Handed { end, message: put.message, queue: put.queue });
        let message = put.message;
        self.trace_message(index, message, Fate::HandedOver);
        Some(message)
    }

    /// Takes the first of a line out of it if it is a client of this shard and everything before its reply may be sent.
    fn step_forward(&mut self, index: u32) -> Option<(ConnId, Waiter)> {
        let (place, origin) = self.first_taker_in_line(index)?;
        let Origin::Local { conn, at } = origin else {
            return None;
        };
        if !self.session(conn).is_some_and(|session| session.replies.is_next(at.slot)) {
            return None;
        }
        Some((conn, self.leave_line(place)))
    }

    /// Whether the next id is from a range that a crash cannot make anyone use again: the client may see it.
    fn has_durable_id(&self) -> bool {
        self.ids.next < self.ids.end && self.ids_recorded.is_some_and(|seq| seq <= self.durable)
    }

    /// Who is to be told what becomes of a message that was handed over.
    pub(super) fn await_settlement(&mut self, message: MessageId, putter: Origin) {
        self.passing.unsettled.get_mut(&message).expect("it was handed over a moment ago").putter = Some(putter);
    }

    // --- what becomes of it ---

    /// The kernel has taken more of a connection's replies.
    pub(super) fn settle_sent(&mut self, conn: ConnId) {
        while let Some(session) = self.session_to_the_end(conn) {
            let sent = session.sent;
            let Some(handed) = session.passing.pop_front_if(|handed| handed.end <= sent) else {
                return;
            };
            self.settle(handed.message);
        }
    }

    /// A send has ended before its end, when the kernel had taken `sent` bytes of it.
    pub(super) fn end_send(&mut self, conn: ConnId, sent: usize) {
        if let Some(session) = self.session_to_the_end(conn) {
            session.sending = false;
            session.sent += sent as u64;
            self.settle_sent(conn);
        }
    }

    /// The connection is gone: what was handed over to it and cannot have arrived goes back. What the ring is sending is decided when
    /// that ends.
    pub(super) fn give_back_unsent(&mut self, conn: ConnId) {
        let Some(session) = self.session_to_the_end(conn) else {
            return;
        };
        assert!(session.phase == Phase::Closed, "who is there is still sent to");
        let undecided = if session.sending { session.taken } else { 0 };
        let first = session.passing.partition_point(|handed| handed.end <= undecided);
        let unsent: Vec<Handed> = session.passing.drain(first..).collect();
        unsent.into_iter().for_each(|handed| self.give_back(handed));
    }

    /// The client has it.
    fn settle(&mut self, message: MessageId) {
        // Otherwise it was spent already.
        let Some(it) = self.passing.take(message) else {
            return;
        };
        self.memory.release(it.place);
        let index = self.by_id[&it.queue];
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(index);
        shelf.meter.roll(now_ms, &shelf.queue.counters);
        shelf.queue.counters.apply(&Mutation::Passed { queue: it.queue, count: 1 });
        shelf.passed += 1;
        if shelf.passed == 1 {
            self.note_uncounted(it.queue);
        }
        self.stats.get_hits += 1;
        self.trace_message(index, message, Fate::Delivered);
        self.tell_putter(&it, Seq(0));
    }

    /// The client cannot have it any more. It goes to its place in the queue, or to whoever waits next.
    fn give_back(&mut self, handed: Handed) {
        let Some(it) = self.passing.take(handed.message) else {
            // It was spent when the client was slow, and the client has not seen it.
            return self.unsent(handed.queue);
        };
        let index = self.by_id[&it.queue];
        self.batch.extend_from_slice(self.memory.encoded(it.place));
        self.stats.mutations += 1;
        let put = self.memory.message(it.place);
        let queue = &mut self.shelves[index as usize].as_mut().expect("listed").queue;
        queue.counters.apply(&Mutation::Put(put));
        queue.put_back(Entry { message: handed.message, place: it.place }, put.body.len());
        self.stats.curr_items += 1;
        self.count_bytes(index);
        self.count_unconfirmed(index);
        if self.shelf(index).may_expire {
            self.note_expiring(index);
        }
        self.passing.returned.insert(handed.message, self.current());
        self.trace_message(index, handed.message, Fate::Returned);
        self.tell_putter(&it, self.current());
        self.serve_line(index);
    }

    /// The message is put and taken, the ordinary way, whatever becomes of the client.
    fn spend(&mut self, message: MessageId) {
        let Some(it) = self.passing.take(message) else {
            return;
        };
        let index = self.by_id[&it.queue];
        self.batch.extend_from_slice(self.memory.encoded(it.place));
        let take = Mutation::Take { queue: it.queue, message };
        take.encode(&mut self.batch);
        self.stats.mutations += 2;
        let put = self.memory.message(it.place);
        let counters = &mut self.shelves[index as usize].as_mut().expect("listed").queue.counters;
        counters.apply(&Mutation::Put(put));
        counters.apply(&take);
        self.memory.release(it.place);
        self.stats.get_hits += 1;
        self.trace_message(index, message, Fate::Returned);
        self.trace_message(index, message, Fate::Taken);
        self.tell_putter(&it, self.current());
    }

    fn tell_putter(&mut self, it: &HandOver, seq: Seq) {
        if let Some(putter) = it.putter {
            self.answer(putter, Answer { bytes: reply::STORED.to_vec(), seq, ..Answer::default() });
        }
    }

    /// Journals what slow clients have not taken, and counts that nothing else brought to the journal.
    pub(super) fn expire_passing(&mut self) {
        let now = self.now.mono_ms;
        while let Some((message, it)) = self.passing.unsettled.first_key_value()
            && it.deadline_ms <= now
        {
            self.spend(*message);
        }
        if self.passing.uncounted_until_ms.is_some_and(|at| at <= now) {
            self.count_passed();
        }
    }

    /// Journals everything that is not settled: what is asked for now must cover it.
    pub(super) fn journal_passing(&mut self) {
        while let Some((message, _)) = self.passing.unsettled.first_key_value() {
            self.spend(*message);
        }
    }

    /// The same for one queue.
    pub(super) fn journal_passing_of(&mut self, queue: QueueId) {
        self.passing.of(queue).into_iter().for_each(|message| self.spend(message));
    }

    /// A queue's life has ended, which was recorded: what was handed over before was accepted, and went with it.
    pub(super) fn drop_passing(&mut self, queue: QueueId) {
        for message in self.passing.of(queue) {
            let it = self.passing.take(message).expect("just seen");
            self.memory.release(it.place);
            self.stats.get_hits += 1;
            self.tell_putter(&it, self.current());
        }
    }

    // --- counting ---

    fn note_uncounted(&mut self, queue: QueueId) {
        self.passing.uncounted.push(queue);
        self.passing.uncounted_until_ms.get_or_insert(self.now.mono_ms + PASSED_MS_MAX);
        if self.passing.uncounted.len() >= PASSED_QUEUES_MAX {
            self.count_passed();
        }
    }

    /// What [`Engine::count_passed`] would add to the batch at most, bytes.
    pub(super) fn passed_size(&self) -> usize {
        self.passing.uncounted.len() * PASSED_SIZE
    }

    /// Records the counts of settled hand-overs.
    pub(super) fn count_passed(&mut self) {
        self.passing.uncounted_until_ms = None;
        let mut uncounted = std::mem::take(&mut self.passing.uncounted);
        for queue in uncounted.drain(..) {
            // A queue that was deleted has nothing to count.
            if let Some(&index) = self.by_id.get(&queue) {
                let count = std::mem::take(&mut self.shelf(index).passed);
                self.record(&Mutation::Passed { queue, count });
            }
        }
        self.passing.uncounted = uncounted;
    }

    // --- what the store has ---

    /// The store has all batches up to one whose ids end at `reached`. It does not have what is unsettled, and what was
    /// returned only with the batch that says so.
    pub(super) fn advance_stored_below(&mut self, reached: MessageId) {
        let stored = self.stored;
        self.passing.returned.retain(|_, seq| *seq > stored);
        let unsettled = self.passing.unsettled.first_key_value().map(|(message, _)| *message);
        let returned = self.passing.returned.first_key_value().map(|(message, _)| *message);
        let held = unsettled.into_iter().chain(returned).min();
        self.stored_below = self.stored_below.max(held.map_or(reached, |held| held.min(reached)));
    }

    /// Checks what is in passing against sessions, queues and counts. For tests.
    pub(super) fn assert_passing_consistent(&self) {
        let passing = &self.passing;
        assert_eq!(passing.size, passing.unsettled.values().map(|it| it.size).sum::<usize>());
        assert!(passing.size <= PASSING_SIZE_MAX, "what is in passing is bounded");
        let held: Vec<MessageId> =
            self.sessions.iter().flatten().flat_map(|s| &s.passing).map(|handed| handed.message).collect();
        for (message, it) in &passing.unsettled {
            assert!(*message >= self.stored_below, "the store does not have what is in passing");
            assert!(self.by_id.contains_key(&it.queue), "the queue of what is in passing lives");
            assert_eq!(self.memory.message(it.place).message, *message, "what is in passing is in memory");
            assert_eq!(held.iter().filter(|m| *m == message).count(), 1, "one client is to get what is in passing");
        }
        for (message, seq) in &passing.returned {
            assert!(*message >= self.stored_below, "the store does not have what has come back");
            assert!(*seq > self.stored);
        }
        for session in self.sessions.iter().flatten() {
            assert!(session.passing.iter().is_sorted_by_key(|handed| handed.end), "replies are in order");
            assert!(session.passing.iter().all(|handed| handed.end > session.sent), "what was sent is settled");
        }
        let passed = self.shelves.iter().flatten().filter(|shelf| shelf.passed > 0).count();
        let listed = passing.uncounted.iter().filter(|queue| self.by_id.contains_key(*queue)).count();
        assert_eq!(passed, listed, "what is not counted is listed");
        assert_eq!(passing.uncounted_until_ms.is_some(), !passing.uncounted.is_empty());
    }
}
