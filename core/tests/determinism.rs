//! One case, one result: always, on every machine, in every build.

use ptefuzz_core::config::{Config, Kernel};
use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::{Case, OpCode};
use ptefuzz_core::run::{FINGERPRINT, Machine, fingerprint, pool};

#[test]
fn the_same_case_gives_the_same_trace_twice() {
    let mut machine = Machine::new();
    for case in pool() {
        let first = machine.run_traced(&case);
        assert_eq!(first, machine.run_traced(&case), "{case:?}");
        assert!(!first.1.events.is_empty());
    }
}

#[test]
fn a_machine_that_has_run_other_cases_does_what_a_fresh_one_does() {
    let mut used = Machine::new();
    let (mut rng, mut case) = (Rng::new(7), Case::empty());
    let mut violations = 0;
    for n in 0..200 {
        let config = Config { cpus: 1 + n % 4, ..Config::of(Kernel::V6_12) };
        generate(&mut rng, &mut case, &GenConfig { config, max_ops: 32, sequential: false, bias: None });
        violations += u32::from(used.run(&case).violation().is_some());
    }
    assert!(violations > 0, "tasks that were stopped in the middle are what this is about");
    for case in pool() {
        assert_eq!(used.run_traced(&case), Machine::new().run_traced(&case), "{case:?}");
    }
}

#[test]
fn a_run_without_a_trace_is_the_same_run() {
    let mut machine = Machine::new();
    for case in pool() {
        let (verdict, _) = machine.run_traced(&case);
        let steps = machine.steps();
        assert_eq!((machine.run(&case), machine.steps()), (verdict, steps), "{case:?}");
    }
}

#[test]
fn the_pool_has_clean_cases_and_violations_and_most_of_the_ops() {
    let mut machine = Machine::new();
    let cases = pool();
    let clean = cases.iter().filter(|c| machine.run(c).violation().is_none()).count();
    assert!(clean > 20 && clean < cases.len(), "{clean} of {} are clean", cases.len());
    let used = OpCode::ALL.iter().filter(|code| cases.iter().any(|c| c.ops.iter().any(|op| op.code == **code)));
    assert!(used.count() * 10 >= OpCode::ALL.len() * 9);
}

#[test]
fn every_build_gives_the_same_traces() {
    let now = fingerprint();
    assert_eq!(now, FINGERPRINT, "the traces have changed; if the model has, FINGERPRINT is now {now:#018x}");
}
