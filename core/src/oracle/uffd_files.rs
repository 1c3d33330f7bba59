//! Where userfaultfd and files meet: which pages of `tmpfs` are there at all, and what the monitor puts into the file itself.
//!
//! A page of a file is there from the first store to it, or from the call that fills it, until the file is cut or gets a
//! hole; one that was only read may go again, as a page of zeroes is as good as a hole. Whoever asks for a page while it is a
//! hole may fill it, whether or not the access ends well; so the beginning of an access is enough to make it uncertain; where it
//! is not known which page of the file is asked for, that holds of all of them.
//!
//! That an entry maps nothing is certain only until somebody reads a page near it: a read fault maps what the file has
//! around the page that it is for.

use super::Oracle;
use super::cell::{CellId, FileChange, Presence};
use super::file::Files;
use super::flight::Flight;
use super::page::{Base, Ends, Reach, State, insert};
use super::result::Keep;
use super::space::{Space, Spot};
use super::traps::{Filling, Traps, Uffd};
use crate::config::{MAX_CPUS, MAX_PROCS};
use crate::observe::{HUGETLBFS, SHMEM, UffdFlags, copy_token};
use crate::program::OpCode;

impl Oracle {
    /// A call begins: it may ask for pages, or fill them.
    pub(super) fn begin_on_files(&mut self, cpu: usize, flight: &Flight) {
        if self.fresh == Traps::NONE || !self.procs[usize::from(flight.proc)].files {
            return;
        }
        if flight.poisons() {
            self.files.doubt();
        }
        let filling = flight.filling();
        if flight.touches().is_some() {
            self.blur_around(flight);
        } else if filling.is_none() {
            return;
        }
        if flight.around.is_some() {
            self.ask_for_huge_pages(flight);
        }
        let huge = flight.around.is_some();
        for spot in flight.spots() {
            let token = filling.and_then(|what| file_token(flight, what, spot));
            let Some(states) = self.procs[usize::from(flight.proc)].space.states(spot) else {
                self.files.doubt_holes();
                continue;
            };
            for base in states.iter().map(|s| s.base) {
                let (Base::Shared(cell) | Base::Private(cell) | Base::Copied(cell)) = base else { continue };
                if !huge || cell.file() != HUGETLBFS {
                    self.files.asked(cell);
                }
                let shared = base == Base::Shared(cell) && matches!(cell.file(), SHMEM | HUGETLBFS);
                if let Some(token) = token.filter(|_| shared && self.files.presence(cell) != Presence::There) {
                    self.files.begin(cell, 1 << cpu, FileChange::Fill(token));
                }
            }
        }
        if let Some(what) = filling {
            self.begin_unsure_fills(cpu, flight, what);
        }
    }

    /// A file gets a hole: the monitor's calls in flight may fill pages that were there when they began.
    pub(super) fn fill_again(&mut self) {
        for cpu in 0..MAX_CPUS {
            if let Some(flight) = self.flights[cpu].filter(|f| f.filling().is_some()) {
                self.begin_on_files(cpu, &flight);
            }
        }
    }

    /// An access asks for all of a huge page, unless userfaultfd is sure to stop it. One that is mapped may be seen in every
    /// process that shares the table.
    fn ask_for_huge_pages(&mut self, flight: &Flight) {
        for spot in flight.spots().chain(flight.spots_beside()) {
            let changes = self.changes(flight.proc, spot, None);
            let Some(set) = self.procs[usize::from(flight.proc)].space.reachable(spot, &changes) else {
                self.files.doubt_holes();
                continue;
            };
            for state in &set {
                let asks = state.of_hugetlb() && !state.is_stopped(&self.files);
                if let Base::Shared(cell) | Base::Private(cell) | Base::Copied(cell) = state.base
                    && asks
                {
                    self.files.asked(cell);
                }
            }
        }
        self.blur_shared_tables();
    }

    /// What stops accesses to hugetlb memory changes: those in flight may go on, and ask for pages or copy them.
    pub(super) fn ask_again(&mut self, proc: u8) {
        if self.fresh == Traps::NONE || !self.procs[usize::from(proc)].hugetlb {
            return;
        }
        for cpu in 0..MAX_CPUS {
            if let Some(flight) = self.flights[cpu].filter(|f| f.proc == proc && f.around.is_some()) {
                self.ask_for_huge_pages(&flight);
            }
        }
        self.break_cow_again();
    }

