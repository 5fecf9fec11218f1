//! The wall clock set back and forward under a running server, by a library that stands between it and the C library.
//!
//! Invariant: order and ids do not depend on the clock, and neither do times of open reads; only messages that expire go by it.

use crate::harness::Server;
use crate::skips::skip;
use std::fs;
use std::path::Path;

/// The library of Debian's package `faketime`, for programs with threads.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_clock_that_steps_back_and_forward_changes_no_order() {
    if !Path::new(LIBRARY).exists() {
        return skip("clock_steps", "faketime is not installed");
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let clock = scratch.path().join("clock");
    // Replaced as a whole: the server reads it each time that it asks for the time.
    let set = |offset: &str| {
        let next = scratch.path().join("next");
        fs::write(&next, offset).and_then(|()| fs::rename(&next, &clock)).expect("the clock is set");
    };
    set("+0");
    let env = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("a readable path")),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut server = Server::start_with_env(&env, &["-t", "1"]);
    let _left = Left(server.pid());
    let mut client = server.connect();
    client.send(b"config old max_age=1h\r\nset q 0 0 1\r\n0\r\nset q/ttl=5000 0 0 1\r\n1\r\nset old 0 0 1\r\na\r\n");
    client.expect(b"OK\r\nSTORED\r\nSTORED\r\nSTORED\r\n");
    client.send(b"get q/open/ttr=3600\r\n");
    client.expect(b"VALUE q/open/ttr=3600 0 1\r\n0\r\nEND\r\n");

    // A day back: nothing is over, and what is put now stands behind what was put before.
    set("-86400");
    client.send(b"set q 0 0 1\r\n2\r\nset q/ttl=5000 0 0 1\r\n3\r\nstats queue q\r\n");
    client.expect(b"STORED\r\nSTORED\r\n");
    client.read_until(b"END\r\n");
    client.send(b"get q/peek\r\nget old/peek\r\n");
    client.expect(b"VALUE q/peek 0 1\r\n1\r\nEND\r\nVALUE old/peek 0 1\r\na\r\nEND\r\n");
    client.send(b"get q/abort\r\nget q/open/ttr=3600\r\n");
    client.expect(b"END\r\nVALUE q/open/ttr=3600 0 1\r\n0\r\nEND\r\n");
    server.kill9();
    server.restart();
    let _left = Left(server.pid());

    // A day forward of the first: two have expired, and the read that was open has come back with the start.
    set("+86400");
    let mut client = server.connect();
    client.send(b"get q q q\r\nget old\r\nstats queue q\r\n");
    client.expect(b"VALUE q 0 1\r\n0\r\nVALUE q 0 1\r\n2\r\nEND\r\nEND\r\n");
    let stats = String::from_utf8(client.read_until(b"END\r\n")).expect("text");
    assert!(stats.contains("STAT expired 2\r\n"), "{stats}");
    client.send(b"set q 0 0 1\r\n4\r\nget q/open/ttr=3600\r\n");
    client.expect(b"STORED\r\nVALUE q/open/ttr=3600 0 1\r\n4\r\nEND\r\n");

    // And back again, with a read that is open: its time is that of the clock that nobody sets.
    set("+0");
    client.send(b"get q/close\r\nget q\r\n");
    client.expect(b"END\r\nEND\r\n");
    assert!(server.stop().success(), "{}", server.output());
}

/// What the library has left in shared memory for a process.
struct Left(u32);

impl Drop for Left {
    fn drop(&mut self) {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            // There need not be one.
            let _ = fs::remove_file(format!("/dev/shm/{name}{}", self.0));
        }
    }
}
