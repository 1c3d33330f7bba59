//! One CPU and no interruptions, on the fixed model: what is found here needs no race.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::SEQUENTIAL, input.0));
