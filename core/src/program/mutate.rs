//! Mutation: small changes that know what a case is.
//!
//! [`CaseMutator`] is a mutator of the `mutatis` crate: it lists every change that can be made to a case, each
//! with as many variants as there are places for it, and `mutatis` picks one. Operands are mostly taken from
//! elsewhere in the case, because what finds bugs is several ops on one page. The result is always normalised.

#[cfg(test)]
mod tests;

use crate::arch::Arch;
use crate::config::{Config, Geometry, Kernel, MAX_CPUS};
use crate::observe::Backing;
use crate::program::case::{Case, MAX_FUZZ_INTERRUPTS, MAX_FUZZ_OPS, Map};
use crate::program::codec::{encode_raw_into, from_any, normalize};
use crate::program::family::Family;
use crate::program::generate::{
    Focus, GenConfig, any_machine, generate, generate_action, generate_interrupt, generate_op,
};
use crate::program::op::{Op, Perm, Shape};
use crate::program::rng::Rng;
use mutatis::{Candidates, DefaultMutate, Mutate, Session};

/// What mutation may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MutateConfig {
    /// Machine and kernel of every result. `None`: kernel, architecture and CPUs may change, and designs and
    /// defects follow the fixed model of the kernel when it does.
    pub pin: Option<Config>,
    /// One CPU and no interruptions, whatever `pin` says.
    pub sequential: bool,
    /// Family that new ops mostly come from.
    pub bias: Option<Family>,
}

/// Most ops of a case that [`CaseMutator::generate_bytes`] makes.
const FRESH_OPS: usize = 16;

/// Changes that are made at most in one call of [`CaseMutator::mutate_bytes`].
const MAX_STACK: u32 = 4;

/// One way to change a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    InsertOp,
    DuplicateOp,
    DeleteOp,
    SwapOps,
    ChangeCode,
    ChangeCpu,
    ReusePage,
    ChangePage,
    ChangeArg,
    AddInterrupt,
    MoveInterrupt,
    ChangeAction,
    RemoveInterrupt,
    ChangeMap,
    ChangeMachine,
    // Only these and the removals make a case smaller.
    ShrinkOp,
    ShrinkInterrupt,
    RemoveMap,
    RemoveCpu,
}

impl Mutation {
    const ALL: [Mutation; 19] = [
        Mutation::InsertOp,
        Mutation::DuplicateOp,
        Mutation::DeleteOp,
        Mutation::SwapOps,
        Mutation::ChangeCode,
        Mutation::ChangeCpu,
        Mutation::ReusePage,
        Mutation::ChangePage,
        Mutation::ChangeArg,
        Mutation::AddInterrupt,
        Mutation::MoveInterrupt,
        Mutation::ChangeAction,
        Mutation::RemoveInterrupt,
        Mutation::ChangeMap,
        Mutation::ChangeMachine,
        Mutation::ShrinkOp,
        Mutation::ShrinkInterrupt,
        Mutation::RemoveMap,
        Mutation::RemoveCpu,
    ];

    /// In how many places this can be done to the case; so also how likely it is, relative to the others.
    fn places(self, case: &Case, cfg: &MutateConfig, shrink: bool) -> u32 {
        let (ops, interrupts, maps) = (case.ops.len() as u32, case.interrupts.len() as u32, case.maps.len() as u32);
        let free = cfg.pin.is_none();
        let several = !cfg.sequential && case.config.cpus > 1;
        let when = |possible: bool, places: u32| if possible { places } else { 0 };
        let grow = !shrink && ops < MAX_FUZZ_OPS as u32;
        let interrupt = !shrink && !cfg.sequential && interrupts < MAX_FUZZ_INTERRUPTS as u32;
        match self {
            Mutation::InsertOp => when(grow, ops + 1),
            Mutation::DuplicateOp => when(grow, ops.div_ceil(2)),
            Mutation::DeleteOp => {
                if shrink {
                    ops
                } else {
                    ops.div_ceil(2)
                }
            }
            Mutation::SwapOps => when(!shrink && ops > 1, ops - ops.min(1)),
            Mutation::ChangeCode => when(!shrink, ops),
            Mutation::ChangeCpu => when(!shrink && several, ops),
            Mutation::ReusePage => when(!shrink && ops > 1, ops),
            Mutation::ChangePage => when(!shrink, ops.div_ceil(2)),
            Mutation::ChangeArg => when(!shrink, ops.div_ceil(2)),
            Mutation::AddInterrupt => when(interrupt, 2 + ops / 2),
            Mutation::MoveInterrupt | Mutation::ChangeAction => when(!shrink, interrupts),
            Mutation::RemoveInterrupt => interrupts,
            Mutation::ChangeMap => when(!shrink, 1),
            Mutation::ChangeMachine => when(!shrink && free, 1),
            Mutation::ShrinkOp => when(shrink, case.ops.iter().filter(|op| can_shrink(op)).count() as u32),
            Mutation::ShrinkInterrupt => when(shrink, case.interrupts.iter().filter(|i| i.nth > 1).count() as u32),
            Mutation::RemoveMap => when(shrink, maps),
            Mutation::RemoveCpu => when(shrink && free && case.config.cpus > 1, 1),
        }
    }

