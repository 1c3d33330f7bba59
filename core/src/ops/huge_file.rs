//! `mm/huge_memory.c`, `mm/memory.c`, `mm/filemap.c`: huge pages of `tmpfs` files.
//!
//! A huge folio of the page cache is mapped by a PMD where the mapping permits it, else by PTEs. No table is left with such
//! a PMD: to split it means to take it away, as faults bring its pages back one by one. Left out: large folios of other
//! file systems, of `tmpfs` below PMD size, and of devices.

use super::filemap::filemap_remove_folio;
use super::huge::pmd_folio;
use super::huge_zero::pmdp_huge_clear_flush;
use super::pgtable::{pmd_alloc, pte_alloc};
use super::unmap::try_to_unmap_locked;
use super::vmf::{VmFault, maybe_mkwrite};
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, Thp, VmaId};
use crate::observe::FileId;
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// `folio_test_pmd_mappable()`.
pub fn folio_test_pmd_mappable(k: &Cpu, folio: Pfn) -> bool {
    let s = k.s();
    s.folio(folio).order == s.pmd_order()
}

/// `do_set_pmd()`: maps a huge folio of the page cache whole, if it fits into the mapping and nothing is mapped there. Takes
/// the mapping's own reference. False is `VM_FAULT_FALLBACK`.
async fn do_set_pmd(k: &Cpu, vmf: &VmFault, p: PmdPtr, folio: Pfn) -> bool {
    let (suitable, prot, pages) = {
        let s = k.s();
        let (v, f, pages) = (&s.w.vmas[vmf.vma], s.folio(folio), s.w.geometry().ptrs());
        // vma_thp_disabled(), thp_vma_suitable_order()
        let inside = v.start <= p.vpn && p.vpn + pages <= v.end;
        // folio_test_has_hwpoisoned()
        let failed = s.w.mem.has_hwpoisoned(folio);
        let suitable = v.thp != Thp::Never && inside && v.linear_page_index(p.vpn) == f.index && !failed;
        (suitable, s.w.page_prot(vmf.vma), pages)
    };
    if !suitable {
        return false;
    }
    let arch = k.arch();
    k.pmd_lock(p).await;
    let none = k.pmd_kind(p) == PmdKind::None;
    if none {
        let mut entry = arch.pfn_pte(u64::from(folio), prot);
        if vmf.write {
            entry = maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(entry));
        }
        k.add_mm_counter(vmf.mm, folio, pages as i32);
        k.folio_get(folio);
        k.folio_add_file_rmap_pmd(folio);
        k.set_pmd_at(p, arch.pte_mkhuge(entry)).await;
    }
    k.pmd_unlock(p);
    none
}

/// `set_huge_pmd()` of `mm/khugepaged.c`: maps a huge folio as a read fault would.
pub async fn set_huge_pmd(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn) -> bool {
    let vmf = VmFault::new(k, vma, p.vpn, false);
    do_set_pmd(k, &vmf, p, folio).await
}

/// The head of `finish_fault()`, and `filemap_map_pmd()`: when nothing serves the address yet, maps a huge folio whole, or
/// makes a table. True when a PMD maps the page now, so that nothing is left to do.
pub async fn map_pmd_or_alloc_table(k: &Cpu, vmf: &VmFault, folio: Pfn) -> bool {
    if k.pte_offset(vmf.mm, vmf.vpn).is_some() {
        return false;
    }
    if folio_test_pmd_mappable(k, folio) {
        let p = pmd_alloc(k, vmf.mm, vmf.vpn).await;
        let kind = k.pmd_kind(p);
        if kind == PmdKind::Huge || kind == PmdKind::None && do_set_pmd(k, vmf, p, folio).await {
            return true;
        }
    }
    pte_alloc(k, vmf.mm, vmf.vpn).await;
    false
}

/// `__split_huge_pmd_locked()` in a mapping of a file: the PMD goes, and what it knew of the pages goes to the folio.
pub async fn split_file_pmd(k: &Cpu, p: PmdPtr) {
    let ec = k.entries();
    let old = pmdp_huge_clear_flush(k, p).await;
    let pages = k.config().geometry.ptrs() as i32;
    let leaf = ec.pmd_as_pte(old);
    if let PmdKind::Migration(_) = ec.pmd_kind(old) {
        let folio = k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(leaf)));
        k.add_mm_counter(p.mm, folio, -pages);
        return;
    }
    let folio = pmd_folio(k, old);
    if k.pte_dirty(leaf) && !k.has(Defect::T9) {
        k.folio_mark_dirty(folio);
    }
    if k.pte_young(leaf) {
        k.folio_set(folio, Flags::REFERENCED);
    }
    k.folio_remove_rmap_pmd(folio);
    k.munlock_page_at(folio, p.mm, p.vpn);
    k.add_mm_counter(p.mm, folio, -pages);
    k.folio_put(folio);
}

/// `split_huge_page_to_list_to_order()` of a folio of the page cache, to order 0: it is unmapped, not replaced by migration
/// entries, and what lies behind the end of the file leaves the page cache. The rest is as in `split_folio_at()`.
pub async fn split_file_folio(k: &Cpu, folio: Pfn, file: FileId, keep: Pfn) -> bool {
    let pages = k.folio_nr_pages(folio);
    k.lock(Lock::IMmapRead(file)).await;
    // Do not split beyond the end.
    let end = k.i_size_read(file);
    let alone = |k: &Cpu| k.folio_ref_count(folio) == 1 + pages as i32 + k.folio_mapcount(folio);
    let mut split = false;
    if alone(k) {
        k.site(Site::SplitUnmap).await;
        // unmap_folio()
        try_to_unmap_locked(k, folio).await;
        k.site(Site::SplitFreeze).await;
        split = alone(k) && !k.folio_mapped(folio);
    }
    if split {
        split_frozen_file(k, folio, keep, end).await;
    }
    k.unlock(Lock::IMmapRead(file));
    let f = k.folio(folio);
    k.note(if split { Note::FolioSplit } else { Note::NotSplit }, Some(folio), f.refcount as u32, f.mapcount as u32);
    split
}

/// `__split_huge_page()`: nobody but the caller and the page cache refers to the folio.
async fn split_frozen_file(k: &Cpu, folio: Pfn, keep: Pfn, end: u32) {
    // By the caller, as in `split_frozen()`.
    let isolated = !k.folio_test(folio, Flags::LRU);
    let (index, pages) = {
        let s = k.s();
        (s.folio(folio).index, s.folio(folio).nr_pages())
    };
    // Whatever unmaps a locked page unlocks it; but who unlocks takes the lock off the mapping first.
    let missed = k.folio_test(folio, Flags::MLOCKED);
    k.folio_dissolve(folio);
    for page in folio..folio + pages {
        k.s().w.mem.folios[page as usize].ghost.munlock_missed = missed;
    }
    k.page_cache_split(folio, pages);
    for tail in folio + 1..folio + pages {
        if isolated {
            k.folio_get(tail);
        }
        if index + (tail - folio) >= end {
            filemap_remove_folio(k, tail).await;
        }
    }
    for page in (folio..folio + pages).filter(|page| *page != keep) {
        if page == folio {
            k.folio_unlock(page);
        } else {
            k.folio_unlock_many(page);
        }
        k.folio_put(page);
    }
}
