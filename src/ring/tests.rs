//! The ring against real sockets. Every wait is for a condition; a deadline only turns a hang into a failure.

use super::*;
use crate::page_buffer::PageBuffer;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

const PATIENCE: Duration = Duration::from_secs(30);

/// An event without its borrow.
#[derive(Debug)]
enum Seen {
    Accepted(ListenerId, OwnedFd),
    AcceptFailed(io::Error),
    Received(ConnId, Vec<u8>),
    Ended(ConnId, Option<io::Error>),
    Sent(ConnId, Vec<u8>, io::Result<()>),
    EndAhead(ConnId, bool),
    Closed(ConnId),
    Written(u32, PageBuffer, io::Result<()>),
    Synced(io::Result<()>),
    Woken,
    Timer,
}

fn ring() -> Ring {
    ring_with(&Config { recv_buffers: 64, recv_buffer_size: 4096, connections_max: 2048, ..Config::default() })
}

fn ring_with(config: &Config) -> Ring {
    Ring::new(config).expect("a ring starts here")
}

fn next_seen(ring: &mut Ring) -> Option<Seen> {
    Some(match ring.next_event()? {
        Event::Accepted { listener, socket } => Seen::Accepted(listener, socket),
        Event::AcceptFailed { error, .. } => Seen::AcceptFailed(error),
        Event::Received { conn, bytes } => Seen::Received(conn, bytes.to_vec()),
        Event::Ended { conn, error } => Seen::Ended(conn, error),
        Event::Sent { conn, buffer, sent, result } => {
            assert!(sent == buffer.len() || result.is_err(), "a send that is done is whole");
            Seen::Sent(conn, buffer, result)
        }
        Event::EndAhead { conn, is_gone } => Seen::EndAhead(conn, is_gone),
        Event::Closed { conn, .. } => Seen::Closed(conn),
        Event::Written { token, buffer, result } => Seen::Written(token, buffer, result),
        Event::Synced { result } => Seen::Synced(result),
        Event::Woken => Seen::Woken,
        Event::Timer => Seen::Timer,
    })
}

/// Turns the ring and hands every event to `on_event` until that is satisfied.
fn drive(ring: &mut Ring, mut on_event: impl FnMut(&mut Ring, Seen) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut satisfied = false;
    while !satisfied {
        ring.set_timer(Some(deadline.saturating_duration_since(Instant::now())));
        ring.turn(true).expect("the ring works");
        while let Some(event) = next_seen(ring) {
            assert!(!matches!(event, Seen::Timer), "waited in vain");
            satisfied |= on_event(ring, event);
        }
    }
}

/// Turns the ring until a condition that comes with no event holds; no event may come meanwhile.
fn turn_until(ring: &mut Ring, mut holds: impl FnMut(&mut Ring) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(ring) {
        assert!(Instant::now() < deadline, "waited in vain");
        ring.turn(false).expect("the ring works");
        if let Some(event) = next_seen(ring) {
            panic!("nothing was due: {event:?}");
        }
    }
}

fn until_closed(ring: &mut Ring, conn: ConnId) {
    drive(ring, |_, event| match event {
        Seen::Closed(closed) => closed == conn,
        other => panic!("a closing connection has no other events: {other:?}"),
    });
}

/// A client and its adopted other end.
fn connect(ring: &mut Ring) -> (ConnId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let conn = ring.adopt(socket.into()).expect("there is room");
    (conn, client)
}

fn listen(ring: &mut Ring) -> (ListenerId, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (ring.listen(listener.into()).unwrap(), address)
}

/// Bytes that differ from place to place, so that a loss or a swap shows.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn what_is_received_is_sent_back() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    for round in 0..20u8 {
        let message = [b'a' + round; 100];
        client.write_all(&message).unwrap();
        let mut received = Vec::new();
        drive(&mut ring, |_, event| {
            let Seen::Received(from, bytes) = event else { panic!("{event:?}") };
            assert_eq!(from, conn);
            received.extend(bytes);
            received.len() == message.len()
        });
        ring.send(conn, received);
        drive(&mut ring, |_, event| {
            let Seen::Sent(to, buffer, result) = event else { panic!("{event:?}") };
            assert_eq!((to, &buffer[..]), (conn, &message[..]), "the buffer comes back whole");
            result.unwrap();
            true
        });
        let mut answer = [0; 100];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
    }
}

