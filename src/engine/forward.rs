//! Requests for queues of other shards, and their answers.
//!
//! What a turn has for another shard goes in at most one piece of mail of each kind. A request carries a token under which its sender remembers what
//! the answer is for; every token is answered exactly once. Requests from one shard to another are executed in order;
//! answers may come in any order, each only when what it reports is durable.
//!
//! Invariant: bytes of requests sent to a shard and not yet answered stay below [`FORWARDED_SIZE_MAX`] plus one request, so
//! no mailbox grows without bound and nobody blocks on another shard. Gets that wait for a message do not count, since they
//! would take the room for as long as they wait: each connection has one at most.
//!
//! Step 4 and step 8 of a message's path, for queues of other shards.

use super::datagram::Form;
use super::execute::{GetResult, Given, PutResult};
use super::reads::{Ending, ending_reply};
use super::wire::{Bytes, Request, decode, decode_answer, encode, encode_answer};
use super::{Awaiting, Engine, Origin, Waiter};
use crate::ids::{ConnId, MessageId, Seq, ShardId};
use crate::latency::Metric;
use crate::limits::{FORWARDED_SIZE_MAX, LANE_SPARE_MAX, LANE_SPARE_SIZE_MAX, REQUESTS_PER_TURN};
use crate::proto::options::GetOptions;
use crate::proto::reply;
use crate::session::Wait;
use crate::session::reads::Opened;
use crate::session::replies::{Answer, Piece, Replies, SlotId};
use smallvec::smallvec;
use std::collections::VecDeque;

/// What one shard sends another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mail {
    /// Requests, back to back.
    Requests(Vec<u8>),
    /// Answers, back to back.
    Answers(Vec<u8>),
    /// Reads of connections there that were confirmed by their ids. They wait behind nothing, for once the answer to that is out, nobody may
    /// find one any more.
    Confirmed(Vec<Confirmed>),
}

/// A read that was confirmed from elsewhere than its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// Whose it was.
    pub conn: ConnId,
    /// The message, which is gone.
    pub message: MessageId,
    /// Which reading of it.
    pub read: u64,
}

/// Traffic with one other shard.
#[derive(Default)]
pub(super) struct Lane {
    /// Requests of this turn.
    outbox: Vec<u8>,
    /// Reads of the other shard's connections that were confirmed in this turn.
    pub confirmed: Vec<Confirmed>,
    /// Bytes of requests not yet answered.
    under_way: usize,
    /// Requests of the other shard still to be executed, with how far the first piece is done.
    inbound: VecDeque<Vec<u8>>,
    inbound_done: usize,
    /// The next inbound request waits for memory.
    is_stalled: bool,
    /// A transfer from there was refused, and so is every one until the sender begins again.
    refuses_transfers: bool,
    /// Answers to the other shard, waiting for durability.
    pub answers: Replies,
    awaits: Seq,
    /// Empty buffers, in which mail came.
    spare: Vec<Vec<u8>>,
}

impl Lane {
    /// Keeps the buffer of mail that was dealt with, for mail to send.
    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < LANE_SPARE_MAX && buffer.capacity() <= LANE_SPARE_SIZE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// What the answers of other shards are for.
#[derive(Default)]
pub(super) struct PendingTable {
    entries: Vec<Option<Pending>>,
    free: Vec<u32>,
}

struct Pending {
    shard: ShardId,
    size: usize,
    what: Expected,
    /// When the request was handed over, monotonic µs.
    at_us: u64,
    /// The other shard was told that nobody waits for the answer any more.
    is_cancelled: bool,
}

/// What is done with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    /// Fills a piece of a reply.
    Part { conn: ConnId, at: SlotId },
    /// Nobody waits for it; it only returns the credit.
    Nothing,
    /// Counts for `stats`.
    Stats { conn: ConnId },
    /// The next piece of a listing.
    Listing { conn: ConnId },
    /// Says whether the transfer with this number was accepted.
    Moved { number: u64 },
}

/// Token of a request that wants no answer.
const NO_TOKEN: u32 = u32::MAX;

impl PendingTable {
    fn insert(&mut self, pending: Pending) -> u32 {
        match self.free.pop() {
            Some(token) => {
                self.entries[token as usize] = Some(pending);
                token
            }
            None => {
                self.entries.push(Some(pending));
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 requests under way")
            }
        }
    }

    fn remove(&mut self, token: u32) -> Pending {
        self.free.push(token);
        self.entries[token as usize].take().expect("a token is answered once")
    }
}

impl Engine {
    // --- sending requests ---

    /// Whether a request may go to a shard now; if not, the session is entered in the list of those waiting for that.
    pub(super) fn room_to_forward(&mut self, conn: ConnId, to: ShardId, size: usize) -> Result<(), Wait> {
        if !self.lane_has_room(to, size) {
            self.forward_waiters[usize::from(to.0)].push(conn);
            return Err(Wait::Forward);
        }
        Ok(())
    }

