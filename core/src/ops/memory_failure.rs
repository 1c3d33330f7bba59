//! `mm/memory-failure.c`: memory that has failed is taken out of use, and whoever needs it is told ([`super::kill_procs`]). What
//! becomes of the page is in [`super::error_states`].
//!
//! Left out: hugetlb (`-EBUSY`), device memory (`-ENXIO`, as for `MEMORY_DEVICE_PRIVATE`), `hwpoison_filter()`, mlocked pages.

use super::access::find_vma;
use super::error_states::{MfResult, identify_page_state};
use super::gup::{GupError, faultin_page_unlockable, gup_can_follow, hidden, refuse_raw};
use super::huge::follow_huge_pmd;
use super::hugetlb::folio_test_hugetlb;
use super::kill_procs::{collect_procs, kill_accessing_process, kill_procs};
use super::rmap::{cached_page, folio_mkclean};
use super::split::split_folio_at;
use super::unmap::{Ttu, try_to_unmap};
use crate::config::Design;
use crate::entry::EntryKind;
use crate::observe::{Outcome, REGULAR};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// `MF_ACTION_REQUIRED | MF_COUNT_INCREASED`, or neither: the first for `MADV_HWPOISON`, which holds a reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flagged {
    /// `MF_ACTION_REQUIRED`: the process that is to be told.
    required: Option<u8>,
    /// `MF_COUNT_INCREASED`.
    counted: bool,
}

/// `madvise_inject_error()` of `MADV_HWPOISON`.
pub async fn inject(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    for vpn in start..end {
        let pfn = match get_user_page_read(k, mm, vpn).await {
            Ok(pfn) => pfn,
            Err(e) => return e.outcome(),
        };
        let outcome = memory_failure(k, pfn, Flagged { required: Some(mm), counted: true }).await;
        if outcome != Outcome::Done {
            return outcome;
        }
    }
    Outcome::Done
}

/// `hwpoison_inject()`: the frame behind a page fails, be it mapped there or only in the swap cache.
pub async fn corrupt_pfn(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    match frame_behind(k, mm, vpn, false) {
        Some(pfn) => memory_failure(k, pfn, Flagged { required: None, counted: false }).await,
        None => Outcome::Invalid,
    }
}

/// `hwpoison_unpoison()`, of the frame that an entry names or named when it failed.
pub async fn unpoison_pfn(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    match frame_behind(k, mm, vpn, true) {
        Some(pfn) => unpoison_memory(k, pfn).await,
        None => Outcome::Invalid,
    }
}

/// The frame that somebody who reads the page table would name: no function of the kernel's, but what `pagemap` is
/// for. A page that has been swapped out has one as long as it is in the swap cache, and a page of a file that is not mapped
/// as long as it is in the page cache. What a hwpoison entry names may
/// be somebody else's since it was unpoisoned, so only who wants to unpoison goes by it.
fn frame_behind(k: &Cpu, mm: u8, vpn: u32, unpoison: bool) -> Option<Pfn> {
    let ec = k.entries();
    let pte = k.s().w.leaf(mm, vpn);
    let pfn = match ec.kind(pte) {
        _ if ec.pte_none_mostly(pte) => cached_page(k, mm, vpn)?,
        EntryKind::Present => k.vm_normal_page(pte),
        EntryKind::Swap => k.slot(k.swp_slot(k.pte_to_swp_entry(pte))).cache?,
        kind if kind.is_device_exclusive() || kind.is_migration() || unpoison && kind == EntryKind::HwPoison => {
            k.swp_offset_pfn(k.pte_to_swp_entry(pte))
        }
        _ => return None,
    };
    (pfn != ZERO_PFN && k.s().w.mem.device_of(pfn).is_none()).then_some(pfn)
}

/// `get_user_pages_fast()` of one page for reading; always the slow way.
pub(super) async fn get_user_page_read(k: &Cpu, mm: u8, vpn: u32) -> Result<Pfn, GupError> {
    k.lock(Lock::MmapRead(mm)).await;
    let result = get_user_page_locked(k, mm, vpn).await;
    k.unlock(Lock::MmapRead(mm));
    result
}

