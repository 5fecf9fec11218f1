//! memcache text protocol, client side: the answers to `set` and to a `get` of one key.
//!
//! ```text
//! STORED
//! VALUE key flags bytes [cas]  body  END
//! END
//! VERSION text         counts as a message: it is what a round trip asks for
//! ```
//! Everything else is one line and is reported as it came.

use crate::protocol::{Malformed, Parsed, QueueLines, Reply, decimal, first_line, parse_message};

/// Parses one answer.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let Some((line, line_size)) = first_line(bytes)? else {
        return Ok(Parsed::Partial { size: bytes.len() + 1 });
    };
    let reply = match line {
        b"STORED" => Reply::Stored,
        b"END" => Reply::Miss,
        _ if line.starts_with(b"VERSION ") => Reply::Message { job: 0, body: &line[8..] },
        _ if line.starts_with(b"VALUE ") => return parse_value(bytes, line, line_size),
        _ => Reply::Unexpected(line),
    };
    Ok(Parsed::Whole { reply, size: line_size })
}

fn parse_value<'a>(bytes: &'a [u8], line: &[u8], line_size: usize) -> Result<Parsed<'a>, Malformed> {
    let body_size = line.split(|&byte| byte == b' ').nth(3).and_then(decimal).ok_or_else(|| Malformed::new(line))?;
    parse_message(bytes, 0, line_size, body_size, b"\r\nEND\r\n")
}

/// The requests to queue `name`.
pub fn queue_lines(name: &str, queue: u32) -> QueueLines {
    QueueLines {
        queue,
        select: Vec::new(),
        put_head: format!("set {name} 0 0 ").into_bytes(),
        get: format!("get {name}\r\n").into_bytes(),
        watch: Vec::new(),
    }
}

/// The request of a round trip, in the place of a get.
pub fn version_lines() -> QueueLines {
    QueueLines { queue: 0, select: Vec::new(), put_head: Vec::new(), get: b"version\r\n".to_vec(), watch: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Protocol, tests::assert_parses_at_every_cut};

    #[test]
    fn answers_are_the_same_at_every_cut() {
        let wire = b"STORED\r\nVALUE q 0 5\r\na\r\nEN\r\nEND\r\nEND\r\nVALUE q 7 0 42\r\n\r\nEND\r\n\
            VERSION 1.0\r\nSERVER_ERROR out of storage\r\nNOT_STORED\r\nERROR\r\n";
        assert_parses_at_every_cut(
            Protocol::Memcache,
            wire,
            &[
                Reply::Stored,
                Reply::Message { job: 0, body: b"a\r\nEN" },
                Reply::Miss,
                Reply::Message { job: 0, body: b"" },
                Reply::Message { job: 0, body: b"1.0" },
                Reply::Unexpected(b"SERVER_ERROR out of storage"),
                Reply::Unexpected(b"NOT_STORED"),
                Reply::Unexpected(b"ERROR"),
            ],
        );
    }

    #[test]
    fn broken_values_are_malformed() {
        for wire in
            [&b"VALUE q 0\r\n"[..], b"VALUE q 0 x\r\n", b"VALUE q 0 1\r\nab\r\nEND\r\n", b"VALUE q 0 1\r\na\r\nEND\n\n"]
        {
            assert!(parse(wire).is_err(), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn a_huge_size_asks_for_it_and_an_impossible_one_is_malformed() {
        assert_eq!(parse(b"VALUE q 0 1000000\r\n"), Ok(Parsed::Partial { size: 19 + 1_000_000 + 7 }));
        assert!(parse(b"VALUE q 0 18446744073709551615\r\n").is_err());
    }
}
