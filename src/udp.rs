//! UDP: a thread in front of the shards that turns each datagram into a short connection.
//!
//! A datagram's requests go to a shard by mail, together with one end of a socket pair; what the shard says there until it closes is
//! the reply, which goes back in as many datagrams as it takes. The shard treats that connection as any other whose client has
//! sent all it had, but for a bound on its replies (src/engine/datagram.rs). docs/decisions/0021 says why.
//!
//! Invariant: at most [`UDP_REQUESTS_MAX`] datagrams are under way; the rest waits in the kernel, which drops what it has no
//! buffer for. No datagram makes the thread wait, but for the kernel's room for a reply; without any it sleeps.
//!
//! Does not know the protocol, except for what marks a datagram that is no request.

use crate::config::Config;
use crate::config::Place;
use crate::limits::{UDP_DATAGRAM_SIZE_MAX, UDP_REQUESTS_MAX};
use crate::listen::{self, Inherited};
use crate::shard::{Mail, Shared};
use crate::stats::Datagrams;
use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Request id, sequence number, number of datagrams, reserved: 16 bits each, the most significant byte first.
const HEADER_SIZE: usize = 8;

/// Room for the largest datagram there is.
const BUFFER_SIZE: usize = 64 << 10;

/// Datagrams taken from one socket before replies are looked at again.
const RECEIVES_PER_TURN: usize = 64;

/// How long the thread rests when the kernel cannot tell it what is ready.
const POLL_RETRY: Duration = Duration::from_millis(100);

/// What has come and gone.
#[derive(Debug, Default)]
pub struct Counts {
    received: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    unsent: AtomicU64,
}

impl Counts {
    /// Since the start or the last [`Counts::reset`].
    pub fn read(&self) -> Datagrams {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Datagrams {
            received: count(&self.received),
            dropped: count(&self.dropped),
            sent: count(&self.sent),
            unsent: count(&self.unsent),
        }
    }

