//! Between an entry and its bits.
//!
//! `decode` accepts any word. `encode` refuses whatever a kernel of this configuration could not have written, and says
//! which rule it breaks. Whatever `decode` does not call bad can be encoded again, and decodes to the same entry.

use super::config::{PTE_MARKER_GUARD, PTE_MARKER_POISONED, PTE_MARKER_UFFD_WP};
use super::{Entry, EntryConfig, EntryKind, MigrationKind};
use crate::arch::{Arch, Prot, Pte, SwpEntry};
use std::fmt;

/// A flag of an [`Entry`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryBit {
    /// [`Entry::write`].
    Write,
    /// [`Entry::dirty`].
    Dirty,
    /// [`Entry::young`].
    Young,
    /// [`Entry::soft_dirty`].
    SoftDirty,
    /// [`Entry::uffd_wp`].
    UffdWp,
    /// [`Entry::exclusive`].
    Exclusive,
    /// [`Entry::protnone`].
    ProtNone,
}

impl EntryBit {
    /// The name used in [`Entry`]'s text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Dirty => "dirty",
            Self::Young => "young",
            Self::SoftDirty => "soft-dirty",
            Self::UffdWp => "uffd-wp",
            Self::Exclusive => "exclusive",
            Self::ProtNone => "protnone",
        }
    }
}

/// Why an entry has no encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EncodeError {
    /// This configuration has no such kind, or it is [`EntryKind::Bad`].
    NoSuchKind(
        /// The kind asked for.
        EntryKind,
    ),
    /// The architecture has no bit to spare for this kind.
    NoSpareBit {
        /// The architecture.
        arch: Arch,
        /// The kind asked for.
        kind: EntryKind,
    },
    /// Entries of this kind cannot carry this flag, on this architecture or at all.
    BitNotHeld {
        /// The kind asked for.
        kind: EntryKind,
        /// The flag that was set.
        bit: EntryBit,
    },
    /// The kind names a frame and none is given, or the other way round.
    PfnMismatch(
        /// The kind asked for.
        EntryKind,
    ),
    /// The frame number is larger than the machine's memory can be.
    PfnTooLarge {
        /// The frame number given.
        pfn: u64,
        /// The largest one possible.
        max: u64,
    },
    /// The kind is swap and no slot is given, or the other way round.
    SwapMismatch(
        /// The kind asked for.
        EntryKind,
    ),
    /// The type is not that of a swap device, or the offset does not fit.
    SwapOutOfRange(
        /// The slot given.
        SwpEntry,
    ),
    /// The encoding of this slot is the empty entry.
    LooksEmpty(
        /// The slot given.
        SwpEntry,
    ),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKind(kind) => write!(f, "this kernel has no {kind} entries"),
            Self::NoSpareBit { arch, kind } => {
                write!(f, "{} has no spare bit for {kind} entries", arch.name())
            }
            Self::BitNotHeld { kind, bit } => {
                write!(f, "a {kind} entry cannot hold {} here", bit.name())
            }
            Self::PfnMismatch(kind) if kind.has_pfn() => write!(f, "a {kind} entry needs a frame"),
            Self::PfnMismatch(kind) => write!(f, "a {kind} entry names no frame"),
            Self::PfnTooLarge { pfn, max } => write!(f, "frame {pfn} is above the last frame, {max}"),
            Self::SwapMismatch(EntryKind::Swap) => f.write_str("a swap entry needs a swap slot"),
            Self::SwapMismatch(kind) => write!(f, "a {kind} entry names no swap slot"),
            Self::SwapOutOfRange(e) => write!(f, "no swap slot {}:{}", e.ty, e.offset),
            Self::LooksEmpty(e) => write!(f, "swap slot {}:{} encodes as an empty entry", e.ty, e.offset),
        }
    }
}

impl std::error::Error for EncodeError {}

impl EntryConfig {
    /// The kind of an entry, without decoding the rest.
    #[inline]
    #[must_use]
    pub fn kind(&self, pte: Pte) -> EntryKind {
        if self.arch.pte_none(pte) {
            EntryKind::None
        } else if !self.arch.pte_present(pte) {
            self.kind_of_swap_format(pte)
        } else if self.arch.pte_present_is_sane(pte) {
            EntryKind::Present
        } else {
            EntryKind::Bad
        }
    }

    fn kind_of_swap_format(&self, pte: Pte) -> EntryKind {
        if self.is_swap_special_pte(pte) {
            return EntryKind::SwapSpecial;
        }
        if !self.arch.pte_swp_is_sane(pte) {
            return EntryKind::Bad;
        }
        let entry = self.arch.pte_to_swp_entry(pte);
        let kind = self.kind_of_type(entry.ty);
        let sound = match kind {
            // Flags on the slot that encodes as an empty entry.
            EntryKind::Swap => {
                (self.anon_exclusive || !self.arch.pte_swp_exclusive(pte))
                    && !self.arch.pte_none(self.arch.pte_swp_clear_flags(pte))
            }
            EntryKind::MarkerUffdWp => return self.kind_of_marker(pte, entry),
            _ => !self.arch.pte_swp_exclusive(pte) && entry.offset & !self.pfn_offset_mask(kind) == 0,
        };
        if sound { kind } else { EntryKind::Bad }
    }

