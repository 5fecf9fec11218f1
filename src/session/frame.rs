//! Framing: how many of the bytes received are the next request, without taking a step that could not be taken again.
//!
//! Invariant: a frame is a pure function of the bytes from the start of a request. It says the same however the bytes
//! were cut on their way, once enough of them are there.

use crate::limits::LINE_LEN_MAX;
use crate::proto::key::Names;
use crate::proto::line::Line;
use crate::proto::{command, kestrel, reply};

/// What stands at the front of the input, with the commands `C` and the heads of puts `S` of a dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a, C, S> {
    /// Not a whole request yet.
    Partial {
        /// Length of input at which another look is worth it.
        need: usize,
        /// The body that is being waited for; 0 while the line is incomplete.
        body_size: usize,
    },
    /// A command, `len` bytes with its line end.
    Command {
        /// What it says.
        command: C,
        /// Bytes of input it takes.
        len: usize,
    },
    /// A whole put, `len` bytes with line and body.
    Put {
        /// Its line.
        set: S,
        /// Its body, without the two bytes behind it.
        body: &'a [u8],
        /// Bytes of input it takes.
        len: usize,
    },
    /// As [`Line::Refused`], a line of `len` bytes with its end.
    Refused {
        /// What to say.
        reply: &'static [u8],
        /// Bytes behind the line that belong to it.
        skip: u64,
        /// Bytes of input the line takes.
        len: usize,
    },
    /// As [`Line::Fatal`].
    Fatal {
        /// What to say.
        reply: &'static [u8],
    },
}

/// What has to stand behind a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BodyEnd {
    /// CRLF.
    Crlf,
    /// Two bytes that nobody looks at.
    Any,
}

/// Finds the request at the front of `input`. `body_size_max` is `-B`.
pub fn frame(
    input: &[u8],
    body_size_max: usize,
    names: Names,
) -> Frame<'_, command::Command<'_>, command::SetLine<'_>> {
    frame_with(input, |line| command::parse_line(line, body_size_max, names), |set| set.size, BodyEnd::Crlf)
}

/// The same in Kestrel's dialect.
pub fn kestrel_frame(input: &[u8], body_size_max: usize) -> Frame<'_, kestrel::Command<'_>, kestrel::SetLine<'_>> {
    frame_with(input, |line| kestrel::parse_line(line, body_size_max), |set| set.size, BodyEnd::Any)
}

#[inline]
fn frame_with<'a, C, S>(
    input: &'a [u8],
    parse_line: impl FnOnce(&'a [u8]) -> Line<C, S>,
    body_size: impl FnOnce(&S) -> usize,
    body_end: BodyEnd,
) -> Frame<'a, C, S> {
    let window = &input[..input.len().min(LINE_LEN_MAX + 2)];
    let Some(line_feed) = memchr::memchr(b'\n', window) else {
        if window.len() == LINE_LEN_MAX + 2 {
            return Frame::Fatal { reply: reply::LINE_TOO_LONG };
        }
        return Frame::Partial { need: input.len() + 1, body_size: 0 };
    };
    let line = &input[..line_feed];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line_len = line_feed + 1;
    if line.len() > LINE_LEN_MAX {
        return Frame::Fatal { reply: reply::LINE_TOO_LONG };
    }
    match parse_line(line) {
        Line::Set(set) => {
            let size = body_size(&set);
            let len = line_len + size + 2;
            let Some(rest) = input.get(line_len..len) else {
                return partial_put(input, line_len, size, body_end);
            };
            let (body, end) = rest.split_at(size);
            if body_end == BodyEnd::Crlf && end != b"\r\n" {
                return Frame::Fatal { reply: reply::BAD_DATA_CHUNK };
            }
            Frame::Put { set, body, len }
        }
        Line::Command(command) => Frame::Command { command, len: line_len },
        Line::Refused { reply, skip } => Frame::Refused { reply, skip, len: line_len },
        Line::Fatal { reply } => Frame::Fatal { reply },
    }
}

