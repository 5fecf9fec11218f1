//! The few connections that the admin listener has, and who makes room for another.
//!
//! Invariant: there are never more than [`ADMIN_CONNECTIONS_MAX`]; one whose request is being answered is not cut off for another, nor one whose
//! client has had no time. So who does not finish a request, or does not read its answer, or is idle, keeps a place only as long as
//! nobody else wants it.

use crate::limits::ADMIN_CONNECTIONS_MAX;
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// How long a client may take for what is its turn to do, even when all places are taken. What crowds of honest clients send is there by then.
const QUIET_MIN: Duration = Duration::from_millis(250);

/// All places. For one thread.
#[derive(Default)]
pub(super) struct Places {
    taken: RefCell<Vec<Place>>,
    /// A place has become free, or its connection may make room later.
    changed: Notify,
    next: Cell<u64>,
}

struct Place {
    number: u64,
    /// Since when its client is waited for; `None`: it is the client that waits.
    quiet_since: Option<Instant>,
    task: Option<AbortHandle>,
}

impl Places {
    /// Takes a place for a connection, at the cost of the one whose client has been waited for longest if there is no other. Waits while every
    /// client waits for its answer. Returns the place's number.
    pub(super) async fn take(&self) -> u64 {
        while let Err(next) = self.make_room(Instant::now()) {
            match next {
                Some(at) => drop(timeout_at(at, self.changed.notified()).await),
                None => self.changed.notified().await,
            }
        }
        let number = self.next.get();
        self.next.set(number + 1);
        self.taken.borrow_mut().push(Place { number, quiet_since: Some(Instant::now()), task: None });
        number
    }

    /// `Err`: when there will be room, as far as that is known.
    fn make_room(&self, now: Instant) -> Result<(), Option<Instant>> {
        let mut taken = self.taken.borrow_mut();
        if taken.len() < ADMIN_CONNECTIONS_MAX {
            return Ok(());
        }
        let quiet = taken.iter().enumerate().filter_map(|(at, place)| Some((place.quiet_since?, at)));
        let (since, at) = quiet.min().ok_or(None)?;
        if now < since + QUIET_MIN {
            return Err(Some(since + QUIET_MIN));
        }
        if let Some(task) = taken.swap_remove(at).task {
            task.abort();
        }
        Ok(())
    }

    /// This task serves the connection of a place. It ends when somebody else gets the place.
    pub(super) fn serve(&self, number: u64, task: AbortHandle) {
        self.with(number, |place| place.task = Some(task));
    }

    /// A request is being answered.
    pub(super) fn begin_answer(&self, number: u64) {
        self.with(number, |place| place.quiet_since = None);
    }

    /// The answer is there; the client is to read it, and may ask again.
    pub(super) fn end_answer(&self, number: u64) {
        self.with(number, |place| place.quiet_since = Some(Instant::now()));
        self.changed.notify_one();
    }

    /// The connection has ended.
    pub(super) fn leave(&self, number: u64) {
        self.taken.borrow_mut().retain(|place| place.number != number);
        self.changed.notify_one();
    }

    fn with(&self, number: u64, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.taken.borrow_mut().iter_mut().find(|place| place.number == number) {
            change(place);
        }
    }
}