async fn get_user_page_locked(k: &Cpu, mm: u8, vpn: u32) -> Result<Pfn, GupError> {
    let arch = k.arch();
    let mut vma = find_vma(k, mm, vpn, false).map_err(|_| GupError::Fault)?;
    loop {
        k.site(Site::PinLookup).await;
        refuse_raw(k, vma, vpn, false).await?;
        if let Some(p) = k.pmd_leaf(mm, vpn) {
            k.pmd_lock(p).await;
            let found = follow_huge_pmd(k, p, vpn, false);
            if let Some(page) = found {
                k.folio_get(k.page_folio(page));
            }
            k.pmd_unlock(p);
            if let Some(page) = found {
                return Ok(page);
            }
        }
        if let Some(p) = k.pte_offset_map_lock(mm, vpn).await {
            let pte = k.ptep_get(p);
            let found = arch.pte_present(pte) && gup_can_follow(k, pte) && !hidden(k, pte);
            if found {
                k.folio_get(k.page_folio(k.pte_pfn(pte)));
            }
            k.pte_unmap_unlock(p);
            if found {
                return Ok(k.pte_pfn(pte));
            }
        }
        vma = faultin_page_unlockable(k, vma, vpn, false).await?;
    }
}

/// `memory_failure()`.
async fn memory_failure(k: &Cpu, page: Pfn, flags: Flagged) -> Outcome {
    // The zero page is reserved: me_kernel() can do nothing about it.
    if page == ZERO_PFN {
        return Outcome::Busy;
    }
    k.lock(Lock::MemoryFailure).await;
    let outcome = if folio_test_hugetlb(k, k.page_folio(page)) {
        if flags.counted {
            k.folio_put(k.page_folio(page));
        }
        Outcome::Busy
    } else {
        memory_failure_locked(k, page, flags).await
    };
    k.unlock(Lock::MemoryFailure);
    outcome
}

async fn memory_failure_locked(k: &Cpu, page: Pfn, flags: Flagged) -> Outcome {
    if k.folio_test(page, Flags::HWPOISON) {
        return already_poisoned(k, page, flags).await;
    }
    k.note(Note::Poisoned, Some(page), 0, 0);
    k.folio_set(page, Flags::HWPOISON);
    k.site(Site::PoisonFlag).await;
    if !flags.counted {
        match get_hwpoison_page(k, page) {
            GotPage::InUse => {}
            GotPage::Free => {
                k.s().w.mem.hold(page);
                return action_result(k, page, MfResult::Recovered);
            }
            GotPage::No => return action_result(k, page, MfResult::Ignored),
        }
    }
    if k.folio_test_large(page) && !try_to_split_thp_page(k, page).await {
        return unsplit_thp(k, page, flags).await;
    }
    let folio = page;
    k.s().w.mem.folios[folio as usize].ghost.held += 1;
    k.lock(Lock::Folio(folio)).await;
    let page_flags = k.folio(folio).flags;
    if page_flags.has(Flags::LRU) || page_flags.has(Flags::WRITEBACK) {
        k.folio_wait_writeback(folio).await;
        if !hwpoison_user_mappings(k, folio, flags).await {
            k.note(Note::PoisonUnmapFailed, Some(folio), k.folio_mapcount(folio) as u32, 0);
            k.folio_unlock(folio);
            return action_result(k, folio, MfResult::Failed);
        }
        // Torn down by somebody else?
        let f = k.folio(folio);
        if f.flags.has(Flags::LRU) && !f.flags.has(Flags::SWAPCACHE) && !f.anon() && f.mapping == 0 {
            k.folio_unlock(folio);
            return action_result(k, folio, MfResult::Ignored);
        }
    }
    let result = identify_page_state(k, folio, page_flags).await;
    action_result(k, folio, result)
}

/// `try_to_split_thp_page()`: lock and reference of the caller end up with the page itself.
pub(super) async fn try_to_split_thp_page(k: &Cpu, page: Pfn) -> bool {
    let folio = k.page_folio(page);
    k.lock(Lock::Folio(folio)).await;
    let split = split_folio_at(k, folio, page).await;
    if split && page != folio {
        k.folio_unlock_many(page)
    } else {
        k.folio_unlock(folio)
    }
    split
}

/// `kill_procs_now()`, and what follows it: the page stays where it is. Before 6.11 nobody was told.
async fn unsplit_thp(k: &Cpu, page: Pfn, flags: Flagged) -> Outcome {
    let folio = k.page_folio(page);
    if k.uses(Design::UnsplitPoisonKills) && k.folio(folio).anon() {
        let to_kill = collect_procs(k, folio, page, flags.required).await;
        kill_procs(k, &to_kill);
    }
    k.folio_put(folio);
    k.note(Note::PoisonResult, Some(page), MfResult::Failed as u32, 0);
    Outcome::Busy
}

