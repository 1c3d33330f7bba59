//! `mm/userfaultfd.c: move_pages()`, which is `UFFDIO_MOVE` (6.8): pages of anonymous memory change their place.
//!
//! Left out: `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`, other address spaces, `move_pages_huge_pmd()` (a huge page is split and moves
//! page by page).

use super::huge::pmd_folio;
use super::pgtable::pte_alloc;
use super::rmap::anon_vma_prepare;
use super::split::{split_folio, split_huge_pmd};
use super::swap::migration_entry_wait;
use super::uffd_events::mmap_changing;
use crate::arch::Pte;
use crate::config::{Defect, Kernel};
use crate::entry::PmdKind;
use crate::mm::{AnonVmaId, PtePtr, VmaId};
use crate::observe::{Observation, Outcome};
use crate::phys::{Flags, Pfn, ZERO_PFN};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};

/// Tries at one page before the call gives up with `-EBUSY`; the kernel goes on.
const TRIES: u32 = 8;

/// `userfaultfd_move()`, since 6.8.
pub async fn userfaultfd_move(k: &Cpu, mm: u8, src: u32, len: u32, dst: u32) -> Outcome {
    if k.config().kernel < Kernel::V6_12 {
        return Outcome::Invalid;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let (moved, error) = move_pages(k, mm, src, len, dst).await;
    k.unlock(Lock::MmapRead(mm));
    if moved == 0 {
        return error;
    }
    let op = k.op();
    k.s().observe(Observation::Progress { op, pages: moved });
    k.wake_userfault(mm, dst, dst + moved).await;
    if moved == len { Outcome::Done } else { Outcome::Partial }
}

/// `move_pages()`: how many pages were moved, and what ended it.
async fn move_pages(k: &Cpu, mm: u8, src: u32, len: u32, dst: u32) -> (u32, Outcome) {
    // uffd_move_lock()
    let (from, to) = {
        let s = k.s();
        (s.w.vma_lookup(mm, src), s.w.vma_lookup(mm, dst))
    };
    let (Some(src_vma), Some(dst_vma)) = (from, to) else { return (0, Outcome::NoEnt) };
    if mmap_changing(k, dst_vma) {
        return (0, Outcome::Busy);
    }
    // find_vma_and_prepare_anon()
    if !k.s().w.vmas[dst_vma].shared() {
        anon_vma_prepare(k, dst_vma).await;
    }
    if !validate_move_areas(k, src_vma, dst_vma, src + len, dst + len) {
        return (0, Outcome::Invalid);
    }
    for i in 0..len {
        let mut result = Err(Again);
        for _ in 0..TRIES {
            result = move_page(k, src_vma, dst_vma, src + i, dst + i).await;
            if !matches!(result, Err(Again)) {
                break;
            }
        }
        match result {
            Ok(Outcome::Done) => {}
            Ok(error) => return (i, error),
            Err(Again) => return (i, Outcome::Busy),
        }
    }
    (len, Outcome::Done)
}

/// `validate_move_areas()`, and the checks before it.
fn validate_move_areas(k: &Cpu, src_vma: VmaId, dst_vma: VmaId, src_end: u32, dst_end: u32) -> bool {
    let soft_dirty = k.arch().has_soft_dirty();
    let s = k.s();
    let (from, to) = (&s.w.vmas[src_vma], &s.w.vmas[dst_vma]);
    let alike =
        from.perm == to.perm && from.locked() == to.locked() && from.page_prot(soft_dirty) == to.page_prot(soft_dirty);
    let inside = src_end <= from.end && dst_end <= to.end;
    alike && inside && from.writable() && to.uffd.armed() && from.anonymous() && to.anonymous()
}

/// `-EAGAIN`: something has changed; look again.
struct Again;

/// The body of the loop in `move_pages()`.
async fn move_page(k: &Cpu, src_vma: VmaId, dst_vma: VmaId, src: u32, dst: u32) -> Result<Outcome, Again> {
    let mm = k.s().w.vmas[src_vma].mm;
    if k.pmd_leaf(mm, dst).is_some() {
        return Ok(Outcome::Exists);
    }
    if let Some(p) = k.pmd_trans_huge_lock(mm, src).await {
        let pmd = k.pmdp_get(p);
        let shared = k.entries().pmd_kind(pmd) == PmdKind::Huge && !k.page_anon_exclusive(pmd_folio(k, pmd));
        k.pmd_unlock(p);
        if shared {
            return Ok(Outcome::Busy);
        }
        split_huge_pmd(k, src_vma, p, None).await;
        return Err(Again);
    }
    if k.pte_offset(mm, src).is_none() {
        return Ok(Outcome::NoEnt);
    }
    pte_alloc(k, mm, dst).await;
    move_pages_pte(k, dst_vma, mm, src, dst).await
}

/// What is held while one page is moved.
#[derive(Default)]
struct Held {
    /// Locked, with a reference, and the entry that named it.
    folio: Option<(Pfn, Pte)>,
    /// Its `anon_vma`, with a reference, and the root whose lock is held.
    anon_vma: Option<(AnonVmaId, AnonVmaId)>,
}

/// `move_pages_pte()`.
async fn move_pages_pte(k: &Cpu, dst_vma: VmaId, mm: u8, src: u32, dst: u32) -> Result<Outcome, Again> {
    k.mmu_notifier_invalidate_range_start(mm, src, src + 1, NotifyEvent::Clear).await;
    let mut held = Held::default();
    let mut result = Err(Again);
    for _ in 0..TRIES {
        match move_locked(k, dst_vma, mm, src, dst, &mut held).await {
            Step::Retry => {}
            Step::Ends(end) => {
                result = end;
                break;
            }
        }
    }
    if let Some((av, root)) = held.anon_vma {
        k.unlock(Lock::AnonVmaWrite(root));
        k.s().w.anon_vmas.put(av, true);
    }
    if let Some((folio, _)) = held.folio {
        k.folio_unlock(folio);
        k.folio_put(folio);
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    result
}

/// How far one round came.
enum Step {
    /// `goto retry`: a lock had to be waited for, or a large folio to be split.
    Retry,
    /// `goto out`.
    Ends(Result<Outcome, Again>),
}

impl Step {
    fn with(outcome: Outcome) -> Step {
        Step::Ends(Ok(outcome))
    }

    fn again() -> Step {
        Step::Ends(Err(Again))
    }
}

/// One round from `retry:` on.
async fn move_locked(k: &Cpu, dst_vma: VmaId, mm: u8, src: u32, dst: u32, held: &mut Held) -> Step {
    let arch = k.arch();
    let (Some(d), Some(s)) = (k.pte_offset(mm, dst), k.pte_offset(mm, src)) else { return Step::again() };
    if !arch.pte_none(read_locked(k, d).await) {
        return Step::with(Outcome::Exists);
    }
    let orig_src = read_locked(k, s).await;
    if arch.pte_none(orig_src) {
        return Step::with(Outcome::NoEnt);
    }
    if held.folio.is_some_and(|(_, pte)| pte != orig_src) {
        return Step::again();
    }
    if !arch.pte_present(orig_src) {
        return move_swapped(k, dst_vma, s, d, orig_src, held).await;
    }
    let page = k.pte_pfn(orig_src);
    if page == ZERO_PFN {
        return Step::Ends(move_zeropage_pte(k, dst_vma, s, d, orig_src).await);
    }
    if held.folio.is_none()
        && let Some(step) = lock_source(k, s, orig_src, page, held).await
    {
        return step;
    }
    let Some((folio, _)) = held.folio else { return Step::again() };
    if k.folio_test_large(folio) {
        let split = split_folio(k, folio).await;
        held.folio = None;
        k.folio_unlock(folio);
        k.folio_put(folio);
        return if split { Step::Retry } else { Step::with(Outcome::Busy) };
    }
    if held.anon_vma.is_none() {
        // folio_referenced() walks without the folio lock: the anon_vma lock keeps it out.
        let Some((av, root)) = folio_get_anon_vma(k, folio) else { return Step::again() };
        let locked = k.trylock(Lock::AnonVmaWrite(root)).await;
        if !locked {
            k.lock(Lock::AnonVmaWrite(root)).await;
        }
        held.anon_vma = Some((av, root));
        if !locked {
            return Step::Retry;
        }
    }
    Step::Ends(move_present_pte(k, dst_vma, s, d, orig_src, folio).await)
}

/// Locks the folio that is to move, which must be this process's own, and takes a reference.
async fn lock_source(k: &Cpu, s: PtePtr, orig_src: Pte, page: Pfn, held: &mut Held) -> Option<Step> {
    let folio = k.page_folio(page);
    k.lock(Lock::Pte(s.table)).await;
    if k.ptep_get(s) != orig_src {
        k.pte_unmap_unlock(s);
        return Some(Step::again());
    }
    if !k.page_anon_exclusive(page) && !k.has(Defect::U5) {
        k.pte_unmap_unlock(s);
        return Some(Step::with(Outcome::Busy));
    }
    let locked = k.trylock(Lock::Folio(folio)).await;
    if !locked && k.folio_test_large(folio) {
        k.pte_unmap_unlock(s);
        return Some(Step::again());
    }
    k.folio_get(folio);
    k.pte_unmap_unlock(s);
    if !locked {
        k.lock(Lock::Folio(folio)).await;
    }
    held.folio = Some((folio, orig_src));
    (!locked).then_some(Step::Retry)
}

/// The entry, read under its lock.
async fn read_locked(k: &Cpu, p: PtePtr) -> Pte {
    k.lock(Lock::Pte(p.table)).await;
    let pte = k.ptep_get(p);
    k.pte_unmap_unlock(p);
    pte
}

/// `folio_get_anon_vma()`, and its root.
fn folio_get_anon_vma(k: &Cpu, folio: Pfn) -> Option<(AnonVmaId, AnonVmaId)> {
    let s = &mut *k.s();
    let f = *s.folio(folio);
    let av = f.anon_vma.checked_sub(1).filter(|a| f.mapcount > 0 && s.w.anon_vmas.is_live(*a))?;
    s.w.anon_vmas[av].refs += 1;
    Some((av, s.w.anon_vmas[av].root))
}

/// `double_pt_lock()`: both tables, in one order for everybody. False, with no lock held, when an entry is not what it was.
async fn double_pt_lock(k: &Cpu, s: PtePtr, d: PtePtr, orig_src: Pte) -> bool {
    let (first, second) = (s.table.min(d.table), s.table.max(d.table));
    k.lock(Lock::Pte(first)).await;
    if first != second {
        k.lock(Lock::PteNested(second)).await;
    }
    let same = k.ptep_get(s) == orig_src && k.arch().pte_none(k.ptep_get(d));
    if !same {
        double_pt_unlock(k, s, d);
    }
    same
}

/// `double_pt_unlock()`.
fn double_pt_unlock(k: &Cpu, s: PtePtr, d: PtePtr) {
    let (first, second) = (s.table.min(d.table), s.table.max(d.table));
    if first != second {
        k.unlock(Lock::PteNested(second));
    }
    k.unlock(Lock::Pte(first));
}

/// `move_present_pte()`. The page comes without write protection of userfaultfd.
async fn move_present_pte(
    k: &Cpu,
    dst_vma: VmaId,
    s: PtePtr,
    d: PtePtr,
    orig_src: Pte,
    folio: Pfn,
) -> Result<Outcome, Again> {
    let arch = k.arch();
    if !double_pt_lock(k, s, d, orig_src).await {
        return Err(Again);
    }
    let pinned = |k: &Cpu| k.folio(folio).maybe_dma_pinned();
    let mut outcome = Outcome::Busy;
    if !pinned(k) && (k.page_anon_exclusive(folio) || k.has(Defect::U5)) {
        k.site(Site::UserfaultMove).await;
        let old = k.ptep_clear_flush(s).await;
        if pinned(k) {
            k.set_pte_at(s, old).await;
        } else {
            k.folio_move_anon_rmap(folio, dst_vma);
            set_index(k, folio, dst_vma, d.vpn);
            let prot = k.s().w.page_prot(dst_vma);
            // Soft-dirty, so that user space notices that the page has come.
            let mut pte = arch.pte_mksoft_dirty(arch.pfn_pte(u64::from(folio), prot));
            if k.pte_dirty(old) {
                pte = arch.pte_mkdirty(pte);
            }
            k.set_pte_at(d, arch.pte_mkwrite(pte)).await;
            outcome = Outcome::Done;
        }
    }
    double_pt_unlock(k, s, d);
    Ok(outcome)
}

/// `folio->index = linear_page_index(dst_vma, dst_addr)`.
fn set_index(k: &Cpu, folio: Pfn, dst_vma: VmaId, vpn: u32) {
    let s = &mut *k.s();
    let index = s.w.vmas[dst_vma].linear_page_index(vpn);
    s.w.mem.folios[folio as usize].index = index;
}

/// `move_zeropage_pte()`.
async fn move_zeropage_pte(k: &Cpu, dst_vma: VmaId, s: PtePtr, d: PtePtr, orig_src: Pte) -> Result<Outcome, Again> {
    let arch = k.arch();
    if !double_pt_lock(k, s, d, orig_src).await {
        return Err(Again);
    }
    let prot = k.s().w.page_prot(dst_vma);
    k.ptep_clear_flush(s).await;
    k.set_pte_at(d, arch.pte_mkspecial(arch.pfn_pte(u64::from(ZERO_PFN), prot))).await;
    double_pt_unlock(k, s, d);
    Ok(Outcome::Done)
}

/// The branch of `move_pages_pte()` for entries that are not present.
async fn move_swapped(k: &Cpu, dst_vma: VmaId, s: PtePtr, d: PtePtr, orig_src: Pte, held: &mut Held) -> Step {
    let ec = k.entries();
    if ec.is_swap_special_pte(orig_src) {
        return Step::with(Outcome::Fault);
    }
    let entry = k.pte_to_swp_entry(orig_src);
    if ec.non_swap_entry(entry) {
        if ec.is_migration_entry(entry) {
            migration_entry_wait(k, s.mm, s.vpn).await;
            return Step::again();
        }
        return Step::with(Outcome::Fault);
    }
    if !k.pte_swp_exclusive(orig_src) {
        return Step::with(Outcome::Busy);
    }
    let slot = k.swp_slot(entry);
    if held.folio.is_none()
        && let Some(page) = k.slot(slot).cache
        && k.folio_try_get(k.page_folio(page))
    {
        let folio = k.page_folio(page);
        let locked = k.trylock(Lock::Folio(folio)).await;
        if !locked {
            k.lock(Lock::Folio(folio)).await;
        }
        held.folio = Some((folio, orig_src));
        if !locked {
            return Step::Retry;
        }
    }
    Step::Ends(move_swap_pte(k, dst_vma, s, d, orig_src, slot, held.folio.map(|(folio, _)| folio)).await)
}

/// `move_swap_pte()`. Here we differ from the kernel, which keeps the entry's uffd-wp: a page that is there comes without (see
/// [`move_present_pte`]), and where the new place is not registered for write protection the page would come back writable
/// with the bit set (N30).
async fn move_swap_pte(
    k: &Cpu,
    dst_vma: VmaId,
    s: PtePtr,
    d: PtePtr,
    orig_src: Pte,
    slot: u32,
    folio: Option<Pfn>,
) -> Result<Outcome, Again> {
    let arch = k.arch();
    // The folio may have left the swap cache before it was locked.
    if folio.is_some_and(|f| !k.folio_test(f, Flags::SWAPCACHE) || k.slot(slot).cache != Some(f)) {
        return Err(Again);
    }
    k.site(Site::UserfaultMove).await;
    if !double_pt_lock(k, s, d, orig_src).await {
        return Err(Again);
    }
    match folio {
        // A fault at the new place will find the folio in the swap cache: it must say where it is then.
        Some(folio) => {
            k.folio_move_anon_rmap(folio, dst_vma);
            set_index(k, folio, dst_vma, d.vpn);
        }
        None => {
            // SWAP_HAS_CACHE
            let state = k.slot(slot);
            if state.cache.is_some() || state.bypassed {
                double_pt_unlock(k, s, d);
                return Err(Again);
            }
        }
    }
    let old = k.ptep_get_and_clear(s).await;
    let old = if k.has(Defect::N30) { old } else { arch.pte_swp_clear_uffd_wp(old) };
    k.set_pte_at(d, arch.pte_swp_mksoft_dirty(old)).await;
    double_pt_unlock(k, s, d);
    Ok(Outcome::Done)
}
