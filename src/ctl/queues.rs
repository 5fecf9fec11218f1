//! Subcommands about queues as wholes: which there are, and dropping one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::exit::{Failure, Outcome};
use super::output::{line, print, shown, table};

/// All queues, by name, with the messages put and got since each was made.
#[derive(Args, Debug)]
pub(super) struct Queues {}

impl Queues {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let mut queues = context.connect()?.queues()?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        if context.json {
            let objects = queues.iter().map(|q| json!({ "queue": shown(&q.name), "puts": q.puts, "gets": q.gets }));
            return print(line(&Value::Array(objects.collect())));
        }
        let header = ["QUEUE", "PUTS", "GETS"].map(String::from);
        let rows = queues.iter().map(|q| [shown(&q.name), q.puts.to_string(), q.gets.to_string()]);
        print(table(std::iter::once(header).chain(rows).collect()))
    }
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
            eprintln!("ringqctl: there is no queue {}", shown(queue));
        }
        Ok(if deleted { Outcome::Done } else { Outcome::Nothing })
    }
}
