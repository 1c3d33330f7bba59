//! `mm/madvise.c`: DONTNEED, PAGEOUT and REMOVE.

use super::mmap::vmas_in;
use super::truncate::punch_hole;
use super::vmscan::shrink_folio;
use super::zap::{ZapDetails, zap_page_range_single};
use crate::mm::PtePtr;
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

/// Folios isolated at once before they are reclaimed.
const BATCH: usize = 16;

/// `madvise_pageout_page_range()`.
async fn madvise_pageout(k: &Cpu, mm: u8, start: u32, end: u32) {
    let ptrs = k.config().geometry.ptrs();
    let mut at = start;
    while at < end {
        let next = ((at / ptrs + 1) * ptrs).min(end).min(at + BATCH as u32);
        let mut folios: ArrayVec<Pfn, BATCH> = ArrayVec::new();
        madvise_cold_or_pageout_pte_range(k, mm, at, next, &mut folios).await;
        // reclaim_pages()
        for folio in folios {
            shrink_folio(k, folio, true).await;
        }
        at = next;
    }
}

/// `madvise_cold_or_pageout_pte_range()`: isolates what is mapped once.
async fn madvise_cold_or_pageout_pte_range(k: &Cpu, mm: u8, start: u32, end: u32, folios: &mut ArrayVec<Pfn, BATCH>) {
    let arch = k.arch();
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let pte = k.ptep_get(p);
        if !arch.pte_present(pte) {
            continue;
        }
        let folio = k.page_folio(k.pte_pfn(pte));
        if folio == ZERO_PFN || k.folio_mapcount(folio) != 1 || !k.folio_test(folio, Flags::LRU) {
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
