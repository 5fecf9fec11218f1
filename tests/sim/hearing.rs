//! What clients hear, and what follows from each reply: whether it could be said, and what cannot come any more.
//!
//! Invariant: replies are read in the order of their requests, and all that has come is read before anything is concluded from what has not.

use crate::checks::{self, Verdict};
use crate::clients::Asked;
use crate::facts::GATE;
use crate::model::Mark;
use crate::request::{Key, Number, Request, Told, Value, queue_of, read_reply};
use crate::trial::{OPEN_READS_MAX, Trial};
use ringq::proto::Dialect;

impl Trial {
    /// Reads whole replies of every client.
    pub fn hear(&mut self) -> Verdict {
        let mut stored = Vec::new();
        for client in 0..self.clients.len() {
            let connection = self.clients.connection(client);
            let received = std::mem::take(&mut self.world.clients[connection].received);
            let mut heard = 0;
            while heard < received.len() {
                let it = self.clients.get(client);
                let Some(asked) = it.asked.front() else {
                    let what = format!("nothing was asked: {}", received[heard..].escape_ascii());
                    return checks::replies_are_in_request_order(Err(what));
                };
                let size_of = |number| self.facts.puts.get(&number).map(|put| put.size);
                let read = read_reply(&asked.request, it.dialect, &received[heard..], size_of);
                checks::replies_are_in_request_order(read.as_ref().map(|_| ()).map_err(Clone::clone))?;
                let Ok(Some((told, len))) = read else { break };
                heard += len;
                let asked = it.asked.pop_front().expect("it was there");
                match told {
                    Told::Word(word) => self.hear_word(client, &asked, &word, &mut stored)?,
                    Told::Values(values, end) => self.hear_values(client, &asked, &values, &end)?,
                }
            }
            self.world.clients[connection].received = received[heard..].to_vec();
        }
        // Another client may have had the message before its putter heard of it.
        stored.into_iter().try_for_each(|number| self.hear_stored(number))
    }

    fn hear_word(&mut self, client: usize, asked: &Asked, word: &str, stored: &mut Vec<Number>) -> Verdict {
        match (&asked.request, word) {
            (Request::Put { number, .. }, "STORED") => stored.push(*number),
            (Request::Line(_), "DELETED") => self.clients.unheard_by_id(&asked.request),
            (_, "ERROR") => self.clients.get(client).may_end = true,
            _ => {}
        }
        Ok(())
    }

    fn hear_stored(&mut self, number: Number) -> Verdict {
        let queue = self.facts.puts[&number].queue.clone();
        let is_durable = self.model.put_of(number).is_some_and(|mark| self.is_durable(mark));
        // What was on its way to who waited may go with its queue, before it is in any journal.
        let may_be_gone = self.facts.may_delete(&queue) || self.facts.may_purge(&queue);
        let is_there = is_durable || self.clients.has_arrived(&queue, number) || may_be_gone;
        checks::reply_waits_for_the_disk(&format!("message {number} was told to be stored"), is_there)?;
        self.admit(&queue, number)
    }

    /// A message is, or was, in the gate.
    fn admit(&mut self, queue: &str, number: Number) -> Verdict {
        if queue != GATE.0 {
            return Ok(());
        }
        self.clients.admitted.insert(number);
        let in_journals = self.model.put_into(GATE.0);
        let admitted: std::collections::BTreeSet<Number> =
            in_journals.chain(self.clients.admitted.iter().copied()).collect();
        checks::a_gate_never_admits_one_more(GATE.0, admitted.len(), GATE.1)
    }

    fn is_durable(&self, mark: Mark) -> bool {
        mark.is_none_or(|(shard, seq)| seq <= self.world.durable(shard).0)
    }

    /// Whether journals have it that a reader took a message once more than it is known to have come.
    fn is_taken(&self, reader: &str, number: Number) -> bool {
        let taken = self.model.taken_by(reader, number).iter().filter(|mark| self.is_durable(**mark)).count();
        taken as u64 > self.clients.delivered(reader, number)
    }

    fn hear_values(&mut self, client: usize, asked: &Asked, values: &[Value], end: &str) -> Verdict {
        let is_refused = end.starts_with("SERVER_ERROR");
        let may_be_refused = self.has_failed_loads || end.ends_with("too many open reads");
        if is_refused && !may_be_refused {
            return checks::replies_are_in_request_order(Err(format!("to {}: {end}", asked.request)));
        }
        if end == "ERROR" {
            // What Kestrel does about a client that has made a mistake.
            self.clients.get(client).may_end = true;
        }
        if let [key] = &asked.keys[..]
            && (key.close || key.abort)
        {
            self.hear_end(client, key, end)?;
        }
        for value in values {
            self.clients.ids.extend(value.id.map(|id| (value.number, id)));
            let key = &asked.keys[value.key];
            self.check_value(key, value.number, asked)?;
            if key.open {
                self.hear_open(client, key, value.number)?;
            } else if !key.peek {
                self.hear_taken(client, key, value.number)?;
            }
        }
        Ok(())
    }

