//! What `top` shows, as values: made of two looks at the server, sorted and filtered as the settings say.
//!
//! Invariant: nothing here speaks to the server or draws. A rate is what was counted between two looks, over the time between them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::client::QueueCounts;

use super::super::answer::Answer;
use super::super::output::shown;
use super::super::queues::Details;
use super::verdict::verdict;

/// Rates are not counted over less, s: a look that comes early shows those of the look before.
const SPAN_S_MIN: f64 = 0.2;

/// By what the queues are sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Order {
    Ready,
    In,
    Out,
    Oldest,
    Name,
}

/// What of the queues is to be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    pub(super) order: Order,
    /// The other way round.
    pub(super) reversed: bool,
    /// Part of a name, in any case; empty: all.
    pub(super) filter: String,
    /// The first row that is to be seen, and how many are.
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// What the server said, once.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) general: Answer,
    pub(super) latency: Answer,
    pub(super) commit: Answer,
    pub(super) queues: Vec<QueueCounts>,
}

/// One queue.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    pub(super) name: Vec<u8>,
    /// The name as it is shown.
    pub(super) label: String,
    /// Messages that a get can take; of a row that was never visible, puts less gets.
    pub(super) ready: u64,
    /// Messages that came and went a second.
    pub(super) put_rate: f64,
    pub(super) get_rate: f64,
    /// What only a question for this queue tells; of rows that were visible.
    pub(super) oldest_ms: Option<u64>,
    pub(super) waiters: Option<u64>,
}

/// p50 and p99 of the last ten seconds, µs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Latency {
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
}

impl Latency {
    fn of(answer: &Answer, what: &str) -> Latency {
        let figure = |name: &str| answer.number(&format!("{what}.10s.{name}"));
        Latency { p50_us: figure("p50"), p99_us: figure("p99") }
    }

    fn json(self) -> Value {
        json!({ "p50_us": self.p50_us, "p99_us": self.p99_us })
    }
}

/// The server at one time.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct View {
    pub(super) version: String,
    pub(super) uptime_s: u64,
    /// `None` until there were two looks.
    pub(super) put_rate: Option<f64>,
    pub(super) get_rate: Option<f64>,
    pub(super) ready: u64,
    pub(super) connections: u64,
    pub(super) connections_max: u64,
    /// Connections were refused since the look before.
    pub(super) rejects: bool,
    pub(super) is_accepting: bool,
    pub(super) waiters: u64,
    pub(super) corrupt: u64,
    pub(super) memory: u64,
    pub(super) memory_max: u64,
    pub(super) put: Latency,
    pub(super) get: Latency,
    pub(super) write: Latency,
    pub(super) commit: Latency,
    pub(super) checkpoints: u64,
    pub(super) journal_used: u64,
    pub(super) journal_capacity: u64,
    /// Bytes of changes that the database does not have yet.
    pub(super) unstored: u64,
    pub(super) rows: Vec<Row>,
}

impl View {
    pub(super) fn verdict(&self) -> String {
        verdict(self)
    }

    /// One object; of the queues, those that the settings say.
    pub(super) fn json(&self, server: &str, settings: &Settings) -> Value {
        let row = |row: &&Row| {
            json!({
                "queue": row.label, "ready": row.ready, "put_rate": row.put_rate, "get_rate": row.get_rate, "oldest_ms": row.oldest_ms,
                "waiters": row.waiters,
            })
        };
        let rows: Vec<Value> = visible(&arrange(&self.rows, settings), settings).iter().map(row).collect();
        json!({
            "server": server, "version": self.version, "uptime_s": self.uptime_s, "put_rate": self.put_rate, "get_rate": self.get_rate,
            "ready": self.ready, "queues": self.rows.len(), "connections": self.connections, "max_connections": self.connections_max,
            "waiters": self.waiters, "memory_bytes": self.memory, "memory_max_bytes": self.memory_max, "put": self.put.json(),
            "get": self.get.json(), "journal_write": self.write.json(), "commit": self.commit.json(), "checkpoints": self.checkpoints,
            "journal_used_bytes": self.journal_used, "journal_capacity_bytes": self.journal_capacity,
            "unstored_bytes": self.unstored, "corrupt": self.corrupt,
            "verdict": self.verdict(), "rows": rows,
        })
    }
}

