//! The rotation machine is searched, not sampled: every order of success, failure, half-success, crash, snapshot,
//! expiry, command, stop and restart within a budget, with every rule checked in each world.
//!
//! `LEASEHOLD_SEARCH=deep cargo test --release --test rotation_search -- --nocapture` walks a longer bound.

mod explore;
mod mutants;
mod rules;
mod world;

use explore::search;
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
        Budget { snapshots: 1, faults: 1, expiries: 1, deaths: extra, ..none },
        Budget { snapshots: 1 + extra, faults: 1, deaths: 1, ..none },
        Budget { snapshots: 1, faults: extra, commands: 1, crashes: 1, ..none },
        Budget { snapshots: 1, faults: 1, commands: 1 + extra, ..none },
        Budget { snapshots: 2, commands: 2, crashes: extra, ..none },
        Budget { snapshots: 1, faults: 1, stops: 1, deaths: extra, ..none },
        Budget { snapshots: 1, stops: 1, deaths: 1, expiries: extra, crashes: 1, ..none },
        Budget { snapshots: 1, expiries: 1, deaths: 1, crashes: 1, ..none },
    ]
}

#[test]
fn every_world_keeps_every_rule_and_drains_to_rest() {
    let deep = std::env::var("LEASEHOLD_SEARCH").is_ok_and(|v| v == "deep");
    let mut worlds = 0;
    for budget in budgets(deep) {
        let found = search(REAL, starts(REAL, budget), usize::MAX);
        if let Some(violation) = found.violation {
            panic!("after {} worlds: {violation}", found.worlds);
        }
        println!("{} worlds with {budget:?}", found.worlds);
        worlds += found.worlds;
    }
    println!("{worlds} worlds, 0 violations");
    assert!(worlds >= 1_000_000, "only {worlds} worlds: the search looks at too little");
}
