//! Micro-benchmarks: what the steps of a message's path cost within one thread, without sockets, rings or other servers.
//!
//! ```text
//! parse       bytes received -> a request                (session::frame, proto::command)
//! queue       put into memory and queue, take out again  (queue, queue::memory, mutation)
//! measure     what recording latencies adds to a request, and to a journal record (latency, session::timing, host): time is
//!             that of one request, its share of the turn's clock reading included. At most 30 ns are wanted
//! journal     a batch of mutations -> a record           (journal::record)
//! checkpoint  batches -> a committed transaction in LMDB, and messages loaded from it (store::lmdb), on the file system
//!             of $TMPDIR; by 1 MiB of puts; scattered takes reach every tenth message. CPU time: what a commit waits for is
//!             the device's affair, and the store thread shares its core with a server
//! ```
//! Figures are for telling a change from the state before it, on one machine in one sitting: `make microbench` compares
//! with its last run. They say nothing about what a server with a kernel under it reaches; that is `compare.py`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringq::host;
use ringq::ids::{MessageId, Position, QueueId, Salt, Seq, ShardId};
use ringq::journal::record::{self, Header};
use ringq::journal::{BLOCK_SIZE, PageBuffer};
use ringq::latency::{Latency, Metric};
use ringq::limits::BODY_SIZE_DEFAULT;
use ringq::mutation::{Mutation, PUT_HEADER_SIZE, Put};
use ringq::proto::key::Names;
use ringq::queue::{Entry, Head, Memory, Queue};
use ringq::session::frame::{Frame, frame};
use ringq::session::timing::{Began, Due, Timings};
use ringq::store::Taken;
use ringq::store::lmdb::{Lmdb, LmdbConfig};
use ringq::store::{Batch, Load, Store};
use rustix::time::{ClockId, clock_gettime};

/// Requests in a received buffer.
const REQUESTS: u64 = 1000;

/// Messages that lie in the queue while one is put and one taken: more than a segment holds.
const BACKLOG: u64 = 10_000;

/// Mutations of one checkpoint slice, bytes.
const SLICE_SIZE: usize = 1 << 20;

/// Mutations of one turn of a busy shard, bytes; a slice is made of such batches.
const TURN_SIZE: usize = 16 << 10;

/// Map of the database, bytes: room for all that a run of the benchmark writes.
const MAP_SIZE: u64 = 64 << 30;

/// Body sizes that matter: a job's id, a job with its arguments.
const BODY_SIZES: [usize; 2] = [100, 1000];

/// Connections that take turns while it is measured what measuring costs.
const CONNECTIONS: usize = 64;

/// Bytes of a reply; only that they are some matters.
const REPLY_SIZE: u64 = 8;

/// One message in so many is taken out of order.
const SCATTER: u64 = 10;

/// Bytes of one load: a sixteenth of 64 MiB, as with the default `-m`.
const LOAD_SIZE: usize = 4 << 20;

/// Bytes of a small load, which begins and ends within what lies together.
const LOAD_SIZE_SMALL: usize = 4 << 10;

const QUEUE: QueueId = QueueId(1);
const SHARD: ShardId = ShardId(0);
const SALT: Salt = Salt([7; 16]);

fn put(message: u64, body: &[u8]) -> Put<'_> {
    let message = MessageId(message);
    Put { queue: QUEUE, message, put_ms: 1, flags: 0, expires_ms: 0, crc32c: 0, body }.sealed()
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let set = |size: usize| [format!("set queue 0 0 {size}\r\n").into_bytes(), vec![b'x'; size], b"\r\n".to_vec()];
    let requests =
        [("get", b"get queue\r\n".to_vec()), ("set 100 B", set(100).concat()), ("set 1000 B", set(1000).concat())];
    group.throughput(Throughput::Elements(REQUESTS));
    for (name, request) in requests {
        let input = request.repeat(REQUESTS as usize);
        group.bench_function(name, |bencher| bencher.iter(|| assert_eq!(parse_all(black_box(&input)), REQUESTS)));
    }
    group.finish();
}

