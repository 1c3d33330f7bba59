//! What the modelled kernel does, sentence by sentence. Where a sentence says so, it was seen on real kernels.

use ptefuzz_core::config::Kernel;
use ptefuzz_core::entry::{Entry, EntryKind};
use ptefuzz_core::observe::{Agent, Outcome, Token};
use ptefuzz_core::program::text;
use ptefuzz_core::run::Machine;
use ptefuzz_core::trace::{CacheEvent, Event, Note};

/// What happened in a case that is clean.
struct Story {
    events: Vec<Event>,
}

impl Story {
    /// Runs ops of CPU 0 on a repaired release. Process A has one page, `heap[0]`.
    fn of(kernel: Kernel, ops: &[&str]) -> Story {
        let header = format!("kernel {kernel}\nfixed\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n");
        Story::of_text(&(header + &ops.join("\n")))
    }

    fn of_text(text: &str) -> Story {
        let document = text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let (verdict, trace) = Machine::new().run_traced(&document.case);
        assert_eq!(verdict.id(), "clean", "{verdict}\n{text}");
        Story { events: trace.events.into_iter().map(|(_, e)| e).collect() }
    }

    /// What the entry of the first page of a process's heap meant, one after the other, without what only the
    /// accessed and dirty bits tell, up to the end of the last op.
    fn entries(&self, of: u8) -> Vec<Entry> {
        let last = self.events.iter().rposition(|e| matches!(e, Event::OpEnd { .. })).unwrap_or(0);
        let mut list: Vec<Entry> = Vec::new();
        for event in &self.events[..last] {
            if let Event::Entry { proc, vpn: 64, new, .. } = *event
                && proc == of
            {
                list.push(Entry { young: false, dirty: false, ..new });
            }
        }
        list.dedup();
        list
    }

    fn kinds(&self, of: u8) -> Vec<EntryKind> {
        let mut kinds: Vec<EntryKind> = self.entries(of).iter().map(|e| e.kind).collect();
        kinds.dedup();
        kinds
    }

    fn last_entry(&self, of: u8) -> Entry {
        self.entries(of).last().copied().unwrap_or(Entry::NONE)
    }

    fn noted(&self, wanted: Note) -> bool {
        self.events.iter().any(|e| matches!(e, Event::Note { note, .. } if *note == wanted))
    }

    /// The outcomes of the ops, in the order of the case.
    fn outcomes(&self) -> Vec<Outcome> {
        let mut ends: Vec<(u32, Outcome)> = Vec::new();
        for event in &self.events {
            if let Event::OpEnd { op, outcome, .. } = *event {
                ends.push((op, outcome));
            }
        }
        ends.sort_by_key(|end| end.0);
        ends.into_iter().map(|end| end.1).collect()
    }

    /// The values that `by` loaded, in order.
    fn loads(&self, wanted: Agent) -> Vec<Token> {
        let load = |e: &Event| match *e {
            Event::Access { by, write: false, value, .. } if by == wanted => Some(value),
            _ => None,
        };
        self.events.iter().filter_map(load).collect()
    }
}

const A: u8 = 0;
const B: u8 = 1;
const CPU: Agent = Agent::Cpu(0);

#[test]
fn reclaim_frees_a_folio_held_only_by_device_exclusive_entries() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", "gpu0 exclusive A heap[0]", "reclaim A heap[0]"]);
        assert!(story.noted(Note::SwappedOut), "{kernel}");
        let last = story.last_entry(A);
        assert!(last.kind == EntryKind::Swap && last.exclusive == (kernel >= Kernel::V5_19), "{kernel}: {last}");
    }
}

