//! Large folios: their mapcounts, and what a page's last unmapping leaves behind.

use super::{Cpu, Run, Sim};
use crate::config::{Defect, Design};
use crate::phys::{Flags, GUP_PIN_COUNTING_BIAS, Pfn};
use crate::rule::{Evidence, Rule};
use crate::trace::Note;

impl Sim {
    /// `HPAGE_PMD_ORDER`.
    pub(crate) fn pmd_order(&self) -> u8 {
        self.w.geometry().shift() as u8
    }

    /// `__folio_add_rmap()` and `__folio_remove_rmap()` with `RMAP_LEVEL_PTE`, of one page of a large folio.
    pub(super) fn add_large_mapcount(&mut self, page: Pfn, n: i32) {
        let folio = self.w.mem.page_folio(page);
        let p = &mut self.w.mem.folios[page as usize];
        let was = p.page_mapcount;
        p.page_mapcount += n as i16;
        let (first, last) = (was == 0 && n > 0, was == 1 && n < 0);
        let f = &mut self.w.mem.folios[folio as usize];
        f.mapcount += n;
        f.nr_pages_mapped = f.nr_pages_mapped + u16::from(first) - u16::from(last);
        let partially = last && f.entire_mapcount == 0 && f.nr_pages_mapped != 0;
        self.touch_folio(folio);
        self.log_counts(folio);
        if partially {
            self.deferred_split_folio(folio);
        }
    }

    /// `folio_add_new_anon_rmap()` of a large folio: by a PMD when one can map it, else by a PTE for each page.
    pub(super) fn add_new_large_rmap(&mut self, folio: Pfn, exclusive: bool) {
        let pmd_order = self.pmd_order();
        let f = &mut self.w.mem.folios[folio as usize];
        let pages = if f.order == pmd_order {
            (f.entire_mapcount, f.mapcount) = (1, 1);
            1
        } else {
            let n = f.nr_pages();
            (f.mapcount, f.nr_pages_mapped) = (n as i32, n as u16);
            for p in &mut self.w.mem.folios[folio as usize..(folio + n) as usize] {
                p.page_mapcount = 1;
            }
            n
        };
        if exclusive {
            (folio..folio + pages).for_each(|page| self.set_anon_exclusive(page));
        }
        self.touch_folio(folio);
        self.log_counts(folio);
    }

    /// `folio_likely_mapped_shared()` of a large folio, a guess from its first page: mapped more than once?
    pub(crate) fn pages_shared(&self, folio: Pfn) -> bool {
        let f = self.folio(folio);
        if f.entire_mapcount > 0 || f.mapcount > f.nr_pages() as i32 {
            return f.mapcount > 1;
        }
        f.page_mapcount > 1
    }

    /// `mm/huge_memory.c: deferred_split_folio()` with `partially_mapped`: queues a folio of which memory could be
    /// given back.
    pub(crate) fn deferred_split_folio(&mut self, folio: Pfn) {
        let f = &mut self.w.mem.folios[folio as usize];
        if f.order < 2 || f.anon_vma == 0 || f.flags.has(Flags::PARTIALLY_MAPPED) {
            return;
        }
        f.flags.set(Flags::PARTIALLY_MAPPED);
        self.w.mem.deferred_split.push(folio);
    }
}

impl Cpu {
    /// `folio_test_large()` of the folio that a page belongs to.
    #[inline]
    pub fn folio_test_large(&self, page: Pfn) -> bool {
        self.s().folio(page).large()
    }

    /// `folio_nr_pages()`.
    #[inline]
    pub fn folio_nr_pages(&self, folio: Pfn) -> u32 {
        self.s().folio(folio).nr_pages()
    }

    /// `folio_add_anon_rmap_pmd()`.
    pub fn folio_add_anon_rmap_pmd(&self, folio: Pfn, exclusive: bool) {
        let s = &mut *self.s();
        if exclusive {
            s.set_anon_exclusive(folio);
        }
        let f = &mut s.w.mem.folios[folio as usize];
        f.entire_mapcount += 1;
        f.mapcount += 1;
        s.touch_folio(folio);
        s.log_counts(folio);
    }

    /// `folio_add_file_rmap_pmd()`.
    pub fn folio_add_file_rmap_pmd(&self, folio: Pfn) {
        self.folio_add_anon_rmap_pmd(folio, false);
    }

    /// `folio_remove_rmap_pmd()`.
    pub fn folio_remove_rmap_pmd(&self, folio: Pfn) {
        let forgets = self.has(Defect::T6);
        let s = &mut *self.s();
        let f = &mut s.w.mem.folios[folio as usize];
        f.entire_mapcount -= 1;
        f.mapcount -= 1;
        let (left, mapped, pages) = (f.entire_mapcount, u32::from(f.nr_pages_mapped), f.nr_pages());
        s.touch_folio(folio);
        s.log_counts(folio);
        if left < 0 {
            s.violate(self.id, Rule::BugRmapUnderflow, Evidence { pfn: Some(folio), ..Evidence::default() });
        } else if left == 0 && mapped > 0 && mapped < pages && !forgets {
            s.deferred_split_folio(folio);
        }
    }

    /// `folio_try_dup_anon_rmap_pmd()`: fork maps the folio a second time. False when it may be pinned.
    pub fn folio_try_dup_anon_rmap_pmd(&self, folio: Pfn) -> bool {
        let f = self.folio(folio);
        if f.flags.has(Flags::ANON_EXCLUSIVE) || self.uses(Design::CowByCount) {
            if f.maybe_dma_pinned() && !self.has(Defect::T2) {
                return false;
            }
            self.folio_clear(folio, Flags::ANON_EXCLUSIVE);
        }
        self.folio_add_anon_rmap_pmd(folio, false);
        true
    }

