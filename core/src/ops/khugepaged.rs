//! `mm/khugepaged.c`: small pages of anonymous memory become one huge page.
//!
//! Left out: the scan over all address spaces that decides when `khugepaged` comes by, NUMA nodes, memory errors while
//! the pages are copied. Files are in
//! [`super::khugepaged_file`].

use super::khugepaged_file::collapse_scan_file;
use super::process::{mmget, mmput};
use super::retract::collapsible_file;
use super::swap::do_swap_page;
use super::swap_cache::free_swap_cache;
use super::task_mmu::pte_uffd_wp_any;
use super::vma_lock::vma_start_write;
use super::vmf::{FaultResult, VmFault};
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{PT_PFN_BASE, PmdPtr, PtePtr, TableId, Thp, VmaId};
use crate::observe::{Backing, Outcome};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;
use arrayvec::ArrayVec;

/// Who collapses (`struct collapse_control`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// `khugepaged`: only where the policy wants it, and only what is worth it.
    Khugepaged,
    /// `MADV_COLLAPSE`: wherever it is not forbidden.
    Madvise,
}

/// `enum scan_result`, as far as callers tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scan {
    Succeed,
    /// `SCAN_PMD_MAPPED`: a huge page is there already.
    PmdMapped,
    /// Something about the range: not now, or not at all.
    Fail,
    /// Somebody else is at work on a page, or holds it.
    Busy,
    /// `SCAN_ALLOC_HUGE_PAGE_FAIL`.
    NoMem,
    /// `SCAN_PTE_MAPPED_HUGEPAGE`: the page cache has a huge folio there, which may be mapped by PTEs.
    PteMappedHugepage,
}

/// Large folios of at least four pages that one table of PTEs can map.
const MAX_LARGE: usize = 128;
type LargeFolios = ArrayVec<Pfn, MAX_LARGE>;

/// `madvise_collapse()` of every part of the range that a PMD can map.
pub async fn madvise_collapse(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    let ptrs = k.config().geometry.ptrs();
    let mut outcome = Outcome::Done;
    let mut at = start.next_multiple_of(ptrs);
    while at + ptrs <= end {
        match collapse_pmd(k, mm, at, By::Madvise).await {
            Scan::Succeed | Scan::PmdMapped => {}
            Scan::Fail | Scan::PteMappedHugepage => outcome = Outcome::Invalid,
            Scan::Busy => outcome = Outcome::Busy,
            Scan::NoMem => return Outcome::NoMem,
        }
        at += ptrs;
    }
    outcome
}

/// The `khugepaged` op: `khugepaged_scan_mm_slot()` comes to the part of an address space around a page.
pub async fn khugepaged(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    let got = mmget(&mut k.s(), k.id, mm, false);
    if !got {
        return Outcome::Skipped;
    }
    let ptrs = k.config().geometry.ptrs();
    let mut at = start & !(ptrs - 1);
    while at < end {
        collapse_pmd(k, mm, at, By::Khugepaged).await;
        at += ptrs;
    }
    mmput(k, mm).await;
    Outcome::Done
}

/// `hpage_collapse_scan_pmd()`, and `collapse_huge_page()` when that finds nothing in the way.
async fn collapse_pmd(k: &Cpu, mm: u8, haddr: u32, by: By) -> Scan {
    k.lock(Lock::MmapRead(mm)).await;
    if let Some(start) = collapsible_file(k, mm, haddr, by) {
        k.unlock(Lock::MmapRead(mm));
        let result = collapse_scan_file(k, mm, haddr, start, by).await;
        let kind = if result == Scan::Succeed { Note::Collapsed } else { Note::NotCollapsed };
        k.note(kind, None, haddr, result as u32);
        return result;
    }
    k.site(Site::CollapseScan).await;
    let scanned = match revalidate(k, mm, haddr, by) {
        Some(vma) => scan_pmd(k, vma, haddr, by).await,
        None => Err(Scan::Fail),
    };
    k.unlock(Lock::MmapRead(mm));
    let result = match scanned {
        Ok(unmapped) => collapse_huge_page(k, mm, haddr, unmapped, by).await,
        Err(result) => result,
    };
    let kind = if result == Scan::Succeed { Note::Collapsed } else { Note::NotCollapsed };
    k.note(kind, None, haddr, result as u32);
    result
}

/// `hugepage_vma_revalidate()`: the VMA, if a huge page may be there.
fn revalidate(k: &Cpu, mm: u8, haddr: u32, by: By) -> Option<VmaId> {
    let s = k.s();
    let vma = s.w.vma_lookup(mm, haddr)?;
    let v = &s.w.vmas[vma];
    let allowed = if by == By::Khugepaged { v.thp == Thp::Huge } else { v.thp != Thp::Never };
    let anon = v.backing == Backing::Anon;
    let inside = v.start <= haddr && haddr + s.w.geometry().ptrs() <= v.end;
    (allowed && anon && inside).then_some(vma)
}

