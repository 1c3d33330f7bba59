//! The same one level up: huge pages, and their splits into entries of their own.
//!
//! What an entry is to a page, a PMD is to all pages that it maps, so the cells speak of each of those pages. In between
//! a huge page is often *invalid* ([`super::super::PMD_TRANSITIONS`]), which changes nothing that it says.

use super::Carry::{Carried, Decided, Dropped, MayDrop, MaySet};
use super::rules::{WALKER, c};
use super::{Cell, Cells, Path};
use crate::entry::EntryKind::{
    self, MarkerPoisoned, MarkerUffdWp, MigrationRead, MigrationReadExclusive, MigrationWrite, None as Empty, Present,
    SwapSpecial,
};
use std::fmt;

/// A kind of entry, and the level at which it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Form {
    /// In a PMD, for all of its pages. An empty slot is the same at both levels.
    pub huge: bool,
    /// What it is.
    pub kind: EntryKind,
}

impl Form {
    /// The form of an entry of this kind, at the level of a PMD or not.
    #[must_use]
    pub const fn new(huge: bool, kind: EntryKind) -> Form {
        Form { huge: huge && !matches!(kind, Empty), kind }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.huge { "huge " } else { "" }, self.kind)
    }
}

/// A legal pair, the function that writes the second over the first, and what becomes of each bit.
#[derive(Clone, Copy, Debug)]
pub struct HugeTransition {
    /// What the slot held.
    pub from: Form,
    /// What it holds next; what each of its slots holds next, when it is split.
    pub to: Form,
    /// The function, in `mm/huge_memory.c` unless given.
    pub why: &'static str,
    /// What becomes of each bit.
    pub cells: Cells,
}

const fn pmd(from: EntryKind, to: EntryKind, why: &'static str, cells: Cells) -> HugeTransition {
    HugeTransition { from: Form::new(true, from), to: Form::new(true, to), why, cells }
}

const fn split(from: EntryKind, to: EntryKind, why: &'static str, cells: Cells) -> HugeTransition {
    HugeTransition { from: Form::new(true, from), to: Form::new(false, to), why, cells }
}

const SAME_PAGE: &str = "the page stays as it is";
const MOVED: &str = "move_huge_pmd: moved here";
const KEEP: &str = "swp_offset: the offset is kept";
const READABLE: &str = "copy_huge_pmd, change_huge_pmd: made readable";
const ZAP: &str = "zap_huge_pmd; move_huge_pmd: moved away";

const NEW: Cells =
    [c(MaySet, "the fault handler, copy_huge_pmd for the child, collapse_huge_page, or move_huge_pmd"); 6];
const COPIED: Cells = [c(MaySet, "copy_huge_pmd, move_huge_pmd: what the entry it is a copy of says"); 6];
const GONE: Cells = [c(Dropped, "pmdp_huge_get_and_clear_full: the entry is gone"); 6];

const TO_MIGRATION: Cells = [
    c(Carried, "set_pmd_migration_entry: make_migration_entry_young, where there is room (6.1)"),
    c(Carried, "set_pmd_migration_entry: make_migration_entry_dirty, where there is room (6.1); to the folio, too"),
    c(Carried, "set_pmd_migration_entry: pmd_swp_mksoft_dirty"),
    c(Carried, "set_pmd_migration_entry: pmd_swp_mkuffd_wp"),
    c(Carried, "set_pmd_migration_entry: make_readable_exclusive_migration_entry; a writable page is exclusive"),
    c(Carried, "set_pmd_migration_entry: make_writable_migration_entry"),
];

const FROM_MIGRATION: Cells = [
    c(Carried, "remove_migration_pmd: is_migration_entry_young"),
    c(MayDrop, "remove_migration_pmd: is_migration_entry_dirty, if the folio still is"),
    c(MaySet, "remove_migration_pmd: pmd_mksoft_dirty; pmd_mkdirty sets it, too"),
    c(Carried, "remove_migration_pmd: pmd_mkuffd_wp"),
    c(Carried, "remove_migration_pmd: folio_add_anon_rmap_pmd(RMAP_EXCLUSIVE)"),
    c(
        MaySet,
        "remove_migration_pmd: pmd_mkwrite of a writable entry; vm_page_prot of a shared mapping may be writable",
    ),
];

const MIGRATING: Cells = [
    c(Carried, KEEP),
    c(Carried, KEEP),
    c(MayDrop, "clear_soft_dirty_pmd: pmd_swp_clear_soft_dirty"),
    c(Decided, "change_huge_pmd: pmd_swp_mkuffd_wp, pmd_swp_clear_uffd_wp"),
    c(MayDrop, "copy_huge_pmd: make_readable_migration_entry"),
    c(MayDrop, READABLE),
];

const SPLIT: Cells = [
    c(MaySet, "__split_huge_pmd_locked: pte_mkold unless it was young; the zero page's entries are of vm_page_prot"),
    c(Carried, "__split_huge_pmd_locked: pte_mkdirty, and to the folio"),
    c(Decided, "__split_huge_pmd_locked: pte_mksoft_dirty, and pte_mkdirty may set it; lost with the huge zero page"),
    c(Carried, "__split_huge_pmd_locked: pte_mkuffd_wp"),
    c(Carried, "__split_huge_pmd_locked: folio_add_anon_rmap_ptes(RMAP_EXCLUSIVE)"),
    c(Carried, "__split_huge_pmd_locked: pte_mkwrite"),
];

