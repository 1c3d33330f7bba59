//! `vm_area_struct`.

use super::ids::{AnonVmaId, VmaId};
use crate::arch::Prot;
use crate::observe::Perm;

/// One private anonymous mapping.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Vma {
    /// Address space.
    pub mm: u8,
    /// First virtual page number.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// `VM_READ`, `VM_WRITE`.
    pub perm: Perm,
    /// `VM_SOFTDIRTY`: every page counts as soft-dirty, so nothing needs to be trapped.
    pub soft_dirty: bool,
    /// Registered with a userfaultfd for asynchronous write-protection (`VM_UFFD_WP`, `UFFD_FEATURE_WP_ASYNC`).
    pub uffd_wp: bool,
    /// `VM_MERGEABLE`.
    pub mergeable: bool,
    /// `vma->anon_vma`.
    pub anon_vma: Option<AnonVmaId>,
    /// `vma->anon_vma_chain`: every `anon_vma` that a page in it may belong to.
    pub chain: Vec<AnonVmaId>,
}

impl Vma {
    /// True when `vpn` is inside.
    pub fn contains(&self, vpn: u32) -> bool {
        (self.start..self.end).contains(&vpn)
    }

    /// `VM_WRITE`.
    pub fn writable(&self) -> bool {
        self.perm == Perm::ReadWrite
    }

    /// `vma_is_accessible()`.
    pub fn accessible(&self) -> bool {
        self.perm != Perm::None
    }

    /// `vma->vm_page_prot` of a private mapping: never hardware-writable.
    pub fn page_prot(&self) -> Prot {
        match self.perm {
            Perm::None => Prot::None,
            Perm::Read => Prot::Read,
            Perm::ReadWrite => Prot::Copy,
        }
    }
}

/// The pool of all VMAs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Vmas {
    vmas: Vec<Vma>,
    freed: Vec<VmaId>,
    live: u32,
}

impl Vmas {
    /// Frees everything, keeping allocations.
    pub fn reset(&mut self) {
        self.freed.clear();
        for (id, vma) in self.vmas.iter_mut().enumerate().rev() {
            vma.chain.clear();
            self.freed.push(id as VmaId);
        }
        self.live = 0;
    }

    /// A new VMA that nothing is mapped in.
    pub fn alloc(&mut self, mm: u8, start: u32, end: u32, perm: Perm, soft_dirty: bool) -> VmaId {
        self.live += 1;
        let id = self.freed.pop().unwrap_or_else(|| {
            self.vmas.push(Vma {
                mm,
                start,
                end,
                perm,
                soft_dirty,
                uffd_wp: false,
                mergeable: false,
                anon_vma: None,
                chain: Vec::with_capacity(4),
            });
            self.vmas.len() as VmaId - 1
        });
        let v = &mut self.vmas[id as usize];
        v.chain.clear();
        (v.mm, v.start, v.end, v.perm, v.soft_dirty) = (mm, start, end, perm, soft_dirty);
        (v.uffd_wp, v.mergeable, v.anon_vma) = (false, false, None);
        id
    }

    /// Gives a VMA back.
    pub fn free(&mut self, id: VmaId) {
        self.live -= 1;
        self.freed.push(id);
    }
}

impl std::ops::Index<VmaId> for Vmas {
    type Output = Vma;
    fn index(&self, id: VmaId) -> &Vma {
        &self.vmas[id as usize]
    }
}

impl std::ops::IndexMut<VmaId> for Vmas {
    fn index_mut(&mut self, id: VmaId) -> &mut Vma {
        &mut self.vmas[id as usize]
    }
}
