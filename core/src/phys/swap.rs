//! Swap devices: their slots, the swap map and the swap cache.
//!
//! The slots of all devices stand one after another in one table, so that a slot has one number for all uses; a swap
//! entry names it by device (the type) and offset.

use super::memory::Pfn;
use crate::config::{Geometry, MAX_SWAP_DEVICES};
use crate::observe::Token;

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Slot {
    /// `swap_map` without `SWAP_HAS_CACHE`: swap entries that the kernel counts.
    pub count: u16,
    /// Page in the swap cache, if any (`SWAP_HAS_CACHE`): of a large folio each slot names the page of its own.
    pub cache: Option<Pfn>,
    /// `SWAP_HAS_CACHE` without a page in the cache: somebody swaps the page in past the cache.
    pub bypassed: bool,
    /// The device can no longer read what was written here.
    pub bad: bool,
    /// Who is charged for it (`swap_cgroup`).
    pub memcg: u8,
    /// Contents on the device.
    pub data: Token,
    /// Ghost: swap entries that really name the slot.
    pub entries: u16,
    /// Queued for the next check of counts.
    pub touched: bool,
}

/// A swap device (`struct swap_info_struct`).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SwapDevice {
    /// Its first slot, which is its header and never allocated.
    base: u32,
    /// Slots, the header among them.
    size: u32,
    /// `SWP_WRITEOK`: slots can be allocated.
    pub on: bool,
    /// `SWP_SYNCHRONOUS_IO`, as of zram: it is quick enough to read from without readahead and without the cache.
    pub synchronous: bool,
    /// `si->prio`: the highest is filled first.
    prio: i16,
    freed: Vec<u32>,
    fresh: u32,
    in_use: u32,
}

impl SwapDevice {
    fn new(device: u8, geometry: Geometry) -> SwapDevice {
        let base = (0..device).map(|d| geometry.swap_slots(d)).sum();
        SwapDevice {
            base,
            size: geometry.swap_slots(device),
            on: device == 0,
            synchronous: device == 1,
            prio: [-2, 100, 5][usize::from(device) % MAX_SWAP_DEVICES],
            freed: Vec::new(),
            fresh: 1,
            in_use: 0,
        }
    }

    /// Slots in use (`si->inuse_pages`).
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Slots that were ever in use.
    pub fn used(&self) -> std::ops::Range<u32> {
        self.base + 1..self.base + self.fresh
    }

    fn has_room(&self) -> bool {
        !self.freed.is_empty() || self.fresh < self.size
    }

    fn take(&mut self) -> Option<u32> {
        let offset = match self.freed.pop() {
            Some(offset) => offset,
            None if self.fresh < self.size => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.in_use += 1;
        Some(self.base + offset)
    }
}

/// All swap devices.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Swap {
    /// Slots of all devices.
    pub slots: Vec<Slot>,
    /// The devices. Of these the first is on from the start.
    pub devices: [SwapDevice; MAX_SWAP_DEVICES],
}

impl Swap {
    /// The devices of a machine.
    pub fn new(geometry: Geometry) -> Swap {
        let devices = std::array::from_fn(|d| SwapDevice::new(d as u8, geometry));
        let slots = devices.iter().map(|d: &SwapDevice| d.size).sum::<u32>();
        Swap { slots: vec![Slot::default(); slots as usize], devices }
    }

    /// Empties the devices, keeping the allocation.
    pub fn reset(&mut self, geometry: Geometry) {
        if self.devices[0].size != geometry.swap_slots(0) {
            *self = Swap::new(geometry);
            return;
        }
        for (i, d) in self.devices.iter_mut().enumerate() {
            self.slots[d.base as usize..(d.base + d.fresh) as usize].fill(Slot::default());
            d.freed.clear();
            (d.fresh, d.in_use, d.on) = (1, 0, i == 0);
        }
    }

    /// Slots in use.
    pub fn in_use(&self) -> u32 {
        self.devices.iter().map(|d| d.in_use).sum()
    }

    /// True when a slot is free.
    pub fn has_room(&self) -> bool {
        self.devices.iter().any(|d| d.on && d.has_room())
    }

