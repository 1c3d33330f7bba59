//! What a page-table entry *means*.
//!
//! An entry that maps no page is not simply empty: the kernel parks a good deal of state in it. The page may be in
//! swap, on its way to another frame, in a device's memory, lent to a device, poisoned; or there may be no page and
//! only a note (a marker) of what to do when one comes. All of these are *swap-format* entries: a type number, an
//! offset and a few flags. Which type number means what depends on the kernel's release and configuration, so
//! everything here hangs on an [`EntryConfig`].
//!
//! - [`EntryKind`] names the kinds, [`Entry`] is one entry decoded, [`EntryConfig::decode`] and [`EntryConfig::encode`]
//!   go between an entry and its bits. Decoding is total: what no kernel path can have written is [`EntryKind::Bad`].
//! - The makers and tests of `include/linux/swapops.h` are methods of [`EntryConfig`], under the kernel's names.
//! - [`accessor_legal`] says which question may be asked of which kind. Most entry bugs are a question put to the wrong
//!   kind: `pte_write` asked of a swap entry on x86-64 tells whether it is soft-dirty.
//! - [`transition_legal`] says which kind may follow which in one slot of a page table, with the kernel function that
//!   does it.
//!
//! - [`PmdKind`] and [`PMD_TRANSITIONS`] say the same of the entries one level up.
//!
//! What is not modelled: the exec bit, and entries that the kernel only makes for
//! itself (kernel mappings, `PFN` maps).

mod accessor;
pub mod carry;
mod codec;
mod config;
mod pmd;
#[cfg(test)]
mod tests;
mod transition;

use std::fmt;

pub use accessor::{ACCESSORS, Accessor, AccessorRow, accessor_legal};
pub use codec::{EncodeError, EntryBit};
pub use config::{
    ConfigError, EntryConfig, MigrationKind, PTE_MARKER_GUARD, PTE_MARKER_POISONED, PTE_MARKER_UFFD_WP, SwpTypes,
};
pub use pmd::{PMD_TRANSITIONS, PmdKind, PmdTransition, pmd_transition_legal};
pub use transition::{TRANSITIONS, Transition, transition_legal, transition_reason};

use crate::arch::SwpEntry;

