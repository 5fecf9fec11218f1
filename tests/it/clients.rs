//! Memcache clients that people use, each driven by a script of `tests/clients` against a server of its own.
//!
//! Invariant: a script counts as passed only if it ended with 0 and printed at least one `ok` line and no `FAIL` line.
//! One whose client is not installed is skipped; libtest cannot say so at run time, so the skip is written to stderr and
//! to the file that `RINGQ_SKIPPED_FILE` names, from which `make` reports it. With `RINGQ_REQUIRE_CLIENTS=1` it fails instead.

pub use crate::skips::skip;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::harness::{Server, eventually, read_lossy};

/// How long one script may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(120);
/// A script's exit status when its client is not installed.
const EXIT_SKIPPED: i32 = 77;

#[test]
fn memcacheq_documentation() {
    run("memcacheq_documentation.php");
}

#[test]
fn php_memcache() {
    run("php_memcache.php");
}

#[test]
fn php_memcached() {
    run("php_memcached.php");
}

#[test]
fn zend_queue_adapter() {
    run("zend_queue_adapter.php");
}

#[test]
fn session_readme() {
    run("session_readme.php");
}

#[test]
fn pymemcache_client() {
    run("pymemcache_client.py");
}

#[test]
fn stats_forms() {
    run("stats_forms.py");
}

#[test]
fn unix_socket() {
    run_over_unix("unix_socket.py");
}

#[test]
fn php_unix_socket() {
    run_over_unix("php_unix_socket.php");
}

#[test]
fn pylibmc_client() {
    run("pylibmc_client.py");
}

#[test]
fn libmemcached_tools() {
    run("libmemcached_tools.sh");
}

#[test]
fn netcat() {
    run("netcat.sh");
}

#[test]
fn every_script_has_a_test() {
    let source = include_str!("clients.rs");
    let mut scripts = 0;
    for entry in fs::read_dir(scripts_dir()).expect("read the scripts' directory") {
        let path = entry.expect("read the scripts' directory").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a readable name").to_owned();
        if path.is_file() && interpreter(&name).is_some() {
            scripts += 1;
            assert!(source.contains(&format!("(\"{name}\");")), "{name} is not run by any test");
        }
    }
    assert!(scripts > 0, "no scripts in {}", scripts_dir().display());
}

fn run(script: &str) {
    let server = Server::start(&[]);
    let arguments = [server.addr().ip().to_string(), server.port().to_string()];
    run_against_server(server, script, &arguments);
}

/// As `run`; the script is given the path of a unix socket.
fn run_over_unix(script: &str) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("socket").to_str().expect("a readable path").to_owned();
    run_against_server(Server::start(&["-s", &path]), script, &[path]);
}

fn run_against_server(mut server: Server, script: &str, arguments: &[String]) {
    let started = Instant::now();
    match run_with(&scripts_dir(), script, arguments) {
        Outcome::Skipped(reason) => skip(script, &reason),
        Outcome::Ended { status, output } => {
            println!("{output}{script} ended with {status} after {:?}", started.elapsed());
            let failed = output.lines().any(|line| line.starts_with("FAIL "));
            assert!(status.success() && !failed, "{script} ended with {status}:\n{output}");
            assert!(output.lines().any(|line| line.starts_with("ok ")), "{script} checked nothing:\n{output}");
        }
    }
    let status = server.stop();
    assert!(status.success(), "ringq ended with {status} after {script}");
}

/// How a script ended.
pub enum Outcome {
    /// What it needs is not installed.
    Skipped(String),
    /// With this, and what it printed.
    #[allow(missing_docs)]
    Ended { status: ExitStatus, output: String },
}

/// Runs a script of a directory.
pub fn run_with(directory: &Path, script: &str, arguments: &[String]) -> Outcome {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let output_path = scratch.path().join("output");
    let output = File::create(&output_path).expect("create the output file");
    let interpreter = interpreter(script).expect("a script of a known kind");
    let mut command = Command::new(&interpreter);
    command.arg(directory.join(script)).args(arguments);
    // No compiled Python beside the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    // A group of its own, so that at the deadline the programs the script started end with it.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(output.try_clone().expect("a second handle")).stderr(output);
    let mut script_process = match command.spawn() {
        Ok(child) => ScriptProcess { child },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Outcome::Skipped(format!("{} is not installed", interpreter.display()));
        }
        Err(error) => panic!("run {}: {error}", interpreter.display()),
    };

    let mut status = None;
    eventually(&format!("{script} ends"), SCRIPT_TIMEOUT, || {
        status = script_process.child.try_wait().expect("wait for the script");
        status.is_some()
    });
    let status = status.expect("eventually returns only when it is set");
    let output = read_lossy(&output_path);
    if status.code() == Some(EXIT_SKIPPED) {
        return Outcome::Skipped(output.trim().replace('\n', "; "));
    }
    Outcome::Ended { status, output }
}

/// A running script; dropping it before its end ends it and what it started.
struct ScriptProcess {
    child: Child,
}

impl Drop for ScriptProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
            // Fails only when the group has gone already.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// What runs a script, by its ending; none for what is no script.
fn interpreter(script: &str) -> Option<PathBuf> {
    match Path::new(script).extension()?.to_str()? {
        "php" => Some("php".into()),
        "sh" => Some("sh".into()),
        "py" => Some(python()),
        _ => None,
    }
}

/// The Python of the environment that `tests/deps.sh` makes, otherwise the system's, which may have the clients too.
pub fn python() -> PathBuf {
    let venv = std::env::var_os("RINGQ_CLIENTS_VENV").map_or_else(|| root().join("target/clients-venv"), PathBuf::from);
    let python = venv.join("bin/python");
    if python.exists() { python } else { "python3".into() }
}

fn scripts_dir() -> PathBuf {
    root().join("tests/clients")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
