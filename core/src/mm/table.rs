//! Page tables: four levels, every table in one pool.
//!
//! Upper entries hold architecture bits that point to the next table by PFN, as real ones do. PTE tables each
//! have a lock (`ptl`), PMD tables have theirs, the levels above are protected by `page_table_lock` of the mm.

use super::ids::TableId;
use super::walked::Walked;
use crate::arch::{Arch, Pmd, Pte};
use crate::config::Geometry;

/// PFN of table 0. Tables have frames of their own, above all user frames.
pub const PT_PFN_BASE: u64 = 1 << 24;

/// A place for a PTE: which table, which entry, and which address it translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PtePtr {
    /// PTE table.
    pub table: TableId,
    /// Entry in it.
    pub index: u32,
    /// Address space (0 = `A`).
    pub mm: u8,
    /// Virtual page number.
    pub vpn: u32,
}

/// A place for a PMD: which table, which entry, and the first address that it translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PmdPtr {
    /// PMD table.
    pub table: TableId,
    /// Entry in it.
    pub index: u32,
    /// Address space (0 = `A`).
    pub mm: u8,
    /// First virtual page number that the entry serves.
    pub vpn: u32,
}

/// What is known of one table beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TableInfo {
    /// 0 for a PTE table, 3 for the top.
    pub level: u8,
    /// Owner's address space.
    pub mm: u8,
    /// In use.
    pub live: bool,
    /// Spinlock: holder's CPU plus one, 0 when free. For a PTE table its `ptl`, for a PMD table the PMD lock.
    pub lock: u8,
    /// `ptdesc_pmd_pts`: of a PMD table of hugetlb, how many others use it.
    pub pts: u16,
}

/// All page tables of the machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tables {
    entries: Vec<u64>,
    /// One for each table.
    pub info: Vec<TableInfo>,
    freed: Vec<TableId>,
    /// Huge pages and migration entries in PMDs.
    pub pmd_leaves: u32,
    // PTE tables that wait for the split of a huge page, each with the PMD table at which it was left.
    deposited: Vec<(TableId, TableId)>,
    /// CPUs between finding a table and locking it, or reading it without its lock (`rcu_read_lock()`), a bit for each.
    readers: u8,
    // Tables that hang below no PMD any more, each with those readers who may still know it.
    deferred: Vec<(TableId, u8)>,
    shift: u32,
    live: u32,
    walked: Walked,
}

impl Tables {
    /// An empty pool.
    pub fn new(geometry: Geometry) -> Tables {
        Tables {
            entries: Vec::new(),
            info: Vec::new(),
            freed: Vec::new(),
            pmd_leaves: 0,
            deposited: Vec::new(),
            readers: 0,
            deferred: Vec::new(),
            shift: geometry.shift(),
            live: 0,
            walked: Walked::default(),
        }
    }

    /// Frees every table, keeping the allocation.
    pub fn reset(&mut self, geometry: Geometry) {
        self.entries.clear();
        self.info.clear();
        self.freed.clear();
        self.pmd_leaves = 0;
        self.deposited.clear();
        self.deferred.clear();
        self.readers = 0;
        self.shift = geometry.shift();
        self.live = 0;
        self.walked.forget();
    }

    /// Tables in use.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Allocates an empty table.
    pub fn alloc(&mut self, mm: u8, level: u8) -> TableId {
        let n = 1usize << self.shift;
        let id = match self.freed.pop() {
            Some(id) => {
                let at = (id as usize) << self.shift;
                self.entries[at..at + n].fill(0);
                id
            }
            None => {
                self.entries.resize(self.entries.len() + n, 0);
                self.info.push(TableInfo::default());
                self.info.len() as TableId - 1
            }
        };
        self.info[id as usize] = TableInfo { level, mm, live: true, lock: 0, pts: 0 };
        self.live += 1;
        id
    }

    /// Gives a table back.
    pub fn free(&mut self, id: TableId) {
        self.info[id as usize].live = false;
        self.walked.forget();
        self.freed.push(id);
        self.live -= 1;
    }

    /// `call_rcu()` with `pte_free()`: gives a table back when all who read tables now have ended.
    pub fn free_defer(&mut self, id: TableId) {
        if self.readers == 0 {
            self.free(id);
        } else {
            self.deferred.push((id, self.readers));
        }
    }

    /// `rcu_read_lock()` of a CPU.
    #[inline]
    pub fn rcu_read_lock(&mut self, cpu: u8) {
        self.readers |= 1 << cpu;
    }

    /// `rcu_read_unlock()`.
    #[inline]
    pub fn rcu_read_unlock(&mut self, cpu: u8) {
        self.readers &= !(1 << cpu);
        if !self.deferred.is_empty() {
            self.end_grace_periods(cpu);
        }
    }

    #[cold]
    fn end_grace_periods(&mut self, cpu: u8) {
        self.deferred.iter_mut().for_each(|d| d.1 &= !(1 << cpu));
        while let Some(at) = self.deferred.iter().position(|d| d.1 == 0) {
            let (id, _) = self.deferred.remove(at);
            self.free(id);
        }
    }

