//! Wire transcripts: a dialogue between clients and the server, byte for byte, and the runner that plays it.
//!
//! A transcript is a text file, one step a line:
//! ```text
//! # comment                     blank lines and comments are skipped
//! = -B 64 --enable-flush-all    options of the server; before every other step
//! @ A                           the following steps are on connection A (the first one if nothing is said)
//! @ kestrel:B                   the same, for a connection to the port of Kestrel's dialect
//! > get q\r\n                   these bytes are sent in one write
//! < END\r\n                     exactly these bytes come next
//! ~ STAT pid {digits}\r\n       bytes with wildcards come next: {digits} {text} {version} {stats}
//! ? STAT a 1/0\r\n              neighbouring `?` lines come next, in any order
//! .                             the server has nothing more to do, and nothing has come that was not expected
//! $                             the server closes the connection and sends nothing before that
//! ^                             the client closes the connection; `^w`: only its sending half
//! +500ms                        time passes
//! ```
//! What clients do on several connections reaches the server in the order of the steps, and time passes after it.
//!
//! Nothing is implied: a line end on the wire is written out. Escapes are `\r \n \t \\ \0 \xNN`; `{ab*3}` is `ababab`;
//! a literal brace is `\x7b` or `\x7d`. `{digits}` is one digit or more, `{text}` one byte or more without CR and LF,
//! `{version}` three numbers of which the first is not 0, `{stats}` any number of whole `STAT` lines. What follows a
//! wildcard must be a byte it cannot contain, so that there is one way to match and no guessing.
//!
//! Invariant: a run passes only if every byte the server sent was expected. So after the last step each open connection is
//! asked for its `version`, and the answer must be the very next and the last bytes on it.
//!
//! Not here: the server. It is a [`Peer`], on a socket or in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Bytes one `{text*count}` may expand to; a typing error must not eat the machine.
const REPEAT_SIZE_MAX: usize = 16 << 20;
/// How much at either end of a long write is sent as single bytes; the middle of a body has no edges to find.
const SINGLE_BYTES_EDGE: usize = 4096;
/// Bytes of expected or received data shown in an error.
const SHOWN_SIZE_MAX: usize = 300;

/// A parsed transcript.
#[derive(Debug)]
pub struct Transcript {
    /// Where it came from, for error messages.
    pub file: String,
    /// What the server under test must be started with.
    pub options: ServerOptions,
    /// The dialogue.
    pub steps: Vec<Step>,
}

/// The server options a transcript may ask for; what is absent has the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerOptions {
    /// Largest message body in bytes (`-B`).
    pub body_size_max: Option<u32>,
    /// Number of shards (`-t`).
    pub threads: Option<u32>,
    /// `--max-open-reads`.
    pub open_reads_max: Option<u32>,
    /// `--max-detached-reads`.
    pub detached_reads_max: Option<u32>,
    /// `--max-unconfirmed`.
    pub unconfirmed_max: Option<u32>,
    /// `--max-groups`.
    pub groups_max: Option<u32>,
    /// `--reader-separator`.
    pub reader_separator: Option<char>,
    /// `--enable-flush-all`.
    pub enable_flush_all: bool,
    /// `--enable-shutdown`.
    pub enable_shutdown: bool,
    /// `--kestrel-port`: a connection goes there.
    pub kestrel: bool,
}

/// What the names of connections to the port of Kestrel's dialect begin with.
pub const KESTREL: &str = "kestrel:";

/// One line of a transcript (or several neighbouring `?` lines).
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Line in the file, from 1.
    pub line: usize,
    /// Name of the connection it happens on.
    pub conn: String,
    /// What happens.
    pub action: Action,
}

/// What happens in a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// The client sends these bytes.
    Send(Vec<u8>),
    /// The server's next bytes match these parts.
    Expect(Vec<Part>),
    /// The server's next lines are these, in any order.
    ExpectAnyOrder(Vec<Vec<u8>>),
    /// Nothing unexpected has come.
    Quiet,
    /// The server closes, having sent nothing more.
    ServerCloses,
    /// The client closes.
    ClientCloses,
    /// The client closes its sending half.
    ClientHalfCloses,
    /// Time passes, in milliseconds.
    Advance(u64),
}

/// A piece of expected bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Exactly these.
    Bytes(Vec<u8>),
    /// `{digits}`
    Digits,
    /// `{text}`
    Text,
    /// `{version}`
    Version,
    /// `{stats}`
    Stats,
}

