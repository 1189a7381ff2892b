//! Seeded mistakes: machines that are wrong in one way each, all of which the search must catch.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{
    Back, Candidate, Committed, Digest, Effect, Event, Failure, Forward, Generation, Journal, Outcome, Phase, Plan,
    Policy, Report, Retry, State, recover, step,
};

use crate::explore::search;
use crate::world::{Budget, Machine};
use crate::{budgets, spread, starts};

type Next = (State, Vec<Effect>);
type Step = fn(State, Event) -> Next;

/// A mistake by name, and the machine that makes it.
struct Mutant(&'static str, Machine);

fn stepping(name: &'static str, step: Step) -> Mutant {
    Mutant(name, Machine { step, recover })
}

fn recovering(name: &'static str, recover: fn(Journal, Policy, bool) -> Next) -> Mutant {
    Mutant(name, Machine { step, recover })
}

/// The machine goes on as if the operation it just began had answered this.
fn presume((state, effects): Next, answer: Event) -> Next {
    let reports = effects.into_iter().filter(|e| matches!(e, Effect::Report(_)));
    let (state, next) = step(state, answer);
    (state, reports.chain(next).collect())
}

/// Rests, where there was something to do.
fn resting((state, mut effects): Next) -> Next {
    effects.retain(|e| matches!(e, Effect::Report(_)));
    (State { phase: Phase::Rest, ..state }, effects)
}

/// Does something else than what it set out to do.
fn instead((state, effects): Next, phase: Phase, effect: Effect) -> Next {
    let reports = effects.into_iter().filter(|e| matches!(e, Effect::Report(_)));
    (State { phase, ..state }, reports.chain([effect]).collect())
}

fn operations(effects: &mut [Effect], change: impl Fn(&mut Effect)) {
    effects.iter_mut().for_each(change);
}

/// Changes the journal of the state and of what is being saved alike.
fn journal((mut state, mut effects): Next, change: impl Fn(&mut Journal)) -> Next {
    change(&mut state.journal);
    operations(&mut effects, |effect| {
        if let Effect::Save(journal) = effect {
            change(journal);
        }
    });
    (state, effects)
}

fn forward(phase: Phase, at: Forward) -> Option<Candidate> {
    match phase {
        Phase::Forward(now, candidate) if now == at => Some(candidate),
        _ => None,
    }
}

fn failed(event: Event) -> bool {
    matches!(event, Event::Failed(_))
}

fn order() -> Vec<Mutant> {
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

fn snapshots() -> Vec<Mutant> {
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

fn failures() -> Vec<Mutant> {
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

fn crashes() -> Vec<Mutant> {
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

fn prunes() -> Vec<Mutant> {
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

fn absences() -> Vec<Mutant> {
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

fn operators() -> Vec<Mutant> {
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

/// One trouble after one change, or two: where most mistakes show within few worlds.
fn small() -> Vec<Budget> {
    let one = Budget { snapshots: 1, faults: 0, crashes: 0, deaths: 0, expiries: 0, commands: 0, stops: 0 };
    vec![
        one,
        Budget { faults: 1, ..one },
        Budget { crashes: 1, ..one },
        Budget { deaths: 1, ..one },
        Budget { commands: 1, ..one },
        Budget { stops: 1, ..one },
        Budget { snapshots: 2, ..one },
        Budget { faults: 1, expiries: 1, ..one },
        Budget { crashes: 2, ..one },
    ]
}

/// After how many worlds, and by which rule.
fn catch(machine: Machine) -> Option<(usize, String)> {
    let mut worlds = 0;
    for budget in small().into_iter().chain(budgets(false)) {
        let found = search(machine, starts(machine, budget), usize::MAX);
        worlds += found.worlds;
        if let Some(violation) = found.violation {
            return Some((worlds, violation.lines().next().unwrap_or_default().to_owned()));
        }
    }
    None
}

#[test]
fn every_seeded_mistake_is_caught() {
    let all = [order(), snapshots(), failures(), crashes(), prunes(), absences(), operators()];
    let mutants: Vec<Mutant> = all.into_iter().flatten().collect();
    assert!(mutants.len() >= 50, "{} mistakes only", mutants.len());
    let caught = spread(&mutants, |Mutant(_, machine)| catch(*machine));
    let mut missed = Vec::new();
    for (Mutant(name, _), caught) in mutants.iter().zip(caught) {
        match caught {
            Some((worlds, rule)) => println!("{name}: after {worlds} worlds, {rule}"),
            None => missed.push(*name),
        }
    }
    println!("{} of {} seeded mistakes caught", mutants.len() - missed.len(), mutants.len());
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
