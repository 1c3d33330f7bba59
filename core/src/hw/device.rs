//! A device that mirrors an address space into a table of its own, in the style of HMM.
//!
//! The table (`dmirror->pt`) maps page numbers to frames. It is filled by the driver from what `hmm_range_fault()`
//! or `make_device_exclusive()` gave, and emptied by the driver's interval notifier.

use crate::phys::Pfn;

/// A device's translation of one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    /// Frame.
    pub pfn: Pfn,
    /// Permits stores.
    pub write: bool,
    /// Programmed from a device-exclusive conversion (`DPT_XA_TAG_ATOMIC`).
    pub exclusive: bool,
    /// The device has stored through it.
    pub written: bool,
}

const NONE: u32 = 0;
const WRITE: u32 = 1 << 29;
const EXCLUSIVE: u32 = 1 << 30;
const WRITTEN: u32 = 1 << 31;
const PFN: u32 = WRITE - 1;

/// One device's view of one address space.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mirror {
    /// The interval notifier is registered.
    pub registered: bool,
    /// `interval_sub->invalidate_seq`.
    pub seq: u32,
    /// Calls of the driver at work: while there are some its file cannot be closed.
    pub users: u32,
    /// `dmirror->mutex`: the CPU that holds it, plus one.
    pub mutex: u8,
    // Packed mapping of each page, from the first window's start; 0 is none. Stores the PFN plus one.
    table: Vec<u32>,
    mapped: u32,
}

impl Mirror {
    /// Unregisters and empties it, keeping the allocation.
    pub fn reset(&mut self) {
        (self.registered, self.seq, self.users, self.mutex, self.mapped) = (false, 0, 0, 0, 0);
        self.table.clear();
    }

    /// Pages mapped.
    pub fn mapped(&self) -> u32 {
        self.mapped
    }

    /// Number of page offsets that may be mapped; all beyond are not.
    pub fn extent(&self) -> u32 {
        self.table.len() as u32
    }

    /// The mapping of the page at `offset` from the first window's start.
    #[inline]
    pub fn lookup(&self, offset: u32) -> Option<Mapping> {
        let raw = *self.table.get(offset as usize)?;
        (raw != NONE).then(|| Mapping {
            pfn: (raw & PFN) - 1,
            write: raw & WRITE != 0,
            exclusive: raw & EXCLUSIVE != 0,
            written: raw & WRITTEN != 0,
        })
    }

    /// Maps the page at `offset`, or unmaps it. Returns what was there.
    pub fn store(&mut self, offset: u32, mapping: Option<Mapping>) -> Option<Mapping> {
        let old = self.lookup(offset);
        if mapping.is_none() && old.is_none() {
            return None;
        }
        if self.table.len() <= offset as usize {
            self.table.resize(offset as usize + 1, NONE);
        }
        self.table[offset as usize] = mapping.map_or(NONE, |m| {
            (m.pfn + 1)
                | if m.write { WRITE } else { 0 }
                | if m.exclusive { EXCLUSIVE } else { 0 }
                | if m.written { WRITTEN } else { 0 }
        });
        self.mapped = self.mapped + u32::from(mapping.is_some()) - u32::from(old.is_some());
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_comes_back_as_it_was_stored() {
        let mut m = Mirror::default();
        for write in [false, true] {
            for exclusive in [false, true] {
                let map = Mapping { pfn: 7, write, exclusive, written: write };
                m.store(3, Some(map));
                assert_eq!(m.lookup(3), Some(map));
            }
        }
        assert_eq!(m.mapped(), 1);
        assert!(m.store(3, None).is_some());
        assert_eq!((m.lookup(3), m.mapped(), m.store(9, None)), (None, 0, None));
    }
}
