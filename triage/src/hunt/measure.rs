//! How long a hunt takes to find a defect that is known to be there.
//!
//! One worker process, as `ptefuzz hunt --jobs 1` has it, with an empty corpus. It counts as found when the worker reports a
//! case that is clean once the defect is taken out of it: what the repaired model is accused of by mistake is no find.

use std::path::Path;
use std::time::Duration;

use ptefuzz_core::config::{Defect, DesignSet};
use ptefuzz_fuzz::Pin;
use ptefuzz_fuzz::driver::{Campaign, Stats, WorkerMessage};

use super::TICK;
use super::pool::{Pool, What};
use crate::error::Error;
use crate::input::{self, Input};
use crate::judge::Judge;

/// What to look for, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    /// What must be found.
    pub(crate) defect: Defect,
    /// Fuzz target.
    pub(crate) target: &'a str,
    /// Seed of the engine.
    pub(crate) seed: u32,
    /// Most time on a CPU.
    pub(crate) limit: Duration,
}

/// What came of a search.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Attempt {
    /// Rule that was violated. `None`: not found.
    pub(crate) rule: Option<String>,
    /// Cases run until then, or until the limit.
    pub(crate) cases: u64,
    /// Time on a CPU until then, or until the limit.
    pub(crate) busy: Duration,
    /// Cases that break a rule without the defect, too.
    pub(crate) false_alarms: u64,
}

/// The pin of a hunt for this defect: it alone, on the release and with the design that it belongs to.
pub(crate) fn pin(defect: Defect) -> Pin {
    let designs = defect.design().into_iter().fold(DesignSet::default(), DesignSet::choose);
    Pin { designs, ..Pin::fixed(defect.home()) }.with_defect(defect)
}

/// Searches. The folder is for the worker's files.
///
/// # Errors
/// When the worker cannot be started or fails, and when the harness does.
pub(crate) fn search(judge: &mut Judge, search: &Search<'_>, folder: &Path) -> Result<Attempt, Error> {
    let campaign = Campaign {
        seed: search.seed,
        keep_going: true,
        saved_per_key: u32::MAX,
        ..Campaign::new(search.target, pin(search.defect), folder.to_owned())
    };
    let mut pool = Pool::start(&[campaign])?;
    let mut attempt = Attempt::default();
    while pool.running() > 0 && attempt.busy < search.limit {
        for event in pool.wait(TICK) {
            if attempt.rule.is_none() {
                attempt.take(judge, search.defect, event.what)?;
            }
        }
        if attempt.rule.is_some() {
            break;
        }
    }
    pool.stop(Duration::ZERO);
    Ok(attempt)
}

impl Attempt {
    fn take(&mut self, judge: &mut Judge, defect: Defect, what: What) -> Result<(), Error> {
        let failed = |message: String| Error::Worker { index: 0, message };
        match what {
            What::Said(WorkerMessage::Stats(stats)) => self.count(stats),
            What::Said(WorkerMessage::Find { id, path, unsaved, stats, .. }) => {
                self.count(stats);
                let input = match unsaved {
                    Some(unsaved) => input::of_bytes(path.display().to_string(), &path, &unsaved.contents)?,
                    None => input::load(&path)?,
                };
                if is_caused_by(judge, defect, input)? {
                    self.rule = Some(id);
                } else {
                    self.false_alarms += 1;
                }
            }
            What::Said(WorkerMessage::HarnessPanic { summary, path, .. }) => {
                return Err(Error::Harness { file: path.display().to_string(), message: summary });
            }
            What::Said(WorkerMessage::Failed { error }) => return Err(failed(error)),
            What::Said(WorkerMessage::Done { stats, .. }) => self.count(stats),
            What::Babbled(line) => return Err(failed(format!("says what is no message: {line}"))),
            What::Ended { how, .. } => {
                return Err(failed(how.unwrap_or_else(|| "ended without a last word".to_owned())));
            }
        }
        Ok(())
    }

    fn count(&mut self, stats: Stats) {
        (self.cases, self.busy) = (stats.cases, Duration::from_millis(stats.busy_millis));
    }
}

/// Is the case clean once the defect is taken out of it?
fn is_caused_by(judge: &mut Judge, defect: Defect, Input { name, doc, .. }: Input) -> Result<bool, Error> {
    let mut case = doc.case;
    case.config.defects = case.config.defects.without(defect);
    Ok(judge.run(&name, &case)?.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAK: &str = "kernel   7.3\ngeometry tiny\n\nprocess A\n  heap = mmap anon private rw 4\n\ncpu 0\n  A write heap[0]\n  A exit\n";

    #[test]
    fn a_violation_counts_only_where_the_defect_makes_the_difference() {
        let mut judge = Judge::new();
        let case = |text: &str| input::of_bytes("x.case".into(), Path::new("x.case"), text.as_bytes()).expect("a case");
        let shown = case(&LEAK.replace("tiny\n", "tiny\ndefect   S17\n"));
        assert!(judge.run("x.case", &shown.doc.case).expect("runs").is_some());
        assert!(is_caused_by(&mut judge, Defect::S17, shown).expect("runs"));
        let both = case(&LEAK.replace("tiny\n", "tiny\ndefect   S4\ndefect   S17\n"));
        assert!(!is_caused_by(&mut judge, Defect::S4, both).expect("runs"), "S17 is enough");
    }

    #[test]
    fn a_defect_is_looked_for_alone_on_the_release_that_had_it() {
        for defect in Defect::ALL {
            let pin = pin(defect);
            assert_eq!(pin.defects.iter().collect::<Vec<_>>(), [defect]);
            assert!(pin.check().is_ok() && pin.kernel.is_some());
        }
    }
}
