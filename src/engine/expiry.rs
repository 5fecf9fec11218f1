//! Messages whose time is over, or that were delivered too often: they leave at the head of their queue, and are never served again.
//!
//! When a message expires was fixed with its put (`expires_ms`), or follows from its age and what its queue allows now, so that a changed setting
//! holds for what is there. Whoever is about to serve a head settles it first ([`Engine::settle_head`]). Queues from which nobody reads
//! are swept once a second, some of them; those of which no message can leave so are in no list, and without a list there is no timer.
//! Where they go is looked up by [`super::moves`]. Behind a head that lives messages may be over their time: they leave when they come to the head. An open read is not ended by the time of
//! its message.
//!
//! Invariant: a queue with a message in memory that can expire has `may_expire`, and is listed unless it is empty.

use super::Engine;
use super::{Fate, Shelf};
use crate::ids::QueueId;
use crate::limits::{DROPPED_AT_ONCE_MAX, DROPPED_IN_ANY_CASE, SWEEP_EVERY_MS, SWEPT_LEN_MAX};
use crate::mutation::Why;
use crate::proto::command::Lifetime;
use crate::queue::{Entry, Head, Settings};
use std::collections::VecDeque;

/// An exptime up to this is counted from now, s; a larger one since the epoch. As in memcached.
const RELATIVE_EXPTIME_MAX: i64 = 30 * 86_400;

/// What is looked after without being asked for.
#[derive(Default)]
pub(super) struct Expiry {
    /// Queues whose heads may be over their time.
    listed: VecDeque<QueueId>,
    /// When the next of them are looked at, monotonic ms.
    sweep_ms: u64,
    /// Queues whose heads are to be settled in the next turn, because there were more than one turn removes; who waits for these queues is served when that is done.
    unsettled: Vec<QueueId>,
}

impl Expiry {
    /// When the next sweep is due, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        (!self.listed.is_empty()).then_some(self.sweep_ms)
    }

    /// Whether something was left for the next turn.
    pub(super) fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Leaves a queue's head for the next turn.
    pub(super) fn unsettle(&mut self, queue: QueueId) {
        if !self.unsettled.contains(&queue) {
            self.unsettled.push(queue);
        }
    }

    /// Whether a queue's head is left for later.
    pub(super) fn is_unsettled(&self, queue: QueueId) -> bool {
        self.unsettled.contains(&queue)
    }
}

impl Engine {
    /// When a message expires that is put now, wall clock, ms; 0: never, as far as its put says.
    pub(super) fn expires_ms(&self, settings: Option<&Settings>, lifetime: Lifetime) -> u64 {
        let now_ms = self.now.wall_ms;
        if lifetime.expires_ms > 0 {
            return lifetime.expires_ms;
        }
        if let Some(ttl_s) = lifetime.ttl_s {
            return if ttl_s == 0 { 0 } else { now_ms + u64::from(ttl_s) * 1000 };
        }
        if lifetime.exptime == 0 || !settings.is_some_and(|settings| settings.exptime) {
            return 0;
        }
        match u64::try_from(lifetime.exptime) {
            // Long ago, whatever the clock says later.
            Err(_) => 1,
            Ok(s) if lifetime.exptime <= RELATIVE_EXPTIME_MAX => now_ms + s * 1000,
            Ok(s) => s.saturating_mul(1000),
        }
    }

    /// Removes messages from the head of a queue that must not be served, until that is one that may be, one that is only in the
    /// store, or nothing. `false`: there are more than one turn removes, or more than can be on their way to other queues. Then whoever wants the head waits as for a load.
    pub(super) fn settle_head(&mut self, index: u32) -> bool {
        if !self.shelf(index).may_expire {
            return true;
        }
        let mut dropped = 0;
        while let Head::Ready(entry) = self.shelf(index).queue.head()
            && let Some(why) = self.must_leave(index, entry)
        {
            if self.has_dropped_enough(dropped) {
                let queue = self.shelf(index).queue.id;
                self.expiry.unsettle(queue);
                return false;
            }
            if !self.dismiss_head(index, entry, why) {
                return false;
            }
            dropped += 1;
        }
        if dropped > 0 {
            self.load_ahead(index);
        }
        true
    }

    /// The same for all readers of a queue; nobody is about to be served.
    pub(super) fn settle_heads(&mut self, index: u32) {
        for reader in self.readers_of(index) {
            self.settle_head(reader);
        }
    }

    /// Whether so many messages are as many as one turn drops of a queue. A few go always, so that who is about to serve a queue is
    /// seldom held up.
    pub(super) fn has_dropped_enough(&self, dropped: usize) -> bool {
        dropped >= DROPPED_AT_ONCE_MAX || dropped >= DROPPED_IN_ANY_CASE && self.is_batch_full()
    }

