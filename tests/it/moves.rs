//! Messages that go from queue to queue: never in both and never in none, whatever is full, dropped or torn, and wherever the server dies.

use crate::facts::counts_of;
use crate::harness::{Client, Server};
use crate::rng::Rng;
use crate::world::{Options, World};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Where messages are put, where those go whose time is over, and where those that were delivered too often.
const QUEUES: [&str; 3] = ["from", "late", "dead"];

fn put(queue: &str, number: usize) -> String {
    let body = format!("{number:06}");
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

/// The numbers in the `VALUE` blocks of answers.
fn numbers(answers: &str) -> Vec<usize> {
    let lines: Vec<&str> = answers.split("\r\n").collect();
    let values = lines.windows(2).filter(|pair| pair[0].starts_with("VALUE "));
    values.map(|pair| pair[1].parse().expect("a number")).collect()
}

fn stat(world: &mut World, client: usize, queue: &str, name: &str) -> u64 {
    let answer = world.ask(client, &format!("stats queue {queue}\r\n"));
    let line = answer.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().expect("a number")
}

/// A name that belongs to this shard.
fn name_of_shard(world: &World, shard: usize, prefix: &str) -> String {
    (0..).map(|n| format!("{prefix}{n}")).find(|name| world.owner(name) == shard).expect("some name does")
}

struct Story {
    rng: Rng,
    world: World,
    /// Messages are opened, too; without that they leave in the order in which they were put.
    opens: bool,
    putter: usize,
    reader: usize,
    taker: usize,
    put: usize,
    /// Asked to be put and not answered, in order.
    unanswered: Vec<usize>,
    /// Must be somewhere.
    stored: BTreeSet<usize>,
    taken: BTreeSet<usize>,
    /// The newest that was taken from `late`.
    latest: Option<usize>,
    /// Of the taker, in order: the queues it has asked and not heard of.
    asked: Vec<usize>,
}

impl Story {
    fn new(seed: u64) -> Story {
        let mut rng = Rng::new(seed);
        let options = Options {
            shards: 1 + rng.below(3) as u16,
            memory_share: [256 << 10, 4 << 20][rng.below(2)],
            body_size_max: 8 << 10,
            ..Options::default()
        };
        let mut world = World::new(options);
        let [putter, reader, taker] = [(); 3].map(|()| world.connect());
        let settings = "config from expire_to=late max_deliveries=1 dead_letter=dead\r\n";
        assert_eq!(world.ask(putter, settings), "OK\r\n");
        let (unanswered, asked) = (Vec::new(), Vec::new());
        let (stored, taken) = (BTreeSet::new(), BTreeSet::new());
        let opens = seed.is_multiple_of(2);
        Story { rng, world, opens, putter, reader, taker, put: 0, unanswered, stored, taken, latest: None, asked }
    }

    fn step(&mut self) {
        let shard = self.rng.below(self.world.shards());
        match self.rng.below(100) {
            0..14 => {
                let lifetime = ["", "/ttl=1"][self.rng.below(2)];
                self.world.send(self.putter, put(&format!("from{lifetime}"), self.put).as_bytes());
                self.unanswered.push(self.put);
                self.put += 1;
            }
            14..22 if self.opens => self.world.send(self.reader, b"get from/open\r\n"),
            22..30 if self.opens => self.world.send(self.reader, b"get from/abort\r\n"),
            30..34 => {
                let queue = 1 + self.rng.below(2);
                self.world.send(self.taker, format!("get {}\r\n", QUEUES[queue]).as_bytes());
                self.asked.push(queue);
            }
            34..55 => drop(self.world.turn(shard)),
            55..75 => {
                let under_way = self.world.writes_under_way(shard);
                if under_way > 0 {
                    let at = self.rng.below(under_way);
                    self.world.write(shard, at);
                }
            }
            75..78 => self.world.checkpoint(shard),
            78..82 => drop(self.world.apply_slice(shard, 2)),
            82..90 => drop(self.world.deliver()),
            90..93 => drop(self.world.load()),
            93..96 => self.world.advance(400),
            96 => {
                let full = self.rng.below(3) == 0;
                self.world.set_full_of(shard, full);
            }
            97 if self.rng.below(8) == 0 => {
                // Nobody knows which of them were dropped.
                self.world.send(self.putter, b"flush from\r\n");
                self.world.settle();
                self.hear();
                self.stored.clear();
            }
            _ => self.hear(),
        }
    }

    fn hear(&mut self) {
        let answers = self.world.heard(self.putter);
        for line in answers.lines() {
            match line {
                "STORED" => drop(self.stored.insert(self.unanswered.remove(0))),
                "SERVER_ERROR out of storage" => drop(self.unanswered.remove(0)),
                "END" => {}
                line => panic!("{line}"),
            }
        }
        drop(self.world.heard(self.reader));
        let answers = self.world.heard(self.taker);
        for answer in answers.split_inclusive("END\r\n") {
            let queue = self.asked.remove(0);
            self.take(queue, answer);
        }
    }

    fn take(&mut self, queue: usize, answer: &str) {
        for number in numbers(answer) {
            assert!(self.taken.insert(number), "{number} is there once");
            self.stored.remove(&number);
            if queue == 1 && !self.opens {
                assert!(self.latest.is_none_or(|latest| latest < number), "{number} comes in its order");
                self.latest = Some(number);
            }
        }
    }

    fn crash(&mut self) {
        self.hear();
        let kept = self.rng.below(9);
        let Story { rng, world, .. } = self;
        world.tear(4096, || rng.below(8) < kept);
        let shards = 1 + self.rng.below(3) as u16;
        self.world.crash(shards);
        // What was asked of the dead server and not answered may have happened.
        if !self.asked.is_empty() {
            self.stored.clear();
        }
        self.asked.clear();
        self.unanswered.clear();
        [self.putter, self.reader, self.taker] = [(); 3].map(|()| self.world.connect());
    }

    fn finish(&mut self) {
        self.world.set_full(false);
        // What it has open returns.
        self.world.reset(self.reader);
        for _ in 0..4 {
            self.world.settle();
            self.hear();
            self.world.advance(1_100);
        }
        self.world.settle();
        self.hear();
        for (queue, name) in QUEUES.iter().enumerate() {
            loop {
                let answer = self.world.ask(self.taker, &format!("get {name}\r\n"));
                if answer == "END\r\n" {
                    break;
                }
                self.take(queue, &answer);
            }
        }
        assert_eq!(self.stored, BTreeSet::new(), "everything is somewhere");
    }
}

#[test]
fn random_histories_have_each_message_in_one_queue() {
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    for seed in replayed.map_or(0..100, |seed| seed..seed + 1) {
        println!("replay this history with RINGQ_SEED={seed} cargo test --test it random_histories_have");
        let mut story = Story::new(seed);
        for _ in 0..1 + seed % 3 {
            for _ in 0..story.rng.below(600) {
                story.step();
            }
            story.crash();
        }
        for _ in 0..100 {
            story.step();
        }
        story.finish();
    }
}

/// One message between two shards, and a crash after every few steps of its way, in many orders: what the disk had not completed is lost.
#[test]
fn one_message_is_in_one_queue_wherever_the_server_dies() {
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let options = Options { shards: 2, segment_size: 256 << 10, ..Options::default() };
        let mut world = World::new(options);
        let client = world.connect();
        let (from, to) = (name_of_shard(&world, 0, "from"), name_of_shard(&world, 1, "to"));
        world.ask(client, &format!("config {from} expire_to={to}\r\n{}", put(&format!("{from}/ttl=1"), 1)));
        world.advance(1_100);
        for _ in 0..rng.below(24) {
            let shard = rng.below(2);
            match rng.below(8) {
                0..3 => drop(world.turn(shard)),
                3..5 if world.writes_under_way(shard) > 0 => world.write(shard, 0),
                5..7 => drop(world.deliver()),
                _ => {
                    world.checkpoint(shard);
                    world.apply_slice(shard, 1);
                }
            }
        }
        world.crash(1 + rng.below(3) as u16);
        let client = world.connect();
        world.advance(1_100);
        world.settle();
        let got = world.ask(client, &format!("get {to} {to} {from}\r\n"));
        assert_eq!(numbers(&got), [1], "seed {seed}");
        let answer = world.ask(client, &format!("stats queue {from}\r\nstats\r\n"));
        assert!(answer.contains("STAT expired 1\r\n") && answer.contains("STAT curr_items 0\r\n"), "{answer}");
    }
}

