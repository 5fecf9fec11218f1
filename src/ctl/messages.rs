//! Subcommands that move messages by hand: put one, take some, look at one.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::Message;

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
/// This is a consumer: what it prints is gone from the queue, and no other consumer gets it. Give --consume to say that this is meant. To look at
/// the message at the head without taking it, there is `peek`.
#[derive(Args, Debug)]
pub(super) struct Tail {
    /// The queue.
    queue: OsString,
    /// Yes, take the messages.
    #[arg(long)]
    consume: bool,
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
        if !self.consume {
            let text = "tail takes the messages that it prints; say --consume if that is meant. Watching a queue without taking from it needs \
                        consumer groups, which this server does not have yet; `ringqctl peek` shows the message at the head";
            return Err(Failure::new(BAD_USAGE, text));
        }
        let interrupted = interrupts(&[SIGINT, SIGTERM])?;
        let queue = self.queue.as_bytes();
        let mut client = context.connect()?;
        let wait_ms = WAIT.min(context.timeout / 2).as_millis() as u64;
        let mut left = self.count.or((!self.follow).then_some(COUNT));
        let mut taken = 0_u64;
        while left != Some(0) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let message = if self.follow { client.get_or_wait(queue, wait_ms) } else { client.get(queue) };
            let Some(message) = message? else {
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
                let text = format!("{}; the message of {size} bytes that was taken last is lost", failure.text);
                Failure { text, ..failure }
            })?;
        }
        Ok(if taken == 0 { Outcome::Nothing } else { Outcome::Done })
    }
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
