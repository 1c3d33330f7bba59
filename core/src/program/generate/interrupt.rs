//! Interruptions of generated cases: at sites that the interrupted op is likely to come to.
//!
//! An interruption names a CPU, a site and how often that CPU has come there *in the case*, and lets another CPU do one op.
//! So three things must fit: the op has to come by that site, as many times as it is named, and somebody else must have an
//! op left. Drawn blindly, one in thirteen takes place.

use super::NEAR_PAGES;
use crate::config::MAX_DEVICES;
use crate::observe::UffdFlags;
use crate::program::case::{Action, Case, Interrupt};
use crate::program::family::Family;
use crate::program::op::{Op, OpCode, Shape};
use crate::program::rng::Rng;
use crate::sched::Site::{self, *};

/// Sites that most ops come to.
pub(super) const COMMON: [Site; 8] = [Lock, Lock, Lock, PteClear, PteSet, TlbFlush, NotifierStart, FaultEntry];
/// Sites of ops on huge pages and page tables as a whole.
const HUGE: [Site; 8] =
    [PmdSet, PmdClear, PmdInvalidate, PmdPopulate, HugeZap, HugeZapCleared, SplitUnmap, SplitFreeze];
const FAULT: [Site; 16] = [
    Access,
    FaultEntry,
    AnonFaultAlloc,
    AnonFaultSet,
    WpCopy,
    WpCopied,
    WpReuse,
    SwapInLookup,
    SwapInRead,
    SwapInDirect,
    SwapInSet,
    MigrationWait,
    RestoreExclusive,
    RemoveExclusive,
    ToRam,
    HugeFault,
];
const FIRST_FAULT: [Site; 4] = [Access, FaultEntry, AnonFaultAlloc, AnonFaultSet];
const COW: [Site; 4] = [WpCopy, WpCopy, WpCopied, WpReuse];
const SWAP_IN: [Site; 5] = [SwapInLookup, SwapInRead, SwapInDirect, SwapInSet, ShmemSwapIn];
const RESTORE: [Site; 3] = [RestoreExclusive, RemoveExclusive, NotifierStart];
const BACK_TO_RAM: [Site; 4] = [ToRam, VmaCollect, VmaCopy, VmaFinalize];
const HUGE_FAULT: [Site; 4] = [HugeFault, PmdSet, WpCopy, PmdPopulate];
const FILE_FAULT: [Site; 9] =
    [CacheLookup, CacheAdd, FileRead, FaultAround, FinishFault, PageMkwrite, ShmemSwapIn, WpCopy, WpCopied];
const DRIVER_FAULT: [Site; 2] = [InsertPfn, DriverFault];
const USERFAULT: [Site; 4] = [UserfaultQueue, UserfaultMustWait, UserfaultQueue, UserfaultMustWait];
const GUP: [Site; 2] = [PinLookup, PinLookup];
const GUP_FAST: [Site; 3] = [GupFastGrab, GupFastCheck, GupFastPud];
const ZAP: [Site; 4] = [ZapCleared, GatherFlush, PteClear, NotifierEnd];
const FORK: [Site; 4] = [ForkCopy, ForkFlush, PteSet, RestoreExclusive];
const PROTECT: [Site; 3] = [ProtectChange, ProtectFlush, PteClear];
const RMAP: [Site; 2] = [RmapWalk, PvmwLock];
const RECLAIM: [Site; 9] = [
    MadvisePageout,
    ReclaimIsolate,
    ReferencedEntry,
    UnmapCleared,
    SwapOutAdd,
    SwapOutWrite,
    SwapOutFree,
    ShmemSwapOut,
    DeferredSplit,
];
const MIGRATE: [Site; 4] = [MigrateUnmap, MigrateCleared, MigrateCopy, MigrateRestore];
const OFFLINE: [Site; 4] = [OfflinePass, OfflineIsolate, CompactIsolate, CompactFree];
const EXCLUSIVE: [Site; 5] = [ExclusiveGup, ExclusiveLock, ExclusiveConvert, ExclusiveProgram, NotifierEnd];
const MIRROR: [Site; 3] = [HmmFault, HmmProgram, DeviceAccess];
const TO_DEVICE: [Site; 3] = [VmaCollect, VmaCopy, VmaFinalize];
const TRACK: [Site; 2] = [ClearRefs, ReferencedEntry];
const POISON: [Site; 2] = [PoisonFlag, UnmapCleared];
const KSM: [Site; 2] = [KsmProtect, KsmReplace];
const CUT: [Site; 6] = [TruncateSize, TruncateUnmap, TruncateFolio, TruncateZero, CacheRemove, HugetlbRemove];
const WRITEBACK: [Site; 3] = [WritebackClean, WritebackIo, Mkclean];
const COLLAPSE: [Site; 5] = [CollapseScan, CollapseLock, CollapseIsolate, CollapseCopy, RetractTable];
const MREMAP: [Site; 3] = [MremapMove, MremapMovePmd, MremapFlush];
const MONITOR: [Site; 4] = [UserfaultFill, UserfaultWake, UserfaultMove, UserfaultRelease];
const HUGETLB: [Site; 4] = [HugetlbAlloc, PmdShare, PmdUnshare, HugetlbUnmap];

