//! What stands behind a queue name, as in `q/open/t=500` or `q#reader/open`, and numbers. The words are Kestrel's where Kestrel has them.
//!
//! Invariant: options that make no sense together are refused before anything happens.

use super::reply;
use crate::limits::{GROUP_LEN_MAX, NAME_LEN_MAX, OPTIONS_LEN_MAX};
use std::borrow::Cow;

/// The options of a get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetOptions {
    /// As the client wrote them, for the echo.
    text: [u8; OPTIONS_LEN_MAX],
    len: u8,
    /// `/open`: the message is read, and goes when that is confirmed.
    pub open: bool,
    /// `/close`: confirms this connection's oldest open read of the queue.
    pub close: bool,
    /// `/abort`: gives it back.
    pub abort: bool,
    /// `/peek`: the message stays where it is.
    pub peek: bool,
    /// `/t=MS`: how long to wait for a message, ms.
    pub wait_ms: Option<u64>,
    /// `/ttr=S`: the read ends by itself, s.
    pub ttr_s: Option<u32>,
    /// `/group=NAME`, or a reader behind its separator: where the name stands in the text.
    group: Option<(u8, u8)>,
}

impl GetOptions {
    /// Reads options, each with its slash. A byte other than that at the beginning introduces a reader.
    ///
    /// # Errors
    /// The reply that says what is wrong.
    pub fn parse(text: &[u8]) -> Result<GetOptions, &'static [u8]> {
        let mut options = GetOptions {
            text: [0; OPTIONS_LEN_MAX],
            len: 0,
            open: false,
            close: false,
            abort: false,
            peek: false,
            wait_ms: None,
            ttr_s: None,
            group: None,
        };
        options.text.get_mut(..text.len()).ok_or(reply::OPTIONS_TOO_LONG)?.copy_from_slice(text);
        options.len = text.len() as u8;
        let mut parts = text.split(|b| *b == b'/');
        let reader = parts.next().unwrap_or_default();
        if let Some((_, name)) = reader.split_first() {
            options.set_group(name, 1)?;
        }
        let mut at = reader.len();
        for option in parts {
            at += 1;
            options.add(option, at)?;
            at += option.len();
        }
        let is_read = options.open || options.close;
        let contradicts = (options.peek || options.abort) && is_read || options.peek && options.abort;
        if contradicts || options.ttr_s.is_some() && !options.open {
            return Err(reply::CONTRADICTING_OPTIONS);
        }
        Ok(options)
    }

    /// Takes in one option, without its slash, that begins at this byte of the text.
    fn add(&mut self, option: &[u8], at: usize) -> Result<(), &'static [u8]> {
        match option {
            b"open" => self.open = true,
            b"close" => self.close = true,
            b"abort" => self.abort = true,
            b"peek" => self.peek = true,
            _ => {
                if let Some(ms) = option.strip_prefix(b"t=") {
                    set_once(&mut self.wait_ms, number(ms))?;
                } else if let Some(s) = option.strip_prefix(b"ttr=") {
                    set_once(&mut self.ttr_s, number(s).filter(|s| *s > 0).and_then(|s| u32::try_from(s).ok()))?;
                } else if let Some(group) = option.strip_prefix(b"group=") {
                    self.set_group(group, at + option.len() - group.len())?;
                } else {
                    return Err(reply::UNKNOWN_OPTION);
                }
            }
        }
        Ok(())
    }

    fn set_group(&mut self, name: &[u8], at: usize) -> Result<(), &'static [u8]> {
        let is_valid = !name.is_empty() && name.len() <= GROUP_LEN_MAX;
        set_once(&mut self.group, is_valid.then_some((at as u8, name.len() as u8)))
    }

    /// The options with their slashes, as the client wrote them.
    pub fn as_written(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }

    /// The group that reads.
    pub fn group(&self) -> Option<&[u8]> {
        let (start, len) = self.group?;
        Some(&self.text[usize::from(start)..][..usize::from(len)])
    }

    /// Whether the get may have to wait for a message to come.
    pub fn waits(&self) -> bool {
        self.wait_ms.is_some_and(|ms| ms > 0)
    }
}

fn set_once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), &'static [u8]> {
    match value {
        Some(value) if place.is_none() => *place = Some(value),
        _ => return Err(reply::BAD_FORMAT),
    }
    Ok(())
}

/// `/ttl=S` of a put, s, or nothing.
///
/// # Errors
/// The reply that says what is wrong.
pub fn ttl(text: &[u8]) -> Result<Option<u32>, &'static [u8]> {
    let mut ttl_s = None;
    for option in text.split(|b| *b == b'/').skip(1) {
        let digits = option.strip_prefix(b"ttl=").ok_or(reply::UNKNOWN_OPTION)?;
        set_once(&mut ttl_s, number(digits).and_then(|s| u32::try_from(s).ok()))?;
    }
    Ok(ttl_s)
}

