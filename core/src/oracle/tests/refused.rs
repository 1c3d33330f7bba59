//! Refusals, and demands that are dropped, need a reason.

use super::*;
use Outcome::{Done, Fault, Invalid, NoMem};

fn map(region: u8, backing: Backing) -> Map {
    Map { proc: 0, region, pages: 4, perm: Perm::ReadWrite, backing }
}

impl Story {
    /// A whole call on pages of a window.
    fn call_in(&mut self, region: u8, code: OpCode, (page, len): (u32, u32), how: Outcome) -> Option<Rule> {
        let op = self.case.ops.len() as u32;
        self.case.ops.push(Op { region, page, len, ..Op::new(code, 0) });
        self.see(Observation::Start { op }).unwrap();
        rule(self.end(op, how))
    }

    /// `mincore` of one page of a window.
    fn mincore(&mut self, region: u8, page: u32, resident: bool) -> Option<Rule> {
        let op = self.case.ops.len() as u32;
        self.case.ops.push(Op { region, page, len: 1, ..Op::new(OpCode::Mincore, 0) });
        self.see(Observation::Start { op }).unwrap();
        let vpn = self.case.config.geometry.region_base(region) + page;
        rule(self.see(Observation::Resident { op, proc: 0, vpn, resident }))
    }
}

#[test]
fn a_call_is_refused_only_where_its_range_holds_what_it_refuses() {
    let refused = [
        (Backing::Hugetlb, OpCode::Munmap),
        (Backing::Hugetlb, OpCode::Mprotect),
        (Backing::Hugetlb, OpCode::WillNeed),
        (Backing::PfnmapShared, OpCode::Dontneed),
        (Backing::PfnmapShared, OpCode::Cold),
        (Backing::ShmemShared, OpCode::Free),
        (Backing::PfnmapPrivate, OpCode::DontneedLocked),
        (Backing::MixedmapShared, OpCode::GuardInstall),
    ];
    for (backing, code) in refused {
        let maps = [map(0, Backing::Anon), map(1, backing)];
        let mut s = Story::of(Kernel::NEWEST, &maps, &[]);
        assert_eq!(s.call_in(1, code, (0, 4), Invalid), None, "{code:?} of {backing:?}");
        assert_eq!(s.call_in(0, code, (0, 4), Invalid), Some(Rule::OracleResult), "{code:?} beside {backing:?}");
    }
    let mut s = Story::of(Kernel::NEWEST, &[map(0, Backing::Anon), map(1, Backing::PfnmapShared)], &[]);
    assert_eq!(s.call_in(1, OpCode::Munmap, (0, 4), Invalid), Some(Rule::OracleResult), "a device can be unmapped");
}

#[test]
fn guard_pages_are_refused_by_a_release_that_does_not_have_them_and_by_no_other() {
    for backing in [Backing::Anon, Backing::FilePrivate] {
        for (kernel, expected) in [(Kernel::V6_12, None), (Kernel::V6_15, Some(Rule::OracleResult))] {
            let mut s = Story::of(kernel, &[map(0, backing)], &[]);
            assert_eq!(s.call_in(0, OpCode::GuardInstall, (0, 2), Invalid), expected, "{kernel}");
        }
    }
}

#[test]
fn a_pin_for_reading_fails_only_where_userfaultfd_may_stop_it() {
    let maps = [map(0, Backing::Anon), map(1, Backing::Anon)];
    let mut s = Story::of(Kernel::NEWEST, &maps, &[OpCode::UffdRegister]);
    s.call(OpCode::UffdRegister, 0, 0, 4, 1, Done).unwrap();
    assert_eq!(s.call_in(0, OpCode::PinRead, (0, 1), Fault), None);
    assert_eq!(s.call_in(1, OpCode::PinRead, (0, 1), Fault), Some(Rule::OracleResult));
}

#[test]
fn one_page_that_is_mapped_can_be_moved() {
    let mut s = Story::with(4, Perm::ReadWrite);
    let to = |s: &mut Story, page, len| {
        let op = s.case.ops.len() as u32;
        s.case.ops.push(Op { page, len, arg: 8, ..Op::new(OpCode::Mremap, 0) });
        s.see(Observation::Start { op }).unwrap();
        rule(s.end(op, Fault))
    };
    assert_eq!(to(&mut s, 0, 2), None, "mappings that look alike need not be one");
    assert_eq!(to(&mut s, 5, 1), None, "nothing is there");
    assert_eq!(to(&mut s, 0, 1), Some(Rule::OracleResult));
}

