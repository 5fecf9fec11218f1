//! What stands behind a queue's name: `bodies/options.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::options::run(bytes));
