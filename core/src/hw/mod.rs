//! Hardware that translates: CPUs with their TLBs, devices with tables of their own.
//!
//! Hardware does nothing by itself here. A TLB fills when an access or the case says so, evicts when the case
//! says so or when it is full, and drops what it is told to drop. A device uses whatever its own table holds.

mod device;
mod tlb;

pub use device::{Mapping, Mirror};
pub use tlb::{Tlb, Translation};
