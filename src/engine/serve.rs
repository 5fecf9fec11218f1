//! Running sessions: bytes in, requests executed or forwarded, replies queued, connections ended.
//!
//! A request either completes and its bytes leave the input, or it has to wait and stays at the front of the input,
//! unparsed, until what it waits for may have come; then it is looked at again from the start.
//!
//! Invariant: a session that is open and whose input may hold a whole request is either runnable or waiting for something
//! that will make it so.
//!
//! Step 2 to 4 of a message's path.

use super::datagram::Form;
use super::execute::{GetResult, Given, PutResult};
use super::kestrel::DROPPED;
use super::wire::Request;
use super::{Engine, Notice, Origin, Waiter, alive};
use crate::ids::{ConnId, Seq};
use crate::latency::Metric;
use crate::limits::{
    AWAITED_GETS_MAX, AWAITED_GETS_MIN, BODY_STALL_MS_MAX, INPUT_SIZE_MAX, OUTPUT_SIZE_MAX, POOLED_BUFFER_SIZE_MAX,
    REQUESTS_PER_TURN,
};
use crate::proto::Dialect;
use crate::proto::command::{Command, Keys, SetLine};
use crate::proto::key::Names;
use crate::proto::options::{GetOptions, reader_name};
use crate::proto::reply;
use crate::session::frame::{Frame, frame, kestrel_frame};
use crate::session::replies::{Parts, SlotId};
use crate::session::{Listed, Phase, Session, Wait};
use smallvec::smallvec;

/// What a look at the front of the input led to.
pub(super) enum Step {
    /// A request was served; it took this many bytes.
    Served(usize),
    /// A part of a request was served, which stays at the front of the input.
    Again,
    /// The request has to wait.
    Wait(Wait),
    /// There is no whole request.
    Partial { need: usize, body_size: usize },
    /// No more requests are served.
    Finished,
}

impl Engine {
    /// A connection was accepted.
    pub fn on_open(&mut self, conn: ConnId, dialect: Dialect) {
        self.open(conn, None);
        self.session(conn).expect("just opened").dialect = dialect;
        self.stats.curr_connections += 1;
        self.stats.total_connections += 1;
        if self.stopping {
            self.effects.read_ends.push(conn);
        }
    }

    pub(super) fn open(&mut self, conn: ConnId, reply_size_max: Option<usize>) {
        let reply_size_max = reply_size_max.map(Box::new);
        let index = conn.index as usize;
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        assert!(self.sessions[index].is_none(), "a slot is reused only after on_closed");
        self.sessions[index] = Some(Session { reply_size_max, ..Session::new(conn.generation, self.now.mono_ms) });
    }

    /// A connection was refused because there are too many.
    pub fn on_rejected(&mut self) {
        self.stats.rejected_connections += 1;
    }

    /// Whether clients are accepted, for the shard that does: not, for want of files.
    pub fn on_accepting(&mut self, accepting: bool) {
        self.stats.accept_pauses += u64::from(!accepting);
        self.stats.accept_paused = u64::from(!accepting);
    }

