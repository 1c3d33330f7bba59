//! `mm/mremap.c`: mappings that go elsewhere with what they hold. `MREMAP_MAYMOVE | MREMAP_FIXED`, with and without
//! `MREMAP_DONTUNMAP`, and resizing in place.
//!
//! Nothing is copied: the entries move, one by one or a table at a time, and the folios stay. A folio's index stays too,
//! and so the new VMA's `pgoff` is such that the index leads to the new address. Reclaim and migration, which take no
//! `mmap_lock`, look at the old VMA first and at the new one next, as those joined the `anon_vma`; who finds nothing at
//! the old address finds it at the new one. Of a file it is the list of its mappings in which the new VMA comes after the old one.

use super::huge_move::move_huge_pmd;
use super::hugetlb::{
    aligned, clear_vma_resv_huge_pages, hugetlb_vm_op_open, is_vm_hugetlb_page, may_split, move_hugetlb_page_tables,
};
use super::ksm::unmerge_ksm_pages;
use super::mlock::mm_populate;
use super::mmap::{detach_range, insert, split_at_bounds, unmap_region, vmas_in};
use super::pgtable::{pmd_alloc, pte_alloc};
use super::rmap::anon_vma_clone;
use super::split::split_huge_pmd_address;
use super::uffd_events::{gather_munmap_failed, mremap_userfaultfd_prep, userfaultfd_complete};
use super::vma_lock::vma_start_write;
use super::zap::unlink_anon_vmas;
use crate::arch::Pte;
use crate::config::Defect;
use crate::mm::{AnonVmaId, Locked, NewVma, PtePtr, TableId, VmaId};
use crate::observe::{FileId, Outcome, UffdFlags};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `mremap_to()`: moves `start..end` to `to`, where whatever was mapped is gone. With `dontunmap` the old mapping stays,
/// and is empty.
pub async fn mremap(k: &Cpu, mm: u8, start: u32, end: u32, to: u32, dontunmap: bool) -> Outcome {
    let len = end - start;
    k.lock(Lock::MmapWrite(mm)).await;
    let movable = {
        let vma = k.s().w.vma_lookup(mm, start);
        vma.map(|v| !is_vm_hugetlb_page(k, v) || can_move_hugetlb(k, [start, end, to], dontunmap))
    };
    let overlap = end > to && to + len > start;
    let outcome = match movable {
        None => Outcome::Fault,
        Some(movable) if overlap || !movable => Outcome::Invalid,
        Some(_) if !may_split(k, mm, to, to + len) => {
            gather_munmap_failed(k, mm, to, to + len);
            Outcome::Invalid
        }
        Some(_) => {
            do_munmap(k, mm, to, to + len).await;
            move_vma(k, mm, start, end, to, dontunmap).await
        }
    };
    k.unlock(Lock::MmapWrite(mm));
    userfaultfd_complete(k, mm).await;
    outcome
}

/// What `mremap` asks of hugetlb memory: borders of huge pages, and that the old mapping goes (`VM_DONTEXPAND`).
fn can_move_hugetlb(k: &Cpu, [start, end, to]: [u32; 3], dontunmap: bool) -> bool {
    !dontunmap && aligned(k, start, end) && aligned(k, to, to)
}

/// `do_munmap()`: without the downgrade of `mmap_lock`.
async fn do_munmap(k: &Cpu, mm: u8, start: u32, end: u32) {
    let detached = detach_range(k, mm, start, end).await;
    unmap_region(k, mm, &detached).await;
}

