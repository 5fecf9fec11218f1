//! A server behind a TCP address, as a transcript's [`Peer`].
//!
//! Invariant: no sleeping to let things settle. Every wait is for bytes, for the end of the stream, for the kernel to say that
//! the server sleeps with nothing left to do, or for the deadline that says that none of it is going to happen. What a client
//! sends never blocks on what it has not read: replies are taken in while a write waits for room, so a server that stops
//! reading until its replies are gone cannot deadlock a test.
//!
//! Not here: starting the server.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::facts::{context_switches, threads};
use crate::harness::{eventually, read_lossy};
use crate::transcript::{KESTREL, Peer};

/// How long the server may take to answer or to close before the test is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Client connections to one server, by name.
pub struct SocketPeer {
    address: SocketAddr,
    /// Where connections go whose names begin with `kestrel:`.
    kestrel: Option<SocketAddr>,
    /// Whose threads sleep when the server has nothing left to do, if it is not a thread of the test.
    process: Option<u32>,
    patience: Duration,
    connections: HashMap<String, Connection>,
}

struct Connection {
    stream: TcpStream,
    /// Received and not yet asked for.
    arrived: Vec<u8>,
    /// The server has closed: end of stream or reset.
    ended: bool,
}

impl SocketPeer {
    /// A peer whose connections go to `address` of the process, or to its port of Kestrel's dialect; each is opened when first used.
    pub fn of_process(process: u32, address: SocketAddr, kestrel: Option<SocketAddr>) -> SocketPeer {
        SocketPeer { address, kestrel, process: Some(process), patience: PATIENCE, connections: HashMap::new() }
    }

    fn connection(&mut self, name: &str) -> &mut Connection {
        let is_kestrels = name.starts_with(KESTREL);
        let address = if is_kestrels { self.kestrel.expect("the port is known") } else { self.address };
        self.connections.entry(name.to_string()).or_insert_with(|| Connection::open(address))
    }
}

impl Peer for SocketPeer {
    fn send(&mut self, conn: &str, bytes: &[u8]) {
        let until = Instant::now() + self.patience;
        self.connection(conn).send(bytes, until);
    }

    fn receive(&mut self, conn: &str, at_least: usize) -> Vec<u8> {
        let until = Instant::now() + self.patience;
        let connection = self.connection(conn);
        connection.absorb();
        while connection.arrived.len() < at_least && !connection.ended && connection.wait(PollFlags::IN, until) {
            connection.absorb();
        }
        std::mem::take(&mut connection.arrived)
    }

    fn closed(&mut self, conn: &str) -> bool {
        let until = Instant::now() + self.patience;
        let connection = self.connection(conn);
        connection.absorb();
        while !connection.ended && connection.wait(PollFlags::IN, until) {
            connection.absorb();
        }
        connection.ended
    }

    fn close(&mut self, conn: &str) {
        // A connection that was never used is opened first, so that the server sees it come and go.
        self.connection(conn);
        self.connections.remove(conn);
    }

    fn half_close(&mut self, conn: &str) {
        // An error means the server has gone already, which the next expectation will notice.
        let _ = self.connection(conn).stream.shutdown(Shutdown::Write);
    }

    fn advance(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn settle(&mut self) {
        let ports: Vec<u16> = [Some(self.address), self.kestrel].into_iter().flatten().map(|it| it.port()).collect();
        eventually("what was sent has reached the server", self.patience, || !any_is_under_way(&ports));
        if let Some(process) = self.process {
            eventually("the server sleeps", self.patience, || {
                let before = sleeping_threads(process);
                before.is_some() && before == sleeping_threads(process)
            });
        }
    }
}

/// Whether anything sent to these ports of this machine, the end of a stream included, is not acknowledged yet: then the thread
/// that receives it may not even have been woken.
fn any_is_under_way(ports: &[u16]) -> bool {
    let table = read_lossy("/proc/net/tcp");
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (peer, sizes) = (words[2], words[4]);
        let goes_to = |port: &u16| peer.ends_with(&format!(":{port:04X}"));
        ports.iter().any(goes_to) && !sizes.starts_with("00000000:")
    })
}

/// The threads of a process and how often each has gone to sleep or was made to wait; none while one of them runs. If it is the
/// same twice, all slept at once in between, and whoever would have been woken by then was awake.
fn sleeping_threads(process: u32) -> Option<Vec<(PathBuf, u64)>> {
    let asleep = |thread: PathBuf| {
        let switches = context_switches(&thread);
        read_lossy(thread.join("status")).contains("\nState:\tS").then_some((thread, switches))
    };
    threads(process).into_iter().map(asleep).collect()
}

