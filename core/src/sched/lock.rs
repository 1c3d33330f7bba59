//! Locks: objects in the world, taken and released explicitly, and checked against their order ([`LockClass`]).

use super::ctl::Run;
use super::lock_class::{Lock, LockClass};
use super::{Cpu, Sim, Site};
use crate::config::MAX_CPUS;
use crate::mm::VmaId;
use crate::observe::{FAULTED, FileId};
use crate::phys::{FAULT_MUTEXES, Flags, Folio, Pfn};
use crate::rule::{Evidence, Rule};
use crate::trace::Event;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Which device it is.
fn board(f: FileId) -> usize {
    usize::from(f == FAULTED)
}

fn take(owner: &mut u8, cpu: u8) -> bool {
    let free = *owner == 0;
    if free {
        *owner = cpu + 1;
    }
    free
}

fn take_shared(readers: &mut u8, writer: u8, cpu: u8) -> bool {
    let free = writer == 0;
    if free {
        *readers |= 1 << cpu;
    }
    free
}

fn give(owner: &mut u8, cpu: u8) -> bool {
    let mine = *owner == cpu + 1;
    if mine {
        *owner = 0;
    }
    mine
}

fn give_shared(readers: &mut u8, cpu: u8) -> bool {
    let mine = *readers & (1 << cpu) != 0;
    *readers &= !(1 << cpu);
    mine
}

impl Sim {
    #[inline(always)]
    pub(super) fn try_take(&mut self, lock: Lock, cpu: u8) -> bool {
        let w = &mut self.w;
        match lock {
            Lock::MemoryFailure => take(&mut w.mf_mutex, cpu),
            Lock::MemHotplug => take(&mut w.mem_hotplug_lock, cpu),
            Lock::Ksm => take(&mut w.ksm.mutex, cpu),
            Lock::Inode(f) => take(&mut w.files[f as usize].inode_lock, cpu),
            Lock::VmaRead(v) => {
                let v = &mut w.vmas[v];
                take_shared(&mut v.lock_readers, v.lock_writer, cpu)
            }
            Lock::VmaWrite(v) => {
                let v = &mut w.vmas[v];
                v.lock_readers == 0 && take(&mut v.lock_writer, cpu)
            }
            Lock::BoardRead(f) => {
                let (n, b) = (board(f), &mut w.boards);
                take_shared(&mut b.readers[n], b.writer[n], cpu)
            }
            Lock::BoardWrite(f) => {
                let (n, b) = (board(f), &mut w.boards);
                b.readers[n] == 0 && take(&mut b.writer[n], cpu)
            }
            Lock::InvalidateRead(f) => {
                let f = &mut w.files[f as usize];
                take_shared(&mut f.invalidate_readers, f.invalidate_writer, cpu)
            }
            Lock::InvalidateWrite(f) => {
                let f = &mut w.files[f as usize];
                f.invalidate_readers == 0 && take(&mut f.invalidate_writer, cpu)
            }
            Lock::HugetlbFault(n) => take(&mut w.hugetlb.fault_mutex[usize::from(n) % FAULT_MUTEXES], cpu),
            Lock::HugetlbVmaRead(v) => {
                let h = &mut w.vmas[v].hugetlb;
                take_shared(&mut h.readers, h.writer, cpu)
            }
            Lock::HugetlbVmaWrite(v) => {
                let h = &mut w.vmas[v].hugetlb;
                h.readers == 0 && take(&mut h.writer, cpu)
            }
            Lock::ResvRead(r) => {
                let r = w.hugetlb.map_mut(r);
                take_shared(&mut r.readers, r.writer, cpu)
            }
            Lock::ResvWrite(r) => {
                let r = w.hugetlb.map_mut(r);
                r.readers == 0 && take(&mut r.writer, cpu)
            }
            Lock::IMmapRead(f) => {
                let m = &mut w.i_mmaps[f as usize];
                take_shared(&mut m.readers, m.writer, cpu)
            }
            Lock::IMmapWrite(f) => {
                let m = &mut w.i_mmaps[f as usize];
                m.readers == 0 && take(&mut m.writer, cpu)
            }
            Lock::MmapRead(m) => {
                let m = &mut w.mms[m as usize];
                take_shared(&mut m.mmap_readers, m.mmap_writer, cpu)
            }
            Lock::MmapWrite(m) => {
                let m = &mut w.mms[m as usize];
                m.mmap_readers == 0 && take(&mut m.mmap_writer, cpu)
            }
            Lock::Folio(p) => take(&mut w.mem.folios[p as usize].locked_by, cpu),
            Lock::AnonVmaRead(a) => {
                let a = &mut w.anon_vmas[a];
                take_shared(&mut a.readers, a.writer, cpu)
            }
            Lock::AnonVmaWrite(a) => {
                let a = &mut w.anon_vmas[a];
                a.readers == 0 && take(&mut a.writer, cpu)
            }
            Lock::Mirror(d, m) => take(&mut w.mirrors[d as usize][m as usize].mutex, cpu),
            Lock::PageTable(m) => take(&mut w.mms[m as usize].page_table_lock, cpu),
            Lock::Pmd(t) | Lock::PmdNested(t) | Lock::Pte(t) | Lock::PteNested(t) => {
                take(&mut w.tables.info[t as usize].lock, cpu)
            }
        }
    }

