//! Calls that change files: truncation, holes, and the copies that write faults make of a file's pages.

use super::cell::{CellId, FileChange};
use super::effect::Effect;
use super::flight::Flight;
use super::locked::everywhere;
use super::page::{Base, Reach, State, dedup, insert};
use super::space::Spot;
use super::traps::Traps;
use super::{FILE_IDS, Oracle};
use crate::config::{MAX_CPUS, MAX_PROCS};
use crate::observe::{FAULTED, HUGETLBFS, MAPPINGS};
use crate::program::OpCode;

impl Oracle {
    /// Begins what a call does to files: truncation, a hole, or a mapping of what may be about to get a hole.
    pub(super) fn start_file_change(&mut self, cpu: usize, flight: &Flight) {
        match flight.code {
            OpCode::Truncate | OpCode::Unplug => {
                for page in 0..self.region_pages {
                    let cell = CellId::new(flight.arg, page);
                    let change = self.files.truncation(cell, flight.size);
                    self.files.begin(cell, 1 << cpu, change);
                }
                self.changing.iter_mut().for_each(|c| *c |= 1 << cpu);
                self.note_cuts();
                self.break_cow_again();
                self.fill_again();
            }
            OpCode::ResetDevice => {
                for page in 0..self.region_pages {
                    self.files.begin(CellId::new(FAULTED, page), 1 << cpu, FileChange::Erase);
                }
                self.break_cow_again();
            }
            OpCode::Remove => {
                for spot in flight.spots() {
                    let certain = self.begin_hole(cpu, flight.proc, spot);
                    if let Some(flight) = &mut self.flights[cpu] {
                        flight.contended |= !certain;
                    }
                }
                self.begin_huge_hole(cpu);
                self.break_cow_again();
                self.fill_again();
                self.blur_zero_pages();
            }
            OpCode::Mmap if flight.backing.shared() || flight.extends_file() => {
                let Some(file) = flight.backing.file() else { return };
                if flight.extends_file() {
                    (0..flight.end)
                        .for_each(|page| self.files.begin(CellId::new(file, page), 1 << cpu, FileChange::Grow));
                }
                for other in 0..MAX_CPUS {
                    let remove = self.flights[other].filter(|f| f.code == OpCode::Remove && f.overlaps(flight));
                    for spot in remove.iter().flat_map(Flight::spots) {
                        self.files.begin(CellId::new(file, spot.page), 1 << other, FileChange::Erase);
                    }
                }
            }
            OpCode::Fork => self.note_cuts(),
            _ => {}
        }
    }

    /// A hole begins behind this page. False when it is not certain in which page of which file: then the hole is not
    /// certain anywhere.
    fn begin_hole(&mut self, cpu: usize, proc: u8, spot: Spot) -> bool {
        let changes = self.changes(proc, spot, None);
        let Some(set) = self.procs[usize::from(proc)].space.reachable(spot, &changes) else {
            // Where mappings have moved, any page of the file may be there.
            let pages = if self.moved { 0..self.region_pages } else { spot.page..spot.page + 1 };
            for cell in FILE_IDS.flat_map(|f| pages.clone().map(move |page| CellId::new(f, page))) {
                self.files.begin(cell, 1 << cpu, FileChange::Erase);
            }
            return false;
        };
        for cell in set.iter().filter_map(|s| s.through()).filter(|c| !c.raw()) {
            self.files.begin(cell, 1 << cpu, FileChange::Erase);
        }
        set.iter().all(|s| s.through() == set[0].through())
    }

    /// A hole in a file of `hugetlbfs` takes private copies away as well (`hugetlb_vmdelete_list()` asks for no `even_cows`).
    /// Where it is, is not asked.
    fn begin_huge_hole(&mut self, cpu: usize) {
        if !self.procs.iter().any(|p| p.huge_copies) {
            return;
        }
        if let Some(flight) = &mut self.flights[cpu] {
            flight.effect = Some(Effect::Hole(HUGETLBFS, 0, u32::MAX));
        }
        self.changing.iter_mut().for_each(|c| *c |= 1 << cpu);
        self.note_cuts();
    }

