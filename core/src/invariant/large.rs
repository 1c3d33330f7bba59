//! Large folios: what is said of those that are mapped in part.

use super::Finding;
use crate::config::Defect;
use crate::phys::Pfn;
use crate::rule::{Evidence, Rule};
use crate::world::World;

/// `accounting.deferred-split`, when nothing is in flight. A folio that is being migrated is not judged: its entries
/// come back. Nor is one of which a migration entry was zapped, because the kernel looks for such folios when a mapping
/// goes, and a migration entry is none; nor one whose device-exclusive entries the release does not count.
pub fn deferred_split(w: &World, head: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[head as usize];
    if f.order < 2 || !f.anon() || f.ghost.pmds != 0 || f.ghost.migration_pmds != 0 || w.config.has(Defect::D12) {
        return None;
    }
    let pages = w.mem.pages(head);
    let mapped = pages.iter().filter(|p| p.ghost.entries != 0).count();
    if mapped == 0 || mapped == pages.len() || pages.iter().any(|p| p.ghost.migration_entries != 0) {
        return None;
    }
    if f.ghost.migration_zapped || w.mem.deferred_split.contains(&head) {
        return None;
    }
    let evidence = Evidence {
        pfn: Some(head),
        expected: Some(pages.len() as u64),
        found: Some(mapped as u64),
        what: Some("pages mapped"),
        ..Evidence::default()
    };
    Some(Finding { rule: Rule::DeferredSplit, cause: None, evidence })
}
