//! `--dry-run`: what a render would change, told without a value.
//!
//! New lines are shown as the templates render them over a snapshot in which every value is replaced by a mark: nothing
//! that a filter could make of a value is in them. The lines before are never shown, for nobody knows which values stand
//! in them. Values of `${VAR}` and `pass_env` are masked too.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::Options;
use super::diff;
use super::report::{Change, Outcome, TargetReport};
use crate::agent::prepare::{Prepared, placed, prepare};
use crate::agent::problem::{Class, Faulty, Problem, in_the_way};
use crate::config::Loaded;
use crate::config::model::{ReloadConfig, TargetConfig};
use crate::digest::Key;
use crate::durable::Attributes;
use crate::generation::{Difference, differences, live_bytes};
use crate::render::{Rendered, RenderedFile, Renderer};
use crate::secret::{Field, Reading, SecretBytes, Snapshot};
use crate::telemetry::mask::{MASK, Masked, Registry, mask};
use crate::verify;

/// Stands for a value while templates are rendered: no format and no quoting changes it.
const MARK: &str = "xLEASEHOLDxMASKEDxVALUEx";
/// Stands for a number, for templates that reckon with it.
const NUMBER: &str = "7070707070";

/// Templates of their own to render marks with, and what else is masked.
pub(super) struct Shown {
    prepared: Prepared,
    registry: Registry,
    _variables: Vec<Masked>,
}