    /// The oldest open read of a reader was to be ended.
    fn hear_end(&mut self, client: usize, key: &Key, end: &str) -> Verdict {
        let too_many = end.ends_with("too many open reads");
        let is_ended =
            matches!(end, "END" | "CLIENT_ERROR read expired") || end.starts_with("SERVER_ERROR") && key.open;
        if !is_ended {
            return Ok(());
        }
        let open = &mut self.clients.get(client).open;
        let len = open.values().map(|of| of.len()).sum::<usize>();
        let closes = open.get(&key.reader).is_some_and(|of| !of.is_empty());
        // If the connection has too many, nothing was changed. If all together have, the older read was ended before.
        let is_own_limit = too_many && len - usize::from(closes) >= OPEN_READS_MAX;
        let number = match is_own_limit {
            true => None,
            false => open.get_mut(&key.reader).and_then(|open| open.pop_front()),
        };
        let Some(number) = number.filter(|_| key.close && end != "CLIENT_ERROR read expired") else { return Ok(()) };
        // With the queue emptied meanwhile that is said, too.
        let may_be_gone = self.facts.may_purge(&key.reader) || self.facts.may_delete(&key.reader);
        if self.clients.by_id || may_be_gone {
            self.clients.confirm_unknown(&key.reader);
            return Ok(());
        }
        let is_durable = self.is_taken(&key.reader, number);
        let what = format!("message {number} of {} was told to be confirmed", key.reader);
        checks::reply_waits_for_the_disk(&what, is_durable)?;
        self.count(client, &key.reader, number)
    }

    /// Of a message that came, in whatever way.
    fn check_value(&mut self, key: &Key, number: Number, asked: &Asked) -> Verdict {
        let gone_at = self.clients.gone_at.get(&(key.reader.clone(), number)).copied();
        checks::confirmed_message_never_returns(&key.reader, number, gone_at, asked.at)?;
        checks::expired_message_is_never_served(number, self.model.expires_ms(&key.reader, number), asked.wall_ms_min)?;
        if key.is_plain() {
            return Ok(());
        }
        let is_durable = self.model.put_of(number).is_some_and(|mark| self.is_durable(mark));
        checks::reply_waits_for_the_disk(&format!("message {number} was shown"), is_durable)
    }

    fn hear_open(&mut self, client: usize, key: &Key, number: Number) -> Verdict {
        let may_end = self.clients.get(client).may_end || self.clients.by_id;
        let may_end = may_end || key.text.contains("/ttr=") || self.facts.may_time_out(&key.reader);
        let it = self.clients.get(client);
        let is_kestrel = it.dialect == Dialect::Kestrel;
        it.open.entry(key.reader.clone()).or_default().push_back(number);
        // It may have been given back before this was heard.
        let ends_it = |asked: &Asked| {
            asked.keys.iter().any(|other| other.reader == key.reader && (other.close || other.abort))
                || matches!(asked.request.verb(), "flush" | "delete" | "flush_all")
                || is_kestrel && !asked.keys.is_empty()
        };
        if may_end
            || it.asked.iter().any(ends_it)
            || self.facts.may_purge(&key.reader)
            || self.facts.may_delete(&key.reader)
        {
            return Ok(());
        }
        self.check_hand(&key.reader, number)?;
        self.clients.held.insert((key.reader.clone(), number), client);
        Ok(())
    }

    fn check_hand(&self, reader: &str, number: Number) -> Verdict {
        let holder = self.clients.held.get(&(reader.to_owned(), number));
        checks::open_message_is_in_one_hand(reader, number, holder.copied())
    }

    fn hear_taken(&mut self, client: usize, key: &Key, number: Number) -> Verdict {
        self.check_hand(&key.reader, number)?;
        // What went straight to who waited may be in no journal yet, or be put and taken in the same batch.
        let put = self.model.put_of(number);
        let is_handed_over =
            key.waits && put.is_none_or(|put| put.is_some() && self.model.taken_by(&key.reader, number).contains(&put));
        let what = format!("message {number} came to {}", key.text);
        checks::reply_waits_for_the_disk(&what, is_handed_over || self.is_taken(&key.reader, number))?;
        self.count(client, &key.reader, number)?;
        self.check_order(client, &key.reader, number)?;
        self.admit(queue_of(&key.reader), number)
    }

    fn count(&mut self, client: usize, reader: &str, number: Number) -> Verdict {
        let index = client % self.clients.len();
        let came = self.clients.deliver(index, reader, number);
        let copies = self.model.copies(reader, number, &self.facts);
        checks::message_has_one_plain_reader(reader, number, came, copies)?;
        // Copies may come later only where messages come from elsewhere, or groups begin anew.
        let is_last = !self.facts.may_arrive(queue_of(reader)) && queue_of(reader) == reader;
        if came == copies && is_last {
            self.clients.gone_at.insert((reader.to_owned(), number), self.now);
        }
        Ok(())
    }

    /// Where nothing comes back, each taker hears what a putter put in its order.
    fn check_order(&mut self, client: usize, reader: &str, number: Number) -> Verdict {
        let putter = self.facts.puts[&number].connection;
        let (taker, dialect) = (self.clients.get(client).connection, self.clients.get(client).dialect);
        let last = self.clients.last.insert((taker, reader.to_owned(), putter), number);
        let may_return =
            self.facts.skipped_max(reader) > 0 || self.facts.may_return(reader) || dialect == Dialect::Kestrel;
        if may_return { Ok(()) } else { checks::taker_hears_in_order(reader, last, number) }
    }
}
