//! Protection of hugetlb pages.

use super::reserve::{hugetlb_vma_lock_write, hugetlb_vma_unlock_write};
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, VmaId};
use crate::sched::{Cpu, Lock, Site};

/// `hugetlb_change_protection()`, with the flush; the caller has told the notifiers. What is writable in principle waits for
/// its first store, which reuses the page.
pub async fn hugetlb_change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let (mm, mapping) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].backing.mapping())
    };
    let Some(mapping) = mapping else { return };
    hugetlb_vma_lock_write(k, vma).await;
    k.lock(Lock::IMmapWrite(mapping)).await;
    let mut flush = false;
    for vpn in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        let Some(p) = k.pmd_offset(mm, vpn) else { continue };
        k.pmd_lock(p).await;
        flush |= change_entry(k, vma, p).await;
        k.pmd_unlock(p);
    }
    if flush && !k.has(Defect::S2) {
        k.site(Site::ProtectFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
    k.unlock(Lock::IMmapWrite(mapping));
    hugetlb_vma_unlock_write(k, vma);
}

/// The body of the loop, with the PMD locked. True when a cached translation may have to go.
async fn change_entry(k: &Cpu, vma: VmaId, p: PmdPtr) -> bool {
    let arch = k.arch();
    if k.pmd_kind(p) != PmdKind::Huge {
        return false;
    }
    let prot = k.s().w.page_prot(vma);
    // huge_ptep_modify_prot_start() and _commit()
    let old = k.pmdp_huge_get_and_clear(p).await;
    k.set_pmd_at(p, arch.pte_mkhuge(arch.pte_modify(arch.pmd_leaf(old), prot))).await;
    true
}
