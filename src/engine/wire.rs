//! Requests and answers between shards, as bytes.
//!
//! Invariant: both ends are this file, of the same process, so what does not decode is a bug.

use super::datagram::Form;
use super::kestrel::Ask;
use super::reads::Reader;
use crate::ids::{ConnId, MessageId, QueueId, Seq, ShardId};
use crate::proto::Dialect;
use crate::proto::command::{Lifetime, Report, Words};
use crate::proto::options::GetOptions;
use crate::proto::reply;
use crate::session::Listed;
use crate::session::reads::Opened;
use crate::session::replies::Piece;

/// A request as it crosses. One at a time exists, on the stack, so the largest may be large.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request<'a> {
    Put {
        flags: u32,
        lifetime: Lifetime,
        name: &'a [u8],
        body: &'a [u8],
    },
    /// A get without options.
    Get {
        name: &'a [u8],
        form: Form,
    },
    /// A get with options. Before that it may confirm an open read.
    GetWith {
        name: &'a [u8],
        options: GetOptions,
        form: Form,
        closing: Option<Opened>,
    },
    /// Ends an open read as its reader wants it.
    End {
        opened: Opened,
        confirms: bool,
    },
    /// Confirms an open read, whoever has it.
    Confirm {
        name: &'a [u8],
        message: MessageId,
    },
    Touch {
        name: &'a [u8],
        message: MessageId,
        seconds: u32,
    },
    /// The reader is gone.
    Return {
        opened: Opened,
    },
    Delete {
        name: &'a [u8],
    },
    FlushQueue {
        name: &'a [u8],
    },
    /// The words were found to be valid.
    Configure {
        name: &'a [u8],
        words: Words<'a>,
    },
    ShowSettings {
        name: &'a [u8],
    },
    Flush,
    Checkpoint,
    Stats(Report),
    StatsReset,
    LatencyReset,
    List {
        what: Listed,
        cursor: u32,
    },
    /// The lines and `END` have at most so much room, bytes. The client names it `key`.
    StatQueue {
        name: &'a [u8],
        key: &'a [u8],
        room: u32,
    },
    /// The get with this token takes nothing if it has not yet.
    Cancel {
        token: u32,
    },
    Unsent {
        queue: QueueId,
    },
    /// A message goes from a queue to one of another shard. `begins_again`: the transfer that was refused first.
    Transfer {
        source: QueueId,
        number: u64,
        begins_again: bool,
        flags: u32,
        target: &'a [u8],
        body: &'a [u8],
    },
    /// Something that only Kestrel's clients ask for.
    Kestrel {
        ask: Ask,
        payload: &'a [u8],
    },
}

// A request: token u32 · kind u8 · fields.

