//! What the workers have said, added up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ptefuzz_fuzz::driver::{Stats, Unsaved, WorkerMessage};
use serde::Serialize;

use super::pool::{Event, What};
use crate::error::Error;

/// A find as a worker saved it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Find {
    pub(super) id: String,
    pub(super) summary: String,
    pub(super) path: PathBuf,
    /// What it is, when the worker could not save it.
    pub(super) unsaved: Option<Unsaved>,
}

/// The account of a hunt.
#[derive(Default)]
pub(super) struct Ledger {
    stats: BTreeMap<usize, Stats>,
    finds: Vec<Find>,
    failures: Vec<Error>,
    /// Inputs of failures that no worker could save.
    unsaved: Vec<(PathBuf, Unsaved)>,
    /// Workers that have said their last word.
    finished: Vec<usize>,
}

/// The sum. Field names are public and stable.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Summary {
    /// Always `done`, to tell this line from the finds before it.
    pub(super) summary: &'static str,
    pub(super) cases: u64,
    pub(super) seconds: f64,
    pub(super) cases_per_second: f64,
    /// Most state counters that one worker has hit.
    pub(super) coverage: u64,
    /// Cases that violated a rule, repetitions included.
    pub(super) violations: u64,
    /// Rules that were violated.
    pub(super) rules: usize,
    pub(super) workers: usize,
    pub(super) seed: u32,
}

impl Ledger {
    /// Enters an event.
    pub(super) fn take(&mut self, event: Event) {
        let worker = event.worker;
        match event.what {
            What::Said(message) => self.message(worker, message),
            What::Babbled(line) => {
                let line: String = line.chars().take(120).collect();
                self.lost(worker, format!("says what is no message: {line}"));
            }
            What::Ended { how, left } => {
                for path in left {
                    if self.told_of(&path) {
                        continue;
                    }
                    let how = how.clone().unwrap_or_else(|| "ended".to_owned());
                    let file = path.display().to_string();
                    self.failures.push(Error::Harness { file, message: format!("worker {worker} {how}") });
                }
                if !self.finished.contains(&worker) {
                    self.lost(worker, how.unwrap_or_else(|| "ended without a last word".to_owned()));
                }
            }
        }
    }

    fn message(&mut self, worker: usize, message: WorkerMessage) {
        match message {
            WorkerMessage::Stats(stats) => self.count(worker, stats),
            WorkerMessage::Find { id, summary, path, unsaved, stats, .. } => {
                self.finds.push(Find { id, summary, path, unsaved });
                self.count(worker, stats);
            }
            WorkerMessage::HarnessPanic { summary, path, unsaved, stats } => {
                self.failures.push(Error::Harness { file: path.display().to_string(), message: summary });
                self.unsaved.extend(unsaved.map(|u| (path, u)));
                self.count(worker, stats);
            }
            WorkerMessage::Done { stats, .. } => {
                self.count(worker, stats);
                self.finished.push(worker);
            }
            WorkerMessage::Failed { error } => {
                self.lost(worker, error);
                self.finished.push(worker);
            }
        }
    }

    /// True when this input has been reported already.
    fn told_of(&self, path: &Path) -> bool {
        let name = path.display().to_string();
        self.failures.iter().any(|f| matches!(f, Error::Harness { file, .. } if *file == name))
    }

    fn count(&mut self, worker: usize, stats: Stats) {
        self.stats.insert(worker, stats);
    }

    fn lost(&mut self, worker: usize, message: String) {
        self.failures.push(Error::Worker { index: worker, message });
    }

    /// True when anything was found.
    pub(super) fn has_finds(&self) -> bool {
        !self.finds.is_empty()
    }

    /// True when the harness itself has failed.
    pub(super) fn harness_failed(&self) -> bool {
        self.failures.iter().any(|f| matches!(f, Error::Harness { .. }))
    }

    /// What went wrong, in order.
    pub(super) fn failures(&self) -> &[Error] {
        &self.failures
    }

    /// Inputs of failures that no worker could save, in order.
    pub(super) fn unsaved(&self) -> &[(PathBuf, Unsaved)] {
        &self.unsaved
    }

    /// For each rule, the find whose file is smallest; rules in the order in which they were first seen.
    pub(super) fn smallest_of_each_rule(&self) -> Vec<&Find> {
        let mut best: Vec<(u64, &Find)> = Vec::new();
        for find in &self.finds {
            let size = match &find.unsaved {
                Some(unsaved) => unsaved.contents.len() as u64,
                None => std::fs::metadata(&find.path).map_or(u64::MAX, |m| m.len()),
            };
            match best.iter_mut().find(|(_, other)| other.id == find.id) {
                None => best.push((size, find)),
                Some(entry) if size < entry.0 => *entry = (size, find),
                Some(_) => {}
            }
        }
        best.into_iter().map(|(_, find)| find).collect()
    }

    /// Cases run so far.
    pub(super) fn cases(&self) -> u64 {
        self.stats.values().map(|s| s.cases).sum()
    }

    /// Most state counters that one worker has hit.
    pub(super) fn coverage(&self) -> u64 {
        self.stats.values().map(|s| s.coverage).max().unwrap_or(0)
    }

