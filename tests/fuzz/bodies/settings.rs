//! Settings of queues, as they are stored and as words of clients, and patterns of names. Lines are what the store has; words in them what a
//! client says.
//!
//! Promises: what is written is read the same; a word that is refused changes nothing, and the refusal is one line that people can read; what is
//! shown can be said; a name matches a pattern if there is a way.

use ringq::queue::settings::SETTINGS_SIZE_MAX;
use ringq::queue::{Defaults, Explicit, Settings};

const QUEUE: &[u8] = b"q";

/// A longer pattern takes the slow matcher of this test too long, bytes.
const PATTERN_LEN_MAX: usize = 24;

pub fn run(bytes: &[u8]) {
    check_stored(bytes);
    let mut said = Explicit::default();
    for word in bytes.split(|byte| *byte == b' ' || *byte == b'\n').filter(|word| !word.is_empty()) {
        let before = said.clone();
        if let Err(invalid) = said.set(QUEUE, word) {
            assert_eq!(said, before, "what is refused changes nothing");
            check_readable(&invalid.to_string());
        }
    }
    check_shown(&said);
    let (pattern, name) = bytes.split_at(bytes.len() / 2);
    if pattern.len() <= PATTERN_LEN_MAX {
        check_pattern(pattern, name);
    }
}

fn check_stored(bytes: &[u8]) {
    let said = Explicit::decode(QUEUE, bytes);
    let encoded = said.encode();
    assert_eq!(Explicit::decode(QUEUE, &encoded), said, "what is stored is read the same");
    assert_eq!(said.is_empty(), encoded.is_empty());
    let not_understood: usize = if said.unknown().next().is_some() { bytes.len() + 1 } else { 0 };
    assert!(encoded.len() <= SETTINGS_SIZE_MAX + not_understood, "{} bytes", encoded.len());
    said.unknown().for_each(|line| check_readable(&line));
    check_shown(&said);
}

fn check_readable(line: &str) {
    assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line:?} is a line");
    assert!(line.len() < 400, "{line} is short");
}

fn check_shown(said: &Explicit) {
    let mut settings = Settings::default();
    said.apply(&mut settings);
    let (mut again, mut settings_again) = (Explicit::default(), Settings::default());
    for (key, value) in settings.shown() {
        again.set_value(QUEUE, key.as_bytes(), &value).unwrap_or_else(|invalid| panic!("it was shown: {invalid}"));
    }
    again.apply(&mut settings_again);
    assert_eq!(settings_again, settings, "what is shown can be said");
    let mut differing = Explicit::default();
    for (key, value) in settings.shown_if_set() {
        differing.set_value(QUEUE, key.as_bytes(), &value).unwrap_or_else(|invalid| panic!("it was shown: {invalid}"));
    }
    let mut settings_again = Settings::default();
    differing.apply(&mut settings_again);
    assert_eq!(settings_again, settings, "what is not shown is as it is of itself");
    assert_eq!(settings.clone().of(QUEUE), settings, "a queue is no target of itself");
}

fn check_pattern(pattern: &[u8], name: &[u8]) {
    let mut of_pattern = Explicit::default();
    of_pattern.set(QUEUE, b"max_messages=7").expect("a setting");
    let defaults = Defaults::new(Explicit::default(), [(pattern.into(), of_pattern)]);
    assert_eq!(defaults.of(name).max_messages == 7, matches(pattern, name), "{pattern:?} and {name:?}");
}

/// As it would be said: tries all that a star can stand for.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Which beginnings of the name the pattern so far stands for.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for byte in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match byte {
                b'*' => reached[at] || at > 0 && next[at - 1],
                _ => at > 0 && reached[at - 1] && name[at - 1] == *byte,
            };
        }
        reached = next;
    }
    reached[name.len()]
}
