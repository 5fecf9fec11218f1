//! A shard thread: the loop that joins one ring, one engine, the store and the other shards.
//!
//! A turn: take mail and completions, feed them to the engine, let it go on with what waited, hand on the turn's mutations, carry
//! out its effects, submit, and sleep when there is nothing left to do. All decisions are the engine's; all system calls are
//! the ring's.
//!
//! Invariant: batches become durable in the order they were sealed, and a reply is sent only when the engine released it.
//!
//! Step 1, 7 and 9 of a message's path.

mod observe;
mod pool;
mod snapshot;

pub use observe::{Action, CHECKPOINTS_KEPT, Ended, Page, Question, State};
pub use snapshot::{Inquiry, Snapshot};

use crate::clock::Now;
use crate::durability::Durability;
use crate::engine::{self, Engine, Fate, Mail as EngineMail, Notice};
use crate::host;
use crate::ids::{ConnId, IdRange, QueueId, Seq, ShardId};
use crate::latency;
use crate::latency::Metric;
use crate::limits;
use crate::log::{self, Complaints, shown};
use crate::mailbox::Mailbox;
use crate::proto::{Dialect, reply};
use crate::ring::{Event, Ring};
use crate::store;
use crate::udp;
use pool::Pool;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tracing::Level;

/// What arrives in a shard's mailbox.
#[derive(Debug)]
pub enum Mail {
    /// From another shard.
    Peer(ShardId, EngineMail),
    /// From the store.
    Store(store::Reply),
    /// A connection accepted elsewhere that this shard is to serve, and what it speaks.
    Adopt(OwnedFd, Dialect),
    /// A datagram's requests: this shard is to serve them, and to say the replies to the socket.
    Datagram {
        /// A connected stream socket, for the replies only. When it is closed, all was said.
        socket: OwnedFd,
        /// All there are.
        requests: Vec<u8>,
        /// Largest size of all replies together, bytes.
        reply_size_max: usize,
    },
    /// A connection was closed while accepting was paused.
    Resume,
    /// From the main thread: answered by [`Report::Inspected`], and [`Report::StoreAlive`] if the store is asked for.
    Inspect(Inquiry),
    /// From the main thread: settings have changed.
    Change(Changes),
    /// From the admin listener.
    Ask(Question),
    /// Finish what was accepted.
    Stop,
    /// Every shard has finished: end.
    Exit,
}

/// What an operator may change while the server runs.
#[derive(Clone, Debug)]
pub struct Changes {
    /// What concerns the engine.
    pub engine: engine::Tunables,
    /// `-C`, ms.
    pub checkpoint_every_ms: u64,
    /// `--min-free`, bytes, for the one shard that tells the store.
    pub free_size_min: Option<u64>,
}

/// What the main thread hears, from shards and of signals.
#[derive(Debug)]
pub enum Report {
    /// The process got this signal.
    Signal(i32),
    /// A client asked for this log level.
    Verbosity(u8),
    /// A client asked the server to stop.
    Shutdown,
    /// A client asked that the configuration be read again.
    Reload,
    /// How the shard is, for the inquiry of this number.
    Inspected(ShardId, u64, Box<Snapshot>),
    /// The store thread has answered in the inquiry of this number.
    StoreAlive(u64),
    /// The shard's thread has ended.
    Ended(ShardId, io::Result<()>),
    /// The store thread has ended: everything is stored.
    StoreEnded,
}

/// What all shards share.
pub struct Shared {
    /// One for each shard.
    pub mailboxes: Vec<Mailbox<Mail>>,
    /// First id that no range covers.
    pub ids_next: AtomicU64,
    /// Open connections of all shards.
    pub connections: AtomicUsize,
    /// Most connections there may be.
    pub connections_max: usize,
    /// Shards that still have connections to serve after [`Mail::Stop`], and the UDP thread while it waits for replies.
    pub draining: AtomicUsize,
    /// Datagrams so far.
    pub udp: udp::Counts,
    /// For each shard, bytes of mutations that the store does not have: what pauses between its transactions depend on.
    pub pressure: Arc<[AtomicUsize]>,
    /// What one shard may have of them before its puts wait.
    pub pressure_share: usize,
    /// Accepting is paused for lack of files.
    pub accept_paused: AtomicBool,
    /// The main thread was asked to read the configuration again, and has not begun.
    pub reload_asked: AtomicBool,
    /// When the process started.
    pub start: Instant,
}

