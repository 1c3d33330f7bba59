//! What the verbs print, and with which status they end.

#[allow(dead_code, reason = "each test binary uses its own part of the helpers")]
mod common;

use common::{D12, folder, ptefuzz, with_stdin};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).expect("a JSON object")).collect()
}

fn fixed() -> String {
    D12.replace("expect   progress.reclaim", "expect   clean").replace("kernel   6.12", "kernel   7.3")
}

#[test]
fn replay_prints_a_verdict_for_each_file_and_the_worst_is_the_status() {
    let fixed = fixed();
    let dir = folder(&[("a.case", fixed.as_bytes()), ("b.case", D12.as_bytes())]);
    let run = ptefuzz(dir.path(), &["replay", "a.case"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "a.case: clean\n"));
    let run = ptefuzz(dir.path(), &["replay", "."]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("./a.case: clean\n./b.case: progress.reclaim at step "), "{}", run.stdout);
    let run = ptefuzz(dir.path(), &["replay", "b.case", "none.case", "a.case", "nor.case"]);
    assert_eq!(run.code, Some(2));
    assert_eq!((run.stdout.lines().count(), run.stderr.lines().count()), (2, 2));
}

#[test]
fn replay_in_json_has_the_fields_that_scripts_rely_on() {
    let fixed = fixed();
    let dir = folder(&[("a.case", fixed.as_bytes()), ("b.case", D12.as_bytes())]);
    let run = ptefuzz(dir.path(), &["replay", "--format", "json", "a.case", "b.case"]);
    let records = lines(&run.stdout);
    assert_eq!((&records[0]["file"], &records[0]["verdict"]), (&"a.case".into(), &"clean".into()));
    assert_eq!(records[1]["verdict"], "violation");
    assert_eq!(records[1]["id"], "progress.reclaim");
    assert!(records[1]["step"].is_u64() && records[1]["sites"].is_array());
    assert_eq!(records[1]["op"], 3);
}

