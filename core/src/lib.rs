//! A deterministic model of the Linux page-table-entry state machine, and its judge.
//!
//! A [`program::Case`] says which kernel, which machine, what each CPU does and who comes between.
//! [`run::Machine`] executes it and gives a [`run::Verdict`]: clean, or the first broken [`rule::Rule`] with its
//! evidence. One case, one result, always: no clock, no addresses, no iteration in hash order.
//!
//! # The layers
//!
//! Each module imports only what stands above it in this list.
//!
//! 1. [`arch`]: entry layouts of x86-64 and arm64, bit for bit
//! 2. [`config`], [`observe`], [`site`], [`rule`]: facts and words that everybody shares
//! 3. [`entry`]: what an entry means; which accessor and which change is legal on it; [`trace`]: what happened
//! 4. [`phys`]: frames, folios, zones and memory blocks, the page cache, swap devices, memory control groups
//! 5. [`mm`]: address spaces, VMAs, page tables, the reverse maps, KSM, userfaultfd contexts
//! 6. [`hw`]: TLBs and devices' own tables; [`world`]: all of it as one value
//! 7. [`invariant`]: what must hold inside, as pure functions of the world
//! 8. [`sched`]: CPUs, sites, locks, and the primitives that others can observe
//! 9. [`ops`]: the modelled kernel, one file for each area of `mm/`
//! 10. [`program`]: cases as data
//! 11. [`oracle`]: what user space and devices should have seen; knows nothing of 1 and 3 to 9
//! 12. [`run`]: the executor, and the verdict; [`change`]: what became of entries, read from a trace

pub mod arch;
pub mod change;
pub mod config;
pub mod entry;
pub mod hw;
pub mod invariant;
pub mod mm;
pub mod observe;
pub mod ops;
pub mod oracle;
pub mod phys;
pub mod program;
pub mod rule;
pub mod run;
pub mod sched;
pub mod site;
pub mod trace;
pub mod world;
