//! From an op of a case to the function of the modelled kernel.

use crate::config::Geometry;
use crate::mm::{Locked, Thp};
use crate::observe::{Observation, Outcome, UffdFlags};
use crate::ops::madvise::{Advice, madvise, madvise_hugepage, madvise_populate, madvise_remove};
use crate::ops::uffd_fill::Fill;
use crate::ops::{
    access, compaction, dmirror, driver, fork, gup, gup_fast, gup_longterm, hotplug, hugetlb, khugepaged, kill_procs,
    ksm, memcg, memory_failure, mincore, mlock, mmap, mprotect, mremap, msync, numa, process, remote, rmap, smaps,
    soft_offline, split, swapoff, task_mmu, truncate, uffd, uffd_fill, uffd_move, uffd_scan, vmscan, writeback,
};
use crate::program::{Actor, Op, OpCode};
use crate::sched::{Cpu, Sim, Site};
use crate::trace::Event;

/// Steps that an op may take: far more than any op needs that makes progress.
pub(super) fn budget(op: &Op, geometry: Geometry) -> u32 {
    let pages = match op.code.actor() {
        Actor::Kernel if matches!(op.code, OpCode::Offline | OpCode::Online | OpCode::Compact) => {
            geometry.block_frames()
        }
        // Whole address spaces: what is mapped is bounded by what there is.
        _ if matches!(
            op.code,
            OpCode::Fork
                | OpCode::Exit
                | OpCode::ExitThread
                | OpCode::ClearRefs
                | OpCode::ClearYoung
                | OpCode::Smaps
                | OpCode::SwapOff
                | OpCode::Attach
                | OpCode::Truncate
                | OpCode::Unplug
                | OpCode::ResetDevice
                | OpCode::UffdClose
                | OpCode::MlockAll
                | OpCode::MunlockAll
        ) =>
        {
            geometry.frames() * 4
        }
        _ => op.len,
    };
    20_000 + pages.saturating_mul(2_000)
}

/// An op begins; what user space or a device asks for is told. False when there is nobody to do it for.
#[inline]
fn begin(s: &mut Sim, cpu: u8, index: u32, op: &Op) -> bool {
    s.log(|| Event::OpStart { op: index, cpu });
    let actor = op.code.actor();
    if actor == Actor::Kernel {
        return true;
    }
    let held = process::mmget(s, cpu, op.proc, actor == Actor::User);
    if held {
        s.observe(Observation::Start { op: index });
    }
    held
}

/// Runs one op to its end, on behalf of a CPU.
pub(super) async fn run_op(k: &Cpu, index: u32, op: Op) {
    let visible = op.code.actor() != Actor::Kernel;
    let held = begin(&mut k.s(), k.id, index, &op);
    k.site(Site::OpStart).await;
    let outcome = if held { call(k, &op).await } else { Outcome::Skipped };
    if visible && held {
        k.s().observe(Observation::End { op: index, outcome });
        if process::mmput_testzero(&mut k.s(), op.proc) {
            process::exit_mmap(k, op.proc).await;
        }
    }
    k.s().log(|| Event::OpEnd { op: index, cpu: k.id, outcome });
}

/// A job of the kernel on each page of a range.
macro_rules! each_page {
    ($range:expr, |$vpn:ident| $job:expr) => {{
        for $vpn in $range {
            $job.await;
        }
        Outcome::Done
    }};
}

/// Where a move goes to.
fn target(op: &Op, geometry: Geometry) -> u32 {
    let (region, page) = op.to();
    geometry.region_base(region) + page
}

