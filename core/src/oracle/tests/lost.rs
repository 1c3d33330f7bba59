//! Memory failures: who may lose what.

use super::*;
use Outcome::Done;

/// `A` has stored 7 in page 0 and 8 in page 1, and page 0 has failed.
fn poisoned() -> Story {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.store(0, 0, 1, 8).unwrap();
    s.call(OpCode::HwPoison, 0, 0, 1, 0, Done).unwrap();
    s
}

#[test]
fn sigbus_needs_a_memory_failure_and_only_of_that_page() {
    let mut s = Story::with(4, Perm::ReadWrite);
    assert_eq!(rule(s.fault(0, 0, false, Signal::Bus)), Some(Rule::OracleSignal));
    let mut s = poisoned();
    s.fault(0, 0, false, Signal::Bus).unwrap();
    assert_eq!(rule(s.fault(0, 1, false, Signal::Bus)), Some(Rule::OracleSignal));
}

#[test]
fn a_page_may_survive_but_what_gave_sigbus_is_lost_until_it_is_dropped() {
    let mut s = poisoned();
    s.load(0, 0, 0, 7).unwrap();
    assert_eq!(rule(s.load(0, 0, 0, 9)), Some(Rule::OracleValue), "its content must be right all the same");

    let mut s = poisoned();
    s.fault(1, 0, true, Signal::Bus).unwrap();
    assert_eq!(rule(s.load(0, 0, 0, 7)), Some(Rule::OraclePoison));

    let mut s = poisoned();
    s.fault(0, 0, false, Signal::Bus).unwrap();
    s.call(OpCode::Dontneed, 0, 0, 1, 0, Done).unwrap();
    s.load(0, 0, 0, 0).unwrap();
    assert_eq!(rule(s.fault(0, 0, false, Signal::Bus)), Some(Rule::OracleSignal), "nothing is lost any more");
}

#[test]
fn a_failure_hits_those_who_share_the_page_and_nobody_else() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.store(0, 0, 1, 8).unwrap();
    let fork = s.start(OpCode::Fork, 0, 0, 0, 0, 1);
    s.end(fork, Done).unwrap();
    s.store(0, 1, 1, 9).unwrap();
    s.call(OpCode::HwPoison, 0, 0, 2, 0, Done).unwrap();
    let vpns = [s.vpn(0), s.vpn(1)];
    let bus = |op, vpn| Observation::Signal { op, proc: 1, vpn, by: Agent::Cpu(1), write: false, signal: Signal::Bus };
    let read = s.start(OpCode::Read, 1, 1, 0, 2, 0);
    s.see(bus(read, vpns[0])).unwrap();
    assert_eq!(rule(s.see(bus(read, vpns[1]))), Some(Rule::OracleSignal), "the child had copied that page");
}

#[test]
fn a_child_is_born_with_the_losses_of_its_parent() {
    let mut s = poisoned();
    s.fault(0, 0, false, Signal::Bus).unwrap();
    let fork = s.start(OpCode::Fork, 0, 0, 0, 0, 1);
    s.end(fork, Done).unwrap();
    assert_eq!(rule(s.load(1, 1, 0, 7)), Some(Rule::OraclePoison));
}
