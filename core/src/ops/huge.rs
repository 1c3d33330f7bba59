//! `mm/huge_memory.c`: huge pages that one PMD maps, those of private anonymous memory above all.
//!
//! The huge zero page is in [`super::huge_zero`], huge pages of files are in [`super::huge_file`].

use super::gup::gup_can_follow;
use super::huge_zero::{do_huge_zero_page, do_huge_zero_wp_pmd, dup_huge_zero_page, is_huge_zero_pmd};
use super::numa::do_huge_pmd_numa_page;
use super::pgtable::{pmd_alloc, pte_alloc, pte_alloc_one};
use super::split::split_huge_pmd;
use super::swap_cache::folio_free_swap;
use super::uffd::handle_userfault;
use super::vma_lock::vmf_anon_prepare;
use super::vmf::{FaultResult, VmFault};
use super::wp::userfaultfd_wp_async;
use crate::arch::{Pmd, Pte};
use crate::config::{Defect, Design};
use crate::entry::{MigrationKind, PmdKind};
use crate::mm::{PmdPtr, Thp, VmaId};
use crate::observe::{Backing, Userfault};
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// `pmd_page()`, as the folio that it is the head of.
pub fn pmd_folio(k: &Cpu, pmd: Pmd) -> Pfn {
    let pte = k.entries().pmd_as_pte(pmd);
    k.page_folio(k.pte_pfn(pte))
}

/// `thp_vma_allowable_order()` and `thp_vma_suitable_order()` with the policy `madvise`: may a folio of this order,
/// in its natural place around `vpn`, be used, and does it lie inside the VMA?
pub fn thp_vma_suitable_order(k: &Cpu, vma: VmaId, vpn: u32, order: u8) -> bool {
    let s = k.s();
    let v = &s.w.vmas[vma];
    let start = vpn & !((1 << order) - 1);
    // vma_is_anonymous()
    v.backing == Backing::Anon && v.thp == Thp::Huge && v.start <= start && start + (1 << order) <= v.end
}

/// The part of `__handle_mm_fault()` that deals with the PMD. `None`: the fault goes on at PTE level.
pub async fn handle_pmd_fault(k: &Cpu, vmf: &VmFault) -> Option<FaultResult> {
    let order = k.s().pmd_order();
    let allowed = thp_vma_suitable_order(k, vmf.vma, vmf.vpn, order);
    if !allowed && k.s().w.tables.pmd_leaves == 0 {
        return None;
    }
    let p = pmd_alloc(k, vmf.mm, vmf.vpn).await;
    if k.pmd_kind(p) == PmdKind::None && allowed {
        return do_huge_pmd_anonymous_page(k, vmf, p).await;
    }
    let orig_pmd = k.pmdp_get(p);
    match k.entries().pmd_kind(orig_pmd) {
        PmdKind::Migration(_) => {
            pmd_migration_entry_wait(k, p).await;
            Some(FaultResult::Done)
        }
        PmdKind::Huge if k.arch().pte_protnone(k.arch().pmd_leaf(orig_pmd)) && accessible(k, vmf.vma) => {
            Some(do_huge_pmd_numa_page(k, vmf, p, orig_pmd).await)
        }
        PmdKind::Huge | PmdKind::Invalid => {
            let write = k.pte_write(k.entries().pmd_as_pte(orig_pmd));
            if (vmf.write || vmf.unshare) && !write {
                return wp_huge_pmd(k, vmf, p, orig_pmd).await;
            }
            huge_pmd_set_accessed(k, vmf, p, orig_pmd).await;
            Some(FaultResult::Done)
        }
        _ => None,
    }
}

/// `vma_is_accessible()`.
fn accessible(k: &Cpu, vma: VmaId) -> bool {
    k.s().w.vmas[vma].accessible()
}

/// `do_huge_pmd_anonymous_page()`.
async fn do_huge_pmd_anonymous_page(k: &Cpu, vmf: &VmFault, p: PmdPtr) -> Option<FaultResult> {
    if !vmf_anon_prepare(k, vmf).await {
        return Some(FaultResult::Retry);
    }
    if !vmf.write {
        return do_huge_zero_page(k, vmf, p).await;
    }
    k.site(Site::HugeFault).await;
    let order = k.s().pmd_order();
    let folio = k.folio_alloc_order(order)?;
    k.folio_set(folio, Flags::UPTODATE);
    let pgtable = pte_alloc_one(k, vmf.mm);
    k.pmd_lock(p).await;
    if k.pmd_kind(p) != PmdKind::None {
        k.pmd_unlock(p);
        k.s().w.tables.free(pgtable);
        k.folio_put(folio);
        return Some(FaultResult::Done);
    }
    if k.s().w.vmas[vmf.vma].uffd_missing() {
        k.pmd_unlock(p);
        k.s().w.tables.free(pgtable);
        k.folio_put(folio);
        return Some(handle_userfault(k, vmf, Userfault::Missing).await);
    }
    k.s().w.tables.deposit(p.table, pgtable);
    map_anon_folio_pmd(k, vmf.vma, p, folio).await;
    k.pmd_unlock(p);
    Some(FaultResult::Done)
}

