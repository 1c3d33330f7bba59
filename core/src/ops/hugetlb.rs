//! `mm/hugetlb.c`: private anonymous mappings of hugetlb pages of the size that one PMD maps.
//!
//! Left out: shared mappings, the pool and its reservations (pages come from the free memory of `ZONE_NORMAL`, where an
//! architecture without hugetlb migration has them; a fault without memory ends with the OOM killer, and nothing is taken
//! from children), `hugetlb_fault_mutex` and the VMA lock (the PMD is compared again under its lock), shared PMD tables,
//! userfaultfd, migration, memory failure, the hugetlb control group.

use super::huge::pmd_folio;
use super::pgtable::pmd_alloc;
use super::rmap::anon_vma_prepare;
use super::vmf::{FaultResult, VmFault};
use crate::arch::Pmd;
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, VmaId};
use crate::observe::Backing;
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// `is_vm_hugetlb_page()`.
pub fn is_vm_hugetlb_page(k: &Cpu, vma: VmaId) -> bool {
    k.s().w.vmas[vma].backing == Backing::Hugetlb
}

/// `folio_test_hugetlb()`.
pub fn folio_test_hugetlb(k: &Cpu, folio: Pfn) -> bool {
    k.folio_test(folio, Flags::HUGETLB)
}

/// Are both ends of a range borders of huge pages?
pub fn aligned(k: &Cpu, start: u32, end: u32) -> bool {
    (start | end) & (k.config().geometry.ptrs() - 1) == 0
}

/// `hugetlb_vm_op_split()`: may the mappings be split at both ends of a range?
pub fn may_split(k: &Cpu, mm: u8, start: u32, end: u32) -> bool {
    [start, end].into_iter().all(|at| {
        let vma = {
            let s = k.s();
            s.w.vma_lookup(mm, at).filter(|v| s.w.vmas[*v].start != at)
        };
        aligned(k, at, at) || vma.is_none_or(|v| !is_vm_hugetlb_page(k, v))
    })
}

/// `alloc_hugetlb_folio()`.
fn alloc_hugetlb_folio(k: &Cpu) -> Option<Pfn> {
    let order = k.s().pmd_order();
    let folio = k.folio_alloc_unmovable(order)?;
    k.folio_set(folio, Flags::HUGETLB);
    Some(folio)
}

/// `copy_user_large_folio()`.
fn copy_user_large_folio(k: &Cpu, new: Pfn, old: Pfn) {
    let s = &mut *k.s();
    for n in 0..s.w.geometry().ptrs() {
        s.copy_page(old + n, new + n);
    }
}

/// `make_huge_pte()`.
fn make_huge_pte(k: &Cpu, vma: VmaId, folio: Pfn, try_mkwrite: bool) -> Pmd {
    let arch = k.arch();
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), s.w.vmas[vma].writable())
    };
    let mut entry = arch.pte_mkyoung(arch.pfn_pte(u64::from(folio), prot));
    if try_mkwrite && writable {
        entry = arch.pte_mkwrite(arch.pte_mkdirty(entry));
    }
    arch.pte_mkhuge(entry)
}

/// `hugetlb_count_add()` and `_sub()`; here they are pages like others.
fn hugetlb_count(k: &Cpu, mm: u8, folios: i32) {
    let s = &mut *k.s();
    s.w.mms[mm as usize].anon_pages += folios * s.w.geometry().ptrs() as i32;
}

