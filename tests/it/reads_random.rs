//! Open reads against a model: clients of all shards read, wait, confirm, give back, hang up and crash in an order drawn from one seed. After
//! each step everything comes to rest, and every client must have heard exactly what the model says.
//!
//! So after each step: nobody waits while something is ready, no message is open twice, what returns is in its place, and for each
//! queue `puts = gets + ready + open + deleted`. The simulator (tests/sim) has the same with everything under way at once.
//!
//! Replay one history with `RINGQ_SEED=n cargo test --test it reads_random`.

use crate::rng::Rng;
use crate::world::{Options, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const QUEUES: usize = 2;
const CLIENTS: usize = 6;
const STEPS: usize = 600;
const OPEN_READS_MAX: usize = 5;

/// In place of a client that is gone, and left a read that is not tied to it.
const NOBODY: usize = usize::MAX;

/// What a get does with its message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Take,
    Open { ttr_s: u64 },
    Peek,
}

#[derive(Clone, Copy)]
struct Open {
    client: usize,
    read: u64,
    is_detached: bool,
    /// 0: never.
    deadline: u64,
}

struct Waiter {
    client: usize,
    key: String,
    kind: Kind,
    deadline: u64,
}

#[derive(Default)]
struct Queue {
    exists: bool,
    /// Raised when its life ends, or all that is in it goes.
    life: u64,
    ready: BTreeSet<u64>,
    /// Of these, what was open and came back in this life of the server.
    returned: BTreeSet<u64>,
    open: BTreeMap<u64, Open>,
    line: VecDeque<Waiter>,
    puts: u64,
    gets: u64,
    deleted: u64,
    /// Messages that went straight from a put to who waited, in this life of the server: a crash may take them from both counters.
    handed: u64,
    uncounted: u64,
}

/// A client's read, as it knows it.
#[derive(Clone, Copy)]
struct Entry {
    life: u64,
    message: u64,
    read: u64,
}

struct Client {
    number: usize,
    entries: Vec<VecDeque<Entry>>,
    /// What it must have heard.
    due: String,
}

pub struct Model {
    pub rng: Rng,
    world: World,
    now: u64,
    queues: Vec<Queue>,
    clients: Vec<Client>,
    /// Ids of messages, as far as anybody was told.
    ids: BTreeMap<u64, u64>,
    messages: u64,
    reads: u64,
    body_size: usize,
    shards: usize,
    unconfirmed_max: usize,
}

const TOO_MANY: &str = "SERVER_ERROR too many open reads\r\n";

fn name(queue: usize) -> String {
    format!("q{queue}")
}

impl Model {
    pub fn new(mut rng: Rng) -> Model {
        // With little memory messages are spilled, loaded, and evicted while they are open.
        let (memory_share, body_size) = [(32 << 20, 10), (1 << 20, 60_000)][rng.below(2)];
        let shards = 1 + rng.below(3) as u16;
        let options = Options {
            shards,
            memory_share,
            body_size_max: 1 << 16,
            open_reads_max: OPEN_READS_MAX,
            unconfirmed_max: [1000, 5][rng.below(2)],
            ..Options::default()
        };
        let unconfirmed_max = options.unconfirmed_max;
        let mut model = Model {
            world: World::new(options),
            // As the world's clock.
            now: 1,
            queues: (0..QUEUES).map(|_| Queue::default()).collect(),
            clients: Vec::new(),
            ids: BTreeMap::new(),
            messages: 0,
            reads: 0,
            body_size,
            shards: usize::from(shards),
            unconfirmed_max,
            rng,
        };
        (0..CLIENTS).for_each(|_| model.connect());
        model
    }

    fn connect(&mut self) {
        let number = self.world.connect();
        self.clients.push(Client { number, entries: vec![VecDeque::new(); QUEUES], due: String::new() });
    }

    fn body(&self, message: u64) -> String {
        let size = self.body_size;
        format!("{message:<size$}")
    }

    // --- what should happen ---

