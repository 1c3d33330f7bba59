//! Type numbers, and the makers and tests of `include/linux/swapops.h`.
//!
//! A swap type has five bits. The lowest numbers are swap devices; the top of the range is given away to the special
//! kinds, in this order: hwpoison, migration, device, marker. Every kind that a kernel has takes a number from the swap
//! devices, so all numbers move when one kind comes or goes (`MAX_SWAPFILES` in `include/linux/swap.h`). 6.15 merged
//! the two device-exclusive types into one, which moved every other special type up by one.

use super::EntryKind;
use crate::arch::{Arch, Pte, SWP_TYPE_BITS, SwpEntry};
use crate::config::{Config, Design};
use std::fmt;

/// Marker bit: write-protected by userfaultfd (5.19 and later).
pub const PTE_MARKER_UFFD_WP: u64 = 1 << 0;
/// Marker bit: accesses are errors (6.6 and later; before that, with the same number, a swap-in error).
pub const PTE_MARKER_POISONED: u64 = 1 << 1;
/// Marker bit: guard page (6.13 and later).
pub const PTE_MARKER_GUARD: u64 = 1 << 2;

/// What decides how the entries of a kernel look.
///
/// The kernel is taken to have memory failure, migration and device-private memory configured. Start from
/// [`EntryConfig::of`] or [`EntryConfig::new`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryConfig {
    /// The architecture.
    pub arch: Arch,
    /// True up to 6.14: device-exclusive entries have a readable and a writable type. False from 6.15: they have one
    /// type.
    pub device_exclusive_types: bool,
    /// PTE markers exist (5.19 and later), at the price of one swap type.
    pub pte_markers: bool,
    /// The poisoned marker exists (6.6 and later). Needs `pte_markers`.
    pub poison_markers: bool,
    /// The guard marker exists (6.13 and later). Needs `pte_markers`.
    pub guard_markers: bool,
    /// The "swap special" entry of 2021 is in use. x86-64 only. It may stand beside the markers, which then serve the
    /// other purposes.
    pub swap_special: bool,
    /// Migration entries have room for young and dirty above the frame number (`migration_entry_supports_ad`, 6.1 and
    /// later). On x86-64 that holds unless the CPU has the L1TF bug and fewer than 46 cached address bits
    /// (`arch_max_swapfile_size`).
    pub migration_ad: bool,
    /// `PageAnonExclusive` (5.19 and later): a third migration type says it of a page on its way, and a bit beside the
    /// swap entry of a page that is swapped out (`pte_swp_exclusive`).
    pub anon_exclusive: bool,
    /// `SWP_SWAPIN_ERROR` (5.19 to 6.1): a type of its own for a slot that could not be read. Nothing in the model
    /// writes it; it takes a number.
    pub swapin_error: bool,
}

