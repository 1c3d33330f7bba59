//! `mm/page-writeback.c`: dirty pages of a regular file go to its disk.

use super::filemap::{filemap_get_entry, folio_is_at};
use super::rmap::folio_mkclean;
use crate::observe::REGULAR;
use crate::phys::{CacheEntry, Flags, Pfn};
use crate::sched::{Cpu, Lock, Site};

/// `write_cache_pages()` of the page of the regular file that a mapping shows at an address.
pub async fn writeback(k: &Cpu, mm: u8, vpn: u32) {
    let index = {
        let s = k.s();
        let vma = s.w.vma_lookup(mm, vpn).map(|v| &s.w.vmas[v]);
        vma.filter(|v| v.backing.file() == Some(REGULAR)).map(|v| v.linear_page_index(vpn))
    };
    if let Some(index) = index {
        write_back(k, index).await;
    }
}

/// The same of a page of the regular file: written if it is dirty, after a write that is under way.
pub(super) async fn write_back(k: &Cpu, index: u32) {
    let CacheEntry::Folio(folio) = filemap_get_entry(k, REGULAR, index).await else { return };
    k.lock(Lock::Folio(folio)).await;
    if folio_is_at(k, folio, REGULAR, index) && k.folio_test(folio, Flags::DIRTY) {
        k.folio_wait_writeback(folio).await;
        if folio_clear_dirty_for_io(k, folio).await {
            return write_folio(k, folio, index).await;
        }
    }
    k.folio_unlock(folio);
    k.folio_put(folio);
}

/// `folio_clear_dirty_for_io()`: write-protects what maps the folio, so that the next store is noticed, and takes the
/// dirty bit over from the entries before it clears the folio's.
async fn folio_clear_dirty_for_io(k: &Cpu, folio: Pfn) -> bool {
    k.site(Site::WritebackClean).await;
    if folio_mkclean(k, folio).await {
        k.folio_mark_dirty(folio);
    }
    let s = &mut *k.s();
    let flags = &mut s.w.mem.folios[folio as usize].flags;
    let dirty = flags.has(Flags::DIRTY);
    flags.clear(Flags::DIRTY);
    dirty
}

/// The file system's `writepages`: the folio is unlocked as soon as it is under writeback, and the disk takes the
/// contents at some moment after that. (A truncation waits for it.) Gives up the reference.
async fn write_folio(k: &Cpu, folio: Pfn, index: u32) {
    k.folio_set(folio, Flags::WRITEBACK);
    k.folio_unlock(folio);
    k.site(Site::WritebackIo).await;
    {
        let s = &mut *k.s();
        let data = s.folio(folio).data;
        s.w.files[REGULAR as usize].write_disk(index, data);
    }
    k.folio_end_writeback(folio);
    k.folio_put(folio);
}
