//! `mm/gup.c`: getting at the page behind an address.

use super::access::find_vma;
use super::fault::{handle_mm_fault, handle_mm_fault_retry};
use super::gup_longterm::writable_file_mapping_allowed;
use super::huge::{follow_huge_pmd, touch_pmd};
use super::hugetlb::is_vm_hugetlb_page;
use super::pgtable::pte_alloc;
use super::split::split_huge_pmd;
use super::uffd::userfault_retry;
use super::vmf::FaultResult;
use crate::arch::Pte;
use crate::config::{Defect, Design, Kernel};
use crate::mm::{Pinned, VmaId};
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Site};

/// Pins that one process can hold at once.
pub const MAX_PINS: usize = 8;

/// How `__get_user_pages()` takes hold of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grab {
    /// `FOLL_GET`: a plain reference.
    Get,
    /// The same with `FOLL_SPLIT_PMD`: a huge page is mapped by PTEs afterwards.
    GetSplitPmd,
    /// `FOLL_PIN`.
    Pin,
    /// The same with `FOLL_LONGTERM`.
    PinLongterm,
}

/// Why it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GupError {
    /// `-EFAULT`.
    Fault,
    /// `-ENOMEM`.
    NoMem,
    /// `-EINTR`: a fatal signal came while `mmap_lock` was dropped.
    Killed,
    /// `-EOPNOTSUPP`.
    NotSupported,
    /// `-EEXIST`: something is mapped that has no `struct page`.
    NoPage,
}

impl GupError {
    /// The result of a system call.
    pub fn outcome(self) -> Outcome {
        match self {
            GupError::Fault => Outcome::Fault,
            GupError::NoMem => Outcome::NoMem,
            GupError::Killed => Outcome::Busy,
            GupError::NotSupported => Outcome::Invalid,
            GupError::NoPage => Outcome::Exists,
        }
    }
}

/// `__get_user_pages()` of one page with `FOLL_WRITE`, `mmap_lock` held: faults it in writable and takes hold
/// of its folio. A pin may drop the lock (`FOLL_UNLOCKABLE`) and holds it again when it returns; a plain reference may
/// not, as `make_device_exclusive()` asks, and so cannot wait for a userfault.
pub async fn get_user_page(k: &Cpu, mm: u8, vpn: u32, grab: Grab) -> Result<(Pfn, VmaId), GupError> {
    let mut vma = find_vma(k, mm, vpn, true).map_err(|_| GupError::Fault)?;
    // check_vma_flags()
    if grab == Grab::GetSplitPmd && splits_hugetlb(k, vma) && !k.has(Defect::D1) {
        return Err(GupError::NotSupported);
    }
    loop {
        k.site(Site::PinLookup).await;
        if grab == Grab::PinLongterm && !writable_file_mapping_allowed(k, vma) {
            return Err(GupError::Fault);
        }
        refuse_raw(k, vma, vpn, true).await?;
        if let Some(page) = follow_page(k, vma, vpn, grab).await {
            return Ok((page, vma));
        }
        vma = match grab {
            Grab::Get | Grab::GetSplitPmd => fault_error(handle_mm_fault(k, vma, vpn, true).await).map(|()| vma)?,
            Grab::Pin | Grab::PinLongterm => faultin_page_unlockable(k, vma, vpn, true).await?,
        };
    }
}

/// Would `FOLL_SPLIT_PMD` split a hugetlb page? Since "mm/gup: handle hugetlb in the generic follow_page_mask code" (6.10)
/// one PMD is like another; `hugetlb_follow_page_mask()` before did not know the flag, and returned the page.
fn splits_hugetlb(k: &Cpu, vma: VmaId) -> bool {
    is_vm_hugetlb_page(k, vma) && k.config().kernel >= Kernel::V6_12
}

/// `follow_page_mask()` from `follow_pmd_mask()` on.
async fn follow_page(k: &Cpu, vma: VmaId, vpn: u32, grab: Grab) -> Option<Pfn> {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_leaf(mm, vpn) {
        if grab == Grab::GetSplitPmd && (!is_vm_hugetlb_page(k, vma) || splits_hugetlb(k, vma)) {
            split_huge_pmd(k, vma, p, None).await;
            // If the PMD was left empty, a table is put there quickly.
            pte_alloc(k, mm, vpn).await;
        } else {
            k.pmd_lock(p).await;
            let found = follow_huge_pmd(k, p, vpn, true);
            if let Some(page) = found {
                try_grab_folio(k, page, grab);
                // FOLL_TOUCH
                if matches!(grab, Grab::Get | Grab::GetSplitPmd) {
                    touch_pmd(k, p, true).await;
                }
            }
            let huge = k.pmd_kind(p).is_leaf();
            k.pmd_unlock(p);
            if huge {
                return found;
            }
        }
    }
    follow_page_pte(k, mm, vpn, grab).await
}

