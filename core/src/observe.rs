//! Observations: what user space and devices can see of the machine, and all that the oracle is ever told.

/// Value of a memory cell. Zero is the content of a page that was never written; every store in a case has a
/// token of its own.
pub type Token = u32;

/// Protection of a mapping, as `mmap` and `mprotect` take it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Perm {
    /// `PROT_NONE`.
    None,
    /// `PROT_READ`.
    Read,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

impl Perm {
    /// Every protection.
    pub const ALL: [Perm; 3] = [Perm::None, Perm::Read, Perm::ReadWrite];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Perm::None => "none",
            Perm::Read => "ro",
            Perm::ReadWrite => "rw",
        }
    }

    /// The protection with this name.
    pub fn from_name(name: &str) -> Option<Perm> {
        Perm::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The protection of an `arg` byte; any byte is one.
    pub fn from_arg(arg: u8) -> Perm {
        Perm::ALL[usize::from(arg) % Perm::ALL.len()]
    }
}

/// A file that processes can map. The page of a mapping window that is mapped is the page of the file that it shows.
pub type FileId = u8;

/// A file of `tmpfs`, as `memfd_create(2)` makes one: its pages are swapped out.
pub const SHMEM: FileId = 0;
/// A regular file on a disk, with `page_mkwrite` and writeback.
pub const REGULAR: FileId = 1;
/// A file of `hugetlbfs`, as `memfd_create(MFD_HUGETLB)` makes one.
pub const HUGETLBFS: FileId = 2;
/// Number of files.
pub const FILES: usize = 3;
/// A device whose driver maps all of it when it is mapped (`remap_pfn_range()` in `->mmap`), until it is unplugged.
pub const REMAPPED: FileId = FILES as FileId;
/// A device whose driver maps page by page when they are faulted in (`vmf_insert_pfn()`, `vmf_insert_mixed()`).
pub const FAULTED: FileId = REMAPPED + 1;
/// Number of files and devices: of all that has a list of its mappings.
pub const MAPPINGS: usize = FILES + 3;
/// The unnamed files of anonymous hugetlb memory (`HUGETLB_ANON_FILE`), which have one list of mappings here together.
pub const HUGETLB_ANON: FileId = FAULTED + 1;
/// Names of the files in the text form.
pub const FILE_NAMES: [&str; FILES] = ["shmem", "file", "hugetlbfs"];

macro_rules! backings {
    ($($name:ident = $file:expr, $text:literal, $sharing:literal, $doc:literal;)*) => {
        /// What a mapping shows, and whether stores go there or into private copies.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[repr(u8)]
        pub enum Backing { #[default] $(#[doc = $doc] $name),* }

        impl Backing {
            /// Every backing, in table order.
            pub const ALL: [Backing; [$($text),*].len()] = [$(Backing::$name),*];

            /// The file that is mapped, if one is.
            #[inline]
            pub fn file(self) -> Option<FileId> {
                match self { $(Backing::$name => $file),* }
            }

            /// What is mapped, in the text form.
            pub fn name(self) -> &'static str {
                match self { $(Backing::$name => $text),* }
            }

            /// `shared`, `private`, or `noreserve` for private without a reservation.
            pub fn sharing(self) -> &'static str {
                match self { $(Backing::$name => $sharing),* }
            }
        }
    };
}

