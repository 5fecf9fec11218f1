//! Lives of a server against models: `bodies/operations.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::operations::run(bytes));
