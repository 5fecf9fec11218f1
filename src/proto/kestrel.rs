//! Kestrel's dialect as bytes: one line in, one [`Line`] out. Its grammar is another one than memcached's: words are separated by exactly
//! one space, two of them have an empty word between them, and what follows the words that a command needs is ignored.
//!
//! Invariant: what closes the connection there closes it here, with the same answer or without one. Nothing here allocates.

use super::options::{GetOptions, group_name_len, queue_of, reader_name};
use super::reply;
use crate::limits::{CONFIRM_LEN_MAX, GROUP_LEN_MAX, NAME_LEN_MAX};
use smallvec::SmallVec;
use std::borrow::Cow;

/// What a line turned out to be.
pub type Line<'a> = super::line::Line<Command<'a>, SetLine<'a>>;

/// A queue, or one of its readers, as Kestrel's clients name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a> {
    /// The queue: 1 to 250 bytes, none of them a control byte, a space, or one of `/ . ~ +`.
    pub queue: &'a [u8],
    /// What stands behind the first `+`: a reader that is offered every message of the queue.
    pub reader: Option<&'a [u8]>,
}

impl<'a> Name<'a> {
    /// Under which name the server keeps it.
    pub fn key(self) -> Cow<'a, [u8]> {
        reader_name(self.queue, self.reader)
    }
}

/// How Kestrel's clients name what the server keeps under this name.
pub fn shown_name(key: &[u8]) -> Cow<'_, [u8]> {
    let queue = queue_of(key);
    if queue.len() == key.len() {
        return Cow::Borrowed(key);
    }
    let group = &key[group_name_len(queue, b"")..];
    Cow::Owned([queue, b"+", group].concat())
}

/// The head of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetLine<'a> {
    /// Where to.
    pub name: Name<'a>,
    /// A client of this dialect never sees them again.
    pub flags: u32,
    /// When the message expires, as the client said it.
    pub exptime: i32,
    /// Size of the body, bytes.
    pub size: usize,
}

/// A command that is complete with its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Command<'a> {
    /// `get` and `gets`, which say the same.
    Get {
        name: Name<'a>,
        options: GetOptions,
    },
    /// Opens messages as they come, for so many seconds or until there are so many.
    Monitor {
        name: Name<'a>,
        seconds: u32,
        messages_max: Option<usize>,
    },
    /// Confirms the oldest open reads, so many.
    Confirm {
        name: Name<'a>,
        count: usize,
    },
    Delete {
        name: Option<Name<'a>>,
    },
    Flush {
        name: Option<Name<'a>>,
    },
    FlushAll,
    /// Removes what has expired.
    FlushExpired {
        name: Option<Name<'a>>,
    },
    FlushAllExpired,
    Stats,
    /// Of these queues; of all, if none is named.
    DumpStats {
        names: Names<'a>,
    },
    Version,
    Reload,
    Status(Status),
    Shutdown,
    Quit,
}

/// What `status` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nothing: it is to be told.
    Tell,
    /// That the server serves everything.
    Up,
    /// That it serves less.
    Less,
}

/// The words behind `dump_stats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names<'a> {
    words: &'a [u8],
}

impl Names<'_> {
    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.count() == 0
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if self.words.is_empty() {
                return None;
            }
            let end = memchr::memchr(b' ', self.words).unwrap_or(self.words.len());
            let (word, rest) = self.words.split_at(end);
            self.words = rest.get(1..).unwrap_or_default();
            if !word.is_empty() {
                return Some(word);
            }
        }
    }
}

const DROP: Line<'static> = Line::Fatal { reply: b"" };
const CLOSE: Line<'static> = Line::Fatal { reply: reply::CLIENT_ERROR };
/// A word is missing.
const MISSING: Line<'static> = Line::Refused { reply: reply::CLIENT_ERROR, skip: 0 };

