//! Ends of calls: whether the result is one that the manual page promises, and what holds from then on.

use super::effect::Effect;
use super::flight::Flight;
use super::page::{Base, Changes, Ends, Known, Reach, State, dedup, insert};
use super::space::Spot;
use super::traps::{Traps, Uffd};
use super::{Oracle, OracleViolation, broken};
use crate::config::MAX_CPUS;
use crate::observe::{Outcome, REGULAR};
use crate::program::family::Family;
use crate::program::{Case, OpCode};
use crate::rule::Rule;

/// Which states of the pages in its range a call leaves when it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    /// Those in which it has taken effect.
    Applied,
    /// The same, and every page was mapped: there was no hole.
    AppliedMapped,
    /// Those in which it has taken effect, but all where a call that is still in flight makes holes: it has passed over those,
    /// and what was there before them can be seen until that call ends.
    PastHoles,
    /// Those in which it has not.
    NotApplied,
    /// All of them.
    Either,
    /// Those in which it has not, and no mapping: what a failed `mmap` leaves.
    Failed,
    /// `mprotect` that met a hole: taken effect before `may`, perhaps before `must`, not after.
    UpTo {
        /// First page that may be a hole.
        may: u32,
        /// First page that is one.
        must: u32,
    },
}

/// Holes in a range.
#[derive(Clone, Copy)]
pub(super) struct Holes {
    /// First page that may be one.
    pub(super) may: Option<u32>,
    /// First page that is one.
    pub(super) must: Option<u32>,
}

