//! `mm_struct`.

use super::ids::{TableId, VmaId};
use super::uffd::Userfaults;
use crate::phys::Pfn;

/// How far a process is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Life {
    /// The name is free.
    #[default]
    Unborn,
    /// Being made by fork: nobody can name it yet.
    Forking,
    /// It runs.
    Alive,
    /// Its threads are gone or going; the address space goes with the last user.
    Exiting,
}

/// A pin that a process holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pinned {
    /// Virtual page number at which it was pinned.
    pub vpn: u32,
    /// What was pinned.
    pub pfn: Pfn,
    /// For writing (`FOLL_WRITE`).
    pub write: bool,
}

/// An address space and its process.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mm {
    /// How far the process is.
    pub life: Life,
    /// Ops at work in this address space (`mm_users` beside the process's own).
    pub users: u32,
    /// Threads that have ended, a bit for each CPU.
    pub exited: u8,
    /// Top table.
    pub pgd: TableId,
    /// VMAs by address.
    pub vmas: Vec<VmaId>,
    /// `mmap_lock`: CPUs that read.
    pub mmap_readers: u8,
    /// `mmap_lock`: the CPU that writes, plus one.
    pub mmap_writer: u8,
    /// `mm_lock_seq`: how often `mmap_lock` was given back by a writer.
    pub lock_seq: u32,
    /// `page_table_lock`: the CPU that holds it, plus one.
    pub page_table_lock: u8,
    /// `MM_ANONPAGES`.
    pub anon_pages: i32,
    /// `MM_FILEPAGES`.
    pub file_pages: i32,
    /// `MM_SHMEMPAGES`.
    pub shmem_pages: i32,
    /// `MM_SWAPENTS`.
    pub swap_ents: i32,
    /// Ghost: entries that map a page (migration entries included).
    pub ghost_pages: i32,
    /// Ghost: swap entries.
    pub ghost_swap: i32,
    /// Queued for the next check of counts.
    pub touched: bool,
    /// `mm_cpumask()`: CPUs that may have translations of it.
    pub cpumask: u8,
    /// `tlb_flush_pending`: those who gather pages and have not flushed.
    pub tlb_flush_pending: u32,
    /// Devices that mirror it, a bit for each.
    pub mirrored_by: u8,
    /// `notifier_subscriptions->invalidate_seq`: odd while ranges are being invalidated.
    pub invalidate_seq: u32,
    /// `active_invalidate_ranges`.
    pub active_invalidate_ranges: u32,
    /// Memory control group that it charges; 0 is the root.
    pub memcg: u8,
    /// `mm->def_flags` has `VM_LOCKED`: what is mapped from now on is locked.
    pub def_locked: bool,
    /// `write_protect_seq`: odd while fork write-protects entries.
    pub write_protect_seq: u32,
    /// `PF_MCE_EARLY` of its threads: it wants to be told of failed memory at once.
    pub mce_early: bool,
    /// Pins held.
    pub pins: Vec<Pinned>,
    /// `MMF_HUGE_ZERO_PAGE`: it holds a reference to the huge zero page.
    pub huge_zero: bool,
    /// Userfaultfds and who waits at them.
    pub userfaults: Userfaults,
}

impl Mm {
    /// Makes the name free again, keeping allocations.
    pub fn reset(&mut self) {
        let mut vmas = std::mem::take(&mut self.vmas);
        let mut pins = std::mem::take(&mut self.pins);
        let mut changing = std::mem::take(&mut self.userfaults.changing);
        vmas.clear();
        pins.clear();
        changing.clear();
        let userfaults = Userfaults { changing, ..Userfaults::default() };
        *self = Mm { vmas, pins, userfaults, ..Mm::default() };
    }
}
