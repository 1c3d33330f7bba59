//! Generation: random cases that are likely to mean something.
//!
//! What finds bugs is several ops on one page. So the domains are small (mostly process `A` and its child,
//! mostly the first window, mostly its first pages and those beside the border between two page tables), and
//! an op mostly stays on the page of the one before it. The op table says how often each op is picked, `chain` what comes
//! well after what, and `interrupt` where somebody else is likely to be in the way.

mod chain;
mod idiom;
mod interrupt;
mod race;

#[cfg(test)]
mod tests;

pub(super) use interrupt::{generate_action, generate_interrupt};

use crate::arch::Arch;
use crate::config::{Config, Kernel, MAX_DEVICES, MAX_PROCS, MAX_REGIONS, MAX_SWAP_DEVICES};
use crate::observe::{Backing, FILES, HUGETLBFS, SHMEM, UffdFlags};
use crate::phys::MAX_MEMCGS;
use crate::program::case::{Case, MAX_FUZZ_INTERRUPTS, MAX_FUZZ_OPS, Map};
use crate::program::codec::normalize;
use crate::program::family::{Family, FamilySet, pick_code};
use crate::program::op::{MAX_NR_HUGEPAGES, Op, OpCode, Perm, Shape, TO_PAGES};
use crate::program::rng::Rng;
use chain::{followers, supplied};

/// Pages that ops mostly name: this many from the start of a window.
const NEAR_PAGES: u32 = 4;

/// What to generate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenConfig {
    /// Machine and kernel. [`generate()`] copies it, save for the CPUs of a sequential case.
    pub config: Config,
    /// Most ops, 1 to [`MAX_FUZZ_OPS`].
    pub max_ops: usize,
    /// One CPU and no interruptions.
    pub sequential: bool,
    /// Family that every case uses, and that its ops mostly come from.
    pub bias: Option<Family>,
}

impl Default for GenConfig {
    /// 16 ops on the fixed model of the newest release.
    fn default() -> Self {
        GenConfig { config: Config::fixed(Kernel::NEWEST), max_ops: 16, sequential: false, bias: None }
    }
}

/// The machine of a case where none is asked for: mostly two CPUs, on any release and architecture, all of it repaired.
pub fn any_machine(rng: &mut Rng) -> Config {
    let kernel = rng.pick(&Kernel::ALL).unwrap_or(Kernel::NEWEST);
    let arch = if rng.percent(25) { Arch::Arm64 } else { Arch::X86_64 };
    let cpus = if rng.percent(70) { 2 } else { 1 + 2 * rng.below(2) as u8 };
    Config { arch, cpus, ..Config::fixed(kernel) }
}

/// Fills `case` with a random case, always normalised. The same state of `rng` gives the same case.
pub fn generate(rng: &mut Rng, case: &mut Case, cfg: &GenConfig) {
    case.config = cfg.config;
    if cfg.sequential {
        case.config.cpus = 1;
    }
    case.maps.clear();
    case.ops.clear();
    case.interrupts.clear();
    let families = FamilySet::swarm(rng, cfg.bias);
    generate_maps(rng, case, families);
    let max = cfg.max_ops.clamp(1, MAX_FUZZ_OPS);
    let n = 1 + rng.index(max);
    let mut focus = Focus::of(case);
    (focus.families, focus.bias) = (families, cfg.bias);
    if families.contains(Family::Thp) && rng.percent(75) {
        make_room_for_huge_pages(rng, case, cfg.bias == Some(Family::Thp));
    }
    if wants_hugetlb(rng, &focus) {
        let ptrs = case.config.geometry.ptrs();
        case.maps[0].backing = rng.pick(&HUGETLB).unwrap_or_default();
        case.maps[0].pages = ptrs * (1 + rng.below(2));
        if rng.percent(35) {
            // Another process has the same.
            case.maps.truncate(1);
            case.maps.push(Map { proc: 1, ..case.maps[0] });
        } else if case.maps.len() > 1 && rng.percent(60) {
            // A second mapping, often of the same file.
            let same = case.maps[0].backing;
            case.maps[1].backing = if rng.percent(60) { same } else { rng.pick(&HUGETLB).unwrap_or_default() };
            case.maps[1].pages = ptrs * (1 + rng.below(2));
        }
    }
    focus.stays = rng.percent(50);
    for _ in 0..[0, 1, 1, 1, 2, 2, 3][rng.index(7)] {
        idiom::add_idiom(rng, case, &mut focus);
    }
    let racing = case.config.cpus > 1 && max > 1 && rng.percent(55);
    if racing {
        let before = before_race(rng, n.saturating_sub(case.ops.len()));
        race::generate_race(rng, case, &mut focus, before);
    }
    let probes = if rng.percent(60) { 1 + rng.index(3) } else { 0 };
    while case.ops.len() + probes < n {
        let op = generate_op(rng, case, &mut focus);
        case.ops.push(op);
    }
    for _ in 0..probes {
        idiom::add_probe(rng, case, &mut focus);
    }
    case.ops.truncate(max);
    if !cfg.sequential && (!racing || rng.percent(30)) {
        for _ in 0..interrupt_count(rng) {
            let interrupt = generate_interrupt(rng, case);
            case.interrupts.push(interrupt);
        }
    }
    case.interrupts.truncate(MAX_FUZZ_INTERRUPTS);
    normalize(case);
}

