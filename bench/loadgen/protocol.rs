//! Protocol: how a put and a get look on the wire of each server, and what its answers mean.
//!
//! All three protocols give one answer per request, in order; that is the invariant the session relies on. A put is
//! always *head, size, line end, body, line end*, so encoding needs no code per protocol, only the fixed pieces that
//! `QueueLines` prepares once per queue. Parsing borrows from the read buffer and allocates nothing.

use std::fmt;

use crate::{beanstalkd, memcache, redis};

/// Longest first line of an answer in bytes; beyond it the peer does not speak the protocol.
const LINE_SIZE_MAX: usize = 2048;

/// Largest announced body in bytes; no server here stores more, and a buffer is made for it.
const BODY_SIZE_MAX: u64 = 1 << 30;

/// The wire protocol of the server under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// RingQ, MemcacheQ and memcached: `set` and `get`.
    Memcache,
    /// Redis and its kin: RPUSH and LPOP.
    Redis,
    /// beanstalkd: put, and reserve-with-timeout 0 followed by delete.
    Beanstalkd,
}

/// What a server answered, in terms all protocols share.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The put was accepted.
    Stored,
    /// A message; `job` is what beanstalkd wants back in the delete, zero elsewhere.
    Message {
        /// beanstalkd's job id.
        job: u64,
        /// The message.
        body: &'a [u8],
    },
    /// Nothing there.
    Miss,
    /// The delete was accepted.
    Deleted,
    /// A preparing request (use, watch, ignore) was accepted.
    Prepared,
    /// Anything else, word for word.
    Unexpected(&'a [u8]),
}

/// What the front of the read buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole answer that takes `size` bytes of the buffer.
    Whole {
        /// The answer.
        reply: Reply<'a>,
        /// Its length on the wire in bytes.
        size: usize,
    },
    /// An answer that needs at least `size` bytes in all.
    Partial {
        /// Bytes from the start of the answer, as far as known.
        size: usize,
    },
}

/// Bytes that are not this protocol; what follows them cannot be trusted.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The bytes in question, cut short and printable.
    pub shown: String,
}

impl Malformed {
    /// Keeps enough of `bytes` to recognise the peer by.
    pub fn new(bytes: &[u8]) -> Malformed {
        Malformed { shown: bytes[..bytes.len().min(80)].escape_ascii().to_string() }
    }
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Stored => f.write_str("a put accepted"),
            Reply::Message { body, .. } => write!(f, "a message of {} bytes", body.len()),
            Reply::Miss => f.write_str("nothing there"),
            Reply::Deleted => f.write_str("a delete accepted"),
            Reply::Prepared => f.write_str("a queue prepared"),
            Reply::Unexpected(words) => write!(f, "`{}`", words.escape_ascii()),
        }
    }
}

impl Protocol {
    /// Parses the answer at the front of `bytes`.
    pub fn parse<'a>(self, bytes: &'a [u8]) -> Result<Parsed<'a>, Malformed> {
        match self {
            Protocol::Memcache => memcache::parse(bytes),
            Protocol::Redis => redis::parse(bytes),
            Protocol::Beanstalkd => beanstalkd::parse(bytes),
        }
    }

    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Memcache => "memcache",
            Protocol::Redis => "redis",
            Protocol::Beanstalkd => "beanstalkd",
        }
    }

    /// Whether a message is gone only after a second request (delete) for it.
    pub fn deletes_after_get(self) -> bool {
        self == Protocol::Beanstalkd
    }
}

/// The fixed bytes of the requests to one queue.
#[derive(Debug)]
pub struct QueueLines {
    /// The queue's number, as stamped into verified bodies.
    pub queue: u32,
    /// Sent before the first put to another queue than the last one's; empty where puts name their queue.
    pub select: Vec<u8>,
    /// A put up to its size.
    pub put_head: Vec<u8>,
    /// A whole get.
    pub get: Vec<u8>,
    /// Sent once before the first get; empty where gets name their queue.
    pub watch: Vec<u8>,
}

impl QueueLines {
    /// Prepares the requests to queue `name`, which has the number `queue`.
    pub fn new(protocol: Protocol, name: &str, queue: u32) -> QueueLines {
        match protocol {
            Protocol::Memcache => memcache::queue_lines(name, queue),
            Protocol::Redis => redis::queue_lines(name, queue),
            Protocol::Beanstalkd => beanstalkd::queue_lines(name, queue),
        }
    }
}

