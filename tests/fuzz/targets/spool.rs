//! The import's spool: `bodies/spool.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::spool::run(bytes));
