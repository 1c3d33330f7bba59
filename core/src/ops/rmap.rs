//! `mm/rmap.c` and `mm/page_vma_mapped.c`: from a folio to the entries that map it.

use super::ksm_page::KsmWalk;
use super::pvmw::{Mapped, PageVmaWalk};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{Accessor, EntryKind};
use crate::mm::{AnonVmaId, PmdPtr, PtePtr, VmaId};
use crate::observe::FileId;
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// `__anon_vma_prepare()`: gives a VMA its `anon_vma` before the first anonymous page is mapped in it.
/// (Sharing one with a neighbour that could be merged is left out.)
pub async fn anon_vma_prepare(k: &Cpu, vma: VmaId) {
    if k.s().w.vmas[vma].anon_vma.is_some() {
        return;
    }
    let (mm, av) = {
        let s = &mut *k.s();
        (s.w.vmas[vma].mm, s.w.anon_vmas.alloc(None))
    };
    k.lock(Lock::AnonVmaWrite(av)).await;
    k.lock(Lock::PageTable(mm)).await;
    let unused = {
        let s = &mut *k.s();
        let taken = s.w.vmas[vma].anon_vma.is_some();
        if !taken {
            s.w.vmas[vma].anon_vma = Some(av);
            s.w.vmas[vma].chain.push(av);
            s.w.anon_vmas[av].vmas.push(vma);
        }
        taken
    };
    k.unlock(Lock::PageTable(mm));
    k.unlock(Lock::AnonVmaWrite(av));
    if unused {
        k.s().w.anon_vmas.put(av, false);
    }
}

/// `anon_vma_clone()`: `dst` joins every `anon_vma` of `src`, behind whoever is there.
pub async fn anon_vma_clone(k: &Cpu, src: VmaId, dst: VmaId) {
    let root = {
        let s = k.s();
        s.w.vmas[src].anon_vma.map(|a| s.w.anon_vmas[a].root)
    };
    let Some(root) = root else { return };
    k.lock(Lock::AnonVmaWrite(root)).await;
    {
        let s = &mut *k.s();
        s.w.vmas[dst].anon_vma = s.w.vmas[src].anon_vma;
        for i in 0..s.w.vmas[src].chain.len() {
            let av = s.w.vmas[src].chain[i];
            s.w.vmas[dst].chain.push(av);
            s.w.anon_vmas[av].vmas.push(dst);
        }
    }
    k.unlock(Lock::AnonVmaWrite(root));
}

/// A walk over the VMAs in which a folio may be mapped, with the lock held for reading that keeps them there.
pub struct RmapWalk {
    folio: Pfn,
    via: Via,
    next: usize,
}

/// What leads from a folio to VMAs.
enum Via {
    /// `rmap_walk_anon()`: the folio's `anon_vma`, and the root whose lock this walk has taken.
    AnonVma { av: AnonVmaId, root: Option<AnonVmaId> },
    /// `rmap_walk_file()`: the mappings of its file, and whether this walk has taken their lock. The folio, not the VMA,
    /// decides which of the two it is.
    File { file: FileId, locked: bool },
    /// `rmap_walk_ksm()`: the stable node.
    Ksm(KsmWalk),
}

/// How a walk begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AnonLock {
    /// `folio_lock_anon_vma_read()`: not at all when the folio is not mapped.
    IfMapped,
    /// `anon_vma_lock_read()`: the caller has made sure of the `anon_vma`.
    Always,
    /// `TTU_RMAP_LOCKED`, `RMP_LOCKED`: the caller holds the lock.
    Held,
}

impl RmapWalk {
    /// `rmap_walk()`: `None` when it does not start.
    pub async fn start(k: &Cpu, folio: Pfn, lock: AnonLock) -> Option<RmapWalk> {
        let f = k.folio(folio);
        if f.flags.has(Flags::KSM) {
            k.assert_folio_locked(folio);
            return Some(RmapWalk { folio, via: Via::Ksm(KsmWalk::default()), next: 0 });
        }
        if lock == AnonLock::IfMapped && f.mapcount <= 0 {
            k.note(Note::RmapWalkNotStarted, Some(folio), 0, 0);
            return None;
        }
        if let Some(file) = f.file() {
            // The folio lock keeps folio->mapping and folio->index as they are.
            k.assert_folio_locked(folio);
            let locked = lock != AnonLock::Held;
            if locked {
                k.lock(Lock::IMmapRead(file)).await;
            }
            return Some(RmapWalk { folio, via: Via::File { file, locked }, next: 0 });
        }
        let (av, root) = RmapWalk::lock_anon_vma(k, folio, lock).await?;
        Some(RmapWalk { folio, via: Via::AnonVma { av, root }, next: 0 })
    }

