//! Entries: reading, setting and clearing them, and keeping the ghost counts true while that happens.

use super::ctl::Weakened;
use super::{Cpu, Lock, Sim, Site};
use crate::arch::{Arch, Pte, SwpEntry};
use crate::config::Design;
use crate::entry::{Accessor, EntryConfig, EntryKind, transition_legal};
use crate::invariant::page_table_check;
use crate::mm::{PtePtr, TableId};
use crate::observe::UffdFlags;
use crate::phys::{Flags, Pfn, RawFrames, ZERO_PFN};
use crate::rule::{Evidence, Rule};
use crate::trace::Event;

/// What an entry refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Nothing,
    /// Present or device entry of a user frame: one reference.
    Page {
        pfn: Pfn,
        write: bool,
        exclusive: bool,
    },
    /// The zero page.
    Zero,
    /// Migration entry.
    Migrating(Pfn),
    /// Swap entry.
    Slot(u32),
    /// A frame or slot that does not exist.
    Bad(u64),
}

impl Sim {
    fn target(&self, ec: EntryConfig, kind: EntryKind, pte: Pte) -> Target {
        let arch = ec.arch;
        let page = |pfn: u64, write, exclusive| {
            if pfn == u64::from(ZERO_PFN) {
                Target::Zero
            } else if self.w.mem.valid(pfn) {
                Target::Page { pfn: pfn as Pfn, write, exclusive }
            } else {
                Target::Bad(pfn)
            }
        };
        match kind {
            EntryKind::Present if arch.pte_special(pte) && RawFrames::place(arch.pte_pfn(pte)).is_some() => {
                Target::Nothing
            }
            EntryKind::Present => page(arch.pte_pfn(pte), arch.pte_write(pte), false),
            EntryKind::Swap => {
                let SwpEntry { ty, offset } = arch.pte_to_swp_entry(pte);
                self.w.swap.slot_of(ty, offset).map_or(Target::Bad(offset), Target::Slot)
            }
            k if k.is_device_private() || k.is_device_exclusive() => {
                let write = matches!(k, EntryKind::DevicePrivateWrite | EntryKind::DeviceExclusiveWrite);
                page(ec.swp_offset_pfn(arch.pte_to_swp_entry(pte)), write, k.is_device_exclusive())
            }
            k if k.is_migration() => {
                let pfn = ec.swp_offset_pfn(arch.pte_to_swp_entry(pte));
                if self.w.mem.valid(pfn) { Target::Migrating(pfn as Pfn) } else { Target::Bad(pfn) }
            }
            _ => Target::Nothing,
        }
    }

    /// Queues the folio of a page for the checks of counts.
    #[inline]
    pub(crate) fn touch_folio(&mut self, page: Pfn) {
        let pfn = self.w.mem.page_folio(page);
        let g = &mut self.w.mem.folios[pfn as usize].ghost;
        if !g.touched {
            g.touched = true;
            self.ctl.touched_folios.push(pfn);
        }
        if self.ctl.touched_ptl.last() != Some(&pfn) {
            self.ctl.touched_ptl.push(pfn);
        }
    }

    /// Queues a slot for the check of counts.
    #[inline]
    pub(crate) fn touch_slot(&mut self, slot: u32) {
        let s = &mut self.w.swap.slots[slot as usize];
        if !s.touched {
            s.touched = true;
            self.ctl.touched_slots.push(slot);
        }
    }