/// A body that is not there yet. Where its end matters, the first byte past the announced end tells at once when it is wrong, so that a
/// client that miscounted is not kept waiting for a second byte.
fn partial_put<'a, C, S>(input: &'a [u8], line_len: usize, size: usize, body_end: BodyEnd) -> Frame<'a, C, S> {
    let end = line_len + size;
    let ends_in_crlf = body_end == BodyEnd::Crlf;
    if ends_in_crlf && input.get(end).is_some_and(|byte| *byte != b'\r') {
        return Frame::Fatal { reply: reply::BAD_DATA_CHUNK };
    }
    let need = if ends_in_crlf && input.len() <= end { end + 1 } else { end + 2 };
    Frame::Partial { need, body_size: size }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { reader_separator: None };

    #[test]
    fn a_request_is_found_whatever_follows_it() {
        let input = b"set q 1 0 3\r\nabc\r\nversion\r\n";
        let Frame::Put { set, body: b"abc", len: 18 } = frame(input, 10, NAMES) else { panic!() };
        assert_eq!(set.flags, 1);
        let Frame::Command { command: command::Command::Version, len: 9 } = frame(&input[18..], 10, NAMES) else {
            panic!()
        };
        let input = b"SET q 0 0 3\nabcxyversion\r\n";
        let Frame::Put { set, body: b"abc", len: 17 } = kestrel_frame(input, 10) else { panic!() };
        assert_eq!(set.size, 3);
        let rest = kestrel_frame(&input[17..], 10);
        let Frame::Command { command: kestrel::Command::Version, len: 9 } = rest else { panic!() };
    }

    #[test]
    fn every_prefix_of_a_request_is_partial_and_asks_for_no_more_than_the_rest() {
        for input in [&b"set q 1 0 3\r\nabc\r\n"[..], b"get q\n", b"set q 0 0 0\n\r\n"] {
            for cut in 0..input.len() {
                let partial = |need| need > cut && need <= input.len();
                let (own, kestrels) = (frame(&input[..cut], 10, NAMES), kestrel_frame(&input[..cut], 10));
                assert!(matches!(own, Frame::Partial { need, .. } if partial(need)), "{cut}: {own:?}");
                assert!(matches!(kestrels, Frame::Partial { need, .. } if partial(need)), "{cut}: {kestrels:?}");
            }
        }
    }

    #[test]
    fn a_body_must_end_where_it_said() {
        for input in [&b"set q 0 0 3\r\nabcd\r\n"[..], b"set q 0 0 3\r\nabc\n\n", b"set q 0 0 3\r\nabcd"] {
            let Frame::Fatal { reply: reply::BAD_DATA_CHUNK } = frame(input, 10, NAMES) else { panic!("{input:?}") };
        }
    }

    #[test]
    fn the_first_byte_behind_a_body_is_looked_at_when_it_comes() {
        let input = b"set q 0 0 3\r\nabc";
        assert_eq!(frame(input, 10, NAMES), Frame::Partial { need: input.len() + 1, body_size: 3 });
    }

    #[test]
    fn a_line_has_a_longest_length_with_either_line_end() {
        let at_limit = [vec![b'x'; LINE_LEN_MAX], b"\r\n".to_vec()].concat();
        let Frame::Refused { reply: reply::ERROR, .. } = frame(&at_limit, 10, NAMES) else { panic!() };
        let over = [vec![b'x'; LINE_LEN_MAX + 1], b"\n".to_vec()].concat();
        for input in [&over[..], &vec![b'x'; LINE_LEN_MAX + 2]] {
            let Frame::Fatal { reply: reply::LINE_TOO_LONG } = frame(input, 10, NAMES) else { panic!() };
        }
        let Frame::Partial { .. } = frame(&at_limit[..LINE_LEN_MAX + 1], 10, NAMES) else { panic!() };
    }
}
