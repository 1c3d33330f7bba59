//! `mm/vmscan.c`: reclaim of one folio at a time.

use super::huge_zero::shrink_huge_zero_page;
use super::memcg::mem_cgroup_swapout;
use super::rmap::{folio_referenced, mapped_folio};
use super::shmem::shmem_writepage;
use super::split::{deferred_split_scan, split_folio};
use super::swap_cache::{add_to_swap_cache, folio_free_swap};
use super::unmap::{Ttu, try_to_unmap};
use crate::invariant::locked_mapping;
use crate::observe::{REGULAR, SHMEM};
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// Passes of one `reclaim` op over a folio: as under memory pressure, where the LRU comes round again.
const PASSES: u32 = 3;

/// The job of `kswapd`, or of a write to `memory.reclaim`, on what one page maps: tries until the folio is gone
/// or three passes are over. `progress.reclaim` is judged here: nothing that is held by its mappings alone may
/// withstand an undisturbed reclaim with room on the swap device.
pub async fn reclaim(k: &Cpu, mm: u8, vpn: u32) {
    // shrink_slab()
    shrink_huge_zero_page(k);
    let Some(folio) = mapped_folio(k, mm, vpn) else {
        k.note(Note::NoFolio, None, 0, 0);
        return;
    };
    if !k.s().w.mem.deferred_split.is_empty() {
        deferred_split_scan(k).await;
    }
    let Some(folio) = mapped_folio(k, mm, vpn).filter(|f| *f == folio || !k.folio_test_large(*f)) else { return };
    let regular = k.folio(folio).file() == Some(REGULAR);
    let reclaimable = !regular && k.s().only_mapped(folio) && !locked_mapping(&k.s().w, folio);
    let mut room = true;
    for _ in 0..PASSES {
        k.site(Site::ReclaimIsolate).await;
        if !k.folio_isolate_lru(folio) {
            k.note(Note::NotOnLru, Some(folio), 0, 0);
            break;
        }
        room &= k.s().w.swap.has_room() || k.folio_test(folio, Flags::SWAPCACHE);
        if shrink_folio(k, folio, false).await {
            return;
        }
    }
    // A failed page of a large folio is given up when the folio is split.
    if reclaimable && room && k.undisturbed() && k.s().only_mapped(folio) {
        stuck(k, folio, Rule::ProgressReclaim, mm, vpn);
    }
}

/// Reports that a folio makes no progress although nothing but its mappings holds it.
pub fn stuck(k: &Cpu, folio: Pfn, rule: Rule, mm: u8, vpn: u32) {
    let s = &mut *k.s();
    let f = *s.folio(folio);
    let site = s.ctl.cpus[k.id as usize].site;
    let evidence = Evidence {
        proc: Some(mm),
        vpn: Some(vpn),
        pfn: Some(folio),
        expected: Some(u64::from(f.ghost.entries)),
        found: Some(f.mapcount as u64),
        ..Evidence::default()
    };
    s.violate_at(k.id, rule, [f.ghost.parted.map(|p| p.0), site], evidence);
}

/// `shrink_folio_list()` for one folio that the caller has isolated. True when it was freed; otherwise it is back
/// on the LRU. With `ignore_references`, as `reclaim_pages()` calls it, young bits do not save it.
pub async fn shrink_folio(k: &Cpu, folio: Pfn, ignore_references: bool) -> bool {
    if !k.trylock(Lock::Folio(folio)).await {
        k.note(Note::FolioBusy, Some(folio), 0, 0);
        k.folio_putback_lru(folio);
        return false;
    }
    let pages = k.folio_nr_pages(folio);
    let freed = shrink_locked_folio(k, folio, ignore_references).await;
    let split = pages > 1 && (freed || !k.folio_test_large(folio));
    if !freed {
        k.folio_unlock(folio);
        k.folio_putback_lru(folio);
    }
    if split {
        // The pages of the split folio are on the list of those to be reclaimed now.
        for tail in folio + 1..folio + pages {
            shrink_small_folio(k, tail, ignore_references).await;
        }
    }
    freed
}

/// [`shrink_folio()`] of what cannot be split.
async fn shrink_small_folio(k: &Cpu, folio: Pfn, ignore_references: bool) {
    if !k.trylock(Lock::Folio(folio)).await {
        k.folio_putback_lru(folio);
    } else if !shrink_locked_folio(k, folio, ignore_references).await {
        k.folio_unlock(folio);
        k.folio_putback_lru(folio);
    }
}

async fn shrink_locked_folio(k: &Cpu, folio: Pfn, ignore_references: bool) -> bool {
    if !k.folio_evictable(folio) {
        return activate_locked(k, folio);
    }
    if k.folio_test(folio, Flags::WRITEBACK) {
        return activate_locked(k, folio);
    }
    if !ignore_references && !folio_check_references(k, folio).await {
        return activate_locked(k, folio);
    }
    // A folio that is lazily freed needs no swap.
    let swapbacked = k.folio_test(folio, Flags::SWAPBACKED);
    if k.folio(folio).anon() && swapbacked && !k.folio_test(folio, Flags::SWAPCACHE) {
        if k.folio(folio).maybe_dma_pinned() {
            return false;
        }
        // Without THP_SWAP there are no slots for a large folio: it is swapped out page by page.
        if k.folio_test_large(folio) && !split_folio(k, folio).await {
            return false;
        }
        k.site(Site::SwapOutAdd).await;
        if !add_to_swap(k, folio) {
            k.note(Note::NoSwap, Some(folio), 0, 0);
            return false;
        }
    }
    // A huge folio of tmpfs is swapped out page by page.
    if !k.folio(folio).anon() && k.folio_test_large(folio) && !split_folio(k, folio).await {
        return false;
    }
    if k.folio_mapped(folio) {
        try_to_unmap(k, folio, Ttu::default()).await;
        if k.folio_mapped(folio) {
            k.note(Note::StillMapped, Some(folio), k.folio_mapcount(folio) as u32, 0);
            return activate_locked(k, folio);
        }
    }
    if k.folio(folio).maybe_dma_pinned() {
        return activate_locked(k, folio);
    }
    if k.folio_test(folio, Flags::DIRTY) && !pageout(k, folio).await {
        return false;
    }
    k.site(Site::SwapOutFree).await;
    let lazily = k.folio(folio).anon() && !k.folio_test(folio, Flags::SWAPBACKED);
    if lazily { free_lazyfree(k, folio) } else { remove_mapping(k, folio) }
}

