//! Where each defect can be seen: not every release has the code that a mistake is in.

use super::{Config, Defect, Design, Kernel};

impl Defect {
    /// The last modelled release that had the mistake; where none had it, the one whose code it was planted in.
    pub fn home(self) -> Kernel {
        match self {
            // Charges were moved from one group to another until 6.15.
            Defect::A6 | Defect::S42 => Kernel::V6_12,
            // The mapping was looked at when a hugetlb file was cut until 6.18.
            Defect::H1 => Kernel::V6_15,
            // From 6.10 on GUP gives no hugetlb page to the conversion.
            Defect::D2 => Kernel::V6_6,
            // While a page was reused by counting references, a pin kept nothing: nobody could say what was lost.
            Defect::V1 | Defect::V7 | Defect::V8 => Kernel::V5_19,
            _ => {
                let had = |k: &Kernel| self.fixed_in().is_none_or(|fixed| *k < fixed);
                Kernel::ALL.into_iter().rfind(had).unwrap_or(Kernel::ALL[0])
            }
        }
    }

    /// The design that the mistake is one of, where the release follows another.
    pub fn design(self) -> Option<Design> {
        match self {
            Defect::A7 | Defect::A8 => Some(Design::UffdWpSpecial),
            Defect::B3 | Defect::B4 | Defect::B5 => Some(Design::ResolveCopies),
            _ => None,
        }
    }
}

impl Config {
    /// A machine on which the defect shows: it alone, on the release and with the design that it belongs to.
    pub fn showing(defect: Defect) -> Config {
        let fixed = Config::fixed(defect.home());
        let designs = defect.design().into_iter().fold(fixed.designs, |set, design| set.choose(design));
        Config { designs, defects: fixed.defects.with(defect), ..fixed }
    }
}