// Seen on 6.12 and 7.3.
#[test]
fn fork_restores_device_exclusive_entries_and_the_child_is_not_exclusive() {
    for kernel in Kernel::ALL {
        let ops = ["A write heap[0]", "gpu0 exclusive A heap[0]", "A fork B", "B read heap[0]", "B write heap[0]"];
        let story = Story::of(kernel, &ops);
        let parent = story.entries(A);
        let at = parent.iter().position(|e| e.kind.is_device_exclusive());
        let restored = at.and_then(|at| parent.get(at + 1)).copied().unwrap_or(Entry::NONE);
        assert!(restored.kind == EntryKind::Present && restored.write, "{kernel}: {restored}");
        assert!(!story.last_entry(A).write, "{kernel}: shared, and so not writable any more");
        let child = story.entries(B);
        assert!(child[0].kind == EntryKind::Present && !child[0].write, "{kernel}: {}", child[0]);
        assert!(child.iter().all(|e| !e.kind.is_device_exclusive()), "{kernel}");
        assert!(story.noted(Note::Copied), "{kernel}: the child's write breaks copy-on-write");
    }
}

// Why 5.19 has PageAnonExclusive: whoever has pinned the page goes on with the old one.
#[test]
fn a_write_after_mprotect_copies_a_pinned_page_in_5_14_and_reuses_it_since() {
    let ops = ["A write heap[0]", "A pin heap[0]", "A mprotect heap[0] ro", "A mprotect heap[0] rw", "A write heap[0]"];
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &ops);
        assert_eq!(story.noted(Note::Copied), kernel < Kernel::V5_19, "{kernel}");
        assert_eq!(story.noted(Note::Reused), kernel == Kernel::V5_19, "{kernel}: later, mprotect makes it writable");
    }
}

#[test]
fn a_page_swapped_in_for_a_write_is_reused_by_count_in_5_14_and_by_the_swap_entrys_bit_since() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", "A pageout heap[0]", "A write heap[0]"]);
        let swap = story.entries(A).into_iter().find(|e| e.kind == EntryKind::Swap).unwrap_or(Entry::NONE);
        assert_eq!(swap.exclusive, kernel >= Kernel::V5_19, "{kernel}: {swap}");
        let last = story.last_entry(A);
        assert!(last.kind == EntryKind::Present && last.write, "{kernel}: {last}");
        assert!(!story.noted(Note::Copied), "{kernel}");
    }
}

#[test]
fn migration_keeps_the_dirty_bit_since_6_1() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", "migrate A heap[0]"]);
        let entries = story.events.iter().filter_map(|e| match e {
            Event::Entry { old, new, .. } if old.kind.is_migration() => Some(*new),
            _ => None,
        });
        let back: Vec<Entry> = entries.collect();
        assert_eq!(back.iter().filter(|e| e.dirty && e.young).count() == 1, kernel >= Kernel::V6_1, "{kernel}");
    }
}

// Seen on 6.12 (type 29 becomes 30) and on 7.3 (nothing changes).
#[test]
fn mprotect_changes_the_type_of_a_device_exclusive_entry_only_before_6_15() {
    let ops = ["A write heap[0]", "gpu0 exclusive A heap[0]", "A mprotect heap[0] ro"];
    let old = Story::of(Kernel::V6_12, &ops).kinds(A);
    let two_types = [EntryKind::DeviceExclusiveWrite, EntryKind::DeviceExclusiveRead];
    assert_eq!(old[old.len() - 2..], two_types);
    for kernel in [Kernel::V6_15, Kernel::V7_3] {
        let story = Story::of(kernel, &ops);
        assert_eq!(story.last_entry(A).kind, EntryKind::DeviceExclusive, "{kernel}");
        assert_eq!(story.entries(A).iter().filter(|e| e.kind.is_device_exclusive()).count(), 1, "{kernel}");
    }
}

#[test]
fn a_device_exclusive_page_that_became_read_only_comes_back_read_only() {
    for kernel in Kernel::ALL {
        let ops = ["A write heap[0]", "gpu0 exclusive A heap[0]", "A mprotect heap[0] ro", "A read heap[0]"];
        let last = Story::of(kernel, &ops).last_entry(A);
        assert!(last.kind == EntryKind::Present && !last.write, "{kernel}: {last}");
    }
}

