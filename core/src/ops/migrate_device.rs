//! `mm/migrate_device.c`: between system memory and a device's own, one page for each call of `migrate_vma_setup()`.

use super::access::find_vma;
use super::huge::pmd_folio;
use super::huge_zero::is_huge_zero_pmd;
use super::hugetlb::is_vm_hugetlb_page;
use super::migrate::{move_to_new_folio, remove_migration_ptes, replace_by_migration_entry, try_to_migrate};
use super::pgtable::pte_alloc;
use super::rmap::anon_vma_prepare;
use super::split::{split_folio, split_huge_pmd};
use super::swap_cache::folio_free_swap;
use super::vmf::{FaultResult, VmFault};
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::VmaId;
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// What `migrate_vma_collect_pmd()` found at an address.
enum Collected {
    /// A folio, locked, with a reference, its entry replaced by a migration entry.
    Folio(Pfn),
    /// Nothing, or the zero page: a page can be put there.
    Hole,
    /// Not to be migrated now.
    Nothing,
}

/// Which pages are collected (`MIGRATE_VMA_SELECT_*`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Select {
    /// Pages of system memory.
    System,
    /// The device page that a fault has locked (`migrate->fault_page`).
    Fault(Pfn),
}

impl Select {
    /// Is the folio's lock the caller's, for longer than the migration?
    fn locked_by_fault(self, folio: Pfn) -> bool {
        self == Select::Fault(folio)
    }
}

/// One page of `dmirror_migrate_to_device()`. The caller holds `mmap_lock` for reading.
///
/// The test driver passes over the `MMU_NOTIFY_MIGRATE` that it causes itself, and programs the device in
/// `dmirror_migrate_finalize_and_map()`. This one obeys it, as a device that goes on storing meanwhile would lose
/// stores, and programs the device at its first access, where the sequence tells whether the page is still there.
pub async fn migrate_to_device(k: &Cpu, device: u8, mm: u8, vpn: u32) -> Result<(), Outcome> {
    let vma = find_vma(k, mm, vpn, false).map_err(|_| Outcome::Fault)?;
    // migrate_vma_setup()
    if is_vm_hugetlb_page(k, vma) || k.s().w.vmas[vma].backing.device().is_some() {
        return Err(Outcome::Invalid);
    }
    match collect(k, mm, vpn, Select::System).await {
        Collected::Nothing => {}
        Collected::Hole => {
            // Only anonymous memory has holes that can be filled.
            if k.s().w.vmas[vma].anonymous() {
                insert_page(k, device, vma, vpn).await;
            }
        }
        Collected::Folio(src) => {
            if !isolate_and_unmap(k, src).await {
                restore(k, src).await;
                return Ok(());
            }
            let Some(dst) = alloc_device(k, device) else {
                restore(k, src).await;
                return Ok(());
            };
            k.site(Site::VmaCopy).await;
            // Only anonymous memory goes to a device, and only without the swap cache.
            let free =
                k.folio(src).file().is_none() && (!k.folio_test(src, Flags::SWAPCACHE) || folio_free_swap(k, src));
            let moved = free && move_to_new_folio(k, src, dst, 0).await;
            finalize(k, src, dst, moved).await;
        }
    }
    Ok(())
}

/// `dmirror_devmem_fault()`: `migrate_to_ram` of a page that a CPU has asked for. The caller holds its lock and a
/// reference.
async fn migrate_to_ram(k: &Cpu, mm: u8, vpn: u32, page: Pfn) -> FaultResult {
    k.site(Site::ToRam).await;
    let Collected::Folio(src) = collect(k, mm, vpn, Select::Fault(page)).await else {
        return FaultResult::Done;
    };
    if !isolate_and_unmap(k, src).await {
        restore(k, src).await;
        return FaultResult::Done;
    }
    let Some(dst) = k.folio_alloc() else {
        restore(k, src).await;
        return FaultResult::Oom;
    };
    if !k.trylock(Lock::Folio(dst)).await {
        k.folio_put(dst);
        restore(k, src).await;
        return FaultResult::Done;
    }
    k.site(Site::VmaCopy).await;
    // The fault holds one reference more than a migration expects.
    let moved = move_to_new_folio(k, src, dst, 1).await;
    finalize(k, src, dst, moved).await;
    FaultResult::Done
}