impl Shared {
    /// Reserves a range of ids.
    pub fn reserve_ids(&self) -> IdRange {
        let next = self.ids_next.fetch_add(limits::ID_RANGE_LEN, Ordering::Relaxed);
        IdRange { next, end: next + limits::ID_RANGE_LEN }
    }

    /// One of those that are counted in `draining` has nothing left to serve. They may still be needed by each other; the last
    /// one lets all go.
    pub fn report_drained(&self) {
        if self.draining.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Exit));
        }
    }
}

/// A shard's ways to the rest of the server.
#[derive(Clone)]
pub struct Links {
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// To the store thread.
    pub store: mpsc::Sender<store::Request>,
    /// To the main thread.
    pub reports: mpsc::Sender<Report>,
}

/// How long accepting stays paused for lack of files when no connection closes, ms.
const ACCEPT_RETRY_MS: u64 = 1000;

/// How often the log says that accepting is paused, ms: where files stay short, it is with every client that comes and goes.
const ACCEPT_WARN_MS: u64 = 60_000;

/// How the shard that accepts for all is getting on with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    On,
    /// There were no files.
    Paused,
    /// Begun again in this turn: whether there are files now, the ring says at once.
    Retried,
}

/// One shard's loop.
pub struct Shard {
    id: ShardId,
    engine: Engine,
    ring: Ring,
    durability: Durability,
    shared: Arc<Shared>,
    store: mpsc::Sender<store::Request>,
    reports: mpsc::Sender<Report>,
    now: Now,
    mail: Vec<Mail>,
    /// Empty buffers for replies.
    pool: Pool,
    /// Empty, for the batch after the one that is being handed on.
    spare_batch: Vec<u8>,
    /// `-L`: a batch of this size is handed on before the turn is over, bytes.
    batch_size: usize,
    /// When the oldest request of the batch that is not handed on began, monotonic µs.
    batch_began_us: Option<u64>,
    /// Batches that are not durable yet, with the same.
    committing: VecDeque<(Seq, u64)>,
    /// Queues that are being read from the store, and since when, monotonic µs.
    loading: HashMap<QueueId, u64, foldhash::fast::RandomState>,
    /// What those speak that come to each listener.
    dialects: Vec<Dialect>,
    /// The next shard to get a connection.
    next_shard: usize,
    accepting: Accepting,
    /// When to try again to accept if no connection closes, monotonic ms.
    accept_retry_ms: u64,
    /// When the log said that accepting is paused, monotonic ms.
    accept_warned_ms: Option<u64>,
    stopping: bool,
    drained: bool,
    exit: bool,
    complaints: Complaints,
    observed: observe::Observed,
    /// This turn brought something: more may be coming.
    is_busy: bool,
}

impl Shard {
    /// Joins the parts; `batch_size` is `-L`, bytes. To be called on the thread that will run it.
    ///
    /// # Errors
    /// When the ring cannot watch the mailbox or a listener.
    pub fn new(
        id: ShardId,
        engine: Engine,
        mut ring: Ring,
        durability: Durability,
        listeners: Vec<(OwnedFd, Dialect)>,
        links: Links,
        batch_size: usize,
    ) -> io::Result<Shard> {
        let Links { shared, store, reports } = links;
        ring.watch(shared.mailboxes[usize::from(id.0)].wake_fd())?;
        let mut dialects = Vec::new();
        for (listener, dialect) in listeners {
            ring.listen(listener)?;
            dialects.push(dialect);
        }
        Ok(Shard {
            id,
            engine,
            ring,
            durability,
            now: host::now(shared.start),
            shared,
            store,
            reports,
            mail: Vec::new(),
            pool: Pool::default(),
            spare_batch: Vec::new(),
            batch_size,
            batch_began_us: None,
            committing: VecDeque::new(),
            loading: HashMap::default(),
            dialects,
            next_shard: 0,
            accepting: Accepting::On,
            accept_retry_ms: 0,
            accept_warned_ms: None,
            stopping: false,
            drained: false,
            exit: false,
            complaints: Complaints::default(),
            observed: observe::Observed::default(),
            is_busy: false,
        })
    }