/// How the bytes of a `>` line are handed to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// In one piece.
    Whole,
    /// One byte at a time (in long writes only the first and last 4 KiB).
    SingleBytes,
}

/// A server as its clients see it. A connection is opened when its name is first mentioned.
pub trait Peer {
    /// Sends bytes. Bytes for a connection the server has closed are lost without a word, as on a socket.
    fn send(&mut self, conn: &str, bytes: &[u8]);
    /// Takes everything that has come and was not taken before, after waiting until it is at least `at_least` bytes.
    /// Returns less when the server has closed or does not send within the peer's patience. With 0 it does not wait.
    fn receive(&mut self, conn: &str, at_least: usize) -> Vec<u8>;
    /// Takes what has come, without waiting.
    fn pending(&mut self, conn: &str) -> Vec<u8> {
        self.receive(conn, 0)
    }
    /// Whether the server closes the connection, after waiting for that. Bytes that come before stay to be received.
    fn closed(&mut self, conn: &str) -> bool;
    /// The client goes away.
    fn close(&mut self, conn: &str);
    /// The client sends nothing more and goes on reading.
    fn half_close(&mut self, conn: &str);
    /// Lets time pass.
    fn advance(&mut self, ms: u64);
    /// Waits until the server has done all that what was sent, and who closed, gives it to do.
    fn settle(&mut self);
}

impl ServerOptions {
    /// The options as the daemon's command line has them.
    pub fn args(&self) -> Vec<String> {
        let mut args = Vec::new();
        for (name, value) in [
            ("-B", self.body_size_max),
            ("-t", self.threads),
            ("--max-open-reads", self.open_reads_max),
            ("--max-detached-reads", self.detached_reads_max),
            ("--max-unconfirmed", self.unconfirmed_max),
            ("--max-groups", self.groups_max),
        ] {
            if let Some(value) = value {
                args.extend([name.to_string(), value.to_string()]);
            }
        }
        for (name, given) in
            [("--enable-flush-all", self.enable_flush_all), ("--enable-shutdown", self.enable_shutdown)]
        {
            if given {
                args.push(name.to_string());
            }
        }
        if let Some(separator) = self.reader_separator {
            args.extend(["--reader-separator".to_string(), separator.to_string()]);
        }
        if self.kestrel {
            args.extend(["--kestrel-port".to_string(), "0".to_string()]);
        }
        args
    }

    fn parse(text: &str) -> Result<ServerOptions, String> {
        let mut options = ServerOptions::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "-B" => options.body_size_max = Some(parse_number(word, words.next())?),
                "-t" => options.threads = Some(parse_number(word, words.next())?),
                "--max-open-reads" => options.open_reads_max = Some(parse_number(word, words.next())?),
                "--max-detached-reads" => options.detached_reads_max = Some(parse_number(word, words.next())?),
                "--max-unconfirmed" => options.unconfirmed_max = Some(parse_number(word, words.next())?),
                "--max-groups" => options.groups_max = Some(parse_number(word, words.next())?),
                "--reader-separator" => {
                    let separator = words.next().and_then(|value| value.parse().ok());
                    options.reader_separator = Some(separator.ok_or("--reader-separator needs one character")?);
                }
                "--enable-flush-all" => options.enable_flush_all = true,
                "--enable-shutdown" => options.enable_shutdown = true,
                _ => return Err(format!("no transcript can ask for the option {word}")),
            }
        }
        Ok(options)
    }
}

fn parse_number(option: &str, value: Option<&str>) -> Result<u32, String> {
    let value = value.ok_or(format!("{option} needs a number"))?;
    value.parse().map_err(|_| format!("{option} needs a number, not {value}"))
}

impl Transcript {
    /// Parses `text`, whose first line is line `first_line` of `file`. The error names file and line.
    pub fn parse(file: &str, first_line: usize, text: &str) -> Result<Transcript, String> {
        let mut parser = Parser { conn: "A".to_string(), ended: Vec::new(), options: None, steps: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            let line_number = first_line + index;
            parser.line(line_number, line).map_err(|why| format!("{file}:{line_number}: {why}"))?;
        }
        if parser.steps.is_empty() {
            return Err(format!("{file}:{first_line}: a transcript without a step"));
        }
        let kestrel = parser.steps.iter().any(|step| step.conn.starts_with(KESTREL));
        let options = ServerOptions { kestrel, ..parser.options.unwrap_or_default() };
        Ok(Transcript { file: file.to_string(), options, steps: parser.steps })
    }
}

