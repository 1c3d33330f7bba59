//! What becomes of each bit when one entry follows another: carried, dropped, set.
//!
//! One row for each row of [`super::TRANSITIONS`], one cell for each bit of [`Bit`], each cell with the kernel function that
//! does it. The rows are written as rules over sets of kinds, because most paths treat a family of kinds alike; the
//! first rule that fits counts. A change of a present entry into another present entry is so many things that the path
//! has to be known: [`PATHS`] has a row for each path that treats the bits in its own way.
//!
//! A cell speaks of what the bit *means*, not of where it is kept: "write" of a migration entry is its type, "dirty" of a
//! swapped page is gone into its folio, and so dropped from the entry. `exclusive` is `PageAnonExclusive` of the page that
//! an entry names, or what stands for it: the bit beside a swap entry, the type of a migration entry.
//!
//! Where an entry has no room in this release or on this architecture ([`EntryConfig::holds`]), carried means dropped: no
//! young and dirty in migration entries before 6.1, no soft-dirty on arm64.

mod huge;
mod rules;
mod table;

use super::EntryKind::{
    self, DeviceExclusive, HwPoison, MigrationRead, MigrationReadExclusive, MigrationWrite, Present, Swap, SwapSpecial,
};
use super::{Entry, EntryBit, EntryConfig, TRANSITIONS};

pub use huge::{Form, HUGE_PATHS, HUGE_TRANSITIONS, HugeTransition};
use rules::RULES;
pub use rules::{HARDWARE, PATHS, Path};
pub use table::markdown;

/// What is said of an entry beside its kind, its page and its slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Bit {
    /// Accessed.
    Young,
    /// Written since it was clean.
    Dirty,
    /// Written since `clear_refs`.
    SoftDirty,
    /// Write-protected by userfaultfd.
    UffdWp,
    /// The anonymous page is exclusive to this entry.
    Exclusive,
    /// Writable, now or once the page is back.
    Write,
}

impl Bit {
    /// Every bit, in the order of the cells.
    pub const ALL: [Bit; 6] = [Bit::Young, Bit::Dirty, Bit::SoftDirty, Bit::UffdWp, Bit::Exclusive, Bit::Write];

    /// Name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Bit::Young => "young",
            Bit::Dirty => "dirty",
            Bit::SoftDirty => "soft-dirty",
            Bit::UffdWp => "uffd-wp",
            Bit::Exclusive => "exclusive",
            Bit::Write => "write",
        }
    }

    /// Whether an entry of this kind can say it, in some release.
    #[must_use]
    pub const fn said_by(self, kind: EntryKind) -> bool {
        let flags = matches!(kind, Present) || kind.is_swap_format();
        match self {
            Bit::Young | Bit::Dirty => matches!(kind, Present) || kind.is_migration(),
            Bit::SoftDirty => flags && !matches!(kind, SwapSpecial),
            Bit::UffdWp => flags,
            Bit::Exclusive => matches!(kind, Swap) || kind.has_pfn() && !matches!(kind, HwPoison),
            Bit::Write => kind.has_pfn() && !matches!(kind, HwPoison | DeviceExclusive),
        }
    }

    fn held(self, ec: &EntryConfig, kind: EntryKind) -> bool {
        match self {
            Bit::Young => ec.holds(kind, EntryBit::Young),
            Bit::Dirty => ec.holds(kind, EntryBit::Dirty),
            Bit::SoftDirty => ec.holds(kind, EntryBit::SoftDirty),
            Bit::UffdWp | Bit::Exclusive | Bit::Write => self.said_by(kind),
        }
    }
}

/// What becomes of a bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Carry {
    /// The new entry says what the old one said.
    Carried,
    /// The new entry does not say it, whatever the old one said.
    Dropped,
    /// The new entry says it, whatever the old one said.
    Set,
    /// Carried when the old entry says it; else decided anew.
    MaySet,
    /// Not there when the old entry does not say it; else decided anew.
    MayDrop,
    /// Decided anew.
    Decided,
    /// Neither entry can say it.
    NotHeld,
}

