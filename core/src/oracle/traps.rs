//! What userfaultfd has to do with one page: registered or not, write-protected or not, poisoned or not, and whether
//! anything is there at all.
//!
//! Three things can be unknown of a page that is in one state otherwise: whether it is there (a child's copy, or a
//! page that a fault may have touched), whether it is write-protected, and both of them. So each has two bits, one for
//! *certainly* and one for *certainly not* or *perhaps*. In a case that registers nothing all bits stay zero.
//!
//! Where a file is seen, *there* and *not there* are two questions. Whether the file has the page is told by the file's
//! cell ([`Presence`]); the bits here speak of the process's own entry, and as the kernel takes such entries away when
//! it likes, only that it maps nothing can be certain.

use super::cell::Presence;
use super::page::{Base, Ends, State};
use crate::observe::{FAULTED, HUGETLB_ANON, REMAPPED, SHMEM, Token, UffdFlags, Userfault};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Traps(u16);

impl Traps {
    /// Nothing: not registered, and nobody keeps track.
    pub(super) const NONE: Traps = Traps(0);
    /// A page of new memory, where somebody keeps track.
    pub(super) const FRESH: Traps = Traps(Traps::HOLE | Traps::TRACKED | Traps::EXACT);
    /// The same where a fault may put pages beside the one that it is for: that nothing is there is never certain.
    pub(super) const LOOSE: Traps = Traps(Traps::TRACKED);

    const REGISTERED: u16 = 0xff;
    /// Certainly write-protected.
    const WP: u16 = 1 << 15;
    /// Perhaps write-protected.
    const PERHAPS_WP: u16 = 1 << 8;
    /// Poisoned: nothing is there, and an access ends in `SIGBUS`.
    const POISON: u16 = 1 << 9;
    /// A page is certainly there.
    const THERE: u16 = 1 << 10;
    /// Certainly no page is there.
    const HOLE: u16 = 1 << 11;
    /// Somebody keeps track of all this.
    const TRACKED: u16 = 1 << 12;
    /// What is there was put there by a call that wakes those who wait for it.
    const AWAKE: u16 = 1 << 13;

    /// That nothing is there can be certain.
    const EXACT: u16 = 1 << 14;

    const ANY_WP: u16 = Traps::WP | Traps::PERHAPS_WP;

