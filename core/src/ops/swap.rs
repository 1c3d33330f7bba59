//! `mm/memory.c` and `mm/swap_state.c`: faults on entries that are neither none nor present.

use super::fault::handle_pte_marker;
use super::huge::pmd_migration_entry_wait;
use super::ksm_page::ksm_might_need_to_copy;
use super::migrate_device::device_private_fault;
use super::swap_cache::folio_free_swap;
use super::swapin::{SwappedIn, swapcache_clear, swapin};
use super::vma_lock::vmf_can_call_fault;
use super::vmf::{
    FaultResult, VmFault, can_change_pte_writable, maybe_mkwrite, pte_needs_soft_dirty_wp, userfaultfd_pte_wp,
};
use super::wp::wp_fault;
use crate::arch::{Pte, SwpEntry};
use crate::config::{Defect, Design};
use crate::mm::{PtePtr, VmaId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `do_swap_page()`.
///
/// Left out: large folios, writeback that is still under way (writes to the device end before `pageout()` returns).
pub async fn do_swap_page(k: &Cpu, vmf: &mut VmFault) -> FaultResult {
    let ec = k.entries();
    let entry = k.pte_to_swp_entry(vmf.orig_pte);
    if ec.non_swap_entry(entry) {
        if ec.is_migration_entry(entry) {
            migration_entry_wait(k, vmf.mm, vmf.vpn).await;
            return FaultResult::Done;
        }
        if ec.is_device_exclusive_entry(entry) {
            return remove_device_exclusive_entry(k, vmf, entry).await;
        }
        if ec.is_device_private_entry(entry) {
            if !vmf_can_call_fault(k, vmf) {
                return FaultResult::Retry;
            }
            return device_private_fault(k, vmf).await;
        }
        if ec.is_hwpoison_entry(entry) {
            return FaultResult::HwPoison;
        }
        if ec.is_pte_marker_entry(entry) {
            return handle_pte_marker(k, vmf).await;
        }
        return FaultResult::SigBus;
    }
    let slot = k.swp_slot(entry);
    k.site(Site::SwapInLookup).await;
    match swapin(k, vmf, slot).await {
        SwappedIn::Cached(folio) => map_cached(k, vmf, folio, slot).await,
        SwappedIn::Direct(folio) => {
            let result = map_locked(k, vmf, folio, slot, Source::Direct).await;
            swapcache_clear(k, slot);
            result
        }
        SwappedIn::Busy => FaultResult::Done,
        SwappedIn::Nothing => {
            // The slot is gone, or there is no memory: it matters which only if the entry is still there.
            let mut same = false;
            if let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await {
                same = k.ptep_get(p) == vmf.orig_pte;
                k.pte_unmap_unlock(p);
            }
            if same { FaultResult::Oom } else { FaultResult::Done }
        }
    }
}

/// Where the folio comes from that `do_swap_page()` maps (`folio` and `swapcache` there).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// It is in the swap cache.
    Cache,
    /// It was read past it, and nobody else knows it.
    Direct,
    /// It is KSM's copy of this one, which is in the swap cache, and locked.
    Copy(Pfn),
}

/// The rest of `do_swap_page()` for a page in the swap cache.
async fn map_cached(k: &Cpu, vmf: &mut VmFault, folio: Pfn, slot: u32) -> FaultResult {
    // A dirty page that failed in the swap cache is kept there, to be found by whoever needs it.
    if k.folio_test(folio, Flags::HWPOISON) {
        k.folio_put(folio);
        return FaultResult::HwPoison;
    }
    k.lock(Lock::Folio(folio)).await;
    if !k.folio_test(folio, Flags::SWAPCACHE) || k.folio(folio).slot != slot {
        return out_page(k, folio, Source::Cache);
    }
    match ksm_might_need_to_copy(k, folio, vmf.vma, vmf.vpn) {
        Ok(None) => map_locked(k, vmf, folio, slot, Source::Cache).await,
        Ok(Some(copy)) => map_locked(k, vmf, copy, slot, Source::Copy(folio)).await,
        Err(result) => {
            out_page(k, folio, Source::Cache);
            result
        }
    }
}