/// Ops before a race: enough for a state, and mostly few.
fn before_race(rng: &mut Rng, n: usize) -> usize {
    let most = if rng.percent(70) { n.min(3) } else { n };
    rng.index(most)
}

/// Most bugs need none, one or two; now and then a crowd.
fn interrupt_count(rng: &mut Rng) -> u32 {
    match rng.below(10) {
        0..=3 => 0,
        4..=8 => 1 + rng.below(3),
        _ => rng.below(MAX_FUZZ_INTERRUPTS as u32 + 1),
    }
}

fn generate_maps(rng: &mut Rng, case: &mut Case, families: FamilySet) {
    let ptrs = case.config.geometry.ptrs();
    let pages = if rng.percent(70) { NEAR_PAGES + rng.below(5) } else { ptrs + 1 + rng.below(NEAR_PAGES) };
    let file = families.contains(Family::File);
    let watched = families.contains(Family::Uffd) && rng.percent(25);
    let backing = if watched && !file { pick_shmem(rng) } else { pick_backing(rng, families) };
    case.maps.push(Map { proc: 0, region: 0, pages, perm: Perm::ReadWrite, backing });
    if backing != Backing::Anon && rng.percent(45) {
        // Somebody else has the same mapped, so that ops on one page meet.
        let perm = if rng.percent(80) { Perm::ReadWrite } else { Perm::from_arg(rng.below(2) as u8) };
        case.maps.push(Map { proc: 1, region: 0, pages, perm, backing: sibling(rng, backing) });
    } else if rng.percent(if file { 60 } else { 20 }) {
        let perm = if rng.percent(80) { Perm::ReadWrite } else { Perm::from_arg(rng.below(2) as u8) };
        let (proc, region) = (rng.below(2) as u8, 1 + rng.below(MAX_REGIONS as u32 - 1) as u8);
        case.maps.push(Map { proc, region, pages: 1 + rng.below(8), perm, backing: pick_backing(rng, families) });
    }
}

/// Another way to map what a backing shows, or the same.
fn sibling(rng: &mut Rng, backing: Backing) -> Backing {
    let alike = |b: &Backing| b.file().is_some() && b.file() == backing.file();
    let nth = Backing::ALL.into_iter().filter(alike).count();
    let other = Backing::ALL.into_iter().filter(alike).nth(rng.index(nth));
    other.filter(|_| rng.percent(50)).unwrap_or(backing)
}

/// Room for a huge page, or two; now and then of `tmpfs`, which another process maps too.
fn make_room_for_huge_pages(rng: &mut Rng, case: &mut Case, biased: bool) {
    let ptrs = case.config.geometry.ptrs();
    case.maps[0].pages = case.maps[0].pages.max(ptrs * (1 + rng.below(2)));
    if rng.percent(if biased { 25 } else { 10 }) {
        case.maps[0].backing = Backing::ShmemShared;
        if rng.percent(60) {
            case.maps.truncate(1);
            case.maps.push(Map { proc: 1, ..case.maps[0] });
        }
    }
}

