//! x86-64 (`arch/x86/include/asm`, Linux 6.12).
//!
//! ```text
//! present   63  62-59 58         57   51-12   11         10      9       8 7   6 5 4   3   2 1  0
//!           NX  pkey  saved-dirty dev  frame  soft-dirty uffd-wp special G PAT D A PCD PWT U RW P
//! swap      63-59  58-9                                                  8 7   6 5 4   3    2    1   0
//!           type   offset, inverted                                      0 0   0 0 0   excl uffd sd  0
//! ```
//!
//! Two inversions, both against L1TF, which lets a non-present entry load the cache line it seems to name: the swap
//! offset is stored inverted, and so is the frame number of a `PROT_NONE` entry (any entry that is not zero and not
//! present). Saved-dirty exists because `RW` clear with `D` set means "shadow stack" to the hardware: write protection
//! moves `D` to bit 58.

use super::{Pmd, Prot, Pte, SwpEntry};

/// `MAX_PHYSMEM_BITS` with four paging levels (`sparsemem.h`).
pub(super) const MAX_PHYSMEM_BITS: u32 = 46;

const PRESENT: u64 = 1 << 0;
const RW: u64 = 1 << RW_BIT;
const USER: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << DIRTY_BIT;
const PSE: u64 = 1 << 7;
const PAT: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const SPECIAL: u64 = 1 << 9;
const UFFD_WP: u64 = 1 << 10;
const SOFT_DIRTY: u64 = 1 << 11;
const DEVMAP: u64 = 1 << 57;
const SAVED_DIRTY: u64 = 1 << SAVED_DIRTY_BIT;
const NX: u64 = 1 << 63;

const RW_BIT: u32 = 1;
const DIRTY_BIT: u32 = 6;
const SAVED_DIRTY_BIT: u32 = 58;

/// `_PAGE_PROTNONE`: the global bit, when present is clear.
const PROTNONE: u64 = GLOBAL;
const DIRTY_BITS: u64 = DIRTY | SAVED_DIRTY;
/// `PTE_PFN_MASK`: bits 12 to 51, whatever the paging level (`__PHYSICAL_MASK_SHIFT`).
const PFN_MASK: u64 = ((1 << 52) - 1) & !0xfff;
/// `_PAGE_CHG_MASK`: what `pte_modify` keeps.
const CHG_MASK: u64 = PFN_MASK | PCD | PWT | SPECIAL | ACCESSED | DIRTY_BITS | SOFT_DIRTY | DEVMAP | UFFD_WP | PAT;
/// `_PAGE_KNL_ERRATUM_MASK`: bits that hardware can set by mistake in an entry that is not present.
const ERRATUM_MASK: u64 = DIRTY | ACCESSED;
/// `_PAGE_TABLE`.
const TABLE: u64 = PRESENT | RW | USER | ACCESSED | DIRTY;

const SWP_SOFT_DIRTY: u64 = RW;
const SWP_UFFD_WP: u64 = USER;
const SWP_EXCLUSIVE: u64 = PWT;
const SWP_OFFSET_FIRST_BIT: u32 = 9;
const SWP_TYPE_SHIFT: u32 = 64 - super::SWP_TYPE_BITS;
/// Bits 9 to 58.
pub(super) const SWP_OFFSET_BITS: u32 = SWP_TYPE_SHIFT - SWP_OFFSET_FIRST_BIT;
const SWP_OFFSET_MASK: u64 = (1 << SWP_OFFSET_BITS) - 1;
/// Bits that are neither field nor flag of a swap-format entry.
const SWP_RESERVED: u64 = PRESENT | PCD | ACCESSED | DIRTY | PSE | GLOBAL;

/// `UFFD_WP_SWP_PTE_SPECIAL` of the 2021 series.
pub(super) const UFFD_WP_SWP_PTE_SPECIAL: Pte = Pte(SWP_UFFD_WP);

const fn set(pte: Pte, bits: u64) -> Pte {
    Pte(pte.0 | bits)
}

const fn clear(pte: Pte, bits: u64) -> Pte {
    Pte(pte.0 & !bits)
}

const fn has(pte: Pte, bits: u64) -> bool {
    pte.0 & bits != 0
}

/// `__pte_needs_invert`: not present and not empty.
const fn needs_invert(val: u64) -> bool {
    val != 0 && val & PRESENT == 0
}

/// `protnone_mask`.
const fn protnone_mask(val: u64) -> u64 {
    if needs_invert(val) { !0 } else { 0 }
}

/// `mksaveddirty_shift`: without `RW`, `D` moves to saved-dirty.
const fn mksaveddirty(pte: Pte) -> Pte {
    let cond = (!pte.0 >> RW_BIT) & 1;
    let moved = pte.0 | (((pte.0 >> DIRTY_BIT) & cond) << SAVED_DIRTY_BIT);
    Pte(moved & !(cond << DIRTY_BIT))
}

