//! Settling a find: run it again, make it small, tell its story, save it.

use std::fs;
use std::path::{Path, PathBuf};

use ptefuzz_core::config::Design;
use ptefuzz_core::program::text::{Document, print};
use serde::Serialize;

use super::ledger::Find;
use crate::equivalent::{self, Told};
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
    tale: Tale,
}

/// What there is to tell of a find.
enum Tale {
    /// A violation.
    Story(Box<Story>),
    /// A difference between two designs.
    Difference(Box<Told>),
    /// Of a target that takes no cases, one line.
    Summary(String),
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
pub(super) fn settle(
    judge: &mut Judge,
    find: &Find,
    designs: Option<[Design; 2]>,
    out: &Path,
) -> Result<Settled, Error> {
    let folder = super::finds_folder(out);
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    if find.path.extension().is_none_or(|e| e != "case") {
        return keep_bytes(find, &folder);
    }
    let input = input::load(&find.path)?;
    if let Some(designs) = designs {
        return difference(judge, find, &input.doc, designs, &folder);
    }
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
    let path = save(&folder, find, &doc)?;
    let name = path.display().to_string();
    let story = story::of_case(judge, &name, &doc)?;
    let small = judge.run(&name, &doc.case)?;
    Ok(Settled { record: Record::new(&name, small.as_ref()), path, tale: Tale::Story(Box::new(story)) })
}

/// Settles a case that shows a difference between two designs.
fn difference(
    judge: &mut Judge,
    find: &Find,
    doc: &Document,
    designs: [Design; 2],
    folder: &Path,
) -> Result<Settled, Error> {
    let mut told = equivalent::tell(judge, &find.path.display().to_string(), doc, designs)?;
    let path = save(folder, find, &told.doc)?;
    told.comparison.file = path.display().to_string();
    let record = Record::new(&told.comparison.file, None);
    Ok(Settled { record, path, tale: Tale::Difference(Box::new(told)) })
}

fn save(folder: &Path, find: &Find, doc: &Document) -> Result<PathBuf, Error> {
    let text = print(doc);
    let path = folder.join(format!("{}-{:016x}.case", find.id, fnv1a(text.as_bytes())));
    write_atomic(&path, text.as_bytes())?;
    Ok(path)
}

/// A find of a target that takes bytes is kept as it is.
fn keep_bytes(find: &Find, folder: &Path) -> Result<Settled, Error> {
    let bytes = fs::read(&find.path).map_err(|e| Error::io(&find.path, e))?;
    let path = folder.join(format!("{}-{:016x}.bin", find.id, fnv1a(&bytes)));
    write_atomic(&path, &bytes)?;
    let mut record = Record::new(&path.display().to_string(), None);
    record.verdict = "violation";
    Ok(Settled { path, record, tale: Tale::Summary(find.summary.clone()) })
}

impl Settled {
    /// Prints the story (when `whole`; else the verdict alone) and where it was saved.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub(super) fn print(&self, out: &mut Out, format: Format, whole: bool) -> Result<(), Error> {
        if format == Format::Json {
            let story = match &self.tale {
                Tale::Difference(told) => return out.json(told),
                Tale::Story(story) => Some(&**story),
                Tale::Summary(_) => None,
            };
            return out.json(&Report { record: &self.record, story });
        }
        match &self.tale {
            Tale::Story(_) if !whole => return out.line(&format!("also found: {}\n", self.record.line())),
            Tale::Story(story) => out.text(&story.to_text(Palette::new(colour())))?,
            Tale::Difference(told) if !whole => {
                return out.line(&format!("also found: {}\n", told.comparison.line()));
            }
            Tale::Difference(told) => out.text(&told.to_text(Palette::new(colour())))?,
            Tale::Summary(summary) => out.line(summary)?,
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
        let e = settle(&mut Judge::new(), &find, None, dir.path()).map(|s| s.path).expect_err("it is clean");
        assert!(e.to_string().contains("harness bug") && e.to_string().contains("a second run is clean"), "{e}");
    }

    #[test]
    fn a_find_of_a_byte_target_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("find.bin");
        fs::write(&path, b"foobar").expect("written");
        let find = Find { id: "entry.round-trip".into(), summary: "s".into(), path };
        let settled = settle(&mut Judge::new(), &find, None, dir.path()).expect("settled");
        assert!(settled.path.ends_with("finds/entry.round-trip-85944171f73967e8.bin"), "{:?}", settled.path);
        assert_eq!(fs::read(&settled.path).expect("saved"), b"foobar");
    }
}