    /// Exactly one marker bit. The kernel copes with several at once (poison wins over uffd-wp in `handle_pte_marker`),
    /// but no path makes them, and none at all makes it warn.
    fn kind_of_marker(&self, pte: Pte, entry: SwpEntry) -> EntryKind {
        if self.arch.pte_swp_exclusive(pte) {
            return EntryKind::Bad;
        }
        match entry.offset {
            PTE_MARKER_UFFD_WP => EntryKind::MarkerUffdWp,
            PTE_MARKER_POISONED if self.poison_markers => EntryKind::MarkerPoisoned,
            PTE_MARKER_GUARD if self.guard_markers => EntryKind::MarkerGuard,
            _ => EntryKind::Bad,
        }
    }

    /// The bits of the offset that a kind with a frame number may use.
    fn pfn_offset_mask(&self, kind: EntryKind) -> u64 {
        let pfn = self.arch.max_pfn();
        if kind.is_migration() && self.migration_ad { pfn | self.mig_young() | self.mig_dirty() } else { pfn }
    }

    /// Everything an entry says.
    #[must_use]
    pub fn decode(&self, pte: Pte) -> Entry {
        let kind = self.kind(pte);
        match kind {
            EntryKind::None | EntryKind::Bad | EntryKind::SwapSpecial => Entry::plain(kind),
            EntryKind::Present => Entry {
                write: self.arch.pte_write(pte),
                dirty: self.arch.pte_dirty(pte),
                young: self.arch.pte_young(pte),
                soft_dirty: self.arch.pte_soft_dirty(pte),
                uffd_wp: self.arch.pte_uffd_wp(pte),
                protnone: self.arch.pte_protnone(pte),
                ..Entry::with_pfn(kind, self.arch.pte_pfn(pte))
            },
            _ => self.decode_swap_format(kind, pte),
        }
    }

    fn decode_swap_format(&self, kind: EntryKind, pte: Pte) -> Entry {
        let swp = self.arch.pte_to_swp_entry(pte);
        let base = match kind {
            EntryKind::Swap => Entry::swap(swp),
            kind if kind.is_pfn_swap() => Entry::with_pfn(kind, self.swp_offset_pfn(swp)),
            kind => Entry::plain(kind),
        };
        Entry {
            young: kind.is_migration() && self.is_migration_entry_young(swp),
            dirty: kind.is_migration() && self.is_migration_entry_dirty(swp),
            soft_dirty: self.arch.pte_swp_soft_dirty(pte),
            uffd_wp: self.arch.pte_swp_uffd_wp(pte),
            exclusive: self.arch.pte_swp_exclusive(pte),
            ..base
        }
    }

    /// The bits of an entry.
    ///
    /// # Errors
    /// The kind, a flag, the frame or the slot is one that a kernel of this configuration cannot hold.
    pub fn encode(&self, entry: &Entry) -> Result<Pte, EncodeError> {
        self.check_kind(entry.kind)?;
        self.check_bits(entry)?;
        self.check_payload(entry)?;
        Ok(match entry.kind {
            EntryKind::None => Pte(0),
            EntryKind::Present => self.encode_present(entry),
            EntryKind::SwapSpecial => self
                .arch
                .uffd_wp_swp_pte_special()
                .ok_or(EncodeError::NoSpareBit { arch: self.arch, kind: entry.kind })?,
            _ => self.encode_swap_format(entry),
        })
    }

    fn check_kind(&self, kind: EntryKind) -> Result<(), EncodeError> {
        let exists = match kind {
            EntryKind::Bad => false,
            EntryKind::DeviceExclusiveRead | EntryKind::DeviceExclusiveWrite => self.device_exclusive_types,
            EntryKind::DeviceExclusive => !self.device_exclusive_types,
            EntryKind::MigrationReadExclusive => self.anon_exclusive,
            EntryKind::MarkerUffdWp => self.pte_markers,
            EntryKind::MarkerPoisoned => self.pte_markers && self.poison_markers,
            EntryKind::MarkerGuard => self.pte_markers && self.guard_markers,
            EntryKind::SwapSpecial => {
                if self.arch.uffd_wp_swp_pte_special().is_none() {
                    return Err(EncodeError::NoSpareBit { arch: self.arch, kind });
                }
                self.swap_special
            }
            _ => true,
        };
        if exists { Ok(()) } else { Err(EncodeError::NoSuchKind(kind)) }
    }

    /// Whether an entry of this kind has room for a flag.
    #[must_use]
    pub fn holds(&self, kind: EntryKind, bit: EntryBit) -> bool {
        let present = kind == EntryKind::Present;
        let flags = present || (kind.is_swap_format() && kind != EntryKind::SwapSpecial);
        match bit {
            EntryBit::Write | EntryBit::ProtNone => present,
            EntryBit::Dirty | EntryBit::Young => present || (kind.is_migration() && self.migration_ad),
            EntryBit::SoftDirty => flags && self.arch.has_soft_dirty(),
            EntryBit::UffdWp => flags && self.arch.has_uffd_wp(),
            EntryBit::Exclusive => kind == EntryKind::Swap && self.anon_exclusive,
        }
    }

