//! The journal, written and damaged, or made up: `bodies/journal.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::journal::run(bytes));
