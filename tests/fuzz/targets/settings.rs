//! Settings of queues: `bodies/settings.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::settings::run(bytes));
