//! Tests that cannot do their work here, by name.
//!
//! Invariant: a test that is skipped is told on standard error and in the file that `RINGQ_SKIPPED_FILE` names. With `RINGQ_REQUIRE_CLIENTS=1` it
//! fails instead, unless what it lacks cannot be installed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Notes a test that cannot run here, by its name.
pub fn skip(script: &str, reason: &str) {
    let name = script.split('.').next().unwrap_or(script);
    assert!(
        std::env::var_os("RINGQ_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
        "client {name} is required: {reason}"
    );
    note(name, reason);
}

/// The same of a test that needs what this kernel does not offer.
#[allow(dead_code, reason = "only tests that mount file systems need it")]
pub fn skip_for_kernel(name: &str, reason: &str) {
    note(name, reason);
}

fn note(name: &str, reason: &str) {
    eprintln!("SKIPPED client {name}: {reason}");
    let path = std::env::var_os("RINGQ_SKIPPED_FILE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/skipped-tests.txt"), PathBuf::from);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("create the directory of the list of skipped tests");
    }
    // One write a line: tests that run at the same time append to the same file.
    let mut list = OpenOptions::new().create(true).append(true).open(&path).expect("open the list of skipped tests");
    list.write_all(format!("{name}: {reason}\n").as_bytes()).expect("write to the list of skipped tests");
}
