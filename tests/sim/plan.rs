//! From a seed to a history: how the server is configured, which things happen in this one and how often, and every step of it.
//!
//! Weights are drawn anew for each history (swarm testing), so some know no crash and some little else, and what would hide behind
//! something more frequent has histories to itself.
//!
//! Invariant: a plan follows from its seed alone. It does not know what the server does.

use crate::action::Action;
use crate::request::Request;
use crate::rng::Rng;
use ringq::journal::BLOCK_SIZE;
use std::fmt;
use std::str::FromStr;

/// Steps of a history.
const STEPS: usize = 1500;

/// How the server and its clients are set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    pub shards: u16,
    /// Memory for messages of a shard, bytes.
    pub memory_share: usize,
    /// Of one segment of a shard's journal, in blocks.
    pub segment_blocks: u64,
    /// Journal writes under way at once.
    pub depth: usize,
    /// Clients that speak the default dialect, and Kestrel's.
    pub clients: usize,
    pub kestrels: usize,
    /// Clients read slowly: what is sent to them comes in pieces.
    pub slow: bool,
    /// Open messages are confirmed by their ids, too.
    pub by_id: bool,
    /// What all shards together may have open or returned.
    pub unconfirmed_max: usize,
}

/// A history before it has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub setup: Setup,
    pub actions: Vec<Action>,
}

const QUEUES: [&str; 8] = ["a", "a", "a", "b", "b", "few", "gate", "dead"];
const GROUPS: [&str; 4] = ["", "", "g", "h"];

const SETTINGS: [&str; 20] = [
    "max_messages=3",
    "max_messages=0",
    "max_bytes=400",
    "max_bytes=0",
    "when_full=drop_oldest",
    "when_full=refuse",
    "max_age=2",
    "max_age=0",
    "exptime=honour",
    "exptime=ignore",
    "max_admissions=30",
    "max_admissions=0",
    "visibility_timeout=1",
    "max_deliveries=1 dead_letter=none",
    "max_deliveries=2 dead_letter=dead",
    "max_deliveries=0",
    "expire_to=late",
    "groups_only=on",
    "groups_only=off",
    "group_timeout=2",
];

/// What can be drawn, with how often it is if nothing is left out.
struct Swarm<T> {
    kinds: Vec<(T, usize)>,
}

impl<T: Copy> Swarm<T> {
    /// Each kind with a weight that is drawn: more, less, or none. Those that `stays` says are in every history.
    fn of(rng: &mut Rng, kinds: &[(T, usize)], stays: impl Fn(usize) -> bool) -> Swarm<T> {
        let draw = |(at, (kind, weight)): (usize, &(T, usize))| {
            let factor = if stays(at) { [1, 2, 6][rng.below(3)] } else { [0, 0, 1, 2, 6][rng.below(5)] };
            (*kind, weight * factor)
        };
        Swarm { kinds: kinds.iter().enumerate().map(draw).collect() }
    }

