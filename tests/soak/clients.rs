//! The clients of a soak, in both dialects and by datagram. Each works until the server is gone.
//!
//! Invariant: an answer that the protocol does not have there panics.

use crate::account::{Account, Clock, Seat, put_of};
use crate::cast::{
    ASKED, EMPTIED, FLEETING, Part, Reader, TAKING, is_emptied, part, queues, readers, refuses, settings,
};
use crate::history::{End, Moment, Outcome};
use crate::traffic::{Answer, MessageId, Rng, queue_name};
use ringq::proto::Dialect;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const EXPIRED: &[u8] = b"CLIENT_ERROR read expired";

/// How long a datagram's answer is listened for at a time, and how often.
const UDP_TIMEOUT: Duration = Duration::from_millis(100);
const UDP_TRIES: usize = 100;

/// Where messages are put: not to those that get them from others.
fn put_queue(rng: &mut Rng) -> u32 {
    loop {
        let queue = rng.below(queues().count() as u64) as u32;
        if part(queue) != Part::Target {
            return queue;
        }
    }
}

/// How long a message for this queue lives, s; 0: for ever.
fn lifetime_s(rng: &mut Rng, queue: u32) -> u64 {
    match part(queue) {
        Part::Mortal => [0, 1, 1, 2, 3, 600][rng.below(6) as usize],
        Part::Groups | Part::GroupsOnly if rng.below(20) == 0 => 1 + rng.below(2),
        _ => 0,
    }
}

/// A put of it. Kestrel's clients, and some others where the queue honours it, say how long it lives by its exptime.
fn set_request(rng: &mut Rng, dialect: Dialect, id: MessageId, lifetime_s: u64, noreply: bool) -> Vec<u8> {
    let body = id.body();
    let says_exptime = dialect == Dialect::Kestrel || part(id.queue) == Part::Mortal && rng.below(2) == 0;
    let (option, exptime) = match lifetime_s {
        0 => (String::new(), 0),
        _ if says_exptime => (String::new(), lifetime_s),
        _ => (format!("/ttl={lifetime_s}"), 0),
    };
    let noreply = if noreply { " noreply" } else { "" };
    let mut request =
        format!("set {}{option} 0 {exptime} {}{noreply}\r\n", queue_name(id.queue), body.len()).into_bytes();
    request.extend(body);
    request.extend(b"\r\n");
    request
}

/// Puts messages into all queues, some at a time.
pub fn produce(mut seat: Seat, who: u32) -> Account {
    // It ends with the server, whenever that is.
    let _ = produce_until_gone(&mut seat, who);
    seat.account
}

fn produce_until_gone(seat: &mut Seat, who: u32) -> io::Result<()> {
    let depth_max = [1, 4, 30][seat.rng.below(3) as usize];
    for number in 0.. {
        let (mut requests, mut awaited) = (Vec::new(), Vec::new());
        let sent = seat.clock.now();
        for at in 0..1 + seat.rng.below(depth_max) {
            let queue = put_queue(&mut seat.rng);
            let id = MessageId { producer: who, queue, number: number * 100 + at };
            let noreply = seat.dialect != Dialect::Kestrel && seat.rng.below(4) == 0;
            let lifetime_s = lifetime_s(&mut seat.rng, queue);
            requests.extend(set_request(&mut seat.rng, seat.dialect, id, lifetime_s, noreply));
            if !noreply {
                awaited.push(seat.account.puts.len());
            }
            seat.account.puts.push(put_of(id, sent, lifetime_s));
        }
        seat.link.send(&requests)?;
        for at in awaited {
            let line = seat.line()?;
            let now = seat.clock.now();
            let put = &mut seat.account.puts[at];
            put.settled = now;
            put.outcome = match &line[..] {
                b"STORED" => Outcome::Stored,
                b"NOT_STORED" if refuses(put.id.queue) => Outcome::Refused,
                line => panic!("to {put:?}: {}", line.escape_ascii()),
            };
        }
        thread::sleep(Duration::from_micros(seat.rng.below(3000)));
    }
    Ok(())
}

