//! What clients saw of queues that the history of one reader cannot judge alone: where messages of several readers meet, and groups that end
//! and begin anew.
//!
//! Invariant: a message comes to such a place at most once from each reader that had it, and what a group of that kind is served is what its queue
//! has, in its order, to one client at a time.

use crate::books::Figures;
use crate::cast::{FLEETING, Part, Reader, SHARED_DEAD, part, queues, readers};
use crate::harness::{Server, eventually};
use crate::history::{End, History, Read};
use crate::traffic::MessageId;
use crate::{Known, check_counts, figures_of};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the server may take to end groups whose time is over.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Where several readers of a queue send what was delivered to each of them too often: `before` and `after` are the figures of that queue
/// before it was drained and afterwards.
pub fn verify_shared_dead(known: &Known, drained: &[Read], before: &Figures, after: &Figures) {
    let mut history = History::default();
    let mut opened: BTreeMap<MessageId, BTreeSet<Reader>> = BTreeMap::new();
    let mut unheard = BTreeSet::new();
    let mut arrived: BTreeMap<MessageId, usize> = drained.iter().fold(BTreeMap::new(), |mut arrived, read| {
        *arrived.entry(read.id).or_default() += 1;
        arrived
    });
    for account in &known.accounts {
        let reads = account.reads.iter();
        let here: Vec<Read> = reads.clone().map(|(_, read)| *read).filter(|read| read.from == SHARED_DEAD).collect();
        for read in here.iter().filter(|read| matches!(read.end, End::Done(_))) {
            *arrived.entry(read.id).or_default() += 1;
        }
        history.read(here);
        for (reader, read) in reads.filter(|(_, read)| read.from == read.id.queue && read.end != End::Looked) {
            opened.entry(read.id).or_default().insert(*reader);
        }
        let count = |of: &BTreeMap<(Reader, u32), u64>| of.get(&(Reader::Plain, SHARED_DEAD)).copied().unwrap_or(0);
        history.lose(SHARED_DEAD, count(&account.lost));
        unheard.extend(account.unheard.iter().filter(|(_, count)| **count > 0).map(|(pair, _)| *pair));
    }
    for (id, times) in &arrived {
        assert_eq!(part(id.queue), Part::SharedWork, "{id:?} came from queue {SHARED_DEAD}");
        let had = opened.get(id).cloned().unwrap_or_default();
        let unsure =
            readers(id.queue).iter().filter(|reader| unheard.contains(&(**reader, id.queue)) && !had.contains(*reader));
        let most = had.len() + unsure.count();
        assert!(*times <= most, "{id:?} arrived {times} times, and {most} readers can have had it: {had:?}");
    }
    check_counts(&history, SHARED_DEAD, Reader::Plain, before);
    let tally = history.tally(SHARED_DEAD);
    let least = tally.taken + drained.len() as u64;
    let puts = after["puts"];
    assert!((least..=least + tally.unanswered).contains(&puts), "{puts} came to queue {SHARED_DEAD}, but {tally:?}");
}

/// Groups that end when nobody asks them. Each time that one begins anew it may have again what is stored; what one client has open no other has.
pub fn verify_fleeting(known: &Known, drained: &[(Reader, Vec<Read>)]) {
    for reader in FLEETING.map(Reader::Fleeting) {
        let mut history = History::default();
        history.allow_deletion();
        history.allow_reordering();
        let sent = known.accounts.iter().flat_map(|account| &account.puts);
        sent.filter(|put| part(put.id.queue) == Part::Fleeting).for_each(|put| history.put(*put));
        for account in &known.accounts {
            let reads = account.reads.iter().filter(|(of, _)| *of == reader).map(|(_, read)| *read);
            history.read(reads.map(|read| Read { end: again(read.end), ..read }).collect());
        }
        let drained = drained.iter().filter(|(of, _)| *of == reader).flat_map(|(_, reads)| reads.iter().copied());
        let verdict = history.verify_reads(&drained.collect::<Vec<_>>());
        verdict.unwrap_or_else(|broken| panic!("{reader:?}: {broken}"));
    }
}

/// What was done with may come again.
fn again(end: End) -> End {
    match end {
        End::Done(_) | End::MaybeDone => End::Returned,
        end => end,
    }
}

/// Waits until those groups have ended that nobody asks any more.
pub fn await_ends(server: &Server) {
    eventually("groups that nobody asks have ended", END_TIMEOUT, || {
        let fleeting = queues().filter(|queue| part(*queue) == Part::Fleeting);
        let mut groups = fleeting.flat_map(|queue| FLEETING.map(|number| (queue, Reader::Fleeting(number))));
        groups.all(|(queue, reader)| figures_of(server, queue, reader)["puts"] == 0)
    });
}
