//! `mm/gup.c: gup_fast()`: pins taken by a walk without locks.
//!
//! The kernel switches interrupts off, so that page tables are not freed under it; here an entry is found and read in one
//! step. What the page is may change between the look at the entry and the reference: so the entry is read again after
//! it was taken, and given up when it has changed. Fork, which decides whether a page is pinned before it write-protects
//! the entry, is told by a sequence count.

use super::gup::{MAX_PINS, pin};
use super::gup_longterm::gup_fast_longterm_allowed;
use super::huge::follow_huge_pmd;
use crate::config::Defect;
use crate::mm::{Pinned, PmdPtr};
use crate::observe::Outcome;
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Site};
use crate::trace::Note;

/// `pin_user_pages_fast(FOLL_WRITE)` of one page.
pub async fn pin_fast(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    if k.s().w.mms[mm as usize].pins.len() >= MAX_PINS {
        return Outcome::Busy;
    }
    match gup_fast(k, mm, vpn, false).await {
        Some(pfn) => {
            k.s().w.mms[mm as usize].pins.push(Pinned { vpn, pfn, write: true });
            Outcome::Done
        }
        // __gup_longterm_locked()
        None => pin(k, mm, vpn).await,
    }
}

/// `gup_fast()`, with `FOLL_LONGTERM` or without.
pub(super) async fn gup_fast(k: &Cpu, mm: u8, vpn: u32, longterm: bool) -> Option<Pfn> {
    let seq = |k: &Cpu| k.s().w.mms[mm as usize].write_protect_seq;
    let before = seq(k);
    if before & 1 != 0 && !k.has(Defect::V8) {
        return None;
    }
    let page = gup_fast_pte_range(k, mm, vpn, longterm).await?;
    if seq(k) != before && !k.has(Defect::V8) {
        k.note(Note::GupFastUndone, Some(page), 0, 0);
        k.folio_unpin(k.page_folio(page));
        return None;
    }
    Some(page)
}

/// `gup_fast_pte_range()` of one entry, with `FOLL_WRITE | FOLL_PIN`.
async fn gup_fast_pte_range(k: &Cpu, mm: u8, vpn: u32, longterm: bool) -> Option<Pfn> {
    let arch = k.arch();
    if let Some(p) = k.pmd_leaf(mm, vpn) {
        return gup_fast_pmd_leaf(k, p, vpn, longterm).await;
    }
    let p = k.pte_offset(mm, vpn)?;
    let pte = k.ptep_get(p);
    if !arch.pte_present(pte) || arch.pte_protnone(pte) || !k.pte_write(pte) {
        return None;
    }
    // pte_special()
    if k.raw_pfn(pte).is_some() {
        return None;
    }
    let page = k.pte_pfn(pte);
    k.site(Site::GupFastGrab).await;
    // try_grab_folio_fast(): not when the folio is free. (A page whose folio has changed meanwhile is one that the entry
    // no longer maps.)
    let folio = k.page_folio(page);
    if page == ZERO_PFN || k.folio_ref_count(folio) <= 0 || longterm && !gup_fast_longterm_allowed(k, folio) {
        return None;
    }
    k.folio_pin(folio);
    k.site(Site::GupFastCheck).await;
    if k.pte_offset(mm, vpn) != Some(p) || k.ptep_get(p) != pte {
        k.note(Note::GupFastUndone, Some(page), 0, 0);
        k.folio_unpin(folio);
        return None;
    }
    Some(page)
}

/// `gup_fast_pud_range()` and `gup_fast_pmd_leaf()`, of a PMD that was found in this table: interrupts are off, so that
/// nobody who waits for all walks without locks to end goes on before this one has.
async fn gup_fast_pmd_leaf(k: &Cpu, p: PmdPtr, vpn: u32, longterm: bool) -> Option<Pfn> {
    k.set_irqs(false);
    k.site(Site::GupFastPud).await;
    let pmd = k.pmdp_get(p);
    let found = follow_huge_pmd(k, p, vpn, true);
    let mut pinned = None;
    if let Some(page) = found {
        k.site(Site::GupFastGrab).await;
        let folio = k.page_folio(page);
        if k.folio_ref_count(folio) > 0 && (!longterm || gup_fast_longterm_allowed(k, folio)) {
            k.folio_pin(folio);
            k.site(Site::GupFastCheck).await;
            if k.pmdp_get(p) == pmd {
                pinned = Some(page);
            } else {
                k.note(Note::GupFastUndone, Some(page), 0, 0);
                k.folio_unpin(folio);
            }
        }
    }
    k.set_irqs(true);
    pinned
}
