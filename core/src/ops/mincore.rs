//! `mm/mincore.c`: which pages of a range could be accessed without reading anything.

use super::hugetlb::is_vm_hugetlb_page;
use crate::mm::VmaId;
use crate::observe::{FileId, Observation, Outcome, SHMEM};
use crate::phys::{CacheEntry, Flags};
use crate::sched::{Cpu, Lock};

/// `mincore(2)`: VMA by VMA up to the first hole. `mmap_lock` is dropped between two VMAs.
pub async fn mincore(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    let mut at = start;
    while at < end {
        k.lock(Lock::MmapRead(mm)).await;
        let vma = k.s().w.vma_lookup(mm, at);
        if let Some(vma) = vma {
            let to = k.s().w.vmas[vma].end.min(end);
            for vpn in at..to {
                mincore_page_range(k, vma, vpn).await;
            }
            at = to;
        }
        k.unlock(Lock::MmapRead(mm));
        if vma.is_none() {
            return Outcome::NoMem;
        }
    }
    Outcome::Done
}

/// `mincore_pte_range()`, `mincore_hugetlb()` and `mincore_unmapped_range()`, of one page.
async fn mincore_page_range(k: &Cpu, vma: VmaId, vpn: u32) {
    let (arch, ec) = (k.arch(), k.entries());
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await {
        tell(k, mm, vpn, true);
        k.pmd_unlock(p);
        return;
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else {
        // Hugetlb pages have no tables, and are there or not.
        let huge = k.pmd_offset(mm, vpn).is_some_and(|p| !k.pmd_kind(p).none_mostly());
        let resident = huge && is_vm_hugetlb_page(k, vma) || mincore_unmapped(k, vma, vpn);
        tell(k, mm, vpn, resident);
        return;
    };
    let pte = k.ptep_get(p);
    let resident = if ec.pte_none_mostly(pte) {
        // Of a marker, too, the page cache has to tell.
        mincore_unmapped(k, vma, vpn)
    } else if arch.pte_present(pte) {
        true
    } else {
        // What is being migrated is there, and so is, as far as this goes, what a device has and what has failed.
        let entry = k.pte_to_swp_entry(pte);
        ec.non_swap_entry(entry) || in_swap_cache(k, k.swp_slot(entry))
    };
    tell(k, mm, vpn, resident);
    k.pte_unmap_unlock(p);
}

fn tell(k: &Cpu, mm: u8, vpn: u32, resident: bool) {
    let op = k.op();
    k.s().observe(Observation::Resident { op, proc: mm, vpn, resident });
}

/// `__mincore_unmapped_range()` of one page.
fn mincore_unmapped(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let found = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        v.backing.file().map(|file| (file, v.linear_page_index(vpn)))
    };
    found.is_some_and(|(file, index)| mincore_page(k, file, index))
}

/// `mincore_page()` of a file: a page of `tmpfs` may be in the swap cache.
fn mincore_page(k: &Cpu, file: FileId, index: u32) -> bool {
    match k.cache_entry(file, index) {
        CacheEntry::Empty | CacheEntry::Poisoned => false,
        CacheEntry::Folio(folio) => k.folio_test(folio, Flags::UPTODATE),
        CacheEntry::Swap(slot) => file == SHMEM && in_swap_cache(k, slot),
    }
}

/// `mincore_page()` of a slot.
fn in_swap_cache(k: &Cpu, slot: u32) -> bool {
    k.slot(slot).cache.is_some_and(|folio| k.folio_test(folio, Flags::UPTODATE))
}
