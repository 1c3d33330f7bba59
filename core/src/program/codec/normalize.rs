//! Repair: makes of any case the normalised case that it stands for.
//!
//! Repair wraps rather than clamps (`page % pages`), so that random operands stay evenly spread; it is
//! idempotent, and it leaves alone what is already in range.

use crate::config::{
    Config, Design, DesignGroup, DesignSet, MAX_CPUS, MAX_DEVICES, MAX_PROCS, MAX_REGIONS, MAX_SWAP_DEVICES,
};
use crate::entry::EntryConfig;
use crate::observe::{Backing, FILES, HUGETLBFS};
use crate::phys::MAX_MEMCGS;
use crate::program::case::{Action, Case, Interrupt, MAX_INTERRUPTS, MAX_OPS, Map};
use crate::program::op::{MAX_NR_HUGEPAGES, Op, OpCode, Perm, Shape, TO_PAGES};

/// Most maps a case can have: one for each process and window.
pub const MAX_MAPS: usize = MAX_PROCS * MAX_REGIONS;

/// Brings every number of a case into its range. Afterwards
///
/// - there are 1 to [`MAX_CPUS`] CPUs, and one design of each group (the release's where none was chosen, or where the
///   architecture cannot encode it);
/// - operands that an op's [`Shape`] does not have are zero, ranges lie inside their window and are at least
///   one page long, a child is not its own parent, `arg` names an existing protection, block or device;
/// - interruptions name an existing CPU, `nth` is at least 1, and a switch goes to another CPU (on a machine
///   with one CPU there is none: such interruptions are dropped);
/// - a process maps a window once (the first map counts), hugetlb memory in whole huge pages, of which no more are reserved than there can be;
/// - there are at most [`MAX_OPS`] ops and [`MAX_INTERRUPTS`] interruptions.
pub fn normalize(case: &mut Case) {
    repair_config(&mut case.config);
    let config = case.config;
    repair_maps(&mut case.maps, &config);
    case.ops.truncate(MAX_OPS);
    for op in &mut case.ops {
        repair_op(op, &config);
    }
    case.interrupts.retain_mut(|i| repair_interrupt(i, &config));
    case.interrupts.truncate(MAX_INTERRUPTS);
}

/// True when [`normalize`] would leave the case as it is.
pub fn is_normal(case: &Case) -> bool {
    let mut copy = case.clone();
    normalize(&mut copy);
    copy == *case
}

fn repair_config(config: &mut Config) {
    config.cpus = config.cpus.clamp(1, MAX_CPUS as u8);
    let release = config.kernel.designs();
    if config.designs == release {
        return;
    }
    // The first of each group counts: choosing in reverse order lets it win.
    let chosen = Design::ALL.into_iter().rev().filter(|d| config.designs.contains(*d));
    config.designs = chosen.fold(release, DesignSet::choose);
    if EntryConfig::of(config).check().is_err() {
        // The architecture lacks a bit that one of them needs.
        let special = |d: &Design| d.group() == DesignGroup::UffdWpNote;
        config.designs = release.iter().filter(special).fold(config.designs, DesignSet::choose);
    }
}

/// Wraps the operands of every map and drops all but the first of a process and window.
pub(super) fn repair_maps(maps: &mut Vec<Map>, config: &Config) {
    let mut seen = 0u32;
    let mut promised = [0; 2];
    maps.retain_mut(|m| {
        repair_map(m, config);
        repair_promise(m, config, &mut promised);
        let bit = 1 << (usize::from(m.proc) * MAX_REGIONS + usize::from(m.region));
        let first = seen & bit == 0;
        seen |= bit;
        first
    });
}

fn repair_map(map: &mut Map, config: &Config) {
    map.proc %= MAX_PROCS as u8;
    map.region %= MAX_REGIONS as u8;
    (_, map.pages) = fit(0, map.pages, config);
    if map.backing.hugetlb() {
        map.pages = map.pages.next_multiple_of(config.geometry.ptrs());
    }
}

/// A case begins with no more promises of huge pages than the pool can keep: what is beyond that is not reserved, or is
/// no hugetlb memory.
fn repair_promise(map: &mut Map, config: &Config, promised: &mut [u32; 2]) {
    let pages = map.pages / config.geometry.ptrs();
    // Of the file the pages from its start are promised, whoever maps them.
    let [private, file] = *promised;
    let now = match map.backing {
        Backing::Hugetlb | Backing::HugetlbfsPrivate => [private + pages, file],
        Backing::HugetlbfsShared => [private, pages.max(file)],
        _ => return,
    };
    if now[0] + now[1] <= config.geometry.overcommit_huge_pages() as u32 {
        *promised = now;
    } else {
        map.backing = if map.backing == Backing::Hugetlb { Backing::HugetlbNoreserve } else { Backing::Anon };
    }
}

