//! The modelled kernel: one file for each area of `mm/`, each function the kernel's own.
//!
//! An op is an `async fn` that reads like the function it models: the same order, the same helper names, a comment
//! where it differs. It touches shared state only through the primitives of [`crate::sched`], each of which comes
//! to a site before it acts; between two awaits nothing can come between. Its locals hold only what the C
//! function's locals hold.

pub mod access;
pub mod compaction;
pub mod dmirror;
pub mod driver;
pub mod error_states;
pub mod exclusive;
pub mod fault;
pub mod file_fault;
pub mod filemap;
pub mod fork;
pub mod guard;
pub mod gup;
pub mod gup_fast;
pub mod gup_longterm;
pub mod hmm;
pub mod hotplug;
pub mod huge;
pub mod huge_file;
pub mod huge_migrate;
pub mod huge_move;
pub mod huge_protect;
pub mod huge_zero;
pub mod hugetlb;
pub mod khugepaged;
pub mod khugepaged_file;
pub mod kill_procs;
pub mod ksm;
pub mod ksm_page;
pub mod lazyfree;
pub mod madvise;
pub mod memcg;
pub mod memory_failure;
pub mod migrate;
pub mod migrate_device;
pub mod mincore;
pub mod mlock;
pub mod mmap;
pub mod mprotect;
pub mod mremap;
pub mod msync;
pub mod numa;
pub mod pfnmap;
pub mod pgtable;
pub mod process;
pub mod pvmw;
pub mod remote;
pub mod retract;
pub mod rmap;
pub mod shmem;
pub mod smaps;
pub mod soft_offline;
pub mod split;
pub mod swap;
pub mod swap_cache;
pub mod swapin;
pub mod swapoff;
pub mod task_mmu;
pub mod truncate;
pub mod uffd;
pub mod uffd_fill;
pub mod uffd_move;
pub mod uffd_resolve;
pub mod uffd_scan;
pub mod uffd_shmem;
pub mod unmap;
pub mod vma_lock;
pub mod vmf;
pub mod vmscan;
pub mod wp;
pub mod writeback;
pub mod zap;
