//! `mm/truncate.c`, and its like in `mm/shmem.c`: files that become shorter or get holes.

use super::filemap::{filemap_get_entry, filemap_remove_folio, folio_is_at};
use super::hugetlb::{hugetlb_vmtruncate, hugetlbfs_evict_inode, hugetlbfs_punch_hole};
use super::split::split_folio;
use super::zap::{ZapDetails, free_swap_and_cache, zap_page_range_single};
use crate::config::Defect;
use crate::mm::VmaId;
use crate::observe::{FileId, HUGETLBFS, Outcome, REGULAR};
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};

/// `ftruncate(2)`: `shmem_setattr()` and `truncate_setsize()` with what a disk file system does around it.
pub async fn truncate(k: &Cpu, file: FileId, size: u32) -> Outcome {
    if file == HUGETLBFS {
        return hugetlb_vmtruncate(k, size).await;
    }
    k.lock(Lock::Inode(file)).await;
    let shrinks = size < k.i_size_read(file);
    if shrinks && file == REGULAR {
        k.lock(Lock::InvalidateWrite(file)).await;
    }
    k.site(Site::TruncateSize).await;
    k.s().w.files[file as usize].size = size;
    if shrinks {
        // truncate_pagecache(): the first pass is for speed; the second catches copies that were made of pages
        // between the first pass and their removal.
        unmap_mapping_range(k, file, size, u32::MAX, true).await;
        truncate_inode_pages(k, file, size, u32::MAX).await;
        if !k.has(Defect::F2) {
            unmap_mapping_range(k, file, size, u32::MAX, true).await;
        }
        k.s().w.files[file as usize].discard_disk(size, u32::MAX);
        if file == REGULAR {
            k.unlock(Lock::InvalidateWrite(file));
        }
    }
    k.unlock(Lock::Inode(file));
    Outcome::Done
}

/// `fallocate(FALLOC_FL_PUNCH_HOLE)`: `shmem_fallocate()`, and `truncate_pagecache_range()` as disk file systems use
/// it. Private copies stay.
pub async fn punch_hole(k: &Cpu, file: FileId, from: u32, to: u32) {
    if file == HUGETLBFS {
        return hugetlbfs_punch_hole(k, from, to).await;
    }
    k.lock(Lock::Inode(file)).await;
    if file == REGULAR {
        k.lock(Lock::InvalidateWrite(file)).await;
    }
    unmap_mapping_range(k, file, from, to, false).await;
    truncate_inode_pages(k, file, from, to).await;
    k.s().w.files[file as usize].discard_disk(from, to);
    if file == REGULAR {
        k.unlock(Lock::InvalidateWrite(file));
    }
    k.unlock(Lock::Inode(file));
}

/// The last thing that happens to a file: `truncate_inode_pages_final()`.
pub async fn evict_inode(k: &Cpu, file: FileId) {
    if file == HUGETLBFS {
        return hugetlbfs_evict_inode(k).await;
    }
    truncate_inode_pages(k, file, 0, u32::MAX).await;
}

/// `unmap_mapping_range()`: takes the file's pages out of every page table, private copies as well if asked to.
pub(super) async fn unmap_mapping_range(k: &Cpu, file: FileId, from: u32, to: u32, even_cows: bool) {
    let details = ZapDetails { even_cows, keep_notes: true, ..ZapDetails::ALL };
    unmap_mapping_range_tree(k, file, from, to, details).await;
}

/// `unmap_mapping_folio()`.
pub(super) async fn unmap_mapping_folio(k: &Cpu, folio: Pfn, file: FileId) {
    k.assert_folio_locked(folio);
    let f = k.folio(folio);
    let details = ZapDetails { even_cows: false, single_folio: f.large(), ..ZapDetails::ALL };
    unmap_mapping_range_tree(k, file, f.index, f.index + f.nr_pages(), details).await;
}

/// `unmap_mapping_range_tree()`, with `i_mmap_rwsem` held for reading.
async fn unmap_mapping_range_tree(k: &Cpu, file: FileId, from: u32, to: u32, details: ZapDetails) {
    k.lock(Lock::IMmapRead(file)).await;
    let vma_at = |k: &Cpu, i: usize| -> Option<(VmaId, u32, u32)> {
        let s = k.s();
        let id = *s.w.i_mmaps[file as usize].vmas.get(i)?;
        let v = &s.w.vmas[id];
        let last = v.pgoff + (v.end - v.start);
        let (first, end) = (from.max(v.pgoff), to.min(last));
        let empty = first >= end;
        let start = if empty { v.start } else { v.start + (first - v.pgoff) };
        Some((id, start, if empty { v.start } else { v.start + (end - v.pgoff) }))
    };
    let mut i = 0;
    while let Some((vma, start, end)) = vma_at(k, i) {
        if start < end {
            k.site(Site::TruncateUnmap).await;
            zap_page_range_single(k, vma, start, end, details).await;
        }
        i += 1;
    }
    k.unlock(Lock::IMmapRead(file));
}

