//! Handles of pooled objects.

/// Index of a VMA in [`super::Vmas`].
pub type VmaId = u32;

/// Index of an `anon_vma` in [`super::AnonVmas`].
pub type AnonVmaId = u32;

/// Index of a table in [`super::Tables`].
pub type TableId = u32;
