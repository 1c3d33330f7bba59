//! Defects: injected mistakes, each behind a switch that is off unless a release had it or a case asks for it.
//!
//! Ids beginning with `D` are rows of the device-exclusive repair series of 2025, with `A` and `B` those of the
//! userfaultfd threads of 2021 and 2019. Ids beginning with `S` are *seeded*: no kernel had them; they exist so that
//! each check of the judge can be seen to fail. Ids beginning with `N` are *new*: this harness found them in the
//! sources of current releases. They belong to no release's set, so that a hunt on a release looks for what is not
//! known yet. The others are about one subject each, real mistakes with their source or seeded ones: `F` files, `K` KSM,
//! `M` memory control groups, `P` failed memory, `T` huge pages, `U` userfaultfd, `V` mremap, madvise and pins, `W` swap.

use super::Kernel;

macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident = $id:literal, fixed $fixed:expr, $function:literal, $summary:literal, $source:literal;)*) => {
        /// An injected mistake.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Defect { $($(#[$doc])* #[doc = $summary] $name),* }

        impl Defect {
            /// Every defect, in table order.
            pub const ALL: [Defect; [$($id),*].len()] = [$(Defect::$name),*];

            /// Stable id, as written in a case.
            pub fn id(self) -> &'static str {
                match self { $(Defect::$name => $id),* }
            }

            /// First modelled release without it. `None`: no release had it.
            pub fn fixed_in(self) -> Option<Kernel> {
                match self { $(Defect::$name => $fixed),* }
            }

            /// Kernel function that the mistake is in.
            pub fn function(self) -> &'static str {
                match self { $(Defect::$name => $function),* }
            }

            /// What is wrong, in one line.
            pub fn summary(self) -> &'static str {
                match self { $(Defect::$name => $summary),* }
            }

            /// Commit, series or report; `seeded` when no kernel had it.
            pub fn source(self) -> &'static str {
                match self { $(Defect::$name => $source),* }
            }
        }
    };
}

const SERIES: Option<Kernel> = Some(Kernel::V6_15);

