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
            "an access to the locked page waits for I/O, and a secret that was locked into memory may be written to swap",
        ),
        Rule::OracleSmaps => (
            "smaps reports {found}; right is {expected}[: {on}]",
            "tools that read smaps (an OOM killer in user space, memory accounting) get wrong numbers",
        ),
        Rule::OracleHmm => (
            "the driver is told of {what} at {page}, which is not so",
            "the device reads or writes what its process may not, or what is no longer the process's",
        ),
        Rule::GupMovable => (
            "{folio} is pinned for a long time in ZONE_MOVABLE",
            "the memory can neither be offlined nor be used for a huge page until the driver unpins it, which may be never",
        ),
        Rule::MlockReclaimed => (
            "reclaim takes {folio} out of {page}, which is locked into memory",
            "a page that mlock() keeps in memory is swapped out: a secret is written to disk, a real-time thread takes a major fault",
        ),
        Rule::MlockStranded => (
            "{folio} is still mlocked (PG_mlocked), but no VM_LOCKED mapping maps it",
            "it stays unevictable: reclaim passes over it until its owner frees it",
        ),
        _ => (
            "{folio} is freed while it is still mlocked (PG_mlocked)",
            "NR_MLOCK stays too high, and the next owner of the page may inherit the flag",
        ),
    }
}

fn userfaults(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleUffdMissed => (
            "{who} accesses {page} without the userfault that it should have caused",
            "the monitor never sees the access: it misses a write, or the thread reads memory that nobody has filled",
        ),
        Rule::OracleUffdEvent => (
            "{who} waits in a userfault at {page}, where there should be none[: {on}]",
            "the monitor gets an event that it does not expect, and may resolve a fault that needs no resolving",
        ),
        Rule::OracleUffdWakeup => (
            "{who} still waits in a userfault at {page} after it was woken",
            "the thread hangs until the userfaultfd is closed",
        ),
        Rule::OracleUffdPagemap => (
            "pagemap reports the uffd-wp bit of {page} as {found}; right is {expected}",
            "a program that tracks writes through pagemap misses a change, or copies too much",
        ),
        Rule::OracleUffdChange => (
            "what the monitor hears of {what} is not what happens[: {on}]",
            "the monitor's picture of the memory is wrong: it throws away pages that are still there, or fills ones that are not",
        ),
        _ => (
            "{who} takes a userfault itself while it resolves one for the monitor",
            "the monitor waits for itself: a deadlock",
        ),
    }
}

fn visible(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::OracleValue => (
            "{who} loads {found} from {page}[, where {expected} was stored last]",
            "user space sees it: data is lost, or shows up in the wrong mapping",
        ),
        Rule::OracleAccess => (
            "the access of {who} to {page} succeeds where the mapping forbids it, or fails where the mapping allows it[ ({what})]",
            "the protection that a program asked for is not the one it has",
        ),
        Rule::OracleSignal => (
            "{who} gets a signal at {page} that is wrong for its mapping, or gets none where it must[ ({what})]",
            "a correct program is killed, or an access that must fail does not",
        ),
        Rule::OraclePoison => (
            "{who} reaches {page}, which was lost to a memory failure and has given SIGBUS before",
            "a program goes on with data that the hardware has lost",
        ),
        Rule::OracleResult => (
            "a system call on {page} returns what its manual page does not allow[: {what}][, although {on}]",
            "a program relies on a result that is wrong",
        ),
        _ => (
            "{page} was written since clear_refs, and pagemap says that it was not",
            "tools that copy only soft-dirty pages (CRIU, live migration) lose this write",
        ),
    }
}

fn pfnmap(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::BugRemap => (
            "remap_pfn_range() finds an entry that is not empty[ at {page}]: {what}",
            "its BUG_ON() triggers; without it, the old entry would be overwritten and its page lost",
        ),
        Rule::BugSpecialPte => (
            "a function that fills an empty entry finds the special entry of userfaultfd there[, at {page}], and does not know it",
            "it takes the entry for empty: the write protection is lost, and the monitor misses the next write",
        ),
        _ => (
            "frame {found} belongs to a device, and its struct page is used",
            "there is no struct page for it: the count, lock or free goes to unrelated memory",
        ),
    }
}

