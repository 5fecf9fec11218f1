//! Start, refusal to start, and end of the real process: what it says, its exit status, and that nothing accepted is lost.

use crate::facts::{puts_and_gets, stat};
use crate::harness::{Server, eventually};
use crate::journal::contents;
use crate::traffic::Link;
use rustix::process::Signal;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long the server itself waits for clients to take their replies when it stops, and some more.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `ringq` with these arguments only, to its end.
fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    command.args(args).stdin(Stdio::null()).env_clear().env("RINGQ_ADMIN", "off").output().expect("run ringq")
}

/// Everything it printed.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

// --- refused starts ---

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let mut server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    client.send(b"set q 0 0 1\r\n1\r\nset q 0 0 1\r\n2\r\nset q 0 0 1\r\n3\r\nset r 0 0 1\r\n4\r\n");
    client.expect(b"STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\n");
    // Others would bring another number of journals of another size.
    for args in [&["-t", "2"][..], &["-t", "1"], &["-t", "4", "-N", "-E", "3072"]] {
        let refused = Server::try_start_in(server.data(), args).err().expect("the data is in use");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
        for part in ["in use by process", &server.pid().to_string(), &server.data().display().to_string(), "-H"] {
            assert!(refused.output.contains(part), "no {part} in {}", refused.output);
        }
    }
    // The first one was not harmed, nor was what it has on the disk.
    client.send(b"get q\r\nset q 0 0 1\r\n5\r\n");
    client.expect(b"VALUE q 0 1\r\n1\r\nEND\r\nSTORED\r\n");
    server.kill9();
    server.restart();
    let mut client = server.connect();
    client.send(b"get q q q q r r\r\n");
    client.expect(b"VALUE q 0 1\r\n2\r\nVALUE q 0 1\r\n3\r\nVALUE q 0 1\r\n5\r\nVALUE r 0 1\r\n4\r\nEND\r\n");
}

#[test]
fn of_servers_that_start_at_once_on_the_same_data_one_serves() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    for round in 0..4 {
        let start = || Server::try_start_in(&data, &["-t", "1"]);
        let started: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().expect("a start")).collect()
        });
        let (servers, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        for refused in refused.into_iter().filter_map(Result::err) {
            assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
            assert!(refused.output.contains("in use by"), "{}", refused.output);
        }
        assert_eq!(servers.len(), 1, "one of them serves");
        let mut client = servers[0].as_ref().map(Server::connect).expect("it serves");
        client.send(b"get q q\r\n");
        if round > 0 {
            client.expect(format!("VALUE q 0 1\r\n{}\r\n", round - 1).as_bytes());
        }
        client.expect(b"END\r\n");
        client.send(format!("set q 0 0 1\r\n{round}\r\n").as_bytes());
        client.expect(b"STORED\r\n");
    }
}

#[test]
fn the_data_is_free_as_soon_as_a_killed_server_is_gone() {
    let mut first = Server::start(&[]);
    first.kill9();
    let second = Server::start_in(first.data(), &[]);
    assert!(second.connect().command(b"version\r\n", b"\r\n").starts_with(b"VERSION "));
}

#[test]
fn bad_options_are_refused_by_name() {
    for (args, named) in [
        (&["-p", "abc"][..], "--port"),
        (&["-p", "65536"], "--port"),
        (&["-t", "0"], "--threads"),
        (&["-t", "-1"], "--threads"),
        (&["-m", "0"], "--memory"),
        (&["-m", "64MB"], "--memory"),
        (&["-B", "0"], "--body-max"),
        (&["-B", "134217729"], "--body-max"),
        (&["-m", "8", "-t", "8"], "-B"),
        (&["-c", "0"], "--connections"),
        (&["--pin", "everywhere"], "--pin"),
        (&["--max-queues", "0"], "--max-queues"),
        (&["--min-free", "x"], "--min-free"),
        (&["--no-such-option"], "--no-such-option"),
        (&["-Z"], "-Z"),
        (&["queue"], "queue"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(named), "{args:?} does not name {named}: {}", text(&output));
    }
}

#[test]
fn a_bad_environment_is_refused_by_name() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    let output = command.env_clear().env("RINGQ_ADMIN", "off").env("RINGQ_PORT", "abc").output().expect("run ringq");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("--port") && text(&output).contains("abc"), "{}", text(&output));
}