    fn count_target(&mut self, cpu: u8, mm: u8, target: Target, add: bool) {
        let d: i32 = if add { 1 } else { -1 };
        let bump = |n: &mut u16| *n = n.wrapping_add_signed(d as i16);
        match target {
            Target::Nothing | Target::Zero => return,
            Target::Page { pfn, write, exclusive } => {
                self.touch_folio(pfn);
                let g = &mut self.w.mem.folios[pfn as usize].ghost;
                bump(&mut g.entries);
                if exclusive {
                    bump(&mut g.exclusive_entries);
                }
                if write {
                    bump(&mut g.writable);
                }
                self.w.mms[mm as usize].ghost_pages += d;
            }
            Target::Migrating(pfn) => {
                self.touch_folio(pfn);
                bump(&mut self.w.mem.folios[pfn as usize].ghost.migration_entries);
                self.w.mms[mm as usize].ghost_pages += d;
            }
            Target::Slot(slot) => {
                self.touch_slot(slot);
                bump(&mut self.w.swap.slots[slot as usize].entries);
                self.w.mms[mm as usize].ghost_swap += d;
            }
            Target::Bad(n) => {
                let e = Evidence { proc: Some(mm), found: Some(n), ..Evidence::default() };
                self.violate(cpu, Rule::BadPfn, e);
                return;
            }
        }
        self.w.mms[mm as usize].touched = true;
    }

    /// Counts what a PTE refers to that is being put where there was none.
    pub(super) fn count_new_pte(&mut self, cpu: u8, mm: u8, new: Pte) {
        let ec = self.w.entries();
        let target = self.target(ec, ec.kind(new), new);
        self.count_target(cpu, mm, target, true);
    }

