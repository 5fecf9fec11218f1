//! The engine: a whole shard as one value. Sessions, queues, and what it asks of the world.
//!
//! Inputs are `on_*` calls, each told what happened; outputs are values drained after every turn: [`Engine::seal`] gives
//! the mutations that must become durable, [`Effects`] everything else. `on_durable` closes the circle and releases
//! replies. There is no I/O, clock, thread or randomness in here, so a test can play the kernel, the store and the other
//! shards, and play them again.
//!
//! ```text
//!   on_bytes ─▶ serve ─▶ execute ─▶ mutations ─▶ seal ─▶ (made durable elsewhere) ─▶ on_durable ─▶ replies
//!                  └───▶ forward ─▶ mail to the shard that owns the queue, and back
//! ```
//!
//! Invariant: a reply that reports a mutation leaves only after `on_durable` covered the batch that holds it. A message that
//! goes from its putter straight to a waiting client is no mutation until that is settled, one way or the other.
//!
//! Files: [`serve`] runs sessions, [`multi_get`] their gets of several keys, [`ending`] ends them, [`execute`] operates on local queues, [`waiting`] keeps the gets that wait for messages,
//! [`passing`] what they are handed directly, [`reads`] hands out what is confirmed later, [`groups`] shares a queue among several readers, [`group_rules`] does what settings say of these, [`configure`] keeps the settings of queues, [`admission`] their limits, [`expiry`] drops messages whose time is over, [`moves`] takes them to other queues, [`forward`] speaks with other shards, [`datagram`] bounds what UDP is told, [`room`] keeps
//! the other bounds, [`idle`] ends silent connections, [`overview`] answers `stats`, [`observe`] the admin listener, [`kestrel`] speaks to Kestrel's clients, [`trace`] tells what was asked and answered.
//!
//! Step 4 and step 8 of a message's path.

mod admission;
mod configure;
mod datagram;
mod ending;
mod execute;
mod expiry;
mod forward;
mod group_rules;
mod groups;
mod idle;
mod kestrel;
mod moves;
mod multi_get;
mod observe;
mod overview;
mod passing;
mod reads;
mod replying;
mod room;
mod serve;
mod shelves;
mod trace;
mod waiting;
mod wire;

pub use forward::Mail;
pub use kestrel::DROPPED;
pub use overview::{QueueSummary, QueueView};
pub use trace::Fate;

use crate::clock::Now;
use crate::ids::{ConnId, IdRange, MessageId, QueueId, Seq, ShardId};
use crate::latency::{Latency, Metric};
use crate::limits;
use crate::mutation::Mutation;
use crate::proto::options::{GetOptions, queue_of};
use crate::queue::{Defaults, Explicit, Memory, Meter, Queue, Settings};
use crate::session::replies::{Answer, SlotId};
use crate::session::timing::{Began, Timings};
use crate::session::{Phase, Session, Wait};
use crate::stats::{Capacity, JournalStats, ShardStats, Sizes};
use crate::store::{Load, QueueRow};
use hashbrown::{HashMap, HashTable};
use std::collections::{BinaryHeap, VecDeque};

/// What an engine is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// This shard's part of `-m`, bytes.
    pub memory_share: usize,
    /// `-B`, bytes.
    pub body_size_max: usize,
    /// `--reader-separator`. It does not change: a request that has to wait is read again.
    pub reader_separator: Option<u8>,
    /// Seed of the hash table of queue names: random in the daemon, so that no client can choose names that collide.
    pub hash_seed: u64,
    /// What `stats` says of the configuration.
    pub capacity: Capacity,
    /// What may become another while the server runs.
    pub tunables: Tunables,
}

/// What an operator may change while the server runs.
#[derive(Clone, Debug)]
pub struct Tunables {
    /// This shard's part of `--max-queues`.
    pub queues_max: usize,
    /// `--max-wait`, ms.
    pub wait_ms_max: u64,
    /// `--idle-timeout`, ms; 0: never.
    pub idle_ms_max: u64,
    /// `--max-open-reads`.
    pub open_reads_max: usize,
    /// This shard's part of `--max-detached-reads`.
    pub detached_reads_max: usize,
    /// This shard's part of `--max-unconfirmed`.
    pub unconfirmed_max: usize,
    /// `--max-groups`.
    pub groups_max: usize,
    /// What holds for queues of which nothing was said.
    pub queue_defaults: std::sync::Arc<Defaults>,
    /// `--enable-flush-all`.
    pub flush_all: bool,
    /// `--enable-shutdown`.
    pub shutdown: bool,
    /// The lines of `stats settings`, without `END`.
    pub settings: std::sync::Arc<[u8]>,
}

