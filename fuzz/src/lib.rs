//! Fuzz targets for the page-table-entry model, and the engines that drive them.
//!
//! - [`targets`] is the table of what can be fuzzed. A target is a function from bytes to "nothing wrong" or a
//!   [`Failure`]; it knows no engine.
//! - [`engine`] is what the binaries under `fuzz_targets/` are made of: it runs a target under libFuzzer and
//!   turns a failure into the panic that makes the engine keep the input.
//! - [`driver`] runs libFuzzer inside an ordinary process, with nothing installed but a compiler. There a failure
//!   is a message and a saved case, and the process goes on.
//! - [`coverage`] is the table of state counters that both feed to libFuzzer, in place of edge coverage.
//! - [`smoke`] runs a target for a fixed number of inputs from a seed, for tests.
//!
//! A failure of the *model* and a mistake of the *harness* are never mixed up: the first is a value
//! ([`Failure`]) that the engines report with the words [`engine::VIOLATION`], the second is a panic without them.

pub mod coverage;
pub mod driver;
pub mod engine;
mod hash;
pub mod mutator;
pub mod pin;
pub mod session;
pub mod smoke;
pub mod targets;

pub use engine::CaseInput;
pub use hash::fnv1a;
pub use pin::Pin;
pub use session::{Failure, Session};
