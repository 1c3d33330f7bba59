//! Reading cases: text, full binary and the raw artifacts of fuzzers, from files, folders and standard input.
//!
//! What a file is, is told by its name and its first bytes:
//!
//! | file | is read as |
//! |---|---|
//! | `*.case` | text; anything that is not is an error |
//! | begins with the magic of the full binary layout | that layout, strictly: nothing missing, nothing left over |
//! | `*.bin` | the raw layout: any bytes are a case |
//! | mostly printable characters | text; an error when it does not parse |
//! | anything else | the raw layout |
//!
//! Of a folder, files named `*.case`, `*.bin` and files without an extension (as libFuzzer and AFL write them)
//! are taken, in the order of their paths; hidden ones are not.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use ptefuzz_core::program::case::MAX_BYTES;
use ptefuzz_core::program::codec;
use ptefuzz_core::program::text::{Document, parse_bytes};

use crate::error::Error;

/// In which form a case was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Text.
    Text,
    /// The full binary layout.
    Full,
    /// Arbitrary bytes, decoded as the raw layout.
    Raw,
}

/// A case that was read.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in messages: the path as given, or `<stdin>`.
    pub name: String,
    /// How it was written.
    pub form: Form,
    /// The case, and what only its text has.
    pub doc: Document,
}

/// The files that these operands stand for, in order: a folder is replaced by the cases in it. What cannot be
/// read is an error in its place.
pub fn collect(operands: &[PathBuf]) -> Vec<Result<PathBuf, Error>> {
    let mut out = Vec::new();
    for path in operands {
        if is_stdin(path) || !path.is_dir() {
            out.push(Ok(path.clone()));
            continue;
        }
        let before = out.len();
        walk(path, &mut out);
        if out.len() == before {
            out.push(Err(Error::input(path.display().to_string(), "there is no case in this folder")));
        }
    }
    out
}

/// True for the operand that means standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn walk(folder: &Path, out: &mut Vec<Result<PathBuf, Error>>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return out.push(Err(Error::io(folder, e))),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(e) => out.push(Err(Error::io(folder, e))),
        }
    }
    paths.sort();
    for path in paths {
        // Links to folders are not followed: they could lead back here.
        let link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        match path.is_dir() {
            _ if hidden => {}
            true if !link => walk(&path, out),
            // Pipes and devices are read only when they are named themselves. What cannot be looked at is an error.
            false if is_case_name(&path) && path.metadata().map_or(true, |m| m.is_file()) => out.push(Ok(path)),
            _ => {}
        }
    }
}

fn is_case_name(path: &Path) -> bool {
    path.extension().is_none_or(|e| e == "case" || e == "bin")
}

/// Reads one file, or standard input for `-`.
///
/// # Errors
/// [`Error::Io`], [`Error::Input`] or [`Error::Parse`], each one line that begins with the name of the file.
pub fn load(path: &Path) -> Result<Input, Error> {
    let name = if is_stdin(path) { "<stdin>".to_owned() } else { path.display().to_string() };
    let bytes = if is_stdin(path) {
        read_bounded(std::io::stdin().lock(), &name)?
    } else {
        if path.is_dir() {
            return Err(Error::input(name, "is a folder; one case is wanted here"));
        }
        read_bounded(File::open(path).map_err(|e| Error::io(path, e))?, &name)?
    };
    of_bytes(name, path, &bytes)
}

/// The case in these bytes, which the file `path` holds or should hold.
///
/// # Errors
/// [`Error::Input`] or [`Error::Parse`], each one line that begins with `name`.
pub fn of_bytes(name: String, path: &Path, bytes: &[u8]) -> Result<Input, Error> {
    // What a full disk or a broken copy leaves is no case, although any bytes can be read as one.
    if bytes.is_empty() {
        return Err(Error::input(name, "the file is empty"));
    }
    if bytes.len() < codec::MAGIC.len() && codec::MAGIC.starts_with(bytes) {
        return Err(Error::input(name, "the file is cut off within its first bytes"));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    decode(name, extension, bytes)
}

/// Reads at most [`MAX_BYTES`].
fn read_bounded(source: impl Read, name: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    source.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(name, e))?;
    if bytes.len() > MAX_BYTES {
        return Err(Error::input(name, format!("larger than {MAX_BYTES} bytes, the most that a case may have")));
    }
    Ok(bytes)
}

