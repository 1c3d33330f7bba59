//! The words for each rule: what is wrong, told with the names of the case, and what follows from it.
//!
//! A template may hold `{folio}`, `{page}`, `{who}`, `{expected}`, `{found}`, `{what}` and `{on}`. What stands in
//! `[brackets]` is left out when the evidence lacks one of the names in it; outside brackets a missing name
//! becomes a general word ("a folio").

use ptefuzz_core::rule::Rule;

/// Names and numbers of one violation, as the story spells them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    pub(super) folio: Option<String>,
    pub(super) page: Option<String>,
    pub(super) who: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) found: Option<String>,
    pub(super) what: Option<String>,
    pub(super) on: Option<String>,
}

impl Terms {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "folio" => self.folio.as_deref(),
            "page" => self.page.as_deref(),
            "who" => self.who.as_deref(),
            "expected" => self.expected.as_deref(),
            "found" => self.found.as_deref(),
            "what" => self.what.as_deref(),
            "on" => self.on.as_deref(),
            _ => None,
        }
    }
}

/// Words for a name that the evidence lacks.
fn general(name: &str) -> &'static str {
    match name {
        "folio" => "a folio",
        "page" => "a page",
        "who" => "somebody",
        "expected" | "found" => "another number",
        _ => "something",
    }
}

/// Fills a template in.
fn fill(template: &str, terms: &Terms) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('[') {
        let Some(len) = rest[open..].find(']') else { break };
        out.push_str(&fill_names(&rest[..open], terms, true).unwrap_or_default());
        if let Some(inner) = fill_names(&rest[open + 1..open + len], terms, false) {
            out.push_str(&inner);
        }
        rest = &rest[open + len + 1..];
    }
    out.push_str(&fill_names(rest, terms, true).unwrap_or_default());
    out
}

/// Fills in the names of a part; `None` when one is missing and no general word is wanted for it.
fn fill_names(part: &str, terms: &Terms, or_general: bool) -> Option<String> {
    let mut out = String::new();
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}')?;
        out.push_str(before);
        match terms.get(name) {
            Some(word) => out.push_str(word),
            None if or_general => out.push_str(general(name)),
            None => return None,
        }
        rest = tail;
    }
    out.push_str(rest);
    Some(out)
}

/// What is wrong, in one sentence without a full stop.
pub(super) fn headline(rule: Rule, terms: &Terms) -> String {
    fill(templates(rule).0, terms)
}

/// What follows from it, for somebody who knows memory management but not this program.
pub(super) fn consequence(rule: Rule, terms: &Terms) -> String {
    fill(templates(rule).1, terms)
}

/// Headline and consequence of each rule.
fn templates(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleValue
        | Rule::OracleAccess
        | Rule::OracleSignal
        | Rule::OracleResult
        | Rule::OracleSoftDirty
        | Rule::OraclePoison => visible(rule),
        Rule::Mapcount | Rule::Refcount | Rule::FreedInUse | Rule::AnonExclusive | Rule::SwapMap | Rule::Rss => {
            counts(rule)
        }
        Rule::DeferredSplit | Rule::BugUnpin | Rule::BugHugetlbSplit | Rule::BugHugetlbPte => large(rule),
        Rule::RawFrame | Rule::BugRemap | Rule::BugSpecialPte => pfnmap(rule),
        Rule::HugetlbCounts | Rule::LeakHugetlb | Rule::SharedTable => hugetlb(rule),
        Rule::Accessor
        | Rule::Transition
        | Rule::BadPfn
        | Rule::WalkKind
        | Rule::WritableSoftDirty
        | Rule::WritableUffdWp
        | Rule::WritablePageCache
        | Rule::WritableVma
        | Rule::NoteVma => entries(rule),
        Rule::StaleTlb
        | Rule::TlbFreedFrame
        | Rule::StaleDevice
        | Rule::DeviceFreedFrame
        | Rule::TwoExclusive
        | Rule::NotifierUnbalanced => cached(rule),
        Rule::EntryUnlocked
        | Rule::LockOrder
        | Rule::SleepInAtomic
        | Rule::Deadlock
        | Rule::NotOwner
        | Rule::LazyMmu
        | Rule::FreedTable
        | Rule::HeldAtReturn => locks(rule),
        Rule::ProgressReclaim
        | Rule::ProgressMigrate
        | Rule::ProgressOffline
        | Rule::ProgressSwapoff
        | Rule::ProgressSteps => progress(rule),
        Rule::OracleUffdMissed
        | Rule::OracleUffdEvent
        | Rule::OracleUffdWakeup
        | Rule::OracleUffdPagemap
        | Rule::OracleUffdChange
        | Rule::ProgressUserfault => userfaults(rule),
        Rule::LeakFolio | Rule::LeakSwap | Rule::LeakTable | Rule::LeakAnonVma => leaks(rule),
        Rule::OracleSmaps
        | Rule::OracleMincore
        | Rule::MlockReclaimed
        | Rule::MlockStranded
        | Rule::MlockFreed
        | Rule::GupMovable
        | Rule::OracleHmm => held(rule),
        other => assertions(other),
    }
}

