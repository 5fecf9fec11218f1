//! What clients ask for and what they are told: requests as a history has them and as bytes, and replies read back.
//!
//! A request is written as on the wire, with `#17*300` for the body of message 17, which has 300 bytes, and `id=#17` for its id.
//!
//! Invariant: the body of a message says its number, and every byte of it follows from number and size.

use ringq::proto::Dialect;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The number of a message: each is put by one request.
pub type Number = u64;

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `key`: a queue, perhaps with a `/ttl=`.
    Put { key: String, exptime: i64, number: Number, size: usize },
    /// Anything else: a line.
    Line(String),
}

/// What a key of a get asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Key {
    pub text: String,
    /// The queue, or a group of it: `q` or `q/group=g`, in whatever dialect it was asked for.
    pub reader: String,
    /// Waits.
    pub waits: bool,
    pub peek: bool,
    pub open: bool,
    pub close: bool,
    pub abort: bool,
}

/// A message as a client got it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Which of the keys of its request it came for.
    pub key: usize,
    pub number: Number,
    pub id: Option<u64>,
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// What came, and the line that ended it: `END`, or an error.
    Values(Vec<Value>, String),
    /// One line.
    Word(String),
}

/// The body of a message. What is in it looks like replies, so that a reply that is cut in the wrong place is noticed.
pub fn body(number: Number, size: usize) -> Vec<u8> {
    let mut bytes = format!("{number} ").into_bytes();
    let filler = b"\r\nEND\r\nSTORED\r\nVALUE a 0 1\r\n";
    bytes.extend(filler.iter().cycle().skip(number as usize % filler.len()).take(size.saturating_sub(bytes.len())));
    bytes
}

/// The flags that a message is put with.
pub fn flags(number: Number) -> u32 {
    number as u32 ^ 0x8000_0000
}

