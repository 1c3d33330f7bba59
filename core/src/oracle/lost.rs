//! Pages lost to memory failures.
//!
//! A failure hits a frame, and which pages share it nobody outside the kernel knows. But a frame holds one value, and
//! values are unique: so a page that holds another value than the page that was named is another frame. Those that
//! hold the same one *may* be lost from then on: SIGBUS is believed, and so is a load of the right value. A page that
//! has given SIGBUS *is* lost, and gives SIGBUS again until it is unmapped, mapped anew or dropped.
//!
//! A page of a file shares its frame with whatever else shows it, and with nothing else; what is lost of it is kept with the
//! file ([`super::file`]). Of a file on a disk an older content may come back; then `msync` must tell of it. Of `tmpfs`
//! there is no other copy: once an access has ended in SIGBUS, every access must, until the page is cut off or a hole.

use super::cell::CellId;
use super::effect::Effect;
use super::flight::Flight;
use super::page::{Base, Ends, State};
use super::result::Keep;
use super::space::Spot;
use super::{Oracle, OracleViolation, broken};
use crate::config::{MAX_CPUS, MAX_PROCS};
use crate::observe::Outcome;
use crate::program::{Case, OpCode};
use crate::rule::Rule;
use arrayvec::ArrayVec;

/// Most values of a page that are followed to other pages; one that can have more may share its frame with any.
const VALUES: usize = 8;

/// How far a page is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// Both SIGBUS and its content are believed.
    Maybe,
    /// It has given SIGBUS.
    Surely,
}

/// The frame behind a page: it holds one of these values, or is the page cache's of one of these cells.
#[derive(Default)]
struct Named {
    values: ArrayVec<u32, VALUES>,
    cells: ArrayVec<CellId, VALUES>,
}

impl Flight {
    /// True when it makes memory fail.
    pub(super) fn poisons(&self) -> bool {
        matches!(self.code, OpCode::HwPoison | OpCode::MemoryFailure | OpCode::SwapError)
    }
}

impl Oracle {
    /// True when a memory failure is being handled.
    pub(super) fn poisoning(&self) -> bool {
        self.flights.iter().flatten().any(Flight::poisons)
    }

    /// An access retired at a page of a process of which some pages may be lost.
    pub(super) fn retired(&mut self, proc: u8, spot: Spot) -> Result<(), OracleViolation> {
        let space = &self.procs[usize::from(proc)].space;
        if space.lost(spot) != Some(Lost::Surely) {
            return Ok(());
        }
        if self.changes(proc, spot, None).iter().any(|(_, e)| e.drops()) {
            self.procs[usize::from(proc)].space.lose(spot, Lost::Maybe);
            return Ok(());
        }
        Err(broken(Rule::OraclePoison).known(space.page(spot).known))
    }

    /// An access, or the call that made the memory fail, ended in SIGBUS. False when no memory was lost there.
    pub(super) fn sigbus(&mut self, case: &Case, op: u32, proc: u8, spot: Spot) -> bool {
        // A signal by the handler itself goes to whoever wants to be told, and may be about a page that he does not use.
        if self.flight(case, op).is_some_and(Flight::poisons) {
            return true;
        }
        let space = &self.procs[usize::from(proc)].space;
        let lost = space.lost(spot);
        let beyond_file = |s: &State| s.ends(&self.files, false).meets(Ends::BUS);
        let may_be_beyond = space.states(spot).is_none_or(|s| s.iter().any(beyond_file));
        if lost.is_none() || lost != Some(Lost::Surely) && may_be_beyond {
            return false;
        }
        // Who was on the way while the failure was handled may have met what is not used any more, and the contents come from swap.
        let on_the_way = self.poisoning() || self.flight(case, op).is_none_or(|f| f.began <= self.failed);
        // A private copy whose entry somebody has in hand is not seen for a moment, and what failed is the file's page.
        let blinks =
            !self.alone && space.states(spot).is_none_or(|s| s.iter().any(|s| matches!(s.base, Base::Copied(_))));
        let settled = !on_the_way && !blinks && self.changes(proc, spot, None).is_empty();
        if lost != Some(Lost::Surely) {
            let now = if settled { Lost::Surely } else { Lost::Maybe };
            self.procs[usize::from(proc)].space.lose(spot, now);
        }
        true
    }

    /// A store while a failure is being handled: what the failure hits is no longer told by what the page holds.
    pub(super) fn blur(&mut self, proc: u8, spot: Spot) {
        for flight in self.flights.iter_mut().flatten().filter(|f| f.poisons() && f.covers(proc, spot)) {
            flight.disturbed = true;
        }
    }

