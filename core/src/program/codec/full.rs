//! The full layout: any case, with everything that its header resolved to.
//!
//! ```text
//!  0..8   magic; its first byte can begin no text
//!  8      version, now 4
//!  9..13  kernel, arch, geometry (indices into their tables), number of CPUs
//! 13..16  zero
//! 16..48  defects, bit n for row n of the table
//! 48..56  designs, likewise
//! 56..60  number of ops
//! 60..62  number of interruptions
//! 62..64  number of maps
//! 64..    maps (process, window, protection, backing, 4 bytes of pages), then ops, then interruptions
//! ```
//!
//! Numbers are little-endian.

use super::CodecError;
use super::normalize::MAX_MAPS;
use super::record;
use crate::arch::Arch;
use crate::config::{DefectSet, Design, Geometry, Kernel};
use crate::observe::Backing;
use crate::program::case::{Case, MAX_INTERRUPTS, MAX_OPS, Map};
use crate::program::op::Perm;

/// First bytes of the full layout.
pub const MAGIC: [u8; 8] = *b"\x8fPTECASE";
/// The version that is written.
pub const VERSION: u8 = 4;
const HEADER: usize = 64;

/// Little-endian number of up to 8 bytes; what is not there is zero.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut word = [0; 8];
    let there = bytes.get(at..).unwrap_or_default();
    let n = width.min(there.len());
    word[..n].copy_from_slice(&there[..n]);
    u64::from_le_bytes(word)
}

fn entry<T: Copy>(table: &[T], index: u64) -> T {
    table[index as usize % table.len()]
}

fn position<T: PartialEq>(table: &[T], item: &T) -> u8 {
    table.iter().position(|t| t == item).unwrap_or(0) as u8
}

/// Numbers of ops, interruptions and maps that the header promises.
fn counts(bytes: &[u8]) -> (usize, usize, usize) {
    (number(bytes, 56, 4) as usize, number(bytes, 60, 2) as usize, number(bytes, 62, 2) as usize)
}

/// Reads as much as there is. The caller normalises.
pub(super) fn read(case: &mut Case, bytes: &[u8]) {
    let config = &mut case.config;
    config.kernel = entry(&Kernel::ALL, number(bytes, 9, 1));
    config.arch = entry(&Arch::ALL, number(bytes, 10, 1));
    config.geometry = entry(&Geometry::ALL, number(bytes, 11, 1));
    config.cpus = number(bytes, 12, 1) as u8;
    config.defects = DefectSet::from_bits(std::array::from_fn(|i| number(bytes, 16 + 8 * i, 8)));
    let designs = number(bytes, 48, 8);
    config.designs = Design::ALL.into_iter().filter(|d| designs & (1 << *d as u8) != 0).collect();

    let (ops, interrupts, maps) = counts(bytes);
    let mut records = bytes.get(HEADER..).unwrap_or_default().chunks_exact(record::SIZE);
    for r in records.by_ref().take(maps.min(MAX_MAPS)) {
        let (perm, backing) = (Perm::from_arg(r[2]), Backing::from_index(r[3]));
        case.maps.push(Map { proc: r[0], region: r[1], perm, backing, pages: number(r, 4, 4) as u32 });
    }
    for r in records.by_ref().take(ops.min(MAX_OPS)) {
        case.ops.push(record::to_op(number(r, 0, 8)));
    }
    for r in records.take(interrupts.min(MAX_INTERRUPTS)) {
        case.interrupts.push(record::to_interrupt(number(r, 0, 8)));
    }
}

/// What is wrong with the frame of the bytes: version, counts and length.
pub(super) fn check_frame(bytes: &[u8]) -> Result<(), CodecError> {
    let version = bytes.get(MAGIC.len()).copied();
    if let Some(found) = version.filter(|v| *v != VERSION) {
        return Err(CodecError::Version { found });
    }
    if bytes.len() < HEADER {
        return Err(CodecError::Truncated { offset: bytes.len(), expected: HEADER });
    }
    let (ops, interrupts, maps) = counts(bytes);
    for (offset, what, found, limit) in
        [(56, "ops", ops, MAX_OPS), (60, "interruptions", interrupts, MAX_INTERRUPTS), (62, "maps", maps, MAX_MAPS)]
    {
        if found > limit {
            return Err(CodecError::TooMany { offset, what, found, limit });
        }
    }
    let expected = HEADER + record::SIZE * (ops + interrupts + maps);
    match bytes.len() {
        n if n < expected => Err(CodecError::Truncated { offset: n, expected }),
        n if n > expected => Err(CodecError::Trailing { offset: expected, bytes: n - expected }),
        _ => Ok(()),
    }
}

/// Writes a normalised case.
pub(super) fn write(case: &Case, out: &mut Vec<u8>) {
    let config = &case.config;
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(position(&Kernel::ALL, &config.kernel));
    out.push(position(&Arch::ALL, &config.arch));
    out.push(position(&Geometry::ALL, &config.geometry));
    out.push(config.cpus);
    out.extend_from_slice(&[0; 3]);
    for word in config.defects.bits() {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let designs = config.designs.iter().fold(0u64, |s, d| s | 1 << d as u8);
    out.extend_from_slice(&designs.to_le_bytes());
    out.extend_from_slice(&(case.ops.len() as u32).to_le_bytes());
    out.extend_from_slice(&(case.interrupts.len() as u16).to_le_bytes());
    out.extend_from_slice(&(case.maps.len() as u16).to_le_bytes());
    for m in &case.maps {
        out.extend_from_slice(&[m.proc, m.region, m.perm as u8, m.backing as u8]);
        out.extend_from_slice(&m.pages.to_le_bytes());
    }
    for op in &case.ops {
        out.extend_from_slice(&record::from_op(op).to_le_bytes());
    }
    for i in &case.interrupts {
        out.extend_from_slice(&record::from_interrupt(i).to_le_bytes());
    }
}