impl Request {
    /// What is sent. `None`: it names a message whose id nobody was told.
    pub fn bytes(&self, dialect: Dialect, ids: &BTreeMap<Number, u64>) -> Option<Vec<u8>> {
        let line = match self {
            Request::Put { key, exptime, number, size } => {
                let (flags, body) = (flags(*number), body(*number, *size));
                // Kestrel's flags are any integer, and of no consequence.
                let flags = if dialect == Dialect::Kestrel { 0 } else { flags };
                let mut bytes = format!("set {key} {flags} {exptime} {}\r\n", body.len()).into_bytes();
                bytes.extend_from_slice(&body);
                bytes.extend_from_slice(b"\r\n");
                return Some(bytes);
            }
            Request::Line(line) => line,
        };
        let Some((before, after)) = line.split_once("id=#") else { return Some(format!("{line}\r\n").into_bytes()) };
        let (number, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
        let id = ids.get(&number.parse().ok()?)?;
        Some(format!("{before}id={id}{after}\r\n").into_bytes())
    }

    /// The first word.
    pub fn verb(&self) -> &str {
        match self {
            Request::Put { .. } => "set",
            Request::Line(line) => line.split(' ').next().unwrap_or_default(),
        }
    }

    /// The words behind the first one.
    pub fn words(&self) -> Vec<&str> {
        match self {
            Request::Put { key, .. } => vec![key],
            Request::Line(line) => line.split(' ').skip(1).collect(),
        }
    }

    /// What a get asks for.
    pub fn keys(&self, dialect: Dialect) -> Vec<Key> {
        match self.verb() {
            "get" | "gets" => self.words().into_iter().map(|word| Key::of(word, dialect)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Key {
    pub fn of(text: &str, dialect: Dialect) -> Key {
        let mut parts = text.split('/');
        let name = parts.next().unwrap_or_default();
        let mut key = Key { text: text.to_owned(), ..Key::default() };
        key.reader = match (dialect, name.split_once('+')) {
            (Dialect::Kestrel, Some((queue, reader))) => format!("{queue}/group={reader}"),
            _ => name.to_owned(),
        };
        for option in parts {
            match option.split_once('=').unwrap_or((option, "")) {
                ("group", group) => key.reader = format!("{name}/group={group}"),
                ("t", ms) => key.waits = ms != "0",
                ("peek", _) => key.peek = true,
                ("open", _) => key.open = true,
                ("close", _) => key.close = true,
                ("abort", _) => key.abort = true,
                _ => {}
            }
        }
        key
    }

    /// Whether a message that comes is gone for good.
    pub fn is_plain(&self) -> bool {
        !self.open && !self.peek
    }
}

/// The queue of a reader.
pub fn queue_of(reader: &str) -> &str {
    reader.split('/').next().unwrap_or_default()
}

/// The reply at the start of what a client received, and its length. `Ok(None)`: it has not come whole. `size_of` knows the sizes of messages.
///
/// # Errors
/// What came is no reply to this request.
pub fn read_reply(
    request: &Request,
    dialect: Dialect,
    received: &[u8],
    size_of: impl Fn(Number) -> Option<usize>,
) -> Result<Option<(Told, usize)>, String> {
    let keys = request.keys(dialect);
    let (mut values, mut at, mut next_key) = (Vec::new(), 0, 0);
    loop {
        let Some(len) = received[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&received[at..at + len]).into_owned();
        let unexpected = || format!("to {request}: {line}");
        at += len + 2;
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] != "VALUE" || keys.is_empty() {
            if !is_reply(request.verb(), &words) {
                return Err(unexpected());
            }
            let told = if keys.is_empty() { Told::Word(line) } else { Told::Values(values, line) };
            return Ok(Some((told, at)));
        }
        // A name that is left out had no message.
        let echoes = |key: &Key| match dialect {
            Dialect::Kestrel => key.text.split('/').next() == Some(words[1]),
            _ => key.text == words[1],
        };
        let skipped = keys[next_key..].iter().position(echoes).ok_or_else(unexpected)?;
        let size: usize = words.get(3).and_then(|size| size.parse().ok()).ok_or_else(unexpected)?;
        let Some(bytes) = received.get(at..at + size + 2) else { return Ok(None) };
        at += size + 2;
        let number =
            bytes.split(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let number: Number = number.ok_or_else(unexpected)?;
        let whole = size_of(number).map(|size| body(number, size));
        let is_right = whole.is_some_and(|whole| bytes.strip_suffix(b"\r\n") == Some(&whole[..]));
        let has_flags = dialect == Dialect::Kestrel || words[2].parse() == Ok(flags(number)) || words[2] == "0";
        if !is_right || !has_flags {
            return Err(format!("to {request}: {line}, which is not what was put as message {number}"));
        }
        let id = words.get(4).and_then(|id| id.parse().ok());
        values.push(Value { key: next_key + skipped, number, id });
        next_key += skipped + 1;
    }
}

/// Whether a line can end the reply to a request with this verb.
fn is_reply(verb: &str, words: &[&str]) -> bool {
    let is_error = words[0] == "SERVER_ERROR";
    match (verb, words[0]) {
        ("set", "STORED" | "NOT_STORED") => true,
        ("get" | "gets", "END" | "NOT_FOUND" | "ERROR") => true,
        ("get" | "gets" | "confirm", "CLIENT_ERROR") => words == ["CLIENT_ERROR", "read", "expired"],
        ("delete", "DELETED" | "NOT_FOUND") | ("touch", "TOUCHED" | "NOT_FOUND") => true,
        ("flush", "END") | ("flush_all" | "config", "OK") => true,
        ("flush_all", _) => words == ["Flushed", "all", "queues."],
        ("flush_expired", count) => count.parse::<u64>().is_ok(),
        _ => is_error,
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Put { key, exptime, number, size } => write!(f, "set {key} {exptime} #{number}*{size}"),
            Request::Line(line) => write!(f, "{line}"),
        }
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(text: &str) -> Result<Request, String> {
        let Some(rest) = text.strip_prefix("set ") else { return Ok(Request::Line(text.to_owned())) };
        let words: Vec<&str> = rest.split(' ').collect();
        let put = || {
            let [key, exptime, body] = words[..] else { return None };
            let (number, size) = body.strip_prefix('#')?.split_once('*')?;
            let (number, size) = (number.parse().ok()?, size.parse().ok()?);
            Some(Request::Put { key: key.to_owned(), exptime: exptime.parse().ok()?, number, size })
        };
        put().ok_or_else(|| format!("no put: {text}"))
    }
}
