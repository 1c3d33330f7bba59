//! `struct vm_fault`, and the small questions that every fault handler asks of an entry.

use crate::arch::Pte;
use crate::mm::{PtePtr, VmaId};
use crate::phys::ZERO_PFN;
use crate::sched::Cpu;

/// `vm_fault_t`, as far as callers tell results apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultResult {
    /// Handled, or somebody else was faster: try the access again.
    Done,
    /// `VM_FAULT_OOM`.
    Oom,
    /// `VM_FAULT_SIGBUS`.
    SigBus,
    /// `VM_FAULT_HWPOISON`.
    HwPoison,
    /// `VM_FAULT_SIGSEGV`.
    SigSegv,
    /// `VM_FAULT_RETRY`: `mmap_lock` was dropped; take it again, look the VMA up again, and try again.
    Retry,
}

/// `struct vm_fault`.
pub struct VmFault {
    /// Mapping.
    pub vma: VmaId,
    /// Address space.
    pub mm: u8,
    /// Virtual page number.
    pub vpn: u32,
    /// `FAULT_FLAG_WRITE`.
    pub write: bool,
    /// `FAULT_FLAG_UNSHARE`: nobody writes, but the page must belong to this mapping alone.
    pub unshare: bool,
    /// `FAULT_FLAG_ALLOW_RETRY`: the caller copes with [`FaultResult::Retry`].
    pub retry: bool,
    /// `FAULT_FLAG_VMA_LOCK`: the fault is handled under the lock of its VMA; `mmap_lock` is not held.
    pub vma_lock: bool,
    /// What the entry held when the fault looked.
    pub orig_pte: Pte,
}

impl VmFault {
    /// A fault at a page of a VMA, with `mmap_lock` held and without any of the other flags.
    pub fn new(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> VmFault {
        let mm = k.s().w.vmas[vma].mm;
        VmFault { vma, mm, vpn, write, unshare: false, retry: false, vma_lock: false, orig_pte: Pte(0) }
    }
}

/// `ptep_set_access_flags()`: only a write fault writes, so a dirty bit that the hardware sets meanwhile stays.
/// True when the entry changed.
pub async fn ptep_set_access_flags(k: &Cpu, p: PtePtr, entry: Pte, dirty: bool) -> bool {
    let changed = k.ptep_get(p) != entry;
    if changed && dirty {
        k.set_pte_at(p, entry).await;
    }
    changed
}

/// `pte_needs_soft_dirty_wp()`: does the entry wait for a first write?
pub fn pte_needs_soft_dirty_wp(k: &Cpu, vma: VmaId, pte: Pte) -> bool {
    k.arch().has_soft_dirty() && !k.s().w.vmas[vma].soft_dirty && !k.pte_soft_dirty(pte)
}

/// `userfaultfd_pte_wp()`: does a write to the page have to be noticed?
pub fn userfaultfd_pte_wp(k: &Cpu, vma: VmaId, pte: Pte) -> bool {
    k.s().w.vmas[vma].uffd_wp() && k.pte_uffd_wp(pte)
}

/// `maybe_mkwrite()`.
pub fn maybe_mkwrite(k: &Cpu, vma: VmaId, pte: Pte) -> Pte {
    if k.s().w.vmas[vma].writable() { k.arch().pte_mkwrite(pte) } else { pte }
}

/// `mm/mprotect.c: can_change_pte_writable()`.
pub fn can_change_pte_writable(k: &Cpu, vma: VmaId, pte: Pte) -> bool {
    if k.arch().pte_protnone(pte) || pte_needs_soft_dirty_wp(k, vma, pte) || userfaultfd_pte_wp(k, vma, pte) {
        return false;
    }
    if k.s().w.vmas[vma].shared() {
        // A clean entry still has to tell the file system of the first store.
        return k.pte_dirty(pte);
    }
    // vm_normal_page() is NULL for the zero page; a page of a file is never exclusive.
    let pfn = k.vm_normal_page(pte);
    pfn != ZERO_PFN && k.page_anon_exclusive(pfn)
}