    /// Writes an entry on behalf of the kernel, and checks that it may.
    pub(crate) fn install(&mut self, cpu: u8, p: PtePtr, new: Pte) -> Pte {
        let old = self.w.tables.pte(p);
        if self.w.tables.info[p.table as usize].lock != cpu + 1 {
            let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
            self.violate(cpu, Rule::EntryUnlocked, e);
        }
        if old == new {
            return old;
        }
        let ec = self.w.entries();
        let (from, to) = (ec.kind(old), ec.kind(new));
        self.check_transition(cpu, p, from, to);
        let (was, is) = (self.target(ec, from, old), self.target(ec, to, new));
        if was != is {
            self.count_target(cpu, p.mm, was, false);
            self.count_target(cpu, p.mm, is, true);
            if let (Target::Migrating(page), Target::Nothing) = (was, is) {
                let folio = self.w.mem.page_folio(page);
                self.w.mem.folios[folio as usize].ghost.migration_zapped = true;
            }
        }
        if let Target::Page { pfn, .. } = is
            && was != is
            && self.w.mem.folios[pfn as usize].ghost.lost
        {
            let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), pfn: Some(pfn), ..Evidence::default() };
            self.violate(cpu, Rule::PoisonMapped, e);
        }
        if let Target::Page { pfn, write: true, .. } = is
            && self.w.mem.folios[pfn as usize].flags.has(Flags::KSM)
        {
            let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), pfn: Some(pfn), ..Evidence::default() };
            self.violate(cpu, Rule::KsmWritable, e);
        }
        self.w.tables.put(p.table, p.index, new.0);
        if from == EntryKind::Present && weaker(ec.arch, old, new) || from.is_device_exclusive() {
            self.ctl.weakened.push(Weakened { cpu, mm: p.mm, vpn: p.vpn });
        }
        if to == EntryKind::Present && ec.arch.pte_write(new) {
            self.check_writable(cpu, ec.arch, p, new);
        } else if matches!(to, EntryKind::MarkerUffdWp | EntryKind::SwapSpecial) {
            self.check_note(cpu, p);
        }
        if let Some(mut f) = page_table_check(&self.w, ec, to, new) {
            f.evidence = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..f.evidence };
            self.found(cpu, f);
        }
        if self.coverage.is_some() {
            self.cover_entry(cpu, p, [digest(ec, from, old), digest(ec, to, new)], self.target_exclusive(is));
        }
        self.log_entry(Some(cpu), ec, p, old, new);
        old
    }

    /// Hangs the PTE table at one address below another PMD: whatever is cached of the old address grants too much from
    /// now on. False when there is no table.
    pub fn move_table(&mut self, cpu: u8, mm: u8, old: (TableId, u32), new: (TableId, u32)) -> bool {
        let arch = self.w.config.arch;
        let t = &mut self.w.tables;
        let (from, to) = (t.index(old.1, 1), t.index(new.1, 1));
        let bits = t.get(old.0, from);
        let Some(table) = t.next(arch, old.0, from) else { return false };
        t.put(old.0, from, 0);
        t.put(new.0, to, bits);
        for i in 0..self.w.geometry().ptrs() {
            if arch.pte_present(Pte(self.w.tables.get(table, i))) {
                self.ctl.weakened.push(Weakened { cpu, mm, vpn: old.1 + i });
            }
        }
        true
    }

    fn check_transition(&mut self, cpu: u8, p: PtePtr, from: EntryKind, to: EntryKind) {
        let c = &mut self.ctl.cpus[cpu as usize];
        let origin = match c.cleared.take() {
            Some((q, kind)) if q == p && from == EntryKind::None => kind,
            _ => from,
        };
        if to == EntryKind::None {
            c.cleared = Some((p, origin));
        }
        if origin != to && !transition_legal(origin, to) {
            let e = Evidence {
                proc: Some(p.mm),
                vpn: Some(p.vpn),
                what: Some(to.name()),
                on: Some(origin.name()),
                ..Evidence::default()
            };
            self.violate(cpu, Rule::Transition, e);
        }
    }

    /// A writable entry needs a VMA that may be written and that does not wait for the first write. Whoever is
    /// about to change that, under `mmap_lock`, changes the VMA first and comes to the entry later: meanwhile
    /// others may still carry the entry as it was.
    pub(super) fn check_writable(&mut self, cpu: u8, arch: Arch, p: PtePtr, new: Pte) {
        let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
        let pfn = arch.pte_pfn(new);
        if pfn == u64::from(ZERO_PFN) {
            self.violate(cpu, Rule::BugWritableZero, e);
        }
        let Some(vma) = self.w.vma_lookup(p.mm, p.vpn).map(|v| &self.w.vmas[v]) else { return };
        let private_file = !vma.shared() && !vma.anonymous();
        let cache = |pfn: u64| self.w.mem.valid(pfn) && !self.folio(self.w.mem.page_folio(pfn as Pfn)).anon();
        if private_file && (RawFrames::place(pfn).is_some() || cache(pfn)) {
            return self.violate(cpu, Rule::WritablePageCache, Evidence { pfn: Some(pfn as Pfn), ..e });
        }
        let writer = self.w.mms[p.mm as usize].mmap_writer;
        if writer != 0 && writer != cpu + 1 {
            return;
        }
        if vma.uffd_wp() && arch.pte_uffd_wp(new) {
            self.violate(cpu, Rule::WritableUffdWp, e);
        } else if !vma.writable() {
            self.violate(cpu, Rule::WritableVma, e);
        } else if arch.has_soft_dirty()
            && !vma.soft_dirty
            && !arch.pte_soft_dirty(new)
            && !vma.backing.pfnmap()
            && !vma.backing.hugetlb()
        {
            self.violate(cpu, Rule::WritableSoftDirty, e);
        }
    }

    /// A note that a page is write-protected stands where a page of a file may be behind it, or where the monitor has
    /// asked for notes in anonymous memory as well. A mapping of a device, which cannot be registered, has none.
    fn check_note(&mut self, cpu: u8, p: PtePtr) {
        let Some(vma) = self.w.vma_lookup(p.mm, p.vpn).map(|v| &self.w.vmas[v]) else { return };
        let unasked = vma.anonymous() && !vma.uffd.flags.has(UffdFlags::UNPOPULATED);
        if unasked || vma.backing.device().is_some() && !vma.uffd_wp() {
            let e = Evidence { proc: Some(p.mm), vpn: Some(p.vpn), ..Evidence::default() };
            self.violate(cpu, Rule::NoteVma, e);
        }
    }

    #[inline]
    fn cover_entry(&self, cpu: u8, p: PtePtr, [old, new]: [u64; 2], exclusive: bool) {
        let c = &self.ctl.cpus[cpu as usize];
        let site = c.site.map_or(255, |s| s as u64);
        self.cover(
            1 << 60
                | old << 32
                | new << 24
                | site << 16
                | u64::from(c.code) << 8
                | u64::from(exclusive) << 4
                | u64::from(p.vpn & 7),
        );
    }

    /// Is the page that an entry maps, or lends to a device, `PageAnonExclusive`?
    pub(super) fn names_exclusive(&self, ec: EntryConfig, pte: Pte) -> bool {
        self.target_exclusive(self.target(ec, ec.kind(pte), pte))
    }

    #[inline]
    fn target_exclusive(&self, target: Target) -> bool {
        match target {
            Target::Page { pfn, .. } => self.w.mem.folios[pfn as usize].flags.has(Flags::ANON_EXCLUSIVE),
            _ => false,
        }
    }

    #[inline]
    pub(super) fn log_entry(&mut self, cpu: Option<u8>, ec: EntryConfig, p: PtePtr, old: Pte, new: Pte) {
        if self.trace.is_some() {
            self.record_entry(cpu, ec, p, old, new);
        }
    }

    #[cold]
    fn record_entry(&mut self, cpu: Option<u8>, ec: EntryConfig, p: PtePtr, old: Pte, new: Pte) {
        let site = cpu.and_then(|c| self.ctl.cpus[c as usize].site);
        let exclusive = [old, new].map(|pte| self.names_exclusive(ec, pte));
        let (old, new) = (ec.decode(old), ec.decode(new));
        self.log(|| Event::Entry { cpu, site, proc: p.mm, vpn: p.vpn, old, new, exclusive, huge: [false; 2] });
    }
}

