//! The way of a message from the source through the spool to the destination.
//!
//! Invariant: a message that has come from the source is written to the spool before the next byte of the source is read, and is
//! done there only when the destination has answered `STORED`. Nothing is taken while the spool holds a message that the destination
//! has not stored; so the order of each queue is kept.
//!
//! What can be lost is what the source has given away and not brought here whole: the gets of one batch. What can be
//! doubled is what the destination has stored without our knowing: the puts of one batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, Error, Message};

use super::super::exit::{Failure, REFUSED};
use super::super::output::shown;
use super::report::Report;
use super::spool::Spool;

/// Bodies that one batch of gets may bring, if they are no larger than those before, bytes.
const TAKEN_SIZE_MAX: usize = 8 << 20;

/// Room for them in the spool with what stands around them and the marks, bytes.
const TAKEN_ROOM: u64 = TAKEN_SIZE_MAX as u64 + (1 << 20);

/// Lines of gets sent before the first answer is read, bytes: sockets keep that many in any case, so that nobody waits for the other.
const GETS_SIZE_MAX: usize = 16 << 10;

/// Messages put before the first answer is read.
const PUTS_LEN_MAX: usize = 1000;

/// The same, bytes.
const PUTS_SIZE_MAX: usize = 1 << 20;

/// How the draining of a queue ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The source says that it is empty.
    Drained,
    /// A signal came.
    Interrupted,
}

/// What one batch of gets came to.
struct Taken {
    /// The last get found nothing.
    is_drained: bool,
    /// Why the source cannot be asked again.
    trouble: Option<Failure>,
    /// What could not be written to the spool.
    unspooled: VecDeque<Message>,
}

pub(super) struct Transfer {
    pub(super) spool: Spool,
    pub(super) report: Report,
    destination: Client,
    /// It cannot be told any more what it answers to.
    is_destination_lost: bool,
    /// As it is called in messages.
    destination_name: String,
    /// The largest body the destination takes, if it says.
    body_size_max: Option<usize>,
    batch_len_max: usize,
    /// The largest body seen, if any was.
    largest: Option<usize>,
    stop: Arc<AtomicBool>,
}

impl Transfer {
    pub(super) fn new(
        destination: Client,
        destination_name: String,
        spool: Spool,
        batch_len_max: usize,
        stop: Arc<AtomicBool>,
    ) -> Transfer {
        let report = Report::new();
        let (body_size_max, largest) = (None, None);
        let is_destination_lost = false;
        Transfer {
            spool,
            report,
            destination,
            is_destination_lost,
            destination_name,
            body_size_max,
            batch_len_max,
            largest,
            stop,
        }
    }

    /// Asks the destination what it takes, and brings it what is left in the spool.
    ///
    /// # Errors
    /// The destination's and the spool's.
    pub(super) fn prepare(&mut self) -> Result<(), Failure> {
        match self.destination.stats_of("settings") {
            Ok(settings) => {
                let setting = settings.iter().find(|setting| setting.name == b"item_size_max");
                self.body_size_max = setting.and_then(|setting| setting.value.parse().ok());
            }
            // Then it will say so when a body is too large.
            Err(Error::Refused(_)) => {}
            Err(error) => return Err(self.of_destination(error)),
        }
        self.put_spooled()
    }

    /// Moves all messages of a queue, until the source finds none or a signal comes.
    ///
    /// # Errors
    /// What keeps the import from going on. What has been taken is in the destination or in the spool.
    pub(super) fn drain(&mut self, source: &mut Client, source_name: &str, queue: &[u8]) -> Result<End, Failure> {
        self.report.begin(queue);
        while !self.stop.load(Ordering::Relaxed) {
            let mut taken = self.take(source, source_name, queue)?;
            let put = self.put_spooled().and(self.put_unspooled(queue, &mut taken.unspooled));
            match (put, taken.trouble) {
                (Ok(()), None) if taken.is_drained => return Ok(End::Drained),
                (Ok(()), None) => {}
                (Ok(()), Some(trouble)) => return Err(trouble),
                (Err(failure), None) => return Err(failure),
                (Err(failure), Some(trouble)) => {
                    self.report.warn(&trouble.text);
                    return Err(failure);
                }
            }
        }
        Ok(End::Interrupted)
    }

