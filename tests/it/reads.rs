//! Open reads, when clients, queues and shards come and go in an inconvenient order: each test chooses the order.
//!
//! Invariant of all of them: a message that was read and not confirmed comes out of its queue again, once, before younger ones.

use crate::facts::counts_of;
use crate::world::{Options, World};

fn put(queue: &str, body: &str) -> String {
    format!("set {queue} 0 0 {}\r\n{body}\r\n", body.len())
}

fn value(key: &str, body: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// A queue of a shard.
fn queue_of(world: &World, shard: usize) -> String {
    (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == shard).unwrap()
}

/// A world of two shards, a client of shard 0, one of shard 1, and a queue of shard 1 with these messages.
fn two_shards(messages: &[&str]) -> (World, usize, usize, String) {
    let mut world = World::new(Options { shards: 2, ..Options::default() });
    let (here, there) = (world.connect(), world.connect());
    let queue = queue_of(&world, 1);
    messages.iter().for_each(|body| assert_eq!(world.ask(there, &put(&queue, body)), "STORED\r\n"));
    (world, here, there, queue)
}

/// The same with the reader on this shard, and somebody else on the other.
fn reader_of(shard: usize, messages: &[&str]) -> (World, usize, usize, String) {
    let (world, here, there, queue) = two_shards(messages);
    if shard == 0 { (world, here, there, queue) } else { (world, there, here, queue) }
}

#[track_caller]
fn opens(world: &mut World, client: usize, queue: &str, bodies: &[&str]) {
    for body in bodies {
        assert_eq!(world.ask(client, &format!("get {queue}/open\r\n")), value(&format!("{queue}/open"), body));
    }
}

#[track_caller]
fn takes(world: &mut World, client: usize, queue: &str, bodies: &[&str]) {
    for body in bodies {
        assert_eq!(world.ask(client, &format!("get {queue}\r\n")), value(queue, body));
    }
    assert_eq!(world.ask(client, &format!("get {queue}\r\n")), "END\r\n", "there is no more");
}

/// Opens the head. Returns its id.
#[track_caller]
fn open_with_id(world: &mut World, client: usize, key: &str) -> u64 {
    let reply = world.ask(client, &format!("gets {key}\r\n"));
    let line = reply.lines().next().unwrap();
    assert!(line.starts_with("VALUE "), "{reply}");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn stat(world: &mut World, client: usize, name: &str) -> u64 {
    let stats = world.ask(client, "stats\r\n");
    let line = stats.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{stats}")).parse().unwrap()
}

/// Ways to lose a connection.
const WAYS: [fn(&mut World, usize); 7] = [
    World::reset,
    World::half_close,
    World::fail_send,
    |world, client| world.send(client, b"quit\r\n"),
    |world, client| world.send(client, b"set q 0 0 1\r\nxyz\r\n"),
    |world, client| {
        world.send(client, b"set q 0 0 5\r\nhel");
        world.settle();
        world.advance(30_000);
    },
    |world, client| {
        // In the middle of all it could still say.
        world.send(client, "get nothing\r\n".repeat(1000).as_bytes());
        world.reset(client);
    },
];

#[test]
fn however_a_connection_is_lost_its_reads_return_before_younger_messages() {
    for shard in [0, 1] {
        for (way, lose) in WAYS.iter().enumerate() {
            let (mut world, reader, other, queue) = reader_of(shard, &["1", "2", "3", "4", "5"]);
            opens(&mut world, reader, &queue, &["1", "2", "3"]);
            assert_eq!(world.ask(other, &format!("get {queue}\r\n")), value(&queue, "4"), "way {way}");
            lose(&mut world, reader);
            world.settle();
            assert!(world.clients[reader].ended, "way {way}");
            takes(&mut world, other, &queue, &["1", "2", "3", "5"]);
            assert_eq!((stat(&mut world, other, "open_reads"), stat(&mut world, other, "returned_reads")), (0, 3));
        }
    }
}

#[test]
fn a_silent_reader_is_closed_and_its_reads_return() {
    let mut world = World::new(Options { idle_ms_max: 10_000, ..Options::default() });
    let (reader, other) = (world.connect(), world.connect());
    world.ask(reader, &put("q", "1"));
    opens(&mut world, reader, "q", &["1"]);
    for _ in 0..12 {
        world.advance(1000);
        world.ask(other, "version\r\n");
    }
    assert!(world.clients[reader].ended);
    takes(&mut world, other, "q", &["1"]);
}

#[test]
fn reads_of_a_lost_connection_go_to_those_who_wait_in_their_own_order() {
    for shard in [0, 1] {
        let (mut world, reader, _, queue) = reader_of(shard, &["1", "2", "3"]);
        opens(&mut world, reader, &queue, &["1", "2"]);
        // Of what it has open now, 2 is the oldest read, and 1 the oldest message.
        assert_eq!(world.ask(reader, &format!("get {queue}/abort\r\n")), "END\r\n");
        opens(&mut world, reader, &queue, &["1", "3"]);
        let waiting: Vec<usize> = (0..4).map(|_| world.connect()).collect();
        for client in &waiting {
            assert_eq!(world.ask(*client, &format!("get {queue}/open/t=60000\r\n")), "");
        }
        world.reset(reader);
        world.settle();
        let key = format!("{queue}/open/t=60000");
        for (client, body) in waiting.iter().zip(["1", "2", "3"]) {
            assert_eq!(world.heard(*client), value(&key, body), "reader on shard {shard}");
        }
        assert_eq!(world.heard(waiting[3]), "");
    }
}

#[test]
fn a_lost_reader_that_waits_for_more_is_not_served_with_what_it_returns() {
    for shard in [0, 1] {
        let (mut world, reader, other, queue) = reader_of(shard, &["1", "2", "3"]);
        opens(&mut world, reader, &queue, &["1", "2", "3"]);
        for client in [reader, other] {
            assert_eq!(world.ask(client, &format!("get {queue}/open/t=60000\r\n")), "");
        }
        world.reset(reader);
        world.settle();
        assert_eq!(world.heard(other), value(&format!("{queue}/open/t=60000"), "1"));
        assert_eq!(stat(&mut world, other, "returned_reads"), 3);
        takes(&mut world, other, &queue, &["2", "3"]);
    }
}

#[test]
fn what_is_on_its_way_to_a_lost_client_returns() {
    // How many bytes of `VALUE` had come.
    for come in [0, 1, 20, 1000] {
        for shard in [0, 1] {
            let (mut world, reader, other, queue) = reader_of(shard, &["1", "2"]);
            world.holds_sends = true;
            world.send(reader, format!("get {queue}/open\r\n").as_bytes());
            world.settle();
            world.come(reader, come);
            world.fail_send(reader);
            world.holds_sends = false;
            world.settle();
            takes(&mut world, other, &queue, &["1", "2"]);
        }
    }
}

#[test]
fn a_read_whose_client_goes_before_its_reply_may_leave_returns() {
    let mut world = World::new(Options::default());
    let (reader, other) = (world.connect(), world.connect());
    world.send(reader, (put("q", "1") + "get q/open\r\n").as_bytes());
    world.turn(0);
    assert_eq!(world.heard(reader), "", "the put is not durable");
    world.reset(reader);
    takes(&mut world, other, "q", &["1"]);
}

#[test]
fn a_forwarded_open_whose_client_goes_leaves_nothing_open() {
    // Before the request arrives, before the answer does, and when the answer has come.
    for stages in 0..4 {
        let (mut world, reader, other, queue) = two_shards(&["1", "2"]);
        world.send(reader, format!("get {queue}/open\r\n").as_bytes());
        let steps: [fn(&mut World); 3] = [|w| _ = w.turn(0), |w| while w.deliver() {}, |w| _ = w.turn(1)];
        steps[..stages].iter().for_each(|step| step(&mut world));
        world.reset(reader);
        world.settle();
        assert_eq!(stat(&mut world, other, "open_reads"), 0, "after {stages} stages");
        takes(&mut world, other, &queue, &["1", "2"]);
    }
}

#[test]
fn a_message_that_crosses_the_cancel_of_its_open_returns() {
    let (mut world, reader, other, queue) = two_shards(&[]);
    world.ask(reader, &format!("get {queue}/open/t=60000\r\n"));
    world.send(other, put(&queue, "1").as_bytes());
    world.reset(reader);
    world.settle();
    assert_eq!(world.heard(other), "STORED\r\n");
    takes(&mut world, other, &queue, &["1"]);
    let counters = world.counters(&queue);
    assert_eq!((counters.puts, counters.gets, counters.gets_unsent), (1, 1, 0));
}

#[test]
fn an_open_that_is_cancelled_leaves_the_message_to_the_next() {
    let (mut world, reader, other, queue) = two_shards(&[]);
    let next = world.connect();
    world.ask(reader, &format!("get {queue}/open/t=60000\r\n"));
    world.ask(next, &format!("get {queue}/close/open/t=60000\r\n"));
    world.reset(reader);
    world.settle();
    assert_eq!(stat(&mut world, other, "waiters"), 1);
    assert_eq!(world.ask(other, &put(&queue, "1")), "STORED\r\n");
    assert_eq!(world.heard(next), value(&format!("{queue}/close/open/t=60000"), "1"));
}

#[test]
fn an_open_that_waits_for_the_disk_ends_with_its_client() {
    for options in ["open", "open/t=500", "open/ttr=1"] {
        let mut world = World::new(Options::default());
        let client = world.connect();
        world.ask(client, &put("q", "1"));
        world.crash(1);
        let (reader, other) = (world.connect(), world.connect());
        world.send(reader, format!("get q/{options}\r\n").as_bytes());
        world.turn(0);
        world.reset(reader);
        world.settle();
        takes(&mut world, other, "q", &["1"]);
    }
}

#[test]
fn a_read_ends_to_the_millisecond_whatever_the_wall_clock_says() {
    for shard in [0, 1] {
        let (mut world, reader, other, queue) = reader_of(shard, &["1"]);
        let start = world.now_ms();
        assert_eq!(
            world.ask(reader, &format!("get {queue}/open/ttr=30\r\n")),
            value(&format!("{queue}/open/ttr=30"), "1")
        );
        assert_eq!(world.next_deadline(), Some(start + 30_000));
        world.set_wall_clock(1_000_000);
        world.advance(29_999);
        assert_eq!(world.ask(other, &format!("get {queue}/peek\r\n")), "END\r\n");
        world.advance(1);
        world.settle();
        assert_eq!(world.ask(other, &format!("get {queue}/peek\r\n")), value(&format!("{queue}/peek"), "1"));
        assert_eq!(world.next_deadline(), None);
    }
}

#[test]
fn touch_moves_the_end_of_a_read_both_ways() {
    let (mut world, reader, other, queue) = two_shards(&["1"]);
    let id = open_with_id(&mut world, reader, &format!("{queue}/open/ttr=30"));
    for client in [reader, other] {
        for seconds in [100, 1, 40_000] {
            let now = world.now_ms();
            assert_eq!(world.ask(client, &format!("touch {queue}/id={id} {seconds}\r\n")), "TOUCHED\r\n");
            assert_eq!(world.next_deadline(), Some(now + seconds * 1000));
        }
    }
    assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
    assert_eq!(world.next_deadline(), None);
    assert_eq!(world.ask(reader, &format!("touch {queue}/id={id} 5\r\n")), "NOT_FOUND\r\n");
}

#[test]
fn a_late_close_is_told_so_and_does_not_touch_the_next_reader() {
    for ending in ["close", "abort", "close/open"] {
        for shard in [0, 1] {
            let (mut world, late, other, queue) = reader_of(shard, &["1"]);
            world.ask(late, &format!("get {queue}/open/ttr=1\r\n"));
            world.advance(1000);
            world.settle();
            opens(&mut world, other, &queue, &["1"]);
            let answer = world.ask(late, &format!("get {queue}/{ending}\r\n"));
            assert_eq!(answer, "CLIENT_ERROR read expired\r\n", "{ending}");
            assert_eq!(world.ask(late, &format!("get {queue}/{ending}\r\n")), "END\r\n", "it is told once");
            assert_eq!(stat(&mut world, late, "open_reads"), 1);
            assert_eq!(world.ask(other, &format!("get {queue}/close\r\n")), "END\r\n");
            assert_eq!(counts_of(&world.ask(other, &format!("stats queue {queue}\r\n"))), "1/1");
        }
    }
}

#[test]
fn a_reader_that_reads_the_same_message_again_has_two_entries_and_one_read() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    world.ask(client, &put("q", "1"));
    world.ask(client, "get q/open/ttr=1\r\n");
    world.advance(1000);
    world.settle();
    opens(&mut world, client, "q", &["1"]);
    assert_eq!(world.ask(client, "get q/close\r\n"), "CLIENT_ERROR read expired\r\n");
    assert_eq!(stat(&mut world, client, "open_reads"), 1);
    assert_eq!(world.ask(client, "get q/close\r\n"), "END\r\n");
    assert_eq!(counts_of(&world.ask(client, "stats queue q\r\n")), "1/1");
}

#[test]
fn a_detached_read_survives_a_hang_up() {
    for shard in [0, 1] {
        let (mut world, reader, other, queue) = reader_of(shard, &["1", "2", "3"]);
        let id = open_with_id(&mut world, reader, &format!("{queue}/open/ttr=5"));
        opens(&mut world, reader, &queue, &["2"]);
        world.ask(reader, &format!("get {queue}/open/ttr=6\r\n"));
        world.reset(reader);
        world.settle();
        takes(&mut world, other, &queue, &["2"]);
        assert_eq!(world.ask(other, &format!("delete {queue}/id={id}\r\n")), "DELETED\r\n");
        world.advance(6000);
        world.settle();
        takes(&mut world, other, &queue, &["3"]);
    }
}

#[test]
fn whoever_hears_that_a_read_was_confirmed_finds_it_nowhere() {
    let mut world = World::new(Options { shards: 3, ..Options::default() });
    let [other, owner, reader] = [0, 1, 2].map(|_| world.connect());
    let queue = queue_of(&world, 1);
    assert_eq!(world.ask(owner, &put(&queue, "1")), "STORED\r\n");
    let id = open_with_id(&mut world, reader, &format!("{queue}/open"));
    world.is_unsynced = true;
    world.send(other, format!("delete {queue}/id={id}\r\n").as_bytes());
    world.turn(0);
    while world.deliver() {}
    world.turn(1);
    // The answer comes to one shard, and that the read is gone to the other: in which order is seen here.
    while world.heard(other).is_empty() {
        assert!(world.deliver());
        world.turn(0);
    }
    assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
}

#[test]
fn confirmed_by_its_id_elsewhere_a_read_is_gone_from_its_reader() {
    for shard in [0, 1] {
        let (mut world, reader, other, queue) = reader_of(shard, &["1", "2", "3"]);
        let ids: Vec<u64> = (0..3).map(|_| open_with_id(&mut world, reader, &format!("{queue}/open"))).collect();
        assert_eq!(world.ask(other, &format!("delete {queue}/id={}\r\n", ids[0])), "DELETED\r\n");
        assert_eq!(world.ask(other, &format!("delete {queue}/id={}\r\n", ids[0])), "NOT_FOUND\r\n");
        assert_eq!(world.ask(reader, &format!("get {queue}/abort\r\n")), "END\r\n");
        takes(&mut world, other, &queue, &["2"]);
        assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
        takes(&mut world, other, &queue, &[]);
        assert_eq!(counts_of(&world.ask(other, &format!("stats queue {queue}\r\n"))), "3/3");
    }
}

#[test]
fn a_close_that_does_not_wait_for_the_confirmation_by_id_is_told_so_and_changes_nothing() {
    let (mut world, reader, other, queue) = two_shards(&["1", "2"]);
    let ids: Vec<u64> = (0..2).map(|_| open_with_id(&mut world, reader, &format!("{queue}/open"))).collect();
    let pipelined = format!("delete {queue}/id={}\r\nget {queue}/close\r\n", ids[0]);
    assert_eq!(world.ask(reader, &pipelined), "DELETED\r\nCLIENT_ERROR read expired\r\n");
    // The other read is still open, and the next close is for it.
    takes(&mut world, other, &queue, &[]);
    assert_eq!(world.ask(reader, &format!("get {queue}/abort\r\n")), "END\r\n");
    takes(&mut world, other, &queue, &["2"]);
    assert_eq!(counts_of(&world.ask(other, &format!("stats queue {queue}\r\n"))), "2/2");
}

#[test]
fn a_read_that_is_confirmed_before_its_reader_has_it_is_gone_from_its_reader() {
    let (mut world, reader, other, queue) = two_shards(&["1"]);
    let id = open_with_id(&mut world, other, &format!("{queue}/open"));
    world.ask(other, &format!("get {queue}/abort\r\n"));
    world.send(reader, format!("get {queue}/open\r\n").as_bytes());
    world.turn(0);
    while world.deliver() {}
    assert_eq!(world.ask(other, &format!("delete {queue}/id={id}\r\n")), "DELETED\r\n");
    assert_eq!(world.heard(reader), value(&format!("{queue}/open"), "1"));
    assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
}

#[test]
fn nothing_returns_to_a_queue_that_was_deleted_or_emptied() {
    for end in ["delete", "flush"] {
        for shard in [0, 1] {
            let (mut world, reader, other, queue) = reader_of(shard, &["1", "2"]);
            opens(&mut world, reader, &queue, &["1"]);
            world.ask(reader, &format!("get {queue}/open/ttr=1\r\n"));
            let waiting = world.connect();
            world.ask(waiting, &format!("get {queue}/t=60000\r\n"));
            world.ask(other, &format!("{end} {queue}\r\n"));
            assert_eq!(stat(&mut world, other, "open_reads"), 0);
            assert_eq!(stat(&mut world, other, "curr_items"), 0);
            assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
            world.reset(reader);
            world.advance(2000);
            world.settle();
            assert_eq!(world.heard(waiting), "", "{end} leaves those who wait alone");
            assert_eq!(world.ask(other, &put(&queue, "3")), "STORED\r\n");
            assert_eq!(world.heard(waiting), value(&format!("{queue}/t=60000"), "3"));
            takes(&mut world, other, &queue, &[]);
        }
    }
}

/// Bodies too large for all of them to be in memory.
fn large(n: usize) -> String {
    format!("{n:<50000}")
}

#[test]
fn what_is_open_or_has_returned_leaves_memory_and_comes_back_in_its_place() {
    let mut world = World::new(Options { memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() });
    let (reader, other) = (world.connect(), world.connect());
    let put_all = |world: &mut World, numbers: std::ops::Range<usize>| {
        numbers.for_each(|n| assert_eq!(world.ask(other, &put("q", &large(n))), "STORED\r\n"));
    };
    put_all(&mut world, 0..60);
    for n in 0..60 {
        assert_eq!(world.ask(reader, "get q/open\r\n"), value("q/open", &large(n)));
    }
    let used = |world: &mut World| {
        let stats = world.ask(other, "stats shards\r\n");
        let line = stats.lines().find_map(|line| line.strip_prefix("STAT 0.memory_used "));
        line.unwrap_or_else(|| panic!("{stats}")).parse::<usize>().unwrap()
    };
    assert!(used(&mut world) <= 1 << 20, "half the share, however much is open");
    // Every third is confirmed, every third given back.
    for n in 0..60 {
        let ending = ["close", "abort", "abort"][n % 3];
        assert_eq!(world.ask(reader, &format!("get q/{ending}\r\n")), "END\r\n");
        assert!(used(&mut world) <= 1 << 20);
    }
    put_all(&mut world, 60..70);
    for n in (0..60).filter(|n| n % 3 != 0) {
        assert_eq!(world.ask(reader, "get q/open\r\n"), value("q/open", &large(n)));
    }
    world.reset(reader);
    world.settle();
    for n in (0..60).filter(|n| n % 3 != 0).chain(60..70) {
        assert_eq!(world.ask(other, "get q\r\n"), value("q", &large(n)));
    }
    assert_eq!(counts_of(&world.ask(other, "stats queue q\r\n")), "70/70");
}

#[test]
fn what_returns_and_is_on_disk_only_is_loaded_for_those_who_wait() {
    let mut world = World::new(Options { memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() });
    let (reader, other) = (world.connect(), world.connect());
    let mut waiting: Vec<usize> = (0..4).map(|_| world.connect()).collect();
    // What was opened first has left memory when the rest was.
    (0..60).for_each(|n| drop(world.ask(other, &put("q", &large(n)))));
    (0..2).for_each(|n| assert_eq!(world.ask(other, "get q/open\r\n"), value("q/open", &large(n))));
    (2..60).for_each(|_| drop(world.ask(reader, "get q/open\r\n")));
    for (client, key) in waiting.iter().zip(["q/peek/t=60000", "q/t=60000", "q/open/t=60000", "q/t=200"]) {
        assert_eq!(world.ask(*client, &format!("get {key}\r\n")), "");
    }
    for round in 0..2 {
        world.send(other, b"get q/abort\r\n");
        world.turn(0);
        assert!(world.has_loads(), "it is not in memory any more");
        world.settle();
        assert_eq!(world.heard(other), "END\r\n");
        if round == 0 {
            assert_eq!(world.heard(waiting.remove(0)), value("q/peek/t=60000", &large(0)));
        }
        let key = ["q/t=60000", "q/open/t=60000"][round];
        assert_eq!(world.heard(waiting.remove(0)), value(key, &large(round)));
    }
    assert_eq!(world.heard(waiting[0]), "");
    world.advance(200);
    world.settle();
    assert_eq!(world.heard(waiting[0]), "END\r\n", "it stood in line again");
}

#[test]
fn a_returned_message_that_cannot_be_loaded_is_said_and_stays() {
    let mut world = World::new(Options { memory_share: 2 << 20, body_size_max: 1 << 16, ..Options::default() });
    let (reader, other) = (world.connect(), world.connect());
    (0..60).for_each(|n| drop(world.ask(other, &put("q", &large(n)))));
    (0..60).for_each(|_| drop(world.ask(reader, "get q/open\r\n")));
    world.reset(reader);
    world.settle();
    // The first that is not in memory any more.
    let mut n = 0;
    loop {
        world.send(other, b"get q\r\n");
        world.turn_all();
        if world.has_loads() {
            break;
        }
        world.settle();
        assert_eq!(world.heard(other), value("q", &large(n)));
        n += 1;
    }
    world.fail_load();
    world.settle();
    assert_eq!(world.heard(other), "SERVER_ERROR storage cannot be read\r\n");
    for n in n..60 {
        assert_eq!(world.ask(other, "get q\r\n"), value("q", &large(n)), "it was there all the time");
    }
}

#[test]
fn open_reads_of_a_connection_are_limited_wherever_the_queue_is() {
    for shard in [0, 1] {
        let mut world = World::new(Options { shards: 2, open_reads_max: 3, ..Options::default() });
        let (reader, other) = (world.connect(), world.connect());
        let queue = queue_of(&world, shard);
        (0..9).for_each(|n| drop(world.ask(other, &put(&queue, &n.to_string()))));
        let key = format!("{queue}/open/ttr=1");
        let heard = world.ask(reader, &format!("get {key}\r\n").repeat(5));
        let expected: String = (0..3).map(|n| value(&key, &n.to_string())).collect();
        assert_eq!(heard, expected + &"SERVER_ERROR too many open reads\r\n".repeat(2));
        // A read that has ended by itself has its place until its reader has heard of it.
        world.advance(1000);
        world.settle();
        assert_eq!(world.ask(reader, &format!("get {key}\r\n")), "SERVER_ERROR too many open reads\r\n");
        assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "CLIENT_ERROR read expired\r\n");
        assert_eq!(world.ask(reader, &format!("get {key}\r\n")), value(&key, "0"));
        assert_eq!(world.ask(other, &format!("get {queue}/open\r\n")), value(&format!("{queue}/open"), "1"));
    }
}

