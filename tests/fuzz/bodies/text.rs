//! The text protocol's lines and frames. The first byte chooses the server's options, the rest is what a client sends.
//!
//! Promises: whatever was understood is understood the same when it is written out in its shortest form; a request is the same
//! request however it was cut; a body that was announced is skipped whole.

use ringq::limits::{BODY_ANNOUNCED_MAX, NAME_LEN_MAX};
use ringq::proto::command::{Command, Line, Report, SetLine};
use ringq::proto::key::{Key, Names};
use ringq::proto::parse_line;
use ringq::session::frame::{Frame, frame};

/// A request is cut in so many places at most: near its beginning and its end.
const CUTS_MAX: usize = 48;

pub fn run(bytes: &[u8]) {
    let Some((options, stream)) = bytes.split_first() else { return };
    let names = Names { reader_separator: (options & 1 == 1).then_some(b'#') };
    let body_size_max = [0, 10, 1024, 1 << 20][usize::from(options >> 1 & 3)];
    for line in stream.split(|byte| *byte == b'\n') {
        check_line(line.strip_suffix(b"\r").unwrap_or(line), body_size_max, names);
    }
    check_stream(stream, body_size_max, names);
}

fn check_line(line: &[u8], body_size_max: usize, names: Names) {
    let parsed = parse_line(line, body_size_max, names);
    match &parsed {
        Line::Set(set) => {
            assert!(set.size <= body_size_max, "a larger body is refused");
            check_name(set.key, names);
            assert_eq!(parse_line(&written_set(set), body_size_max, names), parsed);
        }
        Line::Command(command) => {
            check_names_of(command, names);
            let written = written(command);
            let Line::Command(again) = parse_line(&written, body_size_max, names) else {
                panic!("{:?} is no command", written.escape_ascii().to_string());
            };
            let twice = self::written(&again);
            assert!(twice == written, "{} became {}", written.escape_ascii(), twice.escape_ascii());
        }
        Line::Refused { reply, skip } => {
            check_reply(reply);
            assert!(*skip == 0 || (2..=BODY_ANNOUNCED_MAX + 2).contains(skip), "{skip} bytes are no body");
        }
        Line::Fatal { reply } => check_reply(reply),
    }
}

fn check_reply(reply: &[u8]) {
    let lines = reply.split_inclusive(|byte| *byte == b'\n').count();
    assert!(reply.is_empty() || lines == 1 && reply.ends_with(b"\r\n"), "a reply is one line");
}

fn check_name(key: Key<'_>, names: Names) {
    assert!((1..=NAME_LEN_MAX).contains(&key.name.len()));
    let is_forbidden =
        |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'/' || Some(*byte) == names.reader_separator;
    assert!(!key.name.iter().any(is_forbidden), "{} is a name", key.name.escape_ascii());
}

fn check_names_of(command: &Command<'_>, names: Names) {
    let (key, group) = match command {
        Command::Get { keys, .. } => return keys.for_each(|key| check_name(key, names)),
        Command::GetWith { key, options, .. } => (key, options.group()),
        Command::Delete { key, group, .. }
        | Command::Confirm { key, group, .. }
        | Command::Touch { key, group, .. }
        | Command::Flush { key, group, .. }
        | Command::StatsQueue { key, group, .. } => (key, *group),
        Command::Configure { key, .. } | Command::ShowSettings { key } => (key, None),
        _ => return,
    };
    check_name(*key, names);
    if let Some(group) = group {
        assert!(!group.is_empty() && !group.contains(&b'/') && !group.contains(&b' '));
        let together = ringq::proto::options::group_name_len(key.name, group);
        assert!(together <= NAME_LEN_MAX, "a group's name fits one name with its queue's");
    }
}

fn written_set(set: &SetLine<'_>) -> Vec<u8> {
    let ttl = set.lifetime.ttl_s.map_or(String::new(), |s| format!("/ttl={s}"));
    let noreply = if set.noreply { " noreply" } else { "" };
    let rest = format!("{ttl} {} {} {}{noreply}", set.flags, set.lifetime.exptime, set.size);
    [b"set ", set.key.name, rest.as_bytes()].concat()
}

