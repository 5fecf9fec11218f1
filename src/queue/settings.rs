//! What a queue does besides keeping messages in order: limits, times, and where messages go that it does not keep. And how that is
//! written: words `key=value`, the same on the wire, in the configuration file and in the store.
//!
//! What was said of a name ([`Explicit`]) is kept apart from what follows from it ([`Settings`]): a key that was not said follows the
//! defaults, also when these change later.
//!
//! Invariant: the default is a queue without any of it, and costs nothing; a value that is kept was found to be valid; what
//! [`Explicit::encode`] writes has at most [`SETTINGS_SIZE_MAX`] bytes more than what was not understood.
//!
//! Does not know where settings are stored or who may change them.

use crate::limits::NAME_LEN_MAX;
use crate::proto::options::{number, split};
use std::collections::BTreeMap;

/// The settings of one queue. For numbers 0 means: none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Messages it holds at most.
    pub max_messages: u64,
    /// Bytes of the bodies it holds at most.
    pub max_bytes: u64,
    /// How old a message gets, s.
    pub max_age_s: u64,
    /// The largest body it takes, bytes.
    pub max_message_bytes: u64,
    /// How many messages it takes in its life.
    pub max_admissions: u64,
    /// A full queue drops its oldest messages for new ones, instead of refusing these.
    pub drop_oldest: bool,
    /// The exptime of a put counts, as memcached reads it.
    pub exptime: bool,
    /// Where messages go whose time is over. Empty: nowhere.
    pub expire_to: Box<[u8]>,
    /// How often a message is delivered at most.
    pub max_deliveries: u32,
    /// Where messages go that were delivered so often. Empty: nowhere.
    pub dead_letter: Box<[u8]>,
    /// An open read returns after this time, s.
    pub visibility_timeout_s: u64,
    /// The queue keeps messages for its groups only.
    pub groups_only: bool,
    /// A group that nobody has read from for so long ends, s.
    pub group_timeout_s: u64,
    /// What becomes of its messages is logged.
    pub trace: bool,
}

/// What a value may be.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number.
    Count,
    /// The same within 32 bits.
    SmallCount,
    /// Bytes, perhaps with a unit.
    Size,
    /// Seconds, perhaps with a unit.
    Time,
    /// One of two words; the second is `true`.
    Choice(&'static str, &'static str),
    /// Another queue.
    Queue,
}

/// A value of one kind or another.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Number(u64),
    Flag(bool),
    /// Empty: none.
    Queue(Box<[u8]>),
}

/// Every key, in the order in which they are shown.
const KEYS: [(&str, Kind); 14] = [
    ("max_messages", Kind::Count),
    ("max_bytes", Kind::Size),
    ("max_age", Kind::Time),
    ("max_message_bytes", Kind::Size),
    ("max_admissions", Kind::Count),
    ("when_full", Kind::Choice("refuse", "drop_oldest")),
    ("exptime", Kind::Choice("ignore", "honour")),
    ("expire_to", Kind::Queue),
    ("max_deliveries", Kind::SmallCount),
    ("dead_letter", Kind::Queue),
    ("visibility_timeout", Kind::Time),
    ("groups_only", Kind::Choice("off", "on")),
    ("group_timeout", Kind::Time),
    ("trace", Kind::Choice("off", "on")),
];

/// Bytes of the largest settings of one name as they are stored: every key with a number of 10 digits or a word, two with a name.
pub const SETTINGS_SIZE_MAX: usize = KEYS.len() * 32 + 2 * NAME_LEN_MAX;

/// The largest number that a setting may be: so many seconds are more than a century, and so many bytes or messages fit no disk.
/// Other programs read it exactly, whatever their numbers are made of.
const NUMBER_MAX: u64 = 1 << 53;

/// The largest time, s.
const TIME_MAX: u64 = u32::MAX as u64;

/// The word for no queue, where one could be named.
const NO_QUEUE: &[u8] = b"none";

