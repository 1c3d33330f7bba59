//! Which locks there are, and the order in which they nest.
//!
//! The order is that of the comments at the top of `mm/rmap.c` and `mm/filemap.c`, as far as these locks go:
//! `mf_mutex`, `mem_hotplug_lock`, `ksm_thread_mutex`, `i_rwsem`, `mmap_lock`, a VMA's lock, a driver's rwsem,
//! `invalidate_lock`, the locks of hugetlb (`hugetlb_fault_mutex`, `hugetlb_vma_lock`, its `i_mmap_rwsem`), folio lock,
//! `i_mmap_rwsem`, `anon_vma->rwsem`, the driver's mutex (its notifier is called under all of these),
//! `page_table_lock`, PMD lock, PTE-table lock. Two PTE-table locks nest only where the kernel says so
//! (`SINGLE_DEPTH_NESTING` in `copy_pte_range()`, `move_ptes()`), and two PMD locks likewise (`move_normal_pmd()`).

use crate::mm::{AnonVmaId, TableId, VmaId};
use crate::observe::{FileId, HUGETLB_ANON, HUGETLBFS};
use crate::phys::{Pfn, ResvId};

/// One lock, and how it is taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lock {
    /// `mf_mutex` of `mm/memory-failure.c`.
    MemoryFailure,
    /// `mem_hotplug_begin()`.
    MemHotplug,
    /// `ksm_thread_mutex`.
    Ksm,
    /// `inode_lock()` of a file.
    Inode(FileId),
    /// `mmap_read_lock()` of a process.
    MmapRead(u8),
    /// `mmap_write_lock()` of a process.
    MmapWrite(u8),
    /// `vma_start_read()`.
    VmaRead(VmaId),
    /// `down_write()` of a VMA's lock, in `vma_start_write()`.
    VmaWrite(VmaId),
    /// A driver's rwsem for reading: what keeps a device from being unplugged (`kernfs_get_active()`) or reset
    /// (`vfio_pci_core_device->memory_lock`).
    BoardRead(FileId),
    /// The same for writing.
    BoardWrite(FileId),
    /// `filemap_invalidate_lock_shared()` of a file.
    InvalidateRead(FileId),
    /// `filemap_invalidate_lock()` of a file.
    InvalidateWrite(FileId),
    /// `hugetlb_fault_mutex_table[]`.
    HugetlbFault(u8),
    /// `hugetlb_vma_lock_read()` of a shared mapping.
    HugetlbVmaRead(VmaId),
    /// `hugetlb_vma_lock_write()` of a shared mapping.
    HugetlbVmaWrite(VmaId),
    /// The same of a private mapping, whose lock is that of its reservations.
    ResvRead(ResvId),
    /// The same for writing.
    ResvWrite(ResvId),
    /// `folio_lock()`.
    Folio(Pfn),
    /// `i_mmap_lock_read()` of a file.
    IMmapRead(FileId),
    /// `i_mmap_lock_write()` of a file.
    IMmapWrite(FileId),
    /// `anon_vma_lock_read()` of a root.
    AnonVmaRead(AnonVmaId),
    /// `anon_vma_lock_write()` of a root.
    AnonVmaWrite(AnonVmaId),
    /// `dmirror->mutex` of a device and a process.
    Mirror(u8, u8),
    /// `mm->page_table_lock`.
    PageTable(u8),
    /// `pmd_lock()` of a PMD table.
    Pmd(TableId),
    /// The lock of a second PMD table, below another one.
    PmdNested(TableId),
    /// `ptl` of a PTE table.
    Pte(TableId),
    /// `ptl` of a second PTE table, below another one.
    PteNested(TableId),
}

/// Kind of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LockClass {
    /// `mf_mutex`.
    MemoryFailure,
    /// `mem_hotplug_lock`.
    MemHotplug,
    /// `ksm_thread_mutex`.
    Ksm,
    /// `inode->i_rwsem`.
    Inode,
    /// `mmap_lock`.
    Mmap,
    /// `vma->vm_lock`.
    Vma,
    /// A driver's rwsem.
    Board,
    /// `inode->i_rwsem` of a file of `hugetlbfs`, which its `mmap` takes.
    HugetlbInode,
    /// `mapping->invalidate_lock`.
    Invalidate,
    /// `hugetlb_fault_mutex_table`.
    HugetlbFault,
    /// `hugetlb_vma_lock` and `resv_map->rw_sema`.
    HugetlbVma,
    /// `i_mmap_rwsem` of a file of `hugetlbfs`.
    HugetlbIMmap,
    /// The folio lock.
    Folio,
    /// `mapping->i_mmap_rwsem`.
    IMmap,
    /// `anon_vma->rwsem`.
    AnonVma,
    /// The driver's mutex.
    Mirror,
    /// `page_table_lock`.
    PageTable,
    /// The lock of a PMD table.
    Pmd,
    /// The lock of a second PMD table.
    PmdNested,
    /// The lock of a PTE table.
    Pte,
    /// The lock of a second PTE table.
    PteNested,
}

