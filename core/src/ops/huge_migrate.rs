//! `mm/huge_memory.c`: migration entries at PMD level.

use super::huge::pmd_folio;
use super::migrate::migration_entry_for;
use crate::arch::Pmd;
use crate::config::Design;
use crate::entry::MigrationKind;
use crate::mm::{PmdPtr, VmaId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Site};

/// `set_pmd_migration_entry()`, with the PMD locked. False when the folio may be pinned.
pub async fn set_pmd_migration_entry(k: &Cpu, folio: Pfn, p: PmdPtr) -> bool {
    let arch = k.arch();
    let pmdval = k.pmdp_invalidate(p).await;
    let leaf = arch.pmd_leaf(pmdval);
    debug_assert_eq!(pmd_folio(k, pmdval), folio);
    k.site(Site::MigrateCleared).await;
    let anon_exclusive = k.page_anon_exclusive(folio);
    if anon_exclusive && !k.folio_try_share_anon_rmap_pte(folio) {
        k.set_pmd_at(p, pmdval).await;
        return false;
    }
    let writable = k.pte_write(leaf);
    k.bug_on(
        writable && k.folio(folio).anon() && !anon_exclusive && !k.uses(Design::CowByCount),
        Rule::BugMigrateExclusive,
        Evidence { pfn: Some(folio), ..Evidence::default() },
    );
    if k.pte_dirty(leaf) {
        k.folio_mark_dirty(folio);
    }
    let pmdswp = migration_entry_for(k, folio, leaf, MigrationKind::of(writable, anon_exclusive));
    k.set_pmd_at(p, Pmd(pmdswp.0)).await;
    k.folio_remove_rmap_pmd(folio);
    k.folio_put(folio);
    true
}

/// `remove_migration_pmd()`, with the PMD locked: maps the new folio.
pub async fn remove_migration_pmd(k: &Cpu, new: Pfn, vma: VmaId, p: PmdPtr) {
    let (arch, ec) = (k.arch(), k.entries());
    let old = ec.pmd_as_pte(k.pmdp_get(p));
    let entry = k.pte_to_swp_entry(old);
    k.folio_get(new);
    let prot = k.s().w.page_prot(vma);
    let mut pte = arch.pfn_pte(u64::from(new), prot);
    if !ec.is_migration_entry_young(entry) {
        pte = arch.pte_mkold(pte);
    }
    // The kernel does this last, and so may set soft-dirty where it was clear (it says so in a comment).
    if k.folio_test(new, Flags::DIRTY) && ec.is_migration_entry_dirty(entry) {
        pte = arch.pte_mkdirty(pte);
    }
    if k.pte_swp_soft_dirty(old) {
        pte = arch.pte_mksoft_dirty(pte);
    }
    if ec.is_writable_migration_entry(entry) {
        pte = arch.pte_mkwrite(pte);
    }
    if k.pte_swp_uffd_wp(old) {
        pte = arch.pte_mkuffd_wp(pte);
    }
    if k.folio(new).anon() {
        k.folio_add_anon_rmap_pmd(new, !ec.is_readable_migration_entry(entry));
    } else {
        k.folio_add_file_rmap_pmd(new);
    }
    k.set_pmd_at(p, arch.pte_mkhuge(pte)).await;
}
