//! `ptefuzz replay`: run cases and print their verdicts.

use ptefuzz_core::program::text::Expect;
use ptefuzz_core::rule::Violation;

use crate::cli::Replay;
use crate::error::{EXIT_CLEAN, EXIT_ERROR, EXIT_VIOLATION, Error, Outcome};
use crate::input::{self, Input};
use crate::judge::Judge;
use crate::output::{Format, Out, complain};
use crate::verdict::Record;

/// Runs every file, whatever becomes of the others. An unreadable one outweighs a violation.
pub(super) fn run(options: &Replay) -> Outcome {
    let mut judge = Judge::new();
    let mut out = Out::stdout();
    let mut code = EXIT_CLEAN;
    for path in input::collect(&options.files) {
        match path.and_then(|p| input::load(&p)).and_then(|i| verdict(&mut judge, &i, options.check)) {
            Ok((record, bad)) => {
                print(&mut out, &record, options.format)?;
                code = code.max(if bad { EXIT_VIOLATION } else { EXIT_CLEAN });
            }
            Err(e) => {
                out.flush()?;
                complain(&e.to_string());
                code = EXIT_ERROR;
            }
        }
    }
    out.flush()?;
    Ok(code)
}

/// The verdict of one input, and whether it makes the exit status 1.
fn verdict(judge: &mut Judge, input: &Input, check: bool) -> Result<(Record, bool), Error> {
    if check && input.doc.expect.is_none() {
        return Err(Error::input(&input.name, "no `expect` line, which --check compares the verdict with"));
    }
    let violation = judge.run(&input.name, &input.doc.case)?;
    let mut record = Record::new(&input.name, violation.as_ref());
    record.expect = input.doc.expect.map(|e| e.name().to_owned());
    if !check {
        return Ok((record, violation.is_some()));
    }
    let ok = input.doc.expect == Some(expectation(violation.as_ref()));
    record.ok = Some(ok);
    Ok((record, !ok))
}

/// What a file would have to expect to agree with a verdict.
pub(crate) fn expectation(violation: Option<&Violation>) -> Expect {
    violation.map_or(Expect::Clean, |v| Expect::Violation(v.rule))
}

fn print(out: &mut Out, record: &Record, format: Format) -> Result<(), Error> {
    match (format, record.ok) {
        (Format::Json, _) => out.json(record),
        (Format::Text, None) => out.line(&record.line()),
        (Format::Text, Some(true)) => out.line(&format!("{}: ok ({})", record.file, record.id.unwrap_or("clean"))),
        (Format::Text, Some(false)) => {
            let expect = record.expect.as_deref().unwrap_or("nothing");
            out.line(&format!("{} -- but {expect} is expected", record.line()))
        }
    }
}