fn held(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleMincore => (
            "mincore says that {page} is not in memory, and it is locked",
            "who has locked it for speed waits for a disk, and who has locked a secret may find it on one",
        ),
        Rule::OracleSmaps => (
            "smaps says {found} where {expected} is right[: {on}]",
            "who decides by these numbers whom to kill, or how much fits on a machine, decides wrongly",
        ),
        Rule::OracleHmm => (
            "the driver is told of {what} at {page}, which is not so",
            "the device reads or writes what its process may not, or what is no longer the process's",
        ),
        Rule::GupMovable => (
            "{folio} is pinned for a long time in ZONE_MOVABLE",
            "the memory can neither be taken off line nor be used for a huge page until the driver lets go, if it ever does",
        ),
        Rule::MlockReclaimed => (
            "reclaim takes {folio} out of {page}, which is locked into memory",
            "a secret gets to the swap device, and a real-time thread waits for the disk",
        ),
        Rule::MlockStranded => (
            "{folio} counts as locked into memory although no mapping that maps it is locked",
            "reclaim never looks at it again: the memory is lost to everybody else until its owner gives it up",
        ),
        _ => (
            "{folio} is given back while it still counts as locked into memory",
            "the count of locked memory stays too high, and the next owner of the page may inherit the lock",
        ),
    }
}

fn userfaults(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleUffdMissed => (
            "{who} goes on at {page} although userfaultfd is to stop it there",
            "the monitor never hears of the access: it misses a write, or the thread sees memory that was not filled",
        ),
        Rule::OracleUffdEvent => (
            "{who} waits for userfaultfd at {page}, where nothing is to stop it[: {on}]",
            "the monitor gets an event that it cannot explain, and may resolve what needs no resolving",
        ),
        Rule::OracleUffdWakeup => (
            "{who} still waits for userfaultfd at {page} after it was woken",
            "the thread hangs until the userfaultfd is closed",
        ),
        Rule::OracleUffdPagemap => (
            "pagemap says {found} where {expected} is right for the write protection of {page}",
            "whoever tracks writes through pagemap copies too little, or everything",
        ),
        Rule::OracleUffdChange => (
            "what the monitor hears of {what} is not what happens[: {on}]",
            "the monitor's picture of the memory is wrong: it throws away pages that are still there, or fills ones that are not",
        ),
        _ => (
            "{who} resolves a userfault and waits for one itself",
            "the monitor waits for the monitor: nothing goes on",
        ),
    }
}

fn visible(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleValue => (
            "{who} loads {found} from {page}[, where {expected} was stored last]",
            "data is lost or seen by the wrong mapping; a program notices",
        ),
        Rule::OracleAccess => (
            "the access of {who} to {page} goes through although the mapping forbids it, or the other way round[ ({what})]",
            "the protection that a program asked for is not the one it has",
        ),
        Rule::OracleSignal => (
            "{who} gets a signal at {page} that its mapping does not call for[ ({what})]",
            "a correct program is killed, or an access that must fail does not",
        ),
        Rule::OraclePoison => (
            "{who} reaches {page}, which was lost to a memory failure and has given SIGBUS before",
            "a program goes on with data that the hardware has lost",
        ),
        Rule::OracleResult => (
            "a system call on {page} ends in a way that its manual page rules out[: {what}][, although {on}]",
            "a program acts on a promise that was not kept",
        ),
        _ => (
            "{page} was written since clear_refs, and pagemap says that it was not",
            "whoever copies only soft-dirty pages (checkpoint/restore, live migration) loses this write",
        ),
    }
}