#[test]
fn help_and_version_are_no_failures() {
    for arg in ["-h", "--help", "-V", "--version"] {
        let output = run(&[arg]);
        assert_eq!(output.status.code(), Some(0), "{arg}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arg}: {}", text(&output));
    }
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    let other = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = other.local_addr().expect("an address").port().to_string();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let refused = Server::try_start_in(&scratch.path().join("data"), &["-p", &port]).err().expect("the port is in use");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.output.contains(&format!("127.0.0.1:{port}")), "{}", refused.output);
    assert!(refused.output.contains("in use"), "{}", refused.output);
}

#[test]
fn an_address_that_is_none_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    for address in ["no.such.host.invalid", "192.0.2.1"] {
        let refused = Server::try_start_in(&scratch.path().join("data"), &["-l", address, "-p", "0"]).err();
        let refused = refused.expect("nobody can listen there");
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.output.contains(address), "{}", refused.output);
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let file = scratch.path().join("file");
    std::fs::write(&file, b"not a directory").expect("write");
    let refused = Server::try_start_in(&file, &[]).err().expect("a file is no directory");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.output.contains(&file.display().to_string()), "{}", refused.output);
}

#[test]
fn data_of_another_format_is_refused_and_left_alone() {
    let mut server = Server::start(&[]);
    let mut client = server.connect();
    client.send(b"set q 0 0 1\r\nx\r\n");
    client.expect(b"STORED\r\n");
    // The message is in the journal, which a start would bring into the database and begin anew.
    server.kill9();

    let ours = replace_format(server.data(), &99u32.to_le_bytes());
    let before = contents(server.data());
    for args in [&[][..], &["-t", "3", "-E", "3072"]] {
        let refused = Server::try_start_in(server.data(), args).err().expect("an unknown format");
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.output.contains("format 99") && refused.output.contains("-H"), "{}", refused.output);
        assert!(contents(server.data()) == before, "a file was changed, made or removed");
    }

    replace_format(server.data(), b"short");
    let refused = Server::try_start_in(server.data(), &[]).err().expect("no format at all");
    assert_eq!(refused.status.code(), Some(1));

    replace_format(server.data(), &ours);
    server.restart();
    let mut client = server.connect();
    client.send(b"get q\r\n");
    client.expect(b"VALUE q 0 1\r\nx\r\nEND\r\n");
}

/// Replaces what the database says of its own format; returns what it said.
fn replace_format(data: &Path, format: &[u8]) -> Vec<u8> {
    use heed::{CommitOrAbort, types::Bytes};
    let mut options = heed::EnvOpenOptions::new();
    options.max_dbs(16);
    // SAFETY: the server that wrote the file has ended, and nobody else opens it meanwhile.
    let env = unsafe { options.open(data.join("store")) }.expect("open the database");
    let txn = env.write_txn().expect("begin");
    let mut before = Vec::new();
    let changed = env.create_databases_and_commit(txn, |opener, txn| -> Result<_, heed::Error> {
        let meta = opener.open_database::<Bytes, Bytes>(txn, Some("meta"))?.expect("there is meta data");
        before = meta.get(txn, b"format")?.expect("it says its format").to_vec();
        meta.put(txn, b"format", format)?;
        Ok(CommitOrAbort::<_, ()>::Commit(meta))
    });
    Result::from(changed.expect("change the format")).expect("nothing aborts");
    env.prepare_for_closing().wait();
    before
}

#[test]
fn something_that_is_no_database_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let store = scratch.path().join("store");
    std::fs::create_dir(&store).expect("make a directory");
    std::fs::write(store.join("data.mdb"), [b'x'; 100_000]).expect("write");
    let refused = Server::try_start_in(scratch.path(), &[]).err().expect("that is no database");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.output.contains("data.mdb"), "{}", refused.output);
}

// --- where io_uring is forbidden ---

#[test]
fn a_container_that_forbids_io_uring_is_named_with_its_remedy() {
    for args in [&["-p", "0", "-l", "127.0.0.1"][..], &["--check"]] {
        let (code, printed) = run_without_io_uring(args, libc::EPERM);
        assert_eq!(code, Some(1), "{printed}");
        for part in ["seccomp", "container", "io_uring_setup", "--security-opt", "SystemCallFilter="] {
            // Where the kernel itself forbids it, that is named instead.
            assert!(printed.contains(part) || printed.contains("kernel.io_uring_disabled"), "no {part} in {printed}");
        }
    }
}

