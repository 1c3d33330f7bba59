//! Races: one op that is interrupted, and what others do to its page meanwhile.
//!
//! Ops and interruptions that are drawn independently of one another seldom meet: the op must come by the site that
//! is named, for the time that is named, and whoever is let in must do something to the same page. So some cases are arranged
//! around one op. It runs on a CPU that has done nothing before, which makes its first passage of a site the first of
//! that CPU; the ops after it belong to another CPU, stay on its page, and are each let in at a site of its own.

use super::idiom::{on_focus, pick_idiom};
use super::interrupt::{COMMON, sites_of};
use super::{Focus, generate_op, stay_inside};
use crate::program::case::{Action, Case, Interrupt};
use crate::program::codec::repair_op;
use crate::program::op::OpCode::{self, *};
use crate::program::op::{Op, Shape};
use crate::program::rng::Rng;
use crate::sched::Site;

/// Adds ops and their interruptions to a case with two CPUs or more: first `before` that make a state, then the op that is
/// interrupted, and those that interrupt it.
pub(super) fn generate_race(rng: &mut Rng, case: &mut Case, focus: &mut Focus, before: usize) {
    let cpus = u32::from(case.config.cpus);
    let slow = rng.below(cpus) as u8;
    let other = |rng: &mut Rng| (slow + 1 + rng.below(cpus - 1) as u8) % cpus as u8;
    for i in 0..case.ops.len() {
        if case.ops[i].cpu == slow {
            case.ops[i].cpu = other(rng);
        }
    }
    for _ in 0..before {
        let cpu = other(rng);
        let op = generate_op(rng, case, focus);
        case.ops.push(Op { cpu, ..op });
    }
    let at = case.ops.len();
    if rng.percent(20) {
        // Where nothing has been yet, in memory that is like that where something has.
        focus.page += 1;
    }
    let scene = Op { proc: focus.proc, region: focus.region, page: focus.page, len: focus.len, ..Op::new(Read, 0) };
    let op = one_of(rng, case, focus, &SLOW);
    let op = Op { cpu: slow, ..meet(rng, case, focus, op, &scene) };
    case.ops.push(op);
    let history = if rng.percent(25) { pick_idiom(rng, focus).1 } else { &[] };
    for nth in 0..history.len().max([1, 1, 1, 2, 2, 3][rng.index(6)]) {
        let cpu = other(rng);
        let racer = match history.get(nth) {
            Some(code) => on_focus(rng, case, focus, *code),
            None => {
                let rivals = rivals(rng, case);
                one_of(rng, case, focus, rivals)
            }
        };
        let racer = meet(rng, case, focus, racer, &op);
        case.ops.push(Op { cpu, ..racer });
        let site = site(rng, case, at);
        case.interrupts.push(Interrupt { cpu: slow, site, nth: passage(rng, site), action: Action::Switch { cpu } });
        if rng.percent(25) {
            // Neither comes to its end before the other goes on.
            let (site, to) = (site_of_racer(rng, case), if rng.percent(70) { slow } else { rng.below(cpus) as u8 });
            let nth = passage(rng, site);
            case.interrupts.push(Interrupt { cpu, site, nth, action: Action::Switch { cpu: to } });
        }
    }
}

/// What takes several steps, between which it holds no lock, or not every lock.
const SLOW: [OpCode; 41] = [
    Read,
    Read,
    Read,
    Write,
    Write,
    Write,
    Fork,
    Munmap,
    Dontneed,
    Mprotect,
    Exit,
    Reclaim,
    Reclaim,
    Pageout,
    Migrate,
    Migrate,
    NumaScan,
    PinFast,
    MemWrite,
    PopulateWrite,
    Free,
    Exclusive,
    ToDevice,
    DevRead,
    DevWrite,
    UffdWp,
    UffdCopy,
    UffdMove,
    PagemapScan,
    Ksm,
    Mremap,
    Truncate,
    Remove,
    Writeback,
    Collapse,
    Split,
    SwapOff,
    Mmap,
    MemoryFailure,
    Offline,
    Mlock,
];

/// What changes an entry under somebody who looks at it.
const RIVALS: [OpCode; 24] = [
    Write, Write, Read, Read, Dontneed, Munmap, Fork, Mprotect, Exit, Reclaim, Reclaim, Pageout, Migrate, Migrate,
    Truncate, Remove, UffdCopy, UffdWp, Exclusive, Mremap, PinFast, Ksm, Writeback, Collapse,
];

const UFFD_RIVALS: [OpCode; 10] =
    [UffdCopy, UffdCopy, UffdWp, UffdWp, UffdZeropage, UffdContinue, UffdUnwp, UffdMove, Dontneed, UffdRegister];
