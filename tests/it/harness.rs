//! What integration tests stand on: a real `ringq` process in a data directory of its own, a raw client, and polling
//! for conditions.
//!
//! Invariant: no process and no directory outlives its `Server`; every wait has a deadline and says what it waited for.
//! It knows no replies: tests spell out the bytes they expect.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server may take to say that it is ready, recovery included. Generous, since tests share few cores.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a `Client` waits for bytes, or for room to send them.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often conditions are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// What a server prints to stderr for each address it listens on, once it serves there; and with `--log-format json`.
const READY_PREFIX: &str = "ringq: ready on ";
const READY_MESSAGE: &str = "\"message\":\"ready on ";

/// A `ringq` process on 127.0.0.1 and a port of the system's choice. Dropping it kills the process; if the test is
/// failing, it also prints what the process said.
pub struct Server {
    /// Absent once the process has been waited for.
    child: Option<Child>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The same for every process that is started.
    handed: Handed,
    data: PathBuf,
    /// Holds the output, and the data directory unless the test brought its own.
    scratch: TempDir,
    /// Processes started so far: each has an output file of its own, so that no ready line is taken for a later one's.
    starts: usize,
}

/// What a process has from the one that starts it, a service manager for example.
#[derive(Default)]
pub struct Handed {
    /// At most two sockets to serve.
    pub sockets: Vec<OwnedFd>,
    /// Their names, separated by colons.
    pub names: &'static str,
    /// The soft limit of open files, which the server raises only when it is too low for `-c`.
    pub files_max: Option<u64>,
    /// The directory of the control group that it runs in, if it is another one than the test's.
    pub control_group: Option<PathBuf>,
}

/// A server that ended instead of becoming ready.
#[derive(Debug)]
pub struct StartRefused {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed.
    pub output: String,
}

impl Server {
    /// Starts with these arguments in a new data directory and returns when it is ready.
    pub fn start(args: &[&str]) -> Server {
        let scratch = scratch_dir();
        let data = scratch.path().join("data");
        Server::launch(scratch, data, args, Handed::default())
            .unwrap_or_else(|refused| panic!("ringq did not start: {refused:?}"))
    }

    /// As `start`, with these variables in its environment.
    pub fn start_with_env(env: &[(&str, &str)], args: &[&str]) -> Server {
        let scratch = scratch_dir();
        let data = scratch.path().join("data");
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut server =
            Server { child: None, args: owned(args), env, handed: Handed::default(), data, scratch, starts: 0 };
        server.spawn().unwrap_or_else(|refused| panic!("ringq did not start: {refused:?}"));
        server
    }

    /// As `start`, in a data directory of the caller's that outlives the server.
    pub fn start_in(data: &Path, args: &[&str]) -> Server {
        Server::try_start_in(data, args).unwrap_or_else(|refused| panic!("ringq did not start: {refused:?}"))
    }

    /// As `start_in`, for starts that may be refused.
    pub fn try_start_in(data: &Path, args: &[&str]) -> Result<Server, StartRefused> {
        Server::launch(scratch_dir(), data.to_owned(), args, Handed::default())
    }

    /// As `start`, with what the server has from its parent; may be refused.
    pub fn try_start_with(handed: Handed, args: &[&str]) -> Result<Server, StartRefused> {
        let scratch = scratch_dir();
        let data = scratch.path().join("data");
        Server::launch(scratch, data, args, handed)
    }

    /// As `try_start_with`, in a data directory of the caller's that outlives the server.
    pub fn try_start_in_with(data: &Path, handed: Handed, args: &[&str]) -> Result<Server, StartRefused> {
        Server::launch(scratch_dir(), data.to_owned(), args, handed)
    }

