//! A CPU's TLB: translations of the address space that the CPU has loaded.
//!
//! No PCIDs yet: loading another address space drops everything. Entries that are not present are never cached.

use crate::phys::Pfn;
use arrayvec::ArrayVec;

/// Translations that a TLB holds at most; the oldest makes room.
const TLB_ENTRIES: usize = 8;

/// One cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Translation {
    /// Virtual page number.
    pub vpn: u32,
    /// Frame.
    pub pfn: Pfn,
    /// Permits stores.
    pub write: bool,
    /// The dirty bit is known to be set: a store needs no walk.
    pub dirty: bool,
}

/// A CPU's TLB.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tlb {
    /// Address space that is loaded (`cpu_tlbstate.loaded_mm`).
    pub loaded_mm: Option<u8>,
    entries: ArrayVec<Translation, TLB_ENTRIES>,
}

impl Tlb {
    /// Drops everything and unloads the address space.
    pub fn reset(&mut self) {
        self.loaded_mm = None;
        self.entries.clear();
    }

    /// What is cached, oldest first.
    pub fn entries(&self) -> &[Translation] {
        &self.entries
    }

    /// The cached translation of a page.
    #[inline]
    pub fn lookup(&self, vpn: u32) -> Option<Translation> {
        self.entries.iter().find(|t| t.vpn == vpn).copied()
    }

    /// Caches a translation. Returns those that it replaced: of the same page, and for want of room.
    pub fn fill(&mut self, t: Translation) -> [Option<Translation>; 2] {
        let same = self.evict(t.vpn);
        let oldest = self.entries.is_full().then(|| self.entries.remove(0));
        self.entries.push(t);
        [same, oldest]
    }

    /// Drops the translation of a page.
    pub fn evict(&mut self, vpn: u32) -> Option<Translation> {
        let at = self.entries.iter().position(|t| t.vpn == vpn)?;
        Some(self.entries.remove(at))
    }

    /// Drops one translation in `start..end`, if there is one.
    pub fn evict_in(&mut self, start: u32, end: u32) -> Option<Translation> {
        let at = self.entries.iter().position(|t| (start..end).contains(&t.vpn))?;
        Some(self.entries.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(vpn: u32) -> Translation {
        Translation { vpn, pfn: vpn, write: false, dirty: false }
    }

    #[test]
    fn a_full_tlb_drops_its_oldest_translation() {
        let mut tlb = Tlb::default();
        for v in 0..TLB_ENTRIES as u32 {
            assert_eq!(tlb.fill(t(v)), [None, None]);
        }
        assert_eq!(tlb.fill(t(99)), [None, Some(t(0))]);
        assert_eq!(tlb.fill(t(99)), [Some(t(99)), None]);
    }

    #[test]
    fn eviction_by_range_finds_only_what_is_inside() {
        let mut tlb = Tlb::default();
        tlb.fill(t(4));
        assert_eq!(tlb.evict_in(5, 9), None);
        assert_eq!(tlb.evict_in(4, 5), Some(t(4)));
    }
}
