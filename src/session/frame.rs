//! Framing: how many of the bytes received are the next request, without taking a step that could not be taken again.
//!
//! Invariant: [`frame`] is a pure function of the bytes from the start of a request. It says the same however the bytes
//! were cut on their way, once enough of them are there.

use crate::limits::LINE_LEN_MAX;
use crate::proto::command::{Line, SetLine, parse_line};
use crate::proto::key::Names;
use crate::proto::reply;

/// What stands at the front of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// Not a whole request yet.
    Partial {
        /// Length of input at which another look is worth it.
        need: usize,
        /// The body that is being waited for; 0 while the line is incomplete.
        body_size: usize,
    },
    /// A whole line without a body, `len` bytes with its line end.
    Line {
        /// What it says. Never [`Line::Set`].
        line: Line<'a>,
        /// Bytes of input it takes.
        len: usize,
    },
    /// A whole put, `len` bytes with line and body.
    Put {
        /// Its line.
        set: SetLine<'a>,
        /// Its body, without CRLF.
        body: &'a [u8],
        /// Bytes of input it takes.
        len: usize,
    },
}

/// Why there is no line at the front of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// It has not come whole.
    Partial {
        /// Length of input at which another look is worth it.
        need: usize,
    },
    /// There will be none that is allowed.
    TooLong {
        /// Bytes of input that show it.
        len: usize,
    },
}

/// The line at the front of `input`, without its end, and how many bytes it takes with that.
///
/// # Errors
/// There is none.
pub fn line(input: &[u8]) -> Result<(&[u8], usize), Cut> {
    let window = &input[..input.len().min(LINE_LEN_MAX + 2)];
    let Some(line_feed) = memchr::memchr(b'\n', window) else {
        if window.len() == LINE_LEN_MAX + 2 {
            return Err(Cut::TooLong { len: window.len() });
        }
        return Err(Cut::Partial { need: input.len() + 1 });
    };
    let line = &input[..line_feed];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line_len = line_feed + 1;
    if line.len() > LINE_LEN_MAX {
        return Err(Cut::TooLong { len: line_len });
    }
    Ok((line, line_len))
}

/// Finds the request at the front of `input`. `body_size_max` is `-B`.
pub fn frame(input: &[u8], body_size_max: usize, names: Names) -> Frame<'_> {
    let (line, line_len) = match line(input) {
        Ok(line) => line,
        Err(Cut::Partial { need }) => return Frame::Partial { need, body_size: 0 },
        Err(Cut::TooLong { len }) => return Frame::Line { line: Line::Fatal { reply: reply::LINE_TOO_LONG }, len },
    };
    match parse_line(line, body_size_max, names) {
        Line::Set(set) => {
            let len = line_len + set.size + 2;
            let Some(rest) = input.get(line_len..len) else {
                return partial_put(input, line_len, set.size);
            };
            let (body, end) = rest.split_at(set.size);
            if end != b"\r\n" {
                return Frame::Line { line: Line::Fatal { reply: reply::BAD_DATA_CHUNK }, len };
            }
            Frame::Put { set, body, len }
        }
        line => Frame::Line { line, len: line_len },
    }
}

/// A body that is not there yet. Its first byte past the announced end tells at once when it is wrong, so that a client that
/// miscounted is not kept waiting for a second byte.
fn partial_put(input: &[u8], line_len: usize, size: usize) -> Frame<'_> {
    if let Some(byte) = input.get(line_len + size)
        && *byte != b'\r'
    {
        return Frame::Line { line: Line::Fatal { reply: reply::BAD_DATA_CHUNK }, len: input.len() };
    }
    let need = if input.len() < line_len + size { line_len + size + 1 } else { line_len + size + 2 };
    Frame::Partial { need, body_size: size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::command::Command;

    const NAMES: Names = Names { reader_separator: None };

    #[test]
    fn a_request_is_found_whatever_follows_it() {
        let input = b"set q 1 0 3\r\nabc\r\nversion\r\n";
        let Frame::Put { set, body: b"abc", len: 18 } = frame(input, 10, NAMES) else { panic!() };
        assert_eq!(set.flags, 1);
        let Frame::Line { line: Line::Command(Command::Version), len: 9 } = frame(&input[18..], 10, NAMES) else {
            panic!()
        };
    }

    #[test]
    fn every_prefix_of_a_request_is_partial_and_asks_for_no_more_than_the_rest() {
        for input in [&b"set q 1 0 3\r\nabc\r\n"[..], b"get q\n", b"set q 0 0 0\n\r\n"] {
            for cut in 0..input.len() {
                match frame(&input[..cut], 10, NAMES) {
                    Frame::Partial { need, .. } => assert!(need > cut && need <= input.len(), "{cut}"),
                    other => panic!("{cut}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_body_must_end_where_it_said() {
        for input in [&b"set q 0 0 3\r\nabcd\r\n"[..], b"set q 0 0 3\r\nabc\n\n", b"set q 0 0 3\r\nabcd"] {
            let Frame::Line { line: Line::Fatal { reply: reply::BAD_DATA_CHUNK }, .. } = frame(input, 10, NAMES) else {
                panic!("{input:?}")
            };
        }
    }

    #[test]
    fn a_line_has_a_longest_length_with_either_line_end() {
        let at_limit = [vec![b'x'; LINE_LEN_MAX], b"\r\n".to_vec()].concat();
        let Frame::Line { line: Line::Refused { reply: reply::ERROR, .. }, .. } = frame(&at_limit, 10, NAMES) else {
            panic!()
        };
        let over = [vec![b'x'; LINE_LEN_MAX + 1], b"\n".to_vec()].concat();
        for input in [&over[..], &vec![b'x'; LINE_LEN_MAX + 2]] {
            let Frame::Line { line: Line::Fatal { reply: reply::LINE_TOO_LONG }, .. } = frame(input, 10, NAMES) else {
                panic!()
            };
        }
        let Frame::Partial { .. } = frame(&at_limit[..LINE_LEN_MAX + 1], 10, NAMES) else { panic!() };
    }
}