    /// A memory failure begins or ends: whatever may share a frame with the pages that it names may be lost.
    pub(super) fn condemn(&mut self, flight: &Flight) {
        for spot in flight.spots() {
            let named = self.named(flight, spot);
            match &named {
                Some(named) => named.cells.iter().for_each(|cell| self.files.fail(*cell)),
                None => self.files.fail_any(self.region_pages),
            }
            // What a call in flight has just mapped is not followed, and may be what has failed.
            let maps = |f: &Flight| matches!(f.effect(), Some(Effect::Map(..))) && f.covers(flight.proc, spot);
            let space = &mut self.procs[usize::from(flight.proc)].space;
            if space.lost(spot).is_none() && self.flights.iter().flatten().any(maps) {
                space.lose(spot, Lost::Maybe);
            }
            let values = named.as_ref().map(|n| n.values.as_slice());
            for proc in 0..MAX_PROCS {
                self.procs[proc].space.condemn(values);
            }
            for cpu in 0..MAX_CPUS {
                if self.flights[cpu].as_ref().is_some_and(|f| f.code == OpCode::Fork) {
                    self.children[cpu].condemn(values);
                }
            }
        }
    }

    /// What the frame behind a page that a call names may be. `None`: any.
    fn named(&self, flight: &Flight, spot: Spot) -> Option<Named> {
        // A frame that is only named may be somebody else's by the time it fails.
        if flight.code == OpCode::MemoryFailure && !self.alone {
            return None;
        }
        let states = self.procs[usize::from(flight.proc)].space.states(spot).filter(|_| !flight.disturbed)?;
        let mut named = Named::default();
        for state in states.iter().filter(|s| s.perm.is_some()) {
            match state.through() {
                Some(cell) if named.cells.contains(&cell) => {}
                Some(cell) => named.cells.try_push(cell).ok()?,
                None => named.values.try_push(state.value).ok()?,
            }
            if state.lazy {
                named.values.try_push(0).ok()?;
            }
        }
        Some(named)
    }

    /// A failure has been dealt with that can have hit one page of a file only.
    pub(super) fn dealt_with(&mut self, flight: &Flight, outcome: Outcome) {
        if outcome != Outcome::Done || flight.len() != 1 || !flight.poisons() {
            return;
        }
        let spot = Spot { region: flight.region, page: flight.first };
        if let Some(Named { values, cells }) = self.named(flight, spot)
            && let ([], [cell]) = (values.as_slice(), cells.as_slice())
        {
            self.files.dealt_with(*cell);
        }
    }

    /// A file is cut or gets holes, which takes away whatever was mapped of it, copies included: which of the lost pages
    /// those were is not followed.
    pub(super) fn doubt_losses(&mut self) {
        self.files.doubt_losses();
        self.procs.iter_mut().for_each(|p| p.space.doubt_losses());
        self.children.iter_mut().for_each(super::space::Space::doubt_losses);
    }

    /// A call that began then has replaced a page: nothing is lost of what is there now, unless memory failed meanwhile.
    pub(super) fn heal(&mut self, (proc, spot): (u8, Spot), effect: Effect, keep: Keep, began: u32) {
        let space = &self.procs[usize::from(proc)].space;
        if space.nothing_lost() || !effect.drops() || keep == Keep::NotApplied || space.lost(spot).is_none() {
            return;
        }
        let poisoning = self.poisoning() || self.failed > began;
        let space = &mut self.procs[usize::from(proc)].space;
        // What reclaim has in hand MADV_FREE leaves alone.
        if poisoning || !effect.replaces() || !matches!(keep, Keep::Applied | Keep::AppliedMapped) {
            space.lose(spot, Lost::Maybe);
        } else {
            space.heal(spot);
        }
        if self.forking[usize::from(proc)] != 0 {
            for child in &mut self.children {
                if child.lost(spot).is_some() {
                    child.lose(spot, Lost::Maybe);
                }
            }
        }
        for flight in self.flights.iter_mut().flatten() {
            if flight.access().is_some() && flight.covers(proc, spot) {
                flight.past.add(Ends::FAULT);
            }
        }
    }

    /// True when a fault on one of these pages may fail because it is lost.
    pub(super) fn may_be_lost(&self, flight: &Flight) -> bool {
        let space = &self.procs[usize::from(flight.proc)].space;
        self.poisoning() || !space.nothing_lost() && flight.spots().any(|spot| space.lost(spot).is_some())
    }
}
