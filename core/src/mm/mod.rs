//! Address spaces: `mm_struct`, VMAs, page tables, `anon_vma` and the reverse map they form.

mod anon_vma;
mod i_mmap;
mod ids;
mod ksm;
mod space;
mod table;
mod uffd;
mod vma;
mod walked;

pub use anon_vma::{AnonVma, AnonVmas};
pub use i_mmap::IMmap;
pub use ids::{AnonVmaId, TableId, VmaId};
pub use ksm::{Ksm, RmapItem, StableNode};
pub use space::{Life, Mm, Pinned};
pub use table::{PT_PFN_BASE, PmdPtr, PtePtr, Tables};
pub use uffd::{Changing, UffdCtx, UserfaultWait, Userfaults};
pub use vma::{HugetlbVma, Locked, NewVma, Thp, Vma, Vmas};
