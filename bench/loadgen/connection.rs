//! Connections: the sockets of one thread and the sessions on them, on one ring.
//!
//! A turn takes every answer that has come, lets each session encode what follows from it, and hands all of it to the
//! kernel at once; so a load of many connections costs few system calls. Requests of an open loop are sent when the ring's
//! timer says that they are due. Invariant: a connection that is not finished has a request in flight, is sending, or is due
//! at a known time.
//!
//! It shares the ring with the server, and nothing else: how bytes move, not what they mean.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ringq::ring::{Config, Event, Ring};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock::Clock;
use crate::options::{Plan, Target};
use crate::session::{Load, Session};

/// How long one connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// All connections of a thread.
pub struct Connections {
    ring: Ring,
    /// By the index that the ring gave each of them.
    clients: Vec<Client>,
    load: Load,
    /// When which connection has a request to send, though no answer comes.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    running: usize,
}

struct Client {
    conn: ringq::ids::ConnId,
    session: Session,
    /// Received, and not a whole answer yet.
    input: Vec<u8>,
    /// Empty, to encode into while the other is being sent.
    spare: Vec<u8>,
    is_sending: bool,
    /// It is in the list of those that are due.
    is_due: bool,
    is_finished: bool,
}

impl Connections {
    /// Connects those with the given numbers.
    pub fn open(plan: &Arc<Plan>, indices: Range<usize>, load: Load) -> Result<Connections> {
        let connections_max = u32::try_from(indices.len()).context("too many connections")?;
        let mut ring = Ring::new(&Config { connections_max, ..Config::default() })?;
        let mut clients = Vec::with_capacity(indices.len());
        for index in indices {
            let conn = ring.adopt(connect(&plan.target)?).map_err(|_| anyhow!("the ring is full"))?;
            assert_eq!(conn.index as usize, clients.len(), "a fresh ring counts from 0");
            clients.push(Client {
                conn,
                session: Session::new(plan.clone(), index),
                input: Vec::new(),
                spare: Vec::new(),
                is_sending: false,
                is_due: false,
                is_finished: false,
            });
        }
        let running = clients.len();
        Ok(Connections { ring, clients, load, due: BinaryHeap::new(), running })
    }

    /// Runs every session to its end; what was counted.
    pub fn run(mut self, clock: Clock) -> Result<Load> {
        for place in 0..self.clients.len() {
            self.clients[place].session.prepare(&mut self.load);
            self.go_on(place, clock.now_ns());
        }
        while self.running > 0 {
            let next_ns = self.due.peek().map(|Reverse((due_ns, _))| *due_ns);
            let wait = next_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(clock.now_ns())));
            self.ring.set_timer(wait);
            self.ring.turn(true)?;
            self.take_events(clock)?;
            self.send_due(clock.now_ns());
            self.load.tally.publish();
        }
        Ok(self.load)
    }

    fn take_events(&mut self, clock: Clock) -> Result<()> {
        while let Some(event) = self.ring.next_event() {
            let place = match event {
                Event::Received { conn, bytes } => {
                    let client = &mut self.clients[conn.index as usize];
                    client.take_answers(bytes, clock.now_ns(), &mut self.load)?;
                    conn.index as usize
                }
                Event::Sent { conn, mut buffer, result, .. } => {
                    result.context("cannot write to the server")?;
                    buffer.clear();
                    let client = &mut self.clients[conn.index as usize];
                    client.spare = buffer;
                    client.is_sending = false;
                    conn.index as usize
                }
                Event::Ended { conn, error } => {
                    let client = &self.clients[conn.index as usize];
                    if client.is_finished {
                        continue;
                    }
                    if let Some(error) = error {
                        return Err(error).context("cannot read from the server");
                    }
                    bail!("the server closed a connection with {} requests unanswered", client.session.unanswered());
                }
                _ => continue,
            };
            self.go_on(place, clock.now_ns());
        }
        Ok(())
    }

    fn send_due(&mut self, now_ns: u64) {
        while let Some(&Reverse((due_ns, place))) = self.due.peek()
            && due_ns <= now_ns
        {
            self.due.pop();
            self.clients[place].is_due = false;
            self.go_on(place, now_ns);
        }
    }

    /// Encodes and sends what may be sent now, or notes when there will be something.
    fn go_on(&mut self, place: usize, now_ns: u64) {
        let client = &mut self.clients[place];
        if client.is_finished {
            return;
        }
        client.session.fill(now_ns, &mut self.load);
        if client.session.is_finished() {
            client.is_finished = true;
            self.running -= 1;
            if client.session.is_producer() {
                self.load.producers.fetch_sub(1, Ordering::Release);
            }
            return self.ring.close(client.conn);
        }
        if !client.session.outgoing.is_empty() && !client.is_sending {
            client.is_sending = true;
            let bytes = std::mem::replace(&mut client.session.outgoing, std::mem::take(&mut client.spare));
            self.ring.send(client.conn, bytes);
        } else if let Some(due_ns) = client.session.next_due_ns()
            && !client.is_due
        {
            client.is_due = true;
            self.due.push(Reverse((due_ns, place)));
        }
    }
}

impl Client {
    /// Hands what was received to the session; keeps the front of an answer that is not whole.
    fn take_answers(&mut self, bytes: &[u8], now_ns: u64, load: &mut Load) -> Result<()> {
        if self.input.is_empty() {
            let used = self.session.on_bytes(bytes, now_ns, load)?;
            self.input.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.input.extend_from_slice(bytes);
        // A large message comes in many pieces: it is looked at when it can be whole.
        if self.input.len() >= self.session.needed {
            let used = self.session.on_bytes(&self.input, now_ns, load)?;
            self.input.drain(..used);
        }
        Ok(())
    }
}

/// Connects to the server.
fn connect(target: &Target) -> Result<OwnedFd> {
    let (domain, address) = match target {
        Target::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Target::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    let place = || match target {
        Target::Tcp(address) => format!("cannot connect to {address}"),
        Target::Unix(path) => format!("cannot connect to {}", path.display()),
    };
    match target {
        Target::Tcp(_) => {
            socket.connect_timeout(&address, CONNECT_TIMEOUT).with_context(place)?;
            socket.set_tcp_nodelay(true)?;
        }
        Target::Unix(_) => socket.connect(&address).with_context(place)?,
    }
    Ok(OwnedFd::from(socket))
}
