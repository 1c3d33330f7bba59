//! The executor: one task for each simulated CPU, a waker that does nothing, and a fixed rule for who goes on.

use super::dispatch::{budget, run_op};
use super::verdict::Verdict;
use crate::config::{Config, MAX_CPUS, MAX_PROCS};
use crate::invariant;
use crate::mm::{Life, NewVma};
use crate::observe::{FILES, FileId, Observation, REMAPPED};
use crate::ops::driver::map_from_start;
use crate::ops::huge_zero::shrink_huge_zero_page;
use crate::ops::hugetlb::hugetlb_reserve_pages;
use crate::ops::process::{exit_mmap, mm_alloc};
use crate::ops::swap_cache::folio_free_swap;
use crate::ops::truncate::evict_inode;
use crate::oracle::Oracle;
use crate::program::family::Family;
use crate::program::{Case, Op};
use crate::rule::{Evidence, Rule, Violation};
use crate::sched::{Cpu, Facts, Lock, Run, Sim, Site};
use crate::trace::{Event, Trace};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU8;
use std::task::{Context, Poll, Waker};

/// Index that stands for "take down what is left" instead of an op of the case.
const TEARDOWN: u32 = u32::MAX;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A turn of a CPU in which something was observed, and how things stood when it was over.
struct Turn {
    /// Observations that had been made by then.
    observations: usize,
    /// The op it was in.
    op: Option<u32>,
    /// The last site it had come to.
    site: Option<Site>,
    /// Sites passed by then, by all CPUs.
    step: u32,
}

/// A machine that runs cases, one after the other.
pub struct Machine {
    sim: Rc<RefCell<Sim>>,
    facts: Rc<Cell<Facts>>,
    ops: Rc<RefCell<Vec<Op>>>,
    tasks: Vec<Task>,
    oracle: Oracle,
    // Turns that the oracle has not been told of yet.
    turns: Vec<Turn>,
    // For each CPU the ops it has still to do, last first.
    queues: [Vec<u32>; MAX_CPUS],
    // CPUs that have something to do at all.
    cpus: usize,
    steps: u32,
    // What was observed, when somebody wants to know.
    recorded: Option<Vec<Observation>>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine::new()
    }
}

impl Machine {
    /// A machine that has run nothing yet.
    pub fn new() -> Machine {
        let config = Config::fixed(crate::config::Kernel::NEWEST);
        let sim = Rc::new(RefCell::new(Sim::new(config)));
        let facts = Rc::new(Cell::new(Facts::of(config)));
        let ops = Rc::new(RefCell::new(Vec::new()));
        let tasks = tasks(&sim, &facts, &ops);
        Machine {
            sim,
            facts,
            ops,
            tasks,
            oracle: Oracle::new(),
            turns: Vec::new(),
            queues: Default::default(),
            cpus: 1,
            steps: 0,
            recorded: None,
        }
    }

    /// State counters of a fuzzing engine; the length must be a power of two.
    pub fn set_coverage(&mut self, map: Option<&'static [AtomicU8]>) {
        debug_assert!(map.is_none_or(|m| m.len().is_power_of_two()));
        self.sim.borrow_mut().coverage = map;
    }

    /// Sites passed in the last run.
    pub fn steps(&self) -> u64 {
        u64::from(self.steps)
    }

    /// Runs a normalised case.
    pub fn run(&mut self, case: &Case) -> Verdict {
        self.prepare(case);
        self.execute(case);
        let sim = self.sim.clone();
        let mut sim = sim.borrow_mut();
        self.judge(&mut sim, case);
        self.steps = sim.ctl.step;
        let verdict = sim.ctl.violation.map_or(Verdict::Clean, Verdict::Violation);
        let disturbed = verdict != Verdict::Clean;
        drop(sim);
        if disturbed {
            // Tasks may be stopped anywhere; their locals hold state of this case.
            self.tasks = tasks(&self.sim, &self.facts, &self.ops);
        }
        verdict
    }

    /// The same, with everything that user space and devices could notice. `seen` is emptied first.
    pub fn run_observed(&mut self, case: &Case, seen: &mut Vec<Observation>) -> Verdict {
        seen.clear();
        self.recorded = Some(std::mem::take(seen));
        let verdict = self.run(case);
        *seen = self.recorded.take().unwrap_or_default();
        verdict
    }

