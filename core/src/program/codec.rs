//! The binary codec: every byte string is a case.
//!
//! Decoding repairs and never rejects, so that whatever a fuzzer does to the bytes gives another case that
//! means something. There are two layouts, told apart by the first bytes.
//!
//! *Raw* is what fuzzers mutate: an 8-byte header, then 8-byte records, ops and interruptions
//! mixed in any order and told apart by their first byte; what is missing of the last one is zero. The header:
//!
//! ```text
//! byte 0     kernel, counted back from the newest
//! byte 1     arch: 3 modulo 4 is arm64, all else x86-64; above, the first six bits of the backings of the maps
//! byte 2     CPUs: mostly 1 or 2, at most 4; above, three bits more: a backing has four
//! byte 3     maps: their number modulo 4, and the last three bits of their backings; without any, process A has 4 to 8
//!            writable pages in window 0
//! byte 4..8  three maps of 10 bits: process, window, protection, pages
//! ```
//!
//! The geometry of a raw case is `tiny`, and its kernel is the fixed one: the designs of its release and no
//! defects at all. A fuzzer that runs the fixed model must never find a mistake that its own bytes switched on,
//! and one that hunts on a given release sets the whole configuration itself.
//!
//! *Full* begins with [`MAGIC`]; it stores any case exactly, with the designs and defects that its header resolved to.

mod full;
mod normalize;
mod record;
#[cfg(test)]
mod tests;

pub use full::{MAGIC, VERSION};
pub use normalize::{MAX_MAPS, is_normal, normalize};
pub(super) use normalize::{repair_interrupt, repair_op};

use crate::arch::Arch;
use crate::config::{Config, DefectSet, Geometry, Kernel};
use crate::observe::Backing;
use crate::program::case::{Case, MAX_FUZZ_INTERRUPTS, MAX_FUZZ_OPS, Map};
use crate::program::op::Perm;
use crate::program::text;
use std::fmt;

/// Bytes in the header of the raw layout.
const RAW_HEADER: usize = 8;
/// Maps in it.
const RAW_MAPS: usize = 3;
/// Numbers of CPUs by the lowest bits of their byte. Races need two; more only sometimes helps.
const CPUS: [u8; 8] = [2, 1, 2, 2, 1, 2, 3, 4];

/// What is wrong with bytes that begin as the full layout does. Offsets are in bytes from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// The bytes end too early.
    Truncated {
        /// Where they end.
        offset: usize,
        /// Where they should.
        expected: usize,
    },
    /// A version that is not known.
    Version {
        /// Which.
        found: u8,
    },
    /// A count beyond its limit.
    TooMany {
        /// Where the count stands.
        offset: usize,
        /// Of what.
        what: &'static str,
        /// The count.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// There are bytes after the end.
    Trailing {
        /// Where the case ends.
        offset: usize,
        /// How many bytes follow.
        bytes: usize,
    },
    /// A value out of range, or one that would be written differently.
    Value {
        /// The first such byte.
        offset: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Truncated { offset, expected } => {
                write!(f, "byte {offset}: the case ends here, {expected} bytes were expected")
            }
            CodecError::Version { found } => {
                write!(f, "byte {}: version {found} is not known, only {VERSION} is", MAGIC.len())
            }
            CodecError::TooMany { offset, what, found, limit } => {
                write!(f, "byte {offset}: {found} {what}, at most {limit} are allowed")
            }
            CodecError::Trailing { offset, bytes } => {
                write!(f, "byte {offset}: {bytes} more bytes after the end of the case")
            }
            CodecError::Value { offset } => write!(f, "byte {offset}: a value out of range"),
        }
    }
}

impl std::error::Error for CodecError {}

