//! Which question may be asked of which entry.
//!
//! The kernel's accessors do not look before they answer. `pte_dirty` reads bit 6 (on x86-64) of whatever it is given:
//! in a present entry that is the dirty bit, in a swap entry it is always zero, and `pte_uffd_wp`'s bit 10 is a bit of
//! the inverted swap offset. Nothing crashes; the answer is merely about something else. One table says for every
//! accessor which kinds it may be asked of and who says so. It does not cover [`EntryKind::Bad`], of which nothing may
//! be asked, and the tests that are always allowed (`pte_none`, `pte_present`, `pte_same`, `is_swap_pte`).

use super::EntryKind;

/// A set of kinds, one bit each.
const fn set(kinds: &[EntryKind]) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < kinds.len() {
        bits |= 1 << kinds[i] as u32;
        i += 1;
    }
    bits
}

const PRESENT: u32 = set(&[EntryKind::Present]);
const SWAP: u32 = set(&[EntryKind::Swap]);
const MIGRATION: u32 = set(&[EntryKind::MigrationRead, EntryKind::MigrationReadExclusive, EntryKind::MigrationWrite]);
const DEVICE: u32 = set(&[
    EntryKind::DevicePrivateRead,
    EntryKind::DevicePrivateWrite,
    EntryKind::DeviceExclusiveRead,
    EntryKind::DeviceExclusiveWrite,
    EntryKind::DeviceExclusive,
]);
const HWPOISON: u32 = set(&[EntryKind::HwPoison]);
const MARKER: u32 = set(&[EntryKind::MarkerUffdWp, EntryKind::MarkerPoisoned, EntryKind::MarkerGuard]);
const SPECIAL: u32 = set(&[EntryKind::SwapSpecial]);
/// Kinds with a frame number in the offset.
const PFN_SWAP: u32 = MIGRATION | DEVICE | HWPOISON;
/// Kinds with a swap entry inside.
const SWAP_ENTRY: u32 = SWAP | PFN_SWAP | MARKER;

const PRESENT_ONLY: &str = "arch pgtable.h, \"only work if pte_present() is true\": else the bit means another thing";
const SWAP_FLAG: &str =
    "arch pgtable_64.h and pgtable-prot.h, \"only for swp ptes\": in a present entry the bit is a hardware bit";
const SWAP_FLAG_SET: &str = "swapops.h, pte_swp_clear_flags(): a flag beside a swap entry";
const PFN_IN_OFFSET: &str =
    "swapops.h, swp_offset_pfn(): asserts is_pfn_swap_entry(), anything else has no frame in its offset";

/// Declares [`Accessor`] and [`ACCESSORS`] from one table.
macro_rules! accessors {
    ($($accessor:ident $name:literal $kinds:expr, $why:expr;)*) => {
        /// A kernel function that reads or changes one entry and does not look at its kind.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Accessor {
            $(#[doc = concat!("`", $name, "`.")] $accessor,)*
        }

        impl Accessor {
            /// Every accessor, in the order of the table.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$accessor),*];
            /// The number of accessors.
            pub const COUNT: usize = [$($name),*].len();
        }

        /// The table: one row for each [`Accessor`], in the order of [`Accessor::ALL`].
        pub const ACCESSORS: [AccessorRow; Accessor::COUNT] = [
            $(AccessorRow { accessor: Accessor::$accessor, name: $name, why: $why, kinds: $kinds },)*
        ];
    };
}

/// One accessor, the kinds it may be asked of, and why.
#[derive(Clone, Copy, Debug)]
pub struct AccessorRow {
    /// The accessor.
    pub accessor: Accessor,
    /// The kernel's name of it.
    pub name: &'static str,
    /// Source of the rule and what goes wrong otherwise.
    pub why: &'static str,
    kinds: u32,
}

impl AccessorRow {
    /// The kinds that may be asked, in order.
    pub fn kinds(&self) -> impl Iterator<Item = EntryKind> + use<> {
        let kinds = self.kinds;
        EntryKind::ALL.into_iter().filter(move |&kind| kinds & (1 << kind as u32) != 0)
    }
}

