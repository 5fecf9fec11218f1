//! What clients of a queue server saw, and whether a correct server can have done that.
//!
//! The rules, per queue: what was acknowledged is received exactly once, or lost to a get whose reply did not come; what was
//! not acknowledged is received once or never; what one producer put comes out in that order, to every consumer, and
//! nothing that was put before something stored is missing. Invariant: [`History::verify`] is `Ok` only if all of them hold.

use crate::traffic::{Consumed, MessageId, Sent};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What all clients of some queues saw. Queues are drained at the end, with every reply received.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Whether each message was acknowledged.
    sent: HashMap<MessageId, bool>,
    /// Each consumer's messages, in order of arrival.
    consumers: Vec<Vec<MessageId>>,
    /// Per queue, requested keys that were not answered.
    unanswered: BTreeMap<u32, u64>,
    /// Messages may have been deleted.
    deleting: bool,
    /// A crash may have put messages back behind younger ones that went straight to who waited for them.
    handing_over: bool,
    /// Messages were opened and confirmed later: younger ones may have been confirmed before.
    returning: bool,
}

/// What became of a queue's messages, for comparison with the server's own counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Messages sent.
    pub sent: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Messages received by consumers, the drain not included.
    pub taken: u64,
    /// Requested keys that were not answered.
    pub unanswered: u64,
}

impl History {
    /// Adds all that one producer sent.
    pub fn produced(&mut self, sent: impl IntoIterator<Item = Sent>) {
        for message in sent {
            let before = self.sent.insert(message.id, message.acknowledged);
            assert!(before.is_none(), "{:?} was sent twice: the test is wrong", message.id);
        }
    }

    /// Adds what one consumer saw.
    pub fn consumed(&mut self, consumed: Consumed) {
        self.consumers.push(consumed.taken);
        for queue in consumed.unanswered {
            *self.unanswered.entry(queue).or_default() += 1;
        }
    }

    /// `delete` or `flush_all` was used: messages may be gone.
    pub fn allow_deletion(&mut self) {
        self.deleting = true;
    }

    /// There were gets that wait, and crashes: what was being taken when the server died is in its place again, though younger
    /// messages had gone straight to clients that waited; and one of those may be lost with its reply.
    pub fn allow_hand_over(&mut self) {
        self.handing_over = true;
    }

    /// There were open reads: what one had open when the server died is in its place again, though others had confirmed younger messages;
    /// and a younger one may have been confirmed by a close whose reply did not come.
    pub fn allow_returns(&mut self) {
        self.returning = true;
    }

    /// Whether [`History::allow_hand_over`] was called.
    pub fn allows_hand_over(&self) -> bool {
        self.handing_over
    }

    /// The numbers of one queue.
    pub fn tally(&self, queue: u32) -> Tally {
        let sent = self.sent.iter().filter(|(id, _)| id.queue == queue);
        Tally {
            sent: sent.clone().count() as u64,
            acknowledged: sent.filter(|(_, acknowledged)| **acknowledged).count() as u64,
            taken: self.consumers.iter().flatten().filter(|id| id.queue == queue).count() as u64,
            unanswered: self.unanswered.get(&queue).copied().unwrap_or_default(),
        }
    }

    /// Judges everything, with what was in the queues at the end, in its order.
    ///
    /// # Errors
    /// The first rule that is broken, and by which message.
    pub fn verify(&self, drained: &[MessageId]) -> Result<(), String> {
        let received = self.received_once(drained)?;
        for messages in self.consumers.iter().map(Vec::as_slice).chain([drained]) {
            in_order(messages)?;
        }
        let lines = self.lines();
        self.drained_last(drained)?;
        let mut lost: BTreeMap<u32, u64> = BTreeMap::new();
        for line in lines.values() {
            for id in self.missing(line, &received, drained)? {
                *lost.entry(id.queue).or_default() += 1;
            }
        }
        for (queue, lost) in lost {
            let explained = self.unanswered.get(&queue).copied().unwrap_or_default();
            if lost > explained && !self.deleting {
                return Err(format!("queue {queue}: {lost} stored messages are lost, {explained} gets had no reply"));
            }
        }
        Ok(())
    }

    fn received_once(&self, drained: &[MessageId]) -> Result<HashSet<MessageId>, String> {
        let mut received = HashSet::new();
        for id in self.consumers.iter().flatten().chain(drained) {
            if !self.sent.contains_key(id) {
                return Err(format!("{id:?} was never sent"));
            }
            if !received.insert(*id) {
                return Err(format!("{id:?} was received twice"));
            }
        }
        Ok(received)
    }

    /// What is left at the end is younger than what was taken before.
    fn drained_last(&self, drained: &[MessageId]) -> Result<(), String> {
        let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
        for id in self.consumers.iter().flatten() {
            let number = newest.entry((id.producer, id.queue)).or_default();
            *number = id.number.max(*number);
        }
        let overtaken = |id: &&MessageId| newest.get(&(id.producer, id.queue)).is_some_and(|taken| id.number < *taken);
        match drained.iter().find(overtaken) {
            Some(id) if !self.handing_over && !self.returning => {
                Err(format!("{id:?} was left behind by younger messages of its producer"))
            }
            _ => Ok(()),
        }
    }

    /// What each producer put into each queue, in order.
    fn lines(&self) -> BTreeMap<(u32, u32), Vec<MessageId>> {
        let mut lines: BTreeMap<(u32, u32), Vec<MessageId>> = BTreeMap::new();
        for id in self.sent.keys() {
            lines.entry((id.producer, id.queue)).or_default().push(*id);
        }
        lines.values_mut().for_each(|line| line.sort_unstable());
        lines
    }

