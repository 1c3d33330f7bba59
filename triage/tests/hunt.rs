//! Hunts from an empty corpus: they find, settle, save, and end as they should.

#[allow(dead_code, reason = "each test binary uses its own part of the helpers")]
mod common;

use common::{folder, ptefuzz};
use serde_json::Value;

fn finds(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir.join("ptefuzz-out/finds")).expect("finds are saved");
    let mut paths: Vec<_> = entries.map(|e| e.expect("readable").path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_hunt_on_6_12_finds_explains_and_saves_a_violation_that_replays() {
    let dir = folder(&[]);
    let run = ptefuzz(dir.path(), &["hunt", "--kernel", "6.12", "--seed", "1", "--jobs", "1", "--time", "50"]);
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("known as D"), "{}", run.stdout);
    assert!(run.stdout.contains("\nsaved as ptefuzz-out/finds/"), "{}", run.stdout);
    let saved = finds(dir.path());
    assert_eq!(saved.len(), 1);
    let check = ptefuzz(dir.path(), &["replay", "--check", "ptefuzz-out/finds"]);
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
}

#[test]
fn a_hunt_on_the_newest_kernel_finds_nothing_and_says_how_much_it_tried() {
    let dir = folder(&[]);
    let args = ["hunt", "--seed", "1", "--jobs", "1", "--runs", "2000", "--time", "20", "--format", "json"];
    let run = ptefuzz(dir.path(), &args);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let sum: Value = serde_json::from_str(run.stdout.trim()).expect("one line");
    assert!(sum["cases"].as_u64() >= Some(2000), "{sum}");
    assert_eq!((&sum["rules"], &sum["seed"]), (&0.into(), &1.into()));
}

#[test]
fn a_hunt_that_keeps_going_settles_each_rule_once() {
    let dir = folder(&[]);
    let args =
        ["hunt", "--kernel", "6.12", "--seed", "2", "--jobs", "2", "--time", "4", "--keep-going", "--format", "json"];
    let run = ptefuzz(dir.path(), &args);
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    let mut ids: Vec<String> = Vec::new();
    for line in run.stdout.lines() {
        let value: Value = serde_json::from_str(line).expect("a JSON object");
        ids.extend(value["id"].as_str().map(str::to_owned));
    }
    let mut unique = ids.clone();
    unique.dedup();
    assert!(!ids.is_empty() && unique == ids, "{ids:?}");
    assert_eq!(finds(dir.path()).len(), ids.len());
    let left = std::fs::read_dir(dir.path().join("ptefuzz-out")).expect("is there").count();
    assert_eq!(left, 1, "what the workers wrote is gone, the finds stay");
}

// Row A3 of the source documents.
#[test]
fn a3_a_design_that_the_architecture_cannot_encode_is_refused_before_anything_runs() {
    let dir = folder(&[]);
    let run = ptefuzz(dir.path(), &["hunt", "--arch", "arm64", "--design", "uffd-wp-special"]);
    assert_eq!(run.code, Some(2));
    let expected = "ptefuzz: this hunt cannot be: arm64 has no spare bit for the swap-special entry";
    assert!(run.stderr.starts_with(expected), "{}", run.stderr);
}

#[test]
fn a_hunt_for_a_difference_finds_it_tells_both_stories_and_saves_a_case_that_shows_it_again() {
    let dir = folder(&[]);
    let designs = ["--equivalent", "restore-by-type", "restore-by-check"];
    // What the designs differ in is found soonest where most ops are about userfaultfd.
    let hunt = ["hunt", "--target", "uffd", "--defect", "D5", "--seed", "1", "--jobs", "1", "--time", "100"];
    let args = [&hunt[..], &designs].concat();
    let run = ptefuzz(dir.path(), &args);
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("restore-by-type and restore-by-check can be told apart"), "{}", run.stdout);
    assert!(run.stdout.contains("\nunder restore-by-type, "), "{}", run.stdout);
    let replay = ptefuzz(dir.path(), &[&["replay"][..], &designs, &["ptefuzz-out/finds"]].concat());
    assert_eq!(replay.code, Some(1), "{}{}", replay.stdout, replay.stderr);
    assert!(replay.stdout.contains(": equivalent."), "{}", replay.stdout);
}

#[test]
fn a_hunt_for_a_difference_between_two_good_designs_finds_none_and_two_unlike_things_are_refused() {
    let dir = folder(&[]);
    let limits = ["hunt", "--seed", "1", "--jobs", "1", "--runs", "2000", "--time", "20", "--equivalent"];
    let run = ptefuzz(dir.path(), &[&limits[..], &["exclusive-two-types", "exclusive-one-type"]].concat());
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let run = ptefuzz(dir.path(), &[&limits[..], &["exclusive-two-types", "cow-by-count"]].concat());
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("are no two ways of doing one thing"), "{}", run.stderr);
}

#[test]
fn a_worker_without_a_campaign_is_wrong_usage() {
    let dir = folder(&[]);
    let run = ptefuzz(dir.path(), &["worker", "{}"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with("ptefuzz: not a campaign: "), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn an_interrupted_hunt_ends_cleanly_with_a_summary() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let dir = folder(&[]);
    let mut child = common::command(dir.path(), &["hunt", "--jobs", "1", "--seed", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("says what it hunts");
    assert!(line.starts_with("ptefuzz: hunting on kernel 7.3"), "{line}");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let output = child.wait_with_output().expect("ends");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.starts_with("nothing found: "), "{stdout}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_that_is_killed_is_reported_and_the_others_go_on() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let dir = folder(&[]);
    let child = common::command(dir.path(), &["hunt", "--jobs", "2", "--seed", "3", "--time", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let list = format!("/proc/{0}/task/{0}/children", child.id());
    let patience = Instant::now() + Duration::from_secs(20);
    let workers = loop {
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        if children.split_whitespace().count() == 2 || Instant::now() > patience {
            break children;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let victim = workers.split_whitespace().next().expect("two workers");
    assert!(Command::new("kill").args(["-KILL", victim]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("ends");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
    assert!(stderr.contains("ptefuzz: worker 0: killed by signal 9\n"), "{stderr}");
    assert!(stdout.starts_with("nothing found: "), "{stdout}");
}

#[test]
fn a_folder_that_cannot_be_written_is_one_line_and_status_2() {
    let dir = folder(&[("taken", b"a file")]);
    let run = ptefuzz(dir.path(), &["hunt", "--out", "taken", "--jobs", "1"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("ptefuzz: taken/run-"), "{}", run.stderr);
}
