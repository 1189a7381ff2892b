//! Mistakes on the way forward and back: order, snapshots, failures.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{
    Back, Candidate, Committed, Effect, Event, Failure, Forward, Outcome, Phase, Plan, Retry, State, recover, step,
};

use super::{Mutant, failed, forward, instead, journal, presume, recovering, resting, stepping};

pub fn order() -> Vec<Mutant> {
    vec![
        stepping("publishes without saving the intent", |state, event| {
            let next = step(state, event);
            match forward(next.0.phase, Forward::Intend) {
                Some(_) => presume(next, Event::Done),
                None => next,
            }
        }),
        stepping("skips Verify", |state, event| {
            let next = step(state, event);
            if matches!(next.0.phase, Phase::Verifying(_)) { presume(next, Event::Done) } else { next }
        }),
        stepping("commits without Reload", |state, event| {
            let next = step(state, event);
            match forward(next.0.phase, Forward::Reload) {
                Some(_) => presume(next, Event::Done),
                None => next,
            }
        }),
        stepping("commits without Probe", |state, event| {
            let next = step(state, event);
            match forward(next.0.phase, Forward::Probe) {
                Some(_) => presume(next, Event::Done),
                None => next,
            }
        }),
        stepping("records the way back without Probe", |state, event| {
            let next = step(state, event);
            if matches!(next.0.phase, Phase::Back(Back::Probe, _)) { presume(next, Event::Done) } else { next }
        }),
        stepping("puts a second operation in flight", |state, event| {
            let verifying = matches!(state.phase, Phase::Verifying(_));
            let (state, mut effects) = step(state, event);
            if let (true, Event::Snapshot(digest)) = (verifying, event) {
                effects.push(Effect::Stage(digest));
            }
            (state, effects)
        }),
        stepping("forgets to set the timer of a wait", |state, event| {
            let (state, mut effects) = step(state, event);
            effects.retain(|e| !matches!(e, Effect::Wait { .. }));
            (state, effects)
        }),
        stepping("leaves out a reload after a failed publish", |state, event| {
            let touched = state.touched;
            let publish = matches!(state.phase, Phase::Forward(Forward::Publish, _) | Phase::Back(Back::Publish, _));
            let (mut state, effects) = step(state, event);
            if publish && failed(event) {
                state.touched = touched;
            }
            (state, effects)
        }),
        recovering("leaves out a reload after a crash", |journal, policy, expired| {
            let (state, effects) = recover(journal, policy, expired);
            (State { touched: false, ..state }, effects)
        }),
    ]
}

pub fn snapshots() -> Vec<Mutant> {
    vec![
        stepping("forgets the newest snapshot that arrived in flight", |state, event| {
            let idle = matches!(state.phase, Phase::Rest | Phase::Waiting(_));
            if matches!(event, Event::Snapshot(_)) && !idle { (state, Vec::new()) } else { step(state, event) }
        }),
        stepping("forgets a snapshot that arrived in a wait", |state, event| {
            let waits = matches!(state.phase, Phase::Waiting(_));
            if matches!(event, Event::Snapshot(_)) && waits { (state, Vec::new()) } else { step(state, event) }
        }),
        stepping("stages the first of several snapshots", |state, event| match (state.phase, event, state.newest) {
            (Phase::Forward(..), Event::Snapshot(_), Some(first)) => {
                let (state, effects) = step(state, event);
                (State { newest: Some(first), ..state }, effects)
            }
            _ => step(state, event),
        }),
        stepping("a superseded degraded wait forgets its open intent", |state, event| {
            let degraded = matches!(state.phase, Phase::Waiting(Retry::Back(_)));
            let (mut state, effects) = step(state, event);
            if degraded && matches!(state.phase, Phase::Staging(_)) && state.journal.intent.is_some() {
                state.journal.intent = None;
                state.unsaved = true;
                state.settled = true;
            }
            (state, effects)
        }),
        stepping("does not tell that a rotation was superseded", |state, event| {
            let (state, mut effects) = step(state, event);
            effects.retain(|e| !matches!(e, Effect::Report(r) if r.outcome == Outcome::Superseded));
            (state, effects)
        }),
    ]
}

