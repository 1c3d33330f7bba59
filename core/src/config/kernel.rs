//! The modelled releases.

use super::{Defect, DefectSet, Design, DesignSet};

/// A kernel release, as its `.0` version was published (stable updates are not part of a name).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kernel {
    /// 6.12: before the twelve device-exclusive repairs.
    V6_12,
    /// 6.15: after them.
    V6_15,
    /// 7.3: the newest modelled release.
    V7_3,
}

impl Kernel {
    /// Every release, oldest first.
    pub const ALL: [Kernel; 3] = [Kernel::V6_12, Kernel::V6_15, Kernel::V7_3];
    /// The newest modelled release.
    pub const NEWEST: Kernel = Kernel::V7_3;

    /// Name as written in a case, for example `6.12`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::V6_12 => "6.12",
            Kernel::V6_15 => "6.15",
            Kernel::V7_3 => "7.3",
        }
    }

    /// The release with this name.
    pub fn from_name(name: &str) -> Option<Kernel> {
        Kernel::ALL.into_iter().find(|k| k.name() == name)
    }

    /// The designs this release follows: exactly one of each group.
    pub fn designs(self) -> DesignSet {
        Design::ALL.into_iter().filter(|d| d.since() <= self && d.until().is_none_or(|u| self < u)).collect()
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

    #[test]
    fn six_twelve_has_the_device_exclusive_defects_and_six_fifteen_has_none() {
        let old = Kernel::V6_12.defects();
        for d in [Defect::D7, Defect::D8, Defect::D9, Defect::D10, Defect::D11, Defect::D12] {
            assert!(old.contains(d), "{}", d.id());
        }
        assert!(Kernel::V6_15.defects().is_empty());
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