/// The word that takes a key back to its default.
const DEFAULT: &[u8] = b"default";

/// A setting cannot be what somebody wants it to be. Whose words these were may read it: it is one line of printable ASCII.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// It is no setting.
    #[error("{0} is no setting: write key=value")]
    NoPair(String),
    /// There is no such key.
    #[error("unknown setting {0}")]
    UnknownKey(String),
    /// The value makes no sense for the key.
    #[error("bad value for {key}: {value}; {allowed}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What was asked for.
        value: String,
        /// What would make sense.
        allowed: &'static str,
    },
}

/// Words of a client, for a line that people read.
fn shown(word: &[u8]) -> String {
    const LEN_MAX: usize = 32;
    let mut text = word[..word.len().min(LEN_MAX)].escape_ascii().to_string();
    if word.len() > LEN_MAX {
        text.push_str("...");
    }
    text
}

/// What was said of the queues of one name, or of names like it: some keys, each with its value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Explicit {
    /// By the place of the key.
    values: BTreeMap<usize, Value>,
    /// What another version has stored and this one does not understand: kept as it is.
    unknown: Vec<Box<[u8]>>,
}

impl Explicit {
    /// Takes in a word `key=value`; `key=` and `key=default` return the key to its default. `queue` is whose settings they are, or a
    /// pattern of names.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed.
    pub fn set(&mut self, queue: &[u8], word: &[u8]) -> Result<(), Invalid> {
        let at = word.iter().position(|byte| *byte == b'=').ok_or_else(|| Invalid::NoPair(shown(word)))?;
        self.set_value(queue, &word[..at], &word[at + 1..])
    }

    /// The same with key and value apart.
    ///
    /// # Errors
    /// As [`Explicit::set`].
    pub fn set_value(&mut self, queue: &[u8], key: &[u8], text: &[u8]) -> Result<(), Invalid> {
        let named = KEYS.iter().position(|(name, _)| name.as_bytes() == key);
        let at = named.ok_or_else(|| Invalid::UnknownKey(shown(key)))?;
        if text.is_empty() || text == DEFAULT {
            self.values.remove(&at);
            return Ok(());
        }
        let (key, kind) = KEYS[at];
        let bad = |allowed| Invalid::BadValue { key, value: shown(text), allowed };
        let value = kind.parse(text).map_err(bad)?;
        if value == Value::Queue(queue.into()) {
            return Err(bad("it is the queue itself"));
        }
        self.values.insert(at, value);
        Ok(())
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.unknown.is_empty()
    }

    /// Changes what was said here, and nothing else.
    pub fn apply(&self, settings: &mut Settings) {
        for (at, value) in &self.values {
            settings.put(*at, value.clone());
        }
    }

    /// What is stored: lines `key=value`.
    pub fn encode(&self) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for (at, value) in &self.values {
            let (key, kind) = KEYS[*at];
            lines.push([key.as_bytes(), b"=", &kind.shown(value)].concat());
        }
        lines.extend(self.unknown.iter().map(|line| line.to_vec()));
        lines.join(&b'\n')
    }

    /// The inverse of [`Explicit::encode`]. What another version has written and this one does not understand is kept, and has no effect:
    /// [`Explicit::unknown`].
    pub fn decode(queue: &[u8], bytes: &[u8]) -> Explicit {
        let mut explicit = Explicit::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if explicit.set(queue, line).is_err() {
                explicit.unknown.push(line.into());
            }
        }
        explicit
    }

    /// What was not understood, as people may read it.
    pub fn unknown(&self) -> impl Iterator<Item = String> {
        self.unknown.iter().map(|line| shown(line))
    }
}

