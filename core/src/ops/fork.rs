//! `kernel/fork.c: dup_mmap()` and `mm/memory.c: copy_page_range()`.

use super::huge::{Copied as CopiedPmd, copy_huge_pmd};
use super::hugetlb::{copy_hugetlb_page_range, is_vm_hugetlb_page};
use super::mmap::nth_vma;
use super::pgtable::pte_alloc;
use super::process::{exit_mmap, mm_alloc};
use super::swap::restore_exclusive_pte;
use super::uffd_events::{dup_userfaultfd_fail, dup_userfaultfd_prep, userfaultfd_complete};
use super::vma_lock::vma_start_write;
use super::vmf::{maybe_mkwrite, userfaultfd_pte_wp};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{MigrationKind, PTE_MARKER_GUARD, PTE_MARKER_POISONED, PTE_MARKER_UFFD_WP};
use crate::mm::{Life, NewVma, PtePtr, UffdCtx, VmaId};
use crate::observe::{Outcome, UffdFlags};
use crate::phys::{Pfn, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Sim, Site};
use crate::trace::Note;

/// `dup_mm()`: makes `child` a copy of `parent`.
pub async fn fork(k: &Cpu, parent: u8, child: u8) -> Outcome {
    {
        let s = &mut *k.s();
        if s.w.mms[child as usize].life != Life::Unborn {
            return Outcome::Skipped;
        }
        mm_alloc(s, child, Life::Forking);
        s.w.mms[child as usize].memcg = s.w.mms[parent as usize].memcg;
        s.w.mms[child as usize].mce_early = s.w.mms[parent as usize].mce_early;
    }
    k.lock(Lock::MmapWrite(parent)).await;
    let mut result = Ok(());
    let mut i = 0;
    while let Some(vma) = nth_vma(k, parent, i) {
        result = dup_vma(k, parent, child, vma).await;
        if result.is_err() {
            break;
        }
        i += 1;
    }
    k.site(Site::ForkFlush).await;
    k.flush_tlb_range(parent, 0, u32::MAX).await;
    k.unlock(Lock::MmapWrite(parent));
    if result.is_err() && !k.has(Defect::V28) {
        dup_userfaultfd_fail(k, parent);
    }
    userfaultfd_complete(k, parent).await;
    if result.is_err() {
        exit_mmap(k, child).await;
        return Outcome::NoMem;
    }
    k.s().w.mms[child as usize].life = Life::Alive;
    Outcome::Done
}

/// One round of the loop in `dup_mmap()`.
async fn dup_vma(k: &Cpu, parent: u8, child: u8, src: VmaId) -> Result<(), NoMem> {
    vma_start_write(k, src).await;
    let lazily = k.has(Defect::R2);
    let (start, end, needs_copy, cow, file) = {
        let s = k.s();
        let v = &s.w.vmas[src];
        let raw = v.backing.device().is_some() && !lazily;
        (v.start, v.end, raw || v.anon_vma.is_some(), !v.shared(), v.backing.mapping())
    };
    let dst = {
        let s = &mut *k.s();
        let like = NewVma { mm: child, ..s.w.vmas[src].like() };
        let dst = s.w.vmas.alloc(like);
        s.w.vmas[dst].mergeable = s.w.vmas[src].mergeable;
        s.w.vmas[dst].thp = s.w.vmas[src].thp;
        dup_userfaultfd(s, k.id, src, dst);
        dst
    };
    anon_vma_fork(k, src, dst).await;
    if let Some(file) = file {
        k.lock(Lock::IMmapWrite(file)).await;
        k.s().w.i_mmap_insert(dst, Some(src));
        if !k.has(Defect::N27) {
            inherit_unmapped(k, src, dst);
        }
        k.unlock(Lock::IMmapWrite(file));
    }
    k.s().w.mms[child as usize].vmas.push(dst);
    // vma_needs_copy(): without an anon_vma there is nothing that faults could not bring back, save for the marks of a child
    // that is write-protected itself, and for PFN maps.
    if !needs_copy && !k.s().w.vmas[dst].uffd_wp() {
        return Ok(());
    }
    // is_cow_mapping(): else nothing is taken away from the parent.
    if !cow {
        return copy_page_range(k, src, dst, start, end).await;
    }
    k.mmu_notifier_invalidate_range_start(parent, start, end, NotifyEvent::Clear).await;
    // raw_write_seqcount_begin(&src_mm->write_protect_seq): a walk without locks must not pin what is being shared.
    k.s().w.mms[parent as usize].write_protect_seq += 1;
    let result = copy_page_range(k, src, dst, start, end).await;
    k.s().w.mms[parent as usize].write_protect_seq += 1;
    k.mmu_notifier_invalidate_range_end(parent).await;
    result
}