    /// Index into a table of `level` for a virtual page number.
    #[inline]
    pub fn index(&self, vpn: u32, level: u8) -> u32 {
        (vpn >> (self.shift * u32::from(level))) & ((1 << self.shift) - 1)
    }

    /// Raw bits of an entry.
    #[inline]
    pub fn get(&self, table: TableId, index: u32) -> u64 {
        self.entries[((table as usize) << self.shift) + index as usize]
    }

    /// Writes raw bits. Who calls it has seen to locks and to whatever must be counted.
    #[inline]
    pub fn put(&mut self, table: TableId, index: u32, bits: u64) {
        self.entries[((table as usize) << self.shift) + index as usize] = bits;
        if self.info[table as usize].level != 0 {
            self.walked.forget();
        }
    }

    /// Follows an upper entry to the next table; `None` when there is none, or a huge page.
    #[inline]
    pub fn next(&self, arch: Arch, table: TableId, index: u32) -> Option<TableId> {
        let pmd = Pmd(self.get(table, index));
        arch.pmd_is_table(pmd).then(|| (arch.pmd_table_pfn(pmd) - PT_PFN_BASE) as TableId)
    }

    /// The PTE table that serves `vpn` below the top table `pgd`, if there is one.
    #[inline]
    pub fn pte_table(&self, arch: Arch, pgd: TableId, vpn: u32) -> Option<TableId> {
        self.walked.find(pgd, vpn >> self.shift, || self.walk(arch, pgd, vpn))
    }

    fn walk(&self, arch: Arch, pgd: TableId, vpn: u32) -> Option<TableId> {
        let pud = self.next(arch, pgd, self.index(vpn, 3))?;
        let pmd = self.next(arch, pud, self.index(vpn, 2))?;
        self.next(arch, pmd, self.index(vpn, 1))
    }

    /// The PMD table that serves `vpn`, and the entry in it.
    pub fn pmd_table(&self, arch: Arch, pgd: TableId, vpn: u32) -> Option<(TableId, u32)> {
        let pud = self.next(arch, pgd, self.index(vpn, 3))?;
        let pmd = self.next(arch, pud, self.index(vpn, 2))?;
        Some((pmd, self.index(vpn, 1)))
    }

    /// Reads the PMD at `p`.
    #[inline]
    pub fn pmd(&self, p: PmdPtr) -> Pmd {
        Pmd(self.get(p.table, p.index))
    }

    /// `pgtable_trans_huge_deposit()`: leaves a table with a huge page, for the day when it is split.
    pub fn deposit(&mut self, pmd_table: TableId, table: TableId) {
        self.deposited.push((pmd_table, table));
    }

    /// `pgtable_trans_huge_withdraw()`: the table that was left first. `None` when none is left.
    pub fn withdraw(&mut self, pmd_table: TableId) -> Option<TableId> {
        let at = self.deposited.iter().position(|d| d.0 == pmd_table)?;
        Some(self.deposited.remove(at).1)
    }

    /// Reads the PTE at `p`.
    #[inline]
    pub fn pte(&self, p: PtePtr) -> Pte {
        Pte(self.get(p.table, p.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_reused_is_empty() {
        let mut t = Tables::new(Geometry::Tiny);
        let a = t.alloc(0, 0);
        t.put(a, 3, 42);
        t.free(a);
        let b = t.alloc(1, 0);
        assert_eq!((a, t.get(b, 3), t.live()), (b, 0, 1));
    }

    #[test]
    fn a_walk_finds_what_the_tables_say_now() {
        let (arch, vpn) = (Arch::X86_64, Geometry::Tiny.region_base(0));
        let mut t = Tables::new(Geometry::Tiny);
        let ids = [3, 2, 1, 0].map(|level| t.alloc(0, level));
        for (upper, lower) in ids.into_iter().zip(ids.into_iter().skip(1)) {
            let level = t.info[upper as usize].level;
            t.put(upper, t.index(vpn, level), arch.mk_table(PT_PFN_BASE + u64::from(lower)).0);
        }
        assert_eq!([t.pte_table(arch, ids[0], vpn), t.pte_table(arch, ids[0], vpn)], [Some(ids[3]); 2]);
        t.put(ids[2], t.index(vpn, 1), 0);
        assert_eq!(t.pte_table(arch, ids[0], vpn), None);
    }

    #[test]
    fn a_table_is_given_back_when_all_who_may_know_it_have_let_go_of_it() {
        let mut t = Tables::new(Geometry::Tiny);
        let a = t.alloc(0, 0);
        t.rcu_read_lock(0);
        t.free_defer(a);
        t.rcu_read_lock(1);
        assert!(t.info[a as usize].live);
        t.rcu_read_unlock(0);
        assert!(!t.info[a as usize].live, "who came later does not know it");
        t.rcu_read_unlock(1);
    }

    #[test]
    fn indices_of_the_four_levels_make_up_the_page_number() {
        for g in Geometry::ALL {
            let t = Tables::new(g);
            let vpn = g.region_base(2) + 13;
            let sum: u32 = (0..4).map(|l| t.index(vpn, l) << (g.shift() * u32::from(l))).sum();
            assert_eq!(sum, vpn);
        }
    }
}
