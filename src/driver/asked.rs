//! What operators and the agent ask of a driver: rollback, release, a new config.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::context::{context_for, policy, probe_context};
use super::life::{Answering, Life};
use super::{Command, Refused, view};
use crate::config::model::{ExecReload, ReloadConfig, TargetConfig};
use crate::reload;
use crate::rotation::{Digest, Event, Outcome, Phase, Report, Retry};
use crate::telemetry::audit::Actor;

impl Life {
    pub(super) fn asked(&mut self, command: Command) {
        match command {
            Command::Release { actor, reply } => {
                let text = self.record.released(actor, &self.state);
                self.feed(Event::Release);
                self.releasing.push((text, reply));
            }
            Command::Rollback { to, actor, reply } => self.rollback(to, actor, reply),
            Command::Reassign { assignment, reply } => self.reassign = Some((assignment, reply)),
        }
    }

    fn rollback(&mut self, to: Option<u64>, actor: Actor, reply: Answering) {
        if self.rolling.is_some() {
            let message = format!("target {}: a rollback is under way; wait for its end", self.record.target);
            let _gone = reply.send(Err(Refused { exit: 75, message }));
            return;
        }
        let found = view::rollback_to(&self.state, to)
            .and_then(|generation| Ok((generation, self.record.inputs_of(generation)?)))
            .map_err(|message| Refused { exit: 66, message });
        let (generation, inputs) = match found {
            Ok(found) => found,
            Err(refused) => {
                let _gone = reply.send(Err(refused));
                return;
            }
        };
        let digest = u64::from_str_radix(&inputs, 16).map(Digest).unwrap_or(Digest(0));
        self.record.rolling_back(generation, actor, &self.state);
        self.rolling = Some((generation, reply));
        self.feed(Event::Rollback(generation, digest));
    }

    /// Tells operators that a release is on disk.
    pub(super) fn released(&mut self) {
        if !self.state.unsaved && self.state.phase != Phase::Saving {
            for (text, reply) in self.releasing.drain(..) {
                let _gone = reply.send(text);
            }
        }
    }

    /// A rollback whose target is degraded may take for ever: its operator is not kept waiting.
    pub(super) fn given_up(&mut self) {
        if !matches!(self.state.phase, Phase::Waiting(Retry::Back(_) | Retry::Forward(..))) {
            return;
        }
        if let Some((generation, reply)) = self.rolling.take() {
            let why = self.record.reason.as_deref().unwrap_or("it did not become healthy");
            let target = &self.record.target;
            let message =
                format!("target {target}, generation {generation}: {why}; the target is degraded, and retried");
            let _gone = reply.send(Err(Refused { exit: 75, message }));
        }
    }

    /// Tells an operator what came of a rollback.
    pub(super) fn rolled(&mut self, report: Report) {
        let Some((generation, reply)) = self.rolling.take_if(|(to, _)| report.generation == Some(*to)) else { return };
        let target = &self.record.target;
        let answer = if report.outcome == Outcome::Committed {
            Ok(format!("target {target} is on generation {generation}, and held there until `agent release {target}`"))
        } else {
            let why = self.record.reason.as_deref().unwrap_or("it did not become healthy");
            let on = match self.state.journal.committed {
                Some(committed) if report.outcome == Outcome::RolledBack => {
                    format!("rolled back to generation {}", committed.generation)
                }
                _ if report.outcome == Outcome::Superseded => "a newer change took its place".to_owned(),
                _ => "left as it is".to_owned(),
            };
            Err(Refused { exit: 75, message: format!("target {target}, generation {generation}: {why}; {on}") })
        };
        let _gone = reply.send(answer);
    }

    /// Takes a new config up as soon as nothing is in flight.
    pub(super) async fn reassigned(&mut self) {
        if self.hands.is_none() || self.reassign.is_none() {
            return;
        }
        let Some((assignment, reply)) = self.reassign.take() else { return };
        let target = Arc::clone(&assignment.target);
        let context = context_for(&assignment, &self.surroundings.reload, &self.stop);
        // What a process inherits is decided when it starts.
        let other_reload = !same_reload(&self.assignment.target.reload, &target.reload)
            || (runs_programs(&target.reload) && context.inherit != self.context.inherit);
        self.state.policy = policy(&target, self.surroundings.files_only);
        self.assignment = *assignment;
        self.closed = false;
        self.context = context;
        if let Some(hands) = &mut self.hands {
            hands.probe = probe_context(&self.context);
            hands.target = Arc::clone(&target);
            if other_reload {
                self.other_reload(&target).await;
            } else {
                hands.reload.rebound(&target.reload);
            }
        }
        self.take_inputs();
        let _gone = reply.send(());
    }

    /// The way of telling the process is another now. A supervised process is ended, and started anew as configured.
    async fn other_reload(&mut self, target: &TargetConfig) {
        let Some(hands) = &mut self.hands else { return };
        match reload::build(&target.reload, &self.context) {
            Ok(built) => {
                if let Err(error) = hands.reload.stop().await {
                    self.record.failed("stop", &error.message);
                }
                hands.reload = built;
                *self.forward.lock().unwrap_or_else(PoisonError::into_inner) = hands.reload.forward();
                if self.state.journal.committed.is_some() {
                    self.feed(Event::Died);
                    self.timer = self.timer.map(|_| Instant::now());
                }
            }
            Err(error) => self.record.failed("reload", &error.message),
        }
    }
}

fn runs_programs(reload: &ReloadConfig) -> bool {
    matches!(reload, ReloadConfig::Exec(_) | ReloadConfig::Command(_))
}

/// Whether a process need not be told otherwise than before. Its `env` is part of the generation, not of this, and how long it
/// may take to end is nothing to one that runs.
fn same_reload(old: &ReloadConfig, new: &ReloadConfig) -> bool {
    match (old, new) {
        (ReloadConfig::Exec(old), ReloadConfig::Exec(new)) => {
            let (drain, stop_timeout) = (Duration::ZERO, Duration::ZERO);
            let bare = |exec: &ExecReload| ExecReload { env: Vec::new(), drain, stop_timeout, ..exec.clone() };
            bare(old) == bare(new)
        }
        (old, new) => old == new,
    }
}
