//! The law of conservation over everything a queue can do, in one history: what was put is somewhere, and counted there once, for each reader of
//! its queue. Checked inside after every step, and by what `stats` says whenever the server rests.

use crate::random::Rng;
use crate::world::{Options, World};
use ringq::proto::Dialect;
use std::collections::{BTreeMap, BTreeSet};

const QUEUES: [&str; 4] = ["a", "b", "dead", "late"];
const READERS: [&str; 3] = ["", "/group=g", "/group=h"];
const STEPS: usize = 400;

/// Where a message can be, as `stats queue` counts it.
const PLACES: [&str; 10] =
    ["gets", "ready", "open", "moving", "deleted", "corrupt", "expired", "discarded", "dead_lettered", "skipped"];

/// What can be said of a queue; each may come and go.
const SETTINGS: [&str; 18] = [
    "max_messages=3",
    "max_messages=0",
    "max_bytes=40",
    "max_bytes=0",
    "when_full=drop_oldest",
    "when_full=refuse",
    "max_age=2",
    "max_age=0",
    "exptime=honour",
    "max_admissions=30",
    "max_admissions=0",
    "visibility_timeout=1",
    "max_deliveries=1",
    "max_deliveries=3 dead_letter=dead",
    "expire_to=late",
    "groups_only=on",
    "groups_only=off",
    "group_timeout=2",
];

pub struct Trial {
    pub rng: Rng,
    world: World,
    clients: Vec<usize>,
    kestrels: Vec<usize>,
    /// Bodies are numbers, each used once.
    put: usize,
    /// What readers took for good: reader and body.
    taken: BTreeSet<(String, String)>,
}

impl Trial {
    pub fn new(mut rng: Rng) -> Trial {
        let options = Options {
            shards: 1 + rng.below(3) as u16,
            memory_share: [256 << 10, 4 << 20][rng.below(2)],
            body_size_max: 8 << 10,
            flush_all: true,
            ..Options::default()
        };
        let world = World::new(options);
        let (clients, kestrels) = (Vec::new(), Vec::new());
        let mut trial = Trial { rng, world, clients, kestrels, put: 0, taken: BTreeSet::new() };
        trial.connect();
        trial
    }

