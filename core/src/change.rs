//! What became of the entries in a run, change by change, read from its trace.
//!
//! The kernel often clears an entry and sets it again under the same lock. In the trace these are two events; here they
//! are one change, as the two stand for one thing. A clear that nothing follows is a change to an empty entry.

use crate::config::{MAX_CPUS, RAW_PFN_BASE};
use crate::entry::carry::{Form, transitions};
use crate::entry::{Entry, EntryKind};
use crate::phys::ZERO_PFN;
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
    /// Whether the old and the new entry are those of a PMD; only the first, when it was split.
    pub huge: [bool; 2],
}

impl Change {
    /// Kind and level of the old and of the new entry.
    pub fn forms(&self) -> (Form, Form) {
        (Form::new(self.huge[0], self.old.kind), Form::new(self.huge[1], self.new.kind))
    }
}

/// A clear that may be the first half of a change.
#[derive(Clone, Copy)]
struct Cleared {
    at: (u8, u32),
    change: Change,
}

impl Cleared {
    /// The whole change, when this is the other half of it.
    fn completed(&self, at: (u8, u32), second: &Change) -> Option<Change> {
        // What no function makes of the other in one piece was cleared under another lock.
        let whole = Change { old: self.change.old, pages: [self.change.pages[0], second.pages[1]], ..*second };
        let whole = Change { huge: [self.change.huge[0], second.huge[1]], ..whole };
        let here = self.at == at && second.old == Entry::NONE;
        // A PMD that is cleared is split in one case only: that of the huge zero page. Of a file it just goes.
        let splits = whole.huge == [true, false];
        let here = here && (!splits || second.new.pfn == Some(u64::from(ZERO_PFN)));
        // A mapping by PFN begins with empty entries: what was cleared there was of the mapping that it replaces.
        let here = here && second.new.pfn.is_none_or(|pfn| pfn < u64::from(RAW_PFN_BASE) || !replaced(whole.old.kind));
        (here && transitions().any(|pair| pair == whole.forms())).then_some(whole)
    }
}

/// What a mapping by PFN never has of its own.
fn replaced(old: EntryKind) -> bool {
    !matches!(old, EntryKind::Present | EntryKind::None)
}

/// Every change of an entry in order. A change of a PMD is one for each of its pages.
pub fn changes(trace: &Trace) -> Vec<Change> {
    let mut ops = [None; MAX_CPUS];
    let mut cleared: [Vec<Cleared>; MAX_CPUS] = Default::default();
    let mut out = Vec::new();
    for (_, event) in &trace.events {
        match *event {
            Event::OpStart { op, cpu } => ops[usize::from(cpu) % MAX_CPUS] = Some(op),
            Event::OpEnd { cpu, .. } => {
                let cpu = usize::from(cpu) % MAX_CPUS;
                out.extend(cleared[cpu].drain(..).map(|c| c.change));
                ops[cpu] = None;
            }
            Event::Entry { cpu: None, old, new, exclusive, huge, .. } => {
                out.push(Change { op: None, hardware: true, old, new, pages: exclusive, huge });
            }
            Event::Entry { cpu: Some(cpu), proc, vpn, old, new, exclusive, huge, .. } => {
                let (op, waiting) = (ops[usize::from(cpu) % MAX_CPUS], &mut cleared[usize::from(cpu) % MAX_CPUS]);
                let (at, change) = ((proc, vpn), Change { op, hardware: false, old, new, pages: exclusive, huge });
                if new == Entry::NONE {
                    // Of a PMD all pages are cleared before the first is set again.
                    if !huge[0] || waiting.iter().any(|c| !c.change.huge[0]) {
                        out.extend(waiting.drain(..).map(|c| c.change));
                    }
                    waiting.push(Cleared { at, change });
                    continue;
                }
                match waiting.iter().find_map(|c| c.completed(at, &change)) {
                    Some(whole) => {
                        waiting.retain(|c| c.at != at);
                        out.push(whole);
                    }
                    None => {
                        out.extend(waiting.drain(..).map(|c| c.change));
                        out.push(change);
                    }
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