    /// Bytes were received.
    pub fn on_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.stats.bytes_read += bytes.len() as u64;
        let now_us = self.now.mono_us;
        let now_ms = self.now.mono_ms;
        let Some(session) = self.session(conn) else {
            return;
        };
        session.active_ms = now_ms;
        if !session.is_serving() {
            return;
        }
        if std::mem::take(&mut session.fresh) && bytes.first() == Some(&0x80) {
            self.effects.notices.push(Notice::BinaryProtocol(conn));
            return self.finish(conn);
        }
        let bytes = skip(session, bytes);
        session.received_us = now_us;
        self.began.at_us = now_us;
        let session = self.session(conn).expect("just seen");
        if session.input.is_empty() && session.wait.is_none() {
            // The usual case: whole requests, served from where they were received.
            let (served, budget_left) = self.serve(conn, bytes, REQUESTS_PER_TURN);
            self.keep(conn, &bytes[served..], budget_left);
        } else {
            session.input.extend_from_slice(bytes);
            if session.wait.is_none() && session.input.len() >= session.need {
                self.make_runnable(conn);
            } else if session.reserved > 0 {
                self.set_deadline(conn, BODY_STALL_MS_MAX);
            }
        }
        self.regulate(conn);
    }

    /// The client sends no more.
    pub fn on_eof(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn) else {
            return;
        };
        session.eof = true;
        match session.phase {
            Phase::Open => {
                session.phase = Phase::Draining;
                if session.wait == Some(Wait::Body) {
                    session.wait = None;
                }
                self.end_wait_of(conn);
                self.make_runnable(conn);
            }
            Phase::Lingering => self.close(conn),
            Phase::Draining | Phase::Finishing | Phase::Closed => {}
        }
    }

    /// The connection is broken: nothing can be received or sent any more.
    pub fn on_lost(&mut self, conn: ConnId) {
        if self.session(conn).is_some() {
            self.close(conn);
        }
    }

    /// A send failed after the kernel had taken `sent` bytes of it: nothing can be sent any more.
    pub fn on_send_failed(&mut self, conn: ConnId, sent: usize) {
        self.end_send(conn, sent);
        self.on_lost(conn);
        self.give_back_unsent(conn);
    }

    /// The ring has let go of the connection: its slot may be reused. Of a send that this cut off, the kernel had taken `sent`
    /// bytes.
    pub fn on_closed(&mut self, conn: ConnId, sent: usize) {
        self.end_send(conn, sent);
        self.give_back_unsent(conn);
        let session = self.sessions[conn.index as usize].take().expect("a connection has a session until it is closed");
        assert!(session.generation == conn.generation && session.phase == Phase::Closed);
        self.stats.curr_connections -= u64::from(session.reply_size_max.is_none());
    }

    /// Whether [`Engine::run`] has something to do at once.
    pub fn has_work(&self) -> bool {
        let is_returning = self.due.is_returning() && self.has_room_in_batch();
        let unsettled = (self.expiry.has_unsettled() || self.group_rules.has_unsettled()) && !self.is_batch_full();
        let is_busy = is_returning || unsettled || self.moves.has_work();
        !self.runnable.is_empty() || self.has_inbound() || self.idle.is_under_way() || is_busy
    }

    /// Goes on with what waited for its turn.
    pub fn run(&mut self) {
        self.go_on_returning();
        self.expire_deadlines();
        self.expire_waits();
        self.expire_reads();
        self.expire_messages();
        self.settle_unsettled_groups();
        self.end_groups();
        self.expire_passing();
        self.close_idle();
        self.run_inbound();
        for _ in 0..self.runnable.len() {
            let conn = self.runnable.pop_front().expect("counted");
            let Some(session) = self.session(conn) else {
                continue;
            };
            session.runnable = false;
            self.run_session(conn);
        }
        self.run_moves();
        self.relieve_memory();
    }

    fn run_session(&mut self, conn: ConnId) {
        if self.go_on_listing(conn) {
            let session = self.session(conn).expect("it runs");
            if session.is_serving() && session.wait.is_none() && !session.input.is_empty() {
                let input = std::mem::take(&mut session.input);
                self.began.at_us = session.received_us;
                let (served, budget_left) = self.serve(conn, &input, REQUESTS_PER_TURN);
                self.put_back(conn, input, served, budget_left);
            }
        }
        self.regulate(conn);
        self.finish_if_done(conn);
    }

    /// Serves requests from the front of `bytes`: how many bytes that took, and whether the turn ended before its work.
    fn serve(&mut self, conn: ConnId, bytes: &[u8], requests_max: usize) -> (usize, bool) {
        let mut served = 0;
        for _ in 0..requests_max {
            let session = self.session(conn).expect("the caller has it");
            if served == bytes.len() {
                return (served, false);
            }
            // The messages of a multi-get under way are held until it is whole: it has its own bound.
            if session.replies.size() >= OUTPUT_SIZE_MAX && session.multi_get.is_none() {
                session.wait = Some(Wait::Replies);
                return (served, false);
            }
            if self.is_batch_full() {
                self.wait_for(conn, Wait::Memory);
                return (served, false);
            }
            match self.admit_request(conn) {
                Ok(None) => {}
                Ok(wait) => {
                    self.session(conn).expect("it is being served").wait = wait;
                    return (served, false);
                }
                Err(()) => return (bytes.len(), false),
            }
            match self.step(conn, &bytes[served..]) {
                Step::Served(len) => {
                    self.trace_command(conn, &bytes[served..]);
                    served = (served + len).min(bytes.len());
                    let session = self.session(conn).expect("serving does not close");
                    if session.skip > 0 {
                        served = bytes.len() - skip(session, &bytes[served..]).len();
                    }
                    if !session.is_serving() {
                        return (bytes.len(), false);
                    }
                    if session.wait.is_some() {
                        return (served, false);
                    }
                }
                Step::Again => {
                    if self.session(conn).is_none_or(|session| session.wait.is_some()) {
                        return (served, false);
                    }
                }
                Step::Wait(wait) => {
                    self.wait_for(conn, wait);
                    return (served, false);
                }
                Step::Partial { need, body_size } => {
                    self.expect(conn, need, body_size);
                    return (served, false);
                }
                Step::Finished => {
                    self.trace_command(conn, &bytes[served..]);
                    return (bytes.len(), false);
                }
            }
        }
        (served, served < bytes.len())
    }

    /// Looks at the front of the input and serves one request if there is one that need not wait.
    fn step(&mut self, conn: ConnId, input: &[u8]) -> Step {
        let body_size_max = self.config.body_size_max;
        let names = Names { reader_separator: self.config.reader_separator };
        match self.session(conn).expect("it is being served").dialect {
            Dialect::MemcacheQ => self.serve_frame(
                conn,
                frame(input, body_size_max, names),
                |engine, set, body| engine.serve_put(conn, &set, body),
                |engine, command| engine.serve_command(conn, command).map(|()| true),
            ),
            Dialect::Kestrel => self.serve_frame(
                conn,
                kestrel_frame(input, body_size_max),
                |engine, set, body| engine.serve_kestrel_put(conn, &set, body),
                |engine, command| engine.serve_kestrel(conn, command),
            ),
        }
    }

    /// Serves what stands at the front of the input, in whichever dialect. A command's `Ok(false)`: it was served in part.
    #[inline]
    fn serve_frame<C, S>(
        &mut self,
        conn: ConnId,
        frame: Frame<'_, C, S>,
        serve_put: impl FnOnce(&mut Self, S, &[u8]) -> Result<(), Wait>,
        serve_command: impl FnOnce(&mut Self, C) -> Result<bool, Wait>,
    ) -> Step {
        match frame {
            Frame::Partial { need, body_size } => Step::Partial { need, body_size },
            Frame::Put { set, body, len } => match serve_put(self, set, body) {
                Ok(()) => {
                    self.free_body(conn);
                    Step::Served(len)
                }
                Err(wait) => Step::Wait(wait),
            },
            Frame::Command { command, len } => match serve_command(self, command) {
                Ok(true) => Step::Served(len),
                Ok(false) => Step::Again,
                Err(wait) => Step::Wait(wait),
            },
            Frame::Refused { reply, skip, len } => {
                self.began.metric = Metric::Other;
                self.say(conn, Seq(0), reply);
                self.session(conn).expect("serving does not close").skip = skip;
                Step::Served(len)
            }
            Frame::Fatal { reply } => {
                self.began.metric = Metric::Other;
                let dialect = self.session(conn).expect("it is being served").dialect;
                // Who is told nothing is a browser, or speaks Kestrel's dialect in a way that Kestrel does not answer.
                let why = if reply.is_empty() && dialect == Dialect::Kestrel { DROPPED } else { reply };
                self.effects.notices.push(Notice::Unusable { conn, reply: why });
                self.say_and_close(conn, reply);
                Step::Finished
            }
        }
    }

    pub(super) fn serve_put(&mut self, conn: ConnId, set: &SetLine<'_>, body: &[u8]) -> Result<(), Wait> {
        self.began.metric = Metric::Put;
        let owner = self.owner(set.key.name);
        if owner != self.config.shard {
            let request = Request::Put { flags: set.flags, lifetime: set.lifetime, name: set.key.name, body };
            return self.ask_owner(conn, owner, &request, body.len(), set.noreply);
        }
        if !self.has_room_for(body.len()) {
            return Err(Wait::Memory);
        }
        match self.put(set.key.name, set.flags, set.lifetime, body) {
            PutResult::Done { reply, seq } if !set.noreply => {
                self.say(conn, seq, reply);
            }
            PutResult::Passing(message) if !set.noreply => {
                let at = SlotId { slot: self.open_slot(conn, smallvec![None], b""), part: 0 };
                self.await_settlement(message, Origin::Local { conn, at });
            }
            PutResult::Done { .. } | PutResult::Passing(_) => {}
        }
        Ok(())
    }

    fn serve_command(&mut self, conn: ConnId, command: Command<'_>) -> Result<(), Wait> {
        self.began.metric = metric_of(&command);
        match command {
            Command::Get { keys, cas } => return self.serve_get(conn, keys, cas),
            Command::GetWith { key, options, cas } => {
                return self.serve_get_with(conn, &reader_name(key.name, options.group()), &options, cas);
            }
            Command::Confirm { key, group, message, noreply } => {
                return self.serve_confirm(conn, &reader_name(key.name, group), message, noreply);
            }
            Command::Touch { key, group, message, seconds, noreply } => {
                return self.serve_touch(conn, &reader_name(key.name, group), message, seconds, noreply);
            }
            Command::Delete { key, group, noreply } => {
                return self.serve_delete(conn, &reader_name(key.name, group), noreply);
            }
            Command::Flush { key, group, noreply } => {
                return self.serve_flush_queue(conn, &reader_name(key.name, group), noreply);
            }
            Command::Configure { key, words, noreply } => return self.serve_configure(conn, key.name, words, noreply),
            Command::ShowSettings { key } => return self.serve_show_settings(conn, key.name),
            Command::FlushAll { is_valid: true, noreply } if self.config.tunables.flush_all => {
                return self.serve_flush(conn, if noreply { b"" } else { reply::OK });
            }
            Command::FlushAll { is_valid: false, .. } if self.config.tunables.flush_all => {
                self.say(conn, Seq(0), reply::BAD_FORMAT);
            }
            Command::FlushAll { noreply: true, .. } => {}
            Command::Stats(report) => return self.serve_report(conn, report),
            Command::StatsReset => return self.serve_reset(conn),
            Command::StatsLatencyReset => return self.serve_latency_reset(conn),
            Command::StatsSettings => return self.serve_settings(conn),
            Command::StatsQueues => return self.serve_listing(conn, Listed::Queues),
            Command::StatsConnections => return self.serve_listing(conn, Listed::Connections),
            Command::StatsQueue { key, group, word } => {
                return self.serve_stat_queue(conn, &reader_name(key.name, group), word);
            }
            // Nobody who asked by a datagram still listens when it is done, and on a full disk that may be never.
            Command::Checkpoint if self.is_datagram(conn) => {
                self.say(conn, Seq(0), reply::ERROR);
            }
            Command::Checkpoint => return self.serve_checkpoint(conn),
            Command::Version => self.reply(conn, Seq(0), &[], reply::version),
            Command::Verbosity { level, noreply } => {
                self.effects.verbosity = Some(level);
                let text: &[u8] = if noreply { b"" } else { reply::OK };
                self.say(conn, Seq(0), text);
            }
            Command::Quit => self.finish(conn),
            Command::Shutdown if self.config.tunables.shutdown => {
                self.effects.shutdown = true;
                self.finish(conn);
            }
            Command::FlushAll { .. } | Command::Shutdown => {
                self.say(conn, Seq(0), reply::ERROR);
            }
        }
        Ok(())
    }

    fn serve_get(&mut self, conn: ConnId, keys: Keys<'_>, cas: bool) -> Result<(), Wait> {
        let mut rest = keys;
        let first = rest.next().expect("a get has a key");
        if rest.next().is_some() {
            return self.serve_multi_get(conn, keys, cas);
        }
        let form = self.form(conn, cas, 0);
        self.serve_one_get(conn, first.name, form)
    }

    fn serve_one_get(&mut self, conn: ConnId, name: &[u8], form: Form) -> Result<(), Wait> {
        self.room_to_await(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
            let at = self.await_message(conn);
            self.forward_get(conn, owner, at, name, form);
            return Ok(());
        }
        self.serve_local_get(conn, name, b"", form)
    }

    /// A message of this shard that is in memory is written straight into the reply. Everything else is put together from pieces.
    pub(super) fn serve_local_get(
        &mut self,
        conn: ConnId,
        name: &[u8],
        options: &[u8],
        form: Form,
    ) -> Result<(), Wait> {
        let mut block = std::mem::take(&mut self.scratch);
        match self.get(name, options, form, &mut block) {
            GetResult::Hit(given) => {
                let seq = self.newest();
                let taken = match given {
                    Given::Taken(queue) => Some(queue),
                    Given::Opened(opened) => {
                        let shard = self.config.shard;
                        let reads = &mut self.session(conn).expect("it is being served").reads;
                        reads.get_or_insert_default().add(name, shard, opened);
                        None
                    }
                    Given::Shown => None,
                };
                self.reply(conn, seq, taken.as_slice(), |out| {
                    out.extend_from_slice(&block);
                    out.extend_from_slice(reply::END);
                });
            }
            GetResult::Miss => {
                if self.began.metric == Metric::GetHit {
                    self.began.metric = Metric::GetMiss;
                }
                // A read may have been confirmed before.
                let seq = if form.open.is_some() { self.newest() } else { Seq(0) };
                self.say(conn, seq, reply::END);
            }
            GetResult::NoGroup => self.say(conn, Seq(0), reply::NOT_FOUND),
            GetResult::Refused(text) => {
                let seq = if form.open.is_some() { self.newest() } else { Seq(0) };
                self.say(conn, seq, text);
            }
            GetResult::MustWait(index) => {
                let at = self.await_message(conn);
                let mut waiter = Waiter::plain(Origin::Local { conn, at }, form);
                if !options.is_empty() {
                    waiter.options = Some(Box::new(GetOptions::parse(options).expect("they were parsed before")));
                }
                if form.open.is_some() {
                    let reads = &mut self.session(conn).expect("it is being served").reads;
                    reads.get_or_insert_default().begin(at, name);
                }
                self.wait_for_load(index, waiter);
            }
        }
        self.keep_scratch(block);
        Ok(())
    }

    /// A reply that is one message, which comes from elsewhere.
    pub(super) fn await_message(&mut self, conn: ConnId) -> SlotId {
        let (durable, began) = (self.durable, Some(self.began));
        let replies = &mut alive(&mut self.sessions, conn).expect("it is being served").replies;
        let slot = replies.push_get(Parts::new(), reply::END, began);
        let at = replies.add_part(slot, None);
        replies.close(&mut self.timings, durable, slot);
        at
    }

    /// Whether one more message may be awaited for a client: how large it will be is not known.
    pub(super) fn room_to_await(&mut self, conn: ConnId) -> Result<(), Wait> {
        let awaited_max = (OUTPUT_SIZE_MAX / self.config.body_size_max).clamp(AWAITED_GETS_MIN, AWAITED_GETS_MAX);
        let session = self.session(conn).expect("it is being served");
        if session.replies.awaited() >= awaited_max { Err(Wait::Replies) } else { Ok(()) }
    }

    fn serve_delete(&mut self, conn: ConnId, name: &[u8], noreply: bool) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            return self.ask_owner(conn, owner, &Request::Delete { name }, name.len(), noreply);
        }
        let (text, seq) = if self.delete(name) { (reply::DELETED, self.current()) } else { (reply::NOT_FOUND, Seq(0)) };
        if !noreply {
            self.say(conn, seq, text);
        }
        Ok(())
    }

    fn serve_flush_queue(&mut self, conn: ConnId, name: &[u8], noreply: bool) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            return self.ask_owner(conn, owner, &Request::FlushQueue { name }, name.len(), noreply);
        }
        self.flush_queue(name);
        let seq = self.newest();
        if !noreply {
            self.say(conn, seq, reply::END);
        }
        Ok(())
    }

    /// Requests whose effect depends on all earlier ones of the connection wait until those have been executed, on whatever
    /// shard.
    pub(super) fn wait_for_own_replies(&mut self, conn: ConnId) -> Result<(), Wait> {
        let session = self.session(conn).expect("it is being served");
        if session.replies.waiting() > 0 { Err(Wait::Replies) } else { Ok(()) }
    }

    pub(super) fn open_slot(&mut self, conn: ConnId, parts: Parts, ending: &'static [u8]) -> u64 {
        let began = Some(self.began);
        self.session(conn).expect("it is being served").replies.push_waiting(parts, ending, began)
    }

    // --- waiting and going on ---

    fn wait_for(&mut self, conn: ConnId, wait: Wait) {
        self.session(conn).expect("it is being served").wait = Some(wait);
        match wait {
            Wait::Memory => self.memory_waiters.push(conn),
            Wait::Body => self.body_waiters.push_back(conn),
            // The forward path enters its own list, per shard; own replies come back to the session by themselves.
            Wait::Forward | Wait::Replies | Wait::Message(_) => {}
        }
    }

    /// What the session may have waited for has come.
    pub(super) fn go_on(&mut self, conn: ConnId, what: Wait) {
        let has_gather = !self.gathers.is_empty() && self.gathers.contains_key(&conn.index);
        if let Some(session) = self.session(conn) {
            if session.wait == Some(what) && session.listing.is_none() && !has_gather {
                session.wait = None;
                self.make_runnable(conn);
            } else if session.phase != Phase::Open || session.listing.is_some() {
                self.make_runnable(conn);
            }
        }
    }

    pub(super) fn make_runnable(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn) else {
            return;
        };
        if !session.runnable {
            session.runnable = true;
            self.runnable.push_back(conn);
        }
    }

    /// The front of the input is not a whole request: how much of it there must be, and for a body, room is reserved.
    fn expect(&mut self, conn: ConnId, need: usize, body_size: usize) {
        let session = self.session(conn).expect("it is being served");
        session.need = need;
        if body_size == 0 || session.phase != Phase::Open {
            return;
        }
        if session.reserved > 0 || self.reserve_body(conn, body_size) {
            self.set_deadline(conn, BODY_STALL_MS_MAX);
        } else {
            self.wait_for(conn, Wait::Body);
        }
    }

    /// Keeps what was received and not served.
    fn keep(&mut self, conn: ConnId, rest: &[u8], more_to_do: bool) {
        let session = self.session(conn).expect("serving does not close");
        if rest.is_empty() {
            session.need = 0;
        } else if session.is_serving() {
            session.input.extend_from_slice(rest);
            if more_to_do {
                self.make_runnable(conn);
            }
        }
        self.finish_if_done(conn);
    }

    fn put_back(&mut self, conn: ConnId, mut input: Vec<u8>, served: usize, more_to_do: bool) {
        let session = self.session(conn).expect("serving does not close");
        debug_assert!(session.input.is_empty());
        if served == input.len() {
            input.clear();
            session.need = 0;
        } else {
            input.drain(..served);
        }
        if input.is_empty() || input.capacity() > 4 * input.len() + POOLED_BUFFER_SIZE_MAX {
            input.shrink_to_fit();
        }
        session.input = input;
        if more_to_do {
            self.make_runnable(conn);
        }
    }

    /// Stops receiving from a connection that has enough to be served, and starts again when it has not. While it is stopped, the ring looks
    /// whether the client is still there; so it is stopped, too, where nothing is left to receive and something is waited for.
    fn regulate(&mut self, conn: ConnId) {
        let Some(session) = self.session(conn) else {
            return;
        };
        let waits = session.wait.is_some() || session.runnable;
        let has_enough = session.input.len() >= INPUT_SIZE_MAX.max(session.need);
        let pause = match session.phase {
            Phase::Open => waits && has_enough || session.wait == Some(Wait::Body),
            // There is no client at the other end of a datagram's socket.
            Phase::Draining => session.wait.is_some() && session.reply_size_max.is_none(),
            Phase::Finishing | Phase::Lingering | Phase::Closed => session.paused,
        };
        if pause != session.paused {
            session.paused = pause;
            self.effects.pauses.push((conn, pause));
        }
    }
}

