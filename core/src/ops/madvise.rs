//! `mm/madvise.c`: DONTNEED, PAGEOUT, REMOVE, HUGEPAGE and NOHUGEPAGE.

use super::huge::pmd_folio;
use super::mmap::{split_at_bounds, vmas_in};
use super::split::split_folio;
use super::truncate::punch_hole;
use super::vmscan::shrink_folio;
use super::zap::{ZapDetails, zap_page_range_single};
use crate::entry::PmdKind;
use crate::mm::{PtePtr, Thp};
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};
use arrayvec::ArrayVec;

/// What is advised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// `MADV_DONTNEED`.
    DontNeed,
    /// `MADV_PAGEOUT`.
    PageOut,
}

/// `madvise_walk_vmas()`: the mapped parts of a range; `ENOMEM` afterwards when there was a hole.
pub async fn madvise(k: &Cpu, mm: u8, start: u32, end: u32, advice: Advice) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut covered = 0;
    for vma in vmas_in(k, mm, start, end) {
        let (from, to) = {
            let s = k.s();
            (s.w.vmas[vma].start.max(start), s.w.vmas[vma].end.min(end))
        };
        covered += to - from;
        match advice {
            Advice::DontNeed => zap_page_range_single(k, mm, from, to, ZapDetails::ALL).await,
            Advice::PageOut => madvise_pageout(k, mm, from, to).await,
        }
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
        let found = {
            let next = vmas_in(k, mm, at, end).first().copied();
            let s = k.s();
            next.map(|id| {
                let v = &s.w.vmas[id];
                let from = v.start.max(at);
                let file = v.backing.file().filter(|_| v.shared() && v.writable());
                (from, v.end.min(end), file, v.linear_page_index(from))
            })
        };
        let Some((from, to, file, index)) = found else { break };
        hole |= from > at;
        let Some(file) = file else {
            outcome = Outcome::Invalid;
            break;
        };
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
        let next = {
            let s = k.s();
            let list = &s.w.mms[mm as usize].vmas;
            list.iter().copied().find(|v| s.w.vmas[*v].end > at && s.w.vmas[*v].start < end)
        };
        let Some(vma) = next else { break };
        let (from, to, same) = {
            let s = k.s();
            let v = &s.w.vmas[vma];
            (v.start.max(at), v.end.min(end), v.thp == thp)
        };
        covered += to - from;
        if !same {
            split_at_bounds(k, mm, from, to).await;
            for vma in vmas_in(k, mm, from, to) {
                k.s().w.vmas[vma].thp = thp;
            }
        }
        at = to;
    }
    k.unlock(Lock::MmapWrite(mm));
    if covered < end - start { Outcome::NoMem } else { Outcome::Done }
}

/// Folios isolated at once before they are reclaimed.
const BATCH: usize = 16;

/// `madvise_pageout_page_range()`.
async fn madvise_pageout(k: &Cpu, mm: u8, start: u32, end: u32) {
    let ptrs = k.config().geometry.ptrs();
    let mut at = start;
    while at < end {
        let next = ((at / ptrs + 1) * ptrs).min(end).min(at + BATCH as u32);
        let mut folios: ArrayVec<Pfn, BATCH> = ArrayVec::new();
        if k.pmd_leaf(mm, at).is_some() {
            let next = ((at / ptrs + 1) * ptrs).min(end);
            if !pageout_huge(k, mm, at, next, &mut folios).await {
                // reclaim_pages()
                for folio in folios {
                    shrink_folio(k, folio, true).await;
                }
                at = next;
                continue;
            }
        }
        madvise_cold_or_pageout_pte_range(k, mm, at, next, &mut folios).await;
        // reclaim_pages()
        for folio in folios {
            shrink_folio(k, folio, true).await;
        }
        at = next;
    }
}

/// The branch of `madvise_cold_or_pageout_pte_range()` for a huge page: true when it has been split, because only a part
/// of it is asked for, so that its PTEs are to be looked at.
async fn pageout_huge(k: &Cpu, mm: u8, start: u32, end: u32, folios: &mut ArrayVec<Pfn, BATCH>) -> bool {
    let Some(p) = k.pmd_trans_huge_lock(mm, start).await else { return true };
    let pmd = k.pmdp_get(p);
    if k.entries().pmd_kind(pmd) != PmdKind::Huge {
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
    if k.folio_isolate_lru(folio) {
        folios.push(folio);
    }
    k.pmd_unlock(p);
    false
}

/// `madvise_cold_or_pageout_pte_range()`: isolates what is mapped once. A large folio is split first, as the range seldom
/// covers all of it (the kernel isolates it whole when it does).
async fn madvise_cold_or_pageout_pte_range(k: &Cpu, mm: u8, start: u32, end: u32, folios: &mut ArrayVec<Pfn, BATCH>) {
    let arch = k.arch();
    let Some(mut first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - first.vpn), vpn, ..first };
        let pte = k.ptep_get(p);
        if !arch.pte_present(pte) {
            continue;
        }
        let mut folio = k.page_folio(k.pte_pfn(pte));
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
            folio = k.page_folio(k.pte_pfn(pte));
        }
        if folio == ZERO_PFN
            || k.folio_test_large(folio)
            || k.folio_mapcount(folio) != 1
            || !k.folio_test(folio, Flags::LRU)
        {
            continue;
        }
        k.folio_clear(folio, Flags::REFERENCED);
        k.site(Site::MadvisePageout).await;
        if k.folio_isolate_lru(folio) {
            folios.push(folio);
        }
    }
    k.pte_unmap_unlock(first);
}
