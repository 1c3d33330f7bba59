//! The tables against each other and against what real kernels show; the codec on every kind, flag and a stream of
//! random words.

use super::EntryKind as K;
use super::*;
use crate::arch::{Arch, Pte};
use crate::config::{Config, Design, Kernel};
use std::collections::BTreeSet;

/// Every configuration that [`EntryConfig::check`] accepts.
fn configs() -> Vec<EntryConfig> {
    let mut all = Vec::new();
    for arch in Arch::ALL {
        for bits in 0..256_u32 {
            let config = EntryConfig {
                arch,
                device_exclusive_types: bits & 1 != 0,
                pte_markers: bits & 2 != 0,
                poison_markers: bits & 32 != 0,
                guard_markers: bits & 4 != 0,
                swap_special: bits & 8 != 0,
                migration_ad: bits & 16 != 0,
                anon_exclusive: bits & 64 != 0,
                swapin_error: bits & 128 != 0,
            };
            all.extend(config.check().is_ok().then_some(config));
        }
    }
    all
}

/// Every combination of flags on every kind, legal or not.
fn entries(config: &EntryConfig) -> Vec<Entry> {
    let mut all = Vec::new();
    for kind in EntryKind::ALL {
        for bits in 0..128_u32 {
            for n in [1, 2, config.arch.max_pfn()] {
                all.push(Entry {
                    kind,
                    pfn: kind.has_pfn().then_some(n),
                    swap: (kind == K::Swap).then_some(SwpEntry { ty: 3, offset: n }),
                    write: bits & 1 != 0,
                    dirty: bits & 2 != 0,
                    young: bits & 4 != 0,
                    soft_dirty: bits & 8 != 0,
                    uffd_wp: bits & 16 != 0,
                    exclusive: bits & 32 != 0,
                    protnone: bits & 64 != 0,
                });
            }
        }
    }
    all
}

/// `splitmix64`.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn type_numbers_are_those_seen_on_6_12() {
    let types = EntryConfig::new(Arch::X86_64, true).types();
    assert_eq!((types.max_swapfiles, types.hwpoison), (23, 23));
    assert_eq!((types.migration_read, types.migration_read_exclusive, types.migration_write), (24, Some(25), 26));
    assert_eq!((types.device_write, types.device_read), (27, 28));
    assert_eq!(types.device_exclusive_write, Some(29));
    assert_eq!(types.device_exclusive_read, Some(30));
    assert_eq!(types.device_exclusive, None);
    assert_eq!(types.pte_marker, Some(31));
}

#[test]
fn type_numbers_are_those_seen_on_7_3() {
    let types = EntryConfig::new(Arch::X86_64, false).types();
    assert_eq!((types.max_swapfiles, types.hwpoison), (24, 24));
    assert_eq!((types.migration_read, types.migration_read_exclusive, types.migration_write), (25, Some(26), 27));
    assert_eq!((types.device_write, types.device_read), (28, 29));
    assert_eq!((types.device_exclusive_write, types.device_exclusive_read), (None, None));
    assert_eq!(types.device_exclusive, Some(30));
    assert_eq!(types.pte_marker, Some(31));
}

/// Worked out from `include/linux/swap.h` of 5.14, 5.19, 6.1 and 6.6.
#[test]
fn older_releases_have_their_own_type_numbers() {
    let types = |kernel| EntryConfig::of(&Config::of(kernel)).types();
    let t = types(Kernel::V5_14);
    assert_eq!((t.max_swapfiles, t.hwpoison), (25, 25));
    assert_eq!((t.migration_read, t.migration_read_exclusive, t.migration_write), (26, None, 27));
    assert_eq!((t.device_write, t.device_read), (28, 29));
    assert_eq!((t.device_exclusive_write, t.device_exclusive_read, t.pte_marker), (Some(30), Some(31), None));
    for kernel in [Kernel::V5_19, Kernel::V6_1] {
        let t = types(kernel);
        assert_eq!((t.max_swapfiles, t.hwpoison), (22, 22));
        assert_eq!((t.migration_read, t.migration_read_exclusive, t.migration_write), (23, Some(24), 25));
        assert_eq!((t.device_exclusive_read, t.pte_marker, t.swapin_error), (Some(29), Some(30), Some(31)));
    }
    assert_eq!(types(Kernel::V6_6), EntryConfig::new(Arch::X86_64, true).types());
    assert_eq!(types(Kernel::V6_18), EntryConfig::new(Arch::X86_64, false).types());
}

