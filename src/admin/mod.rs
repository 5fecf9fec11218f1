//! The admin listener: dashboard, health, metrics and an HTTP API, on a thread of its own beside the shards.
//!
//! It asks shards by mail and waits for their answers, never the other way round. Files: [`http`] keeps connections within bounds and
//! checks who asks, [`places`] has the few there are, [`routes`] says what there is, [`observer`] asks the shards and remembers for a
//! second, [`api`], [`metrics`] and [`hgrm`] word the answers, [`token`] is the one for actions.
//!
//! Invariant: nobody who connects here costs the data plane more than one look a second, and nothing is changed without the token.
//!
//! docs/ADMIN.md has the routes, docs/decisions/0024 the reasons.

mod api;
mod hgrm;
mod http;
mod metrics;
mod observer;
mod places;
mod routes;
mod token;

use crate::config::{Admin, Config};
use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::shard::Shared;
use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use token::Token;
use tokio::sync::Notify;

/// How long a start waits for an address that a server killed a moment ago may still hold.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const BIND_RETRY: Duration = Duration::from_millis(50);
/// Connections that the kernel keeps while as many as may be are open.
const BACKLOG: i32 = 128;
/// Entries of the runtime's ring.
const RING_LEN: u32 = 8;
/// Files that the listener needs besides: its ring, its poll, its wake-ups, its sockets.
const OTHER_FILES: usize = 16;

/// Files that the admin listener needs.
pub fn files(config: &Config) -> usize {
    if config.admin == Some(Admin::Off) { 0 } else { ADMIN_CONNECTIONS_MAX + OTHER_FILES }
}

/// Listening sockets that nobody serves yet. Connections wait.
pub struct Bound {
    /// Nobody asked for it: without it is well, too.
    is_default: bool,
    listeners: Vec<(SocketAddr, TcpListener)>,
}

/// Binds what `--admin` says; nothing if it is off, or if the default address is taken.
///
/// # Errors
/// The address that cannot be had although it was asked for, and why.
pub fn bind(config: &Config) -> Result<Bound> {
    let (host, port, is_default) = match &config.admin {
        Some(Admin::Off) => return Ok(Bound { is_default: false, listeners: Vec::new() }),
        Some(Admin::At { host, port }) => (host.as_str(), *port, false),
        None => (Admin::HOST, Admin::PORT, true),
    };
    let patience = if is_default { Duration::ZERO } else { BIND_PATIENCE };
    match bind_all(host, port, patience) {
        Ok(listeners) => {
            for (address, _) in listeners.iter().filter(|(address, _)| !address.ip().is_loopback()) {
                tracing::warn!(
                    "the admin listener is open on {address}: who reaches it can read names and numbers of all queues; see --admin"
                );
            }
            Ok(Bound { is_default, listeners })
        }
        Err(error) if is_default => {
            tracing::warn!(
                "no admin listener: {host}:{port}: {error}; give another address with --admin, or --admin off if none is wanted"
            );
            Ok(Bound { is_default, listeners: Vec::new() })
        }
        Err(error) => Err(anyhow!(
            "--admin {host} port {port}: {error}; give an address of this machine and a port that is free, or off"
        )),
    }
}

/// A name may have several addresses, of which some need not exist here.
fn bind_all(host: &str, port: u16, patience: Duration) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut listeners: Vec<(SocketAddr, TcpListener)> = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for mut address in (host, port).to_socket_addrs()? {
        if port == 0
            && let Some((first, _)) = listeners.first()
        {
            address.set_port(first.port());
        }
        match bind_to(address, patience) {
            Ok(listener) => listeners.push((listener.local_addr()?, listener)),
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported) => {
                failure = error;
            }
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(failure) } else { Ok(listeners) }
}

