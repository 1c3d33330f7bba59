//! `mm/memory_hotplug.c` and the range walks over `mm/migrate.c`: moving folios away.

use super::hugetlb::{dissolve_free_hugetlb_folios, isolate_hugetlb, mapped_hugetlb_folio, migrate_hugetlb};
use super::memcg::mem_cgroup_uncharge;
use super::memory_failure::unmap_poisoned_folio;
use super::migrate::{Migrated, Reason, migrate_pages};
use super::rmap::mapped_folio;
use super::vmscan::stuck;
use crate::config::Defect;
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn};
use crate::rule::Rule;
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;
use arrayvec::ArrayVec;

/// Passes of `offline_pages()` over a block. The kernel goes on until a signal ends it; here it gives up, and
/// `progress.offline` says whether it had to.
const OFFLINE_PASSES: u32 = 3;

/// `offline_pages()`: isolates a movable block and migrates what is in it until nothing is left.
///
/// `EINVAL` for a block that is not there to be taken, `EBUSY` for one that could not be emptied ("signal backoff").
pub async fn offline(k: &Cpu, block: u32) -> Outcome {
    k.lock(Lock::MemHotplug).await;
    let outcome = offline_locked(k, block).await;
    k.unlock(Lock::MemHotplug);
    outcome
}

async fn offline_locked(k: &Cpu, block: u32) -> Outcome {
    {
        let s = &mut *k.s();
        if block < s.w.geometry().normal_blocks() || !s.w.mem.online(block) {
            s.note(k.id, Note::OfflineRefused, None, block, 0);
            return Outcome::Invalid;
        }
        // start_isolate_page_range(): nothing in ZONE_MOVABLE counts as unmovable (has_unmovable_pages()).
        s.w.mem.isolate(block);
    }
    let mut no_target = false;
    for pass in 1..=OFFLINE_PASSES {
        k.site(Site::OfflinePass).await;
        no_target |= do_migrate_range(k, block).await;
        let left = allocated_in(k, block);
        if left == 0 {
            return Outcome::Done;
        }
        k.note(Note::OfflineRetry, None, pass, left);
    }
    k.note(Note::OfflineFailed, None, OFFLINE_PASSES, allocated_in(k, block));
    if !no_target
        && k.undisturbed()
        && let Some(folio) = movable_in(k, block)
    {
        let vpn = k.folio(folio).index;
        let mm = owner(k, folio).unwrap_or(0);
        stuck(k, folio, Rule::ProgressOffline, mm, vpn);
    }
    // undo_isolate_page_range()
    k.s().w.mem.put_back(block);
    Outcome::Busy
}

/// `memory_block_online()` and `online_pages()`. A block with failed memory in it stays offline: its `struct page`s are
/// made anew, and nobody would know any more which frames must not be used.
pub async fn online(k: &Cpu, block: u32) {
    let checked = !k.has(Defect::D16);
    k.lock(Lock::MemHotplug).await;
    {
        let s = &mut *k.s();
        let poisoned = s.w.mem.poisoned_in(block);
        if s.w.mem.online(block) {
        } else if poisoned != 0 && checked {
            s.note(k.id, Note::OnlinePoison, None, poisoned as u32, 0);
        } else {
            s.w.mem.reinit(block);
            s.w.mem.put_back(block);
        }
    }
    k.unlock(Lock::MemHotplug);
}

/// Folios that one pass isolates before it migrates them: in the kernel all of the block.
const BATCH: usize = 16;

/// `do_migrate_range()`: one pass. True when there was no frame to move something to.
async fn do_migrate_range(k: &Cpu, block: u32) -> bool {
    let mut no_target = false;
    let range = k.s().w.mem.block_range(block);
    let mut pfn = range.start;
    while pfn < range.end {
        let mut source: ArrayVec<Pfn, BATCH> = ArrayVec::new();
        while pfn < range.end && !source.is_full() {
            k.site(Site::OfflineIsolate).await;
            let folio = k.page_folio(pfn);
            pfn = if k.folio_test_large(folio) { folio + k.folio_nr_pages(folio) } else { pfn + 1 };
            if isolate_folio_to_list(k, folio).await {
                source.push(folio);
            }
        }
        for folio in source {
            no_target |= if k.folio_test(folio, Flags::HUGETLB) {
                !migrate_hugetlb(k, folio).await
            } else {
                migrate_pages(k, folio, Reason::Move).await == Migrated::NoMem
            };
        }
    }
    dissolve_free_hugetlb_folios(k, block);
    no_target
}

