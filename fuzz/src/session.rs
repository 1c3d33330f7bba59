//! What a target needs from one input to the next, and what it can come back with.

use ptefuzz_core::config::Design;
use ptefuzz_core::program::{Case, codec, text};
use ptefuzz_core::rule::Violation;
use ptefuzz_core::run::Verdict;
use ptefuzz_core::run::equivalent::{Comparer, Difference, configs};

use crate::coverage;
use crate::pin::Pin;

/// A machine and a case that are used again for every input, so that the steady state allocates nothing.
///
/// After a panic in [`crate::targets::Target::run`] the session is in no defined state: make a new one.
pub struct Session {
    comparer: Comparer,
    case: Case,
    pin: Pin,
}

impl Session {
    /// A session whose cases all run under `pin`, and whose machine reports its states to [`coverage::state`].
    pub fn new(pin: Pin) -> Session {
        let mut comparer = Comparer::new();
        comparer.machine().set_coverage(Some(coverage::state()));
        Session { comparer, case: Case::empty(), pin }
    }

    /// Whether the machine reports its states, which only an engine that looks at them needs.
    pub(crate) fn report_states(&mut self, on: bool) {
        self.comparer.machine().set_coverage(on.then(coverage::state));
    }

    /// What every case is pinned to.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Makes a case of the bytes and judges it; or compares it under two designs, when the pin says so.
    ///
    /// # Errors
    /// The violation or the difference, with the case that shows it.
    pub(crate) fn judge(&mut self, bytes: &[u8], pin: &Pin, shape: fn(&mut Case)) -> Result<(), Failure> {
        load(bytes, pin, shape, &mut self.case);
        if let Some(designs) = pin.equivalent {
            let difference = self.comparer.compare(&self.case, configs(self.case.config, designs));
            return difference.map_or(Ok(()), |d| {
                Err(Failure::Difference { difference: Box::new(d), case: Box::new(self.case.clone()), designs })
            });
        }
        match self.comparer.machine().run(&self.case) {
            Verdict::Clean => Ok(()),
            Verdict::Violation(violation) => {
                Err(Failure::Violation { violation: Box::new(violation), case: Box::new(self.case.clone()) })
            }
        }
    }
}

/// Makes a case of bytes: text is read as text, everything else is decoded; then the target gives it its shape
/// and the pin overrules its configuration.
pub(crate) fn load(bytes: &[u8], pin: &Pin, shape: fn(&mut Case), case: &mut Case) {
    // Text has no zero byte, records hardly ever lack one: the common way decodes in place.
    if bytes.contains(&0) {
        codec::decode_into(case, bytes);
    } else {
        *case = codec::from_any(bytes);
    }
    shape(case);
    pin.apply(&mut case.config, bytes);
}

/// Something is wrong with what was tested. A mistake of the harness is a panic instead.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A rule was broken.
    Violation {
        /// Which, and where.
        violation: Box<Violation>,
        /// The case exactly as it ran, with its whole configuration.
        case: Box<Case>,
    },
    /// Two designs can be told apart.
    Difference {
        /// How.
        difference: Box<Difference>,
        /// The case; each run had the one design or the other.
        case: Box<Case>,
        /// The designs.
        designs: [Design; 2],
    },
    /// A promise of a library function was broken, by the entry encodings or the text form.
    Property {
        /// Stable name of the promise.
        id: &'static str,
        /// What was expected and what came, in one line.
        message: String,
        /// The input.
        input: Vec<u8>,
    },
}

impl Failure {
    /// Id of the broken rule or promise.
    pub fn id(&self) -> &'static str {
        match self {
            Failure::Violation { violation, .. } => violation.rule.id(),
            Failure::Difference { difference, .. } => difference.kind.id(),
            Failure::Property { id, .. } => id,
        }
    }

    /// Names of the sites that make two failures the same: the cause first. Empty for a promise.
    pub fn sites(&self) -> Vec<&'static str> {
        match self {
            Failure::Violation { violation, .. } => violation.sites.iter().flatten().map(|s| s.name()).collect(),
            Failure::Difference { .. } | Failure::Property { .. } => Vec::new(),
        }
    }

    /// What is wrong, in one line.
    pub fn summary(&self) -> String {
        match self {
            Failure::Violation { violation, .. } => violation.to_string(),
            Failure::Difference { difference, designs: [a, b], .. } => {
                format!("{}: {} and {} can be told apart", difference.kind.id(), a.id(), b.id())
            }
            Failure::Property { id, message, .. } => format!("{id}: {message}"),
        }
    }

    /// What to keep: a case as text that replays by itself, an input as its bytes.
    pub fn artifact(&self) -> Vec<u8> {
        match self {
            Failure::Violation { case, .. } | Failure::Difference { case, .. } => case_text(case).into_bytes(),
            Failure::Property { input, .. } => input.clone(),
        }
    }

    /// File name extension of [`Failure::artifact`].
    pub fn extension(&self) -> &'static str {
        match self {
            Failure::Violation { .. } | Failure::Difference { .. } => "case",
            Failure::Property { .. } => "bin",
        }
    }
}

/// A case in its text form, without an expectation.
pub(crate) fn case_text(case: &Case) -> String {
    text::print(&text::Document::from(case.clone()))
}
