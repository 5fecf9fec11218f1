//! The model: what the records of the journals make of some queues, each a plain `VecDeque` for every reader of it.
//!
//! A journal says in which order a shard did what clients asked for. The model follows it record by record and looks whether that is an
//! order in which a queue may do it: what is put was asked for, what is taken is the oldest, what leaves has a reason. What it has
//! then is what a store must have, and what clients may have been told.
//!
//! Invariant: after each mutation the counters of every reader leave over as many messages as are unread there.

use crate::checks::{self, Broken, Verdict};
use crate::facts::Facts;
use crate::request::{self, Number, queue_of};
use ringq::mutation::{Decoder, Mutation, Put, Why};
use ringq::queue::Counters;
use ringq::store::Recovered;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

/// A batch, by its shard and its number; `None`: one of a life before, or that everybody has.
pub type Mark = Option<(usize, u64)>;

/// A stored message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stored {
    number: Number,
    expires_ms: u64,
}

/// A queue, or a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Reader {
    name: String,
    /// The queue it is a group of; 0: it is a queue.
    of: u64,
    /// What it has not passed, by id.
    unread: VecDeque<u64>,
    counters: Counters,
    /// Of a queue: what is stored.
    messages: BTreeMap<u64, Stored>,
    /// It has groups, or had and was not swept since.
    is_grouped: bool,
}

/// A message that is to go to a queue of another shard.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Move {
    message: u64,
    why: Why,
    target: Vec<u8>,
}

/// What the journals up to here make of it.
#[derive(Clone, Default)]
pub struct Model {
    readers: BTreeMap<u64, Reader>,
    moves: BTreeMap<(u64, u64), Move>,
    accepted: BTreeMap<(u64, Vec<u8>), u64>,
    settings: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Ids of all messages there were.
    ids: BTreeSet<u64>,
    /// How often a message was put into a queue.
    copies: BTreeMap<(String, Number), u64>,
    /// How often there was a group of this name.
    lives: BTreeMap<String, u64>,
    /// The batch of a message's first put.
    puts: BTreeMap<Number, Mark>,
    /// When the last copy of it in a queue expires, ms since 1970.
    expire: BTreeMap<(String, Number), u64>,
    /// The batches in which a reader took a message.
    taken: BTreeMap<(String, Number), Vec<Mark>>,
    /// Ids of what a connection put into a queue, by number.
    of_connection: BTreeMap<(usize, String), BTreeMap<Number, u64>>,
    /// Messages that were in a queue with groups.
    shared: BTreeSet<Number>,
}

fn fail(what: String) -> Verdict {
    checks::message_leaves_only_for_a_reason(&what, false)
}

impl Model {
    /// Follows a batch.
    pub fn follow(&mut self, shard: usize, seq: u64, mutations: &[u8], facts: &Facts) -> Verdict {
        let mut touched = BTreeSet::new();
        let mut arrives = None;
        for mutation in Decoder::new(mutations) {
            let mutation = mutation.expect("an engine encodes mutations");
            if let Mutation::Accept { target, .. } = mutation {
                arrives = Some(String::from_utf8_lossy(target).into_owned());
            }
            touched.extend(self.change(&mutation, Some((shard, seq)), &mut arrives, facts)?);
        }
        for number in touched {
            self.check_place(number)?;
        }
        for (queue, messages_max) in facts.limits() {
            let held = self.readers.values().find(|it| it.name == queue).map_or(0, |it| it.messages.len());
            checks::queue_keeps_its_limits(queue, held, messages_max)?;
        }
        Ok(())
    }