    /// `vm_swap_full()`: more than half of it is in use.
    pub fn full(&self) -> bool {
        let on = || self.devices.iter().filter(|d| d.on);
        let total: u32 = on().map(|d| d.size - 1).sum();
        let free: u32 = on().map(|d| d.size - 1 - d.in_use).sum();
        free * 2 < total
    }

    /// `folio_alloc_swap()`: a slot for a folio in the swap cache, on the device of the highest priority that has one,
    /// most recently freed first.
    pub fn alloc(&mut self, folio: Pfn) -> Option<u32> {
        let device = self.devices.iter_mut().filter(|d| d.on && d.has_room()).max_by_key(|d| d.prio)?;
        let slot = device.take()?;
        // Ghosts stay: a swap-in frees the slot first and replaces the entry that names it next.
        let Slot { entries, touched, .. } = self.slots[slot as usize];
        self.slots[slot as usize] = Slot { cache: Some(folio), entries, touched, ..Slot::default() };
        Some(slot)
    }

    /// The first slot from `start` on whose folio stays in the swap cache although no entry names it any more.
    pub fn orphan(&self, start: u32) -> Option<(u32, Pfn)> {
        self.devices.iter().filter(|d| d.in_use != 0).flat_map(SwapDevice::used).filter(|i| *i >= start).find_map(|i| {
            let s = &self.slots[i as usize];
            s.cache.filter(|_| s.count == 0).map(|folio| (i, folio))
        })
    }

    /// The slot that a swap entry names, if there is one.
    #[inline]
    pub fn slot_of(&self, ty: u8, offset: u64) -> Option<u32> {
        let d = self.devices.get(usize::from(ty))?;
        (offset != 0 && offset < u64::from(d.size)).then(|| d.base + offset as u32)
    }

    /// Device and offset of a slot.
    #[inline]
    pub fn entry_of(&self, slot: u32) -> (u8, u64) {
        let ty = self.devices.iter().rposition(|d| d.base <= slot).unwrap_or(0);
        (ty as u8, u64::from(slot - self.devices[ty].base))
    }

    /// Gives a slot back when neither an entry nor the cache uses it any more. True when it did.
    pub fn release_if_unused(&mut self, slot: u32) -> bool {
        let s = &self.slots[slot as usize];
        if s.count != 0 || s.cache.is_some() || s.bypassed {
            return false;
        }
        let (ty, offset) = self.entry_of(slot);
        let d = &mut self.devices[usize::from(ty)];
        d.in_use -= 1;
        d.freed.push(offset as u32);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_only_when_neither_entries_nor_the_cache_use_it() {
        let mut s = Swap::new(Geometry::Tiny);
        let a = s.alloc(7).unwrap();
        s.slots[a as usize].count = 1;
        s.slots[a as usize].cache = None;
        assert!(!s.release_if_unused(a));
        s.slots[a as usize].count = 0;
        s.slots[a as usize].bypassed = true;
        assert!(!s.release_if_unused(a));
        s.slots[a as usize].bypassed = false;
        assert!(s.release_if_unused(a));
        assert_eq!(s.alloc(8), Some(a));
    }

    #[test]
    fn the_device_of_the_highest_priority_is_filled_first_and_headers_are_never_allocated() {
        let mut s = Swap::new(Geometry::Tiny);
        s.devices[1].on = true;
        for n in 1..=16 {
            let slot = s.alloc(n).unwrap();
            assert_eq!(s.entry_of(slot), (1, u64::from(n)));
            assert_eq!(s.slot_of(1, u64::from(n)), Some(slot));
        }
        let slot = s.alloc(17).unwrap();
        assert_eq!(s.entry_of(slot), (0, 1));
        assert_eq!((s.slot_of(0, 0), s.slot_of(1, 17), s.slot_of(3, 1)), (None, None, None));
        s.reset(Geometry::Tiny);
        assert_eq!(s, Swap::new(Geometry::Tiny));
    }

    #[test]
    fn a_full_machine_says_so() {
        let mut s = Swap::new(Geometry::Tiny);
        while s.alloc(1).is_some() {}
        assert!(!s.has_room() && s.full());
        assert_eq!(s.in_use(), Geometry::Tiny.swap_slots(0) - 1);
    }
}