/// What the monitor asks of a userfaultfd.
async fn call_uffd(k: &Cpu, op: &Op, start: u32, end: u32) -> Outcome {
    let mm = op.proc;
    let dontwake = op.has_flag("dontwake");
    let fill = |what| uffd_fill::fill(k, mm, start, end, op.page, what, dontwake);
    match op.code {
        OpCode::UffdRegister => uffd::userfaultfd_register(k, mm, start, end, UffdFlags(op.arg)).await,
        OpCode::UffdUnregister => uffd::userfaultfd_unregister(k, mm, start, end).await,
        OpCode::UffdCopy => fill(Fill::Copy { wp: op.has_flag("wp") }).await,
        OpCode::UffdZeropage => fill(Fill::Zeropage).await,
        OpCode::UffdPoison => fill(Fill::Poison).await,
        OpCode::UffdContinue => fill(Fill::Continue { wp: op.has_flag("wp") }).await,
        OpCode::UffdWp => uffd::userfaultfd_writeprotect(k, mm, start, end, true, false).await,
        OpCode::UffdUnwp => uffd::userfaultfd_writeprotect(k, mm, start, end, false, dontwake).await,
        OpCode::PagemapScan => uffd_scan::pagemap_scan(k, mm, start, end).await,
        OpCode::UffdMove => {
            let to = target(op, k.config().geometry);
            uffd_move::userfaultfd_move(k, mm, start, op.len, to).await
        }
        OpCode::UffdWake => uffd::userfaultfd_wake(k, mm, start, end).await,
        _ => uffd::userfaultfd_release(k, mm).await,
    }
}

