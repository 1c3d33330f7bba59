//! The pool of hugetlb pages: what the kernel does in one step under `hugetlb_lock`.

use super::{Cpu, CpuCtl, Lock, Run, Sim};
use crate::config::Defect;
use crate::mm::VmaId;
use crate::phys::{Flags, HpageFlags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::trace::Note;
use std::future::poll_fn;
use std::task::Poll;

impl Sim {
    /// `free_huge_folio()`: the last reference is gone. The page goes back to the pool, or with it a surplus page to the
    /// allocator.
    pub(super) fn free_huge_folio(&mut self, pfn: Pfn) {
        let f = &mut self.w.mem.folios[pfn as usize];
        let flags = HpageFlags(f.slot);
        (f.anon_vma, f.mapping, f.slot) = (0, 0, 0);
        f.ghost.migration_zapped = false;
        let poisoned = f.flags.has(Flags::HWPOISON);
        f.flags = Flags::HUGETLB;
        f.flags.set(Flags::ALLOCATED);
        if poisoned {
            f.flags.set(Flags::HWPOISON);
        }
        let h = &mut self.w.hugetlb;
        h.touched = true;
        let promised = flags.has(HpageFlags::RESTORE_RESERVE);
        if promised {
            h.resv += 1;
        }
        // Here we differ from the kernel, which gives surplus pages away even when they are promised again (N28).
        let surplus = h.surplus > 0 && (!promised || self.w.config.has(Defect::N28));
        if flags.has(HpageFlags::TEMPORARY) || surplus {
            self.remove_hugetlb_folio(pfn, surplus && !flags.has(HpageFlags::TEMPORARY));
        } else {
            self.enqueue_hugetlb_folio(pfn);
        }
    }

    /// `enqueue_hugetlb_folio()`.
    fn enqueue_hugetlb_folio(&mut self, pfn: Pfn) {
        self.w.mem.folios[pfn as usize].slot = HpageFlags::FREED.0;
        self.w.hugetlb.free.push(pfn);
    }

    /// `remove_hugetlb_folio()` and `update_and_free_hugetlb_folio()`: gives a page that nobody refers to back to the
    /// allocator.
    pub(crate) fn remove_hugetlb_folio(&mut self, pfn: Pfn, adjust_surplus: bool) {
        let h = &mut self.w.hugetlb;
        h.touched = true;
        h.nr -= 1;
        h.surplus -= i32::from(adjust_surplus);
        h.free.retain(|p| *p != pfn);
        self.w.mem.folios[pfn as usize].slot = 0;
        self.w.mem.free_folio(pfn);
    }

    /// `alloc_fresh_hugetlb_folio()`: a page of the allocator becomes one of the pool, with `refs` references. `None` when
    /// no such run of frames is free.
    pub(crate) fn alloc_fresh_hugetlb_folio(&mut self, refs: i32) -> Option<Pfn> {
        let order = self.pmd_order();
        let pfn = self.w.mem.alloc_order(order)?;
        Some(self.new_hugetlb_folio(pfn, refs))
    }

    fn new_hugetlb_folio(&mut self, pfn: Pfn, refs: i32) -> Pfn {
        self.w.mem.folios[pfn as usize].flags.set(Flags::HUGETLB);
        self.w.hugetlb.nr += 1;
        self.w.hugetlb.touched = true;
        self.add_refs(pfn, refs);
        pfn
    }

    /// `hugetlb_acct_memory()`: promises `delta` pages more, taking surplus pages from the allocator where the pool is
    /// too small (`gather_surplus_pages()`); or gives promises back, and surplus pages with them
    /// (`return_unused_surplus_pages()`). False when it cannot promise so many.
    pub fn hugetlb_acct_memory(&mut self, delta: i32) -> bool {
        self.w.hugetlb.touched = true;
        if delta >= 0 {
            let needed = delta - self.w.hugetlb.available();
            let before = self.w.hugetlb.free.len();
            for _ in 0..needed {
                let h = &self.w.hugetlb;
                let page = if h.surplus < h.overcommit { self.alloc_fresh_hugetlb_folio(0) } else { None };
                let Some(page) = page else {
                    let new: Vec<Pfn> = self.w.hugetlb.free.split_off(before);
                    new.into_iter().for_each(|p| self.remove_hugetlb_folio(p, true));
                    return false;
                };
                self.w.hugetlb.surplus += 1;
                self.enqueue_hugetlb_folio(page);
            }
            self.w.hugetlb.resv += delta;
            return true;
        }
        self.w.hugetlb.resv += delta;
        for _ in 0..(-delta).min(self.w.hugetlb.surplus) {
            let Some(page) = self.w.hugetlb.free.last().copied() else { break };
            self.remove_hugetlb_folio(page, true);
        }
        true
    }

    /// Pages that migrations have made for themselves. Here we differ from the kernel, which counts them with the pool.
    fn temporary_huge_pages(&self) -> i32 {
        let heads = (1..=self.w.mem.frames() as usize).step_by(1 << self.pmd_order());
        let pool = heads.map(|p| &self.w.mem.folios[p]).filter(|f| f.flags.has(Flags::HUGETLB));
        pool.filter(|f| HpageFlags(f.slot).has(HpageFlags::TEMPORARY)).count() as i32
    }

    /// `set_max_huge_pages()`: the administrator asks for a pool of this size. Pages in use beyond it become surplus.
    pub fn set_max_huge_pages(&mut self, count: i32) {
        self.w.hugetlb.touched = true;
        let temporary = self.temporary_huge_pages();
        let persistent = |s: &Sim| s.w.hugetlb.nr - s.w.hugetlb.surplus - temporary;
        while self.w.hugetlb.surplus > 0 && count > persistent(self) {
            self.w.hugetlb.surplus -= 1;
        }
        while count > persistent(self) {
            let Some(page) = self.alloc_fresh_hugetlb_folio(0) else { return };
            self.enqueue_hugetlb_folio(page);
        }
        // Pages that are needed for promises stay.
        let h = &self.w.hugetlb;
        let min_count = (h.resv + h.nr - temporary - h.free.len() as i32).max(count);
        while min_count < persistent(self) {
            let Some(page) = self.w.hugetlb.free.last().copied() else { break };
            self.remove_hugetlb_folio(page, false);
        }
        while count < persistent(self) {
            self.w.hugetlb.surplus += 1;
        }
    }
}

impl Cpu {
    /// `local_irq_save()` and `local_irq_restore()` around a walk without locks.
    pub fn set_irqs(&self, on: bool) {
        let s = &mut *self.s();
        s.ctl.cpus[self.id as usize].irqs_off = !on;
        if on {
            s.wake_waiters();
        }
    }

    /// `tlb_remove_table_sync_one()`: an interrupt to every CPU, so that every walk without locks that has begun has ended.
    pub async fn tlb_remove_table_sync_one(&self) {
        poll_fn(|_| {
            let s = &mut *self.s();
            let walking = |c: &CpuCtl| c.irqs_off && c.run != Run::Idle;
            if s.ctl.violation.is_none() && !s.ctl.cpus.iter().any(walking) {
                return Poll::Ready(());
            }
            s.ctl.cpus[self.id as usize].run = Run::Waiting(Lock::PageTable(0));
            s.ctl.waiters = true;
            Poll::Pending
        })
        .await;
    }

    /// `folio_test_hugetlb_*()`.
    pub fn hpage_test(&self, folio: Pfn, flags: HpageFlags) -> bool {
        HpageFlags(self.s().folio(folio).slot).has(flags)
    }

    /// `folio_set_hugetlb_*()`.
    pub fn hpage_set(&self, folio: Pfn, flags: HpageFlags) {
        self.s().w.mem.folios[folio as usize].slot |= flags.0;
    }

    /// `folio_clear_hugetlb_*()`.
    pub fn hpage_clear(&self, folio: Pfn, flags: HpageFlags) {
        self.s().w.mem.folios[folio as usize].slot &= !flags.0;
    }

    /// `dequeue_hugetlb_folio_node_exact()`: a free page of the pool, with one reference. Poisoned ones stay there.
    /// With `pin`, none that may not be pinned for a long time.
    pub fn dequeue_hugetlb_folio(&self, pin: bool) -> Option<Pfn> {
        let s = &mut *self.s();
        // Nor those of a block that is about to go.
        let online = |p: Pfn| s.w.mem.online(s.w.mem.block_of(p));
        let stays = |p: Pfn| !pin || !s.w.mem.in_zone_movable(p);
        let good = |p: &Pfn| !s.w.mem.folios[*p as usize].flags.has(Flags::HWPOISON) && online(*p) && stays(*p);
        let at = s.w.hugetlb.free.iter().rposition(good)?;
        let pfn = s.w.hugetlb.free.remove(at);
        s.w.hugetlb.touched = true;
        s.w.mem.folios[pfn as usize].slot = 0;
        s.add_refs(pfn, 1);
        Some(pfn)
    }

    /// `alloc_surplus_hugetlb_folio()`: a page beyond the size of the pool, with one reference.
    pub fn alloc_surplus_hugetlb_folio(&self) -> Option<Pfn> {
        let s = &mut *self.s();
        let h = &s.w.hugetlb;
        let page = if h.surplus < h.overcommit { s.alloc_fresh_hugetlb_folio(1) } else { None };
        match page {
            Some(_) => s.w.hugetlb.surplus += 1,
            None => s.note(self.id, Note::OutOfMemory, None, 0, 0),
        }
        page
    }

    /// `alloc_migrate_hugetlb_folio()`: a page of the allocator, with one reference.
    pub fn alloc_migrate_hugetlb_folio(&self) -> Option<Pfn> {
        let s = &mut *self.s();
        if !s.ctl.cpus[self.id as usize].memalloc_pin {
            return s.alloc_fresh_hugetlb_folio(1);
        }
        let order = s.pmd_order();
        let pfn = s.w.mem.alloc_unmovable(order)?;
        Some(s.new_hugetlb_folio(pfn, 1))
    }

    /// `hugetlb_add_new_anon_rmap()`: the first mapping of a folio that is nobody else's.
    pub fn hugetlb_add_new_anon_rmap(&self, folio: Pfn, vma: VmaId, vpn: u32) {
        let s = &mut *self.s();
        let Some(av) = s.w.vmas[vma].anon_vma else { return };
        let index = s.w.vmas[vma].linear_page_index(vpn);
        s.set_anon_exclusive(folio);
        let f = &mut s.w.mem.folios[folio as usize];
        (f.anon_vma, f.index) = (av + 1, index);
        (f.entire_mapcount, f.mapcount) = (1, 1);
        f.slot &= !HpageFlags::RESTORE_RESERVE.0;
        s.touch_folio(folio);
        s.log_counts(folio);
    }

    /// `hugetlb_add_file_rmap()`.
    pub fn hugetlb_add_file_rmap(&self, folio: Pfn) {
        self.folio_add_anon_rmap_pmd(folio, false);
    }

    /// `hugetlb_remove_rmap()`.
    pub fn hugetlb_remove_rmap(&self, folio: Pfn) {
        self.folio_remove_rmap_pmd(folio);
    }

    /// `folio_zero_user()`.
    pub fn folio_zero_user(&self, folio: Pfn) {
        let s = &mut *self.s();
        let n = s.folio(folio).nr_pages();
        s.w.mem.folios[folio as usize..(folio + n) as usize].iter_mut().for_each(|p| p.data = 0);
    }

    /// `hugetlb_add_to_page_cache()`: puts a folio, which is locked from now on, into the page cache; each page of it has a
    /// reference there. False when something is there.
    pub fn hugetlb_add_to_page_cache(&self, file: u8, index: u32, folio: Pfn) -> bool {
        let s = &mut *self.s();
        if !s.hugetlb_cache_insert(file, index, folio) {
            return false;
        }
        let f = &mut s.w.mem.folios[folio as usize];
        (f.mapping, f.index) = (file + 1, index);
        f.flags.set(Flags::DIRTY);
        f.slot &= !HpageFlags::RESTORE_RESERVE.0;
        let pages = f.nr_pages() as i32;
        s.w.hugetlb.touched = true;
        s.add_refs(folio, pages);
        true
    }

    /// `folio_migrate_mapping()` and `folio_migrate_flags()`: `dst` takes the place of `src`, in the page cache as well.
    pub fn hugetlb_migrate_mapping(&self, src: Pfn, dst: Pfn) {
        let old = self.folio(src);
        let s = &mut *self.s();
        let new = &mut s.w.mem.folios[dst as usize];
        (new.anon_vma, new.index) = (old.anon_vma, old.index);
        for flag in [Flags::UPTODATE, Flags::DIRTY] {
            if old.flags.has(flag) {
                new.flags.set(flag);
            }
        }
        if let Some(file) = old.file() {
            new.mapping = old.mapping;
            s.hugetlb_cache_replace(file, old.index, dst);
            s.w.mem.folios[src as usize].mapping = 0;
            s.add_refs(dst, old.nr_pages() as i32);
            s.sub_refs(self.id, src, old.nr_pages() as i32);
        }
    }

    /// `hugetlb_delete_from_page_cache()` of a locked folio.
    pub fn hugetlb_delete_from_page_cache(&self, folio: Pfn) {
        self.assert_folio_locked(folio);
        self.bug_on_cache_mapped(folio);
        let restore = self.hpage_test(folio, HpageFlags::RESTORE_RESERVE);
        self.bug_on(restore, Rule::HugetlbCounts, Evidence { pfn: Some(folio), ..Evidence::default() });
        self.folio_clear(folio, Flags::DIRTY);
        self.folio_clear(folio, Flags::UPTODATE);
        let n = self.folio_nr_pages(folio) as i32;
        self.page_cache_remove(folio, crate::phys::CacheEntry::Empty);
        self.s().w.hugetlb.touched = true;
        self.folio_put_refs(folio, n);
    }
}
