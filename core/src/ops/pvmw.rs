//! `mm/page_vma_mapped.c`: the entries of one VMA that map a folio.

use super::huge::pmd_folio;
use super::rmap::{Pvmw, check_pte, report_walk_kind};
use crate::entry::{EntryKind, PmdKind};
use crate::mm::{PmdPtr, PtePtr, VmaId};
use crate::phys::Pfn;
use crate::sched::{Cpu, Site};

/// An entry that the walk has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapped {
    /// A PTE, with its table locked.
    Pte(PtePtr),
    /// A PMD, locked: the folio is mapped as a whole.
    Pmd(PmdPtr),
}

/// `struct page_vma_mapped_walk`.
pub struct PageVmaWalk {
    folio: Pfn,
    mm: u8,
    which: Pvmw,
    // The next address to look at, and the end.
    vpn: u32,
    end: u32,
    locked: Option<Mapped>,
}

impl PageVmaWalk {
    /// `DEFINE_FOLIO_VMA_WALK()`: the entries from `vpn`, where the folio begins in the VMA, to its end there.
    pub fn new(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32, which: Pvmw) -> PageVmaWalk {
        let s = k.s();
        let (f, v) = (s.folio(folio), &s.w.vmas[vma]);
        // vma_address_end(). While migration entries are looked for, the folio that they name may be another one, of
        // the same size.
        let end =
            if f.order == 0 { vpn + 1 } else { (vpn + f.index + f.nr_pages() - v.linear_page_index(vpn)).min(v.end) };
        PageVmaWalk { folio, mm: v.mm, which, vpn, end, locked: None }
    }

    /// The range that the walk is about.
    pub fn range(&self) -> (u32, u32) {
        (self.vpn, self.end)
    }

    /// `page_vma_mapped_walk()`: the next entry, locked. `None` when there are no more, and nothing is locked then.
    pub async fn next(&mut self, k: &Cpu) -> Option<Mapped> {
        if let Some(Mapped::Pmd(_)) = self.locked {
            // The only possible PMD mapping has been handled.
            self.done(k);
            return None;
        }
        while self.vpn < self.end {
            let vpn = self.vpn;
            if let Some(Mapped::Pte(p)) = self.locked
                && !vpn.is_multiple_of(k.config().geometry.ptrs())
            {
                self.vpn += 1;
                let at = PtePtr { index: p.index + (vpn - p.vpn), vpn, ..p };
                if !k.arch().pte_none(k.ptep_get(at)) && self.check(k, at) {
                    self.locked = Some(Mapped::Pte(at));
                    return self.locked;
                }
                continue;
            }
            self.done(k);
            k.site(Site::PvmwLock).await;
            if k.pmd_leaf(self.mm, vpn).is_some()
                && let Some(p) = k.pmd_trans_huge_lock(self.mm, vpn).await
            {
                if self.check_pmd(k, p) {
                    self.locked = Some(Mapped::Pmd(p));
                    return self.locked;
                }
                k.pmd_unlock(p);
                self.vpn = self.end;
                return None;
            }
            if let Some(at) = self.first_pte(k, vpn).await {
                return Some(at);
            }
        }
        self.done(k);
        None
    }

    /// Gives up the lock before the walk is over.
    pub fn done(&mut self, k: &Cpu) {
        match self.locked.take() {
            Some(Mapped::Pte(p)) => k.pte_unmap_unlock(p),
            Some(Mapped::Pmd(p)) => k.pmd_unlock(p),
            None => {}
        }
    }

    /// Forgets the lock: the caller has given it up.
    pub fn unlocked(&mut self) {
        self.locked = None;
    }

    /// Looks at a page table for the first time: without its lock until an entry may be one of those wanted, as
    /// `map_pte()` does; with `PVMW_SYNC`, as the walk for migration entries has it too, under the lock from the start.
    async fn first_pte(&mut self, k: &Cpu, vpn: u32) -> Option<Mapped> {
        self.vpn += 1;
        let Some(p) = k.pte_offset(self.mm, vpn) else {
            let ptrs = k.config().geometry.ptrs();
            self.vpn = k.pmd_addr_end(vpn, self.end);
            // PVMW_SYNC: whoever has cleared the PMD lets go of its lock when the mapping is off the folio's count.
            if self.which != Pvmw::Mapped
                && k.folio_nr_pages(self.folio) >= ptrs
                && let Some(p) = k.pmd_offset(self.mm, vpn)
            {
                k.pmd_lock(p).await;
                k.pmd_unlock(p);
            }
            return None;
        };
        let kind = k.entries().kind(k.ptep_get(p));
        let mapped = kind == EntryKind::Present || kind.is_device_private() || kind.is_device_exclusive();
        if self.which == Pvmw::Mapped && !mapped {
            return None;
        }
        let p = k.pte_offset_map_lock(self.mm, vpn).await?;
        if self.check(k, p) {
            self.locked = Some(Mapped::Pte(p));
            return self.locked;
        }
        if self.vpn < self.end {
            // The next entries are looked at under the same lock.
            self.locked = Some(Mapped::Pte(p));
        } else {
            k.pte_unmap_unlock(p);
        }
        None
    }

    fn check(&self, k: &Cpu, p: PtePtr) -> bool {
        let pte = k.ptep_get(p);
        let found = check_pte(k, self.folio, pte, self.which);
        if found && self.which == Pvmw::Migration {
            report_walk_kind(k, self.folio, p, pte);
        }
        found
    }

    /// `check_pmd()`, and the question before it.
    fn check_pmd(&self, k: &Cpu, p: PmdPtr) -> bool {
        let pmd = k.pmdp_get(p);
        let ec = k.entries();
        match (ec.pmd_kind(pmd), self.which) {
            (PmdKind::Huge | PmdKind::Invalid, Pvmw::Mapped | Pvmw::MappedSync) => pmd_folio(k, pmd) == self.folio,
            (PmdKind::Migration(_), Pvmw::Migration) => {
                k.page_folio(k.swp_offset_pfn(k.pte_to_swp_entry(ec.pmd_as_pte(pmd)))) == self.folio
            }
            _ => false,
        }
    }
}