/// Backings of hugetlb memory.
const HUGETLB: [Backing; 5] = [
    Backing::Hugetlb,
    Backing::HugetlbNoreserve,
    Backing::HugetlbfsShared,
    Backing::HugetlbfsShared,
    Backing::HugetlbfsPrivate,
];

/// Is the case about hugetlb memory? A few of those that use its family are; all where that is the bias.
fn wants_hugetlb(rng: &mut Rng, focus: &Focus) -> bool {
    let share = if focus.bias == Some(Family::Hugetlb) { 95 } else { 35 };
    focus.families.contains(Family::Hugetlb) && rng.percent(share)
}

/// What a mapping shows: mostly private anonymous memory, unless the case is about files.
fn pick_backing(rng: &mut Rng, families: FamilySet) -> Backing {
    let device = families.contains(Family::Driver) && rng.percent(35);
    let wanted = device || families.contains(Family::File) && rng.percent(75);
    let any = match (wanted, device) {
        (false, _) => None,
        (true, true) => rng.pick(&DEVICES),
        (true, false) => rng.pick(&FILES_MAPPED),
    };
    any.unwrap_or_default()
}

/// Backings by a device.
const DEVICES: [Backing; 5] = [
    Backing::PfnmapShared,
    Backing::PfnmapPrivate,
    Backing::PfnfaultShared,
    Backing::MixedmapShared,
    Backing::MixedmapPrivate,
];

/// Backings by a file with pages.
const FILES_MAPPED: [Backing; 4] =
    [Backing::ShmemShared, Backing::ShmemPrivate, Backing::FileShared, Backing::FilePrivate];

/// A mapping of `tmpfs`.
fn pick_shmem(rng: &mut Rng) -> Backing {
    if rng.percent(50) { Backing::ShmemShared } else { Backing::ShmemPrivate }
}

/// What ops that are generated one after another have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Focus {
    cpu: u8,
    proc: u8,
    region: u8,
    page: u32,
    len: u32,
    /// The op before, where something suits it.
    last: Option<OpCode>,
    /// Processes that probably exist, one bit each.
    live: u8,
    /// Families that ops are taken from.
    families: FamilySet,
    /// The one that they are mostly taken from.
    bias: Option<Family>,
    /// All about one page.
    stays: bool,
}

impl Focus {
    /// After the ops that the case has: their last page, CPU and process.
    pub(super) fn of(case: &Case) -> Focus {
        let families = FamilySet::of(case.ops.iter().map(|op| op.code));
        let mut focus = Focus {
            cpu: 0,
            proc: 0,
            region: 0,
            page: 0,
            len: 1,
            last: None,
            live: 1,
            families,
            bias: None,
            stays: false,
        };
        focus.live |= case.maps.iter().fold(0, |l, m| l | 1 << m.proc);
        case.ops.iter().for_each(|op| focus.follow(op));
        focus
    }

    /// The same, now and then with a family that the case does not use yet, and with `bias`.
    pub(super) fn widened(mut self, rng: &mut Rng, bias: Option<Family>) -> Focus {
        let more = if rng.percent(35) { rng.pick(&Family::ALL) } else { None };
        self.families = more.into_iter().chain(bias).fold(self.families, FamilySet::with);
        self.bias = bias;
        self
    }

    /// Is the op of one of the families?
    fn has(&self, code: OpCode) -> bool {
        self.families.contains(code.family())
    }

    /// After one op more.
    pub(super) fn follow(&mut self, op: &Op) {
        (self.cpu, self.last) = (op.cpu, Some(op.code));
        match op.code.shape() {
            Shape::Proc
            | Shape::Block
            | Shape::Swap
            | Shape::Count
            | Shape::Cgroup
            | Shape::DeviceProc
            | Shape::File => {}
            Shape::ProcProc => self.live |= 1 << (op.arg % MAX_PROCS as u8),
            Shape::RangeTo => (self.proc, (self.region, self.page), self.len) = (op.proc, op.to(), op.len),
            _ => (self.proc, self.region, self.page, self.len) = (op.proc, op.region, op.page, op.len),
        }
        if op.code == OpCode::Exit {
            self.live &= !(1 << op.proc);
        }
    }
}

