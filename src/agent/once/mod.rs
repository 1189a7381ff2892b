//! `agent render --once`: every file once, and no target process touched.

mod diff;
mod dry_run;
mod report;
mod rotate;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::prepare::{Prepared, prepare};
use super::problem::{Class, Problem};
use super::readings::{Reader, Readings, blocked};
use crate::config::model::Config;
use crate::config::{Fault, Place, did_you_mean};
use crate::digest::Key;
use crate::durable::FileError;
use crate::secret::SecretName;
use crate::state_dir::{self, Keeping, StateDir};
use crate::store::{StoreError, StoreErrorKind};
use crate::watch::{self, Once, Uses};

pub use report::{Change, Outcome, Report, TargetReport};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The config file.
    pub file: PathBuf,
    /// How long to wait for stores (and providers of `verify`) that do not answer well yet. Zero: one attempt.
    pub wait: Duration,
    /// Only these targets; none: all.
    pub targets: Vec<String>,
    /// Write nothing, and tell what would change.
    pub dry_run: bool,
}

/// Renders and publishes once. Targets do not wait for each other: one whose secrets cannot be read or whose output is
/// refused keeps the files that it has, and the others are rendered.
///
/// What is published is committed unproven: a later `agent run` on the same `state_dir` goes on from it, probes it, and
/// does not tell the process again. No history, metrics or audit are written, no lease is revoked.
/// With `dry_run` nothing is written anywhere and no check or `verify` request is run.
///
/// While another agent holds `state_dir` nothing is written: exit code 69, for it may be gone in a moment.
pub async fn render_once(options: &Options, env: &dyn Fn(&str) -> Option<String>) -> Report {
    match attempt(options, env).await {
        Ok(report) | Err(report) => report,
    }
}

async fn attempt(options: &Options, env: &dyn Fn(&str) -> Option<String>) -> Result<Report, Report> {
    let until = Instant::now() + options.wait;
    let faulty = |faulty| Report::of_faulty(faulty, options.dry_run);
    // The key is in the state directory, which the config names: compiled once without it, to know what is wrong.
    let scratch = state_dir::ephemeral_key().map_err(|error| failed(options, &error))?;
    let first = prepare(&options.file, &[], &scratch, env).map_err(faulty)?;
    narrowed(options, &first)?;
    let state = match options.dry_run {
        true => None,
        false => {
            let Config { state_dir, state_key, .. } = &first.loaded.config;
            Some(StateDir::open(state_dir, state_key.as_deref()).map_err(|error| failed(options, &error))?)
        }
    };
    let key = match &state {
        Some(state) => state.key().clone(),
        None => reading_key(&first, &scratch),
    };
    let prepared = prepare(&options.file, &[], &key, env).map_err(faulty)?;
    let uses = narrowed(options, &prepared)?;
    let shown = match options.dry_run {
        true => Some(dry_run::Shown::new(options, &key, env).map_err(faulty)?),
        false => None,
    };
    let keeping = match &state {
        Some(state) => state.keeping(),
        None => looked_at(&prepared).map_err(|error| failed(options, &error))?,
    };
    let job = Job { options, prepared: &prepared, state: state.as_ref(), shown, keeping, until };
    let mut report = Report { warnings: prepared.warnings.clone(), dry_run: options.dry_run, ..Report::default() };
    job.run(&uses, &key, &mut report).await;
    report.targets.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(report)
}

/// The key that versions were made with, where there is one: `previous` is told by it.
fn reading_key(prepared: &Prepared, scratch: &Key) -> Key {
    match StateDir::open_read_only(&prepared.loaded.config.state_dir) {
        Ok(Some(state)) => state.key().clone(),
        Ok(None) | Err(_) => scratch.clone(),
    }
}

fn looked_at(prepared: &Prepared) -> Result<Keeping, FileError> {
    let Config { state_dir, state_key, .. } = &prepared.loaded.config;
    Keeping::look(state_dir, state_key.as_deref())
}

fn failed(options: &Options, error: &FileError) -> Report {
    one_problem(options, Class::of_file(error), error.to_string(), None)
}

fn one_problem(options: &Options, class: Class, message: String, hint: Option<String>) -> Report {
    let fault = Fault::new(&Arc::from(options.file.as_path()), Place::default(), message, hint);
    Report { problems: vec![Problem { class, fault }], dry_run: options.dry_run, ..Report::default() }
}

