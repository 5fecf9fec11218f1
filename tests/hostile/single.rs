//! One client, or a few: slow ones, wrong ones, and those that go in the middle of something.

use crate::bound::Crowd;
use crate::facts::{figures, stat};
use crate::harness::{Client, Server, eventually};
use crate::traffic::{Link, Rng};
use crate::{
    MIB, NOTICE_TIMEOUT, check_memory, check_only_asking_connection, check_service, connect, make_queues,
    not_connected, put_large, read_what_comes, reset, send_until_full, settle,
};
use ringq::limits::INPUT_SIZE_MAX;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

// --- slow ones ---

#[test]
fn slow_senders_hold_up_nobody_and_are_served() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let body = vec![b'b'; 30_000];
    let request = [b"set slow 0 0 30000\r\n".to_vec(), body.clone(), b"\r\n".to_vec()].concat();
    let mut slow: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for (at, byte) in request.iter().enumerate() {
        slow.iter_mut().for_each(|client| client.send(&[*byte]));
        if at % 10_000 == 5_000 {
            check_service(&server);
        }
    }
    slow.iter_mut().for_each(|client| client.expect(b"STORED\r\n"));
    let mut client = server.connect();
    for _ in 0..slow.len() {
        client.send(b"get slow\r\n");
        client.expect(&[b"VALUE slow 0 30000\r\n", &body[..], b"\r\nEND\r\n"].concat());
    }
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let body: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    let mut client = server.connect();
    client.send(&[format!("set large 0 0 {MIB}\r\n").as_bytes(), &body, b"\r\n"].concat());
    client.expect(b"STORED\r\n");
    let mut slow = connect(&server);
    slow.write_all(b"get large\r\nget large\r\n").expect("send");
    let expected = [format!("VALUE large 0 {MIB}\r\n").as_bytes(), &body, b"\r\nEND\r\nEND\r\n"].concat();
    for (at, expected) in expected[..20_000].iter().enumerate() {
        let mut byte = [0];
        slow.read_exact(&mut byte).expect("a byte");
        assert_eq!(byte[0], *expected, "byte {at}");
    }
    check_service(&server);
    let mut rest = vec![0; expected.len() - 20_000];
    slow.read_exact(&mut rest).expect("the rest");
    assert!(rest == expected[20_000..]);
}

#[test]
fn clients_that_never_read_cost_a_bounded_amount() {
    for shards in ["1", "2"] {
        let server = Server::start(&["-m", "8", "-t", shards, "-N"]);
        make_queues(&server, 20_000);
        put_large(&server, "medium", 200, 20_000);
        let requests = [
            "get medium\r\n",
            "get nothing\r\n",
            "stats\r\n",
            "stats queue\r\n",
            "stats settings\r\n",
            "version\r\n",
            "set unread 0 0 1\r\nx\r\n",
            "bogus\r\n",
            "get queue-1 queue-2 queue-3 queue-4 medium medium\r\n",
            "db_checkpoint\r\n",
            "stats queue medium\r\n",
            "delete nothing\r\n",
        ];
        let mut deaf = Vec::new();
        for request in requests {
            let mut client = connect(&server);
            send_until_full(&mut client, &request.repeat(1000).into_bytes(), 16 * MIB);
            deaf.push(client);
            let crowd = Crowd { queues: 20_003, flooding: deaf.len() as u64, ..busy(deaf.len()) };
            check_memory(&server, crowd, request.trim_end());
        }
        check_service(&server);
        check_listing(&server, 20_000);
        drop(deaf);
        check_only_asking_connection(&server);
        check_service(&server);
    }
}

/// Lists all queues, twice in one go, and finds each of them once in each list.
fn check_listing(server: &Server, queues: usize) {
    let mut client = server.connect();
    client.send(b"stats queue\r\nstats queue\r\n");
    for _ in 0..2 {
        let reply = client.read_until(b"END\r\n");
        let reply = String::from_utf8(reply).expect("the names of this test are text");
        let mut listed: Vec<&str> = reply.lines().filter_map(|line| line.strip_prefix("STAT queue-")).collect();
        listed.sort_unstable();
        listed.dedup_by_key(|line| line.split(' ').next().map(str::to_owned));
        assert_eq!(listed.len(), queues);
    }
}