    /// Rules violated so far.
    pub(super) fn rules(&self) -> usize {
        let ids: std::collections::BTreeSet<&str> = self.finds.iter().map(|f| f.id.as_str()).collect();
        ids.len()
    }

    /// The sum after this time.
    pub(super) fn summary(&self, time: Duration, workers: usize, seed: u32) -> Summary {
        // Time that the workers fuzzed, not what it took to start and stop them.
        let millis = self.stats.values().map(|s| s.millis).max().unwrap_or(0).max(1);
        Summary {
            summary: "done",
            cases: self.cases(),
            seconds: time.as_secs_f64(),
            cases_per_second: self.cases() as f64 * 1000.0 / millis as f64,
            coverage: self.coverage(),
            violations: self.stats.values().map(|s| s.finds).sum(),
            rules: self.rules(),
            workers,
            seed,
        }
    }
}

impl Summary {
    /// The sum in one line.
    pub(super) fn line(&self) -> String {
        let found = match self.rules {
            0 => "nothing found".to_owned(),
            1 => "1 rule violated".to_owned(),
            n => format!("{n} rules violated"),
        };
        let s = if self.workers == 1 { "" } else { "s" };
        format!(
            "{found}: {} cases in {:.1} s ({:.0}/s, {} worker{s}), {} states, seed {}",
            self.cases, self.seconds, self.cases_per_second, self.workers, self.coverage, self.seed
        )
    }
}

#[cfg(test)]
mod tests {
    use ptefuzz_fuzz::driver::StopReason;

    use super::*;

    fn stats(cases: u64) -> Stats {
        Stats { cases, finds: 1, saved: 1, coverage: cases / 10, millis: 500, busy_millis: 500 }
    }

    fn said(worker: usize, message: WorkerMessage) -> Event {
        Event { worker, what: What::Said(message) }
    }

    fn find(id: &str, path: PathBuf) -> WorkerMessage {
        let sites = Vec::new();
        WorkerMessage::Find { id: id.into(), sites, summary: "s".into(), path, unsaved: None, stats: stats(10) }
    }

    #[test]
    fn a_rule_is_settled_once_by_its_smallest_case() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut ledger = Ledger::default();
        for (name, id, size) in [("a", "x.y", 30), ("b", "x.y", 10), ("c", "u.v", 20), ("d", "x.y", 10)] {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![b'x'; size]).expect("written");
            ledger.take(said(0, find(id, path)));
        }
        let kept: Vec<_> =
            ledger.smallest_of_each_rule().iter().map(|f| f.path.file_name().expect("name").to_owned()).collect();
        assert_eq!(kept, ["b", "c"], "in the order of the rules' first finds");
        assert_eq!(ledger.rules(), 2);
    }

    #[test]
    fn a_worker_that_dies_is_reported_and_what_it_found_is_kept() {
        let mut ledger = Ledger::default();
        ledger.take(said(0, WorkerMessage::Stats(stats(100))));
        ledger.take(said(1, find("x.y", "somewhere".into())));
        ledger
            .take(Event { worker: 1, what: What::Ended { how: Some("killed by signal 9".into()), left: Vec::new() } });
        assert!(ledger.has_finds() && !ledger.harness_failed());
        assert_eq!(ledger.failures()[0].to_string(), "worker 1: killed by signal 9");
        assert_eq!(ledger.cases(), 110);
    }

    #[test]
    fn a_worker_that_says_its_last_word_is_not_missed() {
        let mut ledger = Ledger::default();
        ledger.take(said(0, WorkerMessage::Done { reason: StopReason::Time, stats: stats(70) }));
        ledger.take(Event { worker: 0, what: What::Ended { how: None, left: Vec::new() } });
        assert!(ledger.failures().is_empty() && !ledger.has_finds());
        let line = ledger.summary(Duration::from_secs(1), 1, 9).line();
        assert_eq!(line, "nothing found: 70 cases in 1.0 s (140/s, 1 worker), 7 states, seed 9");
    }

    #[test]
    fn a_panic_of_the_harness_is_a_failure_with_its_input_and_never_a_find() {
        let mut ledger = Ledger::default();
        let unsaved = Some(Unsaved { error: "disk full".into(), contents: vec![1, 2] });
        let (summary, path) = ("boom".into(), "in.bin".into());
        ledger.take(said(0, WorkerMessage::HarnessPanic { summary, path, unsaved, stats: stats(5) }));
        assert_eq!(ledger.unsaved()[0].1.contents, [1, 2], "an input that could not be saved is kept here");
        assert!(ledger.harness_failed() && !ledger.has_finds());
        assert!(ledger.failures()[0].to_string().starts_with("in.bin: harness bug, not a finding: boom"));
        let ended = What::Ended { how: Some("killed by signal 11".into()), left: vec!["harness-crash-1".into()] };
        ledger.take(Event { worker: 2, what: ended });
        assert!(ledger.failures()[1].to_string().starts_with("harness-crash-1: harness bug"));
        let told = ledger.failures().len();
        ledger.take(said(0, WorkerMessage::Done { reason: StopReason::HarnessPanic, stats: stats(5) }));
        ledger.take(Event { worker: 0, what: What::Ended { how: None, left: vec!["in.bin".into()] } });
        assert_eq!(ledger.failures().len(), told, "the same input is reported once");
    }
}