/// Parses one line, without its line end. `body_size_max` is `-B`.
pub fn parse_line(line: &[u8], body_size_max: usize) -> Line<'_> {
    // Empty words at the end do not count.
    let end = line.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    let (first, rest) = next_word(&line[..end]);
    let mut folded = [0u8; 20];
    let Some(command) = folded.get_mut(..first.len()) else { return CLOSE };
    command.copy_from_slice(first);
    command.make_ascii_lowercase();
    let bare = |command| Line::Command(command);
    match &*command {
        b"get" | b"gets" => rest.map_or(MISSING, |rest| get(next_word(rest).0)),
        b"set" => set(rest, body_size_max),
        b"add" | b"replace" | b"append" | b"prepend" | b"cas" => without_meaning(rest),
        b"monitor" => monitor(rest),
        b"confirm" => confirm(rest),
        b"delete" => of_queue(rest, |name| Command::Delete { name }),
        b"flush" => of_queue(rest, |name| Command::Flush { name }),
        b"flush_expired" => of_queue(rest, |name| Command::FlushExpired { name }),
        b"flush_all" => bare(Command::FlushAll),
        b"flush_all_expired" => bare(Command::FlushAllExpired),
        b"stats" => bare(Command::Stats),
        b"dump_stats" => bare(Command::DumpStats { names: Names { words: rest.unwrap_or_default() } }),
        b"version" => bare(Command::Version),
        b"reload" => bare(Command::Reload),
        b"status" => status(rest),
        b"shutdown" => bare(Command::Shutdown),
        b"quit" => bare(Command::Quit),
        _ => CLOSE,
    }
}

/// When a message that is put now expires, wall clock, ms; 0: never.
pub fn expires_ms(exptime: i32, now_ms: u64) -> u64 {
    /// Below, an exptime is counted from now on, and from 1970 otherwise; seconds.
    const RELATIVE_BELOW: i32 = 1_000_000;
    let at_ms = match exptime {
        0 => return 0,
        seconds if seconds < RELATIVE_BELOW => now_ms.saturating_add_signed(i64::from(seconds) * 1000),
        seconds => i64::from(seconds).unsigned_abs() * 1000,
    };
    at_ms.max(1)
}

/// `get spec`, where the spec is `queue[/option…]`.
fn get(spec: &[u8]) -> Line<'_> {
    if !spec.is_empty() && spec.iter().all(|byte| *byte == b'/') {
        return MISSING;
    }
    let mut parts = spec.split(|byte| *byte == b'/');
    let queue = parts.next().unwrap_or_default();
    let mut options = Options::default();
    for option in parts {
        match option {
            b"open" => options.open = true,
            b"close" => options.close = true,
            b"abort" => options.abort = true,
            b"peek" => options.peek = true,
            // What it does not know, Kestrel ignores.
            _ => match option.strip_prefix(b"t=").map(int) {
                None => {}
                Some(Some(ms)) => options.wait_ms = Some(at_least_0(ms)),
                Some(None) => return DROP,
            },
        }
    }
    let Options { open, close, abort, peek, .. } = options;
    let contradicts = (peek || abort) && (open || close) || peek && abort;
    if queue.is_empty() || contradicts {
        return CLOSE;
    }
    name(queue).map_or(DROP, |name| Line::Command(Command::Get { name, options: options.to_get_options() }))
}

#[derive(Default)]
struct Options {
    open: bool,
    close: bool,
    abort: bool,
    peek: bool,
    wait_ms: Option<u32>,
}

impl Options {
    /// The same in RingQ's words, each once. They must not contradict each other.
    fn to_get_options(&self) -> GetOptions {
        let words = [(self.open, "/open"), (self.close, "/close"), (self.abort, "/abort"), (self.peek, "/peek")];
        let mut text: SmallVec<[u8; TEXT_LEN_MAX]> = SmallVec::new();
        words.iter().filter(|(is_given, _)| *is_given).for_each(|(_, word)| text.extend_from_slice(word.as_bytes()));
        if let Some(ms) = self.wait_ms {
            text.extend_from_slice(b"/t=");
            text.extend_from_slice(itoa::Buffer::new().format(ms).as_bytes());
        }
        GetOptions::parse(&text).expect("these words are RingQ's, too")
    }
}

/// All options in RingQ's words, bytes.
const TEXT_LEN_MAX: usize = "/open/close/abort/peek/t=2147483647".len();

/// `set queue flags exptime bytes […]`
fn set(words: Option<&[u8]>, body_size_max: usize) -> Line<'_> {
    let Some(([queue, flags, exptime], size)) = storage(words) else { return DROP };
    let Some(exptime) = int(exptime) else { return DROP };
    let refused = |reply| Line::Refused { reply, skip: size + 2 };
    let Some(flags) = int(flags) else { return refused(reply::CLIENT_ERROR) };
    let Some(name) = name(queue) else { return DROP };
    match usize::try_from(size) {
        Ok(size) if size <= body_size_max => Line::Set(SetLine { name, flags: flags.cast_unsigned(), exptime, size }),
        _ => refused(reply::NOT_STORED),
    }
}