#[test]
fn pipelined_gets_of_stored_messages_by_a_client_that_never_reads_cost_a_bounded_amount() {
    for shards in ["1", "2"] {
        let mut server = Server::start(&["-m", "8", "-t", shards, "-N"]);
        for queue in ["a", "b", "c", "d"] {
            put_large(&server, queue, 60, MIB);
        }
        // Now all of them are in the database only.
        server.restart();
        let mut deaf = Vec::new();
        for queue in ["a", "b", "c", "d"] {
            let mut client = connect(&server);
            client.write_all(format!("get {queue}\r\n").repeat(60).as_bytes()).expect("send");
            deaf.push(client);
        }
        settle(|| stat(&server, "get_hits"));
        check_memory(&server, busy(4), "60 gets of 1 MiB on each of four connections");
        check_service(&server);
        drop(deaf);
        check_only_asking_connection(&server);
    }
}

#[test]
fn gets_that_wait_for_the_database_are_bounded_in_number() {
    let mut server = Server::start(&["-m", "8", "-t", "1", "-N"]);
    put_large(&server, "stored", 2000, 10_000);
    server.restart();
    let mut deaf = connect(&server);
    send_until_full(&mut deaf, "get stored\r\n".repeat(1000).as_bytes(), 16 * MIB);
    settle(|| stat(&server, "get_hits"));
    check_memory(&server, busy(1), "gets of 10 kB without end");
    check_service(&server);
}

#[test]
fn a_multi_get_stops_at_its_bound_wherever_its_queues_are() {
    // The bound is 16 MiB and may be passed by one message.
    let messages_max = 17;
    for shards in ["1", "2"] {
        let mut server = Server::start(&["-m", "128", "-t", shards, "-N"]);
        for queue in ["a", "b", "c", "d"] {
            put_large(&server, queue, 60, MIB);
        }
        for from in ["memory or the database", "the database"] {
            for queue in ["a", "b", "c", "d"] {
                let mut link = Link::connect(server.addr()).expect("connect");
                link.send(format!("get{}\r\n", format!(" {queue}").repeat(30)).as_bytes()).expect("send");
                let mut received = 0;
                while link.value().expect("a reply").is_some() {
                    received += 1;
                }
                assert!(received > 0, "queue {queue} from {from}, {shards} shards: nothing came");
                assert!(
                    received <= messages_max,
                    "queue {queue} from {from}, {shards} shards: {received} MiB in one reply"
                );
            }
            server.restart();
        }
    }
}

// --- wrong ones ---

#[test]
fn an_endless_line_ends_the_connection() {
    let server = Server::start(&["-m", "8", "-t", "1"]);
    for piece in [&b"x"[..], b"get ", b"get aaaaaaa ", b"set q 0 0 ", b" ", b"\0", b"\r"] {
        let mut client = connect(&server);
        let line = piece.repeat(2 * MIB / piece.len());
        // The server stops reading at some point and then resets.
        let _ = client.write_all(&line);
        assert_eq!(read_what_comes(&mut client), b"CLIENT_ERROR line too long\r\n", "{}", piece.escape_ascii());
        check_memory(&server, sending(1), "an endless line");
    }
    check_only_asking_connection(&server);
    check_service(&server);
}

#[test]
fn every_length_is_refused_or_believed_but_never_allocated() {
    let server = Server::start(&["-m", "8", "-t", "1"]);
    let lengths = [
        "-1",
        "-0",
        "+1",
        "1048577",
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "0x10",
        "1e3",
        "1.5",
        "٣",
        "-9223372036854775808",
    ];
    let mut clients = Vec::new();
    for command in ["set", "add", "replace", "append", "prepend", "cas", "ms"] {
        for length in lengths {
            let mut client = connect(&server);
            let line = match command {
                "ms" => format!("ms q {length}\r\n"),
                "cas" => format!("cas q 0 0 {length} 5\r\n"),
                _ => format!("{command} q 0 0 {length}\r\n"),
            };
            client.write_all(line.as_bytes()).expect("send");
            clients.push(client);
        }
    }
    check_service(&server);
    check_memory(&server, sending(clients.len()), "announced bodies");
    for client in &mut clients {
        // Whatever was announced, the end of the stream ends it.
        client.shutdown(Shutdown::Write).or_else(not_connected).expect("shut down");
        let reply = String::from_utf8(read_what_comes(client)).expect("an error is text");
        assert!(reply.lines().count() <= 1 && reply.contains("ERROR"), "{reply:?}");
    }
    assert_eq!(stat(&server, "total_items"), 1, "only what the check of the service put");
    check_only_asking_connection(&server);
}

