//! What people are told of rotations: history, metrics, audit and log, from the same effects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Surroundings;
use super::inputs::Inputs;
use crate::durable::FileError;
use crate::generation::{GenerationId, Generations, Manifest};
use crate::journal::History;
use crate::render::Rendered;
use crate::rotation::{Generation, Outcome, Report, State};
use crate::telemetry::audit::{Actor, Event as Audited};
use crate::telemetry::certificates;
use crate::telemetry::mask::mask;
use crate::telemetry::view::{HistoryEntry, LastRotation};

pub(super) struct Record {
    pub target: String,
    pub last: Option<LastRotation>,
    pub last_success: Option<Timestamp>,
    /// Why the last operation that failed did; masked.
    pub reason: Option<String>,
    /// That of the last rotation, as the history has it.
    ended_for: Option<String>,
    pub certificates: BTreeMap<String, Timestamp>,
    generations: Generations,
    surroundings: Surroundings,
    history: History<HistoryEntry>,
    began: Option<Timestamp>,
    steps: BTreeMap<&'static str, Duration>,
    /// The versions of the committed generation, by the secret's name.
    versions: BTreeMap<String, String>,
    /// The generation whose hold was told last, if that is what was told last.
    held: Option<Generation>,
}

impl Record {
    pub fn open(
        dir: &Path,
        generations: &Generations,
        target: &str,
        committed: Option<Manifest>,
        surroundings: &Surroundings,
    ) -> Result<Self, FileError> {
        let last = History::<HistoryEntry>::last(dir, 200)?;
        let newest = last.last();
        let success = last.iter().rev().find(|entry| entry.outcome == "committed");
        Ok(Self {
            target: target.to_owned(),
            last: newest.map(|e| LastRotation { outcome: e.outcome.clone(), ended_at: e.ended_at }),
            last_success: success.map(|e| e.ended_at),
            reason: newest.and_then(|e| e.reason.clone()),
            ended_for: newest.and_then(|e| e.reason.clone()),
            certificates: BTreeMap::new(),
            generations: generations.clone(),
            surroundings: surroundings.clone(),
            history: History::open(dir)?,
            began: None,
            steps: BTreeMap::new(),
            versions: committed.map(|m| plain(&m)).unwrap_or_default(),
            held: newest.filter(|e| e.outcome == word(Outcome::Held)).and_then(|e| e.generation),
        })
    }

    /// A rotation begins.
    pub fn begin(&mut self) {
        self.began = Some((self.surroundings.clock)());
        self.steps.clear();
    }

    /// A step took this long.
    pub fn step(&mut self, step: &'static str, took: Duration) {
        *self.steps.entry(step).or_default() += took;
    }

    /// A step failed.
    pub fn failed(&mut self, step: &'static str, reason: &str) {
        let reason = mask(reason).into_owned();
        tracing::warn!(target_name = %self.target, step, "{reason}");
        self.reason = Some(reason);
    }

    /// Nothing is wrong any more but what the last rotation ended for: a process that had ended serves again, say.
    pub fn at_rest(&mut self) {
        self.reason.clone_from(&self.ended_for);
    }

    /// A generation that lives of the agent before this one did not survive is given up.
    pub fn never_judged(&mut self, generation: Generation) {
        self.failed(
            "recover",
            &format!(
                "the agent was ended twice while generation {generation} was taken up: going back; `agent release {}` \
                 has it tried again",
                self.target
            ),
        );
    }

    /// A generation is on trial.
    pub fn staged(&mut self, generation: Generation, inputs: Option<&Arc<Inputs>>) {
        let versions = inputs.map(|i| i.versions()).unwrap_or_default();
        let secrets: BTreeMap<_, _> = versions.into_iter().map(|(name, version)| (name, version.0)).collect();
        tracing::info!(target_name = %self.target, generation, "staged");
        self.surroundings.audit.record(
            (self.surroundings.clock)(),
            &Audited::RotationStarted { target: self.target.clone(), generation, secrets },
        );
    }

    /// A generation is live: what certificates does it hold?
    pub fn published(&mut self, rendered: Option<&Rendered>) {
        let Some(rendered) = rendered else { return };
        self.certificates = rendered
            .files
            .iter()
            .filter_map(|file| {
                let ends = certificates::not_after(file.bytes.expose()).into_iter().min()?;
                Some((file.path.display().to_string(), ends))
            })
            .collect();
    }

