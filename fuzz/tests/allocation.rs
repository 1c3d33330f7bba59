//! In the steady state a machine does not allocate: a world is reset, not rebuilt.
//!
//! The test stands here and not beside the model because counting allocations needs `unsafe`, which the model's
//! package forbids.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be had without it")]

use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Config, Kernel};
use ptefuzz_core::program::Case;
use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::run::{Machine, Verdict};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Cases that are run over and over.
const CASES: usize = 2_000;
/// Ops of each.
const OPS: usize = 16;
/// Times that they are run before allocations are counted, and then again.
const PASSES: usize = 2;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread how often it is asked for memory.
struct Counting;

fn count() {
    // A thread that is about to end has no counter any more.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes on to `System` with the arguments it came with; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `ptr` came from `System`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Clean cases of exactly [`OPS`] ops, on every release and both architectures.
fn pool(machine: &mut Machine) -> Vec<Case> {
    let mut rng = Rng::new(16);
    let mut cases = Vec::new();
    let mut case = Case::empty();
    for n in 0.. {
        let (kernel, arch) = (Kernel::ALL[n % Kernel::ALL.len()], Arch::ALL[n % Arch::ALL.len()]);
        let config = Config { arch, cpus: 1 + (n % 3) as u8, ..Config::fixed(kernel) };
        generate(&mut rng, &mut case, &GenConfig { config, max_ops: OPS, sequential: false, bias: None });
        if case.ops.len() == OPS && machine.run(&case) == Verdict::Clean {
            cases.push(case.clone());
        }
        if cases.len() == CASES {
            break;
        }
    }
    cases
}

#[test]
fn a_warm_machine_runs_cases_without_allocating() {
    let mut machine = Machine::new();
    let cases = pool(&mut machine);
    let mut steps = 0;
    let mut run = |machine: &mut Machine| {
        for case in cases.iter() {
            assert_eq!(machine.run(case), Verdict::Clean);
            steps += machine.steps();
        }
    };
    (0..PASSES).for_each(|_| run(&mut machine));
    let before = ALLOCATIONS.get();
    (0..PASSES).for_each(|_| run(&mut machine));
    let allocations = ALLOCATIONS.get() - before;
    assert!(steps > 0 && before > 0);
    let runs = CASES * PASSES;
    println!("{allocations} allocations in {runs} cases of {OPS} ops");
    assert!(allocations <= runs as u64 / 100, "{allocations} allocations in {runs} cases of {OPS} ops");
}
