//! Idioms: a few ops on one range that make a state worth being in, and ops that ask what has become of a page.
//!
//! Most defects show on a page that has a history of three or four ops: it was written, swapped out and is shared with a child, or
//! merged with another, or write-protected and migrated. Drawn one by one these ops hardly ever come together. An idiom is
//! such a history, of one family; cases begin with none, one or a few, and what comes after is drawn freely. An idiom says
//! nothing of what goes wrong: that is left to the ops that follow, and to who comes between.

use super::{Focus, NEAR_PAGES, pick_arg, pick_page, stay_inside};
use crate::program::case::Case;
use crate::program::family::Family;
use crate::program::op::OpCode::{self, *};
use crate::program::op::{Op, Shape};
use crate::program::rng::Rng;

/// Histories of a range, by what they are about.
const IDIOMS: [(Family, &[OpCode]); 60] = [
    (Family::Base, &[Write]),
    (Family::Base, &[Read]),
    (Family::Base, &[Write, Fork]),
    (Family::Base, &[Read, Fork]),
    (Family::Base, &[Write, Fork, Write]),
    (Family::Reclaim, &[Write, Pageout]),
    (Family::Reclaim, &[Write, Reclaim, Read]),
    (Family::Reclaim, &[Write, Fork, Pageout]),
    (Family::Reclaim, &[Write, Reclaim, Read, Fork]),
    (Family::Track, &[Write, ClearRefs]),
    (Family::Track, &[ClearRefs, Write]),
    (Family::Track, &[Write, ClearRefs, Write]),
    (Family::Migrate, &[Write, Migrate]),
    (Family::Migrate, &[Write, NumaScan]),
    (Family::Gup, &[Write, PinFast]),
    (Family::Gup, &[Write, Pin]),
    (Family::Gup, &[Read, PinRead]),
    (Family::Gup, &[Write, Fork, PinRead]),
    (Family::Uffd, &[UffdRegister]),
    (Family::Uffd, &[UffdRegister, UffdWp]),
    (Family::Uffd, &[Write, UffdRegister, UffdWp]),
    (Family::Uffd, &[Read, UffdRegister, UffdWp]),
    (Family::Uffd, &[Write, UffdRegister, UffdWp, Fork]),
    (Family::Uffd, &[Write, Fork, UffdRegister, UffdWp]),
    (Family::Uffd, &[Write, UffdRegister]),
    (Family::File, &[Write, Writeback]),
    (Family::File, &[Write, Writeback, Write]),
    (Family::File, &[Read, Write]),
    (Family::File, &[Write, Dontneed]),
    (Family::Device, &[Write, Exclusive]),
    (Family::Device, &[Write, ToDevice]),
    (Family::Device, &[DevWrite]),
    (Family::Device, &[Read, ToDevice]),
    (Family::Swap, &[Write, Pageout]),
    (Family::Swap, &[SwapOn, Write, Pageout]),
    (Family::Swap, &[Write, Pageout, SwapError]),
    (Family::Ksm, &[Mergeable, PopulateWrite]),
    (Family::Ksm, &[Mergeable, PopulateWrite, Ksm]),
    (Family::Ksm, &[Mergeable, PopulateWrite, Ksm, Fork]),
    (Family::Ksm, &[Mergeable, PopulateWrite, Fork, Ksm]),
    (Family::Memcg, &[Attach, Write]),
    (Family::Memcg, &[Write, Attach]),
    (Family::Poison, &[Write, MemoryFailure]),
    (Family::Poison, &[Write, HwPoison]),
    (Family::Poison, &[Write, MemoryFailure, Dontneed, Read]),
    (Family::Poison, &[Write, SoftOffline]),
    (Family::Thp, &[Hugepage, Write]),
    (Family::Thp, &[Hugepage, Write]),
    (Family::Thp, &[Hugepage, Write, Fork]),
    (Family::Thp, &[Hugepage, Read]),
    (Family::Thp, &[Write, Collapse]),
    (Family::Madvise, &[Write, Free]),
    (Family::Madvise, &[Write, GuardInstall]),
    (Family::Mremap, &[Write, Mremap]),
    (Family::Mremap, &[Read, Mremap]),
    (Family::Driver, &[Write]),
    (Family::Driver, &[Read]),
    (Family::Hugetlb, &[Write]),
    (Family::Mlock, &[Mlock, Write]),
    (Family::Mlock, &[Write, Mlock]),
];

/// Ops that ask what a page is now.
const PROBES: [OpCode; 12] =
    [Read, Read, Read, Read, Write, Write, Write, Pagemap, Reclaim, DmaRead, DmaWrite, DevRead];

/// An idiom of one of the case's families.
pub(super) fn pick_idiom(rng: &mut Rng, focus: &Focus) -> (Family, &'static [OpCode]) {
    let base = rng.percent(15);
    let suits =
        |(family, _): &&(Family, &[OpCode])| focus.families.contains(*family) && (base || *family != Family::Base);
    let count = IDIOMS.iter().filter(suits).count();
    IDIOMS.iter().filter(suits).nth(rng.index(count)).copied().unwrap_or(IDIOMS[0])
}

