//! `ptefuzz list`: what exists, straight from the tables.

use ptefuzz_core::config::{Defect, Design, Kernel};
use ptefuzz_core::program::{Actor, OpCode};
use ptefuzz_core::rule::Rule;
use ptefuzz_core::sched::Site;
use ptefuzz_fuzz::targets::TARGETS;
use serde_json::{Map, Value};

use crate::cli::{List, Topic};
use crate::error::{EXIT_CLEAN, Error, Outcome};
use crate::output::{Format, Out};

/// A table: names of its columns, and rows as long.
struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

pub(super) fn run(options: &List) -> Outcome {
    let table = table(options.topic);
    let mut out = Out::stdout();
    match options.format {
        Format::Text => text(&table, &mut out)?,
        Format::Json => json(&table, &mut out)?,
    }
    out.flush()?;
    Ok(EXIT_CLEAN)
}

fn table(topic: Topic) -> Table {
    match topic {
        Topic::Ops => Table {
            columns: &["name", "actor", "family", "source", "summary"],
            rows: rows(OpCode::ALL, |op| {
                vec![
                    op.name().into(),
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
            columns: &["id", "since", "until", "source"],
            rows: rows(Design::ALL, |d| {
                let until = d.until().map_or("-", Kernel::name);
                let since = if d.only_posted() { "posted" } else { d.since().name() };
                let until = if d.only_posted() { "-" } else { until };
                vec![d.id().into(), since.into(), until.into(), d.source().into()]
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
    }
}

fn rows<T>(items: impl IntoIterator<Item = T>, row: impl Fn(T) -> Vec<String>) -> Vec<Vec<String>> {
    items.into_iter().map(row).collect()
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
        let sizes: Vec<usize> = Topic::value_variants().iter().map(|t| table(*t).rows.len()).collect();
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
        for topic in Topic::value_variants() {
            let table = table(*topic);
            assert!(table.rows.iter().all(|r| r.len() == table.columns.len() && r.iter().all(|c| !c.is_empty())));
        }
    }
}
