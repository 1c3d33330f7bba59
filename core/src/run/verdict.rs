//! What came of a case.

use crate::rule::Violation;
use std::fmt;

/// The result of a case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// No rule was broken.
    Clean,
    /// This was the first.
    Violation(Violation),
}

impl Verdict {
    /// The violation, if there is one.
    pub fn violation(self) -> Option<Violation> {
        match self {
            Verdict::Clean => None,
            Verdict::Violation(v) => Some(v),
        }
    }

    /// `clean` or the id of the broken rule.
    pub fn id(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Violation(v) => v.rule.id(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Clean => f.write_str("clean"),
            Verdict::Violation(v) => v.fmt(f),
        }
    }
}

impl fmt::Display for Violation {
    /// One line: the rule, where, and the evidence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.id(), describe(self))
    }
}

/// The evidence in one line, without the rule's id.
pub fn describe(v: &Violation) -> String {
    let e = v.evidence;
    let mut parts: Vec<String> = Vec::new();
    match (e.what, e.on) {
        (Some(w), Some(o)) => parts.push(format!("{w} on {o}")),
        (Some(w), None) => parts.push(w.to_owned()),
        (None, Some(o)) => parts.push(o.to_owned()),
        (None, None) => {}
    }
    if let (Some(x), Some(y)) = (e.expected, e.found) {
        parts.push(format!("expected {}, found {}", x as i64, y as i64));
    } else if let Some(y) = e.found {
        parts.push(format!("found {}", y as i64));
    }
    if let Some(p) = e.proc {
        let name = char::from(b'A' + p);
        parts.push(e.vpn.map_or(format!("process {name}"), |n| format!("process {name} page {n:#x}")));
    }
    if let Some(p) = e.pfn {
        parts.push(format!("f{p}"));
    }
    if let Some(d) = e.device {
        parts.push(format!("gpu{d}"));
    }
    if let Some(c) = e.cpu {
        parts.push(format!("cpu{c}"));
    }
    let [cause, seen] = v.sites;
    if let Some(s) = cause {
        parts.push(format!("went wrong at {}", s.name()));
    }
    if let Some(s) = seen {
        parts.push(format!("at {}", s.name()));
    }
    if let Some(op) = v.op {
        // Counted from 1, as everywhere where people read it.
        parts.push(format!("op {}", op.saturating_add(1)));
    }
    parts.join(", ")
}
