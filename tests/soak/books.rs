//! What the server says of its queues after each start, and whether that can be: every message is counted once for each reader, nothing
//! that was counted is forgotten, what left one queue arrived in the other, and settings and limits hold.

use crate::account::key;
use crate::cast::{
    ADMITTED, DEAD, HELD, HELD_SHARED, LATE, Part, Reader, SHARED_DEAD, is_emptied, part, queues, readers, settings,
};
use crate::facts::figures;
use crate::harness::{Client, Server, eventually};
use crate::traffic::queue_name;
use ringq::limits::OVERFLOW_LEN_MAX;
use ringq::proto::Dialect;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the server may take to move what has to.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// What leaves a queue, as `stats queue` counts it.
const LEFT: [&str; 7] = ["gets", "deleted", "corrupt", "expired", "discarded", "dead_lettered", "skipped"];

/// The other numbers that are judged.
const HERE: [&str; 5] = ["puts", "ready", "open", "moving", "bytes"];

/// The names of `stats queue` with their numbers.
pub type Figures = BTreeMap<String, u64>;

/// Those of every reader of every queue.
pub type Books = BTreeMap<(u32, Reader), Figures>;

/// What is said of one reader of a queue.
pub fn figures_of(server: &Server, queue: u32, reader: Reader) -> Figures {
    let name = key(Dialect::MemcacheQ, queue, reader);
    let mut figures = figures(server, &name);
    if figures.is_empty() {
        // Nothing was put there yet; if something was, the books of the start before say so.
        figures.extend(LEFT.iter().chain(&HERE).map(|name| ((*name).to_owned(), 0)));
    }
    let left: u64 = LEFT.iter().map(|name| figures[*name]).sum();
    let here = figures["ready"] + figures["open"] + figures["moving"];
    assert_eq!(figures["puts"], left + here, "{name}: {figures:?}");
    assert_eq!(figures["corrupt"], 0, "{name}");
    figures
}

/// The readers of a queue, and its plain reader, which has figures even where nobody reads plainly.
fn kept_readers(queue: u32) -> impl Iterator<Item = Reader> {
    let groups = readers(queue).iter().copied().filter(|reader| *reader != Reader::Plain);
    std::iter::once(Reader::Plain).chain(groups)
}

/// All books, checked; `before` are those of the start before.
pub fn books(server: &Server, before: &Books) -> Books {
    let mut books = Books::new();
    for queue in queues() {
        for reader in kept_readers(queue) {
            let figures = figures_of(server, queue, reader);
            assert_eq!(figures["open"], 0, "{}: what was open is ready", key(Dialect::MemcacheQ, queue, reader));
            if let Some(before) = before.get(&(queue, reader)) {
                for name in LEFT.iter().chain(&["puts"]) {
                    let (was, is) = (before[*name], figures[*name]);
                    assert!(was <= is, "{name} of queue {queue}, {reader:?} fell from {was} to {is}");
                }
            }
            books.insert((queue, reader), figures);
        }
    }
    check_limits(&books);
    check_shared(&books);
    check_settings(server);
    check_moves(server);
    books
}

fn check_limits(books: &Books) {
    for queue in queues() {
        let figures = &books[&(queue, Reader::Plain)];
        let (puts, held) = (figures["puts"], figures["ready"]);
        match part(queue) {
            Part::Gate => assert!(puts <= ADMITTED, "gate {queue} admitted {puts}"),
            Part::Refusing => assert!(held <= HELD, "queue {queue} holds {held}"),
            // Its oldest have to be read before they are dropped.
            Part::Dropping => assert!(held <= HELD + OVERFLOW_LEN_MAX, "queue {queue} holds {held}"),
            Part::GroupsOnly => assert_eq!(figures["skipped"], puts, "queue {queue}: plain readers have nothing"),
            _ => {}
        }
    }
}

/// What is done to one reader, and what a queue does to all of them.
fn check_shared(books: &Books) {
    for ((queue, reader), figures) in books {
        let held = figures["ready"];
        match part(*queue) {
            Part::SharedDropping => {
                assert!(held <= HELD_SHARED + OVERFLOW_LEN_MAX, "{reader:?} of queue {queue} has {held}")
            }
            Part::SharedFlushed if !is_emptied(*queue, *reader) => {
                assert_eq!(figures["deleted"], 0, "{reader:?} of queue {queue} was not emptied");
            }
            _ => {}
        }
    }
}

fn check_settings(server: &Server) {
    let mut client = server.connect();
    for queue in queues() {
        let shown = shown_settings(&mut client, queue);
        for setting in settings(queue).iter().flat_map(|settings| settings.split(' ')) {
            let (name, value) = setting.split_once('=').expect("a setting");
            assert_eq!(shown[name], value, "{name} of queue {queue}");
        }
    }
}

fn shown_settings(client: &mut Client, queue: u32) -> BTreeMap<String, String> {
    let reply = client.command(format!("config {}\r\n", queue_name(queue)).as_bytes(), b"END\r\n");
    let reply = String::from_utf8(reply).expect("settings are text");
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    reply.lines().filter_map(pair).collect()
}

/// What left its queue for another comes there, once.
fn check_moves(server: &Server) {
    let of = |parts: &[Part]| queues().filter(|queue| parts.contains(&part(*queue))).collect::<Vec<_>>();
    let ways = [
        (LATE, "expired", of(&[Part::Mortal])),
        (DEAD, "dead_lettered", of(&[Part::Work, Part::Hasty])),
        (SHARED_DEAD, "dead_lettered", of(&[Part::SharedWork])),
    ];
    for (target, why, queues) in ways {
        let readers = |queue: &u32| kept_readers(*queue).map(|reader| (*queue, reader)).collect::<Vec<_>>();
        let sources: Vec<(u32, Reader)> = queues.iter().flat_map(readers).collect();
        let (mut left, mut arrived) = (0, 0);
        // Some may come to their end meanwhile, and some are on their way.
        eventually("what left for another queue is there", MOVE_TIMEOUT, || {
            let figures: Vec<Figures> =
                sources.iter().map(|(queue, reader)| figures_of(server, *queue, *reader)).collect();
            let under_way: u64 = figures.iter().map(|figures| figures["moving"]).sum();
            left = figures.iter().map(|figures| figures[why]).sum();
            arrived = figures_of(server, target, Reader::Plain)["puts"];
            under_way == 0 && arrived == left
        });
    }
}
