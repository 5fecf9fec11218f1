//! Audit: the books of a verified run, and the verdict over them.
//!
//! Producers note what was sent and what was refused; consumers note what arrived. Each thread keeps its own books,
//! which are merged when all are done. A message counts as lost when its put was accepted and it never arrived; a put
//! that was refused may or may not have happened, so either is right.
//!
//! Order is checked per consumer: of one producer and queue, each consumer sees ascending sequences. With one consumer
//! to a queue that is the whole order of the queue.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::options::{Plan, Workload};
use crate::stamp::Stamp;

/// Violations shown word for word; the rest is only counted.
const EXAMPLES_MAX: usize = 10;

/// The messages of one producer to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    run: u32,
    producer: u32,
    queue: u32,
}

impl Stream {
    /// The stream `stamp` belongs to.
    pub fn of(stamp: &Stamp) -> Stream {
        Stream { run: stamp.run, producer: stamp.producer, queue: stamp.queue }
    }
}

/// What a producer did to one queue.
#[derive(Debug, Default)]
struct Sent {
    /// The next sequence.
    next: u64,
    /// Sequences whose put was not accepted.
    refused: HashSet<u64>,
}

/// Which sequences of a stream arrived: one bit each.
#[derive(Debug, Default)]
struct Arrived {
    words: Vec<u64>,
}

impl Arrived {
    /// Notes a sequence; false if it was there already.
    fn insert(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    fn contains(&self, sequence: u64) -> bool {
        self.words.get((sequence / 64) as usize).is_some_and(|word| word & (1 << (sequence % 64)) != 0)
    }

    fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds another thread's arrivals; how many were in both.
    fn merge(&mut self, other: &Arrived) -> u64 {
        let mut both = 0;
        self.words.resize(self.words.len().max(other.words.len()), 0);
        for (word, &added) in self.words.iter_mut().zip(&other.words) {
            both += u64::from((*word & added).count_ones());
            *word |= added;
        }
        both
    }

    /// Sequences missing between the first and the last one.
    fn gaps(&self) -> u64 {
        let first = self.words.iter().position(|&word| word != 0);
        let last = self.words.iter().rposition(|&word| word != 0);
        let (Some(first), Some(last)) = (first, last) else { return 0 };
        let lowest = first as u64 * 64 + u64::from(self.words[first].trailing_zeros());
        let highest = last as u64 * 64 + 63 - u64::from(self.words[last].leading_zeros());
        highest - lowest + 1 - self.len()
    }
}

/// The last sequence one consumer saw of each stream.
pub type LastSeen = HashMap<Stream, u64>;

/// The books of one thread.
#[derive(Debug, Default)]
pub struct Audit {
    sent: HashMap<Stream, Sent>,
    arrived: HashMap<Stream, Arrived>,
    doubled: u64,
    reordered: u64,
    damaged: u64,
    misrouted: u64,
    examples: Vec<String>,
}

impl Audit {
    /// The sequence of the next message of a stream.
    pub fn on_send(&mut self, run: u32, producer: u32, queue: u32) -> Stamp {
        let stream = Stream { run, producer, queue };
        let sent = self.sent.entry(stream).or_default();
        sent.next += 1;
        Stamp { run, producer, queue, sequence: sent.next - 1 }
    }

    /// A put was answered with something else than success.
    pub fn on_refused(&mut self, stamp: &Stamp) {
        let sent = self.sent.get_mut(&Stream::of(stamp)).expect("a refused message was sent");
        sent.refused.insert(stamp.sequence);
    }

