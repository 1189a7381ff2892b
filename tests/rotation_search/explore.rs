//! Every next world of a world, and the walk over all of them.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use leasehold::rotation::{Digest, Effect, Event, Failure, Phase};

use crate::coverage::Coverage;
use crate::world::{Happened, Live, Machine, World, bit};
use crate::{rest, rules};

/// What a search found.
pub struct Found {
    pub worlds: usize,
    pub violation: Option<String>,
    pub coverage: Coverage,
}

/// Breadth first from the given worlds, until all is seen, `limit` worlds are, or a rule is broken.
pub fn search(machine: Machine, starts: Vec<World>, limit: usize) -> Found {
    let hasher = RandomState::new();
    let mut seen: HashSet<u64> = HashSet::new();
    let mut drains: HashSet<u64> = HashSet::new();
    let mut queue: VecDeque<World> = VecDeque::new();
    let mut coverage = Coverage::default();
    for world in starts {
        if seen.insert(hasher.hash_one(&world)) {
            queue.push_back(world);
        }
    }
    while let Some(world) = queue.pop_front() {
        if let Err(broken) = drain(machine, &world, &hasher, &mut drains) {
            return Found { worlds: seen.len(), violation: Some(broken), coverage };
        }
        if seen.len() >= limit {
            continue;
        }
        for (happened, next) in nexts(machine, &world) {
            if let Err(broken) = rules::check(&world, &happened, &next) {
                let violation = Some(format!("{broken}\n  after {happened:?}\n  from {world:?}\n  to {next:?}"));
                return Found { worlds: seen.len(), violation, coverage };
            }
            coverage.note(&happened, &next);
            if seen.insert(hasher.hash_one(&next)) {
                queue.push_back(next);
            }
        }
    }
    Found { worlds: seen.len(), violation: None, coverage }
}

/// With nothing going wrong any more, the world comes to rest, and rest is right.
fn drain(machine: Machine, start: &World, hasher: &RandomState, known: &mut HashSet<u64>) -> Result<(), String> {
    let mut world = start.clone();
    let mut walked = Vec::new();
    for _ in 0..120 {
        let hash = hasher.hash_one(&world);
        if known.contains(&hash) {
            known.extend(walked);
            return Ok(());
        }
        walked.push(hash);
        let before = world.clone();
        let Some(happened) = succeed(machine, &mut world) else {
            known.extend(walked);
            return rest::at_rest(&world).map_err(|e| format!("{e}\n  drained from {start:?}\n  to {world:?}"));
        };
        rules::check(&before, &happened, &world)
            .map_err(|e| format!("{e}\n  while draining, after {happened:?}\n  from {before:?}\n  to {world:?}"))?;
    }
    Err(format!("does not come to rest\n  drained from {start:?}\n  at {world:?}"))
}

/// The one next step in which everything goes well. None: at rest, or waiting for what only the world can change.
fn succeed(machine: Machine, world: &mut World) -> Option<Happened> {
    if world.stopped {
        return Some(Happened::Restarted(world.restart(machine)));
    }
    if !world.announced {
        world.announced = true;
        return Some(world.tell(machine, Event::Snapshot(Digest(world.newest))));
    }
    if let Some(operation) = world.flight.take() {
        let event = world.perform(&operation);
        return Some(world.tell(machine, event));
    }
    match world.state.phase {
        Phase::Rest if appearable(world) => Some(world.tell(machine, Event::Appeared)),
        Phase::Waiting(retry) if world.timer && !rest::hopeless(world, retry) => {
            Some(world.tell(machine, Event::Timer))
        }
        _ => None,
    }
}

fn appearable(world: &World) -> bool {
    let unproven = world.state.journal.committed.is_some_and(|c| !c.proven);
    world.present && world.state.settled && unproven
}

type Nexts = Vec<(Happened, World)>;

fn nexts(machine: Machine, world: &World) -> Nexts {
    let mut out = Nexts::new();
    if world.stopped {
        let mut next = world.clone();
        let happened = Happened::Restarted(next.restart(machine));
        out.push((happened, next));
        return out;
    }
    operation(machine, world, &mut out);
    inputs(machine, world, &mut out);
    surroundings(machine, world, &mut out);
    commands(machine, world, &mut out);
    if world.flight.is_none() && world.budget.crashes > 0 {
        out.push(crash(machine, world.clone()));
    }
    out
}

