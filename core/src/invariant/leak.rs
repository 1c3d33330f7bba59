//! Leaks: after the last exit everything has been given back.

use super::Finding;
use super::hugetlb::{hugetlb_leaks, in_pool};
use crate::phys::{Flags, Memcgs, Pfn};
use crate::rule::{Evidence, Rule};
use crate::world::World;

/// `leak.*`, after every process has exited and every pin was given up.
pub fn leaks(w: &World) -> Option<Finding> {
    let finding = |rule, evidence| Some(Finding { rule, cause: None, evidence });
    // A poisoned frame is never given back.
    let leaks = |p: &Pfn| {
        let flags = w.mem.folios[*p as usize].flags;
        flags.has(Flags::ALLOCATED) && !flags.has(Flags::HWPOISON) && !in_pool(w, *p)
    };
    let leaked = if w.mem.allocated() == 0 { None } else { (1..w.mem.folios.len() as Pfn).find(leaks) };
    if leaked.is_some() {
        let found = leaked.map(|p| w.mem.folios[p as usize].refcount as u64);
        return finding(Rule::LeakFolio, Evidence { pfn: leaked, found, ..Evidence::default() });
    }
    if let Some(found) = hugetlb_leaks(w) {
        return Some(found);
    }
    let charged: i32 = w.memcgs.memory.iter().chain(&w.memcgs.swap).sum();
    if charged != 0 && charged != w.memcgs.uncollected(&w.mem) {
        return finding(Rule::LeakMemcg, Evidence { pfn: Memcgs::charged_frame(&w.mem), ..Evidence::default() });
    }
    let left = |n: u32| Evidence { found: Some(u64::from(n)), ..Evidence::default() };
    if w.swap.in_use() != 0 {
        return finding(Rule::LeakSwap, left(w.swap.in_use()));
    }
    if w.tables.live() != 0 {
        return finding(Rule::LeakTable, left(w.tables.live()));
    }
    if w.anon_vmas.live() != 0 {
        return finding(Rule::LeakAnonVma, left(w.anon_vmas.live()));
    }
    None
}
