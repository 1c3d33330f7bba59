//! What became of the entries in a run, change by change, read from its trace.
//!
//! The kernel often clears an entry and sets it again under the same lock. In the trace these are two events; here they
//! are one change, as the two stand for one thing. A clear that nothing follows is a change to an empty entry.

use crate::config::MAX_CPUS;
use crate::entry::{Entry, transition_legal};
use crate::trace::{Event, Trace};

/// One change of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Index of the op during which it was made. `None`: by the hardware, or while what was left was taken down.
    pub op: Option<u32>,
    /// True when the hardware's walker made it.
    pub hardware: bool,
    /// What the entry meant.
    pub old: Entry,
    /// What it means.
    pub new: Entry,
    /// `PageAnonExclusive` of the page that the old entry names, before, and of the one that the new entry names, after.
    pub pages: [bool; 2],
}

/// A clear that may be the first half of a change.
#[derive(Clone, Copy)]
struct Cleared {
    at: (u8, u32),
    change: Change,
}

/// Every change of a PTE in order. Those of PMDs are passed over: they have a table of their own
/// ([`crate::entry::PMD_TRANSITIONS`]).
pub fn changes(trace: &Trace) -> Vec<Change> {
    let mut ops = [None; MAX_CPUS];
    let mut cleared: [Option<Cleared>; MAX_CPUS] = [None; MAX_CPUS];
    let mut out = Vec::new();
    for (_, event) in &trace.events {
        match *event {
            Event::OpStart { op, cpu } => ops[usize::from(cpu) % MAX_CPUS] = Some(op),
            Event::OpEnd { cpu, .. } => {
                let cpu = usize::from(cpu) % MAX_CPUS;
                out.extend(cleared[cpu].take().map(|c| c.change));
                ops[cpu] = None;
            }
            Event::Entry { huge: true, .. } => {}
            Event::Entry { cpu: None, old, new, exclusive, .. } => {
                out.push(Change { op: None, hardware: true, old, new, pages: exclusive });
            }
            Event::Entry { cpu: Some(cpu), proc, vpn, old, new, exclusive, .. } => {
                let (op, slot) = (ops[usize::from(cpu) % MAX_CPUS], &mut cleared[usize::from(cpu) % MAX_CPUS]);
                let mut change = Change { op, hardware: false, old, new, pages: exclusive };
                if let Some(before) = slot.take() {
                    // What no function makes of the other in one piece was cleared under another lock.
                    let one = transition_legal(before.change.old.kind, new.kind);
                    if before.at == (proc, vpn) && old == Entry::NONE && one {
                        (change.old, change.pages[0]) = (before.change.old, before.change.pages[0]);
                    } else {
                        out.push(before.change);
                    }
                }
                if new == Entry::NONE {
                    *slot = Some(Cleared { at: (proc, vpn), change });
                } else {
                    out.push(change);
                }
            }
            _ => {}
        }
    }
    out.extend(cleared.into_iter().flatten().map(|c| c.change));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::program::text;
    use crate::run::Machine;

    fn kinds(ops: &str) -> Vec<(EntryKind, EntryKind)> {
        let text = format!("fixed\n\nprocess A\n  heap = mmap anon private rw 1\n\ncpu 0\n{ops}");
        let case = text::parse(&text).unwrap_or_else(|e| panic!("{e}")).case;
        let trace = Machine::new().run_traced(&case).1;
        let list = changes(&trace);
        list.iter().filter(|c| !c.hardware).map(|c| (c.old.kind, c.new.kind)).collect()
    }

    #[test]
    fn a_clear_and_a_set_are_one_change_and_a_clear_alone_is_one_too() {
        use EntryKind::{MigrationWrite, None, Present, Swap};
        let migrated = kinds("  A write heap[0]\n  migrate A heap[0]\n  A dontneed heap[0]\n");
        assert_eq!(migrated, [(None, Present), (Present, MigrationWrite), (MigrationWrite, Present), (Present, None)]);
        let swapped = kinds("  A write heap[0]\n  A pageout heap[0]\n");
        assert_eq!(swapped, [(None, Present), (Present, Swap), (Swap, None)], "the last by the exit");
    }
}
