//! `fs/userfaultfd.c`: memory registered with a userfaultfd, threads that wait at it, and the end of it.
//!
//! A process has one userfaultfd for each set of features (see [`crate::mm::UffdCtx`]), and its monitor reads of every fault
//! at once; of what else it hears is in [`super::uffd_events`]. Left out: `UFFDIO_API`, `poll()`, `UFFD_USER_MODE_ONLY`, and
//! moves and copies between address spaces.

use super::hugetlb::{aligned, hugetlb_unshare_all_pmds, is_vm_hugetlb_page, may_split, userfaultfd_huge_must_wait};
use super::mmap::{nth_vma, split_at_bounds, vmas_in};
use super::mprotect::uffd_wp_range;
use super::uffd_events::mmap_changing;
use super::vma_lock::{release_fault_lock, vma_start_write};
use super::vmf::{FaultResult, VmFault};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{UffdCtx, VmaId};
use crate::observe::{Backing, Observation, Outcome, UffdFlags, Userfault};
use crate::sched::{Cpu, Lock, Site};

/// `handle_userfault()`. `mmap_lock` is held for reading, the page-table lock is not; when the answer is
/// [`FaultResult::Retry`], `mmap_lock` has been dropped.
pub async fn handle_userfault(k: &Cpu, vmf: &VmFault, reason: Userfault) -> FaultResult {
    let mm = vmf.mm;
    let ctx = k.s().w.vmas[vmf.vma].uffd;
    if !ctx.armed() || ctx.flags.has(UffdFlags::SIGBUS) || !vmf.retry {
        return FaultResult::SigBus;
    }
    if released(k, mm, ctx) {
        // Retry without the lock, so that the close that waits for it gets on.
        release_fault_lock(k, vmf);
        k.wait_for_release(mm, vmf.vpn, ctx.generation).await;
        return FaultResult::Retry;
    }
    // First into the queue, then a last look: whoever resolves the fault meanwhile either finds this thread in the queue
    // or is found to have resolved it.
    let late = k.has(Defect::U1);
    if !late {
        k.userfault_queue(mm, vmf.vpn, reason, ctx.generation).await;
    }
    let must_wait = userfaultfd_must_wait(k, vmf, reason).await;
    if late {
        k.userfault_queue(mm, vmf.vpn, reason, ctx.generation).await;
    }
    release_fault_lock(k, vmf);
    if must_wait && !released(k, mm, ctx) {
        k.userfault_schedule(mm, vmf.vpn, vmf.write, reason).await;
    }
    k.userfault_dequeue(mm);
    FaultResult::Retry
}

/// `ctx->released`.
fn released(k: &Cpu, mm: u8, ctx: UffdCtx) -> bool {
    k.s().w.mms[mm as usize].userfaults.generation != ctx.generation
}

/// `userfaultfd_must_wait()`: a look at the entry without its lock.
async fn userfaultfd_must_wait(k: &Cpu, vmf: &VmFault, reason: Userfault) -> bool {
    k.site(Site::UserfaultMustWait).await;
    if is_vm_hugetlb_page(k, vmf.vma) {
        return userfaultfd_huge_must_wait(k, vmf.mm, vmf.vpn, reason);
    }
    if let Some(p) = k.pmd_leaf(vmf.mm, vmf.vpn) {
        let pmd = k.pmdp_get(p);
        // What is being migrated will be there again; what is invalid for a moment is present, and waited for (pmd_present(),
        // pmd_trans_huge()).
        return matches!(k.entries().pmd_kind(pmd), PmdKind::Huge | PmdKind::Invalid)
            && !k.pte_write(k.arch().pmd_leaf(pmd))
            && reason == Userfault::Wp;
    }
    let Some(p) = k.pte_offset(vmf.mm, vmf.vpn) else { return true };
    let ec = k.entries();
    let pte = k.ptep_get(p);
    ec.pte_none_mostly(pte) || ec.arch.pte_present(pte) && !k.pte_write(pte) && reason == Userfault::Wp
}

/// What a thread does that `handle_userfault()` has sent back: when nobody else is left, it plays the monitor, which
/// closes the userfaultfds. True when the thread is to be killed instead of trying again.
pub async fn userfault_retry(k: &Cpu, mm: u8) -> bool {
    if k.plays_monitor(mm) {
        userfaultfd_release(k, mm).await;
        k.s().observe(Observation::Released { proc: mm });
    }
    k.fatal_signal_pending(mm)
}

