//! A simulated CPU, as the modelled kernel sees it.

use super::ctl::Run;
use super::{Action, Sim, Site};
use crate::arch::{Arch, Pte};
use crate::config::{Config, Defect, Design};
use crate::entry::{Accessor, EntryConfig, accessor_legal};
use crate::observe::Agent;
use crate::rule::{Evidence, Rule};
use crate::trace::Note;
use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// What does not change during a case. Asking the simulation itself for it would be a borrow each time.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Machine and kernel.
    pub config: Config,
    /// Entry encoding.
    pub entries: EntryConfig,
}

impl Facts {
    /// Of a machine and kernel.
    pub fn of(config: Config) -> Facts {
        Facts { config, entries: EntryConfig::of(&config) }
    }
}

/// A handle to the simulation on behalf of one CPU. Cheap to clone.
#[derive(Clone)]
pub struct Cpu {
    sim: Rc<RefCell<Sim>>,
    facts: Rc<Cell<Facts>>,
    /// Which CPU.
    pub id: u8,
}

impl Cpu {
    /// A handle for CPU `id`. Whoever begins another case sets the facts.
    pub fn new(sim: Rc<RefCell<Sim>>, facts: Rc<Cell<Facts>>, id: u8) -> Cpu {
        Cpu { sim, facts, id }
    }

    /// The simulation. Never held across an await.
    #[inline]
    pub fn s(&self) -> RefMut<'_, Sim> {
        self.sim.borrow_mut()
    }

    /// Machine and kernel.
    #[inline]
    pub fn config(&self) -> Config {
        self.facts.get().config
    }

    /// `pmd_addr_end()`: see [`Geometry::pmd_addr_end`].
    ///
    /// [`Geometry::pmd_addr_end`]: crate::config::Geometry::pmd_addr_end
    #[inline]
    pub fn pmd_addr_end(&self, vpn: u32, end: u32) -> u32 {
        self.facts.get().config.geometry.pmd_addr_end(vpn, end)
    }

    /// Entry layout.
    #[inline]
    pub fn arch(&self) -> Arch {
        self.facts.get().config.arch
    }

    /// Entry encoding.
    #[inline]
    pub fn entries(&self) -> EntryConfig {
        self.facts.get().entries
    }

    /// True when a defect is on.
    #[inline]
    pub fn has(&self, defect: Defect) -> bool {
        self.facts.get().config.has(defect)
    }

    /// True when the release follows a design.
    #[inline]
    pub fn uses(&self, design: Design) -> bool {
        self.facts.get().config.uses(design)
    }

    /// Records that a rule is broken.
    #[cold]
    pub fn violate(&self, rule: Rule, evidence: Evidence) {
        self.s().violate(self.id, rule, evidence);
    }

    /// An assertion of the modelled kernel.
    #[inline]
    pub fn bug_on(&self, broken: bool, rule: Rule, evidence: Evidence) {
        if broken {
            self.violate(rule, evidence);
        }
    }

    /// Adds a note to the trace.
    #[inline]
    pub fn note(&self, note: Note, pfn: Option<u32>, a: u32, b: u32) {
        self.s().note(self.id, note, pfn, a, b);
    }

    /// Index of the op that this CPU is in.
    pub fn op(&self) -> u32 {
        self.sim.borrow().ctl.cpus[self.id as usize].op.unwrap_or(0)
    }

    /// Notices a path that reads an entry with an accessor of another kind. The model goes on with whatever
    /// bits the real accessor would have read.
    #[inline]
    pub fn accessor(&self, accessor: Accessor, pte: Pte) {
        let kind = self.entries().kind(pte);
        if !accessor_legal(kind, accessor) {
            let e = Evidence { what: Some(accessor.name()), on: Some(kind.name()), ..Evidence::default() };
            self.violate(Rule::Accessor, e);
        }
    }

    /// A place where somebody else may act. Yields before the caller does what comes next.
    #[inline(always)]
    pub fn site(&self, site: Site) -> Passing<'_> {
        let progress = if self.pass_at_once(site) { Progress::Passed } else { Progress::Before };
        Passing { cpu: self, site, progress }
    }

    /// Passes a site if nothing happens there. False when something may: nothing has then.
    #[inline(never)]
    fn pass_at_once(&self, site: Site) -> bool {
        let s = &mut *self.s();
        let free = s.passes_at_once(self.id, site);
        if free {
            s.passed(self.id, site);
        }
        free
    }

    /// Waits for the next op to do; the last one, if any, is over.
    pub async fn next_op(&self) -> u32 {
        poll_fn(|_| {
            let c = &mut self.s().ctl.cpus[self.id as usize];
            match c.assigned.take() {
                Some(op) => {
                    c.op = Some(op);
                    c.run = Run::Ready;
                    Poll::Ready(op)
                }
                None => {
                    c.run = Run::Idle;
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// How far a CPU is with passing a site.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Past it.
    Passed,
    /// Not there yet.
    Before,
    /// Stopped there; goes on when it is polled again.
    Stopped,
}

/// A CPU on its way past a [`Site`]: ready at once unless the case interrupts it there.
#[must_use = "a site is passed by awaiting it"]
pub struct Passing<'a> {
    cpu: &'a Cpu,
    site: Site,
    progress: Progress,
}

impl Future for Passing<'_> {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.progress == Progress::Passed { Poll::Ready(()) } else { self.get_mut().stop() }
    }
}

impl Passing<'_> {
    /// Not passed at once: the case may have something happen there.
    #[inline(never)]
    fn stop(&mut self) -> Poll<()> {
        let s = &mut *self.cpu.s();
        let stopped = self.progress == Progress::Stopped;
        if s.ctl.violation.is_none() && (stopped || s.pass(self.cpu.id, self.site)) {
            return Poll::Ready(());
        }
        self.progress = Progress::Stopped;
        Poll::Pending
    }
}

