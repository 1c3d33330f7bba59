//! The state graph: what the entries of a set of cases were, what changed them, and what they became.
//!
//! A state is the kind of an entry and its bits; frames and slots do not count. A change carries the name of the op that
//! made it, `hardware` when the walker set a bit, `exit` when the machine took down what was left. Only clean runs
//! count: what a defect does to an entry is no state that a kernel should reach.
//!
//! Beside what was reached stands what is known: the table of transitions ([`transitions`]), and for each of its rows the
//! bits. A row is reached when its change was seen, a cell when it was seen with an old or a new entry that says the bit.

mod svg;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ptefuzz_core::change::{Change, changes};
use ptefuzz_core::entry::carry::{Bit, Carry, Form, HARDWARE, cells, transitions};
use ptefuzz_core::entry::{Entry, EntryKind};
use ptefuzz_core::program::Case;
use serde::Serialize;

use crate::error::Error;
use crate::input;
use crate::judge::Judge;

/// Pages of a case above which it is passed over: a trace of a machine of full size would fill the memory, and such a
/// case does on many pages what its small twin does on a few.
const MOST_PAGES: u32 = 4096;

/// The name of whatever takes down what a case leaves behind.
const EXIT: &str = "exit";

/// One kind of change of one state. Field names are public and stable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Edge {
    /// The state before.
    pub from: String,
    /// Name of the op.
    pub op: &'static str,
    /// The state after.
    pub to: String,
}

/// What a set of cases reaches.
#[derive(Default)]
pub struct Graph {
    /// How often each change was seen.
    pub edges: BTreeMap<Edge, u64>,
    /// Transitions seen, each with the ops that made it.
    pub kinds: BTreeMap<(Form, Form), BTreeSet<&'static str>>,
    /// Cells of the table that were seen to matter.
    bits: BTreeSet<(Form, Form, Bit)>,
    /// Cases that were run.
    pub cases: usize,
    /// Cases that were passed over: violations, and machines of full size.
    pub passed_over: usize,
}

/// How much of what is known was reached. Field names are public and stable.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Reach {
    /// Always `states`, to tell this line from the edges before it.
    pub summary: &'static str,
    /// Cases that were run.
    pub cases: usize,
    /// Cases that were passed over.
    pub passed_over: usize,
    /// Rows of the table of transitions.
    pub transitions: usize,
    /// Rows that were reached.
    pub reached: usize,
    /// The same in percent.
    pub percent: f64,
    /// Rows that were not reached, as `from -> to`.
    pub unreached: Vec<String>,
    /// Bits of rows that an entry can say.
    pub cells: usize,
    /// Those that were seen to matter.
    pub cells_reached: usize,
    /// The same in percent.
    pub cells_percent: f64,
    /// Changes that are in no row. There must be none.
    pub unknown: Vec<String>,
}

impl Graph {
    /// Runs every case below the paths.
    ///
    /// # Errors
    /// An unreadable file, or [`Error::Harness`].
    pub fn of(paths: &[PathBuf]) -> Result<Graph, Error> {
        let mut graph = Graph::default();
        let mut judge = Judge::new();
        for path in input::collect(paths) {
            let input = input::load(&path?)?;
            let case = &input.doc.case;
            let pages: u32 = case.maps.iter().map(|m| m.pages).sum();
            if pages > MOST_PAGES {
                graph.passed_over += 1;
                continue;
            }
            let (violation, trace) = judge.run_traced(&input.name, case)?;
            if violation.is_some() {
                graph.passed_over += 1;
                continue;
            }
            graph.cases += 1;
            changes(&trace).iter().for_each(|change| graph.add(case, change));
        }
        Ok(graph)
    }

    fn add(&mut self, case: &Case, change: &Change) {
        let op = match change.op.and_then(|op| case.ops.get(op as usize)) {
            _ if change.hardware => HARDWARE,
            Some(op) => op.code.name(),
            None => EXIT,
        };
        let ((from, to), old, new) = (change.forms(), &change.old, &change.new);
        let edge = Edge { from: state(from, old), op, to: state(to, new) };
        *self.edges.entry(edge).or_default() += 1;
        self.kinds.entry((from, to)).or_default().insert(op);
        let (before, after) = (says(old, change.pages[0]), says(new, change.pages[1]));
        for (i, bit) in Bit::ALL.into_iter().enumerate() {
            if before[i] || after[i] {
                self.bits.insert((from, to, bit));
            }
        }
    }

