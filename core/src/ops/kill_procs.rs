//! `mm/memory-failure.c`: who is told that memory has failed.
//!
//! At once: the thread that has run into it (`MF_ACTION_REQUIRED`), and processes that have asked for it with
//! `prctl(PR_MCE_KILL)`. Everybody else is told by SIGBUS when he comes by. A signal ends nothing here, and `SIGKILL`, for
//! a process whose page could not be unmapped and whose address is not known, is not sent.

use super::access::observe_signal;
use super::pvmw::{Mapped, PageVmaWalk};
use super::rmap::{AnonLock, Pvmw, RmapWalk};
use crate::entry::EntryKind;
use crate::mm::{Life, VmaId};
use crate::observe::{Agent, Outcome, Signal};
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock};
use arrayvec::ArrayVec;

/// Signals that one failure sends at most; the kernel has no such bound.
const MAX_SIGNALS: usize = 16;

/// `struct to_kill`: a process and an address.
type ToKill = (u8, u32);

/// Whom a failure concerns.
pub(super) type KillList = ArrayVec<ToKill, MAX_SIGNALS>;

/// `prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY)`. Children inherit it.
pub fn early_kill(k: &Cpu, mm: u8) -> Outcome {
    k.s().w.mms[mm as usize].mce_early = true;
    Outcome::Done
}

/// `task_early_kill()`. `required` is the process that ran into the failure.
fn task_early_kill(k: &Cpu, mm: u8, required: Option<u8>) -> bool {
    let s = k.s();
    let m = &s.w.mms[mm as usize];
    m.life == Life::Alive && (required == Some(mm) || m.mce_early)
}

/// `collect_procs()`: of an anonymous page those that map it, of a file's page those whose mapping shows it, be it mapped
/// or not.
pub(super) async fn collect_procs(k: &Cpu, folio: Pfn, page: Pfn, required: Option<u8>) -> KillList {
    let mut to_kill = KillList::new();
    let file = !k.folio(folio).anon();
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return to_kill };
    while let Some((vma, vpn)) = walk.next(k).await {
        let mm = k.s().w.vmas[vma].mm;
        if !task_early_kill(k, mm, required) {
            continue;
        }
        let at = if file { Some(vpn) } else { page_mapped_in_vma(k, folio, page, vma, vpn).await };
        if let Some(vpn) = at
            && to_kill.try_push((mm, vpn)).is_err()
        {
            break;
        }
    }
    walk.end(k);
    to_kill
}

/// `page_mapped_in_vma()`: where the VMA maps this page of the folio.
async fn page_mapped_in_vma(k: &Cpu, folio: Pfn, page: Pfn, vma: VmaId, vpn: u32) -> Option<u32> {
    let mut entries = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::Mapped);
    let mut found = None;
    while let Some(at) = entries.next(k).await {
        let (first, pages) = match at {
            Mapped::Pte(p) => (p.vpn, page_of(k, k.ptep_get(p)) == page),
            Mapped::Pmd(p) => (p.vpn + (page - folio), true),
        };
        if pages {
            found = Some(first);
            break;
        }
    }
    entries.done(k);
    found
}

/// The page that an entry maps, or names as failed.
fn page_of(k: &Cpu, pte: crate::arch::Pte) -> Pfn {
    match k.entries().kind(pte) {
        EntryKind::Present => k.vm_normal_page(pte),
        kind if kind == EntryKind::HwPoison || kind.is_device_exclusive() => k.swp_offset_pfn(k.pte_to_swp_entry(pte)),
        _ => ZERO_PFN,
    }
}

/// `kill_procs()` with `forcekill`.
pub(super) fn kill_procs(k: &Cpu, to_kill: &KillList) {
    for (mm, vpn) in to_kill {
        observe_signal(k, Agent::Cpu(k.id), *mm, *vpn, false, Signal::Bus);
    }
}

/// `kill_accessing_process()`: looks for the page in the whole address space. True for `-EHWPOISON`. (Pages that a PMD
/// maps are passed over, which the kernel does not.)
pub(super) async fn kill_accessing_process(k: &Cpu, mm: u8, page: Pfn) -> bool {
    k.lock(Lock::MmapRead(mm)).await;
    let mut found = None;
    let vma_at = |k: &Cpu, i: usize| {
        let s = k.s();
        s.w.mms[mm as usize].vmas.get(i).map(|v| (s.w.vmas[*v].start, s.w.vmas[*v].end))
    };
    let mut i = 0;
    while let Some((start, end)) = vma_at(k, i) {
        for vpn in start..end {
            // check_hwpoisoned_entry()
            let pte = k.pte_offset(mm, vpn).map(|p| k.ptep_get(p)).unwrap_or_default();
            if found.is_none() && page_of(k, pte) == page {
                found = Some(vpn);
            }
        }
        i += 1;
    }
    if let Some(vpn) = found {
        observe_signal(k, Agent::Cpu(k.id), mm, vpn, false, Signal::Bus);
    }
    k.unlock(Lock::MmapRead(mm));
    found.is_some()
}