#[test]
fn every_key_is_used_or_refused() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let mut keys: Vec<Vec<u8>> = (0..=255u8).filter(|byte| *byte != b'\n').map(|byte| vec![byte]).collect();
    keys.extend((0..=255u8).filter(|byte| *byte != b'\n').map(|byte| vec![b'k', byte, b'k']));
    keys.extend([249, 250, 251, 1000, 8000].map(|len| vec![b'k'; len]));
    keys.extend(
        [
            &b"noreply"[..],
            b"get",
            b"..",
            b"../../etc/passwd",
            b"%s%n",
            b"END",
            b"\xff\xfe\xfd",
            b"/",
            b"q/",
            b"/q",
            b"q/t=1",
        ]
        .map(<[u8]>::to_vec),
    );
    let mut client = server.connect();
    for key in &keys {
        let requests =
            [&b"set "[..], key, b" 1 0 4\r\nbody\r\nget ", key, b"\r\nstats queue ", key, b"\r\ndelete ", key, b"\r\n"]
                .concat();
        client.send(&requests);
        // However each of them was answered, the connection is in step.
        client.send(b"version\r\n");
        client.read_until(format!("VERSION {}\r\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
    assert_eq!(stat(&server, "curr_items"), 0);
    check_service(&server);
}

/// Replay one seed with `RINGQ_SEED=n cargo test --test it random_bytes`.
#[test]
fn random_bytes_do_no_harm() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let replayed = std::env::var("RINGQ_SEED").ok().map(|seed| seed.parse::<u64>().expect("RINGQ_SEED is a number"));
    for seed in replayed.map_or(0..200, |seed| seed..seed + 1) {
        let mut client = connect(&server);
        let bytes = random_bytes(&mut Rng::new(seed), 30_000);
        // Refused bytes end the connection while the rest is being sent.
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        read_what_comes(&mut client);
        if seed % 20 == 0 {
            println!("RINGQ_SEED={seed} and below were survived");
            check_service(&server);
            check_memory(&server, Crowd { queues: 1000, ..busy(1) }, "random bytes");
        }
    }
    check_only_asking_connection(&server);
    check_service(&server);
}

/// Some seeds give noise, some words of the protocol in any order, some requests with a few wrong bytes.
fn random_bytes(rng: &mut Rng, size: usize) -> Vec<u8> {
    const WORDS: [&[u8]; 24] = [
        b"set ",
        b"get ",
        b"gets ",
        b"delete ",
        b"stats ",
        b"queue ",
        b"add ",
        b"cas ",
        b"ms ",
        b"incr ",
        b"quit",
        b"version",
        b"noreply",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b" ",
        b"0 ",
        b"5 ",
        b"-1 ",
        b"1048576 ",
        b"q ",
        b"\0",
    ];
    const REQUESTS: [&[u8]; 6] = [
        b"set q 0 0 3\r\nabc\r\n",
        b"get q\r\n",
        b"gets q r s\r\n",
        b"delete r\r\n",
        b"set r 9 -1 0 noreply\r\n\r\n",
        b"stats\r\n",
    ];
    let style = rng.below(3);
    let mut bytes = Vec::new();
    while bytes.len() < size {
        match style {
            0 => bytes.extend_from_slice(&rng.next().to_le_bytes()),
            1 => bytes.extend_from_slice(WORDS[rng.below(24) as usize]),
            _ => {
                bytes.extend_from_slice(REQUESTS[rng.below(6) as usize]);
                if rng.below(20) == 0 {
                    let last = bytes.len() - 1;
                    bytes[last - rng.below(3) as usize] = rng.next() as u8;
                }
            }
        }
    }
    bytes
}

#[test]
fn other_protocols_are_closed() {
    let server = Server::start(&["-m", "8", "-t", "1"]);
    let binary_noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n";
    for (bytes, reply) in [
        (&binary_noop[..], &b""[..]),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
        (b"POST /x HTTP/1.0\r\nContent-Length: 9\r\n\r\nflush_all", b""),
        (b"Host: localhost\r\n", b""),
        (tls_hello, b"ERROR\r\n"),
    ] {
        let mut client = server.connect();
        client.send(bytes);
        client.finish_sending();
        assert_eq!(client.read_to_end(), reply, "{}", bytes.escape_ascii());
    }
    eventually("the operator is told", NOTICE_TIMEOUT, || server.output().contains("binary protocol"));
    check_only_asking_connection(&server);
    check_service(&server);
}

// --- gone ones ---

#[test]
fn half_open_connections_are_answered_and_closed() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let mut client = server.connect();
    client.send(b"set half 0 0 1\r\na\r\nget half\r\nget half\r\nversion");
    client.finish_sending();
    assert_eq!(client.read_to_end(), b"STORED\r\nVALUE half 0 1\r\na\r\nEND\r\nEND\r\n");
    // The server has closed its side of these; they keep theirs open.
    let mut kept: Vec<TcpStream> = (0..50).map(|_| connect(&server)).collect();
    for client in &mut kept {
        client.write_all(b"set q 0 0 -1\r\n").expect("send");
        assert_eq!(read_what_comes(client), b"CLIENT_ERROR bad command line format\r\n");
    }
    check_only_asking_connection(&server);
    check_service(&server);
}