    /// Whether there is room for an open read of the head of a queue, as far as the shard of the queue has a say.
    fn may_open(&self, queue: usize, message: u64) -> bool {
        let shard = self.world.owner(&name(queue));
        let is_there = |of: &usize| self.world.owner(&name(*of)) == shard;
        let unconfirmed = |of: usize| self.queues[of].open.len() + self.queues[of].returned.len();
        let unconfirmed: usize = (0..QUEUES).filter(is_there).map(unconfirmed).sum();
        unconfirmed < self.unconfirmed_max.div_ceil(self.shards) || self.queues[queue].returned.contains(&message)
    }

    /// An open read ended, and its message is ready again.
    fn give_back(&mut self, queue: usize, message: u64) {
        let of = &mut self.queues[queue];
        of.open.remove(&message).expect("it was open");
        of.ready.insert(message);
        of.returned.insert(message);
    }

    /// Gives the head of a queue to a client.
    fn give(&mut self, queue: usize, client: usize, key: &str, kind: Kind) {
        let message = *self.queues[queue].ready.first().expect("the caller looked");
        if matches!(kind, Kind::Open { .. }) && !self.may_open(queue, message) {
            self.clients[client].due += TOO_MANY;
            return;
        }
        let body = self.body(message);
        // The id is filled in when it is known.
        self.clients[client].due += &format!("VALUE {key} 0 {} #{message}\r\n{body}\r\nEND\r\n", body.len());
        if kind == Kind::Peek {
            return;
        }
        self.queues[queue].ready.remove(&message);
        self.queues[queue].returned.remove(&message);
        let Kind::Open { ttr_s } = kind else {
            self.queues[queue].gets += 1;
            return;
        };
        self.reads += 1;
        let deadline = if ttr_s > 0 { self.now + ttr_s * 1000 } else { 0 };
        let open = Open { client, read: self.reads, is_detached: ttr_s > 0, deadline };
        assert!(self.queues[queue].open.insert(message, open).is_none(), "no message is open twice");
        let life = self.queues[queue].life;
        self.clients[client].entries[queue].push_back(Entry { life, message, read: self.reads });
    }

    fn serve_line(&mut self, queue: usize) {
        while !self.queues[queue].ready.is_empty()
            && let Some(waiter) = self.queues[queue].line.pop_front()
        {
            self.queues[queue].handed += u64::from(waiter.kind == Kind::Take);
            self.give(queue, waiter.client, &waiter.key, waiter.kind);
        }
    }

    fn get(&mut self, queue: usize, client: usize, key: &str, kind: Kind, wait_ms: u64) {
        if !self.queues[queue].ready.is_empty() {
            self.give(queue, client, key, kind);
        } else if wait_ms > 0 {
            let waiter = Waiter { client, key: key.into(), kind, deadline: self.now + wait_ms };
            self.queues[queue].line.push_back(waiter);
        } else {
            self.clients[client].due += "END\r\n";
        }
    }

    /// Ends a client's oldest read. `false`: it had ended by itself.
    fn end(&mut self, queue: usize, client: usize, confirms: bool) -> bool {
        let Some(entry) = self.clients[client].entries[queue].pop_front() else { return true };
        let of = &mut self.queues[queue];
        if entry.life != of.life {
            return true;
        }
        if of.open.get(&entry.message).is_none_or(|open| open.read != entry.read) {
            return false;
        }
        if confirms {
            of.open.remove(&entry.message);
            of.gets += 1;
        } else {
            self.give_back(queue, entry.message);
            self.serve_line(queue);
        }
        true
    }

    fn drop_all(&mut self, queue: usize) {
        let of = &mut self.queues[queue];
        if of.ready.is_empty() && of.open.is_empty() {
            return;
        }
        of.deleted += (of.ready.len() + of.open.len()) as u64;
        of.ready.clear();
        of.returned.clear();
        of.open.clear();
        of.life += 1;
    }

    fn is_waiting(&self, client: usize) -> bool {
        self.queues.iter().any(|of| of.line.iter().any(|waiter| waiter.client == client))
    }

