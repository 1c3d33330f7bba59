//! Rules: every invariant, every oracle check and every assertion of the modelled kernel, as one table.
//!
//! A row gives a stable id, a one-line summary, where the rule comes from and when it must hold. What checks
//! the rule stands in [`crate::invariant`], [`crate::oracle`] or beside the primitive that notices it; what it
//! found is a [`Violation`]: a typed value with evidence, never a string.

use crate::site::Site;

/// When a rule must hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum When {
    /// At every step, at the very access.
    Always,
    /// Whenever no page-table lock of the entry's table is held.
    PtlReleased,
    /// After the flush or invalidation that takes a translation away has completed.
    AfterFlush,
    /// When a frame, slot or table is given back.
    AtFree,
    /// When no operation is in flight on any CPU.
    Quiescent,
    /// When an operation returns.
    AtReturn,
    /// After every process has exited.
    AtExit,
}

impl When {
    /// Words for a table.
    pub fn name(self) -> &'static str {
        match self {
            When::Always => "every step",
            When::PtlReleased => "page-table lock released",
            When::AfterFlush => "after flush",
            When::AtFree => "at free",
            When::Quiescent => "nothing in flight",
            When::AtReturn => "at return",
            When::AtExit => "after exit",
        }
    }
}

macro_rules! rules {
    ($($name:ident = $id:literal, $when:ident, $summary:literal, $source:literal;)*) => {
        /// A rule of the judge.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Rule { $(#[doc = $summary] $name),* }

        impl Rule {
            /// Every rule, in table order.
            pub const ALL: [Rule; [$($id),*].len()] = [$(Rule::$name),*];

            /// Stable id.
            pub fn id(self) -> &'static str {
                match self { $(Rule::$name => $id),* }
            }

            /// The rule in one line.
            pub fn summary(self) -> &'static str {
                match self { $(Rule::$name => $summary),* }
            }

            /// Where the rule comes from.
            pub fn source(self) -> &'static str {
                match self { $(Rule::$name => $source),* }
            }

            /// When it must hold.
            pub fn when(self) -> When {
                match self { $(Rule::$name => When::$when),* }
            }
        }
    };
}

