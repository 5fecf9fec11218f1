//! Groups: several readers of one queue, each of which gets every message. A message is stored once and goes when all have passed it.
//!
//! A group is a shelf like any other, under a name that no queue can have (`q/group=g`), so all that reads, opens, waits and loads
//! serves it without knowing. What it does not have is messages of its own: puts to its queue push an entry for each group, the entries
//! share their bytes, and what leaves a reader is recorded as passed. While a queue has groups its plain readers are one more of them.
//!
//! Invariant: a stored message is ready, open or returned for at least one reader; which those are follows from where each reader
//! stands ([`crate::queue::Queue::has_passed`]), so nothing is kept for a message.

use super::{Engine, Shelf, Tunables};
use crate::ids::{MessageId, QueueId};
use crate::message_set::MessageSet;
use crate::mutation::{Mutation, Why};
use crate::proto::options::queue_of;
use crate::queue::{Entry, Queue};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What a queue with groups keeps for them.
#[derive(Default)]
pub(super) struct Fan {
    /// Where its groups stand; never empty.
    pub groups: Vec<u32>,
    /// Messages that some reader has not passed.
    pub stored: u64,
    /// Their bodies, bytes.
    pub bytes: u64,
    /// `bytes` is not too much. After a start it may be, until all readers know what they have.
    pub knows_bytes: bool,
}

/// Where a group begins to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    /// At the oldest message that is there.
    Oldest,
    /// Behind the newest.
    Newest,
}

impl Engine {
    // --- beginning and ending ---

    /// The shelf of a name that a get asks for. A group begins when it is first asked for, and with it its queue. `None`: there is no such
    /// queue, or no room for another group.
    pub(super) fn find_or_begin(&mut self, name: &[u8], start: Start) -> Option<u32> {
        let found = self.find(name);
        if found.is_some() || !name.contains(&b'/') {
            return found;
        }
        let queue = queue_of(name);
        let of = self.find(queue);
        let groups = of.and_then(|of| self.shelf(of).fan.as_ref()).map_or(0, |fan| fan.groups.len());
        let queues = self.by_id.len() + 1 + usize::from(of.is_none());
        let Tunables { groups_max, queues_max, unconfirmed_max, .. } = self.config.tunables;
        // What others have open or returned would be returned for this one.
        let apart =
            of.map_or(0, |of| readers(&self.shelves, of).map(|it| it.unconfirmed_len() + it.moving_len()).sum());
        let has_room = apart == 0 || self.stats.unconfirmed + apart <= unconfirmed_max as u64;
        if groups >= groups_max || queues > queues_max || !has_room {
            return None;
        }
        let of = of.unwrap_or_else(|| self.create(queue));
        Some(self.begin_group(of, name, start))
    }

    fn begin_group(&mut self, of: u32, name: &[u8], start: Start) -> u32 {
        let id = QueueId(self.next_id());
        // What was handed over before was taken before there was a group.
        let parent = self.shelf(of).queue.id;
        self.journal_passing_of(parent);
        self.count_passed();
        let is_first = self.shelf(of).fan.is_none();
        if is_first {
            let queue = &self.shelf(of).queue;
            let (stored, bytes) = (queue.counters.present(), queue.bytes());
            self.shelf(of).fan = Some(Box::new(Fan { stored, bytes, ..Fan::default() }));
        }
        let mut queue = Queue::new(id, name);
        self.copy_stored(of, &mut queue);
        let offered = queue.len();
        assert_eq!(offered, self.shelf(of).fan.as_ref().expect("just made").stored, "a group sees all that is stored");
        let mutation = Mutation::Group { queue: id, of: parent, created_ms: self.now.wall_ms, offered, name };
        queue.counters.apply(&mutation);
        self.record(&mutation);
        let index = self.shelve_group(of, queue);
        // A queue for its groups only has kept everything for the first of them, wherever that would begin.
        let was_kept = is_first && self.shelf(of).is_for_groups();
        if start == Start::Newest && !was_kept {
            self.purge_reader(index);
            self.sweep(of);
        }
        self.leave_to_groups(of);
        self.set_group_end(index);
        index
    }

