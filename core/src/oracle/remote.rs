//! What a debugger reads and writes (`/proc/pid/mem`): the contents of a page without regard to its protection, and never
//! those of a file through a private mapping.
//!
//! Everything but the protection stands in its way as it does in the process's own: the end of a file, guard pages,
//! poison, and userfaultfd, for which it does not wait.

use super::file::Files;
use super::flight::Flight;
use super::page::{Base, Ends, Overflow, Reach, State, insert, loaded, stored};
use super::result::Keep;
use super::space::Spot;
use super::traps::Traps;
use super::violation::broken;
use super::{Oracle, OracleViolation};
use crate::observe::{Agent, Observation, Outcome, Token};
use crate::program::{Case, OpCode, Perm};
use crate::rule::Rule;

impl Flight {
    /// It is an access by a debugger.
    pub(super) fn remote(&self) -> bool {
        matches!(self.code, OpCode::MemRead | OpCode::MemWrite)
    }
}

impl State {
    /// The same page as a debugger has it: what is private may be written, unless it is hugetlb memory, and everything read.
    fn forced(self) -> State {
        let kept = matches!(self.base, Base::Shared(_)) || self.of_hugetlb();
        let perm = self.perm.map(|p| if p == Perm::ReadWrite || !kept { Perm::ReadWrite } else { Perm::Read });
        State { perm, ..self }
    }
}

/// The protection of a page in all states in which it is mapped; an error when it differs.
fn protection(set: &Reach) -> Result<Option<Perm>, ()> {
    let mut perms = set.iter().filter_map(|s| s.perm);
    let first = perms.next();
    if perms.all(|p| Some(p) == first) { Ok(first) } else { Err(()) }
}

/// Makes of a set what it is after a store that may have gone to what is not there any more.
fn perhaps_stored(set: &mut Reach, files: &mut Files, value: Token) -> Result<(), Overflow> {
    for i in 0..set.len() {
        match set[i].base {
            _ if !set[i].permits(true) => {}
            Base::Shared(cell) => files.perhaps_stored(cell, value),
            _ => {
                let hit = set[i].written(value);
                insert(set, hit)?;
            }
        }
    }
    Ok(())
}

impl Oracle {
    /// An access by DMA, or by the kernel for a debugger.
    #[cold]
    pub(super) fn copied(&mut self, case: &Case, obs: &Observation) -> Result<(), OracleViolation> {
        let (op, proc, vpn, by, value, write) = match *obs {
            Observation::Load { op, proc, vpn, by, value } => (op, proc, vpn, by, value, false),
            Observation::Store { op, proc, vpn, by, value } => (op, proc, vpn, by, value, true),
            _ => return Ok(()),
        };
        let Some(spot) = Self::spot(case, proc, vpn) else { return Ok(()) };
        match (by, write) {
            (Agent::Debugger, _) => {
                let what = if write { "write of /proc/pid/mem" } else { "read of /proc/pid/mem" };
                let cpu = Self::cpu_of(case, op);
                self.remote_access(proc, spot, value, write, cpu).map_err(|v| v.at(proc, vpn, by, what))?;
                self.count(case, op, by, false);
            }
            (_, false) => self.dma_load(proc, spot, value).map_err(|v| v.at(proc, vpn, by, "DMA read"))?,
            (_, true) => self.dma_store(proc, spot, value),
        }
        Ok(())
    }

    /// A call begins: does it take pages away, wherever they are, from under a debugger, or does one begin meanwhile?
    #[cold]
    pub(super) fn disturb_remote(&mut self, flight: &mut Flight) {
        let takes = |f: &Flight| f.cuts() || matches!(f.code, OpCode::Remove | OpCode::ResetDevice);
        if takes(flight) {
            self.flights.iter_mut().flatten().filter(|f| f.remote()).for_each(|f| f.disturbed = true);
        } else if flight.remote() {
            flight.disturbed |= self.flights.iter().flatten().any(takes);
        }
    }

