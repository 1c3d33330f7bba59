//! The saved cases keep their word: each gives the verdict that it expects, and each defect has a witness.

mod common;

use common::{CaseFile, corpus};
use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Config, Defect, DefectSet, Kernel};
use ptefuzz_core::program::text::{Expect, print};
use ptefuzz_core::program::{Action, Case, Interrupt};
use ptefuzz_core::rule::Rule;
use ptefuzz_core::run::Machine;
use ptefuzz_core::trace::Event;

fn expected_rule(file: &CaseFile) -> Option<Rule> {
    match file.document.expect {
        Some(Expect::Violation(rule)) => Some(rule),
        Some(Expect::Clean) | None => None,
    }
}

#[test]
fn every_case_gives_the_verdict_that_it_expects() {
    let mut machine = Machine::new();
    let mut wrong = Vec::new();
    for file in corpus() {
        let verdict = machine.run(&file.document.case);
        match file.document.expect {
            Some(expect) if expect.name() == verdict.id() => {}
            Some(expect) => wrong.push(format!("{}: {} is expected, not {verdict}", file.name, expect.name())),
            None => wrong.push(format!("{}: no `expect` line", file.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_is_normalised_and_says_what_it_shows() {
    for file in corpus() {
        assert_eq!(print(&file.document), file.text, "{}: run `ptefuzz fmt`", file.name);
        assert!(file.text.starts_with("# "), "{}: a comment at the top tells the story", file.name);
    }
}

/// The files `<id>-*.case` whose only defect is the one they are named after.
fn witnesses(files: &[CaseFile], defect: Defect) -> impl Iterator<Item = &CaseFile> {
    let alone = DefectSet::EMPTY.with(defect);
    let prefix = format!("{}-", defect.id());
    files.iter().filter(move |f| f.stem().starts_with(&prefix) && f.document.case.config.defects == alone)
}

#[test]
fn every_defect_has_a_witness_that_is_clean_when_just_that_defect_is_removed() {
    let files = corpus();
    let mut machine = Machine::new();
    for defect in Defect::ALL {
        let mut shown = 0;
        for file in witnesses(&files, defect) {
            let rule = expected_rule(file);
            let mut case = file.document.case.clone();
            let on = machine.run(&case).violation().map(|v| v.rule);
            assert!(rule.is_some() && on == rule, "{}: {rule:?} is expected, not {on:?}", file.name);
            case.config.defects = case.config.defects.without(defect);
            let off = machine.run(&case);
            assert_eq!(off.id(), "clean", "{} without {}: {off}", file.name, defect.id());
            shown += 1;
        }
        assert!(shown > 0, "no case shows {}: {}", defect.id(), defect.summary());
    }
}

#[test]
fn every_defect_shows_in_a_witness_on_the_machine_where_it_is_at_home() {
    let (files, mut machine) = (corpus(), Machine::new());
    let mut unseen = Vec::new();
    for defect in Defect::ALL {
        let home = Config::showing(defect);
        let shows = |file: &CaseFile| {
            let Config { arch, geometry, cpus, .. } = file.document.case.config;
            let case = Case { config: Config { arch, geometry, cpus, ..home }, ..file.document.case.clone() };
            machine.run(&case).violation().is_some()
        };
        if !witnesses(&files, defect).any(shows) {
            unseen.push(defect.id());
        }
    }
    assert!(unseen.is_empty(), "not to be seen at home: {unseen:?}");
}

#[test]
fn every_repaired_twin_is_its_witness_without_the_defects() {
    let files = corpus();
    let mut twins = 0;
    for file in &files {
        let Some(name) = file.name.strip_suffix("-fixed") else { continue };
        let witness = files.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        let (a, b) = (&witness.document.case, &file.document.case);
        assert_eq!((&a.maps, &a.ops, &a.interrupts), (&b.maps, &b.ops, &b.interrupts), "{name}");
        assert_eq!((a.config.arch, a.config.geometry), (b.config.arch, b.config.geometry), "{name}");
        assert!(!a.config.defects.is_empty() && b.config.defects.is_empty(), "{name}");
        assert!(expected_rule(witness).is_some() && file.document.expect == Some(Expect::Clean), "{name}");
        twins += 1;
    }
    assert!(twins >= 10, "only {twins} twins");
}

#[test]
fn every_seed_is_clean_on_every_repaired_release_and_on_both_architectures() {
    let mut machine = Machine::new();
    let files = corpus();
    let seeds = files.iter().filter(|f| f.name.starts_with("seeds/"));
    let mut count = 0;
    for file in seeds {
        let original = &file.document.case;
        for kernel in Kernel::ALL {
            for arch in Arch::ALL {
                let (geometry, cpus) = (original.config.geometry, original.config.cpus);
                let config = Config { arch, geometry, cpus, ..Config::fixed(kernel) };
                let verdict = machine.run(&Case { config, ..original.clone() });
                assert_eq!(verdict.id(), "clean", "{} on {kernel}, {}: {verdict}", file.name, arch.name());
            }
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} seeds");
}

#[test]
fn every_preemption_that_a_case_asks_for_takes_place() {
    let mut machine = Machine::new();
    for file in corpus() {
        let case = &file.document.case;
        let wanted: Vec<&Interrupt> =
            case.interrupts.iter().filter(|i| matches!(i.action, Action::Switch { .. })).collect();
        if wanted.is_empty() {
            continue;
        }
        let (_, trace) = machine.run_traced(case);
        for i in wanted {
            let seen = trace.events.iter().any(|(_, e)| match (*e, i.action) {
                (Event::Switch { from, to, site }, Action::Switch { cpu }) => {
                    (from, to, site) == (i.cpu, cpu, Some(i.site))
                }
                _ => false,
            });
            assert!(seen, "{}: nobody comes to {} of cpu{} #{}", file.name, i.site.name(), i.cpu, i.nth);
        }
    }
}