    /// Why this message must leave unserved when it is the head, if it must.
    fn must_leave(&self, index: u32, entry: Entry) -> Option<Why> {
        let put = self.memory.message(entry.place);
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        let max_age_ms = shelf.max_age_s().saturating_mul(1000);
        let now_ms = self.now.wall_ms;
        let is_too_old = max_age_ms > 0 && put.put_ms.saturating_add(max_age_ms) <= now_ms;
        if is_too_old || put.expires_ms > 0 && put.expires_ms <= now_ms {
            return Some(Why::Expired);
        }
        let deliveries_max = shelf.max_deliveries();
        (deliveries_max > 0 && shelf.queue.deliveries(entry.message) >= deliveries_max).then_some(Why::DeadLettered)
    }

    /// Removes the head, which is `entry`, for good, without serving it to anybody.
    pub(super) fn drop_head(&mut self, index: u32, entry: Entry, why: Why) {
        let size = self.memory.message(entry.place).body.len();
        self.shelf(index).queue.pop(size);
        self.memory.release(entry.place);
        self.depart(index, entry.message, size as u64, why);
        self.trace_message(index, entry.message, Fate::of(why));
    }

    /// A queue has, or may have, a message that can expire. So have its groups.
    pub(super) fn note_expiring(&mut self, index: u32) {
        for reader in self.readers_of(index) {
            self.shelf(reader).may_expire = true;
            self.enlist(reader);
        }
    }

    /// A queue is to be looked at by the next sweeps.
    pub(super) fn enlist(&mut self, index: u32) {
        let shelf = self.shelf(index);
        if shelf.is_listed {
            return;
        }
        shelf.is_listed = true;
        let queue = shelf.queue.id;
        if self.expiry.listed.is_empty() {
            self.expiry.sweep_ms = self.now.mono_ms + SWEEP_EVERY_MS;
        }
        self.expiry.listed.push_back(queue);
    }

    /// Does what is due: goes on where a turn was not enough, and sweeps.
    pub(super) fn expire_messages(&mut self) {
        for queue in std::mem::take(&mut self.expiry.unsettled) {
            if let Some(&index) = self.by_id.get(&queue)
                && self.settle_head(index)
            {
                self.serve_waiters(index);
                self.serve_line(index);
            }
        }
        if self.now.mono_ms < self.expiry.sweep_ms || self.expiry.listed.is_empty() {
            return;
        }
        self.expiry.sweep_ms = self.now.mono_ms + SWEEP_EVERY_MS;
        for _ in 0..self.expiry.listed.len().min(SWEPT_LEN_MAX) {
            if self.is_batch_full() {
                return;
            }
            let queue = self.expiry.listed.pop_front().expect("counted");
            if let Some(&index) = self.by_id.get(&queue) {
                self.shelf(index).is_listed = false;
                self.sweep_queue(index);
            }
        }
    }

    fn sweep_queue(&mut self, index: u32) {
        self.settle_head(index);
        let is_over = !self.trim(index);
        let shelf = self.shelf(index);
        let head = shelf.queue.head();
        if shelf.queue.counters.present() == 0 {
            shelf.may_expire = shelf.bounds_stay();
            return;
        }
        if head == Head::Stored {
            self.load_head(index);
        }
        // What is only in the store may expire: it is seen when it is here.
        if is_over || self.shelf(index).may_expire || head == Head::Stored {
            self.enlist(index);
        }
    }

    /// Checks what can expire against the list. For tests.
    pub(super) fn assert_expiry_consistent(&self) {
        let mut listed = 0;
        for shelf in self.shelves.iter().flatten() {
            let is_listed = self.expiry.listed.contains(&shelf.queue.id);
            assert_eq!(shelf.is_listed, is_listed, "a queue knows whether it is listed");
            listed += usize::from(is_listed);
            assert!(!shelf.bounds_stay() || shelf.may_expire, "a bound of age or deliveries is one for all");
            let has_messages = shelf.queue.counters.present() > 0;
            assert!(
                !shelf.may_expire || !has_messages || is_listed,
                "what can expire is swept {}",
                String::from_utf8_lossy(&shelf.queue.name)
            );
            if let Head::Ready(entry) = shelf.queue.head() {
                assert!(shelf.may_expire || self.memory.message(entry.place).expires_ms == 0, "a time is noted");
            }
        }
        assert!(listed <= self.expiry.listed.len(), "queues are listed once");
    }
}

impl Shelf {
    /// How old a message gets, s; 0: as old as it likes.
    fn max_age_s(&self) -> u64 {
        self.settings.as_ref().map_or(0, |settings| settings.max_age_s)
    }

    /// How often a message is delivered; 0: as often as it takes.
    fn max_deliveries(&self) -> u32 {
        self.settings.as_ref().map_or(0, |settings| settings.max_deliveries)
    }

    /// Whether any of its messages may have to leave unserved.
    pub(super) fn bounds_stay(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.max_age_s > 0 || settings.max_deliveries > 0)
    }
}
