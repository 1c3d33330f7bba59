//! NUMA hinting: `kernel/sched/fair.c: task_numa_work()`, `mm/mempolicy.c: change_prot_numa()`, and the faults that it
//! causes, `mm/memory.c: do_numa_page()` and `mm/huge_memory.c: do_huge_pmd_numa_page()`.
//!
//! A hinting entry looks like one of a `PROT_NONE` mapping; only the VMA tells the two apart, so none is made where the
//! VMA forbids access. Which page to move where is `mpol_misplaced()` reduced to its end: to the node of the CPU that
//! faults. Left out: the filter for pages that several nodes use, memory tiering, statistics.

use super::huge::pmd_folio;
use super::huge_zero::is_huge_zero_pmd;
use super::hugetlb::is_vm_hugetlb_page;
use super::migrate::{Migrated, Reason, migrate_pages};
use super::mmap::vmas_in;
use super::mprotect::{Change, change_protection, wants_manual_pte_write_upgrade};
use super::process::{mmget, mmput};
use super::vmf::{FaultResult, VmFault, can_change_pte_writable};
use crate::arch::{Pmd, Pte};
use crate::config::{Defect, Design, Kernel};
use crate::mm::{PmdPtr, PtePtr, VmaId};
use crate::observe::{Outcome, REGULAR};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock};
use crate::trace::Note;

/// The `numa-scan` op: `task_numa_work()` comes to a range.
pub async fn task_numa_work(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    let got = mmget(&mut k.s(), k.id, mm, false);
    if !got {
        return Outcome::Skipped;
    }
    if k.trylock(Lock::MmapRead(mm)).await {
        for vma in vmas_in(k, mm, start, end) {
            if let Some((from, to)) = scannable(k, vma, start, end) {
                change_protection(k, vma, from, to, Change::ProtNuma).await;
            }
        }
        k.unlock(Lock::MmapRead(mm));
    }
    mmput(k, mm).await;
    Outcome::Done
}

/// The part of a VMA that is to be hinted. Not of hugetlb, not of devices, not of files that are mapped read-only, and not where nobody
/// may access: there the entries could not be told from those of the mapping.
fn scannable(k: &Cpu, vma: VmaId, start: u32, end: u32) -> Option<(u32, u32)> {
    let hugetlb = is_vm_hugetlb_page(k, vma);
    let s = k.s();
    let v = &s.w.vmas[vma];
    let read_only_file = !v.anonymous() && !v.writable();
    let scanned = !hugetlb && !read_only_file && v.accessible() && v.backing.device().is_none();
    scanned.then_some((v.start.max(start), v.end.min(end)))
}

/// Has the process one thread, on this CPU?
fn single_threaded(k: &Cpu, vma: VmaId) -> bool {
    k.config().cpus == 1 && !k.s().w.vmas[vma].shared()
}

/// `folio_can_map_prot_numa()`, and what stood in its place in `change_pte_range()` before 6.19. The caller has the lock.
pub fn can_map_prot_numa(k: &Cpu, vma: VmaId, p: PtePtr) -> bool {
    let pte = k.ptep_get(p);
    if k.arch().pte_protnone(pte) {
        return false;
    }
    let page = k.vm_normal_page(pte);
    page != ZERO_PFN && folio_can_map_prot_numa(k, vma, k.page_folio(page))
}

fn folio_can_map_prot_numa(k: &Cpu, vma: VmaId, folio: Pfn) -> bool {
    let f = k.folio(folio);
    if f.flags.has(Flags::KSM) {
        return false;
    }
    let release = k.config().kernel;
    let cow = !k.s().w.vmas[vma].shared();
    // Pages that others use too are left where they are.
    let shared = if release == Kernel::V5_14 || release >= Kernel::V6_12 {
        if f.order != 0 { k.s().pages_shared(folio) } else { f.mapcount != 1 }
    } else {
        f.refcount != 1
    };
    let pinned = f.maybe_dma_pinned() && release >= Kernel::V6_12;
    if cow && (shared || pinned) || pinned && release >= Kernel::V7_3 {
        return false;
    }
    let file_lru = f.file() == Some(REGULAR);
    if file_lru && f.flags.has(Flags::DIRTY) {
        return false;
    }
    !single_threaded(k, vma) || k.s().w.mem.node_of(folio) != k.numa_node_id()
}

