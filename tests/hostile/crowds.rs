//! Crowds: many clients at once, or one that asks for very much, on every listener.

use crate::bound::Crowd;
use crate::facts::{anonymous_memory, figures, processor_ticks, stat};
use crate::harness::{Client, Server, eventually, read_lossy};
use crate::skips::skip;
use crate::traffic::{Answer, Link, Rng};
use crate::{
    MIB, NOTICE_TIMEOUT, check_memory, check_only_asking_connection, check_service, connect, make_queues, put_large,
    read_what_comes, reset, send_until_full, settle,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Files for other tests of this program, which run at the same time.
const OTHER_FILES: u64 = 4000;

/// Raises the limit of open files for so many connections, while no other test has such a crowd: they share the limit. `None`: it cannot, and
/// the test is noted as skipped.
fn crowd(test: &str, connections: u64) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = connections + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|hard| hard < wanted) {
        skip(test, &format!("the hard limit of open files is below {wanted}"));
        return None;
    }
    if limit.current.is_some_and(|soft| soft < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).expect("raise the limit");
    }
    Some(turn)
}

// --- connections ---

#[test]
fn ten_thousand_idle_connections_are_cheap() {
    const COUNT: u64 = 10_000;
    const SIZE_MAX: u64 = 2048;
    let Some(_turn) = crowd("ten_thousand_idle_connections_are_cheap", COUNT) else { return };
    let server = Server::start(&["-m", "8", "-t", "2"]);
    check_service(&server);
    let before = anonymous_memory(&server);
    let idle: Vec<TcpStream> = (0..COUNT).map(|_| connect(&server)).collect();
    eventually("all are accepted", NOTICE_TIMEOUT, || stat(&server, "curr_connections") == COUNT + 1);
    let each = anonymous_memory(&server).saturating_sub(before) / COUNT;
    println!("{each} bytes for each of {COUNT} idle connections");
    assert!(each <= SIZE_MAX, "{each} bytes for each connection");
    check_memory(&server, Crowd { connections: COUNT, ..Crowd::default() }, "10,000 idle connections");
    for mut client in idle.iter().step_by(500) {
        client.write_all(b"get nothing\r\n").expect("send");
        let mut reply = [0; 5];
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"END\r\n");
    }
    drop(idle);
    check_only_asking_connection(&server);
    check_service(&server);
}

#[test]
fn the_limit_of_connections_is_said_and_kept() {
    let server = Server::start(&["-m", "8", "-t", "2", "-c", "20"]);
    let mut open: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut open {
        client.command(b"version\r\n", b"\r\n");
    }
    for _ in 0..100 {
        let mut refused = server.connect();
        assert_eq!(refused.read_to_end(), b"SERVER_ERROR too many open connections\r\n");
    }
    let reply = open[0].command(b"stats\r\n", b"END\r\n");
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.contains("STAT rejected_connections 100\r\n"), "{reply}");
    assert!(reply.contains("STAT curr_connections 20\r\n"), "{reply}");
    open.truncate(10);
    // The server notices the ends in its own time.
    eventually("there is room again", NOTICE_TIMEOUT, || {
        let mut client = connect(&server);
        let _ = client.write_all(b"get nothing\r\nquit\r\n");
        read_what_comes(&mut client) == b"END\r\n"
    });
    open.iter_mut().for_each(|client| assert!(client.command(b"version\r\n", b"\r\n").starts_with(b"VERSION ")));
    drop(open);
    check_only_asking_connection(&server);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    check_service(&server);
    let mut before = 0;
    for index in 0..5000 {
        if index == 1000 {
            before = anonymous_memory(&server);
        }
        let mut client = connect(&server);
        match index % 5 {
            0 => {}
            1 => reset(client),
            2 => client.write_all(b"vers").expect("send"),
            3 => client.write_all(b"set q 0 0 1000000\r\nxxx").expect("send"),
            _ => {
                client.write_all(b"get nothing\r\nquit\r\n").expect("send");
                assert_eq!(read_what_comes(&mut client), b"END\r\n");
            }
        }
    }
    check_only_asking_connection(&server);
    check_service(&server);
    check_memory(&server, Crowd::default(), "5,000 connections that are gone");
    let growth = anonymous_memory(&server).saturating_sub(before);
    assert!(growth < 4 << 20, "4,000 connections that are gone left {growth} bytes");
}

