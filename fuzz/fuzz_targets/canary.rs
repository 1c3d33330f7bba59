//! A planted defect: this target must fail, or failures go unseen.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::CANARY, input.0));
