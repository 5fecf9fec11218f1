//! Kestrel's dialect: its lines and frames, and a session in a server in memory. The first byte chooses options, the rest is what a
//! client sends.
//!
//! Promises: whatever was understood is understood the same when it is written out in its shortest form; a request is the same
//! request however it was cut; the server's bookkeeping is right after each session.

use super::text::cuts;
use crate::world::{Options, World};
use ringq::limits::{CONFIRM_LEN_MAX, GROUP_LEN_MAX, NAME_LEN_MAX};
use ringq::proto::Dialect;
use ringq::proto::kestrel::{Command, Line, Name, SetLine, Status, name, parse_line, shown_name};
use ringq::session::frame::{Frame, kestrel_frame};

pub fn run(bytes: &[u8]) {
    let Some((choice, stream)) = bytes.split_first() else { return };
    let body_size_max = [0, 10, 1024, 1 << 20][usize::from(choice & 3)];
    for line in stream.split(|byte| *byte == b'\n') {
        check_line(line.strip_suffix(b"\r").unwrap_or(line), body_size_max);
    }
    check_stream(stream, body_size_max);
    if stream.len() <= 8 << 10 {
        check_session(stream, *choice);
    }
}

fn check_line(line: &[u8], body_size_max: usize) {
    let parsed = parse_line(line, body_size_max);
    match &parsed {
        Line::Set(set) => {
            assert!(set.size <= body_size_max, "a larger body is refused");
            check_name(set.name);
            assert_eq!(parse_line(&written_set(set), body_size_max), parsed);
        }
        Line::Command(command) => {
            let written = written(command);
            let Line::Command(again) = parse_line(&written, body_size_max) else {
                panic!("{} is no command", written.escape_ascii());
            };
            let twice = self::written(&again);
            assert!(twice == written, "{} became {}", written.escape_ascii(), twice.escape_ascii());
        }
        Line::Refused { reply, skip } => {
            assert!(reply.ends_with(b"\r\n"));
            assert!(*skip == 0 || (2..=i32::MAX as u64 + 2).contains(skip), "{skip} bytes are no body");
        }
        Line::Fatal { reply } => assert!(reply.is_empty() || reply.ends_with(b"\r\n")),
    }
}

fn check_name(of: Name<'_>) {
    let key = of.key();
    assert!((1..=NAME_LEN_MAX).contains(&key.len()), "it fits one name with its reader");
    assert!(of.reader.is_none_or(|reader| (1..=GROUP_LEN_MAX).contains(&reader.len())));
    let shown = shown_name(&key);
    assert_eq!(name(&shown), Some(of), "{} is shown as it is named", shown.escape_ascii());
}

/// A name as clients write it; of one that cannot be, another one that cannot be.
fn spelled(of: &Option<Name<'_>>) -> Vec<u8> {
    let Some(of) = of else { return b"~".to_vec() };
    check_name(*of);
    match of.reader {
        None => of.queue.to_vec(),
        Some(reader) => [of.queue, b"+", reader].concat(),
    }
}

fn written_set(set: &SetLine<'_>) -> Vec<u8> {
    let rest = format!(" {} {} {}", set.flags.cast_signed(), set.exptime, set.size);
    [b"set ", &spelled(&Some(set.name))[..], rest.as_bytes()].concat()
}

/// The command in its shortest form.
fn written(command: &Command<'_>) -> Vec<u8> {
    let of = |word: &str, name: &Option<Name<'_>>, rest: String| {
        [word.as_bytes(), b" ", &spelled(name), rest.as_bytes()].concat()
    };
    match command {
        Command::Get { name, options } => {
            let text = String::from_utf8(options.as_written().to_vec()).expect("words of the protocol");
            assert!(options.ttr_s.is_none() && options.group().is_none(), "Kestrel has no such options");
            of("get", &Some(*name), text)
        }
        Command::Monitor { name, seconds, messages_max } => of(
            "monitor",
            &Some(*name),
            format!(" {seconds}{}", messages_max.map_or(String::new(), |max| format!(" {max}"))),
        ),
        Command::Confirm { name, count } => {
            assert!((1..=CONFIRM_LEN_MAX).contains(count));
            of("confirm", &Some(*name), format!(" {count}"))
        }
        Command::Delete { name } => of("delete", name, String::new()),
        Command::Flush { name } => of("flush", name, String::new()),
        Command::FlushExpired { name } => of("flush_expired", name, String::new()),
        Command::FlushAll => b"flush_all".to_vec(),
        Command::FlushAllExpired => b"flush_all_expired".to_vec(),
        Command::Stats => b"stats".to_vec(),
        Command::DumpStats { names } => {
            let names: Vec<&[u8]> = names.collect();
            [&b"dump_stats "[..], &names.join(&b' ')].concat()
        }
        Command::Version => b"version".to_vec(),
        Command::Reload => b"reload".to_vec(),
        Command::Status(Status::Tell) => b"status".to_vec(),
        Command::Status(Status::Up) => b"status up".to_vec(),
        Command::Status(Status::Less) => b"status readonly".to_vec(),
        Command::Shutdown => b"shutdown".to_vec(),
        Command::Quit => b"quit".to_vec(),
    }
}

/// Takes one request after the other off the front.
fn check_stream(mut input: &[u8], body_size_max: usize) {
    loop {
        let whole = kestrel_frame(input, body_size_max);
        let (len, skip) = match whole {
            Frame::Partial { need, .. } => return assert!(need > input.len(), "{need} bytes are there"),
            Frame::Fatal { .. } => {
                let longer = [input, b"\r\n"].concat();
                return assert_eq!(kestrel_frame(&longer, body_size_max), whole, "what is fatal stays it");
            }
            Frame::Command { len, .. } | Frame::Put { len, .. } => (len, 0),
            Frame::Refused { skip, len, .. } => (len, skip),
        };
        assert!(len > 0 && len <= input.len(), "{len} bytes of {}", input.len());
        assert_eq!(kestrel_frame(&input[..len], body_size_max), whole, "what follows a request does not change it");
        for cut in cuts(len) {
            let part = kestrel_frame(&input[..cut], body_size_max);
            let is_patient = matches!(part, Frame::Partial { need, .. } if need > cut && need <= len);
            assert!(is_patient, "{cut} of {len} bytes are {part:?}");
        }
        let Some(rest) = input.get(len..).and_then(|rest| rest.get(usize::try_from(skip).ok()?..)) else { return };
        input = rest;
    }
}

/// Two clients say the same, one of this dialect and one of the other; time passes; the server crashes.
fn check_session(stream: &[u8], choice: u8) {
    let shards = 1 + u16::from(choice >> 2 & 1);
    let mut world =
        World::new(Options { shards, flush_all: choice & 8 == 8, segment_size: 64 << 10, ..Options::default() });
    let (kestrels, other) = (world.connect_speaking(Dialect::Kestrel), world.connect());
    let (first, second) = stream.split_at(stream.len() / 2);
    for (client, piece) in [(kestrels, first), (other, stream), (kestrels, second)] {
        world.send(client, piece);
        world.settle();
        world.advance(1500);
        world.settle();
        world.check();
    }
    world.crash(3 - shards);
    let client = world.connect_speaking(Dialect::Kestrel);
    world.send(client, stream);
    world.half_close(client);
    world.settle();
    world.check();
}
