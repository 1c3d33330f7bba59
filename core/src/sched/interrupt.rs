//! Interruptions: what a case says about who comes between.

use super::Site;

/// What happens at an interruption.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The CPU is preempted and another one goes on, until its op ends or blocks or is interrupted itself.
    Switch {
        /// Who goes on.
        cpu: u8,
    },
    /// A CPU's walker loads a translation of its current address space into its TLB, as a speculative access may.
    TlbFill {
        /// Whose TLB.
        cpu: u8,
        /// Mapping window.
        region: u8,
        /// Page in it.
        page: u32,
    },
    /// A CPU's TLB drops a translation, as it may at any time.
    TlbEvict {
        /// Whose TLB.
        cpu: u8,
        /// Mapping window.
        region: u8,
        /// Page in it.
        page: u32,
    },
    /// A device uses a translation that it holds; nothing happens when it holds none.
    Device {
        /// Which device.
        device: u8,
        /// Process (0 = `A`).
        proc: u8,
        /// Mapping window.
        region: u8,
        /// Page in it.
        page: u32,
        /// True for a store.
        write: bool,
    },
}

/// A point at which somebody else acts: the `nth` time that `cpu` comes to `site`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Interrupt {
    /// CPU that is interrupted.
    pub cpu: u8,
    /// Where.
    pub site: Site,
    /// Which time, counted from 1 for this CPU in this case.
    pub nth: u8,
    /// What happens there.
    pub action: Action,
}