/// `gup_can_follow_protnone()` of an entry in a VMA that permits access: may GUP take the page behind a NUMA hinting
/// entry, or must it fault?
pub fn gup_can_follow(k: &Cpu, pte: Pte) -> bool {
    !k.arch().pte_protnone(pte) || k.uses(Design::GupNumaFollows)
}

/// `try_grab_folio()`.
fn try_grab_folio(k: &Cpu, page: Pfn, grab: Grab) {
    let folio = k.page_folio(page);
    match grab {
        Grab::Get | Grab::GetSplitPmd => k.folio_get(folio),
        Grab::Pin | Grab::PinLongterm => k.folio_pin(folio),
    }
}

/// `__get_user_pages()` of one page without `FOLL_GET` and `FOLL_PIN`, as `faultin_page_range()` calls it: until an entry
/// that permits the access is there.
pub async fn faultin_page(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> Outcome {
    let mm = k.s().w.vmas[vma].mm;
    loop {
        k.site(Site::PinLookup).await;
        if follow_and_touch(k, mm, vpn, write).await {
            return Outcome::Done;
        }
        match handle_mm_fault(k, vma, vpn, write).await {
            FaultResult::Done => {}
            FaultResult::Oom => return Outcome::NoMem,
            FaultResult::SigBus | FaultResult::SigSegv | FaultResult::HwPoison | FaultResult::Retry => {
                return Outcome::Fault;
            }
        }
    }
}

/// `follow_page_pte()` with `FOLL_TOUCH` only.
async fn follow_and_touch(k: &Cpu, mm: u8, vpn: u32, write: bool) -> bool {
    if let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await {
        let found = follow_huge_pmd(k, p, vpn, write);
        if found.is_some() {
            touch_pmd(k, p, write).await;
        }
        k.pmd_unlock(p);
        return found.is_some();
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return false };
    let arch = k.arch();
    let pte = k.ptep_get(p);
    let usable = arch.pte_present(pte) && gup_can_follow(k, pte) && (!write || k.pte_write(pte));
    if usable && write && !k.pte_dirty(pte) {
        k.folio_mark_dirty(k.page_folio(k.vm_normal_page(pte)));
    }
    k.pte_unmap_unlock(p);
    usable
}

/// Is it an entry that `follow_page_pte()` gives no page for?
pub(super) fn hidden(k: &Cpu, pte: Pte) -> bool {
    k.raw_pfn(pte).is_some() && !k.has(Defect::R4)
}

/// What keeps GUP away from devices' memory: `check_vma_flags()` refuses `VM_IO` and `VM_PFNMAP` mappings as a whole, and
/// `follow_pfn_pte()` an entry of a `VM_MIXEDMAP` mapping that has no page (`-EEXIST`).
pub(super) async fn refuse_raw(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> Result<(), GupError> {
    let (mm, backing) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].backing)
    };
    if backing.device().is_none() || k.has(Defect::R4) {
        return Ok(());
    }
    if backing.pfnmap() {
        return Err(GupError::Fault);
    }
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return Ok(()) };
    let pte = k.ptep_get(p);
    let usable = k.arch().pte_present(pte) && gup_can_follow(k, pte) && (!write || k.pte_write(pte));
    let raw = usable && k.raw_pfn(pte).is_some();
    k.pte_unmap_unlock(p);
    if raw { Err(GupError::NoPage) } else { Ok(()) }
}

/// What becomes of a fault in `faultin_page()`.
pub(super) fn fault_error(result: FaultResult) -> Result<(), GupError> {
    match result {
        FaultResult::Done => Ok(()),
        FaultResult::Oom => Err(GupError::NoMem),
        FaultResult::SigBus | FaultResult::SigSegv | FaultResult::HwPoison | FaultResult::Retry => Err(GupError::Fault),
    }
}

