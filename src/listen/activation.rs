//! Sockets that a service manager has made and handed over (systemd's socket activation, sd_listen_fds(3)).
//!
//! Invariant: every descriptor that was handed over is either served or refused by name; none is taken twice, and no program
//! that this process starts inherits one, or believes that it was meant.

use super::{Address, Error, Listener};
use crate::proto::Dialect;
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The variable with the descriptors' names.
const NAMES: &str = "LISTEN_FDNAMES";

/// What a service manager has handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listening stream sockets.
    pub(super) listeners: Vec<Listener>,
    /// Bound UDP sockets.
    pub(super) datagrams: Vec<OwnedFd>,
}

/// Takes what a service manager has handed over to this process, and removes the word of it from the environment. To be called
/// once, before there is any other thread, and before a fork: the child is not the process that is meant.
///
/// # Errors
/// A descriptor that cannot be served, by number and name.
pub fn inherit() -> Result<Inherited, Error> {
    let names = std::env::var(NAMES).unwrap_or_default();
    // SAFETY: the process has no other thread yet that could read the environment.
    let handed = unsafe {
        std::env::remove_var(NAMES);
        sd_notify::listen_fds_and_unset_env()
    };
    let handed = handed.map_err(|error| Error(format!("LISTEN_FDS, which a service manager sets: {error}")))?;
    // Only for messages, so it does no harm should names and descriptors not fit together.
    let names = names.split(':').chain(std::iter::repeat(""));
    let mut inherited = Inherited::default();
    for (number, name) in handed.zip(names) {
        // SAFETY: the descriptor is open, since it was just marked for closing at exec, and the protocol hands it over to us
        // alone; without the environment nobody takes it again.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        inherited.add(descriptor).map_err(|problem| {
            Error(format!("descriptor {number} ({name}) of the service manager: {problem}; see its socket unit"))
        })?;
    }
    Ok(inherited)
}

impl Inherited {
    /// Whether there are UDP sockets among them.
    pub fn has_datagrams(&self) -> bool {
        !self.datagrams.is_empty()
    }

    /// Sorts a descriptor, or says why it cannot be served.
    pub(super) fn add(&mut self, descriptor: OwnedFd) -> Result<(), String> {
        let socket = Socket::from(descriptor);
        let (Ok(domain), Ok(kind)) = (socket.domain(), socket.r#type()) else {
            return Err("it is not a socket".into());
        };
        let is_ip = domain == Domain::IPV4 || domain == Domain::IPV6;
        match kind {
            Type::DGRAM if is_ip => self.datagrams.push(socket.into()),
            Type::STREAM if is_ip || domain == Domain::UNIX => {
                if !socket.is_listener().map_err(|error| error.to_string())? {
                    return Err("it is not listening; Accept=no is needed".into());
                }
                let address = address_of(&socket.local_addr().map_err(|error| error.to_string())?);
                self.listeners.push(Listener { address, dialect: Dialect::MemcacheQ, socket: socket.into() });
            }
            Type::STREAM | Type::DGRAM => return Err("neither IPv4 nor IPv6 nor a unix stream socket".into()),
            _ => return Err("neither a stream nor a datagram socket".into()),
        }
        Ok(())
    }
}

fn address_of(address: &SockAddr) -> Address {
    if let Some(address) = address.as_socket() {
        return Address::Tcp(address);
    }
    let without_path = address.as_abstract_namespace().map(|name| [b"@", name].concat()).unwrap_or_default();
    let path = address.as_pathname().map(PathBuf::from);
    Address::Unix(path.unwrap_or_else(|| OsStr::from_bytes(&without_path).into()))
}