/// A storage command that no queue has.
fn without_meaning(words: Option<&[u8]>) -> Line<'_> {
    if storage(words).is_some() { CLOSE } else { DROP }
}

/// The four words of a storage command, the last of which is the body's size.
fn storage(words: Option<&[u8]>) -> Option<([&[u8]; 3], u64)> {
    let (queue, rest) = next_word(words?);
    let (flags, rest) = next_word(rest?);
    let (exptime, rest) = next_word(rest?);
    let (size, _) = next_word(rest?);
    let size = int(size).and_then(|size| u64::try_from(size).ok())?;
    Some(([queue, flags, exptime], size))
}

/// `monitor queue seconds [messages]`
fn monitor(words: Option<&[u8]>) -> Line<'_> {
    let Some((queue, Some(rest))) = words.map(next_word) else { return MISSING };
    let (seconds, rest) = next_word(rest);
    let messages_max = rest.map(|rest| int(next_word(rest).0));
    match (int(seconds), messages_max, name(queue)) {
        (Some(seconds), None, Some(name)) => {
            Line::Command(Command::Monitor { name, seconds: at_least_0(seconds), messages_max: None })
        }
        (Some(seconds), Some(Some(max)), Some(name)) => {
            let messages_max = Some(at_least_0(max) as usize);
            Line::Command(Command::Monitor { name, seconds: at_least_0(seconds), messages_max })
        }
        _ => DROP,
    }
}

/// `confirm queue count`
fn confirm(words: Option<&[u8]>) -> Line<'_> {
    let Some((queue, Some(rest))) = words.map(next_word) else { return MISSING };
    let Some(count) = int(next_word(rest).0) else { return DROP };
    match (name(queue), usize::try_from(count)) {
        (Some(name), Ok(count @ 1..=CONFIRM_LEN_MAX)) => Line::Command(Command::Confirm { name, count }),
        // So many are never open.
        _ => Line::Refused { reply: reply::ERROR, skip: 0 },
    }
}

/// `status [word]`
fn status(words: Option<&[u8]>) -> Line<'_> {
    let Some(rest) = words else { return Line::Command(Command::Status(Status::Tell)) };
    let word = next_word(rest).0;
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    match () {
        () if is(b"up") => Line::Command(Command::Status(Status::Up)),
        () if is(b"readonly") || is(b"quiescent") => Line::Command(Command::Status(Status::Less)),
        () => CLOSE,
    }
}

/// A command of one queue. `None`: there can be none of that name.
fn of_queue<'a>(words: Option<&'a [u8]>, command: impl FnOnce(Option<Name<'a>>) -> Command<'a>) -> Line<'a> {
    words.map_or(MISSING, |rest| Line::Command(command(name(next_word(rest).0))))
}

/// A name that a queue, or a reader of one, can have.
pub fn name(word: &[u8]) -> Option<Name<'_>> {
    let is_ordinary = |byte: &u8| *byte >= 0x20 && !matches!(byte, 0x7f | b' ' | b'/' | b'.' | b'~');
    let (queue, reader) = match memchr::memchr(b'+', word) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    let fits = |part: &[u8], len_max| !part.is_empty() && part.len() <= len_max;
    let is_valid = word.iter().all(is_ordinary)
        && fits(queue, NAME_LEN_MAX)
        && reader.is_none_or(|reader| fits(reader, GROUP_LEN_MAX) && group_name_len(queue, reader) <= NAME_LEN_MAX);
    is_valid.then_some(Name { queue, reader })
}

fn at_least_0(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// The first word, which may be empty, and what follows the space behind it, if there is one.
fn next_word(words: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b' ', words) {
        Some(end) => (&words[..end], Some(&words[end + 1..])),
        None => (words, None),
    }
}