    /// `folio_lock_anon_vma_read()`: the folio's `anon_vma`, and its root when that was locked. UFFDIO_MOVE may give the folio
    /// another one until the lock is held, as not every walker has locked the folio.
    async fn lock_anon_vma(k: &Cpu, folio: Pfn, lock: AnonLock) -> Option<(AnonVmaId, Option<AnonVmaId>)> {
        loop {
            let av = k.folio(folio).anon_vma.checked_sub(1)?;
            let root = {
                let s = &mut *k.s();
                if !s.w.anon_vmas.is_live(av) {
                    return None;
                }
                // folio_get_anon_vma(): the family stays while its lock is waited for.
                s.w.anon_vmas[av].refs += 1;
                s.w.anon_vmas[av].root
            };
            if lock == AnonLock::Held {
                return Some((av, None));
            }
            k.lock(Lock::AnonVmaRead(root)).await;
            if k.folio(folio).anon_vma == av + 1 {
                return Some((av, Some(root)));
            }
            k.unlock(Lock::AnonVmaRead(root));
            k.s().w.anon_vmas.put(av, true);
        }
    }

    /// The next VMA that covers some page of the folio, and where in it the first of these pages is (`vma_address()`).
    pub async fn next(&mut self, k: &Cpu) -> Option<(VmaId, u32)> {
        loop {
            let (vma, index, end) = {
                let s = k.s();
                let vmas = match &mut self.via {
                    Via::AnonVma { av, .. } => &s.w.anon_vmas[*av].vmas,
                    Via::File { file, .. } => &s.w.i_mmaps[usize::from(*file)].vmas,
                    Via::Ksm(walk) => {
                        drop(s);
                        return walk.next(k, self.folio).await;
                    }
                };
                let f = s.folio(self.folio);
                (*vmas.get(self.next)?, f.index, f.index + f.nr_pages())
            };
            self.next += 1;
            let at = {
                let s = k.s();
                let first = index.max(s.w.vmas[vma].pgoff);
                s.w.vmas[vma].address(first).filter(|_| first < end)
            };
            if let Some(vpn) = at {
                k.site(Site::RmapWalk).await;
                return Some((vma, vpn));
            }
        }
    }

    /// Ends the walk.
    pub fn end(self, k: &Cpu) {
        match self.via {
            Via::AnonVma { av, root } => {
                if let Some(root) = root {
                    k.unlock(Lock::AnonVmaRead(root));
                }
                k.s().w.anon_vmas.put(av, true);
            }
            Via::File { file, locked: true } => k.unlock(Lock::IMmapRead(file)),
            Via::File { .. } => {}
            Via::Ksm(mut walk) => walk.end(k),
        }
    }
}

/// The folio that the entry of a page refers to, as a scan of the LRU would have come upon it. Not for the zero
/// page, not for device memory, which is on no LRU list, nor for a folio that is only named by a migration entry.
/// Where nothing is mapped of a file, the folio of the page cache that would be.
pub fn mapped_folio(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    let ec = k.entries();
    let pte = k.s().w.leaf(mm, vpn);
    if ec.arch.pte_none(pte) {
        return cached_page(k, mm, vpn).map(|page| k.page_folio(page));
    }
    let kind = ec.kind(pte);
    let pfn = if kind == EntryKind::Present {
        ec.arch.pte_pfn(pte)
    } else if kind.is_device_exclusive() {
        ec.swp_offset_pfn(ec.arch.pte_to_swp_entry(pte))
    } else {
        return None;
    };
    let s = k.s();
    if pfn == 0 || !s.w.mem.valid(pfn) {
        return None;
    }
    let folio = s.w.mem.page_folio(pfn as Pfn);
    if s.w.mem.huge_zero == Some(folio) {
        return None;
    }
    // Jobs of the kernel that begin with a page leave hugetlb alone.
    (s.folio(folio).refcount > 0 && !s.folio(folio).flags.has(Flags::HUGETLB)).then_some(folio)
}

