//! The ring: every socket operation of a shard, on one io_uring. Steps 1 and 9 of the path of a message: bytes in, bytes out.
//!
//! A turn submits what was asked for, waits if told to, and collects completions; [`Ring::next_event`] then hands them out
//! one by one. A receive is one multishot operation per connection into provided buffers, so an idle connection holds a
//! slot and no buffer. Invariant: whatever the kernel may still read or write (a descriptor, a send's bytes, a buffer) is
//! kept until the last completion that concerns it; closing is *ask → join → free*.
//!
//! It knows nothing of what the bytes mean. It is the only user of the io-uring crate, and is made and used on one thread:
//! the kernel refuses submissions from any other.

mod buffers;
mod connection;
mod error;
mod files;
mod hangup;
mod listener;
mod operation;
mod probe;
#[cfg(test)]
mod tests;
mod token;

pub use error::{StartError, diagnose};
pub use files::{FileId, WriteSync};
pub use probe::{Feature, Features, probe};

use crate::ids::ConnId;
use crate::page_buffer::PageBuffer;
use buffers::{Buffers, Lease};
use connection::Connections;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use listener::Listener;
use operation::Operation;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};
use token::{Kind, Token};

/// The kernel runs about 20 deferred items in an enter, so this lets a turn see over a thousand connections, and still ends
/// it when work comes in faster than it is collected.
const PASSES_MAX: usize = 64;

/// A send hands the kernel at most this much at once: lengths and results are 32 bits there.
const SEND_SIZE_MAX: usize = 1 << 30;

/// How long a ring that is dropped waits for the kernel to give everything back, in turns of [`JOIN_TURN`].
const JOIN_TURNS_MAX: usize = 500;
const JOIN_TURN: Duration = Duration::from_millis(20);

/// Sizes of a ring.
#[derive(Clone, Debug)]
pub struct Config {
    /// Places in the submission queue; the completion queue has four times as many. The kernel rounds up to a power of two
    /// and down to what it allows.
    pub entries: u32,
    /// Receive buffers; a power of two, at most 32,768.
    pub recv_buffers: u16,
    /// Size of one receive buffer in bytes.
    pub recv_buffer_size: u32,
    /// Connections at the same time, those that are closing included.
    pub connections_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { entries: 1024, recv_buffers: 256, recv_buffer_size: 16 << 10, connections_max: 65_536 }
    }
}

/// A listening socket of a ring, numbered from 0 in the order of [`Ring::listen`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerId(pub u32);

/// What a turn brought.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client connected. The socket is the receiver's, to give to [`Ring::adopt`], to another shard, or to drop.
    Accepted {
        /// Where it connected.
        listener: ListenerId,
        /// The connected socket, with the options it inherited.
        socket: OwnedFd,
    },
    /// Accepting failed and is paused on every listener until [`Ring::resume_accept`]. EMFILE, ENFILE, ENOBUFS and ENOMEM
    /// pass when connections are closed; anything else means the listener itself is unusable.
    AcceptFailed {
        /// Where it failed.
        listener: ListenerId,
        /// Why.
        error: io::Error,
    },
    /// Bytes came in, in the order they were sent.
    Received {
        /// From whom.
        conn: ConnId,
        /// At least one byte; valid until the next call.
        bytes: &'a [u8],
    },
    /// Nothing more will be received. What is being sent still is; the connection stays until [`Ring::close`].
    Ended {
        /// Which connection.
        conn: ConnId,
        /// `None` when the peer finished sending, otherwise why receiving failed.
        error: Option<io::Error>,
    },
    /// The peer of a paused connection has finished sending. What it sent before is still to be received.
    EndAhead {
        /// Which connection.
        conn: ConnId,
        /// It will receive nothing any more either. Only a unix socket tells.
        is_gone: bool,
    },
    /// The kernel has taken all bytes of a [`Ring::send`], or will take no more.
    Sent {
        /// Which connection.
        conn: ConnId,
        /// The bytes, for reuse of their allocation.
        buffer: Vec<u8>,
        /// How many of them the kernel has taken.
        sent: usize,
        /// The error that stopped it, after any part of the bytes.
        result: io::Result<()>,
    },
    /// A [`Ring::close`] is complete: the socket is closed, the id is spent, its index can come back with a new generation.
    Closed {
        /// Which connection.
        conn: ConnId,
        /// How many bytes of the send that was cut off the kernel has taken; 0 if there was none.
        sent: usize,
    },
    /// A [`Ring::write`] is done.
    Written {
        /// The caller's name for it.
        token: u32,
        /// What was written, for reuse.
        buffer: PageBuffer,
        /// Whether all of it is durable.
        result: io::Result<()>,
    },
    /// A [`Ring::sync`] is done.
    Synced {
        /// Whether everything written before is durable.
        result: io::Result<()>,
    },
    /// The watched descriptor was written to.
    Woken,
    /// The time of [`Ring::set_timer`] has come. The timer is not set any more.
    Timer,
}

