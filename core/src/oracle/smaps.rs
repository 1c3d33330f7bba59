//! What `smaps` may say: sums that agree with each other, and with what must be in memory or swapped out.
//!
//! Kept out: processes that have mapped files (whose pages are in memory or not, whoever maps them) or hugetlb memory, which
//! smaps counts apart; moments at which another call is under way. What the kernel does by itself meanwhile only moves a page from one sum to
//! another.

use super::space::Spot;
use super::{Oracle, OracleViolation, broken};
use crate::observe::{PSS_PAGE, Smaps};
use crate::program::{Case, OpCode};
use crate::rule::Rule;

impl Oracle {
    /// Judges what `smaps` said of a process.
    pub(super) fn smaps(&self, case: &Case, op: u32, proc: u8, sums: &Smaps) -> Result<(), OracleViolation> {
        let wrong = |on: &'static str, expected: u64, found: u64| {
            let mut violation = broken(Rule::OracleSmaps);
            let e = &mut violation.evidence;
            (e.cpu, e.proc) = (Some(Self::cpu_of(case, op) as u8), Some(proc));
            (e.on, e.expected, e.found) = (Some(on), Some(expected), Some(found));
            Err(violation)
        };
        let [rss, swap] = [sums.rss, sums.swap].map(u64::from);
        if sums.shared + sums.private != sums.rss {
            return wrong("Shared and Private are not Rss", rss, u64::from(sums.shared + sums.private));
        }
        if sums.pss > rss * PSS_PAGE || sums.swap_pss > swap * PSS_PAGE || sums.locked > sums.pss {
            return wrong("a share is more than the whole", rss * PSS_PAGE, sums.pss);
        }
        if sums.referenced > sums.rss || sums.anonymous > sums.rss || sums.lazyfree > sums.anonymous {
            return wrong("a part is more than the whole", rss, u64::from(sums.referenced.max(sums.anonymous)));
        }
        let p = &self.procs[usize::from(proc)];
        let Some(flight) = self.flight(case, op) else { return Ok(()) };
        // Nobody else was seen doing anything since the call began.
        let alone = self.now == flight.began + 1 && self.flights.iter().flatten().count() == 1;
        if !alone || p.exiting || p.files || p.hugetlb || p.devices {
            return Ok(());
        }
        if sums.lazyfree != 0 && !case.ops.iter().any(|op| op.code == OpCode::Free) {
            return wrong("LazyFree without MADV_FREE", 0, u64::from(sums.lazyfree));
        }
        let Some((least, most)) = self.pages(proc) else { return Ok(()) };
        if rss + swap < least {
            return wrong("pages with contents are neither in Rss nor in Swap", least, rss + swap);
        }
        if rss + swap > most {
            return wrong("more than is mapped", most, rss + swap);
        }
        if sums.locked != 0 && !p.locks.any() {
            return wrong("Locked, and nothing is", 0, sums.locked);
        }
        Ok(())
    }

    /// How many pages of a process have contents for certain, and how many may be mapped. Nothing when that is open.
    fn pages(&self, proc: u8) -> Option<(u64, u64)> {
        let space = &self.procs[usize::from(proc)].space;
        let (mut least, mut most) = (0, 0);
        for (region, held) in (0..).zip(space.lens()) {
            for page in 0..held {
                let spot = Spot { region, page };
                let states = space.states(spot)?;
                let certain = space.lost(spot).is_none()
                    && states.iter().all(|s| s.perm.is_some() && !s.guard && !s.lazy && s.value != 0);
                least += u64::from(certain);
                most += u64::from(states.iter().any(|s| s.perm.is_some()));
            }
        }
        Some((least, most))
    }
}
