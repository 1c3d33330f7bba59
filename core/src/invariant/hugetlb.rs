//! The pool of hugetlb pages against what is there.

use super::Finding;
use crate::config::{MAX_PROCS, MAX_REGIONS};
use crate::observe::HUGETLBFS;
use crate::phys::{CacheEntry, Flags, HpageFlags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::world::World;

fn finding(rule: Rule, expected: i32, found: i32, what: &'static str) -> Option<Finding> {
    let evidence = Evidence {
        expected: Some(i64::from(expected) as u64),
        found: Some(i64::from(found) as u64),
        what: Some(what),
        ..Evidence::default()
    };
    (expected != found).then_some(Finding { rule, cause: None, evidence })
}

/// `accounting.hugetlb`, when nothing is in flight: the counters of `struct hstate`.
pub fn hugetlb(w: &World) -> Option<Finding> {
    let h = &w.hugetlb;
    let step = 1usize << w.geometry().shift();
    let heads = (1..=w.mem.frames() as usize).step_by(step).map(|p| &w.mem.folios[p]);
    let pool = heads.filter(|f| f.order != 0 && f.flags.has(Flags::HUGETLB));
    let (mut nr, mut free) = (0, 0);
    for f in pool {
        nr += 1;
        free += i32::from(HpageFlags(f.slot).has(HpageFlags::FREED));
    }
    let promised = promised(w);
    finding(Rule::HugetlbCounts, nr, h.nr, "nr_huge_pages")
        .or_else(|| finding(Rule::HugetlbCounts, free, h.free.len() as i32, "free_huge_pages"))
        .or_else(|| finding(Rule::HugetlbCounts, promised, h.resv, "resv_huge_pages"))
        .or_else(|| finding(Rule::HugetlbCounts, h.surplus.clamp(0, h.nr), h.surplus, "surplus_huge_pages"))
        .or_else(|| finding(Rule::HugetlbCounts, h.resv.min(free), h.resv, "free for resv_huge_pages"))
}

/// Pages that are promised and not yet used: of the file those that are reserved and not there, of private mappings all
/// that are not noted as used.
fn promised(w: &World) -> i32 {
    let ptrs = w.geometry().ptrs();
    let file = &w.files[usize::from(HUGETLBFS)];
    let cached = |index: u32| matches!(file.get(index), CacheEntry::Folio(_));
    let there = file.indices().filter(|i| i.is_multiple_of(ptrs) && cached(*i)).count() as i32;
    let mut promised = w.hugetlb.file.count(0, u32::MAX) - there;
    for vma in w.mms.iter().flat_map(|m| &m.vmas).map(|v| &w.vmas[*v]) {
        let Some(resv) = vma.hugetlb.resv.filter(|_| vma.hugetlb.owner) else { continue };
        let (from, to) = (vma.pgoff / ptrs, vma.linear_page_index(vma.end) / ptrs);
        promised += (to - from) as i32 - w.hugetlb.map(resv).count(from, to);
    }
    promised
}

/// `accounting.shared-table`, when nothing is in flight: who uses each PMD table of hugetlb.
pub fn shared_tables(w: &World) -> Option<Finding> {
    let mut users = w.tables.info.iter().enumerate().filter(|(_, t)| t.live && t.pts != 0);
    users.find_map(|(table, info)| {
        let mut found = 0;
        let mut perm = None;
        for (mm, region) in (0..MAX_PROCS as u8).flat_map(|mm| (0..MAX_REGIONS as u8).map(move |r| (mm, r))) {
            let window = w.geometry().region_base(region);
            let puds = (window..window + w.geometry().region_pages()).step_by(w.geometry().pud_range(window).len());
            for at in puds.filter(|at| w.pmd_ptr(mm, *at).is_some_and(|p| p.table as usize == table)) {
                found += 1;
                let pud = w.geometry().pud_range(at);
                let vma = w.vma_lookup(mm, at).map(|v| &w.vmas[v]);
                let fits = vma.is_some_and(|v| v.backing.hugetlb() && v.start <= pud.start && pud.end <= v.end);
                // uffd_disable_huge_pmd_share()
                let told = vma.is_some_and(|v| v.uffd_wp() || v.uffd_minor());
                let alike = vma.is_some_and(|v| *perm.get_or_insert(v.perm) == v.perm);
                if !fits || !alike || told {
                    let what = match (fits, alike) {
                        (true, true) => "userfaultfd",
                        (true, false) => "other protection",
                        _ => "does not cover it",
                    };
                    let what = Some(what);
                    let evidence = Evidence { proc: Some(mm), vpn: Some(at), what, ..Evidence::default() };
                    return Some(Finding { rule: Rule::SharedTable, cause: None, evidence });
                }
            }
        }
        finding(Rule::SharedTable, found, i32::from(info.pts) + 1, "users of a PMD table")
    })
}

/// `leak.hugetlb`, after every process has exited and every file is empty.
pub fn hugetlb_leaks(w: &World) -> Option<Finding> {
    let h = &w.hugetlb;
    finding(Rule::LeakHugetlb, 0, h.resv, "resv_huge_pages")
        .or_else(|| finding(Rule::LeakHugetlb, 0, h.surplus, "surplus_huge_pages"))
}

/// True for a page of a free folio of the pool, which is no leak.
pub(super) fn in_pool(w: &World, page: Pfn) -> bool {
    let f = &w.mem.folios[w.mem.page_folio(page) as usize];
    f.flags.has(Flags::HUGETLB) && HpageFlags(f.slot).has(HpageFlags::FREED)
}
