//! `mm/swapfile.c`: swap devices that come and go.
//!
//! Left out: `get_swap_device()`, which keeps a device from going while somebody is on the way to one of its slots:
//! here the table of slots stays, and who comes late finds his slot unused.

use super::ksm_page::ksm_might_need_to_copy;
use super::mmap::nth_vma;
use super::process::{mmget, mmput};
use super::shmem::shmem_unuse;
use super::swap_cache::folio_free_swap;
use super::swapin::read_swap_cache_async;
use super::vmf::FaultResult;
use crate::arch::Pte;
use crate::config::{Defect, MAX_PROCS};
use crate::mm::{PtePtr, VmaId};
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// Rounds of `try_to_unuse()`. The kernel goes on until a signal ends it; here it gives up, and `progress.swapoff` says
/// whether it had to.
const ROUNDS: u32 = 3;

/// `swapon(2)`.
pub fn swapon(k: &Cpu, ty: u8) -> Outcome {
    let d = &mut k.s().w.swap.devices[usize::from(ty)];
    if std::mem::replace(&mut d.on, true) { Outcome::Busy } else { Outcome::Done }
}

/// `swapoff(2)`: no slot is allocated any more, and what is swapped out comes back.
pub async fn swapoff(k: &Cpu, ty: u8) -> Outcome {
    if !std::mem::take(&mut k.s().w.swap.devices[usize::from(ty)].on) {
        return Outcome::Invalid;
    }
    match try_to_unuse(k, ty).await {
        Ok(()) => Outcome::Done,
        Err(outcome) => {
            // reinsert_swap_info()
            k.s().w.swap.devices[usize::from(ty)].on = true;
            outcome
        }
    }
}

/// `try_to_unuse()`.
async fn try_to_unuse(k: &Cpu, ty: u8) -> Result<(), Outcome> {
    let in_use = |k: &Cpu| k.s().w.swap.devices[usize::from(ty)].in_use();
    for round in 1..=ROUNDS {
        k.site(Site::SwapOffRound).await;
        if in_use(k) != 0 && shmem_unuse(k, ty).await == Err(FaultResult::Oom) {
            return Err(Outcome::NoMem);
        }
        for mm in 0..MAX_PROCS as u8 {
            // mmget_not_zero()
            let got = in_use(k) != 0 && mmget(&mut k.s(), k.id, mm, false);
            if got {
                let result = unuse_mm(k, mm, ty).await;
                mmput(k, mm).await;
                result?;
            }
        }
        free_cached(k, ty).await;
        if in_use(k) == 0 {
            return Ok(());
        }
        k.note(Note::SwapOffRetry, None, round, in_use(k));
    }
    if k.undisturbed() {
        k.violate(Rule::ProgressSwapoff, Evidence { found: Some(u64::from(in_use(k))), ..Evidence::default() });
    }
    Err(Outcome::Busy)
}

/// The second half of `try_to_unuse()`: pages that stay in the swap cache although no entry needs their slot.
async fn free_cached(k: &Cpu, ty: u8) {
    let used = k.s().w.swap.devices[usize::from(ty)].used();
    for slot in used {
        let Some(page) = k.slot(slot).cache else { continue };
        let folio = k.page_folio(page);
        if !k.folio_try_get(folio) {
            continue;
        }
        k.lock(Lock::Folio(folio)).await;
        folio_free_swap(k, folio);
        k.folio_unlock(folio);
        k.folio_put(folio);
    }
}

/// `unuse_mm()`.
async fn unuse_mm(k: &Cpu, mm: u8, ty: u8) -> Result<(), Outcome> {
    k.lock(Lock::MmapRead(mm)).await;
    let (mut i, mut result) = (0, Ok(()));
    while let Some(vma) = nth_vma(k, mm, i) {
        if k.s().w.vmas[vma].anon_vma.is_some() {
            result = unuse_vma(k, vma, ty).await;
            if result.is_err() {
                break;
            }
        }
        i += 1;
    }
    k.unlock(Lock::MmapRead(mm));
    result
}

