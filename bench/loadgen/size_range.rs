//! Message sizes: one size (`100`) or a range (`64-4096`) from which each message draws its own.
//!
//! Draws are uniform and repeatable: the same seed gives the same sizes, so that two servers get the same bytes.

use std::fmt;
use std::str::FromStr;

/// The largest message size accepted, in bytes; above it a typing error is more likely than a benchmark.
const SIZE_MAX: usize = 64 << 20;

/// Sizes of message bodies in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    /// Smallest body in bytes.
    pub min: usize,
    /// Largest body in bytes.
    pub max: usize,
}

impl SizeRange {
    /// Draws the size of the next message.
    pub fn draw(&self, random: &mut Random) -> usize {
        if self.min == self.max {
            return self.min;
        }
        let width = (self.max - self.min + 1) as u64;
        self.min + (random.next() % width) as usize
    }
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<SizeRange, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let parse = |part: &str| part.parse::<usize>().map_err(|_| format!("`{text}` is neither BYTES nor MIN-MAX"));
        let range = SizeRange { min: parse(min)?, max: parse(max)? };
        if range.min > range.max {
            return Err(format!("`{text}`: the smaller size comes first"));
        }
        if range.max > SIZE_MAX {
            return Err(format!("`{text}`: at most {SIZE_MAX} bytes"));
        }
        Ok(range)
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// SplitMix64: a few nanoseconds a number and repeatable, which is all that sizes need.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator whose numbers depend on `seed` alone.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_or_a_range_is_accepted() {
        assert_eq!("100".parse(), Ok(SizeRange { min: 100, max: 100 }));
        assert_eq!("64-4096".parse(), Ok(SizeRange { min: 64, max: 4096 }));
        assert_eq!("0".parse(), Ok(SizeRange { min: 0, max: 0 }));
        assert_eq!("64-4096".parse::<SizeRange>().unwrap().to_string(), "64-4096");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "-", "9-", "-9", "9-8", "1k", "1-2-3", "99999999999"] {
            assert!(text.parse::<SizeRange>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn draws_reach_both_ends_and_nothing_outside() {
        let range = SizeRange { min: 3, max: 6 };
        let mut random = Random::new(7);
        let mut drawn = [0u32; 8];
        for _ in 0..1000 {
            drawn[range.draw(&mut random)] += 1;
        }
        assert_eq!(drawn[0..3], [0, 0, 0]);
        assert!(drawn[3..7].iter().all(|&n| n > 0), "{drawn:?}");
        assert_eq!(drawn[7], 0);
    }
}
