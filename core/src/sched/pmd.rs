//! PMDs: reading, setting and splitting them, and keeping the ghost counts true while that happens.

use super::ctl::Weakened;
use super::{Cpu, Lock, Sim, Site};
use crate::arch::{Pmd, Pte};
use crate::entry::{EntryConfig, PmdKind, pmd_transition_legal};
use crate::hw::Translation;
use crate::mm::{PmdPtr, PtePtr, TableId};
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::trace::Event;

/// What a PMD refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Nothing,
    /// A huge page: one reference to the folio.
    Folio {
        folio: Pfn,
        write: bool,
    },
    /// The huge zero page, which has no reverse map and no count of its mappings.
    Zero(Pfn),
    /// Migration entry.
    Migrating(Pfn),
    /// A frame that does not exist.
    Bad(u64),
}

impl Sim {
    fn pmd_target(&self, ec: EntryConfig, pmd: Pmd) -> Target {
        let pte = ec.pmd_as_pte(pmd);
        let kind = ec.pmd_kind(pmd);
        let pfn = match kind {
            PmdKind::None | PmdKind::Table | PmdKind::Marker(_) => return Target::Nothing,
            PmdKind::Huge | PmdKind::Invalid => ec.arch.pte_pfn(pte),
            PmdKind::Migration(_) => ec.swp_offset_pfn(ec.arch.pte_to_swp_entry(pte)),
            PmdKind::Bad => u64::MAX,
        };
        if !self.w.mem.valid(pfn) {
            return Target::Bad(pfn);
        }
        let folio = self.w.mem.page_folio(pfn as Pfn);
        if matches!(kind, PmdKind::Migration(_)) {
            Target::Migrating(folio)
        } else if self.w.mem.huge_zero == Some(folio) {
            Target::Zero(folio)
        } else {
            Target::Folio { folio, write: ec.arch.pte_write(pte) }
        }
    }

    fn count_pmd(&mut self, cpu: u8, mm: u8, target: Target, add: bool) {
        let d: i16 = if add { 1 } else { -1 };
        let bump = |n: &mut u16| *n = n.wrapping_add_signed(d);
        let folio = match target {
            Target::Nothing => return,
            Target::Folio { folio, .. } | Target::Migrating(folio) => folio,
            Target::Zero(folio) => {
                bump(&mut self.w.mem.folios[folio as usize].ghost.pmds);
                return;
            }
            Target::Bad(n) => {
                let e = Evidence { proc: Some(mm), found: Some(n), ..Evidence::default() };
                self.violate(cpu, Rule::BadPfn, e);
                return;
            }
        };
        self.touch_folio(folio);
        let g = &mut self.w.mem.folios[folio as usize].ghost;
        if let Target::Folio { write, .. } = target {
            bump(&mut g.pmds);
            if write {
                bump(&mut g.writable_pmds);
            }
        } else {
            bump(&mut g.migration_pmds);
        }
        // Of hugetlb the kernel keeps no exact count (hugetlb_usage is for show only).
        if !self.w.mem.folios[folio as usize].flags.has(Flags::HUGETLB) {
            let m = &mut self.w.mms[mm as usize];
            m.ghost_pages += i32::from(d) * (1 << self.w.config.geometry.shift());
            m.touched = true;
        }
    }

    /// Writes a PMD on behalf of the kernel, and checks that it may.
    pub(crate) fn install_pmd(&mut self, cpu: u8, p: PmdPtr, new: Pmd) -> Pmd {
        let old = self.w.tables.pmd(p);
        let evidence = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
        if self.w.tables.info[p.table as usize].lock != cpu + 1 {
            self.violate(cpu, Rule::EntryUnlocked, evidence);
        }
        if old == new {
            return old;
        }
        let ec = self.w.entries();
        let (from, to) = (ec.pmd_kind(old), ec.pmd_kind(new));
        // Without access a huge page is out of the hardware's reach already: on arm64 to make it invalid changes nothing.
        let unreachable = from == PmdKind::Huge && ec.arch.pte_protnone(ec.pmd_as_pte(old));
        let legal = pmd_transition_legal(from, to) || unreachable && pmd_transition_legal(PmdKind::Invalid, to);
        if !legal {
            let e = Evidence { what: Some(to.name()), on: Some(from.name()), ..evidence };
            self.violate(cpu, Rule::Transition, e);
        }
        let (was, is) = (self.pmd_target(ec, old), self.pmd_target(ec, new));
        if was != is {
            self.count_pmd(cpu, p.mm, was, false);
            self.count_pmd(cpu, p.mm, is, true);
        }
        let leaves = &mut self.w.tables.pmd_leaves;
        *leaves = *leaves + u32::from(to.is_leaf()) - u32::from(from.is_leaf());
        self.w.tables.put(p.table, p.index, new.0);
        if from == PmdKind::Huge {
            for vpn in p.vpn..p.vpn + self.w.geometry().ptrs() {
                self.ctl.weakened.push(Weakened { cpu, mm: p.mm, vpn });
            }
        }
        if to == PmdKind::Huge {
            self.check_pmd(cpu, ec, p, new);
        }
        let site = self.ctl.cpus[cpu as usize].site.map_or(63, |s| s as u64);
        let key = u64::from(pmd_digest(ec, old)) << 8 | u64::from(pmd_digest(ec, new));
        self.cover(8 << 60 | key << 16 | site << 8 | u64::from(self.ctl.cpus[cpu as usize].code));
        self.log_pmd(Some(cpu), ec, p, old, new);
        old
    }

