//! `fs/proc/task_mmu.c`: soft-dirty tracking.

use super::huge::pmd_folio;
use super::huge_protect::clear_soft_dirty_pmd;
use super::hugetlb::is_vm_hugetlb_page;
use super::mmap::nth_vma;
use super::vma_lock::vma_start_write;
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{EntryKind, MigrationKind, PmdKind};
use crate::mm::{PtePtr, VmaId};
use crate::observe::{Observation, Outcome};
use crate::phys::{Flags, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `clear_refs_write()` of `CLEAR_REFS_SOFT_DIRTY`. On an architecture without soft-dirty it invalidates and flushes
/// all the same, but changes no entry.
pub async fn clear_refs(k: &Cpu, mm: u8) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        vma_start_write(k, vma).await;
        k.s().w.vmas[vma].soft_dirty = false;
        i += 1;
    }
    k.mmu_notifier_invalidate_range_start(mm, 0, u32::MAX, NotifyEvent::Clear).await;
    i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        clear_vma(k, mm, vma).await;
        i += 1;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    k.flush_tlb_range(mm, 0, u32::MAX).await;
    k.unlock(Lock::MmapWrite(mm));
    Outcome::Done
}

/// `clear_refs_write()` of `CLEAR_REFS_ALL`: what was used since is known from now on. Nothing is flushed.
pub async fn clear_young(k: &Cpu, mm: u8) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let vma_at = |k: &Cpu, i: usize| {
        let s = k.s();
        let v = &s.w.vmas[*s.w.mms[mm as usize].vmas.get(i)?];
        Some((v.start, v.end, v.backing.hugetlb() || v.backing.pfnmap()))
    };
    let mut i = 0;
    while let Some((start, end, skipped)) = vma_at(k, i) {
        i += 1;
        // clear_refs_walk_ops has no hugetlb_entry(), and clear_refs_test_walk() passes over VM_PFNMAP.
        let mut at = if skipped { end } else { start };
        while at < end {
            let next = k.pmd_addr_end(at, end);
            clear_young_range(k, mm, at, next).await;
            at = next;
        }
    }
    k.unlock(Lock::MmapWrite(mm));
    Outcome::Done
}

/// `clear_refs_pte_range()` without soft-dirty, of what one PMD serves.
async fn clear_young_range(k: &Cpu, mm: u8, start: u32, end: u32) {
    let arch = k.arch();
    if let Some(p) = k.pmd_trans_huge_lock(mm, start).await {
        let pmd = k.pmdp_get(p);
        if k.entries().pmd_kind(pmd) == PmdKind::Huge {
            k.pmdp_update(p, |pte| arch.pte_mkold(pte)).await;
            k.folio_clear(pmd_folio(k, pmd), Flags::REFERENCED);
        }
        k.pmd_unlock(p);
        return;
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let pte = k.ptep_get(p);
        if !arch.pte_present(pte) || k.vm_normal_page(pte) == ZERO_PFN {
            continue;
        }
        k.ptep_update(p, Site::ReferencedEntry, |pte| arch.pte_mkold(pte)).await;
        k.folio_clear(k.page_folio(k.pte_pfn(pte)), Flags::REFERENCED);
    }
    k.pte_unmap_unlock(first);
}

/// `clear_refs_pte_range()` of a whole VMA.
async fn clear_vma(k: &Cpu, mm: u8, vma: VmaId) {
    // clear_refs_walk_ops has no hugetlb_entry(), and clear_refs_test_walk() passes over VM_PFNMAP.
    if is_vm_hugetlb_page(k, vma) || k.s().w.vmas[vma].backing.pfnmap() {
        return;
    }
    let (start, end) = {
        let s = k.s();
        (s.w.vmas[vma].start, s.w.vmas[vma].end)
    };
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        if k.pmd_leaf(mm, at).is_some() && clear_soft_dirty_pmd(k, mm, at).await {
            at = next;
            continue;
        }
        if let Some(first) = k.pte_offset_map_lock(mm, at).await {
            for vpn in at..next {
                clear_soft_dirty(k, PtePtr { index: first.index + (vpn - at), vpn, ..first }).await;
            }
            k.pte_unmap_unlock(first);
        }
        at = next;
    }
}

/// `clear_soft_dirty()`.
async fn clear_soft_dirty(k: &Cpu, p: PtePtr) {
    let arch = k.arch();
    let pte = k.ptep_get(p);
    if k.pte_none(pte) || k.entries().is_swap_special_pte(pte) || !arch.has_soft_dirty() {
        return;
    }
    k.site(Site::ClearRefs).await;
    if !arch.pte_present(pte) {
        k.set_pte_at(p, clear_swap_soft_dirty(k, pte)).await;
        return;
    }
    // pte_is_pinned(): such a page stays soft-dirty, as whoever has pinned it writes without a fault. The kernel takes
    // it for granted that the entry says so; one that has come from device memory may not (N3).
    let pfn = k.vm_normal_page(pte);
    if pfn != ZERO_PFN && k.pte_write(pte) && k.folio(k.page_folio(pfn)).maybe_dma_pinned() {
        if !arch.pte_soft_dirty(pte) && !k.has(Defect::N3) {
            k.ptep_update(p, Site::PteSet, |pte| arch.pte_mksoft_dirty(pte)).await;
        }
        return;
    }
    let old = k.ptep_get_and_clear(p).await;
    let ptent = if k.has(Defect::S13) { old } else { arch.pte_wrprotect(old) };
    k.set_pte_at(p, arch.pte_clear_soft_dirty(ptent)).await;
}