/// `map_anon_folio_pmd()`, with the PMD locked.
pub(super) async fn map_anon_folio_pmd(k: &Cpu, vma: VmaId, p: PmdPtr, folio: Pfn) {
    let arch = k.arch();
    let (prot, writable, pages) = {
        let s = k.s();
        (s.w.page_prot(vma), s.w.vmas[vma].writable(), s.w.geometry().ptrs())
    };
    let mut entry = arch.pte_mkdirty(arch.pfn_pte(u64::from(folio), prot));
    if writable {
        entry = arch.pte_mkwrite(entry);
    }
    k.folio_add_new_anon_rmap(folio, vma, p.vpn, true);
    k.folio_add_lru_vma(folio, vma);
    k.s().w.mms[p.mm as usize].anon_pages += pages as i32;
    k.set_pmd_at(p, arch.pte_mkhuge(entry)).await;
}

/// `touch_pmd()`, with the PMD locked.
pub async fn touch_pmd(k: &Cpu, p: PmdPtr, write: bool) {
    let arch = k.arch();
    let touch = |pte: Pte| if write { arch.pte_mkdirty(arch.pte_mkyoung(pte)) } else { arch.pte_mkyoung(pte) };
    k.pmdp_update(p, touch).await;
}

/// `huge_pmd_set_accessed()`.
async fn huge_pmd_set_accessed(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig_pmd: Pmd) {
    k.pmd_lock(p).await;
    if k.pmdp_get(p) == orig_pmd && k.pmd_kind(p) == PmdKind::Huge {
        touch_pmd(k, p, vmf.write).await;
        k.flush_tlb_fix_spurious_fault(vmf.vpn);
    }
    k.pmd_unlock(p);
}

/// `wp_huge_pmd()`. Userfaultfd is asked for the PMD as a whole; only its asynchronous write protection is lifted from one
/// page, so that the PMD is split. In a mapping of a file it is split too: copy-on-write and write-notify are dealt with at
/// PTE level, or when the folio is mapped anew.
async fn wp_huge_pmd(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig_pmd: Pmd) -> Option<FaultResult> {
    let anonymous = k.s().w.vmas[vmf.vma].anonymous();
    if !anonymous {
        split_huge_pmd(k, vmf.vma, p, None).await;
        if vmf.unshare && !k.has(Defect::N46) {
            // Or do_fault(), for which this is a read, maps the huge folio again.
            pte_alloc(k, vmf.mm, vmf.vpn).await;
        }
        return None;
    }
    let uffd_wp = !vmf.unshare && k.s().w.vmas[vmf.vma].uffd_wp() && k.pte_uffd_wp(k.entries().pmd_as_pte(orig_pmd));
    if uffd_wp && !userfaultfd_wp_async(k, vmf) {
        return Some(handle_userfault(k, vmf, Userfault::Wp).await);
    }
    if uffd_wp {
        split_huge_pmd(k, vmf.vma, p, None).await;
        return None;
    }
    do_huge_pmd_wp_page(k, vmf, p, orig_pmd).await
}

