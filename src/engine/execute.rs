//! Operations on the queues of this shard: each one changes a queue, records the mutation, and says what to answer.
//!
//! Invariant: what is changed in memory and what is recorded are the same, in the same order; nothing is changed for a
//! request that is refused.

use super::datagram::Form;
use super::reads::answer_of;
use super::{Engine, Fate, Notice, Origin, Shelf, Waiter};
use crate::ids::{MessageId, QueueId, Seq};
use crate::latency::Metric;
use crate::mutation::{Mutation, Put, Why};
use crate::proto::command::Lifetime;
use crate::proto::reply;
use crate::queue::{Entry, Head, Queue, Settings};
use crate::session::reads::Opened;
use crate::session::replies::Answer;
use crate::store::{self, Load, Loaded};
use std::collections::VecDeque;

/// Room for gets that wait for a load that a queue keeps when none does.
const WAITERS_KEPT: usize = 4;

/// What became of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PutResult {
    /// It was accepted or refused.
    Done {
        /// What to say.
        reply: &'static [u8],
        /// What to wait for before saying it.
        seq: Seq,
    },
    /// The message was handed over to a waiting client: its putter is answered when that is settled.
    Passing(MessageId),
}

/// What became of a get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GetResult {
    /// A message was written.
    Hit(Given),
    /// Nothing to take.
    Miss,
    /// There is no such group, and no room for it.
    NoGroup,
    /// The get may not have the message, for this reason.
    Refused(&'static [u8]),
    /// The head must be loaded first.
    MustWait(u32),
}

/// How a message was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Given {
    /// For good, from this queue.
    Taken(QueueId),
    /// To be confirmed.
    Opened(Opened),
    /// It is still there.
    Shown,
}

impl Engine {
    /// Appends a message to a queue of this shard, which is created if need be.
    pub(super) fn put(&mut self, name: &[u8], flags: u32, lifetime: Lifetime, body: &[u8]) -> PutResult {
        self.stats.set_cmds += 1;
        if self.refusing_puts {
            return PutResult::Done { reply: reply::OUT_OF_STORAGE, seq: Seq(0) };
        }
        let Some(index) = self.admit(name, body.len()) else {
            return PutResult::Done { reply: reply::NOT_STORED, seq: Seq(0) };
        };
        self.stats.set_hits += 1;
        let shelf = self.shelf(index);
        let (is_awaited, has_groups) = (shelf.line.is_some(), shelf.fan.is_some());
        let has_plain_readers = !shelf.is_for_groups();
        let settings = self.shelves[index as usize].as_ref().expect("just seen").settings.as_deref();
        let (expires_ms, bounds_puts) =
            (self.expires_ms(settings, lifetime), settings.is_some_and(Settings::bounds_puts));
        if is_awaited
            && !has_groups
            && has_plain_readers
            && !bounds_puts
            && expires_ms == 0
            && let Some(message) = self.hand_over(index, flags, body)
        {
            self.stats.total_items += 1;
            return PutResult::Passing(message);
        }
        self.append(index, flags, expires_ms, body);
        PutResult::Done { reply: reply::STORED, seq: self.current() }
    }

    /// Appends a message to the queue at `index`, for all its readers, and serves who waits for it. `expires_ms`: wall clock; 0: its put sets no
    /// time.
    pub(super) fn append(&mut self, index: u32, flags: u32, expires_ms: u64, body: &[u8]) {
        self.stats.total_items += 1;
        let is_for_groups = self.shelf(index).is_for_groups();
        if is_for_groups {
            self.leave_to_groups(index);
        }
        let put = self.new_put(index, flags, expires_ms, body);
        let message = put.message;
        let place = self.memory.append(&put);
        self.batch.extend_from_slice(self.memory.encoded(place));
        self.stats.mutations += 1;
        self.sizes.count(body.len());
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(index);
        let (is_awaited, has_groups) = (shelf.line.is_some(), shelf.fan.is_some());
        shelf.meter.roll(now_ms, &shelf.queue.counters);
        shelf.queue.push(Entry { message: put.message, place }, body.len());
        shelf.queue.counters.apply(&Mutation::Put(put));
        self.stats.curr_items += 1;
        self.trace_message(index, message, Fate::Put);
        if has_groups {
            self.push_to_groups(index, Entry { message, place }, body.len(), &Mutation::Put(put));
        }
        if has_groups && is_for_groups {
            self.drop_head(index, Entry { message, place }, Why::Skipped);
        }
        self.count_bytes(index);
        if expires_ms > 0 || self.shelf(index).may_expire {
            self.note_expiring(index);
            if (1..=self.now.wall_ms).contains(&expires_ms) {
                self.settle_heads(index);
            }
        }
        if has_groups {
            self.serve_lines(index);
        } else if is_awaited {
            self.serve_line(index);
        }
    }

