//! Entries one level up: what a PMD means, and which kind may follow which.
//!
//! A PMD points to a table, or maps a huge page with the bits of a PTE and one that tells the two apart, or holds a
//! migration entry; of hugetlb memory it may hold a marker, too. A huge PMD that is being changed is *invalid* for a moment:
//! the hardware cannot use it, and for the kernel it is still there, so that nobody takes it for none (`pmdp_invalidate()`).

use super::{EntryConfig, EntryKind};
use crate::arch::{Pmd, Pte};

/// The kind of a PMD.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PmdKind {
    /// Nothing.
    None,
    /// A table of PTEs.
    Table,
    /// A huge page that the hardware may use.
    Huge,
    /// A huge page that is invalid for the moment.
    Invalid,
    /// The huge page is being migrated.
    Migration(EntryKind),
    /// Of hugetlb memory: no page, and a note of what to do when one comes (`huge_pte_none_mostly()`).
    Marker(EntryKind),
    /// Anything else.
    Bad,
}

impl PmdKind {
    /// A huge page or a migration entry: what `pmd_trans_huge_lock()` locks.
    #[must_use]
    pub const fn is_leaf(self) -> bool {
        matches!(self, PmdKind::Huge | PmdKind::Invalid | PmdKind::Migration(_))
    }

    /// `huge_pte_none_mostly()`: no page, and none on its way.
    #[must_use]
    pub const fn none_mostly(self) -> bool {
        matches!(self, PmdKind::None | PmdKind::Marker(_))
    }

    /// Name for evidence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PmdKind::None => "none",
            PmdKind::Table => "table",
            PmdKind::Huge => "huge",
            PmdKind::Invalid => "huge, invalid",
            PmdKind::Migration(kind) | PmdKind::Marker(kind) => kind.name(),
            PmdKind::Bad => "bad",
        }
    }
}

/// A legal pair of kinds, with the kernel function that writes the second over the first.
#[derive(Clone, Copy, Debug)]
pub struct PmdTransition {
    /// What the PMD held, by name.
    pub from: &'static str,
    /// What it holds next.
    pub to: &'static str,
    /// The function and its file under `mm/`.
    pub why: &'static str,
}

const fn row(from: &'static str, to: &'static str, why: &'static str) -> PmdTransition {
    PmdTransition { from, to, why }
}

const MIGRATION: &str = "migration";
const MARKER: &str = "marker";
const ZAP: &str = "huge_memory.c zap_huge_pmd, __split_huge_pmd_locked of a file";
const SPLIT: &str = "huge_memory.c __split_huge_pmd_locked: every page has a PTE of its own";

/// Every legal pair. A row with the same name twice is a change of flags or frame.
pub const PMD_TRANSITIONS: &[PmdTransition] = &[
    row("none", "table", "memory.c __pte_alloc"),
    row("none", "huge", "huge_memory.c __do_huge_pmd_anonymous_page, copy_huge_pmd; khugepaged.c; memory.c do_set_pmd"),
    row("none", MIGRATION, "huge_memory.c copy_huge_pmd: the child's copy"),
    row("table", "none", "memory.c free_pte_range; khugepaged.c pmdp_collapse_flush: collapse, retract_page_tables"),
    row("huge", "none", ZAP),
    row("huge", "huge", "huge_memory.c change_huge_pmd, touch_pmd, do_huge_pmd_wp_page: flags change; hardware"),
    row("huge", "huge, invalid", "huge_memory.c change_huge_pmd, __split_huge_pmd_locked: pmdp_invalidate"),
    row("huge, invalid", "huge", "huge_memory.c change_huge_pmd, clear_soft_dirty_pmd: valid again, with other flags"),
    row("huge, invalid", "table", SPLIT),
    row("huge, invalid", MIGRATION, "huge_memory.c set_pmd_migration_entry"),
    row("huge, invalid", "huge, invalid", "huge_memory.c pmdp_invalidate of what is invalid already"),
    row(MIGRATION, "none", ZAP),
    row(MIGRATION, MIGRATION, "huge_memory.c change_huge_pmd, copy_huge_pmd: made readable; flags change"),
    row(MIGRATION, "huge", "huge_memory.c remove_migration_pmd"),
    row(MIGRATION, "table", SPLIT),
    row("none", MARKER, "hugetlb.c hugetlb_change_protection, hugetlb_mfill_atomic_pte, __unmap_hugepage_range"),
    row(MARKER, "none", "hugetlb.c hugetlb_change_protection, __unmap_hugepage_range, move_huge_pte"),
    row(MARKER, "huge", "hugetlb.c hugetlb_no_page, hugetlb_mfill_atomic_pte"),
    row(MIGRATION, MARKER, "hugetlb.c __unmap_hugepage_range"),
];

