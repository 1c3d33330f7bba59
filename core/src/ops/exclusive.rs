//! `mm/rmap.c`: making pages device-exclusive, in the old way and in the new.

use super::gup::{Grab, GupError, get_user_page};
use super::hugetlb::folio_test_hugetlb;
use super::pvmw::{Mapped, PageVmaWalk};
use super::rmap::{AnonLock, Pvmw, RmapWalk};
use crate::arch::Pte;
use crate::config::{Defect, Design};
use crate::mm::{PtePtr, VmaId};
use crate::phys::Pfn;
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// Why a page was not made exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExclusiveError {
    /// The page could not be had at all.
    Gup(GupError),
    /// `-EOPNOTSUPP`: not an anonymous page.
    NotSupported,
    /// `-EBUSY`: somebody else holds the folio or has changed the entry.
    Busy,
}

/// Makes one page device-exclusive for a device, as the release does. `mmap_lock` is held for reading. On success
/// the page's folio is locked and referenced: the caller programs the device, then drops both.
pub async fn make_device_exclusive(k: &Cpu, mm: u8, vpn: u32, device: u8) -> Result<Pfn, ExclusiveError> {
    if k.uses(Design::ExclusiveByRmap) {
        make_device_exclusive_by_rmap(k, mm, vpn, device).await
    } else {
        make_device_exclusive_by_walk(k, mm, vpn, device).await
    }
}

/// `make_device_exclusive()` since 6.15: GUP, then a second look at the one PTE.
async fn make_device_exclusive_by_walk(k: &Cpu, mm: u8, vpn: u32, device: u8) -> Result<Pfn, ExclusiveError> {
    loop {
        k.site(Site::ExclusiveGup).await;
        let (page, _) = get_user_page(k, mm, vpn, Grab::GetSplitPmd).await.map_err(ExclusiveError::Gup)?;
        let folio = k.page_folio(page);
        if !k.folio(folio).anon() || folio_test_hugetlb(k, folio) && !k.has(Defect::D2) {
            k.folio_put(folio);
            return Err(ExclusiveError::NotSupported);
        }
        k.site(Site::ExclusiveLock).await;
        k.lock(Lock::Folio(folio)).await;
        let event = NotifyEvent::Exclusive { owner: Some(device) };
        k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, event).await;
        // folio_walk_start(): the same page, still mapped writable?
        let mut converted = false;
        if let Some(p) = k.pte_offset_map_lock(mm, vpn).await {
            let arch = k.arch();
            let pte = k.ptep_get(p);
            if arch.pte_present(pte) && k.pte_write(pte) && (k.vm_normal_page(pte) == page || k.has(Defect::D4)) {
                convert(k, page, p).await;
                converted = true;
            }
            k.pte_unmap_unlock(p);
        }
        k.mmu_notifier_invalidate_range_end(mm).await;
        if converted {
            return Ok(page);
        }
        k.note(Note::ExclusiveBusy, Some(folio), 0, 0);
        k.folio_unlock(folio);
        k.folio_put(folio);
    }
}

/// `make_device_exclusive_range()` before 6.15, for a range of one page: GUP, then an rmap walk.
async fn make_device_exclusive_by_rmap(k: &Cpu, mm: u8, vpn: u32, device: u8) -> Result<Pfn, ExclusiveError> {
    k.site(Site::ExclusiveGup).await;
    let (page, _) = get_user_page(k, mm, vpn, Grab::GetSplitPmd).await.map_err(ExclusiveError::Gup)?;
    let folio = k.page_folio(page);
    k.site(Site::ExclusiveLock).await;
    // Of a large folio only the first page can be had.
    if page != folio || !k.trylock(Lock::Folio(folio)).await {
        k.note(Note::ExclusiveBusy, Some(folio), 0, 0);
        k.folio_put(folio);
        return Err(ExclusiveError::Busy);
    }
    if !folio_make_device_exclusive(k, folio, mm, vpn, device).await {
        k.note(Note::ExclusiveBusy, Some(folio), 0, 0);
        k.folio_unlock(folio);
        k.folio_put(folio);
        return Err(ExclusiveError::Busy);
    }
    Ok(folio)
}

