//! The rotation machine is searched, not sampled: every order of success, failure, half-success, crash, snapshot,
//! expiry, command, stop and restart within a budget, with every rule checked in each world.
//!
//! `LEASEHOLD_SEARCH=deep` walks a longer bound: `docs/rotation.md` says how, and what it found.

mod coverage;
mod explore;
mod found;
mod mutants;
mod rest;
mod rules;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use coverage::Coverage;
use explore::{Found, search};
use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{Policy, recover, step};
use world::{Budget, Machine, World};

const REAL: Machine = Machine { step, recover };

fn policies() -> impl Iterator<Item = Policy> {
    [OnUnhealthy::Rollback, OnUnhealthy::Hold, OnUnhealthy::Ignore]
        .into_iter()
        .flat_map(|on_unhealthy| [false, true].map(|supervised| Policy { on_unhealthy, keep: 2, supervised }))
}

fn starts(machine: Machine, budget: Budget) -> Vec<World> {
    policies().flat_map(|p| [9, 1].map(|bad| World::new(machine, p, bad, budget))).collect()
}

fn budgets(deep: bool) -> Vec<Budget> {
    let none = Budget { snapshots: 0, faults: 0, crashes: 0, deaths: 0, expiries: 0, commands: 0, stops: 0 };
    let extra = u8::from(deep);
    vec![
        Budget { snapshots: 1, faults: 1, crashes: 1 + extra, ..none },
        Budget { snapshots: 1 + extra, faults: 2, ..none },
        Budget { snapshots: 2 + extra, faults: 1, ..none },
        Budget { snapshots: 1, crashes: 2, faults: extra, ..none },
        Budget { snapshots: 1, crashes: 2, deaths: 1, ..none },
        Budget { snapshots: 1, faults: 1, expiries: 1, deaths: 1, ..none },
        Budget { snapshots: 1 + extra, faults: 1, deaths: 1, ..none },
        Budget { snapshots: 1, faults: extra, commands: 1, crashes: 1, ..none },
        Budget { snapshots: 1, faults: 1, commands: 1 + extra, ..none },
        Budget { snapshots: 2, commands: 2, crashes: extra, ..none },
        Budget { snapshots: 1, commands: 1, deaths: 1, ..none },
        Budget { snapshots: 1, faults: 1, stops: 1, deaths: extra, ..none },
        Budget { snapshots: 1, stops: 1, deaths: 1, expiries: extra, crashes: 1, ..none },
        Budget { snapshots: 1, expiries: 1, deaths: 1, crashes: 1, ..none },
        Budget { snapshots: 1 + extra, faults: 2, commands: 1, ..none },
        Budget { snapshots: 1 + extra, faults: 1, commands: 1, deaths: 1, ..none },
    ]
}

/// Each item's work done once, on as many threads as there are processors; the answers in order.
fn spread<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let turn = AtomicUsize::new(0);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (turn, work, tell) = (&turn, &work, tell.clone());
            scope.spawn(move || {
                while let Some((at, item)) = items.iter().enumerate().nth(turn.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens only where a panic ends the test already.
                    let _ = tell.send((at, work(item)));
                }
            });
        }
    });
    drop(tell);
    let mut answers: Vec<(usize, R)> = told.into_iter().collect();
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[test]
fn every_world_keeps_every_rule_and_drains_to_rest() {
    let deep = std::env::var("LEASEHOLD_SEARCH").is_ok_and(|v| v == "deep");
    let mut worlds = 0;
    let mut visited = Coverage::default();
    let found = spread(&budgets(deep), |budget| {
        let found = search(REAL, starts(REAL, *budget), usize::MAX);
        println!("{} worlds with {budget:?}", found.worlds);
        found
    });
    let mut violations = Vec::new();
    for Found { worlds: some, violation, coverage } in found {
        violations.extend(violation.map(|v| format!("after {some} worlds: {v}")));
        worlds += some;
        visited.add(coverage);
    }
    println!("{worlds} worlds, {} violations", violations.len());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert!(worlds >= 1_000_000, "only {worlds} worlds: the search looks at too little");
    assert!(visited.missing().is_empty(), "no world was in {:?}: the search looks at too little", visited.missing());
    assert!(visited.unlisted().is_empty(), "worlds that nobody expected: {:?}", visited.unlisted());
}
