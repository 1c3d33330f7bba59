//! `mm/hmm.c`: what a device that mirrors an address space is told of a page, and faulting it in for the device.

use super::access::{find_vma, observe_signal};
use super::fault::handle_mm_fault;
use super::swap::migration_entry_wait;
use super::vmf::FaultResult;
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::EntryKind;
use crate::hw::Mapping;
use crate::observe::{Agent, HmmPfn, Outcome, Signal};
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Site};

/// What `hmm_vma_handle_pte()` makes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HmmPte {
    /// `HMM_PFN_VALID`, and `HMM_PFN_WRITE` where it may be written.
    Valid {
        /// Frame.
        pfn: Pfn,
        /// `HMM_PFN_WRITE`.
        write: bool,
    },
    /// The CPU has to fault it in (`hmm_vma_fault()`).
    Fault,
    /// `-EBUSY`, after the migration is over.
    Migrating,
    /// `-EFAULT` (`HMM_PFN_ERROR`): nobody can have it. With the signal that stands for the reason here.
    Error(Signal),
}

/// `hmm_vma_handle_pte()` of a page that must be faulted in if need be (`HMM_PFN_REQ_FAULT`, for a store also
/// `HMM_PFN_REQ_WRITE`). The entry is read without its lock; the sequence of the notifier tells whether that was in time.
fn hmm_vma_handle_pte(k: &Cpu, device: u8, pte: Pte, write: bool) -> HmmPte {
    let ec = k.entries();
    let entry = || ec.arch.pte_to_swp_entry(pte);
    match ec.kind(pte) {
        EntryKind::Present => hmm_present_pte(k, pte, write),
        kind if kind.is_device_private() => {
            // Of its own memory the device needs no copy, and is told what there is; of another device's it does.
            let pfn = k.swp_offset_pfn(entry());
            let own = k.s().w.mem.device_of(pfn) == Some(device);
            let write = kind == EntryKind::DevicePrivateWrite;
            if own { HmmPte::Valid { pfn, write } } else { HmmPte::Fault }
        }
        kind if kind.is_migration() => HmmPte::Migrating,
        EntryKind::HwPoison | EntryKind::Bad => HmmPte::Error(Signal::Bus),
        // pte_none_mostly(), swap, device-exclusive.
        _ => HmmPte::Fault,
    }
}

/// The second half: `pte_to_hmm_pfn_flags()`, for which an entry out of the hardware's reach counts as not there; and what
/// has no page cannot be had, be it mapped as it was asked for. (The zero page is like any other.)
fn hmm_present_pte(k: &Cpu, pte: Pte, write: bool) -> HmmPte {
    if k.arch().pte_protnone(pte) || write && !k.pte_write(pte) {
        return HmmPte::Fault;
    }
    if k.raw_pfn(pte).is_some() && !k.has(Defect::R6) {
        return HmmPte::Error(Signal::SegvAccErr);
    }
    HmmPte::Valid { pfn: k.pte_pfn(pte), write: k.pte_write(pte) }
}

/// `hmm_range_fault()` of one page: `None` is `-EBUSY`, walk again. A huge PMD is read like a PTE of its page, as
/// `hmm_vma_handle_pmd()` does.
pub async fn hmm_range_fault(k: &Cpu, device: u8, mm: u8, vpn: u32, write: bool) -> Result<Option<Mapping>, Outcome> {
    let refuse = |signal: Signal| {
        observe_signal(k, Agent::Device(device), mm, vpn, write, signal);
        Outcome::Fault
    };
    let vma = find_vma(k, mm, vpn, write).map_err(refuse)?;
    // hmm_vma_walk_test()
    if k.s().w.vmas[vma].backing.pfnmap() && !k.has(Defect::R6) {
        return Err(refuse(Signal::SegvAccErr));
    }
    k.site(Site::HmmFault).await;
    let pte = k.s().w.leaf(mm, vpn);
    match hmm_vma_handle_pte(k, device, pte, write) {
        HmmPte::Valid { pfn, write } => Ok(Some(Mapping { pfn, write, exclusive: false, written: false })),
        HmmPte::Migrating => {
            migration_entry_wait(k, mm, vpn).await;
            Ok(None)
        }
        HmmPte::Error(signal) => Err(refuse(signal)),
        HmmPte::Fault => match handle_mm_fault(k, vma, vpn, write).await {
            FaultResult::Done => Ok(None),
            FaultResult::Oom => Err(refuse(Signal::OomKill)),
            // Without FAULT_FLAG_ALLOW_RETRY nothing is tried again.
            FaultResult::SigBus | FaultResult::HwPoison | FaultResult::Retry => Err(refuse(Signal::Bus)),
            FaultResult::SigSegv => Err(refuse(Signal::SegvMapErr)),
        },
    }
}

/// `hmm_range_fault()` of one page that nobody asks for (`HMM_PFN_REQ_FAULT` is not set): what is there now. What has
/// failed, notes, and pages of another device are nothing; so are pages on their way, for which it does not wait.
pub async fn hmm_snapshot(k: &Cpu, device: u8, mm: u8, vpn: u32) -> HmmPfn {
    k.site(Site::HmmFault).await;
    // hmm_vma_walk_test(), and hmm_vma_walk_hole() where there is no VMA.
    let readable = {
        let s = k.s();
        let mirrors = |v| s.w.vmas[v].accessible() && (!s.w.vmas[v].backing.pfnmap() || k.has(Defect::R6));
        s.w.vma_lookup(mm, vpn).is_some_and(mirrors)
    };
    if !readable {
        return HmmPfn::Error;
    }
    let ec = k.entries();
    let pte = k.s().w.leaf(mm, vpn);
    match ec.kind(pte) {
        EntryKind::Present if k.raw_pfn(pte).is_some() && !k.has(Defect::R6) => HmmPfn::Error,
        EntryKind::Present if k.arch().pte_protnone(pte) => HmmPfn::None,
        EntryKind::Present if k.pte_pfn(pte) == ZERO_PFN => HmmPfn::Zero,
        EntryKind::Present => HmmPfn::Page { write: k.pte_write(pte) },
        kind if kind.is_device_private() => {
            let pfn = k.swp_offset_pfn(ec.arch.pte_to_swp_entry(pte));
            let own = k.s().w.mem.device_of(pfn) == Some(device);
            if own { HmmPfn::Private { write: kind == EntryKind::DevicePrivateWrite } } else { HmmPfn::None }
        }
        _ => HmmPfn::None,
    }
}
