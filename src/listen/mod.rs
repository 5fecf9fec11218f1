//! The listening sockets: those that `-l`, `-p` and `-s` ask for, or those that a service manager has made.
//!
//! Options that accepted sockets inherit are set here once. Invariant: a socket that is returned is listening; the file of a unix
//! socket exists until its [`SocketFile`] is dropped, and is removed then if it is still ours.
//!
//! Does not accept: the ring does, on what it is given from here.

mod activation;
mod unix;

pub use activation::{Inherited, inherit};
pub use unix::SocketFile;

use crate::config::Config;
use crate::config::PORT_DEFAULT;
use crate::config::Place;
use crate::proto::Dialect;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a start waits for an address or a path that a server killed a moment ago may still hold: the kernel closes what an
/// io_uring had in use in its own time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const RETRY: Duration = Duration::from_millis(50);

/// The option for the port of another dialect.
const KESTREL: &str = "--kestrel-port";

/// Questions that a client leaves unanswered before it is taken for gone.
const KEEPALIVE_PROBES: u32 = 4;

/// Where clients connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// With the port that was really taken.
    Tcp(SocketAddr),
    /// The path of a unix socket, or what the kernel shows for one without a path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening stream socket.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// What is spoken there.
    pub dialect: Dialect,
    /// The socket.
    pub socket: OwnedFd,
}

/// What a server serves.
#[derive(Debug, Default)]
pub struct Sockets {
    /// In the order they were asked for.
    pub listeners: Vec<Listener>,
    /// Bound UDP sockets of a service manager.
    pub datagrams: Vec<OwnedFd>,
    /// To be kept for as long as the server runs.
    pub files: Vec<SocketFile>,
}

/// Why there is no such socket: the address or path, the cause, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Makes the sockets that the configuration asks for, unless a service manager has given some.
///
/// # Errors
/// The first address that cannot be listened on. Files made before are removed.
pub fn open(config: &Config, inherited: Inherited) -> Result<Sockets, Error> {
    let mut sockets = Sockets { datagrams: inherited.datagrams, ..Sockets::default() };
    if !inherited.listeners.is_empty() {
        warn_of_unused(config, "the sockets of the service manager are served", &["-s", "-l", "-p", KESTREL]);
        tracing::info!("serving {} sockets of the service manager", inherited.listeners.len());
        for listener in &inherited.listeners {
            set_inherited_options(listener, config)
                .map_err(|error| Error(format!("cannot set options of {}: {error}", listener.address)))?;
        }
        sockets.listeners = inherited.listeners;
    } else if let Some(path) = &config.socket {
        warn_of_unused(config, "-s means this unix socket alone", &["-l", "-p", "-U", KESTREL]);
        sockets.add_unix(path, config)?;
    } else if config.listen.is_empty() {
        tracing::warn!(
            "listening on all addresses: anyone who can reach port {} can use the queues; see -l",
            config.port
        );
        for (port, dialect) in ports(config) {
            let (v6, v4) = (SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port)));
            // Where there is no IPv6, IPv4 is all addresses.
            let listener = listen_tcp(v6, dialect, config).or_else(|_| listen_tcp(v4, dialect, config));
            sockets.listeners.push(listener.map_err(|error| refused(&format!("port {port}"), &error))?);
        }
    } else {
        let hosts: Vec<Place> = config.listen.iter().filter_map(Place::without_port).collect();
        sockets.add_places(&config.listen, config.port, Dialect::MemcacheQ, config)?;
        if let Some(port) = config.kestrel_port {
            if hosts.is_empty() {
                warn_of_unused(config, "-l names no host", &[KESTREL]);
            }
            sockets.add_places(&hosts, port, Dialect::Kestrel, config)?;
        }
    }
    Ok(sockets)
}

impl Sockets {
    /// Gives the files of unix sockets to the user that the server is about to become.
    ///
    /// # Errors
    /// When the process may not do that; names the file.
    pub fn give_to(&self, uid: u32, gid: u32) -> Result<(), Error> {
        self.files.iter().try_for_each(|file| file.give_to(uid, gid))
    }

    fn add_unix(&mut self, path: &Path, config: &Config) -> Result<(), Error> {
        let (socket, file) = unix::listen(path, config.socket_mode, config.backlog)?;
        let address = Address::Unix(path.to_owned());
        self.listeners.push(Listener { address, dialect: Dialect::MemcacheQ, socket });
        self.files.push(file);
        Ok(())
    }

