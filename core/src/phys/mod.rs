//! Physical memory: frames and the folios on them, zones and memory blocks, swap devices.
//!
//! A folio is named by its first frame, and so is its page 0: [`Memory::page_folio`] tells the folio of a page. Frame 0 is the zero page; user frames are
//! 1 to [`Memory::frames`]; behind them are the frames of devices' own memory. A folio carries what the kernel keeps in `struct folio` and, apart from it, *ghost*
//! counts that the kernel does not have: how many entries, TLBs and devices really refer to the frame. Ghosts
//! are maintained by the primitives that change entries and caches, never by the modelled kernel, so an
//! invariant that compares the two does not believe what it checks.

mod folio;
mod hugetlb;
mod large;
mod memcg;
mod memory;
mod node;
mod page_cache;
mod raw;
mod swap;

pub use folio::{Flags, Folio, Ghost};
pub use hugetlb::{FAULT_MUTEXES, HpageFlags, Hugetlb, ResvId, ResvMap};
pub use memcg::{Charge, MAX_MEMCGS, Memcgs};
pub use memory::{Memory, Pfn, ZERO_PFN};
pub use page_cache::{CacheEntry, PageCache};
pub use raw::RawFrames;
pub use swap::{Slot, Swap, SwapDevice};

/// `GUP_PIN_COUNTING_BIAS`: references that one `FOLL_PIN` of a small folio takes.
pub const GUP_PIN_COUNTING_BIAS: i32 = 1024;