/// Makes a case of the bytes of a file with this extension.
///
/// # Errors
/// As [`load`].
pub fn decode(name: String, extension: &str, bytes: &[u8]) -> Result<Input, Error> {
    let form = match extension {
        "case" => Form::Text,
        _ if codec::is_full(bytes) => Form::Full,
        "bin" => Form::Raw,
        _ if mostly_printable(bytes) => Form::Text,
        _ => Form::Raw,
    };
    let doc = match form {
        Form::Text if bytes.is_empty() => return Err(Error::input(name, "the file is empty")),
        Form::Text => parse_bytes(bytes).map_err(|e| Error::Parse {
            file: name.clone(),
            line: e.line,
            column: e.column,
            message: e.message,
        })?,
        Form::Full => {
            let case = codec::decode_strict(bytes).map_err(|e| Error::input(name.clone(), e.to_string()))?;
            Document::from(case)
        }
        Form::Raw => Document::from(codec::decode(bytes)),
    };
    Ok(Input { name, form, doc })
}

/// At least nine of ten bytes belong to what a person types, and none is zero.
fn mostly_printable(bytes: &[u8]) -> bool {
    let printable = bytes.iter().filter(|b| matches!(b, b' '..=b'~' | b'\n' | b'\r' | b'\t')).count();
    !bytes.is_empty() && !bytes.contains(&0) && printable * 10 >= bytes.len() * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(extension: &str, bytes: &[u8]) -> String {
        decode("x".into(), extension, bytes).map(|i| i.form).expect_err("must not be read").to_string()
    }

    #[test]
    fn a_case_file_must_be_text_and_its_errors_have_a_place() {
        assert!(error("case", b"kernel 6.12\nexpect bogus.rule\n").starts_with("x:2:8: "));
        assert!(error("case", b"# \xff\n").starts_with("x:1:3: "));
        assert!(error("case", b"").ends_with("empty"));
    }

    #[test]
    fn printable_nonsense_is_an_error_whatever_its_name() {
        assert!(error("", b"once upon a time there was a page table\n").starts_with("x:1:1: "));
        assert!(error("", b"caf\xe9 society and other things\n").starts_with("x:1:"));
    }

    #[test]
    fn any_bytes_are_a_raw_case() {
        for bytes in [&[][..], &[0, 1, 2, 255, 254], &[7; 300]] {
            assert_eq!(decode("x".into(), "", bytes).expect("is a case").form, Form::Raw);
        }
        assert_eq!(decode("x".into(), "bin", b"plain words").expect("is a case").form, Form::Raw);
    }

    #[test]
    fn a_truncated_full_binary_is_an_error_and_a_whole_one_is_read_exactly() {
        let case = codec::decode(&[3; 80]);
        let bytes = codec::encode(&case);
        let whole = decode("x".into(), "", &bytes).expect("is a case");
        assert_eq!((whole.form, whole.doc.case), (Form::Full, case));
        assert!(error("", &bytes[..bytes.len() - 3]).starts_with("x: byte "));
        assert!(error("bin", &bytes[..bytes.len() - 3]).starts_with("x: byte "));
    }

    #[test]
    fn a_folder_gives_its_cases_in_order_and_an_empty_one_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let only = |r: Vec<Result<PathBuf, Error>>| -> Vec<String> {
            r.into_iter()
                .map(|p| match p {
                    Ok(path) => path.strip_prefix(dir.path()).expect("inside").display().to_string(),
                    Err(e) => e.to_string(),
                })
                .collect()
        };
        let found = only(collect(&[dir.path().to_path_buf()]));
        assert!(found[0].ends_with("there is no case in this folder"), "{found:?}");
        fs::create_dir(dir.path().join("sub")).expect("folder");
        for name in ["b.case", "a.case", "sub/crash-1", "notes.md", ".hidden.case", "z.bin"] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        assert_eq!(only(collect(&[dir.path().to_path_buf()])), ["a.case", "b.case", "sub/crash-1", "z.bin"]);
    }
}
