//! userfaultfd: events, threads that wait, results of the monitor's calls, and what `pagemap` says.
//!
//! An event is right where the page may be such that the access has to wait, now or at any time since the access
//! began. A second event for the same access needs a reason: somebody must have changed the page or woken the thread,
//! or be about to. A thread that is found waiting when nobody is left must not have been woken by a call that began after
//! its event; nor may it wait for a page that is there and was put there by a call that wakes, however the two met: the
//! thread looks once more after it has queued itself.

use super::flight::{Flight, Waiting};
use super::page::{Base, Ends, Reach, State};
use super::result::Keep;
use super::space::Spot;
use super::traps::Traps;
use super::{Oracle, OracleViolation, broken};
use crate::config::MAX_CPUS;
use crate::observe::{Agent, Outcome, UffdFlags, Userfault};
use crate::program::{Case, OpCode};
use crate::rule::Rule;

impl Oracle {
    /// An access waits, and the monitor has been told.
    pub(super) fn userfault(
        &mut self,
        case: &Case,
        op: u32,
        (proc, vpn): (u8, u32),
        write: bool,
        reason: Userfault,
    ) -> Result<(), OracleViolation> {
        let Some(spot) = Self::spot(case, proc, vpn) else { return Ok(()) };
        let Some(flight) = self.flight(case, op).copied() else { return Ok(()) };
        let cpu = Self::cpu_of(case, op);
        let at = |v: OracleViolation| v.at(proc, vpn, Agent::Cpu(cpu as u8), reason.name());
        if self.fresh == Traps::NONE {
            return Err(at(broken(Rule::OracleUffdEvent)));
        }
        // A call of the monitor's that waits is judged by what comes of it.
        if flight.touches().is_none() {
            return Ok(());
        }
        let wanted = Ends::of(reason);
        let (known, changes) = self.look(proc, spot, cpu).map_err(at)?;
        let mut blinked = false;
        if let Some(mut set) = self.procs[usize::from(proc)].space.reachable(spot, &changes) {
            blinked = self.may_blink(&set, wanted);
            let expected = set.iter().any(|s| s.ends(&self.files, write).meets(wanted));
            let before = flight.past.meets(wanted);
            if !expected && !blinked && !before {
                return Err(at(broken(Rule::OracleUffdEvent).known(known)));
            }
            if expected && !before && changes.is_empty() {
                set.retain(|s| s.ends(&self.files, write).meets(wanted));
                set.iter_mut().for_each(|s| *s = s.stopped(reason));
                self.keep(proc, spot, Some(&mut set), &changes);
            }
        }
        if flight.waiting.is_some_and(|w| w.spot == spot && w.reason == reason && !w.touched) {
            let mut violation = at(broken(Rule::OracleUffdEvent));
            violation.evidence.on = Some("a second event for the same access");
            return Err(violation);
        }
        let others = self.flights.iter().enumerate().filter(|(c, _)| *c != cpu).filter_map(|(_, f)| f.as_ref());
        let touched = others.clone().any(|f| f.covers(proc, spot) && (f.effect().is_some() || f.wakes()));
        if let Some(flight) = &mut self.flights[cpu] {
            flight.waiting = Some(Waiting { spot, since: self.now, reason, blinked, woken: false, touched });
        }
        Ok(())
    }

    /// An access may end in `SIGBUS` because of userfaultfd: the page is poisoned, or it is to be so instead of an event.
    /// What a device asks for cannot wait, and fails instead.
    pub(super) fn may_end_in_sigbus(&self, (proc, spot): (u8, Spot), by: Agent, write: bool, past: Ends) -> bool {
        if self.fresh == Traps::NONE {
            return false;
        }
        let reach = self.procs[usize::from(proc)].space.reachable(spot, &self.changes(proc, spot, None));
        let wanted = if matches!(by, Agent::Cpu(_)) { Ends::BUS } else { Ends::FAULT };
        let may = |s: &Reach| s.iter().any(|s| s.ends(&self.files, write).meets(wanted));
        past.meets(wanted) || reach.is_none_or(|s| may(&s) || self.may_blink(&s, wanted))
    }

