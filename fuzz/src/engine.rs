//! What the binaries under `fuzz_targets/` are made of: one input under an engine that takes a panic for a find.

use std::cell::RefCell;
use std::fmt;

use arbitrary::{Arbitrary, Unstructured};
use ptefuzz_core::program::codec;

use crate::mutator;
use crate::pin::Pin;
use crate::session::{Session, case_text};
use crate::targets::Target;

/// First words of the panic message that reports a failure of what was tested. A panic without them is a mistake
/// of the harness.
pub const VIOLATION: &str = "ptefuzz violation:";

/// Runs one input on the fixed model.
///
/// # Panics
/// When the target fails, with a message that begins with [`VIOLATION`]; a case is printed as text before that.
pub fn check(target: &'static Target, bytes: &[u8]) {
    thread_local! {
        static SESSION: RefCell<Session> = RefCell::new(Session::new(Pin::FIXED));
    }
    mutator::choose(target);
    let result = SESSION.with_borrow_mut(|session| target.run(bytes, session));
    if let Err(failure) = result {
        if failure.extension() == "case" {
            eprintln!("{}", String::from_utf8_lossy(&failure.artifact()));
        }
        panic!("{VIOLATION} {}", failure.summary());
    }
}

/// The bytes of a case. Its `Debug` form is the case as text, which is what `cargo fuzz fmt` prints.
#[derive(Clone, Copy)]
pub struct CaseInput<'a>(
    /// All of them.
    pub &'a [u8],
);

impl<'a> Arbitrary<'a> for CaseInput<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let len = u.len();
        u.bytes(len).map(CaseInput)
    }

    fn arbitrary_take_rest(u: Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(CaseInput(u.take_rest()))
    }
}

impl fmt::Debug for CaseInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&case_text(&codec::from_any(self.0)))
    }
}
