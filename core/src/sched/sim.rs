//! A simulation: the world, its control state, and whoever listens.

use super::Site;
use super::ctl::Ctl;
use crate::config::Config;
use crate::observe::Observation;
use crate::rule::{Evidence, Rule, Violation};
use crate::trace::{Event, Note, Trace};
use crate::world::World;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Everything that a run changes.
pub struct Sim {
    /// What is modelled.
    pub w: World,
    /// Who runs and what went wrong.
    pub ctl: Ctl,
    /// What user space and devices saw and the oracle has not been told yet, each with its step.
    pub observations: Vec<(u32, Observation)>,
    /// Recorded only when somebody asked for it.
    pub trace: Option<Trace>,
    /// State counters of a fuzzing engine; the length is a power of two.
    pub coverage: Option<&'static [AtomicU8]>,
}

impl Sim {
    /// A machine on which nothing runs.
    pub fn new(config: Config) -> Sim {
        Sim { w: World::new(config), ctl: Ctl::default(), observations: Vec::new(), trace: None, coverage: None }
    }

    /// Records that a rule is broken, unless one was before: only the first counts.
    #[cold]
    pub fn violate(&mut self, cpu: u8, rule: Rule, evidence: Evidence) {
        let site = self.ctl.cpus[cpu as usize].site;
        self.violate_at(cpu, rule, [None, site], evidence);
    }

    /// The same with the causal site.
    #[cold]
    pub fn violate_at(&mut self, cpu: u8, rule: Rule, sites: [Option<Site>; 2], evidence: Evidence) {
        if self.ctl.violation.is_none() {
            let evidence = Evidence { cpu: Some(cpu), ..evidence };
            let op = self.ctl.cpus[cpu as usize].op;
            self.ctl.violation = Some(Violation { rule, op, step: self.ctl.step, sites, evidence });
        }
    }

    /// Adds an event to the trace, if there is one.
    #[inline]
    pub fn log(&mut self, event: impl FnOnce() -> Event) {
        if self.trace.is_some() {
            self.record(event);
        }
    }

    // A fuzzer keeps no trace: what makes events stays out of the functions that everything runs through.
    #[cold]
    #[inline(never)]
    fn record(&mut self, event: impl FnOnce() -> Event) {
        if let Some(t) = &mut self.trace {
            t.events.push((self.ctl.step, event()));
        }
    }

    /// Adds a note to the trace, if there is one.
    #[inline]
    pub fn note(&mut self, cpu: u8, note: Note, pfn: Option<u32>, a: u32, b: u32) {
        self.log(|| Event::Note { cpu, note, pfn, a, b });
    }

    /// Tells what user space or a device saw.
    #[inline]
    pub fn observe(&mut self, observation: Observation) {
        self.observations.push((self.ctl.step, observation));
    }

    /// Counts a state for the fuzzing engine. Equal keys count in one place; different ones seldom share it.
    #[inline]
    pub fn cover(&self, key: u64) {
        if let Some(map) = self.coverage {
            let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let cell = &map[(mixed >> 40) as usize & (map.len() - 1)];
            cell.store(cell.load(Relaxed).saturating_add(1), Relaxed);
        }
    }
}
