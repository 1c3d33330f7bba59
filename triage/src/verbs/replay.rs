//! `ptefuzz replay`: run cases and print their verdicts.

use ptefuzz_core::config::Design;
use ptefuzz_core::entry::EntryConfig;
use ptefuzz_core::program::text::Expect;
use ptefuzz_core::rule::Violation;
use ptefuzz_core::run::equivalent::configs;

use crate::cli::Replay;
use crate::equivalent::{self, Comparison};
use crate::error::{EXIT_CLEAN, EXIT_ERROR, EXIT_VIOLATION, Error, Outcome};
use crate::input::{self, Input};
use crate::judge::Judge;
use crate::output::{Format, Out, complain, json};
use crate::verdict::Record;

/// Runs every file, whatever becomes of the others. An unreadable one outweighs a violation.
pub(super) fn run(options: &Replay) -> Outcome {
    let designs = equivalent::pair(&options.equivalent)?;
    let mut judge = Judge::new();
    let mut out = Out::stdout();
    let mut code = EXIT_CLEAN;
    for path in input::collect(&options.files) {
        let input = path.and_then(|p| input::load(&p));
        let result = input.and_then(|i| match designs {
            Some(designs) => comparison(&mut judge, &i, designs, options.format),
            None => {
                let (record, bad) = verdict(&mut judge, &i, options.check)?;
                Ok((line(&record, options.format)?, bad))
            }
        });
        match result {
            Ok((line, bad)) => {
                out.line(&line)?;
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

/// The comparison of one input under two designs, and whether it makes the exit status 1.
fn comparison(judge: &mut Judge, input: &Input, designs: [Design; 2], format: Format) -> Result<(String, bool), Error> {
    let case = &input.doc.case;
    for config in configs(case.config, designs) {
        EntryConfig::of(&config).check().map_err(|e| Error::input(&input.name, e.to_string()))?;
    }
    let difference = judge.compare(&input.name, case, designs)?;
    let record = Comparison::new(&input.name, &input.doc, designs, difference.as_ref());
    let line = if format == Format::Json { json(&record)? } else { record.line() };
    Ok((line, difference.is_some()))
}

fn line(record: &Record, format: Format) -> Result<String, Error> {
    Ok(match (format, record.ok) {
        (Format::Json, _) => json(record)?,
        (Format::Text, None) => record.line(),
        (Format::Text, Some(true)) => format!("{}: ok ({})", record.file, record.id.unwrap_or("clean")),
        (Format::Text, Some(false)) => {
            let expect = record.expect.as_deref().unwrap_or("nothing");
            format!("{} -- but {expect} is expected", record.line())
        }
    })
}
