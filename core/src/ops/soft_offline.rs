//! `mm/memory-failure.c: soft_offline_page()`: memory that is about to fail is emptied and taken out of use. Nobody
//! may notice.

use super::hugetlb::{dissolve_free_hugetlb_folio, folio_test_hugetlb, isolate_hugetlb, migrate_hugetlb};
use super::memory_failure::{get_user_page_read, try_to_split_thp_page};
use super::migrate::{Migrated, Reason, migrate_pages};
use super::truncate::mapping_evict_folio;
use crate::config::Defect;
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// `madvise_inject_error()` of `MADV_SOFT_OFFLINE`.
pub async fn soft_offline(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    for vpn in start..end {
        let outcome = match get_user_page_read(k, mm, vpn).await {
            Ok(pfn) => soft_offline_page(k, pfn).await,
            Err(e) => e.outcome(),
        };
        if outcome != Outcome::Done {
            return outcome;
        }
    }
    Outcome::Done
}

/// `soft_offline_page()`, called with a reference (`MF_COUNT_INCREASED`).
async fn soft_offline_page(k: &Cpu, pfn: Pfn) -> Outcome {
    // The zero page is on no LRU list: get_any_page() makes nothing of it.
    if pfn == ZERO_PFN {
        return Outcome::Invalid;
    }
    k.lock(Lock::MemoryFailure).await;
    let folio = k.page_folio(pfn);
    let outcome = if k.folio_test(pfn, Flags::HWPOISON) {
        k.folio_put(folio);
        Outcome::Done
    } else if folio_test_hugetlb(k, folio) {
        soft_offline_hugetlb(k, pfn).await
    } else if !k.folio_test(folio, Flags::LRU) {
        // get_any_page(): not HWPoisonHandlable(), and shaking does not help.
        k.folio_put(folio);
        Outcome::Invalid
    } else {
        soft_offline_in_use_page(k, pfn).await
    };
    k.unlock(Lock::MemoryFailure);
    outcome
}

/// `soft_offline_in_use_page()`: of a file's page that is clean and not mapped the contents are dropped.
async fn soft_offline_in_use_page(k: &Cpu, pfn: Pfn) -> Outcome {
    if k.folio_test_large(pfn) && !try_to_split_thp_page(k, pfn).await {
        k.folio_put(k.page_folio(pfn));
        return Outcome::Busy;
    }
    k.lock(Lock::Folio(pfn)).await;
    k.folio_wait_writeback(pfn).await;
    let evicted = k.folio_test(pfn, Flags::LRU) && mapping_evict_folio(k, pfn);
    k.folio_unlock(pfn);
    if evicted {
        page_handle_poison(k, pfn).await;
        return Outcome::Done;
    }
    let isolated = k.folio_isolate_lru(pfn);
    k.folio_put(pfn);
    if !isolated {
        k.note(Note::NotOnLru, Some(pfn), 0, 0);
        return Outcome::Busy;
    }
    if migrate_pages(k, pfn, Reason::MemoryFailure).await != Migrated::Done {
        return Outcome::Busy;
    }
    page_handle_poison(k, pfn).await;
    Outcome::Done
}

/// The same of a page of a hugetlb folio: all of it moves, and when the old one has left the pool the page leaves the allocator.
async fn soft_offline_hugetlb(k: &Cpu, pfn: Pfn) -> Outcome {
    let folio = k.page_folio(pfn);
    k.lock(Lock::Folio(folio)).await;
    k.folio_unlock(folio);
    let isolated = isolate_hugetlb(k, folio);
    k.folio_put(folio);
    if !isolated {
        k.note(Note::NotOnLru, Some(folio), 0, 0);
        return Outcome::Busy;
    }
    if !migrate_hugetlb(k, folio).await {
        return Outcome::Busy;
    }
    // __page_handle_poison(): somebody may have taken it meanwhile, as it is not marked.
    if !dissolve_free_hugetlb_folio(k, pfn) {
        return Outcome::Busy;
    }
    k.site(Site::PoisonFlag).await;
    let s = &mut *k.s();
    if !s.w.mem.take_off(pfn) {
        return Outcome::Busy;
    }
    s.w.mem.hold(pfn);
    s.w.mem.folios[pfn as usize].ghost.lost = true;
    s.note(k.id, Note::SoftOfflined, Some(pfn), 0, 0);
    Outcome::Done
}

/// `page_handle_poison()`: marked first, then let go of, so that the allocator never gets it.
async fn page_handle_poison(k: &Cpu, pfn: Pfn) {
    k.site(Site::PoisonFlag).await;
    if k.has(Defect::P2) {
        k.folio_put(pfn);
    }
    k.folio_set(pfn, Flags::HWPOISON);
    k.s().w.mem.folios[pfn as usize].ghost.lost = true;
    if !k.has(Defect::P2) {
        k.folio_put(pfn);
        // page_ref_inc(): usually of a frame that is free now, and on no free list.
        if k.folio_test(pfn, Flags::ALLOCATED) {
            k.folio_get(pfn);
            k.s().w.mem.folios[pfn as usize].ghost.held += 1;
        } else {
            k.s().w.mem.hold(pfn);
        }
    }
    k.note(Note::SoftOfflined, Some(pfn), 0, 0);
}
