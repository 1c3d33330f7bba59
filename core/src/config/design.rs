//! Designs: legitimate ways in which the kernel did or does a thing.
//!
//! One table gives the enum, its ids, its documentation and what `ptefuzz list designs` prints.

use super::Kernel;

macro_rules! groups {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A choice that a release makes exactly once.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum DesignGroup { $($(#[$doc])* $name),* }

        impl DesignGroup {
            /// Every group.
            pub const ALL: [DesignGroup; [$($text),*].len()] = [$(DesignGroup::$name),*];

            /// Name, as `ptefuzz list designs` prints it.
            pub fn name(self) -> &'static str {
                match self { $(DesignGroup::$name => $text),* }
            }
        }
    };
}

groups! {
    /// How a device-exclusive entry is encoded.
    ExclusiveEncoding = "exclusive-encoding";
    /// How a page is made device-exclusive.
    ExclusiveConversion = "exclusive-conversion";
    /// How `restore_exclusive_pte()` decides on write permission.
    ExclusiveRestore = "exclusive-restore";
    /// Who may write to an anonymous page after a write fault without copying it.
    CopyOnWrite = "copy-on-write";
    /// Whether `mprotect` makes the entries of private memory writable itself.
    ProtectWritable = "protect-writable";
    /// What remembers that a page that is not mapped is write-protected by userfaultfd.
    UffdWpNote = "uffd-wp-note";
    /// What stands where a page's contents are lost.
    PoisonNote = "poison-note";
    /// What a guard page is.
    GuardNote = "guard-note";
    /// Whether migration keeps the young and dirty bits.
    MigrationBits = "migration-bits";
    /// Whether a page that is swapped in for a read may become writable at once.
    SwapInWritable = "swap-in-writable";
    /// What becomes of a process's charges when it changes its control group.
    ChargeMoving = "charge-moving";
    /// Who breaks copy-on-write when the write protection of userfaultfd is resolved.
    UffdWpResolve = "uffd-wp-resolve";
    /// Where a write fault asks userfaultfd.
    UffdWpSplit = "uffd-wp-split";
    /// What a fault locks.
    FaultLock = "fault-lock";
    /// What `pte_none()` says of a swap-special entry.
    PteNone = "pte-none";
    /// What a store to the huge zero page gets.
    HugeZeroWrite = "huge-zero-write";
    /// How a fault on a NUMA hinting entry knows whether the page was writable.
    NumaWritable = "numa-writable";
    /// Whether GUP passes by NUMA hinting entries.
    GupNuma = "gup-numa";
    /// Who is told when memory in a large folio has failed that cannot be split.
    UnsplitPoison = "unsplit-poison";
    /// What keeps others out while `retract_page_tables()` takes a table away.
    Retract = "retract-page-tables";
    /// What is asked before that, with the table locked.
    RetractCheck = "retract-check";
}

macro_rules! designs {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $group:ident, since $since:ident, until $until:expr, $source:literal;)*) => {
        /// One of several legitimate ways to do a thing.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Design { $($(#[$doc])* $name),* }

        impl Design {
            /// Every design, in table order.
            pub const ALL: [Design; [$($id),*].len()] = [$(Design::$name),*];

            /// Stable id, as written in a case.
            pub fn id(self) -> &'static str {
                match self { $(Design::$name => $id),* }
            }

            /// The choice that this design answers.
            pub fn group(self) -> DesignGroup {
                match self { $(Design::$name => DesignGroup::$group),* }
            }

            /// First modelled release that does it this way. The same as [`Design::until`] when it was posted and
            /// never merged: then no release does, and a case chooses it by name.
            pub const fn since(self) -> Kernel {
                match self { $(Design::$name => Kernel::$since),* }
            }

            /// First modelled release that no longer does it this way.
            pub const fn until(self) -> Option<Kernel> {
                match self { $(Design::$name => $until),* }
            }

            /// Kernel function or commit that shows it.
            pub fn source(self) -> &'static str {
                match self { $(Design::$name => $source),* }
            }
        }
    };
}

