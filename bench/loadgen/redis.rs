//! RESP, client side: the answers to RPUSH and LPOP.
//!
//! ```text
//! :length-of-the-list
//! $size  body        a message
//! $-1                nothing there
//! -ERR text
//! ```
//! Arrays and other types are never asked for; they are malformed here.

use crate::protocol::{Malformed, Parsed, QueueLines, Reply, decimal, first_line, parse_message};

/// Parses one answer.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let Some((line, line_size)) = first_line(bytes)? else {
        return Ok(Parsed::Partial { size: bytes.len() + 1 });
    };
    let reply = match line.first() {
        Some(b':') => Reply::Stored,
        Some(b'$') if &line[1..] == b"-1" => Reply::Miss,
        Some(b'$') => return parse_bulk(bytes, line, line_size),
        Some(b'-' | b'+') => Reply::Unexpected(line),
        _ => return Err(Malformed::new(bytes)),
    };
    Ok(Parsed::Whole { reply, size: line_size })
}

fn parse_bulk<'a>(bytes: &'a [u8], line: &[u8], line_size: usize) -> Result<Parsed<'a>, Malformed> {
    let body_size = decimal(&line[1..]).ok_or_else(|| Malformed::new(line))?;
    parse_message(bytes, 0, line_size, body_size, b"\r\n")
}

/// The requests to list `name`.
pub fn queue_lines(name: &str, queue: u32) -> QueueLines {
    let size = name.len();
    QueueLines {
        queue,
        select: Vec::new(),
        put_head: format!("*3\r\n$5\r\nRPUSH\r\n${size}\r\n{name}\r\n$").into_bytes(),
        get: format!("*2\r\n$4\r\nLPOP\r\n${size}\r\n{name}\r\n").into_bytes(),
        watch: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Protocol, tests::assert_parses_at_every_cut};

    #[test]
    fn answers_are_the_same_at_every_cut() {
        assert_parses_at_every_cut(
            Protocol::Redis,
            b":12\r\n$4\r\na\r\nb\r\n$-1\r\n$0\r\n\r\n-OOM command not allowed\r\n+OK\r\n",
            &[
                Reply::Stored,
                Reply::Message { job: 0, body: b"a\r\nb" },
                Reply::Miss,
                Reply::Message { job: 0, body: b"" },
                Reply::Unexpected(b"-OOM command not allowed"),
                Reply::Unexpected(b"+OK"),
            ],
        );
    }

    #[test]
    fn other_types_and_broken_bodies_are_malformed() {
        for wire in [&b"*1\r\n"[..], b"STORED\r\n", b"\r\n", b"$-2\r\n", b"$1\r\nabc"] {
            assert!(parse(wire).is_err(), "{}", wire.escape_ascii());
        }
    }
}
