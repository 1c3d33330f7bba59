//! The swap device: its slots, the swap map and the swap cache.

use super::memory::Pfn;
use crate::observe::Token;

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Slot {
    /// `swap_map` without `SWAP_HAS_CACHE`: swap entries that the kernel counts.
    pub count: u16,
    /// Page in the swap cache, if any (`SWAP_HAS_CACHE`): of a large folio each slot names the page of its own.
    pub cache: Option<Pfn>,
    /// Contents on the device.
    pub data: Token,
    /// Ghost: swap entries that really name the slot.
    pub entries: u16,
    /// Queued for the next check of counts.
    pub touched: bool,
}

/// The swap device. Slot 0 is its header and never allocated.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Swap {
    /// Slots, by offset.
    pub slots: Vec<Slot>,
    freed: Vec<u32>,
    fresh: u32,
    in_use: u32,
}

impl Swap {
    /// A device with `n` slots, the header among them.
    pub fn new(n: u32) -> Swap {
        Swap { slots: vec![Slot::default(); n as usize], freed: Vec::new(), fresh: 1, in_use: 0 }
    }

    /// Empties the device, keeping the allocation.
    pub fn reset(&mut self, n: u32) {
        if self.slots.len() == n as usize {
            self.slots[..self.fresh as usize].fill(Slot::default());
        } else {
            self.slots.clear();
            self.slots.resize(n as usize, Slot::default());
        }
        self.freed.clear();
        self.fresh = 1;
        self.in_use = 0;
    }

    /// Slots in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// True when a slot is free.
    pub fn has_room(&self) -> bool {
        !self.freed.is_empty() || (self.fresh as usize) < self.slots.len()
    }

    /// `vm_swap_full()`: more than half of it is in use.
    pub fn full(&self) -> bool {
        (self.slots.len() as u32 - 1 - self.in_use) * 2 < self.slots.len() as u32 - 1
    }

    /// `folio_alloc_swap()`: a slot for a folio in the swap cache, most recently freed first.
    pub fn alloc(&mut self, folio: Pfn) -> Option<u32> {
        let slot = match self.freed.pop() {
            Some(s) => s,
            None if (self.fresh as usize) < self.slots.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.in_use += 1;
        // Ghosts stay: a swap-in frees the slot first and replaces the entry that names it next.
        let Slot { entries, touched, .. } = self.slots[slot as usize];
        self.slots[slot as usize] = Slot { cache: Some(folio), entries, touched, ..Slot::default() };
        Some(slot)
    }

    /// The first slot from `start` on whose folio stays in the swap cache although no entry names it any more.
    pub fn orphan(&self, start: u32) -> Option<(u32, Pfn)> {
        if self.in_use == 0 {
            return None;
        }
        (start..self.fresh).find_map(|i| {
            let s = &self.slots[i as usize];
            s.cache.filter(|_| s.count == 0).map(|folio| (i, folio))
        })
    }

    /// True for the offset of a slot.
    pub fn valid(&self, slot: u64) -> bool {
        slot != 0 && slot < self.slots.len() as u64
    }

    /// Gives a slot back when neither an entry nor the cache uses it any more. True when it did.
    pub fn release_if_unused(&mut self, slot: u32) -> bool {
        let s = &self.slots[slot as usize];
        if s.count != 0 || s.cache.is_some() {
            return false;
        }
        self.in_use -= 1;
        self.freed.push(slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_only_when_neither_entries_nor_the_cache_use_it() {
        let mut s = Swap::new(3);
        let a = s.alloc(7).unwrap();
        s.slots[a as usize].count = 1;
        s.slots[a as usize].cache = None;
        assert!(!s.release_if_unused(a));
        s.slots[a as usize].count = 0;
        assert!(s.release_if_unused(a));
        assert_eq!(s.alloc(8), Some(a));
    }

    #[test]
    fn the_header_is_never_allocated_and_a_full_device_says_so() {
        let mut s = Swap::new(3);
        assert_eq!(s.alloc(1), Some(1));
        assert_eq!(s.alloc(2), Some(2));
        assert_eq!(s.alloc(3), None);
        assert!(!s.has_room() && !s.valid(0) && !s.valid(3) && s.valid(2));
        s.reset(3);
        assert_eq!(s, Swap::new(3));
    }
}