backings! {
    Anon = None, "anon", "private", "Private anonymous memory.";
    ShmemShared = Some(SHMEM), "shmem", "shared", "The file of `tmpfs`, shared.";
    ShmemPrivate = Some(SHMEM), "shmem", "private", "The file of `tmpfs`, copied on write.";
    FileShared = Some(REGULAR), "file", "shared", "The regular file, shared.";
    FilePrivate = Some(REGULAR), "file", "private", "The regular file, copied on write.";
    Hugetlb = None, "hugetlb", "private", "Private anonymous memory of hugetlb pages.";
    PfnmapShared = None, "pfnmap", "shared", "A device, mapped as a whole by `remap_pfn_range()`.";
    PfnmapPrivate = None, "pfnmap", "private", "The same, copied on write.";
    PfnfaultShared = None, "pfnfault", "shared", "A device that is mapped by `vmf_insert_pfn()` at faults.";
    MixedmapShared = None, "mixedmap", "shared", "The same by `vmf_insert_mixed()`; the driver hears of first stores.";
    MixedmapPrivate = None, "mixedmap", "private", "The same, copied on write.";
    HugetlbNoreserve = None, "hugetlb", "noreserve", "The same with `MAP_NORESERVE`: nothing is promised.";
    HugetlbfsShared = Some(HUGETLBFS), "hugetlbfs", "shared", "The file of `hugetlbfs`, shared.";
    HugetlbfsPrivate = Some(HUGETLBFS), "hugetlbfs", "private", "The file of `hugetlbfs`, copied on write.";
}

impl Backing {
    /// The device that is mapped, if one is.
    #[inline]
    pub fn device(self) -> Option<FileId> {
        match self {
            Backing::PfnmapShared | Backing::PfnmapPrivate => Some(REMAPPED),
            Backing::PfnfaultShared | Backing::MixedmapShared | Backing::MixedmapPrivate => Some(FAULTED),
            _ => None,
        }
    }

    /// The file or device that is mapped, if one is (`vm_file->f_mapping`).
    #[inline]
    pub fn mapping(self) -> Option<FileId> {
        self.file().or_else(|| self.device()).or(self.hugetlb().then_some(HUGETLB_ANON))
    }

    /// `VM_MIXEDMAP`.
    #[inline]
    pub fn mixedmap(self) -> bool {
        matches!(self, Backing::MixedmapShared | Backing::MixedmapPrivate)
    }

    /// `VM_PFNMAP`.
    #[inline]
    pub fn pfnmap(self) -> bool {
        matches!(self, Backing::PfnmapShared | Backing::PfnmapPrivate | Backing::PfnfaultShared)
    }

    /// `VM_SHARED`.
    #[inline]
    pub fn shared(self) -> bool {
        self.sharing() == "shared"
    }

    /// `is_vm_hugetlb_page()`.
    #[inline]
    pub fn hugetlb(self) -> bool {
        matches!(
            self,
            Backing::Hugetlb | Backing::HugetlbNoreserve | Backing::HugetlbfsShared | Backing::HugetlbfsPrivate
        )
    }

    /// The backing with these words.
    pub fn from_words(name: &str, sharing: &str) -> Option<Backing> {
        Backing::ALL.into_iter().find(|b| b.name() == name && b.sharing() == sharing)
    }

    /// The backing of an index; any number is one.
    pub fn from_index(index: u8) -> Backing {
        Backing::ALL[usize::from(index) % Backing::ALL.len()]
    }
}

/// How memory is registered with a userfaultfd: the modes of `UFFDIO_REGISTER`, and the features of the userfaultfd
/// that it is registered with. Memory that is registered with other features belongs to another userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct UffdFlags(pub u8);

impl UffdFlags {
    /// Not registered.
    pub const NONE: UffdFlags = UffdFlags(0);
    /// `UFFDIO_REGISTER_MODE_MISSING`.
    pub const MISSING: UffdFlags = UffdFlags(1);
    /// `UFFDIO_REGISTER_MODE_WP`.
    pub const WP: UffdFlags = UffdFlags(2);
    /// `UFFDIO_REGISTER_MODE_MINOR`.
    pub const MINOR: UffdFlags = UffdFlags(4);
    /// `UFFD_FEATURE_WP_ASYNC`: a write to protected memory takes the protection away and goes on.
    pub const ASYNC: UffdFlags = UffdFlags(8);
    /// `UFFD_FEATURE_WP_UNPOPULATED`: memory that was never touched can be write-protected.
    pub const UNPOPULATED: UffdFlags = UffdFlags(16);
    /// `UFFD_FEATURE_EVENT_FORK`: the child's memory is registered as its parent's is.
    pub const EVENT_FORK: UffdFlags = UffdFlags(32);
    /// `UFFD_FEATURE_SIGBUS`: a signal instead of an event.
    pub const SIGBUS: UffdFlags = UffdFlags(64);
    /// `UFFD_FEATURE_EVENT_REMAP`, `_REMOVE` and `_UNMAP`: the monitor hears of memory that moves or goes.
    pub const EVENTS: UffdFlags = UffdFlags(128);

