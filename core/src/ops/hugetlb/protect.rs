//! Protection of hugetlb pages.

use super::migrate::readable_migration_pmd;
use super::reserve::{hugetlb_vma_lock_write, hugetlb_vma_unlock_write};
use super::share::{Unshared, adjust_range_if_pmd_sharing_possible, huge_pmd_unshare, huge_pmd_unshare_flush};
use crate::config::Defect;
use crate::entry::{EntryKind, MigrationKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `hugetlb_change_protection()`, with the flush and the notifiers. What is writable in principle waits for
/// its first store, which reuses the page.
pub async fn hugetlb_change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let (mm, mapping) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].backing.mapping())
    };
    let Some(mapping) = mapping else { return };
    let range = adjust_range_if_pmd_sharing_possible(k, vma, start..end);
    k.mmu_notifier_invalidate_range_start(mm, range.start, range.end, NotifyEvent::Clear).await;
    hugetlb_vma_lock_write(k, vma).await;
    k.lock(Lock::IMmapWrite(mapping)).await;
    let mut flush = false;
    let mut unshared = Unshared::default();
    for vpn in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        let Some(p) = k.pmd_offset(mm, vpn) else { continue };
        k.pmd_lock(p).await;
        if !huge_pmd_unshare(k, &mut unshared, vma, p).await {
            flush |= change_entry(k, vma, p).await;
        }
        k.pmd_unlock(p);
    }
    if flush && !k.has(Defect::S2) {
        k.site(Site::ProtectFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
    huge_pmd_unshare_flush(k, mm, unshared).await;
    k.unlock(Lock::IMmapWrite(mapping));
    hugetlb_vma_unlock_write(k, vma);
    k.mmu_notifier_invalidate_range_end(mm).await;
}

/// The body of the loop, with the PMD locked. True when a cached translation may have to go.
async fn change_entry(k: &Cpu, vma: VmaId, p: PmdPtr) -> bool {
    let arch = k.arch();
    let pmd = k.pmdp_get(p);
    match k.entries().pmd_kind(pmd) {
        PmdKind::Huge => {}
        PmdKind::Migration(EntryKind::MigrationWrite) => {
            let shared = k.s().w.vmas[vma].shared();
            let kind = if shared { MigrationKind::Read } else { MigrationKind::ReadExclusive };
            k.set_pmd_at(p, readable_migration_pmd(k, pmd, kind)).await;
            return true;
        }
        _ => return false,
    }
    let prot = k.s().w.page_prot(vma);
    // huge_ptep_modify_prot_start() and _commit()
    let old = k.pmdp_huge_get_and_clear(p).await;
    k.set_pmd_at(p, arch.pte_mkhuge(arch.pte_modify(arch.pmd_leaf(old), prot))).await;
    true
}