    /// A message arrived at the consumer with the memory `last`; `asked` is the queue it asked, where that is known.
    pub fn on_message(&mut self, body: &[u8], asked: Option<u32>, last: &mut LastSeen) {
        let Some(stamp) = Stamp::read(body) else {
            self.damaged += 1;
            let shown = body[..body.len().min(48)].escape_ascii();
            return self.example(format!("damaged message of {} bytes: {shown}…", body.len()));
        };
        if asked.is_some_and(|queue| queue != stamp.queue) {
            self.misrouted += 1;
            self.example(format!("queue {} gave a message of another queue: {stamp:?}", asked.unwrap_or_default()));
        }
        let stream = Stream::of(&stamp);
        if !self.arrived.entry(stream).or_default().insert(stamp.sequence) {
            self.doubled += 1;
            return self.example(format!("doubled: {stamp:?}"));
        }
        let previous = last.insert(stream, stamp.sequence);
        if previous.is_some_and(|previous| previous > stamp.sequence) {
            self.reordered += 1;
            self.example(format!("out of order: {stamp:?} after sequence {}", previous.unwrap_or_default()));
        }
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    /// Adds the books of another thread.
    pub fn merge(&mut self, other: Audit) {
        for (stream, sent) in other.sent {
            // A producer lives on one thread, so nothing is overwritten.
            assert!(self.sent.insert(stream, sent).is_none());
        }
        for (stream, arrived) in other.arrived {
            let both = self.arrived.entry(stream).or_default().merge(&arrived);
            self.doubled += both;
            if both > 0 {
                self.example(format!("doubled: {both} messages of {stream:?} came to two threads"));
            }
        }
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.misrouted += other.misrouted;
        for text in other.examples {
            self.example(text);
        }
    }

    /// Closes the books of a run that ended in order. A fill only writes messages and a round trip has none, so they have no
    /// verdict.
    pub fn close(mut self, plan: &Plan) -> Option<Verdict> {
        let own = |stream: &Stream| stream.run == plan.run;
        let arrived = |ours: bool| -> u64 {
            self.arrived.iter().filter(|(stream, _)| own(stream) == ours).map(|(_, arrived)| arrived.len()).sum()
        };
        let (arrived_ours, arrived_others) = (arrived(true), arrived(false));
        let lost = match plan.workload {
            Workload::Fill | Workload::RoundTrip => return None,
            Workload::Drain => self.lost_in_drain(plan.expect, arrived_ours + arrived_others),
            Workload::Mixed | Workload::PingPong => self.lost_of_sent(),
        };
        let drained = plan.workload == Workload::Drain;
        Some(Verdict {
            sound: lost + self.doubled + self.reordered + self.damaged + self.misrouted == 0,
            sent: self.sent.values().map(|sent| sent.next).sum(),
            refused: self.sent.values().map(|sent| sent.refused.len() as u64).sum(),
            arrived: if drained { arrived_ours + arrived_others } else { arrived_ours },
            from_other_runs: if drained { 0 } else { arrived_others },
            lost,
            doubled: self.doubled,
            reordered: self.reordered,
            damaged: self.damaged,
            misrouted: self.misrouted,
            examples: self.examples,
        })
    }

    /// What is missing of this run's accepted messages.
    fn lost_of_sent(&mut self) -> u64 {
        let nothing = Arrived::default();
        let sorted: BTreeMap<_, _> = std::mem::take(&mut self.sent).into_iter().collect();
        let mut lost = 0;
        for (stream, sent) in &sorted {
            let arrived = self.arrived.get(stream).unwrap_or(&nothing);
            let missing = |sequence: &u64| !arrived.contains(*sequence) && !sent.refused.contains(sequence);
            let count = (0..sent.next).filter(missing).count() as u64;
            if let Some(first) = (0..sent.next).find(missing) {
                let text = format!("lost: {count} of {} messages of {stream:?}, the first is {first}", sent.next);
                if self.examples.len() < EXAMPLES_MAX {
                    self.examples.push(text);
                }
            }
            lost += count;
        }
        self.sent = sorted.into_iter().collect();
        lost
    }

    /// A drain does not know what was put: it sees the holes in what arrives, and what is short of `expect`.
    fn lost_in_drain(&mut self, expect: Option<u64>, arrived: u64) -> u64 {
        let holes: Vec<(Stream, u64)> = self
            .arrived
            .iter()
            .map(|(stream, arrived)| (*stream, arrived.gaps()))
            .filter(|(_, gaps)| *gaps > 0)
            .collect();
        for (stream, gaps) in &holes {
            self.example(format!("lost: {gaps} holes in {stream:?}"));
        }
        let gaps = holes.iter().map(|(_, gaps)| gaps).sum::<u64>();
        let short = expect.map_or(0, |expect| expect.saturating_sub(arrived));
        if short > 0 {
            self.example(format!("lost: {arrived} messages arrived of {}", expect.unwrap_or_default()));
        }
        gaps.max(short)
    }
}

/// What verification found. The counts are messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether there was no violation.
    pub sound: bool,
    /// Puts sent by this run.
    pub sent: u64,
    /// Puts the server did not accept.
    pub refused: u64,
    /// Distinct messages that arrived.
    pub arrived: u64,
    /// Messages an earlier run left behind; no violation.
    pub from_other_runs: u64,
    /// Accepted, but never arrived.
    pub lost: u64,
    /// Arrivals of a message that had arrived before.
    pub doubled: u64,
    /// Arrivals after a younger message of the same producer and queue, at the same consumer.
    pub reordered: u64,
    /// Messages with a wrong check sum or none.
    pub damaged: u64,
    /// Messages that came out of another queue than they were put into.
    pub misrouted: u64,
    /// The first violations in words.
    pub examples: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::stamp::Filler;
    use clap::Parser;