/// On every listener: senders that begin and do not go on, and those that shut their sending side at once and keep the rest open.
#[test]
fn connections_that_begin_and_do_not_go_on_hold_up_nobody_on_any_listener() {
    const EACH: usize = 300;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("socket");
    let unix = path.to_str().expect("text");
    let args = ["-m", "8", "-t", "2", "-l", "127.0.0.1", "-l", unix, "--kestrel-port", "0", "--admin", "127.0.0.1:0"];
    let server = Server::start(&args);
    let kestrel = server.kestrel_addr();
    let beginnings = [&b"s"[..], b"get jo", b"set jobs 0 0 50000\r\nxyz", b"get a b c d", b"monitor jobs 10"];
    let mut slow: Vec<Box<dyn Write>> = Vec::new();
    for at in 0..EACH {
        let beginning = beginnings[at % beginnings.len()];
        let mut three: [Box<dyn Write>; 3] = [
            Box::new(connect(&server)),
            Box::new(TcpStream::connect(kestrel).expect("connect")),
            Box::new(UnixStream::connect(&path).expect("connect")),
        ];
        three.iter_mut().for_each(|stream| stream.write_all(beginning).expect("send"));
        slow.extend(three);
    }
    // The admin listener serves so many at a time, and no more.
    let admin = admin_of(&server);
    let mut readers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(admin).expect("connect")).collect();
    readers.iter_mut().for_each(|stream| stream.write_all(b"GET /metrics HT").expect("send"));
    check_everywhere(&server, &path);
    let crowd = Crowd { connections: 1000, sending: 1000, ..Crowd::default() };
    check_memory(&server, crowd, "900 connections that do not go on");
    // Byte by byte they get on.
    for (at, stream) in slow.iter_mut().enumerate() {
        if at / 3 % beginnings.len() == 3 {
            stream.write_all(b" e").expect("send");
        }
    }
    check_everywhere(&server, &path);
    drop(readers);
    let answers = || {
        let mut stream = TcpStream::connect(admin).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set the read timeout");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("send");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 200"
    };
    eventually("the admin listener answers again", NOTICE_TIMEOUT, answers);
    drop(slow);
    check_only_asking_connection(&server);
    // Half open: the server has nothing to wait for.
    let half: Vec<TcpStream> = (0..2000)
        .map(|at| TcpStream::connect(if at % 2 == 0 { server.addr() } else { kestrel }).expect("connect"))
        .collect();
    half.iter().for_each(|stream| stream.shutdown(Shutdown::Write).expect("shut down"));
    check_only_asking_connection(&server);
    check_everywhere(&server, &path);
    check_memory(&server, Crowd::default(), "2,000 half open connections");
}

/// Where the admin listener is.
fn admin_of(server: &Server) -> SocketAddr {
    let output = server.output();
    let line = output.lines().find_map(|line| line.split_once("admin on http://")?.1.strip_suffix('/'));
    line.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no admin listener in {output}"))
}

#[track_caller]
fn check_everywhere(server: &Server, path: &std::path::Path) {
    check_service(server);
    for mut client in [Client::connect(server.kestrel_addr()), Client::connect_unix(path)] {
        client.send(b"set everywhere 0 0 2\r\nok\r\nget everywhere\r\n");
        client.expect(b"STORED\r\nVALUE everywhere 0 2\r\nok\r\nEND\r\n");
    }
}

