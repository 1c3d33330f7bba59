//! The text form of a case: what people write, review and keep.
//!
//! ```text
//! # D12: a device-exclusive page can never be reclaimed
//! expect   progress.reclaim
//! kernel   6.12
//! geometry tiny
//! cpus     2
//!
//! process A
//!   heap = mmap anon private rw 4
//!
//! cpu 0
//!   A write heap[0]
//!   gpu0 exclusive A heap[0]
//!   reclaim A heap[0]
//!
//! interrupts
//!   at cpu0 shrink_folio_list:isolate #1 -> cpu1
//! ```
//!
//! A header, then blocks in any number and order; the order of the op lines is the order of the ops. `#`
//! begins a comment, except in the number of an `at` line.
//!
//! | header line | means |
//! |---|---|
//! | `expect clean`, `expect <rule>` | the verdict that the case must have |
//! | `kernel 6.12` | designs and defects of this release; the newest when there is no such line |
//! | `arch arm64` | entry layout; x86-64 otherwise |
//! | `geometry tiny` | table geometry; tiny otherwise |
//! | `cpus 2` | number of CPUs; 2 otherwise |
//! | `fixed` | none of the release's defects |
//! | `design <id>` | this design in place of the release's |
//! | `without <id>` | not this one of the release's defects |
//! | `defect <id>` | this defect, too |
//! | `window 2 log` | a name for a mapping window, where the rule below would give another |
//!
//! A design that needs a bit which the architecture does not have is refused. `ptefuzz list designs`, `defects` and `rules`
//! print the ids, `ptefuzz list ops` every op as it is written in a `cpu` block: first who acts (a process, a device, or
//! nobody when the kernel does it by itself), then the name, then what it is done to: `heap[3]` is one page, `heap[0..4]` the
//! four from 0 to 3.
//!
//! Windows have names. `heap`, `data`, `stack` and `map` are windows 0 to 3, unless the window was given another
//! name; a new name in a `mmap` takes the first window that has none yet. A name means the same window in
//! every process.
//!
//! [`print()`] writes the normal form: [`parse`] reads it back as the same [`Document`], comments included.

mod lex;
mod names;
mod parse;
mod print;
mod suggest;
#[cfg(test)]
mod tests;
mod words;

pub use names::{DEFAULT_NAMES, Names};
pub use parse::{parse, parse_bytes};
pub use print::{interrupt_text, map_text, op_text, print};

use crate::config::{Defect, Design};
use crate::program::case::Case;
use crate::rule::Rule;
use std::fmt;

/// Names of the processes.
pub const PROCS: [&str; crate::config::MAX_PROCS] = ["A", "B", "C", "D"];
/// Names of the devices.
pub const DEVICES: [&str; crate::config::MAX_DEVICES] = ["gpu0", "gpu1"];

/// The verdict that a case must have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Expect {
    /// No violation.
    Clean,
    /// A violation of this rule.
    Violation(Rule),
}

impl Expect {
    /// As written after `expect`.
    pub fn name(self) -> &'static str {
        match self {
            Expect::Clean => "clean",
            Expect::Violation(rule) => rule.id(),
        }
    }
}

/// A part of a line that stands for an item of a case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Part {
    /// The heading of a block that begins with the item.
    Heading,
    /// The item itself.
    Item,
}

/// A line of the normal form. The order of the variants is the order of the lines; numbers are indices into
/// the vectors of the case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Place {
    /// `expect`.
    Expect,
    /// `kernel`.
    Kernel,
    /// `arch`.
    Arch,
    /// `geometry`.
    Geometry,
    /// `cpus`.
    Cpus,
    /// `fixed`.
    Fixed,
    /// `design`.
    Design(Design),
    /// `without`.
    Without(Defect),
    /// `defect`.
    Defect(Defect),
    /// `window`.
    Window(u8),
    /// A mapping, or `process`.
    Map(u32, Part),
    /// An op, or `cpu`.
    Op(u32, Part),
    /// An interruption, or `interrupts`.
    Interrupt(u32, Part),
    /// After the last line.
    End,
}

/// A comment and the line it belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Comment {
    /// The line. A comment whose line is not printed goes above the next one that is.
    pub place: Place,
    /// True when it stands at the end of that line, false when it has a line of its own above.
    pub trailing: bool,
    /// What follows the `#`, without white space at the end.
    pub text: String,
}

/// A case and what only its text form has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// The case, normalised.
    pub case: Case,
    /// The verdict it must have.
    pub expect: Option<Expect>,
    /// Names of the mapping windows.
    pub names: Names,
    /// Comments, in the order of their lines.
    pub comments: Vec<Comment>,
}

impl From<Case> for Document {
    /// A document with default names, no comments and no expected verdict. The case is normalised.
    fn from(mut case: Case) -> Document {
        crate::program::codec::normalize(&mut case);
        Document { case, expect: None, names: Names::default(), comments: Vec::new() }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

/// Why a text is not a case, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}