    /// Which message was touched.
    fn change(
        &mut self,
        mutation: &Mutation<'_>,
        mark: Mark,
        arrives: &mut Option<String>,
        facts: &Facts,
    ) -> Result<Option<Number>, Broken> {
        let mut touched = None;
        match *mutation {
            Mutation::Ids { .. } => {}
            Mutation::Create { queue, name, .. } => {
                let name = String::from_utf8_lossy(name).into_owned();
                let is_new = self.readers.values().all(|it| it.name != name);
                let reader = Reader { name, ..Reader::default() };
                if !is_new || self.readers.insert(queue.0, reader).is_some() {
                    fail(format!("queue {queue} is made, and is there"))?;
                }
            }
            Mutation::Group { queue, of, name, .. } => {
                self.reader(of.0)?.is_grouped = true;
                let owner = self.reader(of.0)?.clone();
                self.shared.extend(owner.messages.values().map(|it| it.number));
                let name = String::from_utf8_lossy(name).into_owned();
                *self.lives.entry(name.clone()).or_default() += 1;
                let unread = owner.messages.keys().copied().collect();
                let mut reader = Reader { name, of: of.0, unread, ..Reader::default() };
                reader.counters.apply(mutation);
                self.readers.insert(queue.0, reader);
                self.check_count(queue.0)?;
            }
            Mutation::Put(put) => touched = Some(self.put(&put, mark, arrives, facts)?),
            Mutation::Take { queue, message } => touched = self.leave(queue.0, message.0, Why::Got, mark, facts)?,
            Mutation::Leave { queue, message, why } => touched = self.leave(queue.0, message.0, why, mark, facts)?,
            Mutation::Pass { queue, message, low, why } => {
                touched = self.leave(queue.0, message.0, why, mark, facts)?;
                let reader = self.reader(queue.0)?;
                if reader.unread.front().is_some_and(|first| *first < low.0) {
                    fail(format!("{} has passed all below {low}, and not {:?}", reader.name, reader.unread.front()))?;
                }
            }
            Mutation::Corrupt { queue, message } => {
                let is_known = facts.rotten.contains(&message.0);
                checks::message_leaves_only_for_a_reason(&format!("{message} is set aside, and was intact"), is_known)?;
                touched = self.remove(queue.0, message.0)?.1;
                self.count(queue.0, mutation)?;
            }
            Mutation::Purge { queue, below, count } => {
                let reader = self.reader(queue.0)?;
                let before = reader.unread.len();
                reader.unread.retain(|message| *message >= below.0);
                let (gone, name) = (before - reader.unread.len(), reader.name.clone());
                if !reader.is_grouped && reader.of == 0 {
                    reader.messages.retain(|message, _| *message >= below.0);
                }
                self.moves.retain(|(of, _), it| *of != queue.0 || it.message >= below.0);
                let is_right = gone as u64 == count && facts.may_purge(&name);
                checks::message_leaves_only_for_a_reason(&format!("{name} drops {count} of {gone}"), is_right)?;
                self.count(queue.0, mutation)?;
            }
            Mutation::Delete { queue } => {
                let Some(reader) = self.readers.remove(&queue.0) else {
                    return fail(format!("no {queue}")).map(|()| None);
                };
                self.moves.retain(|(of, _), _| *of != queue.0);
                let has_reason = facts.may_delete(&reader.name);
                checks::message_leaves_only_for_a_reason(&format!("{} is deleted", reader.name), has_reason)?;
            }
            Mutation::Free { queue, message } => {
                let readers =
                    self.readers.values().filter(|it| it.of == queue.0 || it.name == self.readers[&queue.0].name);
                let waiting: Vec<&str> =
                    readers.filter(|it| it.unread.contains(&message.0)).map(|it| it.name.as_str()).collect();
                let what = format!("{message} goes, and {waiting:?} did not read it");
                checks::message_leaves_only_for_a_reason(&what, waiting.is_empty())?;
                touched = self.reader(queue.0)?.messages.remove(&message.0).map(|it| it.number);
            }
            Mutation::Sweep { queue, freed } => self.sweep(queue.0, freed)?,
            Mutation::Configure { name, settings } => {
                drop(match settings {
                    [] => self.settings.remove(name),
                    _ => self.settings.insert(name.to_vec(), settings.to_vec()),
                });
            }
            Mutation::Move { queue, message, number, why, target } => {
                let (reader, number_of) = (self.reader(queue.0)?.name.clone(), self.number_of(queue.0, message.0));
                let it = Move { message: message.0, why, target: target.to_vec() };
                let target = String::from_utf8_lossy(target).into_owned();
                let is_right = number_of.is_some() && facts.may_move(&reader, &target);
                checks::message_leaves_only_for_a_reason(&format!("{message} leaves {reader} for {target}"), is_right)?;
                self.moves.insert((queue.0, number), it);
            }
            Mutation::Moved { queue, number } => drop(self.moves.remove(&(queue.0, number))),
            Mutation::Accept { source, number, target } => {
                let highest = self.accepted.entry((source.0, target.to_vec())).or_default();
                *highest = number.max(*highest);
            }
            // What is in nobody's hands any more was counted as taken.
            Mutation::Unsent { queue } if !self.readers.contains_key(&queue.0) => {}
            Mutation::Unsent { queue } | Mutation::Passed { queue, .. } => self.count(queue.0, mutation)?,
            Mutation::Return { queue, message, .. } => {
                if self.number_of(queue.0, message.0).is_none() {
                    fail(format!("{message} returns to where it is not"))?;
                }
            }
        }
        Ok(touched)
    }

