//! `mm/memcontrol.c` and `mm/memcontrol-v1.c`: charges, and what becomes of them when a process changes its group.
//!
//! The counters are those of cgroup v1 (`memsw`), which is where charges move. Left out: limits, and so reclaim and
//! failing charges; hierarchy; the moment of the charge, which is the first
//! mapping here and the allocation in the kernel.

use super::huge::pmd_folio;
use super::huge_zero::is_huge_zero_pmd;
use super::mmap::nth_vma;
use crate::config::{Defect, Design};
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{PmdPtr, PtePtr, VmaId};
use crate::observe::Outcome;
use crate::phys::{CacheEntry, Charge, Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;
use crate::world::World;

/// `mem_cgroup_migrate()`: the charge goes along with the contents.
pub fn mem_cgroup_migrate(k: &Cpu, old: Pfn, new: Pfn) {
    let s = &mut *k.s();
    let memcg = std::mem::take(&mut s.w.mem.folios[old as usize].memcg);
    s.w.mem.folios[new as usize].memcg = memcg;
}

/// `mem_cgroup_swapout()`: the folio's charge becomes one of its slot.
pub fn mem_cgroup_swapout(k: &Cpu, folio: Pfn, slot: u32) {
    let s = &mut *k.s();
    let memcg = std::mem::take(&mut s.w.mem.folios[folio as usize].memcg);
    s.w.memcgs.charge(memcg, -1);
    s.w.memcgs.charge_swap(memcg, 1);
    s.w.swap.slots[slot as usize].memcg = memcg;
}

/// `mem_cgroup_swapin_charge_folio()` and `mem_cgroup_swapin_uncharge_swap()`: and back, to the group that the slot was
/// charged to, whoever swaps in.
pub fn mem_cgroup_swapin(k: &Cpu, folio: Pfn, slot: u32) {
    let s = &mut *k.s();
    let memcg = std::mem::take(&mut s.w.swap.slots[slot as usize].memcg);
    s.w.memcgs.charge_swap(memcg, -1);
    s.w.memcgs.charge(memcg, 1);
    s.w.mem.folios[folio as usize].memcg = memcg;
}

/// `mem_cgroup_uncharge()`.
pub fn mem_cgroup_uncharge(k: &Cpu, folio: Pfn) {
    let s = &mut *k.s();
    let f = &mut s.w.mem.folios[folio as usize];
    let memcg = std::mem::take(&mut f.memcg);
    s.w.memcgs.charge(memcg, -(f.nr_pages() as i32));
}

/// `cgroup_attach_task()` as far as memory goes: from now on the process charges another group; where charges move, what
/// it maps goes along.
pub async fn attach(k: &Cpu, mm: u8, to: u8) -> Outcome {
    if !k.alive(mm) {
        return Outcome::Skipped;
    }
    let from = std::mem::replace(&mut k.s().w.mms[mm as usize].memcg, to);
    if from != to && k.uses(Design::ChargesMove) {
        mem_cgroup_move_charge(k, mm, from + 1, to + 1).await;
    }
    Outcome::Done
}

/// `mem_cgroup_move_charge()`. The trylock of `mmap_lock` and its retries are a lock here.
async fn mem_cgroup_move_charge(k: &Cpu, mm: u8, from: Charge, to: Charge) {
    k.lock(Lock::MmapRead(mm)).await;
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        let (mut at, end) = {
            let s = k.s();
            (s.w.vmas[vma].start, s.w.vmas[vma].end)
        };
        while at < end {
            let next = k.pmd_addr_end(at, end);
            mem_cgroup_move_charge_pte_range(k, vma, at, next, from, to).await;
            at = next;
        }
        i += 1;
    }
    if k.undisturbed() {
        nothing_left_behind(k, mm, from);
    }
    k.unlock(Lock::MmapRead(mm));
}

/// `mem_cgroup_move_charge_pte_range()`.
async fn mem_cgroup_move_charge_pte_range(k: &Cpu, vma: VmaId, start: u32, end: u32, from: Charge, to: Charge) {
    let (mm, anonymous) = {
        let s = k.s();
        (s.w.vmas[vma].mm, s.w.vmas[vma].anonymous())
    };
    if let Some(p) = k.pmd_trans_huge_lock(mm, start).await {
        mem_cgroup_move_charge_pmd(k, p, from, to);
        return k.pmd_unlock(p);
    }
    let Some(first) = k.pte_offset_map_lock(mm, start).await else { return };
    for vpn in start..end {
        let p = PtePtr { index: first.index + (vpn - start), vpn, ..first };
        if anonymous && k.arch().pte_none(k.ptep_get(p)) {
            continue;
        }
        k.site(Site::MoveCharge).await;
        match get_mctgt_type(k, vma, p, from).await {
            Target::None => {}
            Target::Page(folio) => {
                let device = k.s().w.mem.device_of(folio).is_some();
                if device || k.folio_isolate_lru(folio) {
                    mem_cgroup_move_account(k, folio, from, to);
                    if !device {
                        k.folio_putback_lru(folio);
                    }
                }
                k.folio_unlock(folio);
                k.folio_put(folio);
            }
            Target::Swap(slot) => {
                let s = &mut *k.s();
                s.w.swap.slots[slot as usize].memcg = to;
                s.w.memcgs.charge_swap(from, -1);
                s.w.memcgs.charge_swap(to, 1);
            }
        }
    }
    k.pte_unmap_unlock(first);
}

