//! The story of a case: what happened to one folio and the pages that name it, step by step, and what went wrong.
//!
//! [`tell`] turns a case, its trace and its verdict into a [`Story`]: plain data, which [`Story::to_text`],
//! [`Story::to_markdown`] and serde print. A story has one subject (`focus`): the folio and the pages of the
//! evidence. Frames and values get names in the order in which they appear. What touches nothing of the subject
//! is left out, and said to be.

mod cause;
mod focus;
mod names;
mod notes;
mod render;
mod rows;
#[cfg(test)]
mod tests;
mod words;

use ptefuzz_core::program::Map;
use ptefuzz_core::program::text::Document;
use ptefuzz_core::rule::{Rule, Violation};
use ptefuzz_core::trace::Trace;
use serde::Serialize;

pub use cause::{Causes, Known};
pub use render::Palette;
pub use rows::{Count, Row};

use crate::error::Error;
use crate::judge::Judge;
use crate::names as case_names;
use focus::Focus;
use names::{Flags, Names};
use words::Terms;

/// Most lines of a story in text.
pub const MOST_LINES: usize = 60;

/// What happened, and what is wrong with it. Field names are public and stable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Story {
    /// The input.
    pub file: String,
    /// `clean` or `violation`.
    pub verdict: &'static str,
    /// Id of the broken rule.
    pub id: Option<&'static str>,
    /// What is wrong, in one sentence.
    pub headline: String,
    /// Release, architecture and number of CPUs, and what is mapped at the pages of the story.
    pub setting: String,
    /// Step at which it was noticed.
    pub step: Option<u32>,
    /// Op during which it was noticed, from 1 in the order of the case.
    pub op: Option<u32>,
    /// Causal site and site of notice, those that are known.
    pub sites: Vec<&'static str>,
    /// Pages with a column in the rows.
    pub pages: Vec<String>,
    /// The folio whose counts the rows tell.
    pub folio: Option<String>,
    /// What happened.
    pub rows: Vec<Row>,
    /// What is wrong, where it went wrong and what is known about it: a few sentences.
    pub wrong: Vec<String>,
    /// Known defects that the violation needs.
    pub causes: Vec<Known>,
}

/// Runs a case and tells its story.
///
/// # Errors
/// [`Error::Harness`] when the model itself panics.
pub fn of_case(judge: &mut Judge, file: &str, doc: &Document) -> Result<Story, Error> {
    let case = &doc.case;
    let (violation, trace) = judge.run_traced(file, case)?;
    let causes = match &violation {
        Some(v) => Causes::find(case, v.rule, |c| judge.run(file, c).map(|found| found.map(|f| f.rule)))?,
        None => Causes::default(),
    };
    Ok(tell(file, doc, &trace, violation.as_ref(), &causes))
}

/// The story of a run.
pub fn tell(file: &str, doc: &Document, trace: &Trace, violation: Option<&Violation>, causes: &Causes) -> Story {
    let focus = Focus::of(&doc.case, trace, violation);
    let rule = violation.map(|v| v.rule);
    let mut names = Names::default();
    let table = rows::build(doc, trace, &focus, flags(rule), shows_accesses(rule), &mut names);
    let terms = terms(doc, violation, &focus, &mut names);
    let headline = match violation {
        Some(v) => words::headline(v.rule, &terms),
        None => "clean: nothing was violated".to_owned(),
    };
    let wrong = violation.map_or_else(Vec::new, |v| wrong(doc, v, &table, &terms, causes));
    Story {
        file: file.to_owned(),
        verdict: if violation.is_some() { "violation" } else { "clean" },
        id: rule.map(Rule::id),
        headline,
        setting: setting(doc, &focus),
        step: violation.map(|v| v.step),
        op: violation.and_then(|v| v.op).map(case_names::number),
        sites: violation.map_or_else(Vec::new, |v| v.sites.iter().flatten().map(|s| s.name()).collect()),
        pages: focus.columns.iter().map(|p| case_names::page(*p, doc)).collect(),
        folio: focus.pfn.map(|pfn| names.frame(pfn)),
        rows: table.rows,
        wrong,
        causes: causes.defects.iter().map(|d| Known::from(*d)).collect(),
    }
}

/// What the case runs on and what its first mappings are, as far as the story is about them.
fn setting(doc: &Document, focus: &Focus) -> String {
    let case = &doc.case;
    let config = &case.config;
    let cpus = if config.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", config.cpus) };
    let mut out = format!("kernel {}, {}, {cpus}", config.kernel, config.arch.name());
    let told = |map: &&Map| {
        let region = |vpn: u32| config.geometry.region_of(vpn).map(|(region, _)| region);
        focus.pages().any(|(proc, vpn)| *proc == map.proc && region(*vpn) == Some(map.region))
    };
    for (i, map) in case.maps.iter().filter(told).enumerate() {
        out.push_str(if i == 0 { "; " } else { ", " });
        out.push_str(&case_names::map(map, doc));
    }
    out
}

