use ptefuzz_core::config::Defect;
use ptefuzz_core::entry::{Entry, EntryKind};
use ptefuzz_core::observe::{Agent, Outcome};
use ptefuzz_core::program::Case;
use ptefuzz_core::program::text::{Document, parse};
use ptefuzz_core::rule::{Evidence, Rule, Violation};
use ptefuzz_core::sched::Site;
use ptefuzz_core::trace::{CacheEvent, Event, Note, Trace};

use super::*;

const TEXT: &str = "kernel 6.12\n\nprocess A\n  heap = mmap anon private rw 4\n\ncpu 0\n  A write heap[0]\n  \
                    gpu0 exclusive A heap[0]\ncpu 1\n  A read heap[3]\ncpu 0\n  reclaim A heap[0]\n";

fn doc() -> Document {
    parse(TEXT).expect("a case")
}

fn vpn(page: u32) -> u32 {
    doc().case.config.geometry.region_base(0) + page
}

fn present() -> Entry {
    Entry { write: true, dirty: true, young: true, ..Entry::with_pfn(EntryKind::Present, 40) }
}

fn entry(cpu: u8, site: Site, page: u32, old: Entry, new: Entry) -> Event {
    Event::Entry {
        cpu: Some(cpu),
        site: Some(site),
        proc: 0,
        vpn: vpn(page),
        old,
        new,
        exclusive: [false; 2],
        huge: [false; 2],
    }
}

fn op(index: u32, cpu: u8, inner: Vec<Event>) -> Vec<Event> {
    let mut events = vec![Event::OpStart { op: index, cpu }];
    events.extend(inner);
    events.push(Event::OpEnd { op: index, cpu, outcome: Outcome::Done });
    events
}

fn trace(ops: Vec<Vec<Event>>) -> Trace {
    Trace { events: ops.concat().into_iter().zip(0..).map(|(e, step)| (step, e)).collect() }
}

fn device_exclusive() -> Trace {
    let exclusive = Entry::with_pfn(EntryKind::DeviceExclusiveWrite, 40);
    let counts = |mapcount, refcount| Event::Counts { pfn: 40, mapcount, refcount };
    let mirror = Event::Mirror { device: 0, proc: 0, vpn: vpn(0), pfn: 40, write: true, what: CacheEvent::Fill };
    let zero = Event::Access { by: Agent::Cpu(1), proc: 0, vpn: vpn(3), pfn: 9, write: false, value: 0 };
    let note = Event::Note { cpu: 0, note: Note::RmapWalkNotStarted, pfn: Some(40), a: 0, b: 0 };
    trace(vec![
        op(0, 0, vec![entry(0, Site::AnonFaultSet, 0, Entry::NONE, present()), counts(1, 1)]),
        op(1, 0, vec![entry(0, Site::ExclusiveConvert, 0, present(), exclusive), counts(0, 1), mirror]),
        op(2, 1, vec![zero]),
        op(3, 0, vec![note]),
    ])
}

fn violation(rule: Rule) -> Violation {
    Violation {
        rule,
        op: Some(3),
        step: 9,
        sites: [Some(Site::ExclusiveConvert), None],
        evidence: Evidence { pfn: Some(40), ..Evidence::default() },
    }
}

fn story(rule: Rule) -> Story {
    let causes = Causes { defects: vec![Defect::D12], any_of: false };
    tell("x.case", &doc(), &device_exclusive(), Some(&violation(rule)), &causes)
}

#[test]
fn the_story_of_a_device_exclusive_page_that_cannot_be_reclaimed() {
    insta::assert_snapshot!(story(Rule::ProgressReclaim).to_text(Palette::new(false)));
}

#[test]
fn the_same_story_in_markdown() {
    insta::assert_snapshot!(story(Rule::ProgressReclaim).to_markdown());
}

#[test]
fn the_rows_of_a_story_can_be_read_by_a_script() {
    let json = serde_json::to_value(story(Rule::ProgressReclaim)).expect("serialises");
    assert_eq!(json["id"], "progress.reclaim");
    assert_eq!(json["folio"], "f1");
    assert_eq!(json["pages"][0], "A heap[0]");
    assert_eq!(json["rows"][1]["mapcount"]["before"], 1);
    assert_eq!(json["rows"][1]["mapcount"]["after"], 0);
    assert_eq!(json["rows"][1]["parted"], true);
    assert_eq!(json["rows"][0]["parted"], false);
    assert_eq!(json["causes"][0]["id"], "D12");
    assert_eq!(json["causes"][0]["fixed_in"], "6.15");
}

