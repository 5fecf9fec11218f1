//! Which sockets a command line leads to, what accepted ones inherit, and who gets a path.

use super::*;
use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

fn config(args: &[&str]) -> Config {
    Config::parse(["ringq"].iter().chain(args).map(OsString::from)).expect("a good command line")
}

fn opened(args: &[&str]) -> Sockets {
    open(&config(args), Inherited::default()).expect("these can be listened on")
}

fn refusal(args: &[&str]) -> String {
    open(&config(args), Inherited::default()).expect_err("these cannot be listened on").to_string()
}

fn tcp_addresses(sockets: &Sockets) -> Vec<SocketAddr> {
    let tcp = |listener: &Listener| match listener.address {
        Address::Tcp(address) => address,
        Address::Unix(_) => panic!("only TCP was asked for"),
    };
    sockets.listeners.iter().map(tcp).collect()
}

/// Connects to a listener of TCP and returns what the server has of it.
fn accepted(sockets: &Sockets) -> (TcpStream, Socket) {
    let client = TcpStream::connect(tcp_addresses(sockets)[0]).expect("connect");
    let socket = rustix::net::accept(&sockets.listeners[0].socket).expect("accept");
    (client, Socket::from(socket))
}

#[test]
fn accepted_sockets_inherit_nodelay_and_keepalive() {
    for (seconds, every) in [(300, 75), (2, 1)] {
        let sockets = opened(&["-l", "127.0.0.1:0", "--keepalive", &seconds.to_string()]);
        let (_client, socket) = accepted(&sockets);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(seconds));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(every));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }
    let sockets = opened(&["-l", "127.0.0.1:0", "--keepalive", "0"]);
    let (_client, socket) = accepted(&sockets);
    assert!(socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());
}

#[test]
fn inherited_sockets_get_the_same_options() {
    let mut inherited = Inherited::default();
    inherited.add(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
    let sockets = open(&config(&["-l", "192.0.2.1", "-p", "1"]), inherited).unwrap();
    assert_eq!(sockets.listeners.len(), 1);
    let (_client, socket) = accepted(&sockets);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
}

#[test]
fn what_cannot_be_served_is_refused_by_what_it_is() {
    let mut inherited = Inherited::default();
    let (connected, _other) = UnixStream::pair().unwrap();
    assert!(inherited.add(connected.into()).unwrap_err().contains("Accept=no"));
    assert!(inherited.add(UnixDatagram::unbound().unwrap().into()).unwrap_err().contains("unix stream"));
    assert!(inherited.add(tempfile::tempfile().unwrap().into()).unwrap_err().contains("not a socket"));
    assert!(inherited.listeners.is_empty() && inherited.datagrams.is_empty());
    inherited.add(UdpSocket::bind("127.0.0.1:0").unwrap().into()).unwrap();
    assert_eq!(inherited.datagrams.len(), 1);
}

#[test]
fn an_address_that_is_asked_for_twice_is_listened_on_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for (places, count) in [
        (&["127.0.0.1", "127.0.0.1", "localhost"][..], None),
        (&["127.0.0.1", "0.0.0.0", "127.0.0.2"], Some(1)),
        (&["0.0.0.0", "::", "::1", "127.0.0.1"], Some(1)),
        (&["127.0.0.1", "127.0.0.2"], Some(2)),
    ] {
        let args: Vec<&str> = places.iter().flat_map(|place| ["-l", place]).chain(["-p", &free]).collect();
        let addresses = tcp_addresses(&opened(&args));
        let v4: Vec<_> = addresses.iter().filter(|address| address.is_ipv4()).collect();
        match count {
            // How many addresses localhost has is not for this test.
            None => assert_eq!(v4.len(), 1, "{places:?}: {addresses:?}"),
            Some(count) => assert_eq!(addresses.len(), count, "{places:?}: {addresses:?}"),
        }
    }
}

#[test]
fn with_port_0_each_address_has_a_port_of_its_own() {
    let addresses = tcp_addresses(&opened(&["-p", "0", "-l", "127.0.0.1", "-l", "127.0.0.2"]));
    assert_eq!(addresses.len(), 2);
    assert!(addresses.iter().all(|address| address.port() != 0) && addresses[0].port() != addresses[1].port());
}

#[test]
fn a_socket_has_exactly_the_mode_that_was_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    for mode in ["0700", "0777", "0660", "0", "070"] {
        let path = scratch.path().join(mode);
        let _sockets = opened(&["-s", path.to_str().unwrap(), "-a", mode]);
        let expected = u32::from_str_radix(mode, 8).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, expected, "-a {mode}");
    }
}

