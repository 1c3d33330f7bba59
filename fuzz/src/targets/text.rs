//! The text form: reading never panics, and what can be read can be printed and read again.

use std::hash::{DefaultHasher, Hash, Hasher};

use ptefuzz_core::program::{Case, codec, text};

use crate::coverage;
use crate::session::Failure;

/// Feature numbers of errors and of documents lie apart.
const READ: u64 = 1 << 32;

/// Words that tell one kind of error from another.
const WORDS: usize = 4;
/// Kinds of errors that are told apart.
const SHAPES: u64 = 256;

/// Checks one text; bytes that are not UTF-8 are of no interest.
pub(super) fn check(bytes: &[u8]) -> Result<(), Failure> {
    let Ok(source) = std::str::from_utf8(bytes) else { return Ok(()) };
    match text::parse(source) {
        Ok(document) => {
            coverage::note(READ + (document.case.ops.len() as u64));
            for op in &document.case.ops {
                coverage::note(READ * (2 + op.code as u64));
            }
            laws(&document).map_err(|(id, message)| Failure::Property { id, message, input: bytes.to_vec() })
        }
        Err(error) => {
            coverage::note(shape_of(&error.to_string()));
            Ok(())
        }
    }
}

fn laws(document: &text::Document) -> Result<(), (&'static str, String)> {
    let printed = text::print(document);
    let again = text::parse(&printed).map_err(|e| ("text.print-parse", format!("what was printed is refused: {e}")))?;
    if again.case != document.case {
        return Err(("text.print-parse", format!("printed and read again it is another case: {printed:?}")));
    }
    if text::print(&again) != printed {
        return Err(("text.print-print", format!("printed twice it differs: {printed:?}")));
    }
    let binary = codec::encode(&document.case);
    let mut decoded = Case::empty();
    codec::decode_into(&mut decoded, &binary);
    if decoded != document.case {
        return Err(("text.binary", format!("through the binary form it is another case: {printed:?}")));
    }
    Ok(())
}

/// What kind of error it is: the words that its message begins with, without what it quotes.
fn shape_of(message: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in message.split(' ').filter(|w| w.chars().all(char::is_alphabetic)).take(WORDS) {
        word.hash(&mut hasher);
    }
    hasher.finish() % SHAPES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_differ_in_what_they_quote_are_of_one_kind() {
        assert_eq!(shape_of("3:4: unknown op `abc`"), shape_of("17:1: unknown op `x-y`"));
        assert_ne!(shape_of("3:4: unknown op `abc`"), shape_of("3:4: unknown rule `abc`"));
    }
}
