//! What an address space has to do with userfaultfd.
//!
//! A process can have several userfaultfds: one for each set of features that memory was registered with. Those of
//! one generation live and are closed together; closing begins a new generation. So a context is named by its
//! generation and its features, and a VMA knows both.

use crate::config::MAX_CPUS;
use crate::observe::{UffdChange, UffdFlags, Userfault};
use arrayvec::ArrayVec;

/// `vma->vm_userfaultfd_ctx` and the `VM_UFFD_*` flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct UffdCtx {
    /// Modes of this VMA and features of its context; no mode means that it is not registered.
    pub flags: UffdFlags,
    /// Generation of its context.
    pub generation: u16,
}

impl UffdCtx {
    /// The context alone, without the modes of a VMA.
    #[inline]
    pub fn context(self) -> UffdCtx {
        UffdCtx { flags: self.flags.features(), ..self }
    }

    /// `userfaultfd_armed()`.
    #[inline]
    pub fn armed(self) -> bool {
        self.flags.modes() != UffdFlags::NONE
    }
}

/// `struct userfaultfd_wait_queue`: a thread that waits in `handle_userfault()`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UserfaultWait {
    /// CPU of the thread.
    pub cpu: u8,
    /// Page that it wants.
    pub vpn: u32,
    /// Why it waits.
    pub reason: Userfault,
    /// Generation of the context that it waits at.
    pub generation: u16,
}

/// A change that a monitor has not read of yet. As long as there is one, its context is `mmap_changing`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Changing {
    /// CPU of the thread that makes the change, and waits.
    pub cpu: u8,
    /// The context: its features and its generation.
    pub ctx: UffdCtx,
    /// What the monitor will read.
    pub change: UffdChange,
    /// It counts in `mmap_changing`.
    pub counted: bool,
}

/// The userfaultfds of an address space.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Userfaults {
    /// The generation that lives; a context of another one is `released`.
    pub generation: u16,
    /// `fault_pending_wqh` and `fault_wqh`.
    pub queue: ArrayVec<UserfaultWait, MAX_CPUS>,
    /// `event_wqh` and, before they get there, `fork_event`, `unmaps` and the like: changes in the order in which each thread
    /// tells of them.
    pub changing: Vec<Changing>,
}
