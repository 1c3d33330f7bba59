//! `mm/mprotect.c`.

use super::fault::can_change_pte_writable;
use super::mmap::{split_at_bounds, vmas_in};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::MigrationKind;
use crate::mm::{PtePtr, VmaId};
use crate::observe::{Outcome, Perm};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// `do_mprotect_pkey()`: VMA by VMA up to the first hole.
pub async fn mprotect(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut at = start;
    while at < end {
        let Some(vma) = k.s().w.vma_lookup(mm, at) else { break };
        let next = k.s().w.vmas[vma].end.min(end);
        mprotect_fixup(k, mm, at, next, perm).await;
        at = next;
    }
    k.unlock(Lock::MmapWrite(mm));
    if at < end { Outcome::NoMem } else { Outcome::Done }
}

/// `mprotect_fixup()` of a range inside one VMA.
async fn mprotect_fixup(k: &Cpu, mm: u8, start: u32, end: u32, perm: Perm) {
    let same = {
        let s = k.s();
        s.w.vma_lookup(mm, start).is_some_and(|v| s.w.vmas[v].perm == perm)
    };
    if same {
        return;
    }
    split_at_bounds(k, mm, start, end).await;
    for vma in vmas_in(k, mm, start, end) {
        k.s().w.vmas[vma].perm = perm;
        change_protection(k, vma, start, end).await;
    }
}

/// `change_protection()`: the entries, then the flush.
async fn change_protection(k: &Cpu, vma: VmaId, start: u32, end: u32) {
    let mm = k.s().w.vmas[vma].mm;
    let ptrs = k.config().geometry.ptrs();
    let mut flush = false;
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let mut at = start;
    while at < end {
        let next = ((at / ptrs + 1) * ptrs).min(end);
        flush |= change_pte_range(k, vma, at, next).await;
        at = next;
    }
    if flush && !k.has(Defect::S2) {
        k.site(Site::ProtectFlush).await;
        k.flush_tlb_range(mm, start, end).await;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
}

/// `change_pte_range()`: true when a cached translation may have to go.
async fn change_pte_range(k: &Cpu, vma: VmaId, start: u32, end: u32) -> bool {
    let arch = k.arch();
    let mm = k.s().w.vmas[vma].mm;
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return false };
    let mut flush = false;
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        let oldpte = k.ptep_get(p);
        if arch.pte_none(oldpte) {
            continue;
        }
        k.site(Site::ProtectChange).await;
        if arch.pte_present(oldpte) {
            change_present_pte(k, vma, p).await;
            flush = true;
        } else if let Some(newpte) = readable_pte(k, k.ptep_get(p)) {
            k.set_pte_at(p, newpte).await;
        }
    }
    k.pte_unmap_unlock(first);
    flush
}

async fn change_present_pte(k: &Cpu, vma: VmaId, p: PtePtr) {
    let arch = k.arch();
    let (prot, writable) = {
        let s = k.s();
        (s.w.vmas[vma].page_prot(), s.w.vmas[vma].writable())
    };
    // ptep_modify_prot_start() and _commit(): the entry is none in between, so that the hardware cannot set bits
    // that would be lost.
    let oldpte = k.ptep_get_and_clear(p).await;
    let mut ptent = arch.pte_modify(oldpte, prot);
    // MM_CP_TRY_CHANGE_WRITABLE
    if writable && !arch.pte_write(ptent) && can_change_pte_writable(k, vma, ptent) {
        ptent = arch.pte_mkwrite(ptent);
    }
    k.set_pte_at(p, ptent).await;
}

/// What a writable swap-format entry becomes. A device-exclusive entry of the single type is left alone:
/// restoring it looks at the VMA.
fn readable_pte(k: &Cpu, oldpte: Pte) -> Option<Pte> {
    let (arch, ec) = (k.arch(), k.entries());
    let entry = k.pte_to_swp_entry(oldpte);
    if ec.is_writable_migration_entry(entry) {
        // A page that was exclusive stays so. Young and dirty go with the old type.
        let new = ec.make_migration_entry(ec.swp_offset_pfn(entry), MigrationKind::ReadExclusive);
        let mut newpte = arch.swp_entry_to_pte(new);
        if k.pte_swp_soft_dirty(oldpte) {
            newpte = arch.pte_swp_mksoft_dirty(newpte);
        }
        return Some(newpte);
    }
    if ec.is_writable_device_exclusive_entry(entry) {
        let new = ec.make_device_exclusive_entry(ec.swp_offset_pfn(entry), false);
        return Some(k.carry_from_swap(oldpte, arch.swp_entry_to_pte(new)));
    }
    None
}