/// `UFFDIO_REGISTER`: `userfaultfd_register()`.
pub async fn userfaultfd_register(k: &Cpu, mm: u8, start: u32, end: u32, flags: UffdFlags) -> Outcome {
    // Features that the release does not have are refused by UFFDIO_API.
    if flags.modes() == UffdFlags::NONE || flags.0 & !k.config().uffd_flags().0 != 0 {
        return Outcome::Invalid;
    }
    k.lock(Lock::MmapWrite(mm)).await;
    let outcome = register_range(k, mm, start, end, flags).await;
    k.unlock(Lock::MmapWrite(mm));
    outcome
}

async fn register_range(k: &Cpu, mm: u8, start: u32, end: u32, flags: UffdFlags) -> Outcome {
    let vmas = vmas_in(k, mm, start, end);
    let cut = !may_split(k, mm, start, end);
    if vmas.is_empty() || cut || vmas.iter().any(|v| !vma_can_userfault(k, *v, flags)) {
        return Outcome::Invalid;
    }
    let ctx = UffdCtx { flags, generation: k.s().w.mms[mm as usize].userfaults.generation };
    let foreign = |old: UffdCtx| {
        old.armed() && (old.generation != ctx.generation || old.flags.features() != ctx.flags.features())
    };
    if vmas.iter().any(|v| foreign(k.s().w.vmas[*v].uffd)) {
        return Outcome::Busy;
    }
    // userfaultfd_register_range()
    for vma in vmas {
        let (from, to, old) = bounds(k, vma, start, end);
        if old.armed() && old.flags.0 & flags.modes().0 == flags.modes().0 {
            continue;
        }
        if old.flags.has(UffdFlags::WP) && !flags.has(UffdFlags::WP) && !k.has(Defect::N4) {
            uffd_wp_range(k, vma, from, to, false).await;
        }
        split_at_bounds(k, mm, from, to).await;
        set_ctx(k, mm, from, ctx).await;
        // uffd_disable_huge_pmd_share()
        if is_vm_hugetlb_page(k, vma) && flags.has(UffdFlags(UffdFlags::WP.0 | UffdFlags::MINOR.0)) {
            unshare_registered(k, mm, from).await;
        }
    }
    Outcome::Done
}

/// `hugetlb_unshare_all_pmds()` of the VMA that begins at `start`: a table that others use, too, has no room for what only this
/// mapping is to be told.
async fn unshare_registered(k: &Cpu, mm: u8, start: u32) {
    let found = k.s().w.vma_lookup(mm, start);
    if let Some(vma) = found
        && !k.has(Defect::H12)
    {
        hugetlb_unshare_all_pmds(k, vma).await;
    }
}

/// `vma_can_userfault()`: anonymous memory, `tmpfs` and hugetlb; no minor faults of anonymous memory, and write protection of the
/// others only where a release has notes for it.
///
/// Left out: asynchronous protection of any other file.
fn vma_can_userfault(k: &Cpu, vma: VmaId, flags: UffdFlags) -> bool {
    let s = k.s();
    let notes = s.w.entries().make_uffd_wp_note() != Pte(0);
    match s.w.vmas[vma].backing {
        Backing::Anon => !flags.has(UffdFlags::MINOR),
        Backing::ShmemShared | Backing::ShmemPrivate => notes || !flags.has(UffdFlags::WP),
        backing if backing.hugetlb() => notes || !flags.has(UffdFlags::WP),
        // VM_SPECIAL
        backing if backing.device().is_some() => {
            let wp_async = flags.has(UffdFlags::ASYNC) && s.w.config.has(Defect::A4a);
            notes && flags.modes() == UffdFlags::WP && (wp_async || s.w.config.has(Defect::A4c))
        }
        _ => false,
    }
}

/// The part of a VMA that lies in a range, and its registration.
fn bounds(k: &Cpu, vma: VmaId, start: u32, end: u32) -> (u32, u32, UffdCtx) {
    let s = k.s();
    let v = &s.w.vmas[vma];
    (v.start.max(start), v.end.min(end), v.uffd)
}

