//! When the invariants are asked: at the release of page-table locks, at the return of an op, and when nothing is
//! in flight.

use super::{Cpu, Sim, Site};
use crate::config::MAX_PROCS;
use crate::invariant::{self, Finding};
use crate::mm::Life;
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};

impl Sim {
    /// Records a finding as this CPU's violation.
    pub fn found(&mut self, cpu: u8, f: Finding) {
        let site = self.ctl.cpus[cpu as usize].site;
        self.violate_at(cpu, f.rule, [f.cause, site], f.evidence);
    }

    /// No PTE-table lock is held any more: the entries that changed are as others will find them.
    #[inline(never)]
    pub(super) fn check_ptl_released(&mut self, cpu: u8) {
        for i in 0..self.ctl.touched_ptl.len() {
            // What was a folio when it was queued may be a page of a large one by now.
            let pfn = self.w.mem.page_folio(self.ctl.touched_ptl[i]);
            self.note_parted(cpu, pfn);
            let found = invariant::mapcount(&self.w, pfn).or_else(|| invariant::anon_exclusive(&self.w, pfn));
            if let Some(f) = found {
                self.found(cpu, f);
                break;
            }
        }
        self.ctl.touched_ptl.clear();
    }

    /// Remembers where a folio's mapcount and the number of its entries parted.
    fn note_parted(&mut self, cpu: u8, pfn: Pfn) {
        let c = &self.ctl.cpus[cpu as usize];
        let (site, op) = (c.site.unwrap_or(Site::OpStart), c.op.unwrap_or(0));
        let mappings = self.w.mem.mappings(pfn);
        let f = &mut self.w.mem.folios[pfn as usize];
        if f.mapcount == mappings {
            f.ghost.parted = None;
        } else if f.ghost.parted.is_none() {
            f.ghost.parted = Some((site, op));
        }
    }

    /// An op returns: nothing it took may be left, and nothing it weakened may still be cached as it was.
    pub fn check_return(&mut self, cpu: u8) {
        let c = &self.ctl.cpus[cpu as usize];
        if let Some(class) = c.held.last(None) {
            let e = Evidence { what: Some(class.name()), ..Evidence::default() };
            self.violate(cpu, Rule::HeldAtReturn, e);
        } else if c.notifiers_open != 0 {
            self.violate(cpu, Rule::NotifierUnbalanced, Evidence::default());
        }
        if !self.ctl.weakened.is_empty() {
            self.check_weakened(cpu);
        }
        if self.ctl.quiescent() {
            self.check_quiescent(cpu);
        }
    }

    fn check_weakened(&mut self, cpu: u8) {
        let mut list = std::mem::take(&mut self.ctl.weakened);
        let others = list.iter().any(|e| e.cpu != cpu);
        for e in list.iter().filter(|e| e.cpu == cpu) {
            // Somebody else may be between the change and the flush of the same entry: then it is judged there.
            if others && list.iter().any(|o| o.mm == e.mm && o.vpn == e.vpn && o.cpu != cpu) {
                continue;
            }
            let found = invariant::stale_translation(&self.w, e.mm, e.vpn);
            if let Some(f) = found.or_else(|| invariant::stale_mirror(&self.w, e.mm, e.vpn)) {
                self.found(cpu, f);
                break;
            }
        }
        list.retain(|e| e.cpu != cpu);
        self.ctl.weakened = list;
    }

    fn check_quiescent(&mut self, cpu: u8) {
        for i in 0..self.ctl.touched_folios.len() {
            let page = self.ctl.touched_folios[i];
            self.w.mem.folios[page as usize].ghost.touched = false;
            let pfn = self.w.mem.page_folio(page);
            let found = invariant::refcount(&self.w, pfn).or_else(|| invariant::deferred_split(&self.w, pfn));
            if let Some(f) = found.or_else(|| invariant::stranded(&self.w, pfn)) {
                self.found(cpu, f);
            }
        }
        self.ctl.touched_folios.clear();
        for i in 0..self.ctl.touched_slots.len() {
            let slot = self.ctl.touched_slots[i];
            self.w.swap.slots[slot as usize].touched = false;
            if let Some(f) = invariant::swap_map(&self.w, slot) {
                self.found(cpu, f);
            }
        }
        self.ctl.touched_slots.clear();
        if std::mem::take(&mut self.w.hugetlb.touched)
            && let Some(f) = invariant::hugetlb(&self.w).or_else(|| invariant::shared_tables(&self.w))
        {
            self.found(cpu, f);
        }
        if std::mem::take(&mut self.w.memcgs.touched)
            && let Some(f) = invariant::memcg(&self.w)
        {
            self.found(cpu, f);
        }
        for mm in 0..MAX_PROCS as u8 {
            if std::mem::take(&mut self.w.mms[mm as usize].touched)
                && let Some(f) = invariant::rss(&self.w, mm)
            {
                self.found(cpu, f);
            }
        }
    }

    /// `mlock.freed`. Who unlocks a mapping and who takes its pages away may miss each other
    /// (`mm/page_alloc.c: free_pages_prepare()` says so): when nobody disturbed anybody, they may not.
    pub(super) fn check_mlocked_at_free(&mut self, cpu: u8, folio: Pfn) {
        let mlocked = self.w.mem.folios[folio as usize].flags.has(Flags::MLOCKED);
        let alone = |s: &Sim| s.ctl.cpus.iter().enumerate().all(|(i, c)| i == usize::from(cpu) || c.op.is_none());
        if mlocked && self.ctl.interrupted == 0 && alone(self) {
            self.violate(cpu, Rule::MlockFreed, Evidence { pfn: Some(folio), ..Evidence::default() });
        }
    }

    /// Is the folio held by nothing but its mappings (and perhaps its swap cache slot)?
    pub fn only_mapped(&self, pfn: Pfn) -> bool {
        let f = self.folio(pfn);
        let mappings = self.w.mem.mappings(pfn);
        f.flags.has(Flags::ALLOCATED)
            && f.ghost.pins == 0
            // A KSM folio may be mapped where its stable node does not lead, until the next scan.
            && !f.flags.has(Flags::KSM)
            && !f.flags.has(Flags::HUGETLB)
            && f.locked_by == 0
            && mappings > 0
            && f.refcount == mappings + self.w.mem.cache_refs(pfn)
    }
}

impl Cpu {
    /// True when nobody else is in an op and nothing has interrupted this case so far, so that a failure to make
    /// progress cannot be somebody else's doing.
    pub fn undisturbed(&self) -> bool {
        let s = self.s();
        s.ctl.interrupted == 0 && s.ctl.cpus.iter().enumerate().all(|(i, c)| i == self.id as usize || c.op.is_none())
    }

    /// True when the process exists and its ops may begin.
    pub fn alive(&self, proc: u8) -> bool {
        self.s().w.mms[proc as usize].life == Life::Alive
    }
}
