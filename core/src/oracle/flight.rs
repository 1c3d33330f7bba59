//! Calls in flight: one for each CPU.

use super::effect::Effect;
use super::moves::Move;
use super::page::{Base, Ends, Pool};
use super::space::Spot;
use super::traps::{Filling, Traps, Uffd};
use crate::config::MAX_REGIONS;
use crate::observe::{Backing, FileId, MAPPINGS, REMAPPED, UffdFlags, Userfault, copy_token};
use crate::program::{Actor, Case, OpCode, Perm, Shape};

/// An access that waits for the monitor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Page.
    pub(super) spot: Spot,
    /// When the monitor was told.
    pub(super) since: u32,
    /// Why it waits.
    pub(super) reason: Userfault,
    /// What it misses is there: somebody was changing the entry just then.
    pub(super) blinked: bool,
    /// Somebody has woken it since.
    pub(super) woken: bool,
    /// Somebody has changed the page, or woken it, or may have, since it began to wait.
    pub(super) touched: bool,
}

/// A call between its start and its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Index of the op.
    pub(super) op: u32,
    /// What is done.
    pub(super) code: OpCode,
    /// Process that it is done to.
    pub(super) proc: u8,
    /// Child, device or protection.
    pub(super) arg: u8,
    /// What is mapped.
    pub(super) backing: Backing,
    /// New size of a file, in pages.
    pub(super) size: u32,
    /// First page of each file that was truncated meanwhile.
    pub(super) cut: [u32; MAPPINGS],
    /// Mapping window.
    pub(super) region: u8,
    /// First page.
    pub(super) first: u32,
    /// Page after the last.
    pub(super) end: u32,
    /// When it began.
    pub(super) began: u32,
    /// Accesses of it that retired.
    pub(super) retired: u32,
    /// Accesses of it that ended in a signal.
    pub(super) signals: u32,
    /// A call that makes or fills holes in its range was in flight at the same time.
    pub(super) contended: bool,
    /// Other calls changed its pages meanwhile, or stores to them were forgotten.
    pub(super) disturbed: bool,
    /// Ways in which its accesses might have ended in states that are over.
    pub(super) past: Ends,
    /// Where its pages go, if it moves them. A move onto itself is none.
    pub(super) moves: Option<Move>,
    /// What new memory is like; nothing when nobody keeps track of what is there.
    pub(super) fresh: Traps,
    /// What it does to each page of its range; see [`Flight::effect`].
    pub(super) effect: Option<Effect>,
    /// What is promised of the pool of huge pages is kept.
    pub(super) promises: bool,
    /// Its range begins and ends with a huge page.
    pub(super) whole: bool,
    /// The pages of its range and what shares a huge page with them, where it tries accesses to hugetlb memory.
    pub(super) around: Option<(u32, u32)>,
    /// Whatever it accesses is hugetlb memory of which userfaultfd is sure to stop it, and nobody has changed that since.
    pub(super) stopped: bool,
    /// The access of it that waits.
    pub(super) waiting: Option<Waiting>,
    /// How many pages it said it has dealt with.
    pub(super) progress: u32,
    /// How often what is locked in its process had changed when it began.
    pub(super) lock_changes: u32,
}