    /// The port of the first address that the server named.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The first TCP address that the server named.
    pub fn addr(&self) -> SocketAddr {
        let addresses = self.ready_addresses();
        addresses
            .iter()
            .find_map(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no TCP address among {addresses:?}"))
    }

    /// The first address where the server speaks Kestrel's dialect.
    pub fn kestrel_addr(&self) -> SocketAddr {
        let mut found = None;
        eventually("ringq names where it speaks Kestrel's dialect", READY_TIMEOUT, || {
            let addresses = self.ready_addresses();
            found = addresses.iter().find_map(|address| address.strip_prefix("kestrel:")?.parse().ok());
            found.is_some()
        });
        found.expect("eventually returns only when it is set")
    }

    /// Every address that the server has named so far, as printed, in the order of its lines.
    pub fn ready_addresses(&self) -> Vec<String> {
        ready_lines(&self.output())
    }

    /// A new connection to the first address.
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// The process id of the running server.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    /// What it was started with the last time, as the test said it.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What the process of the last start has printed so far.
    pub fn output(&self) -> String {
        read_lossy(self.output_path(self.starts))
    }

    /// Kills the process as `kill -9` does and waits for it.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the server is running");
        child.kill().expect("kill ringq");
        child.wait().expect("wait for ringq");
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end(STOP_TIMEOUT)
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signal ringq");
    }

    /// Waits until the process ends by itself.
    pub fn wait_for_end(&mut self, timeout: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("the server is running");
        let mut status = None;
        eventually("ringq ends", timeout, || {
            status = child.try_wait().expect("wait for ringq");
            status.is_some()
        });
        self.child = None;
        status.expect("eventually returns only when it is set")
    }

