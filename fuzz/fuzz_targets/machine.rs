//! Everything: any case on all CPUs, with devices and interruptions, on the fixed model.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::MACHINE, input.0));