/// `vma_to_resize()` and `move_vma()`. The range must lie in one VMA.
async fn move_vma(k: &Cpu, mm: u8, start: u32, end: u32, to: u32, dontunmap: bool) -> Outcome {
    let Some(vma) = k.s().w.vma_lookup(mm, start) else { return Outcome::Fault };
    {
        let s = k.s();
        let v = &s.w.vmas[vma];
        if dontunmap && v.backing.pfnmap() {
            return Outcome::Invalid;
        }
        if end > v.end {
            return Outcome::Fault;
        }
    }
    vma_start_write(k, vma).await;
    // ksm_madvise(MADV_UNMERGEABLE): a KSM page is found by its address, so none may move.
    let merged = {
        let s = k.s();
        s.w.vmas[vma].mergeable && s.w.vmas[vma].anon_vma.is_some()
    };
    if merged && let Err(error) = unmerge_ksm_pages(k, vma, start, end).await {
        return error;
    }
    if is_vm_hugetlb_page(k, vma) {
        return move_hugetlb_vma(k, mm, start, end, to).await;
    }
    // What stays behind is locked no longer, and so must be a mapping of its own.
    if dontunmap && k.s().w.vmas[vma].locked() {
        split_at_bounds(k, mm, start, end).await;
    }
    let Some(vma) = k.s().w.vma_lookup(mm, start) else { return Outcome::Fault };
    let new_vma = copy_vma(k, vma, start, end, to).await;
    move_page_tables(k, vma, start, end, to).await;
    mremap_userfaultfd_prep(k, new_vma, start, to, end - start);
    if dontunmap {
        let whole = {
            let s = &mut *k.s();
            s.w.vmas[vma].locked = Locked::No;
            s.w.vmas[vma].start == start && s.w.vmas[vma].end == end
        };
        if whole {
            unlink_anon_vmas(k, vma).await;
            let v = &mut k.s().w.vmas[vma];
            if v.anonymous() {
                // Without an anon_vma it has the offset of its address.
                v.pgoff = start;
            }
        }
    } else {
        do_munmap(k, mm, start, end).await;
    }
    Outcome::Done
}

/// The same of hugetlb memory: the reservations go along.
async fn move_hugetlb_vma(k: &Cpu, mm: u8, start: u32, end: u32, to: u32) -> Outcome {
    // Here we differ from the kernel, which takes the reservations of the whole mapping away, be it moved or not (N21).
    if !k.has(Defect::N21) {
        split_at_bounds(k, mm, start, end).await;
    }
    let Some(vma) = k.s().w.vma_lookup(mm, start) else { return Outcome::Fault };
    let new_vma = copy_vma(k, vma, start, end, to).await;
    move_hugetlb_page_tables(k, vma, new_vma, start, end, to).await;
    clear_vma_resv_huge_pages(&mut k.s(), vma);
    mremap_userfaultfd_prep(k, new_vma, start, to, end - start);
    do_munmap(k, mm, start, end).await;
    Outcome::Done
}

/// `copy_vma()`, without merging: so the new VMA comes after the old one in every walk, and `need_rmap_locks` is false.
async fn copy_vma(k: &Cpu, vma: VmaId, start: u32, end: u32, to: u32) -> VmaId {
    let new = {
        let s = &mut *k.s();
        let v = &s.w.vmas[vma];
        // Nothing was mapped yet: the offset may as well be that of the new address.
        let unfaulted = v.anonymous() && v.anon_vma.is_none();
        let pgoff = if unfaulted { to } else { v.linear_page_index(start) };
        let like = NewVma { start: to, end: to + (end - start), pgoff, ..v.like() };
        let new = s.w.vmas.alloc(like);
        let v = &s.w.vmas[vma];
        let (uffd, mergeable, thp, locked) = (v.uffd, v.mergeable, v.thp, v.locked);
        let v = &mut s.w.vmas[new];
        (v.uffd, v.mergeable, v.thp, v.locked) = (uffd, mergeable, thp, locked);
        if like.backing.hugetlb() {
            hugetlb_vm_op_open(s, new, vma);
        }
        new
    };
    anon_vma_clone(k, vma, new).await;
    vma_start_write(k, new).await;
    // vma_link()
    let mapping = k.s().w.vmas[new].backing.mapping();
    if let Some(mapping) = mapping {
        k.lock(Lock::IMmapWrite(mapping)).await;
    }
    {
        let s = &mut *k.s();
        let mm = s.w.vmas[new].mm;
        insert(&mut s.w, mm, new);
        s.w.i_mmap_insert(new, None);
        if let Some(mapping) = mapping.filter(|_| s.w.config.has(Defect::V30)) {
            s.w.i_mmaps[usize::from(mapping)].vmas.rotate_right(1);
        }
    }
    if let Some(mapping) = mapping {
        k.unlock(Lock::IMmapWrite(mapping));
    }
    new
}

