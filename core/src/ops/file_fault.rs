//! `mm/memory.c`: faults on mappings of files, and write faults on shared pages.

use super::driver::do_device_fault;
use super::fault::vmf_orig_pte_uffd_wp;
use super::filemap::{filemap_map_pages, folio_file_page, folio_is_at, vma_fault};
use super::huge_file::map_pmd_or_alloc_table;
use super::vma_lock::vmf_anon_prepare;
use super::vmf::{FaultResult, VmFault, maybe_mkwrite};
use super::wp::wp_page_reuse;
use crate::config::Defect;
use crate::mm::PtePtr;
use crate::observe::{FileId, REGULAR};
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};

/// The file of a fault, and the page of it.
fn place(k: &Cpu, vmf: &VmFault) -> (FileId, u32) {
    let s = k.s();
    let vma = &s.w.vmas[vmf.vma];
    (vma.backing.file().unwrap_or(REGULAR), vma.linear_page_index(vmf.vpn))
}

/// `do_fault()`. A page table is made when there is something to map.
pub async fn do_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let (shared, device) = {
        let s = k.s();
        (s.w.vmas[vmf.vma].shared(), s.w.vmas[vmf.vma].backing.device())
    };
    if device.is_some() {
        return do_device_fault(k, vmf).await;
    }
    let result = match (vmf.write, shared) {
        (false, _) => do_read_fault(k, vmf).await,
        (true, false) => do_cow_fault(k, vmf).await,
        (true, true) => do_shared_fault(k, vmf).await,
    };
    result.err().unwrap_or(FaultResult::Done)
}

/// `do_read_fault()`.
async fn do_read_fault(k: &Cpu, vmf: &VmFault) -> Result<(), FaultResult> {
    let (file, index) = place(k, vmf);
    // uffd_disable_fault_around()
    let around = {
        let s = k.s();
        !s.w.vmas[vmf.vma].uffd_wp() && !s.w.vmas[vmf.vma].uffd_minor()
    };
    if around && filemap_map_pages(k, vmf, file).await {
        return Ok(());
    }
    let folio = vma_fault(k, vmf, file, index).await?;
    finish_fault(k, vmf, folio_file_page(k, folio, index)).await;
    k.folio_unlock(folio);
    k.folio_put(folio);
    Ok(())
}

/// `do_cow_fault()`: a private copy of the file's page at once.
async fn do_cow_fault(k: &Cpu, vmf: &VmFault) -> Result<(), FaultResult> {
    let (file, index) = place(k, vmf);
    if !vmf_anon_prepare(k, vmf).await {
        return Err(FaultResult::Retry);
    }
    let copy = k.folio_alloc().ok_or(FaultResult::Oom)?;
    let folio = match vma_fault(k, vmf, file, index).await {
        Ok(folio) => folio,
        Err(error) => {
            k.folio_put(copy);
            return Err(error);
        }
    };
    k.site(Site::WpCopy).await;
    let page = folio_file_page(k, folio, index);
    k.s().copy_page(page, copy);
    k.folio_set(copy, Flags::UPTODATE);
    let mapped = finish_fault(k, vmf, copy).await;
    k.folio_unlock(folio);
    k.folio_put(folio);
    if !mapped {
        k.folio_put(copy);
    }
    Ok(())
}

/// `do_shared_fault()`: the file's page itself, writable.
async fn do_shared_fault(k: &Cpu, vmf: &VmFault) -> Result<(), FaultResult> {
    let (file, index) = place(k, vmf);
    let folio = vma_fault(k, vmf, file, index).await?;
    let page = folio_file_page(k, folio, index);
    if file == REGULAR {
        k.folio_unlock(folio);
        if !do_page_mkwrite(k, folio, file, index).await {
            k.folio_put(folio);
            return Ok(());
        }
    }
    if finish_fault(k, vmf, page).await {
        fault_dirty_shared_page(k, folio);
    } else {
        k.folio_unlock(folio);
    }
    k.folio_put(folio);
    Ok(())
}

