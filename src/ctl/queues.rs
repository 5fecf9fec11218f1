//! Subcommands about queues as wholes: which there are, emptying one, dropping one.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::client::{Client, Error, QueueCounts, Stat};

use super::Context;
use super::answer::Answer;
use super::exit::{Failure, Outcome};
use super::output::{line, numbers, print, row, shown, table};
use super::progress::Progress;
use super::units::{count, millis, rate};

/// So many queues are asked for together: their answers fit the sockets' buffers.
pub(super) const TOGETHER: usize = 64;

/// All queues, by name, with the messages put and got since each was made.
#[derive(Args, Debug)]
pub(super) struct Queues {
    /// More of each: messages ready, rates, the age of the oldest message, gets that wait. Asks for each queue by itself; of one whose
    /// messages are on the disk only, the server reads the first.
    #[arg(long)]
    long: bool,
    /// By what to sort: names from a to z, everything else from the largest on. Other than by name, puts or gets it means --long.
    #[arg(long, value_enum, default_value_t = Order::Name)]
    sort: Order,
    /// Only queues whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Order {
    Name,
    Ready,
    Puts,
    Gets,
    In,
    Out,
    Oldest,
    Waiters,
}

/// What the server says of one queue.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Details {
    /// Messages that a get can take.
    pub(super) ready: u64,
    /// Messages that came, and went by gets, a second, over the last 10 to 20 s.
    pub(super) put_rate: f64,
    pub(super) get_rate: f64,
    /// Age of the oldest message; `None`: there is none, or it is not known yet.
    pub(super) oldest_ms: Option<u64>,
    /// Gets that wait.
    pub(super) waiters: u64,
    /// Messages that went without a get.
    pub(super) gone: u64,
}

impl Details {
    /// Of each of these queues; `None`: it does not exist any more. At most [`TOGETHER`] of them.
    pub(super) fn ask(client: &mut Client, queues: &[&[u8]]) -> Result<Vec<Option<Details>>, Error> {
        let read = |answer: Answer| Details {
            ready: answer.count("ready"),
            put_rate: answer.number("put_rate").unwrap_or_default(),
            get_rate: answer.number("get_rate").unwrap_or_default(),
            oldest_ms: answer.text("oldest_ms").and_then(|text| text.parse().ok()),
            waiters: answer.count("waiters"),
            gone: answer.count("deleted") + answer.count("corrupt"),
        };
        let answers = client.queue_details(queues.iter().copied())?;
        Ok(answers.into_iter().map(|lines| without_name(lines).map(read)).collect())
    }
}

impl Queues {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let mut client = context.connect()?;
        let mut queues = client.queues()?;
        if let Some(filter) = &self.filter {
            queues.retain(|queue| memchr::memmem::find(&queue.name, filter.as_bytes()).is_some());
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        match self.sort {
            Order::Puts => queues.sort_by_key(|queue| Reverse(queue.puts)),
            Order::Gets => queues.sort_by_key(|queue| Reverse(queue.gets)),
            _ => {}
        }
        if !self.long && matches!(self.sort, Order::Name | Order::Puts | Order::Gets) {
            return print(short(&queues, context.json));
        }
        let mut queues = with_details(&mut client, queues)?;
        match self.sort {
            Order::Name | Order::Puts | Order::Gets => {}
            Order::Ready => queues.sort_by_key(|(_, it)| Reverse(it.ready)),
            Order::In => queues.sort_by(|(_, a), (_, b)| b.put_rate.total_cmp(&a.put_rate)),
            Order::Out => queues.sort_by(|(_, a), (_, b)| b.get_rate.total_cmp(&a.get_rate)),
            Order::Oldest => queues.sort_by_key(|(_, it)| Reverse(it.oldest_ms)),
            Order::Waiters => queues.sort_by_key(|(_, it)| Reverse(it.waiters)),
        }
        print(long(&queues, context.json))
    }
}

