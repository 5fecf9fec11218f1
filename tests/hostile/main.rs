//! Promise 6: no client can stop, grow or crash the server. Each test is one way of trying; after it the server serves, keeps no
//! connection that is gone, and uses no more memory than [`bound`] computes from its options and from what clients have of it.

mod bound;
mod crowds;
mod single;

#[allow(dead_code)]
#[path = "../it/facts.rs"]
mod facts;
#[allow(dead_code)]
#[path = "../it/harness.rs"]
mod harness;
#[path = "../it/skips.rs"]
mod skips;
#[allow(dead_code)]
#[path = "../it/traffic.rs"]
mod traffic;

use crate::bound::{Crowd, Settings, bound};
use crate::facts::{anonymous_memory, stat};
use crate::harness::{Server, eventually};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long the server may take to notice what clients did. Generous, since tests share few cores.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(120);

/// A client that could not send for this long meets a server that has stopped reading.
const FULL_AFTER: Duration = Duration::from_millis(500);

const MIB: usize = 1 << 20;

/// The server serves whoever comes.
#[track_caller]
fn check_service(server: &Server) {
    let mut client = server.connect();
    client.send(b"set service 7 0 2\r\nok\r\nget service\r\n");
    client.expect(b"STORED\r\nVALUE service 7 2\r\nok\r\nEND\r\n");
}

/// No connection is left but the one that asks.
#[track_caller]
fn check_only_asking_connection(server: &Server) {
    eventually("no other connection is left", NOTICE_TIMEOUT, || stat(server, "curr_connections") == 1);
}

/// It uses no more memory than its options allow while its clients have this of what they may have.
#[track_caller]
fn check_memory(server: &Server, crowd: Crowd, what: &str) {
    let (used, allowed) = (anonymous_memory(server), bound(&Settings::of(server.args()), &crowd));
    println!("{} of {} MiB after {what}", used >> 20, allowed >> 20);
    assert!(used <= allowed, "{used} bytes of memory in use after {what}, {allowed} are allowed for {crowd:?}");
}

/// Waits until a number stays the same.
fn settle(mut number: impl FnMut() -> u64) {
    let mut last = number();
    let mut same = 0;
    eventually("a number stays the same", NOTICE_TIMEOUT, || {
        let now = number();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 40
    });
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("connect");
    stream.set_read_timeout(Some(NOTICE_TIMEOUT)).expect("set the read timeout");
    stream.set_write_timeout(Some(NOTICE_TIMEOUT)).expect("set the write timeout");
    stream
}

/// Everything until the server closes or resets. A server that does neither fails the test.
#[track_caller]
fn read_what_comes(client: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    match client.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("waited for the close: {error}; received {}", received.escape_ascii()),
    }
    received
}

/// Repeats `requests` until the server reads no more, or `size_max` bytes are sent.
fn send_until_full(client: &mut (impl Write + AsFd), requests: &[u8], size_max: usize) {
    socket2::SockRef::from(&*client).set_write_timeout(Some(FULL_AFTER)).expect("set the write timeout");
    let mut sent = 0;
    while sent < size_max {
        match client.write(&requests[sent % requests.len()..]) {
            Ok(size) => sent += size,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(error) => panic!("send: {error}"),
        }
    }
}

/// Ends a connection with a reset instead of an end of stream.
fn reset(client: TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set linger");
}

/// The other side may have reset the connection already.
fn not_connected(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

/// Puts `count` messages of `size` bytes.
fn put_large(server: &Server, queue: &str, count: usize, size: usize) {
    let mut client = server.connect();
    let body = vec![b'm'; size];
    for _ in 0..count {
        client.send(&[format!("set {queue} 0 0 {size}\r\n").as_bytes(), &body, b"\r\n"].concat());
        client.expect(b"STORED\r\n");
    }
}

/// Makes queues `queue-0` and so on, with one message each.
fn make_queues(server: &Server, count: usize) {
    let mut client = server.connect();
    for first in (0..count).step_by(1000) {
        let mut requests = String::new();
        for queue in first..(first + 1000).min(count) {
            requests.push_str(&format!("set queue-{queue} 0 0 1 noreply\r\nx\r\n"));
        }
        client.send(requests.as_bytes());
        client.send(b"db_checkpoint\r\n");
        client.expect(b"OK\r\n");
    }
}
