//! The JSON of the HTTP API, version 1. docs/ADMIN.md has its fields.
//!
//! Invariant: fields are only ever added. A queue's id is a string, since a number of 64 bits would not survive JavaScript.

use super::observer::{Queues, Seen};
use crate::engine::QueueView;
use crate::ids::ShardId;
use crate::latency::{Metric, QUANTILES, Snapshot, Window};
use crate::proto::reply::VERSION;
use crate::shard::{CHECKPOINTS_KEPT, Ended};
use crate::store::directory;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Queues in an answer unless it is said how many, and at most.
const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = 1000;

/// `/api/v1/overview`
pub(super) fn overview(seen: &Seen, has_token: bool) -> Value {
    let all = seen.totals();
    let config = &seen.running.config;
    let states = || seen.shards.iter();
    let mut ended: Vec<Ended> = states().flat_map(|state| state.checkpoints.iter().copied()).collect();
    ended.sort_by_key(|ended| std::cmp::Reverse(ended.end_ms));
    ended.truncate(CHECKPOINTS_KEPT);
    let recent: Vec<Value> =
        ended.iter().map(|ended| json!({ "end_ms": ended.end_ms, "took_ms": ended.took_ms })).collect();
    json!({
        "version": VERSION,
        "pid": seen.host.pid,
        "uptime_s": seen.host.uptime_s,
        "time_ms": seen.time_ms,
        "started_ms": seen.started_ms(),
        "durable": !config.no_sync,
        "shards": seen.shards.len(),
        "actions": has_token,
        "connections": {
            "current": all.curr_connections,
            "max": seen.running.shared.connections_max,
            "total": all.total_connections,
            "rejected": all.rejected_connections,
        },
        "queues": all.queues,
        "ready": all.curr_items,
        "memory": { "used": all.memory_used, "limit": config.memory },
        "waiters": all.waiters,
        "totals": {
            "puts": all.set_hits,
            "gets": all.get_hits,
            "get_misses": all.get_cmds.saturating_sub(all.get_hits),
            "bytes_read": all.bytes_read,
            "bytes_written": all.bytes_written,
            "corrupt": all.corrupt,
            "refused_puts": all.refused_puts,
        },
        "journal": {
            "records": all.journal_records,
            "bytes": all.journal_bytes,
            "mutations": all.mutations,
            "used": all.journal_used,
            "capacity": all.journal_capacity,
            "refuses_puts": states().any(|state| state.refuses_puts),
        },
        "checkpoints": {
            "count": all.checkpoints,
            "running": states().any(|state| state.is_checkpointing),
            "last_end_ms": ended.first().map(|ended| ended.end_ms),
            "last_took_ms": ended.first().map(|ended| ended.took_ms),
            "backlog": all.unstored_bytes,
            "recent": recent,
        },
        "disk": { "free": directory::free_size(&config.home), "min_free": config.free_size_min },
    })
}

/// `/api/v1/shards`
pub(super) fn shards(seen: &Seen) -> Value {
    let shards = seen.shards.iter().enumerate().map(|(shard, state)| {
        let it = &state.stats;
        json!({
            "shard": shard,
            "connections": it.curr_connections,
            "queues": it.queues,
            "ready": it.curr_items,
            "memory_used": it.memory_used,
            "journal": {
                "used": it.journal_used,
                "capacity": it.journal_capacity,
                "records": it.journal_records,
                "bytes": it.journal_bytes,
                "mutations": it.mutations,
                "under_way": it.journal_writes,
            },
            "pressure": state.pressure_ratio(),
            "waiters": it.waiters,
        })
    });
    json!({ "shards": shards.collect::<Vec<_>>() })
}

/// `/api/v1/settings`, of the lines of `stats settings`.
pub(super) fn settings(lines: &[u8]) -> Value {
    let text = String::from_utf8_lossy(lines);
    let pairs = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    let settings: Map<String, Value> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    json!({ "settings": settings })
}

/// `/api/v1/latency`
pub(super) fn latencies(snapshot: &Snapshot) -> Value {
    let empty = Histogram::<u64>::new(2).expect("two digits are allowed");
    let metrics = Metric::ALL.into_iter().map(|metric| {
        let windows: Map<String, Value> = Window::ALL
            .into_iter()
            .map(|window| (window.name().into(), numbers(snapshot.of(metric, window).unwrap_or(&empty))))
            .collect();
        let kind = if metric.is_command() { "command" } else { "stage" };
        json!({ "name": metric.name(), "kind": kind, "windows": windows })
    });
    json!({ "unit": "us", "metrics": metrics.collect::<Vec<_>>() })
}

