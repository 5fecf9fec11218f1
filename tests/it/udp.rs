//! UDP as its clients meet it, against the real process: frames, bounds, what is dropped, and that nothing is lost.

use crate::clients::skip;
use crate::facts::{anonymous_memory, context_switches, puts_and_gets, stat, thread_named};
use crate::harness::{Server, candidate_port, eventually, is_taken, shown};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const HEADER_SIZE: usize = 8;
const DATAGRAM_SIZE_MAX: usize = 1400;
const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for UDP\r\n";

/// A server with UDP, and the directory it keeps its data in.
struct UdpServer {
    server: Server,
    port: u16,
    _data: TempDir,
}

impl UdpServer {
    /// On a port that nobody else has: 0 means off, so the system cannot choose.
    fn start(args: &[&str]) -> UdpServer {
        let data = tempfile::tempdir().expect("a temporary directory");
        for _ in 0..50 {
            let port = candidate_port();
            let udp = port.to_string();
            match Server::try_start_in(&data.path().join("data"), &[&["-U", &udp], args].concat()) {
                Ok(server) => return UdpServer { server, port, _data: data },
                Err(refused) if is_taken(&refused) => {}
                Err(refused) => panic!("ringq did not start: {refused:?}"),
            }
        }
        panic!("no port is free");
    }

    fn addr(&self) -> SocketAddr {
        (IpAddr::from([127, 0, 0, 1]), self.port).into()
    }

    fn peer(&self) -> Peer {
        Peer::new(self.addr())
    }

    fn dropped(&self) -> u64 {
        stat(&self.server, "udp_dropped")
    }
}

/// A client by UDP.
struct Peer {
    socket: UdpSocket,
    next_id: u16,
}

impl Peer {
    fn new(server: SocketAddr) -> Peer {
        let any: IpAddr = if server.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        let socket = UdpSocket::bind((any, 0)).expect("bind");
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(TIMEOUT)).expect("set the read timeout");
        Peer { socket, next_id: 1 }
    }

    /// Sends a datagram as it is.
    fn send_raw(&self, datagram: &[u8]) {
        self.socket.send(datagram).expect("send");
    }

    /// Sends requests. Returns their id.
    fn send(&mut self, requests: &[u8]) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.send_raw(&frame(id, 0, 1, requests));
        id
    }

    /// The next datagram: id, sequence, total, and the rest.
    fn receive(&self) -> (u16, u16, u16, Vec<u8>) {
        let mut datagram = [0; 65536];
        let size = self.socket.recv(&mut datagram).expect("a datagram");
        assert!((HEADER_SIZE + 1..=DATAGRAM_SIZE_MAX).contains(&size), "{size} bytes");
        let field = |n: usize| u16::from_be_bytes([datagram[2 * n], datagram[2 * n + 1]]);
        assert_eq!(field(3), 0, "reserved");
        (field(0), field(1), field(2), datagram[HEADER_SIZE..size].to_vec())
    }

    /// The whole reply with this id, which must be the next.
    fn reply(&self, id: u16) -> Vec<u8> {
        let mut reply = Vec::new();
        for expected in 0.. {
            let (of, sequence, total, piece) = self.receive();
            assert_eq!((of, sequence), (id, expected), "{}", shown(&piece));
            reply.extend_from_slice(&piece);
            if sequence + 1 == total {
                break;
            }
            assert_eq!(piece.len(), DATAGRAM_SIZE_MAX - HEADER_SIZE, "all but the last are full");
        }
        reply
    }

    fn ask(&mut self, requests: &[u8]) -> Vec<u8> {
        let id = self.send(requests);
        self.reply(id)
    }

    #[track_caller]
    fn expect(&mut self, requests: &[u8], reply: &[u8]) {
        let got = self.ask(requests);
        assert!(got == reply, "to {}: {}, not {}", shown(requests), shown(&got), shown(reply));
    }

    /// Whether nothing has come.
    fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).expect("set non-blocking");
        let result = self.socket.recv(&mut [0; 16]);
        self.socket.set_nonblocking(false).expect("set blocking");
        matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