defects! {
    D5 = "D5", fixed None, "restore_exclusive_pte",
        "a restored PTE is made writable because its VMA is, without can_change_pte_writable()",
        "what \"mm/memory: detect writability in restore_exclusive_pte()\" must not leave out";
    D7 = "D7", fixed SERIES, "check_pte",
        "a PVMW_MIGRATION walk takes a device-exclusive entry for a migration entry",
        "\"mm/page_vma_mapped: device-private entries are not migration entries\"";
    D8 = "D8", fixed SERIES, "try_to_unmap_one",
        "a device-exclusive entry is read with the accessors of a present PTE",
        "\"mm/rmap: handle device-exclusive entries correctly in try_to_unmap_one()\"";
    D9 = "D9", fixed SERIES, "try_to_migrate_one",
        "a device-exclusive entry is read with the accessors of a present PTE",
        "\"mm/rmap: handle device-exclusive entries correctly in try_to_migrate_one()\"";
    D10 = "D10", fixed SERIES, "folio_referenced_one",
        "the young bit is tested and cleared in a device-exclusive entry",
        "\"mm/rmap: handle device-exclusive entries correctly in folio_referenced_one()\"";
    D11 = "D11", fixed SERIES, "page_vma_mkclean_one",
        "a device-exclusive entry is tested for dirty and write-protected as if it were present",
        "\"mm/rmap: handle device-exclusive entries correctly in page_vma_mkclean_one()\"";
    D12 = "D12", fixed SERIES, "page_make_device_exclusive_one",
        "conversion to device-exclusive removes the mapcount although the entry still maps the folio",
        "\"mm/rmap: keep mapcount untouched for device-exclusive entries\"";
    D13 = "D13", fixed None, "copy_nonpresent_pte",
        "fork copies a device-exclusive entry instead of restoring it first",
        "what copy_nonpresent_pte() has had to do since \"mm: device exclusive memory access\"";
    D15 = "D15", fixed None, "copy_nonpresent_pte",
        "fork leaves a device-private entry writable in parent and child",
        "what copy_nonpresent_pte() has had to do since \"mm: device private memory\"";
    N1 = "N1", fixed None, "clear_soft_dirty",
        "clear_refs leaves a writable migration entry writable: after the migration the page is writable and soft-clean",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N1-soft-dirty-lost-in-migration.md";
    N2 = "N2", fixed None, "clear_soft_dirty",
        "clear_refs leaves a writable device-private entry writable: back in memory the page is writable and soft-clean",
        "seen on real 6.12.117 and 7.3.4 kernels: docs/found/N1-soft-dirty-lost-in-migration.md";
    N3 = "N3", fixed None, "clear_soft_dirty",
        "clear_refs skips a pinned page, which is to stay soft-dirty, although its entry is not soft-dirty",
        "found here; fs/proc/task_mmu.c: clear_soft_dirty() of 6.12 returns early for pte_is_pinned(); not tried";
    S1 = "S1", fixed None, "zap_pte_range", "pages are freed before the TLB is flushed", "seeded";
    S2 = "S2", fixed None, "change_protection", "mprotect takes write permission away without a TLB flush", "seeded";
    S3 = "S3", fixed None, "copy_nonpresent_pte", "fork copies a swap entry without swap_duplicate()", "seeded";
    S4 = "S4", fixed None, "zap_present_folio_ptes", "munmap forgets to lower the RSS counter", "seeded";
    S5 = "S5", fixed None, "wp_can_reuse_anon_folio", "a page with other references is reused for writing", "seeded";
    S6 = "S6", fixed None, "__copy_present_ptes", "fork leaves the parent's PTE writable", "seeded";
    S7 = "S7", fixed None, "folio_referenced_one", "the young bit is cleared without the page-table lock", "seeded";
    S8 = "S8", fixed None, "do_anonymous_page", "the new folio is not put when another thread was faster", "seeded";
    S9 = "S9", fixed None, "do_swap_page", "the PTE is not compared again under its lock", "seeded";
    S10 = "S10", fixed None, "try_to_unmap_one", "MMU notifiers are not called before an entry is replaced", "seeded";
    S11 = "S11", fixed None, "unlink_anon_vmas", "the anon_vma lock is taken under the page-table lock", "seeded";
    S12 = "S12", fixed None, "dmirror_atomic_map", "the device is programmed after the folio lock was dropped", "seeded";
    S13 = "S13", fixed None, "clear_soft_dirty", "clear_refs leaves entries writable", "seeded";
    S14 = "S14", fixed None, "migrate_folio_move", "the old page is freed without copying its contents", "seeded";
    S15 = "S15", fixed None, "hmm_range_fault", "the mirror is programmed without mmu_interval_read_retry()", "seeded";
    S16 = "S16", fixed None, "swap_free", "a swap-in forgets to give the slot's reference back", "seeded";
    S17 = "S17", fixed None, "free_pgtables", "a PTE table is not given back when a process exits", "seeded";
    S18 = "S18", fixed None, "do_wp_page", "copy-on-write maps the copy without a TLB flush of the old page", "seeded";
    D16 = "D16", fixed Some(Kernel::V6_6), "memory_block_online",
        "a block with failed memory in it is put back into use, with the failed pages",
        "5033091de814 (\"mm/hwpoison: introduce per-memory_block hwpoison counter\", 6.2) refuses that";
    P1 = "P1", fixed SERIES, "do_migrate_range",
        "offlining unmaps a poisoned folio without its lock",
        "af288a426c3e (\"hwpoison, memory_hotplug: lock folio before unmap hwpoisoned folio\", CVE-2025-21931)";
    P2 = "P2", fixed None, "soft_offline_page",
        "soft offline frees the old page before it is marked",
        "before 79f5f8fab482 (\"mm,hwpoison: rework soft offline for in-use pages\", 5.10)";
    W1 = "W1", fixed Some(Kernel::V6_12), "do_swap_page",
        "a swap-in that skips the swap cache does not claim the slot: another thread may swap the page in, change it and swap it out again meanwhile",
        "CVE-2024-26759; 13ddaf26be32 (\"mm/swap: fix race when skipping swapcache\", 6.8)";
    W2 = "W2", fixed Some(Kernel::V5_19), "unuse_pte",
        "swapoff maps a page that could not be read",
        "9f186f9e5fa9 (\"mm/swapfile: unuse_pte can map random data if swap read fails\", 5.19)";
    W3 = "W3", fixed Some(Kernel::V5_19), "unuse_pte",
        "swapoff drops soft-dirty and uffd-wp of the entry",
        "14a762dd1977 (\"mm/swapfile: fix lost swap bits in unuse_pte()\", 5.19)";
    K1 = "K1", fixed SERIES, "write_protect_page",
        "KSM reads a device-exclusive entry with the accessors of a present PTE",
        "\"mm/ksm: handle device-exclusive entries correctly in write_protect_page()\"";
    K2 = "K2", fixed None, "wp_can_reuse_anon_folio",
        "a KSM page with one mapping is reused for writing",
        "what wp_can_reuse_anon_folio() must not leave out: folio_test_ksm()";
    K3 = "K3", fixed None, "do_swap_page",
        "a KSM page that was swapped out is mapped where the reverse map does not find it, instead of being copied",
        "what do_swap_page() must not leave out: ksm_might_need_to_copy()";
    S40 = "S40", fixed None, "write_protect_page", "KSM write-protects the page without a TLB flush", "seeded";
    S41 = "S41", fixed None, "replace_page", "KSM does not compare the PTE again under its lock", "seeded";
    N7 = "N7", fixed None, "replace_page",
        "KSM drops soft-dirty and uffd-wp of the entry that it replaces",
        "found here; mm/ksm.c: replace_page() of 6.12 makes the new entry of mk_pte() alone; not tried";
    N8 = "N8", fixed None, "madvise_free_pte_range",
        "MADV_FREE marks a KSM page that one process maps as lazily freed: pages that KSM merges into it later are lost with it",
        "found here; seen on real 6.12.117, 6.18 and 7.3.4 kernels: docs/found/N8-madv-free-of-a-ksm-page.md";
    F1 = "F1", fixed None, "zap_pte_range",
        "a dirty page of a shared file leaves the reverse map before the TLB is flushed: writeback misses stores through the stale translation",
        "\"mm: delay page_remove_rmap() until after the TLB has been flushed\" (5df397dec7c4, in 6.2)";
    F2 = "F2", fixed None, "truncate_pagecache",
        "truncation unmaps once, before it empties the page cache: a private copy that is made in between stays", "seeded";
    F3 = "F3", fixed None, "try_to_unmap_one",
        "reclaim of a shared page forgets the dirty bit of the entry: the page is dropped as clean", "seeded";
    F4 = "F4", fixed None, "do_page_mkwrite",
        "a page that was truncated while the file system was told of the store is made writable all the same", "seeded";
    F5 = "F5", fixed None, "zap_pte_range",
        "punching a hole into a file unmaps the private copies of its pages, too", "seeded";
    M1 = "M1", fixed None, "delete_from_lru_cache",
        "a page that has failed stays charged for ever",
        "before 18365225f044 (\"hwpoison, memcg: forcibly uncharge LRU pages\", 4.12)";
    S42 = "S42", fixed None, "mem_cgroup_move_account", "the old group stays charged for a page that has moved", "seeded";
    D4 = "D4", fixed None, "make_device_exclusive",
        "the second walk does not check that the PTE still maps the page that GUP has found",
        "what \"mm/memory: rework make_device_exclusive()\" of 6.15 has to do on one PTE of a large folio";
    T1 = "T1", fixed None, "__split_huge_pmd_locked",
        "the split of a huge migration entry loses soft-dirty and uffd-wp",
        "2e83ee1d8694 (\"mm: thp: fix flags for pmd migration when split\", 4.20)";
    T2 = "T2", fixed None, "copy_huge_pmd",
        "fork shares a huge page that may be pinned",
        "d042035eaf5f (\"mm/thp: Split huge pmds/puds if they're pinned when fork()\", 5.10)";
    T3 = "T3", fixed None, "change_huge_pmd",
        "the PMD is none for a moment under mmap_lock for reading, and MADV_DONTNEED skips it",
        "ced108037c2a (\"thp: fix MADV_DONTNEED vs. numa balancing race\", 4.11)";
    T4 = "T4", fixed None, "__split_huge_pmd_locked",
        "only the first page of a huge page stays PageAnonExclusive when its PMD is split", "seeded";
    T5 = "T5", fixed None, "change_huge_pmd",
        "mprotect leaves a writable huge migration entry writable", "seeded";
    T6 = "T6", fixed None, "__folio_remove_rmap",
        "a large folio that loses its last PMD and stays mapped in part is not queued for a split", "seeded";
    T7 = "T7", fixed None, "collapse_huge_page",
        "a collapse removes the page table without a TLB flush", "seeded";
    V2 = "V2", fixed None, "madvise_free_pte_range", "MADV_FREE cleans a dirty folio that others map too", "seeded";
    V3 = "V3", fixed None, "madvise_guard_install", "guard pages in a VMA without an anon_vma: fork does not copy them",
        "seeded";
    V4 = "V4", fixed Some(Kernel::V5_14), "move_ptes", "entries are moved and the page-table lock dropped before the flush",
        "CVE-2018-18281, commit eb66ae030829 \"mremap: properly flush TLB before releasing the page\" (4.19)";
    V5 = "V5", fixed Some(Kernel::V6_15), "move_ptes",
        "uffd-wp bits are moved into a mapping that is not registered with userfaultfd",
        "CVE-2025-21696, commit 0cef0bb836e3 \"mm: clear uffd-wp PTE/PMD state on mremap()\" (6.13)";
    V6 = "V6", fixed Some(Kernel::V5_14), "move_normal_pmd", "a page table is moved without the locks of the reverse map",
        "commit 97113eb39fa7 \"mm/mremap: hold the rmap lock in write mode when moving page table entries\" (5.14)";
    V1 = "V1", fixed Some(Kernel::V5_19), "try_to_unmap_one",
        "a lazily freed page is discarded although somebody holds a reference and may write to it",
        "commit 6c8e2a256915 \"mm: fix race between MADV_FREE reclaim and blkdev direct IO read\" (5.18)";
    V7 = "V7", fixed Some(Kernel::V5_19), "gup_must_unshare", "a page that may be shared is pinned for reading without unsharing it",
        "commit a7f226604170 \"mm/gup: trigger FAULT_FLAG_UNSHARE when R/O-pinning a possibly shared anonymous page\" (5.19)";
    V8 = "V8", fixed Some(Kernel::V5_14), "gup_fast", "a walk without locks pins a page that fork is about to share",
        "commit 57efa1fe5957 \"mm/gup: prevent gup_fast from racing with COW during fork\" (5.11)";
    U1 = "U1", fixed None, "handle_userfault", "the entry is checked before the thread is in the wait queue", "seeded";
    U2 = "U2", fixed None, "userfaultfd_copy", "UFFDIO_COPY wakes nobody", "seeded";
    A9 = "A9", fixed None, "migrate_vma_insert_page",
        "a device page is put into a hole without checking again that it still is one: a uffd-wp marker is overwritten",
        "what \"mm/uffd: PTE_MARKER_UFFD_WP\" had to take care of";
    N4 = "N4", fixed None, "userfaultfd_register_range",
        "UFFDIO_REGISTER without WP leaves the uffd-wp bits of the earlier mode in the entries: they become writable with the bit set",
        "found here; mm/userfaultfd.c of 6.12 only changes the VMA";
    N5 = "N5", fixed None, "migrate_vma_insert_page",
        "a zero page that is write-protected by userfaultfd is replaced by a device page without the bit",
        "found here; mm/migrate_device.c of 6.12 takes no notice of pte_uffd_wp()";
    B3 = "B3", fixed None, "change_pte_range",
        "when somebody else has changed the entry during the copy, the loop goes on without the page-table lock",
        "\"userfaultfd: wp: handle COW properly for uffd-wp\", v3 of 2019; needs the design uffd-resolve-copies";
    B4 = "B4", fixed None, "change_pte_range",
        "a page that is mapped once is made writable, although a swap entry of another process names it",
        "\"userfaultfd: wp: handle COW properly for uffd-wp\", v3 of 2019; needs the design uffd-resolve-copies";
    B5 = "B5", fixed None, "change_pte_range",
        "the resolver calls do_wp_page(), which raises a userfault again: the resolver waits for itself",
        "the review of \"userfaultfd: wp: handle COW properly for uffd-wp\", 2019; needs the design uffd-resolve-copies";
    U3 = "U3", fixed None, "copy_nonpresent_pte", "fork copies a uffd-wp marker into a child that is not registered", "seeded";
    U4 = "U4", fixed None, "do_swap_page", "a page that is swapped in loses its uffd-wp bit", "seeded";
    N6 = "N6", fixed None, "make_uffd_wp_pte",
        "PAGEMAP_SCAN leaves a writable migration entry writable: after the migration the page is not write-protected",
        "found here; fs/proc/task_mmu.c of 6.12 only sets the bit";
    A6 = "A6", fixed None, "get_mctgt_type",
        "charge moving treats the note of a protected page like an empty entry: the page of the file stays charged to the old group",
        "uffd-wp series of 2021: a special entry is to be handled like none";
    A7 = "A7", fixed None, "do_swap_page",
        "a fault on a swap-special entry decodes it as a swap entry",
        "uffd-wp series of 2021: do_swap_page() must warn and bail out";
    A8 = "A8", fixed None, "__migration_entry_wait",
        "the wait for a migration decodes the entry without checking that it still is a migration entry",
        "uffd-wp series of 2021: pte_has_swap_entry() instead of is_swap_pte()";
    A12 = "A12", fixed None, "zap_pte_range",
        "MADV_DONTNEED and truncation forget that a page of a file was write-protected", "seeded";
    A10 = "A10", fixed None, "change_pte_range",
        "write protection of a hole in anonymous memory leaves a note there, without being asked to", "seeded";
    D1 = "D1", fixed SERIES, "check_vma_flags",
        "a device-exclusive request splits the PMD of a hugetlb page, as FOLL_SPLIT_PMD is not refused there",
        "\"mm/gup: reject FOLL_SPLIT_PMD with hugetlb VMAs\"; the generic walk of 6.10 made it a mistake";
    D2 = "D2", fixed SERIES, "folio_make_device_exclusive",
        "a hugetlb folio that GUP has returned is made device-exclusive",
        "\"mm/rmap: reject hugetlb folios in folio_make_device_exclusive()\"";
    T8 = "T8", fixed None, "copy_huge_pmd",
        "fork takes no reference to the huge zero page for the child: the shrinker frees it while the child maps it", "seeded";
    V20 = "V20", fixed None, "numa_rebuild_large_mapping",
        "a NUMA hinting fault makes every page of a large folio accessible, also those in the neighbouring mapping",
        "seeded";
    V21 = "V21", fixed None, "do_numa_page",
        "a NUMA hinting fault makes the entry writable because its VMA is, without can_change_pte_writable()",
        "seeded; what 6a56ccbcf6c6 (6.2) must not leave out: a page that fork has shared is written in place";
    P3 = "P3", fixed Some(Kernel::V5_19), "me_pagecache_clean",
        "a failed page of tmpfs is truncated: the next access reads zeroes instead of getting SIGBUS",
        "a76054266661 (\"mm: shmem: don't truncate page if memory failure happens\", 5.16)";
    P4 = "P4", fixed None, "me_pagecache_dirty",
        "the loss of dirty data is not recorded in the mapping of the file: msync reports no EIO", "seeded";
    R1 = "R1", fixed None, "zap_present_ptes",
        "an entry of a PFN map is zapped like that of a normal page: pte_special() is not checked", "seeded";
    R2 = "R2", fixed None, "vma_needs_copy",
        "fork does not copy the entries of a PFN map, and faults of the child cannot make them again", "seeded";
    R3 = "R3", fixed None, "ttm_bo_handle_move_mem",
        "a driver moves a page on its board without unmapping it first", "seeded";
    R4 = "R4", fixed None, "follow_page_pte",
        "GUP takes a reference to a frame of a PFN map: neither VM_PFNMAP nor pte_special() is checked", "seeded";
    R5 = "R5", fixed None, "__wp_page_copy_user",
        "the private copy of a page of a PFN map is filled with zeroes, as there is no page to copy from", "seeded";
    R6 = "R6", fixed None, "hmm_vma_handle_pte",
        "a device that mirrors the process gets a frame of a PFN map, which has no struct page", "seeded";
    N9 = "N9", fixed None, "call_mmap",
        "->mmap() maps a device before the VMA is in i_mmap: an unmap_mapping_range() at that moment misses it",
        "found by reading: mm/mmap.c of 6.12, mmap_region(): call_mmap() comes before vma_link_file()";
    V30 = "V30", fixed None, "copy_vma",
        "mremap puts the new VMA of a file before the old one in i_mmap: a walk can miss the page in both",
        "the order that 948f017b0985 (\"mremap: enforce rmap src/dst vma ordering in case of vma_merge() succeeding in copy_vma()\", 3.2) has to enforce for anonymous memory";
    N20 = "N20", fixed None, "remove_inode_hugepages",
        "a page of hugetlbfs that is faulted in while the file is truncated stays, behind the end of the file",
        "found here; fs/hugetlbfs/inode.c since 6.1 takes the fault mutex only of pages that are there; not tried";
    T9 = "T9", fixed None, "__split_huge_pmd_locked",
        "the split of a PMD that maps a file forgets its dirty bit: the folio is dropped as clean", "seeded";
    T10 = "T10", fixed None, "truncate_inode_partial_folio",
        "a hole in a huge folio that cannot be split is not zeroed", "seeded";
    T11 = "T11", fixed Some(Kernel::V5_14), "zap_pmd_range",
        "truncation skips a PMD that munmap has cleared while the folio still counts as mapped by it",
        "22061a1ffabd (\"mm/thp: unmap_mapping_page() to fix THP truncate_cleanup_page()\", 5.13)";
    C2 = "C2", fixed None, "retract_page_tables",
        "a page table is removed without checking that it is empty: UFFDIO_COPY may have put an anonymous page there",
        "\"mm/khugepaged: retract_page_tables() without mmap or vma lock\", v1, May 2023";
    C4 = "C4", fixed None, "retract_page_tables",
        "the VMA is checked for anonymous pages and userfaultfd before the table is locked, and not again",
        "the review of \"mm/khugepaged: retract_page_tables() without mmap or vma lock\", May 2023";
    C8 = "C8", fixed None, "retract_page_tables",
        "a page table that a fault is about to lock is freed at once",
        "what pte_free_defer() is for: \"mm/pgtable: add pte_free_defer() for pgtable as page\" (6.6)";
    U6 = "U6", fixed None, "mfill_atomic_install_pte",
        "UFFDIO_CONTINUE maps the file's page writable into a private mapping: its stores go to the file", "seeded";
    U5 = "U5", fixed None, "move_present_pte", "UFFDIO_MOVE moves a page that is shared with another process", "seeded";
    N30 = "N30", fixed None, "move_swap_pte",
        "UFFDIO_MOVE carries the uffd-wp bit of a swapped page into memory that is not registered for it",
        "found here; mm/userfaultfd.c of 6.12 and 6.19 copies the entry as it is";
    S43 = "S43", fixed None, "split_page_memcg", "only the first page of a split folio stays charged", "seeded";
    S44 = "S44", fixed None, "tlb_finish_mmu",
        "who zaps does not flush for another zap that has cleared the entries and not flushed yet",
        "as before 99baac21e458 (\"mm: fix MADV_[FREE|DONTNEED] TLB flush miss problem\", 4.13)";
    A4a = "A4a", fixed None, "vma_can_userfault",
        "a PFN map can be registered for asynchronous write protection; insert_pfn() takes the uffd-wp marker for a mapped entry, and the fault repeats for ever",
        "since 6.7; VM_SPECIAL is refused in 6.12.117 and not yet in 6.19. uffd-wp threads of 2021: \"insert_pfn() -> checks for !pte_none\"";
    A4b = "A4b", fixed None, "unmap_region",
        "a uffd-wp marker survives its mapping, and remap_pte_range() finds it when a device is mapped there",
        "seeded; uffd-wp threads of 2021: \"remap_pte_range() -> BUG_ON(!pte_none)\"";
    A4c = "A4c", fixed None, "apply_to_pte_range",
        "a driver maps a page with apply_to_page_range(), which does not check that the entry is empty: a uffd-wp marker is lost",
        "seeded; uffd-wp threads of 2021: \"apply_to_pte_range()\"";
    V40 = "V40", fixed None, "vma_start_write",
        "a change of a mapping does not lock its VMA: faults under the VMA lock run at the same time", "seeded";
    H2 = "H2", fixed SERIES, "__split_vma",
        "a VMA split unshares its PMD table before it takes its locks: the table may be shared again, and both parts keep it",
        "CVE-2025-38084; 081056dc00a2 (\"mm/hugetlb: unshare page tables during VMA split, not before\", 6.16 and stable)";
    H3 = "H3", fixed Some(Kernel::V5_19), "__unmap_hugepage_range",
        "a PMD table is unshared without a TLB flush",
        "CVE-2021-4002; a4a118f2eead (\"hugetlbfs: flush TLBs correctly after huge_pmd_unshare\", 5.16)";
    H4 = "H4", fixed SERIES, "huge_pmd_unshare",
        "a PMD table is used again after unsharing while gup_fast() is still in it",
        "CVE-2025-38085; 1013af4f585f (\"mm/hugetlb: fix huge_pmd_unshare() vs GUP-fast race\", 6.16 and stable)";
    N21 = "N21", fixed None, "move_vma",
        "mremap of a part of a private hugetlb mapping forgets the reservation of the rest: it is never returned to the pool",
        "found here; mm/mremap.c of 6.12 and 6.18: clear_vma_resv_huge_pages() of the whole VMA; not tried";
    N22 = "N22", fixed None, "move_hugetlb_page_tables",
        "a hugetlb table is shared at the new address, which takes i_mmap_rwsem a second time",
        "found here; mm/hugetlb.c of 6.12: huge_pte_alloc() of a whole PUD under i_mmap_lock_write(); not tried";
    H1 = "H1", fixed None, "remove_inode_single_folio",
        "truncation checks that a page of hugetlbfs is unmapped before it locks it: a migration that fails maps it again",
        "7b7387650dcf (\"mm/hugetlb: fix folio is still mapped when deleted\", 6.18); in no release's set, as 6.15 stands for a repaired one";
    V22 = "V22", fixed None, "try_to_unmap_one", "reclaim unmaps pages of VM_LOCKED mappings", "seeded";
    V23 = "V23", fixed Some(Kernel::V5_19), "smaps_pte_entry",
        "smaps reads young and dirty out of migration and device-private entries, and their mapcount",
        "24d7275ce279 (\"fs/proc: task_mmu.c: don't read mapcount for migration entry\", CVE-2023-1582, 5.17)";
    V24 = "V24", fixed None, "smaps_pte_entry", "smaps does not count device-exclusive pages", "seeded";
    N40 = "N40", fixed None, "mlock_pte_range",
        "munlock skips device-exclusive entries: the page stays unevictable for as long as it is mapped (since 6.15)",
        "found here; seen on a real 7.3.4 kernel: docs/found/N40-munlock-of-a-device-page.md";
    N41 = "N41", fixed None, "mlock_pte_range",
        "munlock skips device-private entries: the page is freed with PG_mlocked set, and NR_MLOCK stays too high",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N40-munlock-of-a-device-page.md";
    N23 = "N23", fixed None, "move_hugetlb_page_tables",
        "mremap flushes the old addresses of hugetlb pages only when all have moved: a page may be freed and reused before",
        "found here; read another process's memory on real 6.12.117 and 7.3.4 kernels: docs/found/N23-mremap-of-hugetlb-and-migration.md";
    N24 = "N24", fixed None, "move_hugetlb_page_tables",
        "mremap reads a hugetlb entry without its lock: it finds none while a migration replaces the entry, and leaves the page behind",
        "found here; pages were lost on real 6.12.117 and 7.3.4 kernels: docs/found/N23-mremap-of-hugetlb-and-migration.md";
    V25 = "V25", fixed Some(Kernel::V5_14), "faultin_page",
        "a forced write drops FOLL_WRITE after copy-on-write: when the copy is dropped meanwhile, it writes to the file",
        "CVE-2016-5195 (Dirty COW); 19be0eaffa3a (\"mm: remove gup_flags FOLL_WRITE games from __get_user_pages()\", 4.9)";
    V26 = "V26", fixed Some(Kernel::V6_1), "can_follow_write_pte",
        "a forced write takes any dirty entry for its own copy, but UFFDIO_CONTINUE makes one of a page of the file, too (since 5.16)",
        "CVE-2022-2590; 5535be309971 (\"mm/gup: fix FOLL_FORCE COW security issue and remove FOLL_COW\", 6.0)";
    V31 = "V31", fixed None, "check_and_migrate_movable_pages",
        "a page that is off the LRU at that moment gets a long-term pin in ZONE_MOVABLE",
        "517f496e1e61 (\"mm/gup: revert 'mm: gup: fix infinite loop within __get_longterm_locked'\", 6.17), of 6.14; in no release's set, as 6.15 stands for a repaired one";
    V32 = "V32", fixed Some(Kernel::V6_6), "gup_must_unshare",
        "the zero page, or a page of a file in a private mapping, is pinned for reading without unsharing it",
        "84209e87c696 (\"mm/gup: reliable R/O long-term pinning in COW mappings\", 6.2)";
    N46 = "N46", fixed None, "wp_huge_pmd",
        "a fault that is to unshare a huge page of a file maps it huge again, for ever (since 6.2)",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N46-longterm-pin-of-a-huge-file-page.md";
    V27 = "V27", fixed Some(Kernel::V5_19), "userfaultfd_event_wait_completion",
        "mmap_changing is a flag, not a count: when the first of two events is read, the monitor may fill pages although the second change is under way",
        "a759a909d42d (\"userfaultfd: change mmap_changing to atomic\", 5.15)";
    V28 = "V28", fixed Some(Kernel::V6_12), "dup_mmap",
        "the monitor gets the event of a fork that fails, for a child that does not exist",
        "CVE-2024-50220; f64e67e5d3a4 (\"fork: do not invoke uffd on fork if error occurs\", 6.12)";
    V29 = "V29", fixed SERIES, "madvise_walk_vmas",
        "MADV_DONTNEED skips what another thread splits off the VMA while the monitor reads the event",
        "the walk goes on where the VMA ended before the wait; 6.17 goes on where the advice ended (read in 6.14 and 6.18); 6.15 stands for a repaired release";
    N42 = "N42", fixed None, "vms_gather_munmap_vmas",
        "the monitor hears of an munmap or mmap that fails: of memory that is still there (since 6.12)",
        "found here; seen on a real 6.18 kernel: docs/found/N42-unmap-event-of-a-failed-munmap.md";
    N43 = "N43", fixed None, "madvise_guard_install",
        "MADV_GUARD_INSTALL over write-protected pages of a file zaps them for ever: the zap leaves notes, which are in its way (since 6.15)",
        "found here; seen on a real 6.18 kernel: docs/found/N43-guard-pages-and-userfaultfd.md";
    N44 = "N44", fixed None, "mfill_atomic_install_pte",
        "UFFDIO_COPY and UFFDIO_CONTINUE put a page where a guard is (since 6.13)",
        "found here; seen on a real 6.18 kernel: docs/found/N43-guard-pages-and-userfaultfd.md";
    N45 = "N45", fixed None, "madvise_dontneed_free",
        "the monitor hears that MADV_FREE empties pages of a file, which is then refused",
        "found here; seen on a real 6.18 kernel: docs/found/N42-unmap-event-of-a-failed-munmap.md";
    N25 = "N25", fixed None, "hugetlb_vmdelete_list",
        "private copies of a file of hugetlbfs survive a truncation that races with a fault: the VMA's lock is taken, or the fault has checked the size before",
        "found here; fs/hugetlbfs/inode.c and mm/hugetlb.c of 6.12: what is passed over is looked for in the page cache only; not tried";
    N26 = "N26", fixed None, "__unmap_hugepage_range",
        "a pinned hugetlb page is unmapped: the mapping gets its reservation back before the pool does, and returns one too many",
        "found here; mm/hugetlb.c since 6.11 restores the reservation when the last mapping goes, and counts it when the page is free; not tried";
    N27 = "N27", fixed None, "hugetlb_dup_vma_private",
        "a child that lost its huge page to the owner forks: the grandchild does not know, and reads zeroes",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N27-hugetlb-grandchild-reads-zeroes.md";
    N28 = "N28", fixed None, "free_huge_folio",
        "a hugetlb page that a reservation comes back for is given to the allocator as surplus: the reservation has no page",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N28-hugetlb-reservation-without-a-page.md";
    N29 = "N29", fixed None, "collapse_pte_mapped_thp",
        "collapsing a tmpfs page that PTEs map forgets their dirty bits: what was stored is lost when the page is reclaimed",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N29-collapse-forgets-dirty-ptes.md";
    N31 = "N31", fixed None, "retract_page_tables",
        "a page table goes with the notes of poisoned pages in it, and what was poisoned can be read again",
        "found here; seen on real 6.12.117 and 7.3.4 kernels: docs/found/N31-collapse-forgets-poison.md";
    H5 = "H5", fixed None, "__unmap_hugepage_range",
        "the owner of a hugetlb mapping drops a page that its child still maps, and gets its reservation back",
        "6.11 to 6.19; 6.12.117 restores the reservation on the last unmap only; in no release's set, as 6.15 stands for a repaired one";
    N60 = "N60", fixed None, "do_migrate_range",
        "offlining takes a folio off the LRU while memory_failure() is at it: nobody uncharges it any more",
        "found here; mm/memory_hotplug.c of 6.12 and 6.19 isolates the folio and does not put it back, so delete_from_lru_cache() does nothing; not tried";
    N61 = "N61", fixed None, "stable_tree_search",
        "KSM goes on comparing with a page whose memory has failed, and maps it where it finds equal contents",
        "found here; mm/memory-failure.c of 6.12 and 6.19 leaves the page in the stable tree, and ksm_get_folio() does not ask; not tried";
    H6 = "H6", fixed Some(Kernel::V6_6), "hugetlb_change_protection",
        "a marker of hugetlb memory is changed as if it were a page, and becomes a present entry that maps nobody knows what",
        "commit 0e678153f5be \"mm/hugetlb: fix PTE marker handling in hugetlb_change_protection()\" (6.2), CVE-2022-49760";
    H7 = "H7", fixed Some(Kernel::V6_6), "hugetlb_change_protection",
        "of migration entries of hugetlb pages only writable ones are write-protected for userfaultfd, or resolved",
        "commit 44f86392bdd1 \"mm/hugetlb: fix uffd-wp handling for migration entries in hugetlb_change_protection()\" (6.2)";
    H8 = "H8", fixed Some(Kernel::V6_1), "hugetlb_no_page",
        "userfaultfd is told that a hugetlb page is missing which is there: the entry was seen between a clear and a set",
        "commit 2ea7ff1e39cb \"mm/hugetlb: fix race condition of uffd missing/minor handling\" (6.1)";
    H9 = "H9", fixed Some(Kernel::V6_6), "hugetlb_wp",
        "the first store to a hugetlb page that was write-protected before it was there is not trapped",
        "commit 60d5b473d61b \"mm/hugetlb: fix uffd wr-protection for CoW optimization path\" (6.3)";
    H10 = "H10", fixed Some(Kernel::V6_6), "copy_hugetlb_page_range",
        "fork drops uffd-wp of hugetlb pages that are copied or on their way, although the child is registered for it",
        "\"mm/hugetlb: fix uffd-wp during fork()\" (6.4); mm/hugetlb.c of 6.1 has it";
    H11 = "H11", fixed Some(Kernel::V5_19), "hugetlb_mcopy_atomic_pte",
        "UFFDIO_CONTINUE that fails takes away the reservation of a page that is in the page cache",
        "commit cc30042df6fc \"hugetlb, userfaultfd: fix reservation restore on userfaultfd error\" (5.16)";
    H12 = "H12", fixed None, "userfaultfd_register",
        "PMD tables stay shared when memory is registered for write protection or minor faults",
        "what \"hugetlb/userfaultfd: unshare all pmds for hugetlbfs when register wp\" (5.13) must do";
    H14 = "H14", fixed None, "pagemap_hugetlb_range",
        "pagemap reads a hugetlb entry without its lock, while migration has it clear: a protected page reads as written",
        "6.12.117 takes no lock, 6.18 does; in no release's set, as 6.15 stands for a repaired one";
    N70 = "N70", fixed None, "userfaultfd_unregister",
        "UFFDIO_UNREGISTER up to the middle of a hugetlb page is refused when it has taken the write protection of that page away",
        "found here; seen on real 6.12.117, 6.18.44 and 7.3.4 kernels: docs/found/N70-unregister-of-a-part-of-a-hugetlb-page.md";
    H13 = "H13", fixed Some(Kernel::V6_6), "hugetlb_wp",
        "a hugetlb page that is copied for a pin for reading is write-protected for userfaultfd no longer",
        "\"mm/hugetlb: fix uffd-wp bit lost when unsharing happens\" (6.4)";
}

