//! Page tables made and given back: `mm/memory.c: __pte_alloc()`, `free_pgd_range()`.

use crate::mm::{PT_PFN_BASE, TableId};
use crate::sched::{Cpu, Lock};

/// `__handle_mm_fault()`'s allocation of upper tables and `pte_alloc()`: makes sure that a PTE table serves `vpn`.
pub async fn pte_alloc(k: &Cpu, mm: u8, vpn: u32) {
    let arch = k.arch();
    let mut table = k.s().w.mms[mm as usize].pgd;
    for level in [3u8, 2, 1] {
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
            s.w.tables.next(arch, table, index).unwrap_or_else(|| {
                let id = s.w.tables.alloc(mm, level - 1);
                s.w.tables.put(table, index, arch.mk_table(PT_PFN_BASE + u64::from(id)).0);
                id
            })
        };
        k.unlock(lock);
        table = next;
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