fn frame(id: u16, sequence: u16, total: u16, requests: &[u8]) -> Vec<u8> {
    let header = [id, sequence, total, 0].map(u16::to_be_bytes).concat();
    [&header, requests].concat()
}

fn set(queue: &str, body: &[u8]) -> Vec<u8> {
    [format!("set {queue} 0 0 {}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

fn value(queue: &str, body: &[u8]) -> Vec<u8> {
    [format!("VALUE {queue} 0 {}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

fn got(queue: &str, body: &[u8]) -> Vec<u8> {
    [value(queue, body), b"END\r\n".to_vec()].concat()
}

#[test]
fn without_files_datagrams_are_dropped_and_everything_else_goes_on() {
    let udp = UdpServer::start(&["-t", "1"]);
    let mut client = udp.server.connect();
    client.send(b"set q 0 0 1\r\n1\r\n");
    client.expect(b"STORED\r\n");
    let mut dropped = || {
        let stats = String::from_utf8(client.command(b"stats\r\n", b"END\r\n")).expect("stats are text");
        let line = stats.lines().find_map(|line| line.strip_prefix("STAT udp_dropped ")).expect("a number");
        line.parse::<u64>().expect("a number")
    };
    let pid = Pid::from_raw(i32::try_from(udp.server.pid()).expect("a process id")).expect("not 0");
    let before = getrlimit(Resource::Nofile);
    // No file that is open now is closed by it, and none can be opened.
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(3), ..before }).expect("lower the limit");
    let mut peer = udp.peer();
    for number in 1..=5 {
        peer.send(b"get q\r\n");
        eventually("it is dropped", TIMEOUT, || dropped() == number);
    }
    client.send(b"get q/peek\r\nset q 0 0 1\r\n2\r\ndb_checkpoint\r\n");
    client.expect(b"VALUE q/peek 0 1\r\n1\r\nEND\r\nSTORED\r\nOK\r\n");
    prlimit(Some(pid), Resource::Nofile, before).expect("raise the limit");
    assert_eq!(peer.ask(b"get q\r\n"), b"VALUE q 0 1\r\n1\r\nEND\r\n");
    let output = udp.server.output();
    assert_eq!(output.matches("datagrams are dropped: Too many open files").count(), 1, "{output}");
}

#[test]
fn messages_come_and_go_by_udp_and_by_tcp() {
    for threads in ["1", "2"] {
        let udp = UdpServer::start(&["-t", threads]);
        let mut peer = udp.peer();
        // Whatever is in a body, and a frame's beginning too.
        let body: Vec<u8> = (0..=255).chain(b"\r\nget q\r\n\0\x01\0\0\0\x01\0\0".iter().copied()).collect();
        for queue in ["a", "b", "c", "d"] {
            peer.expect(&set(queue, &body), b"STORED\r\n");
            peer.expect(format!("get {queue}\r\n").as_bytes(), &got(queue, &body));
            peer.expect(&set(queue, b""), b"STORED\r\n");
        }
        let mut client = udp.server.connect();
        client.send(b"get a b\r\n");
        client.expect(&[value("a", b""), got("b", b"")].concat());
        client.send(&set("a", b"by TCP"));
        client.expect(b"STORED\r\n");
        peer.expect(b"get a\r\n", &got("a", b"by TCP"));
        peer.expect(b"get a\r\n", b"END\r\n");
        peer.expect(b"version\r\n", format!("VERSION {}\r\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
}

#[test]
fn a_datagram_may_hold_several_requests() {
    let udp = UdpServer::start(&["-t", "2"]);
    let mut peer = udp.peer();
    let requests = [&set("a", b"1")[..], &set("b", b"2"), b"get b a nosuch\nbogus\r\nget a\r\n"].concat();
    let expected = [b"STORED\r\nSTORED\r\n", &value("b", b"2")[..], &got("a", b"1"), b"ERROR\r\nEND\r\n"].concat();
    peer.expect(&requests, &expected);
}

#[test]
fn noreply_says_nothing_and_is_done() {
    let udp = UdpServer::start(&[]);
    let mut peer = udp.peer();
    peer.send(b"set q 0 0 3 noreply\r\nabc\r\n");
    eventually("it is stored", TIMEOUT, || stat(&udp.server, "curr_items") == 1);
    peer.send(b"quit\r\n");
    peer.expect(b"get q\r\n", &got("q", b"abc"));
    assert!(peer.is_silent());
    assert_eq!(udp.dropped(), 0);
}

#[test]
fn a_large_reply_comes_in_numbered_datagrams() {
    let udp = UdpServer::start(&[]);
    let mut peer = udp.peer();
    let body: Vec<u8> = (0..15_000u32).map(|n| (n / 7) as u8).collect();
    peer.expect(&set("q", &body), b"STORED\r\n");
    peer.next_id = 0xfffe;
    peer.expect(b"get q\r\n", &got("q", &body));
    let received = stat(&udp.server, "udp_received");
    assert_eq!((received, stat(&udp.server, "udp_sent"), stat(&udp.server, "udp_unsent")), (2, 1 + 11, 0));
    // The largest datagram there is.
    let body = vec![b'x'; 65_507 - HEADER_SIZE - b"set q 0 0 65480\r\n\r\n".len()];
    peer.expect(&set("q", &body), b"STORED\r\n");
    let mut client = udp.server.connect();
    client.send(b"get q\r\n");
    client.expect(&got("q", &body));
}

#[test]
fn what_is_no_request_is_dropped_and_counted() {
    let udp = UdpServer::start(&[]);
    let mut peer = udp.peer();
    let dropped = [
        b"".to_vec(),
        b"x".to_vec(),
        b"get q\r\n".to_vec(),
        frame(7, 0, 1, b""),
        frame(7, 0, 2, b"version\r\n"),
        frame(7, 1, 2, b"version\r\n"),
        frame(7, 1, 1, b"version\r\n"),
        frame(7, 0, 0, b"version\r\n"),
        frame(7, 0, 256, b"version\r\n"),
        // memcached's binary protocol: a version request.
        frame(7, 0, 1, &[&b"\x80\x0b"[..], &[0; 22]].concat()),
        // What a server would say to a reply.
        frame(7, 0, 1, b"ERROR\r\nERROR\r\n"),
        // Incomplete lines and bodies.
        frame(7, 0, 1, b"version"),
        frame(7, 0, 1, b"version\r"),
        frame(7, 0, 1, b"set q 0 0 3\r\n"),
        frame(7, 0, 1, b"set q 0 0 3\r\nab"),
        frame(7, 0, 1, b"set q 0 0 3\r\nabc"),
        frame(7, 0, 1, b"set q 0 0 1000000\r\nabc"),
    ];
    for datagram in &dropped {
        peer.send_raw(datagram);
    }
    eventually("all are counted", TIMEOUT, || udp.dropped() == dropped.len() as u64);
    // The second half of a body is no continuation of the first.
    peer.expect(b"abc\r\n", b"ERROR\r\n");
    // Complete requests before an incomplete one are served.
    peer.expect(b"version now\r\nget q", b"ERROR\r\n");
    assert!(peer.is_silent(), "nothing else was answered");
    eventually("it is counted", TIMEOUT, || udp.dropped() == dropped.len() as u64 + 1);
    assert_eq!(stat(&udp.server, "udp_received"), dropped.len() as u64 + 2);
    assert_eq!(stat(&udp.server, "curr_items"), 0);
    let mut client = udp.server.connect();
    client.send(b"stats reset\r\n");
    client.expect(b"RESET\r\n");
    eventually("they are counted anew", TIMEOUT, || {
        ["udp_received", "udp_dropped", "udp_sent"].iter().all(|name| stat(&udp.server, name) == 0)
    });
}

#[test]
fn a_message_too_large_for_udp_stays_in_its_queue() {
    let mut udp = UdpServer::start(&["-t", "2", "-m", "4", "--udp-reply-max", "2000"]);
    let large = vec![b'L'; 2000];
    let queues: Vec<String> = (0..6).map(|n| format!("queue-{n}")).collect();
    let mut client = udp.server.connect();
    for queue in &queues {
        client.send(&set(queue, &large));
        client.expect(b"STORED\r\n");
        client.send(&set(queue, b"small"));
        client.expect(b"STORED\r\n");
    }
    // More than memory holds, so that the first of each queue is on disk only.
    let filler = vec![b'F'; 100_000];
    for _ in 0..60 {
        client.send(&set("filler", &filler));
        client.expect(b"STORED\r\n");
    }
    for restarts in [false, true] {
        if restarts {
            udp.server.restart();
        }
        let mut peer = udp.peer();
        // From each of the shards.
        for queue in queues.iter().chain(&queues[..1]) {
            peer.expect(format!("get {queue}\r\n").as_bytes(), TOO_LARGE);
            peer.expect(format!("gets {queue}/t=1000\r\n").as_bytes(), TOO_LARGE);
        }
        peer.expect(format!("get {}\r\n", queues.join(" ")).as_bytes(), TOO_LARGE);
    }
    let mut client = udp.server.connect();
    let mut peer = udp.peer();
    for queue in &queues {
        assert_eq!(puts_and_gets(&udp.server, queue), Some((2, 0)));
        client.send(format!("get {queue}\r\n").as_bytes());
        client.expect(&got(queue, &large));
        peer.expect(format!("get {queue}\r\n").as_bytes(), &got(queue, b"small"));
    }
}

#[test]
fn a_reply_is_never_larger_than_its_bound() {
    let udp = UdpServer::start(&["-t", "2", "--udp-reply-max", "1400"]);
    let mut client = udp.server.connect();
    for n in 0..100 {
        client.send(&set(&format!("queue-with-a-long-name-{n}"), b"x"));
        client.expect(b"STORED\r\n");
    }
    let mut peer = udp.peer();
    let listing = peer.ask(b"stats queue\r\n");
    assert!(
        listing.len() <= 1400 && listing.ends_with(b"SERVER_ERROR reply too large for UDP\r\n"),
        "{}",
        shown(&listing)
    );
    let all = peer.ask(&b"get queue-with-a-long-name-1 queue-with-a-long-name-2\r\n".repeat(1000));
    assert!(all.len() <= 1400, "{} bytes", all.len());
    assert!(all.starts_with(&value("queue-with-a-long-name-1", b"x")), "{}", shown(&all));
    let all = peer.ask(&set("q", b"x").repeat(1000));
    assert!(all.len() <= 1400 && all.ends_with(b"SERVER_ERROR reply too large for UDP\r\n"), "{}", shown(&all));
    // What was not served was not stored.
    let stored = all.windows(8).filter(|window| window == b"STORED\r\n").count() as u64;
    assert_eq!(puts_and_gets(&udp.server, "q"), Some((stored, 0)));
}

#[test]
fn a_get_with_a_timeout_is_answered_at_once() {
    let udp = UdpServer::start(&["-t", "2"]);
    let mut peer = udp.peer();
    // More than there may be under way, each of an hour.
    for n in 0..200 {
        peer.expect(format!("get q{n}/t=3600000\r\n").as_bytes(), b"END\r\n");
    }
    assert_eq!(stat(&udp.server, "waiters"), 0);
}

#[test]
fn stored_survives_kill_9() {
    let mut udp = UdpServer::start(&["-t", "2"]);
    let stored = put_until(&mut udp, Server::kill9);
    udp.server.restart();
    let found = drain(&udp.server, 4);
    assert!(stored.is_subset(&found), "lost: {:?}", stored.difference(&found).collect::<Vec<_>>());
}

#[test]
fn a_stop_under_load_ends_cleanly_and_keeps_what_was_stored() {
    let mut udp = UdpServer::start(&["-t", "2"]);
    let stored = put_until(&mut udp, |server| {
        server.signal(Signal::TERM);
        assert_eq!(server.wait_for_end(STOP_TIMEOUT).code(), Some(0), "{}", server.output());
    });
    assert!(!udp.server.output().contains("cut off"), "{}", udp.server.output());
    udp.server.restart();
    let found = drain(&udp.server, 4);
    assert!(stored.is_subset(&found), "lost: {:?}", stored.difference(&found).collect::<Vec<_>>());
}

/// Four clients put into the queues `q0` to `q3` until `end` has ended the server. Returns what they were told is stored.
fn put_until(udp: &mut UdpServer, end: impl FnOnce(&mut Server)) -> HashSet<String> {
    let addr = udp.addr();
    let (acknowledged, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let put = |thread: usize| {
        let peer = Peer::new(addr);
        // What comes too late is not answered, and nobody says so.
        peer.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set the read timeout");
        let mut stored = Vec::new();
        for n in 0u64.. {
            if ended.load(Ordering::SeqCst) {
                break;
            }
            let body = format!("{thread}-{n}");
            let request = frame(n as u16, 0, 1, &set(&format!("q{thread}"), body.as_bytes()));
            // Fails when the port is closed, as receiving does.
            let _ = peer.socket.send(&request);
            let mut reply = [0; 100];
            if peer.socket.recv(&mut reply).is_ok_and(|size| reply[..size] == frame(n as u16, 0, 1, b"STORED\r\n")) {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                stored.push(body);
            }
        }
        stored
    };
    std::thread::scope(|scope| {
        let put = &put;
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || put(thread))).collect();
        eventually("there is load", TIMEOUT, || acknowledged.load(Ordering::Relaxed) > 500);
        end(&mut udp.server);
        ended.store(true, Ordering::SeqCst);
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    })
}

/// Takes all messages of the queues `q0` and so on, none of which comes twice.
fn drain(server: &Server, queues: usize) -> HashSet<String> {
    let mut client = server.connect();
    let mut found = HashSet::new();
    for queue in 0..queues {
        loop {
            let reply = client.command(format!("get q{queue}\r\n").as_bytes(), b"END\r\n");
            let reply = String::from_utf8(reply).expect("text");
            let Some(body) = reply.lines().nth(1) else { break };
            assert!(found.insert(body.to_owned()), "{body} came twice");
        }
    }
    found
}

#[test]
fn datagrams_take_no_connection_from_anybody() {
    let udp = UdpServer::start(&["-c", "1"]);
    let mut client = udp.server.connect();
    client.command(b"version\r\n", b"\r\n");
    let mut peer = udp.peer();
    for _ in 0..300 {
        peer.expect(b"get q\r\n", b"END\r\n");
    }
    let stats = String::from_utf8(client.command(b"stats\r\n", b"END\r\n")).expect("text");
    for line in ["curr_connections 1", "total_connections 1", "rejected_connections 0", "max_connections 1"] {
        assert!(stats.contains(&format!("STAT {line}\r\n")), "no {line} in {stats}");
    }
}

#[test]
fn floods_of_garbage_cost_no_memory_and_do_not_stop_tcp() {
    let udp = UdpServer::start(&["-t", "2"]);
    let addr = udp.addr();
    let mut client = udp.server.connect();
    client.command(b"version\r\n", b"\r\n");
    let flood = |rounds: usize| {
        let peer = Peer::new(addr);
        let large = [&b"set q 0 0 1000000\r\n"[..], &[b'x'; 60_000]].concat();
        let garbage = [
            frame(1, 0, 1, &large),
            frame(1, 0, 1, &[b'x'; 9000]),
            frame(1, 0, 1, b"get q/t=100000\r\n"),
            frame(1, 0, 1, b"set q 0 0 5\r\nhel"),
            frame(1, 0, 3, b"get q\r\n"),
            vec![0xff; 1000],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            frame(1, 0, 1, b"GET / HTTP/1.1\r\n\r\n"),
        ];
        for _ in 0..rounds {
            // A full buffer somewhere loses a datagram, which is as good.
            garbage.iter().for_each(|datagram| drop(peer.socket.send(datagram)));
        }
    };
    // What is needed to serve them at all is not growth.
    flood(500);
    let before = anonymous_memory(&udp.server);
    let flooding = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                flood(5000);
                flooding.store(false, Ordering::SeqCst);
            });
        }
        let mut rounds = 0;
        while flooding.load(Ordering::SeqCst) || rounds < 20 {
            client.send(&set("mine", b"x"));
            client.expect(b"STORED\r\n");
            client.send(b"get mine\r\n");
            client.expect(&got("mine", b"x"));
            rounds += 1;
        }
    });
    let mut peer = udp.peer();
    // While the flood is still in the socket's buffer, there is no room for more.
    peer.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set the read timeout");
    eventually("UDP is served again", TIMEOUT, || {
        peer.send(b"version\r\n");
        peer.socket.recv(&mut [0; 100]).is_ok()
    });
    let grown = anonymous_memory(&udp.server).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert!(udp.dropped() > 1000);
}

#[test]
fn many_clients_at_once_are_all_served() {
    let udp = UdpServer::start(&["-t", "2"]);
    let peers: Vec<Peer> = (0..50).map(|_| udp.peer()).collect();
    for round in 0..20 {
        for (n, peer) in peers.iter().enumerate() {
            peer.send_raw(&frame(round, 0, 1, &set(&format!("q{}", n % 7), format!("{round}-{n}").as_bytes())));
        }
        for peer in &peers {
            assert_eq!(peer.reply(round), b"STORED\r\n");
        }
    }
    assert_eq!(drain(&udp.server, 7).len(), 20 * 50);
}

#[test]
fn every_address_of_l_is_served_by_udp() {
    let udp = UdpServer::start(&["-l", "127.0.0.1", "-l", "127.0.0.2"]);
    let named = udp.server.ready_addresses();
    for address in ["127.0.0.1", "127.0.0.2"] {
        assert!(named.contains(&format!("udp:{address}:{}", udp.port)), "{named:?}");
        let mut peer = Peer::new(SocketAddr::new(address.parse().expect("an address"), udp.port));
        peer.expect(b"get q\r\n", b"END\r\n");
    }
    let settings = udp.server.connect().command(b"stats settings\r\n", b"END\r\n");
    let settings = String::from_utf8(settings).expect("text");
    for line in [format!("STAT udpport {}\r\n", udp.port), "STAT udp_reply_max 16384\r\n".into()] {
        assert!(settings.contains(&line), "no {line} in {settings}");
    }
}

#[test]
fn udp_works_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return skip("udp_works_over_ipv6", "there is no IPv6");
    }
    let udp = UdpServer::start(&["-l", "::1"]);
    let mut peer = Peer::new(SocketAddr::new("::1".parse().expect("an address"), udp.port));
    peer.expect(&set("q", b"six"), b"STORED\r\n");
    peer.expect(b"get q\r\n", &got("q", b"six"));
    assert!(udp.server.ready_addresses().contains(&format!("udp:[::1]:{}", udp.port)));
}

