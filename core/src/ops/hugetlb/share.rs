//! Sharing of PMD tables between mappings of the same part of a file, of one process or of several.
//!
//! A table is shared only by mappings that cover all that it can map, with the same protection. Whoever is about to change
//! what a shared table says for itself alone gives up its share first, all of it: the next fault makes a table of its own,
//! or shares again. Faults hold `hugetlb_vma_lock` for reading, so that a table does not go while they use it; giving up
//! needs that lock and `i_mmap_rwsem`, both for writing.

use super::reserve::{hugetlb_vma_lock_write, hugetlb_vma_unlock_write};
use crate::config::Defect;
use crate::mm::{PmdPtr, VmaId};
use crate::observe::{HUGETLBFS, UffdFlags};
use crate::ops::pgtable::{pmd_alloc, pud_alloc};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;
use std::ops::Range;

/// What one PUD maps: `addr & PUD_MASK` and `PUD_SIZE` more.
fn pud_range(k: &Cpu, vpn: u32) -> Range<u32> {
    k.config().geometry.pud_range(vpn)
}

/// `range_in_vma()` of what the PUD of an address maps.
fn covers_pud(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let pud = pud_range(k, vpn);
    let s = k.s();
    let v = &s.w.vmas[vma];
    v.start <= pud.start && pud.end <= v.end
}

/// `want_pmd_share()`.
fn want_pmd_share(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let possible = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        // uffd_disable_huge_pmd_share()
        v.shared() && !v.hugetlb.closing && !v.uffd.flags.has(UffdFlags(UffdFlags::WP.0 | UffdFlags::MINOR.0))
    };
    possible && covers_pud(k, vma, vpn)
}

/// `adjust_range_if_pmd_sharing_possible()`: to give up a share takes away whatever the table maps.
pub(super) fn adjust_range_if_pmd_sharing_possible(k: &Cpu, vma: VmaId, range: Range<u32>) -> Range<u32> {
    if !k.s().w.vmas[vma].shared() || range.is_empty() {
        return range;
    }
    let [first, last] = [range.start, range.end - 1].map(|vpn| covers_pud(k, vma, vpn).then(|| pud_range(k, vpn)));
    first.map_or(range.start, |r| r.start)..last.map_or(range.end, |r| r.end)
}

/// `huge_pte_alloc()`.
pub(super) async fn huge_pte_alloc(k: &Cpu, vma: VmaId, address: u32) -> PmdPtr {
    let mm = k.s().w.vmas[vma].mm;
    let missing = k.pmd_offset(mm, address).is_none();
    if missing && want_pmd_share(k, vma, address) {
        pud_alloc(k, mm, address).await;
        huge_pmd_share(k, vma, address).await
    } else {
        pmd_alloc(k, mm, address).await
    }
}

/// `page_table_shareable()`: the address at which another mapping shows the same page, if its table would do.
fn page_table_shareable(k: &Cpu, svma: VmaId, vma: VmaId, address: u32) -> Option<u32> {
    let (saddr, alike) = {
        let s = k.s();
        let (v, sv) = (&s.w.vmas[vma], &s.w.vmas[svma]);
        let saddr = sv.address(v.linear_page_index(address))?;
        let index = |vpn| s.w.tables.index(vpn, 1);
        let same = sv.shared() && v.perm == sv.perm && v.uffd.flags == sv.uffd.flags && index(address) == index(saddr);
        (saddr, same && !sv.hugetlb.closing)
    };
    (alike && covers_pud(k, svma, saddr)).then_some(saddr)
}

/// `huge_pmd_share()`: takes a share in the table of another mapping, or makes a table.
async fn huge_pmd_share(k: &Cpu, vma: VmaId, address: u32) -> PmdPtr {
    let mm = k.s().w.vmas[vma].mm;
    k.lock(Lock::IMmapRead(HUGETLBFS)).await;
    let vma_at = |i: usize| k.s().w.i_mmaps[usize::from(HUGETLBFS)].vmas.get(i).copied();
    let spte = (0..).map_while(vma_at).filter(|svma| *svma != vma).find_map(|svma| {
        let saddr = page_table_shareable(k, svma, vma, address)?;
        let smm = k.s().w.vmas[svma].mm;
        k.pmd_offset(smm, saddr)
    });
    if let Some(PmdPtr { table, .. }) = spte {
        k.s().w.tables.info[table as usize].pts += 1;
        k.site(Site::PmdShare).await;
        k.lock(Lock::PageTable(mm)).await;
        if k.s().pud_populate(mm, address, table) {
            k.note(Note::PmdShared, None, u32::from(mm), address);
        } else {
            k.s().w.tables.info[table as usize].pts -= 1;
        }
        k.unlock(Lock::PageTable(mm));
    }
    let p = pmd_alloc(k, mm, address).await;
    k.unlock(Lock::IMmapRead(HUGETLBFS));
    p
}

