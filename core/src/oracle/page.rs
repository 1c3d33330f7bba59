//! One page as user space could see it: the states it may be in, and what calls in flight do to them.

use super::cell::CellId;
use super::effect::Effect;
use super::file::Files;
use super::traps::Traps;
use crate::observe::{Backing, FileId, Token, Userfault};
use crate::program::Perm;
use arrayvec::ArrayVec;

/// Most states that are kept of a page; one that would need more becomes [`Known::Any`].
pub(super) const STATES: usize = 6;
/// Most states that are looked at while a page is judged.
const REACHABLE: usize = 32;

/// States that are kept.
pub(super) type Set = ArrayVec<State, STATES>;
/// States that can be reached from those kept, while one observation is judged.
pub(super) type Reach = ArrayVec<State, REACHABLE>;
/// Calls in flight that change a page: the bit of each and what it does.
pub(super) type Changes = ArrayVec<(u8, Effect), { crate::config::MAX_CPUS }>;

/// The states of a page no longer fit: nothing is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overflow;

/// A state that a page may be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// Its protection; `None` where nothing is mapped.
    pub(super) perm: Option<Perm>,
    /// Which calls in flight have taken effect in it, one bit for each CPU.
    pub(super) applied: u8,
    /// An access is a fault, whatever the protection permits (`MADV_GUARD_INSTALL`).
    pub(super) guard: bool,
    /// The content may turn into zero at any time, until the next store (`MADV_FREE`).
    pub(super) lazy: bool,
    /// What lies under it.
    pub(super) base: Base,
    /// What userfaultfd has to do with it, and whether anything is there at all.
    pub(super) traps: Traps,
    /// Where its memory comes from.
    pub(super) pool: Pool,
    /// Its content, if it is its own; 0 where nothing is mapped and where a file is read through.
    pub(super) value: Token,
}

/// Where the memory of a page comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pool {
    /// From all there is: when there is no more, somebody is killed.
    Any,
    /// From the pool of huge pages, which may have none left: then the access ends in `SIGBUS`.
    Huge,
    /// The same, and one was promised.
    Promised,
}

impl Pool {
    /// That of a new mapping. Promises hold as long as no memory is taken out of use.
    pub(super) fn of(backing: Backing, promises: bool) -> Pool {
        match backing {
            // The promise for a page of a file goes with the page, and anybody can take that away.
            Backing::HugetlbNoreserve | Backing::HugetlbfsShared | Backing::HugetlbfsPrivate => Pool::Huge,
            Backing::Hugetlb if promises => Pool::Promised,
            Backing::Hugetlb => Pool::Huge,
            _ => Pool::Any,
        }
    }

    /// The same when the page was dropped, or is a child's: what was promised has been used, or was not promised to it.
    pub(super) fn without_promise(self) -> Pool {
        if self == Pool::Promised { Pool::Huge } else { self }
    }
}

/// What lies under a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// Nothing: the page is private anonymous memory.
    Anon,
    /// A page of a file, which is what is seen and what is stored to.
    Shared(CellId),
    /// A page of a file, which is what is seen; a store makes a copy.
    Private(CellId),
    /// A page of a file, of which this is a copy.
    Copied(CellId),
}

impl Base {
    /// What a new mapping shows in page `page` of its window.
    pub(super) fn of(backing: Backing, page: u32) -> Base {
        match backing.mapping() {
            None => Base::Anon,
            Some(file) if backing.shared() => Base::Shared(CellId::new(file, page)),
            Some(file) => Base::Private(CellId::new(file, page)),
        }
    }
}

impl Base {
    /// The same of the page that comes `pages` later.
    pub(super) fn later(self, pages: u32) -> Base {
        match self {
            Base::Anon => Base::Anon,
            Base::Shared(cell) => Base::Shared(cell.later(pages)),
            Base::Private(cell) | Base::Copied(cell) => Base::Private(cell.later(pages)),
        }
    }

