//! Settling a find: run it again, make it small, tell its story, save it.

use std::fs;
use std::path::{Path, PathBuf};

use ptefuzz_core::program::text::print;
use serde::Serialize;

use super::ledger::Find;
use crate::error::Error;
use crate::input;
use crate::judge::Judge;
use crate::minimize::Limits;
use crate::output::{Format, Out, colour, write_atomic};
use crate::story::{self, Palette, Story};
use crate::verbs::{same_violation, shrink};
use crate::verdict::Record;

/// A find that is saved.
pub(super) struct Settled {
    path: PathBuf,
    record: Record,
    /// `None` for a target that takes no cases: then `summary` is all there is to tell.
    story: Option<Story>,
    summary: String,
}

/// What `--format json` prints of a find.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    record: &'a Record,
    story: Option<&'a Story>,
}

/// Settles one find. Its file keeps the name of the rule and a hash of its contents.
///
/// # Errors
/// [`Error::Harness`] when the case does not do again what the worker saw; [`Error::Io`].
pub(super) fn settle(judge: &mut Judge, find: &Find, out: &Path) -> Result<Settled, Error> {
    let folder = super::finds_folder(out);
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    if find.path.extension().is_none_or(|e| e != "case") {
        return keep_bytes(find, &folder);
    }
    let input = input::load(&find.path)?;
    let Some(violation) = judge.run(&input.name, &input.doc.case)? else {
        let message = format!("the worker saw {}, a second run is clean", find.id);
        return Err(Error::Harness { file: input.name, message });
    };
    if violation.rule.id() != find.id {
        let message = format!("the worker saw {}, a second run sees {}", find.id, violation.rule.id());
        return Err(Error::Harness { file: input.name, message });
    }
    same_violation(judge, &input.name, &input.doc, &violation)?;
    let (doc, _) = shrink(judge, &input.name, &input.doc.case, &violation, Limits::default())?;
    let text = print(&doc);
    let path = folder.join(format!("{}-{:016x}.case", find.id, fnv1a(text.as_bytes())));
    write_atomic(&path, text.as_bytes())?;
    let name = path.display().to_string();
    let story = story::of_case(judge, &name, &doc)?;
    let small = judge.run(&name, &doc.case)?;
    Ok(Settled { record: Record::new(&name, small.as_ref()), path, story: Some(story), summary: find.summary.clone() })
}

/// A find of a target that takes bytes is kept as it is.
fn keep_bytes(find: &Find, folder: &Path) -> Result<Settled, Error> {
    let bytes = fs::read(&find.path).map_err(|e| Error::io(&find.path, e))?;
    let path = folder.join(format!("{}-{:016x}.bin", find.id, fnv1a(&bytes)));
    write_atomic(&path, &bytes)?;
    let mut record = Record::new(&path.display().to_string(), None);
    record.verdict = "violation";
    Ok(Settled { path, record, story: None, summary: find.summary.clone() })
}

impl Settled {
    /// Prints the story (when `whole`; else the verdict alone) and where it was saved.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub(super) fn print(&self, out: &mut Out, format: Format, whole: bool) -> Result<(), Error> {
        if format == Format::Json {
            return out.json(&Report { record: &self.record, story: self.story.as_ref() });
        }
        match &self.story {
            Some(_) if !whole => return out.line(&format!("also found: {}\n", self.record.line())),
            Some(story) => out.text(&story.to_text(Palette::new(colour())))?,
            None => out.line(&self.summary)?,
        }
        out.line(&format!("\nsaved as {}\n", self.path.display()))
    }
}

/// The 64-bit FNV-1a hash: short names that stay the same from release to release.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_case_that_does_not_show_again_what_the_worker_saw_is_a_harness_bug() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("clean.case");
        fs::write(&path, "kernel 7.3\n").expect("written");
        let find = Find { id: "oracle.value".into(), summary: String::new(), path };
        let e = settle(&mut Judge::new(), &find, dir.path()).map(|s| s.path).expect_err("it is clean");
        assert!(e.to_string().contains("harness bug") && e.to_string().contains("a second run is clean"), "{e}");
    }

    #[test]
    fn a_find_of_a_byte_target_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("find.bin");
        fs::write(&path, b"foobar").expect("written");
        let find = Find { id: "entry.round-trip".into(), summary: "s".into(), path };
        let settled = settle(&mut Judge::new(), &find, dir.path()).expect("settled");
        assert!(settled.path.ends_with("finds/entry.round-trip-85944171f73967e8.bin"), "{:?}", settled.path);
        assert_eq!(fs::read(&settled.path).expect("saved"), b"foobar");
    }
}
