//! The rules behind the table, with the kernel function of each cell.

use super::Carry::{self, Carried, Decided, Dropped, MayDrop, MaySet, Set};
use super::{Cell, Cells};
use crate::entry::EntryKind::{
    self, DeviceExclusive, DeviceExclusiveRead, DeviceExclusiveWrite, DevicePrivateRead, DevicePrivateWrite, HwPoison,
    MarkerGuard, MarkerPoisoned, MarkerUffdWp, MigrationRead, MigrationReadExclusive, MigrationWrite, None as Empty,
    Present, Swap, SwapSpecial,
};

/// A set of kinds, one bit each.
type Kinds = u32;

const fn set(kinds: &[EntryKind]) -> Kinds {
    let mut bits = 0;
    let mut i = 0;
    while i < kinds.len() {
        bits |= 1 << kinds[i] as u32;
        i += 1;
    }
    bits
}

const ANY: Kinds = Kinds::MAX;
const NONE: Kinds = set(&[Empty]);
const PRESENT: Kinds = set(&[Present]);
const SWAP: Kinds = set(&[Swap]);
const MIGRATION_READS: Kinds = set(&[MigrationRead, MigrationReadExclusive]);
const MIGRATION: Kinds = MIGRATION_READS | set(&[MigrationWrite]);
const PRIVATE: Kinds = set(&[DevicePrivateRead, DevicePrivateWrite]);
const LENT: Kinds = set(&[DeviceExclusiveRead, DeviceExclusiveWrite, DeviceExclusive]);
const NOTES: Kinds = set(&[MarkerUffdWp, SwapSpecial]);
const MARKERS: Kinds = set(&[MarkerUffdWp, MarkerPoisoned, MarkerGuard, SwapSpecial]);

/// What becomes of the bits between two sets of kinds.
pub(super) struct Rule {
    from: Kinds,
    to: Kinds,
    pub(super) cells: Cells,
}

impl Rule {
    pub(super) fn fits(&self, from: EntryKind, to: EntryKind) -> bool {
        self.from & (1 << from as u32) != 0 && self.to & (1 << to as u32) != 0
    }
}

pub(super) const fn c(carry: Carry, by: &'static str) -> Cell {
    Cell { carry, by }
}

const fn rule(from: Kinds, to: Kinds, cells: Cells) -> Rule {
    Rule { from, to, cells }
}

const NO_ROOM: &str = "the new entry has no room for it";
const NEW_ENTRY: &str = "the new entry is made of the page or the kind alone";
const GONE: &str = "ptep_get_and_clear: the entry is gone; the dirty bit of a file page goes to the folio";
const KEEP: &str = "swp_offset: the offset is kept";
const UNMAP_FLAGS: &str = "try_to_unmap_one: pte_swp_mksoft_dirty, pte_swp_mkuffd_wp";
const MIGRATE_FLAGS: &str = "try_to_migrate_one, migrate_vma_collect_pmd: pte_swp_mksoft_dirty, pte_swp_mkuffd_wp";
const CLEAR_REFS: &str = "clear_soft_dirty: pte_swp_clear_soft_dirty";
const UFFD: &str = "change_pte_range: pte_swp_mkuffd_wp, pte_swp_clear_uffd_wp";
const SAME_PAGE: &str = "the page stays as it is";
const TO_FOLIO: &str = "folio_mark_dirty: it goes to the folio";
const COPIED: &str = "copy_nonpresent_pte, move_ptes: what the entry it is a copy of says";
const FAULTED: &str = "the fault handler, or copy_present_ptes for the child, or move_ptes";