    /// A rotation ended.
    pub fn ended(&mut self, report: Report, staged: Option<(Generation, Arc<Inputs>)>, state: &State) {
        let before = std::mem::take(&mut self.held);
        if report.outcome == Outcome::Held {
            self.held = report.generation;
            // Tried again at a start: a hold that goes on is no second rotation.
            if before.is_some() && before == report.generation {
                return self.steps.clear();
            }
        }
        let now = (self.surroundings.clock)();
        let outcome = word(report.outcome);
        let versions = self.versions_of(report.generation, staged);
        let changed = versions.iter().filter(|(name, version)| self.versions.get(*name) != Some(version));
        let changed: BTreeMap<_, _> = changed.map(|(name, version)| (name.clone(), version.clone())).collect();
        let committed = report.outcome == Outcome::Committed;
        let reason = if committed { None } else { self.reason.clone() };
        self.ended_for.clone_from(&reason);
        let entry = HistoryEntry {
            ended_at: now,
            started_at: self.began.take(),
            target: self.target.clone(),
            outcome: outcome.to_owned(),
            generation: report.generation,
            on: state.journal.committed.map(|c| c.generation),
            digest: report.digest.to_string(),
            changed,
            reason: reason.clone(),
            steps: self.steps.iter().map(|(step, took)| ((*step).to_owned(), took.as_secs_f64())).collect(),
        };
        tell(&entry);
        if let Err(error) = self.history.append(&entry) {
            tracing::error!(target_name = %self.target, "history: {error}");
        }
        let total = self.steps.values().sum();
        let steps: Vec<_> = self.steps.iter().map(|(s, t)| (*s, *t)).chain([("total", total)]).collect();
        self.surroundings.metrics.rotation_ended(&self.target, outcome, &steps);
        let generation = report.generation.unwrap_or_default();
        let event = Audited::RotationEnded { target: self.target.clone(), generation, outcome: outcome.into(), reason };
        self.surroundings.audit.record(now, &event);
        self.steps.clear();
        self.last = Some(LastRotation { outcome: outcome.to_owned(), ended_at: now });
        if committed {
            self.last_success = Some(now);
            self.reason = None;
            self.versions = versions;
        }
    }

    fn versions_of(
        &self,
        generation: Option<Generation>,
        staged: Option<(Generation, Arc<Inputs>)>,
    ) -> BTreeMap<String, String> {
        match (generation, staged) {
            (Some(generation), Some((number, inputs))) if generation == number => {
                inputs.versions().into_iter().map(|(name, version)| (name, version.0)).collect()
            }
            (Some(generation), _) => self.manifest(generation).map(|m| plain(&m)).unwrap_or_default(),
            (None, _) => BTreeMap::new(),
        }
    }

    fn manifest(&self, generation: Generation) -> Result<Manifest, FileError> {
        self.generations.manifest(GenerationId(generation))
    }

    /// The inputs' digest of a retained generation.
    pub fn inputs_of(&self, generation: Generation) -> Result<String, String> {
        self.manifest(generation).map(|m| m.origin.inputs).map_err(|e| e.to_string())
    }

    /// An operator goes back.
    pub fn rolling_back(&mut self, to: Generation, actor: Actor, state: &State) {
        self.begin();
        let from = state.journal.committed.map_or(to, |c| c.generation);
        self.reason = Some(format!("an operator (uid {}) went back to generation {to}", actor.uid));
        let event = Audited::RolledBack { target: self.target.clone(), from, to, actor: Some(actor) };
        self.surroundings.audit.record((self.surroundings.clock)(), &event);
    }

    /// An operator lifts hold and quarantine; the answer is for the operator.
    pub fn released(&mut self, actor: Actor, state: &State) -> String {
        self.held = None;
        let event = Audited::Released { target: self.target.clone(), actor: Some(actor) };
        self.surroundings.audit.record((self.surroundings.clock)(), &event);
        let (target, journal) = (&self.target, &state.journal);
        match (journal.held, journal.quarantined.len()) {
            (false, 0) => format!("target {target}: there was no hold and no quarantine"),
            (true, 0) => format!("target {target}: the hold is lifted"),
            (false, n) => format!("target {target}: {n} quarantined set(s) of inputs may be tried again"),
            (true, n) => {
                format!("target {target}: the hold is lifted, {n} quarantined set(s) of inputs may be tried again")
            }
        }
    }
}

fn plain(manifest: &Manifest) -> BTreeMap<String, String> {
    manifest.origin.versions.iter().map(|(name, version)| (name.clone(), version.0.clone())).collect()
}

fn tell(entry: &HistoryEntry) {
    let changed = entry.changed.keys().cloned().collect::<Vec<_>>().join(", ");
    let (target, outcome) = (entry.target.as_str(), entry.outcome.as_str());
    let reason = entry.reason.as_deref().unwrap_or("");
    let generation = entry.generation;
    match outcome {
        "committed" => tracing::info!(target_name = target, generation, changed, "rotation committed"),
        _ => tracing::warn!(target_name = target, generation, on = entry.on, changed, reason, "rotation {outcome}"),
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled_back",
        Outcome::Quarantined => "quarantined",
        Outcome::Held => "held",
        Outcome::Superseded => "superseded",
    }
}
