//! Runs a fixed pool of cases some times over, for a counter of instructions to watch.
//!
//! `pool write FILE` writes 512 generated cases of 16 ops, as text, one after the other; `pool run ROUNDS FILE` runs them.
//! A pool that was written before a change can be read after it, so that the same work is compared. How to use it:
//! `docs/ADDING-AN-OP.md`, "What it must not cost".

use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::text::{Document, parse, print};
use ptefuzz_core::program::{Case, codec};
use ptefuzz_core::run::{COVERAGE_LEN, Machine};
use std::error::Error;
use std::sync::atomic::AtomicU8;

/// Cases in a pool.
const CASES: usize = 512;
/// Ops in each.
const OPS: usize = 16;
/// Between two cases of a file.
const RULE: &str = "# ----\n";

static COVERAGE: [AtomicU8; COVERAGE_LEN] = [const { AtomicU8::new(0) }; COVERAGE_LEN];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", file] => std::fs::write(file, pool())?,
        ["run", rounds, file] => run(rounds.parse()?, &std::fs::read_to_string(file)?)?,
        _ => return Err("pool write FILE, or pool run ROUNDS FILE".into()),
    }
    Ok(())
}

fn pool() -> String {
    let (mut rng, mut case) = (Rng::new(7), Case::empty());
    let mut cases = Vec::new();
    while cases.len() < CASES {
        generate(&mut rng, &mut case, &GenConfig { max_ops: OPS, ..GenConfig::default() });
        if case.ops.len() == OPS {
            cases.push(print(&Document::from(case.clone())));
        }
    }
    cases.join(RULE)
}

fn run(rounds: usize, text: &str) -> Result<(), Box<dyn Error>> {
    let cases = text.split(RULE).map(|t| Ok(parse(t)?.case)).collect::<Result<Vec<Case>, Box<dyn Error>>>()?;
    let inputs: Vec<_> = cases.iter().map(|c| (c.config, codec::encode_raw(c))).collect();
    let (mut machine, mut case) = (Machine::new(), Case::empty());
    machine.set_coverage(Some(&COVERAGE));
    let mut steps = 0;
    for (config, bytes) in (0..rounds).flat_map(|_| &inputs) {
        codec::decode_into(&mut case, bytes);
        case.config = *config;
        let _verdict = machine.run(&case);
        steps += machine.steps();
    }
    println!("{} cases, {steps} steps", rounds * inputs.len());
    Ok(())
}
