//! Hardware that translates: CPUs with their TLBs, devices with tables of their own; and devices whose memory user space maps.
//!
//! Hardware does nothing by itself here. A TLB fills when an access or the case says so, evicts when the case
//! says so or when it is full, and drops what it is told to drop. A device uses whatever its own table holds.

mod board;
mod device;
mod tlb;

pub use board::Boards;
pub use device::{Mapping, Mirror};
pub use tlb::{Tlb, Translation};
