//! Compares what is left after a cut with what clients had been told by then.
//!
//! Invariant: a step counts as done at a cut only if its reply had come by then, and as not begun only if its request had not been
//! sent; one step comes before another only if its reply had come before the other was sent.

use crate::recorder::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// A message: its queue, who put it there and as which of theirs.
pub type Id = (usize, usize, usize);

/// A request and its reply.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Before the request was sent.
    pub sent: Moment,
    /// After its reply had come.
    pub done: Moment,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Which.
    pub id: Id,
    /// Its put.
    pub put: Step,
    /// The get that took it, or the confirmation of its read.
    pub taken: Option<Step>,
}

/// All that a load did.
#[derive(Default, Serialize, Deserialize)]
pub struct History {
    /// Every message that was put.
    pub lives: Vec<Life>,
    /// Every `db_checkpoint`, and the end of a stop: all before them is in the database.
    pub checkpoints: Vec<Step>,
}

/// How much a cut may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Promise {
    /// Nothing that was acknowledged.
    Durable,
    /// The newest of what was done to each queue, as one piece, and nothing that a checkpoint has reached.
    Prefix,
}

impl History {
    /// What is wrong with what is left, in the order in which it was taken from each queue.
    ///
    /// # Errors
    /// The first message that is not as it was promised.
    pub fn judge(&self, left: &[Id], cut: usize, promise: Promise) -> Result<(), String> {
        let lives: HashMap<Id, Life> = self.lives.iter().map(|life| (life.id, *life)).collect();
        let mut there = HashSet::new();
        let mut newest_sent: HashMap<usize, (u64, Id)> = HashMap::new();
        for id in left {
            let life = lives.get(id).ok_or(format!("{id:?} was never put"))?;
            if !there.insert(*id) {
                return Err(format!("{id:?} is there twice"));
            }
            if life.put.sent.operations > cut {
                return Err(format!("{id:?} is there before it was put: {life:?}, the cut is at {cut}"));
            }
            let newest = newest_sent.entry(id.0).or_insert((0, *id));
            if life.put.done.tick < newest.0 {
                return Err(format!("{id:?} stands behind {:?}, which was put later", newest.1));
            }
            *newest = (*newest).max((life.put.sent.tick, *id));
        }
        let mut kept: HashMap<usize, u64> = HashMap::new();
        for life in &self.lives {
            kept.entry(life.id.0).or_insert_with(|| self.kept_through(life.id.0, &there, cut));
        }
        for life in &self.lives {
            let is_kept = |step: Step| {
                promise == Promise::Durable && step.done.operations <= cut || step.done.tick < kept[&life.id.0]
            };
            let asked_for = life.taken.is_some_and(|taken| taken.sent.operations <= cut);
            if is_kept(life.put) && !asked_for && !there.contains(&life.id) {
                return Err(format!("{:?} is lost: {life:?}, the cut is at {cut}", life.id));
            }
            if life.taken.is_some_and(is_kept) && there.contains(&life.id) {
                return Err(format!("{:?} came back: {life:?}, the cut is at {cut}", life.id));
            }
        }
        Ok(())
    }

    /// Whatever was done to a queue by this tick is to be seen, since something that was begun later is, or a checkpoint.
    fn kept_through(&self, queue: usize, there: &HashSet<Id>, cut: usize) -> u64 {
        let of_queue = || self.lives.iter().filter(|life| life.id.0 == queue);
        let checkpoints = self.checkpoints.iter().filter(|step| step.done.operations <= cut);
        let mut kept = checkpoints.map(|step| step.sent.tick).max().unwrap_or(0);
        kept = of_queue().filter(|life| there.contains(&life.id)).map(|life| life.put.sent.tick).fold(kept, u64::max);
        loop {
            // A message whose put is kept and which is not there: its take is.
            let takes = of_queue().filter(|life| life.put.done.tick < kept && !there.contains(&life.id));
            let with_takes = takes.filter_map(|life| Some(life.taken?.sent.tick)).fold(kept, u64::max);
            if with_takes == kept {
                return kept;
            }
            kept = with_takes;
        }
    }
}

/// A message of queue 0 whose steps begin and end at these ticks, which are numbers of operations as well.
#[cfg(test)]
fn life(number: usize, put: (usize, usize), taken: Option<(usize, usize)>) -> Life {
    let moment = |at: usize| Moment { operations: at, tick: at as u64 };
    let step = |(sent, done): (usize, usize)| Step { sent: moment(sent), done: moment(done) };
    Life { id: (0, 0, number), put: step(put), taken: taken.map(step) }
}

#[test]
fn what_was_acknowledged_is_there_and_what_was_taken_is_not() {
    let history = History {
        lives: vec![life(1, (1, 2), None), life(2, (3, 4), Some((5, 6))), life(3, (7, 8), None)],
        ..History::default()
    };
    let judge = |left: &[usize], cut| {
        let left: Vec<Id> = left.iter().map(|number| (0, 0, *number)).collect();
        history.judge(&left, cut, Promise::Durable)
    };
    assert!(judge(&[], 1).is_ok() && judge(&[1], 1).is_ok());
    assert!(judge(&[], 2).unwrap_err().contains("lost"));
    assert!(judge(&[1], 4).unwrap_err().contains("lost"));
    assert!(judge(&[1, 2], 5).is_ok() && judge(&[1], 5).is_ok());
    assert!(judge(&[1, 2], 6).unwrap_err().contains("came back"));
    assert!(judge(&[1, 3], 6).unwrap_err().contains("before it was put"));
    assert!(judge(&[1, 1], 3).unwrap_err().contains("twice"));
    assert!(judge(&[3, 1], 8).unwrap_err().contains("stands behind"));
    assert!(judge(&[1, 9], 8).unwrap_err().contains("never put"));
}

#[test]
fn a_prefix_has_no_gaps_and_everything_of_a_checkpoint() {
    let mut history = History {
        lives: vec![
            life(1, (1, 2), Some((7, 8))),
            life(2, (3, 4), None),
            life(3, (5, 6), None),
            life(4, (9, 10), None),
        ],
        ..History::default()
    };
    let judge = |history: &History, left: &[usize]| {
        let left: Vec<Id> = left.iter().map(|number| (0, 0, *number)).collect();
        history.judge(&left, 20, Promise::Prefix)
    };
    for prefix in [&[][..], &[1], &[1, 2], &[1, 2, 3], &[2, 3], &[2, 3, 4]] {
        assert!(judge(&history, prefix).is_ok(), "{prefix:?}");
    }
    assert!(judge(&history, &[1, 3]).unwrap_err().contains("lost"));
    // The first was taken before the last was put, and after the third was.
    assert!(judge(&history, &[1, 2, 3, 4]).unwrap_err().contains("came back"));
    assert!(judge(&history, &[2]).unwrap_err().contains("lost"));
    history.checkpoints.push(life(0, (6, 7), None).put);
    assert!(judge(&history, &[]).unwrap_err().contains("lost"));
    assert!(judge(&history, &[1, 2]).is_ok() && judge(&history, &[1]).unwrap_err().contains("lost"));
}