/// The fenced blocks of a Markdown text marked `transcript`, each with the line its first line stands on.
pub fn extract_from_markdown(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.trim() == "transcript", index + 2, String::new())),
            (None, None) => {}
            (Some((_, _, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (Some(_), Some(_)) => {
                let (is_transcript, first_line, block) = open.take().expect("a block is open in this arm");
                if is_transcript {
                    blocks.push((first_line, block));
                }
            }
        }
    }
    assert!(open.is_none(), "the Markdown text ends inside a fenced block");
    blocks
}

/// The state between two lines of a transcript.
struct Parser {
    conn: String,
    /// Connections that a `^` or `$` ended; nothing can happen on them any more.
    ended: Vec<String>,
    options: Option<ServerOptions>,
    steps: Vec<Step>,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if line.ends_with([' ', '\t']) {
            return Err("the line ends in white space, which nobody sees; write \\x20 or \\t".to_string());
        }
        let (marker, rest) = line.split_at_checked(1).ok_or("a step starts with a plain character")?;
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let action = match marker {
            "=" => return self.options(rest),
            "@" => return self.switch(rest),
            ">" => Action::Send(parse_exact(rest)?),
            "<" => Action::Expect(vec![Part::Bytes(parse_exact(rest)?)]),
            "~" => Action::Expect(parse_pattern(rest)?),
            "?" => Action::ExpectAnyOrder(vec![parse_whole_line(rest)?]),
            "." if rest.is_empty() => Action::Quiet,
            "$" if rest.is_empty() => Action::ServerCloses,
            "^" if rest.is_empty() => Action::ClientCloses,
            "^" if rest == "w" => Action::ClientHalfCloses,
            "+" => Action::Advance(parse_ms(rest)?),
            _ => return Err(format!("no step looks like {line:?}")),
        };
        self.step(number, action)
    }

    fn options(&mut self, text: &str) -> Result<(), String> {
        if self.options.is_some() || !self.steps.is_empty() {
            return Err("options are given once, before the first step".to_string());
        }
        self.options = Some(ServerOptions::parse(text)?);
        Ok(())
    }

    fn switch(&mut self, name: &str) -> Result<(), String> {
        let letters = name.strip_prefix(KESTREL).unwrap_or(name);
        if letters.is_empty() || !letters.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!("a connection's name is letters and digits, not {name:?}"));
        }
        self.conn = name.to_string();
        Ok(())
    }

    fn step(&mut self, line: usize, action: Action) -> Result<(), String> {
        let on_connection = !matches!(action, Action::Advance(_));
        if on_connection && self.ended.contains(&self.conn) {
            return Err(format!("connection {} has ended; use another name", self.conn));
        }
        if matches!(action, Action::ServerCloses | Action::ClientCloses) {
            self.ended.push(self.conn.clone());
        }
        if let (Action::ExpectAnyOrder(more), Some(Step { conn, action: Action::ExpectAnyOrder(lines), .. })) =
            (&action, self.steps.last_mut())
            && *conn == self.conn
        {
            lines.extend(more.iter().cloned());
            return Ok(());
        }
        self.steps.push(Step { line, conn: self.conn.clone(), action });
        Ok(())
    }
}

fn parse_ms(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix("ms").ok_or("time is written as +500ms")?;
    digits.parse().map_err(|_| format!("{digits:?} is no number of milliseconds"))
}

fn parse_exact(text: &str) -> Result<Vec<u8>, String> {
    match <[Part; 1]>::try_from(parse_parts(text)?) {
        Ok([Part::Bytes(bytes)]) => Ok(bytes),
        Ok(_) => Err("a wildcard belongs in a ~ line".to_string()),
        Err(parts) if parts.is_empty() => Err("there are no bytes on this line".to_string()),
        Err(_) => Err("a wildcard belongs in a ~ line".to_string()),
    }
}

fn parse_whole_line(text: &str) -> Result<Vec<u8>, String> {
    let bytes = parse_exact(text)?;
    if bytes.iter().position(|&b| b == b'\n') != Some(bytes.len() - 1) {
        return Err("a ? line is one whole line, up to its \\n".to_string());
    }
    Ok(bytes)
}

