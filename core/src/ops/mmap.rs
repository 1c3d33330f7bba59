//! `mm/mmap.c` and `mm/vma.c`: mappings made and taken away.

use super::driver::call_mmap;
use super::hugetlb::{
    aligned, hugetlb_reserve_pages, hugetlb_split, hugetlb_unshare_early, hugetlb_vm_op_close, hugetlb_vm_op_open,
    may_split,
};
use super::mlock::mm_populate;
use super::pgtable::free_pte_tables;
use super::split::split_huge_pmd_if_needed;
use super::uffd_events::{gather_munmap_failed, userfaultfd_complete, userfaultfd_unmap_prep};
use super::vma_lock::vma_start_write;
use super::zap::{MmuGather, unlink_anon_vmas, unlink_file_vma, unmap_single_vma};
use crate::config::Defect;
use crate::mm::{Locked, NewVma, VmaId};
use crate::observe::{Backing, Outcome, Perm, REMAPPED};
use crate::sched::{Cpu, Lock, NotifyEvent};
use crate::world::World;
use arrayvec::ArrayVec;

/// `mmap_region()` with `MAP_FIXED`: what was mapped in the range goes, the new mapping comes.
pub async fn mmap(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm, backing: Backing) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    // A device that is gone cannot be opened.
    if backing.device() == Some(REMAPPED) && k.s().w.boards.unplugged {
        k.unlock(Lock::MmapWrite(mm));
        return Outcome::Invalid;
    }
    if backing.hugetlb() && !aligned(k, start, end) {
        k.unlock(Lock::MmapWrite(mm));
        return Outcome::Invalid;
    }
    if !may_split(k, mm, start, end) {
        gather_munmap_failed(k, mm, start, end);
        k.unlock(Lock::MmapWrite(mm));
        userfaultfd_complete(k, mm).await;
        return Outcome::Invalid;
    }
    let detached = detach_range(k, mm, start, end).await;
    unmap_region(k, mm, &detached).await;
    let vma = {
        let s = &mut *k.s();
        let pgoff = s.w.pgoff(backing, start);
        // New mappings are soft-dirty as a whole: nobody can know what user space believes of them.
        s.w.vmas.alloc(NewVma { mm, start, end, pgoff, perm, backing, soft_dirty: true })
    };
    if backing.hugetlb() && !hugetlbfs_file_mmap(k, vma).await {
        k.s().w.vmas.free(vma);
        k.unlock(Lock::MmapWrite(mm));
        userfaultfd_complete(k, mm).await;
        return Outcome::NoMem;
    }
    vma_start_write(k, vma).await;
    let early = k.has(Defect::N9);
    if early {
        call_mmap(k, vma).await;
    }
    // vma_link_file()
    if let Some(file) = backing.mapping() {
        k.lock(Lock::IMmapWrite(file)).await;
    }
    {
        let s = &mut *k.s();
        let locked = s.w.mms[mm as usize].def_locked && s.w.vmas[vma].supports_mlock();
        s.w.vmas[vma].locked = if locked { Locked::Yes } else { Locked::No };
        insert(&mut s.w, mm, vma);
        s.w.i_mmap_insert(vma, None);
    }
    if let Some(file) = backing.mapping() {
        k.unlock(Lock::IMmapWrite(file));
    }
    if !early {
        call_mmap(k, vma).await;
    }
    let populate = k.s().w.mms[mm as usize].def_locked;
    k.unlock(Lock::MmapWrite(mm));
    userfaultfd_complete(k, mm).await;
    if populate {
        mm_populate(k, mm, start, end, true).await;
    }
    Outcome::Done
}

/// `hugetlbfs_file_mmap()`: reserves pages, and lets the file end behind a mapping that may be written. False when so many
/// pages cannot be promised.
async fn hugetlbfs_file_mmap(k: &Cpu, vma: VmaId) -> bool {
    let file = k.s().w.vmas[vma].backing.file();
    if let Some(file) = file {
        k.lock(Lock::Inode(file)).await;
    }
    let reserved = {
        let s = &mut *k.s();
        let reserved = hugetlb_reserve_pages(s, vma);
        let (v, end) = (&s.w.vmas[vma], s.w.vmas[vma].end);
        if let Some(file) = file.filter(|_| reserved && v.writable()) {
            let len = v.linear_page_index(end);
            let size = &mut s.w.files[usize::from(file)].size;
            *size = len.max(*size);
        }
        reserved
    };
    if let Some(file) = file {
        k.unlock(Lock::Inode(file));
    }
    reserved
}

/// `do_vmi_align_munmap()`: splits, detaches, and zaps with `mmap_lock` downgraded to a read lock.
pub async fn munmap(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    if !may_split(k, mm, start, end) {
        gather_munmap_failed(k, mm, start, end);
        k.unlock(Lock::MmapWrite(mm));
        userfaultfd_complete(k, mm).await;
        return Outcome::Invalid;
    }
    let detached = detach_range(k, mm, start, end).await;
    if detached.is_empty() {
        k.unlock(Lock::MmapWrite(mm));
        return Outcome::Done;
    }
    k.mmap_write_downgrade(mm);
    unmap_region(k, mm, &detached).await;
    k.unlock(Lock::MmapRead(mm));
    userfaultfd_complete(k, mm).await;
    Outcome::Done
}

/// VMAs that one call can detach: a range lies in one window, and every VMA in it has at least a page.
const MAX_DETACHED: usize = 16;
pub(super) type Detached = ArrayVec<VmaId, MAX_DETACHED>;