    /// How much of the tables was reached.
    pub fn reach(&self) -> Reach {
        let pairs: Vec<_> = transitions().collect();
        let name = |(from, to): (Form, Form)| format!("{from} -> {to}");
        let unreached: Vec<_> = pairs.iter().filter(|p| !self.kinds.contains_key(p)).map(|p| name(*p)).collect();
        let (mut all, mut reached) = (0, 0);
        for (from, to) in &pairs {
            for (bit, cell) in Bit::ALL.into_iter().zip(cells(*from, *to).into_iter().flatten()) {
                if cell.carry != Carry::NotHeld {
                    all += 1;
                    reached += usize::from(self.bits.contains(&(*from, *to, bit)));
                }
            }
        }
        let rows = pairs.len();
        Reach {
            summary: "states",
            cases: self.cases,
            passed_over: self.passed_over,
            transitions: rows,
            reached: rows - unreached.len(),
            percent: percent(rows - unreached.len(), rows),
            unreached,
            cells: all,
            cells_reached: reached,
            cells_percent: percent(reached, all),
            unknown: self.kinds.keys().filter(|p| !pairs.contains(p)).map(|p| name(*p)).collect(),
        }
    }

    /// The graph as a picture: a node for each kind, an arrow for each transition with its ops.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

impl Reach {
    /// The account in a few lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{} cases run, {} passed over (violations, and machines of full size)",
                self.cases, self.passed_over
            ),
            format!("{} of {} known transitions reached: {:.1} %", self.reached, self.transitions, self.percent),
            format!(
                "{} of {} of their bits seen to matter: {:.1} %",
                self.cells_reached, self.cells, self.cells_percent
            ),
        ];
        lines.extend(self.unreached.iter().map(|pair| format!("  not reached: {pair}")));
        lines.extend(self.unknown.iter().map(|pair| format!("  in no table: {pair}")));
        lines
    }
}

fn percent(part: usize, all: usize) -> f64 {
    if all == 0 { 100.0 } else { part as f64 * 100.0 / all as f64 }
}

/// Kind, level and bits.
fn state(form: Form, entry: &Entry) -> String {
    format!("{}{}", if form.huge { "huge " } else { "" }, Entry { pfn: None, swap: None, ..*entry })
}

/// What an entry says of each bit; `page` is `PageAnonExclusive` of the page that it names.
fn says(entry: &Entry, page: bool) -> [bool; 6] {
    let by_kind = matches!(entry.kind, EntryKind::MigrationReadExclusive | EntryKind::MigrationWrite);
    [
        entry.young,
        entry.dirty,
        entry.soft_dirty,
        entry.remembers_uffd_wp(),
        entry.exclusive || by_kind || page,
        entry.is_writable(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn graph(text: &str) -> Graph {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("x.case");
        std::fs::write(&path, text).expect("written");
        Graph::of(&[path]).expect("it runs")
    }

    const SWAPPED: &str = "kernel 7.3\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n  A write heap[0]\n  \
        reclaim A heap[0]\n  A read heap[0]\n";

    #[test]
    fn a_page_that_is_swapped_out_and_in_again_is_a_way_through_the_graph() {
        let graph = graph(SWAPPED);
        let ways: Vec<(&str, &str, &str)> =
            graph.edges.keys().map(|e| (e.from.as_str(), e.op, e.to.as_str())).collect();
        assert!(
            ways.iter()
                .any(|(f, op, t)| f.starts_with("present rw") && *op == "reclaim" && t.starts_with("swap exclusive"))
        );
        assert!(ways.iter().any(|(f, op, t)| f.starts_with("swap") && *op == "read" && t.starts_with("present")));
        let reach = graph.reach();
        assert_eq!((reach.cases, reach.unknown.len()), (1, 0));
        assert!(reach.reached >= 4 && reach.unreached.contains(&"present -> migration-read".to_owned()), "{reach:?}");
        assert_eq!(reach.transitions, transitions().count());
    }

    #[test]
    fn runs_that_violate_a_rule_do_not_count() {
        let broken = graph(&format!(
            "defect S4\n{}",
            SWAPPED.replace("  A read heap[0]\n", "  A write heap[0]\n  A munmap heap[0]\n")
        ));
        assert_eq!((broken.cases, broken.passed_over, broken.edges.len()), (0, 1, 0));
    }

    #[test]
    fn the_picture_has_a_node_for_each_kind_and_an_arrow_for_each_transition_with_its_ops() {
        let graph = graph(SWAPPED);
        let svg = graph.to_svg();
        for (from, to) in transitions() {
            assert!(svg.contains(&format!(">{from}</text>")) && svg.contains(&format!(">{to}</text>")), "{from}, {to}");
        }
        let arrows = svg.matches("class=\"reached\"").count();
        assert_eq!(arrows, graph.kinds.len());
        assert_eq!(svg.matches("class=\"missing\"").count(), graph.reach().unreached.len());
        assert!(svg.contains("present &#8594; swap: reclaim"), "{svg}");
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("http://") || svg.matches("http://").count() == 1, "nothing is loaded from elsewhere");
    }

    #[test]
    fn every_transition_that_the_corpus_makes_is_in_the_table() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
        let reach = Graph::of(&[corpus]).expect("the corpus runs").reach();
        assert_eq!(reach.unknown, Vec::<String>::new());
        assert!(reach.cases > 50 && reach.percent >= LEAST, "{:.1} %: {:?}", reach.percent, reach.unreached);
    }

    /// Part of the table that the corpus reaches, in percent. It only goes up.
    const LEAST: f64 = 100.0;
}
