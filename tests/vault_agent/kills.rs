//! Kill -9 at every step while a database lease is replaced: no lease is left behind.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use crate::world::{Setup, Vault, World};

const TRACE: &str = "trace";
/// What every start and every rotation ends with.
const LAST: &str = "effect.prune.after";

/// A hit of a failpoint: its name, and how often it was hit before since the agent's start.
type Point = (String, usize);

#[test]
fn killed_at_any_step_of_a_rotation_no_lease_is_left_behind() {
    if !cfg!(feature = "failpoints") {
        eprintln!("SKIP: kills at failpoints need `--features failpoints`");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped");
        return;
    }
    let everything = std::env::var("LEASEHOLD_REQUIRE").as_deref() == Ok("all");
    // They wait more than they work.
    let parts = 6;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parts).map(|part| scope.spawn(move || run(part, parts, everything))).collect();
        threads.into_iter().for_each(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
}

fn run(part: usize, parts: usize, everything: bool) {
    let (mut world, prefix) = world();
    let points: Vec<_> = learn(&mut world).into_iter().filter(|(name, _)| everything || taken(name)).collect();
    assert!(points.len() >= 16, "{points:?}");
    let mut lost = 0;
    for point in points.iter().skip(part).step_by(parts) {
        kill_at(&mut world, &prefix, point, &mut lost);
    }
    assert!(lost <= 1, "only between one answer and its record: {points:?}");
}

/// Where leases and generations change hands; all steps of writing files are `tests/kill`'s.
fn taken(name: &str) -> bool {
    name.starts_with("effect.") || name.starts_with("leases.")
}

fn world() -> (World, String) {
    let vault = Vault::fake();
    let mount = vault.database("1h", "2h").unwrap();
    (World::new(vault, &Setup::creds(&mount)), format!("{mount}/creds/app"))
}

fn start(world: &mut World, env: &[(&str, String)]) {
    let _there_may_be_none = std::fs::remove_file(world.path(TRACE));
    world.agent.env = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let trace = world.path(TRACE).display().to_string();
    world.agent.env.push(("LEASEHOLD_FAILPOINT_TRACE".to_owned(), trace));
    world.agent.start();
    world.agent.env.clear();
}

/// The trace once it ends beyond `after` hits with nothing left to write.
fn traced(world: &World, after: usize) -> Vec<String> {
    world.until("the trace ends", |w| {
        let trace: Vec<String> = w.agent.read(TRACE).lines().map(str::to_owned).collect();
        let pruned = trace.iter().skip(after).position(|name| name == LAST)?;
        // What is not used any more is revoked after that, and written down.
        let written = trace[after + pruned..].iter().any(|name| name == "leases.save.after");
        (after == 0 || written).then_some(trace)
    })
}

/// Every hit of one rotation.
fn learn(world: &mut World) -> Vec<Point> {
    start(world, &[]);
    world.healthy();
    let before = traced(world, 0).len();
    world.refresh("db");
    world.agent.wait_outcomes(&["committed", "committed"]);
    let all = traced(world, before);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for (index, name) in all.iter().enumerate() {
        let nth = seen.entry(name).or_default();
        *nth += 1;
        if index >= before {
            points.push((name.clone(), *nth));
        }
    }
    // From now on a start is one from a committed generation, which hits other points than a first one.
    world.agent.stop();
    start(world, &[]);
    let startup = traced(world, 0);
    world.agent.stop();
    let offset = |name: &str| startup.iter().filter(|n| *n == name).count();
    let first = |name: &str| all[..before].iter().filter(|n| *n == name).count();
    points.into_iter().map(|(name, nth)| (name.clone(), nth - first(&name) + offset(&name))).collect()
}

/// Kills the agent there, and lets it recover. `lost`: leases that were made, and of which no agent ever knew.
fn kill_at(world: &mut World, prefix: &str, (name, nth): &Point, lost: &mut usize) {
    let by = format!("a kill at {name}:{nth}");
    start(world, &[("LEASEHOLD_FAILPOINT", format!("{name}:{nth}"))]);
    let startup = traced(world, 0).len();
    let (leases, creds) = (world.vault.leases(prefix).len(), world.creds());
    // It may be killed before it answers.
    let _killed = world.agent.call(&["refresh", "db"]);
    let end = world.agent.end();
    assert_eq!(end.signal(), Some(9), "{by}: it ended by itself\n{}", world.agent.log());
    // Between the server's answer and the ledger nothing can be done: such a lease ends by itself, never renewed.
    let made = world.vault.leases(prefix).len() > leases;
    let written = traced(world, 0).iter().skip(startup).any(|name| name == "leases.save.after");
    let unknown = name == "leases.save.before" && made && !written;
    start(world, &[]);
    *lost += world.until(&format!("{by}: one lease, in use, beside {lost} that nobody knew"), |w| {
        let rests = w.agent.target("app").is_some_and(|t| t["state"] == "healthy");
        let pruned = w.agent.read(TRACE).lines().any(|name| name == LAST);
        let more = usize::from(unknown && w.creds() == creds);
        let rests = rests && pruned && w.vault.accepts(&w.creds());
        (rests && w.vault.leases(prefix).len() == 1 + *lost + more).then_some(more)
    });
    world.agent.stop();
}
