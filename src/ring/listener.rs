//! A listening socket and its multishot accept.
//!
//! Invariant: the socket is closed only when no accept on it is in flight.

use super::operation::Operation;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// One listening socket of a ring.
pub(super) struct Listener {
    /// `None` once listening has stopped and the accept is joined.
    pub socket: Option<OwnedFd>,
    pub accept: Operation,
}

impl Listener {
    /// Takes over a listening socket.
    ///
    /// # Errors
    /// When `socket` is not an open descriptor of this process.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // On a non-blocking socket an accept without a waiting client would fail instead of waiting.
        let flags = fcntl_getfl(&socket)?;
        if flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&socket, flags.difference(OFlags::NONBLOCK))?;
        }
        Ok(Listener { socket: Some(socket), accept: Operation::default() })
    }
}

/// Whether an accept that failed so concerns one client only (accept(2) hands out errors that were waiting on the new
/// connection), or is our own cancellation: accepting goes on. After any other error trying again at once would only fail
/// again.
pub(super) fn is_passing(error: Errno) -> bool {
    const PASSING: [Errno; 13] = [
        Errno::CONNABORTED,
        Errno::CANCELED,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::TIMEDOUT,
        Errno::CONNRESET,
    ];
    PASSING.contains(&error)
}
