//! Reservations: which huge pages a mapping has been promised, and pages taken from the pool on the strength of that
//! (`Documentation/mm/hugetlbfs_reserv.rst`).
//!
//! Left out: subpools (`min_size` and `size` of a mount), the hugetlb control group, regions that cannot be allocated.

use super::is_vm_hugetlb_page;
use crate::mm::VmaId;
use crate::observe::{Backing, HUGETLBFS};
use crate::phys::{HpageFlags, Pfn, ResvMap};
use crate::sched::{Cpu, Lock, Sim, Site};

/// What a mapping's reservations are.
enum Resv {
    /// `inode_resv_map()`.
    File,
    /// `vma_resv_map()` of a private mapping.
    Private(u32),
    /// None: the mapping was forked, or has asked for none.
    Missing,
}

fn vma_resv_map(s: &Sim, vma: VmaId) -> Resv {
    let v = &s.w.vmas[vma];
    match v.hugetlb.resv {
        _ if v.shared() => Resv::File,
        Some(id) => Resv::Private(id),
        None => Resv::Missing,
    }
}

/// `vma_hugecache_offset()`: the index of a page, in huge pages.
fn vma_hugecache_offset(s: &Sim, vma: VmaId, vpn: u32) -> u32 {
    s.w.vmas[vma].linear_page_index(vpn) / s.w.geometry().ptrs()
}

fn change_map<T>(s: &mut Sim, resv: &Resv, change: impl FnOnce(&mut ResvMap) -> T) -> Option<T> {
    s.w.hugetlb.touched = true;
    match *resv {
        Resv::File => Some(change(&mut s.w.hugetlb.file)),
        Resv::Private(id) => Some(change(s.w.hugetlb.map_mut(id))),
        Resv::Missing => None,
    }
}

/// `vma_needs_reservation()`: true when no reservation is there for the page. An entry of a file's map is a reservation,
/// one of a private mapping's map is a reservation that was used up.
pub(super) fn vma_needs_reservation(s: &Sim, vma: VmaId, vpn: u32) -> bool {
    let index = vma_hugecache_offset(s, vma, vpn);
    match vma_resv_map(s, vma) {
        Resv::File => !s.w.hugetlb.file.has(index),
        Resv::Private(id) => s.w.hugetlb.map(id).has(index),
        Resv::Missing => true,
    }
}

/// `vma_commit_reservation()`: true when there was still no reservation.
fn vma_commit_reservation(s: &mut Sim, vma: VmaId, vpn: u32) -> bool {
    let (resv, index) = (vma_resv_map(s, vma), vma_hugecache_offset(s, vma, vpn));
    let added = change_map(s, &resv, |m| m.add(index));
    match resv {
        Resv::Private(_) => added == Some(false),
        Resv::File => added == Some(true),
        Resv::Missing => true,
    }
}

/// `vma_add_reservation()`: there is a reservation again.
pub(super) fn vma_add_reservation(s: &mut Sim, vma: VmaId, vpn: u32) {
    let (resv, index) = (vma_resv_map(s, vma), vma_hugecache_offset(s, vma, vpn));
    match resv {
        Resv::File => drop(change_map(s, &resv, |m| m.add(index))),
        _ => drop(change_map(s, &resv, |m| m.del(index, index + 1))),
    }
}

/// `vma_del_reservation()`: it is used up.
fn vma_del_reservation(s: &mut Sim, vma: VmaId, vpn: u32) {
    let (resv, index) = (vma_resv_map(s, vma), vma_hugecache_offset(s, vma, vpn));
    match resv {
        Resv::File => drop(change_map(s, &resv, |m| m.del(index, index + 1))),
        _ => drop(change_map(s, &resv, |m| m.add(index))),
    }
}

/// `restore_reserve_on_error()`: a page that was allocated is about to be freed unused.
pub(super) fn restore_reserve_on_error(k: &Cpu, vma: VmaId, vpn: u32, folio: Pfn) {
    let restores = k.hpage_test(folio, HpageFlags::RESTORE_RESERVE);
    let s = &mut *k.s();
    let needs = vma_needs_reservation(s, vma, vpn);
    if restores && needs {
        vma_add_reservation(s, vma, vpn);
    } else if !restores && !needs {
        vma_del_reservation(s, vma, vpn);
    }
}