    /// Runs until told to exit, and then until everything is on its way to the store.
    ///
    /// # Errors
    /// When the kernel refuses the ring, or the journal cannot be written.
    pub fn run(mut self) -> io::Result<()> {
        while !self.exit || self.is_making_durable() || self.cover()? {
            self.now = host::now(self.shared.start);
            self.engine.begin_turn(self.now);
            self.engine.set_trace(log::logs_commands());
            let had_work = self.engine.has_work();
            let retried = self.accepting == Accepting::Retried;
            self.is_busy = self.take_mail() | self.take_events()? | had_work;
            self.go_on_accepting(retried);
            self.engine.run();
            self.make_durable()?;
            self.carry_out();
            self.report_drained();
            self.complaints.sum_up(self.now.mono_ms);
            self.set_timer();
            let mailbox = &self.shared.mailboxes[usize::from(self.id.0)];
            let waits = !self.exit || self.is_making_durable();
            let sleep = waits && !self.engine.has_work() && !self.collects() && mailbox.prepare_sleep();
            self.ring.turn(sleep)?;
            if sleep {
                mailbox.awake();
            }
        }
        self.complaints.sum_up(u64::MAX);
        self.durability.hurry_all();
        self.checkpoint();
        Ok(())
    }

    /// Whether something is not in the journal yet.
    fn is_making_durable(&self) -> bool {
        self.engine.unsealed_size() > 0 || self.durability.is_writing()
    }

    /// Whether mutations are collected although a record could be written. A record costs the same whatever is in it, and one
    /// that is under way makes the next one wait anyhow; so while requests keep coming, there is one at a time, and more only
    /// when there is nothing else to do.
    fn collects(&self) -> bool {
        let unsealed = self.engine.unsealed_size();
        self.is_busy && self.durability.is_writing() && (1..self.batch_size).contains(&unsealed)
    }

    // --- inputs ---

    /// Returns whether there was any, as [`Shard::take_events`] does.
    fn take_mail(&mut self) -> bool {
        let mut mail = std::mem::take(&mut self.mail);
        self.shared.mailboxes[usize::from(self.id.0)].take(&mut mail);
        let came = !mail.is_empty();
        for mail in mail.drain(..) {
            match mail {
                Mail::Peer(from, mail) => self.engine.on_mail(from, mail),
                Mail::Store(reply) => self.take_store_reply(reply),
                Mail::Adopt(socket, dialect) => self.adopt(socket, dialect),
                Mail::Datagram { socket, requests, reply_size_max } => match self.ring.adopt(socket) {
                    Ok(conn) => self.engine.on_datagram(conn, &requests, reply_size_max),
                    Err(_) => self.engine.on_datagram_dropped(),
                },
                Mail::Resume => self.retry_accept(),
                Mail::Inspect(inquiry) => self.inspect(inquiry),
                Mail::Change(changes) => self.change(changes),
                Mail::Ask(question) => self.answer(question),
                Mail::Stop => self.stop(),
                Mail::Exit => self.exit = true,
            }
        }
        self.mail = mail;
        came
    }

    fn take_store_reply(&mut self, reply: store::Reply) {
        match reply {
            store::Reply::Checkpointed { seq, spent, took_us, .. } => {
                self.engine.took(Metric::Checkpoint, took_us);
                self.durability.on_checkpointed(seq, spent);
                self.engine.on_stored(seq);
                self.observed.on_stored(seq);
                self.note_checkpoint();
            }
            store::Reply::Loaded { queue, result } => {
                if let Some(at_us) = self.loading.remove(&queue) {
                    self.engine.took(Metric::Load, self.now.mono_us.saturating_sub(at_us));
                }
                self.engine.on_loaded(queue, result);
            }
            store::Reply::Full(full) => self.engine.on_full(full),
            store::Reply::Alive(number) => drop(self.reports.send(Report::StoreAlive(number))),
        }
    }

    fn inspect(&mut self, inquiry: Inquiry) {
        let snapshot = Snapshot {
            stats: self.engine.shard_stats(),
            unsealed_size: self.engine.unsealed_size(),
            unstored_size: self.engine.unstored_size(),
            pressure: (self.durability.pressure(self.shared.pressure_share), self.shared.pressure_share),
            largest: self.engine.largest_queues(inquiry.queues),
        };
        let _ = self.reports.send(Report::Inspected(self.id, inquiry.number, Box::new(snapshot)));
        if inquiry.asks_store {
            self.ask_store(store::Request::Ping { shard: self.id, number: inquiry.number });
        }
    }

