//! What a campaign forces on every case that it runs.
//!
//! The bytes of a case choose a kernel for themselves. A campaign that looks for the mistakes of one release, or
//! for any violation of the fixed model, overrules them; the case that is run, saved and shown is the overruled one.

use crate::hash::fnv1a;
use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Config, Defect, DefectSet, Design, DesignGroup, DesignSet, Kernel};
use ptefuzz_core::entry::{ConfigError, EntryConfig};
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::run::equivalent::configs;
use serde::{Deserialize, Serialize};

/// The pinned part of a [`Config`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Names", try_from = "Names")]
pub struct Pin {
    /// Release whose designs are followed. `None`: the case's own choice of release and designs.
    pub kernel: Option<Kernel>,
    /// Entry layout. `None`: the case's own.
    pub arch: Option<Arch>,
    /// Designs in place of those of the release; at most one of each group.
    pub designs: DesignSet,
    /// In every other group the bytes of the case choose the design, among those that were only posted, too.
    pub any_design: bool,
    /// Exactly these defects are on; what the case says of defects is ignored.
    pub defects: DefectSet,
    /// Each case is run under both of these designs, and it is a find when that can be noticed.
    pub equivalent: Option<[Design; 2]>,
}

impl Pin {
    /// No defect; everything else is left to the case. Nothing may ever be found.
    pub const FIXED: Pin = Pin {
        kernel: None,
        arch: None,
        designs: DesignSet::EMPTY,
        any_design: false,
        defects: DefectSet::EMPTY,
        equivalent: None,
    };

    /// A release as it was, with the defects it had.
    pub fn release(kernel: Kernel) -> Pin {
        Pin { kernel: Some(kernel), defects: kernel.defects(), ..Pin::FIXED }
    }

    /// A release with every known defect repaired.
    pub fn fixed(kernel: Kernel) -> Pin {
        Pin { kernel: Some(kernel), ..Pin::FIXED }
    }

    /// The same with one more defect.
    #[must_use]
    pub fn with_defect(self, defect: Defect) -> Pin {
        Pin { defects: self.defects.with(defect), ..self }
    }

    /// Whether cases can be made to fit.
    ///
    /// # Errors
    /// A pinned design needs a bit that the entries of the pinned architecture do not have.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut config = Config::fixed(self.kernel.unwrap_or(Kernel::NEWEST));
        self.apply(&mut config, &[]);
        EntryConfig::of(&config).check()?;
        self.equivalent.map_or(Ok(()), |both| configs(config, both).iter().try_for_each(|c| EntryConfig::of(c).check()))
    }

    /// Overrules the configuration of the case that was made of `bytes`.
    pub fn apply(&self, config: &mut Config, bytes: &[u8]) {
        if let Some(kernel) = self.kernel {
            config.kernel = kernel;
            config.designs = kernel.designs();
        }
        if let Some(arch) = self.arch {
            config.arch = arch;
        }
        if self.any_design {
            self.choose_designs(config, &mut Rng::new(fnv1a(bytes)));
        }
        if self.designs != DesignSet::EMPTY {
            config.designs = self.designs.iter().fold(config.designs, DesignSet::choose);
        }
        let refused = |c: &Config| EntryConfig::of(c).check().is_err();
        let either = |c: Config| self.equivalent.is_some_and(|both| configs(c, both).iter().any(refused));
        if self.arch.is_none() && (refused(config) || either(*config)) {
            // A pinned design needs a bit of an entry that only one architecture has to spare.
            config.arch = Arch::X86_64;
        }
        config.defects = self.defects;
    }

    fn choose_designs(&self, config: &mut Config, rng: &mut Rng) {
        for group in DesignGroup::ALL {
            let choice = Design::ALL.into_iter().filter(|d| d.group() == group && d.sound());
            let Some(design) = choice.clone().nth(rng.index(choice.count())) else { continue };
            let chosen = Config { designs: config.designs.choose(design), ..*config };
            // Where the architecture is not pinned it follows the design, later.
            if self.arch.is_none() || EntryConfig::of(&chosen).check().is_ok() {
                *config = chosen;
            }
        }
    }
}

/// A pin by name, as it travels between processes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    kernel: Option<String>,
    arch: Option<String>,
    designs: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    any_design: bool,
    defects: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    equivalent: Vec<String>,
}

impl From<Pin> for Names {
    fn from(pin: Pin) -> Names {
        Names {
            kernel: pin.kernel.map(|k| k.name().to_owned()),
            arch: pin.arch.map(|a| a.name().to_owned()),
            designs: pin.designs.iter().map(|d| d.id().to_owned()).collect(),
            any_design: pin.any_design,
            defects: pin.defects.iter().map(|d| d.id().to_owned()).collect(),
            equivalent: pin.equivalent.into_iter().flatten().map(|d| d.id().to_owned()).collect(),
        }
    }
}

impl TryFrom<Names> for Pin {
    type Error = String;

