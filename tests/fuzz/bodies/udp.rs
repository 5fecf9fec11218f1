//! Datagrams, as they come from the socket. The first two bytes choose options and how large a reply may be.
//!
//! Promises: a reply keeps to its bound and is cut into datagrams that make it up again; every datagram is answered to its end; what a
//! reply had no room for is still there.

use crate::world::{Options, World};
use ringq::limits::UDP_DATAGRAM_SIZE_MAX;
use ringq::udp::{datagrams_of, request_of};

/// Before the requests of a datagram: memcached's header, bytes.
const HEADER_SIZE: usize = 8;

/// `--udp-reply-max` is at least this, bytes.
const REPLY_SIZE_MIN: usize = 1400;

pub fn run(bytes: &[u8]) {
    let [choice, size, datagram @ ..] = bytes else { return };
    let Some((id, requests)) = request_of(datagram) else { return };
    assert!(id == datagram[..2] && *requests == datagram[HEADER_SIZE..] && !requests.is_empty());
    let options = Options {
        shards: 1 + u16::from(choice & 1),
        body_size_max: 8 << 10,
        reader_separator: (choice & 2 == 2).then_some(b'#'),
        segment_size: 256 << 10,
        ..Options::default()
    };
    if datagram.len() > 32 << 10 {
        return;
    }
    let shards = options.shards;
    let mut world = World::new(options);
    let bound = REPLY_SIZE_MIN + 16 * usize::from(*size);
    // The same again after a crash: then what is there must be loaded first.
    for round in 0..2 {
        let client = world.datagram(requests, bound);
        world.settle();
        world.check();
        assert!(world.clients[client].ended, "a datagram is answered to its end");
        let reply = std::mem::take(&mut world.clients[client].received);
        assert!(reply.len() <= bound, "{} bytes are above {bound}", reply.len());
        check_pieces(id, &reply);
        if round == 0 {
            world.crash(shards);
        }
    }
}

fn check_pieces(id: [u8; 2], reply: &[u8]) {
    let datagrams: Vec<Vec<u8>> = datagrams_of(id, reply).collect();
    let total = u16::try_from(datagrams.len()).unwrap();
    let mut joined = Vec::new();
    for (sequence, datagram) in (0u16..).zip(&datagrams) {
        assert!(datagram.len() <= UDP_DATAGRAM_SIZE_MAX && datagram.len() > HEADER_SIZE);
        let numbers = [sequence.to_be_bytes(), total.to_be_bytes()].concat();
        assert!(datagram[..2] == id && datagram[2..6] == numbers && datagram[6..8] == [0, 0]);
        joined.extend_from_slice(&datagram[HEADER_SIZE..]);
    }
    assert!(joined == reply, "the datagrams make up the reply");
}