/// From the page-table lock on, with the folio locked.
async fn map_locked(k: &Cpu, vmf: &mut VmFault, folio: Pfn, slot: u32, source: Source) -> FaultResult {
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else {
        return out_page(k, folio, source);
    };
    if k.ptep_get(p) != vmf.orig_pte && !k.has(Defect::S9) {
        k.pte_unmap_unlock(p);
        return out_page(k, folio, source);
    }
    if !k.folio_test(folio, Flags::UPTODATE) {
        k.pte_unmap_unlock(p);
        out_page(k, folio, source);
        return FaultResult::SigBus;
    }
    map_swapped_in(k, vmf, p, folio, slot, source).await;
    k.folio_unlock(folio);
    // Before the fault goes on: it may have to wait for userfaultfd.
    put_swapcache(k, source);
    if vmf.write {
        return wp_fault(k, vmf, p).await;
    }
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `out_page` in `do_swap_page()`: nothing is mapped.
fn out_page(k: &Cpu, folio: Pfn, source: Source) -> FaultResult {
    k.folio_unlock(folio);
    k.folio_put(folio);
    put_swapcache(k, source);
    FaultResult::Done
}

/// Gives up the folio that KSM has copied.
fn put_swapcache(k: &Cpu, source: Source) {
    if let Source::Copy(swapcache) = source {
        k.folio_unlock(swapcache);
        k.folio_put(swapcache);
    }
}

/// The part of `do_swap_page()` from `check_folio` to `set_ptes()`: with the folio and the page table locked.
async fn map_swapped_in(k: &Cpu, vmf: &mut VmFault, p: PtePtr, folio: Pfn, slot: u32, source: Source) {
    let arch = k.arch();
    let evidence = Evidence { pfn: Some(folio), ..Evidence::default() };
    let f = k.folio(folio);
    k.bug_on(f.anon() && f.flags.has(Flags::ANON_EXCLUSIVE), Rule::BugSwapPageExclusive, evidence);
    let counted = k.uses(Design::CowByCount);
    let ksm = f.flags.has(Flags::KSM);
    let exclusive = if ksm {
        false
    } else if counted {
        vmf.write && reuse_swap_page(k, folio)
    } else {
        // A page that is not exposed to the swap cache is certainly exclusive.
        k.pte_swp_exclusive(vmf.orig_pte) || source != Source::Cache
    };
    if !k.has(Defect::S16) {
        k.swap_free(slot);
    }
    // should_try_to_free_swap(): swap is scarce or not needed, or a write gains by being the only user.
    let locked = k.s().w.vmas[vmf.vma].locked() || k.folio_test(folio, Flags::MLOCKED);
    if locked || k.s().w.swap.full() || !counted && vmf.write && !ksm && k.folio_ref_count(folio) == 2 {
        folio_free_swap(k, folio);
    }
    {
        let m = &mut k.s().w.mms[vmf.mm as usize];
        m.anon_pages += 1;
        m.swap_ents -= 1;
    }
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vmf.vma), s.w.vmas[vmf.vma].writable())
    };
    let mut pte = arch.pfn_pte(u64::from(folio), prot);
    if k.pte_swp_soft_dirty(vmf.orig_pte) {
        pte = arch.pte_mksoft_dirty(pte);
    }
    if k.pte_swp_uffd_wp(vmf.orig_pte) && !k.has(Defect::U4) {
        pte = arch.pte_mkuffd_wp(pte);
    }
    let alone = exclusive || !ksm && !counted && k.folio_ref_count(folio) == 1;
    let try_writable = writable && (vmf.write || k.uses(Design::SwapInWriteByCheck));
    if alone && try_writable && !userfaultfd_pte_wp(k, vmf.vma, pte) && !pte_needs_soft_dirty_wp(k, vmf.vma, pte) {
        pte = arch.pte_mkwrite(pte);
        if vmf.write {
            pte = arch.pte_mkdirty(pte);
            vmf.write = false;
        }
    }
    vmf.orig_pte = pte;
    if let Source::Copy(_) = source {
        k.folio_add_new_anon_rmap(folio, vmf.vma, vmf.vpn, true);
        k.folio_add_lru_vma(folio, vmf.vma);
    } else {
        if k.folio(folio).anon() {
            k.folio_add_anon_rmap_pte(folio, alone);
        } else {
            k.folio_add_new_anon_rmap(folio, vmf.vma, vmf.vpn, alone);
        }
        k.mlock_vma_folio(folio, vmf.vma);
    }
    let bug = k.pte_write(pte) && !k.page_anon_exclusive(folio) && !counted;
    k.bug_on(bug, Rule::BugSwapPageWritable, evidence);
    k.site(Site::SwapInSet).await;
    k.set_pte_at(p, pte).await;
}

