//! What clients of a queue server saw, and whether a correct server can have done that.
//!
//! The rules, for one reader of some queues (their plain reader, or a group): what was acknowledged is done exactly once, or lost to a
//! request whose reply did not come; what was not acknowledged is done once or never, and what was refused never; what is done is never
//! seen again, and what one client has open no other has; what one producer put comes out in that order, and nothing that was put
//! before something stored is missing; what is past its time is not served, and nothing goes to another queue before its time or after fewer deliveries than
//! it is due. Invariant: [`History::verify`] is `Ok` only if all of them hold.

use crate::traffic::{Consumed, MessageId, Sent};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A moment of the test's own clock, µs from its beginning. Where nobody looked at a clock it is 0.
pub type Moment = u64;

/// A server looks at its clock once a turn, and may have to wait for a processor in the middle of one: nobody is blamed for less, µs.
const CLOCK_SLACK: Moment = 2_000_000;

/// What the producer of a message knows.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    /// Which.
    pub id: MessageId,
    /// Before it was sent.
    pub sent: Moment,
    /// After this it was not put any more: it was answered, or the server had gone.
    pub settled: Moment,
    /// What was answered.
    pub outcome: Outcome,
    /// How long it lives from its put on, µs, if not for ever.
    pub lifetime: Option<Moment>,
}

/// What a put was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in the queue.
    Stored,
    /// It is not, and never will be.
    Refused,
    /// Nothing.
    Unknown,
}

/// A message that came to a client.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Which.
    pub id: MessageId,
    /// The queue that it came from, which may be another than it was put to.
    pub from: u32,
    /// Before the request was sent.
    pub asked: Moment,
    /// When it was there.
    pub came: Moment,
    /// Until then it was certainly this client's. Before `came`: nobody knows that it was.
    pub held_until: Moment,
    /// What became of it.
    pub end: End,
}

/// How a read ended, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was taken for good, or its confirmation was answered, then.
    Done(Moment),
    /// Its confirmation was not answered.
    MaybeDone,
    /// It was given back, which was answered.
    GivenBack,
    /// It returned, or nobody knows.
    Returned,
    /// It was only looked at.
    Looked,
}

impl Read {
    /// A message that was taken, by somebody without a clock.
    fn taken(id: MessageId) -> Read {
        Read { id, from: id.queue, asked: 0, came: 0, held_until: 0, end: End::Done(0) }
    }

    fn done(&self) -> Option<Moment> {
        if let End::Done(at) = self.end { Some(at) } else { None }
    }
}

/// Where messages of a queue go that leave it, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moves {
    /// When their time is over.
    Expired(u32),
    /// When they have come back so often.
    Delivered(u32, u64),
    /// When they have come back so often, to where others' messages are, too, so that it is not this reader's matter any more.
    Away(u64),
}

/// What all clients of a reader of some queues saw. Queues are drained at the end, with every reply received.
#[derive(Clone, Debug, Default)]
pub struct History {
    sent: HashMap<MessageId, Put>,
    /// What came to each client, in order of arrival.
    clients: Vec<Vec<Read>>,
    /// Per queue, requested keys that were not answered.
    unanswered: BTreeMap<u32, u64>,
    /// Per queue, opening requests that were not answered, and so may have delivered a message.
    unheard: BTreeMap<u32, u64>,
    /// Messages may have been deleted.
    deleting: bool,
    /// A crash may have put messages back behind younger ones that went straight to who waited for them.
    handing_over: bool,
    /// Messages were opened and confirmed later: younger ones may have been confirmed before.
    returning: bool,
    /// Messages were given back, so one client may see an older one after a younger one.
    reordering: bool,
    /// Queues that may refuse a message and take the next.
    refusing: HashSet<u32>,
    moves: HashMap<u32, Moves>,
    /// Per queue, what the server says that expired and is gone, and that it dropped.
    expired: BTreeMap<u32, u64>,
    dropped: BTreeMap<u32, u64>,
}

/// What became of a queue's messages, for comparison with the server's own counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Messages sent.
    pub sent: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Messages taken from it or confirmed, the drain not included.
    pub taken: u64,
    /// Requested keys and confirmations that were not answered.
    pub unanswered: u64,
}

impl History {
    /// Adds all that one producer sent.
    pub fn produced(&mut self, sent: impl IntoIterator<Item = Sent>) {
        for Sent { id, acknowledged } in sent {
            let outcome = if acknowledged { Outcome::Stored } else { Outcome::Unknown };
            self.put(Put { id, sent: 0, settled: 0, outcome, lifetime: None });
        }
    }

