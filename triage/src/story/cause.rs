//! Which of the defects that are switched on a violation needs.

use ptefuzz_core::config::{Defect, DefectSet};
use ptefuzz_core::program::Case;
use ptefuzz_core::rule::Rule;
use serde::Serialize;

/// The defects behind a violation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Causes {
    /// Needed ones, in table order.
    pub defects: Vec<Defect>,
    /// False: each of them is needed. True: none is needed by itself, because another one has the same effect.
    pub any_of: bool,
}

/// A known defect, as scripts read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Known {
    /// Its id.
    pub id: &'static str,
    /// Kernel function that it is in.
    pub function: &'static str,
    /// What is wrong there.
    pub summary: &'static str,
    /// Release that repaired it; `None` when no release had it.
    pub fixed_in: Option<&'static str>,
    /// Commit, series or report.
    pub source: &'static str,
}

impl From<Defect> for Known {
    fn from(d: Defect) -> Self {
        Known {
            id: d.id(),
            function: d.function(),
            summary: d.summary(),
            fixed_in: d.fixed_in().map(|k| k.name()),
            source: d.source(),
        }
    }
}

impl Causes {
    /// Runs the case again without each of its defects. `violates` gives the rule that a case violates.
    ///
    /// # Errors
    /// Whatever `violates` returns.
    pub fn find<E>(
        case: &Case,
        rule: Rule,
        mut violates: impl FnMut(&Case) -> Result<Option<Rule>, E>,
    ) -> Result<Causes, E> {
        let mut with = |defects| {
            let mut changed = case.clone();
            changed.config.defects = defects;
            violates(&changed).map(|r| r == Some(rule))
        };
        let all = case.config.defects;
        let mut needed = Vec::new();
        for d in all.iter() {
            if !with(all.without(d))? {
                needed.push(d);
            }
        }
        if !needed.is_empty() || all.is_empty() || with(DefectSet::EMPTY)? {
            return Ok(Causes { defects: needed, any_of: false });
        }
        let mut enough = Vec::new();
        for d in all.iter() {
            if with([d].into_iter().collect())? {
                enough.push(d);
            }
        }
        Ok(Causes { defects: enough, any_of: true })
    }

    /// The function that the mistake is in, when there is exactly one.
    pub(super) fn function(&self) -> Option<&'static str> {
        match self.defects[..] {
            [one] => Some(one.function()),
            _ => None,
        }
    }

    /// What is known about the violation, one sentence for each defect.
    pub(super) fn sentences(&self, case: &Case) -> Vec<String> {
        if self.defects.is_empty() {
            return vec![format!(
                "no defect that is switched on explains it: kernel {} as modelled breaks this rule",
                case.config.kernel
            )];
        }
        let mut out = Vec::new();
        if self.any_of && self.defects.len() > 1 {
            out.push("each of these alone is enough:".to_owned());
        }
        out.extend(self.defects.iter().map(|d| match d.fixed_in() {
            Some(kernel) => format!("known as {}, fixed in {kernel}: {} ({})", d.id(), d.summary(), d.source()),
            None if d.historical() => format!("known as {}: {} ({})", d.id(), d.summary(), d.source()),
            None => format!("injected by {} ({}): {}", d.id(), d.source(), d.summary()),
        }));
        out
    }
}

#[cfg(test)]
mod tests {
    use ptefuzz_core::config::{Config, Kernel};

    use super::*;

    fn old() -> Case {
        Case { config: Config::of(Kernel::V6_12), ..Case::empty() }
    }

    fn find(needs: fn(&Case) -> bool) -> Causes {
        Causes::find(&old(), Rule::Mapcount, |c| Ok::<_, ()>(needs(c).then_some(Rule::Mapcount))).expect("no errors")
    }

    #[test]
    fn the_defects_whose_removal_makes_the_case_clean_are_the_causes() {
        let causes = find(|c| c.config.has(Defect::D12) && c.config.has(Defect::D9));
        assert_eq!(causes, Causes { defects: vec![Defect::D9, Defect::D12], any_of: false });
        assert!(causes.sentences(&old())[1].starts_with("known as D12, fixed in 6.15: "));
    }

    #[test]
    fn defects_with_the_same_effect_are_all_named() {
        let causes = find(|c| c.config.has(Defect::D12) || c.config.has(Defect::D9));
        assert_eq!(causes, Causes { defects: vec![Defect::D9, Defect::D12], any_of: true });
    }

    #[test]
    fn a_violation_that_needs_no_defect_says_so() {
        let causes = find(|_| true);
        assert_eq!(causes, Causes::default());
        assert!(causes.sentences(&old())[0].contains("kernel 6.12 as modelled"));
    }
}
