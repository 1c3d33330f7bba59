//! Guard pages: `mm/madvise.c: madvise_guard_install()`, `madvise_guard_remove()` (since 6.13), and what other paths do
//! with their markers.
//!
//! A guard page is a marker where the entry would be: an access is a fault, whatever the VMA permits. It needs no VMA of
//! its own, and so everybody who walks entries must keep it: fork copies it, `mprotect` and `MADV_DONTNEED` pass over it,
//! `munmap` takes it away.

use super::pgtable::pte_alloc;
use super::rmap::anon_vma_prepare;
use super::zap::{ZapDetails, zap_page_range_single};
use crate::arch::Pte;
use crate::config::{Defect, Kernel};
use crate::entry::PTE_MARKER_GUARD;
use crate::mm::{PtePtr, Vma, VmaId};
use crate::sched::{Cpu, Site};

/// `is_valid_guard_vma()`, but for locked memory: anonymous memory, and since 6.15 files as well.
pub fn is_valid_guard_vma(v: &Vma, kernel: Kernel) -> bool {
    v.anonymous() || kernel >= Kernel::V6_15 && v.backing.device().is_none() && !v.backing.hugetlb()
}

/// `madvise_guard_install()` of the part of a VMA. The kernel gives up after five rounds, drops `mmap_lock` and starts
/// the call again (`ERESTARTNOINTR`); here the rounds go on with the lock held, as far as the op's budget reaches.
pub async fn madvise_guard_install(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let mm = k.s().w.vmas[vma].mm;
    // The range will no longer be empty for the page tables: without an anon_vma, fork would not copy it.
    if !k.has(Defect::V3) {
        anon_vma_prepare(k, vma).await;
    }
    // Here we differ from the kernel, which leaves notes of write protection in mappings of files, and meets them for ever (N43).
    let keep_notes = k.has(Defect::N43) && !k.s().w.vmas[vma].anonymous();
    while !install_markers(k, mm, start, end).await {
        zap_page_range_single(k, vma, start, end, ZapDetails { keep_notes, ..ZapDetails::ALL }).await;
    }
}

/// `walk_page_range_mm()` with `guard_install_pte_entry()` and `guard_install_set_pte()`: false when it met an entry that
/// is neither none nor a guard.
async fn install_markers(k: &Cpu, mm: u8, start: u32, end: u32) -> bool {
    let (arch, ec) = (k.arch(), k.entries());
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        if k.pmd_leaf(mm, at).is_some() {
            return false;
        }
        pte_alloc(k, mm, at).await;
        let Some(first) = k.pte_offset_map_lock(mm, at).await else { return false };
        let mut met = false;
        for vpn in at..next {
            let p = PtePtr { index: first.index + (vpn - at), vpn, ..first };
            k.site(Site::GuardInstall).await;
            if arch.pte_none(k.ptep_get(p)) {
                k.set_pte_at(p, ec.make_pte_marker(PTE_MARKER_GUARD)).await;
            } else if !is_guard_pte_marker(k, p) {
                met = true;
                break;
            }
        }
        k.pte_unmap_unlock(first);
        if met {
            return false;
        }
        at = next;
    }
    true
}

/// `madvise_guard_remove()`: only markers go.
pub async fn madvise_guard_remove(k: &Cpu, mm: u8, start: u32, end: u32) {
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        if let Some(first) = k.pte_offset_map_lock(mm, at).await {
            for vpn in at..next {
                let p = PtePtr { index: first.index + (vpn - at), vpn, ..first };
                if is_guard_pte_marker(k, p) {
                    k.ptep_get_and_clear(p).await;
                }
            }
            k.pte_unmap_unlock(first);
        }
        at = next;
    }
}

/// `is_guard_pte_marker()`.
pub fn is_guard_pte_marker(k: &Cpu, p: PtePtr) -> bool {
    is_guard_marker(k, k.ptep_get(p))
}

/// The same of an entry.
pub fn is_guard_marker(k: &Cpu, pte: Pte) -> bool {
    let ec = k.entries();
    ec.is_pte_marker(pte) && ec.pte_marker_get(ec.arch.pte_to_swp_entry(pte)) & PTE_MARKER_GUARD != 0
}