impl Oracle {
    /// Ends an op.
    pub(super) fn end(&mut self, case: &Case, op: u32, outcome: Outcome) -> Result<(), OracleViolation> {
        let Some(flight) = self.flight(case, op).copied() else { return Ok(()) };
        let cpu = usize::from(case.ops[op as usize].cpu);
        let verdict = match flight.code {
            OpCode::Fork => self.born(cpu, &flight, outcome),
            _ => self.judge(&flight, outcome),
        };
        let keep = verdict.map_err(|on| {
            let mut violation = broken(Rule::OracleResult);
            violation.evidence.cpu = Some(cpu as u8);
            violation.evidence.proc = Some(flight.proc);
            violation.evidence.what = Some(outcome.name());
            violation.evidence.on = Some(on);
            violation
        })?;
        if self.tells {
            self.judge_told(cpu, &flight, outcome)?;
        }
        if flight.wakes() {
            self.wake(&flight, outcome);
        }
        self.finish(cpu, keep);
        if self.tells && matches!(flight.effect(), Some(Effect::Uffd(Uffd::Fill(..)))) {
            self.filled(&flight);
        }
        self.dealt_with(&flight, outcome);
        if outcome == Outcome::Io {
            self.files.told(self.poisoning());
        }
        self.end_pins(&case.config, &flight, outcome);
        self.end_locks(cpu, &flight, outcome);
        if outcome != Outcome::Skipped {
            let now = self.now;
            let proc = &mut self.procs[usize::from(flight.proc)];
            match flight.code {
                OpCode::Mmap => proc.remapped = now,
                OpCode::Mprotect => proc.merged = now,
                OpCode::ToDevice => proc.lent = now,
                OpCode::ClearRefs => proc.cleared = now,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the result of a call other than fork is right, and which states it leaves; an error says why not.
    fn judge(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        if outcome == Outcome::Skipped {
            return Ok(Keep::NotApplied);
        }
        if let Some(verdict) = self.judge_locked(flight, outcome) {
            return verdict;
        }
        if let Some(keep) = self.refused(flight, outcome) {
            return Ok(keep);
        }
        match flight.code {
            OpCode::Mmap => match outcome {
                Outcome::Done => Ok(Keep::Applied),
                Outcome::NoMem => Ok(Keep::Failed),
                _ => Err("mmap"),
            },
            OpCode::Msync => self.judge_msync(flight, outcome),
            OpCode::Truncate => (outcome == Outcome::Done).then_some(Keep::Applied).ok_or("truncate"),
            OpCode::Unplug => (outcome == Outcome::Done).then_some(Keep::Applied).ok_or("unplug"),
            OpCode::ResetDevice => (outcome == Outcome::Done).then_some(Keep::Either).ok_or("reset-device"),
            OpCode::Remove => self.judge_remove(flight, outcome),
            OpCode::Munmap => (outcome == Outcome::Done).then_some(Keep::Applied).ok_or("munmap"),
            OpCode::Mprotect
            | OpCode::Dontneed
            | OpCode::DontneedLocked
            | OpCode::Pageout
            | OpCode::Mergeable
            | OpCode::Free
            | OpCode::Cold
            | OpCode::WillNeed
            | OpCode::Hugepage
            | OpCode::Nohugepage
            | OpCode::GuardInstall
            | OpCode::GuardRemove => self.judge_holes(flight, outcome),
            // ENOMEM also where pages that were merged cannot be taken apart.
            OpCode::Unmergeable if outcome == Outcome::NoMem => Ok(Keep::Either),
            OpCode::Unmergeable => self.judge_holes(flight, outcome),
            // What the device is still doing for the process keeps the driver's file open.
            OpCode::DevClose if outcome == Outcome::Busy && self.device_works(flight) => Ok(Keep::Either),
            OpCode::ClearRefs
            | OpCode::ClearYoung
            | OpCode::Pagemap
            | OpCode::Smaps
            | OpCode::EarlyKill
            | OpCode::MlockAll
            | OpCode::MunlockAll
            | OpCode::DevClose
            | OpCode::Exit
            | OpCode::ExitThread => (outcome == Outcome::Done).then_some(Keep::Either).ok_or(flight.code.name()),
            OpCode::Mremap | OpCode::MremapDontunmap => self.judge_move(flight, outcome),
            OpCode::MremapResize => self.judge_resize(flight, outcome),
            OpCode::PopulateRead => self.judge_populate(flight, outcome, false),
            OpCode::PopulateWrite => self.judge_populate(flight, outcome, true),
            OpCode::Read | OpCode::Write => match outcome {
                Outcome::Done if flight.retired < flight.len() => Err("an access is missing"),
                Outcome::Done => Ok(Keep::Either),
                Outcome::Signal if flight.signals == 0 => Err("no signal was seen"),
                Outcome::Signal => Ok(Keep::Either),
                _ => Err("an access"),
            },
            OpCode::DevRead | OpCode::DevWrite => {
                let missing = flight.retired.saturating_add(flight.signals) < flight.len();
                if outcome == Outcome::Done && missing { Err("an access is missing") } else { Ok(Keep::Either) }
            }
            // A file system wants to be told of stores.
            OpCode::PinLongterm if outcome == Outcome::Fault && self.tracked_file(flight) => Ok(Keep::Either),
            OpCode::Pin | OpCode::PinFast | OpCode::PinLongterm | OpCode::Exclusive => {
                self.judge_fault(flight, outcome, true)
            }
            OpCode::MemRead | OpCode::MemWrite => self.judge_remote(flight, outcome),
            OpCode::PinRead => self.judge_fault(flight, outcome, false),
            OpCode::Mlock | OpCode::Munlock | OpCode::Mincore => self.judge_lock(flight, outcome),
            code if code.family() == Family::Uffd => self.judge_uffd(flight, outcome),
            // Not judged: see the module's account of what is not checked.
            _ => Ok(Keep::Either),
        }
    }

    /// Calls that skip holes and tell of them.
    fn judge_holes(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let stops = flight.code == OpCode::Mprotect;
        match outcome {
            Outcome::Done if flight.contended => Ok(Keep::Applied),
            Outcome::NoMem if flight.contended => Ok(if stops { Keep::Either } else { Keep::PastHoles }),
            Outcome::Done if self.holes(flight).must.is_some() => Err("the range has a hole"),
            Outcome::Done => Ok(Keep::AppliedMapped),
            Outcome::NoMem => match self.holes(flight) {
                Holes { may: None, .. } => Err("the range has no hole"),
                Holes { may: Some(may), must } if stops => Ok(Keep::UpTo { may, must: must.unwrap_or(u32::MAX) }),
                _ => Ok(Keep::Applied),
            },
            _ => Err(flight.code.name()),
        }
    }

    /// `msync`: `ENOMEM` where there are holes, and lost data must be told of.
    fn judge_msync(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let holes = self.holes(flight);
        // All of the range shows the file on the disk, in mappings that share it.
        let shows = |s: &State| matches!(s.base, Base::Shared(cell) if cell.file() == REGULAR);
        let space = &self.procs[usize::from(flight.proc)].space;
        // Another one may have taken the error, and not have returned.
        let another = self.flights.iter().flatten().any(|f| f.code == OpCode::Msync && f.op != flight.op);
        let syncs = || !another && flight.spots().all(|spot| space.states(spot).is_some_and(|s| s.iter().all(shows)));
        match outcome {
            Outcome::Io if self.files.may_tell(true) => Ok(Keep::Either),
            Outcome::Io => Err("no data are lost"),
            _ if flight.contended || flight.disturbed => Ok(Keep::Either),
            Outcome::Done if holes.must.is_some() => Err("the range has a hole"),
            Outcome::NoMem if holes.may.is_none() => Err("the range has no hole"),
            Outcome::Done if flight.len() > 0 && !self.files.may_tell(false) && syncs() => Err("data are lost"),
            Outcome::Done | Outcome::NoMem => Ok(Keep::Either),
            _ => Err("msync"),
        }
    }

    /// `MADV_REMOVE`, VMA by VMA: `EINVAL` at the first that does not show a file which it may change, `ENOMEM` at a hole.
    fn judge_remove(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let keep = if outcome == Outcome::Done { Keep::Applied } else { Keep::Either };
        if flight.contended || flight.disturbed {
            return Ok(keep);
        }
        let space = &self.procs[usize::from(flight.proc)].space;
        let refuses = |s: &State| s.perm.is_some() && !self.refusals.removable(s);
        let may_refuse = |spot| space.states(spot).is_none_or(|s| s.iter().any(refuses));
        let must_refuse = |spot| space.states(spot).is_some_and(|s| s.iter().all(refuses));
        let holes = self.holes(flight);
        match outcome {
            Outcome::Done if holes.must.is_some() => Err("the range has a hole"),
            Outcome::Done | Outcome::NoMem if flight.spots().any(must_refuse) => Err("not a file to change"),
            Outcome::NoMem if holes.may.is_none() => Err("the range has no hole"),
            Outcome::Invalid if !flight.spots().any(may_refuse) => Err("every page shows a file to change"),
            Outcome::Done | Outcome::NoMem | Outcome::Invalid => Ok(keep),
            _ => Err("madvise(REMOVE)"),
        }
    }

    /// Calls that fault a page in: for a range, one page is enough.
    fn judge_fault(&self, flight: &Flight, outcome: Outcome, write: bool) -> Result<Keep, &'static str> {
        let proc = &self.procs[usize::from(flight.proc)];
        let (wanted, on) = match outcome {
            Outcome::Done => (Ends::WELL, "no page may be accessed so"),
            Outcome::Fault => (Ends::FAULT, "every page may be accessed so"),
            _ => return Ok(Keep::Either),
        };
        if outcome == Outcome::Fault && self.may_be_lost(flight) {
            return Ok(Keep::Either);
        }
        let alone = !flight.disturbed && !flight.contended && flight.len() > 0;
        if outcome == Outcome::Done && alone && flight.spots().all(|spot| self.pageless(flight.proc, spot)) {
            return Err("there is no page to take hold of");
        }
        let refused = outcome == Outcome::Fault && flight.spots().any(|spot| self.shows_device(flight.proc, spot));
        let right = flight.len() == 0
            || refused
            || !proc.live
            || (proc.exiting && outcome == Outcome::Fault)
            || flight.past.meets(wanted)
            || flight.spots().any(|spot| self.may_end(flight.proc, spot, write, wanted));
        if right { Ok(Keep::Either) } else { Err(on) }
    }

    /// `mremap`: `EFAULT` unless one mapping holds the whole range (and mappings that look alike need not be one),
    /// `EINVAL` when the two ranges overlap.
    fn judge_move(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        match outcome {
            Outcome::Invalid if flight.moves.is_none() => Ok(Keep::NotApplied),
            Outcome::Fault if flight.len() == 1 && !flight.contended && self.holes(flight).may.is_none() => {
                Err("the page is mapped")
            }
            // ENOMEM: pages that were merged could not be taken apart.
            Outcome::Fault | Outcome::NoMem => Ok(Keep::NotApplied),
            Outcome::Done if flight.moves.is_none() => Err("the ranges overlap"),
            Outcome::Done if !flight.contended && self.holes(flight).must.is_some() => Err("the range has a hole"),
            Outcome::Done => Ok(Keep::AppliedMapped),
            _ => Err("mremap"),
        }
    }

    /// `mremap` in place: `ENOMEM` where something else is in the way, or the range does not end where its mapping does;
    /// `EFAULT` where nothing, or more than one mapping, is.
    fn judge_resize(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let space = &self.procs[usize::from(flight.proc)].space;
        let taken = |spot| space.states(spot).is_some_and(|s| s.iter().all(|s| s.perm.is_some()));
        match outcome {
            Outcome::Done if flight.effect().is_none() => Ok(Keep::Either),
            Outcome::Done if flight.grows() && !flight.contended && flight.spots().any(taken) => {
                Err("something else is mapped there")
            }
            Outcome::Done => Ok(Keep::Applied),
            Outcome::Fault | Outcome::NoMem => Ok(Keep::NotApplied),
            Outcome::Invalid if flight.effect().is_none() => Ok(Keep::NotApplied),
            _ => Err("mremap"),
        }
    }

    /// Calls that fault in every page of a range, up to the first that cannot be accessed: `ENOMEM` at a hole (or when
    /// memory is short), `EINVAL` where the mapping forbids it, `EFAULT` at a guard page.
    fn judge_populate(&self, flight: &Flight, outcome: Outcome, write: bool) -> Result<Keep, &'static str> {
        if flight.disturbed || flight.contended || !self.procs[usize::from(flight.proc)].live {
            return Ok(Keep::Either);
        }
        let may = |wanted| move |spot| self.may_end(flight.proc, spot, write, wanted);
        let right = match outcome {
            // A truncation may have returned after the last page was there, or before the file had the first.
            Outcome::Done => flight.past.meets(Ends::WELL) || flight.spots().all(may(Ends::WELL)),
            Outcome::Fault if flight.past.meets(Ends::BUS) => true,
            Outcome::NoMem => true,
            Outcome::Invalid => {
                flight.spots().any(may(Ends::ACC_ERR))
                    || flight.spots().any(|spot| self.shows_device(flight.proc, spot))
            }
            Outcome::Fault => {
                self.may_be_lost(flight) || flight.spots().any(may(Ends::MAP_ERR)) || flight.spots().any(may(Ends::BUS))
            }
            _ => false,
        };
        if right { Ok(Keep::Either) } else { Err("populate") }
    }

    /// True when an access to the page could end so now.
    pub(super) fn may_end(&self, proc: u8, spot: Spot, write: bool, wanted: Ends) -> bool {
        let space = &self.procs[usize::from(proc)].space;
        let changes = self.changes(proc, spot, None);
        space.can_be(spot, &changes, |s| s.ends(&self.files, write).meets(wanted))
    }

    /// Holes in the range of a call, while none was made or filled.
    pub(super) fn holes(&self, flight: &Flight) -> Holes {
        let space = &self.procs[usize::from(flight.proc)].space;
        let mut holes = Holes { may: None, must: None };
        for spot in flight.spots() {
            let (may, must) = match space.states(spot) {
                None => (true, false),
                Some(s) => (s.iter().any(|s| s.perm.is_none()), s.iter().all(|s| s.perm.is_none())),
            };
            if may && holes.may.is_none() {
                holes.may = Some(spot.page);
            }
            if must {
                holes.must = Some(spot.page);
                break;
            }
        }
        holes
    }

    /// Ends a fork: the child is born, or never was.
    fn born(&mut self, cpu: usize, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        match outcome {
            Outcome::Done => {}
            Outcome::NoMem | Outcome::Busy | Outcome::Skipped => return Ok(Keep::Either),
            _ => return Err("fork"),
        }
        let (parent, child) = (usize::from(flight.proc), usize::from(flight.arg));
        if child >= self.procs.len() {
            return Err("no such child");
        }
        if !self.procs[parent].live || self.procs[child].live {
            return Err("no parent, or the child's name is in use");
        }
        let from = &self.procs[parent];
        let cleared_meanwhile = from.clearing != 0 || from.cleared > flight.began;
        let merging = self.flights.iter().flatten().any(|f| f.proc == flight.proc && f.code == OpCode::Mprotect);
        let (cleared, merged) =
            (if cleared_meanwhile { self.now } else { from.cleared }, if merging { self.now } else { from.merged });
        let lending = self.flights.iter().flatten().any(|f| f.proc == flight.proc && f.code == OpCode::ToDevice);
        let lent = if lending { self.now } else { from.lent };
        let (remapped, files, hugetlb) = (from.remapped, from.files, from.hugetlb);
        let (devices, huge_copies) = (from.devices, from.huge_copies);
        let to = &mut self.procs[child];
        std::mem::swap(&mut to.space, &mut self.children[cpu]);
        (to.live, to.exiting) = (true, false);
        (to.cleared, to.remapped, to.merged, to.lent, to.files) = (cleared, remapped, merged, lent, files);
        (to.hugetlb, to.huge_copies, to.devices) = (hugetlb, huge_copies, devices);
        self.cut_child(child as u8, flight.cut);
        self.catch_up(child as u8);
        Ok(Keep::Either)
    }

    /// Calls that began before their process was born see it now.
    fn catch_up(&mut self, child: u8) {
        for cpu in 0..MAX_CPUS {
            let Some(flight) = self.flights[cpu].filter(|f| f.proc == child) else { continue };
            if matches!(flight.effect(), Some(Effect::Map(..))) {
                self.procs[usize::from(child)].space.reach(flight.region, flight.end);
            }
            if flight.code == OpCode::Fork {
                self.copy_parent(cpu, child);
            }
        }
    }

    /// Takes the call on CPU `cpu` out of flight.
    pub(super) fn finish(&mut self, cpu: usize, keep: Keep) {
        let Some(flight) = self.flights[cpu] else { return };
        let bit = 1 << cpu;
        let proc = usize::from(flight.proc);
        self.end_on_files(cpu, &flight, keep);
        match flight.effect() {
            Some(effect @ (Effect::Cut(..) | Effect::Hole(..))) => self.finish_cut(cpu, effect),
            Some(_) => {
                self.finish_pins(cpu, &flight, keep);
                if flight.code == OpCode::UffdMove {
                    self.finish_uffd_move(cpu, &flight, keep);
                } else {
                    self.finish_moves(cpu, &flight, keep);
                    // An access may always have been tried, unless it was sure to be stopped.
                    let tried =
                        if flight.stopped && self.all_stopped(&flight) { Keep::NotApplied } else { Keep::Applied };
                    let keep = if flight.touches().is_some() { tried } else { keep };
                    self.finish_pages(cpu, &flight, keep);
                    self.finish_beside(cpu, &flight, tried);
                }
            }
            None => {}
        }
        let protects = matches!(flight.code, OpCode::UffdWp | OpCode::PagemapScan);
        if protects || matches!(flight.code, OpCode::Truncate | OpCode::Remove) || flight.poisons() {
            self.blur_protection(flight.began);
        }
        let resets = flight.code == OpCode::ResetDevice;
        if flight.cuts() || resets || flight.code == OpCode::Remove {
            let certain = flight.cuts() || resets || keep == Keep::Applied && !flight.contended;
            // A part of a hugetlb page is filled with zeroes.
            let removes = flight.whole || !self.procs[proc].hugetlb;
            let alone = removes && self.flights.iter().flatten().all(|f| f.op == flight.op);
            self.files.end(bit, certain, alone);
            self.blur_zero_pages();
            self.doubt_losses();
        }
        if flight.extends_file() {
            self.files.end(bit, keep == Keep::Applied, false);
        }
        if flight.code == OpCode::ClearRefs {
            self.procs[proc].clearing = self.procs[proc].clearing.saturating_sub(1);
        }
        if flight.poisons() {
            self.failed = self.now;
            self.condemn(&flight);
        }
        self.changing.iter_mut().for_each(|c| *c &= !bit);
        self.touching[proc] &= !bit;
        self.forking[proc] &= !bit;
        self.flights[cpu] = None;
        if flight.effect().is_some() {
            // What it has dropped or mapped may be copied once more by those who are still at it.
            self.break_cow_again();
        }
    }

    /// Lets a call have its effect on each page of its range.
    fn finish_pages(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        let proc = usize::from(flight.proc);
        let alone = !self.flights.iter().enumerate().any(|(other, f)| {
            other != cpu
                && f.as_ref().is_some_and(|f| f.overlaps(flight) && (f.effect().is_some() || f.access().is_some()))
        });
        let held = self.procs[proc].space.lens();
        for spot in flight.spots_in(held) {
            let Some(effect) = flight.effect_on(spot) else { return };
            let keep = match keep {
                Keep::UpTo { may, .. } if spot.page < may => Keep::Applied,
                Keep::UpTo { must, .. } if spot.page >= must => Keep::NotApplied,
                Keep::UpTo { .. } => Keep::Either,
                keep => keep,
            };
            if let Some(page) = self.procs[proc].space.page_mut(spot)
                && alone
                && let Known::One(state) = &mut page.known
                && state.applied == 0
                && matches!(keep, Keep::Applied | Keep::AppliedMapped | Keep::PastHoles | Keep::NotApplied)
            {
                let after = (keep != Keep::NotApplied).then(|| effect.apply(*state, 0));
                match after.flatten() {
                    Some(after) => *state = State { applied: 0, ..after },
                    // It has overwritten what a failure had left there.
                    None if after.is_some() && flight.filling().is_some() => page.known = Known::Any,
                    None => {}
                }
            } else {
                self.finish_page(cpu, flight, effect, keep, spot);
            }
            let touched = flight.disturbed || self.touching[proc] & !(1 << cpu) != 0;
            if self.fresh != Traps::NONE && touched {
                self.blur_page(flight.proc, spot);
            }
            self.heal((flight.proc, spot), effect, keep, flight.began);
            if keep != Keep::NotApplied {
                self.procs[proc].space.stamp(spot, effect, flight.began);
            }
        }
    }

    /// The same of what shares a huge page with the pages that it tried to access.
    fn finish_beside(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        if flight.around.is_none() {
            return;
        }
        for spot in flight.spots_beside() {
            let Some(effect) = flight.effect_on(spot) else { return };
            let states = self.procs[usize::from(flight.proc)].space.states(spot);
            let huge = states.is_some_and(|s| s.iter().all(State::of_hugetlb));
            // Of other memory nothing is said.
            self.finish_page(cpu, flight, effect, if huge { keep } else { Keep::Either }, spot);
        }
        self.blur_shared_tables();
    }

    /// Lets a call have its effect on a page that is in doubt, or that others look at.
    fn finish_page(&mut self, cpu: usize, flight: &Flight, effect: Effect, keep: Keep, spot: Spot) {
        let bit = 1u8 << cpu;
        let changes = self.changes(flight.proc, spot, None);
        let others: Changes = changes.iter().copied().filter(|(b, _)| *b != bit).collect();
        let mut reach = self.procs[usize::from(flight.proc)].space.reachable(spot, &changes);
        self.remember(cpu, flight.proc, spot, reach.as_ref());
        let Some(set) = &mut reach else {
            let files = self.procs[usize::from(flight.proc)].files;
            let alone = !flight.disturbed && self.procs[usize::from(flight.proc)].space.states(spot).is_none();
            let mut left = if alone { self.replaced(effect, keep, &others, files) } else { None };
            return self.keep(flight.proc, spot, left.as_mut(), &others);
        };
        match keep {
            Keep::PastHoles if others.iter().any(|(_, other)| other.maps()) => {}
            Keep::Applied | Keep::PastHoles | Keep::UpTo { .. } => set.retain(|s| s.applied & bit != 0),
            Keep::AppliedMapped => set.retain(|s| s.applied & bit != 0 && s.perm.is_some()),
            Keep::NotApplied => set.retain(|s| s.applied & bit == 0),
            Keep::Either => {}
            Keep::Failed => {
                set.retain(|s| s.applied & bit == 0);
                for state in set.clone() {
                    if insert(set, State { applied: state.applied, ..State::UNMAPPED }).is_err() {
                        return self.keep(flight.proc, spot, None, &others);
                    }
                }
            }
        }
        set.iter_mut().for_each(|s| s.applied &= !bit);
        dedup(set);
        if keep == Keep::Failed && self.forking[usize::from(flight.proc)] != 0 {
            self.tell(flight.proc, spot, Some(set));
        }
        self.keep(flight.proc, spot, Some(set), &others);
    }

    /// What a page of which nothing was known is after a call during which no store was forgotten and no other
    /// call changed the page. `None`: still nothing.
    fn replaced(&self, effect: Effect, keep: Keep, others: &Changes, files: bool) -> Option<Reach> {
        if !others.is_empty() || !matches!(keep, Keep::Applied | Keep::AppliedMapped) {
            return None;
        }
        let unmapped = State::UNMAPPED;
        match effect {
            Effect::Map(..) | Effect::Unmap => effect.apply(unmapped, 0).map(|s| [s].into_iter().collect()),
            // Of what may be registered, the registration stays unknown.
            Effect::Zero(fresh) if fresh == Traps::NONE && !files => {
                let perms = crate::program::Perm::ALL.map(State::mapped);
                let guards = perms.map(|state| State { guard: true, ..state });
                Some(perms.into_iter().chain(guards).chain([unmapped]).collect())
            }
            Effect::Guard(_) if self.fresh == Traps::NONE && !files => {
                let guards = crate::program::Perm::ALL.map(|perm| State { guard: true, ..State::mapped(perm) });
                Some(guards.into_iter().chain([unmapped]).collect())
            }
            Effect::Zero(_)
            | Effect::Guard(_)
            | Effect::Protect(_)
            | Effect::Cut(..)
            | Effect::Hole(..)
            | Effect::Uffd(_) => None,
            Effect::Free | Effect::Unguard | Effect::Empty(_) | Effect::Arrive | Effect::Grow(..) => None,
        }
    }

    /// Notes with the accesses in flight how they could have ended before the call on CPU `cpu` returned.
    pub(super) fn remember(&mut self, cpu: usize, proc: u8, spot: Spot, reach: Option<&Reach>) {
        for (other, flight) in self.flights.iter_mut().enumerate() {
            let Some(flight) = flight else { continue };
            let Some(write) = flight.access() else { continue };
            if other == cpu || !flight.covers(proc, spot) {
                continue;
            }
            match reach {
                Some(set) => set.iter().for_each(|s| flight.past.add(s.ends(&self.files, write))),
                None => flight.past = Ends::ALL,
            }
        }
    }
}
