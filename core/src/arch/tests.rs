//! Bit patterns worked out by hand from the headers, and laws that hold for every frame, protection and flag.

use super::*;

const X86: Arch = Arch::X86_64;
const ARM: Arch = Arch::Arm64;
const PFNS: [u64; 5] = [0, 1, 0x12345, (1 << 33) | 7, (1 << 34) - 1];

/// A present entry with the given flags, built by the kernel's helpers.
fn present(arch: Arch, pfn: u64, prot: Prot, flags: u32) -> Pte {
    let mut pte = arch.pfn_pte(pfn, prot);
    if flags & 1 != 0 {
        pte = arch.pte_mkdirty(pte);
    }
    if flags & 2 != 0 {
        pte = arch.pte_mkold(pte);
    }
    pte = if flags & 4 != 0 { arch.pte_mksoft_dirty(pte) } else { arch.pte_clear_soft_dirty(pte) };
    if flags & 8 != 0 {
        pte = arch.pte_mkuffd_wp(pte);
    }
    if flags & 16 != 0 {
        pte = arch.pte_mkspecial(pte);
    }
    pte
}

/// Everything a present entry says except its protection.
fn kept(arch: Arch, pte: Pte) -> (u64, [bool; 5]) {
    let flags = [
        arch.pte_dirty(pte),
        arch.pte_young(pte),
        arch.pte_soft_dirty(pte),
        arch.pte_uffd_wp(pte),
        arch.pte_special(pte),
    ];
    (arch.pte_pfn(pte), flags)
}

fn for_each_present(mut check: impl FnMut(Arch, Prot, Pte)) {
    for arch in Arch::ALL {
        for pfn in PFNS {
            for prot in Prot::ALL {
                for flags in 0..32 {
                    check(arch, prot, present(arch, pfn, prot, flags));
                }
            }
        }
    }
}

#[test]
fn names_round_trip() {
    for arch in Arch::ALL {
        assert_eq!(Arch::from_name(arch.name()), Some(arch));
    }
    assert_eq!(Arch::from_name("X86-64"), None);
}

#[test]
fn x86_present_entries_have_the_bits_of_the_headers() {
    // Present, user, accessed, no-execute; then read-write on top.
    assert_eq!(X86.pfn_pte(0x12345, Prot::Read).0, 0x8000_0000_1234_5025);
    assert_eq!(X86.pfn_pte(0x12345, Prot::Copy).0, 0x8000_0000_1234_5025);
    assert_eq!(X86.pfn_pte(0x12345, Prot::ReadWrite).0, 0x8000_0000_1234_5027);
    // Dirty is bit 6 and brings soft-dirty, bit 11; write-protected, it moves to bit 58.
    let dirty = X86.pte_mkdirty(X86.pfn_pte(1, Prot::ReadWrite));
    assert_eq!(dirty.0, 0x8000_0000_0000_1867);
    assert_eq!(X86.pte_wrprotect(dirty).0, 0x8400_0000_0000_1825);
    assert_eq!(X86.pte_mkwrite(X86.pte_wrprotect(dirty)), dirty);
    // uffd-wp is bit 10, special bit 9.
    assert_eq!(X86.pte_mkuffd_wp(X86.pfn_pte(1, Prot::Read)).0, 0x8000_0000_0000_1425);
    assert_eq!(X86.pte_mkspecial(X86.pfn_pte(1, Prot::Read)).0, 0x8000_0000_0000_1225);
}

#[test]
fn x86_prot_none_is_global_without_present_and_the_frame_inverted() {
    // Frame bits are 12 to 51; accessed 0x20 and global 0x100 make 0x120.
    assert_eq!(X86.pfn_pte(0, Prot::None).0, 0x000f_ffff_ffff_f120);
    assert_eq!(X86.pfn_pte(0x12345, Prot::None).0, 0x000f_ffff_edcb_a120);
    assert_eq!(X86.pte_pfn(Pte(0x000f_ffff_edcb_a120)), 0x12345);
    let written = X86.pte_mkdirty(X86.pfn_pte(0x12345, Prot::ReadWrite));
    assert_eq!(X86.pte_modify(written, Prot::None).0, 0x040f_ffff_edcb_a920);
}

