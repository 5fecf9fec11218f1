//! What one shard counts, and the `stats` reply that is made of all shards' counts.
//!
//! Pure. A shard counts for itself; the numbers meet only when someone asks.

use crate::latency::{Metric, QUANTILES, Snapshot, Window};
use crate::limits::BODY_SIZE_MAX;
use crate::proto::reply::{VERSION, stat};
use hdrhistogram::Histogram;

/// Counts of one shard since start or `stats reset`, and what it holds now. Bytes are bytes, the rest are counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct ShardStats {
    pub curr_connections: u64,
    pub total_connections: u64,
    pub rejected_connections: u64,
    pub get_cmds: u64,
    pub get_hits: u64,
    pub set_cmds: u64,
    pub set_hits: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub curr_items: u64,
    /// Their bodies, bytes.
    pub item_bytes: u64,
    pub total_items: u64,
    pub memory_used: u64,
    pub queues: u64,
    pub loads: u64,
    pub batches: u64,
    pub corrupt: u64,
    pub waiters: u64,
    pub udp_dropped: u64,
    pub idle_kicks: u64,
    pub accept_pauses: u64,
    /// Of the shard that accepts for all: 1 while it cannot.
    pub accept_paused: u64,
    pub mutations: u64,
    pub journal_records: u64,
    pub journal_bytes: u64,
    pub journal_used: u64,
    pub journal_capacity: u64,
    pub journal_writes: u64,
    pub unstored_bytes: u64,
    pub checkpoints: u64,
    pub open_reads: u64,
    /// Of these, those that do not end with their connection.
    pub detached_reads: u64,
    /// Messages that are open, or were and are back in their queue.
    pub unconfirmed: u64,
    pub returned_reads: u64,
    /// Puts that a limit of their queue refused.
    pub refused_puts: u64,
    pub groups: u64,
    /// Groups that ended because nobody asked them for a message.
    pub groups_ended: u64,
}

/// What a shard's durability counts since the start, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalStats {
    /// Records written.
    pub records: u64,
    /// Bytes of them, with what fills their pages.
    pub bytes: u64,
    /// Bytes of the journal that hold what the store does not have.
    pub used: u64,
    /// Bytes of the journal.
    pub capacity: u64,
    /// Writes under way.
    pub writes: u64,
    /// Bytes of mutations that the store does not have.
    pub unstored: u64,
    /// Jobs handed to the store.
    pub checkpoints: u64,
}

/// What only the impure side knows; fetched when `stats` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Wall clock, seconds since the epoch.
    pub time_s: u64,
    /// CPU time of the process in user mode, microseconds.
    pub user_us: u64,
    /// CPU time of the process in the kernel, microseconds.
    pub system_us: u64,
    /// What came and went by UDP.
    pub udp: Datagrams,
}

/// Datagrams since the start or `stats reset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Datagrams {
    /// Received.
    pub received: u64,
    /// Received and thrown away: no request, or no room for it. Incomplete requests are counted by the shards.
    pub dropped: u64,
    /// Sent.
    pub sent: u64,
    /// Not sent because the kernel refused them.
    pub unsent: u64,
}

impl ShardStats {
    const LEN: usize = 37;
    /// Bytes of [`ShardStats::encode`].
    pub const SIZE: usize = Self::LEN * 8;

    fn fields(&mut self) -> [&mut u64; Self::LEN] {
        [
            &mut self.curr_connections,
            &mut self.total_connections,
            &mut self.rejected_connections,
            &mut self.get_cmds,
            &mut self.get_hits,
            &mut self.set_cmds,
            &mut self.set_hits,
            &mut self.bytes_read,
            &mut self.bytes_written,
            &mut self.curr_items,
            &mut self.item_bytes,
            &mut self.total_items,
            &mut self.memory_used,
            &mut self.queues,
            &mut self.loads,
            &mut self.batches,
            &mut self.corrupt,
            &mut self.waiters,
            &mut self.udp_dropped,
            &mut self.idle_kicks,
            &mut self.accept_pauses,
            &mut self.accept_paused,
            &mut self.mutations,
            &mut self.journal_records,
            &mut self.journal_bytes,
            &mut self.journal_used,
            &mut self.journal_capacity,
            &mut self.journal_writes,
            &mut self.unstored_bytes,
            &mut self.checkpoints,
            &mut self.open_reads,
            &mut self.detached_reads,
            &mut self.unconfirmed,
            &mut self.returned_reads,
            &mut self.refused_puts,
            &mut self.groups,
            &mut self.groups_ended,
        ]
    }