/// One io_uring with the sockets it serves.
pub struct Ring {
    /// First, so that it is dropped before any memory it knows.
    io: IoUring,
    buffers: Buffers,
    connections: Connections,
    listeners: Vec<Listener>,
    accepting: Accepting,
    watch: Option<Watch>,
    deadline: Option<Instant>,
    timer_due: bool,
    /// Submissions that found the queue full and could not be flushed; they go before any other.
    backlog: VecDeque<squeue::Entry>,
    /// Completions of the last turn; those before `handed_out` are done.
    completions: Vec<cqueue::Entry>,
    handed_out: usize,
    /// The buffer behind the last `Received`, given back at the next call.
    lease: Option<Lease>,
    /// Connections that met an empty buffer ring, in the order they will receive again. May name spent ids.
    starved: VecDeque<ConnId>,
    /// Connections whose `Closed` is due.
    closed: VecDeque<ConnId>,
    files: files::Files,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    On,
    Paused,
    Stopped,
}

struct Watch {
    fd: OwnedFd,
    poll: Operation,
    stopped: bool,
}

impl Ring {
    /// Sets up a ring for the calling thread.
    ///
    /// # Errors
    /// When the kernel is too old, forbids io_uring, or lacks the memory; the error says which and what to do.
    pub fn new(config: &Config) -> Result<Ring, StartError> {
        assert!(config.entries > 0);
        assert!(config.recv_buffers.is_power_of_two());
        assert!(config.recv_buffers <= buffers::COUNT_MAX);
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.entries.saturating_mul(4))
            .build(config.entries)
            .map_err(|error| diagnose(&error))?;
        probe::require(&io)?;
        let buffers = Buffers::register(&io.submitter(), config.recv_buffers, config.recv_buffer_size)
            .map_err(|error| diagnose(&error))?;
        Ok(Ring {
            io,
            buffers,
            connections: Connections::new(config.connections_max),
            listeners: Vec::new(),
            accepting: Accepting::On,
            watch: None,
            deadline: None,
            timer_due: false,
            backlog: VecDeque::new(),
            completions: Vec::new(),
            handed_out: 0,
            lease: None,
            starved: VecDeque::new(),
            files: files::Files::default(),
            closed: VecDeque::new(),
        })
    }

    /// Accepts clients of a listening socket, until [`Ring::stop_listening`].
    ///
    /// # Errors
    /// When `listener` is not an open descriptor.
    pub fn listen(&mut self, listener: OwnedFd) -> io::Result<ListenerId> {
        assert!(self.accepting != Accepting::Stopped, "listening stops once");
        let index = self.listeners.len();
        self.listeners.push(Listener::new(listener)?);
        self.settle_listener(index);
        Ok(ListenerId(index as u32))
    }

    /// Stops accepting for good and closes the listening sockets. A client accepted but not handed out yet is dropped.
    pub fn stop_listening(&mut self) {
        self.set_accepting(Accepting::Stopped);
    }

    /// Leaves clients waiting in the backlog of their listener. Clients accepted before are still handed out.
    pub fn pause_accept(&mut self) {
        if self.accepting == Accepting::On {
            self.set_accepting(Accepting::Paused);
        }
    }

    /// Ends [`Ring::pause_accept`], or the pause after [`Event::AcceptFailed`].
    pub fn resume_accept(&mut self) {
        if self.accepting == Accepting::Paused {
            self.set_accepting(Accepting::On);
        }
    }

    /// Takes over a connected stream socket in blocking mode and starts to receive from it.
    ///
    /// # Errors
    /// The socket itself, when `connections_max` are in use.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<ConnId, OwnedFd> {
        let conn = self.connections.insert(socket)?;
        self.settle(conn);
        Ok(conn)
    }

    /// Sends `bytes`, at least one, whatever number of system calls it takes. One send per connection at a time: the next
    /// may follow when [`Event::Sent`] came. Panics on a connection that is closing or closed.
    pub fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "an empty send would never complete");
        let slot = self.connections.open(conn).expect("sends go to open connections");
        assert!(!slot.send.is_in_flight(), "one send at a time");
        slot.sending = bytes;
        slot.sent = 0;
        self.send_rest(conn);
    }

    /// Stops receiving, so that the peer meets a full window. What was received before is still handed out. That the connection breaks
    /// is noticed all the same, [`Event::Ended`], and what was not received then is dropped; that the peer finishes sending is told
    /// ahead of what it sent, [`Event::EndAhead`]. No effect on a connection that is closing or closed.
    pub fn pause_recv(&mut self, conn: ConnId) {
        self.set_recv_paused(conn, true);
    }

    /// Receives again after [`Ring::pause_recv`].
    pub fn resume_recv(&mut self, conn: ConnId) {
        self.set_recv_paused(conn, false);
    }

    /// Tells the peer that nothing more will be sent; receiving goes on. Not while a send is in flight. No effect on a
    /// connection that is closing or closed.
    pub fn shutdown_write(&mut self, conn: ConnId) {
        let Some(slot) = self.connections.open(conn) else { return };
        assert!(!slot.send.is_in_flight(), "the last send comes before the end");
        // Fails only when the peer is gone already, which receiving reports.
        let _ = rustix::net::shutdown(slot.socket(), rustix::net::Shutdown::Write);
    }

    /// Receives what has arrived, and then [`Event::Ended`], whatever the peer goes on to send. No effect on a connection that
    /// is closing or closed.
    pub fn shutdown_read(&mut self, conn: ConnId) {
        let Some(slot) = self.connections.open(conn) else { return };
        // Fails only when the peer is gone already, which receiving reports.
        let _ = rustix::net::shutdown(slot.socket(), rustix::net::Shutdown::Read);
    }

    /// Closes a connection: cancels its operations, waits for them, closes the socket, then [`Event::Closed`]. A send under
    /// way is cut off. From now on nothing else is handed out for it. No effect the second time.
    pub fn close(&mut self, conn: ConnId) {
        let Some(slot) = self.connections.open(conn) else { return };
        slot.closing = true;
        self.settle(conn);
    }

    /// The socket of a connection that was not asked to close.
    pub fn socket(&mut self, conn: ConnId) -> Option<&OwnedFd> {
        self.connections.open(conn).map(|slot| slot.socket())
    }

    /// Hands out [`Event::Woken`] when `fd`, a non-blocking eventfd, is written to; resets its counter each time. One
    /// descriptor per ring.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        assert!(self.watch.is_none(), "one descriptor is watched");
        self.watch = Some(Watch { fd: fd.try_clone_to_owned()?, poll: Operation::default(), stopped: false });
        self.settle_watch();
        Ok(())
    }

    /// Sets the one timer to `after` from now, or to never. Costs no system call: turns that wait are bounded by it.
    pub fn set_timer(&mut self, after: Option<Duration>) {
        self.timer_due = false;
        self.deadline = after.and_then(|after| Instant::now().checked_add(after));
    }

    /// Submits everything asked for and collects completions; with `wait` sleeps until there is at least one or the timer is
    /// due, unless events of an earlier turn are still to be taken. Returns the number of completions, some of which are
    /// the ring's own business: a turn can wake up without an event.
    ///
    /// # Errors
    /// When the kernel refuses the ring itself; it is unusable then.
    pub fn turn(&mut self, wait: bool) -> io::Result<usize> {
        self.end_lease();
        self.forget_handed_out();
        self.feed_starved();
        let mut collected = 0;
        let mut wait = wait && self.starved.is_empty() && !self.has_events();
        for _ in 0..PASSES_MAX {
            self.flush_backlog();
            self.enter(wait && self.backlog.is_empty())?;
            wait = false;
            let pass = self.gather();
            collected += pass;
            // The flag alone can stay up without anything coming of it.
            let more = pass > 0 && self.io.submission().taskrun() && !self.is_short_of_buffers();
            if !more && self.backlog.is_empty() {
                break;
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.deadline = None;
            self.timer_due = true;
        }
        Ok(collected)
    }

    /// The next event of the last turn, `None` when all are taken. Returns the buffer of the [`Event::Received`] before.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        self.end_lease();
        let event = self.next_owned_event()?;
        Some(match (event, self.lease) {
            (Event::Received { conn, .. }, Some(lease)) => Event::Received { conn, bytes: self.buffers.bytes(lease) },
            (event, _) => event,
        })
    }
}

