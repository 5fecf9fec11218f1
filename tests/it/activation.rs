//! Sockets that a service manager hands over: served in place of the server's own, or refused by name.

use crate::harness::{Client, Handed, Server, StartRefused, read_lossy};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

fn handed<const N: usize>(sockets: [OwnedFd; N], names: &'static str) -> Handed {
    Handed { sockets: sockets.into(), names, ..Handed::default() }
}

fn refused<const N: usize>(sockets: [OwnedFd; N], names: &'static str) -> StartRefused {
    let refused = Server::try_start_with(handed(sockets, names), &[]).err().expect("it cannot be served");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.output);
    refused
}

fn assert_serves(address: &str) {
    let mut client = Client::connect_to(address);
    client.send(b"set q 0 0 1\r\nx\r\nget q\r\n");
    client.expect(b"STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn tcp_and_unix_sockets_that_are_handed_over_are_served_in_place_of_others() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let unix = UnixListener::bind(&path).expect("bind");
    let names = [tcp.local_addr().expect("an address").to_string(), format!("unix:{}", path.display())];
    let args = ["-v", "-l", "127.0.0.2", "-p", "1", "-s", "/nonexistent/socket"];
    let mut server =
        Server::try_start_with(handed([tcp.into(), unix.into()], "tcp:unix"), &args).expect("both can be served");
    assert_eq!(server.ready_addresses(), names);
    names.iter().for_each(|address| assert_serves(address));
    assert!(server.output().contains("-s, -l, -p not used"), "{}", server.output());
    assert!(server.output().contains("serving 2 sockets of the service manager"), "{}", server.output());
    // Programs that the server may start do not get them.
    for number in [3, 4] {
        let info = read_lossy(format!("/proc/{}/fdinfo/{number}", server.pid()));
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        let flags = i32::from_str_radix(flags, 8).expect("an octal number");
        assert!(flags & libc::O_CLOEXEC != 0, "{info}");
    }
    assert!(server.stop().success());
    assert!(path.exists(), "the file is the service manager's");
}

#[test]
fn who_connects_between_two_servers_is_served_by_the_second() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = tcp.local_addr().expect("an address");
    let mut server = Server::try_start_with(handed([tcp.into()], "tcp"), &[]).expect("it can be served");
    assert_serves(&address.to_string());
    assert!(server.stop().success());
    let mut early = Client::connect(address);
    early.send(b"version\r\n");
    server.restart();
    assert!(early.read_reply_line().starts_with(b"VERSION "));
}

#[test]
fn what_cannot_be_served_is_refused_by_number_and_name() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let connected = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
    let datagram = UnixDatagram::bind(scratch.path().join("datagram")).expect("bind");
    let file: OwnedFd = std::fs::File::create(scratch.path().join("file")).expect("create").into();
    for (socket, reason) in [(connected.into(), "Accept=no"), (datagram.into(), "unix stream"), (file, "not a socket")]
    {
        // A good one beside it does not help.
        let refused = refused([listener.try_clone().expect("another handle").into(), socket], "good:bad");
        for part in ["descriptor 4 (bad)", reason] {
            assert!(refused.output.contains(part), "no {part} in {}", refused.output);
        }
    }
}

#[test]
fn a_udp_socket_that_is_handed_over_is_served_whatever_u_says() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = udp.local_addr().expect("an address");
    let server = Server::try_start_with(handed([tcp.into(), udp.into()], "tcp:udp"), &[]).expect("both can be served");
    assert!(server.ready_addresses().contains(&format!("udp:{address}")), "{}", server.output());
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("set the timeout");
    client.send_to(b"\0\x07\0\0\0\x01\0\0set q 0 0 1\r\nx\r\nget q\r\n", address).expect("send");
    let mut answer = [0; 1500];
    let size = client.recv(&mut answer).expect("an answer");
    assert_eq!(&answer[..size], b"\0\x07\0\0\0\x01\0\0STORED\r\nVALUE q 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    // A shell that stays the parent: LISTEN_PID is not the server's.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x \"$@\" 3</dev/null; exit $?";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_ringq"), "-s"]).arg(Path::new("/nonexistent/socket"));
    let output = command.arg("-H").arg(scratch.path().join("data")).output().expect("run sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no directory /nonexistent"), "{said}");
}
