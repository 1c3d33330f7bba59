//! The table of ops: everything a thread, the kernel or a device can do in a case.
//!
//! One row gives an op its code, its name in text, its operands, its family, how often the generator picks it and
//! the kernel function behind it. All ops share one fixed-size record, so decoding and mutation never allocate.

use crate::observe::UffdFlags;
pub use crate::observe::{Backing, FileId, Perm};

use super::family::Family;
use crate::observe::FILES;

/// Who does an op, and so who may notice it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Actor {
    /// A thread of a process: visible to the oracle.
    User,
    /// The kernel on its own account: must change nothing that anybody can see.
    Kernel,
    /// A device that mirrors a process: visible to the oracle.
    Device,
}

/// Which operands an op has, and in which order its text form writes them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// `A op`: a process.
    Proc,
    /// `A fork B`: a process and the name of another (in `arg`).
    ProcProc,
    /// `A mmap heap 4 rw shmem shared`: process, window, number of pages (in `len`), protection and backing (in
    /// `arg`, see [`Op::map_arg`]); without the last two words private anonymous memory.
    Map,
    /// `A op heap[0..4]`: process, window, first page, number of pages.
    Range,
    /// `A mprotect heap[0..4] ro`: a range and a protection (in `arg`).
    RangeProt,
    /// `A op heap[0..4] word word`: a range and any of the op's [`OpCode::flags`] (bits of `arg`).
    RangeFlags,
    /// `A op heap[0]`: process, window, page.
    Page,
    /// `op A heap[0..4]`: a job of the kernel on what is mapped there.
    KernelRange,
    /// `A truncate shmem 3`: process, file (in `arg`), size in pages (in `page`).
    File,
    /// `op block 1`: a job of the kernel on a memory block (in `arg`).
    Block,
    /// `op A cgroup 1`: a job of the kernel on a process and a control group (in `arg`).
    Cgroup,
    /// `op swap 1`: a job of the kernel on a swap device (in `arg`).
    Swap,
    /// `op 2`: a job of the kernel with a number (in `arg`).
    Count,
    /// `gpu0 op A heap[0..4]`: a device (in `arg`), then a range.
    DeviceRange,
    /// `gpu0 op A`: a device (in `arg`) and a process.
    DeviceProc,
    /// `A op heap[0..4] stack[2]`: a range, and the page to which its first page goes (in `arg`).
    RangeTo,
}

macro_rules! ops {
    ($($name:ident = $text:literal, $actor:ident, $shape:ident, $family:ident, weight $weight:literal, $function:literal, $doc:literal;)*) => {
        /// What is done.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum OpCode { $(#[doc = $doc] $name),* }

        impl OpCode {
            /// Every op, in table order.
            pub const ALL: [OpCode; [$($text),*].len()] = [$(OpCode::$name),*];

            /// Name in the text form.
            pub fn name(self) -> &'static str {
                match self { $(OpCode::$name => $text),* }
            }

            /// Who does it.
            #[inline]
            pub fn actor(self) -> Actor {
                match self { $(OpCode::$name => Actor::$actor),* }
            }

            /// Its operands.
            #[inline]
            pub const fn shape(self) -> Shape {
                match self { $(OpCode::$name => Shape::$shape),* }
            }

            /// What it is about.
            #[inline]
            pub const fn family(self) -> Family {
                match self { $(OpCode::$name => Family::$family),* }
            }

            /// How often the generator picks it, relative to the others of the chosen families.
            #[inline]
            pub const fn weight(self) -> u32 {
                match self { $(OpCode::$name => $weight),* }
            }

            /// Kernel function behind it.
            pub fn function(self) -> &'static str {
                match self { $(OpCode::$name => $function),* }
            }

            /// What it does, in one line.
            pub fn summary(self) -> &'static str {
                match self { $(OpCode::$name => $doc),* }
            }
        }
    };
}

