//! Mappings of hugetlb pages that go elsewhere.

use super::reserve::{hugetlb_vma_lock_write, hugetlb_vma_unlock_write};
use super::share::{
    Unshared, adjust_range_if_pmd_sharing_possible, huge_pmd_unshare, huge_pmd_unshare_flush, huge_pte_alloc,
};
use crate::arch::Pmd;
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, VmaId};
use crate::ops::mremap::clears_uffd_wp;
use crate::ops::pgtable::pmd_alloc;
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `move_hugetlb_page_tables()`.
pub async fn move_hugetlb_page_tables(k: &Cpu, vma: VmaId, new_vma: VmaId, start: u32, end: u32, to: u32) {
    let (mm, mapping) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].backing.mapping())
    };
    let Some(mapping) = mapping else { return };
    let range = adjust_range_if_pmd_sharing_possible(k, vma, start..end);
    k.mmu_notifier_invalidate_range_start(mm, range.start, range.end, NotifyEvent::Clear).await;
    // Prevent race with file truncation
    hugetlb_vma_lock_write(k, vma).await;
    k.lock(Lock::IMmapWrite(mapping)).await;
    let mut unshared = Unshared::default();
    for old in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        let new = to + (old - start);
        let Some(src) = k.pmd_offset(mm, old) else { continue };
        if nothing_to_move(k, &mut unshared, vma, src).await {
            continue;
        }
        // Here we differ from the kernel, which would share a table here, and for that take i_mmap_rwsem a second time (N22).
        let dst = if k.has(Defect::N22) { huge_pte_alloc(k, new_vma, new).await } else { pmd_alloc(k, mm, new).await };
        move_huge_pte(k, vma, src, dst).await;
    }
    k.site(Site::MremapFlush).await;
    k.flush_tlb_range(mm, start, end).await;
    huge_pmd_unshare_flush(k, mm, unshared).await;
    k.mmu_notifier_invalidate_range_end(mm).await;
    k.unlock(Lock::IMmapWrite(mapping));
    hugetlb_vma_unlock_write(k, vma);
}

/// No page at the old address, or a table that was shared. Here we differ from the kernel, which asks for a page without the
/// lock (N24): a migration clears the entry first and puts its own there next.
async fn nothing_to_move(k: &Cpu, unshared: &mut Unshared, vma: VmaId, src: PmdPtr) -> bool {
    let none = || k.arch().pmd_none(k.pmdp_get(src));
    if k.has(Defect::N24) && none() {
        return true;
    }
    k.pmd_lock(src).await;
    let nothing = none() || huge_pmd_unshare(k, unshared, vma, src).await;
    k.pmd_unlock(src);
    nothing
}

/// `move_huge_pte()`, with a flush that the kernel leaves to its caller (N23), as `move_ptes()` did once: whoever finds the
/// entry at the new address, with no more than the lock, may free the page.
async fn move_huge_pte(k: &Cpu, vma: VmaId, src: PmdPtr, dst: PmdPtr) {
    k.pmd_lock(dst).await;
    let nested = src.table != dst.table;
    if nested {
        k.lock(Lock::PmdNested(src.table)).await;
    }
    let pmd = k.pmdp_huge_get_and_clear(src).await;
    if !k.has(Defect::N23) {
        k.flush_tlb_range(src.mm, src.vpn, src.vpn + k.config().geometry.ptrs()).await;
    }
    k.site(Site::MremapMove).await;
    if let Some(moved) = moved_entry(k, vma, pmd) {
        k.set_pmd_at(dst, moved).await;
    }
    if nested {
        k.unlock(Lock::PmdNested(src.table));
    }
    k.pmd_unlock(dst);
}

/// What an entry is at the new address, if anything: the protection of userfaultfd stays behind unless the monitor hears of the
/// move.
fn moved_entry(k: &Cpu, vma: VmaId, pmd: Pmd) -> Option<Pmd> {
    let (arch, ec) = (k.arch(), k.entries());
    if !clears_uffd_wp(k, vma) {
        return Some(pmd);
    }
    let pte = ec.pmd_as_pte(pmd);
    match ec.pmd_kind(pmd) {
        PmdKind::Marker(_) if ec.is_uffd_wp_note(pte) => None,
        PmdKind::Huge => Some(arch.pte_mkhuge(arch.pte_clear_uffd_wp(pte))),
        _ => Some(Pmd(arch.pte_swp_clear_uffd_wp(pte).0)),
    }
}
