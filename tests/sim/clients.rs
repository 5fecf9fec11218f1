//! The clients: what each has to send, what it was promised, and what it has in its hands.
//!
//! Invariant: there is one connection for each client at any time; one that ends is followed by another, which knows nothing of its
//! requests. What its requests may have done and nobody heard is noted.

use crate::checks::{self, Verdict};
use crate::facts::Facts;
use crate::request::{Key, Number, Request, queue_of};
use crate::world::World;
use ringq::proto::Dialect;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

/// A request whose reply has not come.
pub struct Asked {
    pub request: Request,
    pub keys: Vec<Key>,
    /// The step in which it was asked.
    pub at: usize,
    /// The least that the wall clock has shown since, ms.
    pub wall_ms_min: u64,
    /// Where it ends in what the connection has sent.
    end: usize,
}

pub struct Client {
    pub dialect: Dialect,
    /// Which connection of all that there were, and its number in the world.
    pub connection: usize,
    world_client: usize,
    pub asked: VecDeque<Asked>,
    /// What is to be sent, and how much was queued and sent in all.
    outbox: Vec<u8>,
    queued: usize,
    sent: usize,
    /// What it has open, by reader, oldest first, those included whose time is over.
    pub open: BTreeMap<String, VecDeque<Number>>,
    /// The server may close: the client has closed its half, or was told so.
    pub may_end: bool,
}

#[derive(Default)]
pub struct Clients {
    all: Vec<Client>,
    connections: usize,
    /// Ids that clients were told.
    pub ids: BTreeMap<Number, u64>,
    /// Open messages may be confirmed by anybody: then nobody knows which a close confirms.
    pub by_id: bool,
    /// How often a message came to a reader for good.
    delivered: BTreeMap<(String, Number), u64>,
    /// Since when a message cannot come to a reader any more.
    pub gone_at: BTreeMap<(String, Number), usize>,
    /// Of open messages, what nobody else can have: its client has not asked for an end, and it has no time.
    pub held: BTreeMap<(String, Number), usize>,
    /// Takes that were asked for and not heard of, by reader.
    unheard: BTreeMap<String, u64>,
    /// What came last from a putter to a taker, by connections and reader.
    pub last: BTreeMap<(usize, String, usize), Number>,
    /// The gate's messages of which somebody was told that they are in.
    pub admitted: BTreeSet<Number>,
    /// Messages that came for good, by client.
    heard: Vec<usize>,
}

impl Clients {
    pub fn enter(&mut self, world: &mut World, dialect: Dialect) {
        let client = self.connect(world, dialect);
        self.all.push(client);
        self.heard.push(0);
    }

