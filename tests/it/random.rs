//! Random histories of the whole server in virtual time: clients, shards, mail, batches, loads and crashes in an order drawn from
//! one seed, beside what the clients were told.
//!
//! Each body says who put it and as which of his. Checked all along: no message comes twice, none comes that was not put, what one
//! connection put into one queue comes out in that order, replies come in the order of requests. At the end: every message that
//! was acknowledged and not delivered is there, once, but for as many as gets whose replies nobody heard; the counters agree, and so
//! do the bytes that each queue was said to have.
//!
//! What the server sends arrives in pieces and as late as the seed likes, so messages that go straight to a waiting get are in every state
//! when a client hangs up or the power goes. Some clients look at a message without taking it: what they see was put there, durably. In some
//! histories they empty queues: what was asked for before the answer may go then, and nothing else; the counters say how much went. In some they
//! open messages and confirm them later, give them back, let their time pass, or hang up: what is open in a client's hands comes to nobody
//! else, and what was confirmed never comes again. A crash may take such a message from the counters only if it was delivered; an order is broken
//! only by messages that such a client gave back.
//!
//! Replay one history with `RINGQ_SEED=n cargo test --test it random`.

use crate::world::{Options, World};
use std::collections::{BTreeMap, HashSet, VecDeque};

/// A small generator of our own, so that a seed means the same history whatever library changes (xorshift64*). Its first choices may be
/// given.
pub struct Rng {
    state: u64,
    /// What is chosen before chance is, last first, a byte each.
    given: Vec<u8>,
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, given: Vec::new() }
    }

    /// Chooses as these bytes say, until they are spent.
    pub fn given(bytes: &[u8]) -> Rng {
        Rng { given: bytes.iter().rev().copied().collect(), ..Rng::new(1) }
    }

    /// Whether nothing is left of what was given.
    pub fn is_spent(&self) -> bool {
        self.given.is_empty()
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        match self.given.pop() {
            Some(byte) if n <= 256 => usize::from(byte) % n,
            Some(byte) => (usize::from(byte) << 8 | usize::from(self.given.pop().unwrap_or(0))) % n,
            None => (self.next() % n as u64) as usize,
        }
    }
}

/// Waiting gets wait for less than this, ms.
const WAIT_MS_MAX: usize = 300;

/// A request whose reply has not come.
#[derive(Debug)]
enum Asked {
    Put { body: (usize, u64) },
    Get { queues: Vec<usize> },
    WaitingGet { queue: usize },
    Peek { queue: usize },
    Flush { queue: usize },
    Open { queue: usize, closes: bool, ends: bool },
    End { queue: usize, confirms: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Put, no reply yet; after a crash it may be there or not.
    Unknown,
    Acknowledged,
    Delivered,
}

struct Driver {
    id: usize,
    client: usize,
    asked: VecDeque<Asked>,
    next_body: u64,
    /// What it has open, by queue, oldest first, those included whose time is over.
    open: BTreeMap<usize, VecDeque<(usize, u64)>>,
    /// Of these, what nobody else can have: it has not asked for an end, and it has no time.
    held: BTreeMap<(usize, u64), usize>,
}

pub struct History {
    pub rng: Rng,
    pub world: World,
    drivers: Vec<Driver>,
    fates: BTreeMap<(usize, u64), (usize, Fate)>,
    /// Per queue, gets whose replies a crash or hang-up swallowed: each may have taken a message.
    stray_gets: BTreeMap<usize, usize>,
    /// Last body of a putter that came out of a queue, by who took it.
    last: BTreeMap<(usize, usize, usize), u64>,
    /// Newest body of a putter that came out of a queue.
    newest: BTreeMap<(usize, usize), u64>,
    /// Requests of one client that may wait for replies when it sends more.
    asked_max: usize,
    body_size: usize,
    queues: usize,
    pub crashes: usize,
    pub hang_ups: bool,
    /// Gets with a timeout are asked for.
    waits: bool,
    /// Queues are emptied.
    flushes: bool,
    /// Messages are opened: what comes back may be older than what was taken.
    reads: bool,
    /// Messages that may have gone with the rest of their queue, and queues of which any may have.
    flushed: HashSet<(usize, u64)>,
    flushed_queues: HashSet<usize>,
    /// Per queue, messages that waiting gets got in this life of the server: a crash may take them from both counters.
    handed: BTreeMap<usize, usize>,
    /// The same, of lives that a crash ended.
    uncounted: BTreeMap<usize, usize>,
    /// Per queue, waiting gets of clients that hung up: each may have given a message back behind younger ones.
    returned: BTreeMap<usize, usize>,
    crashed: bool,
    /// What was acknowledged just now.
    acknowledged: Vec<(usize, u64)>,
}

impl History {
    pub fn new(mut rng: Rng) -> History {
        let shards = 1 + rng.below(3) as u16;
        // Small shares make queues spill, load, and puts wait.
        let memory_share = [1 << 20, 2 << 20, 32 << 20][rng.below(3)];
        let body_size = [20, 300, 60_000][rng.below(3)];
        let open_reads_max = [2, 1024][rng.below(2)];
        let options = Options { shards, memory_share, open_reads_max, body_size_max: 100_000, ..Options::default() };
        History::with(rng, options, body_size, usize::MAX)
    }