#[test]
fn a_thousand_accepted_clients_are_all_heard_and_answered() {
    const CLIENTS: usize = 1000;
    allow_many_descriptors();
    let mut ring = ring();
    let (listener, address) = listen(&mut ring);
    let clients = thread::spawn(move || {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(&(number as u64).to_le_bytes()).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 8];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(u64::from_le_bytes(answer), number as u64);
        }
        // Kept open, so that no end comes before the last `Sent`.
        clients
    });
    let mut received: HashMap<ConnId, Vec<u8>> = HashMap::new();
    let mut sent = 0;
    drive(&mut ring, |ring, event| {
        match event {
            Seen::Accepted(at, socket) => {
                assert_eq!(at, listener);
                assert!(received.insert(ring.adopt(socket).unwrap(), Vec::new()).is_none());
            }
            Seen::Received(conn, bytes) => {
                let message = received.get_mut(&conn).unwrap();
                message.extend(bytes);
                if message.len() == 8 {
                    ring.send(conn, message.clone());
                }
            }
            Seen::Sent(_, _, result) => {
                result.unwrap();
                sent += 1;
            }
            other => panic!("{other:?}"),
        }
        sent == CLIENTS
    });
    clients.join().unwrap();
}

#[test]
fn a_large_send_to_a_slow_reader_continues_until_all_is_sent() {
    const SIZE: usize = 64 << 20;
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    let (start, started) = mpsc::channel();
    let reader = thread::spawn(move || {
        started.recv().unwrap();
        let mut all = vec![0; SIZE];
        for part in all.chunks_mut(100_000) {
            client.read_exact(part).unwrap();
        }
        all
    });
    ring.send(conn, pattern(SIZE, 1));
    turn_until(&mut ring, |ring| ring.connections.at(conn).sent > 0);
    assert!(ring.connections.at(conn).sent < SIZE, "no socket takes that much at once");
    start.send(()).unwrap();
    drive(&mut ring, |_, event| {
        let Seen::Sent(to, buffer, result) = event else { panic!("{event:?}") };
        result.unwrap();
        assert_eq!((to, buffer.len()), (conn, SIZE));
        true
    });
    assert!(reader.join().unwrap() == pattern(SIZE, 1));
}

#[test]
fn a_peer_that_finishes_ends_the_connection_which_then_closes() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    drive(&mut ring, |_, event| match event {
        Seen::Received(_, bytes) => {
            received.extend(bytes);
            false
        }
        Seen::Ended(ended, None) => ended == conn,
        other => panic!("{other:?}"),
    });
    assert_eq!(received, b"last words");

    ring.send(conn, b"still answered".to_vec());
    drive(&mut ring, |_, event| matches!(event, Seen::Sent(_, _, Ok(()))));
    ring.close(conn);
    until_closed(&mut ring, conn);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"still answered");
}

#[test]
fn a_reset_ends_the_connection_with_its_error_and_fails_sends() {
    let mut ring = ring();
    let (conn, client) = connect(&mut ring);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    drive(&mut ring, |_, event| match event {
        Seen::Ended(_, Some(error)) => error.kind() == io::ErrorKind::ConnectionReset,
        other => panic!("{other:?}"),
    });
    ring.send(conn, b"too late".to_vec());
    drive(&mut ring, |_, event| match event {
        Seen::Sent(_, buffer, Err(error)) => buffer == b"too late" && error.kind() == io::ErrorKind::BrokenPipe,
        other => panic!("{other:?}"),
    });
    ring.close(conn);
    until_closed(&mut ring, conn);
}

#[test]
fn a_connection_closes_while_its_send_is_stuck() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.send(conn, vec![7; 64 << 20]);
    turn_until(&mut ring, |ring| ring.connections.at(conn).sent > 0);
    ring.close(conn);
    ring.close(conn);
    until_closed(&mut ring, conn);
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert!(received.len() < 64 << 20, "the send was cut off");
}

#[test]
fn a_close_says_how_much_of_the_send_it_cut_off_had_gone() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.send(conn, b"whole".to_vec());
    drive(&mut ring, |_, event| matches!(event, Seen::Sent(..)));
    ring.send(conn, vec![7; 64 << 20]);
    turn_until(&mut ring, |ring| ring.connections.at(conn).sent > 0);
    ring.close(conn);
    let sent = loop {
        ring.turn(true).unwrap();
        if let Some(Event::Closed { sent, .. }) = ring.next_event() {
            break sent;
        }
    };
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), "whole".len() + sent, "what the kernel took is what arrives");
    assert!(sent < 64 << 20);
}

