//! A driver that mirrors an address space: the shape of `lib/test_hmm.c`, with the sequence check around the
//! programming of exclusive pages that `nouveau_atomic_range_fault()` has and the test driver leaves out.

use super::exclusive::{ExclusiveError, make_device_exclusive};
use super::gup::{Grab, get_user_page};
use super::hmm::{hmm_range_fault, hmm_snapshot};
use super::migrate_device::migrate_to_device;
use crate::config::Defect;
use crate::hw::Mapping;
use crate::observe::{HmmPfn, Observation, Outcome};
use crate::phys::Pfn;
use crate::sched::{Cpu, Lock, Site};
use crate::trace::Note;
use arrayvec::ArrayVec;

/// Tries before the driver gives up with `-EBUSY` (the kernel's driver gives up after a second).
const TRIES: u32 = 8;

/// `dmirror_exclusive()`: makes each page of a range device-exclusive and programs the device, page by page. A
/// range longer than a page table's worth stands for that many calls, as the program of the repair series makes.
pub async fn exclusive(k: &Cpu, device: u8, mm: u8, start: u32, end: u32) -> Outcome {
    open(k, device, mm);
    let outcome = exclusive_range(k, device, mm, start, end).await;
    done(k, device, mm);
    outcome
}

/// The driver's file is opened with the first call, and stays open while a call is at work.
fn open(k: &Cpu, device: u8, mm: u8) {
    let s = &mut *k.s();
    s.mirror_register(device, mm);
    s.w.mirrors[device as usize][mm as usize].users += 1;
}

fn done(k: &Cpu, device: u8, mm: u8) {
    k.s().w.mirrors[device as usize][mm as usize].users -= 1;
}

async fn exclusive_range(k: &Cpu, device: u8, mm: u8, start: u32, end: u32) -> Outcome {
    let mut at = start;
    while at < end {
        let next = k.pmd_addr_end(at, end);
        k.lock(Lock::MmapRead(mm)).await;
        let mut result = Ok(());
        for vpn in at..next {
            result = exclusive_page(k, device, mm, vpn).await;
            if result.is_err() {
                break;
            }
        }
        k.unlock(Lock::MmapRead(mm));
        match result {
            Ok(()) => at = next,
            Err(ExclusiveError::Busy) => return Outcome::Busy,
            Err(ExclusiveError::NotSupported) => return Outcome::Invalid,
            Err(ExclusiveError::Gup(e)) => return e.outcome(),
        }
    }
    Outcome::Done
}

async fn exclusive_page(k: &Cpu, device: u8, mm: u8, vpn: u32) -> Result<(), ExclusiveError> {
    for _ in 0..TRIES {
        let seq = k.mmu_interval_read_begin(device, mm).await;
        let page = make_device_exclusive(k, mm, vpn, device).await?;
        let folio = k.page_folio(page);
        let unlocked_early = k.has(Defect::S12);
        if unlocked_early {
            k.folio_unlock(folio);
        }
        let programmed = dmirror_atomic_map(k, device, mm, vpn, page, seq).await;
        // Once the device is programmed, whoever takes the page back finds it in the device's table.
        if !unlocked_early {
            k.folio_unlock(folio);
        }
        k.folio_put(folio);
        if programmed {
            return Ok(());
        }
        k.note(Note::NotifierRetry, Some(folio), 0, 0);
        // The entry is device-exclusive now, and the next GUP would take that back first: an event that moves the
        // sequence once more, for ever. So the page is taken back before the sequence is read again.
        let (page, _) = get_user_page(k, mm, vpn, Grab::Get).await.map_err(ExclusiveError::Gup)?;
        k.folio_put(k.page_folio(page));
    }
    Err(ExclusiveError::Busy)
}

/// `dmirror_atomic_map()`, unless the interval was invalidated since `seq`.
async fn dmirror_atomic_map(k: &Cpu, device: u8, mm: u8, vpn: u32, page: Pfn, seq: u32) -> bool {
    k.site(Site::ExclusiveProgram).await;
    k.lock(Lock::Mirror(device, mm)).await;
    let valid = !k.mmu_interval_read_retry(device, mm, seq) || k.has(Defect::S12);
    if valid {
        let mapping = Mapping { pfn: page, write: true, exclusive: true, written: false };
        k.s().mirror_program(k.id, device, mm, vpn, mapping);
    }
    k.unlock(Lock::Mirror(device, mm));
    valid
}

/// `dmirror_migrate_to_device()`: moves each page of a range into the device's own memory, as far as that is possible
/// now.
pub async fn to_device(k: &Cpu, device: u8, mm: u8, start: u32, end: u32) -> Outcome {
    open(k, device, mm);
    let mut outcome = Outcome::Done;
    for vpn in start..end {
        k.lock(Lock::MmapRead(mm)).await;
        let result = migrate_to_device(k, device, mm, vpn).await;
        k.unlock(Lock::MmapRead(mm));
        if let Err(error) = result {
            outcome = error;
            break;
        }
    }
    done(k, device, mm);
    outcome
}

