//! The configuration file.
//!
//! Promises: whatever is in a file, the server has a configuration it can start with, or says in words what is wrong with which file.

use ringq::config::Config;
use std::ffi::OsString;
use std::io::Write;

/// A longer file says nothing new, bytes.
const FILE_SIZE_MAX: usize = 4096;

pub fn run(bytes: &[u8]) {
    if bytes.len() > FILE_SIZE_MAX {
        return;
    }
    let mut file = tempfile::Builder::new().prefix("ringq-fuzz-").tempfile().expect("a temporary file");
    file.write_all(bytes).expect("write a file");
    let args = [OsString::from("ringq"), "--config".into(), file.path().into()];
    let config = match Config::parse(args) {
        Ok(config) => config,
        Err(error) => {
            let (code, text) = (error.exit_code(), error.to_string());
            assert_eq!(code, 2, "{text}");
            assert!(text.contains("ringq-fuzz-") || text.contains("give") || text.contains("--"), "{text}");
            return;
        }
    };
    assert!(config.memory_share() >= 2 * config.body_size_max, "a shard has room for a message");
    assert!(config.journal.share_size() >= 4 * config.body_size_max as u64, "a segment holds the largest message");
    assert!(config.shards > 0 && config.journal_depth > 0 && config.batch_size > 0);
    let again = config.reload().expect("nothing has changed");
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "a reload reads the same");
    for name in [&b"q"[..], b"orders-1", bytes] {
        let settings = config.queue_defaults.of(name);
        assert!(settings.shown().count() > 0);
    }
}
