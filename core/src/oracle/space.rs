//! The address space of a process as the oracle sees it: pages by window, and the sets of those in doubt.

use super::effect::Effect;
use super::lost::Lost;
use super::page::{Base, Changes, Known, Overflow, Page, Pool, Reach, STATES, Set, State, close, insert};
use super::traps::Traps;
use crate::config::{Geometry, MAX_REGIONS};
use crate::observe::Token;
use crate::program::Map;

/// A page of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    /// Mapping window.
    pub(super) region: u8,
    /// Page in it.
    pub(super) page: u32,
}

/// Pages of one address space. Buffers are kept over [`Space::clear`].
#[derive(Default)]
pub(super) struct Space {
    /// Pages of each window, up to the last that was ever mapped.
    windows: [Vec<Page>; MAX_REGIONS],
    /// Sets of the pages that are in doubt.
    sets: Vec<Set>,
    /// Sets that no page uses.
    unused: Vec<u32>,
    /// Pages that are or may be lost to a memory failure.
    lost: Vec<(Spot, Lost)>,
}

impl Space {
    /// Forgets every page.
    pub(super) fn clear(&mut self) {
        self.windows.iter_mut().for_each(Vec::clear);
        self.sets.clear();
        self.unused.clear();
        self.lost.clear();
    }

    /// Becomes a copy of `other`.
    pub(super) fn copy(&mut self, other: &Space) {
        for (mine, theirs) in self.windows.iter_mut().zip(&other.windows) {
            mine.clone_from(theirs);
        }
        self.sets.clone_from(&other.sets);
        self.unused.clone_from(&other.unused);
        self.lost.clone_from(&other.lost);
    }

    /// True when no page is lost, nor may be.
    #[inline]
    pub(super) fn nothing_lost(&self) -> bool {
        self.lost.is_empty()
    }

    /// Whether a page is lost.
    pub(super) fn lost(&self, spot: Spot) -> Option<Lost> {
        self.lost.iter().find(|(s, _)| *s == spot).map(|(_, lost)| *lost)
    }

    /// Notes that a page is or may be lost.
    pub(super) fn lose(&mut self, spot: Spot, lost: Lost) {
        match self.lost.iter_mut().find(|(s, _)| *s == spot) {
            Some(entry) => entry.1 = lost,
            None => self.lost.push((spot, lost)),
        }
    }

    /// What was lost for sure may have been replaced.
    pub(super) fn doubt_losses(&mut self) {
        self.lost.iter_mut().for_each(|(_, lost)| *lost = Lost::Maybe);
    }

    /// Forgets that a page was lost.
    pub(super) fn heal(&mut self, spot: Spot) {
        self.lost.retain(|(s, _)| *s != spot);
    }

    /// A frame that holds one of `values` is failing: every page that may share it may be lost. `None`: nobody knows what it
    /// holds, so any may. (Pages of files are lost with the file.)
    pub(super) fn condemn(&mut self, values: Option<&[Token]>) {
        for region in 0..self.windows.len() {
            for page in 0..self.windows[region].len() as u32 {
                let spot = Spot { region: region as u8, page };
                let own = |s: &State| s.perm.is_some() && s.through().is_none();
                let shares = match (self.states(spot), values) {
                    (Some(states), Some(values)) => states.iter().any(|s| own(s) && values.contains(&s.value)),
                    (Some(states), None) => states.iter().any(own),
                    (None, _) => true,
                };
                if shares && self.lost(spot).is_none() {
                    self.lost.push((spot, Lost::Maybe));
                }
            }
        }
    }

    /// Maps what a case has mapped from the start; `now` is when that was.
    pub(super) fn map(&mut self, geometry: Geometry, map: &Map, now: u32, fresh: Traps, promises: bool) {
        let end = map.pages.min(geometry.region_pages());
        self.reach(map.region, end);
        if let Some(window) = self.windows.get_mut(usize::from(map.region)) {
            for (page, slot) in (0..end).zip(window) {
                let pool = Pool::of(map.backing, promises);
                let state = State { base: Base::of(map.backing, page), traps: fresh, pool, ..State::mapped(map.perm) };
                *slot = Page { known: Known::One(state), stored: 0, mapped: now };
            }
        }
    }