/// What the owner of a hugetlb mapping took away from the parent is not there for the child either. Under the lock that
/// `unmap_ref_private()` holds while it takes it away. Here we differ from the kernel, where `hugetlb_dup_vma_private()` forgets
/// the flag together with the reservations (N27).
fn inherit_unmapped(k: &Cpu, src: VmaId, dst: VmaId) {
    let s = &mut *k.s();
    s.w.vmas[dst].hugetlb.unmapped = s.w.vmas[src].hugetlb.unmapped;
}

/// `dup_userfaultfd()`: the child is not registered, unless the monitor has asked to hear of forks. Then it has a context of
/// its own with the same features.
fn dup_userfaultfd(s: &mut Sim, cpu: u8, src: VmaId, dst: VmaId) {
    let ctx = s.w.vmas[src].uffd;
    if ctx.flags.has(UffdFlags::EVENT_FORK) {
        let (parent, child) = (s.w.vmas[src].mm, s.w.vmas[dst].mm);
        s.w.vmas[dst].uffd = UffdCtx { generation: s.w.mms[child as usize].userfaults.generation, ..ctx };
        dup_userfaultfd_prep(s, cpu, parent, ctx);
    }
}

/// `anon_vma_fork()`: the child's VMA joins every `anon_vma` of the parent's, and gets one of its own. (The reuse
/// of an ancestor's `anon_vma` that has no VMA left, in `anon_vma_clone()`, is left out.)
async fn anon_vma_fork(k: &Cpu, src: VmaId, dst: VmaId) {
    let (root, av) = {
        let s = &mut *k.s();
        let Some(parent) = s.w.vmas[src].anon_vma else { return };
        let root = s.w.anon_vmas[parent].root;
        (root, s.w.anon_vmas.alloc(Some(parent)))
    };
    k.lock(Lock::AnonVmaWrite(root)).await;
    {
        let s = &mut *k.s();
        for i in 0..s.w.vmas[src].chain.len() {
            let a = s.w.vmas[src].chain[i];
            s.w.vmas[dst].chain.push(a);
            s.w.anon_vmas[a].vmas.push(dst);
        }
        s.w.vmas[dst].chain.push(av);
        s.w.vmas[dst].anon_vma = Some(av);
        s.w.anon_vmas[av].vmas.push(dst);
    }
    k.unlock(Lock::AnonVmaWrite(root));
}

/// `-ENOMEM`.
struct NoMem;

/// `copy_page_range()` down to `copy_pte_range()`.
async fn copy_page_range(k: &Cpu, src: VmaId, dst: VmaId, start: u32, end: u32) -> Result<(), NoMem> {
    let mut prealloc: Option<Pfn> = None;
    let result = copy_tables(k, src, dst, start, end, &mut prealloc).await;
    if let Some(unused) = prealloc {
        k.folio_put(unused);
    }
    result
}

async fn copy_tables(
    k: &Cpu,
    src: VmaId,
    dst: VmaId,
    start: u32,
    end: u32,
    prealloc: &mut Option<Pfn>,
) -> Result<(), NoMem> {
    let (parent, child) = {
        let s = k.s();
        (s.w.vmas[src].mm, s.w.vmas[dst].mm)
    };
    if is_vm_hugetlb_page(k, src) {
        return copy_hugetlb_page_range(k, src, dst, start, end).await.then_some(()).ok_or(NoMem);
    }
    let mut vpn = start;
    while vpn < end {
        let next = k.pmd_addr_end(vpn, end);
        if let Some(p) = k.pmd_leaf(parent, vpn)
            && copy_huge_pmd(k, src, dst, p).await == CopiedPmd::Done
        {
            vpn = next;
            continue;
        }
        if k.pte_offset(parent, vpn).is_none() {
            vpn = next;
            continue;
        }
        // -EBUSY: copy_pmd_range() makes -ENOMEM of it.
        vpn = copy_pte_range(k, src, dst, child, vpn, next, prealloc).await?;
        if vpn < next {
            // -EAGAIN: a page that may be pinned has to be copied; the copy is allocated without locks.
            *prealloc = Some(k.folio_alloc().ok_or(NoMem)?);
        }
    }
    Ok(())
}