const SPLIT_FROZEN: Cells = [
    c(Carried, "__split_huge_pmd_locked, freeze: make_migration_entry_young, where there is room (6.1)"),
    c(
        Carried,
        "__split_huge_pmd_locked, freeze: make_migration_entry_dirty, where there is room (6.1); to the folio, too",
    ),
    c(Carried, "__split_huge_pmd_locked, freeze: pte_swp_mksoft_dirty"),
    c(Carried, "__split_huge_pmd_locked, freeze: pte_swp_mkuffd_wp"),
    c(Carried, "__split_huge_pmd_locked, freeze: make_readable_exclusive_migration_entry"),
    c(Carried, "__split_huge_pmd_locked, freeze: make_writable_migration_entry"),
];

const SPLIT_MIGRATING: Cells =
    [c(Carried, "__split_huge_pmd_locked of a migration entry: every page gets what it says"); 6];

const NO_ROOM: &str = "an entry without a page has no room for it";
const NOTED: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
    c(MaySet, "move_huge_pte: moved here"),
    c(super::Carry::Set, "hugetlb_change_protection: make_pte_marker(PTE_MARKER_UFFD_WP)"),
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
];
const POISONED: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
    c(MaySet, "move_huge_pte: moved here"),
    c(Dropped, "hugetlb_mfill_atomic_pte: make_pte_marker(PTE_MARKER_POISONED)"),
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
];
const NOTE_LEFT: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, "__unmap_hugepage_range: set_page_dirty"),
    c(Dropped, "make_pte_marker: soft-dirty is not kept"),
    c(Carried, "__unmap_hugepage_range: only such an entry leaves a note"),
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
];
const FILLED: Cells = [
    c(MaySet, "make_huge_pte: pte_mkyoung"),
    c(MaySet, "make_huge_pte, hugetlb_mfill_atomic_pte: huge_pte_mkdirty"),
    c(MaySet, "huge_pte_mkdirty sets it"),
    c(
        Decided,
        "hugetlb_no_page: huge_pte_mkuffd_wp (pte_marker_uffd_wp); hugetlb_mfill_atomic_pte: as it was asked to",
    ),
    c(MaySet, "hugetlb_add_new_anon_rmap"),
    c(MaySet, "make_huge_pte: huge_pte_mkwrite"),
];

const FLAGS: Cells = [c(Decided, "many paths: see the table of paths"); 6];

const FAULT: &str =
    "__do_huge_pmd_anonymous_page, copy_huge_pmd: the child's copy; khugepaged.c collapse_huge_page; move_huge_pmd";
const FORKED: &str = "copy_huge_pmd: the child's copy; move_huge_pmd: moved here";
const MIGRATE: &str = "set_pmd_migration_entry, from rmap.c try_to_migrate_one";
const RESTORE: &str = "remove_migration_pmd, from migrate.c remove_migration_pte";
const CHANGE: &str = "change_huge_pmd, copy_huge_pmd; fs/proc/task_mmu.c clear_soft_dirty_pmd";
const SPLIT_PMD: &str = "__split_huge_pmd_locked: every page has a PTE of its own";
const FREEZE: &str = "__split_huge_pmd_locked with freeze, from try_to_migrate_one: the folio is about to be split";

const NOTE: &str =
    "hugetlb.c hugetlb_change_protection, copy_hugetlb_page_range: the child's; move_huge_pte: moved here";
const NOTE_GONE: &str = "hugetlb.c hugetlb_change_protection, __unmap_hugepage_range, move_huge_pte";
const FILL: &str = "hugetlb.c hugetlb_no_page, hugetlb_mfill_atomic_pte";
const LEAVE: &str = "hugetlb.c __unmap_hugepage_range: the note is left";

