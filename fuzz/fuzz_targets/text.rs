//! The text form of cases: what can be read can be printed and read again.
#![no_main]

use ptefuzz_fuzz::{engine, targets};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::check(&targets::TEXT, bytes));
