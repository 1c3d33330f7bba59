//! `mm/ksm.c`: pages of equal contents become one.
//!
//! Left out: the order in which `ksmd` scans (the `ksm` op names the page), checksums that keep changing pages out of
//! the unstable tree, `max_page_sharing` and chains of nodes, NUMA trees, merging with the zero page (`use_zero_pages`),
//! `PR_SET_MEMORY_MERGE`; large folios are not split for it. The items of an address space go when it exits; the kernel
//! leaves that to the next scan.

use super::fault::handle_unshare_fault;
use super::hugetlb::may_split;
use super::mmap::{split_at_bounds, vmas_in};
use super::pvmw::{Mapped, PageVmaWalk};
use super::rmap::Pvmw;
use super::swap_cache::folio_free_swap;
use super::vma_lock::vma_start_write;
use super::vmf::FaultResult;
use crate::arch::Pte;
use crate::config::Defect;
use crate::mm::{AnonVmaId, Life, RmapItem, VmaId};
use crate::observe::Outcome;
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock, NotifyEvent, Site};
use crate::trace::Note;

/// `madvise_vma_behavior()` and `ksm_madvise()` of `MADV_MERGEABLE` and `MADV_UNMERGEABLE`.
pub async fn ksm_madvise(k: &Cpu, mm: u8, start: u32, end: u32, merge: bool) -> Outcome {
    k.lock(Lock::MmapWrite(mm)).await;
    let mut covered = 0;
    let mut result = Ok(());
    if !may_split(k, mm, start, end) {
        k.unlock(Lock::MmapWrite(mm));
        return Outcome::Invalid;
    }
    split_at_bounds(k, mm, start, end).await;
    for vma in vmas_in(k, mm, start, end) {
        let (from, to, was) = {
            let s = k.s();
            let v = &s.w.vmas[vma];
            (v.start, v.end, v.mergeable)
        };
        covered += to - from;
        vma_start_write(k, vma).await;
        if !merge && was && k.s().w.vmas[vma].anon_vma.is_some() {
            result = unmerge_ksm_pages(k, vma, from, to).await;
            if result.is_err() {
                break;
            }
        }
        // vma_ksm_compatible(): nothing is merged in shared mappings and those of devices, nor hugetlb pages.
        let v = &mut k.s().w.vmas[vma];
        v.mergeable = merge && !v.shared() && !v.backing.hugetlb() && v.backing.device().is_none();
    }
    k.unlock(Lock::MmapWrite(mm));
    if result.is_err() || covered < end - start { Outcome::NoMem } else { Outcome::Done }
}

/// `unmerge_ksm_pages()`.
pub(super) async fn unmerge_ksm_pages(k: &Cpu, vma: VmaId, start: u32, end: u32) -> Result<(), Outcome> {
    for vpn in start..end {
        break_ksm(k, vma, vpn).await?;
    }
    Ok(())
}

/// `break_ksm()`: faults until the address maps no KSM page any more.
async fn break_ksm(k: &Cpu, vma: VmaId, vpn: u32) -> Result<(), Outcome> {
    while maps_ksm_page(k, vma, vpn).await {
        match handle_unshare_fault(k, vma, vpn).await {
            FaultResult::Done => {}
            FaultResult::Oom => return Err(Outcome::NoMem),
            _ => break,
        }
    }
    Ok(())
}

/// `folio_walk_start()` with `FW_MIGRATION`, and the question that `break_ksm()` asks.
async fn maps_ksm_page(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let ec = k.entries();
    let mm = k.s().w.vmas[vma].mm;
    let Some(p) = k.pte_offset_map_lock(mm, vpn).await else { return false };
    let pte = k.ptep_get(p);
    let page = if ec.arch.pte_present(pte) {
        Some(k.vm_normal_page(pte))
    } else if ec.kind(pte).is_migration() {
        Some(k.swp_offset_pfn(k.pte_to_swp_entry(pte)))
    } else {
        None
    };
    k.pte_unmap_unlock(p);
    page.is_some_and(|page| k.folio_test(page, Flags::KSM))
}