impl Shown {
    pub fn new(options: &Options, key: &Key, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faulty> {
        let asked: RefCell<Vec<String>> = RefCell::default();
        let listening = |name: &str| {
            let value = env(name)?;
            asked.borrow_mut().push(value.clone());
            Some(value)
        };
        let prepared = prepare(&options.file, &[], key, &listening)?;
        let registry = Registry::default();
        let variables = asked.take().iter().map(|value| registry.value(value.as_bytes())).collect();
        Ok(Self { prepared, registry, _variables: variables })
    }

    /// One line as it may be shown.
    fn line(&self, line: &str) -> String {
        let mut line = line.replace(MARK, MASK).replace(NUMBER, MASK);
        line = line.replace(&MARK.to_lowercase(), MASK).replace(&MARK.to_uppercase(), MASK);
        let line = self.registry.mask(&line);
        mask(&line).chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
    }
}

/// What rendering one target would change. Runs no check, asks no provider, writes nothing.
pub(super) fn look(
    loaded: &Loaded,
    target: &Arc<TargetConfig>,
    renderer: &Renderer,
    shown: &Shown,
    snapshot: &Snapshot,
) -> (TargetReport, Vec<Problem>) {
    let name = target.name.clone();
    let mut report = TargetReport {
        target: name,
        result: Outcome::WouldRender,
        generation: None,
        changes: Vec::new(),
        notes: Vec::new(),
    };
    let rendered = match renderer.render(snapshot) {
        Ok(rendered) => rendered,
        Err(error) => {
            let mut fault = placed(loaded, &error);
            fault.message = mask(&fault.message).into_owned();
            report.result = Outcome::Failed;
            return (report, vec![Problem { class: Class::of_render(&error), fault }]);
        }
    };
    let mut problems = Vec::new();
    let key = format!("targets.{}", target.name);
    let mut wrong = |class, message: String| {
        let fault = loaded.fault(&key, format!("target {}: {message}", target.name), None);
        problems.push(Problem { class, fault });
    };
    if let Err(error) = verify::expect(renderer, snapshot) {
        wrong(Class::of_verify(&error), error.message);
    }
    let marked = shown.prepared.renderers.get(&target.name).and_then(|r| r.render(&marked(snapshot)).ok());
    for (path, difference) in differences(&rendered) {
        if let Some((class, why)) = in_the_way(rendered.directory.as_deref(), &path, &difference) {
            wrong(class, why);
        }
        let index = rendered.files.iter().position(|file| file.path == path);
        report.changes.push(change(&rendered, index, marked.as_ref(), shown, &path, &difference));
    }
    let checks = target.files.iter().filter(|file| file.check.is_some()).count();
    if checks > 0 {
        report.notes.push(format!("not run: {checks} check command{}", if checks == 1 { "" } else { "s" }));
    }
    if matches!(&target.reload, ReloadConfig::Exec(exec) if !exec.env.is_empty()) {
        report.notes.push("not compared: the environment of the supervised process".to_owned());
    }
    if !problems.is_empty() {
        report.result = Outcome::Failed;
    }
    (report, problems)
}

fn change(
    rendered: &Rendered,
    index: Option<usize>,
    marked: Option<&Rendered>,
    shown: &Shown,
    path: &Path,
    difference: &Difference,
) -> Change {
    let what = match (difference, index.and_then(|i| rendered.files.get(i))) {
        (Difference::Absent, Some(file)) => format!("would be created, mode {:04o}", file.mode),
        (Difference::Bytes, Some(file)) => format!("contents would change{}", attributes(path, file)),
        (Difference::Mode { found, want }, _) => format!("mode {found:04o} would become {want:04o}"),
        (Difference::Owner { found, want }, _) => {
            format!("owner {}:{} would become {}:{}", found.0, found.1, want.0, want.1)
        }
        (other, _) => other.to_string(),
    };
    let lines = match (difference, index) {
        (Difference::Absent | Difference::Bytes, Some(index)) => {
            lines(rendered, index, marked, shown, matches!(difference, Difference::Bytes))
        }
        _ => Vec::new(),
    };
    Change { path: path.to_owned(), what, lines }
}

/// `, mode 0644 would become 0600` and the like, beside other contents.
fn attributes(path: &Path, file: &RenderedFile) -> String {
    let Ok(found) = std::fs::metadata(path) else { return String::new() };
    let want = Attributes::of(file.mode, file.uid, file.gid);
    let mut out = String::new();
    if found.mode() & 0o7777 != want.mode & 0o7777 {
        out.push_str(&format!(", mode {:04o} would become {:04o}", found.mode() & 0o7777, want.mode & 0o7777));
    }
    if (found.uid(), found.gid()) != (want.uid, want.gid) {
        out.push_str(&format!(", owner {}:{} would become {}:{}", found.uid(), found.gid(), want.uid, want.gid));
    }
    out
}

fn lines(rendered: &Rendered, index: usize, marked: Option<&Rendered>, shown: &Shown, there: bool) -> Vec<String> {
    let old = if there { live_bytes(rendered, index).ok().flatten() } else { None };
    let old = old.unwrap_or_else(|| SecretBytes::new(Vec::new()));
    let new = rendered.files.get(index).map(|file| &*file.bytes);
    let marked = marked.and_then(|rendered| rendered.files.get(index)).and_then(|file| file.bytes.expose_str());
    let (Some(old), Some(new)) = (old.expose_str(), new.and_then(SecretBytes::expose_str)) else {
        return vec!["(not text, not shown)".to_owned()];
    };
    diff::lines(old, new, marked, |line| shown.line(line))
}

/// The same snapshot with marks in place of values. Names, kinds, versions and times stay.
fn marked(snapshot: &Snapshot) -> Snapshot {
    let all = |readings: &std::collections::BTreeMap<_, Arc<Reading>>| {
        readings
            .iter()
            .map(|(name, reading)| {
                let fields = reading.fields.iter().map(|(name, field)| (name.clone(), mark(field))).collect();
                (crate::secret::SecretName::clone(name), Arc::new(Reading { fields, ..Reading::clone(reading) }))
            })
            .collect()
    };
    Snapshot { secrets: all(&snapshot.secrets), previous: all(&snapshot.previous) }
}

fn mark(field: &Field) -> Field {
    match field {
        Field::Null => Field::Null,
        Field::Bool(value) => Field::Bool(*value),
        Field::Number(_) => Field::Number(NUMBER.into()),
        Field::Text(_) | Field::Bytes(_) => Field::text(MARK),
        Field::List(list) => Field::List(list.iter().map(mark).collect()),
        Field::Map(map) => Field::Map(map.iter().map(|(name, field)| (name.clone(), mark(field))).collect()),
    }
}