/// A configuration that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConfigError {
    /// The architecture has no bit to spare for the swap-special entry.
    SwapSpecialNeedsBit(
        /// The architecture asked.
        Arch,
    ),
    /// Guard and poison are bits of the PTE marker, which this configuration does not have.
    GuardNeedsMarkers,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwapSpecialNeedsBit(arch) => {
                write!(f, "{} has no spare bit for the swap-special entry", arch.name())
            }
            Self::GuardNeedsMarkers => f.write_str("guard and poison markers need PTE markers"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The type number of each special kind. `None` where the configuration has no such type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SwpTypes {
    /// `MAX_SWAPFILES`: types below are swap devices.
    pub max_swapfiles: u8,
    /// `SWP_HWPOISON`.
    pub hwpoison: u8,
    /// `SWP_MIGRATION_READ`.
    pub migration_read: u8,
    /// `SWP_MIGRATION_READ_EXCLUSIVE`, from 5.19.
    pub migration_read_exclusive: Option<u8>,
    /// `SWP_MIGRATION_WRITE`.
    pub migration_write: u8,
    /// `SWP_DEVICE_WRITE`.
    pub device_write: u8,
    /// `SWP_DEVICE_READ`.
    pub device_read: u8,
    /// `SWP_DEVICE_EXCLUSIVE_WRITE`, up to 6.14.
    pub device_exclusive_write: Option<u8>,
    /// `SWP_DEVICE_EXCLUSIVE_READ`, up to 6.14.
    pub device_exclusive_read: Option<u8>,
    /// `SWP_DEVICE_EXCLUSIVE`, from 6.15.
    pub device_exclusive: Option<u8>,
    /// `SWP_PTE_MARKER`.
    pub pte_marker: Option<u8>,
    /// `SWP_SWAPIN_ERROR`.
    pub swapin_error: Option<u8>,
}

impl SwpTypes {
    /// The arithmetic of `include/linux/swap.h`.
    const fn compute(layout: Layout) -> Self {
        const HWPOISON_NUM: u8 = 1;
        let migration_num = if layout.anon_exclusive { 3 } else { 2 };
        let device_num = if layout.device_exclusive_types { 4 } else { 3 };
        let others = layout.pte_markers as u8 + layout.swapin_error as u8;
        let max = (1 << SWP_TYPE_BITS) - device_num - migration_num - HWPOISON_NUM - others;
        let migration = max + HWPOISON_NUM;
        let device = migration + migration_num;
        let marker = device + device_num;
        let (write, read, single) = if layout.device_exclusive_types {
            (Some(device + 2), Some(device + 3), None)
        } else {
            (None, None, Some(device + 2))
        };
        Self {
            max_swapfiles: max,
            hwpoison: max,
            migration_read: migration,
            migration_read_exclusive: if layout.anon_exclusive { Some(migration + 1) } else { None },
            migration_write: migration + migration_num - 1,
            device_write: device,
            device_read: device + 1,
            device_exclusive_write: write,
            device_exclusive_read: read,
            device_exclusive: single,
            pte_marker: if layout.pte_markers { Some(marker) } else { None },
            swapin_error: if layout.swapin_error { Some(marker + layout.pte_markers as u8) } else { None },
        }
    }

    /// The kind behind each type number; [`EntryKind::MarkerUffdWp`] stands for all markers.
    const fn kinds(self) -> [EntryKind; 1 << SWP_TYPE_BITS] {
        let mut kinds = [EntryKind::Bad; 1 << SWP_TYPE_BITS];
        let mut ty = 0;
        while ty < self.max_swapfiles as usize {
            kinds[ty] = EntryKind::Swap;
            ty += 1;
        }
        kinds[self.hwpoison as usize] = EntryKind::HwPoison;
        kinds[self.migration_read as usize] = EntryKind::MigrationRead;
        if let Some(ty) = self.migration_read_exclusive {
            kinds[ty as usize] = EntryKind::MigrationReadExclusive;
        }
        kinds[self.migration_write as usize] = EntryKind::MigrationWrite;
        kinds[self.device_write as usize] = EntryKind::DevicePrivateWrite;
        kinds[self.device_read as usize] = EntryKind::DevicePrivateRead;
        if let Some(ty) = self.device_exclusive_write {
            kinds[ty as usize] = EntryKind::DeviceExclusiveWrite;
        }
        if let Some(ty) = self.device_exclusive_read {
            kinds[ty as usize] = EntryKind::DeviceExclusiveRead;
        }
        if let Some(ty) = self.device_exclusive {
            kinds[ty as usize] = EntryKind::DeviceExclusive;
        }
        if let Some(ty) = self.pte_marker {
            kinds[ty as usize] = EntryKind::MarkerUffdWp;
        }
        kinds
    }
}

/// What decides on the type numbers.
#[derive(Clone, Copy)]
struct Layout {
    device_exclusive_types: bool,
    pte_markers: bool,
    anon_exclusive: bool,
    swapin_error: bool,
}

impl Layout {
    const COUNT: usize = 16;

    const fn number(self) -> usize {
        self.device_exclusive_types as usize
            | (self.pte_markers as usize) << 1
            | (self.anon_exclusive as usize) << 2
            | (self.swapin_error as usize) << 3
    }

    const fn of_number(n: usize) -> Self {
        Self {
            device_exclusive_types: n & 1 != 0,
            pte_markers: n & 2 != 0,
            anon_exclusive: n & 4 != 0,
            swapin_error: n & 8 != 0,
        }
    }
}

/// Indexed by [`Layout::number`].
static TYPES: [SwpTypes; Layout::COUNT] = {
    let mut types = [SwpTypes::compute(Layout::of_number(0)); Layout::COUNT];
    let mut n = 0;
    while n < Layout::COUNT {
        types[n] = SwpTypes::compute(Layout::of_number(n));
        n += 1;
    }
    types
};

/// The kind behind each type number, indexed as [`TYPES`].
static KINDS: [[EntryKind; 32]; Layout::COUNT] = {
    let mut kinds = [[EntryKind::Bad; 32]; Layout::COUNT];
    let mut n = 0;
    while n < Layout::COUNT {
        kinds[n] = SwpTypes::compute(Layout::of_number(n)).kinds();
        n += 1;
    }
    kinds
};

/// How a page under migration was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MigrationKind {
    /// Read-only, and not known to be exclusive.
    Read,
    /// Read-only, anonymous and exclusive.
    ReadExclusive,
    /// Writable.
    Write,
}

