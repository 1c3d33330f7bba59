//! The simplifications, one function for each part of a case.
//!
//! Each returns true when it kept at least one. The order within a pass is fixed, so that the same case always
//! shrinks to the same one.

use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Defect, Geometry, MAX_PROCS, MAX_REGIONS};
use ptefuzz_core::program::{Action, Case, Interrupt, Op, OpCode, Perm, Shape};

use super::Search;

/// Most ops for which every pair is tried.
const PAIR_LIMIT: usize = 48;

/// One round over all passes; true when something became simpler.
pub(super) fn round<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let passes: [fn(&mut Search<F>) -> bool; 10] = [
        drop_ops,
        drop_interrupts,
        drop_maps,
        drop_pairs,
        rename,
        shrink_maps,
        shrink_ops,
        shrink_interrupts,
        drop_defects,
        simplify_header,
    ];
    let mut simpler = false;
    for pass in passes {
        simpler |= pass(s);
    }
    simpler
}

/// Removes chunks of a list, halves first, then smaller ones, then single items.
fn drop_chunks<F, T>(s: &mut Search<F>, list: fn(&mut Case) -> &mut Vec<T>) -> bool
where
    F: FnMut(&Case) -> bool,
{
    let mut simpler = false;
    let mut size = list(&mut s.best).len().div_ceil(2);
    while size > 0 {
        let mut start = list(&mut s.best).len();
        while start > 0 {
            start = start.saturating_sub(size);
            let end = (start + size).min(list(&mut s.best).len());
            simpler |= drop_range(s, list, start, end);
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    simpler
}

/// Removes one range of a list, alone or together with a lower `nth` of one interruption.
fn drop_range<F, T>(s: &mut Search<F>, list: fn(&mut Case) -> &mut Vec<T>, start: usize, end: usize) -> bool
where
    F: FnMut(&Case) -> bool,
{
    if start >= end {
        return false;
    }
    let mut without = s.best.clone();
    list(&mut without).drain(start..end);
    let interrupts = without.interrupts.clone();
    if s.offer(without.clone()) {
        return true;
    }
    for (i, at) in interrupts.iter().enumerate() {
        for nth in 1..at.nth {
            let mut earlier = without.clone();
            earlier.interrupts[i].nth = nth;
            if s.offer(earlier) {
                return true;
            }
        }
    }
    false
}

fn drop_ops<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    drop_chunks(s, |c| &mut c.ops)
}

fn drop_interrupts<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    drop_chunks(s, |c| &mut c.interrupts)
}

fn drop_maps<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    drop_chunks(s, |c| &mut c.maps)
}

/// Removes two ops that need each other, or an op and the interruption that aims at it.
fn drop_pairs<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    if s.best.ops.len() > PAIR_LIMIT {
        return false;
    }
    let mut simpler = false;
    let mut last = s.best.ops.len();
    while last > 0 {
        last -= 1;
        for first in (0..last).rev() {
            if last < s.best.ops.len() {
                simpler |= s.with(|c| {
                    c.ops.remove(last);
                    c.ops.remove(first);
                });
            }
        }
        for i in (0..s.best.interrupts.len()).rev() {
            if last < s.best.ops.len() {
                simpler |= s.with(|c| {
                    c.ops.remove(last);
                    c.interrupts.remove(i);
                });
            }
        }
    }
    simpler
}

/// Renames a process, a window, a page or a CPU wherever it occurs, to a lower number (which may merge the two).
fn rename<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let mut simpler = false;
    for from in (1..s.best.config.cpus).rev() {
        simpler |= (0..from).any(|to| s.with(|c| rename_cpu(c, from, to)));
    }
    for from in (1..MAX_PROCS as u8).rev() {
        simpler |= (0..from).any(|to| s.with(|c| rename_proc(c, from, to)));
    }
    for from in (1..MAX_REGIONS as u8).rev() {
        simpler |= (0..from).any(|to| s.with(|c| rename_region(c, from, to)));
    }
    let mut pages: Vec<u32> = s.best.ops.iter().map(|o| o.page).chain(s.best.interrupts.iter().map(page_of)).collect();
    pages.sort_unstable();
    pages.dedup();
    for from in pages.into_iter().rev() {
        simpler |= [0, from / 2, from.saturating_sub(1)]
            .into_iter()
            .any(|to| to < from && s.with(|c| rename_page(c, from, to)));
    }
    simpler
}

fn set(value: &mut u8, from: u8, to: u8) {
    if *value == from {
        *value = to;
    }
}

fn rename_cpu(c: &mut Case, from: u8, to: u8) {
    c.ops.iter_mut().for_each(|op| set(&mut op.cpu, from, to));
    for i in &mut c.interrupts {
        set(&mut i.cpu, from, to);
        match &mut i.action {
            Action::Switch { cpu } | Action::TlbFill { cpu, .. } | Action::TlbEvict { cpu, .. } => set(cpu, from, to),
            Action::Device { .. } => {}
        }
    }
    // A CPU that is merged into another cannot preempt it.
    c.interrupts.retain(|i| i.action != Action::Switch { cpu: i.cpu });
}

fn rename_proc(c: &mut Case, from: u8, to: u8) {
    c.maps.iter_mut().for_each(|m| set(&mut m.proc, from, to));
    for op in &mut c.ops {
        set(&mut op.proc, from, to);
        if op.code.shape() == Shape::ProcProc {
            set(&mut op.arg, from, to);
        }
    }
    for i in &mut c.interrupts {
        if let Action::Device { proc, .. } = &mut i.action {
            set(proc, from, to);
        }
    }
}

