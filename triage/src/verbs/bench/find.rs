//! `ptefuzz bench find`: cases and seconds until a hunt finds each defect.

use std::path::PathBuf;

use ptefuzz_core::config::Defect;
use serde::Serialize;

use crate::cli::Find;
use crate::error::{EXIT_CLEAN, Error, Outcome};
use crate::hunt::measure::{Attempt, Search, search};
use crate::judge::Judge;
use crate::output::{Format, Out};

/// Figures of one defect. Field names are public and stable.
#[derive(Serialize, Debug)]
struct Row {
    defect: &'static str,
    kernel: &'static str,
    target: String,
    /// Searches that found it.
    found: usize,
    /// Searches that were asked for.
    seeds: usize,
    /// `None`: fewer than half of them found it.
    median_cases: Option<u64>,
    median_seconds: Option<f64>,
    /// Those that were made.
    attempts: Vec<One>,
}

/// Figures of one search.
#[derive(Serialize, Debug)]
struct One {
    seed: u32,
    /// Rule that was violated; `None` where nothing was found.
    id: Option<String>,
    cases: u64,
    seconds: f64,
    /// Cases that break a rule without the defect, too.
    false_alarms: u64,
}

/// A folder that is gone with all that is in it when the measuring ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Staying behind does no harm.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run(options: &Find, out: &mut Out) -> Outcome {
    let scratch = Scratch(std::env::temp_dir().join(format!("ptefuzz-bench-{}", std::process::id())));
    let all = if options.defects.is_empty() { &Defect::ALL[..] } else { &options.defects };
    let mut judge = Judge::new();
    if options.format == Format::Text {
        let [cases, seconds] = ["median cases", "median s"];
        out.line(&format!("{:<8}{:<8}{:>7}{cases:>15}{seconds:>10}  rule", "defect", "kernel", "found"))?;
    }
    let mut late = Vec::new();
    for defect in all {
        let row = measure(&mut judge, *defect, options, &scratch)?;
        match options.format {
            Format::Json => out.json(&row)?,
            Format::Text => out.line(&row.line())?,
        }
        out.flush()?;
        if row.median_cases.is_none() {
            late.push(row.defect);
        }
    }
    if options.format == Format::Text {
        let limit = options.limit.as_secs_f64();
        let (found, of) = (all.len() - late.len(), all.len());
        out.line(&format!("{found} of {of} found in a median under {limit} s{}", listed(&late)))?;
        out.flush()?;
    }
    Ok(EXIT_CLEAN)
}

fn listed(late: &[&str]) -> String {
    if late.is_empty() { String::new() } else { format!("; not: {}", late.join(", ")) }
}

/// Looks for one defect with one seed after the other, as long as the median is open.
fn measure(judge: &mut Judge, defect: Defect, options: &Find, scratch: &Scratch) -> Result<Row, Error> {
    let seeds = usize::from(options.seeds);
    let mut attempts = Vec::with_capacity(seeds);
    for seed in (options.seed..).take(seeds) {
        let folder = scratch.0.join(format!("{}-{seed}", defect.id()));
        let order = Search { defect, target: &options.target, seed, limit: options.limit };
        attempts.push((seed, search(judge, &order, &folder)?));
        if attempts.iter().filter(|(_, a)| a.rule.is_none()).count() > seeds / 2 {
            break;
        }
    }
    Ok(Row::new(defect, &options.target, seeds, attempts))
}

/// The middle one of so many values, of which those that are missing are the largest.
fn median<T: Copy + PartialOrd>(mut values: Vec<T>, of: usize) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(of / 2).copied()
}

impl Row {
    fn new(defect: Defect, target: &str, seeds: usize, attempts: Vec<(u32, Attempt)>) -> Row {
        let found: Vec<&Attempt> = attempts.iter().map(|(_, a)| a).filter(|a| a.rule.is_some()).collect();
        Row {
            defect: defect.id(),
            kernel: defect.home().name(),
            target: target.to_owned(),
            found: found.len(),
            seeds,
            median_cases: median(found.iter().map(|a| a.cases).collect(), seeds),
            median_seconds: median(found.iter().map(|a| a.busy.as_secs_f64()).collect(), seeds),
            attempts: attempts.into_iter().map(|(seed, attempt)| One::new(seed, attempt)).collect(),
        }
    }

    fn line(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let seconds = self.median_seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
        let found = format!("{}/{}", self.found, self.seeds);
        let mut rules: Vec<&str> = self.attempts.iter().filter_map(|a| a.id.as_deref()).collect();
        rules.sort_unstable();
        rules.dedup();
        let cases = number(self.median_cases);
        format!("{:<8}{:<8}{found:>7}{cases:>15}{seconds:>10}  {}", self.defect, self.kernel, rules.join(" "))
    }
}

impl One {
    fn new(seed: u32, Attempt { rule, cases, busy, false_alarms }: Attempt) -> One {
        One { seed, id: rule, cases, seconds: busy.as_secs_f64(), false_alarms }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(rule: Option<&str>, cases: u64) -> Attempt {
        Attempt { rule: rule.map(str::to_owned), cases, busy: Duration::from_millis(cases), false_alarms: 0 }
    }

    #[test]
    fn the_median_counts_what_was_not_found_as_later_than_everything_else() {
        let row = |all: &[(Option<&str>, u64)]| {
            let attempts = (1..).zip(all.iter().map(|(rule, cases)| attempt(*rule, *cases))).collect();
            Row::new(Defect::D12, "machine", 5, attempts)
        };
        let a = Some("a.rule");
        let most = row(&[(a, 50), (None, 10), (a, 20), (None, 10), (a, 40)]);
        assert_eq!((most.found, most.median_cases, most.median_seconds), (3, Some(50), Some(0.05)));
        let few = row(&[(a, 50), (None, 10), (a, 20), (None, 10), (None, 10)]);
        assert_eq!((few.found, few.median_cases, few.median_seconds), (2, None, None));
        assert_eq!(row(&[(a, 5), (a, 1), (a, 4), (a, 2), (a, 3)]).median_cases, Some(3));
    }

    #[test]
    fn a_row_names_the_release_and_each_rule_once() {
        let attempts =
            vec![(1, attempt(Some("b.rule"), 3)), (2, attempt(Some("a.rule"), 2)), (3, attempt(Some("b.rule"), 1))];
        let line = Row::new(Defect::D12, "machine", 3, attempts).line();
        assert_eq!(line, "D12     6.12        3/3              2       0.0  a.rule b.rule");
    }
}
