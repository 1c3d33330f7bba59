//! `mm/huge_memory.c: move_huge_pmd()`: `mremap` of a whole huge page.

use super::pgtable::pmd_alloc;
use crate::arch::{Pmd, Pte};
use crate::entry::PmdKind;
use crate::mm::PmdPtr;
use crate::sched::{Cpu, Lock, Site};

/// `move_pgt_entry(HPAGE_PMD)`. False when the huge page has to be split, as there is a table at the new address; true
/// also when it is gone meanwhile. `change` is what becomes of the entry, as a PTE would say it.
pub async fn move_huge_pmd(k: &Cpu, mm: u8, old: PmdPtr, to: u32, change: impl Fn(Pte) -> Pte) -> bool {
    // alloc_new_pmd()
    let new = pmd_alloc(k, mm, to).await;
    // free_pgtables() should have released what was there.
    if k.pmd_kind(new) != PmdKind::None {
        return false;
    }
    k.pmd_lock(old).await;
    let nested = new.table != old.table;
    if nested {
        k.lock(Lock::PmdNested(new.table)).await;
    }
    let moved = k.pmd_kind(old).is_leaf();
    if moved {
        move_locked(k, old, new, change).await;
    }
    if nested {
        k.unlock(Lock::PmdNested(new.table));
    }
    k.pmd_unlock(old);
    moved
}

async fn move_locked(k: &Cpu, old: PmdPtr, new: PmdPtr, change: impl Fn(Pte) -> Pte) {
    let (arch, ec) = (k.arch(), k.entries());
    let pmd = k.pmdp_huge_get_and_clear(old).await;
    let present = !matches!(ec.pmd_kind(pmd), PmdKind::Migration(_));
    {
        let s = &mut *k.s();
        // pmd_move_must_withdraw(): only anonymous memory has a table in reserve, and others may have theirs in the same list.
        let anonymous = s.w.vma_lookup(old.mm, old.vpn).is_some_and(|vma| s.w.vmas[vma].anonymous());
        if anonymous && let Some(table) = s.w.tables.withdraw(old.table) {
            s.w.tables.deposit(new.table, table);
        }
    }
    let leaf = change(ec.pmd_as_pte(pmd));
    k.set_pmd_at(new, if present { arch.pte_mkhuge(leaf) } else { Pmd(leaf.0) }).await;
    if present {
        // Before the locks are dropped: whoever takes the page away at its new address does not know the old one.
        k.site(Site::MremapFlush).await;
        k.flush_tlb_range(old.mm, old.vpn, old.vpn + k.config().geometry.ptrs()).await;
    }
}
