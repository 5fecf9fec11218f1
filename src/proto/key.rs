//! Names as clients write them: of a queue, perhaps with options behind it, perhaps with a group.
//!
//! A group is named by the option `/group=`. Where the operator wants it, one character introduces it too, so that clients whose keys
//! cannot have options, or that have such keys already, read from groups: `queue#reader`.
//!
//! Invariant: what is taken for a name is valid, and a group's name fits one name together with its queue's.

use super::options::{GetOptions, group_name_len, number, split, ttl};
use super::reply;
use crate::ids::MessageId;
use crate::limits::{GROUP_LEN_MAX, NAME_LEN_MAX};

/// A valid queue name as the client wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'a> {
    /// 1 to 250 bytes, none of them a control byte, a space or `/`.
    pub name: &'a [u8],
}

/// A queue, perhaps a group of it, perhaps a message.
pub(super) type Addressed<'a> = (Key<'a>, Option<&'a [u8]>, Option<MessageId>);

/// How names are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// `--reader-separator`.
    pub reader_separator: Option<u8>,
}

impl Names {
    /// A queue name where no option has a meaning.
    ///
    /// # Errors
    /// As for all of these, the reply that says what is wrong.
    pub(super) fn plain(self, word: &[u8]) -> Result<Key<'_>, &'static [u8]> {
        let (name, options) = self.split(word)?;
        options.is_empty().then_some(Key { name }).ok_or(reply::UNKNOWN_OPTION)
    }