pub fn failures() -> Vec<Mutant> {
    vec![
        stepping("ignores quarantine", |mut state, event| {
            let known = std::mem::take(&mut state.journal.quarantined);
            journal(step(state, event), |journal| {
                journal.quarantined.extend(&known);
                journal.quarantined.sort_unstable();
                journal.quarantined.dedup();
            })
        }),
        stepping("rolls back without quarantine", |state, event| {
            let (mut state, effects) = step(state, event);
            if let (Phase::Back(Back::Publish, Plan { failed: Some(failed), .. }), Event::Failed(_)) =
                (state.phase, event)
            {
                state.journal.quarantined.retain(|d| *d != failed.digest);
            }
            (state, effects)
        }),
        stepping("quarantines what failed for now", |state, event| match event {
            Event::Failed(Failure::ForNow) => step(state, Event::Failed(Failure::ForGood)),
            _ => step(state, event),
        }),
        recovering("retries a quarantined digest after a restart", |mut journal, policy, expired| {
            let forgot = !std::mem::take(&mut journal.quarantined).is_empty();
            let (state, effects) = recover(journal, policy, expired);
            (State { unsaved: state.unsaved || forgot, ..state }, effects)
        }),
        stepping("treats a failed save of the intent as saved", |state, event| {
            let intend = forward(state.phase, Forward::Intend).is_some();
            step(state, if intend && failed(event) { Event::Done } else { event })
        }),
        stepping("treats a failed save of the commit as saved", |state, event| {
            let commit = matches!(state.phase, Phase::Forward(Forward::Commit { .. }, _));
            step(state, if commit && failed(event) { Event::Done } else { event })
        }),
        stepping("treats a failed save of the way back as saved", |state, event| {
            let record = matches!(state.phase, Phase::Back(Back::Record { .. }, _));
            step(state, if record && failed(event) { Event::Done } else { event })
        }),
        stepping("treats any other failed save as saved", |state, event| {
            let saving = state.phase == Phase::Saving;
            step(state, if saving && failed(event) { Event::Done } else { event })
        }),
        stepping("stays half-way after a failed publish", |state, event| {
            let published = forward(state.phase, Forward::Publish);
            let next = step(state, event);
            match published {
                Some(candidate) if failed(event) && matches!(next.0.phase, Phase::Back(..)) => instead(
                    next,
                    Phase::Waiting(Retry::Forward(Forward::Publish, candidate)),
                    Effect::Wait { attempt: 1 },
                ),
                _ => next,
            }
        }),
        stepping("never leaves degraded", |state, event| match (state.phase, event) {
            (Phase::Waiting(Retry::Back(_)), Event::Timer) => (state, vec![Effect::Wait { attempt: 1 }]),
            _ => step(state, event),
        }),
        stepping("goes back to dead credentials", |state, event| step(State { expired: false, ..state }, event)),
        stepping("an expired fallback commits a generation that was never applied", |state, event| {
            let (phase, expired) = (state.phase, state.expired);
            let next = step(state, event);
            match (phase, next.0.journal.intent) {
                (Phase::Waiting(Retry::Back(_)), Some(intent)) if expired && event == Event::Timer => {
                    let (generation, digest) = (intent.generation, intent.digest);
                    let candidate = Candidate { generation, digest, hold: false };
                    let mut journal = next.0.journal.clone();
                    journal.committed = Some(Committed { generation, digest, proven: true });
                    journal.intent = None;
                    let state = State { journal: journal.clone(), ..next.0 };
                    let commit = Phase::Forward(Forward::Commit { proven: true }, candidate);
                    instead((state, Vec::new()), commit, Effect::Save(journal))
                }
                _ => next,
            }
        }),
        stepping("gives up on a first rotation that is unhealthy", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Waiting(Retry::Forward(..)) => resting(next),
                _ => next,
            }
        }),
        stepping("does not halt an unhealthy child", |state, event| {
            let next = step(state, event);
            match forward(next.0.phase, Forward::Halt) {
                Some(_) => presume(next, Event::Done),
                None => next,
            }
        }),
        stepping("goes back where the operator wants a hold", |mut state, event| {
            let policy = state.policy;
            if policy.on_unhealthy == OnUnhealthy::Hold {
                state.policy.on_unhealthy = OnUnhealthy::Rollback;
            }
            let (state, effects) = step(state, event);
            (State { policy, ..state }, effects)
        }),
    ]
}
