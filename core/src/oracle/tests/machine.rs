//! A small correct machine, run with random programs and random schedules: it must never be blamed.
//!
//! Calls take effect page by page at random moments, accesses retire at one, and a CPU may go on using a
//! translation that a call has taken away until that call returns, as a TLB does before its flush. It knows nothing of
//! userfaultfd.

use super::*;
use crate::config::{MAX_CPUS, MAX_PROCS};
use crate::program::Actor;
use crate::program::family::Family;

const PAGES: usize = 6;
const HISTORIES: u64 = 20_000;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A page: its protection, its cell, its soft-dirty bit and that of its mapping; whether it is a guard page, and whether
/// it may be dropped.
#[derive(Clone, Copy)]
struct Pte {
    perm: Perm,
    cell: usize,
    dirty: bool,
    new: bool,
    guard: bool,
    lazy: bool,
}

impl Pte {
    fn new(perm: Perm, cell: usize) -> Pte {
        Pte { perm, cell, dirty: false, new: true, guard: false, lazy: false }
    }

    fn allows(&self, write: bool) -> bool {
        self.perm == Perm::ReadWrite || (!write && self.perm == Perm::Read)
    }

    fn permits(&self, write: bool) -> bool {
        self.allows(write) && !self.guard
    }
}

#[derive(Clone, Default)]
struct Process {
    named: bool,
    live: bool,
    exiting: bool,
    pages: [Option<Pte>; PAGES],
}

/// Calls that this machine does not know.
fn unknown(code: OpCode) -> bool {
    matches!(code.family(), Family::Uffd | Family::Mlock) || matches!(code, OpCode::MemRead | OpCode::MemWrite)
}

/// An op on its way: the pages that it has still to do.
struct Running {
    op: u32,
    skip: bool,
    todo: Vec<usize>,
    outcome: Outcome,
    child: [Option<Pte>; PAGES],
}

struct Machine {
    rng: Rng,
    case: Case,
    procs: [Process; MAX_PROCS],
    cells: Vec<Token>,
    /// Translations that CPUs may still use: CPU, process, page, entry.
    stale: Vec<(usize, usize, usize, Pte)>,
    running: [Option<Running>; MAX_CPUS],
    tokens: Token,
    seen: Vec<Observation>,
}

impl Machine {
    fn new(seed: u64, cpus: u8) -> Machine {
        let mut case = Case { config: Config { cpus, ..Config::fixed(Kernel::NEWEST) }, ..Case::empty() };
        case.maps.push(Map {
            proc: 0,
            region: 0,
            pages: 4,
            perm: Perm::ReadWrite,
            backing: crate::observe::Backing::Anon,
        });
        let mut machine = Machine {
            rng: Rng(seed),
            case,
            procs: Default::default(),
            cells: Vec::new(),
            stale: Vec::new(),
            running: Default::default(),
            tokens: 0,
            seen: Vec::new(),
        };
        for page in 0..4 {
            let cell = machine.cell(0);
            machine.procs[0].pages[page] = Some(Pte::new(Perm::ReadWrite, cell));
        }
        (machine.procs[0].live, machine.procs[0].named) = (true, true);
        machine
    }

    fn cell(&mut self, value: Token) -> usize {
        self.cells.push(value);
        self.cells.len() - 1
    }

    fn vpn(&self, page: usize) -> u32 {
        self.case.config.geometry.region_base(0) + page as u32
    }

    fn op(&self, cpu: usize) -> Op {
        self.case.ops[self.running[cpu].as_ref().unwrap().op as usize]
    }