    /// Makes the change at one of its places. The caller normalises.
    fn apply(self, case: &mut Case, place: usize, rng: &mut Rng, cfg: &MutateConfig) {
        let cpus = u32::from(case.config.cpus);
        match self {
            Mutation::InsertOp => insert_op(case, place, rng, cfg.bias),
            Mutation::DuplicateOp => duplicate_op(case, rng),
            Mutation::DeleteOp => {
                let at = rng.index(case.ops.len());
                remove(&mut case.ops, at);
            }
            Mutation::SwapOps => case.ops.swap(place, place + 1),
            Mutation::ChangeCode => change_code(case, place, rng, cfg.bias),
            Mutation::ChangeCpu => case.ops[place].cpu += 1 + rng.below(cpus - 1) as u8,
            Mutation::ReusePage => reuse_page(case, place, rng),
            Mutation::ChangePage => change_page(case, rng),
            Mutation::ChangeArg => change_arg(case, rng),
            Mutation::AddInterrupt => {
                let interrupt = generate_interrupt(rng, case);
                let at = rng.index(case.interrupts.len() + 1);
                case.interrupts.insert(at, interrupt);
            }
            Mutation::MoveInterrupt => move_interrupt(case, place, rng),
            Mutation::ChangeAction => {
                let op = case.ops.get(rng.index(case.ops.len())).copied();
                case.interrupts[place].action = generate_action(rng, op.as_ref(), cpus);
            }
            Mutation::RemoveInterrupt => remove(&mut case.interrupts, place),
            Mutation::ChangeMap => change_map(case, rng),
            Mutation::ChangeMachine => change_machine(&mut case.config, rng, cfg),
            Mutation::ShrinkOp => {
                if let Some(op) = case.ops.iter_mut().filter(|op| can_shrink(op)).nth(place) {
                    shrink_op(op, rng);
                }
            }
            Mutation::ShrinkInterrupt => {
                if let Some(i) = case.interrupts.iter_mut().filter(|i| i.nth > 1).nth(place) {
                    i.nth -= 1;
                }
            }
            Mutation::RemoveMap => remove(&mut case.maps, place),
            Mutation::RemoveCpu => case.config.cpus -= 1,
        }
    }
}

fn remove<T>(items: &mut Vec<T>, at: usize) {
    if at < items.len() {
        items.remove(at);
    }
}

fn insert_op(case: &mut Case, at: usize, rng: &mut Rng, bias: Option<Family>) {
    let mut focus = Focus::of(case).widened(rng, bias);
    if let Some(before) = at.checked_sub(1) {
        focus.follow(&case.ops[before]);
    }
    let op = generate_op(rng, case, &mut focus);
    case.ops.insert(at, op);
}

/// Copies an op to elsewhere, mostly onto another CPU.
fn duplicate_op(case: &mut Case, rng: &mut Rng) {
    let Some(mut op) = rng.pick(&case.ops) else { return };
    if rng.percent(75) {
        op.cpu = op.cpu.wrapping_add(1 + rng.below(MAX_CPUS as u32 - 1) as u8);
    }
    let at = rng.index(case.ops.len() + 1);
    case.ops.insert(at, op);
}

/// Another op in the same place.
fn change_code(case: &mut Case, at: usize, rng: &mut Rng, bias: Option<Family>) {
    let mut focus = Focus::of(case).widened(rng, bias);
    let new = generate_op(rng, case, &mut focus);
    let op = &mut case.ops[at];
    *op = Op { code: new.code, arg: new.arg, len: op.len.max(1), ..*op };
}

/// Brings an op to the page, window and process of another one.
fn reuse_page(case: &mut Case, at: usize, rng: &mut Rng) {
    let other = case.ops[rng.index(case.ops.len())];
    let op = &mut case.ops[at];
    match rng.below(4) {
        0 => op.page = other.page,
        1 => op.proc = other.proc,
        2 => (op.region, op.page, op.len) = (other.region, other.page, other.len),
        _ => (op.proc, op.region, op.page) = (other.proc, other.region, other.page),
    }
}

