//! Locks that are free: most are, and nothing is in the way of whoever takes them.
//!
//! Callers name the kind of a lock (`k.lock(Lock::Folio(pfn))`). Here each kind gets code of its own, so that nobody has to
//! look for it when the program runs.

use super::{Cpu, Lock, Site};

macro_rules! kinds {
    ($($kind:ident { $($n:tt: $of:ident),* })*) => {
        impl Cpu {
            /// Takes a lock if nothing is in the way. False when something is: nothing has happened then.
            #[inline(always)]
            pub(super) fn lock_at_once(&self, lock: Lock) -> bool {
                match lock {
                    $(Lock::$kind { $($n: $of),* } => self.take_at_once(move || Lock::$kind { $($n: $of),* }),)*
                }
            }

            /// Gives a lock back.
            #[inline(always)]
            pub fn unlock(&self, lock: Lock) {
                match lock {
                    $(Lock::$kind { $($n: $of),* } => self.give_back(move || Lock::$kind { $($n: $of),* }),)*
                }
            }
        }
    };
}

kinds! {
    MemoryFailure {} MemHotplug {} Ksm {} Inode { 0: file } MmapRead { 0: mm } MmapWrite { 0: mm }
    VmaRead { 0: vma } VmaWrite { 0: vma } BoardRead { 0: file } BoardWrite { 0: file }
    InvalidateRead { 0: file } InvalidateWrite { 0: file } HugetlbFault { 0: hash }
    HugetlbVmaRead { 0: vma } HugetlbVmaWrite { 0: vma } ResvRead { 0: resv } ResvWrite { 0: resv }
    Folio { 0: pfn } IMmapRead { 0: file } IMmapWrite { 0: file } AnonVmaRead { 0: root } AnonVmaWrite { 0: root }
    Mirror { 0: device, 1: mm } PageTable { 0: mm } Pmd { 0: table } PmdNested { 0: table }
    Pte { 0: table } PteNested { 0: table }
}

impl Cpu {
    #[inline(never)]
    fn take_at_once(&self, lock: impl FnOnce() -> Lock) -> bool {
        let (lock, s) = (lock(), &mut *self.s());
        let (class, c) = (lock.class(), &s.ctl.cpus[self.id as usize]);
        let in_order = !c.held.from(class) && !c.lazy_mmu;
        let free = in_order && s.passes_at_once(self.id, Site::Lock) && s.try_take(lock, self.id);
        if free {
            s.passed(self.id, Site::Lock);
            s.acquired(lock, class, self.id);
        }
        free
    }

    #[inline(never)]
    fn give_back(&self, lock: impl FnOnce() -> Lock) {
        let lock = lock();
        self.s().release(lock, lock.class(), self.id);
    }
}
