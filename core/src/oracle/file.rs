//! Pages of files as user space could see them: what each may hold, whoever maps it.
//!
//! A page of a file is one cell, however many mappings show it. It holds a value or lies beyond the end of the file,
//! where there is nothing to read. Truncation and hole punching change cells while they are under way at a moment
//! of their own: until such a call returns, a cell may be as before or as after it.
//!
//! Huge pages of `tmpfs` reach beyond the end of the file, on purpose: "Make an exception for shmem/tmpfs that for long time
//! intentionally mapped with PMDs across i_size" (`mm/memory.c: finish_fault()`). So where a case asks for huge pages, nothing
//! is known of the pages behind the end in the same huge page: not whether they can be accessed, nor what is there later
//! when the file has grown over them.

use super::cell::{CONTENTS, Cell, CellId, FileChange, LostCell, Presence};
use crate::observe::{FILES, FileId, HUGETLB_ANON, MAPPINGS, REGULAR, SHMEM, Token};
use arrayvec::ArrayVec;

/// What `msync` has to tell of data that were lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Told {
    /// Nothing is lost that was not told.
    #[default]
    Nothing,
    /// Perhaps something is.
    Perhaps,
    /// Older contents of the disk were seen.
    Must,
}

/// The pages of all files. Buffers are kept over [`Files::clear`].
pub(super) struct Files {
    /// Cells of each file; those after are [`Cell::default`], and from page `pages` on [`Cell::unknown`].
    cells: [Vec<Cell>; MAPPINGS],
    untouched: Cell,
    unknown: Cell,
    /// Pages in a file before the first truncation. What a mapping shows behind them, when it has grown, nobody follows.
    pages: u32,
    /// What `msync` has to tell.
    told: Told,
    /// Pages of a huge page, if the case asks for some.
    huge: Option<u32>,
    /// Whether pages are there is followed; that one is not is never certain unless this is `Some(true)`.
    tracks: Option<bool>,
}

impl Default for Files {
    fn default() -> Files {
        Files {
            cells: Default::default(),
            untouched: Cell::default(),
            unknown: Cell::unknown(),
            pages: 0,
            told: Told::default(),
            huge: None,
            tracks: None,
        }
    }
}

impl Files {
    /// Every page of every file is zero, of `pages` that each has. `huge` is the size of huge pages, if there may be any;
    /// `tracks` whether somebody asks which pages are holes, and if so, whether holes are filled only when pages are asked for.
    pub(super) fn clear(&mut self, pages: u32, huge: Option<u32>, tracks: Option<bool>) {
        self.pages = pages;
        self.cells.iter_mut().for_each(Vec::clear);
        self.told = Told::Nothing;
        self.huge = huge;
        self.tracks = tracks;
    }

    /// What a truncation to `size` pages does to a page.
    pub(super) fn truncation(&self, id: CellId, size: u32) -> FileChange {
        if id.page() < size {
            return FileChange::Grow;
        }
        let inside = |pages: u32| id.page() < size.next_multiple_of(pages);
        if id.file() == SHMEM && self.huge.is_some_and(inside) { FileChange::CutInside } else { FileChange::Cut }
    }

    fn cell(&self, id: CellId) -> &Cell {
        let other = if id.page() < self.pages { &self.untouched } else { &self.unknown };
        self.cells.get(usize::from(id.file())).and_then(|c| c.get(id.page() as usize)).unwrap_or(other)
    }

    fn cell_mut(&mut self, id: CellId) -> &mut Cell {
        let (cells, page) = (&mut self.cells[usize::from(id.file()) % MAPPINGS], id.page() as usize);
        if cells.len() <= page {
            cells.resize((page + 1).min(self.pages as usize).max(cells.len()), Cell::default());
            cells.resize(cells.len().max(page + 1), Cell::unknown());
        }
        &mut cells[page]
    }

    /// True when a load may return `value`.
    pub(super) fn may_be(&self, id: CellId, value: Token) -> bool {
        let cell = self.cell(id);
        cell.lost != Some(LostCell::Surely) && cell.may(|c| c == Some(value))
    }

    /// True when an access may end in SIGBUS: the file may end before, or the memory has failed.
    pub(super) fn may_fault(&self, id: CellId) -> bool {
        let cell = self.cell(id);
        cell.lost.is_some() || cell.may(|c| c.is_none())
    }