#[test]
fn a_system_without_io_uring_is_named_with_its_remedy() {
    for args in [&["-p", "0", "-l", "127.0.0.1"][..], &["--check"]] {
        let (code, printed) = run_without_io_uring(args, libc::ENOSYS);
        assert_eq!(code, Some(1), "{printed}");
        for part in ["no io_uring", "Linux 6.1", "seccomp"] {
            assert!(printed.contains(part), "no {part} in {printed}");
        }
    }
}

/// Runs `ringq` where `io_uring_setup` fails with `errno`: its exit status and what it printed.
fn run_without_io_uring(args: &[&str], errno: i32) -> (Option<i32>, String) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    command
        .env_clear()
        .env("RINGQ_ADMIN", "off")
        .args(args)
        .arg("-H")
        .arg(scratch.path().join("data"))
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on values of the child's stack.
    unsafe { command.pre_exec(move || forbid_io_uring(errno)) };
    let output = command.output().expect("run ringq");
    (output.status.code(), text(&output))
}

/// Makes `io_uring_setup` fail for this process and those it starts.
fn forbid_io_uring(errno: i32) -> std::io::Result<()> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the system call is the first word of what the filter sees.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls read at most `program` and the filter it points to, which outlive them.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn check_says_what_the_kernel_offers() {
    let output = run(&["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("kernel: ") && printed.contains("multishot receive: yes"), "{printed}");
}

// --- running ---

#[test]
fn every_address_is_named_with_its_port() {
    let server = Server::start(&["-p", "0", "-l", "127.0.0.1", "-l", "127.0.0.2"]);
    let addresses = server.ready_addresses();
    eventually("both addresses are named", NOTICE_TIMEOUT, || server.ready_addresses().len() == 2);
    assert!(addresses[0].starts_with("127.0.0.1:") && !addresses[0].ends_with(":0"), "{addresses:?}");
    for address in server.ready_addresses() {
        let mut client = crate::harness::Client::connect(address.parse().expect("an address"));
        assert!(client.command(b"version\r\n", b"\r\n").starts_with(b"VERSION "));
    }
}

#[test]
fn listening_everywhere_is_warned_of() {
    let mut server = Server::start(&["-l", "0.0.0.0"]);
    assert!(server.stop().success());
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringq"));
    child.env_clear().env("RINGQ_ADMIN", "off").args(["-p", "0", "-H"]).arg(scratch.path().join("data"));
    let output = std::fs::File::create(scratch.path().join("output")).expect("create");
    let mut child = child.stderr(output).spawn().expect("run ringq");
    let printed = || crate::harness::read_lossy(scratch.path().join("output"));
    eventually("ringq is ready", NOTICE_TIMEOUT, || printed().contains("ringq: ready on "));
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(printed().contains("all addresses") && printed().contains("-l"), "{}", printed());
}

#[test]
fn verbosity_makes_commands_appear_in_the_log() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    client.send(b"get before\r\nverbosity 2\r\n");
    client.expect(b"END\r\nOK\r\n");
    eventually("commands are logged", NOTICE_TIMEOUT, || {
        client.send(b"get during\r\n");
        client.expect(b"END\r\n");
        server.output().contains("get during")
    });
    // Whoever is connected to another shard is heard, too, and a body is nobody's business.
    for _ in 0..4 {
        let mut other = server.connect();
        other.send(b"set other 0 0 6\r\nsecret\r\n");
        other.expect(b"STORED\r\n");
    }
    eventually("all are logged", NOTICE_TIMEOUT, || server.output().matches("set other 0 0 6").count() == 4);
    assert!(!server.output().contains("get before") && !server.output().contains("secret"), "{}", server.output());

    client.send(b"verbosity 0\r\n");
    client.expect(b"OK\r\n");
    eventually("commands are not logged any more", NOTICE_TIMEOUT, || {
        let before = server.output().len();
        client.send(b"get after\r\n");
        client.expect(b"END\r\n");
        server.output().len() == before
    });
}

#[test]
fn two_v_log_every_command() {
    let server = Server::start(&["-vv"]);
    let mut client = server.connect();
    client.send(b"get this\r\n");
    client.expect(b"END\r\n");
    eventually("it is logged", NOTICE_TIMEOUT, || server.output().contains("get this"));
    let server = Server::start(&["-v"]);
    let mut client = server.connect();
    client.send(b"get this\r\n");
    client.expect(b"END\r\n");
    assert!(!server.output().contains("get this"), "{}", server.output());
    assert!(server.output().contains("0 queues with 0 messages"), "{}", server.output());
}

// --- the end ---

#[test]
fn sigterm_sigint_and_sigquit_stop_cleanly() {
    let mut server = Server::start(&["-N"]);
    for (count, signal) in [Signal::TERM, Signal::INT, Signal::QUIT].into_iter().enumerate() {
        let mut client = server.connect();
        client.send(b"set q 0 0 1\r\nx\r\n");
        client.expect(b"STORED\r\n");
        server.signal(signal);
        assert_eq!(server.wait_for_end(STOP_TIMEOUT).code(), Some(0), "{signal:?}");
        // The client is told by the end of the stream.
        client.expect_closed();
        server.restart();
        assert_eq!(stat(&server, "curr_items"), count as u64 + 1, "after {signal:?}");
    }
}

#[test]
fn shutdown_stops_the_server_only_where_it_is_enabled() {
    let mut server = Server::start(&[]);
    let mut client = server.connect();
    client.send(b"shutdown\r\nversion\r\n");
    client.expect(b"ERROR\r\nVERSION ");
    server.restart_with(&["--enable-shutdown"]);
    let mut client = server.connect();
    client.send(b"set q 0 0 1\r\nx\r\nshutdown\r\n");
    client.expect(b"STORED\r\n");
    client.expect_closed();
    assert_eq!(server.wait_for_end(STOP_TIMEOUT).code(), Some(0));
    server.restart();
    assert_eq!(stat(&server, "curr_items"), 1);
}

#[test]
fn a_client_that_never_reads_does_not_keep_the_server_from_stopping() {
    let (mut server, _deaf) = server_with_a_deaf_client("1");
    let taken = stat(&server, "get_hits");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_end(STOP_TIMEOUT).code(), Some(0));
    assert!(
        server.output().contains("1 clients did not take their replies within 1s (--stop-timeout): they are cut off"),
        "{}",
        server.output()
    );
    server.restart();
    // What was not taken for it is still there. Shutting the connection may have made the kernel take a little more.
    let (puts, gets) = puts_and_gets(&server, "q").expect("the queue is there");
    assert!(puts == DEAF_MESSAGES && (taken..DEAF_MESSAGES).contains(&gets), "{puts}/{gets}, {taken} before the stop");
    assert_eq!(stat(&server, "curr_items"), puts - gets);
}