#[test]
fn a_close_before_anything_was_submitted_completes() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.send(conn, b"perhaps".to_vec());
    ring.close(conn);
    until_closed(&mut ring, conn);
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert!(received.is_empty() || received == b"perhaps");
}

#[test]
fn nothing_is_received_after_close_and_no_buffer_is_lost() {
    let mut ring = ring();
    for _ in 0..200 {
        let (conn, mut client) = connect(&mut ring);
        ring.turn(false).unwrap();
        client.write_all(&[1; 3000]).unwrap();
        ring.turn(true).unwrap();
        ring.close(conn);
        until_closed(&mut ring, conn);
    }
    assert_eq!(ring.buffers.available(), ring.buffers.count());
}

#[test]
fn an_index_comes_back_only_after_closed_and_with_a_new_generation() {
    let mut ring = ring_with(&Config { connections_max: 1, ..Config::default() });
    let (first, client) = connect(&mut ring);
    ring.close(first);
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = ring.adopt(one.into()).expect_err("the place is taken until Closed");
    until_closed(&mut ring, first);
    drop(client);

    let second = ring.adopt(refused).expect("the place is free");
    assert_eq!(second.index, first.index);
    assert_ne!(second.generation, first.generation);
    ring.close(first);
    ring.pause_recv(first);
    (&other).write_all(b"x").unwrap();
    drive(&mut ring, |_, event| match event {
        Seen::Received(conn, bytes) => conn == second && bytes == b"x",
        other => panic!("a spent id does nothing: {other:?}"),
    });
}

#[test]
fn a_paused_connection_receives_nothing_until_resumed() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.turn(false).unwrap();
    ring.pause_recv(conn);
    turn_until(&mut ring, |ring| ring.connections.at(conn).recv.is_idle());
    client.write_all(b"waiting").unwrap();
    let mut peeked = [0u8; 16];
    let socket = ring.connections.at(conn).socket().try_clone().unwrap();
    assert_eq!(TcpStream::from(socket).peek(&mut peeked).unwrap(), 7, "the bytes have arrived");
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none());

    ring.resume_recv(conn);
    drive(&mut ring, |_, event| matches!(event, Seen::Received(_, bytes) if bytes == b"waiting"));
}

#[test]
fn a_paused_connection_that_breaks_ends_although_nobody_receives() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.pause_recv(conn);
    client.write_all(b"not received").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drive(&mut ring, |_, event| match event {
        // What came before the pause was carried out.
        Seen::Received(..) | Seen::Ended(_, None) => false,
        Seen::EndAhead(of, is_gone) => of == conn && !is_gone,
        other => panic!("{other:?}"),
    });
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    drive(&mut ring, |_, event| match event {
        Seen::EndAhead(..) => false,
        Seen::Ended(of, Some(_)) => of == conn,
        other => panic!("{other:?}"),
    });
    ring.close(conn);
    until_closed(&mut ring, conn);
}

#[test]
fn an_end_that_was_told_ahead_comes_behind_what_was_sent() {
    let mut ring = ring();
    let (socket, mut client) = std::os::unix::net::UnixStream::pair().unwrap();
    let conn = ring.adopt(socket.into()).expect("there is room");
    ring.turn(false).unwrap();
    ring.pause_recv(conn);
    turn_until(&mut ring, |ring| ring.connections.at(conn).recv.is_idle());
    client.write_all(b"last words").unwrap();
    drop(client);
    drive(&mut ring, |_, event| matches!(event, Seen::EndAhead(of, true) if of == conn));
    ring.resume_recv(conn);
    let mut received = Vec::new();
    drive(&mut ring, |_, event| match event {
        Seen::Received(_, bytes) => {
            received.extend(bytes);
            false
        }
        Seen::EndAhead(..) => false,
        Seen::Ended(of, None) => of == conn,
        other => panic!("{other:?}"),
    });
    assert_eq!(received, b"last words");
    turn_until(&mut ring, |ring| ring.connections.at(conn).hangup.is_idle());
}

#[test]
fn pausing_and_resuming_in_a_stream_loses_and_swaps_nothing() {
    const SIZE: usize = 8 << 20;
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    let writer = thread::spawn(move || {
        for part in pattern(SIZE, 2).chunks(10_007) {
            client.write_all(part).unwrap();
        }
        client
    });
    let mut received = Vec::new();
    let mut calls = 0u32;
    drive(&mut ring, |ring, event| {
        let Seen::Received(_, bytes) = event else { panic!("{event:?}") };
        received.extend(bytes);
        calls += 1;
        ring.pause_recv(conn);
        if calls.is_multiple_of(3) {
            // The cancellation is under way, its answer not yet seen.
            ring.turn(false).unwrap();
        }
        ring.resume_recv(conn);
        received.len() == SIZE
    });
    writer.join().unwrap();
    assert!(received == pattern(SIZE, 2));
}

