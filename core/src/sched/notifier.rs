//! MMU notifiers: telling devices that entries are about to change.
//!
//! Each device that mirrors a process has one interval notifier over the whole address space, as the mirror of
//! `lib/test_hmm.c` has. The sequence of `mmu_interval_read_begin()`/`retry()` is kept as in
//! `mm/mmu_notifier.c`: odd while ranges are being invalidated, counted on when the last of them ends.

use super::ctl::{Run, Weakened};
use super::{Cpu, Lock, Sim, Site};
use crate::config::MAX_DEVICES;
use crate::hw::Mapping;
use crate::phys::{Flags, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::trace::{CacheEvent, Event};
use std::future::poll_fn;
use std::task::Poll;

/// `enum mmu_notifier_event`, as far as a driver tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotifyEvent {
    /// `MMU_NOTIFY_CLEAR` and all others that a driver must obey.
    Clear,
    /// `MMU_NOTIFY_EXCLUSIVE`, begun by this device: it keeps what it has.
    Exclusive {
        /// `range->owner`; `None` when the kernel takes exclusivity away.
        owner: Option<u8>,
    },
}

impl Sim {
    /// Changes a device's table and keeps the ghost counts true. A page that the device has written is marked dirty
    /// when the driver lets go of the translation, be it to put another in its place: the CPU's entry may be clean,
    /// so nobody else knows of the store.
    pub(crate) fn mirror_store(&mut self, device: u8, proc: u8, vpn: u32, mapping: Option<Mapping>) -> Option<Mapping> {
        let offset = self.w.mirror_offset(vpn);
        let old = self.w.mirrors[device as usize][proc as usize].store(offset, mapping);
        if let Some(m) = old.filter(|m| m.written && m.pfn != ZERO_PFN) {
            let folio = self.w.mem.page_folio(m.pfn);
            self.w.mem.folios[folio as usize].flags.set(Flags::DIRTY);
        }
        for (m, d) in [(old, -1), (mapping, 1)] {
            let Some(m) = m else { continue };
            if m.pfn != ZERO_PFN {
                let g = &mut self.w.mem.folios[m.pfn as usize].ghost;
                g.mirrors = g.mirrors.wrapping_add_signed(d);
            }
            let what = if d < 0 { CacheEvent::Flush } else { CacheEvent::Fill };
            self.log(|| Event::Mirror { device, proc, vpn, pfn: m.pfn, write: m.write, what });
        }
        old
    }

    /// The driver programs a page. What the device may do from then on is compared with the entry when the op
    /// returns, because whoever has changed the entry meanwhile may have returned before.
    pub(crate) fn mirror_program(&mut self, cpu: u8, device: u8, proc: u8, vpn: u32, mapping: Mapping) {
        self.mirror_store(device, proc, vpn, Some(mapping));
        self.ctl.weakened.push(Weakened { cpu, mm: proc, vpn });
    }

    /// `dmirror_interval_invalidate()`: the driver drops what the device has of a range.
    fn mirror_invalidate(&mut self, device: u8, proc: u8, start: u32, end: u32) {
        let m = &self.w.mirrors[device as usize][proc as usize];
        if m.mapped() == 0 {
            return;
        }
        let base = self.w.geometry().region_base(0);
        let last = (base + m.extent()).min(end);
        for vpn in start.max(base)..last {
            self.mirror_store(device, proc, vpn, None);
        }
    }

    /// Registers a device's interval notifier (`mmu_interval_notifier_insert()`).
    pub fn mirror_register(&mut self, device: u8, proc: u8) {
        let mm = &mut self.w.mms[proc as usize];
        let m = &mut self.w.mirrors[device as usize][proc as usize];
        if m.registered {
            return;
        }
        m.registered = true;
        mm.mirrored_by |= 1 << device;
        if mm.active_invalidate_ranges != 0 {
            // Who registers in the middle of an invalidation has to wait for its end like everybody else.
            mm.invalidate_seq |= 1;
            m.seq = mm.invalidate_seq;
        } else {
            // Behind the sequence of the mm, so that a reader sees "not being invalidated".
            m.seq = mm.invalidate_seq.wrapping_sub(1);
        }
    }

