//! Which queues the source has and how many messages are left in each, from the lines of its `stats queue`.
//!
//! What they say is an estimate: MemcacheQ's counters fall back when it crashes, and there is no other number.

use crate::client::Stat;
use crate::limits::NAME_LEN_MAX;

/// MemcacheQ's listing ends where it would become longer, bytes.
const LISTING_SIZE_MAX: usize = 2048;

/// The longest line that may have found no room: a name and two counters, and what stands around them. MemcacheQ is as careful.
const LINE_SIZE_MAX: usize = NAME_LEN_MAX + 60;

/// A queue of the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) name: Vec<u8>,
    /// Messages put and got since it was made; releases before 0.2 do not tell.
    pub(super) counts: Option<(u64, u64)>,
}

impl Listed {
    /// A queue of which only the name is known.
    pub(super) fn named(name: &[u8]) -> Listed {
        Listed { name: name.into(), counts: None }
    }

    /// How many messages are in it.
    pub(super) fn estimate(&self) -> Option<u64> {
        self.counts.map(|(puts, gets)| puts.saturating_sub(gets))
    }

    /// Whether RingQ can have a queue of this name.
    pub(super) fn fits(&self) -> bool {
        let is_fine = |byte: &u8| *byte > b' ' && *byte != 0x7f && *byte != b'/';
        (1..=NAME_LEN_MAX).contains(&self.name.len()) && self.name.iter().all(is_fine)
    }
}

/// All queues of a source, as far as it has told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listing {
    pub(super) queues: Vec<Listed>,
    /// There may be more: it is as long as MemcacheQ lets it become.
    pub(super) is_perhaps_cut: bool,
}

impl Listing {
    pub(super) fn new(stats: Vec<Stat>) -> Listing {
        let size: usize = stats.iter().map(|stat| b"STAT  \r\n".len() + stat.name.len() + stat.value.len()).sum();
        let is_perhaps_cut = (LISTING_SIZE_MAX - LINE_SIZE_MAX..=LISTING_SIZE_MAX).contains(&size);
        let mut queues: Vec<Listed> = Vec::new();
        for stat in stats {
            let counts =
                stat.value.split_once('/').and_then(|(puts, gets)| Some((puts.parse().ok()?, gets.parse().ok()?)));
            // MemcacheQ lists a queue twice that two clients have made at the same time.
            if !queues.iter().any(|queue| queue.name == stat.name) {
                queues.push(Listed { name: stat.name, counts });
            }
        }
        Listing { queues, is_perhaps_cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, value: &str) -> Stat {
        Stat { name: name.into(), value: value.into() }
    }

    #[test]
    fn counts_are_taken_as_they_come() {
        let stats =
            vec![stat("a", "5/2"), stat("fallen", "0/375"), stat("old", ""), stat("a", "9/0"), stat("b", "-1/0")];
        let listing = Listing::new(stats);
        let estimates: Vec<(&[u8], Option<u64>)> =
            listing.queues.iter().map(|queue| (&*queue.name, queue.estimate())).collect();
        assert_eq!(estimates, [(&b"a"[..], Some(3)), (b"fallen", Some(0)), (b"old", None), (b"b", None)]);
        assert!(!listing.is_perhaps_cut);
    }

    #[test]
    fn a_listing_that_memcacheq_may_have_cut_is_noticed() {
        let of = |name_len: usize, len: usize| {
            let names = (0..len).map(|i| format!("{i:0name_len$}"));
            Listing::new(names.map(|name| stat(&name, "1/0")).collect()).is_perhaps_cut
        };
        // Both were seen: 71 of 300 queues, 7 of 20.
        assert!(of(17, 71));
        assert!(of(242, 7));
        assert!(!of(242, 6));
        assert!(!of(17, 20));
        assert!(!of(17, 300), "longer than MemcacheQ's become");
    }

    #[test]
    fn names_that_ringq_refuses_are_known() {
        for name in [&b"q"[..], b"caf\xc3\xa9", b"..", b"queue.list", &[b'k'; 250]] {
            assert!(Listed::named(name).fits(), "{name:?}");
        }
        for name in [&b""[..], b"a b", b"a/b", b"a\r", b"\x7f", &[b'k'; 251]] {
            assert!(!Listed::named(name).fits(), "{name:?}");
        }
    }
}
