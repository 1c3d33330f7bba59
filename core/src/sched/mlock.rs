//! `mm/mlock.c` and the inline functions around it: which folios are locked into memory, and how often.
//!
//! The per-CPU batches, which count a little later and hold a reference until then, are left out. While a folio is off the
//! LRU, nobody counts: then one unlock is enough, and who else has locked it shows when reclaim meets it.

use super::{Cpu, Sim};
use crate::mm::VmaId;
use crate::phys::{Flags, Pfn, ZERO_PFN};

impl Sim {
    /// `mlock_folio()` and `__mlock_folio()`.
    fn mlock_folio(&mut self, folio: Pfn) {
        self.touch_folio(folio);
        let f = &mut self.w.mem.folios[folio as usize];
        f.flags.set(Flags::MLOCKED);
        if !f.flags.has(Flags::LRU) {
            return;
        }
        if f.flags.has(Flags::UNEVICTABLE) {
            f.mlock_count = f.mlock_count.saturating_add(1);
            return;
        }
        f.flags.clear(Flags::ACTIVE);
        f.flags.set(Flags::UNEVICTABLE);
        f.mlock_count = 1;
    }

    /// `munlock_folio()` and `__munlock_folio()`.
    fn munlock_folio(&mut self, folio: Pfn) {
        self.touch_folio(folio);
        let f = &mut self.w.mem.folios[folio as usize];
        let isolated = f.flags.has(Flags::LRU);
        if isolated && f.flags.has(Flags::UNEVICTABLE) {
            f.mlock_count = f.mlock_count.saturating_sub(1);
            if f.mlock_count != 0 {
                return;
            }
        }
        // Else that is taken for the last lock: reclaim repairs it if it was not.
        f.flags.clear(Flags::MLOCKED);
        if isolated {
            f.flags.clear(Flags::UNEVICTABLE);
        }
    }
}

impl Cpu {
    /// `folio_evictable()`.
    #[inline]
    pub fn folio_evictable(&self, folio: Pfn) -> bool {
        !self.folio_test(folio, Flags::MLOCKED)
    }

    /// `folio_add_lru_vma()`: a new folio of a locked mapping is locked from the start (`mlock_new_folio()`).
    #[inline]
    pub fn folio_add_lru_vma(&self, folio: Pfn, vma: VmaId) {
        let s = &mut *self.s();
        s.w.mem.folios[folio as usize].lru_add();
        if s.w.vmas[vma].mlocks() {
            s.mlock_folio(folio);
        }
    }

    /// `mlock_vma_folio()`: not while the whole mapping is being locked, or the folio would be counted twice.
    #[inline]
    pub fn mlock_vma_folio(&self, folio: Pfn, vma: VmaId) {
        let s = &mut *self.s();
        if s.w.vmas[vma].mlocks() {
            s.mlock_folio(folio);
        }
    }

    /// `mlock_folio()`.
    pub fn mlock_folio(&self, folio: Pfn) {
        self.s().mlock_folio(folio);
    }

    /// `munlock_vma_folio()` of a page that a mapping has given up.
    #[inline]
    pub fn munlock_vma_folio(&self, page: Pfn, vma: VmaId) {
        let locked = self.s().w.vmas[vma].locked();
        self.munlock_page_if(page, locked);
    }

    /// The same, where the mapping is known by its address alone.
    #[inline]
    pub fn munlock_page_at(&self, page: Pfn, mm: u8, vpn: u32) {
        let locked = {
            let s = self.s();
            page != ZERO_PFN
                && s.folio(s.w.mem.page_folio(page)).flags.has(Flags::MLOCKED)
                && s.w.vma_lookup(mm, vpn).is_some_and(|v| s.w.vmas[v].locked())
        };
        self.munlock_page_if(page, locked);
    }

    /// The same, when the caller knows whether the mapping is locked.
    #[inline]
    pub fn munlock_page_if(&self, page: Pfn, locked: bool) {
        if locked && page != ZERO_PFN {
            self.munlock_folio(self.page_folio(page));
        }
    }

    /// `munlock_folio()`.
    pub fn munlock_folio(&self, folio: Pfn) {
        self.s().munlock_folio(folio);
    }
}
