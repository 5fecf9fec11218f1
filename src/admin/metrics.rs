//! `/metrics`: the text format of Prometheus, or OpenMetrics for who asks for it.
//!
//! Invariant: the number of series is bounded. Queues beyond [`ADMIN_METRIC_QUEUES_MAX`] are summed up under a label that is no queue's
//! name; which have series of their own does not change while queues stay, so that no series comes and goes with its queue's traffic. Both
//! formats have the same series, label by label: a scraper that begins to ask for the other goes on with what it has.

use super::observer::{Queues, Seen};
use crate::engine::QueueView;
use crate::ids::ShardId;
use crate::latency::{Metric, Snapshot, Window};
use crate::limits::ADMIN_METRIC_QUEUES_MAX;
use crate::proto::reply::VERSION;
use crate::stats::ShardStats;
use crate::store::directory;
use hdrhistogram::Histogram;
use hyper::header::{self, HeaderMap};
use std::borrow::Cow;
use std::fmt::{Display, Write};

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Prometheus' own, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// OpenMetrics if the `Accept` headers name it and want nothing else more; otherwise, and without one, text.
    pub(super) fn asked_by(headers: &HeaderMap) -> Format {
        let (mut text, mut open_metrics) = (0.0, 0.0);
        let lines = headers.get_all(header::ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
        for range in lines.flat_map(|line| line.split(',')) {
            let mut words = range.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut weight) = (None, 1.0);
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                match &*name.trim().to_ascii_lowercase() {
                    "version" => version = Some(value.trim().trim_matches('"')),
                    "q" => weight = value.trim().parse::<f32>().unwrap_or(0.0),
                    _ => {}
                }
            }
            let best = match (&*kind, version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => &mut open_metrics,
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => &mut text,
                _ => continue,
            };
            *best = weight.max(*best);
        }
        if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
    }

    /// The content type.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The units that a name may end in.
const UNITS: [&str; 3] = ["bytes", "seconds", "ratio"];

/// The label of all queues without series of their own: no name has a space in it.
const OTHERS: &str = "(all others)";

/// Upper bounds of the buckets of what takes microseconds to seconds, µs.
const SHORT_US: [u64; 20] = [
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
/// Of what takes milliseconds to days, µs.
const LONG_US: [u64; 14] = [
    1000,
    10_000,
    100_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    4 * 3_600_000_000,
    24 * 3_600_000_000,
    3 * 86_400_000_000,
    7 * 86_400_000_000,
];

/// Labels, each with its value.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text being written, and how.
struct Text {
    out: String,
    format: Format,
}

impl Text {
    /// What is said of a metric before its samples, which have this name. OpenMetrics has some words in samples' names only.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        if self.format == Format::Text {
            let kind = if kind == "info" { "gauge" } else { kind };
            let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            return;
        }
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let family = name.strip_suffix(suffix).expect("names of counters end in _total, of information in _info");
        let _ = write!(self.out, "# HELP {family} {help}\n# TYPE {family} {kind}\n");
        let has_unit = |unit: &&str| family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
        if let Some(unit) = UNITS.into_iter().find(has_unit) {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.out.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(value));
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Cumulative buckets in seconds. What was not recorded is there as 0, so that rates can be counted from the first value on.
    fn histogram(&mut self, name: &str, label: Option<(&str, &str)>, bounds_us: &[u64], of: Option<&Histogram<u64>>) {
        let bucket = format!("{name}_bucket");
        let own: Vec<(&str, &str)> = label.into_iter().collect();
        let mut count = |bound: &str, count: u64| {
            self.sample(&bucket, &[&own[..], &[("le", bound)]].concat(), count);
        };
        for bound_us in bounds_us {
            count(&bound(*bound_us), of.map_or(0, |histogram| histogram.count_between(0, *bound_us)));
        }
        let len = of.map_or(0, Histogram::len);
        count("+Inf", len);
        let sum = of.map_or(0.0, |histogram| histogram.mean() * len as f64);
        self.sample(&format!("{name}_sum"), &own, seconds(sum));
        self.sample(&format!("{name}_count"), &own, len);
    }
}

fn seconds(us: f64) -> String {
    format!("{}", us / 1e6)
}

/// A bucket's bound in seconds, as OpenMetrics wants it: a float as Go writes it, with a point or an exponent of two digits.
fn bound(us: u64) -> String {
    format!("{:?}", us as f64 / 1e6).replace("e-", "e-0")
}

fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

/// All that is known; what is `None` is left out.
pub(super) fn text(format: Format, seen: &Seen, latencies: Option<&Snapshot>, queues: Option<&Queues>) -> String {
    let mut text = Text { out: String::with_capacity(64 << 10), format };
    process(&mut text, seen);
    traffic(&mut text, seen, &seen.totals());
    durability(&mut text, seen, &seen.totals());
    shards(&mut text, seen);
    if let Some(latencies) = latencies {
        durations(&mut text, latencies);
    }
    if let Some(queues) = queues {
        by_queue(&mut text, queues);
    }
    if format == Format::OpenMetrics {
        text.out.push_str("# EOF\n");
    }
    text.out
}

fn process(text: &mut Text, seen: &Seen) {
    let host = &seen.host;
    text.family("ringq_build_info", "info", "The version that runs.");
    text.sample("ringq_build_info", &[("version", VERSION)], 1);
    let started = seen.started_ms() as f64 / 1e3;
    text.one("process_start_time_seconds", "gauge", "When the process started, seconds since the epoch.", started);
    let cpu = seconds((host.user_us + host.system_us) as f64);
    text.one("process_cpu_seconds_total", "counter", "CPU time, in user mode and in the kernel.", cpu);
}

fn traffic(text: &mut Text, seen: &Seen, all: &ShardStats) {
    let udp = &seen.host.udp;
    let misses = all.get_cmds.saturating_sub(all.get_hits);
    let dropped = udp.dropped + all.udp_dropped;
    for (name, help, value) in [
        ("ringq_puts_total", "Messages stored.", all.set_hits),
        ("ringq_gets_total", "Messages taken.", all.get_hits),
        ("ringq_get_misses_total", "Gets that found no message.", misses),
        ("ringq_read_bytes_total", "Bytes received from clients.", all.bytes_read),
        ("ringq_written_bytes_total", "Bytes sent to clients.", all.bytes_written),
        ("ringq_corrupt_messages_total", "Messages that failed their checksum and were set aside.", all.corrupt),
        ("ringq_refused_puts_total", "Puts that a limit of their queue refused.", all.refused_puts),
        ("ringq_connections_accepted_total", "Connections accepted.", all.total_connections),
        ("ringq_connections_rejected_total", "Connections refused because of -c.", all.rejected_connections),
        ("ringq_connections_idle_closed_total", "Connections closed by --idle-timeout.", all.idle_kicks),
        ("ringq_accept_pauses_total", "Times that accepting paused for lack of files.", all.accept_pauses),
        ("ringq_udp_received_total", "Datagrams received.", udp.received),
        ("ringq_udp_dropped_total", "Datagrams thrown away.", dropped),
        ("ringq_udp_sent_total", "Datagrams sent.", udp.sent),
        ("ringq_udp_unsent_total", "Datagrams that the kernel did not send.", udp.unsent),
    ] {
        text.one(name, "counter", help, value);
    }
    let max = seen.running.shared.connections_max as u64;
    for (name, help, value) in [
        ("ringq_connections", "Open connections.", all.curr_connections),
        ("ringq_connections_max", "Connections there may be.", max),
        ("ringq_queues", "Queues.", all.queues),
        ("ringq_messages_ready", "Messages that a get can take.", all.curr_items),
        ("ringq_waiters", "Gets that wait for a message.", all.waiters),
        ("ringq_detached_reads", "Open reads that do not end with their connection.", all.detached_reads),
        ("ringq_detached_reads_max", "Such reads there may be.", seen.running.config.detached_reads_max as u64),
        ("ringq_unconfirmed", "Messages that are open, or were and are back in their queue.", all.unconfirmed),
        ("ringq_unconfirmed_max", "Such messages there may be.", seen.running.config.unconfirmed_max as u64),
        ("ringq_memory_used_bytes", "Memory for messages.", all.memory_used),
        ("ringq_memory_limit_bytes", "-m.", seen.running.config.memory as u64),
    ] {
        text.one(name, "gauge", help, value);
    }
}