/// Adds an idiom, on a range of its own or on that of the one before.
pub(super) fn add_idiom(rng: &mut Rng, case: &mut Case, focus: &mut Focus) {
    let (family, codes) = pick_idiom(rng, focus);
    if case.ops.is_empty() || rng.percent(20) {
        choose_range(rng, case, focus, family);
    }
    for code in codes {
        let op = on_focus(rng, case, focus, *code);
        case.ops.push(op);
    }
}

/// Adds an op that asks what has become of a page.
pub(super) fn add_probe(rng: &mut Rng, case: &mut Case, focus: &mut Focus) {
    let pinned = case.ops.iter().any(|op| op.code.family() == Family::Gup);
    let suits = |code: &OpCode| match code {
        DmaRead | DmaWrite => pinned,
        _ => focus.families.contains(code.family()),
    };
    let code = rng.pick(&PROBES).filter(suits).unwrap_or(Read);
    if let Some(earlier) = rng.pick(&case.ops).filter(|op| rng.percent(25) && op.len > 0) {
        (focus.region, focus.page, focus.len) = (earlier.region, earlier.page, earlier.len);
    }
    focus.proc = super::pick_proc(rng, focus);
    let op = on_focus(rng, case, focus, code);
    case.ops.push(op);
}

/// The range of an idiom: one page, a few, or what a huge page takes.
fn choose_range(rng: &mut Rng, case: &Case, focus: &mut Focus, family: Family) {
    let ptrs = case.config.geometry.ptrs();
    let huge = family == Family::Thp || case.maps.first().is_some_and(|m| m.backing.hugetlb());
    (focus.region, focus.page) = (0, pick_page(rng, &case.config));
    focus.len = match rng.below(10) {
        0..=6 if family != Family::Ksm => 1,
        _ => 2 + rng.below(NEAR_PAGES),
    };
    if rng.percent(if huge { 80 } else { 8 }) {
        (focus.page, focus.len) = (0, ptrs * (1 + rng.below(2)));
    }
}

/// An op on the range that the ops before it were on.
pub(super) fn on_focus(rng: &mut Rng, case: &Case, focus: &mut Focus, code: OpCode) -> Op {
    let mut op = Op::new(code, focus.cpu);
    (op.proc, op.region, op.page, op.len) = (focus.proc, focus.region, focus.page, focus.len.max(1));
    if code == UffdRegister && rng.percent(30) {
        (op.page, op.len) = (0, NEAR_PAGES + rng.below(NEAR_PAGES));
    }
    stay_inside(rng, case, &mut op);
    op.arg = pick_arg(rng, code, op.proc, case, focus.families);
    crate::program::codec::repair_op(&mut op, &case.config);
    let range = (focus.page, focus.len);
    focus.follow(&op);
    if code.shape() != Shape::RangeTo {
        (focus.page, focus.len) = range;
    }
    op
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::family::FamilySet;

    #[test]
    fn every_idiom_is_drawn_and_only_from_the_families_of_the_case() {
        let mut rng = Rng::new(1);
        for family in Family::ALL {
            let mut focus = Focus::of(&Case::empty());
            focus.families = FamilySet::BASE.with(family);
            let drawn: Vec<_> = (0..2000).map(|_| pick_idiom(&mut rng, &focus)).collect();
            assert!(drawn.iter().all(|(f, _)| [Family::Base, family].contains(f)), "{}", family.name());
            for idiom in IDIOMS.iter().filter(|(f, _)| *f == family) {
                assert!(drawn.contains(idiom), "{idiom:?}");
            }
        }
    }

    #[test]
    fn the_ops_of_an_idiom_share_their_first_page_unless_one_of_them_moves_it() {
        let mut rng = Rng::new(2);
        for _ in 0..1000 {
            let mut case = Case::empty();
            let mut focus = Focus::of(&case);
            focus.families = FamilySet::ALL;
            add_idiom(&mut rng, &mut case, &mut focus);
            assert!(!case.ops.is_empty());
            let ranged = |op: &&Op| op.len > 0 && op.code != UffdRegister;
            let pages: Vec<u32> = case.ops.iter().filter(ranged).map(|op| op.page).collect();
            assert!(pages.windows(2).all(|w| w[0] == w[1]), "{:?}", case.ops);
        }
    }

    #[test]
    fn a_probe_asks_for_what_a_device_wrote_only_where_something_is_pinned() {
        let mut rng = Rng::new(3);
        for _ in 0..500 {
            let mut case = Case::empty();
            let mut focus = Focus::of(&case);
            focus.families = FamilySet::ALL;
            add_probe(&mut rng, &mut case, &mut focus);
            assert!(!matches!(case.ops[0].code, DmaRead | DmaWrite));
        }
    }
}