/// What the engine asks of the world, drained by the shard after every turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// Connections with something to send: [`Engine::take_output`] gives it.
    pub sends: Vec<ConnId>,
    /// Connections whose receiving side is to be shut: what has arrived is still received, and then the end.
    pub read_ends: Vec<ConnId>,
    /// Connections whose sending side is to be shut: all was said.
    pub shutdowns: Vec<ConnId>,
    /// Connections to close.
    pub closes: Vec<ConnId>,
    /// Connections to stop (`true`) or start (`false`) receiving from.
    pub pauses: Vec<(ConnId, bool)>,
    /// Messages to read from the store.
    pub loads: Vec<Load>,
    /// A connection asked for `stats`: tell [`Engine::on_host`].
    pub hosts: Vec<ConnId>,
    /// A client asked for this log level.
    pub verbosity: Option<u8>,
    /// A client asked the server to stop.
    pub shutdown: bool,
    /// A client asked that the configuration be read again.
    pub reload: bool,
    /// A client asked for `stats reset`: what is counted outside starts again, too.
    pub stats_reset: bool,
    /// A new range of ids is wanted: tell [`Engine::on_ids`].
    pub wants_ids: bool,
    /// What the operator should know.
    pub notices: Vec<Notice>,
}

/// Something for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A client speaks the binary protocol, which RingQ does not.
    BinaryProtocol(ConnId),
    /// A body made no progress for so long that its connection was closed.
    BodyStalled(ConnId),
    /// A connection was silent for so long that it was closed.
    Idle(ConnId),
    /// A stored message failed its checksum and was set aside.
    Corrupt {
        /// The queue's name.
        queue: Vec<u8>,
        /// The message.
        message: MessageId,
    },
    /// Nobody has asked this group for a message for so long that it has ended.
    GroupEnded {
        /// The queue's name, and the group's.
        queue: Vec<u8>,
    },
    /// The store could not be read for this queue.
    Unreadable {
        /// The queue's name.
        queue: Vec<u8>,
        /// Why.
        reason: String,
    },
    /// What a client sent makes no sense and leaves no way to go on: its connection is closed.
    Unusable {
        /// Who.
        conn: ConnId,
        /// What it was told; nothing if it speaks HTTP.
        reply: &'static [u8],
    },
    /// What a client asked, while commands are traced: the command line, not the body.
    Command {
        /// Who.
        conn: ConnId,
        /// The line, without its line end.
        line: Vec<u8>,
    },
    /// What became of a message, while commands or messages of its queue are traced.
    Message {
        /// The queue's name.
        queue: Vec<u8>,
        /// The message.
        message: MessageId,
        /// What became of it.
        fate: Fate,
        /// The batch that has it.
        batch: Seq,
        /// The queue's settings want it.
        by_queue: bool,
    },
    /// How far batches have come, while commands are traced.
    Batches {
        /// The newest of them.
        through: Seq,
        /// They are in the store; otherwise in the journal.
        is_stored: bool,
    },
    /// What a client is sent, while commands are traced: a line of it, not the body.
    Reply {
        /// Who.
        conn: ConnId,
        /// The line, without its line end.
        line: Vec<u8>,
    },
}

/// Who asked, and so where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// A connection of this shard.
    Local { conn: ConnId, at: SlotId },
    /// A connection of another shard, known there by this token.
    Remote { shard: ShardId, token: u32 },
}

/// A get that waits: until its queue's head is loaded, or in a line for a message.
#[derive(Clone, Debug)]
struct Waiter {
    origin: Origin,
    form: datagram::Form,
    /// What stands behind its key; nothing if it is a plain get.
    options: Option<Box<GetOptions>>,
    /// When it is answered without a message, monotonic ms. 0: it does not wait for one to come.
    deadline_ms: u64,
}

