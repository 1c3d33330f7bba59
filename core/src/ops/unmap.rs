//! `mm/rmap.c: try_to_unmap()`: replaces the entries that map a folio by swap entries, or by nothing.

use super::lazyfree::{Discard, try_to_discard};
use super::pvmw::{Mapped, PageVmaWalk};
use super::rmap::{AnonLock, Pvmw, RmapWalk};
use super::split::split_huge_pmd_address;
use super::zap::pte_install_uffd_wp_if_needed;
use crate::arch::Pte;
use crate::config::Defect;
use crate::mm::{PtePtr, VmaId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, NotifyEvent, Site};
use crate::trace::Note;

/// `enum ttu_flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ttu {
    /// `TTU_IGNORE_MLOCK`: the page goes although its mapping is locked.
    pub ignore_mlock: bool,
    /// `TTU_HWPOISON`: a page whose memory has failed gives way to hwpoison entries.
    pub hwpoison: bool,
    /// `TTU_SYNC`: waits for who has cleared an entry and not yet taken the mapping off the folio's count.
    pub sync: bool,
}

/// `try_to_unmap()`. The caller holds the folio lock and a reference, and has put the folio into the swap cache unless it
/// is lazily freed.
/// TLBs are flushed for each entry at once; deferring that (`TTU_BATCH_FLUSH`) is left out.
pub async fn try_to_unmap(k: &Cpu, folio: Pfn, flags: Ttu) {
    try_to_unmap_flags(k, folio, flags, AnonLock::IfMapped).await;
}

/// `try_to_unmap()` as `unmap_folio()` calls it, with `TTU_RMAP_LOCKED`, `TTU_SPLIT_HUGE_PMD`, `TTU_SYNC` and
/// `TTU_IGNORE_MLOCK`.
pub async fn try_to_unmap_locked(k: &Cpu, folio: Pfn) {
    let flags = Ttu { ignore_mlock: true, sync: true, ..Ttu::default() };
    try_to_unmap_flags(k, folio, flags, AnonLock::Held).await;
}

async fn try_to_unmap_flags(k: &Cpu, folio: Pfn, flags: Ttu, lock: AnonLock) {
    k.assert_folio_locked(folio);
    let large = k.folio_test_large(folio);
    let Some(mut walk) = RmapWalk::start(k, folio, lock).await else { return };
    while let Some((vma, vpn)) = walk.next(k).await {
        // TTU_SPLIT_HUGE_PMD
        if large {
            split_huge_pmd_address(k, vma, vpn, Some(folio)).await;
        }
        if !try_to_unmap_one(k, folio, vma, vpn, flags).await || !k.folio_mapped(folio) {
            break;
        }
    }
    walk.end(k);
}

/// `try_to_unmap_one()`.
async fn try_to_unmap_one(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32, flags: Ttu) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let notify = !k.has(Defect::S10);
    let which = if flags.sync { Pvmw::MappedSync } else { Pvmw::Mapped };
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, which);
    let (start, end) = walk.range();
    if notify {
        k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    }
    let mut unmapped = true;
    // PMDs have been split before.
    while let Some(Mapped::Pte(p)) = walk.next(k).await {
        // What is mlocked is not swapped out.
        let locked = !flags.ignore_mlock && k.s().w.vmas[vma].locked();
        if locked && !k.has(Defect::V22) {
            // The lock that somebody has missed.
            k.mlock_vma_folio(folio, vma);
            unmapped = false;
            break;
        }
        unmapped = replace_by_swap_entry(k, folio, mm, p, flags.hwpoison).await;
        if !unmapped {
            break;
        }
        let evidence = Evidence { proc: Some(mm), vpn: Some(p.vpn), pfn: Some(folio), ..Evidence::default() };
        k.bug_on(locked, Rule::MlockReclaimed, evidence);
        k.munlock_vma_folio(folio, vma);
    }
    walk.done(k);
    if notify {
        k.mmu_notifier_invalidate_range_end(mm).await;
    }
    unmapped
}

