//! `struct folio` and `struct page`: one record for each frame.
//!
//! The record of a frame is the page's, and, if the frame is the first of its folio, the folio's too. A small folio
//! is one frame, so there both are the same record. Of a large folio only the head's record holds what belongs to
//! the folio (counts, flags, lock, `anon_vma`, index, slot, pins); the contents, `PG_anon_exclusive`, the page's own
//! mapcount and the ghosts of PTEs, TLBs and mirrors are in the record of each page.

use crate::observe::{FileId, Token};
use crate::site::Site;

/// `folio->flags`, and `PG_anon_exclusive` of the page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u32);

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
    /// `PG_partially_mapped`: some page of a large folio has lost its last mapping, others have not.
    pub const PARTIALLY_MAPPED: Flags = Flags(1 << 8);
    /// `PG_anon_exclusive`, of a page. Of a folio that is mapped by a PMD the head's speaks for all.
    pub const ANON_EXCLUSIVE: Flags = Flags(1 << 9);
    /// `PG_writeback`.
    pub const WRITEBACK: Flags = Flags(1 << 13);
    /// Allocated; free frames have no flag at all, unless they are poisoned.
    pub const ALLOCATED: Flags = Flags(1 << 10);
    /// `PG_hwpoison` of its only page: the memory has failed, or is about to.
    pub const HWPOISON: Flags = Flags(1 << 11);
    /// `folio_test_ksm()`: [`Folio::stable`] takes the place of [`Folio::anon_vma`].
    pub const KSM: Flags = Flags(1 << 12);
    /// `folio_test_hugetlb()`: a page of `mm/hugetlb.c`, which no other part of the kernel splits, moves or reclaims.
    pub const HUGETLB: Flags = Flags(1 << 14);
    /// `PG_mlocked`: a mapping that maps it is locked into memory, as far as the kernel knows.
    pub const MLOCKED: Flags = Flags(1 << 20);
    /// `PG_unevictable`: on the list of those that reclaim does not look at.
    pub const UNEVICTABLE: Flags = Flags(1 << 21);

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
    /// Present and device-private or device-exclusive PTEs: each holds one reference.
    pub entries: u16,
    /// How many of [`Ghost::entries`] are device-exclusive.
    pub exclusive_entries: u16,
    /// How many of [`Ghost::entries`] are writable, be it present or of a writable device kind.
    pub writable: u16,
    /// Migration entries: they name the frame but hold no reference and no mapping.
    pub migration_entries: u16,
    /// Of a head: PMDs that map the whole folio, each with one reference.
    pub pmds: u16,
    /// How many of [`Ghost::pmds`] are writable.
    pub writable_pmds: u16,
    /// Of a head: migration entries at PMD level.
    pub migration_pmds: u16,
    /// Of a head: pins that processes hold.
    pub pins: u16,
    /// TLB entries of CPUs that translate to the frame.
    pub tlbs: u16,
    /// Entries in devices' own tables that translate to the frame.
    pub mirrors: u16,
    /// References that the handling of a memory failure keeps for good.
    pub held: u16,
    /// The memory has failed and nothing maps it any more: from here on nothing may.
    pub lost: bool,
    /// Of a head: a migration entry of one of its pages was zapped, so that the page did not come back.
    pub migration_zapped: bool,
    /// Its huge page was split while somebody was about to unlock it, and had lost its mapping by the time he looked.
    pub munlock_missed: bool,
    /// Queued for the next check of counts.
    pub touched: bool,
    /// Where the mapcount and the number of entries last parted, and in which op.
    pub parted: Option<(Site, u32)>,
}

/// A frame: page, and folio if it is the head of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Folio {
    /// `folio_ref_count()`.
    pub refcount: i32,
    /// `folio_mapcount()`: `_mapcount` of a small folio's page, `_large_mapcount` of a large folio.
    pub mapcount: i32,
    /// Flags.
    pub flags: Flags,
    /// `PG_locked`: holder's CPU plus one, 0 when unlocked.
    pub locked_by: u8,
    /// `folio->mapping` of an anonymous folio: the index of its `anon_vma` plus one; 0 when it has none.
    pub anon_vma: u32,
    /// `folio_stable_node()` of a KSM folio: the index of its node plus one; 0 while it has none.
    pub stable: u16,
    /// `folio->mapping` of a folio of the page cache: its file plus one; 0 when it is in none.
    pub mapping: u8,
    /// `folio->index`: the page of its file, or for an anonymous folio the `linear_page_index()` at which it was first
    /// mapped.
    pub index: u32,
    /// `page->private`: the swap slot, when [`Flags::SWAPCACHE`] is set; of a hugetlb folio its [`super::HpageFlags`].
    pub slot: u32,
    /// Of a head: `folio_order()`.
    pub order: u8,
    /// Distance to the folio's head (`compound_head()`); 0 of a head.
    pub tail: u16,
    /// `page->_mapcount` of a page of a large folio: PTEs that map it. Not used by small folios.
    pub page_mapcount: i16,
    /// `_entire_mapcount` of a large folio: PMDs that map it.
    pub entire_mapcount: i16,
    /// `_nr_pages_mapped` of a large folio without `ENTIRELY_MAPPED`: pages that some PTE maps.
    pub nr_pages_mapped: u16,
    /// `_pincount` of a large folio.
    pub pincount: u16,
    /// `mlock_count`: how many mappings have locked it, while it is unevictable.
    pub mlock_count: u16,
    /// Who is charged for it (`folio->memcg_data`).
    pub memcg: u8,
    /// Contents of the page.
    pub data: Token,
    /// What really refers to it.
    pub ghost: Ghost,
}

impl Folio {
    /// `folio_test_anon()`.
    pub fn anon(&self) -> bool {
        self.anon_vma != 0 || self.flags.has(Flags::KSM)
    }

    /// The file in whose page cache it is.
    #[inline]
    pub fn file(&self) -> Option<FileId> {
        self.mapping.checked_sub(1)
    }

    /// References that caches hold: the page cache, the swap cache.
    #[inline]
    pub fn cached(&self) -> i32 {
        i32::from(self.mapping != 0) + i32::from(self.flags.has(Flags::SWAPCACHE))
    }

    /// `lru_add()`: on the LRU, or among the unevictable folios if it is locked. How often it is locked is not known then.
    #[inline]
    pub fn lru_add(&mut self) {
        self.flags.set(Flags::LRU);
        if self.flags.has(Flags::MLOCKED) {
            self.flags.clear(Flags::ACTIVE);
            self.flags.set(Flags::UNEVICTABLE);
            self.mlock_count = 0;
        } else {
            self.flags.clear(Flags::UNEVICTABLE);
        }
    }

    /// `folio_nr_pages()`.
    #[inline]
    pub fn nr_pages(&self) -> u32 {
        1 << self.order
    }

    /// `folio_test_large()` of the folio that this page belongs to.
    #[inline]
    pub fn large(&self) -> bool {
        u16::from(self.order) | self.tail != 0
    }

    /// `folio_maybe_dma_pinned()`. Of a small folio false positives come with 1024 other references.
    pub fn maybe_dma_pinned(&self) -> bool {
        if self.order != 0 {
            return self.pincount > 0;
        }
        self.refcount >= super::GUP_PIN_COUNTING_BIAS
    }
}
