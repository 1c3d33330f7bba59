//! The world: everything that is modelled, as plain data.

use crate::arch::{Prot, Pte};
use crate::config::{Config, Geometry, MAX_CPUS, MAX_DEVICES, MAX_PROCS};
use crate::entry::EntryConfig;
use crate::hw::{Boards, Mirror, Tlb};
use crate::mm::{AnonVmas, IMmap, Ksm, Mm, PmdPtr, PtePtr, Tables, VmaId, Vmas};
use crate::observe::{Backing, FILES, MAPPINGS};
use crate::phys::{Hugetlb, Memcgs, Memory, PageCache, Swap};

/// All modelled state. Two equal worlds behave alike for ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// Machine and kernel.
    pub config: Config,
    /// Entry encoding of this architecture and release.
    entries: EntryConfig,
    /// Frames and folios.
    pub mem: Memory,
    /// `mem_hotplug_lock`: the CPU that holds it, plus one.
    pub mem_hotplug_lock: u8,
    /// `mf_mutex`, which lets one memory failure be handled at a time: the CPU that holds it, plus one.
    pub mf_mutex: u8,
    /// Swap devices.
    pub swap: Swap,
    /// Files and their page caches.
    pub files: [PageCache; FILES],
    /// Who maps each file and each device.
    pub i_mmaps: [IMmap; MAPPINGS],
    /// The pool of hugetlb pages.
    pub hugetlb: Hugetlb,
    /// Counters of the memory control groups.
    pub memcgs: Memcgs,
    /// Processes `A` to `D`.
    pub mms: [Mm; MAX_PROCS],
    /// All VMAs.
    pub vmas: Vmas,
    /// All `anon_vma`s.
    pub anon_vmas: AnonVmas,
    /// KSM's trees.
    pub ksm: Ksm,
    /// All page tables.
    pub tables: Tables,
    /// TLB of each CPU.
    pub tlbs: [Tlb; MAX_CPUS],
    /// What each device knows of each process.
    pub mirrors: [[Mirror; MAX_PROCS]; MAX_DEVICES],
    /// Devices whose memory user space maps.
    pub boards: Boards,
}

impl World {
    /// A machine on which nothing runs.
    pub fn new(config: Config) -> World {
        let g = config.geometry;
        let mut world = World {
            config,
            entries: EntryConfig::of(&config),
            mem: Memory::new(g),
            mem_hotplug_lock: 0,
            mf_mutex: 0,
            swap: Swap::new(g),
            files: Default::default(),
            i_mmaps: Default::default(),
            hugetlb: Hugetlb::default(),
            memcgs: Memcgs::default(),
            mms: Default::default(),
            vmas: Vmas::default(),
            anon_vmas: AnonVmas::default(),
            ksm: Ksm::default(),
            tables: Tables::new(g),
            tlbs: Default::default(),
            mirrors: Default::default(),
            boards: Boards::default(),
        };
        world.hugetlb.reset(g);
        world.files.iter_mut().for_each(|f| f.reset(g.region_pages()));
        world
    }

    /// The same as a new machine, keeping allocations.
    pub fn reset(&mut self, config: Config) {
        self.config = config;
        self.entries = EntryConfig::of(&config);
        self.mem_hotplug_lock = 0;
        self.mf_mutex = 0;
        self.mem.reset(config.geometry);
        self.swap.reset(config.geometry);
        self.files.iter_mut().for_each(|f| f.reset(config.geometry.region_pages()));
        self.i_mmaps.iter_mut().for_each(IMmap::reset);
        self.hugetlb.reset(config.geometry);
        self.memcgs = Memcgs::default();
        self.mms.iter_mut().for_each(Mm::reset);
        self.vmas.reset();
        self.anon_vmas.reset();
        self.ksm.reset();
        self.tables.reset(config.geometry);
        self.tlbs.iter_mut().for_each(Tlb::reset);
        self.mirrors.iter_mut().flatten().for_each(Mirror::reset);
        self.boards.reset();
    }

    /// Table geometry.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        self.config.geometry
    }

    /// Entry encoding of this architecture and release.
    #[inline]
    pub fn entries(&self) -> EntryConfig {
        self.entries
    }

    /// `vma_lookup()`: the VMA that holds a page.
    #[inline]
    pub fn vma_lookup(&self, mm: u8, vpn: u32) -> Option<VmaId> {
        self.mms[mm as usize].vmas.iter().copied().find(|id| self.vmas[*id].contains(vpn))
    }

    /// `vma_interval_tree_insert()`: a VMA of a file joins its reverse map, for fork right after its parent's.
    pub fn i_mmap_insert(&mut self, vma: VmaId, after: Option<VmaId>) {
        let Some(file) = self.vmas[vma].backing.mapping() else { return };
        let list = &mut self.i_mmaps[usize::from(file)].vmas;
        let at = after.and_then(|v| list.iter().position(|o| *o == v)).map_or(list.len(), |at| at + 1);
        list.insert(at, vma);
    }

    /// What a mapping at this page with this backing shows there (`vm_pgoff`).
    pub fn pgoff(&self, backing: Backing, vpn: u32) -> u32 {
        match (backing, self.geometry().region_of(vpn)) {
            (Backing::Anon | Backing::Hugetlb | Backing::HugetlbNoreserve, _) | (_, None) => vpn,
            (_, Some((_, page))) => page,
        }
    }

    /// The protection that new entries of a mapping get (`vma->vm_page_prot`).
    #[inline]
    pub fn page_prot(&self, vma: VmaId) -> Prot {
        self.vmas[vma].page_prot(self.config.arch.has_soft_dirty())
    }

    /// Where the PTE of a page is, when a PTE table serves it.
    #[inline]
    pub fn pte_ptr(&self, mm: u8, vpn: u32) -> Option<PtePtr> {
        let m = &self.mms[mm as usize];
        if m.life == crate::mm::Life::Unborn {
            return None;
        }
        let table = self.tables.pte_table(self.config.arch, m.pgd, vpn)?;
        Some(PtePtr { table, index: self.tables.index(vpn, 0), mm, vpn })
    }

    /// Where the PMD of a page is, when a PMD table serves it.
    pub fn pmd_ptr(&self, mm: u8, vpn: u32) -> Option<PmdPtr> {
        let m = &self.mms[mm as usize];
        if m.life == crate::mm::Life::Unborn {
            return None;
        }
        let (table, index) = self.tables.pmd_table(self.config.arch, m.pgd, vpn)?;
        Some(PmdPtr { table, index, mm, vpn: vpn & !(self.geometry().ptrs() - 1) })
    }

    /// What the page tables say of a page, be it in a PTE or in the PMD above it; an empty entry when nothing.
    #[inline]
    pub fn leaf(&self, mm: u8, vpn: u32) -> Pte {
        match self.pte_ptr(mm, vpn) {
            Some(p) => self.tables.pte(p),
            None if self.tables.pmd_leaves == 0 => Pte(0),
            None => self.pmd_leaf(mm, vpn),
        }
    }

    #[cold]
    fn pmd_leaf(&self, mm: u8, vpn: u32) -> Pte {
        let Some(p) = self.pmd_ptr(mm, vpn) else { return Pte(0) };
        self.entries().pmd_as_pte_of(self.tables.pmd(p), vpn - p.vpn)
    }

    /// Offset of a page from the first window's start, as device tables count.
    #[inline]
    pub fn mirror_offset(&self, vpn: u32) -> u32 {
        vpn - self.geometry().region_base(0)
    }
}