/// Every legal pair that has a huge page in it.
pub const HUGE_TRANSITIONS: &[HugeTransition] = &[
    pmd(Empty, Present, FAULT, NEW),
    pmd(Empty, MigrationRead, FORKED, COPIED),
    pmd(Empty, MigrationReadExclusive, MOVED, COPIED),
    pmd(Empty, MigrationWrite, MOVED, COPIED),
    pmd(Present, Empty, ZAP, GONE),
    pmd(Present, Present, "change_huge_pmd, touch_pmd, do_huge_pmd_wp_page, copy_huge_pmd; hardware", FLAGS),
    pmd(Present, MigrationRead, MIGRATE, TO_MIGRATION),
    pmd(Present, MigrationReadExclusive, MIGRATE, TO_MIGRATION),
    pmd(Present, MigrationWrite, MIGRATE, TO_MIGRATION),
    pmd(MigrationRead, Empty, ZAP, GONE),
    pmd(MigrationReadExclusive, Empty, ZAP, GONE),
    pmd(MigrationWrite, Empty, ZAP, GONE),
    pmd(MigrationRead, Present, RESTORE, FROM_MIGRATION),
    pmd(MigrationReadExclusive, Present, RESTORE, FROM_MIGRATION),
    pmd(MigrationWrite, Present, RESTORE, FROM_MIGRATION),
    pmd(MigrationRead, MigrationRead, CHANGE, MIGRATING),
    pmd(MigrationReadExclusive, MigrationRead, FORKED, MIGRATING),
    pmd(MigrationReadExclusive, MigrationReadExclusive, CHANGE, MIGRATING),
    pmd(MigrationWrite, MigrationRead, FORKED, MIGRATING),
    pmd(MigrationWrite, MigrationReadExclusive, CHANGE, MIGRATING),
    pmd(MigrationWrite, MigrationWrite, "fs/proc/task_mmu.c clear_soft_dirty_pmd leaves the type: N1", MIGRATING),
    split(Present, Present, SPLIT_PMD, SPLIT),
    split(Present, MigrationRead, FREEZE, SPLIT_FROZEN),
    split(Present, MigrationReadExclusive, FREEZE, SPLIT_FROZEN),
    split(Present, MigrationWrite, FREEZE, SPLIT_FROZEN),
    split(MigrationRead, MigrationRead, SPLIT_PMD, SPLIT_MIGRATING),
    split(MigrationReadExclusive, MigrationReadExclusive, SPLIT_PMD, SPLIT_MIGRATING),
    split(MigrationWrite, MigrationWrite, SPLIT_PMD, SPLIT_MIGRATING),
    pmd(Empty, MarkerUffdWp, NOTE, NOTED),
    pmd(Empty, SwapSpecial, NOTE, NOTED),
    pmd(Empty, MarkerPoisoned, "hugetlb.c hugetlb_mfill_atomic_pte, copy_hugetlb_page_range, move_huge_pte", POISONED),
    pmd(MarkerUffdWp, Empty, NOTE_GONE, GONE),
    pmd(SwapSpecial, Empty, NOTE_GONE, GONE),
    pmd(MarkerPoisoned, Empty, "hugetlb.c __unmap_hugepage_range, move_huge_pte", GONE),
    pmd(MarkerUffdWp, Present, FILL, FILLED),
    pmd(SwapSpecial, Present, FILL, FILLED),
    pmd(MarkerPoisoned, Present, "hugetlb.c hugetlb_mfill_atomic_pte", FILLED),
    pmd(Present, MarkerUffdWp, LEAVE, NOTE_LEFT),
    pmd(Present, SwapSpecial, LEAVE, NOTE_LEFT),
    pmd(MigrationRead, MarkerUffdWp, LEAVE, NOTE_LEFT),
    pmd(MigrationRead, SwapSpecial, LEAVE, NOTE_LEFT),
    pmd(MigrationReadExclusive, MarkerUffdWp, LEAVE, NOTE_LEFT),
    pmd(MigrationReadExclusive, SwapSpecial, LEAVE, NOTE_LEFT),
];

/// Paths from a huge page to itself that treat bits in their own way.
pub const HUGE_PATHS: &[Path] = &[
    Path { op: super::HARDWARE, cells: WALKER },
    Path { op: "mprotect", cells: modified(Carried, "pmd_modify", Decided) },
    Path { op: "uffd-wp", cells: modified(super::Carry::Set, "pmd_mkuffd_wp", Dropped) },
    Path { op: "uffd-unwp", cells: modified(Dropped, "pmd_clear_uffd_wp", Decided) },
    Path {
        op: "clear-refs",
        cells: [
            c(Carried, "clear_soft_dirty_pmd: pmd_mkyoung"),
            c(Carried, "clear_soft_dirty_pmd: pmd_mkdirty"),
            c(Dropped, "clear_soft_dirty_pmd: pmd_clear_soft_dirty"),
            c(Carried, "clear_soft_dirty_pmd: pmdp_invalidate"),
            c(Carried, SAME_PAGE),
            c(Dropped, "clear_soft_dirty_pmd: pmd_wrprotect"),
        ],
    },
    Path {
        op: "fork",
        cells: [
            c(Carried, "pmdp_set_wrprotect: one bit"),
            c(Carried, "pmdp_set_wrprotect: one bit, which on x86-64 saves the dirty bit elsewhere"),
            c(Carried, "pmdp_set_wrprotect: one bit"),
            c(Carried, "pmdp_set_wrprotect: one bit"),
            c(MayDrop, "folio_try_dup_anon_rmap_pmd: shared from now on"),
            c(Dropped, "copy_huge_pmd: pmdp_set_wrprotect"),
        ],
    },
];

/// `change_huge_pmd()`: what becomes of uffd-wp and by which function, and of the permission to write.
const fn modified(uffd_wp: super::Carry, by: &'static str, write: super::Carry) -> Cells {
    const MODIFY: Cell = c(Carried, "change_huge_pmd: pmd_modify");
    [
        MODIFY,
        MODIFY,
        MODIFY,
        c(uffd_wp, by),
        c(Carried, SAME_PAGE),
        c(write, "change_huge_pmd: newprot, can_change_pmd_writable (6.1)"),
    ]
}
