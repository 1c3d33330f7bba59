//! Pages that show a device: they can be loaded from and stored to, but whoever needs a page to take hold of is refused.

use super::page::{Base, State};
use super::space::Spot;
use super::{Oracle, Proc};

impl Proc {
    /// It has a mapping for which calls that others allow give `EINVAL`.
    pub(super) fn picky(&self) -> bool {
        self.hugetlb || self.devices
    }
}

impl State {
    /// It shows a device, or is a private copy of what one shows.
    pub(super) fn of_device(self) -> bool {
        match self.base {
            Base::Shared(cell) | Base::Private(cell) | Base::Copied(cell) => cell.raw(),
            Base::Anon => false,
        }
    }

    /// Nobody can take hold of a page there. (Of a private mapping of the other kind, what is not yet copied may be copied on
    /// the way; and a copy is a page, which a walk that does not ask for the mapping's flags can have.)
    fn pageless(self) -> bool {
        match self.base {
            Base::Shared(cell) => cell.raw(),
            Base::Private(cell) => cell.remapped(),
            Base::Copied(_) | Base::Anon => false,
        }
    }
}

impl Oracle {
    /// True when the page may show a device.
    pub(super) fn shows_device(&self, proc: u8, spot: Spot) -> bool {
        let p = &self.procs[usize::from(proc)];
        let changes = self.changes(proc, spot, None);
        p.devices && p.space.reachable(spot, &changes).is_none_or(|s| s.iter().any(|s| s.of_device()))
    }

    /// True when there is certainly no page to take hold of.
    pub(super) fn pageless(&self, proc: u8, spot: Spot) -> bool {
        let p = &self.procs[usize::from(proc)];
        if !p.devices {
            return false;
        }
        let changes = self.changes(proc, spot, None);
        changes.is_empty() && p.space.states(spot).is_some_and(|s| s.iter().all(|s| s.pageless()))
    }
}
