//! Entry encodings: total decoding, round trips, laws of the accessors.
#![no_main]

use ptefuzz_fuzz::{engine, targets};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::check(&targets::ENTRY, bytes));