    /// Messages of a line that were stored and never received. Everything before a message that was stored was stored, too. A
    /// message can be lost to a get only at the head, before everything that is left.
    fn missing(
        &self,
        line: &[MessageId],
        received: &HashSet<MessageId>,
        drained: &[MessageId],
    ) -> Result<Vec<MessageId>, String> {
        let stored = line.iter().rposition(|id| self.sent[id] || received.contains(id)).map_or(0, |last| last + 1);
        let missing: Vec<MessageId> = line[..stored].iter().filter(|id| !received.contains(id)).copied().collect();
        let of_line = |id: &&MessageId| line.first().is_some_and(|f| (f.producer, f.queue) == (id.producer, id.queue));
        if let (Some(oldest), Some(lost)) = (drained.iter().find(of_line), missing.last())
            && lost.number > oldest.number
            && !self.handing_over
            && !self.returning
        {
            return Err(format!("{lost:?} is lost from the middle of its queue"));
        }
        Ok(missing)
    }
}

/// Messages of one producer in one queue rise.
fn in_order(messages: &[MessageId]) -> Result<(), String> {
    let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
    for id in messages {
        let before = newest.insert((id.producer, id.queue), id.number);
        if before.is_some_and(|before| before >= id.number) {
            return Err(format!("{id:?} came after a younger message of its producer"));
        }
    }
    Ok(())
}

fn message(number: u64) -> MessageId {
    MessageId { producer: 1, queue: 0, number }
}

/// Messages 0 to 5 of one producer: the first four acknowledged, of the rest nothing is known; 0 was taken, and one get was not
/// answered.
fn example() -> History {
    let mut history = History::default();
    history.produced((0..6).map(|number| Sent { id: message(number), acknowledged: number < 4 }));
    history.consumed(Consumed { taken: vec![message(0)], unanswered: vec![0] });
    history
}

fn verdict(drained: impl IntoIterator<Item = u64>) -> Result<(), String> {
    example().verify(&drained.into_iter().map(message).collect::<Vec<_>>())
}

#[track_caller]
fn refused(drained: impl IntoIterator<Item = u64>, why: &str) {
    let error = verdict(drained).expect_err("a wrong history");
    assert!(error.contains(why), "{error}");
}

#[test]
fn every_right_end_of_a_history_is_accepted() {
    verdict([1, 2, 3]).expect("the unanswered get took nothing, the last two were not stored");
    verdict([2, 3]).expect("the unanswered get took a message");
    verdict([1, 2, 3, 4]).expect("one of the unacknowledged was stored");
    verdict([2, 3, 4, 5]).expect("both were stored");
}

#[test]
fn an_acknowledged_message_that_is_missing_is_found() {
    refused([3], "2 stored messages are lost");
    refused([], "3 stored messages are lost");
    refused([1, 2], "lost from the middle");
    refused([1, 3], "lost from the middle");
}

#[test]
fn a_hole_before_a_stored_message_is_found() {
    refused([1, 2, 3, 5], "lost from the middle");
}

#[test]
fn a_message_received_twice_is_found() {
    refused([0, 1, 2, 3], "received twice");
    refused([1, 2, 2, 3], "received twice");
}

#[test]
fn a_message_that_nobody_sent_is_found() {
    refused([1, 2, 3, 6], "never sent");
}

#[test]
fn a_wrong_order_is_found() {
    refused([1, 3, 2], "after a younger message");
    let mut history = example();
    history.consumed(Consumed { taken: vec![message(2)], unanswered: Vec::new() });
    let error = history.verify(&[message(1), message(3)]).expect_err("1 was older than 2");
    assert!(error.contains("left behind"), "{error}");
    history.consumed(Consumed { taken: vec![message(3), message(1)], unanswered: Vec::new() });
    let error = history.verify(&[]).expect_err("a consumer got 1 after 3");
    assert!(error.contains("after a younger message"), "{error}");
}

#[test]
fn hand_over_excuses_an_order_across_clients_and_nothing_else() {
    let mut history = example();
    history.allow_hand_over();
    history.verify(&[message(1), message(3)]).expect("2 went to the unanswered get, and 1 came back");
    history.verify(&[message(1)]).expect_err("there was one get without a reply");
    history.verify(&[message(2), message(1)]).expect_err("what is left is in order");
    history.consumed(Consumed { taken: vec![message(2)], unanswered: Vec::new() });
    history.verify(&[message(1), message(3)]).expect("1 came back to its place");
    history.verify(&[message(1), message(2), message(3)]).expect_err("2 was taken");
}

#[test]
fn open_reads_excuse_an_order_across_clients_and_nothing_else() {
    let mut history = example();
    history.allow_returns();
    history.verify(&[message(1), message(3)]).expect("2 was confirmed, and 1 came back");
    history.verify(&[message(1)]).expect_err("one close had no reply");
    history.verify(&[message(2), message(1)]).expect_err("what is left is in order");
    history.verify(&[message(0), message(1), message(2), message(3)]).expect_err("0 was confirmed");
}

#[test]
fn deletion_excuses_losses_but_no_doubles() {
    let mut history = example();
    history.allow_deletion();
    history.verify(&[]).expect("all may be deleted");
    history.verify(&[message(0)]).expect_err("a taken message is no message any more");
}

#[test]
fn a_tally_counts_one_queue() {
    let expected = Tally { sent: 6, acknowledged: 4, taken: 1, unanswered: 1 };
    assert_eq!(example().tally(0), expected);
    assert_eq!(example().tally(1), Tally::default());
}