/// `dmirror_read()` and `dmirror_write()`: the device accesses each page through its table, faulting it in when it
/// is not there.
pub async fn access(k: &Cpu, device: u8, mm: u8, start: u32, end: u32, write: bool) -> Outcome {
    open(k, device, mm);
    let outcome = access_range(k, device, mm, start, end, write).await;
    done(k, device, mm);
    outcome
}

async fn access_range(k: &Cpu, device: u8, mm: u8, start: u32, end: u32, write: bool) -> Outcome {
    for vpn in start..end {
        let mut tries = 0;
        loop {
            if device_access(k, device, mm, vpn, write).await {
                break;
            }
            tries += 1;
            if tries > TRIES {
                return Outcome::Busy;
            }
            match dmirror_fault(k, device, mm, vpn, write).await {
                Ok(()) => {}
                Err(outcome) => return outcome,
            }
        }
    }
    Outcome::Done
}

/// `dmirror_do_read()` and `dmirror_do_write()` of one page, under the driver's mutex.
async fn device_access(k: &Cpu, device: u8, mm: u8, vpn: u32, write: bool) -> bool {
    k.site(Site::DeviceAccess).await;
    k.lock(Lock::Mirror(device, mm)).await;
    let op = k.op();
    let done = k.s().device_access(op, device, mm, vpn, write);
    k.unlock(Lock::Mirror(device, mm));
    done
}

/// `dmirror_fault()` and `dmirror_range_fault()`.
async fn dmirror_fault(k: &Cpu, device: u8, mm: u8, vpn: u32, write: bool) -> Result<(), Outcome> {
    for _ in 0..TRIES {
        let seq = k.mmu_interval_read_begin(device, mm).await;
        k.lock(Lock::MmapRead(mm)).await;
        let walked = hmm_range_fault(k, device, mm, vpn, write).await;
        k.unlock(Lock::MmapRead(mm));
        let Some(mapping) = walked? else { continue };
        k.site(Site::HmmProgram).await;
        k.lock(Lock::Mirror(device, mm)).await;
        let valid = !k.mmu_interval_read_retry(device, mm, seq) || k.has(Defect::S15);
        if valid {
            k.s().mirror_program(k.id, device, mm, vpn, mapping);
        }
        k.unlock(Lock::Mirror(device, mm));
        if valid {
            return Ok(());
        }
        k.note(Note::NotifierRetry, None, 0, 0);
    }
    Err(Outcome::Busy)
}

/// Pages that `dmirror_snapshot()` asks for at a time.
const SNAPSHOT_PAGES: usize = 64;

/// `dmirror_snapshot()`: tells user space what the device would find at each page, without faulting anything in. (Its
/// notifier of its own is the device's here.)
pub async fn snapshot(k: &Cpu, device: u8, mm: u8, start: u32, end: u32) -> Outcome {
    open(k, device, mm);
    let mut outcome = Outcome::Done;
    let mut at = start;
    while at < end && outcome == Outcome::Done {
        let next = (at + SNAPSHOT_PAGES as u32).min(end);
        outcome = dmirror_range_snapshot(k, device, mm, at, next).await;
        at = next;
    }
    done(k, device, mm);
    outcome
}

/// `dmirror_range_snapshot()`.
async fn dmirror_range_snapshot(k: &Cpu, device: u8, mm: u8, start: u32, end: u32) -> Outcome {
    for _ in 0..TRIES {
        let seq = k.mmu_interval_read_begin(device, mm).await;
        let mut pfns: ArrayVec<HmmPfn, SNAPSHOT_PAGES> = ArrayVec::new();
        k.lock(Lock::MmapRead(mm)).await;
        for vpn in start..end {
            pfns.push(hmm_snapshot(k, device, mm, vpn).await);
        }
        k.unlock(Lock::MmapRead(mm));
        k.site(Site::HmmProgram).await;
        k.lock(Lock::Mirror(device, mm)).await;
        let valid = !k.mmu_interval_read_retry(device, mm, seq) || k.has(Defect::S15);
        if valid {
            let op = k.op();
            let s = &mut *k.s();
            for (vpn, seen) in (start..end).zip(pfns) {
                s.observe(Observation::Snapshot { op, proc: mm, vpn, device, seen });
            }
        }
        k.unlock(Lock::Mirror(device, mm));
        if valid {
            return Outcome::Done;
        }
        k.note(Note::NotifierRetry, None, 0, 0);
    }
    Outcome::Busy
}

/// `dmirror_fops_release()`: the device forgets the process. Calls of the driver hold its file: while one is at work, the file
/// stays open (`-EBUSY` here; nothing is released in the kernel), be it one that began while this waited.
pub async fn close(k: &Cpu, device: u8, mm: u8) -> Outcome {
    let state = |k: &Cpu| {
        let s = k.s();
        let m = &s.w.mirrors[device as usize][mm as usize];
        (m.registered, m.users != 0)
    };
    match state(k) {
        (_, true) => return Outcome::Busy,
        (false, _) => return Outcome::Done,
        _ => {}
    }
    k.lock(Lock::Mirror(device, mm)).await;
    let (_, busy) = state(k);
    if !busy {
        k.s().mirror_unregister(device, mm);
    }
    k.unlock(Lock::Mirror(device, mm));
    if busy { Outcome::Busy } else { Outcome::Done }
}
