//! `mm/mlock.c`: `mlock()`, `mlock2()`, `munlock()`, `mlockall()`, `munlockall()`, and `mm/gup.c: __mm_populate()`.
//!
//! Left out: limits (`RLIMIT_MEMLOCK`), the flags of `mlockall()` one by one (it is `MCL_CURRENT | MCL_FUTURE`). Memory that
//! userfaultfd watches is locked but not faulted in, as with `MLOCK_ONFAULT`.

use super::gup::faultin_page;
use super::huge::pmd_folio;
use super::huge_zero::is_huge_zero_pmd;
use super::mmap::{find_vma_intersection, nth_vma, split_at_bounds, vmas_in};
use super::vma_lock::vma_start_write;
use crate::config::Defect;
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{Locked, PtePtr, VmaId};
use crate::observe::Outcome;
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};

/// `do_mlock()`.
pub async fn mlock(k: &Cpu, mm: u8, start: u32, end: u32, onfault: bool) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let complete = apply_vma_lock_flags(k, mm, start, end, if onfault { Locked::OnFault } else { Locked::Yes }).await;
    k.unlock(Lock::MmapWrite(mm));
    if !complete {
        return Outcome::NoMem;
    }
    // __mlock_posix_error_return()
    match mm_populate(k, mm, start, end, false).await {
        Outcome::Fault => Outcome::NoMem,
        Outcome::NoMem => Outcome::Busy,
        outcome => outcome,
    }
}

/// `munlock()`.
pub async fn munlock(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let complete = apply_vma_lock_flags(k, mm, start, end, Locked::No).await;
    k.unlock(Lock::MmapWrite(mm));
    if complete { Outcome::Done } else { Outcome::NoMem }
}

/// `mlockall(MCL_CURRENT | MCL_FUTURE)`, `munlockall()`: what is mapped, and with the first what will be.
pub async fn mlockall(k: &Cpu, mm: u8, locked: Locked) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    k.s().w.mms[mm as usize].def_locked = locked == Locked::Yes;
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        mlock_fixup(k, vma, locked).await;
        i += 1;
    }
    k.unlock(Lock::MmapWrite(mm));
    if locked == Locked::Yes {
        mm_populate(k, mm, 0, u32::MAX, true).await;
    }
    Outcome::Done
}

/// `apply_vma_lock_flags()`: VMA by VMA up to the first hole. False when there is one.
async fn apply_vma_lock_flags(k: &Cpu, mm: u8, start: u32, end: u32, locked: Locked) -> bool {
    let mut at = start;
    while at < end {
        let Some(vma) = k.s().w.vma_lookup(mm, at) else { return false };
        let next = k.s().w.vmas[vma].end.min(end);
        let changes = k.s().w.vmas[vma].locked != locked && k.s().w.vmas[vma].supports_mlock();
        if changes {
            split_at_bounds(k, mm, at, next).await;
            for vma in vmas_in(k, mm, at, next) {
                mlock_fixup(k, vma, locked).await;
            }
        }
        at = next;
    }
    true
}

/// `mlock_fixup()` of a whole VMA.
async fn mlock_fixup(k: &Cpu, vma: VmaId, locked: Locked) {
    let was = k.s().w.vmas[vma].locked;
    if was == locked || !k.s().w.vmas[vma].supports_mlock() {
        return;
    }
    vma_start_write(k, vma).await;
    if was != Locked::No && locked != Locked::No {
        // Locked already: to count its pages again would be wrong.
        k.s().w.vmas[vma].locked = locked;
        return;
    }
    mlock_vma_pages_range(k, vma, locked).await;
}

/// `mlock_vma_pages_range()`. While it counts, migration and reclaim must not (`VM_IO`).
async fn mlock_vma_pages_range(k: &Cpu, vma: VmaId, locked: Locked) {
    let (mm, start, end) = {
        let s = &mut *k.s();
        let v = &mut s.w.vmas[vma];
        (v.locked, v.mlocking) = (locked, locked != Locked::No);
        (v.mm, v.start, v.end)
    };
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        mlock_pte_range(k, mm, at, next, locked != Locked::No).await;
        at = next;
    }
    k.s().w.vmas[vma].mlocking = false;
}

/// `mlock_pte_range()`.
async fn mlock_pte_range(k: &Cpu, mm: u8, start: u32, end: u32, lock: bool) {
    if let Some(p) = k.pmd_trans_huge_lock(mm, start).await {
        let pmd = k.pmdp_get(p);
        let present = matches!(k.entries().pmd_kind(pmd), PmdKind::Huge | PmdKind::Invalid);
        if present && !is_huge_zero_pmd(k, pmd) {
            count(k, pmd_folio(k, pmd), lock);
        }
        k.pmd_unlock(p);
        return;
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    let mut vpn = start;
    while vpn < end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        k.site(Site::MlockEntry).await;
        vpn += mlock_entry(k, p, start, end, lock);
    }
    k.pte_unmap_unlock(first);
}

