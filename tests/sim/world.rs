//! A whole server without threads, sockets or files: engines, the mail between them, their journals on a simulated disk, a store in
//! memory, clients, and a clock that moves only when told. A test decides what happens next, or lets everything happen.
//!
//! Invariant: engines are driven exactly as `shard.rs` drives them: mail and bytes in, a turn, the batch sealed, effects
//! carried out. A batch is durable when its journal record and all before it are written, and stored when a checkpoint
//! has applied it; a crash leaves what the disk and the store have, and the next start replays it as `server.rs` does.

use crate::disk::Disk;
use crate::lane::{Job, Lane, salt};
use ringq::clock::Now;
use ringq::engine::{Config, Engine, Mail, Notice, Tunables};
use ringq::ids::{ConnId, IdRange, MessageId, QueueId, Salt, Seq, ShardId};
use ringq::journal::{Room, SEGMENTS, WriterConfig, replay};
use ringq::limits;
use ringq::proto::Dialect;
use ringq::queue::{Counters, Defaults, Explicit};
use ringq::stats::{Capacity, Host};
use ringq::store::ballast::Ballast;
use ringq::store::memory::MemoryStore;
use ringq::store::{Batch, Load, Store, Taken, checkpoint};
use std::collections::VecDeque;
use std::convert::Infallible;

/// Turns between full checks of an engine: a check looks at every message in memory.
const CHECK_EVERY: u64 = 29;

/// Mutations in one transaction of a start, bytes: little, so that starts take several.
const REPLAY_SLICE_SIZE: usize = 4096;

/// How the server under test is configured.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: u16,
    pub memory_share: usize,
    pub body_size_max: usize,
    pub queues_max: usize,
    pub wait_ms_max: u64,
    pub idle_ms_max: u64,
    pub open_reads_max: usize,
    pub detached_reads_max: usize,
    pub unconfirmed_max: usize,
    pub groups_max: usize,
    pub reader_separator: Option<u8>,
    pub queue_defaults: Defaults,
    pub flush_all: bool,
    pub shutdown: bool,
    /// Size of one of the four segments of a shard's journal, bytes. Whatever a turn can bring must fit one.
    pub segment_size: u64,
    /// Journal writes under way at once.
    pub journal_depth: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shards: 1,
            memory_share: 32 << 20,
            body_size_max: 1 << 20,
            queues_max: 1000,
            wait_ms_max: 3_600_000,
            idle_ms_max: 0,
            open_reads_max: 1024,
            detached_reads_max: 1024,
            unconfirmed_max: 1 << 20,
            groups_max: 64,
            reader_separator: None,
            queue_defaults: Defaults::default(),
            flush_all: false,
            shutdown: false,
            segment_size: 4 << 20,
            journal_depth: 1024,
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
    /// What the server is sending, and how much of it has come.
    sending: Vec<u8>,
    sent: usize,
}

/// The server and everything around it.
pub struct World {
    pub options: Options,
    now: Now,
    pub store: MemoryStore,
    engines: Vec<Engine>,
    /// By shard.
    lanes: Vec<Lane>,
    /// The journals, by shard.
    disks: Vec<Disk>,
    loads: VecDeque<Load>,
    mail: VecDeque<(ShardId, ShardId, Mail)>,
    pub clients: Vec<Client>,
    next_shard: usize,
    generation: u32,
    ids_next: u64,
    starts: u64,
    turns: u64,
    pub stopped: bool,
    /// What the server sends comes only when the test says so; otherwise at once.
    pub holds_sends: bool,
    /// What is sealed is answered in the same turn, as with `-N`.
    pub is_unsynced: bool,
    /// Every batch since it was taken last, if the test wants to know.
    pub sealed: Option<Vec<Sealed>>,
    /// The last batch that the start found in the journals or the store, by shard of the life before.
    pub survived: Vec<Seq>,
    /// What engines told the operator, if the test wants to know.
    pub notices: Option<Vec<Notice>>,
}

/// What a turn of a shard changed.
pub struct Sealed {
    pub shard: usize,
    pub seq: Seq,
    /// As in [`ringq::mutation`].
    pub mutations: Vec<u8>,
}