const TOO_MANY: &str = "SERVER_ERROR too many open reads\r\n";

#[test]
fn reads_that_outlive_their_connections_are_limited_in_all() {
    for shard in [0, 1] {
        // Two in each shard.
        let mut world = World::new(Options { shards: 2, detached_reads_max: 4, ..Options::default() });
        let (reader, other) = (world.connect(), world.connect());
        let queue = queue_of(&world, shard);
        (0..9).for_each(|n| drop(world.ask(other, &put(&queue, &n.to_string()))));
        let key = format!("{queue}/open/ttr=60");
        let get = format!("get {key}\r\n");
        let first = open_with_id(&mut world, reader, &key);
        assert_eq!(world.ask(reader, &get.repeat(2)), value(&key, "1") + TOO_MANY);
        world.reset(reader);
        world.settle();
        assert_eq!((stat(&mut world, other, "open_reads"), stat(&mut world, other, "detached_reads")), (2, 2));

        let next = world.connect();
        assert_eq!(world.ask(next, &get), TOO_MANY);
        opens(&mut world, next, &queue, &["2"]);
        assert_eq!(world.ask(next, &format!("get {queue}/close/open/ttr=60\r\n")), TOO_MANY);
        assert_eq!(counts_of(&world.ask(other, &format!("stats queue {queue}\r\n"))), "9/1", "it was confirmed before");
        assert_eq!(world.ask(other, &format!("delete {queue}/id={first}\r\n")), "DELETED\r\n");
        assert_eq!(world.ask(next, &get.repeat(2)), value(&key, "3") + TOO_MANY);

        world.advance(60_000);
        world.settle();
        assert_eq!(stat(&mut world, other, "detached_reads"), 0, "their time is over");
        assert_eq!(world.ask(next, &get.repeat(3)), value(&key, "1") + &value(&key, "3") + TOO_MANY);
        for end in [format!("flush {queue}\r\n"), format!("delete {queue}\r\n")] {
            world.ask(other, &end);
            assert_eq!(stat(&mut world, other, "detached_reads"), 0, "{end}");
            world.check();
            (0..2).for_each(|n| drop(world.ask(other, &put(&queue, &n.to_string()))));
            assert_eq!(world.ask(next, &get.repeat(2)), value(&key, "0") + &value(&key, "1"));
        }
    }
}