/// The page of the page cache that a mapping shows at an address.
pub(super) fn cached_page(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    let s = k.s();
    let vma = &s.w.vmas[s.w.vma_lookup(mm, vpn)?];
    let index = vma.linear_page_index(vpn);
    match s.w.files[usize::from(vma.backing.file()?)].get(index) {
        CacheEntry::Folio(folio) if s.folio(folio).flags.has(Flags::HUGETLB) => None,
        CacheEntry::Folio(folio) => Some(folio + (index - s.folio(folio).index)),
        CacheEntry::Empty | CacheEntry::Swap(_) | CacheEntry::Poisoned => None,
    }
}

/// Which entries `page_vma_mapped_walk()` looks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pvmw {
    /// Entries that map the folio: present, device-private, device-exclusive.
    Mapped,
    /// The same with `PVMW_SYNC`: without a look at the entry before its lock is taken, so that the walk waits for
    /// whoever is about to take a mapping away.
    MappedSync,
    /// `PVMW_MIGRATION`: migration entries.
    Migration,
}

/// A `PVMW_MIGRATION` walk found an entry of another kind.
pub fn report_walk_kind(k: &Cpu, folio: Pfn, p: PtePtr, pte: Pte) {
    let kind = k.entries().kind(pte);
    if !kind.is_migration() {
        let e = Evidence {
            proc: Some(p.mm),
            vpn: Some(p.vpn),
            pfn: Some(folio),
            what: Some("PVMW_MIGRATION"),
            on: Some(kind.name()),
            ..Evidence::default()
        };
        k.violate(Rule::WalkKind, e);
    }
}

/// `check_pte()`.
pub fn check_pte(k: &Cpu, folio: Pfn, pte: Pte, which: Pvmw) -> bool {
    let ec = k.entries();
    let pfn = if which == Pvmw::Migration {
        if !ec.pte_has_swap_entry(pte) {
            return false;
        }
        let entry = k.pte_to_swp_entry(pte);
        let accepted = ec.is_migration_entry(entry) || k.has(Defect::D7) && ec.is_device_exclusive_entry(entry);
        if !accepted {
            return false;
        }
        k.swp_offset_pfn(entry)
    } else if ec.is_swap_special_pte(pte) {
        // It refers to no page, and stays where it is while the page behind it migrates.
        return false;
    } else if ec.is_swap_pte(pte) {
        let entry = k.pte_to_swp_entry(pte);
        if !ec.is_device_private_entry(entry) && !ec.is_device_exclusive_entry(entry) {
            return false;
        }
        k.swp_offset_pfn(entry)
    } else {
        if !ec.arch.pte_present(pte) || k.raw_pfn(pte).is_some() {
            return false;
        }
        k.pte_pfn(pte)
    };
    k.page_folio(pfn) == folio
}

/// What `folio_referenced()` has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Referenced {
    /// How many mappings say that the folio was used since they were last asked.
    pub ptes: u32,
    /// A mapping is locked into memory (`VM_LOCKED`): the walk ended there.
    pub locked: bool,
}

/// `folio_referenced()`.
pub async fn folio_referenced(k: &Cpu, folio: Pfn) -> Referenced {
    let mut referenced = Referenced::default();
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return referenced };
    while let Some((vma, vpn)) = walk.next(k).await {
        if k.s().w.vmas[vma].locked() {
            if folio_referenced_locked(k, folio, vma, vpn).await {
                referenced.locked = true;
                break;
            }
            continue;
        }
        referenced.ptes += u32::from(folio_referenced_one(k, folio, vma, vpn).await);
    }
    walk.end(k);
    referenced
}

/// `folio_referenced_one()` in a VMA that is locked into memory: a lock that was missed is made up for. Of a large folio
/// that PTEs map only when all of it is mapped there, by one table. True when the folio is locked.
async fn folio_referenced_locked(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32) -> bool {
    let pages = k.folio_nr_pages(folio);
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::Mapped);
    let (mut ptes, mut tables) = (0, [u32::MAX, 0]);
    while let Some(at) = walk.next(k).await {
        let Mapped::Pte(p) = at else {
            k.mlock_vma_folio(folio, vma);
            walk.done(k);
            return true;
        };
        ptes += 1;
        tables = [tables[0].min(p.table), tables[1].max(p.table)];
        if pages == 1 {
            k.mlock_vma_folio(folio, vma);
            walk.done(k);
            return true;
        }
    }
    let whole = ptes == pages && tables[0] == tables[1];
    if whole {
        k.mlock_vma_folio(folio, vma);
    }
    whole
}