/// `truncate_inode_pages_range()` and `shmem_undo_range()`: empties the page cache.
async fn truncate_inode_pages(k: &Cpu, file: FileId, from: u32, to: u32) {
    let end = k.s().w.files[file as usize].indices().end.min(to);
    let mut index = from;
    while index < end {
        let mut next = index + 1;
        // A folio that is swapped out or in meanwhile has changed its place: look again.
        loop {
            let done = match k.cache_entry(file, index) {
                CacheEntry::Empty => true,
                lost @ CacheEntry::Poisoned => k.page_cache_cmpxchg(file, index, lost, CacheEntry::Empty),
                swap @ CacheEntry::Swap(slot) => shmem_free_swap(k, file, index, swap, slot).await,
                CacheEntry::Folio(_) => match truncate_folio_at(k, file, index, (from, to)).await {
                    Truncated::Gone => true,
                    Truncated::Again => false,
                    Truncated::Partial { end } => {
                        next = end;
                        true
                    }
                },
            };
            if done {
                break;
            }
        }
        index = next;
    }
}

/// `shmem_free_swap()`: false when the entry has changed.
async fn shmem_free_swap(k: &Cpu, file: FileId, index: u32, entry: CacheEntry, slot: u32) -> bool {
    k.site(Site::CacheRemove).await;
    let cleared = k.page_cache_cmpxchg(file, index, entry, CacheEntry::Empty);
    if cleared {
        free_swap_and_cache(k, slot).await;
    }
    cleared
}

/// What became of what is at an index.
enum Truncated {
    /// It is not in the page cache any more.
    Gone,
    /// It is somewhere else by now, or has been split: look again.
    Again,
    /// A part of a large folio that cannot be split is zero now, and the folio stays.
    Partial {
        /// The index behind it.
        end: u32,
    },
}

/// `truncate_inode_folio()` of what is at an index, with the folio locked, or `truncate_inode_partial_folio()` when not all
/// of it is to go.
async fn truncate_folio_at(k: &Cpu, file: FileId, index: u32, range: (u32, u32)) -> Truncated {
    let CacheEntry::Folio(folio) = filemap_get_entry(k, file, index).await else { return Truncated::Again };
    k.site(Site::TruncateFolio).await;
    k.lock(Lock::Folio(folio)).await;
    let mut result = Truncated::Again;
    if folio_is_at(k, folio, file, index) {
        k.folio_wait_writeback(folio).await;
        let f = k.folio(folio);
        let end = f.index + f.nr_pages();
        if range.0 <= f.index && end <= range.1 {
            truncate_inode_folio(k, folio, file).await;
            result = Truncated::Gone;
        } else if !truncate_inode_partial_folio(k, folio, range).await {
            result = Truncated::Partial { end };
        }
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
    result
}

/// The rest of `truncate_inode_partial_folio()`: zeroes the pages of a large folio that are to go, and splits it. False when
/// it cannot be split: then it stays, as `shmem_undo_range()` has marked it dirty.
async fn truncate_inode_partial_folio(k: &Cpu, folio: Pfn, (from, to): (u32, u32)) -> bool {
    k.folio_mark_dirty(folio);
    let f = k.folio(folio);
    // folio_zero_range()
    k.site(Site::TruncateZero).await;
    if !k.has(Defect::T10) {
        for i in (0..f.nr_pages()).filter(|i| (from..to).contains(&(f.index + i))) {
            k.s().w.mem.folios[(folio + i) as usize].data = 0;
        }
    }
    split_folio(k, folio).await
}

/// `truncate_inode_folio()` of a locked folio: unmaps it everywhere and takes it out of the page cache.
pub(super) async fn truncate_inode_folio(k: &Cpu, folio: Pfn, file: FileId) {
    // truncate_cleanup_folio()
    if k.folio_mapped(folio) {
        unmap_mapping_folio(k, folio, file).await;
    }
    k.folio_clear(folio, Flags::DIRTY);
    filemap_remove_folio(k, folio).await;
}

/// `mapping_evict_folio()` of a locked folio to which the caller has a reference: takes it out of the page cache if it is
/// clean and nobody else refers to it.
pub(super) fn mapping_evict_folio(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    let used = f.flags.has(Flags::DIRTY) || f.flags.has(Flags::WRITEBACK);
    // remove_mapping() freezes the count at these two.
    if f.mapping == 0 || used || f.refcount != 2 || f.large() {
        return false;
    }
    k.page_cache_remove(folio, CacheEntry::Empty);
    k.folio_put(folio);
    true
}
