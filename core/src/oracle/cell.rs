//! One page of a file, as user space may know it.

use crate::observe::{FILES, FileId, REMAPPED, Token};
use arrayvec::ArrayVec;

/// A page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CellId(u32);

const PAGE_BITS: u32 = 24;

impl CellId {
    /// Page `page` of a file.
    pub(super) const fn new(file: FileId, page: u32) -> CellId {
        CellId((file as u32) << PAGE_BITS | page)
    }

    /// The page that comes `pages` later.
    pub(super) fn later(self, pages: u32) -> CellId {
        CellId::new(self.file(), self.page() + pages)
    }

    /// Its file.
    pub(super) fn file(self) -> FileId {
        (self.0 >> PAGE_BITS) as u8
    }

    /// It is memory of a device's, without pages behind it.
    pub(super) fn raw(self) -> bool {
        usize::from(self.file()) >= FILES
    }

    /// It is the device's whose mappings never hold pages, save for private copies.
    pub(super) fn remapped(self) -> bool {
        self.file() == REMAPPED
    }

    /// Its page.
    pub(super) fn page(self) -> u32 {
        self.0 & ((1 << PAGE_BITS) - 1)
    }
}

/// What is in a page of a file; `None` beyond its end.
pub(super) type Content = Option<Token>;

/// What a call in flight does to a page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileChange {
    /// A hole is punched: it becomes zero.
    Erase,
    /// The file ends before it.
    Cut,
    /// The file ends before it, and a huge page may reach over the end up to it.
    CutInside,
    /// The file ends after it: zero, if it was beyond the end.
    Grow,
    /// `UFFDIO_COPY` or `UFFDIO_ZEROPAGE`: it holds this, if it was a hole.
    Fill(Token),
}

impl FileChange {
    pub(super) fn apply(self, content: Content) -> Content {
        match self {
            FileChange::Erase => content.map(|_| 0),
            FileChange::Cut | FileChange::CutInside => None,
            FileChange::Grow => Some(content.unwrap_or(0)),
            FileChange::Fill(token) => content.map(|_| token),
        }
    }
}

/// Most contents that are kept of a page in doubt.
pub(super) const CONTENTS: usize = 6;

/// Whether a file has a page at all, in memory or in swap. What is not there reads as zero once somebody asks for it, so
/// only userfaultfd can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Presence {
    /// Certainly not.
    #[default]
    Hole,
    /// Perhaps.
    Perhaps,
    /// Certainly.
    There,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    /// What it may hold; empty: anything, or nothing at all.
    pub(super) known: ArrayVec<Content, CONTENTS>,
    /// Calls in flight that change it.
    pub(super) pending: ArrayVec<(u8, FileChange), { crate::config::MAX_CPUS }>,
    /// It was stored to while a call was in flight.
    pub(super) touched: bool,
    /// More than one call has been in flight at once.
    pub(super) raced: bool,
    /// What it held before: after a memory failure the disk's older contents may be seen again.
    pub(super) past: ArrayVec<Token, CONTENTS>,
    /// More than fits has been held, or nobody knows what.
    pub(super) past_unknown: bool,
    /// Its memory has failed, or is failing.
    pub(super) lost: Option<LostCell>,
    /// The only thing that it held when its memory failed, until it is stored to or changed.
    pub(super) newest: Option<Token>,
    /// A huge page may reach over the end of the file up to here: nothing is ever known of it.
    pub(super) loose: bool,
    /// Whether it is there.
    pub(super) presence: Presence,
}

/// How far a page of a file is lost to a memory failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LostCell {
    /// SIGBUS is believed, and so is the content.
    Maybe,
    /// The failure has been dealt with, and hit this page for sure.
    Dealt,
    /// After that SIGBUS was seen: so it must be seen by all.
    Surely,
}

impl Default for Cell {
    fn default() -> Cell {
        Cell {
            known: [Some(0)].into_iter().collect(),
            pending: ArrayVec::new(),
            touched: false,
            raced: false,
            past: ArrayVec::new(),
            past_unknown: false,
            lost: None,
            newest: None,
            loose: false,
            presence: Presence::Hole,
        }
    }
}

impl Cell {
    /// Nothing is ever known of it.
    pub(super) fn unknown() -> Cell {
        Cell { known: ArrayVec::new(), loose: true, presence: Presence::Perhaps, ..Cell::default() }
    }

    pub(super) fn may(&self, is: impl Fn(Content) -> bool) -> bool {
        self.known.is_empty() || self.known.iter().any(|c| is(*c))
    }

    pub(super) fn is(&mut self, content: Content) {
        self.known.clear();
        if !self.loose {
            self.known.push(content);
        }
        self.close();
    }

    /// It is stored to: what it held so far is the past.
    pub(super) fn passes(&mut self) {
        self.newest = None;
        self.past_unknown |= self.known.is_empty();
        for value in self.known.iter().flatten() {
            if !self.past.contains(value) && self.past.try_push(*value).is_err() {
                self.past_unknown = true;
            }
        }
    }

    /// Its memory fails. On a disk there may be older contents.
    pub(super) fn fail(&mut self, disk: bool) {
        if self.lost.is_none() {
            self.lost = Some(LostCell::Maybe);
        }
        if !disk {
            return;
        }
        if let ([Some(one)], true) = (self.known.as_slice(), self.pending.is_empty()) {
            self.newest = Some(*one);
        }
        if self.past_unknown {
            self.known.clear();
        }
        for value in self.past.clone() {
            self.may_be(Some(value));
        }
        self.close();
    }

    pub(super) fn may_be(&mut self, content: Content) {
        if !self.known.is_empty() && !self.known.contains(&content) && self.known.try_push(content).is_err() {
            self.known.clear();
        }
    }

    /// Adds what the calls in flight can make of what it may hold.
    pub(super) fn close(&mut self) {
        let mut i = 0;
        while i < self.known.len() {
            for at in 0..self.pending.len() {
                let changed = self.pending[at].1.apply(self.known[i]);
                self.may_be(changed);
                if self.known.is_empty() {
                    return;
                }
            }
            i += 1;
        }
    }

    pub(super) fn end(&mut self, bit: u8, certain: bool) {
        let Some(at) = self.pending.iter().position(|p| p.0 == bit) else { return };
        let (_, change) = self.pending.remove(at);
        if self.pending.is_empty() {
            // A store during a call that erases may have come after it; none comes beyond the end of a file.
            if certain && !(self.touched && change == FileChange::Erase) && !self.known.is_empty() {
                let known = std::mem::take(&mut self.known);
                known.into_iter().for_each(|c| {
                    let after = change.apply(c);
                    if !self.known.contains(&after) {
                        self.known.push(after);
                    }
                });
            }
            // Only when the file ends before it, or after it, is it known where it ends.
            self.loose &= self.raced || !matches!(change, FileChange::Cut | FileChange::Grow);
            (self.touched, self.raced) = (false, false);
        }
    }
}
