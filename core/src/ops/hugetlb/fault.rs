//! Faults on hugetlb pages.

use super::migrate::migration_entry_wait_huge;
use super::reserve::{
    alloc_hugetlb_folio, fault_mutex, hugetlb_vma_lock_read, hugetlb_vma_unlock_read, place, restore_reserve_on_error,
};
use super::share::huge_pte_alloc;
use super::uffd::hugetlb_handle_userfault;
use super::zap::unmap_ref_private;
use super::{copy_user_large_folio, make_huge_pte};
use crate::arch::Pmd;
use crate::config::Defect;
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::observe::{HUGETLBFS, UffdFlags, Userfault};
use crate::ops::filemap::{filemap_get_entry, lock_folio_at};
use crate::ops::huge::pmd_folio;
use crate::ops::rmap::anon_vma_prepare;
use crate::ops::vmf::{FaultResult, VmFault, userfaultfd_pte_wp};
use crate::phys::{CacheEntry, Flags, HpageFlags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// A fault on its way: `struct vm_fault` as hugetlb uses it, and the mutex of the page.
struct Fault<'a> {
    vmf: &'a VmFault,
    vma: VmaId,
    /// First page of the huge page.
    address: u32,
    p: PmdPtr,
    orig: Pmd,
    mutex: Lock,
}

/// `hugetlb_fault()`.
pub async fn hugetlb_fault(k: &Cpu, vmf: &VmFault) -> FaultResult {
    let vma = vmf.vma;
    let address = vmf.vpn & !(k.config().geometry.ptrs() - 1);
    let mutex = fault_mutex(k, vma, address);
    k.lock(mutex).await;
    hugetlb_vma_lock_read(k, vma).await;
    let p = huge_pte_alloc(k, vma, address).await;
    let orig = k.pmdp_get(p);
    let f = Fault { vmf, vma, address, p, orig, mutex };
    k.site(Site::HugeFault).await;
    let mut wait = None;
    let kind = k.entries().pmd_kind(orig);
    let result = match kind {
        PmdKind::Marker(EntryKind::MarkerPoisoned) => Ok(FaultResult::HwPoison),
        _ if kind.none_mostly() => hugetlb_no_page(k, &f).await,
        PmdKind::Huge => hugetlb_present(k, &f, &mut wait).await,
        PmdKind::Migration(_) => {
            k.unlock(mutex);
            migration_entry_wait_huge(k, vma, p).await;
            return FaultResult::Done;
        }
        kind => {
            // huge_pte_alloc() has the same BUG_ON().
            let table = kind == PmdKind::Table;
            let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
            k.bug_on(table, Rule::BugHugetlbPte, e);
            Ok(FaultResult::Done)
        }
    };
    hugetlb_vma_unlock_read(k, vma);
    k.unlock(mutex);
    // Only trylock would do under the locks; now the holder may be waited for.
    if let Some(folio) = wait {
        k.folio_wait_locked(folio).await;
    }
    match result {
        Ok(result) => result,
        Err(reason) => hugetlb_handle_userfault(k, vmf, address, reason).await,
    }
}

/// `hugetlb_pte_stable()`.
async fn hugetlb_pte_stable(k: &Cpu, f: &Fault<'_>) -> bool {
    k.pmd_lock(f.p).await;
    let same = k.pmdp_get(f.p) == f.orig;
    k.pmd_unlock(f.p);
    same
}

/// The folio of a fault where nothing is mapped.
struct NewFolio {
    folio: Pfn,
    /// It was allocated.
    new: bool,
    /// It is in the page cache.
    cached: bool,
}

