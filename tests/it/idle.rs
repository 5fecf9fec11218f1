//! `--idle-timeout`: who is silent for so long and is owed nothing is closed, and nobody else.

use crate::facts::stat;
use crate::harness::{Server, eventually};
use crate::world::{Options, World};
use std::time::Duration;

/// The timeout of these tests, and how much later a silent connection may be closed, ms.
const TIMEOUT: u64 = 16_000;
const LATE_MAX: u64 = TIMEOUT / 16;

const BODY_STALL: u64 = ringq::limits::BODY_STALL_MS_MAX;

fn world() -> World {
    let mut world = World::new(Options { idle_ms_max: TIMEOUT, ..Options::default() });
    // So that the server knows what time it is when clients come.
    world.settle();
    world
}

/// Time passes, and every shard has its turns.
fn pass(world: &mut World, ms: u64) {
    world.advance(ms);
    world.settle();
}

/// The connections of these clients that the server has closed.
fn ended(world: &World, clients: &[usize]) -> Vec<bool> {
    clients.iter().map(|client| world.clients[*client].ended).collect()
}

/// What a client that comes for that sees.
fn idle_kicks(world: &mut World) -> u64 {
    let client = world.connect();
    let stats = world.ask(client, "stats\r\n");
    let line = stats.lines().find_map(|line| line.strip_prefix("STAT idle_kicks "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no idle_kicks in {stats}"))
}

#[test]
fn who_is_silent_is_closed_and_who_speaks_is_not() {
    let mut world = world();
    let clients = [world.connect(), world.connect()];
    pass(&mut world, 10_000);
    assert_eq!(world.ask(clients[1], "get q\r\n"), "END\r\n");
    pass(&mut world, TIMEOUT - 10_000 - 1);
    assert_eq!(ended(&world, &clients), [false, false]);
    pass(&mut world, 1 + LATE_MAX);
    assert_eq!(ended(&world, &clients), [true, false]);
    assert_eq!(idle_kicks(&mut world), 1);
    pass(&mut world, 10_000);
    assert_eq!(ended(&world, &clients), [true, true]);
    assert_eq!(idle_kicks(&mut world), 2);
}

#[test]
fn a_bare_line_end_is_a_sign_of_life() {
    let mut world = world();
    let client = world.connect();
    for _ in 0..10 {
        pass(&mut world, TIMEOUT / 2);
        assert_eq!(world.ask(client, "version\r\n"), "VERSION 1.0.0\r\n");
    }
    assert_eq!(idle_kicks(&mut world), 0);
}

#[test]
fn without_a_timeout_nobody_is_closed_and_no_timer_runs() {
    let mut world = World::new(Options::default());
    let client = world.connect();
    assert_eq!(world.ask(client, "get q\r\n"), "END\r\n");
    assert_eq!(world.next_deadline(), None);
    pass(&mut world, 1 << 40);
    assert_eq!(ended(&world, &[client]), [false]);
    assert_eq!(idle_kicks(&mut world), 0);
}

#[test]
fn a_get_that_waits_is_no_silence_and_its_client_has_its_time_afterwards() {
    for shards in [1, 2] {
        let mut world = World::new(Options { idle_ms_max: TIMEOUT, shards, ..Options::default() });
        let waiting = world.connect();
        // A queue of another shard, where there is one.
        let queue = (0..).map(|n| format!("q{n}")).find(|name| world.owner(name) == usize::from(shards) - 1).unwrap();
        assert_eq!(world.ask(waiting, &format!("get {queue}/t=600000\r\n")), "");
        pass(&mut world, 10 * TIMEOUT);
        let putter = world.connect();
        assert_eq!(world.ask(putter, &format!("set {queue} 0 0 1\r\nx\r\n")), "STORED\r\n");
        assert_eq!(world.heard(waiting), format!("VALUE {queue}/t=600000 0 1\r\nx\r\nEND\r\n"));
        pass(&mut world, TIMEOUT - 1);
        assert_eq!(ended(&world, &[waiting]), [false], "{shards} shards");
        pass(&mut world, 1 + LATE_MAX);
        assert_eq!(ended(&world, &[waiting]), [true], "{shards} shards");
    }
}

#[test]
fn a_client_that_is_owed_a_reply_is_not_closed() {
    let mut world = world();
    let client = world.connect();
    world.send(client, b"set q 0 0 1\r\nx\r\n");
    // The journal takes its time.
    for _ in 0..4 {
        world.advance(TIMEOUT);
        world.turn(0);
    }
    assert_eq!(ended(&world, &[client]), [false]);
    world.settle();
    assert_eq!(world.heard(client), "STORED\r\n");
    pass(&mut world, TIMEOUT - 1);
    assert_eq!(ended(&world, &[client]), [false]);
    pass(&mut world, 1 + LATE_MAX);
    assert_eq!(ended(&world, &[client]), [true]);
}

#[test]
fn a_client_that_has_not_taken_its_replies_is_not_closed() {
    let mut world = world();
    world.holds_sends = true;
    let client = world.connect();
    world.send(client, b"version\r\n");
    world.settle();
    pass(&mut world, 4 * TIMEOUT);
    assert_eq!(ended(&world, &[client]), [false]);
    world.come(client, usize::MAX);
    assert!(world.complete_send(client));
    pass(&mut world, TIMEOUT - 1);
    assert_eq!(ended(&world, &[client]), [false]);
    pass(&mut world, 1 + LATE_MAX);
    assert_eq!(ended(&world, &[client]), [true]);
}

#[test]
fn a_body_has_its_own_time() {
    let mut world = world();
    let [stalled, stored] = [0; 2].map(|_| world.connect());
    world.ask(stalled, "set q 0 0 5\r\nhel");
    world.ask(stored, "set q 0 0 5\r\nhel");
    pass(&mut world, BODY_STALL - 1);
    assert_eq!(ended(&world, &[stalled, stored]), [false, false]);
    assert_eq!(world.ask(stored, "lo\r\n"), "STORED\r\n");
    pass(&mut world, 2);
    assert_eq!(ended(&world, &[stalled, stored]), [true, false]);
    assert_eq!(idle_kicks(&mut world), 0, "the rule for bodies closed it");
}

#[test]
fn half_a_line_and_a_refused_body_that_does_not_come_are_silence() {
    let mut world = world();
    let clients = [world.connect(), world.connect()];
    world.ask(clients[0], "get q");
    assert_eq!(world.ask(clients[1], "add q 0 0 100\r\nhel"), "ERROR\r\n");
    pass(&mut world, TIMEOUT + LATE_MAX);
    assert_eq!(ended(&world, &clients), [true, true]);
    assert_eq!(idle_kicks(&mut world), 2);
}

#[test]
fn many_are_closed_in_parts_and_those_who_follow_in_their_places_have_their_time() {
    let count = 2 * ringq::limits::IDLE_LOOK_LEN + 10;
    let mut world = world();
    let clients: Vec<usize> = (0..count).map(|_| world.connect()).collect();
    pass(&mut world, TIMEOUT - 1);
    world.advance(1 + LATE_MAX);
    world.turn(0);
    let closed = |world: &World| ended(world, &clients).into_iter().filter(|ended| *ended).count();
    assert_eq!(closed(&world), ringq::limits::IDLE_LOOK_LEN, "a turn has its bound");
    world.settle();
    assert_eq!(closed(&world), count);
    let next = world.connect();
    pass(&mut world, TIMEOUT - 1);
    assert_eq!(ended(&world, &[next]), [false]);
    pass(&mut world, 1 + LATE_MAX);
    assert_eq!(ended(&world, &[next]), [true]);
}

#[test]
fn a_real_server_closes_who_is_silent() {
    let server = Server::start(&["--idle-timeout", "1", "-v", "-t", "2"]);
    let (mut silent, mut waiting) = (server.connect(), server.connect());
    waiting.send(b"get q/t=3000\r\n");
    silent.expect_closed();
    // Longer than the timeout, and not cut short by it.
    waiting.expect(b"END\r\n");
    waiting.expect_closed();
    assert!(server.output().contains("was silent"), "{}", server.output());
    eventually("all are closed", Duration::from_secs(10), || stat(&server, "curr_connections") == 1);
    assert!(stat(&server, "idle_kicks") >= 2);
}
