//! The `ptefuzz` command: find, replay, explain and shrink cases of the page-table-entry model.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`] | the command line: verbs, options and their help |
//! | [`input`] | reading cases in every form, with errors that point at the place |
//! | [`judge`] | running cases behind a fence: a panic of the harness is never a finding |
//! | [`verdict`] | verdicts for people and scripts |
//! | [`minimize`] | making a case small, for any predicate |
//! | [`story`] | what happened in a run, told from its trace |
//! | [`equivalent`] | two designs compared: what each run could be told by |
//! | [`states`] | the state graph that a set of cases reaches, as a table and as a picture |
//! | [`hunt`] | workers, their messages, progress and finds |
//! | [`verbs`] | one file for each verb |
//! | [`output`], [`error`], [`names`] | printing, atomic files, exit statuses, spelling |
//!
//! Exit status: 0 clean or done, 1 a violation was found, 2 wrong usage, unreadable input or a fault of this
//! program. Each error is one line on standard error.

pub mod cli;
pub mod equivalent;
pub mod error;
pub mod hunt;
pub mod input;
pub mod judge;
pub mod minimize;
pub mod names;
pub mod output;
pub mod states;
pub mod story;
pub mod verbs;
pub mod verdict;

use std::process::ExitCode;

use clap::Parser;
use error::{EXIT_CLEAN, EXIT_ERROR, Error};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match verbs::run(cli.verb) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(Error::BrokenPipe) => ExitCode::from(EXIT_CLEAN),
        Err(e) => {
            output::complain(&e.to_string());
            ExitCode::from(EXIT_ERROR)
        }
    }
}
