//! Printing and saving: results go to standard output as text or as JSON, files are replaced whole or not at all.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line and result.
    Json,
}

/// A value as one line of JSON.
///
/// # Errors
/// As [`Out::text`].
pub fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| stdout_error(e.into()))
}

/// Standard output, with a broken pipe told apart from real errors.
pub struct Out {
    sink: io::BufWriter<io::Stdout>,
}

impl Out {
    /// Standard output of this process.
    pub fn stdout() -> Out {
        Out { sink: io::BufWriter::new(io::stdout()) }
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] when the reader has gone, [`Error::Io`] for anything else.
    pub fn text(&mut self, text: &str) -> Result<(), Error> {
        self.sink.write_all(text.as_bytes()).map_err(stdout_error)
    }

    /// Writes text and a line feed.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn line(&mut self, text: &str) -> Result<(), Error> {
        self.text(text)?;
        self.text("\n")
    }

    /// Writes a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.line(&json(value)?)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sink.write_all(bytes).map_err(stdout_error)
    }

    /// Hands everything over to the reader.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.sink.flush().map_err(stdout_error)
    }
}

fn stdout_error(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Error::BrokenPipe,
        _ => Error::io("<stdout>", e),
    }
}

/// True when text on standard output may be coloured: a terminal, and `NO_COLOR` is unset or empty.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints one line on standard error. A closed standard error is no reason to fail.
pub fn complain(message: &str) {
    let mut err = io::stderr().lock();
    // Control characters of a file name or a foreign text must not reach the terminal.
    let clean: String = message.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let _closed = writeln!(err, "ptefuzz: {clean}");
}

/// Prints on standard error, whole, what should have become the file `path`: text as it is, anything else in hexadecimal,
/// which `xxd -r -p` turns back.
pub fn rescue(path: &Path, contents: &[u8]) {
    let (how, text) = match std::str::from_utf8(contents) {
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\n') => ("", text.trim_end().to_owned()),
        _ => (" in hexadecimal", contents.iter().map(|b| format!("{b:02x}")).collect()),
    };
    complain(&format!("{} is not saved; this is all of it{how}:", path.display()));
    let mut err = io::stderr().lock();
    let _closed = writeln!(err, "{text}");
}

/// Writes a file so that a reader sees the old contents or the new, never a part: a temporary file in the same
/// folder, then a rename.
///
/// # Errors
/// [`Error::Io`] with the path that could not be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
        // A device or a pipe is written to, not replaced.
        return std::fs::write(path, bytes).map_err(|e| Error::io(path, e));
    }
    // Behind a link it is the file that is replaced, not the link.
    let resolved = path.canonicalize();
    let path = resolved.as_deref().unwrap_or(path);
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let fail = |e: io::Error| Error::io(path, e);
    let mut file =
        tempfile::Builder::new().prefix(".ptefuzz-").permissions_like_created().tempfile_in(&folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    if let Some(m) = there {
        file.as_file().set_permissions(m.permissions()).map_err(fail)?;
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Gives a temporary file the mode that a newly created file has, instead of 0600.
trait LikeCreated {
    fn permissions_like_created(&mut self) -> &mut Self;
}

impl LikeCreated for tempfile::Builder<'_, '_> {
    #[cfg(unix)]
    fn permissions_like_created(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt;
        self.permissions(std::fs::Permissions::from_mode(0o666))
    }

    #[cfg(not(unix))]
    fn permissions_like_created(&mut self) -> &mut Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_old_contents_and_leaves_no_other_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a.case");
        write_atomic(&path, b"old").expect("first write");
        write_atomic(&path, b"new").expect("second write");
        assert_eq!(std::fs::read(&path).expect("readable"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_path() {
        let e = write_atomic(Path::new("/nonexistent-folder/x.case"), b"").expect_err("cannot work");
        assert!(e.to_string().starts_with("/nonexistent-folder/x.case: no such file"), "{e}");
    }
}
