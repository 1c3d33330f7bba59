//! Pages lost to memory failures.
//!
//! A failure hits a frame, and which pages share it nobody outside the kernel knows. But a frame holds one value, and
//! values are unique: so a page that holds another value than the page that was named is another frame. Those that
//! hold the same one *may* be lost from then on: SIGBUS is believed, and so is a load of the right value. A page that
//! has given SIGBUS *is* lost, and gives SIGBUS again until it is unmapped, mapped anew or dropped.

use super::flight::Flight;
use super::page::{Effect, Ends, State};
use super::result::Keep;
use super::space::Spot;
use super::{Oracle, OracleViolation, broken};
use crate::config::{MAX_CPUS, MAX_PROCS};
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
        let space = &self.procs[usize::from(proc)].space;
        let (lost, poisoning) = (space.lost(spot), self.poisoning());
        let beyond_file = |s: &State| s.ends(&self.files, false).meets(Ends::BUS);
        let may_be_beyond = space.states(spot).is_none_or(|s| s.iter().any(beyond_file));
        if lost.is_none() && !poisoning || lost != Some(Lost::Surely) && may_be_beyond {
            return false;
        }
        // A signal by the handler itself may tell of a page that could not be unmapped.
        let told = self.flight(case, op).is_some_and(Flight::poisons);
        let settled = !told && self.changes(proc, spot, None).is_empty();
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
            let space = &self.procs[usize::from(flight.proc)].space;
            let values: Option<ArrayVec<u32, VALUES>> =
                space.states(spot).filter(|_| !flight.disturbed).and_then(|s| {
                    let mut values = ArrayVec::new();
                    // A page of a file holds whatever the file does: it may share its frame with any.
                    s.iter().all(|s| s.through().is_none()).then_some(())?;
                    for s in s.iter().filter(|s| s.perm.is_some()) {
                        values.try_push(s.value).ok()?;
                        if s.lazy {
                            values.try_push(0).ok()?;
                        }
                    }
                    Some(values)
                });
            for proc in 0..MAX_PROCS {
                self.procs[proc].space.condemn(spot, values.as_deref(), self.moved);
            }
            for cpu in 0..MAX_CPUS {
                self.children[cpu].condemn(spot, values.as_deref(), self.moved);
            }
        }
    }

    /// A file is cut or gets holes, which takes away whatever was mapped of it, copies included: which of the lost pages
    /// those were is not followed.
    pub(super) fn doubt_losses(&mut self) {
        self.procs.iter_mut().for_each(|p| p.space.doubt_losses());
        self.children.iter_mut().for_each(super::space::Space::doubt_losses);
    }

    /// A call has replaced a page: nothing is lost of what is there now, unless memory fails meanwhile.
    pub(super) fn heal(&mut self, proc: u8, spot: Spot, effect: Effect, keep: Keep) {
        let space = &self.procs[usize::from(proc)].space;
        if space.nothing_lost() || !effect.drops() || keep == Keep::NotApplied || space.lost(spot).is_none() {
            return;
        }
        let poisoning = self.poisoning();
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
