//! The path of a small message allocates nothing once it is warm: engine, journal writer and what is kept for the checkpoint, driven
//! as a shard drives them, with every allocation of the thread counted.
//!
//! What happens once for many messages (a checkpoint, a buffer for a new connection) may allocate.

use allocation_counter::measure;
use ringq::clock::Now;
use ringq::engine::{Config, Engine, Tunables};
use ringq::ids::{ConnId, IdRange, MessageId, Salt, Seq, ShardId};
use ringq::journal::{Writer, WriterConfig};
use ringq::kept::Kept;
use ringq::message_set::MessageSet;
use ringq::proto::Dialect;
use ringq::stats::Capacity;

/// A client's turns before they are counted: more than are counted, so that every list has its room.
const WARM_LEN: usize = 4000;
const COUNTED_LEN: usize = 1000;

/// A shard without kernel, device and store: writes are done at once, checkpoints when they are asked for.
struct Shard {
    engine: Engine,
    writer: Writer,
    kept: Kept,
    spare_batch: Vec<u8>,
    spare_reply: Vec<u8>,
    conn: ConnId,
    now: Now,
}

impl Shard {
    fn new(number: u16, shards: u16) -> Shard {
        let shard = ShardId(number);
        let config = Config {
            shard,
            shards,
            memory_share: 64 << 20,
            body_size_max: 1 << 20,
            reader_separator: None,
            hash_seed: 1,
            capacity: Capacity::default(),
            tunables: Tunables {
                queues_max: 10,
                wait_ms_max: 1000,
                idle_ms_max: 0,
                open_reads_max: 8,
                detached_reads_max: 8,
                unconfirmed_max: 8,
                groups_max: 8,
                queue_defaults: std::sync::Arc::default(),
                flush_all: false,
                shutdown: false,
                settings: std::sync::Arc::from(&b""[..]),
            },
        };
        let (salt, segment_size, segments) = (Salt([1; 16]), 16 << 20, 4);
        let writer = Writer::new(WriterConfig { shard, salt, segment_size, segments, depth: 4, unsynced: false });
        let first = 1 + (u64::from(number) << 32);
        let mut engine = Engine::new(config, [], [], IdRange { next: first, end: first + (1 << 32) });
        let conn = ConnId { index: 0, generation: 1 };
        engine.on_open(conn, Dialect::MemcacheQ);
        let (kept, now) = (Kept::new(shard), Now { mono_ms: 1, mono_us: 1000, wall_ms: 1 });
        Shard { engine, writer, kept, spare_batch: Vec::new(), spare_reply: Vec::new(), conn, now }
    }

    /// A request comes, its record is written, its reply is sent.
    fn turn(&mut self, request: &[u8], expected: &[u8]) {
        self.engine.begin_turn(self.now);
        self.engine.on_bytes(self.conn, request);
        self.make_durable();
        self.send(expected);
    }

    /// What was changed is written.
    fn make_durable(&mut self) {
        self.engine.run();
        if let Ok((seq, mut mutations)) = self.engine.seal(std::mem::take(&mut self.spare_batch)) {
            let write = self.writer.append(seq, Seq(seq.0 - 1), &mutations);
            self.kept.push(seq, &mutations, write.end);
            mutations.clear();
            self.spare_batch = mutations;
            let durable = self.writer.written(write.token, write.buffer).expect("nothing else is under way");
            self.engine.on_durable(durable);
        }
    }

    /// Mail to another shard is delivered.
    fn deliver_to(&mut self, other: &mut Shard, from: u16) {
        self.engine.take_mail(|_, mail| other.engine.on_mail(ShardId(from), mail));
    }

    fn send(&mut self, expected: &[u8]) {
        let conn = self.engine.effects.sends.pop().expect("every request is answered");
        let reply = self.engine.take_output(conn, std::mem::take(&mut self.spare_reply), self.now.mono_us);
        let mut reply = reply.expect("there is something to send");
        assert!(reply == expected, "{}", reply.escape_ascii());
        reply.clear();
        self.spare_reply = reply;
        self.engine.on_sent(conn);
    }

    fn checkpoint(&mut self) {
        let batches = self.kept.take_through(Seq(u64::MAX));
        let Some(seq) = batches.last().map(|batch| batch.seq) else { return };
        self.kept.recycle(batches.into_iter().map(|batch| batch.mutations).collect());
        self.writer.release(seq);
        self.engine.on_stored(seq);
    }
}

