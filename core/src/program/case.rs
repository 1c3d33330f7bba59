//! A case: the machine, the ops of each CPU and the interruptions. One case, one result, always.

use crate::config::{Config, Kernel};
use crate::observe::Backing;
use crate::program::op::{Op, Perm};
pub use crate::sched::{Action, Interrupt};

/// Most ops that [`crate::program::codec`] makes of arbitrary bytes.
pub const MAX_FUZZ_OPS: usize = 48;
/// Most interruptions that it makes.
pub const MAX_FUZZ_INTERRUPTS: usize = 12;
/// Most ops that a text may have.
pub const MAX_OPS: usize = 4096;
/// Most interruptions that a text may have.
pub const MAX_INTERRUPTS: usize = 256;
/// Largest file that is read as a case, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Memory that is mapped before the first op.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Map {
    /// Process (0 = `A`). A process with a map exists from the start; so does `A`.
    pub proc: u8,
    /// Mapping window.
    pub region: u8,
    /// Number of pages, from the start of the window.
    pub pages: u32,
    /// Protection.
    pub perm: Perm,
    /// What is mapped.
    pub backing: Backing,
}

/// A whole case. The order of `ops` is the order in which they run when nothing interrupts: each to its end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Case {
    /// Machine and kernel.
    pub config: Config,
    /// What is mapped at the start.
    pub maps: Vec<Map>,
    /// What is done.
    pub ops: Vec<Op>,
    /// Who comes between.
    pub interrupts: Vec<Interrupt>,
}

impl Case {
    /// A case without ops on the fixed model of the newest release.
    pub fn empty() -> Case {
        Case { config: Config::fixed(Kernel::NEWEST), maps: Vec::new(), ops: Vec::new(), interrupts: Vec::new() }
    }
}