/// `clear_saveddirty_shift`: with `RW`, saved-dirty moves back to `D`.
const fn clear_saveddirty(pte: Pte) -> Pte {
    let cond = (pte.0 >> RW_BIT) & 1;
    let moved = pte.0 | (((pte.0 >> SAVED_DIRTY_BIT) & cond) << DIRTY_BIT);
    Pte(moved & !(cond << SAVED_DIRTY_BIT))
}

/// `PAGE_NONE`, `PAGE_READONLY`, `PAGE_COPY`, `PAGE_SHARED`.
const fn pgprot(prot: Prot) -> u64 {
    match prot {
        Prot::None => ACCESSED | PROTNONE,
        Prot::Read | Prot::Copy => PRESENT | USER | ACCESSED | NX,
        Prot::ReadWrite => PRESENT | RW | USER | ACCESSED | NX,
    }
}

pub(super) const fn pte_none(pte: Pte) -> bool {
    pte.0 & !ERRATUM_MASK == 0
}

pub(super) const fn pte_present(pte: Pte) -> bool {
    has(pte, PRESENT | PROTNONE)
}

pub(super) const fn pte_protnone(pte: Pte) -> bool {
    pte.0 & (PRESENT | PROTNONE) == PROTNONE
}

pub(super) const fn pte_write(pte: Pte) -> bool {
    has(pte, RW)
}

pub(super) const fn pte_dirty(pte: Pte) -> bool {
    has(pte, DIRTY_BITS)
}

pub(super) const fn pte_young(pte: Pte) -> bool {
    has(pte, ACCESSED)
}

pub(super) const fn pte_soft_dirty(pte: Pte) -> bool {
    has(pte, SOFT_DIRTY)
}

pub(super) const fn pte_uffd_wp(pte: Pte) -> bool {
    has(pte, UFFD_WP)
}

pub(super) const fn pte_special(pte: Pte) -> bool {
    has(pte, SPECIAL)
}

pub(super) const fn pte_pfn(pte: Pte) -> u64 {
    ((pte.0 ^ protnone_mask(pte.0)) & PFN_MASK) >> super::PAGE_SHIFT
}

pub(super) const fn pfn_pte(pfn: u64, prot: Prot) -> Pte {
    let prot = pgprot(prot);
    Pte((((pfn << super::PAGE_SHIFT) ^ protnone_mask(prot)) & PFN_MASK) | prot)
}

/// Flips the frame number when `PROT_NONE` comes or goes (`flip_protnone_guard`), then repairs the dirty state: a `D`
/// that lost its `RW` is saved, a saved one that gained `RW` is given back.
pub(super) const fn pte_modify(pte: Pte, prot: Prot) -> Pte {
    let mut val = (pte.0 & CHG_MASK) | (pgprot(prot) & !CHG_MASK);
    if needs_invert(pte.0) != needs_invert(val) {
        val ^= PFN_MASK;
    }
    if has(pte, RW) { mksaveddirty(Pte(val)) } else { clear_saveddirty(Pte(val)) }
}

pub(super) const fn pte_mkwrite(pte: Pte) -> Pte {
    clear_saveddirty(set(pte, RW))
}

pub(super) const fn pte_wrprotect(pte: Pte) -> Pte {
    mksaveddirty(clear(pte, RW))
}

pub(super) const fn pte_mkdirty(pte: Pte) -> Pte {
    mksaveddirty(set(pte, DIRTY | SOFT_DIRTY))
}

pub(super) const fn pte_mkclean(pte: Pte) -> Pte {
    clear(pte, DIRTY_BITS)
}

pub(super) const fn pte_mkyoung(pte: Pte) -> Pte {
    set(pte, ACCESSED)
}

pub(super) const fn pte_mkold(pte: Pte) -> Pte {
    clear(pte, ACCESSED)
}

pub(super) const fn pte_mkspecial(pte: Pte) -> Pte {
    set(pte, SPECIAL)
}

pub(super) const fn pte_mksoft_dirty(pte: Pte) -> Pte {
    set(pte, SOFT_DIRTY)
}

pub(super) const fn pte_clear_soft_dirty(pte: Pte) -> Pte {
    clear(pte, SOFT_DIRTY)
}

pub(super) const fn pte_mkuffd_wp(pte: Pte) -> Pte {
    pte_wrprotect(set(pte, UFFD_WP))
}

pub(super) const fn pte_clear_uffd_wp(pte: Pte) -> Pte {
    clear(pte, UFFD_WP)
}

pub(super) const fn pte_accessible(pte: Pte, tlb_flush_pending: bool) -> bool {
    has(pte, PRESENT) || (has(pte, PROTNONE) && tlb_flush_pending)
}

/// Rejects `D` without `RW`, which would be a shadow-stack page, and a frame beyond the physical address space.
pub(super) const fn pte_present_is_sane(pte: Pte) -> bool {
    pte.0 & (RW | DIRTY) != DIRTY && pte_pfn(pte) >> (MAX_PHYSMEM_BITS - super::PAGE_SHIFT) == 0
}

pub(super) const fn pte_swp_exclusive(pte: Pte) -> bool {
    has(pte, SWP_EXCLUSIVE)
}

