//! The agent is killed at each step of a handover.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;

use crate::world::{Load, Settings, USUAL, World, world};

/// What a rotation hits, in order; each once in the rotation, but `save`, which is hit for the intent and the commit.
const STEPS: [&str; 7] = ["stage", "verify", "save", "publish", "reload", "probe", "prune"];

#[test]
fn killed_before_any_step_one_process_serves_and_the_next_agent_goes_on() {
    at_each_step("before");
}

#[test]
fn killed_after_any_step_one_process_serves_and_the_next_agent_goes_on() {
    at_each_step("after");
}

#[test]
fn killed_while_a_bad_one_is_on_trial_the_next_agent_goes_back() {
    let Some(mut world) = world(&Settings { within: "12s", ..USUAL }, "good-1") else { return };
    world.begin();
    let load = Load::on(&world);
    world.change("bad-2");
    world.wait_servers(2);
    world.agent.signal(Signal::SIGKILL);
    assert_eq!(world.agent.end().signal(), Some(9));
    world.agent.start();
    world.agent.wait_outcomes(&["committed", "rolled_back"]);
    world.wait_key("good-1");
    world.wait_servers(1);
    let seen = load.end();
    assert_eq!((seen.failed, seen.most), (Vec::new(), 2));
}

#[test]
fn where_the_next_process_cannot_start_the_one_that_serves_keeps_its_sockets() {
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    let public = world.agent.dir.join("public.sock");
    world.configure(|text| text.replace("listen: [", &format!("listen: ['unix://{}', ", public.display())));
    world.begin();
    let first = world.wait_key("good-1");
    world.kill_agent();
    let good = world.agent.read("agent.yaml");
    world.configure(|text| text.replace(&format!("command: [{},", world.python), "command: [/no/such,"));
    world.agent.start();
    let reason = world.agent.wait_state("app", "degraded")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("/no/such"), "{reason}");
    assert_eq!(world.wait_key("good-1"), first);
    let private = std::fs::read_dir(world.agent.dir.join("state/targets/app/private")).unwrap();
    let private: Vec<_> = private.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(private.len(), 1, "its own, and none of one that never was: {private:?}");
    for path in [&public, &private[0]] {
        std::os::unix::net::UnixStream::connect(path).unwrap();
    }
    world.configure(|_| good.clone());
    world.agent.signal(Signal::SIGHUP);
    world.wait_other("good-1", first);
    world.wait_servers(1);
}

/// pidfd_getfd(2) is refused: the agent is not root, and the server may not be looked into.
#[test]
fn where_its_sockets_cannot_be_taken_over_what_a_killed_agent_left_is_ended_first() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: only root can run the agent as somebody else");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped");
        return;
    }
    let Some(mut world) = world(&USUAL, "hidden-1") else { return };
    world.agent.user = Some(NOBODY);
    world.change("hidden-1");
    std::os::unix::fs::chown(&world.agent.dir, Some(NOBODY), Some(NOBODY)).unwrap();
    world.begin();
    let first = world.wait_key("hidden-1");
    world.agent.signal(Signal::SIGKILL);
    assert_eq!(world.agent.end().signal(), Some(9));
    assert_eq!(world.wait_key("hidden-1"), first, "it serves on");
    world.begin();
    assert!(world.agent.log().contains("its sockets cannot be taken over"), "{}", world.agent.log());
    assert_ne!(world.wait_key("hidden-1"), first);
    world.wait_servers(1);
}

#[test]
fn killed_while_clients_go_over_from_one_process_to_the_other_none_of_them_is_lost() {
    at_each_of(&["handover.steer.before", "handover.steer.after"].map(|point| (point.to_owned(), 1)));
}

fn at_each_step(when: &str) {
    let hits = |step: &str| if step == "save" { 2 } else { 1 };
    let points = STEPS.iter().flat_map(|step| (1..=hits(step)).map(move |hit| (format!("effect.{step}.{when}"), hit)));
    at_each_of(&points.collect::<Vec<_>>());
}

fn at_each_of(points: &[(String, usize)]) {
    if !cfg!(feature = "failpoints") {
        eprintln!("SKIP: kills at failpoints need `--features failpoints`");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped");
        return;
    }
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    world.begin();
    let load = Load::on(&world);
    for (index, (point, hit)) in points.iter().enumerate() {
        kill_at(&mut world, point, *hit, &format!("good-{index}"));
    }
    let seen = load.end();
    assert_eq!(seen.failed, Vec::<String>::new(), "of {}", seen.asked);
    assert_eq!(seen.most, 2);
}

/// With an agent at rest: ends it, counts what its start hits, and kills it so many hits later.
fn kill_at(world: &mut World, point: &str, hit: usize, key: &str) {
    // What serves outlives an agent that is killed, so the load goes on.
    let kill = |world: &mut World| {
        world.agent.signal(Signal::SIGKILL);
        assert_eq!(world.agent.end().signal(), Some(9));
    };
    kill(world);
    let trace = world.agent.dir.join("trace");
    let _there_may_be_none = std::fs::remove_file(&trace);
    world.agent.env = vec![("LEASEHOLD_FAILPOINT_TRACE".into(), trace.display().to_string())];
    start_and_rest(world);
    let finished = |trace: &str| trace.lines().any(|line| line == "effect.prune.after");
    world.agent.wait("what a start does is done", |a| finished(&a.read("trace")).then_some(()));
    let at_start = world.agent.read("trace").lines().filter(|line| *line == point).count();
    kill(world);
    world.agent.env = vec![("LEASEHOLD_FAILPOINT".into(), format!("{point}:{}", at_start + hit))];
    start_and_rest(world);
    world.agent.env.clear();
    world.change(key);
    let killed = world.agent.end();
    assert_eq!(killed.signal(), Some(9), "{point} {hit}");
    let left = world.servers();
    assert!(left.len() == 1 || left.len() == 2, "{point} {hit}: {left:?}");
    world.agent.start();
    world.wait_key(key);
    world.agent.wait_state("app", "healthy");
    world.wait_servers(1);
}

/// At rest: healthy, and the old one gone; the newest inputs were staged and found to be the same.
fn start_and_rest(world: &mut World) {
    world.agent.start();
    world.agent.wait_state("app", "healthy");
    world.wait_servers(1);
}
