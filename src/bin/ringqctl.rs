//! The operator's tool: asks a running server by the same protocol that clients speak.
//!
//! Invariant: what it exits with tells what happened (see [`EXIT_CODES`]), and nothing is written to standard output unless it is
//! part of the answer. A message that was taken is written out before the next one is taken.

use clap::{ArgAction, Parser, Subcommand};
use ringq::client::{Address, Client, Error, QueueCounts, Stat};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const NOTHING_THERE: u8 = 1;
const BAD_USAGE: u8 = 2;
const REFUSED: u8 = 3;
const FAILED: u8 = 4;

const EXIT_CODES: &str = "\
Exit status:
  0  done
  1  nothing there: the queue is empty, or there is no queue of that name
  2  bad usage
  3  the server refused; what it said is on standard error
  4  cannot connect, the connection failed, or the body could not be read or the answer written";

/// Asks a running RingQ server, or puts and takes messages by hand.
#[derive(Parser, Debug)]
#[command(name = "ringqctl", version, disable_version_flag = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Options {
    /// The server: HOST:PORT or unix:PATH.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:22201", env = "RINGQ_SERVER")]
    server: Address,

    /// Answer in JSON: one object, for `queues` one array, for `get` one object a line.
    #[arg(long, global = true)]
    json: bool,

    /// How long to wait for the server, each time, seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Print the version of ringqctl; the server's is `ringqctl version`.
    #[arg(short = 'V', long = "version", action = ArgAction::Version)]
    print_version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// See whether the server answers, and how fast.
    Ping,
    /// The server's version.
    Version,
    /// The server's counters.
    Stats,
    /// The settings in force.
    Settings,
    /// All queues, by name, with the messages put and got since each was made.
    Queues,
    /// Put one message at the tail of a queue.
    Put {
        /// The queue.
        queue: OsString,
        /// The message; `-` or nothing: all of standard input.
        #[arg(allow_hyphen_values = true)]
        body: Option<OsString>,
        /// A number that is kept with the message, 0 to 4294967295.
        #[arg(long, value_name = "N", default_value_t = 0)]
        flags: u32,
    },
    /// Take messages from the head of a queue; they are gone from it. Bodies are written as they are, one after the other.
    Get {
        /// The queue.
        queue: OsString,
        /// Take up to this many. Fewer are no failure, none is.
        #[arg(short = 'n', value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
    },
    /// Drop a queue with its messages and counters.
    Delete {
        /// The queue.
        queue: OsString,
    },
    /// Return when everything that was accepted before is in the database.
    Checkpoint,
}

/// What a command came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Nothing,
}

/// Why a command did not get to its end.
enum Failure {
    Client(Error),
    Input(io::Error),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Client(error)
    }
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_USAGE } else { 0 });
        }
    };
    match run(&options) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) => ExitCode::from(NOTHING_THERE),
        Err(failure) => ExitCode::from(explain(&failure)),
    }
}

/// Says on standard error what went wrong; returns the exit status.
fn explain(failure: &Failure) -> u8 {
    let (status, text) = match failure {
        Failure::Client(Error::Refused(line)) => (REFUSED, line.clone()),
        Failure::Client(error @ Error::BadName(_)) => (BAD_USAGE, error.to_string()),
        Failure::Client(error) => (FAILED, error.to_string()),
        Failure::Input(error) => (FAILED, format!("cannot read the body: {error}")),
        Failure::Output(error) => (FAILED, format!("cannot write the answer: {error}")),
    };
    eprintln!("ringqctl: {text}");
    status
}