    /// `__split_huge_page_tail()` and what follows it: every page is a folio of its own, with the flags of the old one
    /// and the lock of the caller. The caller's reference stays with page 0, and each other page gets one.
    pub fn folio_dissolve(&self, folio: Pfn) {
        let forgets = self.has(Defect::S43);
        let s = &mut *self.s();
        let head = s.w.mem.folios[folio as usize];
        let n = head.nr_pages();
        s.w.mem.dissolve(folio);
        s.w.mem.folios[folio as usize].flags.clear(Flags::PARTIALLY_MAPPED);
        for i in 1..n {
            let tail = &mut s.w.mem.folios[(folio + i) as usize];
            // Pages that nothing maps may still say that they are exclusive: that goes with the head's flags.
            let poisoned = tail.flags.has(Flags::HWPOISON);
            (tail.flags, tail.locked_by) = (head.flags, head.locked_by);
            tail.flags.clear(Flags::HWPOISON);
            if poisoned {
                tail.flags.set(Flags::HWPOISON);
            }
            tail.flags.clear(Flags::ANON_EXCLUSIVE);
            tail.flags.clear(Flags::PARTIALLY_MAPPED);
            (tail.anon_vma, tail.index) = (head.anon_vma, head.index + i);
            // split_page_memcg()
            tail.memcg = if forgets { 0 } else { head.memcg };
            (tail.refcount, tail.mapcount) = (1, 0);
            s.touch_folio(folio + i);
        }
        s.touch_folio(folio);
    }

    /// `folio_trylock()` of one of many: a collapse holds the locks of a whole table's pages, more than anybody else, and
    /// so they are not among those that lockdep looks at.
    pub fn folio_trylock_many(&self, folio: Pfn) -> bool {
        let lock = &mut self.s().w.mem.folios[folio as usize].locked_by;
        let free = *lock == 0;
        if free {
            *lock = self.id + 1;
        }
        free
    }

    /// Unlocks a folio of [`Cpu::folio_trylock_many()`], or one that a split has made and whose lock was never taken.
    pub fn folio_unlock_many(&self, folio: Pfn) {
        let s = &mut *self.s();
        s.w.mem.folios[folio as usize].locked_by = 0;
        s.wake(|run| matches!(run, Run::Waiting(_)));
    }

    /// Allocates a movable folio of this order with one reference. `None` when no such run of frames is free.
    pub fn folio_alloc_order(&self, order: u8) -> Option<Pfn> {
        let folio = {
            let s = &mut *self.s();
            let pin = s.ctl.cpus[self.id as usize].memalloc_pin;
            if pin { s.w.mem.alloc_unmovable(order) } else { s.w.mem.alloc_order(order) }
        };
        self.new_large_folio(folio)
    }

    /// A fault returns with `VM_FAULT_WRITE`, or is about to begin.
    #[inline]
    pub fn set_fault_write(&self, broken: bool) {
        self.s().ctl.cpus[self.id as usize].fault_write = broken;
    }

    /// True when the last fault of this CPU returned with `VM_FAULT_WRITE`.
    pub fn fault_write(&self) -> bool {
        self.s().ctl.cpus[self.id as usize].fault_write
    }

    /// `memalloc_pin_save()` and `memalloc_pin_restore()`: what this CPU allocates meanwhile is not in `ZONE_MOVABLE`.
    pub fn memalloc_pin(&self, on: bool) {
        self.s().ctl.cpus[self.id as usize].memalloc_pin = on;
    }

    /// True between the two.
    pub fn memalloc_pinned(&self) -> bool {
        self.s().ctl.cpus[self.id as usize].memalloc_pin
    }

    /// The same of memory that is never migrated.
    pub fn folio_alloc_unmovable(&self, order: u8) -> Option<Pfn> {
        let folio = self.s().w.mem.alloc_unmovable(order);
        self.new_large_folio(folio)
    }

    /// Allocates a movable folio on one NUMA node.
    pub fn folio_alloc_on(&self, node: u8, order: u8) -> Option<Pfn> {
        let folio = self.s().w.mem.alloc_on(node, order);
        self.new_large_folio(folio)
    }

    /// `numa_node_id()`.
    pub fn numa_node_id(&self) -> u8 {
        self.id & 1
    }

    fn new_large_folio(&self, folio: Option<Pfn>) -> Option<Pfn> {
        let s = &mut *self.s();
        let Some(folio) = folio else {
            s.note(self.id, Note::OutOfMemory, None, 0, 0);
            return None;
        };
        s.add_refs(folio, 1);
        Some(folio)
    }

    /// `try_grab_folio()` with `FOLL_PIN`.
    pub fn folio_pin(&self, folio: Pfn) {
        let s = &mut *self.s();
        let f = &mut s.w.mem.folios[folio as usize];
        f.ghost.pins += 1;
        let refs = if f.order != 0 {
            f.pincount += 1;
            1
        } else {
            GUP_PIN_COUNTING_BIAS
        };
        s.add_refs(folio, refs);
    }

    /// `gup_put_folio()` with `FOLL_PIN`.
    pub fn folio_unpin(&self, folio: Pfn) {
        let s = &mut *self.s();
        let f = &mut s.w.mem.folios[folio as usize];
        f.ghost.pins = f.ghost.pins.wrapping_sub(1);
        let large = f.order != 0;
        if large && f.pincount == 0 {
            s.violate(self.id, Rule::BugRefUnderflow, Evidence { pfn: Some(folio), ..Evidence::default() });
            return;
        }
        let refs = if large {
            f.pincount -= 1;
            1
        } else {
            GUP_PIN_COUNTING_BIAS
        };
        s.sub_refs(self.id, folio, refs);
    }
}