/// An op that suits those before it, and the focus after it. Normalised.
pub(super) fn generate_op(rng: &mut Rng, case: &Case, focus: &mut Focus) -> Op {
    let config = &case.config;
    let next = if rng.percent(35) { focus.last.and_then(|code| rng.pick(followers(code))) } else { None };
    let code = next.unwrap_or_else(|| pick_code(rng, focus.families, focus.bias));
    let (code, base) = supplied(rng, code, &case.ops);
    if let Some(base) = base.filter(|_| rng.percent(60)) {
        (focus.proc, focus.region, focus.page, focus.len) = (base.proc, base.region, base.page, base.len);
    }
    let mut op = Op::new(code, focus.cpu);
    if rng.percent(45) {
        op.cpu = rng.below(u32::from(config.cpus)) as u8;
    }
    op.proc = pick_proc(rng, focus);
    op.region = match rng.below(40) {
        0 => rng.below(MAX_REGIONS as u32) as u8,
        1..=6 if !focus.stays => 0,
        _ => focus.region,
    };
    op.page = if rng.percent(if focus.stays { 90 } else { 70 }) { focus.page } else { pick_page(rng, config) };
    let follows = next.is_some() || base.is_some();
    op.len = match rng.below(40) {
        0 => 1 + rng.below(config.geometry.ptrs() * 2),
        1..=8 if !focus.stays => 1 + rng.below(NEAR_PAGES),
        1..=3 => 1 + rng.below(NEAR_PAGES),
        9..=16 if follows => focus.len,
        4..=29 if follows && focus.stays => focus.len,
        _ => 1,
    };
    stay_inside(rng, case, &mut op);
    op.arg = pick_arg(rng, op.code, op.proc, case, focus.families);
    if op.code == OpCode::Mmap && rng.percent(60) {
        (op.page, op.len) = (0, NEAR_PAGES + rng.below(5));
    }
    let huge = case.maps.first().is_some_and(|m| m.backing.hugetlb());
    if huge && rng.percent(50) {
        // What cuts a huge page is refused.
        let ptrs = config.geometry.ptrs();
        (op.page, op.len) = (ptrs * rng.below(2), ptrs * (1 + rng.below(2)));
    }
    if op.code == OpCode::Mmap && huge && rng.percent(70) {
        op.arg = Op::map_arg(op.perm(), rng.pick(&HUGETLB).unwrap_or_default());
        (op.page, op.len) = (0, config.geometry.ptrs() * (1 + rng.below(2)));
    }
    let whole = match op.code.family() {
        Family::Thp => 70,
        // What happens to a huge page, or to a page table, as a whole.
        _ if focus.bias == Some(Family::Thp) || op.code.family() == Family::Mremap => 20,
        _ if focus.families.contains(Family::Thp) => 5,
        _ => 0,
    };
    if whole > 0 && rng.percent(whole) {
        let ptrs = config.geometry.ptrs();
        (op.page, op.len) = (0, ptrs * (1 + rng.below(2)));
        stay_inside(rng, case, &mut op);
    }
    if op.code == OpCode::UffdRegister && !huge && rng.percent(50) {
        (op.page, op.len) = (0, NEAR_PAGES + rng.below(NEAR_PAGES));
        stay_inside(rng, case, &mut op);
    }
    if op.code.family() == Family::Ksm && rng.percent(60) {
        // Nothing merges with itself.
        (op.page, op.len) = (0, 2 + rng.below(3));
    }
    if op.code == OpCode::MremapResize {
        // Mostly a few pages longer, or half as long.
        let end = op.page + if rng.percent(65) { op.len + 1 + rng.below(NEAR_PAGES) } else { op.len / 2 };
        op.arg = Op::arg_to(op.region, end.min(TO_PAGES - 1));
    }
    super::codec::repair_op(&mut op, config);
    focus.follow(&op);
    op
}

/// Mostly a range does not reach over the end of what the case has mapped there.
fn stay_inside(rng: &mut Rng, case: &Case, op: &mut Op) {
    let mapped = case.maps.iter().find(|m| m.region == op.region).map(|m| m.pages);
    if let Some(pages) = mapped.filter(|pages| op.page + op.len > *pages)
        && op.code != OpCode::Mmap
        && rng.percent(80)
    {
        op.page %= pages;
        op.len = op.len.min(pages - op.page);
    }
}

