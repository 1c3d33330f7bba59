//! `vm_area_struct`.

use super::ids::{AnonVmaId, VmaId};
use super::uffd::UffdCtx;
use crate::arch::Prot;
use crate::observe::{Backing, Perm, REGULAR, UffdFlags};
use crate::phys::ResvId;

/// Whether large folios may be used (`VM_HUGEPAGE`, `VM_NOHUGEPAGE`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Thp {
    /// Neither: as the policy of the machine is `madvise`, small folios only.
    #[default]
    Default,
    /// `VM_HUGEPAGE`.
    Huge,
    /// `VM_NOHUGEPAGE`.
    Never,
}

/// What a mapping of hugetlb pages has beside (`vm_private_data`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HugetlbVma {
    /// `vma_resv_map()` of a private mapping.
    pub resv: Option<ResvId>,
    /// `HPAGE_RESV_OWNER`: it was this process that reserved the pages.
    pub owner: bool,
    /// `HPAGE_RESV_UNMAPPED`: the owner has taken a page away, so that nothing may be faulted in any more.
    pub unmapped: bool,
    /// The mapping goes: its lock has been given up (`__hugetlb_vma_unlock_write_free()`), and it shares no tables any more.
    pub closing: bool,
    /// `struct hugetlb_vma_lock` of a shared mapping: CPUs that read.
    pub readers: u8,
    /// The same: the CPU that writes, plus one.
    pub writer: u8,
}

/// Whether a mapping is locked into memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Locked {
    /// It is not.
    #[default]
    No,
    /// `VM_LOCKED`.
    Yes,
    /// `VM_LOCKED | VM_LOCKONFAULT`: its pages are, once they are there.
    OnFault,
}

/// One mapping.
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
    /// `vm_pgoff`: page of the file that `start` shows; for anonymous memory the virtual page number at which it
    /// began.
    pub pgoff: u32,
    /// `vm_file` and `VM_SHARED`.
    pub backing: Backing,
    /// `VM_SOFTDIRTY`: every page counts as soft-dirty, so nothing needs to be trapped.
    pub soft_dirty: bool,
    /// Registration with a userfaultfd.
    pub uffd: UffdCtx,
    /// Whether it is locked into memory.
    pub locked: Locked,
    /// Its pages are being counted as locked (`VM_IO` beside `VM_LOCKED`): nobody else counts them meanwhile.
    pub mlocking: bool,
    /// `VM_MERGEABLE`.
    pub mergeable: bool,
    /// Whether large folios may be used.
    pub thp: Thp,
    /// Reservations and lock of a mapping of hugetlb pages.
    pub hugetlb: HugetlbVma,
    /// `vm_lock`: CPUs that handle faults in it.
    pub lock_readers: u8,
    /// `vm_lock`: the CPU that marks it as locked, plus one.
    pub lock_writer: u8,
    /// `vm_lock_seq`: locked for writing while it is one more than [`super::Mm::lock_seq`].
    pub lock_seq: u32,
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

    /// `VM_LOCKED`.
    #[inline]
    pub fn locked(&self) -> bool {
        self.locked != Locked::No
    }

    /// `vma_supports_mlock()`: neither hugetlb memory, which is never swapped, nor a device.
    #[inline]
    pub fn supports_mlock(&self) -> bool {
        !self.backing.hugetlb() && self.backing.device().is_none()
    }

    /// Does a page that is mapped here become locked (`mlock_vma_folio()`)?
    #[inline]
    pub fn mlocks(&self) -> bool {
        self.locked() && !self.mlocking
    }

    /// `userfaultfd_missing()`.
    #[inline]
    pub fn uffd_missing(&self) -> bool {
        self.uffd.flags.has(UffdFlags::MISSING)
    }

    /// `userfaultfd_minor()`.
    #[inline]
    pub fn uffd_minor(&self) -> bool {
        self.uffd.flags.has(UffdFlags::MINOR)
    }

    /// `userfaultfd_wp()`.
    #[inline]
    pub fn uffd_wp(&self) -> bool {
        self.uffd.flags.has(UffdFlags::WP)
    }

    /// `userfaultfd_wp_use_markers()`: always where a page of a file may be behind an empty entry; in anonymous memory
    /// when it was asked for.
    pub fn uffd_wp_use_markers(&self) -> bool {
        self.uffd_wp() && (!self.anonymous() || self.uffd.flags.has(UffdFlags::UNPOPULATED))
    }

    /// `vma_is_accessible()`.
    pub fn accessible(&self) -> bool {
        self.perm != Perm::None
    }

    /// What another VMA has to be told to be like this one.
    pub fn like(&self) -> NewVma {
        NewVma {
            mm: self.mm,
            start: self.start,
            end: self.end,
            pgoff: self.pgoff,
            perm: self.perm,
            backing: self.backing,
            soft_dirty: self.soft_dirty,
        }
    }

    /// `vma_is_anonymous()`.
    #[inline]
    pub fn anonymous(&self) -> bool {
        self.backing == Backing::Anon
    }

    /// `VM_SHARED`.
    #[inline]
    pub fn shared(&self) -> bool {
        self.backing.shared()
    }

    /// `linear_page_index()`.
    #[inline]
    pub fn linear_page_index(&self, vpn: u32) -> u32 {
        vpn - self.start + self.pgoff
    }

    /// `vma_address()`: where the page with this index is mapped, if it is in here.
    #[inline]
    pub fn address(&self, index: u32) -> Option<u32> {
        let vpn = index.checked_sub(self.pgoff)?.checked_add(self.start)?;
        self.contains(vpn).then_some(vpn)
    }

    /// `vma_wants_writenotify()`: is the first store to each page to be noticed? Of shared writable mappings those
    /// that have a `page_mkwrite`, that are tracked, or that wait for userfaultfd.
    pub fn wants_writenotify(&self, soft_dirty_tracking: bool) -> bool {
        let soft_dirty_tracking = soft_dirty_tracking && !self.backing.hugetlb();
        self.shared()
            && self.writable()
            && (self.backing.file() == Some(REGULAR)
                || self.backing == Backing::MixedmapShared
                || soft_dirty_tracking && !self.soft_dirty
                || self.uffd_wp())
    }

    /// `vma->vm_page_prot`, as `vma_set_page_prot()` makes it: never hardware-writable in a private mapping.
    pub fn page_prot(&self, soft_dirty_tracking: bool) -> Prot {
        match self.perm {
            Perm::None => Prot::None,
            Perm::Read => Prot::Read,
            Perm::ReadWrite if self.shared() && !self.wants_writenotify(soft_dirty_tracking) => Prot::ReadWrite,
            Perm::ReadWrite => Prot::Copy,
        }
    }
}

