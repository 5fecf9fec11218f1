//! Load for a server that may die under it: messages that say who put them where, and connections whose end is a value.
//!
//! Invariant: what a producer or consumer reports is what it knows, no more: a message counts as acknowledged only when its whole
//! `STORED` came, as taken when its whole `VALUE` block came. Anything else on the wire than the protocol panics.
//! It judges nothing; that is [`crate::history`].

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a load connection waits for the server. Generous, since tests share few cores.
const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests on their way at once where only the throughput matters.
const DRAIN_DEPTH: usize = 256;

/// A message of the tests: who put it, where to, and as which of his.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId {
    /// One connection's life.
    pub producer: u32,
    /// Number of the queue, whose name is [`queue_name`].
    pub queue: u32,
    /// Rises with every message of the producer, over all queues.
    pub number: u64,
}

impl MessageId {
    /// The bytes of the message: the id, then filler that depends on it, of a size that depends on it.
    pub fn body(self) -> Vec<u8> {
        let mut rng = Rng::new(self.number << 24 ^ u64::from(self.producer) << 8 ^ u64::from(self.queue));
        let size = match rng.below(400) {
            0 => 100_000 + rng.below(200_000),
            1..20 => 2_000 + rng.below(20_000),
            _ => 20 + rng.below(200),
        };
        let mut body = format!("{}.{}.{}.", self.producer, self.queue, self.number).into_bytes();
        while (body.len() as u64) < size {
            body.extend_from_slice(&rng.next().to_le_bytes());
        }
        body
    }

    /// The message with this body. Panics when a byte of it is not what was put.
    pub fn of_body(body: &[u8]) -> MessageId {
        let mut numbers = body.split(|byte| *byte == b'.').map(|word| str::from_utf8(word).ok()?.parse::<u64>().ok());
        let mut number = || numbers.next().flatten().unwrap_or_else(|| panic!("a body from nobody: {body:?}"));
        let id = MessageId { producer: number() as u32, queue: number() as u32, number: number() };
        assert!(id.body() == body, "the body of {id:?} changed on its way");
        id
    }
}

/// The name of a queue of the tests.
pub fn queue_name(queue: u32) -> String {
    format!("queue-{queue}")
}

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Which.
    pub id: MessageId,
    /// `STORED` was received.
    pub acknowledged: bool,
}

/// What a consumer knows at its end.
#[derive(Clone, Debug, Default)]
pub struct Consumed {
    /// Messages received, in the order of arrival.
    pub taken: Vec<MessageId>,
    /// Queues of requested keys whose part of a reply did not come: each may have cost a message.
    pub unanswered: Vec<u32>,
}

/// How a producer or consumer works.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the producer; for a consumer only a seed.
    pub who: u32,
    /// Queues are numbered below this.
    pub queues: u32,
    /// Requests sent before their replies are read.
    pub depth: usize,
    /// How long a consumer's gets of a single queue wait for a message, every other one, ms; 0: they do not.
    pub wait_ms: u64,
}

/// Puts messages into queues chosen at random, a quarter of them with `noreply`, until told to stop, `count` are sent, or the
/// server is gone. When it ends otherwise than by the server's end, every message is in the store.
pub fn produce(address: SocketAddr, plan: Plan, count: u64, stop: &AtomicBool) -> Vec<Sent> {
    let mut rng = Rng::new(u64::from(plan.who));
    let mut sent = Vec::new();
    let Ok(mut link) = Link::connect(address) else { return sent };
    while !stop.load(Ordering::Relaxed) && (sent.len() as u64) < count {
        let first = sent.len();
        let mut requests = Vec::new();
        let mut awaited = Vec::new();
        for index in first..first + plan.depth.min(count as usize - first) {
            let id =
                MessageId { producer: plan.who, queue: rng.below(plan.queues.into()) as u32, number: index as u64 };
            let noreply = rng.below(4) == 0;
            put_request(&mut requests, id, noreply);
            sent.push(Sent { id, acknowledged: false });
            if !noreply {
                awaited.push(index);
            }
        }
        if link.send(&requests).is_err() {
            return sent;
        }
        for index in awaited {
            match link.line() {
                Ok(line) => assert_eq!(line, b"STORED", "the reply to {:?}", sent[index].id),
                Err(_) => return sent,
            }
            sent[index].acknowledged = true;
        }
    }
    // Answered when everything before it is durable, on every shard: that includes what asked for no reply.
    if link.send(b"db_checkpoint\r\n").is_ok() && link.line().is_ok_and(|line| line == b"OK") {
        sent.iter_mut().for_each(|message| message.acknowledged = true);
    }
    sent
}