/// Frames and parses all requests of a buffer, as a turn does with what a connection sent; how many there were.
fn parse_all(mut input: &[u8]) -> u64 {
    let mut count = 0;
    while !input.is_empty() {
        let len = match frame(input, BODY_SIZE_DEFAULT, Names::default()) {
            Frame::Command { command, len } => {
                black_box(command);
                len
            }
            Frame::Put { set, body, len } => {
                black_box((set, body));
                len
            }
            other => unreachable!("the buffer holds whole requests: {other:?}"),
        };
        input = &input[len..];
        count += 1;
    }
    count
}

/// A queue in memory with nothing around it.
struct Lane {
    memory: Memory,
    queue: Queue,
    next: u64,
}

impl Lane {
    fn put(&mut self, body: &[u8], batch: &mut Vec<u8>) {
        let put = put(self.next, body);
        self.next += 1;
        Mutation::Put(put).encode(batch);
        let place = self.memory.append(&put);
        self.queue.push(Entry { message: put.message, place }, body.len());
        self.queue.counters.puts += 1;
    }

    fn take(&mut self, batch: &mut Vec<u8>) {
        let Head::Ready(entry) = self.queue.head() else { unreachable!("all messages are in memory") };
        let put = black_box(self.memory.message(entry.place));
        self.queue.pop(put.body.len());
        self.queue.counters.gets += 1;
        Mutation::Take { queue: QUEUE, message: entry.message }.encode(batch);
        self.memory.release(entry.place);
    }
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for size in BODY_SIZES {
        let body = vec![b'x'; size];
        let mut lane = Lane { memory: Memory::new(), queue: Queue::new(QUEUE, b"queue"), next: 1 };
        let mut batch = Vec::with_capacity(2 * TURN_SIZE);
        for _ in 0..BACKLOG {
            batch.clear();
            lane.put(&body, &mut batch);
        }
        batch.clear();
        group.bench_function(BenchmarkId::new("put+take", format!("{size} B")), |bencher| {
            bencher.iter(|| {
                if batch.len() > TURN_SIZE {
                    batch.clear();
                }
                lane.put(black_box(&body), &mut batch);
                lane.take(&mut batch);
            });
        });
        assert_eq!(lane.queue.len(), BACKLOG, "as many were taken as were put");
    }
    group.finish();
}

/// What a shard has for measuring, and the calls it makes in a turn.
struct Meter {
    start: Instant,
    now_us: u64,
    latency: Latency,
    timings: Timings,
    connections: Vec<(Due, u64)>,
    turn: usize,
}

impl Meter {
    fn new() -> Meter {
        let start = Instant::now();
        let connections = vec![(Due::default(), 0); CONNECTIONS];
        let (latency, timings) = (Latency::default(), Timings::default());
        Meter { start, now_us: host::mono_us(start), latency, timings, connections, turn: 0 }
    }

    /// When the turn's requests are said to have begun: some time ago, and not always as long, so that not one bucket is hit.
    fn begin(&mut self) -> u64 {
        self.turn += 1;
        self.latency.begin_turn(self.now_us / 1000);
        self.now_us.saturating_sub(100 + self.turn as u64 * 37 % 900)
    }

    /// A turn in which one connection's requests are answered at once: a note for each reply, the clock, and the recording.
    fn answer(&mut self, requests: &[Metric]) {
        let at_us = self.begin();
        let Meter { latency, timings, .. } = self;
        let (due, end) = &mut self.connections[self.turn % CONNECTIONS];
        for metric in requests {
            if *metric == Metric::GetHit {
                latency.record(Metric::Queued, self.now_us - at_us, 1);
            }
            *end += REPLY_SIZE;
            timings.add(due, Began { at_us, metric: *metric }, *end);
        }
        self.now_us = host::mono_us(self.start);
        let now_us = self.now_us;
        timings.settle(due, *end, |began, count| {
            latency.record(began.metric, now_us.saturating_sub(began.at_us), count);
        });
    }