    fn try_from(names: Names) -> Result<Pin, String> {
        let known = |what: &str, name: &str| format!("unknown {what} `{name}`");
        let mut pin = Pin { any_design: names.any_design, ..Pin::FIXED };
        if let Some(name) = &names.kernel {
            pin.kernel = Some(Kernel::from_name(name).ok_or_else(|| known("kernel", name))?);
        }
        if let Some(name) = &names.arch {
            pin.arch = Some(Arch::from_name(name).ok_or_else(|| known("architecture", name))?);
        }
        for name in &names.designs {
            pin.designs = pin.designs.choose(Design::from_id(name).ok_or_else(|| known("design", name))?);
        }
        for name in &names.defects {
            pin.defects = pin.defects.with(Defect::from_id(name).ok_or_else(|| known("defect", name))?);
        }
        let both: Result<Vec<Design>, String> =
            names.equivalent.iter().map(|n| Design::from_id(n).ok_or_else(|| known("design", n))).collect();
        pin.equivalent = match both?[..] {
            [] => None,
            [a, b] => Some([a, b]),
            _ => return Err("two designs are compared, no more and no fewer".to_owned()),
        };
        Ok(pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_release_overrules_kernel_designs_and_defects_and_nothing_else() {
        let mut config = Config::fixed(Kernel::V7_3);
        config.cpus = 3;
        config.defects = DefectSet::EMPTY.with(Defect::S1);
        Pin::release(Kernel::V6_12).apply(&mut config, &[]);
        assert_eq!(config, Config { cpus: 3, ..Config::of(Kernel::V6_12) });
    }

    #[test]
    fn the_fixed_pin_drops_the_defects_of_a_case_and_keeps_its_release() {
        let mut config = Config::of(Kernel::V6_12);
        Pin::FIXED.apply(&mut config, &[]);
        assert_eq!(config, Config::fixed(Kernel::V6_12));
    }

    #[test]
    fn a_chosen_design_replaces_that_of_the_release() {
        let mut config = Config::of(Kernel::V6_12);
        let design = Design::ExclusiveOneType;
        Pin { designs: DesignSet::default().choose(design), ..Pin::fixed(Kernel::V6_12) }.apply(&mut config, &[]);
        assert!(config.uses(design) && !config.uses(Design::ExclusiveTwoTypes));
    }

    #[test]
    fn bytes_choose_among_all_designs_but_not_against_a_pinned_one_nor_against_the_architecture() {
        let pinned = Design::ExclusiveTwoTypes;
        let pin = Pin { any_design: true, designs: DesignSet::default().choose(pinned), ..Pin::FIXED };
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..500u32 {
            let mut config = Config { arch: Arch::ALL[i as usize % 2], ..Config::fixed(Kernel::NEWEST) };
            pin.apply(&mut config, &i.to_le_bytes());
            assert!(config.uses(pinned) && EntryConfig::of(&config).check().is_ok(), "{config:?}");
            assert_eq!(config.designs.iter().count(), DesignGroup::ALL.len());
            let mut again = config;
            pin.apply(&mut again, &i.to_le_bytes());
            assert_eq!(again, config, "the same bytes, the same designs");
            seen.extend(config.designs.iter());
        }
        let missed = Design::ALL.into_iter().filter(|d| !seen.contains(d)).collect::<Vec<_>>();
        let expected = [Design::ExclusiveOneType, Design::NoneCoversSpecial];
        assert_eq!(missed, expected, "the pinned one excludes the other of its group, and one is tried only by name");
    }

    #[test]
    fn a_design_that_arm64_cannot_encode_is_refused_there_and_makes_cases_x86_64_elsewhere() {
        let special = Pin { designs: DesignSet::default().choose(Design::UffdWpSpecial), ..Pin::fixed(Kernel::V5_14) };
        let refused = Pin { arch: Some(Arch::Arm64), ..special }.check().expect_err("no bit for it");
        assert_eq!(refused.to_string(), "arm64 has no spare bit for the swap-special entry");
        assert_eq!(special.check(), Ok(()));
        let mut config = Config { arch: Arch::Arm64, ..Config::fixed(Kernel::V5_14) };
        special.apply(&mut config, &[]);
        assert!(config.arch == Arch::X86_64 && config.uses(Design::UffdWpSpecial));
    }

    #[test]
    fn a_pin_survives_the_way_to_another_process_and_unknown_names_do_not() {
        let pin = Pin {
            arch: Some(Arch::Arm64),
            designs: DesignSet::default().choose(Design::ExclusiveByWalk),
            any_design: true,
            equivalent: Some([Design::RestoreByType, Design::RestoreByCheck]),
            ..Pin::release(Kernel::V6_12).with_defect(Defect::S4)
        };
        let json = serde_json::to_string(&pin).expect("a pin is plain data");
        assert_eq!(serde_json::from_str::<Pin>(&json).expect("what was written can be read"), pin);
        let wrong = serde_json::from_str::<Pin>(&json.replace("\"S4\"", "\"S0\"")).expect_err("S0 is no defect");
        assert!(wrong.to_string().contains("unknown defect `S0`"), "{wrong}");
    }
}