/// A queue of this shard and the gets that wait for its head.
struct Shelf {
    queue: Queue,
    waiters: VecDeque<Waiter>,
    /// The line of gets that wait for a message of this name, if anybody does.
    line: Option<u32>,
    /// Settled hand-overs that no batch counts yet.
    passed: u64,
    meter: Meter,
    /// What the queue does besides; nothing for most.
    settings: Option<Box<Settings>>,
    /// What it keeps for its groups, if it has any.
    fan: Option<Box<groups::Fan>>,
    /// Where the queue stands that it is a group of.
    of: Option<u32>,
    /// When somebody asked it for a message, or had one open, last, monotonic ms; 0: not since the start.
    asked_ms: u64,
    /// When it is looked at whether it ends because nobody has asked it, monotonic ms; 0: never. For groups.
    ends_ms: u64,
    /// Puts that its limits refused, since the start.
    refused: u64,
    /// What it has in [`ShardStats::item_bytes`]; a group has nothing there.
    counted_bytes: u64,
    /// What it has in [`ShardStats::unconfirmed`].
    counted_unconfirmed: u64,
    /// Some message that is in memory can expire. It may be `true` for longer.
    may_expire: bool,
    /// Sweeps look at it.
    is_listed: bool,
}

impl Shelf {
    /// The queue as clients name it, without the group.
    fn client_name(&self) -> &[u8] {
        if self.of.is_none() { &self.queue.name } else { queue_of(&self.queue.name) }
    }

    /// The bodies of what is stored in the queue, for whichever reader, bytes.
    fn stored_bytes(&self) -> u64 {
        self.fan.as_ref().map_or(self.queue.bytes(), |fan| fan.bytes)
    }

    /// Whether several readers share its messages: it is a group, or a queue that has some.
    fn is_shared(&self) -> bool {
        self.of.is_some() || self.fan.is_some()
    }

    /// When open reads end by themselves, s; 0: never.
    fn visibility_timeout_s(&self) -> u64 {
        self.settings.as_ref().map_or(0, |settings| settings.visibility_timeout_s)
    }
}

/// Whose replies wait for a batch.
#[derive(Clone, Copy)]
enum Awaiting {
    Conn(ConnId),
    Lane(u16),
}

/// One shard.
pub struct Engine {
    config: Config,
    now: Now,
    stopping: bool,
    trace: bool,

    sessions: Vec<Option<Session>>,
    runnable: VecDeque<ConnId>,
    memory_waiters: Vec<ConnId>,
    forward_waiters: Vec<Vec<ConnId>>,
    body_waiters: VecDeque<ConnId>,
    bodies_reserved: usize,
    deadlines: BinaryHeap<std::cmp::Reverse<(u64, u32, u32)>>,
    idle: idle::Look,
    gathers: HashMap<u32, overview::Gather>,
    monitors: HashMap<u32, kestrel::Monitor>,

    shelves: Vec<Option<Shelf>>,
    free_shelves: Vec<u32>,
    names: HashTable<u32>,
    said: configure::Said,
    by_id: HashMap<QueueId, u32, foldhash::fast::FixedState>,
    hasher: foldhash::fast::FixedState,
    memory: Memory,
    remote_waiters: HashMap<(ShardId, u32), QueueId>,
    waits: waiting::Waits,
    passing: passing::Passing,
    due: reads::Due,
    expiry: expiry::Expiry,
    group_rules: group_rules::GroupRules,
    moves: moves::Moves,
    refusing_puts: bool,
    puts_wait: bool,

    ids: IdRange,
    /// The batch that has the reservation of `ids`, once there is one.
    ids_recorded: Option<Seq>,
    next_ids: Option<IdRange>,

    batch: Vec<u8>,
    latency: Latency,
    timings: Timings,
    /// The request that is being served.
    began: Began,
    /// Reused for the reply of a get, or of a request of another shard.
    scratch: Vec<u8>,
    sealed: Seq,
    durable: Seq,
    stored: Seq,
    /// Sealed batches the store has not confirmed: number, size in bytes, first id after it.
    unstored: VecDeque<(Seq, usize, MessageId)>,
    unstored_size: usize,
    /// Ids below are in the store, unless they were taken.
    stored_below: MessageId,
    awaiting: VecDeque<(Seq, Awaiting)>,
    /// Who asked for a checkpoint, and what must be in the store before they are answered.
    checkpoints: VecDeque<(Seq, Origin)>,

    lanes: Vec<forward::Lane>,
    pending: forward::PendingTable,
    /// Connections with forwarded requests have closed this turn.
    cancels_due: bool,

    stats: ShardStats,
    sizes: Sizes,
    journal: JournalStats,
    /// What the shard must carry out.
    pub effects: Effects,
}