    /// Makes a window hold at least `end` pages.
    pub(super) fn reach(&mut self, region: u8, end: u32) {
        if let Some(window) = self.windows.get_mut(usize::from(region))
            && window.len() < end as usize
        {
            window.resize(end as usize, Page::UNMAPPED);
        }
    }

    /// Pages that each window holds.
    pub(super) fn lens(&self) -> [u32; MAX_REGIONS] {
        std::array::from_fn(|r| self.windows[r].len() as u32)
    }

    /// Becomes what a child of this process begins with: see [`State::child`].
    pub(super) fn become_child(&mut self) {
        for page in self.windows.iter_mut().flatten() {
            let doubtful = match page.known {
                Known::One(state) => state.may_be_cured_in_a_child(),
                Known::Many(at) => self.sets[at as usize].iter().any(|s| s.may_be_cured_in_a_child()),
                Known::Any => false,
            };
            if doubtful {
                if let Known::Many(at) = page.known {
                    self.unused.push(at);
                }
                page.known = Known::Any;
            }
            if let Known::One(state) = &mut page.known {
                *state = state.child();
            }
        }
        for set in &mut self.sets {
            let mut children = Set::new();
            set.iter().map(|s| s.child()).for_each(|s| {
                if !children.contains(&s) {
                    children.push(s);
                }
            });
            *set = children;
        }
    }

    /// Every page is unregistered: the userfaultfds are closed.
    pub(super) fn released(&mut self) {
        let release = |s: &mut State| s.traps = s.traps.unregistered();
        for page in self.windows.iter_mut().flatten() {
            if let Known::One(state) = &mut page.known {
                release(state);
            }
        }
        self.sets.iter_mut().flatten().for_each(release);
    }

    /// Changes every state that a page may be in, of one window or of all.
    pub(super) fn each_state(&mut self, region: Option<u8>, change: impl Fn(&mut State)) {
        let windows =
            self.windows.iter_mut().enumerate().filter(|(r, _)| region.is_none_or(|only| *r == usize::from(only)));
        for page in windows.flat_map(|(_, w)| w) {
            match &mut page.known {
                Known::One(state) => change(state),
                Known::Many(at) => self.sets[*at as usize].iter_mut().for_each(&change),
                Known::Any => {}
            }
        }
    }

    /// The page after `spot` among those that it holds, or the first.
    pub(super) fn after(&self, spot: Option<Spot>) -> Option<Spot> {
        let mut next = spot.map_or(Spot { region: 0, page: 0 }, |s| Spot { page: s.page + 1, ..s });
        while next.page >= self.windows.get(usize::from(next.region)).map_or(0, |w| w.len() as u32) {
            next = Spot { region: next.region + 1, page: 0 };
            if usize::from(next.region) >= MAX_REGIONS {
                return None;
            }
        }
        Some(next)
    }

    /// A page.
    #[inline]
    pub(super) fn page(&self, spot: Spot) -> &Page {
        self.windows.get(usize::from(spot.region)).and_then(|w| w.get(spot.page as usize)).unwrap_or(&Page::UNMAPPED)
    }

    /// A page that the window holds.
    #[inline]
    pub(super) fn page_mut(&mut self, spot: Spot) -> Option<&mut Page> {
        self.windows.get_mut(usize::from(spot.region))?.get_mut(spot.page as usize)
    }

    /// States that a page is kept in. `None`: any.
    pub(super) fn states(&self, spot: Spot) -> Option<&[State]> {
        match &self.page(spot).known {
            Known::One(state) => Some(std::slice::from_ref(state)),
            Known::Many(set) => self.sets.get(*set as usize).map(|s| s.as_slice()),
            Known::Any => None,
        }
    }