/// `hugetlb_fault()`.
pub async fn hugetlb_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let p = pmd_alloc(k, vmf.mm, vmf.vpn).await;
    let orig = k.pmdp_get(p);
    if k.entries().pmd_kind(orig) == PmdKind::None {
        return hugetlb_no_page(k, vmf, p).await;
    }
    // huge_pte_alloc() has the same BUG_ON().
    let table = k.entries().pmd_kind(orig) == PmdKind::Table;
    k.bug_on(table, Rule::BugHugetlbPte, Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() });
    k.site(Site::HugeFault).await;
    k.pmd_lock(p).await;
    if k.pmdp_get(p) != orig || k.pmd_kind(p) != PmdKind::Huge {
        k.pmd_unlock(p);
        return FaultResult::Done;
    }
    let arch = k.arch();
    let write = vmf.write;
    if write && !k.pte_write(k.entries().pmd_as_pte(orig)) {
        return hugetlb_wp_locked(k, vmf, p, orig).await;
    }
    k.pmdp_update(p, |pte| if write { arch.pte_mkdirty(arch.pte_mkyoung(pte)) } else { arch.pte_mkyoung(pte) }).await;
    k.flush_tlb_fix_spurious_fault(vmf.vpn);
    k.pmd_unlock(p);
    FaultResult::Done
}

/// `hugetlb_no_page()`, with the copy-on-write of a store done in the same step.
async fn hugetlb_no_page(k: &Cpu, vmf: &VmFault, p: PmdPtr) -> FaultResult {
    anon_vma_prepare(k, vmf.vma).await;
    k.site(Site::HugeFault).await;
    let Some(folio) = alloc_hugetlb_folio(k) else { return FaultResult::Oom };
    k.folio_set(folio, Flags::UPTODATE);
    k.pmd_lock(p).await;
    if k.pmd_kind(p) != PmdKind::None {
        k.pmd_unlock(p);
        k.folio_put(folio);
        return FaultResult::Done;
    }
    k.folio_add_new_anon_rmap(folio, vmf.vma, p.vpn, true);
    hugetlb_count(k, vmf.mm, 1);
    k.set_pmd_at(p, make_huge_pte(k, vmf.vma, folio, vmf.write)).await;
    k.pmd_unlock(p);
    FaultResult::Done
}

/// The part of `hugetlb_fault()` around `hugetlb_wp()`: with the PMD locked it takes the folio lock, or waits for it and
/// lets the fault come again.
async fn hugetlb_wp_locked(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig: Pmd) -> FaultResult {
    let folio = pmd_folio(k, orig);
    let locked = k.trylock(Lock::Folio(folio)).await;
    k.folio_get(folio);
    if !locked {
        k.pmd_unlock(p);
        k.folio_wait_locked(folio).await;
        k.folio_put(folio);
        return FaultResult::Done;
    }
    let result = hugetlb_wp(k, vmf, p, orig).await;
    k.folio_unlock(folio);
    k.folio_put(folio);
    result
}

/// `hugetlb_wp()`, which here unlocks the PMD: a folio that is mapped once is reused, be it referenced otherwise or not;
/// else the whole of it is copied.
async fn hugetlb_wp(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig: Pmd) -> FaultResult {
    let arch = k.arch();
    let old_folio = pmd_folio(k, orig);
    if k.folio_mapcount(old_folio) == 1 {
        if !k.page_anon_exclusive(old_folio) {
            k.folio_move_anon_rmap(old_folio, vmf.vma);
            k.set_page_anon_exclusive(old_folio);
        }
        k.note(Note::Reused, Some(old_folio), 0, 0);
        // set_huge_ptep_writable()
        k.pmdp_update(p, |pte| arch.pte_mkwrite(arch.pte_mkdirty(arch.pte_mkyoung(pte)))).await;
        k.pmd_unlock(p);
        return FaultResult::Done;
    }
    k.pmd_unlock(p);
    k.site(Site::HugeFault).await;
    let Some(new_folio) = alloc_hugetlb_folio(k) else { return FaultResult::Oom };
    anon_vma_prepare(k, vmf.vma).await;
    copy_user_large_folio(k, new_folio, old_folio);
    let end = p.vpn + k.config().geometry.ptrs();
    k.mmu_notifier_invalidate_range_start(p.mm, p.vpn, end, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let same = k.pmdp_get(p) == orig;
    if same {
        // huge_ptep_clear_flush()
        k.pmdp_huge_get_and_clear(p).await;
        k.flush_tlb_range(p.mm, p.vpn, end).await;
        k.folio_remove_rmap_pmd(old_folio);
        k.folio_add_new_anon_rmap(new_folio, vmf.vma, p.vpn, true);
        k.set_pmd_at(p, make_huge_pte(k, vmf.vma, new_folio, true)).await;
    }
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(p.mm).await;
    k.folio_put(if same { old_folio } else { new_folio });
    FaultResult::Done
}

/// `copy_hugetlb_page_range()`: fork. False when there is no memory for the copy of a folio that may be pinned.
pub async fn copy_hugetlb_page_range(k: &Cpu, src: VmaId, dst: VmaId, start: u32, end: u32) -> bool {
    let parent = k.s().w.vmas[src].mm;
    for vpn in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        if let Some(p) = k.pmd_leaf(parent, vpn)
            && !copy_hugetlb_page(k, dst, p).await
        {
            return false;
        }
    }
    true
}

