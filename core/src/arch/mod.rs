//! Entry layouts of x86-64 and arm64, bit for bit.
//!
//! One page-table entry is one 64-bit word, and every question the kernel asks of it ("is it dirty?", "which page?") is
//! a few bits of that word. This module answers those questions the way Linux 6.12 answers them, under the kernel's own
//! names, and knows nothing of what an entry *means*: that is [`crate::entry`].
//!
//! The two layouts differ where it hurts, which is why both are here:
//!
//! | | x86-64 | arm64 (4 KiB pages, 48-bit addresses) |
//! |---|---|---|
//! | writable and clean | `RW`, no `D` | `DBM` *and* `RDONLY` |
//! | written by hardware | `D` is set | `RDONLY` is cleared |
//! | dirty kept across write protection | `D` moves to bit 58 (saved-dirty) | bit 55 (software dirty) is set |
//! | `PROT_NONE` | global bit without present, frame number inverted | present-invalid bit without valid |
//! | swap offset | bits 9 to 58, inverted | bits 12 to 61 |
//! | swap type | bits 59 to 63 | bits 6 to 10 |
//! | soft-dirty | yes | no |
//!
//! What is not modelled: execute permission (every user mapping is no-execute), protection keys, cache attributes,
//! memory encryption, shadow stacks, contiguous and device mappings, entries of huge pages.
//!
//! The accessors are total: on an entry they are not meant for they return whatever the bits say, as in the kernel, and
//! never panic. [`crate::entry::accessor_legal`] is the table that says which question may be asked of which entry.
//!
//! Sources: `arch/x86/include/asm/{pgtable,pgtable_types,pgtable_64,pgtable-invert}.h`,
//! `arch/arm64/include/asm/{pgtable,pgtable-prot,pgtable-hwdef}.h`, Linux 6.12.

mod arm64;
#[cfg(test)]
mod tests;
mod x86_64;

/// Size of a page as a power of two: 4 KiB on both architectures.
pub const PAGE_SHIFT: u32 = 12;

/// Bits of a swap type, on both architectures (`MAX_SWAPFILES_SHIFT` in `include/linux/swap.h`).
pub const SWP_TYPE_BITS: u32 = 5;

/// A modelled architecture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64 with four paging levels (46 physical address bits), soft-dirty and uffd-wp configured.
    #[default]
    X86_64,
    /// arm64 with 4 KiB pages, 48 physical address bits and hardware access and dirty flags (`FEAT_HAFDBS`).
    Arm64,
}

/// Raw bits of one entry of the lowest level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Pte(
    /// The word as it stands in the page table.
    pub u64,
);

/// Raw bits of one entry of an upper level. Only pointers to tables are modelled so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Pmd(
    /// The word as it stands in the page table.
    pub u64,
);

/// A page protection, as a VMA's `vm_page_prot` holds it (`protection_map` of each architecture).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub enum Prot {
    /// `PAGE_NONE`: present for the kernel, a fault for the hardware.
    #[default]
    None,
    /// `PAGE_READONLY`.
    Read,
    /// A private writable mapping: `PAGE_COPY` on x86-64, `PAGE_READONLY` on arm64. The same bits as [`Prot::Read`];
    /// write permission comes later, from [`Arch::pte_mkwrite`].
    Copy,
    /// `PAGE_SHARED`: writable by hardware at once.
    ReadWrite,
}

impl Prot {
    /// Every protection.
    pub const ALL: [Self; 4] = [Self::None, Self::Read, Self::Copy, Self::ReadWrite];
}

