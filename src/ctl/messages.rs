//! Subcommands that move messages by hand: put one, take some.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Context;
use super::exit::{Failure, Outcome};
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
            if !context.json {
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
}
