//! What the monitor of a userfaultfd hears of.

use super::*;
use crate::observe::{UffdChange, UffdFlags};
use Outcome::{Done, Invalid};

const EVENTS: UffdFlags = UffdFlags(UffdFlags::MISSING.0 | UffdFlags::EVENTS.0);

/// `A` with eight pages, of which the first four are registered.
fn registered() -> Story {
    let mut s = Story::with(8, Perm::ReadWrite);
    s.case.ops.push(Op { len: 4, arg: EVENTS.0, ..Op::new(OpCode::UffdRegister, 0) });
    s.oracle.reset(&s.case);
    s.see(Observation::Start { op: 0 }).unwrap();
    s.end(0, Done).unwrap();
    s
}

fn unmap(s: &mut Story, op: u32, page: u32, pages: u32) -> Result<(), OracleViolation> {
    let change = UffdChange::Unmap { vpn: s.vpn(page), pages };
    s.see(Observation::UffdChange { op, proc: 0, features: EVENTS.features(), change })
}

fn remove(s: &mut Story, op: u32, page: u32, pages: u32) -> Result<(), OracleViolation> {
    let change = UffdChange::Remove { vpn: s.vpn(page), pages };
    s.see(Observation::UffdChange { op, proc: 0, features: EVENTS.features(), change })
}

#[test]
fn an_unmap_that_nobody_hears_of_is_wrong_where_something_is_registered() {
    let mut s = registered();
    s.call(OpCode::Munmap, 0, 4, 4, 0, Done).unwrap();
    assert_eq!(rule(s.call(OpCode::Munmap, 0, 2, 6, 0, Done)), Some(Rule::OracleUffdChange));
}

#[test]
fn an_unmap_is_told_once_of_the_whole_call() {
    let mut s = registered();
    let op = s.start(OpCode::Munmap, 0, 0, 2, 6, 0);
    unmap(&mut s, op, 2, 6).unwrap();
    assert_eq!(rule(unmap(&mut s, op, 2, 6)), Some(Rule::OracleUffdChange), "told twice");
    let mut s = registered();
    let op = s.start(OpCode::Munmap, 0, 0, 2, 6, 0);
    assert_eq!(rule(unmap(&mut s, op, 2, 2)), Some(Rule::OracleUffdChange), "a part of the range");
    let mut s = registered();
    let op = s.start(OpCode::Munmap, 0, 0, 4, 4, 0);
    assert_eq!(rule(unmap(&mut s, op, 4, 4)), Some(Rule::OracleUffdChange), "not registered");
}

#[test]
fn a_call_that_fails_must_not_have_been_told() {
    let mut s = registered();
    // A mapping of a part of a huge page.
    let arg = Op::map_arg(Perm::ReadWrite, crate::observe::Backing::Hugetlb);
    let op = s.start(OpCode::Mmap, 0, 0, 0, 6, arg);
    unmap(&mut s, op, 0, 6).unwrap();
    assert_eq!(rule(s.end(op, Invalid)), Some(Rule::OracleUffdChange));
}

#[test]
fn what_is_emptied_is_told_of_each_registered_page_and_of_no_other() {
    let mut s = registered();
    let op = s.start(OpCode::Dontneed, 0, 0, 2, 4, 0);
    remove(&mut s, op, 2, 1).unwrap();
    remove(&mut s, op, 3, 1).unwrap();
    s.end(op, Done).unwrap();
    let op = s.start(OpCode::Dontneed, 0, 0, 2, 4, 0);
    remove(&mut s, op, 2, 1).unwrap();
    assert_eq!(rule(s.end(op, Done)), Some(Rule::OracleUffdChange), "page 3 was not told");
    let mut s = registered();
    let op = s.start(OpCode::Dontneed, 0, 0, 2, 4, 0);
    assert_eq!(rule(remove(&mut s, op, 2, 4)), Some(Rule::OracleUffdChange), "more than is registered");
}

#[test]
fn a_move_keeps_what_is_registered_and_the_monitor_hears_where_it_went() {
    let mut s = registered();
    let to = Op::arg_to(1, 0);
    let op = s.start(OpCode::Mremap, 0, 0, 0, 2, to);
    let base = s.case.config.geometry.region_base(1);
    let change = UffdChange::Remap { from: s.vpn(0), to: base, pages: 2 };
    s.see(Observation::UffdChange { op, proc: 0, features: EVENTS.features(), change }).unwrap();
    assert_eq!(rule(s.end(op, Done)), Some(Rule::OracleUffdChange), "the old place is gone, too");
}
