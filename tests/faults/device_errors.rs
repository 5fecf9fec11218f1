//! Reads, writes and syncs that fail under a running server, and under one that starts.
//!
//! Invariant: the server ends by itself and names the file and the cause; a start without the fault has everything that was
//! acknowledged, and at most one message more.

use crate::alone::alone;
use crate::failing::{Ask, Failing, Fault};
use crate::harness::Server;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A journal of 8 MiB, so that a load goes through all its segments, and a checkpoint each second.
const ARGUMENTS: [&str; 10] = ["-t", "1", "-m", "2", "-B", "8192", "-E", "2064", "-C", "1"];
const END_TIMEOUT: Duration = Duration::from_secs(30);
const DEVICES: [&str; 1] = ["/dev/fuse"];
const SIZE: usize = 4000;

#[test]
fn a_journal_that_cannot_be_written_ends_the_server() {
    run(
        "device_errors::a_journal_that_cannot_be_written_ends_the_server",
        &[],
        Ask::Write,
        "data/journal",
        &["journal/0/segment-"],
    );
}

#[test]
fn a_journal_that_cannot_be_synced_ends_the_server() {
    run(
        "device_errors::a_journal_that_cannot_be_synced_ends_the_server",
        &[],
        Ask::Sync,
        "data/journal",
        &["journal/0/segment-"],
    );
}

#[test]
fn a_journal_that_cannot_be_written_ends_the_server_without_sync() {
    let name = "device_errors::a_journal_that_cannot_be_written_ends_the_server_without_sync";
    run(name, &["-N"], Ask::Write, "data/journal", &["journal/0/segment-"]);
}

#[test]
fn a_journal_that_cannot_be_synced_ends_the_server_without_sync() {
    let name = "device_errors::a_journal_that_cannot_be_synced_ends_the_server_without_sync";
    run(name, &["-N"], Ask::Sync, "data/journal", &["journal/0/segment-"]);
}

#[test]
fn a_database_that_cannot_be_written_ends_the_server() {
    run(
        "device_errors::a_database_that_cannot_be_written_ends_the_server",
        &[],
        Ask::Write,
        "data/store/data.mdb",
        &["store"],
    );
}

#[test]
fn a_database_that_cannot_be_synced_ends_the_server() {
    run(
        "device_errors::a_database_that_cannot_be_synced_ends_the_server",
        &[],
        Ask::Sync,
        "data/store/data.mdb",
        &["store"],
    );
}

/// Has the fault come in the middle of a load, then at a start; after both everything is there.
fn run(name: &str, options: &[&str], ask: Ask, path: &'static str, named: &[&str]) {
    alone(name, &[], &DEVICES, || {
        let arguments = [&ARGUMENTS, options].concat();
        let disk = Failing::new();
        let scratch = tempfile::tempdir().expect("a directory");
        let session = disk.mount(scratch.path()).expect("a FUSE mount");
        let data = scratch.path().join("data");
        let mut stored = 0;
        for spared in [0, 1, 7, 50] {
            let mut server = Server::start_in(&data, &arguments);
            stored = put(server.addr(), stored, stored + 20);
            disk.fail(Some(Fault { ask, path, spared }));
            stored = put(server.addr(), stored, usize::MAX);
            let status = server.wait_for_end(END_TIMEOUT);
            assert!(disk.failed() > 0, "the fault did not come");
            check_end(&status.to_string(), status.code(), &server.output(), named);
            disk.fail(None);
            let mut server = Server::start_in(&data, &arguments);
            let there = drain(server.addr());
            assert!(there == stored || there == stored + 1, "{there} of {stored} messages are there");
            stored = 0;
            assert!(server.stop().success(), "{}", server.output());
        }
        drop(session);
    });
}

fn check_end(status: &str, code: Option<i32>, output: &str, named: &[&str]) {
    println!("{status}: {output}");
    assert_eq!(code, Some(1), "{status}: {output}");
    for part in named.iter().chain(&["Input/output error"]) {
        assert!(output.contains(part), "{part:?} is missing in {output}");
    }
}

/// Puts messages of these numbers until the server goes; the number of the first that was not acknowledged.
fn put(address: SocketAddr, from: usize, to: usize) -> usize {
    let Ok(stream) = TcpStream::connect(address) else { return from };
    let mut stream = BufReader::new(stream);
    for number in from..to {
        let sent = stream.get_mut().write_all(format!("set q 0 0 {SIZE}\r\n{number:0SIZE$}\r\n").as_bytes());
        let mut line = String::new();
        match sent.and_then(|()| stream.read_line(&mut line)) {
            Ok(size) if size > 0 => assert_eq!(line, "STORED\r\n"),
            _ => return number,
        }
    }
    to
}

/// Takes all messages, which have to be 0, 1 and so on; how many they are.
fn drain(address: SocketAddr) -> usize {
    let mut stream = BufReader::new(TcpStream::connect(address).expect("a connection"));
    for number in 0.. {
        stream.get_mut().write_all(b"get q\r\n").expect("sent");
        let mut lines = [String::new(), String::new(), String::new()];
        stream.read_line(&mut lines[0]).expect("a line");
        if lines[0] == "END\r\n" {
            return number;
        }
        stream.read_line(&mut lines[1]).expect("a body");
        stream.read_line(&mut lines[2]).expect("an end");
        assert_eq!(lines[1].trim_end(), format!("{number:0SIZE$}"));
    }
    unreachable!("numbers do not end")
}