fn crash(machine: Machine, mut world: World) -> (Happened, World) {
    world.budget.crashes -= 1;
    world.disturbed = false;
    let happened = Happened::Crashed(world.restart(machine));
    (happened, world)
}

/// Success; failure before it happened, half-way, or after; a crash at each of these.
fn operation(machine: Machine, world: &World, out: &mut Nexts) {
    let Some(operation) = &world.flight else {
        if world.timer {
            told(machine, world.clone(), Event::Timer, out);
        }
        return;
    };
    let idle = World { flight: None, ..world.clone() };
    let mut done = idle.clone();
    let event = done.perform(operation);
    told(machine, done.clone(), event, out);
    let mut partial = vec![idle, done];
    if let Effect::Publish(generation) = operation {
        let mut half = partial[0].clone();
        half.half_publish(*generation);
        partial.push(half);
    }
    for after in partial {
        if world.budget.faults > 0 {
            let failures: &[Failure] = match operation {
                Effect::Save(_) | Effect::Prune { .. } | Effect::Halt => &[Failure::ForNow],
                _ => &[Failure::ForNow, Failure::ForGood],
            };
            for failure in failures {
                let mut failed = after.clone();
                failed.budget.faults -= 1;
                failed.disturbed = true;
                told(machine, failed, Event::Failed(*failure), out);
            }
        }
        if world.budget.crashes > 0 {
            out.push(crash(machine, after));
        }
    }
}

fn told(machine: Machine, mut world: World, event: Event, out: &mut Nexts) {
    let happened = world.tell(machine, event);
    out.push((happened, world));
}

fn inputs(machine: Machine, world: &World, out: &mut Nexts) {
    if !world.announced {
        let mut next = world.clone();
        next.announced = true;
        told(machine, next, Event::Snapshot(Digest(world.newest)), out);
    }
    if world.budget.snapshots > 0 {
        for digest in 0..4 {
            let mut next = world.clone();
            next.budget.snapshots -= 1;
            next.newest = digest;
            next.announced = true;
            told(machine, next, Event::Snapshot(Digest(digest)), out);
        }
    }
}

fn surroundings(machine: Machine, world: &World, out: &mut Nexts) {
    if world.budget.deaths > 0 && world.present {
        let mut next = world.clone();
        next.budget.deaths -= 1;
        (next.present, next.stray) = (false, false);
        next.taken = None;
        if world.policy.supervised {
            told(machine, next, Event::Died, out);
        } else {
            out.push((Happened::Surroundings, next));
        }
    }
    if !world.present && !world.policy.supervised {
        let mut next = world.clone();
        next.present = true;
        next.taken = match world.live {
            Live::Whole(generation) => Some(generation),
            _ => None,
        };
        out.push((Happened::Surroundings, next.clone()));
        // It read its files while those before were there, and was not there yet when it was to be told.
        if world.state.phase == Phase::Rest && world.state.journal.committed.is_some_and(|c| !c.proven) {
            (next.taken, next.stray) = (None, true);
            out.push((Happened::Surroundings, next));
        }
    }
    if world.present && !world.policy.supervised {
        told(machine, world.clone(), Event::Appeared, out);
    }
    if let (1.., Some(committed)) = (world.budget.expiries, world.state.journal.committed)
        && world.disk.committed.map(|c| c.generation) == Some(committed.generation)
    {
        let mut next = world.clone();
        next.budget.expiries -= 1;
        next.dead |= bit(committed.generation);
        told(machine, next, Event::Expired, out);
    }
}

fn commands(machine: Machine, world: &World, out: &mut Nexts) {
    if world.budget.stops > 0 {
        let mut next = world.clone();
        next.budget.stops -= 1;
        told(machine, next, Event::Stop, out);
    }
    if world.budget.commands == 0 {
        return;
    }
    let mut next = world.clone();
    next.budget.commands -= 1;
    told(machine, next.clone(), Event::Release, out);
    for generation in &world.disk.retained {
        let known = world.state.journal.retained.contains(generation);
        if known && world.dead & bit(*generation) == 0 {
            let digest = Digest(world.digest_of(*generation));
            told(machine, next.clone(), Event::Rollback(*generation, digest), out);
        }
    }
}
