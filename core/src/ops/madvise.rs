//! `mm/madvise.c`: the walk over VMAs, PAGEOUT, COLD, WILLNEED, POPULATE, REMOVE, HUGEPAGE and NOHUGEPAGE. FREE is in
//! [`super::lazyfree`], guard pages in [`super::guard`].

use super::filemap::force_page_cache_readahead;
use super::guard::{is_valid_guard_vma, madvise_guard_install, madvise_guard_remove};
use super::gup::faultin_page;
use super::huge::pmd_folio;
use super::huge_zero::is_huge_zero_pmd;
use super::hugetlb::{aligned, is_vm_hugetlb_page, may_split, zap_hugetlb_page_range_single};
use super::lazyfree::madvise_free_single_vma;
use super::mmap::{find_vma_intersection, split_at_bounds, vmas_in};
use super::shmem::shmem_swapin_range;
use super::split::split_folio;
use super::swapin::read_swap_cache_async;
use super::truncate::punch_hole;
use super::uffd_events::userfaultfd_remove;
use super::vma_lock::vma_start_write;
use super::vmscan::shrink_folio;
use super::zap::{MmuGather, ZapDetails, zap_page_range_single};
use crate::config::{Defect, Design, Kernel};
use crate::entry::PmdKind;
use crate::mm::{PtePtr, Thp, VmaId};
use crate::observe::{Outcome, SHMEM};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};
use arrayvec::ArrayVec;

/// What is advised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// `MADV_DONTNEED`.
    DontNeed,
    /// `MADV_DONTNEED_LOCKED`.
    DontNeedLocked,
    /// `MADV_PAGEOUT`.
    PageOut,
    /// `MADV_FREE`.
    Free,
    /// `MADV_COLD`.
    Cold,
    /// `MADV_WILLNEED`.
    WillNeed,
    /// `MADV_GUARD_INSTALL`.
    GuardInstall,
    /// `MADV_GUARD_REMOVE`.
    GuardRemove,
}

/// `madvise_walk_vmas()`: the mapped parts of a range; `ENOMEM` afterwards when there was a hole.
pub async fn madvise(k: &Cpu, mm: u8, start: u32, end: u32, advice: Advice) -> Outcome {
    // madvise_behavior_valid()
    let guard = matches!(advice, Advice::GuardInstall | Advice::GuardRemove);
    let since_5_18 = advice == Advice::DontNeedLocked;
    if guard && !k.uses(Design::GuardMarker) || since_5_18 && k.config().kernel < Kernel::V5_19 {
        return Outcome::Invalid;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let (mut at, mut covered) = (start, 0);
    // Looked up anew each time: some advice drops the lock.
    while at < end {
        let Some((vma, from, to)) = find_vma_intersection(k, mm, at, end) else { break };
        let done = match madvise_vma_behavior(k, mm, vma, from, to, advice).await {
            Ok(done) => done,
            Err(error) => {
                k.unlock(Lock::MmapRead(mm));
                return error;
            }
        };
        // What another thread has split off meanwhile is done next.
        at = if k.has(Defect::V29) { to } else { done };
        covered += at - from;
    }
    k.unlock(Lock::MmapRead(mm));
    if covered < end - start { Outcome::NoMem } else { Outcome::Done }
}

/// `MADV_REMOVE`: punches holes into the files that the range shows, VMA by VMA, up to the first that cannot. The lock
/// is dropped while that is done, as a file's locks come before it.
pub async fn madvise_remove(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut at = start;
    let mut hole = false;
    let mut outcome = Outcome::Done;
    while at < end {
        let Some((vma, from, to)) = find_vma_intersection(k, mm, at, end) else { break };
        let (file, index) = {
            let s = k.s();
            let v = &s.w.vmas[vma];
            // vma_is_shared_maywrite(); before 6.7 it had to be writable just now.
            let maywrite = v.writable() || k.config().kernel >= Kernel::V6_12;
            (v.backing.file().filter(|_| v.shared() && maywrite && !v.locked()), v.linear_page_index(from))
        };
        hole |= from > at;
        let Some(file) = file else {
            outcome = Outcome::Invalid;
            break;
        };
        userfaultfd_remove(k, mm, vma, from, to).await;
        k.unlock(Lock::MmapRead(mm));
        punch_hole(k, file, index, index + (to - from)).await;
        k.lock(Lock::MmapRead(mm)).await;
        at = to;
    }
    k.unlock(Lock::MmapRead(mm));
    match outcome {
        Outcome::Done if hole || at < end => Outcome::NoMem,
        outcome => outcome,
    }
}

/// `hugepage_madvise()` by way of `madvise_vma_behavior()`: the mapped parts of a range become VMAs of their own, which
/// may use large folios or must not. What is there already stays as it is.
pub async fn madvise_hugepage(k: &Cpu, mm: u8, start: u32, end: u32, thp: Thp) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut covered = 0;
    let mut at = start;
    while at < end {
        let Some((vma, from, to)) = find_vma_intersection(k, mm, at, end) else { break };
        let same = k.s().w.vmas[vma].thp == thp;
        covered += to - from;
        if !same && !may_split(k, mm, from, to) {
            k.unlock(Lock::MmapWrite(mm));
            return Outcome::Invalid;
        }
        if !same {
            split_at_bounds(k, mm, from, to).await;
            for vma in vmas_in(k, mm, from, to) {
                vma_start_write(k, vma).await;
                k.s().w.vmas[vma].thp = thp;
            }
        }
        at = to;
    }
    k.unlock(Lock::MmapWrite(mm));
    if covered < end - start { Outcome::NoMem } else { Outcome::Done }
}