ops! {
    Mmap = "mmap", User, Map, Base, weight 4, "mm/mmap.c: mmap_region()",
        "Maps memory at a window, with MAP_FIXED: what was mapped in these pages is gone.";
    Munmap = "munmap", User, Range, Base, weight 4, "mm/vma.c: do_vmi_munmap()",
        "Unmaps a range.";
    Read = "read", User, Range, Base, weight 16, "arch/x86/mm/fault.c: do_user_addr_fault()",
        "Loads from each page of a range.";
    Write = "write", User, Range, Base, weight 20, "arch/x86/mm/fault.c: do_user_addr_fault()",
        "Stores a token of its own to each page of a range.";
    Mprotect = "mprotect", User, RangeProt, Base, weight 8, "mm/mprotect.c: mprotect_fixup()",
        "Changes the protection of a range.";
    Dontneed = "dontneed", User, Range, Base, weight 4, "mm/madvise.c: madvise_dontneed_single_vma()",
        "Drops the contents of a range: reads give zero again.";
    Pageout = "pageout", User, Range, Reclaim, weight 8, "mm/madvise.c: madvise_cold_or_pageout_pte_range()",
        "Asks the kernel to reclaim a range now.";
    Fork = "fork", User, ProcProc, Base, weight 6, "kernel/fork.c: dup_mmap()",
        "Makes a child with a copy of the address space.";
    Exit = "exit", User, Proc, Base, weight 2, "mm/mmap.c: exit_mmap()",
        "Ends all threads of a process; its address space goes when the last op in it has ended.";
    ExitThread = "exit-thread", User, Proc, Base, weight 1, "kernel/exit.c: exit_mm()",
        "Ends the process's thread on this CPU; the last thread ends the process.";
    Pin = "pin", User, Page, Gup, weight 3, "mm/gup.c: pin_user_pages()",
        "Pins a page for writing, as a driver does for DMA.";
    Unpin = "unpin", User, Page, Gup, weight 3, "mm/gup.c: unpin_user_pages_dirty_lock()",
        "Gives up what the process pinned at this page.";
    ClearRefs = "clear-refs", User, Proc, Track, weight 3, "fs/proc/task_mmu.c: clear_refs_write()",
        "Starts soft-dirty tracking of the whole address space (echo 4 > clear_refs).";
    Pagemap = "pagemap", User, Range, Track, weight 3, "fs/proc/task_mmu.c: pagemap_pmd_range()",
        "Reads the soft-dirty bit of each page of a range.";
    Reclaim = "reclaim", Kernel, KernelRange, Reclaim, weight 10, "mm/vmscan.c: shrink_folio_list()",
        "Tries to reclaim the folios that a range maps, as kswapd would on meeting them.";
    Referenced = "referenced", Kernel, KernelRange, Reclaim, weight 3, "mm/rmap.c: folio_referenced()",
        "Ages the folios that a range maps.";
    Mkclean = "mkclean", Kernel, KernelRange, Reclaim, weight 2, "mm/rmap.c: page_vma_mkclean_one()",
        "Write-protects and cleans the entries that map a folio.";
    Migrate = "migrate", Kernel, KernelRange, Migrate, weight 8, "mm/migrate.c: migrate_pages()",
        "Moves the folios that a range maps to other frames.";
    Offline = "offline", Kernel, Block, Migrate, weight 4, "mm/memory_hotplug.c: offline_pages()",
        "Takes a movable memory block out of use, moving what is in it elsewhere.";
    Online = "online", Kernel, Block, Migrate, weight 3, "mm/memory_hotplug.c: online_pages()",
        "Puts a memory block back into use.";
    Exclusive = "exclusive", Device, DeviceRange, Device, weight 12, "lib/test_hmm.c: dmirror_exclusive()",
        "Makes pages device-exclusive and programs the device, one call for each page table's worth.";
    DevRead = "read", Device, DeviceRange, Device, weight 6, "lib/test_hmm.c: dmirror_read()",
        "The device loads from each page, faulting it into its mirror when needed.";
    DevWrite = "write", Device, DeviceRange, Device, weight 8, "lib/test_hmm.c: dmirror_write()",
        "The device stores to each page, faulting it into its mirror when needed.";
    DevClose = "close", Device, DeviceProc, Device, weight 1, "lib/test_hmm.c: dmirror_fops_release()",
        "The device stops mirroring the process.";
    UffdWp = "uffd-wp", User, Range, Uffd, weight 6, "mm/userfaultfd.c: mwriteprotect_range()",
        "The monitor write-protects a registered range: a write waits for it, or in asynchronous mode clears the bit.";
    UffdUnwp = "uffd-unwp", User, RangeFlags, Uffd, weight 4, "mm/userfaultfd.c: mwriteprotect_range()",
        "The monitor takes the write protection of userfaultfd away again and wakes who waits at it.";
    ToDevice = "to-device", Device, DeviceRange, Device, weight 8, "lib/test_hmm.c: dmirror_migrate_to_device()",
        "Moves pages into the device's own memory; a CPU access brings them back.";
    HwPoison = "hwpoison", User, Range, Poison, weight 3, "mm/madvise.c: madvise_inject_error()",
        "Lets the memory of a range fail (MADV_HWPOISON): its contents are lost.";
    SoftOffline = "soft-offline", User, Range, Poison, weight 3, "mm/memory-failure.c: soft_offline_page()",
        "Moves the pages of a range elsewhere and takes the old ones out of use (MADV_SOFT_OFFLINE).";
    MemoryFailure = "memory-failure", User, Page, Poison, weight 3, "mm/memory-failure.c: memory_failure()",
        "The frame behind a page fails, be it mapped or in the swap cache (corrupt-pfn of hwpoison-inject).";
    Unpoison = "unpoison", User, Page, Poison, weight 1, "mm/memory-failure.c: unpoison_memory()",
        "Takes back the failure of the frame that a page had (unpoison-pfn of hwpoison-inject).";
    SwapOn = "swapon", Kernel, Swap, Swap, weight 3, "mm/swapfile.c: swapon(2)",
        "Puts a swap device into use.";
    SwapOff = "swapoff", Kernel, Swap, Swap, weight 4, "mm/swapfile.c: try_to_unuse()",
        "Takes a swap device out of use: what is on it comes back into memory.";
    SwapError = "swap-error", User, Page, Swap, weight 2, "mm/page_io.c: end_swap_bio_read()",
        "What a page was swapped out to can no longer be read.";
    Mergeable = "mergeable", User, Range, Ksm, weight 4, "mm/ksm.c: ksm_madvise()",
        "Lets KSM merge the pages of a range with equal ones (MADV_MERGEABLE).";
    Unmergeable = "unmergeable", User, Range, Ksm, weight 2, "mm/ksm.c: unmerge_ksm_pages()",
        "Takes that back: every page of the range is the process's own again (MADV_UNMERGEABLE).";
    Ksm = "ksm", Kernel, KernelRange, Ksm, weight 10, "mm/ksm.c: cmp_and_merge_page()",
        "KSM scans what a range maps, and merges what is equal.";
    Truncate = "truncate", User, File, File, weight 5, "mm/truncate.c: truncate_pagecache(), mm/shmem.c: shmem_setattr()",
        "Sets the size of a file: what is mapped beyond it gives SIGBUS.";
    Remove = "remove", User, Range, File, weight 4, "mm/madvise.c: madvise_remove()",
        "Punches a hole into the file that a range shares (MADV_REMOVE).";
    Writeback = "writeback", Kernel, KernelRange, File, weight 6, "mm/page-writeback.c: folio_clear_dirty_for_io()",
        "Writes the dirty pages of a file that a range maps to its disk.";
    Attach = "attach", Kernel, Cgroup, Memcg, weight 6, "mm/memcontrol-v1.c: mem_cgroup_move_charge()",
        "Moves a process to another memory control group; up to 6.12 its charges go along.";
    Hugepage = "hugepage", User, Range, Thp, weight 10, "mm/khugepaged.c: hugepage_madvise()",
        "Lets a range be mapped by huge pages and large folios from now on (MADV_HUGEPAGE).";
    Nohugepage = "nohugepage", User, Range, Thp, weight 2, "mm/khugepaged.c: hugepage_madvise()",
        "Forbids that for a range; what is there already stays (MADV_NOHUGEPAGE).";
    Split = "split", Kernel, KernelRange, Thp, weight 5, "mm/huge_memory.c: split_huge_pages_pid()",
        "Splits the large folios that a range maps into small ones.";
    Collapse = "collapse", User, Range, Thp, weight 5, "mm/khugepaged.c: madvise_collapse()",
        "Makes huge pages of what a range maps, if nothing is in the way (MADV_COLLAPSE).";
    Khugepaged = "khugepaged", Kernel, KernelRange, Thp, weight 5, "mm/khugepaged.c: khugepaged_scan_mm_slot()",
        "The daemon comes by and collapses what MADV_HUGEPAGE allows and seems worth it.";
    Free = "free", User, Range, Madvise, weight 6, "mm/madvise.c: madvise_free_pte_range()",
        "Tells that the contents of a range are not needed: until the next store they may be zero at any time.";
    Cold = "cold", User, Range, Madvise, weight 2, "mm/madvise.c: madvise_cold_or_pageout_pte_range()",
        "Makes the pages of a range old.";
    WillNeed = "willneed", User, Range, Madvise, weight 2, "mm/madvise.c: swapin_walk_pmd_entry()",
        "Reads what is swapped out of a range into the swap cache.";
    PopulateRead = "populate-read", User, Range, Madvise, weight 2, "mm/gup.c: faultin_page_range()",
        "Faults every page of a range in, as loads would.";
    PopulateWrite = "populate-write", User, Range, Madvise, weight 2, "mm/gup.c: faultin_page_range()",
        "Faults every page of a range in, as stores would.";
    GuardInstall = "guard-install", User, Range, Madvise, weight 4, "mm/madvise.c: madvise_guard_install()",
        "Makes guard pages of a range: what was there is gone, and an access is a fault (since 6.13).";
    GuardRemove = "guard-remove", User, Range, Madvise, weight 3, "mm/madvise.c: madvise_guard_remove()",
        "Takes the guard pages of a range away again.";
    Mremap = "mremap", User, RangeTo, Mremap, weight 10, "mm/mremap.c: move_vma()",
        "Moves a mapping to another place, with MREMAP_MAYMOVE and MREMAP_FIXED: what was mapped there is gone.";
    MremapDontunmap = "mremap-dontunmap", User, RangeTo, Mremap, weight 5, "mm/mremap.c: move_vma()",
        "The same with MREMAP_DONTUNMAP: the old mapping stays and is empty.";
    PinFast = "pin-fast", User, Page, Gup, weight 4, "mm/gup.c: pin_user_pages_fast()",
        "Pins a page for writing with a walk that takes no lock, or as `pin` does where that fails.";
    PinRead = "pin-read", User, Page, Gup, weight 4, "mm/gup.c: pin_user_pages()",
        "Pins a page for reading for a long time: one that may be shared is copied first.";
    DmaRead = "dma-read", User, Page, Gup, weight 5, "Documentation/core-api/pin_user_pages.rst",
        "A device reads the page that was pinned at an address last.";
    DmaWrite = "dma-write", User, Page, Gup, weight 6, "Documentation/core-api/pin_user_pages.rst",
        "A device writes the page that was pinned for writing at an address last.";
    UffdRegister = "uffd-register", User, RangeFlags, Uffd, weight 8, "fs/userfaultfd.c: userfaultfd_register()",
        "Registers a range with a userfaultfd: modes, and features of that userfaultfd.";
    UffdUnregister = "uffd-unregister", User, Range, Uffd, weight 2, "fs/userfaultfd.c: userfaultfd_unregister()",
        "Ends the registration of a range.";
    UffdCopy = "uffd-copy", User, RangeFlags, Uffd, weight 6, "mm/userfaultfd.c: mfill_atomic_pte_copy()",
        "The monitor puts pages of its own where nothing is, and wakes who waits for them.";
    UffdZeropage = "uffd-zeropage", User, RangeFlags, Uffd, weight 3, "mm/userfaultfd.c: mfill_atomic_pte_zeropage()",
        "The monitor maps the zero page where nothing is, and wakes who waits for it.";
    UffdPoison = "uffd-poison", User, RangeFlags, Uffd, weight 2, "mm/userfaultfd.c: mfill_atomic_pte_poison()",
        "The monitor poisons pages where nothing is: an access ends in SIGBUS.";
    UffdWake = "uffd-wake", User, Range, Uffd, weight 2, "fs/userfaultfd.c: userfaultfd_wake()",
        "The monitor wakes who waits at a range.";
    UffdClose = "uffd-close", User, Proc, Uffd, weight 1, "fs/userfaultfd.c: userfaultfd_release()",
        "The monitor closes every userfaultfd of the process: nothing is registered any more, and everybody wakes.";
    PagemapScan = "pagemap-scan", User, Range, Uffd, weight 3, "fs/proc/task_mmu.c: do_pagemap_scan()",
        "Asks which pages of a range were written since they were protected, and protects them again (PAGEMAP_SCAN).";
    NumaScan = "numa-scan", Kernel, KernelRange, Migrate, weight 8, "kernel/sched/fair.c: task_numa_work()",
        "NUMA balancing comes by: the next access to each page of a range is to be noticed.";
    EarlyKill = "early-kill", User, Proc, Poison, weight 1, "kernel/sys.c: prctl(PR_MCE_KILL)",
        "The process wants to be told of failed memory at once (PR_MCE_KILL_EARLY).";
    Msync = "msync", User, Range, File, weight 3, "mm/msync.c: msync()",
        "Writes the files that a range shares to their disk, and tells of data that were lost (MS_SYNC).";
    Unplug = "unplug", User, Proc, Driver, weight 2, "fs/kernfs/file.c: kernfs_drain_open_files()",
        "The device that is mapped as a whole is gone: every access to it ends in SIGBUS.";
    ResetDevice = "reset-device", User, Proc, Driver, weight 3, "drivers/vfio/pci/vfio_pci_core.c: vfio_pci_ioctl_reset()",
        "Resets the device that is mapped at faults: it reads zero.";
    Relocate = "relocate", Kernel, KernelRange, Driver, weight 8, "drivers/gpu/drm/ttm/ttm_bo.c: ttm_bo_handle_move_mem()",
        "The driver moves what a range shows of that device to another place on the board.";
    MremapResize = "mremap-resize", User, RangeTo, Mremap, weight 5, "mm/mremap.c: mremap()",
        "Lets a range of the same window end before another page, in place: what is cut off is gone.";
    NrHugepages = "nr-hugepages", Kernel, Count, Hugetlb, weight 4, "mm/hugetlb.c: set_max_huge_pages()",
        "Sets the size of the pool of huge pages (/proc/sys/vm/nr_hugepages); what is in use beyond it is surplus.";
    UffdContinue = "uffd-continue", User, RangeFlags, Uffd, weight 3, "mm/userfaultfd.c: mfill_atomic_pte_continue()",
        "The monitor maps what a tmpfs file has already, and wakes who waits for it.";
    UffdMove = "uffd-move", User, RangeTo, Uffd, weight 4, "mm/userfaultfd.c: move_pages()",
        "The monitor moves pages to another place where nothing is, and wakes who waits there (UFFDIO_MOVE).";
    Compact = "compact", Kernel, Block, Migrate, weight 4, "mm/compaction.c: compact_zone()",
        "Moves the pages of a movable memory block to the end of the zone.";
    Mlock = "mlock", User, RangeFlags, Mlock, weight 8, "mm/mlock.c: do_mlock()",
        "Locks a range into memory, and faults it in unless that is left to whoever needs it (MLOCK_ONFAULT).";
    Munlock = "munlock", User, Range, Mlock, weight 6, "mm/mlock.c: apply_vma_lock_flags()",
        "Unlocks a range.";
    MlockAll = "mlockall", User, Proc, Mlock, weight 2, "mm/mlock.c: apply_mlockall_flags()",
        "Locks all that is mapped and that will be mapped (MCL_CURRENT, MCL_FUTURE).";
    MunlockAll = "munlockall", User, Proc, Mlock, weight 2, "mm/mlock.c: apply_mlockall_flags()",
        "Unlocks everything.";
    Mincore = "mincore", User, Range, Track, weight 3, "mm/mincore.c: do_mincore()",
        "Asks which pages of a range are in memory.";
    Smaps = "smaps", User, Proc, Track, weight 3, "fs/proc/task_mmu.c: show_smaps_rollup()",
        "Asks how much memory the process uses, and how (smaps_rollup).";
    ClearYoung = "clear-young", User, Proc, Track, weight 2, "fs/proc/task_mmu.c: clear_refs_pte_range()",
        "Makes every page of the process unused (echo 1 > clear_refs).";
    PinLongterm = "pin-longterm", User, Page, Gup, weight 3, "mm/gup.c: __gup_longterm_locked()",
        "Pins a page for writing for a long time (FOLL_LONGTERM): it is moved out of ZONE_MOVABLE first.";
    MemRead = "mem-read", User, Page, Gup, weight 2, "mm/memory.c: __access_remote_vm()",
        "A debugger reads a page, whatever its protection (/proc/pid/mem).";
    MemWrite = "mem-write", User, Page, Gup, weight 3, "mm/memory.c: __access_remote_vm()",
        "A debugger writes a page; of private memory also one that is read-only (/proc/pid/mem).";
    DontneedLocked = "dontneed-locked", User, Range, Mlock, weight 4, "mm/madvise.c: madvise_dontneed_free()",
        "MADV_DONTNEED_LOCKED: drops the pages, be the mapping locked or not.";
    Snapshot = "snapshot", Device, DeviceRange, Device, weight 4, "lib/test_hmm.c: dmirror_snapshot()",
        "The driver asks what is at each page, without faulting anything in.";
}