/// The branch of `memory_failure()` for a page that is poisoned already.
async fn already_poisoned(k: &Cpu, page: Pfn, flags: Flagged) -> Outcome {
    let found = match flags.required {
        Some(mm) => kill_accessing_process(k, mm, page).await,
        None => true,
    };
    if flags.counted {
        k.folio_put(k.page_folio(page));
    }
    if found { Outcome::Fault } else { Outcome::Done }
}

/// What `get_hwpoison_page()` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GotPage {
    /// A page in use, now with a reference.
    InUse,
    /// A free page; it is not on its free list any more.
    Free,
    /// `-EIO` or `-EBUSY`: not a page that anything can be done about.
    No,
}

/// `get_hwpoison_page()`: only pages on an LRU list (`HWPoisonHandlable()`) and free ones. The retries, between which
/// nothing could change here, are left out.
fn get_hwpoison_page(k: &Cpu, page: Pfn) -> GotPage {
    let folio = k.page_folio(page);
    if k.s().w.mem.take_off(page) {
        GotPage::Free
    } else if k.folio_test(folio, Flags::LRU) && k.folio_try_get(folio) {
        GotPage::InUse
    } else {
        GotPage::No
    }
}

/// `hwpoison_user_mappings()`: false when the page is still mapped afterwards.
async fn hwpoison_user_mappings(k: &Cpu, folio: Pfn, flags: Flagged) -> bool {
    if !k.folio_test(folio, Flags::LRU) || !k.folio_mapped(folio) {
        return true;
    }
    let to_kill = collect_procs(k, folio, folio, flags.required).await;
    let unmapped = unmap_poisoned_folio(k, folio).await;
    // kill_procs(): only when something is lost.
    if k.folio_test(folio, Flags::DIRTY) || !unmapped {
        kill_procs(k, &to_kill);
    }
    unmapped
}

/// `unmap_poisoned_folio()`: true when nothing maps the folio any more. A page in the swap cache becomes swap entries:
/// who comes by one finds the poisoned page there. A clean page that can be read again is dropped without side effects.
pub(super) async fn unmap_poisoned_folio(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    let mut hwpoison = !f.flags.has(Flags::SWAPCACHE);
    // mapping_can_writeback(): the dirty bits of the entries count, too.
    if !f.flags.has(Flags::DIRTY) && f.file() == Some(REGULAR) {
        if folio_mkclean(k, folio).await {
            k.folio_mark_dirty(folio);
        } else {
            hwpoison = false;
        }
    }
    try_to_unmap(k, folio, Ttu { ignore_mlock: true, hwpoison, sync: true }).await;
    !k.folio_mapped(folio)
}

/// `action_result()`. From here on nothing may map the page, if nothing does.
fn action_result(k: &Cpu, page: Pfn, result: MfResult) -> Outcome {
    k.note(Note::PoisonResult, Some(page), result as u32, 0);
    let f = &mut k.s().w.mem.folios[page as usize];
    let mapped = f.ghost.entries != 0 || f.ghost.migration_entries != 0;
    f.ghost.lost = result != MfResult::Ignored && !mapped && !f.large();
    if result >= MfResult::Delayed { Outcome::Done } else { Outcome::Busy }
}

/// `unpoison_memory()`.
async fn unpoison_memory(k: &Cpu, page: Pfn) -> Outcome {
    k.lock(Lock::MemoryFailure).await;
    let f = k.folio(k.page_folio(page));
    let cached = f.flags.has(Flags::SWAPCACHE) || f.mapping != 0;
    let busy = !k.folio_test(page, Flags::HWPOISON) || f.refcount > 1 || f.mapcount > 0 || cached || f.large();
    if !busy {
        k.note(Note::Unpoisoned, Some(page), 0, 0);
        {
            let f = &mut k.s().w.mem.folios[page as usize];
            f.flags.clear(Flags::HWPOISON);
            f.ghost.lost = false;
            f.ghost.held = 0;
        }
        if f.refcount == 1 {
            k.folio_put(page);
        }
    }
    k.unlock(Lock::MemoryFailure);
    if busy { Outcome::Busy } else { Outcome::Done }
}
