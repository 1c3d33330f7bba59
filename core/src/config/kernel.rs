//! The modelled releases.

use super::{Defect, DefectSet, DesignSet};

/// A kernel release, as its `.0` version was published (stable updates are not part of a name).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kernel {
    /// 5.14: the first with device-exclusive entries; copy-on-write by counting references, no markers.
    V5_14,
    /// 5.19: `PageAnonExclusive`, and PTE markers for uffd-wp of file mappings.
    V5_19,
    /// 6.1: migration keeps young and dirty; `mprotect` may make an entry writable at once.
    V6_1,
    /// 6.6: the poisoned marker, and faults under the per-VMA lock.
    V6_6,
    /// 6.12: before the twelve device-exclusive repairs.
    V6_12,
    /// 6.15: after them; guard markers.
    V6_15,
    /// 6.18: long-term release.
    V6_18,
    /// 7.3: the newest modelled release.
    V7_3,
}

impl Kernel {
    /// Every release, oldest first.
    pub const ALL: [Kernel; 8] = [
        Kernel::V5_14,
        Kernel::V5_19,
        Kernel::V6_1,
        Kernel::V6_6,
        Kernel::V6_12,
        Kernel::V6_15,
        Kernel::V6_18,
        Kernel::V7_3,
    ];
    /// The newest modelled release.
    pub const NEWEST: Kernel = Kernel::V7_3;

    /// Name as written in a case, for example `6.12`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::V5_14 => "5.14",
            Kernel::V5_19 => "5.19",
            Kernel::V6_1 => "6.1",
            Kernel::V6_6 => "6.6",
            Kernel::V6_12 => "6.12",
            Kernel::V6_15 => "6.15",
            Kernel::V6_18 => "6.18",
            Kernel::V7_3 => "7.3",
        }
    }

    /// The release with this name.
    pub fn from_name(name: &str) -> Option<Kernel> {
        Kernel::ALL.into_iter().find(|k| k.name() == name)
    }

    /// The designs this release follows: exactly one of each group.
    pub fn designs(self) -> DesignSet {
        // Every input of a fuzzer asks.
        const OF: [DesignSet; Kernel::ALL.len()] = {
            let mut of = [DesignSet::EMPTY; Kernel::ALL.len()];
            let mut i = 0;
            while i < of.len() {
                of[i] = DesignSet::of(Kernel::ALL[i]);
                i += 1;
            }
            of
        };
        OF[self as usize]
    }

    /// The defects this release had.
    pub fn defects(self) -> DefectSet {
        Defect::ALL.into_iter().filter(|d| d.fixed_in().is_some_and(|fixed| self < fixed)).collect()
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DesignGroup;

    #[test]
    fn every_release_follows_exactly_one_design_of_each_group() {
        for kernel in Kernel::ALL {
            for group in DesignGroup::ALL {
                let n = kernel.designs().iter().filter(|d| d.group() == group).count();
                assert_eq!(n, 1, "{kernel}: {group:?}");
            }
        }
    }

    const OLD: [Defect; 6] = [Defect::D7, Defect::D8, Defect::D9, Defect::D10, Defect::D11, Defect::D12];

    #[test]
    fn releases_up_to_six_twelve_have_the_device_exclusive_defects_and_six_fifteen_has_none() {
        for (kernel, d) in [Kernel::V5_14, Kernel::V6_12].into_iter().flat_map(|k| OLD.map(|d| (k, d))) {
            assert!(kernel.defects().contains(d), "{kernel}: {}", d.id());
        }
        assert!(OLD.iter().all(|d| !Kernel::V6_15.defects().contains(*d)));
        assert!(Kernel::V7_3.defects().is_empty());
    }

    #[test]
    fn names_round_trip() {
        for k in Kernel::ALL {
            assert_eq!(Kernel::from_name(k.name()), Some(k));
        }
        assert_eq!(Kernel::from_name("2.4"), None);
    }
}
