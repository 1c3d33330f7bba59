//! `mm/shmem.c`: pages of `tmpfs` files, in the page cache or in swap.

use super::filemap::{filemap_add_folio, filemap_get_entry, filemap_remove_folio, lock_folio_at};
use super::swap_cache::add_to_swap_cache;
use super::swapin::{read_swap_cache_async, swap_cluster_readahead};
use super::uffd::handle_userfault;
use super::vmf::{FaultResult, VmFault};
use crate::config::Design;
use crate::mm::{Thp, VmaId};
use crate::observe::{Outcome, SHMEM, Userfault};
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};

/// `shmem_fault()` and `shmem_get_folio_gfp()` with `SGP_CACHE`: the folio at an index, locked and with a reference.
///
/// The file is one of a mount with `huge=advise`: a hole is filled with a huge folio where `MADV_HUGEPAGE` says so.
///
/// Left out: large folios of other sizes; `shmem_falloc`, which makes faults wait while a hole is punched, so that punching ends.
pub async fn shmem_fault(k: &Cpu, vmf: &VmFault, index: u32) -> Result<Pfn, FaultResult> {
    let vma = vmf.vma;
    let (missing, minor) = {
        let s = k.s();
        (s.w.vmas[vma].uffd_missing(), s.w.vmas[vma].uffd_minor())
    };
    loop {
        if index >= k.i_size_read(SHMEM) {
            return Err(FaultResult::SigBus);
        }
        let entry = filemap_get_entry(k, SHMEM, index).await;
        if minor && entry != CacheEntry::Empty {
            if let CacheEntry::Folio(folio) = entry {
                k.folio_put(folio);
            }
            return Err(handle_userfault(k, vmf, Userfault::Minor).await);
        }
        match entry {
            CacheEntry::Poisoned => return Err(FaultResult::SigBus),
            CacheEntry::Swap(slot) => {
                if let Some(folio) = shmem_swapin_folio(k, index, slot).await? {
                    return Ok(folio);
                }
            }
            CacheEntry::Folio(folio) => {
                // Has the folio been truncated or swapped out?
                if lock_folio_at(k, folio, SHMEM, index).await {
                    return Ok(folio);
                }
            }
            CacheEntry::Empty if missing => return Err(handle_userfault(k, vmf, Userfault::Missing).await),
            CacheEntry::Empty => {
                let huge = shmem_suitable_orders(k, vma, index);
                if let Some(folio) = shmem_alloc_and_add_folio(k, index, huge).await? {
                    return Ok(folio);
                }
            }
        }
    }
}

/// `shmem_allowable_huge_orders()` and `shmem_suitable_orders()`: whether a huge folio may be put around the index. It must
/// lie inside the mapping, and nothing may be in the page cache there yet.
fn shmem_suitable_orders(k: &Cpu, vma: VmaId, index: u32) -> bool {
    let s = k.s();
    let (v, ptrs) = (&s.w.vmas[vma], s.w.geometry().ptrs());
    if v.thp != Thp::Huge {
        return false;
    }
    let start = index & !(ptrs - 1);
    let inside = v.pgoff <= start && start + ptrs <= v.linear_page_index(v.end);
    inside && (start..start + ptrs).all(|i| s.w.files[usize::from(SHMEM)].get(i) == CacheEntry::Empty)
}

/// `shmem_alloc_and_add_folio()` and what follows it: a zeroed folio. `None` when somebody else was faster.
async fn shmem_alloc_and_add_folio(k: &Cpu, index: u32, huge: bool) -> Result<Option<Pfn>, FaultResult> {
    let order = k.s().pmd_order();
    let large = if huge { k.folio_alloc_order(order) } else { None };
    let folio = large.or_else(|| k.folio_alloc()).ok_or(FaultResult::Oom)?;
    let aligned = index & !(k.folio_nr_pages(folio) - 1);
    k.folio_lock_new(folio);
    if !filemap_add_folio(k, SHMEM, aligned, folio, CacheEntry::Empty).await {
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Ok(None);
    }
    k.folio_set(folio, Flags::UPTODATE);
    // Perhaps the file has been truncated since we checked.
    if index >= k.i_size_read(SHMEM) {
        filemap_remove_folio(k, folio).await;
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Err(FaultResult::SigBus);
    }
    Ok(Some(folio))
}

