//! `MADV_FREE`: pages that may go without being written anywhere. `mm/madvise.c: madvise_free_single_vma()`,
//! `mm/swap.c: folio_mark_lazyfree()`, and the lazy-free part of `mm/rmap.c: try_to_unmap_one()`.

use super::swap_cache::folio_free_swap;
use super::zap::{MmuGather, free_swap_and_cache};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::PTE_MARKER_POISONED;
use crate::mm::PtePtr;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// `madvise_free_single_vma()` of the part of a VMA.
pub async fn madvise_free_single_vma(k: &Cpu, mm: u8, start: u32, end: u32) {
    let mut tlb = MmuGather::new(k, mm);
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        madvise_free_pte_range(k, &mut tlb, mm, at, next).await;
        at = next;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    tlb.finish(k).await;
}

/// `madvise_free_pte_range()`.
async fn madvise_free_pte_range(k: &Cpu, tlb: &mut MmuGather, mm: u8, start: u32, end: u32) {
    let (arch, ec) = (k.arch(), k.entries());
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let ptent = k.ptep_get(p);
        if arch.pte_none(ptent) {
            continue;
        }
        k.site(Site::MadviseFree).await;
        if arch.pte_present(k.ptep_get(p)) {
            free_present_pte(k, tlb, p).await;
            continue;
        }
        // A note that the page is protected, which the design of 2021 keeps apart from swap entries, stays.
        if ec.is_swap_special_pte(ptent) {
            continue;
        }
        let entry = k.pte_to_swp_entry(ptent);
        let poisoned = ec.is_pte_marker_entry(entry) && ec.pte_marker_get(entry) & PTE_MARKER_POISONED != 0;
        if ec.is_hwpoison_entry(entry) || poisoned {
            k.ptep_get_and_clear(p).await;
        } else if !ec.non_swap_entry(entry) {
            // A new page is cheaper than one that is read back and not wanted.
            k.s().w.mms[mm as usize].swap_ents -= 1;
            k.ptep_get_and_clear(p).await;
            free_swap_and_cache(k, k.swp_slot(entry)).await;
        }
    }
    k.pte_unmap_unlock(first);
}

/// The loop's body for a present entry.
async fn free_present_pte(k: &Cpu, tlb: &mut MmuGather, p: PtePtr) {
    let folio = k.page_folio(k.vm_normal_page(k.ptep_get(p)));
    // Large folios, which the kernel frees as a whole or splits, are left alone.
    if folio == ZERO_PFN || k.folio_test_large(folio) {
        return;
    }
    // Here we differ from the kernel: a page that is merged into this one later would be lost with it (N8).
    if k.folio_test(folio, Flags::KSM) && !k.has(Defect::N8) {
        return;
    }
    if k.folio_test(folio, Flags::SWAPCACHE) || k.folio_test(folio, Flags::DIRTY) {
        if !k.trylock(Lock::Folio(folio)).await {
            return;
        }
        // What others map too stays as it is: the dirty flag may speak for their contents.
        let alone = k.folio_mapcount(folio) == 1 || k.has(Defect::V2);
        if !alone || k.folio_test(folio, Flags::SWAPCACHE) && !folio_free_swap(k, folio) {
            k.folio_unlock(folio);
            return;
        }
        k.folio_clear(folio, Flags::DIRTY);
        k.folio_unlock(folio);
    }
    let ptent = k.ptep_get(p);
    if k.pte_young(ptent) || k.pte_dirty(ptent) {
        clear_young_dirty_pte(k, p).await;
        tlb.range(p.vpn);
    }
    folio_mark_lazyfree(k, folio);
}

/// `clear_young_dirty_ptes()` with both flags, in its generic form: nothing that the hardware sets meanwhile is lost,
/// as the entry is none in between.
async fn clear_young_dirty_pte(k: &Cpu, p: PtePtr) {
    let arch = k.arch();
    let pte = k.ptep_get_and_clear(p).await;
    k.set_pte_at(p, arch.pte_mkclean(arch.pte_mkold(pte))).await;
}

/// `folio_mark_lazyfree()`: clean, anonymous and not backed by swap is how reclaim knows it. The per-CPU batch, which
/// would do it a little later, is left out.
fn folio_mark_lazyfree(k: &Cpu, folio: Pfn) {
    let f = k.folio(folio);
    if !f.anon() || !f.flags.has(Flags::SWAPBACKED) || !f.flags.has(Flags::LRU) || f.flags.has(Flags::SWAPCACHE) {
        return;
    }
    for flag in [Flags::ACTIVE, Flags::REFERENCED, Flags::SWAPBACKED] {
        k.folio_clear(folio, flag);
    }
}

/// What becomes of an entry that `try_to_unmap_one()` has cleared, when its folio is lazily freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discard {
    /// The folio is an ordinary one: it goes to swap.
    ToSwap,
    /// The entry stays none.
    Dropped,
    /// The folio was written or is in use: the entry is back, and the folio wants swap again.
    Kept,
}

/// The lazy-free check of `try_to_unmap_one()`, after the entry was cleared and its dirty bit handed to the folio. Who
/// has a reference of his own may be about to write: the page goes only when isolation and mappings hold it.
pub async fn try_to_discard(k: &Cpu, page: Pfn, p: PtePtr, pteval: Pte) -> Discard {
    let folio = k.page_folio(page);
    let f = k.folio(folio);
    if f.flags.has(Flags::SWAPBACKED) {
        return Discard::ToSwap;
    }
    let unused = f.refcount == 1 + f.mapcount || k.has(Defect::V1);
    if unused && !f.flags.has(Flags::DIRTY) {
        k.s().w.mms[p.mm as usize].anon_pages -= 1;
        k.note(Note::Discarded, Some(folio), 0, 0);
        k.folio_remove_rmap_pte(page);
        k.folio_put(folio);
        return Discard::Dropped;
    }
    k.set_pte_at(p, pteval).await;
    k.folio_set(folio, Flags::SWAPBACKED);
    Discard::Kept
}
