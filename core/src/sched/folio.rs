//! Folios: references, the reverse map's counts, and giving them back.
//!
//! These are the inline functions of `include/linux/{mm,rmap,page_ref}.h`: atomic, so without a site of their own.

use super::{Cpu, Lock, Sim};
use crate::config::Design;
use crate::mm::VmaId;
use crate::phys::{Flags, Folio, Pfn, Slot, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::trace::{Event, Note};

impl Sim {
    /// States a folio's counts in the trace.
    #[inline]
    pub(crate) fn log_counts(&mut self, pfn: Pfn) {
        if self.trace.is_some() {
            self.record_counts(pfn);
        }
    }

    #[cold]
    fn record_counts(&mut self, pfn: Pfn) {
        if pfn != ZERO_PFN {
            let f = &self.w.mem.folios[pfn as usize];
            let event = Event::Counts { pfn, mapcount: f.mapcount, refcount: f.refcount };
            self.log(|| event);
        }
    }

    /// `free_unref_folios()`: the last reference is gone.
    fn free_folio(&mut self, cpu: u8, pfn: Pfn) {
        let f = &self.w.mem.folios[pfn as usize];
        let (pins, swapcache, locked, mapped) =
            (f.ghost.pins, f.flags.has(Flags::SWAPCACHE), f.locked_by != 0, f.mapcount != 0);
        let in_use = pins != 0
            || swapcache
            || f.mapping != 0
            || locked
            || mapped
            || f.ghost.pmds != 0
            || f.ghost.migration_pmds != 0;
        let pages = pfn..pfn + f.nr_pages();
        for page in pages {
            let g = self.w.mem.folios[page as usize].ghost;
            let e = Evidence { pfn: Some(page), ..Evidence::default() };
            if in_use || g.entries != 0 || g.migration_entries != 0 {
                self.violate(cpu, Rule::FreedInUse, Evidence { found: Some(u64::from(g.entries)), ..e });
            } else if g.tlbs != 0 {
                self.violate(cpu, Rule::TlbFreedFrame, e);
            } else if g.mirrors != 0 {
                self.violate(cpu, Rule::DeviceFreedFrame, e);
            }
        }
        self.check_mlocked_at_free(cpu, pfn);
        // mem_cgroup_uncharge()
        let memcg = self.w.mem.folios[pfn as usize].memcg;
        let pages = self.folio(pfn).nr_pages() as i32;
        self.w.memcgs.charge(memcg, -pages);
        if self.w.mem.folios[pfn as usize].flags.has(Flags::HUGETLB) {
            return self.free_huge_folio(pfn);
        }
        self.w.mem.free_folio(pfn);
    }

    pub(super) fn add_refs(&mut self, pfn: Pfn, n: i32) {
        if pfn == ZERO_PFN {
            return;
        }
        self.w.mem.folios[pfn as usize].refcount += n;
        self.touch_folio(pfn);
        self.log_counts(pfn);
    }

    pub(super) fn sub_refs(&mut self, cpu: u8, pfn: Pfn, n: i32) {
        if pfn == ZERO_PFN {
            return;
        }
        let f = &mut self.w.mem.folios[pfn as usize];
        f.refcount -= n;
        let left = f.refcount;
        self.touch_folio(pfn);
        self.log_counts(pfn);
        if left < 0 {
            self.violate(cpu, Rule::BugRefUnderflow, Evidence { pfn: Some(pfn), ..Evidence::default() });
        } else if left == 0 {
            self.free_folio(cpu, pfn);
        }
    }

    /// `__folio_add_rmap()` and `__folio_remove_rmap()` of one PTE: counts a mapping of a page.
    fn add_mapcount(&mut self, page: Pfn, n: i32) {
        let f = &mut self.w.mem.folios[page as usize];
        if f.large() {
            return self.add_large_mapcount(page, n);
        }
        f.mapcount += n;
        self.touch_folio(page);
        self.log_counts(page);
    }

    /// `swap_entry_range_free()`: gives a slot that nobody uses back, with its charge.
    pub(crate) fn release_slot(&mut self, slot: u32) {
        if self.w.swap.release_if_unused(slot) {
            let memcg = std::mem::take(&mut self.w.swap.slots[slot as usize].memcg);
            self.w.memcgs.charge_swap(memcg, -1);
        }
    }

    /// What the kernel knows of a page, and of its folio if it is the head.
    pub(crate) fn folio(&self, pfn: Pfn) -> &Folio {
        &self.w.mem.folios[pfn as usize]
    }
}

impl Sim {
    /// `SetPageAnonExclusive()`. Before 5.19 there is no such bit.
    #[inline]
    pub fn set_anon_exclusive(&mut self, pfn: Pfn) {
        if self.w.config.uses(Design::CowByExclusive) {
            self.w.mem.folios[pfn as usize].flags.set(Flags::ANON_EXCLUSIVE);
        }
    }
}

impl Cpu {
    /// A copy of what the kernel knows of a page, and of its folio if it is the head.
    #[inline]
    pub fn folio(&self, pfn: Pfn) -> Folio {
        *self.s().folio(pfn)
    }

    /// Sets flags.
    pub fn folio_set(&self, pfn: Pfn, flags: Flags) {
        self.s().w.mem.folios[pfn as usize].flags.set(flags);
    }

    /// Clears flags.
    pub fn folio_clear(&self, pfn: Pfn, flags: Flags) {
        self.s().w.mem.folios[pfn as usize].flags.clear(flags);
    }

    /// `folio_test_*()`.
    #[inline]
    pub fn folio_test(&self, pfn: Pfn, flags: Flags) -> bool {
        self.s().folio(pfn).flags.has(flags)
    }

    /// `folio_ref_count()`.
    pub fn folio_ref_count(&self, pfn: Pfn) -> i32 {
        self.s().folio(pfn).refcount
    }

    /// `folio_mapcount()`.
    pub fn folio_mapcount(&self, pfn: Pfn) -> i32 {
        self.s().folio(pfn).mapcount
    }

    /// `folio_mapped()`.
    pub fn folio_mapped(&self, pfn: Pfn) -> bool {
        self.folio_mapcount(pfn) > 0
    }

    /// `page_folio()`: the folio that a page belongs to.
    #[inline]
    pub fn page_folio(&self, page: Pfn) -> Pfn {
        self.s().w.mem.page_folio(page)
    }

    /// `PageAnonExclusive()` of a page.
    #[inline]
    pub fn page_anon_exclusive(&self, page: Pfn) -> bool {
        self.s().folio(page).flags.has(Flags::ANON_EXCLUSIVE)
    }

    /// `SetPageAnonExclusive()` of a page.
    pub fn set_page_anon_exclusive(&self, page: Pfn) {
        self.s().set_anon_exclusive(page);
    }

    /// Allocates a small movable folio with one reference. `None` when no frame is free.
    pub fn folio_alloc(&self) -> Option<Pfn> {
        let s = &mut *self.s();
        let pin = s.ctl.cpus[self.id as usize].memalloc_pin;
        let Some(pfn) = (if pin { s.w.mem.alloc_unmovable(0) } else { s.w.mem.alloc() }) else {
            s.note(self.id, Note::OutOfMemory, None, 0, 0);
            return None;
        };
        s.add_refs(pfn, 1);
        Some(pfn)
    }

    /// Allocates a folio of a device's own memory with one reference. `None` when it is full.
    pub fn folio_alloc_device(&self, device: u8) -> Option<Pfn> {
        let s = &mut *self.s();
        let pfn = s.w.mem.alloc_device(device)?;
        s.add_refs(pfn, 1);
        Some(pfn)
    }

    /// `__isolate_free_page()` and what follows it: takes a free page off its list, with one reference. False when it is
    /// on none.
    pub fn folio_claim_free(&self, pfn: Pfn) -> bool {
        let s = &mut *self.s();
        let free = s.w.mem.take_off(pfn);
        if free {
            s.w.mem.claim(pfn);
            s.add_refs(pfn, 1);
        }
        free
    }

    /// `folio_get()`.
    #[inline]
    pub fn folio_get(&self, pfn: Pfn) {
        self.s().add_refs(pfn, 1);
    }

    /// `folio_try_get()`: false when the folio is free.
    pub fn folio_try_get(&self, pfn: Pfn) -> bool {
        let s = &mut *self.s();
        if pfn != ZERO_PFN && s.folio(pfn).refcount <= 0 {
            return false;
        }
        s.add_refs(pfn, 1);
        true
    }

    /// `folio_put()`.
    #[inline]
    pub fn folio_put(&self, pfn: Pfn) {
        self.s().sub_refs(self.id, pfn, 1);
    }

    /// `folio_ref_add()`.
    pub fn folio_ref_add(&self, pfn: Pfn, n: i32) {
        self.s().add_refs(pfn, n);
    }

    /// `folio_put_refs()`.
    pub fn folio_put_refs(&self, pfn: Pfn, n: i32) {
        self.s().sub_refs(self.id, pfn, n);
    }

    /// `folio_unlock()`.
    pub fn folio_unlock(&self, pfn: Pfn) {
        self.unlock(Lock::Folio(pfn));
    }

    /// `VM_BUG_ON_FOLIO(!folio_test_locked(folio))`.
    pub fn assert_folio_locked(&self, pfn: Pfn) {
        let locked = self.s().folio(pfn).locked_by != 0;
        self.bug_on(!locked, Rule::BugUnlocked, Evidence { pfn: Some(pfn), ..Evidence::default() });
    }

    /// `folio_mark_dirty()`.
    pub fn folio_mark_dirty(&self, pfn: Pfn) {
        if pfn != ZERO_PFN {
            self.folio_set(pfn, Flags::DIRTY);
        }
    }

    /// `folio_add_lru()`: at once; the per-CPU batches, which would hold a reference for a while, are left out.
    pub fn folio_add_lru(&self, pfn: Pfn) {
        self.s().w.mem.folios[pfn as usize].lru_add();
    }

    /// `folio_isolate_lru()`: takes the folio off its list, with a reference.
    pub fn folio_isolate_lru(&self, pfn: Pfn) -> bool {
        let s = &mut *self.s();
        let f = &mut s.w.mem.folios[pfn as usize];
        if !f.flags.has(Flags::LRU) || f.refcount <= 0 {
            return false;
        }
        f.flags.clear(Flags::LRU);
        s.add_refs(pfn, 1);
        true
    }

    /// `folio_putback_lru()`.
    pub fn folio_putback_lru(&self, pfn: Pfn) {
        self.folio_add_lru(pfn);
        self.folio_put(pfn);
    }

    /// `folio_add_new_anon_rmap()`: the first mapping of a folio.
    pub fn folio_add_new_anon_rmap(&self, pfn: Pfn, vma: VmaId, vpn: u32, exclusive: bool) {
        let s = &mut *self.s();
        let Some(av) = s.w.vmas[vma].anon_vma else { return };
        let av = if exclusive { av } else { s.w.anon_vmas[av].root };
        let index = s.w.vmas[vma].linear_page_index(vpn);
        let f = &mut s.w.mem.folios[pfn as usize];
        f.flags.set(Flags::SWAPBACKED);
        (f.anon_vma, f.index) = (av + 1, index);
        // mem_cgroup_charge(); hugetlb has a controller of its own.
        if f.memcg == 0 && !f.flags.has(Flags::HUGETLB) {
            f.memcg = s.w.mms[s.w.vmas[vma].mm as usize].memcg + 1;
            s.w.memcgs.charge(f.memcg, f.nr_pages() as i32);
        }
        if f.order != 0 {
            return s.add_new_large_rmap(pfn, exclusive);
        }
        if exclusive {
            s.set_anon_exclusive(pfn);
        }
        s.add_mapcount(pfn, 1);
    }

    /// `folio_add_file_rmap_pte()`, and `folio_dup_file_rmap_pte()`: a mapping of a page of the page cache.
    pub fn folio_add_file_rmap_pte(&self, page: Pfn) {
        self.s().add_mapcount(page, 1);
    }

    /// `filemap_unaccount_folio()`: nothing that leaves the page cache is mapped.
    pub fn bug_on_cache_mapped(&self, folio: Pfn) {
        let mapped = self.folio_mapped(folio);
        self.bug_on(mapped, Rule::BugCacheMapped, Evidence { pfn: Some(folio), ..Evidence::default() });
    }

    /// `folio_end_writeback()`.
    pub fn folio_end_writeback(&self, folio: Pfn) {
        let s = &mut *self.s();
        s.w.mem.folios[folio as usize].flags.clear(Flags::WRITEBACK);
        s.wake_waiters();
    }

    /// `folio_add_anon_rmap_pte()`: another mapping of a page of an anonymous folio.
    pub fn folio_add_anon_rmap_pte(&self, page: Pfn, exclusive: bool) {
        let s = &mut *self.s();
        if exclusive {
            s.set_anon_exclusive(page);
        }
        s.add_mapcount(page, 1);
    }

    /// `folio_remove_rmap_pte()` of a page.
    pub fn folio_remove_rmap_pte(&self, page: Pfn) {
        if page == ZERO_PFN {
            return;
        }
        let s = &mut *self.s();
        s.add_mapcount(page, -1);
        let f = s.folio(page);
        if f.mapcount < 0 || f.page_mapcount < 0 {
            s.violate(self.id, Rule::BugRmapUnderflow, Evidence { pfn: Some(page), ..Evidence::default() });
        }
    }

    /// `folio_move_anon_rmap()`: the folio now belongs to one VMA alone.
    pub fn folio_move_anon_rmap(&self, pfn: Pfn, vma: VmaId) {
        let s = &mut *self.s();
        if let Some(av) = s.w.vmas[vma].anon_vma {
            s.w.mem.folios[pfn as usize].anon_vma = av + 1;
        }
    }

    /// `folio_try_dup_anon_rmap_pte()`: fork maps the page a second time. False when its folio may be pinned and the
    /// page has to be copied instead.
    pub fn folio_try_dup_anon_rmap_pte(&self, page: Pfn) -> bool {
        let s = &mut *self.s();
        // page_needs_cow_for_dma() of 5.14 asked for the pin alone.
        let counted = s.w.config.uses(Design::CowByCount);
        if s.folio(page).flags.has(Flags::ANON_EXCLUSIVE) || counted {
            if s.folio(s.w.mem.page_folio(page)).maybe_dma_pinned() {
                return false;
            }
            s.w.mem.folios[page as usize].flags.clear(Flags::ANON_EXCLUSIVE);
        }
        s.add_mapcount(page, 1);
        true
    }

    /// `folio_try_share_anon_rmap_pte()`: the page is about to become unmapped. False when its folio may be pinned.
    pub fn folio_try_share_anon_rmap_pte(&self, page: Pfn) -> bool {
        let s = &mut *self.s();
        if s.folio(s.w.mem.page_folio(page)).maybe_dma_pinned() {
            return false;
        }
        s.w.mem.folios[page as usize].flags.clear(Flags::ANON_EXCLUSIVE);
        true
    }

    /// A copy of what the kernel knows of a swap slot.
    pub fn slot(&self, slot: u32) -> Slot {
        self.s().w.swap.slots[slot as usize]
    }

    /// `swap_duplicate()`.
    pub fn swap_duplicate(&self, slot: u32) {
        let s = &mut *self.s();
        s.touch_slot(slot);
        s.w.swap.slots[slot as usize].count += 1;
    }

    /// `swap_free()`.
    pub fn swap_free(&self, slot: u32) {
        let s = &mut *self.s();
        s.touch_slot(slot);
        let n = &mut s.w.swap.slots[slot as usize].count;
        if *n == 0 {
            s.violate(self.id, Rule::BugSwapCount, Evidence { found: Some(u64::from(slot)), ..Evidence::default() });
            return;
        }
        *n -= 1;
        s.release_slot(slot);
    }

    /// `delete_from_swap_cache()` without the reference that the cache held.
    pub fn delete_from_swap_cache(&self, pfn: Pfn) {
        let s = &mut *self.s();
        let f = &mut s.w.mem.folios[pfn as usize];
        f.flags.clear(Flags::SWAPCACHE);
        let slot = f.slot;
        s.touch_slot(slot);
        s.w.swap.slots[slot as usize].cache = None;
        s.release_slot(slot);
    }
}