    /// Stops the process if it runs, cleanly, and starts it again on the same data with the same arguments. The port changes.
    pub fn restart(&mut self) {
        let args = self.args.clone();
        self.restart_with(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// As `restart`, with other arguments from now on.
    pub fn restart_with(&mut self, args: &[&str]) {
        self.try_restart_with(args).unwrap_or_else(|refused| panic!("ringq did not restart: {refused:?}"));
    }

    /// As `restart_with`, for starts that may be refused.
    pub fn try_restart_with(&mut self, args: &[&str]) -> Result<(), StartRefused> {
        if self.child.is_some() {
            let status = self.stop();
            assert!(status.success(), "ringq ended with {status} before its restart");
        }
        self.args = owned(args);
        self.spawn()
    }

    /// Starts it with these arguments, after it has ended, and kills it after this time, wherever its start is by then.
    pub fn die_while_starting(&mut self, args: &[&str], after: Duration) {
        assert!(self.child.is_none(), "the server is running");
        self.args = owned(args);
        self.start_process();
        thread::sleep(after);
        self.kill9();
    }

    fn launch(scratch: TempDir, data: PathBuf, args: &[&str], handed: Handed) -> Result<Server, StartRefused> {
        let mut server = Server { child: None, args: owned(args), env: Vec::new(), handed, data, scratch, starts: 0 };
        server.spawn()?;
        Ok(server)
    }

    fn spawn(&mut self) -> Result<(), StartRefused> {
        self.start_process();
        self.await_ready()
    }

    fn start_process(&mut self) {
        self.starts += 1;
        let output = File::create(self.output_path(self.starts)).expect("create the output file");
        let mut command = self.command(&output);
        command.args(self.default_args()).arg("-H").arg(&self.data).args(&self.args);
        // What the developer's shell sets for a server of their own must not steer this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGQ_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.spawn().expect("run ringq"));
    }

    /// A shell that arranges what is handed over as a service manager would, and becomes `ringq`.
    fn command(&self, output: &File) -> Command {
        let output = || output.try_clone().expect("another handle");
        let mut script = String::new();
        let mut command = Command::new("sh");
        command.stdin(Stdio::null()).stdout(output()).stderr(output());
        if let Some(count) = self.handed.files_max {
            script += &format!("ulimit -S -n {count}; ");
        }
        if let Some(group) = &self.handed.control_group {
            // The shell itself.
            script += &format!("echo 0 >'{}/cgroup.procs' && ", group.display());
        }
        let sockets = &self.handed.sockets;
        for (number, socket) in sockets.iter().enumerate() {
            let socket = socket.try_clone().expect("another handle");
            match number {
                0 => command.stdin(socket),
                1 => command.stdout(socket),
                _ => panic!("at most two can be handed over"),
            };
            script += ["exec 3<&0 </dev/null; ", "exec 4>&1 >&2; "][number];
        }
        if !sockets.is_empty() {
            command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", self.handed.names);
            script += "LISTEN_PID=$$ ";
        }
        command.args(["-c", &(script + "exec \"$@\""), "sh", env!("CARGO_BIN_EXE_ringq")]);
        command
    }

    /// Loopback and a port of the system's choice, each only where the test has not chosen.
    fn default_args(&self) -> Vec<&'static str> {
        let chosen =
            |short: &str, long: &str| self.args.iter().any(|arg| arg.starts_with(short) || arg.starts_with(long));
        let mut defaults = Vec::new();
        // Its default address is one for all servers that run.
        if !chosen("--admin", "--admin") {
            defaults.extend(["--admin", "off"]);
        }
        if !chosen("-s", "--socket") && self.handed.sockets.is_empty() {
            if !chosen("-p", "--port") {
                defaults.extend(["-p", "0"]);
            }
            if !chosen("-l", "--listen") {
                defaults.extend(["-l", "127.0.0.1"]);
            }
        }
        defaults
    }

    fn await_ready(&mut self) -> Result<(), StartRefused> {
        let output_path = self.output_path(self.starts);
        let child = self.child.as_mut().expect("just spawned");
        let mut ended = None;
        eventually("ringq is ready", READY_TIMEOUT, || {
            // Asked before reading, so that what an ended process printed last is read.
            ended = child.try_wait().expect("wait for ringq");
            ended.is_some() || !ready_lines(&read_lossy(&output_path)).is_empty()
        });
        match ended {
            None => Ok(()),
            Some(status) => {
                self.child = None;
                Err(StartRefused { status, output: read_lossy(&output_path) })
            }
        }
    }

    fn output_path(&self, start: usize) -> PathBuf {
        self.scratch.path().join(format!("output-{start}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when the process has gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            for start in 1..=self.starts {
                eprintln!("--- output of ringq, start {start} ---\n{}---", read_lossy(self.output_path(start)));
            }
        }
    }
}

/// What a client needs of a socket, whichever kind it is.
trait Stream: Read + Write + Send {
    fn finish_sending(&self) -> std::io::Result<()>;
}

impl Stream for TcpStream {
    fn finish_sending(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn finish_sending(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A raw connection that sends bytes and compares bytes. Every wait ends after ten seconds with a panic that shows what had
/// come until then.
pub struct Client {
    stream: Box<dyn Stream>,
    /// Received and not yet asked for.
    received: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, CLIENT_TIMEOUT)
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_read_timeout(Some(CLIENT_TIMEOUT)).expect("set the read timeout");
        stream.set_write_timeout(Some(CLIENT_TIMEOUT)).expect("set the write timeout");
        stream.set_nodelay(true).expect("set nodelay");
        Client { stream: Box::new(stream), received: Vec::new() }
    }

    /// Connects to a unix socket.
    pub fn connect_unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("connect to {}: {error}", path.display()));
        stream.set_read_timeout(Some(CLIENT_TIMEOUT)).expect("set the read timeout");
        stream.set_write_timeout(Some(CLIENT_TIMEOUT)).expect("set the write timeout");
        Client { stream: Box::new(stream), received: Vec::new() }
    }