/// `do_huge_pmd_wp_page()`: the folio is reused when nobody else refers to it; else the PMD is split, and the fault
/// copies one page.
async fn do_huge_pmd_wp_page(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig_pmd: Pmd) -> Option<FaultResult> {
    if is_huge_zero_pmd(k, orig_pmd) {
        if k.uses(Design::HugeZeroAlloc)
            && let Some(result) = do_huge_zero_wp_pmd(k, vmf, p, orig_pmd).await
        {
            return Some(result);
        }
        split_huge_pmd(k, vmf.vma, p, None).await;
        return None;
    }
    k.pmd_lock(p).await;
    if k.pmdp_get(p) != orig_pmd || k.pmd_kind(p) != PmdKind::Huge {
        k.pmd_unlock(p);
        return Some(FaultResult::Done);
    }
    let folio = pmd_folio(k, orig_pmd);
    let mut reuse = k.page_anon_exclusive(folio);
    if !reuse {
        if !k.trylock(Lock::Folio(folio)).await {
            k.folio_get(folio);
            k.pmd_unlock(p);
            k.lock(Lock::Folio(folio)).await;
            k.pmd_lock(p).await;
            if k.pmdp_get(p) != orig_pmd {
                k.pmd_unlock(p);
                k.folio_unlock(folio);
                k.folio_put(folio);
                return Some(FaultResult::Done);
            }
            k.folio_put(folio);
        }
        reuse = k.page_anon_exclusive(folio) || wp_can_reuse_huge(k, folio, vmf.vma);
        k.folio_unlock(folio);
    }
    if !reuse {
        k.pmd_unlock(p);
        split_huge_pmd(k, vmf.vma, p, None).await;
        return None;
    }
    if vmf.unshare {
        k.pmd_unlock(p);
        return Some(FaultResult::Done);
    }
    k.note(Note::Reused, Some(folio), 0, 0);
    k.set_fault_write(true);
    let arch = k.arch();
    let writable = k.s().w.vmas[vmf.vma].writable();
    k.pmdp_update(p, |pte| {
        let entry = arch.pte_mkdirty(arch.pte_mkyoung(pte));
        if writable { arch.pte_mkwrite(entry) } else { entry }
    })
    .await;
    k.pmd_unlock(p);
    Some(FaultResult::Done)
}

/// The question in the middle of `do_huge_pmd_wp_page()`, with PMD and folio locked: is this the only reference?
fn wp_can_reuse_huge(k: &Cpu, folio: Pfn, vma: VmaId) -> bool {
    if k.uses(Design::CowByCount) {
        // reuse_swap_page() of 5.14 counts mappings, not references.
        return k.folio_mapcount(folio) == 1;
    }
    let swapcache = k.s().w.mem.cache_refs(folio);
    if k.folio_ref_count(folio) > 1 + swapcache {
        return false;
    }
    if swapcache != 0 {
        folio_free_swap(k, folio);
    }
    if k.folio_ref_count(folio) != 1 {
        return false;
    }
    k.folio_move_anon_rmap(folio, vma);
    k.set_page_anon_exclusive(folio);
    true
}

/// `mm/migrate.c: pmd_migration_entry_wait()`.
pub async fn pmd_migration_entry_wait(k: &Cpu, p: PmdPtr) {
    k.pmd_lock(p).await;
    let ec = k.entries();
    let pmd = k.pmdp_get(p);
    let folio = matches!(ec.pmd_kind(pmd), PmdKind::Migration(_))
        .then(|| k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(ec.pmd_as_pte(pmd)))));
    k.pmd_unlock(p);
    if let Some(folio) = folio {
        k.site(Site::MigrationWait).await;
        k.folio_wait_locked(folio).await;
    }
}

/// What `copy_huge_pmd()` came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copied {
    /// The child has its entry.
    Done,
    /// `-EAGAIN`: there are PTEs now, copy those.
    Again,
}

/// `copy_huge_pmd()`: fork of one PMD.
pub async fn copy_huge_pmd(k: &Cpu, src_vma: VmaId, dst_vma: VmaId, src: PmdPtr) -> Copied {
    let (arch, ec) = (k.arch(), k.entries());
    let (child, uffd_wp) = {
        let s = k.s();
        (s.w.vmas[dst_vma].mm, s.w.vmas[dst_vma].uffd_wp())
    };
    // The child's faults bring a page of a file back.
    let anonymous = k.s().w.vmas[src_vma].anonymous();
    if !anonymous {
        return Copied::Done;
    }
    let dst = pmd_alloc(k, child, src.vpn).await;
    let pgtable = pte_alloc_one(k, child);
    k.pmd_lock(dst).await;
    k.lock(Lock::PmdNested(src.table)).await;
    let unlock = |k: &Cpu| {
        k.unlock(Lock::PmdNested(src.table));
        k.pmd_unlock(dst);
    };
    let pmd = k.pmdp_get(src);
    let mut counted = k.config().geometry.ptrs() as i32;
    let copy = match ec.pmd_kind(pmd) {
        PmdKind::Migration(kind) => {
            let mut pte = ec.pmd_as_pte(pmd);
            if kind != crate::entry::EntryKind::MigrationRead {
                let entry = ec.retype_migration_entry(k.pte_to_swp_entry(pte), MigrationKind::Read);
                pte = k.carry_from_swap(pte, arch.swp_entry_to_pte(entry));
                k.set_pmd_at(src, Pmd(pte.0)).await;
            }
            Pmd(if uffd_wp { pte } else { arch.pte_swp_clear_uffd_wp(pte) }.0)
        }
        PmdKind::Huge if is_huge_zero_pmd(k, pmd) => {
            dup_huge_zero_page(k, child);
            counted = 0;
            share_pmd(k, src, pmd, uffd_wp).await
        }
        PmdKind::Huge => {
            let folio = pmd_folio(k, pmd);
            k.folio_get(folio);
            if !k.folio_try_dup_anon_rmap_pmd(folio) {
                // The folio may be pinned: split, and let the pages that are pinned be copied one by one.
                k.folio_put(folio);
                k.s().w.tables.free(pgtable);
                unlock(k);
                split_huge_pmd(k, src_vma, src, None).await;
                return Copied::Again;
            }
            share_pmd(k, src, pmd, uffd_wp).await
        }
        _ => {
            k.s().w.tables.free(pgtable);
            unlock(k);
            return Copied::Again;
        }
    };
    {
        let s = &mut *k.s();
        s.w.mms[child as usize].anon_pages += counted;
        s.w.tables.deposit(dst.table, pgtable);
    }
    k.set_pmd_at(dst, copy).await;
    unlock(k);
    Copied::Done
}

