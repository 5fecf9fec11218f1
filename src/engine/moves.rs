//! Moves: messages that go from the head of their queue to another one, because their time is over or they were delivered too often.
//!
//! A message that is to go is set aside: nobody gets it, and it counts as there until it has left. It leaves when there is room where it goes,
//! in the order in which heads were set aside. To a queue of this shard its put and its departure are in one batch. To one of
//! another shard they cannot be, and three batches follow each other:
//!
//! ```text
//!   here:  Move ──durable──▶ Transfer ─┐                        ┌─▶ Moved + Leave
//!   there:                             └─▶ Accept + Put ─durable─┘
//! ```
//!
//! After a crash in between, the start compares what was accepted with what was under way ([`crate::store::Store::settle_moves`]): the
//! message is there or here, never both and never neither.
//!
//! A start takes everything up to the highest accepted number as accepted. So transfers from one shard to another are accepted in the order of
//! their numbers: a target that refuses one, for want of storage, refuses all that follow until the sender begins again with it.
//!
//! Invariant: each moving message of a queue is once in `pending` or in one of `ways`. What is listed there and not moving any more was dropped
//! with its queue's messages, and is passed over.

use super::forward::Expected;
use super::wire::Request;
use super::{Engine, Fate};
use crate::ids::{MessageId, QueueId, Seq, ShardId};
use crate::limits::{MOVES_LEN_MAX, MOVES_RETRY_MS};
use crate::mutation::{Mutation, Why};
use crate::queue::{Apart, Entry};
use std::collections::VecDeque;

/// What leaves for other queues.
#[derive(Default)]
pub(super) struct Moves {
    /// Set aside, in order.
    pending: VecDeque<Pending>,
    /// There is no room for the first of them; whoever makes some says so.
    is_stuck: bool,
    /// Queues whose heads must go, but `pending` is full.
    pub blocked: Vec<QueueId>,
    /// On the way to other shards.
    ways: Vec<Way>,
    /// Bytes of their bodies.
    size: usize,
}

/// A message that is set aside.
#[derive(Clone, Copy)]
struct Pending {
    queue: QueueId,
    message: MessageId,
    why: Why,
}

/// To one shard.
#[derive(Default)]
struct Way {
    /// In the order of their numbers.
    transfers: VecDeque<Transfer>,
    /// How many of them were sent.
    sent_len: usize,
    /// Of these, how many have no answer yet.
    unanswered: usize,
    /// One was refused, and so is every one that follows.
    is_refused: bool,
    /// When to begin again, monotonic ms.
    retry_ms: u64,
}

struct Transfer {
    pending: Pending,
    /// The batch that has its `Move`.
    seq: Seq,
    number: u64,
    flags: u32,
    target: Box<[u8]>,
    body: Box<[u8]>,
}

impl Moves {
    pub(super) fn new(shards: usize) -> Self {
        Moves { ways: (0..shards).map(|_| Way::default()).collect(), ..Moves::default() }
    }

    /// Whether something may go on now.
    pub(super) fn has_work(&self) -> bool {
        !self.pending.is_empty() && !self.is_stuck
    }

    /// There may be room now.
    pub(super) fn wake(&mut self) {
        self.is_stuck = false;
    }

    /// When a refused transfer is sent again, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.ways.iter().filter(|way| way.is_refused && way.unanswered == 0).map(|way| way.retry_ms).min()
    }
}

impl Engine {
    /// Where messages of a reader go that leave it for this reason. `None`: nowhere.
    fn target_of(&self, index: u32, why: Why) -> Option<&[u8]> {
        let settings = self.shelves[index as usize].as_ref().expect("the caller found it").settings.as_deref()?;
        let target = match why {
            Why::Expired => &settings.expire_to,
            Why::DeadLettered => &settings.dead_letter,
            Why::Got | Why::Discarded | Why::Skipped => return None,
        };
        (!target.is_empty()).then_some(target)
    }

