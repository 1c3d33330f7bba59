//! arm64 with 4 KiB pages and 48-bit physical addresses (`arch/arm64/include/asm`, Linux 6.12).
//!
//! ```text
//! present   58      56      55    54  53  51        49-12  11 10 9-8 7      6    4-2  1    0
//!           uffd-wp special dirty UXN PXN DBM=WRITE frame  nG AF SH  RDONLY USER attr page VALID
//! swap      63-62  61-12   11 10-6  5-4  3       2    1-0
//!           0      offset  0  type  0    uffd-wp excl 0
//! ```
//!
//! With hardware dirty management (`DBM`), "writable" and "may be written without telling" are two bits: the kernel
//! grants `WRITE` and leaves `RDONLY` set, and the first write clears `RDONLY`. So an entry is dirty when bit 55 says
//! so *or* when it is `WRITE` without `RDONLY`; whoever takes `WRITE` or sets `RDONLY` must move the second into the
//! first.
//!
//! `PROT_NONE` is `PTE_PRESENT_INVALID` (bit 11, which is nG in a valid entry) without `VALID`, without `USER` and with
//! `UXN`. Frame numbers are never inverted. There is no soft-dirty bit.

use super::{Pmd, Prot, Pte, SwpEntry};

/// `PHYS_MASK_SHIFT`.
pub(super) const MAX_PHYSMEM_BITS: u32 = 48;

const VALID: u64 = 1 << 0;
/// Set in a page (level 3) and in a table descriptor, clear in a block.
const TABLE_BIT: u64 = 1 << 1;
const TYPE_MASK: u64 = VALID | TABLE_BIT;
const ATTRINDX_MASK: u64 = 7 << 2;
const USER: u64 = 1 << 6;
const RDONLY: u64 = 1 << 7;
const SHARED: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const GP: u64 = 1 << 50;
const WRITE: u64 = 1 << 51;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const DIRTY: u64 = 1 << 55;
const SPECIAL: u64 = 1 << 56;
const UFFD_WP: u64 = 1 << 58;
const TABLE_PXN: u64 = 1 << 59;
const PO_IDX_MASK: u64 = 7 << 60;

const PRESENT_INVALID: u64 = NG;
/// `PTE_ADDR_LOW`: bits 12 to 49.
const ADDR_MASK: u64 = ((1 << 38) - 1) << super::PAGE_SHIFT;
/// What `pte_modify` takes from the new protection; the rest stays.
const MODIFY_MASK: u64 = USER | PXN | UXN | RDONLY | PRESENT_INVALID | VALID | WRITE | GP | ATTRINDX_MASK | PO_IDX_MASK;
/// `_PAGE_DEFAULT`; normal memory is attribute index 0.
const PAGE_DEFAULT: u64 = VALID | TABLE_BIT | AF | SHARED;

const SWP_EXCLUSIVE: u64 = 1 << 2;
const SWP_UFFD_WP: u64 = 1 << 3;
const SWP_TYPE_SHIFT: u32 = 6;
const SWP_TYPE_MASK: u64 = (1 << super::SWP_TYPE_BITS) - 1;
const SWP_OFFSET_SHIFT: u32 = 12;
/// Bits 12 to 61.
pub(super) const SWP_OFFSET_BITS: u32 = 50;
const SWP_OFFSET_MASK: u64 = (1 << SWP_OFFSET_BITS) - 1;
/// Bits that are neither field nor flag of a swap-format entry.
const SWP_RESERVED: u64 = TYPE_MASK | (3 << 4) | PRESENT_INVALID | (3 << 62);

const fn set(pte: Pte, bits: u64) -> Pte {
    Pte(pte.0 | bits)
}

const fn clear(pte: Pte, bits: u64) -> Pte {
    Pte(pte.0 & !bits)
}

const fn has(pte: Pte, bits: u64) -> bool {
    pte.0 & bits != 0
}

/// `pte_hw_dirty`: writable, and hardware (or the kernel) has cleared `RDONLY`.
const fn hw_dirty(pte: Pte) -> bool {
    pte.0 & (WRITE | RDONLY) == WRITE
}

/// `pte_present_invalid`.
const fn present_invalid(pte: Pte) -> bool {
    pte.0 & (VALID | PRESENT_INVALID) == PRESENT_INVALID
}

