//! Events that no table column shows, as notes under their row.

use ptefuzz_core::observe::UffdChange;
use ptefuzz_core::program::text::Document;
use ptefuzz_core::trace::{CacheEvent, Event, Note};

use super::focus::{Focus, Page};
use super::names::Names;
use crate::names as case_names;

/// Most notes of one row.
const MOST: usize = 10;

/// The note of an event that belongs to the story, with the CPU whose row it stands under (`None`: whichever
/// row is being told).
pub(super) fn of(
    event: &Event,
    doc: &Document,
    focus: &Focus,
    accesses: bool,
    names: &mut Names,
) -> Option<(Option<u8>, String)> {
    let ours = |proc: u8, vpn: u32, pfn: u32| focus.has((proc, vpn)) || Some(pfn) == focus.pfn;
    match *event {
        Event::Tlb { cpu, proc, vpn, pfn, write, what } if accesses && ours(proc, vpn, pfn) => {
            let target = target((proc, vpn), pfn, write, doc, names);
            Some((None, format!("TLB of cpu{cpu} {} {target}", verb(what))))
        }
        Event::Mirror { device, proc, vpn, pfn, write, what } if ours(proc, vpn, pfn) => {
            let target = target((proc, vpn), pfn, write, doc, names);
            Some((None, format!("table of {} {} {target}", case_names::device(device), verb(what))))
        }
        Event::Access { by, proc, vpn, pfn, write, value } if accesses && ours(proc, vpn, pfn) => {
            let (who, page) = (case_names::agent(by), case_names::page((proc, vpn), doc));
            let (value, frame) = (names.value(value), names.frame(pfn));
            let text = if write {
                format!("{who} stores {value} to {page} ({frame})")
            } else {
                format!("{who} loads {value} from {page} ({frame})")
            };
            Some((None, text))
        }
        Event::Signal { by, proc, vpn, signal } => {
            let page = case_names::page((proc, vpn), doc);
            Some((None, format!("{} at {page}: {}", case_names::agent(by), signal.name())))
        }
        Event::Userfault { cpu, reason, .. } => {
            Some((Some(cpu), format!("cpu{cpu} waits in a userfault ({})", reason.name())))
        }
        Event::UffdChange { cpu, proc, change } => {
            let page = |vpn| case_names::page((proc, vpn), doc);
            let text = match change {
                UffdChange::Fork => "UFFD_EVENT_FORK".to_string(),
                UffdChange::Remap { from, to, pages } => {
                    format!("UFFD_EVENT_REMAP: {} to {}, {pages} pages", page(from), page(to))
                }
                UffdChange::Remove { vpn, pages } => format!("UFFD_EVENT_REMOVE: {}, {pages} pages", page(vpn)),
                UffdChange::Unmap { vpn, pages } => format!("UFFD_EVENT_UNMAP: {}, {pages} pages", page(vpn)),
            };
            Some((Some(cpu), format!("the monitor reads {text}")))
        }
        Event::Wait { cpu, lock } => Some((Some(cpu), format!("cpu{cpu} waits for {lock}"))),
        Event::Note { cpu, note, pfn, a, b } if pfn.is_none() || focus.pfn.is_none() || pfn == focus.pfn => {
            Some((Some(cpu), words(note, pfn, a, b, names)))
        }
        _ => None,
    }
}

fn verb(what: CacheEvent) -> &'static str {
    match what {
        CacheEvent::Fill => "loads",
        CacheEvent::Evict => "evicts",
        CacheEvent::Flush => "flushes",
    }
}

fn target(page: Page, pfn: u32, write: bool, doc: &Document, names: &mut Names) -> String {
    let access = if write { "rw" } else { "ro" };
    format!("{} -> {} {access}", case_names::page(page, doc), names.frame(pfn))
}

