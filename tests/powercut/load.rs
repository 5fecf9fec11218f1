//! A load whose every step knows where in the record of the disk it stood, and what a cut may have left of it.
//!
//! Invariant: a step counts as done at a cut only if its reply had come by then, and as not begun only if its request had not been sent.

use crate::image::Random;
use crate::recorder::Record;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

/// Queues of the load, `q0` and so on.
pub const QUEUES: usize = 4;
const CLIENTS: usize = 6;

/// Where in the record a request was sent, and where its reply had come.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    sent: usize,
    done: usize,
}

/// What became of one message.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    put: Step,
    taken: Option<Step>,
}

/// A message: its queue, who put it there and as which of theirs.
pub type Id = (usize, usize, usize);

/// How much a cut may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Nothing that was acknowledged.
    Durable,
    /// The newest of each queue, as one piece.
    Prefix,
}

/// Runs `steps` requests on each of some connections.
pub fn run(address: SocketAddr, record: &Record, steps: usize, seed: u64) -> HashMap<Id, Life> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|who| {
            let record = record.clone();
            thread::spawn(move || client(address, &record, who, steps, seed))
        })
        .collect();
    let mut lives = HashMap::new();
    let mut taken = Vec::new();
    for client in clients {
        let (puts, takes) = client.join().expect("the protocol holds");
        lives.extend(puts.into_iter().map(|(id, put)| (id, Life { put, taken: None })));
        taken.extend(takes);
    }
    for (id, step) in taken {
        let life = lives.get_mut(&id).expect("what is taken was put");
        assert!(life.taken.replace(step).is_none(), "{id:?} was taken twice before any cut");
    }
    lives
}

type Steps = Vec<(Id, Step)>;

fn client(address: SocketAddr, record: &Record, who: usize, steps: usize, seed: u64) -> (Steps, Steps) {
    let mut rng = Random(seed ^ (who as u64) << 32);
    let mut link = Link::connect(address);
    let (mut puts, mut takes) = (Vec::new(), Vec::new());
    for number in 0..steps {
        let queue = rng.below(QUEUES);
        let sent = record.len();
        match rng.below(10) {
            0..6 => {
                let id = (queue, who, number);
                let body = body(id);
                link.send(format!("set q{queue} 0 0 {}\r\n", body.len()).as_bytes());
                link.send(&[&body[..], b"\r\n"].concat());
                assert_eq!(link.line(), "STORED");
                puts.push((id, Step { sent, done: record.len() }));
            }
            6..8 => {
                link.send(format!("get q{queue}\r\n").as_bytes());
                if let Some(id) = link.value() {
                    takes.push((id, Step { sent, done: record.len() }));
                }
            }
            8 => {
                link.send(format!("get q{queue}/open\r\n").as_bytes());
                if let Some(id) = link.value() {
                    let sent = record.len();
                    link.send(format!("get q{queue}/close\r\n").as_bytes());
                    assert_eq!(link.line(), "END");
                    takes.push((id, Step { sent, done: record.len() }));
                }
            }
            _ if who == 0 && number % 8 == 0 => {
                link.send(b"db_checkpoint\r\n");
                assert_eq!(link.line(), "OK");
            }
            _ => {}
        }
    }
    (puts, takes)
}

/// Takes everything out of a server, in the order of each queue.
pub fn drain(address: SocketAddr) -> Vec<Id> {
    let mut link = Link::connect(address);
    let mut left = Vec::new();
    for queue in 0..QUEUES {
        loop {
            link.send(format!("get q{queue}\r\n").as_bytes());
            match link.value() {
                Some(id) => left.push(id),
                None => break,
            }
        }
    }
    left
}

/// Compares what is left after a cut with what clients knew at it.
///
/// # Errors
/// The first message that is not as it was promised.
pub fn judge(lives: &HashMap<Id, Life>, left: &[Id], cut: usize, promise: Promise) -> Result<(), String> {
    let mut newest: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut seen = HashMap::new();
    for &id in left {
        let life = lives.get(&id).ok_or(format!("{id:?} was never put"))?;
        let (queue, who, number) = id;
        if seen.insert(id, ()).is_some() {
            return Err(format!("{id:?} is there twice"));
        }
        if life.put.sent > cut {
            return Err(format!("{id:?} is there before it was put: {life:?}, the cut is at {cut}"));
        }
        if let Some(before) = newest.insert((queue, who), number).filter(|before| *before > number) {
            return Err(format!("{id:?} stands behind the younger {before}"));
        }
        if promise == Promise::Durable && life.taken.is_some_and(|taken| taken.done <= cut) {
            return Err(format!("{id:?} came back: {life:?}, the cut is at {cut}"));
        }
    }
    for (id, life) in lives {
        let asked_for = life.taken.is_some_and(|taken| taken.sent <= cut);
        let expected = match promise {
            Promise::Durable => life.put.done <= cut,
            Promise::Prefix => newest.get(&(id.0, id.1)).is_some_and(|newest| id.2 < *newest),
        };
        if expected && !asked_for && !seen.contains_key(id) {
            return Err(format!("{id:?} is lost: {life:?}, the cut is at {cut}"));
        }
    }
    Ok(())
}

/// The bytes of a message, which say whose it is; their number depends on that, too.
fn body((queue, who, number): Id) -> Vec<u8> {
    let mut rng = Random((queue * 1_000_003 + who * 10_007 + number) as u64);
    let size = if rng.below(20) == 0 { rng.below(60_000) } else { rng.below(900) };
    let mut body = format!("{queue}.{who}.{number}.").into_bytes();
    body.extend((0..size).map(|_| rng.below(256) as u8));
    body
}

struct Link(BufReader<TcpStream>);

impl Link {
    fn connect(address: SocketAddr) -> Link {
        Link(BufReader::new(TcpStream::connect(address).expect("a connection")))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The message of an answer to a get, if there is one; its bytes are what was put.
    fn value(&mut self) -> Option<Id> {
        let line = self.line();
        if line == "END" {
            return None;
        }
        let size = line.strip_prefix("VALUE ").and_then(|line| line.split(' ').nth(2)?.parse::<usize>().ok());
        let mut bytes = vec![0; size.unwrap_or_else(|| panic!("a reply to a get: {line}")) + 2];
        self.0.read_exact(&mut bytes).expect("a body");
        assert_eq!(self.line(), "END");
        let mut words = bytes.split(|byte| *byte == b'.').map(|word| str::from_utf8(word).ok()?.parse().ok());
        let mut number = || words.next().flatten().expect("a body says whose it is");
        let id = (number(), number(), number());
        assert!(bytes[..bytes.len() - 2] == body(id), "the bytes of {id:?} changed");
        Some(id)
    }
}