fn pfnmap(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::BugRemap => (
            "a driver maps its device where {what} still stands[ at {page}]",
            "remap_pfn_range() expects empty entries and ends in a BUG; what stood there would be lost",
        ),
        Rule::BugSpecialPte => (
            "who fills an entry finds the note of userfaultfd there[ at {page}], which he does not know",
            "he takes it for empty: the page that was write-protected is written to and nobody is told",
        ),
        _ => (
            "frame {found} belongs to a device and is taken for a page",
            "there is no struct page: whatever is counted, locked or freed there is somebody else's memory",
        ),
    }
}

fn large(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::DeferredSplit => (
            "{folio} is a large folio of which {found} of {expected} pages are mapped, and nobody has queued it to be split",
            "the pages that nothing maps stay in use for as long as one of the others is mapped",
        ),
        Rule::BugHugetlbSplit => (
            "the PMD of a hugetlb page is split[ at {page}]",
            "hugetlb keeps no page table for that, and nothing in it knows of PTEs: the kernel's own checks end in a BUG",
        ),
        Rule::BugHugetlbPte => (
            "a hugetlb page is given an entry that is meant for a PTE[ at {page}]",
            "hugetlb maps its pages whole, and would misread the entry at the next fault, fork or unmap",
        ),
        _ => (
            "{folio} is unpinned and is not exclusive to the mapping through which it was pinned",
            "the device may have worked on a page that the process does not see any more",
        ),
    }
}

fn hugetlb(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::SharedTable => (
            "a page table of hugetlb is shared by a mapping that it does not fit[ at {page}][ ({what})]",
            "what one process changes there for itself, or gives back, another one still walks through",
        ),
        Rule::HugetlbCounts => (
            "the pool of huge pages says {what} {found}, and it is {expected}",
            "promises of mmap cannot be kept, or pages stay out of everybody's reach",
        ),
        _ => (
            "{found} is left of {what} when every process and every file is gone",
            "huge pages are kept back for mappings that are no more",
        ),
    }
}

fn counts(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Mapcount => (
            "{folio} has a mapcount of {found}[; the entries that map it are {expected}]",
            "reclaim, migration and reuse decide by the mapcount: too low and they stop early, too high and they never end",
        ),
        Rule::Refcount => (
            "{folio} has a refcount of {found}[; its entries, swap cache slot and pins make {expected}]",
            "too low and it is freed in use, too high and it can be neither migrated nor freed",
        ),
        Rule::FreedInUse => (
            "{folio} is freed while something still refers to it[: {what}][ at {page}]",
            "the next owner of the frame shares it with the old one: use after free",
        ),
        Rule::AnonExclusive => (
            "{folio} counts as exclusive to one mapping and is not[, or is mapped writable without being so, at {page}]",
            "a write through one mapping shows up in the other: copy-on-write is broken",
        ),
        Rule::SwapMap => (
            "a swap slot has a count of {found}[; the entries that name it are {expected}]",
            "too low and the slot is reused under an entry that still names it, too high and it is lost",
        ),
        _ => (
            "a process has {found} pages in a counter[; its entries make {expected}][ ({what})]",
            "the OOM killer and limits decide by numbers that are wrong; exit complains about the rest",
        ),
    }
}

fn entries(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Accessor => (
            "[{what}() is asked of ][a {on} entry][ at {page}] although it is meant for another kind",
            "the bits mean something else there: the answer is part of a frame number or of a swap offset",
        ),
        Rule::Transition => (
            "the entry of {page} turns[ from {on}][ into {what}], which no kernel function does",
            "what the old entry stood for is forgotten without being given back",
        ),
        Rule::BadPfn => (
            "the frame number {found} is read from the entry of {page}, and there is no such frame",
            "pfn_to_page() of it is a wild pointer",
        ),
        Rule::WalkKind => (
            "page_vma_mapped_walk() stops at {page}[ on a {on} entry][ although it was asked for {what}]",
            "its caller treats the entry as the kind that it asked for",
        ),
        Rule::WritableSoftDirty => (
            "{page} waits for its first write, and its entry is writable",
            "the write goes through without a fault: soft-dirty tracking never hears of it",
        ),
        Rule::NoteVma => (
            "{page} is anonymous memory, and its entry becomes a note that it is write-protected",
            "no page of a file is behind the note: who meets it looks for one",
        ),
        Rule::WritablePageCache => (
            "{page} is a private mapping, and its entry lets stores through to {folio} of the page cache",
            "the store lands in the file: everybody who maps or reads it sees it",
        ),
        Rule::WritableUffdWp => (
            "{page} is write-protected by userfaultfd, and its entry is writable",
            "the write goes through without a fault: userfaultfd never hears of it",
        ),
        _ => (
            "the entry of {page} is writable in a mapping that may not be written",
            "a store goes through that must end in a signal",
        ),
    }
}

