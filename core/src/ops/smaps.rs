//! `fs/proc/task_mmu.c: show_smaps_rollup()`: how much memory a process uses, and how.
//!
//! Left out: the sums by kind of memory (`Pss_Anon`, `AnonHugePages` and the like), and that the lock is dropped for a
//! writer between two VMAs.

use super::huge_zero::is_huge_zero_pmd;
use super::hugetlb::is_vm_hugetlb_page;
use super::mmap::nth_vma;
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{EntryKind, PmdKind};
use crate::mm::VmaId;
use crate::observe::{Observation, Outcome, PSS_PAGE, SHMEM, Smaps};
use crate::phys::{CacheEntry, Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock};

/// Reads `/proc/pid/smaps_rollup`.
pub async fn smaps(k: &Cpu, mm: u8) -> Outcome {
    let mut sums = Smaps::default();
    k.lock(Lock::MmapRead(mm)).await;
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        smap_gather_stats(k, vma, &mut sums).await;
        i += 1;
    }
    k.unlock(Lock::MmapRead(mm));
    let op = k.op();
    k.s().observe(Observation::Smaps { op, proc: mm, sums });
    Outcome::Done
}

/// `smap_gather_stats()`.
async fn smap_gather_stats(k: &Cpu, vma: VmaId, sums: &mut Smaps) {
    // Hugetlb pages are counted apart: they are no part of Rss.
    if is_vm_hugetlb_page(k, vma) {
        return;
    }
    let (mm, start, end, shmem, all) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.mm, v.start, v.end, v.backing.file() == Some(SHMEM), v.shared() || !v.writable())
    };
    // Of a shared or read-only mapping of tmpfs the file tells what is swapped out.
    if shmem && all {
        sums.swap += (start..end).filter(|vpn| swapped_out(k, vma, *vpn)).count() as u32;
    }
    let walk = Walk { vma, locked: k.s().w.vmas[vma].locked(), holes: shmem && !all };
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        smaps_pte_range(k, mm, at, next, walk, sums).await;
        at = next;
    }
}

/// What the walk over one VMA is told.
#[derive(Clone, Copy)]
struct Walk {
    vma: VmaId,
    /// `VM_LOCKED`.
    locked: bool,
    /// Where nothing is, the file is asked (`smaps_shmem_walk_ops`).
    holes: bool,
}

/// `smaps_pte_hole()` of one page.
fn swapped_out(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let (file, index) = {
        let s = k.s();
        (s.w.vmas[vma].backing.file(), s.w.vmas[vma].linear_page_index(vpn))
    };
    file.is_some_and(|file| matches!(k.cache_entry(file, index), CacheEntry::Swap(_)))
}

/// `smaps_pte_range()`.
async fn smaps_pte_range(k: &Cpu, mm: u8, start: u32, end: u32, walk: Walk, sums: &mut Smaps) {
    if let Some(p) = k.pmd_trans_huge_lock(mm, start).await {
        let pmd = k.pmdp_get(p);
        if !is_huge_zero_pmd(k, pmd) {
            // smaps_pmd_entry()
            let present = !matches!(k.entries().pmd_kind(pmd), PmdKind::Migration(_));
            for vpn in start..end {
                account(k, k.entries().pmd_as_pte_of(pmd, vpn - p.vpn), present, walk.locked, sums);
            }
        }
        k.pmd_unlock(p);
        return;
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else {
        if walk.holes {
            sums.swap += (start..end).filter(|vpn| swapped_out(k, walk.vma, *vpn)).count() as u32;
        }
        return;
    };
    for vpn in start..end {
        let pte = k.s().w.leaf(mm, vpn);
        smaps_pte_entry(k, vpn, pte, walk, sums);
    }
    k.pte_unmap_unlock(first);
}

/// `smaps_pte_entry()`.
fn smaps_pte_entry(k: &Cpu, vpn: u32, pte: Pte, walk: Walk, sums: &mut Smaps) {
    let ec = k.entries();
    match ec.kind(pte) {
        EntryKind::None => sums.swap += u32::from(walk.holes && swapped_out(k, walk.vma, vpn)),
        EntryKind::Present => account(k, pte, true, walk.locked, sums),
        EntryKind::Swap => {
            let mapcount = u64::from(k.slot(k.swp_slot(k.pte_to_swp_entry(pte))).count).max(1);
            sums.swap += 1;
            sums.swap_pss += PSS_PAGE / mapcount;
        }
        kind if kind.has_pfn() && !(kind.is_device_exclusive() && k.has(Defect::V24)) => {
            if k.has(Defect::V23) {
                // Before the repair young and dirty were read from whatever the entry was.
                k.pte_young(pte);
            }
            account(k, pte, kind.is_device_private(), walk.locked, sums);
        }
        _ => {}
    }
}

/// `smaps_account()` of a page that an entry names.
fn account(k: &Cpu, pte: Pte, present: bool, locked: bool, sums: &mut Smaps) {
    let arch = k.arch();
    let mapped = arch.pte_present(pte);
    let page = if mapped { k.vm_normal_page(pte) } else { k.swp_offset_pfn(k.pte_to_swp_entry(pte)) };
    if page == ZERO_PFN {
        return;
    }
    let folio = k.folio(k.page_folio(page));
    let dirty = mapped && k.pte_dirty(pte) || folio.flags.has(Flags::DIRTY);
    if folio.anon() {
        sums.anonymous += 1;
        sums.lazyfree += u32::from(!folio.flags.has(Flags::SWAPBACKED) && !dirty);
    }
    sums.rss += 1;
    sums.referenced += u32::from(mapped && k.pte_young(pte) || folio.flags.has(Flags::REFERENCED));
    // How often a page is mapped that no entry maps just now is not known.
    let mapcount = if present { page_mapcount(k, page) } else { 1 };
    let pss = PSS_PAGE / mapcount.max(1);
    sums.pss += pss;
    sums.locked += if locked { pss } else { 0 };
    if present && mapcount < 2 {
        sums.private += 1;
    } else {
        sums.shared += 1;
    }
}

/// `folio_precise_page_mapcount()`.
fn page_mapcount(k: &Cpu, page: Pfn) -> u64 {
    let folio = k.folio(k.page_folio(page));
    let n = if folio.large() {
        i32::from(k.folio(page).page_mapcount) + i32::from(folio.entire_mapcount)
    } else {
        folio.mapcount
    };
    n.max(0) as u64
}
