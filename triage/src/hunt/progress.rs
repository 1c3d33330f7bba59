//! How far the hunt is: one moving line on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ledger::Ledger;
use crate::cli::{Choice, Hunt};
use crate::output::complain;

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Tells the progress on standard error.
pub(super) struct Progress {
    /// `None`: standard error is no terminal.
    bar: Option<ProgressBar>,
    next: Duration,
}

impl Progress {
    /// Says what is being hunted.
    pub(super) fn new(options: &Hunt, jobs: usize, seed: u32) -> Progress {
        let s = if jobs == 1 { "" } else { "s" };
        let defects: Vec<&str> = super::pin(options).defects.iter().map(|d| d.id()).collect();
        let with = if defects.is_empty() { "no known defect".to_owned() } else { defects.join(" ") };
        let Hunt { kernel, target, .. } = options;
        let designs = if options.design.contains(&Choice::Any) { " and any design" } else { "" };
        let text = format!("kernel {kernel}{designs} ({with}), target {target}, {jobs} worker{s}, seed {seed}");
        complain(&format!("hunting on {text}"));
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Progress { bar, next: EVERY }
    }

    /// Tells how far it is.
    pub(super) fn tell(&mut self, ledger: &Ledger, time: Duration) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(line(ledger, time));
                bar.tick();
            }
            None if time >= self.next => {
                self.next = time + EVERY;
                complain(&format!("{:.0} s: {}", time.as_secs_f64(), line(ledger, time)));
            }
            None => {}
        }
    }

    /// Takes the moving line away.
    pub(super) fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(ledger: &Ledger, time: Duration) -> String {
    let cases = ledger.cases();
    let rate = cases as f64 / time.as_secs_f64().max(0.001);
    let rules = ledger.rules();
    let finds = if rules == 1 { "1 find".to_owned() } else { format!("{rules} finds") };
    format!("{cases} cases, {rate:.0} cases/s, {} states, {finds}", ledger.coverage())
}
