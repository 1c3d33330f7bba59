//! `mm/gup.c`: pins for a long time (`FOLL_LONGTERM`), as of a driver that gives memory to its device until its file is
//! closed.
//!
//! Such a page has to be one that may stay: not in `ZONE_MOVABLE`, which somebody may want to take off line
//! (`check_and_migrate_movable_pages()`); not one of a file system that wants to be told before each store
//! (`writable_file_mapping_allowed()`); and, for reading, not one that the process would part from at its next store
//! (`gup_must_unshare()`). While it is looked for, nothing is allocated in `ZONE_MOVABLE`.
//!
//! Left out: CMA, DAX, coherent device memory, and the LRU batches that are drained on the way.

use super::access::find_vma;
use super::fault::{handle_mm_fault, handle_unshare_fault};
use super::gup::{Grab, GupError, MAX_PINS, fault_error, get_user_page, gup_can_follow, hidden, refuse_raw};
use super::gup_fast::gup_fast;
use super::huge::follow_huge_pmd;
use super::hugetlb::{isolate_hugetlb, migrate_hugetlb};
use super::migrate::{Migrated, Reason, migrate_pages};
use crate::config::{Defect, Design, Kernel};
use crate::mm::{Pinned, VmaId};
use crate::observe::{Outcome, REGULAR, SHMEM};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Site};

/// How often it is tried to get a page that may stay where it is. The kernel goes on until one is found, or a migration
/// fails.
const LONGTERM_TRIES: u32 = 4;

/// `pin_user_pages_fast(FOLL_WRITE | FOLL_LONGTERM)` of one page.
pub async fn pin_longterm(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    if k.s().w.mms[mm as usize].pins.len() >= MAX_PINS {
        return Outcome::Busy;
    }
    let result = match gup_fast(k, mm, vpn, true).await {
        Some(page) => Ok(page),
        None => gup_longterm_locked(k, mm, vpn, true).await,
    };
    keep(k, mm, vpn, true, result)
}

/// `pin_user_pages(FOLL_LONGTERM)` of one page, to be read only. A page that others may share is taken out of the sharing
/// first, or a later write of the process would go to a copy that the device does not see.
pub async fn pin_read(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    if k.s().w.mms[mm as usize].pins.len() >= MAX_PINS {
        return Outcome::Busy;
    }
    let result = gup_longterm_locked(k, mm, vpn, false).await;
    keep(k, mm, vpn, false, result)
}

/// The driver notes what it has pinned.
fn keep(k: &Cpu, mm: u8, vpn: u32, write: bool, result: Result<Pfn, GupError>) -> Outcome {
    let pfn = match result {
        Ok(pfn) => pfn,
        Err(error) => return error.outcome(),
    };
    let movable = k.s().w.mem.in_zone_movable(pfn);
    let evidence = Evidence { proc: Some(mm), vpn: Some(vpn), pfn: Some(pfn), ..Evidence::default() };
    k.bug_on(movable, Rule::GupMovable, evidence);
    k.s().w.mms[mm as usize].pins.push(Pinned { vpn, pfn, write });
    Outcome::Done
}