/// Declares [`EntryKind`], its list and its names from one table.
macro_rules! entry_kinds {
    ($($(#[$doc:meta])* $kind:ident => $name:literal,)*) => {
        /// The kind of a page-table entry of the lowest level.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum EntryKind {
            $($(#[$doc])* $kind,)*
        }

        impl EntryKind {
            /// Every kind, in the order of their numbers.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$kind),*];
            /// The number of kinds.
            pub const COUNT: usize = [$($name),*].len();

            /// The name used in traces, coverage and text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

entry_kinds! {
    /// Nothing. A fault brings in a page, or is an error, depending on the VMA.
    #[default]
    None => "none",
    /// Maps a page of RAM; `PROT_NONE` and NUMA-hinting entries are present too.
    Present => "present",
    /// The page is in a swap device, and perhaps still in the swap cache.
    Swap => "swap",
    /// The page is being migrated; it was mapped read-only and, if anonymous, perhaps shared.
    MigrationRead => "migration-read",
    /// The page is being migrated; it was mapped read-only and is anonymous and exclusive to this mapping.
    MigrationReadExclusive => "migration-read-exclusive",
    /// The page is being migrated; it was mapped writable.
    MigrationWrite => "migration-write",
    /// The page lives in a device's own memory; mapped read-only.
    DevicePrivateRead => "device-private-read",
    /// The page lives in a device's own memory; mapped writable.
    DevicePrivateWrite => "device-private-write",
    /// A page of RAM lent to a device for exclusive access, read-only for the CPU once it returns (up to 6.14).
    DeviceExclusiveRead => "device-exclusive-read",
    /// A page of RAM lent to a device for exclusive access, writable for the CPU once it returns (up to 6.14).
    DeviceExclusiveWrite => "device-exclusive-write",
    /// A page of RAM lent to a device for exclusive access (6.15 and later; whether it returns writable is decided
    /// then).
    DeviceExclusive => "device-exclusive",
    /// The page's memory is broken: an access is a bus error.
    HwPoison => "hwpoison",
    /// No page, but the next write to one is to be reported to userfaultfd.
    MarkerUffdWp => "marker-uffd-wp",
    /// No page, and an access is an error (`UFFDIO_POISON`, or a swap slot that could not be read).
    MarkerPoisoned => "marker-poisoned",
    /// No page, and an access is a fault (`MADV_GUARD_INSTALL`).
    MarkerGuard => "marker-guard",
    /// The 2021 forerunner of [`EntryKind::MarkerUffdWp`]: one flag, no swap entry inside.
    SwapSpecial => "swap-special",
    /// Bits that no kernel path writes.
    Bad => "bad",
}

impl EntryKind {
    /// The kind of that name, exactly as [`EntryKind::name`] spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A migration entry of any kind.
    #[inline]
    #[must_use]
    pub const fn is_migration(self) -> bool {
        matches!(self, Self::MigrationRead | Self::MigrationReadExclusive | Self::MigrationWrite)
    }

    /// A device-private entry of either kind.
    #[inline]
    #[must_use]
    pub const fn is_device_private(self) -> bool {
        matches!(self, Self::DevicePrivateRead | Self::DevicePrivateWrite)
    }

    /// A device-exclusive entry, old types or new.
    #[inline]
    #[must_use]
    pub const fn is_device_exclusive(self) -> bool {
        matches!(self, Self::DeviceExclusiveRead | Self::DeviceExclusiveWrite | Self::DeviceExclusive)
    }

    /// A PTE marker of any kind ([`EntryKind::SwapSpecial`] is none).
    #[inline]
    #[must_use]
    pub const fn is_marker(self) -> bool {
        matches!(self, Self::MarkerUffdWp | Self::MarkerPoisoned | Self::MarkerGuard)
    }

    /// Not none and not present, for the kernel (`is_swap_pte`). False for [`EntryKind::Bad`], of which either may
    /// hold.
    #[inline]
    #[must_use]
    pub const fn is_swap_format(self) -> bool {
        !matches!(self, Self::None | Self::Present | Self::Bad)
    }

    /// A swap-format entry whose offset is a frame number (`is_pfn_swap_entry`).
    #[inline]
    #[must_use]
    pub const fn is_pfn_swap(self) -> bool {
        self.is_migration() || self.is_device_private() || self.is_device_exclusive() || matches!(self, Self::HwPoison)
    }

    /// Names a frame: present, or a frame number in the swap format.
    #[inline]
    #[must_use]
    pub const fn has_pfn(self) -> bool {
        matches!(self, Self::Present) || self.is_pfn_swap()
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One entry, decoded.
///
/// The flags are what the bits say *beyond the kind*: a [`EntryKind::MigrationWrite`] entry has `write` false, because
/// its kind already says it, and a [`EntryKind::MarkerUffdWp`] entry usually has `uffd_wp` false.
/// [`Entry::is_writable`] and [`Entry::remembers_uffd_wp`] ask for the meaning instead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Entry {
    /// The kind.
    pub kind: EntryKind,
    /// The frame, where the kind names one ([`EntryKind::has_pfn`]).
    pub pfn: Option<u64>,
    /// Swap device and slot, for [`EntryKind::Swap`] only.
    pub swap: Option<SwpEntry>,
    /// Present: writable.
    pub write: bool,
    /// Present, or migration where the offset has room: dirty.
    pub dirty: bool,
    /// Present, or migration where the offset has room: accessed.
    pub young: bool,
    /// Present or swap format: soft-dirty.
    pub soft_dirty: bool,
    /// Present or swap format: write-protected by userfaultfd.
    pub uffd_wp: bool,
    /// Swap: the page was exclusive to this mapping.
    pub exclusive: bool,
    /// Present: out of the hardware's reach (`PROT_NONE`, NUMA hinting).
    pub protnone: bool,
}

impl Entry {
    /// The empty entry.
    pub const NONE: Self = Self::of_kind(EntryKind::None);

    const fn of_kind(kind: EntryKind) -> Self {
        Self {
            kind,
            pfn: None,
            swap: None,
            write: false,
            dirty: false,
            young: false,
            soft_dirty: false,
            uffd_wp: false,
            exclusive: false,
            protnone: false,
        }
    }

    /// An entry of a kind that names a frame, with no flag set.
    #[must_use]
    pub const fn with_pfn(kind: EntryKind, pfn: u64) -> Self {
        Self { pfn: Some(pfn), ..Self::of_kind(kind) }
    }

    /// A swap entry, with no flag set.
    #[must_use]
    pub const fn swap(entry: SwpEntry) -> Self {
        Self { swap: Some(entry), ..Self::of_kind(EntryKind::Swap) }
    }

    /// An entry of a kind that names nothing (none, markers, swap-special), with no flag set.
    #[must_use]
    pub const fn plain(kind: EntryKind) -> Self {
        Self::of_kind(kind)
    }

    /// Whether the CPU may write through this entry, now or as soon as the page is back, for all that the entry says.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.write
            || matches!(
                self.kind,
                EntryKind::MigrationWrite | EntryKind::DevicePrivateWrite | EntryKind::DeviceExclusiveWrite
            )
    }

    /// Whether the entry remembers that userfaultfd protects this page, by flag or by kind.
    #[must_use]
    pub const fn remembers_uffd_wp(&self) -> bool {
        self.uffd_wp || matches!(self.kind, EntryKind::MarkerUffdWp | EntryKind::SwapSpecial)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(pfn) = self.pfn {
            write!(f, " f{pfn}")?;
        }
        if let Some(swap) = self.swap {
            write!(f, " {}:{}", swap.ty, swap.offset)?;
        }
        if self.kind == EntryKind::Present {
            f.write_str(if self.write { " rw" } else { " ro" })?;
        }
        let flags = [
            (self.protnone, " protnone"),
            (self.dirty, " dirty"),
            (self.young, " young"),
            (self.exclusive, " exclusive"),
            (self.soft_dirty, " soft-dirty"),
            (self.uffd_wp, " uffd-wp"),
        ];
        for (_, text) in flags.into_iter().filter(|(on, _)| *on) {
            f.write_str(text)?;
        }
        Ok(())
    }
}