/// `vma_has_reserves()`; `chg` as `vma_needs_reservation()` gave it.
fn vma_has_reserves(s: &Sim, vma: VmaId, chg: bool) -> bool {
    let v = &s.w.vmas[vma];
    v.backing != Backing::HugetlbNoreserve && (v.shared() || v.hugetlb.owner) && !chg
}

/// `alloc_hugetlb_folio()`: a page for this address, from what was promised or else from what is left. `None` (`-ENOSPC`)
/// when there is no more.
pub(super) async fn alloc_hugetlb_folio(k: &Cpu, vma: VmaId, vpn: u32, cow_from_owner: bool) -> Option<Pfn> {
    debug_assert!(is_vm_hugetlb_page(k, vma));
    let map_chg = vma_needs_reservation(&k.s(), vma, vpn);
    // hugepage_subpool_get_pages() without a subpool.
    let gbl_chg = map_chg || cow_from_owner;
    k.site(Site::HugetlbAlloc).await;
    let reserved = vma_has_reserves(&k.s(), vma, gbl_chg);
    // dequeue_hugetlb_folio_vma()
    let spare = k.s().w.hugetlb.available() > 0;
    let mut folio = if reserved || spare { k.dequeue_hugetlb_folio(false) } else { None };
    if folio.is_none() {
        folio = k.alloc_surplus_hugetlb_folio();
    }
    let folio = folio?;
    if reserved {
        k.hpage_set(folio, HpageFlags::RESTORE_RESERVE);
        k.s().w.hugetlb.resv -= 1;
    }
    let s = &mut *k.s();
    let map_commit = vma_commit_reservation(s, vma, vpn);
    if map_chg && !map_commit {
        // Somebody has reserved the page meanwhile.
        s.hugetlb_acct_memory(-1);
    }
    Some(folio)
}

/// `hugetlb_reserve_pages()`, called by `hugetlbfs_file_mmap()`. False (`-ENOMEM`) when so many pages cannot be promised.
pub fn hugetlb_reserve_pages(s: &mut Sim, vma: VmaId) -> bool {
    let (start, end, backing) = (s.w.vmas[vma].start, s.w.vmas[vma].end, s.w.vmas[vma].backing);
    let (from, to) = (vma_hugecache_offset(s, vma, start), vma_hugecache_offset(s, vma, end));
    match backing {
        Backing::Hugetlb | Backing::HugetlbfsPrivate => {
            if !s.hugetlb_acct_memory((to - from) as i32) {
                return false;
            }
            let resv = s.w.hugetlb.alloc_map();
            let h = &mut s.w.vmas[vma].hugetlb;
            (h.resv, h.owner) = (Some(resv), true);
        }
        Backing::HugetlbfsShared => {
            let chg = (to - from) as i32 - s.w.hugetlb.file.count(from, to);
            if !s.hugetlb_acct_memory(chg) {
                return false;
            }
            for index in from..to {
                s.w.hugetlb.file.add(index);
            }
        }
        // VM_NORESERVE
        _ => {}
    }
    true
}

/// `hugetlb_unreserve_pages()`: pages of the file from `from` on are gone, `freed` of which were there.
pub(super) fn hugetlb_unreserve_pages(s: &mut Sim, from: u32, to: u32, freed: i32) {
    s.w.hugetlb.touched = true;
    let chg = s.w.hugetlb.file.del(from, to);
    s.hugetlb_acct_memory(freed - chg);
}

/// `hugetlb_vm_op_open()` of a part that was split off: it shares the reservations.
pub fn hugetlb_vm_op_open(s: &mut Sim, vma: VmaId, like: VmaId) {
    let from = s.w.vmas[like].hugetlb;
    let h = &mut s.w.vmas[vma].hugetlb;
    (h.resv, h.owner, h.unmapped) = (from.resv, from.owner, from.unmapped);
    if let Some(resv) = from.resv {
        s.w.hugetlb.map_mut(resv).refs += 1;
    }
}

