//! `stats` and its kin, and what else asks all shards at once.
//!
//! A reply that needs every shard is put together by the session's own shard. Such requests wait for the session's earlier
//! ones, and later ones wait for them. A listing is made piece by piece, and the next piece only when the client has
//! room for it, so neither the number of queues nor a client that does not read costs memory.

use super::forward::Expected;
use super::wire::Request;
use super::{Engine, Origin};
use crate::ids::{ConnId, QueueId, Seq, ShardId};
use crate::latency::Snapshot;
use crate::limits::{LISTING_LEN_MAX, LISTING_SIZE_MAX, OUTPUT_SIZE_MAX};
use crate::proto::command::Report;
use crate::proto::reply;
use crate::queue::{Counters, Settings};
use crate::session::replies::{Answer, Parts, SlotId};
use crate::session::timing::Began;
use crate::session::{Listed, Listing, Phase, Wait};
use crate::stats::{self, Host, JournalStats, ShardStats, Sizes};
use smallvec::smallvec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A `stats` reply being put together.
pub(super) struct Gather {
    report: Report,
    /// What the shards said, each at its place.
    answers: Vec<Vec<u8>>,
    missing: u16,
    host: Option<Host>,
    began: Began,
}

/// A queue as others see it.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueView {
    /// Its id.
    pub queue: QueueId,
    /// Its name.
    pub name: Box<[u8]>,
    /// What has happened to its messages.
    pub counters: Counters,
    /// Messages that a get can take.
    pub ready: u64,
    /// Messages that were read and are neither confirmed nor given back.
    pub open: u64,
    /// Messages on their way to another queue.
    pub moving: u64,
    /// The bodies of all these, bytes.
    pub bytes: u64,
    /// Puts a second, lately.
    pub put_rate: f64,
    /// Gets a second, lately.
    pub get_rate: f64,
    /// Age of the oldest message, ms. `None`: there is none, or it is not known yet.
    pub oldest_ms: Option<u64>,
    /// Gets that wait for a message.
    pub waiters: u64,
    /// Puts that its limits refused, since the start.
    pub refused_puts: u64,
    /// What it does besides keeping messages, if anything.
    pub settings: Option<Box<Settings>>,
}

/// One queue in a few numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueSummary {
    /// Its name.
    pub name: Vec<u8>,
    /// Messages that a get can take.
    pub ready: u64,
    /// Messages accepted since it was made.
    pub puts: u64,
    /// Messages taken since then.
    pub gets: u64,
}

impl Engine {
    /// The queues with the most messages, at most `len`, the largest first; empty ones are left out. Takes time in the number of queues.
    pub fn largest_queues(&self, len: usize) -> Vec<QueueSummary> {
        let mut largest: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::with_capacity(len + 1);
        for (index, shelf) in self.shelves.iter().enumerate() {
            let ready = shelf.as_ref().map_or(0, |shelf| shelf.queue.len());
            if ready > 0 {
                largest.push(Reverse((ready, index)));
                if largest.len() > len {
                    largest.pop();
                }
            }
        }
        let summary = |Reverse((ready, index)): Reverse<(u64, usize)>| {
            let queue = &self.shelves[index].as_ref().expect("just seen").queue;
            QueueSummary { name: queue.name.to_vec(), ready, puts: queue.counters.puts, gets: queue.counters.gets }
        };
        largest.into_sorted_vec().into_iter().map(summary).collect()
    }

    /// What this shard counts.
    pub fn shard_stats(&self) -> ShardStats {
        let JournalStats { records, bytes, used, capacity, writes, unstored, checkpoints } = self.journal;
        ShardStats {
            memory_used: self.memory.used() as u64,
            waiters: self.waits.len() as u64,
            journal_records: records,
            journal_bytes: bytes,
            journal_used: used,
            journal_capacity: capacity,
            journal_writes: writes,
            unstored_bytes: unstored,
            checkpoints,
            ..self.stats
        }
    }

    /// This shard's part of a report.
    pub(super) fn report(&mut self, report: Report, out: &mut Vec<u8>) {
        match report {
            Report::General | Report::Shards => self.shard_stats().encode(out),
            Report::Latency => self.latency.encode(out),
            Report::Commit => {
                self.shard_stats().encode(out);
                self.latency.encode(out);
            }
            Report::Sizes => self.sizes.encode(out),
            Report::Kestrel => self.shard_stats().encode(out),
            Report::FlushExpired => out.extend_from_slice(&self.flush_all_expired().to_le_bytes()),
        }
    }