    /// `pud_populate()` unless there is a table: hangs a PMD table below the PUD of an address. True when it did.
    pub(crate) fn pud_populate(&mut self, mm: u8, vpn: u32, table: TableId) -> bool {
        let arch = self.w.config.arch;
        let pgd = self.w.mms[mm as usize].pgd;
        self.w.hugetlb.touched = true;
        let t = &mut self.w.tables;
        let Some(pud) = t.next(arch, pgd, t.index(vpn, 3)) else { return false };
        let index = t.index(vpn, 2);
        let none = t.next(arch, pud, index).is_none();
        if none {
            t.put(pud, index, arch.mk_table(crate::mm::PT_PFN_BASE + u64::from(table)).0);
        }
        none
    }

    /// `pud_clear()`: whatever is cached of the range grants too much from now on.
    pub(crate) fn pud_clear(&mut self, cpu: u8, mm: u8, range: std::ops::Range<u32>) {
        let arch = self.w.config.arch;
        let pgd = self.w.mms[mm as usize].pgd;
        self.w.hugetlb.touched = true;
        self.ctl.weakened.extend(range.clone().map(|vpn| Weakened { cpu, mm, vpn }));
        let t = &mut self.w.tables;
        let Some(pud) = t.next(arch, pgd, t.index(range.start, 3)) else { return };
        let index = t.index(range.start, 2);
        t.put(pud, index, 0);
    }

    /// What is asked of a PTE that was set, asked of a PMD.
    fn check_pmd(&mut self, cpu: u8, ec: EntryConfig, p: PmdPtr, new: Pmd) {
        let leaf = ec.pmd_as_pte(new);
        if !ec.arch.pte_write(leaf) {
            return;
        }
        let first = PtePtr { table: p.table, index: p.index, mm: p.mm, vpn: p.vpn };
        self.check_writable(cpu, ec.arch, first, leaf);
        let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
        let target = self.pmd_target(ec, new);
        if matches!(target, Target::Zero(_)) {
            self.violate(cpu, Rule::BugWritableZero, e);
        }
        if ec.arch.pte_uffd_wp(leaf) {
            self.violate(cpu, Rule::BugPageTableCheck, Evidence { what: Some("uffd-wp and writable"), ..e });
        } else if let Target::Folio { folio, .. } = target
            && self.folio(folio).anon()
            && self.w.mem.mappings(folio) > 1
        {
            let what = Some("mapped writable and not alone");
            self.violate(cpu, Rule::BugPageTableCheck, Evidence { what, pfn: Some(folio), ..e });
        }
    }

    fn log_pmd(&mut self, cpu: Option<u8>, ec: EntryConfig, p: PmdPtr, old: Pmd, new: Pmd) {
        // That a table came, or went when it was empty, says nothing of any page.
        let says = |pmd| ec.pmd_as_pte(pmd) != Pte(0);
        if self.trace.is_none() || !says(old) && !says(new) {
            return;
        }
        if ec.pmd_kind(new) == PmdKind::Table {
            return;
        }
        let now = [old, new].map(|pmd| self.names_exclusive(ec, ec.pmd_as_pte(pmd)));
        let exclusive = [self.was_exclusive(cpu, p, now[0]), now[1]];
        if let Some(cpu) = cpu {
            let invalid = ec.pmd_kind(new) == PmdKind::Invalid;
            self.ctl.cpus[cpu as usize].invalidated = invalid.then_some((p, exclusive[0]));
        }
        for n in 0..self.w.geometry().ptrs() {
            let (old, new) = (ec.decode(ec.pmd_as_pte_of(old, n)), ec.decode(ec.pmd_as_pte_of(new, n)));
            let site = cpu.and_then(|c| self.ctl.cpus[c as usize].site);
            // To make a huge page invalid changes nothing that it says.
            if old != new {
                self.log(|| Event::Entry {
                    cpu,
                    site,
                    proc: p.mm,
                    vpn: p.vpn + n,
                    old,
                    new,
                    exclusive,
                    huge: [true; 2],
                });
            }
        }
    }