#[test]
fn the_note_of_uffd_wp_is_a_marker_a_special_entry_or_nothing() {
    let of = |design| {
        let mut config = Config::of(Kernel::V5_14);
        config.designs = config.designs.choose(design);
        let entries = EntryConfig::of(&config);
        let note = entries.make_uffd_wp_note();
        assert_eq!(entries.is_uffd_wp_note(note), design != Design::UffdWpAnonOnly);
        (entries.kind(note), entries.types().max_swapfiles)
    };
    assert_eq!(of(Design::UffdWpAnonOnly), (K::None, 25));
    assert_eq!(of(Design::UffdWpSpecial), (K::SwapSpecial, 25));
    assert_eq!(of(Design::UffdWpMarker), (K::MarkerUffdWp, 24), "a marker costs one swap device");
}

#[test]
fn markers_cost_one_swap_device() {
    for device_exclusive_types in [false, true] {
        let with = EntryConfig::new(Arch::X86_64, device_exclusive_types);
        let without = EntryConfig { pte_markers: false, poison_markers: false, guard_markers: false, ..with };
        assert_eq!(with.types().max_swapfiles + 1, without.types().max_swapfiles);
    }
}

#[test]
fn types_do_not_collide_and_fill_the_range() {
    for config in configs() {
        let t = config.types();
        let special: Vec<u8> = [
            Some(t.hwpoison),
            Some(t.migration_read),
            t.migration_read_exclusive,
            Some(t.migration_write),
            Some(t.device_write),
            Some(t.device_read),
            t.device_exclusive_write,
            t.device_exclusive_read,
            t.device_exclusive,
            t.pte_marker,
            t.swapin_error,
        ]
        .into_iter()
        .flatten()
        .collect();
        let distinct: BTreeSet<u8> = special.iter().copied().collect();
        assert_eq!(distinct.len(), special.len());
        assert_eq!(distinct, (t.max_swapfiles..32).collect());
    }
}

#[test]
fn what_encodes_decodes_to_the_same_and_to_no_other_word() {
    for config in configs() {
        let mut words = BTreeSet::new();
        let mut kinds = BTreeSet::new();
        for entry in entries(&config) {
            let Ok(pte) = config.encode(&entry) else { continue };
            assert_eq!(config.decode(pte), entry, "{config:?} {pte:x?}");
            assert_eq!(config.kind(pte), entry.kind);
            assert_eq!(config.is_swap_pte(pte), entry.kind.is_swap_format());
            if entry.kind.has_pfn() || entry.kind == K::Swap {
                assert!(words.insert(pte), "{config:?} {entry} {pte:x?}");
            }
            kinds.insert(entry.kind);
        }
        for kind in EntryKind::ALL {
            let exists = match kind {
                K::Bad => false,
                K::DeviceExclusive => !config.device_exclusive_types,
                K::DeviceExclusiveRead | K::DeviceExclusiveWrite => config.device_exclusive_types,
                K::MigrationReadExclusive => config.anon_exclusive,
                K::MarkerUffdWp => config.pte_markers,
                K::MarkerPoisoned => config.poison_markers,
                K::MarkerGuard => config.guard_markers,
                K::SwapSpecial => config.swap_special,
                _ => true,
            };
            assert_eq!(kinds.contains(&kind), exists, "{config:?} {kind}");
        }
    }
}

#[test]
fn encode_refuses_exactly_the_flags_that_a_kind_does_not_hold() {
    for config in configs() {
        for entry in entries(&config) {
            let odd = [
                (entry.write, EntryBit::Write),
                (entry.dirty, EntryBit::Dirty),
                (entry.young, EntryBit::Young),
                (entry.soft_dirty, EntryBit::SoftDirty),
                (entry.uffd_wp, EntryBit::UffdWp),
                (entry.exclusive, EntryBit::Exclusive),
                (entry.protnone, EntryBit::ProtNone),
            ]
            .into_iter()
            .any(|(on, bit)| on && !config.holds(entry.kind, bit));
            match config.encode(&entry) {
                Ok(_) => assert!(!odd, "{config:?} {entry:?}"),
                Err(EncodeError::BitNotHeld { .. }) => assert!(odd, "{config:?} {entry:?}"),
                Err(EncodeError::NoSuchKind(kind) | EncodeError::NoSpareBit { kind, .. }) => {
                    assert_eq!(kind, entry.kind);
                }
                Err(error) => panic!("{config:?} {entry:?}: {error}"),
            }
        }
    }
}