    #[inline(always)]
    fn give_back(&mut self, lock: Lock, cpu: u8) -> bool {
        let w = &mut self.w;
        match lock {
            Lock::MemoryFailure => give(&mut w.mf_mutex, cpu),
            Lock::MemHotplug => give(&mut w.mem_hotplug_lock, cpu),
            Lock::Ksm => give(&mut w.ksm.mutex, cpu),
            Lock::Inode(f) => give(&mut w.files[f as usize].inode_lock, cpu),
            Lock::VmaRead(v) => give_shared(&mut w.vmas[v].lock_readers, cpu),
            Lock::VmaWrite(v) => give(&mut w.vmas[v].lock_writer, cpu),
            Lock::BoardRead(f) => give_shared(&mut w.boards.readers[board(f)], cpu),
            Lock::BoardWrite(f) => give(&mut w.boards.writer[board(f)], cpu),
            Lock::InvalidateRead(f) => give_shared(&mut w.files[f as usize].invalidate_readers, cpu),
            Lock::InvalidateWrite(f) => give(&mut w.files[f as usize].invalidate_writer, cpu),
            Lock::HugetlbFault(n) => give(&mut w.hugetlb.fault_mutex[usize::from(n) % FAULT_MUTEXES], cpu),
            Lock::HugetlbVmaRead(v) => give_shared(&mut w.vmas[v].hugetlb.readers, cpu),
            Lock::HugetlbVmaWrite(v) => give(&mut w.vmas[v].hugetlb.writer, cpu),
            Lock::ResvRead(r) => give_shared(&mut w.hugetlb.map_mut(r).readers, cpu),
            Lock::ResvWrite(r) => give(&mut w.hugetlb.map_mut(r).writer, cpu),
            Lock::IMmapRead(f) => give_shared(&mut w.i_mmaps[f as usize].readers, cpu),
            Lock::IMmapWrite(f) => give(&mut w.i_mmaps[f as usize].writer, cpu),
            Lock::MmapRead(m) => give_shared(&mut w.mms[m as usize].mmap_readers, cpu),
            Lock::MmapWrite(m) => {
                // vma_end_write_all()
                let m = &mut w.mms[m as usize];
                m.lock_seq = m.lock_seq.wrapping_add(1);
                give(&mut m.mmap_writer, cpu)
            }
            Lock::Folio(p) => give(&mut w.mem.folios[p as usize].locked_by, cpu),
            Lock::AnonVmaRead(a) => give_shared(&mut w.anon_vmas[a].readers, cpu),
            Lock::AnonVmaWrite(a) => give(&mut w.anon_vmas[a].writer, cpu),
            Lock::Mirror(d, m) => give(&mut w.mirrors[d as usize][m as usize].mutex, cpu),
            Lock::PageTable(m) => give(&mut w.mms[m as usize].page_table_lock, cpu),
            Lock::Pmd(t) | Lock::PmdNested(t) | Lock::Pte(t) | Lock::PteNested(t) => {
                give(&mut w.tables.info[t as usize].lock, cpu)
            }
        }
    }