impl Connection {
    fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap_or_else(|why| panic!("no connection to {address}: {why}"));
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Connection { stream, arrived: Vec::new(), ended: false }
    }

    fn send(&mut self, mut bytes: &[u8], until: Instant) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(size) => bytes = &bytes[size..],
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => {
                    self.absorb();
                    // The end of stream stays readable for ever and must not keep the wait from waiting.
                    let interest = if self.ended { PollFlags::OUT } else { PollFlags::IN | PollFlags::OUT };
                    assert!(self.wait(interest, until), "the server left {} bytes unread", bytes.len());
                }
                // The server has closed; what the client still says is lost.
                Err(why) if matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return,
                Err(why) => panic!("sending: {why}"),
            }
        }
    }

    /// Takes in everything that has come.
    fn absorb(&mut self) {
        let mut chunk = [0; 65536];
        while !self.ended {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(size) => self.arrived.extend_from_slice(&chunk[..size]),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                Err(why) if matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.ended = true
                }
                Err(why) => panic!("receiving: {why}"),
            }
        }
    }

    /// Waits until the socket is ready; false when the time is up first.
    fn wait(&self, interest: PollFlags, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a test's patience fits a timespec");
            match poll(&mut [PollFd::new(&self.stream, interest)], Some(&timeout)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(why) => panic!("poll: {why}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::transcript::{Chunking, Transcript, run};

    /// Serves one connection with `serve`, in a thread.
    fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketPeer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(listener.accept().unwrap().0));
        SocketPeer { address, kestrel: None, process: None, patience: PATIENCE, connections: HashMap::new() }
    }

    /// Reads until a whole request has come and answers it, over and over; `quit\r\n` closes.
    fn version_server(mut stream: TcpStream) {
        let mut request = Vec::new();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            request.push(byte[0]);
            match request.as_slice() {
                b"version\r\n" => stream.write_all(b"VERSION 1.0.0\r\n").unwrap(),
                b"quit\r\n" => return,
                _ => continue,
            }
            request.clear();
        }
    }

    #[test]
    fn a_transcript_runs_over_a_socket() {
        for chunking in [Chunking::Whole, Chunking::SingleBytes] {
            let dialogue =
                "> version\\r\\nversion\\r\\n\n~ VERSION {version}\\r\\n\n< VERSION 1.0.0\\r\\n\n> quit\\r\\n\n$\n";
            let transcript = Transcript::parse("inline", 1, dialogue).unwrap();
            run(&transcript, &mut server(version_server), chunking).unwrap();
        }
    }

    #[test]
    fn receive_returns_what_came_when_the_server_closes_early() {
        let mut peer = server(|mut stream| stream.write_all(b"VERS").unwrap());
        assert_eq!(peer.receive("A", 9), b"VERS");
        assert!(peer.closed("A"));
    }

    #[test]
    fn bytes_before_the_close_stay_to_be_received() {
        let mut peer = server(|mut stream| stream.write_all(b"ERROR\r\n").unwrap());
        assert!(peer.closed("A"));
        assert_eq!(peer.pending("A"), b"ERROR\r\n");
    }

    #[test]
    fn an_open_connection_is_not_closed() {
        let mut peer = server(version_server);
        peer.patience = Duration::from_millis(20);
        assert!(!peer.closed("A"));
        assert_eq!(peer.receive("A", 1), b"");
    }

    #[test]
    fn a_half_closed_connection_still_receives() {
        let mut peer = server(|mut stream| {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        });
        peer.send("A", b"abc");
        peer.half_close("A");
        assert_eq!(peer.receive("A", 3), b"abc");
        assert!(peer.closed("A"));
    }

    #[test]
    fn a_client_that_closes_is_seen_to_go() {
        let (tell, told) = std::sync::mpsc::channel();
        let mut peer = server(move |mut stream| {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            tell.send(request).unwrap();
        });
        peer.send("A", b"abc");
        peer.close("A");
        assert_eq!(told.recv().unwrap(), b"abc");
    }

    #[test]
    fn sending_after_the_server_closed_is_no_error_and_its_last_words_are_kept() {
        let (go, gone) = std::sync::mpsc::channel();
        let mut peer = server(move |mut stream| {
            stream.write_all(b"ERROR\r\n").unwrap();
            drop(stream);
            go.send(()).unwrap();
        });
        peer.connection("A");
        gone.recv().unwrap();
        for _ in 0..3 {
            peer.send("A", b"version\r\n");
        }
        assert!(peer.closed("A"));
        assert_eq!(peer.pending("A"), b"ERROR\r\n");
    }

    #[test]
    fn who_settles_has_been_heard() {
        for chunking in [1, 1000] {
            let mut peer = server(|mut stream| while stream.read(&mut [0; 100]).is_ok_and(|size| size > 0) {});
            [b'x'; 1000].chunks(chunking).for_each(|bytes| peer.send("A", bytes));
            peer.settle();
            peer.close("A");
            peer.settle();
            assert!(!any_is_under_way(&[peer.address.port()]));
        }
    }

    #[test]
    fn a_process_with_something_to_do_does_not_sleep() {
        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        let mut idle = std::process::Command::new("sleep").arg("60").spawn().expect("a sleep");
        eventually("one sleeps", PATIENCE, || sleeping_threads(idle.id()).is_some());
        assert_eq!(sleeping_threads(busy.id()), None);
        for child in [&mut busy, &mut idle] {
            child.kill().expect("end it");
            child.wait().expect("it ends");
        }
    }

    /// The server echoes and reads nothing while its own write is stuck, so both directions fill up.
    #[test]
    fn a_long_send_takes_in_replies_meanwhile() {
        const SIZE: usize = 8 << 20;
        let mut peer = server(|mut stream| {
            let mut chunk = [0; 65536];
            while let Ok(size @ 1..) = stream.read(&mut chunk) {
                stream.write_all(&chunk[..size]).unwrap();
            }
        });
        peer.send("A", &vec![b'x'; SIZE]);
        assert_eq!(peer.receive("A", SIZE).len(), SIZE);
    }
}