    /// Starts again from 0.
    pub fn reset(&self) {
        [&self.received, &self.dropped, &self.sent, &self.unsent]
            .iter()
            .for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
}

/// Files that UDP needs besides connections.
pub fn files(config: &Config, inherited: &Inherited) -> usize {
    const OF_THE_THREAD: usize = 16;
    if is_on(config) || inherited.has_datagrams() { OF_THE_THREAD + 4 * UDP_REQUESTS_MAX } else { 0 }
}

fn is_on(config: &Config) -> bool {
    config.udp_port != 0 && config.socket.is_none()
}

/// The sockets of a service manager if there are any, otherwise those for `-U`, on the hosts of `-l`; none if UDP is off.
///
/// # Errors
/// The address that cannot be had, and why.
pub fn bind(config: &Config, inherited: Vec<OwnedFd>) -> Result<Vec<(SocketAddr, UdpSocket)>> {
    let port = config.udp_port;
    if !inherited.is_empty() {
        let socket = |descriptor| {
            let socket = UdpSocket::from(descriptor);
            Ok((socket.local_addr()?, socket))
        };
        let sockets: io::Result<Vec<_>> = inherited.into_iter().map(socket).collect();
        return sockets.context("cannot use the UDP sockets of the service manager");
    }
    if !is_on(config) {
        if port != 0 {
            tracing::warn!("-U {port} has no effect: with -s there is no UDP");
        }
        return Ok(Vec::new());
    }
    if config.listen.is_empty() {
        tracing::warn!(
            "UDP port {port} is open on all addresses: anyone who can send datagrams there can use the queues, under any \
             sender's address; see -l"
        );
        let any = SocketAddr::from(([0u16; 8], port));
        let socket = bind_to(any).or_else(|_| bind_to(SocketAddr::from(([0u8; 4], port))));
        return Ok(vec![socket.with_context(|| format!("cannot use UDP port {port} (-U)"))?]);
    }
    let mut sockets: Vec<(SocketAddr, UdpSocket)> = Vec::new();
    for name in &config.listen {
        let Place::Host { host, .. } = name else { continue };
        let resolved = (host.as_str(), port).to_socket_addrs();
        for address in resolved.with_context(|| format!("-l {name}: not an address and not a known host name"))? {
            // One host may stand there with several TCP ports.
            if sockets.iter().all(|(other, _)| *other != address) {
                sockets.push(bind_to(address).with_context(|| format!("cannot use UDP address {address} (-U)"))?);
            }
        }
    }
    if sockets.is_empty() {
        tracing::warn!("-U {port} has no effect: no -l names a host");
    }
    Ok(sockets)
}

fn bind_to(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    listen::bind(&socket, address)?;
    Ok((address, socket.into()))
}

/// The thread, as far as others have to do with it.
pub struct Thread {
    /// Written to when it is to stop. None: it was never started.
    stop: Option<Arc<OwnedFd>>,
}

impl Thread {
    /// No more datagrams are taken, as no more connections are accepted. Requests under way are still answered.
    pub fn stop(&self) {
        if let Some(stop) = &self.stop {
            // Only fails when the counter would overflow, and then it was written to before.
            let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
        }
    }
}

/// Starts to serve the sockets, if there are any. `reply_size_max` is `--udp-reply-max`, bytes.
///
/// # Errors
/// When the thread or what stops it cannot be made.
pub fn start(sockets: Vec<(SocketAddr, UdpSocket)>, reply_size_max: usize, shared: &Arc<Shared>) -> io::Result<Thread> {
    if sockets.is_empty() {
        return Ok(Thread { stop: None });
    }
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let adapter = Adapter {
        sockets: sockets.into_iter().map(|(_, socket)| socket).collect(),
        stop: stop.clone(),
        stopping: false,
        shared: shared.clone(),
        reply_size_max,
        next_shard: 0,
        under_way: Vec::new(),
        buffer: vec![0; BUFFER_SIZE],
        is_short: false,
    };
    std::thread::Builder::new().name("ringq-udp".into()).spawn(move || adapter.run())?;
    Ok(Thread { stop: Some(stop) })
}

struct Adapter {
    sockets: Vec<UdpSocket>,
    stop: Arc<OwnedFd>,
    stopping: bool,
    shared: Arc<Shared>,
    reply_size_max: usize,
    /// The next shard to get a datagram.
    next_shard: usize,
    under_way: Vec<Request>,
    /// What is received passes through it.
    buffer: Vec<u8>,
    /// The last datagram was dropped for lack of files.
    is_short: bool,
}

/// A datagram whose reply is not complete.
struct Request {
    /// Which of our sockets it came to.
    socket: usize,
    peer: SocketAddr,
    id: [u8; 2],
    shard: UnixStream,
    reply: Vec<u8>,
}

/// What a turn found to do.
struct Ready {
    /// By request under way.
    replies: Vec<bool>,
    stop: bool,
    /// By socket.
    datagrams: Vec<bool>,
}

impl Adapter {
    fn run(mut self) {
        while !self.stopping || !self.under_way.is_empty() {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::warn!("UDP is delayed: poll: {error}");
                    std::thread::sleep(POLL_RETRY);
                    continue;
                }
            };
            // From the end, so that the places of those still to be looked at do not change.
            for place in (0..ready.replies.len()).rev().filter(|place| ready.replies[*place]) {
                if self.take_reply(place) {
                    let request = self.under_way.swap_remove(place);
                    self.answer(&request);
                }
            }
            self.stopping |= ready.stop;
            for socket in (0..ready.datagrams.len()).filter(|socket| ready.datagrams[*socket]) {
                self.receive(socket);
            }
        }
        self.shared.report_drained();
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<Ready, Errno> {
        let replies = self.under_way.len();
        let receives = !self.stopping && replies < UDP_REQUESTS_MAX;
        let input = PollFlags::IN;
        let mut fds: Vec<PollFd<'_>> = self.under_way.iter().map(|it| PollFd::new(&it.shard, input)).collect();
        fds.extend((!self.stopping).then(|| PollFd::new(&*self.stop, input)));
        fds.extend(self.sockets.iter().filter(|_| receives).map(|socket| PollFd::new(socket, input)));
        poll(&mut fds, None)?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            replies: ready.by_ref().take(replies).collect(),
            stop: !self.stopping && ready.next().expect("it was asked for"),
            datagrams: ready.collect(),
        })
    }

    /// Takes datagrams from a socket, as far as there is room for requests.
    fn receive(&mut self, socket: usize) {
        for _ in 0..RECEIVES_PER_TURN {
            if self.stopping || self.under_way.len() >= UDP_REQUESTS_MAX {
                return;
            }
            // The socket itself is a blocking one, for replies.
            let received = rustix::net::recvfrom(&self.sockets[socket], &mut *self.buffer, RecvFlags::DONTWAIT);
            let Ok((size, _, peer)) = received else { return };
            self.shared.udp.received.fetch_add(1, Ordering::Relaxed);
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
            let was_taken = match (request_of(&self.buffer[..size]), peer) {
                (Some((id, requests)), Some(peer)) => {
                    let requests = requests.to_vec();
                    self.hand_on(socket, peer, id, requests)
                }
                _ => false,
            };
            self.shared.udp.dropped.fetch_add(u64::from(!was_taken), Ordering::Relaxed);
        }
    }

    /// Gives a datagram's requests to the shards in turn. Returns whether it could.
    fn hand_on(&mut self, socket: usize, peer: SocketAddr, id: [u8; 2], requests: Vec<u8>) -> bool {
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            Ok((ours, theirs))
        });
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => {
                if !std::mem::replace(&mut self.is_short, true) {
                    tracing::warn!("datagrams are dropped: {error}");
                }
                return false;
            }
        };
        self.is_short = false;
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % self.shared.mailboxes.len();
        let reply_size_max = self.reply_size_max;
        self.shared.mailboxes[shard].send(Mail::Datagram { socket: theirs.into(), requests, reply_size_max });
        self.under_way.push(Request { socket, peer, id, shard: ours, reply: Vec::new() });
        true
    }

    /// Receives what there is of a reply. Returns whether that is all.
    fn take_reply(&mut self, place: usize) -> bool {
        let Adapter { under_way, buffer, .. } = self;
        let request = &mut under_way[place];
        loop {
            match request.shard.read(buffer) {
                Ok(0) => return true,
                Ok(size) => request.reply.extend_from_slice(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The shard is gone: there will be no more.
                Err(_) => return true,
            }
        }
    }

    fn answer(&self, request: &Request) {
        debug_assert!(request.reply.len() <= self.reply_size_max, "the engine keeps to the bound");
        for datagram in datagrams_of(request.id, &request.reply) {
            let count = match self.sockets[request.socket].send_to(&datagram, request.peer) {
                Ok(_) => &self.shared.udp.sent,
                Err(_) => &self.shared.udp.unsent,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A datagram's id and requests. `None`: it is none of ours.
pub fn request_of(datagram: &[u8]) -> Option<([u8; 2], &[u8])> {
    /// What our own answer to an answer begins with: two servers that a forged datagram has set on each other end it here.
    const ANSWER: &[u8] = b"ERROR";
    /// The first byte of memcached's binary protocol.
    const BINARY: u8 = 0x80;
    let (header, requests) = datagram.split_first_chunk::<HEADER_SIZE>()?;
    let [id_high, id_low, sequence_high, sequence_low, total_high, total_low, _, _] = *header;
    let is_whole = [sequence_high, sequence_low, total_high, total_low] == [0, 0, 0, 1];
    let is_text = !requests.is_empty() && requests[0] != BINARY && !requests.starts_with(ANSWER);
    (is_whole && is_text).then_some(([id_high, id_low], requests))
}

/// A reply cut into datagrams; none if it is empty.
pub fn datagrams_of(id: [u8; 2], reply: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let pieces = reply.chunks(UDP_DATAGRAM_SIZE_MAX - HEADER_SIZE);
    let total = u16::try_from(pieces.len()).expect("--udp-reply-max is less than so many datagrams").to_be_bytes();
    (0u16..).zip(pieces).map(move |(sequence, piece)| {
        let mut datagram = Vec::with_capacity(HEADER_SIZE + piece.len());
        for field in [id, sequence.to_be_bytes(), total, [0; 2]] {
            datagram.extend_from_slice(&field);
        }
        datagram.extend_from_slice(piece);
        datagram
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_requests_in_text_are_taken() {
        let datagram = b"\x12\x34\0\0\0\x01\0\0get q\r\n";
        assert_eq!(request_of(datagram), Some(([0x12, 0x34], &b"get q\r\n"[..])));
        // What is reserved is ignored, as memcached does.
        assert!(request_of(b"\0\x01\0\0\0\x01\xff\xff\r\n").is_some());
        for (why, datagram) in [
            ("nothing", &b""[..]),
            ("a runt", &datagram[..7]),
            ("a header alone", &datagram[..8]),
            ("the first of two", b"\0\x01\0\0\0\x02\0\0get q\r\n"),
            ("the second of two", b"\0\x01\0\x01\0\x02\0\0get q\r\n"),
            ("the second of one", b"\0\x01\0\x01\0\x01\0\0get q\r\n"),
            ("of none", b"\0\x01\0\0\0\0\0\0get q\r\n"),
            ("of 257", b"\0\x01\0\0\x01\x01\0\0get q\r\n"),
            ("binary", b"\0\x01\0\0\0\x01\0\0\x80\0\0\0"),
            ("an answer to an answer", b"\0\x01\0\0\0\x01\0\0ERROR\r\n"),
        ] {
            assert_eq!(request_of(datagram), None, "{why}");
        }
    }

    #[test]
    fn a_reply_is_cut_into_numbered_datagrams() {
        let reply: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        let datagrams: Vec<Vec<u8>> = datagrams_of([0xab, 0xcd], &reply).collect();
        let headers: Vec<&[u8]> = datagrams.iter().map(|it| &it[..HEADER_SIZE]).collect();
        let header = |sequence| [0xab, 0xcd, 0, sequence, 0, 3, 0, 0];
        assert_eq!(headers, [header(0), header(1), header(2)]);
        assert_eq!(datagrams.iter().map(Vec::len).collect::<Vec<_>>(), [1400, 1400, 3000 - 2 * 1392 + 8]);
        assert_eq!(datagrams.iter().flat_map(|it| it[HEADER_SIZE..].to_vec()).collect::<Vec<_>>(), reply);
        assert_eq!(datagrams_of([0, 0], &[7; 1392]).count(), 1);
        assert_eq!(datagrams_of([0, 0], b"").count(), 0);
    }
}