/// Sites of an op's own, in groups of which each is as likely as the others.
fn own_sites(code: OpCode) -> &'static [&'static [Site]] {
    match code {
        OpCode::Read | OpCode::Write | OpCode::PopulateRead | OpCode::PopulateWrite => {
            &[&FAULT, &FAULT, &FILE_FAULT, &USERFAULT, &DRIVER_FAULT]
        }
        OpCode::PinLongterm | OpCode::MemRead | OpCode::MemWrite => &[&GUP, &FAULT, &FILE_FAULT],
        OpCode::Pin | OpCode::PinRead | OpCode::Mlock | OpCode::MlockAll => &[&GUP, &FAULT, &FILE_FAULT],
        OpCode::PinFast => &[&GUP_FAST, &GUP_FAST, &FAULT],
        OpCode::Mmap => &[&ZAP, &[RemapPfn]],
        OpCode::Munmap | OpCode::Dontneed | OpCode::DontneedLocked | OpCode::MremapResize => &[&ZAP],
        OpCode::Exit | OpCode::ExitThread => &[&ZAP, &[ExitMmap]],
        OpCode::Fork => &[&FORK],
        OpCode::Mprotect | OpCode::NumaScan | OpCode::UffdWp => &[&PROTECT],
        OpCode::PagemapScan => &[&PROTECT],
        OpCode::UffdUnwp | OpCode::UffdUnregister => &[&PROTECT, &MONITOR],
        OpCode::Pageout | OpCode::Reclaim | OpCode::Cold => &[&RECLAIM, &RECLAIM, &RMAP],
        OpCode::Referenced => &[&RMAP, &[ReferencedEntry]],
        OpCode::Mkclean => &[&RMAP, &[Mkclean]],
        OpCode::Migrate | OpCode::SoftOffline => &[&MIGRATE, &MIGRATE, &RMAP],
        OpCode::Offline | OpCode::Compact => &[&OFFLINE, &MIGRATE, &RMAP],
        OpCode::Exclusive => &[&EXCLUSIVE, &EXCLUSIVE, &FAULT],
        OpCode::DevRead | OpCode::DevWrite | OpCode::Snapshot => &[&MIRROR, &FAULT],
        OpCode::ToDevice => &[&TO_DEVICE, &MIGRATE],
        OpCode::ClearRefs | OpCode::ClearYoung => &[&TRACK],
        OpCode::HwPoison | OpCode::MemoryFailure => &[&POISON, &RMAP],
        OpCode::SwapOff => &[&[SwapOffRound], &[SwapInRead]],
        OpCode::Ksm => &[&KSM],
        OpCode::Truncate | OpCode::Remove => &[&CUT, &CUT, &ZAP],
        OpCode::Writeback | OpCode::Msync => &[&WRITEBACK],
        OpCode::Attach => &[&[MoveCharge]],
        OpCode::Split => &[&HUGE, &MIGRATE],
        OpCode::Collapse | OpCode::Khugepaged => &[&COLLAPSE, &HUGE],
        OpCode::Free => &[&[MadviseFree], &ZAP],
        OpCode::GuardInstall => &[&[Site::GuardInstall], &ZAP],
        OpCode::Mremap | OpCode::MremapDontunmap => &[&MREMAP, &ZAP],
        OpCode::DmaRead | OpCode::DmaWrite => &[&[Dma]],
        OpCode::UffdCopy | OpCode::UffdZeropage | OpCode::UffdContinue | OpCode::UffdPoison => &[&MONITOR],
        OpCode::UffdMove | OpCode::UffdWake | OpCode::UffdClose => &[&MONITOR],
        OpCode::Unplug | OpCode::ResetDevice | OpCode::Relocate => &[&[DriverMove], &[TruncateUnmap], &ZAP],
        OpCode::Munlock | OpCode::MunlockAll => &[&[MlockEntry]],
        _ => &[&COMMON],
    }
}