    #[inline]
    fn is(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    #[inline]
    fn set(self, bits: u16) -> Traps {
        Traps(self.0 | bits)
    }

    #[inline]
    fn clear(self, bits: u16) -> Traps {
        Traps(self.0 & !bits)
    }

    /// The bit that says that a page is there, where that can be certain.
    fn there(self) -> u16 {
        if self.is(Traps::TRACKED) { Traps::THERE } else { 0 }
    }

    /// Nobody keeps track of whether a page is there.
    pub(super) fn untracked(self) -> Traps {
        self.clear(Traps::THERE | Traps::HOLE | Traps::TRACKED | Traps::EXACT)
    }

    /// The bit that says that nothing is there, where that can be certain.
    fn hole(self) -> u16 {
        if self.is(Traps::EXACT) { Traps::HOLE } else { 0 }
    }

    /// Modes and features that the page is registered with.
    pub(super) fn flags(self) -> UffdFlags {
        UffdFlags((self.0 & Traps::REGISTERED) as u8)
    }

    fn registered(self) -> bool {
        self.flags().modes() != UffdFlags::NONE
    }

    /// True when a store to a protected page waits.
    fn traps_stores(self) -> bool {
        self.flags().has(UffdFlags::WP) && !self.flags().has(UffdFlags::ASYNC)
    }

    /// True when nothing is sure to stop the access.
    #[inline]
    pub(super) fn passes(self, write: bool) -> bool {
        const ANY: u16 = (UffdFlags::MISSING.0 | UffdFlags::WP.0) as u16 | Traps::POISON;
        !self.is(ANY) || self.ends(write).meets(Ends::WELL)
    }

    /// The ways in which an access may end that the mapping permits.
    pub(super) fn ends(self, write: bool) -> Ends {
        if self.is(Traps::POISON) {
            return Ends::BUS;
        }
        let stop = |way| if self.flags().has(UffdFlags::SIGBUS) { Ends::BUS } else { way };
        let mut ends = Ends::default();
        if self.flags().has(UffdFlags::MISSING) && !self.is(Traps::THERE) {
            ends.add(stop(Ends::MISSING));
            if self.is(Traps::HOLE) {
                return ends;
            }
        }
        // A copy of a file's page may be gone, and the file's page be seen again.
        if self.flags().has(UffdFlags::MINOR) && !self.is(Traps::THERE) {
            ends.add(stop(Ends::MINOR));
        }
        self.protected_ends(write, ends)
    }

    /// The same where a page of a file is seen: first the file, then the entry, then its protection.
    pub(super) fn ends_through(self, write: bool, file: Presence) -> Ends {
        if self.is(Traps::POISON) {
            return Ends::BUS;
        }
        let stop = |way| if self.flags().has(UffdFlags::SIGBUS) { Ends::BUS } else { way };
        let mut ends = Ends::default();
        let (missing, minor) = (self.flags().has(UffdFlags::MISSING), self.flags().has(UffdFlags::MINOR));
        if missing && file != Presence::There {
            ends.add(stop(Ends::MISSING));
        }
        if minor && file != Presence::Hole {
            ends.add(stop(Ends::MINOR));
        }
        let past_hole = file != Presence::There && !missing;
        let past_page = file != Presence::Hole && !(minor && self.is(Traps::HOLE));
        if past_hole || past_page { self.protected_ends(write, ends) } else { ends }
    }

    /// True when whether the file has the page makes a difference.
    #[inline]
    pub(super) fn watches_file(self) -> bool {
        self.flags().has(UffdFlags(UffdFlags::MISSING.0 | UffdFlags::MINOR.0))
    }

    /// `ends`, and what the protection of a page that is there makes possible.
    fn protected_ends(self, write: bool, mut ends: Ends) -> Ends {
        if write && self.traps_stores() && self.is(Traps::ANY_WP) {
            ends.add(if self.flags().has(UffdFlags::SIGBUS) { Ends::BUS } else { Ends::WP });
            if self.is(Traps::WP) {
                return ends;
            }
        }
        ends.or(Ends::WELL)
    }

    /// After an access that retired, when nothing else can have happened meanwhile.
    #[inline]
    pub(super) fn touched(self, write: bool) -> Traps {
        if self == Traps::NONE {
            return self;
        }
        let there = if self.is(Traps::TRACKED) { self.clear(Traps::HOLE).set(Traps::THERE) } else { self };
        if write && there.flags().has(UffdFlags::WP) { there.clear(Traps::ANY_WP) } else { there }
    }

    /// The same when it was a file's page: its entry may be gone again.
    #[inline]
    pub(super) fn touched_through(self, write: bool) -> Traps {
        let touched = self.touched(write);
        if self.is(Traps::THERE) { touched } else { touched.clear(Traps::THERE) }
    }

    /// A fault beside the page may have mapped what the file has.
    pub(super) fn perhaps_mapped(self) -> Traps {
        self.clear(Traps::HOLE)
    }

    /// The poison is gone, with a part of the file.
    pub(super) fn cured(self) -> Traps {
        self.clear(Traps::POISON | Traps::THERE | Traps::AWAKE)
    }

    /// Registered for write protection.
    pub(super) fn write_protects(self) -> bool {
        self.flags().has(UffdFlags::WP)
    }

    /// True when an access ends in `SIGBUS`.
    pub(super) fn poisoned(self) -> bool {
        self.is(Traps::POISON)
    }

    /// While or after an access is tried: its fault may have put something there, or taken an asynchronous protection
    /// away.
    pub(super) fn perhaps_touched(self, write: bool) -> Traps {
        let mut after = self;
        // A protected page is first put there, and then waited for.
        if !self.is(Traps::POISON) && !self.flags().has(UffdFlags::MISSING) {
            after = after.clear(Traps::HOLE);
        }
        let asynchronous = self.flags().has(UffdFlags::WP) && self.flags().has(UffdFlags::ASYNC);
        if write && asynchronous && self.is(Traps::WP) {
            after = after.clear(Traps::WP).set(Traps::PERHAPS_WP);
        }
        after
    }

    /// True when `PAGEMAP_SCAN` protects such a page.
    fn scanned(self, file: bool) -> bool {
        let wanted = [UffdFlags::WP, UffdFlags::ASYNC, UffdFlags::UNPOPULATED];
        wanted.into_iter().all(|f| self.flags().has(f) || file && f == UffdFlags::UNPOPULATED)
    }

    /// A truncation or a hole may have taken the protection of a page of a file away with the page.
    pub(super) fn perhaps_unprotected(self) -> Traps {
        if self.is(Traps::WP) { self.clear(Traps::WP).set(Traps::PERHAPS_WP) } else { self }
    }

    /// After an access that was stopped for this reason.
    pub(super) fn stopped(self, reason: Userfault) -> Traps {
        match reason {
            Userfault::Minor => self,
            Userfault::Missing => self.clear(Traps::THERE).set(self.hole()),
            Userfault::Wp => self.clear(Traps::PERHAPS_WP | Traps::HOLE).set(Traps::WP | self.there()),
        }
    }

    /// After the contents were dropped; `fresh` is what a new page has.
    pub(super) fn dropped(self, fresh: Traps) -> Traps {
        self.clear(Traps::ANY_WP | Traps::POISON | Traps::THERE | Traps::AWAKE).set(fresh.0)
    }

    /// After a stop at a page that is seen in a file.
    pub(super) fn stopped_through(self, reason: Userfault) -> Traps {
        match reason {
            Userfault::Minor | Userfault::Missing => self,
            Userfault::Wp => self.clear(Traps::PERHAPS_WP | Traps::HOLE).set(Traps::WP),
        }
    }

    /// After `MADV_DONTNEED` of a mapping of a file: protection is remembered there.
    pub(super) fn dropped_note_kept(self, fresh: Traps) -> Traps {
        // PAGEMAP_SCAN marks what is poisoned, too, and nothing takes that mark away.
        let scanned = self.is(Traps::POISON) && self.flags().has(UffdFlags::WP);
        self.dropped(fresh).set(self.0 & Traps::ANY_WP | if scanned { Traps::PERHAPS_WP } else { 0 })
    }

    /// Something that holds zeroes may be there, and somebody keeps track: `MADV_FREE` makes a difference.
    pub(super) fn may_be_lazy(self) -> bool {
        self.is(Traps::TRACKED) && !self.is(Traps::HOLE)
    }

    /// `MADV_FREE`: what is there may go at any time; the note that it was lost goes at once.
    pub(super) fn perhaps_dropped(self) -> Traps {
        self.clear(Traps::THERE | Traps::AWAKE | Traps::POISON)
    }

    /// The page of a child. What was never written need not have been copied.
    pub(super) fn child(self) -> Traps {
        let kept = if self.flags().has(UffdFlags::EVENT_FORK) { Traps::REGISTERED | Traps::ANY_WP } else { 0 };
        Traps(self.0 & (kept | Traps::POISON | Traps::HOLE | Traps::TRACKED | Traps::EXACT))
    }

    /// At the place that `mremap` has moved the page to: registered there only if the monitor hears of that.
    pub(super) fn moved(self) -> Traps {
        let moved = self.clear(Traps::AWAKE);
        if moved.flags().has(UffdFlags::EVENTS) { moved } else { moved.unregistered() }
    }

    /// After the userfaultfd was closed, or the page unregistered.
    pub(super) fn unregistered(self) -> Traps {
        self.clear(Traps::REGISTERED | Traps::ANY_WP)
    }

    /// What `pagemap` may say of write protection: `(it may be set, it may be clear)`.
    pub(super) fn shown(self) -> (bool, bool) {
        (self.is(Traps::ANY_WP | Traps::POISON), !self.is(Traps::WP))
    }
}

/// What the monitor puts where nothing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filling {
    /// `UFFDIO_COPY` of pages that begin with this number in the monitor's buffer, perhaps write-protected.
    Copy {
        /// Token.
        value: Token,
        /// `UFFDIO_COPY_MODE_WP`.
        wp: bool,
    },
    /// `UFFDIO_ZEROPAGE`.
    Zero,
    /// `UFFDIO_POISON`.
    Poison,
    /// `UFFDIO_CONTINUE`, perhaps write-protected.
    Continue {
        /// `UFFDIO_CONTINUE_MODE_WP`.
        wp: bool,
    },
}

