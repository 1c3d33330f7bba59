//! The locks that a CPU holds, as far as lockdep wants to know: how many of each class.

use super::lock_class::LockClass;

/// How many locks of each class are held. Which they are, each lock knows of itself, so that neither the question of lockdep
/// nor a release looks at the others.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Held {
    of_class: [u8; LockClass::ALL.len()],
    // Bit *n* set: a lock of class *n* is held.
    classes: u32,
}

impl Held {
    /// True when a lock of this class, or of one that comes after it, is held.
    #[inline]
    pub fn from(&self, class: LockClass) -> bool {
        self.classes >> class as u32 != 0
    }

    /// The last class in lockdep's order of which a lock is held, leaving out `but`.
    pub fn last(&self, but: Option<LockClass>) -> Option<LockClass> {
        let classes = self.classes & !but.map_or(0, |c| 1 << c as u32);
        LockClass::ALL.get(classes.checked_ilog2()? as usize).copied()
    }

    /// Adds a lock.
    #[inline]
    pub(super) fn push(&mut self, class: LockClass) {
        self.of_class[class as usize] += 1;
        self.classes |= 1 << class as u32;
    }

    /// Removes one.
    #[inline]
    pub(super) fn remove(&mut self, class: LockClass) {
        let left = &mut self.of_class[class as usize];
        debug_assert!(*left != 0, "a lock was taken that was not counted");
        *left = left.saturating_sub(1);
        if *left == 0 {
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
        for class in [LockClass::Folio, LockClass::Pte, LockClass::Folio] {
            held.push(class);
        }
        held.remove(LockClass::Folio);
        assert_eq!(held.last(None), Some(LockClass::Pte));
        assert_eq!(held.last(Some(LockClass::Pte)), Some(LockClass::Folio));
        held.remove(LockClass::Pte);
        assert!(held.from(LockClass::Folio) && !held.from(LockClass::IMmap));
        held.remove(LockClass::Folio);
        assert!(!held.from(LockClass::MemoryFailure) && held.last(None).is_none());
    }
}