    /// A call has succeeded that wakes those who wait at its pages; how many of them it has dealt with.
    pub(super) fn wake(&mut self, by: &Flight, outcome: Outcome) {
        let end = match outcome {
            Outcome::Done => by.end,
            Outcome::Partial => by.first.saturating_add(by.progress),
            _ => return,
        };
        for cpu in 0..MAX_CPUS {
            let Some(flight) = self.flights[cpu].filter(|f| f.op != by.op && f.proc == by.proc) else { continue };
            let Some(waiting) = flight.waiting else { continue };
            let covered = match by.code {
                OpCode::UffdMove => by.source_of(waiting.spot).is_some_and(|from| from.page < end),
                _ => by.everywhere() || by.covers(flight.proc, waiting.spot) && waiting.spot.page < end,
            };
            // Of a range, only what is registered for missing pages is woken when it is unregistered.
            let missing = by.code != OpCode::UffdUnregister || self.all_missing(by.proc, waiting.spot) && !by.disturbed;
            if covered && missing && waiting.since < by.began {
                self.flights[cpu] = Some(Flight { waiting: Some(Waiting { woken: true, ..waiting }), ..flight });
            }
        }
    }

    fn all_missing(&self, proc: u8, spot: Spot) -> bool {
        let states = self.procs[usize::from(proc)].space.states(spot);
        states.is_some_and(|s| s.iter().all(|s| s.traps.flags().has(UffdFlags::MISSING)))
    }

    /// The page is there, and whoever put it there has woken everybody.
    fn settled(&self, proc: u8, spot: Spot) -> bool {
        self.procs[usize::from(proc)].space.states(spot).is_some_and(|s| s.iter().all(|s| s.traps.settled()))
    }

    /// An access still waits, and nobody is left.
    pub(super) fn stuck(&mut self, case: &Case, op: u32, proc: u8, vpn: u32) -> Result<(), OracleViolation> {
        let Some(flight) = self.flight(case, op) else { return Ok(()) };
        let on = match flight.waiting {
            Some(waiting) if waiting.woken => "woken",
            // Who misses what is there must be woken by hand: UFFDIO_COPY finds it there, too.
            Some(waiting) if waiting.blinked => return Ok(()),
            Some(waiting) if waiting.reason == Userfault::Missing && self.settled(proc, waiting.spot) => "filled",
            Some(_) => return Ok(()),
            None => "no event",
        };
        let mut violation =
            broken(Rule::OracleUffdWakeup).at(proc, vpn, Agent::Cpu(Self::cpu_of(case, op) as u8), "waits");
        violation.evidence.on = Some(on);
        Err(violation)
    }

