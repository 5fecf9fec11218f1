//! Tests that cannot run here: noted by their name with the reason, in the file that `RINGQ_SKIPPED_FILE` names, from which `make` reports them.
//! With `RINGQ_REQUIRE_CLIENTS=1` they fail instead.

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
    eprintln!("SKIPPED client {name}: {reason}");
    let listed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/skipped-tests.txt");
    let path = std::env::var_os("RINGQ_SKIPPED_FILE").map_or(listed, PathBuf::from);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("create the directory of the list of skipped tests");
    }
    // One write a line: tests that run at the same time append to the same file.
    let mut list = OpenOptions::new().create(true).append(true).open(&path).expect("open the list of skipped tests");
    list.write_all(format!("{name}: {reason}\n").as_bytes()).expect("write to the list of skipped tests");
}
