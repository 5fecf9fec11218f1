//! Where the real server listens, whom its sockets let in, and what becomes of clients when files or the backlog run out.

use crate::clients::skip;
use crate::facts::threads;
use crate::harness::{Client, Handed, Server, StartRefused, eventually, read_lossy};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const NOTICE_TIMEOUT: Duration = Duration::from_secs(20);

/// A place for a unix socket.
fn scratch() -> (TempDir, PathBuf, String) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("socket");
    let text = path.to_str().expect("a readable path").to_owned();
    (scratch, path, text)
}

fn refused(args: &[&str]) -> StartRefused {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    Server::try_start_in(&scratch.path().join("data"), args).err().unwrap_or_else(|| panic!("{args:?} was not refused"))
}

/// Waits until the server has named so many addresses.
fn addresses(server: &Server, count: usize) -> Vec<String> {
    eventually("every address is named", NOTICE_TIMEOUT, || server.ready_addresses().len() >= count);
    server.ready_addresses()
}

fn assert_serves(client: &mut Client) {
    client.send(b"set q 0 0 1\r\nx\r\nget q\r\n");
    client.expect(b"STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\n");
}

/// A value of `stats` or `stats settings`, asked for on this connection.
fn value(client: &mut Client, request: &str, name: &str) -> String {
    let reply = client.command(format!("{request}\r\n").as_bytes(), b"END\r\n");
    let reply = String::from_utf8(reply).expect("stats are text");
    let value = reply.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {reply}")).to_owned()
}

fn is_ipv6_here(test: &str) -> bool {
    let is_here = TcpListener::bind("[::1]:0").is_ok();
    if !is_here {
        skip(test, "there is no IPv6 here");
    }
    is_here
}

// --- several addresses ---

#[test]
fn addresses_of_every_kind_are_served_together() {
    if !is_ipv6_here("addresses_of_every_kind_are_served_together") {
        return;
    }
    let (_scratch, path, text) = scratch();
    let unix = format!("unix:{text}");
    let places = ["-l", "127.0.0.1", "-l", "::1", "-l", "[::1]:0", "-l", "127.0.0.1", "-l", &text, "-l", &unix];
    let server = Server::start(&places);
    let named = addresses(&server, 3);
    assert_eq!(named.len(), 3, "what is asked for twice is served once: {named:?}");
    assert!(named[0].starts_with("127.0.0.1:") && named[1].starts_with("[::1]:"), "{named:?}");
    assert_eq!(named[2], unix);
    named.iter().for_each(|address| assert_serves(&mut Client::connect_to(address)));
    assert!(path.exists());
}

#[test]
fn a_port_after_an_address_is_its_own_and_others_have_that_of_p() {
    let free = || TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
    let (one, other) = (free().to_string(), free().to_string());
    let server = Server::start(&["-p", &one, "-l", "127.0.0.1", "-l", &format!("127.0.0.1:{other}")]);
    assert_eq!(addresses(&server, 2), [format!("127.0.0.1:{one}"), format!("127.0.0.1:{other}")]);
    let mut client = server.connect();
    assert_eq!(value(&mut client, "stats settings", "tcpport"), one);
    let inter = value(&mut client, "stats settings", "inter");
    assert_eq!(inter, format!("127.0.0.1:{one},127.0.0.1:{other}"));
}

#[test]
fn a_host_name_is_all_its_addresses() {
    let server = Server::start(&["-l", "localhost"]);
    for address in server.ready_addresses() {
        let address: SocketAddr = address.parse().expect("an address");
        assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
        assert_serves(&mut Client::connect(address));
    }
}

#[test]
fn the_wildcard_of_ipv6_is_all_addresses() {
    if !is_ipv6_here("the_wildcard_of_ipv6_is_all_addresses") {
        return;
    }
    let server = Server::start(&["-l", "::"]);
    for host in ["127.0.0.1", "::1"] {
        assert_serves(&mut Client::connect(SocketAddr::new(host.parse().expect("an address"), server.port())));
    }
}