fn large(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::DeferredSplit => (
            "{folio} is a large folio with {found} of {expected} pages mapped, and is not on the deferred split queue",
            "the pages that nothing maps stay in use for as long as one of the others is mapped",
        ),
        Rule::BugHugetlbSplit => (
            "the PMD of a hugetlb page is split[ at {page}]",
            "hugetlb deposits no page table and has no code for PTEs: the kernel hits a BUG",
        ),
        Rule::BugHugetlbPte => (
            "the entry of a hugetlb page is replaced by one that belongs into a PTE[ at {page}]",
            "hugetlb maps its pages whole, and would misread the entry at the next fault, fork or unmap",
        ),
        _ => (
            "{folio} is unpinned, and its page is no longer exclusive (PageAnonExclusive)",
            "the device may have used a page that is no longer the one the process maps",
        ),
    }
}

fn hugetlb(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::SharedTable => (
            "a hugetlb page table is shared with a mapping that must not share it[ at {page}][ ({what})]",
            "a change or an unmap by one process also takes effect in the other",
        ),
        Rule::HugetlbCounts => (
            "{what} of the hugetlb pool is {found}; right is {expected}",
            "a reservation that mmap() made fails at the fault, or huge pages can no longer be used",
        ),
        _ => (
            "{what} is still {found} when every process has exited and every file is gone",
            "huge pages stay reserved for mappings that no longer exist",
        ),
    }
}

fn counts(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Mapcount => (
            "{folio} has a mapcount of {found}[; entries that map it: {expected}]",
            "reclaim, migration and reuse decide by the mapcount: too low and they stop early, too high and they never end",
        ),
        Rule::Refcount => (
            "{folio} has a refcount of {found}[; its entries, page or swap cache, and pins account for {expected}]",
            "too low and it is freed in use, too high and it can be neither migrated nor freed",
        ),
        Rule::FreedInUse => (
            "{folio} is freed while something still refers to it[: {what}][ at {page}]",
            "the next owner of the frame shares it with the old one: use after free",
        ),
        Rule::AnonExclusive => (
            "{folio} is marked PageAnonExclusive but is shared[, or is mapped writable without that mark, at {page}]",
            "a write through one mapping shows up in the other: copy-on-write is broken",
        ),
        Rule::SwapMap => (
            "a swap slot has a count of {found}[; entries that name it: {expected}]",
            "too low and the slot is reused under an entry that still names it, too high and it is lost",
        ),
        _ => (
            "an RSS counter of a process[ ({what})] is {found}[; its entries account for {expected}]",
            "the OOM killer and memory limits use a wrong number; exit reports \"Bad rss-counter state\"",
        ),
    }
}

fn entries(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Accessor => (
            "[{what}() is applied to ][a {on} entry][ at {page}], which it is not made for",
            "the bits mean something else there: the result is part of a frame number or of a swap offset",
        ),
        Rule::Transition => (
            "the entry of {page} turns[ from {on}][ into {what}], which no kernel function does",
            "the page, swap slot or note that the old entry stood for is lost",
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
            "the write takes no fault, so soft-dirty tracking misses it",
        ),
        Rule::NoteVma => (
            "{page} is anonymous memory, and its entry becomes a note of write protection (a uffd-wp marker)",
            "such notes are for pages of files: code that meets this one looks for a page of a file, and there is none",
        ),
        Rule::WritablePageCache => (
            "{page} is a private mapping, and its entry maps {folio} of the page cache writable",
            "a store changes the file: everybody who maps or reads it sees that",
        ),
        Rule::WritableUffdWp => (
            "{page} is write-protected by userfaultfd, and its entry is writable",
            "the write takes no fault, so userfaultfd misses it",
        ),
        _ => ("the entry of {page} is writable, and its VMA is not", "a store succeeds that must end in SIGSEGV"),
    }
}

fn cached(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::StaleTlb => (
            "{who} can still use a translation of {page}[ to {folio}] that its entry no longer allows",
            "an access reaches the old page, or bypasses the new protection, without a fault",
        ),
        Rule::TlbFreedFrame => (
            "{folio} is freed while a CPU can still reach it[ through its translation of {page}]",
            "the next owner of the frame can be read and overwritten: use after free by hardware",
        ),
        Rule::StaleDevice => (
            "{who} can still use a translation of {page}[ to {folio}] that the CPU's entry no longer allows",
            "the device reads or overwrites memory that it may no longer use",
        ),
        Rule::DeviceFreedFrame => (
            "{folio} is freed while a device can still reach it[ through its translation of {page}]",
            "the next owner of the frame can be read and overwritten by the device",
        ),
        Rule::TwoExclusive => (
            "{page} is exclusive to a device and somebody else can still reach it[ ({who})]",
            "an atomic operation of the device is not atomic: a concurrent access gets in between",
        ),
        _ => (
            "an MMU notifier invalidation of {page} was started and never ended",
            "devices that mirror this range wait for ever",
        ),
    }
}