/// A swap entry in the form that does not depend on the architecture (`swp_entry_t`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct SwpEntry {
    /// Swap type, 0 to 31: a swap device, or one of the special kinds above `MAX_SWAPFILES`.
    pub ty: u8,
    /// Swap offset, below 2^[`Arch::swp_offset_bits`]: a slot in pages, a frame number with flags above it, or marker
    /// bits.
    pub offset: u64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Arm64];

    /// The name used in cases and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        }
    }

    /// The architecture of that name, exactly as [`Arch::name`] spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// Whether entries have a soft-dirty bit (`CONFIG_HAVE_ARCH_SOFT_DIRTY`): x86-64 only. Without it the tests return
    /// false and the makers change nothing, as the stubs in `include/linux/pgtable.h` do.
    #[inline]
    #[must_use]
    pub const fn has_soft_dirty(self) -> bool {
        matches!(self, Self::X86_64)
    }

    /// Whether entries have a uffd-wp bit (`CONFIG_HAVE_ARCH_USERFAULTFD_WP`): both; arm64 since 6.10.
    #[inline]
    #[must_use]
    pub const fn has_uffd_wp(self) -> bool {
        match self {
            Self::X86_64 | Self::Arm64 => true,
        }
    }

    /// Bits of a swap offset: 50 on both.
    #[inline]
    #[must_use]
    pub const fn swp_offset_bits(self) -> u32 {
        match self {
            Self::X86_64 => x86_64::SWP_OFFSET_BITS,
            Self::Arm64 => arm64::SWP_OFFSET_BITS,
        }
    }

    /// The largest swap offset an entry can hold.
    #[inline]
    #[must_use]
    pub const fn max_swp_offset(self) -> u64 {
        (1 << self.swp_offset_bits()) - 1
    }

    /// Bits of a frame number (`MAX_PHYSMEM_BITS - PAGE_SHIFT`, which is `SWP_PFN_BITS` in `include/linux/swapops.h`):
    /// 34 on x86-64 with four levels, 36 on arm64 with 48-bit addresses.
    #[inline]
    #[must_use]
    pub const fn pfn_bits(self) -> u32 {
        match self {
            Self::X86_64 => x86_64::MAX_PHYSMEM_BITS - PAGE_SHIFT,
            Self::Arm64 => arm64::MAX_PHYSMEM_BITS - PAGE_SHIFT,
        }
    }

    /// The largest frame number of the modelled machine.
    #[inline]
    #[must_use]
    pub const fn max_pfn(self) -> u64 {
        (1 << self.pfn_bits()) - 1
    }

    /// The "swap special" entry of 2021 (`UFFD_WP_SWP_PTE_SPECIAL`, v3 04/27 of the uffd-wp series for shmem): only the
    /// swap format's uffd-wp bit is set, so it is not none, not present, and no swap entry is inside. x86-64 only: at
    /// the time arm64 had neither a uffd-wp bit nor a spare bit to give, and the series left it out.
    #[inline]
    #[must_use]
    pub const fn uffd_wp_swp_pte_special(self) -> Option<Pte> {
        match self {
            Self::X86_64 => Some(x86_64::UFFD_WP_SWP_PTE_SPECIAL),
            Self::Arm64 => None,
        }
    }

    /// Whether this is the special entry, compared as a whole word: one more bit in it and it is no longer recognised.
    #[inline]
    #[must_use]
    pub const fn pte_swp_uffd_wp_special(self, pte: Pte) -> bool {
        match self.uffd_wp_swp_pte_special() {
            Some(special) => special.0 == pte.0,
            None => false,
        }
    }

    /// Drops the three flags that ride on a swap-format entry (`pte_swp_clear_flags` in `include/linux/swapops.h`).
    #[inline]
    #[must_use]
    pub const fn pte_swp_clear_flags(self, pte: Pte) -> Pte {
        self.pte_swp_clear_uffd_wp(self.pte_swp_clear_soft_dirty(self.pte_swp_clear_exclusive(pte)))
    }
}

/// Declares the methods of [`Arch`] that each architecture answers for itself.
macro_rules! per_arch {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        impl Arch {
            $(
                $(#[$doc])*
                #[inline]
                #[must_use]
                pub const fn $name(self, $($arg: $ty),*) -> $ret {
                    match self {
                        Self::X86_64 => x86_64::$name($($arg),*),
                        Self::Arm64 => arm64::$name($($arg),*),
                    }
                }
            )*
        }
    };
}

