//! Tests of the oracle: what it must catch, what it must let pass, and that it depends on nothing it judges.

mod events;
mod lost;
mod machine;
mod races;
mod refused;
mod sequential;

use super::{Oracle, OracleViolation};
use crate::config::{Config, Kernel};
use crate::observe::{Agent, Backing, Observation, Outcome, Signal, Token};
use crate::program::{Case, Map, Op, OpCode, Perm};
use crate::rule::Rule;

/// A history that is written down as it is judged: ops are added to the case as they start.
struct Story {
    case: Case,
    oracle: Oracle,
}

impl Story {
    /// `A` with a window of `pages` pages.
    fn with(pages: u32, perm: Perm) -> Story {
        Story::of(Kernel::NEWEST, &[Map { proc: 0, region: 0, pages, perm, backing: Backing::Anon }], &[])
    }

    /// A case with these mappings of which the oracle knows beforehand that it has such ops. They come first, on pages
    /// where nothing can be, and never start.
    fn of(kernel: Kernel, maps: &[Map], known: &[OpCode]) -> Story {
        let mut case = Case { config: Config { cpus: 4, ..Config::fixed(kernel) }, ..Case::empty() };
        case.maps.extend_from_slice(maps);
        case.ops.extend(known.iter().map(|code| Op::new(*code, 0)));
        let mut oracle = Oracle::new();
        oracle.reset(&case);
        Story { case, oracle }
    }

    fn see(&mut self, obs: Observation) -> Result<(), OracleViolation> {
        self.oracle.observe(&self.case, &obs)
    }

    /// Starts an op on pages `page..page + len` of the first window.
    fn start(&mut self, code: OpCode, cpu: u8, proc: u8, page: u32, len: u32, arg: u8) -> u32 {
        let op = self.case.ops.len() as u32;
        self.case.ops.push(Op { proc, page, len, arg, ..Op::new(code, cpu) });
        self.see(Observation::Start { op }).unwrap();
        op
    }

    fn end(&mut self, op: u32, outcome: Outcome) -> Result<(), OracleViolation> {
        self.see(Observation::End { op, outcome })
    }

    /// A whole call.
    fn call(
        &mut self,
        code: OpCode,
        cpu: u8,
        page: u32,
        len: u32,
        arg: u8,
        how: Outcome,
    ) -> Result<(), OracleViolation> {
        let op = self.start(code, cpu, 0, page, len, arg);
        self.end(op, how)
    }

    fn vpn(&self, page: u32) -> u32 {
        self.case.config.geometry.region_base(0) + page
    }

    fn load_by(&mut self, op: u32, proc: u8, page: u32, by: Agent, value: Token) -> Result<(), OracleViolation> {
        let vpn = self.vpn(page);
        self.see(Observation::Load { op, proc, vpn, by, value })
    }

    fn store_by(&mut self, op: u32, proc: u8, page: u32, by: Agent, value: Token) -> Result<(), OracleViolation> {
        let vpn = self.vpn(page);
        self.see(Observation::Store { op, proc, vpn, by, value })
    }

    fn signal_by(&mut self, op: u32, page: u32, by: Agent, write: bool, signal: Signal) -> Result<(), OracleViolation> {
        let vpn = self.vpn(page);
        self.see(Observation::Signal { op, proc: 0, vpn, by, write, signal })
    }

    /// A whole read of one page.
    fn load(&mut self, cpu: u8, proc: u8, page: u32, value: Token) -> Result<(), OracleViolation> {
        let op = self.start(OpCode::Read, cpu, proc, page, 1, 0);
        self.load_by(op, proc, page, Agent::Cpu(cpu), value)?;
        self.end(op, Outcome::Done)
    }

    /// A whole write of one page.
    fn store(&mut self, cpu: u8, proc: u8, page: u32, value: Token) -> Result<(), OracleViolation> {
        let op = self.start(OpCode::Write, cpu, proc, page, 1, 0);
        self.store_by(op, proc, page, Agent::Cpu(cpu), value)?;
        self.end(op, Outcome::Done)
    }

    /// A whole access to one page that ends in a signal.
    fn fault(&mut self, cpu: u8, page: u32, write: bool, signal: Signal) -> Result<(), OracleViolation> {
        let op = self.start(if write { OpCode::Write } else { OpCode::Read }, cpu, 0, page, 1, 0);
        self.signal_by(op, page, Agent::Cpu(cpu), write, signal)?;
        self.end(op, Outcome::Signal)
    }

    /// A whole look at the soft-dirty bit of one page.
    fn soft_dirty(&mut self, proc: u8, page: u32, dirty: bool) -> Result<(), OracleViolation> {
        let op = self.start(OpCode::Pagemap, 0, proc, page, 1, 0);
        let vpn = self.vpn(page);
        self.see(Observation::SoftDirty { op, proc, vpn, dirty })?;
        self.end(op, Outcome::Done)
    }
}

/// The rule that a result broke.
fn rule(result: Result<(), OracleViolation>) -> Option<Rule> {
    result.err().map(|v| v.rule)
}

#[test]
fn the_oracle_imports_nothing_that_it_judges() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oracle");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources: Vec<String> = files.filter(|f| f.is_file()).map(|f| std::fs::read_to_string(f).unwrap()).collect();
    assert!(sources.len() > 20, "only {} files", sources.len());
    let allowed = ["program", "observe", "config", "rule"];
    for source in sources {
        for path in source.split("crate::").skip(1) {
            let module: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(allowed.contains(&module.as_str()), "crate::{module}");
        }
        assert!(!source.contains("super::super"), "a path that leaves the oracle");
    }
}

#[test]
fn a_page_of_which_all_is_known_takes_little_room() {
    assert_eq!(size_of::<super::page::Page>(), 28);
}
