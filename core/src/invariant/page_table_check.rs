//! `mm/page_table_check.c`: the kernel's own watch over what is put into page tables.

use super::Finding;
use crate::arch::Pte;
use crate::entry::{EntryConfig, EntryKind};
use crate::phys::ZERO_PFN;
use crate::rule::{Evidence, Rule};
use crate::world::World;

/// `bug.page_table_check`, for an entry of this kind that has just been set and counted:
/// `page_table_check_pte_flags()` (an entry that userfaultfd has write-protected is not writable, nor will it be when
/// it comes back), and `page_table_check_set()` (an anonymous page that is mapped writable is mapped once).
#[inline]
pub fn page_table_check(w: &World, ec: EntryConfig, kind: EntryKind, pte: Pte) -> Option<Finding> {
    let finding = |what, on: EntryKind, pfn, found| {
        let evidence = Evidence { what: Some(what), on: Some(on.name()), pfn, found, ..Evidence::default() };
        Some(Finding { rule: Rule::BugPageTableCheck, cause: None, evidence })
    };
    if kind == EntryKind::Present {
        if !ec.arch.pte_write(pte) {
            return None;
        }
        if ec.arch.pte_uffd_wp(pte) {
            return finding("uffd-wp and writable", kind, None, None);
        }
        let pfn = ec.arch.pte_pfn(pte);
        let page = w.mem.folios.get(pfn as usize).filter(|_| pfn != u64::from(ZERO_PFN))?;
        if !w.mem.folios[w.mem.page_folio(pfn as u32) as usize].anon() {
            return None;
        }
        let g = page.ghost;
        let mapped = g.entries.saturating_sub(g.exclusive_entries);
        if mapped > 1 {
            return finding("mapped writable and not alone", kind, Some(pfn as u32), Some(u64::from(mapped)));
        }
    } else if kind.is_swap_format()
        && ec.arch.pte_swp_uffd_wp(pte)
        && ec.swap_cached_writable(ec.arch.pte_to_swp_entry(pte))
    {
        return finding("uffd-wp and writable when it comes back", kind, None, None);
    }
    None
}
