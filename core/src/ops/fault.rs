//! `mm/memory.c`: page faults up to the point where the kinds of entries part.

use super::file_fault::do_fault;
use super::huge::{handle_pmd_fault, thp_vma_suitable_order};
use super::hugetlb::{hugetlb_fault, is_vm_hugetlb_page};
use super::numa::do_numa_page;
use super::pgtable::pte_alloc;
use super::swap::do_swap_page;
use super::uffd::handle_userfault;
use super::vma_lock::vmf_anon_prepare;
use super::vmf::{FaultResult, VmFault, ptep_set_access_flags};
use super::wp::wp_fault;
use crate::config::Defect;
use crate::entry::{PTE_MARKER_GUARD, PTE_MARKER_POISONED, PTE_MARKER_UFFD_WP};
use crate::mm::{PtePtr, Thp, VmaId};
use crate::observe::Userfault;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};

/// `handle_mm_fault()`. The caller holds `mmap_lock` and has checked the VMA's permission.
pub async fn handle_mm_fault(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> FaultResult {
    fault(k, VmFault::new(k, vma, vpn, write)).await
}

/// The same with `FAULT_FLAG_ALLOW_RETRY`: the fault may drop `mmap_lock` and wait for a userfault.
pub async fn handle_mm_fault_retry(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> FaultResult {
    fault(k, VmFault { retry: true, ..VmFault::new(k, vma, vpn, write) }).await
}

/// The same under the lock of the VMA alone, which is gone when the answer is [`FaultResult::Retry`]: the fault waited for
/// userfaultfd, or has to come again with `mmap_lock`.
pub async fn handle_mm_fault_vma_lock(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> FaultResult {
    fault(k, VmFault { retry: true, vma_lock: true, ..VmFault::new(k, vma, vpn, write) }).await
}

/// `__handle_mm_fault()`.
async fn fault(k: &Cpu, mut vmf: VmFault) -> FaultResult {
    if is_vm_hugetlb_page(k, vmf.vma) {
        return hugetlb_fault(k, &vmf).await;
    }
    let huge = {
        let s = k.s();
        s.w.tables.pmd_leaves != 0 || s.w.vmas[vmf.vma].thp == Thp::Huge
    };
    if huge && let Some(result) = handle_pmd_fault(k, &vmf).await {
        return result;
    }
    handle_pte_fault(k, &mut vmf).await
}

/// The same with `FAULT_FLAG_UNSHARE`, as `break_ksm()` and pins for reading ask for it.
pub async fn handle_unshare_fault(k: &Cpu, vma: VmaId, vpn: u32) -> FaultResult {
    fault(k, VmFault { unshare: true, ..VmFault::new(k, vma, vpn, false) }).await
}

/// `handle_pte_fault()`.
async fn handle_pte_fault(k: &Cpu, vmf: &mut VmFault) -> FaultResult {
    k.site(Site::FaultEntry).await;
    let arch = k.arch();
    // pte_offset_map_nolock()
    let Some(p) = k.pte_offset_map(vmf.mm, vmf.vpn) else {
        return do_pte_missing(k, vmf).await;
    };
    vmf.orig_pte = k.ptep_get(p);
    if k.pte_none(vmf.orig_pte) {
        k.rcu_read_unlock();
        return do_pte_missing(k, vmf).await;
    }
    if !arch.pte_present(vmf.orig_pte) {
        k.rcu_read_unlock();
        if k.entries().is_swap_special_pte(vmf.orig_pte) && !k.has(Defect::A7) {
            return uffd_wp_note_fault(k, vmf).await;
        }
        return do_swap_page(k, vmf).await;
    }
    if arch.pte_protnone(vmf.orig_pte) && k.s().w.vmas[vmf.vma].accessible() {
        return do_numa_page(k, vmf, p).await;
    }
    // The table may be gone from below its PMD, but not yet freed: then the entry has changed.
    k.lock(Lock::Pte(p.table)).await;
    k.rcu_read_unlock();
    let mut entry = vmf.orig_pte;
    if k.ptep_get(p) != entry {
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    if vmf.unshare && !k.pte_write(entry) {
        return wp_fault(k, vmf, p).await;
    }
    if vmf.write {
        if !k.pte_write(entry) {
            return wp_fault(k, vmf, p).await;
        }
        entry = arch.pte_mkdirty(entry);
    }
    entry = arch.pte_mkyoung(entry);
    if !ptep_set_access_flags(k, p, entry, vmf.write).await && vmf.write {
        k.flush_tlb_fix_spurious_fault(vmf.vpn);
    }
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `do_pte_missing()`.
async fn do_pte_missing(k: &Cpu, vmf: &VmFault) -> FaultResult {
    if k.s().w.vmas[vmf.vma].anonymous() { do_anonymous_page(k, vmf).await } else { do_fault(k, vmf).await }
}

/// `handle_pte_marker()`: a note without a page behind it.
pub async fn handle_pte_marker(k: &Cpu, vmf: &mut VmFault) -> FaultResult {
    let ec = k.entries();
    let marker = ec.pte_marker_get(k.pte_to_swp_entry(vmf.orig_pte));
    // Higher priority than uffd-wp: the data are gone.
    if marker & PTE_MARKER_POISONED != 0 {
        return FaultResult::HwPoison;
    }
    if marker & PTE_MARKER_GUARD != 0 {
        return FaultResult::SigSegv;
    }
    if marker & PTE_MARKER_UFFD_WP == 0 {
        return FaultResult::SigBus;
    }
    uffd_wp_note_fault(k, vmf).await
}

/// `pte_marker_handle_uffd_wp()`, and `do_fault()` of the swap-special entry in the series of 2021: what the note stands
/// for is faulted in, still protected.
async fn uffd_wp_note_fault(k: &Cpu, vmf: &mut VmFault) -> FaultResult {
    if k.s().w.vmas[vmf.vma].uffd_wp() {
        return do_pte_missing(k, vmf).await;
    }
    // pte_marker_clear(): left over from before the range was unregistered.
    if let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await {
        if k.ptep_get(p) == vmf.orig_pte {
            k.ptep_get_and_clear(p).await;
        }
        k.pte_unmap_unlock(p);
    }
    FaultResult::Done
}

/// `vmf_orig_pte_uffd_wp()`: the entry that is to be filled was marked.
pub fn vmf_orig_pte_uffd_wp(k: &Cpu, vmf: &VmFault) -> bool {
    !k.pte_none(vmf.orig_pte) && k.s().w.vmas[vmf.vma].uffd_wp()
}

/// `do_anonymous_page()`: a zero-filled page, or the zero page for a read. What was there is none or a uffd-wp marker.
async fn do_anonymous_page(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vmf.vma);
    pte_alloc(k, vmf.mm, vmf.vpn).await;
    if !vmf.write {
        let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::Done };
        if k.ptep_get(p) == vmf.orig_pte {
            if k.s().w.vmas[vmf.vma].uffd_missing() {
                k.pte_unmap_unlock(p);
                return handle_userfault(k, vmf, Userfault::Missing).await;
            }
            let mut entry = arch.pte_mkspecial(arch.pfn_pte(u64::from(ZERO_PFN), prot));
            if vmf_orig_pte_uffd_wp(k, vmf) {
                entry = arch.pte_mkuffd_wp(entry);
            }
            k.set_pte_at(p, entry).await;
        }
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    if !vmf_anon_prepare(k, vmf).await {
        return FaultResult::Retry;
    }
    k.site(Site::AnonFaultAlloc).await;
    let Some(folio) = alloc_anon_folio(k, vmf) else { return FaultResult::Oom };
    k.folio_set(folio, Flags::UPTODATE);
    let nr_pages = k.folio_nr_pages(folio);
    let addr = vmf.vpn & !(nr_pages - 1);
    let mut entry = arch.pte_mkyoung(arch.pfn_pte(u64::from(folio), prot));
    if k.s().w.vmas[vmf.vma].writable() {
        entry = arch.pte_mkwrite(arch.pte_mkdirty(entry));
    }
    let Some(p) = k.pte_offset_map_lock(vmf.mm, addr).await else {
        k.folio_put(folio);
        return FaultResult::Done;
    };
    let changed = if nr_pages == 1 { k.ptep_get(p) != vmf.orig_pte } else { !pte_range_none(k, p, nr_pages) };
    if changed {
        if !k.has(Defect::S8) {
            k.folio_put(folio);
        }
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    if k.s().w.vmas[vmf.vma].uffd_missing() {
        k.pte_unmap_unlock(p);
        k.folio_put(folio);
        return handle_userfault(k, vmf, Userfault::Missing).await;
    }
    if nr_pages > 1 {
        k.folio_ref_add(folio, nr_pages as i32 - 1);
    }
    k.s().w.mms[vmf.mm as usize].anon_pages += nr_pages as i32;
    k.folio_add_new_anon_rmap(folio, vmf.vma, addr, true);
    k.folio_add_lru_vma(folio, vmf.vma);
    k.site(Site::AnonFaultSet).await;
    if vmf_orig_pte_uffd_wp(k, vmf) {
        entry = arch.pte_mkuffd_wp(entry);
    }
    // set_ptes()
    for i in 0..nr_pages {
        let at = PtePtr { index: p.index + i, vpn: addr + i, ..p };
        k.set_pte_at(at, arch.pte_advance_pfn(entry, u64::from(i))).await;
    }
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `pte_range_none()`.
fn pte_range_none(k: &Cpu, p: PtePtr, pages: u32) -> bool {
    let arch = k.arch();
    (0..pages).all(|i| arch.pte_none(k.ptep_get(PtePtr { index: p.index + i, ..p })))
}

/// The order of anonymous folios below that of a PMD, and the only one that is enabled: order 2, the smallest that
/// there is for anonymous memory.
const MTHP_ORDER: u8 = 2;

/// `alloc_anon_folio()`: a large folio where the VMA may use them and nothing is mapped around the page; else a small
/// one. Memory that userfaultfd watches has small folios.
fn alloc_anon_folio(k: &Cpu, vmf: &VmFault) -> Option<Pfn> {
    let (thp, armed) = {
        let s = k.s();
        (s.w.vmas[vmf.vma].thp, s.w.vmas[vmf.vma].uffd.armed())
    };
    if thp == Thp::Huge && !armed && thp_vma_suitable_order(k, vmf.vma, vmf.vpn, MTHP_ORDER) {
        let addr = vmf.vpn & !((1 << MTHP_ORDER) - 1);
        let first = k.pte_offset(vmf.mm, addr);
        if first.is_some_and(|p| pte_range_none(k, p, 1 << MTHP_ORDER))
            && let Some(folio) = k.folio_alloc_order(MTHP_ORDER)
        {
            return Some(folio);
        }
    }
    k.folio_alloc()
}