const FILE_RIVALS: [OpCode; 9] = [Truncate, Truncate, Truncate, Remove, Remove, Writeback, Reclaim, Dontneed, Munmap];
const HUGE_RIVALS: [OpCode; 10] =
    [Dontneed, Dontneed, Munmap, Mprotect, Split, Migrate, Collapse, Write, Fork, Truncate];

/// What is likely to be in the way of an op in this case.
fn rivals(rng: &mut Rng, case: &Case) -> &'static [OpCode] {
    let done = |codes: &[OpCode]| case.ops.iter().any(|op| codes.contains(&op.code));
    let file = case.maps.first().is_some_and(|m| m.backing.file().is_some());
    match rng.below(6) {
        0 | 1 if done(&[UffdRegister]) => &UFFD_RIVALS,
        0..=2 if file => &FILE_RIVALS,
        3 | 4 if done(&[Hugepage, Collapse]) => &HUGE_RIVALS,
        _ => &RIVALS,
    }
}

/// One of these ops, if the case has a use for it; else any.
fn one_of(rng: &mut Rng, case: &Case, focus: &mut Focus, codes: &[OpCode]) -> Op {
    let wanted = if rng.percent(70) { (0..4).find_map(|_| rng.pick(codes).filter(|c| focus.has(*c))) } else { None };
    match wanted {
        Some(code) => on_focus(rng, case, focus, code),
        None => generate_op(rng, case, focus),
    }
}

/// The op at the place of another one, mostly.
fn meet(rng: &mut Rng, case: &Case, focus: &mut Focus, mut op: Op, other: &Op) -> Op {
    let named = |op: &Op| {
        use Shape::{Block, Cgroup, Count, DeviceProc, File, Proc, ProcProc, Swap};
        !matches!(op.code.shape(), Proc | ProcProc | Block | Swap | Cgroup | Count | DeviceProc | File)
    };
    if !named(other) || !named(&op) || rng.percent(15) {
        return op;
    }
    if rng.percent(75) {
        op.proc = other.proc;
    }
    let moved = other.code.shape() == Shape::RangeTo && rng.percent(40);
    (op.region, op.page) = if moved { other.to() } else { (other.region, other.page) };
    if rng.percent(50) {
        op.len = other.len;
    }
    stay_inside(rng, case, &mut op);
    repair_op(&mut op, &case.config);
    focus.follow(&op);
    op
}

/// Where the op with this index comes by.
fn site(rng: &mut Rng, case: &Case, at: usize) -> Site {
    let from = match rng.below(20) {
        0 => &Site::ALL[..],
        1..=5 => &COMMON,
        _ => sites_of(rng, case, at),
    };
    rng.pick(from).unwrap_or(Site::Lock)
}

/// Where the last op comes by.
fn site_of_racer(rng: &mut Rng, case: &Case) -> Site {
    site(rng, case, case.ops.len() - 1)
}

/// Which passage of a site: the first, or one soon after it; locks are taken many times.
fn passage(rng: &mut Rng, site: Site) -> u8 {
    let most = match (site, rng.below(10)) {
        (Site::Lock, _) => 12,
        (_, 0..=5) => 1,
        (_, 6..=8) => 3,
        _ => 8,
    };
    1 + rng.below(most) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_op_that_is_interrupted_is_the_first_of_its_cpu_and_others_are_let_in() {
        let mut rng = Rng::new(3);
        for before in (0..5).cycle().take(500) {
            let mut case = Case::empty();
            case.config.cpus = 2 + rng.below(2) as u8;
            let mut focus = Focus::of(&case);
            generate_race(&mut rng, &mut case, &mut focus, before);
            let slow = case.interrupts.first().expect("there is a race").cpu;
            let at = case.ops.iter().position(|op| op.cpu == slow).expect("it has an op");
            assert_eq!(at, before, "ops before it belong to others");
            assert!(case.ops[at + 1..].iter().all(|op| op.cpu != slow) && case.ops.len() > at + 1);
            let lets_in = |i: &&Interrupt| matches!(i.action, Action::Switch { cpu } if cpu != slow);
            let let_in = case.interrupts.iter().filter(|i| i.cpu == slow).filter(lets_in).count();
            assert_eq!(let_in, case.ops.len() - at - 1, "one interruption for each");
        }
    }

    #[test]
    fn ops_of_a_race_mostly_meet_on_one_page() {
        let (mut rng, mut met, mut all) = (Rng::new(4), 0, 0);
        for _ in 0..500 {
            let mut case = Case::empty();
            let mut focus = Focus::of(&case);
            generate_race(&mut rng, &mut case, &mut focus, 0);
            let [op, racer] = [case.ops[0], case.ops[1]];
            if op.len > 0 && racer.len > 0 {
                all += 1;
                met += u32::from((op.region, op.page) == (racer.region, racer.page));
            }
        }
        assert!(all > 200 && met * 10 > all * 6, "{met} of {all}");
    }
}