/// `hugetlb_no_page()`, without the unlocking at its end; an error is for what the monitor has to be asked.
async fn hugetlb_no_page(k: &Cpu, f: &Fault<'_>) -> Result<FaultResult, Userfault> {
    // The owner of the mapping has taken its page away from this child.
    if k.s().w.vmas[f.vma].hugetlb.unmapped {
        return Ok(FaultResult::SigBus);
    }
    let found = match find_or_make_folio(k, f).await {
        Found::Folio(found) => found,
        Found::Userfault(reason) => return Err(reason),
        Found::End(result) => return Ok(result),
    };
    let folio = found.folio;
    k.pmd_lock(f.p).await;
    let own = !found.cached || f.vmf.write && !k.s().w.vmas[f.vma].shared();
    let cut = own && !k.has(Defect::N25) && behind_the_end(k, f);
    if cut || k.pmdp_get(f.p) != f.orig {
        k.pmd_unlock(f.p);
        if found.new && !found.cached {
            restore_reserve_on_error(k, f.vma, f.address, folio);
        }
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Ok(if cut { FaultResult::SigBus } else { FaultResult::Done });
    }
    if found.cached {
        k.hugetlb_add_file_rmap(folio);
    } else {
        k.hugetlb_add_new_anon_rmap(folio, f.vma, f.address);
    }
    let shared = k.s().w.vmas[f.vma].shared();
    let mut leaf = make_huge_pte(k, f.vma, folio, shared);
    // pte_marker_uffd_wp(): what was protected before it was there stays so.
    if k.entries().is_uffd_wp_note(k.entries().pmd_as_pte(f.orig)) {
        leaf = k.arch().pte_mkuffd_wp(leaf);
    }
    k.set_pmd_at(f.p, k.arch().pte_mkhuge(leaf)).await;
    let mut result = FaultResult::Done;
    let unlock = found.cached && f.vmf.write && !shared;
    if unlock {
        k.folio_unlock(folio);
    }
    if f.vmf.write && !shared {
        // Optimization, do the COW without a second fault
        result = hugetlb_wp(k, f, k.pmdp_get(f.p)).await;
    }
    if found.new {
        k.hpage_set(folio, HpageFlags::MIGRATABLE);
    }
    k.pmd_unlock(f.p);
    if !unlock {
        k.folio_unlock(folio);
    }
    Ok(result)
}

/// Has the file been truncated since the fault looked? Here we differ from the kernel, which looks once: what a private mapping
/// then gets of its own stays (N25).
fn behind_the_end(k: &Cpu, f: &Fault<'_>) -> bool {
    place(k, f.vma, f.address).is_some_and(|index| index >= k.i_size_read(HUGETLBFS))
}

/// What the first half of `hugetlb_no_page()` comes to.
enum Found {
    Folio(NewFolio),
    Userfault(Userfault),
    End(FaultResult),
}

/// An event, unless the entry is another one by now: it was looked at without a lock, and perhaps while somebody was changing it.
async fn userfault_if_stable(k: &Cpu, f: &Fault<'_>, reason: Userfault) -> Found {
    if k.has(Defect::H8) || hugetlb_pte_stable(k, f).await {
        Found::Userfault(reason)
    } else {
        Found::End(FaultResult::Done)
    }
}

/// The first half of `hugetlb_no_page()`: a locked folio with a reference, from the page cache or new.
async fn find_or_make_folio(k: &Cpu, f: &Fault<'_>) -> Found {
    let index = place(k, f.vma, f.address);
    let (missing, minor) = {
        let s = k.s();
        (s.w.vmas[f.vma].uffd_missing(), s.w.vmas[f.vma].uffd_minor())
    };
    if let Some(index) = index {
        if let Some(folio) = filemap_lock_hugetlb_folio(k, index).await {
            if k.folio_test(folio, Flags::HWPOISON) {
                k.folio_unlock(folio);
                k.folio_put(folio);
                return Found::End(FaultResult::HwPoison);
            }
            if minor {
                k.folio_unlock(folio);
                k.folio_put(folio);
                return userfault_if_stable(k, f, Userfault::Minor).await;
            }
            return Found::Folio(NewFolio { folio, new: false, cached: true });
        }
        if index >= k.i_size_read(HUGETLBFS) {
            return Found::End(FaultResult::SigBus);
        }
    }
    if missing {
        return userfault_if_stable(k, f, Userfault::Missing).await;
    }
    let shared = k.s().w.vmas[f.vma].shared();
    if !shared {
        anon_vma_prepare(k, f.vma).await;
    }
    let Some(folio) = alloc_hugetlb_folio(k, f.vma, f.address, false).await else {
        // Migration takes no mutex: perhaps its entry was seen between a clear and a set.
        return Found::End(if hugetlb_pte_stable(k, f).await { FaultResult::SigBus } else { FaultResult::Done });
    };
    k.folio_zero_user(folio);
    k.folio_set(folio, Flags::UPTODATE);
    k.folio_lock_new(folio);
    let Some(index) = index.filter(|_| shared) else {
        return Found::Folio(NewFolio { folio, new: true, cached: false });
    };
    k.site(Site::CacheAdd).await;
    if !k.hugetlb_add_to_page_cache(HUGETLBFS, index, folio) {
        restore_reserve_on_error(k, f.vma, f.address, folio);
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Found::End(FaultResult::SigBus);
    }
    Found::Folio(NewFolio { folio, new: true, cached: true })
}

