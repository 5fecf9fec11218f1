//! Gets that wait for a message: a line of them for each name, in the order of their arrival.
//!
//! They wait on the name, not on a queue: there may be none yet, and `delete` leaves them waiting. Places are linked, so that a
//! put finds the first of its line, and a client that goes leaves its place, without a search; a queue that nobody waits for
//! is told apart by one look at its shelf.
//!
//! Invariant: who waits stands in one line, by which the session (or the table of other shards' tokens) knows the place; no
//! line is empty; a queue whose name has a line is empty, or for its groups only, so whoever asks without a timeout overtakes nobody.
//!
//! Does not know why a message comes: it may have been put, or have come back.

use super::datagram::Form;
use super::execute::GetResult;
use super::reads::answer_of;
use super::{Engine, Origin, Waiter};
use crate::ids::{ConnId, Seq, ShardId};
use crate::proto::options::GetOptions;
use crate::proto::reply;
use crate::queue::Head;
use crate::session::Wait;
use crate::session::replies::Answer;
use hashbrown::{HashMap, HashTable};
use std::collections::BTreeSet;
use std::hash::BuildHasher;

impl Waiter {
    /// A get of a form that does not wait for a message to come.
    pub(super) fn plain(origin: Origin, form: Form) -> Waiter {
        Waiter { origin, form, options: None, deadline_ms: 0 }
    }

    /// The options of its key, as the client wrote them.
    pub(super) fn options(&self) -> &[u8] {
        self.options.as_ref().map_or(b"", |options| options.as_written())
    }

    /// What to answer when there is no message. A get that confirmed a read before says so only when that is durable.
    pub(super) fn nothing(&self, newest: Seq) -> Answer {
        Answer { seq: if self.form.open.is_some() { newest } else { Seq(0) }, ..Answer::default() }
    }
}

/// Everybody who waits for a message on this shard.
#[derive(Default)]
pub(super) struct Waits {
    places: Vec<Option<Standing>>,
    free_places: Vec<u32>,
    lines: Vec<Option<Line>>,
    free_lines: Vec<u32>,
    /// Lines by name.
    names: HashTable<u32>,
    /// Places of other shards' clients, by shard and token.
    remote: HashMap<(ShardId, u32), u32>,
    /// Places by deadline.
    due: BTreeSet<(u64, u32)>,
}

/// One get in its line.
struct Standing {
    waiter: Waiter,
    deadline_ms: u64,
    line: u32,
    before: Option<u32>,
    behind: Option<u32>,
}

/// Who waits for one name.
struct Line {
    name: Box<[u8]>,
    first: Option<u32>,
    last: Option<u32>,
    len: u64,
}

impl Waits {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// When the first of them will have waited long enough, monotonic ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many wait in one line.
    pub(super) fn line_len(&self, line: u32) -> u64 {
        self.lines[line as usize].as_ref().expect("a line that is known has not ended").len
    }

    fn at(&mut self, place: u32) -> &mut Standing {
        self.places[place as usize].as_mut().expect("somebody stands there")
    }

    fn line(&mut self, line: u32) -> &mut Line {
        self.lines[line as usize].as_mut().expect("a line that is known has not ended")
    }

    /// Appends to a line. Returns the place.
    fn join(&mut self, line: u32, waiter: Waiter, deadline_ms: u64) -> u32 {
        let (before, origin) = (self.line(line).last, waiter.origin);
        let place = insert(
            &mut self.places,
            &mut self.free_places,
            Standing { waiter, deadline_ms, line, before, behind: None },
        );
        match before {
            Some(before) => self.at(before).behind = Some(place),
            None => self.line(line).first = Some(place),
        }
        self.line(line).last = Some(place);
        self.line(line).len += 1;
        self.due.insert((deadline_ms, place));
        if let Origin::Remote { shard, token } = origin {
            self.remote.insert((shard, token), place);
        }
        place
    }

    /// Takes somebody out of a line. Says which line it was if that is empty now.
    fn leave(&mut self, place: u32) -> (Waiter, Option<u32>) {
        let Standing { waiter, deadline_ms, line, before, behind } =
            self.places[place as usize].take().expect("somebody stands there");
        self.free_places.push(place);
        self.due.remove(&(deadline_ms, place));
        if let Origin::Remote { shard, token } = waiter.origin {
            self.remote.remove(&(shard, token));
        }
        match before {
            Some(before) => self.at(before).behind = behind,
            None => self.line(line).first = behind,
        }
        match behind {
            Some(behind) => self.at(behind).before = before,
            None => self.line(line).last = before,
        }
        self.line(line).len -= 1;
        (waiter, (before.is_none() && behind.is_none()).then_some(line))
    }
}