/// The same with `FOLL_UNLOCKABLE`: the fault may drop `mmap_lock` and wait for a userfault. Afterwards the lock is held
/// again, and the VMA looked up anew.
pub async fn faultin_page_unlockable(k: &Cpu, vma: VmaId, vpn: u32, write: bool) -> Result<VmaId, GupError> {
    let mm = k.s().w.vmas[vma].mm;
    let result = handle_mm_fault_retry(k, vma, vpn, write).await;
    if result != FaultResult::Retry {
        return fault_error(result).map(|()| vma);
    }
    let killed = userfault_retry(k, mm).await;
    k.lock(Lock::MmapRead(mm)).await;
    if killed { Err(GupError::Killed) } else { find_vma(k, mm, vpn, write).map_err(|_| GupError::Fault) }
}

/// `follow_page_pte()` with `FOLL_WRITE`: only through a writable entry.
async fn follow_page_pte(k: &Cpu, mm: u8, vpn: u32, grab: Grab) -> Option<Pfn> {
    let arch = k.arch();
    let p = k.pte_offset_map_lock(mm, vpn).await?;
    let pte = k.ptep_get(p);
    let mut found = None;
    if arch.pte_present(pte) && gup_can_follow(k, pte) && k.pte_write(pte) && !hidden(k, pte) {
        let page = k.pte_pfn(pte);
        let folio = k.page_folio(page);
        try_grab_folio(k, page, grab);
        // FOLL_TOUCH, which goes with plain references only.
        if matches!(grab, Grab::Get | Grab::GetSplitPmd) && !k.pte_dirty(pte) {
            k.folio_mark_dirty(folio);
        }
        found = Some(page);
    }
    k.pte_unmap_unlock(p);
    found
}

/// `pin_user_pages(FOLL_WRITE)` of one page, as a driver does before DMA.
pub async fn pin(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    if k.s().w.mms[mm as usize].pins.len() >= MAX_PINS {
        return Outcome::Busy;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let result = get_user_page(k, mm, vpn, Grab::Pin).await;
    if let Ok((pfn, _)) = result {
        k.s().w.mms[mm as usize].pins.push(Pinned { vpn, pfn, write: true });
    }
    k.unlock(Lock::MmapRead(mm));
    result.map_or_else(GupError::outcome, |_| Outcome::Done)
}

/// A transfer by the device that has the pinned page: to or from the frame, without any page table. `EINVAL` when
/// nothing fit for it was pinned there.
pub async fn dma(k: &Cpu, mm: u8, vpn: u32, write: bool) -> Outcome {
    k.site(Site::Dma).await;
    let op = k.op();
    let s = &mut *k.s();
    let Some(pin) = s.w.mms[mm as usize].pins.iter().rfind(|p| p.vpn == vpn).copied() else {
        return Outcome::Invalid;
    };
    // Of files the file system would have to be asked first.
    if write && (!pin.write || !s.w.mem.folios[s.w.mem.page_folio(pin.pfn) as usize].anon()) {
        return Outcome::Invalid;
    }
    s.dma_access(op, mm, vpn, pin.pfn, write);
    Outcome::Done
}

/// `unpin_user_pages_dirty_lock()` of what was pinned at an address last; nothing when nothing was.
pub async fn unpin(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    let pinned = {
        let pins = &mut k.s().w.mms[mm as usize].pins;
        pins.iter().rposition(|p| p.vpn == vpn).map(|at| pins.remove(at))
    };
    if let Some(p) = pinned {
        release_pin(k, p).await;
    }
    Outcome::Done
}

/// What the driver's file does when it is closed.
pub async fn unpin_all(k: &Cpu, mm: u8) {
    let next = |k: &Cpu| k.s().w.mms[mm as usize].pins.pop();
    while let Some(p) = next(k) {
        release_pin(k, p).await;
    }
}

async fn release_pin(k: &Cpu, pin: Pinned) {
    let page = pin.pfn;
    if page == ZERO_PFN {
        return;
    }
    let folio = k.page_folio(page);
    // sanity_check_pinned_pages(): of a folio that a PMD maps, the first page speaks for all.
    let exclusive = k.page_anon_exclusive(page) || k.page_anon_exclusive(folio);
    let evidence = Evidence { pfn: Some(page), ..Evidence::default() };
    let known = k.uses(Design::CowByExclusive);
    k.bug_on(known && k.folio(folio).anon() && !exclusive, Rule::BugUnpin, evidence);
    if pin.write && !k.folio_test(folio, Flags::DIRTY) {
        k.lock(Lock::Folio(folio)).await;
        k.folio_mark_dirty(folio);
        k.folio_unlock(folio);
    }
    k.folio_unpin(folio);
}
