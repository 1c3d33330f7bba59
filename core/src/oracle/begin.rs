//! Beginnings of calls: what may be different from then on, and what the children being born are told of it.

use super::Oracle;
use super::effect::Effect;
use super::flight::Flight;
use super::page::Reach;
use super::result::Keep;
use super::space::Spot;
use super::traps::Traps;
use crate::config::{MAX_CPUS, MAX_PROCS};
use crate::program::{Case, OpCode};

impl Oracle {
    /// Begins an op.
    pub(super) fn start(&mut self, case: &Case, op: u32) {
        let Some((cpu, mut flight)) = Flight::of(case, op, self.now, (self.fresh, self.promises)) else { return };
        if usize::from(flight.proc) >= MAX_PROCS {
            return;
        }
        flight.lock_changes = self.procs[usize::from(flight.proc)].locks.changes();
        if self.flights[cpu].is_some() {
            self.finish(cpu, Keep::Either);
        }
        for other in self.flights.iter_mut().flatten() {
            if other.overlaps(&flight) {
                other.contended |= flight.maps();
                flight.contended |= other.maps();
                other.disturbed |= flight.effect().is_some();
                flight.disturbed |= other.effect().is_some();
            }
            if other.overlaps(&flight) || other.around.is_some() {
                other.disturb_waiting(&flight);
            }
        }
        if flight.cuts() || flight.remote() || matches!(flight.code, OpCode::Remove | OpCode::ResetDevice) {
            self.disturb_remote(&mut flight);
        }
        let bit = 1 << cpu;
        let parent = usize::from(flight.proc);
        match flight.code {
            OpCode::Exit | OpCode::ExitThread => self.procs[parent].exiting = true,
            OpCode::ClearRefs => self.procs[parent].clearing += 1,
            OpCode::Mmap => self.procs[parent].remapped = self.now,
            OpCode::Mprotect => self.procs[parent].merged = self.now,
            OpCode::ToDevice => self.procs[parent].lent = self.now,
            OpCode::Truncate | OpCode::Remove | OpCode::Unpoison => self.doubt_losses(),
            _ => {}
        }
        self.procs[parent].maps(flight.backing);
        if let Some(Effect::Map(..)) = flight.effect() {
            self.procs[parent].space.reach(flight.region, flight.end);
        }
        self.guarded |= flight.code == OpCode::GuardInstall;
        if self.procs[parent].hugetlb {
            flight.reaches_out(self.huge_pages);
            flight.stopped = self.all_stopped(&flight);
        }
        if flight.cuts() || flight.code == OpCode::Remove {
            self.doubt_stops(None);
        }
        self.flights[cpu] = Some(flight);
        self.start_file_change(cpu, &flight);
        if matches!(flight.code, OpCode::Truncate | OpCode::Remove) || flight.poisons() {
            self.blur_protection(self.now);
        }
        self.begin_on_files(cpu, &flight);
        self.break_cow(&flight);
        self.begin_moves(cpu, &flight);
        self.begin_pins(cpu, &flight);
        self.begin_locks(cpu, &flight);
        if self.tells {
            self.begin_told(cpu, &flight);
        }
        if flight.effect().is_some() {
            let kind = if flight.touches().is_some() { &mut self.touching } else { &mut self.changing };
            kind[parent] |= bit;
            // Who registers hugetlb memory, or does so no longer, decides on what may be asked for and copied.
            if flight.effect().is_some_and(|e| e.registers() || e.maps() || flight.moves.is_some()) {
                self.ask_again(flight.proc);
            }
            if self.procs[parent].files && flight.effect().is_some_and(Effect::replaces) {
                self.break_cow_again();
            }
            self.tell_children(&flight);
        } else if flight.code == OpCode::Fork {
            self.forking[parent] |= bit;
            self.copy_parent(cpu, flight.proc);
        }
        if flight.poisons() {
            self.condemn(&flight);
        }
    }

    /// Begins the child of the fork on CPU `cpu` as a copy of its parent.
    pub(super) fn copy_parent(&mut self, cpu: usize, parent: u8) {
        self.children[cpu].copy(&self.procs[usize::from(parent)].space);
        if self.fresh != Traps::NONE || self.procs[usize::from(parent)].hugetlb {
            self.children[cpu].become_child();
        }
        for i in 0..MAX_CPUS {
            if let Some(flight) = self.flights[i].filter(|f| f.proc == parent && f.effect().is_some()) {
                self.tell_children(&flight);
            }
        }
    }

    /// Tells the children being born that their parent's pages are being changed by `flight`.
    fn tell_children(&mut self, flight: &Flight) {
        if self.forking[usize::from(flight.proc)] == 0 {
            return;
        }
        let held = self.procs[usize::from(flight.proc)].space.lens();
        for spot in flight.spots_in(held) {
            let changes = self.changes(flight.proc, spot, None);
            let reach = self.procs[usize::from(flight.proc)].space.reachable(spot, &changes);
            self.tell(flight.proc, spot, reach.as_ref());
            for cpu in 0..MAX_CPUS {
                if self.forking[usize::from(flight.proc)] & (1 << cpu) != 0
                    && let Some(page) = self.children[cpu].page_mut(spot)
                {
                    (page.stored, page.mapped) = (0, 0);
                }
            }
        }
    }

    /// Tells the children being born what a page of their parent's can be.
    pub(super) fn tell(&mut self, parent: u8, spot: Spot, reach: Option<&Reach>) {
        for cpu in 0..MAX_CPUS {
            if self.forking[usize::from(parent)] & (1 << cpu) != 0 {
                self.children[cpu].may_be(spot, reach);
            }
        }
    }
}