/// `filemap_lock_hugetlb_folio()`: with a reference.
pub(super) async fn filemap_lock_hugetlb_folio(k: &Cpu, index: u32) -> Option<Pfn> {
    loop {
        let CacheEntry::Folio(folio) = filemap_get_entry(k, HUGETLBFS, index).await else { return None };
        if lock_folio_at(k, folio, HUGETLBFS, index).await {
            return Some(folio);
        }
    }
}

/// The second half of `hugetlb_fault()`: a page is mapped, but not as the access needs it.
async fn hugetlb_present(k: &Cpu, f: &Fault<'_>, wait: &mut Option<Pfn>) -> Result<FaultResult, Userfault> {
    k.pmd_lock(f.p).await;
    if k.pmdp_get(f.p) != f.orig {
        k.pmd_unlock(f.p);
        return Ok(FaultResult::Done);
    }
    let arch = k.arch();
    let (write, unshare) = (f.vmf.write, f.vmf.unshare);
    let mut leaf = k.entries().pmd_as_pte(f.orig);
    if write && !k.pte_write(leaf) && userfaultfd_pte_wp(k, f.vma, leaf) {
        if !k.s().w.vmas[f.vma].uffd.flags.has(UffdFlags::ASYNC) {
            k.pmd_unlock(f.p);
            return Err(Userfault::Wp);
        }
        // userfaultfd_wp_async()
        leaf = arch.pte_clear_uffd_wp(leaf);
        k.set_pmd_at(f.p, arch.pte_mkhuge(leaf)).await;
    }
    if (write || unshare) && !k.pte_write(leaf) {
        let folio = pmd_folio(k, f.orig);
        let anon = k.folio(folio).anon();
        if anon && !k.trylock(Lock::Folio(folio)).await {
            k.pmd_unlock(f.p);
            *wait = Some(folio);
            return Ok(FaultResult::Done);
        }
        k.folio_get(folio);
        let result = hugetlb_wp(k, f, arch.pte_mkhuge(leaf)).await;
        k.pmd_unlock(f.p);
        if anon {
            k.folio_unlock(folio);
        }
        k.folio_put(folio);
        return Ok(result);
    }
    k.pmdp_update(f.p, |pte| if write { arch.pte_mkdirty(arch.pte_mkyoung(pte)) } else { arch.pte_mkyoung(pte) }).await;
    k.flush_tlb_fix_spurious_fault(f.vmf.vpn);
    k.pmd_unlock(f.p);
    Ok(FaultResult::Done)
}

/// `set_huge_ptep_writable()`.
async fn set_huge_ptep_writable(k: &Cpu, p: PmdPtr) {
    let arch = k.arch();
    k.pmdp_update(p, |pte| arch.pte_mkwrite(arch.pte_mkdirty(arch.pte_mkyoung(pte)))).await;
}