/// Young and soft-dirty bits are told where the rule is about them.
fn flags(rule: Option<Rule>) -> Flags {
    match rule {
        Some(Rule::OracleSoftDirty | Rule::WritableSoftDirty | Rule::Accessor) => Flags::All,
        _ => Flags::Usual,
    }
}

/// Loads, stores and TLBs are told where the rule is about what user space or a device can do.
fn shows_accesses(rule: Option<Rule>) -> bool {
    rule.is_none_or(|r| {
        r.visible() || r == Rule::FreedInUse || r.id().starts_with("tlb.") || r.id().starts_with("device.")
    })
}

fn terms(doc: &Document, violation: Option<&Violation>, focus: &Focus, names: &mut Names) -> Terms {
    let Some(v) = violation else { return Terms::default() };
    let e = &v.evidence;
    let tokens = v.rule == Rule::OracleValue;
    let mut number = |n: Option<u64>| {
        n.map(|n| match u32::try_from(n) {
            Ok(token) if tokens => names.value(token),
            // Counts are signed; the evidence carries their bits.
            _ => n.cast_signed().to_string(),
        })
    };
    let (expected, found) = (number(e.expected), number(e.found));
    let page = e.proc.zip(e.vpn).or_else(|| focus.columns.first().copied());
    Terms {
        folio: e.pfn.or(focus.pfn).map(|pfn| names.frame(pfn)),
        page: page.map(|page| case_names::page(page, doc)),
        who: who(v),
        expected,
        found,
        what: e.what.map(str::to_owned),
        on: e.on.map(str::to_owned),
    }
}

/// Who does what the rule is about: a device, the CPU whose TLB it is, or the CPU that ran the step.
fn who(v: &Violation) -> Option<String> {
    let e = &v.evidence;
    let cpu = match v.rule {
        Rule::StaleTlb => e.found,
        _ => e.cpu.map(u64::from),
    };
    e.device.map(case_names::device).or_else(|| cpu.map(|cpu| format!("cpu{cpu}")))
}

/// What is wrong, where it went wrong, and what is known about it.
fn wrong(doc: &Document, v: &Violation, table: &rows::Table, terms: &Terms, causes: &Causes) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(parted(doc, table, terms));
    out.extend(place(v, table, causes));
    let consequence = words::consequence(v.rule, terms);
    if !consequence.is_empty() {
        out.push(consequence);
    }
    out.extend(causes.sentences(&doc.case));
    out
}

/// Says so when the entries that map the folio and its mapcount differ at the end.
fn parted(doc: &Document, table: &rows::Table, terms: &Terms) -> Option<String> {
    let (mapcount, folio) = table.mapcount.zip(terms.folio.as_deref())?;
    let n = table.mapped_by.len();
    if usize::try_from(mapcount) == Ok(n) {
        return None;
    }
    let listed: Vec<String> = table.mapped_by.iter().take(3).map(|page| case_names::page(*page, doc)).collect();
    let pages = match listed.len() {
        0 => String::new(),
        k if k < n => format!(" ({}, ...)", listed.join(", ")),
        _ => format!(" ({})", listed.join(", ")),
    };
    let entries = match n {
        0 => "no entry maps".to_owned(),
        1 => "one entry maps".to_owned(),
        n => format!("{n} entries map"),
    };
    Some(format!("{entries} {folio}{pages}, but its mapcount is {mapcount}"))
}

/// Where the state went wrong: the row with the causal site, or else the one in which mapcount and entries part.
fn place(v: &Violation, table: &rows::Table, causes: &Causes) -> Option<String> {
    let site = v.sites[0];
    let at_site = site.and_then(|s| table.rows.iter().rev().find(|r| r.op.is_some() && r.sites.contains(&s)));
    let row = at_site.or_else(|| table.rows.iter().find(|r| r.op.is_some() && r.parted));
    let function = causes.function().or_else(|| site.and_then(|s| s.name().split(':').next()));
    let noticed = match v.op {
        Some(op) if row.and_then(|r| r.op) == Some(case_names::number(op)) => String::new(),
        Some(op) => format!("; noticed at op {}", case_names::number(op)),
        None => "; noticed at the end".to_owned(),
    };
    match (row.and_then(|r| r.op), function) {
        (Some(op), Some(function)) => Some(format!("went wrong at op {op}, in {function}{noticed}")),
        (Some(op), None) => Some(format!("went wrong at op {op}{noticed}")),
        (None, Some(function)) => Some(format!("went wrong in {function}{noticed}")),
        (None, None) => v.op.map(|op| format!("noticed at op {}", case_names::number(op))),
    }
}
