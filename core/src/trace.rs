//! The trace: what happened in a run, as typed events in order.
//!
//! A trace is recorded only when asked for; a fuzzing run never builds one. The same case gives the same trace,
//! byte for byte, on every machine and in every build.

use crate::entry::Entry;
use crate::observe::{Agent, Outcome, Signal, Token, UffdChange, Userfault};
use crate::site::Site;

macro_rules! notes {
    ($($name:ident = $text:literal;)*) => {
        /// A decision of the modelled kernel that no entry shows. The text may hold `{a}` and `{b}`, the two
        /// numbers of [`Event::Note`]; `{b?none|one|more}` stands for the `b`th of these words, from 0.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Note { $(#[doc = $text] $name),* }

        impl Note {
            /// Words of the note.
            pub fn text(self) -> &'static str {
                match self { $(Note::$name => $text),* }
            }
        }
    };
}

notes! {
    RmapWalkNotStarted = "rmap walk not started: mapcount is 0";
    StillMapped = "still mapped after try_to_unmap(): mapcount is {a}";
    RefsUnexpected = "kept: refcount is {a}, expected {b}";
    Referenced = "kept: referenced by {a} entries";
    FolioBusy = "skipped: the folio is locked";
    NotOnLru = "skipped: the folio is not on an LRU list";
    NoSwap = "kept: no free swap slot";
    NoFolio = "nothing to do: the entry maps no folio";
    NoTarget = "no free frame to migrate to";
    SwappedOut = "written to swap slot {a} and freed";
    SwapCacheHit = "found in the swap cache, slot {a}";
    SwapRead = "read from swap slot {a}";
    Migrated = "moved to frame f{a}";
    MigrateFailed = "migration failed: refcount {a}, mapcount {b}";
    OfflineRetry = "pass {a}: {b} folios still in the block";
    OfflineFailed = "gave up: {b} folios still in the block after {a} passes";
    Reused = "write fault: the page is reused";
    Copied = "write fault: the page is copied to f{a}";
    PinnedCopy = "the page may be pinned: copied to f{a} for the child";
    WrongPfn = "the PFN {a} was read from the entry, the folio is f{b}";
    ExclusiveBusy = "not made exclusive: the folio is locked or the PTE has changed";
    NotifierRetry = "the interval notifier's sequence has changed: tried again";
    OutOfMemory = "no free frame";
    Poisoned = "PG_hwpoison set: the memory has failed";
    PoisonResult = "memory failure: {a?ignored|failed|delayed|recovered}";
    PoisonUnmapFailed = "still mapped after try_to_unmap(): mapcount is {a}";
    SoftOfflined = "soft offline: the frame is out of use";
    Unpoisoned = "PG_hwpoison cleared";
    ChargeMoved = "charge moved from group {a} to group {b}";
    KsmPage = "is a KSM page from now on";
    KsmMerged = "merged into KSM page f{a}";
    KsmSwapInCopy = "was a KSM page: copied to f{a} for this address";
    SwapReadError = "swap slot {a} cannot be read";
    SwapOffRetry = "round {a}: {b} slots still in use";
    OnlinePoison = "stays offline: {a} poisoned frames in the block";
    FolioSplit = "the large folio is split";
    Collapsed = "collapsed into a huge page";
    NotCollapsed = "not collapsed: {b?collapsed|a huge page already|unsuitable|busy|no free frames|the file has a huge folio there}";
    NotSplit = "the large folio is not split: refcount {a}, mapcount {b}";
    Discarded = "lazily freed: the entry stays empty";
    GupFastUndone = "the entry has changed meanwhile: the pin is given up";
    HugetlbTaken = "taken from a child: the owner of the mapping needs a page";
    Compacted = "block {a}: {b} pages moved to the end of the zone";
    OfflineRefused = "not a movable block, or off line already";
    PmdShared = "a PMD table is shared from now on";
    PmdUnshared = "the share of a PMD table is given up";
    MonitorCloses = "nobody else is left: the monitor closes the userfaultfds";
}

/// What happened to a cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheEvent {
    /// It was loaded.
    Fill,
    /// It was dropped without being told to.
    Evict,
    /// It was dropped by a flush or an invalidation.
    Flush,
}

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// An op began.
    OpStart {
        /// Index of the op in the case.
        op: u32,
        /// Who does it.
        cpu: u8,
    },
    /// An op ended.
    OpEnd {
        /// Index of the op in the case.
        op: u32,
        /// Who did it.
        cpu: u8,
        /// How.
        outcome: Outcome,
    },
    /// Another CPU goes on.
    Switch {
        /// Who is interrupted, blocked or done.
        from: u8,
        /// Who goes on.
        to: u8,
        /// Where the first was.
        site: Option<Site>,
    },
    /// A page-table entry changed.
    Entry {
        /// Who changed it (`None`: the hardware walker set an accessed or dirty bit).
        cpu: Option<u8>,
        /// Last site that the CPU came through.
        site: Option<Site>,
        /// Process (0 = `A`).
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// What it meant.
        old: Entry,
        /// What it means.
        new: Entry,
        /// `PageAnonExclusive` of the pages that the two name, at this moment.
        exclusive: [bool; 2],
        /// Whether the old and the new entry are those of a PMD, told of each of its pages. Only the first: it was split.
        huge: [bool; 2],
    },
    /// A folio's counts changed, or are stated for reference.
    Counts {
        /// Frame.
        pfn: u32,
        /// `folio_mapcount()`.
        mapcount: i32,
        /// `folio_ref_count()`.
        refcount: i32,
    },
    /// A CPU's TLB changed.
    Tlb {
        /// Whose.
        cpu: u8,
        /// Process whose translation it is.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Frame.
        pfn: u32,
        /// Does it permit stores?
        write: bool,
        /// What happened.
        what: CacheEvent,
    },
    /// A device's own table changed.
    Mirror {
        /// Whose.
        device: u8,
        /// Process that it mirrors.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Frame.
        pfn: u32,
        /// Does it permit stores?
        write: bool,
        /// What happened.
        what: CacheEvent,
    },
    /// A load or store retired.
    Access {
        /// Who.
        by: Agent,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Frame that it reached.
        pfn: u32,
        /// True for a store.
        write: bool,
        /// What was loaded or stored.
        value: Token,
    },
    /// A signal was delivered.
    Signal {
        /// Who.
        by: Agent,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Which.
        signal: Signal,
    },
    /// A CPU waits for a lock.
    Wait {
        /// Who.
        cpu: u8,
        /// Class of the lock, for example `folio_lock`.
        lock: &'static str,
    },
    /// A thread waits for a userfault, and the monitor has been told.
    Userfault {
        /// CPU of the thread.
        cpu: u8,
        /// Process.
        proc: u8,
        /// Virtual page number.
        vpn: u32,
        /// Why.
        reason: Userfault,
    },
    /// The monitor has read of a change.
    UffdChange {
        /// CPU of the thread that makes it.
        cpu: u8,
        /// Process.
        proc: u8,
        /// What it read.
        change: UffdChange,
    },
    /// The kernel decided something that no entry shows.
    Note {
        /// Who.
        cpu: u8,
        /// What.
        note: Note,
        /// Frame that it is about.
        pfn: Option<u32>,
        /// First number of the note.
        a: u32,
        /// Second number of the note.
        b: u32,
    },
}

/// Events in order, each with the step at which it happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// `(step, event)`.
    pub events: Vec<(u32, Event)>,
}