    /// For the way to another shard.
    pub fn encode(mut self, out: &mut Vec<u8>) {
        out.extend(self.fields().iter().flat_map(|f| f.to_le_bytes()));
    }

    /// Adds another shard's counts.
    pub fn merge(&mut self, other: &ShardStats) {
        let mut other = *other;
        self.fields().into_iter().zip(other.fields()).for_each(|(sum, count)| *sum += *count);
    }

    /// Adds another shard's counts, as it encoded them.
    pub fn add(&mut self, encoded: &[u8]) {
        assert_eq!(encoded.len(), Self::SIZE, "shards of one process agree on the encoding");
        for (field, bytes) in self.fields().into_iter().zip(encoded.chunks_exact(8)) {
            *field += u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
    }

    /// Several shards' counts.
    pub fn sum<B: AsRef<[u8]>>(encoded: impl IntoIterator<Item = B>) -> ShardStats {
        let mut sum = ShardStats::default();
        encoded.into_iter().for_each(|bytes| sum.add(bytes.as_ref()));
        sum
    }

    /// What `stats reset` sets to zero: the same as in MemcacheQ.
    pub fn reset(&mut self) {
        self.total_connections = 0;
        self.rejected_connections = 0;
        self.get_cmds = 0;
        self.get_hits = 0;
        self.set_cmds = 0;
        self.set_hits = 0;
        self.bytes_read = 0;
        self.bytes_written = 0;
        self.loads = 0;
        self.batches = 0;
        self.mutations = 0;
        self.udp_dropped = 0;
        self.idle_kicks = 0;
        self.returned_reads = 0;
        self.refused_puts = 0;
        self.groups_ended = 0;
        self.accept_pauses = 0;
    }
}

/// What `stats` says of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Shard threads.
    pub threads: u64,
    /// `-m`, bytes.
    pub memory: u64,
    /// Largest number of connections.
    pub connections: u64,
}

/// The lines of `stats`: MemcacheQ's seventeen in its order, then memcached's names for the same things, then RingQ's own.
pub fn general(out: &mut Vec<u8>, host: &Host, all: &ShardStats, capacity: &Capacity) {
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    stat(out, "pid", host.pid);
    stat(out, "uptime", host.uptime_s);
    stat(out, "time", host.time_s);
    stat(out, "version", VERSION);
    stat(out, "pointer_size", usize::BITS);
    stat(out, "rusage_user", seconds(host.user_us));
    stat(out, "rusage_system", seconds(host.system_us));
    stat(out, "curr_connections", all.curr_connections);
    stat(out, "total_connections", all.total_connections);
    stat(out, "connection_structures", all.curr_connections);
    stat(out, "get_cmds", all.get_cmds);
    stat(out, "get_hits", all.get_hits);
    stat(out, "set_cmds", all.set_cmds);
    stat(out, "set_hits", all.set_hits);
    stat(out, "bytes_read", all.bytes_read);
    stat(out, "bytes_written", all.bytes_written);
    stat(out, "threads", capacity.threads);
    stat(out, "cmd_get", all.get_cmds);
    stat(out, "cmd_set", all.set_cmds);
    stat(out, "get_misses", all.get_cmds.saturating_sub(all.get_hits));
    stat(out, "curr_items", all.curr_items);
    stat(out, "total_items", all.total_items);
    stat(out, "bytes", all.item_bytes);
    stat(out, "limit_maxbytes", capacity.memory);
    stat(out, "max_connections", capacity.connections);
    stat(out, "rejected_connections", all.rejected_connections);
    stat(out, "accepting_conns", u64::from(all.accept_paused == 0));
    stat(out, "listen_disabled_num", all.accept_pauses);
    stat(out, "idle_kicks", all.idle_kicks);
    stat(out, "curr_queues", all.queues);
    stat(out, "curr_groups", all.groups);
    stat(out, "groups_ended", all.groups_ended);
    stat(out, "memory_used", all.memory_used);
    stat(out, "waiters", all.waiters);
    stat(out, "open_reads", all.open_reads);
    stat(out, "detached_reads", all.detached_reads);
    stat(out, "unconfirmed", all.unconfirmed);
    stat(out, "returned_reads", all.returned_reads);
    stat(out, "refused_puts", all.refused_puts);
    stat(out, "corrupt_items", all.corrupt);
    stat(out, "store_loads", all.loads);
    stat(out, "store_batches", all.batches);
    stat(out, "udp_received", host.udp.received);
    stat(out, "udp_dropped", host.udp.dropped + all.udp_dropped);
    stat(out, "udp_sent", host.udp.sent);
    stat(out, "udp_unsent", host.udp.unsent);
}

