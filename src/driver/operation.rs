//! An operation's answer, and the names of its failpoints.

use crate::rotation::{Effect, Event, Failure};

/// What came of an operation: the event for the machine, and the reason for people.
pub(super) struct Answer {
    pub event: Event,
    pub reason: Option<Reason>,
}

/// Why an operation failed. Masked wherever it is shown.
#[derive(Debug, Clone)]
pub(super) struct Reason {
    pub text: String,
}

impl Answer {
    pub fn of(event: Event) -> Self {
        Self { event, reason: None }
    }

    pub fn failed(failure: Failure, text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        Self { event: Event::Failed(failure), reason: Some(Reason { text }) }
    }

    pub fn for_now(text: impl std::fmt::Display) -> Self {
        Self::failed(Failure::ForNow, text)
    }

    pub fn for_good(text: impl std::fmt::Display) -> Self {
        Self::failed(Failure::ForGood, text)
    }
}

/// The name of an operation in metrics, history and logs; None for what is no operation.
pub(super) fn name(effect: &Effect) -> Option<&'static str> {
    Some(match effect {
        Effect::Stage(_) => "stage",
        Effect::Verify(_) => "verify",
        Effect::Save(_) => "save",
        Effect::Publish(_) => "publish",
        Effect::Reload { .. } => "reload",
        Effect::Probe(_) => "probe",
        Effect::Halt => "halt",
        Effect::Prune { .. } => "prune",
        Effect::Wait { .. } | Effect::Report(_) | Effect::Stopped => return None,
    })
}

/// Failpoints before and after an operation.
pub(super) fn failpoints(operation: &str) -> (&'static str, &'static str) {
    match operation {
        "stage" => ("effect.stage.before", "effect.stage.after"),
        "verify" => ("effect.verify.before", "effect.verify.after"),
        "save" => ("effect.save.before", "effect.save.after"),
        "publish" => ("effect.publish.before", "effect.publish.after"),
        "reload" => ("effect.reload.before", "effect.reload.after"),
        "probe" => ("effect.probe.before", "effect.probe.after"),
        "halt" => ("effect.halt.before", "effect.halt.after"),
        _ => ("effect.prune.before", "effect.prune.after"),
    }
}