designs! {
    /// `SWP_DEVICE_EXCLUSIVE_WRITE` and `SWP_DEVICE_EXCLUSIVE_READ`: two swap types.
    ExclusiveTwoTypes = "exclusive-two-types", ExclusiveEncoding, since V5_14, until Some(Kernel::V6_15),
        "include/linux/swap.h before \"mm: use single SWP_DEVICE_EXCLUSIVE entry type\"";
    /// `SWP_DEVICE_EXCLUSIVE`: one swap type.
    ExclusiveOneType = "exclusive-one-type", ExclusiveEncoding, since V6_15, until None,
        "include/linux/swap.h since \"mm: use single SWP_DEVICE_EXCLUSIVE entry type\"";
    /// `make_device_exclusive_range()`: GUP of a range, then an rmap walk for each page.
    ExclusiveByRmap = "exclusive-by-rmap", ExclusiveConversion, since V5_14, until Some(Kernel::V6_15),
        "mm/rmap.c: make_device_exclusive_range(), page_make_device_exclusive_one()";
    /// `make_device_exclusive()`: GUP of one address, then a folio walk to that one PTE.
    ExclusiveByWalk = "exclusive-by-walk", ExclusiveConversion, since V6_15, until None,
        "mm/rmap.c: make_device_exclusive() with folio_walk_start()";
    /// Writable when the entry is of the writable type and not uffd-wp; always dirty then.
    RestoreByType = "restore-by-type", ExclusiveRestore, since V5_14, until Some(Kernel::V6_15),
        "mm/memory.c: restore_exclusive_pte() with is_writable_device_exclusive_entry()";
    /// Writable when `can_change_pte_writable()` says so; dirty when the folio is.
    RestoreByCheck = "restore-by-check", ExclusiveRestore, since V6_15, until None,
        "mm/memory.c: restore_exclusive_pte() with can_change_pte_writable()";
    /// A page with one reference and one mapping is reused, any other copied. (A pinned page is copied too, and then
    /// whoever has pinned it no longer shares it with the process: what `PageAnonExclusive` was made for.)
    CowByCount = "cow-by-count", CopyOnWrite, since V5_14, until Some(Kernel::V5_19),
        "mm/memory.c of 5.14: do_wp_page(), do_swap_page(); mm/swapfile.c: reuse_swap_page()";
    /// A page that is `PageAnonExclusive` is reused whoever else refers to it; the bit survives swap and migration.
    CowByExclusive = "cow-by-exclusive", CopyOnWrite, since V5_19, until None,
        "mm/memory.c: do_wp_page() since \"mm: remember exclusively mapped anonymous pages with PG_anon_exclusive\"";
    /// Never: the next write faults.
    ProtectByFault = "protect-by-fault", ProtectWritable, since V5_14, until Some(Kernel::V6_1),
        "mm/mprotect.c of 5.14 and 5.19: change_pte_range() with dirty_accountable, which shared mappings alone are";
    /// When `can_change_pte_writable()` says so.
    ProtectByCheck = "protect-by-check", ProtectWritable, since V6_1, until None,
        "mm/mprotect.c since 6.1: change_pte_range() with MM_CP_TRY_CHANGE_WRITABLE";
    /// Nothing: only anonymous memory can be write-protected.
    UffdWpAnonOnly = "uffd-wp-anon-only", UffdWpNote, since V5_14, until Some(Kernel::V5_19),
        "fs/userfaultfd.c of 5.14: vma_can_userfault() refuses VM_UFFD_WP for shmem and hugetlb";
    /// A PTE marker: a swap type of its own, with `PTE_MARKER_UFFD_WP` for an offset.
    UffdWpMarker = "uffd-wp-marker", UffdWpNote, since V5_19, until None,
        "include/linux/swapops.h: make_pte_marker() since \"mm: introduce PTE_MARKER swap entry\"";
    /// The "swap special" entry: one bit of an entry that holds no swap entry. x86-64 only.
    UffdWpSpecial = "uffd-wp-special", UffdWpNote, since V5_14, until Some(Kernel::V5_14),
        "\"userfaultfd-wp: Support shmem and hugetlbfs\", v4, July 2021: UFFD_WP_SWP_PTE_SPECIAL; never merged";
    /// Nothing special.
    PoisonNone = "poison-none", PoisonNote, since V5_14, until Some(Kernel::V5_19),
        "mm/swapfile.c of 5.14: unuse_pte() maps what it has";
    /// A swap type of its own, with the frame number for an offset.
    PoisonSwapinError = "poison-swapin-error", PoisonNote, since V5_19, until Some(Kernel::V6_6),
        "include/linux/swap.h of 5.19 and 6.1: SWP_SWAPIN_ERROR";
    /// A PTE marker, which `UFFDIO_POISON` installs too.
    PoisonMarker = "poison-marker", PoisonNote, since V6_6, until None,
        "include/linux/swapops.h of 6.6: PTE_MARKER_POISONED";
    /// There are no guard pages.
    GuardNone = "guard-none", GuardNote, since V5_14, until Some(Kernel::V6_15),
        "include/linux/swapops.h of 6.12: two marker bits; mm/madvise.c: no MADV_GUARD_INSTALL";
    /// A PTE marker.
    GuardMarker = "guard-marker", GuardNote, since V6_15, until None,
        "include/linux/swapops.h since 6.13: PTE_MARKER_GUARD";
    /// The page comes back old and clean.
    MigrationBitsLost = "migration-bits-lost", MigrationBits, since V5_14, until Some(Kernel::V6_1),
        "mm/migrate.c of 5.19: remove_migration_pte() makes an old, clean entry";
    /// Above the frame number, where the swap offset has room.
    MigrationBitsKept = "migration-bits-kept", MigrationBits, since V6_1, until None,
        "include/linux/swapops.h since 6.1: SWP_MIG_YOUNG, SWP_MIG_DIRTY";
    /// No: only for a write.
    SwapInWriteByFault = "swap-in-write-by-fault", SwapInWritable, since V5_14, until Some(Kernel::V6_12),
        "mm/memory.c of 6.1: do_swap_page() with maybe_mkwrite() for FAULT_FLAG_WRITE alone";
    /// Yes, when it is exclusive and VMA, uffd-wp and soft-dirty permit.
    SwapInWriteByCheck = "swap-in-write-by-check", SwapInWritable, since V6_12, until None,
        "mm/memory.c of 6.12: do_swap_page() with VM_WRITE, userfaultfd_pte_wp() and pte_needs_soft_dirty_wp()";
    /// They go along (`memory.move_charge_at_immigrate`, taken to be 3).
    ChargesMove = "charges-move", ChargeMoving, since V5_14, until Some(Kernel::V6_15),
        "mm/memcontrol-v1.c of 6.12: mem_cgroup_move_charge()";
    /// They stay with the group that was charged.
    ChargesStay = "charges-stay", ChargeMoving, since V6_15, until None,
        "6b611388b626 (\"memcg-v1: remove charge move code\", 6.13)";
    /// Resolving clears the bit; the next write fault copies or reuses the page.
    ResolveLeavesCow = "uffd-resolve-leaves-cow", UffdWpResolve, since V5_14, until None,
        "mm/mprotect.c: change_pte_range(), as merged in 5.7";
    /// Resolving passes over what is not protected, and copies a page that is not its mapping's alone: it drops the
    /// page-table lock, copies, takes it again and goes on. No release did it.
    ResolveCopies = "uffd-resolve-copies", UffdWpResolve, since V5_14, until Some(Kernel::V5_14),
        "\"userfaultfd: wp: handle COW properly for uffd-wp\", v3 of 2019, with the repairs of its review";
    /// `do_wp_page()` asks userfaultfd and goes on in a function of its own.
    WpSplitCont = "wp-split-cont", UffdWpSplit, since V5_14, until None,
        "mm/memory.c: do_wp_page(); proposed as do_wp_page_cont() in April 2019";
    /// `do_userfaultfd_wp_page()` asks and then calls `do_wp_page()`. No release did it.
    WpSplitWrapper = "wp-split-wrapper", UffdWpSplit, since V5_14, until Some(Kernel::V5_14),
        "proposed as do_userfaultfd_wp_page() in April 2019";
    /// The callers of `do_wp_page()` call a helper `do_userfaultfd_wp()` first. No release did it.
    WpSplitHelper = "wp-split-helper", UffdWpSplit, since V5_14, until Some(Kernel::V5_14),
        "proposed as do_userfaultfd_wp() in April 2019";
    /// The huge zero page is split, and one small page copied.
    HugeZeroSplit = "huge-zero-split", HugeZeroWrite, since V5_14, until Some(Kernel::V6_15),
        "mm/huge_memory.c of 6.12: do_huge_pmd_wp_page() falls back for is_huge_zero_pmd()";
    /// A huge page of its own, if there is one.
    HugeZeroAlloc = "huge-zero-alloc", HugeZeroWrite, since V6_15, until None,
        "mm/huge_memory.c of 6.14: do_huge_zero_wp_pmd()";
    /// The hinting entry keeps its write bit.
    NumaSavedWrite = "numa-saved-write", NumaWritable, since V5_14, until Some(Kernel::V6_6),
        "mm/mprotect.c of 6.1: change_pte_range() with pte_mk_savedwrite()";
    /// `can_change_pte_writable()` says so.
    NumaCheckWritable = "numa-check-writable", NumaWritable, since V6_6, until None,
        "6a56ccbcf6c6 (\"mm/autonuma: use can_change_(pte|pmd)_writable() to replace savedwrite\", 6.2)";
    /// It causes the fault, unless it forces its way (`FOLL_NUMA`).
    GupNumaFaults = "gup-numa-faults", GupNuma, since V5_14, until Some(Kernel::V6_6),
        "mm/gup.c of 6.1: gup_can_follow_protnone() with FOLL_FORCE alone";
    /// It takes the page, unless it is asked to cause the fault, as KVM does (`FOLL_HONOR_NUMA_FAULT`).
    GupNumaFollows = "gup-numa-follows", GupNuma, since V6_6, until None,
        "d74943a2f3cd (\"mm/gup: reintroduce FOLL_NUMA as FOLL_HONOR_NUMA_FAULT\", 6.6)";
    /// Nobody, until the memory is used.
    UnsplitPoisonQuiet = "unsplit-poison-quiet", UnsplitPoison, since V5_14, until Some(Kernel::V6_12),
        "mm/memory-failure.c of 6.1: memory_failure(), MF_MSG_UNSPLIT_THP";
    /// The thread that ran into it, and whoever has asked to be told early.
    UnsplitPoisonKills = "unsplit-poison-kills", UnsplitPoison, since V6_12, until None,
        "mm/memory-failure.c since 6.11: kill_procs_now()";
    /// `mmap_lock` for writing, if it can be had at once; the table is freed at once.
    RetractWithMmapLock = "retract-with-mmap-lock", Retract, since V5_14, until Some(Kernel::V6_6),
        "mm/khugepaged.c of 6.1: retract_page_tables() with mmap_write_trylock() and collapse_and_free_pmd()";
    /// The locks of the PMD and of the table; the table is freed after a grace period.
    RetractWithoutMmapLock = "retract-without-mmap-lock", Retract, since V6_6, until None,
        "mm/khugepaged.c of 6.6: \"mm/khugepaged: retract_page_tables() without mmap or vma lock\", pte_free_defer()";
    /// The VMA: has it anonymous pages, or notes of userfaultfd?
    RetractAsksVma = "retract-asks-vma", RetractCheck, since V5_14, until None,
        "mm/khugepaged.c of 6.6: vma->anon_vma and userfaultfd_wp() once more in retract_page_tables()";
    /// Every entry: is it none? No release did it.
    RetractAsksEntries = "retract-asks-entries", RetractCheck, since V5_14, until Some(Kernel::V5_14),
        "proposed in the review of May 2023: \"check that all entries are pte_none()\"";
    /// No: whoever means "none, or a note" has to ask for both, and who has never heard of notes finds an entry in use.
    NoneIsNone = "none-is-none", PteNone, since V5_14, until None,
        "include/linux/pgtable.h: pte_none(); include/linux/swapops.h: pte_none_mostly()";
    /// Yes, so that nobody has to learn of notes; who then fills what seems empty loses the note. No release did it.
    NoneCoversSpecial = "none-covers-special", PteNone, since V5_14, until Some(Kernel::V5_14),
        "asked for in the review of \"mm: Introduce a new swap special pte\", July 2021, and refused";
    /// No, but callers that should never meet one ask a helper that takes it for none and warns. No release did it.
    NoneWarns = "none-warns", PteNone, since V5_14, until Some(Kernel::V5_14),
        "proposed there as pte_none_not_special(), July 2021";
    /// `mmap_lock`, for reading.
    FaultsByMmapLock = "faults-by-mmap-lock", FaultLock, since V5_14, until Some(Kernel::V6_6),
        "arch/x86/mm/fault.c of 6.1: do_user_addr_fault()";
    /// The lock of the VMA; `mmap_lock` when that is not enough. As of 6.12: what falls back differs until then.
    FaultsByVmaLock = "faults-by-vma-lock", FaultLock, since V6_6, until None,
        "mm/memory.c since 6.4: lock_vma_under_rcu(); arch/x86/mm/fault.c: do_user_addr_fault() with FAULT_FLAG_VMA_LOCK";
}

