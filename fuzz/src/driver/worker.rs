//! The worker: one input after the other, finds saved, progress told.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ptefuzz_core::program::Case;

use super::campaign::Campaign;
use super::message::{Report, Stats, StopReason, Unsaved, WorkerMessage};
use crate::coverage::{self, Seen};
use crate::hash::fnv1a;
use crate::mutator;
use crate::session::{self, Failure, Session};
use crate::targets::{self, Input, Target};

/// Time between two progress messages.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Inputs between two looks at the clock: a power of two.
const CLOCK_EVERY: u64 = 16;

/// So many inputs are looked through for new states one by one, ...
const LOOK_AT_ALL: u64 = 4096;
/// ... and one in so many after that: the look costs as much as a small case, and states that are new lead to
/// inputs that reach them again.
const LOOK_AT_ONE_IN: u64 = 16;

/// Cases that are generated and run for each input of the engine, which costs as much as several of them.
const GENERATED: u32 = 8;

/// Message and place of the last panic, as the hook saw it.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Takes over the process's panic hook: panics are remembered for the report instead of printed.
pub(super) fn remember_panics() {
    panic::set_hook(Box::new(|info| {
        let line = info.to_string().replace('\n', " ");
        *PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = line;
    }));
}

/// What came of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing wrong with it: the engine may keep it.
    Keep,
    /// It failed. Mutating it further would only find the same again.
    Reject,
    /// Enough, and said so.
    Stop,
}

/// A campaign under way.
pub(super) struct Worker {
    campaign: Campaign,
    target: &'static Target,
    session: Session,
    seen: Seen,
    saved: BTreeMap<(String, Vec<String>), u32>,
    stats: Stats,
    start: Instant,
    busy_at_start: Option<Duration>,
    /// The target takes cases, which can be generated.
    generates: bool,
    /// Cases that were generated, and the buffer for the next.
    made: u64,
    bytes: Vec<u8>,
    told: Instant,
    report: Report,
}

impl Worker {
    /// Gets everything ready.
    ///
    /// # Errors
    /// One line, and the way to report it: an unknown target, or a directory that cannot be made.
    pub(super) fn new(campaign: Campaign, report: Report) -> Result<Worker, (String, Report)> {
        match targets::by_name(&campaign.target) {
            Some(target) => Worker::with_target(target, campaign, report),
            None => Err((format!("no target `{}`", campaign.target), report)),
        }
    }

    fn with_target(target: &'static Target, campaign: Campaign, report: Report) -> Result<Worker, (String, Report)> {
        for dir in [Some(&campaign.finds), campaign.corpus.as_ref()].into_iter().flatten() {
            if let Err(e) = fs::create_dir_all(dir) {
                return Err((format!("{}: {e}", dir.display()), report));
            }
        }
        mutator::choose(target);
        let now = Instant::now();
        Ok(Worker {
            session: Session::new(campaign.pin),
            campaign,
            target,
            seen: Seen::default(),
            saved: BTreeMap::new(),
            stats: Stats::default(),
            start: now,
            busy_at_start: on_cpu(),
            generates: matches!(target.input, Input::Case(_)),
            made: 0,
            bytes: Vec::new(),
            told: now,
            report,
        })
    }

    /// Gives back the way to report.
    pub(super) fn into_report(self) -> Report {
        self.report
    }

    /// Runs one input. After [`Next::Stop`] the last message has been sent.
    pub(super) fn input(&mut self, bytes: &[u8]) -> Next {
        if mutator::take_panic() {
            return self.panicked(bytes);
        }
        if self.generates {
            self.session.report_states(false);
            for _ in 0..GENERATED {
                if self.generated() == Next::Stop {
                    return Next::Stop;
                }
            }
            self.session.report_states(true);
        }
        if let Some(reason) = self.enough() {
            return self.done(reason);
        }
        let result = panic::catch_unwind(AssertUnwindSafe(|| self.target.run(bytes, &mut self.session)));
        self.stats.cases += 1;
        coverage::note(0);
        if self.stats.cases <= LOOK_AT_ALL || self.stats.cases.is_multiple_of(LOOK_AT_ONE_IN) {
            self.seen.add();
        }
        self.tell();
        match result {
            Ok(Ok(())) => Next::Keep,
            Ok(Err(failure)) => self.found(&failure),
            Err(_) => self.panicked(bytes),
        }
    }

