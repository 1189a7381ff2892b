//! Mistakes around it: crashes, deaths, stops, prunes, absent targets, operators.

use crate::world::Machine;
use leasehold::rotation::{
    Back, Candidate, Digest, Effect, Event, Failure, Forward, Generation, Outcome, Phase, Report, Retry, State,
    recover, step,
};

use super::{Mutant, instead, journal, operations, presume, recovering, resting, stepping};

pub fn crashes() -> Vec<Mutant> {
    vec![
        recovering("goes forward for ever after crashes", |mut journal, policy, expired| {
            if let (Some(intent), false) = (&mut journal.intent, journal.held) {
                intent.tries = 0;
            }
            recover(journal, policy, expired)
        }),
        recovering("forgets an open intent after a crash", |mut journal, policy, expired| {
            let forgot = journal.intent.take().is_some();
            let (state, effects) = recover(journal, policy, expired);
            (State { unsaved: state.unsaved || forgot, ..state }, effects)
        }),
        Mutant(
            "leaks the lease of a generation staged before a crash",
            Machine {
                step: |state, event| {
                    let (littered, record) =
                        (state.littered, matches!(state.phase, Phase::Back(Back::Record { .. }, _)));
                    let (mut state, effects) = step(state, event);
                    if record && !littered && state.phase == Phase::Pruning {
                        state.littered = false;
                        return presume((state, effects), Event::Done);
                    }
                    (state, effects)
                },
                recover: |journal, policy, expired| {
                    let (state, effects) = recover(journal, policy, expired);
                    (State { littered: false, ..state }, effects)
                },
            },
        ),
        stepping("judges what appears without telling it", |state, event| {
            let probing = matches!(state.phase, Phase::Back(Back::Probe, _));
            step(State { unsure: state.unsure && !probing, ..state }, event)
        }),
        stepping("takes who comes later to have read what is live", |state, event| {
            let (mut next, effects) = step(state, event);
            next.unsure &= event != Event::NotRunning;
            (next, effects)
        }),
        recovering("takes who came meanwhile to have read what is live", |journal, policy, expired| {
            let (state, effects) = recover(journal, policy, expired);
            (State { unsure: false, ..state }, effects)
        }),
        stepping("tells what appeared without end", |state, event| {
            let told = matches!(state.phase, Phase::Back(Back::Reload, _)) && event == Event::Done;
            let (mut next, effects) = step(state, event);
            next.unsure |= told && next.journal.committed.is_some_and(|c| !c.proven);
            (next, effects)
        }),
        stepping("stays at rest after a child died", |state, event| {
            let next = step(state, event);
            match (event, next.0.phase) {
                (Event::Died, Phase::Waiting(_)) => resting(next),
                _ => next,
            }
        }),
        stepping("does not hear that a child died in flight", |state, event| {
            let idle = matches!(state.phase, Phase::Rest | Phase::Waiting(_));
            if event == Event::Died && !idle { (state, Vec::new()) } else { step(state, event) }
        }),
        stepping("ends a stop with the candidate live", |state, event| {
            let stopping = state.stopping;
            let next = step(state, event);
            match next.0.phase {
                Phase::Back(Back::Publish, _) if stopping => instead(next, Phase::Stopped, Effect::Stopped),
                _ => next,
            }
        }),
    ]
}

pub fn prunes() -> Vec<Mutant> {
    fn prune(state: &State, using: Vec<Generation>) -> Effect {
        Effect::Prune { keep: state.journal.retained.clone(), using }
    }
    vec![
        stepping("prunes before the commit is saved", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Forward(Forward::Commit { proven: true }, candidate) => {
                    let (phase, effect) = (next.0.phase, prune(&next.0, vec![candidate.generation]));
                    instead(next, phase, effect)
                }
                _ => next,
            }
        }),
        stepping("prunes with the lease of the running generation", |state, event| {
            let (state, mut effects) = step(state, event);
            operations(&mut effects, |effect| {
                if let Effect::Prune { using, .. } = effect {
                    using.clear();
                }
            });
            (state, effects)
        }),
        stepping("prunes a generation that may be gone back to", |state, event| {
            let (state, mut effects) = step(state, event);
            operations(&mut effects, |effect| {
                if let Effect::Prune { keep, using } = effect {
                    keep.clone_from(using);
                }
            });
            (state, effects)
        }),
        stepping("revokes the lease of a refuge", |state, event| {
            let next = step(state, event);
            let unproven = next.0.journal.committed.filter(|c| !c.proven);
            match (next.0.phase, unproven) {
                (Phase::Rest, Some(committed)) if next.0.littered && next.0.settled => {
                    let effect = prune(&next.0, vec![committed.generation]);
                    instead(next, Phase::Pruning, effect)
                }
                _ => next,
            }
        }),
        stepping("never retries a failed prune", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Waiting(Retry::Prune) => resting(next),
                _ => next,
            }
        }),
        stepping("prunes nothing", |state, event| {
            let next = step(state, event);
            if next.0.phase == Phase::Pruning { presume(next, Event::Done) } else { next }
        }),
    ]
}