async fn call(k: &Cpu, op: &Op) -> Outcome {
    let g = k.config().geometry;
    let mm = op.proc;
    let start = g.region_base(op.region) + op.page;
    let end = start + op.len;
    match op.code {
        OpCode::Mmap => mmap::mmap(k, mm, start, end, op.perm(), op.backing()).await,
        OpCode::Munmap => mmap::munmap(k, mm, start, end).await,
        OpCode::Read => access::access_range(k, mm, start, end, false).await,
        OpCode::Write => access::access_range(k, mm, start, end, true).await,
        OpCode::Mprotect => mprotect::mprotect(k, mm, start, end, op.perm()).await,
        OpCode::Dontneed => madvise(k, mm, start, end, Advice::DontNeed).await,
        OpCode::DontneedLocked => madvise(k, mm, start, end, Advice::DontNeedLocked).await,
        OpCode::Pageout => madvise(k, mm, start, end, Advice::PageOut).await,
        OpCode::Free => madvise(k, mm, start, end, Advice::Free).await,
        OpCode::Cold => madvise(k, mm, start, end, Advice::Cold).await,
        OpCode::WillNeed => madvise(k, mm, start, end, Advice::WillNeed).await,
        OpCode::GuardInstall => madvise(k, mm, start, end, Advice::GuardInstall).await,
        OpCode::GuardRemove => madvise(k, mm, start, end, Advice::GuardRemove).await,
        OpCode::PopulateRead => madvise_populate(k, mm, start, end, false).await,
        OpCode::PopulateWrite => madvise_populate(k, mm, start, end, true).await,
        OpCode::Mremap => mremap::mremap(k, mm, start, end, target(op, g), false).await,
        OpCode::MremapDontunmap => mremap::mremap(k, mm, start, end, target(op, g), true).await,
        OpCode::MremapResize if op.to().0 != op.region => Outcome::Invalid,
        OpCode::MremapResize => mremap::mremap_resize(k, mm, start, end, target(op, g)).await,
        OpCode::Fork => fork::fork(k, mm, op.arg).await,
        OpCode::Exit => process::exit(k, mm),
        OpCode::ExitThread => process::exit_thread(k, mm),
        OpCode::Pin => gup::pin(k, mm, start).await,
        OpCode::PinFast => gup_fast::pin_fast(k, mm, start).await,
        OpCode::PinRead => gup_longterm::pin_read(k, mm, start).await,
        OpCode::DmaRead => gup::dma(k, mm, start, false).await,
        OpCode::DmaWrite => gup::dma(k, mm, start, true).await,
        OpCode::Unpin => gup::unpin(k, mm, start).await,
        OpCode::ClearRefs => task_mmu::clear_refs(k, mm).await,
        OpCode::Pagemap => task_mmu::pagemap(k, mm, start, end).await,
        OpCode::UffdWp
        | OpCode::UffdUnwp
        | OpCode::UffdRegister
        | OpCode::UffdUnregister
        | OpCode::UffdCopy
        | OpCode::UffdZeropage
        | OpCode::UffdPoison
        | OpCode::UffdContinue
        | OpCode::UffdMove
        | OpCode::UffdWake
        | OpCode::UffdClose
        | OpCode::PagemapScan => call_uffd(k, op, start, end).await,
        OpCode::ToDevice => dmirror::to_device(k, op.device(), mm, start, end).await,
        OpCode::Exclusive => dmirror::exclusive(k, op.device(), mm, start, end).await,
        OpCode::DevRead => dmirror::access(k, op.device(), mm, start, end, false).await,
        OpCode::DevWrite => dmirror::access(k, op.device(), mm, start, end, true).await,
        OpCode::Snapshot => dmirror::snapshot(k, op.device(), mm, start, end).await,
        OpCode::DevClose => dmirror::close(k, op.device(), mm).await,
        OpCode::Truncate => truncate::truncate(k, op.file(), op.page).await,
        OpCode::Msync => msync::msync(k, mm, start, end).await,
        OpCode::EarlyKill => kill_procs::early_kill(k, mm),
        OpCode::Remove => madvise_remove(k, mm, start, end).await,
        OpCode::Writeback => each_page!(start..end, |vpn| writeback::writeback(k, mm, vpn)),
        OpCode::Offline => hotplug::offline(k, g.normal_blocks() + u32::from(op.arg)).await,
        OpCode::Online => {
            hotplug::online(k, g.normal_blocks() + u32::from(op.arg)).await;
            Outcome::Done
        }
        OpCode::Compact => compaction::compact(k, g.normal_blocks() + u32::from(op.arg)).await,
        OpCode::HwPoison => memory_failure::inject(k, mm, start, end).await,
        OpCode::SoftOffline => soft_offline::soft_offline(k, mm, start, end).await,
        OpCode::MemoryFailure => memory_failure::corrupt_pfn(k, mm, start).await,
        OpCode::Unpoison => memory_failure::unpoison_pfn(k, mm, start).await,
        OpCode::NrHugepages => {
            hugetlb::nr_hugepages(k, op.arg);
            Outcome::Done
        }
        OpCode::SwapOn => swapoff::swapon(k, op.arg),
        OpCode::SwapOff => swapoff::swapoff(k, op.arg).await,
        OpCode::SwapError => swapoff::lose_slot(k, mm, start),
        OpCode::Mergeable => ksm::ksm_madvise(k, mm, start, end, true).await,
        OpCode::Unmergeable => ksm::ksm_madvise(k, mm, start, end, false).await,
        OpCode::Ksm => each_page!(start..end, |vpn| ksm::ksm_scan(k, mm, vpn)),
        OpCode::Attach => memcg::attach(k, mm, op.arg).await,
        OpCode::Reclaim => each_page!(start..end, |vpn| vmscan::reclaim(k, mm, vpn)),
        OpCode::Referenced => each_page!(start..end, |vpn| vmscan::age(k, mm, vpn)),
        OpCode::Migrate => each_page!(start..end, |vpn| hotplug::migrate(k, mm, vpn)),
        OpCode::Hugepage => madvise_hugepage(k, mm, start, end, Thp::Huge).await,
        OpCode::Nohugepage => madvise_hugepage(k, mm, start, end, Thp::Never).await,
        OpCode::Collapse => khugepaged::madvise_collapse(k, mm, start, end).await,
        OpCode::Khugepaged => khugepaged::khugepaged(k, mm, start, end).await,
        OpCode::NumaScan => numa::task_numa_work(k, mm, start, end).await,
        OpCode::PinLongterm => gup_longterm::pin_longterm(k, mm, start).await,
        OpCode::MemRead => remote::access_remote_vm(k, mm, start, false).await,
        OpCode::MemWrite => remote::access_remote_vm(k, mm, start, true).await,
        OpCode::Smaps => smaps::smaps(k, mm).await,
        OpCode::ClearYoung => task_mmu::clear_young(k, mm).await,
        OpCode::Mincore => mincore::mincore(k, mm, start, end).await,
        OpCode::Mlock => mlock::mlock(k, mm, start, end, op.has_flag("onfault")).await,
        OpCode::Munlock => mlock::munlock(k, mm, start, end).await,
        OpCode::MlockAll => mlock::mlockall(k, mm, Locked::Yes).await,
        OpCode::MunlockAll => mlock::mlockall(k, mm, Locked::No).await,
        OpCode::Split => each_page!(start..end, |vpn| split::split(k, mm, vpn)),
        OpCode::Unplug => driver::unplug(k).await,
        OpCode::ResetDevice => driver::reset(k).await,
        OpCode::Relocate => each_page!(start..end, |vpn| driver::relocate(k, mm, vpn)),
        OpCode::Mkclean => each_page!(start..end, |vpn| rmap::mkclean(k, mm, vpn)),
    }
}
