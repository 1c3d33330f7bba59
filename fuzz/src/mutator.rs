//! Mutation: structure first, bytes now and then.
//!
//! libFuzzer finds a custom mutator by its symbol, one for a process. It is the same for every target and looks at
//! which kind of input the target takes.

use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzzer_mutate};
use ptefuzz_core::program::family::Family;
use ptefuzz_core::program::mutate::{CaseMutator, MutateConfig};

use crate::targets::{Input, Target};

/// True when inputs are cases. Until a target has said so, bytes are only bytes.
static CASES: AtomicBool = AtomicBool::new(false);

/// Family that the target is about: its place in the table plus one, or 0.
static BIAS: AtomicUsize = AtomicUsize::new(0);

/// Cases that were generated.
static MADE: AtomicU64 = AtomicU64::new(0);

/// True when the structured mutator has panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// One mutation in so many leaves the structure alone and goes for the bytes.
const HAVOC_ONE_IN: u32 = 8;

/// So many of 100 structured mutations make a case of their own instead: see [`CaseMutator::generate_bytes`]. Mutation
/// alone stays for ever near the first states that it reached.
const FRESH_PERCENT: u32 = 50;

/// Size of what case inputs consist of: a header and records, all multiples of this.
const GRID: usize = 8;

/// Tells the mutator what the target's inputs are.
pub(crate) fn choose(target: &Target) {
    CASES.store(matches!(target.input, Input::Case(_)), Ordering::Relaxed);
    BIAS.store(target.family.map_or(0, |f| f as usize + 1), Ordering::Relaxed);
}

/// A mutator towards what the target is about.
fn mutator() -> CaseMutator {
    let bias = BIAS.load(Ordering::Relaxed).checked_sub(1).map(|f| Family::ALL[f]);
    CaseMutator::new(MutateConfig { bias, ..MutateConfig::default() })
}

/// A generated case as an input, and its length.
pub(crate) fn generate_bytes(data: &mut [u8], seed: u64) -> usize {
    let room = data.len();
    mutator().generate_bytes(data, room, seed)
}

/// One structured mutation, or a case that is generated.
fn mutate_bytes(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    // Drawn from what the mutators do not see of the seed.
    if seed % 100 < FRESH_PERCENT {
        // libFuzzer's seeds are too few for a long campaign: cases would come again.
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        mutator().generate_bytes(data, max_size, nth << 32 | u64::from(seed))
    } else {
        mutator().mutate_bytes(data, size, max_size, seed / 100)
    }
}

/// Says, once, that the structured mutator has panicked. Under the embedded driver that is caught here, because
/// nothing may unwind through libFuzzer; elsewhere the panic hook has ended the process before.
pub(crate) fn take_panic() -> bool {
    PANICKED.load(Ordering::Relaxed) && PANICKED.swap(false, Ordering::Relaxed)
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if CASES.load(Ordering::Relaxed) && !seed.is_multiple_of(HAVOC_ONE_IN) {
        let mutated = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            mutate_bytes(&mut *data, size, max_size, seed / HAVOC_ONE_IN).min(data.len())
        }));
        mutated.unwrap_or_else(|_| {
            PANICKED.store(true, Ordering::Relaxed);
            size
        })
    } else {
        fuzzer_mutate(data, size, max_size)
    }
});

fuzz_crossover!(|data1: &[u8], data2: &[u8], out: &mut [u8], seed: u32| {
    let grid = if CASES.load(Ordering::Relaxed) { GRID } else { 1 };
    splice(data1, data2, out, grid, seed)
});

/// Writes the beginning of `a` and the end of `b` to `out`, both cut at multiples of `grid`, and says how many
/// bytes that is.
pub(crate) fn splice(a: &[u8], b: &[u8], out: &mut [u8], grid: usize, seed: u32) -> usize {
    let cut = |len: usize, random: u32| (random as usize % (len / grid + 1)) * grid;
    let head = cut(a.len(), seed & 0xffff).min(out.len());
    let tail = &b[cut(b.len(), seed >> 16)..];
    let tail = &tail[..tail.len().min(out.len() - head)];
    out[..head].copy_from_slice(&a[..head]);
    out[head..head + tail.len()].copy_from_slice(tail);
    head + tail.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structured_mutator_copes_with_any_size_and_any_room() {
        for max_size in (1..20).chain([64, 511, 512]) {
            for size in [0, 1, 7, 8, 9, 16, 100, 512] {
                let mut data = vec![0x5a; size.max(max_size)];
                for seed in 0..50 {
                    let new = mutate_bytes(&mut data, size, max_size, seed);
                    assert!(new <= max_size, "size {size}, room {max_size}, seed {seed}: {new}");
                }
            }
        }
    }

    #[test]
    fn a_splice_is_a_beginning_and_an_end_cut_on_the_grid() {
        let (a, b) = ([1u8; 37], [2u8; 29]);
        for seed in (0..5000u32).map(|i| i.wrapping_mul(0x9e37_79b9)) {
            let mut out = [0u8; 48];
            let len = splice(&a, &b, &mut out, GRID, seed);
            let head = out[..len].iter().take_while(|&&x| x == 1).count();
            assert!(out[head..len].iter().all(|&x| x == 2), "nothing but the two parents");
            assert!(head.is_multiple_of(GRID));
        }
    }

    #[test]
    fn a_splice_of_anything_fits_into_the_room_there_is() {
        let parent = [7u8; 64];
        for (a, b, room) in [(0, 0, 0), (64, 64, 0), (64, 64, 13), (0, 64, 64), (64, 0, 1)] {
            for seed in [0, 1, 0xffff_ffff, 0x0004_0003] {
                let mut out = vec![0u8; room];
                assert!(splice(&parent[..a], &parent[..b], &mut out, GRID, seed) <= room);
            }
        }
    }
}
