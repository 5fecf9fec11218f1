//! How much memory a server may use, computed from its options and from how much of what they allow is in use: docs/OPERATIONS.md has the same
//! terms, each with where it comes from.
//!
//! Invariant: it knows nothing of what a server does use. A limit of src/limits.rs that changes, changes it.

use ringq::limits::{
    BATCH_SIZE, BODY_SIZE_DEFAULT, DETACHED_READS_DEFAULT, FORWARDED_SIZE_MAX, INPUT_SIZE_MAX, KEPT_BATCH_SIZE,
    KEPT_SPARE_MAX, LANE_SPARE_MAX, LANE_SPARE_SIZE_MAX, MEMORY_MB_DEFAULT, OUTPUT_SIZE_MAX, POOL_SIZE_MAX,
    SEGMENT_SIZE, UDP_REQUESTS_MAX, UNCONFIRMED_DEFAULT,
};

/// The program, its stacks and what the database keeps in mind; the log's lines; pages that one transaction of the database changes.
const PROCESS: u64 = 32 << 20;
/// Receive buffers of a shard: what comes of one connection before the ring has stopped receiving for it, at the most.
const RECEIVED: u64 = 4 << 20;
/// These, and histograms of a shard.
const SHARD: u64 = RECEIVED + (6 << 20);
/// A connection that has nothing under way.
const IDLE: u64 = 1 << 10;
/// A get that waits, besides.
const WAIT: u64 = 1 << 10;
/// A queue, a group, and a name with settings, with a long name each; the last once for each shard.
const QUEUE: u64 = 1 << 10;
/// A message that is open, or has come back.
const OPEN: u64 = 256;
/// The place of a message in the order of one of its readers, whose table may be half empty.
const ENTRY: u64 = 2 * 16;
/// What a message is in memory besides its body.
const MESSAGE: u64 = 37;

/// What of the options bounds the memory.
pub struct Settings {
    memory: u64,
    body_max: u64,
    shards: u64,
    journal_depth: u64,
    udp_reply_max: u64,
    detached_reads_max: u64,
    unconfirmed_max: u64,
}

impl Settings {
    /// Those of a server that is started with these.
    pub fn of(args: &[impl AsRef<str>]) -> Settings {
        let option = |name: &str, default: u64| {
            let at = args.iter().position(|arg| arg.as_ref() == name);
            at.map_or(default, |at| args[at + 1].as_ref().parse().expect("a number"))
        };
        let udp = option("-U", 0) > 0;
        Settings {
            memory: option("-m", MEMORY_MB_DEFAULT as u64) << 20,
            body_max: option("-B", BODY_SIZE_DEFAULT as u64),
            shards: option("-t", 1),
            journal_depth: option("--journal-depth", 4),
            udp_reply_max: if udp { option("--udp-reply-max", 16_384) } else { 0 },
            detached_reads_max: option("--max-detached-reads", u64::from(DETACHED_READS_DEFAULT)),
            unconfirmed_max: option("--max-unconfirmed", u64::from(UNCONFIRMED_DEFAULT)),
        }
    }
}

/// What clients have of what they may have.
#[derive(Clone, Copy, Default, Debug)]
pub struct Crowd {
    /// Connections.
    pub connections: u64,
    /// Of these, gets that wait.
    pub waiting: u64,
    /// Those that have begun a request, or have some that are not served.
    pub sending: u64,
    /// Of these and the next, those that send much more than is served.
    pub flooding: u64,
    /// Those that have replies to be sent, and requests that wait for that.
    pub busy: u64,
    /// The largest reply of these, bytes: `-B` unless it is more.
    pub reply: u64,
    /// Queues and groups.
    pub queues: u64,
    /// Names with settings.
    pub settings: u64,
    /// Messages that are open or have come back, or that clients wanted to open.
    pub open: u64,
    /// Messages that are open with a time of their own, or that clients wanted to open so.
    pub detached: u64,
    /// Groups of the queue that has most.
    pub groups: u64,
}

/// The most that a server may use, bytes.
pub fn bound(settings: &Settings, crowd: &Crowd) -> u64 {
    let Settings { memory, body_max, shards, journal_depth, udp_reply_max, detached_reads_max, unconfirmed_max } =
        *settings;
    let bytes = |size: usize| size as u64;
    let record = bytes(BATCH_SIZE) + body_max.max(bytes(BATCH_SIZE));
    let lane = bytes(FORWARDED_SIZE_MAX) + body_max + bytes(LANE_SPARE_MAX * LANE_SPARE_SIZE_MAX);
    let spare = bytes(POOL_SIZE_MAX + KEPT_SPARE_MAX * KEPT_BATCH_SIZE + 4 * SEGMENT_SIZE);
    let of_shards = shards * (SHARD + spare + (1 + journal_depth) * record + (shards - 1) * 2 * lane);
    // As messages, and as what the store has not confirmed, half each; that again for the checkpoint; bodies on their way in, and loads.
    let messages = 2 * memory;
    let entries = (memory / 2).div_ceil(MESSAGE) * ENTRY * (1 + crowd.groups);
    let reply = crowd.reply.max(body_max);
    // What the kernel is given to send, and what has collected meanwhile.
    let busy = bytes(2 * OUTPUT_SIZE_MAX) + 2 * reply;
    let input = (crowd.sending + crowd.busy) * bytes(2 * INPUT_SIZE_MAX) + crowd.flooding * 2 * RECEIVED;
    let connections = crowd.connections * IDLE + crowd.waiting * WAIT + input + crowd.busy * busy;
    let open = (crowd.open + crowd.detached.min(detached_reads_max)).min(unconfirmed_max);
    let tables = (crowd.queues + shards * crowd.settings) * QUEUE + open * OPEN;
    let udp = if udp_reply_max > 0 { bytes(UDP_REQUESTS_MAX) * ((64 << 10) + 2 * udp_reply_max) } else { 0 };
    let sum = PROCESS + of_shards + messages + entries + connections + tables + udp;
    // The allocator's own, and what it has back and keeps.
    sum + sum / 4
}