    /// Runs one case that is generated, past the engine: it is not told what the case reached, and so loses no time on it.
    fn generated(&mut self) -> Next {
        if let Some(reason) = self.enough() {
            return self.done(reason);
        }
        self.made += 1;
        let seed = u64::from(self.campaign.seed) << 40 ^ self.made;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(self.campaign.max_len, 0);
        let run = AssertUnwindSafe(|| {
            let n = mutator::generate_bytes(&mut bytes, seed);
            bytes.truncate(n);
            self.target.run(&bytes, &mut self.session)
        });
        let result = panic::catch_unwind(run);
        self.stats.cases += 1;
        self.tell();
        let next = match result {
            Ok(Ok(())) => Next::Keep,
            Ok(Err(failure)) => self.found(&failure),
            Err(_) => self.panicked(&bytes),
        };
        self.bytes = bytes;
        next
    }

    fn enough(&mut self) -> Option<StopReason> {
        if super::stop_requested() {
            return Some(StopReason::Requested);
        }
        if self.campaign.runs.is_some_and(|runs| self.stats.cases >= runs) {
            return Some(StopReason::Runs);
        }
        let look = self.stats.cases.is_multiple_of(CLOCK_EVERY);
        let late = |time| self.start.elapsed() >= time;
        (look && self.campaign.time.is_some_and(late)).then_some(StopReason::Time)
    }