/// The body of the loop in `do_migrate_range()`: true when the folio is off the LRU, with a reference.
async fn isolate_folio_to_list(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    if !f.flags.has(Flags::ALLOCATED) {
        return false;
    }
    let poisoned = k.s().w.mem.has_hwpoisoned(folio);
    if poisoned && f.order == 0 {
        unmap_poisoned(k, folio).await;
    } else if f.flags.has(Flags::HUGETLB) {
        return isolate_hugetlb(k, folio);
    }
    // A large folio with a failed page cannot be unmapped here.
    !poisoned && k.folio_isolate_lru(folio)
}

/// The branch of `do_migrate_range()` for a folio whose memory has failed: nobody needs it, but whoever maps it is
/// in the way. (Taken off the LRU, it keeps the reference of that for good.)
async fn unmap_poisoned(k: &Cpu, folio: Pfn) {
    if !k.folio_try_get(folio) {
        return;
    }
    let on_lru = k.folio_test(folio, Flags::LRU);
    let isolated = on_lru && k.folio_isolate_lru(folio);
    if isolated {
        k.s().w.mem.folios[folio as usize].ghost.held += 1;
        // Nobody else can: delete_from_lru_cache() only uncharges what it takes off the LRU itself.
        if !k.has(Defect::N60) {
            mem_cgroup_uncharge(k, folio);
        }
    }
    if on_lru == isolated && k.folio_mapped(folio) {
        let locked = !k.has(Defect::P1);
        if locked {
            k.lock(Lock::Folio(folio)).await;
        }
        unmap_poisoned_folio(k, folio).await;
        if locked {
            k.folio_unlock(folio);
        }
    }
    k.folio_put(folio);
}

/// What `scan_movable_pages()` and `test_pages_isolated()` find in the way. Poisoned frames that nobody uses are not.
fn allocated_in(k: &Cpu, block: u32) -> u32 {
    let s = k.s();
    let in_the_way = |p: &Pfn| {
        let flags = s.folio(*p).flags;
        flags.has(Flags::ALLOCATED) && (!flags.has(Flags::HWPOISON) || flags.has(Flags::LRU))
    };
    s.w.mem.block_range(block).filter(in_the_way).count() as u32
}

/// A folio that nothing keeps in the block but its mappings. A large one with a failed page is passed over by the kernel, too.
fn movable_in(k: &Cpu, block: u32) -> Option<Pfn> {
    let s = k.s();
    let stays = |p: Pfn| s.folio(p).large() && s.w.mem.has_hwpoisoned(p);
    s.w.mem.block_range(block).find(|p| s.only_mapped(*p) && !stays(*p))
}

/// A process that maps the folio at its index, for the report.
fn owner(k: &Cpu, folio: Pfn) -> Option<u8> {
    let vpn = k.folio(folio).index;
    (0..crate::config::MAX_PROCS as u8).find(|mm| mapped_folio(k, *mm, vpn) == Some(folio))
}

/// `move_pages()` of what one page maps, or compaction of it: the kernel's own doing, to a frame of its choice.
/// `progress.migrate` is judged here.
pub async fn migrate(k: &Cpu, mm: u8, vpn: u32) {
    if let Some(folio) = mapped_hugetlb_folio(k, mm, vpn) {
        if isolate_hugetlb(k, folio) {
            migrate_hugetlb(k, folio).await;
        }
        return;
    }
    let Some(folio) = mapped_folio(k, mm, vpn) else {
        k.note(Note::NoFolio, None, 0, 0);
        return;
    };
    let movable = k.s().only_mapped(folio);
    if !k.folio_isolate_lru(folio) {
        k.note(Note::NotOnLru, Some(folio), 0, 0);
        return;
    }
    if migrate_pages(k, folio, Reason::Move).await == Migrated::Again && movable && k.undisturbed() {
        stuck(k, folio, Rule::ProgressMigrate, mm, vpn);
    }
}
