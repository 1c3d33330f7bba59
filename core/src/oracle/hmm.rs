//! What `hmm_range_fault()` tells the driver of a device that mirrors a process, when it is not to fault anything in: no more
//! than the process could do itself at that moment, without a fault.
//!
//! That nothing is there is always believed: what is swapped out or lent to a device is not. So is anything about memory
//! that may have failed. What is not there tells no notifier when a mapping comes or goes around it, so that the driver does
//! not walk again: while another call changes mappings, the page may be as it was when the driver walked past it.

use super::page::{Base, State};
use super::space::Spot;
use super::traps::Traps;
use super::violation::broken;
use super::{Oracle, OracleViolation};
use crate::config::{Config, Design};
use crate::observe::{HUGETLB_ANON, HmmPfn};
use crate::program::Perm;
use crate::rule::Rule;

impl Oracle {
    /// A driver was told this of a page.
    pub(super) fn snapshot(
        &self,
        config: &Config,
        (proc, spot): (u8, Spot),
        seen: HmmPfn,
        cpu: usize,
    ) -> Result<(), OracleViolation> {
        let p = &self.procs[usize::from(proc)];
        if !p.live || p.exiting || self.poisoning() || p.space.lost(spot).is_some() {
            return Ok(());
        }
        let nothing = matches!(seen, HmmPfn::Error | HmmPfn::None);
        let flight = self.flights.get(cpu).and_then(Option::as_ref);
        if nothing && flight.is_some_and(|f| f.contended || f.disturbed) {
            return Ok(());
        }
        let changes = self.changes_seen(proc, spot, cpu);
        // The design of 2019 copies a page when its write protection is resolved, be it by the end of a registration.
        let copies = config.uses(Design::ResolveCopies) && self.fresh != Traps::NONE;
        let right = |s: &State| {
            let readable = s.permits(false) && s.through().is_none_or(|cell| self.files.may_read(cell));
            // A page of a file that is mapped privately is copied before it is written. (Hugetlb memory of no file is a file
            // of its own here, and a huge page is there for more than the page that was stored to.)
            let of_file = !copies && matches!(s.base, Base::Private(cell) if cell.file() != HUGETLB_ANON);
            let writable = s.permits(true) && !of_file;
            match seen {
                HmmPfn::Error => s.perm.is_none_or(|p| p == Perm::None) || s.of_device(),
                HmmPfn::None => s.allows(false),
                HmmPfn::Zero => readable && s.through().is_none() && s.holds(0),
                HmmPfn::Page { write } | HmmPfn::Private { write } => readable && (writable || !write),
            }
        };
        if p.space.can_be(spot, &changes, right) {
            return Ok(());
        }
        Err(broken(Rule::OracleHmm).known(p.space.page(spot).known))
    }
}