impl MigrationKind {
    /// The kind for a page that was mapped so.
    #[must_use]
    pub const fn of(writable: bool, exclusive: bool) -> MigrationKind {
        match (writable, exclusive) {
            (true, _) => MigrationKind::Write,
            (false, true) => MigrationKind::ReadExclusive,
            (false, false) => MigrationKind::Read,
        }
    }
}

impl EntryConfig {
    /// A kernel with markers of all three kinds, accessed and dirty bits in migration entries, and no swap-special
    /// entry.
    #[must_use]
    pub const fn new(arch: Arch, device_exclusive_types: bool) -> Self {
        Self {
            arch,
            device_exclusive_types,
            pte_markers: true,
            poison_markers: true,
            guard_markers: true,
            swap_special: false,
            migration_ad: true,
            anon_exclusive: true,
            swapin_error: false,
        }
    }

    /// The encoding that the designs of a case make.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let marker = config.uses(Design::UffdWpMarker);
        let poison_markers = config.uses(Design::PoisonMarker);
        let guard_markers = config.uses(Design::GuardMarker);
        Self {
            arch: config.arch,
            device_exclusive_types: config.uses(Design::ExclusiveTwoTypes),
            pte_markers: marker || poison_markers || guard_markers,
            poison_markers,
            guard_markers,
            swap_special: config.uses(Design::UffdWpSpecial),
            migration_ad: config.uses(Design::MigrationBitsKept),
            anon_exclusive: config.uses(Design::CowByExclusive),
            swapin_error: config.uses(Design::PoisonSwapinError),
        }
    }

    /// Whether such a kernel can be.
    ///
    /// # Errors
    /// The architecture lacks a bit that a chosen design needs, or one choice needs another.
    pub const fn check(&self) -> Result<(), ConfigError> {
        if self.swap_special && self.arch.uffd_wp_swp_pte_special().is_none() {
            return Err(ConfigError::SwapSpecialNeedsBit(self.arch));
        }
        if (self.guard_markers || self.poison_markers) && !self.pte_markers {
            return Err(ConfigError::GuardNeedsMarkers);
        }
        Ok(())
    }

    /// The type numbers.
    #[inline]
    #[must_use]
    pub fn types(&self) -> SwpTypes {
        *self.types_ref()
    }

    #[inline]
    fn types_ref(&self) -> &'static SwpTypes {
        &TYPES[self.layout()]
    }

    #[inline]
    const fn layout(&self) -> usize {
        Layout {
            device_exclusive_types: self.device_exclusive_types,
            pte_markers: self.pte_markers,
            anon_exclusive: self.anon_exclusive,
            swapin_error: self.swapin_error,
        }
        .number()
    }

    /// The kind behind a type number; [`EntryKind::MarkerUffdWp`] stands for all markers.
    #[inline]
    pub(super) fn kind_of_type(&self, ty: u8) -> EntryKind {
        KINDS[self.layout()].get(usize::from(ty)).copied().unwrap_or(EntryKind::Bad)
    }

    #[inline]
    fn entry(ty: Option<u8>, offset: u64) -> SwpEntry {
        match ty {
            Some(ty) => SwpEntry { ty, offset },
            None => SwpEntry::default(),
        }
    }

    /// A migration entry of another type with the same offset, as `make_*_migration_entry(swp_offset(entry))` makes
    /// it: young and dirty, which live in the offset, stay.
    #[inline]
    #[must_use]
    pub fn retype_migration_entry(&self, entry: SwpEntry, kind: MigrationKind) -> SwpEntry {
        SwpEntry { offset: entry.offset, ..self.make_migration_entry(0, kind) }
    }

    /// `make_*_migration_entry`. Where there is no readable-exclusive type, a readable one.
    #[inline]
    #[must_use]
    pub fn make_migration_entry(&self, pfn: u64, kind: MigrationKind) -> SwpEntry {
        let types = self.types_ref();
        let ty = match kind {
            MigrationKind::Read => types.migration_read,
            MigrationKind::ReadExclusive => types.migration_read_exclusive.unwrap_or(types.migration_read),
            MigrationKind::Write => types.migration_write,
        };
        SwpEntry { ty, offset: pfn }
    }

    /// `SWP_MIG_YOUNG`: the bit above the frame number.
    #[inline]
    pub(super) const fn mig_young(&self) -> u64 {
        1 << self.arch.pfn_bits()
    }

    /// `SWP_MIG_DIRTY`: the bit above that.
    #[inline]
    pub(super) const fn mig_dirty(&self) -> u64 {
        1 << (self.arch.pfn_bits() + 1)
    }

    /// Notes that the page was accessed, where there is room.
    #[inline]
    #[must_use]
    pub const fn make_migration_entry_young(&self, entry: SwpEntry) -> SwpEntry {
        let bit = if self.migration_ad { self.mig_young() } else { 0 };
        SwpEntry { offset: entry.offset | bit, ..entry }
    }

    /// Notes that the page was dirty, where there is room.
    #[inline]
    #[must_use]
    pub const fn make_migration_entry_dirty(&self, entry: SwpEntry) -> SwpEntry {
        let bit = if self.migration_ad { self.mig_dirty() } else { 0 };
        SwpEntry { offset: entry.offset | bit, ..entry }
    }

    /// Whether the page is noted as accessed; false where there is no room for the note.
    #[inline]
    #[must_use]
    pub const fn is_migration_entry_young(&self, entry: SwpEntry) -> bool {
        self.migration_ad && entry.offset & self.mig_young() != 0
    }

    /// Whether the page is noted as dirty; false where there is no room for the note.
    #[inline]
    #[must_use]
    pub const fn is_migration_entry_dirty(&self, entry: SwpEntry) -> bool {
        self.migration_ad && entry.offset & self.mig_dirty() != 0
    }

    /// `make_readable_` and `make_writable_device_exclusive_entry`; where there is one type, `write` says nothing.
    #[inline]
    #[must_use]
    pub fn make_device_exclusive_entry(&self, pfn: u64, write: bool) -> SwpEntry {
        let types = self.types_ref();
        let ty = match (self.device_exclusive_types, write) {
            (false, _) => types.device_exclusive,
            (true, true) => types.device_exclusive_write,
            (true, false) => types.device_exclusive_read,
        };
        Self::entry(ty, pfn)
    }

    /// `make_readable_` and `make_writable_device_private_entry`.
    #[inline]
    #[must_use]
    pub fn make_device_private_entry(&self, pfn: u64, write: bool) -> SwpEntry {
        let types = self.types_ref();
        SwpEntry { ty: if write { types.device_write } else { types.device_read }, offset: pfn }
    }

    /// `make_hwpoison_entry`. The kernel insists that the page is locked.
    #[inline]
    #[must_use]
    pub fn make_hwpoison_entry(&self, pfn: u64) -> SwpEntry {
        SwpEntry { ty: self.types_ref().hwpoison, offset: pfn }
    }

    /// `make_pte_marker_entry`: `bits` is one of the `PTE_MARKER_` constants. Without markers, type 0 and offset 0, as
    /// the kernel's stubs for absent features return.
    #[inline]
    #[must_use]
    pub fn make_pte_marker_entry(&self, bits: u64) -> SwpEntry {
        match self.types_ref().pte_marker {
            Some(ty) => SwpEntry { ty, offset: bits },
            None => SwpEntry::default(),
        }
    }

    /// `make_pte_marker`: the same, as an entry of a page table.
    #[inline]
    #[must_use]
    pub fn make_pte_marker(&self, bits: u64) -> Pte {
        self.arch.swp_entry_to_pte(self.make_pte_marker_entry(bits))
    }

    /// Neither none nor present. True for the swap-special entry too, which holds no swap entry: see
    /// [`EntryConfig::pte_has_swap_entry`].
    #[inline]
    #[must_use]
    pub const fn is_swap_pte(&self, pte: Pte) -> bool {
        !self.arch.pte_none(pte) && !self.arch.pte_present(pte)
    }

    /// The 2021 series' `pte_has_swap_entry`: a swap-format entry with a swap entry inside.
    #[inline]
    #[must_use]
    pub const fn pte_has_swap_entry(&self, pte: Pte) -> bool {
        self.is_swap_pte(pte) && !self.is_swap_special_pte(pte)
    }

    /// The 2021 series' `is_swap_special_pte`. False where that design is off.
    #[inline]
    #[must_use]
    pub const fn is_swap_special_pte(&self, pte: Pte) -> bool {
        self.swap_special && self.arch.pte_swp_uffd_wp_special(pte)
    }

    /// Not a genuine swap entry.
    #[inline]
    #[must_use]
    pub fn non_swap_entry(&self, entry: SwpEntry) -> bool {
        entry.ty >= self.types_ref().max_swapfiles
    }

    /// A migration entry of any kind.
    #[inline]
    #[must_use]
    pub fn is_migration_entry(&self, entry: SwpEntry) -> bool {
        self.kind_of_type(entry.ty).is_migration()
    }

    /// A migration entry of a page that was mapped writable.
    #[inline]
    #[must_use]
    pub fn is_writable_migration_entry(&self, entry: SwpEntry) -> bool {
        entry.ty == self.types_ref().migration_write
    }

    /// A migration entry of a page that was mapped read-only and not known to be exclusive.
    #[inline]
    #[must_use]
    pub fn is_readable_migration_entry(&self, entry: SwpEntry) -> bool {
        entry.ty == self.types_ref().migration_read
    }

    /// A migration entry of an exclusive anonymous page that was mapped read-only.
    #[inline]
    #[must_use]
    pub fn is_readable_exclusive_migration_entry(&self, entry: SwpEntry) -> bool {
        Some(entry.ty) == self.types_ref().migration_read_exclusive
    }

    /// A device-private entry of either kind.
    #[inline]
    #[must_use]
    pub fn is_device_private_entry(&self, entry: SwpEntry) -> bool {
        self.kind_of_type(entry.ty).is_device_private()
    }

    /// A writable device-private entry.
    #[inline]
    #[must_use]
    pub fn is_writable_device_private_entry(&self, entry: SwpEntry) -> bool {
        entry.ty == self.types_ref().device_write
    }

    /// A device-exclusive entry of any kind.
    #[inline]
    #[must_use]
    pub fn is_device_exclusive_entry(&self, entry: SwpEntry) -> bool {
        self.kind_of_type(entry.ty).is_device_exclusive()
    }

    /// A writable device-exclusive entry. False where there is one type.
    #[inline]
    #[must_use]
    pub fn is_writable_device_exclusive_entry(&self, entry: SwpEntry) -> bool {
        Some(entry.ty) == self.types_ref().device_exclusive_write
    }

    /// `swap_cached_writable` (`mm/page_table_check.c`): would be mapped writable without another check, and so must
    /// not carry uffd-wp (the kernel warns). The one device-exclusive type of 6.15 is not among them.
    #[inline]
    #[must_use]
    pub fn swap_cached_writable(&self, entry: SwpEntry) -> bool {
        self.is_writable_device_exclusive_entry(entry)
            || self.is_writable_device_private_entry(entry)
            || self.is_writable_migration_entry(entry)
    }

    /// A hwpoison entry.
    #[inline]
    #[must_use]
    pub fn is_hwpoison_entry(&self, entry: SwpEntry) -> bool {
        entry.ty == self.types_ref().hwpoison
    }

    /// A PTE marker of any kind.
    #[inline]
    #[must_use]
    pub fn is_pte_marker_entry(&self, entry: SwpEntry) -> bool {
        Some(entry.ty) == self.types_ref().pte_marker
    }

    /// `pte_marker_get`: the marker bits this kernel knows.
    #[inline]
    #[must_use]
    pub const fn pte_marker_get(&self, entry: SwpEntry) -> u64 {
        let poison = if self.poison_markers { PTE_MARKER_POISONED } else { 0 };
        let guard = if self.guard_markers { PTE_MARKER_GUARD } else { 0 };
        entry.offset & (PTE_MARKER_UFFD_WP | poison | guard)
    }

    /// What stands for a page that is not mapped and write-protected by userfaultfd: a marker, or the swap-special
    /// entry. An empty entry where the design has neither.
    #[inline]
    #[must_use]
    pub fn make_uffd_wp_note(&self) -> Pte {
        match self.arch.uffd_wp_swp_pte_special() {
            Some(special) if self.swap_special => special,
            _ if self.pte_markers => self.make_pte_marker(PTE_MARKER_UFFD_WP),
            _ => Pte(0),
        }
    }

    /// `pte_marker_entry_uffd_wp`, or the swap-special entry's test: what [`EntryConfig::make_uffd_wp_note`] makes.
    #[inline]
    #[must_use]
    pub fn is_uffd_wp_note(&self, pte: Pte) -> bool {
        self.is_swap_special_pte(pte)
            || self.is_pte_marker(pte) && self.pte_marker_get(self.arch.pte_to_swp_entry(pte)) & PTE_MARKER_UFFD_WP != 0
    }

    /// A marker as an entry of a page table.
    #[inline]
    #[must_use]
    pub fn is_pte_marker(&self, pte: Pte) -> bool {
        self.pte_has_swap_entry(pte) && self.is_pte_marker_entry(self.arch.pte_to_swp_entry(pte))
    }

    /// `pte_none_mostly`: none, or a marker (or the special entry, where that is in use).
    #[inline]
    #[must_use]
    pub fn pte_none_mostly(&self, pte: Pte) -> bool {
        self.arch.pte_none(pte) || self.is_swap_special_pte(pte) || self.is_pte_marker(pte)
    }

    /// A swap entry whose offset is a frame number (with flags above it).
    #[inline]
    #[must_use]
    pub fn is_pfn_swap_entry(&self, entry: SwpEntry) -> bool {
        self.kind_of_type(entry.ty).is_pfn_swap()
    }

    /// The frame number in the offset. The kernel asserts [`EntryConfig::is_pfn_swap_entry`]; here any other entry
    /// yields the low bits of its offset.
    #[inline]
    #[must_use]
    pub const fn swp_offset_pfn(&self, entry: SwpEntry) -> u64 {
        entry.offset & self.arch.max_pfn()
    }
}
