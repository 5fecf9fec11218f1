//! Looking at the server: a thread of its own, so that a server that does not answer does not keep the keys from being heard.
//!
//! Invariant: one look at a time; after a failed one the connection is made anew, and nothing from before counts for rates.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Address, Client, Error};

use super::super::answer::Answer;
use super::super::queues::{Details, TOGETHER};
use super::view::{History, Order, Sample, Settings, View, arrange, visible};

/// So many queues besides the visible ones are asked for at each look when they are sorted by the age of their oldest message.
const ASKED_BY_AGE: usize = 128;

/// Looks at one server, one time after the other.
pub(super) struct Watch {
    server: Address,
    timeout: Duration,
    client: Option<Client>,
    history: History,
    before: Option<View>,
}

impl Watch {
    pub(super) fn new(server: Address, timeout: Duration) -> Watch {
        Watch { server, timeout, client: None, history: History::default(), before: None }
    }

    /// Asks the server for everything, and for the rows that are visible with these settings in particular.
    pub(super) fn look(&mut self, settings: &Settings) -> Result<View, Error> {
        let looked = self.try_look(settings);
        match &looked {
            Ok(view) => self.before = Some(view.clone()),
            Err(_) => *self = Watch::new(self.server.clone(), self.timeout),
        }
        looked
    }

    fn try_look(&mut self, settings: &Settings) -> Result<View, Error> {
        if self.client.is_none() {
            self.client = Some(Client::connect(&self.server, self.timeout)?);
        }
        let client = self.client.as_mut().expect("just made");
        let sample = Sample {
            general: Answer(client.stats()?),
            latency: Answer(client.stats_of("latency")?),
            commit: Answer(client.stats_of("commit")?),
            queues: client.queues()?,
            at: Instant::now(),
        };
        let mut view = self.history.view(&sample, self.before.as_ref());
        let arranged = arrange(&view.rows, settings);
        let mut names: Vec<Vec<u8>> = visible(&arranged, settings).iter().map(|row| row.name.clone()).collect();
        if settings.order == Order::Oldest {
            names.extend(self.history.stalest(&view, ASKED_BY_AGE));
        }
        let mut heard = HashMap::new();
        for some in names.chunks(TOGETHER) {
            let some: Vec<&[u8]> = some.iter().map(|name| &**name).collect();
            let details = Details::ask(client, &some)?;
            heard.extend(some.iter().zip(details).filter_map(|(name, details)| Some((name.to_vec(), details?))));
        }
        self.history.add(&mut view, heard, Instant::now());
        Ok(view)
    }
}

/// Looks when it is asked to.
pub(super) struct Watcher {
    asks: Sender<Settings>,
    pub(super) looks: Receiver<Result<View, Error>>,
}

impl Watcher {
    pub(super) fn start(server: Address, timeout: Duration) -> Watcher {
        let (asks, asked) = channel::<Settings>();
        let (answers, looks) = channel();
        // It ends with the program: at worst it waits for the server then.
        thread::spawn(move || {
            let mut watch = Watch::new(server, timeout);
            while let Ok(settings) = asked.recv() {
                if answers.send(watch.look(&settings)).is_err() {
                    return;
                }
            }
        });
        Watcher { asks, looks }
    }

    pub(super) fn ask(&self, settings: &Settings) {
        self.asks.send(settings.clone()).expect("the watcher ends after its asker");
    }
}