/// What a new VMA is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewVma {
    /// Address space.
    pub mm: u8,
    /// First virtual page number.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// `vm_pgoff`.
    pub pgoff: u32,
    /// Protection.
    pub perm: Perm,
    /// What it shows.
    pub backing: Backing,
    /// `VM_SOFTDIRTY`.
    pub soft_dirty: bool,
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
    pub fn alloc(&mut self, new: NewVma) -> VmaId {
        self.live += 1;
        let id = self.freed.pop().unwrap_or_else(|| {
            self.vmas.push(Vma {
                mm: 0,
                start: 0,
                end: 0,
                pgoff: 0,
                perm: Perm::None,
                backing: Backing::Anon,
                soft_dirty: false,
                uffd: UffdCtx::default(),
                locked: Locked::No,
                mlocking: false,
                mergeable: false,
                thp: Thp::Default,
                hugetlb: HugetlbVma::default(),
                lock_readers: 0,
                lock_writer: 0,
                lock_seq: 0,
                anon_vma: None,
                chain: Vec::with_capacity(4),
            });
            self.vmas.len() as VmaId - 1
        });
        let v = &mut self.vmas[id as usize];
        v.chain.clear();
        (v.mm, v.start, v.end, v.pgoff) = (new.mm, new.start, new.end, new.pgoff);
        (v.perm, v.backing, v.soft_dirty) = (new.perm, new.backing, new.soft_dirty);
        (v.uffd, v.mergeable) = (UffdCtx::default(), false);
        (v.thp, v.anon_vma, v.hugetlb) = (Thp::Default, None, HugetlbVma::default());
        (v.lock_readers, v.lock_writer, v.lock_seq) = (0, 0, 0);
        (v.locked, v.mlocking) = (Locked::No, false);
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