    /// The file that is mapped.
    pub(super) fn file(self) -> Option<FileId> {
        match self {
            Base::Anon => None,
            Base::Shared(cell) | Base::Private(cell) | Base::Copied(cell) => Some(cell.file()),
        }
    }
}

impl State {
    /// Nothing is mapped.
    pub(super) const UNMAPPED: State = State {
        perm: None,
        applied: 0,
        base: Base::Anon,
        guard: false,
        lazy: false,
        traps: Traps::NONE,
        pool: Pool::Any,
        value: 0,
    };

    /// It is of hugetlb memory.
    #[inline]
    pub(super) fn of_hugetlb(&self) -> bool {
        self.pool != Pool::Any
    }

    /// A page of a file may be behind nothing, and hugetlb memory is a file: userfaultfd's protection is remembered there.
    #[inline]
    pub(super) fn remembers(&self) -> bool {
        self.base != Base::Anon || self.of_hugetlb()
    }

    /// A page of anonymous memory that holds zeroes.
    #[inline]
    pub(super) fn mapped(perm: Perm) -> State {
        State { perm: Some(perm), ..State::UNMAPPED }
    }

    /// The same page with zeroes in it.
    #[inline]
    pub(super) fn zeroed(self) -> State {
        let base = if let Base::Copied(cell) = self.base { Base::Private(cell) } else { self.base };
        State { base, value: 0, lazy: false, ..self }
    }

    /// The same page with nothing in it; `fresh` is what new memory is like.
    pub(super) fn emptied(self, fresh: Traps) -> State {
        let zeroed = self.zeroed();
        State { traps: zeroed.traps.dropped(fresh), ..zeroed }
    }

    /// True when a load can give `value`.
    #[inline]
    pub(super) fn holds(self, value: Token) -> bool {
        self.value == value || self.lazy && value == 0
    }

    /// The state after a load has given `value`: what has turned into zero stays zero.
    #[inline]
    fn after_load(self, value: Token) -> State {
        // One that held zeroes before may still go.
        if self.lazy && value == 0 && self.value != 0 { State { value: 0, lazy: false, ..self } } else { self }
    }

    /// What is sure of a page that may go at any time: its write protection, if it has any, goes along.
    pub(super) fn while_lazy(self) -> State {
        if self.lazy { State { traps: self.traps.perhaps_dropped().perhaps_unprotected(), ..self } } else { self }
    }

    /// True when the mapping permits the access.
    #[inline]
    pub(super) fn allows(self, write: bool) -> bool {
        match self.perm {
            Some(Perm::ReadWrite) => true,
            Some(Perm::Read) => !write,
            Some(Perm::None) | None => false,
        }
    }

    /// True when the access may retire: the mapping permits it and nothing is sure to stop it.
    #[inline]
    pub(super) fn permits(self, write: bool) -> bool {
        // Whether the file has a page is another question: `passes_file`.
        let traps = if self.through().is_some() { self.traps.perhaps_mapped() } else { self.traps };
        !self.guard && self.allows(write) && traps.passes(write)
    }

    /// The page of a file that is seen through it.
    #[inline]
    pub(super) fn through(self) -> Option<CellId> {
        match self.base {
            Base::Shared(cell) | Base::Private(cell) => Some(cell),
            Base::Anon | Base::Copied(_) => None,
        }
    }

    /// A copy of a device's memory, which a fault may find where the page is seen no more.
    pub(super) fn stale(self) -> bool {
        matches!(self.base, Base::Copied(cell) if cell.raw())
    }

    /// True when a load in this state may return `value`.
    #[inline]
    pub(super) fn shows(self, files: &Files, value: Token) -> bool {
        self.permits(false)
            && match self.through() {
                None => self.holds(value),
                Some(cell) => self.passes_file(files, false) && files.may_be(cell, value),
            }
    }

    /// True when userfaultfd is not sure to stop the access because of what the file has or has not.
    #[inline]
    pub(super) fn passes_file(self, files: &Files, write: bool) -> bool {
        let stopped = |cell| !self.traps.ends_through(write, files.presence(cell)).meets(Ends::WELL);
        !self.traps.watches_file() || !self.through().is_some_and(stopped)
    }