    /// What a journal record adds to its turns, whatever the number of requests in it.
    fn commit(&mut self) {
        let began_us = self.begin();
        let submitted = host::now(self.start);
        self.latency.record(Metric::Collect, submitted.mono_us.saturating_sub(began_us), 1);
        self.latency.record(Metric::Write, self.now_us.saturating_sub(began_us), 1);
        self.now_us = host::mono_us(self.start);
        self.latency.record(Metric::Commit, self.now_us.saturating_sub(began_us), 1);
    }
}

fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("measure");
    let mut meter = Meter::new();
    let in_turn: Vec<Metric> = [Metric::Put, Metric::GetHit].into_iter().cycle().take(16).collect();
    let turns: [(&str, &[Metric]); 5] = [
        ("put, alone in its turn", &[Metric::Put]),
        ("put, 16 in a turn", &[Metric::Put; 16]),
        ("get, alone in its turn", &[Metric::GetHit]),
        ("get, 16 in a turn", &[Metric::GetHit; 16]),
        ("put and get in turn, 16 in a turn", &in_turn),
    ];
    for (name, requests) in turns {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let turns = rounds.div_ceil(requests.len() as u64);
                let begin = Instant::now();
                (0..turns).for_each(|_| meter.answer(black_box(requests)));
                begin.elapsed().mul_f64(rounds as f64 / (turns * requests.len() as u64) as f64)
            });
        });
    }
    group.bench_function("journal record", |bencher| bencher.iter(|| meter.commit()));
    group.bench_function("clock", |bencher| bencher.iter(|| host::mono_us(black_box(meter.start))));
    group.finish();
}

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for size in [200, TURN_SIZE, SLICE_SIZE] {
        let mutations: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let header = Header { shard: SHARD, seq: Seq(2), durable_through: Seq(1), unsynced: false };
        let mut buffer = PageBuffer::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("encode", format!("{size} B")), |bencher| {
            bencher.iter(|| {
                record::encode(&header, &SALT, black_box(&mutations), &mut buffer);
                black_box(buffer.bytes().len())
            });
        });
    }
    group.finish();
}

/// Makes slices of one shard, each going on where the last one ended.
struct Slices {
    body: Vec<u8>,
    next: u64,
    end: Position,
}

impl Slices {
    fn new(size: usize) -> Slices {
        Slices { body: vec![b'x'; size], next: 1, end: Position { seq: Seq(1), segment: 0, offset: 0 } }
    }

    /// How many messages a slice puts.
    fn len(&self) -> u64 {
        (SLICE_SIZE / (PUT_HEADER_SIZE + self.body.len())) as u64
    }

    /// What introduces the queue.
    fn first(&mut self) -> Batch {
        let mut mutations = Vec::new();
        Mutation::Ids { end: u64::MAX }.encode(&mut mutations);
        Mutation::Create { queue: QUEUE, created_ms: 1, name: b"queue" }.encode(&mut mutations);
        self.batch(mutations)
    }

    fn slice(&mut self) -> Vec<Batch> {
        let (end, mut batches, mut mutations) = (self.next + self.len(), Vec::new(), Vec::new());
        while self.next < end {
            Mutation::Put(put(self.next, &self.body)).encode(&mut mutations);
            self.next += 1;
            if mutations.len() >= TURN_SIZE || self.next == end {
                batches.push(self.batch(std::mem::take(&mut mutations)));
            }
        }
        batches
    }

    /// Takes of the slice that was made last: the messages whose place in it, counted round by `SCATTER`, is wanted.
    fn takes(&mut self, is_wanted: impl Fn(u64) -> bool) -> Vec<Batch> {
        let mut mutations = Vec::new();
        let begin = self.next - self.len();
        for message in (begin..self.next).filter(|message| is_wanted((message - begin) % SCATTER)) {
            Mutation::Take { queue: QUEUE, message: MessageId(message) }.encode(&mut mutations);
        }
        vec![self.batch(mutations)]
    }