    pub(super) fn lane_has_room(&self, to: ShardId, size: usize) -> bool {
        let under_way = self.lanes[usize::from(to.0)].under_way;
        under_way == 0 || under_way + size <= FORWARDED_SIZE_MAX
    }

    /// Asks the shard of a queue for a whole reply of about so many bytes of request. Whoever wants none says `noreply`.
    pub(super) fn ask_owner(
        &mut self,
        conn: ConnId,
        owner: ShardId,
        request: &Request<'_>,
        size: usize,
        noreply: bool,
    ) -> Result<(), Wait> {
        self.room_to_forward(conn, owner, size)?;
        let what = self.expected(conn, noreply, b"");
        self.forward(owner, request, what);
        Ok(())
    }

    pub(super) fn forward_get(&mut self, conn: ConnId, owner: ShardId, at: SlotId, name: &[u8], form: Form) {
        self.forward(owner, &Request::Get { name, form }, Expected::Part { conn, at });
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward_get_with(
        &mut self,
        owner: ShardId,
        conn: ConnId,
        at: SlotId,
        name: &[u8],
        options: &GetOptions,
        form: Form,
        closing: Option<Opened>,
    ) {
        let request = Request::GetWith { name, options: *options, form, closing };
        self.forward(owner, &request, Expected::Part { conn, at });
    }

    /// The place for a whole reply that comes from elsewhere.
    pub(super) fn expected(&mut self, conn: ConnId, noreply: bool, ending: &'static [u8]) -> Expected {
        if noreply {
            return Expected::Nothing;
        }
        let slot = self.open_slot(conn, smallvec![None], ending);
        Expected::Part { conn, at: SlotId { slot, part: 0 } }
    }

    /// Puts a request into the outbox of a shard.
    pub(super) fn forward(&mut self, to: ShardId, request: &Request<'_>, what: Expected) {
        let lane = &mut self.lanes[usize::from(to.0)];
        let start = lane.outbox.len();
        lane.outbox.extend_from_slice(&[0; 4]);
        encode(request, &mut lane.outbox);
        let size = lane.outbox.len() - start;
        let size = if matches!(request, Request::GetWith { options, .. } if options.waits()) { 0 } else { size };
        lane.under_way += size;
        let at_us = self.now.mono_us;
        let token = self.pending.insert(Pending { shard: to, size, what, at_us, is_cancelled: false });
        lane.outbox[start..start + 4].copy_from_slice(&token.to_le_bytes());
    }

    /// A request that has no answer and so no credit: small and bounded by what it refers to.
    pub(super) fn tell(&mut self, to: ShardId, request: &Request<'_>) {
        let outbox = &mut self.lanes[usize::from(to.0)].outbox;
        outbox.extend_from_slice(&NO_TOKEN.to_le_bytes());
        encode(request, outbox);
    }

    /// Connections are gone, or wait for no message any more: their requests that wait on other shards shall take nothing. Once a
    /// turn for all of them, so that many connections that close together are not each a search.
    fn cancel_forwarded(&mut self) {
        for token in 0..self.pending.entries.len() {
            let Some(Pending { shard, what: Expected::Part { conn, at }, is_cancelled: false, .. }) =
                self.pending.entries[token]
            else {
                continue;
            };
            if self.session(conn).is_none_or(|s| s.sends_no_more() && s.wait == Some(Wait::Message(at.slot))) {
                self.pending.entries[token].as_mut().expect("just seen").is_cancelled = true;
                self.tell(shard, &Request::Cancel { token: token as u32 });
            }
        }
    }

    /// What is to be delivered to other shards now.
    pub fn take_mail(&mut self, mut deliver: impl FnMut(ShardId, Mail)) {
        if std::mem::take(&mut self.cancels_due) {
            self.cancel_forwarded();
        }
        self.tell_returns();
        self.send_moves();
        // First to all shards: of what is answered to one of them another may have to know.
        for (shard, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.confirmed.is_empty()) {
            deliver(ShardId(shard as u16), Mail::Confirmed(std::mem::take(&mut lane.confirmed)));
        }
        for (shard, lane) in self.lanes.iter_mut().enumerate() {
            let shard = ShardId(shard as u16);
            if !lane.outbox.is_empty() {
                let spare = lane.spare.pop().unwrap_or_default();
                deliver(shard, Mail::Requests(std::mem::replace(&mut lane.outbox, spare)));
            }
            if lane.answers.has_released() {
                let spare = lane.spare.pop().unwrap_or_default();
                deliver(shard, Mail::Answers(lane.answers.take_released(spare)));
            }
        }
    }

    // --- receiving ---

    /// Mail from another shard.
    pub fn on_mail(&mut self, from: ShardId, mail: Mail) {
        match mail {
            Mail::Requests(bytes) => {
                self.lanes[usize::from(from.0)].inbound.push_back(bytes);
                self.run_lane(from);
            }
            Mail::Answers(bytes) => {
                self.take_answers(from, &bytes);
                self.lanes[usize::from(from.0)].recycle(bytes);
            }
            Mail::Confirmed(reads) => {
                reads.iter().for_each(|it| self.forget_read(it.conn, it.message, it.read));
            }
        }
    }

    /// Whether requests of other shards can be executed. A lane that waits for memory is woken when there is some.
    pub(super) fn has_inbound(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.inbound.is_empty() && !lane.is_stalled)
    }