/// `madvise_vma_behavior()`: where it ended.
async fn madvise_vma_behavior(
    k: &Cpu,
    mm: u8,
    vma: VmaId,
    start: u32,
    end: u32,
    advice: Advice,
) -> Result<u32, Outcome> {
    let (guardable, pfnmap, locked) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (is_valid_guard_vma(v, k.config().kernel), v.backing.pfnmap(), v.locked())
    };
    match advice {
        Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => {
            return madvise_dontneed_free(k, mm, vma, start, end, advice).await;
        }
        // Refused, or without effect.
        _ if is_vm_hugetlb_page(k, vma) => return Err(Outcome::Invalid),
        // can_madv_lru_vma(), is_valid_guard_vma()
        Advice::PageOut | Advice::Cold | Advice::GuardInstall if locked => return Err(Outcome::Invalid),
        Advice::PageOut | Advice::Cold if pfnmap => return Err(Outcome::Invalid),
        Advice::GuardInstall | Advice::GuardRemove if !guardable => return Err(Outcome::Invalid),
        Advice::PageOut => madvise_pageout(k, mm, start, end).await,
        Advice::Cold => madvise_cold(k, mm, start, end).await,
        Advice::WillNeed => madvise_willneed(k, mm, vma, start, end).await,
        Advice::GuardInstall => madvise_guard_install(k, vma, start, end).await,
        Advice::GuardRemove => madvise_guard_remove(k, mm, start, end).await,
    }
    Ok(end)
}

/// `madvise_dontneed_free()`: where it ended, which is before `end` if the VMA has been split while the monitor was told.
async fn madvise_dontneed_free(
    k: &Cpu,
    mm: u8,
    vma: VmaId,
    start: u32,
    end: u32,
    advice: Advice,
) -> Result<u32, Outcome> {
    if !dontneed_free_valid_vma(k, vma, start, end, advice) {
        return Err(Outcome::Invalid);
    }
    let (mut vma, mut end) = (vma, end);
    let anonymous = k.s().w.vmas[vma].anonymous();
    if advice == Advice::Free && !anonymous && !k.has(Defect::N45) {
        // Here we differ from the kernel, which asks when the monitor has been told (N45).
        return Err(Outcome::Invalid);
    }
    if !userfaultfd_remove(k, mm, vma, start, end).await {
        vma = k.s().w.vma_lookup(mm, start).ok_or(Outcome::NoMem)?;
        if !dontneed_free_valid_vma(k, vma, start, end, advice) {
            return Err(Outcome::Invalid);
        }
        end = end.min(k.s().w.vmas[vma].end);
    }
    if advice == Advice::Free {
        if !k.s().w.vmas[vma].anonymous() {
            return Err(Outcome::Invalid);
        }
        madvise_free_single_vma(k, mm, start, end).await;
        return Ok(end);
    }
    let details = ZapDetails { keep_notes: !k.s().w.vmas[vma].anonymous(), ..ZapDetails::ALL };
    if is_vm_hugetlb_page(k, vma) {
        zap_hugetlb_page_range_single(k, vma, start, end, details).await;
    } else {
        zap_page_range_single(k, vma, start, end, details).await;
    }
    Ok(end)
}

