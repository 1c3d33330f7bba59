//! `ptefuzz list`: what exists, straight from the tables.

use std::path::PathBuf;

use ptefuzz_core::config::{Defect, Design, Kernel};
use ptefuzz_core::program::text::{Document, op_text};
use ptefuzz_core::program::{Actor, Case, Op, OpCode};
use ptefuzz_core::rule::Rule;
use ptefuzz_core::sched::Site;
use ptefuzz_fuzz::targets::TARGETS;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::{List, ListFormat, Topic};
use crate::error::{EXIT_CLEAN, Error, Outcome};
use crate::output::Out;
use crate::states::{Edge, Graph};

/// A table: names of its columns, and rows as long.
struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

pub(super) fn run(options: &List) -> Outcome {
    let mut out = Out::stdout();
    match (table(options.topic), options.format) {
        (None, format) => states(&options.files, format, &mut out)?,
        (Some(_), ListFormat::Svg) => return Err(Error::Usage("only `list states` has a picture".into())),
        (Some(_), _) if !options.files.is_empty() => {
            return Err(Error::Usage("only `list states` looks at cases".into()));
        }
        (Some(table), ListFormat::Text) => text(&table, &mut out)?,
        (Some(table), ListFormat::Json) => json(&table, &mut out)?,
    }
    out.flush()?;
    Ok(EXIT_CLEAN)
}

/// The state graph of some cases, and what is known and not reached.
fn states(files: &[PathBuf], format: ListFormat, out: &mut Out) -> Result<(), Error> {
    let graph = if files.is_empty() { Graph::of(&["corpus".into()])? } else { Graph::of(files)? };
    match format {
        ListFormat::Svg => out.text(&graph.to_svg()),
        ListFormat::Json => {
            graph.edges.iter().try_for_each(|(edge, times)| out.json(&Counted { edge, times: *times }))?;
            out.json(&graph.reach())
        }
        ListFormat::Text => {
            let row = |(e, times): (&Edge, &u64)| vec![e.from.clone(), e.op.into(), e.to.clone(), times.to_string()];
            text(&Table { columns: &["from", "op", "to", "times"], rows: rows(&graph.edges, row) }, out)?;
            out.line("")?;
            graph.reach().lines().iter().try_for_each(|line| out.line(line))
        }
    }
}

/// An edge and how often it was seen.
#[derive(Serialize)]
struct Counted<'a> {
    #[serde(flatten)]
    edge: &'a Edge,
    times: u64,
}

/// The table of a topic. `None` for the states, which are no table but what cases reach.
fn table(topic: Topic) -> Option<Table> {
    Some(match topic {
        Topic::Ops => Table {
            columns: &["name", "syntax", "actor", "family", "source", "summary"],
            rows: rows(OpCode::ALL, |op| {
                vec![
                    op.name().into(),
                    syntax(op),
                    actor(op).into(),
                    op.family().name().into(),
                    op.function().into(),
                    op.summary().into(),
                ]
            }),
        },
        Topic::Rules => Table {
            columns: &["id", "when", "summary", "source"],
            rows: rows(Rule::ALL, |r| {
                vec![r.id().into(), r.when().name().into(), r.summary().into(), r.source().into()]
            }),
        },
        Topic::Defects => Table {
            columns: &["id", "fixed_in", "function", "summary", "source"],
            rows: rows(Defect::ALL, |d| {
                let fixed = d.fixed_in().map_or("-", Kernel::name);
                vec![d.id().into(), fixed.into(), d.function().into(), d.summary().into(), d.source().into()]
            }),
        },
        Topic::Designs => Table {
            columns: &["id", "group", "since", "until", "source"],
            rows: rows(Design::ALL, |d| {
                let until = d.until().map_or("-", Kernel::name);
                let since = if d.only_posted() { "posted" } else { d.since().name() };
                let until = if d.only_posted() { "-" } else { until };
                vec![d.id().into(), d.group().name().into(), since.into(), until.into(), d.source().into()]
            }),
        },
        Topic::Kernels => Table {
            columns: &["name", "designs", "defects"],
            rows: rows(Kernel::ALL, |k| {
                let designs: Vec<_> = k.designs().iter().map(Design::id).collect();
                let defects: Vec<_> = k.defects().iter().map(Defect::id).collect();
                let or_none = |ids: Vec<&str>| if ids.is_empty() { "-".to_owned() } else { ids.join(" ") };
                vec![k.name().into(), or_none(designs), or_none(defects)]
            }),
        },
        Topic::Targets => {
            Table { columns: &["name", "summary"], rows: rows(TARGETS, |t| vec![t.name.into(), t.doc.into()]) }
        }
        Topic::Sites => Table {
            columns: &["name", "summary"],
            rows: rows(Site::ALL, |s| vec![s.name().into(), s.summary().into()]),
        },
        Topic::States => return None,
    })
}

fn rows<T>(items: impl IntoIterator<Item = T>, row: impl Fn(T) -> Vec<String>) -> Vec<Vec<String>> {
    items.into_iter().map(row).collect()
}

/// The op as a line of a case: on the first pages of the first process, device and block.
fn syntax(code: OpCode) -> String {
    let mut case = Case::empty();
    case.ops.push(Op { len: 4, ..Op::new(code, 0) });
    let doc = Document::from(case);
    doc.case.ops.first().map_or_else(String::new, |op| op_text(op, &doc.names))
}

fn actor(op: OpCode) -> &'static str {
    match op.actor() {
        Actor::User => "user",
        Actor::Kernel => "kernel",
        Actor::Device => "device",
    }
}

fn text(table: &Table, out: &mut Out) -> Result<(), Error> {
    let width = |c: usize| {
        let cells = table.rows.iter().map(|r| r[c].chars().count());
        cells.chain([table.columns[c].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let header: Vec<String> = table.columns.iter().map(|c| c.replace('_', " ")).collect();
    for row in [&header].into_iter().chain(&table.rows) {
        let line: String = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}  ")).collect();
        out.line(line.trim_end())?;
    }
    Ok(())
}

fn json(table: &Table, out: &mut Out) -> Result<(), Error> {
    for row in &table.rows {
        let fields = table.columns.iter().zip(row);
        let object: Map<String, Value> = fields.map(|(c, v)| ((*c).to_owned(), Value::from(v.as_str()))).collect();
        out.json(&object)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_table_has_all_its_rows_and_no_empty_cell() {
        let tables = || Topic::value_variants().iter().filter_map(|t| table(*t));
        let sizes: Vec<usize> = tables().map(|t| t.rows.len()).collect();
        let all = [
            OpCode::ALL.len(),
            Rule::ALL.len(),
            Defect::ALL.len(),
            Design::ALL.len(),
            Kernel::ALL.len(),
            TARGETS.len(),
            Site::ALL.len(),
        ];
        assert_eq!(sizes, all);
        for table in tables() {
            assert!(table.rows.iter().all(|r| r.len() == table.columns.len() && r.iter().all(|c| !c.is_empty())));
        }
    }
}