fn run(options: &Options) -> Result<Outcome, Failure> {
    // The body is read first: the server need not keep a connection for someone who is still typing.
    let body = match &options.command {
        Command::Put { body, .. } => read_body(body.as_ref()).map_err(Failure::Input)?,
        _ => Vec::new(),
    };
    let started = Instant::now();
    let mut client = Client::connect(&options.server, options.timeout)?;
    let json = options.json;
    match &options.command {
        Command::Ping => {
            client.version()?;
            ping(&options.server, started.elapsed(), json)
        }
        Command::Version => {
            let version = client.version()?;
            print(if json { line(&json!({ "version": version })) } else { format!("{version}\n") })
        }
        Command::Stats => print(stats(&client.stats()?, json)),
        Command::Settings => print(stats(&client.settings()?, json)),
        Command::Queues => print(queues(client.queues()?, json)),
        Command::Put { queue, flags, .. } => {
            client.put(queue.as_bytes(), *flags, &body)?;
            let answer = json!({ "queue": shown(queue.as_bytes()), "flags": flags, "size": body.len() });
            print(if json { line(&answer) } else { String::new() })
        }
        Command::Get { queue, count } => get(&mut client, queue.as_bytes(), *count, json),
        Command::Delete { queue } => {
            let deleted = client.delete(queue.as_bytes())?;
            if json {
                print(line(&json!({ "queue": shown(queue.as_bytes()), "deleted": deleted })))?;
            } else if !deleted {
                eprintln!("ringqctl: there is no queue {}", shown(queue.as_bytes()));
            }
            Ok(if deleted { Outcome::Done } else { Outcome::Nothing })
        }
        Command::Checkpoint => {
            client.checkpoint()?;
            print(if json { line(&json!({ "checkpoint": true })) } else { String::new() })
        }
    }
}

fn ping(server: &Address, took: Duration, json: bool) -> Result<Outcome, Failure> {
    let took_us = took.as_micros() as u64;
    print(if json {
        line(&json!({ "server": server.to_string(), "took_us": took_us }))
    } else {
        format!("{server} answered in {}.{:03} ms\n", took_us / 1000, took_us % 1000)
    })
}

/// Takes up to `count` messages. Each is written before the next is asked for, so that a full disk or a closed pipe costs no more
/// than the one at hand.
fn get(client: &mut Client, queue: &[u8], count: u64, json: bool) -> Result<Outcome, Failure> {
    for taken in 0..count {
        let Some(message) = client.get(queue)? else {
            return Ok(if taken == 0 { Outcome::Nothing } else { Outcome::Done });
        };
        if !json {
            write(&message.body)?;
            continue;
        }
        let mut object = Map::new();
        object.insert("queue".into(), shown(queue).into());
        object.insert("flags".into(), message.flags.into());
        match String::from_utf8(message.body) {
            Ok(text) => object.insert("body".into(), text.into()),
            Err(error) => object.insert("body_bytes".into(), error.into_bytes().into()),
        };
        print(line(&Value::Object(object)))?;
    }
    Ok(Outcome::Done)
}

fn stats(stats: &[Stat], json: bool) -> String {
    if !json {
        let rows = stats.iter().map(|stat| [shown(&stat.name), stat.value.clone()]);
        return table(rows.collect());
    }
    let number_or_text = |value: &str| value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
    let object: Map<String, Value> =
        stats.iter().map(|stat| (shown(&stat.name), number_or_text(&stat.value))).collect();
    line(&Value::Object(object))
}

fn queues(mut queues: Vec<QueueCounts>, json: bool) -> String {
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    if json {
        let objects = queues.iter().map(|q| json!({ "queue": shown(&q.name), "puts": q.puts, "gets": q.gets }));
        return line(&Value::Array(objects.collect()));
    }
    let header = ["QUEUE", "PUTS", "GETS"].map(String::from);
    let rows = queues.iter().map(|q| [shown(&q.name), q.puts.to_string(), q.gets.to_string()]);
    table(std::iter::once(header).chain(rows).collect())
}

/// Rows as lines, columns under each other.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A name as text. What is no UTF-8, or could steer a terminal, is escaped.
fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.into(),
        _ => name.escape_ascii().to_string(),
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn print(text: String) -> Result<Outcome, Failure> {
    write(text.as_bytes())?;
    Ok(Outcome::Done)
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn read_body(argument: Option<&OsString>) -> io::Result<Vec<u8>> {
    match argument {
        Some(body) if body != "-" => Ok(body.as_bytes().to_vec()),
        _ => {
            let mut body = Vec::new();
            io::stdin().lock().read_to_end(&mut body)?;
            Ok(body)
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
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = vec![["QUEUE", "PUTS"].map(String::from), ["é", "10"].map(String::from)];
        assert_eq!(table(rows), "QUEUE  PUTS\né      10\n");
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(shown("café".as_bytes()), "café");
        assert_eq!(shown(b"\x1b[2J"), "\\x1b[2J");
        assert_eq!(shown("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
        assert_eq!(shown(b"\xff"), "\\xff");
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds_above_zero() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "x", "NaN", "inf", "1e9", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
