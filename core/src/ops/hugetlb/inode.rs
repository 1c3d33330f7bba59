//! `fs/hugetlbfs/inode.c`: the file of `hugetlbfs` becomes shorter or gets holes.

use super::reserve::{file_mutex, hugetlb_unreserve_pages, hugetlb_vma_trylock_write, hugetlb_vma_unlock_write};
use super::zap::unmap_hugepage_range;
use crate::config::{Defect, MAX_CPUS};
use crate::entry::PmdKind;
use crate::mm::VmaId;
use crate::observe::{HUGETLBFS, Outcome};
use crate::ops::huge::pmd_folio;
use crate::ops::zap::ZapDetails;
use crate::phys::{CacheEntry, Pfn};
use crate::sched::{Cpu, Lock, Site};
use arrayvec::ArrayVec;
use std::ops::Range;

const I: usize = HUGETLBFS as usize;
/// Private mappings of the file that can be busy at once: each is so for a CPU.
const MAX_BUSY: usize = MAX_CPUS;

/// `hugetlbfs_setattr()` and `hugetlb_vmtruncate()`: only to a whole number of huge pages.
pub async fn hugetlb_vmtruncate(k: &Cpu, size: u32) -> Outcome {
    if !size.is_multiple_of(k.config().geometry.ptrs()) {
        return Outcome::Invalid;
    }
    k.lock(Lock::Inode(HUGETLBFS)).await;
    k.site(Site::TruncateSize).await;
    k.s().w.files[I].size = size;
    k.lock(Lock::IMmapWrite(HUGETLBFS)).await;
    hugetlb_vmdelete_list(k, size, u32::MAX, ZapDetails::UNMAP).await;
    k.unlock(Lock::IMmapWrite(HUGETLBFS));
    remove_inode_hugepages(k, size, u32::MAX, true).await;
    k.unlock(Lock::Inode(HUGETLBFS));
    Outcome::Done
}

/// `hugetlbfs_punch_hole()`: whole pages are taken away, parts are filled with zeroes.
pub async fn hugetlbfs_punch_hole(k: &Cpu, from: u32, to: u32) {
    let ptrs = k.config().geometry.ptrs();
    let (hole_start, hole_end) = (from.next_multiple_of(ptrs), to / ptrs * ptrs);
    k.lock(Lock::Inode(HUGETLBFS)).await;
    k.lock(Lock::IMmapWrite(HUGETLBFS)).await;
    if from < hole_start {
        hugetlbfs_zero_partial_page(k, from, to.min(hole_start)).await;
    }
    if hole_end > hole_start {
        hugetlb_vmdelete_list(k, hole_start, hole_end, ZapDetails { keep_notes: true, ..ZapDetails::ALL }).await;
    }
    if to > hole_end && to > hole_start {
        hugetlbfs_zero_partial_page(k, hole_end.max(hole_start), to).await;
    }
    k.unlock(Lock::IMmapWrite(HUGETLBFS));
    if hole_end > hole_start {
        remove_inode_hugepages(k, hole_start, hole_end, false).await;
    }
    k.unlock(Lock::Inode(HUGETLBFS));
}

/// `hugetlbfs_evict_inode()`.
pub async fn hugetlbfs_evict_inode(k: &Cpu) {
    remove_inode_hugepages(k, 0, u32::MAX, true).await;
}

/// `hugetlbfs_zero_partial_page()`: a range inside one huge page.
async fn hugetlbfs_zero_partial_page(k: &Cpu, from: u32, to: u32) {
    let head = from / k.config().geometry.ptrs() * k.config().geometry.ptrs();
    let Some(folio) = super::fault::filemap_lock_hugetlb_folio(k, head).await else { return };
    for page in from..to {
        k.s().w.mem.folios[(folio + (page - head)) as usize].data = 0;
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
}

/// Mapping number `i` of the file, and where it shows pages `from..to`.
fn mapping_at(k: &Cpu, i: usize, from: u32, to: u32) -> Option<(VmaId, Range<u32>)> {
    let s = k.s();
    let id = *s.w.i_mmaps[I].vmas.get(i)?;
    let v = &s.w.vmas[id];
    let (first, end) = (from.max(v.pgoff), to.min(v.linear_page_index(v.end)));
    let at = |page: u32| v.start + (page - v.pgoff);
    Some((id, if first < end { at(first)..at(end) } else { 0..0 }))
}

/// `hugetlb_vmdelete_list()`, with `i_mmap_rwsem` held for writing. Mappings whose lock is taken are left for later: for
/// [`remove_inode_hugepages()`], which finds pages of the file by their mappings. Here we differ from the kernel, where private
/// copies stay for good then (N25).
async fn hugetlb_vmdelete_list(k: &Cpu, from: u32, to: u32, details: ZapDetails) {
    let mut busy = ArrayVec::<VmaId, MAX_BUSY>::new();
    let mut i = 0;
    while let Some((vma, range)) = mapping_at(k, i, from, to) {
        i += 1;
        if range.is_empty() {
            continue;
        }
        k.site(Site::HugetlbUnmap).await;
        if hugetlb_vma_trylock_write(k, vma).await {
            unmap_hugepage_range(k, vma, range, None, details).await;
            hugetlb_vma_unlock_write(k, vma);
        } else if !k.s().w.vmas[vma].shared() && !k.has(Defect::N25) {
            // The same mapping twice does no harm, nor does one that is gone.
            busy.try_push(vma).unwrap_or_default();
        }
    }
    for vma in busy {
        unmap_busy(k, vma, from..to, details).await;
    }
}

/// The same of a mapping whose lock was taken: gives `i_mmap_rwsem` back until it is free.
async fn unmap_busy(k: &Cpu, vma: VmaId, pages: Range<u32>, details: ZapDetails) {
    loop {
        k.unlock(Lock::IMmapWrite(HUGETLBFS));
        k.wait_for_hugetlb_vma(vma).await;
        k.lock(Lock::IMmapWrite(HUGETLBFS)).await;
        let place = (0..).map_while(|i| mapping_at(k, i, pages.start, pages.end)).find(|(v, _)| *v == vma);
        let Some((_, range)) = place.filter(|(_, range)| !range.is_empty()) else { return };
        if hugetlb_vma_trylock_write(k, vma).await {
            unmap_hugepage_range(k, vma, range, None, details).await;
            hugetlb_vma_unlock_write(k, vma);
            return;
        }
    }
}

/// `hugetlb_vma_maps_page()`.
fn hugetlb_vma_maps_page(k: &Cpu, vma: VmaId, address: u32, folio: Pfn) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = k.pmd_offset(mm, address) else { return false };
    let pmd = k.pmdp_get(p);
    k.entries().pmd_kind(pmd) == PmdKind::Huge && pmd_folio(k, pmd) == folio
}