#[test]
fn pausing_until_joined_in_a_stream_loses_nothing() {
    const SIZE: usize = 4 << 20;
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    let writer = thread::spawn(move || {
        client.write_all(&pattern(SIZE, 3)).unwrap();
        client
    });
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut paused = false;
    while received.len() < SIZE {
        assert!(Instant::now() < deadline, "waited in vain");
        if paused && ring.connections.at(conn).recv.is_idle() {
            ring.resume_recv(conn);
            paused = false;
        }
        ring.turn(false).unwrap();
        while let Some(event) = next_seen(&mut ring) {
            let Seen::Received(_, bytes) = event else { panic!("{event:?}") };
            received.extend(bytes);
            ring.pause_recv(conn);
            paused = true;
        }
    }
    writer.join().unwrap();
    assert!(received == pattern(SIZE, 3));
}

#[test]
fn many_senders_share_two_buffers_without_loss() {
    const SENDERS: usize = 60;
    const SIZE: usize = 20_000;
    let mut ring =
        ring_with(&Config { recv_buffers: 2, recv_buffer_size: 1000, connections_max: 100, ..Config::default() });
    let mut clients = Vec::new();
    let mut received: HashMap<ConnId, Vec<u8>> = HashMap::new();
    for _ in 0..SENDERS {
        let (conn, client) = connect(&mut ring);
        received.insert(conn, Vec::new());
        clients.push((conn, client));
    }
    // The kernel has room for it all, so the ring finds more than its buffers hold.
    for part in 0..10 {
        for (conn, client) in &mut clients {
            let message = pattern(SIZE, conn.index);
            client.write_all(&message[part * SIZE / 10..(part + 1) * SIZE / 10]).unwrap();
        }
    }
    let mut total = 0;
    let mut starved = false;
    drive(&mut ring, |ring, event| {
        let Seen::Received(conn, bytes) = event else { panic!("{event:?}") };
        starved |= !ring.starved.is_empty();
        total += bytes.len();
        received.get_mut(&conn).unwrap().extend(bytes);
        total == SENDERS * SIZE
    });
    assert!(starved, "the buffers ran out");
    for (conn, bytes) in received {
        assert!(bytes == pattern(SIZE, conn.index), "connection {conn}");
    }
    ring.turn(false).unwrap();
    assert_eq!(ring.buffers.available(), 2);
}

#[test]
fn a_starved_connection_behind_idle_ones_is_heard() {
    let mut ring =
        ring_with(&Config { recv_buffers: 2, recv_buffer_size: 1000, connections_max: 100, ..Config::default() });
    let (loud, mut shouter) = connect(&mut ring);
    ring.turn(false).unwrap();
    shouter.write_all(&[1; 10_000]).unwrap();
    // The loud connection takes both buffers, so those that start now meet none.
    turn_until_taken(&mut ring);
    let mut others: Vec<_> = (0..50).map(|_| connect(&mut ring)).collect();
    ring.turn(false).unwrap();
    let (last, client) = others.last_mut().unwrap();
    client.write_all(b"me too").unwrap();
    let mut of_loud = 0;
    let mut heard = false;
    let mut starved = false;
    drive(&mut ring, |ring, event| {
        let Seen::Received(conn, bytes) = event else { panic!("{event:?}") };
        starved |= !ring.starved.is_empty();
        if conn == loud {
            of_loud += bytes.len();
        }
        heard |= conn == *last && bytes == b"me too";
        heard && of_loud == 10_000
    });
    assert!(starved);
}

/// Turns the ring, taking no event, until every receive buffer holds bytes.
fn turn_until_taken(ring: &mut Ring) {
    let deadline = Instant::now() + PATIENCE;
    while ring.buffers.available() > 0 {
        assert!(Instant::now() < deadline, "waited in vain");
        ring.turn(false).unwrap();
    }
}