/// What the operands of an op may be, by its shape. As masks, because a branch on the shape of ops in random
/// order is mispredicted most of the time, and decoding is on the path of every execution.
#[derive(Clone, Copy)]
struct Operands {
    /// All ones when the op has a process.
    proc: u8,
    /// All ones when it has a window.
    region: u8,
    /// All ones when it has a page.
    pages: u32,
    /// All ones when it has a number of pages.
    many: u32,
    /// How many values `arg` has; 0 for the number of memory blocks.
    args: u16,
    /// True when `arg` is a process that must not be the op's own.
    child: bool,
    /// True when `arg` is a place that a range goes to.
    to: bool,
}

const OPERANDS: [Operands; OpCode::ALL.len()] = {
    let mut table = [operands(OpCode::ALL[0]); OpCode::ALL.len()];
    let mut i = 0;
    while i < table.len() {
        table[i] = operands(OpCode::ALL[i]);
        i += 1;
    }
    table
};

const fn operands(code: OpCode) -> Operands {
    let none = Operands { proc: !0, region: 0, pages: 0, many: 0, args: 1, child: false, to: false };
    let range = Operands { region: !0, pages: !0, many: !0, ..none };
    match code.shape() {
        Shape::Proc => none,
        Shape::RangeFlags => Operands { args: 1 << code.flags().len(), ..range },
        Shape::ProcProc => Operands { args: MAX_PROCS as u16, child: true, ..none },
        Shape::Map => Operands { args: (Perm::ALL.len() * Backing::ALL.len()) as u16, ..range },
        Shape::File => Operands { region: 0, many: 0, args: FILES as u16, ..range },
        Shape::RangeProt => Operands { args: Perm::ALL.len() as u16, ..range },
        Shape::Range | Shape::KernelRange => range,
        Shape::Page => Operands { many: 0, ..range },
        Shape::Block => Operands { proc: 0, args: 0, ..none },
        Shape::Swap => Operands { proc: 0, args: MAX_SWAP_DEVICES as u16, ..none },
        Shape::Count => Operands { proc: 0, args: MAX_NR_HUGEPAGES as u16 + 1, ..none },
        Shape::Cgroup => Operands { args: MAX_MEMCGS as u16, ..none },
        Shape::DeviceRange => Operands { args: MAX_DEVICES as u16, ..range },
        Shape::DeviceProc => Operands { args: MAX_DEVICES as u16, ..none },
        Shape::RangeTo => Operands { to: true, ..range },
    }
}

/// Brings one op into range.
#[inline]
pub(in crate::program) fn repair_op(op: &mut Op, config: &Config) {
    let has = &OPERANDS[op.code as usize];
    op.cpu %= config.cpus;
    op.proc &= has.proc & (MAX_PROCS as u8 - 1);
    op.region &= has.region & (MAX_REGIONS as u8 - 1);
    let (page, len) = fit(op.page & has.pages, op.len & has.many, config);
    (op.page, op.len) = (page, len & has.pages);
    if has.to {
        let (region, page) = op.to();
        let room = (config.geometry.region_pages() - op.len + 1).min(TO_PAGES);
        let region = if op.code == OpCode::MremapResize { op.region } else { region };
        op.arg = Op::arg_to(region, page % room);
        return;
    }
    if op.code.shape() == Shape::File && op.file() == HUGETLBFS {
        // Such a file has whole huge pages.
        op.page &= !(config.geometry.ptrs() - 1);
    }
    let args = if has.args == 0 { config.geometry.movable_blocks() } else { u32::from(has.args) };
    op.arg = (u32::from(op.arg) % args) as u8;
    if has.child && op.arg == op.proc {
        op.arg = (op.arg + 1) % MAX_PROCS as u8;
    }
}

const _: () = assert!(MAX_PROCS.is_power_of_two() && MAX_REGIONS.is_power_of_two());

/// Brings one interruption into range; false when it can mean nothing on this machine.
#[inline]
pub(in crate::program) fn repair_interrupt(interrupt: &mut Interrupt, config: &Config) -> bool {
    interrupt.cpu %= config.cpus;
    interrupt.nth = interrupt.nth.max(1);
    let pages = config.geometry.region_pages();
    match &mut interrupt.action {
        Action::Switch { cpu } => {
            *cpu %= config.cpus;
            if *cpu == interrupt.cpu {
                *cpu = (*cpu + 1) % config.cpus;
            }
            config.cpus > 1
        }
        Action::TlbFill { cpu, region, page } | Action::TlbEvict { cpu, region, page } => {
            *cpu %= config.cpus;
            *region %= MAX_REGIONS as u8;
            *page %= pages;
            true
        }
        Action::Device { device, proc, region, page, .. } => {
            *device %= MAX_DEVICES as u8;
            *proc %= MAX_PROCS as u8;
            *region %= MAX_REGIONS as u8;
            *page %= pages;
            true
        }
    }
}

/// A range inside a window: `page` in `0..pages`, `page + len` at most `pages`, `len` at least 1.
#[inline]
fn fit(page: u32, len: u32, config: &Config) -> (u32, u32) {
    // A window has a power of two of pages: the masks are the remainders.
    let pages = config.geometry.region_pages();
    let page = page & (pages - 1);
    let room = pages - page;
    let len = len.max(1);
    (page, if len <= room { len } else { 1 + (len - 1) % room })
}