/// `__gup_longterm_locked()`: pins, and when the page may not be pinned for long where it is, moves it and begins anew.
async fn gup_longterm_locked(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Result<Pfn, GupError> {
    k.lock(Lock::MmapRead(mm)).await;
    k.memalloc_pin(true);
    let mut result = Err(GupError::NoMem);
    for _ in 0..LONGTERM_TRIES {
        result = if write {
            get_user_page(k, mm, vpn, Grab::PinLongterm).await.map(|(page, _)| page)
        } else {
            get_user_page_read(k, mm, vpn).await
        };
        let Ok(page) = result else { break };
        result = match check_and_migrate_movable_pages(k, page).await {
            Ok(true) => break,
            Ok(false) => Err(GupError::NoMem),
            Err(error) => Err(error),
        };
    }
    k.memalloc_pin(false);
    k.unlock(Lock::MmapRead(mm));
    result
}

/// `check_and_migrate_movable_pages()` of one page, which gives up its pin unless it may stay. False is `-EAGAIN`: the page
/// was moved, or somebody else has it off the LRU just now.
async fn check_and_migrate_movable_pages(k: &Cpu, page: Pfn) -> Result<bool, GupError> {
    if folio_is_longterm_pinnable(k, page) {
        return Ok(true);
    }
    // collect_longterm_unpinnable_folios()
    let folio = k.page_folio(page);
    let hugetlb = k.folio_test(folio, Flags::HUGETLB);
    let isolated = if hugetlb { isolate_hugetlb(k, folio) } else { k.folio_isolate_lru(folio) };
    if !isolated && k.has(Defect::V31) {
        return Ok(true);
    }
    // migrate_longterm_unpinnable_folios()
    k.folio_unpin(folio);
    let moved = match (isolated, hugetlb) {
        (false, _) => true,
        (true, true) => migrate_hugetlb(k, folio).await,
        (true, false) => migrate_pages(k, folio, Reason::Move).await == Migrated::Done,
    };
    if moved { Ok(false) } else { Err(GupError::NoMem) }
}

/// `folio_is_longterm_pinnable()`.
fn folio_is_longterm_pinnable(k: &Cpu, page: Pfn) -> bool {
    !k.s().w.mem.in_zone_movable(page)
}

/// What the walk without locks asks of a folio before it is pinned for a long time: `try_grab_folio_fast()`, and since 6.5
/// `gup_fast_folio_allowed()`, for which a file has to be of `tmpfs` or `hugetlbfs`.
pub(super) fn gup_fast_longterm_allowed(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    let quiet = f.anon() || f.flags.has(Flags::HUGETLB) || f.file() == Some(SHMEM);
    folio_is_longterm_pinnable(k, folio) && (quiet || !refuses_tracked_files(k))
}

/// `writable_file_mapping_allowed()`: not where the file system has to be told of the first store to a page
/// (`vma_needs_dirty_tracking()`).
pub(super) fn writable_file_mapping_allowed(k: &Cpu, vma: VmaId) -> bool {
    if !refuses_tracked_files(k) {
        return true;
    }
    let s = k.s();
    let v = &s.w.vmas[vma];
    !v.shared() || v.backing.file() != Some(REGULAR) && !v.backing.mixedmap()
}

/// 8ac268436e6d ("mm/gup: disallow FOLL_LONGTERM GUP-nonfast writing to file-backed mappings", 6.5).
fn refuses_tracked_files(k: &Cpu) -> bool {
    k.config().kernel >= Kernel::V6_6
}

/// `__get_user_pages()` of one page with `FOLL_PIN | FOLL_LONGTERM`, to be read.
async fn get_user_page_read(k: &Cpu, mm: u8, vpn: u32) -> Result<Pfn, GupError> {
    let vma = find_vma(k, mm, vpn, false).map_err(|_| GupError::Fault)?;
    loop {
        k.site(Site::PinLookup).await;
        refuse_raw(k, vma, vpn, false).await?;
        let result = match follow_page_read(k, vma, vpn).await {
            Followed::Page(page) => return Ok(page),
            Followed::Unshare => handle_unshare_fault(k, vma, vpn).await,
            Followed::Nothing => handle_mm_fault(k, vma, vpn, false).await,
        };
        fault_error(result)?;
    }
}

/// What `follow_page_mask()` came to without `FOLL_WRITE`.
enum Followed {
    /// The page, pinned.
    Page(Pfn),
    /// `-EMLINK`.
    Unshare,
    /// No page.
    Nothing,
}

/// `follow_pmd_mask()`, `follow_huge_pmd()` and `follow_page_pte()` with `FOLL_PIN | FOLL_LONGTERM`.
async fn follow_page_read(k: &Cpu, vma: VmaId, vpn: u32) -> Followed {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await {
        let leaf = k.entries().pmd_as_pte(k.pmdp_get(p));
        let followed = match follow_huge_pmd(k, p, vpn, false) {
            Some(page) => grab_read(k, vma, k.pte_write(leaf), k.page_folio(page), page),
            None => Followed::Nothing,
        };
        k.pmd_unlock(p);
        return followed;
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return Followed::Nothing };
    let pte = k.ptep_get(p);
    let mut followed = Followed::Nothing;
    if k.arch().pte_present(pte) && gup_can_follow(k, pte) && !hidden(k, pte) {
        let page = k.pte_pfn(pte);
        followed = grab_read(k, vma, k.pte_write(pte), page, page);
    }
    k.pte_unmap_unlock(p);
    followed
}

/// The end of both: `PageAnonExclusive` is asked of `subpage`. The zero page goes nowhere and is not pinned (since 6.5;
/// before, for nothing).
fn grab_read(k: &Cpu, vma: VmaId, writable: bool, subpage: Pfn, page: Pfn) -> Followed {
    if !writable && gup_must_unshare(k, vma, subpage) {
        return Followed::Unshare;
    }
    if page != ZERO_PFN {
        k.folio_pin(k.page_folio(page));
    }
    Followed::Page(page)
}

/// `gup_must_unshare()`. Releases that count references cannot tell, and pin the page as it is.
fn gup_must_unshare(k: &Cpu, vma: VmaId, page: Pfn) -> bool {
    if k.uses(Design::CowByCount) || k.has(Defect::V7) {
        return false;
    }
    if !k.folio(k.page_folio(page)).anon() {
        // is_cow_mapping()
        return !k.s().w.vmas[vma].shared() && !k.has(Defect::V32);
    }
    !k.page_anon_exclusive(page)
}
