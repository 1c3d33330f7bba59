//! The table of transitions and bits against what the model really does.

mod common;

use common::corpus;
use ptefuzz_core::arch::{Arch, SwpEntry};
use ptefuzz_core::change::changes;
use ptefuzz_core::config::{Config, Kernel};
use ptefuzz_core::entry::carry::{self, Bit, Carry, HARDWARE, HUGE_PATHS, PATHS, cells, contradiction, transitions};
use ptefuzz_core::entry::{Entry, EntryConfig, EntryKind};
use ptefuzz_core::program::Case;
use ptefuzz_core::program::family::Family;
use ptefuzz_core::program::generate::{GenConfig, generate};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::run::{Machine, Verdict};
use std::collections::BTreeMap;

#[test]
fn no_cell_of_any_transition_is_empty() {
    for (from, to) in transitions() {
        let row = cells(from, to).unwrap_or_else(|| panic!("no rule for {from} -> {to}"));
        for (bit, cell) in Bit::ALL.into_iter().zip(row) {
            assert!(!cell.by.is_empty(), "{from} -> {to}: {}", bit.name());
        }
    }
    assert!(PATHS.iter().chain(HUGE_PATHS).all(|p| p.cells.iter().all(|c| !c.by.is_empty())));
}

#[test]
fn the_page_of_transitions_is_in_step_with_the_tables() {
    let page = include_str!("../../docs/TRANSITIONS.md");
    let hint = "cargo run -p ptefuzz-core --example transitions > docs/TRANSITIONS.md";
    assert!(page == carry::markdown(), "run: {hint}");
}

/// Runs a case and notes every change that contradicts its cell.
fn walk(machine: &mut Machine, case: &Case, wrong: &mut BTreeMap<String, String>, seen: &mut u64) {
    let (verdict, trace) = machine.run_traced(case);
    if verdict != Verdict::Clean {
        return;
    }
    let ec = EntryConfig::of(&case.config);
    for change in changes(&trace) {
        *seen += 1;
        let op = match change.op.and_then(|op| case.ops.get(op as usize)) {
            _ if change.hardware => HARDWARE,
            Some(op) => op.code.name(),
            None => "exit",
        };
        let words = match contradiction(&ec, op, [&change.old, &change.new], change.huge, change.pages) {
            Ok(None) => continue,
            Ok(Some((bit, carry))) => format!("is not {} {}", bit.name(), carry.name()),
            Err(_) => "has no cells".to_owned(),
        };
        let (old, new) = change.forms();
        assert!(transitions().any(|pair| pair == (old, new)), "{old} -> {new}");
        let example = format!("{} -> {} on {} {:?}", change.old, change.new, case.config.kernel, case.config.arch);
        wrong.entry(format!("{op}: {old} -> {new} {words}")).or_insert(example);
    }
}

#[test]
fn a_bit_that_is_lost_or_invented_contradicts_its_cell() {
    let ec = EntryConfig::new(Arch::X86_64, false);
    let present = Entry { soft_dirty: true, ..Entry::with_pfn(EntryKind::Present, 3) };
    let swap = Entry::swap(SwpEntry { ty: 0, offset: 1 });
    let check = |new: Entry, page| contradiction(&ec, "reclaim", [&present, &new], [false; 2], [page, false]);
    assert_eq!(check(swap, false), Ok(Some((Bit::SoftDirty, Carry::Carried))));
    let kept = Entry { soft_dirty: true, ..swap };
    assert_eq!(check(kept, false), Ok(None));
    assert_eq!(check(kept, true), Ok(Some((Bit::Exclusive, Carry::Carried))), "it was exclusive and is not");
    assert_eq!(check(Entry { uffd_wp: true, ..kept }, false), Ok(Some((Bit::UffdWp, Carry::Carried))));
    let arm64 = EntryConfig::new(Arch::Arm64, false);
    let gone = contradiction(&arm64, "reclaim", [&present, &swap], [false; 2], [false; 2]);
    assert_eq!(gone, Ok(None), "arm64 has no room for soft-dirty");
}

#[test]
fn what_the_corpus_and_generated_cases_do_agrees_with_every_cell() {
    let (mut machine, mut wrong, mut seen) = (Machine::new(), BTreeMap::new(), 0);
    for file in
        corpus().iter().filter(|f| f.document.case.config.defects.is_empty() && !f.name.ends_with("hmm-swap-fixed"))
    {
        walk(&mut machine, &file.document.case, &mut wrong, &mut seen);
    }
    let mut rng = Rng::new(0x7ab1e);
    let mut case = Case::empty();
    for kernel in Kernel::ALL {
        for arch in Arch::ALL {
            for n in 0..120 {
                let config = Config { arch, cpus: 1 + (n % 2) as u8, ..Config::fixed(kernel) };
                let bias = Family::ALL.get(n % (Family::ALL.len() + 1)).copied();
                generate(&mut rng, &mut case, &GenConfig { config, max_ops: 20, sequential: false, bias });
                walk(&mut machine, &case, &mut wrong, &mut seen);
            }
        }
    }
    assert!(seen > 10_000, "only {seen} changes");
    let lines: Vec<String> = wrong.iter().map(|(what, example)| format!("{what}\n    {example}")).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
