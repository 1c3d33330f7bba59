//! `mm/memory.c`: write faults on present, write-protected entries.

use super::file_fault::wp_page_shared;
use super::ksm::carry_tracking;
use super::pfnmap::{copy_user_page, wp_pfn_shared};
use super::rmap::anon_vma_prepare;
use super::swap_cache::{folio_free_swap, free_swap_cache};
use super::uffd::handle_userfault;
use super::vma_lock::vmf_anon_prepare;
use super::vmf::{FaultResult, VmFault, maybe_mkwrite, ptep_set_access_flags, userfaultfd_pte_wp};
use crate::config::{Defect, Design};
use crate::mm::{PtePtr, VmaId};
use crate::observe::{UffdFlags, Userfault};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// A write fault on a present, write-protected entry, with the page-table lock, which is released: what
/// `handle_pte_fault()` and `do_swap_page()` do, in one of three ways to ask userfaultfd before.
pub async fn wp_fault(k: &Cpu, vmf: &mut VmFault, p: PtePtr) -> FaultResult {
    if k.uses(Design::WpSplitCont) {
        do_wp_page(k, vmf, p).await
    } else if k.uses(Design::WpSplitWrapper) {
        do_userfaultfd_wp_page(k, vmf, p).await
    } else {
        match do_userfaultfd_wp(k, vmf, p).await {
            Some(ret) => ret,
            None => do_wp_page_cont(k, vmf, p).await,
        }
    }
}

/// `do_wp_page()`: asks userfaultfd, then goes on.
pub async fn do_wp_page(k: &Cpu, vmf: &mut VmFault, p: PtePtr) -> FaultResult {
    if asks_userfaultfd(k, vmf, p) {
        if !userfaultfd_wp_async(k, vmf) {
            k.pte_unmap_unlock(p);
            return handle_userfault(k, vmf, Userfault::Wp).await;
        }
        clear_wp_async(k, vmf, p).await;
    }
    do_wp_page_cont(k, vmf, p).await
}

/// The wrapper of 2019: it asks, and the function that it calls is the old `do_wp_page()`. (Asynchronous mode, which came
/// later, is where the question is.)
async fn do_userfaultfd_wp_page(k: &Cpu, vmf: &mut VmFault, p: PtePtr) -> FaultResult {
    let asks = asks_userfaultfd(k, vmf, p);
    if asks && userfaultfd_wp_async(k, vmf) {
        clear_wp_async(k, vmf, p).await;
    } else if asks {
        k.pte_unmap_unlock(p);
        return handle_userfault(k, vmf, Userfault::Wp).await;
    }
    do_wp_page_cont(k, vmf, p).await
}

/// The helper of 2019: `Some` when userfaultfd has dealt with the fault, and the lock is gone.
async fn do_userfaultfd_wp(k: &Cpu, vmf: &mut VmFault, p: PtePtr) -> Option<FaultResult> {
    if !asks_userfaultfd(k, vmf, p) {
        return None;
    }
    if userfaultfd_wp_async(k, vmf) {
        clear_wp_async(k, vmf, p).await;
        return None;
    }
    k.pte_unmap_unlock(p);
    Some(handle_userfault(k, vmf, Userfault::Wp).await)
}

/// A write to a page that userfaultfd has write-protected; who only wants the page for itself is not asked about.
fn asks_userfaultfd(k: &Cpu, vmf: &VmFault, p: PtePtr) -> bool {
    !vmf.unshare && userfaultfd_pte_wp(k, vmf.vma, k.ptep_get(p))
}

/// `userfaultfd_wp_async()`.
pub fn userfaultfd_wp_async(k: &Cpu, vmf: &VmFault) -> bool {
    k.s().w.vmas[vmf.vma].uffd.flags.has(UffdFlags::ASYNC)
}

/// The write is let through: only the bit goes.
async fn clear_wp_async(k: &Cpu, vmf: &mut VmFault, p: PtePtr) {
    let pte = k.arch().pte_clear_uffd_wp(k.ptep_get(p));
    k.set_pte_at(p, pte).await;
    vmf.orig_pte = pte;
}

/// The part of `do_wp_page()` that has nothing to do with userfaultfd.
async fn do_wp_page_cont(k: &Cpu, vmf: &mut VmFault, p: PtePtr) -> FaultResult {
    let page = k.vm_normal_page(vmf.orig_pte);
    if k.s().w.vmas[vmf.vma].shared() && page == ZERO_PFN {
        return wp_pfn_shared(k, vmf, p).await;
    }
    if k.s().w.vmas[vmf.vma].shared() {
        return wp_page_shared(k, vmf, p, page).await;
    }
    let folio = k.page_folio(page);
    if folio != ZERO_PFN
        && k.folio(folio).anon()
        && (k.page_anon_exclusive(page) || wp_can_reuse_anon_folio(k, folio, vmf.vma).await)
    {
        k.set_page_anon_exclusive(page);
        if vmf.unshare {
            k.pte_unmap_unlock(p);
            return FaultResult::Done;
        }
        wp_page_reuse(k, vmf, p, folio).await;
        return FaultResult::Done;
    }
    if folio != ZERO_PFN {
        k.folio_get(folio);
    }
    k.pte_unmap_unlock(p);
    wp_page_copy(k, vmf, page).await
}