    /// A server with these options, and clients that put messages of this size and send nothing more while `asked_max` requests
    /// wait for replies. How many there are and what they go through is drawn.
    pub fn with(mut rng: Rng, options: Options, body_size: usize, asked_max: usize) -> History {
        let world = World::new(options);
        let drivers = 1 + rng.below(6);
        let mut history = History {
            queues: 1 + rng.below(5),
            crashes: rng.below(3),
            hang_ups: rng.below(2) == 0,
            waits: rng.below(4) > 0,
            flushes: rng.below(4) == 0,
            reads: rng.below(2) == 0,
            flushed: HashSet::new(),
            flushed_queues: HashSet::new(),
            handed: BTreeMap::new(),
            uncounted: BTreeMap::new(),
            returned: BTreeMap::new(),
            crashed: false,
            acknowledged: Vec::new(),
            rng,
            world,
            drivers: Vec::new(),
            fates: BTreeMap::new(),
            stray_gets: BTreeMap::new(),
            last: BTreeMap::new(),
            newest: BTreeMap::new(),
            asked_max,
            body_size,
        };
        history.world.holds_sends = history.rng.below(3) > 0;
        history.world.durable_bodies = Some(HashSet::new());
        (0..drivers).for_each(|_| history.connect());
        history
    }

    fn connect(&mut self) {
        let client = self.world.connect();
        let (asked, open, held) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        self.drivers.push(Driver { id: client, client, asked, next_body: 0, open, held });
    }

    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.rng.below(8) == 0 {
                self.pass_time();
            }
            self.send();
            match self.rng.below(100) {
                0..30 => self.ask(),
                30..60 => {
                    let shard = self.rng.below(self.world.shards());
                    self.world.turn(shard);
                }
                60..75 => {
                    let (shard, count) = (self.rng.below(self.world.shards()), 1 + self.rng.below(4));
                    self.world.apply(shard, count);
                }
                75..85 => drop(self.world.deliver()),
                85..95 => drop(self.world.load()),
                95 if self.hang_ups && self.rng.below(10) == 0 => self.hang_up(),
                96 if self.crashes > 0 && self.rng.below(20) == 0 => self.crash(),
                _ => self.hear(),
            }
        }
    }

    /// Some waiting gets have waited long enough.
    pub fn pass_time(&mut self) {
        let ms = self.rng.below(100) as u64;
        self.world.advance(ms);
    }

    pub fn ask(&mut self) {
        let driver = self.rng.below(self.drivers.len());
        if self.drivers[driver].asked.len() >= self.asked_max {
            return;
        }
        let mut bytes = Vec::new();
        // More puts than gets at first, so that backlogs grow; the final drain empties them.
        for _ in 0..1 + self.rng.below(8) {
            match self.rng.below(20) {
                0..12 => self.ask_put(driver, &mut bytes),
                17.. if self.waits => self.ask_waiting_get(driver, &mut bytes),
                12 => {
                    let queue = self.rng.below(self.queues);
                    bytes.extend_from_slice(format!("get q{queue}/peek\r\n").as_bytes());
                    self.drivers[driver].asked.push_back(Asked::Peek { queue });
                }
                13 if self.flushes && self.rng.below(10) == 0 => {
                    let queue = self.rng.below(self.queues);
                    bytes.extend_from_slice(format!("flush q{queue}\r\n").as_bytes());
                    self.drivers[driver].asked.push_back(Asked::Flush { queue });
                }
                14 | 15 if self.reads => self.ask_open(driver, &mut bytes),
                16 if self.reads => self.ask_end(driver, &mut bytes),
                _ => self.ask_get(driver, &mut bytes),
            }
        }
        let client = self.drivers[driver].client;
        let cut = self.rng.below(bytes.len() + 1);
        self.world.send(client, &bytes[..cut]);
        if cut < bytes.len() {
            self.world.send(client, &bytes[cut..]);
        }
    }

    fn ask_put(&mut self, driver: usize, bytes: &mut Vec<u8>) {
        let queue = self.rng.below(self.queues);
        let size = self.body_size;
        let it = &mut self.drivers[driver];
        let body = (it.id, it.next_body);
        it.next_body += 1;
        let text = text(body, size);
        bytes.extend_from_slice(format!("set q{queue} 0 0 {}\r\n{text}\r\n", text.len()).as_bytes());
        it.asked.push_back(Asked::Put { body });
        self.fates.insert(body, (queue, Fate::Unknown));
    }

    fn ask_get(&mut self, driver: usize, bytes: &mut Vec<u8>) {
        let count = 1 + self.rng.below(3);
        let queues: Vec<usize> = (0..count).map(|_| self.rng.below(self.queues)).collect();
        let keys: Vec<String> = queues.iter().map(|q| format!("q{q}")).collect();
        bytes.extend_from_slice(format!("get {}\r\n", keys.join(" ")).as_bytes());
        self.drivers[driver].asked.push_back(Asked::Get { queues });
    }

    fn ask_waiting_get(&mut self, driver: usize, bytes: &mut Vec<u8>) {
        let (queue, wait) = (self.rng.below(self.queues), self.rng.below(WAIT_MS_MAX));
        bytes.extend_from_slice(format!("get q{queue}/t={wait}\r\n").as_bytes());
        self.drivers[driver].asked.push_back(Asked::WaitingGet { queue });
    }

    fn ask_open(&mut self, driver: usize, bytes: &mut Vec<u8>) {
        let queue = self.rng.below(self.queues);
        let (closes, ends) = (self.rng.below(3) == 0, self.rng.below(4) == 0);
        let wait = if self.waits && self.rng.below(3) == 0 { self.rng.below(WAIT_MS_MAX) } else { 0 };
        let (close, ttr) = (if closes { "/close" } else { "" }, if ends { "/ttr=1" } else { "" });
        bytes.extend_from_slice(format!("get q{queue}{close}/open{ttr}/t={wait}\r\n").as_bytes());
        let it = &mut self.drivers[driver];
        it.asked.push_back(Asked::Open { queue, closes, ends });
        if closes {
            it.held.retain(|_, of| *of != queue);
        }
    }

    fn ask_end(&mut self, driver: usize, bytes: &mut Vec<u8>) {
        let (queue, confirms) = (self.rng.below(self.queues), self.rng.below(3) > 0);
        let how = if confirms { "close" } else { "abort" };
        bytes.extend_from_slice(format!("get q{queue}/{how}\r\n").as_bytes());
        let it = &mut self.drivers[driver];
        it.asked.push_back(Asked::End { queue, confirms });
        it.held.retain(|_, of| *of != queue);
    }

    /// Reads whole replies of every client.
    pub fn hear(&mut self) {
        for driver in 0..self.drivers.len() {
            let client = self.drivers[driver].client;
            let received = std::mem::take(&mut self.world.clients[client].received);
            let mut heard = 0;
            while let Some(len) = self.hear_reply(driver, &received[heard..]) {
                heard += len;
                self.drivers[driver].asked.pop_front();
            }
            self.world.clients[client].received = received[heard..].to_vec();
        }
        for body in std::mem::take(&mut self.acknowledged) {
            let has_arrived = self.fates[&body].1 == Fate::Delivered;
            let is_stored = self.world.is_durable(&text(body, self.body_size));
            assert!(has_arrived || is_stored, "{body:?} was acknowledged, but neither stored nor sent to anybody");
        }
    }

    /// Takes in the reply to a client's oldest request. Returns its length, if it is whole.
    fn hear_reply(&mut self, driver: usize, received: &[u8]) -> Option<usize> {
        match self.drivers[driver].asked.front()? {
            Asked::Put { body } => {
                let reply = received.get(..8)?;
                assert_eq!(reply, b"STORED\r\n", "to a put");
                // Another client may have had the message before its putter heard of it.
                let fate = &mut self.fates.get_mut(body).unwrap().1;
                if *fate == Fate::Unknown {
                    *fate = Fate::Acknowledged;
                }
                self.acknowledged.push(*body);
                Some(8)
            }
            Asked::WaitingGet { queue } => {
                let (values, len) = parse_values(received)?;
                let queue = *queue;
                self.check_keys(&[queue], &values);
                let taker = self.drivers[driver].client;
                values.iter().for_each(|(queue, body)| self.deliver(taker, *queue, *body));
                *self.handed.entry(queue).or_default() += values.len();
                Some(len)
            }
            Asked::Peek { queue } => {
                let (values, len) = parse_values(received)?;
                self.check_keys(&[*queue], &values);
                for (queue, body) in values {
                    assert_eq!(self.fates[&body].0, queue, "a message is seen in the queue it went into");
                    // What nobody had acknowledged may have survived a crash.
                    let is_stored = self.crashed || self.world.is_durable(&text(body, self.body_size));
                    assert!(is_stored, "{body:?} was seen and is not stored");
                }
                Some(len)
            }
            Asked::Flush { queue } => {
                let reply = received.get(..5)?;
                assert_eq!(reply, b"END\r\n", "to a flush");
                let of_queue = self.fates.iter().filter(|(_, (home, _))| home == queue);
                self.flushed.extend(of_queue.map(|(body, _)| *body));
                Some(5)
            }
            Asked::Open { queue, closes, ends } => {
                let (queue, closes, ends) = (*queue, *closes, *ends);
                if let Some(len) = parse_refusal(received, closes)? {
                    if received.starts_with(b"CLIENT_ERROR") {
                        self.pop_open(driver, queue).expect("a read that has ended");
                    }
                    return Some(len);
                }
                let (values, len) = parse_values(received)?;
                self.check_keys(&[queue], &values);
                if closes && let Some(body) = self.pop_open(driver, queue) {
                    self.confirm(body);
                }
                values.iter().for_each(|(_, body)| self.open(driver, queue, *body, ends));
                Some(len)
            }
            Asked::End { queue, confirms } => {
                let (queue, confirms) = (*queue, *confirms);
                if let Some(len) = parse_refusal(received, true)? {
                    self.pop_open(driver, queue).expect("a read that has ended");
                    return Some(len);
                }
                let reply = received.get(..5)?;
                assert_eq!(reply, b"END\r\n", "to the end of a read");
                if let Some(body) = self.pop_open(driver, queue)
                    && confirms
                {
                    self.confirm(body);
                }
                Some(5)
            }
            Asked::Get { queues } => {
                let (values, len) = parse_values(received)?;
                let queues = queues.clone();
                self.check_keys(&queues, &values);
                let taker = self.drivers[driver].client;
                values.iter().for_each(|(queue, body)| self.deliver(taker, *queue, *body));
                Some(len)
            }
        }
    }

    fn pop_open(&mut self, driver: usize, queue: usize) -> Option<(usize, u64)> {
        self.drivers[driver].open.get_mut(&queue)?.pop_front()
    }

    /// A client has opened a message; if `ends`, for some time only.
    fn open(&mut self, driver: usize, queue: usize, body: (usize, u64), ends: bool) {
        let (home, fate) = self.fates[&body];
        assert_eq!(home, queue, "a message comes out of the queue it went into");
        let is_stored = self.crashed || self.world.is_durable(&text(body, self.body_size));
        assert!(is_stored, "{body:?} was opened and is not stored");
        let it = &mut self.drivers[driver];
        it.open.entry(queue).or_default().push_back(body);
        let ends_it = |asked: &Asked| matches!(asked, Asked::Open { queue: of, closes: true, .. } | Asked::End { queue: of, .. } if *of == queue);
        // Otherwise it may have been given back before this was heard.
        if !ends && !it.asked.iter().skip(1).any(ends_it) {
            assert!(fate != Fate::Delivered, "message {body:?} is open after it was delivered");
            self.assert_not_held(body);
            self.drivers[driver].held.insert(body, queue);
        }
    }

    fn assert_not_held(&self, body: (usize, u64)) {
        let holder = self.drivers.iter().find(|driver| driver.held.contains_key(&body));
        assert!(holder.is_none(), "{body:?} is open in the hands of another");
    }

    /// It was said that an open message is confirmed.
    fn confirm(&mut self, body: (usize, u64)) {
        let fate = &mut self.fates.get_mut(&body).expect("a message that was put").1;
        // With the queue emptied meanwhile that is said, too, and somebody may have had it before.
        assert!(*fate != Fate::Delivered || self.flushes, "message {body:?} came twice, and is confirmed");
        *fate = Fate::Delivered;
    }

    /// Hits are in the order of the keys, each key at most once a mention.
    fn check_keys(&self, asked: &[usize], values: &[(usize, (usize, u64))]) {
        let mut rest = asked.iter();
        for (queue, _) in values {
            assert!(rest.any(|q| q == queue), "asked {asked:?}, got {values:?}");
        }
    }

    fn deliver(&mut self, taker: usize, queue: usize, body: (usize, u64)) {
        self.assert_not_held(body);
        let (home, fate) = self.fates.get_mut(&body).expect("a message that was put");
        assert_eq!(*home, queue, "a message comes out of the queue it went into");
        assert!(*fate != Fate::Delivered, "message {body:?} came twice");
        *fate = Fate::Delivered;
        let last = self.last.insert((taker, queue, body.0), body.1);
        if !self.reads && last.is_some_and(|last| last > body.1) {
            let returned = self.returned.entry(queue).or_default();
            assert!(*returned > 0, "queue {queue}: {body:?} after {last:?}");
            *returned -= 1;
        }
        let newest = self.newest.entry((queue, body.0)).or_default();
        *newest = body.1.max(*newest);
    }

    /// A client is gone with replies it did not hear.
    fn forget(&mut self, driver: usize) {
        for asked in std::mem::take(&mut self.drivers[driver].asked) {
            match asked {
                Asked::Put { .. } | Asked::Peek { .. } => {}
                Asked::Open { queue, closes: true, .. } | Asked::End { queue, confirms: true } => {
                    *self.stray_gets.entry(queue).or_default() += 1;
                }
                Asked::Open { .. } | Asked::End { .. } => {}
                Asked::Flush { queue } => drop(self.flushed_queues.insert(queue)),
                Asked::Get { queues } => {
                    queues.iter().for_each(|queue| *self.stray_gets.entry(*queue).or_default() += 1);
                }
                Asked::WaitingGet { queue } => {
                    *self.stray_gets.entry(queue).or_default() += 1;
                    *self.returned.entry(queue).or_default() += 1;
                }
            }
        }
    }

    /// Some of what the server sends arrives, and it may hear of that; or a whole send does.
    pub fn send(&mut self) {
        let client = self.drivers[self.rng.below(self.drivers.len())].client;
        match self.rng.below(4) {
            0 => {
                let size = self.rng.below(2 * self.body_size);
                self.world.come(client, size);
            }
            1 => self.world.come(client, usize::MAX),
            _ => {
                if self.rng.below(2) == 0 {
                    self.world.come(client, usize::MAX);
                }
                self.world.complete_send(client);
            }
        }
    }

    pub fn hang_up(&mut self) {
        self.hear();
        let driver = self.rng.below(self.drivers.len());
        let client = self.drivers[driver].client;
        if self.rng.below(2) == 0 {
            self.world.reset(client)
        } else {
            self.world.fail_send(client)
        }
        self.forget(driver);
        self.drivers.remove(driver);
        self.connect();
    }

    pub fn crash(&mut self) {
        self.crashes -= 1;
        self.crashed = true;
        self.hear();
        for (queue, handed) in std::mem::take(&mut self.handed) {
            *self.uncounted.entry(queue).or_default() += handed;
        }
        let shards = 1 + self.rng.below(3) as u16;
        self.world.crash(shards);
        let count = self.drivers.len();
        (0..count).for_each(|driver| self.forget(driver));
        self.drivers.clear();
        (0..count).for_each(|_| self.connect());
    }

    /// Everything comes to rest; then one client takes all there is.
    pub fn finish(&mut self) {
        self.world.holds_sends = false;
        self.world.settle();
        self.hear();
        // Waiting gets may stand behind each other.
        for _ in 0..self.drivers.iter().map(|d| d.asked.len()).sum() {
            self.world.advance(WAIT_MS_MAX as u64);
            self.world.settle();
            self.hear();
        }
        assert!(self.drivers.iter().all(|d| d.asked.is_empty()), "every request is answered");
        // What is open returns, with its client or with its time.
        self.drivers.iter().for_each(|driver| self.world.reset(driver.client));
        self.drivers.clear();
        self.world.settle();
        self.world.advance(1000);
        self.world.settle();
        let client = self.world.connect();
        for queue in 0..self.queues {
            let bytes = self.bytes(client, queue);
            let mut drained = 0;
            loop {
                self.world.send(client, format!("get q{queue}\r\n").as_bytes());
                self.world.settle();
                let received = std::mem::take(&mut self.world.clients[client].received);
                let (values, len) = parse_values(&received).expect("a whole reply");
                assert_eq!(len, received.len());
                let Some((from, body)) = values.first().copied() else { break };
                let newest = self.newest.get(&(from, body.0)).copied();
                // A hang-up gives messages back to their places; so does a crash, to whom they were not sent yet.
                let may_return = self.hang_ups || self.crashed && self.waits || self.reads;
                let is_left_behind = !may_return && newest.is_some_and(|newest| body.1 < newest);
                assert!(!is_left_behind, "queue {from}: {body:?} is still there after {newest:?}");
                self.deliver(client, from, body);
                drained += text(body, self.body_size).len();
            }
            assert_eq!(bytes, drained, "queue {queue}: what it was said to have, and what came out");
            assert_eq!(self.bytes(client, queue), 0, "queue {queue} is empty");
            self.check_counters(client, queue);
        }
        for queue in (0..self.queues).filter(|queue| !self.flushed_queues.contains(queue)) {
            let gone = |(body, (home, fate)): (&(usize, u64), &(usize, Fate))| {
                let is_lost = *home == queue && *fate == Fate::Acknowledged && !self.flushed.contains(body);
                is_lost.then_some(*body)
            };
            let lost: Vec<_> = self.fates.iter().filter_map(gone).collect();
            let stray = self.stray_gets.get(&queue).copied().unwrap_or(0);
            assert!(lost.len() <= stray, "queue {queue}: {lost:?} were acknowledged and are gone, {stray} stray gets");
        }
    }

    /// What `stats queue` says of the bodies in a queue; of one that never was, 0.
    fn bytes(&mut self, client: usize, queue: usize) -> usize {
        let reply = self.world.ask(client, &format!("stats queue q{queue}\r\n"));
        reply.lines().find_map(|line| line.strip_prefix("STAT bytes ")).map_or(0, |bytes| bytes.parse().unwrap())
    }

    /// Of a queue that was emptied.
    fn check_counters(&mut self, client: usize, queue: usize) {
        let (puts, gets, deleted) = parse_counters(&self.world.ask(client, &format!("stats queue q{queue}\r\n")));
        assert_eq!(puts, gets + deleted, "queue {queue} is empty");
        assert!(deleted == 0 || self.flushes);
        let fates = || self.fates.values().filter(|(home, _)| *home == queue);
        let uncounted = self.uncounted.get(&queue).copied().unwrap_or(0);
        let stored = fates().filter(|(_, fate)| *fate != Fate::Unknown).count().saturating_sub(uncounted);
        assert!((stored..=fates().count()).contains(&puts), "queue {queue}: {puts} puts, {stored} are known");
    }
}

