//! Entries taken away: `mm/memory.c: zap_pte_range()` and `mm/mmu_gather.c`; `mm/rmap.c: unlink_anon_vmas()`.

use super::guard::is_guard_pte_marker;
use super::huge::{Zapped, zap_huge_pmd};
use super::hugetlb::{is_vm_hugetlb_page, unmap_single_hugetlb_vma};
use super::split::split_huge_pmd;
use super::swap_cache::{folio_free_swap, free_swap_cache};
use crate::arch::Pte;
use crate::config::Defect;
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{PmdPtr, PtePtr, VmaId};
use crate::phys::{Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use arrayvec::ArrayVec;

/// Pages that a gather holds before it has to flush: `MMU_GATHER_BUNDLE`, the batch that is part of the gather itself
/// (the kernel may chain further ones to it).
const GATHER_PAGES: usize = 8;

/// A page that waits for the flush.
#[derive(Clone, Copy)]
struct Gathered {
    pfn: Pfn,
    /// `ENCODED_PAGE_BIT_DELAY_RMAP`: its mapping is still counted.
    delay_rmap: bool,
}

/// `struct zap_details`: what is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZapDetails {
    /// Private copies go as well (`should_zap_cows()`).
    pub even_cows: bool,
    /// `ZAP_FLAG_DROP_MARKER`: the mapping goes, and guard pages with it.
    pub drop_markers: bool,
    /// Notes of userfaultfd's write protection stay, and are left where protected pages of files were: not
    /// `ZAP_FLAG_DROP_MARKER`, and the mapping is not anonymous.
    pub keep_notes: bool,
    /// `single_folio`, and it is a huge one: not one mapping of it may be passed over, be it on its way out.
    pub single_folio: bool,
}

impl ZapDetails {
    /// `NULL`: everything goes.
    pub const ALL: ZapDetails =
        ZapDetails { even_cows: true, drop_markers: false, keep_notes: false, single_folio: false };
    /// Of a mapping that goes.
    pub const UNMAP: ZapDetails = ZapDetails { drop_markers: true, ..ZapDetails::ALL };
}

/// `struct mmu_gather`: pages that wait for a TLB flush before they are freed.
pub struct MmuGather {
    mm: u8,
    details: ZapDetails,
    /// The mapping that is zapped is locked (`VM_LOCKED`).
    locked: bool,
    pages: ArrayVec<Gathered, GATHER_PAGES>,
    start: u32,
    end: u32,
}

impl MmuGather {
    /// `tlb_gather_mmu()`.
    pub fn new(k: &Cpu, mm: u8) -> MmuGather {
        k.s().w.mms[mm as usize].tlb_flush_pending += 1;
        MmuGather { mm, details: ZapDetails::ALL, locked: false, pages: ArrayVec::new(), start: u32::MAX, end: 0 }
    }

    /// Gathers for a mapping that goes.
    pub fn unmapping(k: &Cpu, mm: u8) -> MmuGather {
        MmuGather::with(k, mm, ZapDetails::UNMAP)
    }

    /// Gathers with these details.
    pub(super) fn with(k: &Cpu, mm: u8, details: ZapDetails) -> MmuGather {
        MmuGather { details, ..MmuGather::new(k, mm) }
    }

    /// `ZAP_FLAG_UNMAP`: the mapping goes.
    pub(super) fn unmaps(&self) -> bool {
        self.details == ZapDetails::UNMAP
    }

    /// `ZAP_FLAG_DROP_MARKER`.
    pub(super) fn drops_markers(&self) -> bool {
        self.details.drop_markers
    }

    /// `tlb_remove_huge_tlb_entry()`.
    pub(super) fn remove_huge_tlb_entry(&mut self, k: &Cpu, vpn: u32) {
        self.range(vpn);
        self.range(vpn + k.config().geometry.ptrs() - 1);
    }

    /// `tlb_remove_page_size()` of a huge page.
    pub(super) async fn remove_huge_page(&mut self, k: &Cpu, folio: Pfn) {
        if self.pages.is_full() {
            self.flush(k).await;
        }
        self.pages.push(Gathered { pfn: folio, delay_rmap: false });
    }

    /// Not `ZAP_FLAG_DROP_MARKER`: notes of write protection stay.
    pub fn keep_notes(&mut self, keep: bool) {
        self.details.keep_notes = keep;
    }

    /// `tlb_remove_tlb_entry()`: a translation of the page may be cached.
    pub(super) fn range(&mut self, vpn: u32) {
        self.start = self.start.min(vpn);
        self.end = self.end.max(vpn + 1);
    }