fn numbers(histogram: &Histogram<u64>) -> Value {
    let mut numbers = Map::new();
    numbers.insert("count".into(), histogram.len().into());
    numbers.insert("mean".into(), histogram.mean().into());
    for (name, share) in QUANTILES {
        numbers.insert(name.into(), histogram.value_at_quantile(share).into());
    }
    numbers.insert("max".into(), histogram.max().into());
    Value::Object(numbers)
}

// --- queues ---

/// What queues are sorted by; ties by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Name,
    Ready,
    PutRate,
    GetRate,
    Oldest,
    Growth,
    Bytes,
    Waiters,
}

const COLUMNS: [(&str, Column); 8] = [
    ("name", Column::Name),
    ("ready", Column::Ready),
    ("put_rate", Column::PutRate),
    ("get_rate", Column::GetRate),
    ("oldest", Column::Oldest),
    ("growth", Column::Growth),
    ("bytes", Column::Bytes),
    ("waiters", Column::Waiters),
];

/// The query of `/api/v1/queues`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ListQuery {
    /// Part of a name.
    filter: String,
    sort: Column,
    descends: bool,
    limit: usize,
}

impl ListQuery {
    /// Reads it; parameters that are not known are ignored.
    ///
    /// # Errors
    /// The parameter whose value cannot be, and what may stand there.
    pub(super) fn parse(query: &str) -> Result<ListQuery, String> {
        let mut parsed = ListQuery { filter: String::new(), sort: Column::Name, descends: false, limit: LIMIT_DEFAULT };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "filter" => parsed.filter = value.into_owned(),
                "sort" => {
                    let column = COLUMNS.into_iter().find(|(name, _)| *name == value);
                    parsed.sort = column
                        .map(|(_, column)| column)
                        .ok_or_else(|| format!("sort: allowed are {}", COLUMNS.map(|(name, _)| name).join(", ")))?;
                }
                "order" => {
                    parsed.descends = match &*value {
                        "asc" => false,
                        "desc" => true,
                        _ => return Err("order: allowed are asc and desc".into()),
                    }
                }
                "limit" => {
                    let limit: u64 = value.parse().map_err(|_| "limit: a number".to_owned())?;
                    parsed.limit = limit.min(LIMIT_MAX as u64) as usize;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    name: Cow<'a, str>,
    shard: u16,
    ready: u64,
    open: u64,
    moving: u64,
    bytes: u64,
    puts: u64,
    gets: u64,
    put_rate: f64,
    get_rate: f64,
    oldest_ms: Option<u64>,
    waiters: u64,
    deleted: u64,
    expired: u64,
    discarded: u64,
    dead_lettered: u64,
    skipped: u64,
    corrupt: u64,
    refused_puts: u64,
    settings: Map<String, Value>,
}

#[derive(Serialize)]
pub(super) struct List<'a> {
    total: usize,
    matched: usize,
    queues: Vec<Row<'a>>,
}

/// `/api/v1/queues`
pub(super) fn queues<'a>(queues: &'a Queues, query: &ListQuery) -> List<'a> {
    let matches = |(_, queue): &&(ShardId, QueueView)| {
        query.filter.is_empty() || String::from_utf8_lossy(&queue.name).contains(&query.filter)
    };
    let mut found: Vec<&(ShardId, QueueView)> = queues.iter().filter(matches).collect();
    let matched = found.len();
    let order = |a: &&(ShardId, QueueView), b: &&(ShardId, QueueView)| {
        let by_column = compare(query.sort, &a.1, &b.1);
        let by_column = if query.descends { by_column.reverse() } else { by_column };
        by_column.then_with(|| a.1.name.cmp(&b.1.name))
    };
    // Only what is shown is sorted.
    if query.limit < found.len() {
        found.select_nth_unstable_by(query.limit, order);
        found.truncate(query.limit);
    }
    found.sort_unstable_by(order);
    List { total: queues.len(), matched, queues: found.into_iter().map(|(shard, queue)| row(*shard, queue)).collect() }
}

