//! Generated cases on the repaired model: none may break a rule. Each case has a release, an architecture and a number of CPUs
//! of its own, and every other one sound designs of its own.
//!
//! ```text
//! cargo run --release -p ptefuzz-core --example soak -- uffd 10000000 1
//! ```
//!
//! The family that the cases are mostly about (`ptefuzz list ops` has their names; `any` for none), how many, and the seed: one
//! command, one result. Of each rule that was broken the smallest case is printed, and the exit status is 1.

use ptefuzz_core::config::{Config, Design, DesignGroup};
use ptefuzz_core::entry::EntryConfig;
use ptefuzz_core::program::family::Family;
use ptefuzz_core::program::generate::{GenConfig, any_machine, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::{Case, text};
use ptefuzz_core::run::Machine;
use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [family, cases, seed] = arguments.as_slice() else { return usage() };
    let bias = Family::ALL.into_iter().find(|f| f.name() == family);
    let (Ok(cases), Ok(seed)) = (cases.parse::<u64>(), seed.parse::<u64>()) else { return usage() };
    if bias.is_none() && family != "any" {
        return usage();
    }
    let finds = soak(bias, cases, seed);
    for (rule, case) in &finds {
        println!("# {rule}\n{}", text::print(&text::Document::from(case.clone())));
    }
    println!("{family}: {cases} cases, seed {seed}, {} rules broken", finds.len());
    if finds.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("usage: soak FAMILY|any CASES SEED");
    ExitCode::from(2)
}

/// The smallest case for each rule that was broken.
fn soak(bias: Option<Family>, cases: u64, seed: u64) -> BTreeMap<&'static str, Case> {
    let (mut machine, mut rng, mut case) = (Machine::new(), Rng::new(seed), Case::empty());
    let mut finds: BTreeMap<&'static str, Case> = BTreeMap::new();
    for _ in 0..cases {
        let config = config(&mut rng);
        generate(&mut rng, &mut case, &GenConfig { config, max_ops: 16, sequential: false, bias });
        let Some(violation) = machine.run(&case).violation() else { continue };
        let size = |c: &Case| c.ops.len() + c.interrupts.len();
        let smallest = finds.entry(violation.rule.id()).or_insert_with(|| case.clone());
        if size(&case) < size(smallest) {
            smallest.clone_from(&case);
        }
    }
    finds
}

/// Any machine, half of them with designs of their own.
fn config(rng: &mut Rng) -> Config {
    let mut config = any_machine(rng);
    if rng.percent(50) {
        return config;
    }
    for group in DesignGroup::ALL {
        let sound: Vec<Design> = Design::ALL.into_iter().filter(|d| d.group() == group && d.sound()).collect();
        let Some(design) = rng.pick(&sound) else { continue };
        let chosen = Config { designs: config.designs.choose(design), ..config };
        if EntryConfig::of(&chosen).check().is_ok() {
            config = chosen;
        }
    }
    config
}
