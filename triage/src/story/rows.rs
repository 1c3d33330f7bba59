//! From events to rows: one row for each op, or for each stretch of an op that was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use ptefuzz_core::entry::Entry;
use ptefuzz_core::observe::Outcome;
use ptefuzz_core::program::Op;
use ptefuzz_core::program::text::Document;
use ptefuzz_core::sched::Site;
use ptefuzz_core::trace::{Event, Trace};
use serde::Serialize;

use super::focus::{Focus, Page, frame};
use super::names::{Flags, Names, maps};
use super::notes;
use crate::names as case_names;

/// A value before and after a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Count {
    /// Before, where it was known.
    pub before: Option<i32>,
    /// After.
    pub after: i32,
}

/// One line of the table, with the notes under it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Row {
    /// Number of the op, from 1 in the order of the case. `None`: what happens outside any op.
    pub op: Option<u32>,
    /// CPU that does it.
    pub cpu: Option<u8>,
    /// The op as a case spells it.
    pub text: String,
    /// False for the first stretch of an op, true when it goes on after an interruption.
    pub resumed: bool,
    /// The entry of each column's page: words when it changed in this row.
    pub entries: Vec<Option<String>>,
    /// `folio_mapcount()` of the folio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapcount: Option<Count>,
    /// `folio_ref_count()` of the folio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refcount: Option<Count>,
    /// True when the mapcount and the number of entries that map the folio part here.
    pub parted: bool,
    /// What else happened, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Ops that this row stands for, when it stands for several that touch nothing of the story.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u32>,
    #[serde(skip)]
    pub(super) sites: Vec<Site>,
    #[serde(skip)]
    dull: bool,
}

/// What the rows were made of.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// Pages that map the folio at the end.
    pub(super) mapped_by: BTreeSet<Page>,
    /// Last known mapcount.
    pub(super) mapcount: Option<i32>,
}

/// Makes the rows of a story.
pub(super) fn build(
    doc: &Document,
    trace: &Trace,
    focus: &Focus,
    flags: Flags,
    accesses: bool,
    names: &mut Names,
) -> Table {
    let mut b = Builder {
        doc,
        focus,
        flags,
        accesses,
        names,
        rows: Vec::new(),
        active: BTreeMap::new(),
        begun: false,
        open: None,
        pending: BTreeMap::new(),
        mapped_by: BTreeSet::new(),
        counts: None,
        at_row_start: (None, 0),
        notes_of_entries: Vec::new(),
    };
    for (_, event) in &trace.events {
        b.event(event);
    }
    b.close();
    Table { rows: merge_dull(b.rows), mapped_by: b.mapped_by, mapcount: b.counts.map(|c| c.0) }
}

struct Builder<'a> {
    doc: &'a Document,
    focus: &'a Focus,
    flags: Flags,
    accesses: bool,
    names: &'a mut Names,
    rows: Vec<Row>,
    /// Op in flight on each CPU.
    active: BTreeMap<u8, u32>,
    /// True from the first op on.
    begun: bool,
    /// CPU of the row that is being filled; `None`: no row is.
    open: Option<Option<u8>>,
    /// Changes of the row being filled: entry before and after, per page.
    pending: BTreeMap<Page, (Entry, Entry)>,
    mapped_by: BTreeSet<Page>,
    /// Mapcount and refcount, as last stated.
    counts: Option<(i32, i32)>,
    /// Counts and number of mapping entries when the row began.
    at_row_start: (Option<(i32, i32)>, usize),
    /// Changes of pages without a column, told as notes when the row ends.
    notes_of_entries: Vec<Page>,
}

