//! What the modelled kernel does with huge pages and large folios, sentence by sentence.

use ptefuzz_core::config::{Geometry, Kernel};
use ptefuzz_core::entry::{Entry, EntryKind};
use ptefuzz_core::observe::Outcome;
use ptefuzz_core::program::text;
use ptefuzz_core::run::Machine;
use ptefuzz_core::trace::{Event, Note};

/// Pages that a PMD maps.
const PAGES: usize = 8;

/// What happened in a case that is clean: ops of CPU 0 on a repaired release, in which process A has one PMD's worth.
struct Story {
    events: Vec<Event>,
    ops: u32,
}

impl Story {
    fn of(kernel: Kernel, ops: &[&str]) -> Story {
        let header = format!("kernel {kernel}\nfixed\n\nprocess A\n  heap = mmap anon private rw {PAGES}\n\ncpu 0\n");
        let text = header + &ops.join("\n");
        let document = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let (verdict, trace) = Machine::new().run_traced(&document.case);
        assert_eq!(verdict.id(), "clean", "{verdict}\n{text}");
        Story { events: trace.events.into_iter().map(|(_, e)| e).collect(), ops: ops.len() as u32 }
    }

    /// What the entries of process A mean when the last op has ended.
    fn entries(&self) -> [Entry; PAGES] {
        let base = Geometry::Tiny.region_base(0);
        let mut entries = [Entry::NONE; PAGES];
        for event in &self.events {
            match *event {
                Event::Entry { proc: 0, vpn, new, .. } => {
                    if let Some(e) = entries.get_mut((vpn - base) as usize) {
                        *e = new;
                    }
                }
                Event::OpEnd { op, .. } if op + 1 == self.ops => break,
                _ => {}
            }
        }
        entries
    }

    /// Frames of the entries, and whether they follow each other.
    fn is_one_run(&self) -> bool {
        let entries = self.entries();
        let first = entries[0].pfn;
        (0..).zip(entries).all(|(i, e)| e.kind == EntryKind::Present && e.pfn == first.map(|p| p + i))
    }

    fn outcome(&self, wanted: u32) -> Option<Outcome> {
        self.events.iter().find_map(|e| match *e {
            Event::OpEnd { op, outcome, .. } if op == wanted => Some(outcome),
            _ => None,
        })
    }

    fn noted(&self, wanted: Note) -> bool {
        self.events.iter().any(|e| matches!(e, Event::Note { note, .. } if *note == wanted))
    }
}

const HUGE: [&str; 2] = ["A hugepage heap[0..8]", "A write heap[0]"];

#[test]
fn one_write_maps_a_huge_page_where_it_is_allowed_and_a_small_one_where_it_is_not() {
    assert!(Story::of(Kernel::NEWEST, &HUGE).is_one_run());
    let small = Story::of(Kernel::NEWEST, &["A nohugepage heap[0..8]", "A write heap[0]"]);
    assert_eq!(small.entries()[1], Entry::NONE);
}

#[test]
fn a_tail_page_of_a_large_folio_can_be_made_exclusive_only_since_6_15() {
    let ops = [HUGE[0], HUGE[1], "gpu0 exclusive A heap[3]"];
    let old = Story::of(Kernel::V6_12, &ops);
    assert_eq!(old.outcome(2), Some(Outcome::Busy));
    assert!(old.is_one_run());
    let new = Story::of(Kernel::V6_15, &ops);
    assert_eq!(new.outcome(2), Some(Outcome::Done));
    let exclusive = |e: &Entry| e.kind.is_device_exclusive();
    assert_eq!(new.entries().iter().position(exclusive), Some(3));
    assert_eq!(new.entries().iter().filter(|e| exclusive(e)).count(), 1);
    assert!(!new.noted(Note::FolioSplit), "the folio stays large");
}

#[test]
fn the_old_conversion_of_the_first_page_takes_every_entry_of_the_folio() {
    let old = Story::of(Kernel::V6_12, &[HUGE[0], HUGE[1], "gpu0 exclusive A heap[0]"]);
    assert_eq!(old.outcome(2), Some(Outcome::Done));
    assert!(old.entries().iter().all(|e| e.kind.is_device_exclusive()));
}

#[test]
fn a_write_to_a_huge_page_that_a_child_shares_copies_one_page() {
    let story = Story::of(Kernel::NEWEST, &[HUGE[0], HUGE[1], "A fork B", "A write heap[3]"]);
    let entries = story.entries();
    let first = entries[0].pfn.unwrap();
    let moved: Vec<usize> = (0..PAGES).filter(|i| entries[*i].pfn != Some(first + *i as u64)).collect();
    assert_eq!(moved, [3]);
    assert!(story.noted(Note::Copied));
}

#[test]
fn a_huge_page_of_which_a_part_is_unmapped_is_split_by_the_next_reclaim() {
    let kept = Story::of(Kernel::NEWEST, &[HUGE[0], HUGE[1], "A munmap heap[7]"]);
    assert!(!kept.noted(Note::FolioSplit));
    let split = Story::of(Kernel::NEWEST, &[HUGE[0], HUGE[1], "A munmap heap[7]", "reclaim A heap[0]"]);
    assert!(split.noted(Note::FolioSplit));
}

#[test]
fn a_migrated_huge_page_stays_huge_and_a_split_one_is_moved_page_by_page() {
    let moved = Story::of(Kernel::NEWEST, &[HUGE[0], HUGE[1], "migrate A heap[0]"]);
    assert!(moved.noted(Note::Migrated) && moved.is_one_run() && !moved.noted(Note::FolioSplit));
    let pinned = Story::of(Kernel::NEWEST, &[HUGE[0], HUGE[1], "A pin heap[5]", "split A heap[0]"]);
    assert!(pinned.noted(Note::NotSplit) && pinned.is_one_run());
}

#[test]
fn collapse_makes_a_huge_page_of_small_ones_unless_one_is_pinned() {
    let small = ["A write heap[2..8]", "A read heap[0..8]", "A collapse heap[0..8]"];
    let story = Story::of(Kernel::NEWEST, &small);
    assert_eq!(story.outcome(2), Some(Outcome::Done));
    assert!(story.noted(Note::Collapsed) && story.is_one_run());
    let pinned = Story::of(Kernel::NEWEST, &["A write heap[0..8]", "A pin heap[2]", "A collapse heap[0..8]"]);
    assert_eq!(pinned.outcome(2), Some(Outcome::Busy));
    assert!(pinned.noted(Note::NotCollapsed) && !pinned.noted(Note::Collapsed));
}

#[test]
fn khugepaged_leaves_alone_what_nobody_has_asked_it_to_collapse() {
    let ops = ["A write heap[0..8]", "khugepaged A heap[0]"];
    assert!(!Story::of(Kernel::NEWEST, &ops).noted(Note::Collapsed));
    let asked = ["A write heap[0..8]", "A hugepage heap[0..8]", "khugepaged A heap[0]"];
    assert!(Story::of(Kernel::NEWEST, &asked).noted(Note::Collapsed));
}
