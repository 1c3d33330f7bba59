//! `mm/khugepaged.c`: small pages of a `tmpfs` file become one huge folio.
//!
//! The pages are locked, unmapped and isolated one by one, copied, and replaced in the page cache in one step. After that
//! the huge folio, still locked, is mapped nowhere, and the tables that mapped its pages go ([`super::retract`]), so that
//! the next fault maps it by a PMD. Left out: read-only files of other file systems (`CONFIG_READ_ONLY_THP_FOR_FS`), memory
//! errors while pages are copied, and the retry entries that stand in holes while `i_pages` is locked: nobody could see them
//! here, as what is done under that lock is one step.

use super::huge_file::folio_test_pmd_mappable;
use super::khugepaged::{By, Scan, is_refcount_suitable, max_ptes_swap};
use super::retract::{collapse_pte_mapped_thp, retract_page_tables};
use super::shmem::shmem_get_folio_noalloc;
use super::unmap::{Ttu, try_to_unmap};
use super::vma_lock::vma_start_write;
use crate::config::Design;
use crate::mm::VmaId;
use crate::observe::SHMEM;
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};
use arrayvec::ArrayVec;

/// Pages of one huge folio, on any geometry.
const MAX_PAGES: usize = 512;
type Pagelist = ArrayVec<Pfn, MAX_PAGES>;

/// `hpage_collapse_scan_file()`, and what its caller does next: `collapse_pte_mapped_thp()`, when the page cache has a huge
/// folio already, or when `MADV_COLLAPSE` is to map it at once.
pub(super) async fn collapse_scan_file(k: &Cpu, mm: u8, haddr: u32, start: u32, by: By) -> Scan {
    k.site(Site::CollapseScan).await;
    let mut result = match scan_file(k, start, by) {
        Scan::Succeed => collapse_file(k, start, by).await,
        result => result,
    };
    if result == Scan::PteMappedHugepage {
        let write = k.uses(Design::RetractWithMmapLock);
        let lock = if write { Lock::MmapWrite(mm) } else { Lock::MmapRead(mm) };
        k.lock(lock).await;
        // Nobody may be in the address space, be it under the lock of a VMA.
        let vma = k.s().w.vma_lookup(mm, haddr);
        if write && let Some(vma) = vma {
            vma_start_write(k, vma).await;
        }
        result = collapse_pte_mapped_thp(k, mm, haddr, by == By::Madvise).await;
        k.unlock(lock);
    }
    result
}

/// The loop of `hpage_collapse_scan_file()`, without locks. `khugepaged_max_ptes_none` is its default, all but one.
fn scan_file(k: &Cpu, start: u32, by: By) -> Scan {
    let ptrs = k.config().geometry.ptrs();
    let (mut present, mut swap) = (0, 0);
    let mut index = start;
    while index < start + ptrs {
        match k.cache_entry(SHMEM, index) {
            CacheEntry::Swap(_) => {
                swap += 1;
                if by == By::Khugepaged && swap > max_ptes_swap(k) {
                    return Scan::Fail;
                }
            }
            CacheEntry::Folio(folio) if folio_test_pmd_mappable(k, folio) => return Scan::PteMappedHugepage,
            CacheEntry::Folio(folio) => {
                if !k.folio_test(folio, Flags::LRU) || !is_refcount_suitable(k, folio) {
                    return Scan::Busy;
                }
                present += 1;
            }
            CacheEntry::Empty | CacheEntry::Poisoned => {}
        }
        index += 1;
    }
    if by == By::Khugepaged && present == 0 { Scan::Fail } else { Scan::Succeed }
}

/// `collapse_file()` as of 6.6, in every release: before, the new folio took each place as the old one left it.
async fn collapse_file(k: &Cpu, start: u32, by: By) -> Scan {
    let order = k.s().pmd_order();
    let Some(new_folio) = k.folio_alloc_order(order) else { return Scan::NoMem };
    k.folio_trylock_many(new_folio);
    k.folio_set(new_folio, Flags::SWAPBACKED);
    let mut pagelist = Pagelist::new();
    let mut result = isolate_pages(k, start, &mut pagelist).await;
    if result == Scan::Succeed {
        k.site(Site::CollapseCopy).await;
        copy_pages(k, start, new_folio, &pagelist);
        result = replace_pages(k, start, new_folio, &pagelist).await;
    }
    if result == Scan::Succeed {
        retract_page_tables(k, SHMEM, start).await;
        if by == By::Madvise {
            result = Scan::PteMappedHugepage;
        }
        k.folio_unlock_many(new_folio);
        // The old folios are nobody's any more.
        for folio in pagelist {
            k.folio_unlock_many(folio);
            k.folio_put_refs(folio, 3);
        }
        k.folio_put(new_folio);
        return result;
    }
    // rollback:
    for folio in pagelist {
        k.folio_unlock_many(folio);
        k.folio_putback_lru(folio);
        k.folio_put(folio);
    }
    k.folio_unlock_many(new_folio);
    k.folio_put(new_folio);
    result
}

