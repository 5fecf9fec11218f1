//! Connections that speak Kestrel's dialect: its commands in terms of what every queue can do.
//!
//! It is another grammar and other words for the same queues. What differs in what happens: a plain get while a read of that queue is open,
//! and one open read too many, close the connection; `queue+reader` is a group that begins behind the newest message; the queue itself
//! is flushed and deleted apart from its readers.
//!
//! Invariant: a `monitor` is a get that opens after the other, at most one of them under way; its request stays at the front of the
//! input until it is over, so nothing overtakes it.
//!
//! Does not know how a line is written: that is [`crate::proto::kestrel`].

use super::Engine;
use super::datagram::Form;
use super::forward::Expected;
use super::reads::{Ending, Reader};
use super::wire::{Bytes, Request, encode_opened};
use crate::ids::{ConnId, Seq, ShardId};
use crate::latency::Metric;
use crate::proto::command::{Lifetime, Report, SetLine};
use crate::proto::kestrel::{self, Command, Name, Names, Status};
use crate::proto::key::Key;
use crate::proto::options::GetOptions;
use crate::proto::reply;
use crate::queue::Head;
use crate::session::reads::Opened;
use crate::session::replies::{Answer, Parts, SlotId};
use crate::session::{Listed, Wait};
use smallvec::smallvec;

/// What the shard of a queue is asked for a client of this dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Ask {
    /// To end the life of the queue or reader of this name.
    Delete,
    /// To empty it.
    Flush,
    /// To remove what has expired from it.
    FlushExpired,
    /// For its figures.
    Dump,
    /// To confirm these open reads.
    Confirm,
}

impl Ask {
    /// All of them, each at the place of its number.
    pub(super) const ALL: [Ask; 5] = [Ask::Delete, Ask::Flush, Ask::FlushExpired, Ask::Dump, Ask::Confirm];
}

/// A `monitor` under way.
pub(super) struct Monitor {
    /// When it is over, monotonic ms.
    deadline_ms: u64,
    /// Messages it may still open.
    left: usize,
    /// The reply of its newest get, and whether that opened a message, once it is known.
    newest: Option<(SlotId, Option<bool>)>,
}

impl Engine {
    pub(super) fn serve_kestrel_put(
        &mut self,
        conn: ConnId,
        set: &kestrel::SetLine<'_>,
        body: &[u8],
    ) -> Result<(), Wait> {
        if set.name.reader.is_some() {
            // A message is stored once, for all readers of its queue.
            self.began.metric = Metric::Put;
            self.say(conn, Seq(0), reply::NOT_STORED);
            return Ok(());
        }
        let key = Key { name: set.name.queue };
        let expires_ms = kestrel::expires_ms(set.exptime, self.now.wall_ms);
        let lifetime = Lifetime { expires_ms, ..Lifetime::default() };
        self.serve_put(conn, &SetLine { key, flags: set.flags, lifetime, size: set.size, noreply: false }, body)
    }

    /// `Ok(false)`: the command was served in part and stays at the front of the input.
    pub(super) fn serve_kestrel(&mut self, conn: ConnId, command: Command<'_>) -> Result<bool, Wait> {
        self.began.metric = metric_of(&command);
        match command {
            Command::Monitor { name, seconds, messages_max } => {
                self.serve_monitor(conn, &name.key(), seconds, messages_max)
            }
            command => self.serve_whole(conn, command).map(|()| true),
        }
    }

    fn serve_whole(&mut self, conn: ConnId, command: Command<'_>) -> Result<(), Wait> {
        match command {
            Command::Get { name, options } => return self.serve_kestrel_get(conn, &name.key(), &options),
            Command::Confirm { name, count } => return self.serve_confirm_oldest(conn, &name.key(), count),
            Command::Delete { name: None } => self.say(conn, Seq(0), reply::DELETED),
            Command::Flush { name: None } => self.say(conn, Seq(0), reply::END),
            Command::FlushExpired { name: None } => self.say(conn, Seq(0), b"0\r\n"),
            Command::Delete { name: Some(name) } => return self.serve_ask(conn, Ask::Delete, name),
            Command::Flush { name: Some(name) } => return self.serve_ask(conn, Ask::Flush, name),
            Command::FlushExpired { name: Some(name) } => return self.serve_ask(conn, Ask::FlushExpired, name),
            Command::FlushAll => return self.serve_flush(conn, reply::FLUSHED_ALL),
            Command::FlushAllExpired => return self.serve_report(conn, Report::FlushExpired),
            Command::Stats => return self.serve_report(conn, Report::Kestrel),
            Command::DumpStats { names } if names.is_empty() => {
                return self.serve_listing(conn, Listed::KestrelDump);
            }
            Command::DumpStats { names } => return self.serve_dump(conn, names),
            Command::Version => self.reply(conn, Seq(0), &[], reply::version),
            Command::Reload => {
                self.effects.reload = true;
                self.say(conn, Seq(0), reply::RELOADED);
            }
            Command::Status(Status::Tell) => {
                self.say(conn, Seq(0), if self.refusing_puts { reply::READONLY } else { reply::UP });
            }
            Command::Status(Status::Up) => self.say(conn, Seq(0), reply::END),
            Command::Status(Status::Less) => self.say_and_close(conn, reply::ERROR),
            Command::Shutdown if self.config.tunables.shutdown => {
                self.effects.shutdown = true;
                self.finish(conn);
            }
            Command::Shutdown => self.say_and_close(conn, reply::CLIENT_ERROR),
            Command::Quit => self.finish(conn),
            Command::Monitor { .. } => unreachable!("it is not served in one step"),
        }
        Ok(())
    }

