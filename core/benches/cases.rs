//! `cargo bench`: what one case costs, from the bytes of a fuzzer to the verdict, and what its parts cost.
//!
//! Every figure is for cases of exactly 16 ops on the fixed model of the newest release, with the oracle and every
//! invariant on. [`run`] with `mixed` is the shape of the bar: at least 100,000 cases, and a million ops, in a second.
//! Times drift with the machine; to compare two versions count instructions (`docs/ADDING-AN-OP.md`).

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ptefuzz_core::program::family::Family;
use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::{Case, codec};
use ptefuzz_core::run::{COVERAGE_LEN, Machine};
use std::sync::atomic::AtomicU8;

/// Cases in a pool: enough that neither caches nor branch predictors know them by heart.
const CASES: usize = 512;
/// Ops in each.
const OPS: usize = 16;

static COVERAGE: [AtomicU8; COVERAGE_LEN] = [const { AtomicU8::new(0) }; COVERAGE_LEN];

fn main() {
    divan::main();
}

/// What the generator is asked for.
fn config(kind: &str) -> GenConfig {
    let bias = match kind {
        "device" => Some(Family::Device),
        "file" => Some(Family::File),
        "thp" => Some(Family::Thp),
        "uffd" => Some(Family::Uffd),
        _ => None,
    };
    GenConfig { max_ops: OPS, sequential: kind == "sequential", bias, ..GenConfig::default() }
}

fn pool(kind: &str) -> Vec<Vec<u8>> {
    let (mut rng, mut case, config) = (Rng::new(7), Case::empty(), config(kind));
    let mut inputs = Vec::with_capacity(CASES);
    while inputs.len() < CASES {
        generate(&mut rng, &mut case, &config);
        if case.ops.len() == OPS {
            inputs.push(codec::encode_raw(&case));
        }
    }
    inputs
}

/// A pool once through: decoded and run.
#[divan::bench(args = ["mixed", "sequential", "device", "file", "thp", "uffd"])]
fn run(bencher: Bencher<'_, '_>, kind: &str) {
    let pool = pool(kind);
    let (mut machine, mut case) = (Machine::new(), Case::empty());
    machine.set_coverage(Some(&COVERAGE));
    bencher.counter(ItemsCount::new(CASES)).bench_local(|| {
        for bytes in &pool {
            codec::decode_into(&mut case, bytes);
            black_box(machine.run(&case));
        }
    });
}

/// The same without running: what decoding and repair take of it.
#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    let (pool, mut case) = (pool("mixed"), Case::empty());
    bencher.counter(ItemsCount::new(CASES)).bench_local(|| {
        for bytes in &pool {
            codec::decode_into(&mut case, black_box(bytes));
            black_box(&case);
        }
    });
}

/// A case that does nothing: what resetting the machine and taking it down takes of it.
#[divan::bench]
fn empty(bencher: Bencher<'_, '_>) {
    let (mut machine, case) = (Machine::new(), Case::empty());
    bencher.counter(ItemsCount::new(CASES)).bench_local(|| {
        for _ in 0..CASES {
            black_box(machine.run(black_box(&case)));
        }
    });
}

/// As many generated cases, of any number of ops up to 16.
#[divan::bench]
fn generated(bencher: Bencher<'_, '_>) {
    let (mut rng, mut case, config) = (Rng::new(7), Case::empty(), config("mixed"));
    bencher.counter(ItemsCount::new(CASES)).bench_local(|| {
        for _ in 0..CASES {
            generate(&mut rng, &mut case, &config);
            black_box(&case);
        }
    });
}