    /// Words of the text form, bit 0 first.
    pub const WORDS: [&str; 8] = ["missing", "wp", "minor", "async", "unpopulated", "event-fork", "sigbus", "events"];

    /// True when any of these is set.
    #[inline]
    pub fn has(self, flags: UffdFlags) -> bool {
        self.0 & flags.0 != 0
    }

    /// The modes alone.
    #[inline]
    pub fn modes(self) -> UffdFlags {
        UffdFlags(self.0 & 7)
    }

    /// The features alone.
    #[inline]
    pub fn features(self) -> UffdFlags {
        UffdFlags(self.0 & !7)
    }
}

/// Why userfaultfd stops an access (`UFFD_PAGEFAULT_FLAG_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Userfault {
    /// Nothing is there.
    Missing,
    /// `UFFD_PAGEFAULT_FLAG_WP`: the page is write-protected.
    Wp,
    /// `UFFD_PAGEFAULT_FLAG_MINOR`: the page is in the page cache, and not mapped.
    Minor,
}

impl Userfault {
    /// Words for a trace.
    pub fn name(self) -> &'static str {
        match self {
            Userfault::Missing => "missing",
            Userfault::Wp => "write-protected",
            Userfault::Minor => "minor",
        }
    }
}

/// What the monitor of a userfaultfd hears of beside faults (`struct uffd_msg`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UffdChange {
    /// `UFFD_EVENT_FORK`: there is a child, whose memory is registered as its parent's is.
    Fork,
    /// `UFFD_EVENT_REMAP`: memory has moved.
    Remap {
        /// First page of the old place.
        from: u32,
        /// First page of the new one.
        to: u32,
        /// Pages.
        pages: u32,
    },
    /// `UFFD_EVENT_REMOVE`: what these pages hold is about to be dropped.
    Remove {
        /// First page.
        vpn: u32,
        /// Pages.
        pages: u32,
    },
    /// `UFFD_EVENT_UNMAP`: memory is gone. The range is that of the call, registered or not.
    Unmap {
        /// First page.
        vpn: u32,
        /// Pages.
        pages: u32,
    },
}

impl UffdChange {
    /// Words for a trace.
    pub fn name(self) -> &'static str {
        match self {
            UffdChange::Fork => "fork",
            UffdChange::Remap { .. } => "remap",
            UffdChange::Remove { .. } => "remove",
            UffdChange::Unmap { .. } => "unmap",
        }
    }

    /// The first page that it is about.
    pub fn vpn(self) -> Option<u32> {
        match self {
            UffdChange::Fork => None,
            UffdChange::Remap { from, .. } => Some(from),
            UffdChange::Remove { vpn, .. } | UffdChange::Unmap { vpn, .. } => Some(vpn),
        }
    }
}

/// Sums of `/proc/pid/smaps_rollup`, in pages; shares in [`PSS_PAGE`]ths of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Smaps {
    /// `Rss`.
    pub rss: u32,
    /// `Private_Clean` and `Private_Dirty`.
    pub private: u32,
    /// `Shared_Clean` and `Shared_Dirty`.
    pub shared: u32,
    /// `Referenced`.
    pub referenced: u32,
    /// `Anonymous`.
    pub anonymous: u32,
    /// `LazyFree`.
    pub lazyfree: u32,
    /// `Swap`.
    pub swap: u32,
    /// `Pss`.
    pub pss: u64,
    /// `SwapPss`.
    pub swap_pss: u64,
    /// `Locked`.
    pub locked: u64,
}