    /// Starts a random op on an idle CPU.
    fn start(&mut self, cpu: usize) {
        let codes: Vec<OpCode> =
            OpCode::ALL.into_iter().filter(|c| c.actor() != Actor::Kernel && !unknown(*c)).collect();
        let code = codes[self.rng.below(codes.len())];
        let code = if self.rng.below(3) == 0 { [OpCode::Read, OpCode::Write][self.rng.below(2)] } else { code };
        let code = if self.rng.below(8) == 0 { OpCode::Fork } else { code };
        let code = if code == OpCode::Exit && self.rng.below(4) != 0 { OpCode::Read } else { code };
        let page = if code == OpCode::Mmap { 0 } else { self.rng.below(PAGES) };
        let live: Vec<usize> = (0..3).filter(|&p| self.procs[p].live).collect();
        let proc = if live.is_empty() { 0 } else { live[self.rng.below(live.len())] };
        let mut op =
            Op { proc: proc as u8, page: page as u32, arg: self.rng.below(3) as u8, ..Op::new(code, cpu as u8) };
        op.len = 1 + self.rng.below(PAGES - page) as u32;
        let moves = matches!(code, OpCode::Mremap | OpCode::MremapDontunmap);
        let to = self.rng.below(PAGES + 1 - op.len as usize);
        if moves {
            op.arg = Op::arg_to(0, to as u32);
        }
        let first = page;
        let end = if code.shape() == crate::program::Shape::Page { first + 1 } else { first + op.len as usize };
        let index = self.case.ops.len() as u32;
        self.case.ops.push(op);
        self.seen.push(Observation::Start { op: index });
        let mut todo: Vec<usize> = match code {
            OpCode::Fork | OpCode::ClearRefs => (0..PAGES).collect(),
            _ => (first..end).collect(),
        };
        if matches!(code, OpCode::Munmap | OpCode::Mmap | OpCode::Dontneed | OpCode::Fork | OpCode::ClearRefs)
            || matches!(code, OpCode::Free | OpCode::GuardInstall | OpCode::GuardRemove)
        {
            for i in (1..todo.len()).rev() {
                todo.swap(i, self.rng.below(i + 1));
            }
        }
        let mut skip = !self.procs[proc].live || self.procs[proc].exiting;
        let child = usize::from(op.arg);
        if code == OpCode::Fork && !skip {
            skip = self.procs[child].named;
            self.procs[child].named = true;
        }
        if code == OpCode::Exit && !skip {
            self.procs[proc].exiting = true;
        }
        let mut outcome = if code == OpCode::Exclusive { Outcome::Fault } else { Outcome::Done };
        if moves && !skip {
            let overlap = first < to + op.len as usize && to < end;
            let hole = (first..end).any(|p| self.procs[proc].pages[p].is_none());
            if overlap || hole {
                outcome = if overlap { Outcome::Invalid } else { Outcome::Fault };
                todo.clear();
            }
        }
        self.running[cpu] = Some(Running { op: index, skip, todo, outcome, child: Default::default() });
    }

    /// One step of the op on `cpu`.
    fn step(&mut self, cpu: usize) {
        let op = self.op(cpu);
        let running = self.running[cpu].as_mut().unwrap();
        if running.skip {
            running.todo.clear();
            running.outcome = Outcome::Skipped;
        }
        if running.todo.is_empty() {
            return self.end(cpu, op);
        }
        let page = running.todo.remove(0);
        match op.code {
            OpCode::Read | OpCode::Write | OpCode::DevRead | OpCode::DevWrite => self.access(cpu, op, page),
            OpCode::Mmap | OpCode::Munmap | OpCode::Dontneed | OpCode::Mprotect => self.change(cpu, op, page),
            OpCode::Free | OpCode::GuardInstall | OpCode::GuardRemove => self.change(cpu, op, page),
            OpCode::Mremap | OpCode::MremapDontunmap => self.shift(op, page),
            OpCode::PopulateRead | OpCode::PopulateWrite => self.populate(cpu, op, page),
            OpCode::Pin | OpCode::PinFast | OpCode::PinRead | OpCode::PinLongterm => {
                let write = op.code != OpCode::PinRead;
                let right = self.procs[usize::from(op.proc)].pages[page].is_some_and(|p| p.permits(write));
                self.running[cpu].as_mut().unwrap().outcome = if right { Outcome::Done } else { Outcome::Fault };
            }
            OpCode::Exclusive if self.procs[usize::from(op.proc)].pages[page].is_some_and(|p| p.permits(true)) => {
                self.running[cpu].as_mut().unwrap().outcome = Outcome::Done;
            }
            OpCode::Remove => {
                // Here is nothing but anonymous memory.
                let mapped = self.procs[usize::from(op.proc)].pages[page].is_some();
                let outcome = &mut self.running[cpu].as_mut().unwrap().outcome;
                *outcome = if mapped || *outcome == Outcome::Invalid { Outcome::Invalid } else { Outcome::NoMem };
            }
            OpCode::Pageout
            | OpCode::Mergeable
            | OpCode::Unmergeable
            | OpCode::Hugepage
            | OpCode::Nohugepage
            | OpCode::Cold
            | OpCode::WillNeed
            | OpCode::Msync
            | OpCode::Mincore
                if self.procs[usize::from(op.proc)].pages[page].is_none() =>
            {
                self.running[cpu].as_mut().unwrap().outcome = Outcome::NoMem;
            }
            OpCode::Fork => {
                let copy = self.procs[usize::from(op.proc)].pages[page];
                let copy = copy.map(|p| Pte { cell: self.cell(self.cells[p.cell]), ..p });
                self.running[cpu].as_mut().unwrap().child[page] = copy;
            }
            OpCode::ClearRefs => {
                if let Some(pte) = &mut self.procs[usize::from(op.proc)].pages[page] {
                    (pte.dirty, pte.new) = (false, false);
                }
            }
            OpCode::Pagemap => {
                let dirty = self.procs[usize::from(op.proc)].pages[page].is_some_and(|p| p.dirty || p.new);
                let index = self.running[cpu].as_ref().unwrap().op;
                let vpn = self.vpn(page);
                self.seen.push(Observation::SoftDirty { op: index, proc: op.proc, vpn, dirty });
            }
            _ => {}
        }
    }