#[test]
fn places_that_are_none_are_refused_before_anything_is_touched() {
    for (place, named) in
        [("", "--listen"), (":80", "host"), ("h:99999", "99999"), ("1:2:3", "IPv6"), ("unix:", "path")]
    {
        let refused = refused(&["-l", place]);
        assert_eq!(refused.status.code(), Some(2), "{place}: {}", refused.output);
        assert!(refused.output.contains("--listen") && refused.output.contains(named), "{place}: {}", refused.output);
    }
    let refused = refused(&["-s", ""]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.output);
    assert!(refused.output.contains("--socket"), "{}", refused.output);
}

// --- unix sockets ---

#[test]
fn with_s_there_is_a_unix_socket_and_nothing_else() {
    let (_scratch, path, text) = scratch();
    let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
    let args = ["-s", &text, "-a", "0640", "-p", &port.to_string(), "-l", "127.0.0.1", "--idle-timeout", "7"];
    let mut server = Server::start(&args);
    assert_eq!(server.ready_addresses(), [format!("unix:{text}")]);
    assert!(server.output().contains("-l, -p not used: -s "), "{}", server.output());
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens there");
    let kind = fs::metadata(&path).expect("there is a file");
    assert!(kind.file_type().is_socket());
    assert_eq!(kind.permissions().mode() & 0o7777, 0o640);
    let mut client = Client::connect_unix(&path);
    assert_serves(&mut client);
    for (name, expected) in [
        ("tcpport", "0"),
        ("inter", "NULL"),
        ("domain_socket", &*text),
        ("umask", "640"),
        ("tcp_backlog", "4096"),
        ("idle_timeout", "7"),
        ("tcp_keepalive", "300"),
    ] {
        assert_eq!(value(&mut client, "stats settings", name), expected, "{name}");
    }
    assert!(server.stop().success());
    assert!(!path.exists(), "it goes with the server");
}

#[test]
fn a_socket_that_a_killed_server_left_is_taken_over() {
    let (_scratch, path, text) = scratch();
    let mut server = Server::start(&["-s", &text]);
    server.kill9();
    assert!(path.exists());
    server.restart();
    assert_serves(&mut Client::connect_unix(&path));
    assert!(server.stop().success());
    assert!(!path.exists());
}

