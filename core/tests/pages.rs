//! The pages do not go stale: the cases, rules, designs and files that they name are there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::corpus;
use ptefuzz_core::config::Design;
use ptefuzz_core::rule::Rule;

/// The folder of the whole project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page, with its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/found", "corpus"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder of the project") {
            let path = entry.expect("readable").path();
            if path.extension().is_some_and(|e| e == "md") {
                let name = Path::new(folder).join(path.file_name().expect("a file has a name"));
                pages.push((name, fs::read_to_string(&path).expect("a page is text")));
            }
        }
    }
    assert!(pages.len() > 8, "{} pages", pages.len());
    pages
}

/// What stands between backticks in one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_case_that_a_page_names_is_in_the_corpus() {
    let names: Vec<String> = corpus().iter().map(|f| format!("{}.case", f.stem())).collect();
    let examples = ["x.case", "small.case"];
    for (page, text) in pages() {
        // Patterns and command lines are no names.
        let plain = |w: &&str| w.ends_with(".case") && !w.contains(['*', '…', '<', ' ', '/']);
        for word in quoted(&text).filter(plain) {
            assert!(examples.contains(&word) || names.iter().any(|n| n == word), "{}: no case {word}", page.display());
        }
    }
}

#[test]
fn every_rule_that_a_page_names_is_in_the_table() {
    let families: Vec<&str> =
        Rule::ALL.iter().filter_map(|r| r.id().split_once('.')).map(|(family, _)| family).collect();
    for (page, text) in pages() {
        for word in quoted(&text).filter(|w| !w.contains(['*', '/', '(', ' '])) {
            let Some((family, rest)) = word.split_once('.') else { continue };
            let file = ["rs", "md", "c", "case", "txt", "svg"].contains(&rest);
            if families.contains(&family) && !file {
                assert!(Rule::from_id(word).is_some(), "{}: no rule {word}", page.display());
            }
        }
    }
}

#[test]
fn every_design_that_a_comparison_names_is_in_the_table() {
    for (page, text) in pages() {
        for line in text.lines().filter(|l| l.contains("--equivalent ")) {
            let after = line.split("--equivalent ").nth(1).unwrap_or_default();
            let ids = after.split(['`', ' ']).take(2).filter(|w| w.contains('-'));
            for id in ids {
                assert!(Design::from_id(id).is_some(), "{}: no design {id}", page.display());
            }
        }
    }
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    for (page, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = target.is_empty() || target.starts_with("http");
            let from = page.parent().unwrap_or(Path::new(""));
            assert!(outside || root().join(from).join(target).exists(), "{}: {target}", page.display());
        }
    }
}
