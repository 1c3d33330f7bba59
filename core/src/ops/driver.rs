//! Two drivers whose devices user space maps.
//!
//! The first maps the whole device at once when it is mapped, as `drivers/pci/mmap.c: pci_mmap_resource_range()` does for
//! the `resource` files of sysfs, and takes every mapping away for good when the device is unplugged
//! (`fs/kernfs/file.c: kernfs_drain_open_files()`).
//!
//! The second maps page by page when they are faulted in, under a lock of its own, like
//! `drivers/vfio/pci/vfio_pci_core.c: vfio_pci_mmap_fault()`; when the device is reset it takes every mapping away first
//! (`vfio_pci_zap_and_down_write_memory_lock()`). Like TTM (`drivers/gpu/drm/ttm/ttm_bo.c: ttm_bo_handle_move_mem()`) it
//! may also move a page to another place on the board, which nobody may notice. With `VM_MIXEDMAP` it hears of the first
//! store to a page (`pfn_mkwrite`), as file systems with DAX do.

use super::pfnmap::{apply_to_page_range, remap_pfn_range, vmf_insert_mixed, vmf_insert_pfn};
use super::pgtable::pte_alloc_now;
use super::rmap::anon_vma_prepare;
use super::truncate::unmap_mapping_range;
use super::vma_lock::vmf_can_call_fault;
use super::vmf::{FaultResult, VmFault};
use crate::config::Defect;
use crate::hw::Boards;
use crate::mm::VmaId;
use crate::observe::{FAULTED, Outcome, REMAPPED};
use crate::sched::{Cpu, Lock, Sim, Site};
use crate::world::World;

/// `call_mmap()`: the first driver's `->mmap()` maps the device; the second driver's does nothing.
///
/// Here we differ from the kernel, where the driver is called before the VMA is in `i_mmap`: whoever takes all mappings
/// away just then does not find this one (N9).
pub async fn call_mmap(k: &Cpu, vma: VmaId) {
    if k.s().w.vmas[vma].backing.device() != Some(REMAPPED) {
        return;
    }
    // kernfs_get_active()
    k.lock(Lock::BoardRead(REMAPPED)).await;
    k.site(Site::RemapPfn).await;
    let (unplugged, page) = {
        let s = k.s();
        (s.w.boards.unplugged, s.w.vmas[vma].pgoff)
    };
    if !unplugged {
        remap_pfn_range(k, vma, Boards::remapped(page)).await;
    }
    k.unlock(Lock::BoardRead(REMAPPED));
}

/// The same for a mapping that is there when a case begins.
pub fn map_from_start(s: &mut Sim, vma: VmaId) {
    let (mm, start, end, page) = {
        let v = &s.w.vmas[vma];
        (v.mm, v.start, v.end, v.pgoff)
    };
    let arch = s.w.config.arch;
    let prot = s.w.page_prot(vma);
    for vpn in start..end {
        pte_alloc_now(&mut s.w, mm, vpn);
        let Some(p) = s.w.pte_ptr(mm, vpn) else { return };
        let pfn = Boards::remapped(page + (vpn - start));
        s.w.tables.put(p.table, p.index, arch.pte_mkspecial(arch.pfn_pte(u64::from(pfn), prot)).0);
    }
}

/// `do_fault()` of a device's mapping.
pub async fn do_device_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let (backing, shared) = {
        let s = k.s();
        (s.w.vmas[vmf.vma].backing, s.w.vmas[vmf.vma].shared())
    };
    if backing.device() == Some(REMAPPED) {
        // No vm_ops->fault: what is not there will not come.
        let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::SigBus };
        let none = k.pte_none_not_special(k.ptep_get(p));
        k.pte_unmap_unlock(p);
        return if none { FaultResult::SigBus } else { FaultResult::Done };
    }
    if !vmf_can_call_fault(k, vmf) {
        return FaultResult::Retry;
    }
    if !vmf.write || shared {
        return driver_fault(k, vmf).await;
    }
    // do_cow_fault(): the driver maps what is there (VM_FAULT_NOPAGE), and the next fault copies it.
    anon_vma_prepare(k, vmf.vma).await;
    let Some(copy) = k.folio_alloc() else { return FaultResult::Oom };
    let result = driver_fault(k, vmf).await;
    k.folio_put(copy);
    result
}

/// The second driver's `vm_ops->fault`.
async fn driver_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    k.lock(Lock::BoardRead(FAULTED)).await;
    k.site(Site::DriverFault).await;
    let (pfn, mixed, shared) = {
        let s = k.s();
        let v = &s.w.vmas[vmf.vma];
        (s.w.boards.faulted(v.linear_page_index(vmf.vpn)), v.backing.mixedmap(), v.shared())
    };
    let result = if k.has(Defect::A4c) {
        apply_to_page_range(k, vmf, pfn).await
    } else if mixed {
        vmf_insert_mixed(k, vmf, pfn, vmf.write && shared).await
    } else {
        vmf_insert_pfn(k, vmf, pfn).await
    };
    k.unlock(Lock::BoardRead(FAULTED));
    result
}

/// The second driver's `vm_ops->pfn_mkwrite`: notes that the page will be written to.
pub async fn pfn_mkwrite(k: &Cpu) {
    k.lock(Lock::BoardRead(FAULTED)).await;
    k.unlock(Lock::BoardRead(FAULTED));
}

/// The first device is unplugged: `kernfs_drain()` waits for those who are about to map it, and takes every mapping away,
/// private copies with it.
pub async fn unplug(k: &Cpu) -> Outcome {
    k.lock(Lock::BoardWrite(REMAPPED)).await;
    k.s().w.boards.unplugged = true;
    k.unlock(Lock::BoardWrite(REMAPPED));
    unmap_mapping_range(k, REMAPPED, 0, u32::MAX, true).await;
    Outcome::Done
}

/// `vfio_pci_ioctl_reset()`: nobody can map the second device while it is reset, and nothing of it is mapped. What was in
/// it is gone.
pub async fn reset(k: &Cpu) -> Outcome {
    k.lock(Lock::BoardWrite(FAULTED)).await;
    unmap_mapping_range(k, FAULTED, 0, u32::MAX, false).await;
    k.site(Site::DriverMove).await;
    for bank in 1..crate::config::RAW_BANKS {
        k.s().w.mem.raw.clear_bank(bank);
    }
    k.unlock(Lock::BoardWrite(FAULTED));
    Outcome::Done
}

/// `ttm_bo_handle_move_mem()`: a page of the second device, named by an address that shows it, goes to another place on
/// the board. Its mappings are taken away first; the next fault finds the new place.
pub async fn relocate(k: &Cpu, mm: u8, vpn: u32) {
    let Some(page) = page_at(&k.s().w, mm, vpn) else { return };
    k.lock(Lock::BoardWrite(FAULTED)).await;
    if !k.has(Defect::R3) {
        unmap_mapping_range(k, FAULTED, page, page + 1, false).await;
    }
    k.site(Site::DriverMove).await;
    {
        let s = &mut *k.s();
        let (from, to) = s.w.boards.relocate(page);
        let value = s.w.mem.load(from);
        s.w.mem.store(to, value);
        // What is left behind is somebody else's from now on.
        s.w.mem.store(from, 0);
    }
    k.unlock(Lock::BoardWrite(FAULTED));
}

/// The page of the second device that an address shows.
fn page_at(w: &World, mm: u8, vpn: u32) -> Option<u32> {
    let vma = &w.vmas[w.vma_lookup(mm, vpn)?];
    (vma.backing.device() == Some(FAULTED)).then(|| vma.linear_page_index(vpn))
}
