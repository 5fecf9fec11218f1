//! beanstalkd protocol, client side: the answers to put, reserve-with-timeout, delete, use, watch and ignore.
//!
//! ```text
//! INSERTED id
//! RESERVED id bytes  body
//! TIMED_OUT | DELETED | USING tube | WATCHING count
//! ```
//! Everything else is one line and is reported as it came.

use crate::protocol::{Malformed, Parsed, QueueLines, Reply, decimal, first_line, parse_message};

/// Parses one answer.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let Some((line, line_size)) = first_line(bytes)? else {
        return Ok(Parsed::Partial { size: bytes.len() + 1 });
    };
    let reply = match line {
        b"DELETED" => Reply::Deleted,
        b"TIMED_OUT" => Reply::Miss,
        _ if line.starts_with(b"INSERTED ") => Reply::Stored,
        _ if line.starts_with(b"RESERVED ") => return parse_job(bytes, line, line_size),
        _ if line.starts_with(b"USING ") || line.starts_with(b"WATCHING ") => Reply::Prepared,
        _ => Reply::Unexpected(line),
    };
    Ok(Parsed::Whole { reply, size: line_size })
}

fn parse_job<'a>(bytes: &'a [u8], line: &[u8], line_size: usize) -> Result<Parsed<'a>, Malformed> {
    let mut numbers = line.split(|&byte| byte == b' ').skip(1).map(decimal);
    let (Some(Some(job)), Some(Some(body_size))) = (numbers.next(), numbers.next()) else {
        return Err(Malformed::new(line));
    };
    parse_message(bytes, job, line_size, body_size, b"\r\n")
}

/// The requests to tube `name`. The time to run is an hour, so that no job returns during a measurement.
pub fn queue_lines(name: &str, queue: u32) -> QueueLines {
    QueueLines {
        queue,
        select: format!("use {name}\r\n").into_bytes(),
        put_head: b"put 0 0 3600 ".to_vec(),
        get: b"reserve-with-timeout 0\r\n".to_vec(),
        watch: format!("watch {name}\r\n").into_bytes(),
    }
}

/// Stops jobs of the default tube from mixing in; valid once another tube is watched.
pub const IGNORE_DEFAULT: &[u8] = b"ignore default\r\n";

/// Appends the delete of a reserved job.
pub fn encode_delete(out: &mut Vec<u8>, job: u64) {
    out.extend_from_slice(b"delete ");
    out.extend_from_slice(itoa::Buffer::new().format(job).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Protocol, tests::assert_parses_at_every_cut};

    #[test]
    fn answers_are_the_same_at_every_cut() {
        assert_parses_at_every_cut(
            Protocol::Beanstalkd,
            b"USING q\r\nWATCHING 2\r\nINSERTED 9\r\nRESERVED 9 3\r\n\r\nx\r\nDELETED\r\nTIMED_OUT\r\nBURIED 4\r\nNOT_FOUND\r\n",
            &[
                Reply::Prepared,
                Reply::Prepared,
                Reply::Stored,
                Reply::Message { job: 9, body: b"\r\nx" },
                Reply::Deleted,
                Reply::Miss,
                Reply::Unexpected(b"BURIED 4"),
                Reply::Unexpected(b"NOT_FOUND"),
            ],
        );
    }

    #[test]
    fn broken_jobs_are_malformed() {
        for wire in [&b"RESERVED 9\r\n"[..], b"RESERVED x 1\r\n", b"RESERVED 9 1\r\nabc"] {
            assert!(parse(wire).is_err(), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn a_delete_names_the_job() {
        let mut out = Vec::new();
        encode_delete(&mut out, 17);
        assert_eq!(out, b"delete 17\r\n");
    }
}