fn bind_to(address: SocketAddr, patience: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    let give_up = Instant::now() + patience;
    let listen = || socket.bind(&address.into()).and_then(|()| socket.listen(BACKLOG));
    while let Err(error) = listen() {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= give_up {
            return Err(error);
        }
        std::thread::sleep(BIND_RETRY);
    }
    Ok(socket.into())
}

/// How far the server is.
#[derive(Clone)]
enum Phase {
    /// Shards do not run yet.
    Starting,
    /// They run.
    Running(Arc<Running>),
    /// They finish what was accepted.
    Stopping(Arc<Running>),
}

/// What answers are made of besides what shards say.
struct Running {
    shared: Arc<Shared>,
    /// As it is now.
    config: Config,
    /// The lines of `stats settings`.
    settings: Vec<u8>,
}

/// Who may do what.
struct Access {
    /// Without one nobody may do anything.
    token: Option<Token>,
    hosts: Vec<String>,
}

impl Access {
    fn of(config: &Config) -> Result<Access> {
        let token = config.admin_token_file.as_deref().map(Token::read).transpose()?;
        Ok(Access { token, hosts: config.admin_hosts.clone() })
    }
}

/// What the main thread tells the listener's. Locks are held for a moment, and by nobody who serves messages.
struct Link {
    phase: Mutex<Phase>,
    access: Mutex<Access>,
    end: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this: a panic aborts the process")
}

impl Bound {
    /// Serves from now on. To be called when the process has its final user, and will not fork any more.
    ///
    /// # Errors
    /// When the token file is not usable, or the thread or its ring cannot be made; says what to do.
    pub fn start(self, config: &Config) -> Result<Listener> {
        let access = Access::of(config)?;
        let link =
            Arc::new(Link { phase: Mutex::new(Phase::Starting), access: Mutex::new(access), end: Notify::new() });
        let mut addresses: Vec<SocketAddr> = self.listeners.iter().map(|(address, _)| *address).collect();
        if addresses.is_empty() {
            return Ok(Listener { link, addresses, thread: None });
        }
        let is_default = self.is_default;
        let thread = match spawn(self, link.clone()) {
            Ok(thread) => Some(thread),
            Err(error) if is_default => {
                tracing::warn!("no admin listener: {error:#}");
                addresses.clear();
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Listener { link, addresses, thread })
    }
}

fn spawn(bound: Bound, link: Arc<Link>) -> Result<JoinHandle<()>> {
    let (started, start) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("ringq-admin".into()).spawn(move || {
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_LEN));
        match runtime {
            Err(error) => drop(started.send(Err(error))),
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(http::serve(bound.listeners, link));
            }
        }
    })?;
    let made = start.recv().context("the admin listener's thread ended before it started")?;
    made.context("the admin listener cannot have an io_uring of its own; see ringq --check, or give --admin off")?;
    Ok(thread)
}

/// The running listener, for the main thread.
pub struct Listener {
    link: Arc<Link>,
    addresses: Vec<SocketAddr>,
    /// None: it is off.
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Where it is.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Shards run, with this configuration; `settings` are the lines of `stats settings`. Again when some have changed.
    pub fn running(&self, shared: &Arc<Shared>, config: &Config, settings: Vec<u8>) {
        let running = Running { shared: shared.clone(), config: config.clone(), settings };
        *lock(&self.link.phase) = Phase::Running(Arc::new(running));
    }

    /// Settings are being read again: the token, too, whether or not it is in another file now.
    ///
    /// # Errors
    /// When the token file is not usable. Then the old one stays.
    pub fn reload(&self, config: &Config) -> Result<()> {
        *lock(&self.link.access) = Access::of(config)?;
        Ok(())
    }

    /// The server stops.
    pub fn stopping(&self) {
        let mut phase = lock(&self.link.phase);
        if let Phase::Running(running) = &*phase {
            *phase = Phase::Stopping(running.clone());
        }
    }

    /// Ends it; whoever is connected is cut off.
    pub fn end(self) {
        self.link.end.notify_one();
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}