/// What a command is measured as. A get is taken for one that finds something until it is known.
fn metric_of(command: &Command<'_>) -> Metric {
    match command {
        Command::Get { .. } => Metric::GetHit,
        // What it is depends on its options.
        Command::GetWith { .. } => Metric::GetHit,
        Command::Confirm { .. } => Metric::Close,
        Command::Delete { .. } => Metric::Delete,
        Command::Flush { .. } | Command::FlushAll { .. } => Metric::Flush,
        Command::Checkpoint => Metric::Sync,
        Command::Stats(_)
        | Command::StatsReset
        | Command::StatsLatencyReset
        | Command::StatsSettings
        | Command::StatsQueues
        | Command::StatsConnections
        | Command::StatsQueue { .. } => Metric::Stats,
        Command::Configure { .. }
        | Command::ShowSettings { .. }
        | Command::Touch { .. }
        | Command::Version
        | Command::Verbosity { .. }
        | Command::Quit
        | Command::Shutdown => Metric::Other,
    }
}

/// Throws away the part of `bytes` that belongs to a refused body; returns the rest.
fn skip<'a>(session: &mut Session, bytes: &'a [u8]) -> &'a [u8] {
    let skipped = session.skip.min(bytes.len() as u64);
    session.skip -= skipped;
    &bytes[skipped as usize..]
}
