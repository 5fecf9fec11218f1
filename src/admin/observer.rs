//! Asks the shards, and remembers what they said: for as long as it is fresh, everybody gets the same answer.
//!
//! Queues come page by page, so a shard does bounded work for it between two turns. Invariant: a shard has at most one unanswered
//! question of each kind, however many ask and however long it is silent.

use super::{Phase, Running, lock};
use crate::engine::QueueView;
use crate::host;
use crate::ids::ShardId;
use crate::latency;
use crate::shard::{Action, Mail, Page, Question, State};
use crate::stats::{Host, ShardStats};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// Asking may take this part of the time at most: where it takes longer than a moment, answers are good for longer.
const DUTY: u32 = 10;
/// A shard that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an action may take. It may still be done later.
const ACTION_PATIENCE: Duration = Duration::from_secs(50);

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// The shards do not run yet.
    Starting,
    /// These do not answer.
    Silent(Vec<ShardId>),
}

impl Unknown {
    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Unknown::Starting => "the server is starting".into(),
            Unknown::Silent(shards) => {
                let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                format!("no answer from shard {}", shards.join(", "))
            }
        }
    }
}

/// All shards at one moment.
pub(super) struct Seen {
    /// By shard: the newest answer.
    pub(super) shards: Vec<Rc<State>>,
    /// Shards whose answer is an old one.
    pub(super) silent: Vec<ShardId>,
    pub(super) host: Host,
    /// Wall clock, ms.
    pub(super) time_ms: u64,
    uptime_ms: u64,
    pub(super) running: Arc<Running>,
}

impl Seen {
    /// When the process started, wall clock, ms: the same in every answer unless the clock is set.
    pub(super) fn started_ms(&self) -> u64 {
        self.time_ms.saturating_sub(self.uptime_ms)
    }

    /// The sums of what shards count and hold.
    pub(super) fn totals(&self) -> ShardStats {
        let mut totals = ShardStats::default();
        self.shards.iter().for_each(|state| totals.merge(&state.stats));
        totals
    }
}

/// The queues of all shards.
pub(super) type Queues = Vec<(ShardId, QueueView)>;

/// The questions of one kind that are not answered, by shard.
struct Asked<A>(Vec<Option<oneshot::Receiver<A>>>);

impl<A> Asked<A> {
    /// What a shard says until the deadline; an earlier question that is still open is not asked again. `None`: nothing.
    async fn answer(
        &mut self,
        running: &Running,
        shard: usize,
        deadline: Instant,
        question: impl FnOnce(oneshot::Sender<A>) -> Question,
    ) -> Option<A> {
        self.ask(running, shard, question);
        let receiver = self.0[shard].as_mut().expect("just asked");
        let answer = timeout_at(deadline, receiver).await.ok()?;
        self.0[shard] = None;
        answer.ok()
    }

    fn ask(&mut self, running: &Running, shard: usize, question: impl FnOnce(oneshot::Sender<A>) -> Question) {
        self.0.resize_with(running.shared.mailboxes.len(), || None);
        self.0[shard].get_or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            running.shared.mailboxes[shard].send(Mail::Ask(question(sender)));
            receiver
        });
    }
}

/// Something that is asked for again only when it is not fresh any more.
struct Fresh<T> {
    value: Option<Rc<T>>,
    until: Instant,
}

impl<T> Fresh<T> {
    fn new() -> Fresh<T> {
        Fresh { value: None, until: Instant::now() }
    }

    fn value(&self) -> Option<Rc<T>> {
        self.value.clone().filter(|_| Instant::now() < self.until)
    }

    fn set(&mut self, value: T, asked: Instant) -> Rc<T> {
        let value = Rc::new(value);
        self.until = Instant::now() + FRESH.max(asked.elapsed() * DUTY);
        self.value = Some(value.clone());
        value
    }
}

struct States {
    asked: Asked<Box<State>>,
    /// By shard: the newest answer.
    last: Vec<Option<Rc<State>>>,
    seen: Fresh<Seen>,
}

struct Latencies {
    asked: Asked<Vec<u8>>,
    sum: Fresh<latency::Snapshot>,
}

struct Listing {
    asked: Asked<Page>,
    queues: Fresh<Queues>,
}

/// Asks and remembers. Whoever comes while it asks waits for the same answer.
pub(super) struct Observer {
    link: Arc<super::Link>,
    states: Mutex<States>,
    latencies: Mutex<Latencies>,
    listing: Mutex<Listing>,
}

impl Observer {
    pub(super) fn new(link: Arc<super::Link>) -> Observer {
        Observer {
            link,
            states: Mutex::new(States { asked: Asked(Vec::new()), last: Vec::new(), seen: Fresh::new() }),
            latencies: Mutex::new(Latencies { asked: Asked(Vec::new()), sum: Fresh::new() }),
            listing: Mutex::new(Listing { asked: Asked(Vec::new()), queues: Fresh::new() }),
        }
    }

    /// How far the server is.
    pub(super) fn phase(&self) -> Phase {
        lock(&self.link.phase).clone()
    }

