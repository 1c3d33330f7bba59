//! `mm/huge_memory.c`: one PMD becomes a table of PTEs; one large folio becomes small ones.

use super::huge::pmd_folio;
use super::huge_file::{split_file_folio, split_file_pmd};
use super::huge_zero::{is_huge_zero_pmd, split_huge_zero_page_pmd};
use super::hugetlb::is_vm_hugetlb_page;
use super::migrate::{get_anon_vma, put_anon_vma, remove_migration_ptes_locked, try_to_split_and_migrate};
use crate::config::Defect;
use crate::entry::{MigrationKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// `__split_huge_pmd()`: the pages of a huge page get PTEs of their own; the folio stays as it is. With `freeze`, which
/// names the folio that is meant, they are migration entries. In a mapping of a file nothing is mapped afterwards.
pub async fn split_huge_pmd(k: &Cpu, vma: VmaId, p: PmdPtr, freeze: Option<Pfn>) {
    let pages = k.config().geometry.ptrs();
    k.mmu_notifier_invalidate_range_start(p.mm, p.vpn, p.vpn + pages, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let hugetlb = is_vm_hugetlb_page(k, vma);
    k.bug_on(hugetlb, Rule::BugHugetlbSplit, Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() });
    split_huge_pmd_locked(k, vma, p, freeze).await;
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(p.mm).await;
}

/// `split_huge_pmd_address()`, if a huge page is there.
pub async fn split_huge_pmd_address(k: &Cpu, vma: VmaId, vpn: u32, freeze: Option<Pfn>) {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_leaf(mm, vpn) {
        split_huge_pmd(k, vma, p, freeze).await;
    }
}

/// `vma_adjust_trans_huge()` for one bound: a huge page that a VMA's new bound would cut is split.
pub async fn split_huge_pmd_if_needed(k: &Cpu, vma: VmaId, at: u32) {
    if !at.is_multiple_of(k.config().geometry.ptrs()) {
        split_huge_pmd_address(k, vma, at, None).await;
    }
}

/// What the PTEs take from the PMD.
#[derive(Clone, Copy)]
struct Bits {
    page: Pfn,
    write: bool,
    young: bool,
    dirty: bool,
    soft_dirty: bool,
    uffd_wp: bool,
    anon_exclusive: bool,
}

/// `split_huge_pmd_locked()`.
async fn split_huge_pmd_locked(k: &Cpu, vma: VmaId, p: PmdPtr, freeze: Option<Pfn>) {
    let pmd = k.pmdp_get(p);
    let anonymous = k.s().w.vmas[vma].anonymous() || is_vm_hugetlb_page(k, vma);
    match k.entries().pmd_kind(pmd) {
        PmdKind::Migration(_) if !anonymous && freeze.is_none() => split_file_pmd(k, p).await,
        PmdKind::Huge if !anonymous && freeze.is_none_or(|folio| folio == pmd_folio(k, pmd)) => {
            split_file_pmd(k, p).await
        }
        _ if !anonymous => {}
        PmdKind::Huge if freeze.is_none() && is_huge_zero_pmd(k, pmd) => split_huge_zero_page_pmd(k, vma, p).await,
        PmdKind::Migration(_) if freeze.is_none() => split_migration(k, p).await,
        PmdKind::Huge if freeze.is_none_or(|folio| folio == pmd_folio(k, pmd)) => {
            split_present(k, vma, p, freeze.is_some()).await;
        }
        _ => {}
    }
}

/// `__split_huge_pmd_locked()` of a migration entry.
async fn split_migration(k: &Cpu, p: PmdPtr) {
    let ec = k.entries();
    let old = ec.pmd_as_pte(k.pmdp_get(p));
    let entry = k.pte_to_swp_entry(old);
    let bits = Bits {
        page: k.swp_offset_pfn(entry),
        write: ec.is_writable_migration_entry(entry),
        young: ec.is_migration_entry_young(entry),
        dirty: ec.is_migration_entry_dirty(entry),
        soft_dirty: k.pte_swp_soft_dirty(old) && !k.has(Defect::T1),
        uffd_wp: k.pte_swp_uffd_wp(old) && !k.has(Defect::T1),
        anon_exclusive: !ec.is_writable_migration_entry(entry) && !ec.is_readable_migration_entry(entry),
    };
    populate_migration(k, p, bits).await;
}

/// `__split_huge_pmd_locked()` of a present huge page: invalid first, so that no CPU has a huge and a small translation
/// of one address.
async fn split_present(k: &Cpu, vma: VmaId, p: PmdPtr, mut freeze: bool) {
    let arch = k.arch();
    let old = arch.pmd_leaf(k.pmdp_invalidate(p).await);
    let folio = k.page_folio(k.pte_pfn(old));
    if k.pte_dirty(old) {
        k.folio_mark_dirty(folio);
    }
    let anon_exclusive = k.page_anon_exclusive(folio);
    if freeze && anon_exclusive && !k.folio_try_share_anon_rmap_pte(folio) {
        freeze = false;
    }
    let pages = k.folio_nr_pages(folio);
    let bits = Bits {
        page: folio,
        write: k.pte_write(old),
        young: k.pte_young(old),
        dirty: k.pte_dirty(old),
        soft_dirty: k.pte_soft_dirty(old),
        uffd_wp: k.pte_uffd_wp(old),
        anon_exclusive,
    };
    if freeze {
        populate_migration(k, p, bits).await;
        k.folio_remove_rmap_pmd(folio);
        k.munlock_vma_folio(folio, vma);
        k.folio_put(folio);
        return;
    }
    k.folio_ref_add(folio, pages as i32 - 1);
    for page in folio..folio + pages {
        k.folio_add_anon_rmap_pte(page, anon_exclusive && (page == folio || !k.has(Defect::T4)));
    }
    let prot = k.s().w.page_prot(vma);
    let mut entry = arch.pfn_pte(u64::from(folio), prot);
    if bits.write {
        entry = arch.pte_mkwrite(entry);
    }
    if !bits.young {
        entry = arch.pte_mkold(entry);
    }
    if bits.dirty {
        entry = arch.pte_mkdirty(entry);
    }
    // pte_mkdirty() sets soft-dirty on x86-64, as it does in the kernel.
    if bits.soft_dirty {
        entry = arch.pte_mksoft_dirty(entry);
    }
    if bits.uffd_wp {
        entry = arch.pte_mkuffd_wp(entry);
    }
    k.site(Site::PmdPopulate).await;
    {
        let s = &mut *k.s();
        let table = withdraw(s, p);
        s.pmd_populate_with(k.id, p, table, |n| arch.pte_advance_pfn(entry, u64::from(n)));
    }
    k.folio_remove_rmap_pmd(folio);
    // Reclaim will see whether all of it is still mapped here.
    k.munlock_vma_folio(folio, vma);
}

/// `pgtable_trans_huge_withdraw()`. There always is one: whoever sets a huge PMD leaves a table.
pub(super) fn withdraw(s: &mut crate::sched::Sim, p: PmdPtr) -> u32 {
    s.w.tables.withdraw(p.table).unwrap_or_else(|| s.w.tables.alloc(p.mm, 0))
}

async fn populate_migration(k: &Cpu, p: PmdPtr, bits: Bits) {
    let (arch, ec) = (k.arch(), k.entries());
    let kind = MigrationKind::of(bits.write, bits.anon_exclusive);
    k.site(Site::PmdPopulate).await;
    let s = &mut *k.s();
    let table = withdraw(s, p);
    s.pmd_populate_with(k.id, p, table, |n| {
        let mut entry = ec.make_migration_entry(u64::from(bits.page + n), kind);
        if bits.young {
            entry = ec.make_migration_entry_young(entry);
        }
        if bits.dirty {
            entry = ec.make_migration_entry_dirty(entry);
        }
        let mut pte = arch.swp_entry_to_pte(entry);
        if bits.soft_dirty {
            pte = arch.pte_swp_mksoft_dirty(pte);
        }
        if bits.uffd_wp {
            pte = arch.pte_swp_mkuffd_wp(pte);
        }
        pte
    });
}

/// `can_split_folio()` with one reference of the caller: nobody else holds it.
fn can_split_folio(k: &Cpu, folio: Pfn) -> bool {
    let extra_pins = k.s().w.mem.cache_refs(folio);
    k.folio_mapcount(folio) == k.folio_ref_count(folio) - extra_pins - 1
}

/// `split_folio()`, `split_huge_page_to_list_to_order()` to order 0, of a folio outside the swap cache. The
/// caller holds its lock and one reference; both stay with page 0. True when it is split. When the caller has taken the
/// folio off the LRU, the other pages stay off it, each with one reference more, as on the list that the kernel passes.
pub async fn split_folio(k: &Cpu, folio: Pfn) -> bool {
    split_folio_at(k, folio, folio).await
}

/// `split_huge_page()`: the same, where lock and reference stay with one of the pages.
pub async fn split_folio_at(k: &Cpu, folio: Pfn, keep: Pfn) -> bool {
    k.assert_folio_locked(folio);
    if let Some(file) = k.folio(folio).file() {
        return split_file_folio(k, folio, file, keep).await;
    }
    let Some(av) = get_anon_vma(k, folio) else { return false };
    let root = k.s().w.anon_vmas[av].root;
    k.lock(Lock::AnonVmaWrite(root)).await;
    let mut split = false;
    if can_split_folio(k, folio) {
        k.site(Site::SplitUnmap).await;
        // unmap_folio()
        try_to_split_and_migrate(k, folio).await;
        k.site(Site::SplitFreeze).await;
        split = k.folio_ref_count(folio) == 1 && !k.folio_mapped(folio);
        if split {
            split_frozen(k, folio, keep).await;
        } else {
            remove_migration_ptes_locked(k, folio).await;
        }
    }
    k.unlock(Lock::AnonVmaWrite(root));
    put_anon_vma(k, Some(av));
    let f = k.folio(folio);
    k.note(if split { Note::FolioSplit } else { Note::NotSplit }, Some(folio), f.refcount as u32, f.mapcount as u32);
    split
}

/// `__split_huge_page()`: nobody but the caller refers to the folio.
async fn split_frozen(k: &Cpu, folio: Pfn, keep: Pfn) {
    // By the caller: anybody else who isolates it holds a reference.
    let isolated = !k.folio_test(folio, Flags::LRU);
    let pages = k.folio_nr_pages(folio);
    k.folio_dissolve(folio);
    if isolated {
        for tail in folio + 1..folio + pages {
            k.folio_get(tail);
        }
    }
    // remap_page()
    for page in folio..folio + pages {
        remove_migration_ptes_locked(k, page).await;
    }
    for page in (folio..folio + pages).filter(|page| *page != keep) {
        if page == folio {
            k.folio_unlock(page)
        } else {
            k.folio_unlock_many(page)
        }
        k.folio_put(page);
    }
}

/// The `split` op: `split_huge_pages_pid()` of one page (`/sys/kernel/debug/split_huge_pages`).
pub async fn split(k: &Cpu, mm: u8, vpn: u32) {
    let Some(folio) = super::rmap::mapped_folio(k, mm, vpn) else { return };
    if !k.folio_test_large(folio) || !k.folio_try_get(folio) {
        return;
    }
    if k.trylock(Lock::Folio(folio)).await {
        if k.folio_test_large(folio) && k.folio(folio).order != 0 {
            split_folio(k, folio).await;
        }
        k.folio_unlock(folio);
    }
    k.folio_put(folio);
}

/// `deferred_split_scan()`: folios of which only a part is mapped are split, so that the rest can be freed.
pub async fn deferred_split_scan(k: &Cpu) {
    let mut left = k.s().w.mem.deferred_split.len();
    while left > 0 {
        left -= 1;
        k.site(Site::DeferredSplit).await;
        let next = {
            let s = &mut *k.s();
            if s.w.mem.deferred_split.is_empty() { None } else { Some(s.w.mem.deferred_split.remove(0)) }
        };
        let Some(folio) = next else { return };
        if !k.folio_try_get(folio) {
            continue;
        }
        // It is on a list of this scan's own now; what is not split goes back to the queue.
        let mut split = false;
        if k.trylock(Lock::Folio(folio)).await {
            split = k.folio(folio).order != 0 && split_folio(k, folio).await;
            k.folio_unlock(folio);
        }
        {
            let s = &mut *k.s();
            let f = &s.w.mem.folios[folio as usize];
            let again = !split && f.order != 0 && f.flags.has(Flags::PARTIALLY_MAPPED);
            if again && !s.w.mem.deferred_split.contains(&folio) {
                s.w.mem.deferred_split.push(folio);
            }
        }
        k.folio_put(folio);
    }
}
