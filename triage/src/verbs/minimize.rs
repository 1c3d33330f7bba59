//! `ptefuzz minimize`: the smallest case with the same violation.

use ptefuzz_core::program::text::{Comment, Document, Expect, Place, parse, print};
use ptefuzz_core::program::{Case, text};
use ptefuzz_core::rule::Violation;
use serde::Serialize;

use crate::cli::Minimize;
use crate::error::{EXIT_CLEAN, Error, Outcome};
use crate::input;
use crate::judge::{Judge, Key};
use crate::minimize::{self, Limits, Minimised};
use crate::output::{Format, Out, complain, rescue, write_atomic};
use crate::verdict::Record;

/// What `--format json` prints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    record: Record,
    /// Ops, interruptions and maps before and after.
    before: Size,
    after: Size,
    runs: u32,
    /// True when no single simplification is left.
    complete: bool,
    /// The result as text.
    case: &'a str,
}

/// How large a case is.
#[derive(Serialize, Clone, Copy)]
struct Size {
    ops: usize,
    interrupts: usize,
    maps: usize,
}

impl Size {
    fn of(case: &Case) -> Size {
        Size { ops: case.ops.len(), interrupts: case.interrupts.len(), maps: case.maps.len() }
    }
}

pub(super) fn run(options: &Minimize) -> Outcome {
    let input = input::load(&options.file)?;
    let mut judge = Judge::new();
    let Some(violation) = judge.run(&input.name, &input.doc.case)? else {
        return Err(Error::input(&input.name, "nothing is violated, so there is nothing to keep"));
    };
    let limits = Limits { runs: options.runs, ..Limits::default() };
    let (doc, small) = shrink(&mut judge, &input.name, &input.doc.case, &violation, limits)?;
    let text = print(&doc);
    if let Some(path) = &options.out {
        write_atomic(path, text.as_bytes()).inspect_err(|_| rescue(path, text.as_bytes()))?;
    }
    let (before, after) = (Size::of(&input.doc.case), Size::of(&doc.case));
    let mut out = Out::stdout();
    match options.format {
        Format::Json => {
            let name = options.out.as_ref().map_or_else(|| input.name.clone(), |p| p.display().to_string());
            let found = judge.run(&name, &doc.case)?;
            let record = Record::new(&name, found.as_ref());
            out.json(&Report { record, before, after, runs: small.runs, complete: small.complete, case: &text })?;
        }
        Format::Text if options.out.is_none() => out.text(&text)?,
        Format::Text => {}
    }
    out.flush()?;
    if options.format == Format::Text {
        let more = if small.complete { "" } else { "; stopped at its limit, more may be possible" };
        complain(&format!(
            "{}: {} ops -> {}, {} interruptions -> {}, in {} runs{more}",
            input.name, before.ops, after.ops, before.interrupts, after.interrupts, small.runs
        ));
    }
    Ok(EXIT_CLEAN)
}

/// The smallest case that was met with the same violation, as a document that expects it.
///
/// # Errors
/// [`Error::Harness`] when the model panics on a candidate, or when the result does not survive its text form.
pub(crate) fn shrink(
    judge: &mut Judge,
    name: &str,
    case: &Case,
    violation: &Violation,
    limits: Limits,
) -> Result<(Document, Minimised), Error> {
    let key = Key::of(violation);
    let mut failed = None;
    let small = minimize::minimize(case, limits, |candidate| {
        failed.is_none()
            && match judge.run(name, candidate) {
                Ok(found) => found.is_some_and(|v| Key::of(&v) == key),
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
    });
    if let Some(e) = failed {
        return Err(e);
    }
    let mut doc = Document::from(small.case.clone());
    doc.expect = Some(Expect::Violation(violation.rule));
    let words = format!(" {}", violation.rule.summary());
    doc.comments.push(Comment { place: Place::Expect, trailing: false, text: words });
    same_violation(judge, name, &doc, violation)?;
    Ok((doc, small))
}

/// Makes sure that what will be saved is what was found: the text form reads back as the same case, and that
/// violates the same rule.
///
/// # Errors
/// [`Error::Harness`] when it does not: the model is not deterministic or its text form loses something.
pub(crate) fn same_violation(
    judge: &mut Judge,
    name: &str,
    doc: &Document,
    violation: &Violation,
) -> Result<(), Error> {
    let bug = |message: String| Error::Harness { file: name.to_owned(), message };
    let again = parse(&text::print(doc)).map_err(|e| bug(format!("the text form does not parse: {e}")))?;
    if again.case != doc.case {
        return Err(bug("the text form reads back as another case".into()));
    }
    match judge.run(name, &again.case)? {
        Some(v) if Key::of(&v) == Key::of(violation) => Ok(()),
        other => {
            let got = other.map_or("clean", |v| v.rule.id());
            Err(bug(format!("a second run gives {got} instead of {}", violation.rule.id())))
        }
    }
}
