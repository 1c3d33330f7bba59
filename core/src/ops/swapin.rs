//! `mm/swap_state.c` and the head of `do_swap_page()`: where the page behind a swap entry comes from. It is in the swap
//! cache, or is read into it together with a neighbour, or is read past it.
//!
//! Left out: the size of the window (`__swapin_nr_pages()`, `swapin_nr_pages()`): it is always the faulting page and one
//! neighbour; zswap and the zeromap, which give the same contents by other means; large folios.

use super::memcg::mem_cgroup_swapin;
use super::swap_cache::add_to_swap_cache;
use super::vmf::VmFault;
use crate::config::Defect;
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Site};
use crate::trace::Note;

/// The page that a swap entry was followed to, with a reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwappedIn {
    /// It is in the swap cache, or was a moment ago.
    Cached(Pfn),
    /// It was read past the cache: nobody else knows it, it is locked, and its slot is kept from being reused until
    /// [`swapcache_clear`].
    Direct(Pfn),
    /// Somebody else reads it past the cache: look again once that is over.
    Busy,
    /// The slot is not in use any more, or there is no memory.
    Nothing,
}

/// `swap_cache_get_folio()`; failing that, the branch of `do_swap_page()` that reads the page.
pub async fn swapin(k: &Cpu, vmf: &VmFault, slot: u32) -> SwappedIn {
    if let Some(folio) = swap_cache_get_folio(k, slot) {
        return SwappedIn::Cached(folio);
    }
    let direct = {
        let s = k.s();
        let (ty, _) = s.w.swap.entry_of(slot);
        s.w.swap.devices[usize::from(ty)].synchronous && s.w.swap.slots[slot as usize].count == 1
    };
    if direct {
        return swapin_direct(k, slot).await;
    }
    swapin_readahead(k, vmf, slot).await.map_or(SwappedIn::Nothing, SwappedIn::Cached)
}

fn swap_cache_get_folio(k: &Cpu, slot: u32) -> Option<Pfn> {
    let folio = k.page_folio(k.slot(slot).cache?);
    if !k.folio_try_get(folio) {
        return None;
    }
    k.note(Note::SwapCacheHit, Some(folio), slot, 0);
    Some(folio)
}

/// "skip swapcache" in `do_swap_page()`: for a quick device and a page that one entry names.
async fn swapin_direct(k: &Cpu, slot: u32) -> SwappedIn {
    let Some(folio) = k.folio_alloc() else { return SwappedIn::Nothing };
    k.folio_lock_new(folio);
    k.site(Site::SwapInRead).await;
    if !k.has(Defect::W1) && !swapcache_prepare(k, slot) {
        k.folio_unlock(folio);
        k.folio_put(folio);
        k.wait_for_slot(slot).await;
        return SwappedIn::Busy;
    }
    k.folio_set(folio, Flags::SWAPBACKED);
    k.folio_add_lru(folio);
    swap_read_folio(k, folio, slot);
    k.site(Site::SwapInDirect).await;
    SwappedIn::Direct(folio)
}

/// `swapcache_prepare()`: false when the slot is not in use, in the cache, or being read past it.
fn swapcache_prepare(k: &Cpu, slot: u32) -> bool {
    let s = &mut *k.s();
    let slot = &mut s.w.swap.slots[slot as usize];
    let free = slot.count != 0 && slot.cache.is_none() && !slot.bypassed;
    slot.bypassed |= free;
    free
}

/// `swapcache_clear()`: the slot may be reused, and whoever waits for it goes on.
pub fn swapcache_clear(k: &Cpu, slot: u32) {
    let s = &mut *k.s();
    s.touch_slot(slot);
    if std::mem::take(&mut s.w.swap.slots[slot as usize].bypassed) {
        s.release_slot(slot);
        s.wake_slot_waiters(slot);
    }
}

/// `swap_read_folio()`: over when it returns. What cannot be read leaves the folio without `PG_uptodate`.
fn swap_read_folio(k: &Cpu, folio: Pfn, slot: u32) {
    mem_cgroup_swapin(k, folio, slot);
    let s = &mut *k.s();
    let state = s.w.swap.slots[slot as usize];
    let f = &mut s.w.mem.folios[folio as usize];
    if state.bad {
        s.note(k.id, Note::SwapReadError, Some(folio), slot, 0);
        return;
    }
    f.data = state.data;
    f.flags.set(Flags::UPTODATE);
    s.note(k.id, Note::SwapRead, Some(folio), slot, 0);
}

/// `swap_vma_readahead()`.
async fn swapin_readahead(k: &Cpu, vmf: &VmFault, slot: u32) -> Option<Pfn> {
    let target = read_swap_cache_async(k, slot).await?;
    if let Some(next) = neighbour(k, vmf)
        && k.slot(next).cache.is_none()
        && let Some(folio) = read_swap_cache_async(k, next).await
    {
        k.folio_put(folio);
    }
    Some(target)
}

/// `swap_cluster_readahead()`: the slots that stand together on the device are read together, whoever they belong to.
pub async fn swap_cluster_readahead(k: &Cpu, slot: u32) -> Option<Pfn> {
    let beside = {
        let s = k.s();
        let (ty, offset) = s.w.swap.entry_of(slot);
        s.w.swap.slot_of(ty, offset ^ 1).filter(|slot| s.w.swap.slots[*slot as usize].count != 0)
    };
    if let Some(beside) = beside
        && k.slot(beside).cache.is_none()
        && let Some(folio) = read_swap_cache_async(k, beside).await
    {
        k.folio_put(folio);
    }
    read_swap_cache_async(k, slot).await
}

/// The slot of the page after the faulting one, if it is swapped out too; read without the page-table lock.
fn neighbour(k: &Cpu, vmf: &VmFault) -> Option<u32> {
    let ec = k.entries();
    let (vpn, ptrs) = (vmf.vpn + 1, k.config().geometry.ptrs());
    if vpn % ptrs == 0 || !k.s().w.vmas[vmf.vma].contains(vpn) {
        return None;
    }
    let pte = k.ptep_get(k.pte_offset(vmf.mm, vpn)?);
    if !ec.pte_has_swap_entry(pte) {
        return None;
    }
    let entry = ec.arch.pte_to_swp_entry(pte);
    if ec.non_swap_entry(entry) {
        return None;
    }
    let slot = k.s().w.swap.slot_of(entry.ty, entry.offset)?;
    (k.slot(slot).count != 0).then_some(slot)
}

/// `read_swap_cache_async()`: whoever sets `SWAP_HAS_CACHE` first reads the page. `None` when the slot is not in use any
/// more or no frame is free.
pub async fn read_swap_cache_async(k: &Cpu, slot: u32) -> Option<Pfn> {
    loop {
        if let Some(folio) = swap_cache_get_folio(k, slot) {
            return Some(folio);
        }
        let new = k.folio_alloc()?;
        k.site(Site::SwapInRead).await;
        let state = k.slot(slot);
        if state.cache.is_some() || state.bypassed {
            k.folio_put(new);
            k.wait_for_slot(slot).await;
            continue;
        }
        if state.count == 0 {
            k.folio_put(new);
            return None;
        }
        add_to_swap_cache(k, new, slot);
        swap_read_folio(k, new, slot);
        k.folio_add_lru(new);
        return Some(new);
    }
}
