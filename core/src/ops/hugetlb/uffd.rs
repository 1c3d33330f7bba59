//! Hugetlb memory and userfaultfd: `mm/userfaultfd.c: mfill_atomic_hugetlb()`, `mm/hugetlb.c: hugetlb_mfill_atomic_pte()`, and what
//! a fault does that has to wait for the monitor.
//!
//! Everything is about whole huge pages: what is filled or write-protected must begin and end with one, and an event names the
//! first page of the huge page (`UFFD_FEATURE_EXACT_ADDRESS` is left out).

use super::fault::filemap_lock_hugetlb_folio;
use super::make_huge_pte;
use super::reserve::{
    alloc_hugetlb_folio, fault_mutex, hugetlb_vma_lock_read, hugetlb_vma_unlock_read, place, restore_reserve_on_error,
};
use super::share::huge_pte_alloc;
use crate::arch::Pmd;
use crate::config::Defect;
use crate::entry::{PTE_MARKER_POISONED, PTE_MARKER_UFFD_WP, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::observe::{HUGETLBFS, Outcome, Userfault, copy_token};
use crate::ops::uffd::handle_userfault;
use crate::ops::uffd_fill::Fill;
use crate::ops::vmf::{FaultResult, VmFault};
use crate::phys::{CacheEntry, Flags, HpageFlags, Pfn};
use crate::sched::{Cpu, Site};

/// `hugetlb_handle_userfault()`, after the locks of the fault have been given back.
pub(super) async fn hugetlb_handle_userfault(k: &Cpu, vmf: &VmFault, address: u32, reason: Userfault) -> FaultResult {
    let huge = VmFault { retry: vmf.retry, ..VmFault::new(k, vmf.vma, address, vmf.write) };
    handle_userfault(k, &huge, reason).await
}

/// `userfaultfd_huge_must_wait()`: what is being migrated will be there again, and the fault comes again then. (The kernel asked
/// such an entry, too, whether it may be written, and got an answer that meant something else.)
pub fn userfaultfd_huge_must_wait(k: &Cpu, mm: u8, address: u32, reason: Userfault) -> bool {
    let Some(p) = k.pmd_offset(mm, address) else { return true };
    let pmd = k.pmdp_get(p);
    match k.entries().pmd_kind(pmd) {
        PmdKind::None | PmdKind::Marker(_) => true,
        PmdKind::Huge => !k.pte_write(k.arch().pmd_leaf(pmd)) && reason == Userfault::Wp,
        _ => false,
    }
}

/// A marker at the level of a PMD. Where a design has its own note of write protection, that.
pub(super) fn huge_marker(k: &Cpu, bits: u64) -> Pmd {
    let ec = k.entries();
    Pmd(if bits == PTE_MARKER_UFFD_WP { ec.make_uffd_wp_note() } else { ec.make_pte_marker(bits) }.0)
}

/// `mfill_atomic_hugetlb()`: how many pages were filled, and the error that ended it. The source is never paged out, so the copy
/// is made under the locks.
pub async fn mfill_atomic_hugetlb(
    k: &Cpu,
    vma: VmaId,
    (start, end): (u32, u32),
    first: u32,
    what: Fill,
) -> (u32, Outcome) {
    // There is no huge zero page of every size.
    if what == Fill::Zeropage || !super::aligned(k, start, end) {
        return (0, Outcome::Invalid);
    }
    for address in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        let mutex = fault_mutex(k, vma, address);
        k.lock(mutex).await;
        hugetlb_vma_lock_read(k, vma).await;
        let p = huge_pte_alloc(k, vma, address).await;
        let taken = !k.pmd_kind(p).none_mostly();
        let result = if taken && !matches!(what, Fill::Continue { .. }) {
            Err(Outcome::Exists)
        } else {
            hugetlb_mfill_atomic_pte(k, vma, p, first + (address - start), what).await
        };
        hugetlb_vma_unlock_read(k, vma);
        k.unlock(mutex);
        if let Err(error) = result {
            return (address - start, error);
        }
    }
    (end - start, Outcome::Done)
}

/// The folio that is about to be mapped, with a reference.
struct Filler {
    folio: Pfn,
    /// It is in the page cache, and locked.
    cached: bool,
}

