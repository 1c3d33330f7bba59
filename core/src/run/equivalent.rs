//! Is one design as good as another: one case, run under both, and what could be noticed of it compared.
//!
//! A design is a way of doing a thing, so user space and devices must not be able to tell which one a kernel follows.
//! What they notice are the [`Observation`]s, the oracle's own food: how calls ended, what was loaded, signals and
//! events, what `/proc` said. Not compared is what lies inside: entries, frames, counts, which swap slot, how many
//! steps.
//!
//! How much can be compared depends on the case.
//!
//! - *Without interruptions* ops run one after the other in the order of the case, also on several CPUs: there is no
//!   race that two kernels could decide differently. All observations must be the same, in order, and so must the
//!   verdict.
//! - *With interruptions* only the verdict is compared. An interruption names a place (`zap_pte_range:cleared`, the
//!   second time), and another design may not come through it, or not as often. So both runs are legitimate schedules
//!   but different ones, and what races decide may differ. That both are free of violations, or violate the same rule,
//!   is what can still be asked.
//!
//! What a comparison cannot see: a difference that no op of the case makes noticeable, and one that shows only in a
//! schedule that both designs share but the case does not ask for.

use super::{Machine, Verdict};
use crate::config::{Config, Design};
use crate::observe::Observation;
use crate::program::Case;

/// The configurations that a comparison of two designs runs: `config` with the one and with the other.
pub fn configs(config: Config, designs: [Design; 2]) -> [Config; 2] {
    designs.map(|d| Config { designs: config.designs.choose(d), ..config })
}

/// What two runs differ in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DifferenceKind {
    /// One run violates a rule and the other does not, or another one.
    Verdict,
    /// An op ended differently.
    Outcome,
    /// A load returned another value, or one run loaded and the other did not.
    Value,
    /// A signal was delivered in one run only, or another one.
    Signal,
    /// Anything else that can be noticed.
    Event,
}

impl DifferenceKind {
    /// Every kind.
    pub const ALL: [DifferenceKind; 5] = [
        DifferenceKind::Verdict,
        DifferenceKind::Outcome,
        DifferenceKind::Value,
        DifferenceKind::Signal,
        DifferenceKind::Event,
    ];

    /// Stable id.
    pub fn id(self) -> &'static str {
        match self {
            DifferenceKind::Verdict => "equivalent.verdict",
            DifferenceKind::Outcome => "equivalent.outcome",
            DifferenceKind::Value => "equivalent.value",
            DifferenceKind::Signal => "equivalent.signal",
            DifferenceKind::Event => "equivalent.event",
        }
    }

    fn of(seen: [Option<Observation>; 2]) -> DifferenceKind {
        let any = |f: fn(&Observation) -> bool| seen.iter().flatten().any(f);
        if any(|o| matches!(o, Observation::Signal { .. })) {
            DifferenceKind::Signal
        } else if any(|o| matches!(o, Observation::Load { .. } | Observation::Store { .. })) {
            DifferenceKind::Value
        } else if any(|o| matches!(o, Observation::Start { .. } | Observation::End { .. })) {
            DifferenceKind::Outcome
        } else {
            DifferenceKind::Event
        }
    }
}

/// The first difference between two runs of a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// In what.
    pub kind: DifferenceKind,
    /// What was noticed there, in the first run and in the second. `None`: that run had nothing more to tell, or it is
    /// the verdicts that differ.
    pub seen: [Option<Observation>; 2],
    /// The verdicts.
    pub verdicts: [Verdict; 2],
}

impl Difference {
    /// The op during which it was noticed, when one can be named.
    pub fn op(&self) -> Option<u32> {
        let violated = self.verdicts.iter().find_map(|v| v.violation().and_then(|v| v.op));
        self.seen.iter().flatten().find_map(Observation::op).or(violated)
    }
}

/// Machines and lists that are used again for every comparison.
pub struct Comparer {
    machine: Machine,
    seen: [Vec<Observation>; 2],
    case: Case,
}

impl Default for Comparer {
    fn default() -> Self {
        Comparer::new()
    }
}

impl Comparer {
    /// A comparer that has compared nothing yet.
    pub fn new() -> Comparer {
        Comparer { machine: Machine::new(), seen: Default::default(), case: Case::empty() }
    }

    /// The machine, for coverage and for runs that are compared with nothing.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Runs a normalised case under two configurations in place of its own. They may differ in designs (and in defects,
    /// to see that a difference is found); CPUs and geometry are the case's.
    pub fn compare(&mut self, case: &Case, configs: [Config; 2]) -> Option<Difference> {
        let mut verdicts = [Verdict::Clean; 2];
        self.case.clone_from(case);
        for (i, config) in configs.into_iter().enumerate() {
            self.case.config = config;
            verdicts[i] = self.machine.run_observed(&self.case, &mut self.seen[i]);
        }
        let found = |kind, seen| Some(Difference { kind, seen, verdicts });
        if verdicts[0].id() != verdicts[1].id() {
            return found(DifferenceKind::Verdict, [None; 2]);
        }
        if !case.interrupts.is_empty() {
            return None;
        }
        // What is in memory just now may differ between two good designs.
        self.seen.iter_mut().for_each(|seen| seen.retain(|o| !is_momentary(o)));
        let [left, right] = &self.seen;
        let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let seen = [left.get(same).copied(), right.get(same).copied()];
        if seen == [None; 2] { None } else { found(DifferenceKind::of(seen), seen) }
    }
}

