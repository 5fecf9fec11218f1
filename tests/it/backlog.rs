//! Promise 7: a queue far larger than memory. Puts and gets millions of messages through a server that may keep a few MiB of
//! them, watching what it really uses, with restarts and a crash in the middle of the way out.
//!
//! One connection puts and one takes, so what comes out next is known exactly, also after a crash.

use crate::facts::{anonymous_memory, puts_and_gets, stat};
use crate::harness::Server;
use crate::traffic::Link;
use std::ops::Range;

/// Puts before the one whose reply is awaited, and gets on their way at once.
const BATCH_LEN: u64 = 2000;

/// The memory a server started with `-m 8` may use. Its own 8 MiB may exist twice, as messages and as batches on their way to the
/// database; each of up to two shards has 4 MiB of receive buffers and its queues of the ring; the bookkeeping of the
/// database's transaction grows with the batch, not with the backlog, and the allocator keeps some of what was freed. A backlog
/// kept in memory would be 200 MB and more.
const MEMORY_MAX: u64 = 64 << 20;

#[test]
fn two_million_messages_pass_through_eight_mib() {
    let args = ["-m", "8", "-t", "1", "-N"];
    let mut server = Server::start(&args);
    fill(&server, 0..2_000_000);
    assert_eq!(stat(&server, "curr_items"), 2_000_000);
    take(&server, 0..700_000);
    server.restart();
    assert_eq!(puts_and_gets(&server, "backlog"), Some((2_000_000, 700_000)));
    take(&server, 700_000..2_000_000);
    expect_empty(&server, 2_000_000);
}

#[test]
fn a_backlog_on_two_shards_keeps_its_order_and_its_bound() {
    let args = ["-m", "8", "-t", "2", "-N"];
    let mut server = Server::start(&args);
    fill(&server, 0..300_000);
    take(&server, 0..100_000);
    // What is put behind a backlog that is being loaded stays behind it.
    fill(&server, 300_000..400_000);
    server.restart_with(&["-m", "8", "-t", "1", "-N"]);
    take(&server, 100_000..250_000);
    server.restart_with(&args);
    take(&server, 250_000..400_000);
    expect_empty(&server, 400_000);
}

#[test]
fn a_durable_backlog_survives_a_crash_in_the_middle_of_its_drain() {
    let mut server = Server::start(&["-m", "8", "-t", "1"]);
    fill(&server, 0..300_000);
    take(&server, 0..100_000);
    server.kill9();
    server.restart_with(&["-m", "8", "-t", "2"]);
    // Every reply had come, so the counters are exact.
    assert_eq!(puts_and_gets(&server, "backlog"), Some((300_000, 100_000)));
    take(&server, 100_000..200_000);
    fill(&server, 300_000..320_000);
    server.kill9();
    server.restart_with(&["-m", "8", "-t", "1"]);
    take(&server, 200_000..320_000);
    expect_empty(&server, 320_000);
}

/// A hundred bytes that say which message it is.
fn body(number: u64) -> String {
    format!("{number:0100}")
}

/// Puts these messages; when it returns, all of them were accepted.
fn fill(server: &Server, numbers: Range<u64>) {
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut next = numbers.start;
    while next < numbers.end {
        let batch = next..(next + BATCH_LEN).min(numbers.end);
        let mut requests = String::new();
        for number in batch.clone() {
            let noreply = if number + 1 == batch.end { "" } else { " noreply" };
            requests.push_str(&format!("set backlog 0 0 100{noreply}\r\n{}\r\n", body(number)));
        }
        link.send(requests.as_bytes()).expect("send");
        assert_eq!(link.line().expect("a reply"), b"STORED");
        next = batch.end;
        check_memory(server, next);
    }
}

/// Takes messages, which must be exactly these, in this order.
fn take(server: &Server, numbers: Range<u64>) {
    let mut link = Link::connect(server.addr()).expect("connect");
    let mut next = numbers.start;
    while next < numbers.end {
        let len = BATCH_LEN.min(numbers.end - next);
        link.send("get backlog\r\n".repeat(len as usize).as_bytes()).expect("send");
        for _ in 0..len {
            let (_, received) = link.value().expect("a reply").unwrap_or_else(|| panic!("message {next} is missing"));
            assert!(received == body(next).as_bytes(), "not message {next}: {}", received.escape_ascii());
            assert_eq!(link.value().expect("a reply"), None);
            next += 1;
        }
        check_memory(server, next);
    }
}

fn check_memory(server: &Server, at: u64) {
    // Reading it takes the kernel longer than a batch takes the server.
    if at.is_multiple_of(10 * BATCH_LEN) {
        let used = anonymous_memory(server);
        assert!(used <= MEMORY_MAX, "{used} bytes of memory in use at message {at}");
    }
}

fn expect_empty(server: &Server, puts: u64) {
    let mut client = server.connect();
    client.send(b"get backlog\r\n");
    client.expect(b"END\r\n");
    assert_eq!(puts_and_gets(server, "backlog"), Some((puts, puts)));
    assert_eq!(stat(server, "curr_items"), 0);
}