    // --- gets ---

    fn serve_kestrel_get(&mut self, conn: ConnId, name: &[u8], options: &GetOptions) -> Result<(), Wait> {
        let open = self.open_reads_of(conn, name)?;
        let GetOptions { open: opens, close, abort, peek, .. } = *options;
        let is_plain = !(opens || close || abort || peek);
        // The one that is closed first makes room.
        let room = self.config.tunables.open_reads_max + usize::from(close && open > 0);
        if is_plain && open > 0 || opens && open >= room {
            self.say_and_close(conn, reply::ERROR);
            return Ok(());
        }
        self.serve_get_with(conn, name, options, false)
    }

    /// How many reads of a queue this connection has open, once no get of it is under way that may open another.
    fn open_reads_of(&mut self, conn: ConnId, name: &[u8]) -> Result<usize, Wait> {
        match &self.session(conn).expect("it is being served").reads {
            Some(reads) if reads.is_opening(name) => Err(Wait::Replies),
            reads => Ok(reads.as_ref().map_or(0, |reads| reads.len_of(name))),
        }
    }

    /// `monitor`: opens messages as they come. `Ok(true)`: it is over; `Ok(false)`: it is to be gone on with.
    fn serve_monitor(
        &mut self,
        conn: ConnId,
        name: &[u8],
        seconds: u32,
        messages_max: Option<usize>,
    ) -> Result<bool, Wait> {
        let now_ms = self.now.mono_ms;
        let reads_max = self.config.tunables.open_reads_max;
        let monitor = self.monitors.entry(conn.index).or_insert_with(|| Monitor {
            deadline_ms: now_ms + u64::from(seconds) * 1000,
            left: messages_max.unwrap_or(reads_max),
            newest: None,
        });
        match monitor.newest.take() {
            None => {}
            Some((_, Some(true))) => monitor.left -= 1,
            // The `END` of that get was the last of the monitor.
            Some((_, Some(false))) => {
                self.monitors.remove(&conn.index);
                return Ok(true);
            }
            Some((at, None)) => {
                monitor.newest = Some((at, None));
                return Err(Wait::Message(at.slot));
            }
        }
        let Monitor { deadline_ms, left, .. } = *monitor;
        if left == 0 || now_ms >= deadline_ms || self.open_reads_of(conn, name)? >= reads_max {
            self.monitors.remove(&conn.index);
            self.say(conn, Seq(0), reply::END);
            return Ok(true);
        }
        self.room_to_await(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
        }
        let text = format!("/open/t={}", deadline_ms - now_ms);
        let options = GetOptions::parse(text.as_bytes()).expect("these words are known");
        let reader = Reader { shard: self.config.shard, conn, ttr_s: 0 };
        let form = Form { open: Some(reader), ..self.form(conn, false, 0) };
        let at = self.await_message(conn);
        self.monitors.get_mut(&conn.index).expect("just seen").newest = Some((at, None));
        self.session(conn).expect("it is being served").reads.get_or_insert_default().begin(at, name);
        self.send_get(conn, at, name, &options, form, None);
        Ok(false)
    }

    /// A get of this connection was answered.
    pub(super) fn note_monitored(&mut self, conn: ConnId, at: SlotId, opened: bool) {
        if let Some(Monitor { newest: Some((of, found)), .. }) = self.monitors.get_mut(&conn.index)
            && *of == at
        {
            *found = Some(opened);
        }
    }

