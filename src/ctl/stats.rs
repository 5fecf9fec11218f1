//! `ringqctl stats`: what the server says of itself, as tables for people or as JSON.
//!
//! Invariant: JSON has every line of the answer with the number as the server sent it; tables may round, and say in which unit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::client::Stat;

use super::Context;
use super::answer::{Answer, value};
use super::exit::{BAD_USAGE, Failure, Outcome};
use super::output::{line, numbers, print, row, shown, table};
use super::queues;
use super::units::{bytes, count, micros, millis, rate, seconds};

/// What the server counts: in general, or of its latencies, queues, connections, shards.
#[derive(Args, Debug)]
pub(super) struct Stats {
    /// What about.
    #[arg(value_enum, default_value_t = What::General)]
    what: What,
    /// With `queue`: of this queue alone.
    queue: Option<OsString>,
}

/// What to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum What {
    /// The server's counters
    General,
    /// How long requests and their stages took
    Latency,
    /// How puts and gets became durable
    Commit,
    /// Puts and gets of every queue, or more of one
    Queue,
    /// The settings in force
    Settings,
    /// Every connection
    Conns,
    /// Some counters for each shard
    Shards,
    /// Puts by the size of their bodies
    Sizes,
    /// Let the server's counters start again from 0
    Reset,
    /// Forget the latencies so far
    LatencyReset,
}

impl Stats {
    pub(super) fn new(what: What) -> Stats {
        Stats { what, queue: None }
    }

    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let mut client = match &self.queue {
            Some(_) if self.what != What::Queue => {
                return Err(Failure::new(BAD_USAGE, "only `stats queue` takes the name of a queue"));
            }
            _ => context.connect()?,
        };
        let mut ask = |what: &str| Ok::<_, Failure>(Answer(client.stats_of(what)?));
        let text = match self.what {
            What::General => listed(&ask("")?, context.json),
            What::Settings => listed(&ask("settings")?, context.json),
            What::Latency if context.json => line(&ask("latency")?.nested()),
            What::Latency => latencies(&ask("latency")?),
            What::Commit if context.json => line(&ask("commit")?.nested()),
            What::Commit => commit(&ask("commit")?),
            What::Conns => connections(&ask("conns")?, context.json),
            What::Shards if context.json => line(&ask("shards")?.nested()),
            What::Shards => shards(&ask("shards")?),
            What::Sizes if context.json => line(&ask("sizes")?.flat()),
            What::Sizes => sizes(&ask("sizes")?),
            What::Reset | What::LatencyReset => {
                client.reset(if self.what == What::Reset { "reset" } else { "latency reset" })?;
                if context.json { line(&json!({ "reset": true })) } else { String::new() }
            }
            What::Queue => match &self.queue {
                None => queues::listed(client.queues()?, context.json),
                Some(name) => {
                    let Some(details) = queues::details(&mut client, name.as_bytes())? else {
                        return Ok(queues::no_such(name.as_bytes()));
                    };
                    queue(&shown(name.as_bytes()), &details, context.json)
                }
            },
        };
        print(text)
    }
}

/// A line for each, with what it is in larger units.
fn listed(answer: &Answer, json: bool) -> String {
    if json {
        return line(&answer.flat());
    }
    let rows = answer.0.iter().map(|Stat { name, value }| {
        let name = shown(name);
        let meaning = meaning(&name, value).unwrap_or_default();
        [name, value.clone(), meaning]
    });
    table(rows.collect())
}

/// A large number in units that can be read.
fn meaning(name: &str, value: &str) -> Option<String> {
    const BYTES: [&str; 12] = [
        "bytes",
        "bytes_read",
        "bytes_written",
        "limit_maxbytes",
        "maxbytes",
        "item_size_max",
        "journal_used",
        "journal_capacity",
        "unstored_bytes",
        "journal_size",
        "memory_used",
        "udp_reply_max",
    ];
    let number: u64 = value.parse().ok()?;
    match name {
        "uptime" if number >= 60 => Some(seconds(number)),
        "oldest_ms" => Some(millis(number)),
        _ if BYTES.contains(&name) && number >= 1024 => Some(bytes(number)),
        _ => None,
    }
}

fn queue(name: &str, answer: &Answer, json: bool) -> String {
    if !json {
        return listed(answer, false);
    }
    let mut object = Map::new();
    object.insert("queue".into(), name.into());
    if let Value::Object(fields) = answer.flat() {
        object.extend(fields);
    }
    line(&Value::Object(object))
}