/// The device-private branch of `do_swap_page()`, as "mm/migrate: Trylock device page in do_swap_page()" made it: the
/// page is locked before a reference is taken, so that two faults on it do not make each other's migration fail.
pub async fn device_private_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::Done };
    if k.ptep_get(p) != vmf.orig_pte {
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    let page = k.swp_offset_pfn(k.pte_to_swp_entry(vmf.orig_pte));
    if !k.trylock(Lock::Folio(page)).await {
        k.pte_unmap_unlock(p);
        k.folio_wait_locked(page).await;
        return FaultResult::Done;
    }
    k.folio_get(page);
    k.pte_unmap_unlock(p);
    let result = migrate_to_ram(k, vmf.mm, vmf.vpn, page).await;
    k.folio_unlock(page);
    k.folio_put(page);
    result
}

/// `migrate_vma_collect()`: replaces the entry by a migration entry, with the devices told.
async fn collect(k: &Cpu, mm: u8, vpn: u32, select: Select) -> Collected {
    k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, NotifyEvent::Clear).await;
    let huge = k.pmd_leaf(mm, vpn).is_some();
    if huge && !split_for_device(k, mm, vpn).await {
        k.mmu_notifier_invalidate_range_end(mm).await;
        return Collected::Nothing;
    }
    let collected = match k.pte_offset_map_lock(mm, vpn).await {
        // A huge page that is there again.
        None if k.pmd_leaf(mm, vpn).is_some() => Collected::Nothing,
        // migrate_vma_collect_hole()
        None if select == Select::System => Collected::Hole,
        None => Collected::Nothing,
        Some(p) => {
            k.site(Site::VmaCollect).await;
            let collected = collect_pte(k, p, select).await;
            k.pte_unmap_unlock(p);
            collected
        }
    };
    k.mmu_notifier_invalidate_range_end(mm).await;
    collected
}

/// The beginning of `migrate_vma_collect_pmd()`: a huge page is split, the folio too. False when it cannot be now.
async fn split_for_device(k: &Cpu, mm: u8, vpn: u32) -> bool {
    let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await else { return true };
    let pmd = k.pmdp_get(p);
    if k.entries().pmd_kind(pmd) != PmdKind::Huge {
        // A migration entry: migrate_vma_collect_skip().
        k.pmd_unlock(p);
        return false;
    }
    if is_huge_zero_pmd(k, pmd) {
        k.pmd_unlock(p);
        let vma = k.s().w.vma_lookup(mm, vpn);
        if let Some(vma) = vma {
            split_huge_pmd(k, vma, p, None).await;
        }
        return true;
    }
    let folio = pmd_folio(k, pmd);
    k.folio_get(folio);
    k.pmd_unlock(p);
    if !k.trylock(Lock::Folio(folio)).await {
        k.folio_put(folio);
        return false;
    }
    let split = split_folio(k, folio).await;
    k.folio_unlock(folio);
    k.folio_put(folio);
    split
}

/// The loop of `migrate_vma_collect_pmd()`. Pages of large folios are passed over, as in 6.12.
async fn collect_pte(k: &Cpu, p: crate::mm::PtePtr, select: Select) -> Collected {
    let ec = k.entries();
    let pte = k.ptep_get(p);
    let folio = if k.pte_none(pte) {
        return if select == Select::System { Collected::Hole } else { Collected::Nothing };
    } else if ec.arch.pte_present(pte) {
        let pfn = k.vm_normal_page(pte);
        if select != Select::System {
            return Collected::Nothing;
        }
        if pfn == ZERO_PFN {
            return Collected::Hole;
        }
        if k.folio_test(pfn, Flags::KSM) || k.folio_test_large(pfn) {
            return Collected::Nothing;
        }
        pfn
    } else if ec.is_swap_special_pte(pte) {
        return Collected::Nothing;
    } else {
        let entry = k.pte_to_swp_entry(pte);
        if !ec.is_device_private_entry(entry) || !select.locked_by_fault(k.swp_offset_pfn(entry)) {
            return Collected::Nothing;
        }
        k.swp_offset_pfn(entry)
    };
    k.folio_get(folio);
    let ours = !select.locked_by_fault(folio);
    if ours && !k.trylock(Lock::Folio(folio)).await {
        k.folio_put(folio);
        return Collected::Nothing;
    }
    let replaced = replace_by_migration_entry(k, folio, p).await;
    if replaced {
        k.munlock_page_at(folio, p.mm, p.vpn);
    } else {
        if ours {
            k.folio_unlock(folio);
        }
        k.folio_put(folio);
        return Collected::Nothing;
    }
    Collected::Folio(folio)
}

