//! The embedded driver, as a parent sees it. The worker is this test binary again: [`worker_process`] is where it
//! comes to life, and only with an order in its environment.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ptefuzz_core::program::{Case, text};
use ptefuzz_fuzz::Pin;
use ptefuzz_fuzz::driver::{self, Campaign, StopReason, WorkerMessage};
use ptefuzz_fuzz::targets::TARGETS;

const ORDER: &str = "PTEFUZZ_TEST_CAMPAIGN";

#[test]
fn worker_process() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let campaign = serde_json::from_str(&order).expect("the parent sends a campaign");
    driver::stop_when_stdin_closes();
    driver::run_worker(campaign, driver::report_to_stdout());
}

fn spawn(campaign: &Campaign) -> Child {
    Command::new(std::env::current_exe().expect("this test has a path"))
        .args(["--exact", "worker_process", "--nocapture", "--test-threads=1"])
        .env(ORDER, serde_json::to_string(campaign).expect("plain data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test can be started again")
}

/// The messages of a worker; lines of the test framework around them are left out.
fn messages(child: &mut Child) -> impl Iterator<Item = WorkerMessage> + use<> {
    let out = child.stdout.take().expect("it was piped");
    BufReader::new(out).lines().map_while(Result::ok).filter_map(|line| {
        let json = &line[line.find('{')?..];
        Some(serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {line}")))
    })
}

fn run(campaign: &Campaign) -> (Vec<WorkerMessage>, ExitStatus) {
    let mut child = spawn(campaign);
    let all = messages(&mut child).collect();
    (all, child.wait().expect("it ends"))
}

fn campaign(target: &str, dir: &Path) -> Campaign {
    Campaign { time: Some(Duration::from_secs(60)), ..Campaign::new(target, Pin::FIXED, dir.join("finds")) }
}

#[test]
fn the_canary_is_found_saved_as_text_and_fails_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (messages, status) = run(&campaign("canary", dir.path()));
    assert!(status.success());
    let [.., WorkerMessage::Find { id, path, .. }, WorkerMessage::Done { reason, stats }] = &messages[..] else {
        panic!("no find before the end: {messages:?}");
    };
    assert_eq!((*reason, stats.finds, stats.saved), (StopReason::Find, 1, 1));
    let saved = fs::read_to_string(path).expect("it was saved");
    let document = text::parse(&saved).expect("it is a text");
    assert_eq!(document.expect, None);
    let mut session = ptefuzz_fuzz::Session::new(Pin::FIXED);
    let target = &ptefuzz_fuzz::targets::CANARY;
    let failure = target.run(saved.as_bytes(), &mut session).expect_err("what was saved fails again");
    assert_eq!(failure.id(), id);
    let left: Vec<_> = fs::read_dir(dir.path().join("finds")).expect("it was made").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_worker_that_keeps_going_counts_every_find_and_saves_a_few() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let order = Campaign {
        keep_going: true,
        saved_per_key: 1,
        runs: Some(60_000),
        time: None,
        ..campaign("canary", dir.path())
    };
    let (messages, _) = run(&order);
    let Some(WorkerMessage::Done { reason: StopReason::Runs, stats }) = messages.last() else {
        panic!("it does not end by its runs: {:?}", messages.last());
    };
    assert_eq!(stats.cases, 60_000);
    assert!(stats.finds > stats.saved && stats.saved >= 1, "{stats:?}");
    assert!(stats.coverage > 1, "state coverage is counted: {stats:?}");
}

#[test]
fn every_target_runs_without_a_find_in_the_fixed_model() {
    for target in TARGETS.iter().filter(|t| t.planted.is_none()).map(|t| t.name) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let order = Campaign { runs: Some(3_000), ..campaign(target, dir.path()) };
        let (messages, status) = run(&order);
        assert!(status.success());
        let Some(WorkerMessage::Done { reason: StopReason::Runs, stats }) = messages.last() else {
            panic!("{target}: {:?}", messages.last());
        };
        assert_eq!((stats.cases, stats.finds), (3_000, 0), "{target}");
    }
}

#[test]
fn the_same_seed_gives_the_same_campaign() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let order = Campaign { runs: Some(5_000), seed: 7, ..campaign("machine", dir.path()) };
    let coverage = || match run(&order).0.last() {
        Some(WorkerMessage::Done { stats, .. }) => stats.coverage,
        other => panic!("it does not end: {other:?}"),
    };
    assert_eq!(coverage(), coverage());
}

#[test]
fn a_worker_stops_when_its_parent_lets_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut child = spawn(&campaign("machine", dir.path()));
    let mut messages = messages(&mut child);
    assert!(matches!(messages.next(), Some(WorkerMessage::Stats(_))), "progress is told");
    let start = Instant::now();
    drop(child.stdin.take());
    let last = messages.last();
    assert!(matches!(last, Some(WorkerMessage::Done { reason: StopReason::Requested, .. })), "{last:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_worker_stops_when_its_time_is_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let order = Campaign { time: Some(Duration::from_millis(300)), ..campaign("machine", dir.path()) };
    let last = run(&order).0.pop();
    let Some(WorkerMessage::Done { reason: StopReason::Time, stats }) = last else { panic!("{last:?}") };
    assert!(stats.millis >= 300 && stats.cases > 0, "{stats:?}");
}

#[test]
fn interesting_inputs_are_kept_in_the_corpus_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let corpus = dir.path().join("corpus");
    let order = Campaign { runs: Some(3_000), corpus: Some(corpus.clone()), ..campaign("machine", dir.path()) };
    run(&order);
    let kept: Vec<_> = fs::read_dir(&corpus).expect("it was made").collect();
    assert!(kept.len() > 5, "{} inputs", kept.len());
    let mut case = Case::empty();
    for file in kept {
        let bytes = fs::read(file.expect("it is there").path()).expect("it can be read");
        assert!(driver::case_for(&order, &bytes, &mut case));
        assert!(case.config.defects.is_empty());
    }
}

#[test]
fn an_order_that_cannot_be_carried_out_is_an_error_and_not_a_find() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (messages, status) = run(&campaign("no-such-target", dir.path()));
    assert_eq!(messages, [WorkerMessage::Failed { error: "no target `no-such-target`".into() }]);
    assert_eq!(status.code(), Some(2));
    fs::write(dir.path().join("file"), "").expect("it can be written");
    let inside_a_file = Campaign { finds: dir.path().join("file/finds"), ..campaign("machine", dir.path()) };
    let (messages, status) = run(&inside_a_file);
    assert!(matches!(&messages[..], [WorkerMessage::Failed { .. }]), "{messages:?}");
    assert_eq!(status.code(), Some(2));
}
