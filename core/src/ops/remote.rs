//! What a debugger may do that the process may not (`/proc/pid/mem`, `ptrace()`): `fs/proc/base.c: mem_rw()`,
//! `mm/memory.c: __access_remote_vm()`, and `mm/gup.c` with `FOLL_FORCE`.
//!
//! A read needs no permission. A write to private memory that is mapped read-only breaks copy-on-write, so that the
//! breakpoint in a shared library does not get into its file, and the entry stays read-only. Left out: access across
//! pages, memory that no page stands behind (`vma->vm_ops->access`), and `proc_mem.force_override`, which can forbid it.

use super::fault::handle_mm_fault;
use super::gup::{GupError, fault_error, hidden};
use super::hugetlb::is_vm_hugetlb_page;
use super::vmf::{pte_needs_soft_dirty_wp, userfaultfd_pte_wp};
use crate::arch::Pte;
use crate::config::{Defect, Design};
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, VmaId};
use crate::observe::Outcome;
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};

/// `__access_remote_vm()` of one page.
pub async fn access_remote_vm(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let outcome = match get_user_page_vma_remote(k, mm, vpn, write).await {
        Ok(page) => {
            // What is read is what was there when the page was found: whoever writes later may get a copy.
            if write {
                k.site(Site::RemoteCopy).await;
            }
            let op = k.op();
            k.s().remote_access(op, mm, vpn, page, write);
            let folio = k.page_folio(page);
            if write {
                // set_page_dirty_lock()
                k.lock(Lock::Folio(folio)).await;
                k.folio_mark_dirty(folio);
                k.folio_unlock(folio);
            }
            k.folio_put(folio);
            Outcome::Done
        }
        // Whatever the reason, it is EIO.
        Err(GupError::NoMem) => Outcome::NoMem,
        Err(_) => Outcome::Fault,
    };
    k.unlock(Lock::MmapRead(mm));
    outcome
}

/// `get_user_page_vma_remote()` with `FOLL_FORCE`: a reference to the page. `mmap_lock` is not dropped, so userfaults are
/// not waited for.
async fn get_user_page_vma_remote(k: &Cpu, mm: u8, vpn: u32, mut write: bool) -> Result<Pfn, GupError> {
    let vma = k.s().w.vma_lookup(mm, vpn).ok_or(GupError::Fault)?;
    check_vma_flags(k, vma, write)?;
    let mut cow = false;
    loop {
        k.site(Site::PinLookup).await;
        if let Some(page) = follow_page_forced(k, vma, vpn, write, cow).await? {
            return Ok(page);
        }
        // faultin_page()
        k.set_fault_write(false);
        fault_error(handle_mm_fault(k, vma, vpn, write).await)?;
        let broken = write && k.fault_write() && !k.s().w.vmas[vma].writable();
        cow |= broken;
        write &= !(broken && k.has(Defect::V25));
    }
}

/// `check_vma_flags()` with `FOLL_FORCE`: reads are for everybody, writes for private memory other than hugetlb. Devices
/// are left out, too: `__wp_page_copy_user()` copies what it can read at the address, and here that may be nothing.
fn check_vma_flags(k: &Cpu, vma: VmaId, write: bool) -> Result<(), GupError> {
    let s = k.s();
    let v = &s.w.vmas[vma];
    let forced = write && !v.writable();
    let refused = v.backing.pfnmap() || forced && (v.shared() || v.backing.hugetlb() || v.backing.device().is_some());
    if refused { Err(GupError::Fault) } else { Ok(()) }
}

/// `follow_page_mask()` with `FOLL_FORCE | FOLL_GET | FOLL_TOUCH`. An entry that is out of the process's reach will do
/// (`gup_can_follow_protnone()`).
async fn follow_page_forced(k: &Cpu, vma: VmaId, vpn: u32, write: bool, cow: bool) -> Result<Option<Pfn>, GupError> {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await {
        let found = follow_huge_pmd_forced(k, vma, p, vpn, write, cow).await;
        k.pmd_unlock(p);
        return Ok(found);
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return Ok(None) };
    let pte = k.ptep_get(p);
    let usable = k.arch().pte_present(pte) && (!write || can_follow_write_pte(k, vma, pte, cow));
    // follow_pfn_pte(): -EEXIST.
    let found = if usable && hidden(k, pte) { Err(GupError::NoPage) } else { Ok(usable.then(|| k.pte_pfn(pte))) };
    if let Ok(Some(page)) = found {
        let folio = k.page_folio(page);
        k.folio_get(folio);
        if write && !k.pte_dirty(pte) {
            k.folio_mark_dirty(folio);
        }
    }
    k.pte_unmap_unlock(p);
    found
}

/// `follow_huge_pmd()`, with the PMD locked.
async fn follow_huge_pmd_forced(k: &Cpu, vma: VmaId, p: PmdPtr, vpn: u32, write: bool, cow: bool) -> Option<Pfn> {
    let (arch, pmd) = (k.arch(), k.pmdp_get(p));
    if k.entries().pmd_kind(pmd) != PmdKind::Huge {
        return None;
    }
    let leaf = k.entries().pmd_as_pte(pmd);
    // can_follow_write_pmd()
    if write && !can_follow_write_pte(k, vma, leaf, cow) {
        return None;
    }
    let page = k.pte_pfn(leaf) + (vpn - p.vpn);
    k.folio_get(k.page_folio(page));
    if !is_vm_hugetlb_page(k, vma) {
        // touch_pmd()
        k.pmdp_update(p, |pte| if write { arch.pte_mkdirty(arch.pte_mkyoung(pte)) } else { arch.pte_mkyoung(pte) })
            .await;
    }
    Some(page)
}

/// `can_follow_write_pte()`: an entry that is not writable will do where copy-on-write was broken. Releases that count
/// references remember that they broke it (`FOLL_COW`) and want a dirty entry, for a page that came in its place would be
/// clean; since 6.0 the page says so itself.
fn can_follow_write_pte(k: &Cpu, vma: VmaId, pte: Pte, cow: bool) -> bool {
    if k.pte_write(pte) {
        return true;
    }
    if k.uses(Design::CowByCount) || k.has(Defect::V26) {
        return cow && k.pte_dirty(pte);
    }
    let (shared, writable) = {
        let s = k.s();
        (s.w.vmas[vma].shared(), s.w.vmas[vma].writable())
    };
    if shared || writable {
        return false;
    }
    let page = k.vm_normal_page(pte);
    let exclusive = page != ZERO_PFN && k.folio(k.page_folio(page)).anon() && k.page_anon_exclusive(page);
    // A write fault may be needed for other reasons.
    exclusive && !pte_needs_soft_dirty_wp(k, vma, pte) && !userfaultfd_pte_wp(k, vma, pte)
}