    /// `PageAnonExclusive` of what a PMD said when it was valid last: who makes another entry of it may have taken the
    /// page out of its exclusivity since.
    fn was_exclusive(&self, cpu: Option<u8>, p: PmdPtr, now: bool) -> bool {
        let invalidated = cpu.and_then(|c| self.ctl.cpus[c as usize].invalidated);
        invalidated.filter(|(q, _)| *q == p).map_or(now, |(_, then)| then)
    }

    /// What the split of a huge page makes of one page's entry.
    fn log_split(&mut self, cpu: u8, ec: EntryConfig, (p, at): (PmdPtr, PtePtr), old: Pte, new: Pte) {
        if self.trace.is_some() {
            let site = self.ctl.cpus[cpu as usize].site;
            let now = [old, new].map(|pte| self.names_exclusive(ec, pte));
            let exclusive = [self.was_exclusive(Some(cpu), p, now[0]), now[1]];
            let (old, new) = (ec.decode(old), ec.decode(new));
            let (proc, vpn) = (at.mm, at.vpn);
            self.log(|| Event::Entry { cpu: Some(cpu), site, proc, vpn, old, new, exclusive, huge: [true, false] });
        }
    }

    /// The hardware walk of an access to a huge page.
    #[cold]
    pub(super) fn hw_walk_huge(&mut self, cpu: u8, mm: u8, vpn: u32, write: bool) -> Option<Translation> {
        let p = self.w.pmd_ptr(mm, vpn)?;
        let ec = self.w.entries();
        let old = self.w.tables.pmd(p);
        if ec.pmd_kind(old) != PmdKind::Huge {
            return None;
        }
        let leaf = ec.arch.hw_access(ec.arch.pmd_leaf(old), write)?;
        let new = ec.arch.pte_mkhuge(leaf);
        if new != old {
            self.w.tables.put(p.table, p.index, new.0);
            self.log_pmd(None, ec, p, old, new);
        }
        let pages = self.w.geometry().ptrs();
        let pfn = ec.arch.pte_pfn(leaf);
        if !self.w.mem.valid(pfn + u64::from(pages) - 1) {
            return None;
        }
        let writable = ec.arch.hw_access(leaf, true).is_some();
        let t = Translation { vpn: p.vpn, pages, pfn: pfn as Pfn, write: writable, dirty: ec.arch.pte_dirty(leaf) };
        self.tlb_fill(cpu, t);
        Some(t)
    }

    /// Fills a table that nobody can reach yet with one entry for each page, counts them, and puts the table in the
    /// place of the huge page.
    pub(crate) fn pmd_populate_with(&mut self, cpu: u8, p: PmdPtr, table: TableId, pte: impl Fn(u32) -> Pte) {
        let ec = self.w.entries();
        let was = self.w.tables.pmd(p);
        for index in 0..self.w.geometry().ptrs() {
            let at = PtePtr { table, index, mm: p.mm, vpn: p.vpn + index };
            let new = pte(index);
            let old = self.w.tables.pte(at);
            if !ec.arch.pte_none(old) {
                let e = Evidence { proc: Some(p.mm), vpn: Some(at.vpn), ..Evidence::default() };
                self.violate(cpu, Rule::Transition, Evidence { what: Some("deposited table is not empty"), ..e });
            }
            self.count_new_pte(cpu, p.mm, new);
            self.w.tables.put(table, index, new.0);
            self.log_split(cpu, ec, (p, at), ec.pmd_as_pte_of(was, index), new);
        }
        let arch = ec.arch;
        self.install_pmd(cpu, p, arch.mk_table(crate::mm::PT_PFN_BASE + u64::from(table)));
    }
}