    /// `tlb_flush_mmu()`: flushes, then frees.
    pub async fn flush(&mut self, k: &Cpu) {
        if k.has(Defect::S1) {
            self.free_pages(k).await;
        }
        self.flush_tlb_only(k).await;
        self.free_pages(k).await;
    }

    /// `tlb_finish_mmu()`. Where others gather in the same address space, entries that this one has found clear may still be in a
    /// TLB; so all of it is flushed.
    pub async fn finish(mut self, k: &Cpu) {
        let mm = self.mm as usize;
        let nested = k.s().w.mms[mm].tlb_flush_pending > 1;
        if nested && !k.has(Defect::S44) {
            (self.start, self.end) = (0, u32::MAX);
        }
        self.flush(k).await;
        k.s().w.mms[mm].tlb_flush_pending -= 1;
    }

    /// `tlb_flush_mmu_tlbonly()`.
    async fn flush_tlb_only(&mut self, k: &Cpu) {
        if self.start < self.end {
            k.site(Site::GatherFlush).await;
            let (start, end) = (self.start, self.end);
            (self.start, self.end) = (u32::MAX, 0);
            k.flush_tlb_range(self.mm, start, end).await;
        }
    }

    /// `free_pages_and_swap_cache()`.
    async fn free_pages(&mut self, k: &Cpu) {
        for gathered in self.pages.take() {
            let folio = k.page_folio(gathered.pfn);
            free_swap_cache(k, folio).await;
            k.folio_put(folio);
        }
    }

    /// `tlb_flush_rmaps()`: after the flush nobody can dirty the pages through an old translation, so that they may
    /// leave the reverse map, where writeback looks for who might.
    fn flush_rmaps(&mut self, k: &Cpu) {
        let locked = self.locked;
        for page in self.pages.iter_mut().filter(|p| p.delay_rmap) {
            page.delay_rmap = false;
            k.folio_remove_rmap_pte(page.pfn);
            k.munlock_page_if(page.pfn, locked);
        }
    }
}

/// The branch of `zap_pmd_range()` for a huge page: zapped as a whole, or split when only a part goes. True when nothing is left to do.
async fn zap_pmd(k: &Cpu, tlb: &mut MmuGather, vma: VmaId, p: PmdPtr, pages: u32) -> bool {
    if pages != k.config().geometry.ptrs() {
        split_huge_pmd(k, vma, p, None).await;
        return false;
    }
    if tlb.pages.is_full() {
        tlb.flush(k).await;
    }
    let Some(zapped) = zap_huge_pmd(k, tlb.mm, p.vpn).await else { return false };
    if zapped != Zapped::Migration {
        tlb.range(p.vpn);
        tlb.range(p.vpn + pages - 1);
    }
    if let Zapped::Folio(pfn) = zapped {
        k.munlock_page_if(pfn, tlb.locked);
        tlb.pages.push(Gathered { pfn, delay_rmap: false });
    }
    true
}

/// `unmap_single_vma()` of a part of a VMA.
pub async fn unmap_single_vma(k: &Cpu, tlb: &mut MmuGather, vma: VmaId, start: u32, end: u32) {
    if is_vm_hugetlb_page(k, vma) {
        return unmap_single_hugetlb_vma(k, tlb, vma, start, end).await;
    }
    zap_range(k, tlb, vma, start, end).await;
}

/// `unmap_page_range()` of a part of a VMA: table by table.
pub async fn zap_range(k: &Cpu, tlb: &mut MmuGather, vma: VmaId, start: u32, end: u32) {
    tlb.locked = k.s().w.vmas[vma].locked();
    let ptrs = k.config().geometry.ptrs();
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        if let Some(p) = k.pmd_leaf(tlb.mm, at)
            && zap_pmd(k, tlb, vma, p, next - at).await
        {
            at = next;
            continue;
        }
        if tlb.details.single_folio && next - at == ptrs && !k.has(Defect::T11) {
            wait_for_zap_huge_pmd(k, tlb.mm, at).await;
        }
        while at < next {
            let Some(reached) = zap_pte_range(k, tlb, at, next).await else { break };
            at = reached;
        }
        // The table has gone: if a huge page has come in its place, it goes as well.
        if at < next && k.pmd_leaf(tlb.mm, at).is_none() {
            at = next;
        }
    }
}