/// `hugetlb_unmap_file_folio()`: with the fault mutex held, so that nobody can map it again.
async fn hugetlb_unmap_file_folio(k: &Cpu, folio: Pfn, index: u32) {
    let ptrs = k.config().geometry.ptrs();
    loop {
        k.lock(Lock::IMmapWrite(HUGETLBFS)).await;
        let mut busy = None;
        let mut i = 0;
        while let Some((vma, range)) = mapping_at(k, i, index, index + ptrs) {
            i += 1;
            if range.is_empty() || !hugetlb_vma_maps_page(k, vma, range.start, folio) {
                continue;
            }
            if !hugetlb_vma_trylock_write(k, vma).await {
                busy = Some(vma);
                break;
            }
            unmap_hugepage_range(k, vma, range, None, ZapDetails::UNMAP).await;
            hugetlb_vma_unlock_write(k, vma);
        }
        k.unlock(Lock::IMmapWrite(HUGETLBFS));
        // Locks in order: then look again. (The kernel unmaps at once if the mapping is still there.)
        let Some(vma) = busy else { return };
        k.wait_for_hugetlb_vma(vma).await;
    }
}

/// `remove_inode_single_folio()`, with the fault mutex held.
async fn remove_inode_single_folio(k: &Cpu, folio: Pfn, index: u32, truncate_op: bool) {
    let late = k.has(Defect::H1);
    if !late {
        k.lock(Lock::Folio(folio)).await;
    }
    // Faulted in since it was unmapped, or passed over then. Under the folio lock nobody migrates it.
    if k.folio_mapped(folio) {
        hugetlb_unmap_file_folio(k, folio, index).await;
    }
    if late {
        k.lock(Lock::Folio(folio)).await;
    }
    k.site(Site::CacheRemove).await;
    k.hugetlb_delete_from_page_cache(folio);
    if !truncate_op {
        let ptrs = k.config().geometry.ptrs();
        hugetlb_unreserve_pages(&mut k.s(), index / ptrs, index / ptrs + 1, 1);
    }
    k.folio_unlock(folio);
}

/// The page of the file at an index, if it is there, with a reference.
fn filemap_get_folio(k: &Cpu, index: u32) -> Option<Pfn> {
    let CacheEntry::Folio(folio) = k.cache_entry(HUGETLBFS, index) else { return None };
    k.folio_get(folio);
    Some(folio)
}

/// `remove_inode_hugepages()`. What a hole takes away is reserved no longer; where nothing was, reservations stay.
async fn remove_inode_hugepages(k: &Cpu, from: u32, to: u32, truncate_op: bool) {
    let ptrs = k.config().geometry.ptrs();
    let end = k.config().geometry.region_pages().min(to);
    let mut freed = 0;
    for index in (from..end).step_by(ptrs as usize) {
        // filemap_get_folios()
        let mut found = filemap_get_folio(k, index);
        if found.is_none() && k.has(Defect::N20) {
            continue;
        }
        k.site(Site::HugetlbRemove).await;
        let mutex = file_mutex(index / ptrs);
        k.lock(mutex).await;
        // Here we differ from the kernel, which takes the mutex only where it has found a page (N20): a fault that has looked
        // at the size of the file before may be about to add one.
        found = found.or_else(|| filemap_get_folio(k, index));
        if let Some(folio) = found {
            remove_inode_single_folio(k, folio, index, truncate_op).await;
            freed += 1;
        }
        k.unlock(mutex);
        if let Some(folio) = found {
            k.folio_put(folio);
        }
    }
    if truncate_op {
        hugetlb_unreserve_pages(&mut k.s(), from / ptrs, u32::MAX, freed);
    }
}
