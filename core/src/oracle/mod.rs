//! The oracle: what user space and devices must have seen, judged without knowing how the kernel does it.
//!
//! # Idea
//!
//! A textbook knows little of memory: a page is mapped or not, with some protection, and holds the value that
//! was stored last. That is all the oracle keeps, and [`Observation`]s are all it is told. It shares no code
//! with the model and has never heard of an entry, a folio or a TLB. Whatever the kernel does on its own
//! account (reclaim, migration, device-exclusive access) must change nothing here.
//!
//! The only uncertainty comes from calls in flight. Between its start and its end, `munmap` may or may not have
//! reached a page, and a good system may show either. So a page is not in a state but in a *set* of states.
//! What a correct system could not show leaves the set empty, or rather would: that is the violation. This is
//! linearizability checking, page by page.
//!
//! # State
//!
//! A page state is `(protection or unmapped, guard, lazy, value, applied)`. *Guard*: every access is a fault
//! (`MADV_GUARD_INSTALL`). *Lazy*: a load may give the value or zero, and once zero always zero, until the next store
//! (`MADV_FREE`). *Applied* has a bit for each CPU whose call in flight has taken effect.
//! Almost every page is in exactly one state (28 bytes, no set); a page in doubt has up to six. States that calls in
//! flight could make of those are not stored: they are worked out when somebody looks ("closing" the set) and dropped
//! again afterwards ("pruning").
//!
//! A state also belongs to a *cell*: the memory behind the page. `mmap`, `munmap` and `MADV_DONTNEED` replace
//! the cell, and so does `MADV_GUARD_INSTALL`, which empties the page on the way; `mprotect` does not. While
//! `MADV_DONTNEED` is under way, one CPU may already read zeroes from the new cell while another, whose TLB is not yet
//! flushed, stores to the old one; both are right.
//!
//! # Transfer
//!
//! | observation | nobody changes the page | calls that change it are in flight |
//! |---|---|---|
//! | load of *v* | keep states that permit it and hold *v* | some state must; if all that do are of one cell, that cell holds *v* |
//! | store of *t* | keep states that permit it; the value is *t* | some state must; if all that do are of one cell, it holds *t*, else each of them may |
//! | `SEGV_MAPERR` | keep unmapped states | some state must be unmapped |
//! | `SEGV_ACCERR` | keep mapped states that forbid it | some state must forbid it |
//! | end of a call | | keep states in which it has taken effect; forget its bit |
//! | end, `Skipped` | | keep states in which it has not |
//!
//! Protection is *not* narrowed while a change is under way: until the call returns, and so its flush is done,
//! each CPU and each device may see the old or the new, in any order.
//!
//! A signal is decided a little before it is seen, and a `pin` long before it returns. So what ended while such
//! an access was in flight is remembered with it: a fault is right if at any time during the access it was.
//!
//! **Fork** copies the parent at its start, and adds to the child's sets every state that the parent's pages
//! come to be in until it ends. The child's first observation settles each page.
//!
//! **Moves**: while `mremap` is in flight two pages may share a cell; see `moves.rs`.
//!
//! **Calls on ranges with holes**: `mprotect` changes the pages before the first hole and returns `ENOMEM`
//! (`mm/mprotect.c: do_mprotect_pkey`); `madvise` works on all that is mapped and then returns `ENOMEM`
//! (`mm/madvise.c: madvise_walk_vmas`); `munmap` succeeds. If holes were made or filled meanwhile, both results
//! are right.
//!
//! **Files** are cells of their own, which any number of pages show: shared ones, and private ones until they are
//! stored to. What truncation and hole punching do to a cell while they are under way is kept with the cell
//! ([`file`]); that truncation takes private copies away is an effect on pages, of every process.
//!
//! **Soft-dirty** is one-sided, as documented: a page that a CPU stored to since the last `clear_refs`, or that
//! was mapped since ("the kernel always marks new memory regions as soft dirty"), must read dirty. `mprotect`
//! may merge VMAs, which until recently lost the mark of a new region, so it takes that second demand back.
//!
//! **Memory failures** take pages away that nobody named, for a frame may be shared: `lost.rs` says which pages may
//! give SIGBUS from then on, and that a page which has given it does so until it is replaced.
//!
//! # What it does not check
//!
//! - Order between pages and between CPUs: each page is judged alone (no memory model).
//! - Races exactly: where two cells are possible, a store may have hit either, and the history that would rule
//!   one out is not kept; which CPU saw what is not kept either. What it accepts during a race is a superset of
//!   what is right; once nothing is in flight, one observation settles the page.
//! - Anything about a page with more than six possible states. Everything is believed of it until a load, a
//!   store or the end of an undisturbed call that replaces it says what it is.
//! - `Skipped`; how `unpin`, `dma-*`, `to-device`, `collapse` and the calls that make memory fail or good again end; that a
//!   call ends at all.
//! - `ENOMEM` and `EBUSY` where the manual allows them, and kills for want of memory: it does not count memory.
//! - Whether a page that may share a frame with failed memory had to be lost; soft-dirty of such pages.
//! - Soft-dirty of pages that show a file: the kernel forgets it with the entry.
//! - Pages of a `tmpfs` file that a huge page reaches behind its end (see `file.rs`).
//! - Clean pages that read soft-dirty, soft-dirty during races, and whether devices mark pages.
//! - Faults of devices once the process has begun to exit.
//! - Which of the two `SEGV` codes a device's failed fault stands for.
//!
//! # Cost
//!
//! An access to a settled page with nothing in flight on its process is a table look-up and a comparison. Calls
//! on ranges are loops over the pages. Nothing is allocated once buffers have grown to the size of the case.