    /// A page of hugetlb memory of which userfaultfd is sure to stop any access because of what the file has or has not: nothing is
    /// mapped there, and nothing copied.
    #[inline]
    pub(super) fn is_stopped(&self, files: &Files) -> bool {
        self.of_hugetlb() && !self.passes_file(files, false)
    }

    /// The state after a store to private memory; a store to a shared page changes the file instead.
    pub(super) fn written(self, value: Token) -> State {
        match self.base {
            Base::Shared(_) => self,
            // A copy is there, whatever was said of the entry through which the file was seen.
            Base::Private(cell) | Base::Copied(cell) => {
                State { base: Base::Copied(cell), value, lazy: false, traps: self.traps.perhaps_mapped(), ..self }
            }
            Base::Anon => State { value, lazy: false, ..self },
        }
    }

    /// How an access may end that is made in this state.
    #[inline]
    pub(super) fn ends(self, files: &Files, write: bool) -> Ends {
        let empty_pool = if self.pool == Pool::Huge { Ends::BUS } else { Ends::default() };
        match (self.perm, self.through()) {
            (None, _) => Ends::MAP_ERR,
            (Some(_), _) if !self.allows(write) => Ends::ACC_ERR,
            (Some(_), _) if self.guard => Ends::MAP_ERR,
            (Some(_), None) => self.traps.ends(write).or(empty_pool),
            (Some(_), Some(cell)) => {
                let mut ends = empty_pool;
                if files.may_read(cell) {
                    ends.add(self.traps.ends_through(write, files.presence(cell)));
                }
                if files.may_fault(cell) {
                    ends.add(Ends::BUS);
                }
                ends
            }
        }
    }

    /// The same page once an access has retired that found nothing in its way.
    #[inline]
    pub(super) fn touched(self, write: bool) -> State {
        let seen = self.through().is_some() && !(write && matches!(self.base, Base::Private(_)));
        let traps = if seen { self.traps.touched_through(write) } else { self.traps.touched(write) };
        // What is lazily freed may go again.
        let touched = State { traps, ..self };
        if write { touched } else { touched.while_lazy() }
    }

    /// The same page once an access has been stopped for this reason.
    pub(super) fn stopped(self, reason: Userfault) -> State {
        let traps =
            if self.through().is_some() { self.traps.stopped_through(reason) } else { self.traps.stopped(reason) };
        State { traps, ..self }.while_lazy()
    }

    /// The page of a child that was copied from this one. The tables of a shared mapping are copied only where
    /// userfaultfd write-protects the child's (`vma_needs_copy()`); else the poison stays behind.
    pub(super) fn child(self) -> State {
        let traps = self.traps.child();
        let bare = matches!(self.base, Base::Shared(_)) && !traps.write_protects();
        let traps = if bare { traps.cured() } else { traps };
        // What a child has of its parent's hugetlb memory it may lose again, when the pool has no page for the parent.
        let lent = self.of_hugetlb() && !matches!(self.base, Base::Shared(_));
        let traps = if lent { traps.untracked() } else { traps };
        State { applied: 0, traps, pool: self.pool.without_promise(), ..self }
    }

    /// True where the poison may stay behind: the tables of a private mapping of a file are copied once a page of it was.
    pub(super) fn may_be_cured_in_a_child(self) -> bool {
        matches!(self.base, Base::Private(_) | Base::Copied(_)) && self.traps.poisoned()
    }
}

/// A set of ways in which an access may end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ends(u8);

impl Ends {
    /// It retires.
    pub(super) const WELL: Ends = Ends(1);
    /// `SEGV_MAPERR`.
    pub(super) const MAP_ERR: Ends = Ends(2);
    /// `SEGV_ACCERR`.
    pub(super) const ACC_ERR: Ends = Ends(4);
    /// `SIGBUS`.
    pub(super) const BUS: Ends = Ends(8);
    /// It waits, because nothing is there.
    pub(super) const MISSING: Ends = Ends(16);
    /// It waits, because the page is write-protected.
    pub(super) const WP: Ends = Ends(32);
    /// It waits, because what the file has is not mapped.
    pub(super) const MINOR: Ends = Ends(64);
    /// It does not retire by itself.
    pub(super) const FAULT: Ends = Ends(2 | 4 | 8 | 16 | 32 | 64);
    /// Any way at all.
    pub(super) const ALL: Ends = Ends(127);

