//! Every bound in one place, each with the reason for its value.
//!
//! Invariant: the relations at the end hold at compile time. What an operator may change is in `config`; these may not
//! be changed without thinking.

/// Longest queue name, bytes: memcache's key limit, which every client library enforces.
pub const NAME_LEN_MAX: usize = 250;

/// Longest name of a group, bytes: the name of a queue and that of its group together are a name in the store.
pub const GROUP_LEN_MAX: usize = 64;

/// All options behind a queue name together, bytes: each of them once, with the longest numbers.
pub const OPTIONS_LEN_MAX: usize = 160;

/// Longest command line without its line end, bytes. A `get` of 32 names of the longest kind fits; a client that sends
/// more without a line end is not speaking this protocol.
pub const LINE_LEN_MAX: usize = 8192;

/// Largest length that a body may announce and still be skipped, bytes. Past it the end of the body cannot be trusted.
pub const BODY_ANNOUNCED_MAX: u64 = i32::MAX as u64;

/// Largest `-B`, bytes.
pub const BODY_SIZE_MAX: usize = 128 << 20;

/// Messages that leave the head of a queue at once because their time is over or others need their room: what a turn does for one
/// queue while all others wait.
pub const DROPPED_AT_ONCE_MAX: usize = 1024;

/// Of these, how many go although the turn's batch is full: nearly always all there are.
pub const DROPPED_IN_ANY_CASE: usize = 16;

/// Messages of a shard that are set aside for other queues and have not begun to go: some MiB of memory for all of them. More than a few are there
/// only while the disk is full.
pub const MOVES_LEN_MAX: usize = 65_536;

/// A transfer that another shard refused, for want of storage, is tried again after this time, ms.
pub const MOVES_RETRY_MS: u64 = 1_000;

/// Queues that may have messages whose time is over, and from which nobody reads, are looked at so often, ms: nobody waits for that.
pub const SWEEP_EVERY_MS: u64 = 1_000;

/// Queues of these that one turn looks at.
pub const SWEPT_LEN_MAX: usize = 256;

/// Messages that a queue which drops its oldest may have beyond its bound while these are read from the disk to be dropped.
pub const OVERFLOW_LEN_MAX: u64 = 1024;

/// The same in bytes.
pub const OVERFLOW_SIZE_MAX: u64 = 1 << 20;

/// Requests of one connection served before the next connection has its turn. Large enough that a pipelining client is served
/// from one receive, small enough that 64 such clients wait for each other less than a millisecond.
pub const REQUESTS_PER_TURN: usize = 128;

/// Replies a connection may have unsent before its requests wait, bytes. One reply may exceed it, not two.
pub const OUTPUT_SIZE_MAX: usize = 256 << 10;

/// Gets of one connection whose messages come from elsewhere (the store, another shard), if bodies are large: how large what
/// comes will be is not known before, so this many of the largest bodies may come at once.
pub const AWAITED_GETS_MIN: usize = 8;

/// The same if bodies are small.
pub const AWAITED_GETS_MAX: usize = 64;

/// Requests of a connection kept before it is no longer read, bytes, beyond what the request at the front needs.
pub const INPUT_SIZE_MAX: usize = 64 << 10;

/// Requests under way from one shard to another, bytes (one may exceed it when there is no other).
pub const FORWARDED_SIZE_MAX: usize = 1 << 20;

/// Buffers of mail that a shard keeps for its mail to another one, and how large each may be, bytes.
pub const LANE_SPARE_MAX: usize = 4;
/// See [`LANE_SPARE_MAX`].
pub const LANE_SPARE_SIZE_MAX: usize = 256 << 10;

/// All messages one multi-get may return, bytes, unless `-B` is larger.
pub const MULTI_GET_SIZE_MAX: usize = 16 << 20;

/// What a datagram's replies keep free, bytes: for the text of one request that is no message and no list, and for the words that
/// say that the rest did not fit.
pub const UDP_REPLY_MARGIN: usize = 128;

/// Datagrams whose requests are under way at once. What comes meanwhile waits in the kernel's buffer of the socket, and is dropped
/// when that is full.
pub const UDP_REQUESTS_MAX: usize = 64;

/// Largest datagram of a reply, its frame header included, bytes: what passes networks in one piece, and what MemcacheQ sends.
pub const UDP_DATAGRAM_SIZE_MAX: usize = 1400;

/// Messages share memory segments of this size; a larger message has its own. A segment is returned when its last message
/// is gone, so larger ones are held longer by stragglers, smaller ones cost more bookkeeping.
pub const SEGMENT_SIZE: usize = 256 << 10;

/// A body that makes no progress for this long closes its connection, ms: it holds part of the body budget.
pub const BODY_STALL_MS_MAX: u64 = 30_000;

/// How long a connection that is being closed for an error may take to read the error, ms.
pub const LINGER_MS_MAX: u64 = 1_000;

/// Connections that one turn looks at for those that have been silent too long: a look at all of many would hold up the others.
pub const IDLE_LOOK_LEN: usize = 1024;

/// Looks for silent connections come at most this often, ms, and in 16 to a timeout: so much later they are closed.
pub const IDLE_LOOK_MS_MIN: u64 = 250;

/// One piece of a queue listing, bytes: what a shard does for it in one turn.
pub const LISTING_SIZE_MAX: usize = 16 << 10;