fn change_page(case: &mut Case, rng: &mut Rng) {
    let at = rng.index(case.ops.len());
    let new = generate_op(rng, case, &mut Focus::of(case));
    let op = &mut case.ops[at];
    match rng.below(4) {
        0 => op.page = op.page.wrapping_add(1),
        1 => op.page = op.page.wrapping_sub(1),
        2 => op.len = 1 + rng.below(4),
        _ => (op.region, op.page, op.len) = (new.region, new.page, new.len),
    }
}

fn change_arg(case: &mut Case, rng: &mut Rng) {
    let at = rng.index(case.ops.len());
    let op = &mut case.ops[at];
    if rng.percent(50) { op.arg = op.arg.wrapping_add(1) } else { op.proc = rng.below(3) as u8 }
}

/// Another site, another count or another CPU for the same action.
fn move_interrupt(case: &mut Case, at: usize, rng: &mut Rng) {
    let new = generate_interrupt(rng, case);
    let i = &mut case.interrupts[at];
    match rng.below(4) {
        0 => i.nth = i.nth.saturating_add(1),
        1 => i.nth = i.nth.saturating_sub(1),
        2 => i.cpu = new.cpu,
        _ => i.site = new.site,
    }
}

fn change_map(case: &mut Case, rng: &mut Rng) {
    let pages = 1 + rng.below(Geometry::Tiny.region_pages());
    let perm = if rng.percent(60) { Perm::ReadWrite } else { Perm::from_arg(rng.below(3) as u8) };
    let at = rng.index(case.maps.len());
    let backing = if rng.percent(40) { rng.pick(&Backing::ALL).unwrap_or_default() } else { Backing::Anon };
    match rng.below(5) {
        0 if !case.maps.is_empty() => case.maps[at].pages = pages,
        1 if !case.maps.is_empty() => case.maps[at].perm = perm,
        2 if !case.maps.is_empty() => case.maps[at].backing = backing,
        3 if case.maps.len() > 1 => remove(&mut case.maps, at),
        _ => {
            let (proc, region) = (rng.below(2) as u8, rng.below(3) as u8);
            case.maps.push(Map { proc, region, pages, perm, backing });
        }
    }
}

fn change_machine(config: &mut Config, rng: &mut Rng, cfg: &MutateConfig) {
    match rng.below(3) {
        0 => {
            if let Some(kernel) = rng.pick(&Kernel::ALL) {
                let fixed = Config::fixed(kernel);
                (config.kernel, config.designs, config.defects) = (kernel, fixed.designs, fixed.defects);
            }
        }
        1 => config.arch = if config.arch == Arch::X86_64 { Arch::Arm64 } else { Arch::X86_64 },
        _ if cfg.sequential => {}
        _ => config.cpus = if rng.percent(80) { 1 + rng.below(2) } else { 1 + rng.below(MAX_CPUS as u32) } as u8,
    }
}

fn has_range(op: &Op) -> bool {
    use Shape::{Block, Cgroup, DeviceProc, File, Proc, ProcProc, Swap};
    !matches!(op.code.shape(), Proc | ProcProc | Block | Swap | Cgroup | DeviceProc | File)
}

fn can_shrink(op: &Op) -> bool {
    op.cpu > 0 || (has_range(op) && (op.page > 0 || op.len > 1 || op.region > 0))
}

fn shrink_op(op: &mut Op, rng: &mut Rng) {
    let halve = |n: u32, rng: &mut Rng| if rng.percent(50) { n / 2 } else { n - 1 };
    if op.len > 1 && rng.percent(50) {
        op.len = halve(op.len, rng).max(1);
    } else if op.page > 0 {
        op.page = halve(op.page, rng);
    } else if op.len > 1 {
        op.len -= 1;
    } else if op.region > 0 {
        op.region -= 1;
    } else {
        op.cpu = op.cpu.saturating_sub(1);
    }
}

/// A mutator of cases. It keeps buffers: use one for many mutations.
#[derive(Clone, Debug, Default)]
pub struct CaseMutator {
    cfg: MutateConfig,
    bytes: Vec<u8>,
}

impl CaseMutator {
    /// A mutator that changes only what `cfg` lets it.
    pub fn new(cfg: MutateConfig) -> CaseMutator {
        CaseMutator { cfg, bytes: Vec::new() }
    }

    /// Sets what is pinned, and normalises.
    fn settle(&self, case: &mut Case) {
        if let Some(pin) = self.cfg.pin {
            case.config = pin;
        }
        if self.cfg.sequential {
            case.config.cpus = 1;
            case.interrupts.clear();
        }
        normalize(case);
    }