/// Kind and the bits that matter, in one byte.
#[inline]
fn digest(ec: EntryConfig, kind: EntryKind, pte: Pte) -> u64 {
    let bits = if kind == EntryKind::Present {
        u64::from(ec.arch.pte_write(pte))
            | u64::from(ec.arch.pte_dirty(pte)) << 1
            | u64::from(ec.arch.pte_soft_dirty(pte)) << 2
    } else if kind == EntryKind::Swap {
        u64::from(ec.arch.pte_swp_exclusive(pte)) | u64::from(ec.arch.pte_swp_soft_dirty(pte)) << 2
    } else {
        0
    };
    // One more kind: an entry that hints at NUMA placement, or that belongs to a PROT_NONE mapping.
    let kind = if kind == EntryKind::Present && ec.arch.pte_protnone(pte) { 31 } else { kind as u64 };
    kind | bits << 5
}

/// Would a translation cached from `old` grant more than `new` does?
fn weaker(arch: Arch, old: Pte, new: Pte) -> bool {
    let access = |pte, write| arch.pte_present(pte) && arch.hw_access(pte, write).is_some();
    let same_page = arch.pte_present(new) && arch.pte_pfn(old) == arch.pte_pfn(new);
    access(old, false)
        && (!same_page
            || !access(new, false)
            || access(old, true) && !access(new, true)
            || arch.pte_dirty(old) && !arch.pte_dirty(new))
}

/// Tests and conversions of one entry. The kernel's do not look at the kind of what they are given; these do, and
/// then answer from the same bits.
macro_rules! accessors {
    ($($name:ident -> $result:ty = $accessor:ident;)*) => {
        impl Cpu {
            $(
                #[doc = concat!("`", stringify!($name), "()`, noticed when the entry is of a kind that it does not read.")]
                #[inline]
                pub fn $name(&self, pte: Pte) -> $result {
                    self.accessor(Accessor::$accessor, pte);
                    self.arch().$name(pte)
                }
            )*
        }
    };
}