impl Flight {
    /// The op as it begins. `None` for an op that is not in the case, or that is the kernel's own.
    pub(super) fn of(case: &Case, index: u32, began: u32, (fresh, promises): (Traps, bool)) -> Option<(usize, Flight)> {
        let op = case.ops.get(index as usize)?;
        if op.code.actor() == Actor::Kernel || usize::from(op.cpu) >= crate::config::MAX_CPUS {
            return None;
        }
        let limit = if usize::from(op.region) < MAX_REGIONS { case.config.geometry.region_pages() } else { 0 };
        let (first, end) = match op.code.shape() {
            Shape::Map
            | Shape::Range
            | Shape::RangeFlags
            | Shape::RangeProt
            | Shape::RangeTo
            | Shape::KernelRange
            | Shape::DeviceRange => (op.page.min(limit), op.page.saturating_add(op.len).min(limit)),
            Shape::Page => (op.page.min(limit), op.page.saturating_add(1).min(limit)),
            Shape::Proc
            | Shape::ProcProc
            | Shape::Block
            | Shape::Swap
            | Shape::Count
            | Shape::Cgroup
            | Shape::DeviceProc
            | Shape::File => (0, 0),
        };
        let arg = match (op.code.actor(), op.code.shape()) {
            (Actor::Device, _) => op.device(),
            (_, Shape::File) => op.file(),
            _ if op.code == OpCode::Unplug => REMAPPED,
            _ => op.arg,
        };
        let flight = Flight {
            op: index,
            code: op.code,
            proc: op.proc,
            arg,
            backing: if op.code == OpCode::Mmap { op.backing() } else { Backing::Anon },
            size: op.page,
            cut: [u32::MAX; MAPPINGS],
            region: op.region,
            first,
            end,
            began,
            retired: 0,
            signals: 0,
            contended: false,
            disturbed: false,
            past: Ends::default(),
            moves: None,
            fresh,
            effect: None,
            promises,
            whole: (first | end).is_multiple_of(case.config.geometry.ptrs()),
            around: None,
            stopped: false,
            waiting: None,
            progress: 0,
            lock_changes: 0,
        };
        let mut flight = flight;
        if op.code == OpCode::MremapResize {
            flight.resize(op);
        } else if op.code.shape() == Shape::RangeTo {
            let (region, page) = op.to();
            let apart = region != op.region || page >= end || page + flight.len() <= first;
            // A mapping does not move onto itself; pages can, one after the other, but only where something is registered.
            let moves = if op.code == OpCode::UffdMove { fresh != Traps::NONE } else { apart };
            flight.moves = moves.then_some(Move { to: Spot { region, page }, confused: !apart });
        }
        flight.effect = flight.work_out_effect();
        Some((usize::from(op.cpu), flight))
    }

    /// What it does to each page of its range.
    #[inline]
    pub(super) fn effect(&self) -> Option<Effect> {
        self.effect
    }

    fn work_out_effect(&self) -> Option<Effect> {
        match self.code {
            OpCode::Mmap => {
                let pool = Pool::of(self.backing, self.promises);
                Some(Effect::Map(Perm::from_arg(self.arg), Base::of(self.backing, 0), self.fresh, pool))
            }
            OpCode::Munmap => Some(Effect::Unmap),
            OpCode::Mremap => self.moves.map(|_| Effect::Unmap),
            OpCode::MremapDontunmap => self.moves.map(|_| Effect::Empty(self.fresh)),
            // Flight::resize() has done so.
            OpCode::MremapResize => self.effect,
            OpCode::Dontneed | OpCode::DontneedLocked => Some(Effect::Zero(self.fresh)),
            OpCode::Free => Some(Effect::Free),
            OpCode::GuardInstall => Some(Effect::Guard(self.fresh)),
            OpCode::GuardRemove => Some(Effect::Unguard),
            OpCode::Mprotect => Some(Effect::Protect(Perm::from_arg(self.arg))),
            OpCode::Truncate | OpCode::Unplug => Some(Effect::Cut(self.arg, self.size)),
            _ => self.uffd().map(Effect::Uffd),
        }
    }

    /// What it has to do with userfaultfd, by the first page of its range.
    pub(super) fn uffd(&self) -> Option<Uffd> {
        let flag = |bit: u8| self.arg & bit != 0;
        match self.code {
            OpCode::UffdRegister => Some(Uffd::Register(UffdFlags(self.arg))),
            OpCode::UffdUnregister | OpCode::UffdClose => Some(Uffd::Unregister),
            OpCode::UffdCopy => {
                let value = copy_token(self.op, self.first);
                Some(Uffd::Fill(Filling::Copy { value, wp: flag(2) }, self.wakes(), 0))
            }
            OpCode::UffdZeropage => Some(Uffd::Fill(Filling::Zero, self.wakes(), 0)),
            OpCode::UffdPoison => Some(Uffd::Fill(Filling::Poison, self.wakes(), 0)),
            OpCode::UffdContinue => Some(Uffd::Fill(Filling::Continue { wp: flag(2) }, self.wakes(), 0)),
            OpCode::UffdWp => Some(Uffd::Protect(true)),
            OpCode::UffdUnwp => Some(Uffd::Protect(false)),
            OpCode::PagemapScan => Some(Uffd::Scan(self.whole)),
            OpCode::UffdMove => self.moves.map(|_| Uffd::Move),
            _ => self.touches().map(Uffd::Touch),
        }
    }