/// `folio_make_device_exclusive()`. Success also asked for a mapcount of 0, which only the uncounted entries of
/// those releases could give: with D12 repaired that part cannot be kept.
async fn folio_make_device_exclusive(k: &Cpu, folio: Pfn, mm: u8, vpn: u32, device: u8) -> bool {
    // Restricted to anonymous folios, to stay clear of writeback.
    if !k.folio(folio).anon() || folio_test_hugetlb(k, folio) && !k.has(Defect::D2) {
        return false;
    }
    let Some(mut walk) = RmapWalk::start(k, folio, AnonLock::IfMapped).await else { return false };
    let mut valid = false;
    while let Some((vma, at)) = walk.next(k).await {
        match page_make_device_exclusive_one(k, folio, vma, at, device, (mm, vpn)).await {
            One::Converted { valid: here } => valid |= here,
            One::Stop { valid: here } => {
                valid |= here;
                break;
            }
        }
        if k.has(Defect::D12) && !k.folio_mapped(folio) {
            break;
        }
    }
    walk.end(k);
    valid && (!k.has(Defect::D12) || !k.folio_mapped(folio))
}

enum One {
    /// Every entry of the folio in the VMA. `valid`: the one that was asked for was among them, and writable.
    Converted { valid: bool },
    /// The same up to an entry that is not present.
    Stop { valid: bool },
}

/// `page_make_device_exclusive_one()`: converts every entry of the folio in this VMA, though one page was asked for.
async fn page_make_device_exclusive_one(
    k: &Cpu,
    folio: Pfn,
    vma: VmaId,
    vpn: u32,
    device: u8,
    wanted: (u8, u32),
) -> One {
    let mm = k.s().w.vmas[vma].mm;
    let event = NotifyEvent::Exclusive { owner: Some(device) };
    let mut walk = PageVmaWalk::new(k, folio, vma, vpn, Pvmw::Mapped);
    let (start, end) = walk.range();
    k.mmu_notifier_invalidate_range_start(mm, start, end, event).await;
    let (mut valid, mut stop) = (false, false);
    while let Some(at) = walk.next(k).await {
        let Mapped::Pte(p) = at else {
            // Of a hugetlb folio the walk gives the PMD for a PTE.
            let evidence = Evidence { pfn: Some(folio), proc: Some(mm), vpn: Some(vpn), ..Evidence::default() };
            k.bug_on(folio_test_hugetlb(k, folio), Rule::BugHugetlbPte, evidence);
            // GUP has split the PMD; one that is there again is no PTE to convert.
            walk.done(k);
            stop = true;
            break;
        };
        if !k.arch().pte_present(k.ptep_get(p)) {
            walk.done(k);
            stop = true;
            break;
        }
        let page = k.pte_pfn(k.ptep_get(p));
        let writable = convert(k, page, p).await;
        valid |= writable && (mm, p.vpn) == wanted;
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    if stop { One::Stop { valid } } else { One::Converted { valid } }
}

/// Replaces a present entry by a device-exclusive one; the entry's reference and, once D12 is repaired, its
/// mapping stay. True when the entry was writable.
async fn convert(k: &Cpu, page: Pfn, p: PtePtr) -> bool {
    let (arch, ec) = (k.arch(), k.entries());
    k.site(Site::ExclusiveConvert).await;
    let pteval = k.ptep_clear_flush(p).await;
    if k.pte_dirty(pteval) {
        k.folio_mark_dirty(k.page_folio(page));
    }
    let writable = k.pte_write(pteval);
    let entry = ec.make_device_exclusive_entry(u64::from(page), writable);
    let swp_pte: Pte = k.carry_from_present(pteval, arch.swp_entry_to_pte(entry));
    k.set_pte_at(p, swp_pte).await;
    if k.has(Defect::D12) {
        k.folio_remove_rmap_pte(page);
        k.munlock_page_at(page, p.mm, p.vpn);
    }
    writable
}
