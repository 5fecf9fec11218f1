//! What can happen in a history, one step each, and how that is written: a line a step, words with spaces between.
//!
//! Invariant: a step has a meaning in any state of the server, if need be that nothing happens; so a history from which steps were
//! taken out is a history. What is written reads back as the same step.

use crate::request::Request;
use std::fmt;
use std::str::FromStr;

/// A step. Numbers that name one of several (clients, shards, writes) are taken modulo how many there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A client has another request to send.
    Ask { client: usize, request: Request },
    /// So many of the bytes that a client has to send reach the server.
    Send { client: usize, size: usize },
    /// So many bytes of what the server sends reach the client.
    Come { client: usize, size: usize },
    /// The server hears that what it sent has gone, if all of it has.
    Sent { client: usize },
    /// The client closes its sending half.
    Shut { client: usize },
    /// The connection is gone.
    Reset { client: usize },
    /// The connection is gone in the middle of what the server sends.
    Break { client: usize },
    /// A turn of a shard.
    Turn { shard: usize },
    /// The disk completes a write of a shard's journal.
    Write { shard: usize, at: usize },
    /// A shard hands to the store what its journal has.
    Checkpoint { shard: usize },
    /// The store applies so many batches of a shard.
    Apply { shard: usize, count: usize },
    /// The oldest mail between shards arrives.
    Deliver,
    /// The store answers the oldest load.
    Load,
    /// It answers that it cannot be read.
    FailLoad,
    /// A shard writes a record that tells of the acknowledgement of all before it.
    Cover { shard: usize },
    /// Time passes.
    Advance { ms: u64 },
    /// Somebody sets the wall clock.
    SetClock { by_ms: i64 },
    /// A shard hears whether the file system is full.
    Full { shard: usize, full: bool },
    /// A stored message loses a bit.
    Rot { at: usize },
    /// A bit of a shard's journal is another, for as long as it takes to see what a start would make of it.
    Flip { shard: usize, segment: u32, bit: usize },
    /// The power goes: in the middle of a checkpoint, with any pieces of the writes under way on the disk. Or a write or a commit fails,
    /// which ends the process, and leaves the same.
    Crash { shards: u16, piece_size: usize, kept_of_8: usize, seed: u64, replayed: Vec<usize> },
    /// Everything that can happen happens, until nothing does; then the server is looked at.
    Rest,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Ask { client, request } => write!(f, "ask {client} {request}"),
            Action::Send { client, size } => write!(f, "send {client} {size}"),
            Action::Come { client, size } => write!(f, "come {client} {size}"),
            Action::Sent { client } => write!(f, "sent {client}"),
            Action::Shut { client } => write!(f, "shut {client}"),
            Action::Reset { client } => write!(f, "reset {client}"),
            Action::Break { client } => write!(f, "break {client}"),
            Action::Turn { shard } => write!(f, "turn {shard}"),
            Action::Write { shard, at } => write!(f, "write {shard} {at}"),
            Action::Checkpoint { shard } => write!(f, "checkpoint {shard}"),
            Action::Apply { shard, count } => write!(f, "apply {shard} {count}"),
            Action::Deliver => write!(f, "deliver"),
            Action::Load => write!(f, "load"),
            Action::FailLoad => write!(f, "fail-load"),
            Action::Cover { shard } => write!(f, "cover {shard}"),
            Action::Advance { ms } => write!(f, "advance {ms}"),
            Action::SetClock { by_ms } => write!(f, "set-clock {by_ms}"),
            Action::Full { shard, full } => write!(f, "full {shard} {full}"),
            Action::Rot { at } => write!(f, "rot {at}"),
            Action::Flip { shard, segment, bit } => write!(f, "flip {shard} {segment} {bit}"),
            Action::Crash { shards, piece_size, kept_of_8, seed, replayed } => {
                write!(f, "crash {shards} {piece_size} {kept_of_8} {seed}")?;
                replayed.iter().try_for_each(|records| write!(f, " {records}"))
            }
            Action::Rest => write!(f, "rest"),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(line: &str) -> Result<Action, String> {
        parse(line).ok_or_else(|| format!("no step of a history: {line}"))
    }
}

fn parse(line: &str) -> Option<Action> {
    let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
    if what == "ask" {
        let (client, request) = rest.split_once(' ')?;
        return Some(Action::Ask { client: client.parse().ok()?, request: request.parse().ok()? });
    }
    let mut words = rest.split_ascii_whitespace();
    let mut next = || words.next();
    let action = match what {
        "send" => Action::Send { client: number(next())?, size: number(next())? },
        "come" => Action::Come { client: number(next())?, size: number(next())? },
        "sent" => Action::Sent { client: number(next())? },
        "shut" => Action::Shut { client: number(next())? },
        "reset" => Action::Reset { client: number(next())? },
        "break" => Action::Break { client: number(next())? },
        "turn" => Action::Turn { shard: number(next())? },
        "write" => Action::Write { shard: number(next())?, at: number(next())? },
        "checkpoint" => Action::Checkpoint { shard: number(next())? },
        "apply" => Action::Apply { shard: number(next())?, count: number(next())? },
        "deliver" => Action::Deliver,
        "load" => Action::Load,
        "fail-load" => Action::FailLoad,
        "cover" => Action::Cover { shard: number(next())? },
        "advance" => Action::Advance { ms: number(next())? },
        "set-clock" => Action::SetClock { by_ms: number(next())? },
        "full" => Action::Full { shard: number(next())?, full: number(next())? },
        "rot" => Action::Rot { at: number(next())? },
        "flip" => Action::Flip { shard: number(next())?, segment: number(next())?, bit: number(next())? },
        "crash" => Action::Crash {
            shards: number(next())?,
            piece_size: number(next())?,
            kept_of_8: number(next())?,
            seed: number(next())?,
            replayed: words.by_ref().map(|word| word.parse().ok()).collect::<Option<_>>()?,
        },
        "rest" => Action::Rest,
        _ => return None,
    };
    words.next().is_none().then_some(action)
}

fn number<T: FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}
