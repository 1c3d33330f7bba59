//! `ptefuzz explain`: the story of a case.

use crate::cli::{Explain, StoryFormat};
use crate::error::{EXIT_CLEAN, EXIT_ERROR, EXIT_VIOLATION, Outcome};
use crate::input;
use crate::judge::Judge;
use crate::output::{Out, colour, complain};
use crate::story::{self, Palette, Story};

pub(super) fn run(options: &Explain) -> Outcome {
    let mut judge = Judge::new();
    let mut out = Out::stdout();
    let mut code = EXIT_CLEAN;
    let paths = input::collect(&options.files);
    let several = paths.len() > 1;
    for (i, path) in paths.into_iter().enumerate() {
        let story =
            path.and_then(|p| input::load(&p)).and_then(|input| story::of_case(&mut judge, &input.name, &input.doc));
        match story {
            Ok(story) => {
                if several && options.format != StoryFormat::Json {
                    out.text(&format!("{}{}\n\n", if i == 0 { "" } else { "\n" }, story.file))?;
                }
                print(&mut out, &story, options.format)?;
                code = code.max(if story.id.is_some() { EXIT_VIOLATION } else { EXIT_CLEAN });
            }
            Err(e) => {
                out.flush()?;
                complain(&e.to_string());
                code = EXIT_ERROR;
            }
        }
    }
    out.flush()?;
    Ok(code)
}

fn print(out: &mut Out, story: &Story, format: StoryFormat) -> Result<(), crate::error::Error> {
    match format {
        StoryFormat::Text => out.text(&story.to_text(Palette::new(colour()))),
        StoryFormat::Markdown => out.text(&story.to_markdown()),
        StoryFormat::Json => out.json(story),
    }
}
