//! `tmpfs` filled by a monitor: `mm/shmem.c: shmem_mfill_atomic_pte()` and `mm/userfaultfd.c: mfill_atomic_pte_continue()`.
//!
//! A shared page is made in the page cache first and mapped next; when it cannot be mapped, it leaves the cache again
//! before its lock is dropped, so that nobody has seen it. Accounting of blocks is left out.

use super::filemap::{filemap_add_folio, filemap_remove_folio, folio_file_page};
use super::shmem::shmem_get_folio_continue;
use super::uffd_fill::mfill_atomic_install_pte;
use crate::mm::VmaId;
use crate::observe::{Outcome, SHMEM, Token};
use crate::phys::{CacheEntry, Flags};
use crate::sched::{Cpu, Site};

/// `mfill_file_over_size()`: does the file end before the page? Asked with the page-table lock held, which truncation
/// takes after it has changed the size.
pub fn mfill_file_over_size(k: &Cpu, vma: VmaId, vpn: u32) -> bool {
    let (file, index) = {
        let s = k.s();
        let v = &s.w.vmas[vma];
        (v.backing.file(), v.linear_page_index(vpn))
    };
    file.is_some_and(|file| index >= k.i_size_read(file))
}

/// `shmem_mfill_atomic_pte()`: a new page of the file that holds `data`, unless there is one.
pub async fn shmem_mfill_atomic_pte(k: &Cpu, vma: VmaId, vpn: u32, data: Token, wp: bool) -> Result<(), Outcome> {
    k.site(Site::UserfaultFill).await;
    let index = k.s().w.vmas[vma].linear_page_index(vpn);
    let folio = k.folio_alloc().ok_or(Outcome::NoMem)?;
    k.s().w.mem.folios[folio as usize].data = data;
    k.folio_lock_new(folio);
    k.folio_set(folio, Flags::UPTODATE);
    let result = if index >= k.i_size_read(SHMEM) {
        Err(Outcome::Fault)
    } else if !filemap_add_folio(k, SHMEM, index, folio, CacheEntry::Empty).await {
        Err(Outcome::Exists)
    } else {
        let installed = mfill_atomic_install_pte(k, vma, vpn, folio, wp).await;
        if installed.is_err() {
            filemap_remove_folio(k, folio).await;
        }
        installed
    };
    k.folio_unlock(folio);
    if result.is_err() {
        k.folio_put(folio);
    }
    result
}

/// `mfill_atomic_pte_continue()`: maps the page that the file has, for shared and private mappings.
pub async fn mfill_atomic_pte_continue(k: &Cpu, vma: VmaId, vpn: u32, wp: bool) -> Result<(), Outcome> {
    k.site(Site::UserfaultFill).await;
    let index = k.s().w.vmas[vma].linear_page_index(vpn);
    let folio = shmem_get_folio_continue(k, index).await?;
    let page = folio_file_page(k, folio, index);
    // PageHWPoison(): -EIO.
    let installed = if k.folio_test(page, Flags::HWPOISON) {
        Err(Outcome::Fault)
    } else {
        mfill_atomic_install_pte(k, vma, vpn, page, wp).await
    };
    k.folio_unlock(folio);
    if installed.is_err() {
        k.folio_put(folio);
    }
    installed
}
