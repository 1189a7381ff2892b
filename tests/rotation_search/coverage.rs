//! What a search visited, so that it cannot pass by looking at too little.

use std::collections::BTreeSet;

use leasehold::rotation::{Back, Forward, Outcome, Phase, Retry};

use crate::world::{Happened, World};

/// Every phase by name, and every outcome.
const ALL: [&str; 33] = [
    "rest",
    "staging",
    "verifying",
    "forward: intend",
    "forward: publish",
    "forward: reload",
    "forward: probe",
    "forward: commit",
    "forward: commit unproven",
    "forward: hold",
    "forward: halt",
    "back: publish",
    "back: reload",
    "back: probe",
    "back: record",
    "back: record unproven",
    "saving",
    "pruning",
    "waiting: next",
    "waiting: prune",
    "waiting: stage",
    "waiting: verify",
    "waiting: forward from publish",
    "waiting: forward from reload",
    "waiting: back",
    "waiting: commit",
    "waiting: record",
    "stopped",
    "committed",
    "rolled back",
    "quarantined",
    "held",
    "superseded",
];

/// The phases visited and the outcomes reported.
#[derive(Default)]
pub struct Coverage(BTreeSet<&'static str>);

impl Coverage {
    /// Notes one step.
    pub fn note(&mut self, happened: &Happened, next: &World) {
        self.0.insert(phase(next.state.phase));
        self.0.extend(happened.reports().iter().map(|r| outcome(r.outcome)));
    }

    /// Adds another search's.
    pub fn add(&mut self, other: Coverage) {
        self.0.extend(other.0);
    }

    /// What no world was in.
    pub fn missing(&self) -> Vec<&'static str> {
        ALL.into_iter().filter(|name| !self.0.contains(name)).collect()
    }

    /// What has no line in the list above.
    pub fn unlisted(&self) -> Vec<&'static str> {
        self.0.iter().copied().filter(|name| !ALL.contains(name)).collect()
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Rest => "rest",
        Phase::Staging(_) => "staging",
        Phase::Verifying(_) => "verifying",
        Phase::Forward(at, _) => match at {
            Forward::Intend => "forward: intend",
            Forward::Publish => "forward: publish",
            Forward::Reload => "forward: reload",
            Forward::Probe => "forward: probe",
            Forward::Commit { proven: true } => "forward: commit",
            Forward::Commit { proven: false } => "forward: commit unproven",
            Forward::Hold => "forward: hold",
            Forward::Halt => "forward: halt",
        },
        Phase::Back(at, _) => match at {
            Back::Publish => "back: publish",
            Back::Reload => "back: reload",
            Back::Probe => "back: probe",
            Back::Record { proven: true } => "back: record",
            Back::Record { proven: false } => "back: record unproven",
        },
        Phase::Saving => "saving",
        Phase::Pruning => "pruning",
        Phase::Waiting(retry) => match retry {
            Retry::Next => "waiting: next",
            Retry::Prune => "waiting: prune",
            Retry::Stage(_) => "waiting: stage",
            Retry::Verify(_) => "waiting: verify",
            Retry::Forward(Forward::Publish, _) => "waiting: forward from publish",
            Retry::Forward(Forward::Reload, _) => "waiting: forward from reload",
            Retry::Forward(..) => "waiting: forward from nowhere",
            Retry::Back(_) => "waiting: back",
            Retry::Commit { .. } => "waiting: commit",
            Retry::Record { .. } => "waiting: record",
        },
        Phase::Stopped => "stopped",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled back",
        Outcome::Quarantined => "quarantined",
        Outcome::Held => "held",
        Outcome::Superseded => "superseded",
    }
}
