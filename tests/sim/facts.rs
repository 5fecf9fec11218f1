//! What clients have asked for and what was done to the server: whatever happens to a message must follow from it.
//!
//! Invariant: it only grows, but for what a new life of the server forgets; so it may allow too much, and never too little.

use crate::request::{Number, Request, queue_of};
use ringq::mutation::Why;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Set once, for queues of these names: what they admit in their life, and what they hold.
pub const GATE: (&str, usize) = ("gate", 12);
pub const FEW: (&str, usize) = ("few", 4);

/// A put that was asked for.
pub struct AskedPut {
    pub queue: String,
    /// Of its body, bytes.
    pub size: usize,
    /// Which connection of all that there were.
    pub connection: usize,
}

/// All of it.
#[derive(Default)]
pub struct Facts {
    pub puts: BTreeMap<Number, AskedPut>,
    /// Ids of messages that lost a bit in the store.
    pub rotten: BTreeSet<u64>,
    /// The latest that the wall clock has shown, ms.
    pub wall_ms_max: u64,
    /// Settings that were asked for, by queue.
    said: BTreeMap<String, BTreeSet<String>>,
    /// Readers and queues that were to be emptied or deleted; `*`: all.
    flushed: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Readers that were asked for a message.
    asked: BTreeSet<String>,
    /// Groups that were asked for in Kestrel's dialect.
    kestrels: BTreeSet<String>,
    /// Somebody waited for a message.
    pub has_waited: bool,
    /// Readers of which messages were opened in this life of the server.
    opened: BTreeSet<String>,
}

impl Facts {
    /// A client is about to ask this. `reader`s are those of its keys, each with whether it opens.
    pub fn note(&mut self, request: &Request, connection: usize, readers: &[(String, bool)]) {
        for (reader, opens) in readers {
            self.asked.insert(reader.clone());
            if *opens {
                self.opened.insert(reader.clone());
            }
        }
        let words = request.words();
        self.kestrels.extend(words.iter().filter(|word| word.contains('+')).map(|word| {
            let name = word.split('/').next().unwrap_or_default();
            name.replacen('+', "/group=", 1)
        }));
        self.has_waited |= words.iter().any(|word| word.contains("/t="));
        let key = words.first().copied().unwrap_or_default();
        match (request, request.verb()) {
            (Request::Put { number, size, .. }, _) => {
                let size = crate::request::body(*number, *size).len();
                self.puts.insert(*number, AskedPut { queue: queue_of(key).to_owned(), size, connection });
            }
            (_, "config") => {
                let said = self.said.entry(key.to_owned()).or_default();
                said.extend(words[1..].iter().map(|word| word.to_string()));
            }
            (_, "flush") => drop(self.flushed.insert(key.replace('+', "/group="))),
            (_, "flush_all") => drop(self.flushed.insert("*".into())),
            (_, "delete") if !key.contains("/id=") => drop(self.deleted.insert(key.replace('+', "/group="))),
            // Confirmed by its id.
            (_, "delete") => drop(self.asked.insert(key.split("/id=").next().unwrap_or_default().to_owned())),
            _ => {}
        }
    }

    /// The server begins a new life.
    pub fn begin_life(&mut self) {
        self.opened.clear();
    }

    fn has_said(&self, reader: &str, what: &str) -> bool {
        self.said.get(queue_of(reader)).is_some_and(|said| said.iter().any(|word| word.starts_with(what)))
    }

    /// Whether reads of it may end by themselves.
    pub fn may_time_out(&self, reader: &str) -> bool {
        self.has_said(reader, "visibility_timeout")
    }

    /// Whether plain readers of it may find nothing although there are messages.
    pub fn may_be_for_groups(&self, queue: &str) -> bool {
        self.has_said(queue, "groups_only")
    }

    /// Whether a message may leave a reader like this.
    pub fn may_leave(&self, reader: &str, why: Why, expires_ms: u64) -> bool {
        match why {
            Why::Got => self.asked.contains(reader),
            Why::Expired => expires_ms <= self.wall_ms_max || self.has_said(reader, "max_age"),
            Why::Discarded => self.has_said(reader, "when_full=drop_oldest") || self.has_said(reader, "max_deliveries"),
            Why::DeadLettered => self.has_said(reader, "dead_letter"),
            Why::Skipped => self.has_said(reader, "groups_only"),
        }
    }

    /// Whether all that a reader has not read may go.
    pub fn may_purge(&self, reader: &str) -> bool {
        let names = [reader, queue_of(reader), "*"];
        // Kestrel's readers begin behind the newest message.
        let begins_behind = self.kestrels.contains(reader);
        begins_behind || names.iter().any(|name| self.flushed.contains(*name)) || self.has_said(reader, "groups_only")
    }

    /// Whether a queue or group may end.
    pub fn may_delete(&self, reader: &str) -> bool {
        let is_asked = self.deleted.contains(reader) || self.deleted.contains(queue_of(reader));
        is_asked || reader.contains("/group=") && self.has_said(reader, "group_timeout")
    }

    /// Whether messages of a reader may go to this queue.
    pub fn may_move(&self, reader: &str, target: &str) -> bool {
        self.has_said(reader, &format!("expire_to={target}")) || self.has_said(reader, &format!("dead_letter={target}"))
    }

    /// Whether messages may come to a queue from others.
    pub fn may_arrive(&self, queue: &str) -> bool {
        self.said.keys().any(|from| self.may_move(from, queue))
    }

    /// How many older messages may be where nobody can take them: open in somebody's hands, or set aside for another queue.
    pub fn skipped_max(&self, reader: &str) -> usize {
        let may_be_away = self.opened.contains(reader)
            || self.has_said(reader, "expire_to")
            || self.has_said(reader, "dead_letter")
            || self.has_said(reader, "max_deliveries");
        if may_be_away { usize::MAX } else { 0 }
    }

    /// Whether what a taker did not get may come back behind what it got: to a group that begins anew, or from who waited and hung up.
    pub fn may_return(&self, reader: &str) -> bool {
        self.has_waited || reader.contains("/group=") || self.may_arrive(queue_of(reader))
    }

    /// Queues that refuse what is above their limit, and the messages each holds at most.
    pub fn limits(&self) -> [(&'static str, usize); 1] {
        [FEW]
    }
}