    fn tell(&mut self) {
        if self.stats.cases.is_multiple_of(CLOCK_EVERY) && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let stats = self.stats_now();
            (self.report)(&WorkerMessage::Stats(stats));
        }
    }

    fn stats_now(&mut self) -> Stats {
        self.stats.coverage = self.seen.count();
        self.stats.millis = millis(self.start.elapsed());
        let busy = on_cpu().zip(self.busy_at_start).map(|(now, then)| now.saturating_sub(then));
        self.stats.busy_millis = busy.map_or(self.stats.millis, millis);
        self.stats
    }

    fn done(&mut self, reason: StopReason) -> Next {
        let stats = self.stats_now();
        (self.report)(&WorkerMessage::Done { reason, stats });
        Next::Stop
    }

    fn found(&mut self, failure: &Failure) -> Next {
        self.stats.finds += 1;
        let key = (failure.id().to_owned(), failure.sites().into_iter().map(str::to_owned).collect());
        let of_this_key = self.saved.entry(key.clone()).or_default();
        if *of_this_key < self.campaign.saved_per_key {
            *of_this_key += 1;
            let (id, sites) = key;
            let (path, unsaved) = save(&self.campaign.finds, &id, failure.extension(), failure.artifact());
            self.stats.saved += u64::from(unsaved.is_none());
            let stats = self.stats_now();
            let summary = failure.summary();
            (self.report)(&WorkerMessage::Find { id, sites, summary, path, unsaved, stats });
        }
        if self.campaign.keep_going { Next::Reject } else { self.done(StopReason::Find) }
    }

    fn panicked(&mut self, bytes: &[u8]) -> Next {
        let summary = PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let stats = self.stats_now();
        let (extension, contents) = self.reproducer(bytes);
        let (path, unsaved) = save(&self.campaign.finds, "harness-panic", extension, contents);
        (self.report)(&WorkerMessage::HarnessPanic { summary, path, unsaved, stats });
        self.done(StopReason::HarnessPanic)
    }

    /// What to keep of an input on which the harness panicked: the case as it was to run, with the campaign's kernel
    /// and defects in it; the bytes themselves when no case can be made of them.
    fn reproducer(&self, bytes: &[u8]) -> (&'static str, Vec<u8>) {
        let made = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut case = Case::empty();
            super::case_for(&self.campaign, bytes, &mut case).then(|| session::case_text(&case))
        }));
        match made {
            Ok(Some(text)) => ("case", text.into_bytes()),
            _ => ("bin", bytes.to_vec()),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long this process has run on a CPU, where Linux tells: on a machine that others use as well, this and not the clock
/// says what something has cost.
fn on_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Saves a file under a name made of its contents, so that it is there as a whole or not at all, and once. What cannot
/// be saved is given back.
fn save(dir: &Path, stem: &str, extension: &str, contents: Vec<u8>) -> (PathBuf, Option<Unsaved>) {
    let hash = fnv1a(&contents);
    let path = dir.join(format!("{stem}-{hash:016x}.{extension}"));
    let unfinished = dir.join(format!(".{stem}-{hash:016x}.{}", std::process::id()));
    match fs::write(&unfinished, &contents).and_then(|()| fs::rename(&unfinished, &path)) {
        Ok(()) => (path, None),
        Err(e) => {
            // Half a file is worth nothing; that it cannot be removed either changes nothing.
            let _left_behind = fs::remove_file(&unfinished);
            (path, Some(Unsaved { error: e.to_string(), contents }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pin::Pin;
    use std::sync::mpsc;

    static BROKEN: Target = Target {
        name: "broken",
        doc: "a harness that panics",
        input: Input::Bytes(|bytes| panic!("no {} bytes, please", bytes.len())),
        planted: None,
        family: None,
    };

    /// Fails on everything.
    static FAILING: Target = Target {
        name: "failing",
        doc: "a promise that is never kept",
        input: Input::Bytes(|bytes| {
            Err(Failure::Property { id: "a.promise", message: "not kept".into(), input: bytes.into() })
        }),
        ..BROKEN
    };

    #[test]
    fn a_panic_of_the_harness_is_saved_and_stops_the_worker_but_is_no_find() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (sender, receiver) = mpsc::channel();
        let report: Report = Box::new(move |message| sender.send(message.clone()).expect("somebody listens"));
        let campaign = Campaign { keep_going: true, ..Campaign::new("broken", Pin::FIXED, dir.path().to_owned()) };
        let made = Worker::with_target(&BROKEN, campaign, report);
        let mut worker = made.map_err(|(error, _)| error).expect("the directory is there");
        assert_eq!(worker.input(b"abc"), Next::Stop);
        let messages: Vec<_> = receiver.try_iter().collect();
        let [WorkerMessage::HarnessPanic { path, .. }, WorkerMessage::Done { reason, stats }] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(fs::read(path).expect("it was saved"), b"abc");
        assert_eq!((*reason, stats.finds), (StopReason::HarnessPanic, 0));
    }

    #[test]
    fn a_file_is_named_by_its_contents_and_leaves_nothing_half_done() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = save(dir.path(), "rule", "case", b"same".into());
        let second = save(dir.path(), "rule", "case", b"same".into());
        let other = save(dir.path(), "rule", "case", b"other".into());
        assert_eq!(first, second);
        assert_ne!(first.0, other.0);
        assert_eq!((first.1, other.1), (None, None));
        assert_eq!(fs::read(&first.0).expect("it is there"), b"same");
        assert_eq!(fs::read_dir(dir.path()).expect("it is a directory").count(), 2);
    }

    #[test]
    fn what_cannot_be_saved_is_given_back_whole_with_the_reason_in_one_line() {
        let (path, unsaved) = save(Path::new("/nonexistent"), "rule", "case", b"x\n".into());
        let unsaved = unsaved.expect("there is no such directory");
        assert!(path.starts_with("/nonexistent") && !unsaved.error.contains('\n'), "{unsaved:?}");
        assert_eq!(unsaved.contents, b"x\n");
    }

    #[test]
    fn a_find_that_cannot_be_saved_travels_in_its_message() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (sender, receiver) = mpsc::channel();
        let report: Report = Box::new(move |message| sender.send(message.clone()).expect("somebody listens"));
        let campaign = Campaign::new("failing", Pin::FIXED, dir.path().join("finds"));
        let made = Worker::with_target(&FAILING, campaign, report);
        let mut worker = made.map_err(|(error, _)| error).expect("the directory is there");
        fs::remove_dir(dir.path().join("finds")).expect("it was made, and is gone now");
        assert_eq!(worker.input(b"abc"), Next::Stop);
        let messages: Vec<_> = receiver.try_iter().collect();
        let [WorkerMessage::Find { unsaved: Some(unsaved), .. }, WorkerMessage::Done { stats, .. }] = &messages[..]
        else {
            panic!("{messages:?}");
        };
        assert_eq!(unsaved.contents, b"abc");
        assert_eq!((stats.finds, stats.saved), (1, 0));
    }
}