    fn reader(&mut self, queue: u64) -> Result<&mut Reader, Broken> {
        let broken = || Broken { rule: "message_leaves_only_for_a_reason", what: format!("there is no queue {queue}") };
        self.readers.get_mut(&queue).ok_or_else(broken)
    }

    fn count(&mut self, queue: u64, mutation: &Mutation<'_>) -> Verdict {
        self.reader(queue)?.counters.apply(mutation);
        self.check_count(queue)
    }

    fn check_count(&mut self, queue: u64) -> Verdict {
        let it = self.reader(queue)?;
        let (puts, left, unread) = (it.counters.puts, it.counters.left().unwrap_or(u64::MAX), it.unread.len() as u64);
        let (counted, expected) = ([("unread", puts.wrapping_sub(left))], [("unread", unread)]);
        checks::counters_balance(&it.name, &counted, &expected)
    }

    /// The queue whose messages a reader reads.
    fn owner(&self, queue: u64) -> u64 {
        self.readers.get(&queue).map_or(queue, |it| if it.of == 0 { queue } else { it.of })
    }

    fn number_of(&self, queue: u64, message: u64) -> Option<Number> {
        Some(self.readers.get(&self.owner(queue))?.messages.get(&message)?.number)
    }

    fn put(
        &mut self,
        put: &Put<'_>,
        mark: Mark,
        arrives: &mut Option<String>,
        facts: &Facts,
    ) -> Result<Number, Broken> {
        let (queue, id, name) = (put.queue.0, put.message.0, self.reader(put.queue.0)?.name.clone());
        let number = put.body.split(|byte| *byte == b' ').next();
        let number: Number =
            number.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok()).unwrap_or(Number::MAX);
        let asked = facts.puts.get(&number);
        let is_intact = put.is_intact() && asked.is_some_and(|it| put.body == request::body(number, it.size));
        let is_new = self.ids.insert(id);
        let comes_first =
            asked.is_some_and(|it| it.queue == name) && !self.copies.contains_key(&(name.clone(), number));
        let is_moved = arrives.take_if(|target| *target == name).is_some() || facts.may_arrive(&name);
        let what =
            format!("{name}: message {number} with id {id}, new id {is_new}, intact {is_intact}, first {comes_first}");
        checks::message_is_put_as_it_was_asked(&what, is_new && is_intact && (comes_first || is_moved))?;
        *self.copies.entry((name.clone(), number)).or_default() += 1;
        let asked = asked.expect("looked at above");
        let last = self.expire.entry((name.clone(), number)).or_default();
        *last = if put.expires_ms == 0 { Number::MAX } else { put.expires_ms.max(*last) };
        if comes_first && self.puts.insert(number, mark).is_none() {
            let of_connection = self.of_connection.entry((asked.connection, name.clone())).or_default();
            of_connection.insert(number, id);
            let before = of_connection.range(..number).next_back().map(|(_, id)| *id);
            let after = of_connection.range(number + 1..).next().map(|(_, id)| *id);
            checks::puts_of_a_connection_keep_their_order(&name, before, id, after)?;
        }
        if self.reader(queue)?.is_grouped {
            self.shared.insert(number);
        }
        self.reader(queue)?.messages.insert(id, Stored { number, expires_ms: put.expires_ms });
        for reader in self.readers.values_mut().filter(|it| it.of == queue || it.name == name) {
            let at = reader.unread.partition_point(|message| *message < id);
            reader.unread.insert(at, id);
            reader.counters.puts += 1;
        }
        self.check_count(queue)?;
        Ok(number)
    }

    /// A reader is done with a message.
    fn leave(
        &mut self,
        queue: u64,
        message: u64,
        why: Why,
        mark: Mark,
        facts: &Facts,
    ) -> Result<Option<Number>, Broken> {
        let (skipped, number) = self.remove(queue, message)?;
        let name = self.reader(queue)?.name.clone();
        let expires_ms = number.map_or(0, |number| self.expires_ms(&name, number));
        let has_reason = facts.may_leave(&name, why, expires_ms);
        checks::message_leaves_only_for_a_reason(&format!("{name}: {message} goes as {why:?}"), has_reason)?;
        let counted =
            Mutation::Leave { queue: ringq::ids::QueueId(queue), message: ringq::ids::MessageId(message), why };
        self.count(queue, &counted)?;
        if let Some(number) = number
            && why == Why::Got
        {
            // What went straight to who waited did so before older ones came back from others who had waited.
            let is_handed_over = facts.has_waited && self.puts.get(&number) == Some(&mark);
            let skipped_max = if is_handed_over { usize::MAX } else { facts.skipped_max(&name) };
            checks::queue_is_fifo(&name, number, skipped, skipped_max)?;
            self.taken.entry((name, number)).or_default().push(mark);
        }
        Ok(number)
    }

    /// How many older ones are unread, and which it was.
    fn remove(&mut self, queue: u64, message: u64) -> Result<(usize, Option<Number>), Broken> {
        let number = self.number_of(queue, message);
        let reader = self.reader(queue)?;
        let Some(at) = reader.unread.iter().position(|it| *it == message) else {
            return fail(format!("{}: {message} goes, and is not there", reader.name)).map(|()| (0, None));
        };
        reader.unread.remove(at);
        if !reader.is_grouped && reader.of == 0 {
            reader.messages.remove(&message);
        }
        Ok((at, number))
    }

    fn sweep(&mut self, queue: u64, freed: u64) -> Verdict {
        let readers = || self.readers.iter().filter(|(id, it)| **id == queue || it.of == queue);
        let unread: BTreeSet<u64> = readers().flat_map(|(_, it)| it.unread.iter().copied()).collect();
        let has_groups = readers().count() > 1;
        let owner = self.reader(queue)?;
        let before = owner.messages.len();
        owner.messages.retain(|message, _| unread.contains(message));
        owner.is_grouped = has_groups;
        let gone = (before - owner.messages.len()) as u64;
        let what = format!("{}: {freed} are swept, and {gone} were read by all", owner.name);
        checks::message_leaves_only_for_a_reason(&what, gone == freed)
    }

    /// In which queues a message is that was never shared: not counting where it is about to leave for one that has it.
    fn check_place(&self, number: Number) -> Verdict {
        if self.shared.contains(&number) {
            return Ok(());
        }
        let mut queues = Vec::new();
        for (id, reader) in &self.readers {
            for (message, _) in reader.messages.iter().filter(|(_, it)| it.number == number) {
                let has_left = |((of, n), it): (&(u64, u64), &Move)| {
                    *of == *id && it.message == *message && self.is_accepted(*of, &it.target, *n)
                };
                if !self.moves.iter().any(has_left) {
                    queues.push(reader.name.clone());
                }
            }
        }
        checks::a_moved_message_is_in_one_queue(number, &queues)
    }

    fn is_accepted(&self, source: u64, target: &[u8], number: u64) -> bool {
        self.accepted.get(&(source, target.to_vec())).is_some_and(|highest| number <= *highest)
    }

    // --- a start ---

    /// What a start does about transfers that were under way.
    pub fn settle_moves(&mut self, facts: &Facts) -> Verdict {
        for ((queue, number), it) in std::mem::take(&mut self.moves) {
            let is_there = self.readers.get(&queue).is_some_and(|reader| reader.unread.contains(&it.message));
            if is_there && self.is_accepted(queue, &it.target, number) {
                let owner = self.owner(queue);
                self.leave(queue, it.message, it.why, None, facts)?;
                let mut readers = self.readers.iter().filter(|(id, reader)| **id == owner || reader.of == owner);
                if readers.all(|(_, reader)| !reader.unread.contains(&it.message)) {
                    self.reader(owner)?.messages.remove(&it.message);
                }
            }
        }
        Ok(())
    }

    /// All that was followed is everybody's now.
    pub fn settle_marks(&mut self) {
        self.puts.values_mut().for_each(|it| *it = None);
        self.taken.values_mut().flatten().for_each(|it| *it = None);
    }

    /// Compares with what a store has. `ids_of`: of the messages stored for a queue.
    pub fn check_store(&self, found: &Recovered, ids_of: impl Fn(u64) -> Vec<u64>) -> Verdict {
        checks::the_store_is_what_the_journals_say(self.difference(found, ids_of))
    }

    fn difference(&self, found: &Recovered, ids_of: impl Fn(u64) -> Vec<u64>) -> Option<String> {
        let names = |it: &mut dyn Iterator<Item = String>| it.collect::<BTreeSet<String>>();
        let stored = names(&mut found.queues.iter().map(|row| String::from_utf8_lossy(&row.name).into_owned()));
        let expected = names(&mut self.readers.values().map(|it| it.name.clone()));
        if stored != expected {
            return Some(format!("{stored:?} are stored, and not {expected:?}"));
        }
        for row in &found.queues {
            let it = self.readers.get(&row.queue.0)?;
            if row.counters != it.counters {
                return Some(format!("{}: {:?} is stored, and not {:?}", it.name, row.counters, it.counters));
            }
            let messages = ids_of(self.owner(row.queue.0));
            if !messages.iter().eq(self.readers[&self.owner(row.queue.0)].messages.keys()) {
                return Some(format!("of {} {messages:?} are stored", it.name));
            }
            let has_passed = |id: u64| id < row.low.0 || row.passed.iter().any(|passed| passed.0 == id);
            let unread: Vec<u64> = messages.into_iter().filter(|id| !has_passed(*id)).collect();
            if !unread.iter().eq(&it.unread) {
                return Some(format!("{} has {unread:?} unread in the store, and not {:?}", it.name, it.unread));
            }
        }
        let settings: BTreeMap<_, _> = found.settings.iter().cloned().collect();
        (settings != self.settings).then(|| format!("{settings:?} are stored, and not {:?}", self.settings))
    }

    // --- what clients may have been told ---

    /// How often a message may come to a reader.
    pub fn copies(&self, reader: &str, number: Number, facts: &Facts) -> u64 {
        let queue = queue_of(reader);
        // What went straight to who waited is in no journal.
        let direct = facts.puts.get(&number).is_some_and(|it| it.queue == queue);
        let copies = self.copies.get(&(queue.to_owned(), number)).copied().unwrap_or(0).max(u64::from(direct));
        let lives = if queue == reader { 1 } else { self.lives.get(reader).copied().unwrap_or(0) };
        copies * lives
    }

    /// The batch that put a message; not there if none did.
    pub fn put_of(&self, number: Number) -> Option<Mark> {
        self.puts.get(&number).copied()
    }

    /// When a message expires in a queue, or for a reader of it, ms since 1970.
    pub fn expires_ms(&self, reader: &str, number: Number) -> u64 {
        self.expire.get(&(queue_of(reader).to_owned(), number)).copied().unwrap_or(Number::MAX)
    }

    /// The batches in which a reader took a message: as many as its group's lives, or as it came from other queues.
    pub fn taken_by(&self, reader: &str, number: Number) -> &[Mark] {
        self.taken.get(&(reader.to_owned(), number)).map_or(&[], |it| it)
    }

    /// What a reader took, with how often.
    pub fn taken(&self) -> impl Iterator<Item = (&str, Number, u64)> {
        self.taken.iter().map(|((reader, number), marks)| (reader.as_str(), *number, marks.len() as u64))
    }

    /// Names of all readers.
    pub fn readers(&self) -> Vec<String> {
        self.readers.values().map(|it| it.name.clone()).collect()
    }

    /// How many messages a reader has not passed.
    pub fn unread(&self, reader: &str) -> u64 {
        self.readers.values().find(|it| it.name == reader).map_or(0, |it| it.unread.len() as u64)
    }

    /// Messages that were put into a queue.
    pub fn put_into(&self, queue: &str) -> impl Iterator<Item = Number> {
        self.copies.keys().filter(move |(name, _)| name == queue).map(|(_, number)| *number)
    }
}