/// The body of the loop in `mlock_pte_range()`: how many pages it has dealt with.
fn mlock_entry(k: &Cpu, p: PtePtr, start: u32, end: u32, lock: bool) -> u32 {
    let arch = k.arch();
    let pte = k.ptep_get(p);
    if !arch.pte_present(pte) {
        if !lock {
            munlock_device_entry(k, p);
        }
        return 1;
    }
    let page = k.vm_normal_page(pte);
    if page == ZERO_PFN {
        return 1;
    }
    let folio = k.page_folio(page);
    let step = folio_mlock_step(k, folio, p, end);
    if allow_mlock_munlock(k, folio, page, p.vpn, [start, end], step, lock) {
        count(k, folio, lock);
    }
    step
}

/// What the kernel passes over: a page that is lent to a device or in its memory was counted while it was mapped, or when
/// it was moved there, and nobody else would take it back (N40, N41).
fn munlock_device_entry(k: &Cpu, p: PtePtr) {
    let ec = k.entries();
    let pte = k.ptep_get(p);
    let forgotten = match ec.kind(pte) {
        kind if kind.is_device_exclusive() => Defect::N40,
        kind if kind.is_device_private() => Defect::N41,
        _ => return,
    };
    if !k.has(forgotten) {
        count(k, k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(pte))), false);
    }
}

fn count(k: &Cpu, folio: Pfn, lock: bool) {
    if lock {
        k.mlock_folio(folio);
    } else {
        k.munlock_folio(folio);
    }
}

/// `folio_mlock_step()`: how many entries from here on map the folio's next pages.
fn folio_mlock_step(k: &Cpu, folio: Pfn, p: PtePtr, end: u32) -> u32 {
    if !k.folio_test_large(folio) {
        return 1;
    }
    let (ec, first) = (k.entries(), k.pte_pfn(k.ptep_get(p)));
    let most = (folio + k.folio_nr_pages(folio) - first).min(end - p.vpn);
    let maps = |n: &u32| {
        let pte = k.ptep_get(PtePtr { index: p.index + n, vpn: p.vpn + n, ..p });
        ec.kind(pte) == EntryKind::Present && ec.arch.pte_pfn(pte) == u64::from(first + n)
    };
    (1..most).take_while(maps).count() as u32 + 1
}

/// `allow_mlock_munlock()`: a large folio is locked only where all of it lies in the range and is mapped there.
fn allow_mlock_munlock(
    k: &Cpu,
    folio: Pfn,
    page: Pfn,
    vpn: u32,
    [start, end]: [u32; 2],
    step: u32,
    lock: bool,
) -> bool {
    let pages = k.folio_nr_pages(folio);
    let first = vpn.saturating_sub(page - folio);
    !lock || !k.folio_test_large(folio) || step == pages && start <= first && first + pages <= end
}

/// `__mm_populate()`: faults in what is locked, VMA by VMA.
pub async fn mm_populate(k: &Cpu, mm: u8, start: u32, end: u32, ignore_errors: bool) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut outcome = Outcome::Done;
    let mut at = start;
    while at < end {
        let Some((vma, from, to)) = find_vma_intersection(k, mm, at, end) else { break };
        let populated = populate_vma_page_range(k, vma, from, to).await;
        if populated != Outcome::Done && !ignore_errors {
            outcome = populated;
            break;
        }
        at = to;
    }
    k.unlock(Lock::MmapRead(mm));
    outcome
}

/// `populate_vma_page_range()`: as stores would where that breaks copy-on-write, else as loads. `mmap_lock` is kept.
pub async fn populate_vma_page_range(k: &Cpu, vma: VmaId, start: u32, end: u32) -> Outcome {
    let (locked, accessible, write, skipped) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        // VM_IO and VM_PFNMAP, too.
        let skipped = v.uffd.armed() || v.backing.device().is_some();
        (v.locked, v.accessible(), v.writable() && !v.shared(), skipped)
    };
    if locked == Locked::OnFault || skipped {
        return Outcome::Done;
    }
    if !accessible {
        return Outcome::Fault;
    }
    for vpn in start..end {
        let outcome = faultin_page(k, vma, vpn, write).await;
        if outcome != Outcome::Done {
            return outcome;
        }
    }
    Outcome::Done
}
