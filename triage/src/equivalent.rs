//! Two designs compared: can user space or a device tell which one a kernel follows?
//!
//! What is compared, and when, is said in [`ptefuzz_core::run::equivalent`]. Here a difference gets its words: a line, a
//! record for scripts, and a report with the story of each run.

use ptefuzz_core::config::Design;
use ptefuzz_core::observe::Observation;
use ptefuzz_core::program::text::{Comment, Document, Place};
use ptefuzz_core::run::equivalent::{Difference, configs};
use serde::Serialize;

use crate::error::Error;
use crate::judge::Judge;
use crate::minimize::{self, Limits};
use crate::names;
use crate::story::{self, Palette, Story};

/// The two designs of a command line, when they can be compared.
///
/// # Errors
/// [`Error::Usage`] when they are no two ways of doing one thing.
pub fn pair(given: &[Design]) -> Result<Option<[Design; 2]>, Error> {
    let [a, b] = given[..] else { return Ok(None) };
    if a == b {
        return Err(Error::Usage(format!("{} is compared with itself", a.id())));
    }
    if a.group() != b.group() {
        let message = format!("{} and {} are no two ways of doing one thing", a.id(), b.id());
        return Err(Error::Usage(format!("{message}: `ptefuzz list designs` shows their groups")));
    }
    Ok(Some([a, b]))
}

/// The result of a comparison. Field names are public and stable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comparison {
    /// The input.
    pub file: String,
    /// `equivalent` or `different`.
    pub verdict: &'static str,
    /// What they differ in, for example `equivalent.outcome`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'static str>,
    /// The designs.
    pub designs: [&'static str; 2],
    /// Op during which it was noticed, from 1 in the order of the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<u32>,
    /// What was noticed there under each design.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noticed: Option<[String; 2]>,
}

impl Comparison {
    /// The record of one comparison.
    pub fn new(file: &str, doc: &Document, designs: [Design; 2], difference: Option<&Difference>) -> Comparison {
        Comparison {
            file: file.to_owned(),
            verdict: if difference.is_some() { "different" } else { "equivalent" },
            id: difference.map(|d| d.kind.id()),
            designs: designs.map(Design::id),
            op: difference.and_then(Difference::op).filter(|op| (*op as usize) < doc.case.ops.len()).map(names::number),
            noticed: difference.map(|d| {
                let verdicts = d.seen == [None; 2];
                let side = |i: usize| match d.seen[i] {
                    _ if verdicts => d.verdicts[i].to_string(),
                    Some(seen) => words(&seen, doc),
                    None => "nothing more".to_owned(),
                };
                [side(0), side(1)]
            }),
        }
    }

    /// The result in one line.
    pub fn line(&self) -> String {
        let [a, b] = self.designs;
        let Some((id, [x, y])) = self.id.zip(self.noticed.as_ref()) else {
            return format!("{}: no difference between {a} and {b}", self.file);
        };
        let op = self.op.map_or_else(String::new, |op| format!(" at op {op}"));
        format!("{}: {id}{op}: {a}: {x}; {b}: {y}", self.file)
    }
}

/// What was noticed, in words.
fn words(seen: &Observation, doc: &Document) -> String {
    let op = |op: u32| {
        let text = doc.case.ops.get(op as usize).map(|o| format!(" ({})", names::op(o, doc)));
        format!("op {}{}", names::number(op), text.unwrap_or_default())
    };
    match *seen {
        Observation::Start { op: n } => format!("{} begins", op(n)),
        Observation::End { op: n, outcome } => format!("{} ends with {}", op(n), outcome.name()),
        Observation::Load { proc, vpn, by, value, .. } => {
            format!("{} loads {value} from {}", names::agent(by), names::page((proc, vpn), doc))
        }
        Observation::Store { proc, vpn, by, value, .. } => {
            format!("{} stores {value} to {}", names::agent(by), names::page((proc, vpn), doc))
        }
        Observation::Signal { proc, vpn, by, signal, .. } => {
            format!("{} gets {} at {}", names::agent(by), signal.name(), names::page((proc, vpn), doc))
        }
        other => format!("{other:?}"),
    }
}

/// A difference, made small and told.
#[derive(Serialize)]
pub struct Told {
    /// The result.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// What happened under each design.
    pub stories: [Story; 2],
    /// The smallest case that shows it, with the first design in its header.
    #[serde(skip)]
    pub doc: Document,
}

