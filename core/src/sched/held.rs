//! The locks that a CPU holds.

use super::lock_class::{Lock, LockClass};
use arrayvec::ArrayVec;

/// Locks that a CPU can hold at once.
const MAX_HELD: usize = 12;
/// Lock classes; this is the last in lockdep's order.
const CLASSES: usize = LockClass::PteNested as usize + 1;

/// Locks in the order in which they were taken, and how many of each class they are, so that neither the question of
/// lockdep nor a release looks at the others.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Held {
    locks: ArrayVec<Lock, MAX_HELD>,
    of_class: [u8; CLASSES],
    // Bit *n* set: a lock of class *n* is held.
    classes: u32,
}

impl Held {
    /// Locks in the order in which they were taken.
    pub fn locks(&self) -> &[Lock] {
        &self.locks
    }

    /// The lock that was taken last.
    pub fn last(&self) -> Option<Lock> {
        self.locks.last().copied()
    }

    /// True when a lock of this class, or of one that comes after it, is held.
    #[inline]
    pub fn from(&self, class: LockClass) -> bool {
        self.classes >> class as u32 != 0
    }

    /// Adds a lock. False when there are too many.
    #[inline]
    pub(super) fn push(&mut self, lock: Lock, class: LockClass) -> bool {
        let fits = self.locks.try_push(lock).is_ok();
        if fits {
            self.of_class[class as usize] += 1;
            self.classes |= 1 << class as u32;
        }
        fits
    }

    /// Removes a lock, if it is there.
    #[inline]
    pub(super) fn remove(&mut self, lock: Lock, class: LockClass) {
        if self.locks.last() == Some(&lock) {
            self.locks.pop();
        } else if let Some(at) = self.locks.iter().rposition(|h| *h == lock) {
            self.locks.remove(at);
        } else {
            return;
        }
        self.of_class[class as usize] -= 1;
        if self.of_class[class as usize] == 0 {
            self.classes &= !(1 << class as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_held_until_its_last_lock_is_given_back() {
        let mut held = Held::default();
        for lock in [Lock::Folio(1), Lock::Pte(4), Lock::Folio(2)] {
            assert!(held.push(lock, lock.class()));
        }
        held.remove(Lock::Folio(1), LockClass::Folio);
        assert_eq!(held.locks(), [Lock::Pte(4), Lock::Folio(2)]);
        held.remove(Lock::Pte(4), LockClass::Pte);
        assert!(held.from(LockClass::Folio) && !held.from(LockClass::IMmap));
        held.remove(Lock::Folio(2), LockClass::Folio);
        assert!(!held.from(LockClass::MemoryFailure) && held.last().is_none());
    }
}