    fn running(&self) -> Result<Arc<Running>, Unknown> {
        match self.phase() {
            Phase::Starting => Err(Unknown::Starting),
            Phase::Running(running) | Phase::Stopping(running) => Ok(running),
        }
    }

    /// All shards; of those that are silent what they said last.
    ///
    /// # Errors
    /// When a shard has never answered.
    pub(super) async fn last_seen(&self) -> Result<Rc<Seen>, Unknown> {
        let running = self.running()?;
        let mut guard = self.states.lock().await;
        let States { asked, last, seen } = &mut *guard;
        if let Some(seen) = seen.value() {
            return Ok(seen);
        }
        let (now, shards) = (Instant::now(), running.shared.mailboxes.len());
        last.resize(shards, None);
        let mut silent = Vec::new();
        for shard in 0..shards {
            asked.ask(&running, shard, Question::State);
        }
        for (shard, id) in (0..shards).zip((0..).map(ShardId)) {
            match asked.answer(&running, shard, now + PATIENCE, Question::State).await {
                Some(state) => last[shard] = Some(Rc::from(state)),
                None => silent.push(id),
            }
        }
        let Some(shards) = last.iter().cloned().collect() else {
            return Err(Unknown::Silent(silent));
        };
        let start = running.shared.start;
        let clock = host::now(start);
        let host = host::facts(start, running.shared.udp.read());
        Ok(seen.set(Seen { shards, silent, host, time_ms: clock.wall_ms, uptime_ms: clock.mono_ms, running }, now))
    }

    /// All shards as they are now.
    ///
    /// # Errors
    /// When a shard is silent.
    pub(super) async fn seen(&self) -> Result<Rc<Seen>, Unknown> {
        let seen = self.last_seen().await?;
        if seen.silent.is_empty() { Ok(seen) } else { Err(Unknown::Silent(seen.silent.clone())) }
    }

    /// The latencies of all shards; a shard that is silent is left out.
    pub(super) async fn latencies(&self) -> Result<Rc<latency::Snapshot>, Unknown> {
        let running = self.running()?;
        let mut guard = self.latencies.lock().await;
        let Latencies { asked, sum } = &mut *guard;
        if let Some(sum) = sum.value() {
            return Ok(sum);
        }
        let (now, shards) = (Instant::now(), running.shared.mailboxes.len());
        for shard in 0..shards {
            asked.ask(&running, shard, Question::Latencies);
        }
        let mut snapshot = latency::Snapshot::default();
        for (shard, id) in (0..shards).zip((0..).map(ShardId)) {
            match asked.answer(&running, shard, now + PATIENCE, Question::Latencies).await {
                Some(encoded) => snapshot.add(&encoded),
                None => return Err(Unknown::Silent(vec![id])),
            }
        }
        Ok(sum.set(snapshot, now))
    }

    /// The queues of all shards.
    ///
    /// # Errors
    /// When a shard is silent.
    pub(super) async fn queues(&self) -> Result<Rc<Queues>, Unknown> {
        let running = self.running()?;
        let mut guard = self.listing.lock().await;
        let Listing { asked, queues } = &mut *guard;
        if let Some(queues) = queues.value() {
            return Ok(queues);
        }
        let now = Instant::now();
        let mut all = Vec::new();
        for (shard, id) in (0..running.shared.mailboxes.len()).zip((0..).map(ShardId)) {
            let mut cursor = 0;
            loop {
                let deadline = Instant::now() + PATIENCE;
                let question = |answer| Question::Queues(cursor, answer);
                let Some(page) = asked.answer(&running, shard, deadline, question).await else {
                    return Err(Unknown::Silent(vec![id]));
                };
                // It may be the answer to a question that was given up.
                if page.cursor != cursor {
                    continue;
                }
                all.extend(page.queues.into_iter().map(|queue| (id, queue)));
                cursor = page.next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(queues.set(all, now))
    }

    /// Has it done by whichever shard it concerns. Returns whether there was anything to do it to.
    ///
    /// # Errors
    /// When a shard does not answer in time; it may still be done.
    pub(super) async fn act(&self, action: Action) -> Result<bool, Unknown> {
        let running = self.running()?;
        let mut answers = Vec::new();
        for mailbox in &running.shared.mailboxes {
            let (sender, receiver) = oneshot::channel();
            mailbox.send(Mail::Ask(Question::Act(action, sender)));
            answers.push(receiver);
        }
        let deadline = Instant::now() + ACTION_PATIENCE;
        let mut found = false;
        let mut silent = Vec::new();
        for (answer, shard) in answers.into_iter().zip((0..).map(ShardId)) {
            match timeout_at(deadline, answer).await {
                Ok(Ok(done)) => found |= done,
                _ => silent.push(shard),
            }
        }
        // Whoever asks next is to see what was done.
        self.states.lock().await.seen.value = None;
        self.listing.lock().await.queues.value = None;
        if silent.is_empty() { Ok(found) } else { Err(Unknown::Silent(silent)) }
    }
}
