//! The store's rows: `bodies/store.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::store::run(bytes));
