//! What calls in flight do to a page.

use super::cell::CellId;
use super::page::{Base, Pool, State};
use super::traps::{Traps, Uffd};
use crate::observe::FileId;
use crate::program::Perm;

/// What a call in flight does to each page of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// `mmap`: whatever was there is gone, this is there with this protection.
    Map(Perm, Base, Traps, Pool),
    /// `munmap`: nothing is there.
    Unmap,
    /// `MADV_DONTNEED`: anonymous memory becomes zero, a copy of a file's page becomes the file's page again.
    Zero(Traps),
    /// `mprotect`: what is mapped gets this protection.
    Protect(Perm),
    /// Truncation: copies of the file's pages from this one on are lost.
    Cut(FileId, u32),
    /// A hole in a file of `hugetlbfs`: copies of these pages may be lost, wherever they are.
    Hole(FileId, u32, u32),
    /// `MADV_FREE`: what is mapped may become zero at any time, until the next store.
    Free,
    /// `MADV_GUARD_INSTALL`: what is mapped becomes a guard page; what was there goes, notes included.
    Guard(Traps),
    /// `MADV_GUARD_REMOVE`: guard pages become empty.
    Unguard,
    /// `mremap`, at the old address, with `MREMAP_DONTUNMAP`: what is mapped is empty.
    Empty(Traps),
    /// `mremap`, where a mapping gets longer: what was not mapped has this protection and shows this.
    Grow(Perm, Base),
    /// `mremap`, at the new address: what was mapped goes, and something else comes that is not told here.
    Arrive,
    /// A call that has to do with userfaultfd.
    Uffd(Uffd),
}

impl Effect {
    /// The state after the call has taken effect in `state`; `None` where it cannot.
    #[inline]
    pub(super) fn apply(self, state: State, bit: u8) -> Option<State> {
        let applied = state.applied | bit;
        Some(match self {
            Effect::Map(perm, base, traps, pool) => State { applied, base, traps, pool, ..State::mapped(perm) },
            Effect::Unmap => State { applied, ..State::UNMAPPED },
            Effect::Zero(_) if state.perm.is_none() => State { applied, ..state.zeroed() },
            Effect::Zero(_) if state.guard => State { applied, ..state },
            Effect::Zero(fresh) => {
                // In a mapping of a file userfaultfd remembers what it has protected.
                let traps =
                    if state.remembers() { state.traps.dropped_note_kept(fresh) } else { state.traps.dropped(fresh) };
                State { applied, traps, pool: state.pool.without_promise(), ..state.zeroed() }
            }
            Effect::Cut(..) => match state.base {
                Base::Copied(cell) if self.cuts(cell) => {
                    State { applied, base: Base::Private(cell), value: 0, traps: state.traps.cured(), ..state }
                }
                Base::Shared(cell) | Base::Private(cell) if state.traps.poisoned() && self.cuts(cell) => {
                    State { applied, traps: state.traps.cured(), ..state }
                }
                _ => state,
            },
            Effect::Hole(file, from, to) => match state.base {
                Base::Copied(cell) if cell.file() == file && (from..to).contains(&cell.page()) => {
                    State { applied, traps: state.traps.cured(), ..state.zeroed() }
                }
                _ => return None,
            },
            Effect::Protect(perm) => State { perm: state.perm.map(|_| perm), applied, ..state },
            Effect::Free if state.guard => State { applied, ..state },
            Effect::Free => {
                let lazy = state.base == Base::Anon && (state.value != 0 || state.traps.may_be_lazy());
                State { applied, lazy, traps: state.traps.perhaps_dropped(), ..state }.while_lazy()
            }
            Effect::Guard(_) if state.perm.is_none() => State { applied, ..state.zeroed() },
            Effect::Guard(fresh) => State { applied, guard: true, ..state.emptied(fresh) },
            Effect::Unguard => State { applied, guard: false, ..state },
            Effect::Empty(_) if state.perm.is_none() => State { applied, ..state },
            Effect::Empty(fresh) => State { applied, guard: false, ..state.emptied(fresh) },
            Effect::Arrive => state,
            Effect::Grow(..) if state.perm.is_some() => return None,
            Effect::Grow(perm, base) => State { applied, base, ..State::mapped(perm) },
            Effect::Uffd(call) => State { applied, ..call.apply(state)? },
        })
    }

    /// What the page may be on the way, if the call has more than one step: what is to become a guard page is emptied
    /// first, as often as somebody fills it again meanwhile; so is the place that a mapping goes to.
    #[inline]
    pub(super) fn halfway(self, state: State) -> Option<State> {
        match self {
            Effect::Guard(fresh) => {
                let empty = state.emptied(fresh);
                let changes = state.value != 0 || empty.base != state.base || empty.traps != state.traps;
                (state.perm.is_some() && changes).then_some(empty)
            }
            Effect::Arrive => Some(State { applied: state.applied, ..State::UNMAPPED }),
            _ => None,
        }
    }

    /// The same for page `page` of its window.
    #[inline]
    pub(super) fn at(self, page: u32) -> Effect {
        let moved = |cell: CellId| CellId::new(cell.file(), page);
        match self {
            Effect::Map(perm, Base::Shared(cell), traps, pool) => {
                Effect::Map(perm, Base::Shared(moved(cell)), traps, pool)
            }
            Effect::Map(perm, Base::Private(cell), traps, pool) => {
                Effect::Map(perm, Base::Private(moved(cell)), traps, pool)
            }
            effect => effect,
        }
    }

    /// True when it truncates this page of a file.
    pub(super) fn cuts(self, cell: CellId) -> bool {
        matches!(self, Effect::Cut(file, from) if cell.file() == file && cell.page() >= from)
    }

    /// True when it decides on whether userfaultfd stops accesses.
    pub(super) fn registers(self) -> bool {
        matches!(self, Effect::Uffd(Uffd::Register(_) | Uffd::Unregister))
    }

    /// True when the memory cell behind the page is another one afterwards.
    #[inline]
    pub(super) fn replaces(self) -> bool {
        match self {
            Effect::Protect(_) | Effect::Free | Effect::Unguard => false,
            Effect::Uffd(call) => call.replaces(),
            _ => true,
        }
    }

    /// True when the content that the page has may be gone afterwards.
    #[inline]
    pub(super) fn drops(self) -> bool {
        self.replaces() || self == Effect::Free
    }

    /// True when it drops what the page holds, and leaves a mapping that a fault may fill again before the call returns.
    pub(super) fn refills(self) -> bool {
        matches!(self, Effect::Zero(_) | Effect::Guard(_) | Effect::Empty(_) | Effect::Map(..))
    }

    /// True when it makes or fills holes.
    #[inline]
    pub(super) fn maps(self) -> bool {
        matches!(self, Effect::Map(..) | Effect::Unmap | Effect::Grow(..))
    }
}
