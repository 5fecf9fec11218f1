//! A whole server without threads, sockets or disk: engines, the mail between them, a store in memory, clients, and a clock that
//! moves only when told. A test decides what happens next, or lets everything happen.
//!
//! Invariant: engines are driven exactly as `shard.rs` drives them: mail and bytes in, a turn, the batch sealed, effects
//! carried out. What the store has not applied is lost in a crash; what it has is what the next start finds.

use ringq::clock::Now;
use ringq::engine::{Config, Engine, Mail};
use ringq::ids::{ConnId, IdRange, Position, Salt, Seq, ShardId};
use ringq::limits;
use ringq::stats::{Capacity, Host};
use ringq::store::memory::MemoryStore;
use ringq::store::{Batch, Load, Store, Taken};
use std::collections::VecDeque;

/// Turns between full checks of an engine: a check looks at every message in memory.
const CHECK_EVERY: u64 = 29;

/// How the server under test is configured.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: u16,
    pub memory_share: usize,
    pub body_size_max: usize,
    pub queues_max: usize,
    pub flush_all: bool,
    pub shutdown: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shards: 1,
            memory_share: 32 << 20,
            body_size_max: 1 << 20,
            queues_max: 1000,
            flush_all: false,
            shutdown: false,
        }
    }
}

/// One client's connection.
pub struct Client {
    shard: usize,
    conn: ConnId,
    /// What has come and was not taken by the test.
    pub received: Vec<u8>,
    /// The server has closed, or shut its sending side.
    pub ended: bool,
    /// The server's slot is still in use.
    open: bool,
    /// Receiving is paused by the server; what was sent waits here.
    paused: bool,
    backlog: Vec<u8>,
}

/// The server and everything around it.
pub struct World {
    options: Options,
    now: Now,
    pub store: MemoryStore,
    engines: Vec<Engine>,
    /// On their way to the store, by shard: shards are served in any order.
    batches: Vec<VecDeque<Batch>>,
    loads: VecDeque<Load>,
    mail: VecDeque<(ShardId, ShardId, Mail)>,
    pub clients: Vec<Client>,
    next_shard: usize,
    generation: u32,
    ids_next: u64,
    turns: u64,
    pub stopped: bool,
}

impl World {
    pub fn new(options: Options) -> World {
        let now = Now { mono_ms: 1, wall_ms: 1_700_000_000_000 };
        let mut world = World {
            options,
            now,
            store: MemoryStore::new(),
            engines: Vec::new(),
            batches: Vec::new(),
            loads: VecDeque::new(),
            mail: VecDeque::new(),
            clients: Vec::new(),
            next_shard: 0,
            generation: 0,
            ids_next: 0,
            turns: 0,
            stopped: false,
        };
        world.start();
        world
    }

    /// A power cut, and a new start with what the store had. `shards` may have changed.
    pub fn crash(&mut self, shards: u16) {
        self.options.shards = shards;
        self.loads.clear();
        self.mail.clear();
        self.clients.iter_mut().for_each(|c| {
            c.ended = true;
            c.open = false;
        });
        self.start();
    }

    fn start(&mut self) {
        let salts = vec![Salt::default(); usize::from(self.options.shards)];
        self.store.begin_journals(&salts).unwrap();
        let recovered = self.store.recover().unwrap();
        self.ids_next = recovered.ids_end.max(1);
        let shards = self.options.shards;
        self.batches = (0..shards).map(|_| VecDeque::new()).collect();
        self.engines = (0..shards)
            .map(|shard| {
                let owned = |name: &[u8]| Engine::owner_of(name, shards) == ShardId(shard);
                let rows = recovered.queues.iter().filter(|row| owned(&row.name)).cloned();
                let range = self.reserve_ids();
                Engine::new(self.config(shard), rows, range)
            })
            .collect();
    }

