//! The replies of one session: in request order, and none before what it reports is durable.
//!
//! Replies that are known at once are written straight to `out`. A *mark* remembers up to where `out` depends on which batch;
//! bytes before the first mark that is not durable may be sent. When an answer has to come from elsewhere (another shard, the
//! store) its place is a *slot*: later replies are held behind it until it is filled.
//!
//! Invariant: bytes leave in the order of requests, and a byte leaves only when every batch marked at or before it is durable.

use crate::ids::{QueueId, Seq};
use crate::latency::Metric;
use crate::limits::POOLED_BUFFER_SIZE_MAX;
use crate::session::reads::Opened;
use crate::session::timing::{Began, Due, Timings};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Replies on their way to one client.
#[derive(Default)]
pub struct Replies {
    out: Vec<u8>,
    /// Bytes at the front of `out` that may be sent.
    released: usize,
    /// Bytes taken from the front of `out` so far; positions in marks count from the start of the connection.
    base: u64,
    marks: VecDeque<Mark>,
    slots: VecDeque<Slot>,
    first_slot: u64,
    waiting: usize,
    /// Messages that gets wait for.
    awaited: usize,
    held_size: usize,
    /// Bytes of complete replies behind a slot that waits, in order.
    held: Option<Box<HeldBytes>>,
    /// When those in order began whose bytes were not taken.
    due: Due,
}

/// `out` up to `end` needs `seq` to be durable; `hits` messages of `queue` are in it.
struct Mark {
    seq: Seq,
    end: u64,
    queue: QueueId,
    hits: u32,
}

/// A reply that cannot go to `out` yet.
enum Slot {
    /// Complete, behind one that waits; so many bytes of `held`.
    Held { size: usize, seq: Seq, hits: Hits, began: Option<Began> },
    /// To be filled in pieces.
    Waiting(Waiting),
}

/// Bytes that come and go in the same order.
#[derive(Default)]
struct HeldBytes {
    bytes: Vec<u8>,
    taken: usize,
}

impl HeldBytes {
    /// The first of them, so many.
    fn take(&mut self, size: usize) -> &[u8] {
        let start = self.taken;
        self.taken += size;
        &self.bytes[start..self.taken]
    }

    fn forget_taken(&mut self) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(POOLED_BUFFER_SIZE_MAX);
            self.taken = 0;
        }
    }
}

struct Waiting {
    parts: Parts,
    /// How many parts are not in yet.
    missing: usize,
    /// Bytes of the parts that are.
    size: usize,
    ending: &'static [u8],
    /// The parts are messages.
    is_get: bool,
    /// More parts may be added.
    is_open: bool,
    began: Option<Began>,
}

impl Waiting {
    fn is_complete(&self) -> bool {
        self.missing == 0 && !self.is_open
    }

    /// What it is measured as is known only now: a get was taken for one that finds something.
    fn began(&self, has_hits: bool) -> Option<Began> {
        let miss = |began: Began| Began { metric: Metric::GetMiss, ..began };
        self.began.map(|began| if began.metric == Metric::GetHit && !has_hits { miss(began) } else { began })
    }
}

/// The queues of messages; rarely more than one.
pub type Hits = SmallVec<[QueueId; 1]>;

/// The pieces of a reply, as far as they are in; rarely more than one.
pub type Parts = SmallVec<[Option<Answer>; 1]>;

/// A piece of a reply with what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What to send.
    pub bytes: Vec<u8>,
    /// Sent only when this batch is durable; 0 when nothing is waited for.
    pub seq: Seq,
    /// The queues of the messages in it.
    pub hits: Hits,
    /// The message in it was opened, not taken.
    pub opened: Option<Opened>,
    /// A text that replaces the reply's ending: what went wrong with this piece.
    pub failure: Option<&'static [u8]>,
}

/// An [`Answer`] whose bytes are somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// As in [`Answer`].
    pub bytes: &'a [u8],
    /// As in [`Answer`].
    pub seq: Seq,
    /// As in [`Answer`].
    pub hits: &'a [QueueId],
    /// As in [`Answer`].
    pub opened: Option<Opened>,
    /// As in [`Answer`].
    pub failure: Option<&'static [u8]>,
}

