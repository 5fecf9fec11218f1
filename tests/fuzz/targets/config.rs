//! The configuration file: `bodies/config.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::config::run(bytes));