/// Whether some kernel function writes a PMD of the second kind over one of the first.
#[must_use]
pub fn pmd_transition_legal(from: PmdKind, to: PmdKind) -> bool {
    let name = |kind: PmdKind| match kind {
        PmdKind::Migration(_) => MIGRATION,
        PmdKind::Marker(_) => MARKER,
        kind => kind.name(),
    };
    PMD_TRANSITIONS.iter().any(|t| t.from == name(from) && t.to == name(to))
}

impl EntryConfig {
    /// The kind of a PMD.
    #[must_use]
    pub fn pmd_kind(&self, pmd: Pmd) -> PmdKind {
        if self.arch.pmd_none(pmd) {
            PmdKind::None
        } else if self.arch.pmd_is_table(pmd) {
            PmdKind::Table
        } else if self.arch.pmd_trans_huge(pmd) {
            if self.arch.pmd_is_invalid(pmd) { PmdKind::Invalid } else { PmdKind::Huge }
        } else {
            match self.kind(Pte(pmd.0)) {
                kind if kind.is_migration() => PmdKind::Migration(kind),
                kind if kind.is_marker() || kind == EntryKind::SwapSpecial => PmdKind::Marker(kind),
                _ => PmdKind::Bad,
            }
        }
    }

    /// What a PMD says of its first page, as a PTE would say it. Of none and of a table: nothing.
    #[must_use]
    pub fn pmd_as_pte(&self, pmd: Pmd) -> Pte {
        match self.pmd_kind(pmd) {
            PmdKind::Huge | PmdKind::Invalid => self.arch.pmd_leaf(pmd),
            PmdKind::Migration(_) | PmdKind::Marker(_) => Pte(pmd.0),
            _ => Pte(0),
        }
    }

    /// What a PMD says of the `n`th of its pages.
    #[must_use]
    pub fn pmd_as_pte_of(&self, pmd: Pmd, n: u32) -> Pte {
        let pte = self.pmd_as_pte(pmd);
        if !self.arch.pte_present(pte) {
            return pte;
        }
        self.arch.pte_advance_pfn(pte, u64::from(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Arch, Prot};

    #[test]
    fn a_huge_entry_keeps_its_bits_while_it_is_invalid() {
        for arch in Arch::ALL {
            let ec = EntryConfig::new(arch, false);
            for prot in [Prot::Copy, Prot::Read] {
                let pte = arch.pte_mkuffd_wp(arch.pte_mkdirty(arch.pfn_pte(9, prot)));
                let pmd = arch.pte_mkhuge(pte);
                assert_eq!(ec.pmd_kind(pmd), PmdKind::Huge);
                let invalid = arch.pmd_mkinvalid(pmd);
                assert_eq!(ec.pmd_kind(invalid), PmdKind::Invalid, "{}", arch.name());
                assert_eq!(arch.pmd_leaf(invalid), pte, "{}", arch.name());
                assert_eq!(arch.pmd_leaf(pmd), pte);
            }
        }
    }

    #[test]
    fn a_huge_entry_without_access_is_not_invalid() {
        for arch in Arch::ALL {
            let ec = EntryConfig::new(arch, false);
            let pmd = arch.pte_mkhuge(arch.pfn_pte(9, Prot::None));
            assert_eq!(ec.pmd_kind(pmd), PmdKind::Huge, "{}", arch.name());
            assert_eq!(arch.pte_pfn(ec.pmd_as_pte_of(pmd, 3)), 12);
            assert_eq!(ec.pmd_kind(arch.mk_table(77)), PmdKind::Table);
        }
    }
}