/// What `ksmd` does when its scan comes to a page: `ksm_do_scan()` of one item.
pub async fn ksm_scan(k: &Cpu, mm: u8, vpn: u32) {
    k.lock(Lock::Ksm).await;
    if let Some(page) = get_mergeable_page(k, mm, vpn).await {
        cmp_and_merge_page(k, page, mm, vpn).await;
        k.folio_put(page);
    }
    k.unlock(Lock::Ksm);
}

/// `find_mergeable_vma()`, under `mmap_lock`.
fn find_mergeable_vma(k: &Cpu, mm: u8, vpn: u32) -> Option<VmaId> {
    let s = k.s();
    if s.w.mms[mm as usize].life != Life::Alive {
        return None;
    }
    let vma = s.w.vma_lookup(mm, vpn)?;
    let v = &s.w.vmas[vma];
    (v.mergeable && v.anon_vma.is_some()).then_some(vma)
}

/// `get_mergeable_page()`: the small anonymous page that is mapped at an address, with a reference.
async fn get_mergeable_page(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    if !k.alive(mm) {
        return None;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let mut found = None;
    if find_mergeable_vma(k, mm, vpn).is_some()
        && let Some(p) = k.pte_offset_map_lock(mm, vpn).await
    {
        let pte = k.ptep_get(p);
        if k.arch().pte_present(pte) {
            let page = k.vm_normal_page(pte);
            let f = k.folio(page);
            if f.anon() && !f.large() {
                k.folio_get(page);
                found = Some(page);
            }
        }
        k.pte_unmap_unlock(p);
    }
    k.unlock(Lock::MmapRead(mm));
    found
}

/// `cmp_and_merge_page()`.
async fn cmp_and_merge_page(k: &Cpu, page: Pfn, mm: u8, vpn: u32) {
    let own = stable_node(k, page);
    if own.is_some() && k.s().w.ksm.node_of(mm, vpn) == own {
        return;
    }
    let kpage = stable_tree_search(k, page);
    remove_rmap_item_from_tree(k, mm, vpn).await;
    if let Some(kpage) = kpage {
        if let Some(av) = try_to_merge_with_ksm_page(k, mm, vpn, page, Some(kpage)).await {
            k.lock(Lock::Folio(kpage)).await;
            stable_tree_append(k, kpage, RmapItem { mm, vpn, av });
            k.folio_unlock(kpage);
        }
        k.folio_put(kpage);
        return;
    }
    let Some((tree_page, other)) = unstable_tree_search_insert(k, mm, vpn, page).await else { return };
    try_to_merge_two_pages(k, (mm, vpn), page, other, tree_page).await;
    k.folio_put(tree_page);
}

/// `page_stable_node()`.
pub(super) fn stable_node(k: &Cpu, page: Pfn) -> Option<usize> {
    let f = k.folio(page);
    usize::from(f.stable).checked_sub(1).filter(|_| f.flags.has(Flags::KSM))
}

/// `stable_tree_search()`: a KSM folio of equal contents, with a reference. Nodes whose folio is gone are dropped.
fn stable_tree_search(k: &Cpu, page: Pfn) -> Option<Pfn> {
    let nodes = k.s().w.ksm.nodes.len();
    (0..nodes).find_map(|node| {
        let kpage = ksm_get_folio(k, node)?;
        // A page whose memory has failed is not compared with, nor mapped again (N61).
        let failed = k.folio_test(kpage, Flags::HWPOISON) && !k.has(Defect::N61);
        if !failed && k.folio(kpage).data == k.folio(page).data {
            return Some(kpage);
        }
        k.folio_put(kpage);
        None
    })
}

/// `ksm_get_folio()` without its lock.
fn ksm_get_folio(k: &Cpu, node: usize) -> Option<Pfn> {
    let (live, kpfn) = {
        let s = k.s();
        let n = &s.w.ksm.nodes[node];
        (n.live, n.kpfn)
    };
    if !live {
        return None;
    }
    if stable_node(k, kpfn) == Some(node) && k.folio_try_get(kpfn) {
        return Some(kpfn);
    }
    remove_node_from_stable_tree(k, node);
    None
}

/// `remove_node_from_stable_tree()`.
fn remove_node_from_stable_tree(k: &Cpu, node: usize) {
    let s = &mut *k.s();
    s.w.ksm.nodes[node].live = false;
    while let Some(item) = s.w.ksm.nodes[node].items.pop() {
        s.w.anon_vmas.put(item.av, true);
    }
}

/// `remove_rmap_item_from_tree()`: from whichever of the two.
async fn remove_rmap_item_from_tree(k: &Cpu, mm: u8, vpn: u32) {
    k.s().w.ksm.unstable.retain(|c| *c != (mm, vpn));
    let node = k.s().w.ksm.node_of(mm, vpn);
    let Some(node) = node else { return };
    let Some(folio) = ksm_get_folio(k, node) else { return };
    k.lock(Lock::Folio(folio)).await;
    {
        let s = &mut *k.s();
        let items = &mut s.w.ksm.nodes[node].items;
        if let Some(at) = items.iter().position(|i| (i.mm, i.vpn) == (mm, vpn)) {
            let item = items.remove(at);
            s.w.anon_vmas.put(item.av, true);
        }
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
}

/// `unstable_tree_search_insert()`: another candidate of equal contents, with a reference to its page; or this one
/// becomes a candidate.
async fn unstable_tree_search_insert(k: &Cpu, mm: u8, vpn: u32, page: Pfn) -> Option<(Pfn, (u8, u32))> {
    let at = |k: &Cpu, i: usize| k.s().w.ksm.unstable.get(i).copied();
    let mut i = 0;
    while let Some((other_mm, other_vpn)) = at(k, i) {
        i += 1;
        let Some(tree_page) = get_mergeable_page(k, other_mm, other_vpn).await else { continue };
        if tree_page != page && k.folio(tree_page).data == k.folio(page).data {
            return Some((tree_page, (other_mm, other_vpn)));
        }
        k.folio_put(tree_page);
    }
    k.s().w.ksm.wait_for_equal(mm, vpn);
    None
}

/// `try_to_merge_two_pages()` and the insertion of what became of them.
async fn try_to_merge_two_pages(k: &Cpu, item: (u8, u32), page: Pfn, other: (u8, u32), tree_page: Pfn) {
    let Some(av) = try_to_merge_with_ksm_page(k, item.0, item.1, page, None).await else { return };
    let Some(other_av) = try_to_merge_with_ksm_page(k, other.0, other.1, tree_page, Some(page)).await else {
        // A KSM page that only one entry maps: break it.
        k.s().w.anon_vmas.put(av, true);
        break_cow(k, item.0, item.1).await;
        return;
    };
    k.s().w.ksm.unstable.retain(|c| *c != other);
    k.lock(Lock::Folio(page)).await;
    // stable_tree_insert()
    {
        let s = &mut *k.s();
        let node = s.w.ksm.insert(page);
        s.w.mem.folios[page as usize].stable = node as u16 + 1;
    }
    stable_tree_append(k, page, RmapItem { mm: other.0, vpn: other.1, av: other_av });
    stable_tree_append(k, page, RmapItem { mm: item.0, vpn: item.1, av });
    k.folio_unlock(page);
}

/// `stable_tree_append()`, with the folio locked. The item brings its reference to the `anon_vma`.
fn stable_tree_append(k: &Cpu, kpage: Pfn, item: RmapItem) {
    let node = stable_node(k, kpage);
    let s = &mut *k.s();
    match node {
        Some(node) => s.w.ksm.nodes[node].items.push(item),
        // Migrated since: the node is the new folio's. The address is left out until the next scan.
        None => s.w.anon_vmas.put(item.av, true),
    }
}

/// `break_cow()`.
async fn break_cow(k: &Cpu, mm: u8, vpn: u32) {
    k.lock(Lock::MmapRead(mm)).await;
    let vma = find_mergeable_vma(k, mm, vpn);
    if let Some(vma) = vma {
        let _ = break_ksm(k, vma, vpn).await;
    }
    k.unlock(Lock::MmapRead(mm));
}

/// `try_to_merge_with_ksm_page()`: gives the VMA's `anon_vma` with a reference when the page was merged.
async fn try_to_merge_with_ksm_page(k: &Cpu, mm: u8, vpn: u32, page: Pfn, kpage: Option<Pfn>) -> Option<AnonVmaId> {
    if !k.alive(mm) {
        return None;
    }
    k.lock(Lock::MmapRead(mm)).await;
    let mut av = None;
    let vma = find_mergeable_vma(k, mm, vpn);
    if let Some(vma) = vma
        && try_to_merge_one_page(k, vma, page, kpage).await
    {
        let s = &mut *k.s();
        av = s.w.vmas[vma].anon_vma;
        if let Some(av) = av {
            s.w.anon_vmas[av].refs += 1;
        }
    }
    k.unlock(Lock::MmapRead(mm));
    av
}

/// `try_to_merge_one_page()`: makes a page a KSM page, or replaces it by one.
async fn try_to_merge_one_page(k: &Cpu, vma: VmaId, page: Pfn, kpage: Option<Pfn>) -> bool {
    if kpage == Some(page) {
        return true;
    }
    if !k.folio(page).anon() || !k.trylock(Lock::Folio(page)).await {
        return false;
    }
    let mut merged = false;
    if let Some(orig_pte) = write_protect_page(k, vma, page).await {
        match kpage {
            None => {
                let s = &mut *k.s();
                let f = &mut s.w.mem.folios[page as usize];
                f.flags.set(Flags::KSM);
                f.flags.set(Flags::DIRTY);
                (f.anon_vma, f.stable) = (0, 0);
                s.note(k.id, Note::KsmPage, Some(page), 0, 0);
                merged = true;
            }
            Some(kpage) if k.folio(page).data == k.folio(kpage).data => {
                merged = replace_page(k, vma, page, kpage, orig_pte).await;
            }
            Some(_) => {}
        }
    }
    k.folio_unlock(page);
    merged
}

/// `page_address_in_vma()` of a small anonymous folio that is not a KSM folio.
fn page_address_in_vma(k: &Cpu, page: Pfn, vma: VmaId) -> Option<u32> {
    let s = k.s();
    let f = s.folio(page);
    let (ours, theirs) = (s.w.vmas[vma].anon_vma?, f.anon_vma.checked_sub(1)?);
    let same_root = s.w.anon_vmas[ours].root == s.w.anon_vmas[theirs].root;
    s.w.vmas[vma].address(f.index).filter(|_| same_root)
}

/// `write_protect_page()`: the entry, read-only and clean, unless somebody else may still write the page.
async fn write_protect_page(k: &Cpu, vma: VmaId, page: Pfn) -> Option<Pte> {
    let arch = k.arch();
    let vpn = page_address_in_vma(k, page, vma)?;
    let mm = k.s().w.vmas[vma].mm;
    k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, NotifyEvent::Clear).await;
    let mut orig = None;
    let mut walk = PageVmaWalk::new(k, page, vma, vpn, Pvmw::Mapped);
    if let Some(Mapped::Pte(p)) = walk.next(k).await {
        let mut entry = k.ptep_get(p);
        let exclusive = k.page_anon_exclusive(page);
        // Device-exclusive entries map the page too, and are left alone.
        if !arch.pte_present(entry) && !k.has(Defect::K1) {
        } else if k.pte_write(entry) || k.pte_dirty(entry) || exclusive {
            let swapped = i32::from(k.folio_test(page, Flags::SWAPCACHE));
            k.site(Site::KsmProtect).await;
            // Cleared and flushed first: nobody can take a reference through the entry between that and the check.
            entry = if k.has(Defect::S40) { k.ptep_get_and_clear(p).await } else { k.ptep_clear_flush(p).await };
            let in_use = k.folio_mapcount(page) + 1 + swapped != k.folio_ref_count(page);
            if in_use || exclusive && !k.folio_try_share_anon_rmap_pte(page) {
                k.set_pte_at(p, entry).await;
            } else {
                if k.pte_dirty(entry) {
                    k.folio_mark_dirty(page);
                }
                entry = arch.pte_wrprotect(arch.pte_mkclean(entry));
                k.set_pte_at(p, entry).await;
                orig = Some(entry);
            }
        } else {
            orig = Some(entry);
        }
    }
    walk.done(k);
    k.mmu_notifier_invalidate_range_end(mm).await;
    orig
}

/// `replace_page()`: the entry maps the KSM page instead, if it is still what it was.
async fn replace_page(k: &Cpu, vma: VmaId, page: Pfn, kpage: Pfn, orig_pte: Pte) -> bool {
    let arch = k.arch();
    let Some(vpn) = page_address_in_vma(k, page, vma) else { return false };
    let mm = k.s().w.vmas[vma].mm;
    k.mmu_notifier_invalidate_range_start(mm, vpn, vpn + 1, NotifyEvent::Clear).await;
    let mut replaced = false;
    k.site(Site::KsmReplace).await;
    if let Some(p) = k.pte_offset_map_lock(mm, vpn).await {
        // Here we differ from the kernel once more: memory_failure() takes no lock of KSM's (N61).
        let failed = k.folio_test(kpage, Flags::HWPOISON) && !k.has(Defect::N61);
        if !failed && (k.ptep_get(p) == orig_pte || k.has(Defect::S41)) {
            k.folio_get(kpage);
            k.folio_add_anon_rmap_pte(kpage, false);
            k.mlock_vma_folio(kpage, vma);
            let prot = k.s().w.page_prot(vma);
            let mut newpte = arch.pfn_pte(u64::from(kpage), prot);
            // The kernel makes the new entry of nothing but the VMA's protection (N7).
            if !k.has(Defect::N7) {
                newpte = carry_tracking(k, orig_pte, newpte);
            }
            k.ptep_clear_flush(p).await;
            k.set_pte_at(p, newpte).await;
            k.folio_remove_rmap_pte(page);
            k.munlock_vma_folio(page, vma);
            if !k.folio_mapped(page) {
                folio_free_swap(k, page);
            }
            k.folio_put(page);
            k.note(Note::KsmMerged, Some(page), kpage, 0);
            replaced = true;
        }
        k.pte_unmap_unlock(p);
    }
    k.mmu_notifier_invalidate_range_end(mm).await;
    replaced
}

/// Soft-dirty and uffd-wp of a present entry that another one takes the place of.
pub(super) fn carry_tracking(k: &Cpu, old: Pte, mut new: Pte) -> Pte {
    let arch = k.arch();
    if k.pte_soft_dirty(old) {
        new = arch.pte_mksoft_dirty(new);
    }
    if k.pte_uffd_wp(old) {
        new = arch.pte_mkuffd_wp(new);
    }
    new
}

/// `ksm_exit()`, and what the next scan would do: nothing of the address space stays in the trees.
pub async fn ksm_exit(k: &Cpu, mm: u8) {
    let known = {
        let s = k.s();
        let in_node = |n: &crate::mm::StableNode| n.live && n.items.iter().any(|i| i.mm == mm);
        s.w.ksm.nodes.iter().any(in_node) || s.w.ksm.unstable.iter().any(|c| c.0 == mm)
    };
    if !known {
        return;
    }
    k.lock(Lock::Ksm).await;
    k.s().w.ksm.unstable.retain(|c| c.0 != mm);
    let next = |k: &Cpu| {
        let s = k.s();
        let items = s.w.ksm.nodes.iter().filter(|n| n.live).flat_map(|n| n.items.iter());
        items.filter(|i| i.mm == mm).map(|i| i.vpn).next()
    };
    while let Some(vpn) = next(k) {
        remove_rmap_item_from_tree(k, mm, vpn).await;
    }
    k.unlock(Lock::Ksm);
}
