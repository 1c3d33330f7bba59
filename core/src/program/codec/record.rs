//! The 8-byte record: one op or one interruption, as a little-endian word.
//!
//! ```text
//! bits    op                                   interruption
//!  0..8   op code, below 0xc0                  0xc0 + action (2 bits) + 4 for a store
//!  8..10  CPU                                  CPU that is interrupted
//! 10..12  process                              process of a device access
//! 12..14  window                               window
//! 14..16  3: page and len are wide             CPU or device that acts
//! 16..24  arg                                  site
//! 24..44  first page                           page
//! 44..64  number of pages, less 1              44..52 nth; 52..54 is 3: nth is wide; 54..56 is 3: page is wide
//! ```
//!
//! A field that is not *wide* counts only with its lowest bits: pages 0 to 7, 1 to 4 pages, the first to the
//! fourth time. So random bytes mostly meet each other on the same few pages, and nothing is out of reach.
//! Codes and sites wrap around their tables.

use crate::program::case::{Action, Interrupt};
use crate::program::op::{Op, OpCode};
use crate::sched::Site;

/// Size of a record in bytes.
pub(super) const SIZE: usize = 8;

const INTERRUPT: u8 = 0xc0;
const STORE: u8 = 4;
const WIDE: u64 = 3;
const PAGE_MASK: u64 = (1 << 20) - 1;
const NEAR_PAGES: u32 = 8;
const NEAR_LEN: u32 = 4;
const NEAR_NTH: u8 = 4;

const _: () = assert!(OpCode::ALL.len() <= INTERRUPT as usize && Site::ALL.len() <= 256);

/// True when the word is an interruption.
#[inline]
pub(super) fn is_interrupt(word: u64) -> bool {
    word as u8 >= INTERRUPT
}

#[inline]
fn bits(word: u64, at: u32, width: u32) -> u64 {
    (word >> at) & ((1 << width) - 1)
}

/// The word of an op.
pub(super) fn from_op(op: &Op) -> u64 {
    let more = op.len.saturating_sub(1);
    let wide = if op.page < NEAR_PAGES && more < NEAR_LEN { 0 } else { WIDE };
    u64::from(op.code as u8)
        | u64::from(op.cpu & 3) << 8
        | u64::from(op.proc & 3) << 10
        | u64::from(op.region & 3) << 12
        | wide << 14
        | u64::from(op.arg) << 16
        | (u64::from(op.page) & PAGE_MASK) << 24
        | (u64::from(more) & PAGE_MASK) << 44
}

/// The op of a word, not yet repaired.
#[inline]
pub(super) fn to_op(word: u64) -> Op {
    let (mut page, mut more) = (bits(word, 24, 20) as u32, bits(word, 44, 20) as u32);
    if bits(word, 14, 2) != WIDE {
        page %= NEAR_PAGES;
        more %= NEAR_LEN;
    }
    Op {
        code: OpCode::ALL[usize::from(word as u8) % OpCode::ALL.len()],
        cpu: bits(word, 8, 2) as u8,
        proc: bits(word, 10, 2) as u8,
        region: bits(word, 12, 2) as u8,
        page,
        len: more + 1,
        arg: bits(word, 16, 8) as u8,
    }
}

/// The word of an interruption.
pub(super) fn from_interrupt(interrupt: &Interrupt) -> u64 {
    let (kind, who, proc, region, page, write) = match interrupt.action {
        Action::Switch { cpu } => (0, cpu, 0, 0, 0, false),
        Action::TlbFill { cpu, region, page } => (1, cpu, 0, region, page, false),
        Action::TlbEvict { cpu, region, page } => (2, cpu, 0, region, page, false),
        Action::Device { device, proc, region, page, write } => (3, device, proc, region, page, write),
    };
    let near_nth = (1..=NEAR_NTH).contains(&interrupt.nth);
    let (nth, wide_nth) = if near_nth { (interrupt.nth - 1, 0) } else { (interrupt.nth, WIDE) };
    let wide_page = if page < NEAR_PAGES { 0 } else { WIDE };
    u64::from(INTERRUPT | kind | if write { STORE } else { 0 })
        | u64::from(interrupt.cpu & 3) << 8
        | u64::from(proc & 3) << 10
        | u64::from(region & 3) << 12
        | u64::from(who & 3) << 14
        | u64::from(interrupt.site as u8) << 16
        | (u64::from(page) & PAGE_MASK) << 24
        | u64::from(nth) << 44
        | wide_nth << 52
        | wide_page << 54
}

/// The interruption of a word, not yet repaired.
#[inline]
pub(super) fn to_interrupt(word: u64) -> Interrupt {
    let mut page = bits(word, 24, 20) as u32;
    if bits(word, 54, 2) != WIDE {
        page %= NEAR_PAGES;
    }
    let nth = bits(word, 44, 8) as u8;
    let nth = if bits(word, 52, 2) == WIDE { nth } else { 1 + nth % NEAR_NTH };
    let (proc, region, who) = (bits(word, 10, 2) as u8, bits(word, 12, 2) as u8, bits(word, 14, 2) as u8);
    let action = match word as u8 & 3 {
        0 => Action::Switch { cpu: who },
        1 => Action::TlbFill { cpu: who, region, page },
        2 => Action::TlbEvict { cpu: who, region, page },
        _ => Action::Device { device: who, proc, region, page, write: word as u8 & STORE != 0 },
    };
    Interrupt { cpu: bits(word, 8, 2) as u8, site: Site::from_index(bits(word, 16, 8) as u8), nth, action }
}