/// `move_page_tables()`, at PMD level where both addresses and the length allow it. Tables of a higher level are not
/// moved as a whole, nor is the range widened to a border (`try_realign_addr()`).
async fn move_page_tables(k: &Cpu, vma: VmaId, start: u32, end: u32, to: u32) {
    let mm = k.s().w.vmas[vma].mm;
    let ptrs = k.config().geometry.ptrs();
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let (mut old, mut new) = (start, to);
    let mut flush_late = false;
    while old < end {
        // get_extent()
        let extent = (ptrs - old % ptrs).min(ptrs - new % ptrs).min(end - old);
        if let Some(pmd) = k.pmd_leaf(mm, old) {
            let clear = clears_uffd_wp(k, vma);
            let change = |pte| moved_entry(k, pte, clear);
            if extent == ptrs && move_huge_pmd(k, mm, pmd, new, change).await {
                (old, new) = (old + extent, new + extent);
                continue;
            }
            split_huge_pmd_address(k, vma, old, None).await;
        }
        let moved = extent == ptrs && !clears_uffd_wp(k, vma) && move_normal_pmd(k, vma, mm, old, new).await;
        if !moved && k.pte_offset(mm, old).is_some() {
            pte_alloc(k, mm, new).await;
            flush_late |= move_ptes(k, vma, mm, old, old + extent, new).await;
        }
        (old, new) = (old + extent, new + extent);
    }
    if flush_late {
        k.site(Site::MremapFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
}

/// `vma_has_uffd_without_event_remap()`: what userfaultfd has write-protected is not protected at the new address.
pub fn clears_uffd_wp(k: &Cpu, vma: VmaId) -> bool {
    let ctx = k.s().w.vmas[vma].uffd;
    ctx.flags.has(UffdFlags::WP) && !ctx.flags.has(UffdFlags::EVENTS) && !k.has(Defect::V5)
}

/// `move_ptes()`. True when the flush is still to come, as it was once.
async fn move_ptes(k: &Cpu, vma: VmaId, mm: u8, start: u32, end: u32, to: u32) -> bool {
    let arch = k.arch();
    let need_clear_uffd_wp = clears_uffd_wp(k, vma);
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return false };
    let Some(new_first) = k.pte_offset(mm, to) else {
        k.pte_unmap_unlock(first);
        return false;
    };
    let nested = new_first.table != first.table;
    if nested {
        k.lock(Lock::PteNested(new_first.table)).await;
    }
    let mut force_flush = false;
    for vpn in start..end {
        let i = vpn - start;
        let p = PtePtr { index: first.index + i, vpn, ..first };
        let q = PtePtr { index: new_first.index + i, vpn: to + i, ..new_first };
        if arch.pte_none(k.ptep_get(p)) {
            continue;
        }
        let pte = k.ptep_get_and_clear(p).await;
        force_flush |= arch.pte_present(pte);
        k.site(Site::MremapMove).await;
        if need_clear_uffd_wp && k.entries().is_uffd_wp_note(pte) {
            continue;
        }
        k.set_pte_at(q, moved_entry(k, pte, need_clear_uffd_wp)).await;
    }
    // Before the locks are dropped: the folio stays as long as translations of the old address do.
    let late = force_flush && k.has(Defect::V4);
    if force_flush && !late {
        k.site(Site::MremapFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
    if nested {
        k.unlock(Lock::PteNested(new_first.table));
    }
    k.pte_unmap_unlock(first);
    late
}

/// What an entry says at its new address.
fn moved_entry(k: &Cpu, pte: Pte, need_clear_uffd_wp: bool) -> Pte {
    let pte = move_soft_dirty_pte(k, pte);
    if need_clear_uffd_wp { clear_uffd_wp(k, pte) } else { pte }
}

/// `move_soft_dirty_pte()`: user space is to notice that entries came from elsewhere.
fn move_soft_dirty_pte(k: &Cpu, pte: Pte) -> Pte {
    let arch = k.arch();
    if !arch.has_soft_dirty() || k.entries().is_swap_special_pte(pte) {
        // A special entry of the series of 2021 has no room for it.
        pte
    } else if arch.pte_present(pte) {
        arch.pte_mksoft_dirty(pte)
    } else {
        arch.pte_swp_mksoft_dirty(pte)
    }
}

fn clear_uffd_wp(k: &Cpu, pte: Pte) -> Pte {
    let arch = k.arch();
    if arch.pte_present(pte) { arch.pte_clear_uffd_wp(pte) } else { arch.pte_swp_clear_uffd_wp(pte) }
}

/// `move_normal_pmd()`, called by `move_pgt_entry()` with the locks of the reverse map: the walks of others hold no lock
/// of the PMD, and would flush the old address for an entry that is already at the new one.
async fn move_normal_pmd(k: &Cpu, vma: VmaId, mm: u8, old: u32, new: u32) -> bool {
    let Some(old_pmd) = k.pmd_offset(mm, old).map(|p| p.table) else { return false };
    // alloc_new_pmd()
    let new_pmd = pmd_alloc(k, mm, new).await.table;
    let locks = if k.has(Defect::V6) { RmapLocks::default() } else { RmapLocks::of(k, vma) };
    locks.take(k).await;
    let moved = move_locked_pmd(k, mm, (old_pmd, old), (new_pmd, new)).await;
    locks.drop(k);
    moved
}

/// The locks under which nobody walks the reverse map of a VMA.
#[derive(Clone, Copy, Default)]
struct RmapLocks {
    file: Option<FileId>,
    root: Option<AnonVmaId>,
}

impl RmapLocks {
    fn of(k: &Cpu, vma: VmaId) -> RmapLocks {
        let s = k.s();
        let v = &s.w.vmas[vma];
        RmapLocks { file: v.backing.mapping(), root: v.anon_vma.map(|a| s.w.anon_vmas[a].root) }
    }

    /// `take_rmap_locks()`, and `vma_prepare()`.
    async fn take(self, k: &Cpu) {
        if let Some(file) = self.file {
            k.lock(Lock::IMmapWrite(file)).await;
        }
        if let Some(root) = self.root {
            k.lock(Lock::AnonVmaWrite(root)).await;
        }
    }

    /// `drop_rmap_locks()`.
    fn drop(self, k: &Cpu) {
        if let Some(root) = self.root {
            k.unlock(Lock::AnonVmaWrite(root));
        }
        if let Some(file) = self.file {
            k.unlock(Lock::IMmapWrite(file));
        }
    }
}

/// `mremap()` without flags: lets the range end at `new_end`, or says that there is no room. What is cut off is
/// unmapped.
pub async fn mremap_resize(k: &Cpu, mm: u8, start: u32, end: u32, new_end: u32) -> Outcome {
    if new_end <= start {
        return Outcome::Invalid;
    }
    k.lock(Lock::MmapWrite(mm)).await;
    let vma = k.s().w.vma_lookup(mm, start);
    let outcome = match vma {
        None => Outcome::Fault,
        // Hugetlb memory has its size. (The kernel would let it shrink.)
        Some(vma) if is_vm_hugetlb_page(k, vma) => Outcome::Invalid,
        Some(_) if new_end < end => {
            if may_split(k, mm, new_end, end) {
                do_munmap(k, mm, new_end, end).await;
                Outcome::Done
            } else {
                gather_munmap_failed(k, mm, new_end, end);
                Outcome::Invalid
            }
        }
        Some(_) if new_end == end => Outcome::Done,
        Some(vma) => expand(k, mm, vma, end, new_end).await,
    };
    let populate = outcome == Outcome::Done && vma.is_some_and(|vma| k.s().w.vmas[vma].locked());
    k.unlock(Lock::MmapWrite(mm));
    userfaultfd_complete(k, mm).await;
    if populate && new_end > end {
        mm_populate(k, mm, end, new_end, true).await;
    }
    outcome
}

/// `vma_to_resize()`, `vma_expandable()` and `vma_merge_extend()`: only at the end of the mapping, and where nothing else is.
/// (Merging with what comes next is left out.)
async fn expand(k: &Cpu, mm: u8, vma: VmaId, end: u32, new_end: u32) -> Outcome {
    let vma_end = k.s().w.vmas[vma].end;
    // Mappings of devices are VM_DONTEXPAND.
    if end > vma_end || k.s().w.vmas[vma].backing.device().is_some() {
        return Outcome::Fault;
    }
    if end != vma_end || !vmas_in(k, mm, end, new_end).is_empty() {
        return Outcome::NoMem;
    }
    vma_start_write(k, vma).await;
    let locks = RmapLocks::of(k, vma);
    locks.take(k).await;
    k.s().w.vmas[vma].end = new_end;
    locks.drop(k);
    Outcome::Done
}

async fn move_locked_pmd(k: &Cpu, mm: u8, old: (TableId, u32), new: (TableId, u32)) -> bool {
    // free_pgtables() should have released the table at the new address.
    if k.pte_offset(mm, new.1).is_some() {
        return false;
    }
    k.lock(Lock::Pmd(old.0)).await;
    let nested = new.0 != old.0;
    if nested {
        k.lock(Lock::PmdNested(new.0)).await;
    }
    k.site(Site::MremapMovePmd).await;
    let moved = k.s().move_table(k.id, mm, old, new);
    if moved {
        let ptrs = k.config().geometry.ptrs();
        k.flush_tlb_range(mm, old.1, old.1 + ptrs).await;
    }
    if nested {
        k.unlock(Lock::PmdNested(new.0));
    }
    k.unlock(Lock::Pmd(old.0));
    moved
}
