//! The page cache's primitives, and the counters that tell kinds of mapped pages apart.
//!
//! What stands here is one step under the lock of `i_pages`; who calls it has come to a site before.

use super::{Cpu, Sim};
use crate::mm::Mm;
use crate::observe::{FileId, SHMEM};
use crate::phys::{CacheEntry, Flags, Folio, Pfn, ZERO_PFN};

impl Sim {
    /// Replaces what the page cache holds at an index, and keeps the ghost count of a swap slot true.
    fn set_cache_entry(&mut self, file: FileId, index: u32, entry: CacheEntry) {
        let old = self.w.files[file as usize].get(index);
        for (slot, d) in [(old, -1i16), (entry, 1)] {
            if let CacheEntry::Swap(slot) = slot {
                self.touch_slot(slot);
                let n = &mut self.w.swap.slots[slot as usize].entries;
                *n = n.wrapping_add_signed(d);
            }
        }
        self.w.files[file as usize].set(index, entry);
    }
}

impl Sim {
    /// Puts another folio of `hugetlbfs` in the place of the one at an index.
    pub(super) fn hugetlb_cache_replace(&mut self, file: FileId, index: u32, folio: Pfn) {
        self.set_cache_entry(file, index, CacheEntry::Folio(folio));
    }

    /// Puts a folio of `hugetlbfs` at an empty index. False when something is there.
    pub(super) fn hugetlb_cache_insert(&mut self, file: FileId, index: u32, folio: Pfn) -> bool {
        let empty = self.w.files[file as usize].get(index) == CacheEntry::Empty;
        if empty {
            self.set_cache_entry(file, index, CacheEntry::Folio(folio));
        }
        empty
    }
}

/// The counter of an mm that a page is counted in (`mm_counter()`).
fn counter(mm: &mut Mm, folio: Folio) -> &mut i32 {
    if folio.anon() {
        &mut mm.anon_pages
    } else if folio.flags.has(Flags::SWAPBACKED) {
        &mut mm.shmem_pages
    } else {
        &mut mm.file_pages
    }
}

impl Cpu {
    /// `add_mm_counter(mm, mm_counter(folio), n)`. Not for the zero page.
    pub fn add_mm_counter(&self, mm: u8, page: Pfn, n: i32) {
        if page != ZERO_PFN {
            let s = &mut *self.s();
            let folio = *s.folio(s.w.mem.page_folio(page));
            *counter(&mut s.w.mms[mm as usize], folio) += n;
        }
    }

    /// `i_size_read()` in pages.
    #[inline]
    pub fn i_size_read(&self, file: FileId) -> u32 {
        self.s().w.files[file as usize].size
    }

    /// `xa_load()` of the page cache.
    #[inline]
    pub fn cache_entry(&self, file: FileId, index: u32) -> CacheEntry {
        self.s().w.files[file as usize].get(index)
    }

    /// `__filemap_add_folio()`: puts a locked folio in place of `expected`. False when that is not there (any more). A large
    /// folio, at every index that it has a page for.
    pub fn page_cache_add(&self, file: FileId, index: u32, folio: Pfn, expected: CacheEntry) -> bool {
        self.assert_folio_locked(folio);
        let s = &mut *self.s();
        let pages = s.folio(folio).nr_pages();
        if (0..pages).any(|i| s.w.files[file as usize].get(index + i) != expected.nth(i)) {
            return false;
        }
        (0..pages).for_each(|i| s.set_cache_entry(file, index + i, CacheEntry::Folio(folio)));
        // mem_cgroup_charge(folio, NULL): to the group of the process that runs here.
        let current = s.w.tlbs[self.id as usize].loaded_mm.map_or(0, |mm| s.w.mms[mm as usize].memcg);
        let f = &mut s.w.mem.folios[folio as usize];
        // Large folios are never charged here.
        if f.memcg == 0 && f.order == 0 {
            f.memcg = current + 1;
            s.w.memcgs.charge(f.memcg, f.nr_pages() as i32);
        }
        (f.mapping, f.index) = (file + 1, index);
        if file == SHMEM {
            f.flags.set(Flags::SWAPBACKED);
        }
        s.add_refs(folio, pages as i32);
        true
    }

    /// `__filemap_remove_folio()`: takes a locked folio out of the page cache, without the cache's reference.
    pub fn page_cache_remove(&self, folio: Pfn, replacement: CacheEntry) {
        let s = &mut *self.s();
        let f = *s.folio(folio);
        if let Some(file) = f.file() {
            (0..f.nr_pages()).for_each(|i| s.set_cache_entry(file, f.index + i, replacement.nth(i)));
            s.w.mem.folios[folio as usize].mapping = 0;
            s.touch_folio(folio);
        }
    }

    /// Compare-and-exchange (`xa_cmpxchg()`) of what the page cache says of an index: false when it says something else by now.
    pub fn page_cache_cmpxchg(&self, file: FileId, index: u32, expected: CacheEntry, new: CacheEntry) -> bool {
        let s = &mut *self.s();
        let same = s.w.files[file as usize].get(index) == expected;
        if same {
            s.set_cache_entry(file, index, new);
        }
        same
    }

    /// `__folio_migrate_mapping()` of a folio of the page cache: lets `dst` take the place of `src`.
    pub fn page_cache_migrate(&self, src: Pfn, dst: Pfn) {
        let f = self.folio(src);
        let Some(file) = f.file() else { return };
        let s = &mut *self.s();
        (0..f.nr_pages()).for_each(|i| s.set_cache_entry(file, f.index + i, CacheEntry::Folio(dst)));
        let new = &mut s.w.mem.folios[dst as usize];
        (new.mapping, new.index) = (f.mapping, f.index);
        s.w.mem.folios[src as usize].mapping = 0;
        s.add_refs(dst, f.nr_pages() as i32);
        s.touch_folio(src);
    }

    /// What `__split_huge_page()` does to the page cache: each page of what was one folio is found by its own index, and
    /// holds the reference of its own.
    pub fn page_cache_split(&self, folio: Pfn, pages: u32) {
        let f = self.folio(folio);
        let Some(file) = f.file() else { return };
        let s = &mut *self.s();
        for i in 1..pages {
            let tail = &mut s.w.mem.folios[(folio + i) as usize];
            (tail.mapping, tail.index) = (f.mapping, f.index + i);
            s.set_cache_entry(file, f.index + i, CacheEntry::Folio(folio + i));
            s.add_refs(folio + i, 1);
        }
        s.sub_refs(self.id, folio, pages as i32 - 1);
    }
}