    /// Puts a group's reader on a shelf.
    pub(super) fn shelve_group(&mut self, of: u32, queue: Queue) -> u32 {
        let index = self.shelve(queue);
        self.stats.queues -= 1;
        self.stats.groups += 1;
        self.shelf(index).of = Some(of);
        if self.readers_of(of).into_iter().any(|reader| self.shelf(reader).may_expire) {
            self.shelf(index).may_expire = true;
            self.enlist(index);
        }
        self.shelf(of).fan.get_or_insert_default().groups.push(index);
        index
    }

    /// Gives a new reader everything that is stored for the others: the ranges of the one that has passed least, and what any has apart
    /// from its ranges before them.
    fn copy_stored(&mut self, of: u32, to: &mut Queue) {
        let Engine { shelves, memory, stored_below, .. } = self;
        let slowest = readers(shelves, of).min_by_key(|queue| queue.passed_below()).expect("there is the queue itself");
        let below = slowest.passed_below();
        let gone = passed_by_all(shelves, of, slowest.passed_ahead());
        let stored_bytes = shelves[of as usize].as_ref().expect("the caller found it").stored_bytes();
        to.copy_ranges(slowest, &gone, stored_bytes, *stored_below, |place| memory.retain(place));
        for reader in readers(shelves, of) {
            for (message, place, size) in reader.apart().filter(|(message, ..)| *message < below) {
                if to.add_returned(message, place, size)
                    && let Some(place) = place
                {
                    memory.retain(place);
                }
            }
        }
    }

    /// Ends a group. What only it had not passed goes.
    pub(super) fn drop_group(&mut self, index: u32) {
        let of = self.shelf(index).of.expect("it is a group");
        self.unshelve_group(index);
        self.sweep(of);
    }

    /// Ends a group's life and records it; its queue is left as it is.
    pub(super) fn unshelve_group(&mut self, index: u32) {
        self.end_line_of(index);
        self.drop_reads(index);
        let of = self.shelf(index).of.expect("it is a group");
        let fan = self.shelf(of).fan.as_mut().expect("a group's queue knows it");
        fan.groups.retain(|group| *group != index);
        let Shelf { mut queue, waiters, ends_ms, .. } = self.unshelve(index);
        self.group_rules.forget(queue.id, ends_ms);
        self.stats.queues += 1;
        self.stats.groups -= 1;
        self.record(&Mutation::Delete { queue: queue.id });
        let newest = MessageId(self.ids.next - 1);
        let (_, open) = queue.clear(newest, |place| self.memory.release(place));
        self.stats.open_reads -= open;
        // Nobody goes on waiting for a group that has ended, those neither who waited for a load.
        for waiter in waiters {
            self.forget_waiter(waiter.origin);
            self.answer(waiter.origin, waiter.nothing(self.newest()));
        }
    }

    /// Who waits for a message of this group, which ends, waits no longer.
    fn end_line_of(&mut self, index: u32) {
        while let Some(place) = self.first_in_line(index) {
            let waiter = self.leave_line(place);
            self.answer(waiter.origin, waiter.nothing(self.newest()));
        }
    }

    // --- messages ---

    /// The shelves of all readers of a queue: itself, and its groups.
    pub(super) fn readers_of(&self, index: u32) -> SmallVec<[u32; 4]> {
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        let groups = shelf.fan.as_ref().map_or(&[][..], |fan| &fan.groups);
        std::iter::once(index).chain(groups.iter().copied()).collect()
    }

    /// A message was put into a queue: each of its groups gets it too.
    pub(super) fn push_to_groups(&mut self, of: u32, entry: Entry, size: usize, put: &Mutation<'_>) {
        let now_ms = self.now.mono_ms;
        let Engine { shelves, memory, .. } = self;
        let Some(fan) = shelves[of as usize].as_mut().expect("the caller found it").fan.as_mut() else { return };
        fan.stored += 1;
        fan.bytes += size as u64;
        let groups = std::mem::take(&mut fan.groups);
        for group in &groups {
            let shelf = shelves[*group as usize].as_mut().expect("a listed group is there");
            memory.retain(entry.place);
            shelf.meter.roll(now_ms, &shelf.queue.counters);
            shelf.queue.push(entry, size);
            shelf.queue.counters.apply(put);
        }
        shelves[of as usize].as_mut().expect("just seen").fan.as_mut().expect("just seen").groups = groups;
        self.learn_bytes(of);
    }

