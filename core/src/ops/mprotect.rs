//! `mm/mprotect.c`: what `mprotect()` does, and the write-protection of userfaultfd that goes through the same loop.

use super::huge_protect::change_huge_pmd;
use super::hugetlb::{hugetlb_change_protection, is_vm_hugetlb_page, may_split};
use super::mlock::populate_vma_page_range;
use super::mmap::{split_at_bounds, vmas_in};
use super::numa::{can_map_prot_numa, preserve_write};
use super::pgtable::pte_alloc;
use super::split::split_huge_pmd;
use super::uffd_resolve::{Resolved, break_cow};
use super::vma_lock::vma_start_write;
use super::vmf::can_change_pte_writable;
use crate::arch::{Prot, Pte};
use crate::config::{Defect, Design};
use crate::entry::{MigrationKind, PTE_MARKER_GUARD, PTE_MARKER_POISONED};
use crate::mm::{PtePtr, VmaId};
use crate::observe::{Outcome, Perm};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::world::World;

/// `do_mprotect_pkey()`: VMA by VMA up to the first hole.
pub async fn mprotect(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut at = start;
    while at < end {
        let Some(vma) = k.s().w.vma_lookup(mm, at) else { break };
        let next = k.s().w.vmas[vma].end.min(end);
        if !mprotect_fixup(k, mm, at, next, perm).await {
            k.unlock(Lock::MmapWrite(mm));
            return Outcome::Invalid;
        }
        at = next;
    }
    k.unlock(Lock::MmapWrite(mm));
    if at < end { Outcome::NoMem } else { Outcome::Done }
}

/// `mprotect_fixup()` of a range inside one VMA. False when the VMA cannot be split there.
async fn mprotect_fixup(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm) -> bool {
    let same = {
        let s = k.s();
        s.w.vma_lookup(mm, start).is_some_and(|v| s.w.vmas[v].perm == perm)
    };
    if same {
        return true;
    }
    if !may_split(k, mm, start, end) {
        return false;
    }
    split_at_bounds(k, mm, start, end).await;
    for vma in vmas_in(k, mm, start, end) {
        vma_start_write(k, vma).await;
        let (was, from, to) = {
            let v = &mut k.s().w.vmas[vma];
            let was = v.locked() && !v.shared() && !v.writable();
            v.perm = perm;
            (was, v.start, v.end)
        };
        change_protection(k, vma, start, end, Change::Protection).await;
        // What is locked is copied now, and not at the first store.
        if was && perm == Perm::ReadWrite {
            populate_vma_page_range(k, vma, from, to).await;
        }
    }
    true
}

/// `mm/userfaultfd.c: uffd_wp_range()`: protects a part of one VMA for userfaultfd, or resolves that again.
pub async fn uffd_wp_range(k: &Cpu, vma: VmaId, start: u32, end: u32, enable: bool) {
    change_protection(k, vma, start, end, if enable { Change::UffdWp } else { Change::UffdWpResolve }).await;
}

/// `MM_CP_*`: what is changed in the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The VMA's protection has changed.
    Protection,
    /// `MM_CP_UFFD_WP`.
    UffdWp,
    /// `MM_CP_UFFD_WP_RESOLVE`.
    UffdWpResolve,
    /// `MM_CP_PROT_NUMA`: the next access is to be noticed.
    ProtNuma,
}

impl Change {
    /// `newprot`.
    pub fn prot(self, vma: Prot) -> Prot {
        if self == Change::ProtNuma { Prot::None } else { vma }
    }

    /// `MM_CP_TRY_CHANGE_WRITABLE`.
    pub fn try_writable(self) -> bool {
        matches!(self, Change::Protection | Change::UffdWpResolve)
    }
}

/// `change_protection()`: the entries, then the flush.
pub async fn change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32, change: Change) {
    if is_vm_hugetlb_page(k, vma) {
        return hugetlb_change_protection(k, vma, start, end, change).await;
    }
    let mm = k.s().w.vmas[vma].mm;
    let mut flush = false;
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        flush |= change_pmd_range(k, vma, at, next, change).await;
        at = next;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    if flush && !k.has(Defect::S2) {
        k.site(Site::ProtectFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
}

/// `change_pmd_range()` of what one PMD serves.
async fn change_pmd_range(k: &Cpu, vma: VmaId, start: u32, end: u32, change: Change) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_leaf(mm, start) {
        // pgtable_split_needed(): notes of userfaultfd stand in PTEs only.
        let anonymous = k.s().w.vmas[vma].anonymous() || is_vm_hugetlb_page(k, vma);
        if end - start != k.config().geometry.ptrs() || change == Change::UffdWp && !anonymous {
            split_huge_pmd(k, vma, p, None).await;
        } else if let Some(flush) = change_huge_pmd(k, vma, start, change).await {
            return flush;
        }
    }
    change_pte_range(k, vma, start, end, change).await
}

/// `change_pte_range()`: true when a cached translation may have to go.
async fn change_pte_range(k: &Cpu, vma: VmaId, start: u32, end: u32, change: Change) -> bool {
    let arch = k.arch();
    let forced = k.has(Defect::A10);
    let (mm, markers) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.mm, change == Change::UffdWp && (v.uffd_wp_use_markers() || v.uffd_wp() && forced))
    };
    // change_pmd_prepare()
    if markers {
        pte_alloc(k, mm, start).await;
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return false };
    let eager = change == Change::UffdWpResolve && k.uses(Design::ResolveCopies);
    let mut flush = false;
    k.arch_enter_lazy_mmu_mode();
    let mut next = start;
    while next < end {
        let vpn = next;
        next += 1;
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let oldpte = k.ptep_get(p);
        if k.pte_none(oldpte) {
            if markers {
                k.set_pte_at(p, k.entries().make_uffd_wp_note()).await;
            }
            continue;
        }
        k.site(Site::ProtectChange).await;
        if arch.pte_present(k.ptep_get(p)) {
            if eager {
                match break_cow(k, vma, p).await {
                    Resolved::Skip => continue,
                    Resolved::Again => {
                        next = vpn;
                        continue;
                    }
                    Resolved::Change => {}
                    Resolved::Stop => return flush,
                }
            }
            if change == Change::ProtNuma && !can_map_prot_numa(k, vma, p) {
                continue;
            }
            change_present_pte(k, vma, p, change).await;
            flush = true;
        } else {
            let oldpte = k.ptep_get(p);
            if k.entries().pte_none_mostly(oldpte) {
                change_marker(k, p, oldpte, change).await;
                continue;
            }
            let newpte = change_swap_pte(k, oldpte, change);
            if newpte != oldpte {
                k.set_pte_at(p, newpte).await;
            }
        }
    }
    k.arch_leave_lazy_mmu_mode();
    k.pte_unmap_unlock(first);
    flush
}