#[test]
fn who_waits_for_a_group_that_ends_is_told_so_when_what_it_confirmed_is_durable() {
    let mut world = World::new(Options::default());
    let (reader, other) = (world.connect(), world.connect());
    world.ask(reader, "get q/group=g\r\n");
    world.ask(other, &put("q", "0"));
    assert_eq!(world.ask(reader, "get q/group=g/open\r\n"), value("q/group=g/open", "0"));
    for (client, request) in [(reader, "get q/group=g/close/open/t=60000\r\n"), (other, "delete q/group=g\r\n")] {
        world.send(client, request.as_bytes());
        world.turn_all();
        world.turn_all();
    }
    assert!(world.writes_under_way(0) > 0);
    assert_eq!((world.heard(reader), world.heard(other)), (String::new(), String::new()));
    world.settle();
    assert_eq!((world.heard(reader), world.heard(other)), ("END\r\n".into(), "DELETED\r\n".into()));
}

#[test]
fn who_waits_for_a_read_too_many_is_told_so_and_the_next_has_the_message() {
    for shard in [0, 1] {
        let mut world = World::new(Options { shards: 2, detached_reads_max: 2, ..Options::default() });
        let [reader, late, next, putter] = [(); 4].map(|()| world.connect());
        let queue = queue_of(&world, shard);
        world.ask(putter, &put(&queue, "0"));
        let (key, tied) = (format!("{queue}/open/t=60000/ttr=60"), format!("{queue}/open/t=60000"));
        assert_eq!(world.ask(reader, &format!("get {key}\r\n")), value(&key, "0"));
        assert_eq!(world.ask(late, &format!("get {key}\r\n")), "", "there is nothing to open");
        assert_eq!(world.ask(next, &format!("get {tied}\r\n")), "");
        world.ask(putter, &put(&queue, "1"));
        assert_eq!(world.heard(late), TOO_MANY);
        assert_eq!(world.heard(next), value(&tied, "1"));
        world.check();
        // The same for one that waits until the head is loaded.
        world.ask(putter, &put(&queue, "2"));
        world.crash(2);
        let [reader, late] = [(); 2].map(|()| world.connect());
        let get = format!("get {queue}/open/ttr=60\r\n");
        world.send(reader, get.as_bytes());
        world.send(late, get.as_bytes());
        world.settle();
        let mut heard = [world.heard(reader), world.heard(late)];
        heard.sort();
        assert_eq!(heard, [TOO_MANY.to_string(), value(&format!("{queue}/open/ttr=60"), "0")]);
        world.check();
    }
}