/// The command in its shortest form.
fn written(command: &Command<'_>) -> Vec<u8> {
    let of = |key: &Key<'_>, group: &Option<&[u8]>| match group {
        None => key.name.to_vec(),
        Some(group) => [key.name, b"/group=", group].concat(),
    };
    let with = |parts: &[&[u8]], noreply: bool| [&parts.concat()[..], if noreply { b" noreply" } else { b"" }].concat();
    match command {
        Command::Get { keys, cas } => {
            let names: Vec<&[u8]> = keys.map(|key| key.name).collect();
            [if *cas { &b"gets "[..] } else { b"get " }, &names.join(&b' ')].concat()
        }
        Command::GetWith { key, options, cas } => {
            [if *cas { &b"gets "[..] } else { b"get " }, key.name, options.as_written()].concat()
        }
        Command::Delete { key, group, noreply } => with(&[b"delete ", &of(key, group)], *noreply),
        Command::Confirm { key, group, message, noreply } => {
            with(&[b"delete ", &of(key, group), format!("/id={}", message.0).as_bytes()], *noreply)
        }
        Command::Touch { key, group, message, seconds, noreply } => {
            with(&[b"touch ", &of(key, group), format!("/id={} {seconds}", message.0).as_bytes()], *noreply)
        }
        Command::Flush { key, group, noreply } => with(&[b"flush ", &of(key, group)], *noreply),
        Command::Configure { key, words, noreply } => {
            let words: Vec<&[u8]> = words.collect();
            with(&[b"config ", key.name, b" ", &words.join(&b' ')], *noreply)
        }
        Command::ShowSettings { key } => [b"config ", key.name].concat(),
        Command::FlushAll { is_valid, noreply } => {
            with(&[if *is_valid { &b"flush_all"[..] } else { b"flush_all 1" }], *noreply)
        }
        Command::Stats(report) => match report {
            Report::General => b"stats".to_vec(),
            Report::Latency => b"stats latency".to_vec(),
            Report::Commit => b"stats commit".to_vec(),
            Report::Shards => b"stats shards".to_vec(),
            Report::Sizes => b"stats sizes".to_vec(),
            Report::Kestrel | Report::FlushExpired => panic!("{report:?} is of the other dialect"),
        },
        Command::StatsReset => b"stats reset".to_vec(),
        Command::StatsLatencyReset => b"stats latency reset".to_vec(),
        Command::StatsSettings => b"stats settings".to_vec(),
        Command::StatsQueues => b"stats queue".to_vec(),
        Command::StatsConnections => b"stats conns".to_vec(),
        Command::StatsQueue { word, .. } => [b"stats queue ", *word].concat(),
        Command::Version => b"version".to_vec(),
        Command::Verbosity { level, noreply } => with(&[format!("verbosity {level}").as_bytes()], *noreply),
        Command::Checkpoint => b"db_checkpoint".to_vec(),
        Command::Quit => b"quit".to_vec(),
        Command::Shutdown => b"shutdown".to_vec(),
    }
}

/// Takes one request after the other off the front.
fn check_stream(mut input: &[u8], body_size_max: usize, names: Names) {
    loop {
        let whole = frame(input, body_size_max, names);
        let (len, skip) = match whole {
            Frame::Partial { need, body_size } => {
                assert!(need > input.len(), "{need} bytes are there");
                assert!(body_size <= body_size_max);
                return;
            }
            Frame::Fatal { .. } => {
                let longer = [input, b"\r\n"].concat();
                assert_eq!(frame(&longer, body_size_max, names), whole, "what is fatal stays it");
                return;
            }
            Frame::Command { len, .. } => (len, 0),
            Frame::Put { set, body, len } => {
                assert_eq!(body.len(), set.size);
                assert!(input[..len].ends_with(b"\r\n"));
                (len, 0)
            }
            Frame::Refused { skip, len, .. } => (len, skip),
        };
        assert!(len > 0 && len <= input.len(), "{len} bytes of {}", input.len());
        assert_eq!(frame(&input[..len], body_size_max, names), whole, "what follows a request does not change it");
        for cut in cuts(len) {
            let part = frame(&input[..cut], body_size_max, names);
            let is_patient = matches!(part, Frame::Partial { need, .. } if need > cut && need <= len);
            assert!(is_patient, "{cut} of {len} bytes are {part:?}");
        }
        let next = u64::try_from(len).unwrap().saturating_add(skip);
        let Some(rest) = usize::try_from(next).ok().and_then(|next| input.get(next..)) else { return };
        input = rest;
    }
}

/// Places before the end of so many bytes.
pub fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |cut| *cut < CUTS_MAX / 2 || *cut + CUTS_MAX / 2 >= len)
}