impl OpCode {
    /// Words that may follow the range of an op of shape [`Shape::RangeFlags`]; the *n*th is bit *n* of `arg`.
    pub const fn flags(self) -> &'static [&'static str] {
        match self {
            OpCode::UffdRegister => &UffdFlags::WORDS,
            OpCode::UffdCopy | OpCode::UffdContinue => &["dontwake", "wp"],
            OpCode::Mlock => &["onfault"],
            OpCode::UffdZeropage | OpCode::UffdPoison | OpCode::UffdUnwp => &["dontwake"],
            _ => &[],
        }
    }
}

/// Largest pool that `nr-hugepages` asks for.
pub const MAX_NR_HUGEPAGES: u8 = 4;

/// Pages of a window, from its start, that a move can go to.
pub const TO_PAGES: u32 = 256 / crate::config::MAX_REGIONS as u32;

/// One op with its operands. Which of them mean something is told by [`OpCode::shape`]; the others are zero
/// in a normalised case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Op {
    /// What is done.
    pub code: OpCode,
    /// CPU that does it.
    pub cpu: u8,
    /// Process (0 = `A`).
    pub proc: u8,
    /// Mapping window.
    pub region: u8,
    /// First page in the window.
    pub page: u32,
    /// Number of pages, at least 1 where the shape has a range.
    pub len: u32,
    /// Protection, backing, child, file, block or device, by shape.
    pub arg: u8,
}

