//! Running the command in tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the command left behind.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `ptefuzz` in a folder.
pub(crate) fn ptefuzz(folder: &Path, args: &[&str]) -> Run {
    with_stdin(folder, args, b"")
}

/// Runs `ptefuzz` in a folder with this standard input.
pub(crate) fn with_stdin(folder: &Path, args: &[&str], stdin: &[u8]) -> Run {
    let mut child = command(folder, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ptefuzz starts");
    // A command that does not read its input may have ended already.
    let _unread = child.stdin.take().expect("piped").write_all(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("ptefuzz ends");
    Run {
        code: status.code(),
        stdout: String::from_utf8(stdout).expect("text"),
        stderr: String::from_utf8(stderr).expect("text"),
    }
}

/// The command, not yet started.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptefuzz"));
    command.current_dir(folder).args(args);
    command
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("folder");
        std::fs::write(path, bytes).expect("written");
    }
    dir
}

/// The program of D12: fails on 6.12, passes on the newest release.
pub(crate) const D12: &str = "\
# a device-exclusive page and reclaim
expect   progress.reclaim
kernel   6.12
geometry tiny

process A
  heap = mmap anon private rw 4

cpu 0
  A write heap[0]
  gpu0 exclusive A heap[0]
  reclaim A heap[0]
";
