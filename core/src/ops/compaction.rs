//! `mm/compaction.c`: movable pages go to the end of their zone, so that free ones are together at its start.
//!
//! One op is `compact_zone()` over one memory block, as a small asynchronous allocation causes it: the migrate scanner goes over the block, the free
//! scanner comes down from the end of `ZONE_MOVABLE` to the block after it. Left out: hints and caches of where to go on,
//! deferring, `fast_isolate_freepages()`, large folios (passed over, as for an allocation that is not larger than they),
//! movable pages that are on no LRU list.

use super::migrate::migrate_page_to;
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Site};
use crate::trace::Note;
use arrayvec::ArrayVec;

/// `COMPACT_CLUSTER_MAX`, shortened: pages that are isolated at once.
const CLUSTER: usize = 8;

/// `cc->migratepages`, and `cc->freepages`.
type Isolated = ArrayVec<Pfn, CLUSTER>;

/// `struct compact_control`, the free scanner's part.
struct FreeScanner {
    /// Free pages that are off their list, each with a reference.
    freepages: Isolated,
    /// Where the scanner is: the frame above the next one that it looks at.
    free_pfn: Pfn,
    /// The scanners have met here.
    low_pfn: Pfn,
}

/// `compact_zone()` over a block of `ZONE_MOVABLE`.
pub async fn compact(k: &Cpu, block: u32) -> Outcome {
    let (range, frames) = {
        let s = k.s();
        (s.w.mem.block_range(block), s.w.mem.frames())
    };
    let mut cc = FreeScanner { freepages: Isolated::new(), free_pfn: frames + 1, low_pfn: range.end };
    let mut pfn = range.start;
    let mut moved = 0;
    while pfn < range.end {
        let mut migratepages = Isolated::new();
        pfn = isolate_migratepages_block(k, pfn, range.end, &mut migratepages).await;
        let needed = migratepages.len();
        for src in migratepages {
            match compaction_alloc(k, &mut cc, needed).await {
                Some(dst) => moved += u32::from(migrate_page_to(k, src, dst).await),
                None => k.folio_putback_lru(src),
            }
        }
    }
    // release_free_list()
    for unused in cc.freepages {
        k.folio_put(unused);
    }
    k.note(Note::Compacted, None, block, moved);
    Outcome::Done
}

/// `isolate_migratepages_block()`: takes pages off the LRU that can probably be migrated without waiting. Returns where it
/// stopped.
async fn isolate_migratepages_block(k: &Cpu, start: Pfn, end: Pfn, migratepages: &mut Isolated) -> Pfn {
    let mut pfn = start;
    while pfn < end && !migratepages.is_full() {
        k.site(Site::CompactIsolate).await;
        let f = k.folio(pfn);
        let on_lru = f.flags.has(Flags::ALLOCATED) && f.flags.has(Flags::LRU) && !f.large();
        if on_lru && k.folio_try_get(pfn) {
            // Somebody else has an anonymous page: it would not be moved. folio_mapping() is not NULL in the swap cache.
            let mapping = f.cached() != 0;
            let pinned = !mapping && k.folio_ref_count(pfn) - 1 > k.folio_mapcount(pfn);
            if !pinned && !f.flags.has(Flags::WRITEBACK) && k.folio_isolate_lru(pfn) {
                migratepages.push(pfn);
            }
            k.folio_put(pfn);
        }
        pfn += 1;
    }
    pfn
}

/// `compaction_alloc()`: the next free page that the free scanner has found.
async fn compaction_alloc(k: &Cpu, cc: &mut FreeScanner, needed: usize) -> Option<Pfn> {
    if cc.freepages.is_empty() {
        isolate_freepages(k, cc, needed).await;
    }
    cc.freepages.pop_at(0)
}

/// `isolate_freepages()`: from the end of the zone down, until there are enough or the scanners meet. A block that is going off line
/// has no free pages (`suitable_migration_target()`).
async fn isolate_freepages(k: &Cpu, cc: &mut FreeScanner, needed: usize) {
    k.site(Site::CompactFree).await;
    while cc.free_pfn > cc.low_pfn && cc.freepages.len() < needed {
        cc.free_pfn -= 1;
        if k.folio_claim_free(cc.free_pfn) {
            cc.freepages.push(cc.free_pfn);
        }
    }
}
