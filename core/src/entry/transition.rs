//! Which kind may follow which in one slot of a page table.
//!
//! One row for each legal pair, with the kernel function that writes the second over the first. A pair that is not here
//! has no such function, and seeing it means that an entry was overwritten: whatever it stood for is lost. The table is
//! about kinds only; a row of a kind with itself is a change of flags, frame or slot.
//!
//! The kernel often clears a slot and fills it again under the same lock. Both views are legal: the pair as a whole,
//! and the two steps through [`EntryKind::None`]. So a tracer may report either; it learns more from the pair.
//!
//! How strict: rows hold for anonymous and file mappings, all releases from 6.12 on and the designs beside them; a pair
//! that only one release has says so. Entries moved by `mremap` make every kind reachable from none.
//!
//! Not here, because they cannot happen: a note of write protection in place of an entry of a *writable* kind, because
//! such an entry carries no uffd-wp (`page_table_check_pte_flags()`; N6 is the path that forgets it), and only what carries it
//! leaves a note; clearing what is empty, and protecting a swap-special entry again, because they change nothing.

use super::EntryKind;
use super::EntryKind::{
    DeviceExclusive, DeviceExclusiveRead, DeviceExclusiveWrite, DevicePrivateRead, DevicePrivateWrite, HwPoison,
    MarkerGuard, MarkerPoisoned, MarkerUffdWp, MigrationRead, MigrationReadExclusive, MigrationWrite, None, Present,
    Swap, SwapSpecial,
};

/// A legal pair of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// What the slot held.
    pub from: EntryKind,
    /// What it holds next.
    pub to: EntryKind,
    /// The kernel function that does it, with its file under `mm/` (unless given), and the circumstance.
    pub why: &'static str,
}

const fn row(from: EntryKind, to: EntryKind, why: &'static str) -> Transition {
    Transition { from, to, why }
}

const ZAP: &str = "memory.c zap_pte_range: munmap, MADV_DONTNEED, truncation, exit; mremap.c move_ptes: moved away";
const ZAP_KEEPS_UFFD_WP: &str =
    "memory.c zap_pte_range, zap_install_uffd_wp_if_needed: a write-protected entry of a file mapping is zapped";
const RESTORE: &str = "memory.c restore_exclusive_pte: CPU fault, fork, or a second request for exclusive access";
const MIGRATION_DONE: &str = "migrate.c remove_migration_pte: migration is over, with the new page or the old one";
const MIGRATED_TO_DEVICE: &str = "migrate.c remove_migration_pte: the new page is in device memory";
const MIGRATE: &str = "rmap.c try_to_migrate_one; migrate_device.c migrate_vma_collect_pmd";
const MIGRATE_FROM_DEVICE: &str =
    "migrate_device.c migrate_vma_collect_pmd; rmap.c try_to_migrate_one: the page leaves device memory";
const FLAGS: &str = "mprotect.c change_pte_range; fs/proc/task_mmu.c clear_soft_dirty, make_uffd_wp_pte: flags change";
const EXCLUSIVE_TO_SWAP: &str =
    "rmap.c try_to_unmap_one: reclaim of a page lent to a device (6.15; backported to 6.12.y)";
const EXCLUSIVE_TO_HWPOISON: &str =
    "rmap.c try_to_unmap_one, TTU_HWPOISON: memory failure in a page lent to a device (6.15; backported to 6.12.y)";
const EXCLUSIVE_TO_MIGRATION: &str =
    "rmap.c try_to_migrate_one: the page is lent to a device (6.15); never as writable";
const EXCLUSIVE_TO_MIGRATION_OLD: &str =
    "rmap.c try_to_migrate_one: what its repair does in a kernel that still has two types (no release did)";
const MOVED: &str = "mremap.c move_ptes: moved here";
const FORKED: &str = "memory.c copy_nonpresent_pte: the child's copy; mremap.c move_ptes: moved here";