#[test]
fn ten_thousand_waiting_reads_cost_no_turn_and_a_message_wakes_one() {
    let (mut world, _, other, queue) = two_shards(&[]);
    let waiting: Vec<usize> = (0..10_000).map(|_| world.connect()).collect();
    for client in &waiting {
        world.send(*client, format!("get {queue}/open/t=60000\r\n").as_bytes());
    }
    world.settle();
    let deadline = world.now_ms() + 60_000;
    for _ in 0..10 {
        world.advance(1000);
        assert!(!world.turn(0) && !world.turn(1), "nothing is done while nothing happens");
        assert_eq!(world.next_deadline(), Some(deadline), "nothing wakes a shard before");
    }
    assert_eq!(world.ask(other, &put(&queue, "1")), "STORED\r\n");
    let answered: Vec<usize> =
        waiting.iter().copied().filter(|client| !world.clients[*client].received.is_empty()).collect();
    // The first of the queue's own shard, which is the second of all.
    assert_eq!(answered, [waiting[1]]);
    assert_eq!(world.heard(waiting[1]), value(&format!("{queue}/open/t=60000"), "1"));
    assert_eq!((stat(&mut world, other, "waiters"), stat(&mut world, other, "open_reads")), (9_999, 1));
    world.advance(50_000);
    world.settle();
    let ended = waiting.iter().filter(|client| world.clients[**client].received == b"END\r\n");
    assert_eq!(ended.count(), 9_999);
}