/// What the kernel does without our correction: the umask can only take from it.
#[test]
fn a_bound_file_never_has_a_wider_mode_than_its_socket() {
    let scratch = tempfile::tempdir().unwrap();
    for mode in [0o700, 0o600, 0o070, 0] {
        let path = scratch.path().join(mode.to_string());
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode)).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        let made = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(made & !mode, 0, "{made:o} of {mode:o}");
    }
}

#[test]
fn a_socket_file_goes_with_its_server_unless_it_is_another_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let args = ["-s", path.to_str().unwrap()];
    let first = opened(&args);
    let refused = refusal(&args);
    assert!(refused.contains("a server listens on it"), "{refused}");
    // The first stops accepting, as a server does that finishes what it has accepted.
    let Sockets { listeners, files, .. } = first;
    drop(listeners);
    let second = opened(&args);
    drop(files);
    UnixStream::connect(&path).expect("the second has the path");
    drop(second);
    assert!(!path.exists());
    // A file that others have removed, or replaced, is not looked for.
    let third = opened(&args);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"theirs").unwrap();
    drop(third);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
}

#[test]
fn whatever_is_no_dead_socket_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("file"), b"theirs").unwrap();
    fs::create_dir(at("directory")).unwrap();
    // A link to a dead socket is still a link.
    drop(UnixListener::bind(at("dead")).unwrap());
    std::os::unix::fs::symlink(at("dead"), at("link")).unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    let full = listening_without_room(&at("full"));
    for (name, reason) in [
        ("file", "there is a file"),
        ("directory", "there is a directory"),
        ("link", "there is a symbolic link"),
        ("datagram", "a socket of another type"),
        ("full", "a server listens on it"),
    ] {
        let inode = fs::symlink_metadata(at(name)).unwrap().ino();
        let error = refusal(&["-s", at(name).to_str().unwrap()]);
        assert!(error.contains(reason) && error.contains(at(name).to_str().unwrap()), "{name}: {error}");
        assert_eq!(fs::symlink_metadata(at(name)).unwrap().ino(), inode, "{name}");
    }
    drop(full);
    let _sockets = opened(&["-l", at("dead").to_str().unwrap()]);
    UnixStream::connect(at("dead")).expect("it was taken over");
}

/// A server that does not accept, and as many clients as may wait for it.
fn listening_without_room(path: &Path) -> Vec<OwnedFd> {
    let server = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(path).unwrap();
    server.bind(&address).unwrap();
    server.listen(0).unwrap();
    let mut held: Vec<OwnedFd> = vec![server.into()];
    loop {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        match client.connect(&address) {
            Ok(()) => held.push(client.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return held,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_path_that_cannot_be_is_refused_with_its_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().to_str().unwrap();
    let long = format!("{base}/{}", "x".repeat(107 - base.len()));
    assert_eq!(long.len(), 108);
    assert!(refusal(&["-s", &long]).contains("108 bytes"));
    let longest = &long[..107];
    drop(opened(&["-s", longest]));
    let missing = format!("{base}/missing/socket");
    assert!(refusal(&["-s", &missing]).contains(&format!("no directory {base}/missing")));
    fs::write(format!("{base}/file"), b"").unwrap();
    assert!(refusal(&["-s", &format!("{base}/file/socket")]).contains("Not a directory"));
}

#[test]
fn of_servers_that_start_at_once_on_a_dead_socket_one_gets_it() {
    let scratch = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = scratch.path().join(round.to_string());
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(4);
        // Without patience, so that the test is short.
        let results: Vec<_> = std::thread::scope(|scope| {
            let contend = || {
                start.wait();
                loop {
                    match unix::try_listen(&path, 0o700, 8) {
                        Ok(made) => return Some(made),
                        Err(unix::Problem::Passing(problem)) if problem.contains("lock") => std::thread::yield_now(),
                        Err(unix::Problem::Passing(_)) => return None,
                        Err(unix::Problem::Lasting(error)) => panic!("nothing else is wrong: {error}"),
                    }
                }
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(contend)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut winners: Vec<_> = results.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let (socket, file) = winners.pop().unwrap();
        let _client = UnixStream::connect(&path).expect("the winner's socket is the one that has the path");
        rustix::net::accept(socket.as_fd()).expect("and it is the winner that gets the client");
        drop(file);
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_can_be_given_to_the_user_that_the_server_becomes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let sockets = opened(&["-s", path.to_str().unwrap()]);
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // Root can give it to anybody, others only to themselves.
    let uid = if uid.is_root() { 65534 } else { uid.as_raw() };
    sockets.give_to(uid, gid.as_raw()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), uid);
}
