//! `mm/msync.c`: `MS_SYNC`, which writes the files that a range shares and tells of data that were lost.
//!
//! An error is told once (`file_check_and_advance_wb_err()`): there is one open file that everybody shares.

use super::mmap::find_vma_intersection;
use super::writeback::write_back;
use crate::observe::{FileId, Outcome, REGULAR};
use crate::sched::{Cpu, Lock};

/// `msync(2)`: VMA by VMA; `ENOMEM` afterwards when there was a hole.
pub async fn msync(k: &Cpu, mm: u8, start: u32, end: u32) -> Outcome {
    k.lock(Lock::MmapRead(mm)).await;
    let mut at = start;
    let mut hole = false;
    while at < end {
        let Some((vma, from, to)) = find_vma_intersection(k, mm, at, end) else { break };
        let (file, index) = {
            let s = k.s();
            let v = &s.w.vmas[vma];
            (v.backing.file().filter(|_| v.shared()), v.linear_page_index(from))
        };
        hole |= from > at;
        at = to;
        if let Some(file) = file {
            k.unlock(Lock::MmapRead(mm));
            if !vfs_fsync_range(k, file, index, index + (to - from)).await {
                return Outcome::Io;
            }
            k.lock(Lock::MmapRead(mm)).await;
        }
    }
    k.unlock(Lock::MmapRead(mm));
    if hole || at < end { Outcome::NoMem } else { Outcome::Done }
}

/// `vfs_fsync_range()`: false for `-EIO`. Of `tmpfs` there is nothing to write, and nothing is told (`noop_fsync()`).
async fn vfs_fsync_range(k: &Cpu, file: FileId, from: u32, to: u32) -> bool {
    if file != REGULAR {
        return true;
    }
    // file_write_and_wait_range()
    for index in from..to {
        write_back(k, index).await;
    }
    !std::mem::take(&mut k.s().w.files[usize::from(file)].error)
}
