//! `mm/rmap.c` and `mm/page_vma_mapped.c`: from a folio to the entries that map it.

use super::ksm_page::KsmWalk;
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{Accessor, EntryKind};
use crate::mm::{AnonVmaId, PtePtr, VmaId};
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

/// A walk over the VMAs in which a folio may be mapped, with the lock held for reading that keeps them there.
pub struct RmapWalk {
    folio: Pfn,
    via: Via,
    next: usize,
}

/// What leads from a folio to VMAs.
enum Via {
    /// `rmap_walk_anon()`: the folio's `anon_vma`, and the root whose lock it is.
    AnonVma { av: AnonVmaId, root: AnonVmaId },
    /// `rmap_walk_file()`: the mappings of its file. The folio, not the VMA, decides which of the two it is.
    File(FileId),
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
            k.lock(Lock::IMmapRead(file)).await;
            return Some(RmapWalk { folio, via: Via::File(file), next: 0 });
        }
        let av = f.anon_vma.checked_sub(1)?;
        let root = {
            let s = &mut *k.s();
            if !s.w.anon_vmas.is_live(av) {
                return None;
            }
            // folio_get_anon_vma(): the family stays while its lock is waited for.
            s.w.anon_vmas[av].refs += 1;
            s.w.anon_vmas[av].root
        };
        k.lock(Lock::AnonVmaRead(root)).await;
        Some(RmapWalk { folio, via: Via::AnonVma { av, root }, next: 0 })
    }

    /// The next VMA that covers the folio's index, and where in it the folio is.
    pub async fn next(&mut self, k: &Cpu) -> Option<(VmaId, u32)> {
        loop {
            let (vma, index) = {
                let s = k.s();
                let vmas = match &mut self.via {
                    Via::AnonVma { av, .. } => &s.w.anon_vmas[*av].vmas,
                    Via::File(file) => &s.w.i_mmaps[usize::from(*file)].vmas,
                    Via::Ksm(walk) => {
                        drop(s);
                        return walk.next(k, self.folio).await;
                    }
                };
                (*vmas.get(self.next)?, s.folio(self.folio).index)
            };
            self.next += 1;
            let at = k.s().w.vmas[vma].address(index);
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
                k.unlock(Lock::AnonVmaRead(root));
                k.s().w.anon_vmas.put(av, true);
            }
            Via::File(file) => k.unlock(Lock::IMmapRead(file)),
            Via::Ksm(mut walk) => walk.end(k),
        }
    }
}

