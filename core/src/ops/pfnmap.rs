//! `mm/memory.c`: mappings of frames that have no `struct page` (`VM_PFNMAP`, `VM_MIXEDMAP`).
//!
//! Their entries are special (`pte_special()`), and `vm_normal_page()` gives `NULL` for them: so nobody counts what they show
//! ([`Cpu::vm_normal_page`]). A private mapping may be copied on write, and the copies are pages like any other.
//!
//! Left out: `track_pfn_remap()` and its like of x86-64 (cache attributes), `pfn_modify_allowed()`, huge PFN maps, devmap.

use super::pgtable::pte_alloc;
use super::vma_lock::vmf_can_call_fault;
use super::vmf::{FaultResult, VmFault, maybe_mkwrite, ptep_set_access_flags};
use super::wp::wp_page_reuse;
use super::{driver::pfn_mkwrite, file_fault::finish_mkwrite_fault};
use crate::config::Defect;
use crate::entry::Accessor;
use crate::mm::{PtePtr, VmaId};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Site};

/// `vmf_insert_pfn()`; the checks of `vmf_insert_pfn_prot()` are those of a driver that knows what it does.
pub async fn vmf_insert_pfn(k: &Cpu, vmf: &VmFault, pfn: Pfn) -> FaultResult {
    insert_pfn(k, vmf, pfn, false).await
}

/// `__vm_insert_mixed()` of a frame without a `struct page`: with `mkwrite`, `vmf_insert_mixed_mkwrite()`.
pub async fn vmf_insert_mixed(k: &Cpu, vmf: &VmFault, pfn: Pfn, mkwrite: bool) -> FaultResult {
    insert_pfn(k, vmf, pfn, mkwrite).await
}

/// `insert_pfn()`. Somebody else may have been faster; then nothing is to be done, save that `mkwrite` makes what is there
/// writable.
async fn insert_pfn(k: &Cpu, vmf: &VmFault, pfn: Pfn, mkwrite: bool) -> FaultResult {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vmf.vma);
    pte_alloc(k, vmf.mm, vmf.vpn).await;
    k.site(Site::InsertPfn).await;
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::Done };
    let old = k.ptep_get(p);
    if !k.pte_none_not_special(old) {
        if mkwrite {
            k.accessor(Accessor::PtePfn, old);
            if arch.pte_pfn(old) == u64::from(pfn) {
                let entry = maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(arch.pte_mkyoung(old)));
                ptep_set_access_flags(k, p, entry, true).await;
            }
        }
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    let mut entry = arch.pte_mkspecial(arch.pfn_pte(u64::from(pfn), prot));
    if mkwrite {
        entry = maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(arch.pte_mkyoung(entry)));
    }
    k.set_pte_at(p, entry).await;
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `apply_to_page_range()` of one page, with a callback that maps a frame, like `remap_pfn()` of
/// `drivers/gpu/drm/i915/i915_mm.c`: `apply_to_pte_range()` makes the table and calls it whatever is there.
pub async fn apply_to_page_range(k: &Cpu, vmf: &VmFault, pfn: Pfn) -> FaultResult {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vmf.vma);
    pte_alloc(k, vmf.mm, vmf.vpn).await;
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::Done };
    k.set_pte_at(p, arch.pte_mkspecial(arch.pfn_pte(u64::from(pfn), prot))).await;
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `remap_pfn_range()` of a whole VMA: frames that follow one another, from `pfn` on.
pub async fn remap_pfn_range(k: &Cpu, vma: VmaId, pfn: Pfn) {
    let (mm, start, end) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].start, s.w.vmas[vma].end)
    };
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        pte_alloc(k, mm, at).await;
        remap_pte_range(k, vma, at, next, pfn + (at - start)).await;
        at = next;
    }
}

/// `remap_pte_range()`.
async fn remap_pte_range(k: &Cpu, vma: VmaId, start: u32, end: u32, pfn: Pfn) {
    let arch = k.arch();
    let (mm, prot) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.page_prot(vma))
    };
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    k.arch_enter_lazy_mmu_mode();
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let found = k.ptep_get(p);
        let evidence = Evidence { proc: Some(mm), vpn: Some(vpn), ..Evidence::default() };
        let what = Some(k.entries().kind(found).name());
        k.bug_on(!k.pte_none_not_special(found), Rule::BugRemap, Evidence { what, ..evidence });
        k.set_pte_at(p, arch.pte_mkspecial(arch.pfn_pte(u64::from(pfn + (vpn - start)), prot))).await;
    }
    k.arch_leave_lazy_mmu_mode();
    k.pte_unmap_unlock(first);
}

/// `wp_pfn_shared()`: the first store to an entry of a shared mapping that has no page. Called with the page-table lock,
/// which it releases.
pub async fn wp_pfn_shared(k: &Cpu, vmf: &VmFault, p: PtePtr) -> FaultResult {
    if !k.s().w.vmas[vmf.vma].backing.mixedmap() {
        wp_page_reuse(k, vmf, p, ZERO_PFN).await;
        return FaultResult::Done;
    }
    k.pte_unmap_unlock(p);
    if !vmf_can_call_fault(k, vmf) {
        return FaultResult::Retry;
    }
    pfn_mkwrite(k).await;
    // False when the entry has changed meanwhile: try again.
    finish_mkwrite_fault(k, vmf, ZERO_PFN).await;
    FaultResult::Done
}

/// `__wp_page_copy_user()`: copies what is at the address of a fault. A frame without a page has no other name than that
/// address, and is read through it. False when it cannot be read any more.
pub fn copy_user_page(k: &Cpu, vmf: &VmFault, old: Pfn, new: Pfn) -> bool {
    let through = k.raw_pfn(vmf.orig_pte).is_some() && !k.has(Defect::R5);
    let s = &mut *k.s();
    if !through {
        s.copy_page(old, new);
        return true;
    }
    let Some(value) = s.copy_from_user(k.id, vmf.mm, vmf.vpn) else { return false };
    s.w.mem.store(new, value);
    s.w.mem.folios[new as usize].flags.set(Flags::UPTODATE);
    true
}