/// Shares that were given up and are still to be flushed.
#[derive(Default)]
pub(super) struct Unshared {
    range: Option<Range<u32>>,
    fully: bool,
}

/// `huge_pmd_unshare()`, with the PMD locked: gives up the share of the table that a PMD is in. True when it was shared.
pub(super) async fn huge_pmd_unshare(k: &Cpu, unshared: &mut Unshared, vma: VmaId, p: PmdPtr) -> bool {
    if k.s().w.tables.info[p.table as usize].pts == 0 {
        return false;
    }
    let mapping = k.s().w.vmas[vma].backing.mapping();
    let locked = mapping.is_some_and(|m| k.s().w.i_mmaps[usize::from(m)].writer == k.id + 1);
    let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), what: Some("huge_pmd_unshare"), ..Evidence::default() };
    k.bug_on(!locked, Rule::EntryUnlocked, e);
    k.site(Site::PmdUnshare).await;
    let range = pud_range(k, p.vpn);
    let s = &mut *k.s();
    s.pud_clear(k.id, p.mm, range.clone());
    s.note(k.id, Note::PmdUnshared, None, u32::from(p.mm), p.vpn);
    let info = &mut s.w.tables.info[p.table as usize];
    info.pts -= 1;
    unshared.fully |= info.pts == 0;
    let old = unshared.range.take().unwrap_or(range.clone());
    unshared.range = Some(old.start.min(range.start)..old.end.max(range.end));
    true
}

/// `huge_pmd_unshare_flush()`, before `i_mmap_rwsem` is given back: nobody may change the table for itself while this
/// address space can still reach it through a TLB or a walk without locks.
pub(super) async fn huge_pmd_unshare_flush(k: &Cpu, mm: u8, unshared: Unshared) {
    let Some(range) = unshared.range else { return };
    k.site(Site::GatherFlush).await;
    k.flush_tlb_range(mm, range.start, range.end).await;
    if unshared.fully && !k.has(Defect::H4) {
        k.tlb_remove_table_sync_one().await;
    }
}

/// `hugetlb_split()`: a mapping that is about to be split no longer covers what the table maps. With `i_mmap_rwsem` held
/// for writing.
pub async fn hugetlb_split(k: &Cpu, vma: VmaId, at: u32) {
    let range = pud_range(k, at);
    if range.start != at && k.s().w.vmas[vma].shared() && covers_pud(k, vma, at) {
        hugetlb_unshare_pmds(k, vma, range).await;
    }
}

/// What `hugetlb_vm_op_split()` did before: gives the share up too early, before the locks of the split are taken.
pub async fn hugetlb_unshare_early(k: &Cpu, vma: VmaId, at: u32) {
    let range = pud_range(k, at);
    if range.start != at && k.s().w.vmas[vma].shared() && covers_pud(k, vma, at) {
        unshare_locked(k, vma, range).await;
    }
}

/// `hugetlb_unshare_all_pmds()`.
pub async fn hugetlb_unshare_all_pmds(k: &Cpu, vma: VmaId) {
    let (start, end, shared) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.start, v.end, v.shared())
    };
    let mut at = start;
    while shared && at < end {
        let range = pud_range(k, at);
        at = range.end;
        if covers_pud(k, vma, range.start) {
            unshare_locked(k, vma, range).await;
        }
    }
}

/// `hugetlb_unshare_pmds()` with `take_locks`.
async fn unshare_locked(k: &Cpu, vma: VmaId, range: Range<u32>) {
    hugetlb_vma_lock_write(k, vma).await;
    k.lock(Lock::IMmapWrite(HUGETLBFS)).await;
    hugetlb_unshare_pmds(k, vma, range).await;
    k.unlock(Lock::IMmapWrite(HUGETLBFS));
    hugetlb_vma_unlock_write(k, vma);
}

/// `hugetlb_unshare_pmds()` of what one PUD maps, with the locks held.
async fn hugetlb_unshare_pmds(k: &Cpu, vma: VmaId, range: Range<u32>) {
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = k.pmd_offset(mm, range.start) else { return };
    k.mmu_notifier_invalidate_range_start(mm, range.start, range.end, NotifyEvent::Clear).await;
    let mut unshared = Unshared::default();
    k.pmd_lock(p).await;
    huge_pmd_unshare(k, &mut unshared, vma, p).await;
    k.pmd_unlock(p);
    huge_pmd_unshare_flush(k, mm, unshared).await;
    k.mmu_notifier_invalidate_range_end(mm).await;
}
