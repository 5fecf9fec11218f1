//! What must hold, each rule a sentence and a function of its own. They look at plain values, so each can be seen to fail (below).
//!
//! Invariant: a rule decides by its arguments alone; what these have to be is the business of who calls it.

use std::fmt;

/// A rule that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The name of the rule.
    pub rule: &'static str,
    /// What was found instead.
    pub what: String,
}

pub type Verdict = Result<(), Broken>;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

fn rule(name: &'static str, holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Broken { rule: name, what: what() }) }
}

// --- what clients are told ---

/// `STORED` and everything that shows a message leaves when the journal has what it tells of, or a consumer has the message.
pub fn reply_waits_for_the_disk(what: &str, is_durable: bool) -> Verdict {
    rule("reply_waits_for_the_disk", is_durable, || format!("{what}, and the journal does not have it"))
}

/// Each reply is one that its request can have, whole, with the bytes that were put; so nothing comes for another request.
pub fn replies_are_in_request_order(read: Result<(), String>) -> Verdict {
    rule("replies_are_in_request_order", read.is_ok(), || read.err().unwrap_or_default())
}

/// In the end each request that reached the server has its reply.
pub fn every_request_is_answered(unanswered: &[String]) -> Verdict {
    rule("every_request_is_answered", unanswered.is_empty(), || format!("no reply to {unanswered:?}"))
}

/// The server closes no connection of a client that behaves.
pub fn connection_stays_open(client: usize, is_ended: bool) -> Verdict {
    rule("connection_stays_open", !is_ended, || format!("the server closed the connection of client {client}"))
}

/// A message that is not shared comes to one reader, once; to each reader as often as it was put for it.
pub fn message_has_one_plain_reader(reader: &str, number: u64, came: u64, copies: u64) -> Verdict {
    let what = || format!("message {number} came {came} times to {reader}, and was put {copies} times for it");
    rule("message_has_one_plain_reader", came <= copies, what)
}

/// What is open in the hands of one client comes to no other.
pub fn open_message_is_in_one_hand(reader: &str, number: u64, holder: Option<usize>) -> Verdict {
    let what = || format!("message {number} of {reader} came while client {holder:?} had it open");
    rule("open_message_is_in_one_hand", holder.is_none(), what)
}

/// What was taken or confirmed is not in the answer to a request made after that.
pub fn confirmed_message_never_returns(reader: &str, number: u64, gone_at: Option<usize>, asked_at: usize) -> Verdict {
    let what = || format!("message {number} of {reader} was gone for good before the request that got it");
    rule("confirmed_message_never_returns", gone_at.is_none_or(|gone| gone > asked_at), what)
}

/// A message whose time is over when a request is made is not in its answer. `wall_ms_min`: of the time since then.
pub fn expired_message_is_never_served(number: u64, expires_ms: u64, wall_ms_min: u64) -> Verdict {
    let what = || format!("message {number} expired at {expires_ms} ms and was served after {wall_ms_min} ms");
    rule("expired_message_is_never_served", expires_ms > wall_ms_min, what)
}

/// What one connection takes of what another put comes in the order in which that was put.
pub fn taker_hears_in_order(reader: &str, last: Option<u64>, number: u64) -> Verdict {
    let what = || format!("{reader}: message {number} after {last:?} of the same putter");
    rule("taker_hears_in_order", last.is_none_or(|last| last < number), what)
}

/// A queue that takes N messages in its life tells no more than N that they are in.
pub fn a_gate_never_admits_one_more(queue: &str, admitted: usize, admissions_max: usize) -> Verdict {
    let what = || format!("{queue} admitted {admitted}, and may admit {admissions_max}");
    rule("a_gate_never_admits_one_more", admitted <= admissions_max, what)
}

// --- what journals say ---

/// A message is put by a request for it, into the queue of that request, once, with its body; or comes from a queue that sent it.
pub fn message_is_put_as_it_was_asked(what: &str, is_right: bool) -> Verdict {
    rule("message_is_put_as_it_was_asked", is_right, || what.to_owned())
}