/// Gets messages of one or several queues at a time until told to stop or the server is gone.
pub fn consume(address: SocketAddr, plan: Plan, stop: &AtomicBool) -> Consumed {
    let mut rng = Rng::new(u64::from(plan.who));
    let mut taker = Taker::default();
    let Ok(mut link) = Link::connect(address) else { return taker.end() };
    while !stop.load(Ordering::Relaxed) {
        let mut requests = Vec::new();
        for _ in 0..plan.depth {
            let keys = if rng.below(2) == 0 { 1 } else { 1 + rng.below(u64::from(plan.queues) * 3 / 2) };
            let keys: Vec<u32> = (0..keys).map(|_| rng.below(plan.queues.into()) as u32).collect();
            match keys[..] {
                [key] if plan.wait_ms > 0 && rng.below(2) == 0 => taker.ask_and_wait(&mut requests, key, plan.wait_ms),
                _ => taker.ask(&mut requests, keys),
            }
        }
        if link.send(&requests).is_err() {
            break;
        }
        if taker.read(&mut link).is_err() {
            break;
        }
    }
    taker.end()
}

/// Opens messages of one queue at a time and confirms them, every fourth with the get of the next one, until told to stop or the server is
/// gone. What is reported as taken was confirmed.
pub fn work(address: SocketAddr, plan: Plan, stop: &AtomicBool) -> Consumed {
    let mut worker = Worker::default();
    let Ok(mut link) = Link::connect(address) else { return worker.consumed };
    let mut rng = Rng::new(u64::from(plan.who));
    while !stop.load(Ordering::Relaxed) {
        let queue = rng.below(plan.queues.into()) as u32;
        if worker.turn(&mut link, &mut rng, plan, queue).is_err() {
            break;
        }
    }
    worker.consumed
}

#[derive(Default)]
struct Worker {
    consumed: Consumed,
}

impl Worker {
    /// Opens up to as many messages as the plan has requests under way, and confirms what it has opened.
    fn turn(&mut self, link: &mut Link, rng: &mut Rng, plan: Plan, queue: u32) -> io::Result<()> {
        let name = queue_name(queue);
        let mut open = VecDeque::new();
        let wait = if plan.wait_ms > 0 { format!("/t={}", plan.wait_ms) } else { String::new() };
        link.send(format!("get {name}/open{wait}\r\n").repeat(plan.depth).as_bytes())?;
        for _ in 0..plan.depth {
            open.extend(self.opened(link, queue)?);
        }
        while let Some(id) = open.pop_front() {
            let reads_on = rng.below(4) == 0;
            let options = if reads_on { "close/open" } else { "close" };
            // Until the answer is there nobody knows.
            self.consumed.unanswered.push(queue);
            link.send(format!("get {name}/{options}\r\n").as_bytes())?;
            let next = if reads_on { self.opened(link, queue)? } else { self.nothing(link)? };
            self.consumed.unanswered.pop();
            self.consumed.taken.push(id);
            open.extend(next);
        }
        Ok(())
    }

    fn opened(&self, link: &mut Link, queue: u32) -> io::Result<Option<MessageId>> {
        let Some((_, body)) = link.value()? else { return Ok(None) };
        let id = MessageId::of_body(&body);
        assert_eq!(id.queue, queue, "a message came from another queue than it was put to");
        assert!(link.value()?.is_none(), "END follows");
        Ok(Some(id))
    }

    fn nothing(&self, link: &mut Link) -> io::Result<Option<MessageId>> {
        assert!(link.value()?.is_none(), "END to a close");
        Ok(None)
    }
}

/// Takes everything out of the queues, one after the other, on one connection.
pub fn drain(address: SocketAddr, queues: u32) -> Vec<MessageId> {
    let mut link = Link::connect(address).expect("connect");
    let mut taker = Taker::default();
    for queue in 0..queues {
        loop {
            let mut requests = Vec::new();
            (0..DRAIN_DEPTH).for_each(|_| taker.ask(&mut requests, vec![queue]));
            link.send(&requests).expect("send");
            let before = taker.taken.len();
            taker.read(&mut link).expect("replies to every get");
            if taker.taken.len() - before < DRAIN_DEPTH {
                break;
            }
        }
    }
    taker.end().taken
}

/// A consumer's gets and what came of them.
#[derive(Default)]
struct Taker {
    /// Keys of gets that are not answered yet, oldest first, less those whose message came.
    asked: VecDeque<Vec<u32>>,
    taken: Vec<MessageId>,
}

impl Taker {
    fn ask(&mut self, requests: &mut Vec<u8>, keys: Vec<u32>) {
        requests.extend_from_slice(b"get");
        for key in &keys {
            requests.push(b' ');
            requests.extend_from_slice(queue_name(*key).as_bytes());
        }
        requests.extend_from_slice(b"\r\n");
        self.asked.push_back(keys);
    }

    fn ask_and_wait(&mut self, requests: &mut Vec<u8>, key: u32, wait_ms: u64) {
        write!(requests, "get {}/t={wait_ms}\r\n", queue_name(key)).expect("writing to memory");
        self.asked.push_back(vec![key]);
    }