/// The body of the loop in `try_to_unmap_one()`.
async fn replace_by_swap_entry(k: &Cpu, folio: Pfn, mm: u8, p: PtePtr, hwpoison: bool) -> bool {
    let (arch, ec) = (k.arch(), k.entries());
    let mut pteval = k.ptep_get(p);
    // Without the repair every entry that the walk returns is taken for a present one.
    let present = arch.pte_present(pteval) || k.has(Defect::D8);
    let pfn = if present { k.pte_pfn(pteval) } else { k.swp_offset_pfn(k.pte_to_swp_entry(pteval)) };
    let page = subpage(k, folio, pfn);
    let anon_exclusive = k.page_anon_exclusive(page);
    if present {
        pteval = k.ptep_clear_flush(p).await;
        if k.pte_dirty(pteval) && !k.has(Defect::F3) {
            k.folio_mark_dirty(folio);
        }
    } else {
        pteval = k.ptep_get_and_clear(p).await;
    }
    k.site(Site::UnmapCleared).await;
    if hwpoison && k.folio_test(page, Flags::HWPOISON) {
        return replace_by_hwpoison_entry(k, page, p).await;
    }
    if !k.folio(folio).anon() {
        // A page of a file: it can be faulted in again.
        if present {
            pte_install_uffd_wp_if_needed(k, p, pteval).await;
        }
        k.add_mm_counter(mm, page, -1);
        k.folio_remove_rmap_pte(page);
        k.folio_put(folio);
        return true;
    }
    if k.folio_test(folio, Flags::SWAPBACKED) != k.folio_test(folio, Flags::SWAPCACHE) {
        k.violate(Rule::BugUnmapSwapcache, Evidence { pfn: Some(folio), ..Evidence::default() });
        k.set_pte_at(p, pteval).await;
        return false;
    }
    match try_to_discard(k, page, p, pteval).await {
        Discard::ToSwap => {}
        Discard::Dropped => return true,
        Discard::Kept => return false,
    }
    let slot = k.folio(folio).slot + (page - folio);
    k.swap_duplicate(slot);
    if anon_exclusive && !k.folio_try_share_anon_rmap_pte(page) {
        k.swap_free(slot);
        k.set_pte_at(p, pteval).await;
        return false;
    }
    {
        let m = &mut k.s().w.mms[mm as usize];
        m.anon_pages -= 1;
        m.swap_ents += 1;
    }
    let mut swp_pte = arch.swp_entry_to_pte(k.swp_entry(slot));
    if anon_exclusive {
        swp_pte = arch.pte_swp_mkexclusive(swp_pte);
    }
    swp_pte = carry(k, present, pteval, swp_pte);
    debug_assert!(!ec.non_swap_entry(arch.pte_to_swp_entry(swp_pte)));
    k.set_pte_at(p, swp_pte).await;
    k.folio_remove_rmap_pte(page);
    k.folio_put(folio);
    true
}

/// `folio_page(folio, pfn - folio_pfn(folio))`: the page that the walk has found. A frame of another folio comes of an
/// entry that was read as what it is not; that is noted, and the head stands in for it.
pub fn subpage(k: &Cpu, folio: Pfn, pfn: Pfn) -> Pfn {
    if k.page_folio(pfn) == folio {
        return pfn;
    }
    k.note(Note::WrongPfn, Some(folio), pfn, folio);
    folio
}

/// The hwpoison branches of `try_to_unmap_one()` and `try_to_migrate_one()`, for an entry that has just been cleared:
/// whoever comes here later gets SIGBUS. (The note of a write-protected page of a file, which the kernel sets first, is
/// overwritten at once.) Soft-dirty and uffd-wp are not kept, nor is anything counted any more.
pub(super) async fn replace_by_hwpoison_entry(k: &Cpu, page: Pfn, p: PtePtr) -> bool {
    let (arch, ec) = (k.arch(), k.entries());
    k.add_mm_counter(p.mm, page, -1);
    k.set_pte_at(p, arch.swp_entry_to_pte(ec.make_hwpoison_entry(u64::from(page)))).await;
    k.folio_remove_rmap_pte(page);
    k.folio_put(k.page_folio(page));
    true
}

/// Soft-dirty and uffd-wp go along, read with the accessors of the kind that `pteval` is taken for.
pub fn carry(k: &Cpu, present: bool, pteval: Pte, swp_pte: Pte) -> Pte {
    if present { k.carry_from_present(pteval, swp_pte) } else { k.carry_from_swap(pteval, swp_pte) }
}
