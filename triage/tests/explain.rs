//! The story of the program in the cover letter of the device-exclusive repairs, as a person gets it.

use std::path::Path;

use ptefuzz_triage::input;
use ptefuzz_triage::judge::Judge;
use ptefuzz_triage::story::{self, MOST_LINES, Palette};

#[test]
fn the_story_of_the_device_exclusive_program_says_why_its_pages_cannot_be_reclaimed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/systems/D0-hmm-swap-tiny.case");
    let input = input::load(&path).expect("the case is in the corpus");
    let story = story::of_case(&mut Judge::new(), "D0-hmm-swap-tiny.case", &input.doc).expect("the model runs it");
    let text = story.to_text(Palette::new(false));
    assert!(text.lines().count() <= MOST_LINES, "{text}");
    assert!(story.causes.iter().any(|c| c.id == "D12"), "{:?}", story.causes);
    insta::assert_snapshot!(text);
}
