//! The wait queues of a userfaultfd: who waits in `handle_userfault()`, and who is woken.

use super::ctl::Run;
use super::{Cpu, Lock, Sim, Site};
use crate::config::MAX_CPUS;
use crate::mm::{Life, UserfaultWait};
use crate::observe::{Observation, Userfault};
use crate::trace::{Event, Note};
use std::future::poll_fn;
use std::task::Poll;

impl Sim {
    /// `userfaultfd_wake_function()` for every waiter that `which` picks: it leaves the queue and goes on.
    pub(crate) fn wake_userfaults(&mut self, mm: u8, which: impl Fn(&UserfaultWait) -> bool) {
        let queue = &mut self.w.mms[mm as usize].userfaults.queue;
        let mut woken = 0u8;
        queue.retain(|w| {
            let wake = which(w);
            woken |= u8::from(wake) << w.cpu;
            !wake
        });
        for cpu in (0..MAX_CPUS).filter(|c| woken & (1 << c) != 0) {
            if self.ctl.cpus[cpu].run == Run::Userfault {
                self.ctl.cpus[cpu].run = Run::Ready;
            }
        }
    }

    fn waits_for_userfault(&self, cpu: u8, mm: u8) -> bool {
        self.w.mms[mm as usize].userfaults.queue.iter().any(|w| w.cpu == cpu)
    }

    /// `fatal_signal_pending()`: another thread has ended the process.
    pub(crate) fn fatal_signal_pending(&self, mm: u8) -> bool {
        self.w.mms[mm as usize].life == Life::Exiting
    }
}

impl Cpu {
    /// `__add_wait_queue(&ctx->fault_pending_wqh)`: from now on whoever wakes finds this CPU.
    pub async fn userfault_queue(&self, mm: u8, vpn: u32, reason: Userfault, generation: u16) {
        self.site(Site::UserfaultQueue).await;
        let queue = &mut self.s().w.mms[mm as usize].userfaults.queue;
        if !queue.is_full() {
            queue.push(UserfaultWait { cpu: self.id, vpn, reason, generation });
        }
    }

    /// `list_del(&uwq.wq.entry)`, if nobody has taken this CPU out of the queue before.
    pub fn userfault_dequeue(&self, mm: u8) {
        self.s().w.mms[mm as usize].userfaults.queue.retain(|w| w.cpu != self.id);
    }

    /// `wake_up_poll(&ctx->fd_wqh)` and `schedule()`: the monitor hears of the fault, and this CPU sleeps until
    /// somebody wakes it.
    pub async fn userfault_schedule(&self, mm: u8, vpn: u32, write: bool, reason: Userfault) {
        self.might_sleep("handle_userfault");
        let mut told = false;
        poll_fn(|_| {
            let s = &mut *self.s();
            if s.ctl.violation.is_some() {
                return Poll::Pending;
            }
            let c = &s.ctl.cpus[self.id as usize];
            if c.monitor || s.fatal_signal_pending(mm) || !s.waits_for_userfault(self.id, mm) {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut told, true) {
                let op = s.ctl.cpus[self.id as usize].op.unwrap_or(0);
                s.observe(Observation::Userfault { op, proc: mm, vpn, write, reason });
                s.log(|| Event::Userfault { cpu: self.id, proc: mm, vpn, reason });
            }
            s.ctl.cpus[self.id as usize].run = Run::Userfault;
            Poll::Pending
        })
        .await;
    }

    /// A thread that tries again until the close that is under way has got `mmap_lock`. The kernel's lock lets a writer
    /// who waits go first, so that this ends; here the thread waits until the page belongs to that context no more.
    pub async fn wait_for_release(&self, mm: u8, vpn: u32, generation: u16) {
        poll_fn(|_| {
            let s = &mut *self.s();
            let ctx = s.w.vma_lookup(mm, vpn).map(|v| s.w.vmas[v].uffd);
            let registered = ctx.is_some_and(|c| c.armed() && c.generation == generation);
            if s.ctl.violation.is_none() && !registered {
                return Poll::Ready(());
            }
            s.ctl.cpus[self.id as usize].run = Run::Waiting(Lock::MmapRead(mm));
            s.ctl.waiters = true;
            Poll::Pending
        })
        .await;
    }

    /// `wake_userfault()`: wakes those who wait for a page of the range.
    pub async fn wake_userfault(&self, mm: u8, start: u32, end: u32) {
        self.site(Site::UserfaultWake).await;
        self.s().wake_userfaults(mm, |w| (start..end).contains(&w.vpn));
    }

    /// True when this CPU has been asked to play the monitor, which then closes the userfaultfds.
    pub fn plays_monitor(&self, mm: u8) -> bool {
        let s = &mut *self.s();
        let plays = std::mem::take(&mut s.ctl.cpus[self.id as usize].monitor);
        if plays {
            s.note(self.id, Note::MonitorCloses, None, u32::from(mm), 0);
        }
        plays
    }

    /// `fatal_signal_pending()`.
    pub fn fatal_signal_pending(&self, mm: u8) -> bool {
        self.s().fatal_signal_pending(mm)
    }
}
