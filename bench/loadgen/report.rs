//! Report: the results of a run, as JSON and as a table for people.
//!
//! The field names of the JSON are the interface of `compare.py`; units are in the names.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::audit::Verdict;
use crate::options::{Options, Plan};
use crate::process::Sample;
use crate::tally::{Interval, OperationTally, Tally};

/// Share of its cores above which the load generator itself may have been what limited the rate.
const BUSY_SHARE: f64 = 0.95;

/// Shortest measurement in seconds over which a rate means something.
const ELAPSED_S_MIN: f64 = 0.2;

/// Everything a run found out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of the load generator.
    pub version: &'static str,
    /// The command line.
    pub command: Vec<String>,
    /// Start of the run, seconds since 1970.
    pub started_unix_s: u64,
    /// What the connections did.
    pub workload: &'static str,
    /// The server's wire protocol.
    pub protocol: &'static str,
    /// Whether the server was used as a cache.
    pub cache: bool,
    /// The server's address.
    pub target: String,
    /// Connections.
    pub connections: usize,
    /// Requests in flight per connection.
    pub pipeline: usize,
    /// Threads of the load generator.
    pub threads: usize,
    /// Queues.
    pub queues: u32,
    /// Message size in bytes, or the range.
    pub size: String,
    /// Requests due per second; none in a closed loop.
    pub rate: Option<f64>,
    /// Length of the warm-up.
    pub warmup_s: f64,
    /// Length of the measurement.
    pub elapsed_s: f64,
    /// Puts, where the workload has any.
    pub put: Option<OperationReport>,
    /// Gets that brought a message, where the workload has any.
    pub get: Option<OperationReport>,
    /// Gets that found nothing.
    pub misses: u64,
    /// Answers that were neither success nor *nothing there*, over the whole run.
    pub unexpected: BTreeMap<String, u64>,
    /// Open loop: how late requests were sent.
    pub lag: Option<Lag>,
    /// CPU time of the load generator.
    pub client: Usage,
    /// CPU time and memory of the server, if its process is known.
    pub server: Option<Usage>,
    /// Whether the load generator used all of its cores, so that the server may be faster than measured.
    pub client_limited: bool,
    /// What verification found.
    pub verdict: Option<Verdict>,
    /// The run second by second, warm-up included; the last one is partial.
    pub series: Vec<Second>,
}

/// Rate and latencies of one kind of operation.
#[derive(Debug, Serialize)]
pub struct OperationReport {
    /// Operations within the measurement.
    pub count: u64,
    /// Operations per second.
    pub per_second: f64,
    /// Message bytes per second.
    pub bytes_per_second: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
    /// Mean.
    pub mean_us: f64,
}

/// How late the requests of an open loop were sent, waiting for a free slot included.
#[derive(Debug, Serialize)]
pub struct Lag {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
    /// Requests that were due and never sent.
    pub never_sent: u64,
}

/// CPU time over the measurement, and memory.
#[derive(Debug, Serialize)]
pub struct Usage {
    /// Seconds of CPU time.
    pub cpu_s: f64,
    /// Cores kept busy on average.
    pub cores: f64,
    /// CPU time per operation answered in whatever way.
    pub us_per_operation: f64,
    /// RssAnon at the end of the run, where sampled.
    pub rss_anon_end_size: Option<u64>,
    /// Largest RssAnon of the samples taken each second.
    pub rss_anon_max_size: Option<u64>,
}

/// One second of the run.
#[derive(Debug, Serialize)]
pub struct Second {
    /// Its number since the start.
    pub second: usize,
    /// Puts accepted.
    pub puts: u64,
    /// Messages received.
    pub gets: u64,
    /// Gets that found nothing.
    pub misses: u64,
    /// 99th percentile of puts and gets together.
    pub p99_us: f64,
}