impl Builder<'_> {
    fn event(&mut self, event: &Event) {
        match *event {
            Event::OpStart { op, cpu } => self.start(op, cpu),
            Event::OpEnd { op, cpu, outcome } => self.end(op, cpu, outcome),
            Event::Switch { from, to, site } => self.switch(from, to, site),
            Event::Entry { cpu, site, proc, vpn, old, new, .. } => self.entry(cpu, site, (proc, vpn), &old, &new),
            Event::Counts { pfn, mapcount, refcount } if Some(pfn) == self.focus.pfn => {
                self.row(None);
                self.counts = Some((mapcount, refcount));
            }
            _ => {
                if let Some((cpu, text)) = notes::of(event, self.doc, self.focus, self.accesses, self.names) {
                    self.row(cpu).notes.push(text);
                }
            }
        }
    }

    fn start(&mut self, op: u32, cpu: u8) {
        self.close();
        self.begun = true;
        self.active.insert(cpu, op);
        self.push(Some(cpu), Some(op), false);
    }

    fn end(&mut self, op: u32, cpu: u8, outcome: Outcome) {
        self.row(Some(cpu));
        if outcome != Outcome::Done {
            self.row(Some(cpu)).notes.push(format!("ends with {}", outcome.name()));
        }
        if self.active.get(&cpu) == Some(&op) {
            self.active.remove(&cpu);
        }
        self.close();
    }

    fn switch(&mut self, from: u8, to: u8, site: Option<Site>) {
        if let (true, Some(site)) = (self.active.contains_key(&from), site) {
            self.row(Some(from)).notes.push(format!("cpu{from} stops at {}; cpu{to} goes on", site.name()));
        }
        self.close();
        // Events that name no CPU belong to the op that goes on.
        if let Some(op) = self.active.get(&to).copied() {
            self.push(Some(to), Some(op), true);
        }
    }

    fn entry(&mut self, cpu: Option<u8>, site: Option<Site>, page: Page, old: &Entry, new: &Entry) {
        self.row(cpu).sites.extend(site);
        if !self.focus.has(page) {
            return;
        }
        let names_it = |e: &Entry| maps(e) && frame(e.pfn).is_some_and(|p| Some(p) == self.focus.pfn);
        if names_it(new) {
            self.mapped_by.insert(page);
        } else {
            self.mapped_by.remove(&page);
        }
        self.pending.entry(page).and_modify(|(_, after)| *after = *new).or_insert((*old, *new));
        if self.focus.others.contains(&page) && !self.notes_of_entries.contains(&page) {
            self.notes_of_entries.push(page);
        }
    }

    /// The row that is being filled; a new one when `cpu` is another CPU than its own.
    fn row(&mut self, cpu: Option<u8>) -> &mut Row {
        let idle = |cpu: u8| !self.active.contains_key(&cpu);
        let same = match (self.open, cpu) {
            (Some(None), Some(cpu)) => idle(cpu),
            (Some(open), cpu) => cpu.is_none() || open == cpu,
            (None, _) => false,
        };
        if !same {
            self.close();
            let op = cpu.and_then(|c| self.active.get(&c).copied());
            self.push(cpu, op, op.is_some());
        }
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    fn push(&mut self, cpu: Option<u8>, index: Option<u32>, resumed: bool) {
        let op: Option<&Op> = index.and_then(|i| self.doc.case.ops.get(i as usize));
        // No op, or an index that is none of the case's: the machine is being set up, or takes down what is left.
        let number = index.filter(|_| op.is_some()).map(case_names::number);
        let outside = if self.begun { "(everything exits)" } else { "(before the first op)" };
        let text = op.map_or_else(|| outside.to_owned(), |op| case_names::op(op, self.doc));
        let dull = op.is_some_and(|op| !self.focus.touched_by(&self.doc.case, op));
        self.at_row_start = (self.counts, self.mapped_by.len());
        self.open = Some(cpu);
        self.rows.push(Row { op: number, cpu, text, resumed, dull, ..Row::default() });
    }

    /// Ends the row that is being filled, if any.
    fn close(&mut self) {
        if self.open.take().is_none() {
            return;
        }
        let changes = std::mem::take(&mut self.pending);
        let entries: Vec<Option<String>> = self
            .focus
            .columns
            .iter()
            .map(|page| changes.get(page).map(|(old, new)| self.names.change(old, new, self.flags)))
            .collect();
        let others: Vec<String> = std::mem::take(&mut self.notes_of_entries)
            .into_iter()
            .filter_map(|page| {
                let (old, new) = changes.get(&page)?;
                let change = self.names.change(old, new, self.flags);
                Some(format!("{}: {change}", case_names::page(page, self.doc)))
            })
            .collect();
        let (counts, mappings) = (self.counts, self.mapped_by.len());
        let (counts_before, mappings_before) = self.at_row_start;
        let Some(row) = self.rows.last_mut() else { return };
        let changed = counts != counts_before || mappings != mappings_before;
        if let Some((mapcount, refcount)) = counts.filter(|_| changed || !changes.is_empty()) {
            // A folio that was not heard of before it is mapped was free until now.
            let new = (mappings_before == 0 && mappings > 0).then_some((0, 0));
            let before = counts_before.or(new);
            row.mapcount = Some(Count { before: before.map(|c| c.0), after: mapcount });
            row.refcount = Some(Count { before: before.map(|c| c.1), after: refcount });
            row.parted = changed && usize::try_from(mapcount) != Ok(mappings);
        }
        row.entries = entries;
        row.notes = notes::squeeze(others.into_iter().chain(std::mem::take(&mut row.notes)).collect());
        row.dull &= changes.is_empty() && !changed && row.notes.is_empty();
    }
}

/// Puts neighbouring rows that touch nothing of the story into one.
fn merge_dull(rows: Vec<Row>) -> Vec<Row> {
    let mut out: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match out.last_mut() {
            Some(last) if row.dull && last.dull => last.skipped = Some(last.skipped.unwrap_or(1) + 1),
            _ => out.push(row),
        }
    }
    out
}