    /// PMD tables are shared by mappings that nothing is to be told of: what one process maps the others have then, too.
    pub(super) fn blur_shared_tables(&mut self) {
        let alone = UffdFlags(UffdFlags::WP.0 | UffdFlags::MINOR.0);
        let blur = |state: &mut State| {
            let shared = matches!(state.base, Base::Shared(cell) if cell.file() == HUGETLBFS);
            if shared && !state.traps.flags().has(alone) {
                state.traps = state.traps.perhaps_mapped();
            }
        };
        self.procs.iter_mut().for_each(|p| p.space.each_state(None, blur));
        self.children.iter_mut().for_each(|c| c.each_state(None, blur));
    }

    /// A page of which nothing is known may be filled: so may every page of the file that it may be, and that is not known
    /// to be another one of the call's.
    fn begin_unsure_fills(&mut self, cpu: usize, flight: &Flight, what: Filling) {
        let unknown = |o: &Oracle, spot| o.procs[usize::from(flight.proc)].space.states(spot).is_none();
        for spot in flight.spots() {
            let Some(token) = file_token(flight, what, spot).filter(|_| unknown(self, spot)) else { continue };
            let pages = if self.moved { 0..self.region_pages } else { spot.page..spot.page + 1 };
            for file in [SHMEM, HUGETLBFS] {
                pages
                    .clone()
                    .for_each(|page| self.files.begin(CellId::new(file, page), 1 << cpu, FileChange::Fill(token)));
            }
        }
    }

    /// It returns.
    pub(super) fn end_on_files(&mut self, cpu: usize, flight: &Flight, keep: Keep) {
        if self.fresh == Traps::NONE || !self.procs[usize::from(flight.proc)].files {
            return;
        }
        if flight.poisons() {
            self.files.doubt();
        }
        if flight.touches().is_some() {
            self.blur_around(flight);
        }
        let Some(what) = flight.filling() else { return };
        for spot in flight.spots() {
            let filled = matches!(keep, Keep::UpTo { may, .. } if spot.page < may);
            if file_token(flight, what, spot).is_none() {
                continue;
            }
            let states = self.procs[usize::from(flight.proc)].space.states(spot);
            if states.is_none() && self.moved && flight.len() > 1 {
                self.files.forget(self.region_pages);
            }
            for base in states.into_iter().flatten().map(|s| s.base) {
                if let Base::Shared(cell) = base {
                    self.files.end_fill(cell, 1 << cpu, filled);
                }
            }
        }
        self.files.end_unsure_fills(1 << cpu);
        self.comes_too_late();
    }

    /// An access may have mapped what lies beside its pages.
    fn blur_around(&mut self, flight: &Flight) {
        let files = Some(&self.files);
        blur_window(&mut self.procs[usize::from(flight.proc)].space, flight.region, files);
        if self.forking[usize::from(flight.proc)] != 0 {
            self.children.iter_mut().for_each(|child| blur_window(child, flight.region, files));
        }
    }

    /// Userfaultfd is sure to stop every access of this call, which is to hugetlb memory.
    pub(super) fn all_stopped(&self, flight: &Flight) -> bool {
        let space = &self.procs[usize::from(flight.proc)].space;
        let stopped = |spot| space.states(spot).is_some_and(|s| s.iter().all(|s| s.is_stopped(&self.files)));
        let alone = !flight.disturbed && !flight.contended;
        flight.around.is_some() && alone && flight.spots().chain(flight.spots_beside()).all(stopped)
    }

    /// Those in flight of a process, or of any, may be stopped no longer.
    pub(super) fn doubt_stops(&mut self, proc: Option<u8>) {
        let here = |f: &&mut Flight| proc.is_none_or(|p| f.proc == p);
        self.flights.iter_mut().flatten().filter(here).for_each(|f| f.stopped = false);
    }

    /// The same of one page, while somebody is at it.
    pub(super) fn blur_page(&mut self, proc: u8, spot: Spot) {
        let space = &mut self.procs[usize::from(proc)].space;
        let Some(states) = space.states(spot) else { return };
        if states.iter().any(|s| s.through().is_some()) {
            blur_window(space, spot.region, None);
        }
    }

    /// A page has been stored to, or something was found there: if that can only have been a page of a file, the file has it.
    pub(super) fn found(&mut self, proc: u8, spot: Spot, write: bool) {
        if self.fresh == Traps::NONE || !self.procs[usize::from(proc)].files {
            return;
        }
        let Some(states) = self.procs[usize::from(proc)].space.states(spot) else { return };
        let shared = |s: &State| if write && !matches!(s.base, Base::Shared(_)) { None } else { s.through() };
        let mut cells = states.iter().map(shared);
        let first = cells.next().flatten();
        if let Some(cell) = first
            && cells.all(|c| c == first)
            && self.files.found(cell)
        {
            self.comes_too_late();
        }
    }