impl Answer {
    /// The same, lent.
    pub fn piece(&self) -> Piece<'_> {
        Piece { bytes: &self.bytes, seq: self.seq, hits: &self.hits, opened: self.opened, failure: self.failure }
    }
}

impl Piece<'_> {
    /// The same, with bytes of its own.
    pub fn to_answer(self) -> Answer {
        Answer {
            bytes: self.bytes.to_vec(),
            seq: self.seq,
            hits: self.hits.into(),
            opened: self.opened,
            failure: self.failure,
        }
    }
}

/// Where an answer belongs: slot and piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotId {
    /// Number of the slot, counted from the start of the connection.
    pub slot: u64,
    /// Piece of it.
    pub part: u32,
}

impl Replies {
    /// Adds a complete reply. `hits` are the queues whose messages `write` writes, the same one for consecutive messages.
    /// `began`: of a request that is measured.
    pub fn push(
        &mut self,
        timings: &mut Timings,
        durable: Seq,
        seq: Seq,
        hits: &[QueueId],
        began: Option<Began>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.slots.is_empty() {
            write(&mut self.out);
            self.mark(durable, seq, hits);
            self.note_began(timings, began);
        } else {
            let held = &mut self.held.get_or_insert_default().bytes;
            let start = held.len();
            write(held);
            let size = held.len() - start;
            self.held_size += size;
            self.slots.push_back(Slot::Held { size, seq, hits: hits.into(), began });
        }
    }

    /// Adds the place of a reply that comes in pieces and is then followed by `ending`. Returns the slot's number.
    pub fn push_waiting(&mut self, parts: Parts, ending: &'static [u8], began: Option<Began>) -> u64 {
        let missing = parts.iter().filter(|p| p.is_none()).count();
        assert!(missing > 0, "a reply with all its parts is not waiting");
        self.push_slot(Waiting { parts, missing, size: 0, ending, is_get: false, is_open: false, began })
    }

    /// Adds the place of a get's reply, with the messages there are so far; [`Replies::add_part`] adds more until
    /// [`Replies::close`].
    pub fn push_get(&mut self, parts: Parts, ending: &'static [u8], began: Option<Began>) -> u64 {
        assert!(parts.iter().all(Option::is_some), "what is awaited is added");
        self.push_slot(Waiting { parts, missing: 0, size: 0, ending, is_get: true, is_open: true, began })
    }

    fn push_slot(&mut self, mut waiting: Waiting) -> u64 {
        let slot = self.first_slot + self.slots.len() as u64;
        self.waiting += 1;
        waiting.size = waiting.parts.iter().flatten().map(|a| a.bytes.len()).sum();
        self.held_size += waiting.size;
        self.slots.push_back(Slot::Waiting(waiting));
        slot
    }

    /// Adds a piece to an open reply: a message, or the place of one that comes later.
    pub fn add_part(&mut self, slot: u64, part: Option<Answer>) -> SlotId {
        let size = part.as_ref().map_or(0, |answer| answer.bytes.len());
        self.held_size += size;
        self.awaited += usize::from(part.is_none());
        let waiting = self.waiting_at(slot);
        assert!(waiting.is_open, "a closed reply has all its parts");
        waiting.size += size;
        waiting.missing += usize::from(part.is_none());
        waiting.parts.push(part);
        SlotId { slot, part: waiting.parts.len() as u32 - 1 }
    }

    /// How many bytes of an open reply's messages are there, and how many messages are awaited.
    pub fn progress(&mut self, slot: u64) -> (usize, usize) {
        let waiting = self.waiting_at(slot);
        (waiting.size, waiting.missing)
    }

    /// No more parts will be added. Returns as [`Replies::fill`].
    pub fn close(&mut self, timings: &mut Timings, durable: Seq, slot: u64) -> Seq {
        let waiting = self.waiting_at(slot);
        waiting.is_open = false;
        if !waiting.is_complete() {
            return Seq(0);
        }
        self.waiting -= 1;
        self.advance(timings, durable)
    }