    pub(super) fn wake_lanes(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.is_stalled = false);
    }

    pub(super) fn run_inbound(&mut self) {
        for shard in 0..self.config.shards {
            self.run_lane(ShardId(shard));
        }
    }

    /// Executes requests of another shard in order, until there are no more, the turn's share is used, or a put must wait
    /// for memory.
    fn run_lane(&mut self, from: ShardId) {
        let lane = usize::from(from.0);
        let mut left = 4 * REQUESTS_PER_TURN;
        while let Some(bytes) = self.lanes[lane].inbound.pop_front() {
            let mut done = std::mem::take(&mut self.lanes[lane].inbound_done);
            while done < bytes.len() {
                let mut reader = Bytes { rest: &bytes[done..] };
                let token = reader.u32();
                let request = decode(&mut reader);
                let stalled = self.is_batch_full()
                    || matches!(request, Request::Put { body, .. } | Request::Transfer { body, .. } if !self.has_room_for(body.len()));
                if stalled || left == 0 {
                    self.lanes[lane].inbound.push_front(bytes);
                    self.lanes[lane].inbound_done = done;
                    self.lanes[lane].is_stalled = stalled;
                    return;
                }
                left -= 1;
                self.execute_remote(from, token, request);
                done = bytes.len() - reader.rest.len();
            }
            self.lanes[lane].recycle(bytes);
        }
    }

    fn execute_remote(&mut self, from: ShardId, token: u32, request: Request<'_>) {
        let mut answer = Answer { bytes: std::mem::take(&mut self.scratch), ..Answer::default() };
        if self.execute_for(from, token, request, &mut answer) {
            self.answer_remote(from, token, answer.piece());
        }
        self.keep_scratch(answer.bytes);
    }

    /// `false`: it is answered later, or not at all.
    fn execute_for(&mut self, from: ShardId, token: u32, request: Request<'_>, answer: &mut Answer) -> bool {
        let origin = Origin::Remote { shard: from, token };
        match request {
            Request::Put { flags, lifetime, name, body } => match self.put(name, flags, lifetime, body) {
                PutResult::Done { reply, seq } => {
                    answer.bytes.extend_from_slice(reply);
                    answer.seq = seq;
                }
                PutResult::Passing(message) => {
                    self.await_settlement(message, origin);
                    return false;
                }
            },
            Request::Get { name, form } => match self.get(name, b"", form, &mut answer.bytes) {
                GetResult::Hit(given) => {
                    if let Given::Taken(queue) = given {
                        answer.hits.push(queue);
                    }
                    answer.seq = self.newest();
                }
                GetResult::Miss => {}
                GetResult::NoGroup => answer.failure = Some(reply::NOT_FOUND),
                GetResult::Refused(reply) => answer.failure = Some(reply),
                GetResult::MustWait(index) => {
                    self.wait_for_load(index, Waiter::plain(origin, form));
                    return false;
                }
            },
            Request::GetWith { name, options, form, closing } => {
                let ending = closing.map(|opened| self.end_read(opened, true));
                if ending == Some(Ending::Expired) {
                    answer.failure = Some(reply::READ_EXPIRED);
                    return true;
                }
                self.get_or_wait(name, &options, form, origin);
                return false;
            }
            Request::End { opened, confirms } => {
                let (text, seq) = ending_reply(self.end_read(opened, confirms));
                answer.bytes.extend_from_slice(text);
                answer.seq = seq;
            }
            Request::Confirm { name, message } => {
                let (text, seq) = self.confirm_by_id(name, message);
                answer.bytes.extend_from_slice(text);
                answer.seq = seq;
            }
            Request::Touch { name, message, seconds } => {
                answer.bytes.extend_from_slice(self.touch(name, message, seconds));
            }
            Request::Return { opened } => {
                self.take_back(opened);
                return false;
            }
            Request::Delete { name } => {
                if self.delete(name) {
                    answer.bytes.extend_from_slice(reply::DELETED);
                    answer.seq = self.current();
                } else {
                    answer.bytes.extend_from_slice(reply::NOT_FOUND);
                }
            }
            Request::FlushQueue { name } => {
                self.flush_queue(name);
                answer.bytes.extend_from_slice(reply::END);
                answer.seq = self.newest();
            }
            Request::Configure { name, words } => {
                let (text, seq) = self.configure(name, words);
                answer.bytes.extend_from_slice(text);
                answer.seq = seq;
            }
            Request::ShowSettings { name } => self.show_settings(name, &mut answer.bytes),
            Request::Flush => {
                self.flush();
                answer.seq = self.newest();
            }
            Request::Checkpoint => {
                self.checkpoint(origin);
                return false;
            }
            Request::Stats(report) => self.report(report, &mut answer.bytes),
            Request::StatsReset => self.stats.reset(),
            Request::LatencyReset => self.latency.reset(),
            Request::List { what, cursor } => {
                answer.bytes.extend_from_slice(&[0; 4]);
                let next = self.list(what, cursor, &mut answer.bytes);
                answer.bytes[..4].copy_from_slice(&next.to_le_bytes());
            }
            Request::StatQueue { name, key, room } => {
                self.stat_queue(name, key, &mut answer.bytes);
                if answer.bytes.len() + reply::END.len() > room as usize {
                    answer.bytes.clear();
                    answer.failure = Some(reply::REPLY_TOO_LARGE);
                }
            }
            Request::Cancel { token } => {
                self.cancel_wait(from, token);
                if let Some(queue) = self.remote_waiters.get(&(from, token)).copied() {
                    self.cancel_waiter(Origin::Remote { shard: from, token }, queue);
                }
                return false;
            }
            Request::Unsent { queue } => {
                self.unsent(queue);
                return false;
            }
            Request::Transfer { source, number, begins_again, flags, target, body } => {
                let lane = &mut self.lanes[usize::from(from.0)];
                lane.refuses_transfers = self.refusing_puts || lane.refuses_transfers && !begins_again;
                if lane.refuses_transfers {
                    answer.bytes.extend_from_slice(reply::OUT_OF_STORAGE);
                } else {
                    answer.seq = self.accept(source, number, target, flags, body);
                    answer.bytes.extend_from_slice(reply::STORED);
                }
            }
            Request::Kestrel { ask, payload } => self.execute_kestrel(ask, payload, answer),
        }
        true
    }

    /// The batch that covers everything that was changed so far; what was never sealed counts too.
    pub(super) fn newest(&self) -> Seq {
        if self.batch.is_empty() { self.sealed } else { self.current() }
    }

    // --- answering ---

    pub(super) fn answer_remote(&mut self, to: ShardId, token: u32, answer: Piece<'_>) {
        let durable = self.durable;
        let index = usize::from(to.0);
        let lane = &mut self.lanes[index];
        lane.answers.push(&mut self.timings, durable, answer.seq, &[], None, |out| encode_answer(token, answer, out));
        if answer.seq > durable && lane.awaits < answer.seq {
            lane.awaits = answer.seq;
            self.awaiting.push_back((answer.seq, Awaiting::Lane(to.0)));
        }
    }

    fn take_answers(&mut self, from: ShardId, bytes: &[u8]) {
        let mut reader = Bytes { rest: bytes };
        while !reader.rest.is_empty() {
            let (token, queue, answer) = decode_answer(&mut reader);
            let hits = queue.as_slice();
            let answer = Piece { hits, ..answer };
            let opened = answer.opened;
            let pending = self.pending.remove(token);
            assert_eq!(pending.shard, from, "an answer comes from where the request went");
            self.lanes[usize::from(from.0)].under_way -= pending.size;
            // A wait for a message is no time on the way.
            if pending.size > 0 {
                self.latency.record(Metric::Forward, self.now.mono_us.saturating_sub(pending.at_us), 1);
            }
            match pending.what {
                Expected::Part { conn, at } if self.session(conn).is_some() => {
                    self.note_opened(conn, at, from, opened);
                    self.answer_part(conn, at, answer);
                }
                Expected::Part { .. } => {
                    if let Some(opened) = opened.filter(|opened| !opened.is_detached) {
                        self.tell(from, &Request::Return { opened });
                    }
                    hits.iter().for_each(|queue| self.tell(from, &Request::Unsent { queue: *queue }));
                }
                Expected::Nothing => {}
                Expected::Stats { conn } => self.gather_report(conn, from, answer.bytes),
                Expected::Listing { conn } => self.continue_listing(conn, answer.bytes),
                Expected::Moved { number } => self.on_transferred(from, number, answer.bytes == reply::STORED),
            }
        }
        let waiters = std::mem::take(&mut self.forward_waiters[usize::from(from.0)]);
        waiters.into_iter().for_each(|conn| self.go_on(conn, Wait::Forward));
    }
}
