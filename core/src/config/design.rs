//! Designs: legitimate ways in which the kernel did or does a thing.
//!
//! One table gives the enum, its ids, its documentation and what `ptefuzz list designs` prints.

use super::Kernel;

/// A choice that a release makes exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DesignGroup {
    /// How a device-exclusive entry is encoded.
    ExclusiveEncoding,
    /// How a page is made device-exclusive.
    ExclusiveConversion,
    /// How `restore_exclusive_pte()` decides on write permission.
    ExclusiveRestore,
}

impl DesignGroup {
    /// Every group.
    pub const ALL: [DesignGroup; 3] =
        [DesignGroup::ExclusiveEncoding, DesignGroup::ExclusiveConversion, DesignGroup::ExclusiveRestore];
}

macro_rules! designs {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $group:ident, since $since:ident, until $until:expr, $source:literal;)*) => {
        /// One of several legitimate ways to do a thing.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Design { $($(#[$doc])* $name),* }

        impl Design {
            /// Every design, in table order.
            pub const ALL: [Design; [$($id),*].len()] = [$(Design::$name),*];

            /// Stable id, as written in a case.
            pub fn id(self) -> &'static str {
                match self { $(Design::$name => $id),* }
            }

            /// The choice that this design answers.
            pub fn group(self) -> DesignGroup {
                match self { $(Design::$name => DesignGroup::$group),* }
            }

            /// First modelled release that does it this way.
            pub fn since(self) -> Kernel {
                match self { $(Design::$name => Kernel::$since),* }
            }

            /// First modelled release that no longer does it this way.
            pub fn until(self) -> Option<Kernel> {
                match self { $(Design::$name => $until),* }
            }

            /// Kernel function or commit that shows it.
            pub fn source(self) -> &'static str {
                match self { $(Design::$name => $source),* }
            }
        }
    };
}

designs! {
    /// `SWP_DEVICE_EXCLUSIVE_WRITE` and `SWP_DEVICE_EXCLUSIVE_READ`: two swap types.
    ExclusiveTwoTypes = "exclusive-two-types", ExclusiveEncoding, since V6_12, until Some(Kernel::V6_15),
        "include/linux/swap.h before \"mm: use single SWP_DEVICE_EXCLUSIVE entry type\"";
    /// `SWP_DEVICE_EXCLUSIVE`: one swap type.
    ExclusiveOneType = "exclusive-one-type", ExclusiveEncoding, since V6_15, until None,
        "include/linux/swap.h since \"mm: use single SWP_DEVICE_EXCLUSIVE entry type\"";
    /// `make_device_exclusive_range()`: GUP of a range, then an rmap walk for each page.
    ExclusiveByRmap = "exclusive-by-rmap", ExclusiveConversion, since V6_12, until Some(Kernel::V6_15),
        "mm/rmap.c: make_device_exclusive_range(), page_make_device_exclusive_one()";
    /// `make_device_exclusive()`: GUP of one address, then a folio walk to that one PTE.
    ExclusiveByWalk = "exclusive-by-walk", ExclusiveConversion, since V6_15, until None,
        "mm/rmap.c: make_device_exclusive() with folio_walk_start()";
    /// Writable when the entry is of the writable type and not uffd-wp; always dirty then.
    RestoreByType = "restore-by-type", ExclusiveRestore, since V6_12, until Some(Kernel::V6_15),
        "mm/memory.c: restore_exclusive_pte() with is_writable_device_exclusive_entry()";
    /// Writable when `can_change_pte_writable()` says so; dirty when the folio is.
    RestoreByCheck = "restore-by-check", ExclusiveRestore, since V6_15, until None,
        "mm/memory.c: restore_exclusive_pte() with can_change_pte_writable()";
}

impl Design {
    /// The design with this id.
    pub fn from_id(id: &str) -> Option<Design> {
        Design::ALL.into_iter().find(|d| d.id() == id)
    }
}

/// A set of designs. Holds at most one of each group when built through [`DesignSet::choose`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DesignSet(u64);

impl DesignSet {
    /// Nothing chosen.
    pub const EMPTY: DesignSet = DesignSet(0);

    /// True when `d` is in the set.
    #[inline]
    pub fn contains(self, d: Design) -> bool {
        self.0 & (1 << d as u8) != 0
    }

    /// The set with `d` in place of whatever else was chosen for its group.
    #[must_use]
    pub fn choose(self, d: Design) -> DesignSet {
        let rest = Design::ALL.into_iter().filter(|o| o.group() == d.group()).fold(self.0, |s, o| s & !(1 << o as u8));
        DesignSet(rest | 1 << d as u8)
    }

    /// Members in table order.
    pub fn iter(self) -> impl Iterator<Item = Design> {
        Design::ALL.into_iter().filter(move |d| self.contains(*d))
    }
}

impl FromIterator<Design> for DesignSet {
    fn from_iter<I: IntoIterator<Item = Design>>(iter: I) -> Self {
        DesignSet(iter.into_iter().fold(0, |s, d| s | 1 << d as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choosing_a_design_drops_its_alternative() {
        let set = Kernel::V6_12.designs().choose(Design::ExclusiveOneType);
        assert!(set.contains(Design::ExclusiveOneType) && !set.contains(Design::ExclusiveTwoTypes));
        assert_eq!(set.iter().count(), DesignGroup::ALL.len());
    }

    #[test]
    fn ids_are_unique() {
        for (i, d) in Design::ALL.iter().enumerate() {
            assert_eq!(Design::from_id(d.id()), Some(*d));
            assert_eq!(*d as usize, i);
        }
    }
}
