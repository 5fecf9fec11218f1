//! A load whose every step knows where in the record of the disk it stood, and the way to take out what is left of it.
//!
//! Invariant: the bytes of a message follow from whose it is, and are compared whenever it comes back.

use crate::image::Random;
use crate::judge::{History, Id, Life, Step};
use crate::recorder::Record;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;

/// Queues of the load, `q0` and so on.
const QUEUES: usize = 8;
const CLIENTS: usize = 6;
/// Gets on their way at once when a server is emptied.
const BATCH_LEN: usize = 64;

/// Has each of some clients do the steps of these numbers, and adds what they were told to the history.
pub fn run(address: SocketAddr, record: &Record, numbers: Range<usize>, seed: u64, history: &mut History) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|who| {
            let (record, numbers) = (record.clone(), numbers.clone());
            thread::spawn(move || Client::new(address, record, who, seed).run(numbers))
        })
        .collect();
    let mut takes = Vec::new();
    for client in clients {
        let done = client.join().expect("the protocol holds");
        history.lives.extend(done.puts.into_iter().map(|(id, put)| Life { id, put, taken: None }));
        history.checkpoints.extend(done.checkpoints);
        takes.extend(done.takes);
    }
    let mut lives: HashMap<Id, &mut Life> = history.lives.iter_mut().map(|life| (life.id, life)).collect();
    for (id, step) in takes {
        let life = lives.get_mut(&id).expect("what is taken was put");
        assert!(life.taken.replace(step).is_none(), "{id:?} was taken twice before any cut");
    }
}

struct Client {
    who: usize,
    record: Record,
    rng: Random,
    link: Link,
    puts: Vec<(Id, Step)>,
    takes: Vec<(Id, Step)>,
    checkpoints: Vec<Step>,
}

impl Client {
    fn new(address: SocketAddr, record: Record, who: usize, seed: u64) -> Client {
        Client {
            who,
            record,
            rng: Random(seed ^ (who as u64) << 32),
            link: Link::connect(address),
            puts: Vec::new(),
            takes: Vec::new(),
            checkpoints: Vec::new(),
        }
    }

    fn run(mut self, numbers: Range<usize>) -> Client {
        for number in numbers {
            let queue = self.rng.below(QUEUES);
            match self.rng.below(20) {
                0..11 => self.put((queue, self.who, number)),
                11..15 => {
                    let step = self.request(&format!("get q{queue}\r\n"));
                    let value = self.link.value();
                    self.takes.extend(value.map(|id| (id, self.done(step))));
                }
                15..17 => self.read(queue, "close"),
                17..18 => self.read(queue, "abort"),
                _ if self.who == 0 && number % 16 == 0 => {
                    let step = self.request("db_checkpoint\r\n");
                    assert_eq!(self.link.line(), "OK");
                    self.checkpoints.push(self.done(step));
                }
                _ => {}
            }
        }
        self
    }

    fn put(&mut self, id: Id) {
        let body = body(id);
        let step = self.request(&format!("set q{} 0 0 {}\r\n", id.0, body.len()));
        self.link.send(&[&body[..], b"\r\n"].concat());
        assert_eq!(self.link.line(), "STORED");
        self.puts.push((id, self.done(step)));
    }

    /// Opens a message, if there is one, and ends the read.
    fn read(&mut self, queue: usize, end: &str) {
        self.request(&format!("get q{queue}/open\r\n"));
        let Some(id) = self.link.value() else { return };
        let step = self.request(&format!("get q{queue}/{end}\r\n"));
        assert_eq!(self.link.line(), "END");
        if end == "close" {
            self.takes.push((id, self.done(step)));
        }
    }

    fn request(&mut self, line: &str) -> Step {
        let now = self.record.moment();
        self.link.send(line.as_bytes());
        Step { sent: now, done: now }
    }

    fn done(&self, step: Step) -> Step {
        Step { done: self.record.moment(), ..step }
    }
}

/// Takes everything out of a server, in the order of each queue.
pub fn drain(address: SocketAddr) -> Vec<Id> {
    let mut link = Link::connect(address);
    let mut left = Vec::new();
    for queue in 0..QUEUES {
        let mut is_empty = false;
        while !is_empty {
            link.send(format!("get q{queue}\r\n").repeat(BATCH_LEN).as_bytes());
            for _ in 0..BATCH_LEN {
                let value = link.value();
                assert!(value.is_none() || !is_empty, "there is nothing behind END");
                is_empty |= value.is_none();
                left.extend(value);
            }
        }
    }
    left
}

/// The bytes of a message, which say whose it is; their number depends on that, too.
fn body((queue, who, number): Id) -> Vec<u8> {
    let mut rng = Random((queue * 1_000_003 + who * 10_007 + number) as u64);
    let size = if rng.below(6) == 0 { rng.below(60_000) } else { rng.below(900) };
    let mut body = format!("{queue}.{who}.{number}.").into_bytes();
    body.resize_with(body.len() + size, || rng.next() as u8);
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
