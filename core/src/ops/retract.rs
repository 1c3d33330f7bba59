//! `mm/khugepaged.c`: page tables that are not needed any more, because a huge folio can be mapped by a PMD.
//!
//! `retract_page_tables()` finds them empty, as the folio lock keeps faults from filling them, and takes them away, in one
//! of two ways: with `mmap_lock` for writing, if that can be had at once, or (since 6.6) under the locks of PMD and table
//! alone, whoever is at work in the address space. Then others may be about to lock the table, or read it without its lock;
//! so it is freed after they have let go of it (RCU), and they find out that it hangs below no PMD any more.
//! `collapse_pte_mapped_thp()` does the same for one address space, where PTEs map the huge folio.

use super::filemap::{filemap_get_entry, lock_folio_at};
use super::huge_file::{folio_test_pmd_mappable, set_huge_pmd};
use super::khugepaged::{By, Scan, find_pmd};
use super::vma_lock::vma_try_start_write;
use crate::arch::Pte;
use crate::config::{Defect, Design};
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{Life, PmdPtr, PtePtr, TableId, Thp, VmaId};
use crate::observe::{FileId, SHMEM};
use crate::phys::{CacheEntry, Pfn};
use crate::sched::{Cpu, Lock, NotifyEvent, Sim, Site};

/// `retract_page_tables()`: the tables that mapped the pages of a huge folio go, so that it can be mapped by PMDs.
pub(super) async fn retract_page_tables(k: &Cpu, file: FileId, start: u32) {
    let with_mmap_lock = k.uses(Design::RetractWithMmapLock);
    let lock = if with_mmap_lock { Lock::IMmapWrite(file) } else { Lock::IMmapRead(file) };
    k.lock(lock).await;
    let vma_at = |k: &Cpu, i: usize| k.s().w.i_mmaps[usize::from(file)].vmas.get(i).copied();
    let mut i = 0;
    while let Some(vma) = vma_at(k, i) {
        i += 1;
        let Some((mm, p)) = retractable(k, vma, start) else { continue };
        if with_mmap_lock {
            retract_with_mmap_lock(k, vma, mm, p).await;
        } else {
            retract_without_mmap_lock(k, vma, mm, p).await;
        }
    }
    k.unlock(lock);
}

/// Where a mapping shows the huge folio as a whole, if it has a table there. A private mapping that was written to keeps
/// its table, as it would be split again soon.
fn retractable(k: &Cpu, vma: VmaId, start: u32) -> Option<(u8, PmdPtr)> {
    let unasked = k.has(Defect::C2);
    let (mm, addr, aligned) = {
        let s = k.s();
        let (v, ptrs) = (&s.w.vmas[vma], s.w.geometry().ptrs());
        let inside = v.pgoff <= start && start + ptrs <= v.pgoff + (v.end - v.start);
        if v.anon_vma.is_some() && !unasked || !inside {
            return None;
        }
        let addr = v.start + (start - v.pgoff);
        (v.mm, addr, addr.is_multiple_of(ptrs))
    };
    let p = find_pmd(k, mm, addr).ok().filter(|_| aligned)?;
    // hpage_collapse_test_exit()
    (k.s().w.mms[mm as usize].life != Life::Exiting).then_some((mm, p))
}

/// One mapping since 6.6: under the PMD lock and the table's, whoever has `mmap_lock`. The huge folio is still locked, so
/// that no fault fills the table. But userfaultfd may, with anonymous pages or with notes; so the VMA is asked once more.
async fn retract_without_mmap_lock(k: &Cpu, vma: VmaId, mm: u8, p: PmdPtr) {
    // Where userfaultfd write-protects there may be notes.
    let noted = k.s().w.vmas[vma].uffd_wp();
    if noted {
        return;
    }
    let ptrs = k.config().geometry.ptrs();
    k.site(Site::RetractTable).await;
    k.mmu_notifier_invalidate_range_start(mm, p.vpn, p.vpn + ptrs, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let mut retracted = None;
    // check_pmd_state(), which came when MADV_DONTNEED began to free tables (6.14).
    if let Some(table) = pmd_pgtable(k, p) {
        k.lock(Lock::Pte(table)).await;
        if may_retract(k, vma, table) {
            pmdp_collapse_flush(k, p).await;
            retracted = Some(table);
        }
        k.unlock(Lock::Pte(table));
    }
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(mm).await;
    if let Some(table) = retracted {
        pte_free_defer(k, table);
    }
}

/// What is asked under the lock of the table: the VMA, or (proposed in review) the entries themselves.
fn may_retract(k: &Cpu, vma: VmaId, table: TableId) -> bool {
    if k.has(Defect::C2) || k.has(Defect::C4) {
        return true;
    }
    let s = k.s();
    if s.w.config.uses(Design::RetractAsksEntries) {
        return (0..s.w.geometry().ptrs()).all(|i| s.w.config.arch.pte_none(Pte(s.w.tables.get(table, i))));
    }
    s.w.vmas[vma].anon_vma.is_none() && !s.w.vmas[vma].uffd_wp() && !poisoned(&s, table)
}

/// Is there a note that the contents of a page were lost, or are to count as lost? Here we differ from the kernel, which asks only
/// whether userfaultfd write-protects the mapping (N31).
fn poisoned(s: &Sim, table: TableId) -> bool {
    let entries = s.w.entries();
    let is_poison = |i| entries.kind(Pte(s.w.tables.get(table, i))) == EntryKind::MarkerPoisoned;
    !s.w.config.has(Defect::N31) && (0..s.w.geometry().ptrs()).any(is_poison)
}

/// The same up to 6.5: only when `mmap_lock` can be had for writing at once, so that nobody is in the address space.
async fn retract_with_mmap_lock(k: &Cpu, vma: VmaId, mm: u8, p: PmdPtr) {
    k.site(Site::RetractTable).await;
    // Else khugepaged_add_pte_mapped_thp(): another time.
    if !k.trylock(Lock::MmapWrite(mm)).await {
        return;
    }
    let keeps = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        v.uffd_wp() || v.anon_vma.is_some()
    };
    if !keeps && vma_try_start_write(k, vma) {
        collapse_and_free_pmd(k, p).await;
    }
    k.unlock(Lock::MmapWrite(mm));
}

