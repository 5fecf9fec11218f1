//! One command line → one [`Line`]: the command, or how to refuse it and where the next command begins.
//!
//! Invariant: whatever a refused line says about a body, that body is skipped, never read as commands; where its length
//! cannot be known the connection is closed. Nothing here allocates.

use super::key::{Key, Names};
use super::options::{GetOptions, number};
use super::{options, reply};
use crate::ids::MessageId;
use crate::limits::BODY_ANNOUNCED_MAX;

/// What a line turned out to be.
pub type Line<'a> = super::line::Line<Command<'a>, SetLine<'a>>;

/// The head of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetLine<'a> {
    /// Where to.
    pub key: Key<'a>,
    /// Returned as sent.
    pub flags: u32,
    /// How long the message is good.
    pub lifetime: Lifetime,
    /// Size of the body, bytes.
    pub size: usize,
    /// The client wants no answer.
    pub noreply: bool,
}

/// How long a message is good, as its put says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lifetime {
    /// As memcached has it: 0: for ever; negative: not at all; s from now or, if large, since the epoch. Only some queues care.
    pub exptime: i64,
    /// `/ttl=S`, s from now, 0: for ever. Goes before the exptime.
    pub ttl_s: Option<u32>,
    /// When it is over, wall clock, ms; goes before both. 0: they say.
    pub expires_ms: u64,
}

/// A command that is complete with its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Command<'a> {
    Get {
        keys: Keys<'a>,
        cas: bool,
    },
    /// A get of one key with options.
    GetWith {
        key: Key<'a>,
        options: GetOptions,
        cas: bool,
    },
    /// Ends a queue's life, or a group's.
    Delete {
        key: Key<'a>,
        group: Option<&'a [u8]>,
        noreply: bool,
    },
    /// Confirms the open read of one message.
    Confirm {
        key: Key<'a>,
        group: Option<&'a [u8]>,
        message: MessageId,
        noreply: bool,
    },
    /// Sets when the open read of one message ends by itself: so many seconds from now.
    Touch {
        key: Key<'a>,
        group: Option<&'a [u8]>,
        message: MessageId,
        seconds: u32,
        noreply: bool,
    },
    /// Empties one queue, for all its readers, or one group.
    Flush {
        key: Key<'a>,
        group: Option<&'a [u8]>,
        noreply: bool,
    },
    /// Changes what a queue does: words `key=value`, at least one.
    Configure {
        key: Key<'a>,
        words: Words<'a>,
        noreply: bool,
    },
    /// Shows what a queue does.
    ShowSettings {
        key: Key<'a>,
    },
    /// `is_valid`: without a delay. A server that does not offer the command does not judge it.
    FlushAll {
        is_valid: bool,
        noreply: bool,
    },
    Stats(Report),
    StatsReset,
    StatsLatencyReset,
    StatsSettings,
    StatsQueues,
    StatsConnections,
    /// Of one queue, or a group, which the client has written so.
    StatsQueue {
        key: Key<'a>,
        group: Option<&'a [u8]>,
        word: &'a [u8],
    },
    Version,
    Verbosity {
        level: u8,
        noreply: bool,
    },
    Checkpoint,
    Quit,
    Shutdown,
}

/// What `stats` can say that all shards have a part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Report {
    /// `stats`
    General,
    /// `stats latency`
    Latency,
    /// `stats commit`
    Commit,
    /// `stats shards`
    Shards,
    /// `stats sizes`
    Sizes,
    /// `stats` of Kestrel's
    Kestrel,
    /// How many messages `flush_all_expired` of Kestrel's has removed
    FlushExpired,
}

impl Report {
    /// All of them, each at the place of its number.
    pub const ALL: [Report; 7] = [
        Report::General,
        Report::Latency,
        Report::Commit,
        Report::Shards,
        Report::Sizes,
        Report::Kestrel,
        Report::FlushExpired,
    ];
}

/// The keys of a get, all of them valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'a> {
    words: &'a [u8],
}

