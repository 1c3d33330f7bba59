//! `UFFDIO_MOVE`: a page leaves one place and comes to another where nothing was.
//!
//! Nobody is told what it does while it is under way, so nothing is asked of pages that are moved while somebody else is
//! at work on them: nothing is known of those from then on. Of the others it is known when the call returns: the new place
//! holds what the old one held, and the old one is empty.

use super::Oracle;
use super::flight::Flight;
use super::page::{Changes, Reach, insert};
use super::result::Keep;
use super::space::Spot;
use crate::observe::Outcome;

impl Oracle {
    /// The call begins on CPU `cpu`.
    pub(super) fn begin_uffd_move(&mut self, cpu: usize, flight: &Flight) {
        let Some(moves) = self.flights[cpu].and_then(|f| f.moves) else { return };
        self.moved = true;
        self.procs[usize::from(flight.proc)].space.reach(moves.to.region, moves.to.page + flight.len());
        if moves.confused || self.forking[usize::from(flight.proc)] != 0 {
            self.confuse(cpu);
        }
    }

    /// What a page is at its new place, and what it leaves behind. `None`: nothing is known. An empty set: it cannot have
    /// moved.
    fn after_move(&self, proc: u8, from: Spot, to: Spot) -> Option<(Reach, Reach)> {
        let space = &self.procs[usize::from(proc)].space;
        let (source, target) = (space.states(from)?, space.states(to)?);
        let (mut left, mut arrived) = (Reach::new(), Reach::new());
        for state in source {
            for place in target {
                if let Some(moved) = state.moved_to(*place) {
                    insert(&mut arrived, moved).ok()?;
                    insert(&mut left, state.emptied(self.fresh)).ok()?;
                }
            }
        }
        Some((left, arrived))
    }

    /// How a call may end that has moved so many pages, and which pages it has moved. The oracle does not know which pages
    /// are shared or pinned, nor where VMAs end.
    pub(super) fn judge_uffd_move(&self, flight: &Flight, outcome: Outcome) -> Result<Keep, &'static str> {
        let moved = match outcome {
            Outcome::Done => flight.len(),
            Outcome::Partial => flight.progress,
            Outcome::Skipped | Outcome::Signal => return Err(flight.code.name()),
            _ => 0,
        };
        let end = flight.first.saturating_add(moved);
        let Some(moves) = flight.moves else {
            return if moved == 0 { Ok(Keep::NotApplied) } else { Err("nothing is registered") };
        };
        let keep = Ok(Keep::UpTo { may: end, must: end });
        if moves.confused || self.may_be_lost(flight) {
            return keep;
        }
        for from in flight.spots().take_while(|s| s.page < end) {
            let Some(to) = flight.target_of(from) else { continue };
            if self.after_move(flight.proc, from, to).is_some_and(|(left, _)| left.is_empty()) {
                return Err("nothing was there, or something was in the way");
            }
        }
        let first = Spot { region: flight.region, page: flight.first };
        let must =
            flight.len() == 1 && flight.target_of(first).is_some_and(|to| self.surely_moves(flight.proc, first, to));
        if must && matches!(outcome, Outcome::Exists | Outcome::NoEnt) {
            return Err("the page is there, and nothing is in the way");
        }
        keep
    }

    fn surely_moves(&self, proc: u8, from: Spot, to: Spot) -> bool {
        let space = &self.procs[usize::from(proc)].space;
        let (Some(source), Some(target)) = (space.states(from), space.states(to)) else { return false };
        source.iter().all(|s| target.iter().all(|t| s.surely_moves(t)))
    }

    /// The call on CPU `cpu` returns.
    pub(super) fn finish_uffd_move(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        let Some(moves) = flight.moves else { return };
        let proc = flight.proc;
        for from in flight.spots() {
            let Some(to) = flight.target_of(from) else { continue };
            if moves.confused {
                for spot in [from, to] {
                    self.remember(cpu, proc, spot, None);
                    let others = self.changes(proc, spot, Some(cpu));
                    self.keep(proc, spot, None, &others);
                }
            } else if matches!(keep, Keep::UpTo { may, .. } if from.page < may) {
                let after = self.after_move(proc, from, to).filter(|(left, _)| !left.is_empty());
                let (mut left, mut arrived) = match after {
                    Some((left, arrived)) => (Some(left), Some(arrived)),
                    None => (None, None),
                };
                self.keep(proc, from, left.as_mut(), &Changes::new());
                self.keep(proc, to, arrived.as_mut(), &Changes::new());
                self.carry_marks(proc, from, to);
            }
        }
    }

    /// What is remembered of a page beside its states goes with it.
    fn carry_marks(&mut self, proc: u8, from: Spot, to: Spot) {
        let space = &mut self.procs[usize::from(proc)].space;
        let (stored, lost) = (space.page(from).stored, space.lost(from));
        if let Some(page) = space.page_mut(to) {
            page.stored = stored;
        }
        if let Some(page) = space.page_mut(from) {
            page.stored = 0;
        }
        match lost {
            Some(lost) => space.lose(to, lost),
            None => space.heal(to),
        }
    }
}
