//! Making a case small while it still shows what it shows.
//!
//! A greedy search: passes of simplifications, each kept when the predicate still holds, repeated until a whole
//! round keeps none. The result is then a local minimum: no single simplification of `passes` is left. Ops go
//! first, in chunks that get smaller (as in delta debugging) and then in pairs, because a pin without its unpin
//! or a fork without its child is often no case at all; the operands, the interruptions and the header follow.
//!
//! Taking an op away also takes its visits to sites away, so that the `nth` of an interruption may have to be
//! lowered in the same breath; removals are tried with both.
//!
//! The predicate is a closure: the command asks for the same rule at the same sites, tests ask for whatever
//! they like.

mod passes;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use ptefuzz_core::program::{Case, codec};

/// When to stop even though more could be tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most calls of the predicate.
    pub runs: u32,
    /// Most wall-clock time, looked at between calls. `None`: none.
    pub time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { runs: 200_000, time: Some(Duration::from_secs(9)) }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minimised {
    /// The smallest case that was met.
    pub case: Case,
    /// Calls of the predicate.
    pub runs: u32,
    /// True when no single simplification is left; false when a limit came first.
    pub complete: bool,
}

/// Searches for a smaller case for which `keep` is still true. `keep` is taken to be true for `case` itself, which is
/// normalised first, and must be deterministic.
pub fn minimize(case: &Case, limits: Limits, keep: impl FnMut(&Case) -> bool) -> Minimised {
    let mut best = case.clone();
    codec::normalize(&mut best);
    let mut search = Search {
        best,
        keep,
        tried: HashSet::new(),
        runs: 0,
        limits,
        end: limits.time.and_then(|t| Instant::now().checked_add(t)),
    };
    search.tried.insert(digest(&search.best));
    let mut complete = false;
    while !search.exhausted() {
        if !passes::round(&mut search) {
            complete = !search.exhausted();
            break;
        }
    }
    Minimised { case: search.best, runs: search.runs, complete }
}

/// The state of one search.
struct Search<F> {
    best: Case,
    keep: F,
    /// Digests of the cases that were tried: each is run once.
    tried: HashSet<u64>,
    runs: u32,
    limits: Limits,
    end: Option<Instant>,
}

impl<F: FnMut(&Case) -> bool> Search<F> {
    fn exhausted(&self) -> bool {
        self.runs >= self.limits.runs || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Takes `candidate` as the new best when the predicate holds for it.
    fn offer(&mut self, candidate: Case) -> bool {
        if self.exhausted() || !codec::is_normal(&candidate) || !self.tried.insert(digest(&candidate)) {
            return false;
        }
        self.runs += 1;
        let kept = (self.keep)(&candidate);
        if kept {
            self.best = candidate;
        }
        kept
    }

    /// Offers the best case after `change`.
    fn with(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.offer(candidate)
    }
}

/// A digest for telling cases apart within one search.
fn digest(case: &Case) -> u64 {
    let mut hasher = DefaultHasher::new();
    case.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
