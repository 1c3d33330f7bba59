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
    /// First virtual page number.
    pub vpn: u32,
    /// Number of pages: 1, or as many as a PMD maps.
    pub pages: u32,
    /// Frame of the first page.
    pub pfn: Pfn,
    /// Permits stores.
    pub write: bool,
    /// The dirty bit is known to be set: a store needs no walk.
    pub dirty: bool,
}

impl Translation {
    /// True when it translates the page.
    #[inline]
    pub fn covers(&self, vpn: u32) -> bool {
        vpn.wrapping_sub(self.vpn) < self.pages
    }

    /// Frames, as indices of their records.
    #[inline]
    pub fn frames(&self) -> std::ops::Range<usize> {
        self.pfn as usize..(self.pfn + self.pages) as usize
    }

    /// Frame of a page that it translates.
    #[inline]
    pub fn pfn_of(&self, vpn: u32) -> Pfn {
        self.pfn + (vpn - self.vpn)
    }
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
        self.entries.iter().find(|t| t.covers(vpn)).copied()
    }

    /// Caches a translation of pages of which none is cached. Returns the one that had to make room.
    pub fn fill(&mut self, t: Translation) -> Option<Translation> {
        let oldest = self.entries.is_full().then(|| self.entries.remove(0));
        self.entries.push(t);
        oldest
    }

    /// Drops the translation of a page.
    pub fn evict(&mut self, vpn: u32) -> Option<Translation> {
        let at = self.entries.iter().position(|t| t.covers(vpn))?;
        Some(self.entries.remove(at))
    }

    /// Drops one translation of a page in `start..end`, if there is one.
    pub fn evict_in(&mut self, start: u32, end: u32) -> Option<Translation> {
        let at = self.entries.iter().position(|t| t.vpn < end && start < t.vpn + t.pages)?;
        Some(self.entries.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(vpn: u32) -> Translation {
        Translation { vpn, pages: 1, pfn: vpn, write: false, dirty: false }
    }

    #[test]
    fn a_full_tlb_drops_its_oldest_translation() {
        let mut tlb = Tlb::default();
        for v in 0..TLB_ENTRIES as u32 {
            assert_eq!(tlb.fill(t(v)), None);
        }
        assert_eq!(tlb.fill(t(99)), Some(t(0)));
    }

    #[test]
    fn a_huge_translation_is_found_by_each_of_its_pages() {
        let mut tlb = Tlb::default();
        tlb.fill(Translation { pages: 8, ..t(16) });
        assert_eq!(tlb.lookup(19).map(|t| t.pfn_of(19)), Some(19));
        assert_eq!((tlb.lookup(15), tlb.lookup(24)), (None, None));
        assert_eq!(tlb.evict_in(23, 30).map(|t| t.vpn), Some(16));
    }

    #[test]
    fn eviction_by_range_finds_only_what_is_inside() {
        let mut tlb = Tlb::default();
        tlb.fill(t(4));
        assert_eq!(tlb.evict_in(5, 9), None);
        assert_eq!(tlb.evict_in(4, 5), Some(t(4)));
    }
}