fn rename_region(c: &mut Case, from: u8, to: u8) {
    c.maps.iter_mut().for_each(|m| set(&mut m.region, from, to));
    c.ops.iter_mut().for_each(|op| set(&mut op.region, from, to));
    for i in &mut c.interrupts {
        match &mut i.action {
            Action::TlbFill { region, .. } | Action::TlbEvict { region, .. } | Action::Device { region, .. } => {
                set(region, from, to);
            }
            Action::Switch { .. } => {}
        }
    }
}

fn page_of(i: &Interrupt) -> u32 {
    match i.action {
        Action::TlbFill { page, .. } | Action::TlbEvict { page, .. } | Action::Device { page, .. } => page,
        Action::Switch { .. } => 0,
    }
}

fn rename_page(c: &mut Case, from: u32, to: u32) {
    c.ops.iter_mut().filter(|op| op.page == from).for_each(|op| op.page = to);
    for i in &mut c.interrupts {
        match &mut i.action {
            Action::TlbFill { page, .. } | Action::TlbEvict { page, .. } | Action::Device { page, .. } => {
                if *page == from {
                    *page = to;
                }
            }
            Action::Switch { .. } => {}
        }
    }
}

/// Smaller numbers to try for one that is above `least`: the least, half way, one less.
fn smaller(value: u32, least: u32) -> impl Iterator<Item = u32> {
    let mut tries = [least, least + value.saturating_sub(least) / 2, value.saturating_sub(1)];
    tries.sort_unstable();
    tries.into_iter().filter(move |t| *t >= least && *t < value)
}

fn shrink_maps<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let mut simpler = false;
    for i in 0..s.best.maps.len() {
        simpler |= smaller(s.best.maps[i].pages, 1).any(|pages| s.with(|c| c.maps[i].pages = pages));
        if s.best.maps[i].perm != Perm::ReadWrite {
            simpler |= s.with(|c| c.maps[i].perm = Perm::ReadWrite);
        }
        if s.best.maps[i].region != 0 {
            simpler |= s.with(|c| c.maps[i].region = 0);
        }
    }
    simpler
}

/// Operands of single ops: fewer pages, lower numbers, plainer protections.
fn shrink_ops<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let mut simpler = false;
    for i in 0..s.best.ops.len() {
        let op = s.best.ops[i];
        simpler |= smaller(op.len, 1).any(|len| s.with(|c| c.ops[i].len = len));
        if op.len > 1 {
            simpler |= s.with(|c| {
                c.ops[i].page = op.page + op.len - 1;
                c.ops[i].len = 1;
            });
        }
        simpler |= smaller(op.page, 0).any(|page| s.with(|c| c.ops[i].page = page));
        for change in [
            |op: &mut Op| op.cpu = 0,
            |op: &mut Op| op.proc = 0,
            |op: &mut Op| op.region = 0,
            |op: &mut Op| op.arg = plain_arg(op),
        ] {
            simpler |= s.with(|c| change(&mut c.ops[i]));
        }
    }
    simpler
}

/// The plainest `arg` of an op: read-write memory, the first child, block 0, `gpu0`.
fn plain_arg(op: &Op) -> u8 {
    match op.code.shape() {
        Shape::Map if op.code == OpCode::Mmap => Perm::ReadWrite as u8,
        Shape::ProcProc if op.arg != 0 => 1,
        Shape::RangeProt | Shape::RangeFlags | Shape::ProcProc => op.arg,
        Shape::RangeTo => Op::arg_to(op.to().0, 0),
        _ => 0,
    }
}

fn shrink_interrupts<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let mut simpler = false;
    for i in 0..s.best.interrupts.len() {
        let nth = s.best.interrupts[i].nth;
        simpler |= (1..nth).any(|n| s.with(|c| c.interrupts[i].nth = n));
        match s.best.interrupts[i].action {
            Action::Device { device, proc, region, page, write } => {
                for action in [
                    Action::Device { device: 0, proc, region, page, write },
                    Action::Device { device, proc, region, page: 0, write },
                    Action::Device { device, proc, region, page, write: false },
                ] {
                    simpler |= s.with(|c| c.interrupts[i].action = action);
                }
            }
            Action::TlbFill { cpu, region, page } if page > 0 => {
                simpler |= s.with(|c| c.interrupts[i].action = Action::TlbFill { cpu, region, page: 0 });
            }
            Action::TlbEvict { cpu, region, page } if page > 0 => {
                simpler |= s.with(|c| c.interrupts[i].action = Action::TlbEvict { cpu, region, page: 0 });
            }
            _ => {}
        }
    }
    simpler
}

/// Switches off the defects that the violation does not need.
fn drop_defects<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    if s.best.config.defects.is_empty() {
        return false;
    }
    let mut simpler = s.with(|c| c.config.defects = Default::default());
    for defect in Defect::ALL {
        if s.best.config.has(defect) {
            simpler |= s.with(|c| c.config.defects = c.config.defects.without(defect));
        }
    }
    simpler
}

/// The plainest machine: x86-64 entries, tiny tables, the release's own designs, as few CPUs as are used.
fn simplify_header<F: FnMut(&Case) -> bool>(s: &mut Search<F>) -> bool {
    let mut simpler = false;
    let config = s.best.config;
    if config.arch != Arch::X86_64 {
        simpler |= s.with(|c| c.config.arch = Arch::X86_64);
    }
    if config.geometry != Geometry::Tiny {
        simpler |= s.with(|c| c.config.geometry = Geometry::Tiny);
    }
    if config.designs != config.kernel.designs() {
        simpler |= s.with(|c| c.config.designs = c.config.kernel.designs());
    }
    simpler |= (1..config.cpus).any(|cpus| s.with(|c| c.config.cpus = cpus));
    simpler
}