/// `madvise_dontneed_free_valid_vma()`.
fn dontneed_free_valid_vma(k: &Cpu, vma: VmaId, start: u32, end: u32, advice: Advice) -> bool {
    // Hugetlb memory can be dropped.
    if is_vm_hugetlb_page(k, vma) {
        return advice != Advice::Free && aligned(k, start, end);
    }
    let s = k.s();
    let v = &s.w.vmas[vma];
    !v.backing.pfnmap() && (!v.locked() || advice == Advice::DontNeedLocked)
}

/// Folios isolated at once before they are reclaimed.
const BATCH: usize = 16;
type Isolated = ArrayVec<Pfn, BATCH>;

/// `madvise_pageout_page_range()`.
async fn madvise_pageout(k: &Cpu, mm: u8, start: u32, end: u32) {
    let mut tlb = MmuGather::new(k, mm);
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end).min(at + BATCH as u32);
        let mut folios = Isolated::new();
        if k.pmd_leaf(mm, at).is_some() {
            let next = k.pmd_addr_end(at, end);
            if !pageout_huge(k, mm, at, next, &mut folios).await {
                // reclaim_pages()
                for folio in folios {
                    shrink_folio(k, folio, true).await;
                }
                at = next;
                continue;
            }
        }
        madvise_cold_or_pageout_pte_range(k, &mut tlb, mm, at, next, Some(&mut folios)).await;
        // reclaim_pages()
        for folio in folios {
            shrink_folio(k, folio, true).await;
        }
        at = next;
    }
    tlb.finish(k).await;
}

/// The branch of `madvise_cold_or_pageout_pte_range()` for a huge page: true when it has been split, because only a part
/// of it is asked for, so that its PTEs are to be looked at.
async fn pageout_huge(k: &Cpu, mm: u8, start: u32, end: u32, folios: &mut ArrayVec<Pfn, BATCH>) -> bool {
    let Some(p) = k.pmd_trans_huge_lock(mm, start).await else { return true };
    let pmd = k.pmdp_get(p);
    if k.entries().pmd_kind(pmd) != PmdKind::Huge || is_huge_zero_pmd(k, pmd) {
        k.pmd_unlock(p);
        return false;
    }
    let folio = pmd_folio(k, pmd);
    // folio_likely_mapped_shared(): of a folio that is mapped by PMDs, more than one of them.
    if k.folio_mapcount(folio) != 1 {
        k.pmd_unlock(p);
        return false;
    }
    if end - start != k.config().geometry.ptrs() {
        if !k.trylock(Lock::Folio(folio)).await {
            k.pmd_unlock(p);
            return false;
        }
        k.folio_get(folio);
        k.pmd_unlock(p);
        let split = split_folio(k, folio).await;
        k.folio_unlock(folio);
        k.folio_put(folio);
        return split;
    }
    k.folio_clear(folio, Flags::REFERENCED);
    k.site(Site::MadvisePageout).await;
    if !k.folio_test(folio, Flags::UNEVICTABLE) && k.folio_isolate_lru(folio) {
        folios.push(folio);
    }
    k.pmd_unlock(p);
    false
}

/// `madvise_cold_page_range()`. Huge pages are left as they are.
async fn madvise_cold(k: &Cpu, mm: u8, start: u32, end: u32) {
    let mut tlb = MmuGather::new(k, mm);
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        madvise_cold_or_pageout_pte_range(k, &mut tlb, mm, at, next, None).await;
        at = next;
    }
    tlb.finish(k).await;
}

