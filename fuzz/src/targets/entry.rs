//! Entry encodings: whatever eight bytes an entry may hold, the helpers agree with each other about it.
//!
//! The first byte of an input picks the configuration, every following eight bytes are an entry.

use ptefuzz_core::arch::{Arch, Prot, Pte};
use ptefuzz_core::entry::{EntryConfig, EntryKind};

use crate::coverage;
use crate::session::Failure;

/// Id of the broken law and what was seen.
type Broken = (&'static str, String);

/// Checks every entry in the input under the configuration that it picks.
pub(super) fn check(bytes: &[u8]) -> Result<(), Failure> {
    let Some((&choice, rest)) = bytes.split_first() else { return Ok(()) };
    let config = configuration(choice);
    for chunk in rest.chunks(8) {
        let mut raw = [0; 8];
        raw[..chunk.len()].copy_from_slice(chunk);
        let pte = Pte(u64::from_le_bytes(raw));
        laws(&config, pte).map_err(|(id, what)| Failure::Property {
            id,
            message: format!("entry {:#018x} under {config:?}: {what}", pte.0),
            input: bytes.to_vec(),
        })?;
    }
    Ok(())
}

/// Every byte is a configuration that can be.
fn configuration(choice: u8) -> EntryConfig {
    let bit = |n: u8| choice >> n & 1 == 1;
    let arch = if bit(0) { Arch::Arm64 } else { Arch::X86_64 };
    EntryConfig {
        pte_markers: !bit(2),
        poison_markers: !bit(2) && !bit(6),
        guard_markers: !bit(2) && !bit(3),
        swap_special: bit(4) && arch.uffd_wp_swp_pte_special().is_some(),
        migration_ad: !bit(5),
        anon_exclusive: !bit(7),
        swapin_error: bit(6) && bit(2),
        ..EntryConfig::new(arch, bit(1))
    }
}

fn laws(config: &EntryConfig, pte: Pte) -> Result<(), Broken> {
    let kind = config.kind(pte);
    coverage::note(kind as u64 * 2 + u64::from(config.arch == Arch::Arm64));
    one_kind(config, pte, kind)?;
    round_trip(config, pte, kind)?;
    match kind {
        EntryKind::Present => present(config.arch, pte),
        kind if kind.is_swap_format() && kind != EntryKind::SwapSpecial => swap_format(config.arch, pte),
        _ => Ok(()),
    }
}

fn holds(law: &'static str, ok: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if ok { Ok(()) } else { Err((law, what())) }
}

/// An entry is empty, present or in swap format: exactly one of them, and its kind says which.
fn one_kind(config: &EntryConfig, pte: Pte, kind: EntryKind) -> Result<(), Broken> {
    let (none, present) = (config.arch.pte_none(pte), config.arch.pte_present(pte));
    let answers = [none, present, config.is_swap_pte(pte)];
    holds("entry.one-of-three", answers.iter().filter(|&&yes| yes).count() == 1, || {
        format!("none, present, swap: {answers:?}")
    })?;
    let expected = match kind {
        EntryKind::None => none,
        EntryKind::Present => present,
        EntryKind::Bad => true,
        _ => !none && !present,
    };
    holds("entry.kind", expected, || format!("kind {kind}, but none, present, swap: {answers:?}"))
}

/// What an entry says can be written down again, and then says the same.
fn round_trip(config: &EntryConfig, pte: Pte, kind: EntryKind) -> Result<(), Broken> {
    let entry = config.decode(pte);
    holds("entry.decode-kind", entry.kind == kind, || format!("kind {kind}, decoded as {entry}"))?;
    if kind == EntryKind::Bad {
        return holds("entry.bad", config.encode(&entry).is_err(), || "a bad entry can be encoded".to_owned());
    }
    let again = config.encode(&entry).map_err(|e| ("entry.encode", format!("{entry} is refused: {e}")))?;
    holds("entry.round-trip", config.decode(again) == entry, || {
        format!("{entry} comes back from {:#018x} as {}", again.0, config.decode(again))
    })?;
    let exact = !kind.is_swap_format() || again == pte;
    holds("entry.swap-bits", exact, || format!("{entry} is encoded as {:#018x}", again.0))
}

/// What the helpers for present entries must leave alone, whatever they change.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
struct Present {
    pfn: u64,
    write: bool,
    dirty: bool,
    young: bool,
    soft_dirty: bool,
    uffd_wp: bool,
    special: bool,
}

impl Present {
    fn of(arch: Arch, pte: Pte) -> Present {
        Present {
            pfn: arch.pte_pfn(pte),
            write: arch.pte_write(pte),
            dirty: arch.pte_dirty(pte),
            young: arch.pte_young(pte),
            soft_dirty: arch.pte_soft_dirty(pte),
            uffd_wp: arch.pte_uffd_wp(pte),
            special: arch.pte_special(pte),
        }
    }
}

/// Each helper changes what its name says and nothing else.
fn present(arch: Arch, pte: Pte) -> Result<(), Broken> {
    let before = Present::of(arch, pte);
    let sd = arch.has_soft_dirty();
    let rows: [(&'static str, Pte, Present); 12] = [
        ("pte_mkwrite", arch.pte_mkwrite(pte), Present { write: true, ..before }),
        ("pte_wrprotect", arch.pte_wrprotect(pte), Present { write: false, ..before }),
        ("pte_mkclean", arch.pte_mkclean(pte), Present { dirty: false, ..before }),
        ("pte_mkdirty", arch.pte_mkdirty(pte), Present { dirty: true, soft_dirty: before.soft_dirty || sd, ..before }),
        ("pte_mkyoung", arch.pte_mkyoung(pte), Present { young: true, ..before }),
        ("pte_mkold", arch.pte_mkold(pte), Present { young: false, ..before }),
        ("pte_mkspecial", arch.pte_mkspecial(pte), Present { special: true, ..before }),
        ("pte_mksoft_dirty", arch.pte_mksoft_dirty(pte), Present { soft_dirty: sd, ..before }),
        ("pte_clear_soft_dirty", arch.pte_clear_soft_dirty(pte), Present { soft_dirty: false, ..before }),
        ("pte_mkuffd_wp", arch.pte_mkuffd_wp(pte), Present { uffd_wp: true, write: false, ..before }),
        ("pte_clear_uffd_wp", arch.pte_clear_uffd_wp(pte), Present { uffd_wp: false, ..before }),
        ("pte_modify", arch.pte_modify(pte, Prot::Read), Present { write: false, ..before }),
    ];
    for (helper, after, expected) in rows {
        holds("entry.helper", arch.pte_present(after), || format!("not present after {helper}"))?;
        let found = Present::of(arch, after);
        holds("entry.helper", found == expected, || format!("{helper}: {expected:?} expected, {found:?} found"))?;
    }
    modify(arch, pte, before)?;
    hardware(arch, pte, before)
}

/// A change of protection loses nothing, out of reach and back.
fn modify(arch: Arch, pte: Pte, before: Present) -> Result<(), Broken> {
    let away = arch.pte_modify(pte, Prot::None);
    let back = arch.pte_modify(away, Prot::Read);
    holds("entry.prot-none", arch.pte_protnone(away) && !arch.pte_protnone(back), || {
        format!("PROT_NONE gives {:#018x}, and readable again {:#018x}", away.0, back.0)
    })?;
    let (expected, found) = (Present { write: false, ..before }, Present::of(arch, back));
    holds("entry.prot-none", found == expected, || format!("{expected:?} expected, {found:?} found"))
}

/// Hardware sets accessed and dirty, changes nothing else, and is stopped by the same bits as the kernel says.
fn hardware(arch: Arch, pte: Pte, before: Present) -> Result<(), Broken> {
    for write in [false, true] {
        let Some(after) = arch.hw_access(pte, write) else { continue };
        let found = Present::of(arch, after);
        let allowed = !arch.pte_protnone(pte) && (!write || before.write);
        let expected = Present { young: true, dirty: before.dirty || write, ..before };
        holds("entry.hardware", allowed && found == expected, || {
            format!("write {write}: {expected:?} expected, {found:?} found")
        })?;
    }
    Ok(())
}

/// The flags of a swap-format entry ride on the swap entry: neither touches the other.
fn swap_format(arch: Arch, pte: Pte) -> Result<(), Broken> {
    let flags = |p: Pte| [arch.pte_swp_exclusive(p), arch.pte_swp_soft_dirty(p), arch.pte_swp_uffd_wp(p)];
    let [exclusive, soft_dirty, uffd_wp] = flags(pte);
    let sd = arch.has_soft_dirty();
    let rows: [(&'static str, Pte, [bool; 3]); 6] = [
        ("pte_swp_mkexclusive", arch.pte_swp_mkexclusive(pte), [true, soft_dirty, uffd_wp]),
        ("pte_swp_clear_exclusive", arch.pte_swp_clear_exclusive(pte), [false, soft_dirty, uffd_wp]),
        ("pte_swp_mksoft_dirty", arch.pte_swp_mksoft_dirty(pte), [exclusive, sd, uffd_wp]),
        ("pte_swp_clear_soft_dirty", arch.pte_swp_clear_soft_dirty(pte), [exclusive, false, uffd_wp]),
        ("pte_swp_mkuffd_wp", arch.pte_swp_mkuffd_wp(pte), [exclusive, soft_dirty, true]),
        ("pte_swp_clear_uffd_wp", arch.pte_swp_clear_uffd_wp(pte), [exclusive, soft_dirty, false]),
    ];
    let inside = arch.pte_to_swp_entry(pte);
    for (helper, after, expected) in rows {
        holds("entry.swap-flag", flags(after) == expected, || {
            format!("{helper}: exclusive, soft-dirty, uffd-wp {expected:?} expected, {:?} found", flags(after))
        })?;
        let still = !arch.pte_present(after) && arch.pte_to_swp_entry(after) == inside;
        holds("entry.swap-flag", still, || format!("{helper} changes the swap entry: {:#018x}", after.0))?;
    }
    let plain = arch.pte_swp_clear_flags(pte);
    holds("entry.swap-flag", plain == arch.swp_entry_to_pte(inside), || {
        format!("without flags it is {:#018x}, made anew {:#018x}", plain.0, arch.swp_entry_to_pte(inside).0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_picks_a_configuration_that_can_be() {
        for choice in 0..=u8::MAX {
            assert_eq!(configuration(choice).check(), Ok(()));
        }
    }

    #[test]
    fn entries_with_one_and_two_bits_set_obey_every_law() {
        for choice in 0..64u8 {
            let config = configuration(choice);
            for a in 0..64 {
                for b in 0..64 {
                    let pte = Pte(1 << a | 1 << b);
                    assert_eq!(laws(&config, pte), Ok(()), "{:#018x} under {config:?}", pte.0);
                }
            }
        }
    }

    #[test]
    fn a_broken_law_names_the_entry_the_configuration_and_the_law() {
        let failure = holds("entry.helper", false, || "not present after pte_mkold".to_owned());
        assert_eq!(failure, Err(("entry.helper", "not present after pte_mkold".to_owned())));
    }
}