impl Settings {
    /// Every key with its value, as they are written.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        KEYS.iter().enumerate().map(|(at, (key, kind))| (*key, kind.shown(&self.get(at))))
    }

    /// The same, but only keys whose values differ from those of a queue that nothing was said of.
    pub fn shown_if_set(&self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        let unset = Settings::default();
        self.shown().enumerate().filter(move |(at, _)| self.get(*at) != unset.get(*at)).map(|(_, shown)| shown)
    }

    /// Whether a body of so many bytes is small enough for it.
    pub fn takes_size(&self, size: usize) -> bool {
        let largest = [self.max_message_bytes, self.max_bytes];
        largest.into_iter().all(|largest| largest == 0 || size as u64 <= largest)
    }

    /// Whether a put may be refused, or make others go, or may not be served later: then it is no put that can go straight to a
    /// waiting client.
    pub fn bounds_puts(&self) -> bool {
        let bounds = [self.max_messages, self.max_bytes, self.max_message_bytes, self.max_admissions, self.max_age_s];
        bounds.into_iter().any(|bound| bound > 0)
    }

    /// These of the queue with this name: a queue is no target of itself, which defaults for many queues may say.
    #[must_use]
    pub fn of(mut self, queue: &[u8]) -> Settings {
        for target in [&mut self.expire_to, &mut self.dead_letter] {
            if **target == *queue {
                *target = Box::default();
            }
        }
        self
    }

    fn get(&self, at: usize) -> Value {
        match KEYS[at].0 {
            "max_messages" => Value::Number(self.max_messages),
            "max_bytes" => Value::Number(self.max_bytes),
            "max_age" => Value::Number(self.max_age_s),
            "max_message_bytes" => Value::Number(self.max_message_bytes),
            "max_admissions" => Value::Number(self.max_admissions),
            "when_full" => Value::Flag(self.drop_oldest),
            "exptime" => Value::Flag(self.exptime),
            "expire_to" => Value::Queue(self.expire_to.clone()),
            "max_deliveries" => Value::Number(u64::from(self.max_deliveries)),
            "dead_letter" => Value::Queue(self.dead_letter.clone()),
            "visibility_timeout" => Value::Number(self.visibility_timeout_s),
            "groups_only" => Value::Flag(self.groups_only),
            "group_timeout" => Value::Number(self.group_timeout_s),
            "trace" => Value::Flag(self.trace),
            key => unreachable!("{key} is no key"),
        }
    }

    fn put(&mut self, at: usize, value: Value) {
        match (KEYS[at].0, value) {
            ("max_messages", Value::Number(number)) => self.max_messages = number,
            ("max_bytes", Value::Number(number)) => self.max_bytes = number,
            ("max_age", Value::Number(number)) => self.max_age_s = number,
            ("max_message_bytes", Value::Number(number)) => self.max_message_bytes = number,
            ("max_admissions", Value::Number(number)) => self.max_admissions = number,
            ("when_full", Value::Flag(flag)) => self.drop_oldest = flag,
            ("exptime", Value::Flag(flag)) => self.exptime = flag,
            ("expire_to", Value::Queue(name)) => self.expire_to = name,
            ("max_deliveries", Value::Number(number)) => {
                self.max_deliveries = u32::try_from(number).expect("it was found to be valid");
            }
            ("dead_letter", Value::Queue(name)) => self.dead_letter = name,
            ("visibility_timeout", Value::Number(number)) => self.visibility_timeout_s = number,
            ("groups_only", Value::Flag(flag)) => self.groups_only = flag,
            ("group_timeout", Value::Number(number)) => self.group_timeout_s = number,
            ("trace", Value::Flag(flag)) => self.trace = flag,
            (key, value) => unreachable!("{key} cannot be {value:?}"),
        }
    }
}