/// `khugepaged_max_ptes_swap`: an eighth of the table.
pub(super) fn max_ptes_swap(k: &Cpu) -> u32 {
    k.config().geometry.ptrs() / 8
}

/// `khugepaged_max_ptes_shared`: half of the table.
fn max_ptes_shared(k: &Cpu) -> u32 {
    k.config().geometry.ptrs() / 2
}

/// What is counted while a table is looked at.
#[derive(Clone, Copy, Default)]
struct Tally {
    none_or_zero: u32,
    unmapped: u32,
    shared: u32,
    referenced: u32,
    writable: bool,
}

/// The loop of `hpage_collapse_scan_pmd()`. `khugepaged_max_ptes_none` is its default, all but one. The number of
/// entries that have to be faulted in first, or why not.
async fn scan_pmd(k: &Cpu, vma: VmaId, haddr: u32, by: By) -> Result<u32, Scan> {
    let (mm, armed, ptrs) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].uffd.armed(), s.w.geometry().ptrs())
    };
    find_pmd(k, mm, haddr)?;
    let Some(first) = k.pte_offset_map_lock(mm, haddr).await else { return Err(Scan::Fail) };
    let (arch, ec) = (k.arch(), k.entries());
    let mut t = Tally::default();
    let mut result = Ok(());
    for i in 0..ptrs {
        let pte = k.ptep_get(PtePtr { index: first.index + i, vpn: haddr + i, ..first });
        if ec.is_swap_pte(pte) {
            t.unmapped += 1;
            let many = by == By::Khugepaged && t.unmapped > max_ptes_swap(k);
            if many || pte_uffd_wp_any(k, pte) {
                result = Err(Scan::Fail);
            }
        } else if !arch.pte_present(pte) || arch.pte_pfn(pte) == u64::from(ZERO_PFN) {
            t.none_or_zero += 1;
            if armed || by == By::Khugepaged && t.none_or_zero >= ptrs {
                result = Err(Scan::Fail);
            }
        } else {
            result = scan_page(k, pte, by, &mut t);
        }
        if result.is_err() {
            break;
        }
    }
    k.pte_unmap_unlock(first);
    result?;
    let idle = t.referenced == 0 || t.unmapped != 0 && t.referenced < ptrs / 2;
    if !t.writable || by == By::Khugepaged && idle {
        return Err(Scan::Fail);
    }
    Ok(t.unmapped)
}

/// What `hpage_collapse_scan_pmd()` asks of a present page.
fn scan_page(k: &Cpu, pte: crate::arch::Pte, by: By, t: &mut Tally) -> Result<(), Scan> {
    if k.pte_uffd_wp(pte) {
        return Err(Scan::Fail);
    }
    t.writable |= k.pte_write(pte);
    let folio = k.page_folio(k.pte_pfn(pte));
    if mapped_shared(k, folio) {
        t.shared += 1;
        if by == By::Khugepaged && t.shared > max_ptes_shared(k) {
            return Err(Scan::Fail);
        }
    }
    let f = k.folio(folio);
    if !f.flags.has(Flags::LRU) || f.locked_by != 0 || !is_refcount_suitable(k, folio) {
        return Err(Scan::Busy);
    }
    t.referenced += u32::from(k.pte_young(pte) || f.flags.has(Flags::REFERENCED));
    Ok(())
}

/// `folio_likely_mapped_shared()`.
fn mapped_shared(k: &Cpu, folio: Pfn) -> bool {
    if k.folio_test_large(folio) { k.s().pages_shared(folio) } else { k.folio_mapcount(folio) > 1 }
}

/// `is_refcount_suitable()`: nothing but mappings and the swap cache refers to the folio.
pub(super) fn is_refcount_suitable(k: &Cpu, folio: Pfn) -> bool {
    k.folio_ref_count(folio) == k.folio_mapcount(folio) + k.s().w.mem.cache_refs(folio)
}

/// `find_pmd_or_thp_or_none()`: the PMD, if it points to a table.
pub(super) fn find_pmd(k: &Cpu, mm: u8, haddr: u32) -> Result<PmdPtr, Scan> {
    let p = k.pmd_offset(mm, haddr).ok_or(Scan::Fail)?;
    match k.pmd_kind(p) {
        PmdKind::Table => Ok(p),
        PmdKind::Huge => Err(Scan::PmdMapped),
        _ => Err(Scan::Fail),
    }
}

