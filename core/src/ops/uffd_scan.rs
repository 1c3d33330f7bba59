//! `fs/proc/task_mmu.c: PAGEMAP_SCAN` with `PM_SCAN_WP_MATCHING`: which pages were written since they were protected, and
//! protect them again, in one call.

use super::hugetlb::{is_vm_hugetlb_page, pagemap_scan_hugetlb};
use super::mmap::vmas_in;
use super::mprotect::{mkuffd_wp_swap, uffd_wp_range};
use super::split::split_huge_pmd;
use super::task_mmu::pte_uffd_wp_any;
use crate::config::{Defect, Kernel};
use crate::mm::{PtePtr, VmaId};
use crate::observe::{Observation, Outcome, UffdFlags};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `do_pagemap_scan()` for `PAGE_IS_WRITTEN`, without `PM_SCAN_CHECK_WPASYNC`: what cannot be protected is passed over.
pub async fn pagemap_scan(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    // Since 6.7.
    if k.config().kernel < Kernel::V6_12 {
        return Outcome::Invalid;
    }
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    k.lock(Lock::MmapRead(mm)).await;
    for vma in vmas_in(k, mm, start, end) {
        let (from, to, wp_allowed) = {
            let s = k.s();
            let v = &s.w.vmas[vma];
            // pagemap_scan_test_walk()
            let wp_allowed = v.uffd.flags.has(UffdFlags::ASYNC) && v.uffd_wp_use_markers();
            (v.start.max(start), v.end.min(end), wp_allowed)
        };
        if !wp_allowed {
            continue;
        }
        if is_vm_hugetlb_page(k, vma) {
            pagemap_scan_hugetlb(k, vma, from, to).await;
            continue;
        }
        let mut at = from;
        while at < to {
            let next = k.pmd_addr_end(at, to);
            pagemap_scan_pmd_entry(k, vma, at, next).await;
            at = next;
        }
    }
    k.unlock(Lock::MmapRead(mm));
    k.mmu_notifier_invalidate_range_end(mm).await;
    Outcome::Done
}

/// `pagemap_scan_pmd_entry()`, and `pagemap_scan_pte_hole()` where there is no table.
async fn pagemap_scan_pmd_entry(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let mm = k.s().w.vmas[vma].mm;
    // pagemap_scan_thp_entry(): a huge page is always split here.
    if let Some(p) = k.pmd_leaf(mm, start) {
        split_huge_pmd(k, vma, p, None).await;
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else {
        (start..end).for_each(|vpn| output(k, mm, vpn, false));
        return uffd_wp_range(k, vma, start, end, true).await;
    };
    k.arch_enter_lazy_mmu_mode();
    let mut flush = None;
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let protected = pte_uffd_wp_any(k, k.ptep_get(p));
        output(k, mm, vpn, protected);
        if !protected {
            make_uffd_wp_pte(k, p).await;
            flush = Some((flush.map_or(vpn, |(from, _)| from), vpn + 1));
        }
    }
    if let Some((from, to)) = flush {
        k.flush_tlb_range(mm, from, to).await;
    }
    k.arch_leave_lazy_mmu_mode();
    k.pte_unmap_unlock(first);
}

/// `pagemap_scan_output()`: written is what is not protected.
pub fn output(k: &Cpu, mm: u8, vpn: u32, protected: bool) {
    let op = k.op();
    k.s().observe(Observation::UffdWp { op, proc: mm, vpn, wp: protected });
}

/// `make_uffd_wp_pte()`. Here we differ from the kernel, which sets the bit in a writable migration or device-private
/// entry and leaves it writable (N6): see `change_pte_range()`. The bit is set beside a marker as well, where it means
/// nothing until the marker is zapped.
async fn make_uffd_wp_pte(k: &Cpu, p: PtePtr) {
    let (arch, ec) = (k.arch(), k.entries());
    let ptent = k.ptep_get(p);
    k.site(Site::ProtectChange).await;
    if k.pte_none(ptent) {
        k.set_pte_at(p, ec.make_uffd_wp_note()).await;
    } else if arch.pte_present(ptent) {
        let old = k.ptep_get_and_clear(p).await;
        k.set_pte_at(p, arch.pte_mkuffd_wp(old)).await;
    } else if ec.is_pte_marker(ptent) {
        k.set_pte_at(p, arch.pte_swp_mkuffd_wp(ptent)).await;
    } else if !ec.is_swap_special_pte(ptent) {
        let marked = if k.has(Defect::N6) { arch.pte_swp_mkuffd_wp(ptent) } else { mkuffd_wp_swap(k, ptent) };
        k.set_pte_at(p, marked).await;
    }
}
