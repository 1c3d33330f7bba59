//! Which memory is locked (`mlock(2)`): what the calls on it promise, and what others then refuse.
//!
//! Kept for each page only as far as it is certain. A call that locks or unlocks makes its pages uncertain when it begins,
//! and certain when it returns, if no other such call of the process was in flight meanwhile.

use super::flight::Flight;
use super::page::{Base, Ends};
use super::result::Keep;
use super::space::Spot;
use super::{Oracle, Proc};
use crate::config::MAX_REGIONS;
use crate::observe::Outcome;
use crate::program::OpCode;

/// Whether a page is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Lock {
    /// It is not.
    #[default]
    No,
    /// Nobody can tell.
    Maybe,
    /// It is; whether something is there is left open.
    OnFault,
    /// It is, and its contents are in memory until it is unlocked.
    Yes,
}

/// What is locked in a process.
#[derive(Default)]
pub(super) struct Locks {
    regions: [Vec<Lock>; MAX_REGIONS],
    /// Of what is mapped from now on.
    future: Lock,
    /// CPUs with a call in flight that changes locks.
    changing: u8,
    /// Those that another such call has met.
    mixed: u8,
    /// What the range of a move had in common, for each CPU.
    moving: [Lock; crate::config::MAX_CPUS],
    /// Begins and ends of such calls.
    changes: u32,
}

impl Locks {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        if self.changes == 0 {
            return;
        }
        self.regions.iter_mut().for_each(Vec::clear);
        (self.future, self.changing, self.mixed, self.changes) = (Lock::No, 0, 0, 0);
    }

    fn get(&self, spot: Spot) -> Lock {
        self.regions[usize::from(spot.region)].get(spot.page as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, spot: Spot, lock: Lock) {
        let region = &mut self.regions[usize::from(spot.region)];
        let at = spot.page as usize;
        if at >= region.len() {
            if lock == Lock::No {
                return;
            }
            region.resize(at + 1, Lock::No);
        }
        region[at] = lock;
    }

    /// Is the page locked for certain, with its contents in memory?
    pub(super) fn resident(&self, spot: Spot) -> bool {
        self.get(spot) == Lock::Yes
    }

    /// What is locked may be emptied (`MADV_DONTNEED_LOCKED`).
    fn emptied(&mut self, flight: &Flight) {
        for spot in flight.spots() {
            if self.get(spot) == Lock::Yes {
                self.set(spot, Lock::OnFault);
            }
        }
    }

    /// May some page of the process be locked?
    pub(super) fn any(&self) -> bool {
        self.changing != 0 || self.regions.iter().flatten().any(|l| *l != Lock::No)
    }

    /// How many such calls have begun or ended.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }
}

/// Calls that change what is locked.
fn changes_locks(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Mlock
            | OpCode::Munlock
            | OpCode::MlockAll
            | OpCode::MunlockAll
            | OpCode::Mmap
            | OpCode::Munmap
            | OpCode::Mremap
            | OpCode::MremapDontunmap
            | OpCode::MremapResize
    )
}

/// Calls that are refused where memory is locked.
fn refused(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Dontneed | OpCode::Pageout | OpCode::Free | OpCode::Cold | OpCode::GuardInstall | OpCode::Remove
    )
}

/// Pages that a move goes to.
fn targets(flight: &Flight) -> impl Iterator<Item = Spot> + use<> {
    let len = flight.len();
    flight.moves.into_iter().flat_map(move |m| (0..len).map(move |n| Spot { page: m.to.page + n, ..m.to }))
}

impl Proc {
    /// The lock that a page has after `mlock`. Hugetlb memory and mappings of devices are passed over, and what shows a file
    /// may be cut off again; `on_fault`: nothing was faulted in, or it may have gone elsewhere.
    fn mlocked(&self, spot: Spot, on_fault: bool) -> Lock {
        if !self.files && !self.hugetlb && !self.devices {
            return if on_fault { Lock::OnFault } else { Lock::Yes };
        }
        let Some(states) = self.space.states(spot) else { return Lock::Maybe };
        if states.iter().any(|s| s.of_hugetlb() || s.of_device()) {
            Lock::Maybe
        } else if on_fault || states.iter().any(|s| s.base != Base::Anon) {
            Lock::OnFault
        } else {
            Lock::Yes
        }
    }

    /// The lock that the pages of a new mapping have.
    fn new_lock(&self) -> Lock {
        match self.locks.future {
            // Whether they could be faulted in was not told.
            Lock::Yes | Lock::OnFault if self.hugetlb || self.devices => Lock::Maybe,
            Lock::Yes | Lock::OnFault => Lock::OnFault,
            other => other,
        }
    }
}

impl Oracle {
    /// A call begins.
    pub(super) fn begin_locks(&mut self, cpu: usize, flight: &Flight) {
        if !self.locking || !changes_locks(flight.code) {
            return self.empty_locked(flight);
        }
        let proc = &mut self.procs[usize::from(flight.proc)];
        let held = proc.space.lens();
        let locks = &mut proc.locks;
        locks.changes += 1;
        let bit = 1 << cpu;
        if locks.changing != 0 {
            locks.mixed |= locks.changing | bit;
        }
        locks.changing |= bit;
        let mut pages = flight.spots().map(|spot| locks.get(spot));
        let first = pages.next().unwrap_or_default();
        locks.moving[cpu] = if pages.all(|l| l == first) { first } else { Lock::Maybe };
        if flight.code == OpCode::MremapResize {
            // What a mapping grows by is locked if the mapping is.
            let some = locks.regions.iter().flatten().any(|l| *l != Lock::No);
            locks.moving[cpu] = if some { Lock::Maybe } else { Lock::No };
        }
        for spot in flight.spots().chain(targets(flight)) {
            locks.set(spot, Lock::Maybe);
        }
        if matches!(flight.code, OpCode::MlockAll | OpCode::MunlockAll) {
            locks.future = Lock::Maybe;
            for spot in everywhere(held) {
                locks.set(spot, Lock::Maybe);
            }
        }
    }