/// Kind and the bits that matter, in one byte.
fn pmd_digest(ec: EntryConfig, pmd: Pmd) -> u8 {
    let kind = match ec.pmd_kind(pmd) {
        PmdKind::None => 0,
        PmdKind::Table => 1,
        PmdKind::Huge => 2,
        PmdKind::Invalid => 3,
        PmdKind::Migration(k) => 4 + (k as u8 & 7),
        PmdKind::Marker(k) => 12 + (k as u8 & 1),
        PmdKind::Bad => 15,
    };
    let leaf = ec.pmd_as_pte(pmd);
    if !ec.arch.pte_present(leaf) {
        return kind;
    }
    let bits = u8::from(ec.arch.pte_write(leaf))
        | u8::from(ec.arch.pte_dirty(leaf)) << 1
        | u8::from(ec.arch.pte_soft_dirty(leaf)) << 2
        | u8::from(ec.arch.pte_uffd_wp(leaf)) << 3;
    kind | bits << 4
}

impl Cpu {
    /// `pmdp_get()`.
    pub fn pmdp_get(&self, p: PmdPtr) -> Pmd {
        self.s().w.tables.pmd(p)
    }

    /// Kind of the PMD.
    pub fn pmd_kind(&self, p: PmdPtr) -> PmdKind {
        self.entries().pmd_kind(self.pmdp_get(p))
    }

    /// `pmd_offset()`: where the PMD is, if a PMD table serves the address.
    pub fn pmd_offset(&self, mm: u8, vpn: u32) -> Option<PmdPtr> {
        self.s().w.pmd_ptr(mm, vpn)
    }

    /// A look without the lock: the PMD of a page, if it is a huge page or a migration entry. Costs next to nothing
    /// where there are none.
    #[inline]
    pub fn pmd_leaf(&self, mm: u8, vpn: u32) -> Option<PmdPtr> {
        if self.s().w.tables.pmd_leaves == 0 {
            return None;
        }
        self.pmd_offset(mm, vpn).filter(|p| self.pmd_kind(*p).is_leaf())
    }

    /// `pmd_lock()`.
    pub async fn pmd_lock(&self, p: PmdPtr) {
        self.lock(Lock::Pmd(p.table)).await;
    }

    /// `spin_unlock(pmd_lockptr())`.
    pub fn pmd_unlock(&self, p: PmdPtr) {
        self.unlock(Lock::Pmd(p.table));
    }

    /// `pmd_trans_huge_lock()`: the PMD, locked, if it is a huge page or a migration entry.
    pub async fn pmd_trans_huge_lock(&self, mm: u8, vpn: u32) -> Option<PmdPtr> {
        let p = self.pmd_leaf(mm, vpn)?;
        self.pmd_lock(p).await;
        if self.pmd_kind(p).is_leaf() {
            return Some(p);
        }
        self.pmd_unlock(p);
        None
    }

    /// `set_pmd_at()`.
    pub async fn set_pmd_at(&self, p: PmdPtr, pmd: Pmd) {
        self.site(Site::PmdSet).await;
        self.s().install_pmd(self.id, p, pmd);
    }

    /// `pmdp_huge_get_and_clear()`.
    pub async fn pmdp_huge_get_and_clear(&self, p: PmdPtr) -> Pmd {
        self.site(Site::PmdClear).await;
        self.s().install_pmd(self.id, p, Pmd(0))
    }

    /// `pmdp_invalidate()`: takes the huge page out of the hardware's reach, in one step and with the flush, and
    /// returns what it was.
    pub async fn pmdp_invalidate(&self, p: PmdPtr) -> Pmd {
        self.site(Site::PmdInvalidate).await;
        let old = {
            let s = &mut *self.s();
            let old = s.w.tables.pmd(p);
            s.install_pmd(self.id, p, s.w.config.arch.pmd_mkinvalid(old))
        };
        let pages = self.config().geometry.ptrs();
        self.flush_tlb_range(p.mm, p.vpn, p.vpn + pages).await;
        old
    }

    /// An atomic read-modify-write of a huge page's entry (`pmdp_set_wrprotect()` and the like).
    pub async fn pmdp_update(&self, p: PmdPtr, f: impl FnOnce(Pte) -> Pte) -> Pmd {
        self.site(Site::PmdSet).await;
        let s = &mut *self.s();
        let arch = s.w.config.arch;
        let old = s.w.tables.pmd(p);
        s.install_pmd(self.id, p, arch.pte_mkhuge(f(arch.pmd_leaf(old))))
    }
}
