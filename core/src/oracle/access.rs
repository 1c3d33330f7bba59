//! Accesses: loads, stores, the signals that end them, and what `pagemap` says of them.

use super::page::{Changes, Ends, Known, Reach, State, loaded, stored};
use super::space::Spot;
use super::traps::Traps;
use super::{Oracle, OracleViolation, broken};
use crate::config::MAX_CPUS;
use crate::observe::{Agent, Signal, Token};
use crate::program::{Case, OpCode, Perm};
use crate::rule::Rule;

impl Oracle {
    /// A load of `value` retired.
    #[inline]
    pub(super) fn load(&mut self, proc: u8, spot: Spot, value: Token, cpu: usize) -> Result<(), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        if self.calm(proc, cpu)
            && let Known::One(state) = p.space.page(spot).known
            && state.shows(&self.files, value)
            && self.settled_file(state)
            && state.touched(false) == state
            && p.live
            && p.space.nothing_lost()
        {
            return Ok(());
        }
        self.load_slow(proc, spot, value, cpu)
    }

    /// True when nobody but this CPU does anything that could change a page of the process.
    #[inline]
    fn calm(&self, proc: u8, cpu: usize) -> bool {
        let touching = self.touching[usize::from(proc)];
        self.changing[usize::from(proc)] == 0 && (touching == 0 || touching == 1u8.checked_shl(cpu as u32).unwrap_or(0))
    }

    fn load_slow(&mut self, proc: u8, spot: Spot, value: Token, cpu: usize) -> Result<(), OracleViolation> {
        let (known, changes) = self.look(proc, spot, cpu)?;
        self.retired(proc, spot)?;
        let mut reach = self.procs[usize::from(proc)].space.reachable(spot, &changes);
        let Some(set) = &mut reach else {
            self.settle(proc, spot, &changes, value, &[Perm::Read, Perm::ReadWrite], value != 0);
            return Ok(());
        };
        if !set.iter().any(|s| s.permits(false) && s.passes_file(&self.files, false)) {
            return Err(broken(forbidden(set, false)).known(known));
        }
        if !set.iter().any(|s| s.shows(&self.files, value)) {
            let lost = set.iter().any(|s| s.through().is_some_and(|cell| self.files.is_lost(cell)));
            let mut violation = broken(if lost { Rule::OraclePoison } else { Rule::OracleValue }).known(known);
            violation.evidence.found = Some(u64::from(value));
            return Err(violation);
        }
        loaded(set, &changes, &mut self.files, value);
        self.keep(proc, spot, Some(set), &changes);
        if changes.is_empty() && value != 0 {
            self.found(proc, spot, false);
        }
        Ok(())
    }

    /// A store of `value` retired.
    #[inline]
    pub(super) fn store(
        &mut self,
        proc: u8,
        spot: Spot,
        value: Token,
        by: Agent,
        cpu: usize,
    ) -> Result<(), OracleViolation> {
        let calm = self.calm(proc, cpu) && self.forking[usize::from(proc)] == 0;
        let now = self.now;
        let p = &mut self.procs[usize::from(proc)];
        let cleared = p.cleared;
        let live = p.live;
        let calm = calm && p.space.nothing_lost();
        if let Some(page) = p.space.page_mut(spot) {
            if page.stored <= cleared && matches!(by, Agent::Cpu(_)) {
                page.stored = now;
            }
            if calm
                && live
                && let Known::One(state) = &mut page.known
                && state.permits(true)
                && state.through().is_none()
            {
                *state = State { value, lazy: false, ..state.touched(true) };
                return Ok(());
            }
        }
        self.store_slow(proc, spot, value, cpu)
    }

    fn store_slow(&mut self, proc: u8, spot: Spot, value: Token, cpu: usize) -> Result<(), OracleViolation> {
        let (known, changes) = self.look(proc, spot, cpu)?;
        self.retired(proc, spot)?;
        self.blur(proc, spot);
        let mut reach = self.procs[usize::from(proc)].space.reachable(spot, &changes);
        match &mut reach {
            None if changes.is_empty() && !self.procs[usize::from(proc)].files => {
                self.settle(proc, spot, &changes, value, &[Perm::ReadWrite], false)
            }
            None => {
                if self.procs[usize::from(proc)].files {
                    self.files.forget(self.region_pages);
                }
                self.keep(proc, spot, None, &changes);
            }
            Some(set) => {
                if !set.iter().any(|s| s.ends(&self.files, true).meets(Ends::WELL)) {
                    return Err(broken(forbidden(set, true)).known(known));
                }
                if changes.is_empty() {
                    self.found(proc, spot, true);
                }
                if stored(set, &changes, &mut self.files, value).is_err() {
                    reach = None;
                }
                self.keep(proc, spot, reach.as_mut(), &changes);
            }
        }
        self.spread(proc, spot, &changes);
        Ok(())
    }

    /// What was stored to a page may be seen where it is being moved to, in children being born, and in copies.
    pub(super) fn spread(&mut self, proc: u8, spot: Spot, changes: &Changes) {
        self.echo(proc, spot);
        if self.forking[usize::from(proc)] != 0 {
            // With what calls in flight can make of the new value.
            let reach = self.procs[usize::from(proc)].space.reachable(spot, changes);
            self.tell(proc, spot, reach.as_ref());
        }
        if self.procs[usize::from(proc)].files {
            self.break_cow_again();
        }
    }

    /// An access ended in a signal; `past` is how it could have ended in states that were over before.
    pub(super) fn signal(
        &mut self,
        proc: u8,
        spot: Spot,
        by: Agent,
        write: bool,
        signal: Signal,
        past: Ends,
    ) -> Result<(), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        let wanted = match (signal, by) {
            (Signal::OomKill, _) => return Ok(()),
            (Signal::Kill, _) if p.exiting || !p.live => return Ok(()),
            (Signal::Kill, _) => return Err(broken(Rule::OracleSignal).known(p.space.page(spot).known)),
            (_, Agent::Device(_)) if p.exiting || !p.live => return Ok(()),
            (_, Agent::Device(_)) => Ends::FAULT,
            (Signal::SegvMapErr, _) => Ends::MAP_ERR,
            (Signal::SegvAccErr, _) => Ends::ACC_ERR,
            (Signal::Bus, _) => Ends::BUS,
        };
        if past.meets(wanted) {
            return Ok(());
        }
        let (known, changes) =
            self.look(proc, spot, MAX_CPUS).map_err(|v| OracleViolation { rule: Rule::OracleSignal, ..v })?;
        let mut reach = self.procs[usize::from(proc)].space.reachable(spot, &changes);
        let Some(set) = &mut reach else { return Ok(()) };
        // A device that mirrors the process cannot be given what another device shows there.
        if matches!(by, Agent::Device(_)) && set.iter().any(|s| s.of_device()) {
            return Ok(());
        }
        if !set.iter().any(|s| s.ends(&self.files, write).meets(wanted)) {
            return Err(broken(Rule::OracleSignal).known(known));
        }
        let lost = self.procs[usize::from(proc)].space.lost(spot).is_some();
        if changes.is_empty() && !(lost && signal == Signal::Bus) {
            set.retain(|s| s.ends(&self.files, write).meets(wanted));
            let through = match set.as_slice() {
                [one] if signal == Signal::Bus => one.through(),
                _ => None,
            };
            if let Some(cell) = through {
                self.files.lost(cell);
            }
            self.keep(proc, spot, Some(set), &changes);
        }
        Ok(())
    }

    /// True when a load in this state, which agrees with it, has nothing to teach.
    #[inline]
    fn settled_file(&self, state: State) -> bool {
        state.through().is_none_or(|cell| self.files.value(cell).is_some() && self.files.knows_presence(cell))
    }

    /// What is known of a page of a live process, and which calls in flight change it.
    /// Of those, an access on CPU `cpu` does not count itself.
    pub(super) fn look(&self, proc: u8, spot: Spot, cpu: usize) -> Result<(Known, Changes), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        let known = p.space.page(spot).known;
        if !p.live {
            let mut violation = broken(Rule::OracleAccess);
            violation.evidence.on = Some("no such process");
            return Err(violation);
        }
        Ok((known, self.changes_seen(proc, spot, cpu)))
    }

    /// Learns what a page is of which nothing was known, from an access that these protections permit. What was loaded
    /// (`loaded`) may be about to be dropped. Nothing is known of a page's registration either, so of a page that may be
    /// registered nothing is learnt.
    fn settle(&mut self, proc: u8, spot: Spot, changes: &Changes, value: Token, perms: &[Perm], loaded: bool) {
        if changes.is_empty() && !self.procs[usize::from(proc)].files && self.fresh == Traps::NONE {
            let mut set: Reach = perms.iter().map(|&p| State { value, ..State::mapped(p) }).collect();
            if loaded {
                let lazy: Reach = set.iter().map(|s| State { lazy: true, ..*s }).collect();
                set.extend(lazy);
            }
            self.procs[usize::from(proc)].space.keep(spot, Some(&set));
        }
    }

    /// `pagemap` said that a page is not soft-dirty.
    pub(super) fn soft_clean(
        &self,
        case: &Case,
        op: u32,
        proc: u8,
        spot: Spot,
        vpn: u32,
    ) -> Result<(), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        let Some(flight) = self.flight(case, op) else { return Ok(()) };
        let in_doubt = p.clearing != 0
            || p.space.lost(spot).is_some()
            || flight.contended
            || self.changes(proc, spot, None).iter().any(|(_, e)| e.drops())
            || p.space
                .states(spot)
                .is_none_or(|s| s.iter().any(|s| s.perm.is_none() || s.through().is_some() || s.of_device()));
        if in_doubt || !p.live {
            return Ok(());
        }
        let page = p.space.page(spot);
        let unmarked_vma = p.cleared > 0 && p.remapped > p.cleared && p.merged > page.stored;
        let lending = self.flights.iter().flatten().any(|f| f.proc == proc && f.code == OpCode::ToDevice);
        let written = page.stored > p.cleared.max(p.lent) && page.stored < flight.began && !unmarked_vma && !lending;
        let new = page.mapped > p.cleared.max(p.merged) && page.mapped < flight.began;
        if !written && !new {
            return Ok(());
        }
        let cpu = case.ops.get(op as usize).map_or(0, |o| o.cpu);
        let mut violation = broken(Rule::OracleSoftDirty).at(proc, vpn, Agent::Cpu(cpu), "pagemap");
        violation.evidence.expected = Some(1);
        violation.evidence.found = Some(0);
        violation.evidence.on = Some(if written { "written since clear_refs" } else { "mapped since clear_refs" });
        Err(violation)
    }
}

/// The rule that an access breaks which none of these states lets pass.
fn forbidden(set: &Reach, write: bool) -> Rule {
    let allowed = set.iter().any(|s| s.allows(write) && (!s.traps.passes(write) || s.traps.watches_file()));
    if allowed { Rule::OracleUffdMissed } else { Rule::OracleAccess }
}