/// Reads in every way there is.
pub fn read(mut seat: Seat) -> Account {
    let _ = read_until_gone(&mut seat);
    seat.account
}

fn read_until_gone(seat: &mut Seat) -> io::Result<()> {
    loop {
        let queue = seat.rng.below(queues().count() as u64) as u32;
        let reader = match part(queue) {
            Part::Fleeting if seat.rng.below(2) == 0 => fleeting(seat.clock.now()),
            _ => seat.one_of(readers(queue)),
        };
        match seat.rng.below(16) {
            0 => seat.reconnect()?,
            1 => look(seat, queue, reader)?,
            2..5 if seat.dialect != Dialect::Kestrel => take_several(seat)?,
            // Readers that confirm lose nothing to an answer that does not come.
            2..9 if matches!(reader, Reader::Plain | TAKING | Reader::Fleeting(_)) => take(seat, queue, reader)?,
            9 if seat.dialect == Dialect::Kestrel && reader != TAKING => monitor(seat, queue, reader)?,
            _ if reader != TAKING => work(seat, queue, reader)?,
            _ => take(seat, queue, reader)?,
        }
    }
}

/// The one whose turn it is.
fn fleeting(now: Moment) -> Reader {
    Reader::Fleeting(FLEETING[(now / ASKED) as usize % FLEETING.len()])
}

fn look(seat: &mut Seat, queue: u32, reader: Reader) -> io::Result<()> {
    let (key, asked) = (seat.key(queue, reader), seat.clock.now());
    seat.link.send(format!("get {key}/peek\r\n").as_bytes())?;
    match seat.link.answer()? {
        Answer::Value { body, .. } => {
            seat.note(reader, queue, asked, &body, End::Looked);
            seat.end()
        }
        Answer::Line(line) => {
            assert_eq!(line, b"END");
            Ok(())
        }
    }
}

/// Takes messages, each with a get of its own, some of which wait.
fn take(seat: &mut Seat, queue: u32, reader: Reader) -> io::Result<()> {
    let (key, count) = (seat.key(queue, reader), seat.one_of(&[1, 1, 8, 40]));
    let mut requests = String::new();
    for _ in 0..count {
        let wait = seat.one_of(&["", "", "/t=0", "/t=5"]);
        requests += &format!("get {key}{wait}\r\n");
        seat.account.await_take(reader, queue);
    }
    let asked = seat.clock.now();
    seat.link.send(requests.as_bytes())?;
    for _ in 0..count {
        let first = seat.link.answer()?;
        seat.account.heard_take(reader, queue);
        match first {
            Answer::Value { body, .. } => {
                seat.note(reader, queue, asked, &body, End::Done(0));
                seat.end()?;
            }
            Answer::Line(line) => assert_eq!(line, b"END"),
        }
    }
    Ok(())
}

/// One get of several names, perhaps some of them several times. Messages come in the order of the names.
fn take_several(seat: &mut Seat) -> io::Result<()> {
    let plain: Vec<u32> = queues().filter(|queue| readers(*queue)[0] == Reader::Plain).collect();
    let mut asked_of: VecDeque<u32> = (0..2 + seat.rng.below(12)).map(|_| seat.one_of(&plain)).collect();
    let names: Vec<String> = asked_of.iter().map(|queue| queue_name(*queue)).collect();
    asked_of.iter().for_each(|queue| seat.account.await_take(Reader::Plain, *queue));
    let asked = seat.clock.now();
    seat.link.send(format!("get {}\r\n", names.join(" ")).as_bytes())?;
    loop {
        let answer = seat.link.answer()?;
        let key = if let Answer::Value { key, .. } = &answer { Some(&key[..]) } else { None };
        // Those before it were empty; at the end all that are left were.
        let from = loop {
            let Some(queue) = asked_of.pop_front() else { break None };
            seat.account.heard_take(Reader::Plain, queue);
            if key.is_some_and(|key| key == queue_name(queue).as_bytes()) {
                break Some(queue);
            }
        };
        match answer {
            Answer::Value { body, .. } => {
                let from = from.expect("messages come in the order of the names");
                seat.note(Reader::Plain, from, asked, &body, End::Done(0));
            }
            Answer::Line(line) => {
                assert_eq!(line, b"END");
                return Ok(());
            }
        }
    }
}