#[test]
fn a_path_where_a_server_listens_is_refused_and_left_to_it() {
    let (_scratch, path, text) = scratch();
    let server = Server::start(&["-s", &text]);
    let refused = refused(&["-s", &text]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
    for part in [&*text, "a server listens on it", "-s"] {
        assert!(refused.output.contains(part), "no {part} in {}", refused.output);
    }
    assert_eq!(server.ready_addresses(), [format!("unix:{text}")]);
    assert_serves(&mut Client::connect_unix(&path));
}

#[test]
fn a_path_that_cannot_be_used_is_refused_and_left_alone() {
    let (scratch, path, text) = scratch();
    fs::write(&path, b"theirs").expect("write");
    let missing = scratch.path().join("missing/socket").to_str().expect("a readable path").to_owned();
    let long = scratch.path().join("x".repeat(108)).to_str().expect("a readable path").to_owned();
    for (path, reason) in [(&text, "there is a file"), (&missing, "no directory"), (&long, "at most 107")] {
        for option in ["-s", "-l"] {
            let refused = refused(&[option, path]);
            assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
            assert!(refused.output.contains(&**path) && refused.output.contains(reason), "{}", refused.output);
        }
    }
    assert_eq!(fs::read(&path).expect("it is there"), b"theirs");
}

#[test]
fn a_start_that_fails_takes_its_socket_with_it() {
    let (scratch, path, text) = scratch();
    let refused = refused(&["-l", &text, "-l", "192.0.2.1"]);
    assert!(refused.output.contains("192.0.2.1") && refused.output.contains("no interface"), "{}", refused.output);
    assert!(!path.exists());
    // Later, too, when everything is bound.
    let store = scratch.path().join("data/store");
    fs::create_dir_all(&store).expect("make a directory");
    fs::write(store.join("data.mdb"), [b'x'; 100_000]).expect("write");
    let refused = Server::try_start_in(&scratch.path().join("data"), &["-s", &text]).err();
    assert!(refused.expect("that is no database").output.contains("data.mdb"));
    assert!(!path.exists());
}

#[test]
fn a_path_that_another_server_took_meanwhile_is_left_to_it() {
    let (_scratch, path, text) = scratch();
    let mut server = Server::start(&["-s", &text]);
    fs::remove_file(&path).expect("somebody removes it");
    let _theirs = UnixListener::bind(&path).expect("and another program listens there");
    assert!(server.stop().success());
    assert!(path.exists());
}

#[test]
fn the_limit_of_connections_holds_for_unix_sockets_too() {
    let (_scratch, path, text) = scratch();
    let server = Server::start(&["-l", "127.0.0.1", "-l", &text, "-c", "4", "-t", "2"]);
    let mut open: Vec<Client> = (0..2).flat_map(|_| [server.connect(), Client::connect_unix(&path)]).collect();
    open.iter_mut().for_each(assert_serves);
    for _ in 0..3 {
        for mut refused in [server.connect(), Client::connect_unix(&path)] {
            assert_eq!(refused.read_to_end(), b"SERVER_ERROR too many open connections\r\n");
        }
    }
    assert_eq!(value(&mut open[0], "stats", "rejected_connections"), "6");
    open.truncate(2);
    eventually("there is room again", NOTICE_TIMEOUT, || value(&mut open[0], "stats", "curr_connections") == "2");
    let mut next = [Client::connect_unix(&path), server.connect()];
    next.iter_mut().for_each(assert_serves);
    open.iter_mut().for_each(assert_serves);
}

// --- TCP ---

#[test]
fn accepted_connections_are_asked_whether_they_are_there() {
    for (args, timer) in [(&["--keepalive", "100"][..], "02"), (&["--keepalive", "0"], "00")] {
        let server = Server::start(args);
        let client = TcpStream::connect(server.addr()).expect("connect");
        let (ours, theirs) = (client.local_addr().expect("an address").port(), server.port());
        // In the kernel's table a connection's running timer is 02 when it is the one of keepalive.
        eventually("the connection has its timer", NOTICE_TIMEOUT, || {
            let table = read_lossy("/proc/net/tcp");
            let ends = format!("0100007F:{theirs:04X} 0100007F:{ours:04X} 01 ");
            let line = table.lines().find_map(|line| line.split_once(&ends));
            line.is_some_and(|(_, rest)| rest.split(' ').nth(1).is_some_and(|column| column.starts_with(timer)))
        });
    }
}

// --- shortage ---

/// The soft limit of open files for [`server_short_of_files`].
const FILES_MAX: u64 = 120;

/// A server with so many listeners that files run out well before the 30 connections that it has room for by its own account, and
/// `waiting` clients more than it can accept. The first client is served already.
///
/// Lowering the limit of a server that runs would not do: the kernel notes it when an accept is begun, and that goes on for good.
fn server_short_of_files(waiting: usize) -> (Server, Client, Vec<Client>) {
    let hosts: Vec<String> = (1..=80).map(|n| format!("127.0.0.{n}")).collect();
    let listeners = hosts.iter().flat_map(|host| ["-l", host]);
    let args: Vec<&str> = ["-v", "-t", "2", "-c", "30"].into_iter().chain(listeners).collect();
    let handed = Handed { files_max: Some(FILES_MAX), ..Handed::default() };
    let server = Server::try_start_with(handed, &args).expect("the limit is high enough by its own account");
    let mut known = server.connect();
    assert_serves(&mut known);
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list the files").count();
    let room = FILES_MAX as usize - open;
    assert!(room < 25, "the limit of connections would be met first: {room}");
    let clients: Vec<Client> = (0..room + waiting).map(|_| server.connect()).collect();
    eventually("accepting is paused", NOTICE_TIMEOUT, || value(&mut known, "stats", "accepting_conns") == "0");
    (server, known, clients)
}

fn pauses_logged(server: &Server) -> usize {
    server.output().matches("accepting is paused").count()
}

#[test]
fn without_files_accepting_is_paused_and_goes_on_as_connections_close() {
    let (server, mut known, clients) = server_short_of_files(40);
    assert_serves(&mut known);
    // Each that goes lets one of those in that wait.
    for mut client in clients {
        client.send(b"version\r\n");
        assert!(client.read_reply_line().starts_with(b"VERSION "));
        assert_serves(&mut known);
    }
    eventually("accepting goes on", NOTICE_TIMEOUT, || value(&mut known, "stats", "accepting_conns") == "1");
    assert_serves(&mut server.connect());
    assert_eq!(pauses_logged(&server), 1, "{}", server.output());
    assert!(
        server.output().contains("Too many open files") && server.output().contains("ulimit"),
        "{}",
        server.output()
    );
    let pauses: u64 = value(&mut known, "stats", "listen_disabled_num").parse().expect("a number");
    assert!((1..=45).contains(&pauses), "{pauses}");
}

#[test]
fn without_files_accepting_goes_on_by_itself_even_if_no_connection_closes() {
    let (server, mut known, mut clients) = server_short_of_files(4);
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a process id")).expect("not 0");
    let limit = Rlimit { current: Some(2 * FILES_MAX), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("raise the limit");
    for client in &mut clients {
        // The server is busy all the time.
        assert_serves(&mut known);
        client.send(b"version\r\n");
        assert!(client.read_reply_line().starts_with(b"VERSION "));
    }
    eventually("it says so", NOTICE_TIMEOUT, || value(&mut known, "stats", "accepting_conns") == "1");
    assert_eq!(pauses_logged(&server), 1, "{}", server.output());
    assert_eq!(value(&mut known, "stats", "listen_disabled_num"), "1");
}

#[test]
fn clients_that_find_the_backlog_full_are_served_in_the_end() {
    let (_scratch, path, text) = scratch();
    let server = Server::start(&["-l", "127.0.0.1", "-l", &text, "--backlog", "2"]);
    let address = server.addr();
    server.signal(Signal::STOP);
    // The signal is on its way when it is sent: until it has reached every thread, connections are accepted.
    eventually("all its threads have stopped", Duration::from_secs(10), || is_stopped(server.pid()));
    let mut waiting = fill_unix_backlog(&path);
    // A connection request that finds no room is dropped, and sent again by the client's kernel after a second.
    let mut tcp = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        tcp.push(client);
    }
    assert!(tcp.len() < 8 && waiting.len() < 8, "the backlog is as small as was asked for");
    let late: Vec<_> = (0..4)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || match n % 2 {
                0 => Client::connect(address),
                _ => Client::connect_unix(&path),
            })
        })
        .collect();
    server.signal(Signal::CONT);
    for thread in late {
        assert_serves(&mut thread.join().expect("it is connected"));
    }
    drop(tcp);
    waiting.clear();
    assert_serves(&mut server.connect());
    assert_serves(&mut Client::connect_unix(&path));
}

/// Whether no thread of a process runs.
fn is_stopped(pid: u32) -> bool {
    threads(pid).into_iter().all(|thread| {
        let stat = read_lossy(thread.join("stat"));
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Connects until there is no room.
fn fill_unix_backlog(path: &Path) -> Vec<Socket> {
    let mut waiting = Vec::new();
    loop {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
        match client.connect(&SockAddr::unix(path).expect("a short path")) {
            Ok(()) => waiting.push(client),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return waiting,
            Err(error) => panic!("{error}"),
        }
    }
}
