//! A process dies at a moment at which another is on its way out.

use crate::world::{Settings, USUAL, World, world};

/// As long as no test takes.
const ENDLESS: Settings = Settings { drain: "1h", ..USUAL };

/// What the agent says where a third has to wait.
const WAITS: &str = "the next process waits until the one before has drained";

/// The process of `lingers-1` drains, that of `good-2` serves; both pids.
fn draining(world: &mut World) -> (i64, i64) {
    world.begin();
    let first = world.wait_key("lingers-1");
    world.change("good-2");
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.wait_noted(first, "TERM");
    (first, world.wait_key("good-2"))
}

#[test]
fn one_that_dies_while_the_one_before_drains_is_started_again_at_once() {
    let Some(mut world) = world(&ENDLESS, "lingers-1") else { return };
    let (first, second) = draining(&mut world);
    world.kill_server(second);
    assert_ne!(world.wait_key("good-2"), second);
    world.agent.wait_state("app", "healthy");
    world.wait_servers(2);
    assert!(!world.noted(first, "END"), "it drains on: {}", world.notes());
    world.finish();
    world.wait_noted(first, "END");
    world.wait_servers(1);
}

#[test]
fn one_that_dies_while_a_third_waits_for_the_drain_is_started_again_at_once() {
    let Some(mut world) = world(&ENDLESS, "lingers-1") else { return };
    let (first, second) = draining(&mut world);
    world.change("good-3");
    world.wait_said(WAITS);
    world.kill_server(second);
    assert_ne!(world.wait_key("good-2"), second, "what was proven, not what was to come");
    assert!(!world.noted(first, "END") && world.starts("good-3") == 0, "{}", world.notes());
    // And the third comes once there is room for it.
    world.finish();
    world.wait_key("good-3");
    world.wait_servers(1);
    world.agent.wait_state("app", "healthy");
}

#[test]
fn a_bad_one_that_had_the_clients_for_lack_of_another_does_not_keep_them_until_the_drain_is_over() {
    let Some(mut world) = world(&Settings { within: "12s", ..ENDLESS }, "lingers-1") else { return };
    let (first, second) = draining(&mut world);
    // The new inputs are there before the wait for a restart is over, mostly: then they are what is started.
    world.kill_server(second);
    world.change("bad-3");
    world.agent.wait("it is tried", |a| {
        a.log()
            .contains("waits until the one before has drained")
            .then_some(())
            .or_else(|| a.read("notes").contains(" START bad-3 ").then_some(()))
    });
    assert_ne!(world.wait_key("good-2"), second);
    assert!(!world.noted(first, "END"), "{}", world.notes());
    world.finish();
    world.agent.wait_state("app", "healthy");
    world.wait_servers(1);
}

#[test]
fn what_drains_when_the_agent_is_killed_keeps_its_time_and_is_told_once() {
    let Some(mut world) = world(&ENDLESS, "lingers-1") else { return };
    // Less than the drain, so that it would be noticed.
    world.configure(|text| text.replace("stop_timeout: 20s", "stop_timeout: 100ms"));
    let (first, second) = draining(&mut world);
    world.kill_agent();
    world.agent.start();
    world.wait_said("a process of an agent before serves until a new one can");
    world.wait_servers(2);
    assert_eq!(world.wait_key("good-2"), second);
    world.finish();
    world.wait_noted(first, "END");
    world.wait_other("good-2", second);
    world.wait_servers(1);
    world.agent.wait_state("app", "healthy");
    assert_eq!(world.notes().lines().filter(|line| *line == format!("{first} TERM lingers-1")).count(), 1);
}

#[test]
fn the_one_of_an_agent_before_that_dies_while_the_next_waits_for_a_drain_is_replaced_at_once() {
    let Some(mut world) = world(&ENDLESS, "lingers-1") else { return };
    let (first, second) = draining(&mut world);
    world.kill_agent();
    let before = world.agent.log().matches(WAITS).count();
    world.agent.start();
    world.agent.wait("the next waits", |a| (a.log().matches(WAITS).count() > before).then_some(()));
    world.kill_server(second);
    world.wait_key("good-2");
    world.agent.wait_state("app", "healthy");
    assert!(!world.noted(first, "END"), "{}", world.notes());
    world.finish();
    world.wait_servers(1);
}

#[test]
fn what_drains_when_the_agent_is_killed_is_killed_when_its_time_is_over() {
    let Some(mut world) = world(&Settings { drain: "3s", ..USUAL }, "lingers-1") else { return };
    let (first, _) = draining(&mut world);
    world.kill_agent();
    world.begin();
    world.wait_servers(1);
    world.wait_key("good-2");
    assert!(!world.noted(first, "END"), "{}", world.notes());
}

#[test]
fn what_alone_is_left_when_the_agent_is_killed_drains_beside_the_next_one() {
    let Some(mut world) = world(&ENDLESS, "lingers-1") else { return };
    world.configure(|text| text.replace("stop_timeout: 20s", "stop_timeout: 100ms"));
    let (first, second) = draining(&mut world);
    world.kill_agent();
    world.kill_server(second);
    world.begin();
    world.wait_key("good-2");
    world.wait_servers(2);
    assert!(!world.noted(first, "END"), "{}", world.notes());
    world.finish();
    world.wait_noted(first, "END");
    world.wait_servers(1);
}

#[test]
fn one_on_trial_is_ended_by_the_next_agent_and_the_one_that_served_is_not_told() {
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    world.begin();
    let first = world.wait_key("good-1");
    world.change("bad-2");
    world.wait_servers(2);
    world.kill_agent();
    // Its secret is gone again, so that nothing but the adoption happens.
    world.change("good-1");
    world.agent.start();
    world.wait_said("a process of an agent before serves until a new one can");
    assert!(!world.noted(first, "TERM"), "{}", world.notes());
    world.wait_other("good-1", first);
    world.wait_servers(1);
    world.agent.wait_state("app", "healthy");
}

#[test]
fn with_a_command_the_agent_does_not_end_with_one_on_trial_while_another_serves() {
    let Some(mut world) = world(&Settings { within: "1s", ..USUAL }, "good-1") else { return };
    world.configure(|text| text.replace("    settle:", "    on_unhealthy: hold\n    settle:"));
    let python = world.python.clone();
    world.agent.start_with(&["--log-level", "debug", "run", "--", &python, "server.py"]);
    world.agent.wait_state("app", "healthy");
    let first = world.wait_key("good-1");
    world.change("bad-2");
    world.agent.wait_state("app", "held");
    let notes = world.notes();
    let trial = notes.lines().find_map(|line| line.split_once(" START bad-2 ")).unwrap().0;
    world.kill_server(trial.parse().unwrap());
    world.agent.wait("another is tried", |a| (a.read("notes").matches(" START bad-2 ").count() == 2).then_some(()));
    assert_eq!(world.wait_key("good-1"), first);
}