    /// States that a page can be in while `changes` are in flight. `None`: any. A set is large, and moving it costs more than
    /// making it: whoever only wants to know whether a state is in it asks [`Space::can_be`].
    pub(super) fn reachable(&self, spot: Spot, changes: &Changes) -> Option<Reach> {
        let mut reach = Some(Reach::new());
        let set = reach.as_mut()?;
        if self.fits_into(set, spot, changes) { reach } else { None }
    }

    /// True when a page can be in a state that `is` so while `changes` are in flight, or in any.
    pub(super) fn can_be(&self, spot: Spot, changes: &Changes, is: impl Fn(&State) -> bool) -> bool {
        if changes.is_empty() {
            return self.states(spot).is_none_or(|s| s.iter().any(is));
        }
        let mut set = Reach::new();
        !self.fits_into(&mut set, spot, changes) || set.iter().any(is)
    }

    /// Adds the states that a page can be in while `changes` are in flight. False when they are unknown, or too many.
    #[inline]
    fn fits_into(&self, set: &mut Reach, spot: Spot, changes: &Changes) -> bool {
        self.states(spot).is_some_and(|s| set.try_extend_from_slice(s).is_ok()) && close(set, changes).is_ok()
    }

    /// Keeps these states of a page, or none in particular when they are too many (or there are none, which no
    /// caller makes on purpose).
    pub(super) fn keep(&mut self, spot: Spot, states: Option<&[State]>) {
        let Some(page) = self.page_mut(spot) else { return };
        let old = page.known;
        let new = match (states, old) {
            (Some([one]), _) => Known::One(*one),
            (Some(states @ [_, ..]), Known::Many(at)) if states.len() <= STATES => {
                self.sets[at as usize] = states.iter().copied().collect();
                return;
            }
            (Some(states @ [_, ..]), _) if states.len() <= STATES => Known::Many(self.add(states)),
            _ => Known::Any,
        };
        if let Known::Many(at) = old {
            self.unused.push(at);
        }
        if let Some(page) = self.page_mut(spot) {
            page.known = new;
        }
    }

    /// Puts a set into the table.
    fn add(&mut self, states: &[State]) -> u32 {
        let set = states.iter().copied().collect();
        match self.unused.pop() {
            Some(at) => {
                self.sets[at as usize] = set;
                at
            }
            None => {
                self.sets.push(set);
                self.sets.len() as u32 - 1
            }
        }
    }

    /// A child's page may have been copied from any of these states of its parent's.
    pub(super) fn may_be(&mut self, spot: Spot, parent: Option<&Reach>) {
        self.reach(spot.region, spot.page + 1);
        let mut set = Reach::new();
        let joined = match (self.states(spot), parent) {
            (Some(mine), Some(theirs)) => {
                let copies = theirs.iter().map(|s| s.child());
                mine.iter().copied().chain(copies).try_for_each(|s| insert(&mut set, State { applied: 0, ..s }))
            }
            _ => Err(Overflow),
        };
        self.keep(spot, joined.ok().map(|()| set.as_slice()));
    }

    /// Notes when a page was made or lost, once `effect` has taken effect.
    pub(super) fn stamp(&mut self, spot: Spot, effect: Effect, began: u32) {
        let Some(page) = self.page_mut(spot) else { return };
        match effect {
            Effect::Map(..) => (page.stored, page.mapped) = (0, began),
            Effect::Unmap | Effect::Grow(..) => (page.stored, page.mapped) = (0, 0),
            Effect::Zero(_) | Effect::Free | Effect::Guard(_) | Effect::Empty(_) => page.stored = 0,
            Effect::Protect(_)
            | Effect::Cut(..)
            | Effect::Hole(..)
            | Effect::Unguard
            | Effect::Arrive
            | Effect::Uffd(_) => {}
        }
    }
}
