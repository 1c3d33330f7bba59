//! Calls in flight: one for each CPU.

use super::moves::Move;
use super::page::{Base, Effect, Ends};
use super::space::Spot;
use crate::config::MAX_REGIONS;
use crate::observe::{Backing, FILES};
use crate::program::{Actor, Case, OpCode, Perm, Shape};

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
    pub(super) cut: [u32; FILES],
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
}

impl Flight {
    /// The op as it begins. `None` for an op that is not in the case, or that is the kernel's own.
    pub(super) fn of(case: &Case, index: u32, began: u32) -> Option<(usize, Flight)> {
        let op = case.ops.get(index as usize)?;
        if op.code.actor() == Actor::Kernel || usize::from(op.cpu) >= crate::config::MAX_CPUS {
            return None;
        }
        let limit = if usize::from(op.region) < MAX_REGIONS { case.config.geometry.region_pages() } else { 0 };
        let (first, end) = match op.code.shape() {
            Shape::Map | Shape::Range | Shape::RangeProt | Shape::RangeTo | Shape::KernelRange | Shape::DeviceRange => {
                (op.page.min(limit), op.page.saturating_add(op.len).min(limit))
            }
            Shape::Page => (op.page.min(limit), op.page.saturating_add(1).min(limit)),
            Shape::Proc
            | Shape::ProcProc
            | Shape::Block
            | Shape::Swap
            | Shape::Cgroup
            | Shape::DeviceProc
            | Shape::File => (0, 0),
        };
        let arg = match (op.code.actor(), op.code.shape()) {
            (Actor::Device, _) => op.device(),
            (_, Shape::File) => op.file(),
            _ => op.arg,
        };
        let flight = Flight {
            op: index,
            code: op.code,
            proc: op.proc,
            arg,
            backing: if op.code == OpCode::Mmap { op.backing() } else { Backing::Anon },
            size: op.page,
            cut: [u32::MAX; FILES],
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
        };
        let mut flight = flight;
        if op.code.shape() == Shape::RangeTo {
            let (region, page) = op.to();
            let apart = region != op.region || page >= end || page + flight.len() <= first;
            flight.moves = apart.then_some(Move { to: Spot { region, page }, confused: false });
        }
        Some((usize::from(op.cpu), flight))
    }

    /// What it does to a page.
    pub(super) fn effect_on(&self, spot: Spot) -> Option<Effect> {
        if self.source_of(spot).is_some() { Some(Effect::Arrive) } else { self.effect() }
    }

    /// What it does to each page of its range.
    pub(super) fn effect(&self) -> Option<Effect> {
        match self.code {
            OpCode::Mmap => Some(Effect::Map(Perm::from_arg(self.arg), Base::of(self.backing, 0))),
            OpCode::Munmap => Some(Effect::Unmap),
            OpCode::Mremap => self.moves.map(|_| Effect::Unmap),
            OpCode::MremapDontunmap => self.moves.map(|_| Effect::Empty),
            OpCode::Dontneed => Some(Effect::Zero),
            OpCode::Free => Some(Effect::Free),
            OpCode::GuardInstall => Some(Effect::Guard),
            OpCode::GuardRemove => Some(Effect::Unguard),
            OpCode::Mprotect => Some(Effect::Protect(Perm::from_arg(self.arg))),
            OpCode::Truncate => Some(Effect::Cut(self.arg, self.size)),
            _ => None,
        }
    }

    /// True when it makes or fills holes.
    pub(super) fn maps(&self) -> bool {
        self.moves.is_some() || self.effect().is_some_and(Effect::maps)
    }

    /// The kind of access that it makes to its pages: `Some(true)` for stores.
    pub(super) fn access(&self) -> Option<bool> {
        match self.code {
            OpCode::Read | OpCode::DevRead | OpCode::PopulateRead | OpCode::PinRead => Some(false),
            OpCode::Write
            | OpCode::DevWrite
            | OpCode::Pin
            | OpCode::PinFast
            | OpCode::Exclusive
            | OpCode::PopulateWrite => Some(true),
            _ => None,
        }
    }

    /// True when it may change pages of every process: it truncates a file.
    pub(super) fn cuts(&self) -> bool {
        self.code == OpCode::Truncate
    }

    /// True when the page is in its range.
    #[inline]
    pub(super) fn covers(&self, proc: u8, spot: Spot) -> bool {
        let inside = self.region == spot.region && (self.first..self.end).contains(&spot.page);
        self.proc == proc && (inside || self.source_of(spot).is_some())
    }

    /// True when the two have a page in common.
    pub(super) fn overlaps(&self, other: &Flight) -> bool {
        self.proc == other.proc
            && self
                .ranges()
                .any(|(region, first, end)| other.ranges().any(|(r, f, e)| region == r && first < e && f < end))
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

    /// Pages in its range.
    pub(super) fn len(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }
}
