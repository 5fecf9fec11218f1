//! The words for what shards say of themselves: the line of `-S`, and the lines of SIGUSR1.
//!
//! Invariant: bounded. A line for each shard and setting, and for the largest queues only, however many there are.

use super::rounds::{Answer, Round};
use crate::engine::QueueSummary;
use crate::proto::reply::VERSION;
use crate::shard::Snapshot;
use crate::stats::{Host, ShardStats};
use std::time::Duration;

/// Queues that are listed.
pub(super) const QUEUES_MAX: usize = 20;

/// All shards together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub(super) stats: ShardStats,
}

impl Totals {
    pub(super) fn of(round: &Round) -> Totals {
        let mut totals = Totals::default();
        for (_, snapshot) in round.snapshots() {
            totals.stats.merge(&snapshot.stats);
        }
        totals
    }
}

/// The line of `-S`: what happened in `period` since `before`, and what there is now.
pub(super) fn stats_line(now: &Totals, before: &Totals, period: Duration) -> String {
    // `stats reset` sets some back.
    let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    let seconds = period.as_secs_f64().max(0.001);
    let counted = |name: &str, count: u64| format!("{name}={count} {name}/s={:.1}", count as f64 / seconds);
    format!(
        "stats: seconds={seconds:.1} {} {} {} ready={} bytes={} connections={} records={} checkpoints={}",
        counted("puts", since(now.stats.set_hits, before.stats.set_hits)),
        counted("gets", since(now.stats.get_cmds, before.stats.get_cmds)),
        counted("hits", since(now.stats.get_hits, before.stats.get_hits)),
        now.stats.curr_items,
        now.stats.memory_used,
        now.stats.curr_connections,
        since(now.stats.journal_records, before.stats.journal_records),
        since(now.stats.checkpoints, before.stats.checkpoints),
    )
}

/// The lines of SIGUSR1. `settings` are those of `stats settings`.
pub(super) fn dump_lines(round: &Round, host: &Host, settings: &[u8]) -> Vec<String> {
    let seconds = |us: u64| us as f64 / 1e6;
    let mut lines = vec![
        format!(
            "state: ringq {VERSION} pid={} uptime_s={} cpu_user_s={:.2} cpu_system_s={:.2}",
            host.pid,
            host.uptime_s,
            seconds(host.user_us),
            seconds(host.system_us),
        ),
        format!("state: settings {}", settings_words(settings)),
        format!("state: total {}", counts(&Totals::of(round).stats)),
    ];
    for (shard, answer) in round.answers.iter().enumerate() {
        lines.push(match answer {
            Answer::Given(snapshot) => format!("state: shard {shard} {}", shard_words(snapshot)),
            Answer::Ended => format!("state: shard {shard} has ended"),
            Answer::Missing => format!("state: shard {shard} does not answer"),
        });
    }
    if round.store_is_silent() {
        lines.push("state: the store thread does not answer".into());
    }
    let mut queues: Vec<&QueueSummary> = round.snapshots().flat_map(|(_, snapshot)| &snapshot.largest).collect();
    queues.sort_by(|a, b| b.ready.cmp(&a.ready).then_with(|| a.name.cmp(&b.name)));
    for queue in queues.into_iter().take(QUEUES_MAX) {
        let name = String::from_utf8_lossy(&queue.name);
        lines.push(format!("state: queue {name} ready={} puts={} gets={}", queue.ready, queue.puts, queue.gets));
    }
    lines
}

fn counts(stats: &ShardStats) -> String {
    format!(
        "connections={} queues={} ready={} memory={} waiters={}",
        stats.curr_connections, stats.queues, stats.curr_items, stats.memory_used, stats.waiters
    )
}

fn shard_words(snapshot: &Snapshot) -> String {
    let Snapshot { stats, unsealed_size, unstored_size, pressure: (pressure, pressure_max), .. } = snapshot;
    format!(
        "{} journal={}/{} records={} in_flight={} checkpoints={} unsealed={unsealed_size} unstored={unstored_size} \
         pressure={pressure}/{pressure_max}",
        counts(stats),
        stats.journal_used,
        stats.journal_capacity,
        stats.journal_records,
        stats.journal_writes,
        stats.checkpoints,
    )
}

/// `name=value` for each `STAT name value`.
fn settings_words(settings: &[u8]) -> String {
    let text = String::from_utf8_lossy(settings);
    let pairs = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Purpose, Rounds};
    use super::*;
    use crate::ids::ShardId;
    use std::time::Instant;

    fn totals(puts: u64, ready: u64) -> Totals {
        let counts = ShardStats { set_hits: puts, curr_items: ready, ..ShardStats::default() };
        Totals { stats: ShardStats { journal_records: puts, checkpoints: 1, ..counts } }
    }

    #[test]
    fn the_line_says_what_happened_since_the_last_one() {
        let line = stats_line(&totals(30, 7), &totals(10, 9), Duration::from_secs(4));
        assert!(line.starts_with("stats: seconds=4.0 puts=20 puts/s=5.0 gets=0 gets/s=0.0 hits=0"), "{line}");
        assert!(line.ends_with("ready=7 bytes=0 connections=0 records=20 checkpoints=0"), "{line}");
    }

    #[test]
    fn counts_that_were_reset_meanwhile_count_from_there() {
        let line = stats_line(&totals(3, 0), &totals(10, 0), Duration::from_secs(1));
        assert!(line.contains("puts=3 "), "{line}");
    }

    #[test]
    fn a_dump_lists_the_largest_queues_of_all_shards_only() {
        let mut rounds = Rounds::new(2);
        rounds.begin(Purpose::Dump, QUEUES_MAX, None);
        for shard in 0..2u16 {
            let queue = |n: u64| {
                let ready = n * 2 + u64::from(shard);
                QueueSummary { name: format!("q{ready}").into_bytes(), ready, puts: ready, gets: 0 }
            };
            let largest = (1..=20).rev().map(queue).collect();
            rounds.on_snapshot(ShardId(shard), 1, Box::new(Snapshot { largest, ..Snapshot::default() }));
        }
        rounds.on_store(1);
        let round = rounds.take_over(Instant::now()).unwrap();
        let lines = dump_lines(&round, &Host::default(), b"STAT a 1\r\nSTAT b x y\r\n");
        assert!(lines[1].ends_with("settings a=1 b=x y"), "{lines:?}");
        let queues: Vec<&String> = lines.iter().filter(|line| line.contains(" queue q")).collect();
        assert_eq!(queues.len(), QUEUES_MAX);
        assert!(queues[0].contains("q41 ready=41") && queues[19].contains("q22 "), "{queues:?}");
    }
}