impl Engine {
    /// A shard with the queues that belong to it, all of whose messages are in the store, and its first ids: `ids` is above
    /// every id ever reserved. `settings`: what was said of names that belong to it.
    pub fn new(
        config: Config,
        queues: impl IntoIterator<Item = QueueRow>,
        settings: impl IntoIterator<Item = (Box<[u8]>, Explicit)>,
        ids: IdRange,
    ) -> Engine {
        let shards = usize::from(config.shards);
        let mut engine = Engine {
            now: Now::default(),
            stopping: false,
            trace: false,
            sessions: Vec::new(),
            runnable: VecDeque::new(),
            memory_waiters: Vec::new(),
            forward_waiters: vec![Vec::new(); shards],
            body_waiters: VecDeque::new(),
            bodies_reserved: 0,
            deadlines: BinaryHeap::new(),
            idle: idle::Look::new(config.tunables.idle_ms_max),
            gathers: HashMap::new(),
            monitors: HashMap::new(),
            shelves: Vec::new(),
            free_shelves: Vec::new(),
            names: HashTable::new(),
            said: settings.into_iter().collect(),
            by_id: HashMap::default(),
            hasher: foldhash::fast::FixedState::with_seed(config.hash_seed),
            memory: Memory::new(),
            remote_waiters: HashMap::new(),
            waits: waiting::Waits::default(),
            passing: passing::Passing::default(),
            due: reads::Due::default(),
            expiry: expiry::Expiry::default(),
            group_rules: group_rules::GroupRules::default(),
            moves: moves::Moves::new(shards),
            refusing_puts: false,
            puts_wait: false,
            ids,
            ids_recorded: None,
            next_ids: None,
            batch: Vec::new(),
            latency: Latency::default(),
            timings: Timings::default(),
            began: Began { at_us: 0, metric: Metric::Other },
            scratch: Vec::new(),
            sealed: Seq(0),
            durable: Seq(0),
            stored: Seq(0),
            unstored: VecDeque::new(),
            unstored_size: 0,
            stored_below: MessageId(ids.next),
            awaiting: VecDeque::new(),
            checkpoints: VecDeque::new(),
            lanes: (0..shards).map(|_| forward::Lane::default()).collect(),
            pending: forward::PendingTable::default(),
            cancels_due: false,
            stats: ShardStats::default(),
            sizes: Sizes::default(),
            journal: JournalStats::default(),
            effects: Effects::default(),
            config,
        };
        let (groups, queues): (Vec<QueueRow>, Vec<QueueRow>) = queues.into_iter().partition(|row| row.of.0 != 0);
        let fanned: HashMap<QueueId, ()> = groups.iter().map(|row| (row.of, ())).collect();
        for row in queues {
            assert_eq!(engine.owner(&row.name), engine.config.shard, "each queue is given to its shard");
            let QueueRow { queue, ref name, counters, bytes, low, freed, .. } = row;
            if !fanned.contains_key(&queue) {
                engine.stats.curr_items += counters.present();
                let index = engine.shelve(Queue::stored(queue, name, counters, bytes));
                engine.count_bytes(index);
                continue;
            }
            let stored = counters.puts - freed;
            engine.stats.curr_items += stored;
            let index = engine.shelve(Queue::reader(queue, name, counters, bytes, low, row.passed));
            engine.shelf(index).fan = Some(Box::new(groups::Fan { stored, bytes, ..groups::Fan::default() }));
            engine.count_bytes(index);
        }
        for row in groups {
            let of = engine.by_id[&row.of];
            let bytes = engine.shelf(of).fan.as_ref().expect("made with its queue").bytes;
            engine.shelve_group(of, Queue::reader(row.queue, &row.name, row.counters, bytes, row.low, row.passed));
        }
        engine.begin_group_rules();
        engine
    }

    /// The shard that a queue of this name, and all its groups, belong to.
    pub fn owner_of(name: &[u8], shards: u16) -> ShardId {
        if shards == 1 {
            return ShardId(0);
        }
        ShardId((crc32c::crc32c(queue_of(name)) % u32::from(shards)) as u16)
    }

    fn owner(&self, name: &[u8]) -> ShardId {
        Self::owner_of(name, self.config.shards)
    }