#[test]
fn clients_that_vanish_in_a_body_store_nothing_and_give_its_room_back() {
    for shards in ["1", "2"] {
        let server = Server::start(&["-m", "8", "-t", shards, "-B", "1048576"]);
        let mut stalled: Vec<TcpStream> = (0..60).map(|_| connect(&server)).collect();
        for client in &mut stalled {
            client.write_all(format!("set large 0 0 {MIB}\r\n").as_bytes()).expect("send");
            client.write_all(&[b'x'; 5000]).expect("send");
        }
        // Whoever sends no body, or all of it at once, does not wait for those who do not finish theirs.
        for _ in 0..20 {
            check_service(&server);
        }
        check_memory(&server, sending(60), "stalled bodies");
        for (index, client) in stalled.into_iter().enumerate() {
            match index % 3 {
                0 => reset(client),
                1 => drop(client),
                _ => client.shutdown(Shutdown::Write).expect("shut down"),
            }
        }
        check_only_asking_connection(&server);
        // There is room again for bodies that come in pieces.
        let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(format!("set large 0 0 {MIB}\r\n").as_bytes()));
        // All at once: which of them has the room first is the server's to say.
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    client.send(&vec![b'y'; MIB]);
                    client.send(b"\r\n");
                    client.expect(b"STORED\r\n");
                });
            }
        });
        // What vanished was not stored: one of the check of the service per round, and these.
        assert_eq!(stat(&server, "total_items"), 20 + 8);
        check_service(&server);
    }
}

#[test]
fn clients_that_vanish_with_replies_under_way_leave_nothing_behind() {
    let mut server = Server::start(&["-m", "8", "-t", "2", "-N"]);
    for round in 0..3 {
        for queue in ["a", "b", "c"] {
            put_large(&server, queue, 100, 50_000);
        }
        for index in 0..60 {
            let mut client = connect(&server);
            client.write_all(b"get a b c a b c\r\nstats queue\r\nstats\r\nget c\r\nget b\r\n").expect("send");
            if index % 2 == 0 { reset(client) } else { drop(client) }
        }
        check_only_asking_connection(&server);
        check_service(&server);
        // The messages that those took are gone, the others are in order, and both agree with the counters.
        let mut left = 0;
        for queue in ["a", "b", "c"] {
            let mut link = Link::connect(server.addr()).expect("connect");
            loop {
                link.send(format!("get {queue}\r\n").as_bytes()).expect("send");
                if link.value().expect("a reply").is_none() {
                    break;
                }
                assert_eq!(link.value().expect("a reply"), None);
                left += 1;
            }
        }
        assert!(left <= 300, "{left} messages of 300, round {round}");
        assert_eq!(stat(&server, "curr_items"), 0);
        server.restart();
        assert_eq!(stat(&server, "curr_items"), 0);
    }
}

