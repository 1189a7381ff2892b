//! Killed at each place that has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::agent::DEADLINE;
use crate::settled::{Expected, Refused};
use crate::world::{Kind, World};
use crate::{Dice, everything, together};

/// A hit of a failpoint, from the agent's start.
#[derive(Clone, Debug)]
struct Point {
    name: String,
    nth: usize,
    /// Hit before the secret changes.
    at_start: bool,
}

const TRACE: &str = "trace";
/// What every start and every rotation ends with.
const LAST: &str = "effect.prune.after";

#[test]
fn killed_at_any_step_forward_the_change_is_taken_up() {
    each_point(&[(Kind::Files, true), (Kind::Directory, true), (Kind::Signal, true)]);
}

#[test]
fn killed_at_any_step_on_the_way_back_the_bad_value_is_refused() {
    each_point(&[(Kind::Files, false), (Kind::Directory, false), (Kind::Signal, false)]);
}

/// A target, the share of its points (of how many), and whether the value is good.
struct Share {
    kind: Kind,
    good: bool,
    part: usize,
    of: usize,
}

fn each_point(of: &[(Kind, bool)]) {
    if !cfg!(feature = "failpoints") {
        eprintln!("SKIP: kills at failpoints need `--features failpoints`");
        assert!(!everything(), "LEASEHOLD_REQUIRE=all");
        return;
    }
    let shares = of.iter().flat_map(|(kind, good)| {
        // They wait more than they work: a signalled process is watched for a second each time.
        let of = match kind {
            Kind::Signal if everything() => 3,
            _ if everything() || (*kind == Kind::Signal && *good) => 2,
            _ => 1,
        };
        (0..of).map(move |part| Share { kind: *kind, good: *good, part, of })
    });
    together(shares, run);
}

fn run(share: Share) {
    let mut dice = Dice::new(share.part as u64);
    let mut world = World::new(&[share.kind], false);
    if share.good {
        world.be_patient();
    }
    warm_up(&mut world, share.good);
    let (points, startup) = learn(&mut world, share.good);
    let mine: Vec<_> = points.into_iter().filter(|point| taken(point, &share)).collect();
    let mine: Vec<_> = mine.into_iter().skip(share.part).step_by(share.of).collect();
    eprintln!("{:?}, good: {}: {} kills", share.kind, share.good, mine.len());
    for (index, point) in mine.iter().enumerate() {
        let again = (index % 3 == 2).then(|| AGAIN[usize::try_from(dice.below(AGAIN.len() as u64)).unwrap()]);
        kill_at(&mut world, point, startup, share.good, again);
    }
    world.start(None, None);
    let value = world.change(true);
    world.rest(&Expected { value, refused: Refused::Never, before: BTreeMap::new() });
    world.assert_healthy();
    world.end();
}

/// Where a recovery is killed, too.
const AGAIN: [&str; 8] = [
    "effect.save.before",
    "effect.save.after",
    "effect.publish.before",
    "effect.publish.after",
    "effect.reload.before",
    "effect.reload.after",
    "effect.probe.before",
    "journal.after_rename",
];

/// Whether it is worth its time here.
fn taken(point: &Point, share: &Share) -> bool {
    let effect = point.name.starts_with("effect.") && !point.at_start;
    let after = point.name.ends_with(".after");
    match (everything(), share.kind) {
        (true, Kind::Files | Kind::Directory) => true,
        (true, Kind::Signal) | (false, Kind::Files | Kind::Directory) => effect,
        (false, Kind::Signal) => effect && after && (share.good || point.name.contains("publish")),
    }
}

/// Enough rotations that each further one prunes one, and a value refused where the next is to be.
fn warm_up(world: &mut World, good: bool) {
    world.start(None, None);
    let first = Expected { value: "good-000001".into(), refused: Refused::Never, before: BTreeMap::new() };
    world.rest(&first);
    for good in [true, true, good] {
        let expected = change(world, good);
        world.rest(&expected);
    }
    world.kill();
}

fn change(world: &mut World, good: bool) -> Expected {
    let before = world.refusals();
    let refused = if good { Refused::Never } else { Refused::Always };
    Expected { value: world.change(good), refused, before }
}

/// Every hit of a start, then of one rotation; those that are the only, the first or the last of their name in each.
fn learn(world: &mut World, good: bool) -> (Vec<Point>, usize) {
    world.start(None, Some(TRACE));
    let startup = traced(world, 0).len();
    let expected = change(world, good);
    world.rest(&expected);
    let all = traced(world, startup);
    world.kill();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for (index, name) in all.iter().enumerate() {
        let nth = seen.entry(name).or_default();
        *nth += 1;
        points.push(Point { name: name.clone(), nth: *nth, at_start: index < startup });
    }
    let last: BTreeSet<(bool, String, usize)> = points
        .iter()
        .map(|p| ((p.at_start, p.name.clone()), p.nth))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .map(|((at_start, name), nth)| (at_start, name, nth))
        .collect();
    let mut first = BTreeSet::new();
    points.retain(|p| {
        let is_first = first.insert((p.at_start, p.name.clone()));
        is_first || p.name.starts_with("effect.") || last.contains(&(p.at_start, p.name.clone(), p.nth))
    });
    assert!(points.len() > 20, "{points:?}");
    (points, startup)
}

/// The trace once it has come to an end beyond `after` hits.
fn traced(world: &mut World, after: usize) -> Vec<String> {
    world.agent.wait("the trace ends", |agent| {
        let trace: Vec<String> = agent.read(TRACE).lines().map(str::to_owned).collect();
        (trace.len() > after && trace.last().is_some_and(|last| last == LAST)).then_some(trace)
    })
}

/// Kills the agent at a point, perhaps at another while it recovers, and lets it recover.
fn kill_at(world: &mut World, point: &Point, startup: usize, good: bool, again: Option<&str>) {
    let by = format!("a kill at {}:{}", point.name, point.nth);
    let on = world.rested.values().copied().max().unwrap_or_default();
    world.start(Some((&point.name, point.nth)), Some(TRACE));
    let mut expected = Expected { value: format!("good-{on:06}"), refused: Refused::Never, before: BTreeMap::new() };
    if !point.at_start {
        wait_for_trace(world, startup, &by);
        expected = change(world, good);
    }
    world.killed(&by);
    if let Some(name) = again {
        if good && !point.at_start {
            expected.refused = Refused::Perhaps;
        }
        world.start(Some((name, 1)), None);
        world.killed(&format!("{by}, then at {name}"));
    }
    world.start(None, None);
    world.rest(&expected);
    world.assert_healthy();
    world.kill();
}

fn wait_for_trace(world: &mut World, lines: usize, by: &str) {
    let until = Instant::now() + DEADLINE;
    while world.trace(TRACE).len() < lines {
        assert!(world.running() && Instant::now() < until, "{by}: too early, or never\nlog:\n{}", world.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}
