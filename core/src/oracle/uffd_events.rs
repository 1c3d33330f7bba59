//! What the monitor of a userfaultfd must hear of beside faults: memory that moves, goes or is emptied, and forks.
//!
//! Who registers memory with these events builds his own picture of it from them, so each has to be right: one event for
//! each userfaultfd that something of the range belongs to, of the whole call for memory that goes and moves, of the
//! registered pages for what is emptied, and none of a call that fails. An event is read before the call returns.
//!
//! From the change until it is read pages are not filled (`EAGAIN`): a page that was filled before it is told of a move
//! has moved. So the states in which a move has taken effect take no filling until the monitor has read of it.

use super::effect::Effect;
use super::flight::Flight;
use super::page::Base;
use super::space::Spot;
use super::traps::Uffd;
use super::{Oracle, OracleViolation, broken};
use crate::config::MAX_CPUS;
use crate::observe::{Outcome, UffdChange, UffdFlags};
use crate::program::{Case, Op, OpCode};
use crate::rule::Rule;

/// Userfaultfds that have to hear of something: a bit for each set of features.
#[derive(Clone, Copy, Default)]
struct Watchers {
    /// Certainly.
    must: u32,
    /// Perhaps.
    may: u32,
    /// Pages that certainly belong to one.
    pages: u32,
}

/// What the monitors have to hear of the call in flight on a CPU, and have heard.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    /// Of its own range; of a fork, of all memory.
    own: Watchers,
    /// Of the place that it moves memory to.
    target: Watchers,
    /// Heard: its own range goes, or there is a child.
    unmapped: u32,
    /// What was at the target goes.
    cleared: u32,
    /// The range has moved.
    moved: u32,
    /// Pages that are emptied.
    removed: u32,
    /// What is registered changes meanwhile: nobody can say who has to hear.
    doubt: bool,
}

fn bit(features: UffdFlags) -> u32 {
    1 << (features.0 >> 3)
}

/// True of a call that changes what is mapped or registered.
fn remaps(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Mmap
            | OpCode::Munmap
            | OpCode::Mremap
            | OpCode::MremapDontunmap
            | OpCode::MremapResize
            | OpCode::UffdRegister
            | OpCode::UffdUnregister
            | OpCode::UffdClose
    )
}

impl Oracle {
    /// True when some memory of the case is registered with such events.
    pub(super) fn tells(ops: &[Op]) -> bool {
        let events = UffdFlags(UffdFlags::EVENTS.0 | UffdFlags::EVENT_FORK.0);
        ops.iter().any(|op| op.code == OpCode::UffdRegister && UffdFlags(op.arg).has(events))
    }

    /// A call begins on CPU `cpu`: who has to hear of it?
    pub(super) fn begin_told(&mut self, cpu: usize, flight: &Flight) {
        let mut told = Told::default();
        for (other, with) in self.flights.iter().enumerate() {
            let Some(with) = with.as_ref().filter(|f| other != cpu && f.proc == flight.proc) else { continue };
            if with.overlaps(flight) || with.code == OpCode::Fork || flight.code == OpCode::Fork {
                told.doubt |= remaps(with.code);
                self.told[other].doubt |= remaps(flight.code);
            }
        }
        let space = &self.procs[usize::from(flight.proc)].space;
        let unmaps = flight.code == OpCode::Mmap || flight.effect() == Some(Effect::Unmap);
        match flight.code {
            OpCode::Fork => {
                let held = space.lens();
                let all = (0..held.len()).flat_map(|r| (0..held[r]).map(move |page| Spot { region: r as u8, page }));
                told.own = self.watchers(flight.proc, all, UffdFlags::EVENT_FORK);
            }
            OpCode::Mremap | OpCode::MremapDontunmap => {
                let to = flight.spots().filter_map(|spot| flight.target_of(spot));
                told.own = self.watchers(flight.proc, flight.spots(), UffdFlags::EVENTS);
                told.target = self.watchers(flight.proc, to, UffdFlags::EVENTS);
            }
            OpCode::Dontneed | OpCode::DontneedLocked | OpCode::Free | OpCode::Remove => {
                told.own = self.watchers(flight.proc, flight.spots(), UffdFlags::EVENTS);
            }
            _ if unmaps => told.own = self.watchers(flight.proc, flight.spots(), UffdFlags::EVENTS),
            _ => {}
        }
        self.told[cpu] = told;
    }