/// A read that is open, as far as its client knows.
struct Open {
    at: usize,
    /// As `gets` told it.
    id: Option<u64>,
    /// It has ended, which its connection has yet to be told.
    stale: bool,
}

/// What is open of a reader, oldest first, and what can be said of all of it.
struct Work {
    queue: u32,
    reader: Reader,
    key: String,
    command: &'static str,
    options: String,
    /// How long a read is certainly its client's, µs.
    lasts: Moment,
    /// Reads may end by themselves.
    ends: bool,
    open: VecDeque<Open>,
}

impl Work {
    fn new(seat: &mut Seat, queue: u32, reader: Reader) -> Work {
        let is_kestrel = seat.dialect == Dialect::Kestrel;
        let ttr = if is_kestrel { "" } else { seat.one_of(&["", "", "/ttr=1", "/ttr=600"]) };
        // What stays open when its connection goes cannot be dropped, until the queue has nothing else and refuses.
        let ttr =
            if matches!(part(queue), Part::Dropping | Part::SharedDropping) && ttr == "/ttr=600" { "" } else { ttr };
        let wait = seat.one_of(&["", "", "/t=5", "/t=20"]);
        let ends = ttr == "/ttr=1" || ttr.is_empty() && part(queue) == Part::Hasty;
        Work {
            queue,
            reader,
            key: seat.key(queue, reader),
            command: if is_kestrel { "get" } else { seat.one_of(&["get", "gets"]) },
            options: format!("{wait}{ttr}"),
            // The second of one that ends begins by the server's clock, which may have been read before it was asked.
            lasts: if ends { 0 } else { 500_000_000 },
            ends,
            open: VecDeque::new(),
        }
    }

    fn note(&mut self, seat: &mut Seat, asked: Moment, id: Option<u64>, body: &[u8]) {
        let at = seat.note(self.reader, self.queue, asked, body, End::Returned);
        seat.noted(at).held_until = asked + self.lasts;
        self.open.push_back(Open { at, id, stale: false });
    }

    fn open(&mut self, seat: &mut Seat, count: usize) -> io::Result<()> {
        let Work { key, command, options, .. } = self;
        let request = format!("{command} {key}/open{options}\r\n").repeat(count);
        (0..count).for_each(|_| seat.account.await_open(self.reader, self.queue));
        let asked = seat.clock.now();
        seat.link.send(request.as_bytes())?;
        for _ in 0..count {
            let first = seat.link.answer()?;
            seat.account.heard_open(self.reader, self.queue);
            match first {
                Answer::Value { id, body, .. } => {
                    assert_eq!(id.is_some(), self.command == "gets");
                    self.note(seat, asked, id, &body);
                    seat.end()?;
                }
                Answer::Line(line) => assert_eq!(line, b"END"),
            }
        }
        Ok(())
    }

    /// The client has no more to do with it from now on, whatever comes of it.
    fn let_go(seat: &mut Seat, read: &Open, end: End) {
        let now = seat.clock.now();
        let noted = seat.noted(read.at);
        noted.held_until = noted.held_until.min(now);
        if !read.stale {
            noted.end = end;
        }
    }

    /// What came of a request to end a read that was not known to have ended before.
    fn ended(&self, seat: &mut Seat, read: &Open, line: &[u8], end: fn(Moment) -> End) {
        let now = seat.clock.now();
        // What is flushed is nobody's any more, which its client is not told.
        let is_flushed = is_emptied(self.queue, self.reader);
        match line {
            b"END" if read.stale => assert!(is_flushed, "an ended read ended again"),
            b"END" => seat.noted(read.at).end = end(now),
            EXPIRED => {
                assert!(read.stale || self.ends, "a read ended by itself: {:?}", seat.noted(read.at));
                if !read.stale {
                    seat.noted(read.at).end = End::Returned;
                }
            }
            line => panic!("to the end of a read: {}", line.escape_ascii()),
        }
    }

