//! One thing after another: here the oracle is exact.

use super::*;
use Outcome::{Done, Fault, NoMem, Skipped};

const RO: u8 = 1;
const RW: u8 = 2;
const NONE: u8 = 0;

#[test]
fn a_fresh_page_reads_zero_and_then_what_was_stored() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.load(0, 0, 0, 0).unwrap();
    s.store(0, 0, 0, 7).unwrap();
    s.load(1, 0, 0, 7).unwrap();
    s.load_by(0, 0, 0, Agent::Device(0), 7).unwrap();
    s.store_by(0, 0, 0, Agent::Device(1), 8).unwrap();
    s.load(0, 0, 0, 8).unwrap();
}

#[test]
fn a_driver_is_told_of_no_more_than_the_process_may_do() {
    use crate::observe::HmmPfn;
    let told = |s: &mut Story, page, seen| {
        let op = s.start(OpCode::Snapshot, 0, 0, page, 1, 0);
        let vpn = s.vpn(page);
        s.see(Observation::Snapshot { op, proc: 0, vpn, device: 0, seen })?;
        s.end(op, Done)
    };
    let (read, write) = (HmmPfn::Page { write: false }, HmmPfn::Page { write: true });
    let mut s = Story::with(2, Perm::ReadWrite);
    for seen in [HmmPfn::None, HmmPfn::Zero, read, write, HmmPfn::Private { write: true }] {
        told(&mut s, 0, seen).unwrap();
    }
    told(&mut s, 2, HmmPfn::Error).unwrap();
    s.store(0, 0, 1, 7).unwrap();
    s.call(OpCode::Mprotect, 0, 0, 1, RO, Done).unwrap();
    told(&mut s, 0, read).unwrap();
    for (page, seen) in [(0, HmmPfn::Error), (0, write), (1, HmmPfn::Zero), (2, HmmPfn::None), (2, read)] {
        assert_eq!(rule(told(&mut s, page, seen)), Some(Rule::OracleHmm), "{page} {seen:?}");
    }
}

#[test]
fn a_debugger_reads_and_writes_private_memory_whatever_its_protection() {
    let access = |s: &mut Story, write, value| {
        let op = s.start(if write { OpCode::MemWrite } else { OpCode::MemRead }, 0, 0, 0, 1, 0);
        if write {
            s.store_by(op, 0, 0, Agent::Debugger, value)?;
        } else {
            s.load_by(op, 0, 0, Agent::Debugger, value)?;
        }
        s.end(op, Done)
    };
    let mut s = Story::with(1, Perm::None);
    access(&mut s, false, 0).unwrap();
    access(&mut s, true, 7).unwrap();
    assert_eq!(rule(access(&mut s, false, 0)), Some(Rule::OracleValue));
    s.call(OpCode::Mprotect, 0, 0, 1, RO, Done).unwrap();
    s.load(0, 0, 0, 7).unwrap();
    assert_eq!(rule(s.call(OpCode::MemRead, 0, 0, 1, 0, Fault)), Some(Rule::OracleResult));
    s.call(OpCode::Munmap, 0, 0, 1, 0, Done).unwrap();
    s.call(OpCode::MemRead, 0, 0, 1, 0, Fault).unwrap();
    assert_eq!(rule(access(&mut s, true, 8)), Some(Rule::OracleAccess));
}

#[test]
fn a_stale_load_and_a_lost_store_are_caught_with_evidence() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 1, 7).unwrap();
    s.store(0, 0, 1, 8).unwrap();
    let violation = s.load(1, 0, 1, 7).unwrap_err();
    assert_eq!(violation.rule, Rule::OracleValue);
    assert_eq!((violation.evidence.expected, violation.evidence.found), (Some(8), Some(7)));
    assert_eq!((violation.evidence.cpu, violation.evidence.vpn), (Some(1), Some(s.vpn(1))));

    let mut s = Story::with(4, Perm::ReadWrite);
    s.store_by(0, 0, 1, Agent::Device(0), 9).unwrap();
    assert_eq!(rule(s.load(0, 0, 1, 0)), Some(Rule::OracleValue));
}

#[test]
fn an_access_that_the_mapping_forbids_must_not_retire() {
    let mut s = Story::with(4, Perm::Read);
    s.load(0, 0, 0, 0).unwrap();
    assert_eq!(rule(s.store(0, 0, 0, 1)), Some(Rule::OracleAccess));
    let mut s = Story::with(4, Perm::None);
    assert_eq!(rule(s.load(0, 0, 0, 0)), Some(Rule::OracleAccess));
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.load(0, 0, 4, 0)), Some(Rule::OracleAccess), "not mapped");
    let mut s = Story::with(4, Perm::Read);
    assert_eq!(rule(s.store_by(0, 0, 0, Agent::Device(0), 1)), Some(Rule::OracleAccess));
}