pub(super) fn encode(request: &Request<'_>, out: &mut Vec<u8>) {
    let name_to = |out: &mut Vec<u8>, kind: u8, name: &[u8]| {
        out.extend_from_slice(&[kind, name.len() as u8]);
        out.extend_from_slice(name);
    };
    match *request {
        Request::Put { flags, lifetime, name, body } => {
            let is_plain = lifetime == Lifetime::default();
            name_to(out, if is_plain { 1 } else { 34 }, name);
            if !is_plain {
                out.extend_from_slice(&lifetime.exptime.to_le_bytes());
                out.push(u8::from(lifetime.ttl_s.is_some()));
                out.extend_from_slice(&lifetime.ttl_s.unwrap_or(0).to_le_bytes());
                out.extend_from_slice(&lifetime.expires_ms.to_le_bytes());
            }
            out.extend_from_slice(&flags.to_le_bytes());
            out.extend_from_slice(&(body.len() as u32).to_le_bytes());
            out.extend_from_slice(body);
        }
        Request::Get { name, form } => {
            name_to(out, if form.cas { 3 } else { 2 }, name);
            out.extend_from_slice(&form.size_max.to_le_bytes());
        }
        Request::Delete { name } => name_to(out, 4, name),
        Request::FlushQueue { name } => name_to(out, 19, name),
        Request::Configure { name, words } => {
            name_to(out, 32, name);
            out.extend_from_slice(&(words.text.len() as u32).to_le_bytes());
            out.extend_from_slice(words.text);
        }
        Request::ShowSettings { name } => name_to(out, 33, name),
        Request::Flush => out.push(5),
        Request::Checkpoint => out.push(6),
        Request::Stats(report) => out.extend_from_slice(&[7, report as u8]),
        Request::StatsReset => out.push(8),
        Request::LatencyReset => out.push(15),
        Request::List { what, cursor } => {
            out.extend_from_slice(&[9, what as u8]);
            out.extend_from_slice(&cursor.to_le_bytes());
        }
        Request::StatQueue { name, key, room } => {
            name_to(out, 10, name);
            out.push(key.len() as u8);
            out.extend_from_slice(key);
            out.extend_from_slice(&room.to_le_bytes());
        }
        Request::Cancel { token } => {
            out.push(11);
            out.extend_from_slice(&token.to_le_bytes());
        }
        Request::Unsent { queue } => {
            out.push(12);
            out.extend_from_slice(&queue.0.to_le_bytes());
        }
        Request::GetWith { name, options, form, closing } => {
            let Form { cas, peek, open, size_max, dialect } = form;
            let is_kestrels = u8::from(dialect == Dialect::Kestrel);
            name_to(out, 13, name);
            let text = options.as_written();
            out.push(text.len() as u8);
            out.extend_from_slice(text);
            out.push(
                u8::from(cas)
                    | u8::from(peek) << 1
                    | u8::from(open.is_some()) << 2
                    | u8::from(closing.is_some()) << 3
                    | is_kestrels << 4,
            );
            out.extend_from_slice(&size_max.to_le_bytes());
            if let Some(Reader { shard, conn, ttr_s }) = open {
                out.extend_from_slice(&shard.0.to_le_bytes());
                [conn.index, conn.generation, ttr_s].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            }
            if let Some(opened) = closing {
                encode_opened(opened, out);
            }
        }
        Request::End { opened, confirms } => {
            out.push(if confirms { 14 } else { 20 });
            encode_opened(opened, out);
        }
        Request::Confirm { name, message } => {
            name_to(out, 21, name);
            out.extend_from_slice(&message.0.to_le_bytes());
        }
        Request::Touch { name, message, seconds } => {
            name_to(out, 22, name);
            out.extend_from_slice(&message.0.to_le_bytes());
            out.extend_from_slice(&seconds.to_le_bytes());
        }
        Request::Return { opened } => {
            out.push(23);
            encode_opened(opened, out);
        }
        Request::Transfer { source, number, begins_again, flags, target, body } => {
            name_to(out, if begins_again { 36 } else { 35 }, target);
            [source.0, number].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            [flags, body.len() as u32].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            out.extend_from_slice(body);
        }
        Request::Kestrel { ask, payload } => {
            out.extend_from_slice(&[48, ask as u8]);
            out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            out.extend_from_slice(payload);
        }
    }
}

pub(super) fn decode<'a>(reader: &mut Bytes<'a>) -> Request<'a> {
    match reader.u8() {
        kind @ (1 | 34) => {
            let name = reader.name();
            let lifetime = if kind == 1 { Lifetime::default() } else { reader.lifetime() };
            let flags = reader.u32();
            let size = reader.u32() as usize;
            Request::Put { flags, lifetime, name, body: reader.take(size) }
        }
        kind @ (2 | 3) => {
            let name = reader.name();
            let (size_max, dialect) = (reader.u32(), Dialect::MemcacheQ);
            let form = Form { cas: kind == 3, peek: false, open: None, size_max, dialect };
            Request::Get { name, form }
        }
        19 => Request::FlushQueue { name: reader.name() },
        32 => {
            let name = reader.name();
            let size = reader.u32() as usize;
            Request::Configure { name, words: Words { text: reader.take(size) } }
        }
        33 => Request::ShowSettings { name: reader.name() },
        4 => Request::Delete { name: reader.name() },
        5 => Request::Flush,
        6 => Request::Checkpoint,
        7 => Request::Stats(Report::ALL[usize::from(reader.u8())]),
        8 => Request::StatsReset,
        15 => Request::LatencyReset,
        9 => Request::List { what: Listed::ALL[usize::from(reader.u8())], cursor: reader.u32() },
        10 => Request::StatQueue { name: reader.name(), key: reader.name(), room: reader.u32() },
        11 => Request::Cancel { token: reader.u32() },
        12 => Request::Unsent { queue: QueueId(reader.u64()) },
        13 => {
            let name = reader.name();
            let options = GetOptions::parse(reader.name()).expect("they were parsed before they were sent");
            let flags = reader.u8();
            let size_max = reader.u32();
            let reader_of = |reader: &mut Bytes<'_>| Reader {
                shard: ShardId(reader.u16()),
                conn: reader.conn(),
                ttr_s: reader.u32(),
            };
            let open = (flags & 4 != 0).then(|| reader_of(reader));
            let closing = (flags & 8 != 0).then(|| reader.opened());
            let dialect = if flags & 16 == 0 { Dialect::MemcacheQ } else { Dialect::Kestrel };
            let form = Form { cas: flags & 1 != 0, peek: flags & 2 != 0, open, size_max, dialect };
            Request::GetWith { name, options, form, closing }
        }
        kind @ (14 | 20) => Request::End { opened: reader.opened(), confirms: kind == 14 },
        21 => Request::Confirm { name: reader.name(), message: MessageId(reader.u64()) },
        22 => Request::Touch { name: reader.name(), message: MessageId(reader.u64()), seconds: reader.u32() },
        23 => Request::Return { opened: reader.opened() },
        kind @ (35 | 36) => {
            let target = reader.name();
            let (source, number) = (QueueId(reader.u64()), reader.u64());
            let (flags, size) = (reader.u32(), reader.u32() as usize);
            Request::Transfer { source, number, begins_again: kind == 36, flags, target, body: reader.take(size) }
        }
        48 => {
            let ask = Ask::ALL[usize::from(reader.u8())];
            let size = reader.u32() as usize;
            Request::Kestrel { ask, payload: reader.take(size) }
        }
        kind => unreachable!("no request of kind {kind}"),
    }
}