    fn close(&mut self, seat: &mut Seat) -> io::Result<()> {
        let Some(read) = self.open.pop_front() else { return Ok(()) };
        Work::let_go(seat, &read, End::MaybeDone);
        seat.link.send(format!("get {}/close\r\n", self.key).as_bytes())?;
        let line = seat.line()?;
        self.ended(seat, &read, &line, End::Done);
        Ok(())
    }

    fn abort(&mut self, seat: &mut Seat) -> io::Result<()> {
        let Some(read) = self.open.pop_front() else { return Ok(()) };
        Work::let_go(seat, &read, End::Returned);
        seat.link.send(format!("get {}/abort\r\n", self.key).as_bytes())?;
        let line = seat.line()?;
        self.ended(seat, &read, &line, |_| End::GivenBack);
        Ok(())
    }

    fn close_and_open(&mut self, seat: &mut Seat) -> io::Result<()> {
        let Some(read) = self.open.pop_front() else { return Ok(()) };
        Work::let_go(seat, &read, End::MaybeDone);
        seat.account.await_open(self.reader, self.queue);
        let asked = seat.clock.now();
        seat.link.send(format!("{} {}/close/open{}\r\n", self.command, self.key, self.options).as_bytes())?;
        let first = seat.link.answer()?;
        seat.account.heard_open(self.reader, self.queue);
        match first {
            Answer::Value { id, body, .. } => {
                self.ended(seat, &read, b"END", End::Done);
                self.note(seat, asked, id, &body);
                seat.end()
            }
            Answer::Line(line) => {
                self.ended(seat, &read, &line, End::Done);
                Ok(())
            }
        }
    }

    /// One that can be named by its id. One that may have ended is perhaps another client's by now, and would be ended for that.
    fn nameable(&self, seat: &mut Seat) -> Option<(usize, u64)> {
        let at = seat.rng.below(self.open.len() as u64) as usize;
        let read = &self.open[at];
        read.id.filter(|_| !self.ends && !read.stale).map(|id| (at, id))
    }

    /// Confirms one by its id, on this connection or another one.
    fn delete(&mut self, seat: &mut Seat) -> io::Result<()> {
        let Some((at, id)) = self.nameable(seat) else { return self.close(seat) };
        Work::let_go(seat, &self.open[at], End::MaybeDone);
        let request = format!("delete {}/id={id}\r\n", self.key);
        let line = if seat.rng.below(2) == 0 {
            seat.link.send(request.as_bytes())?;
            seat.line()?
        } else {
            let mut other = crate::traffic::Link::connect(seat.address)?;
            other.send(request.as_bytes())?;
            other.line()?
        };
        match &line[..] {
            b"DELETED" => {
                let (read, now) = (self.open.remove(at).expect("it is there"), seat.clock.now());
                seat.noted(read.at).end = End::Done(now);
            }
            b"NOT_FOUND" => {
                assert!(is_emptied(self.queue, self.reader), "an open read was not found");
                seat.noted(self.open[at].at).end = End::Returned;
                self.open[at].stale = true;
            }
            line => panic!("to a delete: {}", line.escape_ascii()),
        }
        Ok(())
    }

    /// Gives one back by its id.
    fn touch(&mut self, seat: &mut Seat) -> io::Result<()> {
        let Some((at, id)) = self.nameable(seat) else { return self.abort(seat) };
        Work::let_go(seat, &self.open[at], End::Returned);
        seat.link.send(format!("touch {}/id={id} 0\r\n", self.key).as_bytes())?;
        let line = seat.line()?;
        let is_gone = line == b"NOT_FOUND" && is_emptied(self.queue, self.reader);
        assert!(line == b"TOUCHED" || is_gone, "{}", line.escape_ascii());
        self.open[at].stale = true;
        Ok(())
    }
}

