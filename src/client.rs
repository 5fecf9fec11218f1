//! A small blocking client of the memcache text protocol: one connection, one request at a time, or several puts or gets of a queue
//! sent together. `ringqctl` speaks with it.
//!
//! Invariant: after an error the connection is not used again, since what is still to come on it cannot be told from the next
//! reply; except after [`Error::Refused`] and [`Error::Bodiless`], of which all has come. A name that would end the request line early
//! is never sent.
//!
//! It does not retry (a repeated put would be two messages) and knows no defaults: its caller chooses server and timeout.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::limits::BODY_SIZE_MAX;

/// The longest reply line that is believed, bytes: far above any that RingQ sends, so that a peer that is no queue server
/// cannot fill memory.
const REPLY_LINE_LEN_MAX: usize = 64 << 10;

/// What is asked of the system in one read.
const READ_SIZE: usize = 64 << 10;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `HOST:PORT`, the host being a name, an IPv4 address, or an IPv6 address in brackets.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: needs a path".into()) } else { Ok(Address::Unix(path.into())) };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Address::Tcp(text.into())),
            _ => Err("allowed are HOST:PORT and unix:PATH".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// To whom.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed, or nothing came within the timeout. Whether the request was served is not known.
    #[error("the connection failed: {0}")]
    Lost(#[source] io::Error),
    /// What came is no reply to the request: the peer speaks something else.
    #[error("not a reply of a queue server: {0}")]
    Garbled(String),
    /// The server's error line, or `NOT_STORED` or `NOT_FOUND`.
    #[error("{0}")]
    Refused(String),
    /// A message of length -2, which MemcacheQ makes of such a put: there is no body, and the message is gone.
    #[error("a message of length -2, which has no body")]
    Bodiless,
    /// No request can hold this queue name.
    #[error("a queue name cannot be empty or contain spaces or control characters: {0}")]
    BadName(String),
    /// No request can hold this word as a setting.
    #[error("a setting is KEY=VALUE without spaces or control characters, not {0}")]
    BadSetting(String),
}

/// A message that was taken from a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// As they were put.
    pub flags: u32,
    /// As it was put.
    pub body: Vec<u8>,
}

/// One line of `stats`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Its name; in a list of queues any bytes that a queue's name may have.
    pub name: Vec<u8>,
    /// What stands after the name.
    pub value: String,
}

/// What a queue has seen since it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueCounts {
    /// Its name.
    pub name: Vec<u8>,
    /// Messages put.
    pub puts: u64,
    /// Messages taken.
    pub gets: u64,
}

/// What the client needs of a socket, whichever kind it is.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection to a server.
pub struct Client {
    stream: Box<dyn Stream>,
    /// Received; what stands before `consumed` has been used.
    received: Vec<u8>,
    consumed: usize,
}