impl Kind {
    /// Reads a value. `Err` says what is allowed.
    fn parse(self, text: &[u8]) -> Result<Value, &'static str> {
        match self {
            Kind::Count => {
                let count = number(text).filter(|count| *count <= NUMBER_MAX);
                count.map(Value::Number).ok_or("allowed are numbers up to 9007199254740992; 0: none")
            }
            Kind::SmallCount => {
                let count = number(text).filter(|count| *count <= u64::from(u32::MAX));
                count.map(Value::Number).ok_or("allowed are numbers up to 4294967295; 0: none")
            }
            Kind::Size => {
                let units = [(b'K', 1 << 10), (b'M', 1 << 20), (b'G', 1 << 30)];
                let size = with_unit(&text.to_ascii_uppercase(), &units).filter(|size| *size <= NUMBER_MAX);
                size.map(Value::Number).ok_or("allowed are bytes such as 1500, 64K, 10M, 2G; 0: none")
            }
            Kind::Time => {
                let units = [(b's', 1), (b'm', 60), (b'h', 3600), (b'd', 86_400)];
                let time = with_unit(text, &units).filter(|time| *time <= TIME_MAX);
                time.map(Value::Number)
                    .ok_or("allowed are seconds such as 90, and times such as 15m, 12h, 30d; 0: none")
            }
            Kind::Choice(no, yes) => match text {
                _ if text == no.as_bytes() => Ok(Value::Flag(false)),
                _ if text == yes.as_bytes() => Ok(Value::Flag(true)),
                _ if yes == "on" => Err("allowed are on and off"),
                _ if yes == "honour" => Err("allowed are ignore and honour"),
                _ => Err("allowed are refuse and drop_oldest"),
            },
            Kind::Queue if text == NO_QUEUE => Ok(Value::Queue(Box::default())),
            Kind::Queue => match split(text) {
                Ok((name, b"")) if !name.contains(&b' ') => Ok(Value::Queue(name.into())),
                _ => Err("allowed are names of queues, and none"),
            },
        }
    }

    /// Writes a value so that [`Kind::parse`] can read it.
    fn shown(self, value: &Value) -> Vec<u8> {
        match (self, value) {
            (_, Value::Number(number)) => number.to_string().into_bytes(),
            (Kind::Choice(no, yes), Value::Flag(flag)) => if *flag { yes } else { no }.into(),
            (_, Value::Queue(name)) if name.is_empty() => NO_QUEUE.to_vec(),
            (_, Value::Queue(name)) => name.to_vec(),
            (_, Value::Flag(_)) => unreachable!("only a choice is a flag"),
        }
    }
}

