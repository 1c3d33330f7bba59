//! Resolving userfaultfd's write protection as it was proposed in 2019: `change_pte_range()` breaks copy-on-write itself.
//!
//! "userfaultfd: wp: handle COW properly for uffd-wp" passes over entries that are not protected, and copies a page that
//! is not its mapping's alone before it makes the entry writable. It cannot copy under the page-table lock, so it drops
//! the lock, copies, takes it again and goes on with the next entry. What was merged leaves all that to the write
//! fault; see the designs `uffd-resolve-copies` and `uffd-resolve-leaves-cow`.

use super::vmf::VmFault;
use super::wp::{do_wp_page, try_wp_page_copy, wp_can_reuse_anon_folio};
use crate::config::Defect;
use crate::mm::{PtePtr, VmaId};
use crate::phys::ZERO_PFN;
use crate::sched::Cpu;

/// How the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// With the next entry.
    Skip,
    /// With this one again: it has changed while the lock was not held.
    Again,
    /// With this one, under the lock.
    Change,
    /// Not at all: there is no memory for the copy, or no page table any more. The lock is not held.
    Stop,
}

/// What comes before a present entry is resolved. The page-table lock is held, and lazy MMU mode is on; both again
/// afterwards, unless it says [`Resolved::Stop`].
pub async fn break_cow(k: &Cpu, vma: VmaId, p: PtePtr) -> Resolved {
    let orig_pte = k.ptep_get(p);
    if !k.pte_uffd_wp(orig_pte) {
        return Resolved::Skip;
    }
    if k.s().w.vmas[vma].shared() {
        // Nothing is copied on write there. (In 2019 there was no write protection of shared memory.)
        return Resolved::Change;
    }
    let page = k.vm_normal_page(orig_pte);
    let folio = k.page_folio(page);
    // What do_wp_page() asks; the patch asked only how often the page is mapped.
    let alone = if k.has(Defect::B4) {
        page != ZERO_PFN && k.folio_mapcount(folio) <= 1
    } else {
        page != ZERO_PFN && (k.page_anon_exclusive(page) || wp_can_reuse_anon_folio(k, folio, vma).await)
    };
    if alone {
        if !k.has(Defect::B4) {
            k.set_page_anon_exclusive(page);
        }
        return Resolved::Change;
    }
    if page != ZERO_PFN && !k.has(Defect::B5) {
        k.folio_get(folio);
    }
    k.arch_leave_lazy_mmu_mode();
    let mut vmf = VmFault { retry: true, orig_pte, ..VmFault::new(k, vma, p.vpn, true) };
    let copied = if k.has(Defect::B5) {
        do_wp_page(k, &mut vmf, p).await;
        Some(true)
    } else {
        k.pte_unmap_unlock(p);
        try_wp_page_copy(k, &vmf, page).await
    };
    let done_by_others = copied == Some(false);
    if done_by_others && k.has(Defect::B3) {
        return Resolved::Skip;
    }
    if copied.is_none() || k.pte_offset_map_lock(p.mm, p.vpn).await != Some(p) {
        return Resolved::Stop;
    }
    k.arch_enter_lazy_mmu_mode();
    // The patch took an entry that has changed for one that somebody else has resolved, but it may be old, clean, or
    // another page's by now and as protected as before.
    if done_by_others || !k.arch().pte_present(k.ptep_get(p)) { Resolved::Again } else { Resolved::Change }
}