pub(super) const fn pte_swp_mkexclusive(pte: Pte) -> Pte {
    set(pte, SWP_EXCLUSIVE)
}

pub(super) const fn pte_swp_clear_exclusive(pte: Pte) -> Pte {
    clear(pte, SWP_EXCLUSIVE)
}

pub(super) const fn pte_swp_soft_dirty(pte: Pte) -> bool {
    has(pte, SWP_SOFT_DIRTY)
}

pub(super) const fn pte_swp_mksoft_dirty(pte: Pte) -> Pte {
    set(pte, SWP_SOFT_DIRTY)
}

pub(super) const fn pte_swp_clear_soft_dirty(pte: Pte) -> Pte {
    clear(pte, SWP_SOFT_DIRTY)
}

pub(super) const fn pte_swp_uffd_wp(pte: Pte) -> bool {
    has(pte, SWP_UFFD_WP)
}

pub(super) const fn pte_swp_mkuffd_wp(pte: Pte) -> Pte {
    set(pte, SWP_UFFD_WP)
}

pub(super) const fn pte_swp_clear_uffd_wp(pte: Pte) -> Pte {
    clear(pte, SWP_UFFD_WP)
}

pub(super) const fn swp_entry_to_pte(entry: SwpEntry) -> Pte {
    let offset = (!entry.offset & SWP_OFFSET_MASK) << SWP_OFFSET_FIRST_BIT;
    Pte(((entry.ty as u64) << SWP_TYPE_SHIFT) | offset)
}

pub(super) const fn pte_to_swp_entry(pte: Pte) -> SwpEntry {
    SwpEntry { ty: (pte.0 >> SWP_TYPE_SHIFT) as u8, offset: (!pte.0 >> SWP_OFFSET_FIRST_BIT) & SWP_OFFSET_MASK }
}

/// Rejects bits 0 and 4 to 8. Accessed and dirty are among them: a real kernel tolerates them in an entry with a swap
/// entry inside, but nothing except the erratum puts them there.
pub(super) const fn pte_swp_is_sane(pte: Pte) -> bool {
    !has(pte, SWP_RESERVED)
}

/// Needs present and user, and `RW` for a write; a `PROT_NONE` entry is not present for hardware.
pub(super) const fn hw_access(pte: Pte, write: bool) -> Option<Pte> {
    let needed = if write { PRESENT | USER | RW } else { PRESENT | USER };
    if pte.0 & needed != needed {
        return None;
    }
    Some(set(pte, if write { ACCESSED | DIRTY } else { ACCESSED }))
}

pub(super) const fn mk_table(pfn: u64) -> Pmd {
    Pmd(((pfn << super::PAGE_SHIFT) & PFN_MASK) | TABLE)
}

pub(super) const fn pmd_none(pmd: Pmd) -> bool {
    pmd.0 & !ERRATUM_MASK == 0
}

/// `PSE` counts, because splitting a huge page clears present for a moment.
pub(super) const fn pmd_present(pmd: Pmd) -> bool {
    pmd.0 & (PRESENT | PROTNONE | PSE) != 0
}

/// The negation of `pmd_bad`: the flags of a kernel table, with or without user and accessed.
pub(super) const fn pmd_is_table(pmd: Pmd) -> bool {
    pmd.0 & !PFN_MASK & !(USER | ACCESSED) == TABLE & !(USER | ACCESSED)
}

pub(super) const fn pmd_table_pfn(pmd: Pmd) -> u64 {
    (pmd.0 & PFN_MASK) >> super::PAGE_SHIFT
}

pub(super) const fn pmd_trans_huge(pmd: Pmd) -> bool {
    pmd.0 & (PSE | DEVMAP) == PSE
}

pub(super) const fn pte_mkhuge(pte: Pte) -> Pmd {
    Pmd(pte.0 | PSE)
}

/// An invalid entry is inverted, as everything is that is not present and not empty.
pub(super) const fn pmd_leaf(pmd: Pmd) -> Pte {
    let pte = Pte(pmd.0 & !PSE);
    if pte_present(pte) {
        return pte;
    }
    Pte((pte.0 & !PFN_MASK) | (pte_pfn(pte) << super::PAGE_SHIFT) | PRESENT)
}

pub(super) const fn pmd_mkinvalid(pmd: Pmd) -> Pmd {
    let pfn = pte_pfn(Pte(pmd.0));
    let flags = pmd.0 & !PFN_MASK & !(PRESENT | PROTNONE);
    Pmd((((pfn << super::PAGE_SHIFT) ^ protnone_mask(flags)) & PFN_MASK) | flags)
}

pub(super) const fn pmd_is_invalid(pmd: Pmd) -> bool {
    pmd.0 & (PRESENT | PROTNONE) == 0
}

pub(super) const fn pte_advance_pfn(pte: Pte, n: u64) -> Pte {
    let pfn = pte_pfn(pte) + n;
    Pte((((pfn << super::PAGE_SHIFT) ^ protnone_mask(pte.0)) & PFN_MASK) | (pte.0 & !PFN_MASK))
}