async fn change_present_pte(k: &Cpu, vma: VmaId, p: PtePtr, change: Change) {
    let arch = k.arch();
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), wants_manual_pte_write_upgrade(&s.w, vma))
    };
    // ptep_modify_prot_start() and _commit(): the entry is none in between, so that the hardware cannot set bits
    // that would be lost.
    let oldpte = k.ptep_get_and_clear(p).await;
    let mut ptent = arch.pte_modify(oldpte, change.prot(prot));
    match change {
        Change::UffdWp => ptent = arch.pte_mkuffd_wp(ptent),
        Change::UffdWpResolve => ptent = arch.pte_clear_uffd_wp(ptent),
        Change::ProtNuma => ptent = preserve_write(k, oldpte, ptent),
        Change::Protection => {}
    }
    let try_writable = change.try_writable() && writable && k.uses(Design::ProtectByCheck);
    let unasked = writable && change == Change::UffdWpResolve && k.has(Defect::B4);
    if try_writable && !arch.pte_write(ptent) && (unasked || can_change_pte_writable(k, vma, ptent)) {
        ptent = arch.pte_mkwrite(ptent);
    }
    k.set_pte_at(p, ptent).await;
}

/// `vma_wants_manual_pte_write_upgrade()`: not where `vm_page_prot` gives write permission by itself.
pub fn wants_manual_pte_write_upgrade(w: &World, vma: VmaId) -> bool {
    let v = &w.vmas[vma];
    if v.shared() { v.wants_writenotify(w.config.arch.has_soft_dirty()) } else { v.writable() }
}

/// A marker has no protection to change, and a page that is lost stays so. A marker of uffd-wp goes when it is resolved.
async fn change_marker(k: &Cpu, p: PtePtr, oldpte: Pte, change: Change) {
    let ec = k.entries();
    // An access to a poisoned page or a guard fails anyway.
    const FAILS: u64 = PTE_MARKER_POISONED | PTE_MARKER_GUARD;
    let fails = !ec.is_swap_special_pte(oldpte) && ec.pte_marker_get(k.pte_to_swp_entry(oldpte)) & FAILS != 0;
    if !fails && change == Change::UffdWpResolve {
        k.ptep_get_and_clear(p).await;
    }
}

/// What a swap-format entry becomes that userfaultfd write-protects.
pub fn mkuffd_wp_swap(k: &Cpu, oldpte: Pte) -> Pte {
    change_swap_pte(k, oldpte, Change::UffdWp)
}

/// What a swap-format entry becomes. Writable kinds become readable ones; a device-exclusive entry of the single
/// type is left alone, because restoring it looks at the VMA.
fn change_swap_pte(k: &Cpu, oldpte: Pte, change: Change) -> Pte {
    let (arch, ec) = (k.arch(), k.entries());
    let entry = k.pte_to_swp_entry(oldpte);
    let mut newpte = oldpte;
    if ec.is_pte_marker_entry(entry) {
        // An access to a guard page fails anyway.
        return oldpte;
    }
    if ec.is_writable_migration_entry(entry) {
        // An anonymous page that was exclusive stays so.
        let anon = k.folio(k.page_folio(k.swp_offset_pfn(entry))).anon();
        let kind = if anon { MigrationKind::ReadExclusive } else { MigrationKind::Read };
        let new = ec.retype_migration_entry(entry, kind);
        newpte = arch.swp_entry_to_pte(new);
        if k.pte_swp_soft_dirty(oldpte) {
            newpte = arch.pte_swp_mksoft_dirty(newpte);
        }
    } else if ec.is_writable_device_private_entry(entry) {
        // Soft-dirty is not kept: checkpoint/restore, its only user, does not go with device drivers.
        let new = ec.make_device_private_entry(ec.swp_offset_pfn(entry), false);
        newpte = arch.swp_entry_to_pte(new);
        if k.pte_swp_uffd_wp(oldpte) {
            newpte = arch.pte_swp_mkuffd_wp(newpte);
        }
    } else if ec.is_writable_device_exclusive_entry(entry) {
        let new = ec.make_device_exclusive_entry(ec.swp_offset_pfn(entry), false);
        newpte = k.carry_from_swap(oldpte, arch.swp_entry_to_pte(new));
    }
    match change {
        Change::UffdWp => arch.pte_swp_mkuffd_wp(newpte),
        Change::UffdWpResolve => arch.pte_swp_clear_uffd_wp(newpte),
        Change::Protection | Change::ProtNuma => newpte,
    }
}
