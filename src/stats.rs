//! What one shard counts, and the `stats` reply that is made of all shards' counts.
//!
//! Pure. A shard counts for itself; the numbers meet only when someone asks.

use crate::proto::reply::{VERSION, stat};

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
    const LEN: usize = 21;
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
        ]
    }

    /// For the way to another shard.
    pub fn encode(mut self) -> Vec<u8> {
        self.fields().iter().flat_map(|f| f.to_le_bytes()).collect()
    }

    /// Adds another shard's counts, as it encoded them.
    pub fn add(&mut self, encoded: &[u8]) {
        assert_eq!(encoded.len(), Self::SIZE, "shards of one process agree on the encoding");
        for (field, bytes) in self.fields().into_iter().zip(encoded.chunks_exact(8)) {
            *field += u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
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
        self.udp_dropped = 0;
        self.idle_kicks = 0;
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
    stat(out, "bytes", all.memory_used);
    stat(out, "limit_maxbytes", capacity.memory);
    stat(out, "max_connections", capacity.connections);
    stat(out, "rejected_connections", all.rejected_connections);
    stat(out, "accepting_conns", u64::from(all.accept_paused == 0));
    stat(out, "listen_disabled_num", all.accept_pauses);
    stat(out, "idle_kicks", all.idle_kicks);
    stat(out, "curr_queues", all.queues);
    stat(out, "waiters", all.waiters);
    stat(out, "corrupt_items", all.corrupt);
    stat(out, "store_loads", all.loads);
    stat(out, "store_batches", all.batches);
    stat(out, "udp_received", host.udp.received);
    stat(out, "udp_dropped", host.udp.dropped + all.udp_dropped);
    stat(out, "udp_sent", host.udp.sent);
    stat(out, "udp_unsent", host.udp.unsent);
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
        sum.add(&one.encode());
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
