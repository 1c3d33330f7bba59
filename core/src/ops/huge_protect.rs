//! Changes of what a huge PMD permits and remembers: `mm/huge_memory.c: change_huge_pmd()` and
//! `fs/proc/task_mmu.c: clear_soft_dirty_pmd()`.

use super::mprotect::{Change, wants_manual_pte_write_upgrade};
use super::numa::{can_map_prot_numa_pmd, preserve_write};
use super::vmf::can_change_pte_writable;
use crate::arch::{Arch, Pmd, Pte};
use crate::config::Defect;
use crate::entry::{MigrationKind, PmdKind};
use crate::mm::{PmdPtr, VmaId};
use crate::sched::Cpu;

/// `change_huge_pmd()`. `None` when there is no huge page any more; else true when a cached translation may have to go.
pub async fn change_huge_pmd(k: &Cpu, vma: VmaId, vpn: u32, change: Change) -> Option<bool> {
    let mm = k.s().w.vmas[vma].mm;
    let p = k.pmd_trans_huge_lock(mm, vpn).await?;
    let present = !matches!(k.pmd_kind(p), PmdKind::Migration(_));
    if present && change == Change::ProtNuma && !can_map_prot_numa_pmd(k, vma, p) {
        k.pmd_unlock(p);
        return Some(false);
    }
    if present {
        change_present_pmd(k, vma, p, change).await;
    } else {
        let old = Pte(k.pmdp_get(p).0);
        let new = change_migration_pmd(k, old, change);
        if new != old {
            k.set_pmd_at(p, Pmd(new.0)).await;
        }
    }
    k.pmd_unlock(p);
    Some(present)
}

async fn change_present_pmd(k: &Cpu, vma: VmaId, p: PmdPtr, change: Change) {
    let arch = k.arch();
    let (prot, writable) = {
        let s = k.s();
        (s.w.page_prot(vma), wants_manual_pte_write_upgrade(&s.w, vma))
    };
    // Under mmap_lock for reading the PMD must not be none in between: MADV_DONTNEED would pass over it.
    let old = if k.has(Defect::T3) { k.pmdp_huge_get_and_clear(p).await } else { k.pmdp_invalidate(p).await };
    let mut entry = arch.pte_modify(arch.pmd_leaf(old), change.prot(prot));
    match change {
        Change::UffdWp => entry = arch.pte_mkuffd_wp(entry),
        Change::UffdWpResolve => entry = arch.pte_clear_uffd_wp(entry),
        Change::ProtNuma => entry = preserve_write(k, arch.pmd_leaf(old), entry),
        Change::Protection => {}
    }
    let try_writable = change.try_writable() && writable;
    if try_writable && !arch.pte_write(entry) && can_change_pte_writable(k, vma, entry) {
        entry = arch.pte_mkwrite(entry);
    }
    k.set_pmd_at(p, arch.pte_mkhuge(entry)).await;
}

/// What a migration entry becomes: a writable one is writable no longer, and its page stays exclusive.
fn change_migration_pmd(k: &Cpu, old: Pte, change: Change) -> Pte {
    let (arch, ec) = (k.arch(), k.entries());
    let entry = k.pte_to_swp_entry(old);
    let mut new = old;
    if ec.is_writable_migration_entry(entry) && !k.has(Defect::T5) {
        let anon = k.folio(k.page_folio(k.swp_offset_pfn(entry))).anon();
        let kind = if anon { MigrationKind::ReadExclusive } else { MigrationKind::Read };
        new = arch.swp_entry_to_pte(ec.retype_migration_entry(entry, kind));
        if k.pte_swp_soft_dirty(old) {
            new = arch.pte_swp_mksoft_dirty(new);
        }
    }
    match change {
        Change::UffdWp => arch.pte_swp_mkuffd_wp(new),
        Change::UffdWpResolve => arch.pte_swp_clear_uffd_wp(new),
        Change::Protection | Change::ProtNuma => new,
    }
}

/// `clear_soft_dirty_pmd()`. True when there was a huge page. A writable migration entry becomes a readable one, which
/// the kernel forgets (N1): see `clear_soft_dirty()`.
pub async fn clear_soft_dirty_pmd(k: &Cpu, mm: u8, vpn: u32) -> bool {
    let Some(p) = k.pmd_trans_huge_lock(mm, vpn).await else { return false };
    let (arch, ec) = (k.arch(), k.entries());
    if arch.has_soft_dirty() {
        if let PmdKind::Migration(_) = k.pmd_kind(p) {
            let old = Pte(k.pmdp_get(p).0);
            let entry = k.pte_to_swp_entry(old);
            let mut new = old;
            if ec.is_writable_migration_entry(entry) && !k.has(Defect::N1) {
                let entry = ec.retype_migration_entry(entry, MigrationKind::ReadExclusive);
                new = k.carry_from_swap(old, arch.swp_entry_to_pte(entry));
            }
            k.set_pmd_at(p, Pmd(arch.pte_swp_clear_soft_dirty(new).0)).await;
        } else {
            let old = arch.pmd_leaf(k.pmdp_invalidate(p).await);
            k.set_pmd_at(p, arch.pte_mkhuge(clear_leaf(arch, old))).await;
        }
    }
    k.pmd_unlock(p);
    true
}

fn clear_leaf(arch: Arch, leaf: Pte) -> Pte {
    arch.pte_clear_soft_dirty(arch.pte_wrprotect(leaf))
}