/// Queues or connections looked at for one piece of a listing.
pub const LISTING_LEN_MAX: usize = 1024;

/// Queues that a shard shows the admin listener in one turn: some 50 µs.
pub const ADMIN_PAGE_LEN_MAX: usize = 256;

/// Of these, queues whose oldest message is only in the store and is asked for, to know its age: the store has other work.
pub const ADMIN_ASKED_LEN_MAX: u64 = 8;

/// Connections of the admin listener: pages, scrapers, scripts. For one more, one that is idle or does not finish has to go.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Queues that have time series of their own in `/metrics`; a monitoring system pays for each.
pub const ADMIN_METRIC_QUEUES_MAX: usize = 1000;

/// Ids a shard reserves at once: days of messages, and enough ranges in a u64 for a restart every second of a century.
pub const ID_RANGE_LEN: u64 = 1 << 32;

/// A batch is handed on when it has this size, bytes, even if the turn is not over.
pub const BATCH_SIZE: usize = 1 << 20;

/// Records kept for a checkpoint are collected into batches of this size, bytes: what a transaction can at least be cut to.
pub const KEPT_BATCH_SIZE: usize = 128 << 10;

/// Buffers of such batches that a shard holds for reuse.
pub const KEPT_SPARE_MAX: usize = 64;

/// Buffers kept for reuse by connections, each at most this size, bytes.
pub const POOLED_BUFFER_SIZE_MAX: usize = 64 << 10;

/// Buffers kept for reuse by one shard, bytes in all.
pub const POOL_SIZE_MAX: usize = 4 << 20;

/// Queues per server unless configured.
pub const QUEUES_DEFAULT: usize = 100_000;

/// Connections per server unless the file limit is lower or `-c` says otherwise.
pub const CONNECTIONS_DEFAULT: usize = 65_536;

/// A message handed over to a waiting get is journalled after all when its client has not taken it for this long, ms: its putter
/// does not wait for a reader that is slow. A reader that keeps up takes it in far less.
pub const PASSING_MS_MAX: u64 = 100;

/// Bodies up to this size are handed over, bytes. A larger one fills a socket's buffer, so it would often be journalled later
/// anyway, and what the journal costs matters less beside it.
pub const PASSING_BODY_SIZE_MAX: usize = 64 << 10;

/// What a shard may have handed over and not settled, bytes as it would be journalled: a batch must have room for all of it at once.
pub const PASSING_SIZE_MAX: usize = 512 << 10;

/// Counts of settled hand-overs are recorded after this long even if nothing else is, ms: nobody waits for them, and this is what a
/// crash can take from the counters.
pub const PASSED_MS_MAX: u64 = 1_000;

/// Queues whose settled hand-overs may be uncounted in the journal: what a batch has to have room for besides.
pub const PASSED_QUEUES_MAX: usize = 1024;

/// Default `--max-wait`, seconds: a client that is gone without a word does not hold its connection's wait for longer.
pub const WAIT_S_DEFAULT: u32 = 3600;

/// Default `--max-open-reads`: far more than a worker has in hands, and small enough that what a client that never confirms can hold back is seen.
pub const OPEN_READS_DEFAULT: u32 = 1024;

/// Default `--max-detached-reads`: some 16 MiB of memory for all of them.
pub const DETACHED_READS_DEFAULT: u32 = 65_536;

/// Default `--max-unconfirmed`: 256 MiB of memory for all of them, far more than workers have in hands and fail at.
pub const UNCONFIRMED_DEFAULT: u32 = 1 << 20;

/// Default `--max-groups`: every put costs a step for each.
pub const GROUPS_DEFAULT: u32 = 64;

/// Queues whose groups' settings one turn acts upon, and groups that it ends: each may let go of as many messages as memory has.
pub const GROUPS_SETTLED_LEN_MAX: usize = 64;

/// Open reads that one `confirm` of Kestrel's may name: what it changes is one batch, which has a bound.
pub const CONFIRM_LEN_MAX: usize = 16_384;

/// Default `-B`, bytes.
pub const BODY_SIZE_DEFAULT: usize = 1 << 20;

/// Default `-m`, MiB.
pub const MEMORY_MB_DEFAULT: usize = 64;

/// Without `-t`, no more shards than this.
pub const SHARDS_DEFAULT_MAX: usize = 4;

/// Largest `-t`.
pub const SHARDS_MAX: usize = 256;

const _: () = assert!(NAME_LEN_MAX <= u8::MAX as usize, "names are encoded with a length of one byte");
const _: () = assert!(BODY_SIZE_MAX as u64 <= BODY_ANNOUNCED_MAX);
const _: () = assert!(LISTING_SIZE_MAX < OUTPUT_SIZE_MAX);
const _: () = assert!(
    BATCH_SIZE + PASSING_SIZE_MAX + PASSED_QUEUES_MAX * 32 < 2 * BATCH_SIZE,
    "a batch with all that was handed over fits where the journal has room for it and the largest body"
);
const _: () = assert!(PASSING_BODY_SIZE_MAX + 1024 < PASSING_SIZE_MAX);
const _: () = assert!(LINE_LEN_MAX < INPUT_SIZE_MAX);
const _: () = assert!(SHARDS_MAX <= u16::MAX as usize);
const _: () = assert!(SEGMENT_SIZE < u32::MAX as usize && BODY_SIZE_MAX < u32::MAX as usize / 2);