    /// Adds a message that was sent.
    pub fn put(&mut self, put: Put) {
        let before = self.sent.insert(put.id, put);
        assert!(before.is_none(), "{:?} was sent twice: the test is wrong", put.id);
    }

    /// Adds what one consumer saw.
    pub fn consumed(&mut self, consumed: Consumed) {
        self.read(consumed.taken.into_iter().map(Read::taken).collect());
        consumed.unanswered.into_iter().for_each(|queue| self.lose(queue, 1));
    }

    /// Adds what came to one client, in its order.
    pub fn read(&mut self, reads: Vec<Read>) {
        self.clients.push(reads);
    }

    /// So many requests were not answered and may each have taken a message from the queue.
    pub fn lose(&mut self, queue: u32, requests: u64) {
        *self.unanswered.entry(queue).or_default() += requests;
    }

    /// So many requests were not answered and may each have opened a message of the queue.
    pub fn mishear(&mut self, queue: u32, requests: u64) {
        *self.unheard.entry(queue).or_default() += requests;
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

    /// Messages were given back: a client may see an older one after a younger one.
    pub fn allow_reordering(&mut self) {
        self.returning = true;
        self.reordering = true;
    }

    /// The queue may refuse a message and take the next.
    pub fn allow_refusal(&mut self, queue: u32) {
        self.refusing.insert(queue);
    }

    /// Messages of this queue may go to another.
    pub fn allow_move(&mut self, queue: u32, moves: Moves) {
        self.moves.insert(queue, moves);
    }

    /// What the server says that it dropped of a queue, and of what was due there and went nowhere.
    pub fn excuse(&mut self, queue: u32, dropped: u64, expired: u64) {
        self.dropped.insert(queue, dropped);
        self.expired.insert(queue, expired);
    }

    /// Whether [`History::allow_hand_over`] was called.
    pub fn allows_hand_over(&self) -> bool {
        self.handing_over
    }

    /// The numbers of one queue.
    pub fn tally(&self, queue: u32) -> Tally {
        let sent = self.sent.values().filter(|put| put.id.queue == queue);
        let acknowledged = sent.clone().filter(|put| put.outcome == Outcome::Stored).count() as u64;
        let read = self.clients.iter().flatten().filter(|read| read.from == queue);
        let unsure = read.clone().filter(|read| read.end == End::MaybeDone).count() as u64;
        Tally {
            sent: sent.count() as u64,
            acknowledged,
            taken: read.filter(|read| read.done().is_some()).count() as u64,
            unanswered: self.unanswered.get(&queue).copied().unwrap_or_default() + unsure,
        }
    }

    /// Judges everything, with what was in the queues at the end, in its order.
    ///
    /// # Errors
    /// The first rule that is broken, and by which message.
    pub fn verify(&self, drained: &[MessageId]) -> Result<(), String> {
        self.verify_reads(&drained.iter().copied().map(Read::taken).collect::<Vec<_>>())
    }

    /// As `verify`, by somebody with a clock.
    ///
    /// # Errors
    /// The first rule that is broken, and by which message.
    pub fn verify_reads(&self, drained: &[Read]) -> Result<(), String> {
        let received = self.done_once(drained)?;
        self.held_by_one(drained)?;
        self.in_time(drained)?;
        self.delivered_enough(drained, &received)?;
        let consumers = self.clients.iter().map(Vec::as_slice).filter(|_| !self.reordering);
        for reads in consumers.chain([drained]) {
            in_order(reads)?;
        }
        let drained: Vec<MessageId> = drained.iter().map(|read| read.id).collect();
        let lines = self.lines();
        self.drained_last(&drained)?;
        let unsure: HashSet<MessageId> =
            self.clients.iter().flatten().filter(|read| read.end == End::MaybeDone).map(|read| read.id).collect();
        let mut lost: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for line in lines.values() {
            let missing = self.missing(line, &received, &drained)?;
            for id in missing.into_iter().filter(|id| !unsure.contains(id)) {
                lost.entry(self.family(id.queue)).or_default()[usize::from(self.sent[&id].lifetime.is_some())] += 1;
            }
        }
        for (family, [lost, lost_mortal]) in lost {
            let sum = |of: &BTreeMap<u32, u64>| {
                let of_family = of.iter().filter(|(queue, _)| self.family(**queue) == family);
                of_family.map(|(_, count)| *count).sum::<u64>()
            };
            let (unanswered, dropped) = (sum(&self.unanswered), sum(&self.dropped));
            let lost = lost + lost_mortal.saturating_sub(sum(&self.expired));
            if lost > unanswered + dropped && !self.deleting {
                return Err(format!(
                    "queue {family}: {lost} stored messages are lost, {unanswered} gets had no reply, {dropped} were dropped"
                ));
            }
        }
        Ok(())
    }

    /// The queue where all messages of a queue end up that its clients do not take, which stands for all that lead there.
    fn family(&self, queue: u32) -> u32 {
        match self.moves.get(&queue) {
            Some(Moves::Expired(to) | Moves::Delivered(to, _)) => *to,
            Some(Moves::Away(_)) | None => queue,
        }
    }

    /// All reads; the drain last.
    fn reads<'a>(&'a self, drained: &'a [Read]) -> impl Iterator<Item = &'a Read> {
        self.clients.iter().flatten().chain(drained)
    }

    fn done_once(&self, drained: &[Read]) -> Result<HashSet<MessageId>, String> {
        let mut received: HashMap<MessageId, Moment> = HashMap::new();
        for read in self.reads(drained) {
            let id = read.id;
            match self.sent.get(&id) {
                None => return Err(format!("{id:?} was never sent")),
                Some(put) if put.outcome == Outcome::Refused => return Err(format!("{id:?} was refused and came")),
                Some(_) if read.from != id.queue && self.family(id.queue) != read.from => {
                    return Err(format!("{id:?} came from queue {}", read.from));
                }
                Some(_) => {}
            }
            if let Some(at) = read.done()
                && received.insert(id, at).is_some()
            {
                return Err(format!("{id:?} was received twice"));
            }
        }
        for read in self.reads(drained) {
            match received.get(&read.id) {
                Some(at) if read.asked > *at => {
                    return Err(format!("{:?} was done with at {at} µs and seen again: {read:?}", read.id));
                }
                _ => {}
            }
        }
        Ok(received.into_keys().collect())
    }

    /// Nobody has a message that somebody else certainly has.
    fn held_by_one(&self, drained: &[Read]) -> Result<(), String> {
        let mut held: HashMap<MessageId, Vec<&Read>> = HashMap::new();
        for read in self.reads(drained).filter(|read| read.end != End::Looked) {
            held.entry(read.id).or_default().push(read);
        }
        for (id, mut reads) in held {
            let done = reads.iter().filter_map(|read| read.done()).min().unwrap_or(Moment::MAX);
            reads.retain(|read| read.held_until > read.came);
            reads.sort_unstable_by_key(|read| read.came);
            let mut before: Option<&Read> = None;
            for read in reads {
                if read.held_until > done || before.is_some_and(|before| before.held_until > read.came) {
                    return Err(format!("{id:?} was had by two at once, done with at {done}: {before:?}, {read:?}"));
                }
                before = Some(read);
            }
        }
        Ok(())
    }

    /// Nothing is served after its time, and nothing goes to where expired ones go before it.
    fn in_time(&self, drained: &[Read]) -> Result<(), String> {
        for read in self.reads(drained) {
            let put = &self.sent[&read.id];
            let moved = read.from != read.id.queue;
            match (put.lifetime, self.moves.get(&read.id.queue)) {
                (None, Some(Moves::Expired(_))) if moved => {
                    return Err(format!("{:?} lives for ever and expired: {read:?}", read.id));
                }
                (Some(lifetime), Some(Moves::Expired(_))) if moved && read.came + CLOCK_SLACK < put.sent + lifetime => {
                    return Err(format!("expired before its time: {read:?} of {put:?}"));
                }
                (Some(lifetime), _) if !moved && read.asked > put.settled + lifetime + CLOCK_SLACK => {
                    return Err(format!("served after its time: {read:?} of {put:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Messages go where those go that were delivered too often when they were delivered as often as that, not before and not after.
    fn delivered_enough(&self, drained: &[Read], received: &HashSet<MessageId>) -> Result<(), String> {
        let mut opened: HashMap<MessageId, (u64, u64, bool)> = HashMap::new();
        for read in self.reads(drained) {
            let (seen, given_back, moved) = opened.entry(read.id).or_default();
            if read.from != read.id.queue {
                *moved = true;
            } else if read.end != End::Looked {
                *seen += 1;
                *given_back += u64::from(read.end == End::GivenBack);
            }
        }
        let mut unseen: BTreeMap<u32, u64> = BTreeMap::new();
        for (id, (seen, given_back, moved)) in opened {
            let Some(Moves::Delivered(_, times) | Moves::Away(times)) = self.moves.get(&id.queue) else { continue };
            let done_here = received.contains(&id) && !moved;
            if given_back + u64::from(done_here) > *times {
                let reads: Vec<&Read> = self.reads(drained).filter(|read| read.id == id).collect();
                return Err(format!("given back {given_back} times, of {times}, done with: {done_here}: {reads:#?}"));
            }
            if moved {
                *unseen.entry(id.queue).or_default() += times.saturating_sub(seen);
            }
        }
        for (queue, unseen) in unseen {
            let unheard = self.unheard.get(&queue).copied().unwrap_or_default();
            if unseen > unheard {
                return Err(format!(
                    "queue {queue}: {unseen} deliveries count that nobody saw, {unheard} had no reply"
                ));
            }
        }
        Ok(())
    }

    /// What is left at the end is younger than what was taken before.
    fn drained_last(&self, drained: &[MessageId]) -> Result<(), String> {
        let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
        for read in self.clients.iter().flatten().filter(|read| read.done().is_some()) {
            let number = newest.entry((read.id.producer, read.id.queue)).or_default();
            *number = read.id.number.max(*number);
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
        for (id, put) in &self.sent {
            if put.outcome != Outcome::Refused {
                lines.entry((id.producer, id.queue)).or_default().push(*id);
            }
        }
        lines.values_mut().for_each(|line| line.sort_unstable());
        lines
    }

    /// Messages of a line that were stored and never received. Everything before a message that was stored was stored, too, unless its
    /// queue refuses some. A message can be lost to a get only at the head, before everything that is left.
    fn missing(
        &self,
        line: &[MessageId],
        received: &HashSet<MessageId>,
        drained: &[MessageId],
    ) -> Result<Vec<MessageId>, String> {
        let is_stored = |id: &MessageId| self.sent[id].outcome == Outcome::Stored;
        let refuses = line.first().is_some_and(|id| self.refusing.contains(&id.queue));
        let stored = line.iter().rposition(|id| is_stored(id) || received.contains(id)).map_or(0, |last| last + 1);
        let of_line = |id: &&MessageId| line.first().is_some_and(|f| (f.producer, f.queue) == (id.producer, id.queue));
        let missing = line[..stored].iter().filter(|id| !refuses || is_stored(id));
        let missing: Vec<MessageId> = missing.filter(|id| !received.contains(id)).copied().collect();
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
fn in_order(reads: &[Read]) -> Result<(), String> {
    let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
    // Where messages go that had to leave, each arrives when that was.
    let done = reads.iter().filter(|read| read.done().is_some() && read.from == read.id.queue);
    for id in done.map(|read| read.id) {
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

/// A message of queue 0 that came to a client from queue `from`: asked for, come, held until then.
fn came(number: u64, from: u32, [asked, came, held_until]: [Moment; 3], end: End) -> Read {
    Read { id: message(number), from, asked, came, held_until, end }
}

/// Messages of queue 0, stored at 100 µs, that live so long and go to queue 1.
fn moving(lifetime: Option<Moment>, moves: Moves, reads: Vec<Read>) -> Result<(), String> {
    let mut history = History::default();
    for number in 0..2 {
        history.put(Put { id: message(number), sent: 90, settled: 110, outcome: Outcome::Stored, lifetime });
    }
    history.allow_move(0, moves);
    history.allow_reordering();
    history.read(reads);
    history.verify_reads(&[came(1, 0, [500, 501, 501], End::Done(501))])
}

#[track_caller]
fn broken(verdict: Result<(), String>, why: &str) {
    let error = verdict.expect_err("a wrong history");
    assert!(error.contains(why), "{error}");
}

const DEAD_AT_2: Moves = Moves::Delivered(1, 2);

#[test]
fn a_message_that_is_done_with_and_comes_again_is_found() {
    let done = || came(0, 0, [200, 201, 210], End::Done(220));
    moving(None, DEAD_AT_2, vec![done()]).expect("it was confirmed");
    moving(None, DEAD_AT_2, vec![done(), came(0, 0, [215, 225, 0], End::Looked)]).expect("it was seen before");
    for end in [End::Looked, End::Returned, End::GivenBack, End::MaybeDone] {
        broken(moving(None, DEAD_AT_2, vec![done(), came(0, 0, [221, 230, 0], end)]), "seen again");
    }
    broken(moving(None, DEAD_AT_2, vec![done(), came(0, 0, [211, 230, 0], End::Done(230))]), "received twice");
}

#[test]
fn a_message_that_two_have_at_once_is_found() {
    let first = || came(0, 0, [200, 201, 300], End::GivenBack);
    moving(None, DEAD_AT_2, vec![first(), came(0, 0, [250, 301, 301], End::Done(301))]).expect("one after the other");
    broken(moving(None, DEAD_AT_2, vec![first(), came(0, 0, [250, 299, 299], End::Done(299))]), "by two at once");
    broken(
        moving(
            None,
            DEAD_AT_2,
            vec![first(), came(0, 0, [250, 299, 310], End::Returned), came(0, 0, [250, 320, 320], End::Done(320))],
        ),
        "by two at once",
    );
}

#[test]
fn a_message_that_was_refused_and_comes_is_found() {
    let mut history = example();
    let refused = Put { id: message(9), sent: 0, settled: 0, outcome: Outcome::Refused, lifetime: None };
    history.put(refused);
    let rest = [1, 2, 3].map(message);
    history.verify(&rest).expect("it did not come");
    broken(history.verify(&[&rest[..], &[message(9)]].concat()), "refused and came");
}

#[test]
fn what_a_queue_refuses_is_no_hole_in_it() {
    let mut history = example();
    history.allow_refusal(0);
    history.verify(&[1, 2, 3, 5].map(message)).expect("4 may have been refused");
    history.verify(&[1, 3, 5].map(message)).expect_err("2 was acknowledged");
}

#[test]
fn a_confirmation_without_an_answer_excuses_its_message_and_no_other() {
    let unsure = |number| vec![came(number, 0, [200, 201, 210], End::MaybeDone)];
    moving(None, DEAD_AT_2, unsure(0)).expect("it may be done");
    broken(moving(None, DEAD_AT_2, unsure(1)), "1 stored messages are lost");
}

#[test]
fn what_is_past_its_time_and_what_moves_before_it_are_found() {
    let second = 1_000_000;
    let expires = Moves::Expired(1);
    let at = |from, asked| vec![came(0, from, [asked, asked + 1, asked + 1], End::Done(asked + 1))];
    moving(Some(second), expires, at(0, second)).expect("in time");
    moving(Some(second), expires, at(1, second + 110)).expect("it has expired");
    broken(moving(Some(second), expires, at(0, second + 110 + CLOCK_SLACK + 1)), "after its time");
    broken(moving(Some(10 * second), expires, at(1, second)), "before its time");
    broken(moving(None, expires, at(1, second)), "lives for ever");
    broken(moving(Some(second), expires, at(2, second)), "came from queue 2");
    let both = [at(0, second), at(1, 2 * second)].concat();
    broken(moving(Some(second), expires, both), "received twice");
}

#[test]
fn deliveries_that_do_not_fit_are_found() {
    let back = |at| came(0, 0, [at, at + 1, at + 2], End::GivenBack);
    let done = |from| came(0, from, [280, 281, 281], End::Done(281));
    moving(None, DEAD_AT_2, vec![back(200), back(210), done(1)]).expect("it came back twice");
    moving(None, DEAD_AT_2, vec![back(200), done(0)]).expect("it came back once");
    broken(moving(None, DEAD_AT_2, vec![back(200), back(210), done(0)]), "given back 2 times");
    broken(moving(None, DEAD_AT_2, vec![back(200), back(210), back(220), done(1)]), "given back 3 times");
    broken(moving(None, DEAD_AT_2, vec![back(200), done(1)]), "1 deliveries count that nobody saw");
    let away = || Moves::Away(2);
    moving(None, away(), vec![back(200), done(0)]).expect("it came back once");
    broken(moving(None, away(), vec![back(200), back(210), done(0)]), "given back 2 times");
    broken(moving(None, away(), vec![back(200), back(210), done(1)]), "came from queue 1");
    let mut history = History::default();
    history.put(Put { id: message(0), sent: 0, settled: 0, outcome: Outcome::Stored, lifetime: None });
    history.allow_move(0, DEAD_AT_2);
    history.mishear(0, 2);
    history.verify_reads(&[done(1)]).expect("two deliveries had no reply");
}

#[test]
fn what_expired_and_was_dropped_excuses_as_many_and_only_what_can_expire() {
    let mut history = History::default();
    for number in 0..4 {
        let lifetime = (number < 2).then_some(5);
        history.put(Put { id: message(number), sent: 0, settled: 0, outcome: Outcome::Stored, lifetime });
    }
    history.allow_returns();
    history.excuse(0, 1, 2);
    history.verify(&[message(3)]).expect("two expired and one was dropped");
    broken(history.verify(&[]), "2 stored messages are lost");
    history.excuse(0, 0, 9);
    broken(history.verify(&[message(3)]), "1 stored messages are lost");
}