/// `migrate_device_unmap()`: takes a folio of system memory off the LRU, and replaces the entries of others too.
async fn isolate_and_unmap(k: &Cpu, folio: Pfn) -> bool {
    if k.s().w.mem.device_of(folio).is_none() {
        if !k.folio_isolate_lru(folio) {
            return false;
        }
        // The reference of the isolation takes the place of the one from the collection.
        k.folio_put(folio);
    }
    if k.folio_mapped(folio) {
        try_to_migrate(k, folio).await;
    }
    !k.folio_mapped(folio)
}

/// Gives up: the migration entries map the old folio again.
async fn restore(k: &Cpu, src: Pfn) {
    let f = k.folio(src);
    k.note(Note::MigrateFailed, Some(src), f.refcount as u32, f.mapcount as u32);
    remove_migration_ptes(k, src, src).await;
    // A device page here is the one that a fault has locked, and the fault unlocks it.
    if k.s().w.mem.device_of(src).is_none() {
        k.folio_unlock(src);
        k.folio_add_lru(src);
    }
    k.folio_put(src);
}

/// `dmirror_devmem_alloc_page()`: a page of the device's memory, locked.
fn alloc_device(k: &Cpu, device: u8) -> Option<Pfn> {
    let pfn = k.folio_alloc_device(device)?;
    k.folio_lock_new(pfn);
    Some(pfn)
}

/// `migrate_vma_insert_page()`: a new zeroed page of the device where there was none. Soft-dirty, as every new page of a
/// CPU fault is; the kernel forgets that (N2).
async fn insert_page(k: &Cpu, device: u8, vma: VmaId, vpn: u32) {
    let ec = k.entries();
    let mm = k.s().w.vmas[vma].mm;
    pte_alloc(k, mm, vpn).await;
    anon_vma_prepare(k, vma).await;
    let Some(folio) = alloc_device(k, device) else { return };
    k.folio_set(folio, Flags::UPTODATE);
    k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, NotifyEvent::Clear).await;
    if let Some(p) = k.pte_offset_map_lock(mm, vpn).await {
        let old = k.ptep_get(p);
        let zero = ec.arch.pte_present(old) && k.pte_pfn(old) == ZERO_PFN;
        // A second look, under the lock: a marker may have come, or somebody who wants to hear of missing pages.
        let hole = k.pte_none(old) || k.has(Defect::A9) && ec.is_pte_marker(old);
        if (hole || zero) && !k.s().w.vmas[vma].uffd_missing() {
            k.s().w.mms[mm as usize].anon_pages += 1;
            k.folio_add_new_anon_rmap(folio, vma, vpn, true);
            k.folio_get(folio);
            if zero {
                k.ptep_clear_flush(p).await;
            }
            let uffd_wp = zero && k.pte_uffd_wp(old) && !k.has(Defect::N5);
            let writable = k.s().w.vmas[vma].writable() && !uffd_wp;
            let entry = ec.arch.swp_entry_to_pte(ec.make_device_private_entry(u64::from(folio), writable));
            let entry = if k.has(Defect::N2) { entry } else { ec.arch.pte_swp_mksoft_dirty(entry) };
            let entry = if uffd_wp { ec.arch.pte_swp_mkuffd_wp(entry) } else { entry };
            k.set_pte_at(p, entry).await;
        }
        k.pte_unmap_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    k.folio_unlock(folio);
    k.folio_put(folio);
}

/// `migrate_device_finalize()`.
async fn finalize(k: &Cpu, src: Pfn, dst: Pfn, moved: bool) {
    k.site(Site::VmaFinalize).await;
    let to = if moved { dst } else { src };
    if moved {
        k.note(Note::Migrated, Some(src), dst, 0);
    }
    if k.s().w.mem.device_of(to).is_none() {
        k.folio_add_lru(to);
    }
    remove_migration_ptes(k, src, to).await;
    if k.s().w.mem.device_of(src).is_none() {
        k.folio_unlock(src);
    }
    k.folio_put(src);
    k.folio_unlock(dst);
    k.folio_put(dst);
}