#[test]
fn signals_come_exactly_where_the_mapping_forbids_the_access_and_with_the_right_code() {
    let mut s = Story::with(4, Perm::Read);
    s.fault(0, 0, true, Signal::SegvAccErr).unwrap();
    s.fault(0, 4, true, Signal::SegvMapErr).unwrap();
    s.fault(0, 0, true, Signal::OomKill).unwrap();
    for (page, write, signal) in [
        (0, false, Signal::SegvAccErr),
        (0, true, Signal::SegvMapErr),
        (4, false, Signal::SegvAccErr),
        (0, true, Signal::Bus),
    ] {
        let mut s = Story::with(4, Perm::Read);
        assert_eq!(rule(s.fault(0, page, write, signal)), Some(Rule::OracleSignal), "{page} {write} {signal:?}");
    }
}

#[test]
fn an_access_that_neither_retires_nor_faults_is_caught() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let op = s.start(OpCode::Write, 0, 0, 0, 2, 0);
    s.store_by(op, 0, 0, Agent::Cpu(0), 5).unwrap();
    assert_eq!(rule(s.end(op, Done)), Some(Rule::OracleResult));
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.call(OpCode::Read, 0, 0, 1, 0, Outcome::Signal)), Some(Rule::OracleResult));
}

#[test]
fn mmap_gives_zeroes_and_munmap_takes_the_page_away() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 1, 7).unwrap();
    s.call(OpCode::Mmap, 0, 0, 6, RO, Done).unwrap();
    s.load(0, 0, 1, 0).unwrap();
    s.fault(0, 5, true, Signal::SegvAccErr).unwrap();
    s.call(OpCode::Munmap, 0, 1, 9, 0, Done).unwrap();
    s.fault(0, 1, false, Signal::SegvMapErr).unwrap();
    s.load(0, 0, 0, 0).unwrap();
    assert_eq!(rule(s.call(OpCode::Munmap, 0, 1, 9, 0, NoMem)), Some(Rule::OracleResult));
}

#[test]
fn a_failed_mmap_leaves_the_old_mapping_or_none() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 1, 7).unwrap();
    s.call(OpCode::Mmap, 0, 0, 4, RO, NoMem).unwrap();
    s.fault(0, 0, true, Signal::SegvMapErr).unwrap();
    s.load(0, 0, 1, 7).unwrap();
    assert_eq!(rule(s.load(0, 0, 2, 9)), Some(Rule::OracleValue));
}

#[test]
fn mprotect_keeps_the_value_and_stops_at_the_first_hole() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Munmap, 0, 2, 1, 0, Done).unwrap();
    s.call(OpCode::Mprotect, 0, 0, 4, RO, NoMem).unwrap();
    s.load(0, 0, 0, 7).unwrap();
    s.fault(0, 1, true, Signal::SegvAccErr).unwrap();
    s.store(0, 0, 3, 8).unwrap();
    s.call(OpCode::Mprotect, 0, 0, 2, NONE, Done).unwrap();
    s.fault(0, 0, false, Signal::SegvAccErr).unwrap();
    s.call(OpCode::Mprotect, 0, 0, 2, RW, Done).unwrap();
    s.load(0, 0, 0, 7).unwrap();
    assert_eq!(rule(s.call(OpCode::Mprotect, 0, 0, 4, RO, Done)), Some(Rule::OracleResult));
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.call(OpCode::Mprotect, 0, 0, 4, RO, NoMem)), Some(Rule::OracleResult));
}

#[test]
fn dontneed_zeroes_all_that_is_mapped_and_tells_of_holes() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.store(0, 0, 3, 8).unwrap();
    s.call(OpCode::Munmap, 0, 1, 1, 0, Done).unwrap();
    s.call(OpCode::Dontneed, 0, 0, 4, 0, NoMem).unwrap();
    s.load(0, 0, 3, 0).unwrap();
    assert_eq!(rule(s.load(0, 0, 0, 7)), Some(Rule::OracleValue));
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.call(OpCode::Dontneed, 0, 0, 4, 0, NoMem)), Some(Rule::OracleResult));
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.call(OpCode::Dontneed, 0, 0, 5, 0, Done)), Some(Rule::OracleResult));
}

#[test]
fn pageout_changes_nothing_and_tells_of_holes() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Pageout, 0, 0, 4, 0, Done).unwrap();
    s.call(OpCode::Pageout, 0, 0, 5, 0, NoMem).unwrap();
    s.load(0, 0, 0, 7).unwrap();
    assert_eq!(rule(s.call(OpCode::Pageout, 0, 0, 5, 0, Done)), Some(Rule::OracleResult));
}

