//! `mapping->i_mmap`: the VMAs that map a file, which are the reverse map of its folios.

use super::ids::VmaId;
/// The interval tree of a file, as a list in order of joining, and its lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct IMmap {
    /// VMAs, shared and private ones.
    pub vmas: Vec<VmaId>,
    /// `i_mmap_rwsem`: CPUs that read.
    pub readers: u8,
    /// `i_mmap_rwsem`: the CPU that writes, plus one.
    pub writer: u8,
}

impl IMmap {
    /// Nobody maps the file, keeping the allocation.
    pub fn reset(&mut self) {
        self.vmas.clear();
        (self.readers, self.writer) = (0, 0);
    }
}