    fn connect(&mut self, world: &mut World, dialect: Dialect) -> Client {
        self.connections += 1;
        Client {
            dialect,
            connection: self.connections,
            world_client: world.connect_speaking(dialect),
            asked: VecDeque::new(),
            outbox: Vec::new(),
            queued: 0,
            sent: 0,
            open: BTreeMap::new(),
            may_end: false,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// A client by any number.
    pub fn get(&mut self, client: usize) -> &mut Client {
        let len = self.all.len();
        &mut self.all[client % len]
    }

    /// The number of its connection in the world.
    pub fn connection(&self, client: usize) -> usize {
        self.all[client % self.all.len()].world_client
    }

    /// How many requests wait for replies.
    pub fn asked(&self, client: usize) -> usize {
        self.all[client % self.all.len()].asked.len()
    }

    pub fn ask(&mut self, facts: &mut Facts, client: usize, request: &Request, at: usize, wall_ms: u64) {
        let index = client % self.all.len();
        let it = &mut self.all[index];
        let Some(bytes) = request.bytes(it.dialect, &self.ids).filter(|_| !it.may_end) else { return };
        // A number is put once, whatever was taken out of a history.
        if matches!(request, Request::Put { number, .. } if facts.puts.contains_key(number)) {
            return;
        }
        let keys = request.keys(it.dialect);
        let readers: Vec<(String, bool)> = keys.iter().map(|key| (key.reader.clone(), key.open)).collect();
        facts.note(request, it.connection, &readers);
        for key in keys.iter().filter(|key| key.close || key.abort) {
            self.held.retain(|(reader, _), holder| *holder != index || *reader != key.reader);
        }
        // Kestrel cuts off who opens too many, or takes beside what it has open.
        if it.dialect == Dialect::Kestrel && keys.iter().any(|key| !key.peek) {
            self.held.retain(|_, holder| *holder != index);
        }
        match request.verb() {
            "flush" | "delete" => {
                let queue = queue_of(request.words()[0]).split('+').next().unwrap_or_default().to_owned();
                self.held.retain(|(reader, _), _| queue_of(reader) != queue);
            }
            "flush_all" => self.held.clear(),
            _ => {}
        }
        it.queued += bytes.len();
        it.outbox.extend_from_slice(&bytes);
        it.asked.push_back(Asked { request: request.clone(), keys, at, wall_ms_min: wall_ms, end: it.queued });
    }

    pub fn send(&mut self, world: &mut World, client: usize, size: usize) {
        let it = self.get(client);
        let bytes: Vec<u8> = it.outbox.drain(..size.min(it.outbox.len())).collect();
        it.sent += bytes.len();
        if !bytes.is_empty() {
            world.send(it.world_client, &bytes);
        }
    }

    pub fn shut(&mut self, world: &mut World, client: usize) {
        let index = client % self.all.len();
        // What it has open returns when it has its replies.
        self.held.retain(|_, holder| *holder != index);
        self.all[index].may_end = true;
        world.half_close(self.all[index].world_client);
    }

    /// The wall clock shows this.
    pub fn note_clock(&mut self, wall_ms: u64) {
        let asked = self.all.iter_mut().flat_map(|client| &mut client.asked);
        asked.for_each(|asked| asked.wall_ms_min = asked.wall_ms_min.min(wall_ms));
    }

    // --- ends ---

    /// A client is gone with replies it did not hear.
    fn forget(&mut self, index: usize) {
        let it = &mut self.all[index];
        for asked in std::mem::take(&mut it.asked) {
            let takes = |key: &&Key| key.is_plain() || key.close;
            asked.keys.iter().filter(takes).for_each(|key| *self.unheard.entry(key.reader.clone()).or_default() += 1);
            if let (Request::Line(_), "delete") = (&asked.request, asked.request.verb()) {
                self.unheard_by_id(&asked.request);
            }
        }
        self.held.retain(|_, holder| *holder != index);
    }

    /// A message was confirmed by its id, or may have been: who had it may not know.
    pub fn unheard_by_id(&mut self, request: &Request) {
        if let Some((reader, _)) = request.words()[0].split_once("/id=") {
            *self.unheard.entry(reader.to_owned()).or_default() += 1;
        }
    }

    fn replace(&mut self, world: &mut World, index: usize) {
        self.forget(index);
        let dialect = self.all[index].dialect;
        self.all[index] = self.connect(world, dialect);
    }

    pub fn hang_up(&mut self, world: &mut World, client: usize, breaks: bool) {
        let index = client % self.all.len();
        match breaks {
            true => world.fail_send(self.all[index].world_client),
            false => world.reset(self.all[index].world_client),
        }
        self.replace(world, index);
    }

    /// Who was cut off comes again.
    pub fn replace_ended(&mut self, world: &mut World) -> Verdict {
        for index in 0..self.all.len() {
            if world.clients[self.all[index].world_client].ended {
                // A body that makes no progress for long ends its connection.
                let has_reason = self.all[index].may_end || !self.all[index].outbox.is_empty();
                checks::connection_stays_open(index, !has_reason)?;
                self.replace(world, index);
            }
        }
        Ok(())
    }

    /// The server has crashed and is there again.
    pub fn begin_life(&mut self, world: &mut World) {
        (0..self.all.len()).for_each(|index| self.replace(world, index));
        self.held.clear();
    }

    // --- what was heard ---

    /// A message came to a reader for good, as the answer to a client.
    pub fn deliver(&mut self, client: usize, reader: &str, number: Number) -> u64 {
        self.heard[client] += 1;
        let delivered = self.delivered.entry((reader.to_owned(), number)).or_default();
        *delivered += 1;
        *delivered
    }

    /// How often a message came to a reader for good.
    pub fn delivered(&self, reader: &str, number: Number) -> u64 {
        self.delivered.get(&(reader.to_owned(), number)).copied().unwrap_or(0)
    }

    /// Whether a message came to anybody for good.
    pub fn has_arrived(&self, queue: &str, number: Number) -> bool {
        self.delivered.keys().any(|(reader, it)| *it == number && queue_of(reader) == queue)
    }

    /// A close confirmed something, and nobody knows what.
    pub fn confirm_unknown(&mut self, reader: &str) {
        *self.unheard.entry(reader.to_owned()).or_default() += 1;
    }

    /// Takes that were asked for, and of which nobody heard: the client is gone, or what it confirmed is told with what it waits for.
    pub fn unheard(&self, reader: &str) -> u64 {
        let keys = self.all.iter().flat_map(|client| &client.asked).flat_map(|asked| &asked.keys);
        let closes = keys.filter(|key| key.close && key.reader == reader).count() as u64;
        self.unheard.get(reader).copied().unwrap_or(0) + closes
    }

    /// Messages that came to a client for good.
    pub fn heard(&self, client: usize) -> usize {
        self.heard[client]
    }

    /// Requests that have come to the server whole, are the first of their connection, wait for nothing, and have no reply.
    pub fn unanswered(&self) -> Vec<String> {
        let first = |client: &Client| {
            let asked = client.asked.front().filter(|asked| asked.end <= client.sent && !client.may_end)?;
            (!asked.keys.iter().any(|key| key.waits)).then(|| asked.request.to_string())
        };
        self.all.iter().filter_map(first).collect()
    }

    /// How many wait, by reader.
    pub fn waiters(&self) -> BTreeMap<String, usize> {
        let mut waiters = BTreeMap::new();
        for client in self.all.iter().filter(|client| !client.may_end) {
            let asked = client.asked.front().filter(|asked| asked.end <= client.sent);
            let key = asked.and_then(|asked| asked.keys.iter().find(|key| key.waits));
            key.into_iter().for_each(|key| *waiters.entry(key.reader.clone()).or_default() += 1);
        }
        waiters
    }
}
