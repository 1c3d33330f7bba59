//! The verbs, one file each.

mod bench;
mod explain;
mod fmt;
mod list;
mod minimize;
mod replay;

use crate::cli::Verb;
use crate::error::Outcome;
use crate::hunt;

pub(crate) use minimize::{same_violation, shrink};

/// Does what the command line asks for.
///
/// # Errors
/// What kept it from being done.
pub fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Hunt(options) => hunt::run(&options),
        Verb::Replay(options) => replay::run(&options),
        Verb::Explain(options) => explain::run(&options),
        Verb::Minimize(options) => minimize::run(&options),
        Verb::Fmt(options) => fmt::run(&options),
        Verb::List(options) => list::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Worker { campaign } => hunt::worker(&campaign),
    }
}
