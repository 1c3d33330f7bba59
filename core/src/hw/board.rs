//! Devices whose memory user space maps, and what their drivers keep of it.

use crate::phys::{Pfn, RawFrames};

/// The driver's side of the two devices ([`crate::observe::REMAPPED`], [`crate::observe::FAULTED`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Boards {
    /// The first device is gone.
    pub unplugged: bool,
    /// Calls that keep the first device from being unplugged (`kernfs_node->active`), and readers of the second one's
    /// `memory_lock`: a bit for each CPU.
    pub readers: [u8; 2],
    /// Who unplugs the first device, who writes to the second one's `memory_lock`: the CPU, plus one.
    pub writer: [u8; 2],
    // Pages of the second device that are in its other bank.
    moved: Vec<u32>,
}

impl Boards {
    /// Both devices are there, nothing has moved, keeping allocations.
    pub fn reset(&mut self) {
        let mut moved = std::mem::take(&mut self.moved);
        moved.clear();
        *self = Boards { moved, ..Boards::default() };
    }

    /// Where a page of the first device is.
    pub fn remapped(page: u32) -> Pfn {
        RawFrames::pfn(0, page)
    }

    /// Where a page of the second device is now.
    pub fn faulted(&self, page: u32) -> Pfn {
        RawFrames::pfn(1 + usize::from(self.moved.contains(&page)), page)
    }

    /// A page of the second device goes to the other bank: from where, and to where.
    pub fn relocate(&mut self, page: u32) -> (Pfn, Pfn) {
        let from = self.faulted(page);
        match self.moved.iter().position(|p| *p == page) {
            Some(at) => {
                self.moved.swap_remove(at);
            }
            None => self.moved.push(page),
        }
        (from, self.faulted(page))
    }
}