/// `hugetlb_wp()`, with the PMD locked, and locked again when it returns: a folio that is mapped once is reused, be it
/// referenced otherwise or not, because copies may fail for want of pages; else the whole of it is copied.
async fn hugetlb_wp(k: &Cpu, f: &Fault<'_>, pte: Pmd) -> FaultResult {
    let (vma, p, unshare) = (f.vma, f.p, f.vmf.unshare);
    // Only a fault that has just mapped the page in the place of a marker comes here.
    if !unshare && k.pte_uffd_wp(k.entries().pmd_as_pte(pte)) && !k.has(Defect::H9) {
        return FaultResult::Done;
    }
    if k.s().w.vmas[vma].shared() {
        set_huge_ptep_writable(k, p).await;
        return FaultResult::Done;
    }
    let old_folio = pmd_folio(k, pte);
    loop {
        if k.folio_mapcount(old_folio) == 1 && k.folio(old_folio).anon() {
            if !k.page_anon_exclusive(old_folio) {
                k.folio_move_anon_rmap(old_folio, vma);
                k.set_page_anon_exclusive(old_folio);
            }
            if !unshare {
                k.note(Note::Reused, Some(old_folio), 0, 0);
                set_huge_ptep_writable(k, p).await;
            }
            return FaultResult::Done;
        }
        let cow_from_owner = k.s().w.vmas[vma].hugetlb.owner && k.folio(old_folio).anon();
        k.folio_get(old_folio);
        k.pmd_unlock(p);
        if let Some(new) = alloc_hugetlb_folio(k, vma, f.address, cow_from_owner).await {
            return hugetlb_cow(k, f, pte, [old_folio, new]).await;
        }
        k.folio_put(old_folio);
        if !cow_from_owner {
            k.pmd_lock(p).await;
            return FaultResult::SigBus;
        }
        // What the owner was promised it gets at the cost of those that it has forked.
        hugetlb_vma_unlock_read(k, vma);
        k.unlock(f.mutex);
        unmap_ref_private(k, vma, old_folio, f.address).await;
        k.lock(f.mutex).await;
        hugetlb_vma_lock_read(k, vma).await;
        k.pmd_lock(p).await;
        if k.pmdp_get(p) != pte {
            return FaultResult::Done;
        }
    }
}

/// The second half of `hugetlb_wp()`: copies `old` to `new`, unless somebody else was faster. Returns with the PMD locked.
async fn hugetlb_cow(k: &Cpu, f: &Fault<'_>, pte: Pmd, [old, new]: [Pfn; 2]) -> FaultResult {
    let (vma, p) = (f.vma, f.p);
    anon_vma_prepare(k, vma).await;
    k.site(Site::WpCopy).await;
    copy_user_large_folio(k, new, old);
    k.folio_set(new, Flags::UPTODATE);
    let end = f.address + k.config().geometry.ptrs();
    k.mmu_notifier_invalidate_range_start(p.mm, f.address, end, NotifyEvent::Clear).await;
    k.pmd_lock(p).await;
    let same = k.pmdp_get(p) == pte;
    if same {
        let mut leaf = make_huge_pte(k, vma, new, !f.vmf.unshare);
        if k.pte_uffd_wp(k.entries().pmd_as_pte(pte)) && !k.has(Defect::H13) {
            leaf = k.arch().pte_mkuffd_wp(leaf);
        }
        // huge_ptep_clear_flush()
        k.pmdp_huge_get_and_clear(p).await;
        k.flush_tlb_range(p.mm, f.address, end).await;
        k.hugetlb_remove_rmap(old);
        k.hugetlb_add_new_anon_rmap(new, vma, f.address);
        k.note(Note::Copied, Some(old), new, 0);
        k.set_pmd_at(p, k.arch().pte_mkhuge(leaf)).await;
        k.hpage_set(new, HpageFlags::MIGRATABLE);
    }
    k.pmd_unlock(p);
    k.mmu_notifier_invalidate_range_end(p.mm).await;
    if !same {
        restore_reserve_on_error(k, vma, f.address, new);
    }
    k.folio_put(if same { old } else { new });
    k.folio_put(old);
    k.pmd_lock(p).await;
    FaultResult::Done
}