#[test]
fn more_submissions_than_the_queue_holds_all_arrive() {
    let mut ring = ring_with(&Config { entries: 4, connections_max: 200, ..Config::default() });
    let clients: Vec<_> = (0..100).map(|_| connect(&mut ring)).collect();
    for (conn, _) in &clients {
        ring.send(*conn, conn.index.to_le_bytes().to_vec());
    }
    let mut sent = 0;
    drive(&mut ring, |_, event| {
        assert!(matches!(event, Seen::Sent(_, _, Ok(()))), "{event:?}");
        sent += 1;
        sent == 100
    });
    for (conn, mut client) in clients {
        let mut number = [0; 4];
        client.read_exact(&mut number).unwrap();
        assert_eq!(u32::from_le_bytes(number), conn.index);
    }
}

#[test]
fn a_write_to_the_watched_descriptor_wakes_each_time() {
    let mut ring = ring();
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    ring.watch(std::os::fd::AsFd::as_fd(&wake)).unwrap();
    for _ in 0..3 {
        let writer = wake.try_clone().unwrap();
        let writer = thread::spawn(move || rustix::io::write(&writer, &1u64.to_ne_bytes()).unwrap());
        drive(&mut ring, |_, event| matches!(event, Seen::Woken));
        writer.join().unwrap();
        let left = rustix::io::read(&wake, &mut [0u8; 8]);
        assert_eq!(left.unwrap_err(), Errno::AGAIN, "the counter was reset");
    }
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none());
}

#[test]
fn the_timer_comes_once_and_not_when_cancelled() {
    let mut ring = ring();
    let start = Instant::now();
    ring.set_timer(Some(Duration::from_millis(20)));
    while start.elapsed() < PATIENCE {
        ring.turn(true).unwrap();
        if let Some(event) = next_seen(&mut ring) {
            assert!(matches!(event, Seen::Timer), "{event:?}");
            assert!(start.elapsed() >= Duration::from_millis(20), "not before its time");
            break;
        }
    }
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none(), "once");

    ring.set_timer(Some(Duration::ZERO));
    ring.set_timer(None);
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none(), "cancelled before the turn");

    ring.set_timer(Some(Duration::ZERO));
    ring.turn(false).unwrap();
    ring.set_timer(None);
    assert!(next_seen(&mut ring).is_none(), "cancelled after the turn");

    ring.set_timer(Some(Duration::MAX));
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none(), "farther than the clock goes");
}

#[test]
fn a_due_timer_comes_although_completions_keep_coming() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.set_timer(Some(Duration::ZERO));
    client.write_all(b"x").unwrap();
    ring.turn(true).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| next_seen(&mut ring)).collect();
    assert!(events.iter().any(|event| matches!(event, Seen::Timer)), "{events:?} of {conn}");
}

#[test]
fn clients_wait_in_the_backlog_while_accepting_is_paused() {
    let mut ring = ring();
    let (_, address) = listen(&mut ring);
    let (_, other_address) = listen(&mut ring);
    let _first = TcpStream::connect(address).unwrap();
    drive(&mut ring, |_, event| matches!(event, Seen::Accepted(ListenerId(0), _)));

    ring.pause_accept();
    turn_until(&mut ring, |ring| ring.listeners.iter().all(|listener| listener.accept.is_idle()));
    let _second = TcpStream::connect(address).unwrap();
    let _third = TcpStream::connect(other_address).unwrap();
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none());

    ring.resume_accept();
    let mut accepted = Vec::new();
    drive(&mut ring, |_, event| {
        let Seen::Accepted(listener, _) = event else { panic!("{event:?}") };
        accepted.push(listener.0);
        accepted.len() == 2
    });
    accepted.sort_unstable();
    assert_eq!(accepted, [0, 1]);
}

#[test]
fn a_stopped_listener_is_closed() {
    let mut ring = ring();
    let (_, address) = listen(&mut ring);
    ring.turn(false).unwrap();
    ring.stop_listening();
    turn_until(&mut ring, |ring| ring.listeners.iter().all(|listener| listener.socket.is_none()));
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn running_out_of_descriptors_pauses_accepting_until_resumed() {
    // SAFETY: this thread gets its own table of descriptors; nothing it holds from before is used by another thread under
    // the assumption that both see the same table, and it ends with the test.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }.unwrap();
    let mut ring = ring();
    let (_, address) = listen(&mut ring);
    ring.pause_accept();
    turn_until(&mut ring, |ring| ring.listeners[0].accept.is_idle());
    let client = TcpStream::connect(address).unwrap();
    let mut hoard = Vec::new();
    while let Ok(copy) = client.try_clone() {
        hoard.push(copy);
    }

    ring.resume_accept();
    drive(&mut ring, |_, event| match event {
        Seen::AcceptFailed(error) => error.raw_os_error() == Some(libc::EMFILE),
        other => panic!("{other:?}"),
    });
    hoard.clear();
    ring.turn(false).unwrap();
    assert!(next_seen(&mut ring).is_none(), "paused");
    ring.resume_accept();
    drive(&mut ring, |_, event| matches!(event, Seen::Accepted(..)));
}

#[test]
fn half_closing_lets_the_peer_finish() {
    let mut ring = ring();
    let (conn, mut client) = connect(&mut ring);
    ring.send(conn, b"goodbye".to_vec());
    drive(&mut ring, |_, event| matches!(event, Seen::Sent(..)));
    ring.shutdown_write(conn);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"goodbye");
    client.write_all(b"you too").unwrap();
    drive(&mut ring, |_, event| matches!(event, Seen::Received(_, bytes) if bytes == b"you too"));
}