/// True when the bytes begin as the full layout does.
pub fn is_full(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The case that these bytes are, in either layout. Always normalised.
pub fn decode(bytes: &[u8]) -> Case {
    let mut case = Case::empty();
    decode_into(&mut case, bytes);
    case
}

/// [`decode`], reusing the vectors of `case`: no allocation once they have grown.
pub fn decode_into(case: &mut Case, bytes: &[u8]) {
    case.maps.clear();
    case.ops.clear();
    case.interrupts.clear();
    if is_full(bytes) {
        full::read(case, bytes);
        normalize(case);
    } else {
        read_raw(case, bytes);
    }
}

/// [`decode`] for people: bytes in the full layout must be exactly what [`encode`] writes. Bytes in the raw
/// layout are never wrong.
///
/// # Errors
///
/// Says what is wrong with bytes in the full layout, and where.
pub fn decode_strict(bytes: &[u8]) -> Result<Case, CodecError> {
    if is_full(bytes) {
        full::check_frame(bytes)?;
    }
    let case = decode(bytes);
    if is_full(bytes) {
        let written = encode(&case);
        let same = written.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if same != bytes.len() || written.len() != bytes.len() {
            return Err(CodecError::Value { offset: same });
        }
    }
    Ok(case)
}

/// The full layout of a case. For a normalised case, [`decode`] gives it back.
pub fn encode(case: &Case) -> Vec<u8> {
    let mut out = Vec::new();
    full::write(case, &mut out);
    out
}

/// The raw layout of a case: what it can hold of it. Lost are defects, designs, geometry, all but the first
/// three maps, and what is beyond [`MAX_FUZZ_OPS`] and [`MAX_FUZZ_INTERRUPTS`]. A case that was decoded from
/// the raw layout loses nothing.
pub fn encode_raw(case: &Case) -> Vec<u8> {
    let mut out = Vec::new();
    encode_raw_into(case, &mut out);
    out
}

/// [`encode_raw`] into a buffer that is cleared first.
pub fn encode_raw_into(case: &Case, out: &mut Vec<u8>) {
    let config = &case.config;
    let kernel = Kernel::ALL.iter().rev().position(|k| *k == config.kernel).unwrap_or(0);
    let cpus = CPUS.iter().position(|n| *n == config.cpus).unwrap_or(0);
    let (mut maps, mut kinds) = (0u32, 0u16);
    for (i, m) in case.maps.iter().take(RAW_MAPS).enumerate() {
        let pages = m.pages.clamp(1, Geometry::Tiny.region_pages()) - 1;
        kinds |= (m.backing as u16) << (4 * i);
        let word = u32::from(m.proc & 3) | u32::from(m.region & 3) << 2 | (m.perm as u32) << 4 | pages << 6;
        maps |= word << (10 * i);
    }
    out.clear();
    out.push(kernel as u8);
    out.push(if config.arch == Arch::Arm64 { 3 } else { 0 } | (kinds << 2) as u8);
    out.push(cpus as u8 | ((kinds >> 6 & 7) << 3) as u8);
    out.push(case.maps.len().min(RAW_MAPS) as u8 | (kinds >> 9 << 2) as u8);
    out.extend_from_slice(&maps.to_le_bytes());
    for op in case.ops.iter().take(MAX_FUZZ_OPS) {
        out.extend_from_slice(&record::from_op(op).to_le_bytes());
    }
    for i in case.interrupts.iter().take(MAX_FUZZ_INTERRUPTS) {
        out.extend_from_slice(&record::from_interrupt(i).to_le_bytes());
    }
}

/// The case that a file is: text when it reads as text, else [`decode`]. For fuzz targets, which must make a
/// case of anything; a text keeps its designs, defects and geometry.
pub fn from_any(bytes: &[u8]) -> Case {
    // Most binary inputs hold a control character, and need no second look.
    let control = |b: &u8| *b < b' ' && !matches!(b, b'\n' | b'\r' | b'\t');
    if bytes.is_empty() || bytes.iter().any(control) {
        return decode(bytes);
    }
    match std::str::from_utf8(bytes).map(text::parse) {
        Ok(Ok(document)) => document.case,
        _ => decode(bytes),
    }
}

/// Eight bytes as a word; what is missing is zero.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(whole) => u64::from_le_bytes(*whole),
        None => bytes.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)),
    }
}