impl LockClass {
    /// All of them, in lockdep's order.
    pub const ALL: [LockClass; 21] = [
        LockClass::MemoryFailure,
        LockClass::MemHotplug,
        LockClass::Ksm,
        LockClass::Inode,
        LockClass::Mmap,
        LockClass::Vma,
        LockClass::Board,
        LockClass::HugetlbInode,
        LockClass::Invalidate,
        LockClass::HugetlbFault,
        LockClass::HugetlbVma,
        LockClass::HugetlbIMmap,
        LockClass::Folio,
        LockClass::IMmap,
        LockClass::AnonVma,
        LockClass::Mirror,
        LockClass::PageTable,
        LockClass::Pmd,
        LockClass::PmdNested,
        LockClass::Pte,
        LockClass::PteNested,
    ];

    /// True for spinlocks.
    pub fn spins(self) -> bool {
        self >= LockClass::PageTable
    }

    /// Name as lockdep would give it.
    pub fn name(self) -> &'static str {
        match self {
            LockClass::MemoryFailure => "mf_mutex",
            LockClass::MemHotplug => "mem_hotplug_lock",
            LockClass::Ksm => "ksm_thread_mutex",
            LockClass::Inode => "inode->i_rwsem",
            LockClass::HugetlbInode => "inode->i_rwsem of hugetlbfs",
            LockClass::Mmap => "mmap_lock",
            LockClass::Vma => "vm_lock",
            LockClass::Board => "memory_lock",
            LockClass::Invalidate => "mapping->invalidate_lock",
            LockClass::HugetlbFault => "hugetlb_fault_mutex_table",
            LockClass::HugetlbVma => "hugetlb_vma_lock",
            LockClass::HugetlbIMmap => "hugetlbfs_i_mmap_rwsem_key",
            LockClass::Folio => "folio_lock",
            LockClass::IMmap => "mapping->i_mmap_rwsem",
            LockClass::AnonVma => "anon_vma->rwsem",
            LockClass::Mirror => "dmirror->mutex",
            LockClass::PageTable => "page_table_lock",
            LockClass::Pmd => "pmd_lock",
            LockClass::PmdNested => "pmd_lock/1",
            LockClass::Pte => "ptlock_ptr(page)",
            LockClass::PteNested => "ptlock_ptr(page)/1",
        }
    }
}

impl Lock {
    /// Its kind.
    #[inline]
    pub fn class(self) -> LockClass {
        match self {
            Lock::MemoryFailure => LockClass::MemoryFailure,
            Lock::MemHotplug => LockClass::MemHotplug,
            Lock::Ksm => LockClass::Ksm,
            Lock::Inode(f) if f == HUGETLBFS => LockClass::HugetlbInode,
            Lock::Inode(_) => LockClass::Inode,
            Lock::MmapRead(_) | Lock::MmapWrite(_) => LockClass::Mmap,
            Lock::VmaRead(_) | Lock::VmaWrite(_) => LockClass::Vma,
            Lock::BoardRead(_) | Lock::BoardWrite(_) => LockClass::Board,
            Lock::InvalidateRead(_) | Lock::InvalidateWrite(_) => LockClass::Invalidate,
            Lock::HugetlbFault(_) => LockClass::HugetlbFault,
            Lock::HugetlbVmaRead(_) | Lock::HugetlbVmaWrite(_) | Lock::ResvRead(_) | Lock::ResvWrite(_) => {
                LockClass::HugetlbVma
            }
            Lock::Folio(_) => LockClass::Folio,
            Lock::IMmapRead(f) | Lock::IMmapWrite(f) if f == HUGETLBFS || f == HUGETLB_ANON => LockClass::HugetlbIMmap,
            Lock::IMmapRead(_) | Lock::IMmapWrite(_) => LockClass::IMmap,
            Lock::AnonVmaRead(_) | Lock::AnonVmaWrite(_) => LockClass::AnonVma,
            Lock::Mirror(..) => LockClass::Mirror,
            Lock::PageTable(_) => LockClass::PageTable,
            Lock::Pmd(_) => LockClass::Pmd,
            Lock::PmdNested(_) => LockClass::PmdNested,
            Lock::Pte(_) => LockClass::Pte,
            Lock::PteNested(_) => LockClass::PteNested,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_classes_stand_in_the_order_of_lockdep() {
        assert!(LockClass::ALL.iter().enumerate().all(|(i, class)| *class as usize == i));
    }
}
