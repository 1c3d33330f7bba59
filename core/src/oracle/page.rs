//! One page as user space could see it: the states it may be in, and what calls in flight do to them.

use crate::observe::Token;
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
    /// Its content; 0 where nothing is mapped.
    pub(super) value: Token,
}

impl State {
    /// Nothing is mapped.
    pub(super) const UNMAPPED: State = State { perm: None, applied: 0, value: 0 };

    /// True when the access is permitted.
    #[inline]
    pub(super) fn permits(self, write: bool) -> bool {
        match self.perm {
            Some(Perm::ReadWrite) => true,
            Some(Perm::Read) => !write,
            Some(Perm::None) | None => false,
        }
    }

    /// How an access ends that is made in this state.
    #[inline]
    pub(super) fn ends(self, write: bool) -> Ends {
        match self.perm {
            None => Ends::MAP_ERR,
            Some(_) if self.permits(write) => Ends::WELL,
            Some(_) => Ends::ACC_ERR,
        }
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
    /// Either fault.
    pub(super) const FAULT: Ends = Ends(6);
    /// Any way at all.
    pub(super) const ALL: Ends = Ends(7);

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

/// What a call in flight does to each page of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// `mmap`: whatever was there is gone, zeroes are there with this protection.
    Map(Perm),
    /// `munmap`: nothing is there.
    Unmap,
    /// `MADV_DONTNEED`: what is mapped becomes zero.
    Zero,
    /// `mprotect`: what is mapped gets this protection.
    Protect(Perm),
}

impl Effect {
    /// The state after the call has taken effect in `state`.
    #[inline]
    pub(super) fn apply(self, state: State, bit: u8) -> State {
        let applied = state.applied | bit;
        match self {
            Effect::Map(perm) => State { perm: Some(perm), applied, value: 0 },
            Effect::Unmap => State { perm: None, applied, value: 0 },
            Effect::Zero => State { applied, value: 0, ..state },
            Effect::Protect(perm) => State { perm: state.perm.map(|_| perm), applied, ..state },
        }
    }

    /// True when the memory cell behind the page is another one afterwards.
    #[inline]
    pub(super) fn replaces(self) -> bool {
        !matches!(self, Effect::Protect(_))
    }

    /// True when it makes or fills holes.
    #[inline]
    pub(super) fn maps(self) -> bool {
        matches!(self, Effect::Map(_) | Effect::Unmap)
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
                insert(set, effect.apply(state, bit))?;
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
            changes.iter().any(|&(bit, effect)| from.applied & bit == 0 && effect.apply(from, bit) == state)
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

/// The cells of a page, each named by the replacing calls that have taken effect in it.
#[derive(Clone, Copy)]
struct Cells {
    /// Bits of the calls that replace the cell.
    replacing: u8,
}

impl Cells {
    fn of(changes: &Changes) -> Cells {
        Cells { replacing: changes.iter().filter(|(_, e)| e.replaces()).fold(0, |mask, (bit, _)| mask | bit) }
    }

    fn name(self, state: &State) -> u8 {
        state.applied & self.replacing
    }

    /// Names of the cells of all states that `choose` picks, as a bit set of the 16 possible names.
    fn names(self, set: &Reach, choose: impl Fn(&State) -> bool) -> u16 {
        set.iter().filter(|s| choose(s)).fold(0, |names, s| names | 1 << (self.name(s) & 15))
    }

    fn is_in(self, names: u16, state: &State) -> bool {
        state.perm.is_some() && names & (1 << (self.name(state) & 15)) != 0
    }
}

/// Keeps of a closed set what agrees with a load of `value`. The caller has checked that something does.
pub(super) fn loaded(set: &mut Reach, changes: &Changes, value: Token) {
    if changes.is_empty() {
        set.retain(|s| s.permits(false) && s.value == value);
        return;
    }
    let cells = Cells::of(changes);
    let names = cells.names(set, |s| s.permits(false) && s.value == value);
    if names.count_ones() == 1 {
        set.retain(|s| !cells.is_in(names, s) || s.value == value);
    }
}

/// Makes of a closed set what it is after a store of `value`. The caller has checked that something permits it.
pub(super) fn stored(set: &mut Reach, changes: &Changes, value: Token) -> Result<(), Overflow> {
    if changes.is_empty() {
        set.retain(|s| s.permits(true));
    }
    let cells = Cells::of(changes);
    let names = cells.names(set, |s| s.permits(true));
    let certain = names.count_ones() == 1;
    for i in 0..set.len() {
        if !cells.is_in(names, &set[i]) {
            continue;
        }
        if certain {
            set[i].value = value;
        } else {
            let hit = State { value, ..set[i] };
            insert(set, hit)?;
        }
    }
    dedup(set);
    Ok(())
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