/// In `zap_pmd_range()`: somebody else may have cleared the PMD and not yet taken the mapping off the folio's count. It does
/// both under the PMD lock.
async fn wait_for_zap_huge_pmd(k: &Cpu, mm: u8, vpn: u32) {
    let none = k.pmd_offset(mm, vpn).filter(|p| k.pmd_kind(*p) == PmdKind::None);
    if let Some(p) = none {
        k.pmd_lock(p).await;
        k.pmd_unlock(p);
    }
}

/// `zap_pte_range()`: returns where it stopped, which is before the end when the gather is full. `None`: no table serves the
/// range.
async fn zap_pte_range(k: &Cpu, tlb: &mut MmuGather, start: u32, end: u32) -> Option<u32> {
    let first = k.pte_offset_map_lock(tlb.mm, start).await?;
    let mut vpn = start;
    k.arch_enter_lazy_mmu_mode();
    while vpn < end && !tlb.pages.is_full() {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        if !k.pte_none(k.ptep_get(p)) {
            zap_pte(k, tlb, p).await;
        }
        vpn += 1;
    }
    k.site(Site::ZapCleared).await;
    k.arch_leave_lazy_mmu_mode();
    // Out of room, or a dirty page of a file has gone: the TLB is flushed before the lock is dropped, and the pages are
    // freed after.
    let force_flush = vpn < end || tlb.pages.iter().any(|p| p.delay_rmap);
    if force_flush {
        tlb.flush_tlb_only(k).await;
        tlb.flush_rmaps(k);
    }
    k.pte_unmap_unlock(first);
    if force_flush {
        tlb.flush(k).await;
    }
    Some(vpn)
}

/// `zap_present_folio_ptes()` and `zap_nonpresent_ptes()` for one entry.
async fn zap_pte(k: &Cpu, tlb: &mut MmuGather, p: PtePtr) {
    let ec = k.entries();
    let kept = !tlb.details.drop_markers && is_guard_pte_marker(k, p);
    if kept || !should_zap(k, tlb.details, k.ptep_get(p)) {
        return;
    }
    let pte = k.ptep_get_and_clear(p).await;
    let mm = tlb.mm as usize;
    match ec.kind(pte) {
        EntryKind::Present => {
            tlb.range(p.vpn);
            let page = if k.has(Defect::R1) { k.pte_pfn(pte) } else { k.vm_normal_page(pte) };
            if page != ZERO_PFN {
                zap_present_page(k, tlb, pte, page);
            }
        }
        kind if kind.is_device_private() || kind.is_device_exclusive() => {
            let pfn = k.swp_offset_pfn(k.pte_to_swp_entry(pte));
            k.add_mm_counter(tlb.mm, pfn, -1);
            // Before the repair only device-private entries were counted, so only they were uncounted.
            if kind.is_device_private() || !k.has(Defect::D12) {
                k.folio_remove_rmap_pte(pfn);
                k.munlock_page_if(pfn, tlb.locked);
            }
            k.folio_put(k.page_folio(pfn));
        }
        EntryKind::Swap => {
            k.s().w.mms[mm].swap_ents -= 1;
            free_swap_and_cache(k, k.swp_slot(k.pte_to_swp_entry(pte))).await;
        }
        kind if kind.is_migration() => {
            let page = k.swp_offset_pfn(k.pte_to_swp_entry(pte));
            k.add_mm_counter(tlb.mm, page, -1);
        }
        _ => {}
    }
    // zap_install_uffd_wp_if_needed()
    if tlb.details.keep_notes && !k.has(Defect::A12) {
        pte_install_uffd_wp_if_needed(k, p, pte).await;
    }
}

/// `zap_present_folio_ptes()` of one page.
fn zap_present_page(k: &Cpu, tlb: &mut MmuGather, pte: Pte, page: Pfn) {
    let folio = k.page_folio(page);
    if !k.has(Defect::S4) {
        k.add_mm_counter(tlb.mm, page, -1);
    }
    // Nobody needs the dirty bit of an anonymous page that goes.
    let mut delay_rmap = false;
    if !k.folio(folio).anon() && k.pte_dirty(pte) {
        k.folio_mark_dirty(folio);
        // tlb_delay_rmap()
        delay_rmap = !k.has(Defect::F1);
    }
    if !delay_rmap {
        k.folio_remove_rmap_pte(page);
        k.munlock_page_if(page, tlb.locked);
    }
    tlb.pages.push(Gathered { pfn: page, delay_rmap });
}

