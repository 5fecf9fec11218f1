//! Settings of queues: `config`, and what follows from it for the queues that are there.
//!
//! They belong to a name: they can be there before its queue is, and stay when that is deleted. What clients said of a name goes before what
//! the operator says of all ([`crate::queue::Defaults`]).
//!
//! Invariant: a shelf has the settings that follow from both for its queue, those of a group from its queue's; what is said of a name
//! is in the batch that is being made, or in an earlier one.

use super::Engine;
use super::wire::Request;
use crate::ids::{ConnId, Seq};
use crate::mutation::Mutation;
use crate::proto::command::Words;
use crate::proto::options::queue_of;
use crate::proto::reply::{self, SETTINGS_REPLY_SIZE_MAX};
use crate::queue::settings::Invalid;
use crate::queue::{Explicit, Settings};
use crate::session::Wait;
use hashbrown::HashMap;

/// What was said of names.
pub(super) type Said = HashMap<Box<[u8]>, Explicit>;

impl Engine {
    // --- requests of clients of this shard ---

    /// `config q key=value`
    pub(super) fn serve_configure(
        &mut self,
        conn: ConnId,
        name: &[u8],
        words: Words<'_>,
        noreply: bool,
    ) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        // Refused here, whatever shard has the queue: only this one knows how to say why.
        if let Err(invalid) = change(&mut Explicit::default(), name, words) {
            self.reply_if_it_fits(conn, |out| reply::client_error(out, invalid));
            return Ok(());
        }
        let owner = self.owner(name);
        if owner != self.config.shard {
            let size = name.len() + words.text.len();
            return self.ask_owner(conn, owner, &Request::Configure { name, words }, size, noreply);
        }
        let (text, seq) = self.configure(name, words);
        if !noreply {
            self.say(conn, seq, text);
        }
        Ok(())
    }

    /// `config q`
    pub(super) fn serve_show_settings(&mut self, conn: ConnId, name: &[u8]) -> Result<(), Wait> {
        self.wait_for_own_replies(conn)?;
        if self.reply_room(conn, 0) < SETTINGS_REPLY_SIZE_MAX {
            self.say(conn, Seq(0), reply::REPLY_TOO_LARGE);
            return Ok(());
        }
        let owner = self.owner(name);
        if owner != self.config.shard {
            self.room_to_forward(conn, owner, name.len())?;
            let what = self.expected(conn, false, reply::END);
            self.forward(owner, &Request::ShowSettings { name }, what);
            return Ok(());
        }
        let mut lines = Vec::new();
        self.show_settings(name, &mut lines);
        self.reply(conn, Seq(0), &[], |out| {
            out.extend_from_slice(&lines);
            out.extend_from_slice(reply::END);
        });
        Ok(())
    }

    // --- names of this shard ---

    /// Changes what is said of a name, as these words say, which were found to be valid. Returns what to answer, and what that waits for.
    pub(super) fn configure(&mut self, name: &[u8], words: Words<'_>) -> (&'static [u8], Seq) {
        let before = self.said.get(name);
        let mut explicit = before.cloned().unwrap_or_default();
        change(&mut explicit, name, words).expect("they were found to be valid where they came from");
        if Some(&explicit) == before || before.is_none() && explicit.is_empty() {
            return (reply::OK, self.newest());
        }
        if before.is_none() && self.said.len() >= self.config.tunables.queues_max {
            return (reply::TOO_MANY_SETTINGS, Seq(0));
        }
        if let Some(index) = self.find(name) {
            // What was handed over before was put before.
            let queue = self.shelf(index).queue.id;
            self.journal_passing_of(queue);
        }
        self.record(&Mutation::Configure { name, settings: &explicit.encode() });
        if explicit.is_empty() {
            self.said.remove(name);
        } else {
            self.said.insert(name.into(), explicit);
        }
        if let Some(index) = self.find(name) {
            for reader in self.readers_of(index) {
                self.settle_settings(reader);
            }
            self.settle_groups(index);
        }
        (reply::OK, self.current())
    }

    /// Writes the lines of what a queue of this name does, without `END`.
    pub(super) fn show_settings(&self, name: &[u8], out: &mut Vec<u8>) {
        self.effective(name).shown().for_each(|(key, value)| reply::stat_text(out, key, &value));
    }

    /// What a queue of this name does.
    fn effective(&self, name: &[u8]) -> Settings {
        let mut settings = self.config.tunables.queue_defaults.of(name);
        if let Some(explicit) = self.said.get(name) {
            explicit.apply(&mut settings);
        }
        settings.of(name)
    }

    /// The settings of a shelf of this name. `None`: a queue that does nothing besides keeping messages.
    pub(super) fn settings_of(&self, name: &[u8]) -> Option<Box<Settings>> {
        if self.said.is_empty() && self.config.tunables.queue_defaults.is_empty() {
            return None;
        }
        let settings = self.effective(queue_of(name));
        (settings != Settings::default()).then(|| Box::new(settings))
    }

    /// Returns whether what they say of groups has changed.
    fn settle_settings(&mut self, index: u32) -> bool {
        let shelf = self.shelf(index);
        let (name, before) = (shelf.queue.name.clone(), shelf.group_rule());
        let settings = self.settings_of(&name);
        let shelf = self.shelf(index);
        shelf.settings = settings;
        let is_empty = shelf.queue.counters.present() == 0;
        shelf.may_expire = shelf.bounds_stay() || shelf.may_expire && !is_empty;
        let is_other_rule = shelf.group_rule() != before;
        if !is_empty {
            self.enlist(index);
        }
        is_other_rule
    }

    /// What the operator says of all queues has changed.
    pub(super) fn settle_all_settings(&mut self) {
        for index in 0..self.shelves.len() {
            if self.shelves[index].is_some() && self.settle_settings(index as u32) {
                self.settle_groups_later(index as u32);
            }
        }
    }
}

fn change(explicit: &mut Explicit, name: &[u8], words: Words<'_>) -> Result<(), Invalid> {
    words.into_iter().try_for_each(|word| explicit.set(name, word))
}
