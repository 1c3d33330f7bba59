//! Counts: mapcount, refcount, `PG_anon_exclusive`, swap map and RSS against what really refers to a page.

use super::Finding;
use crate::config::Defect;
use crate::phys::{Flags, GUP_PIN_COUNTING_BIAS, Pfn};
use crate::rule::{Evidence, Rule};
use crate::world::World;

fn count(rule: Rule, pfn: Pfn, expected: i64, found: i64) -> Finding {
    let evidence =
        Evidence { pfn: Some(pfn), expected: Some(expected as u64), found: Some(found as u64), ..Evidence::default() };
    Finding { rule, cause: None, evidence }
}

/// `accounting.mapcount`. Before 6.15 a device-exclusive entry held a reference but no mapping: that was the
/// release's own rule, and the harm it does shows as `progress.*`, not here.
pub fn mapcount(w: &World, pfn: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[pfn as usize];
    let uncounted = if w.config.has(Defect::D12) { f.ghost.exclusive_entries } else { 0 };
    let expected = i64::from(f.ghost.entries - uncounted);
    (i64::from(f.mapcount) != expected).then(|| count(Rule::Mapcount, pfn, expected, i64::from(f.mapcount)))
}

/// `accounting.anon-exclusive`.
pub fn anon_exclusive(w: &World, pfn: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[pfn as usize];
    let exclusive = f.flags.has(Flags::ANON_EXCLUSIVE);
    let entries = i64::from(f.ghost.entries) + i64::from(f.ghost.migration_entries);
    if exclusive && entries > 1 {
        let what = Some("PageAnonExclusive is set");
        let mut found = count(Rule::AnonExclusive, pfn, 1, entries);
        found.evidence.what = what;
        return Some(found);
    }
    if !exclusive && f.ghost.writable > 0 {
        let mut found = count(Rule::AnonExclusive, pfn, 0, i64::from(f.ghost.writable));
        found.evidence.what = Some("PageAnonExclusive is clear");
        return Some(found);
    }
    None
}

/// `accounting.refcount`, when nothing is in flight.
pub fn refcount(w: &World, pfn: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[pfn as usize];
    if !f.flags.has(Flags::ALLOCATED) {
        return None;
    }
    let expected = i64::from(f.ghost.entries)
        + i64::from(f.flags.has(Flags::SWAPCACHE))
        + i64::from(f.ghost.pins) * i64::from(GUP_PIN_COUNTING_BIAS);
    (i64::from(f.refcount) != expected).then(|| count(Rule::Refcount, pfn, expected, i64::from(f.refcount)))
}

/// `accounting.swap-map`, when nothing is in flight: the count of a slot, and that slot and folio in the swap
/// cache name each other.
pub fn swap_map(w: &World, slot: u32) -> Option<Finding> {
    let s = &w.swap.slots[slot as usize];
    let finding = |expected: u16, found: u16, what| {
        let evidence = Evidence {
            expected: Some(u64::from(expected)),
            found: Some(u64::from(found)),
            pfn: s.cache,
            what: Some(what),
            ..Evidence::default()
        };
        Some(Finding { rule: Rule::SwapMap, cause: None, evidence })
    };
    if s.count != s.entries {
        return finding(s.entries, s.count, "swap_map");
    }
    if let Some(pfn) = s.cache {
        let f = &w.mem.folios[pfn as usize];
        if !f.flags.has(Flags::SWAPCACHE) || f.slot != slot {
            return finding(1, 0, "swap cache");
        }
    }
    None
}

/// `accounting.rss`, when nothing is in flight.
pub fn rss(w: &World, mm: u8) -> Option<Finding> {
    let m = &w.mms[mm as usize];
    let pairs = [(m.ghost_anon, m.anon_pages, "MM_ANONPAGES"), (m.ghost_swap, m.swap_ents, "MM_SWAPENTS")];
    let (expected, found, what) = pairs.into_iter().find(|(e, f, _)| e != f)?;
    let evidence = Evidence {
        proc: Some(mm),
        expected: Some(i64::from(expected) as u64),
        found: Some(i64::from(found) as u64),
        what: Some(what),
        ..Evidence::default()
    };
    Some(Finding { rule: Rule::Rss, cause: None, evidence })
}
