//! One case, one result: on a fresh machine, on a used one, and in this build as in every other.
#![no_main]

use ptefuzz_fuzz::{engine, targets};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::check(&targets::DETERMINISM, bytes));
