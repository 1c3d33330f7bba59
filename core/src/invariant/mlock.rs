//! Locked memory: who says that a folio is locked, and who really locks it.

use super::Finding;
use crate::mm::VmaId;
use crate::phys::{Flags, Pfn};
use crate::rule::{Evidence, Rule};
use crate::world::World;

/// True when a mapping that is locked into memory maps the folio. Not for KSM folios, whose mappings are not found by an
/// index.
pub fn locked_mapping(w: &World, folio: Pfn) -> bool {
    let f = &w.mem.folios[folio as usize];
    let vmas: &[VmaId] = if f.flags.has(Flags::KSM) {
        return true;
    } else if let Some(file) = f.file() {
        &w.i_mmaps[usize::from(file)].vmas
    } else {
        match f.anon_vma.checked_sub(1) {
            Some(av) if w.anon_vmas.is_live(av) => &w.anon_vmas[av].vmas,
            _ => return false,
        }
    };
    vmas.iter().any(|vma| w.vmas[*vma].locked() && maps(w, *vma, folio))
}

/// Does some entry of a mapping map a page of the folio?
fn maps(w: &World, vma: VmaId, folio: Pfn) -> bool {
    let ec = w.entries();
    let (v, f) = (&w.vmas[vma], &w.mem.folios[folio as usize]);
    (f.index..f.index + f.nr_pages()).filter_map(|index| v.address(index)).any(|vpn| {
        let entry = ec.decode(w.leaf(v.mm, vpn));
        entry.pfn.is_some_and(|pfn| w.mem.valid(pfn) && w.mem.page_folio(pfn as Pfn) == folio)
    })
}

/// `mlock.stranded`. Large folios, of which a part may be locked, are passed over.
pub fn stranded(w: &World, folio: Pfn) -> Option<Finding> {
    let f = &w.mem.folios[folio as usize];
    // What has left its file while it was mapped is not found any more.
    let found = f.file().is_some() || f.anon();
    let excused = f.ghost.munlock_missed;
    let doubtful = found && f.flags.has(Flags::MLOCKED) && f.order == 0 && f.mapcount > 0 && !excused;
    (doubtful && !locked_mapping(w, folio)).then(|| Finding {
        rule: Rule::MlockStranded,
        cause: None,
        evidence: Evidence { pfn: Some(folio), ..Evidence::default() },
    })
}
