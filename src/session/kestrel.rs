//! Framing in Kestrel's dialect: how many of the bytes received are the next request.
//!
//! Invariant: as [`crate::session::frame`], a pure function of the bytes from the start of a request. What follows a body is two bytes,
//! and nobody looks at them.

use super::frame::{Cut, line};
use crate::proto::kestrel::{Line, SetLine, parse_line};
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
        /// Its body.
        body: &'a [u8],
        /// Bytes of input it takes.
        len: usize,
    },
}

/// Finds the request at the front of `input`. `body_size_max` is `-B`.
pub fn frame(input: &[u8], body_size_max: usize) -> Frame<'_> {
    let (line, line_len) = match line(input) {
        Ok(line) => line,
        Err(Cut::Partial { need }) => return Frame::Partial { need, body_size: 0 },
        Err(Cut::TooLong { len }) => return Frame::Line { line: Line::Fatal { reply: reply::LINE_TOO_LONG }, len },
    };
    match parse_line(line, body_size_max) {
        Line::Set(set) => {
            let len = line_len + set.size + 2;
            match input.get(line_len..len) {
                Some(rest) => Frame::Put { set, body: &rest[..set.size], len },
                None => Frame::Partial { need: len, body_size: set.size },
            }
        }
        line => Frame::Line { line, len: line_len },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kestrel::Command;

    #[test]
    fn a_request_is_found_whatever_follows_it() {
        let input = b"SET q 0 0 3\nabcxyversion\r\n";
        let Frame::Put { set, body: b"abc", len: 17 } = frame(input, 10) else { panic!() };
        assert_eq!(set.size, 3);
        let Frame::Line { line: Line::Command(Command::Version), len: 9 } = frame(&input[17..], 10) else { panic!() };
    }

    #[test]
    fn every_prefix_of_a_request_is_partial_and_asks_for_no_more_than_the_rest() {
        for input in [&b"set q 1 0 3\r\nabc\r\n"[..], b"get q\n", b"set q 0 0 0\n\r\n"] {
            for cut in 0..input.len() {
                match frame(&input[..cut], 10) {
                    Frame::Partial { need, .. } => assert!(need > cut && need <= input.len(), "{cut}"),
                    other => panic!("{cut}: {other:?}"),
                }
            }
        }
    }
}