/// What a call that has to do with userfaultfd does to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Uffd {
    /// `UFFDIO_REGISTER`.
    Register(UffdFlags),
    /// `UFFDIO_UNREGISTER`, and closing.
    Unregister,
    /// Puts something there, and perhaps wakes those who wait for it.
    /// Not once one of these calls has taken effect.
    Fill(Filling, bool, u8),
    /// `UFFDIO_WRITEPROTECT`.
    Protect(bool),
    /// `PAGEMAP_SCAN` with write protection: whether it is about whole huge pages.
    Scan(bool),
    /// An access is tried: whether it was a store.
    Touch(bool),
    /// The same at another page of the same huge page, if this is hugetlb memory.
    Beside(bool),
    /// `UFFDIO_MOVE`, at either place: what it leaves is worked out when it returns.
    Move,
}

impl Uffd {
    /// The state afterwards; `None` where the call cannot succeed.
    pub(super) fn apply(self, state: State) -> Option<State> {
        let old = state.traps;
        if state.perm.is_none() {
            return if matches!(self, Uffd::Fill(..) | Uffd::Move) { None } else { Some(state) };
        }
        let file = state.remembers();
        let traps = match self {
            Uffd::Register(new) if !registrable(&state, new) => return None,
            Uffd::Register(new) => register(old, new)?,
            Uffd::Unregister => old.unregistered(),
            Uffd::Fill(_, _, barred) if state.applied & barred != 0 => return None,
            Uffd::Fill(what, wakes, _) => return fill(state, what, wakes),
            Uffd::Protect(_) if !old.flags().has(UffdFlags::WP) => return None,
            // Guards have no protection.
            Uffd::Protect(true) | Uffd::Scan(_) if state.guard => old,
            Uffd::Protect(true) => protect(old, file),
            Uffd::Protect(false) => old.clear(Traps::ANY_WP),
            Uffd::Scan(_) if !old.scanned(file) => old,
            Uffd::Scan(whole) if state.of_hugetlb() => protect_what_is_there(old, whole),
            Uffd::Scan(_) => protect(old, file),
            // A page of the file may be mapped, whatever the process is registered for.
            Uffd::Touch(write) | Uffd::Beside(write) if state.of_hugetlb() && state.through().is_some() => {
                old.perhaps_touched(write).perhaps_mapped()
            }
            Uffd::Touch(write) => old.perhaps_touched(write),
            Uffd::Beside(write) if state.of_hugetlb() => old.perhaps_touched(write),
            Uffd::Beside(_) => return None,
            Uffd::Move => return None,
        };
        Some(State { traps, ..state }.while_lazy())
    }

