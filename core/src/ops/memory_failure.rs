//! `mm/memory-failure.c`: memory that has failed is taken out of use, and whoever needs it is told.
//!
//! Left out: large folios (`-EBUSY`, as if the split failed), file pages, device memory (`-ENXIO`, as for `MEMORY_DEVICE_PRIVATE`), `hwpoison_filter()`,
//! mlocked pages, writeback under way, early kill (`PF_MCE_EARLY`): only the thread that made the memory fail is told
//! at once, as by `MF_ACTION_REQUIRED`.

use super::access::{find_vma, observe_signal};
use super::gup::{GupError, faultin_page_unlockable, gup_can_follow};
use super::huge::follow_huge_pmd;
use super::memcg::mem_cgroup_uncharge;
use super::pvmw::PageVmaWalk;
use super::rmap::{AnonLock, Pvmw, RmapWalk};
use super::unmap::try_to_unmap;
use crate::config::Defect;
use crate::entry::EntryKind;
use crate::observe::{Agent, Outcome, Signal};
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

/// `enum mf_result`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum MfResult {
    Ignored,
    Failed,
    Delayed,
    Recovered,
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
/// for. A page that has been swapped out has one as long as it is in the swap cache. What a hwpoison entry names may
/// be somebody else's since it was unpoisoned, so only who wants to unpoison goes by it.
fn frame_behind(k: &Cpu, mm: u8, vpn: u32, unpoison: bool) -> Option<Pfn> {
    let ec = k.entries();
    let pte = k.s().w.leaf(mm, vpn);
    let pfn = match ec.kind(pte) {
        EntryKind::Present => k.pte_pfn(pte),
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
            let found = arch.pte_present(pte) && gup_can_follow(k, pte);
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
async fn memory_failure(k: &Cpu, pfn: Pfn, flags: Flagged) -> Outcome {
    // The zero page is reserved: me_kernel() can do nothing about it.
    if pfn == ZERO_PFN {
        return Outcome::Busy;
    }
    k.lock(Lock::MemoryFailure).await;
    // A large folio counts as one that cannot be split: MF_MSG_UNSPLIT_THP, MF_FAILED. A page of a file is left alone.
    let outcome = if k.folio(pfn).large() || k.folio(pfn).mapping != 0 {
        if flags.counted {
            k.folio_put(k.page_folio(pfn));
        }
        Outcome::Busy
    } else {
        memory_failure_locked(k, pfn, flags).await
    };
    k.unlock(Lock::MemoryFailure);
    outcome
}

async fn memory_failure_locked(k: &Cpu, pfn: Pfn, flags: Flagged) -> Outcome {
    if k.folio_test(pfn, Flags::HWPOISON) {
        return already_poisoned(k, pfn, flags).await;
    }
    k.note(Note::Poisoned, Some(pfn), 0, 0);
    k.folio_set(pfn, Flags::HWPOISON);
    k.site(Site::PoisonFlag).await;
    if !flags.counted {
        match get_hwpoison_page(k, pfn) {
            GotPage::InUse => {}
            GotPage::Free => {
                k.s().w.mem.hold(pfn);
                return action_result(k, pfn, MfResult::Recovered);
            }
            GotPage::No => return action_result(k, pfn, MfResult::Ignored),
        }
    }
    k.s().w.mem.folios[pfn as usize].ghost.held += 1;
    k.lock(Lock::Folio(pfn)).await;
    let page_flags = k.folio(pfn).flags;
    if page_flags.has(Flags::LRU) && !hwpoison_user_mappings(k, pfn, flags).await {
        k.note(Note::PoisonUnmapFailed, Some(pfn), k.folio_mapcount(pfn) as u32, 0);
        k.folio_unlock(pfn);
        return action_result(k, pfn, MfResult::Failed);
    }
    let result = identify_page_state(k, pfn, page_flags);
    action_result(k, pfn, result)
}

/// The branch of `memory_failure()` for a page that is poisoned already.
async fn already_poisoned(k: &Cpu, pfn: Pfn, flags: Flagged) -> Outcome {
    let found = match flags.required {
        Some(mm) => kill_accessing_process(k, mm, pfn).await,
        None => true,
    };
    if flags.counted {
        k.folio_put(pfn);
    }
    if found { Outcome::Fault } else { Outcome::Done }
}

/// `kill_accessing_process()`: looks for the page in the whole address space. True for `-EHWPOISON`.
async fn kill_accessing_process(k: &Cpu, mm: u8, pfn: Pfn) -> bool {
    let ec = k.entries();
    k.lock(Lock::MmapRead(mm)).await;
    let mut found = None;
    let vma_at = |k: &Cpu, i: usize| {
        let s = k.s();
        s.w.mms[mm as usize].vmas.get(i).map(|v| (s.w.vmas[*v].start, s.w.vmas[*v].end))
    };
    let mut i = 0;
    while let Some((start, end)) = vma_at(k, i) {
        for vpn in start..end {
            // check_hwpoisoned_entry()
            let pte = k.pte_offset(mm, vpn).map(|p| k.ptep_get(p)).unwrap_or_default();
            let here = match ec.kind(pte) {
                EntryKind::Present => k.pte_pfn(pte),
                EntryKind::HwPoison => k.swp_offset_pfn(k.pte_to_swp_entry(pte)),
                _ => ZERO_PFN,
            };
            if found.is_none() && here == pfn {
                found = Some(vpn);
            }
        }
        i += 1;
    }
    if let Some(vpn) = found {
        observe_signal(k, Agent::Cpu(k.id), mm, vpn, false, Signal::Bus);
    }
    k.unlock(Lock::MmapRead(mm));
    found.is_some()
}

/// What `get_hwpoison_page()` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GotPage {
    /// A page in use, now with a reference.
    InUse,
    /// A free page; it is not on its free list any more.
    Free,
    /// `-EIO` or `-EBUSY`: not a page that anything can be done about.
    No,
}

/// `get_hwpoison_page()`: only pages on an LRU list (`HWPoisonHandlable()`) and free ones. The retries, between which
/// nothing could change here, are left out.
pub(super) fn get_hwpoison_page(k: &Cpu, pfn: Pfn) -> GotPage {
    if k.s().w.mem.take_off(pfn) {
        GotPage::Free
    } else if k.folio_test(pfn, Flags::LRU) && !k.folio_test_large(pfn) && k.folio_try_get(pfn) {
        GotPage::InUse
    } else {
        GotPage::No
    }
}

/// `hwpoison_user_mappings()`: false when the page is still mapped afterwards.
async fn hwpoison_user_mappings(k: &Cpu, folio: Pfn, flags: Flagged) -> bool {
    if !k.folio_mapped(folio) {
        return true;
    }
    let to_kill = match flags.required {
        Some(mm) => collect_procs(k, folio, mm).await,
        None => None,
    };
    let unmapped = unmap_poisoned_folio(k, folio).await;
    // kill_procs(): only when something is lost.
    let forcekill = k.folio_test(folio, Flags::DIRTY) || !unmapped;
    if let (Some(mm), Some(vpn), true) = (flags.required, to_kill, forcekill) {
        observe_signal(k, Agent::Cpu(k.id), mm, vpn, false, Signal::Bus);
    }
    unmapped
}

/// `collect_procs_anon()` for the current process: where it maps the page.
async fn collect_procs(k: &Cpu, folio: Pfn, mm: u8) -> Option<u32> {
    let mut walk = RmapWalk::start(k, folio, AnonLock::IfMapped).await?;
    let mut found = None;
    while let Some((vma, vpn)) = walk.next(k).await {
        // page_mapped_in_vma()
        if k.s().w.vmas[vma].mm != mm {
            continue;
        }
        let mut entries = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::Mapped);
        if entries.next(k).await.is_some() {
            found = found.or(Some(vpn));
        }
        entries.done(k);
    }
    walk.end(k);
    found
}