    /// It tries accesses in a process with hugetlb memory of huge pages of this size.
    pub(super) fn reaches_out(&mut self, huge: u32) {
        if self.touches().is_some() && huge != 0 {
            self.around = Some((self.first / huge * huge, self.end.next_multiple_of(huge)));
        }
    }

    /// True of a page beside its range that may be of the same huge page.
    #[inline]
    pub(super) fn beside(&self, proc: u8, spot: Spot) -> bool {
        let inside = |(from, to): (u32, u32)| (from..to).contains(&spot.page);
        self.around.is_some_and(inside) && self.proc == proc && self.region == spot.region && !self.covers(proc, spot)
    }

    /// Those pages.
    pub(super) fn spots_beside(&self) -> impl Iterator<Item = Spot> + use<> {
        let (region, first, end) = (self.region, self.first, self.end);
        let (from, to) = self.around.unwrap_or((first, end));
        (from..first).chain(end..to.max(end)).map(move |page| Spot { region, page })
    }

    /// The kind of access that it tries, where somebody keeps track of what is there.
    pub(super) fn touches(&self) -> Option<bool> {
        if self.fresh == Traps::NONE {
            return None;
        }
        match self.code {
            OpCode::ToDevice | OpCode::HwPoison | OpCode::SoftOffline => Some(false),
            _ => self.access(),
        }
    }

    /// True when it wakes those who wait at its pages, once it has succeeded.
    pub(super) fn wakes(&self) -> bool {
        match self.code {
            OpCode::UffdCopy | OpCode::UffdZeropage | OpCode::UffdPoison | OpCode::UffdContinue | OpCode::UffdUnwp => {
                self.arg & 1 == 0
            }
            OpCode::UffdWake | OpCode::UffdClose | OpCode::UffdUnregister | OpCode::UffdMove => true,
            _ => false,
        }
    }

    /// True of a call that fills pages and may be refused where it is, or in this release.
    pub(super) fn may_be_refused(&self) -> bool {
        match self.code {
            OpCode::UffdCopy => self.arg & 2 != 0,
            OpCode::UffdPoison | OpCode::UffdContinue => true,
            _ => false,
        }
    }

    /// True when it is about all memory of its process.
    pub(super) fn everywhere(&self) -> bool {
        self.code == OpCode::UffdClose
    }

    /// Another call begins: does it end the wait of this one's access, or might it?
    pub(super) fn disturb_waiting(&mut self, other: &Flight) {
        if let Some(waiting) = &mut self.waiting
            && other.covers(self.proc, waiting.spot)
            && (other.effect().is_some() || other.wakes())
        {
            waiting.touched = true;
        }
    }

    /// True when it makes or fills holes.
    pub(super) fn maps(&self) -> bool {
        self.remaps().is_some() || self.effect().is_some_and(Effect::maps)
    }

    /// The kind of access that it makes to its pages: `Some(true)` for stores.
    pub(super) fn access(&self) -> Option<bool> {
        match self.code {
            OpCode::Read | OpCode::DevRead | OpCode::PopulateRead | OpCode::PinRead | OpCode::MemRead => Some(false),
            OpCode::Write
            | OpCode::DevWrite
            | OpCode::Pin
            | OpCode::PinFast
            | OpCode::PinLongterm
            | OpCode::MemWrite
            | OpCode::Exclusive
            | OpCode::PopulateWrite => Some(true),
            _ => None,
        }
    }

