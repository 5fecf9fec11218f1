//! Whether a queue takes a put: its limits, and which messages make room when it is full.
//!
//! What counts is what a queue holds: messages that are ready, and those in open reads. Only ready ones can make room, the oldest
//! first, for every reader of the queue. A head that is only in the store is loaded first; until it is here the queue may hold a little more
//! than its bound ([`OVERFLOW_LEN_MAX`], [`OVERFLOW_SIZE_MAX`]).
//!
//! Invariant: a put that is refused has dropped nothing to make room that did not have to go anyway, and has changed nothing else.
//!
//! Does not know how a put is stored: that is [`super::execute`].

use super::{Engine, Shelf};
use crate::ids::MessageId;
use crate::limits::{OVERFLOW_LEN_MAX, OVERFLOW_SIZE_MAX};
use crate::mutation::Why;
use crate::queue::{Entry, Head};
use std::collections::BTreeMap;

/// Messages, and the bytes of their bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Amount {
    len: u64,
    size: u64,
}

impl Amount {
    fn plus(self, other: Amount) -> Amount {
        Amount { len: self.len + other.len, size: self.size.saturating_add(other.size) }
    }

    /// Whether it is within a bound, in which 0 is none.
    fn fits(self, bound: Amount) -> bool {
        (bound.len == 0 || self.len <= bound.len) && (bound.size == 0 || self.size <= bound.size)
    }
}

/// What is first among the heads of a queue's readers.
enum Oldest {
    Ready(u32, Entry),
    /// It may be one that is only in the store: that of this reader.
    Stored(u32),
    Nothing,
}

impl Engine {
    /// The queue for a put of so many bytes; it is created if need be. `None`: the put is refused.
    pub(super) fn admit(&mut self, name: &[u8], size: usize) -> Option<u32> {
        let Some(index) = self.find(name) else {
            if self.by_id.len() >= self.config.tunables.queues_max {
                return None;
            }
            if let Some(settings) = self.settings_of(name)
                && !settings.takes_size(size)
            {
                self.stats.refused_puts += 1;
                return None;
            }
            return Some(self.create(name));
        };
        if self.shelf(index).settings.is_some() && !self.has_place_for(index, size) {
            self.stats.refused_puts += 1;
            self.shelf(index).refused += 1;
            return None;
        }
        Some(index)
    }

    fn has_place_for(&mut self, index: u32, size: usize) -> bool {
        let shelf = self.shelf(index);
        let settings = shelf.settings.as_ref().expect("the caller saw them");
        let (admissions, drops) = (settings.max_admissions, settings.drop_oldest);
        if !settings.takes_size(size) || admissions > 0 && shelf.queue.counters.puts >= admissions {
            return false;
        }
        let bound = shelf.bound();
        let one = Amount { len: 1, size: size as u64 };
        if self.held(index).plus(one).fits(bound) {
            return true;
        }
        self.settle_heads(index);
        self.held(index).plus(one).fits(bound) || drops && self.make_room(index, bound, one)
    }

    /// Drops the oldest ready messages of a queue, for all its readers, until this much more is within its bound. Whether it is, or will be
    /// when what is only in the store has come, or is at least no more than before.
    fn make_room(&mut self, index: u32, bound: Amount, more: Amount) -> bool {
        if !self.held_open(index).plus(more).fits(bound) {
            return false;
        }
        let before = self.held(index);
        let mut dropped = 0;
        loop {
            let after = self.held(index).plus(more);
            if after.fits(bound) {
                return true;
            }
            if self.has_dropped_enough(dropped) {
                return after.len <= before.len && after.size <= before.size;
            }
            match self.oldest_head(index) {
                Oldest::Ready(reader, entry) => {
                    self.drop_head(reader, entry, Why::Discarded);
                    self.load_ahead(reader);
                    dropped += 1;
                }
                Oldest::Stored(reader) => {
                    // Each reader loads for itself, and all must have room at once.
                    self.load(reader, self.load_size() / self.readers_of(index).len());
                    let overflow = |bound: u64, more: u64| if bound == 0 { 0 } else { bound.saturating_add(more) };
                    let (len, size) = (overflow(bound.len, OVERFLOW_LEN_MAX), overflow(bound.size, OVERFLOW_SIZE_MAX));
                    return after.fits(Amount { len, size });
                }
                // What is open for one reader is not gone when another drops it.
                Oldest::Nothing => return false,
            }
        }
    }

    /// Drops the oldest messages of a queue that holds more than it may, because its bound was lowered or a load has come. `false`: it still
    /// holds more.
    pub(super) fn trim(&mut self, index: u32) -> bool {
        let of = self.shelf(index).of.unwrap_or(index);
        let shelf = self.shelf(of);
        if !shelf.settings.as_ref().is_some_and(|settings| settings.drop_oldest) {
            return true;
        }
        let bound = shelf.bound();
        self.held(of).fits(bound) || self.make_room(of, bound, Amount::default()) && self.held(of).fits(bound)
    }

    /// What a queue holds.
    fn held(&self, index: u32) -> Amount {
        let shelf = self.shelves[index as usize].as_ref().expect("the caller found it");
        match &shelf.fan {
            None => Amount { len: shelf.queue.counters.present(), size: shelf.queue.bytes() },
            Some(fan) => Amount { len: fan.stored, size: fan.bytes },
        }
    }

    /// What of it is open for some reader. Takes time in the number of these.
    fn held_open(&self, index: u32) -> Amount {
        let mut open = BTreeMap::new();
        for reader in self.readers_of(index) {
            let shelf = self.shelves[reader as usize].as_ref().expect("a listed group is there");
            open.extend(shelf.queue.opens().map(|(message, it)| (message, it.size)));
        }
        Amount { len: open.len() as u64, size: open.into_values().sum() }
    }

    /// What a queue knows of a head that is only in the store stays when it leaves memory again. So with little memory, too, there is an end to
    /// loading one reader's head after another's.
    fn oldest_head(&self, index: u32) -> Oldest {
        let mut oldest: Option<(MessageId, Oldest)> = None;
        for reader in self.readers_of(index) {
            let queue = &self.shelves[reader as usize].as_ref().expect("a listed group is there").queue;
            let (message, head) = match queue.head() {
                Head::Empty => continue,
                Head::Ready(entry) => (entry.message, Oldest::Ready(reader, entry)),
                Head::Stored => (queue.head_from(), Oldest::Stored(reader)),
            };
            let is_older = match &oldest {
                None => true,
                Some((before, Oldest::Stored(_))) if matches!(head, Oldest::Ready(..)) => message <= *before,
                Some((before, _)) => message < *before,
            };
            if is_older {
                oldest = Some((message, head));
            }
        }
        oldest.map_or(Oldest::Nothing, |(_, head)| head)
    }
}

impl Shelf {
    /// What its queue may hold; 0: any amount.
    fn bound(&self) -> Amount {
        let settings = self.settings.as_ref();
        settings.map_or(Amount::default(), |it| Amount { len: it.max_messages, size: it.max_bytes })
    }
}