/// What one connection puts into a queue has the order in which it was asked for.
pub fn puts_of_a_connection_keep_their_order(
    queue: &str,
    before: Option<u64>,
    number: u64,
    after: Option<u64>,
) -> Verdict {
    let holds = before.is_none_or(|before| before < number) && after.is_none_or(|after| number < after);
    let what = || format!("{queue}: message {number} is between {before:?} and {after:?}");
    rule("puts_of_a_connection_keep_their_order", holds, what)
}

/// What is taken is the oldest that is there. `skipped` older ones are where nobody can take them, which is possible for so many.
pub fn queue_is_fifo(reader: &str, number: u64, skipped: usize, skipped_max: usize) -> Verdict {
    let what = || format!("{reader}: message {number} was taken before {skipped} older ones");
    rule("queue_is_fifo", skipped <= skipped_max, what)
}

/// A message leaves for what somebody asked or said, and what leaves is there.
pub fn message_leaves_only_for_a_reason(what: &str, has_reason: bool) -> Verdict {
    rule("message_leaves_only_for_a_reason", has_reason, || what.to_owned())
}

/// After every batch a message that is in no queue with groups is in one queue, or in none.
pub fn a_moved_message_is_in_one_queue(number: u64, queues: &[String]) -> Verdict {
    rule("a_moved_message_is_in_one_queue", queues.len() <= 1, || format!("message {number} is in {queues:?}"))
}

/// For each reader `puts` is the sum of where messages went and are.
pub fn counters_balance(reader: &str, counted: &[(&str, u64)], expected: &[(&str, u64)]) -> Verdict {
    rule("counters_balance", counted == expected, || format!("{reader}: {counted:?}, and not {expected:?}"))
}

/// A queue that refuses what is above its limits holds no more than these say.
pub fn queue_keeps_its_limits(queue: &str, held: usize, messages_max: usize) -> Verdict {
    let what = || format!("{queue} holds {held} messages, and may hold {messages_max}");
    rule("queue_keeps_its_limits", held <= messages_max, what)
}

// --- a start, and rest ---

/// A start finds what was acknowledged: nothing that a reply told of is lost with the power.
pub fn stored_message_survives_crash(shard: usize, acknowledged: u64, survived: u64) -> Verdict {
    let what = || format!("shard {shard}: replies told of batch {acknowledged}, the start has up to {survived}");
    rule("stored_message_survives_crash", survived >= acknowledged, what)
}

/// What the store has is what the journals' records make of the store before them: the same messages, readers, counters, settings.
pub fn the_store_is_what_the_journals_say(difference: Option<String>) -> Verdict {
    rule("the_store_is_what_the_journals_say", difference.is_none(), || difference.unwrap_or_default())
}

/// A damaged journal is refused, or read as far as it is right.
pub fn damaged_journal_is_refused_or_right(shard: usize, read: usize, first_wrong: Option<usize>) -> Verdict {
    let what = || format!("shard {shard}: of {read} records, number {first_wrong:?} is none that was written");
    rule("damaged_journal_is_refused_or_right", first_wrong.is_none(), what)
}

/// When the server rests, nobody waits for a message that is ready.
pub fn nobody_waits_while_ready(reader: &str, waiters: usize, ready: u64) -> Verdict {
    let what = || format!("{waiters} wait for {reader}, where {ready} are ready");
    rule("nobody_waits_while_ready", waiters == 0 || ready == 0, what)
}

/// When the server rests, who took a message has it; only a client that is gone may have taken what nobody has.
pub fn taken_message_reaches_its_taker(reader: &str, lost: &[u64], unheard: u64) -> Verdict {
    let what = || format!("{reader}: {lost:?} were taken, and came to nobody, {unheard} takers are gone");
    rule("taken_message_reaches_its_taker", lost.len() as u64 <= unheard, what)
}