#[test]
fn a_hole_is_punched_where_a_shared_file_may_be_written_and_nowhere_else() {
    let story = || Story::of(Kernel::NEWEST, &[map(0, Backing::ShmemShared), map(1, Backing::ShmemPrivate)], &[]);
    assert_eq!(story().call_in(0, OpCode::Remove, (0, 4), Done), None);
    assert_eq!(story().call_in(0, OpCode::Remove, (0, 4), Invalid), Some(Rule::OracleResult));
    assert_eq!(story().call_in(0, OpCode::Remove, (0, 5), Done), Some(Rule::OracleResult), "beyond the mapping");
    assert_eq!(story().call_in(0, OpCode::Remove, (0, 5), NoMem), None);
    assert_eq!(story().call_in(0, OpCode::Remove, (0, 4), NoMem), Some(Rule::OracleResult));
    assert_eq!(story().call_in(1, OpCode::Remove, (0, 4), Invalid), None);
    assert_eq!(story().call_in(1, OpCode::Remove, (0, 4), Done), Some(Rule::OracleResult));
    let read_only = [Map { perm: Perm::Read, ..map(0, Backing::ShmemShared) }];
    for (kernel, right, wrong) in [(Kernel::V6_6, Invalid, Done), (Kernel::V6_12, Done, Invalid)] {
        let story = || Story::of(kernel, &read_only, &[]);
        assert_eq!(story().call_in(0, OpCode::Remove, (0, 4), right), None, "{kernel}");
        assert_eq!(story().call_in(0, OpCode::Remove, (0, 4), wrong), Some(Rule::OracleResult), "{kernel}");
    }
}

#[test]
fn anonymous_memory_that_is_locked_is_in_memory_whatever_else_is_mapped() {
    let maps = [map(0, Backing::Anon), map(1, Backing::ShmemPrivate)];
    let story = || Story::of(Kernel::NEWEST, &maps, &[OpCode::Mlock]);
    for region in [0, 1] {
        let mut s = story();
        assert_eq!(s.mincore(region, 1, false), None, "it is not locked");
        assert_eq!(s.call_in(region, OpCode::Mlock, (0, 4), Done), None);
        assert_eq!(s.mincore(region, 1, true), None);
        assert_eq!(s.mincore(region, 1, false), (region == 0).then_some(Rule::OracleMincore));
    }
    let mut s = story();
    assert_eq!(s.call_in(0, OpCode::Mlock, (0, 4), Done), None);
    assert_eq!(s.call_in(0, OpCode::Munlock, (1, 1), Done), None);
    assert_eq!(s.mincore(0, 1, false), None, "it is no longer locked");
    assert_eq!(s.mincore(0, 2, false), Some(Rule::OracleMincore));
}

#[test]
fn what_was_written_after_it_came_back_from_a_device_must_read_soft_dirty() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.call(OpCode::ClearRefs, 0, 0, 1, 0, Done).unwrap();
    s.store(0, 0, 0, 7).unwrap();
    s.call(OpCode::ToDevice, 0, 0, 2, 0, Done).unwrap();
    s.soft_dirty(0, 0, false).unwrap();
    s.store(0, 0, 1, 8).unwrap();
    assert_eq!(rule(s.soft_dirty(0, 1, false)), Some(Rule::OracleSoftDirty));
}

#[test]
fn sigbus_at_a_page_that_shares_no_frame_with_the_failing_one_is_wrong_while_it_fails_too() {
    let mut s = Story::with(4, Perm::ReadWrite);
    s.store(0, 0, 0, 7).unwrap();
    s.store(0, 0, 1, 8).unwrap();
    s.start(OpCode::HwPoison, 1, 0, 0, 1, 0);
    s.fault(0, 0, false, Signal::Bus).unwrap();
    assert_eq!(rule(s.fault(0, 1, false, Signal::Bus)), Some(Rule::OracleSignal));
}

#[test]
fn nobody_is_stopped_by_userfaultfd_where_nothing_is_registered() {
    for known in [&[][..], &[OpCode::UffdRegister]] {
        let mut s = Story::of(Kernel::NEWEST, &[map(0, Backing::Anon)], known);
        let op = s.start(OpCode::Read, 0, 0, 0, 1, 0);
        let vpn = s.vpn(0);
        let event =
            Observation::Userfault { op, proc: 0, vpn, write: false, reason: crate::observe::Userfault::Missing };
        assert_eq!(rule(s.see(event)), Some(Rule::OracleUffdEvent), "{known:?}");
    }
}
