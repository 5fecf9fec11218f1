//! Tracing: notices of every command and every reply, in the order in which they were served and are sent, and of every message's way
//! from its put to the database.
//!
//! Invariant: keys are told, bodies never. Nothing is done here unless tracing is on, for all or, of messages, for their queue.

use super::{Engine, Notice};
use crate::ids::{ConnId, MessageId, Seq};
use crate::mutation::Why;

impl Engine {
    /// Tells of the request at the front of `input`, which was served.
    pub(super) fn trace_command(&mut self, conn: ConnId, input: &[u8]) {
        if self.trace {
            let line = input.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
            self.effects.notices.push(Notice::Command { conn, line: line.to_vec() });
        }
    }

    /// Tells what has become of a message of the queue at `index`; a change of it is in the batch that is being made.
    pub(super) fn trace_message(&mut self, index: u32, message: MessageId, fate: Fate) {
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        let by_queue = shelf.settings.as_ref().is_some_and(|settings| settings.trace);
        if self.trace || by_queue {
            let queue = shelf.queue.name.to_vec();
            let batch = self.current();
            self.effects.notices.push(Notice::Message { queue, message, fate, batch, by_queue });
        }
    }

    /// Tells how far batches have come.
    pub(super) fn trace_batches(&mut self, through: Seq, is_stored: bool) {
        if self.trace {
            self.effects.notices.push(Notice::Batches { through, is_stored });
        }
    }

    /// Tells of the replies in `output`. It holds whole replies, or whole lines of a listing, since that is what is released.
    pub(super) fn trace_replies(&mut self, conn: ConnId, output: &[u8]) {
        let notices = &mut self.effects.notices;
        let mut tell = |line: &[u8]| notices.push(Notice::Reply { conn, line: line.to_vec() });
        let mut rest = output;
        let mut stats = 0;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            if line.starts_with(b"STAT ") {
                stats += 1;
                continue;
            }
            tell_stats(&mut stats, &mut tell);
            if let Some(size) = body_size(line) {
                rest = rest.get(size + b"\r\n".len()..).expect("a message is sent with all of its body");
            }
            tell(line);
        }
        tell_stats(&mut stats, &mut tell);
    }
}

/// What can become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A read of it was opened.
    Opened,
    /// That read was confirmed.
    Confirmed,
    /// That read ended otherwise.
    GivenBack,
    /// It was put.
    Put,
    /// It was put and goes straight to a waiting client, without a batch.
    HandedOver,
    /// That client has it.
    Delivered,
    /// That client is gone, or slow: it goes the ordinary way after all.
    Returned,
    /// It was taken.
    Taken,
    /// Its time was over.
    Expired,
    /// It made room for younger ones, or was delivered too often.
    Discarded,
    /// It was delivered too often and is in another queue.
    DeadLettered,
    /// It was never for this reader.
    Skipped,
}

impl Fate {
    /// Of a message that left its reader for this reason.
    pub(super) fn of(why: Why) -> Fate {
        match why {
            Why::Got => Fate::Taken,
            Why::Expired => Fate::Expired,
            Why::Discarded => Fate::Discarded,
            Why::DeadLettered => Fate::DeadLettered,
            Why::Skipped => Fate::Skipped,
        }
    }
}

/// Lines of `stats` that follow each other are only counted: there may be one for every queue.
fn tell_stats(count: &mut usize, tell: &mut impl FnMut(&[u8])) {
    if *count > 0 {
        tell(format!("STAT ({count} lines)").as_bytes());
    }
    *count = 0;
}

/// Size of the body behind a line, bytes: `VALUE key flags size [cas]`.
fn body_size(line: &[u8]) -> Option<usize> {
    let mut words = line.split(|b| *b == b' ');
    if words.next() != Some(b"VALUE") {
        return None;
    }
    std::str::from_utf8(words.nth(2)?).ok()?.parse().ok()
}
