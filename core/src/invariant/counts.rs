//! Counts: mapcount, refcount, `PG_anon_exclusive`, swap map and RSS against what really refers to a page.

use super::Finding;
use crate::config::{Defect, Design};
use crate::phys::{Flags, GUP_PIN_COUNTING_BIAS, MAX_MEMCGS, Memcgs, Pfn};
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
    let d12 = w.config.has(Defect::D12);
    if f.order != 0 {
        return large_mapcount(w, pfn, d12);
    }
    let uncounted = if d12 { f.ghost.exclusive_entries } else { 0 };
    let expected = i64::from(f.ghost.entries - uncounted);
    (i64::from(f.mapcount) != expected).then(|| count(Rule::Mapcount, pfn, expected, i64::from(f.mapcount)))
}

/// The same of a large folio: each page's own count, the PMDs', their sum, and the number of pages that PTEs map.
#[cold]
fn large_mapcount(w: &World, head: Pfn, d12: bool) -> Option<Finding> {
    if w.mem.huge_zero == Some(head) {
        return None;
    }
    let f = &w.mem.folios[head as usize];
    let (mut total, mut mapped) = (i64::from(f.ghost.pmds), 0);
    for (page, p) in (head..).zip(w.mem.pages(head)) {
        let uncounted = if d12 { p.ghost.exclusive_entries } else { 0 };
        let expected = i64::from(p.ghost.entries - uncounted);
        if i64::from(p.page_mapcount) != expected {
            return Some(count(Rule::Mapcount, page, expected, i64::from(p.page_mapcount)));
        }
        total += expected;
        mapped += i64::from(expected > 0);
    }
    let counts = [
        ("_entire_mapcount", i64::from(f.ghost.pmds), i64::from(f.entire_mapcount)),
        ("_large_mapcount", total, i64::from(f.mapcount)),
        ("_nr_pages_mapped", mapped, i64::from(f.nr_pages_mapped)),
    ];
    let (what, expected, found) = counts.into_iter().find(|(_, expected, found)| expected != found)?;
    let mut found = count(Rule::Mapcount, head, expected, found);
    found.evidence.what = Some(what);
    Some(found)
}

/// `accounting.anon-exclusive`. Before 5.19, without that bit, what remains is that a page which is mapped writable is
/// mapped once.
pub fn anon_exclusive(w: &World, pfn: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[pfn as usize];
    if f.order != 0 {
        return large_anon_exclusive(w, pfn);
    }
    let exclusive = f.flags.has(Flags::ANON_EXCLUSIVE);
    let entries = i64::from(f.ghost.entries) + i64::from(f.ghost.migration_entries);
    // A page of a file may be mapped writable by anybody who shares it.
    let writable = if f.anon() { f.ghost.writable } else { 0 };
    judge_anon_exclusive(w, pfn, exclusive, entries, writable)
}

/// The same of each page of a large folio. A PMD maps every page, and while there is one the head's flag is that of
/// all pages that no PTE maps.
#[cold]
fn large_anon_exclusive(w: &World, head: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[head as usize];
    let pmds = i64::from(f.ghost.pmds) + i64::from(f.ghost.migration_pmds);
    let by_pmd = f.flags.has(Flags::ANON_EXCLUSIVE);
    // As of a small page of a file.
    if !f.anon() {
        return None;
    }
    if pmds > 0
        && f.anon()
        && let found @ Some(_) = judge_anon_exclusive(w, head, by_pmd, pmds, f.ghost.writable_pmds)
    {
        return found;
    }
    (head..).zip(w.mem.pages(head)).find_map(|(page, p)| {
        let ptes = i64::from(p.ghost.entries) + i64::from(p.ghost.migration_entries);
        let entries = if ptes == 0 { 0 } else { ptes + pmds };
        judge_anon_exclusive(w, page, p.flags.has(Flags::ANON_EXCLUSIVE), entries, p.ghost.writable)
    })
}

fn judge_anon_exclusive(w: &World, pfn: Pfn, exclusive: bool, entries: i64, writable: u16) -> Option<Finding> {
    let counted = w.config.uses(Design::CowByCount);
    let exclusive = exclusive || counted && writable > 0;
    if exclusive && entries > 1 {
        let mut found = count(Rule::AnonExclusive, pfn, 1, entries);
        found.evidence.what = Some(if counted { "mapped writable" } else { "PageAnonExclusive is set" });
        return Some(found);
    }
    if !exclusive && writable > 0 {
        let mut found = count(Rule::AnonExclusive, pfn, 0, i64::from(writable));
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
    let pin = if f.order == 0 { i64::from(GUP_PIN_COUNTING_BIAS) } else { 1 };
    let zero = w.mem.huge_zero == Some(pfn);
    let refs = if zero { 1 } else { w.mem.mappings(pfn) + w.mem.cache_refs(pfn) };
    let expected = i64::from(refs) + i64::from(f.ghost.held) + i64::from(f.ghost.pins) * pin;
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
        let f = &w.mem.folios[w.mem.page_folio(pfn) as usize];
        if !f.flags.has(Flags::SWAPCACHE) || f.slot + u32::from(w.mem.folios[pfn as usize].tail) != slot {
            return finding(1, 0, "swap cache");
        }
    }
    None
}

/// `accounting.rss`, when nothing is in flight.
pub fn rss(w: &World, mm: u8) -> Option<Finding> {
    let m = &w.mms[mm as usize];
    let pages = m.anon_pages + m.file_pages + m.shmem_pages;
    let pairs = [(m.ghost_pages, pages, "RSS"), (m.ghost_swap, m.swap_ents, "MM_SWAPENTS")];
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

/// `accounting.memcg`, when nothing is in flight: each group's counters against what is charged to it.
pub fn memcg(w: &World) -> Option<Finding> {
    (1..MAX_MEMCGS).find_map(|i| {
        let (pages, slots) = Memcgs::count(&w.mem, &w.swap, i);
        let pairs = [(pages, w.memcgs.memory[i], "memory"), (slots, w.memcgs.swap[i], "swap")];
        let (expected, found, what) = pairs.into_iter().find(|(e, f, _)| e != f)?;
        let evidence = Evidence {
            expected: Some(i64::from(expected) as u64),
            found: Some(i64::from(found) as u64),
            what: Some(what),
            ..Evidence::default()
        };
        Some(Finding { rule: Rule::Memcg, cause: None, evidence })
    })
}