    fn config(&self, shard: u16) -> Config {
        let mut settings = Vec::new();
        for (name, value) in [
            ("maxbytes", self.options.memory_share * usize::from(self.options.shards)),
            ("maxconns", 1024),
            ("tcpport", 22201),
            ("num_threads", usize::from(self.options.shards)),
            ("item_size_max", self.options.body_size_max),
        ] {
            ringq::proto::reply::stat(&mut settings, name, value);
        }
        ringq::proto::reply::stat(&mut settings, "durable", "yes");
        Config {
            shard: ShardId(shard),
            shards: self.options.shards,
            memory_share: self.options.memory_share,
            body_size_max: self.options.body_size_max,
            queues_max: self.options.queues_max,
            hash_seed: 7,
            flush_all: self.options.flush_all,
            shutdown: self.options.shutdown,
            capacity: Capacity { threads: u64::from(self.options.shards), memory: 64 << 20, connections: 1024 },
            settings: settings.into(),
        }
    }

    fn reserve_ids(&mut self) -> IdRange {
        let next = self.ids_next;
        self.ids_next += limits::ID_RANGE_LEN;
        IdRange { next, end: self.ids_next }
    }

    // --- clients ---

    /// A client connects; shards are given connections in turn. Returns its number.
    pub fn connect(&mut self) -> usize {
        let shard = self.next_shard % self.engines.len();
        self.next_shard += 1;
        self.generation += 1;
        let index = self.clients.iter().filter(|c| c.shard == shard && c.open).map(|c| c.conn.index + 1).max();
        let conn = ConnId { index: index.unwrap_or(0), generation: self.generation };
        self.engines[shard].on_open(conn);
        self.clients.push(Client {
            shard,
            conn,
            received: Vec::new(),
            ended: false,
            open: true,
            paused: false,
            backlog: Vec::new(),
        });
        self.clients.len() - 1
    }

