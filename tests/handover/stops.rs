//! The agent is told to stop in the middle of a handover.

use nix::sys::signal::Signal;

use crate::world::{Settings, USUAL, world};

#[test]
fn a_stop_does_not_start_the_one_that_waits_for_a_drain() {
    let Some(mut world) = world(&Settings { drain: "1h", ..USUAL }, "lingers-1") else { return };
    world.configure(|text| text.replace("stop_timeout: 20s", "stop_timeout: 1s"));
    world.begin();
    world.wait_key("lingers-1");
    world.change("exits7-2");
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.wait_key("exits7-2");
    world.change("good-3");
    world.wait_said("the next process waits until the one before has drained");
    assert_eq!(world.agent.stop().code(), Some(7), "that of the process that served");
    assert_eq!(world.servers(), Vec::<i32>::new());
    assert_eq!(world.starts("good-3"), 0, "{}", world.notes());
}

#[test]
fn a_stop_answers_the_code_of_the_process_that_serves_not_of_the_one_on_trial() {
    for (serves, tried, code) in [("exits7-1", "bad-2", 7), ("good-1", "bad-exits7-2", 0)] {
        let Some(mut world) = world(&USUAL, serves) else { return };
        world.begin();
        world.change(tried);
        world.wait_servers(2);
        let key = tried.to_owned();
        world.agent.wait("it is on trial", |a| a.read("notes").contains(&format!(" START {key} ")).then_some(()));
        assert_eq!(world.agent.stop().code(), Some(code), "{serves} {tried}");
        assert_eq!(world.servers(), Vec::<i32>::new());
    }
}

#[test]
fn a_stop_while_one_on_trial_is_being_ended_tells_all_at_once() {
    let Some(mut world) = world(&Settings { within: "1s", ..USUAL }, "good-1") else { return };
    // Whoever waited for the one on trial first would wait for ever.
    world.configure(|text| text.replace("stop_timeout: 20s", "stop_timeout: 1h"));
    world.begin();
    let first = world.wait_key("good-1");
    world.change("bad-lingers-2");
    let trial = world.agent.wait("it is told to end", |a| {
        let notes = a.read("notes");
        let told = notes.lines().find(|line| line.ends_with(" TERM bad-lingers-2"))?;
        told.split(' ').next()?.parse::<i64>().ok()
    });
    world.agent.signal(Signal::SIGTERM);
    world.wait_noted(first, "END");
    assert!(!world.noted(trial, "END"), "{}", world.notes());
    world.finish();
    assert!(world.agent.end().success());
    assert_eq!(world.servers(), Vec::<i32>::new());
}
