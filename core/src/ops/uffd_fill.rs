//! `mm/userfaultfd.c: mfill_atomic()`: the monitor puts something where nothing is. Shared pages of `tmpfs` are in
//! [`super::uffd_shmem`].

use super::guard::is_guard_pte_marker;
use super::hugetlb::{is_vm_hugetlb_page, mfill_atomic_hugetlb};
use super::pgtable::pte_alloc;
use super::rmap::anon_vma_prepare;
use super::uffd_events::mmap_changing;
use super::uffd_shmem::{mfill_atomic_pte_continue, mfill_file_over_size, shmem_mfill_atomic_pte};
use crate::arch::Pte;
use crate::config::{Defect, Design, Kernel};
use crate::entry::PTE_MARKER_POISONED;
use crate::mm::{PtePtr, VmaId};
use crate::observe::{Observation, Outcome, SHMEM, copy_token};
use crate::phys::{Flags, ZERO_PFN};
use crate::sched::{Cpu, Lock, Site};

/// `MFILL_ATOMIC_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// `MFILL_ATOMIC_COPY`, with or without `MFILL_ATOMIC_WP`.
    Copy {
        /// The page comes write-protected.
        wp: bool,
    },
    /// `MFILL_ATOMIC_ZEROPAGE`.
    Zeropage,
    /// `MFILL_ATOMIC_POISON`.
    Poison,
    /// `MFILL_ATOMIC_CONTINUE`, with or without `MFILL_ATOMIC_WP`.
    Continue {
        /// The page comes write-protected.
        wp: bool,
    },
}

impl Fill {
    /// The page comes write-protected.
    pub fn wp(self) -> bool {
        matches!(self, Fill::Copy { wp: true } | Fill::Continue { wp: true })
    }
}

/// `UFFDIO_COPY`, `UFFDIO_ZEROPAGE`, `UFFDIO_POISON`, `UFFDIO_CONTINUE`: `userfaultfd_copy()` and its like. `first` is the number of the first
/// page in its window, by which the monitor's buffer is known.
pub async fn fill(k: &Cpu, mm: u8, start: u32, end: u32, first: u32, what: Fill, dontwake: bool) -> Outcome {
    // UFFDIO_POISON came with the marker that it needs.
    if what == Fill::Poison && !k.uses(Design::PoisonMarker) {
        return Outcome::Invalid;
    }
    // UFFDIO_CONTINUE_MODE_WP came with 6.4.
    if what == (Fill::Continue { wp: true }) && k.config().kernel < Kernel::V6_6 {
        return Outcome::Invalid;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let (filled, error) = mfill_atomic(k, mm, start, end, first, what).await;
    k.unlock(Lock::MmapRead(mm));
    let op = k.op();
    if filled == 0 {
        return error;
    }
    k.s().observe(Observation::Progress { op, pages: filled });
    if !dontwake && !k.has(Defect::U2) {
        k.wake_userfault(mm, start, start + filled).await;
    }
    if start + filled == end { Outcome::Done } else { Outcome::Partial }
}

/// `mfill_atomic()`: how many pages were filled, and the error that ended it. The source is never paged out, so the copy is
/// made under the lock; the kernel holds the per-VMA lock instead of `mmap_lock`.
async fn mfill_atomic(k: &Cpu, mm: u8, start: u32, end: u32, first: u32, what: Fill) -> (u32, Outcome) {
    // uffd_mfill_lock(): the range lies in one registered VMA.
    let Some(vma) = k.s().w.vma_lookup(mm, start) else { return (0, Outcome::NoEnt) };
    let (within, wp, anonymous, shmem, shared) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        let shmem = v.backing.file() == Some(SHMEM);
        (end <= v.end && v.uffd.armed(), v.uffd_wp(), v.anonymous(), shmem, v.shared())
    };
    if !shared {
        anon_vma_prepare(k, vma).await;
    }
    if !within {
        return (0, Outcome::NoEnt);
    }
    if mmap_changing(k, vma) {
        return (0, Outcome::Busy);
    }
    let continues = matches!(what, Fill::Continue { .. });
    if is_vm_hugetlb_page(k, vma) && (wp || !what.wp()) {
        return mfill_atomic_hugetlb(k, vma, (start, end), first, what).await;
    }
    if what.wp() && !wp || !anonymous && !shmem || continues && !shmem {
        return (0, Outcome::Invalid);
    }
    for vpn in start..end {
        // A huge page is in the way.
        if k.pmd_leaf(mm, vpn).is_some() {
            return (vpn - start, Outcome::Exists);
        }
        pte_alloc(k, mm, vpn).await;
        let page = first + (vpn - start);
        // mfill_atomic_pte()
        let result = match what {
            Fill::Continue { wp } => mfill_atomic_pte_continue(k, vma, vpn, wp).await,
            Fill::Poison => mfill_atomic_pte_poison(k, vma, vpn).await,
            Fill::Copy { wp } if shared => shmem_mfill_atomic_pte(k, vma, vpn, copy_token(k.op(), page), wp).await,
            Fill::Zeropage if shared => shmem_mfill_atomic_pte(k, vma, vpn, 0, false).await,
            // A private mapping of a file is filled without a look at the file.
            Fill::Copy { wp } => mfill_atomic_pte_copy(k, vma, vpn, page, wp).await,
            Fill::Zeropage => mfill_atomic_pte_zeropage(k, vma, vpn).await,
        };
        if let Err(error) = result {
            return (vpn - start, error);
        }
    }
    (end - start, Outcome::Done)
}

