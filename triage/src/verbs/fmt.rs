//! `ptefuzz fmt`: text and binary, normalised.

use std::path::Path;

use ptefuzz_core::program::codec::encode;
use ptefuzz_core::program::text::print;

use crate::cli::Fmt;
use crate::error::{EXIT_CLEAN, EXIT_ERROR, EXIT_VIOLATION, Error, Outcome};
use crate::input::{self, Form};
use crate::output::{Out, complain, write_atomic};

pub(super) fn run(options: &Fmt) -> Outcome {
    if options.check {
        return check(options);
    }
    let [file] = options.files.as_slice() else {
        return Err(Error::Usage("several files can only be checked (--check); format one at a time".into()));
    };
    let input = input::load(file)?;
    let bytes = match options.binary {
        true => encode(&input.doc.case),
        false => print(&input.doc).into_bytes(),
    };
    match &options.out {
        Some(path) => write_atomic(path, &bytes)?,
        None => {
            let mut out = Out::stdout();
            out.bytes(&bytes)?;
            out.flush()?;
        }
    }
    Ok(EXIT_CLEAN)
}

/// Names the files that are not normalised text.
fn check(options: &Fmt) -> Outcome {
    let mut out = Out::stdout();
    let mut code = EXIT_CLEAN;
    for path in input::collect(&options.files) {
        match path.and_then(|p| normal(&p)) {
            Ok(None) => {}
            Ok(Some(line)) => {
                out.line(&line)?;
                code = code.max(EXIT_VIOLATION);
            }
            Err(e) => {
                complain(&e.to_string());
                code = EXIT_ERROR;
            }
        }
    }
    out.flush()?;
    Ok(code)
}

/// `None` when a file is normalised text, else what it is.
fn normal(path: &Path) -> Result<Option<String>, Error> {
    if input::is_stdin(path) {
        return Err(Error::Usage("standard input cannot be checked: it is read only once".into()));
    }
    let input = input::load(path)?;
    if input.form != Form::Text {
        return Ok(Some(format!("{}: binary", input.name)));
    }
    let written = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok((written != print(&input.doc).into_bytes()).then(|| format!("{}: not normalised", input.name)))
}