/// All rows that pass the filter, in order.
pub(super) fn arrange<'a>(rows: &'a [Row], settings: &Settings) -> Vec<&'a Row> {
    let filter = settings.filter.to_lowercase();
    let mut rows: Vec<&Row> =
        rows.iter().filter(|row| filter.is_empty() || row.label.to_lowercase().contains(&filter)).collect();
    // Rows that are equal otherwise keep the order of their names, so that they do not jump.
    rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match settings.order {
        Order::Ready => rows.sort_by_key(|row| Reverse(row.ready)),
        Order::In => rows.sort_by(|a, b| b.put_rate.total_cmp(&a.put_rate)),
        Order::Out => rows.sort_by(|a, b| b.get_rate.total_cmp(&a.get_rate)),
        Order::Oldest => rows.sort_by_key(|row| Reverse(row.oldest_ms)),
        Order::Name => {}
    }
    if settings.reversed {
        rows.reverse();
    }
    rows
}

/// Those of the arranged rows that are to be seen.
pub(super) fn visible<'a>(arranged: &'a [&'a Row], settings: &Settings) -> &'a [&'a Row] {
    let first = settings.first.min(arranged.len().saturating_sub(settings.rows));
    let rest = &arranged[first..];
    &rest[..rest.len().min(settings.rows)]
}

/// What is known from earlier looks.
#[derive(Default)]
pub(super) struct History {
    base: Option<Base>,
    details: HashMap<Vec<u8>, Known>,
}

/// What rates are counted from.
struct Base {
    at: Instant,
    sets: u64,
    hits: u64,
    rejected: u64,
    queues: HashMap<Vec<u8>, (u64, u64)>,
}

/// What a question for a queue brought.
struct Known {
    /// Messages that went without a get.
    gone: u64,
    oldest_ms: Option<u64>,
    at: Instant,
    waiters: u64,
}

impl History {
    /// Another look; `before` is the view of the one before.
    pub(super) fn view(&mut self, sample: &Sample, before: Option<&View>) -> View {
        let Sample { at, general, latency, commit, queues } = sample;
        let (sets, hits, rejected) =
            (general.count("set_hits"), general.count("get_hits"), general.count("rejected_connections"));
        // After `stats reset` the counters are smaller; then the rates are known at the next look.
        let base = self.base.as_ref().filter(|base| base.sets <= sets && base.hits <= hits);
        let span_s = base.map(|base| at.duration_since(base.at).as_secs_f64());
        let is_early = span_s.is_some_and(|span_s| span_s < SPAN_S_MIN);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / span_s.unwrap_or(f64::INFINITY);
        let earlier: HashMap<&[u8], &Row> = match before {
            Some(before) if is_early => before.rows.iter().map(|row| (&*row.name, row)).collect(),
            _ => HashMap::new(),
        };
        let row = |queue: &QueueCounts| {
            let known = self.details.get(&queue.name);
            let (put_rate, get_rate) = match (earlier.get(&*queue.name), base) {
                (Some(row), _) => (row.put_rate, row.get_rate),
                (None, Some(base)) => {
                    // A queue that is new began empty; one that was deleted and made again, too.
                    let then = base.queues.get(&queue.name).copied().filter(|(puts, _)| *puts <= queue.puts);
                    let (puts, gets) = then.unwrap_or_default();
                    (rate(queue.puts, puts), rate(queue.gets, gets))
                }
                (None, None) => (0.0, 0.0),
            };
            let ready = queue.puts.saturating_sub(queue.gets).saturating_sub(known.map_or(0, |known| known.gone));
            let oldest_ms =
                known.and_then(|known| Some(known.oldest_ms? + at.duration_since(known.at).as_millis() as u64));
            Row {
                label: shown(&queue.name),
                name: queue.name.clone(),
                ready,
                put_rate,
                get_rate,
                oldest_ms: oldest_ms.filter(|_| ready > 0),
                waiters: known.map(|known| known.waiters),
            }
        };
        let rows = queues.iter().map(row).collect();
        let (put_rate, get_rate) = match before {
            Some(before) if is_early => (before.put_rate, before.get_rate),
            _ => (base.map(|base| rate(sets, base.sets)), base.map(|base| rate(hits, base.hits))),
        };
        let view = View {
            version: general.text("version").unwrap_or_default().into(),
            uptime_s: general.count("uptime"),
            put_rate,
            get_rate,
            ready: general.count("curr_items"),
            connections: general.count("curr_connections"),
            connections_max: general.count("max_connections"),
            rejects: base.is_some_and(|base| rejected > base.rejected),
            is_accepting: general.text("accepting_conns") != Some("0"),
            waiters: general.count("waiters"),
            corrupt: general.count("corrupt_items"),
            memory: general.count("memory_used"),
            memory_max: general.count("limit_maxbytes"),
            put: Latency::of(latency, "put"),
            get: Latency::of(latency, "get_hit"),
            write: Latency::of(commit, "journal_write"),
            commit: Latency::of(commit, "commit"),
            checkpoints: commit.count("checkpoints"),
            journal_used: commit.count("journal_used"),
            journal_capacity: commit.count("journal_capacity"),
            unstored: commit.count("unstored_bytes"),
            rows,
        };
        if !is_early {
            let queues: HashMap<_, _> =
                queues.iter().map(|queue| (queue.name.clone(), (queue.puts, queue.gets))).collect();
            self.details.retain(|name, _| queues.contains_key(name));
            self.base = Some(Base { at: *at, sets, hits, rejected, queues });
        }
        view
    }

    /// What was heard of some queues since the look.
    pub(super) fn add(&mut self, view: &mut View, heard: HashMap<Vec<u8>, Details>, now: Instant) {
        for row in &mut view.rows {
            let Some(details) = heard.get(&row.name) else { continue };
            row.ready = details.ready;
            row.oldest_ms = details.oldest_ms;
            row.waiters = Some(details.waiters);
            let Details { gone, oldest_ms, waiters, .. } = *details;
            self.details.insert(row.name.clone(), Known { gone, oldest_ms, at: now, waiters });
        }
    }

    /// Queues with messages that were not asked for since longest, at most so many.
    pub(super) fn stalest(&self, view: &View, len: usize) -> Vec<Vec<u8>> {
        let mut names: Vec<&Vec<u8>> = view.rows.iter().filter(|row| row.ready > 0).map(|row| &row.name).collect();
        names.sort_by_key(|name| self.details.get(*name).map(|known| known.at));
        names.into_iter().take(len).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Stat;
    use std::time::Duration;

    fn answer(lines: &[(&str, u64)]) -> Answer {
        let stat = |(name, value): &(&str, u64)| Stat { name: name.as_bytes().into(), value: value.to_string() };
        Answer(lines.iter().map(stat).collect())
    }

    fn sample(at: Instant, sets: u64, queues: &[(&str, u64, u64)]) -> Sample {
        let queue = |(name, puts, gets): &(&str, u64, u64)| QueueCounts {
            name: name.as_bytes().into(),
            puts: *puts,
            gets: *gets,
        };
        Sample {
            at,
            general: answer(&[("set_hits", sets)]),
            latency: Answer::default(),
            commit: Answer::default(),
            queues: queues.iter().map(queue).collect(),
        }
    }

    fn settings(order: Order) -> Settings {
        Settings { order, reversed: false, filter: String::new(), first: 0, rows: 10 }
    }

    fn names(rows: &[&Row]) -> String {
        rows.iter().map(|row| &*row.label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rates_are_counted_between_two_looks() {
        let (start, mut history) = (Instant::now(), History::default());
        let first = history.view(&sample(start, 100, &[("a", 10, 5)]), None);
        assert_eq!((first.put_rate, first.rows[0].put_rate, first.rows[0].ready), (None, 0.0, 5));
        let at = start + Duration::from_secs(2);
        let second = history.view(&sample(at, 150, &[("a", 20, 5), ("b", 6, 2)]), Some(&first));
        assert_eq!(second.put_rate, Some(25.0));
        let rates: Vec<(f64, f64)> = second.rows.iter().map(|row| (row.put_rate, row.get_rate)).collect();
        assert_eq!(rates, [(5.0, 0.0), (3.0, 1.0)]);
        let early =
            history.view(&sample(at + Duration::from_millis(50), 151, &[("a", 21, 5), ("b", 6, 2)]), Some(&second));
        assert_eq!((early.put_rate, early.rows[0].put_rate, early.rows[0].ready), (Some(25.0), 5.0, 16));
        let reset = history.view(&sample(at + Duration::from_secs(1), 1, &[("a", 1, 0)]), Some(&early));
        assert_eq!(reset.put_rate, None, "the counters began again");
    }

    #[test]
    fn what_went_without_a_get_is_known_of_rows_that_were_visible() {
        let (start, mut history) = (Instant::now(), History::default());
        let mut view = history.view(&sample(start, 0, &[("a", 10, 0), ("b", 9, 0)]), None);
        assert_eq!(names(&arrange(&view.rows, &settings(Order::Ready))), "a b");
        let details = Details { ready: 1, gone: 9, oldest_ms: Some(500), waiters: 2, ..Details::default() };
        history.add(&mut view, HashMap::from([(b"a".to_vec(), details)]), start);
        assert_eq!(names(&arrange(&view.rows, &settings(Order::Ready))), "b a");
        assert_eq!(history.stalest(&view, 1), [b"b".to_vec()]);
        let later = history.view(&sample(start + Duration::from_secs(1), 0, &[("a", 11, 0), ("b", 9, 0)]), Some(&view));
        let a = &later.rows[0];
        assert_eq!((a.ready, a.oldest_ms, a.waiters), (2, Some(1500), Some(2)));
    }

    #[test]
    fn rows_are_sorted_filtered_and_cut() {
        let row = |name: &str, ready, put_rate, oldest_ms| Row {
            name: name.into(),
            label: name.into(),
            ready,
            put_rate,
            get_rate: 0.0,
            oldest_ms,
            waiters: None,
        };
        let rows = [row("mail", 1, 2.0, None), row("Mail2", 3, 1.0, Some(9)), row("jobs", 1, 0.0, Some(10))];
        let by = |order| names(&arrange(&rows, &settings(order)));
        assert_eq!(by(Order::Ready), "Mail2 jobs mail");
        assert_eq!(by(Order::In), "mail Mail2 jobs");
        assert_eq!(by(Order::Out), "Mail2 jobs mail");
        assert_eq!(by(Order::Oldest), "jobs Mail2 mail");
        assert_eq!(by(Order::Name), "Mail2 jobs mail");
        let it = Settings { reversed: true, filter: "MAIL".into(), ..settings(Order::Ready) };
        assert_eq!(names(&arrange(&rows, &it)), "mail Mail2");
        let all = arrange(&rows, &settings(Order::Name));
        for (first, len, expected) in
            [(0, 2, "Mail2 jobs"), (1, 2, "jobs mail"), (9, 2, "jobs mail"), (5, 9, "Mail2 jobs mail")]
        {
            let it = Settings { first, rows: len, ..settings(Order::Name) };
            assert_eq!(names(visible(&all, &it)), expected);
        }
    }
}