    fn connect(&mut self) {
        self.clients = (0..4).map(|_| self.world.connect()).collect();
        self.kestrels = (0..2).map(|_| self.world.connect_speaking(Dialect::Kestrel)).collect();
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.rng.below(all.len())]
    }

    fn set(&mut self, key: &str, exptime: &str) -> String {
        self.put += 1;
        // Some are large, so that little memory runs out.
        let width = [6, 6, 6, 4000][self.rng.below(4)];
        let body = format!("{:0width$}", self.put);
        format!("set {key} 0 {exptime} {}\r\n{body}\r\n", body.len())
    }

    fn request(&mut self) -> String {
        let queue = self.of(&QUEUES);
        let reader = format!("{queue}{}", self.of(&READERS));
        match self.rng.below(100) {
            0..30 => {
                let lifetime = self.of(&["", "", "/ttl=1", "/ttl=3"]);
                let exptime = self.of(&["0", "1", "-1"]);
                self.set(&format!("{queue}{lifetime}"), exptime)
            }
            30..40 => format!("get {reader}\r\n"),
            40..44 => format!("get {queue} {} {}\r\n", self.of(&QUEUES), self.of(&QUEUES)),
            44..56 => format!("get {reader}/open{}\r\n", self.of(&["", "", "/ttr=1", "/t=300"])),
            56..64 => format!("get {reader}/close\r\n"),
            64..70 => format!("get {reader}/abort\r\n"),
            70..74 => format!("get {reader}/close/open\r\n"),
            74..78 => format!("get {reader}/{}\r\n", self.of(&["peek", "t=200", "t=1500"])),
            78..86 => format!("config {} {}\r\n", self.of(&["a", "b"]), self.of(&SETTINGS)),
            86..88 => format!("{} {reader}/id={}\r\n", self.of(&["delete", "touch"]), 1 + self.rng.below(200)),
            88..90 => format!("flush {reader}\r\n"),
            90 => format!("delete {reader}\r\n"),
            91 if self.rng.below(4) == 0 => "flush_all\r\n".to_owned(),
            _ => format!("get {queue}\r\n"),
        }
    }

    fn kestrel_request(&mut self) -> String {
        let queue = self.of(&QUEUES);
        match self.rng.below(10) {
            0..4 => self.set(queue, "0"),
            4 => format!("get {queue}+g\r\n"),
            5 => format!("get {queue}+h/open\r\n"),
            6 => format!("get {queue}/open/t=100\r\n"),
            7 => format!("get {queue}/close\r\n"),
            8 => format!("flush_expired {queue}\r\n"),
            _ => format!("get {queue}/close/open\r\n"),
        }
    }

    pub fn step(&mut self) {
        let shard = self.rng.below(self.world.shards());
        match self.rng.below(40) {
            0..16 => {
                let (at, request) = (self.rng.below(self.clients.len()), self.request());
                self.world.send(self.clients[at], request.as_bytes());
            }
            16..20 => {
                let (at, request) = (self.rng.below(self.kestrels.len()), self.kestrel_request());
                self.world.send(self.kestrels[at], request.as_bytes());
            }
            20..24 => drop(self.world.turn(shard)),
            24..26 => drop(self.world.apply(shard, 2)),
            26..28 => drop(self.world.deliver() | self.world.load()),
            28..30 => {
                let ms = [10, 400, 1_100][self.rng.below(3)];
                self.world.advance(ms);
            }
            30 => {
                let at = self.rng.below(self.clients.len());
                self.world.reset(self.clients[at]);
                self.clients[at] = self.world.connect();
            }
            31 => {
                let at = self.rng.below(self.kestrels.len());
                self.world.reset(self.kestrels[at]);
                self.kestrels[at] = self.world.connect_speaking(Dialect::Kestrel);
            }
            32 if self.rng.below(4) == 0 => {
                let full = self.rng.below(2) == 0;
                self.world.set_full(full);
            }
            33 if self.rng.below(8) == 0 => {
                self.hear();
                let shards = 1 + self.rng.below(3) as u16;
                self.world.crash(shards);
                self.connect();
            }
            _ => {
                self.world.settle();
                self.hear();
            }
        }
        self.world.check();
    }

    /// What a reader took for good is not taken by it again.
    fn hear(&mut self) {
        // Kestrel's answers do not say whether it was opened.
        self.kestrels.iter().for_each(|client| drop(self.world.heard(*client)));
        for client in &self.clients {
            let heard = self.world.heard(*client);
            let lines: Vec<&str> = heard.split("\r\n").collect();
            for value in lines.windows(2).filter(|pair| pair[0].starts_with("VALUE ")) {
                let key = value[0].split(' ').nth(1).expect("a value has a key");
                let (name, options) = key.split_once('/').unwrap_or((key, ""));
                // A group that ended begins anew, and to the other two queues each reader sends its own.
                let is_plain = !options.split('/').any(|it| it == "open" || it == "peek" || it.starts_with("group="));
                if is_plain && name.len() == 1 {
                    let is_new = self.taken.insert((name.to_owned(), value[1].to_owned()));
                    assert!(is_new, "{:.10} was taken before, now {key}", value[1]);
                }
            }
        }
    }

    /// What `stats` says, when nothing is under way.
    pub fn check(&mut self) {
        self.world.settle();
        self.hear();
        let client = self.world.connect();
        let mut open = 0;
        let lines = |answer: &str| -> BTreeMap<String, u64> {
            let words = answer.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let numbers = words.filter_map(|words| Some((words.get(1)?.to_string(), words.get(2)?.parse().ok()?)));
            numbers.collect()
        };
        for queue in QUEUES {
            for reader in READERS {
                let answer = self.world.ask(client, &format!("stats queue {queue}{reader}\r\n"));
                let stats = lines(&answer);
                if stats.is_empty() {
                    continue;
                }
                let sum: u64 = PLACES.iter().map(|place| stats[*place]).sum();
                assert_eq!(stats["puts"], sum, "{queue}{reader}: {answer}");
                open += stats["open"];
            }
        }
        let answer = self.world.ask(client, "stats\r\n");
        assert_eq!(lines(&answer)["open_reads"], open, "{answer}");
        self.world.reset(client);
    }
}

#[test]
fn what_was_put_is_counted_once_whatever_is_done_to_it() {
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    for seed in replayed.map_or(0..120, |seed| seed..seed + 1) {
        println!("replay this history with RINGQ_SEED={seed} cargo test --test it what_was_put_is_counted_once");
        let mut trial = Trial::new(Rng::new(seed));
        for step in 0..STEPS {
            trial.step();
            if step % 40 == 39 {
                trial.check();
            }
        }
    }
}