pub fn absences() -> Vec<Mutant> {
    vec![
        stepping("treats NotRunning as proven", |state, event| {
            let next = step(state, event);
            if event != Event::NotRunning {
                return next;
            }
            journal(next, |journal| {
                if let Some(committed) = &mut journal.committed {
                    committed.proven = true;
                }
            })
        }),
        stepping("treats NotRunning as a success", |state, event| {
            step(state, if event == Event::NotRunning { Event::Done } else { event })
        }),
        stepping("treats NotRunning as a failure", |state, event| {
            step(state, if event == Event::NotRunning { Event::Failed(Failure::ForNow) } else { event })
        }),
        stepping("does not probe a target that appears", |state, event| {
            if event == Event::Appeared { (state, Vec::new()) } else { step(state, event) }
        }),
        stepping("loses the refuge of an unproven commit", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Forward(Forward::Commit { proven: false }, _) => journal(next, |journal| journal.refuge = None),
                _ => next,
            }
        }),
    ]
}

pub fn operators() -> Vec<Mutant> {
    vec![
        recovering("lifts a hold by itself after a restart", |mut journal, policy, expired| {
            let forgot = std::mem::take(&mut journal.held);
            let (state, effects) = recover(journal, policy, expired);
            (State { unsaved: state.unsaved || forgot, ..state }, effects)
        }),
        stepping("lifts a hold when what is held becomes healthy", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Forward(Forward::Commit { .. }, Candidate { hold: false, .. }) => {
                    journal(next, |j| j.held = false)
                }
                _ => next,
            }
        }),
        stepping("commits a rollback without its hold", |state, event| {
            let next = step(state, event);
            match next.0.phase {
                Phase::Forward(Forward::Commit { .. }, Candidate { hold: true, .. }) => {
                    journal(next, |j| j.held = false)
                }
                _ => next,
            }
        }),
        stepping("loses a rollback that was asked for in flight", |state, event| {
            let idle = matches!(state.phase, Phase::Rest | Phase::Waiting(_));
            if matches!(event, Event::Rollback(..)) && !idle { (state, Vec::new()) } else { step(state, event) }
        }),
        stepping("does not tell that a newer snapshot took a rollback's place", |state, event| {
            let asked = state.begun.is_some_and(|begun| begun.asked);
            let (state, mut effects) = step(state, event);
            effects.retain(|effect| match effect {
                Effect::Report(report) => !asked || report.outcome != Outcome::Superseded,
                _ => true,
            });
            (state, effects)
        }),
        stepping("loses a release that came in flight", |state, event| {
            let (idle, held) = (matches!(state.phase, Phase::Rest | Phase::Waiting(_)), state.unsaved);
            let (mut state, effects) = step(state, event);
            if event == Event::Release && !idle {
                state.unsaved = held;
            }
            (state, effects)
        }),
        stepping("takes a snapshot while an operator is waited for", |state, event| {
            let next = step(state, event);
            match (next.0.phase, event) {
                (Phase::Rest, Event::Snapshot(digest)) if next.0.journal.held => {
                    instead(next, Phase::Staging(Digest(digest.0)), Effect::Stage(digest))
                }
                _ => next,
            }
        }),
        stepping("tells a commit before it is saved", |state, event| {
            let (state, mut effects) = step(state, event);
            if let Phase::Forward(Forward::Commit { .. }, Candidate { generation, digest, .. }) = state.phase {
                let report = Report { outcome: Outcome::Committed, generation: Some(generation), digest };
                effects.insert(0, Effect::Report(report));
            }
            (state, effects)
        }),
    ]
}