accessors! {
    pte_write -> bool = PteWrite;
    pte_dirty -> bool = PteDirty;
    pte_young -> bool = PteYoung;
    pte_soft_dirty -> bool = PteSoftDirty;
    pte_uffd_wp -> bool = PteUffdWp;
    pte_swp_soft_dirty -> bool = PteSwpSoftDirty;
    pte_swp_uffd_wp -> bool = PteSwpUffdWp;
    pte_swp_exclusive -> bool = PteSwpExclusive;
    pte_to_swp_entry -> SwpEntry = PteToSwpEntry;
}

impl Cpu {
    /// `ptep_get()`.
    #[inline]
    pub fn ptep_get(&self, p: PtePtr) -> Pte {
        self.s().w.tables.pte(p)
    }

    /// `set_pte_at()`.
    #[inline]
    pub async fn set_pte_at(&self, p: PtePtr, pte: Pte) {
        self.site(Site::PteSet).await;
        self.s().install(self.id, p, pte);
    }

    /// `ptep_get_and_clear()`, and `pte_clear()`.
    #[inline]
    pub async fn ptep_get_and_clear(&self, p: PtePtr) -> Pte {
        self.site(Site::PteClear).await;
        self.s().install(self.id, p, Pte(0))
    }

    /// An atomic read-modify-write of an entry (`ptep_set_wrprotect()` and the like): bits that the hardware sets
    /// meanwhile are not lost.
    pub async fn ptep_update(&self, p: PtePtr, site: Site, f: impl FnOnce(Pte) -> Pte) -> Pte {
        self.site(site).await;
        let s = &mut *self.s();
        let old = s.w.tables.pte(p);
        s.install(self.id, p, f(old))
    }

    /// `ptep_clear_flush()`.
    pub async fn ptep_clear_flush(&self, p: PtePtr) -> Pte {
        let old = self.ptep_get_and_clear(p).await;
        self.flush_tlb_range(p.mm, p.vpn, p.vpn + 1).await;
        old
    }

    /// `pte_offset_map_nolock()`: where the PTE is, if a table serves the address.
    #[inline]
    pub fn pte_offset(&self, mm: u8, vpn: u32) -> Option<PtePtr> {
        self.s().w.pte_ptr(mm, vpn)
    }

    /// `pte_offset_map_lock()`: the PTE with its table locked, looked up again once the lock is held.
    pub async fn pte_offset_map_lock(&self, mm: u8, vpn: u32) -> Option<PtePtr> {
        loop {
            let p = self.pte_offset_map(mm, vpn)?;
            self.lock(Lock::Pte(p.table)).await;
            let same = self.pte_offset(mm, vpn) == Some(p);
            if !same {
                self.unlock(Lock::Pte(p.table));
            }
            self.rcu_read_unlock();
            if same {
                return Some(p);
            }
        }
    }

    /// `pte_offset_map()`: where the PTE is. If a table serves the address, it is not freed before
    /// [`Cpu::rcu_read_unlock()`].
    #[inline]
    pub fn pte_offset_map(&self, mm: u8, vpn: u32) -> Option<PtePtr> {
        let s = &mut *self.s();
        let p = s.w.pte_ptr(mm, vpn)?;
        s.w.tables.rcu_read_lock(self.id);
        Some(p)
    }

    /// `rcu_read_unlock()`, the part of `pte_unmap()` that counts.
    #[inline]
    pub fn rcu_read_unlock(&self) {
        self.s().w.tables.rcu_read_unlock(self.id);
    }

    /// `pte_unmap_unlock()`.
    #[inline]
    pub fn pte_unmap_unlock(&self, p: PtePtr) {
        self.unlock(Lock::Pte(p.table));
    }

    /// `pte_pfn()` as a frame of the machine. A PFN that names none is noticed, and the zero page returned.
    pub fn pte_pfn(&self, pte: Pte) -> Pfn {
        self.accessor(Accessor::PtePfn, pte);
        self.frame(self.arch().pte_pfn(pte))
    }