    fn access(&mut self, cpu: usize, cmd: Op, page: usize) {
        let (op, proc, vpn) = (self.running[cpu].as_ref().unwrap().op, cmd.proc, self.vpn(page));
        let write = matches!(cmd.code, OpCode::Write | OpCode::DevWrite);
        let device = matches!(cmd.code, OpCode::DevRead | OpCode::DevWrite);
        let by = if device { Agent::Device(cmd.device()) } else { Agent::Cpu(cpu as u8) };
        let permits = |p: &Pte| p.permits(write);
        let at = usize::from(proc);
        let old = self.stale.iter().find(|(c, p, v, e)| *c == cpu && *p == at && *v == page && permits(e));
        let old = old.filter(|_| !device).map(|(_, _, _, e)| *e);
        self.drop_lazily(at, page);
        let pte = old.or(self.procs[at].pages[page]);
        match pte {
            Some(pte) if permits(&pte) => {
                if write {
                    self.tokens += 1;
                    self.cells[pte.cell] = self.tokens;
                    if let Some(p) = &mut self.procs[at].pages[page] {
                        p.dirty = true;
                        p.lazy &= old.is_some_and(|o| !o.lazy);
                    }
                    self.seen.push(Observation::Store { op, proc, vpn, by, value: self.tokens });
                } else {
                    self.seen.push(Observation::Load { op, proc, vpn, by, value: self.cells[pte.cell] });
                }
            }
            pte => {
                let forbidden = pte.is_some_and(|p| !p.allows(write));
                let signal = if forbidden { Signal::SegvAccErr } else { Signal::SegvMapErr };
                self.seen.push(Observation::Signal { op, proc, vpn, by, write, signal });
                let running = self.running[cpu].as_mut().unwrap();
                running.todo.clear();
                running.outcome = if device { Outcome::Fault } else { Outcome::Signal };
            }
        }
    }