    /// A page table is not touched any more once it was given back.
    #[inline]
    fn check_table(&mut self, lock: Lock, cpu: u8) {
        if let Lock::Pte(table) | Lock::PteNested(table) = lock
            && !self.w.tables.info[table as usize].live
        {
            self.violate(cpu, Rule::FreedTable, Evidence { what: Some(lock.class().name()), ..Evidence::default() });
        }
    }

    fn try_acquire(&mut self, lock: Lock, class: LockClass, cpu: u8) -> bool {
        let free = self.try_take(lock, cpu);
        if free {
            self.acquired(lock, class, cpu);
        }
        free
    }

    /// Notes for lockdep that a lock was taken.
    #[inline(always)]
    pub(super) fn acquired(&mut self, lock: Lock, class: LockClass, cpu: u8) {
        self.ctl.cpus[cpu as usize].held.push(class);
        if class >= LockClass::Pmd {
            self.ctl.pte_locks += 1;
            self.check_table(lock, cpu);
        }
    }

    /// What lockdep would say before a CPU blocks on a lock: none of its class or of a later one may be held. As
    /// spinlocks are the last classes, that also finds who sleeps under one.
    #[inline]
    fn lockdep(&mut self, class: LockClass, cpu: u8) {
        let c = &self.ctl.cpus[cpu as usize];
        if c.held.from(class) || c.lazy_mmu {
            self.lockdep_complains(class, cpu);
        }
    }

    #[cold]
    fn lockdep_complains(&mut self, class: LockClass, cpu: u8) {
        if self.ctl.cpus[cpu as usize].lazy_mmu && !class.spins() {
            self.violate(cpu, Rule::LazyMmu, Evidence { what: Some(class.name()), ..Evidence::default() });
        }
        // Of hugetlb the folio lock has no place in the order: faults take it below these locks, and truncation above.
        let hugetlb = (LockClass::HugetlbFault..=LockClass::HugetlbIMmap).contains(&class);
        let worst = self.ctl.cpus[cpu as usize].held.last(hugetlb.then_some(LockClass::Folio));
        let Some(worst) = worst.filter(|worst| *worst >= class) else { return };
        let rule = if worst.spins() && !class.spins() { Rule::SleepInAtomic } else { Rule::LockOrder };
        let e = Evidence { what: Some(class.name()), on: Some(worst.name()), ..Evidence::default() };
        self.violate(cpu, rule, e);
    }

    #[inline(always)]
    pub(super) fn release(&mut self, lock: Lock, class: LockClass, cpu: u8) {
        if !self.give_back(lock, cpu) {
            return self.not_owner(class, cpu);
        }
        let c = &mut self.ctl.cpus[cpu as usize];
        c.held.remove(class);
        if class >= LockClass::Pmd {
            c.cleared = None;
            self.ctl.pte_locks -= 1;
            if self.ctl.pte_locks == 0 && !self.ctl.touched_ptl.is_empty() {
                self.check_ptl_released(cpu);
            }
        }
        self.wake_waiters();
    }

    #[cold]
    fn not_owner(&mut self, class: LockClass, cpu: u8) {
        self.violate(cpu, Rule::NotOwner, Evidence { what: Some(class.name()), ..Evidence::default() });
    }

    /// A lock is not free: this CPU waits.
    #[cold]
    fn wait_for(&mut self, lock: Lock, cpu: u8) {
        self.ctl.cpus[cpu as usize].run = Run::Waiting(lock);
        self.ctl.waiters = true;
        self.log(|| Event::Wait { cpu, lock: lock.class().name() });
    }

