//! `mm/migrate.c` and the migration half of `mm/rmap.c`.

use super::huge_migrate::{remove_migration_pmd, set_pmd_migration_entry};
use super::ksm_page::folio_migrate_ksm;
use super::memcg::mem_cgroup_migrate;
use super::pvmw::{Mapped, PageVmaWalk};
use super::rmap::{AnonLock, Pvmw, RmapWalk};
use super::split::{split_folio, split_huge_pmd_address};
use super::swap_cache::add_to_swap_cache;
use super::unmap::{replace_by_hwpoison_entry, subpage};
use crate::arch::{Pte, SwpEntry};
use crate::config::{Defect, Design};
use crate::entry::MigrationKind;
use crate::mm::{PtePtr, VmaId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// How `migrate_pages()` fared with one folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migrated {
    /// Moved, or freed meanwhile.
    Done,
    /// Not moved: somebody else holds it.
    Again,
    /// No frame to move it to.
    NoMem,
}

/// `NR_MAX_MIGRATE_PAGES_RETRY`, shortened: without others at work a second try cannot end otherwise.
const PASSES: u32 = 3;

/// Why a folio is moved (`enum migrate_reason`), as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Compaction, `move_pages()`, offlining.
    Move,
    /// `MR_MEMORY_FAILURE`: the caller keeps the reference to the old folio, to take it out of use.
    MemoryFailure,
    /// `MR_NUMA_MISPLACED`, to this node, with `MIGRATE_ASYNC`: not worth waiting for, nor taking a large folio apart.
    NumaMisplaced(u8),
    /// `MR_COMPACTION`, to this page, of which the caller gives up the reference, with `MIGRATE_ASYNC`.
    Compaction(Pfn),
}

impl Reason {
    fn numa(self) -> bool {
        matches!(self, Reason::NumaMisplaced(_))
    }

    /// `MIGRATE_ASYNC`: not worth waiting for.
    fn asynchronous(self) -> bool {
        matches!(self, Reason::NumaMisplaced(_) | Reason::Compaction(_))
    }
}

/// `migrate_pages()` of one folio that the caller has isolated from the LRU, in `MIGRATE_SYNC` mode. Gives up the
/// reference of the isolation unless the reason is a memory failure, or puts the folio back.
pub async fn migrate_pages(k: &Cpu, src: Pfn, reason: Reason) -> Migrated {
    let pages = k.folio_nr_pages(src);
    if pages > 1 && !reason.numa() {
        let mut result = Migrated::NoMem;
        if !k.folio_test(src, Flags::PARTIALLY_MAPPED) {
            result = try_migrate(k, src, reason).await;
        }
        // Of what is mapped in part only that part is worth moving; and a whole folio may find no place.
        if result != Migrated::NoMem || !try_split_folio(k, src).await {
            return putback(k, src, result);
        }
        for tail in src + 1..src + pages {
            let result = try_migrate(k, tail, reason).await;
            putback(k, tail, result);
        }
    }
    let result = try_migrate(k, src, reason).await;
    putback(k, src, result)
}

/// `migrate_pages()` of one small isolated folio to a page that compaction has found, without a second try.
pub(super) async fn migrate_page_to(k: &Cpu, src: Pfn, dst: Pfn) -> bool {
    let result = migrate_folio(k, src, Reason::Compaction(dst)).await;
    putback(k, src, result) == Migrated::Done
}

/// `try_split_folio()`.
async fn try_split_folio(k: &Cpu, folio: Pfn) -> bool {
    if !k.trylock(Lock::Folio(folio)).await {
        return false;
    }
    let split = split_folio(k, folio).await;
    k.folio_unlock(folio);
    split
}

async fn try_migrate(k: &Cpu, src: Pfn, reason: Reason) -> Migrated {
    let mut result = Migrated::Again;
    for _ in 0..PASSES {
        result = migrate_folio(k, src, reason).await;
        if result != Migrated::Again {
            break;
        }
    }
    result
}

/// `putback_movable_pages()` of what was not moved.
fn putback(k: &Cpu, src: Pfn, result: Migrated) -> Migrated {
    if result != Migrated::Done {
        let f = k.folio(src);
        k.note(Note::MigrateFailed, Some(src), f.refcount as u32, f.mapcount as u32);
        k.folio_putback_lru(src);
    }
    result
}