#[test]
fn ten_thousand_connections_that_come_and_go_at_once_leave_nothing_behind() {
    const COUNT: usize = 10_000;
    const THREADS: usize = 8;
    let Some(_turn) = crowd("ten_thousand_connections_that_come_and_go_at_once_leave_nothing_behind", COUNT as u64)
    else {
        return;
    };
    let server = Server::start(&["-m", "8", "-t", "2"]);
    for wave in 0..3 {
        let address = server.addr();
        let come = move |who: usize| {
            let mut streams: Vec<TcpStream> =
                (0..COUNT / THREADS).map(|_| TcpStream::connect(address).expect("connect")).collect();
            for (at, stream) in streams.iter_mut().enumerate() {
                match (at + who + wave) % 4 {
                    0 => stream.write_all(b"get a b c\r\nset q 0 0 5\r\nhel").expect("send"),
                    1 => stream.write_all(b"get nothing/t=60000\r\n").expect("send"),
                    2 => stream.write_all(b"set q 0 0 1 noreply\r\nx\r\nget q/open\r\n").expect("send"),
                    _ => {}
                }
            }
            for (at, stream) in streams.into_iter().enumerate() {
                if at % 2 == 0 { reset(stream) } else { drop(stream) }
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|who| thread::spawn(move || come(who))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it connects and goes"));
        check_only_asking_connection(&server);
        check_service(&server);
        check_memory(&server, Crowd { open: COUNT as u64, ..Crowd::default() }, "10,000 connections at once");
    }
    for name in ["waiters", "open_reads"] {
        assert_eq!(stat(&server, name), 0, "{name}");
    }
    // What they had open is ready.
    let ready = figures(&server, "q")["ready"];
    let left = stat(&server, "curr_items");
    assert_eq!(ready, left);
}

// --- what is asked for ---

/// Two million requests of some bytes on a few connections that read.
#[test]
fn millions_of_tiny_requests_are_each_answered() {
    const TIMES: usize = 2_000;
    const AT_ONCE: usize = 250;
    let server = Server::start(&["-m", "8", "-t", "2", "-N", "--kestrel-port", "0"]);
    let asks: [(SocketAddr, &[u8], &[u8]); 4] = [
        (server.addr(), b"\r\n", b"ERROR\r\n"),
        (server.addr(), b"get a\r\n", b"END\r\n"),
        (server.addr(), b"x\n", b"ERROR\r\n"),
        (server.kestrel_addr(), b"get b\r\n", b"END\r\n"),
    ];
    thread::scope(|scope| {
        for (address, request, reply) in asks {
            scope.spawn(move || {
                let stream = TcpStream::connect(address).expect("connect");
                let mut sender = stream.try_clone().expect("a second handle");
                scope.spawn(move || {
                    let requests = request.repeat(AT_ONCE);
                    (0..TIMES).for_each(|_| sender.write_all(&requests).expect("send"));
                });
                let mut reader = stream;
                let expected = reply.repeat(AT_ONCE);
                let mut got = vec![0; expected.len()];
                for _ in 0..TIMES {
                    reader.read_exact(&mut got).expect("replies");
                    assert!(got == expected, "a reply is wrong");
                }
            });
        }
    });
    check_memory(&server, Crowd { connections: 4, busy: 4, ..Crowd::default() }, "two million requests");
    check_only_asking_connection(&server);
    check_service(&server);
}

/// As many names as a line holds, with a message for each.
#[test]
fn multi_gets_of_thousands_of_names_take_each_name_once() {
    const NAMES: usize = 4000;
    let server = Server::start(&["-m", "8", "-t", "2", "-N"]);
    let line = format!("get{}\r\n", " a b".repeat(NAMES / 2));
    for queue in ["a", "b"] {
        put_many(&server, queue, NAMES);
    }
    let mut link = Link::connect(server.addr()).expect("connect");
    link.send(line.repeat(2).as_bytes()).expect("send");
    for _ in 0..2 {
        let mut got = 0;
        while link.value().expect("a reply").is_some() {
            got += 1;
        }
        assert_eq!(got, NAMES);
    }
    drop(link);
    // By clients that do not read, of messages that are large.
    for queue in ["a", "b"] {
        put_large(&server, queue, 40, MIB);
    }
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut client = connect(&server);
        client.write_all(line.repeat(40).as_bytes()).expect("send");
        deaf.push(client);
    }
    settle(|| stat(&server, "get_hits"));
    let crowd = Crowd { connections: 8, busy: 8, flooding: 8, reply: 17 * MIB as u64, ..Crowd::default() };
    check_memory(&server, crowd, "multi-gets of 4,000 names by 8 clients that do not read");
    check_service(&server);
    drop(deaf);
    check_only_asking_connection(&server);
}

/// Puts so many messages of one byte.
fn put_many(server: &Server, queue: &str, count: usize) {
    let mut client = server.connect();
    for first in (0..count).step_by(1000) {
        let puts = format!("set {queue} 0 0 1 noreply\r\nx\r\n").repeat(1000.min(count - first));
        client.send(puts.as_bytes());
        client.send(b"version\r\n");
        client.read_until(b"\r\n");
    }
    client.send(b"db_checkpoint\r\n");
    client.expect(b"OK\r\n");
}

/// Consumers that ask for a large backlog and never read, in every way to ask.
#[test]
fn deaf_consumers_of_a_large_backlog_cost_a_bounded_amount() {
    let mut server = Server::start(&["-m", "8", "-t", "2", "-N", "--kestrel-port", "0"]);
    for queue in ["a", "b", "c", "d"] {
        put_large(&server, queue, 500, 60_000);
    }
    server.restart();
    let requests = ["get a\r\n", "get b/open\r\n", "gets c\r\n", "get a b c d\r\n", "get d/peek\r\n"];
    let mut deaf = Vec::new();
    for at in 0..40 {
        let (address, request) = match at % 6 {
            5 => (server.kestrel_addr(), "get c/open\r\n"),
            at => (server.addr(), requests[at]),
        };
        let mut client = TcpStream::connect(address).expect("connect");
        send_until_full(&mut client, request.repeat(500).as_bytes(), 100_000);
        deaf.push(client);
    }
    settle(|| stat(&server, "get_hits"));
    let crowd = Crowd { connections: 40, busy: 40, open: 2000, ..Crowd::default() };
    check_memory(&server, crowd, "40 deaf consumers of 120 MB");
    check_service(&server);
    drop(deaf);
    check_only_asking_connection(&server);
    assert_eq!(stat(&server, "open_reads"), 0);
    check_service(&server);
}

/// They cost nothing but their place, each put wakes one, and nobody is left when they go.
#[test]
fn ten_thousand_gets_that_wait_cost_no_processor_time() {
    const COUNT: u64 = 10_000;
    /// A tick is a hundredth of a second of processor time.
    const TICKS_MAX: u64 = 30;
    let Some(_turn) = crowd("ten_thousand_gets_that_wait_cost_no_processor_time", COUNT) else { return };
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let mut waiting: Vec<TcpStream> = (0..COUNT).map(|_| connect(&server)).collect();
    for (at, client) in waiting.iter_mut().enumerate() {
        client.write_all(format!("get wait-{}/t=3600000\r\n", at % 500).as_bytes()).expect("send");
    }
    eventually("all wait", NOTICE_TIMEOUT, || stat(&server, "waiters") == COUNT);
    let crowd = Crowd { connections: COUNT, waiting: COUNT, queues: 500, ..Crowd::default() };
    check_memory(&server, crowd, "10,000 gets that wait");
    let before = processor_ticks(&server);
    thread::sleep(Duration::from_secs(3));
    let spent = processor_ticks(&server) - before;
    assert!(spent <= TICKS_MAX, "{spent} ticks of processor time in three seconds for those who wait");
    for queue in 0..500 {
        server.connect().command(format!("set wait-{queue} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n");
    }
    assert_eq!(stat(&server, "waiters"), COUNT - 500);
    // One of each queue has its message, and nobody else anything.
    let mut woken = vec![Vec::new(); waiting.len()];
    waiting.iter().for_each(|client| client.set_nonblocking(true).expect("set nonblocking"));
    eventually("500 have their message", NOTICE_TIMEOUT, || {
        for (client, reply) in waiting.iter_mut().zip(&mut woken) {
            // Until there is nothing more now.
            let _ = client.read_to_end(reply);
        }
        woken.iter().filter(|reply| reply.ends_with(b"END\r\n")).count() == 500
    });
    for queue in 0..500 {
        let expected = format!("VALUE wait-{queue}/t=3600000 0 1\r\nx\r\nEND\r\n");
        let of_queue = woken.iter().skip(queue).step_by(500);
        let got: Vec<&Vec<u8>> = of_queue.filter(|reply| !reply.is_empty()).collect();
        assert_eq!(got, [expected.as_bytes()]);
    }
    drop(waiting);
    check_only_asking_connection(&server);
    assert_eq!(stat(&server, "waiters"), 0);
    check_service(&server);
}

/// Thousands of connections, each with as many open reads as it may have, and then they are gone.
#[test]
fn open_reads_of_thousands_of_connections_are_bounded_and_all_return() {
    const COUNT: usize = 2000;
    const EACH: usize = 32;
    let server = Server::start(&["-m", "8", "-t", "2", "-N", "--max-open-reads", "32"]);
    put_many(&server, "q", COUNT * EACH);
    let mut readers: Vec<Link> = (0..COUNT).map(|_| Link::connect(server.addr()).expect("connect")).collect();
    for reader in &mut readers {
        reader.send("get q/open\r\n".repeat(EACH + 1).as_bytes()).expect("send");
    }
    for reader in &mut readers {
        for _ in 0..EACH {
            assert!(reader.value().expect("a reply").is_some(), "a message");
            assert!(reader.value().expect("a reply").is_none(), "END");
        }
        match reader.answer().expect("a reply") {
            Answer::Line(line) => assert_eq!(line, b"SERVER_ERROR too many open reads"),
            Answer::Value { .. } => panic!("one open read too many"),
        }
    }
    let total = (COUNT * EACH) as u64;
    assert_eq!(stat(&server, "open_reads"), total);
    let crowd = Crowd { connections: COUNT as u64, open: total, ..Crowd::default() };
    check_memory(&server, crowd, "64,000 open reads");
    drop(readers);
    check_only_asking_connection(&server);
    eventually("all return", NOTICE_TIMEOUT, || stat(&server, "open_reads") == 0);
    assert_eq!(figures(&server, "q")["ready"], total);
    check_memory(&server, Crowd { open: total, ..Crowd::default() }, "64,000 reads that returned");
    check_service(&server);
}

/// A connection that asks to open so many messages, all at once, and goes. Returns how many it was given; the others were refused.
fn open_and_go(server: &Server, key: &str, count: usize) -> u64 {
    let mut reader = Link::connect(server.addr()).expect("connect");
    reader.send(format!("get {key}\r\n").repeat(count).as_bytes()).expect("send");
    let mut opened = 0;
    for _ in 0..count {
        match reader.answer().expect("a reply") {
            Answer::Value { .. } => {
                assert!(reader.value().expect("a reply").is_none(), "END");
                opened += 1;
            }
            Answer::Line(line) => assert_eq!(line, b"SERVER_ERROR too many open reads"),
        }
    }
    opened
}

/// Connections that open as many reads as they may, with a time that does not end, and go: again and again.
#[test]
fn reads_that_outlive_their_connections_are_bounded() {
    const MAX: u64 = 20_000;
    let server = Server::start(&["-m", "8", "-t", "1", "-N", "--max-detached-reads", "20000"]);
    put_many(&server, "q", 30_000);
    let opened: u64 = (0..30).map(|_| open_and_go(&server, "q/open/ttr=4294967295", 1000)).sum();
    check_only_asking_connection(&server);
    assert_eq!((stat(&server, "open_reads"), stat(&server, "detached_reads"), opened), (MAX, MAX, MAX));
    check_memory(&server, Crowd { detached: 30_000, ..Crowd::default() }, "30,000 reads that were to stay");
    let settings = server.connect().command(b"stats settings\r\n", b"END\r\n");
    let settings = String::from_utf8(settings).expect("settings are text");
    assert!(settings.contains("STAT max_detached_reads 20000\r\n"), "{settings}");
    // Whoever does not want to leave anything behind is served, and room that is made is used.
    let mut reader = server.connect();
    reader.send(b"get q/open\r\nget q/close\r\ndelete q\r\nset q 0 0 1\r\n1\r\nget q/open/ttr=60\r\n");
    reader
        .expect(b"VALUE q/open 0 1\r\nx\r\nEND\r\nEND\r\nDELETED\r\nSTORED\r\nVALUE q/open/ttr=60 0 1\r\n1\r\nEND\r\n");
    assert_eq!(stat(&server, "detached_reads"), 1);
    check_service(&server);
}

#[test]
fn messages_that_come_back_in_ever_more_queues_are_bounded() {
    const MAX: u64 = 50_000;
    const QUEUES: usize = 60;
    const LEN: usize = 2000;
    let server = Server::start(&["-m", "8", "-t", "1", "-N", "--max-unconfirmed", "50000", "--max-open-reads", "2000"]);
    let mut opened = 0;
    for queue in 0..QUEUES {
        put_many(&server, &format!("queue-{queue}"), LEN);
        opened += open_and_go(&server, &format!("queue-{queue}/open"), LEN);
    }
    assert_eq!(opened, MAX);
    check_only_asking_connection(&server);
    eventually("all have come back", NOTICE_TIMEOUT, || stat(&server, "open_reads") == 0);
    assert_eq!(stat(&server, "unconfirmed"), MAX);
    let crowd = Crowd { open: (QUEUES * LEN) as u64, queues: QUEUES as u64, ..Crowd::default() };
    check_memory(&server, crowd, "50,000 messages that came back");
    // What came back can be opened, and others when it has gone.
    let mut reader = server.connect();
    reader.send(b"get queue-59/open\r\nget queue-0/open\r\nget queue-0/close\r\nget queue-59/open\r\n");
    reader.expect(b"SERVER_ERROR too many open reads\r\nVALUE queue-0/open 0 1\r\nx\r\nEND\r\nEND\r\n");
    reader.expect(b"VALUE queue-59/open 0 1\r\nx\r\nEND\r\n");
    reader.send(b"get queue-59/close\r\n");
    reader.expect(b"END\r\n");
    (0..QUEUES).for_each(|queue| {
        reader.send(format!("flush queue-{queue}\r\n").as_bytes());
        reader.expect(b"END\r\n");
    });
    assert_eq!(stat(&server, "unconfirmed"), 0);
    check_service(&server);
}

#[test]
fn queues_that_were_full_once_leave_no_memory_behind() {
    const QUEUES: usize = 120;
    const LEN: usize = 80_000;
    let server = Server::start(&["-m", "8", "-t", "1", "-N"]);
    let gets = |queue: usize| format!("get queue-{queue}\r\n").repeat(1000);
    for queue in 0..QUEUES {
        put_many(&server, &format!("queue-{queue}"), LEN);
        let mut client = server.connect();
        let values = format!("VALUE queue-{queue} 0 1\r\nx\r\nEND\r\n").repeat(1000);
        for _ in 0..LEN / 1000 {
            client.send(gets(queue).as_bytes());
            client.expect(values.as_bytes());
        }
    }
    let crowd = Crowd { connections: 1, queues: QUEUES as u64, ..Crowd::default() };
    check_memory(&server, crowd, "120 queues of which each was full once");
    check_service(&server);
}

#[test]
fn groups_to_their_bound_share_what_is_put() {
    const GROUPS: usize = 16;
    const MESSAGES: usize = 100_000;
    let server = Server::start(&["-m", "8", "-t", "2", "-N", "--max-groups", "16"]);
    let mut client = server.connect();
    for group in 0..GROUPS {
        client.send(format!("get q/group=g{group}\r\n").as_bytes());
        client.expect(b"END\r\n");
    }
    for group in [GROUPS, GROUPS + 1] {
        client.send(format!("get q/group=g{group}\r\n").as_bytes());
        client.expect(b"NOT_FOUND\r\n");
    }
    put_many(&server, "q", MESSAGES);
    let crowd = Crowd { connections: 1, groups: GROUPS as u64, queues: GROUPS as u64 + 1, ..Crowd::default() };
    check_memory(&server, crowd, "100,000 messages for 16 groups");
    for group in 0..GROUPS {
        assert_eq!(figures(&server, &format!("q/group=g{group}"))["ready"], MESSAGES as u64);
    }
    // Each is somewhere else in it.
    for group in 0..GROUPS {
        let requests = format!("get q/group=g{group}\r\n").repeat(100 * (group + 1));
        client.send(requests.as_bytes());
        client.expect(format!("VALUE q/group=g{group} 0 1\r\nx\r\nEND\r\n").repeat(100 * (group + 1)).as_bytes());
    }
    check_memory(&server, crowd, "16 groups that read");
    check_service(&server);
}

/// What a group took while an older message was open is remembered after a start.
#[test]
fn what_a_group_passed_ahead_costs_little_after_a_start() {
    const TAKEN: u64 = 500_000;
    /// A bit for each, and what starts differ by.
    const GROWTH_MAX: u64 = TAKEN / 8 + (3 << 20);
    let value = |key: &str| format!("VALUE {key} 0 1\r\nx\r\nEND\r\n");
    let ready = |server: &Server, name: &str| figures(server, name)["ready"];
    let mut server = Server::start(&["-m", "8", "-t", "1", "-N"]);
    let mut client = server.connect();
    client.send(b"get q/group=a\r\nget q/group=slow\r\n");
    client.expect(b"END\r\nEND\r\n");
    put_many(&server, "q", TAKEN as usize + 2);
    server.restart();
    let before = anonymous_memory(&server);
    let mut client = server.connect();
    client.send(b"get q/group=a/open\r\n");
    client.expect(value("q/group=a/open").as_bytes());
    for _ in 0..TAKEN / 1000 {
        client.send("get q/group=a\r\n".repeat(1000).as_bytes());
        client.expect(value("q/group=a").repeat(1000).as_bytes());
    }
    server.restart();
    let grown = anonymous_memory(&server).saturating_sub(before);
    println!("{} KiB for {TAKEN} messages passed ahead", grown >> 10);
    assert!(grown <= GROWTH_MAX, "{grown} bytes, {GROWTH_MAX} are allowed");
    assert_eq!((ready(&server, "q/group=a"), ready(&server, "q/group=slow")), (2, TAKEN + 2));
    // A group that begins now gets all that is there for another.
    let mut client = server.connect();
    client.send("get q/group=new/peek\r\nget q/group=a\r\nget q/group=a\r\nget q/group=a\r\n".as_bytes());
    client.expect((value("q/group=new/peek") + &value("q/group=a").repeat(2) + "END\r\n").as_bytes());
    assert_eq!(ready(&server, "q/group=new"), TAKEN + 2);
    check_service(&server);
}

#[test]
fn settings_of_as_many_names_as_there_may_be_are_kept_and_one_more_is_refused() {
    const NAMES: usize = 5000;
    let mut server = Server::start(&["-m", "8", "-t", "2", "-N", "--max-queues", "5000"]);
    let target = "t".repeat(250);
    let config = |at: usize| format!("config {at:0240} expire_to={target} dead_letter={target} max_messages=7\r\n");
    let mut client = server.connect();
    for first in (0..NAMES).step_by(500) {
        let requests: String = (first..first + 500).map(config).collect();
        client.send(requests.as_bytes());
        client.expect(b"OK\r\n".repeat(500).as_slice());
    }
    let crowd = Crowd { connections: 1, settings: NAMES as u64, ..Crowd::default() };
    for restarted in [false, true] {
        let mut client = server.connect();
        for at in [NAMES, 10 * NAMES] {
            client.send(config(at).as_bytes());
            client.expect(b"SERVER_ERROR too many queues have settings\r\n");
        }
        let shown = client.command(format!("config {:0240}\r\n", NAMES - 1).as_bytes(), b"END\r\n");
        assert!(String::from_utf8_lossy(&shown).contains("STAT max_messages 7\r\n"));
        check_memory(&server, crowd, "settings of 5,000 names");
        check_service(&server);
        if !restarted {
            server.restart();
        }
    }
}

/// Lengths that say more or less than comes. What is stored has the length that was said, or the connection is closed.
#[test]
fn sets_whose_lengths_lie_store_nothing_else_on_any_listener() {
    let server = Server::start(&["-m", "8", "-t", "2", "-N", "--kestrel-port", "0"]);
    let mut rng = Rng::new(1);
    let mut clients = 0;
    for address in [server.addr(), server.kestrel_addr()] {
        for _ in 0..500 {
            let said = rng.below(300);
            let comes = if rng.below(2) == 0 { rng.below(300) } else { said + rng.below(3) };
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.set_read_timeout(Some(NOTICE_TIMEOUT)).expect("set the read timeout");
            let body: Vec<u8> = (0..comes).map(|_| b"ab\r\n "[rng.below(5) as usize]).collect();
            let request = [format!("set lies 0 0 {said}\r\n").as_bytes(), &body, b"\r\n"].concat();
            stream.write_all(&request).expect("send");
            stream.shutdown(Shutdown::Write).expect("shut down");
            let reply = read_what_comes(&mut stream);
            // At most the one message, and whatever the rest of its bytes are taken for.
            let stored = reply.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"STORED")).count();
            assert!(stored <= 1, "{} to {}", reply.escape_ascii(), request.escape_ascii());
            if stored == 1 {
                let mut link = Link::connect(server.addr()).expect("connect");
                link.send(b"get lies\r\n").expect("send");
                let (_, got) = link.value().expect("a reply").expect("the message");
                assert_eq!(got.len() as u64, said);
                assert!(
                    [&body[..], b"\r\n"].concat().starts_with(&got),
                    "not what came behind the line: {}",
                    got.escape_ascii()
                );
            }
            clients += 1;
        }
    }
    assert_eq!(clients, 1000);
    assert_eq!(stat(&server, "curr_items"), 0);
    check_memory(&server, Crowd::default(), "lengths that lie");
    check_only_asking_connection(&server);
    check_service(&server);
}

/// The server's open files are those of the connections it has.
#[test]
fn connections_that_are_gone_leave_no_files_open() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    make_queues(&server, 10);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list its files").count();
    check_only_asking_connection(&server);
    let before = files();
    for round in 0..5 {
        let mut clients: Vec<TcpStream> = (0..400).map(|_| connect(&server)).collect();
        clients
            .iter_mut()
            .for_each(|client| client.write_all(b"get queue-1 queue-2\r\nget q/t=1000\r\n").expect("send"));
        clients.into_iter().enumerate().for_each(|(at, client)| {
            if (at + round) % 2 == 0 {
                reset(client)
            }
        });
        check_only_asking_connection(&server);
    }
    eventually("as many files are open as before", NOTICE_TIMEOUT, || files() <= before);
    assert!(!read_lossy(format!("/proc/{}/status", server.pid())).is_empty());
}
