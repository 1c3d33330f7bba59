//! Huge pages and large folios: any case, most ops about them, on the fixed model.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::THP, input.0));