impl Client {
    /// Connects. `timeout` bounds the connecting to each of the host's addresses, and later every single wait for the server.
    ///
    /// # Errors
    /// [`Error::Connect`], about the last address tried.
    pub fn connect(address: &Address, timeout: Duration) -> Result<Client, Error> {
        let connected = match address {
            Address::Tcp(name) => connect_tcp(name, timeout),
            Address::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Client::over(stream))
            }),
        };
        connected.map_err(|source| Error::Connect { address: address.clone(), source })
    }

    fn over(stream: impl Stream + 'static) -> Client {
        Client { stream: Box::new(stream), received: Vec::new(), consumed: 0 }
    }

    /// Puts a message at the tail of a queue.
    ///
    /// # Errors
    /// [`Error::Refused`] when it was not stored; after [`Error::Lost`] it may or may not have been.
    pub fn put(&mut self, queue: &[u8], flags: u32, body: &[u8]) -> Result<(), Error> {
        self.send_puts([(queue, flags, body)])?;
        self.put_reply()
    }

    /// Sends puts of queue, flags and body, one behind the other: each is answered, in this order, and the caller calls
    /// [`Client::put_reply`] as many times. So many that their replies do not fill the sockets' buffers.
    ///
    /// # Errors
    /// As for every request.
    pub fn send_puts<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a [u8], u32, &'a [u8])>,
    ) -> Result<(), Error> {
        let mut requests = Vec::new();
        for (queue, flags, body) in messages {
            check_name(queue)?;
            let line = format!(" {flags} 0 {}\r\n", body.len());
            for piece in [b"set ", queue, line.as_bytes(), body, b"\r\n"] {
                requests.extend_from_slice(piece);
            }
        }
        self.send(&[&requests])
    }

    /// The answer to one put.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub fn put_reply(&mut self) -> Result<(), Error> {
        self.expect(b"STORED")
    }

    /// Takes the message at the head of a queue; `None` when there is none.
    ///
    /// # Errors
    /// After [`Error::Lost`] a message may have been taken.
    pub fn get(&mut self, queue: &[u8]) -> Result<Option<Message>, Error> {
        self.get_with(queue, "")
    }

    /// Sends so many gets of a queue, one behind the other: each is answered by messages and an end, which the caller reads with
    /// [`Client::next_message`]. So few that their lines do not fill the sockets' buffers.
    ///
    /// # Errors
    /// As for every request.
    pub fn send_gets(&mut self, queue: &[u8], count: usize) -> Result<(), Error> {
        check_name(queue)?;
        self.send(&[&[b"get ", queue, b"\r\n"].concat().repeat(count)])
    }

    /// The next message of the answer to a get, whose end may still be on its way; `None` at its end.
    ///
    /// # Errors
    /// After [`Error::Lost`] a message may have been taken. [`Error::Refused`] is also the end of the answer, [`Error::Bodiless`] is not.
    pub fn next_message(&mut self) -> Result<Option<Message>, Error> {
        let line = self.read_line()?;
        if line == b"END" {
            return Ok(None);
        }
        let Some((flags, size)) = value_line(&line) else {
            return Err(if is_bodiless(&line) { Error::Bodiless } else { unexpected(&line) });
        };
        let body = self.read_body(size)?;
        Ok(Some(Message { flags, body }))
    }

    /// The message at the head of a queue, which stays there; `None` when there is none.
    ///
    /// # Errors
    /// As for every request.
    pub fn peek(&mut self, queue: &[u8]) -> Result<Option<Message>, Error> {
        self.get_with(queue, "/peek")
    }

    /// Takes the message at the head of a queue, or waits so many milliseconds for one. That must be less than the client's timeout.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub fn get_or_wait(&mut self, queue: &[u8], wait_ms: u64) -> Result<Option<Message>, Error> {
        self.get_with(queue, &format!("/t={wait_ms}"))
    }

    fn get_with(&mut self, queue: &[u8], option: &str) -> Result<Option<Message>, Error> {
        check_name(queue)?;
        self.send(&[b"get ", queue, option.as_bytes(), b"\r\n"])?;
        let message = self.next_message()?;
        if message.is_some() {
            self.expect(b"END")?;
        }
        Ok(message)
    }

    /// Drops all messages of a queue, which stays.
    ///
    /// # Errors
    /// As for every request.
    pub fn flush(&mut self, queue: &[u8]) -> Result<(), Error> {
        check_name(queue)?;
        self.send(&[b"flush ", queue, b"\r\n"])?;
        self.expect(b"END")
    }

    /// Drops a queue with its messages. `false`: there is none of that name.
    ///
    /// # Errors
    /// As for every request.
    pub fn delete(&mut self, queue: &[u8]) -> Result<bool, Error> {
        check_name(queue)?;
        self.send(&[b"delete ", queue, b"\r\n"])?;
        match &*self.read_line()? {
            b"DELETED" => Ok(true),
            b"NOT_FOUND" => Ok(false),
            line => Err(unexpected(line)),
        }
    }

    /// The server's version, such as `1.0.0`.
    ///
    /// # Errors
    /// As for every request.
    pub fn version(&mut self) -> Result<String, Error> {
        self.send(&[b"version\r\n"])?;
        let line = self.read_line()?;
        match line.strip_prefix(b"VERSION ") {
            Some(version) => Ok(String::from_utf8_lossy(version).into_owned()),
            None => Err(unexpected(&line)),
        }
    }

    /// The server's counters, in its order.
    ///
    /// # Errors
    /// As for every request.
    pub fn stats(&mut self) -> Result<Vec<Stat>, Error> {
        self.stat_lines(b"stats\r\n")
    }

    /// What `stats` says with this word behind it, in the server's order.
    ///
    /// # Errors
    /// As for every request.
    pub fn stats_of(&mut self, what: &str) -> Result<Vec<Stat>, Error> {
        self.stat_lines(format!("stats {what}\r\n").as_bytes())
    }

    /// `stats reset`, or `stats latency reset`.
    ///
    /// # Errors
    /// As for every request.
    pub fn reset(&mut self, what: &str) -> Result<(), Error> {
        self.send(&[b"stats ", what.as_bytes(), b"\r\n"])?;
        self.expect(b"RESET")
    }

    /// What the server says of each of these queues, asked for together; nothing of one that does not exist. So few that the answers fit the
    /// sockets' buffers.
    ///
    /// # Errors
    /// As for every request.
    pub fn queue_details<'a>(&mut self, queues: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<Stat>>, Error> {
        let mut requests = Vec::new();
        let mut count = 0;
        for queue in queues {
            check_name(queue)?;
            requests.extend_from_slice(&[b"stats queue ", queue, b"\r\n"].concat());
            count += 1;
        }
        self.send(&[&requests])?;
        (0..count).map(|_| self.read_stats()).collect()
    }

    /// All queues, in no particular order.
    ///
    /// # Errors
    /// As for every request.
    pub fn queues(&mut self) -> Result<Vec<QueueCounts>, Error> {
        self.queue_stats()?.into_iter().map(queue_counts).collect()
    }

    /// The same as its lines, for servers whose counts RingQ would not write.
    ///
    /// # Errors
    /// As for every request.
    pub fn queue_stats(&mut self) -> Result<Vec<Stat>, Error> {
        self.stat_lines(b"stats queue\r\n")
    }

    /// What a queue of this name does, whether it is there or not.
    ///
    /// # Errors
    /// As for every request.
    pub fn queue_settings(&mut self, queue: &[u8]) -> Result<Vec<Stat>, Error> {
        check_name(queue)?;
        self.stat_lines(&[b"config ", queue, b"\r\n"].concat())
    }

    /// Changes what a queue of this name does: words `key=value`, at least one.
    ///
    /// # Errors
    /// As for every request; when one word is refused, none has an effect.
    pub fn configure<'a>(&mut self, queue: &[u8], words: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Error> {
        check_name(queue)?;
        let mut request = [b"config ", queue].concat();
        for word in words {
            let is_bad = !word.contains(&b'=') || word.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
            if is_bad {
                return Err(Error::BadSetting(format!("\"{}\"", word.escape_ascii())));
            }
            request.push(b' ');
            request.extend_from_slice(word);
        }
        request.extend_from_slice(b"\r\n");
        self.send(&[&request])?;
        self.expect(b"OK")
    }

    /// Returns when everything that was accepted before is in the store.
    ///
    /// # Errors
    /// As for every request.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        self.send(&[b"db_checkpoint\r\n"])?;
        self.expect(b"OK")
    }

    fn stat_lines(&mut self, request: &[u8]) -> Result<Vec<Stat>, Error> {
        self.send(&[request])?;
        self.read_stats()
    }

    fn read_stats(&mut self) -> Result<Vec<Stat>, Error> {
        let mut stats = Vec::new();
        loop {
            let line = self.read_line()?;
            if line == b"END" {
                return Ok(stats);
            }
            stats.push(stat(&line).ok_or_else(|| unexpected(&line))?);
        }
    }

    // --- bytes ---

    /// A server that refuses a connection says why and closes, whatever the client is sending meanwhile: then its words explain
    /// more than the failed write does.
    fn send(&mut self, pieces: &[&[u8]]) -> Result<(), Error> {
        let sent = self.stream.write_all(&pieces.concat()).and_then(|()| self.stream.flush());
        let Err(error) = sent else {
            return Ok(());
        };
        match self.read_line() {
            Ok(line) if refusal(&line).is_some() => Err(unexpected(&line)),
            _ => Err(Error::Lost(error)),
        }
    }

    fn expect(&mut self, expected: &[u8]) -> Result<(), Error> {
        let line = self.read_line()?;
        if line == expected { Ok(()) } else { Err(unexpected(&line)) }
    }

    /// The next line, without its line end.
    fn read_line(&mut self) -> Result<Vec<u8>, Error> {
        let mut searched = 0;
        loop {
            let rest = &self.received[self.consumed..];
            if let Some(at) = memchr::memchr(b'\n', &rest[searched..]) {
                let line = &rest[..searched + at];
                let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
                self.consumed += searched + at + 1;
                return Ok(line);
            }
            if rest.len() > REPLY_LINE_LEN_MAX {
                return Err(Error::Garbled(format!("a line of more than {REPLY_LINE_LEN_MAX} bytes")));
            }
            searched = rest.len();
            self.receive()?;
        }
    }

    /// The next `size` bytes; the line end behind them is checked and dropped.
    fn read_body(&mut self, size: usize) -> Result<Vec<u8>, Error> {
        while self.received.len() - self.consumed < size + 2 {
            self.receive()?;
        }
        let (body, rest) = self.received[self.consumed..].split_at(size);
        if !rest.starts_with(b"\r\n") {
            return Err(Error::Garbled(format!("a body that is not {size} bytes long")));
        }
        let body = body.to_vec();
        self.consumed += size + 2;
        Ok(body)
    }

    fn receive(&mut self) -> Result<(), Error> {
        self.received.drain(..self.consumed);
        self.consumed = 0;
        let len = self.received.len();
        self.received.resize(len + READ_SIZE, 0);
        let outcome = loop {
            match self.stream.read(&mut self.received[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        self.received.truncate(len + *outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Err(Error::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it"))),
            Ok(_) => Ok(()),
            // What a socket's timeout looks like depends on the system.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::Lost(io::Error::new(io::ErrorKind::TimedOut, "no answer within the timeout")))
            }
            Err(error) => Err(Error::Lost(error)),
        }
    }
}

fn connect_tcp(name: &str, timeout: Duration) -> io::Result<Client> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in name.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                stream.set_nodelay(true)?;
                return Ok(Client::over(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn check_name(name: &[u8]) -> Result<(), Error> {
    let is_bad = name.is_empty() || name.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
    if is_bad { Err(Error::BadName(format!("\"{}\"", name.escape_ascii()))) } else { Ok(()) }
}

/// `VALUE name flags size`: flags and size. The name is the one that was asked for.
fn value_line(line: &[u8]) -> Option<(u32, usize)> {
    let (flags, size) = value_numbers(line)?;
    let size = size.parse().ok()?;
    (size <= BODY_SIZE_MAX).then_some((flags, size))
}

/// Whether it is the whole of what MemcacheQ sends for a message of length -2, but for the `END`.
fn is_bodiless(line: &[u8]) -> bool {
    value_numbers(line).is_some_and(|(_, size)| size == "-2")
}

/// Flags, which MemcacheQ prints as a signed number, and the word for the size.
fn value_numbers(line: &[u8]) -> Option<(u32, &str)> {
    let numbers = std::str::from_utf8(line.strip_prefix(b"VALUE ")?.splitn(2, |byte| *byte == b' ').nth(1)?).ok()?;
    let (flags, size) = numbers.split_once(' ')?;
    let flags = flags.parse().ok().or_else(|| flags.parse::<i32>().ok().map(i32::cast_unsigned))?;
    Some((flags, size))
}

/// `STAT name value`. A value may have spaces in it, a name has none.
fn stat(line: &[u8]) -> Option<Stat> {
    let mut words = line.strip_prefix(b"STAT ")?.splitn(2, |byte| *byte == b' ');
    let name = words.next().filter(|name| !name.is_empty())?.to_vec();
    let value = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    Some(Stat { name, value })
}

/// `puts/gets`
fn queue_counts(stat: Stat) -> Result<QueueCounts, Error> {
    let counts = stat.value.split_once('/').and_then(|(puts, gets)| Some((puts.parse().ok()?, gets.parse().ok()?)));
    match counts {
        Some((puts, gets)) => Ok(QueueCounts { name: stat.name, puts, gets }),
        None => Err(Error::Garbled(format!("counts of queue {}: {}", stat.name.escape_ascii(), stat.value))),
    }
}

/// A line that says no, as text.
fn refusal(line: &[u8]) -> Option<String> {
    let is_refusal = matches!(line, b"ERROR" | b"NOT_STORED" | b"NOT_FOUND")
        || [&b"ERROR "[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|start| line.starts_with(start));
    is_refusal.then(|| String::from_utf8_lossy(line).into_owned())
}

/// What a line that is not the expected one means.
fn unexpected(line: &[u8]) -> Error {
    const SHOWN_LEN_MAX: usize = 100;
    let shown = &line[..line.len().min(SHOWN_LEN_MAX)];
    refusal(line).map_or_else(|| Error::Garbled(format!("\"{}\"", shown.escape_ascii())), Error::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A server whose replies are known in advance and come in pieces of a given size; remembers what it was sent.
    struct Script {
        replies: Vec<u8>,
        piece_size: usize,
        sent: Rc<RefCell<Vec<u8>>>,
        writes_fail: bool,
    }

    impl Read for Script {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let size = self.piece_size.min(self.replies.len()).min(into.len());
            into[..size].copy_from_slice(&self.replies[..size]);
            self.replies.drain(..size);
            Ok(size)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.writes_fail {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.sent.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn script(replies: &[u8], piece_size: usize) -> (Client, Rc<RefCell<Vec<u8>>>) {
        let sent = Rc::new(RefCell::new(Vec::new()));
        let script = Script { replies: replies.into(), piece_size, sent: sent.clone(), writes_fail: false };
        (Client::over(script), sent)
    }

    fn client(replies: &[u8]) -> Client {
        script(replies, usize::MAX).0
    }

    #[test]
    fn replies_mean_the_same_however_they_are_cut() {
        let body = b"a\r\nEND\r\n\0\xff VALUE q 0 3";
        let mut replies = format!("STORED\r\nVALUE q 4294967295 {}\r\n", body.len()).into_bytes();
        replies.extend_from_slice(body);
        replies.extend_from_slice(
            b"\r\nEND\r\nVALUE q 0 0\r\n\r\nEND\r\nEND\r\nDELETED\r\nNOT_FOUND\r\nVERSION 1.2.3\r\n",
        );
        replies.extend_from_slice(b"STAT pid 7\r\nSTAT inter [::]:1, [::]:2\r\nEND\r\nOK\r\n");
        for piece_size in [1, 2, 3, 7, 64, usize::MAX] {
            let (mut client, _) = script(&replies, piece_size);
            client.put(b"q", 0, b"x").unwrap();
            assert_eq!(client.get(b"q").unwrap(), Some(Message { flags: u32::MAX, body: body.to_vec() }));
            assert_eq!(client.get(b"q").unwrap(), Some(Message { flags: 0, body: Vec::new() }));
            assert_eq!(client.get(b"q").unwrap(), None);
            assert!(client.delete(b"q").unwrap());
            assert!(!client.delete(b"q").unwrap());
            assert_eq!(client.version().unwrap(), "1.2.3");
            let stats = client.stats().unwrap();
            assert_eq!(stats[0], Stat { name: b"pid".into(), value: "7".into() });
            assert_eq!(stats[1], Stat { name: b"inter".into(), value: "[::]:1, [::]:2".into() });
            client.checkpoint().unwrap();
        }
    }

    #[test]
    fn a_body_larger_than_one_read_comes_back_whole() {
        let body: Vec<u8> = (0..3 * READ_SIZE + 5).map(|i| (i % 251) as u8).collect();
        let replies = [format!("VALUE q 1 {}\r\n", body.len()).as_bytes(), &body, b"\r\nEND\r\n"].concat();
        let (mut client, _) = script(&replies, 1000);
        assert_eq!(client.get(b"q").unwrap().unwrap().body, body);
    }

    #[test]
    fn requests_are_sent_as_the_protocol_has_them() {
        let (mut client, sent) = script(b"STORED\r\nEND\r\nDELETED\r\nEND\r\nEND\r\nOK\r\n", usize::MAX);
        client.put(b"caf\xc3\xa9", 9, b"\r\n\0").unwrap();
        client.get(b"a/b").unwrap();
        client.delete(b"q").unwrap();
        client.queues().unwrap();
        client.stats_of("settings").unwrap();
        client.checkpoint().unwrap();
        let expected = b"set caf\xc3\xa9 9 0 3\r\n\r\n\0\r\nget a/b\r\ndelete q\r\nstats queue\r\nstats settings\r\ndb_checkpoint\r\n";
        assert_eq!(sent.borrow().escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn looks_waits_flushes_and_details_are_sent_as_the_protocol_has_them() {
        let replies =
            b"VALUE q/peek 0 1\r\nx\r\nEND\r\nEND\r\nEND\r\nRESET\r\nSTAT a 1/0\r\nSTAT ready 1\r\nEND\r\nEND\r\n";
        let (mut client, sent) = script(replies, 4);
        assert_eq!(client.peek(b"q").unwrap().unwrap().body, b"x");
        assert_eq!(client.get_or_wait(b"q", 500).unwrap(), None);
        client.flush(b"q").unwrap();
        client.reset("latency reset").unwrap();
        let details = client.queue_details([&b"a"[..], b"b"]).unwrap();
        assert_eq!(details.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0]);
        let expected =
            "get q/peek\r\nget q/t=500\r\nflush q\r\nstats latency reset\r\nstats queue a\r\nstats queue b\r\n";
        assert_eq!(String::from_utf8_lossy(&sent.borrow()), expected);
        assert!(matches!(client.queue_details([&b"a b"[..]]), Err(Error::BadName(_))));
        assert!(matches!(client.flush(b"a\r\n"), Err(Error::BadName(_))));
    }

    #[test]
    fn queues_may_have_names_that_are_no_text() {
        let queues = client(b"STAT \xff\xfe 3/1\r\nSTAT b 18446744073709551615/0\r\nEND\r\n").queues().unwrap();
        assert_eq!(queues[0], QueueCounts { name: b"\xff\xfe".into(), puts: 3, gets: 1 });
        assert_eq!((queues[1].puts, queues[1].gets), (u64::MAX, 0));
    }

    #[test]
    fn flags_that_memcacheq_prints_signed_come_back_as_they_were_put() {
        let mut client = client(b"VALUE q -1 1\r\nx\r\nEND\r\nVALUE q -2147483648 0\r\n\r\nEND\r\n");
        assert_eq!(client.get(b"q").unwrap(), Some(Message { flags: u32::MAX, body: b"x".into() }));
        assert_eq!(client.get(b"q").unwrap(), Some(Message { flags: 1 << 31, body: Vec::new() }));
    }

    #[test]
    fn several_gets_are_answered_one_by_one_whatever_is_wrong_with_some() {
        let replies = b"VALUE q 0 1\r\na\r\nEND\r\nVALUE q 0 -2\r\nEND\r\nERROR\r\nEND\r\nVALUE q 0 1\r\nb\r\nEN";
        let (mut client, sent) = script(replies, 3);
        client.send_gets(b"q", 5).unwrap();
        assert_eq!(*sent.borrow(), b"get q\r\nget q\r\nget q\r\nget q\r\nget q\r\n");
        assert_eq!(client.next_message().unwrap().unwrap().body, b"a");
        assert_eq!(client.next_message().unwrap(), None);
        assert!(matches!(client.next_message(), Err(Error::Bodiless)));
        assert_eq!(client.next_message().unwrap(), None);
        assert!(matches!(client.next_message(), Err(Error::Refused(_))));
        assert_eq!(client.next_message().unwrap(), None);
        assert_eq!(client.next_message().unwrap().unwrap().body, b"b", "whole, though its END has not come");
        assert!(matches!(client.next_message(), Err(Error::Lost(_))));
    }

    #[test]
    fn several_puts_are_answered_one_by_one() {
        let (mut client, sent) = script(b"STORED\r\nNOT_STORED\r\nSTORED\r\n", 5);
        client.send_puts([(&b"a"[..], 1, &b"x"[..]), (b"b", 2, b""), (b"a", 0, b"\r\n")]).unwrap();
        assert_eq!(*sent.borrow(), b"set a 1 0 1\r\nx\r\nset b 2 0 0\r\n\r\nset a 0 0 2\r\n\r\n\r\n");
        client.put_reply().unwrap();
        assert!(matches!(client.put_reply(), Err(Error::Refused(_))));
        client.put_reply().unwrap();
    }

    #[test]
    fn names_that_would_end_the_line_are_never_sent() {
        for name in [&b""[..], b"a b", b"a\r\ndelete b", b"a\n", b"a\0", b"a\x7f"] {
            let (mut client, sent) = script(b"", usize::MAX);
            assert!(matches!(client.get(name), Err(Error::BadName(_))), "{name:?}");
            assert!(matches!(client.put(name, 0, b""), Err(Error::BadName(_))), "{name:?}");
            assert!(matches!(client.delete(name), Err(Error::BadName(_))), "{name:?}");
            assert!(sent.borrow().is_empty());
        }
    }

    #[test]
    fn error_lines_are_refusals_and_kept_whole() {
        for line in ["ERROR", "CLIENT_ERROR unknown option", "SERVER_ERROR out of storage", "NOT_STORED"] {
            let replies = format!("{line}\r\n");
            let error = client(replies.as_bytes()).put(b"q", 0, b"x").unwrap_err();
            assert!(matches!(&error, Error::Refused(said) if said == line), "{error:?}");
            assert!(matches!(client(replies.as_bytes()).stats(), Err(Error::Refused(_))));
        }
    }

    #[test]
    fn an_error_in_place_of_the_end_is_a_refusal() {
        let error = client(b"VALUE q 0 1\r\nx\r\nSERVER_ERROR storage cannot be read\r\n").get(b"q").unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
    }

    #[test]
    fn what_is_no_reply_is_garbled() {
        for replies in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"VALUE q 0\r\n",
            b"VALUE q 0 -1\r\n",
            b"VALUE q 0 -3\r\n",
            b"VALUE q -2147483649 1\r\n",
            b"VALUE q 4294967296 1\r\n",
            b"VALUE q x 1\r\n",
            b"VALUE q 0 99999999999\r\n",
            b"VALUE q 0 1\r\nxyz\r\nEND\r\n",
            b"VALUE q 0 1\r\nx\r\nVALUE q 0 1\r\n",
            b"\r\n",
        ] {
            let error = client(replies).get(b"q").unwrap_err();
            assert!(matches!(error, Error::Garbled(_)), "{}: {error:?}", replies.escape_ascii());
        }
        assert!(matches!(client(b"STAT q 1\r\nEND\r\n").queues(), Err(Error::Garbled(_))));
        assert!(matches!(client(b"STAT \r\nEND\r\n").stats(), Err(Error::Garbled(_))));
        let endless = vec![b'x'; 2 * REPLY_LINE_LEN_MAX];
        assert!(matches!(client(&endless).version(), Err(Error::Garbled(_))));
    }

    #[test]
    fn a_stream_that_ends_early_is_lost() {
        for replies in [&b""[..], b"VALUE q 0 5\r\nhel", b"VALUE q 0 5\r\nhello\r\n", b"EN"] {
            assert!(matches!(client(replies).get(b"q"), Err(Error::Lost(_))), "{replies:?}");
        }
    }

    #[test]
    fn a_refusal_explains_a_failed_write() {
        let failing = |replies: &[u8]| {
            let script = Script { replies: replies.into(), piece_size: 9, sent: Rc::default(), writes_fail: true };
            Client::over(script).version().unwrap_err()
        };
        let error = failing(b"SERVER_ERROR too many open connections\r\n");
        assert!(matches!(&error, Error::Refused(line) if line.ends_with("connections")), "{error:?}");
        assert!(matches!(failing(b""), Error::Lost(_)));
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["127.0.0.1:1", "[::1]:65535", "localhost:22201", "unix:/run/ringq"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "localhost", ":1", "h:", "h:65536", "h:x", "unix:", "/run/ringq"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
