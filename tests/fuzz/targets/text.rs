//! The text protocol's lines and frames: `bodies/text.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::text::run(bytes));