/// The body that says who put it and as which of his, filled up with spaces to a third of the size, to two, or to all of it.
fn text(body: (usize, u64), size: usize) -> String {
    let size = size * (1 + body.1 as usize % 3) / 3;
    format!("{:<size$}", format!("{} {}", body.0, body.1))
}

/// Puts, gets and messages that went with the rest of their queue; of a queue that never was, none.
fn parse_counters(reply: &str) -> (usize, usize, usize) {
    let number = |name: &str| reply.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name));
    let [puts, gets, deleted] =
        ["puts ", "gets ", "deleted "].map(|name| number(name).map_or(0, |n| n.parse().unwrap()));
    (puts, gets, deleted)
}

/// The length of a refusal, if it is one that `expects_expired` allows; `None` until it is whole.
fn parse_refusal(bytes: &[u8], expects_expired: bool) -> Option<Option<usize>> {
    if !matches!(bytes.first()?, b'C' | b'S') {
        return Some(None);
    }
    let len = bytes.windows(2).position(|w| w == b"\r\n")? + 2;
    match &bytes[..len] {
        b"CLIENT_ERROR read expired\r\n" if expects_expired => {}
        b"SERVER_ERROR too many open reads\r\n" => {}
        other => panic!("to a read: {}", other.escape_ascii()),
    }
    Some(Some(len))
}

