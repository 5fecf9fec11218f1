//! The operator's tool, `ringqctl`: asks a running server by the same protocol that clients speak.
//!
//! Invariant: what it exits with tells what happened (`EXIT_CODES` in exit.rs), and nothing is written to standard output unless it is
//! part of the answer. A message that was taken is written out before the next one is taken.
//!
//! A subcommand is a struct of its own arguments with a `run`, in the file of its concern; its line in [`Command`] and in
//! `Command::run` makes it known. Its doc comment is its help.

mod answer;
mod config;
mod exit;
mod import;
mod messages;
mod output;
mod progress;
mod queues;
mod server;
mod stats;
mod top;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::client::{Address, Client};

#[doc(hidden)]
pub use import::spooled;

use exit::{BAD_USAGE, EXIT_CODES, Failure, Outcome};

/// Asks a running RingQ server, or puts and takes messages by hand.
#[derive(Parser, Debug)]
#[command(name = "ringqctl", version, disable_version_flag = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Options {
    #[command(flatten)]
    context: Context,

    /// Print the version of ringqctl; the server's is `ringqctl version`.
    #[arg(short = 'V', long = "version", action = ArgAction::Version)]
    print_version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

/// What all subcommands are told.
#[derive(clap::Args, Debug)]
struct Context {
    /// The server: HOST:PORT or unix:PATH.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:22201", env = "RINGQ_SERVER")]
    server: Address,

    /// Answer in JSON: one object, for lists of queues one array, for `get` and `tail` one object a line.
    #[arg(long, global = true)]
    json: bool,

    /// How long to wait for the server, each time, seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
}

impl Context {
    fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.server, self.timeout)?)
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    Top(top::Top),
    Ping(server::Ping),
    Version(server::Version),
    Stats(stats::Stats),
    Settings(server::Settings),
    Queues(queues::Queues),
    Config(config::Config),
    Put(messages::Put),
    Get(messages::Get),
    Peek(messages::Peek),
    Tail(messages::Tail),
    Purge(queues::Purge),
    Delete(queues::Delete),
    Checkpoint(server::Checkpoint),
    Import(import::Import),
}

impl Command {
    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        match self {
            Command::Top(command) => command.run(context),
            Command::Ping(command) => command.run(context),
            Command::Version(command) => command.run(context),
            Command::Stats(command) => command.run(context),
            Command::Settings(command) => command.run(context),
            Command::Queues(command) => command.run(context),
            Command::Config(command) => command.run(context),
            Command::Put(command) => command.run(context),
            Command::Get(command) => command.run(context),
            Command::Peek(command) => command.run(context),
            Command::Tail(command) => command.run(context),
            Command::Purge(command) => command.run(context),
            Command::Delete(command) => command.run(context),
            Command::Checkpoint(command) => command.run(context),
            Command::Import(command) => command.run(context),
        }
    }
}

/// The command line as a value: what help, manual pages and completions are made from.
pub fn command() -> clap::Command {
    Options::command()
}

/// Carries out a command line (with the program's name first) and the `RINGQ_*` environment; returns what to exit with.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_USAGE } else { 0 });
        }
    };
    match options.command.run(&options.context) {
        Ok(outcome) => ExitCode::from(outcome.status()),
        Err(failure) => {
            eprintln!("ringqctl: {}", failure.text);
            ExitCode::from(failure.status)
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    const DAY_S: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=DAY_S).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("allowed are 0.001 to {DAY_S}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_says_what_it_does() {
        for subcommand in command().get_subcommands() {
            assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
        }
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds_above_zero() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "x", "NaN", "inf", "1e9", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