    fn change(&mut self, changes: Changes) {
        self.engine.change(changes.engine);
        self.durability.set_checkpoint_every(changes.checkpoint_every_ms);
        if let Some(size) = changes.free_size_min {
            self.ask_store(store::Request::FreeFloor(size));
        }
    }

    fn take_events(&mut self) -> io::Result<bool> {
        let mut came = false;
        while let Some(event) = self.ring.next_event() {
            came = true;
            match event {
                Event::Received { conn, bytes } => {
                    self.engine.on_bytes(conn, bytes);
                    if self.engine.unsealed_size() >= self.batch_size {
                        self.hand_on_batch()?;
                    }
                }
                Event::Written { token, buffer, result } => {
                    let written = self.durability.on_written(self.now, token, buffer, result)?;
                    self.engine.took(Metric::Write, self.now.mono_us.saturating_sub(written.at_us));
                    self.note_durable(written.durable);
                }
                Event::Synced { result } => self.durability.on_synced(result)?,
                Event::Sent { conn, buffer, sent, result } => {
                    self.pool.put(buffer);
                    match result {
                        Ok(()) => self.engine.on_sent(conn),
                        Err(_) => self.engine.on_send_failed(conn, sent),
                    }
                }
                Event::Accepted { socket, listener } => self.assign(socket, self.dialects[listener.0 as usize]),
                Event::AcceptFailed { error, .. } => self.pause_accepting(&error),
                Event::Ended { conn, error: None } => self.engine.on_eof(conn),
                Event::Ended { conn, error: Some(_) } => self.engine.on_lost(conn),
                Event::EndAhead { conn, is_gone } => self.engine.on_end_ahead(conn, is_gone),
                Event::Closed { conn, sent } => self.closed(conn, sent),
                Event::Woken | Event::Timer => {}
            }
        }
        Ok(came)
    }

    // --- connections ---

    /// Gives a new connection to the shards in turn, so that a few busy connections do not share one by chance.
    fn assign(&mut self, socket: OwnedFd, dialect: Dialect) {
        if self.shared.connections.fetch_add(1, Ordering::SeqCst) >= self.shared.connections_max {
            self.shared.connections.fetch_sub(1, Ordering::SeqCst);
            return self.reject(&socket);
        }
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % self.shared.mailboxes.len();
        if shard == usize::from(self.id.0) {
            self.adopt(socket, dialect);
        } else {
            self.shared.mailboxes[shard].send(Mail::Adopt(socket, dialect));
        }
    }

    fn adopt(&mut self, socket: OwnedFd, dialect: Dialect) {
        match self.ring.adopt(socket) {
            Ok(conn) => {
                if log::logs_commands() {
                    tracing::debug!("<{}/{conn} new connection from {}", self.id, peer(&mut self.ring, conn));
                }
                self.engine.on_open(conn, dialect);
            }
            Err(socket) => {
                self.shared.connections.fetch_sub(1, Ordering::SeqCst);
                self.reject(&socket);
            }
        }
    }

    fn reject(&mut self, socket: &OwnedFd) {
        self.engine.on_rejected();
        // A fresh socket's buffer has room for a line; a client that is gone already needs no answer.
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        let _ = rustix::net::send(socket, reply::TOO_MANY_CONNECTIONS, flags);
        let most = self.shared.connections_max;
        self.complaints.say(self.now.mono_ms, Level::WARN, "refused connections", || {
            format!(
                "a connection from {} was refused: {most} are open; raise -c, or see who keeps them open",
                host::peer(socket)
            )
        });
    }

