//! What is modelled: which release, which architecture, which table geometry, which designs and which defects.
//!
//! Everything here is plain, `Copy` data that is fixed for the length of a case. Nothing in the model is
//! chosen by a Cargo feature: features unify across a build and leak from one user to the next, a set in
//! the case header cannot.

mod defect;
mod design;
mod geometry;
mod home;
mod kernel;

pub use defect::{Defect, DefectSet};
pub use design::{Design, DesignGroup, DesignSet};
pub use geometry::Geometry;
pub use kernel::Kernel;

use crate::arch::Arch;
use crate::observe::UffdFlags;

/// Most CPUs a case can have.
pub const MAX_CPUS: usize = 4;
/// Number of process names (`A` to `D`).
pub const MAX_PROCS: usize = 4;
/// Number of mapping windows in each process.
pub const MAX_REGIONS: usize = 4;
/// Number of swap devices (`swap 0` to `swap 2`); a device's number is the type in its swap entries.
pub const MAX_SWAP_DEVICES: usize = 3;
/// First frame that is no memory of the machine's: a device's registers, or memory on its board. No `struct page` belongs to
/// it. Banks of [`RAW_BANK`] frames follow one another.
pub const RAW_PFN_BASE: u32 = 1 << 23;
/// Frames of one bank: as many as a mapping window has pages at most.
pub const RAW_BANK: u32 = 1 << 20;
/// Number of banks: one of the device that is mapped as a whole, two of the one that moves its pages.
pub const RAW_BANKS: usize = 3;
/// Number of devices (`gpu0`, `gpu1`).
pub const MAX_DEVICES: usize = 2;

/// The machine and the kernel that a case runs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Release whose designs and defects were the starting point of `designs` and `defects`.
    pub kernel: Kernel,
    /// Entry layout.
    pub arch: Arch,
    /// Entries per table and what follows from it.
    pub geometry: Geometry,
    /// Number of CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Which of several legitimate ways the modelled kernel does a thing: one of each [`DesignGroup`].
    pub designs: DesignSet,
    /// Injected mistakes.
    pub defects: DefectSet,
}

impl Config {
    /// The release as it was: its designs and its defects, on x86-64, tiny geometry, two CPUs.
    pub fn of(kernel: Kernel) -> Self {
        Config { defects: kernel.defects(), ..Config::fixed(kernel) }
    }

    /// The designs of a release with every known defect repaired: what must never give a violation.
    pub fn fixed(kernel: Kernel) -> Self {
        Config {
            kernel,
            arch: Arch::X86_64,
            geometry: Geometry::Tiny,
            cpus: 2,
            designs: kernel.designs(),
            defects: DefectSet::EMPTY,
        }
    }

    /// True when `defect` is switched on.
    #[inline]
    pub fn has(&self, defect: Defect) -> bool {
        self.defects.contains(defect)
    }

    /// What memory can be registered with for userfaultfd: modes and features of this release. `UFFD_FEATURE_WP_UNPOPULATED`
    /// came with 6.4 and needs markers, `UFFD_FEATURE_WP_ASYNC` with 6.7; minor
    /// faults of `tmpfs` with 5.14.
    pub fn uffd_flags(&self) -> UffdFlags {
        let modes = UffdFlags::MISSING.0 | UffdFlags::WP.0 | UffdFlags::MINOR.0;
        let mut flags = modes | UffdFlags::EVENT_FORK.0 | UffdFlags::SIGBUS.0 | UffdFlags::EVENTS.0;
        if self.kernel >= Kernel::V6_6 && !self.uses(Design::UffdWpAnonOnly) {
            flags |= UffdFlags::UNPOPULATED.0;
        }
        if self.kernel >= Kernel::V6_12 {
            flags |= UffdFlags::ASYNC.0;
        }
        UffdFlags(flags)
    }

    /// True when the modelled kernel follows `design`.
    #[inline]
    pub fn uses(&self, design: Design) -> bool {
        self.designs.contains(design)
    }
}