    fn watchers(&self, proc: u8, spots: impl Iterator<Item = Spot>, event: UffdFlags) -> Watchers {
        let space = &self.procs[usize::from(proc)].space;
        let mut found = Watchers::default();
        for spot in spots {
            let Some(states) = space.states(spot) else {
                found.may = u32::MAX;
                continue;
            };
            let bit_of = |flags: UffdFlags| {
                let registered = flags.modes() != UffdFlags::NONE && flags.has(event);
                if registered { bit(flags.features()) } else { 0 }
            };
            let (mut any, mut all) = (0, u32::MAX);
            for state in states {
                let bit = bit_of(state.traps.flags());
                (any, all) = (any | bit, all & bit);
            }
            found.may |= any;
            found.must |= all;
            found.pages += u32::from(all != 0);
        }
        found
    }

    /// What is registered changes by itself: the monitor has closed its userfaultfds.
    pub(super) fn doubt_told(&mut self, proc: u8) {
        for cpu in 0..MAX_CPUS {
            if self.flights[cpu].as_ref().is_some_and(|f| f.proc == proc) {
                self.told[cpu].doubt = true;
            }
        }
    }

    /// The monitor has read of a change.
    pub(super) fn uffd_change(
        &mut self,
        case: &Case,
        op: u32,
        proc: u8,
        features: UffdFlags,
        change: UffdChange,
    ) -> Result<(), OracleViolation> {
        let Some(flight) = self.flight(case, op).copied().filter(|f| f.proc == proc) else { return Ok(()) };
        let cpu = Self::cpu_of(case, op);
        let spot = |vpn| Self::spot(case, proc, vpn);
        let first = Spot { region: flight.region, page: flight.first };
        let own = |vpn, pages| spot(vpn) == Some(first) && pages == flight.len();
        let target = |vpn, pages| spot(vpn) == flight.target_of(first) && pages == flight.len();
        let told = &mut self.told[cpu];
        let (watchers, heard) = match change {
            UffdChange::Unmap { vpn, pages } if unmaps(flight.code) && own(vpn, pages) => {
                (told.own, &mut told.unmapped)
            }
            UffdChange::Unmap { vpn, pages } if flight.moves.is_some() && target(vpn, pages) => {
                (told.target, &mut told.cleared)
            }
            UffdChange::Remap { from, to, pages } if own(from, pages) && target(to, pages) => {
                (told.own, &mut told.moved)
            }
            UffdChange::Fork if flight.code == OpCode::Fork => (told.own, &mut told.unmapped),
            UffdChange::Remove { vpn, pages } => {
                return self
                    .removed(cpu, &flight, (spot(vpn), pages), features)
                    .map_err(|on| told_wrongly(cpu, change, proc, on));
            }
            _ => return Err(told_wrongly(cpu, change, proc, "not what the call does")),
        };
        let (bit, doubt) = (bit(features), told.doubt);
        let twice = *heard & bit != 0;
        *heard |= bit;
        if !doubt && watchers.may & bit == 0 {
            return Err(told_wrongly(cpu, change, proc, "none of it is registered"));
        }
        if !doubt && twice {
            return Err(told_wrongly(cpu, change, proc, "told twice"));
        }
        Ok(())
    }