/// What can go wrong on the other side after a request was understood, in the order of their numbers in an answer, from 1 on.
const FAILURES: [&[u8]; 6] = [
    reply::STORAGE_UNREADABLE,
    reply::TOO_LARGE_FOR_UDP,
    reply::READ_EXPIRED,
    reply::NOT_FOUND,
    reply::REPLY_TOO_LARGE,
    reply::TOO_MANY_OPEN_READS,
];

pub(super) fn encode_opened(opened: Opened, out: &mut Vec<u8>) {
    let Opened { queue, message, read, is_detached } = opened;
    [queue.0, message.0, read].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    out.push(u8::from(is_detached));
}

/// token u32 · failure u8 (0: none) · queue u64 of a message that was taken (0: none) · opened u8 (0: none) · what was opened · size
/// u32 · bytes
pub(super) fn encode_answer(token: u32, answer: Piece<'_>, out: &mut Vec<u8>) {
    assert!(answer.hits.len() <= 1, "a forwarded get names one queue");
    out.extend_from_slice(&token.to_le_bytes());
    let failure = answer.failure.map_or(0, |text| {
        1 + FAILURES.iter().position(|known| *known == text).expect("every failure of a forwarded request is known")
    });
    out.push(failure as u8);
    out.extend_from_slice(&answer.hits.first().map_or(0, |q| q.0).to_le_bytes());
    out.push(u8::from(answer.opened.is_some()));
    if let Some(opened) = answer.opened {
        encode_opened(opened, out);
    }
    out.extend_from_slice(&(answer.bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(answer.bytes);
}

/// Token, the queue of the message in it if there is one, and all else.
pub(super) fn decode_answer<'a>(reader: &mut Bytes<'a>) -> (u32, Option<QueueId>, Piece<'a>) {
    let token = reader.u32();
    let failure = usize::from(reader.u8()).checked_sub(1).map(|number| FAILURES[number]);
    let queue = Some(QueueId(reader.u64())).filter(|queue| queue.0 != 0);
    let opened = (reader.u8() != 0).then(|| reader.opened());
    let size = reader.u32() as usize;
    (token, queue, Piece { bytes: reader.take(size), seq: Seq(0), hits: &[], opened, failure })
}

/// What is left to decode.
pub(super) struct Bytes<'a> {
    pub rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, size: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(size);
        self.rest = rest;
        head
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().expect("two bytes"))
    }

    pub(super) fn conn(&mut self) -> ConnId {
        ConnId { index: self.u32(), generation: self.u32() }
    }

    pub(super) fn opened(&mut self) -> Opened {
        let (queue, message, read) = (QueueId(self.u64()), MessageId(self.u64()), self.u64());
        Opened { queue, message, read, is_detached: self.u8() != 0 }
    }

    pub(super) fn lifetime(&mut self) -> Lifetime {
        let (exptime, has_ttl) = (self.u64().cast_signed(), self.u8() != 0);
        let ttl_s = self.u32();
        Lifetime { exptime, ttl_s: has_ttl.then_some(ttl_s), expires_ms: self.u64() }
    }

    pub(super) fn name(&mut self) -> &'a [u8] {
        let len = self.u8() as usize;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cross_unchanged() {
        const ANY: Form =
            Form { cas: true, peek: false, open: None, size_max: Form::ANY_SIZE, dialect: Dialect::MemcacheQ };
        let opened = Opened { queue: QueueId(1), message: MessageId(2), read: 3, is_detached: true };
        let conn = ConnId { index: 4, generation: 5 };
        let open = Some(Reader { shard: ShardId(6), conn, ttr_s: 7 });
        let options = |text: &[u8]| GetOptions::parse(text).unwrap();
        let requests = [
            Request::Put { flags: 7, lifetime: Lifetime::default(), name: b"q", body: b"body" },
            Request::Put {
                flags: 7,
                lifetime: Lifetime { exptime: -1, ttl_s: None, expires_ms: 5 },
                name: b"q",
                body: b"body",
            },
            Request::Put {
                flags: 7,
                lifetime: Lifetime { exptime: 0, ttl_s: Some(0), expires_ms: 0 },
                name: b"q",
                body: b"body",
            },
            Request::Get { name: b"q", form: ANY },
            Request::Get { name: b"q", form: Form { size_max: 0, ..ANY } },
            Request::Delete { name: b"q" },
            Request::FlushQueue { name: b"q" },
            Request::Configure { name: b"q", words: Words { text: b"a=1 b=2" } },
            Request::ShowSettings { name: b"q" },
            Request::Flush,
            Request::Checkpoint,
            Request::Stats(Report::Commit),
            Request::StatsReset,
            Request::LatencyReset,
            Request::List { what: Listed::Queues, cursor: 9 },
            Request::List { what: Listed::Connections, cursor: 10 },
            Request::StatQueue { name: b"q/group=r", key: b"q#r", room: 7 },
            Request::Cancel { token: 5 },
            Request::Unsent { queue: QueueId(3) },
            Request::GetWith {
                name: b"q",
                options: options(b"/t=05"),
                form: Form { cas: false, size_max: 9, ..ANY },
                closing: None,
            },
            Request::GetWith { name: b"q/group=r", options: options(b"#r/open"), form: ANY, closing: None },
            Request::GetWith {
                name: b"q",
                options: options(b"/close/open/t=18446744073709551615"),
                form: Form { open, ..ANY },
                closing: Some(opened),
            },
            Request::GetWith {
                name: b"q",
                options: options(b"/peek"),
                form: Form { peek: true, dialect: Dialect::Kestrel, ..ANY },
                closing: None,
            },
            Request::End { opened, confirms: true },
            Request::End { opened, confirms: false },
            Request::Confirm { name: b"q", message: MessageId(8) },
            Request::Touch { name: b"q", message: MessageId(8), seconds: 9 },
            Request::Return { opened },
            Request::Transfer {
                source: QueueId(1),
                number: 2,
                begins_again: false,
                flags: 3,
                target: b"t",
                body: b"body",
            },
            Request::Transfer { source: QueueId(1), number: 2, begins_again: true, flags: 0, target: b"t", body: b"" },
            Request::Kestrel { ask: Ask::Confirm, payload: b"reads" },
        ];
        let mut bytes = Vec::new();
        requests.iter().for_each(|r| encode(r, &mut bytes));
        let mut reader = Bytes { rest: &bytes };
        for request in requests {
            assert_eq!(decode(&mut reader), request);
        }
        assert!(reader.rest.is_empty());
    }

    #[test]
    fn answers_cross_without_the_senders_batch_number() {
        let opened = Opened { queue: QueueId(1), message: MessageId(2), read: 3, is_detached: false };
        for (failure, opened) in FAILURES.into_iter().map(|text| (Some(text), None)).chain([(None, Some(opened))]) {
            let answer = Piece { bytes: b"x", seq: Seq(4), hits: &[QueueId(2)], opened, failure };
            let mut bytes = Vec::new();
            encode_answer(8, answer, &mut bytes);
            let there = decode_answer(&mut Bytes { rest: &bytes });
            assert_eq!(there, (8, Some(QueueId(2)), Piece { seq: Seq(0), hits: &[], ..answer }));
        }
    }
}