    /// Lets everybody who waits for a lock, or for the end of I/O, look again.
    #[inline]
    pub(super) fn wake_waiters(&mut self) {
        if self.ctl.waiters {
            self.ctl.waiters = false;
            self.wake(|run| matches!(run, Run::Waiting(_)));
        }
    }

    /// Lets everybody who waits look again.
    pub(crate) fn wake(&mut self, which: impl Fn(Run) -> bool) {
        for i in 0..MAX_CPUS {
            let c = &mut self.ctl.cpus[i];
            if which(c.run) {
                c.run = Run::Ready;
            }
        }
    }
}

/// How far a CPU is with taking a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has the lock.
    Taken,
    /// At [`Site::Lock`].
    Site,
    /// Interrupted there; goes on when it is polled again.
    Interrupted,
    /// Waiting.
    Wait,
}

/// A CPU that takes a lock: ready as soon as it has it.
#[must_use = "a lock is taken by awaiting it"]
pub struct Locking<'a> {
    cpu: &'a Cpu,
    lock: Lock,
    stage: Stage,
}

impl Future for Locking<'_> {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.stage == Stage::Taken { Poll::Ready(()) } else { self.get_mut().wait() }
    }
}

impl Locking<'_> {
    /// Not taken at once: the CPU is stopped at the site, or breaks a rule there, or has to wait.
    #[inline(never)]
    fn wait(&mut self) -> Poll<()> {
        let (id, lock, class) = (self.cpu.id, self.lock, self.lock.class());
        let s = &mut *self.cpu.s();
        if s.ctl.violation.is_some() {
            return Poll::Pending;
        }
        if self.stage == Stage::Site && !s.pass(id, Site::Lock) {
            self.stage = Stage::Interrupted;
            return Poll::Pending;
        }
        if self.stage != Stage::Wait {
            s.lockdep(class, id);
            self.stage = Stage::Wait;
        }
        if s.ctl.violation.is_none() && s.try_acquire(lock, class, id) {
            return Poll::Ready(());
        }
        s.wait_for(lock, id);
        Poll::Pending
    }
}

impl Cpu {
    /// Takes a lock, waiting for it. Others may act just before.
    #[inline(always)]
    pub fn lock(&self, lock: Lock) -> Locking<'_> {
        let stage = if self.lock_at_once(lock) { Stage::Taken } else { Stage::Site };
        Locking { cpu: self, lock, stage }
    }

    /// Takes a lock if it is free. Others may act just before.
    #[inline]
    pub async fn trylock(&self, lock: Lock) -> bool {
        self.site(Site::Lock).await;
        self.s().try_acquire(lock, lock.class(), self.id)
    }

    /// `__folio_set_locked()`: locks a folio that nobody else can know yet.
    pub fn folio_lock_new(&self, pfn: Pfn) {
        let taken = self.s().try_acquire(Lock::Folio(pfn), LockClass::Folio, self.id);
        debug_assert!(taken, "nobody else knows the folio");
    }

    /// Lets lockdep forget a folio lock: see [`Cpu::folio_trylock_many()`].
    pub fn folio_lock_many(&self) {
        let s = &mut *self.s();
        s.ctl.cpus[self.id as usize].held.remove(LockClass::Folio);
    }

    /// `might_sleep()`: nothing that may sleep is called under a spinlock.
    #[inline]
    pub fn might_sleep(&self, what: &'static str) {
        let s = &mut *self.s();
        if s.ctl.cpus[self.id as usize].held.from(LockClass::PageTable) {
            let on = s.ctl.cpus[self.id as usize].held.last(None).map(LockClass::name);
            s.violate(self.id, Rule::SleepInAtomic, Evidence { what: Some(what), on, ..Evidence::default() });
        }
    }

    /// `arch_enter_lazy_mmu_mode()`. It does not nest.
    #[inline]
    pub fn arch_enter_lazy_mmu_mode(&self) {
        self.set_lazy_mmu(true, "entered twice");
    }

    /// `arch_leave_lazy_mmu_mode()`.
    #[inline]
    pub fn arch_leave_lazy_mmu_mode(&self) {
        self.set_lazy_mmu(false, "left without having been entered");
    }

    #[inline]
    fn set_lazy_mmu(&self, on: bool, wrong: &'static str) {
        let s = &mut *self.s();
        if std::mem::replace(&mut s.ctl.cpus[self.id as usize].lazy_mmu, on) == on {
            s.violate(self.id, Rule::LazyMmu, Evidence { what: Some(wrong), ..Evidence::default() });
        }
    }

    /// Turns a write lock of `mmap_lock` into a read lock (`mmap_write_downgrade()`).
    pub fn mmap_write_downgrade(&self, mm: u8) {
        self.unlock(Lock::MmapWrite(mm));
        let taken = self.s().try_acquire(Lock::MmapRead(mm), LockClass::Mmap, self.id);
        debug_assert!(taken, "nobody can come between in one step");
    }
}

