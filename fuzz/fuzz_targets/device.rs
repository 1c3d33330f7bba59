//! Mostly devices: exclusive access, device memory, and migration, reclaim and offlining of what they hold.
#![no_main]

use ptefuzz_fuzz::{CaseInput, engine, targets};

libfuzzer_sys::fuzz_target!(|input: CaseInput<'_>| engine::check(&targets::DEVICE, input.0));
