//! Connection: one socket, a task that reads answers and a task that writes requests.
//!
//! Reading and writing are separate tasks, so that neither side can wait for the other: a server that does not read
//! before its answers are taken still gets both. The reading task decides what to send next, because it knows first
//! that there is room; all requests that follow from one read go out in one write. Two buffers are swapped for
//! writing and one is used for reading, for the whole run.

use std::cell::RefCell;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use crate::clock::Clock;
use crate::options::Target;
use crate::pacer::{Pacer, Signal};
use crate::session::{Load, Session};

/// Room for one read in bytes: 16 answers of 4 KB.
const READ_SIZE: usize = 64 << 10;

/// How long one connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connected socket and the session on it.
pub struct Connection {
    stream: TcpStream,
    session: RefCell<Session>,
    signal: Rc<Signal>,
    /// The connection's place on its thread.
    place: usize,
}

/// What the connections of one thread share while they run.
pub struct Thread {
    /// Counts, books and budget.
    pub load: RefCell<Load>,
    /// The run's clock.
    pub clock: Clock,
    /// Wakes connections when requests are due.
    pub pacer: Pacer,
}

impl Connection {
    /// Puts `session` on `stream`; raising `signal` makes the writing task look again.
    pub fn new(stream: TcpStream, session: Session, signal: Rc<Signal>, place: usize) -> Connection {
        Connection { stream, session: RefCell::new(session), signal, place }
    }

    /// Takes answers until the session is finished.
    pub async fn read_answers(self: Rc<Self>, thread: Rc<Thread>) -> Result<()> {
        let mut buffer = Vec::with_capacity(READ_SIZE);
        while !self.session.borrow().is_finished() {
            let filled = buffer.len();
            let (result, slice) = self.stream.read(buffer.slice(filled..)).await;
            buffer = slice.into_inner();
            if result.context("cannot read from the server")? == 0 {
                if self.session.borrow().is_finished() {
                    break;
                }
                let unanswered = self.session.borrow().unanswered();
                bail!("the server closed a connection with {unanswered} requests unanswered");
            }
            self.take_answers(&mut buffer, &thread)?;
            self.signal.raise();
        }
        Ok(())
    }

    /// Hands what was read to the session, makes room in `buffer` and encodes what may be sent now.
    fn take_answers(&self, buffer: &mut Vec<u8>, thread: &Thread) -> Result<()> {
        let now_ns = thread.clock.now_ns();
        let load = &mut *thread.load.borrow_mut();
        let mut session = self.session.borrow_mut();
        let used = session.on_bytes(buffer, now_ns, load)?;
        buffer.drain(..used);
        if !buffer.is_empty() {
            let room = session.needed.max(buffer.len() + 1);
            buffer.reserve(room - buffer.len());
        }
        session.fill(now_ns, load);
        load.tally.publish();
        Ok(())
    }

    /// Writes requests until the session is finished.
    pub async fn write_requests(self: Rc<Self>, thread: Rc<Thread>) -> Result<()> {
        self.session.borrow_mut().prepare(&mut thread.load.borrow_mut());
        let mut batch = Vec::new();
        loop {
            std::mem::swap(&mut batch, &mut self.session.borrow_mut().outgoing);
            if !batch.is_empty() {
                let (result, buffer) = self.stream.write_all(batch).await;
                result.context("cannot write to the server")?;
                batch = buffer;
                batch.clear();
                continue;
            }
            if !self.fill_when_due(&thread)? {
                self.signal.wait().await;
            }
            if self.session.borrow().is_finished() {
                // The reading task may wait for an answer that is not to come.
                let _ = self.stream.shutdown(Shutdown::Both);
                return Ok(());
            }
        }
    }

    /// Encodes what is due, at the start and in an open loop; false when there is nothing to write before a signal.
    fn fill_when_due(&self, thread: &Thread) -> Result<bool> {
        let load = &mut *thread.load.borrow_mut();
        let mut session = self.session.borrow_mut();
        session.fill(thread.clock.now_ns(), load);
        load.tally.publish();
        if !session.outgoing.is_empty() || session.is_finished() {
            return Ok(true);
        }
        if let Some(due_ns) = session.next_due_ns() {
            thread.pacer.wake_at(due_ns, self.place).context("cannot set the timer")?;
        }
        Ok(false)
    }
}

/// Connects to the server.
pub fn connect(target: &Target) -> Result<TcpStream> {
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
    // Reading and writing a unix socket through the TCP type is the same two operations on a descriptor.
    Ok(TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(socket))))
}