/// Opens some messages, and ends each of the reads in some way.
fn work(seat: &mut Seat, queue: u32, reader: Reader) -> io::Result<()> {
    let mut work = Work::new(seat, queue, reader);
    let count = 1 + seat.rng.below(8) as usize;
    work.open(seat, count)?;
    if work.ends && seat.rng.below(30) == 0 {
        thread::sleep(Duration::from_millis(1_050));
    }
    while !work.open.is_empty() {
        match seat.rng.below(24) {
            0..10 => work.close(seat)?,
            10..14 => work.close_and_open(seat)?,
            14..18 => work.abort(seat)?,
            18..20 => work.delete(seat)?,
            20 => work.touch(seat)?,
            21 if work.ends => thread::sleep(Duration::from_millis(seat.rng.below(100))),
            22 => {
                let reads: Vec<Open> = work.open.drain(..).collect();
                reads.iter().for_each(|read| Work::let_go(seat, read, End::Returned));
                seat.reconnect()?;
            }
            _ => work.close(seat)?,
        }
    }
    Ok(())
}

/// Has messages come as they are put, and confirms all of them at once.
fn monitor(seat: &mut Seat, queue: u32, reader: Reader) -> io::Result<()> {
    let mut work = Work::new(seat, queue, reader);
    let count = 1 + seat.rng.below(6);
    (0..count).for_each(|_| seat.account.await_open(reader, queue));
    let asked = seat.clock.now();
    seat.link.send(format!("monitor {} 1 {count}\r\n", work.key).as_bytes())?;
    while let Answer::Value { body, .. } = seat.link.answer()? {
        seat.account.heard_open(reader, queue);
        work.note(seat, asked, None, &body);
        seat.end()?;
    }
    (work.open.len() as u64..count).for_each(|_| seat.account.heard_open(reader, queue));
    if work.open.is_empty() {
        return Ok(());
    }
    work.open.iter().for_each(|read| Work::let_go(seat, read, End::MaybeDone));
    seat.link.send(format!("confirm {} {}\r\n", work.key, work.open.len()).as_bytes())?;
    let (line, now) = (seat.line()?, seat.clock.now());
    match &line[..] {
        b"END" => work.open.iter().for_each(|read| seat.noted(read.at).end = End::Done(now)),
        // Some of them had ended by themselves, and nobody says which.
        EXPIRED => assert!(work.ends, "a read ended by itself"),
        line => panic!("to a confirm: {}", line.escape_ascii()),
    }
    Ok(())
}

/// Looks after the server meanwhile: figures, checkpoints, settings said again, and a queue that is emptied.
pub fn operate(mut seat: Seat) -> Account {
    let _ = operate_until_gone(&mut seat);
    seat.account
}

fn operate_until_gone(seat: &mut Seat) -> io::Result<()> {
    loop {
        let queue = seat.rng.below(queues().count() as u64) as u32;
        let name = queue_name(queue);
        let (request, last) = match seat.rng.below(8) {
            0 => ("stats\r\n".to_owned(), "END"),
            1 => ("stats queue\r\n".to_owned(), "END"),
            2 => (format!("stats queue {name}\r\n"), "END"),
            3 => ("stats latency\r\n".to_owned(), "END"),
            4 => ("db_checkpoint\r\n".to_owned(), "OK"),
            5 if part(queue) == Part::Flushed => (format!("flush {name}\r\n"), "END"),
            5 if part(queue) == Part::SharedFlushed => (format!("flush {}\r\n", seat.key(queue, EMPTIED)), "END"),
            6 if settings(queue).is_some() => (format!("config {name} {}\r\n", settings(queue).expect("some")), "OK"),
            _ => (format!("config {name}\r\n"), "END"),
        };
        seat.link.send(request.as_bytes())?;
        loop {
            let line = seat.line()?;
            if line == last.as_bytes() {
                break;
            }
            assert!(line.starts_with(b"STAT "), "to {request}: {}", line.escape_ascii());
        }
        thread::sleep(Duration::from_millis(seat.rng.below(20)));
    }
}

