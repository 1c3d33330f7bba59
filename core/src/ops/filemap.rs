//! `mm/filemap.c`: finding pages in the page cache, reading them from the disk, mapping those around a fault.

use super::file_fault::set_pte_range;
use super::huge_file::map_pmd_or_alloc_table;
use super::truncate::{mapping_evict_folio, unmap_mapping_folio};
use super::vmf::{FaultResult, VmFault};
use crate::mm::PtePtr;
use crate::observe::{FileId, SHMEM};
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};

/// `fault_around_bytes` in pages: 64 KiB in the kernel, here what leaves room for several in a small table.
const FAULT_AROUND_PAGES: u32 = 4;

/// `filemap_get_entry()`: what the cache holds at an index; a folio with a reference.
pub async fn filemap_get_entry(k: &Cpu, file: FileId, index: u32) -> CacheEntry {
    k.site(Site::CacheLookup).await;
    let entry = k.cache_entry(file, index);
    if let CacheEntry::Folio(folio) = entry {
        k.folio_get(folio);
    }
    entry
}

/// `filemap_add_folio()`: false (`-EEXIST`) when `expected` is not there any more.
pub async fn filemap_add_folio(k: &Cpu, file: FileId, index: u32, folio: Pfn, expected: CacheEntry) -> bool {
    k.site(Site::CacheAdd).await;
    let added = k.page_cache_add(file, index, folio, expected);
    if added {
        k.folio_add_lru(folio);
    }
    added
}

/// `filemap_remove_folio()`: with the cache's references.
pub async fn filemap_remove_folio(k: &Cpu, folio: Pfn) {
    k.assert_folio_locked(folio);
    k.site(Site::CacheRemove).await;
    k.bug_on_cache_mapped(folio);
    let pages = k.folio_nr_pages(folio);
    k.page_cache_remove(folio, CacheEntry::Empty);
    k.folio_put_refs(folio, pages as i32);
}

/// True when a locked folio is still the one at this index of the file (`folio_contains()`).
pub fn folio_is_at(k: &Cpu, folio: Pfn, file: FileId, index: u32) -> bool {
    let f = k.folio(folio);
    f.file() == Some(file) && (f.index..f.index + f.nr_pages()).contains(&index)
}

/// Locks a folio that was found at this index, and looks again. False, without lock and reference, when it has left by now.
pub async fn lock_folio_at(k: &Cpu, folio: Pfn, file: FileId, index: u32) -> bool {
    k.lock(Lock::Folio(folio)).await;
    let there = folio_is_at(k, folio, file, index);
    if !there {
        k.folio_unlock(folio);
        k.folio_put(folio);
    }
    there
}

/// `folio_file_page()`: the page of a folio that shows an index of its file.
pub fn folio_file_page(k: &Cpu, folio: Pfn, index: u32) -> Pfn {
    folio + (index - k.folio(folio).index)
}

/// `filemap_fault()`: the folio of a regular file, locked and with a reference.
///
/// Left out: readahead, dropping `mmap_lock` while waiting for the folio lock or the disk, read errors.
pub async fn filemap_fault(k: &Cpu, file: FileId, index: u32) -> Result<Pfn, FaultResult> {
    loop {
        if index >= k.i_size_read(file) {
            return Err(FaultResult::SigBus);
        }
        let folio = match filemap_get_entry(k, file, index).await {
            CacheEntry::Folio(folio) => folio,
            CacheEntry::Empty | CacheEntry::Swap(_) | CacheEntry::Poisoned => {
                filemap_create_folio(k, file, index).await?;
                continue;
            }
        };
        k.lock(Lock::Folio(folio)).await;
        // Did it get truncated?
        if !folio_is_at(k, folio, file, index) || !k.folio_test(folio, Flags::UPTODATE) {
            k.folio_unlock(folio);
            k.folio_put(folio);
            continue;
        }
        // Found the page and have a reference on it: i_size is checked again under its lock.
        if index >= k.i_size_read(file) {
            k.folio_unlock(folio);
            k.folio_put(folio);
            return Err(FaultResult::SigBus);
        }
        return Ok(folio);
    }
}