    /// The way of an access that is stopped for this reason.
    pub(super) fn of(reason: Userfault) -> Ends {
        match reason {
            Userfault::Missing => Ends::MISSING,
            Userfault::Wp => Ends::WP,
            Userfault::Minor => Ends::MINOR,
        }
    }

    /// The ways of both.
    #[inline]
    pub(super) fn or(self, other: Ends) -> Ends {
        Ends(self.0 | other.0)
    }

    /// True when the two sets share a way.
    #[inline]
    pub(super) fn meets(self, other: Ends) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds the ways of `other`.
    #[inline]
    pub(super) fn add(&mut self, other: Ends) {
        self.0 |= other.0;
    }
}

/// Adds a state unless it is there.
pub(super) fn insert<const N: usize>(set: &mut ArrayVec<State, N>, state: State) -> Result<(), Overflow> {
    if set.contains(&state) {
        return Ok(());
    }
    set.try_push(state).map_err(|_| Overflow)
}

/// Adds every state that calls in flight can make of those in `set`.
pub(super) fn close(set: &mut Reach, changes: &Changes) -> Result<(), Overflow> {
    let mut i = 0;
    while i < set.len() {
        let state = set[i];
        for &(bit, effect) in changes {
            if state.applied & bit == 0 {
                if let Some(next) = effect.apply(state, bit) {
                    insert(set, next)?;
                }
                if let Some(halfway) = effect.halfway(state) {
                    insert(set, halfway)?;
                }
            }
        }
        i += 1;
    }
    Ok(())
}

/// Removes what [`close`] would find again.
pub(super) fn prune(set: &mut Reach, changes: &Changes) {
    let mut i = set.len();
    while i > 0 {
        i -= 1;
        let state = set[i];
        let found_again = set.iter().any(|&from| {
            changes.iter().any(|&(bit, effect)| {
                let found = effect.apply(from, bit) == Some(state) || effect.halfway(from) == Some(state);
                from != state && from.applied & bit == 0 && found
            })
        });
        if found_again {
            set.swap_remove(i);
        }
    }
}

/// The same states, each once.
pub(super) fn dedup(set: &mut Reach) {
    let mut i = set.len();
    while i > 0 {
        i -= 1;
        if set[..i].contains(&set[i]) {
            set.swap_remove(i);
        }
    }
}

/// Which memory an access in some state goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Memory {
    /// The page's own; there is one for each combination of replacing calls that have taken effect.
    Own(u8),
    /// A page of a file.
    File(CellId),
}

/// The memory behind the states of a page.
#[derive(Clone, Copy)]
struct Cells {
    /// Bits of the calls that replace it.
    replacing: u8,
    /// A call replaces the cell more than once, so that the names do not tell cells apart.
    unnamed: bool,
}

impl Cells {
    fn of(changes: &Changes) -> Cells {
        Cells {
            replacing: changes.iter().filter(|(_, e)| e.replaces()).fold(0, |mask, (bit, _)| mask | bit),
            unnamed: changes.iter().any(|(_, e)| matches!(e, Effect::Guard(_))),
        }
    }

    /// Where a load goes, or a store.
    fn behind(self, state: &State, write: bool) -> Memory {
        match (state.through(), state.base) {
            (Some(_), Base::Private(_)) if write => Memory::Own(state.applied & self.replacing),
            (Some(cell), _) => Memory::File(cell),
            (None, _) => Memory::Own(state.applied & self.replacing),
        }
    }