fn parse_pattern(text: &str) -> Result<Vec<Part>, String> {
    let parts = parse_parts(text)?;
    for (index, part) in parts.iter().enumerate() {
        let next = match parts.get(index + 1) {
            Some(Part::Bytes(bytes)) => Some(bytes[0]),
            _ => None,
        };
        let decided = match (part, next) {
            (Part::Bytes(_), _) => true,
            (Part::Digits, Some(byte)) => !byte.is_ascii_digit(),
            (Part::Text, Some(byte)) => byte == b'\r' || byte == b'\n',
            (Part::Version, Some(byte)) => !byte.is_ascii_digit() && byte != b'.',
            (Part::Stats, Some(byte)) => byte != b'S',
            (_, None) => false,
        };
        if !decided {
            return Err("what follows a wildcard must be a byte that cannot belong to it".to_string());
        }
    }
    Ok(parts)
}

fn parse_parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '{' {
            let (inside, after) = rest[1..].split_once('}').ok_or("a { without its }; a literal one is \\x7b")?;
            match wildcard(inside) {
                Some(part) => {
                    if !bytes.is_empty() {
                        parts.push(Part::Bytes(std::mem::take(&mut bytes)));
                    }
                    parts.push(part);
                }
                None => bytes.extend(repeat(inside)?),
            }
            rest = after;
        } else {
            let (byte, after) = parse_byte(rest)?;
            bytes.push(byte);
            rest = after;
        }
    }
    if !bytes.is_empty() {
        parts.push(Part::Bytes(bytes));
    }
    Ok(parts)
}

fn wildcard(name: &str) -> Option<Part> {
    match name {
        "digits" => Some(Part::Digits),
        "text" => Some(Part::Text),
        "version" => Some(Part::Version),
        "stats" => Some(Part::Stats),
        _ => None,
    }
}

fn repeat(inside: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{{{inside}}} is neither a wildcard nor {{text*count}}");
    let (text, count) = inside.rsplit_once('*').ok_or_else(wrong)?;
    let count: usize = count.parse().map_err(|_| wrong())?;
    let mut unit = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (byte, after) = parse_byte(rest)?;
        unit.push(byte);
        rest = after;
    }
    let size = unit.len().checked_mul(count).filter(|&size| 0 < size && size <= REPEAT_SIZE_MAX);
    size.ok_or(format!("{{{inside}}} is empty or above {REPEAT_SIZE_MAX} bytes"))?;
    Ok(unit.repeat(count))
}

/// The first byte that non-empty `text` stands for, and the text after it.
fn parse_byte(text: &str) -> Result<(u8, &str), String> {
    let first = text.as_bytes()[0];
    if first != b'\\' {
        if !(b' '..=b'~').contains(&first) || first == b'{' || first == b'}' {
            return Err("braces and anything but plain ASCII are written as \\xNN".to_string());
        }
        return Ok((first, &text[1..]));
    }
    let unknown = || format!("an unknown escape in {text:?}");
    let byte = match text.as_bytes().get(1) {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'\\') => b'\\',
        Some(b'0') => 0,
        Some(b'x') => {
            let hex = text.get(2..4).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(unknown)?;
            return Ok((u8::from_str_radix(hex, 16).map_err(|_| unknown())?, &text[4..]));
        }
        _ => return Err(unknown()),
    };
    Ok((byte, &text[2..]))
}

/// Plays a transcript. The error names file and line, what was expected and what came.
pub fn run(transcript: &Transcript, peer: &mut dyn Peer, chunking: Chunking) -> Result<(), String> {
    let mut run = Run { peer, chunking, connections: BTreeMap::new(), unsettled: None };
    for step in &transcript.steps {
        run.step(step).map_err(|why| format!("{}:{}: connection {}: {why}", transcript.file, step.line, step.conn))?;
    }
    let names: Vec<String> = run.connections.keys().cloned().collect();
    for name in names {
        run.finish(&name)
            .map_err(|why| format!("{}: connection {name}, after the last step: {why}", transcript.file))?;
    }
    Ok(())
}

struct Run<'a> {
    peer: &'a mut dyn Peer,
    chunking: Chunking,
    connections: BTreeMap<String, Connection>,
    /// Whose client did something that the server may not have seen yet.
    unsettled: Option<String>,
}