fn durability(text: &mut Text, seen: &Seen, all: &ShardStats) {
    let config = &seen.running.config;
    for (name, help, value) in [
        ("ringq_journal_records_total", "Records written to the journals.", all.journal_records),
        ("ringq_journal_bytes_total", "Bytes written to the journals.", all.journal_bytes),
        ("ringq_mutations_total", "Changes that were journalled.", all.mutations),
        ("ringq_checkpoints_total", "Checkpoints begun.", all.checkpoints),
        ("ringq_store_loads_total", "Reads of messages from the store.", all.loads),
    ] {
        text.one(name, "counter", help, value);
    }
    let refuses = seen.shards.iter().any(|state| state.refuses_puts);
    let running = seen.shards.iter().any(|state| state.is_checkpointing);
    for (name, help, value) in [
        ("ringq_durable", "1: replies wait for the device; 0: -N.", u64::from(!config.no_sync)),
        ("ringq_puts_refused", "1 while puts are refused because free space is short.", u64::from(refuses)),
        ("ringq_checkpoint_running", "1 while a checkpoint is under way.", u64::from(running)),
        ("ringq_checkpoint_backlog_bytes", "Changes that the store does not have.", all.unstored_bytes),
        ("ringq_disk_min_free_bytes", "--min-free.", config.free_size_min),
    ] {
        text.one(name, "gauge", help, value);
    }
    if let Some(free) = directory::free_size(&config.home) {
        text.one("ringq_disk_free_bytes", "gauge", "Free space of the data directory's file system.", free);
    }
    let last = seen.shards.iter().flat_map(|state| &state.checkpoints).max_by_key(|ended| ended.end_ms);
    if let Some(last) = last {
        let (end, took) = (last.end_ms as f64 / 1e3, last.took_ms as f64 / 1e3);
        let help = "When the last checkpoint ended, seconds since the epoch.";
        text.one("ringq_checkpoint_end_timestamp_seconds", "gauge", help, end);
        text.one("ringq_checkpoint_duration_seconds", "gauge", "How long the last checkpoint took.", took);
    }
}

