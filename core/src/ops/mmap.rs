//! `mm/mmap.c` and `mm/vma.c`: mappings made and taken away.

use super::pgtable::free_pte_tables;
use super::zap::{MmuGather, unlink_anon_vmas, zap_range};
use crate::mm::VmaId;
use crate::observe::{Outcome, Perm};
use crate::sched::{Cpu, Lock, NotifyEvent};
use arrayvec::ArrayVec;

/// `mmap_region()` with `MAP_FIXED`: what was mapped in the range goes, new private anonymous memory comes.
pub async fn mmap(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let detached = detach_range(k, mm, start, end).await;
    unmap_region(k, mm, &detached).await;
    {
        let s = &mut *k.s();
        // New mappings are soft-dirty as a whole: nobody can know what user space believes of them.
        let id = s.w.vmas.alloc(mm, start, end, perm, true);
        insert(&mut s.w, mm, id);
    }
    k.unlock(Lock::MmapWrite(mm));
    Outcome::Done
}

/// `do_vmi_align_munmap()`: splits, detaches, and zaps with `mmap_lock` downgraded to a read lock.
pub async fn munmap(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let detached = detach_range(k, mm, start, end).await;
    if detached.is_empty() {
        k.unlock(Lock::MmapWrite(mm));
        return Outcome::Done;
    }
    k.mmap_write_downgrade(mm);
    unmap_region(k, mm, &detached).await;
    k.unlock(Lock::MmapRead(mm));
    Outcome::Done
}

/// VMAs that one call can detach: a range lies in one window, and every VMA in it has at least a page.
const MAX_DETACHED: usize = 16;
type Detached = ArrayVec<VmaId, MAX_DETACHED>;

fn insert(w: &mut crate::world::World, mm: u8, id: VmaId) {
    let start = w.vmas[id].start;
    let at = w.mms[mm as usize].vmas.iter().position(|v| w.vmas[*v].start > start);
    let list = &mut w.mms[mm as usize].vmas;
    list.insert(at.unwrap_or(list.len()), id);
}

/// VMAs of a range, in order.
pub fn vmas_in(k: &Cpu, mm: u8, start: u32, end: u32) -> Detached {
    let s = k.s();
    let overlaps = |id: &VmaId| s.w.vmas[*id].start < end && start < s.w.vmas[*id].end;
    s.w.mms[mm as usize].vmas.iter().copied().filter(overlaps).take(MAX_DETACHED).collect()
}

/// Splits VMAs at the ends of a range, so that every VMA is inside it or outside. `__split_vma()`.
pub async fn split_at_bounds(k: &Cpu, mm: u8, start: u32, end: u32) {
    for at in [start, end] {
        let vma = {
            let s = k.s();
            s.w.vma_lookup(mm, at).filter(|v| s.w.vmas[*v].start != at)
        };
        if let Some(vma) = vma {
            split_vma(k, vma, at).await;
        }
    }
}

/// `__split_vma()`: the upper part becomes a VMA of its own, in the same `anon_vma`s.
async fn split_vma(k: &Cpu, vma: VmaId, at: u32) {
    let root = {
        let s = k.s();
        s.w.vmas[vma].anon_vma.map(|a| s.w.anon_vmas[a].root)
    };
    // anon_vma_clone() and vma_prepare(): rmap walks must not see the ranges while they change.
    if let Some(root) = root {
        k.lock(Lock::AnonVmaWrite(root)).await;
    }
    {
        let s = &mut *k.s();
        let (mm, end, perm, soft_dirty) = {
            let v = &s.w.vmas[vma];
            (v.mm, v.end, v.perm, v.soft_dirty)
        };
        let new = s.w.vmas.alloc(mm, at, end, perm, soft_dirty);
        s.w.vmas[vma].end = at;
        s.w.vmas[new].anon_vma = s.w.vmas[vma].anon_vma;
        s.w.vmas[new].uffd_wp = s.w.vmas[vma].uffd_wp;
        s.w.vmas[new].mergeable = s.w.vmas[vma].mergeable;
        for i in 0..s.w.vmas[vma].chain.len() {
            let av = s.w.vmas[vma].chain[i];
            s.w.vmas[new].chain.push(av);
            s.w.anon_vmas[av].vmas.push(new);
        }
        insert(&mut s.w, mm, new);
    }
    if let Some(root) = root {
        k.unlock(Lock::AnonVmaWrite(root));
    }
}

/// Takes the VMAs of a range out of the address space, split at its ends.
async fn detach_range(k: &Cpu, mm: u8, start: u32, end: u32) -> Detached {
    split_at_bounds(k, mm, start, end).await;
    let detached = vmas_in(k, mm, start, end);
    let s = &mut *k.s();
    s.w.mms[mm as usize].vmas.retain(|v| !detached.contains(v));
    detached
}

/// `unmap_region()`: zaps what the detached VMAs map, then takes them out of the reverse map and gives back the
/// tables that nothing else uses.
async fn unmap_region(k: &Cpu, mm: u8, detached: &Detached) {
    let bounds = |k: &Cpu, v: VmaId| {
        let s = k.s();
        (s.w.vmas[v].start, s.w.vmas[v].end)
    };
    let mut tlb = MmuGather::new(mm);
    // unmap_vmas(): one notification around all of them.
    let Some((&first, &last)) = detached.first().zip(detached.last()) else { return };
    let (start, end) = (bounds(k, first).0, bounds(k, last).1);
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    for &vma in detached {
        let (start, end) = bounds(k, vma);
        zap_range(k, &mut tlb, start, end).await;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    for &vma in detached {
        unlink_anon_vmas(k, vma).await;
    }
    tlb.flush(k).await;
    for &vma in detached {
        let (start, end) = bounds(k, vma);
        let (floor, ceiling) = gap_around(k, mm, start);
        free_pte_tables(k, mm, start, end, floor, ceiling).await;
        k.s().w.vmas.free(vma);
    }
}

/// The unmapped range around a page that no VMA holds any more.
fn gap_around(k: &Cpu, mm: u8, vpn: u32) -> (u32, u32) {
    let s = k.s();
    let list = &s.w.mms[mm as usize].vmas;
    let floor = list.iter().map(|v| s.w.vmas[*v].end).filter(|e| *e <= vpn).max().unwrap_or(0);
    let ceiling = list.iter().map(|v| s.w.vmas[*v].start).filter(|e| *e > vpn).min().unwrap_or(u32::MAX);
    (floor, ceiling)
}
