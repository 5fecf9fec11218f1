//! Kestrel's dialect: `bodies/kestrel.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::kestrel::run(bytes));