/// Makes a case that shows a difference small, and tells what happens under each design.
///
/// # Errors
/// [`Error::Harness`] when the model panics, or a second run shows no difference.
pub fn tell(judge: &mut Judge, file: &str, doc: &Document, designs: [Design; 2]) -> Result<Told, Error> {
    let differs = |judge: &mut Judge, case: &_| judge.compare(file, case, designs);
    let bug = || Error::Harness { file: file.to_owned(), message: "a second run shows no difference".into() };
    let kind = differs(judge, &doc.case)?.ok_or_else(bug)?.kind;
    let mut failed = None;
    let small = minimize::minimize(&doc.case, Limits::default(), |candidate| {
        failed.is_none()
            && differs(judge, candidate)
                .unwrap_or_else(|e| {
                    failed = Some(e);
                    None
                })
                .is_some_and(|d| d.kind == kind)
    });
    if let Some(e) = failed {
        return Err(e);
    }
    let mut doc = Document::from(small.case);
    let difference = differs(judge, &doc.case)?.ok_or_else(bug)?;
    let comparison = Comparison::new(file, &doc, designs, Some(&difference));
    let story = |judge: &mut Judge, i: usize| {
        let mut under = doc.clone();
        under.case.config = configs(doc.case.config, designs)[i];
        story::of_case(judge, designs[i].id(), &under)
    };
    let stories = [story(judge, 0)?, story(judge, 1)?];
    let [a, b] = comparison.designs;
    let text = format!(" {} and {} can be told apart: ptefuzz replay --equivalent {a} {b}", a, b);
    doc.comments.push(Comment { place: Place::Kernel, trailing: false, text });
    Ok(Told { comparison, stories, doc })
}

impl Told {
    /// The difference, then the story of each run.
    pub fn to_text(&self, palette: Palette) -> String {
        let [a, b] = self.comparison.designs;
        let mut text = format!("{}: {a} and {b} can be told apart\n", self.comparison.id.unwrap_or_default());
        if let Some(noticed) = &self.comparison.noticed {
            for (design, what) in [a, b].into_iter().zip(noticed) {
                text.push_str(&format!("  {design}: {what}\n"));
            }
        }
        for (design, story) in [a, b].into_iter().zip(&self.stories) {
            text.push_str(&format!("\nunder {design}, {}", story.to_text(palette)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ptefuzz_core::config::{Defect, Kernel};
    use ptefuzz_core::program::text::{parse, print};

    use super::*;

    /// D5 is a mistake of one of two ways to restore an entry, and so makes a difference between them.
    const D5: &str = "kernel 7.3\ndefect D5\n\nprocess A\n  heap = mmap anon private rw 3\n\ncpu 0\n  A write heap[0..3]\n  \
        gpu0 exclusive A heap[0..3]\n  A uffd-register heap[1] wp\n  A uffd-wp heap[1]\n  A read heap[0..3]\n";

    #[test]
    fn only_two_ways_of_doing_one_thing_are_compared() {
        let (a, b) = (Design::RestoreByType, Design::RestoreByCheck);
        assert!(matches!(pair(&[a, b]), Ok(Some([x, y])) if (x, y) == (a, b)));
        assert!(matches!(pair(&[]), Ok(None)));
        let itself = pair(&[a, a]).map(|_| ()).expect_err("one design").to_string();
        assert_eq!(itself, "restore-by-type is compared with itself");
        let groups = pair(&[a, Design::ExclusiveByWalk]).map(|_| ()).expect_err("two groups").to_string();
        assert!(groups.starts_with("restore-by-type and exclusive-by-walk are no two ways"), "{groups}");
    }

    #[test]
    fn a_difference_is_made_small_and_told_from_both_sides() {
        let doc = parse(D5).expect("a case");
        let designs = [Design::RestoreByType, Design::RestoreByCheck];
        let told = tell(&mut Judge::new(), "d5", &doc, designs).expect("they differ");
        assert_eq!((told.comparison.verdict, told.comparison.id), ("different", Some("equivalent.verdict")));
        assert!(told.doc.case.ops.len() <= 4 && told.doc.case.config.has(Defect::D5));
        let text = told.to_text(Palette::new(false));
        assert!(
            text.starts_with("equivalent.verdict: restore-by-type and restore-by-check can be told apart\n"),
            "{text}"
        );
        assert!(text.contains("restore-by-type: clean\n") && text.contains("under restore-by-check, "), "{text}");
        let saved = print(&told.doc);
        assert!(saved.contains("ptefuzz replay --equivalent restore-by-type restore-by-check"), "{saved}");
        assert_eq!(parse(&saved).expect("it can be read again").case, told.doc.case);
    }

    #[test]
    fn without_the_defect_there_is_no_difference_and_the_line_says_so() {
        let mut doc = parse(D5).expect("a case");
        doc.case.config = ptefuzz_core::config::Config::fixed(Kernel::V7_3);
        let designs = [Design::RestoreByType, Design::RestoreByCheck];
        let difference = Judge::new().compare("x", &doc.case, designs).expect("it runs");
        let line = Comparison::new("x", &doc, designs, difference.as_ref()).line();
        assert_eq!(line, "x: no difference between restore-by-type and restore-by-check");
    }
}