/// `mfill_atomic_pte_copy()`.
async fn mfill_atomic_pte_copy(k: &Cpu, vma: VmaId, vpn: u32, page: u32, wp: bool) -> Result<(), Outcome> {
    k.site(Site::UserfaultFill).await;
    let folio = k.folio_alloc().ok_or(Outcome::NoMem)?;
    let data = copy_token(k.op(), page);
    k.s().w.mem.folios[folio as usize].data = data;
    k.folio_set(folio, Flags::UPTODATE);
    let installed = mfill_atomic_install_pte(k, vma, vpn, folio, wp).await;
    if installed.is_err() {
        k.folio_put(folio);
    }
    installed
}

/// `mfill_atomic_install_pte()` of a new anonymous page, or of a page of the cache, which a private mapping never gets
/// writable.
pub async fn mfill_atomic_install_pte(k: &Cpu, vma: VmaId, vpn: u32, page: u32, wp: bool) -> Result<(), Outcome> {
    let arch = k.arch();
    let in_cache = k.folio(k.page_folio(page)).file().is_some();
    let readonly = in_cache && !k.has(Defect::U6);
    let (mm, prot, writable) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.mm, s.w.page_prot(vma), v.writable() && (v.shared() || !readonly))
    };
    let mut pte = arch.pte_mkdirty(arch.pfn_pte(u64::from(page), prot));
    if writable {
        pte = arch.pte_mkwrite(pte);
    }
    if wp {
        pte = arch.pte_mkuffd_wp(pte);
    }
    let p = k.pte_offset_map_lock(mm, vpn).await.ok_or(Outcome::Busy)?;
    if mfill_file_over_size(k, vma, vpn) {
        k.pte_unmap_unlock(p);
        return Err(Outcome::Fault);
    }
    // A marker may be overwritten: a page that was protected before it was there, or one that is poisoned. Here we differ
    // from the kernel, which takes a guard for one of these (N44).
    if !k.entries().pte_none_mostly(k.ptep_get(p)) || is_guard_pte_marker(k, p) && !k.has(Defect::N44) {
        k.pte_unmap_unlock(p);
        return Err(Outcome::Exists);
    }
    if in_cache {
        k.folio_add_file_rmap_pte(page);
        if !k.folio_test_large(page) {
            k.mlock_vma_folio(page, vma);
        }
    } else {
        k.folio_add_new_anon_rmap(page, vma, vpn, true);
        k.folio_add_lru_vma(page, vma);
    }
    k.add_mm_counter(mm, page, 1);
    k.set_pte_at(p, pte).await;
    k.pte_unmap_unlock(p);
    Ok(())
}

/// `mfill_atomic_pte_zeropage()`.
async fn mfill_atomic_pte_zeropage(k: &Cpu, vma: VmaId, vpn: u32) -> Result<(), Outcome> {
    let arch = k.arch();
    let prot = k.s().w.page_prot(vma);
    install_in_hole(k, vma, vpn, arch.pte_mkspecial(arch.pfn_pte(u64::from(ZERO_PFN), prot))).await
}

/// `mfill_atomic_pte_poison()`.
async fn mfill_atomic_pte_poison(k: &Cpu, vma: VmaId, vpn: u32) -> Result<(), Outcome> {
    install_in_hole(k, vma, vpn, k.entries().make_pte_marker(PTE_MARKER_POISONED)).await
}

/// Sets an entry where there is none at all, not even a marker.
async fn install_in_hole(k: &Cpu, vma: VmaId, vpn: u32, pte: Pte) -> Result<(), Outcome> {
    let mm = k.s().w.vmas[vma].mm;
    k.site(Site::UserfaultFill).await;
    let p: PtePtr = k.pte_offset_map_lock(mm, vpn).await.ok_or(Outcome::Busy)?;
    let result = if mfill_file_over_size(k, vma, vpn) {
        Err(Outcome::Fault)
    } else if k.arch().pte_none(k.ptep_get(p)) {
        k.set_pte_at(p, pte).await;
        Ok(())
    } else {
        Err(Outcome::Exists)
    };
    k.pte_unmap_unlock(p);
    result
}