    /// The same, with the trace of what happened.
    pub fn run_traced(&mut self, case: &Case) -> (Verdict, Trace) {
        self.sim.borrow_mut().trace = Some(Trace::default());
        let verdict = self.run(case);
        let trace = self.sim.borrow_mut().trace.take().unwrap_or_default();
        (verdict, trace)
    }

    fn prepare(&mut self, case: &Case) {
        let mut ops = self.ops.borrow_mut();
        ops.clear();
        ops.extend_from_slice(&case.ops);
        self.queues.iter_mut().for_each(Vec::clear);
        self.cpus = 1;
        for (i, op) in case.ops.iter().enumerate().rev() {
            let cpu = usize::from(op.cpu) % MAX_CPUS;
            self.queues[cpu].push(i as u32);
            self.cpus = self.cpus.max(cpu + 1);
        }
        let s = &mut *self.sim.borrow_mut();
        s.w.reset(case.config);
        self.facts.set(Facts { config: case.config, entries: s.w.entries() });
        s.ctl.reset(&case.interrupts);
        s.observations.clear();
        self.turns.clear();
        self.oracle.reset(case);
        mm_alloc(s, 0, Life::Alive);
        for map in &case.maps {
            if s.w.mms[usize::from(map.proc)].life == Life::Unborn {
                mm_alloc(s, map.proc, Life::Alive);
            }
            let start = s.w.geometry().region_base(map.region);
            let (perm, backing) = (map.perm, map.backing);
            let pgoff = s.w.pgoff(backing, start);
            let (mm, end) = (map.proc, start + map.pages);
            let vma = s.w.vmas.alloc(NewVma { mm, start, end, pgoff, perm, backing, soft_dirty: true });
            s.w.i_mmap_insert(vma, None);
            let reserved = !backing.hugetlb() || hugetlb_reserve_pages(s, vma);
            debug_assert!(reserved, "a normalised case does not ask for more");
            let at = s.w.mms[usize::from(map.proc)].vmas.iter().position(|v| s.w.vmas[*v].start > start);
            let list = &mut s.w.mms[usize::from(map.proc)].vmas;
            list.insert(at.unwrap_or(list.len()), vma);
            if backing.device() == Some(REMAPPED) {
                map_from_start(s, vma);
            }
        }
    }

