use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Config, Defect, Kernel};
use ptefuzz_core::program::{Action, Case, Interrupt, Map, Op, OpCode, Perm};
use ptefuzz_core::sched::Site;

use super::*;

fn op(code: OpCode, cpu: u8, page: u32, len: u32) -> Op {
    Op { page, len, ..Op::new(code, cpu) }
}

fn cluttered() -> Case {
    let mut config = Config::of(Kernel::V6_12);
    config.arch = Arch::Arm64;
    config.cpus = 4;
    let mut ops = Vec::new();
    for i in 0..10 {
        ops.push(op(OpCode::Read, i % 4, u32::from(i), 3));
        ops.push(op(OpCode::Write, (i + 1) % 4, u32::from(i), 2));
    }
    ops.insert(7, op(OpCode::Exclusive, 2, 5, 4));
    ops.insert(15, op(OpCode::Reclaim, 3, 5, 4));
    let at = |cpu, nth| Interrupt { cpu, site: Site::PteSet, nth, action: Action::Switch { cpu: 1 } };
    Case {
        config,
        maps: vec![
            Map { proc: 1, region: 2, pages: 8, perm: Perm::Read, backing: ptefuzz_core::observe::Backing::Anon },
            Map { proc: 0, region: 0, pages: 12, perm: Perm::ReadWrite, backing: ptefuzz_core::observe::Backing::Anon },
        ],
        ops,
        interrupts: vec![at(2, 5), at(3, 4), at(0, 1)],
    }
}

fn position(case: &Case, code: OpCode) -> Option<usize> {
    case.ops.iter().position(|o| o.code == code)
}

#[test]
fn what_a_synthetic_predicate_needs_is_all_that_is_left() {
    let needs = |c: &Case| {
        let order =
            matches!((position(c, OpCode::Exclusive), position(c, OpCode::Reclaim)), (Some(e), Some(r)) if e < r);
        order && c.config.has(Defect::D12)
    };
    let got = minimize(&cluttered(), Limits { time: None, ..Limits::default() }, needs);
    assert!(got.complete, "{} runs", got.runs);
    let codes: Vec<OpCode> = got.case.ops.iter().map(|o| o.code).collect();
    assert_eq!(codes, [OpCode::Exclusive, OpCode::Reclaim]);
    assert!(got.case.ops.iter().all(|o| (o.cpu, o.page, o.len) == (0, 0, 1)), "{:?}", got.case.ops);
    assert!(got.case.maps.is_empty() && got.case.interrupts.is_empty());
    assert_eq!(got.case.config.defects.iter().collect::<Vec<_>>(), [Defect::D12]);
    assert_eq!((got.case.config.arch, got.case.config.cpus), (Arch::X86_64, 1));
    assert_eq!(got.case.config.kernel, Kernel::V6_12, "the kernel is kept");
}

#[test]
fn ops_that_only_go_together_are_removed_together() {
    let mut case = Case::empty();
    case.ops = vec![op(OpCode::Pin, 0, 0, 1), op(OpCode::Write, 0, 0, 1), op(OpCode::Unpin, 0, 0, 1)];
    let balanced = |c: &Case| {
        let count = |code| c.ops.iter().filter(|o| o.code == code).count();
        count(OpCode::Pin) == count(OpCode::Unpin) && count(OpCode::Write) == 1
    };
    let got = minimize(&case, Limits::default(), balanced);
    assert_eq!(got.case.ops.len(), 1);
}

#[test]
fn removing_an_op_lowers_the_nth_of_an_interruption_that_counted_its_visits() {
    let mut case = Case::empty();
    case.ops = vec![op(OpCode::Write, 0, 0, 1), op(OpCode::Write, 0, 0, 1), op(OpCode::Fork, 0, 0, 1)];
    case.interrupts = vec![Interrupt { cpu: 0, site: Site::PteSet, nth: 3, action: Action::Switch { cpu: 1 } }];
    // Every op visits the site once; the interruption must hit the fork.
    let hits = |c: &Case| {
        let nth = c.interrupts.first().map_or(0, |i| usize::from(i.nth));
        nth > 0 && c.ops.get(nth - 1).is_some_and(|o| o.code == OpCode::Fork)
    };
    let got = minimize(&case, Limits::default(), hits);
    assert_eq!(got.case.ops.len(), 1);
    assert_eq!(got.case.interrupts[0].nth, 1);
}

#[test]
fn the_result_is_the_same_every_time_and_a_minimum_of_itself() {
    let needs = |c: &Case| c.ops.iter().filter(|o| o.len >= 2).count() >= 3 && c.interrupts.len() >= 2;
    let limits = Limits { time: None, ..Limits::default() };
    let first = minimize(&cluttered(), limits, needs);
    assert_eq!(first.case.ops.len(), 3);
    assert_eq!(first.case.interrupts.len(), 2);
    assert_eq!(first, minimize(&cluttered(), limits, needs));
    assert_eq!(minimize(&first.case, limits, needs).case, first.case);
}

#[test]
fn the_run_limit_ends_the_search_with_a_case_that_still_holds() {
    let needs = |c: &Case| position(c, OpCode::Exclusive).is_some();
    let got = minimize(&cluttered(), Limits { runs: 3, time: None }, needs);
    assert_eq!(got.runs, 3);
    assert!(!got.complete && needs(&got.case));
}