/// `unmap_poisoned_folio()`: true when nothing maps the folio any more. A page in the swap cache becomes swap entries:
/// who comes by one finds the poisoned page there.
pub(super) async fn unmap_poisoned_folio(k: &Cpu, folio: Pfn) -> bool {
    let hwpoison = !k.folio_test(folio, Flags::SWAPCACHE);
    try_to_unmap(k, folio, hwpoison).await;
    !k.folio_mapped(folio)
}

/// `identify_page_state()` and the `me_*()` handlers. `page_flags` are those from before the page was unmapped. Unlocks
/// the folio.
fn identify_page_state(k: &Cpu, folio: Pfn, page_flags: Flags) -> MfResult {
    let now = k.folio(folio).flags;
    let dirty = now.has(Flags::DIRTY);
    let in_swap_cache = |f: Flags| f.has(Flags::SWAPCACHE) && f.has(Flags::SWAPBACKED);
    let (mut result, extra) = if in_swap_cache(now) || !now.has(Flags::LRU) && in_swap_cache(page_flags) {
        if dirty { me_swapcache_dirty(k, folio) } else { me_swapcache_clean(k, folio) }
    } else if now.has(Flags::LRU) || page_flags.has(Flags::LRU) {
        // me_pagecache_clean(), me_pagecache_dirty() of an anonymous page.
        delete_from_lru_cache(k, folio);
        k.folio_unlock(folio);
        return MfResult::Recovered;
    } else {
        // me_unknown()
        k.folio_unlock(folio);
        return MfResult::Ignored;
    };
    k.folio_unlock(folio);
    // has_extra_refcount()
    if k.folio_ref_count(folio) - 1 - extra > 0 {
        result = MfResult::Failed;
    }
    result
}