/// Every legal pair.
pub const TRANSITIONS: &[Transition] = &[
    // From nothing.
    row(
        None,
        Present,
        "memory.c do_anonymous_page, set_pte_range, copy_present_ptes; userfaultfd.c mfill_atomic_install_pte",
    ),
    row(None, Swap, "memory.c copy_nonpresent_pte: the child's copy; userfaultfd.c move_swap_pte; mremap.c move_ptes"),
    row(None, MigrationRead, FORKED),
    row(None, MigrationReadExclusive, MOVED),
    row(
        None,
        MigrationWrite,
        "memory.c copy_nonpresent_pte: the child's copy of a shared mapping; mremap.c move_ptes: moved here",
    ),
    row(
        None,
        DevicePrivateRead,
        "migrate_device.c migrate_vma_insert_page: a hole is filled in device memory; memory.c copy_nonpresent_pte",
    ),
    row(
        None,
        DevicePrivateWrite,
        "migrate_device.c migrate_vma_insert_page: a hole of a writable VMA is filled in device memory",
    ),
    row(None, DeviceExclusiveRead, MOVED),
    row(None, DeviceExclusiveWrite, MOVED),
    row(None, DeviceExclusive, MOVED),
    row(None, HwPoison, FORKED),
    row(
        None,
        MarkerUffdWp,
        "mprotect.c change_pte_range: a hole is protected; memory.c copy_nonpresent_pte; pte_install_uffd_wp_if_needed; mremap.c move_ptes",
    ),
    row(None, MarkerPoisoned, "userfaultfd.c mfill_atomic_pte_poison; memory.c copy_nonpresent_pte"),
    row(None, MarkerGuard, "madvise.c guard_install_set_pte (6.13); memory.c copy_nonpresent_pte"),
    row(None, SwapSpecial, "uffd-wp series of 2021: change_pte_range, pte_install_uffd_wp_if_needed"),
    // From a mapped page.
    row(
        Present,
        None,
        "memory.c zap_present_ptes; rmap.c try_to_unmap_one: file page or MADV_FREE; mremap.c move_ptes; khugepaged.c",
    ),
    row(
        Present,
        Present,
        "memory.c do_wp_page; mprotect.c change_pte_range; rmap.c page_vma_mkclean_one; ksm.c replace_page; hardware",
    ),
    row(Present, Swap, "rmap.c try_to_unmap_one: reclaim of an anonymous page"),
    row(Present, MigrationRead, MIGRATE),
    row(Present, MigrationReadExclusive, MIGRATE),
    row(Present, MigrationWrite, MIGRATE),
    row(
        Present,
        DevicePrivateRead,
        "migrate_device.c migrate_vma_insert_page: the zero page is replaced in a read-only VMA",
    ),
    row(
        Present,
        DevicePrivateWrite,
        "migrate_device.c migrate_vma_insert_page: the zero page is replaced in a writable VMA",
    ),
    row(
        Present,
        DeviceExclusiveRead,
        "rmap.c page_make_device_exclusive_one: another mapping of the page, read-only (up to 6.14)",
    ),
    row(Present, DeviceExclusiveWrite, "rmap.c page_make_device_exclusive_one (up to 6.14)"),
    row(Present, DeviceExclusive, "rmap.c make_device_exclusive (6.15)"),
    row(
        Present,
        HwPoison,
        "rmap.c try_to_unmap_one, TTU_HWPOISON: memory failure; try_to_migrate_one: the page turns out poisoned",
    ),
    row(
        Present,
        MarkerUffdWp,
        "memory.c zap_install_uffd_wp_if_needed; rmap.c try_to_unmap_one: a write-protected file page is unmapped",
    ),
    row(
        Present,
        SwapSpecial,
        "uffd-wp series of 2021: zap_pte_range, try_to_unmap_one: a write-protected file page is unmapped",
    ),
    // From swap.
    row(
        Swap,
        None,
        "memory.c zap_pte_range; madvise.c madvise_free_pte_range; userfaultfd.c move_swap_pte; mremap.c move_ptes",
    ),
    row(Swap, Present, "memory.c do_swap_page; swapfile.c unuse_pte: swapoff"),
    row(
        Swap,
        Swap,
        "memory.c copy_nonpresent_pte: fork ends exclusivity; mprotect.c change_pte_range; task_mmu.c clear_soft_dirty",
    ),
    row(Swap, HwPoison, "swapfile.c unuse_pte: the page in the swap cache is poisoned"),
    row(Swap, MarkerPoisoned, "swapfile.c unuse_pte: the slot could not be read"),
    row(Swap, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(Swap, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    // From migration. Never straight to swap: migration must end first.
    row(MigrationRead, None, ZAP),
    row(MigrationRead, Present, MIGRATION_DONE),
    row(MigrationRead, MigrationRead, FLAGS),
    row(MigrationRead, DevicePrivateRead, MIGRATED_TO_DEVICE),
    row(MigrationRead, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(MigrationRead, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    row(MigrationReadExclusive, None, ZAP),
    row(MigrationReadExclusive, Present, MIGRATION_DONE),
    row(MigrationReadExclusive, MigrationRead, "memory.c copy_nonpresent_pte: fork shares the page"),
    row(MigrationReadExclusive, MigrationReadExclusive, FLAGS),
    row(MigrationReadExclusive, DevicePrivateRead, MIGRATED_TO_DEVICE),
    row(MigrationReadExclusive, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(MigrationReadExclusive, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    row(MigrationWrite, None, ZAP),
    row(MigrationWrite, Present, MIGRATION_DONE),
    row(
        MigrationWrite,
        MigrationRead,
        "memory.c copy_nonpresent_pte: fork shares the page; mprotect.c change_pte_range: file page",
    ),
    row(MigrationWrite, MigrationReadExclusive, "mprotect.c change_pte_range: anonymous page"),
    row(MigrationWrite, MigrationWrite, "fs/proc/task_mmu.c clear_soft_dirty"),
    row(MigrationWrite, DevicePrivateWrite, MIGRATED_TO_DEVICE),
    // From device memory. The way home leads through migration: do_swap_page calls migrate_to_ram.
    row(DevicePrivateRead, None, ZAP),
    row(DevicePrivateRead, MigrationRead, MIGRATE_FROM_DEVICE),
    row(DevicePrivateRead, MigrationReadExclusive, MIGRATE_FROM_DEVICE),
    row(DevicePrivateRead, DevicePrivateRead, FLAGS),
    row(DevicePrivateRead, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(DevicePrivateRead, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    row(DevicePrivateWrite, None, ZAP),
    row(DevicePrivateWrite, MigrationWrite, MIGRATE_FROM_DEVICE),
    row(DevicePrivateWrite, DevicePrivateRead, "memory.c copy_nonpresent_pte: fork; mprotect.c change_pte_range"),
    row(DevicePrivateWrite, DevicePrivateWrite, FLAGS),
    // From a page lent to a device.
    row(DeviceExclusiveRead, None, ZAP),
    row(DeviceExclusiveRead, Present, RESTORE),
    row(DeviceExclusiveRead, Swap, EXCLUSIVE_TO_SWAP),
    row(DeviceExclusiveRead, MigrationRead, EXCLUSIVE_TO_MIGRATION_OLD),
    row(DeviceExclusiveRead, MigrationReadExclusive, EXCLUSIVE_TO_MIGRATION_OLD),
    row(DeviceExclusiveRead, DeviceExclusiveRead, FLAGS),
    row(DeviceExclusiveRead, HwPoison, EXCLUSIVE_TO_HWPOISON),
    row(DeviceExclusiveRead, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(DeviceExclusiveRead, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    row(DeviceExclusiveWrite, None, ZAP),
    row(DeviceExclusiveWrite, Present, RESTORE),
    row(DeviceExclusiveWrite, Swap, EXCLUSIVE_TO_SWAP),
    row(DeviceExclusiveWrite, MigrationRead, EXCLUSIVE_TO_MIGRATION_OLD),
    row(DeviceExclusiveWrite, MigrationReadExclusive, EXCLUSIVE_TO_MIGRATION_OLD),
    row(DeviceExclusiveWrite, DeviceExclusiveRead, "mprotect.c change_pte_range (up to 6.14)"),
    row(DeviceExclusiveWrite, DeviceExclusiveWrite, "fs/proc/task_mmu.c clear_soft_dirty"),
    row(DeviceExclusiveWrite, HwPoison, EXCLUSIVE_TO_HWPOISON),
    row(DeviceExclusive, None, ZAP),
    row(DeviceExclusive, Present, RESTORE),
    row(DeviceExclusive, Swap, EXCLUSIVE_TO_SWAP),
    row(DeviceExclusive, MigrationRead, EXCLUSIVE_TO_MIGRATION),
    row(DeviceExclusive, MigrationReadExclusive, EXCLUSIVE_TO_MIGRATION),
    row(DeviceExclusive, DeviceExclusive, FLAGS),
    row(DeviceExclusive, HwPoison, EXCLUSIVE_TO_HWPOISON),
    row(DeviceExclusive, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(DeviceExclusive, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    // From poison: never mapped again.
    row(HwPoison, None, "memory.c zap_pte_range; madvise.c madvise_free_pte_range; mremap.c move_ptes"),
    row(HwPoison, HwPoison, FLAGS),
    row(HwPoison, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(HwPoison, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    // From a note without a page.
    row(
        MarkerUffdWp,
        None,
        "mprotect.c change_pte_range: resolve; memory.c pte_marker_clear, zap_pte_range; mremap.c move_ptes",
    ),
    row(
        MarkerUffdWp,
        Present,
        "memory.c pte_marker_handle_uffd_wp, do_pte_missing; userfaultfd.c mfill_atomic_install_pte",
    ),
    row(MarkerUffdWp, MarkerUffdWp, FLAGS),
    row(MarkerPoisoned, None, "memory.c zap_pte_range; madvise.c madvise_free_pte_range; mremap.c move_ptes"),
    row(MarkerPoisoned, Present, "userfaultfd.c mfill_atomic_install_pte: UFFDIO_COPY over a poisoned page heals it"),
    row(MarkerPoisoned, MarkerPoisoned, FLAGS),
    row(MarkerPoisoned, MarkerUffdWp, ZAP_KEEPS_UFFD_WP),
    row(MarkerPoisoned, SwapSpecial, ZAP_KEEPS_UFFD_WP),
    row(MarkerGuard, None, "madvise.c guard_remove_pte_entry; memory.c zap_pte_range: munmap; mremap.c move_ptes"),
    row(MarkerGuard, MarkerGuard, FLAGS),
    row(SwapSpecial, None, "uffd-wp series of 2021: change_pte_range: resolve; zap_pte_range: munmap"),
    row(
        SwapSpecial,
        Present,
        "uffd-wp series of 2021: do_fault: revives the page of the page cache, still write-protected",
    ),
];

/// For each kind, the kinds that may follow, one bit each.
const FOLLOWERS: [u32; EntryKind::COUNT] = {
    let mut followers = [0; EntryKind::COUNT];
    let mut i = 0;
    while i < TRANSITIONS.len() {
        followers[TRANSITIONS[i].from as usize] |= 1 << TRANSITIONS[i].to as u32;
        i += 1;
    }
    followers
};

/// Whether a slot that held `from` may hold `to` next.
#[inline]
#[must_use]
pub const fn transition_legal(from: EntryKind, to: EntryKind) -> bool {
    FOLLOWERS[from as usize] & (1 << to as u32) != 0
}

/// The kernel function that makes this transition, if it is legal.
#[must_use]
pub fn transition_reason(from: EntryKind, to: EntryKind) -> Option<&'static str> {
    TRANSITIONS.iter().find(|t| t.from == from && t.to == to).map(|t| t.why)
}