    fn add_places(&mut self, places: &[Place], port: u16, dialect: Dialect, config: &Config) -> Result<(), Error> {
        let places = resolve(places, port)?;
        let every: Vec<SocketAddr> = places.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
        let mut seen = Vec::new();
        for (place, addresses) in &places {
            if let Place::Unix(path) = place {
                let address = Address::Unix(path.clone());
                if !self.listeners.iter().any(|listener| listener.address == address) {
                    self.add_unix(path, config)?;
                }
                continue;
            }
            let mut missing = Vec::new();
            let mut served = false;
            for address in addresses {
                let covering = every.iter().find(|other| covers(other, address));
                if let Some(other) = covering.or_else(|| seen.iter().find(|other| *other == address)) {
                    tracing::info!("-l {place}: {address} is served by {other}");
                    served = true;
                    continue;
                }
                match listen_tcp(*address, dialect, config) {
                    Ok(listener) => {
                        seen.push(*address);
                        self.listeners.push(listener);
                        served = true;
                    }
                    // A name may have addresses that this host does not, such as ::1 of localhost where there is no IPv6.
                    Err(error) if addresses.len() > 1 && is_no_address_here(&error) => missing.push((address, error)),
                    Err(error) => return Err(refused(&address.to_string(), &error)),
                }
            }
            for (address, error) in missing {
                if !served {
                    return Err(refused(&format!("{address} (-l {place})"), &error));
                }
                tracing::warn!("-l {place}: not listening on {address}, another of its addresses: {error}");
            }
        }
        Ok(())
    }
}

/// The addresses of each place; a path has none.
fn resolve(places: &[Place], default_port: u16) -> Result<Vec<(&Place, Vec<SocketAddr>)>, Error> {
    let addresses = |place: &Place| match place {
        Place::Unix(_) => Ok(Vec::new()),
        Place::Host { host, port } => match (host.as_str(), port.unwrap_or(default_port)).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.collect()),
            Err(error) => Err(Error(format!("-l {place}: not an address and not a known host name: {error}"))),
        },
    };
    places.iter().map(|place| Ok((place, addresses(place)?))).collect()
}

/// Whether who listens on `wide` has all clients of `address` already. A wildcard of IPv6 takes those of IPv4, too.
fn covers(wide: &SocketAddr, address: &SocketAddr) -> bool {
    let takes = match wide.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && address.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    takes && wide.port() == address.port() && wide.port() != 0 && wide != address
}

/// Binds a socket to an address, all of IPv6 with IPv4, and waits a little if it is taken.
///
/// # Errors
/// When the address is not of this host, or stays taken.
pub fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    let give_up = Instant::now() + PATIENCE;
    while let Err(error) = socket.bind(&address.into()) {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= give_up {
            return Err(error);
        }
        std::thread::sleep(RETRY);
    }
    Ok(())
}

/// The ports of all addresses, and what is spoken there.
fn ports(config: &Config) -> impl Iterator<Item = (u16, Dialect)> {
    let kestrel = config.kestrel_port.map(|port| (port, Dialect::Kestrel));
    std::iter::once((config.port, Dialect::MemcacheQ)).chain(kestrel)
}

fn listen_tcp(address: SocketAddr, dialect: Dialect, config: &Config) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    set_tcp_options(&socket, config)?;
    bind(&socket, address)?;
    socket.listen(config.backlog)?;
    let address = socket.local_addr()?.as_socket().expect("an IP socket has an IP address");
    Ok(Listener { address: Address::Tcp(address), dialect, socket: socket.into() })
}

/// Options of a TCP listener, which Linux hands on to the sockets accepted from it.
fn set_tcp_options(socket: &Socket, config: &Config) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    match config.keepalive {
        None => socket.set_keepalive(false),
        Some(period) => {
            let every = (period / 4).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(period).with_interval(every);
            socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
        }
    }
}

/// The backlog stays as the service manager was told.
fn set_inherited_options(listener: &Listener, config: &Config) -> io::Result<()> {
    match listener.address {
        Address::Tcp(_) => set_tcp_options(&Socket::from(listener.socket.try_clone()?), config),
        Address::Unix(_) => Ok(()),
    }
}

/// Says which options that were given mean nothing here.
fn warn_of_unused(config: &Config, because: &str, candidates: &[&'static str]) {
    let is_given = |option: &&&str| match **option {
        "-s" => config.socket.is_some(),
        "-l" => !config.listen.is_empty(),
        "-p" => config.port != PORT_DEFAULT,
        KESTREL => config.kestrel_port.is_some(),
        _ => config.udp_port != 0,
    };
    let unused: Vec<&str> = candidates.iter().filter(is_given).copied().collect();
    if !unused.is_empty() {
        tracing::warn!("{} not used: {because}", unused.join(", "));
    }
}

fn is_no_address_here(error: &io::Error) -> bool {
    let is_unsupported = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    error.kind() == io::ErrorKind::AddrNotAvailable || is_unsupported
}

fn refused(address: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process listens there; stop it, or choose another address (-l) or port (-p)"
        }
        io::ErrorKind::AddrNotAvailable => ": no interface of this host has the address; see `ip address`, and -l",
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with -p, or use a socket unit"
        }
        _ => "",
    };
    Error(format!("cannot listen on {address}: {error}{advice}"))
}

#[cfg(test)]
mod tests;