    /// `stats` where all shards have a part in it.
    pub(super) fn serve_report(&mut self, conn: ConnId, report: Report) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let shards = self.config.shards;
        let mut answers = vec![Vec::new(); usize::from(shards)];
        self.report(report, &mut answers[usize::from(self.config.shard.0)]);
        let gather = Gather { report, answers, missing: shards - 1, host: None, began: self.began };
        self.gathers.insert(conn.index, gather);
        self.effects.hosts.push(conn);
        for shard in self.other_shards() {
            self.forward(shard, &Request::Stats(report), Expected::Stats { conn });
        }
        self.session(conn).expect("it is being served").wait = Some(Wait::Replies);
        Ok(())
    }

    /// What only the impure side knows, for a connection of [`super::Effects::hosts`].
    pub fn on_host(&mut self, conn: ConnId, host: Host) {
        if self.session(conn).is_some()
            && let Some(gather) = self.gathers.get_mut(&conn.index)
        {
            gather.host = Some(host);
            self.finish_report(conn);
        }
    }

    pub(super) fn gather_report(&mut self, conn: ConnId, from: ShardId, answer: &[u8]) {
        if self.session(conn).is_some()
            && let Some(gather) = self.gathers.get_mut(&conn.index)
        {
            gather.answers[usize::from(from.0)] = answer.to_vec();
            gather.missing -= 1;
            self.finish_report(conn);
        }
    }

    fn finish_report(&mut self, conn: ConnId) {
        let gather = &self.gathers[&conn.index];
        let (Some(host), 0) = (gather.host, gather.missing) else {
            return;
        };
        let Gather { report, answers, began, .. } = self.gathers.remove(&conn.index).expect("just seen");
        let capacity = self.config.capacity;
        self.began = began;
        self.reply_if_it_fits(conn, |out| {
            match report {
                Report::General => stats::general(out, &host, &ShardStats::sum(&answers), &capacity),
                Report::Latency => stats::latency(out, &Snapshot::sum(&answers)),
                Report::Commit => {
                    let (counts, latencies): (Vec<_>, Vec<_>) =
                        answers.iter().map(|answer| answer.split_at(ShardStats::SIZE)).unzip();
                    stats::commit(out, &ShardStats::sum(counts), &Snapshot::sum(latencies));
                }
                Report::Shards => stats::shards(out, &answers),
                Report::Sizes => stats::sizes(out, &Sizes::sum(&answers)),
                Report::Kestrel => return stats::kestrel(out, &host, &ShardStats::sum(&answers)),
                Report::FlushExpired => return stats::sum(out, &answers),
            }
            out.extend_from_slice(reply::END);
        });
        if report == Report::Kestrel {
            return self.begin_listing(conn, Listed::KestrelStats);
        }
        self.go_on(conn, Wait::Replies);
    }

    /// `stats settings`
    pub(super) fn serve_settings(&mut self, conn: ConnId) -> Result<(), Wait> {
        let settings = self.config.tunables.settings.clone();
        self.reply_if_it_fits(conn, |out| {
            out.extend_from_slice(&settings);
            out.extend_from_slice(reply::END);
        });
        Ok(())
    }

    /// `stats reset`
    pub(super) fn serve_reset(&mut self, conn: ConnId) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        self.stats.reset();
        self.effects.stats_reset = true;
        self.ask_all(conn, &Request::StatsReset, Seq(0), reply::RESET);
        Ok(())
    }

    /// `stats latency reset`
    pub(super) fn serve_latency_reset(&mut self, conn: ConnId) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        self.latency.reset();
        self.ask_all(conn, &Request::LatencyReset, Seq(0), reply::RESET);
        Ok(())
    }

    /// `flush_all`
    pub(super) fn serve_flush(&mut self, conn: ConnId, text: &'static [u8]) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        self.flush();
        self.ask_all(conn, &Request::Flush, self.newest(), text);
        Ok(())
    }

    /// Someone is to be answered when everything accepted so far is in the store.
    pub(super) fn checkpoint(&mut self, origin: Origin) {
        self.journal_passing();
        self.count_passed();
        let newest = self.newest();
        if newest <= self.stored {
            self.answer(origin, Answer::default());
        } else {
            self.checkpoints.push_back((newest, origin));
        }
    }

    /// `db_checkpoint`, `db_archive`: answered when everything accepted before is in the store.
    pub(super) fn serve_checkpoint(&mut self, conn: ConnId) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let slot = self.open_slot(conn, smallvec![None; usize::from(self.config.shards)], reply::OK);
        for (part, shard) in (1..).zip(self.other_shards()) {
            self.forward(shard, &Request::Checkpoint, Expected::Part { conn, at: SlotId { slot, part } });
        }
        self.checkpoint(Origin::Local { conn, at: SlotId { slot, part: 0 } });
        Ok(())
    }

    /// Sends a request to all other shards; the reply is `text` when all have answered and `seq` is durable here.
    fn ask_all(&mut self, conn: ConnId, request: &Request<'_>, seq: Seq, text: &'static [u8]) {
        if self.config.shards == 1 {
            return self.say(conn, seq, text);
        }
        let here = Answer { seq, ..Answer::default() };
        let mut parts: Parts = smallvec![Some(here)];
        parts.resize(usize::from(self.config.shards), None);
        let slot = self.open_slot(conn, parts, text);
        for (part, shard) in (1..).zip(self.other_shards()) {
            self.forward(shard, request, Expected::Part { conn, at: SlotId { slot, part } });
        }
    }

    /// `stats queue key`, whose client has written the key like this.
    pub(super) fn serve_stat_queue(&mut self, conn: ConnId, name: &[u8], key: &[u8]) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
            let room = u32::try_from(self.reply_room(conn, 0)).unwrap_or(u32::MAX);
            let what = self.expected(conn, false, reply::END);
            self.forward(owner, &Request::StatQueue { name, key, room }, what);
            return Ok(());
        }
        let mut lines = Vec::new();
        self.stat_queue(name, key, &mut lines);
        self.reply_if_it_fits(conn, |out| {
            out.extend_from_slice(&lines);
            out.extend_from_slice(reply::END);
        });
        Ok(())
    }

    /// Writes the lines of one queue of this shard, if there is such a queue. `key`: how the client names it.
    pub(super) fn stat_queue(&mut self, name: &[u8], key: &[u8], out: &mut Vec<u8>) {
        let Some(index) = self.find(name) else { return };
        let oldest_put_ms = self.oldest_put_ms(index);
        let view = self.view_queue(index, oldest_put_ms);
        let Counters { puts, gets, gets_unsent, deleted, corrupt, expired, discarded, dead_lettered, skipped } =
            view.counters;
        reply::stat_queue(out, key, puts, gets);
        reply::stat(out, "ready", view.ready);
        reply::stat(out, "open", view.open);
        reply::stat(out, "bytes", view.bytes);
        reply::stat(out, "puts", puts);
        reply::stat(out, "gets", gets);
        reply::stat(out, "gets_unsent", gets_unsent);
        reply::stat(out, "deleted", deleted);
        reply::stat(out, "corrupt", corrupt);
        reply::stat(out, "expired", expired);
        reply::stat(out, "discarded", discarded);
        reply::stat(out, "dead_lettered", dead_lettered);
        reply::stat(out, "skipped", skipped);
        reply::stat(out, "refused_puts", view.refused_puts);
        reply::stat(out, "put_rate", format!("{:.1}", view.put_rate));
        reply::stat(out, "get_rate", format!("{:.1}", view.get_rate));
        if let Some(age_ms) = view.oldest_ms {
            reply::stat(out, "oldest_ms", age_ms);
        }
        reply::stat(out, "waiters", view.waiters);
        reply::stat(out, "moving", view.moving);
        reply::stat(out, "shard", self.config.shard);
        let settings = view.settings.iter().flat_map(|settings| settings.shown_if_set());
        settings.for_each(|(key, value)| reply::stat_text(out, key, &value));
    }

    /// What is to be said of a queue.
    pub(super) fn view_queue(&mut self, index: u32, oldest_put_ms: Option<u64>) -> QueueView {
        let (now, waits) = (self.now, &self.waits);
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        let (put_rate, get_rate) = shelf.meter.rates(now.mono_ms, &shelf.queue.counters);
        QueueView {
            queue: shelf.queue.id,
            name: shelf.queue.name.clone(),
            counters: shelf.queue.counters,
            ready: shelf.queue.len(),
            open: shelf.queue.open_len(),
            moving: shelf.queue.moving_len(),
            bytes: shelf.queue.bytes(),
            put_rate,
            get_rate,
            oldest_ms: oldest_put_ms.map(|at| now.wall_ms.saturating_sub(at)),
            waiters: shelf.line.map_or(0, |line| waits.line_len(line)),
            refused_puts: shelf.refused,
            settings: shelf.settings.clone(),
        }
    }

    // --- listings ---

    /// `stats queue` and `stats conns`
    pub(super) fn serve_listing(&mut self, conn: ConnId, what: Listed) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        self.begin_listing(conn, what);
        Ok(())
    }

    fn begin_listing(&mut self, conn: ConnId, what: Listed) {
        let session = self.session(conn).expect("it is being served");
        session.listing = Some(Listing { what, shard: 0, cursor: 0, asked: false });
        session.wait = Some(Wait::Replies);
        self.make_runnable(conn);
    }

    /// Writes lines of queues or connections of this shard from `cursor` on. Returns where to go on, or 0 at the end.
    pub(super) fn list(&self, what: Listed, cursor: u32, out: &mut Vec<u8>) -> u32 {
        match what {
            Listed::Queues | Listed::KestrelStats | Listed::KestrelDump => self.list_queues(what, cursor, out),
            Listed::Connections => self.list_connections(cursor, out),
        }
    }

    fn list_connections(&self, cursor: u32, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let first = cursor as usize;
        for (index, session) in self.sessions.iter().enumerate().skip(first) {
            if out.len() - start >= LISTING_SIZE_MAX || index - first >= LISTING_LEN_MAX {
                return index as u32;
            }
            let Some(session) = session else { continue };
            let state = match (session.phase, session.wait) {
                (Phase::Open, Some(Wait::Message(_))) => "waits_for_message",
                (Phase::Open, Some(Wait::Memory | Wait::Body)) => "waits_for_memory",
                (Phase::Open, _) if session.sending || !session.replies.is_empty() => "busy",
                (Phase::Open, _) if !session.input.is_empty() => "receiving",
                (Phase::Open, _) => "idle",
                (Phase::Draining | Phase::Finishing | Phase::Lingering | Phase::Closed, _) => "closing",
            };
            let (input, replies) = (session.input.len(), session.replies.size());
            let value = format!("state={state},input={input},replies={replies},sent={}", session.sent);
            reply::stat(out, &format!("{}/{index}", self.config.shard), value);
        }
        0
    }

    fn list_queues(&self, what: Listed, cursor: u32, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let first = cursor as usize;
        for (index, shelf) in self.shelves.iter().enumerate().skip(first) {
            if out.len() - start >= LISTING_SIZE_MAX || index - first >= LISTING_LEN_MAX {
                return index as u32;
            }
            let Some(shelf) = shelf else { continue };
            if what == Listed::Queues {
                let queue = &shelf.queue;
                reply::stat_queue(out, &queue.name, queue.counters.puts, queue.counters.gets);
            } else {
                self.list_for_kestrel(what, index as u32, out);
            }
        }
        0
    }

    /// Goes on with the session's listing, if it has one and its client has room. Returns whether the session has none now.
    pub(super) fn go_on_listing(&mut self, conn: ConnId) -> bool {
        let own_shard = self.config.shard;
        let Some(session) = self.session(conn) else {
            return false;
        };
        let Some(listing) = session.listing else {
            return true;
        };
        if listing.asked || session.replies.size() >= OUTPUT_SIZE_MAX {
            return false;
        }
        let shard = ShardId(listing.shard);
        if shard != own_shard {
            session.listing = Some(Listing { asked: true, ..listing });
            self.forward(
                shard,
                &Request::List { what: listing.what, cursor: listing.cursor },
                Expected::Listing { conn },
            );
            return false;
        }
        let mut piece = vec![0; 4];
        let next = self.list(listing.what, listing.cursor, &mut piece);
        piece[..4].copy_from_slice(&next.to_le_bytes());
        self.continue_listing(conn, &piece);
        self.session(conn).is_some_and(|s| s.listing.is_none())
    }

    /// One piece of a listing: where it goes on, and lines.
    pub(super) fn continue_listing(&mut self, conn: ConnId, piece: &[u8]) {
        let shards = self.config.shards;
        let room = self.reply_room(conn, 0);
        let (next, lines) = piece.split_at(4);
        let next = u32::from_le_bytes(next.try_into().expect("four bytes"));
        let Some(session) = self.session(conn) else {
            return;
        };
        let Some(listing) = session.listing else {
            return;
        };
        let shard = if next == 0 { listing.shard + 1 } else { listing.shard };
        let fits = lines.len() <= room;
        let is_over = shard == shards || !fits;
        session.listing = (!is_over).then_some(Listing { shard, cursor: next, asked: false, ..listing });
        self.push_reply(conn, Seq(0), &[], None, |out| {
            if !fits {
                return out.extend_from_slice(reply::REPLY_TOO_LARGE);
            }
            out.extend_from_slice(lines);
            if is_over {
                out.extend_from_slice(reply::END);
            }
        });
        if is_over {
            self.go_on(conn, Wait::Replies);
        } else {
            self.make_runnable(conn);
        }
    }

    fn other_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.config.shard;
        (0..self.config.shards).map(ShardId).filter(move |s| *s != own)
    }
}
