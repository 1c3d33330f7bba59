//! Protection of hugetlb pages.

use super::migrate::protected_migration_pmd;
use super::reserve::{hugetlb_vma_lock_write, hugetlb_vma_unlock_write};
use super::share::{
    Unshared, adjust_range_if_pmd_sharing_possible, huge_pmd_unshare, huge_pmd_unshare_flush, huge_pte_alloc,
};
use super::uffd::huge_marker;
use crate::arch::{Pmd, Pte};
use crate::config::Defect;
use crate::entry::{EntryKind, PTE_MARKER_UFFD_WP, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::ops::mprotect::Change;
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `hugetlb_change_protection()`, with the flush and the notifiers. What is writable in principle waits for
/// its first store, which reuses the page.
pub async fn hugetlb_change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32, change: Change) {
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
        let p = match k.pmd_offset(mm, vpn) {
            Some(p) => p,
            // Notes need a table.
            None if change == Change::UffdWp => huge_pte_alloc(k, vma, vpn).await,
            None => continue,
        };
        k.pmd_lock(p).await;
        if huge_pmd_unshare(k, &mut unshared, vma, p).await {
            let e = Evidence { proc: Some(mm), vpn: Some(vpn), what: Some("shared table"), ..Evidence::default() };
            k.bug_on(matches!(change, Change::UffdWp | Change::UffdWpResolve), Rule::SharedTable, e);
        } else {
            flush |= change_entry(k, vma, p, change).await;
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
async fn change_entry(k: &Cpu, vma: VmaId, p: PmdPtr, change: Change) -> bool {
    let pmd = k.pmdp_get(p);
    match k.entries().pmd_kind(pmd) {
        PmdKind::Huge => {
            change_present(k, vma, p, change).await;
            true
        }
        PmdKind::Migration(kind) => change_migration(k, vma, p, kind, change).await,
        PmdKind::Marker(_) if k.has(Defect::H6) => {
            change_marker_as_present(k, vma, p, change).await;
            false
        }
        PmdKind::Marker(_) => {
            // Nothing becomes of poison.
            if change == Change::UffdWpResolve && k.entries().is_uffd_wp_note(k.entries().pmd_as_pte(pmd)) {
                k.pmdp_huge_get_and_clear(p).await;
            }
            false
        }
        PmdKind::None if change == Change::UffdWp => {
            k.set_pmd_at(p, huge_marker(k, PTE_MARKER_UFFD_WP)).await;
            false
        }
        _ => false,
    }
}

async fn change_present(k: &Cpu, vma: VmaId, p: PmdPtr, change: Change) {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vma);
    // huge_ptep_modify_prot_start() and _commit()
    let old = k.pmdp_huge_get_and_clear(p).await;
    let leaf = changed(k, arch.pte_modify(arch.pmd_leaf(old), prot), change);
    k.set_pmd_at(p, arch.pte_mkhuge(leaf)).await;
}

fn changed(k: &Cpu, leaf: Pte, change: Change) -> Pte {
    match change {
        Change::UffdWp => k.arch().pte_mkuffd_wp(leaf),
        Change::UffdWpResolve => k.arch().pte_clear_uffd_wp(leaf),
        Change::Protection | Change::ProtNuma => leaf,
    }
}

/// The branch for a migration entry: the mark belongs to each, the type changes only of those that are writable.
async fn change_migration(k: &Cpu, vma: VmaId, p: PmdPtr, kind: EntryKind, change: Change) -> bool {
    let arch = k.arch();
    let pmd = k.pmdp_get(p);
    let writable = kind == EntryKind::MigrationWrite;
    let mut new = pmd;
    if writable {
        new = protected_migration_pmd(k, vma, pmd);
    }
    if writable || !k.has(Defect::H7) {
        let pte = Pte(new.0);
        new = match change {
            Change::UffdWp => Pmd(arch.pte_swp_mkuffd_wp(pte).0),
            Change::UffdWpResolve => Pmd(arch.pte_swp_clear_uffd_wp(pte).0),
            Change::Protection | Change::ProtNuma => new,
        };
    }
    if new != pmd {
        k.set_pmd_at(p, new).await;
    }
    writable
}

/// The branch for a present entry, which a marker got into: the bits of one are set in it, and it is taken for a page then.
async fn change_marker_as_present(k: &Cpu, vma: VmaId, p: PmdPtr, change: Change) {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vma);
    let old = k.pmdp_huge_get_and_clear(p).await;
    let leaf = changed(k, arch.pte_modify(Pte(old.0), prot), change);
    k.set_pmd_at(p, arch.pte_mkhuge(leaf)).await;
}
