//! Open reads: messages that are handed out and leave their queue only when that is confirmed.
//!
//! The queue keeps who has opened what ([`crate::queue::Open`]), the session which of its reads is the oldest
//! ([`crate::session::reads`]). Where they differ, the queue is right: a read may have ended by its time, by its message's id, or with its queue. The numbers of
//! readings tell a late confirmation from one of the next reader's.
//!
//! ```text
//!   ready ─▶ open ─┬─▶ confirmed: recorded, gone
//!     ▲            └─▶ given back, its connection gone, its time over: recorded with how often it was delivered
//!     └──────────────────┘
//! ```
//!
//! Invariant: an open read is in no batch, so after a crash its message is ready; what is in `due` is open.
//!
//! Does not know why a message is next: that is [`crate::queue`].

use super::datagram::Form;
use super::execute::Given;
use super::forward::Confirmed;
use super::wire::Request;
use super::{Engine, Fate, Origin};
use crate::ids::{ConnId, MessageId, QueueId, Seq, ShardId};
use crate::latency::Metric;
use crate::mutation::{Mutation, Why};
use crate::proto::Dialect;
use crate::proto::options::GetOptions;
use crate::proto::reply;
use crate::queue::{Entry, Open};
use crate::session::Wait;
use crate::session::reads::Opened;
use crate::session::replies::{Answer, SlotId};
use smallvec::smallvec;
use std::collections::{BTreeSet, VecDeque};

/// Who reads, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reader {
    pub shard: ShardId,
    pub conn: ConnId,
    /// When the read ends by itself, s from when it is opened; 0: as the queue says.
    pub ttr_s: u32,
}

impl Reader {
    /// Whether the read outlives the reader's connection.
    pub fn is_detached(self) -> bool {
        self.ttr_s > 0
    }
}

/// How an open read ended that a client wanted to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// As it wanted, in this batch.
    Done(Seq),
    /// Its queue, or all that was in it, had gone before.
    Gone,
    /// Its time was over before.
    Expired,
}

/// The open reads of a shard that end by themselves.
#[derive(Default)]
pub(super) struct Due {
    by_time: BTreeSet<(u64, QueueId, MessageId)>,
    /// The number of the next reading.
    next_read: u64,
    /// What lost connections had open and has not returned yet, here and on other shards.
    returning: VecDeque<Opened>,
    returning_elsewhere: Vec<(ShardId, Opened)>,
}

impl Due {
    /// Whether something is to return before anybody is served.
    pub(super) fn is_returning(&self) -> bool {
        !self.returning.is_empty()
    }

    /// When the first of them ends, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.by_time.first().map(|(at, ..)| *at)
    }

    fn add(&mut self, queue: QueueId, message: MessageId, deadline_ms: u64) {
        if deadline_ms > 0 {
            self.by_time.insert((deadline_ms, queue, message));
        }
    }

    fn remove(&mut self, queue: QueueId, message: MessageId, deadline_ms: u64) {
        if deadline_ms > 0 {
            self.by_time.remove(&(deadline_ms, queue, message));
        }
    }
}

impl Engine {
    // --- requests of clients of this shard ---

    /// A get of one key with options.
    pub(super) fn serve_get_with(
        &mut self,
        conn: ConnId,
        name: &[u8],
        options: &GetOptions,
        cas: bool,
    ) -> Result<(), Wait> {
        let ends = options.close || options.abort;
        if !ends && !options.open {
            return self.serve_looking_get(conn, name, options, cas);
        }
        if self.is_datagram(conn) {
            // Nobody could confirm what a datagram has opened.
            self.say(conn, Seq(0), reply::ERROR);
            return Ok(());
        }
        let session = self.session(conn).expect("it is being served");
        // Which read is the oldest is known when those before are answered.
        if session.reads.as_ref().is_some_and(|reads| reads.is_opening(name)) {
            return Err(Wait::Replies);
        }
        if ends && !options.open {
            return self.serve_end(conn, name, options.close);
        }
        self.serve_open(conn, name, options, cas)
    }

