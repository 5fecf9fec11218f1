//! What stands behind a queue's name, and numbers.
//!
//! Promises: options that were understood are kept as they were written and read the same again; what contradicts each other is refused; a
//! number is what the standard library takes it for.

use ringq::limits::{GROUP_LEN_MAX, NAME_LEN_MAX, OPTIONS_LEN_MAX};
use ringq::proto::options::{GetOptions, exptime, group_name_len, number, queue_of, reader_name, split, ttl};

pub fn run(bytes: &[u8]) {
    check_get_options(bytes);
    check_numbers(bytes);
    check_name(bytes);
    if let Ok(Some(ttl_s)) = ttl(bytes) {
        assert_eq!(ttl(format!("/ttl={ttl_s}").as_bytes()), Ok(Some(ttl_s)));
    }
}

fn check_get_options(text: &[u8]) {
    let options = match GetOptions::parse(text) {
        Ok(options) => options,
        Err(reply) => return assert!(reply.starts_with(b"CLIENT_ERROR ") && reply.ends_with(b"\r\n")),
    };
    assert!(text.len() <= OPTIONS_LEN_MAX && options.as_written() == text);
    assert_eq!(GetOptions::parse(options.as_written()), Ok(options), "another shard reads the same");
    let is_read = options.open || options.close;
    assert!(!(options.peek && (is_read || options.abort)) && !(options.abort && is_read), "they contradict each other");
    assert!(options.ttr_s.is_none_or(|s| s > 0 && options.open));
    if let Some(group) = options.group() {
        assert!((1..=GROUP_LEN_MAX).contains(&group.len()) && !group.contains(&b'/'));
        let is_option = [b"/group=", group].concat();
        let is_reader = text[0] != b'/' && text[1..].starts_with(group);
        assert!(is_reader || text.windows(is_option.len()).any(|part| part == is_option), "the group is in the text");
    }
    // The same, each option by itself.
    let mut parts = text.split(|byte| *byte == b'/');
    parts.next();
    for part in parts {
        let is_said = match part {
            b"open" => options.open,
            b"close" => options.close,
            b"abort" => options.abort,
            b"peek" => options.peek,
            _ => {
                let value = |key: &[u8]| part.strip_prefix(key).and_then(number);
                part.starts_with(b"group=")
                    || value(b"t=").is_some_and(|ms| options.wait_ms == Some(ms))
                    || value(b"ttr=").is_some_and(|s| options.ttr_s.map(u64::from) == Some(s))
            }
        };
        assert!(is_said, "{} was understood as something else", part.escape_ascii());
    }
}

fn check_numbers(word: &[u8]) {
    let text = std::str::from_utf8(word).ok();
    let is_digits = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    let expected = text.filter(|_| is_digits).and_then(|text| text.parse::<u64>().ok());
    assert_eq!(number(word), expected, "{}", word.escape_ascii());
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let is_signed = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let expected = text.filter(|_| is_signed).and_then(|text| text.parse::<i64>().ok());
    assert_eq!(exptime(word), expected, "{}", word.escape_ascii());
}

fn check_name(word: &[u8]) {
    let Ok((name, options)) = split(word) else { return };
    assert!((1..=NAME_LEN_MAX).contains(&name.len()) && [name, options].concat() == word);
    assert!(!name.contains(&b'/') && (options.is_empty() || options[0] == b'/'));
    let group = &word[word.len() - word.len().min(8)..];
    let of_group = reader_name(name, Some(group));
    assert_eq!((queue_of(&of_group), of_group.len()), (name, group_name_len(name, group)));
    assert_eq!(queue_of(&reader_name(name, None)), name);
}
