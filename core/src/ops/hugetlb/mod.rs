//! `mm/hugetlb.c` and `fs/hugetlbfs/inode.c`: pages of the size that one PMD maps, from a pool of their own.
//!
//! Mappings are private anonymous memory, with a reservation or without (each a private mapping of an unnamed file, whose
//! page cache stays empty), and the file of `hugetlbfs`, shared or private. A hugetlb page is mapped whole or not at all. The locks are
//! those of 6.12 in every release: `hugetlb_fault_mutex` for each page of a file, `hugetlb_vma_lock` (for private mappings
//! that of their reservations), `i_mmap_rwsem`.
//!
//! Left out: pages of the size of a PUD, subpools, the hugetlb control group,
//! `fallocate()` that allocates, and the reads and writes of the file.

mod fault;
mod fork;
mod inode;
mod migrate;
mod mremap;
mod protect;
mod reserve;
mod scan;
mod share;
mod uffd;
mod zap;

pub use fault::hugetlb_fault;
pub use fork::copy_hugetlb_page_range;
pub use inode::{hugetlb_vmtruncate, hugetlbfs_evict_inode, hugetlbfs_punch_hole};
pub use migrate::{dissolve_free_hugetlb_folio, dissolve_free_hugetlb_folios, isolate_hugetlb, migrate_hugetlb};
pub use mremap::move_hugetlb_page_tables;
pub use protect::hugetlb_change_protection;
pub use reserve::{clear_vma_resv_huge_pages, hugetlb_reserve_pages, hugetlb_vm_op_close, hugetlb_vm_op_open};
pub use scan::pagemap_scan_hugetlb;
pub use share::{hugetlb_split, hugetlb_unshare_all_pmds, hugetlb_unshare_early};
pub use uffd::{mfill_atomic_hugetlb, userfaultfd_huge_must_wait};
pub use zap::{unmap_single_hugetlb_vma, zap_hugetlb_page_range_single};

use super::huge::pmd_folio;
use crate::arch::Pte;
use crate::entry::PmdKind;
use crate::mm::VmaId;
use crate::phys::{Flags, Pfn};
use crate::sched::Cpu;

/// `is_vm_hugetlb_page()`.
#[inline]
pub fn is_vm_hugetlb_page(k: &Cpu, vma: VmaId) -> bool {
    k.s().w.vmas[vma].backing.hugetlb()
}

/// `folio_test_hugetlb()`.
pub fn folio_test_hugetlb(k: &Cpu, folio: Pfn) -> bool {
    k.folio_test(folio, Flags::HUGETLB)
}

/// Are both ends of a range borders of huge pages?
pub fn aligned(k: &Cpu, start: u32, end: u32) -> bool {
    (start | end) & (k.config().geometry.ptrs() - 1) == 0
}

/// `hugetlb_vm_op_split()`: may the mappings be split at both ends of a range?
pub fn may_split(k: &Cpu, mm: u8, start: u32, end: u32) -> bool {
    [start, end].into_iter().all(|at| {
        let vma = {
            let s = k.s();
            s.w.vma_lookup(mm, at).filter(|v| s.w.vmas[*v].start != at)
        };
        aligned(k, at, at) || vma.is_none_or(|v| !is_vm_hugetlb_page(k, v))
    })
}

/// The hugetlb folio that an address maps.
pub fn mapped_hugetlb_folio(k: &Cpu, mm: u8, vpn: u32) -> Option<Pfn> {
    let p = k.pmd_leaf(mm, vpn)?;
    let pmd = k.pmdp_get(p);
    let huge = k.entries().pmd_kind(pmd) == PmdKind::Huge;
    huge.then(|| pmd_folio(k, pmd)).filter(|folio| folio_test_hugetlb(k, *folio))
}

/// `echo N > /proc/sys/vm/nr_hugepages`.
pub fn nr_hugepages(k: &Cpu, count: u8) {
    k.s().set_max_huge_pages(i32::from(count));
}

/// `copy_user_large_folio()`.
fn copy_user_large_folio(k: &Cpu, new: Pfn, old: Pfn) {
    let s = &mut *k.s();
    for n in 0..s.w.geometry().ptrs() {
        s.copy_page(old + n, new + n);
    }
}

/// `make_huge_pte()`, before it is marked as huge: writable only when asked to be and permitted.
fn make_huge_pte(k: &Cpu, vma: VmaId, folio: Pfn, try_mkwrite: bool) -> Pte {
    let arch = k.arch();
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), s.w.vmas[vma].writable())
    };
    let entry = arch.pte_mkyoung(arch.pfn_pte(u64::from(folio), prot));
    if try_mkwrite && writable { arch.pte_mkwrite(arch.pte_mkdirty(entry)) } else { arch.pte_wrprotect(entry) }
}