    /// `pte_none()`, as a design may have changed its meaning.
    #[inline]
    pub fn pte_none(&self, pte: Pte) -> bool {
        let s = self.s();
        let covers = || s.w.config.uses(Design::NoneCoversSpecial) && s.w.entries().is_swap_special_pte(pte);
        s.w.config.arch.pte_none(pte) || covers()
    }

    /// `pte_none()` of a caller that knows nothing of swap-special entries.
    pub fn pte_none_not_special(&self, pte: Pte) -> bool {
        let warns = self.uses(Design::NoneWarns) && self.entries().is_swap_special_pte(pte);
        self.bug_on(warns, Rule::BugSpecialPte, Evidence::default());
        warns || self.pte_none(pte)
    }

    /// `vm_normal_page()`: the page that an entry maps. The zero page stands for `NULL`: for it and for whatever else has
    /// no `struct page` to be counted.
    #[inline]
    pub fn vm_normal_page(&self, pte: Pte) -> Pfn {
        if self.arch().pte_special(pte) {
            self.accessor(Accessor::PtePfn, pte);
            return ZERO_PFN;
        }
        self.pte_pfn(pte)
    }

    /// The frame of an entry of a PFN map: special, and not the zero page.
    #[inline]
    pub fn raw_pfn(&self, pte: Pte) -> Option<Pfn> {
        let arch = self.arch();
        let pfn = arch.pte_pfn(pte);
        (arch.pte_present(pte) && arch.pte_special(pte) && pfn != u64::from(ZERO_PFN)).then_some(pfn as Pfn)
    }

    /// `swp_offset_pfn()`, likewise.
    pub fn swp_offset_pfn(&self, entry: SwpEntry) -> Pfn {
        self.frame(self.entries().swp_offset_pfn(entry))
    }

    /// The slot that a swap entry names. One that names none is noticed, and a header returned.
    pub fn swp_slot(&self, entry: SwpEntry) -> u32 {
        let slot = self.s().w.swap.slot_of(entry.ty, entry.offset);
        if slot.is_none() {
            self.violate(Rule::BadPfn, Evidence { found: Some(entry.offset), ..Evidence::default() });
        }
        slot.unwrap_or(0)
    }

    /// `swp_entry()` of a slot: its device's number is the type.
    pub fn swp_entry(&self, slot: u32) -> SwpEntry {
        let (ty, offset) = self.s().w.swap.entry_of(slot);
        SwpEntry { ty, offset }
    }

    fn frame(&self, pfn: u64) -> Pfn {
        if self.s().w.mem.valid(pfn) {
            return pfn as Pfn;
        }
        let rule = if RawFrames::place(pfn).is_some() { Rule::RawFrame } else { Rule::BadPfn };
        self.violate(rule, Evidence { found: Some(pfn), ..Evidence::default() });
        ZERO_PFN
    }

    /// Copies soft-dirty and uffd-wp into a swap-format entry: from a present one.
    pub fn carry_from_present(&self, from: Pte, mut to: Pte) -> Pte {
        let arch = self.arch();
        if self.pte_soft_dirty(from) {
            to = arch.pte_swp_mksoft_dirty(to);
        }
        if self.pte_uffd_wp(from) {
            to = arch.pte_swp_mkuffd_wp(to);
        }
        to
    }

    /// Copies soft-dirty and uffd-wp into a swap-format entry: from another swap-format entry.
    pub fn carry_from_swap(&self, from: Pte, mut to: Pte) -> Pte {
        let arch = self.arch();
        if self.pte_swp_soft_dirty(from) {
            to = arch.pte_swp_mksoft_dirty(to);
        }
        if self.pte_swp_uffd_wp(from) {
            to = arch.pte_swp_mkuffd_wp(to);
        }
        to
    }
}