rules! {
    // What user space and devices can notice: judged by the oracle.
    OracleValue = "oracle.value", Always,
        "a load returns the value of the last store", "program order and coherence of one memory cell";
    OracleAccess = "oracle.access", Always,
        "an access succeeds exactly where the mapping permits it", "mmap(2), mprotect(2)";
    OracleSignal = "oracle.signal", Always,
        "a signal is delivered exactly where the mapping forbids the access", "mmap(2), signal(7)";
    OracleResult = "oracle.result", AtReturn,
        "a system call returns what its manual page promises", "mmap(2), munmap(2), mprotect(2), madvise(2), fork(2)";
    OracleSoftDirty = "oracle.soft-dirty", AtReturn,
        "a page written since clear_refs reads soft-dirty", "Documentation/admin-guide/mm/soft-dirty.rst";

    // Counts.
    Mapcount = "accounting.mapcount", PtlReleased,
        "a folio's mapcount is the number of entries that its release counts as mappings",
        "include/linux/rmap.h; before 6.15 a device-exclusive entry held a reference but was not counted";
    Refcount = "accounting.refcount", Quiescent,
        "a folio's refcount is its entries, its place in the page cache or the swap cache, and its pins", "mm/migrate.c: folio_expected_refs()";
    FreedInUse = "accounting.freed-in-use", AtFree,
        "a folio is freed only when no entry, cache or pin refers to it", "mm/swap.c: __folio_put()";
    AnonExclusive = "accounting.anon-exclusive", PtlReleased,
        "a PageAnonExclusive page is referred to by one entry only, and only such a page is mapped writable",
        "include/linux/page-flags.h: PG_anon_exclusive; mm/memory.c: do_wp_page()";
    SwapMap = "accounting.swap-map", Quiescent,
        "a slot's count is the number of swap entries that name it", "mm/swapfile.c: swap_duplicate(), swap_free()";
    Rss = "accounting.rss", Quiescent,
        "the counters of mapped pages and of swap entries are the numbers of such entries, and zero in the end",
        "include/linux/mm.h: mm_counter(); kernel/fork.c: check_mm()";

    // Entries.
    Accessor = "entry.accessor", Always,
        "an entry is read with an accessor of its own kind", "include/linux/pgtable.h, include/linux/swapops.h";
    Transition = "entry.transition", Always,
        "an entry changes only from one kind to another that some kernel function makes of it",
        "the table in core/src/entry";
    BadPfn = "entry.bad-pfn", Always,
        "a PFN read from an entry names a frame of the machine", "include/linux/mm.h: pfn_to_page()";
    WalkKind = "entry.walk-kind", Always,
        "page_vma_mapped_walk() returns an entry of the kind it was asked for", "mm/page_vma_mapped.c: check_pte()";
    WritableSoftDirty = "entry.writable-soft-dirty", Always,
        "an entry that waits for its first write is not writable",
        "mm/internal.h: pte_needs_soft_dirty_wp()";
    WritableUffdWp = "entry.writable-uffd-wp", Always,
        "an entry that userfaultfd has write-protected is not writable",
        "include/linux/userfaultfd_k.h: userfaultfd_pte_wp(); arch pgtable.h: pte_mkuffd_wp()";
    WritablePageCache = "entry.writable-page-cache", Always,
        "an entry of a private file mapping that maps a page of the page cache is not writable",
        "mm/memory.c: do_cow_fault(), do_wp_page()";
    WritableVma = "entry.writable-vma", Always,
        "an entry is writable only in a VMA with VM_WRITE", "mm/memory.c: maybe_mkwrite()";
    NoteVma = "entry.note-vma", Always,
        "a note of uffd-wp (marker or special entry) stands only in mappings of files, or where it was asked for",
        "mm/userfaultfd.c, include/linux/userfaultfd_k.h: userfaultfd_wp_use_markers()";

    // Cached translations.
    StaleTlb = "tlb.stale-after-flush", AfterFlush,
        "no CPU can use a translation that allows more than the entry does", "Documentation/core-api/cachetlb.rst";
    TlbFreedFrame = "tlb.freed-frame", AtFree,
        "no CPU can use a translation to a frame that is freed", "Documentation/core-api/cachetlb.rst";
    StaleDevice = "device.stale-after-invalidate", AfterFlush,
        "no device can use a translation that allows more than the entry does", "Documentation/mm/hmm.rst";
    DeviceFreedFrame = "device.freed-frame", AtFree,
        "no device can use a translation to a frame that is freed", "Documentation/mm/mmu_notifier.rst";
    TwoExclusive = "device.two-exclusive", Quiescent,
        "only one device has access to a device-exclusive page", "Documentation/mm/hmm.rst";
    NotifierUnbalanced = "device.notifier-unbalanced", AtReturn,
        "every invalidate_range_start has its invalidate_range_end", "include/linux/mmu_notifier.h";

    // Locks.
    EntryUnlocked = "lock.entry-unlocked", Always,
        "an entry is changed only under the lock of its table", "Documentation/mm/split_page_table_lock.rst";
    LockOrder = "lock.order", Always,
        "locks are taken in the documented order", "mm/rmap.c: lock ordering; mm/filemap.c";
    SleepInAtomic = "lock.sleep-in-atomic", Always,
        "nothing sleeps while it holds a spinlock", "include/linux/kernel.h: might_sleep()";
    Deadlock = "lock.deadlock", Always,
        "some CPU can always go on", "Documentation/locking/lockdep-design.rst";
    NotOwner = "lock.not-owner", Always,
        "a lock is released by the CPU that holds it", "Documentation/locking/lockdep-design.rst";
    HeldAtReturn = "lock.held-at-return", AtReturn,
        "an operation returns with no lock held", "kernel/locking/lockdep.c: lockdep_sys_exit()";

    // Progress.
    ProgressReclaim = "progress.reclaim", AtReturn,
        "a folio that is held by nothing but its mappings can be reclaimed", "mm/vmscan.c: shrink_folio_list()";
    ProgressMigrate = "progress.migrate", AtReturn,
        "a folio that is held by nothing but its mappings can be migrated", "mm/migrate.c: migrate_pages()";
    ProgressOffline = "progress.offline", AtReturn,
        "a memory block whose folios are held by nothing but their mappings can be offlined (unless a page of a large one has failed)",
        "mm/memory_hotplug.c: offline_pages()";
    ProgressSteps = "progress.steps", Always,
        "an operation ends within its budget of steps", "docs/ARCHITECTURE.md: every loop has a budget";

    // Leaks.
    LeakFolio = "leak.folio", AtExit, "every folio is freed", "mm/page_alloc.c";
    LeakSwap = "leak.swap", AtExit, "every swap slot is freed", "mm/swapfile.c";
    LeakTable = "leak.table", AtExit, "every page-table page is freed", "mm/memory.c: free_pgtables()";
    LeakAnonVma = "leak.anon-vma", AtExit, "every anon_vma is freed", "mm/rmap.c: unlink_anon_vmas()";

    // The modelled kernel's own assertions.
    BugRestoreExclusive = "bug.restore_exclusive_pte", Always,
        "a restored writable page is an exclusive anonymous page",
        "include/linux/page-flags.h: PG_anon_exclusive (the kernel's own VM_BUG_ON_FOLIO there tests less)";
    BugSwapPageExclusive = "bug.do_swap_page", Always,
        "a page in the swap cache that a swap entry names is not PageAnonExclusive", "mm/memory.c: BUG_ON in do_swap_page()";
    BugSwapPageWritable = "bug.do_swap_page-writable", Always,
        "a page swapped in writable is PageAnonExclusive", "mm/memory.c: VM_BUG_ON in do_swap_page()";
    BugMigrateExclusive = "bug.try_to_migrate_one", Always,
        "a writable anonymous PTE maps a PageAnonExclusive page", "mm/rmap.c: VM_WARN_ON_FOLIO in try_to_migrate_one()";
    BugDupRmap = "bug.folio_try_dup_anon_rmap", Always,
        "a page that fork shares is not PageAnonExclusive afterwards", "mm/memory.c: VM_WARN_ON_FOLIO in copy_present_ptes()";
    BugCacheMapped = "bug.page-cache-mapped", Always,
        "a folio that leaves the page cache is not mapped", "mm/filemap.c: VM_BUG_ON_FOLIO in filemap_unaccount_folio()";
    BugSwapCount = "bug.swap_free", Always,
        "a swap slot that is freed is in use", "mm/swapfile.c: __swap_entry_free_locked()";
    BugRmapUnderflow = "bug.folio_remove_rmap", Always,
        "a mapcount never falls below zero", "mm/memory.c: the bad-page check in zap_present_folio_ptes()";
    BugRefUnderflow = "bug.folio_put", Always,
        "a refcount never falls below zero", "include/linux/mm.h: put_page_testzero()";
    BugUnlocked = "bug.folio_unlocked", Always,
        "a function that needs the folio lock is called with it", "VM_BUG_ON_FOLIO(!folio_test_locked)";
    BugPageTableCheck = "bug.page_table_check", Always,
        "no writable entry is uffd-wp, and a page that is mapped writable is mapped once",
        "mm/page_table_check.c: page_table_check_pte_flags(), page_table_check_set()";
    BugWritableZero = "bug.writable-zero-page", Always,
        "the zero page is never mapped writable", "mm/memory.c: do_anonymous_page(); include/linux/pgtable.h: is_zero_pfn()";

    // Memory failure.
    PoisonMapped = "poison.mapped-again", Always,
        "a page whose memory has failed is never mapped again", "Documentation/mm/hwpoison.rst; mm/page_alloc.c: free_pages_prepare()";
    OraclePoison = "oracle.poison", Always,
        "a page lost to a memory failure gives SIGBUS until it is unmapped or dropped", "madvise(2): MADV_HWPOISON; Documentation/mm/hwpoison.rst";
    BugUnmapSwapcache = "bug.try_to_unmap_one", Always,
        "an anonymous page that is replaced by a swap entry is in the swap cache",
        "mm/rmap.c: WARN_ON_ONCE in try_to_unmap_one(): folio_test_swapbacked() != folio_test_swapcache()";
    ProgressSwapoff = "progress.swapoff", AtReturn,
        "a swap device can be taken out of use when there is memory for what is on it", "mm/swapfile.c: try_to_unuse()";
    KsmWritable = "ksm.writable", Always,
        "a KSM page is never mapped writable", "mm/memory.c: wp_can_reuse_anon_folio(); mm/ksm.c: write_protect_page()";
    Memcg = "accounting.memcg", Quiescent,
        "a control group's counters are the numbers of folios and swap slots that are charged to it",
        "mm/memcontrol.c: charge_memcg(), uncharge_folio(), mem_cgroup_swapout()";
    MemcgLeftBehind = "memcg.left-behind", AtReturn,
        "where charges move with a process, those of all its pages move",
        "Documentation/admin-guide/cgroup-v1/memory.rst: move charges at task migration";
    LeakMemcg = "leak.memcg", AtExit, "every charge is uncharged", "mm/memcontrol.c: uncharge_folio()";
    // Large folios.
    DeferredSplit = "accounting.deferred-split", Quiescent,
        "a large folio with only some pages mapped is on the deferred split queue",
        "mm/rmap.c: __folio_remove_rmap(); mm/huge_memory.c: deferred_split_folio()";
    BugUnpin = "bug.unpin_user_page", Always,
        "an anonymous page that is unpinned is PageAnonExclusive", "mm/gup.c: VM_BUG_ON_PAGE in sanity_check_pinned_pages()";
    ProgressUserfault = "progress.userfault", Always,
        "a monitor that resolves a userfault does not wait in one", "fs/userfaultfd.c: handle_userfault()";
    OracleUffdMissed = "oracle.uffd-missed", Always,
        "an access to a missing or protected page of userfaultfd waits until it is resolved",
        "Documentation/admin-guide/mm/userfaultfd.rst";
    OracleUffdEvent = "oracle.uffd-event", Always,
        "an access raises a userfault only where the page is missing or protected, and only once",
        "Documentation/admin-guide/mm/userfaultfd.rst";
    OracleUffdWakeup = "oracle.uffd-lost-wakeup", AtReturn,
        "a thread that waits in a userfault goes on when it is woken", "fs/userfaultfd.c: handle_userfault(), wake_userfault()";
    OracleUffdPagemap = "oracle.uffd-wp", AtReturn,
        "pagemap reports exactly the pages as uffd-wp that userfaultfd write-protects",
        "Documentation/admin-guide/mm/pagemap.rst";
    LazyMmu = "lock.lazy-mmu", Always,
        "lazy MMU mode is not nested, and is left before anything sleeps", "include/linux/pgtable.h: arch_enter_lazy_mmu_mode()";
    BugHugetlbSplit = "bug.hugetlb-split", Always,
        "the PMD of a hugetlb page is never split",
        "mm/gup.c: check_vma_flags() since 6.15; the split ends in mm/page_table_check.c: BUG_ON in page_table_check_set()";
    BugHugetlbPte = "bug.hugetlb-pte", Always,
        "the entry of a hugetlb page is never one that is made for a PTE",
        "mm/rmap.c: make_device_exclusive() since 6.15; mm/hugetlb.c: BUG_ON in huge_pte_alloc()";
    RawFrame = "pfnmap.taken-for-page", Always,
        "a frame of a PFN map is never treated as a struct page: counted, locked or freed",
        "mm/memory.c: vm_normal_page(); include/linux/mm.h: VM_PFNMAP";
    BugRemap = "bug.remap_pte_range", Always,
        "remap_pfn_range() finds only empty entries", "mm/memory.c: BUG_ON in remap_pte_range()";
    HugetlbCounts = "accounting.hugetlb", Quiescent,
        "the counters of the hugetlb pool (all, free, surplus, reserved pages) are right",
        "Documentation/mm/hugetlbfs_reserv.rst; mm/hugetlb.c: struct hstate";
    SharedTable = "accounting.shared-table", Quiescent,
        "a PMD table is shared only by hugetlb mappings of one protection that cover all of it, and its count of sharers is right",
        "mm/hugetlb.c: page_table_shareable(); include/linux/mm_types.h: ptdesc_pmd_pts_inc()";
    LeakHugetlb = "leak.hugetlb", AtExit,
        "no reservation and no surplus page of hugetlb is left",
        "Documentation/mm/hugetlbfs_reserv.rst; mm/hugetlb.c: hugetlb_vm_op_close(), hugetlb_unreserve_pages()";
    FreedTable = "lock.freed-table", Always,
        "the lock of a page table is not taken after the table was freed",
        "mm/pgtable-generic.c: __pte_offset_map_lock(), pte_free_defer()";
    BugSpecialPte = "bug.special-pte", Always,
        "code that does not know swap-special entries never finds one", "pte_none_not_special() as proposed in July 2021: it warns";
    OracleMincore = "oracle.mincore", AtReturn,
        "mincore reports locked pages as resident", "mlock(2); mincore(2): only locked pages are guaranteed to remain in memory";
    OracleSmaps = "oracle.smaps", AtReturn,
        "the numbers of smaps agree with each other and with what must be in memory or swapped out",
        "Documentation/filesystems/proc.rst: smaps";
    MlockReclaimed = "mlock.reclaimed", Always,
        "reclaim unmaps no page of a VM_LOCKED mapping", "mlock(2); mm/rmap.c: try_to_unmap_one()";
    MlockStranded = "mlock.stranded", Quiescent,
        "a page that no VM_LOCKED mapping maps is not PG_mlocked",
        "Documentation/mm/unevictable-lru.rst; mm/mlock.c: munlock_folio()";
    MlockFreed = "mlock.freed", AtFree,
        "a page is not freed while PG_mlocked, unless munlock was interrupted",
        "mm/page_alloc.c: the comment about Mlocked in free_pages_prepare()";
    GupMovable = "gup.longterm-movable", AtReturn,
        "a page that is pinned for a long time is not in ZONE_MOVABLE",
        "mm/gup.c: check_and_migrate_movable_pages(); Documentation/admin-guide/mm/memory-hotplug.rst";
    OracleUffdChange = "oracle.uffd-change", AtReturn,
        "the monitor hears of memory that moves, goes or is emptied, and of forks: once, before the call returns, and of nothing else",
        "Documentation/admin-guide/mm/userfaultfd.rst: Non-cooperative userfaultfd; userfaultfd(2)";
    OracleHmm = "oracle.hmm", AtReturn,
        "what a driver is told of a page without a fault is no more than the process could do without one",
        "Documentation/mm/hmm.rst: address space mirroring; mm/hmm.c: hmm_vma_handle_pte()";
}

