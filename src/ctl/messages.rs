//! Subcommands that move messages by hand: put one, take some, look at one.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::{Error, Message};
use crate::proto::options::reader_name;

use super::Context;
use super::exit::{BAD_USAGE, Failure, Outcome, interrupts};
use super::output::{line, print, shown, write};

/// Put one message at the tail of a queue.
#[derive(Args, Debug)]
pub(super) struct Put {
    /// The queue.
    queue: OsString,
    /// The message; `-` or nothing: all of standard input.
    #[arg(allow_hyphen_values = true)]
    body: Option<OsString>,
    /// A number that is kept with the message, 0 to 4294967295.
    #[arg(long, value_name = "N", default_value_t = 0)]
    flags: u32,
}

impl Put {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        // Read first: the server need not keep a connection for someone who is still typing.
        let body = self.read_body().map_err(|error| Failure::input(&error))?;
        let queue = self.queue.as_bytes();
        context.connect()?.put(queue, self.flags, &body)?;
        let answer = json!({ "queue": shown(queue), "flags": self.flags, "size": body.len() });
        print(if context.json { line(&answer) } else { String::new() })
    }

    fn read_body(&self) -> io::Result<Vec<u8>> {
        match &self.body {
            Some(body) if body != "-" => Ok(body.as_bytes().to_vec()),
            _ => {
                let mut body = Vec::new();
                io::stdin().lock().read_to_end(&mut body)?;
                Ok(body)
            }
        }
    }
}

/// Take messages from the head of a queue; they are gone from it. Bodies are written as they are, one after the other.
#[derive(Args, Debug)]
pub(super) struct Get {
    /// The queue.
    queue: OsString,
    /// Take up to this many. Fewer are no failure, none is.
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

impl Get {
    /// Each message is written before the next is asked for, so that a full disk or a closed pipe costs no more than the one at hand.
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let mut client = context.connect()?;
        for taken in 0..self.count {
            let Some(message) = client.get(queue)? else {
                return Ok(if taken == 0 { Outcome::Nothing } else { Outcome::Done });
            };
            if context.json {
                print(line(&object(queue, message)))?;
            } else {
                write(&message.body)?;
            }
        }
        Ok(Outcome::Done)
    }
}

/// Show the message at the head of a queue, which stays there. Its body is written as it is.
#[derive(Args, Debug)]
pub(super) struct Peek {
    /// The queue.
    queue: OsString,
}

impl Peek {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let Some(message) = context.connect()?.peek(queue)? else {
            return Ok(Outcome::Nothing);
        };
        if context.json {
            return print(line(&object(queue, message)));
        }
        write(&message.body)?;
        Ok(Outcome::Done)
    }
}

/// Take messages from the head of a queue and print each as it comes, with a line end behind it.
///
/// With --consume this is a consumer like any other: what it prints is gone from the queue, and no other consumer gets it. With --group it is
/// a reader of its own, and takes nothing from others. To look at the message at the head without taking it, there is `peek`.
#[derive(Args, Debug)]
pub(super) struct Tail {
    /// The queue.
    queue: OsString,
    /// Yes, take the messages.
    #[arg(long)]
    consume: bool,
    /// Read as this group of the queue, which gets every message whoever else reads it. A new group begins at the oldest message, and the queue
    /// with it if there is none. The group stays and keeps what it has not read, until `ringqctl delete QUEUE/group=NAME`.
    #[arg(long, value_name = "NAME", conflicts_with = "consume")]
    group: Option<OsString>,
    /// Take up to this many [default: 10; with --follow: no end].
    #[arg(short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// When the queue is empty, wait for more, until interrupted.
    #[arg(long, short)]
    follow: bool,
}

/// How long the server is asked to wait at a time: an interrupt is heeded in between, when no message can be on its way.
const WAIT: Duration = Duration::from_millis(500);
const COUNT: u64 = 10;

impl Tail {
    /// Each message is written before the next is asked for, and the program ends only between two requests: what was taken is printed.
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let queue = self.queue.as_bytes();
        let group = self.group.as_deref().map(OsStrExt::as_bytes);
        if !self.consume && group.is_none() {
            let text = "tail takes the messages that it prints; say --consume if that is meant. --group NAME reads as a group of that name and \
                        takes nothing from others; `ringqctl peek` shows the message at the head";
            return Err(Failure::new(BAD_USAGE, text));
        }
        if group.is_some_and(|group| group.is_empty() || group.contains(&b'/')) {
            return Err(Failure::new(BAD_USAGE, "a group's name is not empty and has no /"));
        }
        let reader = reader_name(queue, group);
        let interrupted = interrupts(&[SIGINT, SIGTERM])?;
        let mut client = context.connect()?;
        let wait_ms = WAIT.min(context.timeout / 2).as_millis() as u64;
        let mut left = self.count.or((!self.follow).then_some(COUNT));
        let mut taken = 0_u64;
        while left != Some(0) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let message = if self.follow { client.get_or_wait(&reader, wait_ms) } else { client.get(&reader) };
            let Some(message) = message.map_err(no_group)? else {
                if self.follow {
                    continue;
                }
                break;
            };
            taken += 1;
            left = left.map(|left| left - 1);
            let size = message.body.len();
            let written = if context.json {
                print(line(&object(queue, message))).map(drop)
            } else {
                write(&[&message.body[..], b"\n"].concat())
            };
            written.map_err(|failure| {
                let whose = if group.is_some() { " to the group" } else { "" };
                let text = format!("{}; the message of {size} bytes that was taken last is lost{whose}", failure.text);
                Failure { text, ..failure }
            })?;
        }
        Ok(if taken == 0 { Outcome::Nothing } else { Outcome::Done })
    }
}

/// What the answer to a get means that names a group which cannot begin.
fn no_group(error: Error) -> Failure {
    let text = match &error {
        Error::Refused(line) if line == "NOT_FOUND" => {
            "the server has no room for another group: --max-groups, --max-queues"
        }
        _ => return error.into(),
    };
    Failure { text: text.into(), ..error.into() }
}

fn object(queue: &[u8], message: Message) -> Value {
    let mut object = Map::new();
    object.insert("queue".into(), shown(queue).into());
    object.insert("flags".into(), message.flags.into());
    match String::from_utf8(message.body) {
        Ok(text) => object.insert("body".into(), text.into()),
        Err(error) => object.insert("body_bytes".into(), error.into_bytes().into()),
    };
    Value::Object(object)
}
