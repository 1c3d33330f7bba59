//! `kernel/fork.c`, `kernel/exit.c`, `mm/mmap.c: exit_mmap()`: address spaces that begin and end.

use super::gup::unpin_all;
use super::huge_zero::mm_put_huge_zero_folio;
use super::hugetlb::hugetlb_vm_op_close;
use super::ksm::ksm_exit;
use super::mmap::nth_vma;
use super::zap::{MmuGather, unlink_anon_vmas, unlink_file_vma, unmap_single_vma};
use crate::config::{Defect, MAX_CPUS, MAX_DEVICES};
use crate::mm::{Life, PT_PFN_BASE, TableId, VmaId};
use crate::observe::{Observation, Outcome};
use crate::rule::{Evidence, Rule};
use crate::sched::{Cpu, Lock, Sim, Site};

/// `mm_alloc()`: an empty address space.
pub fn mm_alloc(s: &mut Sim, mm: u8, life: Life) {
    let pgd = s.w.tables.alloc(mm, 3);
    let m = &mut s.w.mms[mm as usize];
    m.reset();
    (m.life, m.pgd) = (life, pgd);
}

/// An op of a process begins: it uses the address space, which is loaded into the CPU. False when there is none.
#[inline]
pub fn mmget(s: &mut Sim, cpu: u8, mm: u8, load: bool) -> bool {
    if s.w.mms[mm as usize].life != Life::Alive || load && s.w.mms[mm as usize].exited & (1 << cpu) != 0 {
        return false;
    }
    s.w.mms[mm as usize].users += 1;
    if load {
        s.switch_mm(cpu, Some(mm));
    }
    true
}

/// The first half of `mmput()`: the op is over. True for the last user of a process that has ended, who takes the address
/// space down ([`exit_mmap`]).
#[inline]
pub fn mmput_testzero(s: &mut Sim, mm: u8) -> bool {
    let m = &mut s.w.mms[mm as usize];
    m.users -= 1;
    m.users == 0 && m.life == Life::Exiting
}

/// `mmput()`: the last user of a process that has ended takes the address space down.
pub async fn mmput(k: &Cpu, mm: u8) {
    let last = mmput_testzero(&mut k.s(), mm);
    if last {
        exit_mmap(k, mm).await;
    }
}

/// `exit_group(2)`: all threads end. Those in the middle of a system call finish it first.
pub fn exit(k: &Cpu, mm: u8) -> Outcome {
    let s = &mut *k.s();
    s.w.mms[mm as usize].life = Life::Exiting;
    // zap_other_threads(): those who sleep killably wake up and die.
    s.wake_userfaults(mm, |_| true);
    Outcome::Done
}

/// `exit(2)` of the thread on this CPU.
pub fn exit_thread(k: &Cpu, mm: u8) -> Outcome {
    let cpus = k.config().cpus;
    let m = &mut k.s().w.mms[mm as usize];
    m.exited |= 1 << k.id;
    if m.exited.count_ones() >= u32::from(cpus) {
        m.life = Life::Exiting;
    }
    Outcome::Done
}

/// `exit_mmap()`, and what a driver's files do when they are closed.
pub async fn exit_mmap(k: &Cpu, mm: u8) {
    k.site(Site::ExitMmap).await;
    // mmu_notifier_release(): devices lose what they have before anything is freed.
    for device in 0..MAX_DEVICES as u8 {
        if k.s().w.mirrors[device as usize][mm as usize].registered {
            k.lock(Lock::Mirror(device, mm)).await;
            k.s().mirror_unregister(device, mm);
            k.unlock(Lock::Mirror(device, mm));
        }
    }
    k.lock(Lock::MmapRead(mm)).await;
    let mut tlb = MmuGather::unmapping(k, mm);
    let mut i = 0;
    while let Some(vma) = nth_vma(k, mm, i) {
        let (start, end) = {
            let s = k.s();
            (s.w.vmas[vma].start, s.w.vmas[vma].end)
        };
        unmap_single_vma(k, &mut tlb, vma, start, end).await;
        i += 1;
    }
    tlb.finish(k).await;
    k.unlock(Lock::MmapRead(mm));
    k.lock(Lock::MmapWrite(mm)).await;
    while let Some(vma) = nth_vma(k, mm, 0) {
        remove_vma(k, mm, vma).await;
    }
    free_pgtables(k, mm).await;
    k.unlock(Lock::MmapWrite(mm));
    ksm_exit(k, mm).await;
    unpin_all(k, mm).await;
    mm_put_huge_zero_folio(k, mm);
    let s = &mut *k.s();
    for cpu in 0..MAX_CPUS as u8 {
        if s.w.tlbs[cpu as usize].loaded_mm == Some(mm) {
            s.switch_mm(cpu, None);
        }
    }
    s.w.mms[mm as usize].life = Life::Unborn;
    check_mm(s, k.id, mm);
    s.observe(Observation::Gone { proc: mm });
}

/// `kernel/fork.c: check_mm()`: every counter has come back to zero.
fn check_mm(s: &mut Sim, cpu: u8, mm: u8) {
    let m = &s.w.mms[mm as usize];
    let counters = [
        ("MM_FILEPAGES", m.file_pages),
        ("MM_ANONPAGES", m.anon_pages),
        ("MM_SWAPENTS", m.swap_ents),
        ("MM_SHMEMPAGES", m.shmem_pages),
    ];
    if let Some((what, n)) = counters.into_iter().find(|(_, n)| *n != 0) {
        let found = Some(i64::from(n) as u64);
        let e = Evidence { proc: Some(mm), expected: Some(0), found, what: Some(what), ..Evidence::default() };
        s.violate(cpu, Rule::Rss, e);
    }
}

async fn remove_vma(k: &Cpu, mm: u8, vma: VmaId) {
    unlink_anon_vmas(k, vma).await;
    unlink_file_vma(k, vma).await;
    let s = &mut *k.s();
    s.w.mms[mm as usize].vmas.retain(|v| *v != vma);
    hugetlb_vm_op_close(s, vma);
    s.w.vmas.free(vma);
}

/// `free_pgtables()` of a whole address space. No VMA is left, so no walk can come to these tables any more.
async fn free_pgtables(k: &Cpu, mm: u8) {
    k.flush_tlb_range(mm, 0, u32::MAX).await;
    let forget_one = k.has(Defect::S17);
    let s = &mut *k.s();
    let pgd = s.w.mms[mm as usize].pgd;
    free_below(s, pgd, 3, forget_one);
}

fn free_below(s: &mut Sim, table: TableId, level: u8, forget_one: bool) {
    let arch = s.w.config.arch;
    if level > 0 {
        for index in 0..s.w.geometry().ptrs() {
            if let Some(next) = s.w.tables.next(arch, table, index) {
                debug_assert!(arch.mk_table(PT_PFN_BASE + u64::from(next)).0 != 0);
                free_below(s, next, level - 1, forget_one);
            }
        }
    }
    if s.w.tables.info[table as usize].pts != 0 {
        // Whoever still uses it walks through what is about to be something else.
        s.violate(0, Rule::SharedTable, Evidence { what: Some("freed while it is shared"), ..Evidence::default() });
    } else if level > 0 || !forget_one {
        s.w.tables.free(table);
    }
}