#[test]
fn a_second_signal_stops_at_once() {
    let (mut server, _deaf) = server_with_a_deaf_client("3600");
    server.signal(Signal::TERM);
    eventually("it is stopping", NOTICE_TIMEOUT, || server.output().contains("stopping: "));
    server.signal(Signal::INT);
    // An hour before the first signal alone would have ended it.
    let status = server.wait_for_end(NOTICE_TIMEOUT);
    assert_eq!(status.code(), Some(1));
    assert!(server.output().contains("stopping at once"), "{}", server.output());
    server.restart();
    assert!(stat(&server, "curr_items") < DEAF_MESSAGES);
}

const DEAF_MESSAGES: u64 = 400;

/// A server that has more replies for a client than the connection holds.
fn server_with_a_deaf_client(stop_timeout: &str) -> (Server, TcpStream) {
    const SIZE: usize = 64 << 10;
    let server = Server::start(&["-v", "--stop-timeout", stop_timeout]);
    let mut link = Link::connect(server.addr()).expect("connect");
    for _ in 0..DEAF_MESSAGES {
        link.send(&[format!("set q 0 0 {SIZE}\r\n").as_bytes(), &vec![b'x'; SIZE], b"\r\n"].concat()).expect("send");
        assert_eq!(link.line().expect("a reply"), b"STORED");
    }
    let mut deaf = TcpStream::connect(server.addr()).expect("connect");
    deaf.write_all("get q\r\n".repeat(DEAF_MESSAGES as usize).as_bytes()).expect("send");
    let mut last = (0, 0);
    let mut same = 0;
    eventually("the server can send no more", STOP_TIMEOUT, || {
        // The asking writes some bytes, too: far less than a message in all.
        let now = (stat(&server, "get_hits"), stat(&server, "bytes_written") / SIZE as u64);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 10
    });
    assert!(last.0 < DEAF_MESSAGES, "the connection held everything");
    (server, deaf)
}
