//! Every target for about a second, without an engine. That the canary fails shows that a failure is seen.

use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Defect, Kernel};
use ptefuzz_fuzz::engine::VIOLATION;
use ptefuzz_fuzz::smoke::smoke;
use ptefuzz_fuzz::targets::{
    CANARY, DETERMINISM, DEVICE, ENTRY, FILE, Input, MACHINE, SEQUENTIAL, TARGETS, TEXT, THP, Target, UFFD,
};
use ptefuzz_fuzz::{Failure, Pin, engine};

const CASES: u64 = 6_000;
const INPUTS: u64 = 20_000;

fn told(failure: &Failure) -> String {
    format!("{}\n{}", failure.summary(), String::from_utf8_lossy(&failure.artifact()))
}

fn is_clean(target: &Target, pin: Pin, runs: u64, seed: u64) {
    if let Err(failure) = smoke(target, pin, runs, seed) {
        panic!("{} with seed {seed}: {}", target.name, told(&failure));
    }
}

#[test]
fn machine_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (1..).zip(Kernel::ALL) {
        is_clean(&MACHINE, Pin::fixed(kernel), CASES, seed);
    }
}

#[test]
fn machine_finds_nothing_on_any_architecture() {
    for (seed, arch) in (11..).zip(Arch::ALL) {
        is_clean(&MACHINE, Pin { arch: Some(arch), ..Pin::FIXED }, CASES, seed);
    }
}

#[test]
fn sequential_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (21..).zip(Kernel::ALL) {
        is_clean(&SEQUENTIAL, Pin::fixed(kernel), CASES, seed);
    }
}

#[test]
fn uffd_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (81..).zip(Kernel::ALL) {
        is_clean(&UFFD, Pin::fixed(kernel), CASES / 2, seed);
    }
}

#[test]
fn device_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (71..).zip(Kernel::ALL) {
        is_clean(&DEVICE, Pin::fixed(kernel), CASES / 2, seed);
    }
}

#[test]
fn file_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (71..).zip(Kernel::ALL) {
        is_clean(&FILE, Pin::fixed(kernel), CASES / 2, seed);
    }
}

#[test]
fn thp_finds_nothing_in_any_fixed_kernel() {
    for (seed, kernel) in (91..).zip(Kernel::ALL) {
        is_clean(&THP, Pin::fixed(kernel), CASES / 2, seed);
    }
}

#[test]
fn entry_encodings_keep_their_laws() {
    is_clean(&ENTRY, Pin::FIXED, INPUTS, 31);
}

#[test]
fn what_the_parser_reads_can_be_printed_and_read_again() {
    is_clean(&TEXT, Pin::FIXED, INPUTS, 41);
}

#[test]
fn the_same_case_gives_the_same_trace() {
    is_clean(&DETERMINISM, Pin::FIXED, CASES / 4, 61);
}

#[test]
fn the_canary_fails() {
    let failure = smoke(&CANARY, Pin::FIXED, 20 * CASES, 51).expect_err("a planted defect must be seen");
    let Failure::Violation { case, .. } = &failure else { panic!("not a violation: {}", failure.summary()) };
    assert!(case.config.has(Defect::S4));
}

#[test]
fn the_same_seed_gives_the_same_failure() {
    let run = || smoke(&CANARY, Pin::FIXED, 20 * CASES, 52).map_err(|failure| told(&failure));
    assert_eq!(run(), run());
}

#[test]
fn a_saved_failure_fails_again_in_the_same_way() {
    let failure = smoke(&CANARY, Pin::FIXED, 20 * CASES, 53).expect_err("a planted defect must be seen");
    let mut session = ptefuzz_fuzz::Session::new(Pin::FIXED);
    let again = CANARY.run(&failure.artifact(), &mut session).expect_err("what was saved fails, too");
    assert_eq!(again.summary(), failure.summary());
    assert_eq!(again.artifact(), failure.artifact());
}

#[test]
fn no_bytes_and_any_one_byte_are_inputs_of_every_target() {
    let mut session = ptefuzz_fuzz::Session::new(Pin::FIXED);
    for target in TARGETS {
        for input in std::iter::once(Vec::new()).chain((0..=u8::MAX).map(|b| vec![b])) {
            if let Err(failure) = target.run(&input, &mut session) {
                panic!("{}: {}", target.name, told(&failure));
            }
        }
    }
}

#[test]
fn under_an_engine_a_failure_is_a_panic_that_says_it_is_no_mistake_of_the_harness() {
    let failure = smoke(&CANARY, Pin::FIXED, 20 * CASES, 54).expect_err("a planted defect must be seen");
    let artifact = failure.artifact();
    let panic = std::panic::catch_unwind(|| engine::check(&CANARY, &artifact)).expect_err("it panics");
    let message = panic.downcast_ref::<String>().expect("it has a message");
    assert_eq!(*message, format!("{VIOLATION} {}", failure.summary()));
}

#[test]
fn cargo_fuzz_fmt_shows_a_case_as_text() {
    let Input::Case(_) = CANARY.input else { panic!("the canary takes cases") };
    let failure = smoke(&CANARY, Pin::FIXED, 20 * CASES, 55).expect_err("a planted defect must be seen");
    let artifact = failure.artifact();
    let shown = format!("{:#?}", ptefuzz_fuzz::CaseInput(&artifact));
    assert_eq!(shown.as_bytes(), artifact);
}