    fn change(&mut self, cpu: usize, op: Op, page: usize) {
        let proc = usize::from(op.proc);
        let old = self.procs[proc].pages[page];
        let cell = self.cell(0);
        let new = match (op.code, old) {
            (OpCode::Mmap, _) => Some(Pte::new(op.perm(), cell)),
            (OpCode::Dontneed, Some(p)) => Some(Pte { cell, dirty: false, lazy: false, ..p }),
            (OpCode::Free, Some(p)) => Some(Pte { dirty: false, lazy: true, ..p }),
            (OpCode::GuardInstall, Some(p)) => {
                let halfway = self.rng.below(3) == 0;
                if halfway {
                    self.running[cpu].as_mut().unwrap().todo.push(page);
                }
                Some(Pte { cell, dirty: false, lazy: false, guard: p.guard || !halfway, ..p })
            }
            (OpCode::GuardRemove, Some(p)) => Some(Pte { guard: false, ..p }),
            (OpCode::Mprotect, Some(p)) => Some(Pte { perm: op.perm(), ..p }),
            (OpCode::Munmap, _) => None,
            _ => {
                let running = self.running[cpu].as_mut().unwrap();
                running.outcome = Outcome::NoMem;
                if op.code == OpCode::Mprotect {
                    running.todo.clear();
                }
                None
            }
        };
        self.procs[proc].pages[page] = new;
        for other in 0..MAX_CPUS {
            if let Some(old) = old
                && self.rng.below(2) == 0
            {
                self.stale.push((other, proc, page, old));
            }
        }
    }

    /// Moves a page: its cell is at the new address, and can still be reached at the old one.
    fn shift(&mut self, op: Op, page: usize) {
        let proc = usize::from(op.proc);
        let to = op.to().1 as usize + page - op.page as usize;
        let cell = self.cell(0);
        let (moved, gone) = (self.procs[proc].pages[page], self.procs[proc].pages[to]);
        let empty = moved.map(|p| Pte { cell, dirty: false, guard: false, lazy: false, ..p });
        self.procs[proc].pages[to] = moved;
        self.procs[proc].pages[page] = empty.filter(|_| op.code == OpCode::MremapDontunmap);
        for other in 0..MAX_CPUS {
            for (page, old) in [(page, moved), (to, gone)] {
                if let Some(old) = old.filter(|_| self.rng.below(2) == 0) {
                    self.stale.push((other, proc, page, old));
                }
            }
        }
    }

    /// Faults a page in, or ends the call.
    fn populate(&mut self, cpu: usize, op: Op, page: usize) {
        let write = op.code == OpCode::PopulateWrite;
        let outcome = match self.procs[usize::from(op.proc)].pages[page] {
            None => Outcome::NoMem,
            Some(p) if p.permits(write) => return,
            Some(p) if p.allows(write) => Outcome::Fault,
            Some(_) => Outcome::Invalid,
        };
        let running = self.running[cpu].as_mut().unwrap();
        running.todo.clear();
        running.outcome = outcome;
    }

    /// A page that may be dropped is, now and then.
    fn drop_lazily(&mut self, proc: usize, page: usize) {
        let drops = self.rng.below(3) == 0;
        if let Some(pte) = self.procs[proc].pages[page].as_mut().filter(|p| p.lazy && drops) {
            pte.lazy = false;
            self.cells[pte.cell] = 0;
        }
    }

    fn end(&mut self, cpu: usize, op: Op) {
        let running = self.running[cpu].take().unwrap();
        let proc = usize::from(op.proc);
        if op.code == OpCode::Fork && !running.skip {
            let child = &mut self.procs[usize::from(op.arg)];
            (child.live, child.exiting, child.pages) = (true, false, running.child);
        }
        let range = op.page as usize..(op.page + op.len) as usize;
        let target =
            if matches!(op.code, OpCode::Mremap | OpCode::MremapDontunmap) { op.to().1 } else { op.page } as usize;
        let target = target..target + op.len as usize;
        self.stale.retain(|(_, p, page, _)| *p != proc || !range.contains(page) && !target.contains(page));
        self.seen.push(Observation::End { op: running.op, outcome: running.outcome });
        for proc in 0..MAX_PROCS {
            let busy = (0..MAX_CPUS)
                .any(|c| self.running[c].as_ref().is_some_and(|r| !r.skip) && usize::from(self.op(c).proc) == proc);
            if self.procs[proc].exiting && !busy {
                self.procs[proc] = Process::default();
                self.seen.push(Observation::Gone { proc: proc as u8 });
            }
        }
    }

    /// Runs `ops` ops to their ends.
    fn run(&mut self, ops: usize) {
        let cpus = usize::from(self.case.config.cpus);
        while self.case.ops.len() < ops || self.running.iter().any(Option::is_some) {
            let cpu = self.rng.below(cpus);
            if self.running[cpu].is_some() {
                self.step(cpu);
            } else if self.case.ops.len() < ops {
                self.start(cpu);
            }
        }
    }