#[test]
fn confirmed_is_durable_before_it_is_said() {
    for ending in ["close", "close/open", "close/open/t=1", "abort"] {
        let mut world = World::new(Options::default());
        let client = world.connect();
        world.ask(client, &put("q", "1"));
        opens(&mut world, client, "q", &["1"]);
        world.send(client, format!("get q/{ending}\r\n").as_bytes());
        world.turn(0);
        world.advance(1);
        world.turn(0);
        assert_eq!(world.heard(client), "", "{ending}");
        world.apply(0, usize::MAX);
        world.settle();
        assert_eq!(world.heard(client), "END\r\n", "{ending}");
        world.crash(1);
        let client = world.connect();
        takes(&mut world, client, "q", if ending == "abort" { &["1"] } else { &[] });
    }
}

#[test]
fn after_a_crash_what_was_not_confirmed_is_there_in_its_order() {
    for shards in [1, 2, 3] {
        let (mut world, reader, other, queue) = two_shards(&["1", "2", "3", "4", "5", "6", "7"]);
        opens(&mut world, reader, &queue, &["1", "2", "3"]);
        world.ask(other, &format!("get {queue}/open/ttr=3600\r\n"));
        assert_eq!(world.ask(reader, &format!("get {queue}/close\r\n")), "END\r\n");
        assert_eq!(world.ask(reader, &format!("get {queue}/abort\r\n")), "END\r\n");
        assert_eq!(world.ask(other, &format!("get {queue}/open\r\n")), value(&format!("{queue}/open"), "2"));
        // Said to the server, and not yet durable.
        world.send(other, format!("get {queue}/close\r\n").as_bytes());
        world.turn(1);
        world.crash(shards);
        let client = world.connect();
        takes(&mut world, client, &queue, &["2", "3", "4", "5", "6", "7"]);
        assert_eq!(counts_of(&world.ask(client, &format!("stats queue {queue}\r\n"))), "7/7");
    }
}

