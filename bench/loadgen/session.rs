//! Session: what one connection asks and how it takes the answers, without I/O.
//!
//! `fill` writes as many requests as may be in flight into `outgoing`, `on_bytes` takes what was read. Answers come in
//! the order of the requests, so `in_flight` pairs them; an answer that does not fit its request ends the run, because
//! nothing after it could be trusted. The session knows no sockets and no clock: bytes and times are arguments.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow, bail};

use crate::audit::{Audit, LastSeen};
use crate::beanstalkd;
use crate::memcache;
use crate::options::{Plan, Workload};
use crate::protocol::{Malformed, Parsed, QueueLines, Reply, encode_put};
use crate::size_range::Random;
use crate::stamp::{Filler, Stamp};
use crate::tally::{Operation, Tally};

/// What the sessions of one thread share.
#[derive(Debug)]
pub struct Load {
    /// Counts and latencies.
    pub tally: Tally,
    /// The books of a verified run.
    pub audit: Audit,
    /// Puts (drain: gets) this thread may still send.
    pub budget: u64,
    /// Producers of all threads that have not finished.
    pub producers: Arc<AtomicUsize>,
    /// Message filler.
    pub filler: Filler,
}

impl Load {
    fn take_budget(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget -= u64::from(left);
        left
    }
}

/// A connection's part in the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Puts.
    Producer,
    /// Gets.
    Consumer,
    /// Puts, then gets, in rounds.
    Both,
}