/// `madvise_cold_or_pageout_pte_range()`: isolates what is mapped once, or (without `pageout`) makes it old. A large
/// folio is split first, as the range seldom covers all of it (the kernel takes it whole when it does).
async fn madvise_cold_or_pageout_pte_range(
    k: &Cpu,
    tlb: &mut MmuGather,
    mm: u8,
    start: u32,
    end: u32,
    mut pageout: Option<&mut Isolated>,
) {
    let arch = k.arch();
    let Some(mut first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - first.vpn), vpn, ..first };
        let pte = k.ptep_get(p);
        if !arch.pte_present(pte) {
            continue;
        }
        let mut folio = k.page_folio(k.vm_normal_page(pte));
        if k.folio_test_large(folio) {
            let shared = k.s().pages_shared(folio);
            if shared || !k.trylock(Lock::Folio(folio)).await {
                continue;
            }
            k.folio_get(folio);
            k.pte_unmap_unlock(first);
            let split = split_folio(k, folio).await;
            k.folio_unlock(folio);
            k.folio_put(folio);
            let Some(again) = k.pte_offset_map_lock(mm, vpn).await else { return };
            first = again;
            let pte = k.ptep_get(again);
            if !split || !arch.pte_present(pte) {
                continue;
            }
            folio = k.page_folio(k.vm_normal_page(pte));
        }
        if folio == ZERO_PFN
            || k.folio_test_large(folio)
            || k.folio_mapcount(folio) != 1
            || !k.folio_test(folio, Flags::LRU)
        {
            continue;
        }
        if pageout.is_none() && k.pte_young(pte) {
            // clear_young_dirty_ptes(CYDP_CLEAR_YOUNG)
            k.ptep_update(p, Site::ReferencedEntry, |pte| arch.pte_mkold(pte)).await;
            tlb.range(vpn);
        }
        k.folio_clear(folio, Flags::REFERENCED);
        k.site(Site::MadvisePageout).await;
        match &mut pageout {
            Some(folios) if !k.folio_test(folio, Flags::UNEVICTABLE) && k.folio_isolate_lru(folio) => {
                folios.push(folio);
            }
            Some(_) => {}
            // folio_deactivate()
            None => k.folio_clear(folio, Flags::ACTIVE),
        }
    }
    k.pte_unmap_unlock(first);
}

/// `swapin_walk_pmd_entry()`: reads what is swapped out into the swap cache, and maps nothing.
async fn madvise_willneed(k: &Cpu, mm: u8, vma: VmaId, start: u32, end: u32) {
    let ec = k.entries();
    let shown = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        v.backing.file().map(|file| (file, v.linear_page_index(start)))
    };
    if let Some((file, index)) = shown {
        let to = index + (end - start);
        if file == SHMEM {
            return shmem_swapin_range(k, index, to).await;
        }
        // vfs_fadvise(POSIX_FADV_WILLNEED), without mmap_lock.
        k.unlock(Lock::MmapRead(mm));
        force_page_cache_readahead(k, file, index, to).await;
        return k.lock(Lock::MmapRead(mm)).await;
    }
    for vpn in start..end {
        let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { continue };
        let pte = k.ptep_get(p);
        let entry = ec.pte_has_swap_entry(pte).then(|| k.pte_to_swp_entry(pte));
        k.pte_unmap_unlock(p);
        let Some(entry) = entry.filter(|e| !ec.non_swap_entry(*e)) else { continue };
        if let Some(folio) = read_swap_cache_async(k, k.swp_slot(entry)).await {
            k.folio_put(folio);
        }
    }
}

/// `madvise_populate()`: faults every page in, as loads or as stores would, up to the first that cannot be.
pub async fn madvise_populate(k: &Cpu, mm: u8, start: u32, end: u32, write: bool) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut outcome = Outcome::Done;
    for vpn in start..end {
        outcome = populate_page(k, mm, vpn, write).await;
        if outcome != Outcome::Done {
            break;
        }
    }
    k.unlock(Lock::MmapRead(mm));
    outcome
}

/// `faultin_page_range()` of one page; the errors are those of `FOLL_MADV_POPULATE` in `__get_user_pages()`.
async fn populate_page(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Outcome {
    let vma = {
        let s = k.s();
        let Some(vma) = s.w.vma_lookup(mm, vpn) else { return Outcome::NoMem };
        let v = &s.w.vmas[vma];
        let permitted = if write { v.writable() } else { v.accessible() };
        if !permitted || v.backing.pfnmap() {
            return Outcome::Invalid;
        }
        vma
    };
    faultin_page(k, vma, vpn, write).await
}