/// What the main thread measured around the run.
#[derive(Debug)]
pub struct Surroundings {
    /// Start of the run, seconds since 1970.
    pub started_unix_s: u64,
    /// The end of the run on its clock.
    pub end_ns: u64,
    /// Wall time between the two samples below, in seconds.
    pub span_s: f64,
    /// CPU time of this process over that span.
    pub client_cpu_s: f64,
    /// The server at the start and the end of that span.
    pub server: Option<(Sample, Sample)>,
    /// Largest RssAnon seen.
    pub rss_anon_max_size: u64,
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

impl OperationReport {
    fn new(tally: &OperationTally, elapsed_s: f64) -> Option<OperationReport> {
        let latency = &tally.latency;
        let quantile = |quantile| us(latency.value_at_quantile(quantile));
        (!latency.is_empty()).then(|| OperationReport {
            count: tally.completed,
            per_second: tally.completed as f64 / elapsed_s,
            bytes_per_second: tally.bytes as f64 / elapsed_s,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: us(latency.max()),
            mean_us: latency.mean() / 1000.0,
        })
    }
}

impl Report {
    /// Puts the pieces together. `intervals` are the seconds of the run.
    pub fn new(
        options: &Options,
        plan: &Plan,
        tally: &Tally,
        verdict: Option<Verdict>,
        around: &Surroundings,
        intervals: &[Interval],
    ) -> Report {
        let elapsed_s = tally.elapsed_ns(around.end_ns) as f64 / 1e9;
        let client = Usage::new(around.client_cpu_s, around.span_s, tally.answered);
        let server = around.server.map(|(before, after)| Usage {
            rss_anon_end_size: Some(after.rss_anon_size),
            rss_anon_max_size: Some(around.rss_anon_max_size.max(after.rss_anon_size)),
            ..Usage::new(after.cpu_s - before.cpu_s, around.span_s, tally.answered)
        });
        Report {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args().collect(),
            started_unix_s: around.started_unix_s,
            workload: plan.workload.name(),
            protocol: plan.protocol.name(),
            cache: plan.cache,
            target: options.target.clone(),
            connections: plan.connections,
            pipeline: plan.depth,
            threads: plan.threads,
            queues: plan.queues,
            size: plan.sizes.to_string(),
            rate: options.rate,
            warmup_s: options.warmup,
            elapsed_s,
            put: OperationReport::new(&tally.put, elapsed_s),
            get: OperationReport::new(&tally.get, elapsed_s),
            misses: tally.misses,
            unexpected: tally.unexpected.clone(),
            lag: options.rate.map(|_| Lag {
                p50_us: us(tally.lag.value_at_quantile(0.5)),
                p99_us: us(tally.lag.value_at_quantile(0.99)),
                max_us: us(tally.lag.max()),
                never_sent: tally.overdue,
            }),
            client_limited: client.cores > BUSY_SHARE * plan.threads as f64,
            client,
            server,
            verdict,
            series: intervals.iter().enumerate().map(|(second, interval)| Second::new(second, interval)).collect(),
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = self.heading();
        self.table_operations(&mut text);
        if self.misses > 0 {
            let _ = writeln!(text, "{} gets found nothing", grouped(self.misses));
        }
        for (kind, count) in &self.unexpected {
            let _ = writeln!(text, "unexpected answer, {} times: {kind}", grouped(*count));
        }
        if let Some(lag) = &self.lag {
            let _ = writeln!(
                text,
                "requests were sent late by p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs; {} were due and never sent",
                lag.p50_us,
                lag.p99_us,
                lag.max_us,
                grouped(lag.never_sent)
            );
        }
        self.table_usage(&mut text);
        if self.elapsed_s < ELAPSED_S_MIN {
            let _ = writeln!(
                text,
                "note: the measurement lasted {:.3} s only; rates over so short a time mean little",
                self.elapsed_s
            );
        }
        if let Some(verdict) = &self.verdict {
            table_verdict(&mut text, verdict);
        }
        text
    }

    fn heading(&self) -> String {
        let gets = if self.cache { " (cache)" } else { "" };
        let pace = self.rate.map_or("closed loop".to_string(), |rate| format!("{rate} requests/s"));
        format!(
            "{} {}{gets} at {}: {} connections x {} in flight, {pace}, {} B, {} queue(s), {:.2} s\n",
            self.protocol,
            self.workload,
            self.target,
            self.connections,
            self.pipeline,
            self.size,
            self.queues,
            self.elapsed_s
        )
    }

    fn table_operations(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "{:<5}{:>14}{:>12}{:>9}{:>11}{:>10}{:>10}{:>10}{:>11}",
            "", "messages", "per s", "MB/s", "p50 µs", "p90", "p99", "p99.9", "max"
        );
        for (name, operation) in [("put", &self.put), ("get", &self.get)] {
            let Some(operation) = operation else { continue };
            let _ = writeln!(
                text,
                "{name:<5}{:>14}{:>12}{:>9.1}{:>11.1}{:>10.1}{:>10.1}{:>10.1}{:>11.1}",
                grouped(operation.count),
                grouped(operation.per_second as u64),
                operation.bytes_per_second / 1e6,
                operation.p50_us,
                operation.p90_us,
                operation.p99_us,
                operation.p999_us,
                operation.max_us
            );
        }
        if self.put.is_none() && self.get.is_none() {
            let _ = writeln!(text, "no message was put or received in the measurement");
        }
    }