/// Submission.
impl Ring {
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            // An error comes again at the turn, which reports it.
            let _ = self.io.submit();
            if self.try_push(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the entries made here point to no memory but the bytes of a send, which stay in their slot, and those of a
        // write, which stay in `files`, both untouched until their completion; descriptors are owned by slots, listeners,
        // files and the watch until theirs.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }

    fn flush_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn push_cancel(&mut self, answer: Kind, target: Kind, index: u32, generation: u32) {
        let target = Token::new(target, index, generation).pack();
        let answer = Token::new(answer, index, generation).pack();
        self.push(opcode::AsyncCancel::new(target).build().user_data(answer));
    }

    /// One system call, or none when there is nothing to submit, to run or to wait for.
    fn enter(&mut self, wait: bool) -> io::Result<()> {
        let queue = self.io.submission();
        if !wait && queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        let entered = match self.deadline {
            Some(deadline) if wait => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => self.io.submit(),
                remaining => {
                    let timeout = types::Timespec::from(remaining);
                    self.io.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
                }
            },
            _ => self.io.submit_and_wait(usize::from(wait)),
        };
        let Err(error) = entered else { return Ok(()) };
        match Errno::from_io_error(&error) {
            // The timer; a signal; a completion queue to be emptied first; memory that is short for the moment.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    fn send_rest(&mut self, conn: ConnId) {
        let slot = self.connections.at(conn);
        slot.send.started();
        let rest = slot.unsent();
        let size = rest.len().min(SEND_SIZE_MAX) as u32;
        let send = opcode::Send::new(types::Fd(slot.fd()), rest.as_ptr(), size).flags(libc::MSG_NOSIGNAL);
        let token = Token::new(Kind::Send, conn.index, conn.generation);
        self.push(send.build().user_data(token.pack()));
    }

    fn set_recv_paused(&mut self, conn: ConnId, paused: bool) {
        let Some(slot) = self.connections.open(conn) else { return };
        slot.paused = paused;
        self.settle(conn);
    }

    fn set_accepting(&mut self, accepting: Accepting) {
        self.accepting = accepting;
        for index in 0..self.listeners.len() {
            self.settle_listener(index);
        }
    }

    /// Brings what the kernel does for a connection closer to what is wanted of it. Runs after every change of either.
    fn settle(&mut self, conn: ConnId) {
        let slot = self.connections.at(conn);
        if slot.wants_recv() {
            if slot.recv.is_idle() && !slot.starved {
                slot.recv.started();
                let recv = opcode::RecvMulti::new(types::Fd(slot.fd()), buffers::GROUP);
                let token = Token::new(Kind::Recv, conn.index, conn.generation);
                self.push(recv.build().user_data(token.pack()));
            }
        } else if slot.recv.is_cancellable() {
            slot.recv.cancel_asked();
            self.push_cancel(Kind::CancelRecv, Kind::Recv, conn.index, conn.generation);
        }
        let slot = self.connections.at(conn);
        if slot.closing && slot.send.is_cancellable() {
            slot.send.cancel_asked();
            self.push_cancel(Kind::CancelSend, Kind::Send, conn.index, conn.generation);
        }
        self.settle_hangup(conn);
        let slot = self.connections.at(conn);
        if slot.closing && slot.recv.is_idle() && slot.send.is_idle() && slot.hangup.is_idle() {
            self.connections.close_socket(conn);
            self.closed.push_back(conn);
        }
    }

    fn settle_listener(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        let Some(socket) = &listener.socket else { return };
        let place = index as u32;
        if self.accepting == Accepting::On {
            if listener.accept.is_idle() {
                let accept = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC);
                listener.accept.started();
                self.push(accept.build().user_data(Token::new(Kind::Accept, place, 0).pack()));
            }
        } else if listener.accept.is_cancellable() {
            listener.accept.cancel_asked();
            self.push_cancel(Kind::CancelAccept, Kind::Accept, place, 0);
        } else if self.accepting == Accepting::Stopped && listener.accept.is_idle() {
            listener.socket = None;
        }
    }