/// What is not known is less than anything.
fn compare(column: Column, a: &QueueView, b: &QueueView) -> Ordering {
    match column {
        Column::Name => a.name.cmp(&b.name),
        Column::Ready => a.ready.cmp(&b.ready),
        Column::PutRate => a.put_rate.total_cmp(&b.put_rate),
        Column::GetRate => a.get_rate.total_cmp(&b.get_rate),
        Column::Oldest => a.oldest_ms.cmp(&b.oldest_ms),
        Column::Growth => (a.put_rate - a.get_rate).total_cmp(&(b.put_rate - b.get_rate)),
        Column::Bytes => a.bytes.cmp(&b.bytes),
        Column::Waiters => a.waiters.cmp(&b.waiters),
    }
}

fn row(shard: ShardId, queue: &QueueView) -> Row<'_> {
    Row {
        id: queue.queue.0.to_string(),
        name: String::from_utf8_lossy(&queue.name),
        shard: shard.0,
        ready: queue.ready,
        open: queue.open,
        moving: queue.moving,
        bytes: queue.bytes,
        puts: queue.counters.puts,
        gets: queue.counters.gets,
        put_rate: queue.put_rate,
        get_rate: queue.get_rate,
        oldest_ms: queue.oldest_ms,
        waiters: queue.waiters,
        deleted: queue.counters.deleted,
        expired: queue.counters.expired,
        discarded: queue.counters.discarded,
        dead_lettered: queue.counters.dead_lettered,
        skipped: queue.counters.skipped,
        corrupt: queue.counters.corrupt,
        refused_puts: queue.refused_puts,
        settings: set(queue),
    }
}

/// The settings of a queue that are not those of a queue without any, as `config` shows them.
fn set(queue: &QueueView) -> Map<String, Value> {
    let settings = queue.settings.iter().flat_map(|settings| settings.shown_if_set());
    settings.map(|(key, text)| (key.into(), String::from_utf8_lossy(&text).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QueueId;
    use crate::queue::Counters;

    fn view(id: u64, name: &[u8], ready: u64, oldest_ms: Option<u64>) -> (ShardId, QueueView) {
        let queue = QueueView {
            queue: QueueId(id),
            name: name.into(),
            counters: Counters { puts: ready, ..Counters::default() },
            ready,
            open: 0,
            moving: 0,
            bytes: 100 - ready,
            put_rate: 0.0,
            get_rate: ready as f64,
            oldest_ms,
            waiters: 0,
            refused_puts: 0,
            settings: None,
        };
        (ShardId(0), queue)
    }

    fn names<'a>(list: &'a List<'_>) -> Vec<&'a str> {
        list.queues.iter().map(|row| &*row.name).collect()
    }

    #[test]
    fn queues_are_filtered_sorted_with_ties_by_name_and_cut() {
        let all: Queues = vec![
            view(1, b"c", 1, None),
            view(2, b"a", 2, Some(5)),
            view(3, b"d", 2, Some(9)),
            view(4, b"b", 1, None),
            view(u64::MAX, b"x\xff", 0, None),
        ];
        let list = |query: &str| queues(&all, &ListQuery::parse(query).unwrap());
        assert_eq!(names(&list("")), ["a", "b", "c", "d", "x\u{fffd}"]);
        assert_eq!(names(&list("sort=ready&order=desc")), ["a", "d", "b", "c", "x\u{fffd}"]);
        assert_eq!(names(&list("sort=ready&order=desc&limit=3")), ["a", "d", "b"]);
        assert_eq!(names(&list("sort=oldest&order=desc&limit=1")), ["d"]);
        assert_eq!(names(&list("sort=growth&limit=2")), ["a", "d"]);
        assert_eq!(names(&list("sort=bytes&order=desc&limit=2")), ["x\u{fffd}", "b"]);
        let found = list("filter=%EF%BF%BD");
        assert_eq!((found.total, found.matched, names(&found)), (5, 1, vec!["x\u{fffd}"]));
        assert_eq!(found.queues[0].id, u64::MAX.to_string());
        assert!(names(&list("filter=A")).is_empty(), "case matters");
        assert_eq!(list("limit=0").queues.len(), 0);
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        for (query, name) in
            [("sort=colour", "sort"), ("order=up", "order"), ("limit=x", "limit"), ("limit=-1", "limit")]
        {
            assert!(ListQuery::parse(query).unwrap_err().starts_with(name), "{query}");
        }
        assert_eq!(ListQuery::parse("limit=18446744073709551615&other=1").unwrap().limit, LIMIT_MAX);
    }
}