/// The same in `change_huge_pmd()`, which until 6.19 looked at the entry alone.
pub fn can_map_prot_numa_pmd(k: &Cpu, vma: VmaId, p: PmdPtr) -> bool {
    let pmd = k.pmdp_get(p);
    let hinted = k.arch().pte_protnone(k.arch().pmd_leaf(pmd));
    let skipped = hinted || is_huge_zero_pmd(k, pmd);
    !skipped && (k.config().kernel < Kernel::V7_3 || folio_can_map_prot_numa(k, vma, pmd_folio(k, pmd)))
}

/// `pte_mk_savedwrite()`, until 6.1: a hinting entry says that it was writable.
pub fn preserve_write(k: &Cpu, oldpte: Pte, ptent: Pte) -> Pte {
    if k.uses(Design::NumaSavedWrite) && k.pte_write(oldpte) { k.arch().pte_mkwrite(ptent) } else { ptent }
}

/// May the entry be made writable when it is made accessible again? `pte` is what it would be. That is only known while
/// the lock is held.
fn writable_again(k: &Cpu, vma: VmaId, old_pte: Pte, pte: Pte) -> bool {
    if k.uses(Design::NumaSavedWrite) {
        return k.pte_write(old_pte);
    }
    let upgrade = wants_manual_pte_write_upgrade(&k.s().w, vma);
    k.pte_write(pte) || upgrade && (k.has(Defect::V21) || can_change_pte_writable(k, vma, pte))
}

/// `do_numa_page()`: the page moves to the node of whoever wants it, or is made accessible where it is.
pub async fn do_numa_page(k: &Cpu, vmf: &VmFault, p: PtePtr) -> FaultResult {
    k.lock(Lock::Pte(p.table)).await;
    k.rcu_read_unlock();
    let old_pte = k.ptep_get(p);
    if old_pte != vmf.orig_pte {
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    }
    let page = k.vm_normal_page(old_pte);
    let pte = k.arch().pte_modify(old_pte, k.s().w.page_prot(vmf.vma));
    let writable = writable_again(k, vmf.vma, old_pte, pte);
    let folio = k.page_folio(page);
    let Some(node) = numa_migrate_check(k, page).filter(|_| migrate_misplaced_folio_prepare(k, folio)) else {
        numa_rebuild_mapping(k, vmf, p, page, Some(writable)).await;
        k.pte_unmap_unlock(p);
        return FaultResult::Done;
    };
    k.pte_unmap_unlock(p);
    if migrate_pages(k, folio, Reason::NumaMisplaced(node)).await == Migrated::Done {
        return FaultResult::Done;
    }
    let Some(p) = k.pte_offset_map_lock(vmf.mm, vmf.vpn).await else { return FaultResult::Done };
    if k.ptep_get(p) == vmf.orig_pte {
        // Whether it may be writable is no longer known. A saved bit says it all the same.
        let saved = k.uses(Design::NumaSavedWrite) && writable;
        numa_rebuild_mapping(k, vmf, p, page, saved.then_some(true)).await;
    }
    k.pte_unmap_unlock(p);
    FaultResult::Done
}

/// `numa_migrate_check()`: the node that the folio should be on, if it is on another. Before 6.12 a page of a large folio
/// is left where it is unless a PMD maps it.
fn numa_migrate_check(k: &Cpu, page: Pfn) -> Option<u8> {
    let large = k.folio_test_large(page) && k.config().kernel < Kernel::V6_12;
    if page == ZERO_PFN || large {
        return None;
    }
    mpol_misplaced(k, page)
}

fn mpol_misplaced(k: &Cpu, page: Pfn) -> Option<u8> {
    let node = k.numa_node_id();
    (k.s().w.mem.node_of(page) != node).then_some(node)
}

