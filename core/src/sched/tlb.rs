//! Translation: hardware walks, TLB fills, shootdown, and the retirement of loads and stores.

use super::{Cpu, Sim, Site};
use crate::arch::Pte;
use crate::hw::Translation;
use crate::mm::PtePtr;
use crate::observe::{Agent, Observation, Token};
use crate::phys::{Flags, Pfn, RawFrames, ZERO_PFN};
use crate::trace::{CacheEvent, Event};

impl Sim {
    fn tlb_ghost(&mut self, cpu: u8, t: Translation, what: CacheEvent) {
        let d: i16 = if what == CacheEvent::Fill { 1 } else { -1 };
        let counted = if t.pfn == ZERO_PFN { None } else { self.w.mem.folios.get_mut(t.frames()) };
        for f in counted.into_iter().flatten() {
            f.ghost.tlbs = f.ghost.tlbs.wrapping_add_signed(d);
        }
        if let Some(proc) = self.w.tlbs[cpu as usize].loaded_mm {
            self.log(|| Event::Tlb { cpu, proc, vpn: t.vpn, pfn: t.pfn, write: t.write, what });
        }
    }

    /// Loads an address space into a CPU (`switch_mm_irqs_off()`): what was cached of another one is dropped.
    #[inline]
    pub fn switch_mm(&mut self, cpu: u8, mm: Option<u8>) {
        let old = self.w.tlbs[cpu as usize].loaded_mm;
        if old != mm {
            self.load_mm(cpu, old, mm);
        }
    }

    fn load_mm(&mut self, cpu: u8, old: Option<u8>, mm: Option<u8>) {
        while let Some(t) = self.w.tlbs[cpu as usize].evict_in(0, u32::MAX) {
            self.tlb_ghost(cpu, t, CacheEvent::Flush);
        }
        if let Some(o) = old {
            self.w.mms[o as usize].cpumask &= !(1 << cpu);
        }
        if let Some(n) = mm {
            self.w.mms[n as usize].cpumask |= 1 << cpu;
        }
        self.w.tlbs[cpu as usize].loaded_mm = mm;
    }

    /// The hardware walk of one access: finds the entry, sets accessed (and dirty) in it and caches the
    /// translation. `None` is a page fault.
    fn hw_walk(&mut self, cpu: u8, mm: u8, vpn: u32, write: bool) -> Option<Translation> {
        let Some(p) = self.w.pte_ptr(mm, vpn) else {
            return if self.w.tables.pmd_leaves == 0 { None } else { self.hw_walk_huge(cpu, mm, vpn, write) };
        };
        let ec = self.w.entries();
        let old = self.w.tables.pte(p);
        let new = ec.arch.hw_access(old, write)?;
        if new != old {
            self.hw_set_bits(p, old, new);
        }
        let pfn = ec.arch.pte_pfn(new);
        if !self.w.mem.valid(pfn) && RawFrames::place(pfn).is_none() {
            return None;
        }
        let t = Translation {
            vpn,
            pages: 1,
            pfn: pfn as Pfn,
            write: ec.arch.hw_access(new, true).is_some(),
            dirty: ec.arch.pte_dirty(new),
        };
        self.tlb_fill(cpu, t);
        Some(t)
    }

    /// Caches a translation in the place of what the TLB had of the same pages.
    pub(super) fn tlb_fill(&mut self, cpu: u8, t: Translation) {
        while let Some(r) = self.w.tlbs[cpu as usize].evict_in(t.vpn, t.vpn + t.pages) {
            self.tlb_ghost(cpu, r, CacheEvent::Evict);
        }
        let oldest = self.w.tlbs[cpu as usize].fill(t);
        self.tlb_ghost(cpu, t, CacheEvent::Fill);
        if let Some(r) = oldest {
            self.tlb_ghost(cpu, r, CacheEvent::Evict);
        }
    }

    fn hw_set_bits(&mut self, p: PtePtr, old: Pte, new: Pte) {
        self.w.tables.put(p.table, p.index, new.0);
        let ec = self.w.entries();
        self.log_entry(None, ec, p, old, new);
    }

    /// A speculative load of a translation: what a CPU may do at any time for an address that is mapped.
    pub(super) fn tlb_speculate(&mut self, cpu: u8, vpn: u32) {
        if let Some(mm) = self.w.tlbs[cpu as usize].loaded_mm {
            self.hw_walk(cpu, mm, vpn, false);
        }
    }

    /// A TLB drops a translation on its own.
    pub(super) fn tlb_evict(&mut self, cpu: u8, vpn: u32) {
        if let Some(t) = self.w.tlbs[cpu as usize].evict(vpn) {
            self.tlb_ghost(cpu, t, CacheEvent::Evict);
        }
    }