/// In the end all that is there comes out.
pub fn every_message_comes_out(reader: &str, ready: u64) -> Verdict {
    rule("every_message_comes_out", ready == 0, || format!("{reader} still has {ready} that nobody can take"))
}

/// What the store has not confirmed, and what is sent at once, stay within what was configured.
pub fn memory_stays_in_its_bound(what: &str, size: usize, size_max: usize) -> Verdict {
    rule("memory_stays_in_its_bound", size <= size_max, || format!("{what}: {size} bytes, and {size_max} are allowed"))
}

/// No assertion of the server fails.
pub fn server_keeps_its_own_invariants(panic: Option<String>) -> Verdict {
    rule("server_keeps_its_own_invariants", panic.is_none(), || panic.unwrap_or_default())
}

/// A rule that cannot fail would be none.
#[test]
fn every_rule_can_be_broken_and_kept() {
    let of = |text: &str| text.to_owned();
    let pairs = [
        (reply_waits_for_the_disk("", false), reply_waits_for_the_disk("", true)),
        (replies_are_in_request_order(Err(of("x"))), replies_are_in_request_order(Ok(()))),
        (every_request_is_answered(&[of("get q")]), every_request_is_answered(&[])),
        (connection_stays_open(1, true), connection_stays_open(1, false)),
        (message_has_one_plain_reader("q", 1, 2, 1), message_has_one_plain_reader("q", 1, 1, 1)),
        (open_message_is_in_one_hand("q", 1, Some(2)), open_message_is_in_one_hand("q", 1, None)),
        (confirmed_message_never_returns("q", 1, Some(4), 5), confirmed_message_never_returns("q", 1, Some(5), 4)),
        (expired_message_is_never_served(1, 100, 100), expired_message_is_never_served(1, 101, 100)),
        (taker_hears_in_order("q", Some(2), 1), taker_hears_in_order("q", Some(1), 2)),
        (a_gate_never_admits_one_more("q", 3, 2), a_gate_never_admits_one_more("q", 2, 2)),
        (message_is_put_as_it_was_asked("", false), message_is_put_as_it_was_asked("", true)),
        (
            puts_of_a_connection_keep_their_order("q", Some(3), 2, None),
            puts_of_a_connection_keep_their_order("q", Some(1), 2, Some(3)),
        ),
        (queue_is_fifo("q", 1, 1, 0), queue_is_fifo("q", 1, 0, 0)),
        (message_leaves_only_for_a_reason("", false), message_leaves_only_for_a_reason("", true)),
        (a_moved_message_is_in_one_queue(1, &[of("a"), of("b")]), a_moved_message_is_in_one_queue(1, &[of("b")])),
        (counters_balance("q", &[("puts", 1)], &[("puts", 2)]), counters_balance("q", &[("puts", 1)], &[("puts", 1)])),
        (queue_keeps_its_limits("q", 4, 3), queue_keeps_its_limits("q", 3, 3)),
        (stored_message_survives_crash(0, 2, 1), stored_message_survives_crash(0, 2, 2)),
        (the_store_is_what_the_journals_say(Some(of("x"))), the_store_is_what_the_journals_say(None)),
        (damaged_journal_is_refused_or_right(0, 2, Some(1)), damaged_journal_is_refused_or_right(0, 2, None)),
        (nobody_waits_while_ready("q", 1, 1), nobody_waits_while_ready("q", 1, 0)),
        (taken_message_reaches_its_taker("q", &[1], 0), taken_message_reaches_its_taker("q", &[1], 1)),
        (every_message_comes_out("q", 1), every_message_comes_out("q", 0)),
        (memory_stays_in_its_bound("", 2, 1), memory_stays_in_its_bound("", 1, 1)),
        (server_keeps_its_own_invariants(Some(of("x"))), server_keeps_its_own_invariants(None)),
    ];
    for (broken, kept) in pairs {
        assert!(broken.is_err() && kept.is_ok(), "{broken:?} {kept:?}");
    }
}