/// `wp_page_reuse()`. Releases the page-table lock.
pub async fn wp_page_reuse(k: &Cpu, vmf: &VmFault, p: PtePtr, folio: Pfn) {
    k.note(Note::Reused, Some(folio), 0, 0);
    k.set_fault_write(true);
    k.site(Site::WpReuse).await;
    let arch = k.arch();
    let entry = arch.pte_mkyoung(vmf.orig_pte);
    let entry = maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(entry));
    ptep_set_access_flags(k, p, entry, true).await;
    k.pte_unmap_unlock(p);
}

/// `wp_can_reuse_anon_folio()`: is this mapping the only reference?
pub async fn wp_can_reuse_anon_folio(k: &Cpu, folio: Pfn, vma: VmaId) -> bool {
    let ksm = |k: &Cpu| k.folio_test(folio, Flags::KSM) && !k.has(Defect::K2);
    if ksm(k) {
        return false;
    }
    if k.uses(Design::CowByCount) {
        return only_reference(k, folio).await;
    }
    let swapcache = i32::from(k.folio_test(folio, Flags::SWAPCACHE));
    let unchecked = k.has(Defect::S5);
    // Of a large folio no page is reused, be it the last one that is mapped.
    if k.folio_test_large(folio) {
        return false;
    }
    if k.folio_ref_count(folio) > 1 + swapcache && !unchecked {
        return false;
    }
    if !k.trylock(Lock::Folio(folio)).await {
        return false;
    }
    if k.folio_test(folio, Flags::SWAPCACHE) {
        folio_free_swap(k, folio);
    }
    // KSM makes a page its own with the folio lock, but not with that of the table.
    if ksm(k) || k.folio_ref_count(folio) != 1 && !unchecked {
        k.folio_unlock(folio);
        return false;
    }
    k.folio_move_anon_rmap(folio, vma);
    k.folio_unlock(folio);
    true
}

/// The test in `do_wp_page()` of 5.14: one reference and one mapping. The swap cache counts as a reference.
async fn only_reference(k: &Cpu, folio: Pfn) -> bool {
    let unchecked = k.has(Defect::S5);
    if k.folio_ref_count(folio) != 1 && !unchecked || !k.trylock(Lock::Folio(folio)).await {
        return false;
    }
    let f = k.folio(folio);
    k.folio_unlock(folio);
    f.mapcount == 1 && f.refcount == 1 || unchecked
}

/// `wp_page_copy()`: breaks copy-on-write. The caller has taken a reference to `old`'s folio unless it is the zero page.
async fn wp_page_copy(k: &Cpu, vmf: &VmFault, old: Pfn) -> FaultResult {
    if !vmf_anon_prepare(k, vmf).await {
        if old != ZERO_PFN {
            k.folio_put(k.page_folio(old));
        }
        return FaultResult::Retry;
    }
    if try_wp_page_copy(k, vmf, old).await.is_some() { FaultResult::Done } else { FaultResult::Oom }
}

/// The same: whether the copy was mapped, or somebody else had changed the entry; nothing when there is no memory.
pub async fn try_wp_page_copy(k: &Cpu, vmf: &VmFault, old: Pfn) -> Option<bool> {
    let arch = k.arch();
    let old_folio = k.page_folio(old);
    anon_vma_prepare(k, vmf.vma).await;
    let Some(new) = k.folio_alloc() else {
        k.folio_put(old_folio);
        return None;
    };
    k.site(Site::WpCopy).await;
    if !copy_user_page(k, vmf, old, new) {
        k.folio_put(new);
        return Some(false);
    }
    k.site(Site::WpCopied).await;
    k.mmu_notifier_invalidate_range_start(vmf.mm, vmf.vpn, vmf.vpn + 1, NotifyEvent::Clear).await;
    let mut put = new;
    if let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await {
        if k.ptep_get(p) == vmf.orig_pte {
            if old == ZERO_PFN || !k.folio(old_folio).anon() {
                k.add_mm_counter(vmf.mm, old, -1);
                k.s().w.mms[vmf.mm as usize].anon_pages += 1;
            }
            let prot = k.s().w.page_prot(vmf.vma);
            let entry = arch.pte_mkyoung(arch.pfn_pte(u64::from(new), prot));
            let entry = if vmf.unshare {
                carry_tracking(k, vmf.orig_pte, entry)
            } else {
                maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(entry))
            };
            // Clear and flush before the new entry is set, so that no CPU reads the old page while another
            // writes the new one.
            if k.has(Defect::S18) {
                k.ptep_get_and_clear(p).await;
            } else {
                k.ptep_clear_flush(p).await;
            }
            k.folio_add_new_anon_rmap(new, vmf.vma, vmf.vpn, true);
            k.folio_add_lru_vma(new, vmf.vma);
            k.set_pte_at(p, entry).await;
            if old != ZERO_PFN {
                k.folio_remove_rmap_pte(old);
                k.munlock_vma_folio(old, vmf.vma);
            }
            k.note(Note::Copied, Some(old), new, 0);
            k.set_fault_write(true);
            put = old_folio;
        }
        k.pte_unmap_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(vmf.mm).await;
    let copied = put == old_folio;
    k.folio_put(put);
    if old != ZERO_PFN {
        if copied {
            free_swap_cache(k, old_folio).await;
        }
        k.folio_put(old_folio);
    }
    Some(copied)
}
