//! Sites: named places in the modelled kernel where another CPU or a device may act.
//!
//! A name is `function:what-has-just-been-or-is-about-to-be-done`. Names are public and stable: saved cases
//! refer to them. A case that names an unknown site is an error, never silent drift.

macro_rules! sites {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// A named place at which somebody else may act.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Site { $(#[doc = $doc] $name),* }

        impl Site {
            /// Every site, in table order.
            pub const ALL: [Site; [$($text),*].len()] = [$(Site::$name),*];

            /// Stable name.
            pub fn name(self) -> &'static str {
                match self { $(Site::$name => $text),* }
            }

            /// What is about to happen there.
            pub fn summary(self) -> &'static str {
                match self { $(Site::$name => $doc),* }
            }
        }
    };
}

sites! {
    OpStart = "op:start", "An op is about to begin.";
    Access = "access:retire", "A load or store is about to look up its translation and retire.";
    Lock = "lock:acquire", "A lock is about to be taken.";
    FaultEntry = "handle_pte_fault:read", "The entry is about to be read without its lock.";
    AnonFaultAlloc = "do_anonymous_page:alloc", "A zeroed folio is about to be allocated.";
    AnonFaultSet = "do_anonymous_page:set", "The new entry is about to be set.";
    WpCopy = "wp_page_copy:copy", "The old page is about to be copied, without the page-table lock.";
    WpCopied = "wp_page_copy:copied", "The copy is made; the entry is about to be looked at again.";
    WpReuse = "wp_page_reuse:set", "The entry is about to be made writable in place.";
    SwapInLookup = "do_swap_page:lookup", "The swap cache is about to be searched.";
    SwapInRead = "do_swap_page:read", "The page is about to be read from the swap device.";
    SwapInSet = "do_swap_page:set", "The entry is about to be made present.";
    MigrationWait = "migration_entry_wait:wait", "A fault waits for a migration to end.";
    RestoreExclusive = "restore_exclusive_pte:set", "A device-exclusive entry is about to be made present.";
    RemoveExclusive = "remove_device_exclusive_entry:lock", "A fault is about to lock a device-exclusive folio.";
    PteClear = "ptep_get_and_clear:clear", "An entry is about to be cleared.";
    PteSet = "set_pte_at:set", "An entry is about to be set.";
    TlbFlush = "flush_tlb_range:ipi", "A CPU is about to drop its translations.";
    ZapCleared = "zap_pte_range:cleared", "Entries are cleared; the pages are not yet freed.";
    GatherFlush = "tlb_finish_mmu:flush", "The gathered pages are about to be flushed and freed.";
    UnmapCleared = "try_to_unmap_one:cleared", "The entry is cleared; the swap entry is not yet set.";
    MigrateCleared = "try_to_migrate_one:cleared", "The entry is cleared; the migration entry is not yet set.";
    RmapWalk = "rmap_walk:next", "The next VMA of the anon_vma is about to be looked at.";
    PvmwLock = "page_vma_mapped_walk:lock", "The page-table lock is about to be taken.";
    SwapOutAdd = "add_to_swap:add", "The folio is about to be put into the swap cache.";
    SwapOutWrite = "pageout:write", "The folio is about to be written to the swap device.";
    SwapOutFree = "__remove_mapping:freeze", "The refcount is about to be frozen and the folio freed.";
    ReclaimIsolate = "shrink_folio_list:isolate", "A folio is about to be taken off the LRU.";
    ForkCopy = "copy_pte_range:entry", "The next entry is about to be copied.";
    ForkFlush = "dup_mmap:flush", "The parent's translations are about to be flushed.";
    ProtectChange = "change_pte_range:entry", "The next entry is about to be changed.";
    ProtectFlush = "change_protection:flush", "Entries are changed; the flush is not yet done.";
    MadvisePageout = "madvise_pageout:isolate", "The next page is about to be isolated.";
    MigrateUnmap = "migrate_folio_unmap:unmap", "A folio is about to be replaced by migration entries.";
    MigrateCopy = "migrate_folio_move:copy", "The contents are about to be copied.";
    MigrateRestore = "remove_migration_ptes:restore", "Migration entries are about to be made present.";
    OfflinePass = "offline_pages:pass", "Another pass over the block is about to begin.";
    ExclusiveGup = "make_device_exclusive:gup", "The page is about to be faulted in writable.";
    ExclusiveLock = "make_device_exclusive:lock", "The folio is about to be locked.";
    ExclusiveConvert = "make_device_exclusive:convert", "The PTE is about to be converted.";
    ExclusiveProgram = "dmirror_atomic_map:program", "The device's table is about to be programmed.";
    NotifierStart = "mmu_notifier:start", "The subscribers of an address space are about to be told.";
    NotifierEnd = "mmu_notifier:end", "The subscribers are about to be told that it is over.";
    DeviceAccess = "device:access", "A device is about to use its own table.";
    HmmFault = "hmm_range_fault:walk", "The CPU's entry is about to be read for the device.";
    HmmProgram = "dmirror_fault:program", "The mirror is about to be programmed, if the sequence still holds.";
    ExitMmap = "exit_mmap:begin", "The last user of an address space is gone.";
    ClearRefs = "clear_refs:entry", "The next entry is about to be made clean.";
    PinLookup = "gup:lookup", "The entry is about to be looked up for a pin.";
    Mkclean = "page_vma_mkclean_one:entry", "An entry is about to be cleaned.";
    ReferencedEntry = "folio_referenced_one:entry", "The young bit is about to be tested.";
    VmaCollect = "migrate_vma_collect_pmd:entry", "The entry is about to be replaced by a migration entry, for a device.";
    VmaCopy = "migrate_vma:copy", "The driver is about to copy the page.";
    VmaFinalize = "migrate_vma_finalize:restore", "Migration entries are about to be replaced.";
    ToRam = "migrate_to_ram:begin", "A CPU fault is about to bring a page back from device memory.";
    PoisonFlag = "memory_failure:flagged", "A page whose memory has failed is about to be unmapped, or one is about to be marked.";
    SwapOffRound = "try_to_unuse:round", "Another round over all address spaces is about to begin.";
    SwapInDirect = "do_swap_page:direct", "A page was read past the swap cache; its entry is about to be looked at again.";
    KsmProtect = "write_protect_page:clear", "The entry of a page to be merged is about to be write-protected.";
    KsmReplace = "replace_page:lock", "The entry is write-protected; it is about to be looked at again and replaced.";
    CacheLookup = "filemap_get_entry:load", "The page cache is about to be searched.";
    CacheAdd = "filemap_add_folio:store", "A folio is about to be put into the page cache.";
    CacheRemove = "filemap_remove_folio:store", "An entry of the page cache is about to be removed.";
    FileRead = "filemap_read_folio:read", "A page is about to be read from the disk of a file.";
    FaultAround = "filemap_map_pages:lock", "Pages of the cache around a fault are about to be mapped.";
    FinishFault = "finish_fault:lock", "The page is there; its entry is about to be set.";
    PageMkwrite = "do_page_mkwrite:call", "The file system is about to be told of the first store to a shared page.";
    WritebackClean = "folio_clear_dirty_for_io:clean", "A dirty folio is about to be cleaned for writing.";
    WritebackIo = "folio_start_writeback:io", "The disk is about to take the contents of a folio.";
    TruncateSize = "i_size_write:set", "The size of a file is about to change.";
    TruncateUnmap = "unmap_mapping_range:vma", "The next mapping of a file is about to be zapped.";
    TruncateFolio = "truncate_inode_pages:lock", "A folio is about to be locked for truncation.";
    ShmemSwapIn = "shmem_swapin_folio:lookup", "The page of a tmpfs file is about to be looked for in the swap cache.";
    ShmemSwapOut = "shmem_writepage:delete", "A folio of tmpfs is in the swap cache and about to leave the page cache.";
    MoveCharge = "mem_cgroup_move_charge_pte_range:entry", "The charge of what the next entry maps is about to be moved.";
    PmdSet = "set_pmd_at:set", "A PMD is about to be set.";
    PmdClear = "pmdp_huge_get_and_clear:clear", "A PMD is about to be cleared.";
    PmdInvalidate = "pmdp_invalidate:invalidate", "A huge page is about to be taken out of the hardware's reach.";
    PmdPopulate = "__split_huge_pmd:populate", "The table is about to take the place of the huge page.";
    HugeFault = "do_huge_pmd_anonymous_page:alloc", "A huge page is about to be allocated.";
    HugeZap = "zap_huge_pmd:lock", "A huge page is about to be locked and zapped.";
    SplitUnmap = "split_huge_page:unmap", "The pages of a large folio are about to be replaced by migration entries.";
    SplitFreeze = "split_huge_page:freeze", "The refcount of a large folio is about to be frozen.";
    DeferredSplit = "deferred_split_scan:next", "The next folio is about to be split for its unused pages.";
    CollapseScan = "hpage_collapse_scan_pmd:scan", "A range is about to be looked at for a collapse.";
    CollapseLock = "collapse_huge_page:lock", "The address space is about to be locked for writing.";
    CollapseIsolate = "__collapse_huge_page_isolate:entry", "The next page is about to be isolated.";
    CollapseCopy = "__collapse_huge_page_copy:copy", "The pages are about to be copied.";
    MadviseFree = "madvise_free_pte_range:entry", "The next entry is about to be cleaned or dropped.";
    GuardInstall = "guard_install_pte_entry:set", "The next entry is about to become a guard.";
    MremapMove = "move_ptes:cleared", "An entry is cleared at the old address and not yet set at the new one.";
    MremapMovePmd = "move_normal_pmd:move", "A table is about to be hung below another PMD.";
    MremapFlush = "move_ptes:flush", "The old addresses are about to be flushed.";
    GupFastGrab = "gup_fast_pte_range:grab", "An entry was read without its lock; the page is about to be pinned.";
    GupFastCheck = "gup_fast_pte_range:check", "The page is pinned; the entry is about to be read again.";
    Dma = "dma:transfer", "A device is about to use a pinned page.";
    UserfaultQueue = "handle_userfault:queue", "A thread is about to put itself into the queue of those who wait.";
    UserfaultMustWait = "userfaultfd_must_wait:read", "The entry is about to be read once more, without its lock.";
    UserfaultWake = "wake_userfault:wake", "Those who wait for a userfault are about to be woken.";
    UserfaultRelease = "userfaultfd_release:released", "A userfaultfd is about to be closed.";
    HugetlbAlloc = "alloc_hugetlb_folio:dequeue", "A huge page is about to be taken from the pool.";
    PmdShare = "huge_pmd_share:populate", "A PMD table of another mapping is about to be shared.";
    PmdUnshare = "huge_pmd_unshare:clear", "The share of a PMD table is about to be given up.";
    GupFastPud = "gup_fast_pud_range:pmd", "A PUD was read without a lock; the PMD below it is about to be.";
    HugetlbUnmap = "hugetlb_vmdelete_list:vma", "The next mapping of a file of hugetlbfs is about to be zapped.";
    HugetlbRemove = "remove_inode_hugepages:mutex", "A page of a file of hugetlbfs is about to be removed.";
    UserfaultFill = "mfill_atomic:fill", "The page for a userfault is about to be made.";
    InsertPfn = "insert_pfn:lock", "A frame without a page is about to be mapped at a fault.";
    RemapPfn = "remap_pfn_range:map", "A device is about to be mapped as a whole.";
    DriverFault = "vfio_pci_mmap_fault:fault", "A driver is about to say where a page of its device is.";
    DriverMove = "ttm_bo_handle_move_mem:move", "A driver has taken mappings away and is about to move or clear what they showed.";
    TruncateZero = "truncate_inode_partial_folio:zero", "A part of a large folio is about to be zeroed.";
    HugeZapCleared = "zap_huge_pmd:cleared", "A PMD is cleared; the folio still counts as mapped by it.";
    RetractTable = "retract_page_tables:lock", "An empty page table is about to be locked and taken away.";
    UserfaultMove = "move_pages_pte:move", "A page is about to leave its place for another (UFFDIO_MOVE).";
    OfflineIsolate = "do_migrate_range:isolate", "The next folio of a block that goes off line is about to be isolated.";
    CompactIsolate = "isolate_migratepages_block:isolate", "Compaction is about to take the next page off the LRU.";
    CompactFree = "isolate_freepages:isolate", "Compaction is about to take free pages off their list.";
    MlockEntry = "mlock_pte_range:entry", "The next entry of a mapping that is being locked or unlocked is about to be looked at.";
    RemoteCopy = "__access_remote_vm:copy", "The kernel is about to copy to or from a page for a debugger.";
    UserfaultEvent = "userfaultfd_event_wait_completion:wait", "A thread that has changed or will change memory waits until the monitor has read of it.";
}

impl Site {
    /// The site with this name.
    pub fn from_name(name: &str) -> Option<Site> {
        Site::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The site of an index byte; any byte is one.
    pub fn from_index(index: u8) -> Site {
        Site::ALL[usize::from(index) % Site::ALL.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        for s in Site::ALL {
            assert_eq!(Site::from_name(s.name()), Some(s));
            assert_eq!(Site::from_index(s as u8), s);
        }
    }
}
