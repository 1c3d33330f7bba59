//! Page tables made and given back: `mm/memory.c: __pte_alloc()`, `free_pgd_range()`.

use crate::arch::Pmd;
use crate::mm::{PT_PFN_BASE, PmdPtr, TableId};
use crate::sched::{Cpu, Lock};
use crate::world::World;

/// `__handle_mm_fault()`'s allocation of upper tables and `pte_alloc()`: makes sure that a PTE table serves `vpn`, or a
/// huge page.
pub async fn pte_alloc(k: &Cpu, mm: u8, vpn: u32) {
    // Most faults find the table that an earlier one has made.
    if k.pte_offset(mm, vpn).is_none() {
        alloc_tables(k, mm, vpn, 1).await;
    }
}

/// `pmd_alloc()` and what is above it: the PMD of a page.
pub async fn pmd_alloc(k: &Cpu, mm: u8, vpn: u32) -> PmdPtr {
    loop {
        if let Some(p) = k.pmd_offset(mm, vpn) {
            return p;
        }
        alloc_tables(k, mm, vpn, 2).await;
    }
}

/// `pud_alloc()`: the table of PUDs.
pub async fn pud_alloc(k: &Cpu, mm: u8, vpn: u32) {
    alloc_tables(k, mm, vpn, 3).await;
}

/// `pte_alloc_one()`: a table that is not yet in use.
pub fn pte_alloc_one(k: &Cpu, mm: u8) -> TableId {
    k.s().w.tables.alloc(mm, 0)
}

/// Makes sure that the entries of the levels from the top to `last` are not empty.
async fn alloc_tables(k: &Cpu, mm: u8, vpn: u32, last: u8) {
    let arch = k.arch();
    let mut table = k.s().w.mms[mm as usize].pgd;
    for level in (last..=3).rev() {
        let next = {
            let s = k.s();
            s.w.tables.next(arch, table, s.w.tables.index(vpn, level))
        };
        if let Some(next) = next {
            table = next;
            continue;
        }
        // The PMD table has a lock of its own; above it, page_table_lock.
        let lock = if level == 1 { Lock::Pmd(table) } else { Lock::PageTable(mm) };
        k.lock(lock).await;
        let next = {
            let s = &mut *k.s();
            let index = s.w.tables.index(vpn, level);
            let none = arch.pmd_none(Pmd(s.w.tables.get(table, index)));
            s.w.tables.next(arch, table, index).or_else(|| {
                none.then(|| {
                    let id = s.w.tables.alloc(mm, level - 1);
                    s.w.tables.put(table, index, arch.mk_table(PT_PFN_BASE + u64::from(id)).0);
                    id
                })
            })
        };
        k.unlock(lock);
        // A huge page has been put there.
        let Some(next) = next else { return };
        table = next;
    }
}

/// [`pte_alloc`] before anything runs.
pub fn pte_alloc_now(w: &mut World, mm: u8, vpn: u32) {
    let arch = w.config.arch;
    let mut table = w.mms[mm as usize].pgd;
    for level in (1..=3).rev() {
        let index = w.tables.index(vpn, level);
        table = w.tables.next(arch, table, index).unwrap_or_else(|| {
            let id = w.tables.alloc(mm, level - 1);
            w.tables.put(table, index, arch.mk_table(PT_PFN_BASE + u64::from(id)).0);
            id
        });
    }
}

/// `free_pgd_range()` for the tables of one level-1 span: gives back the PTE tables that serve only `start..end`
/// and no VMA between `floor` and `ceiling`. Upper tables stay until the address space goes.
pub async fn free_pte_tables(k: &Cpu, mm: u8, start: u32, end: u32, floor: u32, ceiling: u32) {
    let arch = k.arch();
    let ptrs = k.config().geometry.ptrs();
    let mut at = start / ptrs * ptrs;
    while at < end {
        if at >= floor && at + ptrs <= ceiling {
            let pmd = {
                let s = k.s();
                let pgd = s.w.mms[mm as usize].pgd;
                let pud = s.w.tables.next(arch, pgd, s.w.tables.index(at, 3));
                pud.and_then(|t| s.w.tables.next(arch, t, s.w.tables.index(at, 2)))
            };
            if let Some(pmd) = pmd {
                free_pte_table(k, mm, pmd, at, at + ptrs).await;
            }
        }
        at += ptrs;
    }
}

async fn free_pte_table(k: &Cpu, mm: u8, pmd: TableId, start: u32, end: u32) {
    let arch = k.arch();
    k.lock(Lock::Pmd(pmd)).await;
    let table = {
        let s = &mut *k.s();
        let index = s.w.tables.index(start, 1);
        let table = s.w.tables.next(arch, pmd, index);
        if table.is_some() {
            s.w.tables.put(pmd, index, 0);
        }
        table
    };
    k.unlock(Lock::Pmd(pmd));
    if let Some(table) = table {
        k.flush_tlb_range(mm, start, end).await;
        k.s().w.tables.free(table);
    }
}
