//! Hugetlb pages taken out of page tables.

use super::reserve::{
    hugetlb_vma_lock_write, hugetlb_vma_unlock_write, vma_add_reservation, vma_needs_reservation, vma_private_lock,
};
use super::share::{Unshared, adjust_range_if_pmd_sharing_possible, huge_pmd_unshare, huge_pmd_unshare_flush};
use super::uffd::huge_marker;
use crate::config::Defect;
use crate::entry::{PTE_MARKER_UFFD_WP, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::ops::huge::pmd_folio;
use crate::ops::task_mmu::pte_uffd_wp_any;
use crate::ops::zap::{MmuGather, ZapDetails};
use crate::phys::{HpageFlags, Pfn};
use crate::sched::{Cpu, Lock, NotifyEvent};
use crate::trace::Note;

/// `unmap_single_vma()` of hugetlb memory, with `hugetlb_zap_begin()` and `hugetlb_zap_end()`.
pub async fn unmap_single_hugetlb_vma(k: &Cpu, tlb: &mut MmuGather, vma: VmaId, start: u32, end: u32) {
    let Some(mapping) = k.s().w.vmas[vma].backing.mapping() else { return };
    hugetlb_vma_lock_write(k, vma).await;
    k.lock(Lock::IMmapWrite(mapping)).await;
    unmap_hugepage_range_locked(k, tlb, vma, start..end, None).await;
    // ZAP_FLAG_UNMAP: from now on nobody may share a table of what is about to lose its tables.
    k.s().w.vmas[vma].hugetlb.closing |= tlb.unmaps();
    hugetlb_vma_unlock_write(k, vma);
    k.unlock(Lock::IMmapWrite(mapping));
}

/// `zap_page_range_single()` of hugetlb memory.
pub async fn zap_hugetlb_page_range_single(k: &Cpu, vma: VmaId, start: u32, end: u32, details: ZapDetails) {
    let mm = k.s().w.vmas[vma].mm;
    let mut tlb = MmuGather::with(k, mm, details);
    let range = adjust_range_if_pmd_sharing_possible(k, vma, start..end);
    k.mmu_notifier_invalidate_range_start(mm, range.start, range.end, NotifyEvent::Clear).await;
    unmap_single_hugetlb_vma(k, &mut tlb, vma, start, end).await;
    k.mmu_notifier_invalidate_range_end(mm).await;
    tlb.finish(k).await;
}

/// `unmap_hugepage_range()`, with `i_mmap_rwsem` held for writing.
pub(super) async fn unmap_hugepage_range(
    k: &Cpu,
    vma: VmaId,
    range: std::ops::Range<u32>,
    ref_page: Option<Pfn>,
    details: ZapDetails,
) {
    let mm = k.s().w.vmas[vma].mm;
    let mut tlb = MmuGather::with(k, mm, details);
    let adjusted = adjust_range_if_pmd_sharing_possible(k, vma, range.clone());
    k.mmu_notifier_invalidate_range_start(mm, adjusted.start, adjusted.end, NotifyEvent::Clear).await;
    unmap_hugepage_range_locked(k, &mut tlb, vma, range, ref_page).await;
    k.mmu_notifier_invalidate_range_end(mm).await;
    tlb.finish(k).await;
}

/// `__unmap_hugepage_range()`; with `ref_page` only where that is mapped.
async fn unmap_hugepage_range_locked(
    k: &Cpu,
    tlb: &mut MmuGather,
    vma: VmaId,
    range: std::ops::Range<u32>,
    ref_page: Option<Pfn>,
) {
    let mm = k.s().w.vmas[vma].mm;
    let mut unshared = Unshared::default();
    for address in range.step_by(k.config().geometry.ptrs() as usize) {
        let Some(p) = k.pmd_offset(mm, address) else { continue };
        k.pmd_lock(p).await;
        let folio = if huge_pmd_unshare(k, &mut unshared, vma, p).await {
            None
        } else {
            unmap_hugepage(k, tlb, vma, p, ref_page).await
        };
        k.pmd_unlock(p);
        let Some(folio) = folio else { continue };
        restore_reservation(k, vma, address, folio);
        tlb.remove_huge_page(k, folio).await;
        if ref_page.is_some() {
            break;
        }
    }
    if !k.has(Defect::H3) {
        huge_pmd_unshare_flush(k, mm, unshared).await;
    }
}

/// The part of the loop with the PMD locked: the folio that was mapped.
async fn unmap_hugepage(k: &Cpu, tlb: &mut MmuGather, vma: VmaId, p: PmdPtr, ref_page: Option<Pfn>) -> Option<Pfn> {
    let pmd = k.pmdp_get(p);
    match k.entries().pmd_kind(pmd) {
        PmdKind::Huge => {}
        PmdKind::None | PmdKind::Table => return None,
        // Unmapped already, and without a reference.
        _ => {
            // pte_swp_uffd_wp_any()
            let kept = pte_uffd_wp_any(k, k.entries().pmd_as_pte(pmd)) && !tlb.drops_markers();
            if kept {
                k.set_pmd_at(p, huge_marker(k, PTE_MARKER_UFFD_WP)).await;
            } else {
                k.pmdp_huge_get_and_clear(p).await;
            }
            return None;
        }
    }
    let folio = pmd_folio(k, pmd);
    if let Some(page) = ref_page {
        if page != folio {
            return None;
        }
        // A later fault must not find zeroes where data were.
        k.s().w.vmas[vma].hugetlb.unmapped = true;
        k.note(Note::HugetlbTaken, Some(folio), u32::from(p.mm), 0);
    }
    let old = k.pmdp_huge_get_and_clear(p).await;
    tlb.remove_huge_tlb_entry(k, p.vpn);
    if k.pte_dirty(k.arch().pmd_leaf(old)) {
        k.folio_mark_dirty(folio);
    }
    if k.pte_uffd_wp(k.arch().pmd_leaf(old)) && !tlb.drops_markers() {
        k.set_pmd_at(p, huge_marker(k, PTE_MARKER_UFFD_WP)).await;
    }
    k.hugetlb_remove_rmap(folio);
    Some(folio)
}

/// The owner of a private mapping that drops a page has the promise of a page again, unless the page goes back to the
/// allocator. Here we differ from the kernel, which does not ask whether somebody else has hold of the page: the mapping has the
/// promise at once then, and the pool when the page is free (N26).
fn restore_reservation(k: &Cpu, vma: VmaId, address: u32, folio: Pfn) {
    let restores = k.s().w.hugetlb.surplus == 0 && vma_private_lock(k, vma) && k.folio(folio).anon();
    let stays =
        if k.folio_mapped(folio) { !k.has(Defect::H5) } else { k.folio_ref_count(folio) > 1 && !k.has(Defect::N26) };
    if !restores || stays {
        return;
    }
    k.hpage_set(folio, HpageFlags::RESTORE_RESERVE);
    let s = &mut *k.s();
    if vma_needs_reservation(s, vma, address) {
        vma_add_reservation(s, vma, address);
    }
}

/// `unmap_ref_private()`: takes a page out of the mappings of all who were forked from the owner of a mapping.
pub(super) async fn unmap_ref_private(k: &Cpu, vma: VmaId, page: Pfn, address: u32) {
    let (mapping, pgoff) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.backing.mapping(), v.linear_page_index(address))
    };
    let Some(mapping) = mapping else { return };
    k.lock(Lock::IMmapWrite(mapping)).await;
    let vma_at = |k: &Cpu, i: usize| k.s().w.i_mmaps[usize::from(mapping)].vmas.get(i).copied();
    let mut i = 0;
    while let Some(iter) = vma_at(k, i) {
        i += 1;
        let at = {
            let s = k.s();
            let v = &s.w.vmas[iter];
            v.address(pgoff).filter(|_| iter != vma && !v.shared() && !v.hugetlb.owner)
        };
        if let Some(at) = at {
            let end = at + k.config().geometry.ptrs();
            unmap_hugepage_range(k, iter, at..end, Some(page), ZapDetails::ALL).await;
        }
    }
    k.unlock(Lock::IMmapWrite(mapping));
}