/// A note of the modelled kernel with its numbers; frames get their names.
fn words(note: Note, pfn: Option<u32>, a: u32, b: u32, names: &mut Names) -> String {
    if let Some(pfn) = pfn {
        names.frame(pfn);
    }
    let mut text = note.text().to_owned();
    for (hole, number) in [("{a}", a), ("{b}", b)] {
        let frame = format!("f{hole}");
        if text.contains(&frame) {
            let name = names.frame(number);
            text = text.replace(&frame, &name);
        }
        text = choose(text, hole, number);
        // Counts are signed; a note carries their bits.
        text = text.replace(hole, &number.cast_signed().to_string());
    }
    text
}

/// Puts the word with this number in the place of `{a?zero|one|two}`, or the number when there are not so many.
fn choose(text: String, hole: &str, number: u32) -> String {
    let open = hole.replace('}', "?");
    let Some((before, rest)) = text.split_once(&open) else { return text };
    let Some((words, after)) = rest.split_once('}') else { return text };
    match words.split('|').nth(number as usize) {
        Some(word) => format!("{before}{word}{after}"),
        None => format!("{before}{number}{after}"),
    }
}

/// Longest block of notes whose repetitions are counted.
const BLOCK: usize = 4;

/// Counts notes that come again and again, alone or in small blocks (a loop that tries the same again), and leaves
/// out the middle of very many.
pub(super) fn squeeze(notes: Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = notes.as_slice();
    while !rest.is_empty() {
        let (block, times) = repeated(rest);
        out.extend_from_slice(&rest[..block]);
        if let Some(last) = out.last_mut().filter(|_| times > 1) {
            last.push_str(&match block {
                1 => format!(" (x{times})"),
                n => format!(" (these {n} x{times})"),
            });
        }
        rest = &rest[block * times..];
    }
    if out.len() > MOST {
        let left_out = out.len() - (MOST - 1);
        let start = MOST / 2;
        out.splice(start..start + left_out, [format!("... {left_out} more notes ...")]);
    }
    out
}

/// Length of the block that `notes` begin with, and how often it stands there; the block that covers most.
fn repeated(notes: &[String]) -> (usize, usize) {
    let count = |block: usize| notes.chunks(block).take_while(|c| *c == &notes[..block]).count();
    (1..=BLOCK.min(notes.len()))
        .map(|block| (block, count(block)))
        .filter(|(_, times)| *times > 1)
        .max_by_key(|(block, times)| (block * times, std::cmp::Reverse(*block)))
        .unwrap_or((1, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_its_numbers_filled_in_and_frames_get_story_names() {
        let mut names = Names::default();
        names.frame(40);
        assert_eq!(words(Note::RefsUnexpected, Some(40), 2, 3, &mut names), "kept: refcount is 2, expected 3");
        assert_eq!(words(Note::Migrated, Some(40), 99, 0, &mut names), "moved to frame f2");
        assert_eq!(
            words(Note::MigrateFailed, None, 2, u32::MAX, &mut names),
            "migration failed: refcount 2, mapcount -1"
        );
        assert_eq!(words(Note::PoisonResult, None, 3, 0, &mut names), "memory failure: recovered");
        assert_eq!(words(Note::PoisonResult, None, 9, 0, &mut names), "memory failure: 9");
    }

    #[test]
    fn repeated_notes_are_counted_and_very_many_are_cut_in_the_middle() {
        let notes = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert_eq!(squeeze(notes("aab")), ["a (x2)", "b"]);
        assert_eq!(squeeze(notes("zababab")), ["z", "a", "b (these 2 x3)"]);
        assert_eq!(squeeze(notes("aaaa")), ["a (x4)"]);
        assert!(squeeze(Vec::new()).is_empty());
        let many = squeeze((0..100).map(|i| i.to_string()).collect());
        assert_eq!(many.len(), MOST);
        assert_eq!(many[5], "... 91 more notes ...");
        assert_eq!(many[MOST - 1], "99");
    }
}
