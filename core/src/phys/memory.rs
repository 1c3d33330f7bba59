//! Frames, zones and memory blocks.

use super::folio::{Flags, Folio, Ghost};
use super::raw::RawFrames;
use crate::config::{Geometry, MAX_DEVICES};
use crate::observe::Token;

/// Page frame number of a user frame. [`ZERO_PFN`] is the zero page.
pub type Pfn = u32;

/// The zero page: always there, never freed, never written.
pub const ZERO_PFN: Pfn = 0;

/// All user frames, and the devices' own behind them. Blocks 0 to `normal_blocks() - 1` are `ZONE_NORMAL`, the rest `ZONE_MOVABLE`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memory {
    /// Each frame, the zero page first.
    pub folios: Vec<Folio>,
    /// Frames that are no memory of the machine's.
    pub raw: RawFrames,
    /// `deferred_split_queue`: large folios that are mapped in part, in order of queueing.
    pub deferred_split: Vec<Pfn>,
    /// `huge_zero_folio`.
    pub huge_zero: Option<Pfn>,
    /// `huge_zero_refcount`: address spaces that may map it, and one for the shrinker.
    pub huge_zero_refs: u32,
    pub(super) free_movable: Vec<Pfn>,
    pub(super) free_normal: Vec<Pfn>,
    free_device: [Vec<Pfn>; MAX_DEVICES],
    offline: u32,
    pub(super) geometry: Geometry,
    pub(super) allocated: u32,
}

impl Memory {
    /// Memory of a machine of this geometry, all of it free and online.
    pub fn new(geometry: Geometry) -> Memory {
        let mut m = Memory {
            folios: Vec::new(),
            raw: RawFrames::default(),
            deferred_split: Vec::new(),
            huge_zero: None,
            huge_zero_refs: 0,
            free_movable: Vec::new(),
            free_normal: Vec::new(),
            free_device: Default::default(),
            offline: 0,
            geometry,
            allocated: 0,
        };
        m.reset(geometry);
        m
    }

    /// Frees everything and puts every block online, keeping the allocation.
    pub fn reset(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.offline = 0;
        self.allocated = 0;
        self.raw.reset();
        self.deferred_split.clear();
        (self.huge_zero, self.huge_zero_refs) = (None, 0);
        let frames = geometry.frames();
        self.folios.clear();
        let device = geometry.device_frames();
        self.folios.resize((frames + device * MAX_DEVICES as u32) as usize + 1, Folio::default());
        for (n, list) in (0..).zip(&mut self.free_device) {
            let first = frames + 1 + n * device;
            list.clear();
            list.extend((first..first + device).rev());
        }
        self.folios[ZERO_PFN as usize].flags.set(Flags::UPTODATE);
        let normal = geometry.normal_blocks() * geometry.block_frames();
        self.free_normal.clear();
        self.free_normal.extend((1..=normal).rev());
        self.free_movable.clear();
        self.free_movable.extend((normal + 1..=frames).rev());
    }

    /// Number of user frames; PFNs run from 1 to this.
    pub fn frames(&self) -> u32 {
        self.geometry.frames()
    }

    /// Device whose own memory the frame is (`folio_is_device_private()`).
    #[inline]
    pub fn device_of(&self, pfn: Pfn) -> Option<u8> {
        let offset = pfn.checked_sub(self.frames() + 1)?;
        Some((offset / self.geometry.device_frames()) as u8)
    }

    /// True for the PFN of a user frame or the zero page.
    #[inline]
    pub fn valid(&self, pfn: u64) -> bool {
        pfn < self.folios.len() as u64
    }

    /// What a load from a frame reads.
    #[inline]
    pub fn load(&self, pfn: Pfn) -> Token {
        self.folios.get(pfn as usize).map_or_else(|| self.raw.load(pfn), |f| f.data)
    }