#[derive(Default)]
struct Connection {
    state: ConnectionState,
    /// Received and not yet matched.
    inbox: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    #[default]
    Open,
    HalfClosed,
    Ended,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let name = step.conn.as_str();
        self.settle_before(step);
        if let Action::Advance(ms) = step.action {
            self.peer.advance(ms);
            return Ok(());
        }
        self.connections.entry(name.to_string()).or_default();
        match &step.action {
            Action::Send(bytes) => self.send(name, bytes),
            Action::Expect(parts) => return self.expect(name, parts),
            Action::ExpectAnyOrder(lines) => return self.expect_any_order(name, lines),
            Action::Quiet => return self.expect_quiet(name),
            Action::ServerCloses => return self.expect_close(name),
            Action::ClientCloses => {
                self.peer.close(name);
                self.connection(name).state = ConnectionState::Ended;
            }
            Action::ClientHalfCloses => {
                self.peer.half_close(name);
                self.connection(name).state = ConnectionState::HalfClosed;
            }
            Action::Advance(_) => unreachable!("handled above, it belongs to no connection"),
        }
        Ok(())
    }

    /// Between connections nothing but this keeps the order of the steps: what is said on one may reach the server after what is
    /// said later on another.
    fn settle_before(&mut self, step: &Step) {
        let acts = match step.action {
            Action::Send(_) | Action::ClientCloses | Action::ClientHalfCloses => true,
            Action::Quiet | Action::Advance(_) => false,
            Action::Expect(_) | Action::ExpectAnyOrder(_) | Action::ServerCloses => return,
        };
        if self.unsettled.as_ref().is_some_and(|name| !acts || *name != step.conn) {
            self.peer.settle();
            self.unsettled = None;
        }
        if acts {
            self.unsettled = Some(step.conn.clone());
        }
    }

    /// Nothing may be left over. A version round trip flushes out whatever the server still had to say; a connection
    /// that can send nothing more must be closed by the server.
    fn finish(&mut self, name: &str) -> Result<(), String> {
        match self.connection(name).state {
            ConnectionState::Ended => Ok(()),
            ConnectionState::HalfClosed => self.expect_close(name),
            ConnectionState::Open => {
                self.send(name, b"version\r\n");
                let answer = [Part::Bytes(b"VERSION ".to_vec()), Part::Version, Part::Bytes(b"\r\n".to_vec())];
                self.expect(name, &answer)?;
                self.expect_quiet(name)
            }
        }
    }

    fn connection(&mut self, name: &str) -> &mut Connection {
        self.connections.get_mut(name).expect("a step enters its connection before anything else")
    }

    fn send(&mut self, name: &str, bytes: &[u8]) {
        if self.chunking == Chunking::Whole {
            return self.peer.send(name, bytes);
        }
        let head = bytes.len().min(SINGLE_BYTES_EDGE);
        let tail = bytes.len().saturating_sub(SINGLE_BYTES_EDGE).max(head);
        for byte in bytes[..head].chunks(1) {
            self.peer.send(name, byte);
        }
        if head < tail {
            self.peer.send(name, &bytes[head..tail]);
        }
        for byte in bytes[tail..].chunks(1) {
            self.peer.send(name, byte);
        }
    }

    fn expect(&mut self, name: &str, parts: &[Part]) -> Result<(), String> {
        let mut reader = self.reader(name);
        if reader.take(parts) {
            reader.accept();
            return Ok(());
        }
        Err(reader.mismatch(&show_parts(parts)))
    }

    fn expect_any_order(&mut self, name: &str, lines: &[Vec<u8>]) -> Result<(), String> {
        let mut missing: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let mut reader = self.reader(name);
        while let Some(shortest) = missing.iter().map(|line| line.len()).min() {
            let line = reader.take_line(shortest).to_vec();
            let Some(found) = missing.iter().position(|wanted| *wanted == line) else {
                let wanted = missing.iter().map(|line| show(line)).collect::<Vec<_>>().join(" or ");
                return Err(reader.mismatch(&wanted));
            };
            missing.swap_remove(found);
            reader.accept();
        }
        Ok(())
    }

    fn expect_quiet(&mut self, name: &str) -> Result<(), String> {
        let came = self.peer.pending(name);
        let inbox = &mut self.connection(name).inbox;
        inbox.extend(came);
        if inbox.is_empty() { Ok(()) } else { Err(format!("expected nothing, got {}", show(inbox))) }
    }

    fn expect_close(&mut self, name: &str) -> Result<(), String> {
        let closed = self.peer.closed(name);
        self.expect_quiet(name)?;
        if !closed {
            return Err("expected the server to close, it did not".to_string());
        }
        self.connection(name).state = ConnectionState::Ended;
        Ok(())
    }

    fn reader<'r>(&'r mut self, name: &'r str) -> Reader<'r> {
        let inbox = &mut self.connections.get_mut(name).expect("a step enters its connection first").inbox;
        Reader { peer: &mut *self.peer, name, inbox, at: 0, starved: false }
    }
}