/// The loop of `collapse_file()`: each page is locked, taken off the LRU and unmapped, and nobody else may refer to it.
async fn isolate_pages(k: &Cpu, start: u32, pagelist: &mut Pagelist) -> Scan {
    let ptrs = k.config().geometry.ptrs();
    for index in start..start + ptrs {
        k.site(Site::CollapseIsolate).await;
        let folio = match k.cache_entry(SHMEM, index) {
            CacheEntry::Empty => continue,
            CacheEntry::Poisoned => return Scan::Fail,
            CacheEntry::Swap(_) => match shmem_get_folio_noalloc(k, index).await {
                Some(folio) => folio,
                None => return Scan::Fail,
            },
            CacheEntry::Folio(folio) => {
                if !k.folio_trylock_many(folio) {
                    return Scan::Busy;
                }
                k.folio_get(folio);
                folio
            }
        };
        let result = isolate_page(k, folio, index).await;
        if result != Scan::Succeed {
            k.folio_unlock_many(folio);
            k.folio_put(folio);
            return result;
        }
        if pagelist.try_push(folio).is_err() {
            return Scan::Fail;
        }
    }
    if pagelist.is_empty() { Scan::Fail } else { Scan::Succeed }
}

/// One page, locked and with a reference.
async fn isolate_page(k: &Cpu, folio: Pfn, index: u32) -> Scan {
    let f = k.folio(folio);
    if !f.flags.has(Flags::UPTODATE) {
        return Scan::Fail;
    }
    // If the file was truncated and extended, a huge folio might be there already.
    if f.order != 0 {
        return if folio_test_pmd_mappable(k, folio) { Scan::PteMappedHugepage } else { Scan::Fail };
    }
    if f.file() != Some(SHMEM) || f.index != index {
        return Scan::Fail;
    }
    if !k.folio_isolate_lru(folio) {
        return Scan::Busy;
    }
    if k.folio_mapped(folio) {
        try_to_unmap(k, folio, Ttu { ignore_mlock: true, ..Ttu::default() }).await;
    }
    // The caller's reference, the page cache's, and that of the isolation: whoever wants the folio now has to get it from
    // the page cache, and waits for its lock.
    if k.folio_ref_count(folio) != 3 {
        k.folio_putback_lru(folio);
        return Scan::Busy;
    }
    Scan::Succeed
}

/// The old folios are locked, so they do not change any more; what is a hole now is zero.
fn copy_pages(k: &Cpu, start: u32, new_folio: Pfn, pagelist: &Pagelist) {
    for folio in pagelist {
        let index = k.folio(*folio).index;
        k.s().copy_page(*folio, new_folio + (index - start));
    }
}

/// The rest of `collapse_file()` up to `xas_store()`: the holes must still be holes, and nobody may wait to be told of them;
/// then the new folio takes all places.
async fn replace_pages(k: &Cpu, start: u32, new_folio: Pfn, pagelist: &Pagelist) -> Scan {
    let ptrs = k.config().geometry.ptrs();
    let holes = pagelist.len() < ptrs as usize;
    if holes {
        k.lock(Lock::IMmapRead(SHMEM)).await;
    }
    k.site(Site::CacheAdd).await;
    let filled = {
        let s = k.s();
        let empty =
            (start..start + ptrs).filter(|i| s.w.files[usize::from(SHMEM)].get(*i) == CacheEntry::Empty).count();
        empty + pagelist.len() != ptrs as usize
    };
    let missing = holes && {
        let s = k.s();
        let shows = |v: &VmaId| {
            let v = &s.w.vmas[*v];
            v.uffd_missing() && v.pgoff < start + ptrs && start < v.pgoff + (v.end - v.start)
        };
        s.w.i_mmaps[usize::from(SHMEM)].vmas.iter().any(shows)
    };
    let replaced = !filled && !missing;
    if replaced {
        for folio in pagelist {
            k.page_cache_remove(*folio, CacheEntry::Empty);
        }
        k.folio_set(new_folio, Flags::UPTODATE);
        k.folio_mark_dirty(new_folio);
        k.page_cache_add(SHMEM, start, new_folio, CacheEntry::Empty);
        k.folio_add_lru(new_folio);
    }
    if holes {
        k.unlock(Lock::IMmapRead(SHMEM));
    }
    if replaced { Scan::Succeed } else { Scan::Fail }
}