/// `hugetlb_mfill_atomic_pte()`; `page` is the number of the first page in the monitor's buffer.
async fn hugetlb_mfill_atomic_pte(k: &Cpu, vma: VmaId, p: PmdPtr, page: u32, what: Fill) -> Result<(), Outcome> {
    k.site(Site::UserfaultFill).await;
    if what == Fill::Poison {
        return mfill_poison(k, p).await;
    }
    let continues = matches!(what, Fill::Continue { .. });
    let Filler { folio, cached } =
        if continues { page_of_the_file(k, vma, p.vpn).await } else { new_page(k, vma, p.vpn, page).await }?;
    k.pmd_lock(p).await;
    // PageHWPoison(): -EIO.
    let result = if k.folio_test(folio, Flags::HWPOISON) {
        Err(Outcome::Fault)
    } else if !k.pmd_kind(p).none_mostly() {
        // A marker may be overwritten.
        Err(Outcome::Exists)
    } else {
        map_filled(k, vma, p, folio, cached, what).await;
        Ok(())
    };
    if result.is_ok() && !continues {
        k.hpage_set(folio, HpageFlags::MIGRATABLE);
    }
    k.pmd_unlock(p);
    if cached {
        k.folio_unlock(folio);
    }
    if result.is_err() {
        // What is in the page cache keeps its reservation.
        if !cached || continues && k.has(Defect::H11) {
            restore_reserve_on_error(k, vma, p.vpn, folio);
        }
        k.folio_put(folio);
    }
    result
}

/// The branch for `MFILL_ATOMIC_POISON`: only where there is nothing at all, not even a marker.
async fn mfill_poison(k: &Cpu, p: PmdPtr) -> Result<(), Outcome> {
    k.pmd_lock(p).await;
    let none = k.pmd_kind(p) == PmdKind::None;
    if none {
        k.set_pmd_at(p, huge_marker(k, PTE_MARKER_POISONED)).await;
    }
    k.pmd_unlock(p);
    if none { Ok(()) } else { Err(Outcome::Exists) }
}

/// The branch for `MFILL_ATOMIC_CONTINUE`. Anonymous memory has nothing in its page cache.
async fn page_of_the_file(k: &Cpu, vma: VmaId, address: u32) -> Result<Filler, Outcome> {
    let index = place(k, vma, address).ok_or(Outcome::Fault)?;
    let folio = filemap_lock_hugetlb_folio(k, index).await.ok_or(Outcome::Fault)?;
    Ok(Filler { folio, cached: true })
}

/// The branch for `MFILL_ATOMIC_COPY`: a new page with the data; of a shared mapping it is in the file from then on.
async fn new_page(k: &Cpu, vma: VmaId, address: u32, page: u32) -> Result<Filler, Outcome> {
    let shared = k.s().w.vmas[vma].shared();
    let index = place(k, vma, address).filter(|_| shared);
    // hugetlbfs_pagecache_present()
    if index.is_some_and(|i| matches!(k.cache_entry(HUGETLBFS, i), CacheEntry::Folio(_))) {
        return Err(Outcome::Exists);
    }
    let folio = alloc_hugetlb_folio(k, vma, address, false).await.ok_or(Outcome::NoMem)?;
    // copy_folio_from_user()
    let op = k.op();
    for n in 0..k.config().geometry.ptrs() {
        k.s().w.mem.folios[(folio + n) as usize].data = copy_token(op, page + n);
    }
    k.folio_set(folio, Flags::UPTODATE);
    let Some(index) = index else { return Ok(Filler { folio, cached: false }) };
    k.site(Site::CacheAdd).await;
    let error = if index >= k.i_size_read(HUGETLBFS) {
        Some(Outcome::Fault)
    } else {
        k.folio_lock_new(folio);
        let added = k.hugetlb_add_to_page_cache(HUGETLBFS, index, folio);
        if !added {
            k.folio_unlock(folio);
        }
        (!added).then_some(Outcome::Exists)
    };
    if let Some(error) = error {
        restore_reserve_on_error(k, vma, address, folio);
        k.folio_put(folio);
        return Err(error);
    }
    Ok(Filler { folio, cached: true })
}

/// The part of `hugetlb_mfill_atomic_pte()` that maps the folio, with the PMD locked.
async fn map_filled(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn, cached: bool, what: Fill) {
    let arch = k.arch();
    if cached {
        k.hugetlb_add_file_rmap(folio);
    } else {
        k.hugetlb_add_new_anon_rmap(folio, vma, p.vpn);
    }
    let shared = k.s().w.vmas[vma].shared();
    let writable = !what.wp() && (shared || !matches!(what, Fill::Continue { .. }));
    let mut leaf = arch.pte_mkyoung(arch.pte_mkdirty(make_huge_pte(k, vma, folio, writable)));
    if what.wp() {
        leaf = arch.pte_mkuffd_wp(leaf);
    }
    k.set_pmd_at(p, arch.pte_mkhuge(leaf)).await;
}