/// The first that fits counts.
pub(super) const RULES: &[Rule] = &[
    // Gone.
    rule(ANY, NONE, [c(Dropped, GONE); 6]),
    // A note takes its place.
    rule(
        ANY & !NONE & !MARKERS,
        NOTES,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, "zap_present_folio_ptes, try_to_unmap_one: folio_mark_dirty"),
            c(Dropped, "make_pte_marker: soft-dirty is not kept"),
            c(
                Carried,
                "zap_install_uffd_wp_if_needed, pte_install_uffd_wp_if_needed: only such an entry leaves a note",
            ),
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
        ],
    ),
    rule(MARKERS & !NOTES, NOTES, ZAPPED_MARKER),
    rule(NOTES, NOTES, FLAGS_OF_A_NOTE),
    rule(MARKERS, MARKERS, FLAGS_OF_A_NOTE),
    rule(
        NONE,
        MARKERS & !NOTES,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(MaySet, "make_pte_marker: a bare marker; mremap.c move_soft_dirty_pte sets it"),
            c(MaySet, COPIED),
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
        ],
    ),
    rule(
        NONE,
        NOTES,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(MaySet, "make_pte_marker: a bare marker; mremap.c move_soft_dirty_pte sets it"),
            c(Set, "change_pte_range: make_pte_marker(PTE_MARKER_UFFD_WP)"),
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
        ],
    ),
    // From nothing.
    rule(NONE, PRESENT, [c(MaySet, FAULTED); 6]),
    rule(NONE, ANY, [c(MaySet, COPIED); 6]),
    // A present entry.
    rule(PRESENT, PRESENT, [c(Decided, "many paths: see the table of paths"); 6]),
    rule(
        PRESENT,
        SWAP,
        [
            c(Dropped, "folio_referenced_one has taken it before; what is left goes"),
            c(Dropped, TO_FOLIO),
            c(Carried, UNMAP_FLAGS),
            c(Carried, UNMAP_FLAGS),
            c(Carried, "try_to_unmap_one: pte_swp_mkexclusive"),
            c(Dropped, "do_swap_page decides from the VMA"),
        ],
    ),
    rule(
        PRESENT,
        MIGRATION,
        [
            c(Carried, "make_migration_entry_young, where there is room (6.1)"),
            c(Carried, "make_migration_entry_dirty, where there is room (6.1); to the folio, too"),
            c(Carried, MIGRATE_FLAGS),
            c(Carried, MIGRATE_FLAGS),
            c(Carried, "try_to_migrate_one: make_readable_exclusive_migration_entry; a writable page is exclusive"),
            c(Carried, "try_to_migrate_one: make_writable_migration_entry"),
        ],
    ),
    rule(
        PRESENT,
        PRIVATE,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(MaySet, "migrate_vma_insert_page: not kept; set where N2 is repaired"),
            c(MayDrop, "migrate_vma_insert_page: the zero page's flags are not looked at; kept where N5 is repaired"),
            c(Set, "migrate_vma_insert_page: folio_add_new_anon_rmap"),
            c(Decided, "migrate_vma_insert_page: VM_WRITE"),
        ],
    ),
    rule(
        PRESENT,
        LENT,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, TO_FOLIO),
            c(Carried, "make_device_exclusive: pte_swp_mksoft_dirty"),
            c(Carried, "make_device_exclusive: pte_swp_mkuffd_wp"),
            c(Carried, SAME_PAGE),
            c(Carried, "page_make_device_exclusive_one: the type (up to 6.14); since 6.15 nothing says it"),
        ],
    ),
    rule(set(&[HwPoison]), set(&[HwPoison]), FLAGS_OF_A_NOTE),
    rule(NONE, set(&[HwPoison]), [c(MaySet, COPIED); 6]),
    rule(ANY, set(&[HwPoison]), POISONED),
    // From swap.
    rule(
        SWAP,
        PRESENT,
        [
            c(MaySet, "do_swap_page: vm_page_prot is young; unuse_pte: pte_mkold"),
            c(MaySet, "do_swap_page: pte_mkdirty for a write fault"),
            c(MaySet, "do_swap_page, unuse_pte: pte_mksoft_dirty; a write sets it"),
            c(Carried, "do_swap_page, unuse_pte: pte_mkuffd_wp"),
            c(MaySet, "do_swap_page: pte_swp_exclusive, or the only reference there is"),
            c(MaySet, "do_swap_page: exclusive, and VMA, uffd-wp and soft-dirty permit"),
        ],
    ),
    rule(
        SWAP,
        SWAP,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(MayDrop, CLEAR_REFS),
            c(Decided, UFFD),
            c(MayDrop, "copy_nonpresent_pte: pte_swp_clear_exclusive"),
            c(Dropped, NO_ROOM),
        ],
    ),
    rule(SWAP, MARKERS, POISONED),
    // From migration.
    rule(
        MIGRATION,
        PRESENT,
        [
            c(Carried, "remove_migration_pte: is_migration_entry_young"),
            c(MayDrop, "remove_migration_pte: is_migration_entry_dirty, if the folio still is"),
            c(Carried, "remove_migration_pte: pte_mksoft_dirty"),
            c(Carried, "remove_migration_pte: pte_mkuffd_wp, unless writable, which excludes it"),
            c(Carried, "remove_migration_pte: folio_add_anon_rmap_pte(RMAP_EXCLUSIVE)"),
            c(
                MaySet,
                "remove_migration_pte: pte_mkwrite of a writable entry; vm_page_prot of a shared mapping may be writable",
            ),
        ],
    ),
    rule(
        MIGRATION,
        PRIVATE,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(Carried, "remove_migration_pte: pte_swp_mksoft_dirty"),
            c(Carried, "remove_migration_pte: pte_swp_mkuffd_wp"),
            c(Carried, "remove_migration_pte: folio_add_anon_rmap_pte(RMAP_EXCLUSIVE)"),
            c(Carried, "remove_migration_pte: pte_write of the entry that it has just made"),
        ],
    ),
    rule(
        MIGRATION,
        set(&[MigrationRead]),
        [
            c(Carried, KEEP),
            c(Carried, KEEP),
            c(MayDrop, CLEAR_REFS),
            c(Decided, UFFD),
            c(MayDrop, "copy_nonpresent_pte: make_readable_migration_entry"),
            c(Dropped, "copy_nonpresent_pte, change_pte_range: make_readable_migration_entry"),
        ],
    ),
    rule(
        MIGRATION,
        set(&[MigrationReadExclusive]),
        [
            c(Carried, KEEP),
            c(Carried, KEEP),
            c(MayDrop, CLEAR_REFS),
            c(Decided, UFFD),
            c(Carried, "change_pte_range: make_readable_exclusive_migration_entry"),
            c(Dropped, "change_pte_range: make_readable_exclusive_migration_entry; clear_soft_dirty with N1 repaired"),
        ],
    ),
    rule(
        MIGRATION,
        MIGRATION,
        [
            c(Carried, KEEP),
            c(Carried, KEEP),
            c(MayDrop, CLEAR_REFS),
            c(Carried, "clear_soft_dirty leaves it"),
            c(Carried, "clear_soft_dirty leaves the type"),
            c(Carried, "clear_soft_dirty leaves the type: N1"),
        ],
    ),
    // From device memory.
    rule(
        PRIVATE,
        MIGRATION,
        [
            c(Dropped, "migrate_vma_collect_pmd: the device's accesses are not known"),
            c(Dropped, "migrate_vma_collect_pmd: the device's stores are not known; the folio is dirty"),
            c(Carried, MIGRATE_FLAGS),
            c(Carried, MIGRATE_FLAGS),
            c(Carried, "migrate_vma_collect_pmd: make_readable_exclusive_migration_entry"),
            c(Carried, "migrate_vma_collect_pmd: is_writable_device_private_entry"),
        ],
    ),
    rule(
        set(&[DevicePrivateWrite]),
        set(&[DevicePrivateRead]),
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(Dropped, "copy_nonpresent_pte, change_pte_range: soft-dirty is not kept"),
            c(MaySet, "copy_nonpresent_pte, change_pte_range: pte_swp_mkuffd_wp"),
            c(MayDrop, "copy_nonpresent_pte: folio_try_dup_anon_rmap_pte"),
            c(Dropped, "copy_nonpresent_pte, change_pte_range: make_readable_device_private_entry"),
        ],
    ),
    rule(PRIVATE, PRIVATE, FLAGS_OF_A_PAGE),
    // From a page lent to a device.
    rule(
        LENT,
        PRESENT,
        [
            c(Dropped, "restore_exclusive_pte: pte_mkold"),
            c(MaySet, "restore_exclusive_pte: pte_mkdirty of a writable entry (6.14), of a dirty folio (6.15)"),
            c(MaySet, "restore_exclusive_pte: pte_mksoft_dirty; pte_mkdirty sets it"),
            c(Carried, "restore_exclusive_pte: pte_mkuffd_wp"),
            c(Carried, SAME_PAGE),
            c(Decided, "restore_exclusive_pte: the type (6.14), can_change_pte_writable (6.15)"),
        ],
    ),
    rule(
        LENT,
        SWAP,
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(Carried, "try_to_unmap_one: pte_swp_soft_dirty (6.15)"),
            c(Carried, "try_to_unmap_one: pte_swp_uffd_wp (6.15)"),
            c(Carried, "try_to_unmap_one: pte_swp_mkexclusive"),
            c(Dropped, "do_swap_page decides from the VMA"),
        ],
    ),
    rule(
        LENT,
        MIGRATION,
        [
            c(Dropped, "try_to_migrate_one: such an entry is old"),
            c(Dropped, "try_to_migrate_one: such an entry is clean, the folio may be dirty"),
            c(Carried, "try_to_migrate_one: pte_swp_soft_dirty (6.15)"),
            c(Carried, "try_to_migrate_one: pte_swp_uffd_wp (6.15)"),
            c(Carried, "try_to_migrate_one: make_readable_exclusive_migration_entry"),
            c(Dropped, "try_to_migrate_one: never as writable"),
        ],
    ),
    rule(
        set(&[DeviceExclusiveWrite]),
        set(&[DeviceExclusiveRead]),
        [
            c(Dropped, NO_ROOM),
            c(Dropped, NO_ROOM),
            c(Carried, "change_pte_range: pte_swp_mksoft_dirty"),
            c(MaySet, "change_pte_range: pte_swp_mkuffd_wp"),
            c(Carried, SAME_PAGE),
            c(Dropped, "change_pte_range: make_readable_device_exclusive_entry"),
        ],
    ),
    rule(LENT, LENT, FLAGS_OF_A_PAGE),
    // From a note.
    rule(
        MARKERS,
        PRESENT,
        [
            c(MaySet, FAULTED),
            c(MaySet, FAULTED),
            c(MaySet, FAULTED),
            c(
                Decided,
                "set_pte_range: pte_mkuffd_wp (vmf_orig_pte_uffd_wp); mfill_atomic_install_pte: as it was asked to",
            ),
            c(MaySet, FAULTED),
            c(MaySet, FAULTED),
        ],
    ),
];