impl Rule {
    /// The rule with this id.
    pub fn from_id(id: &str) -> Option<Rule> {
        Rule::ALL.into_iter().find(|r| r.id() == id)
    }

    /// True for what user space or a device can notice: the checks of the oracle.
    pub fn visible(self) -> bool {
        self.id().starts_with("oracle.")
    }
}

/// What was seen when a rule was broken. Fields that do not apply are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Evidence {
    /// CPU on whose behalf the step ran.
    pub cpu: Option<u8>,
    /// Process (0 = `A`).
    pub proc: Option<u8>,
    /// Virtual page number.
    pub vpn: Option<u32>,
    /// Frame.
    pub pfn: Option<u32>,
    /// Device.
    pub device: Option<u8>,
    /// What the rule wants, where it is a number or a token.
    pub expected: Option<u64>,
    /// What was found.
    pub found: Option<u64>,
    /// Name of what was done: an accessor, a lock, an entry kind.
    pub what: Option<&'static str>,
    /// A second name, for example the kind of the entry that the accessor was used on.
    pub on: Option<&'static str>,
}

/// A broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// Index of the op during which it was noticed, in the order of the case. `None`: after the last.
    pub op: Option<u32>,
    /// Step count at which it was noticed.
    pub step: u32,
    /// Where in the modelled kernel: the causal site first (where the state went wrong, when that is known),
    /// then the site at which it was noticed.
    pub sites: [Option<Site>; 2],
    /// What was seen.
    pub evidence: Evidence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_round_trip() {
        for r in Rule::ALL {
            assert_eq!(Rule::from_id(r.id()), Some(r));
            assert!(!r.summary().is_empty() && !r.source().is_empty());
        }
    }
}