fn read_raw(case: &mut Case, bytes: &[u8]) {
    let (header, records) = bytes.split_at(bytes.len().min(RAW_HEADER));
    let [kernel, arch, cpus, count, map_bits @ ..] = word(header).to_le_bytes();
    case.config = raw_config(kernel, arch, cpus);
    let config = case.config;
    let kinds = u16::from(arch >> 2) | u16::from(cpus >> 3 & 7) << 6 | u16::from(count >> 2) << 9;
    read_raw_maps(&mut case.maps, count, u32::from_le_bytes(map_bits), kinds, &config);
    for r in records.chunks(record::SIZE) {
        let word = word(r);
        if record::is_interrupt(word) {
            let mut interrupt = record::to_interrupt(word);
            if case.interrupts.len() < MAX_FUZZ_INTERRUPTS && repair_interrupt(&mut interrupt, &config) {
                case.interrupts.push(interrupt);
            }
        } else if case.ops.len() < MAX_FUZZ_OPS {
            let mut op = record::to_op(word);
            repair_op(&mut op, &config);
            case.ops.push(op);
        }
    }
}

fn raw_config(kernel: u8, arch: u8, cpus: u8) -> Config {
    let kernels = Kernel::ALL.len();
    let kernel = Kernel::ALL[kernels - 1 - usize::from(kernel) % kernels];
    Config {
        kernel,
        arch: if arch % 4 == 3 { Arch::Arm64 } else { Arch::X86_64 },
        geometry: Geometry::Tiny,
        cpus: CPUS[usize::from(cpus) % CPUS.len()],
        designs: kernel.designs(),
        defects: DefectSet::EMPTY,
    }
}

fn read_raw_maps(maps: &mut Vec<Map>, count: u8, bits: u32, kinds: u16, config: &Config) {
    let n = usize::from(count) % (RAW_MAPS + 1);
    if n == 0 {
        let (perm, backing) = (Perm::ReadWrite, Backing::Anon);
        maps.push(Map { proc: 0, region: 0, pages: 4 + u32::from(count >> 2) % 5, perm, backing });
        return;
    }
    for i in 0..n {
        let w = bits >> (10 * i);
        maps.push(Map {
            proc: (w & 3) as u8,
            region: (w >> 2 & 3) as u8,
            // Of four values, two are the protection that most ops need.
            perm: Perm::from_arg((w >> 4 & 3).min(2) as u8),
            pages: 1 + (w >> 6 & 15),
            backing: Backing::from_index((kinds >> (4 * i) & 15) as u8),
        });
    }
    normalize::repair_maps(maps, config);
}

impl<'a> arbitrary::Arbitrary<'a> for Case {
    /// Takes all bytes that are left.
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Case> {
        let n = u.len();
        Ok(decode(u.bytes(n)?))
    }

    fn arbitrary_take_rest(u: arbitrary::Unstructured<'a>) -> arbitrary::Result<Case> {
        Ok(decode(u.take_rest()))
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (0, None)
    }
}

/// A case from any bytes ([`from_any`]) whose `Debug` form is its text: with it as the input of a fuzz target,
/// a fuzzer prints what a person can read.
#[derive(Clone, PartialEq, Eq)]
pub struct Readable(
    /// The case.
    pub Case,
);

impl fmt::Debug for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::print(&text::Document::from(self.0.clone())))
    }
}

impl<'a> arbitrary::Arbitrary<'a> for Readable {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Readable> {
        let n = u.len();
        Ok(Readable(from_any(u.bytes(n)?)))
    }

    fn arbitrary_take_rest(u: arbitrary::Unstructured<'a>) -> arbitrary::Result<Readable> {
        Ok(Readable(from_any(u.take_rest())))
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (0, None)
    }
}