impl Design {
    /// False of a design that was discussed and loses something by itself: it is tried only when it is named.
    pub fn sound(self) -> bool {
        self != Design::NoneCoversSpecial
    }

    /// True when it was posted and never merged.
    pub fn only_posted(self) -> bool {
        self.until() == Some(self.since())
    }

    /// The design with this id.
    pub fn from_id(id: &str) -> Option<Design> {
        Design::ALL.into_iter().find(|d| d.id() == id)
    }
}

/// A set of designs. Holds at most one of each group when built through [`DesignSet::choose`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DesignSet(u64);

impl DesignSet {
    /// Nothing chosen.
    pub const EMPTY: DesignSet = DesignSet(0);

    /// The designs that a release follows.
    pub(super) const fn of(release: Kernel) -> DesignSet {
        let (mut set, mut i) = (0, 0);
        while i < Design::ALL.len() {
            let d = Design::ALL[i];
            let ended = matches!(d.until(), Some(until) if until as u8 <= release as u8);
            if d.since() as u8 <= release as u8 && !ended {
                set |= 1 << d as u8;
            }
            i += 1;
        }
        DesignSet(set)
    }

    /// True when `d` is in the set.
    #[inline]
    pub fn contains(self, d: Design) -> bool {
        self.0 & (1 << d as u8) != 0
    }

