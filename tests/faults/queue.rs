//! One queue of numbered messages, put and taken one by one until something comes in between.
//!
//! Invariant: what is counted as put was acknowledged, and what is taken is compared byte for byte.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

/// Bytes of a body.
pub const SIZE: usize = 4000;

/// Why no more was put.
#[derive(PartialEq, Eq, Debug)]
pub enum End {
    /// That was all.
    Done,
    /// The server said something else than `STORED`.
    Refused(String),
    /// The connection ended, or there was none.
    Gone,
}

/// Puts messages of these numbers; the number of the first that was not acknowledged, and why.
pub fn put(address: SocketAddr, from: usize, to: usize) -> (usize, End) {
    let Ok(stream) = TcpStream::connect(address) else { return (from, End::Gone) };
    let mut stream = BufReader::new(stream);
    for number in from..to {
        let sent = stream.get_mut().write_all(format!("set q 0 0 {SIZE}\r\n{number:0SIZE$}\r\n").as_bytes());
        let mut line = String::new();
        match sent.and_then(|()| stream.read_line(&mut line)) {
            Ok(size) if size > 0 && line == "STORED\r\n" => {}
            Ok(size) if size > 0 => return (number, End::Refused(line.trim_end().to_owned())),
            _ => return (number, End::Gone),
        }
    }
    (to, End::Done)
}

/// Takes messages, which have to be of these numbers, until there are none or the connection ends; the number of the first that did
/// not come.
pub fn take(address: SocketAddr, from: usize, to: usize) -> usize {
    let mut stream = BufReader::new(TcpStream::connect(address).expect("a connection"));
    for number in from..to {
        stream.get_mut().write_all(b"get q\r\n").expect("sent");
        let mut lines = [String::new(), String::new(), String::new()];
        match stream.read_line(&mut lines[0]) {
            Ok(size) if size > 0 && lines[0] != "END\r\n" => {}
            _ => return number,
        }
        stream.read_line(&mut lines[1]).expect("a body");
        stream.read_line(&mut lines[2]).expect("an end");
        assert_eq!(lines[1].trim_end(), format!("{number:0SIZE$}"), "message {number}");
    }
    to
}