/// `migrate_folio_unmap()` and `migrate_folio_move()`.
async fn migrate_folio(k: &Cpu, src: Pfn, reason: Reason) -> Migrated {
    if k.folio_ref_count(src) == 1 {
        if let Reason::Compaction(unused) = reason {
            k.folio_put(unused);
        }
        migrate_folio_done(k, src, reason);
        return Migrated::Done;
    }
    let order = k.folio(src).order;
    let dst = match reason {
        Reason::NumaMisplaced(node) => k.folio_alloc_on(node, order),
        Reason::Compaction(dst) => Some(dst),
        Reason::Move | Reason::MemoryFailure => k.folio_alloc_order(order),
    };
    let Some(dst) = dst else {
        k.note(Note::NoTarget, Some(src), 0, 0);
        return Migrated::NoMem;
    };
    if !migrate_folio_lock(k, src, reason).await {
        k.folio_put(dst);
        return Migrated::Again;
    }
    // folio_get_anon_vma(): the mapcount goes to 0 below, and the anon_vma must outlive that.
    let av = get_anon_vma(k, src);
    if !k.trylock(Lock::Folio(dst)).await {
        put_anon_vma(k, av);
        k.folio_unlock(src);
        k.folio_put(dst);
        return Migrated::Again;
    }
    let was_mapped = k.folio_mapped(src);
    if was_mapped {
        k.site(Site::MigrateUnmap).await;
        try_to_migrate(k, src).await;
    }
    let partially_mapped = k.folio_test(src, Flags::PARTIALLY_MAPPED);
    let moved = !k.folio_mapped(src) && move_to_new_folio(k, src, dst, 0).await;
    if moved {
        k.folio_add_lru(dst);
    }
    if was_mapped {
        k.site(Site::MigrateRestore).await;
        remove_migration_ptes(k, src, if moved { dst } else { src }).await;
    }
    if moved {
        let s = &mut *k.s();
        s.w.mem.folios[dst as usize].ghost.migration_zapped = s.folio(src).ghost.migration_zapped;
    }
    if moved && partially_mapped {
        k.s().deferred_split_folio(dst);
    }
    put_anon_vma(k, av);
    k.folio_unlock(dst);
    if moved {
        k.note(Note::Migrated, Some(src), dst, 0);
        k.folio_unlock(src);
        migrate_folio_done(k, src, reason);
    } else {
        k.folio_unlock(src);
    }
    k.folio_put(dst);
    if moved { Migrated::Done } else { Migrated::Again }
}

/// The beginning of `migrate_folio_unmap()`: locks the folio and waits for its writeback, or with `MIGRATE_ASYNC` only
/// tries to.
async fn migrate_folio_lock(k: &Cpu, src: Pfn, reason: Reason) -> bool {
    if !reason.asynchronous() {
        k.lock(Lock::Folio(src)).await;
        k.folio_wait_writeback(src).await;
        return true;
    }
    if !k.trylock(Lock::Folio(src)).await {
        return false;
    }
    let busy = k.folio_test(src, Flags::WRITEBACK);
    if busy {
        k.folio_unlock(src);
    }
    !busy
}

/// `migrate_folio_done()`.
fn migrate_folio_done(k: &Cpu, src: Pfn, reason: Reason) {
    if reason != Reason::MemoryFailure {
        k.folio_put(src);
    }
}

pub(in crate::ops) fn get_anon_vma(k: &Cpu, folio: Pfn) -> Option<u32> {
    let s = &mut *k.s();
    let f = s.w.mem.folios[folio as usize];
    let av = f.anon_vma.checked_sub(1).filter(|a| f.mapcount > 0 && s.w.anon_vmas.is_live(*a))?;
    s.w.anon_vmas[av].refs += 1;
    Some(av)
}

pub(in crate::ops) fn put_anon_vma(k: &Cpu, av: Option<u32>) {
    if let Some(av) = av {
        k.s().w.anon_vmas.put(av, true);
    }
}

/// `migrate_folio()`: copies the folio when nobody but the caller, the swap cache and `extra` more refer to it, and
/// lets the new one take its place in the swap cache.
pub(super) async fn move_to_new_folio(k: &Cpu, src: Pfn, dst: Pfn, extra: i32) -> bool {
    let expected = |k: &Cpu| 1 + extra + k.s().w.mem.cache_refs(src);
    if k.folio_ref_count(src) != expected(k) {
        return false;
    }
    k.site(Site::MigrateCopy).await;
    if !k.has(Defect::S14) {
        let s = &mut *k.s();
        for i in 0..s.folio(src).nr_pages() {
            s.copy_page(src + i, dst + i);
        }
    }
    // __folio_migrate_mapping(): in the swap cache or the page cache the refcount is compared again and frozen in one step; without it
    // there is no turning back any more.
    let large = k.folio_test_large(src);
    if (large || k.folio(src).cached() != 0) && k.folio_ref_count(src) != expected(k) {
        return false;
    }
    if large {
        let s = &mut *k.s();
        s.w.mem.deferred_split.retain(|f| *f != src);
        s.w.mem.folios[src as usize].flags.clear(Flags::PARTIALLY_MAPPED);
    }
    let old = k.folio(src);
    {
        let s = &mut *k.s();
        let new = &mut s.w.mem.folios[dst as usize];
        (new.anon_vma, new.index) = (old.anon_vma, old.index);
        // A page that could not be read stays one.
        new.flags.clear(Flags::UPTODATE);
        for flag in
            [Flags::UPTODATE, Flags::DIRTY, Flags::REFERENCED, Flags::ACTIVE, Flags::UNEVICTABLE, Flags::SWAPBACKED]
        {
            if old.flags.has(flag) {
                new.flags.set(flag);
            }
        }
        let src = &mut s.w.mem.folios[src as usize].flags;
        src.clear(Flags::DIRTY);
        src.clear(Flags::UNEVICTABLE);
    }
    folio_migrate_ksm(k, dst, src);
    mem_cgroup_migrate(k, src, dst);
    if old.flags.has(Flags::SWAPCACHE) {
        k.folio_clear(src, Flags::SWAPCACHE);
        add_to_swap_cache(k, dst, old.slot);
        k.folio_put(src);
    }
    if old.mapping != 0 {
        k.page_cache_migrate(src, dst);
        k.folio_put_refs(src, old.nr_pages() as i32);
    }
    true
}

