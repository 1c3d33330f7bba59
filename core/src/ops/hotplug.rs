//! `mm/memory_hotplug.c` and the range walks over `mm/migrate.c`: moving folios away.

use super::memory_failure::unmap_poisoned_folio;
use super::migrate::{Migrated, Reason, migrate_pages};
use super::rmap::mapped_folio;
use super::vmscan::stuck;
use crate::config::Defect;
use crate::phys::{Flags, Pfn};
use crate::rule::Rule;
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// Passes of `offline_pages()` over a block. The kernel goes on until a signal ends it; here it gives up, and
/// `progress.offline` says whether it had to.
const OFFLINE_PASSES: u32 = 3;

/// `offline_pages()`: isolates a movable block and migrates what is in it until nothing is left.
pub async fn offline(k: &Cpu, block: u32) {
    k.lock(Lock::MemHotplug).await;
    offline_locked(k, block).await;
    k.unlock(Lock::MemHotplug);
}

async fn offline_locked(k: &Cpu, block: u32) {
    {
        let s = &mut *k.s();
        if block < s.w.geometry().normal_blocks() || !s.w.mem.online(block) {
            return;
        }
        s.w.mem.isolate(block);
    }
    let mut no_target = false;
    for pass in 1..=OFFLINE_PASSES {
        k.site(Site::OfflinePass).await;
        no_target |= do_migrate_range(k, block).await;
        let left = allocated_in(k, block);
        if left == 0 {
            return;
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
    k.s().w.mem.put_back(block);
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

/// `do_migrate_range()`: one pass. True when there was no frame to move something to.
async fn do_migrate_range(k: &Cpu, block: u32) -> bool {
    let mut no_target = false;
    let range = k.s().w.mem.block_range(block);
    for pfn in range {
        let head = k.page_folio(pfn);
        if k.folio_test(pfn, Flags::HWPOISON) {
            unmap_poisoned(k, pfn).await;
        } else if head == pfn && k.folio_test(pfn, Flags::ALLOCATED) && k.folio_isolate_lru(pfn) {
            no_target |= migrate_pages(k, pfn, Reason::Move).await == Migrated::NoMem;
        }
    }
    no_target
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

fn movable_in(k: &Cpu, block: u32) -> Option<Pfn> {
    let s = k.s();
    s.w.mem.block_range(block).find(|p| s.only_mapped(*p))
}

/// A process that maps the folio at its index, for the report.
fn owner(k: &Cpu, folio: Pfn) -> Option<u8> {
    let vpn = k.folio(folio).index;
    (0..crate::config::MAX_PROCS as u8).find(|mm| mapped_folio(k, *mm, vpn) == Some(folio))
}

/// `move_pages()` of what one page maps, or compaction of it: the kernel's own doing, to a frame of its choice.
/// `progress.migrate` is judged here.
pub async fn migrate(k: &Cpu, mm: u8, vpn: u32) {
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