const _: () = assert!(Defect::ALL.len() <= DefectSet::LEN, "a DefectSet has one bit for each row");

impl Defect {
    /// The defect with this id.
    pub fn from_id(id: &str) -> Option<Defect> {
        Defect::ALL.into_iter().find(|d| d.id() == id)
    }

    /// True when a real kernel, or a patch that was posted for one, had it.
    pub fn historical(self) -> bool {
        self.source() != "seeded"
    }
}

/// A set of defects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DefectSet([u64; DefectSet::WORDS]);

impl DefectSet {
    /// Words of a set.
    pub const WORDS: usize = 4;
    /// Rows that there is room for.
    const LEN: usize = 64 * DefectSet::WORDS;
    /// No defect: the fixed model.
    pub const EMPTY: DefectSet = DefectSet([0; DefectSet::WORDS]);

    /// Where the bit of a defect is.
    #[inline]
    fn bit(d: Defect) -> (usize, u64) {
        (d as usize / 64, 1 << (d as usize % 64))
    }

    /// True when `d` is in the set.
    #[inline]
    pub fn contains(self, d: Defect) -> bool {
        let (word, bit) = DefectSet::bit(d);
        self.0[word] & bit != 0
    }

    /// True when nothing is injected.
    pub fn is_empty(self) -> bool {
        self == DefectSet::EMPTY
    }