fn cached(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::StaleTlb => (
            "{who} can still use a translation of {page}[ to {folio}] that its entry no longer grants",
            "an access goes to the old page or past the new protection, with no fault and no trace",
        ),
        Rule::TlbFreedFrame => (
            "{folio} is given back while a CPU can still reach it[ through its translation of {page}]",
            "the next owner of the frame can be read and overwritten: use after free by hardware",
        ),
        Rule::StaleDevice => (
            "{who} can still use a translation of {page}[ to {folio}] that the CPU's entry no longer grants",
            "the device reads or overwrites what it no longer has a right to",
        ),
        Rule::DeviceFreedFrame => (
            "{folio} is given back while a device can still reach it[ through its translation of {page}]",
            "the next owner of the frame can be read and overwritten by the device",
        ),
        Rule::TwoExclusive => (
            "{page} is exclusive to a device and somebody else can still reach it[ ({who})]",
            "an atomic operation of the device is not atomic: a concurrent access gets in between",
        ),
        _ => ("an invalidation of {page} was begun and never ended", "devices that mirror this range wait for ever"),
    }
}

fn locks(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::LazyMmu => (
            "{who} does not keep lazy MMU mode in order: {what}",
            "changes of entries stay queued where nobody expects it, or are queued while the thread sleeps",
        ),
        Rule::EntryUnlocked => (
            "{who} changes the entry of {page} without the lock of its page table",
            "another CPU that holds the lock overwrites the change, or has its own overwritten",
        ),
        Rule::LockOrder => (
            "{who} takes[ {what}] while it holds[ {on}] a lock that must come later",
            "two CPUs that do this in opposite order wait for each other for ever",
        ),
        Rule::SleepInAtomic => (
            "{who} may sleep[ in {what}] while it holds a spinlock[ ({on})]",
            "whoever spins on the lock meanwhile may never stop",
        ),
        Rule::FreedTable => (
            "{who} locks a page table that was given back before",
            "the lock is in memory that belongs to somebody else by now: whoever it is, is overwritten",
        ),
        Rule::Deadlock => ("nobody can go on[: {who} waits][ for {what}]", "the machine hangs"),
        Rule::NotOwner => {
            ("{who} releases a lock that it does not hold[: {what}]", "what the lock protects is open to whoever comes")
        }
        _ => ("an operation returns and still holds a lock[: {what}]", "the next one to take it waits for ever"),
    }
}

fn progress(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::ProgressReclaim => (
            "{folio} is held by nothing but its mappings and still cannot be reclaimed",
            "the memory stays in use however hard the kernel tries",
        ),
        Rule::ProgressMigrate => (
            "{folio} is held by nothing but its mappings and still cannot be migrated",
            "compaction, NUMA balancing and memory offlining fail on it",
        ),
        Rule::ProgressOffline => (
            "a memory block cannot be offlined because of {folio}, which is held by nothing but its mappings",
            "offline_pages() tries again for ever",
        ),
        Rule::ProgressSwapoff => (
            "a swap device cannot be taken out of use[: {found} slots stay in use] although there is memory for them",
            "swapoff tries again for ever",
        ),
        _ => ("{who} does not come to the end of an operation[ ({what})]", "it retries for ever: a hang"),
    }
}

fn leaks(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::LeakFolio => {
            ("{folio} is still allocated after every process has exited", "the memory is lost until the next boot")
        }
        Rule::LeakSwap => (
            "swap slots are still in use after every process has exited[: {found}]",
            "the slots are lost until swapoff",
        ),
        Rule::LeakTable => (
            "page-table pages are still allocated after every process has exited[: {found}]",
            "the memory is lost until the next boot",
        ),
        _ => (
            "an anon_vma is still allocated after every process has exited[: {found}]",
            "the memory is lost until the next boot",
        ),
    }
}

