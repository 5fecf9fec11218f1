//! What the process asks of the machine it runs on: clocks, resource use, file limits, who a socket is connected to.

use crate::clock::Now;
use crate::stats::{Datagrams, Host};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the clocks, counting monotonic time from `start`.
pub fn now(start: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mono_us = mono_us(start);
    Now { mono_ms: mono_us / 1000, mono_us, wall_ms: wall.as_millis() as u64 }
}

/// Monotonic microseconds, counted from `start` and from one millisecond, so that 0 can mean "no deadline".
pub fn mono_us(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64 + 1000
}

/// What `stats` says of the process, which started at `start` and has counted `udp`.
pub fn facts(start: Instant, udp: Datagrams) -> Host {
    let now = now(start);
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place for one rusage, and zeroes are a valid rusage should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Host {
        pid: std::process::id(),
        uptime_s: now.mono_ms / 1000,
        time_s: now.wall_ms / 1000,
        user_us: us(usage.ru_utime),
        system_us: us(usage.ru_stime),
        udp,
    }
}

/// Who is at the other end of a socket, for a line of the log. Costs a system call.
pub fn peer(socket: &impl AsFd) -> String {
    match socket2::SockRef::from(socket).peer_addr() {
        Ok(address) => address.as_socket().map_or_else(
            || "a local client".into(),
            |it| SocketAddr::new(it.ip().to_canonical(), it.port()).to_string(),
        ),
        Err(_) => "a client that is gone".into(),
    }
}

/// Random bytes from the kernel.
///
/// # Errors
/// When its device cannot be read.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Raises the soft file limit to what `connections` need, with `extra` files besides. Without a wish (`None`) takes what the hard
/// limit allows, at most `default_max`. Returns the number of connections there is room for.
///
/// # Errors
/// The hard limit, when it is too low for what was wished.
pub fn reserve_files(connections: Option<usize>, default_max: usize, extra: usize) -> Result<usize, u64> {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let room = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(extra);
    let connections = match connections {
        Some(wished) if wished > room => return Err(hard),
        Some(wished) => wished,
        None => default_max.min(room),
    };
    let needed = (connections + extra) as u64;
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum }).map_err(|_| hard)?;
    }
    Ok(connections)
}