    /// Sends a batch of gets and brings what is answered to the spool, every message as soon as it is whole.
    fn take(&mut self, source: &mut Client, source_name: &str, queue: &[u8]) -> Result<Taken, Failure> {
        let line_size = b"get \r\n".len() + queue.len();
        // The first get tells how large bodies are.
        let fitting = self.largest.map_or(1, |largest| TAKEN_SIZE_MAX / largest.max(1));
        let len = self.batch_len_max.min(GETS_SIZE_MAX / line_size).min(fitting).max(1);
        self.spool.reserve(TAKEN_ROOM)?;
        let mut taken = Taken { is_drained: false, trouble: None, unspooled: VecDeque::new() };
        let mut answered = 0;
        let mut lost = source.send_gets(queue, len).err();
        while lost.is_none() && answered < len {
            taken.is_drained = true;
            loop {
                match source.next_message() {
                    Ok(Some(message)) => {
                        taken.is_drained = false;
                        self.largest = self.largest.max(Some(message.body.len()));
                        self.keep(queue, message, &mut taken);
                    }
                    Err(Error::Bodiless) => {
                        taken.is_drained = false;
                        self.report.skipped(queue, &Error::Bodiless.to_string());
                    }
                    Ok(None) => break,
                    Err(Error::Refused(said)) => {
                        let text = format!("{source_name} refuses to give messages of {}: {said}", shown(queue));
                        taken.trouble.get_or_insert(Failure::new(REFUSED, text));
                        break;
                    }
                    Err(error) => {
                        lost = Some(error);
                        break;
                    }
                }
            }
            answered += usize::from(lost.is_none());
        }
        if let Some(error) = lost {
            let text = format!(
                "{source_name}: {error}; {} gets of {} have no whole answer: what the source took for them is not in it any more, \
                 unless it brings it back itself",
                len - answered,
                shown(queue)
            );
            taken.trouble.get_or_insert(Failure::new(Failure::from(error).status, text));
        }
        if let Err(error) = self.spool.sync() {
            taken.trouble.get_or_insert(error.into());
        }
        Ok(taken)
    }

    /// A message that the spool does not take stays in memory, and so do all behind it: they go straight to the destination, in their order.
    fn keep(&mut self, queue: &[u8], message: Message, taken: &mut Taken) {
        if taken.unspooled.is_empty() {
            match self.spool.append(queue, message.flags, &message.body) {
                Ok(()) => return,
                Err(error) => taken.trouble.get_or_insert(error.into()),
            };
        }
        taken.unspooled.push_back(message);
    }

    /// Brings the destination everything that is in the spool.
    fn put_spooled(&mut self) -> Result<(), Failure> {
        while self.spool.pending_len() > 0 {
            let mut messages = self.spool.next(PUTS_LEN_MAX, PUTS_SIZE_MAX)?;
            if let Some(max) = self.body_size_max
                && let Some(at) = messages.iter().position(|message| message.body.len() > max)
            {
                // Not even sent: those behind it would be stored before it.
                messages.truncate(at);
                if messages.is_empty() {
                    return Err(self.too_large(max));
                }
            }
            let sent = messages.iter().map(|message| (&*message.queue, message.flags, &*message.body));
            let sent = self.destination.send_puts(sent);
            sent.map_err(|error| self.of_destination(error))?;
            let mut stored = Vec::new();
            let mut trouble = None;
            for message in &messages {
                match self.destination.put_reply() {
                    Ok(()) => {
                        stored.push(message.number);
                        self.report.moved(&message.queue, message.body.len());
                    }
                    Err(Error::Refused(said)) => {
                        let refused = || {
                            let (queue, size) = (shown(&message.queue), message.body.len());
                            let text =
                                format!("{}: a message of {size} bytes for {queue}: {said}", self.destination_name);
                            Failure::new(REFUSED, text)
                        };
                        trouble.get_or_insert_with(refused);
                    }
                    Err(error) => {
                        let failure = self.of_destination(error);
                        trouble.get_or_insert(failure);
                        break;
                    }
                }
            }
            self.spool.done(&stored)?;
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// The last resort for what has been taken and cannot be kept: it is tried also when the spool could not be marked.
    fn put_unspooled(&mut self, queue: &[u8], messages: &mut VecDeque<Message>) -> Result<(), Failure> {
        let mut failure = None;
        while failure.is_none()
            && !self.is_destination_lost
            && let Some(message) = messages.front()
        {
            match self.destination.put(queue, message.flags, &message.body) {
                Ok(()) => {
                    self.report.moved(queue, message.body.len());
                    messages.pop_front();
                }
                Err(error) => failure = Some(self.of_destination(error)),
            }
        }
        if !messages.is_empty() {
            let (len, queue) = (messages.len(), shown(queue));
            self.report.warn(&format!(
                "{len} messages of {queue} could be neither written to the spool nor stored: they are lost"
            ));
        }
        failure.map_or(Ok(()), Err)
    }

    fn too_large(&self, max: usize) -> Failure {
        let text = format!(
            "{}: the next message has more than the {max} bytes that it takes (-B); start it with a larger -B",
            self.destination_name
        );
        Failure::new(REFUSED, text)
    }

    fn of_destination(&mut self, error: Error) -> Failure {
        self.is_destination_lost |= !matches!(error, Error::Refused(_));
        Failure::from(error).of(&self.destination_name)
    }
}