/// `stats` of Kestrel's, without its queues. What RingQ does not count is 0.
pub fn kestrel(out: &mut Vec<u8>, host: &Host, all: &ShardStats) {
    stat(out, "uptime", host.uptime_s);
    stat(out, "time", host.time_s);
    stat(out, "version", VERSION);
    stat(out, "curr_items", all.curr_items);
    stat(out, "total_items", all.total_items);
    stat(out, "bytes", all.item_bytes);
    stat(out, "reserved_memory_ratio", 0);
    stat(out, "curr_connections", all.curr_connections);
    stat(out, "total_connections", all.total_connections);
    stat(out, "cmd_get", all.get_cmds);
    stat(out, "cmd_set", all.set_cmds);
    stat(out, "cmd_peek", 0);
    stat(out, "get_hits", all.get_hits);
    stat(out, "get_misses", all.get_cmds.saturating_sub(all.get_hits));
    stat(out, "bytes_read", all.bytes_read);
    stat(out, "bytes_written", all.bytes_written);
    ["queue_creates", "queue_deletes", "queue_expires"].iter().for_each(|name| stat(out, name, 0));
}

/// A line with the sum of what the shards said, a u64 each.
pub fn sum(out: &mut Vec<u8>, answers: &[impl AsRef<[u8]>]) {
    let number = |answer: &[u8]| u64::from_le_bytes(answer.try_into().expect("eight bytes"));
    let sum: u64 = answers.iter().map(|answer| number(answer.as_ref())).sum();
    out.extend_from_slice(format!("{sum}\r\n").as_bytes());
}

/// How many puts brought a body of each size since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// At each place, bodies of up to two to the power of it, bytes, that are in no place before.
    counts: [u64; Sizes::LEN],
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { counts: [0; Sizes::LEN] }
    }
}

impl Sizes {
    const LEN: usize = BODY_SIZE_MAX.ilog2() as usize + 1;

    /// A put brought a body of this size.
    pub fn count(&mut self, size: usize) {
        let place = size.max(1).next_power_of_two().ilog2();
        self.counts[place as usize] += 1;
    }

    /// For the way to another shard.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
    }

    /// Several shards' counts.
    pub fn sum<B: AsRef<[u8]>>(encoded: impl IntoIterator<Item = B>) -> Sizes {
        let mut sum = Sizes::default();
        for encoded in encoded {
            for (count, bytes) in sum.counts.iter_mut().zip(encoded.as_ref().chunks_exact(8)) {
                *count += u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            }
        }
        sum
    }
}

/// The lines of `stats sizes`: bodies of up to so many bytes, and more than those of the line before.
pub fn sizes(out: &mut Vec<u8>, sizes: &Sizes) {
    for (place, count) in sizes.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        stat(out, &(1_u64 << place).to_string(), count);
    }
}