/// `PAGE_NONE`, `PAGE_READONLY`, `PAGE_SHARED`; there is no `PAGE_COPY`, a private writable mapping starts read-only.
const fn pgprot(prot: Prot) -> u64 {
    match prot {
        Prot::None => (PAGE_DEFAULT & !VALID) | PRESENT_INVALID | RDONLY | PXN | UXN,
        Prot::Read | Prot::Copy => PAGE_DEFAULT | USER | RDONLY | NG | PXN | UXN,
        Prot::ReadWrite => PAGE_DEFAULT | USER | RDONLY | NG | PXN | UXN | WRITE,
    }
}

pub(super) const fn pte_none(pte: Pte) -> bool {
    pte.0 == 0
}

pub(super) const fn pte_present(pte: Pte) -> bool {
    has(pte, VALID | PRESENT_INVALID)
}

pub(super) const fn pte_protnone(pte: Pte) -> bool {
    present_invalid(pte) && !has(pte, USER) && has(pte, UXN)
}

pub(super) const fn pte_write(pte: Pte) -> bool {
    has(pte, WRITE)
}

pub(super) const fn pte_dirty(pte: Pte) -> bool {
    has(pte, DIRTY) || hw_dirty(pte)
}

pub(super) const fn pte_young(pte: Pte) -> bool {
    has(pte, AF)
}

pub(super) const fn pte_soft_dirty(_: Pte) -> bool {
    false
}

pub(super) const fn pte_uffd_wp(pte: Pte) -> bool {
    has(pte, UFFD_WP)
}

pub(super) const fn pte_special(pte: Pte) -> bool {
    has(pte, SPECIAL)
}

pub(super) const fn pte_pfn(pte: Pte) -> u64 {
    (pte.0 & ADDR_MASK) >> super::PAGE_SHIFT
}

pub(super) const fn pfn_pte(pfn: u64, prot: Prot) -> Pte {
    Pte(((pfn << super::PAGE_SHIFT) & ADDR_MASK) | pgprot(prot))
}

/// Every protection has `RDONLY`, so hardware-dirty is first moved to bit 55 and given back at the end if writing is
/// granted.
pub(super) const fn pte_modify(pte: Pte, prot: Prot) -> Pte {
    let kept = if hw_dirty(pte) { pte.0 | DIRTY } else { pte.0 };
    let new = Pte((kept & !MODIFY_MASK) | (pgprot(prot) & MODIFY_MASK));
    if has(new, DIRTY) { pte_mkdirty(new) } else { new }
}

pub(super) const fn pte_mkwrite(pte: Pte) -> Pte {
    let pte = set(pte, WRITE);
    if has(pte, DIRTY) { clear(pte, RDONLY) } else { pte }
}

pub(super) const fn pte_wrprotect(pte: Pte) -> Pte {
    let pte = if hw_dirty(pte) { set(pte, DIRTY) } else { pte };
    set(clear(pte, WRITE), RDONLY)
}

pub(super) const fn pte_mkdirty(pte: Pte) -> Pte {
    let pte = set(pte, DIRTY);
    if has(pte, WRITE) { clear(pte, RDONLY) } else { pte }
}

pub(super) const fn pte_mkclean(pte: Pte) -> Pte {
    set(clear(pte, DIRTY), RDONLY)
}

pub(super) const fn pte_mkyoung(pte: Pte) -> Pte {
    set(pte, AF)
}

pub(super) const fn pte_mkold(pte: Pte) -> Pte {
    clear(pte, AF)
}

pub(super) const fn pte_mkspecial(pte: Pte) -> Pte {
    set(pte, SPECIAL)
}

pub(super) const fn pte_mksoft_dirty(pte: Pte) -> Pte {
    pte
}

pub(super) const fn pte_clear_soft_dirty(pte: Pte) -> Pte {
    pte
}

pub(super) const fn pte_mkuffd_wp(pte: Pte) -> Pte {
    pte_wrprotect(set(pte, UFFD_WP))
}

pub(super) const fn pte_clear_uffd_wp(pte: Pte) -> Pte {
    clear(pte, UFFD_WP)
}

pub(super) const fn pte_accessible(pte: Pte, tlb_flush_pending: bool) -> bool {
    if tlb_flush_pending { pte_present(pte) } else { has(pte, VALID) }
}

