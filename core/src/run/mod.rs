//! Running a case.
//!
//! [`Machine`] holds a world, an oracle and one task for each simulated CPU, and is used for one case after the
//! other: it resets, it is not rebuilt, and in the steady state it does not allocate.
//!
//! The executor is a loop. It picks a CPU, polls its task, and looks why the task stopped: its op ended, it waits
//! for a lock, it was preempted, or a rule is broken. Without interruptions the ops run one after the other in the
//! order of the case. The oracle is shown what was observed when all ops are done, or after each turn when somebody wants
//! to follow.

mod dispatch;
pub mod equivalent;
mod executor;
mod fingerprint;
mod verdict;

pub use executor::Machine;
pub use fingerprint::{FINGERPRINT, fingerprint, pool};
pub use verdict::{Verdict, describe};

use crate::program::Case;

/// Length of the table of state counters that [`Machine::set_coverage`] takes.
pub const COVERAGE_LEN: usize = 1 << 14;

/// Runs one case on a machine of its own.
pub fn run(case: &Case) -> Verdict {
    Machine::new().run(case)
}
