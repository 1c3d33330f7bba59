//! Everything that can go wrong outside the model, each as one line for a person.

use std::io;
use std::path::PathBuf;

/// Exit status: nothing was violated, or the work is done.
pub const EXIT_CLEAN: u8 = 0;
/// Exit status: a violation was found (for `--check`: a verdict differs from what the file expects).
pub const EXIT_VIOLATION: u8 = 1;
/// Exit status: wrong usage, unreadable input, or a fault of this program.
pub const EXIT_ERROR: u8 = 2;

/// Why a verb could not do its work. Every variant ends the command with [`EXIT_ERROR`], except
/// [`Error::BrokenPipe`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {}", path.display(), plain(source))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read, but is no case.
    #[error("{file}: {message}")]
    Input {
        /// Which; `<stdin>` for standard input.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// A text does not parse.
    #[error("{file}:{line}:{column}: {message}")]
    Parse {
        /// Which file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was expected there.
        message: String,
    },
    /// Operands of the command that do not go together.
    #[error("{0}")]
    Usage(String),
    /// This program, not the modelled kernel, has failed on an input.
    #[error("{file}: harness bug, not a finding: {message}; please report it together with this input")]
    Harness {
        /// The input that shows it.
        file: String,
        /// Panic message and place.
        message: String,
    },
    /// A worker process of `hunt` could not be started or has failed.
    #[error("worker {index}: {message}")]
    Worker {
        /// Which worker, from 0.
        index: usize,
        /// What happened.
        message: String,
    },
    /// Whoever reads our output has gone; there is nothing to say to anybody.
    #[error("broken pipe")]
    BrokenPipe,
}

impl Error {
    /// An I/O error with the path it belongs to.
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::Io { path: path.into(), source }
    }

    /// A file that is no case.
    pub fn input(file: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Input { file: file.into(), message: message.into() }
    }
}

/// The error without Rust's "(os error 2)" and what follows that.
fn plain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "is a directory".into(),
        _ => {
            let text = e.to_string();
            text.split_once(" (os error ").map_or(text.clone(), |(words, _)| words.to_lowercase())
        }
    }
}

/// What a verb returns: its exit status, or the reason why there is none.
pub type Outcome = Result<u8, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_told_in_its_words_alone() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(Error::io("x", full).to_string(), "x: no space left on device");
        let other = io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        assert_eq!(Error::io("x", other).to_string(), "x: stream did not contain valid UTF-8");
    }
}