#[test]
fn what_is_refused_is_sent_again_in_its_order() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let client = world.connect();
    let (from, to) = (name_of_shard(&world, 0, "from"), name_of_shard(&world, 1, "to"));
    world.ask(client, &format!("config {from} max_age=1 expire_to={to}\r\n"));
    (0..3).for_each(|number| drop(world.ask(client, &put(&from, number))));
    world.set_full_of(1, true);
    world.advance(1_100);
    world.settle();
    assert_eq!(world.ask(client, &format!("get {from} {to}\r\n")), "END\r\n");
    for (name, expected) in [("ready", 0), ("moving", 3), ("expired", 0)] {
        assert_eq!(stat(&mut world, client, &from, name), expected, "{name}");
    }
    // Those that come while the target has room again, and before the first is sent again, stay behind it.
    world.set_full_of(1, false);
    (3..5).for_each(|number| drop(world.ask(client, &put(&from, number))));
    world.advance(900);
    world.settle();
    assert_eq!(stat(&mut world, client, &from, "moving"), 3);
    world.advance(1_100);
    world.settle();
    world.advance(1_100);
    world.settle();
    let got = world.ask(client, &format!("get {to} {to} {to} {to} {to} {to}\r\n"));
    assert_eq!(numbers(&got), [0, 1, 2, 3, 4]);
    assert_eq!(stat(&mut world, client, &from, "expired"), 5);
    assert_eq!(stat(&mut world, client, &from, "moving"), 0);
}

