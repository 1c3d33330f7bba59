//! Walks of page tables that need not be made again.

use super::ids::TableId;
use std::cell::Cell;
use std::hash::{Hash, Hasher};

/// Walks that are remembered.
const WALKS: usize = 8;

/// The PTE tables that the last walks came to. It holds nothing that the tables do not say, so it is no part of the
/// state: all values are equal. Whoever changes an upper entry, or frees a table, calls [`Walked::forget`].
#[derive(Clone, Default)]
pub(super) struct Walked {
    // Top table and address, 0 for none, and the PTE table.
    walks: [Cell<(u64, TableId)>; WALKS],
    any: Cell<bool>,
}

impl Walked {
    fn key(pgd: TableId, prefix: u32) -> u64 {
        (u64::from(pgd) << 32) | (u64::from(prefix) + 1)
    }

    /// The PTE table for the addresses with this prefix below a top table; walks when it is not remembered.
    #[inline]
    pub(super) fn find(&self, pgd: TableId, prefix: u32, walk: impl FnOnce() -> Option<TableId>) -> Option<TableId> {
        let (key, slot) = (Walked::key(pgd, prefix), &self.walks[prefix as usize % WALKS]);
        let (known, table) = slot.get();
        if known == key {
            return Some(table);
        }
        let table = walk()?;
        slot.set((key, table));
        self.any.set(true);
        Some(table)
    }

    /// Forgets every walk.
    #[inline]
    pub(super) fn forget(&mut self) {
        if self.any.replace(false) {
            self.walks = Default::default();
        }
    }
}

impl PartialEq for Walked {
    fn eq(&self, _: &Walked) -> bool {
        true
    }
}

impl Eq for Walked {}

impl Hash for Walked {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl std::fmt::Debug for Walked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Walked")
    }
}
