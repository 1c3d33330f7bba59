//! What a story is about: one folio and the pages whose entries name it.

use ptefuzz_core::phys::ZERO_PFN;
use ptefuzz_core::program::{Case, Op, Shape};
use ptefuzz_core::rule::Violation;
use ptefuzz_core::trace::{Event, Trace};

/// A page of a process: `(process, virtual page number)`.
pub(super) type Page = (u8, u32);

/// Most pages that get a column of their own.
const COLUMNS: usize = 2;

/// The subject of a story.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Focus {
    /// The frame whose counts are told.
    pub(super) pfn: Option<u32>,
    /// Pages with a column, the one that the violation names first.
    pub(super) columns: Vec<Page>,
    /// Further pages that named the frame at some time; told in notes.
    pub(super) others: Vec<Page>,
}

impl Focus {
    /// Finds the subject in the evidence, or else in what changed last.
    pub(super) fn of(case: &Case, trace: &Trace, violation: Option<&Violation>) -> Focus {
        let evidence = violation.map(|v| v.evidence).unwrap_or_default();
        let named = evidence.proc.zip(evidence.vpn);
        let last = last_change(case, trace, violation);
        let pfn = evidence.pfn.or_else(|| frame_of(trace, named.or(last)?));
        let mut pages: Vec<Page> = named.into_iter().collect();
        for (page, _) in changes(trace).filter(|(_, pfns)| pfn.is_some_and(|p| pfns.contains(&Some(p)))) {
            if !pages.contains(&page) {
                pages.push(page);
            }
        }
        if pages.is_empty() {
            pages.extend(last);
        }
        let others = pages.split_off(pages.len().min(COLUMNS));
        Focus { pfn, columns: pages, others }
    }

    /// True when a page belongs to the story.
    pub(super) fn has(&self, page: Page) -> bool {
        self.columns.contains(&page) || self.others.contains(&page)
    }

    /// True when an op can touch a page of the story, or anything at all.
    pub(super) fn touched_by(&self, case: &Case, op: &Op) -> bool {
        if self.columns.is_empty() {
            return true;
        }
        let base = case.config.geometry.region_base(op.region);
        let covers = |(proc, vpn): &Page| {
            *proc == op.proc && vpn.checked_sub(base).is_some_and(|at| at >= op.page && at - op.page < op.len)
        };
        match op.code.shape() {
            Shape::Block | Shape::Swap | Shape::Count | Shape::File => true,
            Shape::Proc | Shape::Cgroup | Shape::DeviceProc => self.pages().any(|(proc, _)| *proc == op.proc),
            Shape::ProcProc => self.pages().any(|(proc, _)| *proc == op.proc || *proc == op.arg),
            Shape::RangeTo => {
                let (region, page) = op.to();
                let first = case.config.geometry.region_base(region) + page;
                let arrives = |(proc, vpn): &Page| *proc == op.proc && (first..first + op.len).contains(vpn);
                self.pages().any(|p| covers(p) || arrives(p))
            }
            _ => self.pages().any(covers),
        }
    }

    /// Every page of the story.
    pub(super) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.columns.iter().chain(&self.others)
    }
}

/// Entry changes: the page, and the frames named before and after.
fn changes(trace: &Trace) -> impl Iterator<Item = (Page, [Option<u32>; 2])> {
    trace.events.iter().filter_map(|(_, event)| match event {
        Event::Entry { proc, vpn, old, new, .. } => Some(((*proc, *vpn), [frame(old.pfn), frame(new.pfn)])),
        _ => None,
    })
}

/// The frame number of an entry as traces and counts spell it.
pub(super) fn frame(pfn: Option<u64>) -> Option<u32> {
    pfn.and_then(|p| u32::try_from(p).ok())
}

/// The frame that a page's entry named last. Not the zero page: its counts say nothing.
fn frame_of(trace: &Trace, page: Page) -> Option<u32> {
    let mut found = None;
    for (_, frames) in changes(trace).filter(|(p, _)| *p == page) {
        let [old, new] = frames.map(|f| f.filter(|pfn| *pfn != ZERO_PFN));
        found = new.or(old).or(found);
    }
    found
}

/// The page whose entry changed last, preferably under the op during which the violation was noticed.
fn last_change(case: &Case, trace: &Trace, violation: Option<&Violation>) -> Option<Page> {
    let op = violation.and_then(|v| v.op).and_then(|i| case.ops.get(i as usize));
    let first_of_op = op.map(|op| (op.proc, case.config.geometry.region_base(op.region) + op.page));
    let mut pages = changes(trace).map(|(page, _)| page);
    match first_of_op {
        Some(page) if pages.any(|p| p == page) => Some(page),
        _ => changes(trace).last().map(|(page, _)| page),
    }
}
