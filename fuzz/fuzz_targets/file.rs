//! Files: shared and private mappings, truncation, holes and writeback, on the fixed model.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::FILE, input.0));