    /// `queue/ttl=S` of a put, with or without the option.
    pub(super) fn with_ttl(self, word: &[u8]) -> Result<(Key<'_>, Option<u32>), &'static [u8]> {
        let (name, text) = self.split(word)?;
        if split_reader(text).0.is_some() {
            return Err(reply::PUT_TO_READER);
        }
        Ok((Key { name }, ttl(text)?))
    }

    /// A queue name of a get, with its options if it has some; a reader behind the separator is one.
    pub(super) fn with_options(self, word: &[u8]) -> Result<(Key<'_>, Option<GetOptions>), &'static [u8]> {
        let (name, text) = self.split(word)?;
        if text.is_empty() {
            return Ok((Key { name }, None));
        }
        let options = GetOptions::parse(text)?;
        check_group(name, options.group())?;
        Ok((Key { name }, Some(options)))
    }

    /// `queue/id=ID` of `delete` and `touch`, with a group before or behind the id or without one.
    pub(super) fn with_id(self, word: &[u8]) -> Result<Addressed<'_>, &'static [u8]> {
        let (name, text) = self.split(word)?;
        let (reader, options) = split_reader(text);
        let (mut group, mut id) = (reader.map(valid_group).transpose()?, None);
        for option in options {
            if let Some(name) = option.strip_prefix(b"group=") {
                let is_first = group.is_none();
                group = Some(valid_group(name).ok().filter(|_| is_first).ok_or(reply::BAD_FORMAT)?);
            } else if let Some(digits) = option.strip_prefix(b"id=") {
                let number = number(digits).filter(|_| id.is_none()).ok_or(reply::BAD_FORMAT)?;
                id = Some(MessageId(number));
            } else {
                return Err(reply::UNKNOWN_OPTION);
            }
        }
        check_group(name, group)?;
        Ok((Key { name }, group, id))
    }

    /// A queue name, with a group behind it or without one.
    pub(super) fn with_group(self, word: &[u8]) -> Result<(Key<'_>, Option<&[u8]>), &'static [u8]> {
        match self.with_id(word)? {
            (key, group, None) => Ok((key, group)),
            (_, _, Some(_)) => Err(reply::UNKNOWN_OPTION),
        }
    }

    /// A queue's name, and what follows it from the first separator or `/` on.
    fn split(self, word: &[u8]) -> Result<(&[u8], &[u8]), &'static [u8]> {
        let (name, options) = split(word)?;
        let reader = self.reader_separator.and_then(|separator| memchr::memchr(separator, name));
        match reader {
            None => Ok((name, options)),
            Some(0) => Err(reply::BAD_FORMAT),
            Some(at) => Ok(word.split_at(at)),
        }
    }
}

/// What stands behind a queue's name: the reader behind the separator, if there is one, and the options, each without its slash.
fn split_reader(text: &[u8]) -> (Option<&[u8]>, impl Iterator<Item = &[u8]>) {
    let mut parts = text.split(|b| *b == b'/');
    let reader = parts.next().filter(|reader| !reader.is_empty()).map(|reader| &reader[1..]);
    (reader, parts)
}

fn valid_group(name: &[u8]) -> Result<&[u8], &'static [u8]> {
    (1..=GROUP_LEN_MAX).contains(&name.len()).then_some(name).ok_or(reply::BAD_FORMAT)
}

/// A queue's name and that of its group have to fit one name together.
fn check_group(name: &[u8], group: Option<&[u8]>) -> Result<(), &'static [u8]> {
    let is_short = group.is_none_or(|group| group_name_len(name, group) <= NAME_LEN_MAX);
    is_short.then_some(()).ok_or(reply::BAD_FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Names = Names { reader_separator: None };
    const HASH: Names = Names { reader_separator: Some(b'#') };

    #[test]
    fn a_separator_introduces_a_reader() {
        for (word, queue, group) in
            [("q#r", "q", Some("r")), ("q#r#s", "q", Some("r#s")), ("q/group=r", "q", Some("r")), ("q", "q", None)]
        {
            let expected = (Key { name: queue.as_bytes() }, group.map(str::as_bytes));
            assert_eq!(HASH.with_group(word.as_bytes()), Ok(expected), "{word}");
            let (key, options) = HASH.with_options(word.as_bytes()).unwrap();
            assert_eq!((key, options.as_ref().and_then(GetOptions::group)), expected, "{word}");
        }
        assert_eq!(PLAIN.with_group(b"q#r"), Ok((Key { name: b"q#r" }, None)));
        let id = Some(MessageId(7));
        assert_eq!(HASH.with_id(b"q#r/id=7"), Ok((Key { name: b"q" }, Some(&b"r"[..]), id)));
    }

    #[test]
    fn options_follow_a_reader() {
        let (_, options) = HASH.with_options(b"q#r/open/t=5").unwrap();
        let options = options.unwrap();
        assert!(options.open);
        assert_eq!(
            (options.wait_ms, options.group(), options.as_written()),
            (Some(5), Some(&b"r"[..]), &b"#r/open/t=5"[..])
        );
        // On its way to another shard it is read once more, as it was written.
        assert_eq!(GetOptions::parse(options.as_written()), Ok(options));
    }

    #[test]
    fn a_reader_that_cannot_be_is_refused() {
        let long = format!("q#{}", "r".repeat(GROUP_LEN_MAX + 1));
        let together = format!("{}#r", "q".repeat(NAME_LEN_MAX - 7));
        for word in ["q#", "#r", "q#/open", "q#r/group=s", &long, &together] {
            assert_eq!(HASH.with_options(word.as_bytes()), Err(reply::BAD_FORMAT), "{word}");
        }
        for word in ["q#", "#r", "q#r/group=s", "q#r/id=1/group=s", &long, &together] {
            assert_eq!(HASH.with_id(word.as_bytes()), Err(reply::BAD_FORMAT), "{word}");
        }
        assert_eq!(HASH.with_ttl(b"q#r"), Err(reply::PUT_TO_READER));
        assert_eq!(HASH.with_ttl(b"q#r/ttl=1"), Err(reply::PUT_TO_READER));
        assert_eq!(PLAIN.with_ttl(b"q#r"), Ok((Key { name: b"q#r" }, None)));
        assert_eq!(HASH.plain(b"q#r"), Err(reply::UNKNOWN_OPTION));
    }
}