/// `try_to_migrate()`.
pub(super) async fn try_to_migrate(k: &Cpu, folio: Pfn) {
    try_to_migrate_flags(k, folio, AnonLock::IfMapped, false).await;
}

/// `try_to_migrate()` as `unmap_folio()` calls it, with `TTU_RMAP_LOCKED`, `TTU_SPLIT_HUGE_PMD` and `TTU_SYNC`.
pub(super) async fn try_to_split_and_migrate(k: &Cpu, folio: Pfn) {
    try_to_migrate_flags(k, folio, AnonLock::Held, true).await;
}

async fn try_to_migrate_flags(k: &Cpu, folio: Pfn, lock: AnonLock, split_pmd: bool) {
    let Some(mut walk) = RmapWalk::start(k, folio, lock).await else { return };
    while let Some((vma, vpn)) = walk.next(k).await {
        if split_pmd {
            split_huge_pmd_address(k, vma, vpn, Some(folio)).await;
        }
        // unmap_folio() passes TTU_SYNC: it must not miss an entry that is on its way out.
        let which = if split_pmd { Pvmw::MappedSync } else { Pvmw::Mapped };
        if !try_to_migrate_one(k, folio, vma, vpn, which).await || !k.folio_mapped(folio) {
            break;
        }
    }
    walk.end(k);
}

/// `try_to_migrate_one()`.
async fn try_to_migrate_one(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32, which: Pvmw) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, which);
    let (start, end) = walk.range();
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let mut replaced = true;
    while let Some(at) = walk.next(k).await {
        replaced = match at {
            Mapped::Pte(p) => replace_by_migration_entry(k, folio, p).await,
            Mapped::Pmd(p) => set_pmd_migration_entry(k, folio, p).await,
        };
        if !replaced {
            break;
        }
        k.munlock_vma_folio(folio, vma);
    }
    walk.done(k);
    k.mmu_notifier_invalidate_range_end(mm).await;
    replaced
}

/// The body of the loop in `try_to_migrate_one()`, for an entry at PTE level.
pub(super) async fn replace_by_migration_entry(k: &Cpu, folio: Pfn, p: PtePtr) -> bool {
    let (arch, ec) = (k.arch(), k.entries());
    let mut pteval = k.ptep_get(p);
    // Without the repair every entry that the walk returns is taken for a present one.
    // (Device-private entries always had a branch of their own.)
    let present = arch.pte_present(pteval) || k.has(Defect::D9) && !ec.kind(pteval).is_device_private();
    let pfn = if present { k.pte_pfn(pteval) } else { k.swp_offset_pfn(k.pte_to_swp_entry(pteval)) };
    let page = subpage(k, folio, pfn);
    let anon_exclusive = k.page_anon_exclusive(page);
    let writable = if present {
        pteval = k.ptep_clear_flush(p).await;
        if k.pte_dirty(pteval) {
            k.folio_mark_dirty(folio);
        }
        k.pte_write(pteval)
    } else {
        pteval = k.ptep_get_and_clear(p).await;
        ec.is_writable_device_private_entry(k.pte_to_swp_entry(pteval))
    };
    k.site(Site::MigrateCleared).await;
    if k.folio_test(page, Flags::HWPOISON) {
        return replace_by_hwpoison_entry(k, page, p).await;
    }
    let evidence = Evidence { pfn: Some(folio), ..Evidence::default() };
    let anon = k.folio(folio).anon();
    let by_count = k.uses(Design::CowByCount);
    k.bug_on(writable && anon && !anon_exclusive && !by_count, Rule::BugMigrateExclusive, evidence);
    if anon_exclusive && !k.folio_try_share_anon_rmap_pte(page) {
        k.set_pte_at(p, pteval).await;
        return false;
    }
    let kind = MigrationKind::of(writable, anon_exclusive);
    let swp_pte = if present {
        migration_entry_for(k, page, pteval, kind)
    } else {
        k.carry_from_swap(pteval, arch.swp_entry_to_pte(ec.make_migration_entry(u64::from(page), kind)))
    };
    k.set_pte_at(p, swp_pte).await;
    k.folio_remove_rmap_pte(page);
    k.folio_put(folio);
    true
}