/// What `hmm_range_fault()` tells a driver of a page, as `lib/test_hmm.c` passes it on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HmmPfn {
    /// `HMM_PFN_ERROR`: nothing that a device could ever have.
    Error,
    /// Not `HMM_PFN_VALID`: nothing is there now.
    None,
    /// The zero page.
    Zero,
    /// A page, with `HMM_PFN_WRITE` or without.
    Page {
        /// `HMM_PFN_WRITE`.
        write: bool,
    },
    /// A page in the device's own memory, likewise.
    Private {
        /// `HMM_PFN_WRITE`.
        write: bool,
    },
}

impl HmmPfn {
    /// Words for a trace.
    pub fn name(self) -> &'static str {
        match self {
            HmmPfn::Error => "an error",
            HmmPfn::None => "nothing",
            HmmPfn::Zero => "the zero page",
            HmmPfn::Page { write: false } => "a page to read",
            HmmPfn::Page { write: true } => "a page to write",
            HmmPfn::Private { write: false } => "device memory to read",
            HmmPfn::Private { write: true } => "device memory to write",
        }
    }
}

/// The share of a page that nobody else has.
pub const PSS_PAGE: u64 = 4096;

/// What the monitor's buffer holds for a page of `UFFDIO_COPY`: a token that no store of a thread has.
pub fn copy_token(op: u32, page: u32) -> Token {
    1 << 31 | (op & 0xfff) << 19 | page & 0x7_ffff
}

/// Who made an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Agent {
    /// A thread of the process, on this CPU.
    Cpu(u8),
    /// A device that mirrors the process.
    Device(u8),
    /// A device that was given a pinned page.
    Dma,
    /// The kernel, for a debugger (`/proc/pid/mem`).
    Debugger,
}

/// How a system call ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It returned success.
    Done,
    /// It did not run: the process does not exist (any more), or the name to be born is in use.
    Skipped,
    /// `ENOMEM`: a hole in the range, or no memory.
    NoMem,
    /// `EBUSY` or `EAGAIN`: somebody else was in the way. It may be tried again.
    Busy,
    /// `EFAULT`: the range is not mapped as the call needs it.
    Fault,
    /// `EINVAL` or `EOPNOTSUPP`: not possible here.
    Invalid,
    /// `EEXIST`: something is there already.
    Exists,
    /// `ENOENT`: the range is not registered, or not with this mode.
    NoEnt,
    /// `EAGAIN` after a part of the range: [`Observation::Progress`] said how much.
    Partial,
    /// A signal ended the access (`SIGSEGV`, `SIGBUS`); the signal was observed on its own.
    Signal,
    /// `EIO`: data that were not written yet are lost.
    Io,
}

impl Outcome {
    /// Words for a trace.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Done => "ok",
            Outcome::Skipped => "skipped",
            Outcome::NoMem => "ENOMEM",
            Outcome::Busy => "EBUSY",
            Outcome::Fault => "EFAULT",
            Outcome::Invalid => "EINVAL",
            Outcome::Exists => "EEXIST",
            Outcome::NoEnt => "ENOENT",
            Outcome::Partial => "done in part",
            Outcome::Signal => "signal",
            Outcome::Io => "EIO",
        }
    }
}

/// Signals that an access can end with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// `SIGSEGV`, `SEGV_MAPERR`: nothing is mapped there.
    SegvMapErr,
    /// `SIGSEGV`, `SEGV_ACCERR`: the mapping does not permit it.
    SegvAccErr,
    /// `SIGBUS`.
    Bus,
    /// Killed for want of memory.
    OomKill,
    /// Killed because another thread has ended the process.
    Kill,
}