    fn waiting_at(&mut self, slot: u64) -> &mut Waiting {
        let index = usize::try_from(slot - self.first_slot).expect("slots are few");
        let Slot::Waiting(waiting) = &mut self.slots[index] else { unreachable!("slot {slot} is already complete") };
        waiting
    }

    /// Fills one piece of a waiting reply. Returns the newest batch that what is now in order waits for.
    pub fn fill(&mut self, timings: &mut Timings, durable: Seq, at: SlotId, answer: Answer) -> Seq {
        let size = answer.bytes.len();
        self.held_size += size;
        let waiting = self.waiting_at(at.slot);
        waiting.size += size;
        let part = &mut waiting.parts[at.part as usize];
        assert!(part.is_none(), "an answer comes once");
        *part = Some(answer);
        waiting.missing -= 1;
        let (is_get, is_complete) = (waiting.is_get, waiting.is_complete());
        self.awaited -= usize::from(is_get);
        if !is_complete {
            return Seq(0);
        }
        self.waiting -= 1;
        self.advance(timings, durable)
    }

    /// Fills a reply of one piece that is the next to be sent, without keeping its bytes in between. Returns as [`Replies::fill`];
    /// `None`: it is not such a reply.
    pub fn fill_next(&mut self, timings: &mut Timings, durable: Seq, at: SlotId, piece: Piece<'_>) -> Option<Seq> {
        let Some(Slot::Waiting(waiting)) = self.slots.front() else { return None };
        if at.slot != self.first_slot || waiting.is_open || waiting.parts.len() > 1 {
            return None;
        }
        assert!(waiting.parts[0].is_none(), "an answer comes once");
        let (is_get, ending) = (waiting.is_get, waiting.ending);
        let began = waiting.began(!piece.hits.is_empty());
        self.awaited -= usize::from(is_get);
        self.waiting -= 1;
        self.first_slot += 1;
        self.slots.pop_front();
        self.out.extend_from_slice(piece.bytes);
        self.out.extend_from_slice(piece.failure.unwrap_or(ending));
        self.mark(durable, piece.seq, piece.hits);
        self.note_began(timings, began);
        Some(self.advance(timings, durable).max(piece.seq))
    }

    /// Moves complete slots at the front to `out`.
    fn advance(&mut self, timings: &mut Timings, durable: Seq) -> Seq {
        let mut newest = Seq(0);
        while let Some(slot) = self.slots.front() {
            if matches!(slot, Slot::Waiting(waiting) if !waiting.is_complete()) {
                break;
            }
            self.first_slot += 1;
            newest = newest.max(match self.slots.pop_front().expect("just seen") {
                Slot::Held { size, seq, hits, began } => {
                    self.held_size -= size;
                    self.out.extend_from_slice(self.held.as_mut().expect("something is held").take(size));
                    self.mark(durable, seq, &hits);
                    self.note_began(timings, began);
                    seq
                }
                Slot::Waiting(waiting) => {
                    let began = waiting.began(waiting.parts.iter().flatten().any(|part| !part.hits.is_empty()));
                    let seq = self.append_parts(durable, waiting.parts, waiting.ending);
                    self.note_began(timings, began);
                    seq
                }
            });
        }
        self.held.iter_mut().for_each(|held| held.forget_taken());
        newest
    }

    /// A reply in pieces is sent when all of them are durable, so every mark of it carries the newest batch.
    fn append_parts(&mut self, durable: Seq, parts: Parts, ending: &'static [u8]) -> Seq {
        let seq = parts.iter().flatten().map(|a| a.seq).max().unwrap_or_default();
        let mut last_words = ending;
        for answer in parts.iter().flatten() {
            last_words = answer.failure.unwrap_or(last_words);
            self.append(durable, answer, seq);
        }
        self.out.extend_from_slice(last_words);
        self.mark(durable, seq, &[]);
        seq
    }