/// The end of `copy_huge_pmd()` for a present huge page: write-protected in the parent, and what the child gets.
async fn share_pmd(k: &Cpu, src: PmdPtr, pmd: Pmd, uffd_wp: bool) -> Pmd {
    let arch = k.arch();
    k.pmdp_update(src, |pte| arch.pte_wrprotect(pte)).await;
    let leaf = arch.pte_wrprotect(arch.pmd_leaf(pmd));
    arch.pte_mkhuge(arch.pte_mkold(if uffd_wp { leaf } else { arch.pte_clear_uffd_wp(leaf) }))
}

/// What `zap_huge_pmd()` has taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zapped {
    /// A migration entry: nothing can have cached a translation.
    Migration,
    /// The huge zero page.
    Zero,
    /// A folio whose reference the caller has to give up after the flush.
    Folio(Pfn),
}

/// `zap_huge_pmd()`. `None` when there is no huge page any more.
pub async fn zap_huge_pmd(k: &Cpu, mm: u8, vpn: u32) -> Option<Zapped> {
    k.site(Site::HugeZap).await;
    let p = k.pmd_trans_huge_lock(mm, vpn).await?;
    let orig = k.pmdp_huge_get_and_clear(p).await;
    if is_huge_zero_pmd(k, orig) {
        zap_deposited_table(k, p);
        k.pmd_unlock(p);
        return Some(Zapped::Zero);
    }
    let ec = k.entries();
    let leaf = ec.pmd_as_pte(orig);
    let present = matches!(ec.pmd_kind(orig), PmdKind::Huge | PmdKind::Invalid);
    let folio = if present { pmd_folio(k, orig) } else { k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(leaf))) };
    k.site(Site::HugeZapCleared).await;
    if present {
        k.folio_remove_rmap_pmd(folio);
    }
    let anon = k.folio(folio).anon();
    if anon {
        zap_deposited_table(k, p);
    }
    let pages = k.config().geometry.ptrs() as i32;
    k.add_mm_counter(mm, folio, -pages);
    if !anon && present && k.pte_dirty(leaf) {
        k.folio_mark_dirty(folio);
    }
    k.pmd_unlock(p);
    Some(if present { Zapped::Folio(folio) } else { Zapped::Migration })
}

/// `zap_deposited_table()`.
fn zap_deposited_table(k: &Cpu, p: PmdPtr) {
    let s = &mut *k.s();
    if let Some(table) = s.w.tables.withdraw(p.table) {
        s.w.tables.free(table);
    }
}

/// `follow_huge_pmd()`, with `FOLL_WRITE` or without: the page at `vpn`, if the PMD permits it. The caller holds the PMD
/// lock and takes the reference.
pub fn follow_huge_pmd(k: &Cpu, p: PmdPtr, vpn: u32, write: bool) -> Option<Pfn> {
    let pmd = k.pmdp_get(p);
    if k.entries().pmd_kind(pmd) != PmdKind::Huge {
        return None;
    }
    let leaf = k.entries().pmd_as_pte(pmd);
    let ok = (!write || k.pte_write(leaf)) && gup_can_follow(k, leaf);
    ok.then(|| k.pte_pfn(leaf) + (vpn - p.vpn))
}