impl Carry {
    /// Word in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Carry::Carried => "carried",
            Carry::Dropped => "dropped",
            Carry::Set => "set",
            Carry::MaySet => "carried or set",
            Carry::MayDrop => "carried or dropped",
            Carry::Decided => "decided anew",
            Carry::NotHeld => "n/a",
        }
    }

    /// Whether this may become of a bit.
    #[must_use]
    pub const fn allows(self, old: bool, new: bool) -> bool {
        match self {
            Carry::Carried => old == new,
            Carry::Dropped | Carry::NotHeld => !new,
            Carry::Set => new,
            Carry::MaySet => new || !old,
            Carry::MayDrop => old || !new,
            Carry::Decided => true,
        }
    }
}

/// One cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// What becomes of the bit.
    pub carry: Carry,
    /// The kernel function that does it, and how.
    pub by: &'static str,
}

/// One cell for each of [`Bit::ALL`].
pub type Cells = [Cell; 6];

/// Every legal pair: those of PTEs, then those with a huge page in them.
pub fn transitions() -> impl Iterator<Item = (Form, Form)> {
    let form = |kind| Form::new(false, kind);
    let ptes = TRANSITIONS.iter().map(move |t| (form(t.from), form(t.to)));
    ptes.chain(HUGE_TRANSITIONS.iter().map(|t| (t.from, t.to)))
}

/// The cells of a transition. `None` when there is no rule for it: then the table has a hole.
#[must_use]
pub fn cells(from: Form, to: Form) -> Option<Cells> {
    let mut cells = if from.huge || to.huge {
        HUGE_TRANSITIONS.iter().find(|t| (t.from, t.to) == (from, to))?.cells
    } else {
        RULES.iter().find(|r| r.fits(from.kind, to.kind))?.cells
    };
    let (from, to) = (from.kind, to.kind);
    for (bit, cell) in Bit::ALL.into_iter().zip(&mut cells) {
        if !bit.said_by(from) && !bit.said_by(to) {
            *cell = Cell { carry: Carry::NotHeld, by: "neither entry can say it" };
        }
    }
    Some(cells)
}

/// The cells of a change that an op has made.
#[must_use]
pub fn cells_of(op: &str, from: Form, to: Form) -> Option<Cells> {
    let paths = if from.huge { HUGE_PATHS } else { PATHS };
    let path = paths.iter().find(|p| from == to && from.kind == Present && p.op == op);
    path.map(|p| p.cells).or_else(|| cells(from, to))
}

/// What an entry says of each bit. `page` is `PageAnonExclusive` of the page that it names. `None`: it does not say.
fn says(ec: &EntryConfig, entry: &Entry, page: bool) -> [Option<bool>; 6] {
    let exclusive = match entry.kind {
        Swap => Some(entry.exclusive),
        MigrationRead => Some(false),
        MigrationReadExclusive => Some(true),
        // An anonymous page then, but a file page has no such bit.
        MigrationWrite => None,
        kind if Bit::Exclusive.said_by(kind) => Some(page),
        _ => Some(false),
    };
    [
        Some(entry.young),
        Some(entry.dirty),
        Some(entry.soft_dirty),
        Some(entry.remembers_uffd_wp()),
        exclusive.filter(|_| ec.anon_exclusive),
        Some(entry.is_writable()),
    ]
}

/// The first cell that an observed change contradicts, if any; an error when the change has no cells. `huge`: whether
/// what the old and the new entry say is said by a PMD.
///
/// # Errors
/// The table has a hole there.
pub fn contradiction(
    ec: &EntryConfig,
    op: &str,
    [old, new]: [&Entry; 2],
    huge: [bool; 2],
    pages: [bool; 2],
) -> Result<Option<(Bit, Carry)>, (Form, Form)> {
    let (from, to) = (Form::new(huge[0], old.kind), Form::new(huge[1], new.kind));
    let cells = cells_of(op, from, to).ok_or((from, to))?;
    let (before, after) = (says(ec, old, pages[0]), says(ec, new, pages[1]));
    for (i, bit) in Bit::ALL.into_iter().enumerate() {
        let carry = match cells[i].carry {
            Carry::Carried | Carry::Set | Carry::MaySet if !bit.held(ec, new.kind) => Carry::Dropped,
            // Nothing was there to carry.
            Carry::Carried if !bit.held(ec, old.kind) => Carry::Dropped,
            carry => carry,
        };
        if let (Some(old), Some(new)) = (before[i], after[i])
            && !carry.allows(old, new)
        {
            return Ok(Some((bit, carry)));
        }
    }
    Ok(None)
}
