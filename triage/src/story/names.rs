//! Names that a story gives to frames and values: numbered in the order in which they appear.

use std::collections::BTreeMap;

use ptefuzz_core::entry::{Entry, EntryKind};
use ptefuzz_core::observe::Token;
use ptefuzz_core::phys::ZERO_PFN;

use super::focus;

/// Frames become `f1`, `f2`, …; stored values `v1`, `v2`, …; the value of a page never written is `0`.
#[derive(Default)]
pub(super) struct Names {
    frames: BTreeMap<u32, usize>,
    values: BTreeMap<Token, usize>,
}

/// Which flags of an entry are worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flags {
    /// Those that every entry has somewhere: dirty, exclusive, uffd-wp, protnone.
    Usual,
    /// Young and soft-dirty too.
    All,
}

impl Names {
    /// Name of a frame. The zero page has a name of its own, as everybody maps it and nobody owns it.
    pub(super) fn frame(&mut self, pfn: u32) -> String {
        if pfn == ZERO_PFN {
            return "zero-page".into();
        }
        let next = self.frames.len() + 1;
        format!("f{}", self.frames.entry(pfn).or_insert(next))
    }

    /// Name of a value.
    pub(super) fn value(&mut self, token: Token) -> String {
        if token == 0 {
            return "0".into();
        }
        let next = self.values.len() + 1;
        format!("v{}", self.values.entry(token).or_insert(next))
    }

    /// An entry in words.
    pub(super) fn entry(&mut self, entry: &Entry, flags: Flags) -> String {
        let mut shown = *entry;
        if flags == Flags::Usual {
            shown.young = false;
            shown.soft_dirty = false;
        }
        let pfn = focus::frame(shown.pfn.take());
        let text = shown.to_string();
        match pfn {
            Some(pfn) => {
                let kind = shown.kind.name();
                let frame = self.frame(pfn);
                format!("{kind} {frame}{}", text.strip_prefix(kind).unwrap_or_default())
            }
            None => text,
        }
    }

    /// An entry before and after; young and soft-dirty only where nothing else differs.
    pub(super) fn change(&mut self, old: &Entry, new: &Entry, flags: Flags) -> String {
        if old == new {
            return self.entry(new, flags);
        }
        let (before, after) = (self.entry(old, flags), self.entry(new, flags));
        if before != after {
            return format!("{before} -> {after}");
        }
        let (before, after) = (self.entry(old, Flags::All), self.entry(new, Flags::All));
        format!("{before} -> {after}")
    }
}

/// True for an entry that counts as a mapping of its frame.
pub(super) fn maps(entry: &Entry) -> bool {
    entry.kind == EntryKind::Present || entry.kind.is_device_private() || entry.kind.is_device_exclusive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_numbered_in_order_of_appearance() {
        let mut names = Names::default();
        let mut old = Entry::with_pfn(EntryKind::Present, 77);
        (old.write, old.dirty, old.young) = (true, true, true);
        let new = Entry::with_pfn(EntryKind::MigrationWrite, 77);
        assert_eq!(names.change(&old, &new, Flags::Usual), "present f1 rw dirty -> migration-write f1");
        assert_eq!(names.frame(3), "f2");
        assert_eq!(names.frame(77), "f1");
    }

    #[test]
    fn a_flag_that_is_usually_left_out_is_told_when_it_is_all_that_changes() {
        let mut names = Names::default();
        let old = Entry::with_pfn(EntryKind::Present, 1);
        let new = Entry { young: true, ..old };
        assert_eq!(names.change(&old, &new, Flags::Usual), "present f1 ro -> present f1 ro young");
    }

    #[test]
    fn the_zero_page_is_no_numbered_frame() {
        let mut names = Names::default();
        assert_eq!(names.frame(ZERO_PFN), "zero-page");
        assert_eq!(names.frame(9), "f1");
    }

    #[test]
    fn values_have_names_and_an_unwritten_page_is_zero() {
        let mut names = Names::default();
        assert_eq!(
            (names.value(900), names.value(0), names.value(7), names.value(900)),
            ("v1".into(), "0".into(), "v2".into(), "v1".into())
        );
    }
}
