//! Pinned pages: what a device reads and writes by DMA is what the process sees at the address.
//!
//! `Documentation/core-api/pin_user_pages.rst` promises a driver that a pinned page stays the page of the process until
//! that unmaps it, drops it or moves it away; no copy-on-write, reclaim or fork comes between. So a transfer through a
//! pin is an access to the page, whatever the protection says. A pin follows a page that `mremap` moves.
//!
//! Not promised, and so not judged: transfers while a call replaces the page, after memory has failed, and in releases
//! that decide copy-on-write by counting references, where pins are broken by later write faults; processes that have
//! mapped files.

use super::effect::Effect;
use super::flight::Flight;
use super::page::{Base, State, dedup, insert};
use super::result::Keep;
use super::space::Spot;
use super::{Oracle, OracleViolation, broken};
use crate::config::{Config, Design};
use crate::observe::{Outcome, REGULAR, Token};
use crate::program::OpCode;
use crate::rule::Rule;

/// A pin that a process holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// Where it was taken.
    at: Spot,
    /// Where its page is now.
    spot: Spot,
    /// When it was taken.
    since: u32,
    /// Nothing happened that may have parted it from its page.
    sure: bool,
    /// Its page was replaced.
    gone: bool,
    /// Calls in flight that may part it from its page, a bit for each CPU.
    doubt: u8,
}

impl Flight {
    fn pins(&self) -> bool {
        matches!(self.code, OpCode::Pin | OpCode::PinFast | OpCode::PinRead | OpCode::PinLongterm)
    }
}

impl Oracle {
    /// A call begins on CPU `cpu`.
    pub(super) fn begin_pins(&mut self, cpu: usize, flight: &Flight) {
        if flight.poisons() {
            self.procs.iter_mut().flat_map(|p| &mut p.pins).for_each(|p| p.sure = false);
        }
        if self.procs[usize::from(flight.proc)].pins.is_empty() {
            return;
        }
        let replaces = flight.effect().is_some_and(|e| e.replaces());
        for pin in &mut self.procs[usize::from(flight.proc)].pins {
            if replaces && flight.covers(flight.proc, pin.spot) {
                pin.doubt |= 1 << cpu;
            }
            if flight.code == OpCode::Unpin && flight.covers(flight.proc, pin.at) {
                pin.sure = false;
            }
        }
    }

    /// The call on CPU `cpu` returns, and leaves this of its range.
    pub(super) fn finish_pins(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        let bit = 1 << cpu;
        for pin in self.procs[usize::from(flight.proc)].pins.iter_mut().filter(|p| p.doubt & bit != 0) {
            pin.doubt &= !bit;
            let applied = matches!(keep, Keep::Applied | Keep::AppliedMapped);
            let confused = flight.moves.is_some_and(|m| m.confused);
            let target = flight.target_of(pin.spot).filter(|_| applied && !confused);
            match target {
                Some(to) => pin.spot = to,
                None if applied && !confused && pin.since < flight.began => pin.gone = true,
                None if keep == Keep::NotApplied && flight.moves.is_none() => {}
                None => pin.sure = false,
            }
        }
    }

    /// True when the page may be a shared one of a file on a disk.
    pub(super) fn tracked_file(&self, flight: &Flight) -> bool {
        let proc = &self.procs[usize::from(flight.proc)];
        let tracked = |s: &State| matches!(s.base, Base::Shared(cell) if cell.file() == REGULAR);
        let may_be = |spot: Spot| {
            let changes = self.changes(flight.proc, spot, None);
            proc.space.can_be(spot, &changes, tracked)
        };
        proc.files && flight.spots().any(may_be)
    }

    /// A call that pins or unpins has returned.
    pub(super) fn end_pins(&mut self, config: &Config, flight: &Flight, outcome: Outcome) {
        if outcome != Outcome::Done || !flight.pins() && flight.code != OpCode::Unpin {
            return;
        }
        let at = Spot { region: flight.region, page: flight.first };
        // They may be moving the page.
        let replacing = self.changes(flight.proc, at, None);
        // (What takes pages of files away is none of a pin's business: where files are mapped, no pin is sure.)
        let parts = |effect: &Effect| effect.replaces() && !matches!(effect, Effect::Cut(..) | Effect::Hole(..));
        let replacing = replacing.iter().filter(|(_, e)| parts(e)).fold(0, |bits, (bit, _)| bits | bit);
        let doubt = replacing != 0 || self.poisoning();
        let files = self.procs[usize::from(flight.proc)].files;
        let sure = !doubt && !files && !flight.disturbed && !config.uses(Design::CowByCount);
        let (now, pins) = (self.now, &mut self.procs[usize::from(flight.proc)].pins);
        if flight.pins() {
            pins.push(Pin { at, spot: at, since: now, sure, gone: false, doubt: replacing });
        } else if flight.code == OpCode::Unpin
            && let Some(last) = pins.iter().rposition(|p| p.at == at)
        {
            pins.remove(last);
        }
    }

    fn pin(&self, proc: u8, at: Spot) -> Option<Pin> {
        self.procs[usize::from(proc)].pins.iter().rfind(|p| p.at == at).copied()
    }

    /// A device has read `value` through what was pinned at an address.
    pub(super) fn dma_load(&mut self, proc: u8, at: Spot, value: Token) -> Result<(), OracleViolation> {
        let Some(pin) = self.pin(proc, at).filter(|p| p.sure && !p.gone && p.doubt == 0) else { return Ok(()) };
        let changes = self.changes(proc, pin.spot, None);
        let space = &self.procs[usize::from(proc)].space;
        let right = |s: &State| s.perm.is_some() && s.holds(value);
        if space.lost(pin.spot).is_some() || space.can_be(pin.spot, &changes, right) {
            return Ok(());
        }
        let mut violation = broken(Rule::OracleValue).known(space.page(pin.spot).known);
        violation.evidence.found = Some(u64::from(value));
        Err(violation)
    }

    /// A device has written `value`.
    pub(super) fn dma_store(&mut self, proc: u8, at: Spot, value: Token) {
        let pin = self.pin(proc, at);
        if pin.is_some_and(|p| p.gone) {
            return;
        }
        let sure = pin.is_some_and(|p| p.sure && p.doubt == 0);
        let spots = [Some(at), pin.map(|p| p.spot).filter(|s| *s != at)];
        // A pin that is in doubt may have moved with its page, or not.
        for spot in spots.into_iter().flatten().filter(|s| !sure || pin.is_some_and(|p| p.spot == *s)) {
            self.dma_store_at(proc, spot, value, sure);
        }
    }

    fn dma_store_at(&mut self, proc: u8, spot: Spot, value: Token, sure: bool) {
        let changes = self.changes(proc, spot, None);
        let mut reach = self.procs[usize::from(proc)].space.reachable(spot, &changes).and_then(|mut set| {
            for i in 0..set.len() {
                // What is seen of a file may be a copy by now: only a pin knows.
                let seen = matches!(set[i].base, Base::Shared(_)) || sure && set[i].through().is_some();
                if set[i].perm.is_none() || set[i].guard || seen {
                    continue;
                }
                let hit = set[i].written(value);
                if sure {
                    set[i] = hit;
                } else {
                    insert(&mut set, hit).ok()?;
                }
            }
            dedup(&mut set);
            Some(set)
        });
        self.keep(proc, spot, reach.as_mut(), &changes);
        self.echo(proc, spot);
        self.blur(proc, spot);
        if self.forking[usize::from(proc)] != 0 {
            let reach = self.procs[usize::from(proc)].space.reachable(spot, &changes);
            self.tell(proc, spot, reach.as_ref());
        }
    }
}