/// Words of a line that are nobody's yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words<'a> {
    /// As the client wrote them, with spaces between.
    pub text: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        next_word(&mut self.text)
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = Key<'a>;

    fn next(&mut self) -> Option<Key<'a>> {
        next_word(&mut self.words).map(|name| Key { name })
    }
}

/// Parses one line, without its line end. `body_size_max` is `-B`.
pub fn parse_line(line: &[u8], body_size_max: usize, names: Names) -> Line<'_> {
    match parse_words(line, body_size_max, names) {
        Line::Refused { .. } if is_http(line) => Line::Fatal { reply: b"" },
        parsed => parsed,
    }
}

fn parse_words(line: &[u8], body_size_max: usize, names: Names) -> Line<'_> {
    let mut words = line;
    let Some(first) = next_word(&mut words) else {
        return ERROR;
    };
    // The two commands that carry the load come first and cost no folding of case.
    match first {
        b"get" => return get(words, false, names),
        b"set" => return set(words, body_size_max, names),
        _ => {}
    }
    let mut folded = [0u8; 16];
    let Some(command) = folded.get_mut(..first.len()) else {
        return ERROR;
    };
    command.copy_from_slice(first);
    command.make_ascii_lowercase();
    match &*command {
        b"get" => get(words, false, names),
        b"gets" => get(words, true, names),
        b"set" => set(words, body_size_max, names),
        // add k flags exptime bytes [noreply] and its kin: no meaning for a queue, but their bodies must not become commands.
        b"add" | b"replace" | b"append" | b"prepend" => without_meaning(words, 3, 4),
        // cas k flags exptime bytes unique [noreply]
        b"cas" => without_meaning(words, 3, 5),
        // ms k datalen flags*
        b"ms" => meta_set(words),
        // They mean nothing to a queue either, and have no body.
        b"incr" | b"decr" => refused_line(words),
        b"touch" => touch(words, names),
        b"delete" => delete(words, names),
        b"flush" => flush(words, names),
        b"flush_all" => flush_all(words),
        b"config" => config(words, names),
        b"stats" => stats(words, names),
        b"version" => bare(words, Command::Version),
        b"verbosity" => verbosity(words),
        b"quit" => bare(words, Command::Quit),
        b"shutdown" => bare(words, Command::Shutdown),
        b"db_checkpoint" | b"db_archive" => bare(words, Command::Checkpoint),
        _ => ERROR,
    }
}

const ERROR: Line<'static> = Line::Refused { reply: reply::ERROR, skip: 0 };
const BAD_FORMAT: Line<'static> = Line::Refused { reply: reply::BAD_FORMAT, skip: 0 };

/// `get key+` | `get key/options`, and the same with `gets`
fn get(words: &[u8], cas: bool, names: Names) -> Line<'_> {
    let mut rest = words;
    let mut count = 0;
    let mut single = None;
    while let Some(word) = next_word(&mut rest) {
        match names.with_options(word) {
            Ok((key, Some(options))) => single = Some((key, options)),
            Ok((_, None)) => {}
            Err(refusal) => return Line::Refused { reply: refusal, skip: 0 },
        }
        count += 1;
    }
    match (single, count) {
        (_, 0) => ERROR,
        (None, _) => Line::Command(Command::Get { keys: Keys { words }, cas }),
        (Some((key, options)), 1) => Line::Command(Command::GetWith { key, options, cas }),
        (Some(_), _) => Line::Refused { reply: reply::ONE_KEY, skip: 0 },
    }
}