    /// A file has got a page. An access in flight, of any process, may have missed it before.
    fn comes_too_late(&mut self) {
        for flight in self.flights.iter_mut().flatten().filter(|f| f.touches().is_some()) {
            let space = &self.procs[usize::from(flight.proc)].space;
            let signals = |s: &State| s.traps.flags().has(UffdFlags::SIGBUS);
            let bus = flight.spots().any(|spot| space.states(spot).is_none_or(|s| s.iter().any(signals)));
            flight.past.add(if bus { Ends::MISSING.or(Ends::BUS) } else { Ends::MISSING });
        }
    }

    /// A hole takes the zero page of a private mapping away, where the monitor has put it: the file is seen again. Of `hugetlbfs` it
    /// takes poison away as well.
    pub(super) fn blur_zero_pages(&mut self) {
        if self.fresh == Traps::NONE {
            return;
        }
        for proc in 0..MAX_PROCS {
            blur_zeroes(&mut self.procs[proc].space);
        }
        self.children.iter_mut().for_each(blur_zeroes);
    }

    /// While somebody changes an entry, reclaim and migration not excepted, it maps nothing for a moment, and a fault on
    /// another CPU looks into the file without a lock: so a private copy can be missed where the file has a hole.
    pub(super) fn may_blink(&self, set: &Reach, wanted: Ends) -> bool {
        let blinks = |s: &State| match s.base {
            // Of hugetlb memory the entry is looked at again, with its lock.
            Base::Copied(cell) if !s.of_hugetlb() => {
                let shown = State { base: Base::Private(cell), ..*s };
                shown.traps.watches_file() && shown.ends(&self.files, false).meets(wanted)
            }
            _ => false,
        };
        !self.alone && set.iter().any(blinks)
    }

    /// What a call that fills a page finds there.
    pub(super) fn must_take(&self, state: &State, flight: &Flight) -> bool {
        flight.filling().is_some_and(|what| state.perm.is_some() && state.must_take(what, &self.files))
    }

    /// True when the page is surely in the file, and so is there to be mapped.
    pub(super) fn surely_mappable(state: &State, flight: &Flight, files: &Files) -> bool {
        let continues = flight.code == OpCode::UffdContinue;
        let cell = match state.base {
            Base::Anon => return !continues,
            Base::Shared(cell) | Base::Private(cell) | Base::Copied(cell) => cell,
        };
        !files.may_fault(cell) && (!continues || files.presence(cell) == Presence::There)
    }
}

impl Flight {
    /// What it puts where nothing is.
    pub(super) fn filling(&self) -> Option<Filling> {
        match self.uffd() {
            Some(Uffd::Fill(what, ..)) => Some(what),
            _ => None,
        }
    }
}

/// What a page of a file holds once it is filled so.
fn file_token(flight: &Flight, what: Filling, spot: Spot) -> Option<u32> {
    match what {
        Filling::Copy { .. } => Some(copy_token(flight.op, spot.page)),
        Filling::Zero => Some(0),
        Filling::Poison | Filling::Continue { .. } => None,
    }
}

/// Where the files are given, what of hugetlb memory is surely stopped is left as it is.
fn blur_window(space: &mut Space, region: u8, files: Option<&Files>) {
    space.each_state(Some(region), |state| {
        if state.through().is_some() && !files.is_some_and(|files| state.is_stopped(files)) {
            state.traps = state.traps.perhaps_mapped();
        }
    });
}

fn blur_zeroes(space: &mut Space) {
    let mut at = None;
    while let Some(spot) = space.after(at) {
        at = Some(spot);
        let Some(states) = space.states(spot) else { continue };
        let poison = |s: &State| s.traps.poisoned() && s.base.file() == Some(HUGETLBFS);
        let zero = |s: &State| matches!(s.base, Base::Copied(_)) && s.value == 0 || poison(s);
        if !states.iter().any(zero) {
            continue;
        }
        let mut set: Reach = states.iter().copied().collect();
        let gone = |s: State| State { traps: s.traps.cured().perhaps_unprotected(), ..s.zeroed() };
        let fits = set.clone().into_iter().filter(zero).try_for_each(|s| insert(&mut set, gone(s))).is_ok();
        space.keep(spot, fits.then_some(&set));
    }
}
