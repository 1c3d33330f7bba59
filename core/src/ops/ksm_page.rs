//! `mm/ksm.c`: KSM pages as the rest of memory management meets them: who maps them, migration, swap-in.

use super::ksm::stable_node;
use super::vmf::FaultResult;
use crate::config::Defect;
use crate::mm::{AnonVmaId, RmapItem, VmaId};
use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;

/// `folio_migrate_ksm()`: the stable node goes along.
pub fn folio_migrate_ksm(k: &Cpu, new: Pfn, old: Pfn) {
    if !k.folio_test(old, Flags::KSM) {
        return;
    }
    let node = stable_node(k, old);
    let s = &mut *k.s();
    s.w.mem.folios[new as usize].flags.set(Flags::KSM);
    s.w.mem.folios[new as usize].stable = s.w.mem.folios[old as usize].stable;
    s.w.mem.folios[old as usize].stable = 0;
    if let Some(node) = node {
        s.w.ksm.nodes[node].kpfn = new;
    }
}

/// `ksm_might_need_to_copy()`: a page that was a KSM page when it was swapped out may be wanted at other addresses than
/// the one that it is mapped at now. `Ok(None)`: no copy is needed; the copy is locked. `Err`: no memory.
pub fn ksm_might_need_to_copy(k: &Cpu, folio: Pfn, vma: VmaId, vpn: u32) -> Result<Option<Pfn>, FaultResult> {
    let f = k.folio(folio);
    let fits = {
        let s = k.s();
        let root = |av: u32| s.w.anon_vmas[av].root;
        let ours = s.w.vmas[vma].anon_vma;
        f.flags.has(Flags::KSM) && f.stable != 0
            || f.large()
            || !f.anon()
            || f.anon_vma != 0
                && f.index == s.w.vmas[vma].linear_page_index(vpn)
                && ours.is_some_and(|ours| root(ours) == root(f.anon_vma - 1))
    };
    if fits || k.has(Defect::K3) {
        return Ok(None);
    }
    if f.flags.has(Flags::HWPOISON) {
        return Err(FaultResult::HwPoison);
    }
    if !f.flags.has(Flags::UPTODATE) {
        return Ok(None);
    }
    let Some(new) = k.folio_alloc() else { return Err(FaultResult::Oom) };
    k.folio_lock_new(new);
    k.s().copy_page(folio, new);
    k.folio_mark_dirty(new);
    k.note(Note::KsmSwapInCopy, Some(folio), new, 0);
    Ok(Some(new))
}

/// Where a walk over the mappings of a KSM folio is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KsmWalk {
    /// The second time round, for address spaces that were forked since.
    forks: bool,
    item: usize,
    vma: usize,
    /// Root of the `anon_vma` whose lock is held.
    root: Option<AnonVmaId>,
}

impl KsmWalk {
    /// `rmap_walk_ksm()`: the next VMA and address. The folio is locked, so that its node stays as it is.
    pub async fn next(&mut self, k: &Cpu, folio: Pfn) -> Option<(VmaId, u32)> {
        loop {
            let Some(item) = self.current(k, folio) else {
                self.end(k);
                if std::mem::replace(&mut self.forks, true) {
                    return None;
                }
                (self.item, self.vma) = (0, 0);
                continue;
            };
            if self.root.is_none() {
                let root = k.s().w.anon_vmas[item.av].root;
                k.lock(Lock::AnonVmaRead(root)).await;
                self.root = Some(root);
            }
            if let Some(vma) = self.next_vma(k, item) {
                k.site(Site::RmapWalk).await;
                return Some((vma, item.vpn));
            }
            self.end(k);
            (self.item, self.vma) = (self.item + 1, 0);
        }
    }

    fn current(&self, k: &Cpu, folio: Pfn) -> Option<RmapItem> {
        let node = stable_node(k, folio)?;
        k.s().w.ksm.nodes[node].items.get(self.item).copied()
    }

    fn next_vma(&mut self, k: &Cpu, item: RmapItem) -> Option<VmaId> {
        let s = k.s();
        while let Some(&vma) = s.w.anon_vmas[item.av].vmas.get(self.vma) {
            self.vma += 1;
            let v = &s.w.vmas[vma];
            if v.contains(item.vpn) && (v.mm == item.mm) != self.forks {
                return Some(vma);
            }
        }
        None
    }

    /// Ends the walk, or its part in one `anon_vma`.
    pub fn end(&mut self, k: &Cpu) {
        if let Some(root) = self.root.take() {
            k.unlock(Lock::AnonVmaRead(root));
        }
    }
}