/// `set key flags exptime bytes [noreply]`
fn set(mut words: &[u8], body_size_max: usize, names: Names) -> Line<'_> {
    let (Some(name), Some(flags), Some(exptime), Some(size)) =
        (next_word(&mut words), next_word(&mut words), next_word(&mut words), next_word(&mut words))
    else {
        return ERROR;
    };
    let Some(size) = body_size(size) else {
        return Line::Fatal { reply: reply::BAD_FORMAT };
    };
    let refused = |reply| Line::Refused { reply, skip: size + 2 };
    let Some(noreply) = noreply(words) else {
        return refused(reply::BAD_FORMAT);
    };
    let Some(flags) = number(flags).and_then(|n| u32::try_from(n).ok()) else {
        return refused(reply::BAD_FORMAT);
    };
    let Some(exptime) = options::exptime(exptime) else {
        return refused(reply::BAD_FORMAT);
    };
    let (key, ttl_s) = match names.with_ttl(name) {
        Ok(of) => of,
        Err(refusal) => return refused(refusal),
    };
    let lifetime = Lifetime { exptime, ttl_s, expires_ms: 0 };
    match usize::try_from(size) {
        Ok(size) if size <= body_size_max => Line::Set(SetLine { key, flags, lifetime, size, noreply }),
        _ => refused(if noreply { b"" } else { reply::TOO_LARGE }),
    }
}

/// A storage command that RingQ does not have: `size_at` words stand before its body's length, and the word at
/// `noreply_at` may be `noreply`.
fn without_meaning(mut words: &[u8], size_at: usize, noreply_at: usize) -> Line<'_> {
    let mut size = None;
    let mut silent = false;
    let mut index = 0;
    while let Some(word) = next_word(&mut words) {
        if index == size_at {
            match body_size(word) {
                Some(n) => size = Some(n),
                None => return Line::Fatal { reply: reply::BAD_FORMAT },
            }
        }
        silent |= index == noreply_at && is_noreply(word);
        index += 1;
    }
    match size {
        Some(size) => Line::Refused { reply: if silent { b"" } else { reply::ERROR }, skip: size + 2 },
        None => ERROR,
    }
}

/// `ms key size flag*`: the meta protocol is not spoken, but its bodies are known.
fn meta_set(mut words: &[u8]) -> Line<'_> {
    next_word(&mut words);
    match next_word(&mut words).and_then(body_size) {
        Some(size) => Line::Refused { reply: reply::ERROR, skip: size + 2 },
        None => ERROR,
    }
}

/// A command that is not served, but that clients send without waiting for an answer.
fn refused_line(mut words: &[u8]) -> Line<'_> {
    let mut last: &[u8] = b"";
    while let Some(word) = next_word(&mut words) {
        last = word;
    }
    if is_noreply(last) { Line::Refused { reply: b"", skip: 0 } } else { ERROR }
}

/// `delete key [word] [noreply]`: old clients send a time, which means nothing.
fn delete(mut words: &[u8], names: Names) -> Line<'_> {
    let Some(name) = next_word(&mut words) else {
        return ERROR;
    };
    let noreply = match (next_word(&mut words), next_word(&mut words)) {
        (None, _) => false,
        (Some(word), None) => is_noreply(word),
        (Some(_), Some(word)) if is_noreply(word) && next_word(&mut words).is_none() => true,
        _ => return ERROR,
    };
    match names.with_id(name) {
        Ok((key, group, None)) => Line::Command(Command::Delete { key, group, noreply }),
        Ok((key, group, Some(message))) => Line::Command(Command::Confirm { key, group, message, noreply }),
        Err(reply) => Line::Refused { reply, skip: 0 },
    }
}

/// `touch key/id=ID seconds [noreply]`. Without an id it means nothing to a queue.
fn touch(words: &[u8], names: Names) -> Line<'_> {
    let mut rest = words;
    let (name, seconds) = (next_word(&mut rest), next_word(&mut rest));
    let Some(noreply) = noreply(rest) else { return ERROR };
    let (Some(name), Some(seconds)) = (name, seconds) else { return refused_line(words) };
    match names.with_id(name) {
        Ok((key, group, Some(message))) => match number(seconds).and_then(|s| u32::try_from(s).ok()) {
            Some(seconds) => Line::Command(Command::Touch { key, group, message, seconds, noreply }),
            None => BAD_FORMAT,
        },
        Ok((_, _, None)) => refused_line(words),
        Err(reply) => Line::Refused { reply, skip: 0 },
    }
}