#[test]
fn x86_swap_entries_invert_the_offset() {
    // Offset 0 is all ones in bits 9 to 58.
    let zero = X86.swp_entry_to_pte(SwpEntry { ty: 0, offset: 0 });
    assert_eq!(zero.0, 0x07ff_ffff_ffff_fe00);
    let five = X86.swp_entry_to_pte(SwpEntry { ty: 1, offset: 5 });
    assert_eq!(five.0, 0x0fff_ffff_ffff_f400);
    let flags = X86.pte_swp_mkuffd_wp(X86.pte_swp_mksoft_dirty(X86.pte_swp_mkexclusive(five)));
    assert_eq!(flags.0, 0x0fff_ffff_ffff_f40e);
    assert_eq!(X86.pte_to_swp_entry(flags), SwpEntry { ty: 1, offset: 5 });
    assert_eq!(X86.pte_swp_clear_flags(flags), five);
}

#[test]
fn arm64_entries_have_the_bits_of_the_headers() {
    // UXN 54, PXN 53; nG 11, AF 10, inner shareable 9-8, RDONLY 7, user 6, page and valid 1-0.
    assert_eq!(ARM.pfn_pte(0x12345, Prot::Read).0, 0x0060_0000_1234_5fc3);
    assert_eq!(ARM.pfn_pte(0x12345, Prot::Copy).0, 0x0060_0000_1234_5fc3);
    // DBM, bit 51; RDONLY stays until the first write.
    assert_eq!(ARM.pfn_pte(0x12345, Prot::ReadWrite).0, 0x0068_0000_1234_5fc3);
    // Neither valid nor user; bit 11 now means present-invalid.
    assert_eq!(ARM.pfn_pte(0x12345, Prot::None).0, 0x0060_0000_1234_5f82);
    // Type in bits 6 to 10, offset from bit 12; exclusive 2, uffd-wp 3.
    let swap = ARM.swp_entry_to_pte(SwpEntry { ty: 3, offset: 5 });
    assert_eq!(swap.0, 0x50c0);
    assert_eq!(ARM.pte_swp_mkuffd_wp(ARM.pte_swp_mkexclusive(swap)).0, 0x50cc);
}

#[test]
fn arm64_hardware_dirty_is_write_without_rdonly_and_is_saved_in_bit_55() {
    let clean = ARM.pfn_pte(1, Prot::ReadWrite);
    assert!(ARM.pte_write(clean) && !ARM.pte_dirty(clean));
    let written = ARM.hw_access(clean, true).unwrap();
    assert_eq!(written.0, clean.0 & !(1 << 7));
    assert!(ARM.pte_dirty(written));
    let protected = ARM.pte_wrprotect(written);
    assert_eq!(protected.0, (clean.0 | 1 << 55) & !(1 << 51));
    assert!(ARM.pte_dirty(protected) && !ARM.pte_write(protected));
    assert!(!ARM.pte_dirty(ARM.pte_mkclean(written)));
}

#[test]
fn modifying_to_prot_none_and_back_keeps_everything_but_the_protection() {
    for_each_present(|arch, prot, pte| {
        for between in Prot::ALL {
            let there = arch.pte_modify(pte, between);
            assert_eq!(kept(arch, there), kept(arch, pte), "{arch:?} {prot:?} -> {between:?}");
            assert!(arch.pte_present(there) && !arch.pte_none(there));
            assert_eq!(arch.pte_protnone(there), between == Prot::None);
            assert_eq!(arch.pte_write(there), between == Prot::ReadWrite);
            assert!(arch.pte_present_is_sane(there), "{arch:?} {there:x?}");
            let back = arch.pte_modify(there, prot);
            let expect = if arch.pte_uffd_wp(pte) && prot == Prot::ReadWrite {
                arch.pte_mkwrite(pte) // pte_modify knows nothing of uffd-wp
            } else {
                pte
            };
            assert_eq!(kept(arch, back), kept(arch, expect));
            assert_eq!(arch.pte_write(back), arch.pte_write(expect));
        }
    });
}