    fn execute(&mut self, case: &Case) {
        let mut current: Option<usize> = None;
        let mut last: Option<usize> = None;
        let sim = self.sim.clone();
        loop {
            let mut s = sim.borrow_mut();
            let Some(cpu) = self.pick(&mut s, current.take()) else {
                drop(s);
                if !self.stopped() && self.play_monitor(case) {
                    continue;
                }
                if self.stopped() || !self.start_teardown(case) {
                    break;
                }
                continue;
            };
            self.begin_op(&mut s, case, cpu);
            log_resumed(&mut s, last.replace(cpu), cpu);
            drop(s);
            self.poll(cpu);
            let s = &mut *sim.borrow_mut();
            self.after_poll(s, case, cpu);
            if s.ctl.violation.is_some() {
                break;
            }
            if let Some(to) = s.ctl.switch_to.take() {
                let site = s.ctl.cpus[cpu].site;
                s.log(|| Event::Switch { from: cpu as u8, to, site });
                current = Some(usize::from(to));
                last = current;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.sim.borrow().ctl.violation.is_some()
    }

    /// Who goes on: the CPU that was asked for, if it can; else the one in the middle of the earliest op; else the
    /// one whose next op comes first. `None` when nobody can.
    fn pick(&self, s: &mut Sim, wanted: Option<usize>) -> Option<usize> {
        let wanted = wanted.filter(|c| self.turn(s, *c).is_some());
        let chosen = wanted.or_else(|| {
            let turns = (0..self.cpus).filter_map(|c| Some((self.turn(s, c)?, c)));
            turns.min().map(|(_, c)| c)
        });
        if chosen.is_none() {
            // Who waits for a swap slot looks again after every tick, while the monitor may still wake the one that has it.
            let monitored = s.ctl.cpus.iter().any(|c| c.run == Run::Userfault);
            let tries = |run: Run| run == Run::Userfault || monitored && matches!(run, Run::WaitingForSlot(_));
            let waiting = |c: &usize| s.ctl.cpus[*c].op.is_some() && !tries(s.ctl.cpus[*c].run);
            if let Some(c) = (0..MAX_CPUS).find(waiting) {
                let what = match s.ctl.cpus[c].run {
                    Run::Waiting(lock) => lock.class().name(),
                    _ => "mmu_interval_read_begin",
                };
                s.violate(c as u8, Rule::Deadlock, Evidence { what: Some(what), ..Evidence::default() });
            }
        }
        chosen
    }

    /// Whose turn it is: the smallest number goes on first. `None` of a CPU that cannot.
    #[inline]
    fn turn(&self, s: &Sim, cpu: usize) -> Option<u64> {
        let (c, next) = (&s.ctl.cpus[cpu], self.queues[cpu].last());
        let runnable = match c.run {
            Run::Ready => true,
            Run::Idle => next.is_some() || c.assigned.is_some(),
            Run::Waiting(_) | Run::WaitingForSlot(_) | Run::WaitingForNotifier(_) | Run::Userfault => false,
        };
        let between = || 1 << 32 | u64::from(next.copied().unwrap_or(TEARDOWN));
        runnable.then(|| c.op.map_or_else(between, u64::from))
    }

    /// When everybody waits for userfaults, asks one of those threads to close the userfaultfds in the monitor's stead;
    /// but first the oracle is told who waits. False when nobody does.
    #[cold]
    fn play_monitor(&mut self, case: &Case) -> bool {
        let sim = self.sim.clone();
        let s = &mut *sim.borrow_mut();
        let Some(first) = (0..MAX_CPUS).find(|c| s.ctl.cpus[*c].run == Run::Userfault) else { return false };
        for cpu in first..MAX_CPUS {
            let (c, mms) = (&s.ctl.cpus[cpu], &s.w.mms);
            let Some(op) = c.op.filter(|_| c.run == Run::Userfault) else { continue };
            if case.ops.get(op as usize).is_some_and(|op| op.code.family() == Family::Uffd) {
                s.violate(cpu as u8, Rule::ProgressUserfault, Evidence::default());
                return true;
            }
            let waits = |mm: &usize| mms[*mm].userfaults.queue.iter().find(|w| usize::from(w.cpu) == cpu);
            let at = (0..MAX_PROCS).find_map(|mm| waits(&mm).map(|w| (mm as u8, w.vpn)));
            if let Some((proc, vpn)) = at {
                s.observe(Observation::Stuck { op, proc, vpn });
            }
        }
        self.end_turn(s, first);
        self.judge(s, case);
        let c = &mut s.ctl.cpus[first];
        (c.monitor, c.run, c.op_steps) = (true, Run::Ready, 0);
        true
    }

    fn begin_op(&mut self, s: &mut Sim, case: &Case, cpu: usize) {
        let c = &mut s.ctl.cpus[cpu];
        if c.run != Run::Idle || c.assigned.is_some() {
            return;
        }
        if let Some(index) = self.queues[cpu].pop() {
            let op = &case.ops[index as usize];
            c.assigned = Some(index);
            c.code = op.code as u8;
            c.op_steps = 0;
            c.budget = budget(op, case.config.geometry);
        }
    }

    fn poll(&mut self, cpu: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        let done = self.tasks[cpu].as_mut().poll(&mut cx);
        debug_assert!(matches!(done, Poll::Pending), "a CPU's task never ends");
    }

    /// Takes note of what was seen meanwhile, and asks the invariants when the op has ended.
    ///
    /// The oracle has the same to say now and at the end of the case. At the end it comes cheaper, as its code is not driven out
    /// of the caches by that of the next op; but whoever follows what happens is told at once.
    fn after_poll(&mut self, s: &mut Sim, case: &Case, cpu: usize) {
        if let Some(recorded) = &mut self.recorded {
            recorded.extend(s.observations.iter().map(|(_, o)| *o));
        }
        self.end_turn(s, cpu);
        if self.recorded.is_some() || s.trace.is_some() {
            self.judge(s, case);
        }
        let c = &mut s.ctl.cpus[cpu];
        if c.run == Run::Idle && c.op.take().is_some() && s.ctl.violation.is_none() {
            s.check_return(cpu as u8);
        }
    }

    /// Notes for the oracle how things stand after this turn, if anything was seen in it.
    fn end_turn(&mut self, s: &Sim, cpu: usize) {
        let observations = s.observations.len();
        if self.turns.last().map_or(0, |t| t.observations) < observations {
            let c = &s.ctl.cpus[cpu];
            let op = c.op.filter(|o| *o != TEARDOWN);
            self.turns.push(Turn { observations, op, site: c.site, step: s.ctl.step });
        }
    }

    /// Shows the oracle what was observed. Of an invariant's violation and the oracle's the earlier one counts; with the
    /// oracle's the run is over when the turn is.
    fn judge(&mut self, s: &mut Sim, case: &Case) {
        let mut first = 0;
        for turn in self.turns.drain(..) {
            for (step, o) in &s.observations[first..turn.observations] {
                if s.ctl.violation.is_some_and(|v| v.step < *step) {
                    break;
                }
                if let Err(v) = self.oracle.observe(case, o) {
                    let (op, sites) = (turn.op, [None, turn.site]);
                    s.ctl.violation = Some(Violation { rule: v.rule, op, step: *step, sites, evidence: v.evidence });
                    s.ctl.step = turn.step;
                    s.observations.clear();
                    return;
                }
            }
            first = turn.observations;
        }
        s.observations.clear();
    }

    /// When every op of the case is done: lets the processes that are left exit, one after the other, then looks
    /// for leaks. False when nothing is left to do.
    fn start_teardown(&mut self, case: &Case) -> bool {
        let s = &mut *self.sim.borrow_mut();
        let alive = s.w.mms.iter().any(|m| m.life == Life::Alive);
        let cached = s.w.files.iter().any(|f| !f.indices().is_empty());
        let promised = !s.w.hugetlb.file.is_empty();
        let swapped = s.w.swap.orphan(0).is_some();
        if !alive && !cached && !promised && !swapped && s.w.mem.huge_zero_refs != 1 {
            if let Some(f) = invariant::leaks(&s.w) {
                s.ctl.violation = Some(Violation {
                    rule: f.rule,
                    op: None,
                    step: s.ctl.step,
                    sites: [None; 2],
                    evidence: f.evidence,
                });
            }
            return false;
        }
        let c = &mut s.ctl.cpus[0];
        c.assigned = Some(TEARDOWN);
        c.op_steps = 0;
        c.budget = 20_000 + case.config.geometry.frames().saturating_mul(2_000);
        true
    }
}

/// A CPU goes on in the middle of its op because another one has ended its own or waits.
fn log_resumed(s: &mut Sim, last: Option<usize>, cpu: usize) {
    if let Some(from) = last.filter(|l| *l != cpu && s.ctl.cpus[cpu].op.is_some()) {
        let site = s.ctl.cpus[from].site;
        s.log(|| Event::Switch { from: from as u8, to: cpu as u8, site });
    }
}

fn tasks(sim: &Rc<RefCell<Sim>>, facts: &Rc<Cell<Facts>>, ops: &Rc<RefCell<Vec<Op>>>) -> Vec<Task> {
    let cpu = |id| Cpu::new(sim.clone(), facts.clone(), id);
    (0..MAX_CPUS as u8).map(|id| Box::pin(cpu_main(cpu(id), ops.clone())) as Task).collect()
}

/// What a simulated CPU does for ever.
async fn cpu_main(k: Cpu, ops: Rc<RefCell<Vec<Op>>>) {
    loop {
        let index = k.next_op().await;
        if index == TEARDOWN {
            teardown(&k).await;
        } else {
            let op = ops.borrow()[index as usize];
            run_op(&k, index, op).await;
        }
    }
}

async fn teardown(k: &Cpu) {
    let next = |k: &Cpu| {
        let s = &mut *k.s();
        let proc = (0..MAX_PROCS as u8).find(|p| s.w.mms[*p as usize].life == Life::Alive)?;
        s.w.mms[proc as usize].life = Life::Exiting;
        Some(proc)
    };
    while let Some(proc) = next(k) {
        exit_mmap(k, proc).await;
    }
    for file in 0..FILES as FileId {
        evict_inode(k, file).await;
        let size = k.i_size_read(file);
        k.s().w.files[file as usize].reset(size);
    }
    drain_swap_cache(k).await;
    shrink_huge_zero_page(k);
}

/// Folios that stayed in the swap cache because their lock was taken when their last entry went are no leak: the
/// next scan of the LRU frees them. This is that scan.
async fn drain_swap_cache(k: &Cpu) {
    let next = |k: &Cpu, start| k.s().w.swap.orphan(start);
    let mut start = 0;
    while let Some((slot, folio)) = next(k, start) {
        start = slot + 1;
        k.folio_get(folio);
        k.lock(Lock::Folio(folio)).await;
        folio_free_swap(k, folio);
        k.folio_unlock(folio);
        k.folio_put(folio);
    }
}