    /// True when an access may find the page.
    pub(super) fn may_read(&self, id: CellId) -> bool {
        self.cell(id).may(|c| c.is_some())
    }

    /// What it may hold, as far as that is known; `None`: anything.
    pub(super) fn values(&self, id: CellId) -> Option<ArrayVec<Token, CONTENTS>> {
        let known = &self.cell(id).known;
        (!known.is_empty()).then(|| known.iter().flatten().copied().collect())
    }

    /// True when it is known what it may hold, and all of that `is` so.
    pub(super) fn all_values(&self, id: CellId, is: impl Fn(Token) -> bool) -> bool {
        let known = &self.cell(id).known;
        !known.is_empty() && known.iter().flatten().all(|v| is(*v))
    }

    /// The only value that it may hold, if there is only one.
    pub(super) fn value(&self, id: CellId) -> Option<Token> {
        match self.cell(id).known.as_slice() {
            [one] => *one,
            _ => None,
        }
    }

    /// A load of `value` came from here.
    pub(super) fn loaded(&mut self, id: CellId, value: Token) {
        if self.value(id) != Some(value) {
            self.cell_mut(id).is(Some(value));
        }
        let newest = self.cell(id).newest;
        if newest.is_some_and(|newest| newest != value) && self.told == Told::Perhaps {
            self.told = Told::Must;
        }
    }

    /// A store of `value` went here.
    pub(super) fn stored(&mut self, id: CellId, value: Token) {
        let cell = self.cell_mut(id);
        cell.passes();
        cell.is(Some(value));
        cell.touched = !cell.pending.is_empty();
    }

    /// A store of `value` may have gone here.
    pub(super) fn perhaps_stored(&mut self, id: CellId, value: Token) {
        let cell = self.cell_mut(id);
        cell.passes();
        cell.may_be(Some(value));
        cell.close();
        cell.touched = !cell.pending.is_empty();
    }

    /// A store went to nobody knows which page of nobody knows which file of `pages` pages.
    pub(super) fn forget(&mut self, pages: u32) {
        for cells in &mut self.cells {
            cells.resize(pages as usize, Cell::default());
            cells.iter_mut().for_each(|c| {
                c.passes();
                c.known.clear();
            });
        }
    }

    /// Whether the file has the page.
    pub(super) fn presence(&self, id: CellId) -> Presence {
        match self.cell(id).presence {
            Presence::Hole if self.tracks != Some(true) => Presence::Perhaps,
            presence => presence,
        }
    }

    /// True when an access that finds the page there has nothing to teach.
    #[inline]
    pub(super) fn knows_presence(&self, id: CellId) -> bool {
        self.tracks.is_none() || self.cell(id).presence == Presence::There
    }

    /// An access has found the page there. True when that was not known.
    pub(super) fn found(&mut self, id: CellId) -> bool {
        let news =
            self.tracks.is_some() && self.cell(id).pending.is_empty() && self.cell(id).presence != Presence::There;
        if news {
            self.cell_mut(id).presence = Presence::There;
        }
        news
    }

    /// Somebody is about to ask for the page.
    pub(super) fn asked(&mut self, id: CellId) {
        // The unnamed file of anonymous hugetlb memory has no page ever.
        if self.tracks.is_some() && self.cell(id).presence == Presence::Hole && id.file() != HUGETLB_ANON {
            self.cell_mut(id).presence = Presence::Perhaps;
        }
    }

    /// Pages may be lost that nobody has named.
    pub(super) fn doubt(&mut self) {
        let there = |c: &&mut Cell| c.presence == Presence::There;
        self.cells.iter_mut().flatten().filter(there).for_each(|c| c.presence = Presence::Perhaps);
    }