    fn table_usage(&self, text: &mut String) {
        let usage = |usage: &Usage| format!("{:.2} cores, {:.2} µs per operation", usage.cores, usage.us_per_operation);
        let _ = writeln!(text, "client CPU: {}", usage(&self.client));
        if let Some(server) = &self.server {
            let mb = |size: Option<u64>| size.unwrap_or(0) as f64 / 1e6;
            let _ = writeln!(
                text,
                "server CPU: {}; RssAnon {:.1} MB at the end, {:.1} MB at most",
                usage(server),
                mb(server.rss_anon_end_size),
                mb(server.rss_anon_max_size)
            );
        }
        if self.client_limited {
            let _ =
                writeln!(text, "note: the load generator used all of its cores; the server may be faster than this");
        }
    }
}

impl Usage {
    fn new(cpu_s: f64, span_s: f64, operations: u64) -> Usage {
        Usage {
            cpu_s,
            cores: cpu_s / span_s,
            us_per_operation: cpu_s * 1e6 / operations.max(1) as f64,
            rss_anon_end_size: None,
            rss_anon_max_size: None,
        }
    }
}

impl Second {
    /// What the progress line and the series say of one second.
    pub fn new(second: usize, interval: &Interval) -> Second {
        Second {
            second,
            puts: interval.puts,
            gets: interval.gets,
            misses: interval.misses,
            p99_us: us(interval.latency.value_at_quantile(0.99)),
        }
    }

    /// The progress line.
    pub fn line(&self) -> String {
        format!(
            "{:>4} s  put {:>11}/s  get {:>11}/s  empty {:>11}/s  p99 {:>9.1} µs",
            self.second + 1,
            grouped(self.puts),
            grouped(self.gets),
            grouped(self.misses),
            self.p99_us
        )
    }
}

fn table_verdict(text: &mut String, verdict: &Verdict) {
    if verdict.sent > 0 {
        let _ = write!(text, "verified: {} sent, {} refused, ", grouped(verdict.sent), grouped(verdict.refused));
    } else {
        text.push_str("verified: ");
    }
    let _ = writeln!(
        text,
        "{} received; {} lost, {} doubled, {} out of order, {} damaged, {} from another queue",
        grouped(verdict.arrived),
        grouped(verdict.lost),
        grouped(verdict.doubled),
        grouped(verdict.reordered),
        grouped(verdict.damaged),
        grouped(verdict.misrouted)
    );
    if verdict.from_other_runs > 0 {
        let _ = writeln!(text, "{} messages were left by another run", grouped(verdict.from_other_runs));
    }
    for example in &verdict.examples {
        let _ = writeln!(text, "  {example}");
    }
    let _ = writeln!(text, "verdict: {}", if verdict.sound { "sound" } else { "VIOLATED" });
}

/// A number with thin groups of three digits: 1234567 is `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Operation, Progress};
    use clap::Parser;
    use std::sync::Arc;

    fn report(unexpected: Option<&[u8]>) -> Report {
        let options = Options::try_parse_from(["ringq-bench", "fill", "-d", "2", "-c", "1"]).unwrap();
        let plan = Plan::new(&options, 1).unwrap();
        let mut tally = Tally::new(&plan, Arc::new(Progress::default()));
        for number in 1..=1000u64 {
            tally.on_success(Operation::Put, 100, 0, number * 1000);
        }
        if let Some(words) = unexpected {
            tally.on_unexpected(words, 1);
        }
        tally.reached_deadline = true;
        let around = Surroundings {
            started_unix_s: 0,
            end_ns: 2_000_000_000,
            span_s: 2.0,
            client_cpu_s: 1.0,
            server: None,
            rss_anon_max_size: 0,
        };
        Report::new(&options, &plan, &tally, None, &around, &[])
    }

    #[test]
    fn rates_and_percentiles_come_from_the_tally() {
        let report = report(None);
        let put = report.put.as_ref().unwrap();
        assert_eq!((put.count, put.per_second, put.bytes_per_second), (1000, 500.0, 50_000.0));
        assert!(
            (put.p50_us - 500.0).abs() < 1.0 && (put.p99_us - 990.0).abs() < 1.0 && put.max_us >= 1000.0,
            "{put:?}"
        );
        assert_eq!(report.client.us_per_operation, 1000.0);
        assert!(report.get.is_none() && !report.client_limited);
    }

    #[test]
    fn unexpected_answers_are_in_the_table() {
        assert!(!report(None).table().contains("unexpected"));
        assert!(report(Some(b"NOT_STORED")).table().contains("unexpected answer, 1 times: NOT_STORED"));
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        let texts: Vec<String> = [0, 999, 1000, 1234567].into_iter().map(grouped).collect();
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