    fn append(&mut self, durable: Seq, answer: &Answer, seq: Seq) {
        self.held_size -= answer.bytes.len();
        self.out.extend_from_slice(&answer.bytes);
        self.mark(durable, seq, &answer.hits);
    }

    /// The reply just written is that of a request that began so.
    fn note_began(&mut self, timings: &mut Timings, began: Option<Began>) {
        if let Some(began) = began {
            let end = self.end();
            timings.add(&mut self.due, began, end);
        }
    }

    /// Notes what the bytes just written depend on, and releases them if that is nothing.
    fn mark(&mut self, durable: Seq, seq: Seq, hits: &[QueueId]) {
        let end = self.base + self.out.len() as u64;
        if self.marks.is_empty() && seq <= durable {
            self.released = self.out.len();
            return;
        }
        let queues = if hits.is_empty() { &[QueueId(0)] } else { hits };
        for queue in queues {
            let hit = u32::from(queue.0 != 0);
            match self.marks.back_mut() {
                Some(mark) if mark.seq == seq && (mark.queue == *queue || hit == 0 || mark.hits == 0) => {
                    mark.end = end;
                    mark.hits += hit;
                    mark.queue = mark.queue.max(*queue);
                }
                _ => self.marks.push_back(Mark { seq, end, queue: *queue, hits: hit }),
            }
        }
    }

    /// Everything up to `durable` is durable: more may be sent. Returns whether there is something to send.
    pub fn release(&mut self, durable: Seq) -> bool {
        while self.marks.front().is_some_and(|m| m.seq <= durable) {
            let mark = self.marks.pop_front().expect("just seen");
            self.released = usize::try_from(mark.end - self.base).expect("out is in memory");
        }
        if self.marks.is_empty() {
            self.released = self.out.len();
        }
        self.released > 0
    }

    /// Whether there is something to send now.
    pub fn has_released(&self) -> bool {
        self.released > 0
    }

    /// Calls `each` with the requests whose replies were taken, and how many began alike. To be called after [`Replies::take_released`].
    pub fn settle(&mut self, timings: &mut Timings, each: impl FnMut(Began, u32)) {
        timings.settle(&mut self.due, self.base, each);
    }

    /// Takes what may be sent; `spare` is an empty buffer to go on with.
    pub fn take_released(&mut self, mut spare: Vec<u8>) -> Vec<u8> {
        self.base += self.released as u64;
        if self.released == self.out.len() {
            self.released = 0;
            return std::mem::replace(&mut self.out, spare);
        }
        spare.extend_from_slice(&self.out[..self.released]);
        self.out.drain(..self.released);
        self.released = 0;
        spare
    }

    /// Whether a reply that fills this slot now, and waits for nothing, can be sent at once: all earlier ones may be.
    pub fn is_next(&self, slot: u64) -> bool {
        self.first_slot == slot && self.marks.is_empty()
    }

    /// Where the newest reply in order ends, in bytes since the start of the connection.
    pub fn end(&self) -> u64 {
        self.base + self.out.len() as u64
    }

    /// Replies of which some part has not come.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Messages that gets wait for.
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// Bytes held for this client, sent or not releasable yet.
    pub fn size(&self) -> usize {
        self.out.len() + self.held_size
    }