#[test]
fn a_call_that_was_skipped_has_done_nothing() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Dontneed, 0, 0, 4, 0, Skipped).unwrap();
    assert_eq!(rule(s.load(0, 0, 0, 0)), Some(Rule::OracleValue));
}

#[test]
fn pin_and_exclusive_need_a_page_that_may_be_written() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.call(OpCode::Pin, 0, 0, 1, 0, Done).unwrap();
    s.call(OpCode::Unpin, 0, 0, 1, 0, Done).unwrap();
    s.call(OpCode::Pin, 0, 4, 1, 0, Fault).unwrap();
    s.call(OpCode::Exclusive, 0, 3, 2, 0, Done).unwrap();
    s.call(OpCode::Exclusive, 0, 3, 2, 0, Fault).unwrap();
    assert_eq!(rule(s.call(OpCode::Pin, 0, 0, 1, 0, Fault)), Some(Rule::OracleResult));
    let mut s = Story::with(4, Perm::Read);
    assert_eq!(rule(s.call(OpCode::Pin, 0, 0, 1, 0, Done)), Some(Rule::OracleResult));
    let mut s = Story::with(4, Perm::Read);
    assert_eq!(rule(s.call(OpCode::Exclusive, 0, 0, 4, 0, Done)), Some(Rule::OracleResult));
}

#[test]
fn a_child_has_a_copy_and_neither_sees_what_the_other_writes_later() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    s.store(0, 0, 0, 8).unwrap();
    s.load(1, 1, 0, 7).unwrap();
    s.store(1, 1, 0, 9).unwrap();
    s.load(0, 0, 0, 8).unwrap();
    assert_eq!(rule(s.load(1, 1, 0, 8)), Some(Rule::OracleValue), "the parent's later write");
}

#[test]
fn a_failed_fork_makes_no_child_and_a_name_in_use_is_not_given_twice() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.call(OpCode::Fork, 0, 0, 1, 1, NoMem).unwrap();
    assert_eq!(rule(s.load(1, 1, 0, 0)), Some(Rule::OracleAccess));
    let mut s = Story::with(4, Perm::ReadWrite);
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    assert_eq!(rule(s.call(OpCode::Fork, 0, 0, 1, 1, Done)), Some(Rule::OracleResult));
}

#[test]
fn nothing_reaches_a_process_that_is_gone_and_its_name_can_be_born_again() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    let exit = s.start(OpCode::Exit, 0, 1, 0, 1, 0);
    s.load_by(exit, 1, 0, Agent::Device(0), 7).unwrap();
    s.end(exit, Done).unwrap();
    s.see(Observation::Gone { proc: 1 }).unwrap();
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    s.load(1, 1, 0, 7).unwrap();
    s.see(Observation::Gone { proc: 1 }).unwrap();
    assert_eq!(rule(s.load_by(0, 1, 0, Agent::Device(0), 7)), Some(Rule::OracleAccess));
}

#[test]
fn a_page_that_was_written_or_mapped_since_clear_refs_must_read_soft_dirty() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.soft_dirty(0, 0, true).unwrap();
    s.call(OpCode::ClearRefs, 0, 0, 1, 0, Done).unwrap();
    s.soft_dirty(0, 0, false).unwrap();
    s.soft_dirty(0, 1, true).unwrap();
    s.store(0, 0, 0, 7).unwrap();
    assert_eq!(rule(s.soft_dirty(0, 0, false)), Some(Rule::OracleSoftDirty));

    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.soft_dirty(0, 0, false)), Some(Rule::OracleSoftDirty), "new");
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Dontneed, 0, 0, 1, 0, Done).unwrap();
    s.call(OpCode::Mprotect, 0, 0, 1, RO, Done).unwrap();
    s.soft_dirty(0, 0, false).unwrap();
}

#[test]
fn a_child_inherits_soft_dirty_pages() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.call(OpCode::ClearRefs, 0, 0, 1, 0, Done).unwrap();
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    s.soft_dirty(1, 1, false).unwrap();
    assert_eq!(rule(s.soft_dirty(1, 0, false)), Some(Rule::OracleSoftDirty));
}

#[test]
fn an_oracle_that_is_used_again_judges_like_a_new_one() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::Fork, 0, 0, 1, 1, Done).unwrap();
    s.start(OpCode::Munmap, 0, 0, 0, 4, 0);
    s.oracle.reset(&s.case);
    assert_eq!(rule(s.load(1, 1, 0, 7)), Some(Rule::OracleAccess), "no child");
    s.oracle.reset(&s.case);
    s.load(1, 0, 0, 0).unwrap();
    assert_eq!(rule(s.fault(2, 0, false, Signal::SegvMapErr)), Some(Rule::OracleSignal), "nothing in flight");
}