/// `collapse_huge_page()`.
async fn collapse_huge_page(k: &Cpu, mm: u8, haddr: u32, unmapped: u32, by: By) -> Scan {
    let order = k.s().pmd_order();
    let Some(folio) = k.folio_alloc_order(order) else { return Scan::NoMem };
    let swapped_in = unmapped == 0 || swapin(k, mm, haddr, by).await;
    let mut result = Scan::Fail;
    if swapped_in {
        k.site(Site::CollapseLock).await;
        k.lock(Lock::MmapWrite(mm)).await;
        if let Some(vma) = revalidate(k, mm, haddr, by).filter(|v| k.s().w.vmas[*v].anon_vma.is_some()) {
            vma_start_write(k, vma).await;
            result = match find_pmd(k, mm, haddr) {
                Ok(p) => collapse_locked(k, vma, p, folio, by).await,
                Err(result) => result,
            };
        }
        k.unlock(Lock::MmapWrite(mm));
    }
    if result != Scan::Succeed {
        k.folio_put(folio);
    }
    result
}

/// `__collapse_huge_page_swapin()`, with `mmap_lock` for reading: false when it has to be given up.
async fn swapin(k: &Cpu, mm: u8, haddr: u32, by: By) -> bool {
    let ptrs = k.config().geometry.ptrs();
    k.lock(Lock::MmapRead(mm)).await;
    let vma = revalidate(k, mm, haddr, by).filter(|_| find_pmd(k, mm, haddr).is_ok());
    let mut ok = vma.is_some();
    for vpn in haddr..haddr + ptrs {
        let (Some(vma), true) = (vma, ok) else { break };
        let Some(p) = k.pte_offset(mm, vpn) else {
            ok = false;
            break;
        };
        let orig_pte = k.ptep_get(p);
        if k.entries().is_swap_pte(orig_pte) {
            let mut vmf = VmFault { orig_pte, ..VmFault::new(k, vma, vpn, false) };
            ok = do_swap_page(k, &mut vmf).await == FaultResult::Done;
        }
    }
    k.unlock(Lock::MmapRead(mm));
    ok
}

/// The part of `collapse_huge_page()` with `mmap_lock` held for writing: the table is taken out of the page tables, its
/// pages are isolated and copied, and a huge page takes its place.
async fn collapse_locked(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn, by: By) -> Scan {
    let arch = k.arch();
    let ptrs = k.config().geometry.ptrs();
    let root = {
        let s = k.s();
        s.w.vmas[vma].anon_vma.map(|a| s.w.anon_vmas[a].root)
    };
    let Some(root) = root else { return Scan::Fail };
    k.lock(Lock::AnonVmaWrite(root)).await;
    k.mmu_notifier_invalidate_range_start(p.mm, p.vpn, p.vpn + ptrs, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    // pmdp_collapse_flush()
    let old = k.pmdp_huge_get_and_clear(p).await;
    if !k.has(Defect::T7) {
        k.flush_tlb_range(p.mm, p.vpn, p.vpn + ptrs).await;
    }
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(p.mm).await;
    let table = (arch.pmd_table_pfn(old) - PT_PFN_BASE) as TableId;
    let first = PtePtr { table, index: 0, mm: p.mm, vpn: p.vpn };
    let mut large = LargeFolios::new();
    k.lock(Lock::Pte(table)).await;
    let isolated = isolate(k, vma, first, by, &mut large).await;
    k.pte_unmap_unlock(first);
    if let Err((result, done)) = isolated {
        release_pte_pages(k, first, done, &large);
        k.pmd_lock(p).await;
        k.set_pmd_at(p, old).await;
        k.pmd_unlock(p);
        k.unlock(Lock::AnonVmaWrite(root));
        return result;
    }
    // All pages are isolated and locked: no rmap walk comes by any more.
    k.unlock(Lock::AnonVmaWrite(root));
    k.site(Site::CollapseCopy).await;
    copy(k, first, folio, &large).await;
    set_huge(k, vma, p, folio, table).await;
    Scan::Succeed
}

/// The end of `collapse_huge_page()`.
async fn set_huge(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn, table: TableId) {
    let arch = k.arch();
    k.folio_set(folio, Flags::UPTODATE);
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), s.w.vmas[vma].writable())
    };
    let mut entry = arch.pte_mkdirty(arch.pfn_pte(u64::from(folio), prot));
    if writable {
        entry = arch.pte_mkwrite(entry);
    }
    k.pmd_lock(p).await;
    k.folio_add_new_anon_rmap(folio, vma, p.vpn, true);
    k.folio_add_lru_vma(folio, vma);
    k.s().w.tables.deposit(p.table, table);
    k.set_pmd_at(p, arch.pte_mkhuge(entry)).await;
    k.pmd_unlock(p);
}