#[test]
fn a_udp_port_in_use_is_refused_by_name() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = other.local_addr().expect("an address").port().to_string();
    let data = tempfile::tempdir().expect("a temporary directory");
    let refused = Server::try_start_in(&data.path().join("data"), &["-U", &port]).err().expect("the port is in use");
    assert_eq!(refused.status.code(), Some(1));
    for part in [&format!("127.0.0.1:{port}"), "in use", "UDP", "-U"] {
        assert!(refused.output.contains(part), "no {part} in {}", refused.output);
    }
}

#[test]
fn without_u_and_with_s_there_is_no_udp() {
    let is_udp = |server: &Server| server.ready_addresses().iter().any(|address| address.starts_with("udp:"));
    let server = Server::start(&[]);
    assert!(!is_udp(&server));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("socket");
    let port = candidate_port();
    let args = ["-s", socket.to_str().expect("text"), "-U", &port.to_string(), "-p", "0", "-l", "127.0.0.1"];
    let server = Server::start(&args);
    assert!(!is_udp(&server));
    assert!(server.output().contains(&format!("-U {port} has no effect")), "{}", server.output());
    drop(UdpSocket::bind(("127.0.0.1", port)).expect("nobody has the port"));
}

#[test]
fn an_idle_udp_thread_sleeps() {
    let udp = UdpServer::start(&[]);
    let mut peer = udp.peer();
    peer.expect(b"get q\r\n", b"END\r\n");
    // A thread that looks around by itself never has a half second without.
    let switches = || context_switches(&thread_named(udp.server.pid(), "ringq-udp").expect("the UDP thread"));
    eventually("the thread sleeps", TIMEOUT, || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(500));
        switches() == before
    });
}