    fn batch(&mut self, mutations: Vec<u8>) -> Batch {
        let seq = self.end.seq;
        self.end.seq = Seq(seq.0 + 1);
        self.end.offset += BLOCK_SIZE;
        Batch { shard: SHARD, seq, mutations, end: self.end }
    }
}

fn checkpoint(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checkpoint");
    for size in BODY_SIZES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = LmdbConfig { map_size: MAP_SIZE };
        let mut store = Lmdb::open(directory.path(), &config).expect("a fresh database");
        store.begin_journals(&[SALT]).expect("a fresh database");
        let mut slices = Slices::new(size);
        store.apply(&[slices.first()], &Taken::none()).expect("room for a queue");
        let mut bench = |name: &str, len: u64, timed: Timed| {
            group.throughput(Throughput::Elements(len));
            group.bench_function(BenchmarkId::new(name, format!("{size} B")), |bencher| {
                bencher.iter_custom(|rounds| apply_slices(&mut store, &mut slices, rounds, timed));
            });
        };
        let len = Slices::new(size).len();
        bench("put", len, Timed::Puts);
        bench("take in order", len, Timed::Takes);
        bench("take scattered", len.div_ceil(SCATTER), Timed::Scattered);
        bench("take between holes", len - len.div_ceil(SCATTER), Timed::Rest);
        let first = slices.next;
        for _ in 0..LOAD_SIZE / SLICE_SIZE + 1 {
            store.apply(&slices.slice(), &Taken::none()).expect("room for a slice");
        }
        for (name, size_max) in [("load", LOAD_SIZE), ("load 4 KiB", LOAD_SIZE_SMALL)] {
            group.throughput(Throughput::Elements((size_max / (PUT_HEADER_SIZE + size)) as u64));
            // From the middle of what lies together.
            let after = MessageId(first + slices.len() / 3);
            let load = Load { shard: SHARD, queue: QUEUE, of: QUEUE, after, below: MessageId(u64::MAX), size_max };
            group.bench_function(BenchmarkId::new(name, format!("{size} B")), |bencher| {
                bencher.iter_custom(|rounds| {
                    let begin = cpu_time();
                    for _ in 0..rounds {
                        black_box(store.load(black_box(&load)).expect("messages to load"));
                    }
                    cpu_time() - begin
                });
            });
        }
    }
    group.finish();
}

/// What this thread has used of its core.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Which transaction of a round is timed.
#[derive(Clone, Copy)]
enum Timed {
    Puts,
    Takes,
    Scattered,
    Rest,
}

/// The time that `rounds` transactions of one kind take. Each round puts a slice and takes all of it away again: the database stays
/// small, and its pages come from the free list, as in a server that is kept up with.
fn apply_slices(store: &mut Lmdb, slices: &mut Slices, rounds: u64, timed: Timed) -> Duration {
    let mut total = Duration::ZERO;
    let mut apply = |batches: &[Batch], is_timed: bool| {
        let begin = cpu_time();
        store.apply(black_box(batches), &Taken::none()).expect("room for a slice");
        if is_timed {
            total += cpu_time() - begin;
        }
    };
    for _ in 0..rounds {
        apply(&slices.slice(), matches!(timed, Timed::Puts));
        match timed {
            Timed::Puts | Timed::Takes => apply(&slices.takes(|_| true), matches!(timed, Timed::Takes)),
            Timed::Scattered | Timed::Rest => {
                apply(&slices.takes(|place| place == 0), matches!(timed, Timed::Scattered));
                apply(&slices.takes(|place| place > 0), matches!(timed, Timed::Rest));
            }
        }
    }
    total
}

criterion_group! {
    name = pure;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = parse, queue, measure, journal
}
criterion_group! {
    name = durable;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    targets = checkpoint
}
criterion_main!(pure, durable);
