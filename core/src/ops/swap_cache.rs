//! `mm/swap_state.c` and `mm/swapfile.c`: folios in the swap cache, and out of it again.

use crate::phys::{Flags, Pfn};
use crate::sched::{Cpu, Lock};

/// `add_to_swap_cache()`: folio and slot name each other, and the cache holds a reference.
pub fn add_to_swap_cache(k: &Cpu, folio: Pfn, slot: u32) {
    k.folio_get(folio);
    let s = &mut *k.s();
    s.touch_slot(slot);
    s.w.swap.slots[slot as usize].cache = Some(folio);
    let f = &mut s.w.mem.folios[folio as usize];
    f.flags.set(Flags::SWAPCACHE);
    f.flags.set(Flags::SWAPBACKED);
    f.slot = slot;
}

/// `mm/swapfile.c: folio_free_swap()`: takes a locked folio out of the swap cache when no entry needs its slot.
pub fn folio_free_swap(k: &Cpu, folio: Pfn) -> bool {
    k.assert_folio_locked(folio);
    if !k.folio_test(folio, Flags::SWAPCACHE) || k.slot(k.folio(folio).slot).count != 0 {
        return false;
    }
    k.delete_from_swap_cache(folio);
    k.folio_mark_dirty(folio);
    k.folio_put(folio);
    true
}

/// `mm/swap_state.c: free_swap_cache()`: gives the swap cache's reference up when nobody maps the page any more.
pub async fn free_swap_cache(k: &Cpu, folio: Pfn) {
    if k.folio_test(folio, Flags::SWAPCACHE) && !k.folio_mapped(folio) && k.trylock(Lock::Folio(folio)).await {
        folio_free_swap(k, folio);
        k.folio_unlock(folio);
    }
}