    /// While a file gets shorter or a hole, the protection of what it showed there may go with its pages, or stay; a page
    /// whose memory fails leaves an entry that keeps no bits. `since` is when the call began that is asked for.
    pub(super) fn blur_protection(&mut self, since: u32) {
        let cutting = |f: &Flight| matches!(f.code, OpCode::Truncate | OpCode::Remove) || f.poisons();
        let meanwhile = self.failed > since || self.flights.iter().flatten().any(cutting);
        if self.fresh == Traps::NONE || !meanwhile {
            return;
        }
        for proc in 0..MAX_PROCS {
            let mut at = None;
            while let Some(spot) = self.procs[proc].space.after(at) {
                at = Some(spot);
                let Some(states) = self.procs[proc].space.states(spot) else { continue };
                let blurred = |s: &State| match s.base {
                    Base::Anon => *s,
                    _ => State { traps: s.traps.perhaps_unprotected(), ..*s },
                };
                if states.iter().any(|s| blurred(s) != *s) {
                    let set: Reach = states.iter().map(blurred).collect();
                    self.procs[proc].space.keep(spot, Some(&set));
                }
            }
        }
    }

    /// A write fault copies the page of a file before its store retires, and some are not followed by a store at all
    /// (a pin): while a call that faults for writing is in flight, a private page may be a copy of whatever the
    /// file's page holds.
    #[inline]
    pub(super) fn break_cow(&mut self, flight: &Flight) {
        if !self.procs[usize::from(flight.proc)].files {
            return;
        }
        // A pin for reading takes a page out of the sharing, too, and what is locked is faulted in as for writing.
        let proc = &self.procs[usize::from(flight.proc)];
        // The unnamed file of anonymous hugetlb memory has no page ever: whatever is there is a copy.
        let huge = (proc.huge_copies || proc.hugetlb && self.fresh != Traps::NONE) && flight.tries();
        if huge {
            self.may_huge_pages_be_copied(flight);
        } else if flight.access() == Some(true) || matches!(flight.code, OpCode::PinRead | OpCode::Mlock) {
            self.may_all_be_copied(flight);
        } else if flight.code == OpCode::Mprotect && self.locking {
            // mprotect_fixup() faults in as for writing what is locked and becomes writable, whatever it was before.
            flight.spots().for_each(|spot| self.may_be_copied(flight.proc, spot, true));
        } else if flight.code == OpCode::MlockAll {
            self.may_everything_be_copied(flight.proc);
        }
    }

    /// What is mapped while the future is locked is faulted in as for writing, too.
    pub(super) fn locked_copies(&mut self, proc: u8) {
        if self.locking && self.procs[usize::from(proc)].files {
            self.may_everything_be_copied(proc);
        }
    }

    fn may_everything_be_copied(&mut self, proc: u8) {
        for spot in everywhere(self.procs[usize::from(proc)].space.lens()) {
            self.may_be_copied(proc, spot, false);
        }
    }

    fn may_all_be_copied(&mut self, flight: &Flight) {
        for spot in flight.spots() {
            self.may_be_copied(flight.proc, spot, flight.remote());
        }
    }

    /// Of `hugetlbfs` whole huge pages are copied, and where the file has none, a load is enough.
    fn may_huge_pages_be_copied(&mut self, flight: &Flight) {
        let all = self.huge_pages.max(1);
        let pages = flight.first / all * all..flight.end.next_multiple_of(all).min(self.region_pages);
        for page in pages {
            self.may_be_copied(flight.proc, Spot { region: flight.region, page }, flight.remote());
        }
    }

    /// The same for every call in flight, because a page of a file has changed.
    pub(super) fn break_cow_again(&mut self) {
        for cpu in 0..MAX_CPUS {
            if let Some(flight) = &self.flights[cpu]
                && self.procs[usize::from(flight.proc)].files
            {
                let flight = *flight;
                self.break_cow(&flight);
            }
        }
    }

    /// Adds the copies of a file's page that a private page may be. A debugger needs no permission.
    pub(super) fn may_be_copied(&mut self, proc: u8, spot: Spot, forced: bool) {
        if self.copies_known(proc, spot) {
            return;
        }
        let mut copiable = self.copiable(proc, spot, forced);
        let Some(set) = &mut copiable else { return };
        let stale: Reach = set.iter().filter(|s| s.stale()).copied().collect();
        let mut fits = true;
        for i in 0..set.len() {
            let state = set[i];
            let Base::Private(cell) = state.base else { continue };
            if state.is_stopped(&self.files) {
                continue;
            }
            match self.files.values(cell) {
                Some(values) if fits => {
                    let mut values = values.into_iter().chain(stale.iter().map(|s| s.value));
                    fits = values.try_for_each(|v| insert(set, state.written(v))).is_ok();
                }
                _ => fits = false,
            }
        }
        let changes = self.changes(proc, spot, None);
        if self.forking[usize::from(proc)] != 0 {
            self.tell(proc, spot, fits.then_some(&*set));
        }
        self.keep(proc, spot, fits.then_some(set), &changes);
    }