/// `shmem_swapin_folio()`: `None` (`-EEXIST`) when the entry is not what it was.
async fn shmem_swapin_folio(k: &Cpu, index: u32, slot: u32) -> Result<Option<Pfn>, FaultResult> {
    let swap = CacheEntry::Swap(slot);
    k.site(Site::ShmemSwapIn).await;
    // shmem_swapin_cluster()
    let Some(folio) = swap_cluster_readahead(k, slot).await else {
        // shmem_confirm_swap()
        return if k.cache_entry(SHMEM, index) == swap { Err(FaultResult::Oom) } else { Ok(None) };
    };
    k.lock(Lock::Folio(folio)).await;
    let f = k.folio(folio);
    let same = f.flags.has(Flags::SWAPCACHE) && f.slot == slot && k.cache_entry(SHMEM, index) == swap;
    if same && !f.flags.has(Flags::UPTODATE) {
        // -EIO
        shmem_set_folio_swapin_error(k, index, folio, slot);
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Err(FaultResult::SigBus);
    }
    let added = same && filemap_add_folio(k, SHMEM, index, folio, swap).await;
    if !added {
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Ok(None);
    }
    k.delete_from_swap_cache(folio);
    k.folio_put(folio);
    k.folio_mark_dirty(folio);
    k.swap_free(slot);
    Ok(Some(folio))
}

/// `shmem_set_folio_swapin_error()`: what could not be read is remembered in the place of the swap entry, since 5.19.
fn shmem_set_folio_swapin_error(k: &Cpu, index: u32, folio: Pfn, slot: u32) {
    let swap = CacheEntry::Swap(slot);
    if k.uses(Design::PoisonNone) || !k.page_cache_cmpxchg(SHMEM, index, swap, CacheEntry::Poisoned) {
        return;
    }
    k.delete_from_swap_cache(folio);
    k.folio_put(folio);
    k.swap_free(slot);
}

/// `shmem_get_folio()` with `SGP_NOALLOC`, as a collapse asks for a page that is swapped out. The folio is locked, but not
/// for lockdep: the collapse holds the locks of many.
pub async fn shmem_get_folio_noalloc(k: &Cpu, index: u32) -> Option<Pfn> {
    loop {
        let folio = match filemap_get_entry(k, SHMEM, index).await {
            CacheEntry::Swap(slot) => match shmem_swapin_folio(k, index, slot).await {
                Ok(Some(folio)) => folio,
                Ok(None) => continue,
                Err(_) => return None,
            },
            CacheEntry::Folio(folio) if lock_folio_at(k, folio, SHMEM, index).await => folio,
            CacheEntry::Folio(_) => continue,
            _ => return None,
        };
        k.folio_lock_many();
        return Some(folio);
    }
}

/// The same as `UFFDIO_CONTINUE` asks for it: a folio that is there already, in the cache or in swap; `EFAULT` when there is none.
pub async fn shmem_get_folio_continue(k: &Cpu, index: u32) -> Result<Pfn, Outcome> {
    loop {
        if index >= k.i_size_read(SHMEM) {
            return Err(Outcome::Invalid);
        }
        match filemap_get_entry(k, SHMEM, index).await {
            CacheEntry::Swap(slot) => match shmem_swapin_folio(k, index, slot).await {
                Ok(Some(folio)) => return Ok(folio),
                Ok(None) => {}
                Err(FaultResult::Oom) => return Err(Outcome::NoMem),
                Err(_) => return Err(Outcome::Fault),
            },
            CacheEntry::Folio(folio) => {
                if lock_folio_at(k, folio, SHMEM, index).await {
                    return Ok(folio);
                }
            }
            CacheEntry::Empty | CacheEntry::Poisoned => return Err(Outcome::Fault),
        }
    }
}

/// `mm/madvise.c: shmem_swapin_range()`: reads what is swapped out of a range of the file into the swap cache.
pub async fn shmem_swapin_range(k: &Cpu, from: u32, to: u32) {
    for index in from..to {
        if let CacheEntry::Swap(slot) = k.cache_entry(SHMEM, index)
            && let Some(folio) = read_swap_cache_async(k, slot).await
        {
            k.folio_put(folio);
        }
    }
}

/// `shmem_unuse()`: brings back what `tmpfs` has on a swap device.
pub async fn shmem_unuse(k: &Cpu, ty: u8) -> Result<(), FaultResult> {
    let indices = k.s().w.files[usize::from(SHMEM)].indices();
    for index in indices {
        let CacheEntry::Swap(slot) = k.cache_entry(SHMEM, index) else { continue };
        let on = k.s().w.swap.entry_of(slot).0 == ty;
        if on && let Some(folio) = shmem_swapin_folio(k, index, slot).await? {
            k.folio_unlock(folio);
            k.folio_put(folio);
        }
    }
    Ok(())
}

/// `shmem_writepage()` up to the write: moves a locked folio that nobody maps from the page cache to the swap cache.
/// False when there is no swap.
pub async fn shmem_writepage(k: &Cpu, folio: Pfn) -> bool {
    let slot = k.s().w.swap.alloc(folio);
    let Some(slot) = slot else { return false };
    add_to_swap_cache(k, folio, slot);
    // swap_shmem_alloc()
    k.swap_duplicate(slot);
    k.site(Site::ShmemSwapOut).await;
    k.bug_on_cache_mapped(folio);
    // shmem_delete_from_page_cache()
    k.page_cache_remove(folio, CacheEntry::Swap(slot));
    k.folio_put(folio);
    true
}
