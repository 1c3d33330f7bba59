//! `ptefuzz hunt`: fuzz until something is found; then make it small, tell its story and save it.
//!
//! libFuzzer takes over the process that it runs in, so this program starts itself again as a worker for each
//! job (`pool`) and reads one message a line from it. What the workers say is added up in a ledger; at the
//! end each rule that was violated is settled once, by its smallest case. A worker that dies, and a
//! panic of the harness, are reported as what they are and never as a find.

mod finds;
mod ledger;
pub(crate) mod measure;
mod pool;
mod progress;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ptefuzz_core::config::{DefectSet, Design, DesignSet, Kernel};
use ptefuzz_fuzz::Pin;
use ptefuzz_fuzz::driver::{self, Campaign};

use crate::cli::{Choice, Hunt};
use crate::equivalent;
use crate::error::{EXIT_CLEAN, EXIT_ERROR, EXIT_VIOLATION, Error, Outcome};
use crate::judge::Judge;
use crate::output::{Format, Out, complain, rescue};
use ledger::{Ledger, Summary};
use pool::Pool;
use progress::Progress;

/// Time that a worker has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two looks at the clock and at Ctrl-C.
const TICK: Duration = Duration::from_millis(50);

/// Hunts.
///
/// # Errors
/// When the folder cannot be written or no worker can be started.
pub fn run(options: &Hunt) -> Outcome {
    equivalent::pair(&options.equivalent)?;
    contradictions(options)?;
    pin(options).check().map_err(|e| Error::Usage(format!("this hunt cannot be: {e}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // The second Ctrl-C ends even what is being settled. Workers end when their parent does.
    let on_signal = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_ERROR));
        }
    };
    ctrlc::set_handler(on_signal).map_err(|e| Error::Usage(format!("cannot watch for Ctrl-C: {e}")))?;
    let seed = options.seed.unwrap_or_else(clock_seed).max(1);
    let jobs = options.jobs.map_or_else(default_jobs, usize::from);
    let scratch = pool::scratch(&options.out);
    let mut pool = Pool::start(&campaigns(options, &scratch, seed, jobs))?;
    let mut ledger = Ledger::default();
    let mut progress = Progress::new(options, jobs, seed);
    let start = Instant::now();
    while pool.running() > 0 {
        for event in pool.wait(TICK) {
            ledger.take(event);
        }
        progress.tell(&ledger, start.elapsed());
        let late = options.time.is_some_and(|t| start.elapsed() > t + GRACE);
        let found = ledger.has_finds() && !options.keep_going;
        if found || late || ledger.harness_failed() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    for event in pool.stop(GRACE) {
        ledger.take(event);
    }
    progress.end();
    let code = report(options, &ledger, &ledger.summary(start.elapsed(), jobs, seed))?;
    if ledger.failures().is_empty() && code != EXIT_ERROR {
        // Made by this hunt, and all that is in it is settled. Staying behind does no harm.
        let _left_behind = std::fs::remove_dir_all(&scratch);
    }
    Ok(code)
}

/// The orders of each worker.
fn campaigns(options: &Hunt, scratch: &Path, seed: u32, jobs: usize) -> Vec<Campaign> {
    let pin = pin(options);
    (0..jobs)
        .map(|i| Campaign {
            seed: nth_seed(seed, i),
            time: options.time,
            runs: options.runs,
            keep_going: options.keep_going,
            ..Campaign::new(&options.target, pin, scratch.join(format!("worker-{i}")))
        })
        .collect()
}

/// The `n`th seed from `first`, never 0: that means "from the clock" to libFuzzer.
fn nth_seed(first: u32, n: usize) -> u32 {
    let past = (u64::from(first.max(1)) - 1 + n as u64) % u64::from(u32::MAX);
    u32::try_from(past + 1).unwrap_or(1)
}

/// Refuses options of which one would silently undo another.
fn contradictions(options: &Hunt) -> Result<(), Error> {
    if let Some(d) = options.defect.iter().find(|d| options.without.contains(d)) {
        return Err(Error::Usage(format!("{} is switched on by --defect and off by --without", d.id())));
    }
    let named: Vec<Design> = options.design.iter().filter_map(|d| d.one()).collect();
    for (i, a) in named.iter().enumerate() {
        if let Some(b) = named[..i].iter().find(|b| b.group() == a.group()) {
            let message = format!("{} and {} are two ways of doing one thing: one of them is possible", b.id(), a.id());
            return Err(Error::Usage(message));
        }
    }
    Ok(())
}

/// What every case is made to run on.
fn pin(options: &Hunt) -> Pin {
    let kernel = options.kernel.one();
    let base = kernel.filter(|_| !options.fixed).map_or(DefectSet::EMPTY, Kernel::defects);
    let with = options.defect.iter().fold(base, |set, d| set.with(*d));
    Pin {
        kernel,
        arch: options.arch,
        designs: options.design.iter().filter_map(|d| d.one()).fold(DesignSet::default(), DesignSet::choose),
        any_design: options.design.contains(&Choice::Any),
        defects: options.without.iter().fold(with, |set, d| set.without(*d)),
        equivalent: options.equivalent[..].try_into().ok(),
    }
}