    /// Whoever waits for messages of a queue, for any of its readers, is served.
    pub(super) fn serve_lines(&mut self, of: u32) {
        for reader in self.readers_of(of) {
            if self.shelf(reader).line.is_some() {
                self.serve_line(reader);
            }
        }
    }

    /// A reader of a queue with groups is done with a message of so many bytes, which it has neither ready nor open any more.
    pub(super) fn pass(&mut self, index: u32, message: MessageId, size: u64, why: Why) {
        let shelf = self.shelf(index);
        let of = shelf.of.unwrap_or(index);
        let mutation = Mutation::Pass { queue: shelf.queue.id, message, low: shelf.queue.low(), why };
        shelf.queue.counters.apply(&mutation);
        self.record(&mutation);
        self.free_if_passed(of, message, size);
    }

    /// Removes a message if all readers have passed it.
    pub(super) fn free_if_passed(&mut self, of: u32, message: MessageId, size: u64) {
        let is_passed = readers(&self.shelves, of).all(|queue| queue.has_passed(message));
        let shelf = self.shelf(of);
        let queue = shelf.queue.id;
        let fan = shelf.fan.as_mut().expect("it has groups");
        if is_passed {
            fan.stored -= 1;
            fan.bytes = fan.bytes.saturating_sub(size);
            self.record(&Mutation::Free { queue, message });
            self.stats.curr_items -= 1;
            self.count_bytes(of);
        }
        self.learn_bytes(of);
    }

    /// Says how large is what the queue of a reader has stored, if it has groups and all readers have come to know what they have: one that
    /// gets on may have passed what had no size.
    pub(super) fn learn_bytes(&mut self, index: u32) {
        let of = self.shelf(index).of.unwrap_or(index);
        let is_new = self.shelf(of).fan.as_ref().is_some_and(|fan| !fan.knows_bytes);
        if is_new && readers(&self.shelves, of).all(Queue::knows_bytes) {
            let (_, bytes) = count_stored(&self.shelves, of);
            let fan = self.shelf(of).fan.as_mut().expect("just seen");
            (fan.bytes, fan.knows_bytes) = (bytes, true);
            self.count_bytes(of);
        }
    }

    /// Drops all that a reader has, ready, open and moving, and says how much that was. Of a queue with groups the messages stay for the others until
    /// they are swept. Nothing of it is in passing.
    pub(super) fn purge_reader(&mut self, index: u32) -> u64 {
        if self.shelf(index).queue.counters.present() == 0 {
            return 0;
        }
        self.drop_reads(index);
        let below = MessageId(self.first_unused_id());
        let shelf = self.shelves[index as usize].as_mut().expect("just seen");
        let (count, open) = shelf.queue.clear(MessageId(below.0 - 1), |place| self.memory.release(place));
        self.stats.open_reads -= open;
        let mutation = Mutation::Purge { queue: shelf.queue.id, below, count };
        shelf.queue.counters.apply(&mutation);
        let waiters = std::mem::take(&mut shelf.waiters);
        let name = shelf.queue.name.clone();
        self.count_unconfirmed(index);
        self.record(&mutation);
        self.dismiss_waiters(&name, waiters);
        count
    }

    /// Removes what no reader of a queue has any more, because one of them was dropped or purged. Without groups the queue is an
    /// ordinary one again.
    pub(super) fn sweep(&mut self, of: u32) {
        let (stored, bytes) = count_stored(&self.shelves, of);
        let knows_bytes = readers(&self.shelves, of).all(Queue::knows_bytes);
        // What is stored some reader has.
        let bytes_max = readers(&self.shelves, of).map(Queue::bytes).sum::<u64>();
        let shelf = self.shelf(of);
        let queue = shelf.queue.id;
        let fan = shelf.fan.as_mut().expect("it has, or had, groups");
        let freed = fan.stored - stored;
        let bytes = if knows_bytes { bytes } else { fan.bytes.min(bytes_max) };
        (fan.stored, fan.bytes, fan.knows_bytes) = (stored, bytes, knows_bytes);
        let is_over = fan.groups.is_empty();
        if is_over {
            shelf.fan = None;
        }
        if freed > 0 || is_over {
            self.record(&Mutation::Sweep { queue, freed });
        }
        self.stats.curr_items -= freed;
        self.count_bytes(of);
    }

