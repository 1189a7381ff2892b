//! What a render brought, for people and for programs.

use std::fmt;
use std::path::PathBuf;

use serde_json::json;

use crate::agent::problem::{Faulty, Problem, exit_code, fault_json};
use crate::config::Fault;
use crate::config::model::TargetName;

/// What came of `agent render --once`. No value in it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One for each target that was rendered, by name.
    pub targets: Vec<TargetReport>,
    /// Everything that went wrong.
    pub problems: Vec<Problem>,
    /// What is doubtful.
    pub warnings: Vec<Fault>,
    /// Whether nothing was written because that was asked for.
    pub dry_run: bool,
}

/// What came of one target.
#[derive(Debug, Clone)]
pub struct TargetReport {
    /// Its name.
    pub target: TargetName,
    /// How it ended.
    pub result: Outcome,
    /// The generation that its files are on; None for a dry run, and where there is none.
    pub generation: Option<u64>,
    /// Its files that were written or removed, or (dry run) would be.
    pub changes: Vec<Change>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// How it ended for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its files are those of the newest inputs.
    Rendered,
    /// They would be.
    WouldRender,
    /// An operator holds it: its files are those of the generation that it is held on.
    Held,
    /// It could not be rendered; the files are what they were. `problems` says why.
    Failed,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: PathBuf,
    /// What: `created`, `written`, `removed`, `contents`, `mode`, `owner`, or why it cannot be.
    pub what: String,
    /// New lines with every value masked, and how many old ones go. Only of a dry run.
    pub lines: Vec<String>,
}

impl Report {
    /// The exit code: 0, or that of the problem that comes first by precedence.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.problems.iter().map(|problem| problem.class))
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let change = |change: &Change| json!({"path": change.path.display().to_string(), "what": change.what, "lines": change.lines});
        let target = |one: &TargetReport| {
            json!({
                "target": &*one.target,
                "result": one.result.word(),
                "generation": one.generation,
                "changes": one.changes.iter().map(change).collect::<Vec<_>>(),
                "notes": one.notes,
            })
        };
        json!({
            "exit_code": self.exit_code(),
            "dry_run": self.dry_run,
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
            "faults": self.problems.iter().map(Problem::json).collect::<Vec<_>>(),
            "warnings": self.warnings.iter().map(fault_json).collect::<Vec<_>>(),
        })
    }

    pub(super) fn of_faulty(faulty: Faulty, dry_run: bool) -> Self {
        Self { targets: Vec::new(), problems: faulty.problems, warnings: faulty.warnings, dry_run }
    }
}

impl Outcome {
    /// `rendered`, `would_render`, `held`, `failed`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rendered => "rendered",
            Self::WouldRender => "would_render",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for TargetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.changes.len();
        let generation = self.generation.map(|id| format!(" (generation {id})")).unwrap_or_default();
        let files = if changed == 1 { "file" } else { "files" };
        match self.result {
            Outcome::Rendered if changed == 0 => write!(f, "{}: nothing to change{generation}", self.target)?,
            Outcome::Rendered => write!(f, "{}: {changed} {files} changed{generation}", self.target)?,
            Outcome::WouldRender if changed == 0 => write!(f, "{}: nothing would change", self.target)?,
            Outcome::WouldRender => write!(f, "{}: {changed} {files} would change", self.target)?,
            Outcome::Held => write!(f, "{}: held{generation}; `agent release {}` lifts it", self.target, self.target)?,
            Outcome::Failed => write!(f, "{}: not rendered", self.target)?,
        }
        for change in &self.changes {
            write!(f, "\n  {}: {}", change.path.display(), change.what)?;
            for line in &change.lines {
                write!(f, "\n    {line}")?;
            }
        }
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        Ok(())
    }
}

/// Targets, then warnings, then faults; one a line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.targets.iter().map(ToString::to_string);
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        let problems = self.problems.iter().map(ToString::to_string);
        f.write_str(&targets.chain(warnings).chain(problems).collect::<Vec<_>>().join("\n"))
    }
}