/// A signed number of 32 bits, as Kestrel reads them.
fn int(word: &[u8]) -> Option<i32> {
    let digits = word.strip_prefix(b"+").or_else(|| word.strip_prefix(b"-")).unwrap_or(word);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(word).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_SIZE_MAX: usize = 100;

    fn parse(line: &str) -> Line<'_> {
        parse_line(line.as_bytes(), BODY_SIZE_MAX)
    }

    fn queue(name: &str) -> Name<'_> {
        Name { queue: name.as_bytes(), reader: None }
    }

    /// The options of a get, in RingQ's words.
    fn options(line: &str) -> String {
        let Line::Command(Command::Get { name, options }) = parse(line) else { panic!("{line}: {:?}", parse(line)) };
        assert_eq!(name, queue("q"), "{line}");
        assert_eq!(GetOptions::parse(options.as_written()), Ok(options), "{line}: other shards are told the same");
        String::from_utf8(options.as_written().to_vec()).unwrap()
    }

    #[test]
    fn a_set_has_four_words_and_what_follows_is_ignored() {
        let expected = SetLine { name: queue("q"), flags: 7, exptime: -1, size: 100 };
        for line in
            ["set q 7 -1 100", "SET q 7 -1 100", "Set q +7 -1 0100 noreply", "set q 7 -1 100  ", "set q 7 -1 100 x y"]
        {
            assert_eq!(parse(line), Line::Set(expected), "{line}");
        }
    }

    #[test]
    fn a_storage_command_that_cannot_be_read_is_dropped_without_a_word() {
        for line in [
            "set",
            "set q",
            "set q 0",
            "set q 0 0",
            "set q 0 0 x",
            "set q 0 0 -1",
            "set q 0 0 2147483648",
            "set q 0 0  5",
            "set q 0 x 5",
            "set q x x 5",
            "set q 0 2147483648 5",
            "set a.b 0 0 5",
            "set a~b 0 0 5",
            "set a/b 0 0 5",
            "set  0 0 5",
            "set q+ 0 0 5",
            "set +x 0 0 5",
            "add q 0 0",
            "cas q 0 0 x",
        ] {
            assert_eq!(parse(line), DROP, "{line}");
        }
    }

    #[test]
    fn a_set_that_is_refused_has_its_body_skipped() {
        assert_eq!(parse("set q x 0 5"), Line::Refused { reply: b"CLIENT_ERROR\r\n", skip: 7 });
        assert_eq!(parse("set q 4294967295 0 5"), Line::Refused { reply: b"CLIENT_ERROR\r\n", skip: 7 });
        assert_eq!(parse("set q 0 0 101"), Line::Refused { reply: b"NOT_STORED\r\n", skip: 103 });
        assert_eq!(parse("set q 0 0 2147483647"), Line::Refused { reply: b"NOT_STORED\r\n", skip: 2_147_483_649 });
    }

    #[test]
    fn other_storage_commands_close() {
        for line in ["add q 0 0 5", "REPLACE q 0 0 5", "append q 0 0 5", "prepend q 0 0 5", "cas q 0 0 5 1"] {
            assert_eq!(parse(line), CLOSE, "{line}");
        }
    }

    #[test]
    fn options_of_a_get_stand_in_any_order_and_unknown_ones_are_ignored() {
        for (line, expected) in [
            ("get q", ""),
            ("GETS q", ""),
            ("get q r s", ""),
            ("get q/", ""),
            ("get q//x/OPEN/ttr=5", ""),
            ("get q/t=10/open", "/open/t=10"),
            ("get q/open/t=10/t=20", "/open/t=20"),
            ("get q/t=-5", "/t=0"),
            ("get q/open/close", "/open/close"),
            ("get q/close/t=5", "/close/t=5"),
            ("get q/peek/t=2147483647", "/peek/t=2147483647"),
            ("get q/abort/abort", "/abort"),
        ] {
            assert_eq!(options(line), expected, "{line}");
        }
    }

    #[test]
    fn gets_that_make_no_sense_are_refused_as_kestrel_does() {
        for line in ["get", "get ", "get /", "get //"] {
            assert_eq!(parse(line), MISSING, "{line}");
        }
        for line in
            ["get  q", "get /open", "get q/peek/open", "get q/abort/close", "get q/abort/open", "get q/peek/abort"]
        {
            assert_eq!(parse(line), CLOSE, "{line}");
        }
        for line in
            ["get q/t=", "get q/t=x", "get q/t=2147483648", "get q/t=x/peek/open", "get a.b", "get a~b", "get a\tb"]
        {
            assert_eq!(parse(line), DROP, "{line}");
        }
        assert_eq!(parse(&format!("get {}", "q".repeat(251))), DROP);
    }

    #[test]
    fn a_plus_names_a_reader() {
        assert_eq!(name(b"q+x"), Some(Name { queue: b"q", reader: Some(b"x") }));
        assert_eq!(name(b"q+x+y"), Some(Name { queue: b"q", reader: Some(b"x+y") }));
        let key = name(b"q+x+y").unwrap().key();
        assert_eq!((&*key, &*shown_name(&key)), (&b"q/group=x+y"[..], &b"q+x+y"[..]));
        assert_eq!(&*shown_name(b"q.a"), b"q.a");
        assert_eq!(name(format!("{}+x", "q".repeat(NAME_LEN_MAX)).as_bytes()), None);
        assert_eq!(name(format!("q+{}", "x".repeat(GROUP_LEN_MAX + 1)).as_bytes()), None);
    }

    #[test]
    fn monitor_and_confirm_need_their_numbers() {
        let monitor =
            |seconds, messages_max| Line::Command(Command::Monitor { name: queue("q"), seconds, messages_max });
        assert_eq!(parse("monitor q 10"), monitor(10, None));
        assert_eq!(parse("MONITOR q 10 3 x"), monitor(10, Some(3)));
        assert_eq!(parse("monitor q -1 -3"), monitor(0, Some(0)));
        assert_eq!(parse("confirm q 3"), Line::Command(Command::Confirm { name: queue("q"), count: 3 }));
        for line in ["monitor", "monitor q", "confirm", "confirm q"] {
            assert_eq!(parse(line), MISSING, "{line}");
        }
        for line in ["monitor q x", "monitor q 1 x", "monitor a.b 1", "confirm q x"] {
            assert_eq!(parse(line), DROP, "{line}");
        }
        for line in ["confirm q 0", "confirm q -1", "confirm q 2147483647", "confirm a.b 1"] {
            assert_eq!(parse(line), Line::Refused { reply: b"ERROR\r\n", skip: 0 }, "{line}");
        }
    }

    #[test]
    fn commands_of_a_queue_take_any_name() {
        assert_eq!(parse("delete q 0"), Line::Command(Command::Delete { name: Some(queue("q")) }));
        assert_eq!(parse("flush a.b"), Line::Command(Command::Flush { name: None }));
        assert_eq!(parse("FLUSH_EXPIRED  q"), Line::Command(Command::FlushExpired { name: None }));
        for line in ["delete", "flush", "flush_expired"] {
            assert_eq!(parse(line), MISSING, "{line}");
        }
    }

    #[test]
    fn words_that_are_not_needed_are_ignored() {
        for (line, expected) in [
            ("flush_all 0", Command::FlushAll),
            ("FLUSH_ALL_EXPIRED", Command::FlushAllExpired),
            ("stats queue", Command::Stats),
            ("version x", Command::Version),
            ("reload", Command::Reload),
            ("status", Command::Status(Status::Tell)),
            ("status UP", Command::Status(Status::Up)),
            ("status readonly", Command::Status(Status::Less)),
            ("shutdown", Command::Shutdown),
            ("quit now", Command::Quit),
        ] {
            assert_eq!(parse(line), Line::Command(expected), "{line}");
        }
    }

    #[test]
    fn dump_stats_names_queues_or_none() {
        let names = |line: &'static str| match parse(line) {
            Line::Command(Command::DumpStats { names }) => names.collect::<Vec<_>>(),
            other => panic!("{line}: {other:?}"),
        };
        assert!(names("dump_stats").is_empty());
        assert_eq!(names("dump_stats a  b "), [b"a", b"b"]);
    }

    #[test]
    fn what_is_unknown_closes() {
        for line in ["", " ", " get q", "verbosity 1", "status x", "Host:", "touch q 1", "a_command_of_many_letters"] {
            assert_eq!(parse(line), CLOSE, "{line}");
        }
    }

    #[test]
    fn an_exptime_below_a_million_counts_from_now() {
        const NOW_MS: u64 = 1_700_000_000_123;
        assert_eq!(expires_ms(0, NOW_MS), 0);
        assert_eq!(expires_ms(1, NOW_MS), NOW_MS + 1000);
        assert_eq!(expires_ms(999_999, NOW_MS), NOW_MS + 999_999_000);
        assert_eq!(expires_ms(1_000_000, NOW_MS), 1_000_000_000);
        assert_eq!(expires_ms(i32::MAX, NOW_MS), 2_147_483_647_000);
        assert_eq!(expires_ms(-1, NOW_MS), NOW_MS - 1000, "it is over");
        assert_eq!(expires_ms(i32::MIN, 5), 1, "0 would be never");
    }
}