    fn settle_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        if watch.stopped {
            if watch.poll.is_cancellable() {
                watch.poll.cancel_asked();
                self.push_cancel(Kind::CancelWatch, Kind::Watch, 0, 0);
            }
        } else if watch.poll.is_idle() {
            watch.poll.started();
            let poll = opcode::PollAdd::new(types::Fd(watch.fd.as_raw_fd()), libc::POLLIN as u32).multi(true);
            self.push(poll.build().user_data(Token::new(Kind::Watch, 0, 0).pack()));
        }
    }

    /// Lets as many starved connections receive again as there are buffers for. The others follow at the next turn, which
    /// does not wait: a receive takes a buffer for a moment even when no byte is there, so one that failed for want of a
    /// buffer may be without data, and nothing may ever come of those that were let through.
    fn feed_starved(&mut self) {
        for _ in 0..self.buffers.available() {
            let Some(conn) = self.starved.pop_front() else { return };
            let Some(slot) = self.connections.open(conn) else { continue };
            slot.starved = false;
            self.settle(conn);
        }
    }
}

/// Completion.
impl Ring {
    fn has_events(&self) -> bool {
        self.handed_out < self.completions.len() || !self.closed.is_empty() || self.timer_due
    }

    /// A turn that went on with the last buffers would only starve connections, each at the cost of starting its receive
    /// anew.
    fn is_short_of_buffers(&self) -> bool {
        self.buffers.available() <= self.buffers.count() / 8
    }