    /// The head, which is `entry`, leaves its queue unserved: for another one if there is one for such, otherwise for good. `false`: too many
    /// are set aside; the queue's head is settled when there are less.
    pub(super) fn dismiss_head(&mut self, index: u32, entry: Entry, why: Why) -> bool {
        if self.target_of(index, why).is_none() {
            self.drop_head(index, entry, if why == Why::DeadLettered { Why::Discarded } else { why });
            return true;
        }
        let queue = self.shelf(index).queue.id;
        if self.moves.pending.len() >= MOVES_LEN_MAX {
            if !self.moves.blocked.contains(&queue) {
                self.moves.blocked.push(queue);
            }
            return false;
        }
        let size = self.memory.message(entry.place).body.len();
        let message = self.shelf(index).queue.begin_move(size);
        self.count_unconfirmed(index);
        self.learn_bytes(index);
        self.moves.pending.push_back(Pending { queue, message, why });
        true
    }

    /// Lets go what was set aside, as far as there is room.
    pub(super) fn run_moves(&mut self) {
        while self.moves.has_work() {
            let first = *self.moves.pending.front().expect("there is one");
            self.moves.is_stuck = !self.begin_move(first);
            if !self.moves.is_stuck {
                self.moves.pending.pop_front();
            }
        }
        if self.moves.pending.len() < MOVES_LEN_MAX {
            let blocked = std::mem::take(&mut self.moves.blocked);
            blocked.into_iter().for_each(|queue| self.expiry.unsettle(queue));
        }
    }

    /// `false`: there is no room for it now.
    fn begin_move(&mut self, it: Pending) -> bool {
        let Pending { queue, message, why } = it;
        let Some((index, apart)) = self.moving(it) else { return true };
        let Some(target) = self.target_of(index, why) else {
            // There was one when it was set aside.
            self.end_move(index, message, if why == Why::DeadLettered { Why::Discarded } else { why });
            return true;
        };
        let (target, owner): (Box<[u8]>, _) = (target.into(), self.owner(target));
        let size = apart.size as usize;
        let is_way_full = self.moves.size > 0 && self.moves.size + size > self.load_size();
        let is_here = owner == self.config.shard;
        if self.refusing_puts || !self.has_room_for(size) || !is_here && is_way_full {
            return false;
        }
        let Some(place) = apart.place else {
            // It has left memory meanwhile: it is loaded like any that came back, and set aside again.
            self.shelf(index).queue.cancel_move(message);
            self.count_unconfirmed(index);
            self.note_expiring(index);
            self.load_ahead(index);
            // By then it may not have to go any more.
            self.serve_line(index);
            return true;
        };
        let put = self.memory.message(place);
        let (flags, body): (u32, Box<[u8]>) = (put.flags, put.body.into());
        if is_here {
            self.put_moved(&target, flags, &body);
            self.end_move(index, message, why);
            return true;
        }
        let number = self.next_id();
        self.record(&Mutation::Move { queue, message, number, why, target: &target });
        self.moves.size += size;
        let transfer = Transfer { pending: it, seq: self.current(), number, flags, target, body };
        self.moves.ways[usize::from(owner.0)].transfers.push_back(transfer);
        true
    }

    /// Where the queue of a listed message stands, and where that is, if it is still moving.
    fn moving(&self, it: Pending) -> Option<(u32, Apart)> {
        let index = *self.by_id.get(&it.queue)?;
        let queue = &self.shelves[index as usize].as_ref().expect("listed").queue;
        Some((index, queue.moving(it.message)?))
    }

    /// A message comes from another queue: whatever its limits, since it has nowhere else to be. It is as if it was put now, and lives as long as
    /// its new queue says.
    fn put_moved(&mut self, name: &[u8], flags: u32, body: &[u8]) {
        let index = self.find(name).unwrap_or_else(|| self.create(name));
        self.append(index, flags, 0, body);
    }

    /// A moving message is where it goes.
    fn end_move(&mut self, index: u32, message: MessageId, why: Why) {
        let Apart { place, size } = self.shelf(index).queue.end_move(message);
        if let Some(place) = place {
            self.memory.release(place);
        }
        self.depart(index, message, size, why);
        self.trace_message(index, message, Fate::of(why));
    }

    // --- between shards ---

