//! Which op suits those before it: what uses what they have made, and what has to come first.
//!
//! A state that is worth a bug is mostly the work of a few ops in one order (`mergeable`, `populate-write`, `ksm`, `read`),
//! and ops that are drawn independently of one another hardly ever come in that order. So an op is often one of those that
//! follow the one before it, and an op that can do nothing yet gives way to what it needs. Neither is a rule: most ops
//! are drawn freely, and what is missing here comes all the same, only seldom.

use crate::program::op::Op;
use crate::program::op::OpCode::{self, *};
use crate::program::rng::Rng;

/// What is worth doing next where an op has been, often on another CPU. Empty: anything.
pub(super) fn followers(code: OpCode) -> &'static [OpCode] {
    match code {
        Mmap => &[Write, Read, Hugepage, UffdRegister],
        Read => &[Write, Reclaim, Munmap, Fork, PinRead, UffdRegister, Free, ToDevice],
        Write => {
            &[Pageout, Reclaim, Fork, Free, Pagemap, Migrate, Mremap, PinFast, ClearRefs, Collapse, Remove, Munmap]
        }
        Mprotect => &[Write, Read, Mprotect],
        Fork => &[Write, Read, Exit, PinFast, PopulateWrite, Free, Munmap, UffdMove, Mergeable],
        Exit | ExitThread => &[Reclaim, Read],
        Dontneed | Munmap => &[Read, Write, Truncate, Reclaim, UffdCopy],
        Pageout => &[Read, Write, SwapOff, SwapError, Fork, Pageout, WillNeed, UffdMove, Pagemap],
        Reclaim => &[Read, Read, Write, Fork, Reclaim],
        Migrate | Compact => &[Read, Write, ClearRefs, PagemapScan],
        Referenced | Mkclean | Cold => &[Reclaim, Write],
        Offline => &[Online, Read],
        Online => &[Write, Write, PopulateWrite],
        Pin | PinFast | PinRead => &[DmaWrite, DmaRead, Reclaim, MemoryFailure, Remove, Unpin, Write, Fork],
        DmaWrite => &[Read],
        DmaRead => &[Write],
        ClearRefs => &[Write, Write, Migrate, Pageout],
        PagemapScan => &[Write, Migrate],
        Mergeable => &[PopulateWrite, PopulateWrite, Write],
        PopulateWrite => &[Ksm, Reclaim, Free],
        Ksm => &[Ksm, Ksm, Reclaim, Write, Read, Pagemap, Exclusive, Free, MemoryFailure, Munmap],
        Hugepage => &[Write, Read, Write, PopulateWrite, Khugepaged, NumaScan],
        Collapse | Khugepaged => &[Read, Write, Reclaim, Split],
        Free => &[Reclaim, PinFast, Fork, Ksm],
        GuardInstall => &[Fork, Read, GuardRemove],
        GuardRemove => &[Read, Write],
        Mremap | MremapDontunmap | MremapResize => &[Reclaim, Read, Write, Migrate],
        Exclusive => &[Reclaim, Read, Fork, Write, Mprotect, Munmap, Migrate, Ksm, Mkclean, ClearRefs],
        ToDevice => &[Read, Fork, Mprotect, ClearRefs, Munmap, DevWrite],
        DevRead | DevWrite => &[Read, Write, Mprotect, Reclaim],
        UffdRegister => &[UffdWp, UffdWp, Write, Read, UffdCopy, Fork, UffdMove, Munmap, Dontneed],
        UffdWp => {
            &[Write, Reclaim, Fork, UffdUnwp, Migrate, Dontneed, Mremap, Collapse, UffdRegister, ToDevice, Pageout]
        }
        UffdUnwp | UffdCopy | UffdZeropage | UffdContinue | UffdMove => &[Write, Read, UffdWp],
        HwPoison | MemoryFailure | SoftOffline => &[Offline, Offline, Read, Unpoison, Fork, Dontneed, Ksm],
        SwapOn => &[Write, Pageout, Pageout],
        SwapOff => &[Pagemap, Read],
        SwapError => &[Read, SwapOff, SwapOff],
        Truncate | Remove => &[Read, Write],
        Writeback => &[Write, Msync],
        Attach => &[Write, Attach, Exit],
        Mlock => &[Reclaim, Munlock, Fork, Munmap, Exclusive],
        Munlock => &[Reclaim, Munmap],
        NumaScan => &[Read, Write, PinFast, Fork, Mprotect],
        Unplug | Relocate | ResetDevice => &[Read, Write],
        NrHugepages => &[Write, Mmap],
        _ => &[],
    }
}

/// What must have been done before an op can do anything: one of these. Empty: nothing.
fn needs(code: OpCode) -> &'static [OpCode] {
    match code {
        DmaRead | Unpin => &[PinFast, Pin, PinRead],
        DmaWrite => &[PinFast, Pin],
        UffdWp | UffdUnwp | UffdUnregister | UffdCopy | UffdZeropage | UffdPoison | UffdWake | UffdClose
        | UffdContinue | UffdMove => &[UffdRegister],
        GuardRemove => &[GuardInstall],
        Munlock | MunlockAll => &[Mlock],
        Unpoison => &[MemoryFailure, HwPoison, SoftOffline],
        Online => &[Offline, MemoryFailure],
        SwapError | SwapOff => &[Pageout, Reclaim],
        Ksm | Unmergeable => &[Mergeable],
        Khugepaged | Nohugepage => &[Hugepage],
        _ => &[],
    }
}

/// The op itself and the last one before it that it builds on; or, where there is none and it needs one, mostly such an op.
pub(super) fn supplied<'a>(rng: &mut Rng, code: OpCode, before: &'a [Op]) -> (OpCode, Option<&'a Op>) {
    let needed = needs(code);
    if needed.is_empty() {
        return (code, None);
    }
    let base = before.iter().rev().find(|op| needed.contains(&op.code));
    if base.is_some() || rng.percent(15) {
        return (code, base);
    }
    (rng.pick(needed).unwrap_or(code), None)
}