    /// A call begins or has returned: if it empties what is locked, it has done so at any moment in between.
    fn empty_locked(&mut self, flight: &Flight) {
        if self.locking && flight.code == OpCode::DontneedLocked {
            self.procs[usize::from(flight.proc)].locks.emptied(flight);
        }
    }

    /// A call has returned.
    pub(super) fn end_locks(&mut self, cpu: usize, flight: &Flight, outcome: Outcome) {
        if !self.locking || !changes_locks(flight.code) {
            return self.empty_locked(flight);
        }
        if self.procs[usize::from(flight.proc)].locks.future != Lock::No || flight.code == OpCode::MlockAll {
            self.locked_copies(flight.proc);
        }
        let watched = self.fresh != super::Traps::NONE;
        let proc = &mut self.procs[usize::from(flight.proc)];
        let bit = 1 << cpu;
        let lone = proc.locks.mixed & bit == 0;
        proc.locks.changing &= !bit;
        proc.locks.mixed &= !bit;
        proc.locks.changes += 1;
        if !lone || outcome != Outcome::Done {
            return;
        }
        for spot in flight.spots() {
            let lock = match flight.code {
                // What it has faulted in may have been dropped again.
                OpCode::Mlock => proc.mlocked(spot, flight.arg & 1 != 0 || watched || flight.disturbed),
                OpCode::Mmap => proc.new_lock(),
                OpCode::MremapResize => proc.locks.moving[cpu],
                _ => Lock::No,
            };
            proc.locks.set(spot, lock);
        }
        // A move faults nothing in.
        let moved = if proc.locks.moving[cpu] == Lock::Yes { Lock::OnFault } else { proc.locks.moving[cpu] };
        for spot in targets(flight) {
            proc.locks.set(spot, moved);
        }
        if matches!(flight.code, OpCode::MlockAll | OpCode::MunlockAll) {
            proc.locks.future = if flight.code == OpCode::MlockAll { Lock::Yes } else { Lock::No };
            for spot in everywhere(proc.space.lens()) {
                let mapped =
                    |f: fn(bool) -> bool| proc.space.states(spot).map(|s| s.iter().all(|s| f(s.perm.is_some())));
                let lock = match (mapped(|m| m), mapped(|m| !m)) {
                    (Some(true), _) => proc.new_lock(),
                    (_, Some(true)) => Lock::No,
                    _ => {
                        if flight.code == OpCode::MlockAll {
                            Lock::Maybe
                        } else {
                            Lock::No
                        }
                    }
                };
                proc.locks.set(spot, lock);
            }
        }
    }

    /// Whether the result of a call is right where memory may be locked: `None` when that has nothing to do with it.
    pub(super) fn judge_locked(&self, flight: &Flight, outcome: Outcome) -> Option<Result<Keep, &'static str>> {
        if !self.locking || !refused(flight.code) {
            return None;
        }
        let locks = &self.procs[usize::from(flight.proc)].locks;
        let doubt = locks.changes != flight.lock_changes || locks.changing != 0;
        let (may, must) = flight.spots().map(|spot| locks.get(spot)).fold((doubt, false), |(may, must), lock| {
            (may || lock != Lock::No, must || matches!(lock, Lock::Yes | Lock::OnFault))
        });
        match outcome {
            // VMA by VMA, up to the first that is refused.
            Outcome::Invalid if may => Some(Ok(Keep::Either)),
            Outcome::Done | Outcome::NoMem if must && !doubt && flight.len() != 0 => Some(Err("memory that is locked")),
            _ => None,
        }
    }

    /// `mlock`, `munlock` and `mincore`: `ENOMEM` at a hole; `mlock` also where it cannot fault in what it locks.
    pub(super) fn judge_lock(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        if flight.contended || flight.disturbed || !self.procs[usize::from(flight.proc)].live {
            return Ok(Keep::Either);
        }
        let holes = self.holes(flight);
        let unpopulated = || {
            let may = |wanted| flight.spots().any(|spot| self.may_end(flight.proc, spot, false, wanted));
            may(Ends::ACC_ERR) || may(Ends::MAP_ERR) || may(Ends::BUS) || self.may_be_lost(flight) || self.guarded
        };
        match outcome {
            Outcome::Done if holes.must.is_some() => Err("the range has a hole"),
            Outcome::NoMem if holes.may.is_none() && (flight.code != OpCode::Mlock || !unpopulated()) => {
                Err("the range has no hole")
            }
            Outcome::Done | Outcome::NoMem | Outcome::Busy => Ok(Keep::Either),
            _ => Err(flight.code.name()),
        }
    }
}

/// Every page of windows that hold this many.
pub(super) fn everywhere(held: [u32; MAX_REGIONS]) -> impl Iterator<Item = Spot> {
    (0..MAX_REGIONS as u8).flat_map(move |region| (0..held[usize::from(region)]).map(move |page| Spot { region, page }))
}