#[test]
fn an_op_that_is_interrupted_goes_on_in_a_row_of_its_own() {
    let swap = Entry::plain(EntryKind::SwapSpecial);
    let mut events = vec![
        Event::OpStart { op: 3, cpu: 0 },
        entry(0, Site::PteClear, 0, present(), Entry::NONE),
        Event::Switch { from: 0, to: 1, site: Some(Site::UnmapCleared) },
    ];
    events.extend(op(2, 1, vec![Event::Wait { cpu: 1, lock: "folio_lock" }]));
    events.push(Event::Switch { from: 1, to: 0, site: None });
    events.push(entry(0, Site::PteSet, 0, Entry::NONE, swap));
    let story = tell("x.case", &doc(), &trace(vec![events]), None, &Causes::default());
    let rows: Vec<(Option<u32>, bool)> = story.rows.iter().map(|r| (r.op, r.resumed)).collect();
    assert_eq!(rows, [(Some(4), false), (Some(3), false), (Some(4), true)]);
    assert_eq!(story.rows[0].notes, ["cpu0 stops at try_to_unmap_one:cleared; cpu1 goes on"]);
    assert_eq!(story.rows[1].notes, ["cpu1 waits for folio_lock"]);
    assert_eq!(story.rows[2].entries, [Some("none -> swap-special".to_owned())]);
    assert_eq!(story.headline, "clean: nothing was violated");
}

#[test]
fn values_are_told_where_the_rule_is_about_them_and_not_elsewhere() {
    let store = Event::Access { by: Agent::Cpu(0), proc: 0, vpn: vpn(0), pfn: 40, write: true, value: 5 };
    let load = Event::Access { by: Agent::Device(0), proc: 0, vpn: vpn(0), pfn: 40, write: false, value: 0 };
    let events = trace(vec![op(0, 0, vec![store]), op(1, 0, vec![load])]);
    let mut v = violation(Rule::OracleValue);
    v.evidence = Evidence {
        device: Some(0),
        proc: Some(0),
        vpn: Some(vpn(0)),
        expected: Some(5),
        found: Some(0),
        ..Evidence::default()
    };
    let told = tell("x", &doc(), &events, Some(&v), &Causes::default());
    assert_eq!(told.headline, "gpu0 loads 0 from A heap[0], where v1 was stored last");
    assert_eq!(told.rows[0].notes, ["cpu0 stores v1 to A heap[0] (f1)"]);
    v.rule = Rule::Refcount;
    assert!(tell("x", &doc(), &events, Some(&v), &Causes::default()).rows.iter().all(|r| r.notes.is_empty()));
}

#[test]
fn a_very_long_story_fits_on_a_page_and_says_what_it_leaves_out() {
    let mut ops = Vec::new();
    for i in 0..500 {
        let (old, new) = if i % 2 == 0 { (Entry::NONE, present()) } else { (present(), Entry::NONE) };
        ops.push(op(i % 4, (i % 2) as u8, vec![entry((i % 2) as u8, Site::PteSet, 0, old, new)]));
    }
    let causes = Causes { defects: Defect::ALL[..3].to_vec(), any_of: true };
    let text = tell("x", &doc(), &trace(ops), Some(&violation(Rule::Mapcount)), &causes).to_text(Palette::new(false));
    assert!(text.lines().count() <= MOST_LINES, "{}", text.lines().count());
    assert!(text.contains("lines left out"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
}

#[test]
fn every_rule_has_a_story_even_without_evidence_or_events() {
    for rule in Rule::ALL {
        let mut v = violation(rule);
        (v.evidence, v.sites, v.op) = (Evidence::default(), [None, None], None);
        let text = tell("x", &doc(), &Trace::default(), Some(&v), &Causes::default()).to_text(Palette::new(false));
        assert!(text.starts_with(&format!("{}: ", rule.id())), "{text}");
        assert!(text.contains(" ! "), "{text}");
    }
    let clean = tell("x", &Document::from(Case::empty()), &Trace::default(), None, &Causes::default());
    assert!(clean.rows.is_empty() && clean.wrong.is_empty());
}

#[test]
fn a_story_in_a_document_with_window_names_uses_them() {
    let text = TEXT.replace("heap", "log").replace("kernel 6.12\n", "kernel 6.12\nwindow 0 log\n");
    let named = parse(&text).expect("a case");
    let story = tell("x", &named, &device_exclusive(), None, &Causes::default());
    assert_eq!(story.rows[0].text, "A write log[0]");
}
