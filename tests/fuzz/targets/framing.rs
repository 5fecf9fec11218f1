//! Sessions, whole and cut into pieces: `bodies/framing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::framing::run(bytes));