/// A marker with uffd-wp beside its own bit.
const ZAPPED_MARKER: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
    c(Dropped, "make_pte_marker: a bare marker"),
    c(Set, "zap_install_uffd_wp_if_needed: the note is all that stays"),
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
];

/// A page is lost, or its contents are.
const POISONED: Cells = [
    c(Dropped, NEW_ENTRY),
    c(Dropped, TO_FOLIO),
    c(Dropped, "try_to_unmap_one, unuse_pte: make_hwpoison_entry or make_pte_marker, bare"),
    c(Dropped, "try_to_unmap_one, unuse_pte: make_hwpoison_entry or make_pte_marker, bare"),
    c(Dropped, NEW_ENTRY),
    c(Dropped, NEW_ENTRY),
];

const FLAGS_OF_A_NOTE: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
    c(MayDrop, CLEAR_REFS),
    c(Decided, UFFD),
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
];

const FLAGS_OF_A_PAGE: Cells = [
    c(Dropped, NO_ROOM),
    c(Dropped, NO_ROOM),
    c(MayDrop, CLEAR_REFS),
    c(Decided, UFFD),
    c(MayDrop, "folio_try_dup_anon_rmap_pte: fork"),
    c(Carried, "the type stays"),
];

/// One way from a present entry to a present entry.
pub struct Path {
    /// Name of the op that takes it; `hardware` for the walker.
    pub op: &'static str,
    /// What becomes of the bits.
    pub cells: Cells,
}