    fn end_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.buffers.give_back(lease.buffer);
        }
    }

    fn forget_handed_out(&mut self) {
        self.completions.drain(..self.handed_out);
        self.handed_out = 0;
    }

    /// Empties the kernel's completion queue into ours, so that another pass has room.
    fn gather(&mut self) -> usize {
        let before = self.completions.len();
        for completion in self.io.completion() {
            if cqueue::buffer_select(completion.flags()).is_some() {
                self.buffers.taken();
            }
            self.completions.push(completion);
        }
        self.completions.len() - before
    }

    /// The next event, a `Received` without its bytes: those are behind `lease`, which was taken for it.
    fn next_owned_event(&mut self) -> Option<Event<'static>> {
        loop {
            if let Some(conn) = self.closed.pop_front() {
                let sent = self.connections.vacate(conn);
                return Some(Event::Closed { conn, sent });
            }
            if std::mem::take(&mut self.timer_due) {
                return Some(Event::Timer);
            }
            let completion = self.completions.get(self.handed_out)?.clone();
            self.handed_out += 1;
            if let Some(event) = self.on_completion(&completion) {
                return Some(event);
            }
        }
    }

    fn on_completion(&mut self, completion: &cqueue::Entry) -> Option<Event<'static>> {
        let token = Token::unpack(completion.user_data());
        let more = cqueue::more(completion.flags());
        let result = match completion.result() {
            result @ 0.. => Ok(result as u32),
            negative => Err(Errno::from_raw_os_error(-negative)),
        };
        match token.kind {
            Kind::Recv => {
                let buffer = cqueue::buffer_select(completion.flags());
                self.on_recv(token, result, more, buffer)
            }
            Kind::Send => self.on_send(token, result),
            Kind::Hangup => self.on_hangup(token, result, more),
            Kind::Accept => self.on_accept(token.index as usize, result, more),
            Kind::Watch => self.on_watch(result, more),
            Kind::Write | Kind::Sync => self.on_file(token, result),
            Kind::CancelRecv | Kind::CancelSend | Kind::CancelHangup | Kind::CancelAccept | Kind::CancelWatch => {
                self.on_cancel(token, result.is_ok());
                None
            }
        }
    }

    fn on_recv(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
    ) -> Option<Event<'static>> {
        let (conn, slot) = self.connections.of(token);
        if !more {
            slot.recv.finished();
        }
        let event = match result {
            _ if slot.closing || slot.ended => None,
            Ok(1..) => Some(Event::Received { conn, bytes: &[] }),
            Ok(0) => Some(Event::Ended { conn, error: None }),
            Err(Errno::CANCELED | Errno::INTR) => None,
            Err(Errno::NOBUFS) => {
                slot.starved = true;
                self.starved.push_back(conn);
                None
            }
            Err(error) => Some(Event::Ended { conn, error: Some(error.into()) }),
        };
        slot.ended |= matches!(event, Some(Event::Ended { .. }));
        match (&event, buffer) {
            (Some(Event::Received { .. }), buffer) => {
                let buffer = buffer.expect("received bytes are in a buffer");
                self.lease = result.ok().map(|size| Lease { buffer, size });
            }
            (_, Some(buffer)) => self.buffers.give_back(buffer),
            (_, None) => {}
        }
        self.settle(conn);
        event
    }

    fn on_send(&mut self, token: Token, result: Result<u32, Errno>) -> Option<Event<'static>> {
        let (conn, slot) = self.connections.of(token);
        slot.send.finished();
        slot.sent += result.map_or(0, |size| size as usize);
        if slot.closing {
            self.settle(conn);
            return None;
        }
        let result = match result {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => Ok(()),
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if result.is_ok() && !slot.unsent().is_empty() {
            self.send_rest(conn);
            return None;
        }
        let (buffer, sent) = (std::mem::take(&mut slot.sending), std::mem::take(&mut slot.sent));
        Some(Event::Sent { conn, buffer, sent, result })
    }

    fn on_accept(&mut self, index: usize, result: Result<u32, Errno>, more: bool) -> Option<Event<'static>> {
        if !more {
            self.listeners[index].accept.finished();
        }
        let listener = ListenerId(index as u32);
        let event = match result {
            Ok(fd) => {
                // SAFETY: an accept that succeeded made this descriptor for us, and its completion is read once.
                let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                (self.accepting != Accepting::Stopped).then_some(Event::Accepted { listener, socket })
            }
            Err(error) if listener::is_passing(error) => None,
            Err(error) => {
                self.pause_accept();
                Some(Event::AcceptFailed { listener, error: error.into() })
            }
        };
        self.settle_listener(index);
        event
    }

    fn on_watch(&mut self, result: Result<u32, Errno>, more: bool) -> Option<Event<'static>> {
        let watch = self.watch.as_mut().expect("what completes was watched");
        if !more {
            watch.poll.finished();
        }
        // Read before the event is handed out: a write after this one wakes again, one before is covered by it.
        let _ = rustix::io::read(&watch.fd, &mut [0u8; 8]);
        let stopped = watch.stopped;
        self.settle_watch();
        (result.is_ok() && !stopped).then_some(Event::Woken)
    }

    fn on_cancel(&mut self, token: Token, found: bool) {
        let index = token.index as usize;
        match token.kind {
            Kind::CancelAccept => {
                self.listeners[index].accept.cancel_answered(found);
                self.settle_listener(index);
            }
            Kind::CancelWatch => {
                self.watch.as_mut().expect("what completes was watched").poll.cancel_answered(found);
                self.settle_watch();
            }
            kind => {
                let (conn, slot) = self.connections.of(token);
                let operation = match kind {
                    Kind::CancelRecv => &mut slot.recv,
                    Kind::CancelHangup => &mut slot.hangup,
                    _ => &mut slot.send,
                };
                operation.cancel_answered(found);
                self.settle(conn);
            }
        }
    }
}

/// The end.
impl Ring {
    fn close_everything(&mut self) {
        self.stop_listening();
        for conn in self.connections.all_open() {
            self.close(conn);
        }
        if let Some(watch) = &mut self.watch {
            watch.stopped = true;
        }
        self.settle_watch();
    }

    /// Waits until the kernel holds nothing of ours.
    fn join(&mut self) -> bool {
        for _ in 0..JOIN_TURNS_MAX {
            while self.next_event().is_some() {}
            let listening = self.listeners.iter().any(|listener| listener.socket.is_some());
            let watching = self.watch.as_ref().is_some_and(|watch| !watch.poll.is_idle());
            if self.connections.len() == 0 && !listening && !watching && self.files.is_idle() {
                return true;
            }
            self.set_timer(Some(JOIN_TURN));
            if self.turn(true).is_err() {
                return false;
            }
        }
        false
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close_everything();
        if self.join() {
            let _ = self.io.submitter().unregister_buf_ring(buffers::GROUP);
        } else {
            self.buffers.leak();
            self.connections.leak();
            self.files.leak();
        }
    }
}