/// Puts and takes by datagram until told to stop.
pub fn send_datagrams(address: SocketAddr, clock: Clock, seed: u64, who: u32, stop: &AtomicBool) -> Account {
    let (mut rng, mut account) = (Rng::new(seed), Account::default());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect(address).expect("connect");
    socket.set_read_timeout(Some(UDP_TIMEOUT)).expect("set the read timeout");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = MessageId { producer: who, queue: put_queue(&mut rng), number };
        let queue = rng.below(queues().count() as u64) as u32;
        let asked = clock.now();
        let puts = rng.below(2) == 0 && id.body().len() < 8_000;
        let request = if puts {
            let lifetime_s = lifetime_s(&mut rng, id.queue);
            account.puts.push(put_of(id, asked, lifetime_s));
            set_request(&mut rng, Dialect::MemcacheQ, id, lifetime_s, false)
        } else {
            account.await_take(Reader::Plain, queue);
            format!("get {}\r\n", queue_name(queue)).into_bytes()
        };
        let Some(reply) = ask_by_datagram(&socket, number as u16, &request, stop) else { continue };
        if puts {
            let put = account.puts.last_mut().expect("just pushed");
            put.settled = clock.now();
            put.outcome = match &reply[..] {
                b"STORED\r\n" => Outcome::Stored,
                b"NOT_STORED\r\n" if refuses(id.queue) => Outcome::Refused,
                reply => panic!("to a datagram: {}", reply.escape_ascii()),
            };
            continue;
        }
        account.heard_take(Reader::Plain, queue);
        let text_end = reply.windows(2).position(|pair| pair == b"\r\n").expect("a line") + 2;
        if let Some(line) = reply[..text_end].strip_prefix(b"VALUE ") {
            let size =
                String::from_utf8_lossy(line).trim().rsplit(' ').next().and_then(|word| word.parse::<usize>().ok());
            let (body, rest) = reply[text_end..].split_at(size.expect("a size"));
            assert_eq!(rest, b"\r\nEND\r\n");
            let read = crate::history::Read {
                id: MessageId::of_body(body),
                from: queue,
                asked,
                came: clock.now(),
                held_until: 0,
                end: End::Done(clock.now()),
            };
            account.reads.push((Reader::Plain, read));
        } else {
            // What is too large stays where it is.
            let expected = [&b"END\r\n"[..], b"SERVER_ERROR object too large for UDP\r\n"];
            assert!(expected.contains(&&reply[..]), "to a datagram: {}", reply.escape_ascii());
        }
        thread::sleep(Duration::from_micros(rng.below(4000)));
    }
    account
}

/// Sends a datagram, and puts its reply together. `None`: it did not come.
fn ask_by_datagram(socket: &UdpSocket, id: u16, request: &[u8], stop: &AtomicBool) -> Option<Vec<u8>> {
    const HEADER_SIZE: usize = 8;
    let mut datagram = [&id.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0]].concat();
    datagram.extend_from_slice(request);
    socket.send(&datagram).ok()?;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut buffer = [0; 65_536];
    for _ in 0..UDP_TRIES {
        match socket.recv(&mut buffer) {
            Ok(size) => {
                let field = |n: usize| u16::from_be_bytes([buffer[2 * n], buffer[2 * n + 1]]);
                // A reply that comes after all is known as lost already.
                if field(0) == id {
                    assert_eq!(usize::from(field(1)), pieces.len(), "on one host they come in order");
                    pieces.push(buffer[HEADER_SIZE..size].to_vec());
                    if pieces.len() == usize::from(field(2)) {
                        return Some(pieces.concat());
                    }
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
            }
            // The server is gone.
            Err(_) => return None,
        }
    }
    None
}