/// `folio_referenced_one()`. The flush of a cleared young bit is left out: x86-64 does without, and arm64 does not wait
/// for it. A translation that stays cached keeps the bit from being set again.
async fn folio_referenced_one(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32) -> bool {
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::Mapped);
    let mut referenced = false;
    while let Some(at) = walk.next(k).await {
        match at {
            Mapped::Pte(p) => {
                referenced |= clear_young(k, p).await;
                if k.has(Defect::S7) {
                    walk.unlocked();
                    return referenced;
                }
            }
            Mapped::Pmd(p) => {
                // pmdp_clear_flush_young_notify()
                let arch = k.arch();
                if k.pte_young(arch.pmd_leaf(k.pmdp_get(p))) {
                    referenced = true;
                    k.pmdp_update(p, |pte| arch.pte_mkold(pte)).await;
                }
            }
        }
    }
    referenced
}

/// `ptep_clear_flush_young_notify()` of what the walk has found, unless it is no present entry.
async fn clear_young(k: &Cpu, p: PtePtr) -> bool {
    let pte = k.ptep_get(p);
    let mut young = false;
    let unlocked = k.has(Defect::S7);
    // A device-exclusive entry is old for the CPU, whatever the device does.
    if k.arch().pte_present(pte) || k.has(Defect::D10) {
        young = k.pte_young(pte);
        if young {
            k.accessor(Accessor::PteMkold, pte);
            let arch = k.arch();
            if unlocked {
                k.pte_unmap_unlock(p);
            }
            k.ptep_update(p, Site::ReferencedEntry, |pte| arch.pte_mkold(pte)).await;
            return true;
        }
    }
    if unlocked {
        k.pte_unmap_unlock(p);
    }
    young
}

/// `folio_mkclean()`: true when an entry was cleaned. The caller holds the folio lock.
///
/// `invalid_mkclean_vma()` passes over VMAs that are not shared, so no path of the kernel comes here with an
/// anonymous folio. For those the walk is run without that filter, because it is the entry's handling that is of
/// interest.
pub async fn folio_mkclean(k: &Cpu, folio: Pfn) -> bool {
    k.assert_folio_locked(folio);
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return false };
    let mut cleaned = false;
    while let Some((vma, vpn)) = walk.next(k).await {
        let anon = k.folio(folio).anon();
        let invalid = !anon && !k.s().w.vmas[vma].shared();
        if !invalid {
            cleaned |= page_vma_mkclean_one(k, folio, vma, vpn).await;
        }
    }
    walk.end(k);
    cleaned
}

/// The `mkclean` op: cleans what a page maps. As every caller of `folio_mkclean()` does, it marks the folio dirty when
/// an entry was cleaned.
pub async fn mkclean(k: &Cpu, mm: u8, vpn: u32) {
    let Some(folio) = mapped_folio(k, mm, vpn).filter(|f| k.folio_try_get(*f)) else { return };
    k.lock(Lock::Folio(folio)).await;
    if folio_mkclean(k, folio).await {
        k.folio_mark_dirty(folio);
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
}

/// `page_vma_mkclean_one()`.
async fn page_vma_mkclean_one(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let arch = k.arch();
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::MappedSync);
    let (start, end) = walk.range();
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    let mut cleaned = false;
    while let Some(at) = walk.next(k).await {
        let p = match at {
            Mapped::Pte(p) => p,
            Mapped::Pmd(p) => {
                cleaned |= clean_pmd(k, p).await;
                continue;
            }
        };
        let entry = k.ptep_get(p);
        let present = arch.pte_present(entry) || k.has(Defect::D11);
        if present && (k.pte_dirty(entry) || k.pte_write(entry)) {
            k.site(Site::Mkclean).await;
            let entry = k.ptep_clear_flush(p).await;
            k.set_pte_at(p, arch.pte_mkclean(arch.pte_wrprotect(entry))).await;
            cleaned = true;
        }
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    cleaned
}

/// `page_vma_mkclean_one()` at PMD level.
async fn clean_pmd(k: &Cpu, p: PmdPtr) -> bool {
    let arch = k.arch();
    let leaf = arch.pmd_leaf(k.pmdp_get(p));
    if !k.pte_dirty(leaf) && !k.pte_write(leaf) {
        return false;
    }
    k.site(Site::Mkclean).await;
    let old = arch.pmd_leaf(k.pmdp_invalidate(p).await);
    k.set_pmd_at(p, arch.pte_mkhuge(arch.pte_mkclean(arch.pte_wrprotect(old)))).await;
    true
}