/// `__collapse_huge_page_isolate()`, with the table locked: locks the folio of every page and takes it off the LRU. On
/// failure the number of entries that were dealt with comes with the reason.
async fn isolate(k: &Cpu, vma: VmaId, first: PtePtr, by: By, large: &mut LargeFolios) -> Result<(), (Scan, u32)> {
    let arch = k.arch();
    let (armed, ptrs) = {
        let s = k.s();
        (s.w.vmas[vma].uffd.armed(), s.w.geometry().ptrs())
    };
    let mut t = Tally::default();
    for i in 0..ptrs {
        let pte = k.ptep_get(PtePtr { index: i, vpn: first.vpn + i, ..first });
        if arch.pte_none(pte) || arch.pte_present(pte) && arch.pte_pfn(pte) == u64::from(ZERO_PFN) {
            t.none_or_zero += 1;
            if armed || by == By::Khugepaged && t.none_or_zero >= ptrs {
                return Err((Scan::Fail, i));
            }
            continue;
        }
        if !arch.pte_present(pte) || k.pte_uffd_wp(pte) {
            return Err((Scan::Fail, i));
        }
        let folio = k.page_folio(k.pte_pfn(pte));
        t.shared += u32::from(mapped_shared(k, folio));
        if by == By::Khugepaged && t.shared > max_ptes_shared(k) {
            return Err((Scan::Fail, i));
        }
        k.site(Site::CollapseIsolate).await;
        let known = large.contains(&folio);
        if !known && !isolate_folio(k, folio) {
            return Err((Scan::Busy, i));
        }
        if !known && k.folio_test_large(folio) && large.try_push(folio).is_err() {
            return Err((Scan::Busy, i));
        }
        t.referenced += u32::from(k.pte_young(pte) || k.folio_test(folio, Flags::REFERENCED));
        t.writable |= k.pte_write(pte);
    }
    if !t.writable || by == By::Khugepaged && t.referenced == 0 {
        return Err((Scan::Fail, ptrs));
    }
    Ok(())
}

/// Locks one folio and takes it off the LRU, if nobody else refers to it.
fn isolate_folio(k: &Cpu, folio: Pfn) -> bool {
    if !k.folio_trylock_many(folio) {
        return false;
    }
    if is_refcount_suitable(k, folio) && k.folio_isolate_lru(folio) {
        return true;
    }
    k.folio_unlock_many(folio);
    false
}

/// `release_pte_pages()` of the first `done` entries.
fn release_pte_pages(k: &Cpu, first: PtePtr, done: u32, large: &LargeFolios) {
    for i in 0..done {
        let pte = k.ptep_get(PtePtr { index: i, vpn: first.vpn + i, ..first });
        let page = if k.arch().pte_present(pte) { k.pte_pfn(pte) } else { ZERO_PFN };
        if page != ZERO_PFN && !k.folio_test_large(page) {
            release_pte_folio(k, page);
        }
    }
    large.iter().for_each(|folio| release_pte_folio(k, *folio));
}

/// `release_pte_folio()`.
fn release_pte_folio(k: &Cpu, folio: Pfn) {
    k.folio_unlock_many(folio);
    k.folio_putback_lru(folio);
}

/// `__collapse_huge_page_copy()`: copies every page, then lets go of the old ones.
async fn copy(k: &Cpu, first: PtePtr, folio: Pfn, large: &LargeFolios) {
    let arch = k.arch();
    let ptrs = k.config().geometry.ptrs();
    let at = |i| PtePtr { index: i, vpn: first.vpn + i, ..first };
    for i in 0..ptrs {
        let pte = k.ptep_get(at(i));
        let src = if arch.pte_none(pte) { ZERO_PFN } else { k.pte_pfn(pte) };
        k.s().copy_page(src, folio + i);
    }
    for i in 0..ptrs {
        let pte = k.ptep_get(at(i));
        let src = if arch.pte_none(pte) { ZERO_PFN } else { k.pte_pfn(pte) };
        if src == ZERO_PFN {
            k.s().w.mms[first.mm as usize].anon_pages += 1;
        }
        if arch.pte_none(pte) {
            continue;
        }
        let small = src != ZERO_PFN && !k.folio_test_large(src);
        if small {
            release_pte_folio(k, src);
        }
        k.lock(Lock::Pte(first.table)).await;
        k.ptep_get_and_clear(at(i)).await;
        k.folio_remove_rmap_pte(src);
        k.munlock_page_at(src, first.mm, first.vpn + i);
        k.pte_unmap_unlock(first);
        if src != ZERO_PFN {
            let old = k.page_folio(src);
            free_swap_cache(k, old).await;
            k.folio_put(old);
        }
    }
    for src in large {
        k.folio_unlock_many(*src);
        k.folio_putback_lru(*src);
    }
}