accessors! {
    PtePfn "pte_pfn" PRESENT, "memory.c and rmap.c ask swp_offset_pfn() of all else";
    PteWrite "pte_write" PRESENT, PRESENT_ONLY;
    PteDirty "pte_dirty" PRESENT, PRESENT_ONLY;
    PteYoung "pte_young" PRESENT, PRESENT_ONLY;
    PteSoftDirty "pte_soft_dirty" PRESENT, PRESENT_ONLY;
    PteUffdWp "pte_uffd_wp" PRESENT, PRESENT_ONLY;
    PteSpecial "pte_special" PRESENT, PRESENT_ONLY;
    PteProtnone "pte_protnone" PRESENT, "pgtable.h: read together with pte_present()";
    PteUnused "pte_unused" PRESENT, "rmap.c, try_to_unmap_one(): \"unused\" is a property of a mapped page (s390)";
    PteModify "pte_modify" PRESENT, "mprotect.c, change_pte_range(): the present branch only";
    PteMkwrite "pte_mkwrite" PRESENT, PRESENT_ONLY;
    PteWrprotect "pte_wrprotect" PRESENT, PRESENT_ONLY;
    PteMkdirty "pte_mkdirty" PRESENT, PRESENT_ONLY;
    PteMkclean "pte_mkclean" PRESENT, PRESENT_ONLY;
    PteMkyoung "pte_mkyoung" PRESENT, PRESENT_ONLY;
    PteMkold "pte_mkold" PRESENT, "includes ptep_clear_flush_young(): rmap.c, folio_referenced_one()";
    PteMksoftDirty "pte_mksoft_dirty" PRESENT, PRESENT_ONLY;
    PteClearSoftDirty "pte_clear_soft_dirty" PRESENT, PRESENT_ONLY;
    PteMkuffdWp "pte_mkuffd_wp" PRESENT, PRESENT_ONLY;
    PteClearUffdWp "pte_clear_uffd_wp" PRESENT, PRESENT_ONLY;
    PteSwpSoftDirty "pte_swp_soft_dirty" SWAP_ENTRY, SWAP_FLAG;
    PteSwpMksoftDirty "pte_swp_mksoft_dirty" SWAP_ENTRY, SWAP_FLAG_SET;
    PteSwpClearSoftDirty "pte_swp_clear_soft_dirty" SWAP_ENTRY, SWAP_FLAG;
    PteSwpUffdWp "pte_swp_uffd_wp" SWAP_ENTRY | SPECIAL, SWAP_FLAG;
    PteSwpMkuffdWp "pte_swp_mkuffd_wp" SWAP_ENTRY | SPECIAL, SWAP_FLAG_SET;
    PteSwpClearUffdWp "pte_swp_clear_uffd_wp" SWAP_ENTRY, "swap-special would be left empty";
    PteSwpExclusive "pte_swp_exclusive" SWAP, "memory.c, do_swap_page(): others say it by type, or not at all";
    PteSwpMkexclusive "pte_swp_mkexclusive" SWAP, "rmap.c, try_to_unmap_one(): on a genuine swap entry only";
    PteSwpClearExclusive "pte_swp_clear_exclusive" SWAP, "memory.c, copy_nonpresent_pte(): likewise";
    PteToSwpEntry "pte_to_swp_entry" SWAP_ENTRY, "swapops.h, is_swap_pte(); the swap-special entry holds none";
    SwpOffsetPfn "swp_offset_pfn" PFN_SWAP, PFN_IN_OFFSET;
    PfnSwapEntryToPage "pfn_swap_entry_to_page" PFN_SWAP, PFN_IN_OFFSET;
    SwapSlot "swap_free" SWAP, "swapfile.c, swap_free(), swap_duplicate(): the type is a swap device";
    MigrationEntryYoung "is_migration_entry_young" MIGRATION, "swapops.h, SWP_MIG_YOUNG: theirs alone";
    MigrationEntryDirty "is_migration_entry_dirty" MIGRATION, "swapops.h, SWP_MIG_DIRTY: theirs alone";
    PteMarkerGet "pte_marker_get" MARKER, "swapops.h: the offset of any other kind is a slot or a frame";
}

impl Accessor {
    /// The kernel's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The row of the table.
    #[must_use]
    pub const fn row(self) -> &'static AccessorRow {
        const ROWS: &[AccessorRow; Accessor::COUNT] = &ACCESSORS;
        &ROWS[self as usize]
    }
}

/// Whether `accessor` may be asked of an entry of this kind.
#[inline]
#[must_use]
pub const fn accessor_legal(kind: EntryKind, accessor: Accessor) -> bool {
    accessor.row().kinds & (1 << kind as u32) != 0
}