    /// Drops a CPU's translations of a range.
    pub(super) fn tlb_drop(&mut self, cpu: u8, start: u32, end: u32) {
        while let Some(t) = self.w.tlbs[cpu as usize].evict_in(start, end) {
            self.tlb_ghost(cpu, t, CacheEvent::Flush);
        }
    }

    /// A load or store reaches the frame. Returns the value loaded or stored.
    pub(super) fn retire(&mut self, by: Agent, proc: u8, vpn: u32, pfn: Pfn, write: bool) -> Token {
        if write {
            self.ctl.stores += 1;
            self.w.mem.store(pfn, self.ctl.stores);
        }
        let value = self.w.mem.load(pfn);
        self.log(|| Event::Access { by, proc, vpn, pfn, write, value });
        value
    }

    /// One access of a thread, at one instant: through the TLB, or by a walk. `None` is a page fault.
    fn cpu_access(&mut self, op: u32, cpu: u8, mm: u8, vpn: u32, write: bool) -> Option<Token> {
        let cached = self.w.tlbs[cpu as usize].lookup(vpn).filter(|t| !write || t.write && t.dirty);
        let t = match cached {
            Some(t) => t,
            None => {
                // A store through a cached translation that forbids it faults and drops the translation (x86
                // manual vol. 3, 4.10.4.1); one that permits it but is not dirty walks again to set the bit.
                if let Some(old) = self.w.tlbs[cpu as usize].lookup(vpn).filter(|t| write && !t.write) {
                    self.tlb_evict(cpu, old.vpn);
                }
                self.hw_walk(cpu, mm, vpn, write)?
            }
        };
        let by = Agent::Cpu(cpu);
        let value = self.retire(by, mm, vpn, t.pfn_of(vpn), write);
        self.observe_access(op, by, mm, vpn, write, value);
        Some(value)
    }

    /// A device reads or writes a frame by DMA.
    pub fn dma_access(&mut self, op: u32, proc: u8, vpn: u32, pfn: Pfn, write: bool) {
        let value = self.retire(Agent::Dma, proc, vpn, pfn, write);
        self.observe_access(op, Agent::Dma, proc, vpn, write, value);
    }

    /// The kernel copies to or from a frame for a debugger.
    pub fn remote_access(&mut self, op: u32, proc: u8, vpn: u32, pfn: Pfn, write: bool) {
        let value = self.retire(Agent::Debugger, proc, vpn, pfn, write);
        self.observe_access(op, Agent::Debugger, proc, vpn, write, value);
    }

    pub(super) fn observe_access(&mut self, op: u32, by: Agent, proc: u8, vpn: u32, write: bool, value: Token) {
        self.observe(if write {
            Observation::Store { op, proc, vpn, by, value }
        } else {
            Observation::Load { op, proc, vpn, by, value }
        });
    }

    /// `__copy_from_user_inatomic()` of a page: what this CPU finds at an address, without a fault. The translation is its
    /// own where it has the address space loaded.
    pub fn copy_from_user(&mut self, cpu: u8, mm: u8, vpn: u32) -> Option<Token> {
        let arch = self.w.config.arch;
        let cached = self.w.tlbs[cpu as usize].lookup(vpn).filter(|_| self.w.tlbs[cpu as usize].loaded_mm == Some(mm));
        let pfn = match cached {
            Some(t) => t.pfn_of(vpn),
            None => {
                let pte = self.w.leaf(mm, vpn);
                arch.hw_access(pte, false)?;
                arch.pte_pfn(pte) as Pfn
            }
        };
        Some(self.w.mem.load(pfn))
    }

    /// Copies a page's contents.
    pub fn copy_page(&mut self, from: Pfn, to: Pfn) {
        self.w.mem.folios[to as usize].data = self.w.mem.folios[from as usize].data;
        self.w.mem.folios[to as usize].flags.set(Flags::UPTODATE);
    }
}

impl Cpu {
    /// One load or store of a thread. `None` is a page fault.
    pub async fn access(&self, mm: u8, vpn: u32, write: bool) -> Option<Token> {
        self.site(Site::Access).await;
        let op = self.op();
        self.s().cpu_access(op, self.id, mm, vpn, write)
    }

    /// `flush_tlb_range()`: every CPU that may have translations of the range drops them, one after the other.
    pub async fn flush_tlb_range(&self, mm: u8, start: u32, end: u32) {
        let next = |from: u8| {
            let later = u32::from(self.s().w.mms[mm as usize].cpumask) >> from;
            (later != 0).then(|| from + later.trailing_zeros() as u8)
        };
        let mut from = 0;
        while let Some(cpu) = next(from) {
            self.site(Site::TlbFlush).await;
            self.s().tlb_drop(cpu, start, end);
            from = cpu + 1;
        }
    }

    /// `flush_tlb_fix_spurious_fault()`: this CPU drops what it has of one page.
    pub fn flush_tlb_fix_spurious_fault(&self, vpn: u32) {
        self.s().tlb_drop(self.id, vpn, vpn + 1);
    }
}