/// Sites of the op with this index: of one that faults pages in, those of a fault that suits what was done before.
pub(super) fn sites_of(rng: &mut Rng, case: &Case, at: usize) -> &'static [Site] {
    let Some(op) = case.ops.get(at) else { return &COMMON };
    if rng.percent(35) && case.ops[..at].iter().any(|op| op.code.family() == Family::Thp) {
        return &HUGE;
    }
    let own = rng.pick(own_sites(op.code)).unwrap_or(&COMMON);
    if !own_sites(op.code).iter().any(|sites| sites.as_ptr() == FAULT.as_ptr()) || rng.percent(40) {
        return own;
    }
    let map = case.maps.iter().find(|m| m.region == op.region).map(|m| m.backing).unwrap_or_default();
    let before = case.ops[..at].len().saturating_sub(4);
    match rng.pick(&case.ops[before..at]).map(|op| op.code) {
        Some(OpCode::Pageout | OpCode::Reclaim | OpCode::SwapOn | OpCode::WillNeed) => &SWAP_IN,
        Some(OpCode::UffdRegister | OpCode::UffdWp) => &USERFAULT,
        Some(OpCode::Exclusive) => &RESTORE,
        Some(OpCode::ToDevice) => &BACK_TO_RAM,
        Some(OpCode::Hugepage | OpCode::Collapse | OpCode::Khugepaged) => &HUGE_FAULT,
        _ if map.hugetlb() => &HUGETLB,
        _ if map.file().is_some() => &FILE_FAULT,
        Some(OpCode::Fork | OpCode::Ksm) => &COW,
        Some(_) => own,
        None => &FIRST_FAULT,
    }
}

/// Where an op is likely to come by.
fn pick_site(rng: &mut Rng, case: &Case, code: OpCode) -> Site {
    // What happens while a monitor has not heard of a change.
    if tells(code) && rng.percent(25) && case.ops.iter().any(registers_events) {
        return UserfaultEvent;
    }
    let from: &[Site] = match rng.below(20) {
        0 => &Site::ALL,
        1..=7 => &COMMON,
        8..=10 if case.ops.iter().any(|op| op.code.family() == Family::Thp) => &HUGE,
        8..=9 if case.maps.iter().any(|m| m.backing.hugetlb()) => &HUGETLB,
        _ => rng.pick(own_sites(code)).unwrap_or(&COMMON),
    };
    rng.pick(from).unwrap_or(OpStart)
}

/// Changes that a monitor of userfaultfd may have to hear of.
fn tells(code: OpCode) -> bool {
    use OpCode::{Dontneed, DontneedLocked, Fork, Free, Mmap, Mremap, MremapDontunmap, Munmap, Remove};
    matches!(code, Fork | Munmap | Mmap | Mremap | MremapDontunmap | Dontneed | DontneedLocked | Free | Remove)
}

fn registers_events(op: &Op) -> bool {
    op.code == OpCode::UffdRegister && op.arg & (UffdFlags::EVENTS.0 | UffdFlags::EVENT_FORK.0) != 0
}

/// About how often a CPU comes to a site in one op of any kind.
fn passages(site: Site) -> u32 {
    match site {
        Lock => 4,
        OpStart | Access | PteSet => 1,
        _ => 0,
    }
}

/// An interruption of some CPU that touches a page which the ops use. Not yet normalised.
pub(in crate::program) fn generate_interrupt(rng: &mut Rng, case: &Case) -> Interrupt {
    let cpus = u32::from(case.config.cpus.max(1));
    let mut at = rng.index(case.ops.len());
    if cpus > 1 && at + 1 == case.ops.len() {
        // Nobody is left to come between.
        at = rng.index(case.ops.len());
    }
    let Some(op) = case.ops.get(at) else {
        return Interrupt { cpu: 0, site: OpStart, nth: 1, action: generate_action(rng, None, cpus) };
    };
    let site = pick_site(rng, case, op.code);
    let before = case.ops[..at].iter().filter(|o| o.cpu == op.cpu);
    let counted = if passages(site) > 0 {
        // It has been there in every op before.
        let all = before.count() as u32 * passages(site);
        all / 2 + rng.below(all / 2 + 2 * passages(site))
    } else {
        let alike = before.filter(|o| o.code == op.code).count() as u32;
        if rng.percent(65) { alike } else { rng.below(alike + 4) }
    };
    let nth = 1 + counted.min(250) as u8;
    Interrupt { cpu: op.cpu, site, nth, action: generate_action(rng, Some(op), cpus) }
}

/// An action that is likely to be in the way of `op`.
pub(in crate::program) fn generate_action(rng: &mut Rng, op: Option<&Op>, cpus: u32) -> Action {
    let (proc, region, page) = op.map_or((0, 0, 0), |op| {
        let moves = op.code.shape() == Shape::RangeTo && rng.percent(50);
        let (region, page) = if moves { op.to() } else { (op.region, op.page) };
        (op.proc, region, page)
    });
    let page = page + if rng.percent(80) { 0 } else { rng.below(NEAR_PAGES) };
    let cpu = rng.below(cpus) as u8;
    let kind = if cpus > 1 { rng.below(20) } else { 12 + rng.below(8) };
    match kind {
        0..=13 if cpus > 1 => Action::Switch { cpu },
        0..=15 => Action::TlbFill { cpu, region, page },
        16 => Action::TlbEvict { cpu, region, page },
        _ => {
            let device = if rng.percent(75) { 0 } else { rng.below(MAX_DEVICES as u32) as u8 };
            Action::Device { device, proc, region, page, write: rng.percent(60) }
        }
    }
}