    /// The next time anything ends by itself.
    fn next_end(&self) -> Option<u64> {
        let reads = self.queues.iter().flat_map(|of| of.open.values().map(|open| open.deadline));
        let waits = self.queues.iter().flat_map(|of| of.line.iter().map(|waiter| waiter.deadline));
        reads.chain(waits).filter(|at| *at > 0).min()
    }

    /// Ends what is due now: waits first.
    fn end_what_is_due(&mut self) {
        for queue in 0..QUEUES {
            let now = self.now;
            let line = std::mem::take(&mut self.queues[queue].line).into_iter();
            let (due, line): (VecDeque<Waiter>, VecDeque<Waiter>) = line.partition(|waiter| waiter.deadline <= now);
            self.queues[queue].line = line;
            due.iter().for_each(|waiter| self.clients[waiter.client].due += "END\r\n");
            let is_due = |open: &Open| open.deadline > 0 && open.deadline <= now;
            let of = &mut self.queues[queue];
            let ended: Vec<u64> =
                of.open.iter().filter(|(_, open)| is_due(open)).map(|(message, _)| *message).collect();
            for message in ended {
                self.give_back(queue, message);
                self.serve_line(queue);
            }
        }
    }

    // --- steps ---

    fn ask(&mut self, client: usize, request: &str) {
        self.world.send(self.clients[client].number, request.as_bytes());
    }

