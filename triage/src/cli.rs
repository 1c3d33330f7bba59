//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::{Defect, Design, Kernel};

use crate::output::Format;

/// Fuzz a model of Linux page-table entries, and understand what is found.
#[derive(Parser, Debug)]
#[command(name = "ptefuzz", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit status: 0 clean or done, 1 a violation was found, 2 wrong usage or unreadable input.\n\
    Cases are read as text, as binary, or as raw artifacts of libFuzzer and AFL; `-` is standard input.\n\n\
    Begin with:\n  ptefuzz hunt --kernel 6.12")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the command can do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Fuzz until something is found; minimize, explain and save it.
    Hunt(Hunt),
    /// Run cases and print their verdicts.
    Replay(Replay),
    /// Tell what happened in a case, step by step, and where it went wrong.
    Explain(Explain),
    /// Search for the smallest case with the same violation.
    #[command(visible_alias = "minimise")]
    Minimize(Minimize),
    /// Turn a case into normalised text, or into binary.
    Fmt(Fmt),
    /// Say what exists: ops, rules, defects, designs, kernels, targets, sites; and which states a corpus reaches.
    List(List),
    /// Measure how fast cases run, and how long each defect takes to find.
    Bench(Bench),
    /// One fuzzing process of a hunt. The campaign is a JSON object.
    #[command(hide = true)]
    Worker {
        /// The campaign.
        campaign: String,
    },
}

/// Options of `hunt`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:\n  ptefuzz hunt --kernel 6.12                 find what 6.12 got wrong\n  \
    ptefuzz hunt --fixed --defect D12          find one defect, on the newest kernel\n  \
    ptefuzz hunt --equivalent exclusive-by-rmap exclusive-by-walk\n  \
    ptefuzz hunt --time 600 --jobs 2           ten minutes on the newest kernel, which must find nothing\n  \
    ptefuzz hunt --kernel any --design any     the same for everything that is modelled\n\n\
    Ends at the first find, after --time, after --runs, or at Ctrl-C with what it has. A find that cannot\n\
    be saved (a full disk) is printed whole on standard error, and the exit status is 2.")]