mod access;
mod begin;
mod cell;
mod device;
mod effect;
mod file;
mod file_calls;
mod flight;
mod hmm;
mod locked;
mod lost;
mod moves;
mod page;
mod pins;
mod refused;
mod remote;
mod result;
mod smaps;
mod space;
mod traps;
mod uffd;
mod uffd_events;
mod uffd_files;
mod uffd_move;
mod violation;

#[cfg(test)]
mod tests;

use crate::config::{Design, MAX_CPUS, MAX_PROCS};
use crate::observe::{Agent, Backing, FILES, Observation, Signal, UffdFlags};
use crate::program::family::Family;
use crate::program::{Case, Op, OpCode};
use crate::rule::Rule;
use effect::Effect;
use file::Files;
use flight::Flight;
use locked::Locks;
use page::{Changes, Ends, Known, Reach, prune};
use pins::Pin;
use refused::Refusals;
use space::{Space, Spot};
use traps::Traps;
pub use violation::OracleViolation;
use violation::{broken, nowhere};

/// Every file.
const FILE_IDS: std::ops::Range<u8> = 0..FILES as u8;

/// A process. Times are observation numbers; 0 is never.
#[derive(Default)]
struct Proc {
    /// It exists.
    live: bool,
    /// One of its threads has begun to end it.
    exiting: bool,
    /// Its memory.
    space: Space,
    /// Pages that it has pinned, in order.
    pins: Vec<Pin>,
    /// `clear-refs` calls in flight.
    clearing: u8,
    /// When the last `clear-refs` returned.
    cleared: u32,
    /// When an `mmap` last began or returned.
    remapped: u32,
    /// When an `mprotect`, which may merge VMAs, last began or returned.
    merged: u32,
    /// When a call last began or returned that has a device take pages into its own memory: fork and `mprotect` do not
    /// keep soft-dirty of such pages (`mm/memory.c: copy_nonpresent_pte()` says so, and why).
    lent: u32,
    /// It has, or its ancestors had, mapped a file or hugetlb memory.
    files: bool,
    /// The same of hugetlb memory: calls that would cut a huge page give `EINVAL`.
    hugetlb: bool,
    /// The same of a private mapping of `hugetlbfs`: an access copies a whole huge page.
    huge_copies: bool,
    /// The same of a device: calls that need pages give `EINVAL`.
    devices: bool,
    /// What is locked.
    locks: Locks,
}

impl Proc {
    /// Becomes a process that does not exist, keeping its buffers.
    fn reset(&mut self) {
        // One by one: moving the buffers into a new value costs more than all the rest.
        let Proc {
            live,
            exiting,
            space,
            pins,
            clearing,
            cleared,
            remapped,
            merged,
            lent,
            files,
            hugetlb,
            huge_copies,
            devices,
            locks,
        } = self;
        (*live, *exiting) = (false, false);
        (*files, *hugetlb, *huge_copies, *devices) = (false, false, false, false);
        (*clearing, *cleared, *remapped, *merged, *lent) = (0, 0, 0, 0, 0);
        space.clear();
        pins.clear();
        locks.clear();
    }