    /// Stores to a frame.
    #[inline]
    pub fn store(&mut self, pfn: Pfn, value: Token) {
        match self.folios.get_mut(pfn as usize) {
            Some(folio) => folio.data = value,
            None => self.raw.store(pfn, value),
        }
    }

    /// Frames in use.
    pub fn allocated(&self) -> u32 {
        self.allocated
    }

    /// Free frames that could be allocated now.
    pub fn nr_free(&self) -> usize {
        self.free_movable.len() + self.free_normal.len()
    }

    /// `page_folio()`: the folio that a page belongs to, named by its head.
    #[inline]
    pub fn page_folio(&self, page: Pfn) -> Pfn {
        page - Pfn::from(self.folios[page as usize].tail)
    }

    /// Memory block of a user frame.
    #[inline]
    pub fn block_of(&self, pfn: Pfn) -> u32 {
        (pfn - 1) / self.geometry.block_frames()
    }

    /// `folio_is_zone_movable()`. Neither the zero page is, nor what is no memory of the machine's.
    pub fn in_zone_movable(&self, pfn: Pfn) -> bool {
        pfn > self.geometry.normal_blocks() * self.geometry.block_frames() && pfn <= self.frames()
    }

    /// PFNs of a block.
    pub fn block_range(&self, block: u32) -> std::ops::Range<Pfn> {
        let n = self.geometry.block_frames();
        block * n + 1..(block + 1) * n + 1
    }

    /// True when the block is online (and not isolated for going offline).
    pub fn online(&self, block: u32) -> bool {
        self.offline & (1 << block) == 0
    }

    /// Allocates a frame for a movable user page: `ZONE_MOVABLE` first, most recently freed first.
    /// The folio is blank, with no reference.
    pub fn alloc(&mut self) -> Option<Pfn> {
        let pfn = self.free_movable.pop().or_else(|| self.free_normal.pop())?;
        self.take(pfn);
        Some(pfn)
    }

    /// Allocates a frame of a device's own memory, likewise.
    pub fn alloc_device(&mut self, device: u8) -> Option<Pfn> {
        let pfn = self.free_device[device as usize].pop()?;
        self.take(pfn);
        Some(pfn)
    }

    /// Allocates a frame that was taken off its free list.
    pub fn claim(&mut self, pfn: Pfn) {
        self.take(pfn);
    }

    pub(super) fn take(&mut self, pfn: Pfn) {
        self.allocated += 1;
        let folio = &mut self.folios[pfn as usize];
        let ghost = folio.ghost;
        // PG_hwpoison is not among PAGE_FLAGS_CHECK_AT_PREP: memory_failure() may have set it on a page that was free.
        let poisoned = folio.flags.has(Flags::HWPOISON);
        *folio = Folio { ghost, ..Folio::default() };
        folio.flags.set(Flags::ALLOCATED);
        if poisoned {
            folio.flags.set(Flags::HWPOISON);
        }
    }

    /// Gives the frame of a small folio back. A frame of an isolated block stays with the block, and a poisoned one is nobody's
    /// (`mm/page_alloc.c: free_pages_prepare()`).
    pub fn free(&mut self, pfn: Pfn) {
        self.allocated -= 1;
        let folio = &mut self.folios[pfn as usize];
        let poisoned = folio.flags.has(Flags::HWPOISON);
        folio.flags = Flags::default();
        folio.ghost.migration_zapped = false;
        folio.ghost.munlock_missed = false;
        (folio.anon_vma, folio.stable, folio.memcg) = (0, 0, 0);
        folio.mapping = 0;
        folio.refcount = 0;
        if poisoned {
            folio.flags.set(Flags::HWPOISON);
        } else if let Some(device) = self.device_of(pfn) {
            self.free_device[device as usize].push(pfn);
        } else if self.online(self.block_of(pfn)) {
            self.list(pfn).push(pfn);
        }
    }