/// The branch of `mem_cgroup_move_charge_pte_range()` for a huge page, and `get_mctgt_type_thp()`. (Of a large folio that PTEs map nothing
/// is moved.)
fn mem_cgroup_move_charge_pmd(k: &Cpu, p: PmdPtr, from: Charge, to: Charge) {
    let pmd = k.pmdp_get(p);
    if k.entries().pmd_kind(pmd) != PmdKind::Huge || is_huge_zero_pmd(k, pmd) {
        return;
    }
    let folio = pmd_folio(k, pmd);
    let f = k.folio(folio);
    // The folio is locked meanwhile: nobody comes between.
    if f.memcg == from && f.locked_by == 0 && k.folio_isolate_lru(folio) {
        mem_cgroup_move_account(k, folio, from, to);
        k.folio_putback_lru(folio);
    }
}

/// `enum mc_target_type`.
enum Target {
    None,
    /// A small folio, locked and with a reference.
    Page(Pfn),
    /// A slot whose page is not in the swap cache.
    Swap(u32),
}

/// `mc_handle_file_pte()`: the page of a file that is in memory, whoever maps it.
fn mc_handle_file_pte(w: &World, vma: VmaId, vpn: u32) -> Option<Pfn> {
    let v = &w.vmas[vma];
    let file = v.backing.file().filter(|_| !v.backing.hugetlb())?;
    // filemap_get_incore_folio(): the page of a tmpfs file may be in the swap cache.
    match w.files[usize::from(file)].get(v.linear_page_index(vpn)) {
        CacheEntry::Folio(folio) => Some(folio),
        CacheEntry::Swap(slot) => w.swap.slots[slot as usize].cache,
        CacheEntry::Empty | CacheEntry::Poisoned => None,
    }
}

/// `get_mctgt_type()`.
async fn get_mctgt_type(k: &Cpu, vma: VmaId, p: PtePtr, from: Charge) -> Target {
    let ec = k.entries();
    let pte = k.ptep_get(p);
    let present = ec.arch.pte_present(pte);
    let (page, slot) = match ec.kind(pte) {
        EntryKind::Present => (Some(k.vm_normal_page(pte)), None),
        // mc_handle_swap_pte()
        EntryKind::Swap => {
            let slot = k.swp_slot(k.pte_to_swp_entry(pte));
            (k.slot(slot).cache, Some(slot))
        }
        kind if kind.is_device_private() => (Some(k.swp_offset_pfn(k.pte_to_swp_entry(pte))), None),
        // Behind a marker there may be a page of the file, as behind nothing.
        _ if ec.arch.pte_none(pte) || ec.pte_none_mostly(pte) && !k.has(Defect::A6) => {
            (mc_handle_file_pte(&k.s().w, vma, p.vpn), None)
        }
        _ => (None, None),
    };
    let page = page.filter(|page| *page != 0 && !k.folio(*page).large() && k.folio_try_get(*page));
    let Some(page) = page else {
        let charged = slot.filter(|slot| k.slot(*slot).memcg == from);
        return charged.map_or(Target::None, Target::Swap);
    };
    if !k.trylock(Lock::Folio(page)).await {
        k.folio_put(page);
        return Target::None;
    }
    // A page that this entry does not map may be mapped elsewhere, and go while it is moved.
    // (So device-private pages never move, although there is a target type for them.)
    let elsewhere = !present && k.folio_mapped(page);
    if elsewhere || k.folio(page).memcg != from {
        k.folio_unlock(page);
        k.folio_put(page);
        return Target::None;
    }
    Target::Page(page)
}

/// `mem_cgroup_move_account()`.
fn mem_cgroup_move_account(k: &Cpu, folio: Pfn, from: Charge, to: Charge) {
    k.note(Note::ChargeMoved, Some(folio), u32::from(from) - 1, u32::from(to) - 1);
    let forget = k.has(Defect::S42);
    let s = &mut *k.s();
    s.w.mem.folios[folio as usize].memcg = to;
    let pages = s.folio(folio).nr_pages() as i32;
    if !forget {
        s.w.memcgs.charge(from, -pages);
    }
    s.w.memcgs.charge(to, pages);
}

/// `memcg.left-behind`: what the address space maps present, and pages of its files that nobody maps, have gone along.
fn nothing_left_behind(k: &Cpu, mm: u8, from: Charge) {
    let ec = k.entries();
    let left = {
        let s = k.s();
        let vmas = s.w.mms[mm as usize].vmas.iter();
        let pages = vmas.flat_map(|v| (s.w.vmas[*v].start..s.w.vmas[*v].end).map(move |vpn| (*v, vpn)));
        pages.into_iter().find_map(|(vma, vpn)| {
            let pte = s.w.tables.pte(s.w.pte_ptr(mm, vpn)?);
            let page = match ec.kind(pte) {
                EntryKind::Present => ec.arch.pte_pfn(pte) as Pfn,
                _ if ec.pte_none_mostly(pte) => {
                    mc_handle_file_pte(&s.w, vma, vpn).filter(|p| s.w.mem.folios[*p as usize].mapcount == 0)?
                }
                _ => return None,
            };
            let f = s.w.mem.folios.get(page as usize)?;
            (f.memcg == from && f.flags.has(Flags::LRU) && !f.large() && f.locked_by == 0).then_some((vpn, page))
        })
    };
    if let Some((vpn, pfn)) = left {
        let e = Evidence { proc: Some(mm), vpn: Some(vpn), pfn: Some(pfn), ..Evidence::default() };
        k.violate(Rule::MemcgLeftBehind, e);
    }
}