    /// Sends what may be sent: its `Move` is durable, and what came before it was not refused.
    pub(super) fn send_moves(&mut self) {
        for shard in 0..self.config.shards {
            if self.moves.ways[usize::from(shard)].transfers.is_empty() {
                continue;
            }
            let mut way = std::mem::take(&mut self.moves.ways[usize::from(shard)]);
            self.send_way(ShardId(shard), &mut way);
            self.moves.ways[usize::from(shard)] = way;
        }
    }

    fn send_way(&mut self, to: ShardId, way: &mut Way) {
        while let Some(transfer) = way.transfers.get(way.sent_len) {
            if way.is_refused && (way.unanswered > 0 || self.now.mono_ms < way.retry_ms) || transfer.seq > self.durable
            {
                return;
            }
            let size = transfer.body.len();
            if self.moving(transfer.pending).is_none() {
                way.transfers.remove(way.sent_len);
                self.moves.size -= size;
                self.moves.wake();
                continue;
            }
            if !self.lane_has_room(to, size) {
                return;
            }
            let Transfer { pending: Pending { queue: source, .. }, number, flags, ref target, ref body, .. } =
                *transfer;
            let begins_again = std::mem::take(&mut way.is_refused);
            let request = Request::Transfer { source, number, begins_again, flags, target, body };
            self.forward(to, &request, Expected::Moved { number });
            way.sent_len += 1;
            way.unanswered += 1;
        }
    }

    /// A message of another shard's queue comes. What to answer, and what that waits for.
    pub(super) fn accept(&mut self, source: QueueId, number: u64, target: &[u8], flags: u32, body: &[u8]) -> Seq {
        self.record(&Mutation::Accept { source, number, target });
        self.put_moved(target, flags, body);
        self.current()
    }

    /// The answer to a transfer.
    pub(super) fn on_transferred(&mut self, to: ShardId, number: u64, is_accepted: bool) {
        let way = &mut self.moves.ways[usize::from(to.0)];
        way.unanswered -= 1;
        if is_accepted {
            let at = way.transfers.binary_search_by_key(&number, |transfer| transfer.number);
            let transfer = way.transfers.remove(at.expect("it was sent, and is answered once")).expect("just found");
            way.sent_len -= 1;
            self.moves.size -= transfer.body.len();
            if let Some((index, _)) = self.moving(transfer.pending) {
                let Pending { queue, message, why } = transfer.pending;
                self.record(&Mutation::Moved { queue, number });
                self.end_move(index, message, why);
            }
            self.moves.wake();
        } else {
            way.is_refused = true;
        }
        let way = &mut self.moves.ways[usize::from(to.0)];
        if way.is_refused && way.unanswered == 0 {
            way.sent_len = 0;
            way.retry_ms = self.now.mono_ms + MOVES_RETRY_MS;
        }
    }

    /// Checks lists and queues against each other. For tests.
    pub(super) fn assert_moves_consistent(&self) {
        let sent = self.moves.ways.iter().flat_map(|way| way.transfers.iter().map(|transfer| transfer.pending));
        let mut listed: Vec<_> = self.moves.pending.iter().copied().chain(sent).collect();
        listed.retain(|it| self.moving(*it).is_some());
        let len: u64 = self.shelves.iter().flatten().map(|shelf| shelf.queue.moving_len()).sum();
        assert_eq!(len, listed.len() as u64, "what is moving is listed");
        listed.sort_unstable_by_key(|it| (it.queue, it.message));
        listed.dedup_by_key(|it| (it.queue, it.message));
        assert_eq!(len, listed.len() as u64, "once");
        let bodies = self.moves.ways.iter().flat_map(|way| &way.transfers).map(|transfer| transfer.body.len());
        assert_eq!(bodies.sum::<usize>(), self.moves.size, "what is on its way is measured");
        for way in &self.moves.ways {
            assert!(way.transfers.iter().is_sorted_by(|a, b| a.number < b.number), "numbers rise");
            assert!(way.unanswered <= way.sent_len && way.sent_len <= way.transfers.len(), "what was sent is kept");
        }
    }
}