#[test]
fn decode_is_total_and_stable_on_random_words() {
    for config in configs() {
        let mut state = 1;
        let mut seen = BTreeSet::new();
        for i in 0..100_000_u32 {
            // Dense words are nearly all bad; thin some out, and fill the high bits of others.
            let word = match i % 4 {
                0 => random(&mut state),
                1 => random(&mut state) & random(&mut state) & random(&mut state),
                2 => (random(&mut state) & 0xfc00_0000_00ff_ffff) | 0x03ff_ffff_ff00_0000,
                _ => random(&mut state) & 0xf800_0000_00ff_f7cf,
            };
            let entry = config.decode(Pte(word));
            assert_eq!(entry.kind, config.kind(Pte(word)));
            seen.insert(entry.kind);
            if entry.kind != K::Bad {
                let again = config.encode(&entry).unwrap_or_else(|error| {
                    panic!("{config:?} {word:#x} {entry}: {error}");
                });
                assert_eq!(config.decode(again), entry, "{config:?} {word:#x}");
            }
        }
        for kind in [K::Present, K::Swap, K::MigrationRead, K::HwPoison, K::Bad] {
            assert!(seen.contains(&kind), "{config:?} never saw {kind}");
        }
    }
}

#[test]
fn arm64_refuses_the_swap_special_entry_and_soft_dirty() {
    let config = EntryConfig { swap_special: true, ..EntryConfig::new(Arch::Arm64, true) };
    assert_eq!(config.check(), Err(ConfigError::SwapSpecialNeedsBit(Arch::Arm64)));
    assert_eq!(
        config.encode(&Entry::plain(K::SwapSpecial)),
        Err(EncodeError::NoSpareBit { arch: Arch::Arm64, kind: K::SwapSpecial })
    );
    let entry = Entry { soft_dirty: true, ..Entry::with_pfn(K::Present, 1) };
    let error = config.encode(&entry).unwrap_err();
    assert_eq!(error, EncodeError::BitNotHeld { kind: K::Present, bit: EntryBit::SoftDirty });
    assert_eq!(error.to_string(), "a present entry cannot hold soft-dirty here");
}

#[test]
fn the_swap_special_entry_is_a_kind_of_its_own_only_where_that_design_is_on() {
    let off = EntryConfig::new(Arch::X86_64, true);
    let on = EntryConfig { swap_special: true, ..off };
    let pte = on.encode(&Entry::plain(K::SwapSpecial)).unwrap();
    assert_eq!((on.kind(pte), off.kind(pte)), (K::SwapSpecial, K::Bad));
    assert!(on.is_swap_pte(pte) && !on.pte_has_swap_entry(pte) && on.pte_none_mostly(pte));
    assert!(on.decode(pte).remembers_uffd_wp());
    // What do_swap_page() would make of it: a genuine-looking slot beyond the end of any device.
    let bogus = on.arch.pte_to_swp_entry(pte);
    assert_eq!(bogus, SwpEntry { ty: 0, offset: (1 << 50) - 1 });
    assert!(!on.non_swap_entry(bogus));
}

#[test]
fn encode_names_the_rule_it_enforces() {
    let config = EntryConfig::new(Arch::X86_64, true);
    let max = config.arch.max_pfn();
    let cases = [
        (Entry::with_pfn(K::MigrationRead, max + 1), EncodeError::PfnTooLarge { pfn: max + 1, max }),
        (Entry::plain(K::Present), EncodeError::PfnMismatch(K::Present)),
        (Entry::with_pfn(K::None, 1), EncodeError::PfnMismatch(K::None)),
        (Entry::plain(K::Swap), EncodeError::SwapMismatch(K::Swap)),
        (Entry::plain(K::Bad), EncodeError::NoSuchKind(K::Bad)),
        (Entry::with_pfn(K::DeviceExclusive, 1), EncodeError::NoSuchKind(K::DeviceExclusive)),
    ];
    for (entry, error) in cases {
        assert_eq!(config.encode(&entry), Err(error));
        assert!(!error.to_string().is_empty());
    }
    let slot = |ty, offset| config.encode(&Entry::swap(SwpEntry { ty, offset }));
    assert!(matches!(slot(23, 1), Err(EncodeError::SwapOutOfRange(_))));
    assert!(matches!(slot(0, 1 << 50), Err(EncodeError::SwapOutOfRange(_))));
    assert!(matches!(slot(0, (1 << 50) - 1), Err(EncodeError::LooksEmpty(_))));
    assert!(slot(22, 1).is_ok());
    let arm = EntryConfig::new(Arch::Arm64, true);
    let first = Entry::swap(SwpEntry { ty: 0, offset: 0 });
    assert!(matches!(arm.encode(&first), Err(EncodeError::LooksEmpty(_))));
}