fn narrowed(options: &Options, prepared: &Prepared) -> Result<Uses, Report> {
    let mut uses = prepared.uses.clone();
    if let Some(name) = options.targets.iter().find(|name| !prepared.uses.contains_key(name.as_str())) {
        let hint = did_you_mean(name, prepared.uses.keys().map(|known| &**known));
        return Err(one_problem(options, Class::Usage, format!("there is no target '{name}'"), hint));
    }
    if !options.targets.is_empty() {
        uses.retain(|name, _| options.targets.iter().any(|wanted| **wanted == **name));
    }
    Ok(uses)
}

/// One run.
struct Job<'a> {
    options: &'a Options,
    prepared: &'a Prepared,
    /// None: a dry run.
    state: Option<&'a StateDir>,
    /// What a dry run shows.
    shown: Option<dry_run::Shown>,
    keeping: Keeping,
    until: Instant,
}

impl Job<'_> {
    /// Whatever can be read at once is published at once; only what is left waits.
    async fn run(&self, uses: &Uses, key: &Key, report: &mut Report) {
        let config = &self.prepared.loaded.config;
        let remember = self.state.is_some();
        let stores = watch::build(config, key);
        let reader = Reader::new(config, stores, &self.prepared.uses, self.keeping.clone(), remember);
        let first = reader.read(config, uses, Once { wait: Duration::ZERO, remember }).await;
        self.targets(&first, &reader, report).await;
        let mut errors = first.errors;
        let wait = self.until.saturating_duration_since(Instant::now());
        let patient = blocked(uses, &errors);
        if !patient.is_empty() && !wait.is_zero() && errors.values().any(may_pass) {
            let second = reader.read(config, &patient, Once { wait, remember }).await;
            self.targets(&second, &reader, report).await;
            errors = second.errors;
        }
        reader.finish().await;
        self.unread(uses, &errors, report);
    }

    async fn targets(&self, readings: &Readings, reader: &Reader, report: &mut Report) {
        let all = readings.snapshots.iter().filter_map(|(name, snapshot)| {
            let target = self.prepared.loaded.config.targets.get(name)?;
            let renderer = self.prepared.renderers.get(name)?;
            Some(async move {
                match (self.state, &self.shown) {
                    (_, Some(shown)) => Some(dry_run::look(&self.prepared.loaded, target, renderer, shown, snapshot)),
                    (None, None) => None,
                    (Some(state), None) => {
                        let until = (!self.options.wait.is_zero()).then_some(self.until);
                        let inputs = rotate::Inputs { target, renderer, snapshot, until };
                        let rotated = rotate::rotate(&self.prepared.loaded, state, inputs).await;
                        if let Some(standing) = &rotated.standing {
                            reader.holding.stands(name, standing);
                        }
                        Some((rotated.report, rotated.problems))
                    }
                }
            })
        });
        for (target, problems) in join_all(all).await.into_iter().flatten() {
            report.targets.push(target);
            report.problems.extend(problems);
        }
    }

    /// Tells what could not be read, once for each thing that is wrong, and which targets that costs.
    fn unread(&self, uses: &Uses, errors: &std::collections::BTreeMap<SecretName, StoreError>, report: &mut Report) {
        for target in blocked(uses, errors).into_keys() {
            let missing: Vec<&str> =
                uses[&target].iter().filter(|n| errors.contains_key(n)).map(SecretName::as_str).collect();
            let notes = vec![format!("cannot be read: {}; its files are what they were", missing.join(", "))];
            let result = Outcome::Failed;
            report.targets.push(TargetReport { target, result, generation: None, changes: Vec::new(), notes });
        }
        report.problems.extend(unreadable(self.prepared, errors));
    }
}

/// Whether waiting can help.
fn may_pass(error: &StoreError) -> bool {
    error.kind != StoreErrorKind::Denied
}

/// Faults of secrets at their places; a store that answers all of them alike is told once.
pub(super) fn unreadable<'a>(
    prepared: &Prepared,
    errors: impl IntoIterator<Item = (&'a SecretName, &'a StoreError)>,
) -> Vec<Problem> {
    let mut told = BTreeSet::new();
    let mut problems = Vec::new();
    for (name, error) in errors {
        if told.insert(error.message.clone()) {
            let message = crate::telemetry::mask::mask(&error.message).into_owned();
            let fault = prepared.loaded.fault(&format!("secrets.{name}"), format!("secrets.{name}: {message}"), None);
            problems.push(Problem { class: Class::of_store(error), fault });
        }
    }
    problems
}