fn shards(text: &mut Text, seen: &Seen) {
    let count = seen.shards.len();
    let ids: Vec<String> = (0..count).map(|shard| shard.to_string()).collect();
    let is_up = |shard: usize| u64::from(seen.silent.iter().all(|silent| usize::from(silent.0) != shard));
    let stats = |shard: usize| &seen.shards[shard].stats;
    type Value<'a> = &'a dyn Fn(usize) -> f64;
    let families: [(&str, &str, Value<'_>); 8] = [
        ("ringq_shard_up", "1 if the shard answers; 0: its other numbers are old.", &|at| is_up(at) as f64),
        ("ringq_shard_connections", "Open connections.", &|at| stats(at).curr_connections as f64),
        ("ringq_shard_queues", "Queues.", &|at| stats(at).queues as f64),
        ("ringq_shard_messages_ready", "Messages, ready and in open reads.", &|at| stats(at).curr_items as f64),
        ("ringq_shard_journal_used_bytes", "Journal that holds what the store does not have.", &|at| {
            stats(at).journal_used as f64
        }),
        ("ringq_shard_journal_capacity_bytes", "Size of the journal.", &|at| stats(at).journal_capacity as f64),
        ("ringq_shard_journal_writes", "Journal writes under way.", &|at| stats(at).journal_writes as f64),
        ("ringq_shard_pressure_ratio", "What waits for the store, as a part of where puts wait.", &|at| {
            seen.shards[at].pressure_ratio()
        }),
    ];
    for (name, help, value) in families {
        text.family(name, "gauge", help);
        ids.iter().enumerate().for_each(|(at, id)| text.sample(name, &[("shard", id)], value(at)));
    }
}

fn durations(text: &mut Text, latencies: &Snapshot) {
    let is_long = |metric: &Metric| matches!(metric, Metric::GetWait | Metric::Open | Metric::Queued);
    let short = || Metric::ALL.into_iter().filter(|metric| !is_long(metric));
    let commands = "ringq_command_duration_seconds";
    text.family(commands, "histogram", "From a request's arrival to the hand-over of its reply to the kernel.");
    for metric in short().filter(|metric| metric.is_command()) {
        let of = latencies.of(metric, Window::Total);
        text.histogram(commands, Some(("command", metric.name())), &SHORT_US, of);
    }
    let stages = "ringq_stage_duration_seconds";
    text.family(stages, "histogram", "What requests and the server wait for: journal_write is the device's part.");
    for metric in short().filter(|metric| !metric.is_command()) {
        let of = latencies.of(metric, Window::Total);
        text.histogram(stages, Some(("stage", metric.name())), &SHORT_US, of);
    }
    for (name, help, metric) in [
        ("ringq_get_wait_seconds", "Gets that were willing to wait, with their wait.", Metric::GetWait),
        ("ringq_open_seconds", "Gets that open a message, with their wait.", Metric::Open),
        ("ringq_queued_seconds", "How long messages that were taken had been in their queue.", Metric::Queued),
    ] {
        text.family(name, "histogram", help);
        text.histogram(name, None, &LONG_US, latencies.of(metric, Window::Total));
    }
}

// --- queues ---

/// What is said of a queue, or of several.
#[derive(Clone, Copy, Default)]
struct Numbers {
    ready: u64,
    bytes: u64,
    puts: u64,
    gets: u64,
    oldest_ms: u64,
    waiters: u64,
    open: u64,
    moving: u64,
    expired: u64,
    discarded: u64,
    dead_lettered: u64,
    skipped: u64,
    refused_puts: u64,
}

impl Numbers {
    fn of(queue: &QueueView) -> Numbers {
        Numbers {
            ready: queue.ready,
            bytes: queue.bytes,
            puts: queue.counters.puts,
            gets: queue.counters.gets,
            oldest_ms: queue.oldest_ms.unwrap_or_default(),
            waiters: queue.waiters,
            open: queue.open,
            moving: queue.moving,
            expired: queue.counters.expired,
            discarded: queue.counters.discarded,
            dead_lettered: queue.counters.dead_lettered,
            skipped: queue.counters.skipped,
            refused_puts: queue.refused_puts,
        }
    }

    fn add(&mut self, other: &Numbers) {
        self.ready += other.ready;
        self.bytes += other.bytes;
        self.puts += other.puts;
        self.gets += other.gets;
        self.oldest_ms = self.oldest_ms.max(other.oldest_ms);
        self.waiters += other.waiters;
        self.open += other.open;
        self.moving += other.moving;
        self.expired += other.expired;
        self.discarded += other.discarded;
        self.dead_lettered += other.dead_lettered;
        self.skipped += other.skipped;
        self.refused_puts += other.refused_puts;
    }
}

fn by_queue(text: &mut Text, queues: &Queues) {
    let mut all: Vec<&(ShardId, QueueView)> = queues.iter().collect();
    all.sort_unstable_by_key(|(shard, queue)| (*shard, queue.queue));
    // A queue that is made later has a larger id than all of its shard, so it takes no other's place.
    let by_shard = all.chunk_by(|(a, _), (b, _)| a == b);
    let mut ranked: Vec<(usize, ShardId, &QueueView)> =
        by_shard.flat_map(|of| of.iter().enumerate().map(|(rank, (shard, queue))| (rank, *shard, queue))).collect();
    ranked.sort_unstable_by_key(|(rank, shard, _)| (*rank, *shard));
    let all: Vec<&QueueView> = ranked.into_iter().map(|(.., queue)| queue).collect();
    let (own, rest) = all.split_at(all.len().min(ADMIN_METRIC_QUEUES_MAX));
    let mut rows: Vec<(Cow<'_, str>, Numbers)> = own.iter().map(|queue| (label(queue), Numbers::of(queue))).collect();
    if !rest.is_empty() {
        let mut sum = Numbers::default();
        rest.iter().for_each(|queue| sum.add(&Numbers::of(queue)));
        rows.push((OTHERS.into(), sum));
    }
    let help = format!("Queues beyond {ADMIN_METRIC_QUEUES_MAX}, which have no series of their own.");
    text.one("ringq_queues_overflow", "gauge", &help, rest.len());
    type Value = fn(&Numbers) -> f64;
    let families: [(&str, &str, &str, Value); 13] = [
        ("ringq_queue_messages_ready", "gauge", "Messages that a get can take.", |it| it.ready as f64),
        ("ringq_queue_bytes", "gauge", "Bodies of messages that are ready, open or moving.", |it| it.bytes as f64),
        ("ringq_queue_puts_total", "counter", "Messages accepted since the queue was made.", |it| it.puts as f64),
        ("ringq_queue_gets_total", "counter", "Messages taken since the queue was made.", |it| it.gets as f64),
        (
            "ringq_queue_oldest_age_seconds",
            "gauge",
            "Age of the oldest message; 0: there is none, or it is not known yet.",
            |it| it.oldest_ms as f64 / 1e3,
        ),
        ("ringq_queue_waiters", "gauge", "Gets that wait for a message.", |it| it.waiters as f64),
        ("ringq_queue_messages_open", "gauge", "Messages in open reads.", |it| it.open as f64),
        ("ringq_queue_messages_moving", "gauge", "Messages on their way to another queue.", |it| it.moving as f64),
        ("ringq_queue_expired_total", "counter", "Messages whose time was over.", |it| it.expired as f64),
        (
            "ringq_queue_discarded_total",
            "counter",
            "Messages that made room for younger ones, or were delivered too often.",
            |it| it.discarded as f64,
        ),
        (
            "ringq_queue_dead_lettered_total",
            "counter",
            "Messages that were delivered too often and went to another queue.",
            |it| it.dead_lettered as f64,
        ),
        ("ringq_queue_skipped_total", "counter", "Messages that were for groups only.", |it| it.skipped as f64),
        ("ringq_queue_refused_puts_total", "counter", "Puts that limits refused since the server's start.", |it| {
            it.refused_puts as f64
        }),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        rows.iter().for_each(|(queue, it)| text.sample(name, &[("queue", queue)], value(it)));
    }
}

/// A queue's name. Two that are not UTF-8 could become the same, so their ids are added, after a space, which no name has.
fn label(queue: &QueueView) -> Cow<'_, str> {
    match std::str::from_utf8(&queue.name) {
        Ok(name) => name.into(),
        Err(_) => format!("{} #{}", String::from_utf8_lossy(&queue.name), queue.queue.0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text { out: String::new(), format: Format::Text };
        text.sample("m", &[("a", "x\\y\"z\n"), ("b", "")], 1);
        text.sample("m", &[], 0.5);
        assert_eq!(text.out, "m{a=\"x\\\\y\\\"z\\n\",b=\"\"} 1\nm 0.5\n");
    }

    #[test]
    fn openmetrics_is_for_who_names_it_and_wants_nothing_more() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                            text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let cases: [(&[&str], Format); 12] = [
            (&[prometheus_2], Format::OpenMetrics),
            (&[prometheus_3], Format::OpenMetrics),
            (&["text/plain;q=0.9", "Application/OpenMetrics-Text ; Version = \"1.0.0\""], Format::OpenMetrics),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&[], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Format::Text),
            (&["application/openmetrics-text;version=0.0.1"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;q=0.5, text/plain"], Format::Text),
            (&["application/openmetrics-text;q=high"], Format::Text),
            (&[",;=,"], Format::Text),
        ];
        for (lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT, line.parse().unwrap());
            }
            assert_eq!(Format::asked_by(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn openmetrics_names_families_without_what_only_samples_have() {
        let mut text = Text { out: String::new(), format: Format::OpenMetrics };
        text.one("a_bytes_total", "counter", "Help.", 1);
        text.one("b_info", "info", "Help.", 1);
        text.one("bytes", "gauge", "Help.", 1);
        let expected = "# HELP a_bytes Help.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 1\n\
                        # HELP b Help.\n# TYPE b info\nb_info 1\n# HELP bytes Help.\n# TYPE bytes gauge\nbytes 1\n";
        assert_eq!(text.out, expected);
    }

    #[test]
    fn bounds_are_floats_as_go_writes_them() {
        let bounds = [1, 25, 100, 1_000_000, 30_000_000, 604_800_000_000].map(bound);
        assert_eq!(bounds, ["1e-06", "2.5e-05", "0.0001", "1.0", "30.0", "604800.0"]);
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_the_count() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 1 << 40, 2).unwrap();
        for us in [1, 9, 11, 100, 1_000_000, 1 << 39] {
            histogram.record(us).unwrap();
        }
        let mut text = Text { out: String::new(), format: Format::Text };
        text.histogram("m", Some(("k", "v")), &SHORT_US, Some(&histogram));
        let counts: Vec<u64> = text
            .out
            .lines()
            .filter(|line| line.starts_with("m_bucket"))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(counts.len(), SHORT_US.len() + 1);
        assert!(counts.is_sorted(), "{counts:?}");
        assert_eq!((counts[0], counts[1], counts[3], counts[15], counts[20]), (2, 3, 4, 5, 6));
        assert!(text.out.contains("m_bucket{k=\"v\",le=\"1e-05\"} 2\n"), "{}", text.out);
        assert!(text.out.ends_with("m_count{k=\"v\"} 6\n"), "{}", text.out);
    }
}