#[test]
fn a_pinned_page_is_copied_for_the_child() {
    for kernel in Kernel::ALL {
        let story =
            Story::of(kernel, &["A write heap[0]", "A pin heap[0]", "A fork B", "A write heap[0]", "B read heap[0]"]);
        assert!(story.noted(Note::PinnedCopy) && !story.noted(Note::Copied), "{kernel}");
        let (parent, child) = (story.last_entry(A), story.last_entry(B));
        assert!(parent.write && child.write && parent.pfn != child.pfn, "{kernel}: {parent}, {child}");
        assert_eq!(story.loads(CPU), [1], "{kernel}: what the parent wrote before the fork");
    }
}

#[test]
fn soft_dirty_survives_swap_out_and_in() {
    for kernel in Kernel::ALL {
        let ops = ["A clear-refs", "A write heap[0]", "A pageout heap[0]", "A read heap[0]", "A pagemap heap[0]"];
        let story = Story::of(kernel, &ops);
        let of_kind = |kind| story.entries(A).into_iter().find(|e| e.kind == kind).unwrap_or(Entry::NONE);
        assert!(of_kind(EntryKind::Swap).soft_dirty, "{kernel}");
        assert!(story.last_entry(A).kind == EntryKind::Present && story.last_entry(A).soft_dirty, "{kernel}");
    }
}

#[test]
fn a_page_that_waits_for_its_first_write_comes_back_from_swap_read_only() {
    for kernel in Kernel::ALL {
        let ops = ["A write heap[0]", "A clear-refs", "A pageout heap[0]", "A read heap[0]"];
        let last = Story::of(kernel, &ops).last_entry(A);
        assert!(last.kind == EntryKind::Present && !last.write && !last.soft_dirty, "{kernel}: {last}");
    }
}

// Seen on 6.12 and 7.3: exclusive first, then uffd-wp, then a read.
#[test]
fn uffd_wp_survives_device_exclusive() {
    for kernel in Kernel::ALL {
        let ops = [
            "A uffd-register heap[0] wp",
            "A write heap[0]",
            "gpu0 exclusive A heap[0]",
            "A uffd-wp heap[0]",
            "A read heap[0]",
        ];
        let story = Story::of(kernel, &ops);
        let last = story.last_entry(A);
        assert!(last.kind == EntryKind::Present && last.uffd_wp && !last.write, "{kernel}: {last}");
        let lent = story.entries(A).into_iter().any(|e| e.kind.is_device_exclusive() && e.uffd_wp);
        assert!(lent, "{kernel}: the mark is in the device's entry first");
    }
}

#[test]
fn a_migration_entry_made_of_a_device_exclusive_entry_is_never_of_the_write_type() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", "gpu0 exclusive A heap[0]", "migrate A heap[0]"]);
        let kinds = story.kinds(A);
        // 5.14 has no type that says exclusive.
        let read = if kernel < Kernel::V5_19 { EntryKind::MigrationRead } else { EntryKind::MigrationReadExclusive };
        assert!(kinds.contains(&read), "{kernel}: {kinds:?}");
        assert!(!kinds.contains(&EntryKind::MigrationWrite), "{kernel}: {kinds:?}");
        let present = Story::of(kernel, &["A write heap[0]", "migrate A heap[0]"]).kinds(A);
        assert!(present.contains(&EntryKind::MigrationWrite), "{kernel}: a present one is");
    }
}

#[test]
fn a_folio_held_only_by_device_exclusive_entries_can_be_migrated_and_offlined() {
    for kernel in Kernel::ALL {
        for job in ["migrate A heap[0]", "offline block 0"] {
            let story = Story::of(kernel, &["A write heap[0]", "gpu0 exclusive A heap[0]", job, "A read heap[0]"]);
            assert!(story.noted(Note::Migrated) && !story.noted(Note::MigrateFailed), "{kernel}: {job}");
            assert_eq!(story.loads(CPU), [1], "{kernel}: {job}");
        }
    }
}

/// Write-protects a page, which has to be registered for it.
const PROTECT: &str = "A uffd-register heap[0] wp\nA uffd-wp heap[0]";

#[test]
fn dontneed_then_read_gives_zero() {
    for kernel in Kernel::ALL {
        for hidden in ["A read heap[0]", "A pageout heap[0]", "gpu0 exclusive A heap[0]", PROTECT] {
            let ops = ["A write heap[0]", hidden, "A dontneed heap[0]", "A read heap[0]"];
            let story = Story::of(kernel, &ops);
            assert_eq!(story.loads(CPU).last(), Some(&0), "{kernel}: {hidden}");
        }
    }
}

