//! `mm/huge_memory.c`: the huge zero page, which every read fault on empty memory maps where huge pages may be used.
//!
//! There is one for all address spaces, made by the first fault that wants it. Each address space that has ever mapped it
//! holds one reference (`MMF_HUGE_ZERO_PAGE`), however often it does, and gives it up when it goes; the shrinker holds one
//! more, and frees the page when that is the last. Left out: `use_zero_page` 0, and the page that is never freed (6.18).

use super::huge::map_anon_folio_pmd;
use super::pgtable::pte_alloc_one;
use super::uffd::handle_userfault;
use super::vmf::{FaultResult, VmFault};
use crate::arch::Pmd;
use crate::config::Defect;
use crate::entry::PmdKind;
use crate::mm::{PmdPtr, VmaId};
use crate::observe::Userfault;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, NotifyEvent, Site};
use crate::trace::Note;

/// `is_huge_zero_pmd()`.
pub fn is_huge_zero_pmd(k: &Cpu, pmd: Pmd) -> bool {
    let ec = k.entries();
    matches!(ec.pmd_kind(pmd), PmdKind::Huge | PmdKind::Invalid)
        && k.s().w.mem.huge_zero.is_some_and(|zero| ec.arch.pte_pfn(ec.pmd_as_pte(pmd)) == u64::from(zero))
}

/// `get_huge_zero_page()`: a reference, and the page if there is none yet. False when there is no memory.
fn get_huge_zero_page(k: &Cpu) -> bool {
    if k.s().w.mem.huge_zero_refs != 0 {
        k.s().w.mem.huge_zero_refs += 1;
        return true;
    }
    let order = k.s().pmd_order();
    let Some(folio) = k.folio_alloc_unmovable(order) else { return false };
    k.folio_set(folio, Flags::UPTODATE);
    let mem = &mut k.s().w.mem;
    mem.huge_zero = Some(folio);
    // One for the caller, one for the shrinker.
    mem.huge_zero_refs = 2;
    true
}

/// `mm_get_huge_zero_folio()`: the page, with the reference of this address space.
pub fn mm_get_huge_zero_folio(k: &Cpu, mm: u8) -> Option<Pfn> {
    if !k.s().w.mms[mm as usize].huge_zero {
        if !get_huge_zero_page(k) {
            return None;
        }
        k.s().w.mms[mm as usize].huge_zero = true;
    }
    k.s().w.mem.huge_zero
}

/// `mm_put_huge_zero_folio()`, when the address space is gone.
pub fn mm_put_huge_zero_folio(k: &Cpu, mm: u8) {
    if !std::mem::take(&mut k.s().w.mms[mm as usize].huge_zero) {
        return;
    }
    k.s().w.mem.huge_zero_refs -= 1;
    let last = k.s().w.mem.huge_zero_refs == 0;
    // put_huge_zero_page(): only the shrinker puts the last one.
    k.bug_on(last, Rule::BugRefUnderflow, Evidence { pfn: k.s().w.mem.huge_zero, ..Evidence::default() });
}

/// `shrink_huge_zero_page_scan()`: frees the page when no address space needs it any more.
pub fn shrink_huge_zero_page(k: &Cpu) {
    let folio = {
        let mem = &mut k.s().w.mem;
        if mem.huge_zero_refs != 1 {
            return;
        }
        mem.huge_zero_refs = 0;
        mem.huge_zero.take()
    };
    if let Some(folio) = folio {
        k.folio_put(folio);
    }
}

/// The branch of `do_huge_pmd_anonymous_page()` for a read. `None` when there is no memory for the page: a small zero page
/// does as well.
pub async fn do_huge_zero_page(k: &Cpu, vmf: &VmFault, p: PmdPtr) -> Option<FaultResult> {
    let arch = k.arch();
    k.site(Site::HugeFault).await;
    let folio = mm_get_huge_zero_folio(k, vmf.mm)?;
    let pgtable = pte_alloc_one(k, vmf.mm);
    k.pmd_lock(p).await;
    let missing = k.s().w.vmas[vmf.vma].uffd_missing();
    let none = k.pmd_kind(p) == PmdKind::None;
    if !none || missing {
        k.pmd_unlock(p);
        k.s().w.tables.free(pgtable);
        return Some(if none { handle_userfault(k, vmf, Userfault::Missing).await } else { FaultResult::Done });
    }
    // set_huge_zero_folio()
    let prot = k.s().w.page_prot(vmf.vma);
    k.s().w.tables.deposit(p.table, pgtable);
    k.set_pmd_at(p, arch.pte_mkhuge(arch.pfn_pte(u64::from(folio), prot))).await;
    k.pmd_unlock(p);
    Some(FaultResult::Done)
}

/// `do_huge_zero_wp_pmd()` since 6.13: a store gets a huge page of its own. `None` when there is none to be had.
pub async fn do_huge_zero_wp_pmd(k: &Cpu, vmf: &VmFault, p: PmdPtr, orig_pmd: Pmd) -> Option<FaultResult> {
    k.site(Site::HugeFault).await;
    let (order, pages) = {
        let s = k.s();
        (s.pmd_order(), s.w.geometry().ptrs())
    };
    let folio = k.folio_alloc_order(order)?;
    k.folio_set(folio, Flags::UPTODATE);
    k.mmu_notifier_invalidate_range_start(vmf.mm, p.vpn, p.vpn + pages, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let same = k.pmdp_get(p) == orig_pmd;
    if same {
        pmdp_huge_clear_flush(k, p).await;
        map_anon_folio_pmd(k, vmf.vma, p, folio).await;
        k.note(Note::Copied, Some(folio), folio, 0);
    }
    k.pmd_unlock(p);
    if !same {
        k.folio_put(folio);
    }
    k.mmu_notifier_invalidate_range_end(vmf.mm).await;
    Some(FaultResult::Done)
}

/// `pmdp_huge_clear_flush()`.
pub async fn pmdp_huge_clear_flush(k: &Cpu, p: PmdPtr) -> Pmd {
    let pages = k.config().geometry.ptrs();
    let old = k.pmdp_huge_get_and_clear(p).await;
    k.flush_tlb_range(p.mm, p.vpn, p.vpn + pages).await;
    old
}

/// What `copy_huge_pmd()` does for the child's sake: it needs no memory, as the page is there.
pub fn dup_huge_zero_page(k: &Cpu, child: u8) {
    if !k.has(Defect::T8) {
        mm_get_huge_zero_folio(k, child);
    }
}

/// `__split_huge_zero_page_pmd()`, with the PMD locked: small zero pages take its place.
pub async fn split_huge_zero_page_pmd(k: &Cpu, vma: VmaId, p: PmdPtr) {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vma);
    let old = arch.pmd_leaf(pmdp_huge_clear_flush(k, p).await);
    let mut entry = arch.pte_mkspecial(arch.pfn_pte(u64::from(ZERO_PFN), prot));
    if k.pte_uffd_wp(old) {
        entry = arch.pte_mkuffd_wp(entry);
    }
    k.site(Site::PmdPopulate).await;
    let s = &mut *k.s();
    let table = super::split::withdraw(s, p);
    s.pmd_populate_with(k.id, p, table, |_| entry);
}