    /// Filling waits for the monitor to read of what these calls have done.
    pub(super) fn bar(&mut self, cpus: u8) {
        if let Uffd::Fill(_, _, barred) = self {
            *barred = cpus;
        }
    }

    /// True when the memory cell behind the page is another one afterwards.
    pub(super) fn replaces(self) -> bool {
        matches!(self, Uffd::Fill(..) | Uffd::Move)
    }
}

/// Anonymous memory has no page cache and so no minor faults; of files only those of `tmpfs` and `hugetlbfs`. Some releases let any
/// mapping be write-protected, and a device is then one, too (A4).
fn registrable(state: &State, new: UffdFlags) -> bool {
    match state.base.file() {
        _ if state.of_hugetlb() => true,
        None => !new.has(UffdFlags::MINOR),
        Some(REMAPPED | FAULTED) => new.modes() == UffdFlags::WP,
        Some(file) => file == SHMEM,
    }
}

/// Memory of another userfaultfd is refused; what is registered with these modes already, and more, stays as it is.
fn register(old: Traps, new: UffdFlags) -> Option<Traps> {
    let flags = old.flags();
    if !old.registered() {
        return Some(old.set(u16::from(new.0)));
    }
    if flags.features() != new.features() {
        return None;
    }
    if flags.0 & new.modes().0 == new.modes().0 {
        return Some(old);
    }
    let kept = if new.has(UffdFlags::WP) { old } else { old.clear(Traps::ANY_WP) };
    Some(kept.clear(Traps::REGISTERED).set(u16::from(new.0)))
}

/// A page of a file may be behind an empty entry, so that is protected as well.
fn protect(old: Traps, file: bool) -> Traps {
    let certain = file || old.is(Traps::THERE) || old.flags().has(UffdFlags::UNPOPULATED);
    if old.is(Traps::POISON) || old.is(Traps::WP) || old.is(Traps::HOLE) && !certain {
        old
    } else if certain {
        old.clear(Traps::PERHAPS_WP).set(Traps::WP)
    } else {
        old.set(Traps::PERHAPS_WP)
    }
}

/// `PAGEMAP_SCAN` of hugetlb memory: what is not there was not written, and is not protected; nor is a part of a huge page.
fn protect_what_is_there(old: Traps, whole: bool) -> Traps {
    match old {
        _ if old.is(Traps::POISON | Traps::WP | Traps::HOLE) => old,
        _ if old.is(Traps::THERE) && whole => old.clear(Traps::PERHAPS_WP).set(Traps::WP),
        _ => old.set(Traps::PERHAPS_WP),
    }
}