impl Signal {
    /// Words for a trace.
    pub fn name(self) -> &'static str {
        match self {
            Signal::SegvMapErr => "SIGSEGV (not mapped)",
            Signal::SegvAccErr => "SIGSEGV (not permitted)",
            Signal::Bus => "SIGBUS",
            Signal::OomKill => "killed: out of memory",
            Signal::Kill => "killed: its process ends",
        }
    }
}

/// One thing that user space or a device saw. `op` is the index of the op in the case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Observation {
    /// An op that user space or a device asked for has begun (the kernel's own jobs are not reported).
    Start {
        /// Index of the op in the case.
        op: u32,
    },
    /// It returned.
    End {
        /// Index of the op in the case.
        op: u32,
        /// How.
        outcome: Outcome,
    },
    /// A load retired.
    Load {
        /// Index of the op in the case.
        op: u32,
        /// Process whose address space it was.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Who.
        by: Agent,
        /// What it returned.
        value: Token,
    },
    /// A store retired.
    Store {
        /// Index of the op in the case.
        op: u32,
        /// Process whose address space it was.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Who.
        by: Agent,
        /// What it wrote.
        value: Token,
    },
    /// An access ended in a signal instead (for a device: in a fault that it could not have resolved).
    Signal {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Who.
        by: Agent,
        /// True when the access was a store.
        write: bool,
        /// Which.
        signal: Signal,
    },
    /// `/proc/pid/pagemap` said whether the page is soft-dirty.
    SoftDirty {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// What it said.
        dirty: bool,
    },
    /// An access waits, and the monitor has been told of it.
    Userfault {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// True when the access is a store.
        write: bool,
        /// Why it waits.
        reason: Userfault,
    },
    /// The monitor has read of a change that a call makes or has made.
    UffdChange {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Features of the userfaultfd that it was read from.
        features: UffdFlags,
        /// What it said.
        change: UffdChange,
    },
    /// An access still waits although nobody is left who could do anything.
    Stuck {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
    },
    /// The monitor has closed every userfaultfd of the process, because nobody else was left to do anything.
    Released {
        /// Process.
        proc: u8,
    },
    /// A call of the monitor said how many pages it has dealt with.
    Progress {
        /// Index of the op in the case.
        op: u32,
        /// From the first of its range.
        pages: u32,
    },
    /// `/proc/pid/pagemap` said whether the page is write-protected by userfaultfd.
    UffdWp {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// What it said.
        wp: bool,
    },
    /// `mincore` said whether the page is in memory.
    Resident {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// What it said.
        resident: bool,
    },
    /// `hmm_range_fault()` told the driver of a device what is there, without faulting anything in.
    Snapshot {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Device.
        device: u8,
        /// What it said.
        seen: HmmPfn,
    },
    /// `smaps` said how much memory the process uses.
    Smaps {
        /// Index of the op in the case.
        op: u32,
        /// Process.
        proc: u8,
        /// What it said.
        sums: Smaps,
    },
    /// A process ended for good: its address space is gone.
    Gone {
        /// Process.
        proc: u8,
    },
}

impl Observation {
    /// Index of the op during which it was made, in the case; the end of a process, or of what its monitor does, is nobody's.
    pub fn op(&self) -> Option<u32> {
        match *self {
            Observation::Start { op }
            | Observation::End { op, .. }
            | Observation::Load { op, .. }
            | Observation::Store { op, .. }
            | Observation::Signal { op, .. }
            | Observation::SoftDirty { op, .. }
            | Observation::Userfault { op, .. }
            | Observation::UffdChange { op, .. }
            | Observation::Stuck { op, .. }
            | Observation::Progress { op, .. }
            | Observation::UffdWp { op, .. }
            | Observation::Resident { op, .. }
            | Observation::Snapshot { op, .. }
            | Observation::Smaps { op, .. } => Some(op),
            Observation::Released { .. } | Observation::Gone { .. } => None,
        }
    }
}