fn locks(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::LazyMmu => (
            "{who} uses lazy MMU mode wrongly: {what}",
            "updates of entries may stay queued where they must be visible at once, or while the thread sleeps",
        ),
        Rule::EntryUnlocked => (
            "{who} changes the entry of {page} without the lock of its page table",
            "another CPU that holds the lock overwrites the change, or has its own overwritten",
        ),
        Rule::LockOrder => (
            "wrong lock order: {who} takes {what} while it holds {on}",
            "two CPUs that do this in opposite order wait for each other for ever",
        ),
        Rule::SleepInAtomic => (
            "{who} may sleep[ in {what}] while it holds a spinlock[ ({on})]",
            "whoever spins on the lock meanwhile may never stop",
        ),
        Rule::FreedTable => (
            "{who} locks a page table that has been freed",
            "the memory of the lock may have a new owner by now: use after free",
        ),
        Rule::Deadlock => ("deadlock: no CPU can go on[; {who} waits][ for {what}]", "the machine hangs"),
        Rule::NotOwner => {
            ("{who} releases a lock that it does not hold[: {what}]", "what the lock protects is no longer protected")
        }
        _ => ("an operation returns and still holds a lock[: {what}]", "the next one to take it waits for ever"),
    }
}

fn progress(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::ProgressReclaim => (
            "{folio} is held by nothing but its mappings and still cannot be reclaimed",
            "reclaim fails every time it tries: the memory stays in use",
        ),
        Rule::ProgressMigrate => (
            "{folio} is held by nothing but its mappings and still cannot be migrated",
            "compaction, NUMA balancing and memory offlining fail on it",
        ),
        Rule::ProgressOffline => (
            "a memory block cannot be offlined: {folio} is held by nothing but its mappings and still cannot be migrated",
            "offline_pages() tries again for ever",
        ),
        Rule::ProgressSwapoff => (
            "a swap device cannot be taken out of use[: {found} slots stay in use] although there is memory for them",
            "swapoff tries again for ever",
        ),
        _ => (
            "{who} does not finish an operation within its budget of steps[ ({what})]",
            "it retries for ever: a livelock",
        ),
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
    const TRIPPED: &str = "an assertion of the kernel fails: a warning, or a BUG with CONFIG_DEBUG_VM";
    match rule {
        Rule::KsmWritable => (
            "the KSM page {folio} is mapped writable[ at {page}]",
            "a write through one mapping shows up in all others, and KSM goes on merging by the old contents",
        ),
        Rule::Memcg => (
            "a control group's counter ({what}) is {found}[; what is charged to it adds up to {expected}]",
            "limits apply too early or too late, and the group can never be freed",
        ),
        Rule::MemcgLeftBehind => (
            "{folio}, which {page} maps, stays charged to the group that its process has left",
            "the old group pays for memory of a process that it no longer has",
        ),
        Rule::LeakMemcg => (
            "[{folio} ]stays charged to a control group after every process has exited",
            "the group can never be freed",
        ),
        Rule::PoisonMapped => (
            "{folio}, whose memory has failed, is mapped again[ at {page}]",
            "an access to the page reads wrong data, or causes another machine check",
        ),
        Rule::BugUnmapSwapcache => (
            "try_to_unmap_one() is about to replace {folio} by a swap entry, but the folio is not in the swap cache",
            TRIPPED,
        ),
        Rule::BugRestoreExclusive => {
            ("restore_exclusive_pte() makes {folio} writable, which is not PageAnonExclusive", TRIPPED)
        }
        Rule::BugSwapPageExclusive => {
            ("do_swap_page() finds {folio} in the swap cache for {page} already PageAnonExclusive", TRIPPED)
        }
        Rule::BugSwapPageWritable => {
            ("do_swap_page() maps {folio} writable at {page} although it is not exclusive", TRIPPED)
        }
        Rule::BugMigrateExclusive => (
            "try_to_migrate_one() finds a writable entry at {page}, and its page {folio} is not PageAnonExclusive",
            TRIPPED,
        ),
        Rule::BugDupRmap => ("fork shares {folio} at {page} and leaves it PageAnonExclusive", TRIPPED),
        Rule::BugCacheMapped => ("{folio} leaves the page cache although {page} may still map it", TRIPPED),
        Rule::BugSwapCount => ("a swap slot is freed that is not in use[ ({page})]", TRIPPED),
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
