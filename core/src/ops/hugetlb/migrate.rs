//! Migration of hugetlb pages: `mm/migrate.c: unmap_and_move_huge_page()`, and what `mm/rmap.c` does for it.

use super::reserve::{hugetlb_vma_trylock_write, hugetlb_vma_unlock_read, hugetlb_vma_unlock_write};
use super::share::{Unshared, adjust_range_if_pmd_sharing_possible, huge_pmd_unshare, huge_pmd_unshare_flush};
use crate::arch::Pmd;
use crate::config::Design;
use crate::entry::{MigrationKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::observe::HUGETLBFS;
use crate::ops::huge::pmd_folio;
use crate::ops::migrate::{get_anon_vma, migration_entry_for, put_anon_vma};
use crate::ops::rmap::{AnonLock, RmapWalk};
use crate::phys::{Flags, HpageFlags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// Tries of `migrate_hugetlbs()`.
const PASSES: u32 = 3;

/// `isolate_hugetlb()`: takes a mapped folio off the active list, with a reference.
pub fn isolate_hugetlb(k: &Cpu, folio: Pfn) -> bool {
    let hugetlb = k.folio_test(folio, Flags::HUGETLB) && k.hpage_test(folio, HpageFlags::MIGRATABLE);
    let isolated = hugetlb && k.folio_try_get(folio);
    if isolated {
        k.hpage_clear(folio, HpageFlags::MIGRATABLE);
    }
    isolated
}

/// `folio_putback_active_hugetlb()`.
fn folio_putback_active_hugetlb(k: &Cpu, folio: Pfn) {
    k.hpage_set(folio, HpageFlags::MIGRATABLE);
    k.folio_put(folio);
}

/// `migrate_hugetlbs()` of one folio that was isolated, which it puts back. True when it was moved.
pub async fn migrate_hugetlb(k: &Cpu, src: Pfn) -> bool {
    for _ in 0..PASSES {
        match unmap_and_move_huge_page(k, src).await {
            Some(true) => return true,
            Some(false) => {}
            None => break,
        }
    }
    folio_putback_active_hugetlb(k, src);
    false
}

/// `alloc_hugetlb_folio_nodemask()`: a page that is promised to nobody, or one that only the migration needs.
fn alloc_hugetlb_folio_nodemask(k: &Cpu) -> Option<Pfn> {
    let pin = k.memalloc_pinned();
    if k.s().w.hugetlb.available() > 0
        && let Some(folio) = k.dequeue_hugetlb_folio(pin)
    {
        return Some(folio);
    }
    let folio = k.alloc_migrate_hugetlb_folio()?;
    k.hpage_set(folio, HpageFlags::TEMPORARY);
    Some(folio)
}

/// `unmap_and_move_huge_page()`: whether the folio was moved; `None` when there is no page to move it to.
async fn unmap_and_move_huge_page(k: &Cpu, src: Pfn) -> Option<bool> {
    if k.folio_ref_count(src) == 1 {
        folio_putback_active_hugetlb(k, src);
        return Some(true);
    }
    let Some(dst) = alloc_hugetlb_folio_nodemask(k) else {
        k.note(Note::NoTarget, Some(src), 0, 0);
        return None;
    };
    k.lock(Lock::Folio(src)).await;
    let av = get_anon_vma(k, src);
    k.folio_lock_new(dst);
    let mut moved = false;
    // hugetlb_folio_mapping_lock_write()
    let file = k.folio(src).file();
    let locked = file.is_none() || k.trylock(Lock::IMmapWrite(HUGETLBFS)).await;
    if locked {
        moved = move_locked(k, src, dst).await;
        if file.is_some() {
            k.unlock(Lock::IMmapWrite(HUGETLBFS));
        }
    }
    k.folio_unlock(dst);
    put_anon_vma(k, av);
    if moved {
        k.note(Note::Migrated, Some(src), dst, 0);
        // move_hugetlb_state(): the page that was made for the migration stays, and the old one goes in its stead.
        if k.hpage_test(dst, HpageFlags::TEMPORARY) {
            k.hpage_set(src, HpageFlags::TEMPORARY);
            k.hpage_clear(dst, HpageFlags::TEMPORARY);
        }
    }
    k.folio_unlock(src);
    if moved {
        folio_putback_active_hugetlb(k, src);
    }
    folio_putback_active_hugetlb(k, dst);
    Some(moved)
}

/// The part of it with both folios and the reverse map locked.
async fn move_locked(k: &Cpu, src: Pfn, dst: Pfn) -> bool {
    let was_mapped = k.folio_mapped(src);
    if was_mapped {
        k.site(Site::MigrateUnmap).await;
        try_to_migrate(k, src).await;
    }
    let moved = !k.folio_mapped(src) && move_to_new_folio(k, src, dst).await;
    if was_mapped {
        k.site(Site::MigrateRestore).await;
        remove_migration_ptes(k, src, if moved { dst } else { src }).await;
    }
    moved
}

/// `migrate_huge_page_move_mapping()`, and for anonymous memory `folio_migrate_mapping()`.
async fn move_to_new_folio(k: &Cpu, src: Pfn, dst: Pfn) -> bool {
    let expected = |k: &Cpu| 1 + k.s().w.mem.cache_refs(src);
    if k.folio_ref_count(src) != expected(k) {
        return false;
    }
    k.site(Site::MigrateCopy).await;
    super::copy_user_large_folio(k, dst, src);
    if k.folio_ref_count(src) != expected(k) {
        return false;
    }
    k.hugetlb_migrate_mapping(src, dst);
    true
}

/// Mapping number `i` in which a folio of the file may be mapped, and where.
fn file_mapping(k: &Cpu, folio: Pfn, i: usize) -> Option<(VmaId, Option<u32>)> {
    let s = k.s();
    let vma = *s.w.i_mmaps[usize::from(HUGETLBFS)].vmas.get(i)?;
    Some((vma, s.w.vmas[vma].address(s.folio(folio).index)))
}

/// `try_to_migrate()`, for a folio of the file with `TTU_RMAP_LOCKED`.
async fn try_to_migrate(k: &Cpu, folio: Pfn) {
    if k.folio(folio).file().is_some() {
        let mut i = 0;
        while let Some((vma, at)) = file_mapping(k, folio, i) {
            i += 1;
            let Some(at) = at else { continue };
            k.site(Site::RmapWalk).await;
            if !try_to_migrate_one(k, folio, vma, at).await || !k.folio_mapped(folio) {
                break;
            }
        }
        return;
    }
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return };
    while let Some((vma, at)) = walk.next(k).await {
        if !try_to_migrate_one(k, folio, vma, at).await || !k.folio_mapped(folio) {
            break;
        }
    }
    walk.end(k);
}

/// `try_to_migrate_one()`. False when it cannot.
async fn try_to_migrate_one(k: &Cpu, folio: Pfn, vma: VmaId, at: u32) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let end = at + k.config().geometry.ptrs();
    let range = adjust_range_if_pmd_sharing_possible(k, vma, at..end);
    k.mmu_notifier_invalidate_range_start(mm, range.start, range.end, NotifyEvent::Clear).await;
    let mut replaced = true;
    if let Some(p) = k.pmd_offset(mm, at) {
        k.site(Site::PvmwLock).await;
        k.pmd_lock(p).await;
        let pmd = k.pmdp_get(p);
        if k.entries().pmd_kind(pmd) == PmdKind::Huge && pmd_folio(k, pmd) == folio {
            replaced = unshare_or_replace(k, folio, vma, p).await;
        }
        k.pmd_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    replaced
}

/// The body of the loop in `try_to_migrate_one()`: a table that is shared is left to those who share it.
async fn unshare_or_replace(k: &Cpu, folio: Pfn, vma: VmaId, p: PmdPtr) -> bool {
    if k.folio(folio).anon() {
        return replace_by_migration_entry(k, folio, p).await;
    }
    if !hugetlb_vma_trylock_write(k, vma).await {
        return false;
    }
    let mut unshared = Unshared::default();
    let done = huge_pmd_unshare(k, &mut unshared, vma, p).await;
    huge_pmd_unshare_flush(k, p.mm, unshared).await;
    hugetlb_vma_unlock_write(k, vma);
    done || replace_by_migration_entry(k, folio, p).await
}

async fn replace_by_migration_entry(k: &Cpu, folio: Pfn, p: PmdPtr) -> bool {
    let arch = k.arch();
    // huge_ptep_clear_flush()
    let old = k.pmdp_huge_get_and_clear(p).await;
    k.flush_tlb_range(p.mm, p.vpn, p.vpn + k.config().geometry.ptrs()).await;
    let leaf = arch.pmd_leaf(old);
    if k.pte_dirty(leaf) {
        k.folio_mark_dirty(folio);
    }
    k.site(Site::MigrateCleared).await;
    let (anon, exclusive, writable) = (k.folio(folio).anon(), k.page_anon_exclusive(folio), k.pte_write(leaf));
    let wrong = writable && anon && !exclusive && !k.uses(Design::CowByCount);
    k.bug_on(wrong, Rule::BugMigrateExclusive, Evidence { pfn: Some(folio), ..Evidence::default() });
    // hugetlb_try_share_anon_rmap()
    if exclusive && !k.folio_try_share_anon_rmap_pte(folio) {
        k.set_pmd_at(p, old).await;
        return false;
    }
    let pte = migration_entry_for(k, folio, leaf, MigrationKind::of(writable, exclusive));
    k.set_pmd_at(p, Pmd(pte.0)).await;
    k.hugetlb_remove_rmap(folio);
    k.folio_put(folio);
    true
}

/// `remove_migration_ptes()`, for a folio of the file with `RMP_LOCKED`.
async fn remove_migration_ptes(k: &Cpu, src: Pfn, dst: Pfn) {
    if k.folio(dst).file().is_some() {
        let mut i = 0;
        while let Some((vma, at)) = file_mapping(k, dst, i) {
            i += 1;
            if let Some(at) = at {
                k.site(Site::RmapWalk).await;
                remove_migration_pte(k, src, dst, vma, at).await;
            }
        }
        return;
    }
    let Some(mut walk) = RmapWalk::start(k, dst, AnonLock::Always).await else { return };
    while let Some((vma, at)) = walk.next(k).await {
        remove_migration_pte(k, src, dst, vma, at).await;
    }
    walk.end(k);
}

/// `remove_migration_pte()`.
async fn remove_migration_pte(k: &Cpu, src: Pfn, dst: Pfn, vma: VmaId, at: u32) {
    let (arch, ec) = (k.arch(), k.entries());
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = k.pmd_offset(mm, at) else { return };
    k.site(Site::PvmwLock).await;
    k.pmd_lock(p).await;
    let pmd = k.pmdp_get(p);
    let old = ec.pmd_as_pte(pmd);
    let named = matches!(ec.pmd_kind(pmd), PmdKind::Migration(_))
        .then(|| k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(old))));
    if named == Some(src) {
        let entry = k.pte_to_swp_entry(old);
        k.folio_get(dst);
        let prot = k.s().w.page_prot(vma);
        let mut pte = arch.pte_wrprotect(arch.pfn_pte(u64::from(dst), prot));
        pte = if ec.is_migration_entry_young(entry) { arch.pte_mkyoung(pte) } else { arch.pte_mkold(pte) };
        if k.pte_swp_soft_dirty(old) {
            pte = arch.pte_mksoft_dirty(pte);
        }
        if k.folio_test(dst, Flags::DIRTY) && ec.is_migration_entry_dirty(entry) {
            pte = arch.pte_mkdirty(pte);
        }
        if ec.is_writable_migration_entry(entry) {
            pte = arch.pte_mkwrite(pte);
        } else if k.pte_swp_uffd_wp(old) {
            pte = arch.pte_mkuffd_wp(pte);
        }
        if k.folio(dst).anon() {
            k.folio_add_anon_rmap_pmd(dst, !ec.is_readable_migration_entry(entry));
        } else {
            k.hugetlb_add_file_rmap(dst);
        }
        k.set_pmd_at(p, arch.pte_mkhuge(pte)).await;
    }
    k.pmd_unlock(p);
}

