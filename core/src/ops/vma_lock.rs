//! The lock of each VMA, under which faults are handled without `mmap_lock`: `include/linux/mm.h: vma_start_read()`,
//! `vma_start_write()` (6.4, in 6.16 moved to `mmap_lock.h`), and what `mm/memory.c` does under it.
//!
//! A fault tries to read-lock its VMA. Whoever changes a VMA holds `mmap_lock` for writing and marks the VMA as locked for
//! as long as that lasts (`vm_lock_seq`), once no fault is at work in it. A fault that finds it marked, or that comes to
//! something for which the lock of one VMA is not enough, takes `mmap_lock` as before.
//!
//! Left out: hugetlb, which here always takes `mmap_lock`; RCU, and with it the lifetime of VMAs that are found without a lock; overflow of the sequence.

use super::rmap::anon_vma_prepare;
use super::vmf::VmFault;
use crate::config::{Defect, Design, Kernel};
use crate::mm::VmaId;
use crate::sched::{Cpu, Lock};
use crate::world::World;

/// `__is_vma_write_locked()`: it was marked since `mmap_lock` was last given back by a writer.
fn vma_write_locked(w: &World, vma: VmaId) -> bool {
    let v = &w.vmas[vma];
    v.lock_seq == w.mms[v.mm as usize].lock_seq.wrapping_add(1)
}

/// `lock_vma_under_rcu()`: the VMA of an address, read-locked. `None`: take `mmap_lock`.
pub async fn lock_vma_under_rcu(k: &Cpu, mm: u8, vpn: u32) -> Option<VmaId> {
    if k.uses(Design::FaultsByMmapLock) {
        return None;
    }
    let vma = {
        let s = k.s();
        let ready = |v: &VmaId| !vma_write_locked(&s.w, *v) && !s.w.vmas[*v].backing.hugetlb();
        s.w.vma_lookup(mm, vpn).filter(ready)?
    };
    // vma_start_read()
    if !k.trylock(Lock::VmaRead(vma)).await {
        return None;
    }
    // It may have been marked, detached (and be another one by now) or made smaller meanwhile.
    let stable = {
        let s = k.s();
        s.w.vma_lookup(mm, vpn) == Some(vma) && !vma_write_locked(&s.w, vma)
    };
    if !stable {
        k.unlock(Lock::VmaRead(vma));
        return None;
    }
    Some(vma)
}

/// `vma_start_write()`: waits for the faults in a VMA and keeps others out until `mmap_lock` is given back. The caller holds
/// it for writing.
pub async fn vma_start_write(k: &Cpu, vma: VmaId) {
    let (marked, busy) = {
        let s = k.s();
        (vma_write_locked(&s.w, vma), s.w.vmas[vma].lock_readers != 0)
    };
    if marked || k.uses(Design::FaultsByMmapLock) || k.has(Defect::V40) {
        return;
    }
    // A free rwsem is had at once.
    if busy {
        k.lock(Lock::VmaWrite(vma)).await;
    }
    {
        let s = &mut *k.s();
        s.w.vmas[vma].lock_seq = s.w.mms[s.w.vmas[vma].mm as usize].lock_seq.wrapping_add(1);
    }
    if busy {
        k.unlock(Lock::VmaWrite(vma));
    }
}

/// `vma_try_start_write()` of 6.4: false when a fault is at work in the VMA.
pub fn vma_try_start_write(k: &Cpu, vma: VmaId) -> bool {
    let by_vma = k.uses(Design::FaultsByVmaLock);
    let s = &mut *k.s();
    if by_vma && s.w.vmas[vma].lock_readers != 0 {
        return false;
    }
    s.w.vmas[vma].lock_seq = s.w.mms[s.w.vmas[vma].mm as usize].lock_seq.wrapping_add(1);
    true
}

/// `release_fault_lock()`.
pub fn release_fault_lock(k: &Cpu, vmf: &VmFault) {
    k.unlock(if vmf.vma_lock { Lock::VmaRead(vmf.vma) } else { Lock::MmapRead(vmf.mm) });
}

/// `vmf_anon_prepare()`: false when the fault has to come again with `mmap_lock`, and its lock is gone. Which `anon_vma` a
/// VMA may share depends on its neighbours.
pub async fn vmf_anon_prepare(k: &Cpu, vmf: &VmFault) -> bool {
    if !vmf.vma_lock {
        anon_vma_prepare(k, vmf.vma).await;
        return true;
    }
    if k.s().w.vmas[vmf.vma].anon_vma.is_some() {
        return true;
    }
    // Before 6.10 it was not tried.
    let tries = k.config().kernel >= Kernel::V6_12;
    if !tries || !k.trylock(Lock::MmapRead(vmf.mm)).await {
        k.unlock(Lock::VmaRead(vmf.vma));
        return false;
    }
    anon_vma_prepare(k, vmf.vma).await;
    k.unlock(Lock::MmapRead(vmf.mm));
    true
}

/// `vmf_can_call_fault()` of a driver, none of which has been looked at for this, and device-private pages in
/// `do_swap_page()`: false when the fault has to come again with `mmap_lock`, and its lock is gone.
pub fn vmf_can_call_fault(k: &Cpu, vmf: &VmFault) -> bool {
    if vmf.vma_lock {
        k.unlock(Lock::VmaRead(vmf.vma));
    }
    !vmf.vma_lock
}
