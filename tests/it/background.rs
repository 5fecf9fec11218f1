//! A `ringq` that has gone to the background: started by a command that returns, found and ended by its process id.
//!
//! Invariant: no such process outlives its `Daemon`, and none is signalled that does not work in the test's own directory.

use crate::harness::{Client, eventually, read_lossy};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed, the daemon's part until it was ready included.
    pub printed: String,
}

impl Outcome {
    /// The server that was started with this data directory.
    #[track_caller]
    pub fn daemon(self, data: &Path) -> Daemon {
        assert!(self.status.success(), "{}: {}", self.status, self.printed);
        let mut daemon = Daemon::of(data);
        daemon.printed = self.printed;
        daemon
    }

    /// What was printed by a start that was refused.
    #[track_caller]
    pub fn refusal(self, data: &Path) -> String {
        if self.status.success() {
            // Ended by this when the test is.
            let _daemon = Daemon::of(data);
            panic!("it was not refused: {}", self.printed);
        }
        assert_eq!(self.status.code(), Some(1), "{}", self.printed);
        self.printed
    }
}

/// The command `ringq` with the data directory `data` in `scratch`, on loopback and a port of the system's choice.
pub fn command(scratch: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    command
        .env_clear()
        .env("RINGQ_ADMIN", "off")
        .args(["-p", "0", "-l", "127.0.0.1", "-H"])
        .arg(scratch.join("data"))
        .args(args);
    command
}

/// Runs a command to its end. What it prints goes to a file: a pipe would be kept open by a daemon.
pub fn run(scratch: &Path, mut command: Command) -> Outcome {
    let path = scratch.join("printed");
    let output = File::create(&path).expect("create the output file");
    command.stdin(Stdio::null()).stdout(output.try_clone().expect("a second handle")).stderr(output);
    let status = command.status().expect("run ringq");
    Outcome { status, printed: read_lossy(path) }
}

/// A server in the background.
pub struct Daemon {
    /// Its process.
    pub pid: i32,
    /// What was printed until it was ready.
    pub printed: String,
    data: PathBuf,
}

impl Daemon {
    /// Runs a command that starts one, and returns when the command has.
    #[track_caller]
    pub fn start(scratch: &Path, command: Command) -> Daemon {
        run(scratch, command).daemon(&scratch.join("data"))
    }

    /// The one that has this data directory, if only on its way to be ready.
    #[track_caller]
    pub fn of(data: &Path) -> Daemon {
        let pid = read_lossy(data.join("lock")).trim().parse().expect("the lock file says who has it");
        Daemon { pid, printed: String::new(), data: data.to_owned() }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        let line = self.printed.lines().find_map(|line| line.strip_prefix("ringq: ready on "));
        line.and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("no address in {}", self.printed))
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// A file of its directory in /proc.
    pub fn proc(&self, name: &str) -> String {
        read_lossy(format!("/proc/{}/{name}", self.pid))
    }

    /// What one of its descriptors, or another link in /proc, leads to.
    pub fn link(&self, name: &str) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/{name}", self.pid)).expect("read a link in /proc")
    }

    /// A field of its status, without the name.
    pub fn status(&self, name: &str) -> Vec<String> {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let line = line.unwrap_or_else(|| panic!("no {name} in {status}"));
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        let stat = self.proc("stat");
        // Ended, and nobody has asked for its status: who should is not ours.
        let is_zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
        let data = self.data.to_str().expect("a readable path");
        !stat.is_empty() && !is_zombie && self.proc("cmdline").contains(data)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(self.runs(), "it has ended");
        kill_process(Pid::from_raw(self.pid).expect("a process id"), signal).expect("signal ringq");
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        eventually("the daemon has ended", END_TIMEOUT, || !self.runs());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.runs() {
            let _ = kill_process(Pid::from_raw(self.pid).expect("a process id"), Signal::KILL);
        }
    }
}