/// `migration_entry_wait_huge()`: gives the lock of the mapping back.
pub(super) async fn migration_entry_wait_huge(k: &Cpu, vma: VmaId, p: PmdPtr) {
    let ec = k.entries();
    k.pmd_lock(p).await;
    let pmd = k.pmdp_get(p);
    let folio = matches!(ec.pmd_kind(pmd), PmdKind::Migration(_))
        .then(|| k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(ec.pmd_as_pte(pmd)))));
    k.pmd_unlock(p);
    hugetlb_vma_unlock_read(k, vma);
    if let Some(folio) = folio {
        k.site(Site::MigrationWait).await;
        k.folio_wait_locked(folio).await;
    }
}

/// What a migration entry becomes when its page is shared by fork, or write-protected: readable, and exclusive or not.
pub(super) fn readable_migration_pmd(k: &Cpu, pmd: Pmd, kind: MigrationKind) -> Pmd {
    let (arch, ec) = (k.arch(), k.entries());
    let old = ec.pmd_as_pte(pmd);
    let entry = ec.retype_migration_entry(k.pte_to_swp_entry(old), kind);
    Pmd(k.carry_from_swap(old, arch.swp_entry_to_pte(entry)).0)
}

/// What `hugetlb_change_protection()` and `make_uffd_wp_huge_pte()` make of a writable migration entry: readable, and of private
/// memory exclusive still.
pub(super) fn protected_migration_pmd(k: &Cpu, vma: VmaId, pmd: Pmd) -> Pmd {
    let shared = k.s().w.vmas[vma].shared();
    readable_migration_pmd(k, pmd, if shared { MigrationKind::Read } else { MigrationKind::ReadExclusive })
}