impl Cpu {
    /// `folio_wait_locked()`: waits until nobody holds the folio lock, without taking it.
    pub async fn folio_wait_locked(&self, pfn: Pfn) {
        self.might_sleep("folio_wait_locked");
        self.folio_wait(pfn, |f| f.locked_by == 0).await;
    }

    /// `folio_wait_writeback()`: waits until the disk has taken the contents.
    pub async fn folio_wait_writeback(&self, pfn: Pfn) {
        self.might_sleep("folio_wait_writeback");
        self.folio_wait(pfn, |f| !f.flags.has(Flags::WRITEBACK)).await;
    }

    /// Waits for a folio to be as it should be, without taking its lock.
    async fn folio_wait(&self, pfn: Pfn, ready: impl Fn(&Folio) -> bool) {
        poll_fn(|_| {
            let s = &mut *self.s();
            if s.ctl.violation.is_some() {
                return Poll::Pending;
            }
            if ready(s.folio(pfn)) {
                return Poll::Ready(());
            }
            s.ctl.cpus[self.id as usize].run = Run::Waiting(Lock::Folio(pfn));
            s.ctl.waiters = true;
            Poll::Pending
        })
        .await;
    }

    /// Waits until nobody holds the lock of a shared hugetlb mapping, without taking it.
    pub async fn wait_for_hugetlb_vma(&self, vma: VmaId) {
        poll_fn(|_| {
            let s = &mut *self.s();
            let h = s.w.vmas[vma].hugetlb;
            let (readers, writer) =
                h.resv.map_or((h.readers, h.writer), |id| (s.w.hugetlb.map(id).readers, s.w.hugetlb.map(id).writer));
            if s.ctl.violation.is_none() && readers == 0 && writer == 0 {
                return Poll::Ready(());
            }
            s.ctl.cpus[self.id as usize].run = Run::Waiting(Lock::HugetlbVmaWrite(vma));
            s.ctl.waiters = true;
            Poll::Pending
        })
        .await;
    }

    /// Waits while somebody reads a swap slot past the swap cache (a timeout of a tick, or `swapcache_wq`).
    pub async fn wait_for_slot(&self, slot: u32) {
        self.might_sleep("schedule_timeout_uninterruptible");
        poll_fn(|_| {
            let s = &mut *self.s();
            if s.ctl.violation.is_some() {
                return Poll::Pending;
            }
            if !s.w.swap.slots[slot as usize].bypassed {
                return Poll::Ready(());
            }
            s.ctl.cpus[self.id as usize].run = Run::WaitingForSlot(slot);
            Poll::Pending
        })
        .await;
    }
}

impl Sim {
    /// Nobody reads a swap slot past the swap cache any more.
    pub(crate) fn wake_slot_waiters(&mut self, slot: u32) {
        self.wake(|run| run == Run::WaitingForSlot(slot));
    }
}
