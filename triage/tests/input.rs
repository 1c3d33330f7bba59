//! Bad input gets one clear line and exit status 2; good input of every form is read.

#[allow(dead_code, reason = "each test binary uses its own part of the helpers")]
mod common;

use common::{D12, Run, folder, ptefuzz, with_stdin};

/// One line on standard error that begins with the program's name, nothing on standard output.
fn refused(run: &Run) -> &str {
    assert_eq!(run.code, Some(2), "{}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    run.stderr.strip_prefix("ptefuzz: ").expect("says who complains").trim_end()
}

#[test]
fn a_missing_file_is_refused() {
    let dir = folder(&[]);
    for verb in ["replay", "explain", "minimize", "fmt", "bench"] {
        let run = ptefuzz(dir.path(), &[verb, "no.case"]);
        assert_eq!(refused(&run), "no.case: no such file or directory", "{verb}");
    }
}

#[test]
fn a_folder_without_cases_is_refused() {
    let dir = folder(&[("empty/notes.md", b"x")]);
    assert_eq!(refused(&ptefuzz(dir.path(), &["replay", "empty"])), "empty: there is no case in this folder");
    assert!(refused(&ptefuzz(dir.path(), &["minimize", "empty"])).starts_with("empty: is a folder"));
}

#[test]
fn a_truncated_binary_is_refused() {
    let dir = folder(&[("x.case", D12.as_bytes())]);
    assert_eq!(ptefuzz(dir.path(), &["fmt", "--binary", "x.case", "-o", "x.bin"]).code, Some(0));
    let whole = std::fs::read(dir.path().join("x.bin")).expect("written");
    for len in [whole.len() - 1, whole.len() / 2] {
        std::fs::write(dir.path().join("cut"), &whole[..len]).expect("written");
        assert!(refused(&ptefuzz(dir.path(), &["replay", "cut"])).starts_with("cut: byte "));
    }
}

#[test]
fn an_oversized_file_is_refused() {
    let dir = folder(&[("big", &vec![0; (1 << 20) + 1])]);
    assert!(refused(&ptefuzz(dir.path(), &["replay", "big"])).starts_with("big: larger than 1048576 bytes"));
}

#[test]
fn a_case_that_is_not_utf_8_is_refused_at_its_place() {
    let dir = folder(&[("x.case", b"kernel 6.12\n# caf\xe9\n")]);
    assert!(refused(&ptefuzz(dir.path(), &["replay", "x.case"])).starts_with("x.case:2:6: "));
}

#[test]
fn nonsense_is_refused_at_its_place_with_or_without_the_extension() {
    let words: &[u8] = b"It was a dark and stormy night.\n";
    let dir = folder(&[("x.case", words), ("crash-1", words), ("y.case", b"kernel 6.12\ncpu 0\n  A wriet heap[0]\n")]);
    assert!(refused(&ptefuzz(dir.path(), &["replay", "x.case"])).starts_with("x.case:1:1: "));
    assert!(refused(&ptefuzz(dir.path(), &["explain", "crash-1"])).starts_with("crash-1:1:1: "));
    assert!(refused(&ptefuzz(dir.path(), &["fmt", "y.case"])).starts_with("y.case:3:5: "));
}

#[test]
fn wrong_usage_is_status_2() {
    let dir = folder(&[]);
    for args in [&["hunt", "--kernel", "2.4"][..], &["frobnicate"], &["replay"], &["bench", "--seconds", "0"]] {
        let run = ptefuzz(dir.path(), args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }
}

#[test]
fn any_bytes_are_a_case_also_on_standard_input() {
    let dir = folder(&[("crash-1", &[0, 7, 1, 255, 254, 9, 9, 9, 3]), ("one-byte", &[9])]);
    let run = ptefuzz(dir.path(), &["replay", "crash-1", "one-byte"]);
    assert!(run.code == Some(0) || run.code == Some(1), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 2);
    let run = with_stdin(dir.path(), &["replay", "-"], D12.as_bytes());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.starts_with("<stdin>: progress.reclaim at step "), "{}", run.stdout);
}

#[test]
fn what_a_full_disk_leaves_is_an_error_and_no_clean_case() {
    let dir = folder(&[("empty", b""), ("cut", b"\x8fPTE")]);
    for (file, words) in [("empty", "is empty"), ("cut", "is cut off")] {
        let run = ptefuzz(dir.path(), &["replay", file]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{}", run.stderr);
        assert!(run.stderr.starts_with(&format!("ptefuzz: {file}: ")) && run.stderr.contains(words), "{}", run.stderr);
    }
}

#[cfg(unix)]
#[test]
fn a_link_is_followed_when_it_is_written_to_and_a_pipe_in_a_folder_is_passed_over() {
    let dir = folder(&[("b.case", D12.as_bytes())]);
    std::os::unix::fs::symlink(dir.path().join("b.case"), dir.path().join("l.case")).expect("a link");
    let run = ptefuzz(dir.path(), &["fmt", "l.case", "-o", "l.case"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(dir.path().join("l.case").symlink_metadata().expect("it is there").is_symlink());
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status();
    assert!(made.is_ok_and(|s| s.success()));
    assert_eq!(ptefuzz(dir.path(), &["replay", "."]).code, Some(1));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    use std::process::Stdio;
    let dir = folder(&[]);
    let mut child = common::command(dir.path(), &["list", "rules"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