#[test]
fn dropping_a_busy_ring_ends_everything() {
    let mut ring = ring();
    let (_, address) = listen(&mut ring);
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    ring.watch(std::os::fd::AsFd::as_fd(&wake)).unwrap();
    let (stuck, mut reader) = connect(&mut ring);
    let (_, mut idle) = connect(&mut ring);
    let (_, mut unheard) = connect(&mut ring);
    ring.send(stuck, vec![1; 64 << 20]);
    turn_until(&mut ring, |ring| ring.connections.at(stuck).sent > 0);
    unheard.write_all(b"nobody takes this event").unwrap();
    ring.turn(true).unwrap();
    assert!(ring.has_events());
    let (_, mut unsubmitted) = connect(&mut ring);
    drop(ring);

    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(unsubmitted.read(&mut [0; 1]).unwrap(), 0);
    let mut received = Vec::new();
    let _ = reader.read_to_end(&mut received);
    assert!(received.len() < 64 << 20);
}

#[test]
fn a_busy_ring_joins_rather_than_leaks() {
    let mut ring = ring();
    listen(&mut ring);
    let (stuck, _reader) = connect(&mut ring);
    ring.send(stuck, vec![1; 64 << 20]);
    turn_until(&mut ring, |ring| ring.connections.at(stuck).sent > 0);
    ring.close_everything();
    assert!(ring.join());
}

/// A file of 1 MiB of zeros without a name, and a second descriptor of it.
fn file() -> (OwnedFd, std::fs::File) {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(1 << 20).expect("room for it");
    (file.try_clone().expect("a descriptor").into(), file)
}

#[test]
fn writes_are_whole_and_durable_when_they_are_reported() {
    use std::os::unix::fs::FileExt;
    for sync in [WriteSync::Dsync, WriteSync::Fdatasync] {
        let mut ring = ring();
        let (fd, file) = file();
        let target = ring.add_file(fd);
        for token in 0..8 {
            let mut buffer = PageBuffer::new();
            buffer.reset(8192);
            buffer.bytes_mut().fill(token as u8 + 1);
            ring.write(target, u64::from(token) * 8192, buffer, sync, token);
        }
        let mut seen = [false; 8];
        drive(&mut ring, |_, event| {
            let Seen::Written(token, buffer, result) = event else { panic!("{event:?}") };
            result.expect("it was written");
            assert!(buffer.bytes().iter().all(|b| *b == token as u8 + 1), "the buffer comes back");
            seen[token as usize] = true;
            seen.iter().all(|s| *s)
        });
        for token in 0..8u64 {
            let mut bytes = [0; 8192];
            file.read_exact_at(&mut bytes, token * 8192).expect("it is there");
            assert!(bytes.iter().all(|b| u64::from(*b) == token + 1), "{sync:?}");
        }
    }
}

#[test]
fn a_write_that_fails_is_reported_with_its_buffer() {
    let mut ring = ring();
    let read_only = std::fs::File::open("/dev/null").expect("it is there");
    let target = ring.add_file(read_only.into());
    let mut buffer = PageBuffer::new();
    buffer.reset(4096);
    ring.write(target, 0, buffer, WriteSync::Fdatasync, 7);
    drive(&mut ring, |_, event| {
        let Seen::Written(7, buffer, Err(_)) = event else { panic!("{event:?}") };
        assert_eq!(buffer.bytes().len(), 4096);
        true
    });
}

#[test]
fn a_sync_of_its_own_is_reported() {
    let mut ring = ring();
    let (fd, _file) = file();
    let target = ring.add_file(fd);
    ring.sync(target);
    drive(&mut ring, |_, event| matches!(event, Seen::Synced(Ok(()))));
}
