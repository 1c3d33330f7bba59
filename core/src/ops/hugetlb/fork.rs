//! Fork of hugetlb memory.

use super::migrate::readable_migration_pmd;
use super::reserve::{alloc_hugetlb_folio, hugetlb_vma_lock_read, hugetlb_vma_unlock_read, restore_reserve_on_error};
use super::share::huge_pte_alloc;
use super::uffd::huge_marker;
use super::{copy_user_large_folio, make_huge_pte};
use crate::arch::{Pmd, Pte};
use crate::config::Defect;
use crate::entry::{EntryKind, MigrationKind, PTE_MARKER_POISONED, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::ops::huge::pmd_folio;
use crate::phys::{Flags, HpageFlags, Pfn};
use crate::sched::{Cpu, Lock};
use crate::trace::Note;

/// `copy_hugetlb_page_range()`. False when there is no page for the copy of a folio that may be pinned.
pub async fn copy_hugetlb_page_range(k: &Cpu, src: VmaId, dst: VmaId, start: u32, end: u32) -> bool {
    let parent = k.s().w.vmas[src].mm;
    let cow = !k.s().w.vmas[src].shared();
    if !cow {
        hugetlb_vma_lock_read(k, src).await;
    }
    let mut copied = true;
    for vpn in (start..end).step_by(k.config().geometry.ptrs() as usize) {
        if let Some(p) = k.pmd_offset(parent, vpn)
            && !copy_hugetlb_page(k, dst, p).await
        {
            copied = false;
            break;
        }
    }
    if !cow {
        hugetlb_vma_unlock_read(k, src);
    }
    copied
}

/// The body of the loop.
async fn copy_hugetlb_page(k: &Cpu, dst_vma: VmaId, src: PmdPtr) -> bool {
    let arch = k.arch();
    let (cow, protects) = {
        let s = k.s();
        let v = &s.w.vmas[dst_vma];
        (!v.shared(), v.uffd_wp())
    };
    let dst = huge_pte_alloc(k, dst_vma, src.vpn).await;
    // If the page tables are shared, there is nothing to do.
    if k.s().w.tables.info[dst.table as usize].pts > 0 {
        return true;
    }
    lock_both(k, src, dst).await;
    loop {
        let entry = k.pmdp_get(src);
        match k.entries().pmd_kind(entry) {
            PmdKind::Huge => {}
            PmdKind::Migration(kind) => {
                let share = cow && kind != EntryKind::MigrationRead;
                copy_migration_entry(k, dst_vma, [src, dst], entry, share).await;
                break;
            }
            PmdKind::Marker(_) => {
                copy_huge_marker(k, dst_vma, dst, entry).await;
                break;
            }
            _ => break,
        }
        let folio = pmd_folio(k, entry);
        k.folio_get(folio);
        if !k.folio(folio).anon() {
            k.hugetlb_add_file_rmap(folio);
        } else if !k.folio_try_dup_anon_rmap_pmd(folio) {
            // It may be pinned, and the page stays the parent's.
            unlock_both(k, src, dst);
            let new = alloc_copy(k, dst_vma, src.vpn, folio).await;
            k.folio_put(folio);
            let Some(new) = new else { return false };
            lock_both(k, src, dst).await;
            if k.pmdp_get(src) != entry {
                restore_reserve_on_error(k, dst_vma, src.vpn, new);
                k.folio_put(new);
                continue;
            }
            // hugetlb_install_folio()
            k.hugetlb_add_new_anon_rmap(new, dst_vma, dst.vpn);
            k.hpage_set(new, HpageFlags::MIGRATABLE);
            let mut leaf = make_huge_pte(k, dst_vma, new, true);
            if protects && k.pte_uffd_wp(arch.pmd_leaf(entry)) && !k.has(Defect::H10) {
                leaf = arch.pte_mkuffd_wp(leaf);
            }
            k.set_pmd_at(dst, arch.pte_mkhuge(leaf)).await;
            break;
        }
        let mut copy = arch.pmd_leaf(entry);
        if cow {
            k.pmdp_update(src, |pte| arch.pte_wrprotect(pte)).await;
            copy = arch.pte_wrprotect(copy);
        }
        if !protects {
            copy = arch.pte_clear_uffd_wp(copy);
        }
        k.set_pmd_at(dst, arch.pte_mkhuge(copy)).await;
        break;
    }
    unlock_both(k, src, dst);
    true
}

/// The branch for a migration entry: a page that is shared from now on is nobody's to write.
async fn copy_migration_entry(k: &Cpu, dst_vma: VmaId, [src, dst]: [PmdPtr; 2], entry: Pmd, share: bool) {
    let mut copy = entry;
    if share {
        copy = readable_migration_pmd(k, entry, MigrationKind::Read);
        k.set_pmd_at(src, copy).await;
    }
    let protects = k.s().w.vmas[dst_vma].uffd_wp() && !k.has(Defect::H10);
    if !protects {
        copy = Pmd(k.arch().pte_swp_clear_uffd_wp(Pte(copy.0)).0);
    }
    k.set_pmd_at(dst, copy).await;
}

/// The branch for a marker, with `copy_pte_marker()`: poison goes to the child, write protection only where the child is registered
/// for it.
async fn copy_huge_marker(k: &Cpu, dst_vma: VmaId, dst: PmdPtr, entry: Pmd) {
    let ec = k.entries();
    let pte = ec.pmd_as_pte(entry);
    let protects = k.s().w.vmas[dst_vma].uffd_wp();
    if ec.is_uffd_wp_note(pte) {
        if protects {
            k.set_pmd_at(dst, entry).await;
        }
        return;
    }
    let poison = ec.pte_marker_get(k.pte_to_swp_entry(pte)) & PTE_MARKER_POISONED;
    if poison != 0 {
        k.set_pmd_at(dst, huge_marker(k, poison)).await;
    }
}

/// A copy of a folio for the child. `None` when there is no page for it.
async fn alloc_copy(k: &Cpu, dst_vma: VmaId, vpn: u32, folio: Pfn) -> Option<Pfn> {
    let new = alloc_hugetlb_folio(k, dst_vma, vpn, false).await?;
    copy_user_large_folio(k, new, folio);
    k.folio_set(new, Flags::UPTODATE);
    k.note(Note::PinnedCopy, Some(folio), new, 0);
    Some(new)
}

async fn lock_both(k: &Cpu, src: PmdPtr, dst: PmdPtr) {
    k.pmd_lock(dst).await;
    k.lock(Lock::PmdNested(src.table)).await;
}

fn unlock_both(k: &Cpu, src: PmdPtr, dst: PmdPtr) {
    k.unlock(Lock::PmdNested(src.table));
    k.pmd_unlock(dst);
}
