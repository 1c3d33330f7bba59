//! Memory control groups: who is charged for which folio and which swap slot.

use super::folio::Flags;
use super::memory::{Memory, Pfn};
use super::swap::Swap;

/// Groups that a process can be in; the first is the root, which is not charged.
pub const MAX_MEMCGS: usize = 3;

/// What a folio or slot is charged to, as [`super::Folio::memcg`] and [`super::Slot::memcg`] keep it: 0 is nobody, else
/// the group's number plus one.
pub type Charge = u8;

/// Counters of the groups (`memcg->memory` and, apart from it, what `memcg->memsw` counts beyond that).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Memcgs {
    /// Pages.
    pub memory: [i32; MAX_MEMCGS],
    /// Swap slots.
    pub swap: [i32; MAX_MEMCGS],
    /// A counter has changed since the last check.
    pub touched: bool,
}

impl Memcgs {
    /// Counts a page.
    #[inline]
    pub fn charge(&mut self, to: Charge, n: i32) {
        if to > 1 {
            self.memory[usize::from(to - 1) % MAX_MEMCGS] += n;
            self.touched = true;
        }
    }

    /// Counts a swap slot.
    #[inline]
    pub fn charge_swap(&mut self, to: Charge, n: i32) {
        if to > 1 {
            self.swap[usize::from(to - 1) % MAX_MEMCGS] += n;
            self.touched = true;
        }
    }

    /// Pages and slots that are charged to a group, counted one by one.
    pub fn count(mem: &Memory, swap: &Swap, memcg: usize) -> (i32, i32) {
        let charge = memcg as Charge + 1;
        let charged = mem.folios.iter().filter(|f| f.memcg == charge && f.flags.has(Flags::ALLOCATED));
        let pages = charged.map(|f| f.nr_pages() as i32).sum();
        let slots = swap.slots.iter().filter(|s| s.memcg == charge).count();
        (pages, slots as i32)
    }

    /// Failed pages that could not be taken off the LRU when they failed, as somebody else had them: the kernel never
    /// comes back to their charge (`mm/memory-failure.c: delete_from_lru_cache()`).
    pub fn uncollected(&self, mem: &Memory) -> i32 {
        let left = |f: &&super::Folio| f.memcg > 1 && f.flags.has(Flags::HWPOISON) && f.flags.has(Flags::LRU);
        mem.folios.iter().filter(left).count() as i32
    }

    /// A frame that is charged to a group although nobody should be any more.
    pub fn charged_frame(mem: &Memory) -> Option<Pfn> {
        (1..mem.folios.len() as Pfn).find(|p| mem.folios[*p as usize].memcg > 1)
    }
}