/// `copy_pte_range()`: returns where it stopped, which is before the end when it needs a page.
async fn copy_pte_range(
    k: &Cpu,
    src: VmaId,
    dst: VmaId,
    child: u8,
    start: u32,
    end: u32,
    prealloc: &mut Option<Pfn>,
) -> Result<u32, NoMem> {
    let arch = k.arch();
    let parent = k.s().w.vmas[src].mm;
    pte_alloc(k, child, start).await;
    let Some(d0) = k.pte_offset_map_lock(child, start).await else { return Ok(end) };
    let Some(s0) = k.pte_offset(parent, start) else {
        k.pte_unmap_unlock(d0);
        return Ok(end);
    };
    k.lock(Lock::PteNested(s0.table)).await;
    let mut result = Ok(end);
    let mut vpn = start;
    while vpn < end {
        let at = |p: PtePtr| PtePtr { index: p.index + (vpn - start), vpn, ..p };
        let (s, d) = (at(s0), at(d0));
        if k.pte_none(k.ptep_get(s)) {
            vpn += 1;
            continue;
        }
        k.site(Site::ForkCopy).await;
        if !arch.pte_present(k.ptep_get(s)) {
            match copy_nonpresent_pte(k, src, dst, s, d).await {
                Copied::Done => {
                    vpn += 1;
                    continue;
                }
                Copied::Restored => {}
                Copied::Busy => {
                    result = Err(NoMem);
                    break;
                }
            }
        }
        if !copy_present_pte(k, dst, s, d, prealloc).await {
            result = Ok(vpn);
            break;
        }
        // The pin may be gone by now; then the page for the copy was not taken, and the next one would not fit it.
        if let Some(unused) = prealloc.take() {
            k.folio_put(unused);
        }
        vpn += 1;
    }
    k.unlock(Lock::PteNested(s0.table));
    k.pte_unmap_unlock(d0);
    result
}

enum Copied {
    /// The child has its entry.
    Done,
    /// `-ENOENT`: a device-exclusive entry was restored; copy it as a present one.
    Restored,
    /// `-EBUSY`: it could not be restored now.
    Busy,
}

/// `copy_nonpresent_pte()`.
async fn copy_nonpresent_pte(k: &Cpu, src: VmaId, dst: VmaId, s: PtePtr, d: PtePtr) -> Copied {
    let (arch, ec) = (k.arch(), k.entries());
    let orig = k.ptep_get(s);
    if ec.is_swap_special_pte(orig) {
        if k.s().w.vmas[dst].uffd_wp() {
            k.set_pte_at(d, orig).await;
        }
        return Copied::Done;
    }
    let entry = k.pte_to_swp_entry(orig);
    let mut pte = orig;
    if !ec.non_swap_entry(entry) {
        if !k.has(Defect::S3) {
            k.swap_duplicate(k.swp_slot(entry));
        }
        if k.pte_swp_exclusive(orig) {
            pte = arch.pte_swp_clear_exclusive(orig);
            k.set_pte_at(s, pte).await;
        }
        k.s().w.mms[d.mm as usize].swap_ents += 1;
    } else if ec.is_migration_entry(entry) {
        let page = k.swp_offset_pfn(entry);
        k.add_mm_counter(d.mm, page, 1);
        if !ec.is_readable_migration_entry(entry) && !k.s().w.vmas[src].shared() {
            // The page is no longer exclusive to the parent.
            let readable = ec.retype_migration_entry(entry, MigrationKind::Read);
            pte = k.carry_from_swap(orig, arch.swp_entry_to_pte(readable));
            k.set_pte_at(s, pte).await;
        }
    } else if ec.is_device_private_entry(entry) {
        let folio = k.swp_offset_pfn(entry);
        k.folio_get(folio);
        k.s().w.mms[d.mm as usize].anon_pages += 1;
        // Cannot fail, as these pages cannot be pinned.
        k.folio_try_dup_anon_rmap_pte(folio);
        if ec.is_writable_device_private_entry(entry) && !k.has(Defect::D15) {
            // Soft-dirty is not kept, as in mprotect.
            pte = arch.swp_entry_to_pte(ec.make_device_private_entry(u64::from(folio), false));
            if k.pte_swp_uffd_wp(orig) {
                pte = arch.pte_swp_mkuffd_wp(pte);
            }
            k.set_pte_at(s, pte).await;
        }
    } else if ec.is_device_exclusive_entry(entry) {
        let page = k.swp_offset_pfn(entry);
        if !k.has(Defect::D13) {
            return try_restore_exclusive_pte(k, src, page, s, orig).await;
        }
        k.folio_get(k.page_folio(page));
        if !k.has(Defect::D12) {
            k.folio_add_anon_rmap_pte(page, false);
        }
        k.s().w.mms[d.mm as usize].anon_pages += 1;
    } else if ec.is_pte_marker_entry(entry) {
        copy_pte_marker(k, dst, d, orig).await;
        return Copied::Done;
    }
    if !k.s().w.vmas[dst].uffd_wp() {
        pte = arch.pte_swp_clear_uffd_wp(pte);
    }
    k.set_pte_at(d, pte).await;
    Copied::Done
}

