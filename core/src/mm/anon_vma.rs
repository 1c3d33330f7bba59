//! `anon_vma`: how the kernel finds every PTE that may map an anonymous folio.
//!
//! A folio points to one `anon_vma`; that knows every VMA in which the folio may be mapped: the VMA in which it
//! was born, and those that fork copied from it. The lock is the root's.

use super::ids::{AnonVmaId, VmaId};

/// `struct anon_vma`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AnonVma {
    /// The oldest ancestor, whose lock protects the whole family.
    pub root: AnonVmaId,
    /// Who was forked from.
    pub parent: Option<AnonVmaId>,
    /// VMAs in which folios of this `anon_vma` may be mapped, in order of joining.
    pub vmas: Vec<VmaId>,
    /// Children and, for a root, itself keep it alive; so do those who look at a folio (`get_anon_vma()`).
    pub refs: u32,
    /// `rwsem` of a root: CPUs that read.
    pub readers: u8,
    /// `rwsem` of a root: the CPU that writes, plus one.
    pub writer: u8,
    live: bool,
}

/// The pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AnonVmas {
    pool: Vec<AnonVma>,
    freed: Vec<AnonVmaId>,
    live: u32,
}

impl AnonVmas {
    /// Frees everything, keeping allocations.
    pub fn reset(&mut self) {
        self.freed.clear();
        for (id, av) in self.pool.iter_mut().enumerate().rev() {
            av.vmas.clear();
            av.live = false;
            self.freed.push(id as AnonVmaId);
        }
        self.live = 0;
    }

    /// In use.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// A new `anon_vma`, the child of `parent` or a root.
    pub fn alloc(&mut self, parent: Option<AnonVmaId>) -> AnonVmaId {
        self.live += 1;
        let id = self.freed.pop().unwrap_or_else(|| {
            self.pool.push(AnonVma {
                root: 0,
                parent: None,
                vmas: Vec::with_capacity(8),
                refs: 0,
                readers: 0,
                writer: 0,
                live: false,
            });
            self.pool.len() as AnonVmaId - 1
        });
        let root = parent.map_or(id, |p| self.pool[p as usize].root);
        if let Some(p) = parent {
            self.pool[p as usize].refs += 1;
            if root != p {
                self.pool[root as usize].refs += 1;
            }
        }
        let av = &mut self.pool[id as usize];
        av.vmas.clear();
        (av.root, av.parent, av.refs, av.readers, av.writer, av.live) = (root, parent, 0, 0, 0, true);
        id
    }

    /// Gives up a reference taken with `refs += 1`, or looks whether the last VMA has left.
    pub fn put(&mut self, id: AnonVmaId, drop_ref: bool) {
        let av = &mut self.pool[id as usize];
        if drop_ref {
            av.refs -= 1;
        }
        if !av.live || av.refs != 0 || !av.vmas.is_empty() {
            return;
        }
        av.live = false;
        let (root, parent) = (av.root, av.parent);
        self.live -= 1;
        self.freed.push(id);
        if let Some(p) = parent {
            self.put(p, true);
            if root != p {
                self.put(root, true);
            }
        }
    }

    /// True while somebody uses it.
    pub fn is_live(&self, id: AnonVmaId) -> bool {
        self.pool.get(id as usize).is_some_and(|a| a.live)
    }
}

impl std::ops::Index<AnonVmaId> for AnonVmas {
    type Output = AnonVma;
    fn index(&self, id: AnonVmaId) -> &AnonVma {
        &self.pool[id as usize]
    }
}

impl std::ops::IndexMut<AnonVmaId> for AnonVmas {
    fn index_mut(&mut self, id: AnonVmaId) -> &mut AnonVma {
        &mut self.pool[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_lives_as_long_as_its_children() {
        let mut a = AnonVmas::default();
        let root = a.alloc(None);
        let child = a.alloc(Some(root));
        let grandchild = a.alloc(Some(child));
        assert_eq!(a[grandchild].root, root);
        a.put(root, false);
        assert!(a.is_live(root));
        a.put(child, false);
        assert!(a.is_live(child));
        a.put(grandchild, false);
        assert_eq!(a.live(), 0);
    }
}
