//! The page cache of a file, and the disk behind it.

use super::memory::Pfn;
use crate::observe::Token;

/// What `i_pages` holds for an index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CacheEntry {
    /// Nothing.
    #[default]
    Empty,
    /// A folio, to which the cache holds a reference for each of its pages. A large one stands at each of its indices.
    Folio(Pfn),
    /// A value entry (`swp_to_radix_entry()`): the page of a `tmpfs` file is in this swap slot.
    Swap(u32),
    /// A value entry (`make_poisoned_swp_entry()`): the page of a `tmpfs` file was swapped out and could not be read.
    Poisoned,
}

impl CacheEntry {
    /// What an entry that is put for a large folio says at its `i`th index: the swap slots of one folio follow each other.
    pub fn nth(self, i: u32) -> CacheEntry {
        if let CacheEntry::Swap(slot) = self { CacheEntry::Swap(slot + i) } else { self }
    }
}

/// `struct inode` and its `struct address_space`. The VMAs that map it are in [`crate::mm::IMmap`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct PageCache {
    /// `i_size` in pages.
    pub size: u32,
    entries: Vec<CacheEntry>,
    disk: Vec<Token>,
    /// `AS_EIO`: data that were not written yet are lost.
    pub error: bool,
    /// `i_rwsem`, as `truncate` and `fallocate` take it: the CPU that holds it, plus one.
    pub inode_lock: u8,
    /// `invalidate_lock`: CPUs that read.
    pub invalidate_readers: u8,
    /// `invalidate_lock`: the CPU that writes, plus one.
    pub invalidate_writer: u8,
}

impl PageCache {
    /// A file of this many pages, all of them holes, keeping allocations.
    pub fn reset(&mut self, size: u32) {
        let (mut entries, mut disk) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.disk));
        entries.clear();
        disk.clear();
        *self = PageCache { size, entries, disk, ..PageCache::default() };
    }

    /// `xa_load()`.
    pub fn get(&self, index: u32) -> CacheEntry {
        self.entries.get(index as usize).copied().unwrap_or_default()
    }

    /// `xa_store()`.
    pub fn set(&mut self, index: u32, entry: CacheEntry) {
        if self.entries.len() <= index as usize {
            self.entries.resize(index as usize + 1, CacheEntry::Empty);
        }
        self.entries[index as usize] = entry;
    }

    /// Indices that may have an entry.
    pub fn indices(&self) -> std::ops::Range<u32> {
        0..self.entries.len() as u32
    }

    /// What the disk holds for a page.
    pub fn disk(&self, index: u32) -> Token {
        self.disk.get(index as usize).copied().unwrap_or(0)
    }

    /// Writes a page to the disk.
    pub fn write_disk(&mut self, index: u32, data: Token) {
        if self.disk.len() <= index as usize {
            self.disk.resize(index as usize + 1, 0);
        }
        self.disk[index as usize] = data;
    }

    /// Frees the blocks of a range: they read as zeroes.
    pub fn discard_disk(&mut self, from: u32, to: u32) {
        let to = to.min(self.disk.len() as u32);
        if from < to {
            self.disk[from as usize..to as usize].fill(0);
        }
    }
}
