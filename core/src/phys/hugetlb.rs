//! Hugetlb: the pool of huge pages, who has reserved how many of them, and the mutexes that faults take.
//!
//! `struct hstate` of the one size that is modelled, that of a PMD. A page of the pool that nobody uses is allocated, has
//! no reference and stands on the free list.

use super::memory::Pfn;
use crate::config::Geometry;

/// Index of a reservation map in `Hugetlb::maps`.
pub type ResvId = u32;

/// `page->private` of a hugetlb folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HpageFlags(pub u32);

impl HpageFlags {
    /// `HPageRestoreReserve`: freeing the folio gives the reservation back that its allocation used.
    pub const RESTORE_RESERVE: HpageFlags = HpageFlags(1);
    /// `HPageMigratable`: mapped by now, and not isolated.
    pub const MIGRATABLE: HpageFlags = HpageFlags(2);
    /// `HPageTemporary`: made for a migration; goes back to the allocator, not to the pool.
    pub const TEMPORARY: HpageFlags = HpageFlags(4);
    /// `HPageFreed`: on the free list.
    pub const FREED: HpageFlags = HpageFlags(8);

    /// True when every flag of `f` is set.
    #[inline]
    #[must_use]
    pub fn has(self, f: HpageFlags) -> bool {
        self.0 & f.0 == f.0
    }
}

/// `struct resv_map`: huge pages of a file, or of one private mapping and its parts, by index.
///
/// Of a file, those that are reserved, be the page there already or not. Of a private mapping the opposite: those whose
/// reservation has been used up.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ResvMap {
    /// VMAs that share it.
    pub refs: u32,
    /// `rw_sema` of a private mapping: CPUs that read.
    pub readers: u8,
    /// `rw_sema` of a private mapping: the CPU that writes, plus one.
    pub writer: u8,
    // In ascending order.
    pages: Vec<u32>,
}

impl ResvMap {
    /// `region_chg()` of one page: true when it is in the map.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.pages.binary_search(&index).is_ok()
    }

    /// `region_add()` of one page: true when it was not in the map.
    pub fn add(&mut self, index: u32) -> bool {
        let at = self.pages.binary_search(&index);
        if let Err(at) = at {
            self.pages.insert(at, index);
        }
        at.is_err()
    }

    /// `region_del()`: how many of a range were in the map.
    pub fn del(&mut self, from: u32, to: u32) -> i32 {
        let before = self.pages.len();
        self.pages.retain(|p| !(from..to).contains(p));
        (before - self.pages.len()) as i32
    }

    /// `region_count()`.
    #[must_use]
    pub fn count(&self, from: u32, to: u32) -> i32 {
        self.pages.iter().filter(|p| (from..to).contains(p)).count() as i32
    }

    /// Nothing is in the map.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn reset(&mut self) {
        self.pages.clear();
        (self.refs, self.readers, self.writer) = (0, 0, 0);
    }
}

/// Mutexes in `hugetlb_fault_mutex_table`.
pub const FAULT_MUTEXES: usize = 8;

/// `struct hstate`, with the reservation maps and the fault mutexes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hugetlb {
    /// `hugepage_freelists`.
    pub free: Vec<Pfn>,
    /// `nr_huge_pages`.
    pub nr: i32,
    /// `surplus_huge_pages`: those beyond what the administrator has asked for.
    pub surplus: i32,
    /// `resv_huge_pages`: promised, and not yet used.
    pub resv: i32,
    /// `nr_overcommit_huge_pages`.
    pub overcommit: i32,
    /// `inode_resv_map()` of the file of `hugetlbfs`.
    pub file: ResvMap,
    /// `hugetlb_fault_mutex_table`: the CPU that holds each, plus one.
    pub fault_mutex: [u8; FAULT_MUTEXES],
    /// Something was counted since the last check.
    pub touched: bool,
    maps: Vec<ResvMap>,
    freed: Vec<ResvId>,
}

impl Hugetlb {
    /// An empty pool, keeping allocations.
    pub fn reset(&mut self, geometry: Geometry) {
        if self.touched || self.nr != 0 || !self.maps.is_empty() {
            self.free.clear();
            self.file.reset();
            self.fault_mutex = Default::default();
            self.maps.iter_mut().for_each(ResvMap::reset);
            self.freed.clear();
            self.freed.extend((0..self.maps.len() as ResvId).rev());
        }
        (self.nr, self.surplus, self.resv, self.touched) = (0, 0, 0, false);
        self.overcommit = geometry.overcommit_huge_pages();
    }

    /// `resv_map_alloc()`.
    pub fn alloc_map(&mut self) -> ResvId {
        self.touched = true;
        let id = self.freed.pop().unwrap_or_else(|| {
            self.maps.push(ResvMap::default());
            self.maps.len() as ResvId - 1
        });
        self.maps[id as usize].refs = 1;
        id
    }

    /// Gives a reference up (`kref_put(&resv->refs, resv_map_release)`).
    pub fn put_map(&mut self, id: ResvId) {
        let map = &mut self.maps[id as usize];
        map.refs -= 1;
        if map.refs == 0 {
            map.reset();
            self.freed.push(id);
        }
    }

    /// A map of a private mapping.
    #[must_use]
    pub fn map(&self, id: ResvId) -> &ResvMap {
        &self.maps[id as usize]
    }

    /// The same, to be changed.
    pub fn map_mut(&mut self, id: ResvId) -> &mut ResvMap {
        self.touched = true;
        &mut self.maps[id as usize]
    }

    /// `available_huge_pages()`: free and promised to nobody.
    #[must_use]
    pub fn available(&self) -> i32 {
        self.free.len() as i32 - self.resv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_map_counts_each_page_once() {
        let mut map = ResvMap::default();
        assert!(map.add(3) && map.add(1) && !map.add(3));
        assert_eq!((map.count(0, 3), map.count(1, 4)), (1, 2));
        assert_eq!((map.del(2, 9), map.has(3), map.has(1)), (1, false, true));
    }

    #[test]
    fn a_map_that_was_given_back_is_empty_when_it_is_used_again() {
        let mut h = Hugetlb::default();
        let id = h.alloc_map();
        h.map_mut(id).add(7);
        h.put_map(id);
        let again = h.alloc_map();
        assert_eq!((again, h.map(again).has(7)), (id, false));
    }
}