/// `activate_locked` in `shrink_folio_list()`: the folio stays. It gives up its slot if it is locked into memory, or where
/// swap is scarce.
fn activate_locked(k: &Cpu, folio: Pfn) -> bool {
    let unwanted = k.folio_test(folio, Flags::MLOCKED) || k.s().w.swap.full();
    if unwanted && k.folio_test(folio, Flags::SWAPCACHE) {
        folio_free_swap(k, folio);
    }
    false
}

/// `folio_check_references()`: true when the folio may be reclaimed now.
async fn folio_check_references(k: &Cpu, folio: Pfn) -> bool {
    let referenced = folio_referenced(k, folio).await;
    if referenced.locked {
        return false;
    }
    k.folio_clear(folio, Flags::REFERENCED);
    let referenced_ptes = referenced.ptes;
    if referenced_ptes != 0 {
        k.folio_set(folio, Flags::REFERENCED);
        k.note(Note::Referenced, Some(folio), referenced_ptes, 0);
        return false;
    }
    true
}

/// `add_to_swap()`: a slot for the folio; it is dirty from then on, as the slot holds nothing yet.
fn add_to_swap(k: &Cpu, folio: Pfn) -> bool {
    let slot = k.s().w.swap.alloc(folio);
    let Some(slot) = slot else { return false };
    add_to_swap_cache(k, folio, slot);
    k.folio_mark_dirty(folio);
    true
}

/// `pageout()` and `swap_writepage()`: writes the folio to its slot. The write is over when this returns. Dirty pages
/// of regular files are left to writeback.
async fn pageout(k: &Cpu, folio: Pfn) -> bool {
    let file = k.folio(folio).file();
    if file == Some(REGULAR) || !is_page_cache_freeable(k, folio) {
        return false;
    }
    // folio_mapping() is NULL: a lazily freed folio that somebody else still refers to.
    if k.folio(folio).cached() == 0 {
        return false;
    }
    k.folio_clear(folio, Flags::DIRTY);
    if file == Some(SHMEM) && !shmem_writepage(k, folio).await {
        // AOP_WRITEPAGE_ACTIVATE
        k.note(Note::NoSwap, Some(folio), 0, 0);
        k.folio_mark_dirty(folio);
        return false;
    }
    k.site(Site::SwapOutWrite).await;
    // swap_writepage(): no need to write what nobody swaps in any more.
    if folio_free_swap(k, folio) {
        return false;
    }
    let s = &mut *k.s();
    let f = s.w.mem.folios[folio as usize];
    s.w.swap.slots[f.slot as usize].data = f.data;
    s.w.swap.slots[f.slot as usize].bad = false;
    true
}

/// `is_page_cache_freeable()`: the caller's reference and the cache's are the only ones.
fn is_page_cache_freeable(k: &Cpu, folio: Pfn) -> bool {
    let refs = k.folio_ref_count(folio);
    if refs != 2 {
        k.note(Note::RefsUnexpected, Some(folio), refs as u32, 2);
    }
    refs == 2
}

/// `__remove_mapping()`: freezes the refcount, takes the folio out of the swap cache or the page cache and frees it.
fn remove_mapping(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    if f.cached() != 1 || f.refcount != 2 || f.flags.has(Flags::DIRTY) {
        if f.refcount != 2 {
            k.note(Note::RefsUnexpected, Some(folio), f.refcount as u32, 2);
        }
        return false;
    }
    let evidence = Evidence { pfn: Some(folio), ..Evidence::default() };
    k.bug_on(f.mapcount != 0, Rule::FreedInUse, evidence);
    if f.flags.has(Flags::SWAPCACHE) {
        k.note(Note::SwappedOut, Some(folio), f.slot, 0);
        mem_cgroup_swapout(k, folio, f.slot);
        k.delete_from_swap_cache(folio);
    } else {
        k.page_cache_remove(folio, CacheEntry::Empty);
    }
    k.folio_put(folio);
    k.folio_unlock(folio);
    k.folio_put(folio);
    true
}

/// What `shrink_folio_list()` does with an unmapped folio that is lazily freed: the reference of the isolation must be
/// the last (`folio_ref_freeze()`). Whether it is dirty no longer matters.
fn free_lazyfree(k: &Cpu, folio: Pfn) -> bool {
    let refs = k.folio_ref_count(folio);
    if refs != 1 {
        k.note(Note::RefsUnexpected, Some(folio), refs as u32, 1);
        return false;
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
    true
}

/// The `referenced` op: ages what a page maps, as a scan of the active list does.
pub async fn age(k: &Cpu, mm: u8, vpn: u32) {
    let Some(folio) = mapped_folio(k, mm, vpn) else { return };
    if !k.folio_isolate_lru(folio) {
        return;
    }
    // shrink_active_list() puts back what is unevictable.
    if k.folio_evictable(folio) && k.trylock(Lock::Folio(folio)).await {
        folio_referenced(k, folio).await;
        k.folio_unlock(folio);
    }
    k.folio_putback_lru(folio);
}
