//! What one client of a soak knows, and the connection it works on.
//!
//! Invariant: an account says no more than its client knows. What a request may do is noted before it is sent, and corrected when its answer
//! is there; so a connection may end at any byte and the account is right.

use crate::cast::Reader;
use crate::history::{End, Moment, Outcome, Put, Read};
use crate::traffic::{Answer, Link, MessageId, Rng, queue_name};
use ringq::proto::Dialect;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// What a client knows.
#[derive(Default)]
pub struct Account {
    /// What it put.
    pub puts: Vec<Put>,
    /// What came to it, and as which reader.
    pub reads: Vec<(Reader, Read)>,
    /// Requests that may have taken a message and were not answered.
    pub lost: BTreeMap<(Reader, u32), u64>,
    /// Requests that may have opened a message and were not answered.
    pub unheard: BTreeMap<(Reader, u32), u64>,
}

impl Account {
    /// One more request that is not answered.
    pub fn await_take(&mut self, reader: Reader, queue: u32) {
        *self.lost.entry((reader, queue)).or_default() += 1;
    }

    /// One less.
    pub fn heard_take(&mut self, reader: Reader, queue: u32) {
        *self.lost.get_mut(&(reader, queue)).expect("it was awaited") -= 1;
    }

    /// One more opening request that is not answered.
    pub fn await_open(&mut self, reader: Reader, queue: u32) {
        *self.unheard.entry((reader, queue)).or_default() += 1;
    }

    /// One less.
    pub fn heard_open(&mut self, reader: Reader, queue: u32) {
        *self.unheard.get_mut(&(reader, queue)).expect("it was awaited") -= 1;
    }

    /// The server was alive until `alive`, certainly, and gone by `gone`.
    pub fn close(&mut self, alive: Moment, gone: Moment) {
        self.puts.iter_mut().for_each(|put| put.settled = put.settled.min(gone));
        self.reads.iter_mut().for_each(|(_, read)| read.held_until = read.held_until.min(alive));
    }
}

/// The beginning of a round.
#[derive(Clone, Copy)]
pub struct Clock(pub Instant);

impl Clock {
    /// µs since then.
    pub fn now(self) -> Moment {
        self.0.elapsed().as_micros() as Moment
    }
}

/// A connection, who works on it, and what they know.
pub struct Seat {
    pub link: Link,
    pub address: SocketAddr,
    pub dialect: Dialect,
    pub clock: Clock,
    pub rng: Rng,
    pub account: Account,
}

impl Seat {
    /// Connects. `None`: the server is gone already.
    pub fn take(address: SocketAddr, dialect: Dialect, clock: Clock, seed: u64) -> Option<Seat> {
        let link = Link::connect(address).ok()?;
        Some(Seat { link, address, dialect, clock, rng: Rng::new(seed), account: Account::default() })
    }

    /// Drops the connection and makes another.
    pub fn reconnect(&mut self) -> io::Result<()> {
        self.link = Link::connect(self.address)?;
        Ok(())
    }

    /// How this dialect names a reader of a queue.
    pub fn key(&self, queue: u32, reader: Reader) -> String {
        key(self.dialect, queue, reader)
    }

    /// One of them.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u64) as usize]
    }

    /// A read as it begins: it came from this queue, asked for then. Whether it ends otherwise is not known yet.
    pub fn note(&mut self, reader: Reader, from: u32, asked: Moment, body: &[u8], end: End) -> usize {
        let (id, came) = (MessageId::of_body(body), self.clock.now());
        let end = if matches!(end, End::Done(_)) { End::Done(came) } else { end };
        self.account.reads.push((reader, Read { id, from, asked, came, held_until: came, end }));
        self.account.reads.len() - 1
    }

    /// What a read is noted as.
    pub fn noted(&mut self, at: usize) -> &mut Read {
        &mut self.account.reads[at].1
    }

    /// The next line, which begins no message.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        match self.link.answer()? {
            Answer::Line(line) => Ok(line),
            Answer::Value { key, .. } => panic!("a message of {} that nobody asked for", key.escape_ascii()),
        }
    }

    /// The line must be `END`.
    pub fn end(&mut self) -> io::Result<()> {
        let line = self.line()?;
        assert_eq!(line, b"END", "{}", line.escape_ascii());
        Ok(())
    }
}

/// How a dialect names a reader of a queue.
pub fn key(dialect: Dialect, queue: u32, reader: Reader) -> String {
    let name = queue_name(queue);
    match (reader, dialect) {
        (Reader::Plain, _) => name,
        (Reader::Group(group), Dialect::Kestrel) => format!("{name}+{}", crate::cast::GROUPS[group]),
        (Reader::Group(group), _) => format!("{name}/group={}", crate::cast::GROUPS[group]),
        (Reader::Fleeting(group), Dialect::Kestrel) => format!("{name}+fleeting-{group}"),
        (Reader::Fleeting(group), _) => format!("{name}/group=fleeting-{group}"),
    }
}

/// A put that was not answered yet.
pub fn put_of(id: MessageId, sent: Moment, lifetime_s: u64) -> Put {
    let lifetime = (lifetime_s > 0).then_some(lifetime_s * 1_000_000);
    Put { id, sent, settled: Moment::MAX, outcome: Outcome::Unknown, lifetime }
}