#[test]
fn dirty_survives_write_protection_and_its_end() {
    for_each_present(|arch, _, pte| {
        for walk in [arch.pte_wrprotect(pte), arch.pte_mkwrite(pte), arch.pte_mkuffd_wp(pte)] {
            assert_eq!(arch.pte_dirty(walk), arch.pte_dirty(pte), "{arch:?} {pte:x?} {walk:x?}");
            assert!(arch.pte_present_is_sane(walk));
        }
        let back = arch.pte_mkwrite(arch.pte_wrprotect(pte));
        assert_eq!(back, arch.pte_mkwrite(pte));
        assert!(!arch.pte_dirty(arch.pte_mkclean(pte)));
        assert!(arch.pte_dirty(arch.pte_mkdirty(pte)));
        assert_eq!(arch.pte_soft_dirty(arch.pte_mkdirty(pte)), arch.has_soft_dirty());
    });
}

#[test]
fn each_present_flag_can_be_set_and_cleared_alone() {
    for_each_present(|arch, _, pte| {
        assert!(arch.pte_young(arch.pte_mkyoung(pte)) && !arch.pte_young(arch.pte_mkold(pte)));
        assert_eq!(arch.pte_soft_dirty(arch.pte_mksoft_dirty(pte)), arch.has_soft_dirty());
        assert!(!arch.pte_soft_dirty(arch.pte_clear_soft_dirty(pte)));
        let wp = arch.pte_mkuffd_wp(pte);
        assert!(arch.pte_uffd_wp(wp) && !arch.pte_write(wp));
        assert!(!arch.pte_uffd_wp(arch.pte_clear_uffd_wp(wp)));
        assert_eq!(arch.pte_pfn(wp), arch.pte_pfn(pte));
    });
}

#[test]
fn hardware_sets_accessed_and_dirty_only_where_it_may_go() {
    for_each_present(|arch, prot, pte| {
        let read = arch.hw_access(pte, false);
        assert_eq!(read.is_some(), prot != Prot::None);
        if let Some(read) = read {
            assert_eq!(read, arch.pte_mkyoung(pte));
        }
        let write = arch.hw_access(pte, true);
        assert_eq!(write.is_some(), arch.pte_write(pte));
        if let Some(write) = write {
            assert!(arch.pte_dirty(write) && arch.pte_young(write) && arch.pte_write(write));
            assert_eq!(arch.pte_soft_dirty(write), arch.pte_soft_dirty(pte));
            assert_eq!(arch.pte_pfn(write), arch.pte_pfn(pte));
        }
    });
    for arch in Arch::ALL {
        assert_eq!(arch.hw_access(Pte(0), false), None);
        let swap = arch.swp_entry_to_pte(SwpEntry { ty: 1, offset: 77 });
        assert_eq!(arch.hw_access(swap, false), None);
    }
}

#[test]
fn a_tlb_may_hold_prot_none_only_while_a_flush_is_pending() {
    for arch in Arch::ALL {
        let none = arch.pfn_pte(1, Prot::None);
        assert!(!arch.pte_accessible(none, false) && arch.pte_accessible(none, true));
        assert!(arch.pte_accessible(arch.pfn_pte(1, Prot::Read), false));
        assert!(!arch.pte_accessible(Pte(0), true));
    }
}

#[test]
fn swap_entries_round_trip_under_every_flag() {
    for arch in Arch::ALL {
        for ty in 0..32 {
            for offset in [1, 5, 0x1234_5678, arch.max_swp_offset() - 1] {
                let entry = SwpEntry { ty, offset };
                let bare = arch.swp_entry_to_pte(entry);
                assert!(arch.pte_swp_is_sane(bare));
                let all = arch.pte_swp_mkuffd_wp(arch.pte_swp_mksoft_dirty(arch.pte_swp_mkexclusive(bare)));
                for pte in [bare, all] {
                    assert!(!arch.pte_none(pte) && !arch.pte_present(pte));
                    assert_eq!(arch.pte_to_swp_entry(pte), entry);
                }
                assert!(arch.pte_swp_exclusive(all) && arch.pte_swp_uffd_wp(all));
                assert_eq!(arch.pte_swp_soft_dirty(all), arch.has_soft_dirty());
                assert_eq!(arch.pte_swp_clear_flags(all), bare);
            }
        }
    }
}