#[test]
fn replay_check_compares_verdicts_with_expectations() {
    let (fixed, wrong) = (fixed(), D12.replace("progress.reclaim", "oracle.value"));
    let silent = D12.replace("expect   progress.reclaim\n", "");
    let dir = folder(&[
        ("good/a.case", fixed.as_bytes()),
        ("good/b.case", D12.as_bytes()),
        ("wrong.case", wrong.as_bytes()),
        ("silent.case", silent.as_bytes()),
    ]);
    let run = ptefuzz(dir.path(), &["replay", "--check", "good"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "good/a.case: ok (clean)\ngood/b.case: ok (progress.reclaim)\n")
    );
    let run = ptefuzz(dir.path(), &["replay", "--check", "good", "wrong.case"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("-- but oracle.value is expected"), "{}", run.stdout);
    let run = ptefuzz(dir.path(), &["replay", "--check", "silent.case"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with("ptefuzz: silent.case: no `expect` line"), "{}", run.stderr);
}

#[test]
fn explain_tells_the_story_in_every_format_without_colour() {
    let dir = folder(&[("b.case", D12.as_bytes())]);
    let run = ptefuzz(dir.path(), &["explain", "b.case"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.starts_with("progress.reclaim: f1 is held by nothing but its mappings"), "{}", run.stdout);
    assert!(run.stdout.contains("known as D12, fixed in 6.15: "), "{}", run.stdout);
    assert!(run.stdout.lines().count() <= 60 && !run.stdout.contains('\x1b'));
    let run = ptefuzz(dir.path(), &["explain", "--format", "markdown", "b.case"]);
    assert!(run.stdout.starts_with("## progress.reclaim: "), "{}", run.stdout);
    let run = ptefuzz(dir.path(), &["explain", "--format", "json", "b.case"]);
    assert_eq!(lines(&run.stdout)[0]["causes"][0]["id"], "D12");
}

#[test]
fn minimize_keeps_the_violation_and_drops_the_rest() {
    let noisy = D12.replace(
        "  A write heap[0]\n",
        "  A write heap[0..4]\n  A read heap[2]\n  A fork B\n  B write heap[3]\n  B exit\n",
    );
    let noisy = noisy.replace("geometry tiny", "cpus 4");
    let dir = folder(&[("x.case", noisy.as_bytes())]);
    let run = ptefuzz(dir.path(), &["minimize", "x.case", "-o", "small.case"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let small = std::fs::read_to_string(dir.path().join("small.case")).expect("written");
    assert!(small.contains("expect   progress.reclaim\n"), "{small}");
    assert!(!small.contains("fork") && !small.contains("heap[2]"), "{small}");
    assert_eq!(ptefuzz(dir.path(), &["replay", "--check", "small.case"]).code, Some(0));
    let again = ptefuzz(dir.path(), &["minimize", "small.case"]);
    assert_eq!(again.stdout, small, "a minimum is its own minimum");
    let json = ptefuzz(dir.path(), &["minimize", "--format", "json", "x.case"]);
    let report = &lines(&json.stdout)[0];
    assert_eq!((&report["case"], &report["complete"]), (&small.as_str().into(), &true.into()));
}

#[test]
fn minimize_refuses_a_clean_case() {
    let fixed = fixed();
    let dir = folder(&[("a.case", fixed.as_bytes())]);
    let run = ptefuzz(dir.path(), &["minimize", "a.case"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(run.stderr, "ptefuzz: a.case: nothing is violated, so there is nothing to keep\n");
}

#[test]
fn fmt_goes_from_text_to_binary_and_back_and_keeps_comments_in_text() {
    let dir = folder(&[("x.case", D12.as_bytes())]);
    let text = ptefuzz(dir.path(), &["fmt", "x.case"]);
    assert!(text.stdout.starts_with("# a device-exclusive page and reclaim\n"), "{}", text.stdout);
    assert_eq!(ptefuzz(dir.path(), &["fmt", "--check", "x.case"]).code, Some(1));
    assert_eq!(ptefuzz(dir.path(), &["fmt", "x.case", "-o", "x.case"]).code, Some(0));
    assert_eq!(ptefuzz(dir.path(), &["fmt", "--check", "x.case"]).code, Some(0));
    assert_eq!(ptefuzz(dir.path(), &["fmt", "--binary", "x.case", "-o", "x.bin"]).code, Some(0));
    let back = ptefuzz(dir.path(), &["fmt", "x.bin"]);
    let bare: String = text.stdout.lines().filter(|l| !l.starts_with(['#', 'e'])).map(|l| format!("{l}\n")).collect();
    assert_eq!(back.stdout, bare, "all but the comment and the expectation");
    let piped = with_stdin(dir.path(), &["fmt", "-"], text.stdout.as_bytes());
    assert_eq!(piped.stdout, text.stdout, "normal form is stable");
}

#[test]
fn list_prints_every_table_as_text_and_as_json() {
    let dir = folder(&[]);
    for (topic, needle) in [
        ("ops", "exclusive"),
        ("rules", "progress.reclaim"),
        ("invariants", "accounting.mapcount"),
        ("defects", "D12"),
        ("designs", "exclusive-by-walk"),
        ("kernels", "6.12"),
        ("targets", "machine"),
        ("sites", "op:start"),
    ] {
        let text = ptefuzz(dir.path(), &["list", topic]);
        assert_eq!(text.code, Some(0));
        assert!(text.stdout.contains(needle), "{topic}: {}", text.stdout);
        let json = ptefuzz(dir.path(), &["list", topic, "--format", "json"]);
        assert_eq!(lines(&json.stdout).len() + 1, text.stdout.lines().count(), "{topic}");
    }
}

#[test]
fn bench_prints_figures_for_each_target_and_for_one_case() {
    let dir = folder(&[("b.case", D12.as_bytes())]);
    let run = ptefuzz(dir.path(), &["bench", "--seconds", "0.05", "--format", "json"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let figures = lines(&run.stdout);
    let names: Vec<&str> = figures.iter().filter_map(|f| f["target"].as_str()).collect();
    assert_eq!(names, ["machine", "sequential", "device", "file", "uffd", "entry", "text", "determinism", "thp"]);
    for f in &figures {
        assert!(f["cases_per_second"].as_f64() > Some(0.0) && f["ops_per_second"].as_f64() > Some(0.0), "{f}");
    }
    let run = ptefuzz(dir.path(), &["bench", "b.case", "--format", "json"]);
    let one = &lines(&run.stdout)[0];
    assert_eq!((&one["id"], &one["ops"]), (&"progress.reclaim".into(), &3.into()));
}

#[test]
fn bench_find_finds_a_defect_with_every_seed_and_says_how_long_it_took() {
    let dir = folder(&[]);
    let run = ptefuzz(dir.path(), &["bench", "find", "S4", "--seeds", "3", "--format", "json"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let row = &lines(&run.stdout)[0];
    assert_eq!((&row["defect"], &row["kernel"], &row["found"]), (&"S4".into(), &"7.3".into(), &3.into()));
    assert!(row["median_cases"].as_u64() > Some(0) && row["median_seconds"].as_f64().is_some(), "{row}");
    let attempts = row["attempts"].as_array().expect("a list");
    assert_eq!(attempts.iter().map(|a| a["seed"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert!(attempts.iter().all(|a| a["id"] == "accounting.rss"), "{row}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("is there").count(), 0, "nothing is left behind");
    let unknown = ptefuzz(dir.path(), &["bench", "find", "X1"]);
    assert_eq!(unknown.code, Some(2));
}