/// `mm/swapfile.c: reuse_swap_page()` of 5.14: entries and mappings together are no more than the one that is being
/// brought back. Then the page leaves the swap cache, whatever other references there are.
fn reuse_swap_page(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    let slot = k.slot(f.slot);
    let alone = f.mapcount + i32::from(slot.count) <= 1;
    if alone && f.mapcount + i32::from(slot.count) == 1 && f.flags.has(Flags::SWAPCACHE) {
        k.delete_from_swap_cache(folio);
        k.folio_put(folio);
        k.folio_mark_dirty(folio);
    }
    alone
}

/// `mm/migrate.c: migration_entry_wait()`: waits until the folio that is being migrated is unlocked.
pub async fn migration_entry_wait(k: &Cpu, mm: u8, vpn: u32) {
    if let Some(p) = k.pmd_leaf(mm, vpn) {
        return pmd_migration_entry_wait(k, p).await;
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return };
    let ec = k.entries();
    let pte = k.ptep_get(p);
    let has_entry = ec.pte_has_swap_entry(pte) || k.has(Defect::A8) && ec.is_swap_pte(pte);
    let folio = (has_entry && ec.is_migration_entry(k.pte_to_swp_entry(pte)))
        .then(|| k.page_folio(k.swp_offset_pfn(ec.arch.pte_to_swp_entry(pte))));
    k.pte_unmap_unlock(p);
    if let Some(folio) = folio {
        k.site(Site::MigrationWait).await;
        k.folio_wait_locked(folio).await;
    }
}

/// `remove_device_exclusive_entry()`: a CPU access takes the page back from the device.
async fn remove_device_exclusive_entry(k: &Cpu, vmf: &VmFault, entry: SwpEntry) -> FaultResult {
    let page = k.swp_offset_pfn(entry);
    let folio = k.page_folio(page);
    // The entry was read without its lock: the folio may be gone, or be another one, by the time it is looked at.
    k.site(Site::RemoveExclusive).await;
    if !k.folio_try_get(folio) {
        return FaultResult::Done;
    }
    k.lock(Lock::Folio(folio)).await;
    let event = NotifyEvent::Exclusive { owner: None };
    k.mmu_notifier_invalidate_range_start(vmf.mm, vmf.vpn, vmf.vpn + 1, event).await;
    if let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await {
        if k.ptep_get(p) == vmf.orig_pte {
            restore_exclusive_pte(k, vmf.vma, page, p, vmf.orig_pte).await;
        }
        k.pte_unmap_unlock(p);
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
    k.mmu_notifier_invalidate_range_end(vmf.mm).await;
    FaultResult::Done
}

/// `restore_exclusive_pte()`: makes a device-exclusive entry present again. Folio and page table are locked.
pub async fn restore_exclusive_pte(k: &Cpu, vma: VmaId, page: Pfn, p: PtePtr, orig: Pte) {
    let (arch, ec) = (k.arch(), k.entries());
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), s.w.vmas[vma].writable())
    };
    let mut pte = arch.pte_mkold(arch.pfn_pte(u64::from(page), prot));
    if k.pte_swp_soft_dirty(orig) {
        pte = arch.pte_mksoft_dirty(pte);
    }
    let uffd_wp = k.pte_swp_uffd_wp(orig);
    if uffd_wp {
        pte = arch.pte_mkuffd_wp(pte);
    }
    if k.uses(Design::RestoreByType) {
        if !uffd_wp && ec.is_writable_device_exclusive_entry(k.pte_to_swp_entry(orig)) {
            pte = maybe_mkwrite(k, vma, arch.pte_mkdirty(pte));
        }
    } else if writable && (k.has(Defect::D5) || can_change_pte_writable(k, vma, pte)) {
        if k.folio_test(k.page_folio(page), Flags::DIRTY) {
            pte = arch.pte_mkdirty(pte);
        }
        pte = arch.pte_mkwrite(pte);
    }
    let evidence = Evidence { pfn: Some(page), ..Evidence::default() };
    let exclusive = k.folio(k.page_folio(page)).anon() && k.page_anon_exclusive(page);
    let bug = arch.pte_write(pte) && !exclusive && !k.uses(Design::CowByCount);
    k.bug_on(bug, Rule::BugRestoreExclusive, evidence);
    if k.has(Defect::D12) {
        k.folio_add_anon_rmap_pte(page, false);
        k.mlock_vma_folio(k.page_folio(page), vma);
    }
    k.site(Site::RestoreExclusive).await;
    k.set_pte_at(p, pte).await;
}