// Seen on 6.12 and 7.3: a marker is left behind for file memory only.
#[test]
fn dontneed_of_a_write_protected_anonymous_page_leaves_nothing() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", PROTECT, "A dontneed heap[0]"]);
        assert!(story.entries(A).iter().any(|e| e.uffd_wp), "{kernel}");
        assert_eq!(story.last_entry(A), Entry::NONE, "{kernel}");
    }
}

// Seen on 6.12 and 7.3.
#[test]
fn pageout_does_nothing_on_a_page_that_fork_has_shared() {
    for kernel in Kernel::ALL {
        let story = Story::of(kernel, &["A write heap[0]", "A fork B", "A pageout heap[0]"]);
        assert_eq!(story.last_entry(A).kind, EntryKind::Present, "{kernel}");
        let alone = Story::of(kernel, &["A write heap[0]", "A pageout heap[0]"]);
        assert_eq!(alone.last_entry(A).kind, EntryKind::Swap, "{kernel}");
    }
}

#[test]
fn a_shared_page_comes_back_from_swap_without_write_permission() {
    for kernel in Kernel::ALL {
        let ops = ["A write heap[0]", "A fork B", "reclaim A heap[0]", "A read heap[0]", "B read heap[0]"];
        let story = Story::of(kernel, &ops);
        assert!(story.noted(Note::SwappedOut), "{kernel}");
        assert!(!story.last_entry(A).write && !story.last_entry(B).write, "{kernel}");
        assert_eq!(story.last_entry(A).pfn, story.last_entry(B).pfn, "{kernel}: the swap cache has it for both");
    }
}

/// Replays what the devices' tables held and says whether two of them ever held the first page while one of them
/// was to have it alone.
fn two_held_it(story: &Story) -> bool {
    let mut holds = [false; 2];
    let mut exclusive = false;
    story.events.iter().any(|event| {
        match *event {
            Event::Mirror { device, vpn: 64, what, .. } => holds[usize::from(device)] = what == CacheEvent::Fill,
            Event::Entry { vpn: 64, new, .. } => exclusive = new.kind.is_device_exclusive(),
            _ => {}
        }
        exclusive && holds == [true; 2]
    })
}

#[test]
fn two_devices_never_hold_a_device_exclusive_page_wherever_the_second_one_comes() {
    let sites = [
        "make_device_exclusive:gup",
        "make_device_exclusive:lock",
        "make_device_exclusive:convert",
        "dmirror_atomic_map:program",
        "ptep_get_and_clear:clear",
        "set_pte_at:set",
        "lock:acquire",
    ];
    for kernel in Kernel::ALL {
        for (site, nth) in sites.into_iter().flat_map(|site| [(site, 1), (site, 2), (site, 3)]) {
            let story = Story::of_text(&format!(
                "kernel {kernel}\nfixed\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n  gpu0 exclusive A \
                 heap[0]\n  gpu0 write A heap[0]\n\ncpu 1\n  gpu1 exclusive A heap[0]\n  gpu1 write A heap[0]\n\n\
                 at cpu0 {site} #{nth} -> cpu1\n"
            ));
            assert!(!two_held_it(&story), "{kernel}: {site} #{nth}");
            assert_eq!(story.outcomes().len(), 4, "{kernel}: {site} #{nth}");
        }
    }
}

#[test]
fn a_cpu_reads_what_the_device_wrote_while_it_had_the_page_alone() {
    for kernel in Kernel::ALL {
        let ops = ["A write heap[0]", "gpu0 exclusive A heap[0]", "gpu0 write A heap[0]", "A read heap[0]"];
        let story = Story::of(kernel, &ops);
        assert_eq!(story.loads(CPU), [2], "{kernel}");
        let flushed = |e: &Event| matches!(e, Event::Mirror { device: 0, what: CacheEvent::Flush, .. });
        assert!(story.events.iter().any(flushed), "{kernel}: and the device has lost it");
    }
}