    /// Connects to an address as a server prints it.
    pub fn connect_to(address: &str) -> Client {
        match address.strip_prefix("unix:") {
            Some(path) => Client::connect_unix(Path::new(path)),
            None => Client::connect(address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))),
        }
    }

    /// Sends all bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("send {}: {error}", shown(bytes)));
    }

    /// Receives exactly these bytes next; what follows them stays for the next call.
    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) {
        loop {
            let common = self.received.len().min(expected.len());
            // A difference is told at once instead of after the timeout.
            let differs = self.received[..common] != expected[..common];
            assert!(!differs, "expected {}, received {}", shown(expected), shown(&self.received));
            if common == expected.len() {
                self.received.drain(..common);
                return;
            }
            self.receive(&format!("for {}", shown(expected)));
        }
    }

    /// Receives the next line and returns it without its CRLF.
    #[track_caller]
    pub fn read_reply_line(&mut self) -> Vec<u8> {
        let mut line = self.read_until(b"\r\n");
        line.truncate(line.len() - 2);
        line
    }

    /// Sends a request and receives up to the first occurrence of `ending`, which the returned reply includes.
    #[track_caller]
    pub fn command(&mut self, request: &[u8], ending: &[u8]) -> Vec<u8> {
        self.send(request);
        self.read_until(ending)
    }

    /// Receives up to the first occurrence of `ending`, which the returned bytes include.
    #[track_caller]
    pub fn read_until(&mut self, ending: &[u8]) -> Vec<u8> {
        assert!(!ending.is_empty());
        let mut searched = 0;
        loop {
            if let Some(at) = self.received[searched..].windows(ending.len()).position(|window| window == ending) {
                return self.received.drain(..searched + at + ending.len()).collect();
            }
            searched = self.received.len().saturating_sub(ending.len() - 1);
            self.receive(&format!("for {} at the end", shown(ending)));
        }
    }

    /// Receives until the server closes or resets the connection, and returns everything.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        match self.stream.read_to_end(&mut self.received) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("waited for the close: {error}; received {}", shown(&self.received)),
        }
        std::mem::take(&mut self.received)
    }

    /// Closes the sending side; replies still arrive.
    pub fn finish_sending(&mut self) {
        self.stream.finish_sending().expect("shut down the sending side");
    }

    /// The server closes the connection and has sent nothing more.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let mut rest = [0; 4096];
        let got = match self.stream.read(&mut rest) {
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("waited for the close: {error}; received {}", shown(&self.received)),
        };
        self.received.extend_from_slice(&rest[..got]);
        assert!(self.received.is_empty(), "expected a silent close, received {}", shown(&self.received));
    }

    #[track_caller]
    fn receive(&mut self, awaited: &str) {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => panic!("waited {awaited}: the server closed after {}", shown(&self.received)),
            Ok(size) => self.received.extend_from_slice(&chunk[..size]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("waited {awaited}: {error} after {}", shown(&self.received)),
        }
    }
}

/// A port for datagrams that probably nobody has: 0 means off, so the system cannot choose. Below the ports that the system gives away, and
/// not the same twice in a while.
pub fn candidate_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
    10_000 + ((std::process::id() * 97 + turn * 31) % 20_000) as u16
}

/// Whether a start was refused because somebody has the port of the datagrams.
pub fn is_taken(refused: &StartRefused) -> bool {
    refused.output.contains("in use") && refused.output.contains("-U")
}

/// Polls until the condition holds; panics with `what` at the deadline.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Bytes as a reader wants them in a failure: escaped, the middle of long ones left out.
pub fn shown(bytes: &[u8]) -> String {
    const EDGE_SIZE: usize = 300;
    if bytes.len() <= 2 * EDGE_SIZE {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let (head, tail) = (&bytes[..EDGE_SIZE], &bytes[bytes.len() - EDGE_SIZE..]);
    format!("\"{} … {}\" ({} bytes)", head.escape_ascii(), tail.escape_ascii(), bytes.len())
}

/// The file's text; none if it cannot be read.
pub fn read_lossy(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The addresses of complete ready lines: the last line may still be on its way.
fn ready_lines(output: &str) -> Vec<String> {
    let complete = output.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let address = |line: &str| match line.strip_prefix(READY_PREFIX) {
        Some(address) => Some(address.to_owned()),
        None => Some(line.split_once(READY_MESSAGE)?.1.split_once('"')?.0.to_owned()),
    };
    complete.lines().filter_map(address).collect()
}

fn scratch_dir() -> TempDir {
    tempfile::Builder::new().prefix(OsStr::new("ringq-test-")).tempdir().expect("a temporary directory")
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}