    /// A body becomes a message of a queue.
    pub(super) fn new_put<'a>(&mut self, index: u32, flags: u32, expires_ms: u64, body: &'a [u8]) -> Put<'a> {
        let message = MessageId(self.next_id());
        let queue = self.shelf(index).queue.id;
        let put_ms = self.now.wall_ms;
        Put { queue, message, put_ms, flags, expires_ms, crc32c: 0, body }.sealed()
    }

    pub(super) fn create(&mut self, name: &[u8]) -> u32 {
        let queue = QueueId(self.next_id());
        self.record(&Mutation::Create { queue, created_ms: self.now.wall_ms, name });
        self.shelve(Queue::new(queue, name))
    }

    /// Takes the message at the head of a queue of this shard, opens it, or only looks at it, and writes its `VALUE` block, the key's options
    /// echoed, to `out`.
    pub(super) fn get(&mut self, name: &[u8], options: &[u8], form: Form, out: &mut Vec<u8>) -> GetResult {
        self.stats.get_cmds += 1;
        let Some(index) = self.find_or_begin(name, form.start()) else {
            return if name.contains(&b'/') { GetResult::NoGroup } else { GetResult::Miss };
        };
        let now_ms = self.now.mono_ms;
        let shelf = self.shelf(index);
        shelf.asked_ms = now_ms;
        if shelf.is_for_groups() {
            return GetResult::Miss;
        }
        if !self.settle_head(index) {
            return GetResult::MustWait(index);
        }
        let shelf = self.shelf(index);
        match shelf.queue.head() {
            Head::Empty => GetResult::Miss,
            // Gets that wait for a load come first.
            Head::Ready(entry) if shelf.waiters.is_empty() => {
                match self.refusal(index, entry, name.len() + options.len(), form) {
                    Some(reply) => GetResult::Refused(reply),
                    None => GetResult::Hit(self.give(index, entry, options, form, out)),
                }
            }
            Head::Ready(_) | Head::Stored => {
                self.load_ahead(index);
                GetResult::MustWait(index)
            }
        }
    }

    /// A get waits for the head of its queue to be loaded.
    pub(super) fn wait_for_load(&mut self, index: u32, waiter: Waiter) {
        let shelf = self.shelf(index);
        let origin = waiter.origin;
        shelf.waiters.push_back(waiter);
        if let Origin::Remote { shard, token } = origin {
            let queue = shelf.queue.id;
            self.remote_waiters.insert((shard, token), queue);
        }
    }

    /// Writes the head, which is `entry`, as a get of this form wants it: takes it, opens it, or only shows it.
    pub(super) fn give(&mut self, index: u32, entry: Entry, options: &[u8], form: Form, out: &mut Vec<u8>) -> Given {
        if let Some(reader) = form.open {
            return self.open_head(index, entry, options, form, reader, out);
        }
        let put = self.memory.message(entry.place);
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        form.show(out, shelf, options, put.flags, entry.message, put.body);
        if form.peek {
            return Given::Shown;
        }
        self.take(index, entry);
        Given::Taken(self.shelf(index).queue.id)
    }

    /// Removes the head, which is `entry`, for good.
    fn take(&mut self, index: u32, entry: Entry) {
        let put = self.memory.message(entry.place);
        let (size, queued_ms) = (put.body.len(), self.now.wall_ms.saturating_sub(put.put_ms));
        self.shelf(index).queue.pop(size);
        self.memory.release(entry.place);
        self.depart(index, entry.message, size as u64, Why::Got);
        self.latency.record(Metric::Queued, queued_ms * 1000, 1);
        self.stats.get_hits += 1;
        self.trace_message(index, entry.message, Fate::Taken);
        self.load_ahead(index);
    }

    /// A message of so many bytes that is neither ready nor open any more has left its queue for good.
    pub(super) fn depart(&mut self, index: u32, message: MessageId, size: u64, why: Why) {
        self.count_unconfirmed(index);
        let now_ms = self.now.mono_ms;
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        if shelf.is_shared() {
            shelf.meter.roll(now_ms, &shelf.queue.counters);
            return self.pass(index, message, size, why);
        }
        let queue = shelf.queue.id;
        let mutation = match why {
            Why::Got => Mutation::Take { queue, message },
            _ => Mutation::Leave { queue, message, why },
        };
        shelf.meter.roll(now_ms, &shelf.queue.counters);
        shelf.queue.counters.apply(&mutation);
        mutation.encode(&mut self.batch);
        self.stats.mutations += 1;
        self.stats.curr_items -= 1;
        self.count_bytes(index);
    }

    /// What this queue has stored has changed: [`crate::stats::ShardStats::item_bytes`] follows.
    pub(super) fn count_bytes(&mut self, index: u32) {
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        let bytes = shelf.stored_bytes();
        self.stats.item_bytes = self.stats.item_bytes - shelf.counted_bytes + bytes;
        shelf.counted_bytes = bytes;
    }

    /// What this queue has open or returned has changed: [`crate::stats::ShardStats::unconfirmed`] follows.
    pub(super) fn count_unconfirmed(&mut self, index: u32) {
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        let count = shelf.queue.unconfirmed_len();
        self.stats.unconfirmed = self.stats.unconfirmed - shelf.counted_unconfirmed + count;
        shelf.counted_unconfirmed = count;
    }

    /// Asks for more of the queue's middle if its head runs low.
    pub(super) fn load_ahead(&mut self, index: u32) {
        self.load(index, self.load_size());
    }

    /// Asks for the head, if it is only in the store, and for no more than that: one message comes in any case.
    pub(super) fn load_head(&mut self, index: u32) {
        self.load(index, 0);
    }

    /// Asks for so many bytes of the middle, or of what has returned, if there is need.
    pub(super) fn load(&mut self, index: u32, size_max: usize) {
        let (shard, stored_below) = (self.config.shard, self.stored_below);
        let of = self.shelf(index).of.unwrap_or(index);
        let of = self.shelf(of).queue.id;
        let queue = &mut self.shelf(index).queue;
        if queue.wants_load() {
            let (after, below) = queue.begin_load(stored_below);
            let load = Load { shard, queue: queue.id, of, after, below, size_max };
            self.effects.loads.push(load);
            self.stats.loads += 1;
        }
    }

    /// When the oldest message of a queue was put, wall clock, ms. `None`: there is none, or it is only in the store; then it is asked
    /// for, and known a little later.
    pub(super) fn oldest_put_ms(&mut self, index: u32) -> Option<u64> {
        if self.shelf(index).queue.head() == Head::Stored {
            self.load_head(index);
        }
        self.known_oldest_put_ms(index)
    }

    /// The same, but nothing is asked for.
    pub(super) fn known_oldest_put_ms(&mut self, index: u32) -> Option<u64> {
        match self.shelf(index).queue.head() {
            Head::Ready(entry) => Some(self.memory.message(entry.place).put_ms),
            Head::Stored | Head::Empty => None,
        }
    }

    /// The store has read, or could not.
    pub fn on_loaded(&mut self, queue: QueueId, result: Result<Loaded, store::Error>) {
        // The queue's life may have ended while its messages were on their way.
        let Some(&index) = self.by_id.get(&queue) else {
            return;
        };
        if !self.shelf(index).queue.end_load() {
            return self.load_ahead(index);
        }
        let failed = match result {
            Ok(loaded) => !self.shelve_loaded(index, loaded),
            Err(error) => {
                self.shelf(index).queue.fail_load();
                let queue = self.shelf(index).queue.name.to_vec();
                self.effects.notices.push(Notice::Unreadable { queue, reason: error.to_string() });
                true
            }
        };
        if failed {
            return self.fail_waiters(index);
        }
        self.serve_waiters(index);
        self.trim(index);
        self.relieve_memory();
    }

    /// Puts loaded messages in their place. `false`: they do not fit what the queue's counters say is stored.
    fn shelve_loaded(&mut self, index: u32, loaded: Loaded) -> bool {
        let shelf = self.shelves[index as usize].as_mut().expect("the caller found it");
        let mut entries = Vec::new();
        if !loaded.messages.is_empty() {
            self.memory.load(loaded.messages, |message, place| entries.push(Entry { message, place }));
        }
        let expires = entries.iter().any(|entry| self.memory.message(entry.place).expires_ms > 0);
        let mut unwanted = Vec::new();
        let taken_in = shelf.queue.take_loaded(&entries, &loaded.corrupt, loaded.reached, |entry| unwanted.push(entry));
        let Some(lost) = taken_in else {
            entries.iter().for_each(|e| self.memory.release(e.place));
            let queue = shelf.queue.name.to_vec();
            let reason = format!("counters and stored messages disagree after message {}", loaded.reached);
            self.effects.notices.push(Notice::Unreadable { queue, reason });
            return false;
        };
        for (message, deliveries) in loaded.deliveries {
            if unwanted.iter().all(|entry| entry.message != message) {
                shelf.queue.learn_deliveries(message, deliveries);
            }
        }
        unwanted.into_iter().for_each(|entry| self.memory.release(entry.place));
        if expires {
            self.shelf(index).may_expire = true;
            self.enlist(index);
        }
        for (message, size) in lost {
            let shelf = self.shelf(index);
            let mutation = Mutation::Corrupt { queue: shelf.queue.id, message };
            shelf.queue.counters.apply(&mutation);
            let (queue, of, is_shared) = (shelf.queue.name.to_vec(), shelf.of.unwrap_or(index), shelf.is_shared());
            self.record(&mutation);
            self.stats.corrupt += 1;
            self.effects.notices.push(Notice::Corrupt { queue, message });
            if is_shared {
                // The others find it damaged too, or have it in memory.
                self.free_if_passed(of, message, size);
            } else {
                self.stats.curr_items -= 1;
                self.count_bytes(index);
            }
        }
        self.count_unconfirmed(index);
        self.learn_bytes(index);
        true
    }

    /// Serves gets that waited, in order, as far as the head goes.
    pub(super) fn serve_waiters(&mut self, index: u32) {
        while self.settle_head(index)
            && let Some(waiter) = self.next_waiter(index)
        {
            let shelf = self.shelf(index);
            let answer = match shelf.queue.head() {
                Head::Ready(entry) => {
                    let key_size = shelf.queue.name.len() + waiter.options().len();
                    self.give_or_refuse(index, entry, key_size, &waiter)
                }
                Head::Empty => {
                    let name = shelf.queue.name.clone();
                    self.forget_waiter(waiter.origin);
                    self.miss(&name, waiter);
                    continue;
                }
                Head::Stored => {
                    shelf.waiters.push_front(waiter);
                    return self.load_ahead(index);
                }
            };
            self.forget_waiter(waiter.origin);
            self.answer(waiter.origin, answer);
        }
    }

    /// The answer for a get that has waited for the head, which is `entry`, with a key of `key_size` bytes.
    pub(super) fn give_or_refuse(&mut self, index: u32, entry: Entry, key_size: usize, waiter: &Waiter) -> Answer {
        if let Some(reply) = self.refusal(index, entry, key_size, waiter.form) {
            return Answer { failure: Some(reply), ..waiter.nothing(self.newest()) };
        }
        let mut bytes = Vec::new();
        let given = self.give(index, entry, waiter.options(), waiter.form, &mut bytes);
        answer_of(given, bytes, self.newest())
    }

    /// The next get that waits and whose client is still there.
    fn next_waiter(&mut self, index: u32) -> Option<Waiter> {
        loop {
            let waiters = &mut self.shelf(index).waiters;
            let waiter = waiters.pop_front()?;
            if waiters.is_empty() {
                // A line that was long once costs next to nothing afterwards.
                waiters.shrink_to(WAITERS_KEPT);
            }
            match waiter.origin {
                Origin::Local { conn, .. } if self.session(conn).is_none() => {}
                _ => return Some(waiter),
            }
        }
    }

    pub(super) fn forget_waiter(&mut self, origin: Origin) {
        if let Origin::Remote { shard, token } = origin {
            self.remote_waiters.remove(&(shard, token));
        }
    }

    fn fail_waiters(&mut self, index: u32) {
        while let Some(waiter) = self.next_waiter(index) {
            self.forget_waiter(waiter.origin);
            let answer = Answer { failure: Some(reply::STORAGE_UNREADABLE), ..waiter.nothing(self.newest()) };
            self.answer(waiter.origin, answer);
        }
    }

    /// The queue is gone or emptied: who waited for its head missed it.
    pub(super) fn dismiss_waiters(&mut self, name: &[u8], waiters: VecDeque<Waiter>) {
        for waiter in waiters {
            self.forget_waiter(waiter.origin);
            self.miss(name, waiter);
        }
    }

    /// A client of another shard is gone before its get was served: it takes nothing.
    pub(super) fn cancel_waiter(&mut self, origin: Origin, queue: QueueId) {
        let Some(&index) = self.by_id.get(&queue) else {
            return;
        };
        let waiters = &mut self.shelf(index).waiters;
        if let Some(at) = waiters.iter().position(|w| w.origin == origin) {
            let waiter = waiters.remove(at).expect("just found");
            self.forget_waiter(waiter.origin);
            self.answer(origin, Answer::default());
        }
    }

    /// Ends a queue's life. `false`: there is none of that name.
    pub(super) fn delete(&mut self, name: &[u8]) -> bool {
        let Some(index) = self.find(name) else {
            return false;
        };
        if self.shelf(index).of.is_some() {
            self.drop_group(index);
            return true;
        }
        if let Some(fan) = &self.shelf(index).fan {
            fan.groups.clone().into_iter().for_each(|group| self.unshelve_group(group));
        }
        self.drop_reads(index);
        let Shelf { mut queue, waiters, fan, counted_bytes, .. } = self.unshelve(index);
        self.stats.item_bytes -= counted_bytes;
        self.record(&Mutation::Delete { queue: queue.id });
        self.drop_passing(queue.id);
        let newest = MessageId(self.ids.next - 1);
        let (count, open) = queue.clear(newest, |place| self.memory.release(place));
        self.stats.curr_items -= fan.map_or(count, |fan| fan.stored);
        self.stats.open_reads -= open;
        self.dismiss_waiters(&queue.name, waiters);
        true
    }

    /// Empties every queue of this shard.
    pub(super) fn flush(&mut self) {
        // What was handed over before is taken before, and does not come back later.
        self.journal_passing();
        for index in 0..self.shelves.len() {
            // Groups are emptied with their queues.
            if self.shelves[index].as_ref().is_some_and(|shelf| shelf.of.is_none()) {
                self.purge(index as u32);
            }
        }
    }

    /// Empties a queue of this shard, if there is one of that name.
    pub(super) fn flush_queue(&mut self, name: &[u8]) {
        if let Some(index) = self.find(name) {
            let queue = self.shelf(index).queue.id;
            self.journal_passing_of(queue);
            self.purge(index);
        }
    }

    /// Drops the messages of a queue or a group, if it has any. Nothing of it is in passing.
    pub(super) fn purge(&mut self, index: u32) {
        let shelf = self.shelf(index);
        match (shelf.of, shelf.fan.is_some()) {
            (Some(of), _) => {
                self.purge_reader(index);
                self.sweep(of);
            }
            (None, true) => {
                for reader in self.readers_of(index) {
                    self.purge_reader(reader);
                }
                self.sweep(index);
            }
            (None, false) => {
                self.stats.curr_items -= self.purge_reader(index);
                self.count_bytes(index);
            }
        }
    }

    /// A message of this queue was taken for a client that was gone before it could be sent.
    pub(super) fn unsent(&mut self, queue: QueueId) {
        if let Some(&index) = self.by_id.get(&queue) {
            let mutation = Mutation::Unsent { queue };
            self.shelf(index).queue.counters.apply(&mutation);
            self.record(&mutation);
        }
    }
}