    /// The set and `d`.
    #[must_use]
    pub fn with(mut self, d: Defect) -> DefectSet {
        let (word, bit) = DefectSet::bit(d);
        self.0[word] |= bit;
        self
    }

    /// The set without `d`.
    #[must_use]
    pub fn without(mut self, d: Defect) -> DefectSet {
        let (word, bit) = DefectSet::bit(d);
        self.0[word] &= !bit;
        self
    }

    /// Members in table order.
    pub fn iter(self) -> impl Iterator<Item = Defect> {
        Defect::ALL.into_iter().filter(move |d| self.contains(*d))
    }

    /// The set as a bit mask, bit *n* for the *n*th row of the table, the lowest 64 first.
    pub fn bits(self) -> [u64; DefectSet::WORDS] {
        self.0
    }

    /// The set of a bit mask; bits that name no defect are dropped.
    pub fn from_bits(bits: [u64; DefectSet::WORDS]) -> DefectSet {
        Defect::ALL.into_iter().filter(|d| DefectSet(bits).contains(*d)).collect()
    }
}

impl FromIterator<Defect> for DefectSet {
    fn from_iter<I: IntoIterator<Item = Defect>>(iter: I) -> Self {
        iter.into_iter().fold(DefectSet::EMPTY, DefectSet::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_sets_hold_what_was_put_in() {
        for d in Defect::ALL {
            assert_eq!(Defect::from_id(d.id()), Some(d));
            assert!(DefectSet::EMPTY.with(d).contains(d));
            assert!(DefectSet::EMPTY.with(d).without(d).is_empty());
        }
        assert_eq!(DefectSet::from_bits([u64::MAX; DefectSet::WORDS]).iter().count(), Defect::ALL.len());
    }
}
