//! The bodies of the fuzz targets: functions of bytes that panic if a promise does not hold. libFuzzer calls them through
//! `tests/fuzz/targets`, and `tests/it/fuzz.rs` with the seeds that are kept with the source.
//!
//! Invariant: the same bytes do the same each time; no clock, no chance, nothing left behind by the call before.

pub mod config;
pub mod framing;
pub mod journal;
pub mod kestrel;
pub mod lmdb;
pub mod mutation;
pub mod operations;
pub mod options;
pub mod pages;
pub mod settings;
pub mod spool;
pub mod store;
pub mod text;
pub mod udp;

/// A target: what it is called, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, as `make fuzz-list` has them.
pub const TARGETS: [Target; 14] = [
    ("config", config::run),
    ("framing", framing::run),
    ("journal", journal::run),
    ("kestrel", kestrel::run),
    ("lmdb", lmdb::run),
    ("mutation", mutation::run),
    ("operations", operations::run),
    ("options", options::run),
    ("pages", pages::run),
    ("settings", settings::run),
    ("spool", spool::run),
    ("store", store::run),
    ("text", text::run),
    ("udp", udp::run),
];
