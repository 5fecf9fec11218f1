//! A database damaged in several places: `bodies/pages.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::pages::run(bytes));
