//! LMDB and the store in memory: `bodies/lmdb.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::lmdb::run(bytes));