    fn pause_accepting(&mut self, error: &io::Error) {
        if self.accepting == Accepting::On {
            self.engine.on_accepting(false);
            let now = self.now.mono_ms;
            if self.accept_warned_ms.is_none_or(|at| now >= at + ACCEPT_WARN_MS) {
                self.accept_warned_ms = Some(now);
                let advice = match error.raw_os_error() {
                    Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n, LimitNOFILE=) or lower -c",
                    _ => "",
                };
                tracing::warn!("accepting is paused: {error}; it goes on when connections close{advice}");
            }
        }
        self.accepting = Accepting::Paused;
        self.accept_retry_ms = self.now.mono_ms + ACCEPT_RETRY_MS;
        self.shared.accept_paused.store(true, Ordering::SeqCst);
    }

    /// Notices that accepting works again, or that it is time to try; `retried` is whether that was done in the turn before.
    fn go_on_accepting(&mut self, retried: bool) {
        if retried && self.accepting == Accepting::Retried {
            self.accepting = Accepting::On;
            self.engine.on_accepting(true);
            tracing::info!("accepting goes on");
        }
        if self.accepting == Accepting::Paused && self.now.mono_ms >= self.accept_retry_ms {
            self.retry_accept();
        }
    }

    fn retry_accept(&mut self) {
        if self.accepting == Accepting::Paused {
            self.accepting = Accepting::Retried;
            self.shared.accept_paused.store(false, Ordering::SeqCst);
            self.ring.resume_accept();
        }
    }

    fn closed(&mut self, conn: ConnId, sent: usize) {
        let is_counted = !self.engine.is_datagram(conn);
        self.engine.on_closed(conn, sent);
        tracing::debug!("<{}/{conn} connection closed", self.id);
        self.shared.connections.fetch_sub(usize::from(is_counted), Ordering::SeqCst);
        if self.shared.accept_paused.swap(false, Ordering::SeqCst) {
            self.shared.mailboxes[0].send(Mail::Resume);
        }
    }

    // --- outputs ---

    /// Brings the turn's mutations, and what time has made due, to the journal, and the journal's to the store.
    fn make_durable(&mut self) -> io::Result<()> {
        self.hand_on_batch()?;
        let durable = self.durability.on_time(&mut self.ring, self.now)?;
        self.note_durable(durable);
        if self.durability.wants_cover(self.now) && self.engine.unsealed_size() == 0 {
            self.cover()?;
        }
        if let Some(through) = self.engine.checkpoint_wanted().max(self.observed.checkpoint_wanted()) {
            self.durability.hurry(through);
        }
        self.checkpoint();
        self.report_pressure();
        self.engine.on_journal_short(self.durability.refuses_puts());
        self.engine.set_journal(self.durability.stats());
        Ok(())
    }

    /// Gives the mutations made so far to the journal, if it can take a record now; otherwise they wait for more.
    fn hand_on_batch(&mut self) -> io::Result<()> {
        let size = self.engine.unsealed_size();
        if size == 0 {
            return Ok(());
        }
        let began_us = *self.batch_began_us.get_or_insert(self.now.mono_us);
        if self.collects() || !self.durability.has_room(size) {
            return Ok(());
        }
        let Ok((seq, mut mutations)) = self.engine.seal(std::mem::take(&mut self.spare_batch)) else {
            unreachable!("there is something to seal")
        };
        self.batch_began_us = None;
        let now = host::now(self.shared.start);
        self.engine.took(Metric::Collect, now.mono_us.saturating_sub(began_us));
        self.committing.push_back((seq, began_us));
        let durable = self.durability.take(&mut self.ring, now, seq, &mutations)?;
        if durable.is_some() {
            self.engine.took(Metric::Write, host::mono_us(self.shared.start).saturating_sub(now.mono_us));
        }
        if mutations.capacity() <= 2 * limits::BATCH_SIZE {
            mutations.clear();
            self.spare_batch = mutations;
        }
        self.note_durable(durable);
        Ok(())
    }

    fn note_durable(&mut self, durable: Option<Seq>) {
        let Some(durable) = durable else { return };
        if self.committing.front().is_some_and(|(seq, _)| *seq <= durable) {
            let now_us = host::mono_us(self.shared.start);
            while let Some((_, began_us)) = self.committing.pop_front_if(|(seq, _)| *seq <= durable) {
                self.engine.took(Metric::Commit, now_us.saturating_sub(began_us));
            }
        }
        self.engine.on_durable(durable);
        self.observed.on_durable(durable);
    }

    /// Writes a record that says that everything before it was acknowledged, if that is not said yet.
    fn cover(&mut self) -> io::Result<bool> {
        if !self.durability.may_cover() {
            return Ok(false);
        }
        let seq = self.engine.seal_empty();
        let durable = self.durability.take(&mut self.ring, self.now, seq, &[])?;
        self.note_durable(durable);
        Ok(true)
    }

    fn report_pressure(&mut self) {
        let pressure = self.durability.pressure(self.shared.pressure_share);
        self.shared.pressure[usize::from(self.id.0)].store(pressure, Ordering::Relaxed);
    }

    fn checkpoint(&mut self) {
        if let Some(request) = self.durability.checkpoint(self.now) {
            self.ask_store(request);
            self.note_checkpoint();
        }
    }

    /// The store thread ends only after the shards, or with an error that ends the process.
    fn ask_store(&self, request: store::Request) {
        let _ = self.store.send(request);
    }

    fn carry_out(&mut self) {
        for conn in std::mem::take(&mut self.engine.effects.hosts) {
            self.engine.on_host(conn, host::facts(self.shared.start, self.shared.udp.read()));
        }
        if std::mem::take(&mut self.engine.effects.wants_ids) {
            self.engine.on_ids(self.shared.reserve_ids());
        }
        let (id, shared) = (self.id, &self.shared);
        self.engine.take_mail(|to, mail| shared.mailboxes[usize::from(to.0)].send(Mail::Peer(id, mail)));
        for load in std::mem::take(&mut self.engine.effects.loads) {
            self.loading.insert(load.queue, self.now.mono_us);
            self.ask_store(store::Request::Load(load));
        }
        self.send_replies();
        // Before connections are closed, of which it says whose they were.
        self.report();
        self.change_connections();
    }

    fn send_replies(&mut self) {
        let mut sends = std::mem::take(&mut self.engine.effects.sends);
        let now_us = if latency::ENABLED && !sends.is_empty() { host::mono_us(self.shared.start) } else { 0 };
        for conn in sends.drain(..) {
            match self.engine.take_output(conn, self.pool.take(), now_us) {
                Ok(bytes) => self.ring.send(conn, bytes),
                Err(spare) => self.pool.put(spare),
            }
        }
        self.engine.effects.sends = sends;
    }

    fn change_connections(&mut self) {
        for (conn, pause) in self.engine.effects.pauses.drain(..) {
            if pause { self.ring.pause_recv(conn) } else { self.ring.resume_recv(conn) }
        }
        for conn in self.engine.effects.read_ends.drain(..) {
            self.ring.shutdown_read(conn);
        }
        for conn in self.engine.effects.shutdowns.drain(..) {
            self.ring.shutdown_write(conn);
        }
        for conn in self.engine.effects.closes.drain(..) {
            self.ring.close(conn);
        }
    }

    fn report(&mut self) {
        for notice in std::mem::take(&mut self.engine.effects.notices) {
            self.log_notice(&notice);
        }
        let effects = &mut self.engine.effects;
        if let Some(verbosity) = effects.verbosity.take() {
            let _ = self.reports.send(Report::Verbosity(verbosity));
        }
        if std::mem::take(&mut effects.stats_reset) {
            self.shared.udp.reset();
        }
        if std::mem::take(&mut effects.reload) && !self.shared.reload_asked.swap(true, Ordering::SeqCst) {
            let _ = self.reports.send(Report::Reload);
        }
        if std::mem::take(&mut effects.shutdown) {
            let _ = self.reports.send(Report::Shutdown);
        }
    }

    fn log_notice(&mut self, notice: &Notice) {
        let Shard { id: shard, now, ring, complaints, .. } = self;
        let mut complain = |level, kind, line: &dyn Fn(&mut Ring) -> String| {
            complaints.say(now.mono_ms, level, kind, || line(ring));
        };
        match notice {
            Notice::Command { conn, line } => tracing::debug!("<{shard}/{conn} {}", shown(line)),
            Notice::Message { queue, message, fate, batch, by_queue } => {
                let what = match fate {
                    Fate::Put => "was put",
                    Fate::Opened => "is in an open read",
                    Fate::Confirmed => "was confirmed",
                    Fate::GivenBack => "has returned",
                    Fate::HandedOver => "goes straight to a waiting client",
                    Fate::Delivered => "has reached the waiting client",
                    Fate::Returned => "goes the ordinary way after all",
                    Fate::Taken => "was taken",
                    Fate::Expired => "has expired",
                    Fate::Discarded => "was discarded",
                    Fate::DeadLettered => "went to the dead letters",
                    Fate::Skipped => "was skipped",
                };
                let batch = match fate {
                    Fate::HandedOver | Fate::Delivered => String::new(),
                    _ => format!(", in batch {shard}/{batch}"),
                };
                let line = format!("message {message} of queue {} {what}{batch}", shown(queue));
                if *by_queue {
                    tracing::info!(target: log::ALWAYS, "{line}");
                } else {
                    tracing::debug!("{line}");
                }
            }
            Notice::Batches { through, is_stored } => {
                let place = if *is_stored { "the database" } else { "the journal" };
                tracing::debug!("all batches up to {shard}/{through} are in {place}");
            }
            Notice::Reply { conn, line } => tracing::debug!(">{shard}/{conn} {}", shown(line)),
            Notice::BinaryProtocol(conn) => {
                complain(Level::WARN, "connections closed for speaking the binary protocol", &|ring| {
                    let peer = peer(ring, *conn);
                    format!(
                        "connection {shard}/{conn} from {peer} speaks the binary protocol: closed; configure the client for text"
                    )
                });
            }
            Notice::Unusable { conn, reply } => {
                let (kind, why) = match *reply {
                    b"" => ("connections closed for speaking HTTP", &b"it speaks HTTP"[..]),
                    reply::LINE_TOO_LONG => ("connections closed for lines that are too long", reply.trim_ascii_end()),
                    reply::BAD_DATA_CHUNK => ("connections closed for bodies of another size", reply.trim_ascii_end()),
                    reply::CLIENT_ERROR | engine::DROPPED => {
                        ("connections closed for what Kestrel has not", reply.trim_ascii_end())
                    }
                    _ => ("connections closed for sizes that are none", reply.trim_ascii_end()),
                };
                complain(Level::INFO, kind, &|ring| {
                    format!("connection {shard}/{conn} from {} was closed: {}", peer(ring, *conn), shown(why))
                });
            }
            Notice::Idle(conn) => {
                complain(Level::INFO, "connections closed for being silent", &|ring| {
                    format!(
                        "connection {shard}/{conn} from {} was silent for --idle-timeout: closed",
                        peer(ring, *conn)
                    )
                });
            }
            Notice::BodyStalled(conn) => {
                complain(Level::INFO, "connections closed for stopping in a body", &|ring| {
                    let peer = peer(ring, *conn);
                    format!("connection {shard}/{conn} from {peer} stopped in the middle of a body: closed")
                });
            }
            Notice::GroupEnded { queue } => {
                tracing::info!("nobody has asked {} for a message for its group_timeout: it has ended", shown(queue));
            }
            Notice::Corrupt { queue, message } => {
                complain(Level::ERROR, "messages set aside", &|_| {
                    let queue = shown(queue);
                    format!(
                        "message {message} of queue {queue} failed its checksum and was set aside: check the device"
                    )
                });
            }
            Notice::Unreadable { queue, reason } => {
                complain(Level::ERROR, "failed reads of queues", &|_| {
                    format!("queue {} cannot be read, its gets fail: {reason}; check the device", shown(queue))
                });
            }
        }
    }

    fn set_timer(&mut self) {
        let own = self.durability.next_deadline().into_iter().chain(self.complaints.next_deadline());
        let retry = match self.accepting {
            Accepting::On => None,
            Accepting::Paused => Some(self.accept_retry_ms),
            // The next turn sees what came of it.
            Accepting::Retried => Some(self.now.mono_ms),
        };
        let next = self.engine.next_deadline().into_iter().chain(own).chain(retry).min();
        self.ring.set_timer(next.map(|at| Duration::from_millis(at.saturating_sub(self.now.mono_ms))));
    }

    // --- stopping ---

    fn stop(&mut self) {
        self.stopping = true;
        self.ring.stop_listening();
        self.engine.on_stop();
    }

    fn report_drained(&mut self) {
        if self.stopping && !self.drained && self.engine.open_connections() == 0 {
            self.drained = true;
            self.shared.report_drained();
        }
    }
}

/// Who a connection is from, for a line of the log.
fn peer(ring: &mut Ring, conn: ConnId) -> String {
    ring.socket(conn).map_or_else(|| "a client that is gone".into(), host::peer)
}
