//! The table as a page: `docs/TRANSITIONS.md` is what this prints.

use super::{Bit, Cells, HUGE_PATHS, HUGE_TRANSITIONS, PATHS, cells, transitions};
use crate::entry::TRANSITIONS;
use std::fmt::Write;

const HEAD: &str = "# Transitions

Which kind of entry may follow which in one slot of a page table, which kernel function does it, and what becomes of each
bit. This page is printed by `cargo run -p ptefuzz-core --example transitions` from the tables in
`core/src/entry/transition.rs` and `core/src/entry/carry/`, and a test keeps it in step. Another test runs the corpus and
generated cases of every release and fails when a change contradicts its cell.

A cell says what becomes of what the bit *means*: *carried*, *dropped* (the new entry does not say it), *set*, or *n/a* when
neither entry can say it; *carried or set*, *carried or dropped* and *decided anew* where the row has several functions or
the function has a choice. The number names the function. Where an entry has no room for a bit in a release or on an
architecture (young and dirty of migration entries before 6.1, soft-dirty on arm64), carried means dropped. *exclusive* is
`PageAnonExclusive` of the page that the entry names, or the swap entry's bit, or the migration entry's type.
";

const PATHS_HEAD: &str = "
## From a present entry to a present entry

So many paths do this that the row above says little. These are the paths that treat the bits in a way of their own; for all
others (write faults, `MADV_*`, KSM, NUMA hinting) every bit is decided anew.
";

const HUGE_HEAD: &str = "
## PMDs

What a PMD says it says of each page that it maps. From *huge* to something that is not huge: the PMD is split, and every
page gets an entry of its own. While a huge page is invalid, between two of these states, it says what it said before.
";

/// The page, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut notes = Vec::new();
    let mut page = String::from(HEAD);
    page.push_str("\n## Kinds\n\n");
    header(&mut page, "from | to");
    for (from, to) in transitions().filter(|(from, to)| !from.huge && !to.huge) {
        row(&mut page, &mut notes, &format!("{from} | {to}"), cells(from, to));
    }
    page.push_str(PATHS_HEAD);
    page.push('\n');
    header(&mut page, "path");
    for path in PATHS {
        row(&mut page, &mut notes, path.op, Some(path.cells));
    }
    page.push_str(HUGE_HEAD);
    page.push('\n');
    header(&mut page, "from | to");
    for t in HUGE_TRANSITIONS {
        row(&mut page, &mut notes, &format!("{} | {}", t.from, t.to), cells(t.from, t.to));
    }
    page.push_str("\nFrom a huge page to itself:\n\n");
    header(&mut page, "path");
    for path in HUGE_PATHS {
        row(&mut page, &mut notes, path.op, Some(path.cells));
    }
    page.push_str("\n## Functions of the cells\n\n");
    for (i, note) in notes.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{}. {note}", i + 1);
    }
    page.push_str("\n## Functions of the transitions\n\n| from | to | function |\n|---|---|---|\n");
    for t in TRANSITIONS {
        let _ = writeln!(page, "| {} | {} | {} |", t.from, t.to, t.why);
    }
    for t in HUGE_TRANSITIONS {
        let _ = writeln!(page, "| {} | {} | {} |", t.from, t.to, t.why);
    }
    page
}

fn header(page: &mut String, start: &str) {
    let names: Vec<&str> = Bit::ALL.into_iter().map(Bit::name).collect();
    let rule = "---|".repeat(start.split('|').count() + names.len());
    let _ = writeln!(page, "| {start} | {} |\n|{rule}", names.join(" | "));
}

fn row(page: &mut String, notes: &mut Vec<&'static str>, start: &str, cells: Option<Cells>) {
    let words: Vec<String> = cells
        .iter()
        .flatten()
        .map(|cell| {
            let at = notes.iter().position(|n| *n == cell.by).unwrap_or_else(|| {
                notes.push(cell.by);
                notes.len() - 1
            });
            format!("{} {}", cell.carry.name(), at + 1)
        })
        .collect();
    let _ = writeln!(page, "| {start} | {} |", words.join(" | "));
}
