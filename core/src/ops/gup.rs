//! `mm/gup.c`: getting at the page behind an address.

use super::access::find_vma;
use super::fault::handle_mm_fault;
use super::huge::follow_huge_pmd;
use super::split::split_huge_pmd;
use super::vmf::FaultResult;
use crate::config::Design;
use crate::mm::{Pinned, VmaId};
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn};
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
}

/// Why it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GupError {
    /// `-EFAULT`.
    Fault,
    /// `-ENOMEM`.
    NoMem,
}

impl GupError {
    /// The result of a system call.
    pub fn outcome(self) -> Outcome {
        match self {
            GupError::Fault => Outcome::Fault,
            GupError::NoMem => Outcome::NoMem,
        }
    }
}

/// `__get_user_pages()` of one page with `FOLL_WRITE`, `mmap_lock` held: faults it in writable and takes hold
/// of its folio.
pub async fn get_user_page(k: &Cpu, mm: u8, vpn: u32, grab: Grab) -> Result<(Pfn, VmaId), GupError> {
    let vma = find_vma(k, mm, vpn, true).map_err(|_| GupError::Fault)?;
    loop {
        k.site(Site::PinLookup).await;
        if let Some(page) = follow_page(k, vma, vpn, grab).await {
            return Ok((page, vma));
        }
        match handle_mm_fault(k, vma, vpn, true).await {
            FaultResult::Done => {}
            FaultResult::Oom => return Err(GupError::NoMem),
            FaultResult::SigBus | FaultResult::HwPoison => return Err(GupError::Fault),
        }
    }
}

/// `follow_page_mask()` from `follow_pmd_mask()` on.
async fn follow_page(k: &Cpu, vma: VmaId, vpn: u32, grab: Grab) -> Option<Pfn> {
    let mm = k.s().w.vmas[vma].mm;
    if let Some(p) = k.pmd_leaf(mm, vpn) {
        if grab == Grab::GetSplitPmd {
            split_huge_pmd(k, vma, p, None).await;
        } else {
            k.pmd_lock(p).await;
            let found = follow_huge_pmd(k, p, vpn, true);
            if let Some(page) = found {
                try_grab_folio(k, page, grab);
                // touch_pmd()
                let arch = k.arch();
                k.pmdp_update(p, |pte| arch.pte_mkdirty(arch.pte_mkyoung(pte))).await;
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

/// `try_grab_folio()`.
fn try_grab_folio(k: &Cpu, page: Pfn, grab: Grab) {
    let folio = k.page_folio(page);
    match grab {
        Grab::Get | Grab::GetSplitPmd => k.folio_get(folio),
        Grab::Pin => k.folio_pin(folio),
    }
}

/// `follow_page_pte()` with `FOLL_WRITE`: only through a writable entry.
async fn follow_page_pte(k: &Cpu, mm: u8, vpn: u32, grab: Grab) -> Option<Pfn> {
    let arch = k.arch();
    let p = k.pte_offset_map_lock(mm, vpn).await?;
    let pte = k.ptep_get(p);
    let mut found = None;
    if arch.pte_present(pte) && !arch.pte_protnone(pte) && k.pte_write(pte) {
        let page = k.pte_pfn(pte);
        let folio = k.page_folio(page);
        try_grab_folio(k, page, grab);
        if !k.pte_dirty(pte) {
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
        k.s().w.mms[mm as usize].pins.push(Pinned { vpn, pfn });
    }
    k.unlock(Lock::MmapRead(mm));
    result.map_or_else(GupError::outcome, |_| Outcome::Done)
}

/// `unpin_user_pages_dirty_lock()` of what was pinned at an address last; nothing when nothing was.
pub async fn unpin(k: &Cpu, mm: u8, vpn: u32) -> Outcome {
    let pinned = {
        let pins = &mut k.s().w.mms[mm as usize].pins;
        pins.iter().rposition(|p| p.vpn == vpn).map(|at| pins.remove(at))
    };
    if let Some(p) = pinned {
        release_pin(k, p.pfn).await;
    }
    Outcome::Done
}

/// What the driver's file does when it is closed.
pub async fn unpin_all(k: &Cpu, mm: u8) {
    let next = |k: &Cpu| k.s().w.mms[mm as usize].pins.pop();
    while let Some(p) = next(k) {
        release_pin(k, p.pfn).await;
    }
}

async fn release_pin(k: &Cpu, page: Pfn) {
    let folio = k.page_folio(page);
    // sanity_check_pinned_pages(): of a folio that a PMD maps, the first page speaks for all.
    let exclusive = k.page_anon_exclusive(page) || k.page_anon_exclusive(folio);
    let evidence = Evidence { pfn: Some(page), ..Evidence::default() };
    let known = k.uses(Design::CowByExclusive);
    k.bug_on(known && k.folio(folio).anon() && !exclusive, Rule::BugUnpin, evidence);
    if !k.folio_test(folio, Flags::DIRTY) {
        k.lock(Lock::Folio(folio)).await;
        k.folio_mark_dirty(folio);
        k.folio_unlock(folio);
    }
    k.folio_unpin(folio);
}