    /// `pagemap` said whether userfaultfd write-protects a page.
    pub(super) fn pagemap_wp(
        &self,
        case: &Case,
        op: u32,
        proc: u8,
        spot: Spot,
        wp: bool,
        vpn: u32,
    ) -> Result<(), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        // What a scan says is what was there before it.
        let changes = self.changes(proc, spot, Some(Self::cpu_of(case, op)));
        // Memory that fails takes the mark with it.
        if !p.live || p.space.lost(spot).is_some() || self.poisoning() {
            return Ok(());
        }
        let fits = |shown: (bool, bool)| if wp { shown.0 } else { shown.1 };
        // PAGEMAP_SCAN marks guards, too, where it means nothing.
        if p.space.can_be(spot, &changes, |s| s.guard || fits(s.traps.shown())) {
            return Ok(());
        }
        let cpu = Self::cpu_of(case, op) as u8;
        let mut violation = broken(Rule::OracleUffdPagemap).at(proc, vpn, Agent::Cpu(cpu), "pagemap");
        (violation.evidence.expected, violation.evidence.found) = (Some(u64::from(!wp)), Some(u64::from(wp)));
        Err(violation)
    }

    /// Whether the result of a call of the monitor's is right, and which states it leaves.
    pub(super) fn judge_uffd(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        match flight.code {
            OpCode::UffdRegister | OpCode::UffdUnregister => self.judge_registration(flight, outcome),
            OpCode::UffdWp | OpCode::UffdUnwp => match outcome {
                Outcome::Done => self.all_can(flight, flight.end).map(|()| Keep::Applied),
                // What would cut a huge page; what lies before it has been changed.
                Outcome::Invalid if !flight.whole && self.may_meet(flight, State::of_hugetlb) => Ok(Keep::Either),
                // What lies before the page that is not registered has been changed.
                Outcome::NoEnt if self.all_registered(flight, UffdFlags::WP) => Err("the range is registered"),
                Outcome::NoEnt => Ok(Keep::Either),
                // Another call changes the memory, and the monitor has not read of it.
                Outcome::Busy if self.tells => Ok(Keep::NotApplied),
                _ => Err(flight.code.name()),
            },
            OpCode::UffdCopy | OpCode::UffdZeropage | OpCode::UffdPoison | OpCode::UffdContinue => {
                self.judge_fill(flight, outcome)
            }
            OpCode::UffdMove => self.judge_uffd_move(flight, outcome),
            OpCode::PagemapScan if outcome == Outcome::Invalid && !self.uffd_flags.has(UffdFlags::ASYNC) => {
                Ok(Keep::NotApplied)
            }
            OpCode::UffdWake | OpCode::UffdClose | OpCode::PagemapScan if outcome == Outcome::Done => Ok(Keep::Applied),
            _ => Err(flight.code.name()),
        }
    }

    fn judge_registration(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let flags = UffdFlags(flight.arg);
        let registers = flight.code == OpCode::UffdRegister;
        let possible = !registers || flags.modes() != UffdFlags::NONE && flags.0 & !self.uffd_flags.0 == 0;
        let in_doubt = flight.disturbed || flight.contended;
        match outcome {
            Outcome::Done if !possible => Err("such memory cannot be registered so"),
            Outcome::Done => self.all_can(flight, flight.end).map(|()| Keep::Applied),
            // What would cut a huge page, and protection where a release has no notes for it.
            Outcome::Invalid
                if (!flight.whole || flags.has(UffdFlags::WP)) && self.may_meet(flight, State::of_hugetlb) =>
            {
                Ok(Keep::NotApplied)
            }
            // Some files are not registered, nor is anonymous memory for minor faults.
            Outcome::Invalid if self.may_show_file(flight) => Ok(Keep::NotApplied),
            Outcome::Invalid if flags.has(UffdFlags::MINOR) => Ok(Keep::NotApplied),
            Outcome::Invalid if possible && !in_doubt && self.any(flight, |s| s.perm.is_some()) => {
                Err("something is mapped there")
            }
            Outcome::Invalid => Ok(Keep::NotApplied),
            Outcome::Busy if registers && (in_doubt || !self.all_can_now(flight)) => Ok(Keep::NotApplied),
            _ => Err(flight.code.name()),
        }
    }

    /// True when some page of the range may show a file or a device.
    fn may_show_file(&self, flight: &Flight) -> bool {
        let proc = &self.procs[usize::from(flight.proc)];
        let shows = |s: &State| s.base != Base::Anon;
        proc.files
            && (flight.disturbed
                || flight.contended
                || flight.spots().any(|spot| proc.space.states(spot).is_none_or(|s| s.iter().any(shows))))
    }

    fn judge_fill(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let filled = match outcome {
            Outcome::Done => flight.len(),
            Outcome::Partial => flight.progress,
            _ => 0,
        };
        let end = flight.first.saturating_add(filled);
        self.all_can(flight, end)?;
        let first = Spot { region: flight.region, page: flight.first };
        let alone = !flight.disturbed && !flight.contended;
        let of_first = |test: &dyn Fn(&State) -> bool| {
            self.procs[usize::from(flight.proc)].space.states(first).is_some_and(|s| s.iter().all(test))
        };
        match outcome {
            Outcome::Done | Outcome::Partial | Outcome::NoMem | Outcome::Busy => {}
            Outcome::Exists if alone && of_first(&|s| self.must_take(s, flight)) => {
                return Err("nothing is there");
            }
            Outcome::Exists => {}
            // Where VMAs end is not known here: only of one page is it sure that it lies in one.
            Outcome::NoEnt if alone && flight.len() == 1 && of_first(&|s| s.perm.is_some() && s.traps.armed()) => {
                return Err("the page is registered");
            }
            Outcome::NoEnt => {}
            Outcome::Fault if self.procs[usize::from(flight.proc)].files => {
                if alone && of_first(&|s| Oracle::surely_mappable(s, flight, &self.files)) {
                    return Err("the file has the page");
                }
            }
            Outcome::Invalid if flight.may_be_refused() => {}
            Outcome::Invalid
                if (!flight.whole || flight.code == OpCode::UffdZeropage)
                    && self.may_meet(flight, State::of_hugetlb) => {}
            Outcome::Invalid if self.procs[usize::from(flight.proc)].files && !of_first(&|s| s.base == Base::Anon) => {}
            _ => return Err(flight.code.name()),
        }
        Ok(Keep::UpTo { may: end, must: end })
    }

    /// Every page up to `end` is in some state in which the call has taken effect.
    fn all_can(&self, flight: &Flight, end: u32) -> Result<(), &'static str> {
        let space = &self.procs[usize::from(flight.proc)].space;
        let bit = self.bit(flight);
        for spot in flight.spots_in(space.lens()).take_while(|s| s.page < end) {
            let can = |s: &State| s.applied & bit != 0;
            let changes = self.changes(flight.proc, spot, None);
            // What a failed read or frame has left there may be overwritten.
            let lost = self.may_be_lost(flight);
            if !lost && !space.can_be(spot, &changes, can) {
                return Err(match flight.code {
                    OpCode::UffdWp | OpCode::UffdUnwp => "the page is not registered for it",
                    OpCode::UffdRegister => "the page belongs to another userfaultfd",
                    _ => "something was there, or the page is not registered",
                });
            }
        }
        Ok(())
    }

    fn bit(&self, flight: &Flight) -> u8 {
        self.flights.iter().position(|f| f.as_ref().is_some_and(|f| f.op == flight.op)).map_or(0, |cpu| 1 << cpu)
    }

    /// The call could have taken effect on every page.
    fn all_can_now(&self, flight: &Flight) -> bool {
        let space = &self.procs[usize::from(flight.proc)].space;
        flight.spots_in(space.lens()).all(|spot| {
            let Some(effect) = flight.effect_on(spot) else { return true };
            space.states(spot).is_some_and(|s| s.iter().all(|s| effect.apply(*s, 0).is_some()))
        })
    }

    fn all_registered(&self, flight: &Flight, mode: UffdFlags) -> bool {
        let space = &self.procs[usize::from(flight.proc)].space;
        let registered = |s: &State| s.perm.is_none() || s.traps.flags().has(mode);
        let all = flight.spots().all(|spot| space.states(spot).is_some_and(|s| s.iter().all(registered)));
        all && !flight.disturbed && !flight.contended && self.any(flight, |s| s.perm.is_some())
    }

    /// Some page of the range is certainly such.
    fn any(&self, flight: &Flight, test: impl Fn(&State) -> bool) -> bool {
        let space = &self.procs[usize::from(flight.proc)].space;
        flight.spots().any(|spot| space.states(spot).is_some_and(|s| s.iter().all(&test)))
    }
}