    /// Checks groups against their queues. For tests.
    pub(super) fn assert_groups_consistent(&self) {
        let mut listed = 0;
        for (of, shelf) in self.shelves.iter().enumerate() {
            let Some(shelf) = shelf else { continue };
            let Some(fan) = &shelf.fan else { continue };
            assert!(!fan.groups.is_empty(), "a queue without groups has nothing for them");
            listed += fan.groups.len() as u64;
            for group in &fan.groups {
                let group = self.shelves[*group as usize].as_ref().expect("a listed group is there");
                assert_eq!(group.of, Some(of as u32), "a group knows its queue");
                assert_eq!(queue_of(&group.queue.name), &*shelf.queue.name, "and has its name");
            }
            let (stored, bytes) = count_stored(&self.shelves, of as u32);
            assert_eq!(stored, fan.stored, "what is stored is what some reader has not passed");
            let is_exact = readers(&self.shelves, of as u32).all(|queue| queue.knows_bytes());
            assert!(!is_exact || bytes == fan.bytes, "its bytes are known: {bytes}, {}", fan.bytes);
        }
        assert_eq!(listed, self.stats.groups, "groups are counted");
    }
}

/// All readers of a queue: its plain ones, and each group.
pub(super) fn readers(shelves: &[Option<Shelf>], of: u32) -> impl Iterator<Item = &Queue> {
    let shelf = |index: u32| shelves[index as usize].as_ref().expect("a listed group is there");
    let groups = shelf(of).fan.as_ref().map_or(&[][..], |fan| &fan.groups);
    std::iter::once(&shelf(of).queue).chain(groups.iter().map(move |group| &shelf(*group).queue))
}

/// How many messages this reader has passed before it came there, that another has not passed, and their bytes as far as anybody knows.
fn stored_ahead(shelves: &[Option<Shelf>], of: u32, reader: &Queue) -> (u64, u64) {
    let ahead = reader.passed_ahead();
    if ahead.is_empty() {
        return (0, 0);
    }
    let ahead = ahead.without(&passed_by_all(shelves, of, ahead.clone()));
    let apart = readers(shelves, of).flat_map(Queue::apart).map(|(message, _, size)| (message, size));
    let sizes: BTreeMap<MessageId, u64> =
        apart.chain(reader.damaged_ahead()).filter(|(message, _)| ahead.contains(*message)).collect();
    (ahead.len(), sizes.values().sum())
}

/// Those of a queue's messages that all its readers have passed: they are gone.
fn passed_by_all(shelves: &[Option<Shelf>], of: u32, messages: MessageSet) -> MessageSet {
    readers(shelves, of).fold(messages, |passed, reader| reader.passed_of(&passed))
}

/// How many messages some reader of a queue has not passed, and the bytes of their bodies: too few unless all readers know theirs. Looks
/// at what readers have apart from their ranges.
fn count_stored(shelves: &[Option<Shelf>], of: u32) -> (u64, u64) {
    let slowest = readers(shelves, of).min_by_key(|queue| queue.passed_below()).expect("there is the queue itself");
    let below = slowest.passed_below();
    let mut apart: Vec<(MessageId, u64)> = readers(shelves, of)
        .flat_map(|queue| queue.apart().map(|(message, _, size)| (message, size)))
        .filter(|(message, _)| *message < below && slowest.has_passed(*message))
        .collect();
    apart.sort_unstable();
    apart.dedup();
    let (ahead, ahead_bytes) = stored_ahead(shelves, of, slowest);
    let bytes = slowest.bytes() + ahead_bytes + apart.iter().map(|(_, size)| size).sum::<u64>();
    (slowest.counters.present() + ahead + apart.len() as u64, bytes)
}