/// Puts a VMA into the list of its address space.
pub(super) fn insert(w: &mut crate::world::World, mm: u8, id: VmaId) {
    let start = w.vmas[id].start;
    let at = w.mms[mm as usize].vmas.iter().position(|v| w.vmas[*v].start > start);
    let list = &mut w.mms[mm as usize].vmas;
    list.insert(at.unwrap_or(list.len()), id);
}

/// VMAs of a range, in order.
fn overlapping(w: &World, mm: u8, start: u32, end: u32) -> impl Iterator<Item = VmaId> {
    let overlaps = move |id: &VmaId| w.vmas[*id].start < end && start < w.vmas[*id].end;
    w.mms[mm as usize].vmas.iter().copied().filter(overlaps)
}

/// VMAs of a range, in order.
pub fn vmas_in(k: &Cpu, mm: u8, start: u32, end: u32) -> Detached {
    overlapping(&k.s().w, mm, start, end).take(MAX_DETACHED).collect()
}

/// `find_vma_intersection()`: the first VMA of a range, and the part of the range that lies in it.
pub fn find_vma_intersection(k: &Cpu, mm: u8, start: u32, end: u32) -> Option<(VmaId, u32, u32)> {
    let s = k.s();
    let vma = overlapping(&s.w, mm, start, end).next()?;
    let v = &s.w.vmas[vma];
    Some((vma, v.start.max(start), v.end.min(end)))
}

/// The VMA at this place of the list of an address space, for a walk (`for_each_vma()`) that lets others in between.
pub fn nth_vma(k: &Cpu, mm: u8, i: usize) -> Option<VmaId> {
    k.s().w.mms[mm as usize].vmas.get(i).copied()
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
    let (root, file) = {
        let s = k.s();
        (s.w.vmas[vma].anon_vma.map(|a| s.w.anon_vmas[a].root), s.w.vmas[vma].backing.mapping())
    };
    vma_start_write(k, vma).await;
    if k.has(Defect::H2) {
        hugetlb_unshare_early(k, vma, at).await;
    }
    // vma_prepare(): rmap walks must not see the ranges while they change.
    if let Some(file) = file {
        k.lock(Lock::IMmapWrite(file)).await;
    }
    if let Some(root) = root {
        k.lock(Lock::AnonVmaWrite(root)).await;
    }
    if !k.has(Defect::H2) {
        hugetlb_split(k, vma, at).await;
    }
    // vma_adjust_trans_huge()
    split_huge_pmd_if_needed(k, vma, at).await;
    {
        let s = &mut *k.s();
        let like = s.w.vmas[vma].like();
        let pgoff = s.w.vmas[vma].linear_page_index(at);
        let new = s.w.vmas.alloc(NewVma { start: at, pgoff, ..like });
        s.w.vmas[vma].end = at;
        s.w.vmas[new].anon_vma = s.w.vmas[vma].anon_vma;
        s.w.vmas[new].uffd = s.w.vmas[vma].uffd;
        s.w.vmas[new].thp = s.w.vmas[vma].thp;
        s.w.vmas[new].mergeable = s.w.vmas[vma].mergeable;
        s.w.vmas[new].locked = s.w.vmas[vma].locked;
        if like.backing.hugetlb() {
            hugetlb_vm_op_open(s, new, vma);
        }
        s.w.vmas[new].lock_seq = s.w.vmas[vma].lock_seq;
        for i in 0..s.w.vmas[vma].chain.len() {
            let av = s.w.vmas[vma].chain[i];
            s.w.vmas[new].chain.push(av);
            s.w.anon_vmas[av].vmas.push(new);
        }
        insert(&mut s.w, like.mm, new);
        s.w.i_mmap_insert(new, Some(vma));
    }
    if let Some(root) = root {
        k.unlock(Lock::AnonVmaWrite(root));
    }
    if let Some(file) = file {
        k.unlock(Lock::IMmapWrite(file));
    }
}

/// Takes the VMAs of a range out of the address space, split at its ends.
pub(super) async fn detach_range(k: &Cpu, mm: u8, start: u32, end: u32) -> Detached {
    split_at_bounds(k, mm, start, end).await;
    let detached = vmas_in(k, mm, start, end);
    for vma in &detached {
        vma_start_write(k, *vma).await;
    }
    userfaultfd_unmap_prep(k, mm, &detached, start, end);
    let s = &mut *k.s();
    s.w.mms[mm as usize].vmas.retain(|v| !detached.contains(v));
    detached
}

/// `unmap_region()`: zaps what the detached VMAs map, then takes them out of the reverse map and gives back the
/// tables that nothing else uses.
pub(super) async fn unmap_region(k: &Cpu, mm: u8, detached: &Detached) {
    let bounds = |k: &Cpu, v: VmaId| {
        let s = k.s();
        (s.w.vmas[v].start, s.w.vmas[v].end)
    };
    let Some((&first, &last)) = detached.first().zip(detached.last()) else { return };
    let mut tlb = MmuGather::unmapping(k, mm);
    tlb.keep_notes(k.has(Defect::A4b));
    // unmap_vmas(): one notification around all of them.
    let (start, end) = (bounds(k, first).0, bounds(k, last).1);
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    for &vma in detached {
        let (start, end) = bounds(k, vma);
        unmap_single_vma(k, &mut tlb, vma, start, end).await;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    for &vma in detached {
        unlink_anon_vmas(k, vma).await;
        unlink_file_vma(k, vma).await;
    }
    tlb.finish(k).await;
    for &vma in detached {
        let (start, end) = bounds(k, vma);
        let (floor, ceiling) = gap_around(k, mm, start);
        free_pte_tables(k, mm, start, end, floor, ceiling).await;
        let s = &mut *k.s();
        hugetlb_vm_op_close(s, vma);
        s.w.vmas.free(vma);
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