fn assertions(rule: Rule) -> (&'static str, &'static str) {
    const TRIPPED: &str = "the kernel's own assertion fails: a warning, or a crash with CONFIG_DEBUG_VM";
    match rule {
        Rule::KsmWritable => (
            "{folio}, which KSM has merged, is mapped writable[ at {page}]",
            "a write through one mapping shows up in all others, and KSM takes the page for what it held before",
        ),
        Rule::Memcg => (
            "a control group's counter ({what}) stands at {found}[; what is charged to it makes {expected}]",
            "limits hit too early or too late, and the group can never be removed",
        ),
        Rule::MemcgLeftBehind => (
            "{folio}, which {page} maps, stays charged to the group that its process has left",
            "the old group pays for memory of a process that it no longer has",
        ),
        Rule::LeakMemcg => (
            "[{folio} ]stays charged to a control group after every process has exited",
            "the group can never be removed",
        ),
        Rule::PoisonMapped => (
            "{folio}, whose memory has failed, is mapped again[ at {page}]",
            "whoever uses the page works on memory that loses its contents, or crashes the machine",
        ),
        Rule::BugUnmapSwapcache => {
            ("try_to_unmap_one() is to replace {folio} by a swap entry, and it is in no swap cache", TRIPPED)
        }
        Rule::BugRestoreExclusive => {
            ("restore_exclusive_pte() makes {folio} writable, which is no exclusive anonymous page", TRIPPED)
        }
        Rule::BugSwapPageExclusive => {
            ("do_swap_page() finds {folio} in the swap cache for {page} already marked exclusive", TRIPPED)
        }
        Rule::BugSwapPageWritable => {
            ("do_swap_page() maps {folio} writable at {page} although it is not exclusive", TRIPPED)
        }
        Rule::BugMigrateExclusive => {
            ("try_to_migrate_one() meets a writable entry of {page} whose page {folio} is not exclusive", TRIPPED)
        }
        Rule::BugDupRmap => ("fork shares {folio} at {page} and leaves it marked exclusive", TRIPPED),
        Rule::BugCacheMapped => ("{folio} leaves the page cache although {page} may still map it", TRIPPED),
        Rule::BugSwapCount => ("a swap slot is given back that nobody uses[ ({page})]", TRIPPED),
        Rule::BugRmapUnderflow => {
            ("the mapcount of {folio} is lowered below zero: more mappings are removed than there were", TRIPPED)
        }
        Rule::BugRefUnderflow => {
            ("the refcount of {folio} is lowered below zero: more references are dropped than were taken", TRIPPED)
        }
        Rule::BugUnlocked => ("[{what}() is called for ]{folio} without the folio lock", TRIPPED),
        Rule::BugPageTableCheck => ("page_table_check objects to the entry of {page}[: {what}]", TRIPPED),
        Rule::BugWritableZero => ("the shared zero page is mapped writable at {page}", TRIPPED),
        // A rule that has no words of its own yet is told by its summary; a test keeps this from happening.
        other => (other.summary(), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_words_of_its_own_and_well_formed_templates() {
        for rule in Rule::ALL {
            let (head, why) = templates(rule);
            assert_ne!(head, rule.summary(), "{} is told by its summary only", rule.id());
            assert!(!why.is_empty(), "{}", rule.id());
            for text in [headline(rule, &Terms::default()), consequence(rule, &Terms::default())] {
                assert!(!text.is_empty() && !text.contains(['{', '}', '[', ']']), "{}: {text}", rule.id());
            }
        }
    }

    #[test]
    fn names_are_filled_in_and_a_bracket_without_its_name_is_left_out() {
        let mut terms = Terms { who: Some("cpu1".into()), found: Some("0".into()), ..Terms::default() };
        terms.page = Some("A heap[0]".into());
        assert_eq!(headline(Rule::OracleValue, &terms), "cpu1 loads 0 from A heap[0]");
        terms.expected = Some("v2".into());
        assert_eq!(headline(Rule::OracleValue, &terms), "cpu1 loads 0 from A heap[0], where v2 was stored last");
        terms.folio = None;
        assert_eq!(
            headline(Rule::ProgressReclaim, &terms),
            "a folio is held by nothing but its mappings and still cannot be reclaimed"
        );
    }
}