/// What takes the place of a present entry, or of a huge page's as a PTE would say it: young and dirty are carried where
/// the release has room for them.
pub(super) fn migration_entry_for(k: &Cpu, page: Pfn, old: Pte, kind: MigrationKind) -> Pte {
    let ec = k.entries();
    let mut entry = ec.make_migration_entry(u64::from(page), kind);
    if k.pte_young(old) {
        entry = ec.make_migration_entry_young(entry);
    }
    if k.pte_dirty(old) {
        entry = ec.make_migration_entry_dirty(entry);
    }
    k.carry_from_present(old, k.arch().swp_entry_to_pte(entry))
}

/// `remove_migration_ptes()`: makes every migration entry for `src` map `dst`.
pub(super) async fn remove_migration_ptes(k: &Cpu, src: Pfn, dst: Pfn) {
    remove_migration_ptes_flags(k, src, dst, AnonLock::Always).await;
}

/// The same for a folio that was not moved, with `RMP_LOCKED`.
pub(super) async fn remove_migration_ptes_locked(k: &Cpu, folio: Pfn) {
    remove_migration_ptes_flags(k, folio, folio, AnonLock::Held).await;
}

async fn remove_migration_ptes_flags(k: &Cpu, src: Pfn, dst: Pfn, lock: AnonLock) {
    let Some(mut walk) = RmapWalk::start(k, dst, lock).await else { return };
    let (index, large) = (k.folio(dst).index, k.folio(dst).order != 0);
    while let Some((vma, vpn)) = walk.next(k).await {
        let mut entries = PageVmaWalk::new(k, src, vma, vpn, Pvmw::Migration);
        while let Some(at) = entries.next(k).await {
            match at {
                Mapped::Pte(p) => {
                    // A KSM page is mapped anywhere, whatever its index.
                    let new = if large { dst + (k.s().w.vmas[vma].linear_page_index(p.vpn) - index) } else { dst };
                    remove_migration_pte(k, new, vma, p).await;
                }
                Mapped::Pmd(p) => remove_migration_pmd(k, dst, vma, p).await,
            }
        }
    }
    walk.end(k);
}

/// `remove_migration_pte()`.
async fn remove_migration_pte(k: &Cpu, new: Pfn, vma: VmaId, p: PtePtr) {
    let (arch, ec) = (k.arch(), k.entries());
    let old_pte = k.ptep_get(p);
    let folio = k.page_folio(new);
    k.folio_get(folio);
    let prot = k.s().w.page_prot(vma);
    let mut pte: Pte = arch.pfn_pte(u64::from(new), prot);
    let entry: SwpEntry = k.pte_to_swp_entry(old_pte);
    pte = if ec.is_migration_entry_young(entry) { arch.pte_mkyoung(pte) } else { arch.pte_mkold(pte) };
    if k.folio_test(folio, Flags::DIRTY) && ec.is_migration_entry_dirty(entry) {
        pte = arch.pte_mkdirty(pte);
    }
    // After pte_mkdirty(), which sets soft-dirty on x86-64.
    pte = if k.pte_swp_soft_dirty(old_pte) { arch.pte_mksoft_dirty(pte) } else { arch.pte_clear_soft_dirty(pte) };
    if ec.is_writable_migration_entry(entry) {
        pte = arch.pte_mkwrite(pte);
    } else if k.pte_swp_uffd_wp(old_pte) {
        pte = arch.pte_mkuffd_wp(pte);
    }
    if k.s().w.mem.device_of(new).is_some() {
        let private = ec.make_device_private_entry(u64::from(new), arch.pte_write(pte));
        pte = k.carry_from_swap(old_pte, arch.swp_entry_to_pte(private));
    }
    if k.folio(k.page_folio(new)).anon() {
        k.folio_add_anon_rmap_pte(new, !ec.is_readable_migration_entry(entry));
    } else {
        k.folio_add_file_rmap_pte(new);
    }
    // Of a large folio it is not known here whether all of it is mapped: reclaim will see.
    if !k.folio_test_large(new) {
        k.mlock_vma_folio(new, vma);
    }
    k.set_pte_at(p, pte).await;
}