/// `do_page_mkwrite()` with `filemap_page_mkwrite()`: locks the folio again and marks it dirty before a store is let
/// through. False, and unlocked, when it was truncated meanwhile.
async fn do_page_mkwrite(k: &Cpu, folio: Pfn, file: FileId, index: u32) -> bool {
    k.site(Site::PageMkwrite).await;
    k.lock(Lock::Folio(folio)).await;
    if !folio_is_at(k, folio, file, index) && !k.has(Defect::F4) {
        k.folio_unlock(folio);
        return false;
    }
    k.folio_mark_dirty(folio);
    true
}

/// `fault_dirty_shared_page()`: unlocks the folio.
fn fault_dirty_shared_page(k: &Cpu, folio: Pfn) {
    k.folio_mark_dirty(folio);
    k.folio_unlock(folio);
}

/// `finish_fault()`: maps a page, or the huge folio that it is in, unless somebody else was faster. The page's reference
/// goes into the entry only when it is a private copy; a page of the cache gets one of its own.
async fn finish_fault(k: &Cpu, vmf: &VmFault, page: Pfn) -> bool {
    k.site(Site::FinishFault).await;
    if map_pmd_or_alloc_table(k, vmf, k.page_folio(page)).await {
        return true;
    }
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return false };
    // vmf_pte_changed()
    let same = k.ptep_get(p) == vmf.orig_pte;
    if same {
        set_pte_range(k, vmf, p, page, false).await;
    }
    k.pte_unmap_unlock(p);
    same
}

/// `set_pte_range()` of one page.
pub async fn set_pte_range(k: &Cpu, vmf: &VmFault, p: PtePtr, page: Pfn, prefault: bool) {
    let arch = k.arch();
    let (prot, shared) = {
        let s = k.s();
        (s.w.page_prot(vmf.vma), s.w.vmas[vmf.vma].shared())
    };
    let write = vmf.write && !prefault;
    let mut entry = arch.pfn_pte(u64::from(page), prot);
    // arch_wants_old_prefaulted_pte() is true on arm64 only.
    entry = if prefault && !arch.has_soft_dirty() { arch.pte_mkold(entry) } else { arch.pte_mkyoung(entry) };
    if write {
        entry = maybe_mkwrite(k, vmf.vma, arch.pte_mkdirty(entry));
    } else if arch.pte_write(entry) && k.folio_test(k.page_folio(page), Flags::DIRTY) {
        entry = arch.pte_mkdirty(entry);
    }
    if !prefault && vmf_orig_pte_uffd_wp(k, vmf) {
        entry = arch.pte_mkuffd_wp(entry);
    }
    if write && !shared {
        k.folio_add_new_anon_rmap(page, vmf.vma, p.vpn, true);
        k.folio_add_lru_vma(page, vmf.vma);
    } else {
        k.folio_get(k.page_folio(page));
        k.folio_add_file_rmap_pte(page);
        // Of a large folio reclaim will see whether all of it is mapped here.
        if !k.folio_test_large(page) {
            k.mlock_vma_folio(page, vmf.vma);
        }
    }
    k.add_mm_counter(p.mm, page, 1);
    k.set_pte_at(p, entry).await;
}

/// The shared half of `do_wp_page()`: `wp_page_shared()`. Called with the page-table lock, which it releases.
pub async fn wp_page_shared(k: &Cpu, vmf: &VmFault, p: PtePtr, page: Pfn) -> FaultResult {
    let (file, index) = place(k, vmf);
    let folio = k.page_folio(page);
    k.folio_get(folio);
    if file == REGULAR {
        k.pte_unmap_unlock(p);
        if !do_page_mkwrite(k, folio, file, index).await {
            k.folio_put(folio);
            return FaultResult::Done;
        }
        if !finish_mkwrite_fault(k, vmf, folio).await {
            k.folio_unlock(folio);
            k.folio_put(folio);
            return FaultResult::Done;
        }
    } else {
        wp_page_reuse(k, vmf, p, folio).await;
        k.lock(Lock::Folio(folio)).await;
    }
    fault_dirty_shared_page(k, folio);
    k.folio_put(folio);
    FaultResult::Done
}

/// `finish_mkwrite_fault()`: false when the entry has changed meanwhile.
pub(super) async fn finish_mkwrite_fault(k: &Cpu, vmf: &VmFault, folio: Pfn) -> bool {
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return false };
    if k.ptep_get(p) != vmf.orig_pte {
        k.pte_unmap_unlock(p);
        return false;
    }
    wp_page_reuse(k, vmf, p, folio).await;
    true
}
