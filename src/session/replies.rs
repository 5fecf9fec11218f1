//! The replies of one session: in request order, and none before what it reports is durable.
//!
//! Replies that are known at once are written straight to `out`. A *mark* remembers up to where `out` depends on which batch;
//! bytes before the first mark that is not durable may be sent. When an answer has to come from elsewhere (another shard, the
//! store) its place is a *slot*: later replies are held behind it until it is filled.
//!
//! Invariant: bytes leave in the order of requests, and a byte leaves only when every batch marked at or before it is durable.

use crate::ids::{QueueId, Seq};
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
    /// Complete, behind one that waits.
    Held(Answer),
    /// To be filled in pieces.
    Waiting(Waiting),
}

struct Waiting {
    parts: Vec<Option<Answer>>,
    /// How many parts are not in yet.
    missing: usize,
    /// Bytes of the parts that are.
    size: usize,
    ending: &'static [u8],
    /// The parts are messages.
    is_get: bool,
    /// More parts may be added.
    is_open: bool,
}

impl Waiting {
    fn is_complete(&self) -> bool {
        self.missing == 0 && !self.is_open
    }
}

/// A piece of a reply with what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What to send.
    pub bytes: Vec<u8>,
    /// Sent only when this batch is durable; 0 when nothing is waited for.
    pub seq: Seq,
    /// The queues of the messages in it.
    pub hits: Vec<QueueId>,
    /// A text that replaces the reply's ending: what went wrong with this piece.
    pub failure: Option<&'static [u8]>,
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
    pub fn push(&mut self, durable: Seq, seq: Seq, hits: &[QueueId], write: impl FnOnce(&mut Vec<u8>)) {
        if self.slots.is_empty() {
            write(&mut self.out);
            self.mark(durable, seq, hits);
        } else {
            let mut bytes = Vec::new();
            write(&mut bytes);
            self.held_size += bytes.len();
            self.slots.push_back(Slot::Held(Answer { bytes, seq, hits: hits.to_vec(), failure: None }));
        }
    }

    /// Adds the place of a reply that comes in pieces and is then followed by `ending`. Returns the slot's number.
    pub fn push_waiting(&mut self, parts: Vec<Option<Answer>>, ending: &'static [u8]) -> u64 {
        let missing = parts.iter().filter(|p| p.is_none()).count();
        assert!(missing > 0, "a reply with all its parts is not waiting");
        self.push_slot(Waiting { parts, missing, size: 0, ending, is_get: false, is_open: false })
    }

    /// Adds the place of a get's reply, with the messages there are so far; [`Replies::add_part`] adds more until
    /// [`Replies::close`].
    pub fn push_get(&mut self, parts: Vec<Option<Answer>>, ending: &'static [u8]) -> u64 {
        assert!(parts.iter().all(Option::is_some), "what is awaited is added");
        self.push_slot(Waiting { parts, missing: 0, size: 0, ending, is_get: true, is_open: true })
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
    pub fn close(&mut self, durable: Seq, slot: u64) -> Seq {
        let waiting = self.waiting_at(slot);
        waiting.is_open = false;
        if !waiting.is_complete() {
            return Seq(0);
        }
        self.waiting -= 1;
        self.advance(durable)
    }

    fn waiting_at(&mut self, slot: u64) -> &mut Waiting {
        let index = usize::try_from(slot - self.first_slot).expect("slots are few");
        let Slot::Waiting(waiting) = &mut self.slots[index] else { unreachable!("slot {slot} is already complete") };
        waiting
    }

    /// Fills one piece of a waiting reply. Returns the newest batch that what is now in order waits for.
    pub fn fill(&mut self, durable: Seq, at: SlotId, answer: Answer) -> Seq {
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
        self.advance(durable)
    }

    /// Moves complete slots at the front to `out`.
    fn advance(&mut self, durable: Seq) -> Seq {
        let mut newest = Seq(0);
        while let Some(slot) = self.slots.front() {
            if matches!(slot, Slot::Waiting(waiting) if !waiting.is_complete()) {
                break;
            }
            self.first_slot += 1;
            newest = newest.max(match self.slots.pop_front().expect("just seen") {
                Slot::Held(answer) => {
                    self.append(durable, &answer, answer.seq);
                    answer.seq
                }
                Slot::Waiting(waiting) => self.append_parts(durable, waiting.parts, waiting.ending),
            });
        }
        newest
    }

    /// A reply in pieces is sent when all of them are durable, so every mark of it carries the newest batch.
    fn append_parts(&mut self, durable: Seq, parts: Vec<Option<Answer>>, ending: &'static [u8]) -> Seq {
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
    pub fn abandon(&mut self, mut unsent: impl FnMut(QueueId, u32)) {
        for mark in self.marks.drain(..).filter(|m| m.hits > 0) {
            unsent(mark.queue, mark.hits);
        }
        for slot in self.slots.drain(..) {
            let answers = match slot {
                Slot::Held(answer) => vec![Some(answer)],
                Slot::Waiting(waiting) => waiting.parts,
            };
            answers.iter().flatten().flat_map(|a| &a.hits).for_each(|queue| unsent(*queue, 1));
        }
        *self = Replies::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(replies: &mut Replies, seq: u64, text: &str) {
        replies.push(Seq(0), Seq(seq), &[], |out| out.extend_from_slice(text.as_bytes()));
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
        let slot = replies.push_waiting(vec![None, None], b"END");
        say(&mut replies, 0, "z");
        assert_eq!(sent(&mut replies), "a");
        let answer = |text: &str| Answer { bytes: text.into(), ..Answer::default() };
        replies.fill(Seq(0), SlotId { slot, part: 1 }, answer("2"));
        assert!(!replies.has_released());
        replies.fill(Seq(0), SlotId { slot, part: 0 }, answer("1"));
        assert_eq!(sent(&mut replies), "12ENDz");
        assert_eq!((replies.waiting(), replies.size()), (0, 0));
    }

    #[test]
    fn no_piece_is_sent_before_all_are_durable() {
        let mut replies = Replies::default();
        let first = Answer { bytes: b"1".into(), seq: Seq(1), ..Answer::default() };
        let slot = replies.push_waiting(vec![Some(first), None], b"END");
        let second = Answer { bytes: b"2".into(), seq: Seq(3), ..Answer::default() };
        assert_eq!(replies.fill(Seq(0), SlotId { slot, part: 1 }, second), Seq(3));
        assert!(!replies.release(Seq(2)));
        assert!(replies.release(Seq(3)));
        assert_eq!(sent(&mut replies), "12END");
    }

    #[test]
    fn a_slot_is_next_when_all_before_it_may_be_sent() {
        let mut replies = Replies::default();
        say(&mut replies, 1, "one");
        let first = replies.push_get(Vec::new(), b"END");
        let second = replies.push_get(Vec::new(), b"END");
        assert!(!replies.is_next(first), "what is before it waits for its batch");
        replies.release(Seq(1));
        assert!(replies.is_next(first), "though it is not sent");
        assert!(!replies.is_next(second));
        replies.close(Seq(1), first);
        assert!(replies.is_next(second));
        assert_eq!(replies.end(), 6);
        assert_eq!(sent(&mut replies), "oneEND");
        assert_eq!(replies.end(), 6);
    }

    #[test]
    fn a_failed_piece_replaces_the_ending() {
        let mut replies = Replies::default();
        let slot = replies.push_waiting(vec![None, None], b"END");
        let failed = Answer { failure: Some(b"BAD"), ..Answer::default() };
        replies.fill(Seq(0), SlotId { slot, part: 0 }, failed);
        replies.fill(Seq(0), SlotId { slot, part: 1 }, Answer { bytes: b"2".into(), ..Answer::default() });
        assert_eq!(sent(&mut replies), "2BAD");
    }

    #[test]
    fn an_open_reply_takes_parts_until_it_is_closed() {
        let mut replies = Replies::default();
        let answer = |text: &str| Answer { bytes: text.into(), ..Answer::default() };
        let slot = replies.push_get(vec![Some(answer("1"))], b"END");
        let at = replies.add_part(slot, None);
        replies.add_part(slot, Some(answer("3")));
        assert_eq!((replies.progress(slot), replies.awaited()), ((2, 1), 1));
        replies.fill(Seq(0), at, answer("2"));
        assert!(!replies.has_released(), "it is still open");
        replies.close(Seq(0), slot);
        assert_eq!(sent(&mut replies), "123END");
        assert_eq!((replies.waiting(), replies.awaited(), replies.size()), (0, 0, 0));
    }

    #[test]
    fn messages_that_were_never_sent_are_counted_once_each() {
        let mut replies = Replies::default();
        let hit = |replies: &mut Replies, queue| {
            replies.push(Seq(0), Seq(1), &[QueueId(queue)], |out| out.extend_from_slice(b"v"));
        };
        hit(&mut replies, 1);
        hit(&mut replies, 1);
        hit(&mut replies, 2);
        say(&mut replies, 1, "s");
        let slot = replies.push_waiting(vec![None, None], b"END");
        let answer = Answer { bytes: b"v".into(), hits: vec![QueueId(3)], ..Answer::default() };
        replies.fill(Seq(0), SlotId { slot, part: 0 }, answer);
        hit(&mut replies, 4);
        let mut unsent = Vec::new();
        replies.abandon(|queue, hits| unsent.push((queue.0, hits)));
        assert_eq!(unsent, [(1, 2), (2, 1), (3, 1), (4, 1)]);
        replies.abandon(|_, _| panic!("only once"));
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