/// Matches one step against a connection's bytes, fetching more only when the step cannot be decided without.
struct Reader<'a> {
    peer: &'a mut dyn Peer,
    name: &'a str,
    inbox: &'a mut Vec<u8>,
    /// Bytes of the inbox already matched.
    at: usize,
    /// The server had its time and sent too little; it is not waited for twice.
    starved: bool,
}

impl Reader<'_> {
    /// Whether the next bytes match all parts.
    fn take(&mut self, parts: &[Part]) -> bool {
        parts.iter().all(|part| match part {
            Part::Bytes(bytes) => self.take_bytes(bytes),
            Part::Digits => self.take_while(|b| b.is_ascii_digit()) > 0,
            Part::Text => self.take_while(|b| b != b'\r' && b != b'\n') > 0,
            Part::Version => self.take_version(),
            Part::Stats => self.take_stats(),
        })
    }

    fn take_bytes(&mut self, bytes: &[u8]) -> bool {
        self.fetch(bytes.len());
        let matches = self.inbox[self.at..].starts_with(bytes);
        self.at += if matches { bytes.len() } else { 0 };
        matches
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> usize {
        let start = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        self.at - start
    }

    fn take_version(&mut self) -> bool {
        self.peek() != Some(b'0')
            && self.take_while(|b| b.is_ascii_digit()) > 0
            && self.take_bytes(b".")
            && self.take_while(|b| b.is_ascii_digit()) > 0
            && self.take_bytes(b".")
            && self.take_while(|b| b.is_ascii_digit()) > 0
    }

    fn take_stats(&mut self) -> bool {
        while self.peek() == Some(b'S') {
            if !self.take_bytes(b"STAT ")
                || self.take_while(|b| b != b'\r' && b != b'\n') == 0
                || !self.take_bytes(b"\r\n")
            {
                return false;
            }
        }
        true
    }

    /// The next bytes up to and with LF; of an unfinished line what there is.
    fn take_line(&mut self, at_least: usize) -> &[u8] {
        let start = self.at;
        self.fetch(at_least);
        self.take_while(|b| b != b'\n');
        self.at += usize::from(self.peek().is_some());
        &self.inbox[start..self.at]
    }

    fn peek(&mut self) -> Option<u8> {
        self.fetch(1);
        self.inbox.get(self.at).copied()
    }

    fn fetch(&mut self, size: usize) {
        let missing = (self.at + size).saturating_sub(self.inbox.len());
        if missing > 0 && !self.starved {
            let came = self.peer.receive(self.name, missing);
            self.starved = came.len() < missing;
            self.inbox.extend(came);
        }
    }

    /// Forgets what has been matched.
    fn accept(&mut self) {
        self.inbox.drain(..self.at);
        self.at = 0;
    }

    fn mismatch(&self, expected: &str) -> String {
        let end = if self.starved { ", then nothing more" } else { "" };
        format!("\n  expected {expected}\n  got      {}{end}", show(self.inbox))
    }
}

fn show_parts(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        text.push_str(&match part {
            Part::Bytes(bytes) => show(bytes),
            Part::Digits => "{digits}".to_string(),
            Part::Text => "{text}".to_string(),
            Part::Version => "{version}".to_string(),
            Part::Stats => "{stats}".to_string(),
        });
    }
    text
}

/// Bytes in the notation of a transcript, long ones cut.
fn show(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_string();
    }
    let mut text = String::new();
    for &byte in &bytes[..bytes.len().min(SHOWN_SIZE_MAX)] {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            0 => text.push_str("\\0"),
            b'{' | b'}' | 0x01..=0x1f | 0x7f.. => write!(text, "\\x{byte:02x}").expect("a String takes everything"),
            _ => text.push(char::from(byte)),
        }
    }
    if bytes.len() > SHOWN_SIZE_MAX {
        write!(text, "… ({} bytes in all)", bytes.len()).expect("a String takes everything");
    }
    text
}

#[cfg(test)]
#[path = "transcript_tests.rs"]
mod tests;
