//! The corpus, as the tests see it.
#![allow(dead_code, reason = "each test crate uses its own part")]

use ptefuzz_core::program::text::{Document, parse};
use std::fs;
use std::path::{Path, PathBuf};

/// A case file.
pub(crate) struct CaseFile {
    /// Path below `corpus/`, without the extension, with `/` between folders.
    pub(crate) name: String,
    /// What it says.
    pub(crate) text: String,
    /// The same, read.
    pub(crate) document: Document,
}

impl CaseFile {
    /// Name of the file without folders and extension.
    pub(crate) fn stem(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Every case under `corpus/`, in the order of the names.
pub(crate) fn corpus() -> Vec<CaseFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let files: Vec<CaseFile> = paths.iter().map(|path| load(&root, path)).collect();
    assert!(files.len() > 50, "only {} cases under {}", files.len(), root.display());
    files
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|e| panic!("{}: {e}", dir.display())).path();
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|e| e == "case") {
            out.push(path);
        }
    }
}

fn load(root: &Path, path: &Path) -> CaseFile {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let document = parse(&text).unwrap_or_else(|e| panic!("{}:{e}", path.display()));
    let below = path.strip_prefix(root).unwrap_or(path).with_extension("");
    let name = below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    CaseFile { name, text, document }
}
