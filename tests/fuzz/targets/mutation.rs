//! Mutations and what a store makes of them: `bodies/mutation.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringq_fuzz::bodies::mutation::run(bytes));