/// Rejects a valid entry that is no page descriptor; a present-invalid one that is not `PROT_NONE` (only huge entries
/// are made that way, by `pmd_mkinvalid`); hardware-writable without `WRITE`, which would be written behind the
/// kernel's back; and a frame beyond the physical address space.
pub(super) const fn pte_present_is_sane(pte: Pte) -> bool {
    let shape = pte.0 & TYPE_MASK == TYPE_MASK || pte_protnone(pte);
    shape && has(pte, WRITE | RDONLY) && pte_pfn(pte) >> (MAX_PHYSMEM_BITS - super::PAGE_SHIFT) == 0
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

pub(super) const fn pte_swp_soft_dirty(_: Pte) -> bool {
    false
}

pub(super) const fn pte_swp_mksoft_dirty(pte: Pte) -> Pte {
    pte
}

pub(super) const fn pte_swp_clear_soft_dirty(pte: Pte) -> Pte {
    pte
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

/// The kernel's macro does not cut the fields: a larger offset would spill into bits 62 and 63. Here they are cut.
pub(super) const fn swp_entry_to_pte(entry: SwpEntry) -> Pte {
    let ty = (entry.ty as u64 & SWP_TYPE_MASK) << SWP_TYPE_SHIFT;
    Pte(ty | ((entry.offset & SWP_OFFSET_MASK) << SWP_OFFSET_SHIFT))
}

pub(super) const fn pte_to_swp_entry(pte: Pte) -> SwpEntry {
    SwpEntry {
        ty: ((pte.0 >> SWP_TYPE_SHIFT) & SWP_TYPE_MASK) as u8,
        offset: (pte.0 >> SWP_OFFSET_SHIFT) & SWP_OFFSET_MASK,
    }
}

/// Rejects bits 0, 1, 4, 5, 11, 62 and 63.
pub(super) const fn pte_swp_is_sane(pte: Pte) -> bool {
    !has(pte, SWP_RESERVED)
}

/// Needs a valid page descriptor with `USER`. A write needs `RDONLY` clear, or `DBM`, in which case hardware clears
/// `RDONLY`.
pub(super) const fn hw_access(pte: Pte, write: bool) -> Option<Pte> {
    if pte.0 & TYPE_MASK != TYPE_MASK || !has(pte, USER) {
        return None;
    }
    if !write {
        return Some(set(pte, AF));
    }
    if has(pte, RDONLY) && !has(pte, WRITE) {
        return None;
    }
    Some(set(clear(pte, RDONLY), AF))
}

pub(super) const fn mk_table(pfn: u64) -> Pmd {
    Pmd(((pfn << super::PAGE_SHIFT) & ADDR_MASK) | VALID | TABLE_BIT | TABLE_PXN)
}

pub(super) const fn pmd_none(pmd: Pmd) -> bool {
    pmd.0 == 0
}

pub(super) const fn pmd_present(pmd: Pmd) -> bool {
    pte_present(Pte(pmd.0))
}

pub(super) const fn pmd_is_table(pmd: Pmd) -> bool {
    pmd.0 & TYPE_MASK == TYPE_MASK
}

pub(super) const fn pmd_table_pfn(pmd: Pmd) -> u64 {
    pte_pfn(Pte(pmd.0))
}

pub(super) const fn pmd_trans_huge(pmd: Pmd) -> bool {
    pmd.0 != 0 && pmd_present(pmd) && pmd.0 & TABLE_BIT == 0
}

pub(super) const fn pte_mkhuge(pte: Pte) -> Pmd {
    Pmd(pte.0 & !TABLE_BIT)
}

pub(super) const fn pmd_leaf(pmd: Pmd) -> Pte {
    let pte = Pte(pmd.0 | TABLE_BIT);
    if pmd_is_invalid(pmd) { set(pte, VALID) } else { pte }
}

/// `PRESENT_INVALID` is nG, which every entry of user space has while it is valid.
pub(super) const fn pmd_mkinvalid(pmd: Pmd) -> Pmd {
    Pmd((pmd.0 | PRESENT_INVALID) & !VALID)
}

/// `PROT_NONE` looks the same but for `USER` and `UXN`.
pub(super) const fn pmd_is_invalid(pmd: Pmd) -> bool {
    present_invalid(Pte(pmd.0)) && !pte_protnone(Pte(pmd.0))
}

pub(super) const fn pte_advance_pfn(pte: Pte, n: u64) -> Pte {
    Pte((pte.0 & !ADDR_MASK) | (((pte_pfn(pte) + n) << super::PAGE_SHIFT) & ADDR_MASK))
}