/// `me_swapcache_dirty()`: the page stays in the swap cache, for `do_swap_page()` to find. The second result is the
/// number of references that are expected besides the caller's.
fn me_swapcache_dirty(k: &Cpu, folio: Pfn) -> (MfResult, i32) {
    k.folio_clear(folio, Flags::DIRTY);
    k.folio_clear(folio, Flags::UPTODATE);
    if delete_from_lru_cache(k, folio) { (MfResult::Delayed, 1) } else { (MfResult::Failed, 0) }
}

/// `me_swapcache_clean()`: the swap device still has the contents.
fn me_swapcache_clean(k: &Cpu, folio: Pfn) -> (MfResult, i32) {
    k.delete_from_swap_cache(folio);
    k.folio_put(folio);
    let result = if delete_from_lru_cache(k, folio) { MfResult::Recovered } else { MfResult::Failed };
    (result, 0)
}

/// `delete_from_lru_cache()`.
fn delete_from_lru_cache(k: &Cpu, folio: Pfn) -> bool {
    let isolated = k.folio_isolate_lru(folio);
    if isolated {
        k.folio_clear(folio, Flags::ACTIVE);
        // The page may never be free, so nothing else uncharges it.
        if !k.has(Defect::M1) {
            mem_cgroup_uncharge(k, folio);
        }
        k.folio_put(folio);
    }
    isolated
}

/// `action_result()`. From here on nothing may map the page, if nothing does.
fn action_result(k: &Cpu, pfn: Pfn, result: MfResult) -> Outcome {
    k.note(Note::PoisonResult, Some(pfn), result as u32, 0);
    let f = &mut k.s().w.mem.folios[pfn as usize];
    f.ghost.lost = result != MfResult::Ignored && f.ghost.entries == 0 && f.ghost.migration_entries == 0;
    if result >= MfResult::Delayed { Outcome::Done } else { Outcome::Busy }
}

/// `unpoison_memory()`.
async fn unpoison_memory(k: &Cpu, pfn: Pfn) -> Outcome {
    k.lock(Lock::MemoryFailure).await;
    let f = k.folio(pfn);
    let busy = !f.flags.has(Flags::HWPOISON) || f.refcount > 1 || f.mapcount > 0 || f.flags.has(Flags::SWAPCACHE);
    if !busy {
        k.note(Note::Unpoisoned, Some(pfn), 0, 0);
        {
            let f = &mut k.s().w.mem.folios[pfn as usize];
            f.flags.clear(Flags::HWPOISON);
            f.ghost.lost = false;
            f.ghost.held = 0;
        }
        if f.refcount == 1 {
            k.folio_put(pfn);
        }
    }
    k.unlock(Lock::MemoryFailure);
    if busy { Outcome::Busy } else { Outcome::Done }
}