    /// What was seen up to observation `at`, one a line.
    fn told(&self, at: usize) -> String {
        let line = |o: &Observation| match o {
            Observation::Start { op } => format!("Start {op} {:?}\n", self.case.ops[*op as usize]),
            other => format!("{other:?}\n"),
        };
        self.seen[..=at].iter().map(line).collect()
    }

    fn judge(&self, oracle: &mut Oracle) -> Result<(), (usize, OracleViolation)> {
        oracle.reset(&self.case);
        self.seen.iter().enumerate().try_for_each(|(i, o)| oracle.observe(&self.case, o).map_err(|v| (i, v)))
    }
}

#[test]
fn a_correct_machine_is_never_blamed_however_its_calls_overlap() {
    let mut oracle = Oracle::new();
    for seed in 0..HISTORIES {
        let mut machine = Machine::new(seed, 2 + (seed % 3) as u8);
        machine.run(24);
        if let Err((at, violation)) = machine.judge(&mut oracle) {
            panic!("seed {seed}: {violation:?} at {at}\n{}", machine.told(at));
        }
    }
}

#[test]
fn a_changed_load_of_a_machine_with_one_cpu_is_always_caught() {
    let mut oracle = Oracle::new();
    let mut changed = 0;
    for seed in 0..HISTORIES {
        let mut machine = Machine::new(seed, 1);
        machine.run(16);
        assert_eq!(machine.judge(&mut oracle), Ok(()), "seed {seed}");
        let loads: Vec<usize> =
            (0..machine.seen.len()).filter(|&i| matches!(machine.seen[i], Observation::Load { .. })).collect();
        if loads.is_empty() {
            continue;
        }
        let at = loads[machine.rng.below(loads.len())];
        // Where a page may be dropped, its last value and zero are both right.
        let freed = machine.case.ops.iter().any(|op| op.code == OpCode::Free);
        let wrong = machine.rng.below(1 + machine.tokens as usize) as Token;
        let wrong = 1 + if freed { machine.tokens } else { wrong };
        if let Observation::Load { value, .. } = &mut machine.seen[at] {
            *value = if *value == wrong { 0 } else { wrong };
        }
        let found = machine.judge(&mut oracle).map_err(|(i, v)| (i, v.rule));
        assert_eq!(found, Err((at, Rule::OracleValue)), "seed {seed}\n{}", machine.told(at));
        changed += 1;
    }
    assert!(changed > HISTORIES / 2, "{changed}");
}

#[test]
fn a_dropped_store_or_an_access_turned_into_a_fault_is_caught_on_one_cpu() {
    let mut oracle = Oracle::new();
    for seed in 0..HISTORIES / 10 {
        let mut machine = Machine::new(seed, 1);
        machine.run(16);
        let done = |op| machine.seen.contains(&Observation::End { op, outcome: Outcome::Done });
        let whole = |o: &Observation| matches!(o, Observation::Store { op, .. } if done(*op));
        let Some(at) = machine.seen.iter().position(whole) else { continue };
        let store = machine.seen.remove(at);
        assert!(machine.judge(&mut oracle).is_err(), "seed {seed}: dropped");
        if let Observation::Store { op, proc, vpn, by, .. } = store {
            let fault = Observation::Signal { op, proc, vpn, by, write: true, signal: Signal::SegvAccErr };
            machine.seen.insert(at, fault);
            let code = |op: &u32| machine.case.ops[*op as usize].code;
            // A failed move may have unmapped its target.
            let exiting = machine.seen[..at].iter().any(|o| match o {
                Observation::Start { op } => matches!(code(op), OpCode::Exit | OpCode::ExitThread),
                Observation::End { op, outcome: Outcome::Fault } => {
                    matches!(code(op), OpCode::Mremap | OpCode::MremapDontunmap)
                }
                _ => false,
            });
            let found = machine.judge(&mut oracle);
            assert!(found.is_err() || (exiting && matches!(by, Agent::Device(_))), "seed {seed}: {found:?}");
        }
    }
}