    /// The monitor has read that pages are emptied, or will be. One call may tell of a page again, if the mapping was cut
    /// meanwhile.
    fn removed(
        &mut self,
        cpu: usize,
        flight: &Flight,
        (first, pages): (Option<Spot>, u32),
        features: UffdFlags,
    ) -> Result<(), &'static str> {
        let first = first.filter(|_| {
            matches!(flight.code, OpCode::Dontneed | OpCode::DontneedLocked | OpCode::Free | OpCode::Remove)
        });
        let Some(first) = first else { return Err("not what the call does") };
        self.told[cpu].removed += pages;
        let space = &self.procs[usize::from(flight.proc)].space;
        for page in first.page..first.page + pages {
            let spot = Spot { page, ..first };
            if spot.region != flight.region || !(flight.first..flight.end).contains(&page) {
                return Err("not of the range of the call");
            }
            let Some(states) = space.states(spot).filter(|_| !self.told[cpu].doubt) else { continue };
            if !states.iter().any(|s| s.traps.flags().features() == features && s.traps.armed()) {
                return Err("not registered");
            }
            if flight.code == OpCode::Free && states.iter().all(|s| s.base != Base::Anon) {
                return Err("such pages are not emptied");
            }
        }
        Ok(())
    }

    /// A call returns: has the monitor heard what it must, and nothing else?
    pub(super) fn judge_told(&mut self, cpu: usize, flight: &Flight, outcome: Outcome) -> Result<(), OracleViolation> {
        let told = std::mem::take(&mut self.told[cpu]);
        if told.doubt || outcome == Outcome::Skipped {
            return Ok(());
        }
        let done = outcome == Outcome::Done;
        let gone = told.unmapped | told.moved;
        let on = match flight.code {
            OpCode::Mremap | OpCode::MremapDontunmap if done => {
                let missing = told.own.must & !told.moved != 0 || told.target.must & !told.cleared != 0;
                let source = flight.code == OpCode::Mremap && told.own.must & !told.unmapped != 0;
                (missing || source).then_some("has not heard of it")
            }
            // What was at the target may be gone: `mremap_to()` unmaps it before it looks at what is to move.
            OpCode::Mremap | OpCode::MremapDontunmap => {
                let device = || flight.spots().any(|spot| self.shows_device(flight.proc, spot));
                let early = outcome == Outcome::Invalid && !(flight.code == OpCode::MremapDontunmap && device());
                let all = if early { gone | told.cleared } else { gone };
                (all != 0).then_some("has heard of what has not happened")
            }
            OpCode::Dontneed | OpCode::DontneedLocked | OpCode::Free | OpCode::Remove if done => {
                (told.removed < told.own.pages).then_some("has not heard of it")
            }
            OpCode::Dontneed | OpCode::DontneedLocked | OpCode::Free | OpCode::Remove => None,
            // What fails after it has unmapped what was there.
            _ if done || flight.code == OpCode::Mmap && outcome == Outcome::NoMem => {
                (told.own.must & !told.unmapped != 0).then_some("has not heard of it")
            }
            _ => (gone != 0).then_some("has heard of what has not happened"),
        };
        let Some(on) = on else { return Ok(()) };
        let mut violation = broken(Rule::OracleUffdChange);
        let e = &mut violation.evidence;
        (e.cpu, e.proc, e.what, e.on) = (Some(cpu as u8), Some(flight.proc), Some(flight.code.name()), Some(on));
        Err(violation)
    }

    /// True of memory that moves and pages that are filled meanwhile, if those who fill are sent away from the move until the
    /// monitor has read of it: they come before it or after that.
    pub(super) fn waits_for_monitor(&self, moves: &Flight, fills: &Flight) -> bool {
        let fills = matches!(fills.effect(), Some(Effect::Uffd(Uffd::Fill(..))));
        self.tells && fills && moves.remaps().is_some() && {
            let source = self.watchers(moves.proc, moves.spots(), UffdFlags::EVENTS);
            source.must.count_ones() == 1 && source.pages == moves.len()
        }
    }

    /// Pages have been filled: where they are being moved, they come to the new place as they are now, if the monitor has not
    /// read of the move.
    pub(super) fn filled(&mut self, by: &Flight) {
        for cpu in 0..MAX_CPUS {
            let moves = |f: &Flight| f.proc == by.proc && f.remaps().is_some_and(|m| !m.confused);
            let Some(flight) = self.flights[cpu].filter(moves) else { continue };
            for spot in by.spots() {
                let Some(to) = flight.target_of(spot) else { continue };
                let unread = self.unread(by.proc, spot) & 1 << cpu != 0;
                self.may_arrive(by.proc, spot, to, 1 << cpu, unread);
            }
        }
    }

    /// CPUs whose moves the monitor of this page has not read of.
    pub(super) fn unread(&self, proc: u8, spot: Spot) -> u8 {
        let states = self.procs[usize::from(proc)].space.states(spot).unwrap_or_default();
        let Some(bit) = states.iter().find(|s| s.traps.armed()).map(|s| bit(s.traps.flags().features())) else {
            return 0;
        };
        let mut cpus = 0;
        for (cpu, told) in self.told.iter().enumerate() {
            let moves = |f: &Flight| f.proc == proc && f.remaps().is_some();
            if !told.doubt && told.own.must & !told.moved & bit != 0 && self.flights[cpu].as_ref().is_some_and(moves) {
                cpus |= 1 << cpu;
            }
        }
        cpus
    }
}

/// True of a call that takes its own range away.
fn unmaps(code: OpCode) -> bool {
    matches!(code, OpCode::Munmap | OpCode::Mmap | OpCode::Mremap | OpCode::MremapResize)
}

fn told_wrongly(cpu: usize, change: UffdChange, proc: u8, on: &'static str) -> OracleViolation {
    let mut violation = broken(Rule::OracleUffdChange);
    let e = &mut violation.evidence;
    (e.cpu, e.proc, e.vpn, e.what, e.on) = (Some(cpu as u8), Some(proc), change.vpn(), Some(change.name()), Some(on));
    violation
}
