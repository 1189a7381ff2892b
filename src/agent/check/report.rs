//! What a check found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use crate::agent::problem::{Class, Problem, exit_code, fault_json};
use crate::config::Fault;

/// What `agent check` found. No value in it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is wrong.
    pub faults: Vec<Problem>,
    /// What is doubtful, or could not be looked at.
    pub warnings: Vec<Fault>,
    /// What was looked at and is good, or was left out on purpose.
    pub checked: Vec<String>,
    /// What each store allows this identity, a line a secret, by the store that tells it one by one.
    pub allowed: BTreeMap<String, Vec<String>>,
    /// The smallest policy that this config needs, by the store that has policies, in its own language.
    pub policies: BTreeMap<String, String>,
}

impl Report {
    /// 0, or the code of the fault that comes first by precedence: 78, 65, 66, 77, 69, 74.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.faults.iter().map(|problem| problem.class))
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "exit_code": self.exit_code(),
            "faults": self.faults.iter().map(Problem::json).collect::<Vec<_>>(),
            "warnings": self.warnings.iter().map(fault_json).collect::<Vec<_>>(),
            "checked": self.checked,
            "allowed": self.allowed,
            "policies": self.policies,
        })
    }

    pub(super) fn fault(&mut self, class: Class, fault: Fault) {
        let problem = Problem { class, fault };
        if !self.faults.contains(&problem) {
            self.faults.push(problem);
        }
    }

    pub(super) fn warning(&mut self, fault: Fault) {
        if !self.warnings.contains(&fault) {
            self.warnings.push(fault);
        }
    }
}

/// What is good, then warnings, then faults; one a line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checked = self.checked.iter().map(|line| format!("ok: {line}"));
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        let faults = self.faults.iter().map(ToString::to_string);
        f.write_str(&checked.chain(warnings).chain(faults).collect::<Vec<_>>().join("\n"))
    }
}