    /// True of a page to which nothing happens and that shows no file to copy from, or of which every copy is known already.
    fn copies_known(&self, proc: u8, spot: Spot) -> bool {
        let p = usize::from(proc);
        let Some(states) = self.procs[p].space.states(spot) else { return true };
        let known = |state: &State| match state.base {
            Base::Private(_) if state.is_stopped(&self.files) => true,
            Base::Private(cell) => {
                let known = |value| states.contains(&state.written(value));
                self.files.all_values(cell, known) && states.iter().filter(|s| s.stale()).all(|s| known(s.value))
            }
            Base::Copied(_) | Base::Anon | Base::Shared(_) => true,
        };
        self.changing[p] | self.touching[p] | self.forking[p] == 0 && states.iter().all(known)
    }

    /// States of a page that may be copied from a file now, be it once more, because a call in flight has dropped its copy.
    fn copiable(&self, proc: u8, spot: Spot, forced: bool) -> Option<Reach> {
        let space = &self.procs[usize::from(proc)].space;
        let states = space.states(spot)?;
        let private = |s: &State| matches!(s.base, Base::Private(_)) && (forced || s.permits(false));
        // A device's memory is copied through the address of the fault, where a CPU may still see what was just taken away.
        let raw = states.iter().any(|s| s.stale());
        let mut changes = self.changes(proc, spot, None);
        let huge = self.fresh != Traps::NONE && states.iter().any(State::of_hugetlb);
        changes.retain(|(_, effect)| raw || effect.refills() || huge && effect.registers());
        if changes.is_empty() && !raw {
            return states.iter().any(private).then(|| states.iter().copied().collect());
        }
        space.reachable(spot, &changes).filter(|s| s.iter().any(private))
    }

    /// Notes with every fork in flight which files are being truncated, and with every access that it may find the
    /// page as it was or as it will be.
    pub(super) fn note_cuts(&mut self) {
        let mut cut = [u32::MAX; MAPPINGS];
        for (file, first) in self.flights.iter().flatten().filter_map(Flight::sweeps) {
            let from = &mut cut[usize::from(file) % MAPPINGS];
            *from = first.min(*from);
        }
        if cut == [u32::MAX; MAPPINGS] {
            return;
        }
        for flight in self.flights.iter_mut().flatten() {
            for (mine, from) in flight.cut.iter_mut().zip(cut) {
                *mine = from.min(*mine);
            }
        }
    }

    /// Lets a truncation take private copies away, wherever they are.
    pub(super) fn finish_cut(&mut self, cpu: usize, effect: Effect) {
        let bit = 1u8 << cpu;
        for proc in 0..self.procs.len() as u8 {
            if !self.procs[usize::from(proc)].files {
                continue;
            }
            let mut at = None;
            while let Some(spot) = self.procs[usize::from(proc)].space.after(at) {
                at = Some(spot);
                let changes = self.changes(proc, spot, None);
                let others = self.changes(proc, spot, Some(cpu));
                let Some(mut set) = self.procs[usize::from(proc)].space.reachable(spot, &changes) else { continue };
                self.remember(cpu, proc, spot, Some(&set));
                set.retain(|s| s.applied & bit != 0 || !matches!(s.base, Base::Copied(cell) if effect.cuts(cell)));
                set.iter_mut().for_each(|s| s.applied &= !bit);
                dedup(&mut set);
                if self.forking[usize::from(proc)] != 0 {
                    self.tell(proc, spot, Some(&set));
                }
                self.keep(proc, spot, Some(&mut set), &others);
            }
        }
    }

    /// A child that was born during truncations may have lost its copies to them, or not.
    pub(super) fn cut_child(&mut self, child: u8, cut: [u32; MAPPINGS]) {
        if cut == [u32::MAX; MAPPINGS] {
            return;
        }
        let space = &mut self.procs[usize::from(child)].space;
        let mut at = None;
        while let Some(spot) = space.after(at) {
            at = Some(spot);
            let Some(states) = space.states(spot) else { continue };
            let mut set: Reach = states.iter().copied().collect();
            let lost = |s: &State| {
                (0u8..)
                    .zip(cut)
                    .find_map(|(file, from)| Effect::Cut(file, from).apply(*s, 0).filter(|after| after != s))
            };
            let lost: Reach = set.iter().filter_map(lost).collect();
            let all = lost.into_iter().try_for_each(|s| insert(&mut set, s));
            space.keep(spot, all.is_ok().then_some(&set));
        }
    }
}