    fn draw(&self, rng: &mut Rng) -> T {
        let mut at = rng.below(self.kinds.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in &self.kinds {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        unreachable!("a number below the sum of all weights")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Ask,
    Send,
    Turn,
    Write,
    Come,
    Sent,
    Apply,
    Checkpoint,
    Deliver,
    Load,
    Advance,
    Rest,
    Cover,
    Shut,
    Reset,
    Break,
    Crash,
    Full,
    FailLoad,
    Rot,
    Flip,
    SetClock,
}

/// The first twelve are what a server lives by.
const ALWAYS: usize = 12;

const STEPS_DRAWN: [(Step, usize); 22] = [
    (Step::Ask, 300),
    (Step::Send, 240),
    (Step::Turn, 260),
    (Step::Write, 160),
    (Step::Come, 100),
    (Step::Sent, 100),
    (Step::Apply, 60),
    (Step::Checkpoint, 30),
    (Step::Deliver, 80),
    (Step::Load, 60),
    (Step::Advance, 40),
    (Step::Rest, 12),
    (Step::Cover, 10),
    (Step::Shut, 3),
    (Step::Reset, 5),
    (Step::Break, 5),
    (Step::Crash, 3),
    (Step::Full, 6),
    (Step::FailLoad, 3),
    (Step::Rot, 3),
    (Step::Flip, 6),
    (Step::SetClock, 4),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Put,
    Get,
    Several,
    Wait,
    Open,
    Close,
    Abort,
    Peek,
    Lifetime,
    Flush,
    Delete,
    FlushAll,
    Config,
    ById,
    FlushExpired,
}

const ASKS_DRAWN: [(Asks, usize); 15] = [
    (Asks::Put, 50),
    (Asks::Get, 25),
    (Asks::Several, 6),
    (Asks::Wait, 12),
    (Asks::Open, 14),
    (Asks::Close, 10),
    (Asks::Abort, 4),
    (Asks::Peek, 4),
    (Asks::Lifetime, 8),
    (Asks::Flush, 1),
    (Asks::Delete, 1),
    (Asks::FlushAll, 1),
    (Asks::Config, 4),
    (Asks::ById, 4),
    (Asks::FlushExpired, 1),
];

struct Planner {
    rng: Rng,
    setup: Setup,
    steps: Swarm<Step>,
    asks: Swarm<Asks>,
    groups: bool,
    body_size: usize,
    settings: Vec<&'static str>,
    puts: u64,
}

impl Plan {
    /// The history of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
        // A segment holds what all clients together can have asked for, and what that makes leave.
        let (body_size, segment_blocks) = [(24, 48), (300, 64), (20_000, 700)][rng.below(3)];
        let steps = Swarm::of(&mut rng, &STEPS_DRAWN, |at| at < ALWAYS);
        let asks = Swarm::of(&mut rng, &ASKS_DRAWN, |at| at < 2);
        let settings = SETTINGS.into_iter().filter(|_| rng.below(3) == 0).collect();
        let has_ids = asks.kinds.iter().any(|(kind, weight)| *kind == Asks::ById && *weight > 0);
        let setup = Setup {
            shards: 1 + rng.below(3) as u16,
            memory_share: [256 << 10, 1 << 20, 32 << 20][rng.below(3)],
            segment_blocks,
            depth: 1 + rng.below(5),
            clients: 1 + rng.below(5),
            kestrels: [0, 0, 1, 2][rng.below(4)],
            slow: rng.below(3) > 0,
            by_id: has_ids,
            unconfirmed_max: 1 << 20,
        };
        let groups = rng.below(2) == 0;
        let mut planner = Planner { rng, setup, steps, asks, groups, body_size, settings, puts: 0 };
        let actions = (0..STEPS).flat_map(|_| planner.step()).collect();
        if planner.below(3) == 0 {
            planner.setup.unconfirmed_max = 1 + planner.below(12);
        }
        Plan { setup: planner.setup, actions }
    }
}

impl Planner {
    fn below(&mut self, end: usize) -> usize {
        self.rng.below(end)
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        self.rng.of(all)
    }

    fn step(&mut self) -> Vec<Action> {
        let kind = self.steps.draw(&mut self.rng);
        let (client, shard) = (self.below(self.setup.clients + self.setup.kestrels), self.below(3));
        let action = match kind {
            Step::Ask => return self.ask(client),
            Step::Send => Action::Send { client, size: self.piece() },
            Step::Turn => Action::Turn { shard },
            Step::Write => Action::Write { shard, at: self.below(5) },
            Step::Come => Action::Come { client, size: self.piece() },
            Step::Sent => Action::Sent { client },
            Step::Apply => Action::Apply { shard, count: 1 + self.below(4) },
            Step::Checkpoint => Action::Checkpoint { shard },
            Step::Deliver => Action::Deliver,
            Step::Load => Action::Load,
            Step::Advance => Action::Advance { ms: [5, 60, 300, 1100][self.below(4)] },
            Step::Rest => Action::Rest,
            Step::Cover => Action::Cover { shard },
            Step::Shut => Action::Shut { client },
            Step::Reset => Action::Reset { client },
            Step::Break => Action::Break { client },
            Step::Crash => self.crash(),
            Step::Full => Action::Full { shard, full: self.below(3) == 0 },
            Step::FailLoad => Action::FailLoad,
            Step::Rot => Action::Rot { at: self.below(1000) },
            Step::Flip => {
                let size = (self.setup.segment_blocks * BLOCK_SIZE) as usize;
                // Mostly where a journal has something.
                let end = [4096, 64 << 10, size][self.below(3)].min(size);
                Action::Flip { shard, segment: self.below(4) as u32, bit: self.below(8 * end) }
            }
            Step::SetClock => Action::SetClock { by_ms: [-5000, -300, 300, 3_600_000][self.below(4)] },
        };
        vec![action]
    }

    /// Mostly all there is.
    fn piece(&mut self) -> usize {
        match self.below(4) {
            0 => 1 + self.below(40),
            1 => 1 + self.below(2 * self.body_size),
            _ => usize::MAX,
        }
    }

    fn crash(&mut self) -> Action {
        Action::Crash {
            shards: 1 + self.below(3) as u16,
            piece_size: [512, BLOCK_SIZE as usize][self.below(2)],
            // Between nothing and everything, so that long runs of both occur.
            kept_of_8: self.below(9),
            seed: self.rng.next() >> 32,
            replayed: (0..self.below(3)).map(|_| self.below(20)).collect(),
        }
    }

    /// A request, mostly sent at once.
    fn ask(&mut self, client: usize) -> Vec<Action> {
        let is_kestrel = client >= self.setup.clients;
        let request = self.request(is_kestrel);
        let mut actions = vec![Action::Ask { client, request }];
        if self.below(3) > 0 {
            actions.push(Action::Send { client, size: usize::MAX });
        }
        actions
    }

    fn request(&mut self, is_kestrel: bool) -> Request {
        let queue = self.of(&QUEUES);
        let group = if self.groups { self.of(&GROUPS) } else { "" };
        let reader = match (group, is_kestrel) {
            ("", _) => queue.to_owned(),
            (group, true) => format!("{queue}+{group}"),
            (group, false) => format!("{queue}/group={group}"),
        };
        // Ids are told to those who ask with gets.
        let get = if is_kestrel || self.below(3) == 0 { "get" } else { "gets" };
        let line = match self.asks.draw(&mut self.rng) {
            Asks::Put => return self.put(queue, "", 0),
            Asks::Lifetime => {
                let lifetime = if is_kestrel { "" } else { self.of(&["/ttl=0", "/ttl=1", "/ttl=3"]) };
                let exptime = [0, -1, 1, 2][self.below(4)];
                return self.put(queue, lifetime, if is_kestrel { exptime.max(0) } else { exptime });
            }
            Asks::Several if !is_kestrel => {
                let others: Vec<&str> = (0..1 + self.below(3)).map(|_| self.of(&QUEUES)).collect();
                format!("{get} {queue} {}", others.join(" "))
            }
            Asks::Get | Asks::Several => format!("{get} {reader}"),
            Asks::Wait => format!("{get} {reader}/t={}", 1 + self.below(1500)),
            Asks::Open => {
                let close = self.of(&["", "", "/close"]);
                let wait = self.of(&["", "", "/t=40", "/t=900"]);
                let ttr = if is_kestrel { "" } else { self.of(&["", "", "", "/ttr=1"]) };
                format!("{get} {reader}{close}/open{wait}{ttr}")
            }
            Asks::Close => format!("get {reader}/close"),
            Asks::Abort => format!("get {reader}/abort"),
            Asks::Peek => format!("{get} {reader}/peek{}", if is_kestrel { "" } else { self.of(&["", "/t=200"]) }),
            // The gate must keep its count.
            Asks::Flush | Asks::Delete if queue == "gate" => format!("{get} {reader}"),
            Asks::Flush => format!("flush {reader}"),
            Asks::Delete if is_kestrel => format!("delete {queue}"),
            Asks::Delete => format!("delete {reader}"),
            Asks::FlushAll => "flush_all".to_owned(),
            Asks::Config if !is_kestrel && !self.settings.is_empty() => {
                let settings = self.settings.clone();
                format!("config {} {}", self.of(&["a", "b"]), self.of(&settings))
            }
            Asks::ById if !is_kestrel => {
                let number = self.puts.saturating_sub(self.below(12) as u64);
                match self.below(2) {
                    0 => format!("delete {reader}/id=#{number}"),
                    _ => format!("touch {reader}/id=#{number} {}", self.below(3)),
                }
            }
            Asks::FlushExpired if is_kestrel => format!("flush_expired {queue}"),
            Asks::Config | Asks::ById | Asks::FlushExpired => format!("{get} {reader}"),
        };
        Request::Line(line)
    }

    fn put(&mut self, queue: &str, options: &str, exptime: i64) -> Request {
        self.puts += 1;
        let size = self.body_size * (1 + self.below(3)) / 3;
        Request::Put { key: format!("{queue}{options}"), exptime, number: self.puts, size }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { shards, memory_share, segment_blocks, depth, clients, kestrels, slow, by_id, unconfirmed_max } =
            self;
        write!(f, "setup {shards} {memory_share} {segment_blocks} {depth} {clients} {kestrels} {slow} {by_id} ")?;
        write!(f, "{unconfirmed_max}")
    }
}

impl FromStr for Setup {
    type Err = String;

    fn from_str(line: &str) -> Result<Setup, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let parsed = || {
            let ["setup", shards, memory_share, segment_blocks, depth, clients, kestrels, slow, by_id, unconfirmed_max] =
                words[..]
            else {
                return None;
            };
            Some(Setup {
                shards: shards.parse().ok()?,
                memory_share: memory_share.parse().ok()?,
                segment_blocks: segment_blocks.parse().ok()?,
                depth: depth.parse().ok()?,
                clients: clients.parse().ok()?,
                kestrels: kestrels.parse().ok()?,
                slow: slow.parse().ok()?,
                by_id: by_id.parse().ok()?,
                unconfirmed_max: unconfirmed_max.parse().ok()?,
            })
        };
        parsed().ok_or_else(|| format!("no setup of a history: {line}"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setup)?;
        self.actions.iter().try_for_each(|action| writeln!(f, "{action}"))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Plan, String> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let setup = lines.next().ok_or("an empty history")?.parse()?;
        Ok(Plan { setup, actions: lines.map(str::parse).collect::<Result<_, _>>()? })
    }
}

#[test]
fn a_history_reads_back_as_it_was_written() {
    for seed in 1..=20 {
        let plan = Plan::of(seed);
        assert_eq!(plan.to_string().parse(), Ok(plan));
    }
}