impl Filling {
    fn wp(self) -> bool {
        matches!(self, Filling::Copy { wp: true, .. } | Filling::Continue { wp: true })
    }

    /// True when it goes to the file itself where one is shared.
    fn makes_file_page(self) -> bool {
        matches!(self, Filling::Copy { .. } | Filling::Zero)
    }

    /// True when it takes the place of a mark.
    fn replaces_marks(self, base: Base) -> bool {
        match self {
            Filling::Copy { .. } | Filling::Continue { .. } => true,
            Filling::Zero => matches!(base, Base::Shared(_)),
            Filling::Poison => false,
        }
    }
}

fn fill(state: State, what: Filling, wakes: bool) -> Option<State> {
    let old = state.traps;
    // There is no huge page of zeroes.
    if state.guard || what == Filling::Zero && state.of_hugetlb() {
        return None;
    }
    let marked = old.is(Traps::WP | Traps::POISON) && !what.replaces_marks(state.base);
    if !old.registered() || old.is(Traps::THERE) || marked || what.wp() && !old.flags().has(UffdFlags::WP) {
        return None;
    }
    let empty = old.clear(Traps::ANY_WP | Traps::POISON | Traps::HOLE).set(if wakes { Traps::AWAKE } else { 0 });
    let empty = empty.set(if what.wp() { Traps::WP } else { 0 });
    let own = |value| State { traps: empty.set(old.there()), ..state.written(value) };
    match (what, state.base) {
        (Filling::Continue { .. }, Base::Anon) => None,
        (Filling::Continue { .. }, base) if base.file() == Some(HUGETLB_ANON) => None,
        (Filling::Continue { .. }, _) => Some(State { traps: empty, ..state.zeroed() }),
        (Filling::Copy { .. } | Filling::Zero, Base::Shared(_)) => Some(State { traps: empty, ..state }),
        (Filling::Copy { value, .. }, _) => Some(own(value)),
        (Filling::Zero, _) => Some(own(0)),
        (Filling::Poison, _) => Some(State { traps: empty.set(Traps::POISON | old.hole()), ..state.zeroed() }),
    }
}

impl State {
    /// A page from here after it has moved to a place that is `to`: it comes without protection. Nothing when it cannot have
    /// moved.
    pub(super) fn moved_to(self, to: State) -> Option<State> {
        let takes = to.traps.registered() && !to.traps.is(Traps::THERE | Traps::WP | Traps::POISON);
        let stays = self.traps.is(Traps::HOLE | Traps::POISON);
        if !self.movable() || !to.movable() || stays || !takes {
            return None;
        }
        let traps = to.traps.clear(Traps::HOLE | Traps::ANY_WP).set(Traps::THERE | Traps::AWAKE);
        Some(State { traps, value: self.value, lazy: self.lazy, ..to }.while_lazy())
    }

    /// True where `UFFDIO_MOVE` works: writable anonymous memory.
    fn movable(&self) -> bool {
        self.base == Base::Anon && !self.of_hugetlb() && self.allows(true) && !self.guard
    }

    /// True when a page is surely there, or surely not, for a call that moves it.
    pub(super) fn surely_moves(&self, to: &State) -> bool {
        let there = self.movable() && self.traps.is(Traps::THERE) && !self.lazy;
        there
            && to.movable()
            && to.traps.registered()
            && to.traps.is(Traps::HOLE)
            && !to.traps.is(Traps::ANY_WP | Traps::POISON)
    }

    /// True when filling must succeed: no page, and for what does not replace marks no mark either; of a file, as far as
    /// it is asked.
    pub(super) fn must_take(&self, what: Filling, files: &super::file::Files) -> bool {
        let marked = self.traps.is(Traps::ANY_WP | Traps::POISON) && !what.replaces_marks(self.base);
        let file = match (self.base, what) {
            (Base::Shared(cell), _) if what.makes_file_page() => files.presence(cell) == Presence::Hole,
            _ => true,
        };
        self.traps.is(Traps::HOLE) && !marked && file && !self.guard
    }
}

impl Traps {
    /// True when nobody can wait for this page any more: it is there, and whoever put it there has woken everybody.
    pub(super) fn settled(self) -> bool {
        self.is(Traps::THERE) && self.is(Traps::AWAKE)
    }

    /// True when the page is registered in some mode.
    pub(super) fn armed(self) -> bool {
        self.registered()
    }
}