/// `pte_install_uffd_wp_if_needed()`: in a mapping of a file that is registered for write protection, an entry that was
/// protected does not become empty, whatever it stood for: a page of the file, or a private copy.
pub async fn pte_install_uffd_wp_if_needed(k: &Cpu, p: PtePtr, pte: Pte) {
    let watched = {
        let s = k.s();
        s.w.vma_lookup(p.mm, p.vpn).is_some_and(|v| !s.w.vmas[v].anonymous() && s.w.vmas[v].uffd_wp())
    };
    if !watched {
        return;
    }
    let protected = if k.arch().pte_present(pte) { k.pte_uffd_wp(pte) } else { k.arch().pte_swp_uffd_wp(pte) };
    if protected {
        k.set_pte_at(p, k.entries().make_uffd_wp_note()).await;
    }
}

/// `should_zap_folio()`, `should_zap_cows()` and `zap_drop_file_uffd_wp()`.
fn should_zap(k: &Cpu, details: ZapDetails, pte: Pte) -> bool {
    let ec = k.entries();
    if details.keep_notes && ec.is_uffd_wp_note(pte) {
        return false;
    }
    if details.even_cows || k.has(Defect::F5) {
        return true;
    }
    let page = match ec.kind(pte) {
        EntryKind::Present => k.vm_normal_page(pte),
        // Genuine swap entries, hence private anonymous pages; poison.
        EntryKind::Swap | EntryKind::HwPoison | EntryKind::MarkerPoisoned => return false,
        kind if kind.is_migration() || kind.is_device_private() || kind.is_device_exclusive() => {
            k.swp_offset_pfn(k.pte_to_swp_entry(pte))
        }
        _ => return true,
    };
    page == ZERO_PFN || !k.folio(k.page_folio(page)).anon()
}

/// `mm/swapfile.c: free_swap_and_cache_nr()`: gives an entry up, and the cached page with it when it was the last.
pub async fn free_swap_and_cache(k: &Cpu, slot: u32) {
    k.swap_free(slot);
    let state = k.slot(slot);
    let Some(folio) = state.cache else { return };
    if state.count != 0 || !k.folio_try_get(folio) {
        return;
    }
    // __try_to_reclaim_swap(): only if the lock is free, as a page-table lock is held here.
    // TTRS_UNMAPPED | TTRS_FULL: a page that is still mapped keeps its slot unless swap is full.
    let wanted = !k.folio_mapped(folio) || k.s().w.swap.full();
    if wanted && k.trylock(Lock::Folio(folio)).await {
        if k.folio(folio).slot == slot {
            folio_free_swap(k, folio);
        }
        k.folio_unlock(folio);
    }
    k.folio_put(folio);
}

/// `zap_page_range_single()`.
pub async fn zap_page_range_single(k: &Cpu, vma: VmaId, start: u32, end: u32, details: ZapDetails) {
    let mm = k.s().w.vmas[vma].mm;
    let mut tlb = MmuGather::with(k, mm, details);
    k.mmu_notifier_invalidate_range_start(mm, start, end, NotifyEvent::Clear).await;
    zap_range(k, &mut tlb, vma, start, end).await;
    k.mmu_notifier_invalidate_range_end(mm).await;
    tlb.finish(k).await;
}

/// `unlink_anon_vmas()`.
pub async fn unlink_anon_vmas(k: &Cpu, vma: VmaId) {
    let (mm, root) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        // All of them belong to one family, with one lock.
        (v.mm, v.chain.last().map(|av| s.w.anon_vmas[*av].root))
    };
    let Some(root) = root else { return };
    let wrongly_nested = k.has(Defect::S11);
    if wrongly_nested {
        k.lock(Lock::PageTable(mm)).await;
    }
    k.lock(Lock::AnonVmaWrite(root)).await;
    {
        let s = &mut *k.s();
        s.w.vmas[vma].anon_vma = None;
        for av in &s.w.vmas[vma].chain {
            s.w.anon_vmas[*av].vmas.retain(|v| *v != vma);
        }
    }
    k.unlock(Lock::AnonVmaWrite(root));
    if wrongly_nested {
        k.unlock(Lock::PageTable(mm));
    }
    // put_anon_vma() takes the lock itself: newest first, so that the root goes last.
    let s = &mut *k.s();
    while let Some(av) = s.w.vmas[vma].chain.pop() {
        s.w.anon_vmas.put(av, false);
    }
}

/// `unlink_file_vma()`.
pub async fn unlink_file_vma(k: &Cpu, vma: VmaId) {
    let Some(file) = k.s().w.vmas[vma].backing.mapping() else { return };
    k.lock(Lock::IMmapWrite(file)).await;
    k.s().w.i_mmaps[file as usize].vmas.retain(|v| *v != vma);
    k.unlock(Lock::IMmapWrite(file));
}