    /// `q/close` or `q/abort`: ends the oldest open read.
    fn serve_end(&mut self, conn: ConnId, name: &[u8], confirms: bool) -> Result<(), Wait> {
        self.began.metric = if confirms { Metric::Close } else { Metric::Abort };
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
        }
        match self.pop_oldest(conn, name) {
            None => self.say(conn, Seq(0), reply::END),
            Some((shard, opened)) if shard == self.config.shard => {
                let (text, seq) = ending_reply(self.end_read(opened, confirms));
                self.say(conn, seq, text);
            }
            Some((shard, opened)) => {
                let what = self.expected(conn, false, b"");
                self.forward(shard, &Request::End { opened, confirms }, what);
            }
        }
        Ok(())
    }

    /// `q/open`, with or without a close before it.
    fn serve_open(&mut self, conn: ConnId, name: &[u8], options: &GetOptions, cas: bool) -> Result<(), Wait> {
        self.began.metric = Metric::Open;
        self.room_to_await(conn)?;
        let (owner, shard) = (self.owner(name), self.config.shard);
        if owner != shard {
            self.room_to_forward(conn, owner, name.len())?;
        }
        if !self.may_open(conn, name, options.close)? {
            self.say(conn, Seq(0), reply::TOO_MANY_OPEN_READS);
            return Ok(());
        }
        let closing = if options.close { self.pop_oldest(conn, name) } else { None };
        let reader = Reader { shard, conn, ttr_s: options.ttr_s.unwrap_or(0) };
        let form = Form { open: Some(reader), ..self.form(conn, cas, 0) };
        if owner == shard {
            if let Some((_, opened)) = closing
                && self.end_read(opened, true) == Ending::Expired
            {
                self.say(conn, Seq(0), reply::READ_EXPIRED);
                return Ok(());
            }
            if !options.waits() {
                return self.serve_local_get(conn, name, options.as_written(), form);
            }
        }
        let at = self.await_message(conn);
        let session = self.session(conn).expect("it is being served");
        session.reads.get_or_insert_default().begin(at, name);
        let closing = closing.map(|(_, opened)| opened);
        self.send_get(conn, at, name, options, form, closing);
        Ok(())
    }

    /// Whether a connection may open a read of a queue; `closes`: after it has closed its oldest, if it has one. In Kestrel's dialect the bound
    /// is for each queue, and was looked at before. `Err`: that depends on whether gets that are under way find a message.
    fn may_open(&mut self, conn: ConnId, name: &[u8], closes: bool) -> Result<bool, Wait> {
        let reads_max = self.config.tunables.open_reads_max;
        let session = self.session(conn).expect("it is being served");
        let Some(reads) = session.reads.as_ref().filter(|_| session.dialect != Dialect::Kestrel) else {
            return Ok(true);
        };
        let closed = usize::from(closes && reads.len_of(name) > 0);
        if reads.len() - closed < reads_max {
            return Ok(true);
        }
        if reads.open_len() - closed < reads_max { Err(Wait::Replies) } else { Ok(false) }
    }

    /// A get that takes or looks, and may wait.
    fn serve_looking_get(&mut self, conn: ConnId, name: &[u8], options: &GetOptions, cas: bool) -> Result<(), Wait> {
        if options.peek {
            self.began.metric = Metric::Other;
        } else if options.wait_ms.is_some() {
            self.began.metric = Metric::GetWait;
        }
        self.room_to_await(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
        }
        let form = Form { peek: options.peek, ..self.form(conn, cas, 0) };
        if owner == self.config.shard && !options.waits() {
            return self.serve_local_get(conn, name, options.as_written(), form);
        }
        let at = self.await_message(conn);
        self.send_get(conn, at, name, options, form, None);
        Ok(())
    }

    /// A get whose answer comes from elsewhere or later. If it may wait, later requests of the connection wait until it is answered.
    pub(super) fn send_get(
        &mut self,
        conn: ConnId,
        at: SlotId,
        name: &[u8],
        options: &GetOptions,
        form: Form,
        closing: Option<Opened>,
    ) {
        let owner = self.owner(name);
        if options.waits() && !form.is_bounded() {
            self.session(conn).expect("it is being served").wait = Some(Wait::Message(at.slot));
        }
        if owner == self.config.shard {
            self.get_or_wait(name, options, form, Origin::Local { conn, at });
        } else {
            self.forward_get_with(owner, conn, at, name, options, form, closing);
        }
        if self.session(conn).is_some_and(|session| session.sends_no_more()) {
            self.end_wait_of(conn);
        }
    }

    pub(super) fn pop_oldest(&mut self, conn: ConnId, name: &[u8]) -> Option<(ShardId, Opened)> {
        self.session(conn).expect("it is being served").reads.as_mut()?.pop_oldest(name)
    }

    /// `delete q/id=ID`: confirms an open read, whoever has it.
    pub(super) fn serve_confirm(
        &mut self,
        conn: ConnId,
        name: &[u8],
        message: MessageId,
        noreply: bool,
    ) -> Result<(), Wait> {
        self.began.metric = Metric::Close;
        let owner = self.owner(name);
        if owner != self.config.shard {
            return self.ask_owner(conn, owner, &Request::Confirm { name, message }, name.len(), noreply);
        }
        let (text, seq) = self.confirm_by_id(name, message);
        if !noreply {
            self.say(conn, seq, text);
        }
        Ok(())
    }

    /// `touch q/id=ID seconds`: sets when an open read ends by itself, whoever has it.
    pub(super) fn serve_touch(
        &mut self,
        conn: ConnId,
        name: &[u8],
        message: MessageId,
        seconds: u32,
        noreply: bool,
    ) -> Result<(), Wait> {
        let owner = self.owner(name);
        if owner != self.config.shard {
            return self.ask_owner(conn, owner, &Request::Touch { name, message, seconds }, name.len(), noreply);
        }
        let text = self.touch(name, message, seconds);
        if !noreply {
            self.say(conn, Seq(0), text);
        }
        Ok(())
    }

    /// The answer to a get of this connection is there.
    pub(super) fn note_opened(&mut self, conn: ConnId, at: SlotId, shard: ShardId, opened: Option<Opened>) {
        if let Some(reads) = self.session(conn).and_then(|session| session.reads.as_mut()) {
            reads.end(at, shard, opened);
            self.note_monitored(conn, at, opened.is_some());
        }
    }

    /// A connection is gone: what it has open returns, in its places, before anybody is served.
    pub(super) fn return_reads_of(&mut self, conn: ConnId) {
        let Some(mut reads) = self.session_to_the_end(conn).and_then(|session| session.reads.take()) else { return };
        let mut opened: Vec<_> = reads.drain().filter(|(_, opened)| !opened.is_detached).collect();
        // Who waits for a message gets the oldest, not the one that was read first.
        opened.sort_unstable_by_key(|(_, opened)| opened.message);
        for (shard, opened) in opened {
            if shard == self.config.shard {
                self.due.returning.push_back(opened);
            } else {
                self.due.returning_elsewhere.push((shard, opened));
            }
        }
        self.return_reads();
    }

    /// Tells other shards what is to return there: after they were told which gets are cancelled, so that a lost connection that waits
    /// for more is not first in the line for what it gives back.
    pub(super) fn tell_returns(&mut self) {
        for (shard, opened) in std::mem::take(&mut self.due.returning_elsewhere) {
            self.tell(shard, &Request::Return { opened });
        }
    }

    /// Returns what lost connections had open. There may be more of it than a batch can hold: then nobody is served until that is handed
    /// on, and the rest has returned.
    pub(super) fn return_reads(&mut self) {
        while self.has_room_in_batch()
            && let Some(opened) = self.due.returning.pop_front()
        {
            self.take_back(opened);
        }
    }

    /// The same, of what found no room in the batch before.
    pub(super) fn go_on_returning(&mut self) {
        if self.due.is_returning() {
            self.return_reads();
            if !self.due.is_returning() {
                self.wake_memory_waiters();
            }
        }
    }

    // --- queues of this shard ---

    /// Opens the head, which is `entry`, for a reader, and writes its `VALUE` block.
    pub(super) fn open_head(
        &mut self,
        index: u32,
        entry: Entry,
        options: &[u8],
        form: Form,
        reader: Reader,
        out: &mut Vec<u8>,
    ) -> Given {
        let put = self.memory.message(entry.place);
        let (put_ms, size) = (put.put_ms, put.body.len() as u64);
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        form.show(out, shelf, options, put.flags, entry.message, put.body);
        let is_detached = reader.is_detached();
        let ttr_s = if is_detached { u64::from(reader.ttr_s) } else { shelf.visibility_timeout_s() };
        let deadline_ms = if ttr_s == 0 { 0 } else { self.now.mono_ms.saturating_add(ttr_s.saturating_mul(1000)) };
        let read = self.due.next_read;
        self.due.next_read += 1;
        let Reader { shard, conn, .. } = reader;
        let place = Some(entry.place);
        shelf.queue.open(Open { read, shard, conn, is_detached, deadline_ms, place, size });
        let queue = shelf.queue.id;
        self.due.add(queue, entry.message, deadline_ms);
        self.stats.get_hits += 1;
        self.stats.open_reads += 1;
        self.stats.detached_reads += u64::from(is_detached);
        self.latency.record(Metric::Queued, self.now.wall_ms.saturating_sub(put_ms) * 1000, 1);
        self.trace_message(index, entry.message, Fate::Opened);
        self.count_unconfirmed(index);
        self.learn_bytes(index);
        self.load_ahead(index);
        Given::Opened(Opened { queue, message: entry.message, read, is_detached })
    }

    /// Whether a get of this form may have the head of a queue, as far as the bounds go that all connections share: on reads that outlive
    /// theirs, and on what is open or has come back. A message that has come back is counted already, and so is never held back by the latter.
    pub(super) fn may_open_head(&self, index: u32, form: Form) -> bool {
        let Some(reader) = form.open else { return true };
        let tunables = &self.config.tunables;
        let may_detach = !reader.is_detached() || self.stats.detached_reads < tunables.detached_reads_max as u64;
        let queue = &self.shelves[index as usize].as_ref().expect("the caller found it").queue;
        may_detach && (self.stats.unconfirmed < tunables.unconfirmed_max as u64 || queue.has_returned_head())
    }

    /// Ends an open read as its reader wants it, if it is still open.
    pub(super) fn end_read(&mut self, opened: Opened, confirms: bool) -> Ending {
        let Some(&index) = self.by_id.get(&opened.queue) else { return Ending::Gone };
        let queue = &mut self.shelf(index).queue;
        if queue.was_cleared(opened.message) {
            return Ending::Gone;
        }
        if queue.opened(opened.message).is_none_or(|open| open.read != opened.read) {
            return Ending::Expired;
        }
        if confirms {
            self.confirm(index, opened.message);
        } else {
            self.give_back_read(index, opened.message);
            self.serve_line(index);
        }
        Ending::Done(self.newest())
    }

    /// A client of this or another shard is gone: its read returns, if it is still open.
    pub(super) fn take_back(&mut self, opened: Opened) {
        let Some(index) = self.by_id.get(&opened.queue).copied() else { return };
        let open = self.shelf(index).queue.opened(opened.message);
        if !opened.is_detached && open.is_some_and(|open| open.read == opened.read) {
            self.give_back_read(index, opened.message);
            self.serve_line(index);
        }
    }

    fn confirm(&mut self, index: u32, message: MessageId) -> Open {
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(index);
        shelf.asked_ms = now_ms;
        let open = shelf.queue.confirm(message);
        let id = shelf.queue.id;
        self.due.remove(id, message, open.deadline_ms);
        if let Some(place) = open.place {
            self.memory.release(place);
        }
        self.stats.open_reads -= 1;
        self.stats.detached_reads -= u64::from(open.is_detached);
        self.depart(index, message, open.size, Why::Got);
        self.trace_message(index, message, Fate::Confirmed);
        open
    }

    fn give_back_read(&mut self, index: u32, message: MessageId) {
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(index);
        shelf.asked_ms = now_ms;
        let queue = &mut shelf.queue;
        let Open { deadline_ms, is_detached, .. } = *queue.opened(message).expect("the caller saw that it is open");
        let deliveries = queue.give_back(message);
        let id = queue.id;
        self.due.remove(id, message, deadline_ms);
        self.record(&Mutation::Return { queue: id, message, deliveries });
        self.stats.open_reads -= 1;
        self.stats.detached_reads -= u64::from(is_detached);
        self.stats.returned_reads += 1;
        self.trace_message(index, message, Fate::GivenBack);
    }

    /// What to answer to `delete q/id=ID`, and what that waits for.
    pub(super) fn confirm_by_id(&mut self, name: &[u8], message: MessageId) -> (&'static [u8], Seq) {
        let Some(index) = self.find(name) else { return (reply::NOT_FOUND, Seq(0)) };
        if self.shelf(index).queue.opened(message).is_none() {
            return (reply::NOT_FOUND, Seq(0));
        }
        let Open { read, shard, conn, .. } = self.confirm(index, message);
        if shard == self.config.shard {
            self.forget_read(conn, message, read);
        } else {
            self.lanes[usize::from(shard.0)].confirmed.push(Confirmed { conn, message, read });
        }
        (reply::DELETED, self.current())
    }

    /// A read of this connection was confirmed from elsewhere.
    pub(super) fn forget_read(&mut self, conn: ConnId, message: MessageId, read: u64) {
        if let Some(reads) = self.session(conn).and_then(|session| session.reads.as_mut()) {
            reads.forget(message, read);
        }
    }

    /// What to answer to `touch q/id=ID seconds`.
    pub(super) fn touch(&mut self, name: &[u8], message: MessageId, seconds: u32) -> &'static [u8] {
        let now_ms = self.now.mono_ms;
        let Some(index) = self.find(name) else { return reply::NOT_FOUND };
        let queue = &mut self.shelf(index).queue;
        let id = queue.id;
        let Some(open) = queue.opened(message) else { return reply::NOT_FOUND };
        let before = open.deadline_ms;
        // 0 would be a read that never ends by itself.
        let deadline_ms = (now_ms + u64::from(seconds) * 1000).max(1);
        open.deadline_ms = deadline_ms;
        self.due.remove(id, message, before);
        self.due.add(id, message, deadline_ms);
        reply::TOUCHED
    }

    /// Ends the reads whose time is over, as far as the batch has room.
    pub(super) fn expire_reads(&mut self) {
        let now_ms = self.now.mono_ms;
        while let Some((_, queue, message)) = self.due.by_time.first().copied().filter(|(at, ..)| *at <= now_ms)
            && self.has_room_in_batch()
        {
            let index = self.by_id[&queue];
            self.give_back_read(index, message);
            self.serve_line(index);
        }
    }

    /// All open reads of a queue are about to go with their messages.
    pub(super) fn drop_reads(&mut self, index: u32) {
        let Engine { shelves, due, stats, .. } = self;
        let queue = &shelves[index as usize].as_ref().expect("the caller found it").queue;
        for (message, open) in queue.opens() {
            due.remove(queue.id, message, open.deadline_ms);
            stats.detached_reads -= u64::from(open.is_detached);
        }
    }

    /// A get was answered for nobody: what it opened returns, what it took is spent.
    pub(super) fn undo_answer(&mut self, answer: &Answer) {
        if let Some(opened) = answer.opened {
            self.take_back(opened);
        }
        self.count_unsent(answer);
    }

    /// Checks open reads against what is due. For tests.
    pub(super) fn assert_reads_consistent(&self) {
        let (mut due, mut open, mut detached, mut unconfirmed) = (0, 0, 0, 0);
        for shelf in self.shelves.iter().flatten() {
            for (message, open) in shelf.queue.opens() {
                let is_due = self.due.by_time.contains(&(open.deadline_ms, shelf.queue.id, message));
                assert_eq!(is_due, open.deadline_ms > 0, "what ends by itself is due");
                assert!(open.read < self.due.next_read, "readings are numbered");
                due += usize::from(is_due);
                detached += u64::from(open.is_detached);
            }
            open += shelf.queue.open_len();
            unconfirmed += shelf.queue.unconfirmed_len();
        }
        assert_eq!(due, self.due.by_time.len(), "what is due is open");
        assert_eq!(open, self.stats.open_reads, "open reads are counted");
        assert_eq!(detached, self.stats.detached_reads, "and those that are not tied to a connection");
        assert_eq!(unconfirmed, self.stats.unconfirmed, "what is open or has come back is counted");
    }
}

/// What to say to who ends a read, and what that waits for.
pub(super) fn ending_reply(ending: Ending) -> (&'static [u8], Seq) {
    match ending {
        Ending::Done(seq) => (reply::END, seq),
        Ending::Gone => (reply::END, Seq(0)),
        Ending::Expired => (reply::READ_EXPIRED, Seq(0)),
    }
}

/// What an answer has of a message that was given.
pub(super) fn answer_of(given: Given, bytes: Vec<u8>, seq: Seq) -> Answer {
    let mut answer = Answer { bytes, seq, ..Answer::default() };
    match given {
        Given::Taken(queue) => answer.hits = smallvec![queue],
        Given::Opened(opened) => answer.opened = Some(opened),
        Given::Shown => {}
    }
    answer
}