    /// A poisoned frame that is free gets the reference that keeps it from ever being used (`page_ref_inc()` in
    /// `mm/memory-failure.c: page_handle_poison()`).
    pub fn hold(&mut self, pfn: Pfn) {
        self.take(pfn);
        let folio = &mut self.folios[pfn as usize];
        folio.flags.set(Flags::HWPOISON);
        folio.refcount = 1;
        folio.ghost.held = 1;
    }

    /// `take_page_off_buddy()`: a free frame leaves its free list. False when it is not on one.
    pub fn take_off(&mut self, pfn: Pfn) -> bool {
        if pfn == ZERO_PFN || self.device_of(pfn).is_some() {
            return false;
        }
        let list = self.list(pfn);
        let Some(at) = list.iter().position(|p| *p == pfn) else { return false };
        list.remove(at);
        true
    }

    /// Poisoned frames of a block (`mem->nr_hwpoison`).
    pub fn poisoned_in(&self, block: u32) -> usize {
        self.block_range(block).filter(|p| self.folios[*p as usize].flags.has(Flags::HWPOISON)).count()
    }

    /// `move_pfn_range_to_zone()`: every `struct page` of the block is made anew, and what was noted in it is gone.
    pub fn reinit(&mut self, block: u32) {
        for pfn in self.block_range(block) {
            if self.folios[pfn as usize].flags.has(Flags::HWPOISON) {
                self.allocated -= u32::from(self.folios[pfn as usize].flags.has(Flags::ALLOCATED));
                let Ghost { lost, touched, .. } = self.folios[pfn as usize].ghost;
                self.folios[pfn as usize] =
                    Folio { ghost: Ghost { lost, touched, ..Ghost::default() }, ..Folio::default() };
            }
        }
    }

    /// `start_isolate_page_range()`: from now on nothing is allocated from the block.
    pub fn isolate(&mut self, block: u32) {
        let range = self.block_range(block);
        self.offline |= 1 << block;
        self.list(range.start).retain(|p| !range.contains(p));
    }

    /// `undo_isolate_page_range()` or onlining: what is free in the block can be allocated again.
    pub fn put_back(&mut self, block: u32) {
        self.offline &= !(1 << block);
        for pfn in self.block_range(block).rev() {
            if self.folios[pfn as usize].flags == Flags::default() {
                self.list(pfn).push(pfn);
            }
        }
    }

    pub(super) fn list(&mut self, pfn: Pfn) -> &mut Vec<Pfn> {
        if self.block_of(pfn) < self.geometry.normal_blocks() { &mut self.free_normal } else { &mut self.free_movable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movable_frames_are_used_first_and_the_last_freed_is_reused_first() {
        let mut m = Memory::new(Geometry::Tiny);
        let a = m.alloc().unwrap();
        assert!(m.block_of(a) >= Geometry::Tiny.normal_blocks());
        let b = m.alloc().unwrap();
        m.free(a);
        assert_eq!(m.alloc(), Some(a));
        assert_ne!(a, b);
    }

    #[test]
    fn nothing_is_allocated_from_an_isolated_block_and_what_is_freed_stays_there() {
        let mut m = Memory::new(Geometry::Tiny);
        let a = m.alloc().unwrap();
        let block = m.block_of(a);
        let total = m.nr_free();
        m.isolate(block);
        m.free(a);
        assert_eq!(m.nr_free(), total - (Geometry::Tiny.block_frames() as usize - 1));
        for _ in 0..m.nr_free() {
            let p = m.alloc().unwrap();
            assert_ne!(m.block_of(p), block);
        }
        assert_eq!(m.alloc(), None);
        m.put_back(block);
        assert_eq!(m.nr_free(), Geometry::Tiny.block_frames() as usize);
    }

    #[test]
    fn a_reset_memory_equals_a_new_one() {
        let mut m = Memory::new(Geometry::Tiny);
        m.alloc();
        m.isolate(2);
        m.reset(Geometry::Tiny);
        assert_eq!(m, Memory::new(Geometry::Tiny));
    }
}
