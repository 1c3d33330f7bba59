//! `PAGEMAP_SCAN` of hugetlb memory.

use super::migrate::protected_migration_pmd;
use super::reserve::{hugetlb_vma_lock_read, hugetlb_vma_unlock_read};
use crate::arch::{Pmd, Pte};
use crate::config::Defect;
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::ops::task_mmu::pte_uffd_wp_any;
use crate::ops::uffd_scan::output;
use crate::sched::{Cpu, Lock, Site};

/// `walk_hugetlb_range()` with `pagemap_scan_hugetlb_entry()`: what is not there is not written either, and so is left alone; a huge
/// page of which only a part is asked for cannot be protected, and is passed over.
pub async fn pagemap_scan_hugetlb(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let ptrs = k.config().geometry.ptrs();
    let (mm, mapping) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].backing.mapping())
    };
    let Some(mapping) = mapping else { return };
    hugetlb_vma_lock_read(k, vma).await;
    let mut at = start;
    while at < end {
        let next = (at / ptrs * ptrs + ptrs).min(end);
        if let Some(p) = k.pmd_offset(mm, at) {
            k.lock(Lock::IMmapWrite(mapping)).await;
            k.pmd_lock(p).await;
            scan_entry(k, vma, p, at..next).await;
            k.pmd_unlock(p);
            k.unlock(Lock::IMmapWrite(mapping));
        }
        at = next;
    }
    hugetlb_vma_unlock_read(k, vma);
}

/// The body of `pagemap_scan_hugetlb_entry()`.
async fn scan_entry(k: &Cpu, vma: VmaId, p: PmdPtr, pages: std::ops::Range<u32>) {
    let pmd = k.pmdp_get(p);
    if k.pmd_kind(p) == PmdKind::None {
        return;
    }
    let protected = pte_uffd_wp_any(k, k.entries().pmd_as_pte(pmd));
    let part = pages.len() as u32 != k.config().geometry.ptrs();
    if protected || !part {
        pages.for_each(|vpn| output(k, p.mm, vpn, protected));
    }
    if !protected && !part {
        make_uffd_wp_huge_pte(k, vma, p).await;
        k.flush_tlb_range(p.mm, p.vpn, p.vpn + k.config().geometry.ptrs()).await;
    }
}

/// `make_uffd_wp_huge_pte()`. Here we differ from the kernel as in `make_uffd_wp_pte()` (N6): a writable migration entry becomes
/// readable.
async fn make_uffd_wp_huge_pte(k: &Cpu, vma: VmaId, p: PmdPtr) {
    let arch = k.arch();
    let pmd = k.pmdp_get(p);
    k.site(Site::ProtectChange).await;
    match k.entries().pmd_kind(pmd) {
        PmdKind::Huge => {
            // huge_ptep_modify_prot_start() and _commit()
            let old = k.pmdp_huge_get_and_clear(p).await;
            k.set_pmd_at(p, arch.pte_mkhuge(arch.pte_mkuffd_wp(arch.pmd_leaf(old)))).await;
        }
        PmdKind::Migration(kind) => {
            let mut new = pmd;
            if kind == EntryKind::MigrationWrite && !k.has(Defect::N6) {
                new = protected_migration_pmd(k, vma, pmd);
            }
            k.set_pmd_at(p, Pmd(arch.pte_swp_mkuffd_wp(Pte(new.0)).0)).await;
        }
        _ => {}
    }
}