impl World {
    pub fn new(options: Options) -> World {
        let now = Now { mono_ms: 1, mono_us: 1000, wall_ms: 1_700_000_000_000 };
        let mut world = World {
            options,
            now,
            store: MemoryStore::new(),
            engines: Vec::new(),
            lanes: Vec::new(),
            disks: Vec::new(),
            loads: VecDeque::new(),
            mail: VecDeque::new(),
            clients: Vec::new(),
            next_shard: 0,
            generation: 0,
            ids_next: 0,
            starts: 0,
            turns: 0,
            stopped: false,
            holds_sends: false,
            is_unsynced: false,
            sealed: None,
            survived: Vec::new(),
            notices: None,
        };
        world.start();
        world
    }

    /// A power cut, and a new start with what the journals and the store had. Of writes under way nothing is left, except for what
    /// [`World::tear`] left before. `shards` may have changed.
    pub fn crash(&mut self, shards: u16) {
        self.options.shards = shards;
        self.store = self.store.fork();
        self.loads.clear();
        self.mail.clear();
        self.clients.iter_mut().for_each(|c| {
            c.ended = true;
            c.open = false;
            c.sending.clear();
            c.sent = 0;
        });
        self.start();
    }

    /// Of each write under way, leaves those pieces of this many bytes on the disk that `keeps` wants. A crash must follow.
    pub fn tear(&mut self, piece_size: usize, mut keeps: impl FnMut() -> bool) {
        for (lane, disk) in self.lanes.iter_mut().zip(&mut self.disks) {
            for write in lane.under_way.drain(..) {
                for (at, piece) in write.buffer.bytes().chunks(piece_size).enumerate() {
                    if keeps() {
                        disk.write(write.segment, write.offset as usize + at * piece_size, piece);
                    }
                }
            }
        }
    }

    /// What a start would read if one bit of a shard's journal were another: the batches, or why it is refused. Nothing is changed.
    pub fn read_damaged(&mut self, shard: usize, segment: u32, bit: usize) -> Result<Vec<Batch>, String> {
        let rows = self.store.recover().unwrap().journals;
        let Some(row) = rows.into_iter().find(|row| usize::from(row.shard.0) == shard) else { return Ok(Vec::new()) };
        let mut batches = Vec::new();
        let mut keep = |seq, mutations: &[u8], end| -> Result<(), Infallible> {
            batches.push(Batch { shard: row.shard, seq, mutations: mutations.to_vec(), end });
            Ok(())
        };
        let disk = &mut self.disks[shard];
        disk.flip(segment, bit);
        let outcome = replay(disk, row.shard, &row.salt, row.position, &mut keep);
        disk.flip(segment, bit);
        outcome.map(|_| batches).map_err(|error| error.to_string())
    }

    /// One bit of a stored message becomes another: the `at`th of all that are stored, counted in circles. Which it was.
    pub fn rot(&mut self, at: usize) -> Option<(QueueId, MessageId)> {
        let rows = self.store.recover().unwrap().queues;
        let stored = |queue| self.store.message_ids(queue).into_iter().map(move |message| (queue, message));
        let all: Vec<_> = rows.iter().flat_map(|row| stored(row.queue)).collect();
        let (queue, message) = *all.get(at % all.len().max(1))?;
        self.store.corrupt(queue, message);
        Some((queue, message))
    }

    /// A start that dies when it has brought at most so many records of each journal into the store. A crash must follow.
    pub fn die_in_replay(&mut self, records_max: usize) {
        for batches in self.replayed() {
            let taken = Taken::of(&batches).unwrap();
            let applied = records_max.min(batches.len());
            if applied > 0 {
                self.store.apply(&batches[..applied], &taken).unwrap();
            }
        }
    }

