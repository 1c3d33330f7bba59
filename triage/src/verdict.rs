//! Verdicts as people and scripts read them.

use ptefuzz_core::rule::{Evidence, Violation};
use serde::Serialize;

use crate::names;

/// One verdict. Field names are public and stable.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Record {
    /// The input.
    pub file: String,
    /// `clean` or `violation`.
    pub verdict: &'static str,
    /// Id of the broken rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'static str>,
    /// Number of the op during which it was noticed, from 1 in the order of the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<u32>,
    /// Step at which it was noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Causal site and site of notice, those that are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<&'static str>>,
    /// The rule in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<&'static str>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceRecord>,
    /// What the file expects, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// With `--check`: is the verdict the expected one?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
}

/// [`Evidence`] with names for numbers; fields that do not apply are left out.
#[derive(Serialize, Clone, PartialEq, Debug, Default)]
pub struct EvidenceRecord {
    /// CPU on whose behalf the step ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u8>,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Virtual page number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpn: Option<u32>,
    /// Frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pfn: Option<u32>,
    /// Name of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What the rule wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// What was done: an accessor, a lock, an entry kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<&'static str>,
    /// What it was done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<&'static str>,
}

impl From<&Evidence> for EvidenceRecord {
    fn from(e: &Evidence) -> Self {
        EvidenceRecord {
            cpu: e.cpu,
            process: e.proc.map(names::process),
            vpn: e.vpn,
            pfn: e.pfn,
            device: e.device.map(names::device),
            expected: e.expected,
            found: e.found,
            what: e.what,
            on: e.on,
        }
    }
}

impl Record {
    /// The record of one run.
    pub fn new(file: &str, violation: Option<&Violation>) -> Record {
        Record {
            file: file.to_owned(),
            verdict: if violation.is_some() { "violation" } else { "clean" },
            id: violation.map(|v| v.rule.id()),
            op: violation.and_then(|v| v.op).map(names::number),
            step: violation.map(|v| v.step),
            sites: violation.map(|v| v.sites.iter().flatten().map(|s| s.name()).collect()),
            summary: violation.map(|v| v.rule.summary()),
            evidence: violation.map(|v| EvidenceRecord::from(&v.evidence)),
            expect: None,
            ok: None,
        }
    }

    /// The verdict in one line.
    pub fn line(&self) -> String {
        let Some(id) = self.id else { return format!("{}: clean", self.file) };
        let mut line = format!("{}: {id} at step {}", self.file, self.step.unwrap_or(0));
        if let Some(op) = self.op {
            line.push_str(&format!(", op {op}"));
        }
        if let Some(sites) = self.sites.as_deref().filter(|s| !s.is_empty()) {
            line.push_str(&format!(" ({})", sites.join(", ")));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use ptefuzz_core::rule::Rule;
    use ptefuzz_core::sched::Site;

    use super::*;

    fn violation() -> Violation {
        Violation {
            rule: Rule::ProgressReclaim,
            op: Some(2),
            step: 41,
            sites: [Some(Site::ExclusiveConvert), None],
            evidence: Evidence { proc: Some(0), pfn: Some(3), found: Some(0), ..Evidence::default() },
        }
    }

    #[test]
    fn a_violation_has_the_fields_that_scripts_rely_on() {
        let json = serde_json::to_value(Record::new("x.case", Some(&violation()))).expect("serialises");
        assert_eq!(json["file"], "x.case");
        assert_eq!(json["verdict"], "violation");
        assert_eq!(json["id"], "progress.reclaim");
        assert_eq!(json["step"], 41);
        assert_eq!(json["op"], 3);
        assert_eq!(json["sites"][0], "make_device_exclusive:convert");
        assert_eq!(json["evidence"]["process"], "A");
        assert!(json["evidence"].get("device").is_none());
    }

    #[test]
    fn a_clean_verdict_says_nothing_else() {
        let record = Record::new("x.case", None);
        assert_eq!(record.line(), "x.case: clean");
        let json = serde_json::to_string(&record).expect("serialises");
        assert_eq!(json, r#"{"file":"x.case","verdict":"clean"}"#);
    }

    #[test]
    fn the_line_names_rule_step_op_and_sites() {
        let line = Record::new("x.case", Some(&violation())).line();
        assert_eq!(line, "x.case: progress.reclaim at step 41, op 3 (make_device_exclusive:convert)");
    }
}