/// What mprotect does to a page that it has to fault in.
const LOCKED: &str =
    "change_pte_range: pte_modify; wp_page_copy where a locked mapping becomes writable (mprotect_fixup)";

/// The walker, as an op.
pub const HARDWARE: &str = "hardware";

/// What the walker does, at either level.
pub(super) const WALKER: Cells = [
    c(MaySet, "the walker sets it"),
    c(MaySet, "the walker sets it for a store"),
    c(Carried, "the walker leaves software's bits alone"),
    c(Carried, "the walker leaves software's bits alone"),
    c(Carried, SAME_PAGE),
    c(Carried, "the walker grants nothing"),
];

/// Paths from a present entry to a present entry that treat bits in their own way.
pub const PATHS: &[Path] = &[
    Path { op: HARDWARE, cells: WALKER },
    Path {
        op: "mprotect",
        cells: [
            c(MaySet, LOCKED),
            c(MaySet, LOCKED),
            c(MaySet, LOCKED),
            c(Carried, "change_pte_range: pte_modify"),
            c(MaySet, "the same page, or a copy where a locked mapping becomes writable"),
            c(Decided, "change_pte_range: newprot, can_change_pte_writable (6.1)"),
        ],
    },
    Path {
        op: "uffd-wp",
        cells: [
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, "change_pte_range: pte_modify"),
            c(Set, "change_pte_range: pte_mkuffd_wp"),
            c(Carried, SAME_PAGE),
            c(Dropped, "change_pte_range: pte_mkuffd_wp write-protects"),
        ],
    },
    Path {
        op: "uffd-unwp",
        cells: [
            c(MaySet, "change_pte_range: pte_modify; wp_page_copy where resolving copies"),
            c(MaySet, "change_pte_range: pte_modify; wp_page_copy where resolving copies"),
            c(MaySet, "change_pte_range: pte_modify; wp_page_copy where resolving copies"),
            c(Dropped, "change_pte_range: pte_clear_uffd_wp"),
            c(MaySet, "the same page, or a copy where resolving copies"),
            c(Decided, "change_pte_range: newprot; can_change_pte_writable (6.1)"),
        ],
    },
    Path {
        op: "clear-refs",
        cells: [
            c(Carried, "clear_soft_dirty: ptep_modify_prot_start"),
            c(Carried, "clear_soft_dirty: ptep_modify_prot_start"),
            c(
                Decided,
                "clear_soft_dirty: pte_clear_soft_dirty; pte_is_pinned leaves it (and with N3 repaired, sets it)",
            ),
            c(Carried, "clear_soft_dirty: ptep_modify_prot_start"),
            c(Carried, SAME_PAGE),
            c(MayDrop, "clear_soft_dirty: pte_wrprotect; not of a pinned page"),
        ],
    },
    Path {
        op: "referenced",
        cells: [
            c(Dropped, "folio_referenced_one: ptep_clear_flush_young_notify"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, SAME_PAGE),
            c(Carried, "ptep_test_and_clear_young: one bit"),
        ],
    },
    Path {
        op: "clear-young",
        cells: [
            c(Dropped, "clear_refs_pte_range: ptep_test_and_clear_young"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, "ptep_test_and_clear_young: one bit"),
            c(Carried, SAME_PAGE),
            c(Carried, "ptep_test_and_clear_young: one bit"),
        ],
    },
    Path {
        op: "mkclean",
        cells: [
            c(Carried, "page_vma_mkclean_one: ptep_clear_flush"),
            c(Dropped, "page_vma_mkclean_one: pte_mkclean"),
            c(Carried, "page_vma_mkclean_one: ptep_clear_flush"),
            c(Carried, "page_vma_mkclean_one: ptep_clear_flush"),
            c(Carried, SAME_PAGE),
            c(Dropped, "page_vma_mkclean_one: pte_wrprotect"),
        ],
    },
    Path {
        op: "fork",
        cells: [
            c(Carried, "ptep_set_wrprotect: one bit"),
            c(Carried, "ptep_set_wrprotect: one bit, which on x86-64 saves the dirty bit elsewhere"),
            c(Carried, "ptep_set_wrprotect: one bit"),
            c(Carried, "ptep_set_wrprotect: one bit"),
            c(MayDrop, "folio_try_dup_anon_rmap_pte: shared from now on"),
            c(Dropped, "__copy_present_ptes: wrprotect_ptes"),
        ],
    },
    Path {
        op: "numa-scan",
        cells: [
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, "change_pte_range: pte_modify"),
            c(Carried, SAME_PAGE),
            c(MayDrop, "change_pte_range: PAGE_NONE; kept by pte_mk_savedwrite (up to 6.1)"),
        ],
    },
];