    /// The monitor's call on the CPU with this bit returns, and has filled the page or not.
    pub(super) fn end_fill(&mut self, id: CellId, bit: u8, filled: bool) {
        let cell = self.cell_mut(id);
        let Some(at) = cell.pending.iter().position(|p| p.0 == bit) else { return };
        let (_, change) = cell.pending.remove(at);
        let FileChange::Fill(token) = change else { return };
        let alone = !cell.touched && !cell.raced && cell.pending.is_empty();
        if filled && alone {
            cell.is(Some(token));
        } else if !filled && token != 0 && alone && cell.known.len() > 1 {
            cell.known.retain(|c| *c != Some(token));
        }
        if cell.pending.is_empty() {
            cell.presence = if filled && !cell.raced { Presence::There } else { Presence::Perhaps };
            (cell.touched, cell.raced) = (false, false);
        }
    }

    /// Somebody has asked for nobody knows which page: that one is a hole is no longer certain of any.
    pub(super) fn doubt_holes(&mut self) {
        self.tracks = self.tracks.map(|_| false);
    }

    /// What is left of the fills of a call that has returned: of these nobody knows whether they were done.
    pub(super) fn end_unsure_fills(&mut self, bit: u8) {
        for cell in self.cells.iter_mut().flatten() {
            let left = cell.pending.len();
            cell.pending.retain(|p| p.0 != bit || !matches!(p.1, FileChange::Fill(_)));
            if cell.pending.len() != left {
                cell.presence = Presence::Perhaps;
                cell.raced &= !cell.pending.is_empty();
            }
        }
    }

    /// The call on the CPU with this bit begins; it changes the page.
    pub(super) fn begin(&mut self, id: CellId, bit: u8, change: FileChange) {
        let cell = self.cell_mut(id);
        cell.newest = None;
        if cell.lost.is_some() {
            cell.lost = Some(LostCell::Maybe);
        }
        if !cell.pending.iter().any(|p| p.0 == bit) && cell.pending.try_push((bit, change)).is_ok() {
            cell.raced |= cell.pending.len() > 1;
            if cell.presence == Presence::There && !matches!(change, FileChange::Grow | FileChange::Fill(_)) {
                cell.presence = Presence::Perhaps;
            }
            if change == FileChange::CutInside {
                cell.loose = true;
                cell.known.clear();
            }
            cell.close();
        }
    }

    /// The memory behind a page fails.
    pub(super) fn fail(&mut self, id: CellId) {
        let disk = id.file() == REGULAR;
        if disk {
            self.told = self.told.max(Told::Perhaps);
        }
        self.cell_mut(id).fail(disk);
    }

    /// The memory behind some page of some file fails.
    pub(super) fn fail_any(&mut self, pages: u32) {
        for file in 0..FILES as FileId {
            (0..pages).for_each(|page| self.fail(CellId::new(file, page)));
        }
    }

    /// The failure of this page and of no other has been dealt with.
    pub(super) fn dealt_with(&mut self, id: CellId) {
        let cell = self.cell_mut(id);
        if cell.lost == Some(LostCell::Maybe) && cell.pending.is_empty() {
            cell.lost = Some(LostCell::Dealt);
        }
    }

    /// An access to a page of `tmpfs`, which has no other copy, ended in SIGBUS because its memory has failed.
    pub(super) fn lost(&mut self, id: CellId) {
        let cell = self.cell_mut(id);
        if id.file() == SHMEM && cell.lost == Some(LostCell::Dealt) && cell.known.iter().all(|c| c.is_some()) {
            cell.lost = Some(LostCell::Surely);
        }
    }

    /// True when an access to the page must end in SIGBUS.
    pub(super) fn is_lost(&self, id: CellId) -> bool {
        self.cell(id).lost == Some(LostCell::Surely)
    }

    /// Failed memory may be good again.
    pub(super) fn doubt_losses(&mut self) {
        for cell in self.cells.iter_mut().flatten().filter(|c| c.lost.is_some()) {
            cell.lost = Some(LostCell::Maybe);
        }
    }

    /// True when `msync` may tell of lost data (`error`), or may be silent about them.
    pub(super) fn may_tell(&self, error: bool) -> bool {
        if error { self.told != Told::Nothing } else { self.told != Told::Must }
    }

    /// `msync` has told of lost data; some may be getting lost just now.
    pub(super) fn told(&mut self, failing: bool) {
        self.told = if failing { Told::Perhaps } else { Told::Nothing };
        self.cells.iter_mut().flatten().for_each(|c| c.newest = None);
    }