    /// The set with `d` in place of whatever else was chosen for its group.
    #[must_use]
    pub fn choose(self, d: Design) -> DesignSet {
        let rest = Design::ALL.into_iter().filter(|o| o.group() == d.group()).fold(self.0, |s, o| s & !(1 << o as u8));
        DesignSet(rest | 1 << d as u8)
    }

    /// Members in table order.
    pub fn iter(self) -> impl Iterator<Item = Design> {
        Design::ALL.into_iter().filter(move |d| self.contains(*d))
    }
}

impl FromIterator<Design> for DesignSet {
    fn from_iter<I: IntoIterator<Item = Design>>(iter: I) -> Self {
        DesignSet(iter.into_iter().fold(0, |s, d| s | 1 << d as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choosing_a_design_drops_its_alternative() {
        let set = Kernel::V6_12.designs().choose(Design::ExclusiveOneType);
        assert!(set.contains(Design::ExclusiveOneType) && !set.contains(Design::ExclusiveTwoTypes));
        assert_eq!(set.iter().count(), DesignGroup::ALL.len());
    }

    #[test]
    fn ids_are_unique() {
        for (i, d) in Design::ALL.iter().enumerate() {
            assert_eq!(Design::from_id(d.id()), Some(*d));
            assert_eq!(*d as usize, i);
        }
    }
}
