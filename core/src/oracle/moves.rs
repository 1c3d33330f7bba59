//! Mappings that move (`mremap`).
//!
//! While the call is in flight the memory behind a page can be reached at the old address and at the new one: two
//! pages with one cell. So each page of the target may also be what the page of the source is, as if the call had
//! taken effect, and what is stored to one of the two may be in the other. When the call returns, the target is what
//! the source was, and the source is unmapped or, with `MREMAP_DONTUNMAP`, empty.
//!
//! If another call changes pages of either range meanwhile, or forks the process, nothing is known of these pages
//! until they are looked at again.

use super::Oracle;
use super::effect::Effect;
use super::flight::Flight;
use super::page::{Reach, State, dedup, insert};
use super::result::Keep;
use super::space::Spot;
use super::traps::Traps;
use crate::program::{Op, OpCode};

/// The move that a call in flight makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// Where the first page goes.
    pub(super) to: Spot,
    /// Another call works on these pages: nothing is known of them.
    pub(super) confused: bool,
}

impl Flight {
    /// The op changes the size of a mapping: its pages are those that go or come.
    pub(super) fn resize(&mut self, op: &Op) {
        let (region, new_end) = op.to();
        if region != self.region || new_end <= self.first {
            self.end = self.first;
        } else if new_end < self.end {
            self.first = new_end;
            self.effect = Some(Effect::Unmap);
        } else {
            (self.first, self.end) = (self.end, new_end);
            self.effect = (self.first < self.end).then_some(Effect::Arrive);
        }
    }

    /// Where a mapping goes that it moves.
    pub(super) fn remaps(&self) -> Option<Move> {
        self.moves.filter(|_| self.code != OpCode::UffdMove)
    }

    /// The page of the target for a page of the source.
    pub(super) fn target_of(&self, spot: Spot) -> Option<Spot> {
        let to = self.moves?.to;
        let inside = self.region == spot.region && (self.first..self.end).contains(&spot.page);
        inside.then(|| Spot { region: to.region, page: to.page + (spot.page - self.first) })
    }

    /// True when it makes a mapping longer.
    pub(super) fn grows(&self) -> bool {
        self.code == OpCode::MremapResize && matches!(self.effect, Some(Effect::Arrive | Effect::Grow(..)))
    }

    /// The page of the source for a page of the target.
    pub(super) fn source_of(&self, spot: Spot) -> Option<Spot> {
        let to = self.moves?.to;
        let inside = to.region == spot.region && (to.page..to.page + self.len()).contains(&spot.page);
        inside.then(|| Spot { region: self.region, page: self.first + (spot.page - to.page) })
    }

    /// True when a change by one of the two calls could be seen in what the other moves.
    fn confuses(&self, other: &Flight) -> bool {
        self.proc == other.proc && (self.code == OpCode::Fork || self.effect().is_some() && self.overlaps(other))
    }
}

impl Oracle {
    /// A call begins on CPU `cpu`: does it move pages, or touch some that are being moved?
    pub(super) fn begin_moves(&mut self, cpu: usize, flight: &Flight) {
        for other in (0..self.flights.len()).filter(|other| *other != cpu) {
            let Some(with) = &self.flights[other] else { continue };
            let grows = with.grows() && flight.proc == with.proc;
            let grows = grows && (flight.code == OpCode::Fork || flight.effect().is_some());
            let theirs = with.moves.is_some() && flight.confuses(with) && !self.waits_for_monitor(with, flight);
            let own = flight.moves.is_some() && with.confuses(flight) && !self.waits_for_monitor(flight, with);
            if grows || theirs {
                self.confuse(other);
            }
            if own {
                self.confuse(cpu);
            }
        }
        if flight.grows() {
            return self.begin_growth(cpu, flight);
        }
        if flight.code == OpCode::UffdMove {
            return self.begin_uffd_move(cpu, flight);
        }
        let Some(moves) = self.flights[cpu].as_ref().and_then(|f| f.moves) else { return };
        let proc = flight.proc;
        self.moved = true;
        self.procs[usize::from(proc)].space.reach(moves.to.region, moves.to.page + flight.len());
        self.procs[usize::from(proc)].merged = self.now;
        if moves.confused {
            return self.confuse(cpu);
        }
        for spot in flight.spots() {
            let Some(to) = flight.target_of(spot) else { continue };
            self.may_arrive(proc, spot, to, 1 << cpu, false);
        }
    }

