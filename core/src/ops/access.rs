//! Loads and stores of threads: the hardware's attempt, the fault, the retry.

use super::fault::{handle_mm_fault_retry, handle_mm_fault_vma_lock};
use super::uffd::userfault_retry;
use super::vma_lock::lock_vma_under_rcu;
use super::vmf::FaultResult;
use crate::mm::VmaId;
use crate::observe::{Agent, Observation, Outcome, Signal};
use crate::sched::{Cpu, Lock};
use crate::trace::Event;

/// Loads from or stores to each page of a range, in order, until a signal ends it.
pub async fn access_range(k: &Cpu, mm: u8, start: u32, end: u32, write: bool) -> Outcome {
    for vpn in start..end {
        while k.access(mm, vpn, write).await.is_none() {
            if let Err(outcome) = do_user_addr_fault(k, mm, vpn, write).await {
                return outcome;
            }
        }
    }
    Outcome::Done
}

/// `arch/x86/mm/fault.c: do_user_addr_fault()` and `arch/arm64/mm/fault.c: do_page_fault()`: first under the lock of the VMA,
/// then, when that is not enough, with `mmap_lock`.
async fn do_user_addr_fault(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Result<(), Outcome> {
    if let Some(vma) = lock_vma_under_rcu(k, mm, vpn).await {
        // access_error()
        let permitted = {
            let v = &k.s().w.vmas[vma];
            if write { v.writable() } else { v.accessible() }
        };
        if !permitted {
            observe_signal(k, Agent::Cpu(k.id), mm, vpn, write, Signal::SegvAccErr);
            k.unlock(Lock::VmaRead(vma));
            return Err(Outcome::Signal);
        }
        let result = handle_mm_fault_vma_lock(k, vma, vpn, write).await;
        if result != FaultResult::Retry {
            let result = signalled(k, mm, vpn, write, result);
            k.unlock(Lock::VmaRead(vma));
            return result;
        }
        retry(k, mm, vpn, write).await?;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let result = match find_vma(k, mm, vpn, write) {
        Ok(vma) => match handle_mm_fault_retry(k, vma, vpn, write).await {
            FaultResult::Retry => return retry(k, mm, vpn, write).await,
            result => signalled(k, mm, vpn, write, result),
        },
        Err(signal) => {
            observe_signal(k, Agent::Cpu(k.id), mm, vpn, write, signal);
            Err(Outcome::Signal)
        }
    };
    k.unlock(Lock::MmapRead(mm));
    result
}

/// `fault_handled()`, `do_sigbus()` and their like: the signal that a fault ends in, if it does.
fn signalled(k: &Cpu, mm: u8, vpn: u32, write: bool, result: FaultResult) -> Result<(), Outcome> {
    let signal = match result {
        FaultResult::Done | FaultResult::Retry => return Ok(()),
        FaultResult::Oom => Signal::OomKill,
        FaultResult::SigBus | FaultResult::HwPoison => Signal::Bus,
        FaultResult::SigSegv => Signal::SegvMapErr,
    };
    observe_signal(k, Agent::Cpu(k.id), mm, vpn, write, signal);
    Err(Outcome::Signal)
}

/// After `VM_FAULT_RETRY`, which has dropped the lock: the fault is tried again, or a fatal signal ends it.
async fn retry(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Result<(), Outcome> {
    if userfault_retry(k, mm).await {
        observe_signal(k, Agent::Cpu(k.id), mm, vpn, write, Signal::Kill);
        return Err(Outcome::Signal);
    }
    Ok(())
}

/// `lock_mm_and_find_vma()` and `access_error()`: the VMA, if it permits the access.
pub fn find_vma(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Result<VmaId, Signal> {
    let s = k.s();
    let id = s.w.vma_lookup(mm, vpn).ok_or(Signal::SegvMapErr)?;
    let vma = &s.w.vmas[id];
    if if write { vma.writable() } else { vma.accessible() } { Ok(id) } else { Err(Signal::SegvAccErr) }
}

/// Reports a signal at the moment at which it is decided on.
pub fn observe_signal(k: &Cpu, by: Agent, proc: u8, vpn: u32, write: bool, signal: Signal) {
    let op = k.op();
    let s = &mut *k.s();
    s.log(|| Event::Signal { by, proc, vpn, signal });
    s.observe(Observation::Signal { op, proc, vpn, by, write, signal });
}