#[test]
fn a_full_disk_holds_up_only_what_would_move() {
    for shards in [1, 2] {
        let mut world = World::new(Options { shards, ..Options::default() });
        let client = world.connect();
        let from = name_of_shard(&world, 0, "from");
        let to = name_of_shard(&world, world.shards() - 1, "to");
        world.ask(client, &format!("config {from} expire_to={to}\r\n"));
        world.ask(client, &(put(&format!("{from}/ttl=1"), 1) + &put(&from, 2)));
        world.advance(1_100);
        world.set_full(true);
        assert_eq!(numbers(&world.ask(client, &format!("get {from}\r\n"))), [2]);
        assert_eq!(world.ask(client, &format!("get {to}\r\n")), "END\r\n");
        assert_eq!(stat(&mut world, client, &from, "moving"), 1);
        world.set_full(false);
        world.advance(1_100);
        assert_eq!(numbers(&world.ask(client, &format!("get {to}/t=1\r\n"))), [1]);
    }
}

#[test]
fn more_than_can_be_set_aside_waits_and_so_do_gets_behind_it() {
    const COUNT: usize = 66_000;
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "config from expire_to=late\r\n");
    for number in (0..COUNT).step_by(100) {
        let puts: String = (number..number + 100).map(|number| put("from/ttl=1", number)).collect();
        world.ask(client, &puts);
    }
    world.ask(client, &put("from", COUNT));
    world.set_full(true);
    world.advance(1_100);
    assert_eq!(world.ask(client, "get from\r\n"), "", "its head can go nowhere yet");
    world.set_full(false);
    world.settle();
    assert_eq!(numbers(&world.heard(client)), [COUNT]);
    assert_eq!(counts_of(&world.ask(client, "stats queue late\r\n")), format!("{COUNT}/0"));
}

#[test]
fn what_was_to_move_and_has_lost_its_target_is_dropped_and_counted() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, "config from expire_to=late max_deliveries=1 dead_letter=dead\r\n");
    world.ask(client, &(put("from/ttl=1", 1) + &put("from", 2)));
    world.advance(1_100);
    world.set_full(true);
    world.ask(client, "get from/open\r\n");
    world.ask(client, "get from/abort\r\n");
    assert_eq!(stat(&mut world, client, "from", "moving"), 2);
    world.ask(client, "config from expire_to=none dead_letter=none\r\n");
    world.set_full(false);
    world.settle();
    for (name, expected) in [("moving", 0), ("expired", 1), ("discarded", 1), ("dead_lettered", 0)] {
        assert_eq!(stat(&mut world, client, "from", name), expected, "{name}");
    }
}

#[test]
fn each_reader_of_a_queue_with_groups_sends_its_own() {
    for shards in [1, 2] {
        let mut world = World::new(Options { shards, ..Options::default() });
        let client = world.connect();
        let from = name_of_shard(&world, 0, "from");
        let dead = name_of_shard(&world, world.shards() - 1, "dead");
        world.ask(client, &format!("config {from} max_deliveries=1 dead_letter={dead}\r\nget {from}/group=g\r\n"));
        world.ask(client, &(put(&from, 1) + &put(&from, 2)));
        // The group cannot do with the first, the plain readers not with the second.
        world.ask(client, &format!("get {from}/group=g/open\r\n"));
        world.ask(client, &format!("get {from}/group=g/abort\r\n"));
        world.ask(client, &format!("get {from}\r\n"));
        world.ask(client, &format!("get {from}/open\r\n"));
        world.ask(client, &format!("get {from}/abort\r\n"));
        world.settle();
        assert_eq!(numbers(&world.ask(client, &format!("get {from}/group=g\r\n"))), [2]);
        assert_eq!(numbers(&world.ask(client, &format!("get {dead} {dead} {dead}\r\n"))), [1, 2]);
        let answer = world.ask(client, "stats\r\n");
        assert!(answer.contains("STAT curr_items 0\r\n"), "{answer}");
    }
}

