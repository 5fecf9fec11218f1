//! The programs of docs/examples, each run as its header says against a server of its own.
//!
//! Invariant: an example counts as passed only if it did all there was to do, and nothing is left in the queue. One whose client is not
//! installed is skipped as the scripts of [`crate::clients`] are.

use crate::clients::{Outcome, run_with, skip};
use crate::facts::counts_of;
use crate::harness::Server;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn worker_php() {
    run("worker.php");
}

#[test]
fn worker_pymemcache() {
    run("worker_pymemcache.py");
}

#[test]
fn worker_socket() {
    run("worker_socket.py");
}

#[test]
fn every_example_has_a_test() {
    let source = include_str!("examples.rs");
    for entry in fs::read_dir(directory()).expect("read the examples' directory") {
        let name = entry.expect("read the examples' directory").file_name();
        let name = name.to_str().expect("a readable name");
        if name == "README.md" || name == "flash-sale" {
            // The sale has tests of its own, in flash_sale.rs.
            continue;
        }
        assert!(source.contains(&format!("(\"{name}\");")), "{name} is not run by any test");
    }
}

/// Workers meet a job that fails once: it is given back, and done in the end.
fn run(script: &str) {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for job in ["one", "flaky two", "three"] {
        let reply = client.command(format!("set jobs 0 0 {}\r\n{job}\r\n", job.len()).as_bytes(), b"\r\n");
        assert_eq!(reply, b"STORED\r\n");
    }
    let arguments = [server.addr().ip().to_string(), server.port().to_string(), "jobs".to_string()];
    match run_with(&directory(), script, &arguments) {
        Outcome::Skipped(reason) => skip(script, &reason),
        Outcome::Ended { status, output } => {
            assert!(status.success(), "{script} ended with {status}:\n{output}");
            let mut lines: Vec<&str> = output.lines().collect();
            lines.sort_unstable();
            let expected = ["done flaky two", "done one", "done three", "gave back flaky two: try again"];
            assert_eq!(lines, expected, "{script} printed:\n{output}");
            let stats = client.command(b"stats queue jobs\r\n", b"END\r\n");
            assert_eq!(counts_of(&String::from_utf8_lossy(&stats)), "3/3");
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples")
}
