//! Calls that are refused because of what their range holds: hugetlb memory, devices, files, memory that is registered
//! with a userfaultfd.
//!
//! A refusal needs a reason: some page of the range must be such, or may be. Where the call was disturbed, or where it
//! makes a difference what lies beside its range, the whole process is asked instead.

use super::Oracle;
use super::flight::Flight;
use super::page::{Base, State};
use super::result::Keep;
use super::space::Spot;
use super::traps::Traps;
use crate::config::{Config, Design, Kernel};
use crate::observe::{Outcome, REMAPPED};
use crate::program::OpCode;

/// What a call refuses.
pub(super) type Reason = fn(&State) -> bool;

fn hugetlb_or_device(state: &State) -> bool {
    state.of_hugetlb() || state.of_device()
}

fn not_anonymous(state: &State) -> bool {
    state.of_hugetlb() || state.base != Base::Anon
}

fn armed(state: &State) -> bool {
    state.traps.armed()
}

/// What depends on the release.
#[derive(Clone, Copy, Default)]
pub(super) struct Refusals {
    /// Where guard pages are refused. `None`: everywhere.
    guards: Option<Reason>,
    /// `MADV_DONTNEED_LOCKED` is known.
    dontneed_locked: bool,
    /// `MADV_REMOVE` asks what a mapping might be made, not what it is (`vma_is_shared_maywrite()`, 6.7).
    removes_by_maywrite: bool,
}

impl Refusals {
    pub(super) fn of(config: &Config) -> Refusals {
        // Guard pages of files came with 6.15.
        let guards: Reason = if config.kernel < Kernel::V6_15 { not_anonymous } else { hugetlb_or_device };
        Refusals {
            guards: config.uses(Design::GuardMarker).then_some(guards),
            dontneed_locked: config.kernel >= Kernel::V5_19,
            removes_by_maywrite: config.kernel >= Kernel::V6_12,
        }
    }

    /// True when `MADV_REMOVE` works on a page in this state.
    pub(super) fn removable(self, state: &State) -> bool {
        let may_write = self.removes_by_maywrite || state.allows(true);
        state.perm.is_some() && may_write && matches!(state.base, Base::Shared(cell) if !cell.raw())
    }
}

impl Oracle {
    /// Which pages a call leaves as they were that was refused, and rightly so: `None` when nothing says that it was.
    pub(super) fn refused(&self, flight: &Flight, outcome: Outcome) -> Option<Keep> {
        let reason: Reason = match (flight.code, outcome) {
            // The call would have cut a huge page; a device that is gone cannot be mapped.
            (OpCode::Mmap, Outcome::Invalid) if flight.backing.hugetlb() => return Some(Keep::NotApplied),
            (OpCode::Mmap, Outcome::Invalid) if flight.backing.device() == Some(REMAPPED) => {
                return Some(Keep::NotApplied);
            }
            (OpCode::Mmap | OpCode::Munmap | OpCode::Mprotect, Outcome::Invalid) => State::of_hugetlb,
            (OpCode::Mergeable | OpCode::Unmergeable, Outcome::Invalid) => State::of_hugetlb,
            (OpCode::Hugepage | OpCode::Nohugepage, Outcome::Invalid) => State::of_hugetlb,
            (OpCode::Mremap, Outcome::Invalid) => State::of_hugetlb,
            (OpCode::MremapDontunmap, Outcome::Invalid) => hugetlb_or_device,
            (OpCode::MremapResize, Outcome::Invalid) => {
                let proc = &self.procs[usize::from(flight.proc)];
                return (proc.hugetlb || proc.devices).then_some(Keep::NotApplied);
            }
            (OpCode::WillNeed, Outcome::Invalid) => State::of_hugetlb,
            (OpCode::DontneedLocked, Outcome::Invalid) if !self.refusals.dontneed_locked => {
                return Some(Keep::NotApplied);
            }
            (OpCode::Dontneed | OpCode::DontneedLocked, Outcome::Invalid) => hugetlb_or_device,
            (OpCode::Pageout | OpCode::Cold, Outcome::Invalid) => hugetlb_or_device,
            (OpCode::GuardInstall | OpCode::GuardRemove, Outcome::Invalid) => match self.refusals.guards {
                Some(reason) => reason,
                None => return Some(Keep::NotApplied),
            },
            (OpCode::Free, Outcome::Invalid) => not_anonymous,
            // Faults that cannot wait fail.
            (OpCode::PopulateRead | OpCode::PopulateWrite, Outcome::Fault) => armed,
            (OpCode::PinRead | OpCode::PinFast | OpCode::PinLongterm, Outcome::Fault) => armed,
            _ => return None,
        };
        // mprotect and madvise go VMA by VMA, up to the one that refuses.
        let whole = matches!(flight.code, OpCode::Mmap | OpCode::Munmap | OpCode::Mremap | OpCode::MremapDontunmap);
        let keep = if whole { Keep::NotApplied } else { Keep::Either };
        self.may_meet(flight, reason).then_some(keep)
    }

    /// True when some page of the range, or of where it goes, may be such.
    pub(super) fn may_meet(&self, flight: &Flight, reason: Reason) -> bool {
        let proc = &self.procs[usize::from(flight.proc)];
        if !proc.hugetlb && !proc.devices && !proc.files && self.fresh == Traps::NONE {
            return false;
        }
        let may = |spot: Spot| {
            let changes = self.changes(flight.proc, spot, None);
            proc.space.can_be(spot, &changes, reason)
        };
        let targets = || flight.spots().filter_map(|spot| flight.target_of(spot));
        flight.disturbed || flight.contended || flight.spots().any(may) || targets().any(may)
    }
}