fn with_details(client: &mut Client, queues: Vec<QueueCounts>) -> Result<Vec<(QueueCounts, Details)>, Failure> {
    let progress = Progress::bar(queues.len() as u64, "asking for each queue");
    let mut details = Vec::with_capacity(queues.len());
    for some in queues.chunks(TOGETHER) {
        let names: Vec<&[u8]> = some.iter().map(|queue| &*queue.name).collect();
        details.extend(Details::ask(client, &names)?);
        progress.advance(some.len() as u64);
    }
    // A queue that was deleted meanwhile is none.
    let both = queues.into_iter().zip(details);
    Ok(both.filter_map(|(queue, details)| Some((queue, details?))).collect())
}

/// The list of all queues, by name.
pub(super) fn listed(mut queues: Vec<QueueCounts>, json: bool) -> String {
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    short(&queues, json)
}

fn short(queues: &[QueueCounts], json: bool) -> String {
    if json {
        let objects = queues.iter().map(|q| json!({ "queue": shown(&q.name), "puts": q.puts, "gets": q.gets }));
        return line(&Value::Array(objects.collect()));
    }
    let header = ["QUEUE", "PUTS", "GETS"].map(String::from);
    let rows = queues.iter().map(|q| [shown(&q.name), q.puts.to_string(), q.gets.to_string()]);
    table(std::iter::once(header).chain(rows).collect())
}

fn long(queues: &[(QueueCounts, Details)], json: bool) -> String {
    if json {
        let object = |(queue, details): &(QueueCounts, Details)| {
            let Details { ready, put_rate, get_rate, oldest_ms, waiters, .. } = details;
            json!({
                "queue": shown(&queue.name), "ready": ready, "puts": queue.puts, "gets": queue.gets, "put_rate": put_rate,
                "get_rate": get_rate, "oldest_ms": oldest_ms, "waiters": waiters,
            })
        };
        return line(&Value::Array(queues.iter().map(object).collect()));
    }
    let mut rows = vec![row(["QUEUE", "READY", "PUTS", "GETS", "IN/s", "OUT/s", "OLDEST", "WAITERS"])];
    for (queue, details) in queues {
        rows.push(vec![
            shown(&queue.name),
            count(details.ready),
            count(queue.puts),
            count(queue.gets),
            rate(details.put_rate),
            rate(details.get_rate),
            details.oldest_ms.map_or("-".into(), millis),
            count(details.waiters),
        ]);
    }
    numbers(&rows, 1)
}

/// Says so on standard error.
pub(super) fn no_such(queue: &[u8]) -> Outcome {
    eprintln!("ringqctl: there is no queue {}", shown(queue));
    Outcome::Nothing
}

/// Drop all messages of a queue; the queue and its counters stay.
#[derive(Args, Debug)]
pub(super) struct Purge {
    /// The queue.
    queue: OsString,
}

impl Purge {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let mut client = context.connect()?;
        let Some(before) = deleted(&mut client, queue)? else {
            if context.json {
                print(line(&json!({ "queue": shown(queue), "purged": 0 })))?;
                return Ok(Outcome::Nothing);
            }
            return Ok(no_such(queue));
        };
        client.flush(queue)?;
        let purged = deleted(&mut client, queue)?.unwrap_or(before).saturating_sub(before);
        print(if context.json {
            line(&json!({ "queue": shown(queue), "purged": purged }))
        } else {
            format!("purged {} messages\n", count(purged))
        })
    }
}

/// The lines about one queue, without the first, which has its name; `None`: there is none of that name.
pub(super) fn details(client: &mut Client, queue: &[u8]) -> Result<Option<Answer>, Failure> {
    Ok(client.queue_details([queue])?.pop().and_then(without_name))
}

/// The queue's name may be that of another line.
fn without_name(mut lines: Vec<Stat>) -> Option<Answer> {
    (!lines.is_empty()).then(|| Answer(lines.split_off(1)))
}

/// How many messages of a queue were dropped since it was made; `None`: there is none of that name.
fn deleted(client: &mut Client, queue: &[u8]) -> Result<Option<u64>, Failure> {
    Ok(details(client, queue)?.map(|details| details.count("deleted")))
}

/// Drop a queue with its messages and counters.
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// The queue.
    queue: OsString,
}

impl Delete {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let deleted = context.connect()?.delete(queue)?;
        if context.json {
            print(line(&json!({ "queue": shown(queue), "deleted": deleted })))?;
        } else if !deleted {
            return Ok(no_such(queue));
        }
        Ok(if deleted { Outcome::Done } else { Outcome::Nothing })
    }
}