/// `userfaultfd_set_ctx()` of the VMA that begins at `start`.
async fn set_ctx(k: &Cpu, mm: u8, start: u32, ctx: UffdCtx) {
    let found = k.s().w.vma_lookup(mm, start);
    if let Some(vma) = found {
        vma_start_write(k, vma).await;
        k.s().w.vmas[vma].uffd = ctx;
    }
}

/// `UFFDIO_UNREGISTER`: `userfaultfd_unregister()`. Threads that wait for missing pages are woken; write protection is
/// taken away, and those who wait at it find out when they are woken.
pub async fn userfaultfd_unregister(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut vmas = vmas_in(k, mm, start, end);
    // Here we differ from the kernel, which asks for the beginning only, and for the end when the protection is gone (N70).
    if !may_split(k, mm, start, if k.has(Defect::N70) { start } else { end }) {
        vmas.clear();
    }
    let mut outcome = if vmas.is_empty() { Outcome::Invalid } else { Outcome::Done };
    for vma in vmas {
        let (from, to, old) = bounds(k, vma, start, end);
        if !old.armed() {
            continue;
        }
        if old.flags.has(UffdFlags::MISSING) {
            k.wake_userfault(mm, from, to).await;
        }
        if !clear_vma(k, mm, vma, from, to).await {
            outcome = Outcome::Invalid;
            break;
        }
    }
    k.unlock(Lock::MmapWrite(mm));
    outcome
}

/// `userfaultfd_clear_vma()`. False when the VMA cannot be split at the end, by which the protection is gone already.
async fn clear_vma(k: &Cpu, mm: u8, vma: VmaId, start: u32, end: u32) -> bool {
    if k.s().w.vmas[vma].uffd_wp() {
        uffd_wp_range(k, vma, start, end, false).await;
    }
    if !may_split(k, mm, start, end) {
        return false;
    }
    split_at_bounds(k, mm, start, end).await;
    set_ctx(k, mm, start, UffdCtx::default()).await;
    true
}

/// `userfaultfd_release()` of every userfaultfd of the process.
pub async fn userfaultfd_release(k: &Cpu, mm: u8) -> Outcome {
    k.site(Site::UserfaultRelease).await;
    let old = {
        let u = &mut k.s().w.mms[mm as usize].userfaults;
        let old = u.generation;
        u.generation = old.wrapping_add(1);
        old
    };
    // userfaultfd_release_all()
    k.lock(Lock::MmapWrite(mm)).await;
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        let (start, end, ctx) = bounds(k, vma, 0, u32::MAX);
        if ctx.armed() && ctx.generation == old {
            clear_vma(k, mm, vma, start, end).await;
        }
        i += 1;
    }
    k.unlock(Lock::MmapWrite(mm));
    k.site(Site::UserfaultWake).await;
    k.s().wake_userfaults(mm, |w| w.generation == old);
    Outcome::Done
}

/// `UFFDIO_WAKE`: `userfaultfd_wake()`.
pub async fn userfaultfd_wake(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.wake_userfault(mm, start, end).await;
    Outcome::Done
}

/// `UFFDIO_WRITEPROTECT`: `userfaultfd_writeprotect()` and `mwriteprotect_range()`. A range that is not mapped at all, or
/// meets a VMA that is not registered for it, is an error; what lies before such a VMA has been changed by then.
pub async fn userfaultfd_writeprotect(k: &Cpu, mm: u8, start: u32, end: u32, wp: bool, dontwake: bool) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut outcome = Outcome::NoEnt;
    for vma in vmas_in(k, mm, start, end) {
        let (from, to, ctx) = bounds(k, vma, start, end);
        if !ctx.flags.has(UffdFlags::WP) {
            outcome = Outcome::NoEnt;
            break;
        }
        // Asked once, before the first.
        if outcome == Outcome::NoEnt && mmap_changing(k, vma) {
            outcome = Outcome::Busy;
            break;
        }
        if is_vm_hugetlb_page(k, vma) && !aligned(k, start, end) {
            outcome = Outcome::Invalid;
            break;
        }
        uffd_wp_range(k, vma, from, to, wp).await;
        outcome = Outcome::Done;
    }
    k.unlock(Lock::MmapRead(mm));
    if outcome == Outcome::Done && !wp && !dontwake {
        k.wake_userfault(mm, start, end).await;
    }
    outcome
}
