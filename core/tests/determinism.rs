//! One case, one result: always, on every machine, in every build.

use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Config, Defect, Kernel};
use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::{Case, OpCode};
use ptefuzz_core::run::Machine;
use std::fmt::{self, Write};

/// Hash of [`pool`]'s verdicts and traces. Debug, release and instrumented builds on every machine must agree on it.
/// It changes with the model, the generator and the words of the trace; then the new value, which the test prints,
/// takes its place here. When it changes and none of these did, something is not deterministic.
const TRACES: u64 = 0x2c27_3a70_1eb8_1728;

/// Cases for each release and architecture.
const EACH: usize = 9;

/// Defects that many cases run into.
const COMMON: [Defect; 5] = [Defect::S1, Defect::S4, Defect::S7, Defect::S11, Defect::S17];

/// 54 generated cases: every release as it was, with its defects, on both architectures, one to four CPUs. Every
/// third has one defect more.
fn pool() -> Vec<Case> {
    let mut rng = Rng::new(0x5eed);
    let mut cases = Vec::new();
    for kernel in Kernel::ALL {
        for arch in Arch::ALL {
            for n in 0..EACH {
                let mut config = Config { arch, cpus: 1 + (n % 4) as u8, ..Config::of(kernel) };
                if n % 3 == 2 {
                    config.defects = config.defects.with(COMMON[cases.len() / 3 % COMMON.len()]);
                }
                let mut case = Case::empty();
                generate(&mut rng, &mut case, &GenConfig { config, max_ops: 24, sequential: n == 0 });
                cases.push(case);
            }
        }
    }
    cases
}

/// FNV-1a, fed with text.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

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
        generate(&mut rng, &mut case, &GenConfig { config, max_ops: 32, sequential: false });
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
    let mut machine = Machine::new();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for case in pool() {
        let result = machine.run_traced(&case);
        assert!(write!(hash, "{result:?}").is_ok());
    }
    assert_eq!(hash.0, TRACES, "the traces have changed; if the model has, TRACES is now {:#018x}", hash.0);
}