#[test]
fn migration_entries_keep_young_and_dirty_only_where_there_is_room() {
    for config in configs() {
        let bare = config.make_migration_entry(7, MigrationKind::Write);
        let entry = config.make_migration_entry_dirty(config.make_migration_entry_young(bare));
        assert_eq!(config.is_migration_entry_young(entry), config.migration_ad);
        assert_eq!(config.is_migration_entry_dirty(entry), config.migration_ad);
        assert!(!config.is_migration_entry_young(bare) && !config.is_migration_entry_dirty(bare));
        assert_eq!(config.swp_offset_pfn(entry), 7);
        assert!(config.is_writable_migration_entry(entry) && config.is_pfn_swap_entry(entry));
    }
    let x86 = EntryConfig::new(Arch::X86_64, true);
    let young = x86.make_migration_entry_young(x86.make_migration_entry(0, MigrationKind::Read));
    assert_eq!(young.offset, 1 << 34);
}

#[test]
fn kernel_tests_agree_with_the_kind() {
    for config in configs() {
        for entry in entries(&config) {
            let Ok(pte) = config.encode(&entry) else { continue };
            if !config.pte_has_swap_entry(pte) {
                continue;
            }
            let (kind, swp) = (entry.kind, config.arch.pte_to_swp_entry(pte));
            assert_eq!(config.non_swap_entry(swp), kind != K::Swap);
            assert_eq!(config.is_migration_entry(swp), kind.is_migration());
            assert_eq!(config.is_writable_migration_entry(swp), kind == K::MigrationWrite);
            assert_eq!(config.is_readable_migration_entry(swp), kind == K::MigrationRead);
            assert_eq!(config.is_readable_exclusive_migration_entry(swp), kind == K::MigrationReadExclusive);
            assert_eq!(config.is_device_private_entry(swp), kind.is_device_private());
            assert_eq!(config.is_writable_device_private_entry(swp), kind == K::DevicePrivateWrite);
            assert_eq!(config.is_device_exclusive_entry(swp), kind.is_device_exclusive());
            assert_eq!(config.is_writable_device_exclusive_entry(swp), kind == K::DeviceExclusiveWrite);
            assert_eq!(config.swap_cached_writable(swp), entry.is_writable());
            assert_eq!(config.is_hwpoison_entry(swp), kind == K::HwPoison);
            assert_eq!(config.is_pte_marker_entry(swp), kind.is_marker());
            assert_eq!(config.is_pfn_swap_entry(swp), kind.is_pfn_swap());
            assert_eq!(config.pte_none_mostly(pte), kind.is_marker());
            if let Some(pfn) = entry.pfn {
                assert_eq!(config.swp_offset_pfn(swp), pfn);
            }
        }
    }
}

#[test]
fn markers_hold_one_bit_that_the_kernel_knows() {
    let new = EntryConfig::new(Arch::X86_64, false);
    let old = EntryConfig { guard_markers: false, ..new };
    let guard = new.make_pte_marker(PTE_MARKER_GUARD);
    assert_eq!((new.kind(guard), old.kind(guard)), (K::MarkerGuard, K::Bad));
    assert_eq!(old.pte_marker_get(new.make_pte_marker_entry(PTE_MARKER_GUARD)), 0);
    assert_eq!(new.kind(new.make_pte_marker(PTE_MARKER_UFFD_WP)), K::MarkerUffdWp);
    assert_eq!(new.kind(new.make_pte_marker(PTE_MARKER_POISONED)), K::MarkerPoisoned);
    assert_eq!(new.kind(new.make_pte_marker(0)), K::Bad);
    assert_eq!(new.kind(new.make_pte_marker(PTE_MARKER_UFFD_WP | PTE_MARKER_POISONED)), K::Bad);
}

