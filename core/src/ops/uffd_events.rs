//! `fs/userfaultfd.c`: what the monitor hears of beside faults: memory that moves, goes or is emptied, and forks.
//!
//! A monitor that fills memory from elsewhere must know which memory there is. So who changes it tells, and goes on when
//! the monitor has read of it; and from the change until then the context is `mmap_changing`: whoever fills, moves or
//! protects pages is sent away with `EAGAIN`, as he cannot know what he would be doing it to.
//!
//! The monitor reads when nobody else does anything at [`Site::UserfaultEvent`]; reading, and the decrement of
//! `mmap_changing` by the thread that wakes up, are one step. Left out: `map_changing_lock`, as fills hold `mmap_lock` here.

use super::hugetlb::may_split;
use super::mmap::vmas_in;
use crate::config::Defect;
use crate::mm::{Changing, UffdCtx, VmaId};
use crate::observe::{Observation, UffdChange, UffdFlags};
use crate::sched::{Cpu, Lock, Sim, Site};
use crate::trace::Event;

/// Notes that CPU `cpu` makes a change that the monitor of a context has to hear of.
fn begin_change(s: &mut Sim, cpu: u8, mm: u8, ctx: UffdCtx, change: UffdChange) {
    let told = &mut s.w.mms[mm as usize].userfaults.changing;
    let ctx = ctx.context();
    // has_unmap_ctx()
    if !told.iter().any(|c| (c.cpu, c.ctx, c.change) == (cpu, ctx, change)) {
        told.push(Changing { cpu, ctx, change, counted: true });
    }
}

/// `ctx->mmap_changing` of the context that a VMA belongs to.
pub fn mmap_changing(k: &Cpu, vma: VmaId) -> bool {
    let s = k.s();
    let v = &s.w.vmas[vma];
    s.w.mms[v.mm as usize].userfaults.changing.iter().any(|c| c.counted && c.ctx == v.uffd.context())
}

/// `dup_userfaultfd()`, of the parent's context.
pub fn dup_userfaultfd_prep(s: &mut Sim, cpu: u8, parent: u8, ctx: UffdCtx) {
    begin_change(s, cpu, parent, ctx, UffdChange::Fork);
}

/// `dup_userfaultfd_fail()`: there is no child, and nobody hears of it.
pub fn dup_userfaultfd_fail(k: &Cpu, parent: u8) {
    k.s().w.mms[parent as usize].userfaults.changing.retain(|c| c.cpu != k.id);
}

/// `userfaultfd_unmap_prep()` of each VMA that a call takes out of `start..end`.
pub fn userfaultfd_unmap_prep(k: &Cpu, mm: u8, detached: &[VmaId], start: u32, end: u32) {
    for &vma in detached {
        let ctx = k.s().w.vmas[vma].uffd;
        if ctx.flags.has(UffdFlags::EVENTS) {
            begin_change(&mut k.s(), k.id, mm, ctx, UffdChange::Unmap { vpn: start, pages: end - start });
        }
    }
}

/// `vms_gather_munmap_vmas()` that fails because the last VMA cannot be split. Here we differ from the kernel, which has told
/// of the others by then (N42).
pub fn gather_munmap_failed(k: &Cpu, mm: u8, start: u32, end: u32) {
    if k.has(Defect::N42) && may_split(k, mm, start, start) {
        let mut vmas = vmas_in(k, mm, start, end);
        vmas.retain(|v| k.s().w.vmas[*v].end <= end);
        userfaultfd_unmap_prep(k, mm, &vmas, start, end);
    }
}

/// `mremap_userfaultfd_prep()`: the new mapping stays registered if the monitor hears of the move.
pub fn mremap_userfaultfd_prep(k: &Cpu, new_vma: VmaId, from: u32, to: u32, pages: u32) {
    let s = &mut *k.s();
    let (mm, ctx) = (s.w.vmas[new_vma].mm, s.w.vmas[new_vma].uffd);
    if ctx.flags.has(UffdFlags::EVENTS) {
        begin_change(s, k.id, mm, ctx, UffdChange::Remap { from, to, pages });
    } else {
        s.w.vmas[new_vma].uffd = UffdCtx::default();
    }
}

/// `userfaultfd_remove()`: false when `mmap_lock`, which the caller holds for reading, has been dropped meanwhile. It is held
/// again when this returns, by which the VMA may be another one.
pub async fn userfaultfd_remove(k: &Cpu, mm: u8, vma: VmaId, start: u32, end: u32) -> bool {
    let ctx = k.s().w.vmas[vma].uffd;
    if !ctx.flags.has(UffdFlags::EVENTS) {
        return true;
    }
    begin_change(&mut k.s(), k.id, mm, ctx, UffdChange::Remove { vpn: start, pages: end - start });
    k.unlock(Lock::MmapRead(mm));
    userfaultfd_complete(k, mm).await;
    k.lock(Lock::MmapRead(mm)).await;
    false
}

/// `userfaultfd_unmap_complete()`, `mremap_userfaultfd_complete()` and `dup_userfaultfd_complete()`: everything that this CPU
/// has to tell, one after the other, without `mmap_lock`.
#[inline]
pub async fn userfaultfd_complete(k: &Cpu, mm: u8) {
    while k.s().w.mms[mm as usize].userfaults.changing.iter().any(|c| c.cpu == k.id) {
        event_wait_completion(k, mm).await;
    }
}

/// `userfaultfd_event_wait_completion()`. A context that is closed meanwhile has no reader.
async fn event_wait_completion(k: &Cpu, mm: u8) {
    k.might_sleep("userfaultfd_event_wait_completion");
    k.site(Site::UserfaultEvent).await;
    let op = k.op();
    // A flag, not a count: it goes down with the first of several.
    let flag = k.has(Defect::V27);
    let s = &mut *k.s();
    let told = &mut s.w.mms[mm as usize].userfaults;
    let Some(at) = told.changing.iter().position(|c| c.cpu == k.id) else { return };
    let Changing { ctx, change, .. } = told.changing.remove(at);
    if flag {
        told.changing.iter_mut().filter(|c| c.ctx == ctx).for_each(|c| c.counted = false);
    }
    if told.generation == ctx.generation {
        s.observe(Observation::UffdChange { op, proc: mm, features: ctx.flags, change });
        s.log(|| Event::UffdChange { cpu: k.id, proc: mm, change });
    }
}