/// What stands between a queue's name and its group's in the name of the group as the server keeps it: no queue can have that.
const GROUP: &[u8] = b"/group=";

/// Bytes of the [`reader_name`] of a group.
pub fn group_name_len(queue: &[u8], group: &[u8]) -> usize {
    queue.len() + GROUP.len() + group.len()
}

/// Under which name the server keeps a queue, or a group of it.
pub fn reader_name<'a>(queue: &'a [u8], group: Option<&[u8]>) -> Cow<'a, [u8]> {
    match group {
        None => Cow::Borrowed(queue),
        Some(group) => Cow::Owned([queue, GROUP, group].concat()),
    }
}

/// The queue's part of a name: all of it, unless it is the name of a group.
pub fn queue_of(name: &[u8]) -> &[u8] {
    memchr::memchr(b'/', name).map_or(name, |at| &name[..at])
}

/// A valid queue name, and what follows it from the first `/` on.
///
/// # Errors
/// The reply that says what is wrong.
pub fn split(word: &[u8]) -> Result<(&[u8], &[u8]), &'static [u8]> {
    let mut name_len = word.len();
    for (i, &byte) in word.iter().enumerate() {
        if byte < 0x20 || byte == 0x7f {
            return Err(reply::BAD_FORMAT);
        }
        if byte == b'/' && name_len == word.len() {
            name_len = i;
        }
    }
    if name_len == 0 || name_len > NAME_LEN_MAX {
        return Err(reply::BAD_FORMAT);
    }
    Ok(word.split_at(name_len))
}

/// Decimal digits and nothing else, within u64.
pub fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &byte in word {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// An exptime is any signed 64-bit integer.
pub fn exptime(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        None => number(word).and_then(|n| i64::try_from(n).ok()),
        Some(digits) => number(digits).and_then(|n| 0i64.checked_sub_unsigned(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GetOptions {
        let options = GetOptions::parse(text.as_bytes()).unwrap();
        assert_eq!(options.as_written(), text.as_bytes());
        options
    }

    #[test]
    fn options_stand_in_any_order() {
        for text in ["/open/t=5/ttr=7/group=g", "/group=g/ttr=7/t=5/open", "/t=5/open/group=g/ttr=7"] {
            let options = parse(text);
            assert!(options.open && !options.close && !options.abort && !options.peek);
            assert_eq!((options.wait_ms, options.ttr_s, options.group()), (Some(5), Some(7), Some(&b"g"[..])));
        }
        assert!(parse("/close/open").close && parse("/close/open").open);
        assert!(parse("/t=1").waits() && !parse("/t=0").waits() && !parse("/peek").waits());
        assert_eq!(parse("/t=18446744073709551615").wait_ms, Some(u64::MAX));
    }

    #[test]
    fn a_groups_name_begins_with_its_queues() {
        let name = reader_name(b"orders", Some(b"audit"));
        assert_eq!((&name[..], name.len()), (&b"orders/group=audit"[..], group_name_len(b"orders", b"audit")));
        assert_eq!((queue_of(&name), queue_of(b"orders")), (&b"orders"[..], &b"orders"[..]));
        assert_eq!(reader_name(b"orders", None), Cow::Borrowed(b"orders"));
    }

    #[test]
    fn exptime_is_any_signed_64_bit_integer() {
        for (word, value) in [("0", 0), ("-0", 0), ("-1", -1), ("9223372036854775807", i64::MAX)] {
            assert_eq!(exptime(word.as_bytes()), Some(value));
        }
        assert_eq!(exptime(b"-9223372036854775808"), Some(i64::MIN));
        for word in ["9223372036854775808", "-9223372036854775809", "", "-", "+1", "--1"] {
            assert_eq!(exptime(word.as_bytes()), None, "{word}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusal = |text: &str| GetOptions::parse(text.as_bytes()).unwrap_err();
        for text in ["/peek/open", "/abort/close", "/peek/abort", "/ttr=5", "/close/ttr=5", "/peek/ttr=1"] {
            assert_eq!(refusal(text), reply::CONTRADICTING_OPTIONS, "{text}");
        }
        for text in ["/", "/OPEN", "/open/", "/opens", "/x=1", "//open"] {
            assert_eq!(refusal(text), reply::UNKNOWN_OPTION, "{text}");
        }
        for text in
            ["/t=", "/t=-1", "/t=1/t=1", "/t=18446744073709551616", "/open/ttr=0", "/open/ttr=4294967296", "/group="]
        {
            assert_eq!(refusal(text), reply::BAD_FORMAT, "{text}");
        }
        let long = format!("/group={}", "g".repeat(GROUP_LEN_MAX));
        assert_eq!(parse(&long).group().unwrap().len(), GROUP_LEN_MAX);
        assert_eq!(refusal(&format!("{long}g")), reply::BAD_FORMAT);
        assert_eq!(refusal(&"/open".repeat(40)), reply::OPTIONS_TOO_LONG);
    }
}
