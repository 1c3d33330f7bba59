//! userfaultfd: cases that are mostly about it, on the fixed model.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::UFFD, input.0));
