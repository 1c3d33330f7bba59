//! `struct folio`, order 0.

use crate::observe::Token;
use crate::site::Site;

/// `folio->flags`, and `PG_anon_exclusive` of its only page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u16);

impl Flags {
    /// `PG_uptodate`.
    pub const UPTODATE: Flags = Flags(1 << 1);
    /// `PG_dirty`.
    pub const DIRTY: Flags = Flags(1 << 2);
    /// `PG_referenced`.
    pub const REFERENCED: Flags = Flags(1 << 3);
    /// `PG_active`.
    pub const ACTIVE: Flags = Flags(1 << 4);
    /// `PG_lru`: on an LRU list, and so not isolated.
    pub const LRU: Flags = Flags(1 << 5);
    /// `PG_swapcache`: [`Folio::slot`] names its slot.
    pub const SWAPCACHE: Flags = Flags(1 << 6);
    /// `PG_swapbacked`.
    pub const SWAPBACKED: Flags = Flags(1 << 7);
    /// `PG_anon_exclusive`.
    pub const ANON_EXCLUSIVE: Flags = Flags(1 << 9);
    /// Allocated; free frames have no flag at all.
    pub const ALLOCATED: Flags = Flags(1 << 10);

    /// True when every flag of `f` is set.
    #[inline]
    pub fn has(self, f: Flags) -> bool {
        self.0 & f.0 == f.0
    }

    /// Sets the flags of `f`.
    #[inline]
    pub fn set(&mut self, f: Flags) {
        self.0 |= f.0;
    }

    /// Clears the flags of `f`.
    #[inline]
    pub fn clear(&mut self, f: Flags) {
        self.0 &= !f.0;
    }
}

/// What really refers to a frame, whatever the kernel's counts say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ghost {
    /// Present and device-private or device-exclusive entries: each holds one reference.
    pub entries: u16,
    /// How many of [`Ghost::entries`] are device-exclusive.
    pub exclusive_entries: u16,
    /// How many of [`Ghost::entries`] are writable, be it present or of a writable device kind.
    pub writable: u16,
    /// Migration entries: they name the frame but hold no reference and no mapping.
    pub migration_entries: u16,
    /// Pins that processes hold.
    pub pins: u16,
    /// TLB entries of CPUs that translate to the frame.
    pub tlbs: u16,
    /// Entries in devices' own tables that translate to the frame.
    pub mirrors: u16,
    /// Queued for the next check of counts.
    pub touched: bool,
    /// Where the mapcount and the number of entries last parted, and in which op.
    pub parted: Option<(Site, u32)>,
}

/// A folio of one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Folio {
    /// `folio_ref_count()`.
    pub refcount: i32,
    /// `folio_mapcount()`.
    pub mapcount: i32,
    /// Flags.
    pub flags: Flags,
    /// `PG_locked`: holder's CPU plus one, 0 when unlocked.
    pub locked_by: u8,
    /// `folio->mapping` of an anonymous folio: the index of its `anon_vma` plus one; 0 when it has none.
    pub anon_vma: u32,
    /// `folio->index`: the virtual page number at which it was first mapped (nothing moves mappings).
    pub index: u32,
    /// Swap slot, when [`Flags::SWAPCACHE`] is set.
    pub slot: u32,
    /// Contents.
    pub data: Token,
    /// What really refers to it.
    pub ghost: Ghost,
}

impl Folio {
    /// `folio_test_anon()`.
    pub fn anon(&self) -> bool {
        self.anon_vma != 0
    }

    /// `folio_maybe_dma_pinned()`, as for a small folio: false positives come with 1024 other references.
    pub fn maybe_dma_pinned(&self) -> bool {
        self.refcount >= super::GUP_PIN_COUNTING_BIAS
    }
}