    fn start(&mut self) {
        for batches in self.replayed() {
            checkpoint::replay(&mut self.store, &mut Ballast::none(), &batches, REPLAY_SLICE_SIZE).unwrap();
        }
        self.store.settle_moves().unwrap();
        self.begin_journals();
        let recovered = self.store.recover().unwrap();
        self.ids_next = recovered.ids_end.max(1);
        let shards = self.options.shards;
        self.engines = (0..shards)
            .map(|shard| {
                let owned = |name: &[u8]| Engine::owner_of(name, shards) == ShardId(shard);
                let rows = recovered.queues.iter().filter(|row| owned(&row.name)).cloned();
                let settings = recovered.settings.iter().filter(|(name, _)| owned(name));
                let settings = settings.map(|(name, said)| (name.as_slice().into(), Explicit::decode(name, said)));
                let range = self.reserve_ids();
                let mut engine = Engine::new(self.config(shard), rows, settings, range);
                engine.set_trace(true);
                engine
            })
            .collect();
    }

    /// What the journals hold that the store does not have, by journal: at least all that replies were sent for.
    fn replayed(&mut self) -> Vec<Vec<Batch>> {
        let mut journals = Vec::new();
        self.survived.clear();
        for row in self.store.recover().unwrap().journals {
            let mut batches = Vec::new();
            let mut keep = |seq, mutations: &[u8], end| -> Result<(), Infallible> {
                batches.push(Batch { shard: row.shard, seq, mutations: mutations.to_vec(), end });
                Ok(())
            };
            let shard = usize::from(row.shard.0);
            let outcome = replay(&mut self.disks[shard], row.shard, &row.salt, row.position, &mut keep);
            let end = outcome.unwrap_or_else(|error| panic!("nothing was damaged: {error}")).end;
            let durable = self.lanes[shard].durable;
            assert!(end.seq > durable, "shard {shard}: replay ends before {}, but {durable} was acknowledged", end.seq);
            self.survived.push(Seq(end.seq.0 - 1));
            journals.push(batches);
        }
        journals
    }

