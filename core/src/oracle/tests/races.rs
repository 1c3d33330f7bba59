//! Calls that overlap accesses: both orders pass, what fits neither does not.

use super::*;
use Outcome::Done;

#[test]
fn a_store_during_mprotect_may_retire_or_fault_and_afterwards_only_fault() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let mprotect = s.start(OpCode::Mprotect, 0, 0, 0, 4, 1);
    s.store(1, 0, 0, 7).unwrap();
    s.fault(1, 1, true, Signal::SegvAccErr).unwrap();
    s.load(2, 0, 0, 7).unwrap();
    s.end(mprotect, Done).unwrap();
    s.load(2, 0, 0, 7).unwrap();
    assert_eq!(rule(s.store(1, 0, 0, 8)), Some(Rule::OracleAccess));
}

#[test]
fn values_stay_exact_while_only_protection_changes() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.start(OpCode::Mprotect, 0, 0, 0, 4, 1);
    s.store(1, 0, 0, 7).unwrap();
    assert_eq!(rule(s.load(2, 0, 0, 0)), Some(Rule::OracleValue));
}

#[test]
fn during_dontneed_each_cpu_may_use_the_old_or_the_new_cell_and_afterwards_one_of_them_remains() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    let dontneed = s.start(OpCode::Dontneed, 0, 0, 0, 4, 0);
    s.load(1, 0, 0, 0).unwrap();
    s.load(2, 0, 0, 7).unwrap();
    s.store(2, 0, 0, 8).unwrap();
    s.load(1, 0, 0, 0).unwrap();
    s.end(dontneed, Done).unwrap();
    s.load(1, 0, 0, 0).unwrap();
    assert_eq!(rule(s.load(1, 0, 0, 8)), Some(Rule::OracleValue), "settled");

    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    let dontneed = s.start(OpCode::Dontneed, 0, 0, 0, 4, 0);
    s.store(2, 0, 0, 8).unwrap();
    s.end(dontneed, Done).unwrap();
    assert_eq!(rule(s.load(1, 0, 0, 7)), Some(Rule::OracleValue), "older than both");
}

#[test]
fn a_store_during_munmap_hits_the_only_cell_there_is() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let munmap = s.start(OpCode::Munmap, 0, 0, 0, 4, 0);
    s.store(1, 0, 0, 7).unwrap();
    s.fault(2, 0, true, Signal::SegvMapErr).unwrap();
    assert_eq!(rule(s.load(1, 0, 0, 0)), Some(Rule::OracleValue));
    s.oracle.reset(&s.case);
    let _ = munmap;
}

#[test]
fn a_child_holds_what_its_parent_held_at_some_time_during_the_fork() {
    for (value, right) in [(7, true), (8, true), (9, true), (6, false), (10, false)] {
        let mut s = Story::with(4, Perm::ReadWrite);
        s.store(1, 0, 0, 6).unwrap();
        s.store(1, 0, 0, 7).unwrap();
        let fork = s.start(OpCode::Fork, 0, 0, 0, 1, 1);
        s.store(1, 0, 0, 8).unwrap();
        s.store(1, 0, 0, 9).unwrap();
        s.end(fork, Done).unwrap();
        s.store(1, 0, 0, 10).unwrap();
        assert_eq!(s.load(2, 1, 0, value).is_ok(), right, "{value}");
        if right {
            let other = if value == 7 { 8 } else { 7 };
            assert_eq!(rule(s.load(2, 1, 0, other)), Some(Rule::OracleValue), "settled by the first load");
        }
    }
}

#[test]
fn a_signal_that_was_decided_before_a_mapping_came_may_be_seen_after_it() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let write = s.start(OpCode::Write, 1, 0, 5, 1, 0);
    s.call(OpCode::Mmap, 0, 0, 8, 2, Done).unwrap();
    s.signal_by(write, 5, Agent::Cpu(1), true, Signal::SegvMapErr).unwrap();
    s.end(write, Outcome::Signal).unwrap();
    assert_eq!(rule(s.fault(1, 5, true, Signal::SegvMapErr)), Some(Rule::OracleSignal));
}

#[test]
fn a_pin_that_overlaps_a_change_may_end_either_way() {
    for outcome in [Outcome::Done, Outcome::Fault] {
        let mut s = Story::with(4, Perm::ReadWrite);
        let pin = s.start(OpCode::Pin, 1, 0, 0, 1, 0);
        s.call(OpCode::Mprotect, 0, 0, 4, 1, Done).unwrap();
        s.end(pin, outcome).unwrap();
    }
}

#[test]
fn results_about_holes_are_free_only_while_holes_come_and_go() {
    for outcome in [Outcome::Done, Outcome::NoMem] {
        let mut s = Story::with(4, Perm::ReadWrite);
        let dontneed = s.start(OpCode::Dontneed, 1, 0, 0, 4, 0);
        s.call(OpCode::Munmap, 0, 2, 1, 0, Done).unwrap();
        s.end(dontneed, outcome).unwrap();
    }
    let mut s = Story::with(4, Perm::ReadWrite);
    let dontneed = s.start(OpCode::Dontneed, 1, 0, 0, 4, 0);
    s.call(OpCode::Munmap, 0, 8, 1, 0, Done).unwrap();
    assert_eq!(rule(s.end(dontneed, Outcome::NoMem)), Some(Rule::OracleResult), "elsewhere");
}

#[test]
fn a_store_during_clear_refs_asks_for_nothing() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let clear = s.start(OpCode::ClearRefs, 1, 0, 0, 1, 0);
    s.store(2, 0, 0, 7).unwrap();
    s.end(clear, Done).unwrap();
    s.soft_dirty(0, 0, false).unwrap();
    s.store(2, 0, 0, 8).unwrap();
    assert_eq!(rule(s.soft_dirty(0, 0, false)), Some(Rule::OracleSoftDirty));
}

#[test]
fn a_page_in_too_much_doubt_believes_everything_until_it_is_settled() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let fork = s.start(OpCode::Fork, 0, 0, 0, 1, 1);
    for token in 1..20 {
        s.store(1, 0, 0, token).unwrap();
    }
    s.end(fork, Done).unwrap();
    s.load(2, 1, 0, 3).unwrap();
    assert_eq!(rule(s.load(2, 1, 0, 4)), Some(Rule::OracleValue));
    assert_eq!(rule(s.fault(2, 0, true, Signal::SegvAccErr)), Some(Rule::OracleSignal), "the parent is certain");
}

#[test]
fn a_call_that_replaces_a_page_in_too_much_doubt_says_what_it_is_unless_it_was_disturbed() {
    for disturbed in [false, true] {
        let mut s = Story::with(4, Perm::ReadWrite);
        let dontneed = s.start(OpCode::Dontneed, 0, 0, 0, 4, 0);
        for token in 1..20 {
            s.store(1, 0, 0, token).unwrap();
        }
        let mmap = disturbed.then(|| s.start(OpCode::Mmap, 2, 0, 0, 4, 2));
        s.end(dontneed, Done).unwrap();
        match mmap {
            Some(mmap) => s.end(mmap, Done).unwrap(),
            None => s.call(OpCode::Mmap, 2, 0, 4, 2, Done).unwrap(),
        }
        assert_eq!(s.load(1, 0, 0, 5).is_ok(), disturbed);
    }
}