/// The branch of `clear_soft_dirty()` for swap-format entries. Here we differ from the kernel, which leaves writable
/// migration and device-private entries writable (N1, N2): the page would come back writable although it waits for
/// its first write. They become readable instead, as `change_pte_range()` makes them when it takes write
/// permission away.
fn clear_swap_soft_dirty(k: &Cpu, pte: Pte) -> Pte {
    let (arch, ec) = (k.arch(), k.entries());
    let entry = k.pte_to_swp_entry(pte);
    let mut new = pte;
    if ec.is_writable_migration_entry(entry) && !k.has(Defect::N1) {
        let readable = ec.retype_migration_entry(entry, MigrationKind::ReadExclusive);
        new = k.carry_from_swap(pte, arch.swp_entry_to_pte(readable));
    } else if ec.is_writable_device_private_entry(entry) && !k.has(Defect::N2) {
        let readable = ec.make_device_private_entry(ec.swp_offset_pfn(entry), false);
        new = k.carry_from_swap(pte, arch.swp_entry_to_pte(readable));
    }
    arch.pte_swp_clear_soft_dirty(new)
}

/// `pte_uffd_wp()` or `pte_swp_uffd_wp_any()`: in a present or in a swap entry, or as a marker.
pub fn pte_uffd_wp_any(k: &Cpu, pte: Pte) -> bool {
    let ec = k.entries();
    match ec.kind(pte) {
        EntryKind::None => false,
        EntryKind::Present => k.pte_uffd_wp(pte),
        EntryKind::MarkerUffdWp | EntryKind::SwapSpecial => true,
        kind if kind.is_marker() => k.arch().pte_swp_uffd_wp(pte),
        _ => k.pte_swp_uffd_wp(pte),
    }
}

/// `pagemap_hugetlb_range()` of one page: only uffd-wp, as soft-dirty is not kept. False when it is no hugetlb memory.
async fn pagemap_hugetlb(k: &Cpu, mm: u8, vpn: u32) -> bool {
    let found = k.s().w.vma_lookup(mm, vpn);
    if !found.is_some_and(|vma| is_vm_hugetlb_page(k, vma)) {
        return false;
    }
    // Without a table nothing is said (pagemap_pte_hole()).
    let p = k.pmd_offset(mm, vpn);
    let locked = p.filter(|_| !k.has(Defect::H14));
    if let Some(p) = locked {
        k.pmd_lock(p).await;
    }
    let pte = p.map_or(Pte(0), |p| k.entries().pmd_as_pte(k.pmdp_get(p)));
    if let Some(p) = locked {
        k.pmd_unlock(p);
    }
    let (op, wp) = (k.op(), pte_uffd_wp_any(k, pte));
    k.s().observe(Observation::UffdWp { op, proc: mm, vpn, wp });
    true
}

/// `pagemap_pmd_range()`: reports the soft-dirty and the uffd-wp bit of each page of a range.
pub async fn pagemap(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    let arch = k.arch();
    k.lock(Lock::MmapRead(mm)).await;
    for vpn in start..end {
        // walk_page_range(): where nothing is mapped no table is looked at, as munmap may be freeing it; and by
        // walk_page_test() a VM_PFNMAP mapping is a hole.
        let walked = {
            let s = k.s();
            s.w.vma_lookup(mm, vpn).is_some_and(|v| !s.w.vmas[v].backing.pfnmap())
        };
        if walked && pagemap_hugetlb(k, mm, vpn).await {
            continue;
        }
        let huge = if walked && k.pmd_leaf(mm, vpn).is_some() { k.pmd_trans_huge_lock(mm, vpn).await } else { None };
        let locked = if walked && huge.is_none() { k.pte_offset_map_lock(mm, vpn).await } else { None };
        let op = k.op();
        let pte = if walked { k.s().w.leaf(mm, vpn) } else { Pte(0) };
        let bit = if arch.pte_present(pte) {
            arch.pte_soft_dirty(pte)
        } else {
            k.entries().pte_has_swap_entry(pte) && arch.pte_swp_soft_dirty(pte)
        };
        let wp = pte_uffd_wp_any(k, pte);
        {
            let s = &mut *k.s();
            s.observe(Observation::UffdWp { op, proc: mm, vpn, wp });
            // Where the architecture has no such bit, it reads 0 and means nothing.
            if let Some(vma) = s.w.vma_lookup(mm, vpn).filter(|_| arch.has_soft_dirty()) {
                let dirty = bit || s.w.vmas[vma].soft_dirty;
                s.observe(Observation::SoftDirty { op, proc: mm, vpn, dirty });
            }
        }
        if let Some(p) = locked {
            k.pte_unmap_unlock(p);
        }
        if let Some(p) = huge {
            k.pmd_unlock(p);
        }
    }
    k.unlock(Lock::MmapRead(mm));
    Outcome::Done
}