/// The folio that the entry of a page refers to, as a scan of the LRU would have come upon it. Not for the zero
/// page, not for device memory, which is on no LRU list, nor for a folio that is only named by a migration entry.
/// Where nothing is mapped of a file, the folio of the page cache that would be.
pub fn mapped_folio(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    let ec = k.entries();
    let pte = k.pte_offset(mm, vpn).map(|p| k.ptep_get(p)).unwrap_or_default();
    if ec.arch.pte_none(pte) {
        return cached_folio(k, mm, vpn);
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
    (s.folio(folio).refcount > 0).then_some(folio)
}

/// The folio of the page cache that a mapping shows at an address.
fn cached_folio(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    let s = k.s();
    let vma = &s.w.vmas[s.w.vma_lookup(mm, vpn)?];
    match s.w.files[usize::from(vma.backing.file()?)].get(vma.linear_page_index(vpn)) {
        CacheEntry::Folio(folio) => Some(folio),
        CacheEntry::Empty | CacheEntry::Swap(_) => None,
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

/// `page_vma_mapped_walk()` of a small folio: the entry at `vpn` with its table locked, if it is one of those.
pub async fn page_vma_mapped_walk(k: &Cpu, folio: Pfn, mm: u8, vpn: u32, which: Pvmw) -> Option<PtePtr> {
    k.site(Site::PvmwLock).await;
    // map_pte(): a look without the lock. PVMW_SYNC, which migration uses to find its entries, skips it.
    let p = k.pte_offset(mm, vpn)?;
    let kind = k.entries().kind(k.ptep_get(p));
    if which == Pvmw::Mapped && kind != EntryKind::Present && !kind.is_device_private() && !kind.is_device_exclusive() {
        return None;
    }
    let p = k.pte_offset_map_lock(mm, vpn).await?;
    let pte = k.ptep_get(p);
    if check_pte(k, folio, pte, which) {
        let kind = k.entries().kind(pte);
        if which == Pvmw::Migration && !kind.is_migration() {
            let e = Evidence {
                proc: Some(mm),
                vpn: Some(vpn),
                pfn: Some(folio),
                what: Some("PVMW_MIGRATION"),
                on: Some(kind.name()),
                ..Evidence::default()
            };
            k.violate(Rule::WalkKind, e);
        }
        return Some(p);
    }
    k.pte_unmap_unlock(p);
    None
}

/// `check_pte()`.
fn check_pte(k: &Cpu, folio: Pfn, pte: Pte, which: Pvmw) -> bool {
    let ec = k.entries();
    let pfn = if which == Pvmw::Migration {
        if !ec.is_swap_pte(pte) {
            return false;
        }
        let entry = k.pte_to_swp_entry(pte);
        let accepted = ec.is_migration_entry(entry) || k.has(Defect::D7) && ec.is_device_exclusive_entry(entry);
        if !accepted {
            return false;
        }
        k.swp_offset_pfn(entry)
    } else if ec.is_swap_pte(pte) {
        let entry = k.pte_to_swp_entry(pte);
        if !ec.is_device_private_entry(entry) && !ec.is_device_exclusive_entry(entry) {
            return false;
        }
        k.swp_offset_pfn(entry)
    } else {
        if !ec.arch.pte_present(pte) {
            return false;
        }
        k.pte_pfn(pte)
    };
    k.page_folio(pfn) == folio
}

/// `folio_referenced()`: how many entries say that the folio was used since they were last asked.
pub async fn folio_referenced(k: &Cpu, folio: Pfn) -> u32 {
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return 0 };
    let mut referenced = 0;
    while let Some((vma, vpn)) = walk.next(k).await {
        referenced += u32::from(folio_referenced_one(k, folio, vma, vpn).await);
    }
    walk.end(k);
    referenced
}

/// `folio_referenced_one()`. The flush of a cleared young bit is left out: x86-64 does without, and arm64 does not wait
/// for it. A translation that stays cached keeps the bit from being set again.
async fn folio_referenced_one(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32) -> bool {
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = page_vma_mapped_walk(k, folio, mm, vpn, Pvmw::Mapped).await else { return false };
    let pte = k.ptep_get(p);
    let mut young = false;
    // A device-exclusive entry is old for the CPU, whatever the device does.
    if k.arch().pte_present(pte) || k.has(Defect::D10) {
        // ptep_clear_flush_young_notify()
        young = k.pte_young(pte);
        if young {
            k.accessor(Accessor::PteMkold, pte);
            let arch = k.arch();
            let unlocked = k.has(Defect::S7);
            if unlocked {
                k.pte_unmap_unlock(p);
            }
            k.ptep_update(p, Site::ReferencedEntry, |pte| arch.pte_mkold(pte)).await;
            if unlocked {
                return young;
            }
        }
    }
    k.pte_unmap_unlock(p);
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
    k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, NotifyEvent::Clear).await;
    let mut cleaned = false;
    if let Some(p) = page_vma_mapped_walk(k, folio, mm, vpn, Pvmw::MappedSync).await {
        let entry = k.ptep_get(p);
        let present = arch.pte_present(entry) || k.has(Defect::D11);
        if present && (k.pte_dirty(entry) || k.pte_write(entry)) {
            k.site(Site::Mkclean).await;
            let entry = k.ptep_clear_flush(p).await;
            k.set_pte_at(p, arch.pte_mkclean(arch.pte_wrprotect(entry))).await;
            cleaned = true;
        }
        k.pte_unmap_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    cleaned
}