    /// The files of shards that go on are used again, with what is in them.
    fn begin_journals(&mut self) {
        self.store.begin_journals(&[]).unwrap();
        self.starts += 1;
        let Options { shards, segment_size, journal_depth: depth, .. } = self.options;
        self.disks.resize_with(usize::from(shards), || Disk::new(segment_size));
        let salts: Vec<Salt> = (0..shards).map(|shard| salt(self.starts, shard)).collect();
        self.store.begin_journals(&salts).unwrap();
        let lane = |(shard, salt): (u16, &Salt)| {
            let (shard, salt) = (ShardId(shard), *salt);
            Lane::new(WriterConfig { shard, salt, segment_size, segments: SEGMENTS, depth, unsynced: false })
        };
        self.lanes = (0..shards).zip(&salts).map(lane).collect();
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
            reader_separator: self.options.reader_separator,
            hash_seed: 7,
            capacity: Capacity { threads: u64::from(self.options.shards), memory: 64 << 20, connections: 1024 },
            tunables: Tunables {
                queues_max: self.options.queues_max,
                wait_ms_max: self.options.wait_ms_max,
                idle_ms_max: self.options.idle_ms_max,
                open_reads_max: self.options.open_reads_max,
                detached_reads_max: self.options.detached_reads_max.div_ceil(usize::from(self.options.shards)),
                unconfirmed_max: self.options.unconfirmed_max.div_ceil(usize::from(self.options.shards)),
                groups_max: self.options.groups_max,
                queue_defaults: self.options.queue_defaults.clone().into(),
                flush_all: self.options.flush_all,
                shutdown: self.options.shutdown,
                settings: settings.into(),
            },
        }
    }

    fn reserve_ids(&mut self) -> IdRange {
        let next = self.ids_next;
        self.ids_next += limits::ID_RANGE_LEN;
        IdRange { next, end: self.ids_next }
    }

    /// A shard's engine, in a turn that begins now: nothing comes to it outside of one.
    fn engine(&mut self, shard: usize) -> &mut Engine {
        let engine = &mut self.engines[shard];
        engine.begin_turn(self.now);
        engine
    }

    // --- clients ---

    /// A client connects; shards are given connections in turn. Returns its number.
    pub fn connect(&mut self) -> usize {
        self.connect_speaking(Dialect::MemcacheQ)
    }

    /// As `connect`, to the port of this dialect.
    pub fn connect_speaking(&mut self, dialect: Dialect) -> usize {
        let client = self.enter();
        let conn = self.clients[client].conn;
        self.engine(self.clients[client].shard).on_open(conn, dialect);
        client
    }

    /// A datagram with these requests comes to the next shard in turn. Its replies are those of the client whose number is returned.
    pub fn datagram(&mut self, requests: &[u8], reply_size_max: usize) -> usize {
        let client = self.enter();
        let conn = self.clients[client].conn;
        self.engine(self.clients[client].shard).on_datagram(conn, requests, reply_size_max);
        client
    }

    fn enter(&mut self) -> usize {
        let shard = self.next_shard % self.engines.len();
        self.next_shard += 1;
        self.generation += 1;
        let index = self.clients.iter().filter(|c| c.shard == shard && c.open).map(|c| c.conn.index + 1).max();
        let conn = ConnId { index: index.unwrap_or(0), generation: self.generation };
        self.clients.push(Client {
            shard,
            conn,
            received: Vec::new(),
            ended: false,
            open: true,
            paused: false,
            backlog: Vec::new(),
            sending: Vec::new(),
            sent: 0,
        });
        self.clients.len() - 1
    }

    /// A client's bytes arrive.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        let it = &mut self.clients[client];
        if it.paused {
            it.backlog.extend_from_slice(bytes);
        } else if it.open {
            let (shard, conn) = (it.shard, it.conn);
            self.engine(shard).on_bytes(conn, bytes);
        }
    }

    /// A client shuts its sending side.
    pub fn half_close(&mut self, client: usize) {
        let it = &self.clients[client];
        if it.open {
            let (shard, conn) = (it.shard, it.conn);
            self.engine(shard).on_eof(conn);
        }
    }

    /// A client is gone.
    pub fn reset(&mut self, client: usize) {
        let it = &mut self.clients[client];
        it.ended = true;
        if it.open {
            let (shard, conn) = (it.shard, it.conn);
            self.engine(shard).on_lost(conn);
        }
    }

    /// A client that is not received from shuts its sending side, or is gone from a unix socket.
    pub fn end_ahead(&mut self, client: usize, is_gone: bool) {
        let it = &self.clients[client];
        if it.open {
            let (shard, conn) = (it.shard, it.conn);
            self.engine(shard).on_end_ahead(conn, is_gone);
        }
    }

    /// Up to `size` bytes more of what the server is sending reach the client. It does not hear yet that they did.
    pub fn come(&mut self, client: usize, size: usize) {
        self.clients[client].come(size);
    }

    /// The server hears that what it sends has gone, if all of it has.
    pub fn complete_send(&mut self, client: usize) -> bool {
        let it = &mut self.clients[client];
        if !it.open || it.sending.is_empty() || it.sent < it.sending.len() {
            return false;
        }
        it.sending.clear();
        it.sent = 0;
        let (shard, conn) = (it.shard, it.conn);
        self.engine(shard).on_sent(conn);
        true
    }

    /// The server hears that it cannot send the rest of what it is sending; the connection is gone.
    pub fn fail_send(&mut self, client: usize) {
        let it = &mut self.clients[client];
        if it.open && !it.sending.is_empty() && it.sent < it.sending.len() {
            it.ended = true;
            it.sending.clear();
            let (shard, conn, sent) = (it.shard, it.conn, std::mem::take(&mut it.sent));
            self.engine(shard).on_send_failed(conn, sent);
        } else {
            self.reset(client);
        }
    }

    fn finish_sends(&mut self) -> bool {
        let mut progress = false;
        for client in 0..self.clients.len() {
            self.come(client, usize::MAX);
            progress |= self.complete_send(client);
        }
        progress
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.mono_us += ms * 1000;
        self.now.wall_ms += ms;
    }

    /// The wall clock is set; nothing else knows.
    pub fn set_wall_clock(&mut self, by_ms: i64) {
        self.now.wall_ms = self.now.wall_ms.saturating_add_signed(by_ms);
    }

    /// What the wall clock shows, ms since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.now.wall_ms
    }

    pub fn now_ms(&self) -> u64 {
        self.now.mono_ms
    }

    /// When the first shard to be woken by time alone must be, ms.
    pub fn next_deadline(&self) -> Option<u64> {
        self.engines.iter().filter_map(Engine::next_deadline).min()
    }

    /// Mutations of a shard that the store has not confirmed, bytes.
    pub fn unstored_size(&self, shard: usize) -> usize {
        self.engines[shard].unstored_size()
    }

    /// What the server is sending to a client at once, bytes.
    pub fn sending_size(&self, client: usize) -> usize {
        self.clients[client].sending.len()
    }

    /// Whether the server has stopped receiving from a client.
    pub fn is_paused(&self, client: usize) -> bool {
        self.clients[client].paused
    }

    /// The counters of a queue as the store has them.
    pub fn counters(&mut self, queue: &str) -> Counters {
        let rows = self.store.recover().unwrap().queues;
        rows.into_iter().find(|row| row.name == queue.as_bytes()).expect("a queue of this name is stored").counters
    }

    // --- what can happen next; each returns whether it did ---

    /// One turn of one shard. Its batch goes on its way to the journal if that has room, its effects are carried out.
    pub fn turn(&mut self, shard: usize) -> bool {
        let engine = &mut self.engines[shard];
        engine.begin_turn(self.now);
        let mut progress = engine.has_work();
        engine.run();
        let size = engine.unsealed_size();
        if size > 0 && self.lanes[shard].writer.room(size) == Room::Now {
            let Ok((seq, mutations)) = engine.seal(Vec::new()) else { unreachable!("there is something to seal") };
            if let Some(sealed) = &mut self.sealed {
                sealed.push(Sealed { shard, seq, mutations: mutations.clone() });
            }
            self.lanes[shard].take(ShardId(shard as u16), seq, mutations);
            if self.is_unsynced {
                engine.on_durable(seq);
            }
            progress = true;
        }
        engine.on_journal_short(self.lanes[shard].writer.is_reserved_for_removals(0));
        progress |= engine.has_work();
        for conn in std::mem::take(&mut engine.effects.hosts) {
            engine.on_host(conn, Host { pid: 1, uptime_s: 2, time_s: 3, user_us: 4, system_us: 5, ..Host::default() });
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
            if let Ok(bytes) = engine.take_output(conn, Vec::new(), self.now.mono_us) {
                assert!(client.sending.is_empty(), "one send at a time");
                client.sending = bytes;
                if !self.holds_sends {
                    client.come(usize::MAX);
                    client.sending.clear();
                    client.sent = 0;
                    engine.on_sent(conn);
                }
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
            client.sending.clear();
            engine.on_closed(conn, std::mem::take(&mut client.sent));
            progress = true;
        }
        let told = engine.effects.notices.drain(..);
        self.notices.as_mut().map_or_else(|| (), |notices| notices.extend(told));
        engine.effects.verbosity = None;
        if std::mem::take(&mut engine.effects.shutdown) {
            self.stopped = true;
            self.engines.iter_mut().for_each(Engine::on_stop);
            progress = true;
        }
        progress
    }

    /// The newest batch of a shard that the journal has, with all before it.
    pub fn durable(&self, shard: usize) -> Seq {
        self.lanes[shard].durable
    }

    /// Writes of a shard that the disk has not completed.
    pub fn writes_under_way(&self, shard: usize) -> usize {
        self.lanes[shard].under_way.len()
    }

    /// The disk completes one of a shard's writes under way, the `at`th in order of age.
    pub fn write(&mut self, shard: usize, at: usize) {
        let lane = &mut self.lanes[shard];
        let write = lane.under_way.remove(at);
        self.disks[shard].write(write.segment, write.offset as usize, write.buffer.bytes());
        if let Some(durable) = lane.writer.written(write.token, write.buffer) {
            lane.durable = durable;
            self.engine(shard).on_durable(durable);
        }
    }

    /// A record that tells of the acknowledgement of all before it, if that is not told yet.
    pub fn cover(&mut self, shard: usize) -> bool {
        let (lane, engine) = (&mut self.lanes[shard], &mut self.engines[shard]);
        let is_wanted = lane.last_content > lane.covered && lane.under_way.is_empty() && engine.unsealed_size() == 0;
        if !is_wanted || lane.writer.room(0) != Room::Now {
            return false;
        }
        let seq = engine.seal_empty();
        lane.take(ShardId(shard as u16), seq, Vec::new());
        true
    }

    /// A shard hands what its journal has to the store, which does nothing about it yet.
    pub fn checkpoint(&mut self, shard: usize) {
        let lane = &mut self.lanes[shard];
        let journalled = lane.kept.partition_point(|batch| batch.seq <= lane.durable);
        let batches: Vec<Batch> = lane.kept.drain(..journalled).collect();
        if !batches.is_empty() {
            let taken = Taken::of(&batches).unwrap();
            lane.jobs.push_back(Job { batches, taken, applied: 0 });
        }
    }

    /// The store applies up to `count` batches of a shard's oldest job in one transaction.
    pub fn apply_slice(&mut self, shard: usize, count: usize) -> bool {
        let lane = &mut self.lanes[shard];
        let Some(job) = lane.jobs.front_mut() else {
            return false;
        };
        let rest = &job.batches[job.applied..];
        let slice = &rest[..count.min(rest.len())];
        self.store.apply(slice, &job.taken).unwrap();
        let stored = slice.last().expect("a job has batches left").seq;
        job.applied += slice.len();
        if job.applied == job.batches.len() {
            lane.jobs.pop_front();
        }
        lane.writer.release(stored);
        self.engine(shard).on_stored(stored);
        true
    }

    /// The disk completes up to `count` of a shard's oldest writes, and a checkpoint brings all that is journalled into the
    /// store.
    pub fn apply(&mut self, shard: usize, count: usize) -> bool {
        let count = count.min(self.writes_under_way(shard));
        (0..count).for_each(|_| self.write(shard, 0));
        self.checkpoint(shard);
        let mut progress = count > 0;
        while self.apply_slice(shard, usize::MAX) {
            progress = true;
        }
        progress
    }

    /// The store tells every shard whether there is room.
    pub fn set_full(&mut self, full: bool) {
        (0..self.engines.len()).for_each(|shard| self.set_full_of(shard, full));
    }

    /// The same of one shard: they hear of it one after another.
    pub fn set_full_of(&mut self, shard: usize, full: bool) {
        self.engine(shard).on_full(full);
    }

    /// Whether the store was asked for messages.
    pub fn has_loads(&self) -> bool {
        !self.loads.is_empty()
    }

    /// The store cannot read what the oldest load asks for.
    pub fn fail_load(&mut self) {
        let load = self.loads.pop_front().expect("a load is under way");
        let error = ringq::store::Error::Damaged("as the test says".into());
        self.engine(usize::from(load.shard.0)).on_loaded(load.queue, Err(error));
    }

    /// The store answers the oldest load.
    pub fn load(&mut self) -> bool {
        let Some(load) = self.loads.pop_front() else {
            return false;
        };
        let result = self.store.load(&load);
        self.engine(usize::from(load.shard.0)).on_loaded(load.queue, result);
        true
    }

    /// The oldest piece of mail arrives.
    pub fn deliver(&mut self) -> bool {
        let Some((from, to, mail)) = self.mail.pop_front() else {
            return false;
        };
        self.engine(usize::from(to.0)).on_mail(from, mail);
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

    /// Checks what must hold between turns, in every shard.
    pub fn check(&self) {
        self.engines.iter().for_each(Engine::assert_consistent);
    }

    pub fn shards(&self) -> usize {
        self.engines.len()
    }

    /// Lets everything happen until nothing does; sends come to their end, too, if they are not held.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let mut progress = false;
            for shard in 0..self.engines.len() {
                progress |= self.turn(shard);
            }
            progress |= self.deliver() | self.load();
            if !self.holds_sends {
                progress |= self.finish_sends();
            }
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

impl Client {
    fn come(&mut self, size: usize) {
        let rest = &self.sending[self.sent..];
        let rest = &rest[..size.min(rest.len())];
        // Nobody reads any more at the other end of a reset connection.
        if !self.ended {
            self.received.extend_from_slice(rest);
            self.sent += rest.len();
        }
    }
}

fn find(clients: &mut [Client], shard: usize, conn: ConnId) -> &mut Client {
    clients.iter_mut().rfind(|c| c.shard == shard && c.conn == conn).expect("every connection is a client's")
}