    /// Whether nothing is left to say.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.slots.is_empty()
    }

    /// The client is gone. Calls `unsent` with each queue and how many of its messages were taken for a reply that was never
    /// handed to the ring, and forgets everything.
    pub fn abandon(&mut self, timings: &mut Timings, mut unsent: impl FnMut(QueueId, u32)) {
        timings.forget(&mut self.due);
        for mark in self.marks.drain(..).filter(|m| m.hits > 0) {
            unsent(mark.queue, mark.hits);
        }
        for slot in self.slots.drain(..) {
            match slot {
                Slot::Held { hits, .. } => hits.iter().for_each(|queue| unsent(*queue, 1)),
                Slot::Waiting(waiting) => {
                    let hits = waiting.parts.iter().flatten().flat_map(|answer| &answer.hits);
                    hits.for_each(|queue| unsent(*queue, 1));
                }
            }
        }
        *self = Replies::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn say(replies: &mut Replies, seq: u64, text: &str) {
        replies
            .push(&mut Timings::default(), Seq(0), Seq(seq), &[], None, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn sent(replies: &mut Replies) -> String {
        String::from_utf8(replies.take_released(Vec::new())).unwrap()
    }

    #[test]
    fn a_reply_waits_for_its_batch_and_those_behind_it_wait_too() {
        let mut replies = Replies::default();
        say(&mut replies, 0, "a");
        assert_eq!(sent(&mut replies), "a");
        say(&mut replies, 1, "b");
        say(&mut replies, 0, "c");
        say(&mut replies, 2, "d");
        assert!(!replies.has_released());
        assert!(replies.release(Seq(1)));
        assert_eq!(sent(&mut replies), "bc");
        assert!(!replies.release(Seq(1)));
        assert!(replies.release(Seq(2)));
        assert_eq!(sent(&mut replies), "d");
        assert!(replies.is_empty());
    }

    #[test]
    fn later_replies_are_held_behind_a_slot() {
        let mut replies = Replies::default();
        say(&mut replies, 0, "a");
        let slot = replies.push_waiting(smallvec![None, None], b"END", None);
        say(&mut replies, 0, "z");
        assert_eq!(sent(&mut replies), "a");
        let answer = |text: &str| Answer { bytes: text.into(), ..Answer::default() };
        replies.fill(&mut Timings::default(), Seq(0), SlotId { slot, part: 1 }, answer("2"));
        assert!(!replies.has_released());
        replies.fill(&mut Timings::default(), Seq(0), SlotId { slot, part: 0 }, answer("1"));
        assert_eq!(sent(&mut replies), "12ENDz");
        assert_eq!((replies.waiting(), replies.size()), (0, 0));
    }

    #[test]
    fn no_piece_is_sent_before_all_are_durable() {
        let mut replies = Replies::default();
        let first = Answer { bytes: b"1".into(), seq: Seq(1), ..Answer::default() };
        let slot = replies.push_waiting(smallvec![Some(first), None], b"END", None);
        let second = Answer { bytes: b"2".into(), seq: Seq(3), ..Answer::default() };
        assert_eq!(replies.fill(&mut Timings::default(), Seq(0), SlotId { slot, part: 1 }, second), Seq(3));
        assert!(!replies.release(Seq(2)));
        assert!(replies.release(Seq(3)));
        assert_eq!(sent(&mut replies), "12END");
    }

    #[test]
    fn a_slot_is_next_when_all_before_it_may_be_sent() {
        let mut replies = Replies::default();
        say(&mut replies, 1, "one");
        let first = replies.push_get(Parts::new(), b"END", None);
        let second = replies.push_get(Parts::new(), b"END", None);
        assert!(!replies.is_next(first), "what is before it waits for its batch");
        replies.release(Seq(1));
        assert!(replies.is_next(first), "though it is not sent");
        assert!(!replies.is_next(second));
        replies.close(&mut Timings::default(), Seq(1), first);
        assert!(replies.is_next(second));
        assert_eq!(replies.end(), 6);
        assert_eq!(sent(&mut replies), "oneEND");
        assert_eq!(replies.end(), 6);
    }

    #[test]
    fn a_failed_piece_replaces_the_ending() {
        let mut replies = Replies::default();
        let slot = replies.push_waiting(smallvec![None, None], b"END", None);
        let failed = Answer { failure: Some(b"BAD"), ..Answer::default() };
        replies.fill(&mut Timings::default(), Seq(0), SlotId { slot, part: 0 }, failed);
        replies.fill(
            &mut Timings::default(),
            Seq(0),
            SlotId { slot, part: 1 },
            Answer { bytes: b"2".into(), ..Answer::default() },
        );
        assert_eq!(sent(&mut replies), "2BAD");
    }

    #[test]
    fn an_open_reply_takes_parts_until_it_is_closed() {
        let mut replies = Replies::default();
        let answer = |text: &str| Answer { bytes: text.into(), ..Answer::default() };
        let slot = replies.push_get(smallvec![Some(answer("1"))], b"END", None);
        let at = replies.add_part(slot, None);
        replies.add_part(slot, Some(answer("3")));
        assert_eq!((replies.progress(slot), replies.awaited()), ((2, 1), 1));
        replies.fill(&mut Timings::default(), Seq(0), at, answer("2"));
        assert!(!replies.has_released(), "it is still open");
        replies.close(&mut Timings::default(), Seq(0), slot);
        assert_eq!(sent(&mut replies), "123END");
        assert_eq!((replies.waiting(), replies.awaited(), replies.size()), (0, 0, 0));
    }

    #[test]
    fn the_next_reply_is_filled_from_borrowed_bytes_and_lets_go_what_it_held() {
        let piece = |text: &'static str, seq| Piece {
            bytes: text.as_bytes(),
            seq: Seq(seq),
            hits: &[],
            opened: None,
            failure: None,
        };
        let mut replies = Replies::default();
        let first = replies.push_waiting(smallvec![None], b"", None);
        say(&mut replies, 2, "b");
        let second = replies.push_get(Parts::new(), b"END", None);
        let at = replies.add_part(second, None);
        replies.close(&mut Timings::default(), Seq(0), second);
        say(&mut replies, 0, "d");
        assert_eq!(replies.fill_next(&mut Timings::default(), Seq(0), at, piece("c", 0)), None, "it is not the next");
        assert_eq!(
            replies.fill_next(&mut Timings::default(), Seq(0), SlotId { slot: first, part: 0 }, piece("a", 1)),
            Some(Seq(2))
        );
        assert_eq!(
            replies.fill_next(&mut Timings::default(), Seq(0), at, Piece { failure: Some(b"BAD"), ..piece("c", 0) }),
            Some(Seq(0))
        );
        assert!(!replies.has_released(), "no batch is durable");
        assert!(replies.release(Seq(1)));
        assert_eq!(sent(&mut replies), "a");
        assert!(replies.release(Seq(2)));
        assert_eq!(sent(&mut replies), "bcBADd");
        assert_eq!((replies.waiting(), replies.awaited(), replies.size()), (0, 0, 0));
        let open = replies.push_get(Parts::new(), b"END", None);
        let at = replies.add_part(open, None);
        assert_eq!(replies.fill_next(&mut Timings::default(), Seq(2), at, piece("e", 0)), None, "more may be added");
    }

    #[test]
    fn messages_that_were_never_sent_are_counted_once_each() {
        let mut replies = Replies::default();
        let hit = |replies: &mut Replies, queue| {
            replies.push(&mut Timings::default(), Seq(0), Seq(1), &[QueueId(queue)], None, |out| {
                out.extend_from_slice(b"v")
            });
        };
        hit(&mut replies, 1);
        hit(&mut replies, 1);
        hit(&mut replies, 2);
        say(&mut replies, 1, "s");
        let slot = replies.push_waiting(smallvec![None, None], b"END", None);
        let answer = Answer { bytes: b"v".into(), hits: smallvec![QueueId(3)], ..Answer::default() };
        replies.fill(&mut Timings::default(), Seq(0), SlotId { slot, part: 0 }, answer);
        hit(&mut replies, 4);
        let mut unsent = Vec::new();
        replies.abandon(&mut Timings::default(), |queue, hits| unsent.push((queue.0, hits)));
        assert_eq!(unsent, [(1, 2), (2, 1), (3, 1), (4, 1)]);
        replies.abandon(&mut Timings::default(), |_, _| panic!("only once"));
    }

    #[test]
    fn a_released_part_can_be_taken_while_the_rest_waits() {
        let mut replies = Replies::default();
        say(&mut replies, 1, "one");
        say(&mut replies, 2, "two");
        replies.release(Seq(1));
        assert_eq!(sent(&mut replies), "one");
        say(&mut replies, 3, "three");
        replies.release(Seq(3));
        assert_eq!(sent(&mut replies), "twothree");
    }
}