    /// A turn begins: what time it is.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = now;
        self.latency.begin_turn(now.mono_ms);
    }

    /// Where the shard's durability stands.
    pub fn set_journal(&mut self, journal: JournalStats) {
        self.journal = journal;
    }

    /// Something outside of the engine took so long, µs.
    pub fn took(&mut self, metric: Metric, us: u64) {
        self.latency.record(metric, us, 1);
    }

    /// Settings have changed. What is there already stays: queues beyond a lower bound, gets that wait longer than they might now.
    pub fn change(&mut self, tunables: Tunables) {
        if tunables.idle_ms_max != self.config.tunables.idle_ms_max {
            self.idle = idle::Look::new(tunables.idle_ms_max);
        }
        let has_other_defaults = tunables.queue_defaults != self.config.tunables.queue_defaults;
        if has_other_defaults {
            // What was handed over before was put before.
            self.journal_passing();
        }
        self.config.tunables = tunables;
        if has_other_defaults {
            self.settle_all_settings();
        }
    }

    /// Whether to give a notice of every command and every reply.
    pub fn set_trace(&mut self, trace: bool) {
        self.trace = trace;
    }

    /// The mutations since the last call, to be made durable under the returned number; `spare` is an empty buffer to go on
    /// with. `None`: there were none.
    pub fn seal(&mut self, spare: Vec<u8>) -> Result<(Seq, Vec<u8>), Vec<u8>> {
        if self.batch.is_empty() {
            return Err(spare);
        }
        self.count_passed();
        self.sealed = Seq(self.sealed.0 + 1);
        self.stats.batches += 1;
        let batch = std::mem::replace(&mut self.batch, spare);
        self.wake_memory_waiters();
        self.unstored.push_back((self.sealed, batch.len(), MessageId(self.ids.next)));
        self.unstored_size += batch.len();
        // The bug that the simulator must find.
        #[cfg(feature = "canary")]
        self.on_durable(self.sealed);
        Ok((self.sealed, batch))
    }

    /// Takes a number for a batch without mutations, to be written where only its number matters. Nothing must be unsealed.
    pub fn seal_empty(&mut self) -> Seq {
        assert!(self.batch.is_empty(), "what happened before comes before");
        self.sealed = Seq(self.sealed.0 + 1);
        self.unstored.push_back((self.sealed, 0, MessageId(self.ids.next)));
        self.sealed
    }

    /// The newest batch that someone waits to be in the store.
    pub fn checkpoint_wanted(&self) -> Option<Seq> {
        self.checkpoints.back().map(|(seq, _)| *seq)
    }

    /// Whether puts must wait because the rest of the journal is kept for removals.
    pub fn on_journal_short(&mut self, is_short: bool) {
        if std::mem::replace(&mut self.puts_wait, is_short) && !is_short {
            self.wake_memory_waiters();
        }
    }

    /// Size of what [`Engine::seal`] would give, bytes.
    pub fn unsealed_size(&self) -> usize {
        if self.batch.is_empty() { 0 } else { self.batch.len() + self.passed_size() }
    }

    /// Size of the mutations that the store has not confirmed, bytes.
    pub fn unstored_size(&self) -> usize {
        self.unstored_size
    }

    /// Everything up to `seq` is durable: replies that waited for it may leave.
    pub fn on_durable(&mut self, seq: Seq) {
        assert!(seq <= self.sealed, "only what was sealed becomes durable");
        self.durable = self.durable.max(seq);
        self.trace_batches(seq, false);
        while let Some((_, who)) = self.awaiting.pop_front_if(|(s, _)| *s <= seq) {
            match who {
                Awaiting::Conn(conn) => self.release(conn),
                Awaiting::Lane(shard) => {
                    self.lanes[usize::from(shard)].answers.release(seq);
                }
            }
        }
    }

    /// Everything up to `seq` is in the store: messages may be loaded from there, and their memory used for others.
    pub fn on_stored(&mut self, seq: Seq) {
        self.trace_batches(seq, true);
        let mut reached = self.stored_below;
        while let Some((s, size, below)) = self.unstored.pop_front_if(|(s, ..)| *s <= seq) {
            self.stored = s;
            self.unstored_size -= size;
            reached = below;
        }
        self.advance_stored_below(reached);
        while let Some((_, origin)) = self.checkpoints.pop_front_if(|(s, _)| *s <= seq) {
            self.answer(origin, Answer::default());
        }
        self.relieve_memory();
        self.wake_memory_waiters();
    }

    pub(super) fn wake_memory_waiters(&mut self) {
        self.wake_lanes();
        self.moves.wake();
        for conn in std::mem::take(&mut self.memory_waiters) {
            self.go_on(conn, Wait::Memory);
        }
    }

    /// The batch that mutations made now belong to.
    fn current(&self) -> Seq {
        Seq(self.sealed.0 + 1)
    }

    fn record(&mut self, mutation: &Mutation<'_>) {
        mutation.encode(&mut self.batch);
        self.stats.mutations += 1;
    }

    /// The next id, from a range whose reservation is recorded before its first use.
    fn next_id(&mut self) -> u64 {
        let id = self.first_unused_id();
        self.ids.next += 1;
        if self.ids.end - self.ids.next < limits::ID_RANGE_LEN / 2 && self.next_ids.is_none() {
            self.effects.wants_ids = true;
        }
        id
    }

    /// No message has this id, and none will have one below it, also after a crash and with other shards: so a record may say that all below are gone.
    fn first_unused_id(&mut self) -> u64 {
        if self.ids.next == self.ids.end {
            self.ids = self.next_ids.take().expect("the shard supplied ids when the range was half used");
            self.ids_recorded = None;
        }
        if self.ids_recorded.is_none() {
            self.ids_recorded = Some(self.current());
            self.record(&Mutation::Ids { end: self.ids.end });
        }
        self.ids.next
    }

    /// More ids, above all that were ever reserved.
    pub fn on_ids(&mut self, range: IdRange) {
        assert!(range.next >= self.ids.end, "ranges rise");
        self.next_ids = Some(range);
    }

    /// Whether free space is so short that puts must be refused.
    pub fn on_full(&mut self, full: bool) {
        self.refusing_puts = full;
        self.moves.wake();
    }

    /// The server is stopping: what clients have sent is served, then connections close as their clients have their replies.
    pub fn on_stop(&mut self) {
        self.stopping = true;
        self.end_waits();
        self.journal_passing();
        self.count_passed();
        for index in 0..self.sessions.len() {
            if let Some(conn) = self.conn_at(index) {
                self.effects.read_ends.push(conn);
            }
        }
    }

    /// Connections not yet closed.
    pub fn open_connections(&self) -> usize {
        self.sessions.iter().flatten().filter(|s| s.phase != Phase::Closed).count()
    }

    /// When [`Engine::run`] must be called even if nothing happens, monotonic ms.
    pub fn next_deadline(&self) -> Option<u64> {
        let sessions = self.deadlines.peek().map(|std::cmp::Reverse((at, ..))| *at);
        let others = [
            self.waits.next_deadline(),
            self.passing.next_deadline(),
            // With a full batch they end later.
            self.due.next_deadline().filter(|_| self.has_room_in_batch()),
            self.expiry.next_deadline(),
            self.group_rules.next_deadline().filter(|_| !self.is_batch_full()),
            self.moves.next_deadline(),
            self.idle.next_deadline(),
        ];
        sessions.into_iter().chain(others.into_iter().flatten()).min()
    }

    fn conn_at(&self, index: usize) -> Option<ConnId> {
        let session = self.sessions[index].as_ref()?;
        (session.phase != Phase::Closed).then_some(ConnId { index: index as u32, generation: session.generation })
    }

    /// The session of a connection, unless that life of it is over.
    fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        alive(&mut self.sessions, conn)
    }

    /// A connection's session until the ring has let go of it.
    fn session_to_the_end(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions.get_mut(conn.index as usize)?.as_mut().filter(|s| s.generation == conn.generation)
    }

    /// Checks everything that must hold between turns. For tests: takes time in the size of the shard.
    pub fn assert_consistent(&self) {
        for shelf in self.shelves.iter().flatten() {
            shelf.queue.assert_consistent(|place| self.memory.message(place).body.len());
        }
        let queues = self.shelves.iter().flatten().filter(|shelf| shelf.of.is_none());
        let bytes: u64 = queues.clone().map(Shelf::stored_bytes).sum();
        assert_eq!(bytes, self.stats.item_bytes, "item_bytes is how large that is");
        let present: u64 = queues.map(|s| s.fan.as_ref().map_or(s.queue.counters.present(), |fan| fan.stored)).sum();
        assert_eq!(present, self.stats.curr_items, "curr_items is what all queues hold");
        let reserved: usize = self.sessions.iter().flatten().map(|s| s.reserved).sum();
        assert_eq!(reserved, self.bodies_reserved, "the body budget is what sessions reserved");
        self.assert_waits_consistent();
        self.assert_passing_consistent();
        self.assert_reads_consistent();
        self.assert_groups_consistent();
        self.assert_group_rules_consistent();
        self.assert_expiry_consistent();
        self.assert_moves_consistent();
    }
}

/// The session of a connection, unless that life of it is over. Not a method, so that what else the engine has can be used with it.
fn alive(sessions: &mut [Option<Session>], conn: ConnId) -> Option<&mut Session> {
    let session = sessions.get_mut(conn.index as usize)?.as_mut();
    session.filter(|s| s.generation == conn.generation && s.phase != Phase::Closed)
}
