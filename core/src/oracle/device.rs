//! Pages that show a device: they can be loaded from and stored to, but whoever needs a page to take hold of is refused.

use super::Oracle;
use super::flight::Flight;
use super::page::{Base, State};
use super::space::Spot;
use crate::program::Actor;

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
    /// True when another op of the same device is in flight for the same process.
    pub(super) fn device_works(&self, flight: &Flight) -> bool {
        let same = |f: &&Flight| (f.proc, f.arg) == (flight.proc, flight.arg) && f.code.actor() == Actor::Device;
        self.flights.iter().flatten().filter(same).any(|f| f.op != flight.op)
    }

    /// True when the page may show a device.
    pub(super) fn shows_device(&self, proc: u8, spot: Spot) -> bool {
        let p = &self.procs[usize::from(proc)];
        let changes = self.changes(proc, spot, None);
        p.devices && p.space.can_be(spot, &changes, |s| s.of_device())
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