    /// The memory of the states that `choose` picks, if it is the same for all.
    fn only(self, set: &Reach, write: bool, choose: impl Fn(&State) -> bool) -> Option<Memory> {
        if self.unnamed {
            return None;
        }
        let mut found = None;
        for state in set.iter().filter(|s| choose(s)) {
            let memory = self.behind(state, write);
            if found.is_some_and(|f| f != memory) {
                return None;
            }
            found = Some(memory);
        }
        found
    }
}

/// Keeps of a closed set what agrees with a load of `value`. The caller has checked that something does.
pub(super) fn loaded(set: &mut Reach, changes: &Changes, files: &mut Files, value: Token) {
    if changes.is_empty() {
        set.retain(|s| s.shows(files, value));
        set.iter_mut().for_each(|s| *s = s.touched(false));
        set.iter_mut().filter(|s| s.through().is_none()).for_each(|s| *s = s.after_load(value));
        if let Some(Memory::File(cell)) = Cells::of(changes).only(set, false, |_| true) {
            files.loaded(cell, value);
        }
        return dedup(set);
    }
    let cells = Cells::of(changes);
    match cells.only(set, false, |s| s.shows(files, value)) {
        Some(Memory::File(cell)) => files.loaded(cell, value),
        Some(own @ Memory::Own(_)) => {
            set.retain(|s| s.perm.is_none() || cells.behind(s, false) != own || s.holds(value));
            let same = |s: &State| s.perm.is_some() && cells.behind(s, false) == own;
            set.iter_mut().filter(|s| same(s)).for_each(|s| *s = s.after_load(value));
            dedup(set);
        }
        None => {}
    }
    set.iter_mut().for_each(|s| s.traps = s.traps.perhaps_touched(false));
    dedup(set);
}

/// Makes of a closed set what it is after a store of `value`. The caller has checked that something permits it.
pub(super) fn stored(set: &mut Reach, changes: &Changes, files: &mut Files, value: Token) -> Result<(), Overflow> {
    if changes.is_empty() {
        set.retain(|s| s.permits(true));
    }
    let cells = Cells::of(changes);
    let takes = |s: &State| s.permits(true) && !beyond_end(s, changes, files);
    let may_hit: ArrayVec<Memory, REACHABLE> = set.iter().filter(|s| takes(s)).map(|s| cells.behind(s, true)).collect();
    let certain = cells.only(set, true, takes).is_some();
    for i in 0..set.len() {
        let memory = cells.behind(&set[i], true);
        if changes.is_empty() {
            set[i] = set[i].touched(true);
        } else {
            set[i].traps = set[i].traps.perhaps_touched(true);
        }
        if set[i].perm.is_none() || beyond_end(&set[i], changes, files) || !may_hit.contains(&memory) {
            continue;
        }
        match memory {
            Memory::File(cell) if certain => files.stored(cell, value),
            Memory::File(cell) => files.perhaps_stored(cell, value),
            Memory::Own(_) if certain => set[i] = set[i].written(value),
            Memory::Own(_) => {
                let hit = set[i].written(value);
                insert(set, hit)?;
            }
        }
    }
    dedup(set);
    Ok(())
}

/// True of a state in which a truncation has taken a private copy away, or would have: the file ends before it.
fn beyond_end(state: &State, changes: &Changes, files: &Files) -> bool {
    let Base::Private(cell) = state.base else { return false };
    changes.iter().any(|(bit, effect)| state.applied & bit != 0 && effect.cuts(cell)) && files.cut_for_good(cell)
}

/// What is known of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It is in this state.
    One(State),
    /// It is in one of several; where they are in the space's table of sets.
    Many(u32),
    /// Nothing: every observation is believed.
    Any,
}

/// A page of a process. Times are observation numbers; 0 is never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page {
    /// States that it may be in.
    pub(super) known: Known,
    /// When a CPU first stored to it since its process's last `clear-refs`.
    pub(super) stored: u32,
    /// When the `mmap` began that made it.
    pub(super) mapped: u32,
}

impl Page {
    /// A page that is not mapped.
    pub(super) const UNMAPPED: Page = Page { known: Known::One(State::UNMAPPED), stored: 0, mapped: 0 };
}
