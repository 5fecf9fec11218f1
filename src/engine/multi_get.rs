//! Gets of several keys: one message per key, in key order, in one reply.
//!
//! Invariant: nothing is taken that the reply has no room for; a reply is sent when all its messages are there and all their removals
//! durable.

use super::execute::{GetResult, Given};
use super::{Engine, Origin, Waiter, alive};
use crate::ids::{ConnId, QueueId};
use crate::latency::Metric;
use crate::limits::MULTI_GET_SIZE_MAX;
use crate::proto::command::Keys;
use crate::proto::reply;
use crate::session::replies::{Answer, Parts};
use crate::session::{MultiGet, Wait};

impl Engine {
    /// Takes one message per key, in key order. One whose keys are all here and in memory is answered at once. Otherwise the
    /// reply stays open and is added to, as far as room allows, each time the session is looked at; the request stays at the
    /// front of the input until all its keys were dealt with.
    pub(super) fn serve_multi_get(&mut self, conn: ConnId, keys: Keys<'_>, cas: bool) -> Result<(), Wait> {
        let size_max = MULTI_GET_SIZE_MAX.max(self.config.body_size_max);
        let mut here = Parts::new();
        let mut here_size = 0;
        let session = self.session(conn).expect("it is being served");
        let mut open = session.multi_get.take().map(|open| *open);
        let start = open.map_or(0, |m| m.keys_done);
        for (index, key) in keys.enumerate().skip(start) {
            let (size, awaited) = match open {
                Some(m) => self.session(conn).expect("it is being served").replies.progress(m.slot),
                None => (here_size, 0),
            };
            if size >= size_max {
                break;
            }
            let form = self.form(conn, cas, size);
            // What is awaited may fill the rest of the bound.
            let must_wait =
                awaited > 0 && (form.is_bounded() || size + awaited * self.config.body_size_max >= size_max);
            let room = if must_wait { Err(Wait::Replies) } else { self.room_for_key(conn, key.name) };
            if let Err(wait) = room {
                let slot = self.open_get(conn, open, &mut here);
                self.session(conn).expect("it is being served").multi_get =
                    Some(Box::new(MultiGet { slot, keys_done: index }));
                return Err(wait);
            }
            let mut answer = Answer::default();
            let elsewhere = if self.owner(key.name) != self.config.shard {
                Some(None)
            } else {
                match self.get(key.name, b"", form, &mut answer.bytes) {
                    GetResult::Hit(given) => {
                        if let Given::Taken(queue) = given {
                            answer.hits.push(queue);
                        }
                        answer.seq = self.newest();
                        None
                    }
                    GetResult::Miss => continue,
                    GetResult::NoGroup => unreachable!("the key of a multi-get names no group"),
                    GetResult::Refused(reply) => {
                        answer.failure = Some(reply);
                        None
                    }
                    GetResult::MustWait(index) => Some(Some(index)),
                }
            };
            let Some(elsewhere) = elsewhere else {
                match open {
                    Some(m) => {
                        let session = self.session(conn).expect("it is being served");
                        session.replies.add_part(m.slot, Some(answer));
                    }
                    None => {
                        here_size += answer.bytes.len();
                        here.push(Some(answer));
                    }
                }
                continue;
            };
            let slot = self.open_get(conn, open, &mut here);
            open = Some(MultiGet { slot, keys_done: 0 });
            let at = self.session(conn).expect("it is being served").replies.add_part(slot, None);
            match elsewhere {
                Some(index) => {
                    self.wait_for_load(index, Waiter::plain(Origin::Local { conn, at }, form));
                }
                None => self.forward_get(conn, self.owner(key.name), at, key.name, form),
            }
        }
        match open {
            None => self.reply_parts(conn, &here),
            Some(m) => {
                let durable = self.durable;
                let session = alive(&mut self.sessions, conn).expect("it is being served");
                let seq = session.replies.close(&mut self.timings, durable, m.slot);
                self.note_reply(conn, seq);
            }
        }
        Ok(())
    }

    /// The open reply of a multi-get, which begins with what was found so far.
    fn open_get(&mut self, conn: ConnId, open: Option<MultiGet>, here: &mut Parts) -> u64 {
        let began = Some(self.began);
        let replies = &mut self.session(conn).expect("it is being served").replies;
        open.map_or_else(|| replies.push_get(std::mem::take(here), reply::END, began), |m| m.slot)
    }

    /// Whether one more key of a multi-get can be looked at now.
    fn room_for_key(&mut self, conn: ConnId, name: &[u8]) -> Result<(), Wait> {
        self.room_to_await(conn)?;
        let owner = self.owner(name);
        if owner != self.config.shard { self.room_to_forward(conn, owner, name.len()) } else { Ok(()) }
    }

    fn reply_parts(&mut self, conn: ConnId, parts: &[Option<Answer>]) {
        let hits: Vec<QueueId> = parts.iter().flatten().flat_map(|a| a.hits.iter().copied()).collect();
        let seq = parts.iter().flatten().map(|a| a.seq).max().unwrap_or_default();
        if hits.is_empty() {
            self.began.metric = Metric::GetMiss;
        }
        let ending = parts.iter().flatten().filter_map(|a| a.failure).next_back().unwrap_or(reply::END);
        self.reply(conn, seq, &hits, |out| {
            parts.iter().flatten().for_each(|a| out.extend_from_slice(&a.bytes));
            out.extend_from_slice(ending);
        });
    }
}