impl Sim {
    /// Passes a site. False when the CPU has to stop there for now.
    pub(super) fn pass(&mut self, cpu: u8, site: Site) -> bool {
        self.passed(cpu, site);
        let c = &self.ctl.cpus[cpu as usize];
        if c.op_steps > c.budget {
            return self.out_of_steps(cpu);
        }
        !self.ctl.armed(site) || self.interrupted_at(cpu, site)
    }

    /// True of a site at which nothing can happen this time.
    #[inline(always)]
    pub(super) fn passes_at_once(&self, cpu: u8, site: Site) -> bool {
        let c = &self.ctl.cpus[cpu as usize];
        !self.ctl.armed(site) && c.op_steps < c.budget && self.ctl.violation.is_none()
    }

    /// Counts a site that is being passed.
    #[inline(always)]
    pub(super) fn passed(&mut self, cpu: u8, site: Site) {
        self.ctl.step += 1;
        let c = &mut self.ctl.cpus[cpu as usize];
        c.site = Some(site);
        c.op_steps += 1;
    }

    #[cold]
    fn out_of_steps(&mut self, cpu: u8) -> bool {
        let found = Some(u64::from(self.ctl.cpus[cpu as usize].op_steps));
        self.violate(cpu, Rule::ProgressSteps, Evidence { found, ..Evidence::default() });
        false
    }

    #[cold]
    fn interrupted_at(&mut self, cpu: u8, site: Site) -> bool {
        let mut next = self.ctl.take_interrupt(cpu, site);
        while let Some(i) = next {
            let code = self.ctl.cpus[cpu as usize].code;
            self.cover(7 << 60 | u64::from(code) << 16 | u64::from(site as u8) << 8 | action_kind(i.action));
            match i.action {
                Action::Switch { cpu: to } => {
                    self.ctl.switch_to = Some(to);
                }
                Action::TlbFill { cpu: who, region, page } => {
                    let vpn = self.w.geometry().region_base(region) + page;
                    self.tlb_speculate(who, vpn);
                }
                Action::TlbEvict { cpu: who, region, page } => {
                    let vpn = self.w.geometry().region_base(region) + page;
                    self.tlb_evict(who, vpn);
                }
                Action::Device { device, proc, region, page, write } => {
                    let vpn = self.w.geometry().region_base(region) + page;
                    let op = self.ctl.cpus[cpu as usize].op.unwrap_or(0);
                    self.device_access(op, device, proc, vpn, write);
                }
            }
            next = self.ctl.another_interrupt(cpu, site, i.nth);
        }
        self.ctl.violation.is_none() && self.ctl.switch_to.is_none()
    }

    /// A device uses its own table. False when it has no translation that permits the access.
    pub fn device_access(&mut self, op: u32, device: u8, proc: u8, vpn: u32, write: bool) -> bool {
        let offset = self.w.mirror_offset(vpn);
        let Some(mut m) = self.w.mirrors[device as usize][proc as usize].lookup(offset) else { return false };
        if write && !m.write {
            return false;
        }
        let by = Agent::Device(device);
        let value = self.retire(by, proc, vpn, m.pfn, write);
        if write && !m.written {
            m.written = true;
            self.w.mirrors[device as usize][proc as usize].store(offset, Some(m));
        }
        self.observe_access(op, by, proc, vpn, write, value);
        true
    }
}

fn action_kind(action: Action) -> u64 {
    match action {
        Action::Switch { .. } => 0,
        Action::TlbFill { .. } => 1,
        Action::TlbEvict { .. } => 2,
        Action::Device { write: false, .. } => 3,
        Action::Device { write: true, .. } => 4,
    }
}