    /// It has a mapping of this kind, or is about to.
    fn maps(&mut self, backing: Backing) {
        self.files |= backing.mapping().is_some();
        self.devices |= backing.device().is_some();
        self.hugetlb |= backing.hugetlb();
        self.huge_copies |= backing == Backing::HugetlbfsPrivate;
    }
}

/// The judge of one history of observations at a time.
#[derive(Default)]
pub struct Oracle {
    procs: [Proc; MAX_PROCS],
    /// Contents of files.
    files: Files,
    /// Pages in a window, and so in a file.
    region_pages: u32,
    /// Pages of a huge page.
    huge_pages: u32,
    flights: [Option<Flight>; MAX_CPUS],
    /// What the child of the fork in flight on each CPU will be.
    children: [Space; MAX_CPUS],
    /// CPUs with a call in flight that changes pages, for each process.
    changing: [u8; MAX_PROCS],
    /// CPUs with a call in flight that tries accesses, for each process, where somebody keeps track of those.
    touching: [u8; MAX_PROCS],
    /// What new memory is like: [`Traps::FRESH`] in a case that registers memory with userfaultfd.
    fresh: Traps,
    /// No memory is taken out of use, so that what is promised of the pool of huge pages is kept.
    promises: bool,
    /// Some memory is registered with events other than faults.
    tells: bool,
    /// What the monitors hear of the call in flight on each CPU.
    told: [uffd_events::Told; MAX_CPUS],
    /// Modes and features that memory can be registered with.
    uffd_flags: UffdFlags,
    /// CPUs with a fork in flight, for each parent.
    forking: [u8; MAX_PROCS],
    /// What the release refuses.
    refusals: Refusals,
    /// Guard pages have been asked for.
    guarded: bool,
    /// Nobody interrupts anybody: nobody finds an entry clear that is being changed, or a frame of another use.
    alone: bool,
    /// Some page has moved to another address.
    moved: bool,
    /// The case locks memory.
    locking: bool,
    /// The release decides on copy-on-write by counting references.
    by_count: bool,
    /// When a memory failure was dealt with last; 0 is never.
    failed: u32,
    /// Number of the observation.
    now: u32,
}

impl Oracle {
    /// An oracle with no process; [`Oracle::reset`] gives it some.
    pub fn new() -> Oracle {
        Oracle::default()
    }

    /// Forgets what was seen and begins with what `case` has mapped. Buffers are kept.
    pub fn reset(&mut self, case: &Case) {
        self.procs.iter_mut().for_each(Proc::reset);
        self.flights.iter_mut().for_each(|f| *f = None);
        self.changing = [0; MAX_PROCS];
        self.forking = [0; MAX_PROCS];
        self.touching = [0; MAX_PROCS];
        let registers = case.ops.iter().any(|op| op.code == OpCode::UffdRegister);
        // Memory that fails or goes off line takes pages out of the pool.
        let shrinks = |op: &Op| op.code.family() == Family::Poison || op.code == OpCode::Offline;
        self.promises = !case.ops.iter().any(shrinks);
        self.uffd_flags = case.config.uffd_flags();
        self.tells = registers && Self::tells(&case.ops);
        let huge = case.ops.iter().any(|op| op.code.family() == Family::Thp);
        self.by_count = case.config.uses(Design::CowByCount);
        self.locking = case.ops.iter().any(|op| op.code.family() == Family::Mlock);
        self.fresh = match (registers, huge || self.locking) {
            (false, _) => Traps::NONE,
            (true, false) => Traps::FRESH,
            (true, true) => Traps::LOOSE,
        };
        (self.now, self.failed) = (1, 0);
        let asks = |op: &Op| matches!(op.code, OpCode::Hugepage | OpCode::Collapse);
        let ptrs = case.ops.iter().any(asks).then(|| case.config.geometry.ptrs());
        self.region_pages = case.config.geometry.region_pages();
        self.files.clear(self.region_pages, ptrs, registers.then_some(!huge && !self.locking));
        self.refusals = Refusals::of(&case.config);
        (self.guarded, self.alone) = (false, case.config.cpus == 1 || case.interrupts.is_empty());
        self.huge_pages = case.config.geometry.ptrs();
        self.moved = false;
        self.procs[0].live = true;
        for map in &case.maps {
            if let Some(proc) = self.procs.get_mut(usize::from(map.proc)) {
                proc.live = true;
                proc.maps(map.backing);
                proc.space.map(case.config.geometry, map, self.now, self.fresh, self.promises);
            }
        }
    }

