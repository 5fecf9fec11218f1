//! Datagrams: `bodies/udp.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::udp::run(bytes));
