//! A session in two servers in memory: one receives all that the client says at once, the other in pieces, with its turns and its
//! journal writes in between. Both must say the same. The first byte chooses the server's options, then stands how many bytes say
//! where to cut, then these, and the rest is what the client says.

use crate::world::{Options, World};
use ringq::proto::Dialect;

/// A session that says more than this shows nothing new, bytes.
const SESSION_SIZE_MAX: usize = 16 << 10;

pub fn run(bytes: &[u8]) {
    let [choice, cuts_len, rest @ ..] = bytes else { return };
    let (cuts, stream) = rest.split_at(rest.len().min(usize::from(*cuts_len)));
    if stream.len() > SESSION_SIZE_MAX {
        return;
    }
    let whole = Session::new(*choice).play([stream].into_iter(), &[]);
    let pieces = pieces(stream, cuts);
    let in_pieces = Session::new(*choice).play(pieces.into_iter(), cuts);
    let (whole, in_pieces) = (without_figures(&whole), without_figures(&in_pieces));
    assert!(whole == in_pieces, "whole: {}\n\nin pieces: {}", whole.escape_ascii(), in_pieces.escape_ascii());
}

struct Session {
    world: World,
    client: usize,
}

impl Session {
    fn new(choice: u8) -> Session {
        let is = |bit: u8| choice >> bit & 1 == 1;
        let mut world = World::new(Options {
            shards: 1 + u16::from(is(0)),
            body_size_max: if is(1) { 64 } else { 1 << 20 },
            reader_separator: is(2).then_some(b'#'),
            flush_all: is(3),
            open_reads_max: if is(4) { 2 } else { 1024 },
            unconfirmed_max: if is(5) { 3 } else { 1024 },
            segment_size: 64 << 10,
            ..Options::default()
        });
        let dialect = if is(7) { Dialect::Kestrel } else { Dialect::MemcacheQ };
        let client = world.connect_speaking(dialect);
        Session { world, client }
    }

    /// All that the server says to these pieces and to the end behind them.
    fn play<'a>(mut self, pieces: impl Iterator<Item = &'a [u8]>, cuts: &[u8]) -> Vec<u8> {
        for (at, piece) in pieces.enumerate() {
            self.world.send(self.client, piece);
            match cuts.get(at).map(|cut| cut >> 6) {
                Some(0) => {}
                Some(1) => self.world.turn_all(),
                _ => self.world.settle(),
            }
        }
        self.world.settle();
        self.world.half_close(self.client);
        self.world.settle();
        self.world.check();
        assert!(self.world.clients[self.client].ended, "who says no more is told all and let go");
        std::mem::take(&mut self.world.clients[self.client].received)
    }
}

/// The low six bits of each byte are the size of a piece less one; where the bytes end, the rest is one piece.
fn pieces<'a>(mut stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = stream.split_at(stream.len().min(usize::from(cut & 63) + 1));
        if !piece.is_empty() {
            pieces.push(piece);
        }
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

/// Lines of `stats`, which count turns and bytes, left out.
fn without_figures(said: &[u8]) -> Vec<u8> {
    said.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"STAT ")).flatten().copied().collect()
}