    const RUN: u32 = 7;

    fn plan(arguments: &str) -> Plan {
        let arguments = std::iter::once("ringq-bench").chain(arguments.split_whitespace());
        Plan::new(&Options::try_parse_from(arguments).unwrap(), RUN).unwrap()
    }

    fn body(run: u32, producer: u32, queue: u32, sequence: u64) -> Vec<u8> {
        let mut body = Vec::new();
        Filler::new(64).append_stamped(&mut body, Stamp { run, producer, queue, sequence }, 64);
        body
    }

    fn sent(count: u64) -> Audit {
        let mut audit = Audit::default();
        for _ in 0..count {
            audit.on_send(RUN, 0, 0);
        }
        audit
    }

    /// The verdict of a mixed run that sent five messages and received `sequences`.
    fn verdict_after(sequences: &[u64]) -> Verdict {
        let mut audit = sent(5);
        let mut last = LastSeen::new();
        for &sequence in sequences {
            audit.on_message(&body(RUN, 0, 0, sequence), Some(0), &mut last);
        }
        audit.close(&plan("mixed --verify")).unwrap()
    }

    #[test]
    fn all_messages_once_and_in_order_are_sound() {
        let verdict = verdict_after(&[0, 1, 2, 3, 4]);
        assert!(verdict.sound, "{verdict:?}");
        assert_eq!((verdict.sent, verdict.arrived), (5, 5));
    }

    #[test]
    fn a_lost_message_is_found_wherever_it_was() {
        for lost in 0..5 {
            let rest: Vec<u64> = (0..5).filter(|&sequence| sequence != lost).collect();
            let verdict = verdict_after(&rest);
            assert_eq!((verdict.sound, verdict.lost, verdict.reordered), (false, 1, 0));
            assert_eq!(verdict.examples.len(), 1);
        }
        assert_eq!(verdict_after(&[]).lost, 5);
    }

    #[test]
    fn a_doubled_message_is_not_also_out_of_order() {
        let verdict = verdict_after(&[0, 1, 2, 1, 3, 4]);
        assert_eq!((verdict.sound, verdict.doubled, verdict.reordered, verdict.lost), (false, 1, 0, 0));
    }

    #[test]
    fn swapped_messages_are_out_of_order() {
        let verdict = verdict_after(&[0, 2, 1, 3, 4]);
        assert_eq!((verdict.sound, verdict.doubled, verdict.reordered, verdict.lost), (false, 0, 1, 0));
    }

