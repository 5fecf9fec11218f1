//! A small generator of our own, so that a seed means the same history whatever library changes (xorshift64*).
//!
//! Invariant: what is drawn depends on the seed, or on what was given, and on how often was drawn, on nothing else.

/// A source of numbers.
pub struct Rng {
    state: u64,
    /// What is drawn before chance is, last first, a byte each.
    given: Vec<u8>,
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, given: Vec::new() }
    }

    /// Draws what these bytes say, until they are spent.
    pub fn given(bytes: &[u8]) -> Rng {
        Rng { given: bytes.iter().rev().copied().collect(), ..Rng::new(1) }
    }

    /// Whether nothing is left of what was given.
    pub fn is_spent(&self) -> bool {
        self.given.is_empty()
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        match self.given.pop() {
            Some(byte) if n <= 256 => usize::from(byte) % n,
            Some(byte) => (usize::from(byte) << 8 | usize::from(self.given.pop().unwrap_or(0))) % n,
            None => (self.next() % n as u64) as usize,
        }
    }

    /// One of these.
    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}