fn pick_proc(rng: &mut Rng, focus: &Focus) -> u8 {
    let alive = focus.live & 1 << focus.proc != 0;
    match rng.below(40) {
        0 => rng.below(MAX_PROCS as u32) as u8,
        1..=20 if alive => focus.proc,
        _ => {
            let nth = rng.below(focus.live.count_ones()) as usize;
            (0..MAX_PROCS as u8).filter(|p| focus.live & 1 << p != 0).nth(nth).unwrap_or(0)
        }
    }
}

/// A page near the start of a window or beside the border of two page tables, seldom any page.
fn pick_page(rng: &mut Rng, config: &Config) -> u32 {
    match rng.below(20) {
        0 => rng.below(config.geometry.region_pages()),
        1..=3 => config.geometry.ptrs() - 1 + rng.below(2),
        _ => rng.below(NEAR_PAGES),
    }
}

fn pick_arg(rng: &mut Rng, code: OpCode, proc: u8, case: &Case, families: FamilySet) -> u8 {
    let config = &case.config;
    match code.shape() {
        // Mostly what lets the next ops go on.
        Shape::Map => {
            let perm = if rng.percent(80) { Perm::ReadWrite } else { Perm::from_arg(rng.below(3) as u8) };
            Op::map_arg(perm, pick_backing(rng, families))
        }
        Shape::RangeProt => rng.below(3) as u8,
        Shape::RangeFlags if code == OpCode::UffdRegister => {
            let cached = |b: Backing| matches!(b.file(), Some(SHMEM | HUGETLBFS));
            pick_registration(rng, case.maps.iter().any(|m| cached(m.backing)))
        }
        Shape::RangeFlags if rng.percent(30) => rng.below(1 << code.flags().len()) as u8,
        Shape::ProcProc => {
            if rng.percent(75) {
                proc + 1
            } else {
                rng.below(MAX_PROCS as u32) as u8
            }
        }
        Shape::Swap => rng.below(MAX_SWAP_DEVICES as u32) as u8,
        Shape::Count => rng.below(u32::from(MAX_NR_HUGEPAGES)) as u8,
        Shape::File => match case.maps.first().and_then(|m| m.backing.file()) {
            Some(file) if rng.percent(80) => file,
            _ => rng.below(FILES as u32) as u8,
        },
        Shape::Cgroup => rng.below(MAX_MEMCGS as u32) as u8,
        // Mostly to the same place in another window, so that whole tables can move.
        Shape::RangeTo => {
            let region = rng.below(MAX_REGIONS as u32) as u8;
            let page = if rng.percent(70) { 0 } else { pick_page(rng, config) };
            Op::arg_to(region, page.min(TO_PAGES - 1))
        }
        Shape::Block => rng.below(config.geometry.movable_blocks()) as u8,
        Shape::DeviceRange | Shape::DeviceProc => {
            if rng.percent(75) {
                0
            } else {
                rng.below(MAX_DEVICES as u32) as u8
            }
        }
        _ => 0,
    }
}

/// Modes and features of a userfaultfd: mostly those of one of its uses.
fn pick_registration(rng: &mut Rng, cached: bool) -> u8 {
    let [missing, wp] = [UffdFlags::MISSING.0, UffdFlags::WP.0];
    let [asynchronous, unpopulated] = [UffdFlags::ASYNC.0, UffdFlags::UNPOPULATED.0];
    let events = if rng.percent(25) { UffdFlags::EVENTS.0 } else { 0 };
    events
        ^ match rng.below(19) {
            0..=3 => missing,
            4..=7 => wp,
            8..=9 => wp | missing,
            10..=11 => wp | unpopulated,
            12..=13 => wp | asynchronous | if rng.percent(60) { unpopulated } else { 0 },
            14 => wp | missing | UffdFlags::EVENT_FORK.0,
            15..=17 if cached => {
                UffdFlags::MINOR.0 | if rng.percent(50) { missing } else { 0 } | if rng.percent(30) { wp } else { 0 }
            }
            15..=17 => wp | missing | unpopulated,
            _ => rng.below(1 << UffdFlags::WORDS.len()) as u8,
        }
}
