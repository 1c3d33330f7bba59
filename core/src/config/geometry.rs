//! Table geometry: how many entries a table has, and how large the modelled machine is.

/// Levels of page tables, the PTE level included.
#[cfg(test)]
const LEVELS: u32 = 4;

/// Entries per table, and the sizes of the machine that go with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Geometry {
    /// 8 entries per table: small enough that a fuzzer meets every boundary. The default.
    #[default]
    Tiny,
    /// 512 entries per table, as 4 KiB pages with 8-byte entries have.
    X86_64,
}

impl Geometry {
    /// Both geometries.
    pub const ALL: [Geometry; 2] = [Geometry::Tiny, Geometry::X86_64];

    /// Name as written in a case.
    pub fn name(self) -> &'static str {
        match self {
            Geometry::Tiny => "tiny",
            Geometry::X86_64 => "x86-64",
        }
    }

    /// The geometry with this name.
    pub fn from_name(name: &str) -> Option<Geometry> {
        Geometry::ALL.into_iter().find(|g| g.name() == name)
    }

    /// `pmd_addr_end()`: where the part of `vpn..end` ends that one PMD serves. Page numbers.
    #[inline]
    pub fn pmd_addr_end(self, vpn: u32, end: u32) -> u32 {
        ((vpn / self.ptrs() + 1) * self.ptrs()).min(end)
    }

    /// log2 of the entries per table.
    #[inline]
    pub fn shift(self) -> u32 {
        match self {
            Geometry::Tiny => 3,
            Geometry::X86_64 => 9,
        }
    }

    /// `PTRS_PER_PTE`: entries per table, at every level.
    #[inline]
    pub fn ptrs(self) -> u32 {
        1 << self.shift()
    }

    /// Pages in one mapping window. Two PTE tables in `tiny`, 4 GiB in `x86-64`.
    #[inline]
    pub fn region_pages(self) -> u32 {
        match self {
            Geometry::Tiny => 16,
            Geometry::X86_64 => 1 << 20,
        }
    }

    /// Virtual page number at which window `region` starts (page 0 is never mapped).
    #[inline]
    pub fn region_base(self, region: u8) -> u32 {
        match self {
            // What one PUD maps, so that a window has a PMD table of its own.
            Geometry::Tiny => (1 + u32::from(region)) * 64,
            Geometry::X86_64 => (1 + u32::from(region)) << 20,
        }
    }

    /// The window and the page in it that a virtual page number belongs to.
    #[inline]
    pub fn region_of(self, vpn: u32) -> Option<(u8, u32)> {
        let base = self.region_base(0);
        let off = vpn.checked_sub(base)?;
        let apart = self.region_base(1) - base;
        let (region, page) = (off / apart, off % apart);
        (region < super::MAX_REGIONS as u32 && page < self.region_pages()).then_some((region as u8, page))
    }

    /// The addresses around this one that one PUD maps, as far as anything can be mapped there: on `x86-64` 1 GiB, on `tiny`
    /// a window, which is less than the PUD of its own would map.
    #[inline]
    pub fn pud_range(self, vpn: u32) -> std::ops::Range<u32> {
        let size = 1 << (2 * self.shift());
        let start = vpn & !(size - 1);
        start..start + size.min(self.region_pages())
    }

    /// Frames in each memory block, the unit of offlining.
    #[inline]
    pub fn block_frames(self) -> u32 {
        match self {
            Geometry::Tiny => 16,
            Geometry::X86_64 => 1 << 15,
        }
    }

    /// Memory blocks in `ZONE_MOVABLE`. They follow those of `ZONE_NORMAL`.
    #[inline]
    pub fn movable_blocks(self) -> u32 {
        match self {
            Geometry::Tiny => 4,
            Geometry::X86_64 => 10,
        }
    }

    /// Memory blocks in `ZONE_NORMAL`, used for user pages only when `ZONE_MOVABLE` is full.
    #[inline]
    pub fn normal_blocks(self) -> u32 {
        1
    }

    /// `nr_overcommit_hugepages`: huge pages that the hugetlb pool may take from the allocator beyond its size.
    #[inline]
    pub fn overcommit_huge_pages(self) -> i32 {
        match self {
            Geometry::Tiny => 3,
            Geometry::X86_64 => 64,
        }
    }

    /// Frames that user pages can be allocated from.
    #[inline]
    pub fn frames(self) -> u32 {
        (self.movable_blocks() + self.normal_blocks()) * self.block_frames()
    }

    /// Frames of each device's own memory (`MEMORY_DEVICE_PRIVATE`). Their PFNs follow those of user frames.
    #[inline]
    pub fn device_frames(self) -> u32 {
        match self {
            Geometry::Tiny => 8,
            Geometry::X86_64 => 1 << 14,
        }
    }

    /// Slots on a swap device, the header among them. The first can hold everything.
    #[inline]
    pub fn swap_slots(self, device: u8) -> u32 {
        match (self, device) {
            (Geometry::Tiny, 0) => 64,
            (Geometry::X86_64, 0) => 1 << 19,
            _ => 17,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_can_be_found_again() {
        for g in Geometry::ALL {
            for r in 0..super::super::MAX_REGIONS as u8 {
                let base = g.region_base(r);
                assert_eq!(g.region_of(base), Some((r, 0)));
                assert_eq!(g.region_of(base + g.region_pages() - 1), Some((r, g.region_pages() - 1)));
                assert!(g.pud_range(base).start == base && g.pud_range(base).end <= base + g.region_pages());
            }
            assert_eq!(g.region_of(0), None);
        }
    }

    #[test]
    fn every_window_fits_into_the_address_space() {
        for g in Geometry::ALL {
            let last = g.region_base(super::super::MAX_REGIONS as u8 - 1) + g.region_pages();
            assert!(u64::from(last) <= 1 << (g.shift() * LEVELS));
        }
    }
}