    /// A debugger has read or written `value` at a page.
    pub(super) fn remote_access(
        &mut self,
        proc: u8,
        spot: Spot,
        value: Token,
        write: bool,
        cpu: usize,
    ) -> Result<(), OracleViolation> {
        let (known, changes) = self.look(proc, spot, cpu)?;
        self.retired(proc, spot)?;
        let mut reach = self.procs[usize::from(proc)].space.reachable(spot, &changes);
        let mut unknown = reach.is_none();
        // What was found before may not be there any more: a call has replaced it, or where references are counted a write
        // fault may have put a copy in its place.
        let flight = self.flights.get(cpu).and_then(Option::as_ref);
        let unsure = self.by_count || flight.is_none_or(|f| f.disturbed);
        if let Some(set) = &mut reach {
            let perm = protection(set);
            set.iter_mut().for_each(|s| *s = s.forced());
            let right = |s: &State| {
                if write { s.ends(&self.files, true).meets(Ends::WELL) } else { s.shows(&self.files, value) }
            };
            if !set.iter().any(right) {
                let found_before = |f: &Flight| f.past.meets(Ends::WELL.or(Ends::ACC_ERR));
                if write && flight.is_some_and(found_before) {
                    // The page was there, be it only to be read, until a call took it away; nobody sees it any more.
                    return Ok(());
                }
                let rule = if write { Rule::OracleAccess } else { Rule::OracleValue };
                let mut violation = broken(rule).known(known);
                violation.evidence.found = Some(u64::from(value));
                return Err(violation);
            }
            if write && unsure {
                unknown = perhaps_stored(set, &mut self.files, value).is_err();
            } else if write {
                unknown = stored(set, &changes, &mut self.files, value).is_err();
            } else {
                loaded(set, &changes, &mut self.files, value);
            }
            match perm {
                Ok(perm) => set.iter_mut().filter(|s| s.perm.is_some()).for_each(|s| s.perm = perm),
                Err(()) => unknown = true,
            }
        }
        if !write && unknown {
            return Ok(());
        }
        if write {
            self.blur(proc, spot);
            self.remote_stored(proc, spot, unknown, unsure);
        }
        if unknown {
            reach = None;
        }
        self.keep(proc, spot, reach.as_mut(), &changes);
        if write {
            self.spread(proc, spot, &changes);
        }
        Ok(())
    }

    /// The page is soft-dirty, as after a store; and if it is not known where that went, so may a file be changed.
    fn remote_stored(&mut self, proc: u8, spot: Spot, unknown: bool, unsure: bool) {
        let now = self.now;
        let p = &mut self.procs[usize::from(proc)];
        let cleared = p.cleared;
        if let Some(page) = p.space.page_mut(spot)
            && page.stored <= cleared
            && !unsure
        {
            page.stored = now;
        }
        if unknown && p.files {
            self.files.forget(self.region_pages);
        }
    }

    /// `mem-read` and `mem-write`: they fail where nothing is mapped or can be had, and at shared mappings that may not be
    /// written.
    pub(super) fn judge_remote(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let proc = &self.procs[usize::from(flight.proc)];
        let write = flight.code == OpCode::MemWrite;
        let fails = |spot: Spot| {
            let changes = self.changes(flight.proc, spot, None);
            let ends = |s: &State| s.forced().ends(&self.files, write).meets(Ends::FAULT);
            proc.space.can_be(spot, &changes, ends)
        };
        match outcome {
            Outcome::Done if flight.retired == 0 && flight.len() > 0 => Err("an access is missing"),
            Outcome::Done | Outcome::NoMem => Ok(Keep::Either),
            Outcome::Fault => {
                let excused = flight.len() == 0
                    || flight.disturbed
                    || flight.contended
                    || !proc.live
                    || proc.exiting
                    || self.fresh != Traps::NONE
                    || self.may_be_lost(flight)
                    || flight.past.meets(Ends::FAULT);
                let right = excused || flight.spots().any(|s| fails(s) || self.shows_device(flight.proc, s));
                if right { Ok(Keep::Either) } else { Err("every debugger may access the page so") }
            }
            _ => Err("access to /proc/pid/mem"),
        }
    }
}
