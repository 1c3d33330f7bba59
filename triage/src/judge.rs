//! Running cases: one machine that is reused, and a fence around it.
//!
//! A panic in the model or in the judge is a mistake of this program. It is caught, turned into
//! [`Error::Harness`] with the input that shows it, and never counted as a finding.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use ptefuzz_core::config::Design;
use ptefuzz_core::program::Case;
use ptefuzz_core::rule::{Rule, Violation};
use ptefuzz_core::run::equivalent::{Comparer, Difference, configs};
use ptefuzz_core::run::{Machine, Verdict};
use ptefuzz_core::sched::Site;
use ptefuzz_core::trace::Trace;

use crate::error::Error;

/// What makes two violations the same: the rule, and where in the modelled kernel it was broken and noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// The broken rule.
    pub rule: Rule,
    /// Causal site and the site of notice.
    pub sites: [Option<Site>; 2],
}

impl Key {
    /// The key of a violation.
    pub fn of(v: &Violation) -> Key {
        Key { rule: v.rule, sites: v.sites }
    }
}

/// A machine that can be used again after it has panicked.
pub struct Judge {
    machine: Machine,
    /// Made when two designs are compared for the first time.
    comparer: Option<Comparer>,
    ops: u64,
}

impl Default for Judge {
    fn default() -> Self {
        Judge::new()
    }
}

impl Judge {
    /// A judge with a machine of its own.
    pub fn new() -> Judge {
        Judge { machine: Machine::new(), comparer: None, ops: 0 }
    }

    /// Runs a case; `file` names it in errors. `None` is a clean verdict.
    ///
    /// # Errors
    /// [`Error::Harness`] when the model itself panics.
    pub fn run(&mut self, file: &str, case: &Case) -> Result<Option<Violation>, Error> {
        let result = guarded(|| self.machine.run(case));
        let found = self.recover(file, result).map(|v| violation(v, case))?;
        self.ops = ops(case, found.as_ref());
        Ok(found)
    }

    /// Runs a case and records what happens.
    ///
    /// # Errors
    /// [`Error::Harness`] when the model itself panics.
    pub fn run_traced(&mut self, file: &str, case: &Case) -> Result<(Option<Violation>, Trace), Error> {
        let result = guarded(|| self.machine.run_traced(case));
        let (verdict, trace) = self.recover(file, result)?;
        let found = violation(verdict, case);
        self.ops = ops(case, found.as_ref());
        Ok((found, trace))
    }

    /// Runs a case under two designs; the first difference that could be noticed.
    ///
    /// # Errors
    /// [`Error::Harness`] when the model itself panics.
    pub fn compare(&mut self, file: &str, case: &Case, designs: [Design; 2]) -> Result<Option<Difference>, Error> {
        let comparer = self.comparer.get_or_insert_with(Comparer::new);
        let result = guarded(|| comparer.compare(case, configs(case.config, designs)));
        if result.is_err() {
            self.comparer = None;
        }
        self.recover(file, result)
    }

    /// Ops of the last run: all of the case or, with a violation, those up to the one that showed it.
    pub fn ops_run(&self) -> u64 {
        self.ops
    }

    /// Steps that the last run took.
    pub fn steps(&self) -> u64 {
        self.machine.steps()
    }

    fn recover<T>(&mut self, file: &str, result: Result<T, String>) -> Result<T, Error> {
        result.map_err(|message| {
            self.machine = Machine::new();
            Error::Harness { file: file.to_owned(), message }
        })
    }
}

fn ops(case: &Case, found: Option<&Violation>) -> u64 {
    let all = case.ops.len() as u64;
    found.and_then(|v| v.op).map_or(all, |op| all.min(u64::from(op) + 1))
}

/// The violation, if any. An op that is none of the case's (the machine taking down what is left) is no op.
fn violation(verdict: Verdict, case: &Case) -> Option<Violation> {
    match verdict {
        Verdict::Clean => None,
        Verdict::Violation(v) => Some(Violation { op: v.op.filter(|op| (*op as usize) < case.ops.len()), ..v }),
    }
}

thread_local! {
    /// `Some` while a guarded call runs on this thread; then the words of its panic.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic comes back as "panic at file:line: message" and prints nothing.
///
/// # Errors
/// The words of the panic.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    CAUGHT.with(|c| *c.borrow_mut() = Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    let words = CAUGHT.with(|c| c.borrow_mut().take()).unwrap_or_default();
    result.map_err(|_payload| words)
}

fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ours = CAUGHT.with(|c| match c.try_borrow_mut() {
                Ok(mut slot) if slot.is_some() => {
                    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
                    let words = words(info.payload());
                    *slot = Some(format!("panic{place}: {}", one_line(words)));
                    true
                }
                _ => false,
            });
            if !ours {
                previous(info);
            }
        }));
    });
}

/// The message of a panic.
fn words(payload: &(dyn Any + Send)) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// `text` with its line breaks as spaces, for messages that must stay on one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_one_line_with_its_place_and_the_next_call_works() {
        let words = guarded(|| -> u8 { panic!("index {}\nout of bounds", 7) }).expect_err("panicked");
        assert!(words.starts_with("panic at ") && words.contains("judge.rs:"), "{words}");
        assert!(words.ends_with("index 7 out of bounds"), "{words}");
        assert_eq!(guarded(|| 3), Ok(3));
    }

    #[test]
    fn a_harness_panic_is_an_error_that_names_the_input_and_never_a_verdict() {
        let mut judge = Judge::new();
        let broken = guarded(|| -> Verdict { panic!("boom") });
        let e = judge.recover("crash-1", broken).map(|_| ()).expect_err("not a verdict");
        assert!(e.to_string().starts_with("crash-1: harness bug, not a finding: panic at "), "{e}");
        assert_eq!(judge.run("empty", &Case::empty()).expect("runs again"), None);
    }
}