/// True of what may differ between two good designs from moment to moment: what is in memory, and how much.
fn is_momentary(seen: &Observation) -> bool {
    matches!(seen, Observation::Resident { .. } | Observation::Snapshot { .. } | Observation::Smaps { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Defect, Kernel};
    use crate::observe::Outcome;
    use crate::program::text;

    fn case(body: &str) -> Case {
        text::parse(body).unwrap_or_else(|e| panic!("{e}\n{body}")).case
    }

    const CASE: &str = "kernel 6.12\nfixed\n\nprocess A\n  heap = mmap anon private rw 2\n\ncpu 0\n  \
        A write heap[0]\n  gpu0 exclusive A heap[0]\n  A mprotect heap[0] ro\n  A read heap[0]\n  A write heap[0]\n";

    #[test]
    fn the_two_encodings_of_a_device_exclusive_entry_cannot_be_told_apart() {
        let case = case(CASE);
        let designs = configs(case.config, [Design::ExclusiveTwoTypes, Design::ExclusiveOneType]);
        assert_eq!(Comparer::new().compare(&case, designs), None);
        let designs = configs(case.config, [Design::ExclusiveByRmap, Design::ExclusiveByWalk]);
        assert_eq!(Comparer::new().compare(&case, designs), None);
    }

    // The old way dirties a page that it makes writable again, and on x86-64 that sets soft-dirty: a load after
    // clear_refs reads as a store.
    #[test]
    fn the_old_way_to_restore_an_entry_shows_in_pagemap() {
        let ops = "  gpu0 exclusive A heap[0]\n  A clear-refs\n  A read heap[0]\n  A pagemap heap[0]\n";
        let case = case(&format!("fixed\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n{ops}"));
        let mut case_of_6_12 = case.clone();
        case_of_6_12.config = Config::fixed(Kernel::V6_12);
        let designs = configs(case_of_6_12.config, [Design::RestoreByType, Design::RestoreByCheck]);
        let found = Comparer::new().compare(&case_of_6_12, designs).expect("they differ");
        let said = |o: Option<Observation>| matches!(o, Some(Observation::SoftDirty { dirty: true, .. }));
        assert_eq!((found.kind, found.op(), found.seen.map(said)), (DifferenceKind::Event, Some(3), [true, false]));
    }

    #[test]
    fn the_three_ways_to_split_the_write_fault_cannot_be_told_apart() {
        let splits = [Design::WpSplitCont, Design::WpSplitWrapper, Design::WpSplitHelper];
        let config = crate::config::Config { cpus: 2, ..crate::config::Config::fixed(Kernel::NEWEST) };
        let bias = Some(crate::program::family::Family::Uffd);
        let mut rng = crate::program::rng::Rng::new(6);
        let mut case = Case::empty();
        let mut comparer = Comparer::new();
        for round in 0..600 {
            let sequential = round % 3 == 0;
            let wanted = crate::program::generate::GenConfig { config, max_ops: 20, sequential, bias };
            crate::program::generate::generate(&mut rng, &mut case, &wanted);
            for other in &splits[1..] {
                let designs = configs(case.config, [splits[0], *other]);
                assert_eq!(comparer.compare(&case, designs), None, "{}: {case:?}", other.id());
            }
        }
    }

    #[test]
    fn a_defect_in_one_of_two_runs_is_a_difference_of_verdicts() {
        let case = case(
            "fixed\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n  A write heap[0]\n  migrate A heap[0]\n  A read heap[0]\n",
        );
        let broken = Config { defects: case.config.defects.with(Defect::S14), ..case.config };
        let found = Comparer::new().compare(&case, [case.config, broken]).expect("they differ");
        assert_eq!((found.kind.id(), found.op()), ("equivalent.verdict", Some(2)));
        assert_eq!(found.verdicts.map(Verdict::id), ["clean", "oracle.value"]);
    }

    #[test]
    fn what_only_one_run_noticed_is_a_difference_and_names_the_op() {
        let both = case(CASE);
        let mut shorter = both.clone();
        shorter.config = Config::fixed(Kernel::V6_12);
        let seen = [Some(Observation::End { op: 1, outcome: Outcome::Busy }), None];
        let difference =
            Difference { kind: DifferenceKind::of(seen), seen, verdicts: [Verdict::Clean, Verdict::Clean] };
        assert_eq!((difference.kind, difference.op()), (DifferenceKind::Outcome, Some(1)));
        let signal = Observation::Signal {
            op: 4,
            proc: 0,
            vpn: 64,
            by: crate::observe::Agent::Cpu(0),
            write: true,
            signal: crate::observe::Signal::SegvAccErr,
        };
        assert_eq!(DifferenceKind::of([None, Some(signal)]), DifferenceKind::Signal);
        let ids: std::collections::BTreeSet<_> = DifferenceKind::ALL.map(DifferenceKind::id).into();
        assert_eq!(ids.len(), DifferenceKind::ALL.len());
    }

    #[test]
    fn an_interrupted_case_is_compared_by_its_verdict_alone() {
        // The same ops with a preemption that only one conversion comes through.
        let text = CASE.replace("kernel 6.12\n", "kernel 6.12\ncpus 2\n")
            + "cpu 1\n  A read heap[0]\n\ninterrupts\n  at cpu0 make_device_exclusive:lock #1 -> cpu1\n";
        let case = case(&text);
        let designs = configs(case.config, [Design::ExclusiveByRmap, Design::ExclusiveByWalk]);
        assert_eq!(Comparer::new().compare(&case, designs), None);
    }
}