/// Appends a put: `fill` adds exactly `size` bytes of body.
pub fn encode_put(out: &mut Vec<u8>, lines: &QueueLines, size: usize, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&lines.put_head);
    out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    out.extend_from_slice(b"\r\n");
    let body_start = out.len();
    fill(out);
    assert_eq!(out.len() - body_start, size, "the body has another size than announced");
    out.extend_from_slice(b"\r\n");
}

/// The first line of `bytes` without its end, and its length with it; `None` until the end has come.
pub fn first_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let window = &bytes[..bytes.len().min(LINE_SIZE_MAX)];
    match memchr::memchr(b'\n', window) {
        Some(end) if end > 0 && window[end - 1] == b'\r' => Ok(Some((&window[..end - 1], end + 1))),
        Some(_) => Err(Malformed::new(bytes)),
        None if bytes.len() >= LINE_SIZE_MAX => Err(Malformed::new(bytes)),
        None => Ok(None),
    }
}

/// A message whose body of `body_size` bytes follows a line of `line_size` and is closed by `trailer`.
pub fn parse_message<'a>(
    bytes: &'a [u8],
    job: u64,
    line_size: usize,
    body_size: u64,
    trailer: &[u8],
) -> Result<Parsed<'a>, Malformed> {
    if body_size > BODY_SIZE_MAX {
        return Err(Malformed::new(bytes));
    }
    let body_end = line_size + body_size as usize;
    let size = body_end + trailer.len();
    if bytes.len() < size {
        return Ok(Parsed::Partial { size });
    }
    if &bytes[body_end..size] != trailer {
        return Err(Malformed::new(&bytes[body_end..]));
    }
    let reply = Reply::Message { job, body: &bytes[line_size..body_end] };
    Ok(Parsed::Whole { reply, size })
}

/// A decimal number without sign; `None` for anything else and for overflow.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some(value)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Checks that `wire` parses to `expected` one after the other, and that every shorter front of each answer is
    /// partial and never asks for more than the answer has.
    pub fn assert_parses_at_every_cut(protocol: Protocol, wire: &[u8], expected: &[Reply<'_>]) {
        let mut rest = wire;
        for reply in expected {
            let Ok(Parsed::Whole { reply: parsed, size }) = protocol.parse(rest) else {
                panic!("no answer in {}: {:?}", rest.escape_ascii(), protocol.parse(rest));
            };
            assert_eq!(&parsed, reply);
            for cut in 0..size {
                match protocol.parse(&rest[..cut]) {
                    Ok(Parsed::Partial { size: needed }) => {
                        assert!(needed > cut && needed <= size, "cut at {cut} asks for {needed} of {size}");
                    }
                    other => panic!("cut at {cut} of {}: {other:?}", rest[..size].escape_ascii()),
                }
            }
            rest = &rest[size..];
        }
        assert!(rest.is_empty(), "left over: {}", rest.escape_ascii());
    }

    #[test]
    fn lines_end_in_cr_lf_only_and_are_bounded() {
        assert_eq!(first_line(b"OK\r\nmore"), Ok(Some((&b"OK"[..], 4))));
        assert_eq!(first_line(b"OK\r"), Ok(None));
        assert!(first_line(b"OK\n").is_err());
        assert!(first_line(b"\n").is_err());
        assert!(first_line(&[b'x'; LINE_SIZE_MAX]).is_err());
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"1a", b"18446744073709551616", b" 1"] {
            assert_eq!(decimal(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_put_has_head_size_and_body() {
        let mut out = Vec::new();
        let fill = |out: &mut Vec<u8>| out.extend_from_slice(b"body");
        encode_put(&mut out, &QueueLines::new(Protocol::Memcache, "q", 0), 4, fill);
        encode_put(&mut out, &QueueLines::new(Protocol::Redis, "q", 0), 4, fill);
        encode_put(&mut out, &QueueLines::new(Protocol::Beanstalkd, "q", 0), 4, fill);
        let expected = "set q 0 0 4\r\nbody\r\n\
            *3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n$4\r\nbody\r\n\
            put 0 0 3600 4\r\nbody\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