/// `collapse_and_free_pmd()`: the table is freed at once, as `mmap_lock` and the locks of the reverse map are held.
async fn collapse_and_free_pmd(k: &Cpu, p: PmdPtr) {
    let ptrs = k.config().geometry.ptrs();
    k.mmu_notifier_invalidate_range_start(p.mm, p.vpn, p.vpn + ptrs, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let table = pmd_pgtable(k, p).filter(|table| !poisoned(&k.s(), *table));
    if table.is_some() {
        pmdp_collapse_flush(k, p).await;
    }
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(p.mm).await;
    if let Some(table) = table {
        k.s().w.tables.free(table);
    }
}

/// `pmd_pgtable()`, if the PMD points to a table.
fn pmd_pgtable(k: &Cpu, p: PmdPtr) -> Option<TableId> {
    let s = k.s();
    s.w.tables.next(s.w.config.arch, p.table, p.index)
}

/// `pmdp_collapse_flush()`.
async fn pmdp_collapse_flush(k: &Cpu, p: PmdPtr) {
    let ptrs = k.config().geometry.ptrs();
    k.pmdp_huge_get_and_clear(p).await;
    k.flush_tlb_range(p.mm, p.vpn, p.vpn + ptrs).await;
}

/// `pte_free_defer()`: after everybody who may be about to lock the table, or reads it without its lock, has let go of it.
fn pte_free_defer(k: &Cpu, table: TableId) {
    let at_once = k.has(Defect::C8);
    let s = &mut *k.s();
    if at_once {
        s.w.tables.free(table);
    } else {
        s.w.tables.free_defer(table);
    }
}

/// `collapse_pte_mapped_thp()`, with `mmap_lock` held: the PTEs that map pages of a huge folio go, the table with them, and
/// if asked a PMD takes their place. Anything else in the table keeps it.
pub(super) async fn collapse_pte_mapped_thp(k: &Cpu, mm: u8, haddr: u32, install_pmd: bool) -> Scan {
    let Some((vma, start)) = thp_vma_allowable(k, mm, haddr) else { return Scan::Fail };
    if find_pmd(k, mm, haddr) == Err(Scan::PmdMapped) {
        return Scan::PmdMapped;
    }
    // The table stays where userfaultfd write-protects: there may be notes.
    let noted = k.s().w.vmas[vma].uffd_wp();
    if noted {
        return Scan::Fail;
    }
    let Some(folio) = filemap_lock_folio(k, start).await else { return Scan::Fail };
    let mut result = Scan::Fail;
    if folio_test_pmd_mappable(k, folio)
        && let Some(p) = k.pmd_offset(mm, haddr)
    {
        let clear = match k.pmd_kind(p) {
            PmdKind::Table => remove_pte_mapped(k, vma, p, folio).await,
            PmdKind::None => true,
            _ => false,
        };
        if clear {
            let installed = !install_pmd || set_huge_pmd(k, vma, p, folio).await;
            result = if installed { Scan::Succeed } else { Scan::Fail };
        }
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
    result
}

/// `vma_lookup()` and `thp_vma_allowable_order()`: the mapping, and the index of its file at `haddr`.
fn thp_vma_allowable(k: &Cpu, mm: u8, haddr: u32) -> Option<(VmaId, u32)> {
    let s = k.s();
    let vma = s.w.vma_lookup(mm, haddr)?;
    let v = &s.w.vmas[vma];
    let ptrs = s.w.geometry().ptrs();
    let start = v.linear_page_index(haddr);
    let fits = v.start <= haddr && haddr + ptrs <= v.end && start.is_multiple_of(ptrs);
    (v.backing.file() == Some(SHMEM) && v.thp != Thp::Never && fits).then_some((vma, start))
}

/// The index of a `tmpfs` file that a mapping shows at `haddr`, if the range may be collapsed.
pub(super) fn collapsible_file(k: &Cpu, mm: u8, haddr: u32, by: By) -> Option<u32> {
    let (vma, start) = thp_vma_allowable(k, mm, haddr)?;
    let asked = by == By::Madvise || k.s().w.vmas[vma].thp == Thp::Huge;
    asked.then_some(start)
}

/// `filemap_lock_folio()`.
async fn filemap_lock_folio(k: &Cpu, index: u32) -> Option<Pfn> {
    let CacheEntry::Folio(folio) = filemap_get_entry(k, SHMEM, index).await else { return None };
    lock_folio_at(k, folio, SHMEM, index).await.then_some(folio)
}

/// Steps 1 to 4 of `collapse_pte_mapped_thp()`: false when something other than pages of the folio is mapped.
async fn remove_pte_mapped(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn) -> bool {
    let ptrs = k.config().geometry.ptrs();
    // step 1: check all mapped PTEs are to the right huge page
    let Some(first) = k.pte_offset_map_lock(p.mm, p.vpn).await else { return false };
    let right = (0..ptrs).all(|i| is_page_of(k, first, i, folio) != Some(false));
    k.pte_unmap_unlock(first);
    if !right {
        return false;
    }
    k.mmu_notifier_invalidate_range_start(p.mm, p.vpn, p.vpn + ptrs, NotifyEvent::Clear).await;
    // UFFDIO_COPY puts pages into a private mapping without a look at the page cache, so that the folio lock does not keep
    // it out: then the table must stay locked until it is gone.
    let private = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        v.uffd.armed() && !v.shared()
    };
    if private {
        k.pmd_lock(p).await;
    }
    k.lock(Lock::Pte(first.table)).await;
    let removed = clear_pte_mapped(k, vma, first, folio).await;
    let right = removed == Ok(());
    if !private {
        k.pte_unmap_unlock(first);
        if right {
            k.pmd_lock(p).await;
            k.lock(Lock::Pte(first.table)).await;
        }
    }
    if right {
        // step 4: remove empty page table
        pmdp_collapse_flush(k, p).await;
    }
    if private || right {
        k.pte_unmap_unlock(first);
        k.pmd_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(p.mm).await;
    if right {
        if k.uses(Design::RetractWithMmapLock) {
            k.s().w.tables.free(first.table);
        } else {
            pte_free_defer(k, first.table);
        }
    }
    right
}

/// Whether an entry maps the page of the folio that belongs there. `None`: it is empty.
fn is_page_of(k: &Cpu, first: PtePtr, i: u32, folio: Pfn) -> Option<bool> {
    let arch = k.arch();
    let pte = k.ptep_get(PtePtr { index: first.index + i, vpn: first.vpn + i, ..first });
    if arch.pte_none(pte) {
        return None;
    }
    Some(arch.pte_present(pte) && arch.pte_pfn(pte) == u64::from(folio + i))
}

/// Steps 2 and 3: clears the entries, with the table locked. An error when something else has come between.
async fn clear_pte_mapped(k: &Cpu, vma: VmaId, first: PtePtr, folio: Pfn) -> Result<(), ()> {
    let mut nr_ptes = 0;
    let mut result = Ok(());
    for i in 0..k.config().geometry.ptrs() {
        match is_page_of(k, first, i, folio) {
            None => continue,
            Some(false) => {
                result = Err(());
                break;
            }
            Some(true) => {}
        }
        // The flush is left to pmdp_collapse_flush().
        let pte = k.ptep_get_and_clear(PtePtr { index: first.index + i, vpn: first.vpn + i, ..first }).await;
        // Here we differ from the kernel, which takes every page of tmpfs for dirty (N29).
        if k.pte_dirty(pte) && !k.has(Defect::N29) {
            k.folio_mark_dirty(folio);
        }
        k.folio_remove_rmap_pte(folio + i);
        k.munlock_vma_folio(folio, vma);
        nr_ptes += 1;
    }
    if nr_ptes != 0 {
        if result.is_err() {
            k.flush_tlb_range(first.mm, 0, u32::MAX).await;
        }
        k.folio_put_refs(folio, nr_ptes);
        k.add_mm_counter(first.mm, folio, -nr_ptes);
    }
    result
}
