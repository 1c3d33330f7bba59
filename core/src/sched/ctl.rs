//! Control state of a run: who runs, who waits, what interrupts, and what went wrong.

use super::held::Held;
use super::{Interrupt, Lock, Site};
use crate::config::MAX_CPUS;
use crate::entry::EntryKind;
use crate::mm::{PmdPtr, PtePtr};
use crate::rule::Violation;

/// An op that a CPU has been told to do: its index in the case.
pub type Assignment = u32;

/// What a CPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Run {
    /// Between two ops.
    #[default]
    Idle,
    /// In the middle of an op, and able to go on.
    Ready,
    /// In the middle of an op, waiting for a lock.
    Waiting(Lock),
    /// In the middle of an op, waiting for a swap slot that somebody reads past the swap cache.
    WaitingForSlot(u32),
    /// In the middle of an op, waiting for interval notifiers of this address space to end.
    WaitingForNotifier(u8),
    /// In the middle of an op, waiting in `handle_userfault()`.
    Userfault,
}

/// Control state of one CPU.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct CpuCtl {
    /// What it is doing.
    pub run: Run,
    /// The op it has been told to begin.
    pub assigned: Option<Assignment>,
    /// The op it is in.
    pub op: Option<u32>,
    /// Opcode of that op, for coverage and device ops at an interruption.
    pub code: u8,
    /// The last site it came to.
    pub site: Option<Site>,
    /// Locks held.
    pub held: Held,
    /// Invalidations begun and not ended by the current op.
    pub notifiers_open: u8,
    /// The entry this CPU cleared last under the page-table lock it holds, and what it held: a later set of the
    /// same entry is judged as one transition.
    pub cleared: Option<(PtePtr, EntryKind)>,
    /// The PMD made invalid last, and `PageAnonExclusive` of its page then, for the trace.
    pub invalidated: Option<(PmdPtr, bool)>,
    /// Steps since the op began.
    pub op_steps: u32,
    /// Interrupts are off: a walk over page tables without locks is under way.
    pub irqs_off: bool,
    /// `VM_FAULT_WRITE` of the last fault: it has broken copy-on-write.
    pub fault_write: bool,
    /// `PF_MEMALLOC_PIN`: what is allocated must not be in `ZONE_MOVABLE`.
    pub memalloc_pin: bool,
    /// In lazy MMU mode (`arch_enter_lazy_mmu_mode()`).
    pub lazy_mmu: bool,
    /// Steps the op may take.
    pub budget: u32,
    /// It waits for a userfault, nobody else is left, and it is asked to play the monitor.
    pub monitor: bool,
}

/// Pages whose entries now grant less than before, so that a cached translation could grant too much.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Weakened {
    /// Who changed the entry.
    pub cpu: u8,
    /// Address space.
    pub mm: u8,
    /// Virtual page number.
    pub vpn: u32,
}

/// Control state of a run.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ctl {
    /// Sites passed so far, by all CPUs.
    pub step: u32,
    /// The first broken rule. Once it is set, nobody goes on.
    pub violation: Option<Violation>,
    /// Each CPU.
    pub cpus: [CpuCtl; MAX_CPUS],
    /// Set by an interruption: who goes on.
    pub switch_to: Option<u8>,
    /// Interruptions of the case that have not happened yet.
    pub interrupts: Vec<Interrupt>,
    /// How often each `(cpu, site)` with an interruption was passed.
    pub hits: Vec<(u8, Site, u32)>,
    /// Bit *n* set: some interruption names the site with index *n*.
    armed: [u64; 2],
    /// Interruptions that have happened.
    pub interrupted: u32,
    /// Somebody may be waiting for a lock.
    pub waiters: bool,
    /// PMD and PTE-table locks held by anybody.
    pub pte_locks: u32,
    /// Folios to look at when no PTE-table lock is held any more.
    pub touched_ptl: Vec<u32>,
    /// Folios to look at when nothing is in flight.
    pub touched_folios: Vec<u32>,
    /// Swap slots to look at when nothing is in flight.
    pub touched_slots: Vec<u32>,
    /// Translations to look at when the op that weakened an entry returns.
    pub weakened: Vec<Weakened>,
    /// Stores so far; the next token is one more.
    pub stores: u32,
}

const _: () = assert!(Site::ALL.len() <= 128, "Ctl::armed has one bit for each site");

impl Ctl {
    /// Forgets the last run, keeping allocations.
    pub fn reset(&mut self, interrupts: &[Interrupt]) {
        self.step = 0;
        self.violation = None;
        self.cpus = Default::default();
        self.switch_to = None;
        self.interrupts.clear();
        self.interrupts.extend_from_slice(interrupts);
        self.hits.clear();
        self.armed = [0; 2];
        interrupts.iter().for_each(|i| self.armed[i.site as usize / 64] |= 1 << (i.site as u8 % 64));
        self.interrupted = 0;
        self.waiters = false;
        self.pte_locks = 0;
        self.touched_ptl.clear();
        self.touched_folios.clear();
        self.touched_slots.clear();
        self.weakened.clear();
        self.stores = 0;
    }

    /// True when some interruption names this site.
    #[inline(always)]
    pub fn armed(&self, site: Site) -> bool {
        self.armed[site as usize / 64] >> (site as u8 % 64) & 1 != 0
    }

    /// True when no CPU is in an op.
    pub fn quiescent(&self) -> bool {
        self.cpus.iter().all(|c| c.op.is_none())
    }

    /// Counts a passage of an armed site and takes the interruption that waits for it, if any.
    pub fn take_interrupt(&mut self, cpu: u8, site: Site) -> Option<Interrupt> {
        let n = match self.hits.iter_mut().find(|h| h.0 == cpu && h.1 == site) {
            Some(h) => {
                h.2 += 1;
                h.2
            }
            None => {
                self.hits.push((cpu, site, 1));
                1
            }
        };
        let at = self.interrupts.iter().position(|i| i.cpu == cpu && i.site == site && u32::from(i.nth) == n)?;
        self.interrupted += 1;
        Some(self.interrupts.remove(at))
    }

    /// Stops without counting: another interruption for the same passage.
    pub fn another_interrupt(&mut self, cpu: u8, site: Site, nth: u8) -> Option<Interrupt> {
        let at = self.interrupts.iter().position(|i| i.cpu == cpu && i.site == site && i.nth == nth)?;
        self.interrupted += 1;
        Some(self.interrupts.remove(at))
    }
}