    /// `confirm`: all of them or none.
    fn serve_confirm_oldest(&mut self, conn: ConnId, name: &[u8], count: usize) -> Result<(), Wait> {
        if self.open_reads_of(conn, name)? < count {
            self.say(conn, Seq(0), reply::ERROR);
            return Ok(());
        }
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, count * size_of::<Opened>())?;
        }
        let opened: Vec<Opened> = (0..count).filter_map(|_| Some(self.pop_oldest(conn, name)?.1)).collect();
        if owner == self.config.shard {
            let (text, seq) = self.confirm_all(opened.into_iter());
            self.say(conn, seq, text);
        } else {
            let mut payload = Vec::new();
            opened.into_iter().for_each(|opened| encode_opened(opened, &mut payload));
            let what = self.expected(conn, false, b"");
            self.forward(owner, &Request::Kestrel { ask: Ask::Confirm, payload: &payload }, what);
        }
        Ok(())
    }

    /// What to say when these reads are confirmed, and what that waits for.
    fn confirm_all(&mut self, opened: impl Iterator<Item = Opened>) -> (&'static [u8], Seq) {
        let mut text = reply::END;
        for opened in opened {
            if self.end_read(opened, true) == Ending::Expired {
                text = reply::READ_EXPIRED;
            }
        }
        (text, self.newest())
    }

    // --- what the shard of a queue does ---

    fn serve_ask(&mut self, conn: ConnId, ask: Ask, name: Name<'_>) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let name = name.key();
        let owner = self.owner(&name);
        if owner != self.config.shard {
            return self.ask_owner(conn, owner, &Request::Kestrel { ask, payload: &name }, name.len(), false);
        }
        let mut answer = Answer::default();
        self.execute_kestrel(ask, &name, &mut answer);
        self.say(conn, answer.seq, &answer.bytes);
        Ok(())
    }

    /// Does what a client of this shard or of another asks.
    pub(super) fn execute_kestrel(&mut self, ask: Ask, payload: &[u8], answer: &mut Answer) {
        let text = match ask {
            Ask::Delete => {
                self.delete(payload);
                reply::DELETED
            }
            Ask::Flush => {
                self.flush_reader(payload);
                reply::END
            }
            Ask::FlushExpired => {
                let count = self.find(payload).map_or(0, |index| self.flush_expired(index));
                return self.tell_count(count, answer);
            }
            Ask::Dump => {
                let index = self.find(payload);
                return self.dump(index, &kestrel::shown_name(payload), &mut answer.bytes);
            }
            Ask::Confirm => {
                let mut reader = Bytes { rest: payload };
                let opened = std::iter::from_fn(|| (!reader.rest.is_empty()).then(|| reader.opened()));
                self.confirm_all(opened).0
            }
        };
        answer.bytes.extend_from_slice(text);
        answer.seq = self.newest();
    }

    fn tell_count(&self, count: u64, answer: &mut Answer) {
        answer.bytes.extend_from_slice(format!("{count}\r\n").as_bytes());
        answer.seq = self.newest();
    }

    /// Empties one reader: a queue's groups keep what they have.
    fn flush_reader(&mut self, name: &[u8]) {
        match self.find(name) {
            Some(index) if self.shelf(index).fan.is_some() => {
                self.purge_reader(index);
                self.sweep(index);
            }
            _ => self.flush_queue(name),
        }
    }

    /// Removes what has expired from the head of a queue, or as much as one turn removes, and says how much that was.
    fn flush_expired(&mut self, index: u32) -> u64 {
        let before = self.shelf(index).queue.len();
        self.settle_head(index);
        before - self.shelf(index).queue.len()
    }

    /// The same for all queues of this shard, until the batch is full.
    pub(super) fn flush_all_expired(&mut self) -> u64 {
        let listed: Vec<u32> = self.by_id.values().copied().collect();
        let mut count = 0;
        for index in listed {
            if self.is_batch_full() {
                break;
            }
            count += self.flush_expired(index);
        }
        count
    }

    // --- figures ---

    /// `dump_stats queue…`
    fn serve_dump(&mut self, conn: ConnId, names: Names<'_>) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        let own = self.config.shard;
        let owner_of = |engine: &Engine, word| kestrel::name(word).map_or(own, |name| engine.owner(&name.key()));
        for word in names {
            let owner = owner_of(self, word);
            if owner != own {
                self.room_to_forward(conn, owner, word.len())?;
            }
        }
        let mut parts: Parts = smallvec![None; names.count()];
        let mut elsewhere: Vec<(u32, ShardId, Name<'_>)> = Vec::new();
        for (part, word) in (0..).zip(names) {
            let mut answer = Answer::default();
            match (owner_of(self, word), kestrel::name(word)) {
                (owner, Some(name)) if owner != own => {
                    elsewhere.push((part, owner, name));
                    continue;
                }
                (_, Some(name)) => self.execute_kestrel(Ask::Dump, &name.key(), &mut answer),
                (_, None) => self.dump(None, word, &mut answer.bytes),
            }
            parts[part as usize] = Some(answer);
        }
        if elsewhere.is_empty() {
            self.reply(conn, Seq(0), &[], |out| {
                parts.iter().flatten().for_each(|answer| out.extend_from_slice(&answer.bytes));
                out.extend_from_slice(reply::END);
            });
            return Ok(());
        }
        let slot = self.open_slot(conn, parts, reply::END);
        for (part, owner, name) in elsewhere {
            let at = SlotId { slot, part };
            let request = Request::Kestrel { ask: Ask::Dump, payload: &name.key() };
            self.forward(owner, &request, Expected::Part { conn, at });
        }
        Ok(())
    }

    /// The block of one queue in `dump_stats`, whose client knows it by this name. A queue that is not there has all figures at 0.
    fn dump(&self, index: Option<u32>, shown: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"queue '");
        out.extend_from_slice(shown);
        out.extend_from_slice(b"' {\r\n");
        self.each_figure(index, |name, value| {
            out.extend_from_slice(b"  ");
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        });
        out.extend_from_slice(b"}\r\n");
    }

    /// One queue in a listing.
    pub(super) fn list_for_kestrel(&self, what: Listed, index: u32, out: &mut Vec<u8>) {
        let queue = &self.shelves[index as usize].as_ref().expect("the caller found it").queue;
        let shown = kestrel::shown_name(&queue.name);
        if what == Listed::KestrelDump {
            return self.dump(Some(index), &shown, out);
        }
        self.each_figure(Some(index), |name, value| {
            for part in [b"STAT queue_", &*shown, b"_", name.as_bytes(), b" ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        });
    }

    /// The figures of one queue, in Kestrel's order. Those that RingQ has not are 0.
    fn each_figure(&self, index: Option<u32>, mut tell: impl FnMut(&str, &[u8])) {
        let mut number = itoa::Buffer::new();
        let mut figure = |name: &str, value: u64| tell(name, number.format(value).as_bytes());
        let shelf = index.map(|index| self.shelves[index as usize].as_ref().expect("the caller found it"));
        let queue = shelf.map(|shelf| &shelf.queue);
        let counters = queue.map(|queue| queue.counters).unwrap_or_default();
        let age_ms = match queue.map(|queue| queue.head()) {
            Some(Head::Ready(entry)) => self.now.wall_ms.saturating_sub(self.memory.message(entry.place).put_ms),
            _ => 0,
        };
        figure("items", queue.map_or(0, |queue| queue.len()));
        figure("bytes", queue.map_or(0, |queue| queue.bytes()));
        figure("total_items", counters.puts);
        figure("logsize", 0);
        figure("expired_items", counters.expired);
        figure("mem_items", 0);
        figure("mem_bytes", 0);
        figure("age", age_ms);
        figure("discarded", counters.discarded);
        figure("waiters", shelf.and_then(|shelf| shelf.line).map_or(0, |line| self.waits.line_len(line)));
        figure("open_transactions", queue.map_or(0, |queue| queue.open_len()));
        for unknown in
            ["transactions", "canceled_transactions", "total_flushes", "journal_rewrites", "journal_rotations"]
        {
            figure(unknown, 0);
        }
        if let Some(fan) = shelf.and_then(|shelf| shelf.fan.as_ref()) {
            let name =
                |group: &u32| &self.shelves[*group as usize].as_ref().expect("a listed group is there").queue.name;
            let children: Vec<_> = fan.groups.iter().map(|group| kestrel::shown_name(name(group))).collect();
            tell("children", &children.join(&b','));
        }
    }
}

/// What the log says of a connection that is closed without a reply.
pub const DROPPED: &[u8] = b"what it sent cannot be read";

fn metric_of(command: &Command<'_>) -> Metric {
    match command {
        // What it is depends on its options.
        Command::Get { .. } => Metric::GetHit,
        Command::Confirm { .. } => Metric::Close,
        Command::Delete { .. } => Metric::Delete,
        Command::Flush { .. } | Command::FlushAll | Command::FlushExpired { .. } | Command::FlushAllExpired => {
            Metric::Flush
        }
        Command::Stats | Command::DumpStats { .. } => Metric::Stats,
        Command::Monitor { .. }
        | Command::Version
        | Command::Reload
        | Command::Status(_)
        | Command::Shutdown
        | Command::Quit => Metric::Other,
    }
}