/// The hits of a get's reply, with its length; `None` until it is whole.
#[allow(clippy::type_complexity)]
fn parse_values(bytes: &[u8]) -> Option<(Vec<(usize, (usize, u64))>, usize)> {
    let mut values = Vec::new();
    let mut at = 0;
    loop {
        let line_len = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[at..at + line_len]).unwrap();
        at += line_len + 2;
        if line == "END" {
            return Some((values, at));
        }
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "VALUE", "{line}");
        let size: usize = words[3].parse().unwrap();
        let body = bytes.get(at..at + size + 2)?;
        let (putter, number) = std::str::from_utf8(body).unwrap().trim_end().split_once(' ').unwrap();
        let name = words[1].split('/').next().unwrap();
        values.push((name[1..].parse().unwrap(), (putter.parse().unwrap(), number.parse().unwrap())));
        at += size + 2;
    }
}

fn run(seed: u64) {
    eprintln!("replay: RINGQ_SEED={seed} cargo test --test it random");
    let mut history = History::new(Rng::new(seed));
    history.run(3000);
    history.finish();
}

#[test]
fn random_histories_lose_double_and_reorder_nothing() {
    if let Ok(seed) = std::env::var("RINGQ_SEED") {
        return run(seed.parse().expect("RINGQ_SEED is a number"));
    }
    let runs = std::env::var("RINGQ_RUNS").map_or(30, |n| n.parse().expect("RINGQ_RUNS is a number"));
    (1..=runs).for_each(run);
}