/// The lines of `stats latency`: for each metric and span of time that has any value, its count, mean, percentiles and maximum, µs.
pub fn latency(out: &mut Vec<u8>, snapshot: &Snapshot) {
    for metric in Metric::ALL {
        for window in Window::ALL {
            let Some(histogram) = snapshot.of(metric, window) else { continue };
            histogram_lines(out, &format!("{}.{}", metric.name(), window.name()), histogram);
        }
    }
}

fn histogram_lines(out: &mut Vec<u8>, name: &str, histogram: &Histogram<u64>) {
    stat(out, &format!("{name}.count"), histogram.len());
    stat(out, &format!("{name}.mean"), format!("{:.1}", histogram.mean()));
    for (quantile, share) in QUANTILES {
        stat(out, &format!("{name}.{quantile}"), histogram.value_at_quantile(share));
    }
    stat(out, &format!("{name}.max"), histogram.max());
}

/// The lines of `stats commit`: how mutations became durable.
pub fn commit(out: &mut Vec<u8>, all: &ShardStats, snapshot: &Snapshot) {
    let per_record = all.mutations as f64 / all.journal_records.max(1) as f64;
    stat(out, "records", all.journal_records);
    stat(out, "bytes", all.journal_bytes);
    stat(out, "mutations", all.mutations);
    stat(out, "mutations_per_record", format!("{per_record:.2}"));
    stat(out, "writes_under_way", all.journal_writes);
    stat(out, "journal_used", all.journal_used);
    stat(out, "journal_capacity", all.journal_capacity);
    stat(out, "checkpoints", all.checkpoints);
    stat(out, "unstored_bytes", all.unstored_bytes);
    for metric in [Metric::Collect, Metric::Write, Metric::Commit, Metric::Checkpoint] {
        for window in [Window::Total, Window::TenSeconds] {
            let Some(histogram) = snapshot.of(metric, window) else { continue };
            histogram_lines(out, &format!("{}.{}", metric.name(), window.name()), histogram);
        }
    }
}

/// The lines of `stats shards`, for each shard.
pub fn shards<B: AsRef<[u8]>>(out: &mut Vec<u8>, encoded: &[B]) {
    for (shard, encoded) in encoded.iter().enumerate() {
        let it = ShardStats::sum([encoded]);
        let lines = [
            ("curr_connections", it.curr_connections),
            ("curr_queues", it.queues),
            ("curr_items", it.curr_items),
            ("bytes", it.item_bytes),
            ("memory_used", it.memory_used),
            ("get_cmds", it.get_cmds),
            ("get_hits", it.get_hits),
            ("set_cmds", it.set_cmds),
            ("set_hits", it.set_hits),
            ("waiters", it.waiters),
            ("records", it.journal_records),
            ("writes_under_way", it.journal_writes),
            ("journal_used", it.journal_used),
            ("journal_capacity", it.journal_capacity),
            ("unstored_bytes", it.unstored_bytes),
            ("checkpoints", it.checkpoints),
        ];
        lines.iter().for_each(|(name, value)| stat(out, &format!("{shard}.{name}"), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_what_was_encoded_adds_every_field() {
        let mut one = ShardStats::default();
        for (i, field) in one.fields().into_iter().enumerate() {
            *field = i as u64 + 1;
        }
        let mut sum = one;
        let mut encoded = Vec::new();
        one.encode(&mut encoded);
        sum.add(&encoded);
        for (i, field) in sum.fields().into_iter().enumerate() {
            assert_eq!(*field, 2 * (i as u64 + 1));
        }
    }

    #[test]
    fn the_first_seventeen_lines_are_memcacheqs() {
        let mut out = Vec::new();
        general(&mut out, &Host::default(), &ShardStats::default(), &Capacity::default());
        let text = String::from_utf8(out).unwrap();
        let names: Vec<&str> = text.lines().map(|l| l.split(' ').nth(1).unwrap()).take(17).collect();
        let expected = "pid uptime time version pointer_size rusage_user rusage_system curr_connections total_connections \
                        connection_structures get_cmds get_hits set_cmds set_hits bytes_read bytes_written threads";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    }
}