    #[test]
    fn two_consumers_may_each_see_a_part_in_order() {
        let mut audit = sent(4);
        let (mut one, mut other) = (LastSeen::new(), LastSeen::new());
        for sequence in [1, 3] {
            audit.on_message(&body(RUN, 0, 0, sequence), Some(0), &mut one);
        }
        for sequence in [0, 2] {
            audit.on_message(&body(RUN, 0, 0, sequence), Some(0), &mut other);
        }
        assert!(audit.close(&plan("mixed --verify")).unwrap().sound);
    }

    #[test]
    fn a_message_that_came_to_two_threads_is_doubled() {
        let mut audit = sent(2);
        let mut other = Audit::default();
        audit.on_message(&body(RUN, 0, 0, 0), Some(0), &mut LastSeen::new());
        other.on_message(&body(RUN, 0, 0, 0), Some(0), &mut LastSeen::new());
        other.on_message(&body(RUN, 0, 0, 1), Some(0), &mut LastSeen::new());
        audit.merge(other);
        let verdict = audit.close(&plan("mixed --verify")).unwrap();
        assert_eq!((verdict.doubled, verdict.lost), (1, 0));
    }

    #[test]
    fn a_refused_put_is_not_lost() {
        let mut audit = sent(1);
        let stamp = audit.on_send(RUN, 0, 0);
        audit.on_refused(&stamp);
        audit.on_message(&body(RUN, 0, 0, 0), Some(0), &mut LastSeen::new());
        let verdict = audit.close(&plan("mixed --verify")).unwrap();
        assert_eq!((verdict.sound, verdict.sent, verdict.refused), (true, 2, 1));
    }

    #[test]
    fn damage_and_the_wrong_queue_are_violations() {
        let mut audit = sent(2);
        let mut damaged = body(RUN, 0, 0, 1);
        damaged[40] ^= 1;
        audit.on_message(&body(RUN, 0, 0, 0), Some(3), &mut LastSeen::new());
        audit.on_message(&damaged, Some(0), &mut LastSeen::new());
        let verdict = audit.close(&plan("mixed --verify")).unwrap();
        assert_eq!((verdict.sound, verdict.misrouted, verdict.damaged, verdict.lost), (false, 1, 1, 1));
    }

    #[test]
    fn leftovers_of_another_run_are_told_apart() {
        let mut audit = sent(1);
        audit.on_message(&body(RUN + 1, 0, 0, 9), Some(0), &mut LastSeen::new());
        audit.on_message(&body(RUN, 0, 0, 0), Some(0), &mut LastSeen::new());
        let verdict = audit.close(&plan("mixed --verify")).unwrap();
        assert_eq!((verdict.sound, verdict.arrived, verdict.from_other_runs), (true, 1, 1));
    }

    #[test]
    fn a_drain_sees_holes_and_what_is_short() {
        let drain = |sequences: &[u64], arguments: &str| {
            let mut audit = Audit::default();
            let mut last = LastSeen::new();
            for &sequence in sequences {
                audit.on_message(&body(1, 4, 0, sequence), Some(0), &mut last);
            }
            audit.close(&plan(arguments)).unwrap().lost
        };
        assert_eq!(drain(&[60, 61, 62, 63, 64, 65], "drain --verify"), 0);
        assert_eq!(drain(&[60, 61, 63, 200], "drain --verify"), 137);
        assert_eq!(drain(&[0, 1, 2], "drain --verify --expect 5"), 2);
        assert_eq!(drain(&[0, 2], "drain --verify --expect 2"), 1);
        assert_eq!(drain(&[], "drain --verify"), 0);
    }

    #[test]
    fn a_fill_has_no_verdict() {
        assert_eq!(sent(3).close(&plan("fill --verify")), None);
    }
}
