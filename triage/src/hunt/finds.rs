//! Settling a find: run it again, make it small, tell its story, save it.

use std::fs;
use std::path::{Path, PathBuf};

use ptefuzz_core::config::Design;
use ptefuzz_core::program::text::{Document, print};
use ptefuzz_fuzz::fnv1a;
use serde::Serialize;

use super::ledger::Find;
use crate::equivalent::{self, Told};
use crate::error::Error;
use crate::input;
use crate::judge::Judge;
use crate::minimize::Limits;
use crate::output::{Format, Out, colour, complain, rescue, write_atomic};
use crate::story::{self, Palette, Story};
use crate::verbs::{same_violation, shrink};
use crate::verdict::Record;

/// A find that is understood, and saved unless the disk refuses.
pub(super) struct Settled {
    saved: Saved,
    record: Record,
    tale: Tale,
}

/// The file of a find.
struct Saved {
    path: PathBuf,
    /// Why it is not there, and what should be in it.
    lost: Option<(Error, Vec<u8>)>,
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
/// [`Error::Harness`] when the case does not do again what the worker saw; [`Error::Io`] when what the worker saved
/// cannot be read. A find that cannot be saved is no error here: see [`Settled::rescue`].
pub(super) fn settle(
    judge: &mut Judge,
    find: &Find,
    designs: Option<[Design; 2]>,
    out: &Path,
) -> Result<Settled, Error> {
    let folder = super::finds_folder(out);
    if find.path.extension().is_none_or(|e| e != "case") {
        return keep_bytes(find, &folder);
    }
    let input = match &find.unsaved {
        Some(unsaved) => input::of_bytes(find.path.display().to_string(), &find.path, &unsaved.contents)?,
        None => input::load(&find.path)?,
    };
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
    let saved = save(&folder, find, "case", print(&doc).into_bytes());
    let name = saved.path.display().to_string();
    let story = story::of_case(judge, &name, &doc)?;
    let small = judge.run(&name, &doc.case)?;
    Ok(Settled { record: Record::new(&name, small.as_ref()), saved, tale: Tale::Story(Box::new(story)) })
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
    let saved = save(folder, find, "case", print(&told.doc).into_bytes());
    told.comparison.file = saved.path.display().to_string();
    let record = Record::new(&told.comparison.file, None);
    Ok(Settled { record, saved, tale: Tale::Difference(Box::new(told)) })
}

fn save(folder: &Path, find: &Find, extension: &str, contents: Vec<u8>) -> Saved {
    let path = folder.join(format!("{}-{:016x}.{extension}", find.id, fnv1a(&contents)));
    let made = fs::create_dir_all(folder).map_err(|e| Error::io(folder, e));
    match made.and_then(|()| write_atomic(&path, &contents)) {
        Ok(()) => Saved { path, lost: None },
        Err(e) => Saved { path, lost: Some((e, contents)) },
    }
}

/// A find of a target that takes bytes is kept as it is.
fn keep_bytes(find: &Find, folder: &Path) -> Result<Settled, Error> {
    let bytes = match &find.unsaved {
        Some(unsaved) => unsaved.contents.clone(),
        None => fs::read(&find.path).map_err(|e| Error::io(&find.path, e))?,
    };
    let saved = save(folder, find, "bin", bytes);
    let mut record = Record::new(&saved.path.display().to_string(), None);
    record.verdict = "violation";
    Ok(Settled { saved, record, tale: Tale::Summary(find.summary.clone()) })
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
        match self.saved.lost {
            None => out.line(&format!("\nsaved as {}\n", self.saved.path.display())),
            Some(_) => out.line(""),
        }
    }

    /// Prints on standard error what could not be saved, and why. True when that was necessary.
    pub(super) fn rescue(&self) -> bool {
        let Some((error, contents)) = &self.saved.lost else { return false };
        complain(&error.to_string());
        rescue(&self.saved.path, contents);
        true
    }
}

#[cfg(test)]
mod tests {
    use ptefuzz_fuzz::driver::Unsaved;

    use super::*;

    #[test]
    fn a_case_that_does_not_show_again_what_the_worker_saw_is_a_harness_bug() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("clean.case");
        fs::write(&path, "kernel 7.3\n").expect("written");
        let find = Find { id: "oracle.value".into(), summary: String::new(), path, unsaved: None };
        let e = settle(&mut Judge::new(), &find, None, dir.path()).map(|s| s.saved.path).expect_err("it is clean");
        assert!(e.to_string().contains("harness bug") && e.to_string().contains("a second run is clean"), "{e}");
    }

    #[test]
    fn a_find_of_a_byte_target_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("find.bin");
        fs::write(&path, b"foobar").expect("written");
        let find = Find { id: "entry.round-trip".into(), summary: "s".into(), path, unsaved: None };
        let Settled { saved, .. } = settle(&mut Judge::new(), &find, None, dir.path()).expect("settled");
        assert!(saved.path.ends_with("finds/entry.round-trip-85944171f73967e8.bin"), "{:?}", saved.path);
        assert_eq!(fs::read(&saved.path).expect("saved"), b"foobar");
    }

    #[test]
    fn a_find_that_neither_the_worker_nor_this_program_can_save_is_still_settled_and_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let taken = dir.path().join("a file");
        fs::write(&taken, b"").expect("written");
        let unsaved = Some(Unsaved { error: "disk full".into(), contents: b"foobar".into() });
        let find = Find { id: "entry.round-trip".into(), summary: "s".into(), path: taken.join("x.bin"), unsaved };
        let settled = settle(&mut Judge::new(), &find, None, &taken).expect("settled");
        assert_eq!(settled.saved.lost.as_ref().expect("there is no folder").1, b"foobar");
        assert!(settled.rescue());
    }
}