/// Settles and prints what was found, then what went wrong, then the sum. The exit status follows the worst.
fn report(options: &Hunt, ledger: &Ledger, summary: &Summary) -> Outcome {
    let mut out = Out::stdout();
    let mut judge = Judge::new();
    let mut code = EXIT_CLEAN;
    // Everything is saved before anything is printed: whoever reads may go away.
    let finds = ledger.smallest_of_each_rule();
    let settled: Vec<_> =
        finds.iter().map(|find| finds::settle(&mut judge, find, pin(options).equivalent, &options.out)).collect();
    // Standard output may fail; what is on no disk is printed on standard error all the same.
    let mut printed = Ok(());
    for (i, (find, settled)) in finds.into_iter().zip(settled).enumerate() {
        match settled {
            Ok(settled) => {
                let whole = i == 0 || options.keep_going;
                let print = |()| settled.print(&mut out, options.format, whole).and_then(|()| out.flush());
                printed = printed.and_then(print);
                code = code.max(if settled.rescue() { EXIT_ERROR } else { EXIT_VIOLATION });
            }
            Err(e) => {
                complain(&e.to_string());
                match &find.unsaved {
                    None => complain(&format!("what was found ({}) is still in {}", find.summary, find.path.display())),
                    Some(unsaved) => rescue(&find.path, &unsaved.contents),
                }
                code = EXIT_ERROR;
            }
        }
    }
    for failure in ledger.failures() {
        complain(&failure.to_string());
        // What is wrong with the harness outweighs a find; a lost worker does not.
        let harness = matches!(failure, Error::Harness { .. });
        if harness || code == EXIT_CLEAN {
            code = EXIT_ERROR;
        }
    }
    for (path, unsaved) in ledger.unsaved() {
        complain(&format!("{}: {}", path.display(), unsaved.error));
        rescue(path, &unsaved.contents);
    }
    printed?;
    match options.format {
        Format::Json => out.json(summary)?,
        Format::Text => out.line(&summary.line())?,
    }
    out.flush()?;
    Ok(code)
}

/// One fuzzing process: runs the campaign and never comes back.
///
/// # Errors
/// When the campaign is not one.
pub fn worker(campaign: &str) -> Outcome {
    let campaign: Campaign =
        serde_json::from_str(campaign).map_err(|e| Error::Usage(format!("not a campaign: {e}")))?;
    ctrlc::set_handler(driver::request_stop).map_err(|e| Error::Usage(format!("cannot watch for Ctrl-C: {e}")))?;
    driver::stop_when_stdin_closes();
    driver::run_worker(campaign, driver::report_to_stdout())
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A seed that differs from run to run.
fn clock_seed() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.subsec_nanos() ^ d.as_secs() as u32)
}

/// Where what was found is saved.
fn finds_folder(out: &Path) -> std::path::PathBuf {
    out.join("finds")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ptefuzz_core::config::Defect;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn options(line: &str) -> Hunt {
        match Cli::try_parse_from(line.split_whitespace()).expect("parses").verb {
            Verb::Hunt(options) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_release_is_hunted_with_the_defects_it_had_and_options_change_them() {
        assert_eq!(pin(&options("ptefuzz hunt --kernel 6.12")), Pin::release(Kernel::V6_12));
        assert_eq!(pin(&options("ptefuzz hunt")), Pin::fixed(Kernel::NEWEST));
        let one = pin(&options("ptefuzz hunt --kernel 6.12 --fixed --defect D12 --defect S1"));
        assert_eq!(one.defects.iter().collect::<Vec<_>>(), [Defect::D12, Defect::S1]);
        let less = pin(&options("ptefuzz hunt --kernel 6.12 --without D12"));
        assert_eq!(less.defects, Kernel::V6_12.defects().without(Defect::D12));
    }

    #[test]
    fn any_release_and_any_design_are_hunted_without_known_defects_but_with_those_that_are_named() {
        assert_eq!(pin(&options("ptefuzz hunt --kernel any")), Pin::FIXED);
        let all = pin(&options("ptefuzz hunt --kernel any --design any --defect S1"));
        assert_eq!(all, Pin { any_design: true, ..Pin::FIXED }.with_defect(Defect::S1));
        let one = pin(&options("ptefuzz hunt --design any --design exclusive-by-walk"));
        let designs = DesignSet::default().choose(Design::ExclusiveByWalk);
        assert_eq!(one, Pin { any_design: true, designs, ..Pin::fixed(Kernel::NEWEST) });
    }

    #[test]
    fn options_that_undo_each_other_are_refused() {
        let error = |line| contradictions(&options(line)).expect_err("contradicts itself").to_string();
        assert!(error("ptefuzz hunt --defect D12 --without D12").starts_with("D12 is switched on by --defect and off"));
        let both = error("ptefuzz hunt --design exclusive-by-walk --design exclusive-by-rmap");
        assert!(both.starts_with("exclusive-by-walk and exclusive-by-rmap are two ways"), "{both}");
        let fine = "ptefuzz hunt --kernel 6.12 --without D12 --defect N1 --design any --design exclusive-by-walk";
        assert!(contradictions(&options(fine)).is_ok());
    }

    #[test]
    fn every_worker_has_a_seed_and_a_folder_of_its_own() {
        let list = campaigns(&options("ptefuzz hunt --time 3 --keep-going"), Path::new("scratch"), u32::MAX, 3);
        let seeds: Vec<u32> = list.iter().map(|c| c.seed).collect();
        assert_eq!(seeds, [u32::MAX, 1, 2]);
        assert!(list[0].finds != list[1].finds && list[0].keep_going);
        assert_eq!(list[0].time, Some(Duration::from_secs(3)));
    }
}
