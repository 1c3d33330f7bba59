//! Invariants: what must hold inside, whatever the modelled kernel does.
//!
//! Every check is a pure function of the [`World`](crate::world::World) that says nothing or gives a [`Finding`]. When a check runs is
//! told by its row in [`crate::rule`]; who runs it are the primitives of [`crate::sched`] (at the release of a
//! page-table lock, at a free) and the executor of [`crate::run`] (at the return of an op, when nothing is in
//! flight, after the last exit). Checks that are part of a primitive, because the very access is wrong (an entry
//! touched without its lock, an accessor of the wrong kind), stand beside that primitive.
//!
//! The counts of the kernel are compared with ghost counts (see [`crate::phys`]), so each check costs as much as
//! was touched, not as much as exists.

mod cache;
mod counts;
mod hugetlb;
mod large;
mod leak;
mod mlock;
mod page_table_check;

pub use cache::{stale_mirror, stale_translation};
pub use counts::{anon_exclusive, mapcount, memcg, refcount, rss, swap_map};
pub use hugetlb::{hugetlb, hugetlb_leaks, shared_tables};
pub use large::deferred_split;
pub use leak::leaks;
pub use mlock::{locked_mapping, stranded};
pub use page_table_check::page_table_check;

use crate::rule::{Evidence, Rule};
use crate::site::Site;

/// A broken rule, before it is known on whose watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// Where the state went wrong, when that is known.
    pub cause: Option<Site>,
    /// What was seen.
    pub evidence: Evidence,
}