/// `dissolve_free_hugetlb_folio()`: gives the folio of a page back to the allocator, if it is free and promised to nobody. False
/// when it stays in the pool.
pub fn dissolve_free_hugetlb_folio(k: &Cpu, page: Pfn) -> bool {
    let s = &mut *k.s();
    let folio = s.w.mem.page_folio(page);
    if !s.folio(folio).flags.has(Flags::HUGETLB) {
        return true;
    }
    let h = &s.w.hugetlb;
    if !HpageFlags(s.folio(folio).slot).has(HpageFlags::FREED) || h.available() <= 0 {
        return false;
    }
    let surplus = h.surplus > 0;
    s.remove_hugetlb_folio(folio, surplus);
    true
}

/// The same of the free pages of a block.
pub fn dissolve_free_hugetlb_folios(k: &Cpu, block: u32) {
    let s = &mut *k.s();
    loop {
        let h = &s.w.hugetlb;
        let there =
            |p: &&Pfn| s.w.mem.block_of(**p) == block && !s.w.mem.folios[**p as usize].flags.has(Flags::HWPOISON);
        let Some(page) = h.free.iter().find(there).copied().filter(|_| h.available() > 0) else { return };
        let surplus = h.surplus > 0;
        s.remove_hugetlb_folio(page, surplus);
    }
}