pub struct Hunt {
    /// Release to fuzz, with the defects it had; or `any`: each case has a release of its own, and no known defect.
    #[arg(long, value_name = "RELEASE", default_value_t = Choice::One(Kernel::NEWEST), value_parser = any_or(kernel))]
    pub kernel: Choice<Kernel>,
    /// Switch this defect on, too (may be repeated; `ptefuzz list defects`).
    #[arg(long, value_name = "ID", value_parser = defect)]
    pub defect: Vec<Defect>,
    /// Switch this defect of the release off (may be repeated).
    #[arg(long, value_name = "ID", value_parser = defect)]
    pub without: Vec<Defect>,
    /// Switch off every defect that the release had.
    #[arg(long)]
    pub fixed: bool,
    /// Use this design in place of the release's (may be repeated; `ptefuzz list designs`); or `any`: each case has
    /// designs of its own.
    #[arg(long, value_name = "ID", value_parser = any_or(design))]
    pub design: Vec<Choice<Design>>,
    /// Look for a case in which two designs can be told apart by user space or a device: each case runs under both.
    #[arg(long, value_names = ["ID", "ID"], num_args = 2, value_parser = design)]
    pub equivalent: Vec<Design>,
    /// Entry layout: x86-64 or arm64. Both, when it is not given.
    #[arg(long, value_parser = arch)]
    pub arch: Option<Arch>,
    /// Fuzz target (`ptefuzz list targets`).
    #[arg(long, default_value = "machine", value_parser = target)]
    pub target: String,
    /// Stop after this many seconds. Until the first find or Ctrl-C, when it is not given.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub time: Option<Duration>,
    /// Stop after this many cases in each worker.
    #[arg(long, value_name = "CASES")]
    pub runs: Option<u64>,
    /// Seed of the first worker; the others count up from it. From the clock, when it is not given.
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Number of worker processes. As many as there are CPUs, when it is not given.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Folder for finds and logs.
    #[arg(long, value_name = "FOLDER", default_value = "ptefuzz-out")]
    pub out: PathBuf,
    /// Do not stop at the first find: keep the smallest case of each rule.
    #[arg(long)]
    pub keep_going: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Options of `replay`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz replay ptefuzz-out/finds\n  ptefuzz replay --check corpus/systems\n\n\
    With --check the exit status is 0 when every verdict is the one that its file expects, else 1.\n\
    With --equivalent it is 1 when a case shows a difference.")]
pub struct Replay {
    /// Files or folders with cases; `-` is standard input.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Compare each verdict with the `expect` line of its file.
    #[arg(long, conflicts_with = "equivalent")]
    pub check: bool,
    /// Run each case under both designs, and say whether that can be noticed.
    #[arg(long, value_names = ["ID", "ID"], num_args = 2, value_parser = design)]
    pub equivalent: Vec<Design>,
    /// How verdicts are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// How a story is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum StoryFormat {
    /// For a terminal.
    #[default]
    Text,
    /// For a bug report.
    Markdown,
    /// For a script.
    Json,
}

/// Options of `explain`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz explain ptefuzz-out/finds/*.case\n  \
    ptefuzz explain --format markdown x.case > report.md\n\n\
    The story follows one folio and the pages whose entries name it. `!` marks a mapcount that is not the\n\
    number of entries that map the folio. The exit status is that of `replay`.")]
pub struct Explain {
    /// Files or folders with cases; `-` is standard input.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// How the story is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: StoryFormat,
}

/// Options of `minimize`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz minimize crash-1 -o small.case\n  ptefuzz minimize - < crash-1\n\n\
    The same violation means the same rule at the same sites. The result is text with an `expect` line;\n\
    without -o it goes to standard output. The exit status is 0, or 2 when the case violates nothing. When -o cannot be written, the\n\
    result is printed on standard error.")]
pub struct Minimize {
    /// The case; `-` is standard input.
    pub file: PathBuf,
    /// Where the result is written.
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Most runs of the model.
    #[arg(long, value_name = "N", default_value_t = crate::minimize::Limits::default().runs)]
    pub runs: u32,
    /// How the result is printed; with `json` the case is a string in it.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Options of `fmt`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz fmt crash-1                     what is in it?\n  \
    ptefuzz fmt x.case -o x.case            normalise\n  ptefuzz fmt --binary x.case -o x.bin\n  \
    ptefuzz fmt --check corpus/*/*.case")]
pub struct Fmt {
    /// Cases; `-` is standard input. Several only with --check.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Write binary. Text, when it is not given.
    #[arg(long, conflicts_with = "check")]
    pub binary: bool,
    /// Write text (the default).
    #[arg(long, conflicts_with = "binary")]
    pub text: bool,
    /// Where the result is written. Standard output, when it is not given.
    #[arg(long, short, value_name = "FILE", conflicts_with = "check")]
    pub out: Option<PathBuf>,
    /// Write nothing; exit with 1 when a file is not normalised text.
    #[arg(long)]
    pub check: bool,
}

/// What `list` can list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Topic {
    /// What a case can do.
    Ops,
    /// What is checked, when, and where the rule comes from.
    #[value(alias = "invariants")]
    Rules,
    /// Injected mistakes and the releases that had them.
    Defects,
    /// Legitimate ways to do a thing, and when the kernel did it so.
    Designs,
    /// Modelled releases.
    Kernels,
    /// Fuzz targets.
    Targets,
    /// Places where another CPU or a device may act.
    Sites,
    /// What the entries of a set of cases were, what changed them and what they became.
    States,
}

/// How a list is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum ListFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line and row.
    Json,
    /// A picture, of `states` alone.
    Svg,
}

/// Options of `list`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz list rules\n  ptefuzz list defects --format json\n  \
    ptefuzz list states corpus/systems\n  ptefuzz list states --format svg > states.svg")]
pub struct List {
    /// What to list.
    #[arg(value_enum)]
    pub topic: Topic,
    /// For `states`: files or folders with cases. The folder `corpus`, when there are none.
    pub files: Vec<PathBuf>,
    /// How the rows are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: ListFormat,
}

/// Options of `bench`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ptefuzz bench\n  ptefuzz bench --target machine --seconds 5 --format json\n  \
    ptefuzz bench corpus/systems/D0-hmm-swap.case\n  ptefuzz bench find D12 W1")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Measure something else than speed.
    #[command(subcommand)]
    pub what: Option<Measure>,
    /// Measure one run of this case instead of the targets: wall clock and peak memory.
    #[arg(conflicts_with_all = ["target", "seconds"])]
    pub file: Option<PathBuf>,
    /// Only this target.
    #[arg(long, value_parser = target)]
    pub target: Option<String>,
    /// Seconds for each target, after a warm-up.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// How the figures are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What `bench` can measure besides speed.
#[derive(Subcommand, Debug)]
pub enum Measure {
    /// Look for each defect from an empty corpus: cases and seconds until a hunt finds it.
    Find(Find),
}

/// Options of `bench find`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ptefuzz bench find                        every defect, 5 seeds, a minute each\n  \
    ptefuzz bench find W1 K1 --limit 600\n  ptefuzz bench find --seeds 3 --limit 20 --format json\n\n\
    One worker, an empty corpus, and the defect alone on the last release that had it. A find counts when the case is\n\
    clean without the defect. Seconds are those of one CPU. Once most seeds have failed the rest are left out."
)]
pub struct Find {
    /// Defects to look for (`ptefuzz list defects`). All, when none is named.
    #[arg(value_name = "ID", value_parser = defect)]
    pub defects: Vec<Defect>,
    /// Number of seeds, counted from --seed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub seeds: u16,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub seed: u32,
    /// Give a search up after this many seconds of one CPU.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub limit: Duration,
    /// Fuzz target (`ptefuzz list targets`).
    #[arg(long, default_value = "machine", value_parser = target)]
    pub target: String,
    /// How the figures are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// One of many, or whichever comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<T> {
    /// This one.
    One(T),
    /// Each case chooses.
    Any,
}

impl<T> Choice<T> {
    /// What was named.
    pub fn one(self) -> Option<T> {
        match self {
            Choice::One(named) => Some(named),
            Choice::Any => None,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::One(named) => named.fmt(f),
            Choice::Any => f.write_str("any"),
        }
    }
}

/// `any`, or what the other parser reads.
fn any_or<T>(
    parse: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<Choice<T>, String> + Clone + Send + Sync + 'static {
    move |name| if name == "any" { Ok(Choice::Any) } else { parse(name).map(Choice::One) }
}

/// What was found; else what is known, or where it is listed when it is more than a line.
fn known<T>(found: Option<T>, what: &str, names: impl Iterator<Item = &'static str>) -> Result<T, String> {
    found.ok_or_else(|| match names.collect::<Vec<_>>() {
        names if names.len() <= 12 => format!("unknown {what}; known are {}", names.join(", ")),
        _ => format!("unknown {what}; `ptefuzz list {what}s` prints the known ones"),
    })
}

fn kernel(name: &str) -> Result<Kernel, String> {
    known(Kernel::from_name(name), "release", Kernel::ALL.into_iter().map(Kernel::name))
}

fn defect(id: &str) -> Result<Defect, String> {
    known(Defect::from_id(id), "defect", Defect::ALL.into_iter().map(Defect::id))
}

fn design(id: &str) -> Result<Design, String> {
    known(Design::from_id(id), "design", Design::ALL.into_iter().map(Design::id))
}

fn arch(name: &str) -> Result<Arch, String> {
    known(Arch::from_name(name), "architecture", Arch::ALL.into_iter().map(Arch::name))
}

fn target(name: &str) -> Result<String, String> {
    use ptefuzz_fuzz::targets::{TARGETS, by_name};
    known(by_name(name), "target", TARGETS.iter().map(|t| t.name)).map(|t| t.name.to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    if !(number > 0.0 && number <= 1e9) {
        return Err("more than 0 and at most 1000000000 seconds are possible".to_owned());
    }
    Duration::try_from_secs_f64(number).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example_in_its_help() {
        for verb in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains(&format!("  ptefuzz {} ", verb.get_name())) || help.contains("  ptefuzz bench\n"),
                "{help}"
            );
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            kernel("2.4").expect_err("unknown"),
            "unknown release; known are 5.14, 5.19, 6.1, 6.6, 6.12, 6.15, 6.18, 7.3"
        );
        assert_eq!(defect("X1").expect_err("unknown"), "unknown defect; `ptefuzz list defects` prints the known ones");
        for text in ["0", "-1", "nan", "inf", "1e300", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