/// The body of the loop.
async fn copy_hugetlb_page(k: &Cpu, dst_vma: VmaId, src: PmdPtr) -> bool {
    let arch = k.arch();
    let child = k.s().w.vmas[dst_vma].mm;
    let dst = pmd_alloc(k, child, src.vpn).await;
    lock_both(k, src, dst).await;
    let entry = k.pmdp_get(src);
    if k.entries().pmd_kind(entry) != PmdKind::Huge {
        unlock_both(k, src, dst);
        return true;
    }
    let folio = pmd_folio(k, entry);
    k.folio_get(folio);
    if k.folio_try_dup_anon_rmap_pmd(folio) {
        k.pmdp_update(src, |pte| arch.pte_wrprotect(pte)).await;
        let copy = arch.pte_wrprotect(arch.pmd_leaf(entry));
        hugetlb_count(k, child, 1);
        k.set_pmd_at(dst, arch.pte_mkhuge(copy)).await;
        unlock_both(k, src, dst);
        return true;
    }
    // It may be pinned, and the page stays the parent's. Nobody else changes the entry: mmap_lock is held for writing.
    unlock_both(k, src, dst);
    let new = alloc_hugetlb_folio(k);
    if let Some(new) = new {
        copy_user_large_folio(k, new, folio);
        k.note(Note::PinnedCopy, Some(folio), new, 0);
    }
    k.folio_put(folio);
    let Some(new) = new else { return false };
    // hugetlb_install_folio()
    lock_both(k, src, dst).await;
    k.folio_add_new_anon_rmap(new, dst_vma, dst.vpn, true);
    hugetlb_count(k, child, 1);
    k.set_pmd_at(dst, make_huge_pte(k, dst_vma, new, true)).await;
    unlock_both(k, src, dst);
    true
}

async fn lock_both(k: &Cpu, src: PmdPtr, dst: PmdPtr) {
    k.pmd_lock(dst).await;
    k.lock(Lock::PmdNested(src.table)).await;
}

fn unlock_both(k: &Cpu, src: PmdPtr, dst: PmdPtr) {
    k.unlock(Lock::PmdNested(src.table));
    k.pmd_unlock(dst);
}

/// `hugetlb_change_protection()`, without the flush: true when one is needed. What is writable in principle waits for its
/// first store, which reuses the page.
pub async fn hugetlb_change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32) -> bool {
    let arch = k.arch();
    let (mm, prot) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.page_prot(vma))
    };
    let mut flush = false;
    for vpn in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await else { continue };
        // huge_ptep_modify_prot_start() and _commit()
        let old = k.pmdp_huge_get_and_clear(p).await;
        let entry = arch.pte_modify(arch.pmd_leaf(old), prot);
        k.set_pmd_at(p, arch.pte_mkhuge(entry)).await;
        k.pmd_unlock(p);
        flush = true;
    }
    flush
}