    /// A client's bytes arrive.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        let it = &mut self.clients[client];
        if it.paused {
            it.backlog.extend_from_slice(bytes);
        } else if it.open {
            let engine = &mut self.engines[it.shard];
            engine.begin_turn(self.now);
            engine.on_bytes(it.conn, bytes);
        }
    }

    /// A client shuts its sending side.
    pub fn half_close(&mut self, client: usize) {
        let it = &self.clients[client];
        if it.open {
            self.engines[it.shard].on_eof(it.conn);
        }
    }

    /// A client is gone.
    pub fn reset(&mut self, client: usize) {
        let it = &mut self.clients[client];
        it.ended = true;
        if it.open {
            self.engines[it.shard].on_lost(it.conn);
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
    }

    // --- what can happen next; each returns whether it did ---

    /// One turn of one shard. Its batch goes on its way to the store, its effects are carried out.
    pub fn turn(&mut self, shard: usize) -> bool {
        let engine = &mut self.engines[shard];
        engine.begin_turn(self.now);
        let mut progress = engine.has_work();
        engine.run();
        if let Ok((seq, mutations)) = engine.seal(Vec::new()) {
            let end = Position { seq: Seq(seq.0 + 1), ..Position::default() };
            self.batches[shard].push_back(Batch { shard: ShardId(shard as u16), seq, mutations, end });
            progress = true;
        }
        for conn in std::mem::take(&mut engine.effects.hosts) {
            engine.on_host(conn, Host { pid: 1, uptime_s: 2, time_s: 3, user_us: 4, system_us: 5 });
            progress = true;
        }
        let (mail, from) = (&mut self.mail, ShardId(shard as u16));
        engine.take_mail(|to, piece| mail.push_back((from, to, piece)));
        self.loads.extend(engine.effects.loads.drain(..));
        progress |= self.carry_out(shard);
        self.turns += 1;
        if self.turns.is_multiple_of(CHECK_EVERY) {
            self.engines[shard].assert_consistent();
        }
        progress
    }

    /// One turn of every shard.
    pub fn turn_all(&mut self) {
        for shard in 0..self.engines.len() {
            self.turn(shard);
        }
    }

    fn carry_out(&mut self, shard: usize) -> bool {
        let engine = &mut self.engines[shard];
        if std::mem::take(&mut engine.effects.wants_ids) {
            let range = IdRange { next: self.ids_next, end: self.ids_next + limits::ID_RANGE_LEN };
            self.ids_next = range.end;
            engine.on_ids(range);
        }
        let mut progress = false;
        for conn in std::mem::take(&mut engine.effects.sends) {
            let client = find(&mut self.clients, shard, conn);
            if let Ok(bytes) = engine.take_output(conn, Vec::new()) {
                client.received.extend_from_slice(&bytes);
                engine.on_sent(conn);
                progress = true;
            }
        }
        for (conn, pause) in std::mem::take(&mut engine.effects.pauses) {
            let client = find(&mut self.clients, shard, conn);
            client.paused = pause;
            if !pause && !client.backlog.is_empty() {
                let backlog = std::mem::take(&mut client.backlog);
                engine.on_bytes(conn, &backlog);
            }
            progress = true;
        }
        for conn in std::mem::take(&mut engine.effects.read_ends) {
            engine.on_eof(conn);
            progress = true;
        }
        for conn in std::mem::take(&mut engine.effects.shutdowns) {
            find(&mut self.clients, shard, conn).ended = true;
            engine.on_eof(conn);
            progress = true;
        }
        for conn in std::mem::take(&mut engine.effects.closes) {
            let client = find(&mut self.clients, shard, conn);
            client.ended = true;
            client.open = false;
            engine.on_closed(conn);
            progress = true;
        }
        engine.effects.notices.clear();
        engine.effects.verbosity = None;
        if std::mem::take(&mut engine.effects.shutdown) {
            self.stopped = true;
            self.engines.iter_mut().for_each(Engine::on_stop);
            progress = true;
        }
        progress
    }

    /// The store applies the oldest `count` batches of a shard in one transaction.
    pub fn apply(&mut self, shard: usize, count: usize) -> bool {
        let waiting = &mut self.batches[shard];
        let batches: Vec<Batch> = waiting.drain(..count.min(waiting.len())).collect();
        if batches.is_empty() {
            return false;
        }
        self.store.apply(&batches, &Taken::of(&batches).unwrap()).unwrap();
        for batch in &batches {
            let engine = &mut self.engines[usize::from(batch.shard.0)];
            engine.on_durable(batch.seq);
            engine.on_stored(batch.seq);
        }
        true
    }

    /// The store tells every shard whether there is room.
    pub fn set_full(&mut self, full: bool) {
        self.engines.iter_mut().for_each(|engine| engine.on_full(full));
    }

    /// The store cannot read what the oldest load asks for.
    pub fn fail_load(&mut self) {
        let load = self.loads.pop_front().expect("a load is under way");
        let error = ringq::store::Error::Damaged("as the test says".into());
        self.engines[usize::from(load.shard.0)].on_loaded(load.queue, Err(error));
    }

    /// The store answers the oldest load.
    pub fn load(&mut self) -> bool {
        let Some(load) = self.loads.pop_front() else {
            return false;
        };
        let result = self.store.load(&load);
        self.engines[usize::from(load.shard.0)].on_loaded(load.queue, result);
        true
    }

    /// The oldest piece of mail arrives.
    pub fn deliver(&mut self) -> bool {
        let Some((from, to, mail)) = self.mail.pop_front() else {
            return false;
        };
        self.engines[usize::from(to.0)].on_mail(from, mail);
        true
    }

    /// Which shard a queue belongs to.
    pub fn owner(&self, queue: &str) -> usize {
        usize::from(Engine::owner_of(queue.as_bytes(), self.options.shards).0)
    }

    /// Sends, lets everything happen, and takes what has come.
    pub fn ask(&mut self, client: usize, request: &str) -> String {
        self.send(client, request.as_bytes());
        self.settle();
        self.heard(client)
    }

    /// Takes what has come.
    pub fn heard(&mut self, client: usize) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.clients[client].received)).into_owned()
    }

    pub fn shards(&self) -> usize {
        self.engines.len()
    }

    /// Lets everything happen until nothing does.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let mut progress = false;
            for shard in 0..self.engines.len() {
                progress |= self.turn(shard);
            }
            progress |= self.deliver() | self.load();
            for shard in 0..self.engines.len() {
                progress |= self.apply(shard, usize::MAX);
            }
            if !progress {
                return;
            }
        }
        panic!("the server never comes to rest");
    }
}

fn find(clients: &mut [Client], shard: usize, conn: ConnId) -> &mut Client {
    clients.iter_mut().rfind(|c| c.shard == shard && c.conn == conn).expect("every connection is a client's")
}
