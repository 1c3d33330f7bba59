//! What the oracle says when it disagrees.

use super::page::Known;
use crate::observe::Agent;
use crate::rule::{Evidence, Rule};

/// A broken rule of the oracle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OracleViolation {
    /// Which: one of those with ids `oracle.*`.
    pub rule: Rule,
    /// What was expected, what was seen, where.
    pub evidence: Evidence,
}

/// An access to where nothing can be mapped.
pub(super) fn nowhere(proc: u8, vpn: u32, by: Agent, what: &'static str) -> OracleViolation {
    broken(Rule::OracleAccess).at(proc, vpn, by, what)
}

/// A broken rule, with nothing said about it yet.
pub(super) fn broken(rule: Rule) -> OracleViolation {
    OracleViolation { rule, evidence: Evidence::default() }
}

impl OracleViolation {
    /// Says where, by whom and at what.
    pub(super) fn at(mut self, proc: u8, vpn: u32, by: Agent, what: &'static str) -> OracleViolation {
        match by {
            Agent::Cpu(cpu) => self.evidence.cpu = Some(cpu),
            Agent::Device(device) => self.evidence.device = Some(device),
            Agent::Dma | Agent::Debugger => {}
        }
        self.evidence.proc = Some(proc);
        self.evidence.vpn = Some(vpn);
        self.evidence.what = Some(what);
        self
    }

    /// Says what was known of the page.
    pub(super) fn known(mut self, known: Known) -> OracleViolation {
        self.evidence.on = Some(match known {
            Known::One(state) if state.guard => "a guard page",
            Known::One(state) => state.perm.map_or("not mapped", |p| p.name()),
            Known::Many(_) => "one of several states",
            Known::Any => "any state",
        });
        if let Known::One(state) = known
            && self.rule == Rule::OracleValue
        {
            self.evidence.expected = Some(u64::from(state.value));
        }
        self
    }
}
