//! `mm/memory-failure.c`: `error_states`, the kinds of pages that can fail, and what is done about each.
//!
//! Left out: mlocked and unevictable pages, which have the handlers of the others; block devices and file systems without
//! `error_remove_folio`; private data of file systems (`filemap_release_folio()`).

use super::memcg::mem_cgroup_uncharge;
use super::truncate::truncate_inode_folio;
use crate::config::Defect;
use crate::observe::{REGULAR, SHMEM};
use crate::phys::{Flags, Pfn};
use crate::sched::Cpu;

/// `enum mf_result`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum MfResult {
    /// Marked, and nothing more could be done.
    Ignored,
    /// Not everybody could be kept from using it.
    Failed,
    /// Whoever comes by is told.
    Delayed,
    /// Nobody refers to it any more.
    Recovered,
}

/// `identify_page_state()`: the first row of `error_states` that fits, by the flags of now or, if they say nothing, by those
/// from before the page was unmapped. Unlocks the folio.
pub(super) async fn identify_page_state(k: &Cpu, folio: Pfn, page_flags: Flags) -> MfResult {
    let now = k.folio(folio).flags;
    let dirty = now.has(Flags::DIRTY);
    let in_swap_cache = |f: Flags| f.has(Flags::SWAPCACHE) && f.has(Flags::SWAPBACKED);
    let known = in_swap_cache(now) || now.has(Flags::LRU);
    let flags = if known { now } else { page_flags };
    if in_swap_cache(flags) {
        let handler = if dirty { me_swapcache_dirty } else { me_swapcache_clean };
        return handler(k, folio);
    }
    if !flags.has(Flags::LRU) {
        // me_unknown()
        k.folio_unlock(folio);
        return MfResult::Ignored;
    }
    if dirty { me_pagecache_dirty(k, folio).await } else { me_pagecache_clean(k, folio).await }
}

/// `has_extra_refcount()`.
fn has_extra_refcount(k: &Cpu, folio: Pfn, extra_pins: i32) -> bool {
    k.folio_ref_count(folio) - 1 - extra_pins > 0
}

/// `me_pagecache_clean()`, which is for anonymous pages outside the swap cache, too.
async fn me_pagecache_clean(k: &Cpu, folio: Pfn) -> MfResult {
    delete_from_lru_cache(k, folio);
    let f = k.folio(folio);
    let result = match f.file() {
        // The only reference left should be that of memory_failure().
        None if f.anon() => MfResult::Recovered,
        // Torn down meanwhile.
        None => MfResult::Failed,
        Some(file) => {
            // A page of tmpfs stays in the page cache: there is no other copy, and whoever comes by is told.
            let kept = file == SHMEM && !k.has(Defect::P3);
            if !kept {
                // generic_error_remove_folio()
                truncate_inode_folio(k, folio, file).await;
            }
            if has_extra_refcount(k, folio, i32::from(kept)) { MfResult::Failed } else { MfResult::Recovered }
        }
    };
    k.folio_unlock(folio);
    result
}

/// `me_pagecache_dirty()`: what was not written yet is lost, and the file says so (`mapping_set_error()`).
async fn me_pagecache_dirty(k: &Cpu, folio: Pfn) -> MfResult {
    if k.folio(folio).file() == Some(REGULAR) && !k.has(Defect::P4) {
        k.s().w.files[usize::from(REGULAR)].error = true;
    }
    me_pagecache_clean(k, folio).await
}

/// `me_swapcache_dirty()`: the page stays in the swap cache, for `do_swap_page()` to find.
fn me_swapcache_dirty(k: &Cpu, folio: Pfn) -> MfResult {
    k.folio_clear(folio, Flags::DIRTY);
    // Triggers EIO in shmem.
    k.folio_clear(folio, Flags::UPTODATE);
    let kept = delete_from_lru_cache(k, folio);
    k.folio_unlock(folio);
    if !kept || has_extra_refcount(k, folio, 1) { MfResult::Failed } else { MfResult::Delayed }
}

/// `me_swapcache_clean()`: the swap device still has the contents.
fn me_swapcache_clean(k: &Cpu, folio: Pfn) -> MfResult {
    k.delete_from_swap_cache(folio);
    k.folio_put(folio);
    let removed = delete_from_lru_cache(k, folio);
    k.folio_unlock(folio);
    if !removed || has_extra_refcount(k, folio, 0) { MfResult::Failed } else { MfResult::Recovered }
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
