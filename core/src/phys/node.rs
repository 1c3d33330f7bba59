//! NUMA nodes: memory blocks belong to two nodes by turns, and so do CPUs. Which node a frame is on decides nothing but
//! whether a hinting fault moves it: allocation takes frames as if there were one node.

use super::memory::{Memory, Pfn};

impl Memory {
    /// `folio_nid()`.
    #[inline]
    pub fn node_of(&self, pfn: Pfn) -> u8 {
        (self.block_of(pfn) & 1) as u8
    }

    /// Allocates a folio of this order for movable user pages on one node (`__GFP_THISNODE`): otherwise as
    /// [`Memory::alloc_order`] does.
    pub fn alloc_on(&mut self, node: u8, order: u8) -> Option<Pfn> {
        if order != 0 {
            let n = 1u32 << order;
            let normal = self.geometry.normal_blocks() * self.geometry.block_frames();
            let movable = (normal + 1..=self.frames() + 1 - n).step_by(n as usize);
            let mut all = movable.chain((1..=normal + 1 - n).step_by(n as usize));
            let head = all.find(|head| self.node_of(*head) == node && self.run_is_free(*head, n))?;
            return Some(self.take_run(head, order));
        }
        let here = |list: &[Pfn], m: &Memory| list.iter().rposition(|p| m.node_of(*p) == node);
        let pfn = if let Some(at) = here(&self.free_movable, self) {
            self.free_movable.remove(at)
        } else {
            let at = here(&self.free_normal, self)?;
            self.free_normal.remove(at)
        };
        self.take(pfn);
        Some(pfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Geometry;

    #[test]
    fn each_node_gives_all_its_frames_and_none_of_the_other() {
        for order in [0, 2] {
            let mut m = Memory::new(Geometry::Tiny);
            let mut got = 0;
            while let Some(pfn) = m.alloc_on(0, order) {
                assert_eq!(m.node_of(pfn), 0);
                got += 1 << order;
            }
            // The block of ZONE_NORMAL and every second one of ZONE_MOVABLE.
            assert_eq!(got, 3 * Geometry::Tiny.block_frames());
            let other = m.alloc_on(1, order).map(|pfn| m.node_of(pfn));
            assert_eq!(other, Some(1));
        }
    }
}