/// `copy_pte_marker()`: poison and guards go to the child, write protection only where the child is registered for it.
async fn copy_pte_marker(k: &Cpu, dst: VmaId, d: PtePtr, orig: Pte) {
    let ec = k.entries();
    let marker = ec.pte_marker_get(k.pte_to_swp_entry(orig));
    let mut copied = marker & (PTE_MARKER_GUARD | PTE_MARKER_POISONED);
    if k.s().w.vmas[dst].uffd_wp() || k.has(Defect::U3) {
        copied |= marker & PTE_MARKER_UFFD_WP;
    }
    if copied != 0 {
        k.set_pte_at(d, ec.make_pte_marker(copied)).await;
    }
}

/// `try_restore_exclusive_pte()`.
async fn try_restore_exclusive_pte(k: &Cpu, vma: VmaId, page: Pfn, p: PtePtr, orig: Pte) -> Copied {
    let folio = k.page_folio(page);
    if !k.trylock(Lock::Folio(folio)).await {
        return Copied::Busy;
    }
    restore_exclusive_pte(k, vma, page, p, orig).await;
    k.folio_unlock(folio);
    Copied::Restored
}

/// `copy_present_ptes()` of one page. False when the page may be pinned and no page to copy it to is there yet.
async fn copy_present_pte(k: &Cpu, dst: VmaId, s: PtePtr, d: PtePtr, prealloc: &mut Option<Pfn>) -> bool {
    let arch = k.arch();
    let pte = k.ptep_get(s);
    let page = k.vm_normal_page(pte);
    if page != ZERO_PFN {
        let folio = k.page_folio(page);
        k.folio_get(folio);
        if !k.folio(folio).anon() {
            k.folio_add_file_rmap_pte(page);
        } else if !k.folio_try_dup_anon_rmap_pte(page) {
            k.folio_put(folio);
            return copy_present_page(k, dst, s, d, page, prealloc).await;
        }
        k.add_mm_counter(d.mm, page, 1);
        let exclusive = k.page_anon_exclusive(page);
        k.bug_on(exclusive, Rule::BugDupRmap, Evidence { pfn: Some(page), ..Evidence::default() });
    }
    let mut copy = arch.pte_mkold(pte);
    let shared = k.s().w.vmas[dst].shared();
    copy = if shared { arch.pte_mkclean(copy) } else { arch.pte_wrprotect(copy) };
    if !shared && k.pte_write(pte) && !k.has(Defect::S6) {
        // ptep_set_wrprotect(): atomic, as the hardware may set bits meanwhile.
        k.ptep_update(s, Site::PteSet, |pte| arch.pte_wrprotect(pte)).await;
    }
    if !k.s().w.vmas[dst].uffd_wp() {
        copy = arch.pte_clear_uffd_wp(copy);
    }
    k.set_pte_at(d, copy).await;
    true
}

/// `copy_present_page()`: the child gets a copy of a page that may be pinned.
async fn copy_present_page(k: &Cpu, dst: VmaId, s: PtePtr, d: PtePtr, page: Pfn, prealloc: &mut Option<Pfn>) -> bool {
    let Some(new) = prealloc.take() else { return false };
    let arch = k.arch();
    k.s().copy_page(page, new);
    k.note(Note::PinnedCopy, Some(page), new, 0);
    k.folio_add_new_anon_rmap(new, dst, d.vpn, true);
    k.folio_add_lru(new);
    k.s().w.mms[d.mm as usize].anon_pages += 1;
    let prot = k.s().w.page_prot(dst);
    let mut pte = maybe_mkwrite(k, dst, arch.pte_mkdirty(arch.pfn_pte(u64::from(new), prot)));
    if userfaultfd_pte_wp(k, dst, k.ptep_get(s)) {
        pte = arch.pte_mkuffd_wp(pte);
    }
    k.set_pte_at(d, pte).await;
    true
}