    /// True when it faults pages in, or may.
    pub(super) fn tries(&self) -> bool {
        matches!(self.code, OpCode::Mlock | OpCode::HwPoison | OpCode::SoftOffline) || self.access().is_some()
    }

    /// True when it may change pages of every process: it truncates a file, or a device goes.
    pub(super) fn cuts(&self) -> bool {
        matches!(self.code, OpCode::Truncate | OpCode::Unplug)
    }

    /// The file of which it takes private copies away, and from which page on.
    pub(super) fn sweeps(&self) -> Option<(FileId, u32)> {
        match self.effect? {
            Effect::Cut(file, from) | Effect::Hole(file, from, _) => Some((file, from)),
            _ => None,
        }
    }

    /// True when it lets a file end behind what it maps: `mmap` of `hugetlbfs` for writing.
    pub(super) fn extends_file(&self) -> bool {
        self.code == OpCode::Mmap
            && matches!(self.backing, Backing::HugetlbfsShared | Backing::HugetlbfsPrivate)
            && Perm::from_arg(self.arg) == Perm::ReadWrite
    }

    /// True when the page is in its range.
    #[inline]
    pub(super) fn covers(&self, proc: u8, spot: Spot) -> bool {
        let inside = self.region == spot.region && (self.first..self.end).contains(&spot.page);
        self.proc == proc && (inside || self.everywhere() || self.source_of(spot).is_some())
    }

    /// True when the two have a page in common.
    pub(super) fn overlaps(&self, other: &Flight) -> bool {
        let everywhere = self.everywhere() || other.everywhere();
        let meet = || {
            self.ranges()
                .any(|(region, first, end)| other.ranges().any(|(r, f, e)| region == r && first < e && f < end))
        };
        self.proc == other.proc && (everywhere || meet())
    }

    /// Its range, and the one that it moves it to.
    fn ranges(&self) -> impl Iterator<Item = (u8, u32, u32)> + use<> {
        let to = self.moves.map(|m| (m.to.region, m.to.page, m.to.page + self.len()));
        std::iter::once((self.region, self.first, self.end)).chain(to)
    }

    /// Pages of its range.
    pub(super) fn spots(&self) -> impl Iterator<Item = Spot> + use<> {
        let region = self.region;
        (self.first..self.end).map(move |page| Spot { region, page })
    }

    /// Pages that it is about, of windows that hold this many.
    pub(super) fn spots_in(&self, held: [u32; MAX_REGIONS]) -> impl Iterator<Item = Spot> + use<> {
        let end = |r: u8| held.get(usize::from(r)).copied().unwrap_or(0);
        let (whole, mut region) = (self.everywhere(), self.region);
        let mut pages = self.first..self.end.min(end(region));
        if whole {
            (region, pages) = (0, 0..end(0));
        }
        std::iter::from_fn(move || {
            while pages.is_empty() && whole && usize::from(region) + 1 < MAX_REGIONS {
                region += 1;
                pages = 0..held[usize::from(region)];
            }
            pages.next().map(|page| Spot { region, page })
        })
    }

    /// What it does to this page.
    pub(super) fn effect_on(&self, spot: Spot) -> Option<Effect> {
        if self.remaps().is_some() && self.source_of(spot).is_some() {
            return Some(Effect::Arrive);
        }
        match self.effect()? {
            Effect::Uffd(Uffd::Touch(write))
                if self.around.is_some() && !(self.first..self.end).contains(&spot.page) =>
            {
                Some(Effect::Uffd(Uffd::Beside(write)))
            }
            Effect::Uffd(Uffd::Fill(Filling::Copy { wp, .. }, wakes, barred)) => {
                let copy = Filling::Copy { value: copy_token(self.op, spot.page), wp };
                Some(Effect::Uffd(Uffd::Fill(copy, wakes, barred)))
            }
            Effect::Grow(perm, base) => Some(Effect::Grow(perm, base.later(spot.page - self.first))),
            effect => Some(effect.at(spot.page)),
        }
    }

    /// Pages in its range.
    pub(super) fn len(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}