#[test]
fn one_swap_slot_per_architecture_looks_empty() {
    assert_eq!(X86.swp_entry_to_pte(SwpEntry { ty: 0, offset: (1 << 50) - 1 }), Pte(0));
    assert_eq!(ARM.swp_entry_to_pte(SwpEntry { ty: 0, offset: 0 }), Pte(0));
}

#[test]
fn x86_ignores_stray_accessed_and_dirty_bits_in_an_empty_entry() {
    assert!(X86.pte_none(Pte(0x60)) && X86.pmd_none(Pmd(0x60)));
    assert!(!X86.pte_none(Pte(0x61)));
    assert!(!ARM.pte_none(Pte(0x60)));
}

#[test]
fn a_present_accessor_reads_rubbish_out_of_a_swap_entry() {
    // Bit 10 is uffd-wp in a present entry, and the inverted second bit of the offset in a swap entry.
    let pte = X86.swp_entry_to_pte(SwpEntry { ty: 0, offset: 0 });
    assert!(X86.pte_uffd_wp(pte) && !X86.pte_swp_uffd_wp(pte));
}

#[test]
fn the_swap_special_entry_is_neither_none_nor_present_and_exists_on_x86_only() {
    let special = X86.uffd_wp_swp_pte_special().unwrap();
    assert_eq!(special, Pte(0x4));
    assert!(!X86.pte_none(special) && !X86.pte_present(special) && X86.pte_swp_uffd_wp(special));
    assert!(X86.pte_swp_uffd_wp_special(special));
    // mremap marks what it moves soft-dirty, after which the special entry is not recognised any more.
    assert!(!X86.pte_swp_uffd_wp_special(X86.pte_swp_mksoft_dirty(special)));
    assert_eq!(ARM.uffd_wp_swp_pte_special(), None);
    assert!(!ARM.pte_swp_uffd_wp_special(Pte(0x4)));
}

#[test]
fn upper_levels_point_to_tables() {
    assert_eq!(X86.mk_table(0x1234).0, 0x0123_4067);
    assert_eq!(ARM.mk_table(0x1234).0, 0x0800_0000_0123_4003);
    for arch in Arch::ALL {
        for pfn in PFNS {
            let pmd = arch.mk_table(pfn);
            assert!(arch.pmd_is_table(pmd) && arch.pmd_present(pmd) && !arch.pmd_none(pmd));
            assert_eq!(arch.pmd_table_pfn(pmd), pfn);
        }
        assert!(arch.pmd_none(Pmd(0)) && !arch.pmd_present(Pmd(0)) && !arch.pmd_is_table(Pmd(0)));
    }
    // A huge page is no table: PSE on x86-64, a block descriptor on arm64.
    assert!(!X86.pmd_is_table(Pmd(X86.mk_table(8).0 | 1 << 7)));
    assert!(!ARM.pmd_is_table(Pmd(ARM.mk_table(8).0 & !2)));
}

#[test]
fn insane_present_entries_are_told_apart() {
    let ro = X86.pfn_pte(1, Prot::Read);
    assert!(!X86.pte_present_is_sane(Pte(ro.0 | 1 << 6)), "dirty without write: a shadow stack");
    assert!(!X86.pte_present_is_sane(X86.pfn_pte(1 << 34, Prot::Read)));
    assert!(!X86.pte_present_is_sane(X86.pfn_pte(1 << 34, Prot::None)));
    let ro = ARM.pfn_pte(1, Prot::Read);
    assert!(!ARM.pte_present_is_sane(Pte(ro.0 & !2)), "a block at the last level");
    assert!(!ARM.pte_present_is_sane(Pte(ro.0 & !(1 << 7))), "writable unknown to the kernel");
    assert!(!ARM.pte_present_is_sane(Pte(ro.0 & !1)), "present-invalid, not PROT_NONE");
}
