//! The subcommand about what a queue does: its limits, times and targets.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::json;

use super::Context;
use super::answer::Answer;
use super::exit::{Failure, Outcome};
use super::output::{line, print, shown, table};

/// Show what a queue does (limits, times, targets), or change it; it need not exist yet.
#[derive(Args, Debug)]
pub(super) struct Config {
    /// The queue.
    queue: OsString,
    /// What to change: keys as they are shown, such as max_messages=1000 or max_age=7d. KEY= goes back to the default.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<OsString>,
}

impl Config {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let mut client = context.connect()?;
        if !self.settings.is_empty() {
            client.configure(queue, self.settings.iter().map(|word| word.as_bytes()))?;
            if !context.json {
                return Ok(Outcome::Done);
            }
        }
        let settings = Answer(client.queue_settings(queue)?);
        if context.json {
            return print(line(&json!({ "queue": shown(queue), "settings": settings.flat() })));
        }
        let header = ["SETTING", "VALUE"].map(String::from);
        let rows = settings.0.iter().map(|stat| [shown(&stat.name), shown(stat.value.as_bytes())]);
        print(table(std::iter::once(header).chain(rows).collect()))
    }
}