/// `migrate_misplaced_folio_prepare()`: takes the folio off the LRU, with a reference. Dirty folios of regular files stay.
fn migrate_misplaced_folio_prepare(k: &Cpu, folio: Pfn) -> bool {
    let f = k.folio(folio);
    let dirty = f.file() == Some(REGULAR) && f.flags.has(Flags::DIRTY);
    let isolated = !dirty && k.folio_isolate_lru(folio);
    if !isolated {
        k.note(Note::NotOnLru, Some(folio), 0, 0);
    }
    isolated
}

/// The end of `do_numa_page()`: the entry is made accessible, and with it (since 6.12) every one that maps the same large
/// folio. `writable` of the faulting entry; `None` when nobody may become writable (`ignore_writable`).
async fn numa_rebuild_mapping(k: &Cpu, vmf: &VmFault, p: PtePtr, page: Pfn, writable: Option<bool>) {
    if k.folio_test_large(page) && k.config().kernel >= Kernel::V6_12 {
        numa_rebuild_large_mapping(k, vmf, p, page, writable.is_none()).await;
    } else {
        numa_rebuild_single_mapping(k, vmf.vma, p, writable.unwrap_or(false)).await;
    }
}

/// `numa_rebuild_single_mapping()`.
async fn numa_rebuild_single_mapping(k: &Cpu, vma: VmaId, p: PtePtr, writable: bool) {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vma);
    // ptep_modify_prot_start()
    let old_pte = k.ptep_get_and_clear(p).await;
    let pte = arch.pte_mkyoung(arch.pte_modify(old_pte, prot));
    k.set_pte_at(p, if writable { arch.pte_mkwrite(pte) } else { pte }).await;
}

/// `numa_rebuild_large_mapping()`: stays inside the VMA and the page table.
async fn numa_rebuild_large_mapping(k: &Cpu, vmf: &VmFault, at: PtePtr, page: Pfn, ignore_writable: bool) {
    let arch = k.arch();
    let folio = k.page_folio(page);
    let first = vmf.vpn - (page - folio);
    let table = vmf.vpn - at.index;
    let mut start = first.max(table);
    let mut end = (first + k.folio_nr_pages(folio)).min(table + k.config().geometry.ptrs());
    if !k.has(Defect::V20) {
        let s = k.s();
        (start, end) = (start.max(s.w.vmas[vmf.vma].start), end.min(s.w.vmas[vmf.vma].end));
    }
    for vpn in start..end {
        let p = PtePtr { index: vpn - table, vpn, ..at };
        let old = k.ptep_get(p);
        if !arch.pte_present(old) || !arch.pte_protnone(old) || k.page_folio(k.vm_normal_page(old)) != folio {
            continue;
        }
        let pte = arch.pte_modify(old, k.s().w.page_prot(vmf.vma));
        let writable = !ignore_writable && writable_again(k, vmf.vma, old, pte);
        numa_rebuild_single_mapping(k, vmf.vma, p, writable).await;
    }
}

/// `do_huge_pmd_numa_page()`.
pub async fn do_huge_pmd_numa_page(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig_pmd: Pmd) -> FaultResult {
    let arch = k.arch();
    k.pmd_lock(p).await;
    if k.pmdp_get(p) != orig_pmd {
        k.pmd_unlock(p);
        return FaultResult::Done;
    }
    let old = arch.pmd_leaf(orig_pmd);
    let prot = k.s().w.page_prot(vmf.vma);
    let mut writable = writable_again(k, vmf.vma, old, arch.pte_modify(old, prot));
    let folio = pmd_folio(k, orig_pmd);
    if let Some(node) = mpol_misplaced(k, folio).filter(|_| migrate_misplaced_folio_prepare(k, folio)) {
        k.pmd_unlock(p);
        if migrate_pages(k, folio, Reason::NumaMisplaced(node)).await == Migrated::Done {
            return FaultResult::Done;
        }
        writable &= k.uses(Design::NumaSavedWrite);
        k.pmd_lock(p).await;
        if k.pmdp_get(p) != orig_pmd {
            k.pmd_unlock(p);
            return FaultResult::Done;
        }
    }
    let entry = arch.pte_mkyoung(arch.pte_modify(old, prot));
    k.set_pmd_at(p, arch.pte_mkhuge(if writable { arch.pte_mkwrite(entry) } else { entry })).await;
    k.pmd_unlock(p);
    FaultResult::Done
}