/// `flush key [noreply]`
fn flush(mut words: &[u8], names: Names) -> Line<'_> {
    let Some(name) = next_word(&mut words) else {
        return ERROR;
    };
    let Some(noreply) = noreply(words) else { return ERROR };
    match names.with_group(name) {
        Ok((key, group)) => Line::Command(Command::Flush { key, group, noreply }),
        Err(reply) => Line::Refused { reply, skip: 0 },
    }
}

/// `config key` | `config key setting=value+ [noreply]`
fn config(mut words: &[u8], names: Names) -> Line<'_> {
    let Some(name) = next_word(&mut words) else {
        return ERROR;
    };
    let key = match names.plain(name) {
        Ok(key) => key,
        Err(reply) => return Line::Refused { reply, skip: 0 },
    };
    let Some(last) = (Words { text: words }).last() else {
        return Line::Command(Command::ShowSettings { key });
    };
    let noreply = is_noreply(last);
    if noreply {
        let end = words.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1 - last.len());
        words = &words[..end];
    }
    let words = Words { text: words };
    if words.clone().next().is_none() { ERROR } else { Line::Command(Command::Configure { key, words, noreply }) }
}

/// `flush_all [0] [noreply]`
fn flush_all(mut words: &[u8]) -> Line<'_> {
    let (delay, noreply) = match (next_word(&mut words), next_word(&mut words)) {
        (None, _) => (None, false),
        (Some(word), None) if is_noreply(word) => (None, true),
        (Some(delay), None) => (Some(delay), false),
        (Some(delay), Some(word)) if is_noreply(word) && next_word(&mut words).is_none() => (Some(delay), true),
        _ => return ERROR,
    };
    let is_valid = delay.is_none_or(|delay| number(delay) == Some(0));
    Line::Command(Command::FlushAll { is_valid, noreply })
}

/// `stats` | `stats reset` | `stats settings` | `stats queue [key]` | `stats latency [reset]` | `stats commit|conns|shards|sizes`
fn stats(mut words: &[u8], names: Names) -> Line<'_> {
    let Some(what) = next_word(&mut words) else {
        return Line::Command(Command::Stats(Report::General));
    };
    let is = |name: &[u8]| what.eq_ignore_ascii_case(name);
    if is(b"reset") {
        bare(words, Command::StatsReset)
    } else if is(b"settings") {
        bare(words, Command::StatsSettings)
    } else if is(b"queue") {
        stats_queue(words, names)
    } else if is(b"latency") {
        match next_word(&mut words) {
            None => Line::Command(Command::Stats(Report::Latency)),
            Some(word) if word.eq_ignore_ascii_case(b"reset") => bare(words, Command::StatsLatencyReset),
            Some(_) => ERROR,
        }
    } else if is(b"commit") {
        bare(words, Command::Stats(Report::Commit))
    } else if is(b"conns") {
        bare(words, Command::StatsConnections)
    } else if is(b"shards") {
        bare(words, Command::Stats(Report::Shards))
    } else if is(b"sizes") {
        bare(words, Command::Stats(Report::Sizes))
    } else {
        ERROR
    }
}

/// `stats queue [key]`
fn stats_queue(mut words: &[u8], names: Names) -> Line<'_> {
    match (next_word(&mut words), next_word(&mut words)) {
        (None, _) => Line::Command(Command::StatsQueues),
        (Some(word), None) => match names.with_group(word) {
            Ok((key, group)) => Line::Command(Command::StatsQueue { key, group, word }),
            Err(reply) => Line::Refused { reply, skip: 0 },
        },
        _ => ERROR,
    }
}

/// `verbosity n [noreply]`
fn verbosity(mut words: &[u8]) -> Line<'_> {
    let Some(level) = next_word(&mut words) else {
        return ERROR;
    };
    let Some(noreply) = noreply(words) else { return ERROR };
    match number(level) {
        Some(n) => Line::Command(Command::Verbosity { level: n.min(2) as u8, noreply }),
        None => BAD_FORMAT,
    }
}