const PUT: &[u8] = b"set queue 7 0 100\r\n\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n";
const VALUE: &[u8] = b"VALUE queue 7 100\r\n\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\nEND\r\n";

/// Allocations of so many turns.
fn allocations_of(shard: &mut Shard, turns: usize, mut turn: impl FnMut(&mut Shard)) -> u64 {
    measure(|| (0..turns).for_each(|_| turn(shard))).count_total
}

#[test]
fn a_small_put_and_get_allocate_nothing() {
    let mut shard = Shard::new(0, 1);
    let mut both = |shard: &mut Shard| {
        shard.turn(PUT, b"STORED\r\n");
        shard.turn(b"get queue\r\n", VALUE);
    };
    assert!(allocations_of(&mut shard, WARM_LEN, &mut both) > 0, "allocations are counted");
    shard.checkpoint();
    assert_eq!(allocations_of(&mut shard, COUNTED_LEN, &mut both), 0);
}

#[test]
fn a_get_that_finds_nothing_allocates_nothing() {
    let mut shard = Shard::new(0, 1);
    let mut miss = |shard: &mut Shard| shard.turn(b"get queue\r\n", b"END\r\n");
    allocations_of(&mut shard, WARM_LEN, &mut miss);
    assert_eq!(allocations_of(&mut shard, COUNTED_LEN, &mut miss), 0);
}

#[test]
fn pipelined_requests_allocate_nothing() {
    let mut shard = Shard::new(0, 1);
    let (puts, gets) = (PUT.repeat(16), b"get queue\r\n".repeat(16));
    let (stored, values) = (b"STORED\r\n".repeat(16), VALUE.repeat(16));
    let mut both = |shard: &mut Shard| {
        shard.turn(&puts, &stored);
        shard.turn(&gets, &values);
    };
    allocations_of(&mut shard, WARM_LEN / 8, &mut both);
    shard.checkpoint();
    assert_eq!(allocations_of(&mut shard, COUNTED_LEN / 8, &mut both), 0);
}

#[test]
fn requests_of_another_shard_allocate_nothing() {
    // The queue is the first shard's, the client the second one's.
    assert_eq!(Engine::owner_of(b"queue", 2), ShardId(0));
    let (mut here, mut there) = (Shard::new(1, 2), Shard::new(0, 2));
    let ask = |here: &mut Shard, there: &mut Shard, request: &[u8], expected: &[u8]| {
        here.engine.begin_turn(here.now);
        here.engine.on_bytes(here.conn, request);
        here.make_durable();
        here.deliver_to(there, 1);
        there.make_durable();
        there.deliver_to(here, 0);
        here.send(expected);
    };
    // More gets of large messages than these are not awaited at once.
    let (puts, gets) = (PUT.repeat(8), b"get queue\r\n".repeat(8));
    let (stored, values) = (b"STORED\r\n".repeat(8), VALUE.repeat(8));
    let both = |here: &mut Shard, there: &mut Shard| {
        ask(here, there, PUT, b"STORED\r\n");
        ask(here, there, b"get queue\r\n", VALUE);
        ask(here, there, &puts, &stored);
        ask(here, there, &gets, &values);
    };
    (0..WARM_LEN / 8).for_each(|_| both(&mut here, &mut there));
    there.checkpoint();
    assert_eq!(measure(|| (0..COUNTED_LEN / 16).for_each(|_| both(&mut here, &mut there))).count_total, 0);
}

#[test]
fn sets_of_messages_are_as_small_as_they_say() {
    const SPAN: u64 = 3 << 20;
    for every in [1, 2, 10, 100, 1000, 10_000, 65_536] {
        let mut set = MessageSet::default();
        let memory = measure(|| set.extend((0..SPAN).step_by(every).map(MessageId)));
        let (bytes, len) = (memory.bytes_current as u64, set.len());
        println!("every {every}: {bytes} bytes for {len}, {:.2} each", bytes as f64 / len as f64);
        let containers = (SPAN >> 16).min(len);
        assert!(bytes <= (SPAN / 8).min(4 * len) + 128 * containers, "every {every}: {bytes} bytes for {len}");
    }
}