/// Lines `<what>.<span>.<figure>`, a row for each what and span.
fn latencies(answer: &Answer) -> String {
    const FIGURES: [&str; 6] = ["mean", "p50", "p90", "p99", "p999", "max"];
    let mut rows = vec![row(["WHAT", "SPAN", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"])];
    for stat in &answer.0 {
        let name = shown(&stat.name);
        // Each group of lines begins with its count.
        let Some(group) = name.strip_suffix(".count") else { continue };
        let Some((what, span)) = group.split_once('.') else { continue };
        let mut cells = row([what, span, &stat.value.parse().map_or_else(|_| stat.value.clone(), count)]);
        cells.extend(FIGURES.map(|figure| answer.number(&format!("{group}.{figure}")).map_or("-".into(), micros)));
        rows.push(cells);
    }
    numbers(&rows, 2)
}

/// Counts, and the latencies that belong to them.
fn commit(answer: &Answer) -> String {
    let is_count = |stat: &&Stat| !stat.name.contains(&b'.');
    let counts = Answer(answer.0.iter().filter(is_count).cloned().collect());
    listed(&counts, false) + "\n" + &latencies(answer)
}

/// `state=idle,input=0,…` of each connection.
fn connections(answer: &Answer, json: bool) -> String {
    let fields = |text: &str| -> BTreeMap<String, String> {
        text.split(',')
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    };
    if json {
        let object = |stat: &Stat| {
            let fields = fields(&stat.value).into_iter().map(|(name, text)| (name, value(&text)));
            (shown(&stat.name), Value::Object(fields.collect()))
        };
        return line(&Value::Object(answer.0.iter().map(object).collect()));
    }
    let mut rows = vec![row(["CONNECTION", "STATE", "INPUT", "REPLIES", "SENT"])];
    for stat in &answer.0 {
        let fields = fields(&stat.value);
        let field = |name: &str| fields.get(name).map_or("-", |value| value);
        let size = |name: &str| field(name).parse().map_or("-".into(), bytes);
        rows.push(row([&shown(&stat.name), field("state"), &size("input"), &size("replies"), &size("sent")]));
    }
    numbers(&rows, 2)
}

/// Lines `<shard>.<name>`: a row for each name, a column for each shard.
fn shards(answer: &Answer) -> String {
    let mut shards: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut values: BTreeMap<(String, String), String> = BTreeMap::new();
    for stat in &answer.0 {
        let name = shown(&stat.name);
        let Some((shard, name)) = name.split_once('.') else { continue };
        for (known, new) in [(&mut shards, shard), (&mut names, name)] {
            if !known.iter().any(|it| it == new) {
                known.push(new.into());
            }
        }
        let text = match stat.value.parse() {
            Ok(number) if meaning(name, &stat.value).is_some() => bytes(number),
            Ok(number) => count(number),
            Err(_) => stat.value.clone(),
        };
        values.insert((name.into(), shard.into()), text);
    }
    let mut rows = vec![vec!["SHARD".to_owned()]];
    rows[0].extend(shards.iter().cloned());
    for name in names {
        let mut cells = vec![name.clone()];
        cells
            .extend(shards.iter().map(|shard| values.get(&(name.clone(), shard.clone())).cloned().unwrap_or_default()));
        rows.push(cells);
    }
    numbers(&rows, 1)
}

/// Lines `<bytes> <count>`.
fn sizes(answer: &Answer) -> String {
    let counts: Vec<(u64, u64)> =
        answer.0.iter().filter_map(|stat| Some((shown(&stat.name).parse().ok()?, stat.value.parse().ok()?))).collect();
    let all: u64 = counts.iter().map(|(_, n)| n).sum();
    let mut rows = vec![row(["UP TO", "PUTS", "SHARE"])];
    for (size, n) in counts {
        let share = rate(100.0 * n as f64 / all.max(1) as f64);
        rows.push(row([&bytes(size), &count(n), &format!("{share} %")]));
    }
    numbers(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[(&str, &str)]) -> Answer {
        let stat = |(name, value): &(&str, &str)| Stat { name: name.as_bytes().into(), value: (*value).into() };
        Answer(lines.iter().map(stat).collect())
    }

    #[test]
    fn large_numbers_are_explained() {
        let text = listed(&answer(&[("pid", "70000"), ("uptime", "3661"), ("bytes", "2097152")]), false);
        assert_eq!(text, "pid     70000\nuptime  3661     1 h 1 min\nbytes   2097152  2.0 MiB\n");
    }

    #[test]
    fn latencies_have_a_row_for_each_span() {
        let text = latencies(&answer(&[
            ("records", "5"),
            ("put.10s.count", "1200"),
            ("put.10s.p50", "400"),
            ("put.10s.max", "2500"),
        ]));
        let expected = "WHAT  SPAN  COUNT  MEAN     P50  P90  P99  P99.9     MAX\n\
                        put   10s   1,200     -  400 us    -    -      -  2.5 ms\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn shards_stand_beside_each_other() {
        let text =
            shards(&answer(&[("0.curr_items", "1"), ("0.bytes", "2048"), ("1.curr_items", "12"), ("1.bytes", "0")]));
        assert_eq!(text, "SHARD             0   1\ncurr_items        1  12\nbytes       2.0 KiB   0\n");
    }

    #[test]
    fn connections_and_sizes_are_tables() {
        let text = connections(&answer(&[("0/1", "state=idle,input=0,replies=0,sent=2048")]), false);
        assert_eq!(text, "CONNECTION  STATE  INPUT  REPLIES     SENT\n0/1         idle     0 B      0 B  2.0 KiB\n");
        let text = sizes(&answer(&[("1", "1"), ("1024", "3")]));
        assert_eq!(text, "  UP TO  PUTS  SHARE\n    1 B     1   25 %\n1.0 KiB     3   75 %\n");
    }
}
