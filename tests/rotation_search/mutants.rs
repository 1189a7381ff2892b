//! Seeded mistakes: machines that are wrong in one way each, all of which the search must catch.

mod around;
mod going;

use leasehold::rotation::{Candidate, Effect, Event, Forward, Journal, Phase, Policy, State, recover, step};

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
        Budget { deaths: 1, crashes: 1, ..one },
        Budget { deaths: 1, commands: 1, ..one },
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
    let going = [going::order(), going::snapshots(), going::failures()];
    let around = [around::crashes(), around::prunes(), around::absences(), around::operators()];
    let mutants: Vec<Mutant> = going.into_iter().chain(around).flatten().collect();
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