/// Opens and gives back what is there, and takes from where it goes, until the server is gone. What was taken.
fn work(address: SocketAddr, dead: &str) -> Vec<usize> {
    let mut taken = Vec::new();
    let mut stream = TcpStream::connect(address).expect("the server is there");
    loop {
        for request in ["get from/open\r\n", "get from/abort\r\n", &format!("get {dead}\r\n")] {
            let mut answer = Vec::new();
            let mut buffer = [0; 512];
            let mut size = stream.write_all(request.as_bytes()).map_or(0, |()| 1);
            while size > 0 && !answer.ends_with(b"END\r\n") {
                size = stream.read(&mut buffer).unwrap_or(0);
                answer.extend_from_slice(&buffer[..size]);
            }
            if size == 0 {
                return taken;
            }
            if request.contains(dead) {
                taken.extend(numbers(&String::from_utf8_lossy(&answer)));
            }
        }
    }
}

#[test]
fn dead_letters_survive_kills_in_one_queue_each() {
    const ROUNDS: usize = 8;
    const MESSAGES: usize = 400;
    for round in 0..ROUNDS {
        // Of one thread and of two: then the queues may belong to different ones.
        let mut server = Server::start(&["-t", ["1", "2"][round % 2]]);
        let dead = format!("dead{}", round / 2);
        let mut client = Client::connect(server.addr());
        client.send(format!("config from max_deliveries=1 dead_letter={dead}\r\n").as_bytes());
        client.expect(b"OK\r\n");
        let puts: String = (0..MESSAGES).map(|number| put("from", number)).collect();
        client.send(puts.as_bytes());
        client.expect("STORED\r\n".repeat(MESSAGES).as_bytes());
        let (address, name) = (server.addr(), dead.clone());
        let worker = std::thread::spawn(move || work(address, &name));
        std::thread::sleep(Duration::from_millis(3 + 7 * round as u64));
        server.kill9();
        let mut taken = worker.join().expect("the worker ends");
        server.restart();
        let mut client = Client::connect(server.addr());
        for queue in ["from", &dead] {
            loop {
                let answer = client.command(format!("get {queue}/t=200\r\n").as_bytes(), b"END\r\n");
                let got = numbers(&String::from_utf8_lossy(&answer));
                if got.is_empty() {
                    break;
                }
                taken.extend(got);
            }
        }
        let all: BTreeSet<usize> = taken.iter().copied().collect();
        assert_eq!(all.len(), taken.len(), "no message twice");
        // One get may have been answered by the dead server, and its answer lost.
        assert!(all.len() >= MESSAGES - 1, "{} of {MESSAGES}", all.len());
    }
}

#[test]
fn deliveries_that_came_back_count_over_a_crash() {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let mut client = world.connect();
    world.ask(client, "config from max_deliveries=3 dead_letter=dead\r\nset from 0 0 1\r\nx\r\n");
    for shards in [3, 1] {
        assert_eq!(
            world.ask(client, "get from/open\r\nget from/abort\r\n"),
            "VALUE from/open 0 1\r\nx\r\nEND\r\nEND\r\n"
        );
        assert_eq!(stat(&mut world, client, "from", "ready"), 1);
        world.crash(shards);
        client = world.connect();
    }
    // Open when the server dies: that delivery does not count.
    assert_eq!(world.ask(client, "get from/open\r\n"), "VALUE from/open 0 1\r\nx\r\nEND\r\n");
    world.crash(2);
    client = world.connect();
    assert_eq!(stat(&mut world, client, "from", "ready"), 1);
    world.ask(client, "get from/open\r\nget from/abort\r\n");
    assert_eq!(world.ask(client, "get from\r\n"), "END\r\n");
    world.settle();
    assert_eq!(world.ask(client, "get dead\r\n"), "VALUE dead 0 1\r\nx\r\nEND\r\n");
    assert_eq!(stat(&mut world, client, "from", "dead_lettered"), 1);
}
