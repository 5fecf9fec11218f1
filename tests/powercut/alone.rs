//! Tests that mount file systems run in namespaces of their own: nothing of them is left, however they end.
//!
//! Invariant: the process that mounts is the first of its process namespace and dies with the test that waits for it; with it go
//! all that it has started, its mounts, and the loop devices that were mounted there.

use crate::device::text;
use crate::skips::{skip, skip_for_kernel};
use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Set in the process that does the work.
const INSIDE: &str = "RINGQ_ALONE";
/// Where temporary files are in there: a file system in memory that goes, too.
const SCRATCH: &str = "/dev/shm";
const NAMESPACES: [&str; 14] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--propagation=private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    "mount -t tmpfs tmpfs \"$TMPDIR\" && exec \"$@\" 2>&1",
    "sh",
];

/// Runs `body` of the test `name`, which begins with its modules, where nothing outlives it. Without root, or one of these programs and devices, it is skipped.
pub fn alone(name: &str, programs: &[&str], devices: &[&str], body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    if let Some(reason) = missing(programs) {
        return skip(name, &reason);
    }
    if let Some(reason) = not_offered(devices) {
        return skip_for_kernel(name, &reason);
    }
    // One at a time, whoever waits: they share the machine's loop devices.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let test = env::current_exe().expect("the path of this program");
    let mut command = in_namespaces(&[text(&test), name, "--exact", "--nocapture", "--include-ignored"]);
    let mut inside = command.stdout(Stdio::piped()).spawn().expect("setpriv");
    // Line by line through this test's own output, which is captured or not.
    let mut has_run = false;
    for line in BufReader::new(inside.stdout.take().expect("a pipe")).split(b'\n') {
        let line = line.expect("what the test says");
        has_run |= line == b"running 1 test";
        println!("{}", String::from_utf8_lossy(&line));
    }
    let status = inside.wait().expect("the end of the test");
    assert!(has_run, "there is no test {name}");
    assert!(status.success(), "{name} ended with {status}: what it said is above");
}

/// What would have to be installed, or who the test would have to be.
fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to mount file systems".to_owned());
    }
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |program: &str| path.split(':').any(|directory| Path::new(directory).join(program).exists());
    let program = ["setpriv", "unshare", "mount"].iter().chain(programs).find(|program| !is_there(program));
    program.map(|program| format!("{program} is not installed"))
}

/// What this kernel, or the container, does not offer.
fn not_offered(devices: &[&str]) -> Option<String> {
    if let Some(device) = devices.iter().chain(&[SCRATCH]).find(|device| !Path::new(device).exists()) {
        return Some(format!("needs {device}"));
    }
    let tried = in_namespaces(&["true"]).output().expect("setpriv");
    let said = [tried.stdout, tried.stderr].concat();
    (!tried.status.success()).then(|| format!("needs namespaces: {}", String::from_utf8_lossy(&said).trim()))
}

fn in_namespaces(arguments: &[&str]) -> Command {
    let mut command = Command::new(NAMESPACES[0]);
    command.args(&NAMESPACES[1..]).args(arguments).env("TMPDIR", SCRATCH).env(INSIDE, "1").stdin(Stdio::null());
    command
}
