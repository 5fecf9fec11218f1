//! The words RingQ says on the wire, all of them.
//!
//! Clients match on these texts (pecl Memcache looks for `SERVER_ERROR out of memory` and the like by prefix), so they
//! change only together with docs/PROTOCOL.md.

use crate::ids::MessageId;

/// The version that `version` and `stats` report: libmemcached refuses a major version of 0.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[allow(missing_docs)]
mod text {
    pub const STORED: &[u8] = b"STORED\r\n";
    pub const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
    pub const DELETED: &[u8] = b"DELETED\r\n";
    pub const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
    pub const END: &[u8] = b"END\r\n";
    pub const OK: &[u8] = b"OK\r\n";
    pub const RESET: &[u8] = b"RESET\r\n";
    pub const ERROR: &[u8] = b"ERROR\r\n";
    pub const CLIENT_ERROR: &[u8] = b"CLIENT_ERROR\r\n";
    pub const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
    pub const BAD_DATA_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
    pub const LINE_TOO_LONG: &[u8] = b"CLIENT_ERROR line too long\r\n";
    pub const ONE_KEY: &[u8] = b"CLIENT_ERROR option needs a single key\r\n";
    pub const UNKNOWN_OPTION: &[u8] = b"CLIENT_ERROR unknown option\r\n";
    pub const CONTRADICTING_OPTIONS: &[u8] = b"CLIENT_ERROR options contradict each other\r\n";
    pub const OPTIONS_TOO_LONG: &[u8] = b"CLIENT_ERROR options too long\r\n";
    pub const PUT_TO_READER: &[u8] = b"CLIENT_ERROR a reader takes no messages: put them into its queue\r\n";
    pub const READ_EXPIRED: &[u8] = b"CLIENT_ERROR read expired\r\n";
    pub const TOO_MANY_OPEN_READS: &[u8] = b"SERVER_ERROR too many open reads\r\n";
    pub const FLUSHED_ALL: &[u8] = b"Flushed all queues.\r\n";
    pub const RELOADED: &[u8] = b"Reloaded config.\r\n";
    pub const UP: &[u8] = b"UP\r\n";
    pub const READONLY: &[u8] = b"READONLY\r\n";
    pub const TOUCHED: &[u8] = b"TOUCHED\r\n";
    pub const TOO_MANY_SETTINGS: &[u8] = b"SERVER_ERROR too many queues have settings\r\n";
    pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
    pub const OUT_OF_STORAGE: &[u8] = b"SERVER_ERROR out of storage\r\n";
    pub const TOO_MANY_CONNECTIONS: &[u8] = b"SERVER_ERROR too many open connections\r\n";
    pub const STORAGE_UNREADABLE: &[u8] = b"SERVER_ERROR storage cannot be read\r\n";
    pub const TOO_LARGE_FOR_UDP: &[u8] = b"SERVER_ERROR object too large for UDP\r\n";
    pub const REPLY_TOO_LARGE: &[u8] = b"SERVER_ERROR reply too large for UDP\r\n";
}
pub use text::*;

/// What a `VALUE` block has besides key and body, bytes at most.
pub const VALUE_OVERHEAD_MAX: usize = 64;

/// The reply that shows a queue's settings, `END` included, bytes at most: as many lines, two of them with a name.
pub const SETTINGS_REPLY_SIZE_MAX: usize = 1280;

/// Appends the `VALUE` block of one message. The key is echoed as it was asked for, `options` with their slash. `cas` is
/// for `gets`.
pub fn value(out: &mut Vec<u8>, name: &[u8], options: &[u8], flags: u32, cas: Option<MessageId>, body: &[u8]) {
    let mut number = itoa::Buffer::new();
    out.reserve(name.len() + options.len() + body.len() + VALUE_OVERHEAD_MAX);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(name);
    out.extend_from_slice(options);
    out.push(b' ');
    out.extend_from_slice(number.format(flags).as_bytes());
    out.push(b' ');
    out.extend_from_slice(number.format(body.len()).as_bytes());
    if let Some(cas) = cas {
        out.push(b' ');
        out.extend_from_slice(number.format(cas.0).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// Appends `STAT name value`.
pub fn stat(out: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    use std::io::Write;
    write!(out, "STAT {name} {value}\r\n").expect("writing to memory");
}

/// Appends `STAT name value` with a value of any bytes but those that end a line.
pub fn stat_text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    [b"STAT ", name.as_bytes(), b" ", value, b"\r\n"].into_iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends `CLIENT_ERROR text`.
pub fn client_error(out: &mut Vec<u8>, text: impl std::fmt::Display) {
    use std::io::Write;
    write!(out, "CLIENT_ERROR {text}\r\n").expect("writing to memory");
}

/// Appends the line of one queue in the list of all: `STAT name puts/gets`.
pub fn stat_queue(out: &mut Vec<u8>, name: &[u8], puts: u64, gets: u64) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"STAT ");
    out.extend_from_slice(name);
    out.push(b' ');
    out.extend_from_slice(number.format(puts).as_bytes());
    out.push(b'/');
    out.extend_from_slice(number.format(gets).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `VERSION x.y.z`.
pub fn version(out: &mut Vec<u8>) {
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(VERSION.as_bytes());
    out.extend_from_slice(b"\r\n");
}