/// `filemap_create_folio()`: a new folio, read from the disk under `invalidate_lock`, so that no hole is punched
/// between the read and the moment at which the folio can be found.
async fn filemap_create_folio(k: &Cpu, file: FileId, index: u32) -> Result<(), FaultResult> {
    let Some(folio) = k.folio_alloc() else { return Err(FaultResult::Oom) };
    k.lock(Lock::InvalidateRead(file)).await;
    k.folio_lock_new(folio);
    if filemap_add_folio(k, file, index, folio, CacheEntry::Empty).await {
        k.site(Site::FileRead).await;
        let s = &mut *k.s();
        let data = s.w.files[file as usize].disk(index);
        let f = &mut s.w.mem.folios[folio as usize];
        f.data = data;
        f.flags.set(Flags::UPTODATE);
    }
    k.folio_unlock(folio);
    k.unlock(Lock::InvalidateRead(file));
    k.folio_put(folio);
    Ok(())
}

/// `mm/readahead.c: force_page_cache_readahead()`: reads the pages of a range that are not in the cache, up to the end of
/// the file.
pub async fn force_page_cache_readahead(k: &Cpu, file: FileId, from: u32, to: u32) {
    for index in from..to.min(k.i_size_read(file)) {
        if k.cache_entry(file, index) == CacheEntry::Empty && filemap_create_folio(k, file, index).await.is_err() {
            break;
        }
    }
}

/// `do_fault_around()` and `filemap_map_pages()`: maps what is in the cache around a read fault. True when the
/// page itself is mapped now.
pub async fn filemap_map_pages(k: &Cpu, vmf: &VmFault, file: FileId) -> bool {
    let (start, end, pgoff) = {
        let s = k.s();
        let vma = &s.w.vmas[vmf.vma];
        let from = vmf.vpn / FAULT_AROUND_PAGES * FAULT_AROUND_PAGES;
        let (start, end) = (from.max(vma.start), (from + FAULT_AROUND_PAGES).min(vma.end));
        (start, end, vma.linear_page_index(start))
    };
    let size = k.i_size_read(file);
    let mut mapped = false;
    let mut table: Option<PtePtr> = None;
    for vpn in start..end {
        let index = pgoff + (vpn - start);
        let Some(folio) = next_uptodate_folio(k, file, index, size) else { continue };
        if table.is_none() {
            if map_pmd_or_alloc_table(k, vmf, folio).await {
                k.folio_unlock(folio);
                k.folio_put(folio);
                return true;
            }
            k.site(Site::FaultAround).await;
            table = k.pte_offset_map_lock(vmf.mm, start).await;
        }
        if let Some(first) = table {
            let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
            if k.pte_none_not_special(k.ptep_get(p)) {
                set_pte_range(k, vmf, p, folio_file_page(k, folio, index), vpn != vmf.vpn).await;
                mapped |= vpn == vmf.vpn;
            }
        }
        k.folio_unlock(folio);
        k.folio_put(folio);
        if table.is_none() {
            return false;
        }
    }
    if let Some(first) = table {
        k.pte_unmap_unlock(first);
    }
    mapped
}

/// `next_uptodate_folio()` of one index: locked, with a reference; passed over when that is not to be had at once.
fn next_uptodate_folio(k: &Cpu, file: FileId, index: u32, size: u32) -> Option<Pfn> {
    let CacheEntry::Folio(folio) = k.cache_entry(file, index) else { return None };
    let f = k.folio(folio);
    // filemap_map_folio_range() passes over pages that have failed.
    let failed = k.folio_test(folio + (index - f.index), Flags::HWPOISON);
    if index >= size || f.locked_by != 0 || !f.flags.has(Flags::UPTODATE) || failed {
        return None;
    }
    k.folio_lock_new(folio);
    k.folio_get(folio);
    Some(folio)
}

/// `__do_fault()`: the folio that a mapping shows at an index (`vm_ops->fault`), locked and with a reference; not one whose
/// memory has failed.
pub async fn vma_fault(k: &Cpu, vmf: &VmFault, file: FileId, index: u32) -> Result<Pfn, FaultResult> {
    let folio = if file == SHMEM {
        super::shmem::shmem_fault(k, vmf, index).await?
    } else {
        filemap_fault(k, file, index).await?
    };
    if !k.folio_test(folio_file_page(k, folio, index), Flags::HWPOISON) {
        return Ok(folio);
    }
    if k.folio_mapped(folio) {
        unmap_mapping_folio(k, folio, file).await;
    }
    // Try again if it was clean and is gone now.
    let evicted = mapping_evict_folio(k, folio);
    k.folio_unlock(folio);
    k.folio_put(folio);
    Err(if evicted { FaultResult::Done } else { FaultResult::HwPoison })
}