    /// A mapping grows: the new pages are like the one before them, if it is known what that is and nobody changes it.
    fn begin_growth(&mut self, cpu: usize, flight: &Flight) {
        let proc = usize::from(flight.proc);
        self.procs[proc].space.reach(flight.region, flight.end);
        let before = flight.first.checked_sub(1).map(|page| Spot { region: flight.region, page });
        let alone = self.changing[proc] == 0 && self.forking[proc] == 0 && self.fresh == Traps::NONE;
        let like = match before.and_then(|spot| self.procs[proc].space.states(spot)) {
            Some([one]) if alone => one.perm.map(|perm| (perm, one.base)),
            _ => None,
        };
        let Some((perm, base)) = like else { return self.confuse(cpu) };
        if let Some(flight) = &mut self.flights[cpu] {
            flight.effect = Some(Effect::Grow(perm, base.later(1)));
        }
    }

    /// A page of the target may also be what the page of the source is; `again`: instead of what it was before.
    pub(super) fn may_arrive(&mut self, proc: u8, from: Spot, to: Spot, bit: u8, again: bool) {
        let space = &mut self.procs[usize::from(proc)].space;
        let mut set = Reach::new();
        let joined = match (space.states(from), space.states(to)) {
            (Some(source), Some(old)) => {
                let arrived = source.iter().filter(|s| s.applied & bit == 0).map(|s| State {
                    applied: bit,
                    traps: s.traps.moved(),
                    ..*s
                });
                let old = old.iter().copied().filter(|s| !again || s.applied & bit == 0 || s.perm.is_none());
                old.chain(arrived).try_for_each(|s| insert(&mut set, s)).is_ok()
            }
            _ => false,
        };
        space.keep(to, joined.then_some(set.as_slice()));
    }

    /// Another call works on pages that the call on CPU `cpu` moves.
    pub(super) fn confuse(&mut self, cpu: usize) {
        let Some(flight) = &mut self.flights[cpu] else { return };
        flight.disturbed = true;
        if flight.grows() {
            flight.effect = Some(Effect::Arrive);
        }
        if let Some(moves) = &mut flight.moves {
            moves.confused = true;
        }
        let flight = *flight;
        for spot in flight.spots() {
            for spot in [Some(spot), flight.target_of(spot)].into_iter().flatten() {
                let changes = self.changes(flight.proc, spot, None);
                self.procs[usize::from(flight.proc)].space.reach(spot.region, spot.page + 1);
                self.keep(flight.proc, spot, None, &changes);
                if self.forking[usize::from(flight.proc)] != 0 {
                    self.tell(flight.proc, spot, None);
                }
            }
        }
    }

    /// A store to a page that is being moved may be seen at its other address.
    pub(super) fn echo(&mut self, proc: u8, spot: Spot) {
        for cpu in 0..self.flights.len() {
            let moving = self.flights[cpu].as_ref().filter(|f| f.proc == proc && f.remaps().is_some());
            let Some(flight) = moving.copied() else { continue };
            let bit = 1 << cpu;
            if let Some(to) = flight.target_of(spot) {
                self.may_arrive(proc, spot, to, bit, false);
            } else if let Some(from) = flight.source_of(spot) {
                let space = &mut self.procs[usize::from(proc)].space;
                let mut set = Reach::new();
                let joined = match (space.states(from), space.states(spot)) {
                    (Some(source), Some(arrived)) => {
                        let arrived = arrived.iter().filter(|s| s.applied & bit != 0);
                        let back = arrived.map(|s| State { applied: s.applied & !bit, ..*s });
                        source.iter().copied().chain(back).try_for_each(|s| insert(&mut set, s)).is_ok()
                    }
                    _ => false,
                };
                space.keep(from, joined.then_some(set.as_slice()));
            }
        }
    }

    /// The call on CPU `cpu` returns: what its target is now. To be called before the source is judged.
    pub(super) fn finish_moves(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        let Some(moves) = flight.remaps() else { return };
        let (proc, bit) = (flight.proc, 1u8 << cpu);
        let arrived = matches!(keep, Keep::Applied | Keep::AppliedMapped);
        for from in flight.spots() {
            let Some(to) = flight.target_of(from) else { continue };
            let (changes, others) = (self.changes(proc, to, None), self.changes(proc, to, Some(cpu)));
            let reach = self.procs[usize::from(proc)].space.reachable(to, &changes);
            self.remember(cpu, proc, to, reach.as_ref());
            let mut left = reach.filter(|_| !moves.confused).map(|mut set| {
                set.retain(|s| (s.applied & bit != 0 && s.perm.is_some()) == arrived);
                set.iter_mut().for_each(|s| s.applied &= !bit);
                dedup(&mut set);
                set
            });
            self.keep(proc, to, left.as_mut(), &others);
            let space = &mut self.procs[usize::from(proc)].space;
            let (source, lost) = (*space.page(from), space.lost(from));
            if arrived {
                if let Some(page) = space.page_mut(to) {
                    // A store to the target meanwhile may have hit what was there before.
                    (page.stored, page.mapped) = (source.stored, source.mapped);
                }
                match lost {
                    Some(lost) => space.lose(to, lost),
                    None => space.heal(to),
                }
            }
        }
    }
}