fn insert<T>(slots: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> u32 {
    match free.pop() {
        Some(index) => {
            slots[index as usize] = Some(value);
            index
        }
        None => {
            slots.push(Some(value));
            u32::try_from(slots.len() - 1).expect("fewer than 2^32 of them")
        }
    }
}

impl Engine {
    /// Takes, opens or shows a message of this shard for a get with options, or lets it wait.
    pub(super) fn get_or_wait(&mut self, name: &[u8], options: &GetOptions, form: Form, origin: Origin) {
        let asked_ms = options.wait_ms.unwrap_or(0);
        let wait_ms = if form.is_bounded() { 0 } else { asked_ms.min(self.config.tunables.wait_ms_max) };
        let deadline_ms = self.now.mono_ms + wait_ms;
        let mut bytes = Vec::new();
        let waiter = || Waiter { origin, form, options: Some(Box::new(*options)), deadline_ms };
        match self.get(name, options.as_written(), form, &mut bytes) {
            GetResult::Hit(given) => {
                let seq = self.newest();
                self.answer(origin, answer_of(given, bytes, seq));
            }
            GetResult::Miss => self.miss(name, waiter()),
            GetResult::NoGroup => {
                self.answer(origin, Answer { failure: Some(reply::NOT_FOUND), ..Answer::default() });
            }
            GetResult::Refused(reply) => {
                let answer = Answer { failure: Some(reply), ..waiter().nothing(self.newest()) };
                self.answer(origin, answer);
            }
            GetResult::MustWait(index) => self.wait_for_load(index, waiter()),
        }
    }

    /// There is no message for a get: it is told so, or waits for one.
    pub(super) fn miss(&mut self, name: &[u8], waiter: Waiter) {
        let (origin, deadline_ms) = (waiter.origin, waiter.deadline_ms);
        if deadline_ms <= self.now.mono_ms || self.stopping {
            return self.answer(origin, waiter.nothing(self.newest()));
        }
        if let Origin::Local { conn, .. } = origin
            && self.session(conn).is_none()
        {
            return;
        }
        let line = self.line_of(name).unwrap_or_else(|| self.begin_line(name));
        let place = self.waits.join(line, waiter, deadline_ms);
        if let Origin::Local { conn, .. } = origin {
            self.session(conn).expect("just seen").waiting = Some(place);
        }
    }

    /// The line of those who wait for a message of this name.
    pub(super) fn line_of(&self, name: &[u8]) -> Option<u32> {
        if self.waits.names.is_empty() {
            return None;
        }
        let lines = &self.waits.lines;
        let named = |line: &u32| &*lines[*line as usize].as_ref().expect("listed").name == name;
        self.waits.names.find(self.hasher.hash_one(name), named).copied()
    }

    fn begin_line(&mut self, name: &[u8]) -> u32 {
        let Engine { waits, hasher, .. } = self;
        let line = Line { name: name.into(), first: None, last: None, len: 0 };
        let index = insert(&mut waits.lines, &mut waits.free_lines, line);
        let lines = &waits.lines;
        let rehash = |line: &u32| hasher.hash_one(&*lines[*line as usize].as_ref().expect("listed").name);
        waits.names.insert_unique(hasher.hash_one(name), index, rehash);
        if let Some(shelf) = self.find(name) {
            self.shelf(shelf).line = Some(index);
        }
        index
    }

    fn end_line(&mut self, index: u32) {
        let line = self.waits.lines[index as usize].take().expect("it was there a moment ago");
        self.waits.free_lines.push(index);
        let entry = self.waits.names.find_entry(self.hasher.hash_one(&*line.name), |i| *i == index);
        entry.expect("every line is listed").remove();
        if let Some(shelf) = self.find(&line.name) {
            let now_ms = self.now.mono_ms;
            let shelf = self.shelf(shelf);
            (shelf.line, shelf.asked_ms) = (None, now_ms);
        }
    }

    /// Takes somebody out of a line, whoever stands there.
    pub(super) fn leave_line(&mut self, place: u32) -> Waiter {
        let (waiter, ended) = self.waits.leave(place);
        if let Some(line) = ended {
            self.end_line(line);
        }
        if let Origin::Local { conn, .. } = waiter.origin
            && let Some(session) = self.session(conn)
        {
            session.waiting = None;
        }
        waiter
    }

    /// Who is first in the line of a queue, and where it stands, if it takes what it gets for good.
    pub(super) fn first_taker_in_line(&mut self, index: u32) -> Option<(u32, Origin)> {
        let place = self.first_in_line(index)?;
        let Waiter { origin, form, .. } = self.waits.at(place).waiter;
        (form.open.is_none() && !form.peek).then_some((place, origin))
    }

    pub(super) fn first_in_line(&mut self, index: u32) -> Option<u32> {
        let line = self.shelf(index).line?;
        Some(self.waits.line(line).first.expect("no line is empty"))
    }

    /// A message has come to a queue that has a line: its first gets it, the ordinary way. Who only looks leaves it to the next. If what has
    /// come back is only in the store, all wait for that, in their order; who then finds nothing stands in a line again.
    pub(super) fn serve_line(&mut self, index: u32) {
        if self.shelf(index).is_for_groups() {
            return;
        }
        while self.settle_head(index) {
            let head = self.shelf(index).queue.head();
            if head == Head::Empty {
                return;
            }
            let Some(first) = self.first_in_line(index) else { return };
            let waiter = self.leave_line(first);
            let Head::Ready(entry) = head else {
                self.wait_for_load(index, waiter);
                self.load_ahead(index);
                continue;
            };
            // Nobody stands here whose reply has a bound.
            let answer = self.give_or_refuse(index, entry, 0, &waiter);
            self.answer(waiter.origin, answer);
        }
    }

    /// The client has shut its sending side: it may be gone, and a message for it would go with it. So its get waits no longer.
    pub(super) fn end_wait_of(&mut self, conn: ConnId) {
        let session = self.session(conn).expect("the caller has it");
        match (session.waiting, session.wait) {
            (Some(place), _) => self.turn_away(place),
            // It waits on another shard, or for a load.
            (None, Some(Wait::Message(_))) => self.cancels_due = true,
            (None, _) => {}
        }
    }

    /// A client of another shard is gone before its get was served: it takes nothing.
    pub(super) fn cancel_wait(&mut self, shard: ShardId, token: u32) {
        if let Some(place) = self.waits.remote.get(&(shard, token)).copied() {
            self.turn_away(place);
        }
    }

    /// Answers those whose time is up.
    pub(super) fn expire_waits(&mut self) {
        let now = self.now.mono_ms;
        while let Some((_, place)) = self.waits.due.first().copied().filter(|(at, _)| *at <= now) {
            self.turn_away(place);
        }
    }

    /// The server is stopping: nobody waits any longer.
    pub(super) fn end_waits(&mut self) {
        while let Some((_, place)) = self.waits.due.first().copied() {
            self.turn_away(place);
        }
    }

    fn turn_away(&mut self, place: u32) {
        let waiter = self.leave_line(place);
        self.answer(waiter.origin, waiter.nothing(self.newest()));
    }

    /// Checks lines and places against each other, and that nobody waits for what is there. For tests.
    pub(super) fn assert_waits_consistent(&self) {
        let waits = &self.waits;
        let mut standing = 0;
        for index in &waits.names {
            let line = waits.lines[*index as usize].as_ref().expect("a listed line exists");
            assert!(line.first.is_some(), "no line is empty");
            let (mut before, mut next) = (None, line.first);
            let before_line = standing;
            while let Some(place) = next {
                let it = waits.places[place as usize].as_ref().expect("somebody stands in every place of a line");
                assert_eq!((it.line, it.before), (*index, before), "links go both ways");
                assert!(waits.due.contains(&(it.deadline_ms, place)), "everybody has a deadline");
                self.assert_known(it.waiter.origin, place);
                standing += 1;
                (before, next) = (Some(place), it.behind);
            }
            assert_eq!(before, line.last, "the last is the last");
            assert_eq!(standing - before_line, line.len as usize, "a line knows its length");
            if let Some(shelf) = self.find(&line.name).and_then(|i| self.shelves[i as usize].as_ref()) {
                assert_eq!(shelf.line, Some(*index), "a queue knows its line");
                let queue = shelf.queue.id;
                let is_unsettled = self.expiry.is_unsettled(queue) || self.moves.blocked.contains(&queue);
                let has_none = (shelf.queue.is_empty() || shelf.is_for_groups()) && shelf.waiters.is_empty();
                assert!(has_none || is_unsettled, "nobody waits for what is there");
            }
        }
        let (taken, lines) = (waits.places.iter().flatten().count(), waits.lines.iter().flatten().count());
        assert_eq!((standing, standing), (taken, waits.due.len()), "everybody stands in a line");
        assert_eq!(lines, waits.names.len(), "every line is listed");
        let known = self.shelves.iter().flatten().filter(|shelf| shelf.line.is_some()).count();
        assert!(known <= lines, "a line has at most one queue");
    }

    fn assert_known(&self, origin: Origin, place: u32) {
        match origin {
            Origin::Local { conn, at } => {
                let session = self.sessions[conn.index as usize].as_ref().expect("who is gone does not wait");
                assert_eq!(session.generation, conn.generation, "who is gone does not wait");
                assert_eq!(session.waiting, Some(place), "a session knows its place");
                assert_eq!(session.wait, Some(Wait::Message(at.slot)), "a waiting get holds back what follows");
            }
            Origin::Remote { shard, token } => assert_eq!(self.waits.remote.get(&(shard, token)), Some(&place)),
        }
    }
}