    /// True when one truncation is in flight and nothing else: once it has reached a page, the file ends before it.
    pub(super) fn cut_for_good(&self, id: CellId) -> bool {
        let cell = self.cell(id);
        !cell.raced && matches!(cell.pending.as_slice(), [(_, FileChange::Cut)])
    }

    /// It returns; `certain` when it has had its effect on all that it was begun on, `alone` when nobody else is at work who
    /// could have brought pages back.
    pub(super) fn end(&mut self, bit: u8, certain: bool, alone: bool) {
        for cell in self.cells.iter_mut().flatten() {
            let emptied = cell
                .pending
                .iter()
                .any(|p| p.0 == bit && matches!(p.1, FileChange::Erase | FileChange::Cut | FileChange::CutInside));
            if emptied {
                cell.presence = if certain && alone { Presence::Hole } else { Presence::Perhaps };
            }
            cell.end(bit, certain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: CellId = CellId::new(0, 3);

    fn files() -> Files {
        let mut files = Files::default();
        files.clear(16, None, None);
        files
    }

    #[test]
    fn nothing_is_known_behind_the_first_end_of_a_file() {
        let mut files = files();
        let behind = CellId::new(SHMEM, 16);
        assert!(files.may_fault(behind) && files.may_be(behind, 0) && !files.may_fault(CellId::new(SHMEM, 15)));
        files.stored(behind, 7);
        assert!(files.may_fault(behind) && files.may_be(behind, 8) && !files.may_fault(CellId::new(SHMEM, 15)));
    }

    #[test]
    fn a_hole_is_seen_early_or_late_but_never_undone() {
        let mut files = files();
        files.stored(C, 7);
        files.begin(C, 1, FileChange::Erase);
        assert!(files.may_be(C, 7) && files.may_be(C, 0) && !files.may_be(C, 8));
        files.loaded(C, 7);
        assert!(files.may_be(C, 0));
        files.loaded(C, 0);
        assert!(!files.may_be(C, 7));
        files.end(1, true, true);
        assert_eq!(files.value(C), Some(0));
    }

    #[test]
    fn a_store_during_hole_punching_may_survive_it() {
        let mut files = files();
        files.begin(C, 1, FileChange::Erase);
        files.stored(C, 9);
        files.end(1, true, true);
        assert!(files.may_be(C, 9) && files.may_be(C, 0) && files.value(C).is_none());
    }

    #[test]
    fn nothing_is_read_beyond_the_end_until_the_file_grows_again() {
        let mut files = files();
        files.stored(C, 7);
        files.begin(C, 1, FileChange::Cut);
        files.end(1, true, true);
        assert!(files.may_fault(C) && !files.may_read(C));
        files.begin(C, 2, FileChange::Grow);
        assert!(files.may_fault(C) && files.may_be(C, 0) && !files.may_be(C, 7));
        files.end(2, true, true);
        assert_eq!(files.value(C), Some(0));
    }

    #[test]
    fn nothing_is_known_of_pages_behind_the_end_that_a_huge_page_reaches() {
        let mut files = Files::default();
        files.clear(16, Some(8), None);
        let cell = |page| CellId::new(SHMEM, page);
        let cut = |files: &mut Files, size| {
            for page in 0..16 {
                let change = files.truncation(cell(page), size);
                files.begin(cell(page), 1, change);
            }
            files.end(1, true, true);
        };
        cut(&mut files, 3);
        files.stored(cell(5), 7);
        assert!(files.may_be(cell(5), 9) && files.may_fault(cell(5)) && !files.may_fault(cell(2)));
        assert!(!files.may_read(cell(8)), "no huge page reaches that far");
        cut(&mut files, 8);
        files.loaded(cell(5), 7);
        assert_eq!(files.value(cell(5)), Some(7));
        assert_eq!(files.truncation(CellId::new(1, 5), 3), FileChange::Cut, "of tmpfs only");
    }

    #[test]
    fn two_calls_at_once_leave_what_either_order_would() {
        let mut files = files();
        files.stored(C, 7);
        files.begin(C, 1, FileChange::Cut);
        files.begin(C, 2, FileChange::Grow);
        files.end(1, true, true);
        files.end(2, true, true);
        assert!(files.may_be(C, 0) && files.may_be(C, 7));
    }
}