    pub fn step(&mut self) {
        let (client, queue) = (self.rng.below(CLIENTS), self.rng.below(QUEUES));
        let q = name(queue);
        if self.rng.below(5) == 0 {
            return self.pass_time();
        }
        if self.rng.below(25) == 0 {
            return self.hang_up(client);
        }
        if self.rng.below(120) == 0 {
            return self.crash();
        }
        if self.is_waiting(client) {
            return;
        }
        match self.rng.below(24) {
            0..8 => {
                self.messages += 1;
                let (message, body) = (self.messages, self.body(self.messages));
                self.ask(client, &format!("set {q} 0 0 {}\r\n{body}\r\n", body.len()));
                let of = &mut self.queues[queue];
                of.exists = true;
                of.puts += 1;
                of.ready.insert(message);
                self.serve_line(queue);
                self.clients[client].due += "STORED\r\n";
            }
            8..17 => self.read(client, queue),
            17 | 18 => self.close(client, queue, "close"),
            19 => self.close(client, queue, "abort"),
            20 | 21 => self.confirm_or_touch(client, queue),
            22 if self.rng.below(6) == 0 => {
                self.ask(client, &format!("flush {q}\r\n"));
                self.drop_all(queue);
                self.clients[client].due += "END\r\n";
            }
            23 if self.rng.below(6) == 0 => {
                self.ask(client, &format!("delete {q}\r\n"));
                let exists = std::mem::take(&mut self.queues[queue].exists);
                self.drop_all(queue);
                let of = &mut self.queues[queue];
                of.life += 1;
                (of.puts, of.gets, of.deleted, of.handed) = (0, 0, 0, 0);
                self.clients[client].due += if exists { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
            }
            _ => {}
        }
    }

    fn read(&mut self, client: usize, queue: usize) {
        let wait_ms = [0, 0, 1 + self.rng.below(3000) as u64][self.rng.below(3)];
        let ttr_s = [0, 0, 1 + self.rng.below(3) as u64][self.rng.below(3)];
        let (kind, mut options) = match self.rng.below(6) {
            0 => (Kind::Take, String::new()),
            1 => (Kind::Peek, "/peek".into()),
            _ => (Kind::Open { ttr_s }, "/open".into()),
        };
        let is_open = matches!(kind, Kind::Open { .. });
        if is_open && ttr_s > 0 {
            options += &format!("/ttr={ttr_s}");
        }
        let closes = is_open && self.rng.below(4) == 0;
        if closes {
            options.insert_str(0, "/close");
        }
        if wait_ms > 0 {
            options += &format!("/t={wait_ms}");
        }
        let key = name(queue) + &options;
        self.ask(client, &format!("gets {key}\r\n"));
        let entries = &self.clients[client].entries;
        let open: usize = entries.iter().map(VecDeque::len).sum();
        let room = OPEN_READS_MAX + usize::from(closes && !entries[queue].is_empty());
        if is_open && open >= room {
            self.clients[client].due += TOO_MANY;
        } else if closes && !self.end(queue, client, true) {
            self.clients[client].due += "CLIENT_ERROR read expired\r\n";
        } else {
            self.get(queue, client, &key, kind, wait_ms);
        }
    }

    fn close(&mut self, client: usize, queue: usize, how: &str) {
        self.ask(client, &format!("get {}/{how}\r\n", name(queue)));
        let answer = if self.end(queue, client, how == "close") { "END\r\n" } else { "CLIENT_ERROR read expired\r\n" };
        self.clients[client].due += answer;
    }

    /// Of a message that is open, or of any that anybody knows.
    fn confirm_or_touch(&mut self, client: usize, queue: usize) {
        let open: Vec<u64> = self.queues[queue].open.keys().copied().collect();
        let known: Vec<u64> = self.ids.keys().copied().collect();
        let from = if open.is_empty() || self.rng.below(4) == 0 { known } else { open };
        if from.is_empty() {
            return;
        }
        let message = from[self.rng.below(from.len())];
        let (id, q) = (self.ids[&message], name(queue));
        let is_open = self.queues[queue].open.contains_key(&message);
        if self.rng.below(2) == 0 {
            self.ask(client, &format!("delete {q}/id={id}\r\n"));
            if let Some(open) = self.queues[queue].open.remove(&message) {
                self.queues[queue].gets += 1;
                if let Some(client) = self.clients.get_mut(open.client) {
                    client.entries[queue].retain(|entry| entry.read != open.read);
                }
            }
            self.clients[client].due += if is_open { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
        } else {
            let seconds = self.rng.below(4) as u64;
            self.ask(client, &format!("touch {q}/id={id} {seconds}\r\n"));
            let deadline = self.now + seconds * 1000;
            if let Some(open) = self.queues[queue].open.get_mut(&message) {
                open.deadline = deadline;
            }
            self.clients[client].due += if is_open { "TOUCHED\r\n" } else { "NOT_FOUND\r\n" };
            self.end_what_is_due();
        }
    }

    /// Some time passes, in stretches in each of which at most one moment has something in it.
    fn pass_time(&mut self) {
        let end = self.now + self.rng.below(2000) as u64;
        while self.now < end {
            let next = self.next_end().map_or(end, |at| at.clamp(self.now + 1, end));
            self.world.advance(next - self.now);
            self.now = next;
            self.end_what_is_due();
            self.check();
        }
    }

    fn hang_up(&mut self, client: usize) {
        let number = self.clients[client].number;
        match self.rng.below(3) {
            0 => self.world.send(number, b"quit\r\n"),
            1 => self.world.half_close(number),
            _ => self.world.reset(number),
        }
        let was_waiting = self.is_waiting(client);
        if was_waiting && !self.world.clients[number].ended {
            // What it says is not read, and its sending half may be open: it goes for good.
            self.world.reset(number);
        }
        for queue in 0..QUEUES {
            self.queues[queue].line.retain(|waiter| waiter.client != client);
        }
        for queue in 0..QUEUES {
            let of = &mut self.queues[queue];
            let mine = |open: &&Open| open.client == client && !open.is_detached;
            let returned: Vec<u64> =
                of.open.iter().filter(|(_, open)| mine(open)).map(|(message, _)| *message).collect();
            for message in returned {
                self.give_back(queue, message);
            }
            self.serve_line(queue);
        }
        self.world.settle();
        assert!(self.world.clients[number].ended);
        for of in &mut self.queues {
            of.open.values_mut().filter(|open| open.client == client).for_each(|open| open.client = NOBODY);
        }
        self.clients[client] =
            Client { number: self.world.connect(), entries: vec![VecDeque::new(); QUEUES], due: String::new() };
    }

    fn crash(&mut self) {
        let shards = 1 + self.rng.below(3) as u16;
        self.world.crash(shards);
        self.shards = usize::from(shards);
        for of in &mut self.queues {
            of.line.clear();
            of.returned.clear();
            let open = std::mem::take(&mut of.open);
            of.ready.extend(open.into_keys());
            of.uncounted = std::mem::take(&mut of.handed);
        }
        self.clients.clear();
        (0..CLIENTS).for_each(|_| self.connect());
    }

    // --- comparing ---

    pub fn check(&mut self) {
        self.world.settle();
        for client in 0..CLIENTS {
            let heard = self.world.heard(self.clients[client].number);
            let due = std::mem::take(&mut self.clients[client].due);
            let heard = self.without_ids(&heard, &due);
            assert!(heard == due, "client {client} heard {:.300}, and not {:.300}", heard, due);
        }
        self.check_stats();
    }

    /// What was heard, with the numbers of messages in place of their ids.
    fn without_ids(&mut self, heard: &str, due: &str) -> String {
        let mut numbers = due.lines().filter_map(|line| line.split_once(" #").filter(|_| line.starts_with("VALUE ")));
        let mut text = String::new();
        for line in heard.split_inclusive("\r\n") {
            let id = line.trim_end().rsplit_once(' ').filter(|_| line.starts_with("VALUE "));
            match (id, numbers.next().filter(|_| id.is_some())) {
                (Some((before, id)), Some((_, number))) => {
                    let (id, number): (u64, u64) = (id.parse().unwrap(), number.parse().unwrap());
                    let known = *self.ids.entry(number).or_insert(id);
                    assert_eq!(known, id, "the id of message {number}");
                    text += &format!("{before} #{number}\r\n");
                }
                _ => text += line,
            }
        }
        text
    }

    fn check_stats(&mut self) {
        let Some(client) = (0..CLIENTS).find(|client| !self.is_waiting(*client)) else { return };
        let number = self.clients[client].number;
        for queue in 0..QUEUES {
            let of = &self.queues[queue];
            let (ready, open) = (of.ready.len() as u64, of.open.len() as u64);
            assert_eq!(of.puts, of.gets + ready + open + of.deleted, "the law of conservation");
            let text = self.world.ask(number, &format!("stats queue {}\r\n", name(queue)));
            let of = &mut self.queues[queue];
            let stat = |wanted: &str| {
                let line =
                    text.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(wanted)?.strip_prefix(' '));
                line.map_or(0, |value| value.parse().unwrap())
            };
            let uncounted = of.puts.saturating_sub(stat("puts")).min(std::mem::take(&mut of.uncounted));
            of.puts -= uncounted;
            of.gets -= uncounted;
            let names =
                ["puts", "gets", "ready", "open", "deleted", "expired", "discarded", "dead_lettered", "corrupt"];
            let expected = [of.puts, of.gets, ready, open, of.deleted, 0, 0, 0, 0];
            assert_eq!(names.map(stat), expected, "queue {queue}: {names:?}");
            if of.exists {
                assert_eq!(stat("bytes"), (ready + open) * self.body_size as u64, "queue {queue}: bytes");
            }
        }
    }

    /// In the end every message that is left comes out, in its order.
    pub fn finish(&mut self) {
        for client in 0..CLIENTS {
            self.hang_up(client);
        }
        self.check();
        for _ in 0..10 {
            self.pass_time();
        }
        for queue in 0..QUEUES {
            while !self.queues[queue].ready.is_empty() {
                let key = name(queue);
                self.ask(0, &format!("gets {key}\r\n"));
                self.get(queue, 0, &key, Kind::Take, 0);
                self.check();
            }
        }
    }
}

fn run(seed: u64) {
    eprintln!("replay: RINGQ_SEED={seed} cargo test --test it reads_random");
    let mut model = Model::new(Rng::new(seed));
    for _ in 0..STEPS {
        model.step();
        model.check();
    }
    model.finish();
}

#[test]
fn open_reads_do_what_their_model_says() {
    if let Ok(seed) = std::env::var("RINGQ_SEED") {
        return run(seed.parse().expect("RINGQ_SEED is a number"));
    }
    let runs = std::env::var("RINGQ_RUNS").map_or(30, |n| n.parse().expect("RINGQ_RUNS is a number"));
    (1..=runs).for_each(run);
}