per_arch! {
    /// Nothing here. x86-64 ignores the accessed and dirty bits, which an erratum can leave behind in an empty entry.
    pte_none(pte: Pte) -> bool;
    /// Maps a page, for the kernel: true for `PROT_NONE` too.
    pte_present(pte: Pte) -> bool;
    /// Maps a page that the hardware may not reach (`PROT_NONE`, NUMA hinting).
    pte_protnone(pte: Pte) -> bool;
    /// Present: writable, as far as the kernel is concerned.
    pte_write(pte: Pte) -> bool;
    /// Present: written to since last cleaned, by hardware or by the kernel's own note of it.
    pte_dirty(pte: Pte) -> bool;
    /// Present: accessed since last aged.
    pte_young(pte: Pte) -> bool;
    /// Present: written to since the last `clear_refs`.
    pte_soft_dirty(pte: Pte) -> bool;
    /// Present: write-protected by userfaultfd.
    pte_uffd_wp(pte: Pte) -> bool;
    /// Present: mapped without a normal page behind it, such as the zero page.
    pte_special(pte: Pte) -> bool;
    /// Present: the frame number. x86-64 undoes the inversion of non-present entries first.
    pte_pfn(pte: Pte) -> u64;
    /// An entry that maps frame `pfn` (below 2^[`Arch::pfn_bits`]) with `prot`: young and clean. The kernel's `pfn_pte`
    /// and `mk_pte`.
    pfn_pte(pfn: u64, prot: Prot) -> Pte;
    /// Present: changes the protection; frame, dirty, young, soft-dirty, uffd-wp and special stay.
    pte_modify(pte: Pte, prot: Prot) -> Pte;
    /// Present: grants writing; a dirty note kept in software becomes hardware-dirty again.
    pte_mkwrite(pte: Pte) -> Pte;
    /// Present: withdraws writing; a hardware-dirty state is kept in a software bit.
    pte_wrprotect(pte: Pte) -> Pte;
    /// Present: marks dirty; x86-64 marks soft-dirty with it.
    pte_mkdirty(pte: Pte) -> Pte;
    /// Present: marks clean; arm64 arms `RDONLY` so that hardware notes the next write.
    pte_mkclean(pte: Pte) -> Pte;
    /// Present: marks accessed.
    pte_mkyoung(pte: Pte) -> Pte;
    /// Present: marks not accessed.
    pte_mkold(pte: Pte) -> Pte;
    /// Present: marks special.
    pte_mkspecial(pte: Pte) -> Pte;
    /// Present: marks soft-dirty.
    pte_mksoft_dirty(pte: Pte) -> Pte;
    /// Present: clears soft-dirty.
    pte_clear_soft_dirty(pte: Pte) -> Pte;
    /// Present: write-protects for userfaultfd. Withdraws writing as well.
    pte_mkuffd_wp(pte: Pte) -> Pte;
    /// Present: clears uffd-wp. Does not give writing back.
    pte_clear_uffd_wp(pte: Pte) -> Pte;
    /// Whether a TLB may hold this entry (`pte_accessible`): valid for hardware, or `PROT_NONE` while a flush is
    /// pending in the address space.
    pte_accessible(pte: Pte, tlb_flush_pending: bool) -> bool;
    /// Present: the bits are a combination that this architecture's helpers can produce for a user page of the modelled
    /// machine. Not a kernel function; what it rejects is said next to each architecture's version.
    pte_present_is_sane(pte: Pte) -> bool;

    /// Swap format: the page was exclusive to this mapping when it was swapped out.
    pte_swp_exclusive(pte: Pte) -> bool;
    /// Swap format: sets the exclusive flag.
    pte_swp_mkexclusive(pte: Pte) -> Pte;
    /// Swap format: clears the exclusive flag.
    pte_swp_clear_exclusive(pte: Pte) -> Pte;
    /// Swap format: soft-dirty.
    pte_swp_soft_dirty(pte: Pte) -> bool;
    /// Swap format: sets soft-dirty.
    pte_swp_mksoft_dirty(pte: Pte) -> Pte;
    /// Swap format: clears soft-dirty.
    pte_swp_clear_soft_dirty(pte: Pte) -> Pte;
    /// Swap format: uffd-wp.
    pte_swp_uffd_wp(pte: Pte) -> bool;
    /// Swap format: sets uffd-wp.
    pte_swp_mkuffd_wp(pte: Pte) -> Pte;
    /// Swap format: clears uffd-wp.
    pte_swp_clear_uffd_wp(pte: Pte) -> Pte;
    /// The entry that holds a swap entry, with no flag set. Type and offset are cut to their fields. One value per
    /// architecture comes out as an empty entry: type 0 with offset 2^50 - 1 on x86-64, type 0 with offset 0 on arm64.
    swp_entry_to_pte(entry: SwpEntry) -> Pte;
    /// The swap entry inside, flags ignored. Of an empty entry it reads the value named at [`Arch::swp_entry_to_pte`].
    pte_to_swp_entry(pte: Pte) -> SwpEntry;
    /// Swap format: the bits that belong to neither field nor flag are zero. Not a kernel function.
    pte_swp_is_sane(pte: Pte) -> bool;

    /// What a hardware walk on behalf of user space makes of a leaf entry: `None` is a page fault, otherwise the entry
    /// with the accessed state, and for a write the dirty state, set. The caller stores it back atomically.
    hw_access(pte: Pte, write: bool) -> Option<Pte>;

    /// An upper-level entry that points to the table in frame `pfn` (`pmd_populate`).
    mk_table(pfn: u64) -> Pmd;
    /// Upper level: nothing here.
    pmd_none(pmd: Pmd) -> bool;
    /// Upper level: a table or a huge page.
    pmd_present(pmd: Pmd) -> bool;
    /// Upper level: points to a table (present, neither huge nor `pmd_bad`).
    pmd_is_table(pmd: Pmd) -> bool;
    /// Upper level: the frame of the table pointed to.
    pmd_table_pfn(pmd: Pmd) -> u64;
    /// Upper level: a huge page, be it invalid for the moment (`pmd_trans_huge`).
    pmd_trans_huge(pmd: Pmd) -> bool;
    /// The upper-level entry that maps a huge page as `pte` maps a small one (`pmd_mkhuge`).
    pte_mkhuge(pte: Pte) -> Pmd;
    /// Huge page: what a PTE of its first page would say. An invalid one reads as it did when it was valid.
    pmd_leaf(pmd: Pmd) -> Pte;
    /// Huge page: out of the hardware's reach, while for the kernel it is still there (`pmd_mkinvalid`).
    pmd_mkinvalid(pmd: Pmd) -> Pmd;
    /// Huge page: made so.
    pmd_is_invalid(pmd: Pmd) -> bool;
    /// Present: the same entry for the `n`th page after (`pte_advance_pfn`).
    pte_advance_pfn(pte: Pte, n: u64) -> Pte;
}
