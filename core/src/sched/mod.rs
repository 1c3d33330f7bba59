//! What the modelled kernel stands on: CPUs, sites, locks, and the primitives that other CPUs can observe.
//!
//! Kernel ops are `async fn`s that take a [`Cpu`]. Whatever another CPU or a device can observe goes through a
//! primitive of this layer, and each of them comes to a [`Site`] *before* it acts; what stands between two awaits
//! is atomic. At a site the case may preempt the CPU or let the hardware do something. Without an interruption a
//! site returns at once, so an op that nobody disturbs runs like a plain function.

mod audit;
mod cpu;
mod ctl;
mod file;
mod folio;
mod held;
mod hugetlb;
mod interrupt;
mod large;
mod lock;
mod lock_class;
mod lock_kinds;
mod mlock;
mod notifier;
mod pmd;
mod pte;
mod sim;
mod tlb;
mod uffd;

pub use crate::site::Site;
pub use cpu::{Cpu, Facts};
pub use ctl::{Assignment, CpuCtl, Ctl, Run};
pub use interrupt::{Action, Interrupt};
pub use lock_class::{Lock, LockClass};
pub use notifier::NotifyEvent;
pub use sim::Sim;