    /// Changes `data[..size]`, in either layout or as text, into another case in the raw layout, and returns its
    /// length: at most `max_size` and `data.len()`. What does not fit is left out. This is the shape of
    /// libFuzzer's custom mutator.
    pub fn mutate_bytes(&mut self, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
        let mut rng = Rng::new(u64::from(seed));
        let mut case = from_any(&data[..size.min(data.len())]);
        self.settle(&mut case);
        for _ in 0..1 + rng.below(MAX_STACK) {
            run(self, &mut case, &mut rng, size > max_size);
        }
        self.write(&case, data, max_size)
    }

    /// Writes a case that has nothing to do with `data` in its place: one that is generated, of a family chosen at random
    /// where none is asked for. Returns its length, as [`CaseMutator::mutate_bytes`] does.
    ///
    /// A fuzzer that only mutates what it has kept sees what is near to that, however long it runs.
    pub fn generate_bytes(&mut self, data: &mut [u8], max_size: usize, seed: u64) -> usize {
        let mut rng = Rng::new(seed);
        let config = self.cfg.pin.unwrap_or_else(|| any_machine(&mut rng));
        let bias = self.cfg.bias.or_else(|| if rng.percent(60) { rng.pick(&Family::ALL) } else { None });
        let mut case = Case::empty();
        generate(&mut rng, &mut case, &GenConfig { config, max_ops: FRESH_OPS, sequential: self.cfg.sequential, bias });
        self.write(&case, data, max_size)
    }

    /// Writes a case in the raw layout, as far as there is room, and returns its length.
    fn write(&mut self, case: &Case, data: &mut [u8], max_size: usize) -> usize {
        encode_raw_into(case, &mut self.bytes);
        let room = max_size.min(data.len());
        copy_records(&self.bytes, &mut data[..room])
    }
}

impl Mutate<Case> for CaseMutator {
    fn mutate(&mut self, candidates: &mut Candidates<'_>, case: &mut Case) -> mutatis::Result<()> {
        self.settle(case);
        let shrink = candidates.shrink();
        for change in Mutation::ALL {
            let places = change.places(case, &self.cfg, shrink);
            candidates.mutation_group(places, |context, place| {
                let mut rng = Rng::new(context.rng().gen_u64());
                change.apply(case, place as usize, &mut rng, &self.cfg);
                self.settle(case);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl DefaultMutate for Case {
    type DefaultMutate = CaseMutator;
}

/// One change by `mutatis`. Nothing happens when there is nothing to change.
fn run(mutator: &mut CaseMutator, case: &mut Case, rng: &mut Rng, shrink: bool) {
    let mut session = Session::new().seed(rng.next_u64()).shrink(shrink);
    // The only error that the mutator can meet: nothing is left to make smaller.
    let _ = session.mutate_with(mutator, case);
}

/// Makes one change; with `shrink`, one that makes the case simpler. The result is normalised.
pub fn mutate(case: &mut Case, rng: &mut Rng, shrink: bool) {
    run(&mut CaseMutator::default(), case, rng, shrink);
    normalize(case);
}

/// [`CaseMutator::mutate_bytes`] with nothing pinned.
pub fn mutate_bytes(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    CaseMutator::default().mutate_bytes(data, size, max_size, seed)
}

/// A case on the machine of `a`: the beginning of its ops, then the end of those of `b`; some interruptions of
/// both; the maps of both. The result is normalised.
pub fn crossover(a: &Case, b: &Case, rng: &mut Rng) -> Case {
    let mut case = a.clone();
    case.maps.extend_from_slice(&b.maps);
    case.ops.truncate(rng.index(a.ops.len() + 1));
    case.ops.extend_from_slice(&b.ops[rng.index(b.ops.len() + 1)..]);
    case.ops.truncate(MAX_FUZZ_OPS.max(a.ops.len()));
    case.interrupts.extend_from_slice(&b.interrupts);
    case.interrupts.retain(|_| rng.percent(75));
    case.interrupts.truncate(MAX_FUZZ_INTERRUPTS.max(a.interrupts.len()));
    normalize(&mut case);
    case
}

/// [`crossover`] of bytes, in the shape of libFuzzer's custom crossover: the length of what was written to `out`.
pub fn crossover_bytes(a: &[u8], b: &[u8], out: &mut [u8], seed: u32) -> usize {
    let mut rng = Rng::new(u64::from(seed));
    let case = crossover(&from_any(a), &from_any(b), &mut rng);
    let mut bytes = Vec::new();
    encode_raw_into(&case, &mut bytes);
    copy_records(&bytes, out)
}

/// Copies as many whole records as fit; less than the header only where not even that does.
fn copy_records(bytes: &[u8], out: &mut [u8]) -> usize {
    const RECORD: usize = 8;
    let mut n = bytes.len().min(out.len());
    if n > RECORD {
        n -= n % RECORD;
    }
    out[..n].copy_from_slice(&bytes[..n]);
    n
}