    /// Judges one observation of `case`, in the order in which they were made.
    ///
    /// Observations that no machine can make (an op that is not in the case, a CPU that does not exist) are
    /// ignored.
    ///
    /// # Errors
    ///
    /// The rule that a correct system would not have broken. The history is over then: call
    /// [`Oracle::reset`] before the next observation.
    pub fn observe(&mut self, case: &Case, obs: &Observation) -> Result<(), OracleViolation> {
        self.now = self.now.saturating_add(1);
        match *obs {
            Observation::Start { op } => {
                self.start(case, op);
                Ok(())
            }
            Observation::End { op, outcome } => self.end(case, op, outcome),
            Observation::Load { op, proc, vpn, by, value } => {
                let Some(spot) = Self::spot(case, proc, vpn) else { return Err(nowhere(proc, vpn, by, "load")) };
                if matches!(by, Agent::Dma | Agent::Debugger) {
                    return self.copied(case, obs);
                }
                self.load(proc, spot, value, Self::cpu_of(case, op)).map_err(|v| v.at(proc, vpn, by, "load"))?;
                self.count(case, op, by, false);
                Ok(())
            }
            Observation::Store { op, proc, vpn, by, value } => {
                let Some(spot) = Self::spot(case, proc, vpn) else { return Err(nowhere(proc, vpn, by, "store")) };
                if matches!(by, Agent::Dma | Agent::Debugger) {
                    return self.copied(case, obs);
                }
                self.store(proc, spot, value, by, Self::cpu_of(case, op)).map_err(|v| v.at(proc, vpn, by, "store"))?;
                self.count(case, op, by, false);
                Ok(())
            }
            Observation::Signal { op, proc, vpn, by, write, signal } => {
                if let Some(spot) = Self::spot(case, proc, vpn) {
                    let past = self.flight(case, op).map_or(Ends::default(), |f| f.past);
                    // SIGBUS tells of lost memory, that a file ends before the page, or of what userfaultfd does there.
                    let excused = signal == Signal::Bus && self.may_end_in_sigbus((proc, spot), by, write, past);
                    if !excused && (signal != Signal::Bus || !self.sigbus(case, op, proc, spot)) {
                        self.signal(proc, spot, by, write, signal, past)
                            .map_err(|v| v.at(proc, vpn, by, signal.name()))?;
                    }
                }
                self.count(case, op, by, true);
                Ok(())
            }
            Observation::SoftDirty { op, proc, vpn, dirty } => match Self::spot(case, proc, vpn) {
                Some(spot) if !dirty => self.soft_clean(case, op, proc, spot, vpn),
                _ => Ok(()),
            },
            Observation::Userfault { op, proc, vpn, write, reason } => {
                self.userfault(case, op, (proc, vpn), write, reason)
            }
            Observation::UffdChange { op, proc, features, change } => {
                self.uffd_change(case, op, proc, features, change)
            }
            Observation::Stuck { op, proc, vpn } => self.stuck(case, op, proc, vpn),
            Observation::Released { proc } => {
                if let Some(p) = self.procs.get_mut(usize::from(proc)) {
                    p.space.released();
                    self.doubt_told(proc);
                    self.doubt_stops(Some(proc));
                    self.ask_again(proc);
                }
                Ok(())
            }
            Observation::Progress { op, pages } => {
                let cpu = Self::cpu_of(case, op);
                if let Some(flight) = self.flights.get_mut(cpu).and_then(Option::as_mut).filter(|f| f.op == op) {
                    flight.progress = pages;
                }
                Ok(())
            }
            Observation::UffdWp { op, proc, vpn, wp } => match Self::spot(case, proc, vpn) {
                Some(spot) => self.pagemap_wp(case, op, proc, spot, wp, vpn),
                None => Ok(()),
            },
            Observation::Resident { op, proc, vpn, resident } => match Self::spot(case, proc, vpn) {
                Some(spot) if !resident && self.procs[usize::from(proc)].locks.resident(spot) => {
                    Err(broken(Rule::OracleMincore).at(proc, vpn, Agent::Cpu(Self::cpu_of(case, op) as u8), "mincore"))
                }
                _ => Ok(()),
            },
            Observation::Snapshot { op, proc, vpn, device, seen } => match Self::spot(case, proc, vpn) {
                Some(spot) => self
                    .snapshot(&case.config, (proc, spot), seen, Self::cpu_of(case, op))
                    .map_err(|v| v.at(proc, vpn, Agent::Device(device), seen.name())),
                None => Ok(()),
            },
            Observation::Smaps { op, proc, ref sums } if usize::from(proc) < MAX_PROCS => {
                self.smaps(case, op, proc, sums)
            }
            Observation::Smaps { .. } => Ok(()),
            Observation::Gone { proc } => {
                self.gone(proc);
                Ok(())
            }
        }
    }