impl Role {
    /// The role of connection `index`, its number among those with that role, and how many those are.
    pub fn of(plan: &Plan, index: usize) -> (Role, usize, usize) {
        let producers = plan.connections / 2;
        match plan.workload {
            Workload::Fill => (Role::Producer, index, plan.connections),
            Workload::Drain | Workload::RoundTrip => (Role::Consumer, index, plan.connections),
            Workload::PingPong => (Role::Both, index, plan.connections),
            // Even and odd rather than halves, so that every thread has both.
            Workload::Mixed if index % 2 == 1 => (Role::Producer, index / 2, producers),
            Workload::Mixed => (Role::Consumer, index / 2, plan.connections - producers),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// Use, watch, ignore, or the first value of a cache key.
    Prepare,
    Put {
        size: usize,
        stamp: Option<Stamp>,
    },
    /// `decides`: a miss says that the queue will stay empty.
    Get {
        line: usize,
        decides: bool,
    },
    Delete {
        size: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    request: Request,
    /// When it was due (open loop) or sent (closed loop).
    start_ns: u64,
}

/// Ping-pong: the state of the current round.
#[derive(Clone, Copy, Debug)]
struct Round {
    puts_left: usize,
    stored: usize,
    gets_left: usize,
    getting: bool,
}

impl Round {
    fn new(depth: usize) -> Round {
        Round { puts_left: depth, stored: 0, gets_left: 0, getting: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Put,
    Get {
        decides: bool,
    },
    /// Nothing until an answer comes.
    Wait,
    Stop,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    plan: Arc<Plan>,
    index: u32,
    role: Role,
    lines: Vec<QueueLines>,
    put_cursor: usize,
    get_cursor: usize,
    /// The queue of the last put, where puts do not name theirs.
    selected: Option<usize>,
    /// Encoded requests that are not written yet.
    pub outgoing: Vec<u8>,
    in_flight: VecDeque<Pending>,
    /// Puts and gets in flight; preparing requests take no slot.
    open: usize,
    next_due_ns: u64,
    stopped: bool,
    round: Round,
    /// Deciding gets that found nothing, in a row.
    misses: usize,
    last_seen: LastSeen,
    random: Random,
    /// Bytes the answer at the front of the read buffer needs in all.
    pub needed: usize,
}

impl Session {
    /// The session of connection `index` of the run.
    pub fn new(plan: Arc<Plan>, index: usize) -> Session {
        let (role, number, of) = Role::of(&plan, index);
        let offset_ns = plan.interval_ns.unwrap_or(0) as u128 * index as u128 / plan.connections as u128;
        Session {
            index: index as u32,
            role,
            lines: own_lines(&plan, index, number, of),
            put_cursor: 0,
            get_cursor: 0,
            selected: None,
            outgoing: Vec::new(),
            in_flight: VecDeque::with_capacity(plan.depth),
            open: 0,
            next_due_ns: offset_ns as u64,
            stopped: false,
            round: Round::new(plan.depth),
            misses: 0,
            last_seen: LastSeen::new(),
            random: Random::new(plan.seed.wrapping_add((index as u64) << 32)),
            needed: 0,
            plan,
        }
    }

    /// Whether this session puts.
    pub fn is_producer(&self) -> bool {
        self.role != Role::Consumer
    }

    /// Whether all is sent and answered.
    pub fn is_finished(&self) -> bool {
        self.stopped && self.in_flight.is_empty()
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.in_flight.len()
    }

    /// When to call `fill` again although no answer came; `None` when only an answer helps.
    pub fn next_due_ns(&self) -> Option<u64> {
        let waits = self.plan.interval_ns.is_some() && !self.stopped && self.open < self.plan.depth;
        waits.then_some(self.next_due_ns)
    }

    /// Encodes what must come before the load.
    pub fn prepare(&mut self, load: &mut Load) {
        if self.plan.protocol.deletes_after_get() && self.role != Role::Producer {
            for line in &self.lines {
                self.outgoing.extend_from_slice(&line.watch);
                self.in_flight.push_back(Pending { request: Request::Prepare, start_ns: 0 });
            }
            self.outgoing.extend_from_slice(beanstalkd::IGNORE_DEFAULT);
            self.in_flight.push_back(Pending { request: Request::Prepare, start_ns: 0 });
        }
        if self.plan.cache {
            let size = self.plan.sizes.draw(&mut self.random);
            encode_put(&mut self.outgoing, &self.lines[0], size, |out| load.filler.append(out, 0, size));
            self.in_flight.push_back(Pending { request: Request::Prepare, start_ns: 0 });
        }
    }

    /// Encodes as many requests as are due and may be in flight.
    pub fn fill(&mut self, now_ns: u64, load: &mut Load) {
        while !self.stopped && self.open < self.plan.depth {
            let paced = self.plan.interval_ns.filter(|_| !self.past_deadline(self.next_due_ns));
            if paced.is_some() && self.next_due_ns > now_ns {
                return;
            }
            // After the deadline there are no due times: what is left (emptying the queues) goes as fast as it can.
            let after_load = self.plan.interval_ns.is_some() && paced.is_none();
            let due_ns = if paced.is_some() { self.next_due_ns } else { now_ns };
            let choice = if after_load { self.choose(u64::MAX, load) } else { self.choose(now_ns, load) };
            match choice {
                Choice::Put => self.encode_put(due_ns, load),
                Choice::Get { decides } => self.encode_get(due_ns, decides),
                Choice::Wait => return,
                Choice::Stop => return self.stop(load),
            }
            load.tally.on_send(paced.map(|_| now_ns - due_ns));
            self.next_due_ns += paced.unwrap_or(0);
        }
    }

    fn past_deadline(&self, now_ns: u64) -> bool {
        self.plan.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }

    fn stop(&mut self, load: &mut Load) {
        self.stopped = true;
        if let (Some(interval_ns), Some(deadline_ns)) = (self.plan.interval_ns, self.plan.deadline_ns)
            && load.tally.reached_deadline
        {
            load.tally.overdue += deadline_ns.saturating_sub(self.next_due_ns).div_ceil(interval_ns);
        }
    }

    fn choose(&mut self, now_ns: u64, load: &mut Load) -> Choice {
        let past_deadline = self.past_deadline(now_ns);
        load.tally.reached_deadline |= past_deadline;
        match self.role {
            Role::Producer if past_deadline || !load.take_budget() => Choice::Stop,
            Role::Producer => Choice::Put,
            Role::Consumer => self.choose_get(past_deadline, load),
            Role::Both => self.choose_in_round(past_deadline, load),
        }
    }

    fn choose_get(&self, past_deadline: bool, load: &mut Load) -> Choice {
        // Each of the queues was asked in turn and had nothing.
        let empty = self.misses >= self.lines.len();
        if matches!(self.plan.workload, Workload::Drain | Workload::RoundTrip) {
            let done = past_deadline || (empty && !self.plan.cache);
            return if done || !load.take_budget() { Choice::Stop } else { Choice::Get { decides: true } };
        }
        let producers_done = load.producers.load(Ordering::Acquire) == 0;
        let done = match self.plan.empties_queues() {
            true => producers_done && empty,
            false => past_deadline || (producers_done && self.plan.count.is_some()),
        };
        if done { Choice::Stop } else { Choice::Get { decides: producers_done } }
    }

    /// A round is: all puts, all their answers, then a get for each message that was accepted.
    fn choose_in_round(&mut self, past_deadline: bool, load: &mut Load) -> Choice {
        let Round { puts_left, stored, gets_left, getting } = self.round;
        let over = if getting { gets_left == 0 } else { puts_left == 0 && stored == 0 };
        if over && self.open == 0 {
            self.round = Round::new(self.plan.depth);
        }
        if !self.round.getting {
            if self.round.puts_left > 0 && !past_deadline && load.take_budget() {
                self.round.puts_left -= 1;
                return Choice::Put;
            }
            if self.open > 0 {
                return Choice::Wait;
            }
            if self.round.stored == 0 {
                return Choice::Stop;
            }
            self.round = Round { gets_left: self.round.stored, getting: true, ..self.round };
            self.round.stored = 0;
        }
        if self.round.gets_left == 0 {
            return Choice::Wait;
        }
        self.round.gets_left -= 1;
        Choice::Get { decides: false }
    }

    fn encode_put(&mut self, start_ns: u64, load: &mut Load) {
        let cursor = self.put_cursor;
        self.put_cursor = (cursor + 1) % self.lines.len();
        let lines = &self.lines[cursor];
        if !lines.select.is_empty() && self.selected != Some(cursor) {
            self.selected = Some(cursor);
            self.outgoing.extend_from_slice(&lines.select);
            self.in_flight.push_back(Pending { request: Request::Prepare, start_ns });
        }
        let size = self.plan.sizes.draw(&mut self.random);
        let stamp = self.plan.verify.then(|| load.audit.on_send(self.plan.run, self.index, lines.queue));
        encode_put(&mut self.outgoing, lines, size, |out| match stamp {
            Some(stamp) => load.filler.append_stamped(out, stamp, size),
            None => load.filler.append(out, start_ns, size),
        });
        self.in_flight.push_back(Pending { request: Request::Put { size, stamp }, start_ns });
        self.open += 1;
    }

    fn encode_get(&mut self, start_ns: u64, decides: bool) {
        let line = self.get_cursor;
        self.get_cursor = (line + 1) % self.lines.len();
        self.outgoing.extend_from_slice(&self.lines[line].get);
        self.in_flight.push_back(Pending { request: Request::Get { line, decides }, start_ns });
        self.open += 1;
    }

    /// Takes the answers in `bytes`, which were read at `now_ns`; returns how many bytes they were.
    pub fn on_bytes(&mut self, bytes: &[u8], now_ns: u64, load: &mut Load) -> Result<usize> {
        load.tally.roll(now_ns);
        let mut used = 0;
        while used < bytes.len() {
            match self.plan.protocol.parse(&bytes[used..]).map_err(|malformed| self.foreign(&malformed))? {
                Parsed::Whole { reply, size } => {
                    self.on_reply(reply, now_ns, load)?;
                    used += size;
                }
                Parsed::Partial { size } => {
                    self.needed = size;
                    break;
                }
            }
        }
        Ok(used)
    }

    fn foreign(&self, malformed: &Malformed) -> anyhow::Error {
        anyhow!("the server does not speak {}: it sent `{}`", self.plan.protocol.name(), malformed.shown)
    }

    fn on_reply(&mut self, reply: Reply<'_>, now_ns: u64, load: &mut Load) -> Result<()> {
        let Some(Pending { request, start_ns }) = self.in_flight.pop_front() else {
            bail!(
                "the server answered without being asked; does it speak {}? It said: {reply}",
                self.plan.protocol.name()
            );
        };
        match (request, reply) {
            (Request::Prepare, Reply::Prepared | Reply::Stored) => return Ok(()),
            (Request::Prepare, reply) => bail!("the server refused to prepare the queue: {reply}"),
            (Request::Put { size, .. }, Reply::Stored) => {
                load.tally.on_success(Operation::Put, size, start_ns, now_ns);
                self.round.stored += 1;
            }
            (Request::Get { line, .. }, Reply::Message { job, body }) => {
                self.misses = 0;
                self.on_message(line, body, load);
                if self.plan.protocol.deletes_after_get() {
                    // The get goes on as a delete and keeps its slot.
                    beanstalkd::encode_delete(&mut self.outgoing, job);
                    self.in_flight.push_back(Pending { request: Request::Delete { size: body.len() }, start_ns });
                    return Ok(());
                }
                load.tally.on_success(Operation::Get, body.len(), start_ns, now_ns);
            }
            (Request::Get { decides, .. }, Reply::Miss) => {
                self.misses += usize::from(decides);
                load.tally.on_miss(now_ns);
            }
            (Request::Delete { size }, Reply::Deleted) => load.tally.on_success(Operation::Get, size, start_ns, now_ns),
            (request, Reply::Unexpected(words)) => {
                if let Request::Put { stamp: Some(stamp), .. } = request {
                    load.audit.on_refused(&stamp);
                }
                // Or a queue that only answers with errors would be asked for ever.
                self.misses += usize::from(matches!(request, Request::Get { decides: true, .. }));
                load.tally.on_unexpected(words, now_ns);
            }
            (request, reply) => bail!("the answers are out of step: {reply}, to {request:?}"),
        }
        self.open -= 1;
        Ok(())
    }

    fn on_message(&mut self, line: usize, body: &[u8], load: &mut Load) {
        if self.plan.verify {
            // Where a get does not name its queue, any of the watched ones may answer.
            let asked = (!self.plan.protocol.deletes_after_get()).then(|| self.lines[line].queue);
            load.audit.on_message(body, asked, &mut self.last_seen);
        }
    }
}

/// The queues of one connection: all are covered, and they are spread evenly over the connections of a role.
fn own_lines(plan: &Plan, index: usize, number: usize, of: usize) -> Vec<QueueLines> {
    if plan.cache {
        return vec![QueueLines::new(plan.protocol, &format!("k{index}"), 0)];
    }
    if plan.workload == Workload::RoundTrip {
        return vec![memcache::version_lines()];
    }
    let queues = plan.queues as usize;
    let own = if queues > of { (number..queues).step_by(of).collect() } else { vec![number % queues] };
    let lines = |queue| QueueLines::new(plan.protocol, &format!("{}{queue}", plan.queue_name), queue as u32);
    own.into_iter().map(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::tally::Progress;
    use clap::Parser;

    fn plan(arguments: &str) -> Arc<Plan> {
        let arguments = std::iter::once("ringq-bench").chain(arguments.split_whitespace());
        Arc::new(Plan::new(&Options::try_parse_from(arguments).unwrap(), 1).unwrap())
    }

    fn load(plan: &Plan, producers: usize) -> Load {
        Load {
            tally: Tally::new(plan, Arc::new(Progress::default())),
            audit: Audit::default(),
            budget: plan.count.unwrap_or(u64::MAX),
            producers: Arc::new(AtomicUsize::new(producers)),
            filler: Filler::new(plan.sizes.max),
        }
    }

    /// A memcache queue server in memory; it refuses or forgets the put with the given number, from 1.
    #[derive(Default)]
    struct Server {
        queues: std::collections::HashMap<String, VecDeque<Vec<u8>>>,
        puts: usize,
        refuse_put: Option<usize>,
        drop_put: Option<usize>,
    }

    impl Server {
        fn answer(&mut self, mut wire: &[u8]) -> Vec<u8> {
            let mut answers = Vec::new();
            while !wire.is_empty() {
                let (line, size) = crate::protocol::first_line(wire).unwrap().unwrap();
                let words: Vec<String> =
                    line.split(|&byte| byte == b' ').map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();
                wire = &wire[size..];
                if words[0] == "version" {
                    answers.extend(b"VERSION 1\r\n");
                    continue;
                }
                let queue = self.queues.entry(words[1].clone()).or_default();
                if words[0] == "get" {
                    if let Some(body) = queue.pop_front() {
                        answers.extend(format!("VALUE {} 0 {}\r\n", words[1], body.len()).bytes());
                        answers.extend(body);
                        answers.extend(b"\r\n");
                    }
                    answers.extend(b"END\r\n");
                    continue;
                }
                self.puts += 1;
                let body_size: usize = words[4].parse().unwrap();
                if self.refuse_put == Some(self.puts) {
                    answers.extend(b"SERVER_ERROR out of storage\r\n");
                } else {
                    if self.drop_put != Some(self.puts) {
                        queue.push_back(wire[..body_size].to_vec());
                    }
                    answers.extend(b"STORED\r\n");
                }
                wire = &wire[body_size + 2..];
            }
            answers
        }
    }

    /// Runs the sessions of `plan` in turn against `server`, a millisecond per exchange, answers cut in two.
    fn run(plan: &Arc<Plan>, server: &mut Server) -> Load {
        let mut sessions: Vec<Session> = (0..plan.connections).map(|index| Session::new(plan.clone(), index)).collect();
        let mut load = load(plan, sessions.iter().filter(|session| session.is_producer()).count());
        for session in &mut sessions {
            session.prepare(&mut load);
        }
        for turn in 0..100_000u64 {
            let now_ns = turn * 1_000_000;
            for session in &mut sessions {
                if session.is_finished() {
                    continue;
                }
                session.fill(now_ns, &mut load);
                assert!(session.open <= plan.depth);
                let answers = server.answer(&std::mem::take(&mut session.outgoing));
                let cut = answers.len() / 2;
                let used = session.on_bytes(&answers[..cut], now_ns, &mut load).unwrap();
                let rest = session.on_bytes(&answers[used..], now_ns, &mut load).unwrap();
                assert_eq!(used + rest, answers.len());
                session.fill(now_ns, &mut load);
                if session.is_finished() && session.is_producer() {
                    load.producers.fetch_sub(1, Ordering::Release);
                }
            }
            if sessions.iter().all(Session::is_finished) {
                return load;
            }
        }
        panic!("the run does not end");
    }

    #[test]
    fn a_fill_puts_exactly_its_count_and_a_drain_takes_it_all() {
        let mut server = Server::default();
        let fill = run(&plan("fill -n 1000 -c 3 -P 7 -q 5 --verify"), &mut server);
        assert_eq!(fill.tally.put.completed, 1000);
        assert_eq!(server.queues.len(), 5, "every queue has messages");
        let drained = plan("drain -c 2 -P 4 -q 5 --verify --expect 1000");
        let drain = run(&drained, &mut server);
        assert_eq!((drain.tally.get.completed, drain.tally.get.bytes), (1000, 100_000));
        assert!(server.queues.values().all(VecDeque::is_empty));
        assert_eq!(drain.audit.close(&drained).map(|verdict| verdict.sound), Some(true));
    }

    #[test]
    fn a_mixed_run_empties_its_queues_and_is_sound() {
        for arguments in [
            "mixed -d 0.05 -c 6 -P 3 -q 2 --verify",
            "mixed -n 500 -c 4 -q 8 --verify",
            "mixed -d 0.1 --rate 900 --verify",
        ] {
            let (plan, mut server) = (plan(arguments), Server::default());
            let load = run(&plan, &mut server);
            assert!(server.queues.values().all(VecDeque::is_empty), "{arguments}");
            let verdict = load.audit.close(&plan).unwrap();
            assert!(verdict.sound && verdict.sent > 0 && verdict.sent == verdict.arrived, "{arguments}: {verdict:?}");
        }
    }

    #[test]
    fn a_round_trip_touches_no_queue_and_ends_at_its_count_or_deadline() {
        let mut server = Server::default();
        let counted = run(&plan("round-trip -n 50 -c 2"), &mut server);
        assert_eq!((counted.tally.get.completed, counted.tally.misses), (50, 0));
        let timed = run(&plan("round-trip -d 0.05 -c 1"), &mut server);
        assert!(timed.tally.get.completed > 10);
        assert!(server.queues.is_empty() && timed.tally.put.completed == 0);
    }

    #[test]
    fn a_ping_pong_takes_what_it_put() {
        for arguments in [
            "ping-pong -n 100 -c 3 -P 8 --verify",
            "ping-pong -n 10 -c 1 -q 3 --verify",
            "ping-pong -d 0.05 -r 500 -c 2 --verify",
        ] {
            let (plan, mut server) = (plan(arguments), Server::default());
            let load = run(&plan, &mut server);
            assert_eq!(load.tally.put.completed, load.tally.get.completed, "{arguments}");
            assert_eq!(load.tally.misses, 0, "{arguments}");
            assert!(load.audit.close(&plan).unwrap().sound, "{arguments}");
        }
    }

    #[test]
    fn a_refused_put_is_counted_by_its_words_and_is_not_lost() {
        let plan = plan("ping-pong -n 3 -c 1 --verify");
        let load = run(&plan, &mut Server { refuse_put: Some(2), ..Server::default() });
        assert_eq!(load.tally.unexpected["SERVER_ERROR out of storage"], 1);
        let verdict = load.audit.close(&plan).unwrap();
        assert_eq!((verdict.sound, verdict.sent, verdict.refused, verdict.arrived), (true, 3, 1, 2));
    }

    #[test]
    fn an_accepted_put_that_never_arrives_is_lost() {
        let plan = plan("mixed -n 20 -c 2 --verify");
        let load = run(&plan, &mut Server { drop_put: Some(3), ..Server::default() });
        let verdict = load.audit.close(&plan).unwrap();
        assert_eq!((verdict.sound, verdict.lost), (false, 1));
    }

    #[test]
    fn an_open_loop_sends_at_its_rate_and_counts_latency_from_the_due_time() {
        let plan = plan("fill -d 0.1 --rate 1000 -c 1");
        let mut load = load(&plan, 1);
        let mut session = Session::new(plan.clone(), 0);
        // Woken 4.5 ms late, it owes five requests; the oldest has waited all that time when it is answered at once.
        session.fill(4_500_000, &mut load);
        assert_eq!(session.open, 5);
        assert_eq!(session.next_due_ns(), Some(5_000_000));
        session.on_bytes(&b"STORED\r\n".repeat(5), 4_500_000, &mut load).unwrap();
        let near = |latency_ns: u64, expected_ns: u64| latency_ns.abs_diff(expected_ns) <= expected_ns / 500;
        assert!(near(load.tally.put.latency.max(), 4_500_000) && near(load.tally.put.latency.min(), 500_000));
    }

    #[test]
    fn requests_that_were_due_and_never_sent_are_reported() {
        let plan = plan("fill -d 0.1 --rate 1000 -c 1 -P 2");
        let mut load = load(&plan, 1);
        let mut session = Session::new(plan.clone(), 0);
        session.fill(50_000_000, &mut load);
        session.on_bytes(b"STORED\r\nSTORED\r\n", 100_000_000, &mut load).unwrap();
        session.fill(100_000_000, &mut load);
        assert!(session.is_finished());
        assert_eq!(load.tally.overdue, 98);
    }

    #[test]
    fn a_cache_key_exists_before_the_first_get_and_is_never_drained() {
        let plan = plan("drain --cache -n 10 -c 1");
        let mut load = load(&plan, 0);
        let mut session = Session::new(plan.clone(), 0);
        session.prepare(&mut load);
        session.fill(0, &mut load);
        assert!(session.outgoing.starts_with(b"set k0 0 0 100\r\n") && session.outgoing.ends_with(b"get k0\r\n"));
        session.on_bytes(b"STORED\r\nEND\r\n", 1, &mut load).unwrap();
        session.fill(1, &mut load);
        assert_eq!((load.tally.misses, session.unanswered()), (1, 1));
    }

    #[test]
    fn a_beanstalkd_get_ends_with_its_delete() {
        let plan = plan("drain --protocol beanstalkd -c 1");
        let mut load = load(&plan, 0);
        let mut session = Session::new(plan.clone(), 0);
        session.prepare(&mut load);
        session.fill(0, &mut load);
        assert_eq!(session.outgoing, b"watch bench0\r\nignore default\r\nreserve-with-timeout 0\r\n");
        session.outgoing.clear();
        session.on_bytes(b"WATCHING 2\r\nWATCHING 1\r\nRESERVED 5 1\r\nx\r\n", 1, &mut load).unwrap();
        session.fill(1, &mut load);
        assert_eq!((session.outgoing.as_slice(), load.tally.get.completed), (&b"delete 5\r\n"[..], 0));
        session.on_bytes(b"DELETED\r\n", 2, &mut load).unwrap();
        assert_eq!(load.tally.get.completed, 1);
    }

    #[test]
    fn answers_out_of_step_end_the_run() {
        let plan = plan("fill -n 1 -c 1");
        for answer in [&b"END\r\n"[..], b"VALUE q 0 1\r\nx\r\nEND\r\n", b"STORED\r\nSTORED\r\n", b"+OK\n"] {
            let mut load = load(&plan, 1);
            let mut session = Session::new(plan.clone(), 0);
            session.fill(0, &mut load);
            assert!(session.on_bytes(answer, 1, &mut load).is_err(), "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn every_queue_has_a_producer_and_a_consumer() {
        for (connections, queues) in [(2, 1), (5, 1), (4, 2), (7, 3), (4, 9), (3, 8)] {
            let plan = plan(&format!("mixed -c {connections} -q {queues}"));
            let sessions: Vec<Session> = (0..connections).map(|index| Session::new(plan.clone(), index)).collect();
            for queue in 0..queues {
                for producer in [true, false] {
                    let mut those = sessions.iter().filter(|session| session.is_producer() == producer);
                    assert!(
                        those.any(|session| session.lines.iter().any(|line| line.queue == queue)),
                        "{connections} connections, queue {queue} of {queues}"
                    );
                }
            }
        }
    }
}
