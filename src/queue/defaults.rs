//! What holds for queues of which nothing was said: what the operator says of all, and of those whose names match a pattern.
//!
//! A pattern is a name in which `*` stands for any bytes, or none. All patterns that match a name count, key by key: the one with the most
//! bytes besides `*` goes before the others, so a name without `*` goes before all.
//!
//! Invariant: patterns are in the order in which they are applied.

use super::settings::{Explicit, Settings};

/// The defaults of all queues.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults {
    all: Explicit,
    patterns: Vec<(Box<[u8]>, Explicit)>,
}

impl Defaults {
    /// `all` holds for every queue unless a pattern says otherwise.
    pub fn new(all: Explicit, patterns: impl IntoIterator<Item = (Box<[u8]>, Explicit)>) -> Defaults {
        let mut patterns: Vec<_> = patterns.into_iter().collect();
        patterns.sort_by_key(|(pattern, _)| (literal_len(pattern), !pattern.contains(&b'*'), pattern.clone()));
        Defaults { all, patterns }
    }

    /// Whether nothing is said of any queue.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.patterns.is_empty()
    }

    /// What holds for a queue of this name.
    pub fn of(&self, name: &[u8]) -> Settings {
        let mut settings = Settings::default();
        self.all.apply(&mut settings);
        for (_, explicit) in self.patterns.iter().filter(|(pattern, _)| matches(pattern, name)) {
            explicit.apply(&mut settings);
        }
        settings
    }
}

fn literal_len(pattern: &[u8]) -> usize {
    pattern.iter().filter(|byte| **byte != b'*').count()
}

/// Whether a name is one of those that a pattern stands for. Takes time in the product of their lengths at most.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    // Behind the last `*`, and where its part of the name ends for now.
    let mut retry: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                at_pattern += 1;
                retry = Some((at_pattern, at_name));
            }
            Some(byte) if *byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => {
                let Some((behind, end)) = retry else { return false };
                retry = Some((behind, end + 1));
                (at_pattern, at_name) = (behind, end + 1);
            }
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_bytes_or_none() {
        for (pattern, name) in [
            ("*", "q"),
            ("orders-*", "orders-"),
            ("orders-*", "orders-eu"),
            ("*-eu", "orders-eu"),
            ("o*s-*u", "orders-eu"),
            ("a*b*c", "abxbc"),
            ("**", "q"),
            ("q", "q"),
        ] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in
            [("orders-*", "orders"), ("*-eu", "orders-us"), ("a*b*c", "abxb"), ("q", "qq"), ("", "q"), ("*a", "ab")]
        {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn the_closest_pattern_goes_first_key_by_key() {
        let said = |words: &[&str]| {
            let mut explicit = Explicit::default();
            words.iter().for_each(|word| explicit.set(b"*", word.as_bytes()).unwrap());
            explicit
        };
        let pattern = |name: &str, words: &[&str]| (Box::from(name.as_bytes()), said(words));
        let defaults = Defaults::new(
            said(&["max_messages=1", "max_age=1", "max_bytes=1"]),
            [
                pattern("orders-eu", &["max_age=4"]),
                pattern("orders-*", &["max_messages=3", "max_age=3"]),
                pattern("o*", &["max_messages=2", "max_age=2", "max_deliveries=2"]),
                pattern("*-eu-*", &["max_messages=9"]),
            ],
        );
        let of = |name: &str| {
            let settings = defaults.of(name.as_bytes());
            (settings.max_messages, settings.max_age_s, settings.max_bytes, settings.max_deliveries)
        };
        assert_eq!(of("mail"), (1, 1, 1, 0));
        assert_eq!(of("other"), (2, 2, 1, 2));
        assert_eq!(of("orders-us"), (3, 3, 1, 2));
        assert_eq!(of("orders-eu"), (3, 4, 1, 2));
    }
}