fn with_unit(text: &[u8], units: &[(u8, u64)]) -> Option<u64> {
    let (last, digits) = text.split_last()?;
    match units.iter().find(|(unit, _)| unit == last) {
        Some((_, factor)) => number(digits)?.checked_mul(*factor),
        None => number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Explicit {
        let mut explicit = Explicit::default();
        words.iter().for_each(|word| explicit.set(b"q", word.as_bytes()).unwrap());
        explicit
    }

    fn effective(words: &[&str]) -> Settings {
        let mut settings = Settings::default();
        said(words).apply(&mut settings);
        settings
    }

    fn refusal(word: &str) -> String {
        Explicit::default().set(b"q", word.as_bytes()).unwrap_err().to_string()
    }

    /// A value other than the default for each key.
    const ALL: [&str; 14] = [
        "max_messages=1",
        "max_bytes=2",
        "max_age=3",
        "max_message_bytes=4",
        "max_admissions=5",
        "when_full=drop_oldest",
        "exptime=honour",
        "expire_to=e",
        "max_deliveries=6",
        "dead_letter=d",
        "visibility_timeout=7",
        "groups_only=on",
        "group_timeout=8",
        "trace=on",
    ];

    #[test]
    fn every_key_is_set_shown_and_read_again() {
        let settings = effective(&ALL);
        let shown: Vec<String> = settings
            .shown_if_set()
            .map(|(key, value)| format!("{key}={}", String::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(shown, ALL);
        let encoded = said(&ALL).encode();
        assert_eq!(encoded, ALL.join("\n").as_bytes());
        assert_eq!(Explicit::decode(b"q", &encoded), said(&ALL));
        assert_eq!(Settings::default().shown().count(), KEYS.len());
        assert_eq!(Settings::default().shown_if_set().count(), 0);
    }

    #[test]
    fn units_are_understood() {
        for (word, size) in [("1500", 1500), ("64K", 64 << 10), ("64k", 64 << 10), ("10M", 10 << 20), ("2G", 2 << 30)] {
            assert_eq!(effective(&[&format!("max_bytes={word}")]).max_bytes, size, "{word}");
        }
        for (word, time) in [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(effective(&[&format!("max_age={word}")]).max_age_s, time, "{word}");
        }
    }

    #[test]
    fn a_key_goes_back_to_its_default() {
        for word in ["max_age=", "max_age=default"] {
            assert!(said(&["max_age=5", word]).is_empty(), "{word}");
        }
        assert_eq!(said(&["max_age=5", "max_age=0"]).encode(), b"max_age=0", "none is not the default");
        assert_eq!(said(&["expire_to=none"]).encode(), b"expire_to=none");
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        assert_eq!(refusal("foo=1"), "unknown setting foo");
        assert_eq!(refusal("foo"), "foo is no setting: write key=value");
        assert_eq!(refusal("=1"), "unknown setting ");
        for word in [
            "max_age=x",
            "max_age=-1",
            "max_age=1w",
            "max_age=s",
            "max_age=4294967296",
            "max_age=213503982335m",
            "max_messages=1K",
            "max_messages=9007199254740993",
            "max_bytes=1T",
            "max_bytes=8388609G",
            "max_bytes=18446744073709551615G",
            "when_full=drop",
            "exptime=on",
            "groups_only=yes",
            "max_deliveries=4294967296",
            "expire_to=q",
            "expire_to=a/b",
            "dead_letter=a b",
        ] {
            let (key, value) = word.split_once('=').unwrap();
            let text = refusal(word);
            assert!(text.starts_with(&format!("bad value for {key}: {value}; ")), "{text}");
        }
        let long = format!("{}=\u{1b}", "k".repeat(1000));
        assert_eq!(refusal(&long), format!("unknown setting {}...", "k".repeat(32)));
        assert!(refusal("dead_letter=\u{1b}\r").contains(r"\x1b\r"), "what could end a line does not");
    }

    #[test]
    fn what_another_version_has_stored_is_kept() {
        let stored = b"max_age=7\nmax_sunshine=9\nwhen_full=wait";
        let explicit = Explicit::decode(b"q", stored);
        assert_eq!(explicit.unknown().collect::<Vec<_>>(), ["max_sunshine=9", "when_full=wait"]);
        assert_eq!(explicit.encode(), stored);
        let mut settings = Settings::default();
        explicit.apply(&mut settings);
        assert_eq!(settings, Settings { max_age_s: 7, ..Settings::default() });
    }

    #[test]
    fn the_largest_settings_are_bounded() {
        let name = "n".repeat(NAME_LEN_MAX);
        let mut words: Vec<String> = ALL.iter().map(|word| (*word).to_owned()).collect();
        for word in &mut words {
            let (key, value) = word.split_once('=').unwrap();
            *word = match value {
                "e" | "d" => format!("{key}={name}"),
                "6" | "3" | "7" | "8" => format!("{key}={}", u32::MAX),
                _ if value.parse::<u64>().is_ok() => format!("{key}={NUMBER_MAX}"),
                _ => continue,
            };
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert!(said(&words).encode().len() <= SETTINGS_SIZE_MAX);
    }

    #[test]
    fn a_queue_is_no_target_of_itself() {
        let settings = effective(&["expire_to=old", "dead_letter=dead"]);
        assert_eq!(&*settings.clone().of(b"old").expire_to, b"");
        assert_eq!(&*settings.clone().of(b"old").dead_letter, b"dead");
        assert_eq!(&*settings.of(b"dead").dead_letter, b"");
    }
}