#[test]
fn a_stop_returns_what_is_open() {
    let mut world = World::new(Options { shards: 2, shutdown: true, ..Options::default() });
    let clients: Vec<usize> = (0..6).map(|_| world.connect()).collect();
    (0..6).for_each(|n| drop(world.ask(clients[0], &put("q", &n.to_string()))));
    for (n, client) in clients[1..].iter().enumerate() {
        opens(&mut world, *client, "q", &[&n.to_string()]);
    }
    world.ask(clients[0], "shutdown\r\n");
    assert!(clients[1..].iter().all(|client| world.clients[*client].ended));
    world.crash(1);
    let client = world.connect();
    takes(&mut world, client, "q", &["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn reads_that_end_all_at_once_are_recorded_in_several_batches() {
    const COUNT: usize = 80_000;
    // What is open of one client, or of several; lost, or ended by their time.
    for (clients, key, is_lost) in [(1, "q/open", true), (4, "q/open", true), (1, "q/open/ttr=1", false)] {
        // Just large enough for the largest batch.
        let segment_size = (3 << 20) / 2;
        let options = Options { open_reads_max: COUNT, detached_reads_max: COUNT, segment_size, ..Options::default() };
        let mut world = World::new(options);
        let readers: Vec<usize> = (0..clients).map(|_| world.connect()).collect();
        let other = world.connect();
        for _ in 0..COUNT / 1000 {
            assert_eq!(world.ask(other, &put("q", "x").repeat(1000)).len(), 8000);
        }
        for reader in &readers {
            world.send(*reader, format!("get {key}\r\n").repeat(COUNT / clients).as_bytes());
            world.settle();
            world.heard(*reader);
        }
        assert_eq!(stat(&mut world, other, "open_reads"), COUNT as u64);
        let waiting = world.connect();
        world.ask(waiting, "get q/t=60000\r\n");
        if is_lost {
            readers.iter().for_each(|reader| world.reset(*reader));
        } else {
            world.advance(1000);
            world.turn(0);
        }
        world.send(other, b"get q\r\n");
        world.settle();
        assert_eq!(world.heard(waiting), value("q/t=60000", "x"));
        assert_eq!(world.heard(other), value("q", "x"), "nobody finds it empty before all have returned");
        assert_eq!(stat(&mut world, other, "returned_reads"), COUNT as u64);
        assert_eq!(stat(&mut world, other, "curr_items"), COUNT as u64 - 2);
    }
}