/// A command of one word.
fn bare<'a>(mut words: &'a [u8], command: Command<'a>) -> Line<'a> {
    if next_word(&mut words).is_some() { ERROR } else { Line::Command(command) }
}

/// A body's length: digits that fit what can be skipped.
fn body_size(word: &[u8]) -> Option<u64> {
    number(word).filter(|size| *size <= BODY_ANNOUNCED_MAX)
}

/// Whether a line ends in `noreply` or here. `None`: it goes on with something else.
fn noreply(mut words: &[u8]) -> Option<bool> {
    match (next_word(&mut words), next_word(&mut words)) {
        (None, _) => Some(false),
        (Some(word), None) if is_noreply(word) => Some(true),
        _ => None,
    }
}

fn is_noreply(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"noreply")
}

/// A browser, or a page that makes one send requests here: not a client.
fn is_http(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") || line.starts_with(b"Host:")
}

/// Takes the next word off the front. Words are separated by one or more spaces; a tab is an ordinary (control) byte.
fn next_word<'a>(words: &mut &'a [u8]) -> Option<&'a [u8]> {
    let start = words.iter().position(|b| *b != b' ')?;
    let rest = &words[start..];
    let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
    *words = &rest[end..];
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NAME_LEN_MAX;

    fn parse(line: &[u8]) -> Line<'_> {
        parse_line(line, 1024, Names::default())
    }

    #[test]
    fn a_set_line_gives_its_words() {
        let lifetime = Lifetime::default();
        let expected = SetLine { key: Key { name: b"q" }, flags: 7, lifetime, size: 5, noreply: false };
        assert_eq!(parse(b"set q 7 0 5"), Line::Set(expected));
        let lifetime = Lifetime { exptime: -1, ttl_s: None, expires_ms: 0 };
        assert_eq!(parse(b" SET  q 7  -1 5 "), Line::Set(SetLine { lifetime, ..expected }));
        let lifetime = Lifetime { exptime: 0, ttl_s: Some(9), expires_ms: 0 };
        assert_eq!(parse(b"set q/ttl=9 7 0 5"), Line::Set(SetLine { lifetime, ..expected }));
        assert_eq!(parse(b"set q 7 0 5 noreply"), Line::Set(SetLine { noreply: true, ..expected }));
    }

    #[test]
    fn a_refused_set_skips_its_body_or_closes() {
        for (line, skip) in [
            (&b"set q -1 0 5"[..], 7),
            (b"set q 4294967296 0 5", 7),
            (b"set q 0 x 5", 7),
            (b"set q 0 9223372036854775808 5", 7),
            (b"set q 0 0 5 quiet", 7),
            (b"set q 0 0 5 noreply x", 7),
            (b"set a\x01b 0 0 5", 7),
        ] {
            assert_eq!(parse(line), Line::Refused { reply: reply::BAD_FORMAT, skip }, "{line:?}");
        }
        for line in
            [&b"set q 0 0 -1"[..], b"set q 0 0 2147483648", b"set q 0 0 x", b"set q 0 0 99999999999999999999999"]
        {
            assert_eq!(parse(line), Line::Fatal { reply: reply::BAD_FORMAT }, "{line:?}");
        }
        assert_eq!(parse(b"set q 0 0 1025"), Line::Refused { reply: reply::TOO_LARGE, skip: 1027 });
        assert_eq!(parse(b"set q 0 0 1025 noreply"), Line::Refused { reply: b"", skip: 1027 });
        assert_eq!(parse(b"set q/x 0 0 5"), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 7 });
        assert_eq!(parse(b"set q 0 0"), ERROR);
    }

    #[test]
    fn keys_are_checked_before_any_is_used() {
        let Line::Command(Command::Get { keys, cas: false }) = parse(b"get a  b c ") else { panic!() };
        assert_eq!(keys.map(|k| k.name.to_vec()).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        let long = [b"get a ".to_vec(), vec![b'k'; 251]].concat();
        assert_eq!(parse(&long), BAD_FORMAT);
        assert_eq!(parse(b"get a b/opens"), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 0 });
        assert_eq!(parse(b"get /open"), BAD_FORMAT);
        assert_eq!(parse(b"get a\tb"), BAD_FORMAT);
        assert_eq!(parse(b"get"), ERROR);
        assert!(matches!(parse(b"gets \xff\xfe"), Line::Command(Command::Get { cas: true, .. })));
    }

    #[test]
    fn options_stand_behind_a_single_key() {
        let with = |line| match parse(line) {
            Line::Command(Command::GetWith { key, options, cas }) => {
                (key.name.to_vec(), options.as_written().to_vec(), options.wait_ms, cas)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(with(b"get q/t=500"), (b"q".to_vec(), b"/t=500".to_vec(), Some(500), false));
        assert_eq!(with(b" GETS q/t=0007 "), (b"q".to_vec(), b"/t=0007".to_vec(), Some(7), true));
        assert_eq!(with(b"gets q/close/open"), (b"q".to_vec(), b"/close/open".to_vec(), None, true));
        for line in [&b"get q/t="[..], b"get q/t=x", b"get q/t=-1", b"get q/t=1/t=2", b"get /t=1", b"get /peek"] {
            assert_eq!(parse(line), BAD_FORMAT, "{line:?}");
        }
        for line in [&b"get q/T=1"[..], b"get q/t", b"get q/OPEN", b"get q/t=1/", b"get q//t=1", b"delete q/peek"] {
            assert_eq!(parse(line), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 0 }, "{line:?}");
        }
        for line in [&b"get a/t=1 b"[..], b"get a b/open", b"gets a/t=1 b/peek", b"get a/close b"] {
            assert_eq!(parse(line), Line::Refused { reply: reply::ONE_KEY, skip: 0 }, "{line:?}");
        }
        assert_eq!(parse(b"set q/t=1 0 0 5"), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 7 });
        let longest = format!("get {}/group={}", "q".repeat(NAME_LEN_MAX - 8), "g");
        assert!(matches!(parse(longest.as_bytes()), Line::Command(Command::GetWith { .. })));
        assert_eq!(parse(format!("{longest}g").as_bytes()), BAD_FORMAT, "together they are a name");
    }

    #[test]
    fn a_message_is_addressed_by_its_id() {
        let (key, message) = (Key { name: b"q" }, MessageId(7));
        let confirm = |group, noreply| Line::Command(Command::Confirm { key, group, message, noreply });
        assert_eq!(parse(b"delete q/id=7"), confirm(None, false));
        assert_eq!(parse(b"delete q/id=07 0 noreply"), confirm(None, true));
        assert_eq!(parse(b"delete q/group=g/id=7"), confirm(Some(b"g"), false));
        assert_eq!(parse(b"delete q/id=7/group=g"), confirm(Some(b"g"), false));
        let touch = |seconds, noreply| Line::Command(Command::Touch { key, group: None, message, seconds, noreply });
        assert_eq!(parse(b"touch q/id=7 30"), touch(30, false));
        assert_eq!(parse(b"TOUCH q/id=7 0 noreply"), touch(0, true));
        let group = Some(&b"g"[..]);
        assert_eq!(parse(b"delete q/group=g"), Line::Command(Command::Delete { key, group, noreply: false }));
        for line in [
            &b"delete q/id="[..],
            b"delete q/id=x",
            b"delete q/id=1/id=2",
            b"delete q/group=",
            b"touch q/id=7 -1",
            b"touch q/id=7 4294967296",
        ] {
            assert_eq!(parse(line), BAD_FORMAT, "{line:?}");
        }
        for line in [&b"touch q 30"[..], b"touch q/id=7", b"touch q/id=7 1 2", b"touch"] {
            assert_eq!(parse(line), ERROR, "{line:?}");
        }
        assert_eq!(parse(b"touch q 30 noreply"), Line::Refused { reply: b"", skip: 0 });
    }

    #[test]
    fn flush_takes_one_queue() {
        let key = Key { name: b"q" };
        assert_eq!(parse(b"flush q"), Line::Command(Command::Flush { key, group: None, noreply: false }));
        assert_eq!(parse(b"FLUSH q NoReply"), Line::Command(Command::Flush { key, group: None, noreply: true }));
        for line in [&b"flush"[..], b"flush a b", b"flush a noreply b", b"flush_queue a"] {
            assert_eq!(parse(line), ERROR, "{line:?}");
        }
        assert_eq!(parse(b"flush q/t=1"), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 0 });
        assert_eq!(parse(b"flush a\tb"), BAD_FORMAT);
    }

    #[test]
    fn config_shows_or_changes_one_queue() {
        let key = Key { name: b"q" };
        assert_eq!(parse(b"config q"), Line::Command(Command::ShowSettings { key }));
        for (line, count, silent) in [
            (&b"config q a=1"[..], 1, false),
            (b"CONFIG  q  a=1  b=2 ", 2, false),
            (b"config q a=1 NoReply ", 1, true),
            (b"config q noreply a=1", 2, false),
        ] {
            let Line::Command(Command::Configure { words, noreply, .. }) = parse(line) else { panic!("{line:?}") };
            assert_eq!((words.count(), noreply), (count, silent), "{line:?}");
        }
        for line in [&b"config"[..], b"config q noreply"] {
            assert_eq!(parse(line), ERROR, "{line:?}");
        }
        assert_eq!(parse(b"config q/open a=1"), Line::Refused { reply: reply::UNKNOWN_OPTION, skip: 0 });
        assert_eq!(parse(b"config a\tb"), BAD_FORMAT);
    }

    #[test]
    fn storage_commands_without_meaning_skip_their_bodies() {
        assert_eq!(parse(b"add q 0 0 5"), Line::Refused { reply: reply::ERROR, skip: 7 });
        assert_eq!(parse(b"append q 0 0 5 noreply"), Line::Refused { reply: b"", skip: 7 });
        assert_eq!(parse(b"cas q 0 0 5 12 noreply"), Line::Refused { reply: b"", skip: 7 });
        assert_eq!(parse(b"cas q 0 0 5 12"), Line::Refused { reply: reply::ERROR, skip: 7 });
        assert_eq!(parse(b"ms q 5 T0"), Line::Refused { reply: reply::ERROR, skip: 7 });
        assert_eq!(parse(b"add q 0 0 -5"), Line::Fatal { reply: reply::BAD_FORMAT });
        assert_eq!(parse(b"add q"), ERROR);
    }

    #[test]
    fn browsers_are_closed_without_a_word() {
        for line in [&b"GET / HTTP/1.1"[..], b"POST /x HTTP/1.0", b"Host: localhost:22201"] {
            assert_eq!(parse(line), Line::Fatal { reply: b"" });
        }
    }

    #[test]
    fn delete_ignores_any_one_word() {
        for (line, noreply) in [
            (&b"delete q"[..], false),
            (b"delete q 0", false),
            (b"delete q abc", false),
            (b"delete q noreply", true),
            (b"delete q 0 noreply", true),
        ] {
            assert_eq!(parse(line), Line::Command(Command::Delete { key: Key { name: b"q" }, group: None, noreply }));
        }
        assert_eq!(parse(b"delete q 0 0"), ERROR);
        assert_eq!(parse(b"delete q 0 noreply 0"), ERROR);
    }

    #[test]
    fn odd_lines_are_errors_and_never_panics() {
        for line in
            [&b""[..], b" ", b"\r", b"\0", b"get\tq", b"a-very-long-command-word-indeed", b"stats bogus", b"version x"]
        {
            assert_eq!(parse(line), ERROR, "{line:?}");
        }
    }
}