#[test]
fn an_entry_reads_like_a_sentence() {
    let present = Entry { write: true, dirty: true, young: true, ..Entry::with_pfn(K::Present, 12) };
    assert_eq!(present.to_string(), "present f12 rw dirty young");
    let swap = Entry { exclusive: true, ..Entry::swap(SwpEntry { ty: 0, offset: 5 }) };
    assert_eq!(swap.to_string(), "swap 0:5 exclusive");
    let lent = Entry { soft_dirty: true, ..Entry::with_pfn(K::DeviceExclusive, 1) };
    assert_eq!(lent.to_string(), "device-exclusive f1 soft-dirty");
    assert_eq!(Entry::NONE.to_string(), "none");
    let hinting = Entry { protnone: true, ..Entry::with_pfn(K::Present, 3) };
    assert_eq!(hinting.to_string(), "present f3 ro protnone");
}

#[test]
fn kind_names_are_unique_and_round_trip() {
    for kind in EntryKind::ALL {
        assert_eq!(EntryKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(EntryKind::ALL.iter().map(|k| k.name()).collect::<BTreeSet<_>>().len(), EntryKind::COUNT);
    assert_eq!(K::Bad as usize + 1, EntryKind::COUNT);
}

#[test]
fn accessor_rows_stand_in_order_and_say_why() {
    for (i, row) in ACCESSORS.iter().enumerate() {
        assert_eq!(row.accessor as usize, i);
        assert!(!row.why.is_empty() && row.kinds().next().is_some(), "{}", row.name);
        assert!(!accessor_legal(K::Bad, row.accessor) && !accessor_legal(K::None, row.accessor));
    }
    let names: BTreeSet<_> = Accessor::ALL.iter().map(|a| a.name()).collect();
    assert_eq!(names.len(), Accessor::COUNT);
}

#[test]
fn no_accessor_suits_both_present_and_swap_format_entries() {
    for accessor in Accessor::ALL {
        let present = accessor_legal(K::Present, accessor);
        let swap_format = EntryKind::ALL.into_iter().any(|k| k.is_swap_format() && accessor_legal(k, accessor));
        assert!(present != swap_format, "{}", accessor.name());
    }
    assert!(!accessor_legal(K::DeviceExclusive, Accessor::PteDirty));
    assert!(accessor_legal(K::DeviceExclusive, Accessor::SwpOffsetPfn));
    assert!(!accessor_legal(K::SwapSpecial, Accessor::PteToSwpEntry));
    assert!(!accessor_legal(K::Swap, Accessor::SwpOffsetPfn));
}

#[test]
fn each_transition_has_one_row_that_names_a_function() {
    let mut pairs = BTreeSet::new();
    for t in TRANSITIONS {
        assert!(pairs.insert((t.from, t.to)), "{} -> {} twice", t.from, t.to);
        assert!(t.why.contains('_'), "{} -> {}: {}", t.from, t.to, t.why);
        assert_eq!(transition_reason(t.from, t.to), Some(t.why));
    }
    for from in EntryKind::ALL {
        for to in EntryKind::ALL {
            assert_eq!(transition_legal(from, to), pairs.contains(&(from, to)));
        }
    }
}

#[test]
fn every_slot_can_be_emptied_and_every_kind_can_arise() {
    for kind in EntryKind::ALL {
        let real = kind != K::Bad && kind != K::None;
        assert_eq!((transition_legal(kind, K::None), transition_legal(K::None, kind)), (real, real), "{kind}");
        assert!(!transition_legal(kind, K::Bad) && !transition_legal(K::Bad, kind));
    }
}

#[test]
fn forbidden_transitions_are_forbidden() {
    let never = [
        (K::MigrationWrite, K::Swap, "migration ends before reclaim"),
        (K::MigrationRead, K::MigrationWrite, "write permission does not grow in flight"),
        (K::DeviceExclusive, K::MigrationWrite, "6.15 decides writability on return"),
        (K::DeviceExclusiveWrite, K::MigrationWrite, "6.12 cannot migrate it"),
        (K::DevicePrivateWrite, K::Present, "migrate_to_ram goes through migration"),
        (K::DevicePrivateWrite, K::Swap, "device memory is not reclaimed"),
        (K::HwPoison, K::Present, "poisoned memory is not mapped again"),
        (K::MarkerGuard, K::Present, "a guard page is not populated"),
        (K::Present, K::MarkerGuard, "guard markers go into holes only"),
        (K::Present, K::MarkerPoisoned, "UFFDIO_POISON refuses populated entries"),
        (K::MarkerUffdWp, K::Swap, "no anonymous page behind a marker"),
        (K::Swap, K::DeviceExclusive, "the page must be mapped first"),
    ];
    for (from, to, why) in never {
        assert!(!transition_legal(from, to), "{from} -> {to}: {why}");
    }
}