    /// The page that a virtual page number is, in a process that can exist.
    #[inline]
    fn spot(case: &Case, proc: u8, vpn: u32) -> Option<Spot> {
        let (region, page) = case.config.geometry.region_of(vpn)?;
        (usize::from(proc) < MAX_PROCS).then_some(Spot { region, page })
    }

    /// The CPU that does an op; one that does not exist for an op that is not in the case.
    #[inline]
    fn cpu_of(case: &Case, op: u32) -> usize {
        case.ops.get(op as usize).map_or(MAX_CPUS, |op| usize::from(op.cpu))
    }

    /// The call in flight that is op `index`.
    fn flight(&self, case: &Case, index: u32) -> Option<&Flight> {
        let cpu = case.ops.get(index as usize)?.cpu;
        self.flights.get(usize::from(cpu))?.as_ref().filter(|f| f.op == index)
    }

    /// Counts an access of op `index`, if it is by who does that op.
    fn count(&mut self, case: &Case, index: u32, by: Agent, signal: bool) {
        let Some(cpu) = case.ops.get(index as usize).map(|op| op.cpu) else { return };
        let Some(flight) = self.flights.get_mut(usize::from(cpu)).and_then(Option::as_mut) else { return };
        let own = match by {
            Agent::Cpu(by) => by == cpu,
            Agent::Dma => false,
            Agent::Debugger => true,
            Agent::Device(by) => matches!(flight.code, OpCode::DevRead | OpCode::DevWrite) && flight.arg == by,
        };
        if own && flight.op == index {
            flight.waiting = None;
            if signal { flight.signals += 1 } else { flight.retired += 1 }
        }
    }

    /// Calls in flight that change this page, except the one on CPU `but`.
    #[inline]
    fn changes(&self, proc: u8, spot: Spot, but: Option<usize>) -> Changes {
        if self.changing[usize::from(proc)] | self.touching[usize::from(proc)] == 0 {
            return Changes::new();
        }
        self.changes_in_flight(proc, spot, but)
    }

    fn changes_in_flight(&self, proc: u8, spot: Spot, but: Option<usize>) -> Changes {
        let mut changes = Changes::new();
        for (cpu, flight) in self.flights.iter().enumerate() {
            if let Some(flight) = flight
                && Some(cpu) != but
                && (flight.sweeps().is_some() || flight.covers(proc, spot) || flight.beside(proc, spot))
                && let Some(mut effect) = flight.effect_on(spot)
            {
                if self.tells
                    && let Effect::Uffd(call) = &mut effect
                {
                    call.bar(self.unread(proc, spot));
                }
                changes.push((1 << cpu, effect));
            }
        }
        changes
    }

    /// The same for somebody who looks at what an access on this CPU saw: that the access was tried is no news.
    fn changes_seen(&self, proc: u8, spot: Spot, cpu: usize) -> Changes {
        let tries = self.touching[usize::from(proc)] & 1u8.checked_shl(cpu as u32).unwrap_or(0) != 0;
        self.changes(proc, spot, tries.then_some(cpu))
    }

    /// Keeps a closed set of states of a page, less what can be found again. When that is too much, the calls
    /// that change the page can no longer say what it is when they return.
    fn keep(&mut self, proc: u8, spot: Spot, reach: Option<&mut Reach>, changes: &Changes) {
        let space = &mut self.procs[usize::from(proc)].space;
        match reach {
            Some(set) => {
                prune(set, changes);
                space.keep(spot, Some(set));
            }
            None => space.keep(spot, None),
        }
        if space.page(spot).known == Known::Any {
            for flight in self.flights.iter_mut().flatten().filter(|f| f.covers(proc, spot)) {
                flight.disturbed = true;
            }
        }
    }

    /// Ends a process for good.
    fn gone(&mut self, proc: u8) {
        let Some(p) = self.procs.get_mut(usize::from(proc)) else { return };
        p.live = false;
        p.exiting = false;
        p.space.clear();
        p.pins.clear();
        p.locks.clear();
        for flight in self.flights.iter_mut().flatten().filter(|f| f.proc == proc) {
            flight.past = Ends::ALL;
        }
        self.doubt_told(proc);
    }
}