    fn check_bits(&self, entry: &Entry) -> Result<(), EncodeError> {
        let bits = [
            (entry.write, EntryBit::Write),
            (entry.dirty, EntryBit::Dirty),
            (entry.young, EntryBit::Young),
            (entry.soft_dirty, EntryBit::SoftDirty),
            (entry.uffd_wp, EntryBit::UffdWp),
            (entry.exclusive, EntryBit::Exclusive),
            (entry.protnone, EntryBit::ProtNone),
        ];
        match bits.into_iter().find(|&(on, bit)| on && !self.holds(entry.kind, bit)) {
            Some((_, bit)) => Err(EncodeError::BitNotHeld { kind: entry.kind, bit }),
            None => Ok(()),
        }
    }

    fn check_payload(&self, entry: &Entry) -> Result<(), EncodeError> {
        if entry.pfn.is_some() != entry.kind.has_pfn() {
            return Err(EncodeError::PfnMismatch(entry.kind));
        }
        if entry.swap.is_some() != (entry.kind == EntryKind::Swap) {
            return Err(EncodeError::SwapMismatch(entry.kind));
        }
        let max = self.arch.max_pfn();
        if let Some(pfn) = entry.pfn.filter(|&pfn| pfn > max) {
            return Err(EncodeError::PfnTooLarge { pfn, max });
        }
        if let Some(swp) = entry.swap {
            if self.non_swap_entry(swp) || swp.offset > self.arch.max_swp_offset() {
                return Err(EncodeError::SwapOutOfRange(swp));
            }
            if self.arch.pte_none(self.arch.swp_entry_to_pte(swp)) {
                return Err(EncodeError::LooksEmpty(swp));
            }
        }
        Ok(())
    }

    /// Order matters: uffd-wp withdraws writing, and dirty must come after writing and before soft-dirty.
    fn encode_present(&self, entry: &Entry) -> Pte {
        let arch = self.arch;
        let prot = if entry.protnone { Prot::None } else { Prot::Copy };
        let mut pte = arch.pfn_pte(entry.pfn.unwrap_or_default(), prot);
        if entry.uffd_wp {
            pte = arch.pte_mkuffd_wp(pte);
        }
        if entry.write {
            pte = arch.pte_mkwrite(pte);
        }
        if entry.dirty {
            pte = arch.pte_mkdirty(pte);
        }
        if !entry.young {
            pte = arch.pte_mkold(pte);
        }
        if entry.soft_dirty { arch.pte_mksoft_dirty(pte) } else { arch.pte_clear_soft_dirty(pte) }
    }

    fn encode_swap_format(&self, entry: &Entry) -> Pte {
        let arch = self.arch;
        let mut pte = arch.swp_entry_to_pte(self.swp_entry_of(entry));
        if entry.exclusive {
            pte = arch.pte_swp_mkexclusive(pte);
        }
        if entry.soft_dirty {
            pte = arch.pte_swp_mksoft_dirty(pte);
        }
        if entry.uffd_wp {
            pte = arch.pte_swp_mkuffd_wp(pte);
        }
        pte
    }

    fn swp_entry_of(&self, entry: &Entry) -> SwpEntry {
        let pfn = entry.pfn.unwrap_or_default();
        let mut swp = match entry.kind {
            EntryKind::MigrationRead => self.make_migration_entry(pfn, MigrationKind::Read),
            EntryKind::MigrationReadExclusive => self.make_migration_entry(pfn, MigrationKind::ReadExclusive),
            EntryKind::MigrationWrite => self.make_migration_entry(pfn, MigrationKind::Write),
            EntryKind::DevicePrivateRead => self.make_device_private_entry(pfn, false),
            EntryKind::DevicePrivateWrite => self.make_device_private_entry(pfn, true),
            EntryKind::DeviceExclusiveRead => self.make_device_exclusive_entry(pfn, false),
            EntryKind::DeviceExclusiveWrite | EntryKind::DeviceExclusive => self.make_device_exclusive_entry(pfn, true),
            EntryKind::HwPoison => self.make_hwpoison_entry(pfn),
            EntryKind::MarkerUffdWp => self.make_pte_marker_entry(PTE_MARKER_UFFD_WP),
            EntryKind::MarkerPoisoned => self.make_pte_marker_entry(PTE_MARKER_POISONED),
            EntryKind::MarkerGuard => self.make_pte_marker_entry(PTE_MARKER_GUARD),
            EntryKind::Swap | EntryKind::None | EntryKind::Present | EntryKind::SwapSpecial | EntryKind::Bad => {
                entry.swap.unwrap_or_default()
            }
        };
        if entry.young {
            swp = self.make_migration_entry_young(swp);
        }
        if entry.dirty {
            swp = self.make_migration_entry_dirty(swp);
        }
        swp
    }
}