    /// Reads the replies to everything asked.
    fn read(&mut self, link: &mut Link) -> io::Result<()> {
        while let Some(keys) = self.asked.front_mut() {
            match link.value()? {
                Some((name, body)) => {
                    let id = MessageId::of_body(&body);
                    assert_eq!(
                        name.split(|byte| *byte == b'/').next(),
                        Some(queue_name(id.queue).as_bytes()),
                        "a message came from another queue than it was put to"
                    );
                    let at = keys.iter().position(|key| *key == id.queue);
                    keys.remove(at.unwrap_or_else(|| panic!("{id:?} came without being asked for")));
                    self.taken.push(id);
                }
                None => {
                    self.asked.pop_front();
                }
            }
        }
        Ok(())
    }

    fn end(self) -> Consumed {
        Consumed { taken: self.taken, unanswered: self.asked.into_iter().flatten().collect() }
    }
}

fn put_request(out: &mut Vec<u8>, id: MessageId, noreply: bool) {
    let body = id.body();
    let noreply = if noreply { " noreply" } else { "" };
    write!(out, "set {} 0 0 {}{noreply}\r\n", queue_name(id.queue), body.len()).expect("writing to memory");
    out.extend_from_slice(&body);
    out.extend_from_slice(b"\r\n");
}

/// A part of a reply.
pub enum Answer {
    /// A `VALUE` block.
    Value {
        /// As it was asked for.
        key: Vec<u8>,
        /// Only `gets` tells it.
        id: Option<u64>,
        /// The message.
        body: Vec<u8>,
    },
    /// Anything else, without its CRLF.
    Line(Vec<u8>),
}

fn decimal(word: &[u8]) -> u64 {
    str::from_utf8(word).ok().and_then(|word| word.parse().ok()).expect("a number")
}

/// A connection that may end at any byte. An error means that the peer is gone; anything else that goes wrong panics.
pub struct Link {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` was given out.
    used: usize,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// The server does not listen any more.
    pub fn connect(address: SocketAddr) -> io::Result<Link> {
        let stream = TcpStream::connect(address).map_err(expect_gone)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(Link { stream, received: Vec::new(), used: 0 })
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// The server is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).map_err(expect_gone)
    }

    /// The next line, without its CRLF.
    ///
    /// # Errors
    /// The server is gone before the end of the line.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = self.used;
        loop {
            if let Some(at) = self.received[searched..].iter().position(|byte| *byte == b'\n') {
                let line = &self.received[self.used..searched + at];
                let line = line.strip_suffix(b"\r").expect("lines end in CRLF").to_vec();
                self.used = searched + at + 1;
                return Ok(line);
            }
            searched = self.received.len();
            searched -= self.receive()?;
        }
    }

    /// The next `VALUE` block: key and body. `None`: `END`.
    ///
    /// # Errors
    /// The server is gone before the end of either.
    pub fn value(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        match self.answer()? {
            Answer::Value { key, body, .. } => Ok(Some((key, body))),
            Answer::Line(line) if line == b"END" => Ok(None),
            Answer::Line(line) => panic!("not a reply to a get: {}", line.escape_ascii()),
        }
    }

    /// The next `VALUE` block, or the next line if that begins none.
    ///
    /// # Errors
    /// The server is gone before the end of either.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (key, size, id) = match words[..] {
            [b"VALUE", key, b"0", size] => (key, size, None),
            [b"VALUE", key, b"0", size, id] => (key, size, Some(decimal(id))),
            _ => return Ok(Answer::Line(line)),
        };
        let size = decimal(size) as usize;
        while self.received.len() < self.used + size + 2 {
            self.receive()?;
        }
        let body = self.received[self.used..][..size].to_vec();
        assert_eq!(&self.received[self.used + size..][..2], b"\r\n");
        self.used += size + 2;
        Ok(Answer::Value { key: key.to_vec(), id, body })
    }

    /// Receives more; returns by how much positions in `received` went down.
    fn receive(&mut self) -> io::Result<usize> {
        let moved = if self.used > 1 << 20 || self.used == self.received.len() { self.used } else { 0 };
        self.received.drain(..moved);
        self.used -= moved;
        let mut chunk = [0; 65536];
        let read = loop {
            match self.stream.read(&mut chunk) {
                // A process that was stopped for a while finds its timed reads interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match read.map_err(expect_gone)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            size => {
                self.received.extend_from_slice(&chunk[..size]);
                Ok(moved)
            }
        }
    }
}

/// Lets through what a dead server looks like.
fn expect_gone(error: io::Error) -> io::Error {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
    let gone = matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | ConnectionRefused);
    assert!(gone, "the server is neither there nor gone: {error}");
    error
}

/// A small generator of our own, so that a seed means the same whatever library changes (splitmix64).
pub struct Rng(u64);

impl Rng {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