/// `hugetlb_vm_op_close()`: what was promised to the mapping and not used is given back.
pub fn hugetlb_vm_op_close(s: &mut Sim, vma: VmaId) {
    let h = s.w.vmas[vma].hugetlb;
    let Some(resv) = h.resv.filter(|_| h.owner) else { return };
    let (start, end) = (s.w.vmas[vma].start, s.w.vmas[vma].end);
    let (from, to) = (vma_hugecache_offset(s, vma, start), vma_hugecache_offset(s, vma, end));
    let reserve = (to - from) as i32 - s.w.hugetlb.map(resv).count(from, to);
    s.hugetlb_acct_memory(-reserve);
    s.w.hugetlb.put_map(resv);
    s.w.vmas[vma].hugetlb.resv = None;
}

/// `clear_vma_resv_huge_pages()`: the reservations have gone to another mapping.
pub fn clear_vma_resv_huge_pages(s: &mut Sim, vma: VmaId) {
    let h = &mut s.w.vmas[vma].hugetlb;
    (h.owner, h.unmapped) = (false, false);
    if let Some(resv) = h.resv.take() {
        s.w.hugetlb.put_map(resv);
    }
}

/// `__vma_private_lock()`.
pub(super) fn vma_private_lock(k: &Cpu, vma: VmaId) -> bool {
    let h = k.s().w.vmas[vma].hugetlb;
    h.resv.is_some() && h.owner
}

/// The lock of a mapping: to be held for reading, or for writing. A private mapping that has no reservations has none.
fn vma_lock(k: &Cpu, vma: VmaId, write: bool) -> Option<Lock> {
    let s = k.s();
    match (vma_resv_map(&s, vma), write) {
        (Resv::File, false) => Some(Lock::HugetlbVmaRead(vma)),
        (Resv::File, true) => Some(Lock::HugetlbVmaWrite(vma)),
        (Resv::Private(id), false) => Some(Lock::ResvRead(id)),
        (Resv::Private(id), true) => Some(Lock::ResvWrite(id)),
        (Resv::Missing, _) => None,
    }
}

/// `hugetlb_vma_lock_read()`.
pub(super) async fn hugetlb_vma_lock_read(k: &Cpu, vma: VmaId) {
    if let Some(lock) = vma_lock(k, vma, false) {
        k.lock(lock).await;
    }
}

/// `hugetlb_vma_unlock_read()`.
pub(super) fn hugetlb_vma_unlock_read(k: &Cpu, vma: VmaId) {
    if let Some(lock) = vma_lock(k, vma, false) {
        k.unlock(lock);
    }
}

/// `hugetlb_vma_lock_write()`.
pub(super) async fn hugetlb_vma_lock_write(k: &Cpu, vma: VmaId) {
    if let Some(lock) = vma_lock(k, vma, true) {
        k.lock(lock).await;
    }
}

/// `hugetlb_vma_trylock_write()`.
pub(super) async fn hugetlb_vma_trylock_write(k: &Cpu, vma: VmaId) -> bool {
    match vma_lock(k, vma, true) {
        Some(lock) => k.trylock(lock).await,
        None => true,
    }
}

/// `hugetlb_vma_unlock_write()`.
pub(super) fn hugetlb_vma_unlock_write(k: &Cpu, vma: VmaId) {
    if let Some(lock) = vma_lock(k, vma, true) {
        k.unlock(lock);
    }
}

/// `hugetlb_fault_mutex_hash()`: the mutex of a page of a mapping.
pub(super) fn fault_mutex(k: &Cpu, vma: VmaId, vpn: u32) -> Lock {
    let s = k.s();
    let index = vma_hugecache_offset(&s, vma, vpn);
    if s.w.vmas[vma].backing.file().is_some() { file_mutex(index) } else { Lock::HugetlbFault(4 + (index % 4) as u8) }
}

/// The same of a huge page of the file.
pub(super) fn file_mutex(index: u32) -> Lock {
    Lock::HugetlbFault((index % 4) as u8)
}

/// Of a mapping of the file, the page in it at which the huge page of an address begins.
pub(super) fn place(k: &Cpu, vma: VmaId, address: u32) -> Option<u32> {
    let s = k.s();
    let v = &s.w.vmas[vma];
    (v.backing.file() == Some(HUGETLBFS)).then(|| v.linear_page_index(address))
}
