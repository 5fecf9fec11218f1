//! `stats` and its kin, and what else asks all shards at once.
//!
//! A reply that needs every shard is put together by the session's own shard. Such requests wait for the session's earlier
//! ones, and later ones wait for them. A listing is made piece by piece, and the next piece only when the client has
//! room for it, so neither the number of queues nor a client that does not read costs memory.

use super::forward::{Expected, Request};
use super::{Engine, Origin};
use crate::ids::{ConnId, Seq, ShardId};
use crate::limits::{LISTING_QUEUES_MAX, LISTING_SIZE_MAX, OUTPUT_SIZE_MAX};
use crate::proto::reply::{self, STAT_QUEUE_OVERHEAD_MAX};
use crate::session::replies::{Answer, Parts, SlotId};
use crate::session::{Listing, Wait};
use crate::stats::{self, Host, ShardStats};
use smallvec::smallvec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A `stats` reply being put together.
#[derive(Default)]
pub(super) struct Gather {
    sum: ShardStats,
    host: Option<Host>,
    missing: u16,
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
        ShardStats { memory_used: self.memory.used() as u64, waiters: self.waits.len() as u64, ..self.stats }
    }

    /// `stats`
    pub(super) fn serve_stats(&mut self, conn: ConnId) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let gather = Gather { sum: self.shard_stats(), host: None, missing: self.config.shards - 1 };
        self.gathers.insert(conn.index, gather);
        self.effects.hosts.push(conn);
        for shard in self.other_shards() {
            self.forward(shard, &Request::Stats, Expected::Stats { conn });
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
            self.finish_stats(conn);
        }
    }

    pub(super) fn gather_stats(&mut self, conn: ConnId, encoded: &[u8]) {
        if self.session(conn).is_some()
            && let Some(gather) = self.gathers.get_mut(&conn.index)
        {
            gather.sum.add(encoded);
            gather.missing -= 1;
            self.finish_stats(conn);
        }
    }

    fn finish_stats(&mut self, conn: ConnId) {
        let gather = &self.gathers[&conn.index];
        let (Some(host), 0) = (gather.host, gather.missing) else {
            return;
        };
        let gather = self.gathers.remove(&conn.index).expect("just seen");
        let capacity = self.config.capacity;
        self.reply_if_it_fits(conn, |out| {
            stats::general(out, &host, &gather.sum, &capacity);
            out.extend_from_slice(reply::END);
        });
        self.go_on(conn, Wait::Replies);
    }

    /// `stats settings`
    pub(super) fn serve_settings(&mut self, conn: ConnId) -> Result<(), Wait> {
        let settings = self.config.settings.clone();
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

    /// `flush_all`
    pub(super) fn serve_flush(&mut self, conn: ConnId, noreply: bool) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        self.flush();
        self.ask_all(conn, &Request::Flush, self.newest(), if noreply { b"" } else { reply::OK });
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
            return self.reply(conn, seq, &[], |out| out.extend_from_slice(text));
        }
        let here = Answer { seq, ..Answer::default() };
        let mut parts: Parts = smallvec![Some(here)];
        parts.resize(usize::from(self.config.shards), None);
        let slot = self.open_slot(conn, parts, text);
        for (part, shard) in (1..).zip(self.other_shards()) {
            self.forward(shard, request, Expected::Part { conn, at: SlotId { slot, part } });
        }
    }

    /// `stats queue key`
    pub(super) fn serve_stat_queue(&mut self, conn: ConnId, name: &[u8]) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        if self.reply_room(conn, 0) < name.len() + STAT_QUEUE_OVERHEAD_MAX {
            self.reply(conn, Seq(0), &[], |out| out.extend_from_slice(reply::REPLY_TOO_LARGE));
            return Ok(());
        }
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
            let what = self.expected(conn, false, reply::END);
            self.forward(owner, &Request::StatQueue { name }, what);
            return Ok(());
        }
        let mut line = Vec::new();
        self.stat_queue(name, &mut line);
        self.reply(conn, Seq(0), &[], |out| {
            out.extend_from_slice(&line);
            out.extend_from_slice(reply::END);
        });
        Ok(())
    }

    /// Writes the line of one queue of this shard, if there is such a queue.
    pub(super) fn stat_queue(&self, name: &[u8], out: &mut Vec<u8>) {
        if let Some(index) = self.find(name) {
            let queue = &self.shelves[index as usize].as_ref().expect("listed").queue;
            reply::stat_queue(out, name, queue.counters.puts, queue.counters.gets);
        }
    }

    // --- listings ---

    /// `stats queue`
    pub(super) fn serve_listing(&mut self, conn: ConnId) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let session = self.session(conn).expect("it is being served");
        session.listing = Some(Listing { shard: 0, cursor: 0, asked: false });
        session.wait = Some(Wait::Replies);
        self.make_runnable(conn);
        Ok(())
    }

    /// Writes lines of queues of this shard from `cursor` on. Returns where to go on, or 0 at the end.
    pub(super) fn list(&self, cursor: u32, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let first = cursor as usize;
        for (index, shelf) in self.shelves.iter().enumerate().skip(first) {
            if out.len() - start >= LISTING_SIZE_MAX || index - first >= LISTING_QUEUES_MAX {
                return index as u32;
            }
            if let Some(shelf) = shelf {
                let queue = &shelf.queue;
                reply::stat_queue(out, &queue.name, queue.counters.puts, queue.counters.gets);
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
            self.forward(shard, &Request::List { cursor: listing.cursor }, Expected::Listing { conn });
            return false;
        }
        let mut piece = vec![0; 4];
        let next = self.list(listing.cursor, &mut piece);
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
        session.listing = (!is_over).then_some(Listing { shard, cursor: next, asked: false });
        self.reply(conn, Seq(0), &[], |out| {
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
