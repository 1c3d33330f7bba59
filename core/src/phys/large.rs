//! Large folios: several frames in a row, allocated, split and given back as one.
//!
//! Frames count from 1, so a folio of order *n* begins at a frame whose number less one is a multiple of its size:
//! that way no folio reaches across the border of two memory blocks. Devices' own memory has small folios only.

use super::folio::{Flags, Folio};
use super::memory::{Memory, Pfn};

impl Memory {
    /// Allocates a folio of this order for movable user pages: the lowest place in `ZONE_MOVABLE`, then in
    /// `ZONE_NORMAL`, where every frame is free. The folio is blank, with no reference.
    pub fn alloc_order(&mut self, order: u8) -> Option<Pfn> {
        if order == 0 {
            return self.alloc();
        }
        let n = 1u32 << order;
        let normal = self.geometry.normal_blocks() * self.geometry.block_frames();
        let mut movable = (normal + 1..=self.frames() + 1 - n).step_by(n as usize);
        let head = movable.find(|head| self.run_is_free(*head, n));
        let Some(head) = head else { return self.alloc_unmovable(order) };
        Some(self.take_run(head, order))
    }

    /// The same for what cannot be migrated: only in `ZONE_NORMAL`.
    pub fn alloc_unmovable(&mut self, order: u8) -> Option<Pfn> {
        let n = 1u32 << order;
        let normal = self.geometry.normal_blocks() * self.geometry.block_frames();
        let head = (1..=normal + 1 - n).step_by(n as usize).find(|head| self.run_is_free(*head, n))?;
        Some(self.take_run(head, order))
    }

    pub(super) fn take_run(&mut self, head: Pfn, order: u8) -> Pfn {
        let n = 1u32 << order;
        self.list(head).retain(|p| !(head..head + n).contains(p));
        for i in 0..n {
            self.take(head + i);
            self.folios[(head + i) as usize].tail = i as u16;
        }
        self.folios[head as usize].order = order;
        head
    }

    pub(super) fn run_is_free(&self, head: Pfn, n: u32) -> bool {
        self.online(self.block_of(head)) && (head..head + n).all(|p| self.folios[p as usize].flags == Flags::default())
    }

    /// Gives the frames of a folio of any order back.
    pub fn free_folio(&mut self, head: Pfn) {
        if self.folios[head as usize].order == 0 {
            return self.free(head);
        }
        self.deferred_split.retain(|p| *p != head);
        let n = self.folios[head as usize].nr_pages();
        self.dissolve(head);
        for pfn in (head..head + n).rev() {
            self.free(pfn);
        }
    }

    /// Every page of a folio becomes the head of a small one. Who calls it sees to counts and flags.
    pub fn dissolve(&mut self, head: Pfn) {
        let n = self.folios[head as usize].nr_pages();
        self.deferred_split.retain(|p| *p != head);
        for pfn in head..head + n {
            let f = &mut self.folios[pfn as usize];
            (f.order, f.tail) = (0, 0);
            (f.page_mapcount, f.entire_mapcount, f.nr_pages_mapped, f.pincount) = (0, 0, 0, 0);
        }
    }

    /// Ghost: entries that map a folio or a page of it, each with one reference.
    #[inline]
    pub fn mappings(&self, head: Pfn) -> i32 {
        let f = &self.folios[head as usize];
        if f.order == 0 {
            return i32::from(f.ghost.entries);
        }
        self.pages(head).iter().map(|p| i32::from(p.ghost.entries)).sum::<i32>() + i32::from(f.ghost.pmds)
    }

    /// References that the swap cache and the page cache hold: one for each page.
    #[inline]
    pub fn cache_refs(&self, head: Pfn) -> i32 {
        let f = &self.folios[head as usize];
        f.cached() * f.nr_pages() as i32
    }

    /// The records of a folio's pages, its head's first.
    #[inline]
    pub fn pages(&self, head: Pfn) -> &[Folio] {
        let n = self.folios[head as usize].nr_pages();
        &self.folios[head as usize..(head + n) as usize]
    }

    /// `folio_contain_hwpoisoned_page()`: the memory of some page of the folio has failed.
    pub fn has_hwpoisoned(&self, head: Pfn) -> bool {
        self.pages(head).iter().any(|page| page.flags.has(Flags::HWPOISON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Geometry;

    #[test]
    fn a_large_folio_lies_inside_one_block_and_its_pages_know_their_head() {
        let mut m = Memory::new(Geometry::Tiny);
        while let Some(head) = m.alloc_order(3) {
            assert_eq!(m.block_of(head), m.block_of(head + 7));
            assert!((0..8).all(|i| m.page_folio(head + i) == head));
            assert_eq!(m.pages(head).len(), 8);
        }
        assert_eq!((m.nr_free(), m.allocated()), (0, Geometry::Tiny.frames()));
    }

    #[test]
    fn what_a_large_folio_used_can_be_allocated_in_small_pieces_once_it_is_free() {
        let mut m = Memory::new(Geometry::Tiny);
        let total = m.nr_free();
        let head = m.alloc_order(2).unwrap();
        assert_eq!(m.nr_free(), total - 4);
        m.free_folio(head);
        assert_eq!((m.nr_free(), m.allocated()), (total, 0));
        let small = m.alloc().unwrap();
        assert_eq!((small, m.folios[small as usize].large()), (head, false));
    }

    #[test]
    fn a_small_page_in_the_way_keeps_a_run_from_being_used() {
        let mut m = Memory::new(Geometry::Tiny);
        let first = m.alloc_order(3).unwrap();
        m.free_folio(first);
        let small = m.alloc().unwrap();
        assert!((first..first + 8).contains(&small));
        assert_ne!(m.alloc_order(3), Some(first));
    }
}