/// A message that it has open, a get that waits, and more than the server reads behind that.
fn send_more_than_is_read(client: &mut (impl Read + Write + AsFd)) {
    client.write_all(b"get held/open\r\n").expect("send");
    let mut reply = [0; b"VALUE held/open 0 1\r\nh\r\nEND\r\n".len()];
    client.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"VALUE held/open 0 1\r\nh\r\nEND\r\n");
    client.write_all(b"get wanted/t=3600000\r\n").expect("send");
    send_until_full(client, &b"version\r\n".repeat(1000), 64 * MIB);
}

#[test]
fn a_client_that_goes_while_it_is_not_read_waits_and_holds_no_longer() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let path = path.to_str().expect("a readable path");
    for shards in ["1", "2"] {
        let server = Server::start(&["-m", "8", "-t", shards, "-l", "127.0.0.1:0", "-l", path]);
        let mut other = server.connect();
        other.send(b"set held 0 0 1\r\nh\r\n");
        other.expect(b"STORED\r\n");
        // On a connection of each shard.
        for on_unix in [false, false, true, true] {
            if on_unix {
                let mut client = UnixStream::connect(path).expect("connect");
                send_more_than_is_read(&mut client);
                assert_eq!(stat(&server, "waiters"), 1);
            } else {
                let mut client = connect(&server);
                send_more_than_is_read(&mut client);
                assert_eq!(stat(&server, "waiters"), 1);
                reset(client);
            }
            eventually("its get waits no longer", NOTICE_TIMEOUT, || stat(&server, "waiters") == 0);
            eventually("what it had open is back", NOTICE_TIMEOUT, || stat(&server, "open_reads") == 0);
            other.send(b"set wanted 0 0 1\r\nw\r\nget wanted\r\nget held/peek\r\n");
            other.expect(b"STORED\r\nVALUE wanted 0 1\r\nw\r\nEND\r\nVALUE held/peek 0 1\r\nh\r\nEND\r\n");
        }
        assert_eq!(figures(&server, "wanted")["gets_unsent"], 0);
        eventually("nobody else is there", NOTICE_TIMEOUT, || stat(&server, "curr_connections") == 2);
        check_service(&server);
    }
}

#[test]
fn a_client_that_finishes_sending_while_it_is_not_read_is_answered_everything() {
    let server = Server::start(&["-m", "8", "-t", "1"]);
    let mut client = connect(&server);
    let get = b"get wanted/t=3600000\r\n";
    client.write_all(get).expect("send");
    let read = stat(&server, "bytes_read");
    client.write_all(&b"version\r\n".repeat(20_000)).expect("send");
    // Perhaps all of it: what came before the ring stopped receiving. Asking is counted, too.
    let mut asked = 0;
    settle(|| {
        asked += b"stats\r\n".len() as u64;
        stat(&server, "bytes_read") - asked
    });
    let more = stat(&server, "bytes_read") - read - asked;
    assert!(more >= INPUT_SIZE_MAX as u64, "it has not as much as it wants to read: {more}");
    assert_eq!(stat(&server, "waiters"), 1);
    client.write_all(get).expect("send");
    client.shutdown(Shutdown::Write).expect("shut down");
    let reply = String::from_utf8(read_what_comes(&mut client)).expect("text");
    let versions = reply.strip_prefix("END\r\n").and_then(|rest| rest.strip_suffix("END\r\n"));
    assert_eq!(versions.expect("neither get waits").matches("VERSION ").count(), 20_000);
    check_only_asking_connection(&server);
}

/// So many connections, each with the beginning of a request.
fn sending(count: usize) -> Crowd {
    Crowd { connections: count as u64, sending: count as u64, ..Crowd::default() }
}

/// So many connections, each with replies that it does not take.
fn busy(count: usize) -> Crowd {
    let count = count as u64;
    Crowd { connections: count, busy: count, ..Crowd::default() }
}