/// `unuse_vma()` down to `unuse_pte_range()`: entries are read without their lock.
async fn unuse_vma(k: &Cpu, vma: VmaId, ty: u8) -> Result<(), Outcome> {
    let ec = k.entries();
    let (mm, start, end) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.mm, v.start, v.end)
    };
    for vpn in start..end {
        let pte = k.pte_offset(mm, vpn).map(|p| k.ptep_get(p)).unwrap_or_default();
        if !ec.pte_has_swap_entry(pte) || ec.arch.pte_to_swp_entry(pte).ty != ty {
            continue;
        }
        let slot = k.swp_slot(ec.arch.pte_to_swp_entry(pte));
        let Some(page) = read_swap_cache_async(k, slot).await else {
            if k.slot(slot).count == 0 {
                continue;
            }
            return Err(Outcome::NoMem);
        };
        let folio = k.page_folio(page);
        k.lock(Lock::Folio(folio)).await;
        let result = match ksm_might_need_to_copy(k, folio, vma, vpn) {
            Ok(Some(copy)) => {
                unuse_pte(k, vma, vpn, slot, copy, true).await;
                k.folio_unlock(copy);
                k.folio_put(copy);
                Ok(())
            }
            Err(FaultResult::Oom) => Err(Outcome::NoMem),
            _ => {
                unuse_pte(k, vma, vpn, slot, folio, false).await;
                Ok(())
            }
        };
        folio_free_swap(k, folio);
        k.folio_unlock(folio);
        k.folio_put(folio);
        result?;
    }
    Ok(())
}

/// `unuse_pte()`: makes one entry present, or notes that its page is lost.
async fn unuse_pte(k: &Cpu, vma: VmaId, vpn: u32, slot: u32, folio: Pfn, copied: bool) {
    let (arch, ec) = (k.arch(), k.entries());
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return };
    let old = k.ptep_get(p);
    let same = ec.pte_has_swap_entry(old) && {
        // pte_same_as_swp(): whatever bits are carried beside it.
        let entry = arch.pte_to_swp_entry(old);
        !ec.non_swap_entry(entry) && k.s().w.swap.slot_of(entry.ty, entry.offset) == Some(slot)
    };
    if !same {
        k.pte_unmap_unlock(p);
        return;
    }
    let f = k.folio(folio);
    let poisoned = f.flags.has(Flags::HWPOISON);
    k.s().w.mms[mm as usize].swap_ents -= 1;
    // Before the marker there was a swap type of its own (5.19 to 6.5), or nothing; hwpoison gives the same SIGBUS.
    let new = if poisoned || !f.flags.has(Flags::UPTODATE) && !ec.poison_markers && !k.has(Defect::W2) {
        arch.swp_entry_to_pte(ec.make_hwpoison_entry(u64::from(folio)))
    } else if !f.flags.has(Flags::UPTODATE) && !k.has(Defect::W2) {
        ec.make_pte_marker(crate::entry::PTE_MARKER_POISONED)
    } else {
        map_unused(k, vma, p, folio, old, copied)
    };
    k.set_pte_at(p, new).await;
    k.swap_free(slot);
    k.pte_unmap_unlock(p);
}

/// The part of `unuse_pte()` for a page that is there: the entry that maps it, read-only and old.
fn map_unused(k: &Cpu, vma: VmaId, p: PtePtr, folio: Pfn, old: Pte, copied: bool) -> Pte {
    let arch = k.arch();
    k.s().w.mms[p.mm as usize].anon_pages += 1;
    k.folio_get(folio);
    if copied {
        k.folio_add_new_anon_rmap(folio, vma, p.vpn, true);
        k.folio_add_lru_vma(folio, vma);
    } else {
        let exclusive = k.pte_swp_exclusive(old);
        if k.folio(folio).anon() {
            k.folio_add_anon_rmap_pte(folio, exclusive);
        } else {
            k.folio_add_new_anon_rmap(folio, vma, p.vpn, exclusive);
        }
        k.mlock_vma_folio(folio, vma);
    }
    let prot = k.s().w.page_prot(vma);
    let mut new = arch.pte_mkold(arch.pfn_pte(u64::from(folio), prot));
    if k.has(Defect::W3) {
        return new;
    }
    if k.pte_swp_soft_dirty(old) {
        new = arch.pte_mksoft_dirty(new);
    }
    if k.pte_swp_uffd_wp(old) {
        new = arch.pte_mkuffd_wp(new);
    }
    new
}

/// What the slot behind a page held can no longer be read: a fault of the device, not of the kernel.
pub fn lose_slot(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    let ec = k.entries();
    let pte = k.pte_offset(mm, vpn).map(|p| k.ptep_get(p)).unwrap_or_default();
    if !ec.pte_has_swap_entry(pte) || ec.non_swap_entry(ec.arch.pte_to_swp_entry(pte)) {
        return Outcome::Invalid;
    }
    let slot = k.swp_slot(ec.arch.pte_to_swp_entry(pte));
    k.s().w.swap.slots[slot as usize].bad = true;
    Outcome::Done
}