impl Op {
    /// An op with every operand zero and one page.
    pub fn new(code: OpCode, cpu: u8) -> Op {
        Op { code, cpu, proc: 0, region: 0, page: 0, len: 1, arg: 0 }
    }

    /// Device of a device op.
    pub fn device(&self) -> u8 {
        self.arg % crate::config::MAX_DEVICES as u8
    }

    /// Window and page that a move goes to: `arg` holds the window in its lowest two bits, the page above.
    pub fn to(&self) -> (u8, u32) {
        (self.arg % crate::config::MAX_REGIONS as u8, u32::from(self.arg) / crate::config::MAX_REGIONS as u32)
    }

    /// The `arg` of a move to this window and page, which must be below [`TO_PAGES`].
    pub fn arg_to(region: u8, page: u32) -> u8 {
        (page as u8).wrapping_mul(crate::config::MAX_REGIONS as u8) | region
    }

    /// True when a word of [`OpCode::flags`] follows the range.
    pub fn has_flag(&self, word: &str) -> bool {
        self.code.flags().iter().position(|w| *w == word).is_some_and(|bit| self.arg & 1 << bit != 0)
    }

    /// Protection of `mmap` and `mprotect`.
    pub fn perm(&self) -> Perm {
        Perm::from_arg(self.arg)
    }

    /// Backing of `mmap`.
    pub fn backing(&self) -> Backing {
        Backing::from_index(self.arg / Perm::ALL.len() as u8)
    }

    /// The `arg` of an `mmap`.
    pub fn map_arg(perm: Perm, backing: Backing) -> u8 {
        perm as u8 + Perm::ALL.len() as u8 * backing as u8
    }

    /// File of a file op.
    pub fn file(&self) -> FileId {
        self.arg % FILES as u8
    }
}
