//! Ceiling: a server without queues, journal and store, on the ring that RingQ serves its clients with.
//!
//! It finds the end of each request and answers `STORED` to a put, a version to anything else. What RingQ with `-N` needs
//! beyond that is what queueing costs; what this needs is the kernel's and the ring's. It keeps nothing and
//! checks nothing: it is a yardstick, not an example.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use clap::Parser;
use ringq::ids::ConnId;
use ringq::ring::{Config, Event, Ring};

/// Serves until it is killed.
#[derive(Debug, Parser)]
#[command(name = "ringq-bench ceiling", version)]
pub struct Options {
    /// TCP port on the loopback; 0 lets the system choose.
    #[arg(short, long)]
    pub port: u16,
}

/// What is known of one connection.
#[derive(Default)]
struct Peer {
    conn: Option<ConnId>,
    /// The front of a request whose line is not whole.
    line: Vec<u8>,
    /// Bytes of a body still to come.
    body_left: usize,
    replies: Vec<u8>,
    spare: Vec<u8>,
    is_sending: bool,
    /// It is in the list of those with something to send.
    is_listed: bool,
}

/// Serves on the port and never returns but with an error.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).context("cannot listen")?;
    println!("ready on {}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut ring = Ring::new(&Config::default())?;
    ring.listen(OwnedFd::from(listener))?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut listed: Vec<usize> = Vec::new();
    loop {
        ring.turn(true)?;
        let mut accepted = Vec::new();
        let mut ended = Vec::new();
        while let Some(event) = ring.next_event() {
            let conn = match event {
                Event::Accepted { socket, .. } => {
                    accepted.push(socket);
                    continue;
                }
                Event::Received { conn, bytes } => {
                    peers[conn.index as usize].serve(bytes);
                    conn
                }
                Event::Sent { conn, mut buffer, .. } => {
                    let peer = &mut peers[conn.index as usize];
                    buffer.clear();
                    peer.spare = buffer;
                    peer.is_sending = false;
                    conn
                }
                Event::Ended { conn, .. } => {
                    ended.push(conn);
                    continue;
                }
                _ => continue,
            };
            let peer = &mut peers[conn.index as usize];
            if !peer.is_sending && !peer.replies.is_empty() && !peer.is_listed {
                peer.is_listed = true;
                listed.push(conn.index as usize);
            }
        }
        for socket in accepted {
            let Ok(conn) = ring.adopt(socket) else { continue };
            if peers.len() <= conn.index as usize {
                peers.resize_with(conn.index as usize + 1, Peer::default);
            }
            peers[conn.index as usize] = Peer { conn: Some(conn), ..Peer::default() };
        }
        for place in listed.drain(..) {
            let peer = &mut peers[place];
            peer.is_listed = false;
            if let Some(conn) = peer.conn {
                peer.is_sending = true;
                ring.send(conn, std::mem::replace(&mut peer.replies, std::mem::take(&mut peer.spare)));
            }
        }
        for conn in ended {
            peers[conn.index as usize].conn = None;
            ring.close(conn);
        }
    }
}

impl Peer {
    fn serve(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let body = self.body_left.min(bytes.len());
            self.body_left -= body;
            bytes = &bytes[body..];
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                return self.line.extend_from_slice(bytes);
            };
            let (line, rest) = bytes.split_at(end + 1);
            if self.line.is_empty() {
                self.answer(line);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.answer(&whole);
            }
            bytes = rest;
        }
    }

    fn answer(&mut self, line: &[u8]) {
        if !line.starts_with(b"set ") {
            return self.replies.extend_from_slice(b"VERSION 1.0.0\r\n");
        }
        let digits = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let size = digits.iter().fold(0, |size, digit| 10 * size + usize::from(digit.wrapping_sub(b'0')));
        self.body_left = size + 2;
        self.replies.extend_from_slice(b"STORED\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_answered_however_it_is_cut() {
        let wire = b"set q 0 0 3\r\nabc\r\nversion\r\nset q 0 0 13\r\nset q 0 0 1\r\n\r\nversion\r\n";
        for cut in 1..wire.len() {
            let mut peer = Peer::default();
            wire.chunks(cut).for_each(|piece| peer.serve(piece));
            assert_eq!(peer.replies, b"STORED\r\nVERSION 1.0.0\r\nSTORED\r\nVERSION 1.0.0\r\n", "pieces of {cut}");
        }
    }
}