    /// `mmu_interval_notifier_remove()`, after the driver has emptied its table.
    pub fn mirror_unregister(&mut self, device: u8, proc: u8) {
        self.mirror_invalidate(device, proc, 0, u32::MAX);
        self.w.mirrors[device as usize][proc as usize].registered = false;
        self.w.mms[proc as usize].mirrored_by &= !(1 << device);
    }
}

impl Cpu {
    /// `mmu_notifier_invalidate_range_start()`.
    pub async fn mmu_notifier_invalidate_range_start(&self, mm: u8, start: u32, end: u32, event: NotifyEvent) {
        self.might_sleep("mmu_notifier_invalidate_range_start");
        if self.s().w.mms[mm as usize].mirrored_by == 0 {
            self.s().ctl.cpus[self.id as usize].notifiers_open += 1;
            self.s().w.mms[mm as usize].active_invalidate_ranges += 1;
            return;
        }
        self.site(Site::NotifierStart).await;
        let (seq, subscribers) = {
            let s = &mut *self.s();
            s.ctl.cpus[self.id as usize].notifiers_open += 1;
            let m = &mut s.w.mms[mm as usize];
            m.active_invalidate_ranges += 1;
            m.invalidate_seq |= 1;
            (m.invalidate_seq, m.mirrored_by)
        };
        for device in (0..MAX_DEVICES as u8).filter(|d| subscribers & (1 << d) != 0) {
            if event == (NotifyEvent::Exclusive { owner: Some(device) }) {
                continue;
            }
            self.lock(Lock::Mirror(device, mm)).await;
            {
                let s = &mut *self.s();
                s.w.mirrors[device as usize][mm as usize].seq = seq;
                s.mirror_invalidate(device, mm, start, end);
            }
            self.unlock(Lock::Mirror(device, mm));
        }
    }

    /// `mmu_notifier_invalidate_range_end()`.
    pub async fn mmu_notifier_invalidate_range_end(&self, mm: u8) {
        if self.s().w.mms[mm as usize].mirrored_by != 0 {
            self.site(Site::NotifierEnd).await;
        }
        let s = &mut *self.s();
        let open = &mut s.ctl.cpus[self.id as usize].notifiers_open;
        if *open == 0 {
            s.violate(self.id, Rule::NotifierUnbalanced, Evidence { proc: Some(mm), ..Evidence::default() });
            return;
        }
        *open -= 1;
        let m = &mut s.w.mms[mm as usize];
        m.active_invalidate_ranges -= 1;
        if m.active_invalidate_ranges == 0 && m.invalidate_seq & 1 == 1 {
            m.invalidate_seq = m.invalidate_seq.wrapping_add(1);
            s.wake(|run| run == Run::WaitingForNotifier(mm));
        }
    }

    /// `mmu_interval_read_begin()`: waits until the range is not being invalidated, then gives the sequence.
    pub async fn mmu_interval_read_begin(&self, device: u8, mm: u8) -> u32 {
        self.might_sleep("mmu_interval_read_begin");
        poll_fn(|_| {
            let s = &mut *self.s();
            if s.ctl.violation.is_some() {
                return Poll::Pending;
            }
            let seq = s.w.mirrors[device as usize][mm as usize].seq;
            if seq != s.w.mms[mm as usize].invalidate_seq {
                return Poll::Ready(seq);
            }
            s.ctl.cpus[self.id as usize].run = Run::WaitingForNotifier(mm);
            Poll::Pending
        })
        .await
    }

    /// `mmu_interval_read_retry()`, under the driver's mutex: true when the sequence has moved.
    pub fn mmu_interval_read_retry(&self, device: u8, mm: u8, seq: u32) -> bool {
        self.s().w.mirrors[device as usize][mm as usize].seq != seq
    }
}
